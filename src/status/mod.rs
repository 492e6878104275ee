//! What the daemon says about itself and what it can be asked: one set of types and one table of methods, for the
//! control socket, `--json` and ubus.
//!
//! Sizes and totals are bytes, rates bytes a second, durations seconds, times of day Unix seconds (null while the
//! clock is plainly unset). Replies are cut to [`MAX_LINE`]: a list that is longer comes in parts. Holds nothing; a
//! snapshot lives as long as its reply is encoded.

use std::fmt::{self, Display};

use serde::{Deserialize, Serialize};

use crate::metainfo::InfoHash;
pub use crate::torrent::State;

pub mod io;

/// Bytes of a request or a reply: a part of the list of torrents, and no burden to a router.
pub const MAX_LINE: usize = 64 * 1024;

/// Torrents or refused files in one reply, at most.
pub const MAX_LIST: u32 = 64;

/// Nobody waits for longer than a year: it is not told.
const FOREVER: u64 = 365 * 86_400;

/// The methods and what they take.
pub const METHODS: [(&str, &[&str]); 10] = [
    ("status", &[]),
    ("list", &["offset", "limit"]),
    ("torrent", &["info_hash"]),
    ("peers", &["info_hash"]),
    ("refused", &["offset", "limit"]),
    ("rescan", &[]),
    ("reload", &[]),
    ("verify", &["info_hash"]),
    ("pause", &["info_hash"]),
    ("resume", &["info_hash"]),
];

/// A method with its arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// The daemon as a whole.
    Status,
    /// Torrents, in the order of their info-hashes.
    List(Part),
    /// One torrent.
    Torrent(InfoHash),
    /// Its peers.
    Peers(InfoHash),
    /// The files that are not taken.
    Refused(Part),
    /// Look at the watched directories now.
    Rescan,
    /// Read the configuration again, as SIGHUP does.
    Reload,
    /// Check a torrent's data from scratch.
    Verify(InfoHash),
    /// Stop serving a torrent, also after a restart.
    Pause(InfoHash),
    /// The end of a pause, and of waiting for data.
    Resume(InfoHash),
}

/// Which part of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Entries left out before it.
    pub offset: u32,
    /// Entries, 1 to [`MAX_LIST`].
    pub limit: u32,
}

/// Arguments by name, as they come in.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// 40 hexadecimal digits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub info_hash: Option<String>,
    /// Default 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offset: Option<u32>,
    /// Default and most: [`MAX_LIST`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
}

/// Why a method was not done. `Display` is the text of the reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// The line is no request.
    Syntax(String),
    /// No such method.
    Method(String),
    /// An argument is missing, wrong or not known (ubus: INVALID_ARGUMENT).
    Argument(String),
    /// No torrent has that info-hash (ubus: NOT_FOUND).
    Unknown(InfoHash),
    /// The daemon tried, or cannot now.
    Failed(String),
}

/// What a method returns: always an object.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Reply {
    /// To `status`.
    Status(Box<Status>),
    /// To `list`.
    List(List),
    /// To `torrent`.
    Torrent(Box<TorrentStatus>),
    /// To `peers`.
    Peers(Peers),
    /// To `refused`.
    Refused(RefusedFiles),
    /// To those that do something: an empty object.
    Done {},
}

/// The daemon as a whole.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Of the program.
    pub version: String,
    /// Since its start, seconds.
    pub uptime: u64,
    /// The watched directories.
    pub watched: Vec<String>,
    /// Where peers reach it, `address:port`.
    pub listen: Vec<String>,
    /// Interfaces on which neighbours are told and heard.
    pub lpd_interfaces: Vec<String>,
    /// Our node of the DHT; null where it is turned off.
    pub dht: Option<DhtStatus>,
    /// Torrents by state.
    pub torrents: Counts,
    /// .torrent and .magnet files that are not taken.
    pub refused: u32,
    /// Connections that passed the handshake.
    pub peers: u32,
    /// Bytes of content a second.
    pub up_rate: u64,
    /// Bytes of content a second.
    pub down_rate: u64,
    /// Since the start, bytes.
    pub up_total: u64,
    /// Since the start, bytes.
    pub down_total: u64,
    /// Of the torrents that are not complete yet and being worked on.
    pub progress: Progress,
    /// Resident, bytes.
    pub memory: u64,
    /// Of the whole daemon or any torrent, until it is over.
    pub last_error: Option<String>,
}

/// The node of the DHT.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DhtStatus {
    /// Other nodes that have answered lately.
    pub nodes: u32,
    /// All that are known.
    pub known: u32,
    /// Searches that are under way.
    pub searches: u32,
    /// Peers that others have told it of.
    pub stored: u32,
}

/// Number of torrents in each state.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "named like the states")]
pub struct Counts {
    pub queued: u32,
    pub checking: u32,
    pub fetching_metadata: u32,
    pub downloading: u32,
    pub seeding: u32,
    pub incomplete: u32,
    pub waiting_for_disk: u32,
    pub waiting_for_data: u32,
    pub paused: u32,
    pub error: u32,
}

/// How far the torrents are, all together, that wait for their check, are checked or fetched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Bytes in all.
    pub size: u64,
    /// Bytes of verified pieces.
    pub have: u64,
    /// Until the last of those that are fetched is complete, seconds, by the present rate.
    pub eta: Option<u64>,
}

/// One torrent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TorrentStatus {
    /// 40 hexadecimal digits.
    #[serde(with = "hex")]
    pub info_hash: InfoHash,
    /// `info.name`.
    pub name: String,
    /// Path of its .torrent, or of its .magnet while there is none.
    pub file: String,
    /// Path of its content.
    pub data: String,
    /// What it does.
    pub state: State,
    /// Why, where the state does not say it all.
    pub reason: Option<String>,
    /// Bytes in all.
    pub size: u64,
    /// Bytes of verified pieces.
    pub have: u64,
    /// While it is checked: bytes read of those to be read.
    pub checked: Option<u64>,
    /// While it is fetched: until it is complete, seconds, by the present rate; null where that says nothing.
    pub eta: Option<u64>,
    /// Bytes of content a second.
    pub up_rate: u64,
    /// Bytes of content a second.
    pub down_rate: u64,
    /// Since it was added, bytes.
    pub up_total: u64,
    /// Since it was added, bytes.
    pub down_total: u64,
    /// Connections.
    pub peers: u32,
    /// In the order they are asked.
    pub trackers: Vec<TrackerStatus>,
    /// While it is fetched: web servers that have its content.
    pub web_seeds: Vec<WebSeedStatus>,
    /// When it was first seen.
    pub added: Option<u64>,
    /// When its last piece came; null where it was whole when added.
    pub completed: Option<u64>,
}

/// One tracker of a torrent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrackerStatus {
    /// Its announce URL.
    pub url: String,
    /// A word or two.
    pub state: String,
    /// Until the next announce, seconds.
    pub next_announce: Option<u64>,
    /// Peers that have all of it, by what the tracker said last; null where it says nothing.
    pub seeds: Option<u32>,
    /// Those that do not.
    pub leechers: Option<u32>,
    /// How often it was downloaded to its end.
    pub downloads: Option<u32>,
    /// The last failure or warning.
    pub message: Option<String>,
}

/// One web seed of a torrent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WebSeedStatus {
    /// As the torrent names it.
    pub url: String,
    /// A word or two.
    pub state: String,
    /// Until it is asked again, seconds.
    pub next_request: Option<u64>,
    /// The last failure.
    pub message: Option<String>,
}

/// One peer of a torrent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerStatus {
    /// `address:port`.
    pub address: String,
    /// As it calls itself, or by its peer id.
    pub client: String,
    /// It connected to us.
    pub incoming: bool,
    /// Of our own links or the prefixes listed in `local`.
    pub local: bool,
    /// It wants something that we have.
    pub interested: bool,
    /// It has an upload slot.
    pub unchoked: bool,
    /// It has something that we want.
    pub interesting: bool,
    /// It gives us nothing for now.
    pub choking: bool,
    /// Since the handshake, seconds.
    pub connected: u64,
    /// Bytes of content a second, to it.
    pub up_rate: u64,
    /// Bytes of content a second, from it.
    pub down_rate: u64,
    /// Bytes of content, to it.
    pub up_total: u64,
    /// Bytes of content, from it.
    pub down_total: u64,
}

/// A .torrent or .magnet file that is not taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// Its path.
    pub file: String,
    /// Why.
    pub reason: String,
}

/// A part of the list of torrents.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct List {
    /// Torrents in all.
    pub total: u32,
    /// Those left out before.
    pub offset: u32,
    /// At most as many as asked for, and as fit a reply.
    pub torrents: Vec<TorrentStatus>,
}

/// The peers of a torrent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peers {
    /// In all.
    pub total: u32,
    /// As many as fit a reply.
    pub peers: Vec<PeerStatus>,
}

/// A part of the list of refused files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusedFiles {
    /// Files in all.
    pub total: u32,
    /// Those left out before.
    pub offset: u32,
    /// At most as many as asked for, and as fit a reply.
    pub refused: Vec<Refused>,
}

/// A line to the control socket.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Request {
    method: String,
    #[serde(default)]
    params: Option<Params>,
}

/// A line from it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Answer<T> {
    Result(T),
    Error(String),
}

impl Method {
    /// By its name and arguments, all of them checked.
    pub fn new(name: &str, params: &Params) -> Result<Method, Error> {
        let (name, takes) = *METHODS.iter().find(|(known, _)| *known == name).ok_or_else(|| {
            let known: Vec<&str> = METHODS.iter().map(|(name, _)| *name).collect();
            let name: String = name.chars().take(64).collect();
            Error::Method(format!("unknown method {name:?}; known are {}", known.join(", ")))
        })?;
        for (argument, given) in [
            ("info_hash", params.info_hash.is_some()),
            ("offset", params.offset.is_some()),
            ("limit", params.limit.is_some()),
        ] {
            if given && !takes.contains(&argument) {
                return Err(Error::Argument(format!("{name} takes no {argument}")));
            }
        }
        let info_hash = || match &params.info_hash {
            None => Err(Error::Argument(format!("{name} needs an info_hash"))),
            Some(text) => text.parse().map_err(|right| Error::Argument(format!("info_hash: {right}"))),
        };
        let part = || match params.limit {
            Some(0) => Err(Error::Argument("limit: at least 1".to_owned())),
            limit => Ok(Part {
                offset: params.offset.unwrap_or(0),
                limit: limit.unwrap_or(MAX_LIST).min(MAX_LIST),
            }),
        };
        Ok(match name {
            "list" => Method::List(part()?),
            "torrent" => Method::Torrent(info_hash()?),
            "peers" => Method::Peers(info_hash()?),
            "refused" => Method::Refused(part()?),
            "rescan" => Method::Rescan,
            "reload" => Method::Reload,
            "verify" => Method::Verify(info_hash()?),
            "pause" => Method::Pause(info_hash()?),
            "resume" => Method::Resume(info_hash()?),
            _ => Method::Status,
        })
    }

    /// From a line of the control socket.
    pub fn decode(line: &[u8]) -> Result<Method, Error> {
        let request: Request = serde_json::from_slice(line).map_err(|error| {
            let right = r#"{"method": "status"} or {"method": "torrent", "params": {"info_hash": "…"}}"#;
            Error::Syntax(format!("{error}; a request is one line such as {right}"))
        })?;
        Method::new(&request.method, &request.params.unwrap_or_default())
    }

    /// As a line for the control socket.
    pub fn encode(&self) -> Vec<u8> {
        let mut params = Params::default();
        let name = match self {
            Method::Status => "status",
            Method::List(_) => "list",
            Method::Torrent(_) => "torrent",
            Method::Peers(_) => "peers",
            Method::Refused(_) => "refused",
            Method::Rescan => "rescan",
            Method::Reload => "reload",
            Method::Verify(_) => "verify",
            Method::Pause(_) => "pause",
            Method::Resume(_) => "resume",
        };
        match self {
            Method::List(part) | Method::Refused(part) => {
                params.offset = Some(part.offset);
                params.limit = Some(part.limit);
            }
            Method::Torrent(hash)
            | Method::Peers(hash)
            | Method::Verify(hash)
            | Method::Pause(hash)
            | Method::Resume(hash) => params.info_hash = Some(hash.to_string()),
            Method::Status | Method::Rescan | Method::Reload => {}
        }
        line(&Request { method: name.to_owned(), params: Some(params) })
    }
}

impl Reply {
    /// As a line of the control socket, in [`MAX_LINE`]: a list is cut to what fits, but never to nothing.
    pub fn encode(result: Result<Reply, Error>) -> Vec<u8> {
        let mut reply = match result {
            Ok(reply) => reply,
            Err(error) => return line(&Answer::<()>::Error(error.to_string())),
        };
        loop {
            let text = line(&Answer::Result(&reply));
            if text.len() <= MAX_LINE || !reply.halve() {
                return text;
            }
        }
    }

    /// Leaves out the second half of a list; false where there is none.
    fn halve(&mut self) -> bool {
        fn cut<T>(items: &mut Vec<T>) -> bool {
            let half = items.len() / 2;
            items.truncate(half.max(1));
            half > 0
        }
        match self {
            Reply::List(list) => cut(&mut list.torrents),
            Reply::Peers(list) => cut(&mut list.peers),
            Reply::Refused(list) => cut(&mut list.refused),
            Reply::Status(_) | Reply::Torrent(_) | Reply::Done {} => false,
        }
    }
}

impl State {
    /// In words.
    pub fn words(self) -> &'static str {
        match self {
            State::Queued => "queued",
            State::Checking => "checking",
            State::FetchingMetadata => "fetching metadata",
            State::Downloading => "downloading",
            State::Seeding => "seeding",
            State::Incomplete => "incomplete",
            State::WaitingForDisk => "waiting for disk",
            State::WaitingForData => "waiting for data",
            State::Paused => "paused",
            State::Error => "error",
        }
    }
}

impl Counts {
    /// One more torrent.
    pub fn insert(&mut self, state: State) {
        *match state {
            State::Queued => &mut self.queued,
            State::Checking => &mut self.checking,
            State::FetchingMetadata => &mut self.fetching_metadata,
            State::Downloading => &mut self.downloading,
            State::Seeding => &mut self.seeding,
            State::Incomplete => &mut self.incomplete,
            State::WaitingForDisk => &mut self.waiting_for_disk,
            State::WaitingForData => &mut self.waiting_for_data,
            State::Paused => &mut self.paused,
            State::Error => &mut self.error,
        } += 1;
    }

    /// Each state with its number, the good ones first.
    pub fn iter(&self) -> impl Iterator<Item = (State, u32)> {
        [
            (State::Seeding, self.seeding),
            (State::Downloading, self.downloading),
            (State::FetchingMetadata, self.fetching_metadata),
            (State::Checking, self.checking),
            (State::Queued, self.queued),
            (State::Incomplete, self.incomplete),
            (State::WaitingForDisk, self.waiting_for_disk),
            (State::WaitingForData, self.waiting_for_data),
            (State::Paused, self.paused),
            (State::Error, self.error),
        ]
        .into_iter()
    }

    /// Torrents in all.
    pub fn total(&self) -> u32 {
        self.iter().map(|(_, count)| count).sum()
    }
}

/// Seconds until `left` bytes have come at `rate` bytes a second; `None` where nothing comes, or next to nothing.
pub fn eta(left: u64, rate: u64) -> Option<u64> {
    (rate > 0).then(|| left.div_ceil(rate)).filter(|&seconds| seconds <= FOREVER)
}

impl Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Syntax(text) | Error::Method(text) | Error::Argument(text) | Error::Failed(text) => {
                f.write_str(text)
            }
            Error::Unknown(info_hash) => write!(f, "no torrent has the info-hash {info_hash}"),
        }
    }
}

impl std::error::Error for Error {}

/// A line with its end.
fn line(value: &impl Serialize) -> Vec<u8> {
    // These types have no map keys that are no strings and no floating point: it cannot fail.
    let mut text = serde_json::to_vec(value).unwrap_or_default();
    text.push(b'\n');
    text
}

/// An info-hash as JSON has it.
mod hex {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    use crate::metainfo::InfoHash;

    pub fn serialize<S: Serializer>(info_hash: &InfoHash, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(info_hash)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<InfoHash, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "00112233445566778899aabbccddeeff00112233";

    fn torrent(name: &str) -> TorrentStatus {
        TorrentStatus {
            info_hash: HASH.parse().unwrap(),
            name: name.to_owned(),
            file: "/etc/torrents/a.torrent".to_owned(),
            data: "/srv/torrents/a".to_owned(),
            state: State::WaitingForDisk,
            reason: Some("no disk".to_owned()),
            size: u64::MAX,
            have: 1,
            checked: None,
            eta: Some(9),
            up_rate: 2,
            down_rate: 3,
            up_total: 4,
            down_total: 5,
            peers: 6,
            trackers: vec![TrackerStatus {
                url: "http://t/announce".to_owned(),
                state: "working".to_owned(),
                next_announce: Some(7),
                seeds: Some(3),
                leechers: Some(2),
                downloads: None,
                message: None,
            }],
            web_seeds: vec![WebSeedStatus {
                url: "http://w/".to_owned(),
                state: "rests".to_owned(),
                next_request: Some(60),
                message: Some("503".to_owned()),
            }],
            added: None,
            completed: Some(8),
        }
    }

    fn text(line: Vec<u8>) -> String {
        String::from_utf8(line).unwrap()
    }

    fn refused(line: &str) -> String {
        Method::decode(line.as_bytes()).unwrap_err().to_string()
    }

    #[test]
    fn every_method_of_the_table_is_encoded_and_decoded() {
        let hash: InfoHash = HASH.parse().unwrap();
        let part = Part { offset: 3, limit: 4 };
        let methods = [
            Method::Status,
            Method::List(part),
            Method::Torrent(hash),
            Method::Peers(hash),
            Method::Refused(part),
            Method::Rescan,
            Method::Reload,
            Method::Verify(hash),
            Method::Pause(hash),
            Method::Resume(hash),
        ];
        for (method, (name, _)) in methods.iter().zip(METHODS) {
            let line = method.encode();
            assert_eq!(Method::decode(&line), Ok(*method));
            assert!(text(line).starts_with(&format!(r#"{{"method":"{name}","params":{{"#)));
        }
    }

    #[test]
    fn parameters_may_be_left_out_and_a_part_is_bounded() {
        assert_eq!(Method::decode(br#"{"method": "status"}"#), Ok(Method::Status));
        assert_eq!(Method::decode(br#"{"method": "status", "params": null}"#), Ok(Method::Status));
        let all = Part { offset: 0, limit: MAX_LIST };
        assert_eq!(Method::decode(br#"{"method": "list"}"#), Ok(Method::List(all)));
        let line = br#"{"method": "refused", "params": {"limit": 4000000000}}"#;
        assert_eq!(Method::decode(line), Ok(Method::Refused(all)));
    }

    #[test]
    fn a_wrong_request_is_told_what_would_be_right() {
        assert!(
            refused(r#"{"method": "stop"}"#).starts_with("unknown method \"stop\"; known are status, list, ")
        );
        assert_eq!(refused(r#"{"method": "torrent"}"#), "torrent needs an info_hash");
        assert_eq!(
            refused(r#"{"method": "pause", "params": {"info_hash": "12"}}"#),
            "info_hash: an info-hash is 40 hexadecimal digits"
        );
        assert_eq!(refused(r#"{"method": "status", "params": {"limit": 1}}"#), "status takes no limit");
        assert_eq!(refused(r#"{"method": "list", "params": {"limit": 0}}"#), "limit: at least 1");
        for line in [
            "",
            "status",
            "[]",
            "{}",
            r#"{"method": 1}"#,
            r#"{"method": "list", "params": {"limit": -1}}"#,
            r#"{"method": "list", "params": {"limit": "1"}}"#,
            r#"{"method": "list", "params": {"hash": "1"}}"#,
            r#"{"method": "list"} x"#,
            "\u{0}",
        ] {
            assert!(refused(line).contains("a request is one line such as"), "{line}");
        }
        assert!(Method::decode(&[0xff; 100]).is_err());
        assert!(Method::decode("[".repeat(MAX_LINE).as_bytes()).is_err());
        assert!(refused(&format!(r#"{{"method": "{}"}}"#, "x".repeat(5000))).len() < 300);
    }

    #[test]
    fn replies_are_objects_with_the_names_of_the_contract() {
        let reply = text(Reply::encode(Ok(Reply::Torrent(Box::new(torrent("a"))))));
        assert_eq!(
            reply,
            concat!(
                r#"{"result":{"info_hash":"00112233445566778899aabbccddeeff00112233","name":"a","#,
                r#""file":"/etc/torrents/a.torrent","data":"/srv/torrents/a","state":"waiting-for-disk","#,
                r#""reason":"no disk","size":18446744073709551615,"have":1,"checked":null,"eta":9,"up_rate":2,"#,
                r#""down_rate":3,"up_total":4,"down_total":5,"peers":6,"trackers":[{"url":"http://t/announce","#,
                r#""state":"working","next_announce":7,"seeds":3,"leechers":2,"downloads":null,"message":null}],"#,
                r#""web_seeds":[{"url":"http://w/","state":"rests","next_request":60,"message":"503"}],"#,
                r#""added":null,"completed":8}}"#,
                "\n"
            )
        );
        assert_eq!(text(Reply::encode(Ok(Reply::Done {}))), "{\"result\":{}}\n");
        let error = Error::Unknown(HASH.parse().unwrap());
        assert_eq!(
            text(Reply::encode(Err(error))),
            format!("{{\"error\":\"no torrent has the info-hash {HASH}\"}}\n")
        );
        let mut status = Status::default();
        status.torrents.insert(State::WaitingForData);
        let reply = text(Reply::encode(Ok(Reply::Status(Box::new(status)))));
        assert!(reply.contains(r#""waiting-for-data":1"#), "{reply}");
    }

    #[test]
    fn what_is_encoded_is_decoded_to_the_same() {
        let list = List { total: 9, offset: 7, torrents: vec![torrent("a\n\u{1b}\"ü"), torrent("b")] };
        let line = Reply::encode(Ok(Reply::List(list.clone())));
        assert!(
            matches!(serde_json::from_slice(&line), Ok(Answer::<List>::Result(decoded)) if decoded == list)
        );
        assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1);
    }

    #[test]
    fn a_list_that_does_not_fit_is_cut_but_never_to_nothing() {
        let torrents = vec![torrent(&"x".repeat(3000)); 64];
        let line = Reply::encode(Ok(Reply::List(List { total: 64, offset: 0, torrents })));
        assert!(line.len() <= MAX_LINE && line.len() > MAX_LINE / 3, "{}", line.len());
        let torrents = vec![torrent(&"x".repeat(100_000)); 2];
        let line = Reply::encode(Ok(Reply::List(List { total: 2, offset: 0, torrents })));
        let Ok(Answer::<List>::Result(list)) = serde_json::from_slice(&line) else { panic!() };
        assert_eq!(list.torrents.len(), 1);
    }

    #[test]
    fn counts_add_up() {
        let mut counts = Counts::default();
        for state in [State::Seeding, State::Seeding, State::Error] {
            counts.insert(state);
        }
        assert_eq!((counts.total(), counts.seeding, counts.error), (3, 2, 1));
        assert_eq!(counts.iter().count(), State::ALL.len());
    }

    #[test]
    fn the_time_left_is_told_where_something_comes_and_the_end_is_in_sight() {
        assert_eq!((eta(1000, 100), eta(1001, 100), eta(0, 100)), (Some(10), Some(11), Some(0)));
        assert_eq!((eta(1000, 0), eta(u64::MAX, 1), eta(u64::MAX, u64::MAX)), (None, None, Some(1)));
        assert_eq!((eta(FOREVER, 1), eta(FOREVER + 1, 1)), (Some(FOREVER), None));
    }
}

//! What the daemon says about itself and what it can be asked: one set of types and one table of methods, for the
//! control socket, `--json` and ubus.
//!
//! Sizes and totals are bytes, rates bytes a second, durations seconds, times of day Unix seconds (null while the
//! clock is plainly unset). The bus has no null: a field that would be is left out there. Replies are cut to
//! [`MAX_LINE`]: a list that is longer comes in parts. Holds nothing; a snapshot lives as long as its reply is encoded.

use std::fmt::{self, Display};
use std::net::SocketAddr;

use crate::metainfo::InfoHash;
pub use crate::torrent::State;
pub use value::Value;
use value::table;

pub mod io;
pub mod json;
pub mod value;

/// Bytes of a request or a reply: a part of the list of torrents, and no burden to a router.
pub const MAX_LINE: usize = 64 * 1024;

/// Torrents or refused files in one reply, at most.
pub const MAX_LIST: u32 = 64;

/// Nobody waits for longer than a year: it is not told.
const FOREVER: u64 = 365 * 86_400;

const TORRENT: &[(&str, Kind)] = &[("info_hash", Kind::Text)];
const PART: &[(&str, Kind)] = &[("offset", Kind::Number), ("limit", Kind::Number)];

/// The methods and what they take.
pub const METHODS: [(&str, &[(&str, Kind)]); 11] = [
    ("status", &[]),
    ("list", PART),
    ("torrent", TORRENT),
    ("peers", TORRENT),
    ("refused", PART),
    ("nodes", &[]),
    ("rescan", &[]),
    ("reload", &[]),
    ("verify", TORRENT),
    ("pause", TORRENT),
    ("resume", TORRENT),
];

/// What an argument is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A text.
    Text,
    /// A whole number of 32 bits, not below zero.
    Number,
}

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
    /// The nodes of the DHT that are known to be good.
    Nodes,
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
#[derive(Clone, Debug, PartialEq)]
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
    /// To `nodes`: the best first, of IPv4 and then of IPv6.
    Nodes(Vec<SocketAddr>),
    /// To those that do something: an empty object.
    Done,
}

/// The daemon as a whole.
#[derive(Clone, Debug, Default, PartialEq)]
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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
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
#[derive(Clone, Debug, Default, PartialEq, Eq)]
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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Bytes in all.
    pub size: u64,
    /// Bytes of verified pieces.
    pub have: u64,
    /// Until the last of those that are fetched is complete, seconds, by the present rate.
    pub eta: Option<u64>,
}

/// One torrent.
#[derive(Clone, Debug, PartialEq)]
pub struct TorrentStatus {
    /// 40 hexadecimal digits.
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
#[derive(Clone, Debug, PartialEq, Eq)]
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
#[derive(Clone, Debug, PartialEq, Eq)]
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
#[derive(Clone, Debug, PartialEq, Eq)]
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
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Its path.
    pub file: String,
    /// Why.
    pub reason: String,
}

/// A part of the list of torrents.
#[derive(Clone, Debug, PartialEq)]
pub struct List {
    /// Torrents in all.
    pub total: u32,
    /// Those left out before.
    pub offset: u32,
    /// At most as many as asked for, and as fit a reply.
    pub torrents: Vec<TorrentStatus>,
}

/// The peers of a torrent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peers {
    /// In all.
    pub total: u32,
    /// As many as fit a reply.
    pub peers: Vec<PeerStatus>,
}

/// A part of the list of refused files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedFiles {
    /// Files in all.
    pub total: u32,
    /// Those left out before.
    pub offset: u32,
    /// At most as many as asked for, and as fit a reply.
    pub refused: Vec<Refused>,
}

impl Method {
    /// By its name and a table of arguments, all of them checked; null is none.
    pub fn new(name: &str, arguments: &Value) -> Result<Method, Error> {
        let (name, takes) = *METHODS.iter().find(|(known, _)| *known == name).ok_or_else(|| {
            let known: Vec<&str> = METHODS.iter().map(|(name, _)| *name).collect();
            Error::Method(format!("unknown method \"{}\"; known are {}", cut(name), known.join(", ")))
        })?;
        let given = match arguments {
            Value::Table(given) => &given[..],
            Value::Null => &[],
            _ => return Err(Error::Argument("arguments have names".to_owned())),
        };
        for (i, (argument, value)) in given.iter().enumerate() {
            let Some((_, kind)) = takes.iter().find(|(known, _)| known == argument) else {
                return Err(Error::Argument(format!("{name} takes no {}", cut(argument))));
            };
            if !kind.is(value) {
                return Err(Error::Argument(format!("{argument}: expected {kind}")));
            }
            if given[..i].iter().any(|(before, _)| before == argument) {
                return Err(Error::Argument(format!("{argument} is given twice")));
            }
        }
        let info_hash = || match arguments.field("info_hash") {
            Value::Text(text) => text.parse().map_err(|right| Error::Argument(format!("info_hash: {right}"))),
            _ => Err(Error::Argument(format!("{name} needs an info_hash"))),
        };
        let number =
            |name| arguments.field(name).known_number().and_then(|number| u32::try_from(number).ok());
        let part = || match number("limit") {
            Some(0) => Err(Error::Argument("limit: at least 1".to_owned())),
            limit => Ok(Part {
                offset: number("offset").unwrap_or(0),
                limit: limit.unwrap_or(MAX_LIST).min(MAX_LIST),
            }),
        };
        let of_torrent = match name {
            "torrent" => Method::Torrent,
            "peers" => Method::Peers,
            "verify" => Method::Verify,
            "pause" => Method::Pause,
            "resume" => Method::Resume,
            "list" => return part().map(Method::List),
            "refused" => return part().map(Method::Refused),
            "nodes" => return Ok(Method::Nodes),
            "rescan" => return Ok(Method::Rescan),
            "reload" => return Ok(Method::Reload),
            _ => return Ok(Method::Status),
        };
        info_hash().map(of_torrent)
    }

    /// From a line of the control socket.
    pub fn decode(line: &[u8]) -> Result<Method, Error> {
        let wrong = |what: &dyn Display| {
            let right = r#"{"method": "status"} or {"method": "torrent", "params": {"info_hash": "…"}}"#;
            Error::Syntax(format!("{what}; a request is one line such as {right}"))
        };
        let request = json::decode(line).map_err(|error| wrong(&error))?;
        let Value::Table(fields) = &request else { return Err(wrong(&"expected an object")) };
        if let Some((other, _)) = fields.iter().find(|(name, _)| !matches!(&**name, "method" | "params")) {
            return Err(wrong(&format_args!("unknown field \"{}\"", cut(other))));
        }
        match request.field("method") {
            Value::Text(name) => Method::new(name, request.field("params")),
            _ => Err(wrong(&"expected the name of a method")),
        }
    }

    /// As a line for the control socket.
    pub fn encode(&self) -> Vec<u8> {
        let name = match self {
            Method::Status => "status",
            Method::List(_) => "list",
            Method::Torrent(_) => "torrent",
            Method::Peers(_) => "peers",
            Method::Refused(_) => "refused",
            Method::Nodes => "nodes",
            Method::Rescan => "rescan",
            Method::Reload => "reload",
            Method::Verify(_) => "verify",
            Method::Pause(_) => "pause",
            Method::Resume(_) => "resume",
        };
        let params = match *self {
            Method::List(part) | Method::Refused(part) => {
                Value::named(&["offset", "limit"], vec![part.offset.into(), part.limit.into()])
            }
            Method::Torrent(hash)
            | Method::Peers(hash)
            | Method::Verify(hash)
            | Method::Pause(hash)
            | Method::Resume(hash) => Value::named(&["info_hash"], vec![hash.into()]),
            Method::Status | Method::Nodes | Method::Rescan | Method::Reload => Value::Table(Vec::new()),
        };
        let request = Value::named(&["method", "params"], vec![name.into(), params]);
        json::line(&request).into_bytes()
    }
}

impl Kind {
    fn is(self, value: &Value) -> bool {
        match (self, value) {
            (_, Value::Null) | (Kind::Text, Value::Text(_)) => true,
            (Kind::Number, Value::Int(number)) => u32::try_from(*number).is_ok(),
            _ => false,
        }
    }
}

impl Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Kind::Text => f.write_str("a text"),
            Kind::Number => write!(f, "a whole number from 0 to {}", u32::MAX),
        }
    }
}

impl Reply {
    /// As a line of the control socket, in [`MAX_LINE`].
    pub fn encode(result: Result<Reply, Error>) -> Vec<u8> {
        let answer = |name: &str, value: &Value| {
            let mut text = format!("{{\"{name}\":");
            json::encode(value, &mut text);
            text.push_str("}\n");
            text.into_bytes()
        };
        match result {
            Ok(reply) => reply.fit(&|value| answer("result", value)),
            Err(error) => answer("error", &error.to_string().into()),
        }
    }

    /// What `encode` makes of it, in [`MAX_LINE`]: a list is cut to what fits, but never to nothing.
    pub fn fit(self, encode: &dyn Fn(&Value) -> Vec<u8>) -> Vec<u8> {
        let list = match self {
            Reply::List(_) => "torrents",
            Reply::Peers(_) => "peers",
            Reply::Refused(_) => "refused",
            Reply::Nodes(_) => "nodes",
            Reply::Status(_) | Reply::Torrent(_) | Reply::Done => "",
        };
        let mut value = Value::from(self);
        loop {
            let text = encode(&value);
            if text.len() <= MAX_LINE || !value.halve(list) {
                return text;
            }
        }
    }
}

impl Value {
    /// Leaves out the second half of a list in a table; false where there is none, or nothing to leave out.
    fn halve(&mut self, list: &str) -> bool {
        let Value::Table(fields) = self else { return false };
        let list = fields.iter_mut().find(|(name, _)| name == list);
        let Some((_, Value::List(items))) = list else { return false };
        let half = items.len() / 2;
        items.truncate(half.max(1));
        half > 0
    }
}

impl From<Reply> for Value {
    fn from(reply: Reply) -> Value {
        match reply {
            Reply::Status(status) => Value::from(*status),
            Reply::List(list) => list.into(),
            Reply::Torrent(torrent) => Value::from(*torrent),
            Reply::Peers(peers) => peers.into(),
            Reply::Refused(files) => files.into(),
            Reply::Nodes(nodes) => {
                let nodes = nodes.iter().map(|node| node.to_string().into()).collect();
                Value::named(&["nodes"], vec![Value::List(nodes)])
            }
            Reply::Done => Value::Table(Vec::new()),
        }
    }
}

table!(Status: version, uptime, watched, listen, lpd_interfaces, dht, torrents, refused, peers, up_rate, down_rate,
    up_total, down_total, progress, memory, last_error);
table!(DhtStatus: nodes, known, searches, stored);
table!(Progress: size, have, eta);
table!(TorrentStatus: info_hash, name, file, data, state, reason, size, have, checked, eta, up_rate, down_rate, up_total,
    down_total, peers, trackers, web_seeds, added, completed);
table!(TrackerStatus: url, state, next_announce, seeds, leechers, downloads, message);
table!(WebSeedStatus: url, state, next_request, message);
table!(PeerStatus: address, client, incoming, local, interested, unchoked, interesting, choking, connected, up_rate,
    down_rate, up_total, down_total);
table!(Refused: file, reason);
table!(List: total, offset, torrents);
table!(Peers: total, peers);
table!(RefusedFiles: total, offset, refused);

impl From<Counts> for Value {
    /// By the words of the states.
    fn from(mut counts: Counts) -> Value {
        let counts = State::ALL.map(|state| (state.name().into(), Value::from(*counts.of(state))));
        Value::Table(counts.into())
    }
}

impl Counts {
    /// One more torrent.
    pub fn insert(&mut self, state: State) {
        *self.of(state) += 1;
    }

    fn of(&mut self, state: State) -> &mut u32 {
        match state {
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
        }
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

/// A name from outside, as far as an answer quotes it.
fn cut(name: &str) -> String {
    name.chars().take(64).collect()
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
            Method::Nodes,
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
        assert_eq!(
            refused(r#"{"method": "list", "params": {"limit": -1}}"#),
            "limit: expected a whole number from 0 to 4294967295"
        );
        for (params, wrong) in [
            (r#"{"limit": "1"}"#, "limit: expected a whole number from 0 to 4294967295"),
            (r#"{"limit": 4294967296}"#, "limit: expected a whole number from 0 to 4294967295"),
            (r#"{"offset": true}"#, "offset: expected a whole number from 0 to 4294967295"),
            (r#"{"limit": 1, "limit": 2}"#, "limit is given twice"),
            (r#"{"hash": "1"}"#, "list takes no hash"),
            ("[]", "arguments have names"),
        ] {
            assert_eq!(refused(&format!(r#"{{"method": "list", "params": {params}}}"#)), wrong);
        }
        assert_eq!(
            refused(r#"{"method": "verify", "params": {"info_hash": 1}}"#),
            "info_hash: expected a text"
        );
        for line in [
            "",
            "status",
            "[]",
            "{}",
            r#"{"method": 1}"#,
            r#"{"method": "list", "parameters": {}}"#,
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
                r#""reason":"no disk","size":9223372036854775807,"have":1,"checked":null,"eta":9,"up_rate":2,"#,
                r#""down_rate":3,"up_total":4,"down_total":5,"peers":6,"trackers":[{"url":"http://t/announce","#,
                r#""state":"working","next_announce":7,"seeds":3,"leechers":2,"downloads":null,"message":null}],"#,
                r#""web_seeds":[{"url":"http://w/","state":"rests","next_request":60,"message":"503"}],"#,
                r#""added":null,"completed":8}}"#,
                "\n"
            )
        );
        assert_eq!(text(Reply::encode(Ok(Reply::Done))), "{\"result\":{}}\n");
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
    fn foreign_text_stays_in_its_line() {
        let list = List { total: 9, offset: 7, torrents: vec![torrent("a\n\u{1b}\"ü"), torrent("b")] };
        let line = Reply::encode(Ok(Reply::List(list.clone())));
        assert_eq!(json::decode(&line).unwrap().field("result"), &Value::from(list));
        assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1);
    }

    #[test]
    fn a_list_that_does_not_fit_is_cut_but_never_to_nothing() {
        let torrents = vec![torrent(&"x".repeat(3000)); 64];
        let line = Reply::encode(Ok(Reply::List(List { total: 64, offset: 0, torrents })));
        assert!(line.len() <= MAX_LINE && line.len() > MAX_LINE / 3, "{}", line.len());
        let torrents = vec![torrent(&"x".repeat(100_000)); 2];
        let line = Reply::encode(Ok(Reply::List(List { total: 2, offset: 0, torrents })));
        let reply = json::decode(&line).unwrap();
        assert_eq!(reply.field("result").field("torrents").list().len(), 1);
    }

    #[test]
    fn torrents_are_counted_by_their_state() {
        let mut counts = Counts::default();
        State::ALL.into_iter().chain([State::Seeding]).for_each(|state| counts.insert(state));
        let counts = Value::from(counts);
        let counts = State::ALL.map(|state| counts.field(state.name()).number());
        assert_eq!(counts, [1, 1, 1, 1, 2, 1, 1, 1, 1, 1]);
    }

    #[test]
    fn the_time_left_is_told_where_something_comes_and_the_end_is_in_sight() {
        assert_eq!((eta(1000, 100), eta(1001, 100), eta(0, 100)), (Some(10), Some(11), Some(0)));
        assert_eq!((eta(1000, 0), eta(u64::MAX, 1), eta(u64::MAX, u64::MAX)), (None, None, Some(1)));
        assert_eq!((eta(FOREVER, 1), eta(FOREVER + 1, 1)), (Some(FOREVER), None));
    }
}

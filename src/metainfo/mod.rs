//! What a .torrent says, checked once: whoever holds a [`Metainfo`] holds safe paths and lengths that agree.
//!
//! Read first: BEP 3 ("metainfo files"), then 12 (announce-list), 19 and 17 (web seeds), 5 (`nodes`), 27
//! (private), 47 (padding, attributes), 52 (hybrids). [`parse`] reads what the daemon serves; `survey`, which is the
//! maker's, every format with all it says. Omits creating the symbolic links of BEP 47. Holds names and lengths of the
//! files; the piece hashes stay in the .torrent, where [`Metainfo::hashes_at`] says.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use sha1::{Digest, Sha1};
use sha2::Sha256;

use crate::bencode::{self, Value, printable};
use crate::list::Gather;
use crate::piece::Lengths;
use info::{Info, Other};

mod info;
pub mod io;
pub mod magnet;
#[cfg(feature = "maker")]
pub mod maker;
#[cfg(feature = "maker")]
pub mod merkle;
pub mod path;
#[cfg(feature = "maker")]
pub mod survey;

/// Bytes of a .torrent: three times the largest seen, and what a router can hold for a moment.
pub const MAX_TORRENT: usize = 16 << 20;

/// Files of one torrent: a name costs about a hundred bytes while they are known.
pub const MAX_FILES: usize = 100_000;

/// Pieces of one torrent, libtorrent's bound: 40 MB of hashes would not fit [`MAX_TORRENT`] anyway.
pub const MAX_PIECES: u32 = 2_097_152;

/// Trackers, web seeds and nodes, of each kind: the longest honest lists have about a hundred.
const MAX_LIST: usize = 256;

/// DHT nodes of a [`Summary`]: one that answers leads to all others.
const SUMMARY_NODES: usize = 8;

/// Bytes of a URL that servers take.
const MAX_URL: usize = 2048;

/// Warnings about one file; a reader needs no more of them.
const MAX_WARNINGS: usize = 32;

/// The SHA-1 of an info dictionary's raw bytes: a torrent's name on the wire.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InfoHash([u8; 20]);

/// All of a .torrent but its hashes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metainfo {
    /// SHA-1 of the info dictionary.
    pub info_hash: InfoHash,
    /// SHA-256 of the info dictionary, where it is a hybrid.
    pub info_hash_v2: Option<[u8; 32]>,
    /// The file's or folder's name: one safe component.
    pub name: String,
    /// A folder of files and not one file.
    pub multi_file: bool,
    /// Total and piece length.
    pub lengths: Lengths,
    /// Offset in the .torrent of the first byte of `pieces`: 20 bytes a piece.
    pub hashes_at: u32,
    /// Where the info dictionary lies in the .torrent.
    pub info_at: Range<u32>,
    /// In the order of their bytes.
    pub files: Vec<File>,
    /// Peers from trackers alone.
    pub private: bool,
    /// Tiers of announce URLs; `announce` alone is one tier.
    pub trackers: Vec<Vec<String>>,
    /// BEP 19, http and https alone.
    pub web_seeds: Vec<String>,
    /// BEP 17.
    pub http_seeds: Vec<String>,
    /// DHT nodes, as host and port.
    pub nodes: Vec<(String, u16)>,
    /// What was passed over, for `show`.
    pub warnings: Vec<String>,
}

/// A file of a torrent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// Safe components below the torrent's folder, joined by `/`; empty for the file of a single-file torrent.
    pub path: String,
    /// Bytes.
    pub length: u64,
    /// Zeros that exist nowhere but in the pieces.
    pub pad: bool,
    /// `x` among its attributes.
    pub executable: bool,
}

/// What is kept of a torrent that is not being checked or served: neither files nor hashes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// As in [`Metainfo`], like all that follows.
    pub info_hash: InfoHash,
    /// One safe component.
    pub name: Box<str>,
    /// Total and piece length.
    pub lengths: Lengths,
    /// Offset of the piece hashes in the .torrent.
    pub hashes_at: u32,
    /// Where the info dictionary lies in the .torrent.
    pub info_at: Range<u32>,
    /// Peers from trackers alone.
    pub private: bool,
    /// A folder of files.
    pub multi_file: bool,
    /// Tiers of announce URLs.
    pub trackers: Vec<Vec<String>>,
    /// It names web seeds.
    pub web_seeded: bool,
    /// The first few of its DHT nodes; none of a private torrent, which may not be looked for there.
    pub nodes: Vec<(String, u16)>,
}

/// Why a .torrent is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// More than [`MAX_TORRENT`] bytes.
    Large,
    /// Not well-formed.
    Bencode(bencode::Error),
    /// Well-formed, and no dictionary.
    NoDictionary,
    /// No `info`, but the keys of a magnet link that was saved.
    Magnet,
    /// BEP 52 without the keys of BEP 3.
    V2Only,
    /// BEP 30: one hash for all pieces.
    Merkle,
    /// A key that must be there is not.
    Missing(&'static str),
    /// A key has a value that can not be.
    Key(String, String),
}

/// Reads a .torrent that is to be served: v1, or the v1 half of a hybrid.
pub fn parse(bytes: &[u8]) -> Result<Metainfo, Error> {
    read(bytes, None)
}

/// Reads a .torrent of a format that is served, or also of one that somebody else reads.
fn read<'a>(bytes: &'a [u8], other: Option<&mut dyn Other<'a>>) -> Result<Metainfo, Error> {
    let (mut outer, info) = Outer::read(whole(bytes)?)?;
    let entries = info.entries().ok_or_else(|| Error::key("info", "is no dictionary"))?;
    let inner = Info::read(entries, other, &mut outer.warnings)?;
    let within = |part: &[u8]| {
        let range = bencode::range_in(part, bytes)?;
        Some(u32::try_from(range.start).ok()?..u32::try_from(range.end).ok()?)
    };
    let info_at = within(info.raw()).ok_or(Error::Large)?;
    // Without them nothing of the torrent is served.
    let hashes_at = within(inner.pieces).map_or(0, |range| range.start);
    let (info_hash, info_hash_v2) = hashes(info, inner.v2, inner.pieces.is_empty());
    Ok(Metainfo {
        info_hash,
        info_hash_v2,
        name: inner.name,
        multi_file: inner.multi_file,
        lengths: inner.lengths,
        hashes_at,
        info_at,
        files: inner.files,
        private: inner.private,
        trackers: outer.trackers,
        web_seeds: outer.web_seeds,
        http_seeds: outer.http_seeds,
        nodes: outer.nodes,
        warnings: outer.warnings.0,
    })
}

/// All of a .torrent, which nothing but blanks may follow.
fn whole(bytes: &[u8]) -> Result<Value<'_>, Error> {
    if bytes.len() > MAX_TORRENT {
        return Err(Error::Large);
    }
    let (root, rest) = Value::parse_prefix(bytes)?;
    if !rest.iter().all(u8::is_ascii_whitespace) {
        return Err(bencode::Error::Trailing(root.raw().len()).into());
    }
    Ok(root)
}

/// The info-hashes of v1, which stands for v2 too, and of v2, where it has that half.
fn hashes(info: Value<'_>, v2: bool, v2_only: bool) -> (InfoHash, Option<[u8; 32]>) {
    let long: Option<[u8; 32]> = v2.then(|| Sha256::digest(info.raw()).into());
    let info_hash = match long.as_ref().and_then(|hash| hash.first_chunk()) {
        // What peers of a v2 torrent shake hands with.
        Some(short) if v2_only => InfoHash(*short),
        _ => InfoHash::of(info.raw()),
    };
    (info_hash, long)
}

impl Metainfo {
    /// What the session keeps.
    pub fn summary(&self) -> Summary {
        Summary {
            info_hash: self.info_hash,
            name: self.name.as_str().into(),
            lengths: self.lengths,
            hashes_at: self.hashes_at,
            info_at: self.info_at.clone(),
            private: self.private,
            multi_file: self.multi_file,
            trackers: self.trackers.clone(),
            web_seeded: !self.web_seeds.is_empty() || !self.http_seeds.is_empty(),
            nodes: self.nodes.iter().filter(|_| !self.private).take(SUMMARY_NODES).cloned().gather(),
        }
    }

    /// Where a file lies below the data root when the torrent keeps its own name.
    pub fn path_of(&self, file: &File) -> String {
        if self.multi_file { format!("{}/{}", self.name, file.path) } else { self.name.clone() }
    }
}

impl InfoHash {
    /// Of 20 bytes off the wire.
    pub fn from_bytes(bytes: [u8; 20]) -> InfoHash {
        InfoHash(bytes)
    }

    /// Of an info dictionary's raw bytes.
    pub fn of(info: &[u8]) -> InfoHash {
        InfoHash(Sha1::digest(info).into())
    }

    /// The 20 bytes.
    pub fn as_bytes(&self) -> &[u8; 20] {
        &self.0
    }
}

impl fmt::Display for InfoHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::LowerHex::fmt(self, f)
    }
}

impl fmt::Debug for InfoHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::LowerHex::fmt(self, f)
    }
}

impl fmt::LowerHex for InfoHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Of 40 hexadecimal digits.
impl FromStr for InfoHash {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<InfoHash, &'static str> {
        unhex(text.as_bytes()).map(InfoHash).ok_or("an info-hash is 40 hexadecimal digits")
    }
}

impl Error {
    fn key(key: &str, why: &str) -> Error {
        Error::Key(key.into(), why.into())
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Large => write!(f, "it is larger than {} MiB", MAX_TORRENT >> 20),
            Error::Bencode(error) => write!(f, "not a whole bencoded file: {error}"),
            Error::NoDictionary => write!(f, "it holds no dictionary"),
            Error::Magnet => write!(f, "`info` is missing: this is a saved magnet link, not a torrent"),
            Error::V2Only => write!(
                f,
                "`info.meta version` 2 without v1 keys: a v2-only torrent, which is not served; one made of the same \
                 content with --format hybrid is"
            ),
            Error::Merkle => write!(
                f,
                "`info.root hash` instead of `pieces`: a Merkle torrent (BEP 30), which is not served; one made of the \
                 same content with --format v1 is"
            ),
            Error::Missing(key) => write!(f, "`{key}` is missing"),
            Error::Key(key, why) => write!(f, "`{key}` {why}"),
        }
    }
}

impl std::error::Error for Error {}

impl From<bencode::Error> for Error {
    fn from(error: bencode::Error) -> Error {
        Error::Bencode(error)
    }
}

/// Lower-case hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Bytes of hexadecimal digits of either case.
fn unhex<const N: usize>(text: &[u8]) -> Option<[u8; N]> {
    let (pairs, []) = text.as_chunks::<2>() else { return None };
    let mut bytes = [0; N];
    if pairs.len() != N {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(pairs) {
        let digit = |c: u8| char::from(c).to_digit(16).and_then(|d| u8::try_from(d).ok());
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}

/// The keys outside `info`. Nothing in them refuses a torrent: what can not be used is a warning.
struct Outer {
    trackers: Vec<Vec<String>>,
    web_seeds: Vec<String>,
    http_seeds: Vec<String>,
    nodes: Vec<(String, u16)>,
    warnings: Warnings,
}

#[derive(Default)]
struct Warnings(Vec<String>);

impl Warnings {
    fn push(&mut self, key: &str, value: &[u8], why: &str) {
        if self.0.len() < MAX_WARNINGS {
            self.0.push(format!("`{key}`: {} {why}", printable(value)));
        }
    }
}

impl Outer {
    /// With `info`, which is read apart.
    fn read(root: Value<'_>) -> Result<(Outer, Value<'_>), Error> {
        let entries = root.entries().ok_or(Error::NoDictionary)?;
        let [info, magnet, announce, tiers, web_seeds, http_seeds, nodes] = entries.pick(&[
            "info",
            "magnet-info",
            "announce",
            "announce-list",
            "url-list",
            "httpseeds",
            "nodes",
        ]);
        let info = info.ok_or(if magnet.is_some() { Error::Magnet } else { Error::Missing("info") })?;
        let mut warnings = Warnings::default();
        let outer = Outer {
            http_seeds: seeds("httpseeds", http_seeds, &mut warnings),
            nodes: hosts(nodes, &mut warnings),
            web_seeds: seeds("url-list", web_seeds, &mut warnings),
            trackers: trackers(announce, tiers, &mut warnings),
            warnings,
        };
        Ok((outer, info))
    }
}

/// Tiers without empty ones, each URL once. BEP 12: `announce` counts only where there is no list.
fn trackers(
    announce: Option<Value<'_>>,
    tiers: Option<Value<'_>>,
    warnings: &mut Warnings,
) -> Vec<Vec<String>> {
    let mut seen = Vec::new();
    let mut take = |key, value: Value<'_>, warnings: &mut Warnings| -> Option<String> {
        let bytes = value.as_bytes().unwrap_or_default();
        if bytes.is_empty() || seen.len() >= MAX_LIST {
            return None;
        }
        match url(bytes) {
            Ok(url) if seen.contains(&url) => None,
            Ok(url) => {
                seen.push(url.clone());
                Some(url)
            }
            Err(why) => {
                warnings.push(key, bytes, why);
                None
            }
        }
    };
    let mut out: Vec<Vec<String>> = Vec::new();
    for tier in tiers.and_then(Value::items).into_iter().flatten() {
        // Some makers write the URLs without tiers: each is one.
        let urls: Vec<String> = match tier.items() {
            Some(urls) => urls.filter_map(|value| take("announce-list", value, warnings)).gather(),
            None => take("announce-list", tier, warnings).into_iter().collect(),
        };
        if !urls.is_empty() {
            out.push(urls);
        }
    }
    if out.is_empty() {
        out.extend(announce.and_then(|value| take("announce", value, warnings)).map(|url| vec![url]));
    }
    out
}

/// Web seeds: one string or a list of them.
fn seeds(key: &'static str, value: Option<Value<'_>>, warnings: &mut Warnings) -> Vec<String> {
    let mut out = Vec::new();
    for value in value.and_then(Value::items).into_iter().flatten().chain(value) {
        let Some(bytes) = value.as_bytes().filter(|bytes| !bytes.is_empty()) else { continue };
        match url(bytes) {
            Ok(url) if out.contains(&url) || out.len() >= MAX_LIST => {}
            Ok(url) if web(&url) => out.push(url),
            Ok(_) => warnings.push(key, bytes, "is neither http nor https: passed over"),
            Err(why) => warnings.push(key, bytes, why),
        }
    }
    out
}

fn hosts(value: Option<Value<'_>>, warnings: &mut Warnings) -> Vec<(String, u16)> {
    let mut out = Vec::new();
    for pair in value.and_then(Value::items).into_iter().flatten() {
        let mut items = pair.items().into_iter().flatten();
        let host = items.next().and_then(Value::as_str).filter(|host| is_host(host));
        let port = items.next().and_then(Value::as_int).and_then(|port| u16::try_from(port).ok());
        match (host, port) {
            (Some(host), Some(port)) if port != 0 => {
                if out.len() < MAX_LIST {
                    out.push((host.to_owned(), port));
                }
            }
            _ => warnings.push("nodes", pair.raw(), "is no host and port: passed over"),
        }
    }
    out
}

/// A name or address, as far as it can be told without asking.
pub(crate) fn is_host(host: &str) -> bool {
    !host.is_empty()
        && host.len() <= 253
        && host.bytes().all(|b| b.is_ascii_graphic() && !b"/@?#".contains(&b))
}

/// Whether a web seed can be fetched from it.
pub(crate) fn web(url: &str) -> bool {
    let scheme = url.split(':').next().unwrap_or_default();
    scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("https")
}

/// A URL that can be put into a request as it stands. Blanks around it are dropped, inside they refuse it.
pub(crate) fn url(bytes: &[u8]) -> Result<String, &'static str> {
    let text = std::str::from_utf8(bytes).map_err(|_| "is not UTF-8: passed over")?.trim_matches(' ');
    if text.len() > MAX_URL {
        return Err("is too long: passed over");
    }
    if text.chars().any(|c| c.is_control() || c.is_whitespace()) {
        return Err("has blanks or control characters in it: passed over");
    }
    match crate::http::split_scheme(text) {
        Some((scheme, rest))
            if !scheme.is_empty()
                && scheme.bytes().all(|b| b.is_ascii_alphanumeric())
                && !rest.is_empty()
                && !rest.starts_with('/') =>
        {
            Ok(text.to_owned())
        }
        _ => Err("is no URL: passed over"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INFO: &[u8] = b"d6:lengthi3e4:name1:n12:piece lengthi16384e6:pieces20:aaaaaaaaaaaaaaaaaaaae";

    /// A whole torrent: those entries before `info`, which sort where they like.
    fn with(outer: &[u8]) -> Metainfo {
        parse(&[b"d", outer, b"4:info", INFO, b"e"].concat()).unwrap()
    }

    fn trackers(outer: &str) -> Vec<Vec<String>> {
        with(outer.as_bytes()).trackers
    }

    #[test]
    fn the_hash_is_over_the_raw_bytes_and_the_piece_hashes_are_found() {
        let bytes = [b"d7:comment2:hi4:info", INFO, b"e"].concat();
        let torrent = parse(&bytes).unwrap();
        let at = |n: u32| usize::try_from(n).unwrap();
        assert_eq!(&bytes[at(torrent.info_at.start)..at(torrent.info_at.end)], INFO);
        assert_eq!(&bytes[at(torrent.hashes_at)..][..20], b"aaaaaaaaaaaaaaaaaaaa");
        assert_eq!(torrent.info_hash, InfoHash::of(INFO));
        assert_eq!(torrent.info_hash_v2, None);
        let unsorted = b"d6:lengthi3e12:piece lengthi16384e4:name1:n6:pieces20:aaaaaaaaaaaaaaaaaaaae";
        let hash = parse(&[b"d4:info", &unsorted[..], b"e"].concat()).unwrap().info_hash;
        assert_eq!(hash, InfoHash::of(unsorted));
        assert_ne!(hash, torrent.info_hash);
        let summary = torrent.summary();
        assert_eq!((summary.hashes_at, &*summary.name), (torrent.hashes_at, "n"));
    }

    #[test]
    fn tiers_are_kept_and_announce_counts_where_there_is_no_list() {
        assert_eq!(trackers("8:announce10:http://a/x"), [["http://a/x"]]);
        let list = "8:announce10:http://a/x13:announce-listll10:http://b/x10:http://c/xel10:http://b/xel9:udp://d:1ee";
        assert_eq!(trackers(list), [vec!["http://b/x", "http://c/x"], vec!["udp://d:1"]]);
        assert_eq!(trackers("8:announce10:http://a/x13:announce-listle"), [["http://a/x"]]);
        assert_eq!(trackers("8:announce10:http://a/x13:announce-listllelel0:ee"), [["http://a/x"]]);
        assert_eq!(trackers("8:announce10:http://a/x13:announce-listi1e"), [["http://a/x"]]);
        assert_eq!(
            trackers("13:announce-listl10:http://a/x10:http://b/xe"),
            [["http://a/x"], ["http://b/x"]]
        );
        assert_eq!(trackers("13:announce-listll12: http://a/x ee"), [["http://a/x"]]);
        assert!(trackers("8:announce0:").is_empty());
    }

    #[test]
    fn a_url_with_a_line_break_is_passed_over_with_a_warning_and_the_others_stay() {
        let torrent =
            with(b"8:url-listl13:http://a/b\r\nc9:http://b/10:http://c d9:https://e7:ftp://x3:/32e");
        assert_eq!(torrent.web_seeds, ["http://b/", "https://e"]);
        assert_eq!(torrent.warnings.len(), 4, "{:?}", torrent.warnings);
        assert!(torrent.warnings.iter().all(|w| w.contains("`url-list`") && !w.contains('\r')));
        assert_eq!(with(b"8:url-list9:http://b/").web_seeds, ["http://b/"]);
        assert!(with(b"8:url-list0:").warnings.is_empty());
        assert_eq!(with(b"9:httpseedsl9:http://b/e").http_seeds, ["http://b/"]);
        assert_eq!(trackers("13:announce-listll14:http://a/\nb/xx14:http://b/x?y=1ee"), [["http://b/x?y=1"]]);
    }

    #[test]
    fn nodes_are_hosts_with_ports() {
        let torrent = with(b"5:nodesll9:127.0.0.1i6881eel2:::i1eel1:ai0eel1:ai70000eel3:a bi1eeli1ei1eei5ee");
        assert_eq!(torrent.nodes, [("127.0.0.1".to_owned(), 6881), ("::".to_owned(), 1)]);
        assert_eq!(torrent.warnings.len(), 5, "{:?}", torrent.warnings);
    }

    #[test]
    fn private_counts_inside_info_alone() {
        assert!(!with(b"7:privatei1e").private);
        let inside = [&INFO[..INFO.len() - 1], b"7:privatei1ee"].concat();
        assert!(parse(&[b"d4:info", inside.as_slice(), b"e"].concat()).unwrap().private);
    }

    #[test]
    fn versions_that_are_not_read_yet_say_so() {
        let v2 =
            b"d4:infod9:file treed1:nd0:d6:lengthi1eeee12:meta versioni2e4:name1:n12:piece lengthi16384eee";
        assert_eq!(parse(v2), Err(Error::V2Only));
        assert!(parse(v2).unwrap_err().to_string().contains("v2-only"));
        assert_eq!(parse(b"d11:magnet-infodee"), Err(Error::Magnet));
        assert_eq!(parse(b"de"), Err(Error::Missing("info")));
        assert_eq!(parse(b"le"), Err(Error::NoDictionary));
        assert_eq!(parse(b"d4:infolee").unwrap_err().to_string(), "`info` is no dictionary");
        assert_eq!(parse(b""), Err(bencode::Error::Truncated.into()));
    }

    #[test]
    fn a_line_break_may_follow_and_nothing_else() {
        let bytes = [b"d4:info", INFO, b"e\r\n"].concat();
        assert!(parse(&bytes).is_ok());
        let bytes = [b"d4:info", INFO, b"ed4:infodee"].concat();
        assert!(matches!(parse(&bytes), Err(Error::Bencode(bencode::Error::Trailing(_)))));
    }

    #[test]
    fn warnings_are_bounded() {
        let bad = [b"8:url-listl".to_vec(), b"1:x".repeat(100_000), b"e".to_vec()].concat();
        assert_eq!(with(&bad).warnings.len(), MAX_WARNINGS);
    }

    #[test]
    fn an_info_hash_reads_as_it_prints() {
        let hash = InfoHash::of(b"");
        assert_eq!(hash.to_string(), "da39a3ee5e6b4b0d3255bfef95601890afd80709");
        assert_eq!("DA39A3EE5E6B4B0D3255BFEF95601890AFD80709".parse(), Ok(hash));
        for bad in [
            "",
            "da39",
            "ga39a3ee5e6b4b0d3255bfef95601890afd80709",
            "+a39a3ee5e6b4b0d3255bfef95601890afd80709",
        ] {
            assert!(bad.parse::<InfoHash>().is_err(), "{bad}");
        }
    }

    #[test]
    fn no_truncation_or_mutation_panics() {
        let sample = [
            &b"d8:announce10:http://a/x13:announce-listll9:udp://b:1ee7:comment1:c5:nodesll1:hi1eee8:url-list8:http://w4:info"[..],
            b"d5:filesld4:attr1:x6:lengthi2e4:pathl1:d1:feed6:lengthi1e4:pathl2:\xc3\xa4e10:path.utf-8l1:aeee4:name1:n",
            b"12:piece lengthi2e6:pieces40:aaaaaaaaaaaaaaaaaaaabbbbbbbbbbbbbbbbbbbb7:privatei1eee",
        ]
        .concat();
        assert_eq!(parse(&sample).unwrap().files.len(), 2);
        for end in 0..sample.len() {
            assert!(parse(&sample[..end]).is_err(), "{end}");
        }
        let mut bytes = sample.clone();
        for at in 0..sample.len() {
            for byte in 0..=255 {
                bytes[at] = byte;
                if let Ok(torrent) = parse(&bytes) {
                    let safe = |path: &str| path.split('/').all(|name| !matches!(name, "" | "." | ".."));
                    assert!(
                        safe(&torrent.name) && torrent.files.iter().all(|file| safe(&file.path)),
                        "{at} {byte}"
                    );
                }
            }
            bytes[at] = sample[at];
        }
    }
}

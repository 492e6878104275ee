//! Makes torrents: from names and lengths to the order of files and the piece length, and with the hashes to bytes.
//!
//! Read first: BEP 3, 12, 19, 5 (`nodes`), 27. The same content gives the same info-hash on every host: names are
//! sorted by their raw bytes, and nothing of the file system but names and lengths goes into `info`. Omits hybrid,
//! v2 and Merkle torrents, for which [`Format`] has the place. Holds the list of files and, once, the torrent.

use std::fmt;
use std::num::NonZeroU32;

use super::{MAX_FILES, MAX_TORRENT, path};
use crate::bencode::{DictWriter, Writer, printable};
use crate::piece::Lengths;

/// The smallest piece that is made: one request of BEP 3.
pub const MIN_PIECE: u32 = 16 * 1024;

/// The largest piece that is chosen: a router checks it in a second or so.
pub const MAX_PIECE: u32 = 16 << 20;

/// The largest piece that a user may ask for: libtorrent warns above it.
const MAX_ASKED_PIECE: u32 = 128 << 20;

/// A chosen piece length gives half of this to this many pieces, about 1500: hashes of 30 kB, and a piece that
/// fails costs a thousandth.
const MOST_PIECES: u64 = 2048;

/// Which hashes a torrent carries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// SHA-1 of pieces, BEP 3.
    #[default]
    V1,
}

/// What the user says beside the content.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Which hashes.
    pub format: Format,
    /// Tiers of announce URLs.
    pub trackers: Vec<Vec<String>>,
    /// BEP 19.
    pub web_seeds: Vec<String>,
    /// DHT nodes, as host and port.
    pub nodes: Vec<(String, u16)>,
    /// Peers from trackers alone.
    pub private: bool,
    /// Into `info`, so that the info-hash differs.
    pub source: Option<String>,
    /// Free text.
    pub comment: Option<String>,
    /// The program that makes it.
    pub created_by: Option<String>,
    /// Unix seconds.
    pub creation_date: Option<i64>,
    /// Bytes of a piece; chosen by the total where there is none.
    pub piece_length: Option<u32>,
    /// What is left out of a folder.
    pub exclude: Vec<Glob>,
}

/// A file that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Names below the folder; none for a file that is the torrent.
    pub names: Vec<String>,
    /// Bytes.
    pub length: u64,
    /// When it was written, in seconds and nanoseconds: whoever hashes it compares, it is never part of a torrent.
    pub modified: (i64, i64),
}

/// All of a torrent but the hashes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Of the file or folder.
    pub name: String,
    /// A folder of files.
    pub multi_file: bool,
    /// In the order in which they are hashed.
    pub files: Vec<Entry>,
    /// Total and piece length.
    pub lengths: Lengths,
}

/// Names that a user wants left out: `*` and `?` stop at `/`, `**` does not. Without a `/` it is compared with every
/// name of a path, else with the path below the folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Glob(String);

/// Why no torrent is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// No file, or none with a byte in it.
    Empty,
    /// A name that no torrent may hold.
    Name(String, path::Problem),
    /// Not a power of two, or out of bounds.
    PieceLength(u32),
    /// Too many files or bytes for the piece length.
    Large,
}

/// What mainline leaves out of a folder: leavings of systems and programs, and hidden names.
pub fn ignored(name: &[u8]) -> bool {
    name.starts_with(b".") || matches!(name, b"CVS" | b"core" | b"Thumbs.db" | b"desktop.ini")
}

/// The piece length for so many bytes.
pub fn piece_length(total: u64) -> u32 {
    let mut piece = MIN_PIECE;
    while piece < MAX_PIECE && total / u64::from(piece) > MOST_PIECES {
        piece *= 2;
    }
    piece
}

/// Puts what was found in order and decides how it is cut. A single entry without names is a single-file torrent.
pub fn plan(name: &str, mut files: Vec<Entry>, asked: Option<u32>) -> Result<Plan, Error> {
    let safe = |name: &str| match path::component(name.as_bytes()) {
        Ok(_) => Ok(()),
        Err(problem) => Err(Error::Name(printable(name.as_bytes()).into_owned(), problem)),
    };
    safe(name)?;
    files.iter().flat_map(|file| &file.names).try_for_each(|name| safe(name))?;
    // Vectors of strings compare by raw bytes, component after component.
    files.sort_unstable_by(|a, b| a.names.cmp(&b.names));
    let total = files.iter().try_fold(0u64, |sum, file| sum.checked_add(file.length)).ok_or(Error::Large)?;
    if total == 0 {
        return Err(Error::Empty);
    }
    let piece = asked.unwrap_or_else(|| piece_length(total));
    if !piece.is_power_of_two() || !(MIN_PIECE..=MAX_ASKED_PIECE).contains(&piece) {
        return Err(Error::PieceLength(piece));
    }
    let lengths = NonZeroU32::new(piece).and_then(|piece| Lengths::new(total, piece)).ok_or(Error::Large)?;
    let names: usize = files.iter().flat_map(|file| &file.names).map(|name| name.len() + 40).sum();
    let hashes = usize::try_from(lengths.piece_count()).ok().and_then(|n| n.checked_mul(20));
    // Room for trackers and comments beside it.
    if files.len() > MAX_FILES || hashes.is_none_or(|hashes| hashes + names > MAX_TORRENT - (256 << 10)) {
        return Err(Error::Large);
    }
    let multi_file = !files.iter().any(|file| file.names.is_empty());
    Ok(Plan { name: name.to_owned(), multi_file, files, lengths })
}

/// The .torrent. `pieces` holds 20 bytes a piece.
pub fn encode(plan: &Plan, options: &Options, pieces: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(pieces.len() + 1024);
    let urls: Vec<&String> = options.trackers.iter().flatten().collect();
    Writer::new(&mut out).dict(|d| {
        if let Some(first) = urls.first() {
            d.bytes("announce", first);
        }
        if urls.len() > 1 {
            d.list("announce-list", |tiers| {
                for tier in &options.trackers {
                    tiers.list(|urls| tier.iter().for_each(|url| urls.bytes(url)));
                }
            });
        }
        bytes_if(d, "comment", options.comment.as_ref());
        bytes_if(d, "created by", options.created_by.as_ref());
        if let Some(date) = options.creation_date {
            d.int("creation date", date);
        }
        d.dict("info", |info| encode_info(info, plan, options, pieces));
        if !options.nodes.is_empty() {
            d.list("nodes", |nodes| {
                for (host, port) in &options.nodes {
                    nodes.list(|node| {
                        node.bytes(host);
                        node.int(i64::from(*port));
                    });
                }
            });
        }
        match options.web_seeds.as_slice() {
            [] => {}
            // The oldest readers know the string alone.
            [one] => d.bytes("url-list", one),
            many => d.list("url-list", |urls| many.iter().for_each(|url| urls.bytes(url))),
        }
    });
    out
}

fn encode_info(info: &mut DictWriter<'_>, plan: &Plan, options: &Options, pieces: &[u8]) {
    // No length passes 63 bits: their sum is checked when pieces are counted.
    let int = |length: u64| i64::try_from(length).unwrap_or(i64::MAX);
    if plan.multi_file {
        info.list("files", |files| {
            for file in &plan.files {
                files.dict(|d| {
                    d.int("length", int(file.length));
                    d.list("path", |path| file.names.iter().for_each(|name| path.bytes(name)));
                });
            }
        });
    } else {
        info.int("length", int(plan.lengths.total()));
    }
    info.bytes("name", &plan.name);
    info.int("piece length", i64::from(plan.lengths.piece_length()));
    info.bytes("pieces", pieces);
    if options.private {
        info.int("private", 1);
    }
    bytes_if(info, "source", options.source.as_ref());
}

fn bytes_if(d: &mut DictWriter<'_>, key: &str, value: Option<&String>) {
    if let Some(value) = value {
        d.bytes(key, value);
    }
}

impl Glob {
    /// Of a pattern as the user writes it; a slash at its end, for a folder, is dropped.
    pub fn new(pattern: &str) -> Glob {
        Glob(pattern.trim_end_matches('/').to_owned())
    }

    /// Whether it leaves out this path below the folder (and, of a folder, all that it holds).
    pub fn matches(&self, path: &str) -> bool {
        let pattern = self.0.as_bytes();
        match self.0.strip_prefix('/') {
            Some(rooted) => glob(rooted.as_bytes(), path.as_bytes()),
            None if self.0.contains('/') => glob(pattern, path.as_bytes()),
            None => glob(pattern, path.rsplit('/').next().unwrap_or_default().as_bytes()),
        }
    }
}

/// Without recursion: the last star seen is where a failed comparison goes on.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    // Where to go on after `*` and after `**`: pattern behind it, and text it has swallowed so far.
    let mut star = None;
    let mut stars = None;
    while p < pattern.len() || t < text.len() {
        let next = pattern.get(p..).unwrap_or_default();
        if next.starts_with(b"**") {
            p += 2;
            // `**/` may stand for no folder at all.
            let folders = pattern.get(p) == Some(&b'/') && (t == 0 || text.get(t - 1) == Some(&b'/'));
            p += usize::from(folders);
            (stars, star) = (Some((p, t, folders)), None);
            continue;
        }
        match (next.first(), text.get(t)) {
            (Some(b'*'), _) => {
                p += 1;
                star = Some((p, t));
                continue;
            }
            (Some(a), Some(b)) if a == b || (*a == b'?' && *b != b'/') => {
                (p, t) = (p + 1, t + 1);
                continue;
            }
            _ => {}
        }
        match (star, stars) {
            (Some((after, from)), _) if from < text.len() && text[from] != b'/' => {
                star = Some((after, from + 1));
                (p, t) = (after, from + 1);
            }
            (_, Some((after, from, folders))) => {
                // After `**/` the next name starts behind the next slash.
                let rest = text.get(from..).unwrap_or_default();
                let step =
                    if folders { rest.iter().position(|b| *b == b'/') } else { rest.first().map(|_| 0) };
                let Some(step) = step else { return false };
                t = from + step + 1;
                (star, stars, p) = (None, Some((after, t, folders)), after);
            }
            _ => return false,
        }
    }
    true
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Empty => write!(f, "there is nothing in it to share"),
            Error::Name(name, problem) => write!(f, "{name}: {problem}"),
            Error::PieceLength(n) => write!(
                f,
                "a piece of {n} bytes is not made: a power of two from {} KiB to {} MiB is",
                MIN_PIECE >> 10,
                MAX_ASKED_PIECE >> 20
            ),
            Error::Large => write!(
                f,
                "the torrent would be larger than {} MiB: larger pieces or fewer files help",
                MAX_TORRENT >> 20
            ),
        }
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::super::parse;
    use super::*;

    fn entry(path: &str, length: u64) -> Entry {
        let names = path.split('/').filter(|name| !name.is_empty()).map(str::to_owned).collect();
        Entry { names, length, modified: (0, 0) }
    }

    fn order(paths: &[&str]) -> Vec<String> {
        let plan = plan("n", paths.iter().map(|path| entry(path, 1)).collect(), None).unwrap();
        plan.files.iter().map(|file| file.names.join("/")).collect()
    }

    #[test]
    fn files_stand_in_the_order_of_their_bytes_whatever_the_host_lists_first() {
        let sorted = ["B", "a/x", "a/y/z", "a-b", "b", "ä"];
        assert_eq!(order(&sorted), sorted);
        let mut shuffled = sorted;
        shuffled.reverse();
        assert_eq!(order(&shuffled), sorted);
    }

    #[test]
    fn about_1500_pieces_are_chosen() {
        for (total, piece) in [
            (1, 16 << 10),
            (32 << 20, 16 << 10),
            (33 << 20, 32 << 10),
            (700 << 20, 512 << 10),
            (4 << 30, 2 << 20),
            (1 << 40, 16 << 20),
        ] {
            assert_eq!(piece_length(total), piece, "{total}");
        }
    }

    #[test]
    fn a_folder_is_written_byte_for_byte() {
        let plan = plan("n", vec![entry("b", 0), entry("a/c", 3)], None).unwrap();
        let options = Options {
            trackers: vec![vec!["http://a/".into(), "http://b/".into()], vec!["http://c/".into()]],
            web_seeds: vec!["http://w/".into()],
            nodes: vec![("h".into(), 1)],
            private: true,
            source: Some("s".into()),
            comment: Some("c".into()),
            created_by: Some("p".into()),
            creation_date: Some(5),
            ..Options::default()
        };
        let bytes = encode(&plan, &options, b"aaaaaaaaaaaaaaaaaaaa");
        let expected = b"d8:announce9:http://a/13:announce-listll9:http://a/9:http://b/el9:http://c/ee7:comment1:c\
            10:created by1:p13:creation datei5e4:infod5:filesld6:lengthi3e4:pathl1:a1:ceed6:lengthi0e4:pathl1:beee\
            4:name1:n12:piece lengthi16384e6:pieces20:aaaaaaaaaaaaaaaaaaaa7:privatei1e6:source1:se5:nodesll1:hi1eee\
            8:url-list9:http://w/e";
        assert_eq!(String::from_utf8_lossy(&bytes), String::from_utf8_lossy(expected));
        let torrent = parse(&bytes).unwrap();
        assert_eq!(
            (torrent.trackers, torrent.web_seeds, torrent.nodes),
            (options.trackers, options.web_seeds, options.nodes)
        );
        assert_eq!((torrent.private, torrent.source, torrent.creation_date), (true, options.source, Some(5)));
        assert!(torrent.warnings.is_empty());
    }

    #[test]
    fn a_file_is_written_byte_for_byte() {
        let plan = plan("n", vec![entry("", 20_000)], None).unwrap();
        let options = Options {
            trackers: vec![vec!["udp://t:1".into()]],
            web_seeds: vec!["http://v".into(), "http://w".into()],
            ..Options::default()
        };
        let bytes = encode(&plan, &options, &[b'x'; 40]);
        let expected = "d8:announce9:udp://t:14:infod6:lengthi20000e4:name1:n12:piece lengthi16384e6:pieces40:\
            xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxe8:url-listl8:http://v8:http://wee";
        assert_eq!(String::from_utf8_lossy(&bytes), expected);
        assert!(!parse(&bytes).unwrap().multi_file);
    }

    #[test]
    fn what_can_not_be_a_torrent_is_an_error() {
        assert_eq!(plan("n", vec![], None), Err(Error::Empty));
        assert_eq!(plan("n", vec![entry("a", 0)], None), Err(Error::Empty));
        assert!(matches!(plan("..", vec![entry("a", 1)], None), Err(Error::Name(..))));
        assert!(matches!(plan("n", vec![entry("a\\..", 1)], None), Err(Error::Name(..))));
        for piece in [0, 1, 16_383, 16_385, 48 << 10, 256 << 20] {
            assert_eq!(plan("n", vec![entry("a", 1)], Some(piece)), Err(Error::PieceLength(piece)));
        }
        assert_eq!(plan("n", vec![entry("a", 1 << 40)], Some(16 << 10)), Err(Error::Large));
        assert_eq!(plan("n", vec![entry("a", u64::MAX), entry("b", 1)], None), Err(Error::Large));
        assert!(plan("n", vec![entry("a", 1)], Some(64 << 20)).is_ok());
    }

    #[test]
    fn leavings_are_ignored() {
        for name in ["CVS", "core", "Thumbs.db", "desktop.ini", ".git", ".hidden"] {
            assert!(ignored(name.as_bytes()), "{name}");
        }
        for name in ["cores", "cvs", "thumbs", "a.b"] {
            assert!(!ignored(name.as_bytes()), "{name}");
        }
    }

    #[test]
    fn patterns_leave_out_names_and_paths() {
        let matches = |pattern: &str, path: &str| Glob::new(pattern).matches(path);
        for (pattern, path) in [
            ("*.tmp", "a/b/x.tmp"),
            ("node_modules/", "a/node_modules"),
            ("?.txt", "d/a.txt"),
            ("a/*.c", "a/x.c"),
            ("/x", "x"),
            ("**/x", "x"),
            ("**/x", "a/b/x"),
            ("a/**", "a/b/c"),
            ("a/**/c", "a/c"),
            ("a/**/c", "a/b/b/c"),
            ("*", "x"),
            ("a*b*c", "aXbYbZc"),
            ("a/**/*.c", "a/b/c.d/x.c"),
        ] {
            assert!(matches(pattern, path), "{pattern} {path}");
        }
        for (pattern, path) in [
            ("*.tmp", "x.tmp2"),
            ("a/*.c", "a/b/x.c"),
            ("/x", "a/x"),
            ("a/?", "a//"),
            ("x", "xx"),
            ("", "x"),
            ("a/**/c", "a/xc"),
            ("a*b*c", "aXbYbZ"),
        ] {
            assert!(!matches(pattern, path), "{pattern} {path}");
        }
    }
}

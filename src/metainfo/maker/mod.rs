//! Makes torrents: from names and lengths to the order of files and the piece length, and with the hashes to bytes.
//!
//! Read first: BEP 3, 52 (v2 and hybrids), 30 (Merkle), 47 (padding, attributes). The same content gives the same
//! info-hash on every host: names are sorted by their raw bytes, and nothing of the file system but names and lengths
//! goes into `info`, unless the user asks for attributes or links. Holds the list of files.

use std::fmt;
use std::num::NonZeroU32;

use super::{MAX_FILES, MAX_PIECES, MAX_TORRENT, path};
use crate::bencode::{MAX_DEPTH, printable};
use crate::piece::Lengths;

mod encode;
pub mod io;
mod md5;
mod names;

pub use encode::{Hashes, encode};
pub use names::{Glob, ignored, problem};

/// The smallest piece that is made: one request of BEP 3, one leaf of BEP 52.
pub const MIN_PIECE: u32 = crate::piece::BLOCK;

/// The largest piece that is chosen: a router checks it in a second or so.
pub const MAX_PIECE: u32 = 16 << 20;

/// The largest piece that a user may ask for: libtorrent warns above it.
pub const MAX_ASKED_PIECE: u32 = 128 << 20;

/// A chosen piece length gives half of this to this many pieces, about 1500: hashes of 30 kB, and a piece that
/// fails costs a thousandth.
const MOST_PIECES: u64 = 2048;

/// Names of a path where a file tree spends a level of nesting on each: what is around them spends the others.
const MAX_NAMES: usize = MAX_DEPTH - 4;

/// Which hashes a torrent carries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// SHA-1 of pieces, BEP 3.
    #[default]
    V1,
    /// Both, so that clients of either kind find each other's content.
    Hybrid,
    /// SHA-256 trees of files, BEP 52.
    V2,
    /// The root of a tree over the SHA-1 of pieces, BEP 30.
    Merkle,
}

/// What the user says beside the content.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Which hashes.
    pub format: Format,
    /// Tiers of announce URLs, BEP 12.
    pub trackers: Vec<Vec<String>>,
    /// BEP 19.
    pub web_seeds: Vec<String>,
    /// BEP 17.
    pub http_seeds: Vec<String>,
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
    /// Info-hashes of torrents that share files with this one, BEP 38.
    pub similar: Vec<[u8; 20]>,
    /// Names of collections whose torrents may share files, BEP 38.
    pub collections: Vec<String>,
    /// Where a newer torrent will be, BEP 39.
    pub update_url: Option<String>,
    /// Bytes of a piece; chosen by the total where there is none.
    pub piece_length: Option<u32>,
    /// What is left out of a folder.
    pub exclude: Vec<Glob>,
    /// Takes in what mainline leaves out of a folder.
    pub include_hidden: bool,
    /// The MD5 of each file.
    pub md5: bool,
    /// Which files are executable or hidden, BEP 47.
    pub attributes: bool,
    /// Symbolic links as what they are, BEP 47.
    pub links: bool,
}

/// A file that was found, or a symbolic link.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// Names below the folder, joined by `/`; empty for a file that is the torrent.
    pub path: String,
    /// Bytes.
    pub length: u64,
    /// When it was written, in seconds and nanoseconds: whoever hashes it compares, it is never part of a torrent.
    pub modified: (i64, i64),
    /// Its owner may execute it.
    pub executable: bool,
    /// Of a link: where it leads, below the folder.
    pub link: Option<String>,
}

/// All of a torrent but the hashes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Which hashes.
    pub format: Format,
    /// Of the file or folder.
    pub name: String,
    /// A folder of files.
    pub multi_file: bool,
    /// In the order in which they are hashed.
    pub files: Vec<Entry>,
    /// Bytes of content.
    pub content: u64,
    /// Where each file ends among the torrent's bytes.
    pub ends: Vec<u64>,
    /// Total, with the padding between files that v2 has, and piece length.
    pub lengths: Lengths,
}

/// Why no torrent is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// No file, or none with a byte in it.
    Empty,
    /// A path with a name that no torrent may hold.
    Name(String, path::Problem),
    /// Deeper than a file tree may be.
    Deep(String),
    /// A folder whose only file has its name, which a file tree can not tell from that file.
    Twin(String),
    /// Not a power of two, or out of bounds.
    PieceLength(u32),
    /// Too many files or bytes for the piece length.
    Large,
    /// A web seed whose form says that it has one file, where there is a folder.
    WebSeed(String),
    /// A key of v1 in a torrent without v1.
    Md5,
}

impl Format {
    /// It has SHA-1 of pieces.
    pub fn is_v1(self) -> bool {
        self != Format::V2
    }

    /// It has SHA-256 trees, and every file begins with a piece.
    pub fn is_v2(self) -> bool {
        matches!(self, Format::V2 | Format::Hybrid)
    }
}

/// The piece length for so many bytes.
pub fn piece_length(total: u64) -> u32 {
    let mut piece = MIN_PIECE;
    while piece < MAX_PIECE && total / u64::from(piece) > MOST_PIECES {
        piece *= 2;
    }
    piece
}

/// Puts what was found in order and decides how it is cut. A single entry without a path is a single-file torrent.
pub fn plan(name: &str, mut files: Vec<Entry>, options: &Options) -> Result<Plan, Error> {
    let format = options.format;
    safe(name, name)?;
    for file in &files {
        file.path.split('/').filter(|_| !file.path.is_empty()).try_for_each(|name| safe(&file.path, name))?;
        if file.path.len() > path::MAX_PATH {
            return Err(Error::Name(shown(&file.path), path::Problem::Long));
        }
        if format.is_v2() && file.path.split('/').count() > MAX_NAMES {
            return Err(Error::Deep(shown(&file.path)));
        }
    }
    files.sort_unstable_by(|a, b| path::by_component(&a.path, &b.path));
    let multi_file = !files.iter().any(|file| file.path.is_empty());
    if format.is_v2() && multi_file && matches!(files.as_slice(), [file] if file.path == name) {
        return Err(Error::Twin(shown(name)));
    }
    // Many clients would ask for the URL itself, or put the name behind it without a slash.
    if let Some(url) = options.web_seeds.iter().find(|url| multi_file && !url.ends_with('/')) {
        return Err(Error::WebSeed(url.clone()));
    }
    if options.md5 && !format.is_v1() {
        return Err(Error::Md5);
    }
    let content =
        files.iter().try_fold(0u64, |sum, file| sum.checked_add(file.length)).ok_or(Error::Large)?;
    if content == 0 {
        return Err(Error::Empty);
    }
    let piece = options.piece_length.unwrap_or_else(|| piece_length(content));
    if !piece.is_power_of_two() || !(MIN_PIECE..=MAX_ASKED_PIECE).contains(&piece) {
        return Err(Error::PieceLength(piece));
    }
    let mut total = 0u64;
    let mut ends = Vec::with_capacity(files.len());
    for file in &files {
        if format.is_v2() && file.length > 0 {
            total = total.checked_next_multiple_of(piece.into()).ok_or(Error::Large)?;
        }
        total = total.checked_add(file.length).ok_or(Error::Large)?;
        ends.push(total);
    }
    let lengths = NonZeroU32::new(piece).and_then(|piece| Lengths::new(total, piece)).ok_or(Error::Large)?;
    let plan = Plan { format, name: name.to_owned(), multi_file, files, content, ends, lengths };
    if plan.is_fit() { Ok(plan) } else { Err(Error::Large) }
}

/// A name of a path that a torrent may hold.
fn safe(path: &str, name: &str) -> Result<(), Error> {
    path::component(name.as_bytes()).map_err(|problem| Error::Name(shown(path), problem)).map(drop)
}

/// A path for a message: its end says which file it is.
fn shown(path: &str) -> String {
    if path.len() <= 200 {
        return path.to_owned();
    }
    format!("…{}", &path[path.ceil_char_boundary(path.len() - 200)..])
}

impl Plan {
    /// Bytes of padding that a hybrid has before this file.
    fn padding_before(&self, file: usize) -> u64 {
        let before = file.checked_sub(1).and_then(|before| self.ends.get(before)).copied().unwrap_or(0);
        match (self.ends.get(file), self.files.get(file)) {
            (Some(end), Some(entry)) if entry.length > 0 => end - entry.length - before,
            _ => 0,
        }
    }

    /// The files as a reader of the .torrent will list them: links are none, padding is a file without bytes on disk.
    pub fn listed(&self) -> Vec<Entry> {
        let mut listed = Vec::with_capacity(self.files.len());
        for (i, file) in self.files.iter().enumerate() {
            if self.format == Format::Hybrid && self.padding_before(i) > 0 {
                listed.push(Entry::default());
            }
            if file.link.is_none() {
                listed.push(file.clone());
            }
        }
        listed
    }

    /// Whether a reader will take it, as far as it can be told without the hashes.
    fn is_fit(&self) -> bool {
        let pieces = self.lengths.piece_count();
        let (mut entries, mut bytes) = (0, 0);
        for (i, file) in self.files.iter().enumerate() {
            let padded = self.format == Format::Hybrid && self.padding_before(i) > 0;
            entries += 1 + usize::from(padded);
            let link = file.link.as_ref().map_or(0, |link| link.len() + 40);
            // What stands around the names, twice in a hybrid.
            let one = file.path.len() + link + 100;
            bytes += if self.format == Format::Hybrid { 2 * one + 60 } else { one };
        }
        let hashes = match self.format {
            Format::V1 => 20,
            Format::V2 => 32,
            Format::Hybrid => 52,
            Format::Merkle => 0,
        };
        let hashes = usize::try_from(pieces).map_or(usize::MAX, |pieces| pieces.saturating_mul(hashes));
        // Room for trackers and comments beside it.
        entries <= MAX_FILES
            && pieces <= MAX_PIECES
            && hashes.saturating_add(bytes) <= MAX_TORRENT - (256 << 10)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Empty => write!(f, "there is nothing in it to share"),
            Error::Name(path, problem) => write!(f, "{path}: {problem}"),
            Error::Deep(path) => write!(f, "{path}: deeper than the {MAX_NAMES} names that v2 can hold"),
            Error::Twin(name) => write!(
                f,
                "it holds nothing but a file of its own name, {name}, which v2 can not tell from that file: \
                 make the torrent of the file"
            ),
            Error::PieceLength(n) => write!(
                f,
                "a piece of {n} bytes is not made: a power of two from {} KiB to {} MiB is",
                MIN_PIECE >> 10,
                MAX_ASKED_PIECE >> 20
            ),
            Error::Large => write!(
                f,
                "the torrent would be larger than {} MiB, or list more than {MAX_FILES} files: larger pieces or \
                 fewer files help",
                MAX_TORRENT >> 20
            ),
            Error::WebSeed(url) => write!(
                f,
                "the web seed {} has to end with / for a folder: the folder's name is put behind it",
                printable(url.as_bytes())
            ),
            Error::Md5 => write!(f, "md5sum is a key of v1, which this torrent would not have"),
        }
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(path: &str, length: u64) -> Entry {
        Entry { path: path.into(), length, ..Entry::default() }
    }

    fn options(format: Format, piece_length: Option<u32>) -> Options {
        Options { format, piece_length, ..Options::default() }
    }

    fn v1(files: Vec<Entry>, piece_length: Option<u32>) -> Result<Plan, Error> {
        plan("n", files, &options(Format::V1, piece_length))
    }

    #[test]
    fn files_stand_in_the_order_of_their_bytes_whatever_the_host_lists_first() {
        let sorted = ["B", "a/x", "a/y/z", "a-b", "b", "ä"];
        let order = |paths: &[&str]| {
            let plan = v1(paths.iter().map(|path| entry(path, 1)).collect(), None).unwrap();
            plan.files.into_iter().map(|file| file.path).collect::<Vec<_>>()
        };
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
    fn every_file_of_v2_begins_with_a_piece_and_the_last_one_is_not_padded() {
        let files =
            || vec![entry("a", 20_000), entry("b", 0), entry("c", 32_768), entry("d", 1), entry("e", 0)];
        let hybrid = plan("n", files(), &options(Format::Hybrid, Some(32_768))).unwrap();
        assert_eq!(hybrid.ends, [20_000, 20_000, 65_536, 65_537, 65_537]);
        assert_eq!((hybrid.lengths.piece_count(), hybrid.content), (3, 52_769));
        let listed: Vec<_> = hybrid.listed().into_iter().map(|file| (file.path, file.length)).collect();
        let expected = [("a", 20_000), ("b", 0), ("", 0), ("c", 32_768), ("d", 1), ("e", 0)];
        assert_eq!(listed, expected.map(|(path, length)| (path.to_owned(), length)));
        let v1 = plan("n", files(), &options(Format::V1, Some(32_768))).unwrap();
        assert_eq!(
            (v1.ends.as_slice(), v1.listed().len()),
            (&[20_000, 20_000, 52_768, 52_769, 52_769][..], 5)
        );
    }

    #[test]
    fn what_can_not_be_a_torrent_is_an_error() {
        assert_eq!(v1(vec![], None), Err(Error::Empty));
        assert_eq!(v1(vec![entry("a", 0)], None), Err(Error::Empty));
        assert!(matches!(plan("..", vec![entry("a", 1)], &Options::default()), Err(Error::Name(..))));
        let named = v1(vec![entry("d/a\\..", 1)], None).unwrap_err();
        assert!(named.to_string().contains("d/a\\.."), "{named}");
        for piece in [0, 1, 16_383, 16_385, 48 << 10, 256 << 20] {
            assert_eq!(v1(vec![entry("a", 1)], Some(piece)), Err(Error::PieceLength(piece)));
        }
        assert_eq!(v1(vec![entry("a", 1 << 40)], Some(16 << 10)), Err(Error::Large));
        assert_eq!(v1(vec![entry("a", u64::MAX), entry("b", 1)], None), Err(Error::Large));
        assert!(v1(vec![entry("a", 1)], Some(64 << 20)).is_ok());
        let deep = ["a"; 97].join("/");
        assert!(v1(vec![entry(&deep, 1)], None).is_ok());
        let v2 = options(Format::V2, None);
        assert_eq!(plan("n", vec![entry(&deep, 1)], &v2), Err(Error::Deep(deep.clone())));
        assert!(plan("n", vec![entry(&deep[2..], 1)], &v2).is_ok());
        assert_eq!(plan("n", vec![entry("n", 1)], &v2), Err(Error::Twin("n".into())));
        assert!(plan("n", vec![entry("n/n", 1)], &v2).is_ok());
        assert_eq!(plan("n", vec![entry("a", 1)], &Options { md5: true, ..v2 }), Err(Error::Md5));
    }

    #[test]
    fn a_web_seed_of_a_folder_is_a_folder() {
        let of = |url: &str, path: &str| {
            let options = Options { web_seeds: vec![url.into()], ..Options::default() };
            plan("n", vec![entry(path, 1)], &options).map(drop)
        };
        assert_eq!(of("http://w/d", "a"), Err(Error::WebSeed("http://w/d".into())));
        for (url, path) in [("http://w/d/", "a"), ("http://w/n", ""), ("http://w/", "")] {
            assert_eq!(of(url, path), Ok(()), "{url}");
        }
    }
}

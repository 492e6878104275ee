//! Where the bytes of a torrent lie on disk, what is known of them from last time, and what can be wrong with them.
//!
//! Read first: BEP 3 ("files"), BEP 47 (padding files, attributes). Omitted: everything that is not arithmetic (see
//! `io`) and the piece hashes (they stay in the .torrent). A [`Layout`] holds its files' names in one string and twelve
//! bytes a file; it is built for the first peer that asks for data and dropped after the last.

pub mod intake;
pub mod io;
pub mod resume;

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::io::Errno;

use crate::metainfo::{File, Metainfo};
use crate::piece::Lengths;

/// The files of a torrent laid end to end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// The torrent's own path: its file, or the folder of its files.
    data: Arc<Path>,
    lengths: Lengths,
    multi_file: bool,
    /// Where each file ends, counted from the first byte of the torrent.
    ends: Box<[u64]>,
    /// Their paths below `data`, one after the other.
    names: Box<str>,
    /// Where each path ends in `names`.
    name_ends: Box<[u32]>,
    /// Which are padding.
    pads: Marks,
    /// Which are programs.
    executables: Marks,
}

/// One bit a file, the high bit first; empty where none is set.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Marks(Box<[u8]>);

/// A range of bytes inside one file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Number of the file.
    pub file: u32,
    /// First byte, from the start of the file.
    pub offset: u64,
    /// Bytes, at least one.
    pub len: u64,
    /// The bytes are zeros that stand nowhere (BEP 47).
    pub pad: bool,
}

/// The files that a range of a torrent lies in, made by [`Layout::spans`].
pub struct Spans<'a> {
    layout: &'a Layout,
    file: usize,
    offset: u64,
    len: u64,
}

/// What keeps a torrent from being read or written. Its text is the reason that the user sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// The directory that holds the data does not exist, or is none.
    RootAbsent(PathBuf),
    /// It exists and is empty, though data was there: a mount point without its disk.
    EmptyMount(PathBuf),
    /// It exists, and nothing of this torrent is in it.
    DataMissing(PathBuf),
    /// The .torrent is not the file that was loaded.
    TorrentChanged,
    /// A file is not as it was when its pieces were verified.
    Changed(PathBuf),
    /// A symbolic link leads out of the directory that holds the data.
    Outside(PathBuf),
    /// It would lie among our own records.
    Ours(PathBuf),
    /// Something else than a regular file.
    NotAFile(PathBuf),
    /// Too many files are open, in this process or in the system: worth another try soon.
    NoDescriptors(PathBuf),
    /// The disk is full, or would hold less free room than the user wants left.
    NoRoom(Room),
    /// The data would go to the system's own flash or memory: its disk is not mounted.
    NotMounted(PathBuf),
    /// The file system holds no file of that size.
    TooLarge(PathBuf),
    /// The file system is mounted read-only.
    ReadOnly(PathBuf),
    /// The system refused.
    Io {
        /// What was asked for.
        path: PathBuf,
        /// What it answered.
        error: Errno,
    },
}

/// Why there is no room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Room {
    /// What was to be written.
    pub path: PathBuf,
    /// Bytes that are free where it lies.
    pub free: u64,
    /// Bytes that are to stay free there.
    pub floor: u64,
}

/// Bytes above the floor that must be free before a torrent that was stopped for want of room goes on, if it lacks that
/// much: it would stop again at once.
const LEAST_ROOM: u64 = 4 << 20;

impl Layout {
    /// The files of `metainfo`, with `data` as the torrent's own path.
    pub fn new(metainfo: &Metainfo, data: impl Into<Arc<Path>>) -> Layout {
        let files = &metainfo.files;
        let mut ends = Vec::with_capacity(files.len());
        let mut name_ends = Vec::with_capacity(files.len());
        let mut names = String::with_capacity(files.iter().map(|file| file.path.len()).sum());
        let mut end = 0u64;
        for file in files {
            end = end.saturating_add(file.length);
            ends.push(end);
            names.push_str(&file.path);
            name_ends.push(u32::try_from(names.len()).unwrap_or(u32::MAX));
        }
        Layout {
            data: data.into(),
            lengths: metainfo.lengths,
            multi_file: metainfo.multi_file,
            ends: ends.into(),
            names: names.into(),
            name_ends: name_ends.into(),
            pads: Marks::new(files, |file| file.pad),
            executables: Marks::new(files, |file| file.executable),
        }
    }

    /// How the torrent is cut into pieces.
    pub fn lengths(&self) -> Lengths {
        self.lengths
    }

    /// The torrent's own path.
    pub fn data(&self) -> &Arc<Path> {
        &self.data
    }

    /// Whether `data` is a folder.
    pub fn is_multi_file(&self) -> bool {
        self.multi_file
    }

    /// Number of files, padding included.
    pub fn file_count(&self) -> u32 {
        u32::try_from(self.ends.len()).unwrap_or(u32::MAX)
    }

    /// The files that a range lies in; what of it is beyond the end of the torrent is left out.
    pub fn spans(&self, offset: u64, len: u64) -> Spans<'_> {
        Spans { layout: self, file: self.ends.partition_point(|&end| end <= offset), offset, len }
    }

    /// Where a file's bytes lie in the torrent; empty for a file that does not exist.
    #[inline(never)]
    pub fn range(&self, file: u32) -> Range<u64> {
        let index = file as usize;
        let Some(&end) = self.ends.get(index) else { return 0..0 };
        let start = index.checked_sub(1).and_then(|before| self.ends.get(before)).copied().unwrap_or(0);
        start..end
    }

    /// Whether a file is padding.
    pub fn is_pad(&self, file: u32) -> bool {
        self.pads.contains(file)
    }

    /// Whether a file is a program.
    pub fn is_executable(&self, file: u32) -> bool {
        self.executables.contains(file)
    }

    /// Whether a file must be on disk: an empty one and a padding file need not.
    pub fn is_needed(&self, file: u32) -> bool {
        !self.range(file).is_empty() && !self.is_pad(file)
    }

    /// The pieces that lie in a range of the torrent, wholly or in part.
    #[inline(never)]
    pub fn pieces(&self, bytes: Range<u64>) -> Range<u32> {
        let length = u64::from(self.lengths.piece_length());
        let end = bytes.end.min(self.lengths.total());
        if bytes.start >= end {
            return 0..0;
        }
        let index = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
        index(bytes.start / length)..index(end.div_ceil(length))
    }

    /// A file's path below the torrent's folder, empty for the file of a single-file torrent.
    pub fn name(&self, file: u32) -> &str {
        let index = file as usize;
        let Some(&end) = self.name_ends.get(index) else { return "" };
        let start = index.checked_sub(1).and_then(|before| self.name_ends.get(before)).copied().unwrap_or(0);
        self.names.get(start as usize..end as usize).unwrap_or("")
    }

    /// A file's path.
    pub fn path(&self, file: u32) -> PathBuf {
        match self.name(file) {
            "" => self.data.to_path_buf(),
            name => self.data.join(name),
        }
    }
}

impl Marks {
    fn new(files: &[File], is_set: impl Fn(&File) -> bool) -> Marks {
        let mut bytes = vec![0; if files.iter().any(&is_set) { files.len().div_ceil(8) } else { 0 }];
        for (index, _) in files.iter().enumerate().filter(|(_, file)| is_set(file)) {
            bytes[index / 8] |= 0x80 >> (index % 8);
        }
        Marks(bytes.into())
    }

    fn contains(&self, file: u32) -> bool {
        let index = file as usize;
        self.0.get(index / 8).is_some_and(|byte| byte & (0x80 >> (index % 8)) != 0)
    }
}

impl Iterator for Spans<'_> {
    type Item = Span;

    fn next(&mut self) -> Option<Span> {
        while self.len > 0 {
            let file = u32::try_from(self.file).ok()?;
            let end = *self.layout.ends.get(self.file)?;
            let start = self.layout.range(file).start;
            self.file += 1;
            let len = end.saturating_sub(self.offset).min(self.len);
            if len > 0 {
                let span = Span { file, offset: self.offset - start, len, pad: self.layout.is_pad(file) };
                self.offset += len;
                self.len -= len;
                return Some(span);
            }
        }
        None
    }
}

impl Trouble {
    /// What an error of the system means for whoever asked for `path`.
    pub(crate) fn of(path: &Path, error: Errno) -> Trouble {
        match error {
            Errno::MFILE | Errno::NFILE => Trouble::NoDescriptors(path.into()),
            Errno::XDEV | Errno::LOOP => Trouble::Outside(path.into()),
            Errno::ROFS => Trouble::ReadOnly(path.into()),
            Errno::FBIG => Trouble::TooLarge(path.into()),
            error => Trouble::Io { path: path.into(), error },
        }
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (path, why) = match self {
            Trouble::RootAbsent(path) => (path, "is not there"),
            Trouble::EmptyMount(path) => (path, "is empty: its disk does not seem to be mounted"),
            Trouble::DataMissing(path) => return write!(f, "the data is not in {}", path.display()),
            Trouble::TorrentChanged => return f.write_str("the .torrent has changed"),
            Trouble::Changed(path) => (path, "has changed since it was verified"),
            Trouble::Outside(path) => (path, "is a symbolic link out of the data directory"),
            Trouble::Ours(path) => (path, "is where a daemon keeps its state: no data may lie there"),
            Trouble::NotAFile(path) => (path, "is not a regular file"),
            Trouble::NoDescriptors(path) => (path, "cannot be opened: too many open files"),
            Trouble::NoRoom(room) => return room.fmt(f),
            Trouble::NotMounted(path) => (
                path,
                "is not on a disk of its own: mount one there, set `data` to a directory on one, or see \
                 `require-mount`",
            ),
            Trouble::TooLarge(path) => {
                (path, "is larger than its file system can hold (FAT: below 4 GiB a file)")
            }
            Trouble::ReadOnly(path) => (path, "is on a file system that is mounted read-only"),
            Trouble::Io { path, error } => {
                return write!(f, "{}: {}", path.display(), std::io::Error::from(*error));
            }
        };
        write!(f, "{} {why}", path.display())
    }
}

impl fmt::Display for Room {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const MIB: u64 = 1 << 20;
        let (path, free, floor) = (self.path.display(), self.free / MIB, self.floor.div_ceil(MIB));
        if self.free > self.floor.saturating_add(LEAST_ROOM) {
            return write!(f, "{path}: no room though {free} MiB are free: a quota, or too many files");
        }
        write!(f, "{path}: no room for more: {free} MiB are free")?;
        if floor > 0 { write!(f, ", and {floor} MiB are to stay free") } else { Ok(()) }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::metainfo::InfoHash;
    use std::num::NonZeroU32;

    /// A torrent of those files; a name that starts with `.pad` is padding.
    pub(crate) fn metainfo(piece: u32, files: &[(&str, u64)]) -> Metainfo {
        let total = files.iter().map(|(_, length)| length).sum();
        let multi_file = files.len() > 1 || !files[0].0.is_empty();
        Metainfo {
            info_hash: InfoHash::from_bytes([7; 20]),
            info_hash_v2: None,
            name: "name".into(),
            multi_file,
            lengths: Lengths::new(total, NonZeroU32::new(piece).unwrap()).unwrap(),
            hashes_at: 0,
            info_at: 0..0,
            files: files
                .iter()
                .map(|&(path, length)| File {
                    path: path.into(),
                    length,
                    pad: path.starts_with(".pad"),
                    executable: false,
                })
                .collect(),
            private: false,
            trackers: vec![],
            web_seeds: vec![],
            http_seeds: vec![],
            nodes: vec![],
            warnings: vec![],
        }
    }

    fn layout(piece: u32, files: &[(&str, u64)]) -> Layout {
        Layout::new(&metainfo(piece, files), Path::new("/data/name"))
    }

    fn span(file: u32, offset: u64, len: u64) -> Span {
        Span { file, offset, len, pad: false }
    }

    #[test]
    fn a_range_is_cut_at_the_files_and_empty_files_are_passed_over() {
        let l = layout(10, &[("a", 5), ("empty", 0), ("sub/b", 7), ("also-empty", 0), ("c", 3)]);
        assert_eq!(l.spans(0, 5).collect::<Vec<_>>(), [span(0, 0, 5)]);
        assert_eq!(l.spans(5, 1).collect::<Vec<_>>(), [span(2, 0, 1)]);
        assert_eq!(l.spans(4, 10).collect::<Vec<_>>(), [span(0, 4, 1), span(2, 0, 7), span(4, 0, 2)]);
        assert_eq!(l.spans(11, 100).collect::<Vec<_>>(), [span(2, 6, 1), span(4, 0, 3)]);
        assert_eq!(l.spans(15, 1).count() + l.spans(3, 0).count() + l.spans(u64::MAX, u64::MAX).count(), 0);
        assert_eq!(l.path(2), Path::new("/data/name/sub/b"));
        assert_eq!((l.name(0), l.name(3), l.name(99), l.file_count()), ("a", "also-empty", "", 5));
        assert!(l.is_needed(0) && !l.is_needed(1) && !l.is_needed(99));
    }

    #[test]
    fn padding_is_named_as_such_and_needs_nothing_on_disk() {
        let l = layout(8, &[("a", 5), (".pad/3", 3), ("b", 8)]);
        assert_eq!(
            l.spans(0, 16).collect::<Vec<_>>(),
            [span(0, 0, 5), Span { file: 1, offset: 0, len: 3, pad: true }, span(2, 0, 8)]
        );
        assert!(l.is_pad(1) && !l.is_pad(0) && !l.is_needed(1) && l.is_needed(2));
    }

    #[test]
    fn a_single_file_has_the_torrents_own_path() {
        let l = layout(10, &[("", 25)]);
        assert_eq!((l.path(0), l.is_multi_file()), (PathBuf::from("/data/name"), false));
        assert_eq!(l.spans(20, 5).collect::<Vec<_>>(), [span(0, 20, 5)]);
    }

    #[test]
    fn files_above_four_gibibytes_are_addressed() {
        let l = layout(1 << 20, &[("a", 5 << 30), ("b", 6 << 30)]);
        assert_eq!(l.spans((5 << 30) - 1, 2).collect::<Vec<_>>(), [span(0, (5 << 30) - 1, 1), span(1, 0, 1)]);
        assert_eq!(l.spans(10 << 30, 16_384).collect::<Vec<_>>(), [span(1, 5 << 30, 16_384)]);
        assert_eq!(l.pieces(l.range(1)), 5120..11_264);
    }

    #[test]
    fn pieces_touched_in_part_count() {
        let l = layout(10, &[("a", 5), ("b", 20), ("empty", 0), ("c", 1)]);
        assert_eq!(l.pieces(l.range(0)), 0..1);
        assert_eq!(l.pieces(l.range(1)), 0..3);
        assert_eq!(l.pieces(l.range(2)), 0..0);
        assert_eq!(l.pieces(l.range(3)), 2..3);
        assert_eq!(l.pieces(10..20), 1..2);
        assert_eq!(l.pieces(20..u64::MAX), 2..3);
    }
}

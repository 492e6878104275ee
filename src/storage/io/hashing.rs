//! Hashing pieces against the hashes in the .torrent, one at a time and in small reads.
//!
//! Read first: BEP 3 ("pieces"). Holds a layout, three descriptors and a few KiB of hashes while a check goes on; the
//! buffer for content is the caller's.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{Advice, FileType, fadvise, fstat};
use rustix::io::{Errno, pread};
use sha1::{Digest, Sha1};

use super::Place;
use super::tree::{Tree, blame, exists, ident_of, missing, number, open_torrent};
use crate::have::Have;
use crate::ident::Ident;
use crate::metainfo::{self, MAX_TORRENT, Metainfo};
use crate::storage::{Layout, Trouble};

/// Bytes read at a time: small enough for a router's cache, large enough that the system call does not count.
pub(super) const CHUNK: usize = 128 * 1024;

/// Hashes of the .torrent read at a time.
const HASHES: usize = 200;

/// A torrent whose pieces are being hashed.
pub(super) struct Hashing {
    place: Place,
    torrent: OwnedFd,
    hashes_at: u32,
    layout: Layout,
    tree: Tree,
    /// The file read last; `None` inside for one that is not there.
    open: Option<(u32, Option<OwnedFd>)>,
    /// Hashes from the piece `hashes_from` on.
    hashes: Vec<u8>,
    hashes_from: u32,
}

/// What [`check`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The torrent's name.
    pub name: String,
    /// Pieces in all.
    pub pieces: u32,
    /// Those that were right.
    pub have: Have,
    /// Files with a piece that was not: path, what is wrong.
    pub files: Vec<(String, Flaw)>,
}

/// What is wrong with a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// It is not there.
    Absent,
    /// It has fewer bytes than it should: these.
    Short(u64),
    /// So many of its pieces are not right.
    Wrong(u32),
}

/// Why a .torrent could not be read.
pub(super) enum Unread {
    /// It is not what was expected, or not there.
    Changed,
    /// The system refused.
    Io(Errno),
    /// It is no regular file, or larger than one can be.
    Unfit(&'static str),
}

/// Opens a .torrent and reads all of it into `buffer`. With `ident` it must be that file.
pub(super) fn read_torrent(
    path: &Path,
    ident: Option<&Ident>,
    buffer: &mut Vec<u8>,
) -> Result<(OwnedFd, Ident), (Option<Ident>, Unread)> {
    buffer.clear();
    let (fd, stat) = open_torrent(path).map_err(|error| (None, Unread::Io(error)))?;
    let found = ident_of(&stat);
    let fail = |why| (Some(found), why);
    if ident.is_some_and(|ident| !ident.matches(&found)) {
        return Err(fail(Unread::Changed));
    }
    if !FileType::from_raw_mode(stat.st_mode).is_file() {
        return Err(fail(Unread::Unfit("it is not a regular file")));
    }
    let size = usize::try_from(found.size).unwrap_or(usize::MAX);
    if size > MAX_TORRENT {
        return Err(fail(Unread::Unfit("it is larger than 16 MiB")));
    }
    buffer.reserve_exact(size);
    while buffer.len() < size {
        match rustix::io::read(&fd, rustix::buffer::spare_capacity(buffer)) {
            Ok(0) => break,
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(fail(Unread::Io(error))),
        }
    }
    // What was appended since is not of the file whose identity is told.
    buffer.truncate(size);
    Ok((fd, found))
}

/// The same and parses it; any surprise is a .torrent that has changed.
pub(super) fn parse_torrent(place: &Place, buffer: &mut Vec<u8>) -> Result<(OwnedFd, Metainfo), Trouble> {
    let (fd, _) = read_torrent(&place.torrent, Some(&place.ident), buffer).map_err(|(_, why)| match why {
        Unread::Io(error) if !matches!(error, Errno::NOENT | Errno::NOTDIR) => {
            Trouble::of(&place.torrent, error)
        }
        _ => Trouble::TorrentChanged,
    })?;
    let metainfo = metainfo::parse(buffer).map_err(|_| Trouble::TorrentChanged)?;
    Ok((fd, metainfo))
}

impl Hashing {
    pub(super) fn open(place: &Place, buffer: &mut Vec<u8>) -> Result<Hashing, Trouble> {
        let (torrent, metainfo) = parse_torrent(place, buffer)?;
        let tree = Tree::open(place, metainfo.multi_file)?;
        Ok(Hashing {
            torrent,
            tree,
            hashes_at: metainfo.hashes_at,
            layout: Layout::new(&metainfo, place.data.clone()),
            place: place.clone(),
            open: None,
            hashes: Vec::new(),
            hashes_from: 0,
        })
    }

    /// Whether it is of that place, whose .torrent is still the same file.
    pub(super) fn is_of(&self, place: &Place) -> bool {
        let same = |one: &Arc<Path>, other: &Arc<Path>| Arc::ptr_eq(one, other) || one == other;
        same(&self.place.torrent, &place.torrent)
            && same(&self.place.data, &place.data)
            && same(&self.place.root, &place.root)
            && self.place.ident.matches(&place.ident)
            && fstat(&self.torrent).is_ok_and(|stat| ident_of(&stat).matches(&place.ident))
    }

    pub(super) fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Lets go of the file read last, so that a disk can be unmounted and a file that came since is seen.
    pub(super) fn rest(&mut self) {
        self.open = None;
    }

    /// Whether a piece is right; one that is not all there is wrong. `between` is called between two reads.
    pub(super) fn piece(
        &mut self,
        index: u32,
        buffer: &mut Vec<u8>,
        between: &mut dyn FnMut(),
    ) -> Result<bool, Trouble> {
        let lengths = self.layout.lengths();
        let Some(piece) = lengths.piece(index) else { return Ok(false) };
        let expected = self.hash(index)?;
        let mut sha = Sha1::new();
        if buffer.len() < CHUNK {
            *buffer = vec![0; CHUNK];
        }
        let mut left = lengths.size(piece);
        let Hashing { layout, tree, open, place, .. } = self;
        for span in layout.spans(lengths.offset(piece), u64::from(left)) {
            if span.pad {
                zeros(&mut sha, span.len);
                left = left.saturating_sub(u32::try_from(span.len).unwrap_or(left));
                continue;
            }
            let Some(file) = opened(open, tree, layout, place, span.file)? else { return Ok(false) };
            let (mut at, end) = (span.offset, span.offset + span.len);
            while at < end {
                let want = usize::try_from(end - at).map_or(CHUNK, |rest| rest.min(CHUNK));
                match pread(file, &mut buffer[..want], at) {
                    Ok(0) => return Ok(false),
                    Ok(read) => {
                        sha.update(&buffer[..read]);
                        at += read as u64;
                        left = left.saturating_sub(u32::try_from(read).unwrap_or(left));
                        if left > 0 {
                            between();
                        }
                    }
                    Err(Errno::INTR) => {}
                    Err(error) => return Err(blame(Trouble::of(&layout.path(span.file), error), place)),
                }
            }
        }
        Ok(left == 0 && sha.finalize().as_slice() == expected)
    }

    /// The hash of a piece as the .torrent has it.
    fn hash(&mut self, index: u32) -> Result<[u8; 20], Trouble> {
        let within = |from: u32, held: usize| {
            let at = index.checked_sub(from)? as usize * 20;
            (at + 20 <= held).then_some(at)
        };
        let at = match within(self.hashes_from, self.hashes.len()) {
            Some(at) => at,
            None => {
                let rest = self.layout.lengths().piece_count().saturating_sub(index) as usize;
                self.hashes.resize(rest.min(HASHES) * 20, 0);
                self.hashes_from = index;
                let offset = u64::from(self.hashes_at) + u64::from(index) * 20;
                let mut read = 0;
                while read < self.hashes.len() {
                    match pread(&self.torrent, &mut self.hashes[read..], offset + read as u64) {
                        Ok(0) => break,
                        Ok(n) => read += n,
                        Err(Errno::INTR) => {}
                        Err(error) => {
                            self.hashes.clear();
                            return Err(Trouble::of(&self.place.torrent, error));
                        }
                    }
                }
                self.hashes.truncate(read);
                within(index, read).ok_or(Trouble::TorrentChanged)?
            }
        };
        self.hashes.get(at..at + 20).and_then(|hash| hash.try_into().ok()).ok_or(Trouble::TorrentChanged)
    }
}

/// A file, opened unless it was the last one read; `None` where it is not there but its disk is.
fn opened<'a>(
    open: &'a mut Option<(u32, Option<OwnedFd>)>,
    tree: &Tree,
    layout: &Layout,
    place: &Place,
    file: u32,
) -> Result<Option<&'a OwnedFd>, Trouble> {
    if open.as_ref().is_none_or(|(held, _)| *held != file) {
        // First closed, then opened: one descriptor is enough.
        *open = None;
        let found = tree.file(layout, file).map_err(|trouble| blame(trouble, place))?;
        if let Some((fd, stat)) = &found {
            // The kernel reads further ahead then; where it does not know the call nothing is lost.
            if number(stat.st_size) > CHUNK as u64 {
                let _ = fadvise(fd, 0, None, Advice::Sequential);
            }
        } else if exists(&place.data) == Ok(false) {
            return Err(missing(place, true));
        }
        *open = Some((file, found.map(|(fd, _)| fd)));
    }
    Ok(open.as_ref().and_then(|(_, fd)| fd.as_ref()))
}

fn zeros(sha: &mut Sha1, mut len: u64) {
    const ZEROS: [u8; 1024] = [0; 1024];
    while len > 0 {
        let some = usize::try_from(len).map_or(ZEROS.len(), |len| len.min(ZEROS.len()));
        sha.update(&ZEROS[..some]);
        len -= some as u64;
    }
}

/// Hashes all that is there of a torrent, for the command line. `progress` hears of bytes done and bytes in all.
pub fn check(torrent: &Path, data: &Path, progress: &mut dyn FnMut(u64, u64)) -> Result<Verdict, Trouble> {
    let (_, stat) = open_torrent(torrent).map_err(|error| Trouble::of(torrent, error))?;
    let place = Place {
        torrent: torrent.into(),
        ident: ident_of(&stat),
        data: data.into(),
        other: None,
        root: data.into(),
        kept: false,
        sidecar: true,
    };
    let mut buffer = Vec::new();
    let mut hashing = Hashing::open(&place, &mut buffer)?;
    let name = metainfo::parse(&buffer).map_err(|_| Trouble::TorrentChanged)?.name;
    buffer = Vec::new();
    let lengths = hashing.layout.lengths();
    let (pieces, total) = (lengths.piece_count(), lengths.total());
    let mut right = vec![false; pieces as usize];
    let mut done = 0;
    progress(0, total);
    for piece in (0..pieces).filter_map(|index| lengths.piece(index)) {
        right[piece.index() as usize] = hashing.piece(piece.index(), &mut buffer, &mut || {})?;
        done += u64::from(lengths.size(piece));
        progress(done, total);
    }
    let is_right = |piece: u32| right.get(piece as usize).is_some_and(|&right| right);
    let layout = hashing.layout();
    let mut files = Vec::new();
    for file in (0..layout.file_count()).filter(|&file| layout.is_needed(file)) {
        let range = layout.range(file);
        let wrong = layout.pieces(range.clone()).filter(|&piece| !is_right(piece)).count();
        if wrong > 0 {
            let stamp = hashing.tree.stamp(layout, file)?;
            let flaw = match stamp.size {
                _ if stamp == crate::storage::resume::Stamp::ABSENT => Flaw::Absent,
                size if size < range.end - range.start => Flaw::Short(size),
                _ => Flaw::Wrong(u32::try_from(wrong).unwrap_or(u32::MAX)),
            };
            files.push((layout.path(file).to_string_lossy().into_owned(), flaw));
        }
    }
    Ok(Verdict { name, pieces, have: Have::from_fn(pieces, is_right), files })
}

//! Hashing pieces against the hashes in the .torrent: a whole one from disk in small reads, or as it is received.
//!
//! Read first: BEP 3 ("pieces"), BEP 47 (padding is zeros). Holds a layout, three descriptors and a few KiB of hashes
//! for a torrent, and a hundred bytes for a piece that is begun; the buffer for content is the caller's.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{Advice, FileType, fadvise, fstat};
use rustix::io::{Errno, pread};
use sha1::{Digest, Sha1};

use super::Place;
use super::fault::attempt;
use super::tree::{Tree, blame, exists, ident_of, missing, number, open_torrent};
use crate::ident::Ident;
use crate::metainfo::{self, MAX_TORRENT, Metainfo};
use crate::piece::PieceIndex;
use crate::storage::intake::Write;
use crate::storage::{Layout, Span, Trouble};

/// Bytes read at a time: small enough for a router's cache, large enough that the system call does not count.
pub(super) const CHUNK: usize = 128 * 1024;

/// Hashes of the .torrent read at a time.
const HASHES: usize = 200;

/// Bytes of a block that has a digest of its own: what clients ask for.
const BLOCK: usize = crate::piece::BLOCK as usize;

/// A piece that is hashed as far as it is known.
pub(super) struct Begun {
    piece: PieceIndex,
    /// Bytes hashed.
    at: u32,
    sha: Sha1,
}

/// What reading content needs.
pub(super) struct Reader<'a> {
    /// Of [`CHUNK`] bytes, or none yet.
    pub(super) buffer: &'a mut Vec<u8>,
    /// Called between two reads.
    pub(super) between: &'a mut dyn FnMut(),
}

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

impl Begun {
    pub(super) fn new(piece: PieceIndex) -> Begun {
        Begun { piece, at: 0, sha: Sha1::new() }
    }

    pub(super) fn piece(&self) -> PieceIndex {
        self.piece
    }

    /// Bytes hashed.
    pub(super) fn at(&self) -> u32 {
        self.at
    }
}

impl Hashing {
    pub(super) fn open(place: &Place, buffer: &mut Vec<u8>) -> Result<Hashing, Trouble> {
        let (torrent, metainfo) = parse_torrent(place, buffer)?;
        let tree = Tree::open(place, metainfo.multi_file)?;
        let layout = Layout::new(&metainfo, place.data.clone());
        Ok(Hashing::new(place, torrent, metainfo.hashes_at, layout, tree))
    }

    pub(super) fn new(
        place: &Place,
        torrent: OwnedFd,
        hashes_at: u32,
        layout: Layout,
        tree: Tree,
    ) -> Hashing {
        let place = place.clone();
        Hashing { place, torrent, hashes_at, layout, tree, open: None, hashes: Vec::new(), hashes_from: 0 }
    }

    /// Whether it is of that place, whose .torrent is still the same file.
    pub(super) fn is_of(&self, place: &Place) -> bool {
        self.is_at(place) && fstat(&self.torrent).is_ok_and(|stat| ident_of(&stat).matches(&place.ident))
    }

    /// Whether it is of that place, as far as can be told without asking the system.
    pub(super) fn is_at(&self, place: &Place) -> bool {
        let same = |one: &Arc<Path>, other: &Arc<Path>| Arc::ptr_eq(one, other) || one == other;
        same(&self.place.torrent, &place.torrent)
            && same(&self.place.data, &place.data)
            && same(&self.place.root, &place.root)
            && self.place.ident.matches(&place.ident)
    }

    pub(super) fn layout(&self) -> &Layout {
        &self.layout
    }

    pub(super) fn tree(&self) -> &Tree {
        &self.tree
    }

    /// Lets go of the file read last, so that a disk can be unmounted and a file that came since is seen.
    pub(super) fn rest(&mut self) {
        self.open = None;
    }

    /// Whether a piece is right; one that is not all there is wrong.
    pub(super) fn piece(&mut self, index: u32, reader: &mut Reader<'_>) -> Result<bool, Trouble> {
        let lengths = self.layout.lengths();
        let Some(piece) = lengths.piece(index) else { return Ok(false) };
        // A .torrent that has changed is told before its content is read.
        self.hash(index)?;
        let mut begun = Begun::new(piece);
        let short = self.advance(&mut begun, lengths.size(piece), &[], &[], reader)?;
        Ok(short.is_none() && self.is_right(begun)?)
    }

    /// Hashes a piece on, up to its first `ready` bytes: from memory what is among `fragments`, which lie in `bytes` and
    /// are of this piece, in order and without overlap; the rest from disk. Tells a file that ends before that; then, as
    /// after trouble, the piece must be begun anew.
    pub(super) fn advance(
        &mut self,
        begun: &mut Begun,
        ready: u32,
        fragments: &[Write],
        bytes: &[u8],
        reader: &mut Reader<'_>,
    ) -> Result<Option<u32>, Trouble> {
        let start = self.layout.lengths().offset(begun.piece);
        let mut fragments = fragments.iter().peekable();
        while begun.at < ready {
            let at = begun.at;
            while fragments.next_if(|next| next.begin.saturating_add(next.len) <= at).is_some() {}
            let (until, memory) = match fragments.peek() {
                Some(next) if next.begin <= at => {
                    let until = next.begin.saturating_add(next.len).min(ready);
                    let from = next.at as usize + (at - next.begin) as usize;
                    (until, bytes.get(from..from + (until - at) as usize))
                }
                Some(next) => (next.begin.min(ready), None),
                None => (ready, None),
            };
            let (from, len) = (start + u64::from(at), u64::from(until - at));
            if let Some(short) = self.feed(&mut begun.sha, from, len, memory, reader)? {
                return Ok(Some(short));
            }
            begun.at = until;
        }
        Ok(None)
    }

    /// Whether a piece that was hashed to its end has the hash of the .torrent.
    pub(super) fn is_right(&mut self, begun: Begun) -> Result<bool, Trouble> {
        let expected = self.hash(begun.piece.index())?;
        Ok(begun.sha.finalize().as_slice() == expected)
    }

    /// The trouble with a file that ends before what was written to it.
    pub(super) fn cut(&self, file: u32) -> Trouble {
        blame(Trouble::Changed(self.layout.path(file)), &self.place)
    }

    /// The first eight bytes of the SHA-1 of each block of a piece, as it is on disk.
    pub(super) fn digests(
        &mut self,
        piece: PieceIndex,
        reader: &mut Reader<'_>,
    ) -> Result<Box<[u64]>, Trouble> {
        let lengths = self.layout.lengths();
        let (start, size) = (lengths.offset(piece), u64::from(lengths.size(piece)));
        let mut digests = Vec::with_capacity(usize::try_from(size).map_or(0, |size| size.div_ceil(BLOCK)));
        for at in (0..size).step_by(BLOCK) {
            let mut sha = Sha1::new();
            let len = (size - at).min(BLOCK as u64);
            if let Some(short) = self.feed(&mut sha, start + at, len, None, reader)? {
                return Err(self.cut(short));
            }
            let [a, b, c, d, e, f, g, h, ..] = <[u8; 20]>::from(sha.finalize());
            digests.push(u64::from_be_bytes([a, b, c, d, e, f, g, h]));
        }
        Ok(digests.into())
    }

    /// Hashes a range of the torrent that is in `memory`, or else on disk. Padding is zeros, whatever was received.
    /// Tells the file that ends before the range does.
    fn feed(
        &mut self,
        sha: &mut Sha1,
        offset: u64,
        len: u64,
        memory: Option<&[u8]>,
        reader: &mut Reader<'_>,
    ) -> Result<Option<u32>, Trouble> {
        let Hashing { layout, tree, open, place, .. } = self;
        let mut memory = memory;
        let mut left = len;
        for span in layout.spans(offset, len) {
            let here = memory.as_mut().and_then(|memory| memory.split_off(..usize::try_from(span.len).ok()?));
            if span.pad || here.is_some() {
                match here {
                    Some(bytes) if !span.pad => sha.update(bytes),
                    _ => zeros(sha, span.len),
                }
                left -= span.len;
                continue;
            }
            let whole = stored(open, tree, layout, place, span, reader.buffer, &mut |bytes| {
                sha.update(bytes);
                left -= bytes.len() as u64;
                if left > 0 {
                    (reader.between)();
                }
            })?;
            if !whole {
                return Ok(Some(span.file));
            }
        }
        Ok(None)
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
                    let hashes = &mut self.hashes[read..];
                    match attempt().and_then(|()| pread(&self.torrent, hashes, offset + read as u64)) {
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

/// Hands on what a file has of a span, in parts that fit the buffer. False where it ends before that, or is not there.
pub(super) fn stored(
    open: &mut Option<(u32, Option<OwnedFd>)>,
    tree: &Tree,
    layout: &Layout,
    place: &Place,
    span: Span,
    buffer: &mut Vec<u8>,
    each: &mut dyn FnMut(&[u8]),
) -> Result<bool, Trouble> {
    if buffer.len() < CHUNK {
        *buffer = vec![0; CHUNK];
    }
    let Some(file) = opened(open, tree, layout, place, span.file)? else { return Ok(false) };
    let (mut at, end) = (span.offset, span.offset + span.len);
    while at < end {
        let want = usize::try_from(end - at).map_or(CHUNK, |rest| rest.min(CHUNK));
        match attempt().and_then(|()| pread(file, &mut buffer[..want], at)) {
            Ok(0) => return Ok(false),
            Ok(read) => {
                each(&buffer[..read]);
                at += read as u64;
            }
            Err(Errno::INTR) => {}
            Err(error) => return Err(blame(Trouble::of(&layout.path(span.file), error), place)),
        }
    }
    Ok(true)
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

pub(super) fn zeros(sha: &mut Sha1, mut len: u64) {
    const ZEROS: [u8; 1024] = [0; 1024];
    while len > 0 {
        let some = usize::try_from(len).map_or(ZEROS.len(), |len| len.min(ZEROS.len()));
        sha.update(&ZEROS[..some]);
        len -= some as u64;
    }
}

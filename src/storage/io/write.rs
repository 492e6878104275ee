//! Writing received blocks, hashing their pieces as they grow, and putting on record what is safe on disk.
//!
//! Read first: BEP 3, BEP 47 (padding is not written). A piece is hashed in order, from memory where its bytes are in
//! the batch at hand. After trouble nothing more is written of a torrent until it is prepared again: blocks that went
//! before are missing then. Content is synced before its pieces go on record. Omitted: which blocks those are.
//! Holds for the torrents that were written in the last minute, up to a bound, the layout and the state of half-hashed
//! pieces; for each torrent between `Prepare` and the last `Save` which files were written, one bit a file.

use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{Advice, fadvise, fdatasync, fstat, fsync, syncfs};
use rustix::io::Errno;

use super::fault::attempt;
use super::hashing::{Begun, Hashing, Reader, parse_torrent};
use super::jobs::{Hashed, Outcome, Place, Prepared, Progress, Target};
use super::output::{Outputs, Run, refused};
use super::prepare::survey;
use super::tree::{Tree, exists, missing, number, root_of};
use crate::config::Disk;
use crate::have::Have;
use crate::list::{self, Keep};
use crate::metainfo::InfoHash;
use crate::piece::Lengths;
use crate::sorted::SortedSet;
use crate::storage::intake::Write;
use crate::storage::resume::{Record, Stamp};
use crate::storage::{Layout, Trouble};

/// Torrents that are kept ready for writing: each holds three descriptors.
const TORRENTS: usize = 16;

/// Files of all of these, unless it is one alone: a name takes about a hundred bytes.
const FILES: u32 = 8192;

/// Half-hashed pieces of one torrent: more than peers that each work on one of their own. The one that rested longest
/// is forgotten, and read back when it goes on.
const BEGUN: usize = 64;

/// A torrent that nothing was written of for this long is closed, so that its disk can be unmounted.
const IDLE: Duration = Duration::from_secs(60);

/// From so many files on all are synced together before each is asked whether that went well.
const TOGETHER: u32 = 16;

/// All torrents that are written.
#[derive(Default)]
pub(super) struct Writer {
    /// Those that are ready, the one used last at the end.
    ready: Vec<Ready>,
    outputs: Outputs,
    /// All of them.
    unsaved: Vec<Unsaved>,
}

/// A torrent that is ready for writing.
struct Ready {
    info_hash: InfoHash,
    hashing: Hashing,
    /// The one that was hashed last is at the end.
    begun: Vec<Begun>,
    used: Instant,
}

/// What is to be remembered of a torrent until it is saved for the last time. Its sets are of files.
pub(super) struct Unsaved {
    info_hash: InfoHash,
    /// Written to since the last save.
    pub(super) written: Have,
    /// Made since then.
    pub(super) made: Have,
    /// Something was written since it was prepared.
    pub(super) some: bool,
    /// Why nothing more is written.
    refused: Option<Trouble>,
    /// What was written may not have reached the disk: nothing is put on record.
    lost: Option<Trouble>,
}

impl Writer {
    /// How to write from now on.
    pub(super) fn set_disk(&mut self, disk: Disk) {
        self.outputs.set_disk(disk);
    }

    /// Makes a torrent ready, forgetting what went wrong with it. `known`: some of its data was there.
    pub(super) fn prepare(
        &mut self,
        info_hash: &InfoHash,
        place: &Place,
        known: bool,
        buffer: &mut Vec<u8>,
        now: Instant,
    ) -> Result<Prepared, Trouble> {
        self.close(info_hash);
        let prepared = self.open(info_hash, place, known, buffer, now);
        let unsaved = self.unsaved_mut(info_hash);
        (unsaved.some, unsaved.lost) = (false, None);
        unsaved.refused = prepared.as_ref().err().cloned();
        prepared
    }

    /// Whether a torrent is ready at that place.
    pub(super) fn is_ready(&self, info_hash: &InfoHash, place: &Place) -> bool {
        self.position(info_hash).is_some_and(|at| self.ready[at].hashing.is_at(place))
    }

    /// Writes the blocks of a torrent, and hashes its pieces on. `writes` are those of the target; `known` as above, for
    /// a torrent that is not ready.
    pub(super) fn write(
        &mut self,
        target: &Target,
        writes: &mut [Write],
        bytes: &[u8],
        known: bool,
        reader: &mut Reader<'_>,
        now: Instant,
    ) -> Outcome {
        let mut hashed = Vec::new();
        let written = self.make_ready(target, known, reader.buffer, now).and_then(|made_ready| {
            let (ready, unsaved, outputs) = made_ready;
            let written = put(outputs, ready, unsaved, writes, bytes).and_then(|memory| {
                target.pieces.iter().try_for_each(|progress| {
                    hashed.extend(ready.advance(progress, memory, bytes, reader)?);
                    Ok(())
                })
            });
            written.map_err(|trouble| unsaved.blame(trouble, &target.place))
        });
        let trouble = written.err().map(|trouble| self.refuse(&target.info_hash, trouble));
        Outcome { key: target.key, trouble, hashed }
    }

    /// A torrent that is ready, with what belongs to it.
    fn make_ready(
        &mut self,
        target: &Target,
        known: bool,
        buffer: &mut Vec<u8>,
        now: Instant,
    ) -> Result<(&mut Ready, &mut Unsaved, &mut Outputs), Trouble> {
        let (info_hash, place) = (&target.info_hash, &target.place);
        if let Some(refused) = &self.unsaved_mut(info_hash).refused {
            return Err(refused.clone());
        }
        if !self.is_ready(info_hash, place) {
            self.close(info_hash);
            // Its disk may be another one by now.
            if self.unsaved_mut(info_hash).some && exists(&place.data) == Ok(false) {
                return Err(missing(place, true));
            }
            self.open(info_hash, place, known, buffer, now)?;
        }
        let Writer { ready, outputs, unsaved } = self;
        let at = ready.iter().position(|ready| ready.info_hash == *info_hash);
        let unsaved = unsaved.iter_mut().find(|unsaved| unsaved.info_hash == *info_hash);
        let (Some(at), Some(unsaved)) = (at, unsaved) else { return Err(Trouble::TorrentChanged) };
        ready[at..].rotate_left(1);
        let ready = ready.last_mut().ok_or(Trouble::TorrentChanged)?;
        ready.used = now;
        Ok((ready, unsaved, outputs))
    }

    /// Syncs what was written of a torrent and fills in its record; unless it stays open, it is closed whatever comes of
    /// that. `old` are the stamps on record.
    pub(super) fn save(
        &mut self,
        place: &Place,
        record: &mut Record,
        old: &[Stamp],
        open: bool,
        reader: &mut Reader<'_>,
    ) -> Result<(), Trouble> {
        let info_hash = record.info_hash;
        let mut unsaved = match self.unsaved.iter().position(|unsaved| unsaved.info_hash == info_hash) {
            Some(at) => self.unsaved.swap_remove(at),
            None => Unsaved::new(info_hash),
        };
        let result = self.try_save(place, &mut unsaved, record, old, open, reader);
        let result = result.map_err(|trouble| unsaved.blame(trouble, place));
        if !open {
            self.close(&info_hash);
            self.unsaved.shrink_to(TORRENTS);
            return result;
        }
        self.unsaved.push(unsaved);
        result.map_err(|trouble| match trouble {
            // It can be tried again.
            Trouble::NoDescriptors(_) => trouble,
            trouble => self.refuse(&info_hash, trouble),
        })
    }

    fn try_save(
        &mut self,
        place: &Place,
        unsaved: &mut Unsaved,
        record: &mut Record,
        old: &[Stamp],
        open: bool,
        reader: &mut Reader<'_>,
    ) -> Result<(), Trouble> {
        if let Some(lost) = &unsaved.lost {
            return Err(lost.clone());
        }
        let opened;
        let ready = self.position(&record.info_hash).map(|at| &self.ready[at].hashing);
        let hashing = match ready.filter(|hashing| hashing.is_at(place)) {
            Some(hashing) => hashing,
            None => {
                opened = Hashing::open(place, reader.buffer)?;
                &opened
            }
        };
        let complete = record.verified.as_ref().is_some_and(|verified| verified.have.is_all());
        if complete && !open {
            make_empty_files(&mut self.outputs, hashing, &record.info_hash, unsaved);
        }
        // A file of which pieces are missing is trusted by its record alone while it is open, any other by its stamp.
        let layout = hashing.layout();
        let stays_open = |file: u32| {
            open && record.verified.as_ref().is_none_or(|verified| {
                layout.pieces(layout.range(file)).any(|piece| !verified.have.contains(piece))
            })
        };
        sync(&self.outputs, hashing, &record.info_hash, unsaved, &stays_open, reader.between)?;
        let verified = record.verified.as_ref();
        let stamps = verified.map(|verified| stamps(hashing, unsaved, &verified.have, old, &stays_open));
        let stamps = stamps.transpose()?;
        if let (Some(verified), Some(stamps)) = (&mut record.verified, stamps) {
            verified.stamps = stamps;
            record.open = open && !complete;
        }
        (unsaved.written, unsaved.made) = (Have::None, Have::None);
        Ok(())
    }

    /// Lets go of a torrent that is gone.
    pub(super) fn forget(&mut self, info_hash: &InfoHash) {
        self.close(info_hash);
        self.unsaved.keep(|unsaved| unsaved.info_hash != *info_hash);
        self.unsaved.shrink_to(TORRENTS);
    }

    /// Closes what has not been written lately.
    pub(super) fn poll(&mut self, now: Instant) {
        while let Some(idle) = self.ready.first().filter(|ready| ready.used + IDLE <= now) {
            let info_hash = idle.info_hash;
            self.close(&info_hash);
        }
    }

    /// When [`Writer::poll`] will next close something.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.ready.first().map(|ready| ready.used + IDLE)
    }

    fn position(&self, info_hash: &InfoHash) -> Option<usize> {
        self.ready.iter().position(|ready| ready.info_hash == *info_hash)
    }

    /// What is remembered of a torrent, from now on if not before.
    fn unsaved_mut(&mut self, info_hash: &InfoHash) -> &mut Unsaved {
        let known = self.unsaved.iter().position(|unsaved| unsaved.info_hash == *info_hash);
        let at = known.unwrap_or_else(|| {
            self.unsaved.push(Unsaved::new(*info_hash));
            self.unsaved.len() - 1
        });
        &mut self.unsaved[at]
    }

    fn close(&mut self, info_hash: &InfoHash) {
        self.ready.keep(|ready| ready.info_hash != *info_hash);
        if self.ready.is_empty() {
            self.ready = Vec::new();
        }
        self.outputs.close(info_hash);
    }

    fn open(
        &mut self,
        info_hash: &InfoHash,
        place: &Place,
        known: bool,
        buffer: &mut Vec<u8>,
        now: Instant,
    ) -> Result<Prepared, Trouble> {
        let ground = survey(place, known, self.outputs.disk())?;
        let (torrent, metainfo) = parse_torrent(place, buffer)?;
        if metainfo.info_hash != *info_hash {
            return Err(Trouble::TorrentChanged);
        }
        let (hashes_at, layout) = (metainfo.hashes_at, Layout::new(&metainfo, place.data.clone()));
        drop(metainfo);
        let tree = Tree::make(place, layout.is_multi_file())?;
        let prepared = ground.takes(&layout, &tree, self.outputs.disk())?;
        let files =
            |ready: &[Ready]| ready.iter().map(|ready| ready.hashing.layout().file_count()).sum::<u32>();
        while let Some(oldest) = self.ready.first().filter(|_| {
            self.ready.len() >= TORRENTS || files(&self.ready).saturating_add(layout.file_count()) > FILES
        }) {
            let oldest = oldest.info_hash;
            self.close(&oldest);
        }
        let hashing = Hashing::new(place, torrent, hashes_at, layout, tree);
        self.ready.push(Ready { info_hash: *info_hash, hashing, begun: Vec::new(), used: now });
        self.unsaved_mut(info_hash);
        Ok(prepared)
    }

    /// Writes no more of a torrent until it is prepared again.
    fn refuse(&mut self, info_hash: &InfoHash, trouble: Trouble) -> Trouble {
        self.close(info_hash);
        self.unsaved_mut(info_hash).refused = Some(trouble.clone());
        trouble
    }
}

impl Ready {
    /// Hashes a piece on; its verdict, if that is all of it.
    fn advance(
        &mut self,
        progress: &Progress,
        writes: &[Write],
        bytes: &[u8],
        reader: &mut Reader<'_>,
    ) -> Result<Option<Hashed>, Trouble> {
        let Ready { hashing, begun, .. } = self;
        let lengths = hashing.layout().lengths();
        let Some(piece) = lengths.piece(progress.piece) else { return Ok(None) };
        let size = lengths.size(piece);
        let ready = progress.ready.min(size);
        let known = begun.iter().position(|begun| begun.piece() == piece).map(|at| begun.remove(at));
        let mut this = known.filter(|begun| begun.at() <= ready).unwrap_or_else(|| Begun::new(piece));
        let from = writes.partition_point(|write| write.piece < progress.piece);
        let to = writes.partition_point(|write| write.piece <= progress.piece);
        let fragments = writes.get(from..to).unwrap_or(&[]);
        if let Some(short) = hashing.advance(&mut this, ready, fragments, bytes, reader)? {
            return Err(hashing.cut(short));
        }
        if ready < size {
            if begun.len() >= BEGUN {
                begun.remove(0);
            }
            begun.push(this);
            return Ok(None);
        }
        let good = hashing.is_right(this)?;
        let digests =
            if good && !progress.digests { Box::default() } else { hashing.digests(piece, reader)? };
        Ok(Some(Hashed { piece: progress.piece, good, digests }))
    }
}

impl Unsaved {
    fn new(info_hash: InfoHash) -> Unsaved {
        Unsaved { info_hash, written: Have::None, made: Have::None, some: false, refused: None, lost: None }
    }

    /// An error that came from writing, or the missing disk behind it.
    fn blame(&self, trouble: Trouble, place: &Place) -> Trouble {
        let gone = |path: &Path| exists(path) == Ok(false);
        match trouble {
            Trouble::Io { .. } | Trouble::Changed(_) if gone(root_of(place)) => {
                Trouble::RootAbsent(root_of(place).into())
            }
            Trouble::Io { .. } | Trouble::Changed(_) if self.some && gone(&place.data) => {
                missing(place, true)
            }
            trouble => trouble,
        }
    }
}

/// Writes fragments of one torrent, each run of contiguous ones with one call. Returns what of them pieces can be hashed
/// from, in the order of the torrent.
fn put<'a>(
    outputs: &mut Outputs,
    ready: &Ready,
    unsaved: &mut Unsaved,
    writes: &'a mut [Write],
    bytes: &[u8],
) -> Result<&'a [Write], Trouble> {
    let (hashing, layout) = (&ready.hashing, ready.hashing.layout());
    list::sort_by_key(writes, |write| (write.piece, write.begin));
    let overlap = writes
        .windows(2)
        .any(|two| two[0].piece == two[1].piece && two[0].begin.saturating_add(two[0].len) > two[1].begin);
    if overlap {
        // Two peers sent the same: what came last stays, as it does when it comes in another batch.
        list::sort_by_key(writes, |write| write.at);
    }
    let mut pending: Option<Run<'_>> = None;
    for write in &*writes {
        let Some(offset) = offset_of(layout.lengths(), write) else { continue };
        let (at, len) = (write.at as usize, write.len as usize);
        let Some(mut rest) = bytes.get(at..).and_then(|bytes| bytes.get(..len)) else { continue };
        for span in layout.spans(offset, u64::from(write.len)) {
            let part = usize::try_from(span.len).ok().and_then(|len| rest.split_off(..len));
            let Some(part) = part.filter(|_| !span.pad) else { continue };
            if pending.as_mut().is_some_and(|run| run.extend(&span, part)) {
                continue;
            }
            if let Some(run) = pending.replace(Run::new(&span, part)) {
                outputs.write(run, &ready.info_hash, hashing, unsaved)?;
            }
        }
    }
    if let Some(run) = pending {
        outputs.write(run, &ready.info_hash, hashing, unsaved)?;
    }
    Ok(if overlap { &[] } else { writes })
}

/// Where in the torrent a fragment lies, if its piece has room for it. One from a web seed may be longer than any block.
fn offset_of(lengths: Lengths, write: &Write) -> Option<u64> {
    let piece = lengths.piece(write.piece)?;
    let end = write.begin.checked_add(write.len)?;
    (end <= lengths.size(piece)).then_some(lengths.offset(piece) + u64::from(write.begin))
}

/// Of a torrent that is whole.
fn make_empty_files(outputs: &mut Outputs, hashing: &Hashing, info_hash: &InfoHash, unsaved: &mut Unsaved) {
    let layout = hashing.layout();
    let is_empty = |file: &u32| layout.range(*file).is_empty() && !layout.is_pad(*file);
    for file in (0..layout.file_count()).filter(is_empty) {
        if let Err(trouble) = outputs.touch(info_hash, file, hashing, unsaved) {
            // No peer ever asks for a byte of it.
            log::warn!("an empty file is not made: {trouble}");
        }
    }
}

/// Puts on disk what was written of a torrent.
fn sync(
    outputs: &Outputs,
    hashing: &Hashing,
    info_hash: &InfoHash,
    unsaved: &mut Unsaved,
    stays_open: &dyn Fn(u32) -> bool,
    between: &mut dyn FnMut(),
) -> Result<(), Trouble> {
    let (layout, tree) = (hashing.layout(), hashing.tree());
    let count = layout.file_count();
    let together = unsaved.written.count(count) >= TOGETHER;
    for (index, file) in (0..count).filter(|&file| unsaved.written.contains(file)).enumerate() {
        let changed = || hashing.cut(file);
        let fail = |error| Trouble::of(&layout.path(file), error);
        let here = tree.stat(layout, file)?.ok_or_else(changed)?;
        let opened;
        let fd = match outputs.find(info_hash, file) {
            // It may have been moved away, or another put in its place.
            Some(fd) if number(fstat(fd).map_err(fail)?.st_ino) != number(here.st_ino) => {
                return Err(changed());
            }
            Some(fd) => fd,
            None => {
                opened = tree.file(layout, file)?.ok_or_else(changed)?.0;
                &opened
            }
        };
        if index == 0 && together {
            let _ = syncfs(fd);
        }
        // A stamp that is compared from now on must be on disk as well.
        let synced = attempt().and_then(|()| if stays_open(file) { fdatasync(fd) } else { fsync(fd) });
        match synced {
            // A file system that has nothing to sync.
            Ok(()) | Err(Errno::INVAL) => {}
            Err(error) => {
                // The system takes what it could not write for written: asked again it would say that all is well, and
                // show it until it has forgotten it.
                let _ = fadvise(fd, 0, None, Advice::DontNeed);
                let trouble = refused(layout, file, fd, outputs.disk(), error);
                unsaved.lost = Some(trouble.clone());
                return Err(trouble);
            }
        }
        between();
    }
    let mut done = SortedSet::new();
    for file in (0..count).filter(|&file| unsaved.made.contains(file)) {
        tree.sync_name(layout, file, &mut done)
            .inspect_err(|trouble| unsaved.lost = Some(trouble.clone()))?;
    }
    Ok(())
}

/// How the files are now that stamps are compared of; of one that nobody has written since, how it was.
fn stamps(
    hashing: &Hashing,
    unsaved: &Unsaved,
    have: &Have,
    old: &[Stamp],
    stays_open: &dyn Fn(u32) -> bool,
) -> Result<Box<[Stamp]>, Trouble> {
    let (layout, lengths) = (hashing.layout(), hashing.layout().lengths());
    let mut stamps = vec![Stamp::ABSENT; layout.file_count() as usize];
    for file in (0..layout.file_count()).filter(|&file| layout.is_needed(file) && !stays_open(file)) {
        let known = old.get(file as usize).filter(|stamp| **stamp != Stamp::ABSENT);
        if let Some(known) = known.filter(|_| !unsaved.written.contains(file)) {
            stamps[file as usize] = *known;
            continue;
        }
        let stamp = hashing.tree().stamp(layout, file)?;
        let range = layout.range(file);
        let last = layout.pieces(range.clone()).rev().find(|&piece| have.contains(piece));
        let end = last
            .and_then(|last| lengths.piece(last))
            .map_or(range.start, |last| range.end.min(lengths.offset(last) + u64::from(lengths.size(last))));
        let there = if stamp == Stamp::ABSENT { 0 } else { stamp.size };
        if there < end - range.start {
            // Somebody else has taken it away.
            return Err(hashing.cut(file));
        }
        stamps[file as usize] = stamp;
    }
    Ok(stamps.into())
}

#[cfg(test)]
mod tests;

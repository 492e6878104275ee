//! The storage thread: everything about files that may wait for a disk happens here, one thing at a time.
//!
//! Three queues: what a peer waits for comes first, then everything short and all writing, then hashing, which goes on
//! in slices and lets the first queue in between any two reads. With nothing to do and nothing open the thread sleeps
//! without a timer. Holds the index of the resume file, and while it works a buffer of 128 KiB, one .torrent and the
//! layouts of the torrents that are hashed and written; a second after the last hashing, whatever else there is to do, all
//! but the index and what is written is gone, a minute after the last write that, too.
#![expect(clippy::disallowed_methods, reason = "I/O shell")]

#[cfg(feature = "maker")]
pub mod check;
mod compare;
mod fault;
mod files;
mod hashing;
mod jobs;
mod links;
mod nodes;
mod output;
mod prepare;
mod records;
mod tree;
mod write;

use std::cell::Cell;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

pub use files::{Files, OpenFile, ReadMode};
pub use jobs::{
    Away, Batch, Checked, Done, Hashed, Job, Kept, LaidOut, Linked, Loaded, Outcome, Place, Prepared,
    Progress, Target, Unkept,
};
pub use tree::{hashed, sidecar};

use super::resume::Record;
use super::{Layout, Trouble};
use crate::ident::Ident;
use crate::list;
use crate::metainfo::{self, InfoHash};
use crate::sorted::SortedSet;
use compare::compare;
use hashing::{CHUNK, Hashing, Reader, Unread, parse_torrent, read_torrent};
use records::Records;
use tree::{Tree, ident_of, probe};
use write::Writer;

/// Jobs of peers that are under way at a time; a peer waits for one.
const URGENT: usize = 256;

/// Other jobs under way at a time: enough that the thread never waits for the next one.
const USUAL: usize = 64;

/// Batches under way at a time: one that is written, and enough that the next one is always there.
const WRITES: usize = 4;

/// With more batches than this waiting for the thread, the answer to one can wait for that to the next.
const HOLD: usize = 1;

/// Jobs whose room in a queue is kept after a burst.
const QUEUE: usize = 8;

/// A slice of hashing ends after this long, so that checks of several torrents advance side by side.
const SLICE: Duration = Duration::from_millis(100);

/// Pieces of a slice at most: its answer holds a byte for each.
const SLICE_PIECES: u32 = 4096;

/// What hashing needs is kept this long for its next slice.
const KEEP: Duration = Duration::from_secs(1);

/// Stack of the thread: the deepest calls are the scan and the parser, neither of which recurses.
const STACK: usize = 256 * 1024;

/// Niceness of the thread, from which its I/O priority follows: packets of the mesh come first.
const NICE: i32 = 5;

/// The storage thread as the other one sees it.
pub struct Storage {
    shared: Arc<Shared>,
    /// Jobs given and not yet answered, by the queue's bound they count for.
    urgent: Cell<usize>,
    usual: Cell<usize>,
    writes: Cell<usize>,
}

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    wake: Condvar,
    answers: Mutex<Answers>,
}

/// What the thread has done and the other one has not seen; bounded by the jobs under way, see [`Storage::try_submit`].
#[derive(Default)]
struct Answers {
    done: VecDeque<Done>,
    waker: Option<Waker>,
}

#[derive(Default)]
struct Queue {
    urgent: VecDeque<Job>,
    usual: VecDeque<Job>,
    hashing: VecDeque<Job>,
    /// The thread waits for a job.
    idle: bool,
}

/// What the thread works with.
struct Worker {
    shared: Arc<Shared>,
    desk: Desk,
    /// The torrent that is being hashed.
    hashing: Option<Hashing>,
    /// Those that are written.
    writer: Writer,
    /// For content that is read.
    buffer: Vec<u8>,
    /// When one of the last three was last needed.
    used: Instant,
}

/// All of it that is not needed for hashing and writing.
struct Desk {
    shared: Arc<Shared>,
    records: Records,
    modes: files::Modes,
    /// Torrents whose files may be written to: they are not as their stamps say.
    written: SortedSet<InfoHash>,
    /// For a .torrent.
    buffer: Vec<u8>,
}

impl Storage {
    /// Starts the thread. What is on record in `state` is read when it is first asked for.
    pub fn start(state: Option<PathBuf>) -> std::io::Result<Storage> {
        let shared = Arc::new(Shared::default());
        let theirs = shared.clone();
        std::thread::Builder::new().name("storage".into()).stack_size(STACK).spawn(move || {
            // Of this thread alone, on Linux. Where it is refused everything works as well, only less politely.
            let _ = rustix::process::setpriority_process(None, NICE);
            let records = Records::new(state);
            let (modes, written) = (files::Modes::default(), SortedSet::new());
            let desk = Desk { shared: theirs.clone(), records, modes, written, buffer: Vec::new() };
            let writer = Writer::default();
            let (buffer, used) = (Vec::new(), Instant::now());
            Worker { shared: theirs, desk, hashing: None, writer, buffer, used }.run();
        })?;
        let none = || Cell::new(0);
        Ok(Storage { shared, urgent: none(), usual: none(), writes: none() })
    }

    /// Gives the thread a job. It comes back where too many are under way: then an answer is, too.
    #[expect(clippy::result_large_err, reason = "the job itself comes back")]
    pub fn try_submit(&self, job: Job) -> Result<(), Job> {
        let (under_way, bound) = match job {
            Job::Read { .. } | Job::Layout { .. } => (&self.urgent, URGENT),
            Job::Write(_) => (&self.writes, WRITES),
            // One a torrent at a time, and what it holds must not be lost.
            Job::Save { .. } => (&self.usual, usize::MAX),
            _ => (&self.usual, USUAL),
        };
        if job.is_answered() {
            if under_way.get() >= bound {
                return Err(job);
            }
            under_way.set(under_way.get() + 1);
        }
        let mut queue = self.shared.lock();
        match job {
            Job::Read { .. } | Job::Layout { .. } => queue.urgent.push_back(job),
            Job::Verify { .. } => queue.hashing.push_back(job),
            _ => queue.usual.push_back(job),
        }
        let was_idle = std::mem::take(&mut queue.idle);
        // Unlocked first, or the thread would wake only to wait for the lock.
        drop(queue);
        if was_idle {
            self.shared.wake.notify_one();
        }
        Ok(())
    }

    /// The next answer. Waits for ever once the thread has stopped.
    pub async fn next(&self) -> Done {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    /// The next answer, if there is one already.
    pub fn try_next(&self) -> Option<Done> {
        let done = self.shared.answers().done.pop_front();
        done.map(|done| self.took(done))
    }

    fn poll_next(&self, cx: &mut Context<'_>) -> Poll<Done> {
        let mut answers = self.shared.answers();
        let Some(done) = answers.done.pop_front() else {
            give_back(&mut answers.done);
            answers.waker = Some(cx.waker().clone());
            return Poll::Pending;
        };
        drop(answers);
        Poll::Ready(self.took(done))
    }

    /// Batches given and not yet answered.
    pub fn writes_under_way(&self) -> usize {
        self.writes.get()
    }

    fn took(&self, done: Done) -> Done {
        let under_way = match done {
            Done::Read { .. } | Done::LaidOut { .. } => &self.urgent,
            Done::Wrote { .. } => &self.writes,
            _ => &self.usual,
        };
        under_way.set(under_way.get().saturating_sub(1));
        done
    }
}

/// Puts a torrent on record in a state directory that no daemon uses yet.
pub fn remember(state: PathBuf, record: Record) -> Result<(), String> {
    let mut records = Records::open(Some(state));
    records.insert(record);
    records.flush()
}

impl Drop for Storage {
    fn drop(&mut self) {
        let mut queue = self.shared.lock();
        queue.usual.push_back(Job::Stop);
        queue.idle = false;
        self.shared.wake.notify_one();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answers(&self) -> MutexGuard<'_, Answers> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queue {
    fn pop(&mut self) -> Option<Job> {
        self.urgent.pop_front().or_else(|| self.usual.pop_front()).or_else(|| self.hashing.pop_front())
    }

    /// Batches that wait.
    fn writes(&self) -> usize {
        self.usual.iter().filter(|job| matches!(job, Job::Write(_))).count()
    }
}

impl Worker {
    fn run(mut self) {
        while let Some(job) = self.next() {
            let done = match job {
                Job::Stop => return,
                Job::Verify { key, place, pieces } => self.verify(key, &place, pieces),
                Job::Prepare { key, info_hash, place } => {
                    Done::Prepared { key, result: self.prepare(&info_hash, &place) }
                }
                Job::Write(batch) => self.write(*batch),
                Job::Save { key, place, record, open } => {
                    Done::Saved { key, result: self.save(&place, *record, open) }
                }
                Job::Disk(disk) => {
                    self.desk.records.set_require(disk.require_mount);
                    self.writer.set_disk(disk);
                    continue;
                }
                Job::Left { left, there } => {
                    for info_hash in &left {
                        self.writer.forget(info_hash);
                        self.desk.written.remove(info_hash);
                    }
                    self.desk.records.thin_out(&left, &there);
                    continue;
                }
                job => {
                    self.desk.handle(job);
                    continue;
                }
            };
            self.used = Instant::now();
            self.desk.answer(done);
        }
    }

    /// The next job; while there is none, what is no longer needed is let go.
    fn next(&mut self) -> Option<Job> {
        let shared = self.shared.clone();
        let mut queue = shared.lock();
        loop {
            if let Some(job) = queue.pop() {
                queue.idle = false;
                return Some(job);
            }
            queue.idle = true;
            if self.desk.buffer.capacity() > 0 {
                drop(queue);
                self.desk.buffer = Vec::new();
                queue = shared.lock();
                continue;
            }
            let held = self.hashing.is_some() || self.buffer.capacity() > 0;
            let keep = held.then(|| self.used + KEEP);
            let Some(until) = list::soonest(&[keep, self.writer.deadline()]) else {
                give_back(&mut queue.urgent);
                give_back(&mut queue.usual);
                queue = shared.wake.wait(queue).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let now = Instant::now();
            if now < until {
                let waited = shared.wake.wait_timeout(queue, until - now);
                (queue, _) = waited.unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            drop(queue);
            if keep.is_some_and(|keep| keep <= now) {
                self.hashing = None;
                self.buffer = Vec::new();
                self.desk.modes.clear();
            }
            self.writer.poll(now);
            queue = shared.lock();
        }
    }

    fn prepare(&mut self, info_hash: &InfoHash, place: &Place) -> Result<Prepared, Trouble> {
        let known = self.desk.records.had_data(info_hash);
        let result = self.writer.prepare(info_hash, place, known, &mut self.buffer, Instant::now());
        self.trim();
        if result.is_ok() {
            self.desk.written.insert(*info_hash);
        }
        result
    }

    fn write(&mut self, batch: Batch) -> Done {
        let Worker { shared, desk, writer, buffer, .. } = self;
        let Batch { filled, targets } = batch;
        let (bytes, mut writes) = (filled.bytes, filled.writes);
        list::sort_by_key(&mut writes, |write| write.key);
        let mut outcomes = Vec::with_capacity(targets.len());
        for target in &targets {
            let from = writes.partition_point(|write| write.key < target.key);
            let to = writes.partition_point(|write| write.key <= target.key);
            let known = !writer.is_ready(&target.info_hash, &target.place)
                && desk.records.had_data(&target.info_hash);
            desk.written.insert(target.info_hash);
            let mut between = || peers_first(shared, desk);
            let mut reader = Reader { buffer, between: &mut between };
            let writes = &mut writes[from..to];
            outcomes.push(writer.write(target, writes, &bytes, known, &mut reader, Instant::now()));
        }
        self.trim();
        Done::Wrote { bytes, outcomes }
    }

    fn save(&mut self, place: &Place, mut record: Record, open: bool) -> Result<(), Trouble> {
        let Worker { shared, desk, writer, buffer, .. } = self;
        let known = desk.records.find(&record.info_hash).ok().flatten().and_then(|record| record.verified);
        let old = known.map(|verified| verified.stamps).unwrap_or_default();
        let mut between = || peers_first(shared, desk);
        let mut reader = Reader { buffer, between: &mut between };
        let result = writer.save(place, &mut record, &old, open, &mut reader);
        self.trim();
        if !open {
            self.desk.written.remove(&record.info_hash);
        }
        result.map(|()| self.desk.records.insert(record))
    }

    /// The buffer has held a .torrent, too: a huge one is not kept.
    fn trim(&mut self) {
        if self.buffer.capacity() > CHUNK {
            self.buffer = Vec::new();
        }
    }

    /// Hashes the first of some pieces: at least one, and more until somebody else waits or the slice is over.
    fn verify(&mut self, key: u32, place: &Place, pieces: Range<u32>) -> Done {
        let start = pieces.start;
        let mut good = Vec::new();
        let trouble = self.hash(place, pieces, &mut good).err();
        let end = start.saturating_add(u32::try_from(good.len()).unwrap_or(0));
        if trouble.is_some() {
            // Whatever is wrong, the next attempt begins with a fresh look.
            self.hashing = None;
        } else if let Some(hashing) = &mut self.hashing {
            hashing.rest();
        }
        Done::Verified { key, pieces: start..end, good, trouble }
    }

    fn hash(&mut self, place: &Place, pieces: Range<u32>, good: &mut Vec<bool>) -> Result<(), Trouble> {
        let Worker { shared, desk, hashing, buffer, .. } = self;
        if hashing.as_ref().is_none_or(|hashing| !hashing.is_of(place)) {
            // First let go, then taken: never two layouts at a time.
            *hashing = None;
            let opened = Hashing::open(place, &mut desk.buffer);
            desk.trim();
            *hashing = Some(opened?);
        }
        let Some(hashing) = hashing else { return Ok(()) };
        let count = hashing.layout().lengths().piece_count();
        let started = Instant::now();
        for piece in pieces.start..pieces.end.min(count).min(pieces.start.saturating_add(SLICE_PIECES)) {
            let mut between = || peers_first(shared, desk);
            good.push(hashing.piece(piece, &mut Reader { buffer, between: &mut between })?);
            let queue = shared.lock();
            if !queue.urgent.is_empty() || !queue.usual.is_empty() || started.elapsed() >= SLICE {
                break;
            }
        }
        Ok(())
    }
}

/// The memory of an empty queue that was long.
fn give_back<T>(queue: &mut VecDeque<T>) {
    if queue.capacity() > QUEUE {
        *queue = VecDeque::new();
    }
}

/// Does what peers wait for; called between two reads.
fn peers_first(shared: &Shared, desk: &mut Desk) {
    loop {
        let Some(job) = shared.lock().urgent.pop_front() else { return };
        desk.handle(job);
    }
}

/// Why a file of a watched directory is refused that could not be read.
fn read_error(why: Unread) -> String {
    match why {
        Unread::Io(error) => format!("it cannot be read: {}", std::io::Error::from(error)),
        Unread::Unfit(why) => why.into(),
        Unread::Changed => Trouble::TorrentChanged.to_string(),
    }
}

/// Of a file that could not be opened, which a look at it from outside has to know again; none where it is gone.
fn closed_ident(path: &Path) -> Ident {
    let gone = Ident { inode: 0, size: 0, mtime_secs: 0, mtime_nanos: 0, ctime: 0 };
    rustix::fs::stat(path).map_or(gone, |stat| ident_of(&stat))
}

impl Desk {
    fn answer(&self, done: Done) {
        // To be woken for each batch costs the other thread more than what it then does: it hears of several together.
        let can_wait = matches!(done, Done::Wrote { .. }) && self.shared.lock().writes() > HOLD;
        let mut answers = self.shared.answers();
        answers.done.push_back(done);
        let waker = if can_wait { None } else { answers.waker.take() };
        // Unlocked first, or the other thread would wake only to wait for the lock.
        drop(answers);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn handle(&mut self, job: Job) {
        let done = match job {
            Job::Scan { roots, known } => {
                self.records.tend();
                Done::Scanned(crate::watch::io::rescan(&roots, known).map(Box::new))
            }
            Job::Load { path } => self.load(path),
            Job::Check { key, info_hash, place } => {
                let done = compare(key, info_hash, &place, &self.records, &mut self.buffer);
                // The data may have come with the disk that state is on, too.
                match done {
                    Done::Checked { known: Ok(Some(_)), .. } => done,
                    _ if !self.records.look() => done,
                    _ => compare(key, info_hash, &place, &self.records, &mut self.buffer),
                }
            }
            Job::Probe(places) => {
                let lost = probe(&places);
                if !lost.is_empty() {
                    // The disk that comes next may get the same device number.
                    self.modes.clear();
                }
                Done::Lost(lost)
            }
            Job::Layout { key, place } => {
                let result = parse_torrent(&place, &mut self.buffer).map(|(_, metainfo)| {
                    let layout = Layout::new(&metainfo, place.data);
                    let (web_seeds, http_seeds) = (metainfo.web_seeds, metainfo.http_seeds);
                    Box::new(LaidOut { layout, web_seeds, http_seeds })
                });
                Done::LaidOut { key, result }
            }
            Job::Read { key, peer, info_hash, place, file, path, offset, len, ahead, fd } => {
                let warm = |open: &OpenFile| match open.warm(offset, len, ahead) {
                    Ok(true) => Ok(()),
                    Ok(false) => Err(Trouble::Changed(path.clone())),
                    Err(error) => Err(Trouble::of(&path, error)),
                };
                let result = self
                    .read(&info_hash, &place, file, &path, warm, fd.as_deref())
                    .map_err(|trouble| tree::blame(trouble, &place));
                Done::Read { key, peer, file, result }
            }
            Job::Link { path } => {
                let (ident, result) = self.link(&path);
                Done::Linked { path, ident, result }
            }
            Job::Keep { key, pieces, link, path } => {
                Done::Kept { key, result: self.keep(pieces, &link, &path) }
            }
            Job::Metadata { key, peer, place, piece, at } => {
                Done::Metadata { key, peer, piece, result: links::read_metadata(&place, at) }
            }
            Job::Discard { info_hash, beside } => {
                self.discard(&info_hash, beside.as_deref());
                return self.trim();
            }
            Job::Flush => Done::Flushed(self.records.flush()),
            Job::Record(record) => return self.records.insert(*record),
            Job::LoadNodes => {
                self.records.look();
                let away = self.records.is_away();
                let nodes = self.records.directory().map(nodes::load).unwrap_or_default();
                Done::Nodes(if away { Err(Away) } else { Ok(nodes) })
            }
            Job::Recall { key, info_hash, path } => {
                self.records.look();
                match self.kept_before(&info_hash, &path) {
                    Some(kept) => Done::Kept { key, result: Ok(Box::new(kept)) },
                    None => Done::Recalled { key, known: self.records.recall(&info_hash).0 },
                }
            }
            Job::SaveNodes(bytes) => {
                if let Ok(directory) = self.records.make() {
                    nodes::save(directory, &bytes);
                }
                return;
            }
            // For the worker.
            Job::Verify { .. }
            | Job::Prepare { .. }
            | Job::Write(_)
            | Job::Save { .. }
            | Job::Disk(_)
            | Job::Left { .. }
            | Job::Stop => return,
        };
        self.trim();
        self.answer(done);
    }

    /// A buffer of the usual size is kept for the next .torrent, a huge one is not.
    fn trim(&mut self) {
        if self.buffer.capacity() > CHUNK {
            self.buffer = Vec::new();
        }
    }

    fn load(&mut self, path: Arc<Path>) -> Done {
        let (ident, result) = match read_torrent(&path, None, &mut self.buffer) {
            Ok((_, ident)) => (Some(ident), self.parse(&path)),
            Err((ident, why)) => (ident, Err(read_error(why))),
        };
        let ident = ident.unwrap_or_else(|| closed_ident(&path));
        Done::Loaded { path, ident, result }
    }

    fn parse(&self, path: &Path) -> Result<Box<Loaded>, String> {
        let summary = metainfo::parse(&self.buffer).map_err(|error| error.to_string())?.summary();
        Ok(Box::new(Loaded { summary, sidecar: sidecar(path)? }))
    }

    fn read(
        &mut self,
        info_hash: &InfoHash,
        place: &Place,
        file: u32,
        path: &Path,
        warm: impl Fn(&OpenFile) -> Result<(), Trouble>,
        open: Option<&OpenFile>,
    ) -> Result<Option<OpenFile>, Trouble> {
        let fail = |error| Trouble::of(path, error);
        let is_written = self.written.contains(info_hash);
        if let Some(open) = open {
            if !is_written && open.is_changed().map_err(fail)? {
                return Err(Trouble::Changed(path.into()));
            }
            warm(open)?;
            return Ok(None);
        }
        let multi_file = path != &*place.data;
        let Some((fd, stat)) = Tree::open(place, multi_file)?.file_at(path)? else {
            return Err(Trouble::Changed(path.into()));
        };
        let open = OpenFile::new(fd, &stat, &mut self.modes);
        if !is_written && self.records.find_stamp(info_hash, file).is_some_and(|stamp| stamp != open.stamp())
        {
            return Err(Trouble::Changed(path.into()));
        }
        warm(&open)?;
        Ok(Some(open))
    }
}

#[cfg(test)]
pub(crate) mod tests;

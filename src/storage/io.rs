//! The storage thread: everything about files that may wait for a disk happens here, one thing at a time.
//!
//! Three queues: what a peer waits for comes first, then everything short, then hashing, which goes on in slices and
//! lets the first queue in between any two reads. With nothing to do the thread sleeps without a timer. Omitted:
//! writing content. Holds the index of the resume file, and while it works a buffer of 128 KiB, one .torrent and the
//! layout of the torrent that is being hashed; a second after the last job all but the index is gone.
#![expect(clippy::disallowed_methods, reason = "I/O shell")]

mod compare;
mod files;
mod hashing;
mod records;
mod tree;

use std::cell::Cell;
use std::collections::VecDeque;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use smol::channel::{Receiver, Sender};

pub use files::{Files, OpenFile, ReadMode};
pub use hashing::{Flaw, Verdict, check};

use super::resume::{Record, Stamp};
use super::{Layout, Trouble};
use crate::have::Have;
use crate::ident::Ident;
use crate::metainfo::{self, InfoHash, Summary};
use crate::watch::Listing;
use hashing::{CHUNK, Hashing, Unread, parse_torrent, read_torrent};
use records::Records;
pub use tree::sidecar;
use tree::{Tree, probe};

/// Jobs of peers that are under way at a time; a peer waits for one.
const URGENT: usize = 256;

/// Other jobs under way at a time: enough that the thread never waits for the next one.
const USUAL: usize = 64;

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

/// Where a torrent lies.
#[derive(Clone, Debug)]
pub struct Place {
    /// Its .torrent.
    pub torrent: Arc<Path>,
    /// Which file that was when it was loaded.
    pub ident: Ident,
    /// Its data: the file, or the folder of its files.
    pub data: Arc<Path>,
    /// Where its data is as well looked for.
    pub other: Option<Arc<Path>>,
    /// The data root, which must exist and which nothing below it may lead out of. Data elsewhere has the directory
    /// it stands in for its root, and may itself be a link.
    pub root: Arc<Path>,
    /// `data` was kept over a rename of the .torrent.
    pub kept: bool,
    /// `data` was named by the user, beside the .torrent: the path on record is not looked at.
    pub sidecar: bool,
}

/// Something for the thread to do. Each is answered by the [`Done`] of the same name, but for the last four.
#[derive(Debug)]
pub enum Job {
    /// List the watched directories, unless that gives the listing of this fingerprint again.
    Scan {
        /// The directories.
        roots: Arc<[PathBuf]>,
        /// Fingerprint of the last listing, 0 for none.
        known: u64,
    },
    /// Read a .torrent.
    Load {
        /// Its path.
        path: Arc<Path>,
    },
    /// Compare a torrent's files with its record.
    Check {
        /// The torrent's key in the session.
        key: u32,
        /// The torrent.
        info_hash: InfoHash,
        /// Where it lies.
        place: Place,
    },
    /// Hash some pieces. The answer tells which were done: maybe only the first of them.
    Verify {
        /// The torrent's key in the session.
        key: u32,
        /// Where it lies.
        place: Place,
        /// The pieces.
        pieces: Range<u32>,
    },
    /// Tell of which torrents the data is gone.
    Probe(Vec<(u32, Place)>),
    /// Read the list of files.
    Layout {
        /// The torrent's key in the session.
        key: u32,
        /// Where it lies.
        place: Place,
    },
    /// Bring a range of a file into the page cache, opening the file if need be.
    Read {
        /// The torrent's key in the session.
        key: u32,
        /// Key of the peer that waits.
        peer: u32,
        /// The torrent.
        info_hash: InfoHash,
        /// Where it lies.
        place: Place,
        /// Number of the file.
        file: u32,
        /// Its path, [`Layout::path`].
        path: PathBuf,
        /// First byte.
        offset: u64,
        /// Bytes.
        len: u64,
        /// Bytes from `offset` on that will be wanted soon: the disk may begin with them.
        ahead: u64,
        /// The file, if it is open.
        fd: Option<Arc<OpenFile>>,
    },
    /// Write what has changed of the records.
    Flush,
    /// Remember a torrent, at the next flush. Without `verified`, that and the path of the data stay as they are on
    /// record. Always taken.
    Record(Box<Record>),
    /// Forget a torrent, at the next flush. Always taken.
    Forget(InfoHash),
    /// End, once what was given before is done but for hashing and reading. Always taken.
    Stop,
}

/// What has come of a [`Job`].
#[derive(Debug)]
pub enum Done {
    /// What is in the watched directories; `None` if it is what it was.
    Scanned(Option<Box<Listing>>),
    /// A .torrent.
    Loaded {
        /// Its path.
        path: Arc<Path>,
        /// Which file it was; all zeros where it could not be looked at.
        ident: Ident,
        /// The torrent, or why it is refused.
        result: Result<Box<Loaded>, String>,
    },
    /// Files compared with the record.
    Checked {
        /// The torrent's key.
        key: u32,
        /// The record without `verified`, also where there is trouble.
        known: Option<Box<Record>>,
        /// What is right and what is to be hashed.
        result: Result<Checked, Trouble>,
    },
    /// Pieces hashed.
    Verified {
        /// The torrent's key.
        key: u32,
        /// Those that were hashed: the first of those asked for.
        pieces: Range<u32>,
        /// For each of them whether it was right.
        good: Vec<bool>,
        /// Why there are no more.
        trouble: Option<Trouble>,
    },
    /// Torrents whose data is gone.
    Lost(Vec<(u32, Trouble)>),
    /// A torrent's files.
    LaidOut {
        /// The torrent's key.
        key: u32,
        /// The files.
        result: Result<Box<Layout>, Trouble>,
    },
    /// A range is in the page cache.
    Read {
        /// The torrent's key.
        key: u32,
        /// Key of the peer that waits.
        peer: u32,
        /// Number of the file.
        file: u32,
        /// The file, if it was not open before.
        result: Result<Option<OpenFile>, Trouble>,
    },
    /// Records are written, or why not: logged by the thread, once.
    Flushed(Result<(), String>),
}

/// A .torrent as it was read.
#[derive(Debug)]
pub struct Loaded {
    /// What the session keeps.
    pub summary: Summary,
    /// The path in the sidecar beside it (`NAME.where`), which is absolute.
    pub sidecar: Option<PathBuf>,
}

/// What comparing a torrent's files with its record has found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checked {
    /// Where the data is: [`Place::data`], [`Place::other`], or the path on record.
    pub data: Arc<Path>,
    /// What [`Place::kept`] must say from now on.
    pub kept: bool,
    /// Pieces known to be right.
    pub have: Have,
    /// Pieces to be hashed.
    pub todo: Have,
    /// Pieces to be hashed if nothing were known.
    pub all: Have,
    /// The files, for the record.
    pub stamps: Box<[Stamp]>,
    /// A sum over the stamps.
    pub fingerprint: u64,
}

/// The storage thread as the other one sees it.
pub struct Storage {
    shared: Arc<Shared>,
    done: Receiver<Done>,
    /// Jobs given and not yet answered, by the queue's bound they count for.
    urgent: Cell<usize>,
    usual: Cell<usize>,
}

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    wake: Condvar,
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
    /// For its content.
    buffer: Vec<u8>,
}

/// All of it that is not needed for hashing.
struct Desk {
    done: Sender<Done>,
    records: Records,
    modes: files::Modes,
    /// For a .torrent.
    buffer: Vec<u8>,
}

impl Storage {
    /// Starts the thread. It begins with the resume file in `state`, so the caller need not wait for that.
    pub fn start(state: Option<PathBuf>) -> std::io::Result<Storage> {
        let shared = Arc::new(Shared::default());
        // Bounded by the jobs under way, see `try_submit`.
        let (sender, done) = smol::channel::unbounded();
        let theirs = shared.clone();
        std::thread::Builder::new().name("storage".into()).stack_size(STACK).spawn(move || {
            // Of this thread alone, on Linux. Where it is refused everything works as well, only less politely.
            let _ = rustix::process::setpriority_process(None, NICE);
            let records = Records::open(state);
            let desk = Desk { done: sender, records, modes: files::Modes::default(), buffer: Vec::new() };
            Worker { shared: theirs, desk, hashing: None, buffer: Vec::new() }.run();
        })?;
        Ok(Storage { shared, done, urgent: Cell::new(0), usual: Cell::new(0) })
    }

    /// Gives the thread a job. It comes back where too many are under way: then an answer is, too.
    #[expect(clippy::result_large_err, reason = "the job itself comes back")]
    pub fn try_submit(&self, job: Job) -> Result<(), Job> {
        let (under_way, bound) = match job {
            Job::Read { .. } | Job::Layout { .. } => (&self.urgent, URGENT),
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
        match self.done.recv().await {
            Ok(done) => self.took(done),
            Err(_) => std::future::pending().await,
        }
    }

    /// The next answer, if there is one already.
    pub fn try_next(&self) -> Option<Done> {
        self.done.try_recv().ok().map(|done| self.took(done))
    }

    fn took(&self, done: Done) -> Done {
        let under_way = match done {
            Done::Read { .. } | Done::LaidOut { .. } => &self.urgent,
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

impl Job {
    fn is_answered(&self) -> bool {
        !matches!(self, Job::Record(_) | Job::Forget(_) | Job::Stop)
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queue {
    fn pop(&mut self) -> Option<Job> {
        self.urgent.pop_front().or_else(|| self.usual.pop_front()).or_else(|| self.hashing.pop_front())
    }
}

impl Worker {
    fn run(mut self) {
        while let Some(job) = self.next() {
            match job {
                Job::Stop => return,
                Job::Verify { key, place, pieces } => {
                    let done = self.verify(key, &place, pieces);
                    self.desk.answer(done);
                }
                job => self.desk.handle(job),
            }
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
            } else if self.hashing.is_some() {
                let (locked, waited) =
                    shared.wake.wait_timeout(queue, KEEP).unwrap_or_else(PoisonError::into_inner);
                queue = locked;
                if waited.timed_out() && queue.idle {
                    drop(queue);
                    self.hashing = None;
                    self.buffer = Vec::new();
                    self.desk.modes.clear();
                    queue = shared.lock();
                }
            } else {
                queue.urgent.shrink_to(QUEUE);
                queue.usual.shrink_to(QUEUE);
                queue = shared.wake.wait(queue).unwrap_or_else(PoisonError::into_inner);
            }
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
        let Worker { shared, desk, hashing, buffer } = self;
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
            let right = hashing.piece(piece, buffer, &mut || {
                loop {
                    let Some(job) = shared.lock().urgent.pop_front() else { break };
                    desk.handle(job);
                }
            })?;
            good.push(right);
            let queue = shared.lock();
            if !queue.urgent.is_empty() || !queue.usual.is_empty() || started.elapsed() >= SLICE {
                break;
            }
        }
        Ok(())
    }
}

impl Desk {
    fn answer(&self, done: Done) {
        // Nobody listens once the daemon ends.
        let _ = self.done.try_send(done);
    }

    fn handle(&mut self, job: Job) {
        let done = match job {
            Job::Scan { roots, known } => {
                Done::Scanned(crate::watch::io::rescan(&roots, known).map(Box::new))
            }
            Job::Load { path } => self.load(path),
            Job::Check { key, info_hash, place } => {
                let (known, result) = compare::compare(info_hash, &place, &self.records, &mut self.buffer);
                Done::Checked { key, known, result }
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
                let result = parse_torrent(&place, &mut self.buffer)
                    .map(|(_, metainfo)| Box::new(Layout::new(&metainfo, place.data)));
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
            Job::Flush => Done::Flushed(self.records.flush()),
            Job::Record(record) => return self.records.insert(*record),
            Job::Forget(info_hash) => return self.records.remove(info_hash),
            Job::Verify { .. } | Job::Stop => return,
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
            Err((ident, Unread::Io(error))) => {
                (ident, Err(format!("it cannot be read: {}", std::io::Error::from(error))))
            }
            Err((ident, Unread::Unfit(why))) => (ident, Err(why.into())),
            Err((ident, Unread::Changed)) => (ident, Err(Trouble::TorrentChanged.to_string())),
        };
        let none = Ident { inode: 0, size: 0, mtime_secs: 0, mtime_nanos: 0, ctime: 0 };
        Done::Loaded { path, ident: ident.unwrap_or(none), result }
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
        if let Some(open) = open {
            if open.is_changed().map_err(fail)? {
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
        if self.records.find_stamp(info_hash, file).is_some_and(|stamp| stamp != open.stamp()) {
            return Err(Trouble::Changed(path.into()));
        }
        warm(&open)?;
        Ok(Some(open))
    }
}

#[cfg(test)]
pub(crate) mod tests;

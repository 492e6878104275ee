//! Open files: reading what the page cache holds without ever waiting for a disk, and a bounded cache of them.
//!
//! Read first: preadv2(2), `RWF_NOWAIT`. Holds one descriptor a file; the cache is a list, since its bound is small.

use std::io::{self, IoSliceMut};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::fs::{Advice, Stat, fadvise, fstat};
use rustix::io::{Errno, ReadWriteFlags, pread, preadv, preadv2};

use super::prepare::is_in_memory;
use super::tree::{number, stamp_of};
use crate::list::Keep;
use crate::storage::resume::Stamp;

/// A file that nobody has read for this long is closed, so that its disk can be unmounted.
const IDLE: Duration = Duration::from_secs(60);

/// Bytes of the smallest page there is: a read of one byte brings a page in.
const PAGE: u64 = 4096;

/// How a file can be read by a thread that must not wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadMode {
    /// The kernel refuses to wait.
    NoWait,
    /// The file lies in memory: no read waits.
    Direct,
    /// The file system knows no such refusal: each read goes through the storage thread first.
    Thread,
}

/// A file of content, open for reading.
#[derive(Debug)]
pub struct OpenFile {
    fd: OwnedFd,
    mode: ReadMode,
    /// The file when it was opened.
    stamp: Stamp,
}

/// The files that are open: at most so many, and none for longer than a minute after its last use.
#[derive(Debug)]
pub struct Files {
    limit: usize,
    open: Vec<Entry>,
}

#[derive(Debug)]
struct Entry {
    key: u32,
    file: u32,
    used: Instant,
    open: Arc<OpenFile>,
}

/// What is known of the file systems seen so far, by device number: each is asked once.
#[derive(Debug, Default)]
pub(super) struct Modes(Vec<(u64, ReadMode)>);

impl OpenFile {
    pub(super) fn new(fd: OwnedFd, stat: &Stat, modes: &mut Modes) -> OpenFile {
        let mode = modes.of(&fd, stat);
        OpenFile { fd, mode, stamp: stamp_of(stat) }
    }

    /// How it can be read.
    pub fn mode(&self) -> ReadMode {
        self.mode
    }

    /// Reads what is at hand, maybe less than asked for; `WouldBlock` where that is nothing.
    pub fn read_hot(&self, bufs: &mut [IoSliceMut<'_>], offset: u64) -> io::Result<usize> {
        match self.mode {
            ReadMode::Direct => self.read(bufs, offset),
            ReadMode::Thread => Err(io::ErrorKind::WouldBlock.into()),
            ReadMode::NoWait => match self.read_nowait(bufs, offset) {
                Err(error) if is_unknown(error) => Err(io::ErrorKind::WouldBlock.into()),
                answer => Ok(answer?),
            },
        }
    }

    /// The same just after the storage thread has read that range: a file system that cannot refuse to wait has it
    /// at hand now.
    pub fn read_warmed(&self, bufs: &mut [IoSliceMut<'_>], offset: u64) -> io::Result<usize> {
        match self.mode {
            ReadMode::Direct | ReadMode::Thread => self.read(bufs, offset),
            ReadMode::NoWait => match self.read_nowait(bufs, offset) {
                Err(error) if is_unknown(error) => self.read(bufs, offset),
                answer => Ok(answer?),
            },
        }
    }

    /// Reads, and waits for the disk if it must.
    pub fn read(&self, bufs: &mut [IoSliceMut<'_>], offset: u64) -> io::Result<usize> {
        loop {
            match preadv(&self.fd, bufs, offset) {
                Err(Errno::INTR) => {}
                answer => return Ok(answer?),
            }
        }
    }

    fn read_nowait(&self, bufs: &mut [IoSliceMut<'_>], offset: u64) -> Result<usize, Errno> {
        loop {
            match preadv2(&self.fd, bufs, offset, ReadWriteFlags::NOWAIT) {
                Err(Errno::INTR) => {}
                answer => return answer,
            }
        }
    }

    pub(super) fn stamp(&self) -> Stamp {
        self.stamp
    }

    /// Whether the file has been written to since it was opened.
    pub(super) fn is_changed(&self) -> Result<bool, Errno> {
        Ok(stamp_of(&fstat(&self.fd)?) != self.stamp)
    }

    /// Brings a range into the page cache; `false` if the file ends before it does. Of the `ahead` bytes from `offset` on
    /// what lies beyond the range is only asked for: it comes while the range is sent.
    pub(super) fn warm(&self, offset: u64, len: u64, ahead: u64) -> Result<bool, Errno> {
        if self.mode == ReadMode::Direct {
            // It may have grown since it was opened.
            return Ok(offset.saturating_add(len) <= number(fstat(&self.fd)?.st_size));
        }
        // One request for all of it: the reads below would otherwise bring it in piecemeal.
        let _ = fadvise(&self.fd, offset, std::num::NonZeroU64::new(len.max(ahead)), Advice::WillNeed);
        let end = offset.saturating_add(len);
        let mut at = offset;
        while at < end {
            let last = at + PAGE >= end;
            let byte = if last { end - 1 } else { at };
            match pread(&self.fd, &mut [0u8], byte) {
                Ok(0) => return Ok(false),
                Ok(_) if last => break,
                Ok(_) => at = (at / PAGE + 1) * PAGE,
                Err(Errno::INTR) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }
}

impl Modes {
    fn of(&mut self, fd: &OwnedFd, stat: &Stat) -> ReadMode {
        /// More file systems than a router mounts; beyond it each file is asked about.
        const MOST: usize = 32;
        let device = number(stat.st_dev);
        if let Some((_, mode)) = self.0.iter().find(|(known, _)| *known == device) {
            return *mode;
        }
        let mode = probe(fd);
        if self.0.len() < MOST {
            self.0.push((device, mode));
        }
        mode
    }

    /// Device numbers are used again when a disk goes.
    pub(super) fn clear(&mut self) {
        self.0 = Vec::new();
    }
}

fn probe(fd: &OwnedFd) -> ReadMode {
    if is_in_memory(fd) {
        return ReadMode::Direct;
    }
    let mut byte = [0];
    match preadv2(fd.as_fd(), &mut [IoSliceMut::new(&mut byte)], 0, ReadWriteFlags::NOWAIT) {
        Ok(_) | Err(Errno::AGAIN | Errno::INTR) => ReadMode::NoWait,
        Err(_) => ReadMode::Thread,
    }
}

/// The file system, or a kernel below 4.14, cannot refuse to wait. It can turn out late: device numbers are used again.
fn is_unknown(error: Errno) -> bool {
    matches!(error, Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL)
}

impl Files {
    /// At most `limit` files at a time.
    pub fn new(limit: usize) -> Files {
        Files { limit: limit.max(1), open: Vec::new() }
    }

    /// Changes the bound; what is too many is closed at once.
    pub fn set_limit(&mut self, limit: usize) {
        self.limit = limit.max(1);
        while self.open.len() > self.limit {
            self.remove_oldest();
        }
    }

    /// A file that is open.
    pub fn find(&mut self, key: u32, file: u32, now: Instant) -> Option<Arc<OpenFile>> {
        let entry = self.open.iter_mut().find(|entry| entry.key == key && entry.file == file)?;
        entry.used = now;
        Some(entry.open.clone())
    }

    /// Takes a file in; the one that was not used for longest makes room.
    pub fn insert(&mut self, key: u32, file: u32, open: OpenFile, now: Instant) -> Arc<OpenFile> {
        self.open.keep(|entry| entry.key != key || entry.file != file);
        while self.open.len() >= self.limit {
            self.remove_oldest();
        }
        let open = Arc::new(open);
        self.open.push(Entry { key, file, used: now, open: open.clone() });
        open
    }

    /// Closes the files of a torrent: it has gone, or its data has changed.
    pub fn remove(&mut self, key: u32) {
        self.open.keep(|entry| entry.key != key);
    }

    /// Closes what nobody has read lately.
    pub fn poll(&mut self, now: Instant) {
        self.open.keep(|entry| now.saturating_duration_since(entry.used) < IDLE);
        if self.open.is_empty() {
            self.open = Vec::new();
        }
    }

    /// When [`Files::poll`] will next close one.
    pub fn deadline(&self) -> Option<Instant> {
        self.open.iter().map(|entry| entry.used + IDLE).min()
    }

    /// Files that are open.
    pub fn len(&self) -> usize {
        self.open.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    fn remove_oldest(&mut self) {
        let oldest = self.open.iter().enumerate().min_by_key(|(_, entry)| entry.used);
        if let Some((index, _)) = oldest {
            self.open.swap_remove(index);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::Temp;
    use super::*;
    use rustix::fs::{CWD, Mode, OFlags, openat};
    use std::path::Path;

    fn open(path: &Path) -> OpenFile {
        let fd = openat(CWD, path, OFlags::RDONLY, Mode::empty()).unwrap();
        let stat = fstat(&fd).unwrap();
        OpenFile::new(fd, &stat, &mut Modes::default())
    }

    fn read(file: &OpenFile, len: usize, offset: u64) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; len];
        let n = file.read_hot(&mut [IoSliceMut::new(&mut bytes)], offset)?;
        bytes.truncate(n);
        Ok(bytes)
    }

    #[test]
    fn what_was_warmed_is_read_without_waiting_also_above_four_gibibytes() {
        let temp = Temp::new();
        temp.sparse("big", 5 << 30, &[(5 << 30) - 3]);
        let file = open(&temp.path("big"));
        let offset = (5 << 30) - 100_000;
        if file.mode() != ReadMode::Thread {
            assert!(file.warm(offset, 100_000, 0).unwrap());
            let bytes = read(&file, 100_000, offset).unwrap();
            assert_eq!((bytes.len(), &bytes[99_996..]), (100_000, &[0, 1, 0, 0][..]));
        }
        assert!(!file.warm(offset, 100_001, 0).unwrap(), "beyond the end");
        assert!(!file.is_changed().unwrap());
        temp.sparse("big", 6 << 30, &[]);
        assert!(file.is_changed().unwrap());
    }

    #[test]
    fn a_file_in_memory_is_read_directly_and_one_elsewhere_without_waiting() {
        let temp = Temp::new();
        temp.file("file", b"some bytes");
        assert_eq!(read(&open(&temp.path("file")), 4, 5).unwrap(), b"byte");
        let path = format!("/dev/shm/meshseed-mode-test-{}", std::process::id());
        let path = Path::new(&path);
        if std::fs::write(path, b"x").is_err() {
            return;
        }
        let mode = open(path).mode();
        std::fs::remove_file(path).unwrap();
        if number(rustix::fs::statfs("/dev/shm").unwrap().f_type) == 0x0102_1994 {
            assert_eq!(mode, ReadMode::Direct);
        }
    }

    #[test]
    fn a_file_system_that_cannot_refuse_to_wait_is_read_after_the_thread_alone() {
        let temp = Temp::new();
        temp.file("file", b"some bytes");
        let file = OpenFile { mode: ReadMode::Thread, ..open(&temp.path("file")) };
        assert_eq!(read(&file, 4, 0).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        let mut bytes = [0; 4];
        assert_eq!(file.read_warmed(&mut [IoSliceMut::new(&mut bytes)], 0).unwrap(), 4);
        assert_eq!(&bytes, b"some");
    }

    #[test]
    fn the_cache_keeps_its_bound_and_drops_what_was_not_used_for_longest() {
        let temp = Temp::new();
        temp.file("file", b"x");
        let now = Instant::now();
        let at = |seconds| now + Duration::from_secs(seconds);
        let mut files = Files::new(2);
        files.insert(1, 0, open(&temp.path("file")), at(0));
        files.insert(1, 1, open(&temp.path("file")), at(1));
        assert!(files.find(1, 0, at(2)).is_some());
        files.insert(2, 0, open(&temp.path("file")), at(3));
        assert!(files.find(1, 1, at(3)).is_none() && files.len() == 2);
        files.insert(2, 0, open(&temp.path("file")), at(4));
        assert_eq!(files.len(), 2);
        files.set_limit(1);
        assert!(files.find(1, 0, at(4)).is_none() && files.find(2, 0, at(5)).is_some());
        assert_eq!(files.deadline(), Some(at(65)));
        files.poll(at(64));
        assert_eq!(files.len(), 1);
        files.poll(at(65));
        assert_eq!((files.len(), files.deadline()), (0, None));
        files.insert(3, 0, open(&temp.path("file")), at(66));
        files.remove(3);
        assert!(files.is_empty());
    }
}

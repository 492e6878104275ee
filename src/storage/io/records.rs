//! The resume file: found again at the start, written anew when records have changed.
//!
//! Read first: `resume`. A change goes to a new file beside the old one, which is synced before it takes the old
//! one's name; the old one stays as `resume.old` until the next time. So after a crash at any moment one of the two
//! is whole. A file that is damaged or foreign is set aside as `resume.bad` and none of it is used.
//! Holds 24 bytes a torrent and, until the next flush, the records that have changed, at most [`PENDING`] bytes.

use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, OFlags, fstat, openat};
use rustix::io::{Errno, pread};

use super::fault::attempt;
use super::tree::number;
use crate::metainfo::InfoHash;
use crate::sorted::SortedMap;
use crate::storage::resume::{
    self, FRAME, HEAD, MAX_BODY, Record, Stamp, checksum, checksum_of_length, decode_foot, decode_frame,
};

/// Bytes of changed records that are written without waiting for a flush, and that are dropped when they cannot be.
const PENDING: usize = 256 * 1024;

/// Bytes read or written at a time.
const BLOCK: usize = 32 * 1024;

/// The records of all torrents.
pub(super) struct Records {
    /// Where they are kept; `None` keeps them in memory, as far as there is room.
    directory: Option<PathBuf>,
    /// The file that `index` points into. It may have another name by now.
    file: Option<OwnedFd>,
    /// Where each record's frame begins, sorted.
    index: Vec<(InfoHash, u32)>,
    /// Bodies that have changed since; `None` for one to be forgotten.
    pending: SortedMap<InfoHash, Option<Box<[u8]>>>,
    pending_bytes: usize,
    /// What is in the file should be written again although no record has changed.
    stale: bool,
    /// The last error has been logged.
    told: bool,
}

/// What was found in a file.
enum Found {
    /// Nothing, or nothing that can be read now: left where it is.
    Nothing,
    /// Something else, or not all of it.
    Foreign(&'static str),
    /// Records: where each begins, sorted.
    Records(OwnedFd, Vec<(InfoHash, u32)>),
}

impl Records {
    /// Reads the resume file of a state directory.
    pub(super) fn open(directory: Option<PathBuf>) -> Records {
        let mut records = Records {
            directory,
            file: None,
            index: Vec::new(),
            pending: SortedMap::new(),
            pending_bytes: 0,
            stale: false,
            told: false,
        };
        let Some(directory) = records.directory.clone() else { return records };
        let path = directory.join("resume");
        let mut found = look(&path);
        if let Found::Foreign(why) = &found {
            let bad = directory.join("resume.bad");
            let aside = match std::fs::rename(&path, &bad) {
                Ok(()) => format!("it is kept as {}", bad.display()),
                Err(error) => format!("it cannot be renamed: {error}"),
            };
            log::warn!("{} {why}; {aside}, and data without a record is hashed again", path.display());
            records.stale = true;
        }
        if matches!(found, Found::Nothing) {
            // A crash between two renames leaves this one alone. Of a file that was damaged it is no substitute: what
            // happened to that may have happened to the data.
            found = look(&directory.join("resume.old"));
        }
        if let Found::Records(file, index) = found {
            records.file = Some(file);
            records.index = index;
        }
        records
    }

    /// Where they are kept, and what else is remembered.
    pub(super) fn directory(&self) -> Option<&Path> {
        self.directory.as_deref()
    }

    /// The record of a torrent.
    pub(super) fn find(&self, info_hash: &InfoHash) -> Option<Record> {
        match self.pending.get(info_hash) {
            Some(body) => Record::decode(body.as_deref()?),
            None => Record::decode(&self.body(self.offset(info_hash)?)?),
        }
    }

    /// A file of a torrent as it was when it was hashed; `None` also of one that was open for writing.
    pub(super) fn find_stamp(&self, info_hash: &InfoHash, file: u32) -> Option<Stamp> {
        let stamp = self.find(info_hash)?.verified?.stamps.get(file as usize).copied();
        stamp.filter(|stamp| *stamp != Stamp::ABSENT)
    }

    /// Whether some of a torrent's data was there.
    pub(super) fn had_data(&self, info_hash: &InfoHash) -> bool {
        self.find(info_hash).is_some_and(|record| record.had_data())
    }

    /// Takes a changed record, to be written at the next flush. Without `verified`, that and the path of the data
    /// stay as they are on record.
    pub(super) fn insert(&mut self, mut record: Record) {
        if record.verified.is_none()
            && let Some(old) = self.find(&record.info_hash)
        {
            record.verified = old.verified;
            record.open = old.open;
            record.data = record.data.or(old.data);
        }
        let body = record.encode();
        // What is on record already costs no write.
        let known = self.offset(&record.info_hash).filter(|_| !self.pending.contains_key(&record.info_hash));
        if known.and_then(|offset| self.body(offset)).as_ref() != Some(&body) {
            self.keep(record.info_hash, Some(body.into()));
        }
    }

    /// Takes a record out at the next flush.
    pub(super) fn remove(&mut self, info_hash: InfoHash) {
        if self.offset(&info_hash).is_some() {
            self.keep(info_hash, None);
        } else if let Some(Some(body)) = self.pending.remove(&info_hash) {
            self.pending_bytes -= body.len();
        }
    }

    /// Writes what has changed; with nothing changed nothing is written.
    pub(super) fn flush(&mut self) -> Result<(), String> {
        let Some(directory) = self.directory.clone() else { return Ok(()) };
        if self.pending.is_empty() && !self.stale {
            return Ok(());
        }
        match self.write(&directory) {
            Ok(()) => {
                if std::mem::take(&mut self.told) {
                    log::info!("{}: state is written again", directory.display());
                }
                Ok(())
            }
            Err(error) => {
                let text = format!("state cannot be written to {}: {error}", directory.display());
                if !std::mem::replace(&mut self.told, true) {
                    log::warn!("{text}");
                }
                Err(text)
            }
        }
    }

    fn keep(&mut self, info_hash: InfoHash, body: Option<Box<[u8]>>) {
        let len = |body: &Option<Box<[u8]>>| body.as_ref().map_or(0, |body| body.len());
        self.pending_bytes += len(&body);
        if let Some(before) = self.pending.insert(info_hash, body) {
            self.pending_bytes -= len(&before);
        }
        // What cannot be written is let go: the daemon goes on without records rather than without memory.
        if self.pending_bytes > PENDING && (self.flush().is_err() || self.directory.is_none()) {
            self.pending = SortedMap::new();
            self.pending_bytes = 0;
        }
    }

    fn offset(&self, info_hash: &InfoHash) -> Option<u32> {
        let at = self.index.binary_search_by_key(info_hash, |(known, _)| *known).ok()?;
        Some(self.index.get(at)?.1)
    }

    /// A body as it stands in the file; `None` if it is not what was written.
    fn body(&self, offset: u32) -> Option<Vec<u8>> {
        let file = self.file.as_ref()?;
        // Most records fit the first read.
        let mut bytes = vec![0; 512];
        let read = read_at(file, &mut bytes, u64::from(offset)).ok()?;
        let (len, sum) = decode_frame(bytes.get(..FRAME.min(read))?)?;
        let whole = FRAME + usize::try_from(len).ok()?;
        bytes.resize(whole, 0);
        if whole > read {
            let rest = bytes.get_mut(read..)?;
            let missing = rest.len();
            (read_at(file, rest, u64::from(offset) + read as u64).ok()? == missing).then_some(())?;
        }
        bytes.drain(..FRAME);
        (checksum(checksum_of_length(len), &bytes) == sum).then_some(bytes)
    }

    fn write(&mut self, directory: &Path) -> io::Result<()> {
        let (new, current, old) =
            (directory.join("resume.new"), directory.join("resume"), directory.join("resume.old"));
        create_directory(directory)?;
        let file = create(&new)?;
        let index = self.copy(&file)?;
        sync(&file)?;
        match rename(&current, &old) {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            answer => answer?,
        }
        rename(&new, &current)?;
        // From here on the new file is the one, whether or not its name is safe on disk yet.
        self.file = Some(file);
        self.index = index;
        self.pending = SortedMap::new();
        self.pending_bytes = 0;
        self.stale = true;
        let directory = open_directory(directory)?;
        sync(&directory)?;
        self.stale = false;
        Ok(())
    }

    /// Writes the old records and the changed ones in their order.
    fn copy(&self, file: &OwnedFd) -> io::Result<Vec<(InfoHash, u32)>> {
        let mut index = Vec::with_capacity(self.index.len() + self.pending.len());
        let mut out = Vec::with_capacity(BLOCK);
        out.extend_from_slice(&resume::head());
        let mut written = 0u64;
        let mut put = |out: &mut Vec<u8>, info_hash: InfoHash, body: &[u8]| -> io::Result<()> {
            let at = written + out.len() as u64;
            index.push((info_hash, u32::try_from(at).map_err(|_| ErrorKind::FileTooLarge)?));
            out.extend_from_slice(&resume::frame(body));
            out.extend_from_slice(body);
            if out.len() >= BLOCK {
                write(file, out)?;
                written += out.len() as u64;
                out.clear();
                out.shrink_to(BLOCK);
            }
            Ok(())
        };
        let mut changed = self.pending.iter().peekable();
        for &(info_hash, offset) in &self.index {
            while let Some((&before, body)) = changed.next_if(|(key, _)| **key < info_hash) {
                if let Some(body) = body {
                    put(&mut out, before, body)?;
                }
            }
            if let Some((_, body)) = changed.next_if(|(key, _)| **key == info_hash) {
                if let Some(body) = body {
                    put(&mut out, info_hash, body)?;
                }
            } else if let Some(body) = self.body(offset) {
                put(&mut out, info_hash, &body)?;
            }
        }
        for (&after, body) in changed {
            if let Some(body) = body {
                put(&mut out, after, body)?;
            }
        }
        out.extend_from_slice(&resume::foot(u32::try_from(index.len()).unwrap_or(u32::MAX)));
        write(file, &out)?;
        index.shrink_to_fit();
        Ok(index)
    }
}

pub(super) fn create_directory(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    attempt()?;
    std::fs::DirBuilder::new().recursive(true).mode(0o755).create(path)
}

pub(super) fn create(path: &Path) -> io::Result<OwnedFd> {
    attempt()?;
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(openat(CWD, path, flags, Mode::RUSR | Mode::WUSR)?)
}

pub(super) fn open_directory(path: &Path) -> io::Result<OwnedFd> {
    attempt()?;
    Ok(openat(CWD, path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
}

pub(super) fn write(file: &OwnedFd, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        attempt()?;
        match rustix::io::write(file, bytes) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(n) => bytes = &bytes[n..],
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

pub(super) fn sync(file: &OwnedFd) -> io::Result<()> {
    attempt()?;
    match rustix::fs::fsync(file) {
        // A file system that has nothing to sync.
        Err(Errno::INVAL | Errno::ROFS) => Ok(()),
        answer => Ok(answer?),
    }
}

pub(super) fn rename(from: &Path, to: &Path) -> io::Result<()> {
    attempt()?;
    std::fs::rename(from, to)
}

/// Looks through a resume file: what it holds, and whether that is all it held.
fn look(path: &Path) -> Found {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = match openat(CWD, path, flags, Mode::empty()) {
        Ok(file) => file,
        Err(Errno::NOENT | Errno::NOTDIR) => return Found::Nothing,
        Err(Errno::LOOP | Errno::NXIO) => return Found::Foreign("is not a regular file"),
        Err(error) => return unreadable(path, error),
    };
    let size = match fstat(&file) {
        Ok(stat) if FileType::from_raw_mode(stat.st_mode).is_file() => number(stat.st_size),
        Ok(_) => return Found::Foreign("is not a regular file"),
        Err(error) => return unreadable(path, error),
    };
    if size > u64::from(u32::MAX) {
        return Found::Foreign("is larger than state can be");
    }
    let mut window = Window { file: &file, bytes: Vec::new(), start: 0 };
    let found = match window.bytes(0, HEAD) {
        Ok(head) if head != resume::head() => {
            return Found::Foreign(match head {
                [] => "is empty",
                head if head.len() < HEAD => "is cut short",
                head if head.iter().all(|&byte| byte == 0) => "is filled with zeros",
                head if head.get(..16) == resume::head().get(..16) => "is of another version, or damaged",
                _ => "is something else",
            });
        }
        Ok(_) => index(&mut window, size),
        Err(error) => Err(error),
    };
    match found {
        Ok(Some(index)) => Found::Records(file, index),
        Ok(None) => Found::Foreign("is damaged or cut short"),
        Err(error) => unreadable(path, error),
    }
}

fn unreadable(path: &Path, error: Errno) -> Found {
    log::warn!("{} cannot be read, data is hashed again: {}", path.display(), io::Error::from(error));
    Found::Nothing
}

/// Where each record begins; `None` if anything is wrong. A file is used whole or not at all: what damaged one record
/// may have damaged the data of the others, and hashing that again is the price of certainty.
fn index(window: &mut Window, size: u64) -> Result<Option<Vec<(InfoHash, u32)>>, Errno> {
    let mut records = Vec::new();
    let mut at = HEAD as u64;
    loop {
        let head = window.bytes(at, FRAME)?;
        if let Some(count) = decode_foot(head) {
            let whole = at + FRAME as u64 == size && count as usize == records.len();
            records.shrink_to_fit();
            // Written in order: it is found by bisection.
            return Ok(Some(records)
                .filter(|records| whole && records.is_sorted_by_key(|(info_hash, _)| *info_hash)));
        }
        let Some((len, sum)) = decode_frame(head) else { return Ok(None) };
        let Some(info_hash) = verify(window, at + FRAME as u64, len, sum)? else { return Ok(None) };
        let Ok(start) = u32::try_from(at) else { return Ok(None) };
        records.push((info_hash, start));
        at += FRAME as u64 + u64::from(len);
    }
}

/// Whose record stands there, if its checksum agrees.
fn verify(window: &mut Window, start: u64, len: u32, sum: u32) -> Result<Option<InfoHash>, Errno> {
    debug_assert!(len <= MAX_BODY);
    let (mut at, end) = (start, start + u64::from(len));
    let (mut found, mut info_hash) = (checksum_of_length(len), None);
    while at < end {
        let want = usize::try_from(end - at).map_or(BLOCK, |rest| rest.min(BLOCK));
        let bytes = window.bytes(at, want)?;
        if bytes.len() < want {
            return Ok(None);
        }
        if at == start {
            info_hash = resume::info_hash_of(bytes);
        }
        found = checksum(found, bytes);
        at += want as u64;
    }
    Ok(info_hash.filter(|_| found == sum))
}

/// A stretch of a file in memory.
struct Window<'a> {
    file: &'a OwnedFd,
    bytes: Vec<u8>,
    start: u64,
}

impl Window<'_> {
    /// `len` bytes, at most [`BLOCK`], from `at` on; less at the end of the file.
    fn bytes(&mut self, at: u64, len: usize) -> Result<&[u8], Errno> {
        let held = self.start..self.start + self.bytes.len() as u64;
        if !(held.start <= at && at + len as u64 <= held.end) {
            self.bytes.resize(BLOCK, 0);
            let read = read_at(self.file, &mut self.bytes, at)?;
            self.bytes.truncate(read);
            self.start = at;
        }
        let from = usize::try_from(at - self.start).unwrap_or(usize::MAX).min(self.bytes.len());
        let to = from.saturating_add(len).min(self.bytes.len());
        Ok(&self.bytes[from..to])
    }
}

/// Reads until `bytes` is full or the file ends.
pub(super) fn read_at(file: &OwnedFd, bytes: &mut [u8], offset: u64) -> Result<usize, Errno> {
    let mut read = 0;
    while read < bytes.len() {
        match pread(file, &mut bytes[read..], offset + read as u64) {
            Ok(0) => break,
            Ok(n) => read += n,
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(read)
}

#[cfg(test)]
mod tests {
    use super::super::fault::tests::Faults;
    use super::super::tests::Temp;
    use super::*;
    use crate::have::Have;
    use crate::storage::resume::Verified;
    use crate::storage::resume::tests::{hash, record};
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    fn at(temp: &Temp) -> Records {
        Records::open(Some(temp.path("state")))
    }

    fn with_files(byte: u8, uploaded: u64) -> Record {
        let stamps = (0..1000).map(|n| Stamp { size: n, mtime_secs: 1, mtime_nanos: 2 }).collect();
        let verified = Verified { pieces: 20, have: Have::All, todo: Have::None, stamps };
        Record { uploaded, verified: Some(verified), ..record(byte) }
    }

    #[test]
    fn records_are_found_again_and_a_change_leaves_the_others_alone() {
        let temp = Temp::new();
        let mut records = at(&temp);
        for byte in [5, 3, 200, 0, 1] {
            records.insert(record(byte));
        }
        assert_eq!(records.find(&hash(3)), Some(record(3)));
        records.flush().unwrap();
        assert_eq!(fs::metadata(temp.path("state")).unwrap().permissions().mode() & 0o777, 0o755);
        let mut records = at(&temp);
        assert_eq!(records.index.len(), 5);
        records.insert(Record { uploaded: 9, verified: None, ..record(3) });
        records.insert(Record { verified: None, open: false, ..record(5) });
        records.insert(record(4));
        records.remove(hash(200));
        records.remove(hash(77));
        assert_eq!(records.find(&hash(200)), None);
        records.flush().unwrap();
        assert_eq!(records.find(&hash(200)), None);
        for mut records in [records, at(&temp)] {
            for byte in [0, 1, 4, 5] {
                assert_eq!(records.find(&hash(byte)), Some(record(byte)));
            }
            assert_eq!(records.find(&hash(3)), Some(Record { uploaded: 9, ..record(3) }));
            assert_eq!((records.find(&hash(200)), records.find(&hash(2))), (None, None));
            assert_eq!(records.find_stamp(&hash(1), 2).unwrap().mtime_secs, -1);
            assert_eq!(records.find_stamp(&hash(1), 99), None);
            records.insert(record(6));
            records.remove(hash(6));
            assert_eq!((records.pending.len(), records.pending_bytes), (0, 0));
        }
    }

    #[test]
    fn nothing_is_written_while_nothing_changes() {
        let temp = Temp::new();
        at(&temp).flush().unwrap();
        assert!(!temp.path("state").exists());
        let mut records = at(&temp);
        records.insert(record(1));
        records.flush().unwrap();
        fs::remove_dir_all(temp.path("state")).unwrap();
        records.insert(record(1));
        records.insert(Record { verified: None, ..record(1) });
        records.flush().unwrap();
        assert!(!temp.path("state").exists());
    }

    #[test]
    fn whichever_system_call_fails_the_old_or_the_new_state_is_there() {
        let before = || [with_files(1, 1), with_files(2, 1), with_files(3, 1)];
        let after = || [with_files(1, 1), with_files(2, 2), with_files(4, 2)];
        for dead in [false, true] {
            let mut finished = false;
            for n in 1..100 {
                let temp = Temp::new();
                let mut records = at(&temp);
                before().into_iter().for_each(|record| records.insert(record));
                records.flush().unwrap();
                let faults = Faults::at(n, Errno::NOSPC, dead);
                records.insert(with_files(2, 2));
                records.insert(with_files(4, 2));
                records.remove(hash(3));
                let result = records.flush();
                let now = at(&temp);
                let is = |state: [Record; 3]| {
                    now.index.len() == 3
                        && state.iter().all(|record| now.find(&record.info_hash).as_ref() == Some(record))
                };
                assert!(is(before()) || is(after()), "call {n}");
                assert!(result.is_err() || is(after()), "call {n}");
                drop(now);
                assert_eq!(records.find(&hash(4)), Some(with_files(4, 2)), "what was told is not forgotten");
                drop(faults);
                if !dead {
                    records.flush().unwrap();
                    let now = at(&temp);
                    assert!(now.index.len() == 3 && now.find(&hash(2)) == Some(with_files(2, 2)), "call {n}");
                }
                if result.is_ok() {
                    assert!(n > 7, "only {n} calls");
                    finished = true;
                    break;
                }
            }
            assert!(finished);
        }
    }

    #[test]
    fn every_truncation_sets_the_file_aside() {
        let temp = Temp::new();
        let mut records = at(&temp);
        (0..3).for_each(|byte| records.insert(record(byte)));
        records.flush().unwrap();
        let whole = fs::read(temp.path("state/resume")).unwrap();
        for len in 0..whole.len() {
            fs::write(temp.path("state/resume"), &whole[..len]).unwrap();
            let records = at(&temp);
            assert_eq!(records.index.len(), 0, "{len} bytes");
            assert!(records.stale);
            assert_eq!(fs::read(temp.path("state/resume.bad")).unwrap(), whole[..len]);
        }
    }

    #[test]
    fn no_flipped_byte_passes_for_a_record() {
        let temp = Temp::new();
        let mut records = at(&temp);
        (0..3).for_each(|byte| records.insert(record(byte)));
        records.flush().unwrap();
        let whole = fs::read(temp.path("state/resume")).unwrap();
        for at_byte in 0..whole.len() {
            for value in [0x01, 0x80, 0xff] {
                let mut bytes = whole.clone();
                bytes[at_byte] ^= value;
                fs::write(temp.path("state/resume"), &bytes).unwrap();
                let records = at(&temp);
                assert!(records.stale);
                assert!((0..3).all(|byte| records.find(&hash(byte)).is_none()), "byte {at_byte}");
            }
        }
    }

    #[test]
    fn what_is_foreign_or_of_the_future_is_set_aside() {
        let temp = Temp::new();
        let mut records = at(&temp);
        records.insert(record(1));
        records.flush().unwrap();
        records.insert(record(2));
        records.flush().unwrap();
        let whole = fs::read(temp.path("state/resume")).unwrap();
        let mut future = whole.clone();
        future[19] += 1;
        let sum = checksum(0, &future[..20]);
        future[20..24].copy_from_slice(&sum.to_be_bytes());
        for bytes in [future, vec![0; whole.len()], b"#!/bin/sh\nexit 0 # longer than a head".to_vec()] {
            fs::write(temp.path("state/resume"), &bytes).unwrap();
            let records = at(&temp);
            assert_eq!((records.find(&hash(1)), records.find(&hash(2))), (None, None));
            assert_eq!(fs::read(temp.path("state/resume.bad")).unwrap(), bytes);
        }
        fs::create_dir(temp.path("state/resume")).unwrap();
        fs::remove_file(temp.path("state/resume.bad")).unwrap();
        let mut records = at(&temp);
        records.insert(record(3));
        records.flush().unwrap();
        assert_eq!(at(&temp).find(&hash(3)), Some(record(3)));
    }

    #[test]
    fn a_directory_that_cannot_be_written_costs_the_records_and_nothing_else() {
        let temp = Temp::new();
        temp.file("state", b"a file where the directory should be");
        let mut records = at(&temp);
        records.insert(record(1));
        assert!(records.flush().is_err() && records.told);
        assert_eq!(records.find(&hash(1)), Some(record(1)));
        for byte in 0..=255 {
            records.insert(with_files(byte, 1));
            assert!(records.pending_bytes <= PENDING);
        }
        fs::remove_file(temp.path("state")).unwrap();
        records.insert(record(9));
        records.flush().unwrap();
        assert!(!records.told);
        assert_eq!(at(&temp).find(&hash(9)), Some(record(9)));
    }

    #[test]
    fn many_changes_are_bounded_in_memory_and_written_with_few_syncs() {
        let temp = Temp::new();
        let mut records = at(&temp);
        let faults = Faults::at(u32::MAX, Errno::NOSPC, false);
        for n in 0..1000u32 {
            let mut bytes = [0; 20];
            bytes[..4].copy_from_slice(&n.wrapping_mul(0x9e37_79b9).to_be_bytes());
            let files = if n % 20 == 0 { with_files(1, 1) } else { record(1) };
            records.insert(Record { info_hash: InfoHash::from_bytes(bytes), ..files });
            assert!(records.pending_bytes <= PENDING);
        }
        records.flush().unwrap();
        let calls = faults.calls();
        assert!(calls < 60, "{calls} calls");
        assert_eq!(records.index.len(), 1000);
        assert_eq!(records.index.capacity() * size_of::<(InfoHash, u32)>(), 24_000);
        assert_eq!(at(&temp).index, records.index);
    }

    #[test]
    fn without_a_directory_records_live_in_memory() {
        let mut records = Records::open(None);
        records.insert(record(1));
        records.flush().unwrap();
        assert_eq!(records.find(&hash(1)), Some(record(1)));
    }
}

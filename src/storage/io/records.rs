//! The resume file: found when its disk is there, written anew when records have changed.
//!
//! Read first: `resume`. A change goes to a new file beside the old one, which is synced before it takes the old
//! one's name; the old one stays as `resume.old` until the next time. So after a crash at any moment one of the two
//! is whole. A file that is damaged or foreign is set aside as `resume.bad` and none of it is used.
//! **The state directory may lie on a disk that comes later, goes and comes again.** Of it only the last part is ever
//! made, and not on what lies below a mount point; nothing of it is held open, so that the disk can be unmounted. While
//! it is away changes stay in memory; when it is back they go over what it holds.
//! Holds 24 bytes a torrent and, until the next flush, the records that have changed, at most [`PENDING`] bytes.

use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, OFlags, fstat, mkdirat, openat, stat};
use rustix::io::{Errno, pread};

use super::fault::attempt;
use super::jobs::Away;
use super::prepare::ground_of_state;
use super::tree::{ident_of, number};
use crate::config::RequireMount;
use crate::ident::Ident;
use crate::metainfo::InfoHash;
use crate::sorted::SortedMap;
use crate::storage::Trouble;
use crate::storage::resume::{
    self, FRAME, HEAD, MAX_BODY, Record, Stamp, Verified, checksum, checksum_of_length, decode_foot,
    decode_frame,
};

/// Bytes of changed records that are written without waiting for a flush, and that are dropped when they cannot be.
const PENDING: usize = 256 * 1024;

/// Bytes of the records that are kept of torrents that are gone, in case they are put back: of a thousand, mostly. The
/// file is written as a whole whenever one changes.
const GONE: u32 = 256 * 1024;

/// Bytes read or written at a time.
const BLOCK: usize = 32 * 1024;

/// The names of the resume file, now and before it was written last, and of one that was damaged.
const NAMES: [&str; 3] = ["resume", "resume.old", "resume.bad"];

/// The records of all torrents.
pub(super) struct Records {
    /// Where they are kept; `None` keeps them in memory, as far as there is room.
    directory: Option<PathBuf>,
    /// Where that is not made.
    require: RequireMount,
    /// It was there.
    read: bool,
    /// The file system that it was on: once it has gone from there it is not made elsewhere.
    device: Option<u64>,
    /// It was not there at the last look, and that has been logged.
    away: bool,
    /// The file that `index` points into; one that is damaged, too, tells its disk from others. It may have another name by
    /// now.
    file: Option<Ident>,
    /// Where each record's frame begins, sorted.
    index: Vec<(InfoHash, u32)>,
    /// Bodies that have changed since; `None` for one to be forgotten.
    pending: SortedMap<InfoHash, Option<Box<[u8]>>>,
    pending_bytes: usize,
    /// Some of them came while the file could not be read, and may not tell what is in it.
    unmerged: bool,
    /// What is in the file should be written again although no record has changed.
    stale: bool,
    /// The last error has been logged.
    told: bool,
}

/// What was found in a file.
enum Found {
    /// Nothing.
    Nothing,
    /// Something that cannot be read now: left where it is.
    Unreadable(Errno),
    /// Something else, or not all of it.
    Foreign(&'static str),
    /// Records: where each begins, sorted.
    Records(Ident, Vec<(InfoHash, u32)>),
}

impl Records {
    /// Looks at nothing yet.
    pub(super) fn new(directory: Option<PathBuf>) -> Records {
        Records {
            read: directory.is_none(),
            directory,
            require: RequireMount::Never,
            device: None,
            away: false,
            file: None,
            index: Vec::new(),
            pending: SortedMap::new(),
            pending_bytes: 0,
            unmerged: false,
            stale: false,
            told: false,
        }
    }

    /// Reads the resume file of a state directory that is there.
    pub(super) fn open(directory: Option<PathBuf>) -> Records {
        let mut records = Records::new(directory);
        records.look();
        records
    }

    /// Where the directory is not made from now on.
    pub(super) fn set_require(&mut self, require: RequireMount) {
        self.require = require;
    }

    /// Where they are kept, and what else is remembered.
    pub(super) fn directory(&self) -> Option<&Path> {
        self.directory.as_deref()
    }

    /// Whether data at `path`, below `root`, would lie in a state directory, by whatever name its file system knows that.
    pub(super) fn holds(&self, root: &Path, path: &Path) -> bool {
        let node = |path: &Path| stat(path).ok().map(|stat| (number(stat.st_dev), number(stat.st_ino)));
        let own = self.directory.as_deref().and_then(node);
        let is_own = |path: &Path| {
            path.ends_with(".meshseed")
                || self.directory() == Some(path)
                || (own.is_some() && node(path) == own)
        };
        path.ancestors().take_while(|path| *path != root).any(is_own)
    }

    /// Whether the directory was away at the last look.
    pub(super) fn is_away(&self) -> bool {
        self.away
    }

    /// Reads what is in the directory if it has come, or is another by now; tells whether it has.
    pub(super) fn look(&mut self) -> bool {
        let came = self.read_anew();
        if came && !self.pending.is_empty() {
            // Logged where it fails; tried again with the next change, or at the next scan.
            let _ = self.write_out();
        }
        came
    }

    /// Tries again what could not be written.
    pub(super) fn tend(&mut self) {
        if self.away || self.told {
            self.read_anew();
            let _ = self.write_out();
        }
    }

    /// The directory, made if need be.
    pub(super) fn make(&mut self) -> Result<&Path, String> {
        let directory = self.directory.as_deref().ok_or("there is no state directory")?;
        if let (Some(parent), _) = self.ground(directory).map_err(|trouble| trouble.to_string())? {
            let name = directory.file_name().unwrap_or_default();
            let made =
                attempt().and_then(|()| mkdirat(parent.as_fd(), Path::new(name), Mode::from_raw_mode(0o755)));
            made.map_err(|error| format!("{}: {}", directory.display(), io::Error::from(error)))?;
        }
        Ok(directory)
    }

    /// The record of a torrent.
    pub(super) fn find(&self, info_hash: &InfoHash) -> Result<Option<Record>, Away> {
        match self.pending.get(info_hash) {
            Some(body) => Ok(body.as_deref().and_then(Record::decode)),
            // What it was to be merged with could not be read when it was written: it never will be.
            None => self.body(info_hash).map(|body| Some(Record { early: false, ..Record::decode(&body?)? })),
        }
    }

    /// What there is to tell of a torrent's record, and apart from it what was found.
    pub(super) fn recall(
        &self,
        info_hash: &InfoHash,
    ) -> (Result<Option<Box<Record>>, Away>, Option<Verified>) {
        let mut found = self.find(info_hash);
        let verified = found.as_mut().ok().and_then(|record| record.as_mut()?.verified.take());
        let known = match found {
            Ok(Some(record)) if record.early => Err(Away),
            found => found.map(|record| record.map(Box::new)),
        };
        (known, verified)
    }

    /// A file of a torrent as it was when it was hashed; `None` also of one that was open for writing.
    pub(super) fn find_stamp(&self, info_hash: &InfoHash, file: u32) -> Option<Stamp> {
        let stamp = self.find(info_hash).ok()??.verified?.stamps.get(file as usize).copied();
        stamp.filter(|stamp| *stamp != Stamp::ABSENT)
    }

    /// Whether some of a torrent's data was there, as far as is known.
    pub(super) fn had_data(&self, info_hash: &InfoHash) -> bool {
        match self.find(info_hash) {
            Ok(record) => record.is_some_and(|record| record.had_data()),
            Err(Away) => self.offset(info_hash).is_some(),
        }
    }

    /// Takes a changed record, to be written at the next flush. What it does not tell stays as it is on record.
    pub(super) fn insert(&mut self, mut record: Record) {
        let info_hash = record.info_hash;
        match self.find(&info_hash) {
            Ok(Some(old)) => record = record.over(old),
            // Now it is the first one.
            Ok(None) => record.early = false,
            Err(Away) => self.unmerged = true,
        }
        let body = record.encode();
        // What is on record already costs no write.
        if self.pending.contains_key(&info_hash)
            || self.body(&info_hash).ok().flatten().as_ref() != Some(&body)
        {
            self.keep(info_hash, Some(body.into()));
        }
    }

    /// Takes records of torrents that are not `there` out at the next flush, until the others are few enough. Those that
    /// have just `left` stay; which of the others go is left to chance, as info-hashes are. Both lists are sorted.
    pub(super) fn thin_out(&mut self, left: &[InfoHash], there: &[InfoHash]) {
        let mut end = self.file.map_or(0, |file| u32::try_from(file.size).unwrap_or(u32::MAX));
        let (mut bytes, mut gone) = (0, Vec::new());
        for &(info_hash, at) in self.index.iter().rev() {
            let len = end.saturating_sub(at);
            end = at;
            if there.binary_search(&info_hash).is_err() && self.pending.get(&info_hash) != Some(&None) {
                bytes += len;
                gone.push((info_hash, len));
            }
        }
        let middle = gone.iter().position(|(info_hash, _)| Some(info_hash) < left.first()).unwrap_or(0);
        for &(info_hash, len) in gone[middle..].iter().chain(&gone[..middle]) {
            if bytes > GONE && left.binary_search(&info_hash).is_err() {
                bytes -= len;
                self.keep(info_hash, None);
            }
        }
    }

    /// Writes what has changed; with nothing changed nothing is written.
    pub(super) fn flush(&mut self) -> Result<(), String> {
        if self.directory.is_none() || (self.pending.is_empty() && !self.stale) {
            return Ok(());
        }
        self.read_anew();
        self.write_out()
    }

    /// The same after a look.
    fn write_out(&mut self) -> Result<(), String> {
        let Some(directory) = self.directory.as_deref().map(Path::display) else { return Ok(()) };
        if self.away {
            return Err(format!("{directory} is not there"));
        }
        let directory = directory.to_string();
        if self.pending.is_empty() && !self.stale {
            return Ok(());
        }
        match self.write() {
            Ok(()) => {
                if std::mem::take(&mut self.told) {
                    log::info!("{directory}: state is written again");
                }
                Ok(())
            }
            Err(error) => {
                let text = format!("state cannot be written to {directory}: {error}");
                if !std::mem::replace(&mut self.told, true) {
                    log::warn!("{text}");
                }
                Err(text)
            }
        }
    }

    /// On which file system the directory is, or, where it is not there and may be made, the one that it is to be made in.
    fn ground(&self, directory: &Path) -> Result<(Option<OwnedFd>, u64), Trouble> {
        match stat(directory) {
            Ok(stat) => return Ok((None, number(stat.st_dev))),
            Err(Errno::NOENT | Errno::NOTDIR) => {}
            Err(error) => return Err(Trouble::of(directory, error)),
        }
        let parent = directory.parent().unwrap_or(directory);
        let (parent, device) = match ground_of_state(parent, self.require)? {
            (_, device) if self.device.is_some_and(|before| before != device) => {
                return Err(Trouble::NotMounted(parent.into()));
            }
            found => found,
        };
        Ok((Some(parent), device))
    }

    /// Whether the directory is there, or another by now, and what is in it then.
    fn read_anew(&mut self) -> bool {
        let Some(directory) = self.directory.clone() else { return false };
        match self.ground(&directory) {
            Ok((None, device)) => self.device = Some(device),
            Ok(_) => {}
            Err(trouble) => {
                if !std::mem::replace(&mut self.away, true) {
                    let directory = directory.display();
                    let why = match trouble {
                        Trouble::NotMounted(_) => {
                            "mount its disk, or make the directory yourself (`require-mount`)".into()
                        }
                        trouble => trouble.to_string(),
                    };
                    log::warn!("{directory}: state stays in memory until that is there: {why}");
                }
                return false;
            }
        }
        // Of one that is damaged there is nothing more to be read, not even if it is no file.
        let is_same = match self.file {
            Some(_) => self.file().is_some(),
            None => self.stale || !exists(&directory),
        };
        let came = !(self.read && is_same) && self.take_in(&directory);
        if std::mem::take(&mut self.away) {
            log::info!("{}: state is there, with {} records", directory.display(), self.index.len());
        }
        if std::mem::take(&mut self.unmerged) {
            self.pending_bytes = 0;
            for (info_hash, body) in std::mem::take(&mut self.pending) {
                match body.map(|body| Record::decode(&body)) {
                    Some(record) => record.into_iter().for_each(|record| self.insert(record)),
                    None => self.keep(info_hash, None),
                }
            }
        }
        came
    }

    /// Reads the file of a directory.
    fn take_in(&mut self, directory: &Path) -> bool {
        let path = directory.join(NAMES[0]);
        let mut found = look(&path);
        let bad = directory.join(NAMES[2]);
        if let Found::Foreign(why) = &found {
            let aside = match rename(&path, &bad) {
                Ok(()) => format!("it is kept as {}", bad.display()),
                Err(error) => format!("it cannot be renamed: {error}"),
            };
            log::warn!("{} {why}; {aside}, and data without a record is hashed again", path.display());
        }
        if let Found::Unreadable(error) = found
            && !std::mem::replace(&mut self.told, true)
        {
            let error = io::Error::from(error);
            log::warn!("{} cannot be read, data is hashed again: {error}", path.display());
        }
        if matches!(found, Found::Nothing) {
            // A crash between two renames leaves this one alone. Of a file that was damaged it is no substitute: what
            // happened to that may have happened to the data.
            found = look(&directory.join(NAMES[1]));
        }
        self.stale = matches!(found, Found::Foreign(_));
        (self.file, self.index) = match found {
            Found::Records(file, index) => (Some(file), index),
            // What is known of a file that was read before is better than nothing.
            Found::Unreadable(_) if self.read => return false,
            Found::Foreign(_) => {
                let file = open(&bad).or_else(|_| open(&path)).ok();
                (file.map(|(_, ident)| ident), Vec::new())
            }
            _ => (None, Vec::new()),
        };
        self.read = true;
        true
    }

    fn keep(&mut self, info_hash: InfoHash, body: Option<Box<[u8]>>) {
        let len = |body: &Option<Box<[u8]>>| body.as_ref().map_or(0, |body| body.len());
        self.pending_bytes += len(&body);
        let before = self.pending.remove(&info_hash);
        self.pending.insert(info_hash, body);
        self.pending_bytes -= before.as_ref().map_or(0, len);
        // What cannot be written is let go: the daemon goes on without records rather than without memory.
        if self.pending_bytes > PENDING && (self.flush().is_err() || self.directory.is_none()) {
            if self.away {
                // It may have told of a pause.
                self.pending_bytes += before.as_ref().map_or(0, len);
                let body = self.pending.remove(&info_hash);
                self.pending_bytes -= body.as_ref().map_or(0, len);
                if let Some(before) = before {
                    self.pending.insert(info_hash, before);
                }
            } else {
                self.pending = SortedMap::new();
                self.pending_bytes = 0;
            }
        }
    }

    /// The file that the index points into, if it is there.
    fn file(&self) -> Option<OwnedFd> {
        let (directory, known) = (self.directory.as_ref()?, self.file.as_ref()?);
        NAMES.iter().find_map(|name| {
            let (file, ident) = open(&directory.join(name)).ok()?;
            ident.matches(known).then_some(file)
        })
    }

    fn offset(&self, info_hash: &InfoHash) -> Option<u32> {
        let at = self.index.binary_search_by_key(info_hash, |(known, _)| *known).ok()?;
        Some(self.index.get(at)?.1)
    }

    /// A record's body as it stands in the file.
    fn body(&self, info_hash: &InfoHash) -> Result<Option<Vec<u8>>, Away> {
        let Some(offset) = self.offset(info_hash) else {
            return if self.read { Ok(None) } else { Err(Away) };
        };
        let file = self.file().ok_or(Away)?;
        body_at(&file, offset).map_err(|_| Away)
    }

    fn write(&mut self) -> io::Result<()> {
        let directory = self.make().map_err(io::Error::other)?.to_owned();
        let (new, current, old) =
            (directory.join("resume.new"), directory.join(NAMES[0]), directory.join(NAMES[1]));
        let file = create(&new)?;
        let index = self.copy(&file)?;
        sync(&file)?;
        match rename(&current, &old) {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            answer => answer?,
        }
        rename(&new, &current)?;
        // From here on the new file is the one, whether or not its name is safe on disk yet.
        let stat = fstat(&file)?;
        self.file = Some(ident_of(&stat));
        self.device = Some(number(stat.st_dev));
        self.index = index;
        self.pending = SortedMap::new();
        self.pending_bytes = 0;
        self.stale = true;
        sync(&open_directory(&directory)?)?;
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
        let from = self.file();
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
            } else if let Some(body) = body_at(from.as_ref().ok_or(ErrorKind::NotFound)?, offset)? {
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

/// A body as it stands in a file; `None` if it is not what was written.
fn body_at(file: &OwnedFd, offset: u32) -> Result<Option<Vec<u8>>, Errno> {
    // Most records fit the first read.
    let mut bytes = vec![0; 512];
    let read = read_at(file, &mut bytes, u64::from(offset))?;
    let Some((len, sum)) = bytes.get(..FRAME.min(read)).and_then(decode_frame) else { return Ok(None) };
    let whole = FRAME + usize::try_from(len).unwrap_or(0);
    bytes.resize(whole, 0);
    if whole > read && read_at(file, &mut bytes[read..], u64::from(offset) + read as u64)? < whole - read {
        return Ok(None);
    }
    bytes.drain(..FRAME);
    Ok((checksum(checksum_of_length(len), &bytes) == sum).then_some(bytes))
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

/// Opens a file of the state directory. `None` in place of the error: it is none.
pub(super) fn open(path: &Path) -> Result<(OwnedFd, Ident), Option<Errno>> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened =
        openat(CWD, path, flags, Mode::empty()).and_then(|file| fstat(&file).map(|stat| (file, stat)));
    match opened {
        Ok((file, stat)) if FileType::from_raw_mode(stat.st_mode).is_file() => Ok((file, ident_of(&stat))),
        Ok(_) | Err(Errno::LOOP | Errno::NXIO) => Err(None),
        Err(error) => Err(Some(error)),
    }
}

/// Whether the directory holds a resume file, be it whole or not.
fn exists(directory: &Path) -> bool {
    NAMES[..2].iter().any(|name| directory.join(name).symlink_metadata().is_ok())
}

/// Looks through a resume file: what it holds, and whether that is all it held.
fn look(path: &Path) -> Found {
    let (file, ident) = match open(path) {
        Ok(opened) => opened,
        Err(Some(Errno::NOENT | Errno::NOTDIR)) => return Found::Nothing,
        Err(Some(error)) => return Found::Unreadable(error),
        Err(None) => return Found::Foreign("is not a regular file"),
    };
    let size = ident.size;
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
        Ok(Some(index)) => Found::Records(ident, index),
        Ok(None) => Found::Foreign("is damaged or cut short"),
        Err(error) => Found::Unreadable(error),
    }
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
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

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
        assert_eq!(records.find(&hash(3)).unwrap(), Some(record(3)));
        records.flush().unwrap();
        assert_eq!(fs::metadata(temp.path("state")).unwrap().permissions().mode() & 0o777, 0o755);
        let mut records = at(&temp);
        assert_eq!(records.index.len(), 5);
        records.insert(Record { uploaded: 9, verified: None, ..record(3) });
        records.insert(Record { verified: None, open: false, ..record(5) });
        records.insert(record(4));
        records.keep(hash(200), None);
        records.keep(hash(77), None);
        assert_eq!(records.find(&hash(200)).unwrap(), None);
        records.flush().unwrap();
        assert_eq!(records.find(&hash(200)).unwrap(), None);
        for records in [records, at(&temp)] {
            for byte in [0, 1, 4, 5] {
                assert_eq!(records.find(&hash(byte)).unwrap(), Some(record(byte)));
            }
            assert_eq!(records.find(&hash(3)).unwrap(), Some(Record { uploaded: 9, ..record(3) }));
            assert_eq!((records.find(&hash(200)).unwrap(), records.find(&hash(2)).unwrap()), (None, None));
            assert_eq!(records.find_stamp(&hash(1), 2).unwrap().mtime_secs, -1);
            assert_eq!(records.find_stamp(&hash(1), 99), None);
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
        let written = fs::metadata(temp.path("state/resume")).unwrap().ino();
        records.insert(record(1));
        records.insert(Record { verified: None, ..record(1) });
        records.flush().unwrap();
        assert_eq!(fs::metadata(temp.path("state/resume")).unwrap().ino(), written);
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
                records.keep(hash(3), None);
                let result = records.flush();
                let now = at(&temp);
                let is = |state: [Record; 3]| {
                    now.index.len() == 3
                        && state
                            .iter()
                            .all(|record| now.find(&record.info_hash).unwrap().as_ref() == Some(record))
                };
                assert!(is(before()) || is(after()), "call {n}");
                assert!(result.is_err() || is(after()), "call {n}");
                drop(now);
                assert_eq!(
                    records.find(&hash(4)).unwrap(),
                    Some(with_files(4, 2)),
                    "what was told is not forgotten"
                );
                drop(faults);
                if !dead {
                    records.flush().unwrap();
                    let now = at(&temp);
                    assert!(
                        now.index.len() == 3 && now.find(&hash(2)).unwrap() == Some(with_files(2, 2)),
                        "call {n}"
                    );
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
                assert!((0..3).all(|byte| records.find(&hash(byte)).unwrap().is_none()), "byte {at_byte}");
            }
        }
    }

    #[test]
    fn a_disk_that_comes_in_place_of_one_whose_file_was_damaged_keeps_what_is_on_it() {
        for is_read_only in [false, true] {
            let temp = Temp::new();
            let mut good = at(&temp);
            [1, 2].iter().for_each(|&byte| good.insert(record(byte)));
            good.flush().unwrap();
            fs::rename(temp.path("state"), temp.path("good")).unwrap();
            let mut records = at(&temp);
            // Of an older file, too, nothing is used then.
            [3, 4].iter().for_each(|&byte| {
                records.insert(record(byte));
                records.flush().unwrap();
            });
            fs::write(temp.path("state/resume"), b"damaged").unwrap();
            let faults = is_read_only.then(|| Faults::at(1, Errno::ROFS, true));
            let mut records = at(&temp);
            drop(faults);
            assert!(!records.look() && records.stale && records.find(&hash(3)) == Ok(None));
            fs::rename(temp.path("state"), temp.path("damaged")).unwrap();
            fs::rename(temp.path("good"), temp.path("state")).unwrap();
            assert!(records.look());
            records.insert(record(5));
            records.flush().unwrap();
            let now = at(&temp);
            for byte in [1, 2, 5] {
                assert_eq!(now.find(&hash(byte)), Ok(Some(record(byte))), "{byte}");
            }
            assert_eq!(now.index.len(), 3);
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
            assert_eq!((records.find(&hash(1)).unwrap(), records.find(&hash(2)).unwrap()), (None, None));
            assert_eq!(fs::read(temp.path("state/resume.bad")).unwrap(), bytes);
        }
        fs::create_dir(temp.path("state/resume")).unwrap();
        fs::remove_file(temp.path("state/resume.bad")).unwrap();
        let mut records = at(&temp);
        records.insert(record(3));
        records.flush().unwrap();
        assert_eq!(at(&temp).find(&hash(3)).unwrap(), Some(record(3)));
    }

    #[test]
    fn a_directory_that_cannot_be_written_costs_the_records_and_nothing_else() {
        let temp = Temp::new();
        temp.file("state", b"a file where the directory should be");
        let mut records = at(&temp);
        records.insert(record(1));
        assert!(records.flush().is_err() && records.told);
        assert_eq!(records.find(&hash(1)).unwrap(), Some(record(1)));
        for byte in 0..=255 {
            records.insert(with_files(byte, 1));
            assert!(records.pending_bytes <= PENDING);
        }
        fs::remove_file(temp.path("state")).unwrap();
        records.insert(record(9));
        records.flush().unwrap();
        assert!(!records.told);
        assert_eq!(at(&temp).find(&hash(9)).unwrap(), Some(record(9)));
    }

    #[test]
    fn until_the_directory_can_be_made_as_much_is_kept_as_there_is_room_for() {
        let temp = Temp::new();
        let state = Some(temp.path("disk/state"));
        let mut records = Records::open(state.clone());
        for byte in 0..=255 {
            records.insert(with_files(byte, 1));
            assert!(records.pending_bytes <= PENDING);
        }
        assert!(records.flush().is_err() && records.is_away() && !temp.path("disk").exists());
        assert_eq!(records.find(&hash(0)), Ok(Some(with_files(0, 1))));
        assert_eq!(records.find(&hash(255)), Err(Away));
        fs::create_dir(temp.path("disk")).unwrap();
        assert!(records.look() && !records.look() && !records.is_away());
        assert_eq!(Records::open(state).find(&hash(0)), Ok(Some(with_files(0, 1))));
        assert_eq!(records.find(&hash(255)), Ok(None));
    }

    #[test]
    fn what_is_found_out_before_the_file_comes_goes_over_what_is_in_it() {
        let temp = Temp::new();
        let mut records = at(&temp);
        [3, 4, 5].iter().for_each(|&byte| records.insert(record(byte)));
        records.flush().unwrap();
        fs::rename(temp.path("state"), temp.path("elsewhere")).unwrap();
        let early = |byte| Record { early: true, uploaded: 0, paused: false, ..with_files(byte, 1) };
        let gone = Some(temp.path("gone/state"));
        let mut records = Records::open(gone);
        [3, 6].iter().for_each(|&byte| records.insert(early(byte)));
        assert_eq!(records.recall(&hash(3)), (Err(Away), with_files(3, 1).verified));
        assert!(records.had_data(&hash(3)) && !records.had_data(&hash(4)));
        fs::create_dir(temp.path("gone")).unwrap();
        fs::rename(temp.path("elsewhere"), temp.path("gone/state")).unwrap();
        assert!(records.look());
        let merged = Record { verified: with_files(3, 1).verified, open: false, ..record(3) };
        assert_eq!(records.find(&hash(3)), Ok(Some(merged)));
        assert_eq!(records.find(&hash(6)), Ok(Some(Record { early: false, ..early(6) })));
        assert_eq!(records.find(&hash(4)), Ok(Some(record(4))));
        // It goes while it is in use; what was there is not forgotten.
        fs::rename(temp.path("gone"), temp.path("away")).unwrap();
        assert_eq!((records.find(&hash(4)), records.find(&hash(9))), (Err(Away), Ok(None)));
        assert!(records.had_data(&hash(4)) && !records.had_data(&hash(9)));
        records.insert(Record { uploaded: 77, verified: None, ..record(4) });
        assert!(records.flush().is_err());
        fs::rename(temp.path("away"), temp.path("gone")).unwrap();
        records.tend();
        let now = Records::open(Some(temp.path("gone/state")));
        assert_eq!(now.find(&hash(4)), Ok(Some(Record { uploaded: 77, ..record(4) })));
        assert_eq!(now.index.len(), 4);
    }

    #[test]
    fn a_change_that_finds_no_room_leaves_what_was_told_before() {
        let temp = Temp::new();
        let mut records = Records::open(Some(temp.path("disk/state")));
        let paused = Record { paused: true, ..Record::new(hash(255)) };
        records.insert(paused.clone());
        (0..255).for_each(|byte| records.insert(with_files(byte, 1)));
        assert_eq!(records.find(&hash(254)), Err(Away), "there is no room");
        records.insert(Record { paused: true, ..with_files(255, 1) });
        assert_eq!(records.find(&hash(255)), Ok(Some(paused)));
        let kept: usize = records.pending.values().flatten().map(|body| body.len()).sum();
        assert_eq!(records.pending_bytes, kept);
    }

    #[test]
    fn what_could_never_be_merged_is_a_record_like_others_once_it_is_written() {
        let temp = Temp::new();
        let mut records = at(&temp);
        // As where the disk came and its old record of that torrent could not be read.
        records.keep(hash(1), Some(Record { early: true, ..with_files(1, 1) }.encode().into()));
        records.flush().unwrap();
        let mut records = at(&temp);
        assert!(records.recall(&hash(1)).0.is_ok(), "else it would be asked for at each scan");
        records.insert(Record { paused: true, ..record(1) });
        records.flush().unwrap();
        assert!(at(&temp).find(&hash(1)).unwrap().unwrap().paused);
    }

    #[test]
    fn of_torrents_that_are_gone_records_are_kept_as_far_as_they_are_few() {
        let temp = Temp::new();
        let mut records = at(&temp);
        let there: Vec<InfoHash> = (0..50).map(hash).collect();
        (0..100).for_each(|byte| records.insert(with_files(byte, 1)));
        records.flush().unwrap();
        let kept = |records: &Records| -> Vec<u8> {
            (0..=255).filter(|byte| records.find(&hash(*byte)).unwrap().is_some()).collect()
        };
        let size = || fs::metadata(temp.path("state/resume")).unwrap().size();
        let each = size() / 100;
        assert!(50 * each < GONE.into(), "{each} bytes each");
        records.thin_out(&[hash(70)], &there);
        assert_eq!((kept(&records).len(), records.pending.len()), (100, 0), "they cost no write");
        (100..200).for_each(|byte| records.insert(with_files(byte, 1)));
        records.flush().unwrap();
        // What has just left is kept, whatever there is already.
        for left in [[hash(70), hash(198)], [hash(72), hash(71)]] {
            records.thin_out(&left, &there);
            records.thin_out(&left, &there);
            records.flush().unwrap();
            let kept = kept(&records);
            assert!((0..50).all(|byte| kept.contains(&byte)));
            assert!(left.iter().all(|left| records.find(left).unwrap().is_some()));
            let gone = (kept.len() as u64 - 50) * each;
            assert!(gone <= GONE.into() && gone + 2 * each > GONE.into(), "{kept:?}");
        }
        assert!(size() < u64::from(GONE) + 51 * each);
        let all: Vec<InfoHash> = (0..200).map(hash).collect();
        let before = kept(&records);
        records.thin_out(&all, &[]);
        assert_eq!(kept(&records), before, "all may leave at a time and come again");
        // As where its disk is away.
        let mut empty = Records::new(None);
        empty.thin_out(&all, &there);
        assert!(empty.pending.is_empty());
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
        assert_eq!(records.find(&hash(1)).unwrap(), Some(record(1)));
    }
}

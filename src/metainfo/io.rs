//! Reads and writes .torrent files.
//!
//! A file is written at once or not at all, whatever ends the program meanwhile. Holds the .torrent.
#![expect(clippy::disallowed_types, reason = "I/O shell")]

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use nix::sys::signal::{SigSet, SigmaskHow, Signal};
use rustix::fs::{Access, CWD, RenameFlags, access, renameat_with};
use sha1::{Digest, Sha1};

use super::MAX_TORRENT;

/// Why a file could not be read or written.
#[derive(Debug)]
pub enum Error {
    /// The system says no.
    Io(PathBuf, io::Error),
    /// The path has no last name.
    NoName(PathBuf),
    /// Neither file nor folder.
    Special(PathBuf),
    /// It would be overwritten.
    Exists(PathBuf),
    /// No .torrent is so large.
    Large(PathBuf),
}

/// Reads a .torrent, or any file no larger than one may be.
pub fn read(path: &Path) -> Result<Vec<u8>, Error> {
    let io = |error| Error::Io(path.to_owned(), error);
    let mut bytes = Vec::new();
    let limit = u64::try_from(MAX_TORRENT).map_or(u64::MAX, |n| n + 1);
    File::open(path).map_err(io)?.take(limit).read_to_end(&mut bytes).map_err(io)?;
    if bytes.len() > MAX_TORRENT { Err(Error::Large(path.to_owned())) } else { Ok(bytes) }
}

/// The directory that holds what is at a path.
pub fn folder(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Whether files can be written into a directory, as far as its mode and its disk's tell: to be said before what goes
/// there is made.
pub fn writable(folder: &Path) -> Result<(), Error> {
    access(folder.join("."), Access::WRITE_OK | Access::EXEC_OK)
        .map_err(|error| Error::Io(folder.to_owned(), error.into()))
}

/// Writes a file at once or not at all: beside it, synced, renamed. An older one stays unless `force`.
pub fn save(path: &Path, bytes: &[u8], force: bool) -> Result<(), Error> {
    let io = |error| Error::Io(path.to_owned(), error);
    let name = path.file_name().ok_or_else(|| Error::NoName(path.to_owned()))?;
    if !force && path.symlink_metadata().is_ok() {
        return Err(Error::Exists(path.to_owned()));
    }
    if path.metadata().is_ok_and(|there| !there.is_file() && !there.is_dir()) {
        // A device or a pipe is not what is to be replaced.
        return Err(Error::Special(path.to_owned()));
    }
    let folder = folder(path);
    // Hidden and without the ending, so that no watched directory takes it.
    let temporary =
        folder.join(format!(".meshseed-{}-{}", std::process::id(), Sha1Name(name.as_encoded_bytes())));
    // Ctrl-C waits for the moment that this takes, so that it leaves no part of a file.
    let ends = SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP]);
    let before = ends.thread_swap_mask(SigmaskHow::SIG_BLOCK);
    let written = write_synced(&temporary, bytes).and_then(|()| replace(&temporary, path, force));
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    if let Ok(before) = before {
        let _ = before.thread_set_mask();
    }
    if let Err(error) = written {
        return Err(if !force && error.kind() == io::ErrorKind::AlreadyExists {
            Error::Exists(path.to_owned())
        } else {
            io(error)
        });
    }
    // The file is there whole; not every file system can sync a folder.
    let _ = File::open(folder).and_then(|folder| folder.sync_all());
    Ok(())
}

fn write_synced(path: &Path, bytes: &[u8]) -> io::Result<()> {
    // What a killed run left behind has our process's number by chance alone.
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn replace(from: &Path, to: &Path, force: bool) -> io::Result<()> {
    if force {
        return fs::rename(from, to);
    }
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        // Some file systems can not promise it; that there was none has been looked at before.
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => fs::rename(from, to),
        outcome => Ok(outcome?),
    }
}

/// A file's name as a short one, which fits where the name itself has 255 bytes.
struct Sha1Name<'a>(&'a [u8]);

impl fmt::Display for Sha1Name<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&super::hex(&Sha1::digest(self.0)[..6]))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Io(path, error) => write!(f, "{}: {error}", path.display()),
            Error::NoName(path) => write!(f, "{}: it has no name", path.display()),
            Error::Special(path) => write!(f, "{}: neither a file nor a folder", path.display()),
            Error::Exists(path) => write!(f, "{}: it exists already (--force replaces it)", path.display()),
            Error::Large(path) => write!(f, "{}: larger than {} MiB", path.display(), MAX_TORRENT >> 20),
        }
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder of its own that goes when the test ends.
    struct Folder(PathBuf);

    impl Folder {
        fn new() -> Folder {
            let path = std::env::temp_dir().join(format!("meshseed-metainfo-{}", std::process::id()));
            let _ = fs::remove_dir_all(&path);
            fs::create_dir_all(&path).unwrap();
            Folder(path)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_file_is_written_whole_and_an_older_one_stays_unless_forced() {
        let folder = Folder::new();
        let path = folder.0.join("x.torrent");
        save(&path, b"one", false).unwrap();
        assert!(matches!(save(&path, b"two", false), Err(Error::Exists(_))));
        assert_eq!(read(&path).unwrap(), b"one");
        save(&path, b"two", true).unwrap();
        assert_eq!(read(&path).unwrap(), b"two");
        assert_eq!(folder.0.read_dir().unwrap().count(), 1, "nothing is left beside it");
        assert!(matches!(save(&folder.0.join("absent/x"), b"", false), Err(Error::Io(..))));
    }
}

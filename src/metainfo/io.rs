//! Reads the files that a torrent is made of, and reads and writes the .torrent itself.
//!
//! Read first: `maker.rs`. Links and special files are passed over with a warning; a file that changes meanwhile is
//! an error that names it. Holds 256 KiB a job, 20 bytes a piece and the list of files.
#![expect(clippy::disallowed_methods, clippy::disallowed_types, reason = "I/O shell")]

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, mpsc};
use std::{slice, thread};

use rustix::fs::{CWD, OFlags, RenameFlags, renameat_with};
use sha1::{Digest, Sha1};

use super::maker::{self, Entry, Options, Plan};
use super::{MAX_FILES, MAX_TORRENT};

/// Bytes of one read: large enough that a disk streams.
const READ: usize = 256 * 1024;

/// Bytes that one job takes at a time, so that several do not make a disk seek for every piece.
const RUN: u64 = 8 << 20;

/// Threads that hash: more than cores gain nothing, and each holds a buffer.
pub const MAX_JOBS: usize = 16;

/// What is to be made of what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreateOptions {
    /// The file or folder.
    pub path: PathBuf,
    /// What the user says beside it.
    pub maker: Options,
    /// Threads that hash; 1 is best for a spinning disk.
    pub jobs: usize,
}

/// A torrent that was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Created {
    /// The .torrent.
    pub bytes: Vec<u8>,
    /// What was passed over.
    pub warnings: Vec<String>,
    /// The files as they were hashed, in the torrent's order.
    pub files: Vec<Entry>,
}

/// Why a file could not be read, or no torrent made or written.
#[derive(Debug)]
pub enum Error {
    /// The system says no.
    Io(PathBuf, io::Error),
    /// The content can not be a torrent.
    Maker(PathBuf, maker::Error),
    /// A name that is not UTF-8, which BEP 3 asks for.
    Name(PathBuf),
    /// The path has no last name to call the torrent by.
    NoName(PathBuf),
    /// Written to, or replaced, while it was hashed.
    Changed(PathBuf),
    /// Neither file nor folder.
    Special(PathBuf),
    /// It would be overwritten.
    Exists(PathBuf),
    /// No .torrent is so large.
    Large(PathBuf),
}

/// What was found.
struct Walk {
    entries: Vec<Entry>,
    warnings: Vec<String>,
}

/// Makes a torrent. `progress` is told bytes hashed and bytes in all.
pub fn create(options: &CreateOptions, progress: &mut dyn FnMut(u64, u64)) -> Result<Created, Error> {
    let root = fs::canonicalize(&options.path).map_err(|error| Error::Io(options.path.clone(), error))?;
    // A link that the user names is followed, and lends its own name.
    let named = options.path.file_name().or(root.file_name()).ok_or_else(|| Error::NoName(root.clone()))?;
    let name = named.to_str().ok_or_else(|| Error::Name(options.path.clone()))?;
    let walk = walk(&root, &options.maker)?;
    let plan = maker::plan(name, walk.entries, options.maker.piece_length)
        .map_err(|error| Error::Maker(options.path.clone(), error))?;
    let pieces = hash(&root, &plan, options.jobs, progress)?;
    // All of them again: one that was written to after its turn would not match the hashes either.
    for entry in &plan.files {
        let path = below(&root, &entry.names);
        match fs::symlink_metadata(&path) {
            Ok(metadata) if unchanged(&metadata, entry) => {}
            _ => return Err(Error::Changed(path)),
        }
    }
    let bytes = maker::encode(&plan, &options.maker, &pieces);
    Ok(Created { bytes, warnings: walk.warnings, files: plan.files })
}

/// Reads a .torrent, or any file no larger than one may be.
pub fn read(path: &Path) -> Result<Vec<u8>, Error> {
    let io = |error| Error::Io(path.to_owned(), error);
    let mut bytes = Vec::new();
    let limit = u64::try_from(MAX_TORRENT).map_or(u64::MAX, |n| n + 1);
    File::open(path).map_err(io)?.take(limit).read_to_end(&mut bytes).map_err(io)?;
    if bytes.len() > MAX_TORRENT { Err(Error::Large(path.to_owned())) } else { Ok(bytes) }
}

/// Writes a file at once or not at all: beside it, synced, renamed. An older one stays unless `force`.
pub fn save(path: &Path, bytes: &[u8], force: bool) -> Result<(), Error> {
    let io = |error| Error::Io(path.to_owned(), error);
    let name = path.file_name().ok_or_else(|| Error::NoName(path.to_owned()))?;
    if !force && path.symlink_metadata().is_ok() {
        return Err(Error::Exists(path.to_owned()));
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // Hidden and without the ending, so that no watched directory takes it.
    let temporary =
        folder.join(format!(".meshseed-{}-{}", std::process::id(), Sha1Name(name.as_encoded_bytes())));
    let written = write_synced(&temporary, bytes).and_then(|()| replace(&temporary, path, force));
    if let Err(error) = written {
        let _ = fs::remove_file(&temporary);
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

/// Finds the files of a folder, or the one file.
fn walk(root: &Path, options: &Options) -> Result<Walk, Error> {
    let metadata = fs::metadata(root).map_err(|error| Error::Io(root.to_owned(), error))?;
    if metadata.is_file() {
        return Ok(Walk { entries: vec![found(Vec::new(), &metadata)], warnings: Vec::new() });
    }
    if !metadata.is_dir() {
        return Err(Error::Special(root.to_owned()));
    }
    let mut walk = Walk { entries: Vec::new(), warnings: Vec::new() };
    let mut folders: Vec<Vec<String>> = vec![Vec::new()];
    while let Some(names) = folders.pop() {
        let folder = below(root, &names);
        let io = |error| Error::Io(folder.clone(), error);
        for item in fs::read_dir(&folder).map_err(io)? {
            let item = item.map_err(io)?;
            let name = item.file_name();
            if maker::ignored(name.as_encoded_bytes()) {
                continue;
            }
            let name = name.into_string().map_err(|_| Error::Name(item.path()))?;
            let names: Vec<String> = names.iter().cloned().chain([name]).collect();
            let path = names.join("/");
            if options.exclude.iter().any(|glob| glob.matches(&path)) {
                continue;
            }
            if path.len() > super::path::MAX_PATH {
                let problem = super::path::Problem::Long;
                return Err(Error::Maker(item.path(), maker::Error::Name(path, problem)));
            }
            let kind = item.file_type().map_err(|error| Error::Io(item.path(), error))?;
            if kind.is_dir() {
                folders.push(names);
            } else if kind.is_file() {
                let metadata = item.metadata().map_err(|error| Error::Io(item.path(), error))?;
                if walk.entries.len() == MAX_FILES {
                    return Err(Error::Maker(root.to_owned(), maker::Error::Large));
                }
                walk.entries.push(found(names, &metadata));
            } else {
                let what = if kind.is_symlink() { "a symbolic link" } else { "no regular file" };
                walk.warnings.push(format!("{} is {what}: left out", item.path().display()));
            }
        }
    }
    walk.warnings.sort_unstable();
    Ok(walk)
}

fn found(names: Vec<String>, metadata: &fs::Metadata) -> Entry {
    Entry { names, length: metadata.len(), modified: (metadata.mtime(), metadata.mtime_nsec()) }
}

/// Whether a file is still the one that was found.
fn unchanged(metadata: &fs::Metadata, entry: &Entry) -> bool {
    metadata.is_file()
        && metadata.len() == entry.length
        && (metadata.mtime(), metadata.mtime_nsec()) == entry.modified
}

fn below(root: &Path, names: &[String]) -> PathBuf {
    let mut path = root.to_owned();
    path.extend(names);
    path
}

/// The hashes of all pieces, by so many threads; this one tells the progress.
fn hash(root: &Path, plan: &Plan, jobs: usize, progress: &mut dyn FnMut(u64, u64)) -> Result<Vec<u8>, Error> {
    let lengths = plan.lengths;
    let mut pieces = vec![0; usize::try_from(lengths.piece_count()).unwrap_or(usize::MAX).saturating_mul(20)];
    let run = usize::try_from(RUN / u64::from(lengths.piece_length())).unwrap_or(1).max(1);
    let runs = Mutex::new(pieces.chunks_mut(20 * run).enumerate());
    let failed = AtomicBool::new(false);
    let outcome = thread::scope(|scope| {
        let (told, tell) = mpsc::channel();
        let workers: Vec<_> = (0..jobs.clamp(1, MAX_JOBS))
            .map(|_| {
                let told = told.clone();
                scope.spawn(|| {
                    let told = told;
                    let mut reader = Reader::new(root, plan);
                    let outcome = reader.work(run, &runs, &failed, &told);
                    if outcome.is_err() {
                        failed.store(true, Ordering::Relaxed);
                    }
                    outcome
                })
            })
            .collect();
        drop(told);
        let mut done = 0;
        progress(0, lengths.total());
        for bytes in tell {
            done += bytes;
            progress(done, lengths.total());
        }
        workers.into_iter().try_for_each(|worker| match worker.join() {
            Ok(outcome) => outcome,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    });
    outcome.map(|()| pieces)
}

/// What one job holds.
struct Reader<'a> {
    root: &'a Path,
    plan: &'a Plan,
    /// Where each file ends among the torrent's bytes.
    ends: Vec<u64>,
    /// The file that was read last, and its position.
    open: Option<(usize, File)>,
    buffer: Vec<u8>,
}

impl<'a> Reader<'a> {
    fn new(root: &'a Path, plan: &'a Plan) -> Reader<'a> {
        let ends = plan.files.iter().scan(0, |end, file| {
            *end += file.length;
            Some(*end)
        });
        Reader { root, plan, ends: ends.collect(), open: None, buffer: vec![0; READ] }
    }

    /// Takes runs of pieces until there is none left.
    fn work(
        &mut self,
        run: usize,
        runs: &Mutex<std::iter::Enumerate<slice::ChunksMut<'_, u8>>>,
        failed: &AtomicBool,
        told: &mpsc::Sender<u64>,
    ) -> Result<(), Error> {
        // A thread that panicked while it held the lock ends the program anyway.
        while let Some((number, hashes)) = runs.lock().ok().and_then(|mut runs| runs.next()) {
            for (i, hash) in hashes.chunks_mut(20).enumerate() {
                let index =
                    u32::try_from(number * run + i).ok().and_then(|index| self.plan.lengths.piece(index));
                let Some(piece) = index else { continue };
                let offset = self.plan.lengths.offset(piece);
                let mut sha1 = Sha1::new();
                self.range(offset, u64::from(self.plan.lengths.size(piece)), &mut sha1, told)?;
                hash.copy_from_slice(&sha1.finalize());
                if failed.load(Ordering::Relaxed) {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Feeds a range of the torrent's bytes to the hash.
    fn range(
        &mut self,
        mut offset: u64,
        mut len: u64,
        sha1: &mut Sha1,
        told: &mpsc::Sender<u64>,
    ) -> Result<(), Error> {
        while len > 0 {
            let file = self.ends.partition_point(|end| *end <= offset);
            let Some(entry) = self.plan.files.get(file) else { break };
            let inside = offset - (self.ends[file] - entry.length);
            let most = len.min(entry.length - inside);
            let want = usize::try_from(most).map_or(READ, |most| most.min(READ));
            if self.open.as_ref().is_none_or(|(open, ..)| *open != file) {
                self.open = Some((file, self.start(file)?));
            }
            let Some((_, open)) = &self.open else { break };
            match open.read_at(&mut self.buffer[..want], inside) {
                Ok(0) => return Err(Error::Changed(self.path(file))),
                Ok(n) => {
                    sha1.update(&self.buffer[..n]);
                    let n = u64::try_from(n).unwrap_or(0);
                    (offset, len) = (offset + n, len - n);
                    // Nobody listens any more where another job has failed.
                    let _ = told.send(n);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Error::Io(self.path(file), error)),
            }
        }
        Ok(())
    }

    fn path(&self, file: usize) -> PathBuf {
        below(self.root, self.plan.files.get(file).map_or(&[], |file| file.names.as_slice()))
    }

    fn start(&self, file: usize) -> Result<File, Error> {
        let path = self.path(file);
        // A name that became a link or a pipe since the walk neither leads away nor blocks.
        let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
        let opened = OpenOptions::new().read(true).custom_flags(flags).open(&path);
        let io = |error| Error::Io(path.clone(), error);
        let open = opened.map_err(io)?;
        let metadata = open.metadata().map_err(io)?;
        if !self.plan.files.get(file).is_some_and(|entry| unchanged(&metadata, entry)) {
            return Err(Error::Changed(path));
        }
        Ok(open)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Io(path, error) => write!(f, "{}: {error}", path.display()),
            Error::Maker(path, error) => write!(f, "{}: {error}", path.display()),
            Error::Name(path) => {
                let path = path.as_os_str().as_encoded_bytes().escape_ascii();
                write!(f, "{path}: the name is not UTF-8, which a torrent's names must be")
            }
            Error::NoName(path) => write!(f, "{}: it has no name", path.display()),
            Error::Changed(path) => write!(f, "{}: it changed while it was hashed", path.display()),
            Error::Special(path) => write!(f, "{}: neither a file nor a folder", path.display()),
            Error::Exists(path) => write!(f, "{}: it exists already (--force replaces it)", path.display()),
            Error::Large(path) => write!(f, "{}: larger than {} MiB", path.display(), MAX_TORRENT >> 20),
        }
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt;

    use super::super::maker::Glob;
    use super::super::{InfoHash, parse};
    use super::*;

    /// A folder of its own that goes when the test ends.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Folder {
            let path = std::env::temp_dir().join(format!("meshseed-metainfo-{}-{name}", std::process::id()));
            let _ = fs::remove_dir_all(&path);
            fs::create_dir_all(&path).unwrap();
            Folder(path)
        }

        fn file(&self, path: &str, bytes: &[u8]) {
            let path = self.0.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        }

        fn create(&self, path: &str, jobs: usize) -> Result<Created, Error> {
            let maker = Options { piece_length: Some(16_384), ..Options::default() };
            create(&CreateOptions { path: self.0.join(path), maker, jobs }, &mut |_, _| {})
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn noise(len: usize, seed: u32) -> Vec<u8> {
        let mut x = seed;
        std::iter::repeat_with(|| {
            x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            x.to_be_bytes()[0]
        })
        .take(len)
        .collect()
    }

    #[test]
    fn a_folder_is_hashed_as_one_row_of_bytes_whatever_the_number_of_jobs() {
        let folder = Folder::new("hash");
        let contents = [noise(100_000, 1), noise(0, 2), noise(16_384, 3), noise(700_001, 4)];
        for (name, bytes) in ["d/b", "d/a/empty", "d/c", "d/c-"].iter().zip(&contents) {
            folder.file(name, bytes);
        }
        for name in ["d/.hidden", "d/CVS/x", "d/core", "d/Thumbs.db"] {
            folder.file(name, b"x");
        }
        let one = folder.create("d", 1).unwrap();
        let torrent = parse(&one.bytes).unwrap();
        let paths: Vec<_> = torrent.files.iter().map(|file| file.path.as_str()).collect();
        assert_eq!(paths, ["a/empty", "b", "c", "c-"]);
        let row = contents.concat();
        let hashes: Vec<u8> =
            row.chunks(16_384).flat_map(|piece| <[u8; 20]>::from(Sha1::digest(piece))).collect();
        let at = usize::try_from(torrent.hashes_at).unwrap();
        assert!(one.bytes[at..].starts_with(&hashes));
        for jobs in [2, 7] {
            assert_eq!(folder.create("d", jobs).unwrap().bytes, one.bytes);
        }
        assert_eq!(
            folder.create("d/.", 1).unwrap().bytes,
            one.bytes,
            "the name does not hang on how it is said"
        );
    }

    #[test]
    fn one_file_is_a_torrent_and_progress_ends_at_its_length() {
        let folder = Folder::new("file");
        folder.file("x", &noise(600_000, 1));
        let mut steps = Vec::new();
        let options = CreateOptions { path: folder.0.join("x"), maker: Options::default(), jobs: 1 };
        let made = create(&options, &mut |done, total| steps.push((done, total))).unwrap();
        assert_eq!((steps.first(), steps.last()), (Some(&(0, 600_000)), Some(&(600_000, 600_000))));
        let torrent = parse(&made.bytes).unwrap();
        assert_eq!((torrent.name.as_str(), torrent.multi_file), ("x", false));
        let range =
            usize::try_from(torrent.info_at.start).unwrap()..usize::try_from(torrent.info_at.end).unwrap();
        assert_eq!(torrent.info_hash, InfoHash::of(&made.bytes[range]));
    }

    #[test]
    fn links_and_pipes_are_left_out_with_a_warning_and_patterns_without() {
        let folder = Folder::new("links");
        folder.file("d/a", b"a");
        folder.file("d/sub/x.tmp", b"a");
        folder.file("d/skip/x", b"a");
        std::os::unix::fs::symlink("/etc/passwd", folder.0.join("d/link")).unwrap();
        std::os::unix::fs::symlink("..", folder.0.join("d/loop")).unwrap();
        let maker = Options { exclude: vec![Glob::new("*.tmp"), Glob::new("skip")], ..Options::default() };
        let made =
            create(&CreateOptions { path: folder.0.join("d"), maker, jobs: 1 }, &mut |_, _| {}).unwrap();
        assert_eq!(made.warnings.len(), 2, "{:?}", made.warnings);
        let torrent = parse(&made.bytes).unwrap();
        assert_eq!((torrent.files.len(), torrent.files[0].path.as_str()), (1, "a"));
    }

    #[test]
    fn a_file_that_changes_while_it_is_hashed_is_named() {
        for (change, name) in [(0, "grows"), (1, "shrinks"), (2, "is replaced")] {
            let folder = Folder::new(&format!("changes-{change}"));
            folder.file("d/a", &noise(3 << 20, 1));
            folder.file("d/b", &noise(1000, 1));
            let path = folder.0.join("d/a");
            let mut once = Some(());
            let options = CreateOptions { path: folder.0.join("d"), maker: Options::default(), jobs: 1 };
            let outcome = create(&options, &mut |_, _| {
                if once.take().is_some() {
                    match change {
                        0 => fs::write(&path, noise(4 << 20, 2)).unwrap(),
                        1 => fs::write(&path, noise(2 << 20, 2)).unwrap(),
                        _ => {
                            fs::write(folder.0.join("new"), noise(3 << 20, 2)).unwrap();
                            fs::rename(folder.0.join("new"), &path).unwrap();
                        }
                    }
                }
            });
            match outcome {
                Err(Error::Changed(at)) => assert_eq!(at, fs::canonicalize(&path).unwrap(), "{name}"),
                other => panic!("{name}: {other:?}"),
            }
        }
    }

    #[test]
    fn a_name_that_is_not_utf_8_is_an_error_that_names_it() {
        let folder = Folder::new("utf8");
        folder.file("d/a", b"a");
        fs::write(folder.0.join("d").join(std::ffi::OsStr::from_bytes(b"x\xff")), b"a").unwrap();
        let error = folder.create("d", 1).unwrap_err();
        assert!(matches!(&error, Error::Name(_)) && error.to_string().contains("x\\xff"), "{error}");
    }

    #[test]
    fn what_is_not_there_or_empty_is_an_error() {
        let folder = Folder::new("empty");
        folder.file("d/.x", b"a");
        assert!(folder.create("d", 1).unwrap_err().to_string().contains("nothing in it"));
        assert!(matches!(folder.create("absent", 1), Err(Error::Io(..))));
        let root = CreateOptions { path: "/dev/null".into(), maker: Options::default(), jobs: 1 };
        assert!(matches!(create(&root, &mut |_, _| {}), Err(Error::Special(_))));
    }

    #[test]
    fn a_file_is_written_whole_and_an_older_one_stays_unless_forced() {
        let folder = Folder::new("save");
        let path = folder.0.join("x.torrent");
        save(&path, b"one", false).unwrap();
        assert!(matches!(save(&path, b"two", false), Err(Error::Exists(_))));
        assert_eq!(read(&path).unwrap(), b"one");
        save(&path, b"two", true).unwrap();
        assert_eq!(read(&path).unwrap(), b"two");
        assert_eq!(fs::read_dir(&folder.0).unwrap().count(), 1, "nothing is left beside it");
        assert!(matches!(save(&folder.0.join("absent/x"), b"", false), Err(Error::Io(..))));
    }
}

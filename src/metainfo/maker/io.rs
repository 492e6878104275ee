//! Finds what a torrent is made of, has it hashed and hands back the torrent.
//!
//! Read first: `maker/mod.rs`. What is left out is told, whatever the reason: `core` may be real data. Special files are
//! left out; links are, unless they are wished. A file that changes meanwhile is an error that names it. Holds the list
//! of files and the hashes.
#![expect(clippy::disallowed_methods, reason = "I/O shell")]

use std::fmt;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::{Entry, Format, Options, Plan, names};
use crate::bencode::Value;
use crate::metainfo::{self, InfoHash, MAX_FILES};

mod hash;

/// Threads that hash: more than cores gain nothing, and each holds a buffer.
pub const MAX_JOBS: usize = 16;

/// Lines of what is left out or unusual: nobody reads more.
const MAX_LINES: usize = 1000;

/// Below a data root it holds what the daemon remembers.
const STATE: &str = ".meshseed";

/// Why no torrent was made.
#[derive(Debug)]
pub enum Error {
    /// A file could not be read or written.
    File(metainfo::io::Error),
    /// The content can not be a torrent.
    Maker(PathBuf, super::Error),
    /// A name that is not UTF-8, which BEP 3 asks for.
    Name(PathBuf),
    /// Written to, or replaced, while it was hashed.
    Changed(PathBuf),
    /// It would be written over what it is made of, or among it.
    Content(PathBuf),
    /// No DHT nodes to name.
    Nodes(String),
}

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
    /// What was left out, and what others may stumble over.
    pub warnings: Vec<String>,
    /// The files as they were hashed, one for each that a reader of the .torrent lists: of padding there is nothing.
    pub files: Vec<Entry>,
    /// What it is made of.
    pub plan: Plan,
    /// SHA-1 of the info dictionary, where the format has v1.
    pub info_hash: Option<InfoHash>,
    /// SHA-256 of it, where the format has v2.
    pub info_hash_v2: Option<[u8; 32]>,
}

/// What was found.
struct Walk<'a> {
    root: &'a Path,
    options: &'a Options,
    entries: Vec<Entry>,
    lines: Vec<String>,
}

/// Makes a torrent. `progress` is told bytes hashed and bytes in all.
pub fn create(options: &CreateOptions, progress: &mut dyn FnMut(u64, u64)) -> Result<Created, Error> {
    let maker = &options.maker;
    let root = fs::canonicalize(&options.path).map_err(|error| Error::io(&options.path, error))?;
    // A link that the user names is followed, and lends its own name.
    let named = options
        .path
        .file_name()
        .or(root.file_name())
        .ok_or_else(|| metainfo::io::Error::NoName(root.clone()))?;
    let name = named.to_str().ok_or_else(|| Error::Name(options.path.clone()))?;
    let mut walk = Walk { root: &root, options: maker, entries: Vec::new(), lines: Vec::new() };
    walk.all()?;
    let Walk { entries, mut lines, .. } = walk;
    let refused = |error| Error::Maker(options.path.clone(), error);
    let mut plan = super::plan(name, entries, maker).map_err(refused)?;
    let dangling = names::without_dangling(&mut plan.files);
    if !dangling.is_empty() {
        plan = super::plan(name, plan.files, maker).map_err(refused)?;
        lines
            .extend(dangling.iter().map(|link| format!("{link}: leads to nothing in the torrent, left out")));
    }
    lines.sort_unstable();
    lines.extend(names::not_portable(name, &plan.files));
    if maker.private && !maker.nodes.is_empty() {
        lines.push("clients pass over the nodes of a private torrent".to_owned());
    }
    if maker.private && maker.trackers.is_empty() {
        lines.push("it is private and names no tracker: nobody finds peers of it".to_owned());
    }
    if lines.len() > MAX_LINES {
        let more = format!("and {} more", lines.len() - MAX_LINES);
        lines.truncate(MAX_LINES);
        lines.push(more);
    }
    let hashes = hash::hash(&root, &plan, maker.md5, options.jobs, progress)?;
    // All of them again: one that was written to after its turn would not match the hashes either.
    for entry in plan.files.iter().filter(|entry| entry.link.is_none()) {
        let path = below(&root, &entry.path);
        match fs::symlink_metadata(&path) {
            Ok(metadata) if unchanged(&metadata, entry) => {}
            _ => return Err(Error::Changed(path)),
        }
    }
    let bytes = super::encode(&plan, maker, &hashes);
    let info =
        Value::parse(&bytes).ok().and_then(|torrent| torrent.find(b"info")).map_or(&[][..], Value::raw);
    let info_hash = (plan.format != Format::V2).then(|| InfoHash::of(info));
    let info_hash_v2 = plan.format.is_v2().then(|| Sha256::digest(info).into());
    Ok(Created { files: plan.listed(), warnings: lines, info_hash, info_hash_v2, plan, bytes })
}

impl Error {
    /// The system says no.
    fn io(path: &Path, error: std::io::Error) -> Error {
        Error::File(metainfo::io::Error::Io(path.to_owned(), error))
    }
}

impl From<metainfo::io::Error> for Error {
    fn from(error: metainfo::io::Error) -> Error {
        Error::File(error)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::File(error) => error.fmt(f),
            Error::Maker(path, error) => write!(f, "{}: {error}", path.display()),
            Error::Name(path) => {
                let path = path.as_os_str().as_encoded_bytes().escape_ascii();
                write!(f, "{path}: the name is not UTF-8, which a torrent's names must be")
            }
            Error::Changed(path) => write!(f, "{}: it changed while it was hashed", path.display()),
            Error::Content(path) => {
                write!(f, "{}: it is part of the content (-o names another place)", path.display())
            }
            Error::Nodes(why) => write!(f, "DHT nodes that the daemon saved: {why}"),
        }
    }
}

impl std::error::Error for Error {}

impl Walk<'_> {
    /// Finds the files of a folder, or the one file.
    fn all(&mut self) -> Result<(), Error> {
        let metadata = fs::metadata(self.root).map_err(|error| Error::io(self.root, error))?;
        if metadata.is_file() {
            self.entries.push(found(String::new(), &metadata));
            return Ok(());
        }
        if !metadata.is_dir() {
            return Err(metainfo::io::Error::Special(self.root.to_owned()).into());
        }
        let mut folders = vec![String::new()];
        while let Some(folder) = folders.pop() {
            let path = below(self.root, &folder);
            let io = |error| Error::io(&path, error);
            for item in fs::read_dir(&path).map_err(io)? {
                if let Some(inner) = self.take(&folder, &item.map_err(io)?)? {
                    folders.push(inner);
                }
            }
        }
        Ok(())
    }

    /// Takes one item of a folder; the path of a folder comes back.
    fn take(&mut self, folder: &str, item: &fs::DirEntry) -> Result<Option<String>, Error> {
        let io = |error| Error::io(&item.path(), error);
        let name = item.file_name();
        let kind = item.file_type().map_err(io)?;
        let usual = names::ignored(name.as_encoded_bytes()) && !self.options.include_hidden;
        if usual || (kind.is_dir() && name == STATE) {
            let line = if usual { "left out (--include-hidden takes it)" } else { "left out" };
            self.lines.push(format!("{}: {line}", item.path().display()));
            return Ok(None);
        }
        let name = name.into_string().map_err(|_| Error::Name(item.path()))?;
        let path = if folder.is_empty() { name } else { format!("{folder}/{name}") };
        if self.options.exclude.iter().any(|glob| glob.matches(&path)) {
            self.lines.push(format!("{}: left out by --exclude", item.path().display()));
            return Ok(None);
        }
        if kind.is_dir() {
            return Ok(Some(path));
        }
        if self.entries.len() == MAX_FILES {
            return Err(Error::Maker(self.root.to_owned(), super::Error::Large));
        }
        if kind.is_file() {
            self.entries.push(found(path, &item.metadata().map_err(io)?));
        } else if kind.is_symlink() && self.options.links {
            let text = fs::read_link(item.path()).map_err(io)?;
            match names::target(&path, text.as_os_str().as_encoded_bytes()) {
                Some(link) => self.entries.push(Entry { path, link: Some(link), ..Entry::default() }),
                None => {
                    self.lines.push(format!("{}: leads out of the folder, left out", item.path().display()))
                }
            }
        } else {
            let what =
                if kind.is_symlink() { "a symbolic link (--links stores it)" } else { "no regular file" };
            self.lines.push(format!("{}: {what}, left out", item.path().display()));
        }
        Ok(None)
    }
}

fn found(path: String, metadata: &fs::Metadata) -> Entry {
    Entry {
        path,
        length: metadata.len(),
        modified: (metadata.mtime(), metadata.mtime_nsec()),
        executable: metadata.permissions().mode() & 0o100 != 0,
        link: None,
    }
}

/// Whether a file is still the one that was found.
fn unchanged(metadata: &fs::Metadata, entry: &Entry) -> bool {
    metadata.is_file()
        && metadata.len() == entry.length
        && (metadata.mtime(), metadata.mtime_nsec()) == entry.modified
}

/// The root itself for the file that is the torrent.
fn below(root: &Path, path: &str) -> PathBuf {
    if path.is_empty() { root.to_owned() } else { root.join(path) }
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt;

    use sha1::Sha1;

    use super::super::{Format, Glob};
    use super::*;
    use crate::metainfo::parse;

    /// A folder of its own that goes when the test ends.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Folder {
            let path = std::env::temp_dir().join(format!("meshseed-maker-{}-{name}", std::process::id()));
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
    fn what_is_left_out_is_told_with_the_reason() {
        let folder = Folder::new("links");
        for name in ["d/a", "d/sub/x.tmp", "d/skip/x", "d/core", "d/.git/x", "d/.meshseed/x"] {
            folder.file(name, b"a");
        }
        std::os::unix::fs::symlink("/etc/passwd", folder.0.join("d/link")).unwrap();
        std::os::unix::fs::symlink("a", folder.0.join("d/good")).unwrap();
        std::os::unix::fs::symlink("sub/x.tmp", folder.0.join("d/nowhere")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(folder.0.join("d/socket")).unwrap();
        let exclude = vec![Glob::new("*.tmp"), Glob::new("skip")];
        let mut options = Options { exclude, ..Options::default() };
        let told = |maker: &Options, expected: &[(&str, &str)]| {
            let options = CreateOptions { path: folder.0.join("d"), maker: maker.clone(), jobs: 1 };
            let made = create(&options, &mut |_, _| {}).unwrap();
            assert_eq!(made.warnings.len(), expected.len(), "{:?}", made.warnings);
            for (name, word) in expected {
                let has = |line: &String| line.contains(&format!("{name}: ")) && line.contains(word);
                assert!(made.warnings.iter().any(has), "{name}: {:?}", made.warnings);
            }
            made
        };
        let always = [("x.tmp", "--exclude"), ("skip", "--exclude"), ("socket", "no regular file")];
        let hidden = [("core", "--include-hidden"), (".git", "--include-hidden")];
        let links = ["link", "good", "nowhere"].map(|name| (name, "--links"));
        let state = [(".meshseed", "left out")];
        told(&options, &[&always[..], &hidden, &links, &state].concat());
        (options.include_hidden, options.links) = (true, true);
        let links = [("link", "out of the folder"), ("nowhere", "nothing in the torrent")];
        let made = told(&options, &[&always[..], &links, &state].concat());
        let paths: Vec<_> = made.plan.files.iter().map(|file| file.path.as_str()).collect();
        assert_eq!(paths, [".git/x", "a", "core", "good"]);
        let torrent = parse(&made.bytes).unwrap();
        assert_eq!(torrent.files.len(), made.files.len(), "a link is no file that a reader lists");
    }

    #[test]
    fn all_formats_come_of_one_reading_whatever_the_number_of_jobs() {
        let folder = Folder::new("formats");
        let contents = [noise(100_000, 1), noise(0, 2), noise(16_384, 3), noise(900_001, 4), noise(0, 5)];
        for (name, bytes) in ["d/a", "d/b", "d/c", "d/d", "d/e"].iter().zip(&contents) {
            folder.file(name, bytes);
        }
        for format in [Format::V1, Format::Hybrid, Format::V2, Format::Merkle] {
            let make = |jobs, piece| {
                let md5 = format != Format::V2;
                let maker = Options { format, md5, piece_length: Some(piece), ..Options::default() };
                create(&CreateOptions { path: folder.0.join("d"), maker, jobs }, &mut |_, _| {}).unwrap()
            };
            for piece in [16_384, 65_536, 1 << 20] {
                let one = make(1, piece);
                assert_eq!(make(3, piece).bytes, one.bytes, "{format:?}");
                assert_eq!(
                    (one.info_hash.is_some(), one.info_hash_v2.is_some()),
                    (format.is_v1(), format.is_v2())
                );
                let md5 = super::super::md5::Md5::new().finish();
                let text = [b"6:md5sum32:", metainfo::hex(&md5).as_bytes()].concat();
                let empty = one.bytes.windows(text.len()).filter(|window| *window == text).count();
                assert_eq!(empty, if format.is_v1() { 2 } else { 0 }, "{format:?}");
            }
        }
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
    fn a_private_torrent_that_nobody_finds_peers_of_is_told() {
        let folder = Folder::new("private");
        folder.file("a", b"a");
        let private = Options { private: true, ..Options::default() };
        let tracked = Options { trackers: vec![vec!["http://t/".to_owned()]], ..private.clone() };
        for (maker, lines) in [(private, 1), (tracked, 0)] {
            let options = CreateOptions { path: folder.0.join("a"), maker, jobs: 1 };
            assert_eq!(create(&options, &mut |_, _| {}).unwrap().warnings.len(), lines);
        }
    }

    #[test]
    fn what_is_not_there_or_empty_is_an_error() {
        let folder = Folder::new("empty");
        folder.file("d/.x", b"a");
        assert!(folder.create("d", 1).unwrap_err().to_string().contains("nothing in it"));
        assert!(matches!(folder.create("absent", 1), Err(Error::File(metainfo::io::Error::Io(..)))));
        let root = CreateOptions { path: "/dev/null".into(), maker: Options::default(), jobs: 1 };
        assert!(matches!(create(&root, &mut |_, _| {}), Err(Error::File(metainfo::io::Error::Special(_)))));
    }
}

//! Opening files: .torrent files as the user names them, content never outside its tree.
//!
//! Read first: openat2(2). Where the kernel has no `openat2` (below 5.6), and for absolute links that stay inside,
//! the path is resolved first and then walked without following a link. What is made is made in a directory that was
//! reached so, and never through a link. Holds no memory.

use std::ffi::OsStr;
use std::fs;
use std::io::ErrorKind;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, SeekFrom, Stat, fchmod, fstat, fsync, mkdirat,
    openat, openat2, seek, statat,
};
use rustix::io::Errno;

use sha1::{Digest, Sha1};

use super::Place;
use super::fault::attempt;
use crate::ident::Ident;
use crate::metainfo::{InfoHash, hex};
use crate::sorted::SortedSet;
use crate::storage::resume::Stamp;
use crate::storage::{Layout, Trouble};

/// How files are opened: a FIFO in the place of a file must not block, a terminal must not become ours.
const READ: OFlags = OFlags::RDONLY.union(OFlags::NONBLOCK).union(OFlags::NOCTTY).union(OFlags::CLOEXEC);

/// The same for what is to be written.
const WRITE: OFlags = OFlags::RDWR.union(OFlags::NONBLOCK).union(OFlags::NOCTTY).union(OFlags::CLOEXEC);

/// For looking at what is there without reading it.
const LOOK: OFlags = OFlags::PATH.union(OFlags::CLOEXEC);

/// `openat2` answers EAGAIN when something was renamed meanwhile; this often it is asked again.
const TRIES: usize = 8;

/// Bytes of a sidecar: the longest path there is, and a line of what was hashed.
const SIDECAR: usize = 4096 + 64;

/// What the second line of a sidecar begins with.
const HASHED: &str = "hashed ";

/// A torrent's data and the directory that nothing of it may lead out of.
pub(super) struct Tree {
    /// The data root, or the torrent's own folder where that is elsewhere; `None` for a file that the user named.
    base: Option<(PathBuf, OwnedFd)>,
    /// The torrent's own path below it.
    data: PathBuf,
}

impl Tree {
    /// Opens the directory that holds a torrent's data.
    pub(super) fn open(place: &Place, multi_file: bool) -> Result<Tree, Trouble> {
        let root = root_of(place);
        let directory = |path: &Path| match openat(CWD, path, LOOK | OFlags::DIRECTORY, Mode::empty()) {
            Ok(fd) => Ok(fd),
            Err(Errno::NOENT | Errno::NOTDIR) => Err(None),
            Err(error) => Err(Some(Trouble::of(path, error))),
        };
        if let Ok(below) = place.data.strip_prefix(&place.root)
            && below != Path::new("")
        {
            let fd = directory(root).map_err(|e| e.unwrap_or_else(|| Trouble::RootAbsent(root.into())))?;
            return Ok(Tree { base: Some((root.into(), fd)), data: below.into() });
        }
        if !multi_file {
            directory(root).map_err(|e| e.unwrap_or_else(|| Trouble::RootAbsent(root.into())))?;
            return Ok(Tree { base: None, data: place.data.to_path_buf() });
        }
        match directory(&place.data) {
            Ok(fd) => Ok(Tree { base: Some((place.data.to_path_buf(), fd)), data: PathBuf::new() }),
            Err(None) => Err(missing(place, true)),
            Err(Some(trouble)) => Err(trouble),
        }
    }

    /// The same for writing: a folder that the user has named need not be there yet, the directory it stands in must.
    pub(super) fn make(place: &Place, multi_file: bool) -> Result<Tree, Trouble> {
        let (root, data) = (root_of(place), &*place.data);
        if multi_file && root != &*place.root {
            match attempt().and_then(|()| mkdirat(CWD, data, Mode::from_raw_mode(0o777))) {
                Ok(()) => {
                    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
                    // As well as it can be done; there is nothing in it yet.
                    let _ = openat(CWD, root, flags, Mode::empty()).and_then(fsync);
                }
                Err(Errno::EXIST) => {}
                Err(Errno::NOENT | Errno::NOTDIR) => return Err(Trouble::RootAbsent(root.into())),
                Err(error) => return Err(Trouble::of(data, error)),
            }
        }
        Tree::open(place, multi_file)
    }

    /// The path of a file below the base, and whole.
    fn paths(&self, layout: &Layout, file: u32) -> (PathBuf, PathBuf) {
        let name = layout.name(file);
        let below = if name.is_empty() { self.data.clone() } else { self.data.join(name) };
        (below, layout.path(file))
    }

    /// A file as it is now; `None` where there is none, or something else than a file.
    pub(super) fn stat(&self, layout: &Layout, file: u32) -> Result<Option<Stat>, Trouble> {
        let (below, path) = self.paths(layout, file);
        let found = match &self.base {
            None => statat(CWD, below.as_path(), AtFlags::empty()),
            Some((_, fd)) => match statat(fd.as_fd(), below.as_path(), AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) if FileType::from_raw_mode(stat.st_mode).is_symlink() => {
                    self.open_beneath(&below, LOOK).and_then(fstat)
                }
                found => found,
            },
        };
        match found {
            Ok(stat) if FileType::from_raw_mode(stat.st_mode).is_file() => Ok(Some(stat)),
            Ok(_) | Err(Errno::NOENT | Errno::NOTDIR | Errno::NAMETOOLONG) => Ok(None),
            Err(error) => Err(Trouble::of(&path, error)),
        }
    }

    /// The same as a stamp.
    pub(super) fn stamp(&self, layout: &Layout, file: u32) -> Result<Stamp, Trouble> {
        Ok(self.stat(layout, file)?.map_or(Stamp::ABSENT, |stat| stamp_of(&stat)))
    }

    /// Opens a file for reading; `None` where there is none.
    pub(super) fn file(&self, layout: &Layout, file: u32) -> Result<Option<(OwnedFd, Stat)>, Trouble> {
        let (below, path) = self.paths(layout, file);
        self.regular(&below, &path, READ)
    }

    /// The same by its path.
    pub(super) fn file_at(&self, path: &Path) -> Result<Option<(OwnedFd, Stat)>, Trouble> {
        let below = match &self.base {
            None => path,
            Some((base, _)) => path.strip_prefix(base).map_err(|_| Trouble::Outside(path.into()))?,
        };
        self.regular(below, path, READ)
    }

    /// Opens a file for writing. It is made where it is not there, and so are the directories that lead to it. Tells
    /// whether it was made.
    pub(super) fn output(&self, layout: &Layout, file: u32) -> Result<(OwnedFd, Stat, bool), Trouble> {
        let (below, path) = self.paths(layout, file);
        let executable = layout.is_executable(file);
        if let Some((fd, stat)) = self.regular(&below, &path, WRITE)? {
            let mode = Mode::from_raw_mode(stat.st_mode);
            if executable && !mode.contains(Mode::XUSR) {
                // Whoever may read it may run it. A file system without such modes does without.
                let run = Mode::from_raw_mode((stat.st_mode & 0o444) >> 2);
                let _ = fchmod(&fd, mode | run);
            }
            return Ok((fd, stat, false));
        }
        let mode = Mode::from_raw_mode(if executable { 0o777 } else { 0o666 });
        match self.create(&below, mode).and_then(|fd| fstat(&fd).map(|stat| (fd, stat))) {
            Ok((fd, stat)) => Ok((fd, stat, true)),
            // A link that leads nowhere.
            Err(Errno::EXIST) => Err(Trouble::NotAFile(path)),
            Err(error) => Err(Trouble::of(&path, error)),
        }
    }

    /// Puts it on disk that a file was made. `done` holds the directories of which that is known.
    pub(super) fn sync_name(
        &self,
        layout: &Layout,
        file: u32,
        done: &mut SortedSet<PathBuf>,
    ) -> Result<(), Trouble> {
        let (below, path) = self.paths(layout, file);
        for directory in below.ancestors().skip(1) {
            if done.contains(directory) {
                break;
            }
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let opened = match &self.base {
                None => openat(CWD, directory, flags, Mode::empty()),
                Some((_, fd)) if directory == Path::new("") => {
                    openat(fd.as_fd(), Path::new("."), flags, Mode::empty())
                }
                Some(_) => self.open_beneath(directory, flags),
            };
            match opened.and_then(|fd| attempt().and_then(|()| fsync(fd))) {
                // A file system that has nothing to sync, a directory that may not be listed.
                Ok(()) | Err(Errno::INVAL | Errno::ACCESS) => {}
                Err(error) => return Err(Trouble::of(&path, error)),
            }
            done.insert(directory.into());
            if self.base.is_none() {
                break;
            }
        }
        Ok(())
    }

    /// Tells of the holes in the first `len` bytes of a file: nobody has written there. A file system that does not
    /// know of any has none.
    pub(super) fn holes(
        &self,
        layout: &Layout,
        file: u32,
        len: u64,
        each: &mut dyn FnMut(Range<u64>),
    ) -> Result<(), Trouble> {
        let Some((fd, _)) = self.file(layout, file)? else { return Ok(()) };
        let mut at = 0;
        while at < len {
            match seek(&fd, SeekFrom::Data(at)) {
                Ok(data) if data > at => {
                    each(at..data.min(len));
                    at = data;
                }
                Ok(_) => match seek(&fd, SeekFrom::Hole(at)) {
                    Ok(hole) if hole > at => at = hole,
                    _ => break,
                },
                Err(Errno::NXIO) => {
                    each(at..len);
                    break;
                }
                Err(_) => break,
            }
        }
        Ok(())
    }

    fn regular(&self, below: &Path, path: &Path, flags: OFlags) -> Result<Option<(OwnedFd, Stat)>, Trouble> {
        let opened = attempt().and_then(|()| match &self.base {
            None => openat(CWD, below, flags, Mode::empty()),
            Some(_) => self.open_beneath(below, flags),
        });
        match opened.and_then(|fd| fstat(&fd).map(|stat| (fd, stat))) {
            Ok((fd, stat)) if FileType::from_raw_mode(stat.st_mode).is_file() => Ok(Some((fd, stat))),
            // A socket or a device without a driver; a directory that was to be written.
            Ok(_) | Err(Errno::NXIO | Errno::ISDIR) => Err(Trouble::NotAFile(path.into())),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::NAMETOOLONG) => Ok(None),
            Err(error) => Err(Trouble::of(path, error)),
        }
    }

    fn create(&self, below: &Path, mode: Mode) -> Result<OwnedFd, Errno> {
        let name = below.file_name().ok_or(Errno::ISDIR)?;
        let parent = below.parent().unwrap_or(Path::new(""));
        let directory = match &self.base {
            None => openat(CWD, parent, LOOK | OFlags::DIRECTORY, Mode::empty())?,
            Some((_, fd)) => self.directory(fd, parent)?,
        };
        attempt()?;
        openat(
            directory.as_fd(),
            Path::new(name),
            WRITE | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW,
            mode,
        )
    }

    /// Opens a directory below the base; what is not there of the way to it is made.
    fn directory(&self, base: &OwnedFd, below: &Path) -> Result<OwnedFd, Errno> {
        let look = LOOK | OFlags::DIRECTORY;
        if below != Path::new("") {
            match self.open_beneath(below, look) {
                Err(Errno::NOENT) => {}
                found => return found,
            }
        }
        let mut at = openat(base.as_fd(), Path::new("."), look, Mode::empty())?;
        let mut reached = PathBuf::new();
        for name in below.components() {
            reached.push(name);
            at = match self.open_beneath(&reached, look) {
                Err(Errno::NOENT) => {
                    attempt()?;
                    match mkdirat(at.as_fd(), Path::new(&name), Mode::from_raw_mode(0o777)) {
                        Ok(()) | Err(Errno::EXIST) => self.open_beneath(&reached, look)?,
                        Err(error) => return Err(error),
                    }
                }
                found => found?,
            };
        }
        Ok(at)
    }

    fn open_beneath(&self, below: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
        let Some((base, fd)) = &self.base else { return Err(Errno::XDEV) };
        for _ in 0..TRIES {
            let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
            match openat2(fd, below, flags, Mode::empty(), beneath) {
                Err(Errno::AGAIN | Errno::INTR) => {}
                // Not there, forbidden by a sandbox that does not know it, or a link that is absolute.
                Err(Errno::NOSYS | Errno::PERM | Errno::XDEV) => break,
                answer => return answer,
            }
        }
        walk(base, below, flags)
    }
}

/// The directory whose absence means that the disk is not there.
pub(super) fn root_of(place: &Place) -> &Path {
    match place.data.strip_prefix(&place.root) {
        Ok(below) if below != Path::new("") => &place.root,
        _ => place.data.parent().unwrap_or(&place.data),
    }
}

/// Why nothing of a torrent is there. `known` says that something was, once.
pub(super) fn missing(place: &Place, known: bool) -> Trouble {
    let root = root_of(place);
    match fs::read_dir(root).map(|mut entries| entries.next().is_none()) {
        Ok(empty) if known && empty => Trouble::EmptyMount(root.into()),
        Ok(_) => Trouble::DataMissing(place.data.to_path_buf()),
        // Listing may be forbidden where opening is not.
        Err(_) if root.is_dir() => Trouble::DataMissing(place.data.to_path_buf()),
        Err(_) => Trouble::RootAbsent(root.into()),
    }
}

/// An error that came from a torrent's data, or the missing disk behind it.
pub(super) fn blame(trouble: Trouble, place: &Place) -> Trouble {
    match trouble {
        Trouble::Io { .. } | Trouble::Changed(_) if exists(&place.data) == Ok(false) => missing(place, true),
        trouble => trouble,
    }
}

/// Whether something is there, a link followed.
pub(super) fn exists(path: &Path) -> Result<bool, Errno> {
    match statat(CWD, path, AtFlags::empty()) {
        Ok(_) => Ok(true),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Opens a .torrent, or what stands beside it.
pub(super) fn open_torrent(path: &Path) -> Result<(OwnedFd, Stat), Errno> {
    let fd = openat(CWD, path, READ, Mode::empty())?;
    let stat = fstat(&fd)?;
    Ok((fd, stat))
}

/// Of which torrents the data is gone.
pub(super) fn probe(places: &[(u32, Place)]) -> Vec<(u32, Trouble)> {
    let mut lost = Vec::new();
    for (key, place) in places {
        match exists(&place.data) {
            Ok(true) => {}
            Ok(false) => lost.push((*key, missing(place, true))),
            Err(error) => lost.push((*key, Trouble::of(&place.data, error))),
        }
    }
    lost
}

/// The path in the sidecar of a .torrent, if there is one.
pub fn sidecar(torrent: &Path) -> Result<Option<PathBuf>, String> {
    Ok(read_sidecar(torrent)?.map(|(data, _)| data))
}

/// The same, and the line that says what was hashed (see [`hashed`]); it may be missing.
pub(super) fn read_sidecar(torrent: &Path) -> Result<Option<(PathBuf, String)>, String> {
    let path = torrent.with_extension("where");
    let refuse = |why: &str| Err(format!("{}: {why}", path.display()));
    let fd = match open_torrent(&path) {
        Ok((fd, stat)) if ident_of(&stat).size <= SIDECAR as u64 => fd,
        Ok(_) => return refuse("it is longer than a path can be"),
        Err(error) if std::io::Error::from(error).kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return refuse(&std::io::Error::from(error).to_string()),
    };
    let mut bytes = Vec::with_capacity(SIDECAR);
    if let Err(error) = rustix::io::read(&fd, rustix::buffer::spare_capacity(&mut bytes)) {
        return refuse(&std::io::Error::from(error).to_string());
    }
    let mut lines = bytes.strip_suffix(b"\n").unwrap_or(&bytes).split(|&byte| byte == b'\n');
    let (line, hint, rest) = (lines.next().unwrap_or_default(), lines.next(), lines.next());
    let data = Path::new(OsStr::from_bytes(line));
    let hint = hint.map(|hint| String::from_utf8_lossy(hint));
    let is_hint = hint.as_ref().is_none_or(|hint| hint.starts_with(HASHED));
    if !data.is_absolute() || line.contains(&0) || !is_hint || rest.is_some() {
        return refuse("it does not hold one absolute path");
    }
    Ok(Some((data.into(), hint.unwrap_or_default().into_owned())))
}

/// The second line of a sidecar: whoever made the torrent has hashed its files when they were like this, so that nobody
/// needs to do it again. Who may write there may give the daemon any torrent and any data; this says no more than such
/// a torrent does, and of files that have changed since it says nothing.
pub fn hashed(info_hash: &InfoHash, stamps: &[Stamp]) -> String {
    let mut sha = Sha1::new_with_prefix(info_hash.as_bytes());
    for stamp in stamps {
        sha.update(stamp.size.to_be_bytes());
        sha.update(stamp.mtime_secs.to_be_bytes());
        sha.update(stamp.mtime_nanos.to_be_bytes());
    }
    format!("{HASHED}{}", hex(&sha.finalize()))
}

/// A file's identity from what `stat` returned.
pub(super) fn ident_of(stat: &Stat) -> Ident {
    let stamp = stamp_of(stat);
    Ident {
        inode: number(stat.st_ino),
        size: stamp.size,
        mtime_secs: stamp.mtime_secs,
        mtime_nanos: stamp.mtime_nanos,
        ctime: Ident::digest(signed(stat.st_ctime), signed(stat.st_ctime_nsec)),
    }
}

/// A file's size and time of change.
pub(super) fn stamp_of(stat: &Stat) -> Stamp {
    Stamp {
        size: number(stat.st_size),
        mtime_secs: signed(stat.st_mtime),
        mtime_nanos: u32::try_from(number(stat.st_mtime_nsec)).unwrap_or(0),
    }
}

/// The fields of `Stat` have another type on each architecture.
pub(super) fn number(field: impl TryInto<u64>) -> u64 {
    field.try_into().unwrap_or(0)
}

pub(super) fn signed(field: impl TryInto<i64>) -> i64 {
    field.try_into().unwrap_or(0)
}

/// Opens what `below` resolves to, if that is inside `base`: the resolved path is walked from the base with no link
/// followed, so that nobody gains by swapping a link in between.
fn walk(base: &Path, below: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
    let resolve =
        |path: &Path| fs::canonicalize(path).map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO));
    let base = resolve(base)?;
    let target = resolve(&base.join(below))?;
    let inside = target.strip_prefix(&base).map_err(|_| Errno::XDEV)?;
    let mut names: Vec<&OsStr> = Vec::new();
    for component in inside.components() {
        let Component::Normal(name) = component else { return Err(Errno::XDEV) };
        names.push(name);
    }
    let mut at = openat(CWD, base.as_path(), LOOK | OFlags::DIRECTORY | OFlags::NOFOLLOW, Mode::empty())?;
    let Some(last) = names.pop() else { return Err(Errno::ISDIR) };
    for name in names {
        at = step(at.as_fd(), name, LOOK | OFlags::DIRECTORY)?;
    }
    step(at.as_fd(), last, flags)
}

fn step(at: BorrowedFd<'_>, name: &OsStr, flags: OFlags) -> Result<OwnedFd, Errno> {
    openat(at, Path::new(name), flags | OFlags::NOFOLLOW, Mode::empty())
}

#[cfg(test)]
mod tests {
    use super::super::tests::Temp;
    use super::*;
    use crate::storage::tests::metainfo;
    use std::os::unix::fs::symlink;

    fn place(temp: &Temp, data: &str) -> Place {
        Place {
            torrent: temp.path("t.torrent").into(),
            data: temp.path(data).into(),
            other: None,
            root: temp.path("root").into(),
            ident: Ident { inode: 0, size: 0, mtime_secs: 0, mtime_nanos: 0, ctime: 0 },
            kept: false,
            sidecar: false,
        }
    }

    /// What opening does on kernels with and without `openat2`.
    fn both(tree: &Tree, layout: &Layout, file: u32) -> Result<bool, Trouble> {
        let modern = tree.file(layout, file).map(|found| found.is_some());
        if let Some((base, _)) = &tree.base {
            let (below, _) = tree.paths(layout, file);
            let old = walk(base, &below, READ);
            assert_eq!(old.is_ok(), modern == Ok(true) || matches!(modern, Err(Trouble::NotAFile(_))));
        }
        modern
    }

    #[test]
    fn links_that_stay_in_the_tree_are_followed_and_links_that_leave_it_are_refused() {
        let temp = Temp::new();
        temp.file("root/t/plain", b"data");
        temp.file("root/elsewhere/file", b"data");
        temp.file("secret", b"data");
        symlink("../elsewhere/file", temp.path("root/t/inside")).unwrap();
        symlink(temp.path("root/elsewhere/file"), temp.path("root/t/inside-absolute")).unwrap();
        symlink("../../secret", temp.path("root/t/outside")).unwrap();
        symlink(temp.path("secret"), temp.path("root/t/outside-absolute")).unwrap();
        symlink("../..", temp.path("root/t/up")).unwrap();
        symlink("circle", temp.path("root/t/circle")).unwrap();
        symlink("nowhere", temp.path("root/t/dangling")).unwrap();
        symlink("/proc/self/exe", temp.path("root/t/magic")).unwrap();
        let names = [
            "plain",
            "inside",
            "inside-absolute",
            "outside",
            "outside-absolute",
            "up/secret",
            "circle",
            "magic",
        ];
        let files: Vec<_> = names.iter().map(|&name| (name, 4)).collect();
        let layout = Layout::new(&metainfo(4, &files), temp.path("root/t"));
        let tree = Tree::open(&place(&temp, "root/t"), true).unwrap();
        for file in 0..3 {
            assert_eq!(both(&tree, &layout, file), Ok(true), "{}", names[file as usize]);
            assert_eq!(tree.stamp(&layout, file).unwrap().size, 4);
        }
        for file in 3..8 {
            let outside = Trouble::Outside(layout.path(file));
            assert_eq!(both(&tree, &layout, file), Err(outside.clone()), "{}", names[file as usize]);
            if file != 5 {
                assert_eq!(tree.stamp(&layout, file), Err(outside));
            }
        }
        let layout = Layout::new(&metainfo(4, &[("dangling", 4), ("gone", 4)]), temp.path("root/t"));
        assert_eq!((both(&tree, &layout, 0), both(&tree, &layout, 1)), (Ok(false), Ok(false)));
    }

    #[test]
    fn a_torrents_folder_that_is_a_link_out_of_the_root_is_refused_and_a_root_that_is_a_link_is_not() {
        let temp = Temp::new();
        temp.file("disk/t/file", b"data");
        symlink("disk", temp.path("root")).unwrap();
        symlink("../elsewhere", temp.path("disk/link")).unwrap();
        temp.file("elsewhere/file", b"data");
        let layout = Layout::new(&metainfo(4, &[("file", 4), ("b", 0)]), temp.path("root/t"));
        let tree = Tree::open(&place(&temp, "root/t"), true).unwrap();
        assert_eq!(both(&tree, &layout, 0), Ok(true));
        let layout = Layout::new(&metainfo(4, &[("file", 4), ("b", 0)]), temp.path("root/link"));
        let tree = Tree::open(&place(&temp, "root/link"), true).unwrap();
        assert_eq!(both(&tree, &layout, 0), Err(Trouble::Outside(temp.path("root/link/file"))));
        assert_eq!(tree.file_at(&temp.path("secret")).unwrap_err(), Trouble::Outside(temp.path("secret")));
    }

    #[test]
    fn a_file_that_the_user_named_may_be_a_link() {
        let temp = Temp::new();
        temp.file("disk/file", b"data");
        symlink("disk/file", temp.path("link")).unwrap();
        let layout = Layout::new(&metainfo(4, &[("", 4)]), temp.path("link"));
        let tree = Tree::open(&place(&temp, "link"), false).unwrap();
        assert_eq!(tree.stamp(&layout, 0).unwrap().size, 4);
        assert!(tree.file(&layout, 0).unwrap().is_some());
        assert!(tree.file_at(&temp.path("link")).unwrap().is_some());
    }

    #[test]
    fn a_fifo_blocks_nobody_and_a_directory_is_no_file() {
        let temp = Temp::new();
        temp.file("root/t/dir/x", b"");
        rustix::fs::mknodat(CWD, temp.path("root/t/fifo"), FileType::Fifo, Mode::RUSR, 0).unwrap();
        let layout = Layout::new(&metainfo(4, &[("fifo", 4), ("dir", 4)]), temp.path("root/t"));
        let tree = Tree::open(&place(&temp, "root/t"), true).unwrap();
        for file in 0..2 {
            assert_eq!(both(&tree, &layout, file), Err(Trouble::NotAFile(layout.path(file))));
            assert_eq!(tree.stamp(&layout, file), Ok(Stamp::ABSENT));
        }
    }

    #[test]
    fn an_absent_root_is_told_from_an_empty_one_and_from_missing_data() {
        let temp = Temp::new();
        let place = place(&temp, "root/t");
        let open = |place: &Place| Tree::open(place, true).map(|_| ());
        assert_eq!(open(&place), Err(Trouble::RootAbsent(temp.path("root"))));
        assert_eq!(missing(&place, true), Trouble::RootAbsent(temp.path("root")));
        temp.file("root", b"a file");
        assert_eq!(open(&place), Err(Trouble::RootAbsent(temp.path("root"))));
        fs::remove_file(temp.path("root")).unwrap();
        fs::create_dir(temp.path("root")).unwrap();
        assert_eq!(missing(&place, true), Trouble::EmptyMount(temp.path("root")));
        assert_eq!(missing(&place, false), Trouble::DataMissing(temp.path("root/t")));
        temp.file("root/other", b"");
        assert_eq!(missing(&place, true), Trouble::DataMissing(temp.path("root/t")));
    }
}

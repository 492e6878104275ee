//! Looking at the watched trees: the scan, which is the truth, and inotify, which only hastens the next one.
//!
//! The scan is mainline's: in a directory that holds a .torrent those are taken and nothing below is looked at; else
//! every sub-directory is. A .magnet counts as the .torrent that it becomes. Hidden names are skipped. It blocks, so it
//! runs on the storage thread. While nothing changes a scan keeps nothing and hands nothing over: its fingerprint is
//! computed from what passes by.
#![expect(clippy::disallowed_methods, clippy::disallowed_types, reason = "I/O shell")]

use std::cell::{Cell, RefCell};
use std::ffi::OsStr;
use std::fs;
use std::hash::{Hash, Hasher};
use std::io::{self, ErrorKind};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use async_io::{Async, Timer};
use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, InotifyEvent, WatchDescriptor};
use smol::future::FutureExt;

use super::{Listing, MAX_DEPTH, MAX_DIRECTORIES, MAX_FILES, bytes};
use crate::ident::{Fingerprint, Ident};
use crate::list;
use crate::sorted::SortedSet;

/// A burst of events (a copy of many files) makes one scan, so long after its last event …
const QUIET: Duration = Duration::from_millis(500);

/// … but no later than this after its first.
const LONGEST: Duration = Duration::from_secs(5);

/// Lists the watched trees.
pub fn scan(roots: &[PathBuf]) -> Listing {
    let mut listing = Listing::default();
    let mut fingerprint = 0;
    walk(roots, &mut |seen| {
        fingerprint = seen.mix(fingerprint);
        match seen {
            Seen::Root(path, device) => listing.roots.push((path.to_owned(), device)),
            Seen::Directory(path) => listing.directories.push(path.to_owned()),
            Seen::File(path, ident) => listing.files.push((path.into(), ident)),
            Seen::Unlisted(path, error) => listing.unlisted.push((path.to_owned(), error.to_string())),
            Seen::Cut(why) => listing.cut = Some(why),
        }
    });
    listing.fingerprint = fingerprint.max(1);
    list::sort_by(&mut listing.files, |(one, _), (other, _)| bytes(one) < bytes(other));
    listing.files.dedup_by(|(one, _), (other, _)| one == other);
    listing
}

/// The same, unless it would be the listing of that fingerprint again.
pub fn rescan(roots: &[PathBuf], known: u64) -> Option<Listing> {
    if known != 0 {
        let mut fingerprint = 0;
        walk(roots, &mut |seen| fingerprint = seen.mix(fingerprint));
        if fingerprint.max(1) == known {
            return None;
        }
    }
    Some(scan(roots))
}

/// What a walk comes across.
enum Seen<'a> {
    Root(&'a Path, u64),
    Directory(&'a Path),
    File(&'a Path, Ident),
    Unlisted(&'a Path, &'a io::Error),
    Cut(&'static str),
}

impl Seen<'_> {
    /// A sum, since directories return names in any order.
    fn mix(&self, fingerprint: u64) -> u64 {
        let mut hasher = Fingerprint::default();
        match self {
            Seen::Root(path, device) => (0, bytes(path), device).hash(&mut hasher),
            Seen::Directory(path) => (1, bytes(path)).hash(&mut hasher),
            // Not the inode number, which is fleeting on FAT; where it tells something, ctime does as well.
            Seen::File(path, i) => {
                (2, bytes(path), i.size, i.mtime_secs, i.mtime_nanos, i.ctime).hash(&mut hasher);
            }
            Seen::Unlisted(path, error) => (4, bytes(path), error.raw_os_error()).hash(&mut hasher),
            Seen::Cut(why) => (5, why).hash(&mut hasher),
        }
        fingerprint.wrapping_add(hasher.finish())
    }
}

/// A walk under way.
struct Walk<'a> {
    visit: &'a mut dyn FnMut(Seen),
    /// Directories met, by file system and inode: a link is followed once, and no loop.
    met: SortedSet<(u64, u64)>,
    files: usize,
    /// To be listed, the next one last, with their depth below the root.
    todo: Vec<(PathBuf, usize)>,
}

fn walk(roots: &[PathBuf], visit: &mut dyn FnMut(Seen)) {
    let mut walk = Walk { visit, met: SortedSet::new(), files: 0, todo: Vec::new() };
    for root in roots {
        match fs::metadata(root) {
            Ok(metadata) if walk.met.contains(&(metadata.dev(), metadata.ino())) => {
                (walk.visit)(Seen::Root(root, metadata.dev()));
            }
            Ok(metadata) if metadata.is_dir() => {
                (walk.visit)(Seen::Root(root, metadata.dev()));
                walk.met.insert((metadata.dev(), metadata.ino()));
                walk.todo.push((root.clone(), 0));
                while let Some((directory, depth)) = walk.todo.pop() {
                    if let Err(error) = walk.list(&directory, depth)
                        && (depth == 0 || error.kind() != ErrorKind::NotFound)
                    {
                        (walk.visit)(Seen::Unlisted(&directory, &error));
                    }
                }
            }
            Ok(_) => (walk.visit)(Seen::Unlisted(root, &Errno::ENOTDIR.into())),
            Err(error) => (walk.visit)(Seen::Unlisted(root, &error)),
        }
    }
}

impl Walk<'_> {
    fn list(&mut self, directory: &Path, depth: usize) -> io::Result<()> {
        let mut below = Vec::new();
        let mut holds_torrents = false;
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            let name = entry.file_name();
            let name = name.as_bytes();
            if name.starts_with(b".") {
                continue;
            }
            let kind = entry.file_type()?;
            if is_ours(name) && !kind.is_dir() {
                holds_torrents |= self.file(&entry.path());
            } else if (kind.is_dir() || kind.is_symlink()) && !holds_torrents {
                below.push((kind.is_symlink(), entry.path()));
            }
        }
        (self.visit)(Seen::Directory(directory));
        if !holds_torrents {
            self.descend(below, depth + 1);
        }
        Ok(())
    }

    /// Whether it is (or may be) a .torrent or .magnet file, and so ends the descent.
    fn file(&mut self, path: &Path) -> bool {
        match fs::metadata(path) {
            Ok(metadata) if !metadata.is_file() => return false,
            Ok(_) if self.files >= MAX_FILES => (self.visit)(Seen::Cut("more than 100000 .torrent files")),
            Ok(metadata) => {
                self.files += 1;
                (self.visit)(Seen::File(path, Ident::of(&metadata)));
            }
            // Went this moment, or a link to nothing.
            Err(error) if error.kind() == ErrorKind::NotFound => return false,
            Err(error) => (self.visit)(Seen::Unlisted(path, &error)),
        }
        true
    }

    fn descend(&mut self, mut below: Vec<(bool, PathBuf)>, depth: usize) {
        // Directories before links to them, so that a file is known by its own path; backwards, as `todo` is a stack.
        list::sort(&mut below);
        let mut directories = Vec::new();
        for (_, path) in below {
            match fs::metadata(&path) {
                Ok(metadata) if !metadata.is_dir() => {}
                Ok(_) if depth > MAX_DEPTH => (self.visit)(Seen::Cut("directories more than 32 deep")),
                Ok(_) if self.met.len() >= MAX_DIRECTORIES => {
                    (self.visit)(Seen::Cut("more than 10000 directories"))
                }
                Ok(metadata) => {
                    if self.met.insert((metadata.dev(), metadata.ino())) {
                        directories.push((path, depth));
                    }
                }
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => (self.visit)(Seen::Unlisted(&path, &error)),
            }
        }
        self.todo.extend(directories.into_iter().rev());
    }
}

/// inotify on every directory of the last listing. A file system without events (NFS) or a lack of watches costs
/// nothing but time: the regular scan finds what was missed.
pub struct Hints {
    inotify: Async<Inotify>,
    /// Sorted.
    watches: RefCell<Vec<WatchDescriptor>>,
    told: Cell<bool>,
}

impl Hints {
    /// Watches nothing yet.
    pub fn new() -> io::Result<Hints> {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        Ok(Hints {
            inotify: Async::new_nonblocking(inotify)?,
            watches: RefCell::default(),
            told: Cell::new(false),
        })
    }

    /// Watches these directories and no others.
    pub fn update(&self, directories: &[PathBuf]) {
        let wanted = AddWatchFlags::IN_CLOSE_WRITE
            | AddWatchFlags::IN_MOVED_FROM
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_DELETE_SELF
            | AddWatchFlags::IN_MOVE_SELF
            | AddWatchFlags::IN_ATTRIB
            | AddWatchFlags::IN_ONLYDIR;
        let inotify = self.inotify.get_ref();
        let mut watches = Vec::with_capacity(directories.len());
        for directory in directories {
            match inotify.add_watch(directory, wanted) {
                // The same directory has the same number again.
                Ok(watch) => watches.push(watch),
                Err(Errno::ENOSPC | Errno::ENOMEM) => {
                    if !self.told.replace(true) {
                        log::warn!(
                            "out of inotify watches at {} (fs.inotify.max_user_watches): changes there are found by \
                             the regular scan",
                            directory.display()
                        );
                    }
                    break;
                }
                // Went, or a file system that has none.
                Err(_) => {}
            }
        }
        list::sort(&mut watches);
        watches.dedup();
        for watch in &*self.watches.borrow() {
            if watches.binary_search(watch).is_err() {
                // Fails where the directory is gone, and the watch with it.
                let _ = inotify.rm_watch(*watch);
            }
        }
        self.watches.replace(watches);
    }

    /// Returns when something has changed that a scan would see, after the burst is over.
    pub async fn changed(&self) {
        self.event().await;
        let end = Instant::now() + LONGEST;
        while Instant::now() < end {
            let quiet = async {
                Timer::after(QUIET).await;
                true
            };
            let busy = async {
                self.event().await;
                false
            };
            if quiet.or(busy).await {
                return;
            }
            // Not a wake-up for every event of a long burst.
            Timer::after(QUIET / 2).await;
        }
    }

    async fn event(&self) {
        loop {
            match self.inotify.read_with(|inotify| Ok(inotify.read_events()?)).await {
                Ok(events) if events.iter().any(matters) => return,
                Ok(_) => {}
                Err(error) => {
                    log::warn!("inotify: {error}: changes are found by the regular scan");
                    return smol::future::pending().await;
                }
            }
        }
    }
}

/// Whether a file of that name may be a torrent.
fn is_ours(name: &[u8]) -> bool {
    name.ends_with(b".torrent") || name.ends_with(b".magnet")
}

fn matters(event: &InotifyEvent) -> bool {
    match event.name.as_deref().map(OsStr::as_bytes) {
        Some(name) => {
            let directory = event.mask.contains(AddWatchFlags::IN_ISDIR);
            !name.starts_with(b".") && (directory || is_ours(name))
        }
        // The directory itself, or lost events; the end of a watch that we removed is neither.
        None => !event.mask.contains(AddWatchFlags::IN_IGNORED),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use smol::future::block_on;

    use super::*;

    /// A directory that is removed at the end.
    struct Tree(PathBuf);

    impl Tree {
        fn new(name: &str) -> Tree {
            let path = std::env::temp_dir().join(format!("meshseed-watch-{}-{name}", std::process::id()));
            let _ = fs::remove_dir_all(&path);
            fs::create_dir(&path).unwrap();
            Tree(path)
        }

        fn put(&self, name: &str) {
            let path = self.0.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, name).unwrap();
        }

        fn scan(&self) -> Listing {
            scan(std::slice::from_ref(&self.0))
        }

        fn files(&self) -> Vec<String> {
            let listing = self.scan();
            let name = |path: &Path| path.strip_prefix(&self.0).unwrap().to_str().unwrap().to_owned();
            listing.files.iter().map(|(path, _)| name(path)).collect()
        }
    }

    impl Drop for Tree {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_directory_with_torrents_is_taken_and_one_without_is_searched_below() {
        let tree = Tree::new("semi-recursive");
        for name in
            ["b/1.torrent", "b/below/2.torrent", "a/x/y/3.torrent", "a/z/readme", "a/.hidden/4.torrent"]
        {
            tree.put(name);
        }
        for name in ["c/.5.torrent", "c/6.torrent.part", "c/7.magnet", "c/8.TORRENT"] {
            tree.put(name);
        }
        assert_eq!(tree.files(), ["a/x/y/3.torrent", "b/1.torrent", "c/7.magnet"]);
        tree.put("0.magnet");
        assert_eq!(tree.files(), ["0.magnet"]);
        tree.put("0.torrent");
        assert_eq!(tree.files(), ["0.magnet", "0.torrent"]);
    }

    #[test]
    fn what_is_called_torrent_but_is_no_file_is_passed_over() {
        let tree = Tree::new("odd");
        tree.put("folder.torrent/1.torrent");
        symlink("nowhere", tree.0.join("dangling.torrent")).unwrap();
        symlink(&tree.0, tree.0.join("loop.torrent")).unwrap();
        nix::unistd::mkfifo(&tree.0.join("pipe.torrent"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert_eq!(tree.files(), ["folder.torrent/1.torrent"]);
        assert!(tree.scan().unlisted.is_empty());
    }

    #[test]
    fn links_are_followed_once_and_never_in_a_loop() {
        let tree = Tree::new("links");
        let other = Tree::new("links-other");
        tree.put("z/1.torrent");
        other.put("sub/2.torrent");
        other.put("elsewhere/3.torrent");
        symlink(tree.0.join("z"), tree.0.join("a")).unwrap();
        symlink(".", tree.0.join("b")).unwrap();
        symlink(other.0.join("sub"), tree.0.join("c")).unwrap();
        symlink(other.0.join("sub"), tree.0.join("d")).unwrap();
        fs::create_dir(tree.0.join("e")).unwrap();
        symlink(other.0.join("elsewhere/3.torrent"), tree.0.join("e/link.torrent")).unwrap();
        assert_eq!(tree.files(), ["c/2.torrent", "e/link.torrent", "z/1.torrent"]);
        // A root within a root, and a root twice.
        let roots = [tree.0.clone(), tree.0.join("z"), tree.0.clone()];
        assert_eq!(scan(&roots).files.len(), 3);
        assert_eq!(scan(&roots).roots.len(), 3);
    }

    #[test]
    fn a_root_that_is_not_there_is_told_from_one_that_is_empty() {
        let tree = Tree::new("roots");
        tree.put("file");
        let roots = [tree.0.join("gone"), tree.0.join("file"), tree.0.clone()];
        let listing = scan(&roots);
        let unlisted: Vec<&PathBuf> = listing.unlisted.iter().map(|(path, _)| path).collect();
        assert_eq!(unlisted, [&roots[0], &roots[1]]);
        assert_eq!(listing.roots.len(), 1);
        assert_eq!(listing.directories, roots[2..]);
    }

    #[test]
    fn the_depth_is_bounded() {
        let tree = Tree::new("deep");
        let mut path = "d".to_owned();
        for _ in 0..40 {
            path.push_str("/d");
        }
        tree.put(&format!("{path}/1.torrent"));
        let listing = tree.scan();
        assert_eq!((listing.files.len(), listing.directories.len()), (0, 33));
        assert_eq!(listing.cut, Some("directories more than 32 deep"));
    }

    #[test]
    fn an_unchanged_tree_is_not_listed_again() {
        let tree = Tree::new("unchanged");
        tree.put("a/1.torrent");
        tree.put("b/2.torrent");
        let roots = [tree.0.clone()];
        let known = scan(&roots).fingerprint;
        assert_eq!(scan(&roots).fingerprint, known);
        assert!(rescan(&roots, known).is_none());
        assert!(rescan(&roots, 0).is_some());
        fs::write(tree.0.join("b/2.torrent"), "more").unwrap();
        let changed = rescan(&roots, known).unwrap().fingerprint;
        fs::remove_file(tree.0.join("a/1.torrent")).unwrap();
        assert!(rescan(&roots, changed).is_some());
        let both = [tree.0.clone(), tree.0.join("b")];
        assert_ne!(scan(&both).fingerprint, scan(&roots).fingerprint);
    }

    #[test]
    fn inotify_tells_of_torrents_that_come_and_go_and_of_nothing_else() {
        let tree = Tree::new("inotify");
        tree.put("sub/1.torrent");
        let hints = Hints::new().unwrap();
        let told = |hints: &Hints| {
            block_on(
                async {
                    hints.changed().await;
                    true
                }
                .or(async {
                    Timer::after(Duration::from_millis(1500)).await;
                    false
                }),
            )
        };
        hints.update(&tree.scan().directories);
        hints.update(&tree.scan().directories);
        assert_eq!(hints.watches.borrow().len(), 2);
        tree.put("sub/content");
        tree.put("sub/.2.torrent");
        assert!(!told(&hints));
        tree.put("sub/2.torrent");
        assert!(told(&hints));
        fs::rename(tree.0.join("sub/1.torrent"), tree.0.join("sub/3.torrent")).unwrap();
        assert!(told(&hints));
        fs::create_dir(tree.0.join("new")).unwrap();
        assert!(told(&hints));
        hints.update(&[]);
        tree.put("sub/4.torrent");
        assert!(!told(&hints));
    }
}

//! The watched directory is the database: what a scan saw, compared with what was known, becomes torrents added, moved
//! and removed, by the rules of mainline's launchmany.
//!
//! A round goes [`Watch::scanned`] → the daemon loads the files it is given, in that order → [`Watch::loaded`] for each
//! → [`Watch::settle`], which may name files to load again. Changes come out with each file as it is loaded, so that no
//! two parsed torrents need be held at once; removals wait until the end of the round, for a rename is a removal that a
//! later file claims.
//!
//! * A file is read when its size or mtime changed, never otherwise.
//! * A corrupt file is looked at twice before it is warned about: it may be half-written. Then it is left alone until
//!   it changes (or its permissions do).
//! * Of several files with one info-hash the first seeds it, lowest path first; the others are warned about once and
//!   take over when it goes.
//! * A .magnet is a file like the others, until a .torrent of the same torrent is there, whoever put it there: that is
//!   what seeds it then, and the .magnet is no duplicate. What we made of a .magnet goes when that goes, or names another
//!   torrent: the link is the user's file, its .torrent is not. Without its .torrent a .magnet is fetched anew.
//! * **A directory that cannot be listed keeps what was known of it**, and is reported once. So does a watched root that
//!   is gone, or whose place another, empty file system has taken: a USB disk that went away should not make a router
//!   tell every tracker good-bye. Below the root, what is gone is gone.
//!
//! Holds 76 bytes a file and its path, which the session shares.

use std::fmt::{self, Display};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::ident::Ident;
use crate::list;
use crate::metainfo::InfoHash;

pub mod io;

/// Files that are known at the same time: far beyond what a router seeds, so that a wrong directory costs 20 MB at most.
pub const MAX_FILES: usize = 100_000;

/// Directories between a root and a file: no sane tree is deeper, and a loop that is not one of links ends here.
pub const MAX_DEPTH: usize = 32;

/// Directories visited in one scan: each costs a few system calls a minute.
pub const MAX_DIRECTORIES: usize = 10_000;

/// A failed file is looked at again soon so many times: a copy over a slow link then waits for the usual scan.
const QUICK_LOOKS: u8 = 3;

/// Bytes of a reason that are kept.
const MAX_REASON: usize = 256;

/// What one scan saw.
#[derive(Debug, Default)]
pub struct Listing {
    /// Equal for equal listings; never 0.
    pub fingerprint: u64,
    /// The .torrent and .magnet files, sorted by the bytes of their paths, each once.
    pub files: Vec<(Arc<Path>, Ident)>,
    /// The directories that were listed: what inotify should watch.
    pub directories: Vec<PathBuf>,
    /// The watched roots that are there, each with the number of its file system.
    pub roots: Vec<(PathBuf, u64)>,
    /// What could not be looked at, and why: directories, or single files.
    pub unlisted: Vec<(PathBuf, String)>,
    /// Which bound ended the scan early.
    pub cut: Option<&'static str>,
}

/// What became of a file or a torrent. `Display` is the log line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A torrent that was not there.
    Added {
        /// Its info-hash.
        info_hash: InfoHash,
        /// Its file.
        path: Arc<Path>,
    },
    /// The file changed and names the same torrent: start it anew.
    Restarted {
        /// Its info-hash.
        info_hash: InfoHash,
        /// Its file.
        path: Arc<Path>,
    },
    /// The torrent's file has another path now, or another file took over: no new check, same data.
    Moved {
        /// Its info-hash.
        info_hash: InfoHash,
        /// Where its file was.
        from: Arc<Path>,
        /// Where it is.
        to: Arc<Path>,
    },
    /// No file names the torrent any more: stop it, leave its data and its record alone.
    Removed {
        /// Its info-hash.
        info_hash: InfoHash,
        /// Where its file was.
        path: Arc<Path>,
    },
    /// A .magnet is gone whose torrent is seeded from a .torrent in the same directory: if that was made of it, it is to
    /// be deleted.
    Spent {
        /// The torrent.
        info_hash: InfoHash,
        /// Its .torrent.
        torrent: Arc<Path>,
    },
    /// The file is not taken until it changes.
    Refused {
        /// The file.
        path: Arc<Path>,
        /// Why.
        reason: String,
    },
    /// Another file names the same torrent.
    Duplicate {
        /// The torrent.
        info_hash: InfoHash,
        /// The file that is not taken.
        path: Arc<Path>,
        /// The one that is.
        of: Arc<Path>,
    },
    /// What is known at or below this path stays as it was.
    Unlisted {
        /// A directory, or a file.
        path: PathBuf,
        /// Why it could not be looked at.
        reason: String,
    },
    /// It can be looked at again.
    Listed {
        /// The path of an earlier [`Change::Unlisted`].
        path: PathBuf,
    },
    /// A remark about the trees as a whole, made once.
    Remark(String),
}

/// The files seen and the torrents they name.
#[derive(Debug, Default)]
pub struct Watch {
    /// Sorted by the bytes of `path`.
    files: Vec<File>,
    /// Indices of the files that are `Seeded` or `Duplicate`, sorted by info-hash and then by index.
    by_hash: Vec<u32>,
    /// Torrents whose file went or changed in this round.
    orphans: Vec<Orphan>,
    /// The same for links, whether or not their torrent is seeded from a .torrent.
    unlinked: Vec<Orphan>,
    /// Files that were handed out and not answered.
    loading: usize,
    /// Of the last listing.
    fingerprint: u64,
    /// The file system of each root when it last was one of ours.
    roots: Vec<(PathBuf, u64)>,
    /// Sorted; what was reported as such.
    unlisted: Vec<PathBuf>,
    /// To come out at the next settle.
    notices: Vec<Change>,
    told_of_cut: bool,
}

#[derive(Debug)]
struct File {
    path: Arc<Path>,
    ident: Ident,
    state: State,
}

#[derive(Debug)]
enum State {
    /// Handed out to be loaded.
    Loading {
        /// Times it failed in a row.
        failures: u8,
        /// Failed before with this very content.
        again: bool,
    },
    /// The torrent it names is seeded from this file.
    Seeded(InfoHash),
    /// The torrent it names is seeded from another file.
    Duplicate(InfoHash),
    /// Failed to load, and may have been half-written.
    Suspect { failures: u8 },
    /// Not looked at until it changes.
    Refused(Box<str>),
}

#[derive(Debug)]
struct Orphan {
    info_hash: InfoHash,
    path: Arc<Path>,
}

impl Watch {
    /// Nothing known.
    pub fn new() -> Watch {
        Watch::default()
    }

    /// Compares a listing with what is known; returns the files to load, lowest path first and links last.
    pub fn scanned(&mut self, listing: Listing) -> Vec<Arc<Path>> {
        let unlisted = self.note_unlisted(&listing);
        self.remark(&listing);
        self.fingerprint = listing.fingerprint;
        let mut to_load = Vec::new();
        let mut files = Vec::with_capacity(listing.files.len());
        let mut known = std::mem::take(&mut self.files).into_iter().peekable();
        for (path, ident) in listing.files {
            while let Some(gone) = known.next_if(|file| bytes(&file.path) < bytes(&path)) {
                files.extend(self.gone(gone, &unlisted));
            }
            match known.next_if(|file| file.path == path) {
                Some(file) => files.push(self.seen_again(file, ident, &mut to_load)),
                None if files.len() < MAX_FILES => {
                    to_load.push(path.clone());
                    self.loading += 1;
                    files.push(File { path, ident, state: State::Loading { failures: 0, again: false } });
                }
                None => {}
            }
        }
        for gone in known {
            files.extend(self.gone(gone, &unlisted));
        }
        // What has a .torrent need not begin as a link.
        let (links, mut to_load): (Vec<_>, Vec<_>) = to_load.into_iter().partition(|path| is_magnet(path));
        to_load.extend(links);
        self.files = files;
        self.sort_by_hash();
        self.unlisted = unlisted;
        to_load
    }

    /// A file was read: its state while it was read, and the info-hash it names or why it names none.
    pub fn loaded(&mut self, path: &Path, ident: Ident, result: Result<InfoHash, String>) -> Vec<Change> {
        let Ok(index) = self.files.binary_search_by(|file| bytes(&file.path).cmp(bytes(path))) else {
            return Vec::new(); // went while it was read
        };
        let State::Loading { failures, again } = self.files[index].state else { return Vec::new() };
        self.loading -= 1;
        self.files[index].ident = ident;
        let path = self.files[index].path.clone();
        let info_hash = match result {
            Ok(info_hash) => info_hash,
            Err(_) if !again => {
                self.files[index].state = State::Suspect { failures: failures.saturating_add(1) };
                return Vec::new();
            }
            Err(mut reason) => {
                reason.truncate(reason.floor_char_boundary(MAX_REASON));
                self.files[index].state = State::Refused(reason.as_str().into());
                return vec![Change::Refused { path, reason }];
            }
        };
        if let Some((at, of)) = self.seeding(info_hash).map(|(at, file)| (at, file.path.clone())) {
            if is_magnet(&of) && !is_magnet(&path) {
                self.files[at].state = State::Duplicate(info_hash);
                self.set_hash(index, State::Seeded(info_hash));
                return vec![Change::Moved { info_hash, from: of, to: path }];
            }
            self.set_hash(index, State::Duplicate(info_hash));
            let is_news = is_magnet(&of) || !is_magnet(&path);
            return if is_news { vec![Change::Duplicate { info_hash, path, of }] } else { Vec::new() };
        }
        self.set_hash(index, State::Seeded(info_hash));
        let orphan = self.orphans.iter().position(|orphan| orphan.info_hash == info_hash);
        vec![match orphan.map(|at| self.orphans.swap_remove(at)) {
            None => Change::Added { info_hash, path },
            Some(orphan) if orphan.path == path => Change::Restarted { info_hash, path },
            Some(orphan) => Change::Moved { info_hash, from: orphan.path, to: path },
        }]
    }

    /// Ends a round: what was removed for good, and the files to load again because one that went had kept them out.
    /// Does nothing while files are still to be loaded.
    pub fn settle(&mut self) -> (Vec<Change>, Vec<Arc<Path>>) {
        let mut again = Vec::new();
        let mut changes = std::mem::take(&mut self.notices);
        if self.loading > 0 {
            return (changes, again);
        }
        for orphan in std::mem::take(&mut self.orphans) {
            if let Some(at) = self.heir(orphan.info_hash) {
                let file = &mut self.files[self.by_hash[at] as usize];
                file.state = State::Loading { failures: 0, again: false };
                again.push(file.path.clone());
                self.loading += 1;
                self.by_hash.remove(at);
                self.orphans.push(orphan);
            } else if self.is_suspect(&orphan.path) {
                // Its own file is being rewritten: the next look tells.
                self.orphans.push(orphan);
            } else {
                changes.push(Change::Removed { info_hash: orphan.info_hash, path: orphan.path });
            }
        }
        list::sort_by(&mut again, |one, other| bytes(one) < bytes(other));
        if again.is_empty() {
            changes.extend(self.spent());
        }
        (changes, again)
    }

    /// What was made of the link that a torrent is seeded from is gone: it is read again at the next look.
    pub fn doubt(&mut self, info_hash: InfoHash) {
        let seeding = self.seeding(info_hash).map(|(at, file)| (at, file.path.clone()));
        if let Some((at, path)) = seeding.filter(|(_, path)| is_magnet(path)) {
            self.files[at].state = State::Suspect { failures: 0 };
            self.orphans.push(Orphan { info_hash, path });
            self.sort_by_hash();
        }
    }

    /// For [`io::rescan`]: the last listing's fingerprint, or 0 while another look at the same files is due.
    pub fn fingerprint(&self) -> u64 {
        let due = self.loading > 0 || !self.orphans.is_empty() || self.suspects().next().is_some();
        if due { 0 } else { self.fingerprint }
    }

    /// Whether there is no torrent but those that are known: all directories could be looked at, none is as empty as one whose
    /// disk is away, and all files could be read.
    pub fn sees_all(&self) -> bool {
        let is_known = |file: &File| matches!(file.state, State::Seeded(_) | State::Duplicate(_));
        let is_within = |root: &PathBuf| self.files.iter().any(|file| file.path.starts_with(root));
        self.unlisted.is_empty()
            && !self.told_of_cut
            && self.files.iter().all(is_known)
            && self.roots.iter().all(|(root, _)| is_within(root))
    }

    /// Whether a file was just found half-written, so that a look in a second or two is worth its cost.
    pub fn looks_again(&self) -> bool {
        self.suspects().any(|failures| failures <= QUICK_LOOKS)
    }

    /// The files that are not taken, each with its reason.
    pub fn refused(&self) -> impl Iterator<Item = (&Path, String)> {
        self.files.iter().filter_map(|file| match &file.state {
            State::Refused(reason) => Some((&*file.path, reason.to_string())),
            State::Duplicate(info_hash) => {
                let of = self.seeding(*info_hash).map(|(_, file)| &*file.path);
                let is_link_of = |of: &Path| is_magnet(&file.path) && !is_magnet(of);
                let of = of.filter(|of| !is_link_of(of))?;
                Some((&*file.path, format!("duplicate of {}", of.display())))
            }
            _ => None,
        })
    }

    /// Number of .torrent files known, taken or not.
    pub fn len(&self) -> usize {
        self.files.len()
    }

    /// Whether no file is known.
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// A file that the listing does not name; returned where it stays known.
    fn gone(&mut self, mut file: File, unlisted: &[PathBuf]) -> Option<File> {
        if file
            .path
            .ancestors()
            .any(|above| unlisted.binary_search_by(|path| path.as_path().cmp(above)).is_ok())
        {
            if let State::Suspect { failures } = &mut file.state {
                *failures = u8::MAX; // no quick look where none is possible
            }
            return Some(file);
        }
        self.unlink(&file);
        match file.state {
            State::Seeded(info_hash) => self.orphans.push(Orphan { info_hash, path: file.path }),
            State::Loading { .. } => self.loading -= 1,
            State::Duplicate(_) | State::Suspect { .. } | State::Refused(_) => {}
        }
        None
    }

    /// A known file that the listing names.
    fn seen_again(&mut self, mut file: File, ident: Ident, to_load: &mut Vec<Arc<Path>>) -> File {
        let same = file.ident.matches(&ident);
        let state = match file.state {
            State::Loading { .. } => return file, // its answer says what was read
            State::Seeded(_) | State::Duplicate(_) if same => None,
            State::Refused(_) if same && file.ident.ctime == ident.ctime => None,
            State::Seeded(info_hash) => {
                self.orphans.push(Orphan { info_hash, path: file.path.clone() });
                Some(State::Loading { failures: 0, again: false })
            }
            State::Suspect { failures } => Some(State::Loading { failures, again: same }),
            // Permissions mend by ctime alone, and are no matter of a half-written file.
            State::Refused(_) => Some(State::Loading { failures: 0, again: same }),
            State::Duplicate(_) => Some(State::Loading { failures: 0, again: false }),
        };
        file.ident = ident;
        if let Some(state) = state {
            self.unlink(&file);
            file.state = state;
            self.loading += 1;
            to_load.push(file.path.clone());
        }
        file
    }

    /// What the listing could not see, sorted; reports what is new of it and what is over.
    fn note_unlisted(&mut self, listing: &Listing) -> Vec<PathBuf> {
        let mut unlisted = listing.unlisted.clone();
        for (root, device) in &listing.roots {
            let holds = listing.files.iter().any(|(path, _)| path.starts_with(root));
            match self.roots.iter_mut().find(|(path, _)| path == root) {
                Some((_, seen)) if *seen != *device && !holds => {
                    if self.files.iter().any(|file| file.path.starts_with(root)) {
                        unlisted.push((root.clone(), "another, empty file system lies here now".to_owned()));
                    }
                }
                Some((_, seen)) => *seen = *device,
                None => self.roots.push((root.clone(), *device)),
            }
        }
        for (path, reason) in &unlisted {
            if self.unlisted.binary_search(path).is_err() {
                self.notices.push(Change::Unlisted { path: path.clone(), reason: reason.clone() });
            }
        }
        let mut unlisted: Vec<PathBuf> = unlisted.into_iter().map(|(path, _)| path).collect();
        list::sort(&mut unlisted);
        for path in &self.unlisted {
            if unlisted.binary_search(path).is_err() {
                self.notices.push(Change::Listed { path: path.clone() });
            }
        }
        unlisted
    }

    fn remark(&mut self, listing: &Listing) {
        match listing.cut {
            Some(cut) if !self.told_of_cut => {
                self.notices.push(Change::Remark(format!("not all was scanned: {cut}")))
            }
            _ => {}
        }
        self.told_of_cut = listing.cut.is_some();
    }

    fn suspects(&self) -> impl Iterator<Item = u8> {
        self.files.iter().filter_map(|file| match file.state {
            State::Suspect { failures } => Some(failures),
            _ => None,
        })
    }

    fn is_suspect(&self, path: &Path) -> bool {
        matches!(self.state_of(path), Some(State::Suspect { .. }))
    }

    fn is_refused(&self, path: &Path) -> bool {
        matches!(self.state_of(path), Some(State::Refused(_)))
    }

    fn state_of(&self, path: &Path) -> Option<&State> {
        let at = self.files.binary_search_by(|file| bytes(&file.path).cmp(bytes(path)));
        at.ok().map(|at| &self.files[at].state)
    }

    /// A link that named a torrent is gone, or may name another one now.
    fn unlink(&mut self, file: &File) {
        if let Some(info_hash) = file.info_hash().filter(|_| is_magnet(&file.path)) {
            self.unlinked.push(Orphan { info_hash, path: file.path.clone() });
        }
    }

    /// The torrents that go on with a .torrent beside where their last link was.
    fn spent(&mut self) -> Vec<Change> {
        let mut spent = Vec::new();
        for link in std::mem::take(&mut self.unlinked) {
            // It is being rewritten, or cannot be read: it may name the same when it can.
            if self.is_suspect(&link.path) || self.is_refused(&link.path) {
                self.unlinked.push(link);
                continue;
            }
            let Some((_, file)) = self.seeding(link.info_hash) else { continue };
            let is_linked = self.of(link.info_hash).any(|(_, file)| is_magnet(&file.path));
            if !is_linked && file.path.parent() == link.path.parent() {
                spent.push(Change::Spent { info_hash: link.info_hash, torrent: file.path.clone() });
            }
        }
        spent
    }

    /// The file that a torrent is seeded from, and its index.
    fn seeding(&self, info_hash: InfoHash) -> Option<(usize, &File)> {
        self.of(info_hash).find(|(_, file)| matches!(file.state, State::Seeded(_)))
    }

    /// The files that name a torrent for certain, lowest path first.
    fn of(&self, info_hash: InfoHash) -> impl Iterator<Item = (usize, &File)> {
        let from = self.lowest(info_hash).unwrap_or(self.by_hash.len());
        let indices = self.by_hash[from..].iter().map(|index| *index as usize);
        let files = indices.map(|index| (index, &self.files[index]));
        files.take_while(move |(_, file)| file.info_hash() == Some(info_hash))
    }

    /// Where in `by_hash` the file stands that a torrent whose own is gone is seeded from: a .torrent, if there is one.
    fn heir(&self, info_hash: InfoHash) -> Option<usize> {
        let from = self.lowest(info_hash)?;
        let torrent = self.of(info_hash).position(|(_, file)| !is_magnet(&file.path));
        Some(from + torrent.unwrap_or(0))
    }

    /// Where in `by_hash` the files of a torrent begin.
    fn lowest(&self, info_hash: InfoHash) -> Option<usize> {
        let at =
            self.by_hash.partition_point(|index| self.files[*index as usize].info_hash() < Some(info_hash));
        let index = self.by_hash.get(at)?;
        (self.files[*index as usize].info_hash() == Some(info_hash)).then_some(at)
    }

    fn set_hash(&mut self, index: usize, state: State) {
        self.files[index].state = state;
        let key = (self.files[index].info_hash(), index);
        let at = self.by_hash.partition_point(|other| {
            let other = *other as usize;
            (self.files[other].info_hash(), other) < key
        });
        // MAX_FILES fits.
        self.by_hash.insert(at, u32::try_from(index).unwrap_or(u32::MAX));
    }

    fn sort_by_hash(&mut self) {
        let files = &self.files;
        self.by_hash.clear();
        self.by_hash
            .extend((0..).zip(files).filter(|(_, file)| file.info_hash().is_some()).map(|(index, _)| index));
        list::sort_by_key(&mut self.by_hash, |index: &u32| (files[*index as usize].info_hash(), *index));
    }
}

impl File {
    /// Of a torrent that this file names for certain.
    fn info_hash(&self) -> Option<InfoHash> {
        match self.state {
            State::Seeded(info_hash) | State::Duplicate(info_hash) => Some(info_hash),
            _ => None,
        }
    }
}

impl Change {
    /// Of the log line.
    pub fn level(&self) -> log::Level {
        match self {
            Change::Refused { .. } | Change::Duplicate { .. } | Change::Unlisted { .. } => log::Level::Warn,
            _ => log::Level::Info,
        }
    }
}

impl Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Change::Added { info_hash, path } => write!(f, "added {} ({info_hash})", path.display()),
            Change::Restarted { info_hash, path } => write!(f, "changed {} ({info_hash})", path.display()),
            Change::Moved { info_hash, from, to } => {
                write!(f, "moved {} to {} ({info_hash})", from.display(), to.display())
            }
            Change::Removed { info_hash, path } => write!(f, "dropped {} ({info_hash})", path.display()),
            Change::Spent { torrent, .. } => write!(f, "{} has no magnet link any more", torrent.display()),
            Change::Refused { path, reason } => write!(f, "{} has errors: {reason}", path.display()),
            Change::Duplicate { path, of, .. } => {
                write!(f, "{} is a duplicate torrent for {}", path.display(), of.display())
            }
            Change::Unlisted { path, reason } => {
                write!(f, "{} cannot be looked at, its torrents stay as they are: {reason}", path.display())
            }
            Change::Listed { path } => write!(f, "{} can be looked at again", path.display()),
            Change::Remark(text) => f.write_str(text),
        }
    }
}

/// Whether a file holds a magnet link, by its name.
#[inline(never)]
pub fn is_magnet(path: &Path) -> bool {
    bytes(path).ends_with(b".magnet")
}

/// Mainline sorts paths as strings; a `Path` compares by components, slower and otherwise ordered.
fn bytes(path: &Path) -> &[u8] {
    path.as_os_str().as_bytes()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    const START: Ident = Ident { inode: 1, size: 100, mtime_secs: 0, mtime_nanos: 0, ctime: 0 };

    /// A directory tree and a Watch that follows it.
    #[derive(Default)]
    struct World {
        watch: Watch,
        /// By path: its state, and the torrent it names or `None` for a corrupt one.
        files: BTreeMap<&'static str, (Ident, Option<u8>)>,
        unlisted: Vec<&'static str>,
        device: u64,
        clock: u32,
        /// Read in the last round.
        reads: Vec<String>,
    }

    impl World {
        fn put(&mut self, path: &'static str, torrent: impl Into<Option<u8>>) {
            self.clock += 1;
            let inode = self.files.get(path).map_or(u64::from(self.clock), |(ident, _)| ident.inode);
            let ident = Ident { inode, mtime_secs: i64::from(self.clock), ctime: self.clock, ..START };
            self.files.insert(path, (ident, torrent.into()));
        }

        fn rename(&mut self, from: &str, to: &'static str) {
            self.clock += 1;
            let (ident, torrent) = self.files.remove(from).unwrap();
            self.files.insert(to, (Ident { ctime: self.clock, ..ident }, torrent));
        }

        fn listing(&self) -> Listing {
            let seen = |path: &&str| !self.unlisted.iter().any(|dir| Path::new(path).starts_with(dir));
            let files = self.files.iter().filter(|(path, _)| seen(path));
            Listing {
                fingerprint: 1,
                files: files.map(|(path, (ident, _))| (Path::new(path).into(), *ident)).collect(),
                roots: vec![("/t".into(), self.device)],
                unlisted: self.unlisted.iter().map(|path| (path.into(), "I/O error".to_owned())).collect(),
                ..Listing::default()
            }
        }

        fn load(&mut self, path: &Path) -> Vec<Change> {
            let name = path.to_str().unwrap();
            self.reads.push(name.to_owned());
            let Some((ident, torrent)) = self.files.get(name) else {
                return self.watch.loaded(path, START, Err("gone".to_owned()));
            };
            let result = torrent.map(hash).ok_or_else(|| "no dictionary".to_owned());
            self.watch.loaded(path, *ident, result)
        }

        /// One scan with all that follows; the changes in short.
        fn round(&mut self) -> Vec<String> {
            self.reads.clear();
            let listing = self.listing();
            let mut changes = Vec::new();
            let mut load = self.watch.scanned(listing);
            loop {
                for path in load {
                    changes.extend(self.load(&path));
                }
                let (more, again) = self.watch.settle();
                changes.extend(more);
                if again.is_empty() {
                    break;
                }
                load = again;
            }
            changes.iter().map(short).collect()
        }
    }

    fn hash(torrent: u8) -> InfoHash {
        InfoHash::from_bytes([torrent; 20])
    }

    fn short(change: &Change) -> String {
        let of = |info_hash: &InfoHash| info_hash.as_bytes()[0];
        match change {
            Change::Added { info_hash, path } => format!("+{} {}", of(info_hash), path.display()),
            Change::Restarted { info_hash, path } => format!("~{} {}", of(info_hash), path.display()),
            Change::Moved { info_hash, from, to } => {
                format!("{} {}>{}", of(info_hash), from.display(), to.display())
            }
            Change::Removed { info_hash, path } => format!("-{} {}", of(info_hash), path.display()),
            Change::Spent { info_hash, torrent } => format!("spent {} {}", of(info_hash), torrent.display()),
            Change::Refused { path, .. } => format!("bad {}", path.display()),
            Change::Duplicate { path, of, .. } => format!("{}={}", path.display(), of.display()),
            Change::Unlisted { path, .. } => format!("blind {}", path.display()),
            Change::Listed { path } => format!("sees {}", path.display()),
            Change::Remark(text) => text.clone(),
        }
    }

    #[test]
    fn what_is_new_is_added_and_what_is_unchanged_is_not_read() {
        let mut world = World::default();
        world.put("/t/b", 2);
        world.put("/t/a", 1);
        assert_eq!(world.round(), ["+1 /t/a", "+2 /t/b"]);
        assert_eq!((world.round(), world.reads.len()), (vec![], 0));
        assert_eq!(world.watch.fingerprint(), 1);
    }

    #[test]
    fn what_goes_is_dropped_at_the_end_of_the_round() {
        let mut world = World::default();
        world.put("/t/a", 1);
        world.put("/t/b", 2);
        world.round();
        world.files.remove("/t/a");
        world.put("/t/c", 3);
        assert_eq!(world.round(), ["+3 /t/c", "-1 /t/a"]);
        assert_eq!(world.round(), [""; 0]);
    }

    #[test]
    fn a_changed_file_restarts_its_torrent_or_brings_another() {
        let mut world = World::default();
        world.put("/t/a", 1);
        world.round();
        world.put("/t/a", 1);
        assert_eq!(world.round(), ["~1 /t/a"]);
        world.put("/t/a", 2);
        assert_eq!(world.round(), ["+2 /t/a", "-1 /t/a"]);
    }

    #[test]
    fn a_rename_is_a_move_also_where_two_files_swap_their_names() {
        let mut world = World::default();
        world.put("/t/a", 1);
        world.put("/t/b", 2);
        world.round();
        for file in world.files.values_mut() {
            file.0.mtime_secs = 0; // a reproducible package
        }
        assert_eq!(world.round(), ["~1 /t/a", "~2 /t/b"]);
        world.rename("/t/a", "/t/c");
        assert_eq!(world.round(), ["1 /t/a>/t/c"]);
        world.rename("/t/b", "/t/x");
        world.rename("/t/c", "/t/b");
        world.rename("/t/x", "/t/c");
        assert_eq!(world.round(), ["1 /t/c>/t/b", "2 /t/b>/t/c"]);
    }

    #[test]
    fn a_corrupt_file_is_warned_about_once_and_revives_when_whole() {
        let mut world = World::default();
        world.put("/t/a", None);
        world.put("/t/b", 2);
        // The first look might have come while it was written.
        assert_eq!(world.round(), ["+2 /t/b"]);
        assert!(world.watch.looks_again());
        assert_eq!(world.watch.fingerprint(), 0);
        assert_eq!(world.round(), ["bad /t/a"]);
        assert!(!world.watch.looks_again());
        // Mainline's Python 3 port fails with a KeyError here and watches no more.
        for _ in 0..3 {
            assert_eq!((world.round(), world.reads.len()), (vec![], 0));
        }
        let refused: Vec<_> = world.watch.refused().collect();
        assert_eq!(refused, [(Path::new("/t/a"), "no dictionary".to_owned())]);
        world.put("/t/a", 1);
        assert_eq!(world.round(), ["+1 /t/a"]);
        assert_eq!(world.watch.refused().count(), 0);
    }

    #[test]
    fn a_corrupt_file_that_goes_is_forgotten_without_a_word() {
        let mut world = World::default();
        world.put("/t/a", None);
        world.round();
        world.round();
        world.files.clear();
        assert_eq!(world.round(), [""; 0]);
        assert!(world.watch.is_empty());
    }

    #[test]
    fn a_growing_file_is_never_warned_about_and_looked_at_soon_only_a_few_times() {
        let mut world = World::default();
        for looks in 0..20 {
            world.put("/t/a", None);
            assert_eq!(world.round(), [""; 0]);
            assert_eq!(world.watch.looks_again(), looks < 3);
        }
        world.put("/t/a", 1);
        assert_eq!(world.round(), ["+1 /t/a"]);
    }

    #[test]
    fn a_file_being_rewritten_keeps_its_torrent_until_it_is_whole_or_plainly_bad() {
        let mut world = World::default();
        world.put("/t/a", 1);
        world.round();
        world.put("/t/a", None);
        assert_eq!(world.round(), [""; 0]);
        world.put("/t/a", 1);
        assert_eq!(world.round(), ["~1 /t/a"]);
        world.put("/t/a", None);
        assert_eq!(world.round(), [""; 0]);
        assert_eq!(world.round(), ["bad /t/a", "-1 /t/a"]);
        world.put("/t/a", None);
        assert_eq!(world.round(), [""; 0]);
        world.files.clear();
        assert_eq!(world.round(), [""; 0]);
    }

    #[test]
    fn an_unreadable_file_is_read_again_when_its_permissions_change() {
        let mut world = World::default();
        world.put("/t/a", None);
        world.round();
        assert_eq!(world.round(), ["bad /t/a"]);
        let file = world.files.get_mut("/t/a").unwrap();
        file.0.ctime += 1;
        file.1 = Some(1);
        assert_eq!(world.round(), ["+1 /t/a"]);
        world.files.get_mut("/t/a").unwrap().0.ctime += 1;
        assert_eq!((world.round(), world.reads.len()), (vec![], 0));
    }

    #[test]
    fn of_duplicates_the_lowest_path_wins_and_the_next_takes_over_when_it_goes() {
        let mut world = World::default();
        world.put("/t/b", 1);
        world.put("/t/c", 1);
        world.put("/t/a", 1);
        assert_eq!(world.round(), ["+1 /t/a", "/t/b=/t/a", "/t/c=/t/a"]);
        assert_eq!((world.round(), world.reads.len()), (vec![], 0));
        let refused: Vec<_> = world.watch.refused().map(|(_, reason)| reason).collect();
        assert_eq!(refused, ["duplicate of /t/a", "duplicate of /t/a"]);
        world.files.remove("/t/a");
        assert_eq!(world.round(), ["1 /t/a>/t/b"]);
        // The first to come keeps it, against a lower path as well.
        world.put("/t/a", 1);
        assert_eq!(world.round(), ["/t/a=/t/b"]);
        world.files.remove("/t/b");
        world.files.remove("/t/c");
        assert_eq!(world.round(), ["1 /t/b>/t/a"]);
        world.files.clear();
        assert_eq!(world.round(), ["-1 /t/a"]);
    }

    #[test]
    fn a_duplicate_takes_over_when_the_first_becomes_another_torrent_or_corrupt() {
        let mut world = World::default();
        world.put("/t/a", 1);
        world.put("/t/b", 1);
        world.round();
        world.put("/t/a", 2);
        assert_eq!(world.round(), ["+2 /t/a", "1 /t/a>/t/b"]);
        world.put("/t/c", 1);
        world.round();
        world.put("/t/b", None);
        assert_eq!(world.round(), ["1 /t/b>/t/c"]);
        assert_eq!(world.round(), ["bad /t/b"]);
    }

    #[test]
    fn a_duplicate_that_is_corrupt_by_the_time_it_should_take_over_saves_nothing() {
        let mut world = World::default();
        world.put("/t/a", 1);
        world.put("/t/b", 1);
        world.round();
        world.files.remove("/t/a");
        world.files.get_mut("/t/b").unwrap().1 = None;
        assert_eq!(world.round(), ["-1 /t/a"]);
        assert_eq!(world.round(), ["bad /t/b"]);
    }

    #[test]
    fn a_directory_that_cannot_be_listed_keeps_its_torrents_and_is_reported_once() {
        let mut world = World::default();
        world.put("/t/a/x", 1);
        world.put("/t/b/y", 2);
        world.put("/t/bb", 3);
        world.round();
        world.unlisted.push("/t/b");
        assert_eq!(world.round(), ["blind /t/b"]);
        world.files.remove("/t/a/x");
        assert_eq!(world.round(), ["-1 /t/a/x"]);
        world.files.remove("/t/b/y");
        assert_eq!(world.round(), [""; 0]);
        world.unlisted.clear();
        assert_eq!(world.round(), ["sees /t/b", "-2 /t/b/y"]);
    }

    #[test]
    fn a_watched_disk_that_goes_away_keeps_its_torrents() {
        let mut world = World { device: 8, ..World::default() };
        world.put("/t/a", 1);
        world.round();
        let disk = std::mem::take(&mut world.files);
        world.unlisted.push("/t");
        assert_eq!(world.round(), ["blind /t"]);
        // Unmounted: the empty mount point on another file system.
        world.unlisted.clear();
        world.device = 1;
        assert_eq!(world.round(), [""; 0]);
        world.device = 8;
        world.files = disk.clone();
        assert_eq!((world.round(), world.reads.len()), (vec!["sees /t".to_owned()], 0));
        // Emptied by its owner.
        world.files.clear();
        assert_eq!(world.round(), ["-1 /t/a"]);
        world.files = disk;
        world.device = 9;
        assert_eq!(world.round(), ["+1 /t/a"]);
    }

    #[test]
    fn answers_nobody_waits_for_and_early_ends_do_nothing() {
        let mut world = World::default();
        world.put("/t/a", 1);
        world.put("/t/b", 2);
        assert_eq!(world.watch.loaded(Path::new("/t/a"), START, Ok(hash(1))), []);
        let load = world.watch.scanned(world.listing());
        assert_eq!(load.len(), 2);
        assert_eq!(world.watch.settle(), (vec![], vec![]));
        // A second scan before the answers asks for nothing twice, and a file may go meanwhile.
        world.files.remove("/t/b");
        assert!(world.watch.scanned(world.listing()).is_empty());
        assert_eq!(world.load(&load[1]), []);
        assert_eq!(world.load(&load[0]).len(), 1);
        assert_eq!(world.load(&load[0]), []);
        assert_eq!(world.watch.settle(), (vec![], vec![]));
        assert_eq!(world.watch.len(), 1);
    }

    #[test]
    fn a_link_hands_on_to_its_torrent_and_takes_it_back_when_that_goes() {
        let mut world = World::default();
        world.put("/t/a.magnet", 1);
        assert_eq!(world.round(), ["+1 /t/a.magnet"]);
        world.put("/t/a.torrent", 1);
        assert_eq!(world.round(), ["1 /t/a.magnet>/t/a.torrent"]);
        assert_eq!((world.round(), world.watch.refused().count()), (vec![], 0));
        world.files.remove("/t/a.torrent");
        assert_eq!(world.round(), ["1 /t/a.torrent>/t/a.magnet"]);
        world.files.clear();
        assert_eq!(world.round(), ["-1 /t/a.magnet"]);
    }

    #[test]
    fn a_link_beside_its_torrent_is_read_after_it_and_no_duplicate() {
        let mut world = World::default();
        world.put("/t/a.magnet", 1);
        world.put("/t/b.torrent", 1);
        world.put("/u/z.magnet", 1);
        assert_eq!(world.round(), ["+1 /t/b.torrent"]);
        assert_eq!(world.reads, ["/t/b.torrent", "/t/a.magnet", "/u/z.magnet"]);
        assert_eq!(world.watch.refused().count(), 0);
        // Of several .torrents the next one takes over, before any link.
        world.put("/t/c.torrent", 1);
        assert_eq!(world.round(), ["/t/c.torrent=/t/b.torrent"]);
        world.files.remove("/t/b.torrent");
        assert_eq!(world.round(), ["1 /t/b.torrent>/t/c.torrent"]);
    }

    #[test]
    fn of_two_links_the_second_is_a_duplicate_as_long_as_there_is_no_torrent() {
        let mut world = World::default();
        world.put("/t/a.magnet", 1);
        world.put("/t/b.magnet", 1);
        assert_eq!(world.round(), ["+1 /t/a.magnet", "/t/b.magnet=/t/a.magnet"]);
        assert_eq!(world.watch.refused().count(), 1);
        world.put("/t/a.torrent", 1);
        assert_eq!(world.round(), ["1 /t/a.magnet>/t/a.torrent"]);
        assert_eq!(world.watch.refused().count(), 0);
        // What was made of a link goes with the last that names it.
        world.files.remove("/t/a.magnet");
        assert_eq!(world.round(), [""; 0]);
        world.files.remove("/t/b.magnet");
        assert_eq!(world.round(), ["spent 1 /t/a.torrent"]);
        assert_eq!(world.round(), [""; 0]);
    }

    #[test]
    fn a_link_that_goes_or_names_another_torrent_leaves_its_torrent_to_be_deleted() {
        let mut world = World::default();
        world.put("/t/a.magnet", 1);
        world.put("/t/a.torrent", 1);
        world.put("/u/b.torrent", 2);
        world.put("/t/b.magnet", 2);
        world.round();
        world.rename("/t/a.magnet", "/t/c.magnet");
        assert_eq!(world.round(), [""; 0]);
        // Half-written, it may name the same as before.
        world.put("/t/c.magnet", None);
        assert_eq!(world.round(), [""; 0]);
        world.put("/t/c.magnet", 1);
        assert_eq!(world.round(), [""; 0]);
        world.put("/t/c.magnet", 3);
        assert_eq!(world.round(), ["+3 /t/c.magnet", "spent 1 /t/a.torrent"]);
        // One elsewhere is the user's own.
        world.files.remove("/t/b.magnet");
        assert_eq!(world.round(), [""; 0]);
        // Where the directory cannot be looked at nothing has gone.
        world.put("/t/a.magnet", 1);
        world.round();
        world.unlisted.push("/t");
        assert_eq!(world.round(), ["blind /t"]);
    }

    #[test]
    fn a_link_that_cannot_be_read_costs_nobody_his_torrent_until_it_goes() {
        let mut world = World::default();
        world.put("/t/a.magnet", 1);
        world.put("/t/a.torrent", 1);
        world.round();
        world.put("/t/a.magnet", None);
        assert_eq!((world.round(), world.round()), (vec![], vec!["bad /t/a.magnet".to_owned()]));
        assert_eq!((world.round(), world.watch.fingerprint() == 0), (vec![], false));
        world.put("/t/a.magnet", 1);
        assert_eq!(world.round(), [""; 0]);
        world.put("/t/a.magnet", None);
        world.round();
        world.round();
        world.files.remove("/t/a.magnet");
        assert_eq!(world.round(), ["spent 1 /t/a.torrent"]);
        assert_eq!(world.round(), [""; 0]);
    }

    #[test]
    fn a_link_whose_torrent_was_kept_elsewhere_and_is_gone_begins_again() {
        let mut world = World::default();
        world.put("/t/a.magnet", 1);
        world.put("/t/b.torrent", 2);
        world.round();
        world.watch.doubt(hash(2));
        world.watch.doubt(hash(3));
        assert_eq!((world.round(), world.reads.len()), (vec![], 0));
        world.watch.doubt(hash(1));
        assert_eq!(world.watch.fingerprint(), 0);
        assert_eq!(world.round(), ["~1 /t/a.magnet"]);
        assert_eq!((world.round(), world.reads.len()), (vec![], 0));
    }

    #[test]
    fn a_link_that_goes_as_its_torrent_comes_leaves_that_to_be_deleted() {
        let mut world = World::default();
        world.put("/t/a.magnet", 1);
        world.round();
        world.files.remove("/t/a.magnet");
        world.put("/t/a.torrent", 1);
        assert_eq!(world.round(), ["1 /t/a.magnet>/t/a.torrent", "spent 1 /t/a.torrent"]);
    }

    #[test]
    fn bounds_are_remarked_upon_once() {
        let mut watch = Watch::new();
        for expected in [1, 0] {
            watch.scanned(Listing { cut: Some("too deep"), ..Listing::default() });
            assert_eq!(watch.settle().0.len(), expected);
        }
    }

    #[test]
    fn the_reason_of_a_refusal_is_cut_between_characters() {
        let mut watch = Watch::new();
        for _ in 0..2 {
            let files = vec![(Path::new("/t/a").into(), START)];
            watch.scanned(Listing { files, ..Listing::default() });
            watch.loaded(Path::new("/t/a"), START, Err("é".repeat(1000) + "x"));
        }
        let (_, reason) = watch.refused().next().unwrap();
        assert_eq!(reason.len(), 256);
    }

    /// Any sequence of events, and the tables agree with the tree at its end.
    #[test]
    fn after_any_sequence_of_events_each_torrent_is_seeded_from_one_of_its_files() {
        const PATHS: [&str; 5] = ["/t/a", "/t/b.magnet", "/t/c", "/t/d.magnet", "/t/e"];
        let mut world = World::default();
        let mut seeded: BTreeMap<u8, String> = BTreeMap::new();
        let mut random = 1_u32;
        let mut next = |n: u32| {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            usize::try_from((random >> 8) % n).unwrap()
        };
        for _ in 0..3000 {
            for _ in 0..next(4) {
                let path = PATHS[next(5)];
                match next(6) {
                    0 => drop(world.files.remove(path)),
                    1 => world.put(path, None),
                    2 if world.files.contains_key(path) => world.rename(path, PATHS[next(5)]),
                    _ => world.put(path, u8::try_from(next(3)).unwrap()),
                }
            }
            // The second look settles what was half-written.
            for change in world.round().into_iter().chain(world.round()) {
                let (what, rest) = change.split_once(' ').unwrap_or((&change, ""));
                match what.as_bytes()[0] {
                    b'+' => assert_eq!(seeded.insert(what[1..].parse().unwrap(), rest.to_owned()), None),
                    b'-' => assert_eq!(seeded.remove(&what[1..].parse().unwrap()).as_deref(), Some(rest)),
                    b'0'..=b'9' => {
                        let (from, to) = rest.split_once('>').unwrap();
                        let old = seeded.insert(what.parse().unwrap(), to.to_owned());
                        assert_eq!(old.as_deref(), Some(from));
                    }
                    _ => {}
                }
            }
            let mut named: Vec<u8> = world.files.values().filter_map(|(_, torrent)| *torrent).collect();
            named.sort_unstable();
            named.dedup();
            assert_eq!(seeded.keys().copied().collect::<Vec<_>>(), named);
            for (torrent, path) in &seeded {
                assert_eq!(world.files[path.as_str()].1, Some(*torrent));
            }
        }
    }

    #[test]
    fn a_file_costs_72_bytes_and_its_place_in_the_order() {
        assert!(size_of::<File>() <= 72, "{}", size_of::<File>());
    }
}

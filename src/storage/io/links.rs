//! Magnet links on disk: reading them, and the .torrent that is made of one.
//!
//! Read first: BEP 9, `metainfo::magnet`. The .torrent is written beside the link under its name, or, where that directory
//! takes none or the name is taken, below the state directory under the info-hash. Holds, while it works, one .torrent.

use std::fs;
use std::io::ErrorKind;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::fstat;
use rustix::io::Errno;
use sha1::{Digest, Sha1};

use super::hashing::read_torrent;
use super::jobs::{Kept, Linked, Loaded, Place, Unkept};
use super::records::read_at;
use super::tree::{ident_of, open_torrent, sidecar};
use super::{Desk, closed_ident, read_error};
use crate::ident::Ident;
use crate::metainfo::magnet::{self, MAX_LINK, Magnet};
use crate::metainfo::{self, InfoHash};
use crate::storage::Trouble;

/// Below the state directory.
const DIRECTORY: &str = "magnets";

impl Desk {
    /// Reads a .magnet, and looks for what was kept of it.
    pub(super) fn link(&mut self, path: &Path) -> (Ident, Result<Box<Linked>, String>) {
        let ident = match read_torrent(path, None, &mut self.buffer) {
            Ok((_, ident)) => ident,
            Err((ident, why)) => {
                return (ident.unwrap_or_else(|| closed_ident(path)), Err(read_error(why)));
            }
        };
        if self.buffer.len() > 2 * MAX_LINK {
            return (ident, Err("it is larger than a magnet link can be".into()));
        }
        let link = match Magnet::of_file(&self.buffer) {
            Ok(link) => link,
            Err(error) => return (ident, Err(error.to_string())),
        };
        let kept = self.kept_before(&link.info_hash, path);
        (ident, Ok(Box::new(Linked { link, kept })))
    }

    /// The .torrent that was made of the link at `path` and kept in the state directory.
    pub(super) fn kept_before(&mut self, info_hash: &InfoHash, path: &Path) -> Option<Kept> {
        let kept = self.kept(info_hash)?;
        self.take_in(&kept, path, *info_hash).ok()
    }

    /// Verifies metadata and writes it as a .torrent.
    pub(super) fn keep(
        &mut self,
        pieces: Vec<Box<[u8]>>,
        link: &Magnet,
        path: &Path,
    ) -> Result<Box<Kept>, Unkept> {
        let mut sha1 = Sha1::new();
        pieces.iter().for_each(|piece| sha1.update(piece));
        if <[u8; 20]>::from(sha1.finalize()) != *link.info_hash.as_bytes() {
            return Err(Unkept::Wrong);
        }
        let bytes = link.torrent(pieces);
        let torrent = metainfo::parse(&bytes).map_err(|error| Unkept::Unfit(error.to_string()))?;
        if torrent.info_hash != link.info_hash {
            return Err(Unkept::Unfit("it is more than the description of a torrent".into()));
        }
        drop(torrent);
        if path.symlink_metadata().is_err() {
            return Err(Unkept::Unwritten(format!("{} is gone", path.display())));
        }
        let beside = path.with_extension("torrent");
        let written = match metainfo::io::save(&beside, &bytes, false) {
            Ok(()) => beside,
            Err(why) => self
                .keep_in_state(&link.info_hash, &bytes)
                .map_err(|other| Unkept::Unwritten(format!("{why}; {other}")))?,
        };
        log::info!("{} is written: it is what {} names", written.display(), path.display());
        drop(bytes);
        let kept = self.take_in(&written, path, link.info_hash);
        kept.map(Box::new).map_err(Unkept::Unwritten)
    }

    fn keep_in_state(&mut self, info_hash: &InfoHash, bytes: &[u8]) -> Result<PathBuf, String> {
        let folder = self.records.make()?.join(DIRECTORY);
        match fs::create_dir(&folder) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => {
                return Err(format!("{}: {error}", folder.display()));
            }
            _ => {}
        }
        let kept = folder.join(format!("{info_hash}.torrent"));
        metainfo::io::save(&kept, bytes, true).map_err(|error| error.to_string())?;
        Ok(kept)
    }

    /// Where a .torrent is kept that could not be written beside its link.
    fn kept(&self, info_hash: &InfoHash) -> Option<PathBuf> {
        Some(self.records.directory()?.join(DIRECTORY).join(format!("{info_hash}.torrent")))
    }

    /// Reads a .torrent that was made of the link at `magnet`.
    fn take_in(&mut self, path: &Path, magnet: &Path, info_hash: InfoHash) -> Result<Kept, String> {
        let (_, ident) = read_torrent(path, None, &mut self.buffer).map_err(|(_, why)| read_error(why))?;
        let summary = metainfo::parse(&self.buffer).map_err(|error| error.to_string())?.summary();
        if summary.info_hash != info_hash {
            return Err("it is another torrent".into());
        }
        let sidecar = sidecar(&magnet.with_extension("torrent"))?;
        let path: Arc<Path> = path.into();
        Ok(Kept { path, ident, loaded: Loaded { summary, sidecar } })
    }

    /// Deletes what was made of a link that is gone: what is kept of it, and the .torrent beside it if it says that it
    /// was made so. What the user put there stays.
    pub(super) fn discard(&mut self, info_hash: &InfoHash, beside: Option<&Path>) {
        let kept = self.kept(info_hash);
        if let Some(path) = beside
            && self.take_in(path, path, *info_hash).is_ok()
            && magnet::is_made(&self.buffer)
        {
            match fs::remove_file(path) {
                Ok(()) => {
                    log::info!("{} is deleted: the magnet link that it was made of is gone", path.display())
                }
                Err(error) => log::warn!("{} is not deleted: {error}", path.display()),
            }
        }
        if let Some(path) = kept
            && let Err(error) = fs::remove_file(&path)
            && error.kind() != ErrorKind::NotFound
        {
            log::warn!("{} is not deleted: {error}", path.display());
        }
    }
}

/// Reads a piece of the metadata of a torrent from its .torrent.
pub(super) fn read_metadata(place: &Place, at: Range<u32>) -> Result<Box<[u8]>, Trouble> {
    let fail = |error: Errno| Trouble::of(&place.torrent, error);
    let (fd, stat) = open_torrent(&place.torrent).map_err(fail)?;
    if !place.ident.matches(&ident_of(&stat)) {
        return Err(Trouble::TorrentChanged);
    }
    let mut bytes = vec![0; at.len()];
    if read_at(&fd, &mut bytes, at.start.into()).map_err(fail)? < bytes.len() {
        return Err(Trouble::TorrentChanged);
    }
    // Rewritten in place meanwhile it is no more what it was.
    match fstat(&fd) {
        Ok(stat) if place.ident.matches(&ident_of(&stat)) => Ok(bytes.into()),
        _ => Err(Trouble::TorrentChanged),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::World as Thread;
    use super::super::{Done, Job};
    use super::*;

    const INFO: &[u8] = b"d6:lengthi3e4:name1:n12:piece lengthi16384e6:pieces20:aaaaaaaaaaaaaaaaaaaae";

    /// A thread, and a magnet link for it.
    struct World(Thread);

    impl std::ops::Deref for World {
        type Target = Thread;

        fn deref(&self) -> &Thread {
            &self.0
        }
    }

    impl World {
        fn new() -> World {
            let world = Thread::new();
            let link = format!("magnet:?xt=urn:btih:{}&tr=http://t/a\n", InfoHash::of(INFO));
            world.temp.file("t/a.magnet", link.as_bytes());
            World(world)
        }

        fn link(&self, name: &str) -> Result<Box<Linked>, String> {
            let path = self.temp.path(name).into();
            match self.ask(Job::Link { path }) {
                Done::Linked { result, .. } => result,
                other => panic!("{other:?}"),
            }
        }

        fn keep(&self, info: &[u8]) -> Result<Box<Kept>, Unkept> {
            let link = Box::new(self.link("t/a.magnet").unwrap().link);
            let pieces = info.chunks(30).map(Box::from).collect();
            let path = self.temp.path("t/a.magnet").into();
            match self.ask(Job::Keep { key: 3, pieces, link, path }) {
                Done::Kept { key: 3, result } => result,
                other => panic!("{other:?}"),
            }
        }

        /// Deletes; what was asked for before is done by then.
        fn discard(&self, beside: Option<&str>) {
            let beside = beside.map(|name| self.temp.path(name).into());
            let job = Job::Discard { info_hash: InfoHash::of(INFO), beside };
            self.storage.try_submit(job).unwrap();
            self.ask(Job::Flush);
        }
    }

    #[test]
    fn metadata_is_written_beside_its_link_and_goes_with_it() {
        let world = World::new();
        let kept = world.keep(INFO).unwrap();
        assert_eq!(*kept.path, *world.temp.path("t/a.torrent"));
        assert_eq!(kept.loaded.summary.trackers, [["http://t/a"]]);
        assert_eq!(world.link("t/a.magnet").unwrap().kept.map(|kept| kept.path), None);
        world.discard(Some("t/a.torrent"));
        assert!(!kept.path.exists());
    }

    #[test]
    fn metadata_that_is_not_what_the_link_names_or_no_torrent_is_not_written() {
        let world = World::new();
        assert!(matches!(world.keep(b"d4:name1:xe"), Err(Unkept::Wrong)));
        let link = format!("magnet:?xt=urn:btih:{}", InfoHash::of(b"d4:name1:xe"));
        world.temp.file("t/a.magnet", link.as_bytes());
        assert!(matches!(world.keep(b"d4:name1:xe"), Err(Unkept::Unfit(_))));
        // More than one value: with what the link adds it reads as another torrent.
        let more = [INFO, b"1:k1:v"].concat();
        let link = format!("magnet:?xt=urn:btih:{}", InfoHash::of(&more));
        world.temp.file("t/a.magnet", link.as_bytes());
        let kept = world.keep(&more);
        assert!(matches!(kept, Err(Unkept::Unfit(_))), "{kept:?}");
        assert!(!world.temp.path("t/a.torrent").exists());
    }

    #[test]
    fn where_the_name_is_taken_it_is_kept_in_the_state_and_found_again() {
        let world = World::new();
        world.temp.file("t/a.torrent", b"somebody else's");
        let kept = world.keep(INFO).unwrap();
        assert!(kept.path.starts_with(world.temp.path("state")), "{}", kept.path.display());
        let again = world.link("t/a.magnet").unwrap().kept.unwrap();
        assert!(again.path == kept.path && again.ident.matches(&kept.ident));
        // What the user put there stays.
        world.discard(Some("t/a.torrent"));
        assert!(world.temp.path("t/a.torrent").exists() && !kept.path.exists());
        assert!(world.link("t/a.magnet").unwrap().kept.is_none());
    }

    #[test]
    fn a_link_that_went_meanwhile_leaves_nothing_behind() {
        let world = World::new();
        let link = Box::new(world.link("t/a.magnet").unwrap().link);
        fs::remove_file(world.temp.path("t/a.magnet")).unwrap();
        let pieces = vec![INFO.into()];
        let path = world.temp.path("t/a.magnet").into();
        let done = world.ask(Job::Keep { key: 3, pieces, link, path });
        assert!(matches!(done, Done::Kept { result: Err(Unkept::Unwritten(_)), .. }), "{done:?}");
        assert!(!world.temp.path("t/a.torrent").exists());
    }

    #[test]
    fn a_file_that_holds_no_link_is_refused_with_its_reason() {
        let world = World::new();
        world.temp.file("t/b.magnet", b"http://example/");
        assert_eq!(world.link("t/b.magnet").unwrap_err(), "it is no magnet link");
        world.temp.file("t/c.magnet", &vec![b'x'; 1 << 20]);
        assert!(world.link("t/c.magnet").unwrap_err().contains("larger"));
        assert!(world.link("t/none.magnet").is_err());
    }

    #[test]
    fn metadata_is_read_from_the_torrent_as_long_as_that_is_what_it_was() {
        let world = World::new();
        let kept = world.keep(INFO).unwrap();
        let summary = &kept.loaded.summary;
        let root: Arc<Path> = world.temp.path("data").into();
        let place = Place {
            torrent: kept.path.clone(),
            ident: kept.ident,
            data: root.clone(),
            other: None,
            root,
            kept: false,
            sidecar: false,
        };
        let read = |at| {
            let job = Job::Metadata { key: 1, peer: 2, place: place.clone(), piece: 0, at };
            match world.ask(job) {
                Done::Metadata { result, .. } => result,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(*read(summary.info_at.clone()).unwrap(), *INFO);
        assert!(read(u32::MAX - 5..u32::MAX).is_err());
        fs::write(&kept.path, b"d4:infodee").unwrap();
        assert_eq!(read(0..4), Err(Trouble::TorrentChanged));
    }
}

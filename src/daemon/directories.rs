//! The watched directories, as the daemon follows them: what a scan found becomes torrents of the session.
#![expect(clippy::disallowed_methods, reason = "I/O shell")]

use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::Daemon;
use crate::clock::time_of_day;
use crate::config::{Config, SaveAs};
use crate::ident::Ident;
use crate::metainfo::InfoHash;
use crate::metainfo::Summary;
use crate::metainfo::magnet::ranges;
use crate::session::Session;
use crate::storage::io::{Job, Kept, Linked, Loaded, Place};
use crate::torrent::TorrentKey;
use crate::watch::{Change, Watch, is_magnet};

/// What a file of a watched directory says.
pub(super) enum Read {
    /// A .torrent.
    Torrent(Box<Loaded>),
    /// A .magnet.
    Link(Box<Linked>),
}

/// A file that was half-written is looked at again after this long.
const HALF_WRITTEN: Duration = Duration::from_secs(2);

impl Daemon {
    /// Looks at the watched directories; at once, or when the look under way has ended.
    pub(super) fn scan(&self) {
        if self.scanning.replace(true) {
            self.scan_again.set(true);
            return;
        }
        let roots: Arc<[_]> = self.config.borrow().torrents.clone().into();
        let known = self.watch.borrow().fingerprint();
        self.look_at_network();
        // Nor has the bus a timer of its own.
        self.on_bus.look();
        let mut session = self.house.session.borrow_mut();
        session.submit(Job::Scan { roots, known });
        session.set_clock(time_of_day(SystemTime::now()), Instant::now());
    }

    /// Files of a scan to be read, lowest path first; with none to read the round is over.
    pub(super) fn load(&self, paths: Vec<Arc<Path>>, now: Instant) {
        let mut session = self.house.session.borrow_mut();
        self.loading.set(self.loading.get() + paths.len());
        for path in paths {
            session.submit(read(path));
        }
        if self.loading.get() == 0 {
            self.settle(&mut session, now);
        }
    }

    /// A .torrent or .magnet has been read.
    pub(super) fn loaded(
        self: &Rc<Daemon>,
        session: &mut Session,
        path: Arc<Path>,
        ident: Ident,
        result: Result<Read, String>,
        now: Instant,
    ) {
        self.loading.set(self.loading.get().saturating_sub(1));
        let named = result.as_ref().map(Read::info_hash).map_err(String::clone);
        let changes = self.watch.borrow_mut().loaded(&path, ident, named);
        let mut loaded = result.ok();
        let peers = loaded.as_mut().and_then(Read::take_peers);
        for change in changes {
            match &change {
                Change::Added { .. } => {
                    if let Some(loaded) = loaded.take() {
                        self.insert(session, loaded, path.clone(), ident, now);
                    }
                }
                Change::Restarted { info_hash, .. } => {
                    session.remove(*info_hash, now);
                    if let Some(loaded) = loaded.take() {
                        self.insert(session, loaded, path.clone(), ident, now);
                    }
                    session.is_same(*info_hash);
                }
                Change::Moved { info_hash, from, .. } => {
                    if let Some(loaded) = loaded.take() {
                        self.moved(session, loaded, path.clone(), ident, now);
                    }
                    if is_magnet(from) && !is_magnet(&path) {
                        // What is kept of the link is of no more use.
                        session.submit(Job::Discard { info_hash: *info_hash, beside: None });
                    }
                }
                _ => {}
            }
            report(&change);
        }
        if let Some((info_hash, peers)) = peers {
            self.house.spawn(self.clone().find_named_peers(info_hash, peers));
        }
        if self.loading.get() == 0 {
            self.settle(session, now);
        }
    }

    /// All files of a round are read: what no file names any more is dropped.
    fn settle(&self, session: &mut Session, now: Instant) {
        let (changes, again) = self.watch.borrow_mut().settle();
        let mut left = Vec::new();
        for change in &changes {
            match change {
                Change::Removed { info_hash, path } => {
                    session.remove(*info_hash, now);
                    left.push(*info_hash);
                    if is_magnet(path) {
                        session.submit(Job::Discard { info_hash: *info_hash, beside: None });
                    }
                }
                Change::Spent { info_hash, torrent } => {
                    session.submit(Job::Discard { info_hash: *info_hash, beside: Some(torrent.clone()) });
                    // Without inotify the regular scan would be what sees it gone.
                    session.rescan_by(now + HALF_WRITTEN);
                }
                _ => {}
            }
            report(change);
        }
        if !left.is_empty() && self.watch.borrow().sees_all() {
            session.thin_records(left, now);
        }
        if !again.is_empty() {
            self.loading.set(again.len());
            again.into_iter().for_each(|path| session.submit(read(path)));
            return;
        }
        self.scanning.set(false);
        self.tidy(session);
        if self.scan_again.take() {
            session.rescan_now(now);
            return;
        }
        self.on_bus.looked(session);
        if self.watch.borrow().looks_again() {
            session.rescan_by(now + HALF_WRITTEN);
        }
    }

    fn insert(&self, session: &mut Session, read: Read, path: Arc<Path>, ident: Ident, now: Instant) {
        match read {
            Read::Torrent(loaded) => {
                let (summary, place) = self.known(session, *loaded, &path, path.clone(), ident, now);
                session.insert(summary, place, now);
            }
            Read::Link(linked) => {
                let Linked { link, kept } = *linked;
                if !link.select.is_empty() {
                    let files = ranges(&link.select);
                    log::info!("{}: the link selects the files {files}: all are fetched", path.display());
                }
                match kept {
                    Some(Kept { path: torrent, ident, loaded }) => {
                        let named = path.with_extension("torrent");
                        let (summary, place) = self.known(session, loaded, &named, torrent, ident, now);
                        session.insert(summary, place, now);
                    }
                    None => {
                        let place = self.place_of_link(path, ident);
                        session.insert_magnet(link, place, now);
                    }
                }
            }
        }
    }

    /// A torrent has another file now.
    fn moved(&self, session: &mut Session, read: Read, path: Arc<Path>, ident: Ident, now: Instant) {
        let info_hash = read.info_hash();
        match read {
            Read::Torrent(loaded) => {
                let (summary, place) = self.known(session, *loaded, &path, path.clone(), ident, now);
                let (tiers, info_at) = (summary.trackers.clone(), summary.info_at.clone());
                if !session.learn(summary, place, now) {
                    session.moved(info_hash, path, ident, tiers, info_at, now);
                }
            }
            Read::Link(linked) => {
                let unknown = session.key(info_hash).and_then(|key| session.torrent(key)?.metadata.as_ref());
                match linked.kept {
                    Some(kept) => {
                        let summary = kept.loaded.summary;
                        let (tiers, info_at) = (summary.trackers, summary.info_at);
                        session.moved(info_hash, kept.path, kept.ident, tiers, info_at, now);
                    }
                    None if unknown.is_some() => {
                        let tiers = linked.link.trackers.into_iter().map(|url| vec![url]).collect();
                        session.moved(info_hash, path, ident, tiers, 0..0, now);
                    }
                    None => {
                        // Its .torrent is gone: it begins again with the link.
                        session.remove(info_hash, now);
                        self.insert(session, Read::Link(linked), path, ident, now);
                    }
                }
            }
        }
    }

    /// The metadata of a link has become a .torrent.
    pub(super) fn kept(&self, session: &mut Session, kept: Kept, now: Instant) {
        let Kept { path, ident, loaded } = kept;
        let info_hash = loaded.summary.info_hash;
        // Its link may have been read anew meanwhile.
        let key = session.key(info_hash);
        match key.and_then(|key| session.torrent(key)).map(|torrent| torrent.place.torrent.clone()) {
            Some(link) if is_magnet(&link) => {
                let named = link.with_extension("torrent");
                let (summary, place) = self.known(session, loaded, &named, path, ident, now);
                session.learn(summary, place, now);
            }
            // It came by another way meanwhile.
            Some(_) => {}
            // Its link went meanwhile: what was made of it is not to be taken for the user's.
            None => session.submit(Job::Discard { info_hash, beside: Some(path) }),
        }
    }

    /// What the session hears of a .torrent, and where that and its data lie. The nodes that it names are known from now on.
    fn known(
        &self,
        session: &mut Session,
        mut loaded: Loaded,
        named: &Path,
        torrent: Arc<Path>,
        ident: Ident,
        now: Instant,
    ) -> (Summary, Place) {
        let place = self.place(&loaded, named, torrent, ident);
        self.nodes_named(session, std::mem::take(&mut loaded.summary.nodes), now);
        (loaded.summary, place)
    }

    /// The .torrent of a torrent is not what it was: the next look at the directories tells, but of what was kept
    /// elsewhere for a link.
    pub(super) fn doubt(&self, key: u32) {
        let session = self.house.session.borrow();
        if let Some(torrent) = session.torrent(TorrentKey(key)) {
            self.watch.borrow_mut().doubt(torrent.info_hash);
        }
    }

    /// Where a torrent and its data lie; `named` is the path by whose name the layout goes.
    fn place(&self, loaded: &Loaded, named: &Path, torrent: Arc<Path>, ident: Ident) -> Place {
        let mut place = place(&self.config.borrow(), loaded, named, torrent, ident);
        self.share_root(&mut place);
        place
    }

    /// Where the data of a link lies is not known: below the data root.
    fn place_of_link(&self, torrent: Arc<Path>, ident: Ident) -> Place {
        let beside = torrent.parent().unwrap_or(Path::new("/"));
        let root: Arc<Path> = self.config.borrow().data.as_deref().unwrap_or(beside).into();
        let mut place =
            Place { torrent, ident, data: root.clone(), other: None, root, kept: false, sidecar: false };
        self.share_root(&mut place);
        place
    }

    /// Most torrents have one root: it is kept once.
    fn share_root(&self, place: &mut Place) {
        let mut last = self.last_root.borrow_mut();
        match &*last {
            Some(root) if *root == place.root => place.root = root.clone(),
            _ => *last = Some(place.root.clone()),
        }
    }

    /// Drops all torrents; the next scan takes them as new.
    pub(super) fn forget_all(&self, session: &mut Session, now: Instant) {
        self.watch.replace(Watch::new());
        self.on_bus.look_anew();
        let all: Vec<_> = session.torrents().map(|(_, torrent)| torrent.info_hash).collect();
        all.into_iter().for_each(|info_hash| session.remove(info_hash, now));
        if self.scanning.get() {
            self.scan_again.set(true);
        }
    }

    /// inotify hastens the scan; without it the regular scan finds everything a little later.
    pub(super) async fn follow_directories(self: Rc<Daemon>) {
        let Some(hints) = &self.hints else { return };
        loop {
            hints.changed().await;
            self.house.session.borrow_mut().rescan_now(Instant::now());
            self.house.kick();
        }
    }
}

fn report(change: &Change) {
    log::log!(change.level(), "{change}");
}

impl Read {
    fn info_hash(&self) -> InfoHash {
        match self {
            Read::Torrent(loaded) => loaded.summary.info_hash,
            Read::Link(linked) => linked.link.info_hash,
        }
    }

    /// The peers that a link names.
    fn take_peers(&mut self) -> Option<(InfoHash, Vec<(String, u16)>)> {
        let Read::Link(linked) = self else { return None };
        let peers = std::mem::take(&mut linked.link.peers);
        (!peers.is_empty()).then_some((linked.link.info_hash, peers))
    }
}

/// How a file is read.
fn read(path: Arc<Path>) -> Job {
    if is_magnet(&path) { Job::Link { path } } else { Job::Load { path } }
}

/// Where a torrent and its data lie, by the layout of the configuration or the sidecar beside it.
fn place(config: &Config, loaded: &Loaded, named: &Path, torrent: Arc<Path>, ident: Ident) -> Place {
    let summary = &loaded.summary;
    let beside = named.parent().unwrap_or(Path::new("/"));
    if let Some(data) = &loaded.sidecar {
        let root = data.parent().unwrap_or(Path::new("/")).into();
        let data = data.as_path().into();
        return Place { torrent, ident, data, other: None, root, kept: false, sidecar: true };
    }
    let root = config.data.as_deref().unwrap_or(beside);
    let data = config.layout.data_path(named, &summary.name, summary.multi_file, config.data.as_deref());
    // Data that other programs left lies under the torrent's own name: it is taken where it is.
    let other =
        Some(root.join(&*summary.name)).filter(|other| config.layout == SaveAs::Auto && *other != data);
    let root = root.into();
    Place {
        torrent,
        ident,
        data: data.into(),
        other: other.map(Into::into),
        root,
        kept: false,
        sidecar: false,
    }
}

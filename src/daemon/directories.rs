//! The watched directories, as the daemon follows them: what a scan found becomes torrents of the session.
#![expect(clippy::disallowed_methods, reason = "I/O shell")]

use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::Daemon;
use super::start::local_prefixes;
use crate::clock::time_of_day;
use crate::config::{Config, SaveAs};
use crate::ident::Ident;
use crate::session::Session;
use crate::storage::io::{Job, Loaded, Place};
use crate::watch::{Change, Watch};
use std::net::SocketAddr;

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
        self.refresh_links();
        let mut session = self.house.session.borrow_mut();
        session.submit(Job::Scan { roots, known });
        session.set_clock(time_of_day(SystemTime::now()), Instant::now());
    }

    /// Which prefixes are on our links changes as interfaces come and go.
    pub(super) fn refresh_links(&self) {
        let interfaces = crate::net::io::interfaces().unwrap_or_default();
        let local = local_prefixes(&self.config.borrow(), &interfaces);
        let port = self.listening.borrow().addresses.first().map_or(0, SocketAddr::port);
        let elsewhere = interfaces.iter().filter(|interface| !interface.loopback);
        let own = elsewhere.map(|interface| SocketAddr::new(interface.address, port)).collect();
        self.house.session.borrow_mut().set_local(local, own);
        let lpd = &self.config.borrow().lpd;
        let listening = self.listening.borrow();
        // Whom nobody reaches calls nobody.
        let listen = if lpd.enabled { &listening.addresses[..] } else { &[] };
        let wanted = crate::lpd::io::wanted(&interfaces, &lpd.interfaces, listen, lpd.hops);
        self.links.update(&self.house, &wanted);
    }

    /// Files of a scan to be read, lowest path first; with none to read the round is over.
    pub(super) fn load(&self, paths: Vec<Arc<Path>>, now: Instant) {
        let mut session = self.house.session.borrow_mut();
        self.loading.set(self.loading.get() + paths.len());
        for path in paths {
            session.submit(Job::Load { path });
        }
        if self.loading.get() == 0 {
            self.settle(&mut session, now);
        }
    }

    /// A .torrent has been read.
    pub(super) fn loaded(
        &self,
        session: &mut Session,
        path: Arc<Path>,
        ident: Ident,
        result: Result<Box<Loaded>, String>,
        now: Instant,
    ) {
        self.loading.set(self.loading.get().saturating_sub(1));
        let named = result.as_ref().map(|loaded| loaded.summary.info_hash).map_err(String::clone);
        let changes = self.watch.borrow_mut().loaded(&path, ident, named);
        let mut loaded = result.ok();
        for change in changes {
            match &change {
                Change::Added { .. } => {
                    if let Some(loaded) = loaded.take() {
                        self.insert(session, *loaded, path.clone(), ident, now);
                    }
                }
                Change::Restarted { info_hash, .. } => {
                    session.remove(*info_hash, now);
                    if let Some(loaded) = loaded.take() {
                        self.insert(session, *loaded, path.clone(), ident, now);
                    }
                }
                Change::Moved { info_hash, .. } => {
                    let tiers = loaded.take().map(|loaded| loaded.summary.trackers).unwrap_or_default();
                    session.moved(*info_hash, path.clone(), ident, tiers, now);
                }
                _ => {}
            }
            report(&change);
        }
        if self.loading.get() == 0 {
            self.settle(session, now);
        }
    }

    /// All files of a round are read: what no file names any more is dropped.
    fn settle(&self, session: &mut Session, now: Instant) {
        let (changes, again) = self.watch.borrow_mut().settle();
        for change in &changes {
            if let Change::Removed { info_hash, .. } = change {
                session.remove(*info_hash, now);
            }
            report(change);
        }
        if !again.is_empty() {
            self.loading.set(again.len());
            again.into_iter().for_each(|path| session.submit(Job::Load { path }));
            return;
        }
        self.scanning.set(false);
        self.tidy(session);
        if self.scan_again.take() {
            session.rescan_now(now);
        } else if self.watch.borrow().looks_again() {
            session.rescan_by(now + HALF_WRITTEN);
        }
    }

    fn insert(&self, session: &mut Session, loaded: Loaded, torrent: Arc<Path>, ident: Ident, now: Instant) {
        let mut place = place(&self.config.borrow(), &loaded, torrent, ident);
        // Most torrents have one root: it is kept once.
        let mut last = self.last_root.borrow_mut();
        match &*last {
            Some(root) if *root == place.root => place.root = root.clone(),
            _ => *last = Some(place.root.clone()),
        }
        let mut summary = loaded.summary;
        self.nodes_named(session, std::mem::take(&mut summary.nodes), now);
        session.insert(summary, place, now);
    }

    /// Drops all torrents; the next scan takes them as new.
    pub(super) fn forget_all(&self, session: &mut Session, now: Instant) {
        self.watch.replace(Watch::new());
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

/// Where a torrent and its data lie, by the layout of the configuration or the sidecar beside it.
fn place(config: &Config, loaded: &Loaded, torrent: Arc<Path>, ident: Ident) -> Place {
    let summary = &loaded.summary;
    let beside = torrent.parent().unwrap_or(Path::new("/"));
    if let Some(data) = &loaded.sidecar {
        let root = data.parent().unwrap_or(Path::new("/")).into();
        let data = data.as_path().into();
        return Place { torrent, ident, data, other: None, root, kept: false, sidecar: true };
    }
    let root = config.data.as_deref().unwrap_or(beside);
    let data = config.layout.data_path(&torrent, &summary.name, summary.multi_file, config.data.as_deref());
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

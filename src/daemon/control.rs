//! The daemon's answers to `status` and the other methods, on the control socket and in the log.
#![expect(clippy::disallowed_methods, reason = "I/O shell")]

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Instant;

use super::Daemon;
use crate::metainfo::{InfoHash, hex};
use crate::peer::Peer;
use crate::session::Session;
use crate::status::{
    Counts, DhtStatus, Error, List, MAX_LIST, Method, Part, PeerStatus, Peers, Progress, Refused,
    RefusedFiles, Reply, Status, TorrentStatus, TrackerStatus, WebSeedStatus, eta,
};
use crate::torrent::{State, Torrent, TorrentKey};

impl Daemon {
    /// Does what a method asks for.
    pub fn answer(self: &Rc<Daemon>, method: Method) -> Result<Reply, Error> {
        let now = Instant::now();
        let known =
            |done: bool, info_hash| if done { Ok(Reply::Done) } else { Err(Error::Unknown(info_hash)) };
        let reply = match method {
            Method::Status => Ok(Reply::Status(Box::new(self.status()))),
            Method::List(part) => Ok(Reply::List(self.list(part, now))),
            Method::Torrent(info_hash) => self.torrent(info_hash, now),
            Method::Peers(info_hash) => self.peers(info_hash, now),
            Method::Refused(part) => Ok(Reply::Refused(self.refused(part))),
            Method::Nodes => Ok(Reply::Nodes(self.house.session.borrow().dht_nodes())),
            Method::Rescan => {
                self.house.session.borrow_mut().rescan_now(now);
                Ok(Reply::Done)
            }
            Method::Reload => self.reload(now).map(|()| Reply::Done).map_err(Error::Failed),
            Method::Verify(info_hash) => known(self.house.session.borrow_mut().verify(info_hash), info_hash),
            Method::Pause(info_hash) => {
                known(self.house.session.borrow_mut().pause(info_hash, now), info_hash)
            }
            Method::Resume(info_hash) => {
                known(self.house.session.borrow_mut().resume(info_hash, now), info_hash)
            }
        };
        self.house.kick();
        reply
    }

    /// The daemon as a whole.
    pub fn status(&self) -> Status {
        let now = Instant::now();
        let session = self.house.session.borrow();
        let (mut torrents, mut progress, mut left) = (Counts::default(), Progress::default(), 0);
        for (_, torrent) in session.torrents() {
            torrents.insert(torrent.state);
            if matches!(torrent.state, State::Queued | State::Checking | State::Downloading) {
                let (size, have) = (torrent.lengths.total(), torrent.have_bytes());
                progress.size += size;
                progress.have += have;
                left += if torrent.state == State::Downloading { size - have } else { 0 };
            }
        }
        let (up_rate, down_rate) = session.rates(now);
        progress.eta = eta(left, down_rate).filter(|_| torrents.downloading > 0);
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime: self.started.elapsed().as_secs(),
            watched: self.config.borrow().torrents.iter().map(|path| path.display().to_string()).collect(),
            listen: self.listeners.addresses().iter().map(SocketAddr::to_string).collect(),
            lpd_interfaces: self.links.names(),
            dht: session.dht_counts().map(|counts| DhtStatus {
                nodes: counts.nodes,
                known: counts.known,
                searches: counts.searches,
                stored: counts.stored,
            }),
            torrents,
            refused: number(self.watch.borrow().refused().count()),
            peers: number(session.peers().filter(|peer| peer.ready).count()),
            up_rate,
            up_total: session.uploaded(),
            down_rate,
            down_total: session.downloaded(),
            progress,
            memory: resident(),
            last_error: self.last_error.borrow().as_ref().map(|(_, what)| what.clone()),
        }
    }

    fn list(&self, part: Part, now: Instant) -> List {
        let session = self.house.session.borrow();
        let torrents = session.by_info_hash().skip(part.offset as usize).take(part.limit as usize);
        List {
            total: number(session.torrents().len()),
            offset: part.offset,
            torrents: torrents
                .map(|(key, torrent)| self.torrent_status(&session, key, torrent, now))
                .collect(),
        }
    }

    fn torrent(&self, info_hash: InfoHash, now: Instant) -> Result<Reply, Error> {
        let session = self.house.session.borrow();
        let key = session.key(info_hash).ok_or(Error::Unknown(info_hash))?;
        let torrent = session.torrent(key).ok_or(Error::Unknown(info_hash))?;
        Ok(Reply::Torrent(Box::new(self.torrent_status(&session, key, torrent, now))))
    }

    fn peers(&self, info_hash: InfoHash, now: Instant) -> Result<Reply, Error> {
        let session = self.house.session.borrow();
        let key = session.key(info_hash).ok_or(Error::Unknown(info_hash))?;
        let torrent = session.torrent(key).ok_or(Error::Unknown(info_hash))?;
        let at = session.seconds(now);
        let ready: Vec<&Peer> =
            torrent.peers().iter().filter_map(|&key| session.peer(key)).filter(|p| p.ready).collect();
        Ok(Reply::Peers(Peers {
            total: number(ready.len()),
            peers: ready
                .iter()
                .take(MAX_LIST as usize)
                .map(|peer| peer_status(peer, session.peer_rates(peer, now), at))
                .collect(),
        }))
    }

    fn refused(&self, part: Part) -> RefusedFiles {
        let watch = self.watch.borrow();
        let refused = watch.refused().skip(part.offset as usize).take(part.limit as usize);
        RefusedFiles {
            total: number(watch.refused().count()),
            offset: part.offset,
            refused: refused
                .map(|(file, reason)| Refused { file: file.display().to_string(), reason })
                .collect(),
        }
    }

    fn torrent_status(
        &self,
        session: &Session,
        key: TorrentKey,
        torrent: &Torrent,
        now: Instant,
    ) -> TorrentStatus {
        let (up, down) = session.moved_now(torrent);
        let trackers = session.trackers().status(key.0, now).into_iter().map(|tracker| TrackerStatus {
            url: tracker.url.to_string(),
            state: tracker.state.to_string(),
            next_announce: tracker.next_announce.map(u64::from),
            seeds: tracker.counts.seeds,
            leechers: tracker.counts.leechers,
            downloads: tracker.counts.downloads,
            message: tracker.message.as_deref().map(crate::log::escaped),
        });
        let web_seeds = torrent.web.as_ref().map_or(Vec::new(), |web| web.status(now));
        let web_seeds = web_seeds.into_iter().map(|seed| WebSeedStatus {
            url: seed.url,
            state: seed.state.to_owned(),
            next_request: seed.next,
            message: seed.trouble.as_deref().map(crate::log::escaped),
        });
        let (size, have) = (torrent.lengths.total(), torrent.have_bytes());
        let (up_rate, down_rate) = session.torrent_rates(torrent, now);
        TorrentStatus {
            info_hash: torrent.info_hash,
            name: torrent.name.to_string(),
            file: torrent.file().display().to_string(),
            data: torrent.place.data.display().to_string(),
            state: torrent.state,
            reason: reason(torrent),
            size,
            have,
            checked: torrent.checking.as_ref().map(|checking| checking.hashed),
            eta: eta(size - have, down_rate).filter(|_| torrent.state == State::Downloading),
            up_rate,
            down_rate,
            up_total: torrent.uploaded + up,
            down_total: torrent.downloaded + down,
            peers: number(torrent.peers().len()),
            trackers: trackers.collect(),
            web_seeds: web_seeds.collect(),
            added: torrent.added,
            completed: torrent.completed,
        }
    }

    /// The status as log lines: one of the whole, one a torrent that does not simply seed.
    pub fn log_status(&self) {
        let status = self.status();
        let counts = &status.torrents;
        log::info!(
            "status: up {} s, {} seeding, {} downloading, {} fetching metadata, {} checking, {} queued, {} incomplete, {} waiting, {} paused, {} \
             in error, {} files refused, {} peers, {} bytes/s up, {} bytes sent, {} bytes/s down, {} bytes received, {} \
             KiB of memory",
            status.uptime,
            counts.seeding,
            counts.downloading,
            counts.fetching_metadata,
            counts.checking,
            counts.queued,
            counts.incomplete,
            counts.waiting_for_disk + counts.waiting_for_data,
            counts.paused,
            counts.error,
            status.refused,
            status.peers,
            status.up_rate,
            status.up_total,
            status.down_rate,
            status.down_total,
            status.memory / 1024,
        );
        let session = self.house.session.borrow();
        for (_, torrent) in session
            .torrents()
            .filter(|(_, torrent)| torrent.state != State::Seeding || !torrent.peers().is_empty())
        {
            log::info!(
                "status: \"{}\" {}, {} of {} bytes, {} peers {}",
                crate::log::escaped(&torrent.name),
                torrent.state,
                torrent.have_bytes(),
                torrent.lengths.total(),
                torrent.peers().len(),
                crate::log::escaped(&torrent.reason),
            );
        }
    }
}

/// Why a torrent does no more, or how far its metadata has come.
fn reason(torrent: &Torrent) -> Option<String> {
    let missing = torrent.metadata.as_ref().filter(|_| torrent.state == State::FetchingMetadata);
    let progress = missing.map(|missing| missing.gathering.progress());
    match progress {
        _ if !torrent.reason.is_empty() => Some(torrent.reason.to_string()),
        Some((_, 0)) => Some("nobody is connected who gives its metadata".into()),
        Some((came, all)) => Some(format!("{came} of {all} pieces of its metadata are here")),
        None => None,
    }
}

fn peer_status(peer: &Peer, (up_rate, down_rate): (u64, u64), at: u32) -> PeerStatus {
    PeerStatus {
        address: peer.addr.to_string(),
        client: if peer.client.is_empty() { client_of(peer.id) } else { peer.client.to_string() },
        incoming: !peer.outgoing,
        local: peer.local,
        interested: peer.interested,
        unchoked: !peer.choked,
        interesting: peer.interesting,
        choking: peer.choking,
        connected: u64::from(at.saturating_sub(peer.since)),
        up_rate,
        down_rate,
        up_total: peer.uploaded,
        down_total: peer.downloaded,
    }
}

/// The printable start of a peer id (BEP 20), else all of it in hexadecimal.
fn client_of(id: [u8; 20]) -> String {
    match std::str::from_utf8(&id[..8]) {
        Ok(text) if text.chars().all(|c| c.is_ascii_graphic()) => text.to_owned(),
        _ => hex(&id),
    }
}

fn number(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

/// Bytes of memory that are resident.
fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: u64 = statm.split_whitespace().nth(1).and_then(|pages| pages.parse().ok()).unwrap_or(0);
    let size = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok().flatten().unwrap_or(4096);
    pages * u64::try_from(size).unwrap_or(4096)
}

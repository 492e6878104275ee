//! The session's web seeds: when one is asked, for what, and what becomes of what it sends.
//!
//! Read first: `webseed/mod.rs`, BEP 19. A web seed is somebody's uplink: it is asked only for what peers do not give,
//! and never for what a neighbour on the mesh has. What it is asked for is claimed of the picker as one long run, so
//! that a server sees few requests. Holds a few words for each of at most four fetches.

use std::net::IpAddr;
use std::ops::Range;
use std::rc::Rc;
use std::task::Waker;
use std::time::{Duration, Instant};

use super::{CHOKE_ROUND, Job, SWEEP, Session, Timer};
use crate::have::Have;
use crate::http::Url;
use crate::list::Gather;
use crate::peer::{Peer, PeerKey};
use crate::piece::BLOCK;
use crate::storage::Layout;
use crate::storage::io::Job as StorageJob;
use crate::torrent::picker::Picker;
use crate::torrent::{State, TorrentKey};
use crate::webseed::{Ended, Taken, WebFetch, WebSeed, WebSeeds};

/// Peers have this long to be found before a web seed is asked.
const GRACE: Duration = Duration::from_secs(3);
/// Bytes a second that peers must give together, or web seeds are asked beside them.
const SLOW_PEERS: u64 = 32 * 1024;
/// Fetches from web seeds at a time: in all, and of one torrent.
const MAX_FETCHES: usize = 4;
const MAX_TORRENTS_FETCHES: usize = 2;
/// Bytes of one run: an eighth of what is missing, so that a second web seed and the peers find something to do, but not
/// so little that the server's round trips count, nor so much that a bad server costs much.
const RUN: (u64, u64) = (1 << 20, 16 << 20);
const SHARE: u64 = 8;
/// Claims that are given back because the web seed lacks a file of theirs, before it is left for later.
const TRIES: u32 = 8;

/// A fetch that is under way.
pub(super) struct WebRun {
    torrent: TorrentKey,
    key: PeerKey,
    layout: Rc<Layout>,
    /// Some of it was of use.
    got: bool,
    given_up: bool,
    waker: Option<Waker>,
}

impl Session {
    // When one is asked.

    /// A torrent begins to be fetched: its web seeds are asked soon, at once where it knows nobody else.
    pub(super) fn begin_web(&mut self, key: TorrentKey, now: Instant) {
        let Some(torrent) = self.torrents.get(&key).filter(|torrent| torrent.web_seeded) else { return };
        let trackers =
            self.settings.trackers && !(torrent.tiers.0.is_empty() && self.settings.also.is_empty());
        let peers = !torrent.peers().is_empty() || !self.settings.static_peers.is_empty();
        let until = if trackers || peers { now + GRACE } else { now };
        self.web_grace.insert(key, until);
        self.set_by(Timer::Web, until);
    }

    /// They may have been switched on or off.
    pub(super) fn apply_to_web(&mut self, now: Instant) {
        if !self.settings.web_seeds {
            self.give_up_web(None);
        }
        self.look_at_web(now + GRACE);
    }

    /// The network is another: those that were not reached may be there.
    pub(super) fn web_network_changed(&mut self, now: Instant) {
        for torrent in self.torrents.values_mut() {
            if let Some(web) = &mut torrent.web {
                web.network_changed();
            }
        }
        self.look_at_web(now);
    }

    /// Web seeds may be asked at that time, if there is a torrent that has some.
    pub(super) fn look_at_web(&mut self, at: Instant) {
        if self.settings.web_seeds && self.web_seeded().next().is_some() {
            self.set_by(Timer::Web, at);
        }
    }

    fn web_seeded(&self) -> impl Iterator<Item = TorrentKey> {
        let torrents = self.torrents.iter();
        torrents.filter(|(_, t)| t.state == State::Downloading && t.web_seeded).map(|(&key, _)| key)
    }

    /// The next fetch from a web seed, if one is due.
    pub(super) fn next_web_fetch(&mut self, now: Instant) -> Option<Job> {
        // When one of them ends it is looked again.
        if self.stopping || !self.settings.web_seeds || self.web.len() >= MAX_FETCHES {
            return None;
        }
        self.web_grace.retain(|_, until| *until > now);
        let keys: Vec<TorrentKey> = self.web_seeded().gather();
        let mut room = MAX_FETCHES - self.web.len();
        for &key in &keys {
            let Some(torrent) = self.torrents.get(&key) else { continue };
            let laid_out = torrent.swarm.as_ref().is_some_and(|swarm| swarm.layout.is_some());
            let free = torrent.web.as_ref().is_none_or(|web| web.has_free(now));
            if room == 0 || !free || !self.may_ask_web(key, now) {
                continue;
            }
            if torrent.web.is_none() || !laid_out {
                // A thousand torrents are read one after the other.
                room -= 1;
                self.want_layout(key, now);
            } else if let Some(fetch) = self.claim_for_web(key, None, now) {
                // There may be another one.
                self.set(Timer::Web, now);
                return Some(Job::WebFetch(fetch));
            }
        }
        for key in keys {
            let again = match self.torrents.get(&key).and_then(|torrent| torrent.web.as_ref()) {
                // Until one has rested, or one that is asked has ended.
                Some(web) if !web.has_free(now) => web.deadline(),
                // By then peers may have slowed down, or left something.
                _ => self.web_grace.get(&key).copied().or(Some(now + CHOKE_ROUND)),
            };
            if let Some(again) = again {
                self.set_by(Timer::Web, again);
            }
        }
        None
    }

    /// Whether peers leave something to web seeds.
    fn may_ask_web(&self, key: TorrentKey, now: Instant) -> bool {
        let Some(torrent) = self.torrents.get(&key) else { return false };
        let running = self.web.iter().filter(|run| run.torrent == key).count();
        let early = self.web_grace.get(&key).is_some_and(|&until| now < until);
        if torrent.state != State::Downloading || running >= MAX_TORRENTS_FETCHES || early {
            return false;
        }
        let peers = || torrent.peers().iter().filter_map(|&peer| self.peer(peer));
        // In the last round, or of late.
        let rate: u64 = peers().map(|peer| u64::from(peer.down_rate).max(self.peer_rates(peer, now).1)).sum();
        // Under a limit that is lower still, half of it is as fast as peers may be.
        let enough = match self.settings.download {
            0 => SLOW_PEERS,
            limit => SLOW_PEERS.min(limit / 2),
        };
        rate < enough || !peers().any(|peer| peer.interesting)
    }

    /// What a web seed of a torrent is to fetch: the one that was asked last, or any.
    fn claim_for_web(
        &mut self,
        key: TorrentKey,
        last: Option<(PeerKey, Rc<Layout>)>,
        now: Instant,
    ) -> Option<Box<WebFetch>> {
        if !self.begin_picking(key, now) {
            return None;
        }
        let torrent = self.torrents.get_mut(&key)?;
        let lengths = torrent.lengths;
        let missing = lengths.total() - torrent.have_bytes();
        let fetch = torrent.fetch.as_deref_mut()?;
        let known = torrent.swarm.as_ref().and_then(|swarm| swarm.layout.clone());
        let (last, layout) = match last {
            Some((last, layout)) => (Some(last), Some(layout)),
            None => (None, known),
        };
        let (layout, web) = (layout?, torrent.web.as_mut()?);
        let most = (missing / SHARE).clamp(RUN.0, RUN.1);
        let asked = web.free(now).into_iter().filter(|&free| last.is_none_or(|last| last == free));
        let (seed, pieces) = asked.filter_map(|free| web.seed(free)).find_map(|seed| {
            let pieces = claim(&mut fetch.picker, seed, &layout, &torrent.have, most)?;
            Some((seed, pieces))
        })?;
        let (first, last) = (lengths.piece(pieces.start)?, lengths.piece(pieces.end - 1)?);
        // What has come of the first piece came in order, before a connection broke.
        let ready = fetch.picker.ready(pieces.start);
        let start = lengths.offset(first) + u64::from(ready - ready % BLOCK);
        let work = Box::new(WebFetch {
            torrent: key,
            info_hash: torrent.info_hash,
            name: torrent.name.clone(),
            layout: layout.clone(),
            key: seed.key,
            kind: seed.kind,
            url: seed.url.clone(),
            bytes: start..lengths.offset(last) + u64::from(lengths.size(last)),
        });
        web.begin(work.key);
        let (got, given_up, waker) = (false, false, None);
        self.web.push(WebRun { torrent: key, key: work.key, layout, got, given_up, waker });
        // The rates are looked at then.
        self.set_by(Timer::Choke, now + CHOKE_ROUND);
        Some(work)
    }

    /// Asks for the list of files, which brings the web seeds as well.
    fn want_layout(&mut self, key: TorrentKey, now: Instant) {
        let at = self.seconds(now);
        let Some(torrent) = self.torrents.get_mut(&key) else { return };
        let swarm = torrent.swarm.get_or_insert_default();
        let asked = std::mem::replace(&mut swarm.layout_wanted, true);
        if swarm.peers.is_empty() {
            // With nobody connected it is kept for a while.
            swarm.empty_since = at;
        }
        if !asked {
            let job = StorageJob::Layout { key: key.0, place: torrent.place.clone() };
            self.jobs.push_back(Job::Storage(job));
        }
        self.set_by(Timer::Sweep, now + SWEEP);
    }

    /// The list of files has come, with the URLs of the .torrent.
    pub(super) fn web_seeds_known(
        &mut self,
        key: TorrentKey,
        web_seeds: &[String],
        http_seeds: &[String],
        now: Instant,
    ) {
        let Some(torrent) = self.torrents.get_mut(&key).filter(|torrent| torrent.web_seeded) else { return };
        if torrent.state == State::Downloading && torrent.web.is_none() {
            let (seed, next) = (self.random.draw(), &mut self.next_peer);
            // The picker knows them from peers by their numbers.
            let number = || {
                *next = next.wrapping_add(1);
                PeerKey(next.wrapping_sub(1))
            };
            let mut web = WebSeeds::new(web_seeds, http_seeds, seed, number);
            let known = self.torrents.values().filter_map(|torrent| torrent.web.as_ref());
            let hosts: Vec<String> = web.hosts().map(str::to_owned).collect();
            for known in known {
                for host in &hosts {
                    if let Some(until) = known.rest_of(host) {
                        web.rest_with(host, until);
                    }
                }
            }
            if let Some(torrent) = self.torrents.get_mut(&key) {
                torrent.web = Some(Box::new(web));
            }
        }
        self.set_by(Timer::Web, now);
    }

    // What it sends.

    /// How many bytes a fetch may read now from that address, or when it should ask again.
    pub fn web_allowance(&self, remote: IpAddr, now: Instant) -> Result<usize, Instant> {
        let bucket = if self.is_near_address(remote) { &self.local_download } else { &self.download };
        let least = u64::from(BLOCK);
        match bucket.available(now) {
            available if available < least => Err(bucket.ready_at(least, now)),
            available => Ok(usize::try_from(available).unwrap_or(usize::MAX)),
        }
    }

    /// So many bytes were read from there.
    pub fn web_read(&mut self, remote: IpAddr, bytes: usize, now: Instant) {
        let near = self.is_near_address(remote);
        let bucket = if near { &mut self.local_download } else { &mut self.download };
        bucket.take(bytes as u64, now);
    }

    fn is_near_address(&self, remote: IpAddr) -> bool {
        self.settings.local.iter().any(|prefix| prefix.contains(remote))
    }

    /// Bytes of the torrent came from a web seed. Says what becomes of them up to the end of their block.
    pub fn web_block(&mut self, key: PeerKey, offset: u64, len: usize) -> Taken {
        let Some(at) = self.web.iter().position(|run| run.key == key && !run.given_up) else {
            return Taken::Stop;
        };
        let torrent_key = self.web[at].torrent;
        let Some(torrent) = self.torrents.get(&torrent_key) else { return Taken::Stop };
        let lengths = torrent.lengths;
        let index = u32::try_from(offset / u64::from(lengths.piece_length())).unwrap_or(u32::MAX);
        let Some(piece) = lengths.piece(index) else { return Taken::Stop };
        let begin = u32::try_from(offset - lengths.offset(piece)).unwrap_or(u32::MAX);
        // What is begun is finished; but the next piece the mesh may have got meanwhile, or peers be asked for.
        let near =
            |peer: &Peer| peer.local && peer.ready && peer.closing.is_none() && peer.pieces.contains(index);
        let had = begin == 0
            && (torrent.have.contains(index)
                || torrent.peers().iter().filter_map(|&peer| self.peer(peer)).any(near));
        let Some(torrent) = self.torrents.get_mut(&torrent_key) else { return Taken::Stop };
        let Some(fetch) = &mut torrent.fetch else { return Taken::Stop };
        if had || (begin == 0 && !fetch.picker.claimed(key).is_some_and(|run| run.contains(&index))) {
            return Taken::Stop;
        }
        let begins = begin - begin % BLOCK;
        let end = begins.saturating_add(BLOCK).min(lengths.size(piece));
        let len = u32::try_from(len).map_or(end - begin, |len| len.min(end - begin));
        let Some(block) = lengths.block(index, begins, end - begins) else { return Taken::Stop };
        torrent.downloaded += u64::from(len);
        torrent.unsaved = true;
        self.downloaded += u64::from(len);
        if let Some(web) = &mut torrent.web {
            web.given = web.given.saturating_add(len);
        }
        let arrived = fetch.picker.arrived(key, index, begin, len, end - begin - len);
        self.web[at].got |= arrived.keep;
        self.piece_arrived |= arrived.piece_done;
        if arrived.block_done {
            self.cancel_others(torrent_key, block, key);
        }
        match arrived.keep {
            true => Taken::Keep { piece: index, begin, len },
            false => Taken::Skip(len),
        }
    }

    /// A fetch is over. What the same web seed is to fetch next, over the same connection, is returned.
    pub fn web_ended(&mut self, key: PeerKey, how: &Ended, now: Instant) -> Option<Box<WebFetch>> {
        let at = self.web.iter().position(|run| run.key == key)?;
        let run = self.web.swap_remove(at);
        let others = self.web.iter().any(|other| other.torrent == run.torrent);
        if let Some(torrent) = self.torrents.get_mut(&run.torrent) {
            let alone = !others && torrent.peers().is_empty() && !run.got;
            if let Some(fetch) = &mut torrent.fetch {
                fetch.picker.unclaim(key);
                // A thousand torrents whose web seeds are not there need no memory for pieces.
                if alone && fetch.picker.is_idle() && !fetch.unsaved {
                    torrent.fetch = None;
                }
                self.look_soon(now);
            }
        }
        self.tell_web(run.torrent, key, how, run.got, now);
        // Others may be asked for what is left; but not before something has changed if nothing was wanted of it.
        let futile = *how == Ended::Stopped && !run.got;
        self.look_at_web(if futile { now + CHOKE_ROUND } else { now });
        let goes_on = matches!(how, Ended::Done | Ended::Stopped) && !futile && !run.given_up;
        if !goes_on || self.stopping || !self.settings.web_seeds || !self.may_ask_web(run.torrent, now) {
            return None;
        }
        self.claim_for_web(run.torrent, Some((key, run.layout)), now)
    }

    /// What came of it is remembered, by all torrents where the host is not there.
    fn tell_web(&mut self, torrent: TorrentKey, key: PeerKey, how: &Ended, got: bool, now: Instant) {
        let Some(web) = self.torrents.get_mut(&torrent).and_then(|torrent| torrent.web.as_mut()) else {
            return;
        };
        if let Some(news) = web.ended(key, how, got, now) {
            log::info!("{news}");
        }
        let Some(host) = web.seed(key).map(|seed| seed.url.origin().to_owned()) else { return };
        let rest = web.rest_of(&host);
        for web in self.torrents.values_mut().filter_map(|torrent| torrent.web.as_mut()) {
            match rest {
                Some(until) => web.rest_with(&host, until),
                None if got => web.reached(&host),
                None => {}
            }
        }
    }

    /// Whether a fetch should end; if not, its task is woken once it should.
    pub fn is_web_given_up(&mut self, key: PeerKey, waker: &Waker) -> bool {
        let Some(run) = self.web.iter_mut().find(|run| run.key == key) else { return true };
        if !run.waker.as_ref().is_some_and(|known| known.will_wake(waker)) {
            run.waker = Some(waker.clone());
        }
        run.given_up
    }

    /// Ends the fetches of a torrent, or all of them.
    pub(super) fn give_up_web(&mut self, torrent: Option<TorrentKey>) {
        for run in self.web.iter_mut().filter(|run| torrent.is_none_or(|torrent| torrent == run.torrent)) {
            run.given_up = true;
            run.waker.take().into_iter().for_each(Waker::wake);
        }
    }

    /// One of those that the picker blames may be a web seed: it alone sent a piece that is wrong.
    pub(super) fn blame_web(&mut self, torrent: TorrentKey, liar: PeerKey) {
        let Some(web) = self.torrents.get_mut(&torrent).and_then(|torrent| torrent.web.as_mut()) else {
            return;
        };
        if let Some(news) = web.ban(liar) {
            log::warn!("{news}");
        }
        for run in self.web.iter_mut().filter(|run| run.key == liar) {
            run.given_up = true;
            run.waker.take().into_iter().for_each(Waker::wake);
        }
    }

    /// Where a file of a web seed was found last, and who redirected us there.
    pub fn web_redirect(&self, torrent: TorrentKey, key: PeerKey, file: u32) -> Option<(Url, IpAddr)> {
        let web = self.torrent(torrent)?.web.as_ref()?;
        web.redirect(key, file).map(|(url, from)| (url.clone(), from))
    }

    /// A file of a web seed was found elsewhere, or is not there any more.
    pub fn web_redirected(
        &mut self,
        torrent: TorrentKey,
        key: PeerKey,
        file: u32,
        to: Option<(Url, IpAddr)>,
    ) {
        if let Some(web) = self.torrents.get_mut(&torrent).and_then(|torrent| torrent.web.as_mut()) {
            web.set_redirect(key, file, to);
        }
    }
}

/// Claims pieces for a web seed, of files that it was not found to lack.
fn claim(picker: &mut Picker, seed: &WebSeed, layout: &Layout, ours: &Have, most: u64) -> Option<Range<u32>> {
    for _ in 0..TRIES {
        let run = picker.claim(seed.key, ours, most, true)?;
        let pieces = seed.first_of(layout, run);
        if !pieces.is_empty() {
            return Some(pieces);
        }
        picker.unclaim(seed.key);
    }
    None
}

#[cfg(test)]
pub(super) mod tests {
    use std::net::SocketAddr;
    use std::num::NonZeroU32;
    use std::path::Path;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::task::Wake;

    use super::*;
    use crate::ident::Ident;
    use crate::metainfo::{InfoHash, Summary};
    use crate::peer::Close;
    use crate::peer::wire::{Message, Reserved};
    use crate::piece::{BLOCK, Lengths};
    use crate::session::Settings;
    use crate::storage::io::{Checked, Done, Hashed, LaidOut, Outcome, Place, Prepared};
    use crate::storage::tests::metainfo;

    const PIECE: u32 = 1 << 20;
    const PIECES: u32 = 64;

    /// A session with a torrent of 64 pieces that lacks everything, and a disk that does as it is told.
    pub(in crate::session) struct Rig {
        pub(in crate::session) session: Session,
        pub(in crate::session) now: Instant,
        pub(in crate::session) key: TorrentKey,
        urls: Vec<String>,
    }

    struct Bell(AtomicBool);

    impl Wake for Bell {
        fn wake(self: Arc<Bell>) {
            self.0.store(true, Ordering::Relaxed);
        }
    }

    impl Rig {
        pub(in crate::session) fn new(urls: &[&str], trackers: &[&str]) -> Rig {
            Rig::with(urls, trackers, |_| {})
        }

        pub(in crate::session) fn with(
            urls: &[&str],
            trackers: &[&str],
            change: impl FnOnce(&mut Settings),
        ) -> Rig {
            #[expect(clippy::disallowed_methods, reason = "the only way to make an instant")]
            let now = Instant::now();
            let mut settings = Settings {
                peer_id: [1; 20],
                port: 1,
                peers: 10,
                peers_per_torrent: 10,
                uploads: 4,
                uploads_per_torrent: 4,
                upload: 0,
                local_upload: 0,
                download: 0,
                local_download: 0,
                local: vec!["10.0.0.0/8".parse().unwrap()],
                dials_per_second: 5,
                memory: 64 << 20,
                trackers: true,
                web_seeds: true,
                superseed: false,
                pex: true,
                also: Vec::new(),
                static_peers: Vec::new(),
                dht: None,
            };
            change(&mut settings);
            let session = Session::new(settings, Duration::from_secs(3600), 5, now);
            let urls = urls.iter().map(|url| url.to_string()).collect();
            let mut rig = Rig { session, now, key: TorrentKey(0), urls };
            rig.key = rig.insert(7, trackers);
            rig
        }

        /// Another torrent of the same web seeds.
        pub(in crate::session) fn insert(&mut self, number: u16, trackers: &[&str]) -> TorrentKey {
            let path: Arc<Path> = Path::new("/srv/name").into();
            let ident = Ident { inode: 1, size: 1, mtime_secs: 1, mtime_nanos: 0, ctime: 1 };
            let place = Place {
                torrent: path.clone(),
                ident,
                data: path.clone(),
                other: None,
                root: path,
                kept: false,
                sidecar: false,
            };
            let total = u64::from(PIECE) * u64::from(PIECES);
            let summary = Summary {
                info_hash: info_hash(number),
                name: "name".into(),
                lengths: Lengths::new(total, NonZeroU32::new(PIECE).unwrap()).unwrap(),
                hashes_at: 0,
                info_at: 0..0,
                private: false,
                multi_file: false,
                trackers: trackers.iter().map(|url| vec![url.to_string()]).collect(),
                web_seeded: !self.urls.is_empty(),
                nodes: Vec::new(),
            };
            self.session.insert(summary, place, self.now).unwrap()
        }

        /// All that is due now; what is to be fetched from web seeds is returned.
        pub(in crate::session) fn run(&mut self) -> Vec<WebFetch> {
            let mut fetches = Vec::new();
            while let Some(job) = self.session.poll(self.now) {
                let done = match job {
                    Job::WebFetch(fetch) => {
                        fetches.push(*fetch);
                        continue;
                    }
                    Job::Storage(StorageJob::Check { key, place, .. }) => {
                        let checked = Checked {
                            data: place.data,
                            kept: false,
                            have: Have::None,
                            todo: Have::None,
                            all: Have::None,
                            stamps: [].into(),
                            fingerprint: 0,
                        };
                        Done::Checked { key, known: Ok(None), result: Ok(checked) }
                    }
                    Job::Storage(StorageJob::Prepare { key, .. }) => {
                        Done::Prepared { key, result: Ok(Prepared { window: false }) }
                    }
                    Job::Storage(StorageJob::Layout { key, place }) => {
                        let layout =
                            Layout::new(&metainfo(PIECE, &[("", u64::from(PIECE * PIECES))]), place.data);
                        let (web_seeds, http_seeds) = (self.urls.clone(), Vec::new());
                        Done::LaidOut { key, result: Ok(Box::new(LaidOut { layout, web_seeds, http_seeds })) }
                    }
                    Job::Storage(StorageJob::Flush) => Done::Flushed(Ok(())),
                    _ => continue,
                };
                self.session.stored(done, self.now);
            }
            fetches
        }

        /// The same so many seconds later, and whenever something is due before.
        pub(in crate::session) fn after(&mut self, seconds: u64) -> Vec<WebFetch> {
            let end = self.now + Duration::from_secs(seconds);
            let mut fetches = Vec::new();
            while let Some(due) = self.session.deadline().filter(|&due| due < end) {
                self.now = due.max(self.now);
                fetches.extend(self.run());
            }
            self.now = end;
            fetches.extend(self.run());
            fetches
        }

        /// Bytes of a fetch come up to `end`. How many were taken, and the pieces that are whole by that.
        pub(in crate::session) fn comes(&mut self, fetch: &WebFetch, end: u64) -> (u64, Vec<u32>) {
            let (mut at, mut pieces) = (fetch.bytes.start, Vec::new());
            while at < end {
                let most = usize::try_from(end - at).unwrap().min(10_000);
                match self.session.web_block(fetch.key, at, most) {
                    Taken::Keep { len, .. } | Taken::Skip(len) => at += u64::from(len),
                    Taken::Stop => break,
                }
                if at % u64::from(PIECE) == 0 {
                    pieces.push(u32::try_from(at / u64::from(PIECE) - 1).unwrap());
                }
            }
            (at - fetch.bytes.start, pieces)
        }

        /// The verdict on pieces.
        pub(in crate::session) fn verdict(&mut self, pieces: &[u32], good: bool) {
            let hashed = |&piece: &u32| Hashed { piece, good, digests: vec![1; 64].into() };
            let hashed = pieces.iter().map(hashed).collect();
            let outcomes = vec![Outcome { key: self.key.0, trouble: None, hashed }];
            self.session.stored(Done::Wrote { bytes: Box::default(), outcomes }, self.now);
        }

        /// A peer connects that has everything.
        pub(in crate::session) fn seed(&mut self, addr: &str) -> PeerKey {
            let (session, now) = (&mut self.session, self.now);
            let addr: SocketAddr = addr.parse().unwrap();
            let key = session.accept(addr, now).unwrap();
            session.greeted(key, info_hash(7), Reserved::OURS, now).unwrap();
            let mut id = [2; 20];
            id[0] = u8::try_from(key.0).unwrap();
            session.identified(key, id, now).unwrap();
            session.handle(key, &Message::HaveAll, now).unwrap();
            session.handle(key, &Message::Unchoke, now).unwrap();
            key
        }

        pub(in crate::session) fn state(&self) -> State {
            self.session.torrent(self.key).unwrap().state
        }
    }

    fn info_hash(number: u16) -> InfoHash {
        let mut hash = [0; 20];
        hash[..2].copy_from_slice(&number.to_be_bytes());
        InfoHash::from_bytes(hash)
    }

    fn unreached() -> Ended {
        Ended::Unreached("gone".into())
    }

    #[test]
    fn a_torrent_that_knows_nobody_asks_at_once_and_gets_whole() {
        let mut rig = Rig::new(&["http://a/", "http://b/", "http://c/"], &[]);
        let mut fetches = rig.run();
        assert_eq!(fetches.len(), 2, "two of them at a time");
        assert!(fetches[0].key != fetches[1].key && fetches[0].url != fetches[1].url);
        let lengths: Vec<u64> = fetches.iter().map(|fetch| fetch.bytes.end - fetch.bytes.start).collect();
        assert!(lengths.iter().all(|&length| (1..=8).contains(&(length >> 20))), "{lengths:?}");
        let mut requests = 0;
        while let Some(fetch) = fetches.pop() {
            requests += 1;
            let (taken, pieces) = rig.comes(&fetch, fetch.bytes.end);
            assert_eq!(taken, fetch.bytes.end - fetch.bytes.start);
            rig.verdict(&pieces, true);
            fetches.extend(rig.session.web_ended(fetch.key, &Ended::Done, rig.now).map(|next| *next));
            fetches.extend(rig.run());
            assert!(fetches.len() <= 2 && requests < 64);
        }
        assert_eq!(rig.state(), State::Seeding);
        assert_eq!(rig.session.downloaded(), 64 << 20, "nothing came twice");
        assert_eq!(rig.session.torrent(rig.key).unwrap().downloaded, 64 << 20);
        assert!(rig.session.web.is_empty() && rig.after(600).is_empty());
    }

    #[test]
    fn where_there_may_be_peers_they_are_waited_for() {
        let mut rig = Rig::new(&["http://a/"], &["http://tracker/announce"]);
        assert!(rig.run().is_empty());
        assert!(rig.after(2).is_empty());
        assert_eq!(rig.after(1).len(), 1);
        let mut rig =
            Rig::with(&["http://a/"], &["http://tracker/announce"], |settings| settings.trackers = false);
        assert_eq!(rig.run().len(), 1);
        let mut rig = Rig::with(&["http://a/"], &[], |settings| settings.web_seeds = false);
        assert!(rig.after(100).is_empty());
    }

    #[test]
    fn one_torrent_is_not_hurried_by_another() {
        let mut rig = Rig::new(&["http://a/"], &[]);
        assert_eq!(rig.run().len(), 1);
        rig.after(100);
        let other = rig.insert(8, &["http://tracker/announce"]);
        assert!(rig.run().is_empty());
        // What goes on with the first has everything looked at.
        rig.session.look_at_web(rig.now);
        assert!(rig.after(2).is_empty());
        assert!(rig.after(1).iter().all(|fetch| fetch.torrent == other));
    }

    #[test]
    fn of_many_torrents_on_a_host_that_is_not_there_few_are_tried() {
        let mut rig = Rig::new(&["http://dead/"], &[]);
        for number in 100..400 {
            rig.insert(number, &[]);
        }
        let mut tried = 0;
        for _ in 0..100 {
            let fetches = rig.run();
            assert!(fetches.len() <= MAX_FETCHES);
            tried += fetches.len();
            for fetch in fetches {
                assert!(rig.session.web_ended(fetch.key, &unreached(), rig.now).is_none());
            }
        }
        assert!(tried <= 2 * MAX_FETCHES, "{tried}");
        assert!(
            rig.session.torrents.values().all(|torrent| torrent.fetch.is_none()),
            "nothing is kept of them"
        );
        assert!(!rig.after(40).is_empty(), "it is asked again");
    }

    #[test]
    fn what_a_neighbour_has_is_left_to_it_and_asked_for_when_it_goes() {
        let mut rig = Rig::new(&["http://a/"], &["http://tracker/announce"]);
        rig.run();
        let seed = rig.seed("10.0.0.9:5");
        assert!(rig.after(60).is_empty());
        rig.session.disconnected(seed, &Close::Gone, rig.now);
        assert_eq!(rig.after(12).len(), 1);
    }

    #[test]
    fn a_neighbour_that_comes_is_left_all_but_the_piece_under_way() {
        let mut rig = Rig::new(&["http://a/"], &[]);
        let fetch = rig.run().remove(0);
        let start = fetch.bytes.start;
        assert_eq!(rig.comes(&fetch, start + 1_500_000).0, 1_500_000);
        assert!(rig.after(10).is_empty());
        let torrent = rig.session.torrent(rig.key).unwrap();
        assert_eq!(rig.session.torrent_rates(torrent, rig.now).1, 150_000);
        rig.seed("10.0.0.9:5");
        let rest = WebFetch { bytes: start + 1_500_000..fetch.bytes.end, ..fetch.clone() };
        let (taken, pieces) = rig.comes(&rest, fetch.bytes.end);
        assert_eq!((1_500_000 + taken, pieces.len()), (2 << 20, 1));
        assert!(rig.session.web_ended(fetch.key, &Ended::Stopped, rig.now).is_none());
        assert!(rig.after(60).is_empty());
    }

    #[test]
    fn slow_peers_elsewhere_are_helped_and_fast_ones_are_left_alone() {
        for (bytes, helped) in [(60_000, true), (1 << 20, false)] {
            let mut rig = Rig::new(&["http://a/"], &["http://tracker/announce"]);
            rig.run();
            let seed = rig.seed("192.0.2.1:5");
            rig.session.refill(seed, rig.now);
            rig.session.peers.get_mut(&seed).unwrap().given = bytes;
            assert_eq!(!rig.after(3).is_empty(), helped, "{bytes}");
        }
    }

    #[test]
    fn one_that_fails_rests_and_one_that_lies_is_never_asked_again() {
        let mut rig = Rig::new(&["http://a/"], &[]);
        let fetch = rig.run().remove(0);
        assert!(rig.session.web_ended(fetch.key, &unreached(), rig.now).is_none());
        assert!(rig.after(29).is_empty());
        let fetch = rig.after(10).remove(0);
        let (_, pieces) = rig.comes(&fetch, fetch.bytes.start + u64::from(PIECE));
        let bell = Arc::new(Bell(AtomicBool::new(false)));
        assert!(!rig.session.is_web_given_up(fetch.key, &bell.clone().into()));
        rig.verdict(&pieces, false);
        assert!(bell.0.load(Ordering::Relaxed), "its task is woken");
        assert!(rig.session.is_web_given_up(fetch.key, &bell.into()));
        assert_eq!(rig.session.web_block(fetch.key, fetch.bytes.start, 1), Taken::Stop);
        assert!(rig.session.web_ended(fetch.key, &Ended::Stopped, rig.now).is_none());
        assert!(rig.after(10_000).is_empty());
        assert_eq!(rig.state(), State::Downloading);
    }

    #[test]
    fn after_a_broken_connection_it_goes_on_where_it_was() {
        let mut rig = Rig::new(&["http://a/"], &[]);
        let fetch = rig.run().remove(0);
        // All but the middle of the first piece is there then.
        assert_eq!(rig.comes(&fetch, fetch.bytes.start + 500_000).0, 500_000);
        rig.session.web_ended(fetch.key, &unreached(), rig.now);
        let mut starts = Vec::new();
        let mut fetches = rig.after(7);
        while let Some(fetch) = fetches.pop() {
            starts.push(fetch.bytes.start % u64::from(PIECE));
            let (_, pieces) = rig.comes(&fetch, fetch.bytes.end);
            rig.verdict(&pieces, true);
            fetches.extend(rig.session.web_ended(fetch.key, &Ended::Done, rig.now).map(|next| *next));
        }
        assert_eq!(rig.state(), State::Seeding);
        let begun: Vec<u64> = starts.into_iter().filter(|&start| start > 0).collect();
        assert_eq!(begun, [500_000 - 500_000 % u64::from(BLOCK)]);
        assert!(rig.session.downloaded() < (64 << 20) + u64::from(BLOCK), "what came is not fetched again");
    }

    #[test]
    fn what_the_best_lacks_is_asked_of_the_next() {
        let mut rig = Rig::new(&["http://a/", "http://b/"], &[]);
        let mut fetches = rig.run();
        let (best, other) = (fetches.remove(0), fetches.remove(0));
        rig.session.web_ended(other.key, &unreached(), rig.now);
        assert!(rig.session.web_ended(best.key, &Ended::Absent(Some(0)), rig.now).is_none());
        let later = rig.after(60);
        assert!(!later.is_empty() && later.iter().all(|fetch| fetch.key == other.key));
    }

    #[test]
    fn a_torrent_that_is_paused_gives_up_what_is_under_way() {
        let mut rig = Rig::new(&["http://a/"], &[]);
        let fetch = rig.run().remove(0);
        rig.comes(&fetch, fetch.bytes.start + 100_000);
        let bell = Arc::new(Bell(AtomicBool::new(false)));
        assert!(!rig.session.is_web_given_up(fetch.key, &bell.clone().into()));
        rig.session.pause(info_hash(7), rig.now);
        assert!(bell.0.load(Ordering::Relaxed));
        assert_eq!(rig.session.web_block(fetch.key, fetch.bytes.start + 100_000, 1), Taken::Stop);
        assert!(rig.session.web_ended(fetch.key, &Ended::Stopped, rig.now).is_none());
        assert!(rig.after(100).is_empty());
        rig.session.resume(info_hash(7), rig.now);
        assert_eq!(rig.run().len(), 1);
    }

    #[test]
    fn what_was_not_asked_for_is_not_taken() {
        let mut rig = Rig::new(&["http://a/"], &[]);
        let fetch = rig.run().remove(0);
        for offset in [fetch.bytes.end, 64 << 20, u64::MAX] {
            assert_eq!(rig.session.web_block(fetch.key, offset, 10), Taken::Stop, "{offset}");
        }
        assert_eq!(rig.session.web_block(PeerKey(999), fetch.bytes.start, 10), Taken::Stop);
        assert!(rig.session.web_ended(PeerKey(999), &Ended::Done, rig.now).is_none());
    }

    #[test]
    fn no_more_is_read_than_the_download_rate_allows() {
        let mut rig = Rig::with(&["http://a/"], &[], |settings| settings.download = 100_000);
        let (far, near) = (IpAddr::from([192, 0, 2, 1]), IpAddr::from([10, 0, 0, 1]));
        let most = rig.session.web_allowance(far, rig.now).unwrap();
        rig.session.web_read(far, most, rig.now);
        let at = rig.session.web_allowance(far, rig.now).unwrap_err();
        assert!(rig.session.web_allowance(far, at).unwrap() >= BLOCK as usize);
        assert_eq!(at - rig.now, Duration::from_nanos(163_840_000));
        assert_eq!(
            rig.session.web_allowance(near, rig.now),
            Ok(usize::MAX),
            "on our own links is another rate"
        );
    }

    #[test]
    fn redirects_are_kept_with_the_torrent_and_go_with_it() {
        let mut rig = Rig::new(&["http://a/"], &[]);
        let fetch = rig.run().remove(0);
        let (key, from) = (rig.key, IpAddr::from([192, 0, 2, 1]));
        let to = Url::parse("http://mirror/x").unwrap();
        rig.session.web_redirected(key, fetch.key, 0, Some((to.clone(), from)));
        assert_eq!(rig.session.web_redirect(key, fetch.key, 0), Some((to, from)));
        rig.session.web_redirected(key, fetch.key, 0, None);
        assert_eq!(rig.session.web_redirect(key, fetch.key, 0), None);
        rig.session.remove(info_hash(7), rig.now);
        rig.session.web_redirected(key, fetch.key, 0, None);
        assert_eq!(rig.session.web_redirect(key, fetch.key, 0), None);
    }
}

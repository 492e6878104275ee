//! The session's web seeds: when one is asked, for what, and what becomes of what it sends.
//!
//! Read first: `webseed/mod.rs`, BEP 19. A web seed is somebody's uplink: it is asked only for what peers do not give,
//! and never for what a neighbour on the mesh has. What it is asked for is claimed of the picker as one long run, so
//! that a server sees few requests. Holds a few words for each of at most four fetches.

use std::net::IpAddr;
use std::rc::Rc;
use std::task::Waker;
use std::time::{Duration, Instant};

use super::{CHOKE_ROUND, Job, SWEEP, Session, Timer};
use crate::http::Url;
use crate::peer::{Peer, PeerKey};
use crate::storage::Layout;
use crate::storage::io::Job as StorageJob;
use crate::torrent::picker::BLOCK;
use crate::torrent::{State, TorrentKey};
use crate::webseed::{Ended, Taken, WebFetch, WebSeeds};

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
        let grace = if trackers || peers { GRACE } else { Duration::ZERO };
        self.set_by(Timer::Web, now + grace);
    }

    /// The next fetch from a web seed, if one is due.
    pub(super) fn next_web_fetch(&mut self, now: Instant) -> Option<Job> {
        // When one of them ends it is looked again.
        if self.stopping || !self.settings.web_seeds || self.web.len() >= MAX_FETCHES {
            return None;
        }
        let wanted = self.torrents.iter().filter(|(_, t)| t.state == State::Downloading && t.web_seeded);
        let keys: Vec<TorrentKey> = wanted.map(|(&key, _)| key).collect();
        for &key in &keys {
            if self.may_ask_web(key)
                && let Some(fetch) = self.claim_for_web(key, None, now)
            {
                // There may be another one.
                self.set(Timer::Web, now);
                return Some(Job::WebFetch(fetch));
            }
        }
        for key in keys {
            let fetch = self.torrents.get(&key).and_then(|torrent| torrent.fetch.as_ref());
            let again = match fetch.and_then(|fetch| fetch.web.as_ref()) {
                // Until one has rested, or one that is asked has ended.
                Some(web) if web.next(now).is_none() => web.deadline(),
                None if fetch.is_some_and(|fetch| fetch.web_known) => None,
                // By then peers may have slowed down, or left something.
                _ => Some(now + CHOKE_ROUND),
            };
            if let Some(again) = again {
                self.set_by(Timer::Web, again);
            }
        }
        None
    }

    /// Whether peers leave something to web seeds.
    fn may_ask_web(&self, key: TorrentKey) -> bool {
        let Some(torrent) = self.torrents.get(&key) else { return false };
        let running = self.web.iter().filter(|run| run.torrent == key).count();
        if torrent.state != State::Downloading || running >= MAX_TORRENTS_FETCHES {
            return false;
        }
        let peers = || torrent.peers().iter().filter_map(|&peer| self.peer(peer));
        // What has come since the last round counts as if the round were over.
        let rate: u64 = peers()
            .map(|peer| u64::from(peer.down_rate).max(u64::from(peer.given) / CHOKE_ROUND.as_secs()))
            .sum();
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
        let Some(layout) = layout.filter(|_| fetch.web_known) else {
            self.want_layout(key, now);
            return None;
        };
        let web = fetch.web.as_mut()?;
        let seed = match last {
            Some(last) => web.seed(last).filter(|seed| seed.is_free(now)),
            None => web.next(now),
        }?;
        let most = (missing / SHARE).clamp(RUN.0, RUN.1);
        let pieces = (0..TRIES).find_map(|_| {
            let run = fetch.picker.claim(seed.key, &torrent.have, most, true)?;
            let given = seed.first_of(&layout, run);
            if given.is_empty() {
                fetch.picker.unclaim(seed.key);
            }
            (!given.is_empty()).then_some(given)
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
        let Some(fetch) = torrent.fetch.as_mut() else { return };
        if !std::mem::replace(&mut fetch.web_known, true) {
            let (seed, next) = (self.random.draw(), &mut self.next_peer);
            // The picker knows them from peers by their numbers.
            let number = || {
                *next = next.wrapping_add(1);
                PeerKey(next.wrapping_sub(1))
            };
            fetch.web = WebSeeds::new(web_seeds, http_seeds, seed, number).map(Box::new);
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
        if let Some(web) = &mut fetch.web {
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
        let fetch = self.torrents.get_mut(&run.torrent).and_then(|torrent| torrent.fetch.as_mut());
        if let Some(fetch) = fetch {
            fetch.picker.unclaim(key);
            if let Some(web) = &mut fetch.web
                && let Some(news) = web.ended(key, how, run.got, now)
            {
                log::info!("{news}");
            }
            self.look_soon(now);
        }
        // Others may be asked for what is left; but not before something has changed if nothing was wanted of it.
        let futile = *how == Ended::Stopped && !run.got;
        self.set_by(Timer::Web, if futile { now + CHOKE_ROUND } else { now });
        let goes_on = matches!(how, Ended::Done | Ended::Stopped) && !futile && !run.given_up;
        if !goes_on || self.stopping || !self.settings.web_seeds || !self.may_ask_web(run.torrent) {
            return None;
        }
        self.claim_for_web(run.torrent, Some((key, run.layout)), now)
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
        let fetch = self.torrents.get_mut(&torrent).and_then(|torrent| torrent.fetch.as_mut());
        let Some(web) = fetch.and_then(|fetch| fetch.web.as_mut()) else { return };
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
        let web = self.torrent(torrent)?.fetch.as_ref()?.web.as_ref()?;
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
        let fetch = self.torrents.get_mut(&torrent).and_then(|torrent| torrent.fetch.as_mut());
        if let Some(web) = fetch.and_then(|fetch| fetch.web.as_mut()) {
            web.set_redirect(key, file, to);
        }
    }
}

//! All torrents and all peers on one clock: what has happened comes in, jobs for the shells come out.
//!
//! Read first: `torrent/mod.rs`, `peer/mod.rs`. The session schedules; what a piece or a message means is decided
//! there. Omitted: all I/O; nothing here waits. Beside this file: the life of a torrent (`torrents`), its checks
//! (`checks`), what is fetched of it (`fetching`), its trackers and neighbours (`announces`), the DHT (`dht`), its
//! connections (`peers`), what they tell each other of others (`pex`), what they send a second (`rates`), how the only seed
//! gives it (`superseeding`), its web seeds (`webseeds`), what a magnet link does not say of it (`metadata`). Holds one
//! box a torrent, one a peer, and one table of deadlines for all of them.

mod announces;
mod checks;
mod dht;
mod fetching;
mod jobs;
mod metadata;
mod peers;
mod pex;
mod rates;
mod settings;
mod superseeding;
mod torrents;
mod webseeds;

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::{Duration, Instant};

use checks::Rest;
use dht::Dht;

use crate::list::{self, Gather, Keep};
use crate::lpd::Lpd;
use crate::metainfo::InfoHash;
use crate::net::ours::Ours;
use crate::net::{Host, Prefix};
use crate::peer::{Close, Peer, PeerKey, Waiting};
use crate::piece::Block;
use crate::random::Random;
use crate::rate::{Bucket, byte_burst};
use crate::sorted::{SortedMap, SortedSet};
use crate::storage::io::Job as StorageJob;
use crate::torrent::candidates::Candidates;
use crate::torrent::choker::Choker;
use crate::torrent::{Tiers, Torrent, TorrentKey};
use crate::tracker::client::Client;
pub use jobs::{Event, Happened, Job, Miss, Totals, Upload};
pub use settings::Settings;
use webseeds::WebRun;

/// Most bytes of one write: what `preadv` and one `send` move cheapest, and what a slow peer may leave unsent.
pub const BATCH: u32 = 128 * 1024;
/// Bytes that the disk is asked for ahead of a writer: with a batch on its way another one or two come meanwhile. Times
/// all upload slots this is page cache that a small router must have.
const AHEAD: u64 = 3 * BATCH as u64;
/// With fewer tokens than this a writer sleeps on: a system call for less is not worth it.
const LEAST_WRITE: u32 = 4 * 1024;
/// Nor does a rate need more writes than this: each is a wake-up.
const WRITES_PER_SECOND: u64 = 50;
/// A peer that has not finished its handshake by then is dropped.
const HANDSHAKE_TIME: u32 = 10;
/// A peer of which nothing was heard for this long is dropped (mainline: 300 s; NAT tables forget sooner).
const SILENCE: u32 = 250;
/// After this long without a byte to a peer it gets a keep-alive.
const KEEP_ALIVE: u32 = 100;
/// How often the peers' clocks are looked at: a keep-alive is at most this late.
const SWEEP: Duration = Duration::from_secs(20);
/// The same while a handshake is open.
const SWEEP_HANDSHAKES: Duration = Duration::from_secs(2);
/// Mainline's choke round.
const CHOKE_ROUND: Duration = Duration::from_secs(10);
/// Changes of records are gathered this long before they are written together.
const RECORD_DELAY: Duration = Duration::from_secs(5);
/// The progress of a long check is put on record this often.
const RECORD_PROGRESS: u32 = 60;
/// A check that has run this long announces what it has found so far.
const ANNOUNCE_CHECKING: u32 = 30;
/// Checks of files against records given to the storage thread at a time.
const CHECKS_AHEAD: u32 = 4;
/// Bytes of pieces in one slice of a check; the storage thread ends it sooner when others wait.
const SLICE: u64 = 64 << 20;
/// Layouts are dropped this long after the last peer left.
const LAYOUT_TIME: u32 = 60;
/// Connections being made at a time: each is an entry in the NAT table of the gateway.
const MAX_DIALLING: usize = 16;
/// Data that was seen growing is looked at again after this long.
const GROWING: Duration = Duration::from_secs(10);
/// What a torrent and a connection cost at most by count, for the `memory` limit: record, names and tracker state;
/// task, socket entry, queue of requests.
const TORRENT_COST: u64 = 2 * 1024;
const PEER_COST: u64 = 10 * 1024;

/// The clocks of the session. Each says when it runs out.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Timer {
    /// When peers' time-outs are looked at.
    Sweep,
    /// When the next choke round is.
    Choke,
    /// When records are written.
    Flush,
    /// When the watched directories and lost disks are looked at.
    Rescan,
    /// When a writer that waits for tokens may go on.
    Tokens,
    /// When the next peer may be dialled.
    Dial,
    /// When data that was seen growing is looked at again.
    Growing,
    /// When what rests is tried again.
    Rest,
    /// When slow peers of torrents that are fetched are looked at.
    Fetch,
    /// When web seeds may be asked.
    Web,
    /// When peers are told of others.
    Pex,
    /// When slow peers of magnet links are looked at, and those that wait for metadata of ours.
    Metadata,
    /// When neighbours are asked once more for what nobody gives.
    Seek,
    /// When the node of the DHT is looked after.
    Dht,
}

const TIMERS: usize = 14;

/// The torrents, the peers and their clocks.
pub struct Session {
    settings: Settings,
    start: Instant,
    rescan: Duration,
    torrents: SortedMap<TorrentKey, Box<Torrent>>,
    by_hash: SortedMap<InfoHash, TorrentKey>,
    peers: SortedMap<PeerKey, Box<Peer>>,
    next_torrent: u32,
    next_peer: u32,
    trackers: Client,
    candidates: Candidates,
    lpd: Lpd,
    dht: Dht,
    choker: Choker,
    upload: Bucket,
    local_upload: Bucket,
    download: Bucket,
    local_download: Bucket,
    dials: Bucket,
    timers: [Option<Instant>; TIMERS],
    jobs: VecDeque<Job>,
    /// Torrents whose files are to be compared with their records.
    to_check: VecDeque<TorrentKey>,
    checks_ahead: u32,
    /// Checks that wait for the storage thread, by the bytes they have left.
    to_verify: SortedSet<(u64, TorrentKey)>,
    /// The storage thread hashes a slice of this one.
    verifying: Option<TorrentKey>,
    /// The storage thread's queue is full until its next answer.
    storage_full: bool,
    /// State was not there when it was last asked for: it may come with its disk.
    away: bool,
    flushing: bool,
    /// Records could not be written: it is tried again at each scan.
    unflushed: bool,
    /// Jobs for the storage thread that are given again then: one a torrent and peer at most.
    resting: Vec<(Instant, Rest)>,
    /// Scans so far.
    scans: u32,
    /// Peers that wait for tokens to be sent blocks.
    throttled: VecDeque<PeerKey>,
    /// Peers that wait for tokens to be asked for blocks.
    hungry: VecDeque<PeerKey>,
    /// All blocks of a piece have come since the last write was handed out.
    piece_arrived: bool,
    /// Kept for their room: what is asked of one peer, and who is told that a block has come.
    picked: Vec<Block>,
    others: Vec<PeerKey>,
    /// Pieces of metadata that peers wait for.
    metadata_wanted: VecDeque<(PeerKey, u32)>,
    /// Bytes of them that may be read.
    metadata_rate: Bucket,
    /// What is being fetched from web seeds.
    web: Vec<WebRun>,
    /// Torrents whose peers are given a little time before that.
    web_grace: SortedMap<TorrentKey, Instant>,
    /// Peers are told of others no sooner.
    pex_after: Instant,
    random: Random,
    half_open: usize,
    stopping: bool,
    /// Trackers of the torrents, each list once.
    tiers: Vec<Rc<Tiers>>,
    /// Where we listen, as far as that is known.
    own: Vec<SocketAddr>,
    /// When it is news that our addresses have changed.
    ours: Ours,
    /// Unix seconds at the start, as far as they are known.
    clock_at_start: Option<u64>,
    /// Bytes of content sent since the start, those before the last choke round, and the rate in that.
    uploaded: u64,
    rated: u64,
    rate: u64,
    /// The same of what came.
    downloaded: u64,
    down_rated: u64,
    down_rate: u64,
}

impl Session {
    /// A session without torrents; `seed` makes its choices, so that a test can repeat them.
    pub fn new(settings: Settings, rescan: Duration, seed: u64, now: Instant) -> Session {
        let mut session = Session {
            upload: Bucket::new(settings.upload, byte_burst(settings.upload), now),
            local_upload: Bucket::new(settings.local_upload, byte_burst(settings.local_upload), now),
            download: Bucket::new(settings.download, byte_burst(settings.download), now),
            local_download: Bucket::new(settings.local_download, byte_burst(settings.local_download), now),
            random: Random::new(seed),
            lpd: Lpd::new(seed.rotate_left(29)),
            dht: Dht::default(),
            dials: Bucket::new(settings.dials_per_second.into(), settings.dials_per_second.into(), now),
            settings,
            start: now,
            rescan,
            torrents: SortedMap::new(),
            by_hash: SortedMap::new(),
            peers: SortedMap::new(),
            next_torrent: 0,
            next_peer: 0,
            trackers: Client::new(seed, now),
            candidates: Candidates::new(seed, now),
            choker: Choker::new(),
            timers: [None; TIMERS],
            jobs: VecDeque::new(),
            to_check: VecDeque::new(),
            checks_ahead: 0,
            to_verify: SortedSet::new(),
            verifying: None,
            storage_full: false,
            away: false,
            flushing: false,
            unflushed: false,
            resting: Vec::new(),
            scans: 0,
            throttled: VecDeque::new(),
            hungry: VecDeque::new(),
            piece_arrived: false,
            picked: Vec::new(),
            others: Vec::new(),
            metadata_wanted: VecDeque::new(),
            metadata_rate: Bucket::new(metadata::RATE, metadata::BURST, now),
            web: Vec::new(),
            web_grace: SortedMap::new(),
            pex_after: now,
            half_open: 0,
            stopping: false,
            tiers: Vec::new(),
            own: Vec::new(),
            ours: Ours::new(seed.rotate_left(41)),
            clock_at_start: None,
            uploaded: 0,
            rated: 0,
            rate: 0,
            downloaded: 0,
            down_rated: 0,
            down_rate: 0,
        };
        session.apply_to_dht(now);
        session
    }

    /// Seconds since the start: what the records keep.
    #[inline(never)]
    pub fn seconds(&self, now: Instant) -> u32 {
        u32::try_from(now.saturating_duration_since(self.start).as_secs()).unwrap_or(u32::MAX)
    }

    /// Takes a changed configuration: limits hold from now on, nobody is disconnected for them.
    pub fn apply(&mut self, mut settings: Settings, rescan: Duration, now: Instant) {
        let static_peers = std::mem::replace(&mut settings.static_peers, self.settings.static_peers.clone());
        self.upload.set_rate(settings.upload, byte_burst(settings.upload), now);
        self.local_upload.set_rate(settings.local_upload, byte_burst(settings.local_upload), now);
        self.download.set_rate(settings.download, byte_burst(settings.download), now);
        self.local_download.set_rate(settings.local_download, byte_burst(settings.local_download), now);
        self.dials.set_rate(settings.dials_per_second.into(), settings.dials_per_second.into(), now);
        self.rescan = rescan;
        let other_trackers = settings.trackers != self.settings.trackers
            || settings.also != self.settings.also
            || settings.port != self.settings.port;
        let other_seeding = settings.superseed != self.settings.superseed;
        let other_links = settings.local != self.settings.local;
        self.settings = settings;
        if other_links {
            self.candidates.set_here(self.own.clone(), self.settings.local.clone());
        }
        if other_trackers {
            for key in self.serving() {
                if let Some(torrent) = self.torrents.get_mut(&key)
                    && std::mem::take(&mut torrent.announced)
                {
                    self.trackers.remove(key.0, now);
                }
                self.announce(key, now);
            }
        }
        self.set_static_peers(static_peers, now);
        for peer in self.peers.values_mut() {
            peer.local = is_local(&self.settings.local, peer.addr);
            peer.waiting = if peer.waiting == Waiting::Tokens { Waiting::No } else { peer.waiting };
            peer.wake();
        }
        self.throttled.clear();
        if other_seeding {
            self.set_by(Timer::Sweep, now);
        }
        self.apply_to_dht(now);
        self.apply_to_web(now);
        self.feed_hungry(now);
        self.fill_slots(now);
        self.dial_again(now);
        self.set(Timer::Rescan, now);
    }

    /// Peers that are offered to every public torrent.
    pub fn set_static_peers(&mut self, peers: Vec<SocketAddr>, now: Instant) {
        if peers != self.settings.static_peers {
            self.settings.static_peers = peers;
            self.candidates.forget_static();
            self.serving().into_iter().for_each(|key| self.announce(key, now));
        }
    }

    fn serving(&self) -> Vec<TorrentKey> {
        self.torrents.iter().filter(|(_, torrent)| torrent.serves()).map(|(&key, _)| key).gather()
    }

    /// What the session works with.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Links and prefixes that count as our own have changed.
    pub fn set_local(&mut self, local: Vec<Prefix>, own: Vec<SocketAddr>) {
        if local != self.settings.local || own != self.own {
            self.candidates.set_here(own.clone(), local.clone());
            (self.settings.local, self.own) = (local, own);
            for peer in self.peers.values_mut() {
                peer.local = is_local(&self.settings.local, peer.addr);
            }
        }
    }

    /// The addresses of ours that carry packets, as they are now.
    pub fn set_addresses(&mut self, addresses: impl Iterator<Item = IpAddr>, now: Instant) {
        self.ours.handle(addresses, now);
    }

    /// The number of a torrent.
    pub fn key(&self, info_hash: InfoHash) -> Option<TorrentKey> {
        self.by_hash.get(&info_hash).copied()
    }

    /// Gives the storage thread something that is not the session's own, as soon as it has room.
    pub fn submit(&mut self, job: StorageJob) {
        self.jobs.push_back(Job::Storage(job));
    }

    /// Asks for a look at the watched directories now.
    pub fn rescan_now(&mut self, now: Instant) {
        self.set(Timer::Rescan, now);
    }

    /// Asks for a look at the watched directories at that time or before.
    pub fn rescan_by(&mut self, time: Instant) {
        self.set_by(Timer::Rescan, time);
    }

    /// Whether [`Session::poll`] should be called before `time` (`None`: at all).
    pub fn wants_poll_before(&self, time: Option<Instant>) -> bool {
        let job = match self.jobs.front() {
            Some(Job::Storage(_)) => !self.storage_full,
            Some(_) => true,
            None => !self.storage_full && self.has_storage_work(),
        };
        job || self.deadline().is_some_and(|deadline| time.is_none_or(|time| deadline < time))
    }

    /// All torrents in the order they came.
    pub fn torrents(&self) -> impl ExactSizeIterator<Item = (TorrentKey, &Torrent)> {
        self.torrents.iter().map(|(&key, torrent)| (key, &**torrent))
    }

    /// All torrents in the order of their info-hashes.
    pub fn by_info_hash(&self) -> impl Iterator<Item = (TorrentKey, &Torrent)> {
        self.by_hash.values().filter_map(|&key| Some((key, self.torrent(key)?)))
    }

    /// All connections.
    pub fn peers(&self) -> impl Iterator<Item = &Peer> {
        self.peers.values().map(|peer| &**peer)
    }

    /// One torrent.
    pub fn torrent(&self, key: TorrentKey) -> Option<&Torrent> {
        self.torrents.get(&key).map(|torrent| &**torrent)
    }

    /// One peer.
    pub fn peer(&self, key: PeerKey) -> Option<&Peer> {
        self.peers.get(&key).map(|peer| &**peer)
    }

    /// Connections, open handshakes among them.
    pub fn peer_count(&self) -> usize {
        self.peers.len()
    }

    /// What its trackers said.
    pub fn trackers(&self) -> &Client {
        &self.trackers
    }

    // Time.

    /// The next job that is due. Called until there is none.
    pub fn poll(&mut self, now: Instant) -> Option<Job> {
        if self.expired(Timer::Sweep, now) {
            self.sweep(now);
        }
        if self.expired(Timer::Choke, now) {
            self.choke_round(now);
        }
        if self.expired(Timer::Tokens, now) {
            self.wake_throttled(now);
            self.feed_hungry(now);
        }
        if self.expired(Timer::Fetch, now) {
            self.look_at_fetches(now);
        }
        if self.expired(Timer::Metadata, now) {
            self.look_at_metadata(now);
        }
        if self.expired(Timer::Growing, now) {
            self.look_at_growing();
        }
        if self.expired(Timer::Rest, now) {
            self.rested(now);
        }
        if self.expired(Timer::Pex, now) {
            self.exchange_peers(now);
        }
        if self.expired(Timer::Dht, now) {
            self.look_at_dht(now);
        }
        // What the timers brought is among them.
        if let Some(job) = self.next_job() {
            return Some(job);
        }
        if self.may_flush() && self.expired(Timer::Flush, now) {
            self.flushing = true;
            return Some(Job::Storage(StorageJob::Flush));
        }
        if self.expired(Timer::Rescan, now) && !self.stopping {
            self.set(Timer::Rescan, now + self.rescan);
            self.look_for_lost();
            return Some(Job::Rescan);
        }
        if let Some(job) = self.next_storage_job(now) {
            return Some(job);
        }
        if let Some(news) = self.ours.poll(now).filter(|_| !self.stopping) {
            self.network_changed(news, now);
            return Some(Job::Reconnect);
        }
        if let Some(request) = self.trackers.poll(now) {
            let totals = self.totals(TorrentKey(request.key));
            return Some(Job::Announce(request, totals));
        }
        if self.expired(Timer::Seek, now) {
            self.seek(now);
        }
        if let Some(job) = self.next_search(now) {
            return Some(job);
        }
        if self.expired(Timer::Web, now)
            && let Some(job) = self.next_web_fetch(now)
        {
            return Some(job);
        }
        // Peers and nodes take turns at the new endpoints of a second.
        if self.dht.turn
            && let Some(job) = self.next_datagram(now)
        {
            return Some(job);
        }
        if self.expired(Timer::Dial, now)
            && !self.stopping
            && let Some(job) = self.next_dial(now)
        {
            self.dht.turn = true;
            return Some(job);
        }
        if let Some(job) = self.next_datagram(now) {
            return Some(job);
        }
        // What was looked at may have led to something.
        self.next_job()
    }

    fn next_job(&mut self) -> Option<Job> {
        // Only storage jobs queue up: the rest are handed out at once.
        let held = self.storage_full && matches!(self.jobs.front(), Some(Job::Storage(_)));
        if held { None } else { self.jobs.pop_front() }
    }

    /// When [`Session::poll`] wants to be called again, if nothing comes in.
    pub fn deadline(&self) -> Option<Instant> {
        let mut timers = self.timers;
        if !self.may_flush() {
            timers[Timer::Flush as usize] = None;
        }
        list::soonest(&[
            list::soonest(&timers),
            self.trackers.deadline(),
            self.lpd.deadline(),
            self.ours.deadline(),
            self.dht.deadline(),
        ])
    }

    /// Whether the storage thread would take a flush; if not, its next answer is what to wait for.
    fn may_flush(&self) -> bool {
        !self.flushing && !self.storage_full
    }

    /// Begins the end: trackers are told, peers closed, records written.
    pub fn shut_down(&mut self, now: Instant) {
        self.stopping = true;
        self.timers = [None; TIMERS];
        self.trackers.shutdown(now);
        self.lpd.set_links(&[], now);
        for peer in self.peers.values_mut() {
            peer.close(Close::Shutdown);
        }
        // Nobody waits for what was only to be looked at.
        self.jobs.keep(|job| match job {
            Job::Storage(job) => {
                matches!(job, StorageJob::Record(_) | StorageJob::Left { .. } | StorageJob::Save { .. })
            }
            _ => true,
        });
        self.close_dht();
        let keys: Vec<TorrentKey> = self.torrents.keys().copied().collect();
        for key in keys {
            self.end_fetch(key);
            self.record_progress(key, now);
        }
        // Once more, if one is under way: it may have begun before the last of them changed.
        self.set(Timer::Flush, now);
    }

    /// Puts on record what is not worth a write of its own while we run.
    fn record_progress(&mut self, key: TorrentKey, now: Instant) {
        let Some(torrent) = self.torrents.get(&key) else { return };
        let moved = self.moved_now(torrent) != (0, 0);
        if torrent.unsaved || torrent.written || torrent.checking.is_some() || moved {
            self.record(key, now);
        }
    }

    /// Whether everything that the end waits for is done.
    pub fn is_shut_down(&self) -> bool {
        self.stopping
            && self.trackers.is_idle()
            && !self.flushing
            && self.timers[Timer::Flush as usize].is_none()
            && !self.jobs.iter().any(|job| matches!(job, Job::Storage(_)))
    }

    fn set(&mut self, timer: Timer, at: Instant) {
        self.timers[timer as usize] = Some(at);
    }

    #[inline(never)]
    fn set_by(&mut self, timer: Timer, at: Instant) {
        let slot = &mut self.timers[timer as usize];
        *slot = Some(slot.map_or(at, |set| set.min(at)));
    }

    #[inline(never)]
    fn expired(&mut self, timer: Timer, now: Instant) -> bool {
        let slot = &mut self.timers[timer as usize];
        let expired = slot.is_some_and(|at| at <= now);
        if expired {
            *slot = None;
        }
        expired
    }
}

fn event(action: Happened, torrent: &Torrent, reason: Box<str>) -> Event {
    Event { action, info_hash: torrent.info_hash, name: torrent.name.clone(), reason, fetched: false }
}

fn path_of(torrent: &Torrent) -> Box<str> {
    torrent.place.torrent.to_string_lossy().as_ref().into()
}

fn is_local(local: &[Prefix], addr: SocketAddr) -> bool {
    local.iter().any(|prefix| prefix.contains(addr.host()))
}

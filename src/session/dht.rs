//! The session's node of the DHT: which torrents it looks for, whom it is told of, when it is saved, and how many new
//! endpoints it and the dials may have a second.
//!
//! Read first: `dht/mod.rs`. The node is there once the storage thread has read the one that was saved. Holds nothing
//! beside it.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use sha1::{Digest, Sha1};

use super::{Job, Session, Timer};
use crate::dht::{Counts, Node, Output, Saved};
use crate::metainfo::InfoHash;
use crate::peer::PeerKey;
use crate::storage::io::Job as StorageJob;
use crate::torrent::TorrentKey;
use crate::torrent::candidates::Source;
use crate::tracker::client::{State as Tracker, TrackerStatus};

/// Nodes that were saved have this long to answer before names are resolved.
const GRACE: Duration = Duration::from_secs(10);
/// Names that led nowhere are tried again after so long, twice as long each time …
const AGAIN: Duration = Duration::from_secs(15);
/// … until it is this, which is also how often a node that is well is looked after.
const LOOK: Duration = Duration::from_secs(5 * 60);
/// Good nodes are saved so long after the start, for the router whose power is cut before long …
const FIRST_SAVE: Duration = Duration::from_secs(10 * 60);
/// … and so often from then on: flash wears out.
const SAVE: Duration = Duration::from_secs(12 * 3600);

/// Our node, if we have one.
#[derive(Default)]
pub(super) struct Dht {
    node: Option<Box<Node>>,
    /// The storage thread was asked for what was saved.
    asked: bool,
    /// What its tokens and its first id are made of.
    secret: u64,
    /// Which families there is a socket for.
    v4: bool,
    v6: bool,
    /// When it is to be saved.
    save: Option<Instant>,
    /// How long names are left alone after the next look.
    again: Duration,
    /// The last new endpoint was a peer's: the next is a node's, if one is to be asked.
    pub(super) turn: bool,
}

impl Dht {
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.node.as_ref()?.deadline()
    }

    pub(super) fn memory(&self) -> u64 {
        self.node.as_ref().map_or(0, |node| node.memory() as u64)
    }

    pub(super) fn remove(&mut self, info_hash: InfoHash) {
        if let Some(node) = &mut self.node {
            node.remove(info_hash);
        }
    }
}

impl Session {
    /// As the settings say now: begins, changes or ends it.
    pub(super) fn apply_to_dht(&mut self, now: Instant) {
        match (self.settings.dht, &mut self.dht.node) {
            (Some(options), Some(node)) => {
                node.apply(options);
                self.tell_dht_all(now);
            }
            (Some(_), None) if !std::mem::replace(&mut self.dht.asked, true) => {
                self.submit(StorageJob::LoadNodes);
            }
            (Some(_), None) => {}
            (None, _) => self.close_dht(),
        }
    }

    /// The storage thread has read what was saved.
    pub(super) fn open_dht(&mut self, saved: &[u8], now: Instant) {
        self.dht.asked = false;
        let Some(options) = self.settings.dht.filter(|_| !self.stopping) else { return };
        let saved = Saved::decode(saved);
        if let Some(node) = &mut self.dht.node {
            // It came with its disk.
            let nodes = saved.into_iter().flat_map(|saved| saved.nodes);
            return nodes.for_each(|addr| node.contact(addr, now));
        }
        let secret = self.dht.secret;
        let new = || Sha1::digest([&b"id"[..], &secret.to_be_bytes()].concat()).into();
        let id = saved.as_ref().map_or_else(new, |saved| saved.id);
        let mut node = Box::new(Node::new(options, id, secret, now));
        node.set_families(self.dht.v4, self.dht.v6, now);
        let contacts = saved.map(|saved| saved.nodes).unwrap_or_default();
        let wait = if contacts.is_empty() { Duration::ZERO } else { GRACE };
        contacts.into_iter().for_each(|addr| node.contact(addr, now));
        self.dht.node = Some(node);
        self.dht.again = AGAIN;
        self.dht.save = Some(now + FIRST_SAVE);
        self.tell_dht_all(now);
        self.set(Timer::Dht, now + wait);
    }

    /// It is saved, and is no more.
    pub(super) fn close_dht(&mut self) {
        self.save_dht();
        self.dht.node = None;
        self.timers[Timer::Dht as usize] = None;
    }

    /// What nobody may guess, nor find out from anything else that we say.
    pub fn set_secret(&mut self, secret: u64) {
        self.dht.secret = secret;
    }

    /// Which families there is a socket for. Where one has come, names are soon tried again.
    pub fn set_dht_families(&mut self, v4: bool, v6: bool, now: Instant) {
        (self.dht.v4, self.dht.v6, self.dht.again) = (v4, v6, AGAIN);
        if let Some(node) = &mut self.dht.node {
            node.set_families(v4, v6, now);
            self.set_by(Timer::Dht, now + GRACE);
        }
    }

    /// There may be a node.
    pub fn dht_contact(&mut self, addr: SocketAddr, now: Instant) {
        if let Some(node) = &mut self.dht.node {
            node.contact(addr, now);
        }
    }

    /// A peer has told the port of its node.
    pub(super) fn node_told(&mut self, key: PeerKey, port: u16, now: Instant) {
        let Some(peer) = self.peers.get(&key) else { return };
        let is_private = |torrent| self.torrents.get(&torrent).is_none_or(|torrent| torrent.private);
        if !peer.torrent.is_none_or(is_private) {
            let mut addr = peer.addr;
            addr.set_port(port);
            self.dht_contact(addr, now);
        }
    }

    /// A datagram came that may be one of the DHT.
    pub fn dht_received(&mut self, datagram: &[u8], from: SocketAddr, now: Instant) {
        if let Some(node) = &mut self.dht.node {
            node.handle(datagram, from, now);
        }
    }

    /// What it says next; peers that it has found are dialled.
    pub(super) fn next_datagram(&mut self, now: Instant) -> Option<Job> {
        loop {
            let tokens = self.dials.available(now);
            match self.dht.node.as_mut()?.poll(&mut self.dials, now)? {
                Output::Send { to, datagram } => {
                    self.dht.turn &= self.dials.available(now) == tokens;
                    return Some(Job::Datagram(to, datagram));
                }
                Output::Peers { info_hash, peers } => {
                    let Some(key) = self.key(info_hash) else { continue };
                    if self.torrents.get(&key).is_some_and(|torrent| torrent.is_told()) {
                        self.candidates.insert(key.0, peers, Source::Remote, now);
                        self.set_dial(now);
                    }
                }
            }
        }
    }

    /// A public torrent has something to give or to ask for: from now on it is looked for.
    pub(super) fn tell_dht(&mut self, key: TorrentKey, now: Instant) {
        let Some(torrent) = self.torrents.get(&key).filter(|torrent| torrent.is_told()) else { return };
        let answers = |tracker: &TrackerStatus| {
            matches!(tracker.state, Tracker::Waiting | Tracker::Announcing | Tracker::Working)
        };
        let tracked = self.trackers.status(key.0, now).iter().any(answers);
        let urgent = !tracked || (torrent.seeks() && torrent.peers().is_empty());
        if let Some(node) = &mut self.dht.node {
            node.insert(torrent.info_hash, self.settings.port, urgent, now);
        }
    }

    fn tell_dht_all(&mut self, now: Instant) {
        self.serving().into_iter().for_each(|key| self.tell_dht(key, now));
    }

    /// Looks after it: are there nodes to ask, has a torrent lost its peers, is it to be saved?
    pub(super) fn look_at_dht(&mut self, now: Instant) {
        let Some(node) = &self.dht.node else { return };
        let has_socket = self.dht.v4 || self.dht.v6;
        let next = if has_socket && node.needs_contacts(now) {
            self.jobs.push_back(Job::Bootstrap);
            let again = self.dht.again;
            self.dht.again = (again * 2).min(LOOK);
            again
        } else if has_socket && node.counts().nodes == 0 {
            // Those that are known of are still being tried.
            AGAIN
        } else {
            self.dht.again = AGAIN;
            LOOK
        };
        if self.dht.save.is_some_and(|save| save <= now) {
            self.save_dht();
            self.dht.save = Some(now + SAVE);
        }
        self.tell_dht_all(now);
        self.set(Timer::Dht, now + next);
    }

    /// Where nobody answers, what was saved before is the better.
    fn save_dht(&mut self) {
        if let Some(node) = &self.dht.node
            && node.counts().nodes > 0
        {
            self.submit(StorageJob::SaveNodes(node.saved().encode().into()));
        }
    }

    /// Nodes that are known to be good, the best first of either family.
    pub fn dht_nodes(&self) -> Vec<SocketAddr> {
        self.dht.node.as_ref().map_or(Vec::new(), |node| node.saved().nodes)
    }

    /// What there is to tell of it.
    pub fn dht_counts(&self) -> Option<Counts> {
        self.settings.dht?;
        Some(self.dht.node.as_ref().map(|node| node.counts()).unwrap_or_default())
    }

    /// `used` of `room` entries of the table in which this machine remembers connections are taken. Whatever remembers
    /// them on the way to the world is hardly larger: the fuller, the fewer new endpoints a second.
    pub fn set_tracked(&mut self, used: u64, room: u64, now: Instant) {
        let rate = endpoints(self.settings.dials_per_second, used, room);
        self.dials.set_rate(rate, rate, now);
    }
}

/// New endpoints a second: all up to three quarters of the table, less and less beyond, one where it is full. To the
/// kernel no room at all is no bound.
fn endpoints(wanted: u32, used: u64, room: u64) -> u64 {
    if room == 0 {
        return wanted.into();
    }
    let (wanted, quarter) = (u64::from(wanted), (room / 4).max(1));
    let free = room.saturating_sub(used).min(quarter);
    (wanted.saturating_mul(free) / quarter).max(1)
}

#[cfg(test)]
mod tests {
    use super::super::webseeds::tests::Rig;
    use std::collections::BTreeSet;

    use super::*;
    use crate::dht::Options;
    use crate::peer::Close;
    use crate::rate::Bucket;
    use crate::storage::io::{Away, Done};

    const HOUR: u64 = 3600;

    /// A session with a node, and another node that answers it or does not.
    struct Two {
        rig: Rig,
        other: Node,
        answers: bool,
        /// Seconds after the start.
        bootstraps: Vec<u64>,
        saves: Vec<u64>,
    }

    impl Two {
        const OTHER: &str = "10.0.0.2:6881";

        fn new(answers: bool) -> Two {
            Two::with(answers, &[])
        }

        fn with(answers: bool, trackers: &[&str]) -> Two {
            let mut rig = Rig::with(&[], trackers, |settings| settings.dht = Some(Options::default()));
            let now = rig.now;
            rig.run();
            rig.session.stored(Done::Nodes(Ok(Box::default())), now);
            rig.session.set_dht_families(true, false, now);
            let mut other = Node::new(Options::default(), [9; 20], 9, now);
            other.set_families(true, false, now);
            Two { rig, other, answers, bootstraps: Vec::new(), saves: Vec::new() }
        }

        fn run(&mut self, seconds: u64) {
            let start = self.rig.now;
            let end = start + Duration::from_secs(seconds);
            let us: SocketAddr = "10.0.0.1:6881".parse().unwrap();
            let mut plenty = Bucket::new(0, 1, start);
            loop {
                let now = self.rig.now;
                let at = u64::from(self.rig.session.seconds(now));
                while let Some(job) = self.rig.session.poll(now) {
                    match job {
                        Job::Datagram(to, datagram) if self.answers && to == Self::OTHER.parse().unwrap() => {
                            self.other.handle(&datagram, us, now);
                        }
                        Job::Bootstrap => {
                            self.bootstraps.push(at);
                            self.rig.session.dht_contact(Self::OTHER.parse().unwrap(), now);
                        }
                        Job::Storage(StorageJob::SaveNodes(_)) => self.saves.push(at),
                        Job::Storage(StorageJob::Flush) => {
                            self.rig.session.stored(Done::Flushed(Ok(())), now);
                        }
                        _ => {}
                    }
                    while let Some(output) = self.other.poll(&mut plenty, now) {
                        if let Output::Send { datagram, .. } = output {
                            self.rig.session.dht_received(&datagram, Self::OTHER.parse().unwrap(), now);
                        }
                    }
                }
                match self.rig.session.deadline() {
                    Some(next) if next < end => self.rig.now = next.max(now + Duration::from_millis(1)),
                    _ => break,
                }
            }
            self.rig.now = end;
        }
    }

    #[test]
    fn names_are_tried_at_once_and_then_more_and_more_seldom() {
        let mut two = Two::new(false);
        two.run(HOUR);
        assert_eq!(two.bootstraps[..4], [0, 15, 45, 105]);
        assert!((12..=18).contains(&two.bootstraps.len()), "{:?}", two.bootstraps);
        assert!(two.saves.is_empty(), "there is nobody to be remembered");
    }

    #[test]
    fn names_are_tried_soon_after_a_move_though_many_nodes_were_saved() {
        let mut two = Two::new(false);
        (0..80)
            .for_each(|n| two.rig.session.dht_contact(SocketAddr::from(([10, 0, 1, n], 6881)), two.rig.now));
        two.run(HOUR);
        // Each of them is asked twice, five a second.
        assert!((30..90).contains(&two.bootstraps[0]), "{:?}", two.bootstraps);
    }

    #[test]
    fn good_nodes_are_saved_twice_a_day_and_at_the_end() {
        let mut two = Two::new(true);
        two.run(25 * HOUR);
        assert!((2..=4).contains(&two.saves.len()), "{:?}", two.saves);
        let saves = two.saves.len();
        two.rig.session.shut_down(two.rig.now);
        two.run(1);
        assert_eq!(two.saves.len(), saves + 1);
        assert!(two.rig.session.is_shut_down());
    }

    #[test]
    fn nodes_that_come_with_their_disk_are_asked_then() {
        let mut two = Two::new(true);
        two.run(5);
        let saved = Saved { id: [7; 20], nodes: vec!["10.0.0.9:1".parse().unwrap()] };
        two.rig.session.stored(Done::Nodes(Err(Away)), two.rig.now);
        two.rig.session.stored(Done::Nodes(Ok(saved.encode().into())), two.rig.now);
        let asked = std::iter::from_fn(|| two.rig.session.poll(two.rig.now))
            .any(|job| matches!(job, Job::Datagram(to, _) if to == saved.nodes[0]));
        assert!(asked);
    }

    #[test]
    fn without_a_socket_nothing_is_looked_up_and_turned_off_there_is_no_node() {
        let mut two = Two::new(true);
        let now = two.rig.now;
        two.rig.session.set_dht_families(false, false, now);
        two.run(HOUR);
        assert!(two.bootstraps.is_empty() && two.rig.session.dht_counts().is_some());
        let settings = super::super::Settings { dht: None, ..two.rig.session.settings().clone() };
        two.rig.session.apply(settings, Duration::from_secs(60), two.rig.now);
        assert!(two.rig.session.dht_counts().is_none() && two.rig.session.dht.node.is_none());
    }

    #[test]
    fn a_torrent_whose_tracker_does_not_answer_is_announced_at_once() {
        for (tracker, stored) in [("http://t/announce", 0), ("gopher://t/announce", 1)] {
            let mut two = Two::with(true, &[tracker]);
            two.rig.seed("10.0.0.3:1");
            two.run(60);
            assert_eq!(two.other.counts().stored, stored, "{tracker}");
        }
    }

    #[test]
    fn dials_and_datagrams_have_one_budget_and_neither_is_forgotten_for_the_other() {
        let mut two = Two::new(true);
        two.run(5);
        let now = two.rig.now;
        let session = &mut two.rig.session;
        session.dials.set_rate(1, 1, now);
        session.dials.take(1, now);
        session.set_static_peers(vec!["10.0.0.7:1".parse().unwrap()], now);
        session.set(Timer::Dial, now);
        let mut dialled = None;
        for step in 0..40 {
            let now = now + Duration::from_millis(100 * step);
            while let Some(job) = session.poll(now) {
                if let Job::Dial(..) = job {
                    dialled.get_or_insert(step);
                }
            }
        }
        assert_eq!(dialled, Some(10), "a second later, though it was not the first that wanted a token");
    }

    #[test]
    fn a_thousand_peers_to_be_dialled_do_not_keep_nodes_from_being_asked_nor_nodes_peers() {
        let mut two = Two::new(true);
        for number in 100..140 {
            two.rig.insert(number, &[]);
        }
        two.rig.run();
        let start = two.rig.now;
        let session = &mut two.rig.session;
        session.set_static_peers((0..50).map(|n| ([10, 0, 1, n], 1).into()).collect(), start);
        (0..80).for_each(|n| session.dht_contact(([10, 0, 2, n], 1).into(), start));
        let (mut dialled, mut asked, mut now) = (0, BTreeSet::new(), start);
        while now < start + Duration::from_secs(20) {
            while let Some(job) = session.poll(now) {
                match job {
                    Job::Dial(key, _) => {
                        dialled += 1;
                        session.disconnected(key, &Close::Gone, now);
                    }
                    Job::Datagram(to, _) => drop(asked.insert(to)),
                    _ => {}
                }
            }
            now = session.deadline().unwrap().max(now + Duration::from_millis(1));
        }
        assert!(dialled >= 40 && asked.len() >= 40, "{dialled} dialled, {} asked", asked.len());
        assert!(dialled + asked.len() <= 106, "{dialled} dialled, {} asked", asked.len());
    }

    #[test]
    fn the_fuller_the_table_of_connections_the_fewer_new_endpoints() {
        let rates = [0, 1, 48_000, 56_000, 60_000, 64_000, 70_000].map(|used| endpoints(5, used, 64_000));
        assert_eq!(rates, [5, 5, 5, 2, 1, 1, 1]);
        assert_eq!([endpoints(1000, 77, 0), endpoints(5, 9, 3), endpoints(8, 14, 16)], [1000, 1, 4]);
    }
}

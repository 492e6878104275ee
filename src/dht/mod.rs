//! The DHT: peers without a tracker, found through nodes that each know a few others.
//!
//! Read first: BEP 5, then 32 (a table a family), 42 (ids made of addresses), 43 (read-only). One [`Node`] is in both
//! families' DHTs under one id. It works the same in the Internet's DHT and among two nodes on a cable: it asks all it knows
//! where these are few, tells its own torrents of who announces himself here, and looks again when somebody new comes.
//! What it sends is bounded: one datagram of upkeep in ten seconds, searches by a bucket, no address more than others bear,
//! new addresses by the caller's bucket; what it answers by address and in all. Whoever named a node is not believed: only
//! those are kept and passed on that have answered us. Omits sockets, names and private torrents (the session inserts none).
//! Holds about 250 KiB with full tables, a full store and a thousand torrents.

mod answering;
mod asking;
pub mod id;
pub mod krpc;
mod limits;
mod reach;
mod replies;
mod saved;
mod search;
mod store;
mod table;
mod votes;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use sha1::{Digest, Sha1};

use crate::metainfo::InfoHash;
use crate::net::{Class, Family, Host, class, dialable, plain};
use crate::random::Random;
use crate::rate::Bucket;
use id::Id;
use krpc::Body;
use limits::{Heard, Sent};
use replies::LOOK;
pub use saved::{MAX_SAVED, Saved};
use search::{Goal, Search};
use store::Store;
use table::Table;
use votes::Votes;

/// Addresses that somebody outside named and that wait for a ping: those of a saved table, and some; a quarter of them at
/// one host.
const MAX_CONTACTS: usize = 3 * MAX_SAVED;
/// Addresses that nodes named, or that asked us.
const MAX_RUMOURS: usize = 32;
/// A table of so few nodes is completed at once, and asked anew when it grows; a larger one has time.
const SMALL: usize = 16;
/// With fewer good nodes than this we may be alone with a few others while there are more elsewhere.
const FEW: usize = 8;

/// After this long a search asks others instead …
const LATE: Duration = Duration::from_millis(1200);
/// … and nobody answers any more.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Between two rounds of asking those who know others near us, in a table that is not small.
const LOOK_AGAIN: Duration = Duration::from_secs(60);
/// An address that was pinged in vain is not pinged again for this long, in seconds.
const PING_AGAIN: u32 = 30;

/// Datagrams a second for searches, and at once.
const SEARCHING: u64 = 10;
const SEARCHING_AT_ONCE: u64 = 100;
/// Bytes a second for answers, and at once; a router's whole work is to answer.
const ANSWERING: u64 = 8 * 1024;
const ANSWERING_AT_ONCE: u64 = 64 * 1024;
const ROUTING: u64 = 8;

/// Seconds between two searches for a torrent that is not urgent.
const INTERVAL_RARE: u32 = 60 * 60;

/// Seconds between two changes of our id.
const ID_TIME: u32 = 3600;

/// How we take part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Ask, and answer nobody (BEP 43).
    pub read_only: bool,
    /// Give contacts, store nothing, look for nothing.
    pub router: bool,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// A datagram is to be sent.
    Send {
        /// Where to.
        to: SocketAddr,
        /// Its bytes.
        datagram: Vec<u8>,
    },
    /// Peers were found: ones that can be dialled, at most [`krpc::MAX_VALUES`] at a time.
    Peers {
        /// Of which torrent.
        info_hash: InfoHash,
        /// Where they listen.
        peers: Vec<SocketAddr>,
    },
}

/// How it goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Nodes that answered when they were asked last.
    pub nodes: u32,
    /// All nodes that have answered.
    pub known: u32,
    /// Searches going on.
    pub searches: u32,
    /// Peers that others told us of.
    pub stored: u32,
}

/// One node, in both families.
#[derive(Debug)]
pub struct Node {
    options: Options,
    id: Id,
    /// When the id was made to suit our address, in seconds.
    renamed: Option<u32>,
    /// IPv4 and IPv6.
    sides: [Side; 2],
    contacts: Vec<Candidate>,
    rumours: Vec<Rumour>,
    /// In the order of their info-hashes.
    torrents: Vec<Torrent>,
    /// No torrent is due before, in seconds.
    soonest: u32,
    searches: Vec<Search>,
    /// Of the last search.
    number: u32,
    pending: Vec<Pending>,
    ready: VecDeque<Output>,
    store: Store,
    heard: Heard,
    sent: Sent,
    searching: Bucket,
    answering: Bucket,
    /// No upkeep before.
    upkeep: Instant,
    /// What tokens and transactions are made of.
    secret: u64,
    transactions: u32,
    random: Random,
    /// Seconds count from here.
    start: Instant,
    /// What [`Node::deadline`] says.
    wake: Option<Instant>,
    /// When something can be sent that could not in this poll.
    blocked: Option<Instant>,
}

/// The DHT of one family.
#[derive(Debug)]
struct Side {
    family: Family,
    enabled: bool,
    table: Table,
    votes: Votes,
    /// When those are asked who came last, for those whom they know.
    look: Option<Instant>,
    /// When they were last.
    looked: Option<Instant>,
}

/// An address that somebody outside named.
#[derive(Clone, Copy, Debug)]
struct Candidate {
    addr: SocketAddr,
    /// It was silent once.
    again: bool,
}

/// An address that a node named, or one that asked us.
#[derive(Clone, Copy, Debug)]
struct Rumour {
    addr: SocketAddr,
    has_asked: bool,
}

/// Multiplied by a thousand.
#[derive(Clone, Copy, Debug)]
struct Torrent {
    info_hash: InfoHash,
    /// When it is searched next, in seconds.
    due: u32,
    port: u16,
    urgent: bool,
    /// Searches in a row that found nobody.
    vain: u8,
}

impl Torrent {
    /// The least goes first: the urgent ones for a while, not for ever.
    fn turn(&self) -> u32 {
        if self.urgent { self.due } else { self.due.saturating_add(INTERVAL_RARE / 4) }
    }
}

/// A query on its way.
#[derive(Debug)]
struct Pending {
    transaction: [u8; 4],
    to: SocketAddr,
    at: Instant,
    late: bool,
    why: Why,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Why {
    /// Somebody outside named it.
    Contact {
        again: bool,
    },
    /// A node named it, or it has asked us.
    Rumour,
    Upkeep,
    Search(u32),
    Announce,
}

impl Side {
    fn new(family: Family, id: Id) -> Side {
        let (table, votes) = (Table::new(id), Votes::default());
        Side { family, enabled: false, table, votes, look: None, looked: None }
    }

    fn is_small(&self) -> bool {
        self.table.good() < SMALL
    }

    fn is_alive(&self) -> bool {
        self.enabled && self.table.good() > 0
    }

    /// What we send is our own business until a table is complete; from then on it is upkeep.
    fn look_by(&mut self, at: Instant) {
        let earliest = match self.looked {
            Some(looked) if !self.is_small() => at.max(looked + LOOK_AGAIN),
            _ => at,
        };
        self.look = Some(self.look.map_or(earliest, |look| look.min(earliest)));
    }
}

impl Node {
    /// Knows nobody and no torrent; sends nothing before [`Node::set_families`]. `seed` is not to be guessed by others:
    /// tokens and transaction ids are made of it.
    pub fn new(options: Options, id: [u8; 20], seed: u64, now: Instant) -> Node {
        let id = Id(id);
        let mut node = Node {
            options,
            id,
            renamed: None,
            sides: [Side::new(Family::V4, id), Side::new(Family::V6, id)],
            contacts: Vec::new(),
            rumours: Vec::new(),
            torrents: Vec::new(),
            soonest: u32::MAX,
            searches: Vec::new(),
            number: 0,
            pending: Vec::new(),
            ready: VecDeque::new(),
            store: Store::default(),
            heard: Heard::new(),
            sent: Sent::default(),
            searching: Bucket::new(SEARCHING, SEARCHING_AT_ONCE, now),
            answering: Bucket::new(ANSWERING, ANSWERING_AT_ONCE, now),
            upkeep: now,
            secret: seed,
            transactions: 0,
            random: Random::new(0),
            start: now,
            wake: None,
            blocked: None,
        };
        // What is left to chance can be seen by others, and tells nothing of the seed.
        let chance = node.secret(b"chance", &[]).iter().fold(0, |bits, &byte| bits << 8 | u64::from(byte));
        node.random = Random::new(chance);
        node.limit_answers(now);
        node
    }

    /// Takes part in another way from now on.
    pub fn apply(&mut self, options: Options) {
        self.options = options;
        if options.router {
            self.store.clear();
            self.searches.retain(|search| search.goal == Goal::Nodes);
        }
        self.limit_answers(self.start);
        self.wake = Some(self.start);
    }

    /// In which families datagrams can be sent at all.
    pub fn set_families(&mut self, v4: bool, v6: bool, now: Instant) {
        for (side, enabled) in self.sides.iter_mut().zip([v4, v6]) {
            side.enabled = enabled;
        }
        self.wake = Some(now);
    }

    /// There may be a node: one that a peer, a torrent, a neighbour, the configuration or an earlier run named. It is
    /// pinged when the budget allows.
    pub fn contact(&mut self, addr: SocketAddr, now: Instant) {
        let addr = plain(addr);
        self.rumours.retain(|rumour| rumour.addr != addr);
        let of_address = self.contacts.iter().filter(|other| other.addr.host() == addr.host()).count();
        let has_room = of_address < MAX_CONTACTS / 4 && self.contacts.len() < MAX_CONTACTS;
        if has_room && self.is_news(addr, now) {
            self.contacts.push(Candidate { addr, again: false });
            self.wake = Some(now);
        }
    }

    /// Next to nobody is known, and nobody is left to be tried: whoever has other ways to find nodes may use them. Among
    /// less than eight nodes that stays so.
    pub fn needs_contacts(&self, _now: Instant) -> bool {
        let tried = |candidate: &Candidate| self.side(candidate.addr).enabled;
        let pinged = |pending: &Pending| matches!(pending.why, Why::Contact { .. });
        let enabled = || self.sides.iter().filter(|side| side.enabled);
        enabled().next().is_some()
            && enabled().map(|side| side.table.good()).sum::<usize>() < FEW
            && !self.contacts.iter().any(tried)
            && !self.pending.iter().any(pinged)
            && !self.searches.iter().any(|search| search.goal == Goal::Nodes)
    }

    /// Searches and announces a public torrent from now on, soon and often where it is urgent: without a tracker that
    /// answers, or fetching without peers.
    pub fn insert(&mut self, info_hash: InfoHash, port: u16, urgent: bool, now: Instant) {
        let seconds = self.seconds(now);
        // Torrents that have a tracker are found by it first, and not all in the same minute by the DHT.
        let due = if urgent { seconds } else { seconds + self.random.up_to(INTERVAL_RARE / 2) };
        match self.find(info_hash) {
            Ok(at) => {
                let torrent = &mut self.torrents[at];
                if torrent.urgent != urgent {
                    (torrent.urgent, torrent.vain) = (urgent, 0);
                    torrent.due = if urgent { seconds } else { torrent.due.max(due) };
                }
                torrent.port = port;
            }
            Err(at) => self.torrents.insert(at, Torrent { info_hash, due, port, urgent, vain: 0 }),
        }
        self.soonest = self.soonest.min(due);
        self.wake = Some(now);
    }

    /// It is not served any more.
    pub fn remove(&mut self, info_hash: InfoHash) {
        if let Ok(at) = self.find(info_hash) {
            self.torrents.remove(at);
            self.searches.retain(|search| search.target != info_hash.into());
        }
    }

    /// A datagram came.
    pub fn handle(&mut self, datagram: &[u8], from: SocketAddr, now: Instant) {
        let from = plain(from);
        let loopback = class(from.host()) == Class::Loopback;
        if !self.side(from).enabled || !dialable(from, loopback) {
            return;
        }
        let Some(message) = krpc::decode(datagram) else { return };
        match message.body {
            Body::Query(id, query) => {
                if !self.options.read_only && self.answer(message.transaction, id, &query, from, now) {
                    if !message.read_only && self.side(from).table.wants(id, from) {
                        self.rumour(Rumour { addr: from, has_asked: true }, now);
                    }
                    self.wake = Some(now);
                }
            }
            Body::Reply(reply) => {
                if let Some(pending) = self.take_pending(message.transaction, from) {
                    self.answered(&pending, reply, message.ip, now);
                    self.wake = Some(now);
                }
            }
            Body::Error(_) => {
                if let Some(pending) = self.take_pending(message.transaction, from) {
                    // It is there, and of no use for what was asked.
                    self.unanswered(&pending, pending.why == Why::Announce, now);
                    self.wake = Some(now);
                }
            }
        }
    }

    /// The next thing to do. `endpoints` has a token for each address that was not sent to in the last minutes.
    pub fn poll(&mut self, endpoints: &mut Bucket, now: Instant) -> Option<Output> {
        if let Some(output) = self.ready.pop_front() {
            return Some(output);
        }
        self.blocked = None;
        self.expire(now);
        let output = self
            .ping(endpoints, now)
            .or_else(|| self.search(endpoints, now))
            .or_else(|| self.ping_rumoured(endpoints, now))
            .or_else(|| self.keep_up(endpoints, now))
            .or_else(|| self.ready.pop_front());
        if output.is_none() {
            self.wake = self.next_wake(now);
        }
        output
    }

    /// When [`Node::poll`] may have something.
    pub fn deadline(&self) -> Option<Instant> {
        if self.ready.is_empty() { self.wake } else { Some(self.start) }
    }

    /// What is to be remembered over a restart: good nodes, of the mesh first. Those of a link are nothing without it.
    pub fn saved(&self) -> Saved {
        let mut nodes = Vec::new();
        for side in &self.sides {
            let before = nodes.len();
            for near in [true, false] {
                let fit = |contact: &table::Contact| {
                    contact.is_good()
                        && contact.is_near() == near
                        && class(contact.addr.host()) != Class::Link
                };
                nodes.extend(side.table.nearest(self.id, MAX_SAVED, &fit).iter().map(|contact| contact.addr));
            }
            nodes.truncate(before + MAX_SAVED);
        }
        Saved { id: self.id.0, nodes }
    }

    /// How it goes.
    pub fn counts(&self) -> Counts {
        let sum = |count: fn(&Table) -> usize| number(self.sides.iter().map(|side| count(&side.table)).sum());
        Counts {
            nodes: sum(Table::good),
            known: sum(|table| table.contacts().len()),
            searches: number(self.searches.len()),
            stored: number(self.store.len()),
        }
    }

    /// Bytes that it holds beside itself.
    pub fn memory(&self) -> usize {
        let ready = |output: &Output| match output {
            Output::Send { datagram, .. } => datagram.capacity(),
            Output::Peers { peers, .. } => peers.capacity() * size_of::<SocketAddr>(),
        };
        self.sides.iter().map(|side| side.table.memory() + side.votes.memory()).sum::<usize>()
            + self.searches.iter().map(Search::memory).sum::<usize>()
            + self.ready.iter().map(ready).sum::<usize>()
            + self.ready.capacity() * size_of::<Output>()
            + self.searches.capacity() * size_of::<Search>()
            + self.contacts.capacity() * size_of::<Candidate>()
            + self.rumours.capacity() * size_of::<Rumour>()
            + self.torrents.capacity() * size_of::<Torrent>()
            + self.pending.capacity() * size_of::<Pending>()
            + self.store.memory()
            + self.sent.memory()
    }

    /// An id that suits our address, once several nodes agree where we are.
    fn suit(&mut self, now: Instant) {
        let seconds = self.seconds(now);
        if self.renamed.is_some_and(|renamed| seconds.saturating_sub(renamed) < ID_TIME) {
            return;
        }
        let global = |side: &Side| side.votes.agreed().filter(|ip| class(*ip) == Class::Global);
        let Some(ip) = self.sides.iter().find_map(global).filter(|ip| !self.id.suits(*ip)) else { return };
        self.id = Id::suiting(ip, &mut self.random);
        self.renamed = Some(seconds);
        for side in &mut self.sides {
            side.table.set_own(self.id);
            side.look_by(now + LOOK);
        }
    }

    fn rumour(&mut self, rumour: Rumour, now: Instant) {
        if self.rumours.len() < MAX_RUMOURS && self.is_news(rumour.addr, now) {
            self.rumours.push(rumour);
        }
    }

    /// Nobody who answers, waits to be asked, or was asked just now.
    fn is_news(&self, addr: SocketAddr, now: Instant) -> bool {
        dialable(addr, class(addr.host()) == Class::Loopback)
            && !self.side(addr).table.has_good(addr)
            && !self.contacts.iter().any(|candidate| candidate.addr == addr)
            && !self.rumours.iter().any(|rumour| rumour.addr == addr)
            && !self.pending.iter().any(|pending| pending.to == addr)
            && !self.sent.was_sent(addr, PING_AGAIN, self.seconds(now))
    }

    fn secret(&self, what: &[u8], of: &[u8]) -> [u8; 4] {
        let hash = Sha1::new().chain_update(self.secret.to_be_bytes()).chain_update(what).chain_update(of);
        let hash: [u8; 20] = hash.finalize().into();
        [hash[0], hash[1], hash[2], hash[3]]
    }

    fn limit_answers(&mut self, now: Instant) {
        let times = if self.options.router { ROUTING } else { 1 };
        self.answering.set_rate(times * ANSWERING, times * ANSWERING_AT_ONCE, now);
    }

    fn find(&self, info_hash: InfoHash) -> Result<usize, usize> {
        self.torrents.binary_search_by_key(info_hash.as_bytes(), |torrent| *torrent.info_hash.as_bytes())
    }

    #[inline(never)]
    fn side(&self, addr: SocketAddr) -> &Side {
        self.side_of(Family::of(addr.host()))
    }

    fn side_of(&self, family: Family) -> &Side {
        &self.sides[usize::from(family == Family::V6)]
    }

    #[inline(never)]
    fn side_mut(&mut self, addr: SocketAddr) -> &mut Side {
        &mut self.sides[usize::from(Family::of(addr.host()) == Family::V6)]
    }

    /// Since the start.
    fn seconds(&self, now: Instant) -> u32 {
        u32::try_from(now.saturating_duration_since(self.start).as_secs()).unwrap_or(u32::MAX)
    }
}

fn number(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;

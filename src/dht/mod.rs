//! The DHT: peers without a tracker, found through nodes that each know a few others.
//!
//! Read first: BEP 5, then 32 (a table a family), 42 (ids made of addresses), 43 (read-only). One [`Node`] is in both
//! families' DHTs under one id. It works the same in the Internet's DHT and among two nodes on a cable: it asks all it knows
//! where these are few, tells its own torrents of who announces himself here, and looks again when somebody new comes.
//! What it sends is bounded: one datagram of upkeep in ten seconds, searches by a bucket, no address more than others bear,
//! new addresses by the caller's bucket; what it answers by address and in all. Whoever named a node is not believed: only
//! those are kept and passed on that have answered us. Omits sockets, names and private torrents (the session inserts none).
//! Holds about 300 KiB with full tables, a full store and a thousand torrents.

pub mod id;
pub mod krpc;
mod limits;
mod saved;
mod search;
mod store;
mod table;
mod votes;

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::time::{Duration, Instant};

use sha1::{Digest, Sha1};

use crate::metainfo::InfoHash;
use crate::net::{Class, Family, class, dialable};
use crate::random::Random;
use crate::rate::Bucket;
use id::Id;
use krpc::{Body, Message, Query, Reply, Want};
use limits::{Heard, Sent};
pub use saved::{MAX_SAVED, Saved};
use search::{Goal, Search, Step};
use store::Store;
use table::{K, Table};
use votes::Votes;

/// Addresses that somebody outside named and that wait for a ping: those of a saved table, and some.
const MAX_CONTACTS: usize = 3 * MAX_SAVED;
/// Addresses that nodes named, or that asked us.
const MAX_RUMOURS: usize = 32;
/// A table of so few nodes is completed at once, and asked anew when it grows; a larger one has time.
const SMALL: usize = 16;
/// With fewer good nodes than this we may be alone with a few others while there are more elsewhere.
const FEW: u32 = 8;
/// Searches at a time.
const MAX_SEARCHES: usize = 6;
/// Queries on their way, of all kinds.
const MAX_PENDING: usize = 64;
/// Answers that wait to be sent: more come in between two polls only when we are flooded.
const MAX_READY: usize = 32;

/// After this long a search asks others instead …
const LATE: Duration = Duration::from_millis(1200);
/// … and nobody answers any more.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Between two datagrams of upkeep: six a minute.
const UPKEEP: Duration = Duration::from_secs(10);
/// Gathers nodes that come together before they are asked for others.
const LOOK: Duration = Duration::from_millis(700);
/// Between two such rounds in a table that is not small.
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

/// Seconds between two searches for an urgent torrent: other nodes forget after half an hour.
const INTERVAL: u32 = 15 * 60;
/// For one that is not.
const INTERVAL_RARE: u32 = 60 * 60;
/// Seconds before an urgent one that found nobody is searched again, in a small table and in others; twice as many each time.
const RETRY_SMALL: u32 = 8;
const RETRY: u32 = 60;
/// When a node has come to a small table: who found nobody before, and who did.
const NEWS: u32 = 2;
const NEWS_RARE: u32 = 60;

/// Peers of one answer, IPv4 and IPv6: with the nodes this stays below 900 bytes.
const VALUES: usize = 20;
const VALUES_V6: usize = 12;
/// Seconds for which a token is given out; it is taken as long again (BEP 5: five minutes, ten in all).
const TOKEN: u32 = 300;
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
    contacts: VecDeque<Candidate>,
    rumours: VecDeque<SocketAddr>,
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

/// An address that may be a node's.
#[derive(Clone, Copy, Debug)]
struct Candidate {
    addr: SocketAddr,
    /// It was silent once.
    again: bool,
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
        self.enabled && !self.table.contacts().is_empty()
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
            contacts: VecDeque::new(),
            rumours: VecDeque::new(),
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
        if self.is_news(addr, now) && self.contacts.len() < MAX_CONTACTS {
            self.rumours.retain(|rumour| *rumour != addr);
            self.contacts.push_back(Candidate { addr, again: false });
            self.wake = Some(now);
        }
    }

    /// Next to nobody is known, and nobody is left to be tried: whoever has other ways to find nodes may use them. Among
    /// less than eight nodes that stays so.
    pub fn needs_contacts(&self, _now: Instant) -> bool {
        let tried = |candidate: &Candidate| self.side(candidate.addr).enabled;
        let pinged = |pending: &Pending| matches!(pending.why, Why::Contact { .. });
        self.sides.iter().any(|side| side.enabled)
            && self.counts().nodes < FEW
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
        let from = canonical(from);
        let loopback = class(from.ip()) == Class::Loopback;
        if !self.side(from).enabled || !dialable(from, loopback) {
            return;
        }
        let Some(message) = krpc::decode(datagram) else { return };
        match message.body {
            Body::Query(id, query) => {
                if !self.options.read_only && self.answer(message.transaction, id, &query, from, now) {
                    if !message.read_only && self.side(from).table.wants(id, from) {
                        self.rumour(from, now);
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
        let nodes = self.sides.iter().flat_map(|side| {
            let keeps = |near: bool| {
                let fit = |contact: &table::Contact| {
                    contact.is_good() && contact.is_near() == near && class(contact.addr.ip()) != Class::Link
                };
                side.table.nearest(self.id, MAX_SAVED, fit)
            };
            keeps(true).into_iter().chain(keeps(false)).take(MAX_SAVED)
        });
        Saved { id: self.id.0, nodes: nodes.map(|contact| contact.addr).collect() }
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
            + self.rumours.capacity() * size_of::<SocketAddr>()
            + self.torrents.capacity() * size_of::<Torrent>()
            + self.pending.capacity() * size_of::<Pending>()
            + self.store.memory()
            + self.sent.memory()
    }

    // What comes in.

    /// Says whether the query was worth anything.
    fn answer(&mut self, transaction: &[u8], id: Id, query: &Query, from: SocketAddr, now: Instant) -> bool {
        let seconds = self.seconds(now);
        if id == self.id
            || self.ready.len() >= MAX_READY
            || self.answering.available(now) == 0
            || !self.heard.admits(from.ip(), seconds, &mut self.random)
        {
            return false;
        }
        let mut reply = Reply::new(self.id);
        let token = self.token(from.ip(), seconds / TOKEN);
        let mut error = None;
        match query {
            Query::Ping => {}
            Query::FindNode(target, want) | Query::Other(Some(target), want) => {
                reply.nodes = self.nodes_for(*target, *want, from);
            }
            Query::Other(None, _) => error = Some(krpc::METHOD_UNKNOWN),
            Query::GetPeers(info_hash, want) => {
                reply.nodes = self.nodes_for((*info_hash).into(), *want, from);
                if !self.options.router {
                    reply.token = Some(&token);
                    reply.values = self.values_for(*info_hash, from, seconds);
                }
            }
            Query::Announce { info_hash, port, token } => {
                let peer = SocketAddr::new(from.ip(), port.unwrap_or(from.port()));
                let mut peer = canonical(peer);
                if let (SocketAddr::V6(peer), SocketAddr::V6(from)) = (&mut peer, from) {
                    peer.set_scope_id(from.scope_id());
                }
                if self.options.router || peer.port() == 0 || !self.is_token(token, from.ip(), seconds) {
                    error = Some(krpc::PROTOCOL_ERROR);
                } else {
                    self.store.insert(*info_hash, peer, seconds, &mut self.random);
                    self.tell_ourselves(*info_hash, peer);
                }
            }
        }
        let body = error.map_or(Body::Reply(reply), Body::Error);
        let datagram = krpc::encode(&Message { transaction, read_only: false, ip: Some(from), body });
        self.answering.take(datagram.len() as u64, now);
        self.ready.push_back(Output::Send { to: from, datagram });
        true
    }

    /// Who announces a torrent of ours here is a peer found without a search.
    fn tell_ourselves(&mut self, info_hash: InfoHash, peer: SocketAddr) {
        if let Ok(at) = self.find(info_hash) {
            self.torrents[at].vain = 0;
            self.ready.push_back(Output::Peers { info_hash, peers: vec![peer] });
        }
    }

    fn nodes_for(&self, target: Id, want: Want, from: SocketAddr) -> Vec<(Id, SocketAddr)> {
        let both = |side: &Side| match side.family {
            Family::V4 => want.v4,
            Family::V6 => want.v6,
        };
        let own = want == Want::default();
        let wanted = |side: &&Side| if own { side.family == Family::of(from.ip()) } else { both(side) };
        let fit = |contact: &table::Contact| {
            contact.is_good() && contact.addr != from && means_something(contact.addr, from)
        };
        let mut nodes = Vec::new();
        for side in self.sides.iter().filter(wanted) {
            // A mesh tells itself of itself.
            let near = if table::is_near(from.ip()) { search::NEAR } else { 0 };
            let mut some = side.table.nearest(target, near, |contact| fit(contact) && contact.is_near());
            let others = side.table.nearest(target, K, fit);
            let others = others.into_iter().filter(|other| !some.iter().any(|one| one.addr == other.addr));
            let others: Vec<_> = others.take(K - some.len()).collect();
            some.extend(others);
            nodes.extend(some.into_iter().map(|contact| (contact.id, contact.addr)));
        }
        nodes
    }

    fn values_for(&mut self, info_hash: InfoHash, from: SocketAddr, seconds: u32) -> Vec<SocketAddr> {
        let family = Family::of(from.ip());
        let most = if family == Family::V4 { VALUES } else { VALUES_V6 };
        self.store.peers(info_hash, most, seconds, &mut self.random, |peer| {
            Family::of(peer.ip()) == family && peer != from && means_something(peer, from)
        })
    }

    fn take_pending(&mut self, transaction: &[u8], from: SocketAddr) -> Option<Pending> {
        let is_it = |pending: &Pending| pending.transaction == *transaction && pending.to == from;
        let at = self.pending.iter().position(is_it)?;
        Some(self.pending.swap_remove(at))
    }

    fn answered(&mut self, pending: &Pending, reply: Reply, ip: Option<SocketAddr>, now: Instant) {
        let (from, seconds) = (pending.to, self.seconds(now));
        if reply.id == self.id {
            // Ourselves, by another address.
            return self.unanswered(pending, true, now);
        }
        if let Some(ip) = ip {
            self.side_mut(from).votes.insert(from.ip(), ip.ip());
            self.suit(now);
        }
        let is_outside = matches!(pending.why, Why::Contact { .. });
        if self.side_mut(from).table.answered(reply.id, from, seconds) {
            self.has_come(from, is_outside, now);
        }
        let named = |addr: &SocketAddr| as_named(*addr, from);
        let nodes: Vec<(Id, SocketAddr)> =
            reply.nodes.iter().filter_map(|(id, addr)| Some((*id, named(addr)?))).collect();
        if let Why::Search(number) = pending.why {
            let family = Family::of(from.ip());
            let of_family: Vec<_> =
                nodes.iter().copied().filter(|(_, addr)| Family::of(addr.ip()) == family).collect();
            if let Some(search) = self.searches.iter_mut().find(|search| search.number == number) {
                search.answered(from, reply.id, reply.token, &of_family);
                if let Goal::Peers(info_hash, port) = search.goal {
                    let own = self.side(from).votes.seen();
                    let ours = |peer: &SocketAddr| Some(peer.ip()) == own && peer.port() == port;
                    let mut peers: Vec<_> =
                        reply.values.iter().filter_map(named).filter(|peer| !ours(peer)).collect();
                    peers.sort_unstable();
                    peers.dedup();
                    self.found(number, info_hash, peers);
                }
            }
        }
        for (id, addr) in nodes {
            if self.side(addr).table.wants(id, addr) {
                self.rumour(addr, now);
            }
        }
    }

    fn found(&mut self, number: u32, info_hash: InfoHash, peers: Vec<SocketAddr>) {
        if peers.is_empty() {
            return;
        }
        if let Some(search) = self.searches.iter_mut().find(|search| search.number == number) {
            search.peers += peers.len();
        }
        self.ready.push_back(Output::Peers { info_hash, peers });
    }

    /// A node is new in its table.
    fn has_come(&mut self, addr: SocketAddr, is_outside: bool, now: Instant) {
        let side = self.side_mut(addr);
        let small = side.is_small();
        if small || is_outside {
            side.look_by(now + LOOK);
        }
        if !small {
            return;
        }
        let seconds = self.seconds(now);
        for torrent in self.torrents.iter_mut().filter(|torrent| torrent.urgent) {
            let wait = if torrent.vain > 0 { NEWS } else { NEWS_RARE };
            torrent.due = torrent.due.min(seconds + wait);
            self.soonest = self.soonest.min(torrent.due);
        }
    }

    /// `excused`: it is not the node's fault.
    fn unanswered(&mut self, pending: &Pending, excused: bool, now: Instant) {
        let asked = self.seconds(pending.at);
        if !excused {
            self.side_mut(pending.to).table.silent(pending.to, asked);
        }
        match pending.why {
            Why::Search(number) => {
                if let Some(search) = self.searches.iter_mut().find(|search| search.number == number) {
                    search.silent(pending.to);
                }
            }
            Why::Contact { again: false } if !excused && self.contacts.len() < MAX_CONTACTS => {
                self.contacts.push_back(Candidate { addr: pending.to, again: true });
                self.wake = Some(now);
            }
            Why::Contact { .. } | Why::Rumour | Why::Upkeep | Why::Announce => {}
        }
    }

    // What goes out.

    /// Queries whose time is over.
    fn expire(&mut self, now: Instant) {
        for pending in &mut self.pending {
            if let Why::Search(number) = pending.why
                && !pending.late
                && now >= pending.at + LATE
            {
                pending.late = true;
                if let Some(search) = self.searches.iter_mut().find(|search| search.number == number) {
                    search.late(pending.to);
                }
            }
        }
        while let Some(at) = self.pending.iter().position(|pending| now >= pending.at + TIMEOUT) {
            let pending = self.pending.swap_remove(at);
            self.unanswered(&pending, false, now);
        }
    }

    /// Addresses that may be nodes are pinged: at once where next to nobody is known.
    fn ping(&mut self, endpoints: &mut Bucket, now: Instant) -> Option<Output> {
        let rested = now >= self.upkeep;
        let due = |node: &Node, addr: SocketAddr| {
            let side = node.side(addr);
            side.enabled && (rested || side.is_small())
        };
        let contacts = self.contacts.iter().position(|candidate| due(self, candidate.addr));
        let rumours = self.rumours.iter().position(|addr| due(self, *addr));
        let (addr, why) = match (contacts, rumours) {
            (Some(at), _) => {
                let Candidate { addr, again } = self.contacts[at];
                (addr, Why::Contact { again })
            }
            (None, Some(at)) => (self.rumours[at], Why::Rumour),
            (None, None) => return None,
        };
        if !self.may_send(addr, endpoints, now) {
            return None;
        }
        self.contacts.retain(|candidate| candidate.addr != addr);
        self.rumours.retain(|rumour| *rumour != addr);
        self.upkeep = now + UPKEEP;
        Some(self.send(addr, &Query::Ping, why, endpoints, now))
    }

    /// Searches go on, end and begin.
    fn search(&mut self, endpoints: &mut Bucket, now: Instant) -> Option<Output> {
        self.begin(now);
        let mut at = 0;
        while at < self.searches.len() {
            let number = self.searches[at].number;
            match self.searches[at].step() {
                Step::Wait => at += 1,
                Step::Done => self.end(at, now),
                Step::Ask(addr) if self.may_search(addr, endpoints, now) => {
                    let search = &mut self.searches[at];
                    search.asked(addr);
                    let target = search.target;
                    let query = match search.goal {
                        Goal::Peers(info_hash, _) => Query::GetPeers(info_hash, Want::default()),
                        Goal::Nodes => Query::FindNode(target, self.want()),
                    };
                    return Some(self.send(addr, &query, Why::Search(number), endpoints, now));
                }
                Step::Tell(addr, token) if self.may_search(addr, endpoints, now) => {
                    let search = &mut self.searches[at];
                    search.told();
                    if let Goal::Peers(info_hash, port) = search.goal {
                        let query = Query::Announce { info_hash, port: Some(port), token: &token };
                        return Some(self.send(addr, &query, Why::Announce, endpoints, now));
                    }
                }
                Step::Ask(_) | Step::Tell(..) => at += 1,
            }
        }
        None
    }

    fn begin(&mut self, now: Instant) {
        for at in 0..self.sides.len() {
            let side = &mut self.sides[at];
            let family = side.family;
            let looks = |search: &Search| search.goal == Goal::Nodes && search.family == family;
            if side.is_alive()
                && side.look.is_some_and(|look| look <= now)
                && !self.searches.iter().any(looks)
            {
                side.look = None;
                side.looked = Some(now);
                self.start(at, Goal::Nodes, self.id);
            }
        }
        let seconds = self.seconds(now);
        while self.may_begin(now) && self.soonest <= seconds {
            let torrents = self.torrents.iter().enumerate();
            let due = torrents.filter(|(_, torrent)| torrent.due <= seconds);
            let Some((at, _)) = due.min_by_key(|(_, torrent)| (!torrent.urgent, torrent.due)) else {
                self.soonest = self.torrents.iter().map(|torrent| torrent.due).min().unwrap_or(u32::MAX);
                break;
            };
            let interval = self.interval(self.torrents[at].urgent);
            let torrent = &mut self.torrents[at];
            torrent.due = seconds.saturating_add(interval);
            let (info_hash, port) = (torrent.info_hash, torrent.port);
            for side in 0..self.sides.len() {
                if self.sides[side].is_alive() {
                    self.start(side, Goal::Peers(info_hash, port), info_hash.into());
                }
            }
            let known = self.store.peers(info_hash, krpc::MAX_VALUES, seconds, &mut self.random, |_| true);
            self.found(self.number, info_hash, known);
        }
    }

    fn start(&mut self, side: usize, goal: Goal, target: Id) {
        self.number = self.number.wrapping_add(1);
        let side = &self.sides[side];
        self.searches.push(Search::new(self.number, goal, target, &side.table, side.family));
    }

    fn end(&mut self, at: usize, now: Instant) {
        let search = self.searches.remove(at);
        let Goal::Peers(info_hash, _) = search.goal else { return };
        let seconds = self.seconds(now);
        let small = self.side_of(search.family).is_small();
        let more = self.searches.iter().any(|other| other.goal == search.goal);
        if let Ok(at) = self.find(info_hash) {
            let torrent = &mut self.torrents[at];
            if search.peers > 0 {
                torrent.vain = 0;
            } else if torrent.urgent && !more {
                torrent.vain = torrent.vain.saturating_add(1);
                let retry = if small { RETRY_SMALL } else { RETRY };
                let retry = retry.saturating_mul(1 << (torrent.vain - 1).min(10));
                torrent.due = torrent.due.min(seconds.saturating_add(retry));
                self.soonest = self.soonest.min(torrent.due);
            }
        }
    }

    /// The node that was not heard of for longest gives a sign of life, and tells of others.
    fn keep_up(&mut self, endpoints: &mut Bucket, now: Instant) -> Option<Output> {
        let seconds = self.seconds(now);
        if now < self.upkeep {
            return None;
        }
        let sides = self.sides.iter().filter(|side| side.enabled);
        let (due, contact) = sides.filter_map(|side| side.table.due()).min_by_key(|(due, _)| *due)?;
        if due > seconds || !self.may_send(contact.addr, endpoints, now) {
            return None;
        }
        self.upkeep = now + UPKEEP;
        self.side_mut(contact.addr).table.ask(contact.addr, seconds);
        let target = if self.random.below(2) == 0 { self.id } else { Id::by_chance(&mut self.random) };
        let query = Query::FindNode(target, self.want());
        Some(self.send(contact.addr, &query, Why::Upkeep, endpoints, now))
    }

    /// Where one table is small the other's nodes may know of some.
    fn want(&self) -> Want {
        let both = self.sides.iter().all(|side| side.enabled) && self.sides.iter().any(Side::is_small);
        Want { v4: both, v6: both }
    }

    fn may_begin(&self, now: Instant) -> bool {
        let alive = self.sides.iter().filter(|side| side.is_alive()).count();
        !self.options.router
            && alive > 0
            && self.searches.len() + alive <= MAX_SEARCHES
            && self.searching.available(now) > 0
    }

    fn may_search(&mut self, to: SocketAddr, endpoints: &Bucket, now: Instant) -> bool {
        if self.searching.available(now) == 0 {
            self.block(self.searching.ready_at(1, now));
            return false;
        }
        let may = self.may_send(to, endpoints, now);
        if may {
            self.searching.take(1, now);
        }
        may
    }

    fn may_send(&mut self, to: SocketAddr, endpoints: &Bucket, now: Instant) -> bool {
        let seconds = self.seconds(now);
        if self.pending.len() >= MAX_PENDING || !self.sent.allows(to, seconds) {
            self.block(now + Duration::from_secs(1));
            return false;
        }
        if !self.sent.knows(to, seconds) && endpoints.available(now) == 0 {
            self.block(endpoints.ready_at(1, now));
            return false;
        }
        true
    }

    fn send(
        &mut self,
        to: SocketAddr,
        query: &Query,
        why: Why,
        endpoints: &mut Bucket,
        now: Instant,
    ) -> Output {
        let seconds = self.seconds(now);
        if !self.sent.knows(to, seconds) {
            endpoints.take(1, now);
        }
        self.sent.insert(to, seconds);
        self.transactions = self.transactions.wrapping_add(1);
        let transaction = self.secret(b"transaction", &self.transactions.to_be_bytes());
        self.pending.push(Pending { transaction, to, at: now, late: false, why });
        let body = Body::Query(self.id, query.clone());
        let message =
            Message { transaction: &transaction, read_only: self.options.read_only, ip: None, body };
        Output::Send { to, datagram: krpc::encode(&message) }
    }

    fn block(&mut self, until: Instant) {
        self.blocked = Some(self.blocked.map_or(until, |blocked| blocked.min(until)));
    }

    /// All that may come: always later than now.
    fn next_wake(&self, now: Instant) -> Option<Instant> {
        let at = |seconds: u32| self.start + Duration::from_secs(seconds.into());
        let pending = self.pending.iter().map(|pending| {
            let waits = matches!(pending.why, Why::Search(_)) && !pending.late;
            pending.at + if waits { LATE } else { TIMEOUT }
        });
        let enabled = || self.sides.iter().filter(|side| side.enabled);
        let candidates =
            self.contacts.iter().map(|candidate| candidate.addr).chain(self.rumours.iter().copied());
        let waits = candidates.filter(|addr| self.side(*addr).enabled).map(|_| self.upkeep).next();
        let due = enabled().filter_map(|side| side.table.due()).map(|(due, _)| at(due).max(self.upkeep));
        let looks = enabled().filter(|side| side.is_alive()).filter_map(|side| side.look);
        let begins = self.may_begin(now) && self.soonest < u32::MAX;
        let all = pending.chain(self.blocked).chain(waits).chain(due).chain(looks);
        let all = all.chain(begins.then(|| at(self.soonest)));
        // What could not be done now though it is due waits for something else; that is looked at once a second.
        let later = now + Duration::from_secs(1);
        all.map(|at| if at <= now { later } else { at }).min()
    }

    // Who we are, and whom we know.

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

    fn rumour(&mut self, addr: SocketAddr, now: Instant) {
        if self.rumours.len() < MAX_RUMOURS && self.is_news(addr, now) {
            self.rumours.push_back(addr);
        }
    }

    /// Nobody who is known, waits to be asked, or was asked just now.
    fn is_news(&self, addr: SocketAddr, now: Instant) -> bool {
        let addr = canonical(addr);
        let loopback = class(addr.ip()) == Class::Loopback;
        dialable(addr, loopback)
            && !self.side(addr).table.contains(addr)
            && !self.contacts.iter().any(|candidate| candidate.addr == addr)
            && !self.rumours.contains(&addr)
            && !self.pending.iter().any(|pending| pending.to == addr)
            && !self.sent.was_sent(addr, PING_AGAIN, self.seconds(now))
    }

    fn is_token(&self, token: &[u8], ip: IpAddr, seconds: u32) -> bool {
        let window = seconds / TOKEN;
        [window, window.saturating_sub(1)].iter().any(|&window| self.token(ip, window) == *token)
    }

    /// What only somebody at that address can know.
    fn token(&self, ip: IpAddr, window: u32) -> [u8; 4] {
        let ip = krpc::compact(SocketAddr::new(ip, 0));
        self.secret(b"token", &[&window.to_be_bytes()[..], &ip].concat())
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

    fn interval(&mut self, urgent: bool) -> u32 {
        let interval = if urgent { INTERVAL } else { INTERVAL_RARE };
        interval - self.random.up_to(interval / 10)
    }

    fn find(&self, info_hash: InfoHash) -> Result<usize, usize> {
        self.torrents.binary_search_by_key(info_hash.as_bytes(), |torrent| *torrent.info_hash.as_bytes())
    }

    fn side(&self, addr: SocketAddr) -> &Side {
        self.side_of(Family::of(addr.ip()))
    }

    fn side_of(&self, family: Family) -> &Side {
        &self.sides[usize::from(family == Family::V6)]
    }

    fn side_mut(&mut self, addr: SocketAddr) -> &mut Side {
        &mut self.sides[usize::from(Family::of(addr.ip()) == Family::V6)]
    }

    /// Since the start.
    fn seconds(&self, now: Instant) -> u32 {
        u32::try_from(now.saturating_duration_since(self.start).as_secs()).unwrap_or(u32::MAX)
    }
}

fn number(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

/// IPv4 in its own clothes.
fn canonical(addr: SocketAddr) -> SocketAddr {
    match addr.ip().to_canonical() {
        IpAddr::V4(v4) => (v4, addr.port()).into(),
        IpAddr::V6(_) => addr,
    }
}

/// Whether somebody there can do anything with an address of ours.
fn means_something(addr: SocketAddr, to: SocketAddr) -> bool {
    let scope = |addr: SocketAddr| if let SocketAddr::V6(v6) = addr { v6.scope_id() } else { 0 };
    match class(addr.ip()) {
        Class::Loopback => class(to.ip()) == Class::Loopback,
        Class::Link => class(to.ip()) == Class::Link && scope(addr) == scope(to),
        _ => true,
    }
}

/// An address that somebody named, as it is from here; `None` where it leads nowhere.
fn as_named(addr: SocketAddr, by: SocketAddr) -> Option<SocketAddr> {
    let addr = match (canonical(addr), by) {
        (SocketAddr::V6(v6), SocketAddr::V6(by)) if class(addr.ip()) == Class::Link => {
            SocketAddrV6::new(*v6.ip(), v6.port(), 0, by.scope_id()).into()
        }
        (addr, _) => addr,
    };
    dialable(addr, class(by.ip()) == Class::Loopback).then_some(addr)
}

//! The DHT: peers without a tracker, found through nodes that each know a few others.
//!
//! Read first: BEP 5, then 32 (a table a family), 42 (ids made of addresses), 43 (read-only).

pub mod id;
pub mod krpc;
mod saved;
mod table;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::metainfo::InfoHash;
use crate::net::Family;
use crate::random::Random;
use crate::rate::Bucket;
use id::Id;
use krpc::{Body, Message, Query, Reply};
pub use saved::{MAX_SAVED, Saved};
use table::Table;

/// Addresses that wait for a ping.
const MAX_CONTACTS: usize = 64;

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
    /// All nodes.
    pub known: u32,
    /// Searches going on.
    pub searches: u32,
    /// Peers of others' torrents that we remember.
    pub stored: u32,
}

/// One node, in both families.
#[derive(Debug)]
pub struct Node {
    options: Options,
    id: Id,
    tables: [Table; 2],
    enabled: [bool; 2],
    contacts: VecDeque<SocketAddr>,
    torrents: Vec<(InfoHash, u16)>,
    pending: Vec<(u32, SocketAddr, Instant)>,
    ready: VecDeque<Output>,
    random: Random,
    start: Instant,
    blocked: Option<Instant>,
}

fn index(addr: SocketAddr) -> usize {
    usize::from(Family::of(addr.ip()) == Family::V6)
}

impl Node {
    /// Knows nobody and no torrent; sends nothing before [`Node::set_families`]. `seed` is not to be guessed by others:
    /// tokens and transaction ids are made of it.
    pub fn new(options: Options, id: [u8; 20], seed: u64, now: Instant) -> Node {
        let id = Id(id);
        Node {
            options,
            id,
            tables: [Table::new(id), Table::new(id)],
            enabled: [false; 2],
            contacts: VecDeque::new(),
            torrents: Vec::new(),
            pending: Vec::new(),
            ready: VecDeque::new(),
            random: Random::new(seed),
            start: now,
            blocked: None,
        }
    }

    /// Takes part in another way from now on.
    pub fn apply(&mut self, options: Options) {
        self.options = options;
    }

    /// In which families datagrams can be sent at all.
    pub fn set_families(&mut self, v4: bool, v6: bool, _now: Instant) {
        self.enabled = [v4, v6];
    }

    /// There may be a node: one that a peer, a torrent, a neighbour, the configuration or an earlier run named. It is
    /// pinged when the budget allows.
    pub fn contact(&mut self, addr: SocketAddr, _now: Instant) {
        if self.contacts.len() < MAX_CONTACTS && !self.contacts.contains(&addr) {
            self.contacts.push_back(addr);
        }
    }

    /// Next to nobody is known, and nobody is left to be tried: whoever has other ways to find nodes may use them.
    pub fn needs_contacts(&self, _now: Instant) -> bool {
        self.contacts.is_empty() && self.counts().nodes < 8
    }

    /// Searches and announces a public torrent from now on, soon and often where it is urgent: without a tracker, or
    /// fetching without peers.
    pub fn insert(&mut self, info_hash: InfoHash, port: u16, _urgent: bool, _now: Instant) {
        self.remove(info_hash);
        self.torrents.push((info_hash, port));
    }

    /// It is not served any more.
    pub fn remove(&mut self, info_hash: InfoHash) {
        self.torrents.retain(|(known, _)| *known != info_hash);
    }

    /// A datagram came.
    pub fn handle(&mut self, datagram: &[u8], from: SocketAddr, now: Instant) {
        let Some(message) = krpc::decode(datagram) else { return };
        match message.body {
            Body::Query(_, Query::Ping) if !self.options.read_only => {
                let body = Body::Reply(Reply::new(self.id));
                let transaction = message.transaction;
                let datagram = krpc::encode(&Message { transaction, read_only: false, ip: Some(from), body });
                self.ready.push_back(Output::Send { to: from, datagram });
            }
            Body::Reply(reply) => {
                let known = |(tid, to, _): &(u32, SocketAddr, Instant)| {
                    *to == from && tid.to_be_bytes() == *message.transaction
                };
                if let Some(at) = self.pending.iter().position(known) {
                    self.pending.swap_remove(at);
                    let seconds = now.saturating_duration_since(self.start).as_secs();
                    let seconds = u32::try_from(seconds).unwrap_or(u32::MAX);
                    self.tables[index(from)].answered(reply.id, from, seconds);
                }
            }
            _ => {}
        }
    }

    /// The next thing to do. `endpoints` has a token for each address that was not sent to in the last minutes.
    pub fn poll(&mut self, endpoints: &mut Bucket, now: Instant) -> Option<Output> {
        if let Some(output) = self.ready.pop_front() {
            return Some(output);
        }
        self.pending.retain(|(.., at)| now.saturating_duration_since(*at) < Duration::from_secs(6));
        self.blocked = None;
        let at = self.contacts.iter().position(|addr| self.enabled[index(*addr)])?;
        if endpoints.available(now) == 0 {
            self.blocked = Some(endpoints.ready_at(1, now));
            return None;
        }
        endpoints.take(1, now);
        let to = self.contacts.remove(at)?;
        let tid = self.random.up_to(u32::MAX);
        self.pending.push((tid, to, now));
        let transaction = &tid.to_be_bytes();
        let body = Body::Query(self.id, Query::Ping);
        let message = Message { transaction, read_only: self.options.read_only, ip: None, body };
        Some(Output::Send { to, datagram: krpc::encode(&message) })
    }

    /// When [`Node::poll`] may have something.
    pub fn deadline(&self) -> Option<Instant> {
        if self.contacts.is_empty() && self.ready.is_empty() {
            None
        } else {
            self.blocked.or(Some(self.start))
        }
    }

    /// What is to be remembered over a restart.
    pub fn saved(&self) -> Saved {
        let nodes = |table: &Table| {
            let nodes = table.nearest(self.id, MAX_SAVED, |contact| contact.is_good());
            nodes.into_iter().map(|contact| contact.addr).collect::<Vec<_>>()
        };
        Saved { id: self.id.0, nodes: self.tables.iter().flat_map(nodes).collect() }
    }

    /// How it goes.
    pub fn counts(&self) -> Counts {
        let sum = |count: fn(&Table) -> usize| {
            u32::try_from(self.tables.iter().map(count).sum::<usize>()).unwrap_or(u32::MAX)
        };
        Counts { nodes: sum(Table::good), known: sum(|table| table.contacts().len()), ..Counts::default() }
    }

    /// Bytes that it holds beside itself.
    pub fn memory(&self) -> usize {
        self.tables.iter().map(Table::memory).sum()
    }
}

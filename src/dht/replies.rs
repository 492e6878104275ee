//! What becomes of a query: an answer, or silence.
//!
//! Read first: BEP 5. An answer counts if it comes from where the query went and repeats its transaction id. Holds nothing.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::id::Id;
use super::krpc::Reply;
use super::reach::as_named;
use super::search::Goal;
use super::{Candidate, LATE, MAX_CONTACTS, Node, Output, Pending, Rumour, TIMEOUT, Why, number};
use crate::metainfo::InfoHash;
use crate::net::{Family, Host};

/// Gathers nodes that come together before they are asked for others.
pub(super) const LOOK: Duration = Duration::from_millis(700);
/// Seconds after which torrents are searched again when a node has come to a small table: one that found nobody before,
/// and one that did. More where there are many.
const NEWS: u32 = 2;
const NEWS_RARE: u32 = 60;

impl Node {
    pub(super) fn take_pending(&mut self, transaction: &[u8], from: SocketAddr) -> Option<Pending> {
        let is_it = |pending: &Pending| pending.transaction == *transaction && pending.to == from;
        let at = self.pending.iter().position(is_it)?;
        Some(self.pending.swap_remove(at))
    }

    pub(super) fn answered(&mut self, pending: &Pending, reply: Reply, ip: Option<SocketAddr>, now: Instant) {
        let (from, seconds) = (pending.to, self.seconds(now));
        if reply.id == self.id {
            // Ourselves, by another address.
            return self.unanswered(pending, true, now);
        }
        if let Some(ip) = ip {
            self.side_mut(from).votes.insert(from.host(), ip.host());
            self.suit(now);
        }
        let is_outside = matches!(pending.why, Why::Contact { .. });
        if self.side_mut(from).table.answered(reply.id, from, seconds) {
            self.has_come(from, is_outside, now);
        }
        let named = |addr: &SocketAddr| as_named(*addr, from);
        // Those whom we ask know us, and name us.
        let others = reply.nodes.iter().filter(|(id, _)| *id != self.id);
        let nodes: Vec<(Id, SocketAddr)> =
            others.filter_map(|(id, addr)| Some((*id, named(addr)?))).collect();
        if let Why::Search(number) = pending.why {
            let family = Family::of(from.host());
            let of_family: Vec<_> =
                nodes.iter().copied().filter(|(_, addr)| Family::of(addr.host()) == family).collect();
            if let Some(search) = self.searches.iter_mut().find(|search| search.number == number) {
                search.answered(from, reply.id, reply.token, &of_family);
                if let Goal::Peers(info_hash, port) = search.goal {
                    let own = self.side(from).votes.seen();
                    let ours = |peer: &SocketAddr| Some(peer.host()) == own && peer.port() == port;
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
                self.rumour(Rumour { addr, has_asked: false }, now);
            }
        }
    }

    pub(super) fn found(&mut self, number: u32, info_hash: InfoHash, peers: Vec<SocketAddr>) {
        if peers.is_empty() {
            return;
        }
        if let Some(search) = self.searches.iter_mut().find(|search| search.number == number) {
            search.peers += peers.len();
        }
        self.ready.push_back(Output::Peers { info_hash, peers });
    }

    /// A node is new in its table, or the first to answer again.
    fn has_come(&mut self, addr: SocketAddr, is_outside: bool, now: Instant) {
        let side = self.side_mut(addr);
        let small = side.is_small();
        if small || is_outside {
            side.look_by(now + LOOK);
        }
        if !small {
            return;
        }
        let (seconds, gap) = (self.seconds(now), number(self.torrents.len()));
        for torrent in self.torrents.iter_mut().filter(|torrent| torrent.urgent) {
            let wait = if torrent.vain > 0 { NEWS.max(gap / 2) } else { NEWS_RARE.max(gap) };
            torrent.due = torrent.due.min(seconds + wait);
            self.soonest = self.soonest.min(torrent.due);
        }
    }

    /// `excused`: it is not the node's fault.
    pub(super) fn unanswered(&mut self, pending: &Pending, excused: bool, now: Instant) {
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
                self.contacts.push(Candidate { addr: pending.to, again: true });
                self.wake = Some(now);
            }
            Why::Contact { .. } | Why::Rumour | Why::Upkeep | Why::Announce => {}
        }
    }

    /// Queries whose time is over.
    pub(super) fn expire(&mut self, now: Instant) {
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
}

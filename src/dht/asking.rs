//! What is asked of other nodes, and when: pings, searches, upkeep.
//!
//! Read first: BEP 5. Pings and upkeep share one clock, but for a node that knows next to nobody; searches share a bucket, and
//! torrents take their turns at it. No address is asked more than `limits` says. Holds nothing.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::id::Id;
use super::krpc::{self, Body, Message, Query, Want};
use super::search::{Goal, Search, Step};
use super::table::Contact;
use super::{Candidate, INTERVAL_RARE, LATE, Node, Output, Pending, Side, TIMEOUT, Why, number};
use crate::rate::Bucket;

/// Searches at a time.
const MAX_SEARCHES: usize = 6;
/// Queries on their way, of all kinds.
const MAX_PENDING: usize = 64;
/// Between two datagrams of upkeep: six a minute.
const UPKEEP: Duration = Duration::from_secs(10);
/// Seconds between two searches for an urgent torrent: other nodes forget after half an hour.
const INTERVAL: u32 = 15 * 60;
/// Seconds before an urgent one that found nobody is searched again, in a small table and in others; twice as many each
/// time, and one for each torrent that we have: of many, none is in a hurry.
const RETRY_SMALL: u32 = 8;
const RETRY: u32 = 60;

impl Node {
    /// Addresses that somebody outside named are pinged at once where next to nobody is known.
    pub(super) fn ping(&mut self, endpoints: &mut Bucket, now: Instant) -> Option<Output> {
        let at = self.contacts.iter().position(|candidate| {
            let side = self.side(candidate.addr);
            side.enabled && side.is_small()
        })?;
        self.ping_contact(at, endpoints, now)
    }

    /// The same of those that nodes named, or that asked us: anybody can be that, so searches go first.
    pub(super) fn ping_rumoured(&mut self, endpoints: &mut Bucket, now: Instant) -> Option<Output> {
        let at = self.rumours.iter().position(|rumour| {
            let side = self.side(rumour.addr);
            // A family in which nobody answers and nobody asks may be one in which nobody can.
            side.enabled && side.is_small() && (side.is_alive() || rumour.has_asked)
        })?;
        self.ping_rumour(at, endpoints, now)
    }

    fn ping_contact(&mut self, at: usize, endpoints: &mut Bucket, now: Instant) -> Option<Output> {
        let Candidate { addr, again } = self.contacts[at];
        let ping = self.ping_one(addr, Why::Contact { again }, endpoints, now)?;
        self.contacts.remove(at);
        Some(ping)
    }

    fn ping_rumour(&mut self, at: usize, endpoints: &mut Bucket, now: Instant) -> Option<Output> {
        let ping = self.ping_one(self.rumours[at].addr, Why::Rumour, endpoints, now)?;
        self.rumours.remove(at);
        Some(ping)
    }

    fn ping_one(
        &mut self,
        addr: SocketAddr,
        why: Why,
        endpoints: &mut Bucket,
        now: Instant,
    ) -> Option<Output> {
        if !self.may_send(addr, endpoints, now) {
            return None;
        }
        Some(self.send(addr, &Query::Ping, why, endpoints, now))
    }

    /// Searches go on, end and begin.
    pub(super) fn search(&mut self, endpoints: &mut Bucket, now: Instant) -> Option<Output> {
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
        while self.has_room() && self.searching.available(now) > 0 && self.soonest <= seconds {
            let torrents = self.torrents.iter().enumerate();
            let due = torrents.filter(|(_, torrent)| torrent.due <= seconds);
            let Some((at, _)) = due.min_by_key(|(_, torrent)| torrent.turn()) else {
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
        let gap = number(self.torrents.len());
        let other = self.searches.iter_mut().find(|other| other.goal == search.goal);
        let more = other.is_some();
        if let Some(other) = other {
            // Whoever was found over one family need not be sought over the other.
            other.peers += search.peers;
        }
        if let Ok(at) = self.find(info_hash) {
            let torrent = &mut self.torrents[at];
            if search.peers > 0 {
                torrent.vain = 0;
            } else if torrent.urgent && !more {
                torrent.vain = torrent.vain.saturating_add(1);
                let retry = if small { RETRY_SMALL } else { RETRY };
                let retry = retry.saturating_mul(1 << (torrent.vain - 1).min(10)).max(gap);
                torrent.due = torrent.due.min(seconds.saturating_add(retry));
                self.soonest = self.soonest.min(torrent.due);
            }
        }
    }

    /// By turns one that was only named or heard of is pinged, and one that was not heard of for longest gives a sign of life.
    pub(super) fn keep_up(&mut self, endpoints: &mut Bucket, now: Instant) -> Option<Output> {
        if now < self.upkeep {
            return None;
        }
        let output = self.keep_one_up(endpoints, now)?;
        self.upkeep = now + UPKEEP;
        Some(output)
    }

    fn keep_one_up(&mut self, endpoints: &mut Bucket, now: Instant) -> Option<Output> {
        let due = self.next_due().filter(|(due, _)| *due <= self.seconds(now));
        if let Some((_, contact)) = due.filter(|_| self.transactions.is_multiple_of(2)) {
            return self.ask_after(contact.addr, endpoints, now);
        }
        if let Some(at) = self.contacts.iter().position(|contact| self.side(contact.addr).enabled) {
            return self.ping_contact(at, endpoints, now);
        }
        if let Some(at) = self.rumours.iter().position(|rumour| self.side(rumour.addr).enabled) {
            return self.ping_rumour(at, endpoints, now);
        }
        due.and_then(|(_, contact)| self.ask_after(contact.addr, endpoints, now))
    }

    fn ask_after(&mut self, addr: SocketAddr, endpoints: &mut Bucket, now: Instant) -> Option<Output> {
        if !self.may_send(addr, endpoints, now) {
            return None;
        }
        let seconds = self.seconds(now);
        self.side_mut(addr).table.ask(addr, seconds);
        let target = if self.random.below(2) == 0 { self.id } else { Id::by_chance(&mut self.random) };
        let query = Query::FindNode(target, self.want());
        Some(self.send(addr, &query, Why::Upkeep, endpoints, now))
    }

    /// Whom we have not heard of for longest, and when it is to be asked, in seconds.
    fn next_due(&self) -> Option<(u32, Contact)> {
        let sides = self.sides.iter().filter(|side| side.enabled);
        sides.filter_map(|side| side.table.due()).min_by_key(|(due, _)| *due)
    }

    /// Where one table is small the other's nodes may know of some.
    fn want(&self) -> Want {
        let both = self.sides.iter().all(|side| side.enabled) && self.sides.iter().any(Side::is_small);
        Want { v4: both, v6: both }
    }

    /// Another torrent could be searched.
    fn has_room(&self) -> bool {
        let alive = self.sides.iter().filter(|side| side.is_alive()).count();
        !self.options.router && alive > 0 && self.searches.len() + alive <= MAX_SEARCHES
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

    fn interval(&mut self, urgent: bool) -> u32 {
        let interval = if urgent { INTERVAL } else { INTERVAL_RARE };
        interval - self.random.up_to(interval / 10)
    }

    /// All that may come: always later than now.
    pub(super) fn next_wake(&self, now: Instant) -> Option<Instant> {
        let at = |seconds: u32| self.start + Duration::from_secs(seconds.into());
        let pending = self.pending.iter().map(|pending| {
            let waits = matches!(pending.why, Why::Search(_)) && !pending.late;
            pending.at + if waits { LATE } else { TIMEOUT }
        });
        let enabled = || self.sides.iter().filter(|side| side.enabled);
        let candidates = self
            .contacts
            .iter()
            .map(|candidate| candidate.addr)
            .chain(self.rumours.iter().map(|rumour| rumour.addr));
        let waits = candidates.filter(|addr| self.side(*addr).enabled).map(|_| self.upkeep).next();
        let due = self.next_due().map(|(due, _)| at(due).max(self.upkeep));
        let looks = enabled().filter(|side| side.is_alive()).filter_map(|side| side.look);
        let begins = self.has_room() && self.soonest < u32::MAX;
        let begins = begins.then(|| at(self.soonest).max(self.searching.ready_at(1, now)));
        let all = pending.chain(self.blocked).chain(waits).chain(due).chain(looks);
        let all = all.chain(begins);
        // What could not be done now though it is due waits for something else; that is looked at once a second.
        let later = now + Duration::from_secs(1);
        all.map(|at| if at <= now { later } else { at }).min()
    }
}

//! Addresses that may be dialled: one bounded pool for all torrents, the order in which they are tried, and those that
//! are not to be dealt with at all.
//!
//! Read first: BEP 40 (canonical peer priority), whose order, shared by both ends, makes a swarm's connections spread.
//! Before it comes who is near, for a mesh is there to keep bytes near, whom the user named, and who has not failed yet.
//! Omits dialling, and remembering who connected to us: only we know from which port.
//! Holds 32 bytes an address, at most [`MAX_ENTRIES`] of them, and at most [`MAX_BANNED`] banned ones.

use std::cmp::Reverse;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::time::{Duration, Instant};

use crate::list::{Gather, Keep};
use crate::net::{self, Canonical, Host, Prefix, crc32c, plain};
use crate::random::Random;

/// Addresses in all, 64 KiB: at five dials a second that is work for more than six minutes, and trackers will name
/// others sooner.
pub const MAX_ENTRIES: usize = 2000;

/// Addresses of one torrent: as many as trackers name at once, and more than it may connect to.
pub const MAX_PER_TORRENT: usize = 50;

/// Addresses that a torrent may bring into a full pool: with a thousand torrents each still gets a few in, and none
/// drives out all the others.
const MAX_WHEN_FULL: usize = 8;

/// Addresses that are looked at of what was named at once: a reply of a mebibyte could name 170,000.
const MAX_NAMED: usize = 1000;

/// Failures in a row after which an address is dropped. Until then it is kept, so that a tracker that goes on naming it
/// costs us no more than five dials in two and a half hours.
const MAX_FAILURES: u8 = 5;

/// Attempts after which one that the user named is tried no less often: it is never dropped.
const STATIC_FAILURES: u8 = 3;

/// Banned addresses, 3 KiB; the first that was banned is forgotten for another.
pub const MAX_BANNED: usize = 128;

/// Seconds after which a ban is forgotten: the address may be somebody else's by then.
const BAN_TIME: u32 = 24 * 3600;

/// Entries looked at to find the one that makes room.
const SAMPLE: usize = 8;

/// Seconds before the second attempt; each later one waits five times as long (1, 5, 25, 125 minutes).
const FIRST_RETRY: u32 = 60;

/// Seconds before somebody is dialled again who was connected and left.
const AGAIN: u32 = 300;

/// Seconds before somebody is whom we had to part from.
const SOON: u32 = 5;

/// Seconds before a seed is: it may have taken on a torrent anew, but hardly.
const SEED_AGAIN: u32 = 2 * 3600;

/// Who named an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// A tracker somewhere on a network.
    Remote,
    /// A peer: who says much costs nothing, so such addresses are dialled after all others, and drive out none of them. Those
    /// on this machine are taken, so the caller leaves out what this peer may not name.
    Peer,
    /// Something on this machine: it may name others on this machine.
    Loopback,
    /// The user. As the former, but dialled before others that are as near, never dropped, and gives way to no other as
    /// long as half of the pool is left to those.
    Static,
    /// A neighbour itself, heard on one of our links: on it, whatever its address looks like, and dialled before others
    /// that are as near.
    Neighbour,
}

/// How a dial, or the connection it led to, ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// No connection, or none that came to anything: refused, timed out, no handshake.
    Failed,
    /// It was a peer, and the connection was closed, by whomever.
    Closed,
    /// It was a peer, and is to be called again soon: we closed as our torrent was stopped or had lost pieces that we had
    /// told of, or it gave us of what we fetch.
    Stopped,
    /// It has everything already.
    Seed,
    /// It sent what was not right: nobody at its address is dealt with any more.
    Liar,
}

/// All torrents' addresses.
#[derive(Debug)]
pub struct Candidates {
    entries: Vec<Entry>,
    /// Where we listen, as far as we know: never dialled, and what BEP 40 reckons from.
    own: Vec<SocketAddr>,
    /// The prefixes of our own links and of the configuration.
    local: Vec<Prefix>,
    /// Those that nobody deals with, and until when, in seconds. In the order in which they were banned.
    banned: Vec<(IpAddr, u32)>,
    /// Seconds in entries count from here.
    start: Instant,
    /// What [`Candidates::deadline`] says: no entry falls due before it. Seconds; `None` where nothing waits.
    due: Option<u32>,
    random: Random,
}

/// Multiplied by two thousand: see the test of its size.
#[derive(Clone, Copy, Debug)]
struct Entry {
    /// IPv4 in IPv6 clothes; the scope of a link-local address stands in its bytes 4 to 7, which are zero on every
    /// link (RFC 4291, 2.5.6).
    ip: [u8; 16],
    torrent: u32,
    /// Not to be dialled before, in seconds.
    retry: u32,
    /// BEP 40; the higher the sooner.
    priority: u32,
    port: u16,
    /// In a row.
    failures: u8,
    marks: Marks,
}

/// What else an entry is, in one byte: how near, and the four bits below.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Marks(u8);

/// It is being dialled or connected.
const BUSY: u8 = 0x80;
/// The user named it.
const STATIC: u8 = 0x40;
/// It was heard on a link of ours.
const NEIGHBOUR: u8 = 0x20;
/// Nobody named it but peers.
const HEARSAY: u8 = 0x10;
/// All of these: what is left says how near it is.
const BITS: u8 = BUSY | STATIC | NEIGHBOUR | HEARSAY;

/// How near an address is, as far as the address tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
enum Near {
    /// Somewhere.
    Far,
    /// In the same /16 (IPv4) or /48 (IPv6) as one of ours.
    Region,
    /// In the same /24 or /64.
    Site,
    /// In a prefix that counts as local.
    Local,
    /// On one of our own links.
    Link,
}

impl Candidates {
    /// No addresses. The same seed makes the same choices.
    pub fn new(seed: u64, now: Instant) -> Candidates {
        Candidates {
            entries: Vec::new(),
            own: Vec::new(),
            local: Vec::new(),
            banned: Vec::new(),
            start: now,
            due: None,
            random: Random::new(seed),
        }
    }

    /// Tells where we listen (every address of ours that is known, with its port) and what counts as local, the prefixes
    /// of our links among it. What is known already is judged anew.
    pub fn set_here(&mut self, own: Vec<SocketAddr>, local: Vec<Prefix>) {
        (self.own, self.local) = (own, local);
        let mut entries = std::mem::take(&mut self.entries);
        entries.keep(|entry| entry.marks.has(BUSY) || !self.is_own(entry.address()));
        for entry in &mut entries {
            let address = entry.address();
            entry.priority = self.priority(address);
            entry.marks = entry.marks.at(self.near(address.host()));
        }
        self.entries = entries;
    }

    /// Those that the user named so far are as others from now on.
    pub fn forget_static(&mut self) {
        self.entries.iter_mut().for_each(|entry| entry.marks = entry.marks.without(STATIC));
    }

    /// Deals with nobody at an address any more: it is not dialled, and not taken where it is named.
    pub fn ban(&mut self, ip: IpAddr, now: Instant) {
        let (ip, now) = (ip.canonical(), self.seconds(now));
        self.banned.keep(|(banned, until)| *banned != ip && *until > now);
        if self.banned.len() >= MAX_BANNED {
            self.banned.remove(0);
        }
        self.banned.push((ip, now.saturating_add(BAN_TIME)));
        // What is busy goes when it ends.
        self.entries.keep(|entry| entry.marks.has(BUSY) || entry.address().host() != ip);
    }

    /// Whether nobody at that address is to be dealt with.
    pub fn is_banned(&self, ip: IpAddr) -> bool {
        !self.banned.is_empty() && self.banned.iter().any(|(banned, _)| *banned == ip.canonical())
    }

    /// Takes addresses that somebody named for a torrent. Those that lead nowhere or to ourselves are dropped; above the
    /// bounds it is left to chance who stays.
    pub fn insert(
        &mut self,
        torrent: u32,
        addresses: impl IntoIterator<Item = SocketAddr>,
        source: Source,
        now: Instant,
    ) {
        self.insert_each(torrent, &mut addresses.into_iter().take(MAX_NAMED), source, now);
    }

    fn insert_each(
        &mut self,
        torrent: u32,
        addresses: &mut dyn Iterator<Item = SocketAddr>,
        source: Source,
        now: Instant,
    ) {
        let now = self.seconds(now);
        let named = match source {
            Source::Static => STATIC,
            Source::Neighbour => NEIGHBOUR,
            Source::Peer => HEARSAY,
            Source::Remote | Source::Loopback => 0,
        };
        let static_stay = self.entries.len() < MAX_ENTRIES
            || self.entries.iter().filter(|entry| entry.marks.has(STATIC)).count() <= MAX_ENTRIES / 2;
        let may_go = |entry: &Entry| match source {
            Source::Peer => entry.marks.has(HEARSAY),
            _ => !static_stay || !entry.marks.has(STATIC),
        };
        let mut known: Vec<usize> = self.of(torrent).gather();
        for address in addresses {
            let address = canonical(address);
            let (ip, port) = pack(address);
            let is_this = |&at: &usize| self.entries[at].ip == ip && self.entries[at].port == port;
            if let Some(at) = known.iter().copied().find(is_this) {
                let entry = &mut self.entries[at];
                if source != Source::Peer {
                    entry.marks = entry.marks.without(HEARSAY);
                    entry.marks.0 |= named;
                }
                // Heard this moment, it is alive: no waiting for the next attempt, short of the last.
                let is_alive = source == Source::Neighbour && entry.failures + 1 < MAX_FAILURES;
                if is_alive && entry.failures > 0 && !entry.marks.has(BUSY) {
                    entry.retry = entry.retry.min(now);
                    self.due = Some(self.due.map_or(now, |due| due.min(now)));
                }
                continue;
            }
            let nowhere = !net::dialable(address, source != Source::Remote);
            if nowhere || self.is_own(address) || self.is_banned(address.host()) {
                continue;
            }
            let entry = Entry {
                ip,
                torrent,
                retry: now,
                priority: self.priority(address),
                port,
                failures: 0,
                marks: Marks(named).at(self.near(address.host())),
            };
            let most = if self.entries.len() < MAX_ENTRIES { MAX_PER_TORRENT } else { MAX_WHEN_FULL };
            if known.len() >= most {
                if let Some(victim) = self.victim(may_go, Some(&known)) {
                    self.entries[victim] = entry;
                }
            } else if self.entries.len() < MAX_ENTRIES {
                known.push(self.entries.len());
                self.push(entry);
            } else if let Some(victim) = self.victim(|entry| entry.torrent != torrent && may_go(entry), None)
            {
                known.push(victim);
                self.entries[victim] = entry;
            }
            self.due = Some(self.due.map_or(now, |due| due.min(now)));
        }
    }

    /// The address to dial next, which is busy from now on: tell how it ended. `wants` says whether a torrent has room
    /// for another peer, and this one; when it says yes again after a no, ask again without waiting for the deadline.
    pub fn next(
        &mut self,
        now: Instant,
        wants: impl Fn(u32, SocketAddr) -> bool,
    ) -> Option<(u32, SocketAddr)> {
        let now = self.seconds(now);
        self.banned.keep(|(_, until)| *until > now);
        let mut best: Option<(usize, _)> = None;
        let mut due = None;
        for (at, entry) in self.entries.iter().enumerate() {
            if entry.marks.has(BUSY) {
                continue;
            }
            if entry.retry > now {
                due = Some(due.map_or(entry.retry, |due: u32| due.min(entry.retry)));
                continue;
            }
            let marks = entry.marks;
            let rank = (
                !marks.has(HEARSAY),
                marks.near(),
                marks.has(STATIC),
                marks.has(NEIGHBOUR),
                u8::MAX - entry.failures,
                entry.priority,
            );
            if best.is_none_or(|(_, best)| rank > best) && wants(entry.torrent, entry.address()) {
                best = Some((at, rank));
            }
        }
        let Some((at, _)) = best else {
            self.due = due;
            return None;
        };
        // There may be more that can be dialled at once.
        self.due = Some(now);
        let entry = &mut self.entries[at];
        entry.marks.0 |= BUSY;
        Some((entry.torrent, entry.address()))
    }

    /// Tells how a dial that [`Candidates::next`] gave out ended; an address that is not known is nothing to us.
    pub fn ended(&mut self, torrent: u32, address: SocketAddr, how: Ended, now: Instant) {
        if how == Ended::Liar {
            self.ban(address.host(), now);
        }
        let now = self.seconds(now);
        let Some(at) = self.position(torrent, address) else { return };
        if self.is_banned(address.host()) {
            self.entries.swap_remove(at);
            return;
        }
        let spread = u32::try_from(self.random.below(64)).unwrap_or(0);
        let entry = &mut self.entries[at];
        entry.marks = entry.marks.without(BUSY);
        let wait = match how {
            Ended::Failed => {
                entry.failures += 1;
                if entry.marks.has(STATIC) {
                    entry.failures = entry.failures.min(STATIC_FAILURES);
                } else if entry.failures >= MAX_FAILURES {
                    self.entries.swap_remove(at);
                    return;
                }
                FIRST_RETRY * 5_u32.pow(u32::from(entry.failures) - 1)
            }
            Ended::Closed | Ended::Liar => {
                entry.failures = 0;
                AGAIN
            }
            Ended::Stopped => {
                entry.failures = 0;
                SOON
            }
            Ended::Seed => {
                // The first to go when room is needed.
                entry.failures = MAX_FAILURES - 1;
                SEED_AGAIN
            }
        };
        // A quarter more at most, so that a switch that comes back is not met by everybody at once.
        entry.retry = now.saturating_add(wait + wait * spread / 256);
        let retry = entry.retry;
        self.due = Some(self.due.map_or(retry, |due| due.min(retry)));
    }

    /// Marks an address as connected that was not dialled: the peer came to us and said where it listens. Without
    /// effect where it is not known.
    pub fn connected(&mut self, torrent: u32, address: SocketAddr) {
        if let Some(at) = self.position(torrent, address) {
            self.entries[at].marks = self.entries[at].marks.without(HEARSAY);
            self.entries[at].marks.0 |= BUSY;
        }
    }

    /// Forgets a torrent's addresses.
    pub fn remove(&mut self, torrent: u32) {
        self.entries.keep(|entry| entry.torrent != torrent);
        if self.entries.is_empty() {
            self.entries = Vec::new();
            self.due = None;
        }
    }

    /// When [`Candidates::next`] may have something that it had not: not before this. `None` until something is
    /// inserted or ends.
    pub fn deadline(&self) -> Option<Instant> {
        self.due.map(|due| self.start + Duration::from_secs(u64::from(due)))
    }

    /// Addresses known, busy ones included.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether no address is known.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Addresses known of one torrent, for its status.
    pub fn count(&self, torrent: u32) -> usize {
        self.of(torrent).count()
    }

    fn of(&self, torrent: u32) -> impl Iterator<Item = usize> + '_ {
        let entries = self.entries.iter().enumerate();
        entries.filter(move |(_, entry)| entry.torrent == torrent).map(|(at, _)| at)
    }

    fn position(&self, torrent: u32, address: SocketAddr) -> Option<usize> {
        let (ip, port) = pack(canonical(address));
        self.entries.iter().position(|entry| entry.torrent == torrent && entry.port == port && entry.ip == ip)
    }

    /// Grows by an eighth: doubling would hold up to twice the bound.
    fn push(&mut self, entry: Entry) {
        if self.entries.len() == self.entries.capacity() {
            let more = (self.entries.len() / 8).max(8).min(MAX_ENTRIES - self.entries.len());
            self.entries.reserve_exact(more);
        }
        self.entries.push(entry);
    }

    /// Of a few entries picked by chance, from `among` or from all, one that only peers named, the one that failed most, of
    /// those the farthest. Never one that is busy.
    fn victim(&mut self, may_go: impl Fn(&Entry) -> bool, among: Option<&[usize]>) -> Option<usize> {
        let picked = (0..SAMPLE).map(|_| match among {
            Some(among) => among[self.random.below(among.len())],
            None => self.random.below(self.entries.len()),
        });
        let entries = &self.entries;
        picked.filter(|&at| !entries[at].marks.has(BUSY) && may_go(&entries[at])).max_by_key(|&at| {
            (entries[at].marks.has(HEARSAY), entries[at].failures, Reverse(entries[at].marks.near()))
        })
    }

    fn is_own(&self, address: SocketAddr) -> bool {
        self.own.iter().any(|own| canonical(*own).host() == address.host() && own.port() == address.port())
    }

    /// Of the prefixes that count as local, the narrowest that holds an address of ours is that of a link.
    fn near(&self, ip: IpAddr) -> Near {
        let holding = |ip: IpAddr| {
            let prefixes = self.local.iter().filter(move |prefix| prefix.contains(ip));
            prefixes.max_by_key(|prefix| prefix.bits())
        };
        let own = || self.own.iter().map(|own| own.host());
        let same = |v4, v6| {
            let bits = if ip.is_ipv4() { v4 } else { v6 };
            Prefix::new(ip, bits).is_some_and(|prefix| own().any(|own| prefix.contains(own)))
        };
        match () {
            () if net::class(ip) == net::Class::Link => Near::Link,
            () if own().filter_map(holding).any(|prefix| prefix.contains(ip)) => Near::Link,
            () if holding(ip).is_some() => Near::Local,
            () if same(24, 64) => Near::Site,
            () if same(16, 48) => Near::Region,
            () => Near::Far,
        }
    }

    /// BEP 40 from the first address of ours of the same family and, if there are several, of the same class: a peer on
    /// the Internet does not see our private one. Where none is known it is left to the hash of the peer's alone.
    fn priority(&self, peer: SocketAddr) -> u32 {
        let same_family = |own: &&SocketAddr| canonical(**own).is_ipv4() == peer.is_ipv4();
        let own = self
            .own
            .iter()
            .filter(same_family)
            .find(|own| net::class(own.host()) == net::class(peer.host()))
            .or_else(|| self.own.iter().find(same_family));
        priority(own.map_or(peer, |own| canonical(*own)), peer)
    }

    fn seconds(&self, now: Instant) -> u32 {
        u32::try_from(now.saturating_duration_since(self.start).as_secs()).unwrap_or(u32::MAX)
    }
}

impl Marks {
    fn has(self, mark: u8) -> bool {
        self.0 & mark != 0
    }

    fn without(self, mark: u8) -> Marks {
        Marks(self.0 & !mark)
    }

    fn at(self, near: Near) -> Marks {
        Marks(self.0 & BITS | near as u8)
    }

    #[inline(never)]
    fn near(self) -> Near {
        if self.has(NEIGHBOUR) {
            return Near::Link;
        }
        let levels = [Near::Far, Near::Region, Near::Site, Near::Local];
        levels.get(usize::from(self.0 & !BITS)).copied().unwrap_or(Near::Link)
    }
}

impl Entry {
    #[inline(never)]
    fn address(&self) -> SocketAddr {
        unpack(self.ip, self.port)
    }
}

/// The priority of BEP 40: the same whichever end reckons it.
pub fn priority(a: SocketAddr, b: SocketAddr) -> u32 {
    let (a, b) = if a <= b { (a, b) } else { (b, a) };
    match (a.host(), b.host()) {
        (x, y) if x == y => {
            let (low, high) = (a.port().min(b.port()), a.port().max(b.port()));
            crc32c(&[low.to_be_bytes(), high.to_be_bytes()].concat())
        }
        (IpAddr::V4(x), IpAddr::V4(y)) => crc32c(&masked(x.octets(), y.octets(), 2)),
        (IpAddr::V6(x), IpAddr::V6(y)) => crc32c(&masked(x.octets(), y.octets(), 6)),
        // Never asked for: the two ends would not agree on which of their addresses to take.
        _ => 0,
    }
}

/// Both addresses, the lower first. Of each the bytes that they share and one more count in full, `least` of them at
/// least, of the rest every other bit: so the farther away the less an address means.
fn masked<const N: usize>(mut a: [u8; N], mut b: [u8; N], least: usize) -> Vec<u8> {
    let shared = a.iter().zip(&b).take_while(|(a, b)| a == b).count();
    let full = (shared + 1).max(least).min(N);
    a[full..].iter_mut().chain(&mut b[full..]).for_each(|byte| *byte &= 0x55);
    let (low, high) = if a <= b { (a, b) } else { (b, a) };
    [low, high].concat()
}

/// One spelling for each address.
fn canonical(address: SocketAddr) -> SocketAddr {
    match plain(address) {
        SocketAddr::V6(v6) if v6.ip().is_unicast_link_local() => {
            SocketAddrV6::new(*v6.ip(), v6.port(), 0, v6.scope_id()).into()
        }
        SocketAddr::V6(v6) => SocketAddr::from((*v6.ip(), v6.port())),
        v4 => v4,
    }
}

fn pack(address: SocketAddr) -> ([u8; 16], u16) {
    let mut bytes = match address.host() {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
        IpAddr::V6(ip) => ip.octets(),
    };
    if let SocketAddr::V6(v6) = address
        && v6.ip().is_unicast_link_local()
    {
        bytes[4..8].copy_from_slice(&v6.scope_id().to_be_bytes());
    }
    (bytes, address.port())
}

fn unpack(mut bytes: [u8; 16], port: u16) -> SocketAddr {
    let ip = Ipv6Addr::from(bytes);
    if !ip.is_unicast_link_local() {
        return SocketAddr::new(IpAddr::V6(ip).canonical(), port);
    }
    let [_, _, _, _, a, b, c, d, ..] = bytes;
    bytes[4..8].fill(0);
    SocketAddrV6::new(bytes.into(), port, 0, u32::from_be_bytes([a, b, c, d])).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[expect(clippy::disallowed_methods, reason = "the only way to make an instant")]
    fn some_instant() -> Instant {
        Instant::now()
    }

    fn secs(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn nth(n: u32) -> SocketAddr {
        let [_, b, c, d] = n.to_be_bytes();
        SocketAddr::from(([30, b, c, d], 6881))
    }

    #[test]
    fn an_entry_is_thirty_two_bytes() {
        assert!(size_of::<Entry>() <= 32);
    }

    #[test]
    fn priorities_are_those_of_the_bep() {
        let p = |a: &str, b: &str| priority(at(a), at(b));
        assert_eq!(p("123.213.32.10:1", "98.76.54.32:2"), 0xec2d_7224);
        assert_eq!(p("98.76.54.32:2", "123.213.32.10:1"), 0xec2d_7224);
        assert_eq!(p("123.213.32.10:1", "123.213.32.234:2"), 0x9956_8189);
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(p("10.0.0.1:1", "10.0.0.1:2"), crc32c(&[0, 1, 0, 2]));
        assert_eq!(p("[2001:db8::1]:1", "[2001:db8::2]:9"), p("[2001:db8::2]:3", "[2001:db8::1]:7"));
    }

    #[test]
    fn of_far_addresses_every_other_bit_counts() {
        assert_eq!(masked([1, 2, 0xff, 0xff], [9, 2, 0, 0xff], 2), [1, 2, 0x55, 0x55, 9, 2, 0, 0x55]);
        assert_eq!(masked([1, 2, 0xff, 0xff], [1, 2, 0, 0xff], 2), [1, 2, 0, 0x55, 1, 2, 0xff, 0x55]);
        assert_eq!(masked([1, 2, 3, 0xff], [1, 2, 3, 0xee], 2), [1, 2, 3, 0xee, 1, 2, 3, 0xff]);
        let (a, b) = ([0xff; 16], [0xfe; 16]);
        assert_eq!(masked(a, b, 6)[22..], [&[0x55; 10][..]].concat());
    }

    #[test]
    fn every_address_comes_out_as_it_went_in() {
        for text in
            ["1.2.3.4:5", "[2001:db8::1]:6881", "[fe80::1%7]:9", "[fe80::abcd%4294967295]:1", "[fd00::2]:3"]
        {
            let (ip, port) = pack(at(text));
            assert_eq!(unpack(ip, port), at(text), "{text}");
        }
        assert_eq!(canonical(at("[::ffff:1.2.3.4]:5")), at("1.2.3.4:5"));
    }

    #[test]
    fn neighbours_come_first_then_the_unfailed_then_the_bep_order() {
        let start = some_instant();
        let mut pool = Candidates::new(1, start);
        pool.set_here(vec![at("10.9.0.1:6881")], vec!["10.9.0.0/16".parse().unwrap()]);
        pool.insert(1, [nth(1), nth(2), nth(3), at("10.9.3.3:1")], Source::Remote, start);
        assert_eq!(pool.next(start, |_, _| true), Some((1, at("10.9.3.3:1"))));
        let mut order = Vec::new();
        while let Some((torrent, address)) = pool.next(start, |_, _| true) {
            order.push(priority(at("10.9.0.1:6881"), address));
            pool.ended(torrent, address, Ended::Failed, start);
        }
        assert!(order.len() == 3 && order.is_sorted_by(|a, b| a >= b));
        pool.insert(1, [nth(9)], Source::Remote, start + secs(100));
        assert_eq!(pool.next(start + secs(100), |_, _| true), Some((1, nth(9))));
    }

    #[test]
    fn what_leads_nowhere_or_to_ourselves_is_dropped() {
        let start = some_instant();
        let mut pool = Candidates::new(1, start);
        pool.set_here(vec![at("10.0.0.1:6881"), at("[fd00::1]:6881")], Vec::new());
        let bad = [
            "1.2.3.4:0",
            "0.1.2.3:4",
            "224.0.0.1:5",
            "255.255.255.255:6",
            "127.0.0.1:7",
            "[::1]:8",
            "[ff02::1]:9",
            "[fe80::1]:10",
            "10.0.0.1:6881",
            "[fd00::1]:6881",
            "[::ffff:10.0.0.1]:6881",
            "[::]:1",
        ];
        pool.insert(1, bad.map(at), Source::Remote, start);
        assert!(pool.is_empty() && pool.deadline().is_none());
        pool.insert(1, ["127.0.0.1:7", "[::1]:8"].map(at), Source::Loopback, start);
        pool.insert(1, ["10.0.0.1:6882"].map(at), Source::Remote, start);
        assert_eq!(pool.len(), 3);
        pool.set_here(vec![at("10.0.0.1:6882")], Vec::new());
        assert_eq!(pool.len(), 2);
    }

    #[test]
    fn an_address_named_twice_is_one_and_what_is_known_of_it_stays() {
        let start = some_instant();
        let mut pool = Candidates::new(1, start);
        for _ in 0..3 {
            pool.insert(1, [nth(1), nth(1)], Source::Remote, start);
        }
        pool.insert(2, [nth(1)], Source::Remote, start);
        assert_eq!((pool.count(1), pool.count(2)), (1, 1));
        assert_eq!(pool.next(start, |torrent, _| torrent == 1), Some((1, nth(1))));
        pool.insert(1, [nth(1)], Source::Remote, start);
        assert_eq!(pool.next(start, |torrent, _| torrent == 1), None);
        assert_eq!(pool.next(start, |_, _| true), Some((2, nth(1))));
    }

    #[test]
    fn a_failing_address_is_tried_ever_later_and_then_dropped() {
        let start = some_instant();
        let mut pool = Candidates::new(7, start);
        pool.insert(1, [nth(1)], Source::Remote, start);
        let mut now = start;
        for least in [60, 300, 1500, 7500] {
            assert!(pool.deadline().is_some_and(|due| due <= now));
            assert_eq!(pool.next(now, |_, _| true), Some((1, nth(1))));
            assert_eq!((pool.next(now, |_, _| true), pool.deadline()), (None, None));
            pool.ended(1, nth(1), Ended::Failed, now);
            let due = pool.deadline().unwrap();
            assert!((secs(least)..=secs(least + least / 4)).contains(&(due - now)), "{:?}", due - now);
            assert_eq!(pool.next(due - secs(1), |_, _| true), None);
            now = due;
        }
        assert_eq!(pool.next(now, |_, _| true), Some((1, nth(1))));
        pool.ended(1, nth(1), Ended::Failed, now);
        assert!(pool.is_empty());
        assert_eq!(pool.next(now, |_, _| true), None);
        assert_eq!(pool.deadline(), None);
    }

    #[test]
    fn who_left_is_dialled_again_after_a_while_and_a_seed_much_later() {
        let start = some_instant();
        for (how, least) in [(Ended::Stopped, SOON), (Ended::Closed, AGAIN), (Ended::Seed, SEED_AGAIN)] {
            let mut pool = Candidates::new(7, start);
            pool.insert(1, [nth(1)], Source::Remote, start);
            pool.next(start, |_, _| true).unwrap();
            assert_eq!(pool.next(start, |_, _| true), None);
            pool.ended(1, nth(1), how, start);
            assert!(pool.deadline().unwrap() - start >= secs(u64::from(least)));
            // Told of an address that nobody knows: nothing happens.
            pool.ended(1, nth(2), how, start);
            pool.ended(2, nth(1), how, start);
            assert_eq!(pool.len(), 1);
        }
    }

    #[test]
    fn one_that_came_to_us_is_not_dialled() {
        let start = some_instant();
        let mut pool = Candidates::new(7, start);
        pool.insert(1, [nth(1)], Source::Remote, start);
        pool.connected(1, nth(1));
        pool.connected(1, nth(2));
        assert_eq!(pool.next(start, |_, _| true), None);
        pool.ended(1, nth(1), Ended::Closed, start);
        assert_eq!(pool.next(start + secs(1000), |_, _| true), Some((1, nth(1))));
    }

    #[test]
    fn a_torrent_without_room_is_passed_over_without_waking_anybody() {
        let start = some_instant();
        let mut pool = Candidates::new(7, start);
        pool.insert(1, (0..10).map(nth), Source::Remote, start);
        assert_eq!(pool.next(start, |_, _| false), None);
        assert_eq!(pool.deadline(), None);
        assert!(pool.next(start, |_, _| true).is_some());
    }

    #[test]
    fn a_hundred_thousand_addresses_stay_within_the_bounds() {
        let start = some_instant();
        let mut pool = Candidates::new(3, start);
        pool.insert(1, (0..100_000).map(nth), Source::Remote, start);
        assert_eq!(pool.len(), MAX_PER_TORRENT);
        for torrent in 2..=1000 {
            pool.insert(torrent, (0..50).map(nth), Source::Remote, start);
        }
        assert_eq!(pool.len(), MAX_ENTRIES);
        assert!(pool.entries.capacity() <= MAX_ENTRIES);
        assert!((1..=1000).all(|torrent| pool.count(torrent) <= MAX_PER_TORRENT));
        let reached = (1..=1000).filter(|torrent| pool.count(*torrent) > 0).count();
        assert!(reached > 300, "{reached} torrents have candidates");
        for torrent in 1..=1000 {
            pool.remove(torrent);
        }
        assert_eq!((pool.len(), pool.entries.capacity()), (0, 0));
    }

    #[test]
    fn a_full_pool_gives_up_the_failed_first_and_the_busy_never() {
        let start = some_instant();
        let mut pool = Candidates::new(3, start);
        for torrent in 0..40 {
            pool.insert(torrent, (0..50).map(nth), Source::Remote, start);
        }
        let busy: Vec<_> = std::iter::from_fn(|| pool.next(start, |torrent, _| torrent < 2)).collect();
        assert_eq!((busy.len(), pool.len()), (100, MAX_ENTRIES));
        for torrent in 100..1000 {
            pool.insert(torrent, (0..50).map(nth), Source::Remote, start);
        }
        assert_eq!((pool.count(0), pool.count(1)), (50, 50));
        assert_eq!(pool.len(), MAX_ENTRIES);
    }

    #[test]
    fn the_same_seed_makes_the_same_choices() {
        let start = some_instant();
        let run = || {
            let mut pool = Candidates::new(5, start);
            for torrent in 0..100 {
                pool.insert(torrent, (0..60).map(nth), Source::Remote, start);
            }
            std::iter::from_fn(|| pool.next(start, |_, _| true)).collect::<Vec<_>>()
        };
        assert_eq!(run(), run());
    }

    fn dialled(pool: &mut Candidates, now: Instant) -> Vec<SocketAddr> {
        std::iter::from_fn(|| pool.next(now, |_, _| true)).map(|(_, address)| address).collect()
    }

    #[test]
    fn the_nearer_an_address_the_sooner_it_is_dialled() {
        let start = some_instant();
        let order = [
            &["10.9.0.77:1", "[fe80::7%2]:1"][..],
            &["10.8.1.2:1", "[2001:db8:ff07::1]:1"],
            &["203.0.113.9:1", "[2001:db8:7:1:ffff::1]:1"],
            &["203.0.7.1:1", "[2001:db8:7:2::1]:1"],
            &["203.1.7.1:1", "[2001:db8:8::1]:1", "192.168.1.1:1"],
        ];
        for is_known_before in [true, false] {
            let mut pool = Candidates::new(1, start);
            let own = vec![at("10.9.0.1:6881"), at("203.0.113.5:6881"), at("[2001:db8:7:1::5]:6881")];
            let local = ["10.9.0.0/24", "10.0.0.0/8", "2001:db8:ff00::/40"].map(|p| p.parse().unwrap());
            if is_known_before {
                pool.set_here(own.clone(), local.to_vec());
            }
            pool.insert(1, order.iter().rev().copied().flatten().map(|text| at(text)), Source::Remote, start);
            pool.set_here(own, local.to_vec());
            let mut came = dialled(&mut pool, start).into_iter();
            for group in order {
                let mut expected: Vec<SocketAddr> = group.iter().map(|text| at(text)).collect();
                let mut next: Vec<SocketAddr> = came.by_ref().take(group.len()).collect();
                expected.sort();
                next.sort();
                assert_eq!(next, expected);
            }
        }
    }

    #[test]
    fn whom_the_user_named_is_dialled_first_among_equals_and_never_given_up() {
        let start = some_instant();
        let mut pool = Candidates::new(1, start);
        pool.set_here(vec![at("10.9.0.1:6881")], vec!["10.9.0.0/16".parse().unwrap()]);
        pool.insert(1, (0..20).map(nth).chain([at("10.9.3.3:1")]), Source::Remote, start);
        // One of them was known before.
        let named = [nth(7), at("127.0.0.1:8"), nth(77)];
        pool.insert(1, named, Source::Static, start);
        let order = dialled(&mut pool, start);
        assert_eq!((order.len(), order[0]), (23, at("10.9.3.3:1")));
        assert!(named.iter().all(|address| order[1..4].contains(address)), "{order:?}");
        let mut now = start;
        for _ in 0..20 {
            for address in &order {
                pool.ended(1, *address, Ended::Failed, now);
            }
            now += secs(8000);
            while pool.next(now, |_, _| true).is_some() {}
        }
        assert_eq!(pool.len(), named.len());
        // A thousand others do not drive them out.
        for torrent in 1..1000 {
            pool.insert(torrent, (1000..1050).map(nth), Source::Remote, now);
        }
        assert_eq!(pool.len(), MAX_ENTRIES);
        pool.ended(1, nth(7), Ended::Closed, now);
        assert!(dialled(&mut pool, now + secs(1000)).contains(&nth(7)));
        // Once the user names them no more they are like all others.
        pool.forget_static();
        pool.remove(2);
        for _ in 0..MAX_FAILURES {
            pool.ended(1, nth(7), Ended::Failed, now);
        }
        assert!(pool.position(1, nth(7)).is_none());
    }

    #[test]
    fn a_neighbour_is_dialled_first_whatever_its_address_and_again_when_it_is_heard() {
        let start = some_instant();
        let mut pool = Candidates::new(1, start);
        pool.set_here(vec![at("10.9.0.1:6881")], vec!["10.9.0.0/24".parse().unwrap()]);
        let met = at("172.16.5.5:1");
        pool.insert(1, [at("10.9.0.7:1"), met], Source::Remote, start);
        pool.insert(1, [met], Source::Neighbour, start);
        pool.set_here(vec![at("10.9.0.1:6881")], vec!["10.9.0.0/16".parse().unwrap()]);
        assert_eq!(dialled(&mut pool, start), [met, at("10.9.0.7:1")]);
        // It is dialled when it is heard, but not for ever; and a seed is left alone.
        for _ in 1..MAX_FAILURES {
            pool.ended(1, met, Ended::Failed, start);
            pool.insert(1, [met], Source::Remote, start);
            assert!(dialled(&mut pool, start).is_empty());
            pool.insert(1, [met], Source::Neighbour, start);
            pool.next(start, |_, _| true);
        }
        assert!(pool.deadline().is_some_and(|due| due > start));
        pool.remove(1);
        pool.insert(1, [met], Source::Neighbour, start);
        assert_eq!(dialled(&mut pool, start), [met]);
        pool.ended(1, met, Ended::Seed, start);
        pool.insert(1, [met], Source::Neighbour, start);
        assert!(dialled(&mut pool, start).is_empty());
    }

    #[test]
    fn what_the_user_named_leaves_others_half_of_the_pool() {
        let start = some_instant();
        let mut pool = Candidates::new(1, start);
        for torrent in 0..500 {
            pool.insert(torrent, (0..6).map(nth), Source::Static, start);
        }
        assert_eq!(pool.len(), MAX_ENTRIES);
        for torrent in 0..500 {
            pool.insert(torrent, (100..110).map(nth), Source::Remote, start);
        }
        let named = pool.entries.iter().filter(|entry| entry.marks.has(STATIC)).count();
        assert!((MAX_ENTRIES / 2 - 8..=MAX_ENTRIES / 2).contains(&named), "{named}");
    }

    #[test]
    fn whom_peers_alone_name_is_dialled_last_and_drives_out_nobody_but_his_like() {
        let start = some_instant();
        let mut pool = Candidates::new(1, start);
        pool.set_here(vec![at("10.9.0.1:6881")], vec!["10.9.0.0/24".parse().unwrap()]);
        let near = at("10.9.0.7:1");
        pool.insert(1, [near, nth(1)], Source::Peer, start);
        pool.insert(1, [nth(2)], Source::Remote, start);
        // Named by a tracker as well, whichever is first.
        pool.insert(1, [nth(1)], Source::Remote, start);
        pool.insert(1, [nth(2)], Source::Peer, start);
        let order = dialled(&mut pool, start);
        assert_eq!((order.len(), order[2]), (3, near));
        // A torrent's share, and then the pool, is full of what trackers named.
        pool.insert(2, (0..50).map(nth), Source::Remote, start);
        pool.insert(2, (100..200).map(nth), Source::Peer, start);
        assert!((0..50).all(|n| pool.position(2, nth(n)).is_some()));
        pool.insert(3, (0..50).map(nth), Source::Peer, start);
        for torrent in 4..50 {
            pool.insert(torrent, (0..50).map(nth), Source::Remote, start);
        }
        assert!(pool.len() == MAX_ENTRIES && pool.count(3) < 50);
        let before = pool.count(2);
        pool.insert(1000, (0..50).map(nth), Source::Peer, start);
        assert!(pool.count(2) == before && pool.count(1000) <= MAX_WHEN_FULL);
        // Who answered is known.
        pool.connected(1, near);
        pool.ended(1, near, Ended::Closed, start);
        assert!(!pool.entries[pool.position(1, near).unwrap()].marks.has(HEARSAY));
    }

    #[test]
    fn who_lied_is_neither_dialled_nor_taken_again_for_a_day() {
        let start = some_instant();
        let mut pool = Candidates::new(1, start);
        let at_once = [at("30.0.0.1:1"), at("30.0.0.1:2"), at("30.0.0.2:1")];
        pool.insert(1, at_once, Source::Remote, start);
        pool.insert(2, at_once, Source::Remote, start);
        let (_, busy) = pool.next(start, |torrent, _| torrent == 1).unwrap();
        let liar = busy.ip();
        pool.ended(1, busy, Ended::Liar, start);
        assert!(pool.is_banned(liar) && !pool.is_banned(at("30.0.0.3:1").ip()));
        pool.insert(3, at_once, Source::Static, start);
        assert!(dialled(&mut pool, start).iter().all(|address| address.ip() != liar));
        let mapped: IpAddr = match liar {
            IpAddr::V4(v4) => v4.to_ipv6_mapped().into(),
            v6 => v6,
        };
        assert!(pool.is_banned(mapped));
        let later = start + secs(u64::from(BAN_TIME));
        pool.next(later, |_, _| true);
        pool.insert(4, at_once, Source::Remote, later);
        assert!(!pool.is_banned(liar));
        assert_eq!(pool.count(4), 3);
    }

    #[test]
    fn a_connection_to_a_banned_address_that_ends_is_not_made_again() {
        let start = some_instant();
        let mut pool = Candidates::new(1, start);
        pool.insert(1, [nth(1)], Source::Remote, start);
        pool.next(start, |_, _| true).unwrap();
        pool.ban(nth(1).ip(), start);
        assert_eq!(pool.len(), 1);
        pool.ended(1, nth(1), Ended::Closed, start);
        assert!(pool.is_empty());
    }

    #[test]
    fn of_many_bans_the_oldest_is_forgotten() {
        let start = some_instant();
        let mut pool = Candidates::new(1, start);
        for n in 0..1000 {
            pool.ban(nth(n).ip(), start);
            pool.ban(nth(995.min(n)).ip(), start);
        }
        assert_eq!(pool.banned.len(), MAX_BANNED);
        assert!(
            pool.is_banned(nth(999).ip()) && pool.is_banned(nth(995).ip()) && !pool.is_banned(nth(800).ip())
        );
    }
}

//! Local Peer Discovery: neighbours on our own links are told by multicast what we serve and seek, and tell us.
//!
//! Read first: BEP 14. Some clients read only the first info-hash of a packet, so a few torrents have a packet each;
//! many share packets of up to 1400 bytes, and each is told of every five minutes as far as one packet a second and
//! interface reaches (two thousand torrents in both families; more take their turn later). Omits sockets, private torrents (the session never
//! inserts one) and answers: what is heard leads to a dial at most.
//! Holds 24 bytes a torrent and less than 200 a link: of a daemon with a thousand torrents too little to be measured. Each
//! packet is a wake-up, two with its echo: forty a round and link for a thousand torrents, four for a hundred.

pub mod io;

use std::fmt::Write;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::time::{Duration, Instant};

use crate::metainfo::InfoHash;
use crate::net::{Class, Family, Host, class};
use crate::random::Random;
use crate::rate::Bucket;
use crate::sorted::SortedMap;

/// The port of both groups.
pub const PORT: u16 = 6771;
/// The group of IPv4, organisation-local.
pub const GROUP_V4: Ipv4Addr = Ipv4Addr::new(239, 192, 152, 143);
/// The group of IPv6, site-local.
pub const GROUP_V6: Ipv6Addr = Ipv6Addr::new(0xff15, 0, 0, 0, 0, 0, 0xefc0, 0x988f);
/// Bytes of the longest packet that is sent (BEP 14: no fragments).
pub const MAX_SENT: usize = 1400;
/// Bytes of the longest packet that is read.
pub const MAX_READ: usize = 2048;

/// Info-hashes of one packet that are looked at: more do not fit in [`MAX_READ`] bytes with a line each.
const MAX_NAMED: usize = 40;
/// Up to so many torrents have a packet each.
const FEW: usize = 5;
/// From one announcing of everything to the next …
const PERIOD: Duration = Duration::from_secs(200);
/// … and by chance up to so many milliseconds more. The rest of the BEP's five minutes is for the packets themselves: the
/// families of an interface wait for each other.
const SPREAD: u32 = 20_000;
/// Between two packets on an interface.
const GAP: Duration = Duration::from_secs(1);
/// Milliseconds by which the first packet on a link is late at most: neighbours whose cable was just plugged in should
/// not dial each other in the same moment.
const FIRST: u32 = 500;
/// Packets a second that are read on a link, and how many at once: a hundred neighbours that start together.
const HEARD: u64 = 20;
const HEARD_AT_ONCE: u64 = 100;

/// An interface, by its index, and a family on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Link {
    /// As the kernel counts interfaces; 0 is none.
    pub interface: u32,
    /// Which of the two groups.
    pub family: Family,
}

/// What a packet says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Search<'a> {
    /// Where its sender listens, never 0.
    pub port: u16,
    /// What of.
    pub info_hashes: Vec<InfoHash>,
    /// By which a sender knows its own packets.
    pub cookie: &'a str,
}

/// What we announce, on which links, and when.
#[derive(Debug)]
pub struct Lpd {
    cookie: String,
    /// In the order in which they came, numbered upwards.
    torrents: Vec<(u32, InfoHash)>,
    /// The number of the next one.
    next: u32,
    links: SortedMap<Link, Pace>,
    random: Random,
}

/// How far a link has come.
#[derive(Debug)]
struct Pace {
    /// When its last packet was sent: of those that are due, who waited longest goes first.
    sent: Instant,
    /// No packet before: one a second for all families of the interface.
    free: Instant,
    /// Torrents from this number on have not been announced at all: they go first.
    fresh: u32,
    /// The round has come to this number; it is over where that is `fresh`.
    at: u32,
    /// When the next round begins.
    round: Instant,
    heard: Bucket,
}

impl Family {
    /// Where searches of that family are sent.
    pub fn group(self) -> SocketAddr {
        match self {
            Family::V4 => (GROUP_V4, PORT).into(),
            Family::V6 => (GROUP_V6, PORT).into(),
        }
    }
}

/// The bytes of a search: as many of its torrents as fit.
pub fn encode(family: Family, search: &Search) -> Vec<u8> {
    let mut text = format!("BT-SEARCH * HTTP/1.1\r\nHost: {}\r\nPort: {}\r\n", family.group(), search.port);
    let end = format!("cookie: {}\r\n\r\n\r\n", search.cookie);
    for info_hash in &search.info_hashes {
        let line = format!("Infohash: {info_hash}\r\n");
        if text.len() + line.len() + end.len() > MAX_SENT {
            break;
        }
        text += &line;
    }
    text += &end;
    text.into_bytes()
}

/// Reads what other clients write: headers in any order and case, with either end of line. `None`: it is no search, or
/// names no torrent or port.
pub fn decode(datagram: &[u8]) -> Option<Search<'_>> {
    if datagram.len() > MAX_READ {
        return None;
    }
    let text = std::str::from_utf8(datagram).ok()?;
    let mut lines = text.lines();
    if !lines.next()?.get(..9)?.eq_ignore_ascii_case("BT-SEARCH") {
        return None;
    }
    let mut search = Search::default();
    for line in lines.take_while(|line| !line.is_empty()) {
        let Some((name, value)) = line.split_once(':') else { continue };
        let (name, value) = (name.trim(), value.trim());
        if name.eq_ignore_ascii_case("port") {
            search.port = value.parse().ok()?;
        } else if name.eq_ignore_ascii_case("cookie") {
            search.cookie = value;
        } else if name.eq_ignore_ascii_case("infohash")
            && search.info_hashes.len() < MAX_NAMED
            && let Ok(info_hash) = value.parse()
        {
            search.info_hashes.push(info_hash);
        }
    }
    (search.port != 0 && !search.info_hashes.is_empty()).then_some(search)
}

impl Lpd {
    /// No torrents, no links. `seed` makes the cookie and all that is left to chance.
    pub fn new(seed: u64) -> Lpd {
        let mut random = Random::new(seed);
        let mut cookie = String::new();
        // A String takes every write.
        let _ = write!(cookie, "ms-{:08x}", random.up_to(u32::MAX));
        Lpd { cookie, torrents: Vec::new(), next: 0, links: SortedMap::new(), random }
    }

    /// Announces on these links and no others; on those that are new, at once.
    pub fn set_links(&mut self, links: &[Link], now: Instant) {
        self.links.retain(|link, _| links.contains(link));
        for link in links {
            if !self.links.contains_key(link) {
                let first = now + Duration::from_millis(self.random.up_to(FIRST).into());
                let pace = Pace {
                    sent: now,
                    free: first,
                    fresh: 0,
                    at: 0,
                    round: first + PERIOD,
                    heard: Bucket::new(HEARD, HEARD_AT_ONCE, now),
                };
                self.links.insert(*link, pace);
            }
        }
    }

    /// A torrent has something to give, or to ask for: it is announced at once, if it was not before.
    pub fn insert(&mut self, info_hash: InfoHash) {
        if !self.torrents.iter().any(|(_, known)| *known == info_hash) {
            self.torrents.push((self.next, info_hash));
            self.next = self.next.saturating_add(1);
        }
    }

    /// It has not any more.
    pub fn remove(&mut self, info_hash: InfoHash) {
        self.torrents.retain(|(_, known)| *known != info_hash);
    }

    /// A packet came: the peers that it names. Its own address is its sender's, whatever the packet says.
    pub fn handle(
        &mut self,
        datagram: &[u8],
        from: SocketAddr,
        link: Link,
        now: Instant,
    ) -> Vec<(InfoHash, SocketAddr)> {
        let Some(pace) = self.links.get_mut(&link) else { return Vec::new() };
        if pace.heard.available(now) == 0 {
            return Vec::new();
        }
        pace.heard.take(1, now);
        let Some(search) = decode(datagram).filter(|search| search.cookie != self.cookie) else {
            return Vec::new();
        };
        let peer = match from {
            // Such an address is nothing without its link.
            SocketAddr::V6(v6) if class(from.host()) == Class::Link => {
                SocketAddrV6::new(*v6.ip(), search.port, 0, link.interface).into()
            }
            _ => SocketAddr::new(from.host(), search.port),
        };
        search.info_hashes.into_iter().map(|info_hash| (info_hash, peer)).collect()
    }

    /// Until when nothing that comes on a link is read.
    pub fn deaf_until(&self, link: Link, now: Instant) -> Option<Instant> {
        let heard = &self.links.get(&link)?.heard;
        (heard.available(now) == 0).then(|| heard.ready_at(HEARD, now))
    }

    /// The next packet that is due: where to, and what. `port` is where we listen; `serves` says whether a torrent has
    /// something to give or to ask for in this moment.
    pub fn poll(
        &mut self,
        now: Instant,
        port: u16,
        serves: impl Fn(InfoHash) -> bool,
    ) -> Option<(Link, Vec<u8>)> {
        let is_due = |pace: &Pace| self.due(pace).is_some_and(|due| due <= now);
        let due = self.links.iter().filter(|(_, pace)| is_due(pace));
        let link = *due.min_by_key(|(_, pace)| pace.sent)?.0;
        let few = self.torrents.len() <= FEW;
        let Lpd { cookie, torrents, links, random, .. } = self;
        let pace = links.get_mut(&link)?;
        let is_fresh = torrents.last().is_some_and(|(last, _)| *last >= pace.fresh);
        if !is_fresh && pace.at >= pace.fresh {
            pace.at = 0;
            pace.round = now + PERIOD + Duration::from_millis(random.up_to(SPREAD).into());
        }
        let from = if is_fresh { pace.fresh } else { pace.at };
        let begin = torrents.partition_point(|(number, _)| *number < from);
        let mut search = Search { port, info_hashes: Vec::new(), cookie };
        let most = if few { 1 } else { fit(link.family, port, cookie) };
        let mut reached = from;
        for &(number, info_hash) in torrents.iter().skip(begin) {
            if search.info_hashes.len() == most || (!is_fresh && number >= pace.fresh) {
                break;
            }
            reached = number.saturating_add(1);
            if port != 0 && serves(info_hash) {
                search.info_hashes.push(info_hash);
            }
        }
        // Gone through to the end: what was removed since is no reason to look again.
        let rest =
            torrents.iter().any(|(number, _)| *number >= reached && (is_fresh || *number < pace.fresh));
        if is_fresh {
            let was_over = pace.at >= pace.fresh;
            pace.fresh = reached;
            pace.at = if was_over { reached } else { pace.at };
        } else {
            pace.at = if rest { reached } else { pace.fresh };
        }
        pace.sent = now;
        if search.info_hashes.is_empty() {
            // Nothing to say on this link, and all of it gone through.
            return self.poll(now, port, serves);
        }
        let datagram = encode(link.family, &search);
        for (other, pace) in links.iter_mut() {
            if other.interface == link.interface {
                pace.free = pace.free.max(now + GAP);
            }
        }
        Some((link, datagram))
    }

    /// When [`Lpd::poll`] may have something.
    pub fn deadline(&self) -> Option<Instant> {
        self.links.values().filter_map(|pace| self.due(pace)).min()
    }

    fn due(&self, pace: &Pace) -> Option<Instant> {
        let (last, _) = self.torrents.last()?;
        let pending = *last >= pace.fresh || pace.at < pace.fresh;
        Some(if pending { pace.free } else { pace.free.max(pace.round) })
    }
}

/// Torrents that a packet holds.
fn fit(family: Family, port: u16, cookie: &str) -> usize {
    let empty = encode(family, &Search { port, info_hashes: Vec::new(), cookie });
    let line = "Infohash: \r\n".len() + 40;
    (MAX_SENT - empty.len().min(MAX_SENT)) / line
}

#[cfg(test)]
mod tests {
    use super::*;

    const V4: Link = Link { interface: 3, family: Family::V4 };
    const V6: Link = Link { interface: 3, family: Family::V6 };
    const OTHER: Link = Link { interface: 4, family: Family::V4 };

    fn hash(n: usize) -> InfoHash {
        let mut bytes = [7; 20];
        bytes[..8].copy_from_slice(&u64::try_from(n).unwrap().to_be_bytes());
        InfoHash::from_bytes(bytes)
    }

    #[expect(clippy::disallowed_methods, reason = "the only way to make an instant")]
    fn some_instant() -> Instant {
        Instant::now()
    }

    fn with(torrents: usize, links: &[Link], start: Instant) -> Lpd {
        let mut lpd = Lpd::new(1);
        (0..torrents).for_each(|n| lpd.insert(hash(n)));
        lpd.set_links(links, start);
        lpd
    }

    /// Everything sent until then: when, where, of what.
    fn run(lpd: &mut Lpd, from: Instant, until: Instant) -> Vec<(Instant, Link, Vec<InfoHash>)> {
        let (mut sent, mut now, mut steps) = (Vec::new(), from, 0);
        loop {
            while let Some((link, datagram)) = lpd.poll(now, 6881, |_| true) {
                assert!(datagram.len() <= MAX_SENT);
                sent.push((now, link, decode(&datagram).unwrap().info_hashes));
            }
            now = match lpd.deadline() {
                Some(next) if next <= until => next.max(now),
                _ => return sent,
            };
            steps += 1;
            assert!(steps < 100_000, "it spins");
        }
    }

    #[test]
    fn what_is_written_is_read_and_is_what_the_bep_says() {
        let search = Search { port: 6881, info_hashes: vec![hash(1), hash(2)], cookie: "c" };
        for family in [Family::V4, Family::V6] {
            assert_eq!(decode(&encode(family, &search)), Some(search.clone()));
        }
        let one = Search { info_hashes: vec![hash(1)], ..search };
        let expected = "BT-SEARCH * HTTP/1.1\r\nHost: [ff15::efc0:988f]:6771\r\nPort: 6881\r\nInfohash: \
                        0000000000000001070707070707070707070707\r\ncookie: c\r\n\r\n\r\n";
        assert_eq!(String::from_utf8(encode(Family::V6, &one)).unwrap(), expected);
    }

    #[test]
    fn the_ways_of_other_clients_are_understood_and_nonsense_is_not() {
        let hex = "ABCDEF0123456789abcdef0123456789ABCDEF01";
        for text in [
            format!(
                "BT-SEARCH * HTTP/1.1\r\nHost: 239.192.152.143:6771\r\nPort: 1\r\nInfohash: {hex}\r\n\r\n\r\n"
            ),
            format!("bt-search * HTTP/1.0\nX: y\nINFOHASH:{hex}\nport:1"),
            format!("BT-SEARCH * HTTP/1.1\r\nInfohash: none\r\nInfohash: {hex}\r\nrubbish\r\nPort:  1 \r\n"),
        ] {
            let search = decode(text.as_bytes()).unwrap_or_else(|| panic!("{text}"));
            assert_eq!((search.port, search.info_hashes.len()), (1, 1));
        }
        for text in [
            String::new(),
            "BT-SEARC".to_owned(),
            format!("M-SEARCH * HTTP/1.1\r\nPort: 1\r\nInfohash: {hex}\r\n\r\n"),
            format!("BT-SEARCH * HTTP/1.1\r\nPort: 0\r\nInfohash: {hex}\r\n\r\n"),
            format!("BT-SEARCH * HTTP/1.1\r\nPort: 65536\r\nInfohash: {hex}\r\n\r\n"),
            format!("BT-SEARCH * HTTP/1.1\r\nInfohash: {hex}\r\n\r\nPort: 1\r\n"),
            format!("BT-SEARCH * HTTP/1.1\r\nPort: 1\r\nInfohash: {hex}00\r\n\r\n"),
            format!("BT-SEARCH * HTTP/1.1\r\nPort: 1\r\nInfohash: {hex}\r\n{}\r\n", "x".repeat(MAX_READ)),
        ] {
            assert_eq!(decode(text.as_bytes()), None, "{text}");
        }
        let many = format!("BT-SEARCH *\nPort: 1\n{}", format!("infohash:{hex}\n").repeat(40));
        assert!(decode(many.as_bytes()).is_none_or(|search| search.info_hashes.len() <= MAX_NAMED));
    }

    #[test]
    fn a_few_torrents_have_a_packet_each_and_one_a_second() {
        let start = some_instant();
        let mut lpd = with(5, &[V4, V6, OTHER], start);
        let sent = run(&mut lpd, start, start + Duration::from_secs(60));
        assert_eq!(sent.len(), 15);
        assert!(sent.iter().all(|(_, _, named)| named.len() == 1));
        assert!(sent[0].0 - start < GAP);
        for interface in [3, 4] {
            let times: Vec<_> =
                sent.iter().filter(|sent| sent.1.interface == interface).map(|sent| sent.0).collect();
            assert!(times.windows(2).all(|pair| pair[1] - pair[0] >= GAP));
        }
    }

    #[test]
    fn each_of_a_thousand_torrents_is_announced_every_five_minutes() {
        let start = some_instant();
        let mut lpd = with(1000, &[V4, V6], start);
        let sent = run(&mut lpd, start, start + Duration::from_secs(3600));
        assert!(sent.windows(2).all(|pair| pair[1].0 - pair[0].0 >= GAP));
        for n in [0, 1, 499, 998, 999] {
            for link in [V4, V6] {
                let of = sent.iter().filter(|(_, on, named)| *on == link && named.contains(&hash(n)));
                let times: Vec<_> = of.map(|sent| sent.0).collect();
                assert!(times.len() >= 12, "{}", times.len());
                assert!(times.windows(2).all(|pair| pair[1] - pair[0] <= Duration::from_secs(300)));
            }
        }
    }

    #[test]
    fn a_new_torrent_and_a_new_link_do_not_wait_for_the_round() {
        let start = some_instant();
        let mut lpd = with(1000, &[V4], start);
        run(&mut lpd, start, start + Duration::from_secs(100));
        let now = start + Duration::from_secs(100);
        lpd.insert(hash(5000));
        let sent = run(&mut lpd, now, now + Duration::from_secs(5));
        assert_eq!(sent, [(now, V4, vec![hash(5000)])]);
        lpd.set_links(&[V4, OTHER], now);
        lpd.insert(hash(5000));
        let sent = run(&mut lpd, now, now + Duration::from_secs(100));
        assert!(sent.iter().all(|sent| sent.1 == OTHER) && sent[0].0 - now < GAP);
        lpd.set_links(&[], now);
        assert_eq!(lpd.deadline(), None);
    }

    #[test]
    fn what_is_removed_or_not_served_is_not_announced() {
        let start = some_instant();
        let mut lpd = with(2, &[V4], start);
        let now = start + GAP;
        lpd.remove(hash(0));
        assert_eq!(lpd.poll(now, 6881, |_| false), None);
        assert!(lpd.deadline().unwrap() > now);
        lpd.insert(hash(0));
        assert_eq!(lpd.poll(now, 0, |_| true), None);
        let sent = run(&mut lpd, now, now + Duration::from_secs(600));
        assert!(sent.len() >= 4 && sent.iter().any(|sent| sent.2 == [hash(0)]));
        lpd.remove(hash(0));
        lpd.remove(hash(1));
        assert_eq!((lpd.poll(now, 6881, |_| true), lpd.deadline()), (None, None));
    }

    #[test]
    fn a_neighbour_is_where_its_packet_came_from_and_we_are_none() {
        let start = some_instant();
        let mut lpd = with(1, &[V4, V6], start);
        let packet = |cookie| encode(Family::V4, &Search { port: 77, info_hashes: vec![hash(1)], cookie });
        let mut heard =
            |cookie, from: &str, link| lpd.handle(&packet(cookie), from.parse().unwrap(), link, start);
        assert_eq!(heard("x", "10.0.0.9:6771", V4), [(hash(1), "10.0.0.9:77".parse().unwrap())]);
        assert_eq!(heard("", "[fe80::9]:6771", V6), [(hash(1), "[fe80::9%3]:77".parse().unwrap())]);
        assert_eq!(heard("", "[fd00::9]:6771", V6), [(hash(1), "[fd00::9]:77".parse().unwrap())]);
        assert_eq!(heard("x", "10.0.0.9:6771", OTHER), []);
        let own = lpd.cookie.clone();
        assert_eq!(lpd.handle(&packet(&own), "10.0.0.1:6771".parse().unwrap(), V4, start), []);
    }

    #[test]
    fn a_flood_is_not_listened_to_for_long() {
        let start = some_instant();
        let mut lpd = with(1, &[V4], start);
        let packet = encode(Family::V4, &Search { port: 77, info_hashes: vec![hash(1)], cookie: "" });
        let from: SocketAddr = "10.0.0.9:6771".parse().unwrap();
        let taken = (0..100_000).filter(|_| !lpd.handle(&packet, from, V4, start).is_empty()).count();
        assert_eq!(taken, 100);
        let deaf = lpd.deaf_until(V4, start).unwrap();
        assert_eq!(deaf - start, Duration::from_secs(1));
        assert_eq!(lpd.deaf_until(V4, deaf), None);
    }
}

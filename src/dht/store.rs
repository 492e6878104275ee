//! Peers that others told us of: what a node is there for.
//!
//! Read first: BEP 5 ("announce_peer"). Who announces has shown by a token that it is where it says; for the rest there are
//! bounds: of one address, of one torrent, of all. Omits tokens.
//! Holds 44 bytes a peer, at most [`MAX_PEERS`] of them.

use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};

use crate::metainfo::InfoHash;
use crate::net::{Canonical, Class, class};
use crate::random::Random;

/// Peers in all, 176 KiB: eight nodes of a mesh that is alone with a thousand torrents tell each other as many.
pub const MAX_PEERS: usize = 4096;

/// Peers of one torrent: a crowd finds each other by other means once it is connected.
const MAX_OF_TORRENT: usize = 64;

/// Peers of one torrent of one owner of an address: several behind one gateway.
const MAX_OF_ADDRESS: usize = 3;

/// Peers of one owner, of all torrents.
const MAX_SHARE: usize = MAX_PEERS / 4;

/// Seconds after which one that has not announced itself again is forgotten: twice 15 minutes, and some.
const LIFE: u32 = 35 * 60;

/// Seconds between two sweeps.
const SWEEP: u32 = 5 * 60;

/// Peers looked at to find the one that makes room.
const SAMPLE: usize = 8;

/// Room is made for so many at a time.
const STEP: usize = 256;

/// All that we were told, in order.
#[derive(Debug, Default)]
pub struct Store {
    peers: Vec<Stored>,
    /// When those are dropped whose time is over, in seconds.
    sweep: u32,
}

/// Multiplied by thousands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Stored {
    torrent: [u8; 20],
    /// IPv4 in IPv6 clothes; the scope of a link-local address in its bytes 4 to 7, which are zero on every link.
    ip: [u8; 16],
    port: u16,
    /// When it was told, in seconds.
    at: u32,
}

impl Stored {
    fn new(info_hash: InfoHash, peer: SocketAddr, at: u32) -> Stored {
        let ip = match peer {
            SocketAddr::V4(v4) => v4.ip().to_ipv6_mapped().octets(),
            SocketAddr::V6(v6) => {
                let mut ip = v6.ip().octets();
                if v6.scope_id() != 0 {
                    ip[4..8].copy_from_slice(&v6.scope_id().to_be_bytes());
                }
                ip
            }
        };
        Stored { torrent: *info_hash.as_bytes(), ip, port: peer.port(), at }
    }

    fn addr(&self) -> SocketAddr {
        let mut ip = self.ip;
        let mut scope = [0; 4];
        if ip[..2] == [0xfe, 0x80] {
            scope.copy_from_slice(&ip[4..8]);
            ip[4..8].fill(0);
        }
        match IpAddr::from(Ipv6Addr::from(ip)).canonical() {
            IpAddr::V4(v4) => (v4, self.port).into(),
            IpAddr::V6(v6) => SocketAddrV6::new(v6, self.port, 0, u32::from_be_bytes(scope)).into(),
        }
    }

    fn key(&self) -> ([u8; 20], [u8; 16], u16) {
        (self.torrent, self.ip, self.port)
    }

    /// What its owner's addresses begin with: a network of the Internet's IPv6 is one owner's, while a mesh may be one
    /// network.
    fn owner(&self) -> &[u8] {
        let is_v4 = self.ip[..8] == [0; 8];
        let of_network = !is_v4 && class(Ipv6Addr::from(self.ip).into()) == Class::Global;
        if of_network { &self.ip[..8] } else { &self.ip }
    }

    fn is_over(&self, now: u32) -> bool {
        now.saturating_sub(self.at) > LIFE
    }
}

impl Store {
    /// Peers in all.
    pub fn len(&self) -> usize {
        self.peers.len()
    }

    /// A peer has announced itself.
    pub fn insert(&mut self, info_hash: InfoHash, peer: SocketAddr, now: u32, random: &mut Random) {
        if now >= self.sweep {
            self.sweep = now.saturating_add(SWEEP);
            self.peers.retain(|peer| !peer.is_over(now));
        }
        let new = Stored::new(info_hash, peer, now);
        match self.peers.binary_search_by_key(&new.key(), Stored::key) {
            Ok(at) => self.peers[at].at = now,
            Err(_) => {
                if let Some(gone) = self.gives_way(&new, random) {
                    self.peers.remove(gone);
                } else if self.share(&new) >= MAX_SHARE {
                    return;
                }
                if self.peers.len() == self.peers.capacity() {
                    self.peers.reserve_exact(STEP);
                }
                let at = self.peers.partition_point(|peer| peer.key() < new.key());
                self.peers.insert(at, new);
            }
        }
    }

    /// At most `most` of a torrent's peers that `fit`, by chance.
    pub fn peers(
        &self,
        info_hash: InfoHash,
        most: usize,
        now: u32,
        random: &mut Random,
        fit: impl Fn(SocketAddr) -> bool,
    ) -> Vec<SocketAddr> {
        let of_torrent = self.of(*info_hash.as_bytes()).filter(|(_, peer)| !peer.is_over(now));
        let mut peers: Vec<_> = of_torrent.map(|(_, peer)| peer.addr()).filter(|&peer| fit(peer)).collect();
        while peers.len() > most {
            peers.swap_remove(random.below(peers.len()));
        }
        peers
    }

    /// Forgets everybody.
    pub fn clear(&mut self) {
        self.peers = Vec::new();
    }

    /// Bytes that the peers take.
    pub fn memory(&self) -> usize {
        self.peers.capacity() * size_of::<Stored>()
    }

    /// The one that makes room, if room must be made.
    fn gives_way(&self, new: &Stored, random: &mut Random) -> Option<usize> {
        let oldest = |peers: &mut dyn Iterator<Item = (usize, &Stored)>| {
            peers.min_by_key(|(_, peer)| peer.at).map(|(at, _)| at)
        };
        let owner = new.owner();
        let of_address = || self.of(new.torrent).filter(|(_, peer)| peer.ip.starts_with(owner));
        if of_address().count() >= MAX_OF_ADDRESS {
            return oldest(&mut of_address());
        }
        if self.of(new.torrent).count() >= MAX_OF_TORRENT {
            return oldest(&mut self.of(new.torrent));
        }
        if self.len() < MAX_PEERS || self.share(new) >= MAX_SHARE {
            return None;
        }
        oldest(&mut (0..SAMPLE).map(|_| random.below(self.len())).map(|at| (at, &self.peers[at])))
    }

    /// Peers of the owner of this one, of all torrents.
    fn share(&self, new: &Stored) -> usize {
        let owner = new.owner();
        self.peers.iter().filter(|peer| peer.ip.starts_with(owner)).count()
    }

    fn of(&self, torrent: [u8; 20]) -> impl Iterator<Item = (usize, &Stored)> {
        let from = self.peers.partition_point(|peer| peer.torrent < torrent);
        let all = self.peers.iter().enumerate().skip(from);
        all.take_while(move |(_, peer)| peer.torrent == torrent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(n: usize) -> InfoHash {
        let mut bytes = [7; 20];
        bytes[..8].copy_from_slice(&u64::try_from(n).unwrap().to_be_bytes());
        InfoHash::from_bytes(bytes)
    }

    fn peer(n: usize, port: u16) -> SocketAddr {
        let n = u32::try_from(n).unwrap();
        ((0x0a00_0000 + n).to_be_bytes(), port).into()
    }

    fn all(store: &Store, n: usize, now: u32) -> Vec<SocketAddr> {
        store.peers(hash(n), usize::MAX, now, &mut Random::new(1), |_| true)
    }

    #[test]
    fn a_peer_is_remembered_as_it_is_until_its_time_is_over() {
        let (mut store, mut random) = (Store::default(), Random::new(1));
        let peers: Vec<SocketAddr> =
            ["10.1.1.1:1", "[fd00::1]:2", "[fe80::1%3]:4"].iter().map(|peer| peer.parse().unwrap()).collect();
        for &peer in &peers {
            store.insert(hash(1), peer, 5, &mut random);
        }
        store.insert(hash(1), peers[0], 100, &mut random);
        store.insert(hash(2), peer(9, 9), 5, &mut random);
        let mut told = all(&store, 1, 101);
        told.sort();
        assert_eq!(told, peers);
        assert_eq!(all(&store, 1, 6 + LIFE), peers[..1]);
        assert_eq!(store.peers(hash(1), 2, 6, &mut random, |peer| peer.port() > 1).len(), 2);
        store.insert(hash(2), peer(9, 9), 7 + LIFE, &mut random);
        assert_eq!((store.len(), all(&store, 3, 0).len()), (2, 0));
    }

    #[test]
    fn one_address_gets_its_share_and_no_more() {
        let (mut store, mut random) = (Store::default(), Random::new(1));
        for port in 1..100 {
            store.insert(hash(1), peer(1, port), u32::from(port), &mut random);
        }
        let mut ports: Vec<u16> = all(&store, 1, 100).iter().map(SocketAddr::port).collect();
        ports.sort_unstable();
        assert_eq!(ports, [97, 98, 99]);
        for n in 2..5000 {
            store.insert(hash(n), peer(1, 1), 100, &mut random);
        }
        assert_eq!(store.len(), MAX_SHARE);
        store.insert(hash(9999), peer(2, 1), 100, &mut random);
        assert_eq!(all(&store, 9999, 100).len(), 1);
    }

    #[test]
    fn all_addresses_of_a_network_of_the_internet_have_the_share_of_one_and_those_of_a_mesh_their_own() {
        for (network, of_torrent, share) in [("2a02:1", MAX_OF_ADDRESS, MAX_SHARE), ("fd00", 60, 4000)] {
            let (mut store, mut random) = (Store::default(), Random::new(1));
            let there = |n: usize| format!("[{network}::{n:x}]:1").parse().unwrap();
            store.insert(hash(1), "[2a03::1]:1".parse().unwrap(), 1, &mut random);
            (1..=60).for_each(|n| store.insert(hash(1), there(n), 2, &mut random));
            assert_eq!(all(&store, 1, 2).len(), of_torrent + 1);
            (2..5000).for_each(|n| store.insert(hash(n), there(n), 3, &mut random));
            assert!((share..=MAX_PEERS).contains(&store.len()), "{network}");
            assert_eq!(share == MAX_SHARE, store.len() <= MAX_SHARE + 1, "{network}");
        }
    }

    #[test]
    fn a_crowd_and_a_flood_are_bounded_and_the_latest_are_kept() {
        let (mut store, mut random) = (Store::default(), Random::new(1));
        for n in 0..200 {
            store.insert(hash(1), peer(n, 1), u32::try_from(n).unwrap(), &mut random);
        }
        let crowd = all(&store, 1, 200);
        assert_eq!(crowd.len(), MAX_OF_TORRENT);
        assert!(crowd.contains(&peer(199, 1)) && !crowd.contains(&peer(100, 1)));
        for n in 0..6000 {
            store.insert(hash(n), peer(n % 500, 1), 300, &mut random);
        }
        assert_eq!(store.len(), MAX_PEERS);
        assert_eq!(all(&store, 5999, 300).len(), 1);
        assert!(store.memory() <= 44 * (MAX_PEERS + STEP));
        store.clear();
        assert_eq!((store.len(), store.memory()), (0, 0));
    }
}

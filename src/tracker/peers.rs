//! Peers in a tracker's reply: their compact form, and which of too many are kept.
//!
//! Read first: BEP 7 and 23. Holds at most [`MAX_PEERS`] of them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::MAX_PEERS;
use crate::net::{Family, dialable};
use crate::random::Random;

/// The peers that are kept while all are read (reservoir sampling: each has the same chance).
pub(super) struct Sample<'a> {
    peers: Vec<SocketAddr>,
    seen: usize,
    from_loopback: bool,
    random: &'a mut Random,
}

impl Sample<'_> {
    /// None yet. Loopback peers are taken only `from_loopback`: from a tracker on this machine.
    pub fn new(from_loopback: bool, random: &mut Random) -> Sample<'_> {
        Sample { peers: Vec::new(), seen: 0, from_loopback, random }
    }

    /// Takes compact peers; what is left over at their end is no peer.
    pub fn compact(&mut self, bytes: &[u8], family: Family) {
        let width = width(family);
        for peer in bytes.chunks_exact(width + 2) {
            if let (Some(ip), &[high, low]) = (decode_ip(&peer[..width]), &peer[width..]) {
                self.insert(SocketAddr::new(ip, u16::from_be_bytes([high, low])));
            }
        }
    }

    /// Takes one, if it can be dialled.
    pub fn insert(&mut self, peer: SocketAddr) {
        let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
        if !dialable(peer, self.from_loopback) {
            return;
        }
        self.seen += 1;
        if self.peers.len() < MAX_PEERS {
            self.peers.push(peer);
        } else if let Some(place) = self.peers.get_mut(self.random.below(self.seen)) {
            *place = peer;
        }
    }

    /// Those that are kept.
    pub fn peers(self) -> Vec<SocketAddr> {
        self.peers
    }
}

/// Appends those of one family in compact form.
pub(super) fn encode_compact(peers: &[SocketAddr], family: Family, out: &mut Vec<u8>) {
    for peer in peers.iter().filter(|peer| Family::of(peer.ip()) == family) {
        match peer.ip().to_canonical() {
            IpAddr::V4(v4) => out.extend_from_slice(&v4.octets()),
            IpAddr::V6(v6) => out.extend_from_slice(&v6.octets()),
        }
        out.extend_from_slice(&peer.port().to_be_bytes());
    }
}

/// An address of four or sixteen bytes.
pub(super) fn decode_ip(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return Some(Ipv4Addr::from(v4).into());
    }
    <[u8; 16]>::try_from(bytes).ok().map(|v6| Ipv6Addr::from(v6).into())
}

fn width(family: Family) -> usize {
    if family == Family::V4 { 4 } else { 16 }
}

//! Peers in a tracker's reply: which of too many are kept.
//!
//! Read first: `net::compact`. Holds at most [`MAX_PEERS`] of them.

use std::net::SocketAddr;

use super::MAX_PEERS;
use crate::net::{Canonical, Family, Host, compact, dialable};
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
        compact::decode(bytes, family).for_each(|peer| self.insert(peer));
    }

    /// Takes one, if it can be dialled.
    pub fn insert(&mut self, peer: SocketAddr) {
        let peer = SocketAddr::new(peer.host().canonical(), peer.port());
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
    let of_family = peers.iter().filter(|peer| Family::of(peer.host()) == family);
    of_family.for_each(|peer| compact::encode(*peer, out));
}

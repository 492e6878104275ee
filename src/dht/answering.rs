//! What is answered to other nodes.
//!
//! Read first: BEP 5 ("DHT queries"), 32, 43. An answer goes where the question came from and nowhere else, is never longer than
//! 900 bytes, and none is given to an address that asks too much or beyond a rate for all. Only nodes that have answered us
//! are named, and only a peer that has shown a token is remembered. Omits limits (see `limits`). Holds nothing.

use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use super::id::Id;
use super::krpc::{self, Body, Message, Query, Reply, Want};
use super::reach::{is_near, means_something};
use super::search::NEAR;
use super::table::{Contact, K};
use super::{Node, Output, Side};
use crate::metainfo::InfoHash;
use crate::net::{Family, Host, compact, plain};

/// Answers that wait to be sent: more come in between two polls only when we are flooded.
const MAX_READY: usize = 32;
/// Peers of one answer, IPv4 and IPv6: with the nodes this stays below 900 bytes.
const VALUES: usize = 20;
const VALUES_V6: usize = 12;
/// Seconds for which a token is given out; it is taken as long again (BEP 5: five minutes, ten in all).
const TOKEN: u32 = 300;

impl Node {
    /// Says whether the query was worth anything.
    pub(super) fn answer(
        &mut self,
        transaction: &[u8],
        id: Id,
        query: &Query,
        from: SocketAddr,
        now: Instant,
    ) -> bool {
        let seconds = self.seconds(now);
        if id == self.id
            || self.ready.len() >= MAX_READY
            || self.answering.available(now) == 0
            || !self.heard.admits(from.host(), seconds, &mut self.random)
        {
            return false;
        }
        let mut reply = Reply::new(self.id);
        let token = self.token(from.host(), seconds / TOKEN);
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
                let peer = SocketAddr::new(from.host(), port.unwrap_or(from.port()));
                let mut peer = plain(peer);
                if let (SocketAddr::V6(peer), SocketAddr::V6(from)) = (&mut peer, from) {
                    peer.set_scope_id(from.scope_id());
                }
                if self.options.router || peer.port() == 0 || !self.is_token(token, from.host(), seconds) {
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
        let wanted = |side: &&Side| if own { side.family == Family::of(from.host()) } else { both(side) };
        let fit = |contact: &Contact| {
            contact.is_good() && contact.addr != from && means_something(contact.addr, from)
        };
        let mut nodes = Vec::new();
        for side in self.sides.iter().filter(wanted) {
            // A mesh tells itself of itself.
            let near = if is_near(from.host()) { NEAR } else { 0 };
            let mut some = side.table.nearest(target, near, &|contact| fit(contact) && contact.is_near());
            let others = side.table.nearest(target, K, &fit);
            let others = others.into_iter().filter(|other| !some.iter().any(|one| one.addr == other.addr));
            let others: Vec<_> = others.take(K - some.len()).collect();
            some.extend(others);
            nodes.extend(some.into_iter().map(|contact| (contact.id, contact.addr)));
        }
        nodes
    }

    fn values_for(&mut self, info_hash: InfoHash, from: SocketAddr, seconds: u32) -> Vec<SocketAddr> {
        let family = Family::of(from.host());
        let most = if family == Family::V4 { VALUES } else { VALUES_V6 };
        self.store.peers(info_hash, most, seconds, &mut self.random, |peer| {
            Family::of(peer.host()) == family && peer != from && means_something(peer, from)
        })
    }

    fn is_token(&self, token: &[u8], ip: IpAddr, seconds: u32) -> bool {
        let window = seconds / TOKEN;
        [window, window.saturating_sub(1)].iter().any(|&window| self.token(ip, window) == *token)
    }

    /// What only somebody at that address can know.
    fn token(&self, ip: IpAddr, window: u32) -> [u8; 4] {
        let ip = compact::bytes(SocketAddr::new(ip, 0));
        self.secret(b"token", &[&window.to_be_bytes()[..], &ip].concat())
    }
}

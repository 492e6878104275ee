//! The session's peer exchange: who hears of whom, and what is made of what they say.
//!
//! Read first: BEP 11, `peer::pex`. Who introduces itself hears at once who else is there; of those who come later all hear
//! in one go, once a minute at most and only where somebody came: nobody is woken for an old swarm. Told is who is
//! connected at that moment and reached at an address that means the same to the one who is told. What a peer says
//! is the last that is dialled. Private torrents take no part. Holds nothing of its own.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::{Session, Timer};
use crate::list::{Gather, Keep};
use crate::net::{self, Class, Host};
use crate::peer::pex::{self, Contact};
use crate::peer::{Close, Peer, PeerKey};
use crate::torrent::TorrentKey;
use crate::torrent::candidates::Source;

/// Those who come within so short a time are told of together.
const GATHER: Duration = Duration::from_secs(2);
/// Between two times that peers are told of others.
const PERIOD: Duration = Duration::from_secs(pex::PERIOD as u64);

impl Session {
    /// A peer has told what it is, or was dialled and is there: others may hear of it, and it of them.
    pub(super) fn introduced(&mut self, key: PeerKey, now: Instant) {
        let Some(peer) = self.peers.get_mut(&key) else { return };
        let Some(torrent) = peer.torrent.and_then(|torrent| self.torrents.get_mut(&torrent)) else { return };
        let Some(swarm) = torrent.swarm.as_mut().filter(|_| self.settings.pex && !torrent.private) else {
            return;
        };
        let is_news = peer.exchange.came == 0 && peer.listens().is_some();
        if is_news {
            peer.exchange.came = swarm.log.came();
        }
        let is_heard = |other: &&PeerKey| {
            **other != key && self.peers.get(other).is_some_and(|other| other.exchanges().is_some())
        };
        let others_hear = is_news && swarm.peers.iter().any(|other| is_heard(&other));
        let is_told = self.tell_of_others(key, now);
        if others_hear || !is_told {
            let soon = self.pex_after.max(now + GATHER);
            self.set_by(Timer::Pex, soon);
        }
    }

    /// Tells all of those who came since they were last told.
    pub(super) fn exchange_peers(&mut self, now: Instant) {
        self.pex_after = now + PERIOD;
        let with_peers = self.torrents.iter().filter(|(_, torrent)| !torrent.peers().is_empty());
        let keys: Vec<TorrentKey> = with_peers.map(|(&key, _)| key).gather();
        for key in keys {
            let peers = self.torrents.get(&key).map_or(Vec::new(), |torrent| torrent.peers().to_vec());
            for &peer in &peers {
                if !self.tell_of_others(peer, now) {
                    self.set(Timer::Pex, self.pex_after);
                }
                if let Some(peer) = self.peers.get_mut(&peer).filter(|peer| peer.speaks()) {
                    peer.wake();
                }
            }
            let hearing = peers.iter().filter_map(|peer| self.peers.get(peer));
            let hearing = hearing.filter(|peer| peer.exchanges().is_some());
            let told = hearing.map(|peer| peer.exchange.told).min();
            if let Some(swarm) = self.torrents.get_mut(&key).and_then(|torrent| torrent.swarm.as_mut()) {
                swarm.log.forget(told.unwrap_or(u32::MAX));
            }
        }
    }

    /// Tells a peer what it has not heard yet of the others. `false`: there is something left, for later.
    fn tell_of_others(&mut self, key: PeerKey, now: Instant) -> bool {
        let at = self.seconds(now);
        let Some(peer) = self.peers.get(&key).filter(|peer| peer.closing.is_none()) else { return true };
        let Some(torrent) = peer.torrent.and_then(|torrent| self.torrents.get(&torrent)) else { return true };
        let Some(swarm) = torrent.swarm.as_ref().filter(|_| self.settings.pex && !torrent.private) else {
            return true;
        };
        let Some(id) = peer.exchanges().filter(|_| peer.exchange.told < swarm.log.last()) else {
            return true;
        };
        let others = swarm.peers.iter().filter(|other| **other != key).filter_map(|key| self.peers.get(key));
        let others = others.filter(|other| other.exchange.came > 0 && other.closing.is_none());
        let present = others.filter_map(|other| {
            let seed = if other.is_seed(torrent.lengths) { pex::SEED } else { 0 };
            let reachable = if other.outgoing { pex::REACHABLE } else { 0 };
            let contact = Contact { addr: other.listens()?, flags: seed | reachable };
            may_name(peer, contact.addr).then_some((other.exchange.came, contact))
        });
        let mut news = swarm.log.news(peer.exchange.told, present.gather());
        news.dropped.keep(|addr| may_name(peer, *addr));
        if !news.added.is_empty() && (!peer.exchange.may_be_told(at) || peer.is_behind()) {
            return false;
        }
        let is_all = news.upto == swarm.log.last();
        let Some(peer) = self.peers.get_mut(&key) else { return true };
        if !news.added.is_empty() {
            let mut payload = Vec::new();
            pex::encode(&news.added, &news.dropped, &mut payload);
            peer.send_extended(id, &payload);
            peer.exchange.was_told(news.upto, at);
        } else if news.dropped.is_empty() {
            peer.exchange.told = news.upto;
        }
        is_all
    }

    /// A peer has left a torrent.
    pub(super) fn has_left(&mut self, torrent: TorrentKey, peer: &Peer) {
        let swarm = self.torrents.get_mut(&torrent).and_then(|torrent| torrent.swarm.as_mut());
        let Some(swarm) = swarm.filter(|_| peer.exchange.came > 0) else { return };
        let knows = |other: &PeerKey| {
            let other = self.peers.get(other).filter(|other| other.exchanges().is_some());
            other.is_some_and(|other| other.exchange.told >= peer.exchange.came)
        };
        if let Some(addr) = peer.listens()
            && swarm.peers.iter().any(knows)
        {
            swarm.log.left(addr, peer.exchange.came);
        }
    }

    /// A peer tells of others.
    pub(super) fn hears_of_others(
        &mut self,
        key: PeerKey,
        payload: &[u8],
        now: Instant,
    ) -> Result<(), Close> {
        let at = self.seconds(now);
        let Some(peer) = self.peers.get_mut(&key) else { return Err(Close::Gone) };
        let Some(torrent_key) = peer.torrent else { return Err(Close::UnknownTorrent) };
        if !peer.exchange.hears(at)? {
            return Ok(());
        }
        let Some(torrent) = self.torrents.get(&torrent_key) else { return Err(Close::TorrentStopped) };
        if !self.settings.pex || !torrent.is_told() || self.stopping {
            return Ok(());
        }
        // A list that can not be read costs its sender that list, not the connection.
        let mut contacts = pex::decode(payload).unwrap_or_default();
        let is_seed = |contact: &Contact| contact.flags & pex::SEED != 0;
        contacts.keep(|contact| may_name(peer, contact.addr) && !(torrent.is_complete() && is_seed(contact)));
        self.candidates.insert(torrent_key.0, contacts.iter().map(|contact| contact.addr), Source::Peer, now);
        self.set_dial(now);
        Ok(())
    }
}

/// Whether an address means the same to us and to a peer: what belongs to a site is not named to, nor believed from, one
/// beyond it. Those of a link have no scope in a message; neighbours find each other there without it.
fn may_name(peer: &Peer, addr: SocketAddr) -> bool {
    let (of, theirs) = (net::class(addr.host()), net::class(peer.addr.host()));
    match of {
        Class::Global => true,
        Class::Private => peer.local || matches!(theirs, Class::Private | Class::Link | Class::Loopback),
        Class::Loopback => theirs == Class::Loopback,
        Class::Nowhere | Class::Link | Class::Multicast => false,
    }
}

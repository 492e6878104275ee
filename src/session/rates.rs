//! What is sent and what comes: in all, and a second.
//!
//! Rates are measured over the choker's rounds, and told of the round under way once that tells something: who has just
//! begun need not wait ten seconds for a number. Holds nothing of its own.

use std::time::{Duration, Instant};

use super::{CHOKE_ROUND, Session, Timer};
use crate::peer::Peer;
use crate::rate::share;
use crate::torrent::Torrent;
use crate::torrent::choker::PERIOD;

/// Of a round that has lasted for less the bursts of its buckets are most.
const TELLING: Duration = Duration::from_secs(2);

impl Session {
    /// Bytes of content sent since the start.
    pub fn uploaded(&self) -> u64 {
        self.uploaded
    }

    /// Bytes of content that came since the start.
    pub fn downloaded(&self) -> u64 {
        self.downloaded
    }

    /// Bytes of content that those connected have got, and given.
    pub fn moved_now(&self, torrent: &Torrent) -> (u64, u64) {
        self.swarm(torrent).fold((0, 0), |(up, down), peer| (up + peer.uploaded, down + peer.downloaded))
    }

    /// Bytes of content sent and received a second.
    pub fn rates(&self, now: Instant) -> (u64, u64) {
        let sent = self.of_late(self.uploaded - self.rated, self.rate, now);
        (sent, self.of_late(self.downloaded - self.down_rated, self.down_rate, now))
    }

    /// The same of one torrent, web seeds included.
    pub fn torrent_rates(&self, torrent: &Torrent, now: Instant) -> (u64, u64) {
        let web = torrent.web.as_ref();
        let (web_given, web_rate) = web.map_or((0, 0), |web| (web.given.into(), web.rate.into()));
        let (mut sent, mut given) = (0, web_given);
        for peer in self.swarm(torrent) {
            sent += u64::from(peer.recent);
            given += u64::from(peer.given);
        }
        let (up, down) = torrent.swarm.as_ref().map_or((0, 0), |swarm| (swarm.rate, swarm.down_rate));
        (self.of_late(sent, up, now), self.of_late(given, down + web_rate, now))
    }

    /// The same of one peer.
    pub fn peer_rates(&self, peer: &Peer, now: Instant) -> (u64, u64) {
        let sent = self.of_late(peer.recent.into(), peer.rate.into(), now);
        (sent, self.of_late(peer.given.into(), peer.down_rate.into(), now))
    }

    /// Ends a round's measuring; whether there is anything to measure in the next.
    pub(super) fn measure(&mut self) -> bool {
        let mut active = false;
        for torrent in self.torrents.values_mut() {
            if let Some(web) = &mut torrent.web {
                web.rate = std::mem::take(&mut web.given) / PERIOD;
            }
            let Some(swarm) = &mut torrent.swarm else { continue };
            let (mut recent, mut given) = (0, 0);
            for key in &swarm.peers {
                if let Some(peer) = self.peers.get_mut(key) {
                    recent += u64::from(peer.recent);
                    given += u64::from(peer.given);
                    peer.rate = peer.recent / PERIOD;
                    peer.down_rate = peer.given / PERIOD;
                    (peer.recent, peer.given) = (0, 0);
                    active |= peer.interested || peer.interesting;
                }
            }
            swarm.rate = recent / u64::from(PERIOD);
            swarm.down_rate = given / u64::from(PERIOD);
        }
        self.rate = (self.uploaded - self.rated) / u64::from(PERIOD);
        self.down_rate = (self.downloaded - self.down_rated) / u64::from(PERIOD);
        (self.rated, self.down_rated) = (self.uploaded, self.downloaded);
        active || self.rate + self.down_rate > 0
    }

    /// A rate, of the bytes of the round under way and what was measured in the one before.
    fn of_late(&self, bytes: u64, before: u64, now: Instant) -> u64 {
        let Some(end) = self.timers[Timer::Choke as usize] else { return before };
        let lasted = CHOKE_ROUND.saturating_sub(end.saturating_duration_since(now));
        if lasted < TELLING {
            return before;
        }
        share(bytes, 1000, u64::try_from(lasted.as_millis()).unwrap_or(u64::MAX))
    }

    fn swarm(&self, torrent: &Torrent) -> impl Iterator<Item = &Peer> {
        torrent.peers().iter().filter_map(|&key| self.peer(key))
    }
}

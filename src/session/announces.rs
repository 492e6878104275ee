//! The session's dealings with trackers and neighbours: who is told of which torrent, and what they bring.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::{Job, Session, Timer, Totals};
use crate::list::{Gather, Keep};
use crate::lpd::Link;
use crate::metainfo::InfoHash;
use crate::net::ours::News;
use crate::piece::BLOCK;
use crate::torrent::candidates::Source;
use crate::torrent::{State, Tiers, Torrent, TorrentKey};
use crate::tracker::client::{Request, Scrape};
use crate::tracker::host::HostId;
use crate::tracker::{Counts, Failure, Reply};

/// Neighbours are asked this often for what nobody gives …
const SEEK: Duration = Duration::from_secs(60);
/// … and for so many torrents at a time: one packet of each family.
const MAX_SOUGHT: usize = 20;

impl Session {
    /// Tells the trackers of a torrent that has something to give; those that know of it are told no news.
    pub(super) fn announce(&mut self, key: TorrentKey, now: Instant) {
        let Some(torrent) = self.torrents.get_mut(&key) else { return };
        if self.settings.trackers && !torrent.announced && torrent.serves() {
            torrent.announced = true;
            let also = if torrent.private { &[][..] } else { &self.settings.also };
            self.trackers.insert(
                key.0,
                torrent.info_hash,
                &torrent.tiers.0,
                also,
                torrent.is_complete(),
                now,
            );
        }
        if torrent.is_told() {
            let named = self.settings.static_peers.iter().chain(&torrent.named);
            self.candidates.insert(key.0, named.copied(), Source::Static, now);
            self.lpd.insert(torrent.info_hash);
            if torrent.seeks() {
                self.set_by(Timer::Seek, now + SEEK);
            }
            self.dial_again(now);
            self.tell_dht(key, now);
        }
    }

    /// A tracker has answered, or failed to.
    pub fn announced(&mut self, request: &Request, result: Result<&Reply, &Failure>, now: Instant) {
        let key = TorrentKey(request.key);
        self.trackers.handle(request, result, now);
        let serves = self.torrents.get(&key).is_some_and(|torrent| torrent.serves());
        if let Ok(reply) = result
            && serves
            && !self.stopping
        {
            // Addresses of this machine have passed the tracker's own filter: it is on this machine.
            self.candidates.insert(key.0, reply.peers.iter().copied(), Source::Loopback, now);
            self.set_dial(now);
        }
    }

    /// The network is another: what was not reached is tried again, and trackers are told if we are elsewhere now.
    pub(super) fn network_changed(&mut self, news: News, now: Instant) {
        self.trackers.network_changed();
        if news == News::Tell {
            self.trackers.readdressed(now);
        }
        self.web_network_changed(now);
    }

    /// Which links neighbours are told on and heard.
    pub fn set_links(&mut self, links: &[Link], now: Instant) {
        if !self.stopping {
            self.lpd.set_links(links, now);
        }
    }

    /// A packet of Local Peer Discovery came. Says until when the next need not be read.
    pub fn overheard(
        &mut self,
        datagram: &[u8],
        from: SocketAddr,
        link: Link,
        now: Instant,
    ) -> Option<Instant> {
        let heard = self.lpd.handle(datagram, from, link, now);
        if let Some(&(_, addr)) = heard.first() {
            // Most clients have their node on the port of the same number.
            self.dht_contact(addr, now);
        }
        for (info_hash, addr) in heard {
            self.neighbour(info_hash, addr, now);
        }
        self.lpd.deaf_until(link, now)
    }

    /// A neighbour has a torrent or seeks it.
    pub fn neighbour(&mut self, info_hash: InfoHash, addr: SocketAddr, now: Instant) {
        let Some(key) = self.key(info_hash) else { return };
        let is_told = self.torrents.get(&key).is_some_and(|torrent| torrent.is_told());
        if is_told && !self.stopping {
            self.candidates.insert(key.0, [addr], Source::Neighbour, now);
            self.set_dial(now);
        }
    }

    /// Calls once more for torrents that nobody gives: a neighbour who came by a bridge or another's cable is a change
    /// that no interface of ours tells.
    pub(super) fn seek(&mut self, now: Instant) {
        let mut fetched =
            self.torrents.values().filter(|torrent| torrent.seeks() && !torrent.private).peekable();
        if self.stopping || fetched.peek().is_none() {
            return;
        }
        let gives = |torrent: &Torrent| {
            let mut peers = torrent.peers().iter().filter_map(|key| self.peers.get(key));
            peers.any(|peer| peer.interesting || torrent.state == State::FetchingMetadata)
        };
        let starved = fetched.filter(|torrent| !gives(torrent));
        let starved: Vec<InfoHash> = starved.map(|torrent| torrent.info_hash).gather();
        self.set(Timer::Seek, now + SEEK);
        let from = self.random.below(starved.len().max(1));
        starved.iter().cycle().skip(from).take(starved.len().min(MAX_SOUGHT)).for_each(|&info_hash| {
            self.lpd.remove(info_hash);
            self.lpd.insert(info_hash);
        });
    }

    /// The next packet for neighbours.
    pub(super) fn next_search(&mut self, now: Instant) -> Option<Job> {
        let (by_hash, torrents) = (&self.by_hash, &self.torrents);
        let is_told = |info_hash| {
            let torrent = by_hash.get(&info_hash).and_then(|key| torrents.get(key));
            torrent.is_some_and(|torrent| torrent.is_told())
        };
        let (link, datagram) = self.lpd.poll(now, self.settings.port, is_told)?;
        Some(Job::Search(link, datagram))
    }

    /// The next announce for the connection to a host that has just answered.
    pub fn next_announce(&mut self, host: HostId, now: Instant) -> Option<(Request, Totals)> {
        let request = self.trackers.poll_host(host, now)?;
        let totals = self.totals(TorrentKey(request.key));
        Some((request, totals))
    }

    /// What to ask a host for whose connection is idle.
    pub fn next_scrape(&mut self, host: HostId) -> Option<Scrape> {
        self.trackers.poll_scrape(host)
    }

    /// A tracker has told what it knows of the peers of some torrents, or failed to.
    pub fn scraped(&mut self, scrape: &Scrape, result: Result<&[Counts], &Failure>, now: Instant) {
        self.trackers.scraped(scrape, result, now);
    }

    pub(super) fn totals(&self, key: TorrentKey) -> Totals {
        let Some(torrent) = self.torrents.get(&key) else { return Totals::default() };
        let (up, down) = self.moved_now(torrent);
        Totals {
            uploaded: torrent.uploaded + up - torrent.uploaded_before,
            downloaded: torrent.downloaded + down - torrent.downloaded_before,
            // Of what is not known yet something is missing: who is told of nothing takes us for a seed.
            left: match torrent.metadata {
                Some(_) => BLOCK.into(),
                None => torrent.lengths.total() - torrent.have_bytes(),
            },
            partial: torrent.is_partial(),
        }
    }

    /// One copy of equal tiers: a thousand torrents name a handful of trackers.
    pub(super) fn tiers(&mut self, tiers: Vec<Vec<String>>) -> Rc<Tiers> {
        let tiers = Tiers(tiers);
        self.tiers.keep(|known| Rc::strong_count(known) > 1 || **known == tiers);
        if let Some(known) = self.tiers.iter().find(|known| ***known == tiers) {
            return known.clone();
        }
        let tiers = Rc::new(tiers);
        self.tiers.push(tiers.clone());
        tiers
    }

    /// Tells the time of day, Unix seconds; `None` while it is plainly not set.
    pub fn set_clock(&mut self, time: Option<u64>, now: Instant) {
        self.clock_at_start = time.map(|time| time.saturating_sub(u64::from(self.seconds(now))));
    }

    pub(super) fn time_of_day(&self, now: Instant) -> Option<u64> {
        Some(self.clock_at_start? + u64::from(self.seconds(now)))
    }
}

#[cfg(test)]
mod tests {
    use super::super::webseeds::tests::Rig;
    use super::*;
    use crate::net::Family;

    #[test]
    fn neighbours_are_asked_each_minute_for_what_nobody_gives_and_for_nothing_else() {
        let mut rig = Rig::new(&[], &[]);
        rig.run();
        let link = Link { interface: 3, family: Family::V4 };
        rig.session.set_links(&[link], rig.now);
        let searches = |rig: &mut Rig, seconds| {
            let (end, mut searches) = (rig.now + Duration::from_secs(seconds), 0);
            while let Some(due) = rig.session.deadline().filter(|due| *due < end) {
                rig.now = due.max(rig.now);
                while let Some(job) = rig.session.poll(rig.now) {
                    searches += u32::from(matches!(job, Job::Search(..)));
                }
            }
            rig.now = end;
            searches
        };
        assert_eq!(searches(&mut rig, 630), 11 + 3, "one a minute, and the rounds");
        let info_hash = rig.session.torrent(rig.key).unwrap().info_hash;
        assert!(rig.session.pause(info_hash, rig.now));
        assert_eq!(searches(&mut rig, 600), 0);
    }
}

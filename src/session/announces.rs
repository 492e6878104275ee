//! The session's dealings with trackers and neighbours: who is told of which torrent, and what they bring.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Instant;

use super::{Job, Session, Totals};
use crate::lpd::Link;
use crate::metainfo::InfoHash;
use crate::piece::BLOCK;
use crate::torrent::candidates::Source;
use crate::torrent::{Tiers, TorrentKey};
use crate::tracker::client::{Request, Scrape};
use crate::tracker::host::HostId;
use crate::tracker::{Counts, Failure, Reply};

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
        if !torrent.private && torrent.serves() {
            let named = self.settings.static_peers.iter().chain(&torrent.named);
            self.candidates.insert(key.0, named.copied(), Source::Static, now);
            self.lpd.insert(torrent.info_hash);
            self.dial_again(now);
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
        for (info_hash, addr) in self.lpd.handle(datagram, from, link, now) {
            self.neighbour(info_hash, addr, now);
        }
        self.lpd.deaf_until(link, now)
    }

    /// A neighbour has a torrent or seeks it.
    pub fn neighbour(&mut self, info_hash: InfoHash, addr: SocketAddr, now: Instant) {
        let Some(key) = self.key(info_hash) else { return };
        let served = self.torrents.get(&key).is_some_and(|torrent| torrent.serves() && !torrent.private);
        if served && !self.stopping {
            self.candidates.insert(key.0, [addr], Source::Neighbour, now);
            self.set_dial(now);
        }
    }

    /// The next packet for neighbours.
    pub(super) fn next_search(&mut self, now: Instant) -> Option<Job> {
        let (by_hash, torrents) = (&self.by_hash, &self.torrents);
        let serves = |info_hash| {
            let torrent = by_hash.get(&info_hash).and_then(|key| torrents.get(key));
            torrent.is_some_and(|torrent| torrent.serves() && !torrent.private)
        };
        let (link, datagram) = self.lpd.poll(now, self.settings.port, serves)?;
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
        self.tiers.retain(|known| Rc::strong_count(known) > 1 || **known == tiers);
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

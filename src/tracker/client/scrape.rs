//! Counts of a torrent's peers, where the replies to its announces leave them out: asked for rarely, of many torrents at
//! once, over a connection that an announce has opened.
//!
//! Read first: BEP 48. Omits the wire (`tracker::http`, `tracker::udp`). Which torrents wait for it stands in the client.

use std::rc::Rc;
use std::time::Instant;

use super::Client;
use crate::http::Url;
use crate::metainfo::InfoHash;
use crate::tracker::host::{HostId, back_off};
use crate::tracker::http::scrape_url;
use crate::tracker::{Counts, Failure};

/// Torrents of one scrape: as many as fit a packet, escaped.
pub(super) const MAX_SCRAPE: usize = 16;

/// Seconds before a tracker is asked again for counts that it did not give, doubled each time up to the second number.
const SCRAPE_REST: (u32, u32) = (3600, 24 * 3600);

/// Of which torrents a host is to be asked for counts now. It must be brought back to [`Client::scraped`].
#[derive(Clone, Debug)]
pub struct Scrape {
    /// Whom to ask.
    pub url: Rc<Url>,
    /// Whose connection to use.
    pub host: HostId,
    /// For which torrents.
    pub torrents: Vec<InfoHash>,
    lines: Vec<u32>,
    tracker: u32,
}

impl Client {
    /// The next counts to ask this host for, whose connection is idle. `None`: let it go.
    pub fn poll_scrape(&mut self, host: HostId) -> Option<Scrape> {
        if self.closing || !self.hosts.is_free(host) {
            return None;
        }
        let of_host = self.to_scrape.range((host, 0, 0)..=(host, u32::MAX, u32::MAX));
        let tracker = of_host.clone().next()?.1;
        let taken: Vec<_> = of_host.take_while(|(_, t, _)| *t == tracker).take(MAX_SCRAPE).copied().collect();
        let url = Rc::new(scrape_url(&self.names.tracker(tracker)?.place.as_ref().ok()?.0)?);
        let (mut torrents, mut lines) = (Vec::new(), Vec::new());
        for wanted in taken {
            self.to_scrape.remove(&wanted);
            if let Some(line) = self.line(wanted.2) {
                torrents.push(line.info_hash);
                lines.push(wanted.2);
            }
        }
        // No announce goes beside it.
        self.hosts.begin(host, u32::MAX);
        Some(Scrape { url, host, torrents, lines, tracker })
    }

    /// Takes what came of a scrape: counts in the order of its torrents.
    pub fn scraped(&mut self, scrape: &Scrape, result: Result<&[Counts], &Failure>, now: Instant) {
        let last = self.ceil(now);
        self.hosts.end(scrape.host);
        if let Some(tracker) = self.names.tracker_mut(scrape.tracker) {
            tracker.scrape = match result {
                Ok(_) => (0, 0),
                Err(_) => {
                    let (first, most) = SCRAPE_REST;
                    let rest = back_off(first, most, tracker.scrape.1, &mut self.random);
                    (last.saturating_add(rest), tracker.scrape.1.saturating_add(1))
                }
            };
        }
        let Ok(counts) = result else {
            self.to_scrape.retain(|(_, tracker, _)| *tracker != scrape.tracker);
            return;
        };
        for ((line, info_hash), counts) in scrape.lines.iter().zip(&scrape.torrents).zip(counts) {
            // Another torrent may have its place by now.
            if let Some(line) = self.line_mut(*line).filter(|line| line.info_hash == *info_hash) {
                line.counted(scrape.tracker, *counts);
            }
        }
    }
}

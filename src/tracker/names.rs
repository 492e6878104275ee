//! What many torrents have in common: URLs of trackers, and what trackers say.
//!
//! Read first: nothing; `client` uses this. Holds every URL once and at most 64 KiB of texts.

use std::rc::Rc;

use super::host::{HostId, Hosts, Pool};
use super::http::scrape_url;
use crate::http::{NO_TLS, Scheme, TLS, Url};
use crate::sorted::{SortedMap, SortedSet};

/// Bytes of trackers' texts that are kept for all torrents together.
const MAX_TEXTS: usize = 64 * 1024;

/// A URL that torrents name.
pub(super) struct Tracker {
    /// As torrents name it.
    pub text: Rc<str>,
    /// How to ask it, or why not.
    pub place: Result<(Rc<Url>, HostId), Rc<str>>,
    /// It is not asked for counts before, and scrapes in a row that failed.
    pub scrape: (u32, u8),
    /// Slots that name it.
    slots: u32,
}

/// All URLs.
pub(super) struct Names {
    trackers: Pool<Tracker>,
    numbers: SortedMap<Rc<str>, u32>,
}

/// All texts.
#[derive(Default)]
pub(super) struct Texts {
    texts: SortedSet<Rc<str>>,
    bytes: usize,
}

impl Names {
    /// Knows no URL.
    pub fn new() -> Names {
        Names { trackers: Pool::new(), numbers: SortedMap::new() }
    }

    /// No torrent names one.
    #[cfg(test)]
    pub fn is_empty(&self) -> bool {
        self.trackers.is_empty() && self.numbers.is_empty()
    }

    /// The number of a URL, which one slot more names now.
    pub fn intern(&mut self, url: &str, hosts: &mut Hosts) -> u32 {
        let known = self.numbers.get(url).copied();
        let id = known.unwrap_or_else(|| {
            let text: Rc<str> = url.into();
            let place = match Url::parse_tracker(url) {
                Ok(url) if url.scheme() == Scheme::Https && !TLS => Err(NO_TLS.into()),
                Ok(url) => {
                    let host = hosts.intern(url.origin());
                    Ok((Rc::new(url), host))
                }
                Err(error) => Err(error.to_string().into()),
            };
            let id = self.trackers.insert(Tracker { text: text.clone(), place, scrape: (0, 0), slots: 0 });
            self.numbers.insert(text, id);
            id
        });
        if let Some(tracker) = self.trackers.thing_mut(id) {
            tracker.slots += 1;
        }
        id
    }

    /// One slot less names the URL.
    pub fn release(&mut self, id: u32, hosts: &mut Hosts) {
        let Some(tracker) = self.trackers.thing_mut(id) else { return };
        tracker.slots = tracker.slots.saturating_sub(1);
        if tracker.slots == 0
            && let Some(tracker) = self.trackers.remove(id)
        {
            self.numbers.remove(&tracker.text);
            if let Ok((_, host)) = tracker.place {
                hosts.release(host);
            }
        }
    }

    /// The tracker of that number.
    pub fn tracker(&self, id: u32) -> Option<&Tracker> {
        self.trackers.thing(id)
    }

    /// The tracker of that number.
    pub fn tracker_mut(&mut self, id: u32) -> Option<&mut Tracker> {
        self.trackers.thing_mut(id)
    }

    /// Whether it may be asked for counts now.
    pub fn can_scrape(&self, id: u32, now: u32) -> bool {
        let tracker = self.tracker(id).filter(|tracker| tracker.scrape.0 <= now);
        tracker.and_then(|tracker| scrape_url(&tracker.place.as_ref().ok()?.0)).is_some()
    }

    /// Its host, if it can be asked at all.
    pub fn host(&self, id: u32) -> Option<HostId> {
        self.tracker(id)?.place.as_ref().ok().map(|(_, host)| *host)
    }
}

impl Texts {
    /// Keeps a text once, however many torrents it was said about.
    pub fn keep(&mut self, text: &str) -> Rc<str> {
        if let Some(kept) = self.texts.get(text) {
            return kept.clone();
        }
        if self.bytes + text.len() > MAX_TEXTS {
            self.texts.retain(|text| Rc::strong_count(text) > 1);
            self.bytes = self.texts.iter().map(|text| text.len()).sum();
        }
        let kept: Rc<str> =
            if self.bytes + text.len() > MAX_TEXTS { "(too many texts)" } else { text }.into();
        if self.texts.insert(kept.clone()) {
            self.bytes += kept.len();
        }
        kept
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_have_one_bound_and_make_room_when_nobody_holds_them() {
        let mut texts = Texts::default();
        let held: Vec<Rc<str>> = (0..2000).map(|n| texts.keep(&format!("{n:0>250}"))).collect();
        assert!(texts.bytes <= MAX_TEXTS + 16, "{}", texts.bytes);
        assert_eq!(&*held[1999], "(too many texts)");
        assert!(Rc::ptr_eq(&held[3], &texts.keep(&held[3])));
        drop(held);
        assert_eq!(&*texts.keep("new words"), "new words");
        assert!(texts.texts.len() < 2000);
    }
}

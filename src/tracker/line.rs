//! The announces of one torrent to one list of tiers: a record, and how answers change it.
//!
//! Read first: BEP 12 (tiers), 31 (retry in). Who is asked next is decided in `client`. Holds 112 bytes and 12 for
//! each tracker; what a tracker said is kept only while it said something.

use std::rc::Rc;

use super::host::back_off;
use super::{Counts, Event, Failure, NUMWANT, Retry};
use crate::metainfo::InfoHash;
use crate::random::Random;

/// Seconds between announces, whatever a tracker says: below, we would be a load, above, it would forget us.
const INTERVAL: (u32, u32) = (60, 2 * 3600);

/// The window of an announce as a part of its interval, and its bound in seconds.
const WINDOW: (u32, u32) = (8, 45);

/// Seconds before a tracker that refused is asked again, doubled each time up to the second number.
const RETRY: (u32, u32) = (60, 3600);

/// Minutes of `retry in` that are obeyed: longer is `never`, and that is taken back when the torrent is restarted.
const MAX_RETRY_IN: u32 = 24 * 60;

/// Seconds between two scrapes: where an announce tells nothing of the peers, and where it tells all but downloads.
const SCRAPE: (u32, u32) = (3600, 24 * 3600);

/// The announces of one torrent to one list of tiers. All times are seconds since the client's start.
pub(super) struct Line {
    /// The torrent, as the caller numbers it.
    pub key: u32,
    /// The same on the wire.
    pub info_hash: InfoHash,
    /// Tier by tier.
    pub slots: Box<[Slot]>,
    /// What its trackers said.
    pub notes: Box<[Note]>,
    /// What the last one that answered said of its peers.
    tally: Tally,
    /// From when on the next announce may go along with others.
    pub earliest: u32,
    /// When it goes in any case.
    pub due: u32,
    /// The tracker's `min interval` is over then.
    pub not_before: u32,
    /// Which slot the next announce, or the one under way, is for.
    pub slot: u8,
    /// Peers wanted.
    pub numwant: u8,
    /// Where it is.
    pub phase: Phase,
    /// The last piece came and no tracker was told yet.
    pub completed: bool,
    /// `completed` has been said, or must never be.
    pub whole: bool,
    /// Was removed: only `stopped` is still to be said.
    pub stopping: bool,
    /// The next announce goes together with those of all torrents: at a start, or from another address.
    pub together: bool,
}

/// Where a line is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// In no queue: no tracker can be asked.
    Parked,
    /// In its host's queue.
    Queued,
    /// Under way.
    InFlight,
}

/// A tracker of a torrent.
#[derive(Clone, Copy)]
pub(super) struct Slot {
    /// Its number among all trackers.
    pub tracker: u32,
    /// It is not asked before.
    pub rest_until: u32,
    /// Lower ones are asked first.
    pub tier: u8,
    /// Refusals in a row.
    pub failures: u8,
    /// It heard `started` and not yet `stopped`.
    pub told: bool,
    /// It refused for good.
    pub never: bool,
}

/// What a tracker said about a torrent. Most say nothing.
pub(super) struct Note {
    /// Whose.
    pub tracker: u32,
    /// For the user.
    pub text: Option<Rc<str>>,
    /// What it calls us.
    pub id: Option<Rc<[u8]>>,
}

/// What a tracker said of a torrent's peers. A number that it did not say is [`Tally::UNSAID`].
struct Tally {
    tracker: u32,
    seeds: u32,
    leechers: u32,
    downloads: u32,
    /// It is not asked for them before.
    rest_until: u32,
}

/// What of a reply a line is changed by.
pub(super) struct Answer {
    /// Seconds, as they came.
    pub interval: u32,
    /// The same.
    pub min_interval: u32,
    /// For the user.
    pub warning: Option<Rc<str>>,
    /// What to call ourselves.
    pub tracker_id: Option<Rc<[u8]>>,
    /// What it says of the torrent's peers.
    pub counts: Counts,
}

impl Tally {
    const UNSAID: u32 = u32::MAX;

    fn new(tracker: u32) -> Tally {
        let unsaid = Tally::UNSAID;
        Tally { tracker, seeds: unsaid, leechers: unsaid, downloads: unsaid, rest_until: 0 }
    }
}

impl Line {
    /// A torrent that no tracker was told of.
    pub fn new(key: u32, info_hash: InfoHash, slots: Vec<Slot>, whole: bool, now: u32) -> Line {
        Line {
            key,
            info_hash,
            slots: slots.into(),
            notes: Box::default(),
            tally: Tally::new(u32::MAX),
            earliest: now,
            due: now,
            not_before: 0,
            slot: 0,
            numwant: NUMWANT,
            phase: Phase::Parked,
            completed: false,
            whole,
            stopping: false,
            together: true,
        }
    }

    /// Why the tracker of a slot would be told now.
    pub fn event(&self, slot: &Slot) -> Event {
        match () {
            () if self.stopping => Event::Stopped,
            () if !slot.told => Event::Started,
            () if self.completed => Event::Completed,
            () => Event::None,
        }
    }

    /// The tracker of slot `at` answered: it is the first of its tier from now on, and the next announce is planned; where
    /// it is one of `many` that went together, early by chance, so that they are spread over the interval from then on.
    pub fn answered(
        &mut self,
        at: u8,
        event: Event,
        answer: Answer,
        many: bool,
        last: u32,
        random: &mut Random,
    ) {
        let at = usize::from(at);
        let Some(slot) = self.slots.get_mut(at) else { return };
        (slot.told, slot.failures, slot.rest_until) = (true, 0, 0);
        let (tracker, tier) = (slot.tracker, slot.tier);
        let first = self.slots.iter().position(|slot| slot.tier == tier).unwrap_or(at);
        if !self.stopping {
            self.slots[first..=at].rotate_right(1);
        }
        self.note_mut(tracker, |note| {
            note.text = answer.warning;
            note.id = answer.tracker_id.or(note.id.take());
        });
        self.counted(tracker, answer.counts);
        let interval = answer.interval.clamp(INTERVAL.0, INTERVAL.1);
        let min = answer.min_interval.min(INTERVAL.1);
        let window = (interval / WINDOW.0).min(WINDOW.1);
        let jitter = random.up_to(window / 4);
        self.not_before = last.saturating_add(min);
        let spread = std::mem::take(&mut self.together) && many;
        let period = interval - if spread { random.up_to(interval / 2) } else { 0 };
        if min <= period - window / 2 {
            self.due = last.saturating_add(period - jitter);
            self.earliest = last.saturating_add(min.max(period - window));
        } else {
            // Nothing may go early, so it is planned late enough for the others to have come of age.
            let period = period.max(min);
            self.due = last.saturating_add(period + window / 4 + jitter);
            self.earliest = last.saturating_add(period);
        }
        if event == Event::Completed {
            self.completed = false;
        } else if self.completed {
            (self.due, self.earliest) = (last, last);
        }
    }

    /// The tracker of slot `at` will not have this torrent, or has no idea what it is asked.
    pub fn refused(&mut self, at: u8, failure: &Failure, text: Rc<str>, last: u32, random: &mut Random) {
        let Some(slot) = self.slots.get_mut(usize::from(at)) else { return };
        let retry = match failure {
            Failure::Refused(_, Retry::Minutes(minutes)) if *minutes <= MAX_RETRY_IN => Some(minutes * 60),
            Failure::Refused(_, Retry::Minutes(_) | Retry::Never) => None,
            _ => Some(back_off(RETRY.0, RETRY.1, slot.failures, random)),
        };
        slot.failures = slot.failures.saturating_add(1);
        slot.never = retry.is_none();
        slot.rest_until = last.saturating_add(retry.unwrap_or(0));
        let tracker = slot.tracker;
        self.note_mut(tracker, |note| note.text = Some(text));
    }

    /// A tracker said something of the torrent's peers; what it did not say now it may have said before.
    pub fn counted(&mut self, tracker: u32, counts: Counts) {
        if self.tally.tracker != tracker {
            self.tally = Tally::new(tracker);
        }
        let tally = &mut self.tally;
        for (place, said) in [
            (&mut tally.seeds, counts.seeds),
            (&mut tally.leechers, counts.leechers),
            (&mut tally.downloads, counts.downloads),
        ] {
            *place = said.map_or(*place, |said| said.min(Tally::UNSAID - 1));
        }
    }

    /// What a tracker said of the torrent's peers.
    pub fn counts(&self, tracker: u32) -> Counts {
        if self.tally.tracker != tracker {
            return Counts::default();
        }
        let said = |number: u32| Some(number).filter(|number| *number != Tally::UNSAID);
        let Tally { seeds, leechers, downloads, .. } = self.tally;
        Counts { seeds: said(seeds), leechers: said(leechers), downloads: said(downloads) }
    }

    /// Whether the tracker that answered is to be asked for what it did not say of the peers; rarely so.
    pub fn wants_scrape(&mut self, said: Counts, last: u32) -> bool {
        let pause = match said {
            Counts { seeds: Some(_), leechers: Some(_), downloads: Some(_) } => return false,
            Counts { seeds: Some(_), leechers: Some(_), .. } => SCRAPE.1,
            _ => SCRAPE.0,
        };
        let wants = !self.stopping && self.tally.rest_until <= last;
        if wants {
            self.tally.rest_until = last.saturating_add(pause);
        }
        wants
    }

    /// Plans the announce for a time at which the slot's tracker does not rest any more.
    pub fn plan(&mut self, at: u8, now: u32, random: &mut Random) {
        self.slot = at;
        let rest_until = self.slots.get(usize::from(at)).map_or(0, |slot| slot.rest_until);
        if rest_until > now && !self.stopping {
            self.earliest = self.earliest.max(rest_until);
            let slack = ((rest_until - now) / WINDOW.0).min(WINDOW.1);
            self.due = self.due.max(rest_until + random.up_to(slack));
        }
        self.due = self.due.max(self.earliest);
    }

    pub fn note(&self, tracker: u32) -> Option<&Note> {
        self.notes.iter().find(|note| note.tracker == tracker)
    }

    /// Changes what a tracker said; keeps no note that says nothing.
    fn note_mut(&mut self, tracker: u32, change: impl FnOnce(&mut Note)) {
        let mut notes = std::mem::take(&mut self.notes).into_vec();
        let at = notes.iter().position(|note| note.tracker == tracker);
        let mut note = match at {
            Some(at) => notes.swap_remove(at),
            None => Note { tracker, text: None, id: None },
        };
        change(&mut note);
        if note.text.is_some() || note.id.is_some() {
            notes.push(note);
        }
        self.notes = notes.into();
    }
}

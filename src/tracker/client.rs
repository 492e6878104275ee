//! Who is announced where and when: tiers, intervals, back-off, and announces to one host gathered into bursts.
//!
//! Read first: BEP 3 ("trackers"), 12 (tiers), 31 (retry in), 48 (scrape). The shell takes a [`Request`] from
//! [`Client::poll`], carries it out, brings the answer to [`Client::handle`] and goes on with [`Client::poll_host`] over
//! the same connection. When that has nothing more, [`Client::poll_scrape`] may ask for counts over it. Holds some 170
//! bytes a torrent with one tracker; URLs, hosts and texts are shared.
//!
//! Every announce has a window: it goes at its end, or earlier inside it together with another one to the same
//! host. So a hundred torrents of one tracker wake a router once an interval and not a hundred times.

mod scrape;

use std::fmt;
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::host::{HostId, Hosts, Pool, Trouble, Wait};
use super::line::{Answer, Line, Phase, Slot};
use super::names::{Names, Texts};
use super::{Counts, Event, Failure, MAX_TRACKER_ID, NUMWANT, Reply};
use crate::http::{Scheme, Url};
use crate::metainfo::InfoHash;
use crate::random::Random;
use crate::sorted::{SortedMap, SortedSet};
pub use scrape::Scrape;

/// Trackers of one torrent that are used: public lists name more, mostly dead ones.
const MAX_SLOTS: usize = 64;

/// Trackers of the configuration that every public torrent is announced to.
const MAX_ALSO: usize = 8;

/// What is to be asked of a host now. It must be brought back to [`Client::handle`].
#[derive(Clone, Debug)]
pub struct Request {
    /// The torrent, as it was inserted.
    pub key: u32,
    /// The same on the wire.
    pub info_hash: InfoHash,
    /// Whom to ask.
    pub url: Rc<Url>,
    /// Whose connection to use.
    pub host: HostId,
    /// Why now.
    pub event: Event,
    /// What the tracker calls us.
    pub tracker_id: Option<Rc<[u8]>>,
    /// Peers wanted.
    pub numwant: u8,
    line: u32,
    slot: u8,
    /// Seconds since start.
    began: u32,
}

/// How it stands with a tracker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Not asked: another one of the torrent's trackers works, or its turn has not come.
    Unused,
    /// Waits for its first announce.
    Waiting,
    /// Is being asked.
    Announcing,
    /// Answered.
    Working,
    /// Refused, or answered with what is no reply; is asked again.
    Failed,
    /// Its host can not be reached; is asked again.
    Unreachable,
    /// Refused for good.
    Refused,
    /// We do not speak its protocol, or the URL is broken.
    Unsupported,
}

/// One tracker of a torrent, for the user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrackerStatus {
    /// As the torrent names it.
    pub url: Rc<str>,
    /// How it stands.
    pub state: State,
    /// Seconds to the next announce, if there will be one.
    pub next_announce: Option<u32>,
    /// What it said last, or what went wrong; foreign text.
    pub message: Option<Rc<str>>,
    /// What it said of the torrent's peers.
    pub counts: Counts,
}

/// Announces all torrents.
pub struct Client {
    start: Instant,
    random: Random,
    lines: Pool<Line>,
    /// The lines of each torrent: its own tiers first, then one for each tracker of the configuration.
    of: SortedMap<(u32, u8), u32>,
    names: Names,
    hosts: Hosts,
    texts: Texts,
    /// Host, tracker and line of which more is to be known.
    to_scrape: SortedSet<(HostId, u32, u32)>,
    closing: bool,
}

impl Client {
    /// Knows no torrent. The seed decides how tiers are shuffled and how much late is how late.
    pub fn new(seed: u64, now: Instant) -> Client {
        Client {
            start: now,
            random: Random::new(seed),
            lines: Pool::new(),
            of: SortedMap::new(),
            names: Names::new(),
            hosts: Hosts::new(),
            texts: Texts::default(),
            to_scrape: SortedSet::new(),
            closing: false,
        }
    }

    /// Announces a torrent from now on: to the first tracker of `tiers` that works (BEP 12), and to each of `also`.
    /// `complete`: the data was whole at the start, so that `completed` will never be said.
    pub fn insert(
        &mut self,
        key: u32,
        info_hash: InfoHash,
        tiers: &[Vec<String>],
        also: &[String],
        complete: bool,
        now: Instant,
    ) {
        self.remove(key, now);
        if self.closing {
            return;
        }
        let also = &also[..also.len().min(MAX_ALSO)];
        let mut own: Vec<Slot> = Vec::new();
        for (tier, urls) in tiers.iter().enumerate() {
            let from = own.len();
            for url in urls.iter().filter(|url| !also.contains(url)) {
                if own.len() < MAX_SLOTS && !own.iter().any(|slot| self.text(slot.tracker) == Some(url)) {
                    own.push(self.slot(url, u8::try_from(tier).unwrap_or(u8::MAX)));
                }
            }
            for last in (from + 1..own.len()).rev() {
                let other = from + self.random.below(last + 1 - from);
                own.swap(last, other);
            }
        }
        self.insert_line(key, 0, info_hash, own, complete, now);
        for (n, url) in (1..).zip(also) {
            let slot = self.slot(url, 0);
            self.insert_line(key, n, info_hash, vec![slot], complete, now);
        }
    }

    /// Ends the announces of a torrent; trackers that know it are told `stopped`.
    pub fn remove(&mut self, key: u32, now: Instant) {
        for n in 0..=u8::MAX {
            let Some(id) = self.of.remove(&(key, n)) else {
                // A torrent may have no tiers of its own and yet be announced elsewhere.
                if n == 0 { continue } else { break }
            };
            self.stop(id, now);
        }
    }

    /// The last piece of a torrent has come. Does nothing where the data was whole at the start.
    pub fn completed(&mut self, key: u32, now: Instant) {
        let now = self.floor(now);
        for id in self.lines_of(key) {
            let Some(line) = self.line_mut(id) else { continue };
            if !std::mem::replace(&mut line.whole, true) {
                line.completed = true;
                self.hasten(id, now, now);
            }
        }
    }

    /// How many peers the torrent wants to hear of (at most [`NUMWANT`]); a seed that knows enough wants none.
    pub fn want_peers(&mut self, key: u32, count: u8) {
        for id in self.lines_of(key) {
            if let Some(line) = self.line_mut(id) {
                line.numwant = count.min(NUMWANT);
            }
        }
    }

    /// Announces a torrent as soon as its trackers allow, whatever went wrong before.
    pub fn reannounce(&mut self, key: u32, now: Instant) {
        let now = self.floor(now);
        for id in self.lines_of(key) {
            let Some(line) = self.line_mut(id) else { continue };
            for slot in &mut line.slots {
                (slot.rest_until, slot.failures, slot.never) = (0, 0, false);
            }
            let not_before = line.not_before.max(now);
            for tracker in line.slots.iter().map(|slot| slot.tracker).collect::<Vec<_>>() {
                if let Some(host) = self.names.host(tracker) {
                    self.hosts.forgive(host);
                }
            }
            self.hasten(id, not_before, now);
        }
    }

    /// The network is another: hosts that could not be reached are tried again, each by one of those who wait for it.
    pub fn network_changed(&mut self) {
        self.hosts.forgive_unreached();
    }

    /// Our addresses are others: trackers that know us are told of each torrent as soon as they allow.
    pub fn readdressed(&mut self, now: Instant) {
        let now = self.floor(now);
        for id in self.of.values().copied().collect::<Vec<_>>() {
            let Some(line) = self.line_mut(id) else { continue };
            let at = line.not_before.max(now);
            if line.phase == Phase::Queued && line.due > at && line.slots.iter().any(|slot| slot.told) {
                line.together = true;
                self.hasten(id, at, now);
            }
        }
    }

    /// Says `stopped` wherever a torrent is known, and nothing else any more.
    pub fn shutdown(&mut self, now: Instant) {
        self.closing = true;
        self.to_scrape.clear();
        self.hosts.hurry();
        let ids = self.of.values().copied().collect::<Vec<_>>();
        self.of.clear();
        for id in ids {
            self.stop(id, now);
        }
    }

    /// Nothing is left to be said: after [`Client::shutdown`] this is the end.
    pub fn is_idle(&self) -> bool {
        self.lines.is_empty()
    }

    /// The next announce to a host that is not being asked.
    pub fn poll(&mut self, now: Instant) -> Option<Request> {
        let now = self.floor(now);
        while let Some(host) = self.hosts.first(now) {
            self.hosts.begin_turn(host, now);
            let request = self.dispatch(host, now);
            if request.is_some() {
                return request;
            }
        }
        None
    }

    /// The next announce to this host, which has just answered. `None`: let its connection go.
    pub fn poll_host(&mut self, host: HostId, now: Instant) -> Option<Request> {
        let now = self.floor(now);
        if self.hosts.turn_is_over(host, now) {
            self.hosts.step_back(host, now);
            return None;
        }
        self.dispatch(host, now)
    }

    /// When [`Client::poll`] will have something, unless `handle` has it earlier.
    pub fn deadline(&self) -> Option<Instant> {
        let at = self.hosts.deadline()?;
        self.start.checked_add(Duration::from_secs(at.into()))
    }

    /// Takes what came of a request. The peers of the reply are the caller's.
    pub fn handle(&mut self, request: &Request, result: Result<&Reply, &Failure>, now: Instant) {
        let (floor, last) = (self.floor(now), self.ceil(now));
        let datagrams = request.url.scheme() == Scheme::Udp;
        self.hosts.end(request.host);
        let Some(line) = self.line_mut(request.line).filter(|line| line.phase == Phase::InFlight) else {
            return;
        };
        line.phase = Phase::Parked;
        match result {
            Ok(reply) => {
                self.hosts.reached(request.host, datagrams, floor);
                let answer = Answer {
                    interval: reply.interval,
                    min_interval: reply.min_interval.unwrap_or(0),
                    warning: reply.warning.as_deref().map(|text| self.texts.keep(text)),
                    tracker_id: reply
                        .tracker_id
                        .as_deref()
                        .filter(|id| id.len() <= MAX_TRACKER_ID)
                        .map(Rc::from),
                    counts: reply.counts(),
                };
                let many = self.hosts.is_asked_for_many(request.host);
                if let Some(line) = self.lines.thing_mut(request.line) {
                    let tracker = line.slots.get(usize::from(request.slot)).map(|slot| slot.tracker);
                    line.answered(request.slot, request.event, answer, many, last, &mut self.random);
                    let asked = tracker.filter(|tracker| self.names.can_scrape(*tracker, last));
                    if let Some(tracker) = asked.filter(|_| line.wants_scrape(reply.counts(), last)) {
                        self.to_scrape.insert((request.host, tracker, request.line));
                    }
                }
            }
            Err(failure) => {
                let trouble = match failure {
                    Failure::Resolve(_) => Some(Trouble::Unresolved),
                    Failure::Transport(_) if self.hosts.has_answered_since(request.host, request.began) => {
                        None
                    }
                    Failure::Transport(_) => Some(Trouble::Unreached),
                    Failure::Busy(_, seconds) => Some(Trouble::Busy(seconds.unwrap_or(0))),
                    Failure::Url(_) | Failure::Reply(_) | Failure::Refused(..) => None,
                };
                if let Some(trouble) = trouble {
                    let text = self.texts.keep(&failure.to_string());
                    self.hosts.failed(request.host, trouble, text, last, &mut self.random);
                    self.evacuate(request.host, floor);
                } else {
                    if !matches!(failure, Failure::Transport(_)) {
                        self.hosts.reached(request.host, datagrams, floor);
                    }
                    let text = self.texts.keep(&failure.to_string());
                    if let Some(line) = self.lines.thing_mut(request.line) {
                        line.refused(request.slot, failure, text, last, &mut self.random);
                    }
                }
                if let Some(line) = self.line_mut(request.line) {
                    (line.due, line.earliest) = (floor, floor);
                }
            }
        }
        if let Some(line) = self.line_mut(request.line).filter(|line| line.stopping) {
            (line.earliest, line.due) = (0, floor);
            // Best effort: a tracker that did not hear it forgets us by itself.
            if request.event == Event::Stopped
                && let Some(slot) = line.slots.get_mut(usize::from(request.slot))
            {
                slot.told = false;
            }
        }
        self.place(request.line, floor);
    }

    /// The trackers of a torrent and how it stands with them.
    pub fn status(&self, key: u32, now: Instant) -> Vec<TrackerStatus> {
        let now = self.floor(now);
        let mut all = Vec::new();
        for line in self.of.range((key, 0)..=(key, u8::MAX)).filter_map(|(_, id)| self.line(*id)) {
            all.extend((0..line.slots.len()).filter_map(|at| self.slot_status(line, at, now)));
        }
        all
    }

    fn slot_status(&self, line: &Line, at: usize, now: u32) -> Option<TrackerStatus> {
        let slot = line.slots.get(at)?;
        let tracker = self.names.tracker(slot.tracker)?;
        let current = usize::from(line.slot) == at && line.phase != Phase::Parked;
        let mut message = line.note(slot.tracker).and_then(|note| note.text.clone());
        let mut next = None;
        let state = match &tracker.place {
            Err(why) => {
                message = Some(why.clone());
                State::Unsupported
            }
            Ok(_) if slot.never => State::Refused,
            Ok(_) if current && line.phase == Phase::InFlight => State::Announcing,
            Ok((_, host)) => {
                let host = self.hosts.host(*host)?;
                if current {
                    next = Some(line.due.max(host.rest_until).saturating_sub(now));
                }
                if let Some(trouble) = &host.trouble {
                    message = Some(trouble.clone());
                    State::Unreachable
                } else if slot.failures > 0 {
                    State::Failed
                } else if slot.told {
                    State::Working
                } else if current {
                    State::Waiting
                } else {
                    State::Unused
                }
            }
        };
        let counts = line.counts(slot.tracker);
        Some(TrackerStatus { url: tracker.text.clone(), state, next_announce: next, message, counts })
    }

    /// A line's announce to a host whose time has come. Lines that go elsewhere by now are moved there.
    fn dispatch(&mut self, host: HostId, now: u32) -> Option<Request> {
        loop {
            let wait = self.hosts.next(host, now)?;
            let chosen = self.choose(wait.line, now);
            let goes = chosen.filter(|(_, ready)| *ready <= now).map(|(slot, _)| slot);
            let goes =
                goes.filter(|slot| self.line(wait.line).and_then(|l| self.slot_host(l, *slot)) == Some(host));
            let Some(slot) = goes else {
                // Not here: to a better tracker that can be asked again, and now.
                self.unqueue(wait.line);
                if let Some(line) = self.line_mut(wait.line) {
                    line.earliest = line.earliest.min(now);
                    line.due = line.due.min(now);
                }
                self.place(wait.line, now);
                continue;
            };
            self.unqueue(wait.line);
            let line = self.line_mut(wait.line)?;
            line.phase = Phase::InFlight;
            line.slot = slot;
            let at = &line.slots[usize::from(slot)];
            let event = line.event(at);
            let (tracker, key, info_hash) = (at.tracker, line.key, line.info_hash);
            let numwant = if line.stopping { 0 } else { line.numwant };
            let tracker_id = line.note(tracker).and_then(|note| note.id.clone());
            let url = self.names.tracker(tracker)?.place.as_ref().ok()?.0.clone();
            self.hosts.begin(host, now);
            return Some(Request {
                key,
                info_hash,
                url,
                host,
                event,
                tracker_id,
                numwant,
                line: wait.line,
                slot,
                began: now,
            });
        }
    }

    /// Which slot the next announce goes to and from when on: the first in the order of tiers that may be asked now,
    /// else the one that may be asked first.
    fn choose(&self, id: u32, now: u32) -> Option<(u8, u32)> {
        let line = self.line(id)?;
        let mut best: Option<(u8, u32)> = None;
        for (at, slot) in (0_u8..).zip(line.slots.iter()) {
            if slot.never || (line.stopping && !slot.told) {
                continue;
            }
            let Some(id) = self.names.host(slot.tracker) else { continue };
            let Some(host) = self.hosts.host(id) else { continue };
            let mut ready = host.rest_until.max(if line.stopping { 0 } else { slot.rest_until });
            // One finds out for all; those who have waited there already stay.
            let waits = line.phase == Phase::Queued && self.slot_host(line, line.slot) == Some(id);
            if !waits && self.hosts.is_probed(id) {
                ready = ready.max(now.saturating_add(1));
            }
            if ready <= now {
                return Some((at, ready));
            }
            if best.is_none_or(|(_, other)| ready < other) {
                best = Some((at, ready));
            }
        }
        // Nobody waits with a `stopped` for a host to come back.
        best.filter(|_| !line.stopping)
    }

    /// Puts a line that is in no queue into that of the host it should be announced to next.
    fn place(&mut self, id: u32, now: u32) {
        let chosen = self.choose(id, now);
        let Some(line) = self.lines.thing_mut(id) else { return };
        if line.phase != Phase::Parked {
            return;
        }
        let Some((at, _)) = chosen else {
            if line.stopping {
                self.free_line(id);
            }
            return;
        };
        line.plan(at, now, &mut self.random);
        let tracker = line.slots[usize::from(at)].tracker;
        let wait = Wait { earliest: line.earliest, due: line.due, line: id };
        if let Some(host) = self.names.host(tracker) {
            self.hosts.enqueue(host, wait);
            if let Some(line) = self.line_mut(id) {
                line.phase = Phase::Queued;
            }
        }
    }

    /// Takes a line out of its queue.
    fn unqueue(&mut self, id: u32) {
        let Some(line) = self.line(id).filter(|line| line.phase == Phase::Queued) else { return };
        let wait = Wait { earliest: line.earliest, due: line.due, line: id };
        if let Some(host) = self.slot_host(line, line.slot) {
            self.hosts.dequeue(host, wait);
        }
        if let Some(line) = self.line_mut(id) {
            line.phase = Phase::Parked;
        }
    }

    /// Lets those who wait for a host that can not be reached go to their other trackers, and drops the `stopped`
    /// that it would have heard.
    fn evacuate(&mut self, host: HostId, now: u32) {
        for id in self.hosts.queued(host) {
            let Some(line) = self.line_mut(id) else { continue };
            if line.slots.len() < 2 && !line.stopping {
                continue;
            }
            self.unqueue(id);
            self.place(id, now);
        }
    }

    /// Announces a line at `at`, or later where its trackers rest.
    fn hasten(&mut self, id: u32, at: u32, now: u32) {
        self.unqueue(id);
        if let Some(line) = self.line_mut(id) {
            (line.earliest, line.due) = (at, at);
        }
        self.place(id, now);
    }

    /// Turns a line's announces into a last one, or drops it where no tracker knows it.
    fn stop(&mut self, id: u32, now: Instant) {
        let now = self.floor(now);
        self.unqueue(id);
        let Some(line) = self.line_mut(id) else { return };
        line.stopping = true;
        // Before all others in the queue: what starts now may be the same torrent again.
        (line.earliest, line.due) = (0, now);
        self.place(id, now);
    }

    fn insert_line(
        &mut self,
        key: u32,
        n: u8,
        info_hash: InfoHash,
        slots: Vec<Slot>,
        whole: bool,
        now: Instant,
    ) {
        if slots.is_empty() {
            return;
        }
        let now = self.floor(now);
        let id = self.lines.insert(Line::new(key, info_hash, slots, whole, now));
        self.of.insert((key, n), id);
        self.place(id, now);
    }

    fn free_line(&mut self, id: u32) {
        let Some(line) = self.lines.remove(id) else { return };
        for slot in &line.slots {
            if let Some(host) = self.names.host(slot.tracker) {
                self.to_scrape.remove(&(host, slot.tracker, id));
            }
            self.names.release(slot.tracker, &mut self.hosts);
        }
    }

    fn slot(&mut self, url: &str, tier: u8) -> Slot {
        let tracker = self.names.intern(url, &mut self.hosts);
        Slot { tracker, rest_until: 0, tier, failures: 0, told: false, never: false }
    }

    fn lines_of(&self, key: u32) -> Vec<u32> {
        self.of.range((key, 0)..=(key, u8::MAX)).map(|(_, id)| *id).collect()
    }

    fn line(&self, id: u32) -> Option<&Line> {
        self.lines.thing(id)
    }

    fn line_mut(&mut self, id: u32) -> Option<&mut Line> {
        self.lines.thing_mut(id)
    }

    fn text(&self, tracker: u32) -> Option<&str> {
        self.names.tracker(tracker).map(|tracker| &*tracker.text)
    }

    fn slot_host(&self, line: &Line, slot: u8) -> Option<HostId> {
        self.names.host(line.slots.get(usize::from(slot))?.tracker)
    }

    fn floor(&self, now: Instant) -> u32 {
        u32::try_from(now.saturating_duration_since(self.start).as_secs()).unwrap_or(u32::MAX)
    }

    /// An interval that began inside a second is not over before as far into another one.
    fn ceil(&self, now: Instant) -> u32 {
        self.floor(now).saturating_add(1)
    }
}

impl State {
    /// As the status names it.
    pub fn as_str(self) -> &'static str {
        match self {
            State::Unused => "unused",
            State::Waiting => "waiting",
            State::Announcing => "announcing",
            State::Working => "working",
            State::Failed => "failed",
            State::Unreachable => "unreachable",
            State::Refused => "refused",
            State::Unsupported => "unsupported",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeSet, HashMap};

    use super::super::Retry;
    use super::scrape::MAX_SCRAPE;
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    type Answer = Result<Reply, Failure>;

    /// What a host does with a request, and how long it takes.
    type Behaviour = Box<dyn FnMut(&Request) -> (Duration, Answer)>;

    /// A network of trackers on a virtual clock, served as the daemon does it.
    struct World {
        client: Client,
        start: Instant,
        now: Instant,
        hosts: HashMap<String, Behaviour>,
        under_way: Vec<(Instant, Request, Answer)>,
        /// Second, URL, event, key.
        log: Vec<(f64, String, Event, u32)>,
        /// Times that the timer went off.
        wakes: Vec<f64>,
    }

    impl World {
        #[expect(clippy::disallowed_methods, reason = "some instant to count from")]
        fn new() -> World {
            let start = Instant::now();
            World {
                client: Client::new(7, start),
                start,
                now: start,
                hosts: HashMap::new(),
                under_way: Vec::new(),
                log: Vec::new(),
                wakes: Vec::new(),
            }
        }

        fn host(&mut self, name: &str, behaviour: impl FnMut(&Request) -> (Duration, Answer) + 'static) {
            self.hosts.insert(name.into(), Box::new(behaviour));
        }

        fn insert(&mut self, key: u32, tiers: &[&[&str]]) {
            let tiers: Vec<Vec<String>> =
                tiers.iter().map(|tier| tier.iter().map(|url| (*url).to_owned()).collect()).collect();
            self.client.insert(key, hash(key), &tiers, &[], false, self.now);
        }

        fn send(&mut self, request: Request) {
            let at = self.secs();
            self.log.push((at, request.url.as_str().to_owned(), request.event, request.key));
            let busy = self.under_way.iter().filter(|(_, other, _)| other.host == request.host).count();
            let most = if request.url.scheme() == Scheme::Udp { 4 } else { 1 };
            assert!(busy < most, "{busy} requests to {}", request.url);
            let behaviour = self.hosts.get_mut(request.url.host()).expect("a host that the test knows");
            let (time, answer) = behaviour(&request);
            self.under_way.push((self.now + time, request, answer));
        }

        fn secs(&self) -> f64 {
            (self.now - self.start).as_secs_f64()
        }

        /// Runs until `seconds` after the start.
        fn run(&mut self, seconds: u64) {
            let end = self.start + Duration::from_secs(seconds);
            let mut idle = 0;
            loop {
                while let Some(request) = self.client.poll(self.now) {
                    self.send(request);
                    idle = 0;
                }
                assert!(self.under_way.len() <= super::super::host::MAX_BUSY * 2);
                let answer = self.under_way.iter().map(|(at, ..)| *at).min();
                let timer = self.client.deadline();
                let Some(next) = answer.into_iter().chain(timer).min() else { break };
                if next > end {
                    break;
                }
                idle += 1;
                assert!(idle < 1000, "the timer goes off for nothing at {}", self.secs());
                self.now = self.now.max(next);
                if answer.is_none_or(|answer| timer.is_some_and(|timer| timer < answer)) {
                    self.wakes.push(self.secs());
                }
                while let Some(n) = self.under_way.iter().position(|(at, ..)| *at <= self.now) {
                    let (_, request, answer) = self.under_way.swap_remove(n);
                    self.client.handle(&request, answer.as_ref(), self.now);
                    idle = 0;
                    if let Some(next) = self.client.poll_host(request.host, self.now) {
                        assert_eq!(next.host, request.host);
                        self.send(next);
                    }
                }
            }
            self.now = self.now.max(end);
        }

        fn urls(&self) -> Vec<&str> {
            self.log.iter().map(|(_, url, ..)| url.as_str()).collect()
        }

        fn events(&self, key: u32) -> Vec<Event> {
            self.log.iter().filter(|(.., k)| *k == key).map(|(_, _, event, _)| *event).collect()
        }

        fn times(&self) -> Vec<f64> {
            self.log.iter().map(|(at, ..)| *at).collect()
        }

        fn states(&self, key: u32) -> Vec<State> {
            self.client.status(key, self.now).iter().map(|status| status.state).collect()
        }
    }

    fn hash(key: u32) -> InfoHash {
        let mut bytes = [0; 20];
        bytes[..4].copy_from_slice(&key.to_be_bytes());
        InfoHash::from_bytes(bytes)
    }

    fn every(interval: u32) -> impl FnMut(&Request) -> (Duration, Answer) {
        move |_| (MS, Ok(Reply { interval, ..Reply::default() }))
    }

    fn dead(seconds: u64) -> impl FnMut(&Request) -> (Duration, Answer) {
        move |_| (Duration::from_secs(seconds), Err(Failure::Transport("no connection".into())))
    }

    fn refusing(retry: Retry) -> impl FnMut(&Request) -> (Duration, Answer) {
        move |_| (MS, Err(Failure::Refused("unknown torrent".into(), retry)))
    }

    const A: &str = "http://a.example/announce";
    const B: &str = "http://b.example/announce";
    const C: &str = "http://c.example/announce";

    #[test]
    fn a_thousand_torrents_start_within_a_second_without_a_storm() {
        let mut world = World::new();
        world.host("a.example", every(1800));
        for key in 0..1000 {
            world.insert(key, &[&[A]]);
        }
        world.run(60);
        assert_eq!(world.log.len(), 1000);
        assert!(world.log.iter().all(|(.., event, _)| *event == Event::Started));
        assert_eq!(world.log.iter().map(|(.., key)| *key).collect::<Vec<_>>(), (0..1000).collect::<Vec<_>>());
        assert!(world.log[999].0 < 1.1, "{}", world.log[999].0);
        assert_eq!(world.client.status(5, world.now)[0].state, State::Working);
    }

    #[test]
    fn a_lost_datagram_delays_its_own_torrent_alone() {
        const U: &str = "udp://u.example:1/announce";
        let answer =
            |late: u64| (MS + Duration::from_secs(late), Ok(Reply { interval: 1800, ..Reply::default() }));
        let mut world = World::new();
        // Each tenth is answered when it is asked again.
        world.host("u.example", move |request| answer(if request.key % 10 == 1 { 15 } else { 0 }));
        (0..40).for_each(|key| world.insert(key, &[&[U]]));
        world.run(60);
        assert_eq!(world.log.len(), 40);
        assert!(world.log[39].0 < 20.0, "{:?}", world.times());
        // Nor is a host dead that never answers for one torrent and does for those that come after it.
        let mut world = World::new();
        let mut never = dead(75);
        world.host("u.example", move |request| if request.key == 7 { never(request) } else { answer(0) });
        (0..40).for_each(|key| world.insert(key, &[&[U]]));
        world.run(80);
        assert_eq!((world.states(7), world.states(39)), (vec![State::Failed], vec![State::Working]));
        // One that has never answered may be dead, and over TCP nothing is lost.
        for (url, late) in [(U, 45), (A, 10)] {
            let mut world = World::new();
            let mut silent = dead(late);
            let silent = move |request: &Request| if late > 10 { silent(request) } else { answer(late) };
            world.host(if late > 10 { "u.example" } else { "a.example" }, silent);
            (0..40).for_each(|key| world.insert(key, &[&[url]]));
            world.run(9);
            assert_eq!(world.log.len(), 1);
        }
    }

    #[test]
    fn a_host_that_falls_silent_is_asked_no_more_than_a_few_times_at_a_time() {
        const U: &str = "udp://u.example:1/announce";
        let mut world = World::new();
        let (mut first, mut later) = (every(600), dead(75));
        world
            .host("u.example", move |request| if request.key == 0 { first(request) } else { later(request) });
        (0..40).for_each(|key| world.insert(key, &[&[U]]));
        world.run(70);
        assert_eq!(world.log.len(), 5, "one, and four at a time");
        world.run(80);
        assert_eq!(world.states(39), [State::Unreachable]);
        // It rests as one that has failed once.
        world.run(120);
        assert_eq!(world.log.len(), 6, "{:?}", world.times());
        world.client.shutdown(world.now);
        world.run(400);
        assert!(world.client.is_idle() && world.client.hosts.is_empty());
    }

    #[test]
    fn a_thousand_torrents_are_spread_over_the_interval_in_bursts() {
        for min_interval in [None, Some(600)] {
            let mut world = World::new();
            world.host("a.example", move |_| {
                (MS, Ok(Reply { interval: 1800, min_interval, ..Reply::default() }))
            });
            for key in 0..1000 {
                world.insert(key, &[&[A]]);
            }
            world.run(1900);
            world.client.readdressed(world.now);
            world.run(4000);
            world.log.clear();
            world.wakes.clear();
            world.run(4000 + 18_000);
            assert!((10_000..=10_500).contains(&world.log.len()), "{}", world.log.len());
            // One burst for each window of 45 s at most.
            assert!(world.wakes.len() <= 10 * 40, "{}", world.wakes.len());
            for minute in world.times().chunk_by(|one, other| (one / 60.0).floor() == (other / 60.0).floor())
            {
                assert!(minute.len() < 300, "{} in a minute", minute.len());
            }
            let of_one: Vec<f64> =
                world.log.iter().filter(|(.., key)| *key == 7).map(|(at, ..)| *at).collect();
            assert!(
                of_one.windows(2).all(|pair| (1500.0..=1802.0).contains(&(pair[1] - pair[0]))),
                "{of_one:?}"
            );
        }
    }

    #[test]
    fn a_hundred_torrents_wake_us_once_an_interval() {
        let mut world = World::new();
        world.host("a.example", every(300));
        for key in 0..100 {
            world.insert(key, &[&[A]]);
        }
        world.run(3600);
        // Twelve intervals of 300 s, each a little early; the first burst is no wake-up.
        assert!((11..=13).contains(&world.wakes.len()), "{:?}", world.wakes);
        assert!((1200..=1400).contains(&world.log.len()), "{}", world.log.len());
    }

    #[test]
    fn torrents_that_came_one_by_one_are_gathered() {
        let mut world = World::new();
        world.host("a.example", every(300));
        for key in 0..100 {
            world.insert(key, &[&[A]]);
            world.run(u64::from(key) * 3);
        }
        world.run(3600);
        world.wakes.clear();
        let announces = world.log.len();
        world.run(7200);
        // At most one burst for each window of 37 s in 300 s.
        assert!(world.wakes.len() <= 12 * 9, "{}", world.wakes.len());
        assert!(world.log.len() - announces <= 100 * 14);
    }

    #[test]
    fn an_interval_is_kept_to_an_eighth_and_a_min_interval_always() {
        for (interval, min) in [
            (300, None),
            (300, Some(300)),
            (300, Some(290)),
            (300, Some(150)),
            (600, Some(900)),
            (61, Some(61)),
        ] {
            let mut world = World::new();
            world.host("a.example", move |_| {
                (MS, Ok(Reply { interval, min_interval: min, ..Reply::default() }))
            });
            for key in 0..50 {
                world.insert(key, &[&[A]]);
            }
            world.run(6000);
            let mut last = HashMap::new();
            for (at, _, _, key) in &world.log {
                if let Some(before) = last.insert(*key, *at) {
                    let gap = at - before;
                    let period = f64::from(interval.max(min.unwrap_or(0)));
                    assert!(gap >= f64::from(min.unwrap_or(0)), "{gap} is less than {min:?}");
                    assert!(
                        gap >= period * 0.87 - 1.0 && gap <= period * 1.125 + 3.0,
                        "{gap} for {interval}, {min:?}"
                    );
                }
            }
            assert!(world.wakes.len() <= 6000 / 60 + 5, "{interval} {min:?}: {}", world.wakes.len());
            let periods = 6000 / interval.max(min.unwrap_or(0)) + 2;
            assert!(
                world.wakes.len() <= usize::try_from(periods * 3).unwrap(),
                "{interval} {min:?}: {:?}",
                world.wakes
            );
        }
    }

    #[test]
    fn intervals_are_clamped() {
        for (said, least, most) in [(0, 50.0, 70.0), (1, 50.0, 70.0), (u32::MAX, 7000.0, 7300.0)] {
            let mut world = World::new();
            world.host("a.example", move |_| {
                (MS, Ok(Reply { interval: said, min_interval: Some(said), ..Reply::default() }))
            });
            world.insert(1, &[&[A]]);
            world.run(8000);
            let gap = world.log[1].0 - world.log[0].0;
            assert!((least..most).contains(&gap), "{gap} for {said}");
        }
    }

    #[test]
    fn a_dead_host_starves_nobody_and_is_not_tried_by_every_torrent() {
        let mut world = World::new();
        world.host("a.example", dead(30));
        world.host("b.example", every(1800));
        for key in 0..500 {
            world.insert(key, &[&[A]]);
            world.insert(1000 + key, &[&[B]]);
        }
        world.run(60);
        assert_eq!(world.log.iter().filter(|(_, url, ..)| url == B).count(), 500);
        assert!(world.log.iter().filter(|(_, url, ..)| url == B).all(|(at, ..)| *at < 1.0));
        world.run(3600);
        let tries: Vec<f64> = world.log.iter().filter(|(_, url, ..)| url == A).map(|(at, ..)| *at).collect();
        assert!(tries.len() <= 9, "{tries:?}");
        assert_eq!(world.states(3), [State::Unreachable]);
        let status = world.client.status(3, world.now);
        assert_eq!(status[0].message.as_deref(), Some("no connection"));
        assert!(status[0].next_announce.is_some_and(|seconds| seconds < 2300));
        // It comes back: all are announced at its next turn.
        world.host("a.example", every(1800));
        world.run(3600 + 2300);
        assert!((0..500).all(|key| world.events(key).contains(&Event::Started)));
        assert_eq!(world.states(3), [State::Working]);
    }

    #[test]
    fn those_who_have_another_tracker_wait_for_a_dead_one_once() {
        let mut world = World::new();
        world.host("a.example", dead(30));
        world.host("b.example", |_| (100 * MS, Ok(Reply::default())));
        for key in 0..1000 {
            world.insert(key, if key % 2 == 0 { &[&[A], &[B]] } else { &[&[B], &[A]] });
        }
        world.run(150);
        let heard: BTreeSet<u32> =
            world.log.iter().filter(|(_, url, ..)| url == B).map(|(.., key)| *key).collect();
        assert_eq!(heard.len(), 1000);
        let last = world.log.iter().rfind(|(_, url, ..)| url == B).unwrap().0;
        assert!(last < 102.0, "the last one had to wait until {last}");
        // Back again it is asked by all who would rather ask it.
        world.host("a.example", every(1800));
        world.run(2 * 3600);
        assert!((0..1000).step_by(2).all(|key| world.states(key)[0] == State::Working));
    }

    #[test]
    fn many_dead_hosts_leave_room_for_a_live_one() {
        let mut world = World::new();
        for n in 0..30 {
            world.host(&format!("dead{n}.example"), dead(10));
            world.insert(n, &[&[&format!("http://dead{n}.example/announce")]]);
        }
        world.host("b.example", every(1800));
        world.insert(100, &[&[B]]);
        world.run(60);
        assert!(world.events(100).contains(&Event::Started));
    }

    #[test]
    fn a_slow_host_with_a_long_queue_lets_others_have_their_turn() {
        let mut world = World::new();
        for n in 0..20_u32 {
            let name = format!("slow{n}.example");
            world.host(&name, |_| (Duration::from_secs(5), Ok(Reply::default())));
            for key in 0..100 {
                world.insert(n * 1000 + key, &[&[&format!("http://{name}/announce")]]);
            }
        }
        world.host("b.example", every(1800));
        world.insert(99_000, &[&[B]]);
        world.run(120);
        assert!(world.events(99_000).contains(&Event::Started));
        let served: BTreeSet<&str> = world.urls().into_iter().collect();
        assert_eq!(served.len(), 21, "every host had a turn");
    }

    #[test]
    fn back_off_of_a_host_grows_and_is_capped() {
        let mut world = World::new();
        world.host("a.example", dead(0));
        world.insert(1, &[&[A]]);
        world.run(40_000);
        let gaps: Vec<f64> = world.times().windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert!((20.0..=27.0).contains(&gaps[0]), "{gaps:?}");
        assert!(gaps.windows(2).take(5).all(|pair| pair[1] > pair[0]), "{gaps:?}");
        assert!(gaps.iter().all(|gap| *gap <= 1800.0 * 1.25 + 2.0));
        assert!(gaps.iter().skip(8).all(|gap| *gap >= 1800.0));
        let different = gaps.iter().skip(8).map(|gap| gap.to_bits()).collect::<BTreeSet<_>>();
        assert!(different.len() > 3, "no jitter: {gaps:?}");
    }

    #[test]
    fn a_name_that_does_not_resolve_is_asked_again_within_minutes() {
        let mut world = World::new();
        world.host("a.example", |_| (MS, Err(Failure::Resolve("no such name".into()))));
        world.insert(1, &[&[A]]);
        world.run(20_000);
        let times = world.times();
        assert!(times.windows(2).all(|pair| pair[1] - pair[0] <= 300.0 * 1.25 + 2.0));
        assert!(times.len() < 80);
    }

    #[test]
    fn an_overloaded_host_is_left_alone_as_long_as_it_asks() {
        let mut world = World::new();
        world.host("a.example", |_| (MS, Err(Failure::Busy(503, Some(500)))));
        for key in 0..10 {
            world.insert(key, &[&[A]]);
        }
        world.run(480);
        assert_eq!(world.log.len(), 1);
        world.run(520);
        assert_eq!(world.log.len(), 2);
        world.host("a.example", |_| (MS, Err(Failure::Busy(503, Some(u32::MAX)))));
        world.run(20_000);
        assert!(world.log.len() >= 5, "an hour is the most it can ask for");
    }

    #[test]
    fn a_refused_torrent_backs_off_alone() {
        let mut world = World::new();
        world.host("a.example", |request| {
            if request.key == 1 {
                (MS, Err(Failure::Refused("unregistered".into(), Retry::Unsaid)))
            } else {
                (MS, Ok(Reply { interval: 600, ..Reply::default() }))
            }
        });
        world.insert(1, &[&[A]]);
        world.insert(2, &[&[A]]);
        world.run(20_000);
        assert!(world.events(2).len() >= 33);
        let tries = world.events(1).len();
        assert!((8..=14).contains(&tries), "{tries}");
        assert!(world.events(1).iter().all(|event| *event == Event::Started), "it never heard the first one");
        let status = world.client.status(1, world.now);
        assert_eq!((status[0].state, status[0].message.as_deref()), (State::Failed, Some("unregistered")));
    }

    #[test]
    fn retry_in_is_obeyed() {
        let mut world = World::new();
        world.host("a.example", refusing(Retry::Minutes(7)));
        world.insert(1, &[&[A]]);
        world.run(2000);
        let gaps: Vec<f64> = world.times().windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert!(gaps.iter().all(|gap| (420.0..=470.0).contains(gap)), "{gaps:?}");
        assert!(gaps.len() >= 3);
        let mut world = World::new();
        world.host("a.example", refusing(Retry::Never));
        world.insert(1, &[&[A]]);
        world.run(100_000);
        assert_eq!(world.log.len(), 1);
        assert_eq!(world.states(1), [State::Refused]);
        assert_eq!(world.client.deadline(), None);
        world.client.reannounce(1, world.now);
        world.run(100_010);
        assert_eq!(world.log.len(), 2, "but the user may ask for it");
    }

    #[test]
    fn tiers_are_tried_in_order_and_a_working_tracker_moves_to_the_front_of_its_tier() {
        let mut world = World::new();
        world.host("a.example", refusing(Retry::Unsaid));
        world.host("b.example", every(600));
        world.host("c.example", every(600));
        world.insert(1, &[&[A], &[B, C]]);
        world.run(10);
        let first = world.log[1].1.clone();
        assert_eq!(world.log.len(), 2);
        assert_eq!(world.log[0].1, A);
        assert_eq!(world.log[1].2, Event::Started);
        // The tracker of the second tier that works goes on to be asked, that of the first tier before it.
        world.run(3000);
        assert!(world.log.iter().all(|(_, url, ..)| url == A || *url == first));
        assert!(world.urls().iter().filter(|url| **url == A).count() >= 4);
        // It breaks: the other one of its tier takes over and stays in front.
        let broken = if first == B { "b.example" } else { "c.example" };
        world.host(broken, dead(1));
        world.run(4000);
        world.host(broken, every(600));
        world.log.clear();
        world.run(8000);
        let other = if first == B { C } else { B };
        assert!(
            world.urls().contains(&other) && !world.urls().contains(&first.as_str()),
            "{:?}",
            world.urls()
        );
    }

    #[test]
    fn the_first_tier_is_shuffled_but_differently_for_each_torrent() {
        let mut world = World::new();
        for name in ["a.example", "b.example", "c.example"] {
            world.host(name, every(1800));
        }
        for key in 0..300 {
            world.insert(key, &[&[A, B, C]]);
        }
        world.run(10);
        for url in [A, B, C] {
            let share = world.urls().iter().filter(|asked| **asked == url).count();
            assert!((60..140).contains(&share), "{share} of 300 at {url}");
        }
    }

    #[test]
    fn torrents_of_a_dead_host_go_to_their_other_tier_together_and_come_back() {
        let mut world = World::new();
        world.host("a.example", dead(10));
        world.host("b.example", every(600));
        for key in 0..100 {
            world.insert(key, &[&[A], &[B]]);
        }
        world.run(20);
        assert_eq!(world.urls().iter().filter(|url| **url == A).count(), 1, "one finds out for all");
        assert_eq!(world.urls().iter().filter(|url| **url == B).count(), 100);
        world.insert(200, &[&[A], &[B]]);
        world.run(21);
        assert_eq!(
            world.log.last().map(|(_, url, ..)| url.as_str()),
            Some(B),
            "nobody tries it while it rests"
        );
        world.host("a.example", every(600));
        world.run(1300);
        assert!((0..100).all(|key| world.states(key)[0] == State::Working));
    }

    #[test]
    fn completed_is_said_once_and_never_of_data_that_was_whole() {
        let mut world = World::new();
        world.host("a.example", every(600));
        world.insert(1, &[&[A]]);
        let tiers = [vec![A.to_owned()]];
        world.client.insert(2, hash(2), &tiers, &[], true, world.now);
        // Even before `started` was said, that comes first.
        world.insert(3, &[&[A]]);
        world.client.completed(3, world.now);
        world.run(100);
        world.client.completed(1, world.now);
        world.client.completed(2, world.now);
        world.run(110);
        world.client.completed(1, world.now);
        world.run(2000);
        assert_eq!(world.events(1)[..3], [Event::Started, Event::Completed, Event::None]);
        assert_eq!(world.events(3)[..3], [Event::Started, Event::Completed, Event::None]);
        for key in 1..=3 {
            let said = world.events(key).iter().filter(|event| **event == Event::Completed).count();
            assert_eq!(said, usize::from(key != 2));
        }
    }

    #[test]
    fn stopped_is_said_to_those_who_know_us_and_to_nobody_else() {
        let mut world = World::new();
        world.host("a.example", every(600));
        world.host("b.example", dead(5));
        world.insert(1, &[&[A]]);
        world.insert(2, &[&[B]]);
        world.insert(3, &[&[A]]);
        world.run(10);
        world.client.remove(1, world.now);
        world.client.remove(2, world.now);
        assert!(world.client.status(1, world.now).is_empty());
        world.run(12);
        assert_eq!(world.events(1), [Event::Started, Event::Stopped]);
        assert_eq!(world.events(2), [Event::Started]);
        let last = world.log.last().unwrap().clone();
        assert_eq!(last.3, 1);
        // Removed while its first announce is under way: what was begun is ended.
        world.host("c.example", |_| (Duration::from_secs(3), Ok(Reply::default())));
        world.insert(4, &[&[C]]);
        world.run(13);
        world.client.remove(4, world.now);
        world.run(30);
        assert_eq!(world.events(4), [Event::Started, Event::Stopped]);
        // Removed and inserted at once: the end is said before the new beginning.
        world.client.remove(3, world.now);
        world.insert(3, &[&[A]]);
        world.run(40);
        assert_eq!(world.events(3), [Event::Started, Event::Stopped, Event::Started]);
    }

    #[test]
    fn a_stop_asks_for_no_peers_and_carries_the_tracker_id() {
        let mut world = World::new();
        let seen = Rc::new(std::cell::RefCell::new(Vec::new()));
        let log = seen.clone();
        world.host("a.example", move |request| {
            log.borrow_mut().push((request.event, request.numwant, request.tracker_id.clone()));
            (
                MS,
                Ok(Reply {
                    tracker_id: (log.borrow().len() == 1).then(|| b"id".to_vec()),
                    ..Reply::default()
                }),
            )
        });
        world.insert(1, &[&[A]]);
        world.run(10);
        world.client.want_peers(1, 0);
        world.run(2000);
        world.client.want_peers(1, 200);
        world.run(4000);
        world.client.remove(1, world.now);
        world.run(4010);
        let id: Option<Rc<[u8]>> = Some(b"id"[..].into());
        assert_eq!(
            *seen.borrow(),
            [
                (Event::Started, 50, None),
                (Event::None, 0, id.clone()),
                (Event::None, 50, id.clone()),
                (Event::Stopped, 0, id)
            ]
        );
    }

    #[test]
    fn shutdown_says_stopped_for_all_within_seconds_and_then_is_done() {
        let mut world = World::new();
        world.host("a.example", every(600));
        for n in 0..8 {
            world.host(&format!("dead{n}.example"), dead(30));
        }
        for key in 0..300 {
            world.insert(key, &[&[A]]);
        }
        world.run(5);
        for n in 0..8 {
            world.insert(1000 + n, &[&[&format!("http://dead{n}.example/announce")]]);
        }
        world.run(6);
        assert_eq!(world.under_way.len(), 8, "the dead hold all places");
        world.client.shutdown(world.now);
        world.run(8);
        let stopped = world.log.iter().filter(|(.., event, _)| *event == Event::Stopped).count();
        assert_eq!(stopped, 300);
        assert!(!world.client.is_idle(), "the dead are still being asked");
        world.run(60);
        assert!(world.client.is_idle());
        world.insert(5, &[&[A]]);
        assert!(world.client.is_idle() && world.client.deadline().is_none());
    }

    #[test]
    fn a_dead_host_is_not_waited_for_at_the_end() {
        let mut world = World::new();
        world.host("a.example", every(600));
        for key in 0..100 {
            world.insert(key, &[&[A]]);
        }
        world.run(5);
        world.host("a.example", dead(1));
        world.client.shutdown(world.now);
        world.run(8);
        assert!(world.client.is_idle(), "one was not heard, so none of them will be");
    }

    #[test]
    fn trackers_of_the_configuration_are_told_beside_the_torrents_own() {
        let mut world = World::new();
        world.host("a.example", every(600));
        world.host("b.example", every(600));
        let (tiers, also) = ([vec![A.to_owned(), B.to_owned()]], [B.to_owned()]);
        world.client.insert(1, hash(1), &tiers, &also, false, world.now);
        world.client.insert(2, hash(2), &[], &also, false, world.now);
        world.run(10);
        assert_eq!(world.events(1), [Event::Started, Event::Started]);
        assert_eq!(world.events(2), [Event::Started]);
        assert_eq!(world.states(1), [State::Working, State::Working]);
        world.client.remove(1, world.now);
        world.client.remove(2, world.now);
        world.run(20);
        assert!(world.client.is_idle());
    }

    #[test]
    fn what_we_do_not_speak_is_passed_over() {
        let mut world = World::new();
        world.host("a.example", every(600));
        world.insert(
            1,
            &[&["ftp://t.example:80/announce", "wss://t.example/announce"], &[A], &["http://a b/"]],
        );
        world.insert(2, &[&["wss://t.example/"]]);
        world.insert(3, &[]);
        world.run(10);
        assert_eq!(world.urls(), [A]);
        let mut states = world.states(1);
        states[..2].sort_unstable_by_key(|state| state.as_str());
        assert_eq!(states, [State::Unsupported, State::Unsupported, State::Working, State::Unsupported]);
        let status = world.client.status(2, world.now);
        assert_eq!((status[0].state, status[0].next_announce), (State::Unsupported, None));
        assert_eq!(status[0].message.as_deref(), Some("wss:// is not supported"));
        for key in 1..=3 {
            world.client.remove(key, world.now);
        }
        world.run(20);
        assert!(world.client.is_idle() && world.client.deadline().is_none());
    }

    #[test]
    fn reannounce_respects_the_min_interval_and_forgives_the_host() {
        let mut world = World::new();
        world.host("a.example", |_| {
            (MS, Ok(Reply { interval: 1800, min_interval: Some(120), ..Reply::default() }))
        });
        world.insert(1, &[&[A]]);
        world.run(20);
        world.client.reannounce(1, world.now);
        world.run(300);
        assert_eq!(world.log.len(), 2);
        assert!((120.0..123.0).contains(&world.log[1].0), "{:?}", world.times());
        world.host("a.example", dead(1));
        world.client.reannounce(1, world.now);
        world.run(20_000);
        world.host("a.example", every(600));
        let tried = world.log.len();
        world.client.reannounce(1, world.now);
        world.run(20_001);
        assert_eq!(world.log.len(), tried + 1);
        assert_eq!(world.states(1), [State::Working]);
    }

    #[test]
    fn a_network_that_is_another_is_worth_a_try_at_hosts_that_were_not_reached() {
        let mut world = World::new();
        world.host("a.example", dead(1));
        world.host("b.example", |_| (MS, Err(Failure::Busy(503, Some(3000)))));
        for key in 0..100 {
            world.insert(key, &[&[A]]);
            world.insert(1000 + key, &[&[B]]);
        }
        world.run(10_000);
        let tried = world.log.len();
        world.client.network_changed();
        world.run(10_002);
        assert_eq!(world.urls()[tried..], [A], "one asks for all, and who is busy is left alone");
        world.host("a.example", every(1800));
        world.client.network_changed();
        world.run(10_010);
        assert_eq!(world.log.len(), tried + 101);
    }

    #[test]
    fn addresses_that_are_others_are_told_once_and_not_before_the_min_interval() {
        let mut world = World::new();
        world.host("a.example", every(1800));
        world.host("b.example", |_| {
            (MS, Ok(Reply { interval: 1800, min_interval: Some(600), ..Reply::default() }))
        });
        world.host("c.example", refusing(Retry::Never));
        for key in 0..100 {
            world.insert(key, &[&[A]]);
        }
        world.insert(1000, &[&[B]]);
        world.insert(2000, &[&[C]]);
        world.run(100);
        assert_eq!(world.log.len(), 102);
        world.client.readdressed(world.now);
        world.run(102);
        assert_eq!(world.log.len(), 202);
        assert!(world.log[102..].iter().all(|(_, url, event, _)| url == A && *event == Event::None));
        world.run(700);
        assert_eq!(world.log.len(), 203);
        assert!((600.0..602.0).contains(&world.log[202].0) && world.log[202].3 == 1000);
        assert_eq!(
            world.client.hosts.deadline(),
            world.client.hosts.deadline().max(Some(1700)),
            "then as ever"
        );
    }

    #[test]
    fn warnings_are_shown_until_they_are_not_repeated() {
        let mut world = World::new();
        let mut warnings = vec![None, Some("old client".to_owned())];
        world.host("a.example", move |_| {
            (MS, Ok(Reply { interval: 300, warning: warnings.pop().flatten(), ..Reply::default() }))
        });
        world.insert(1, &[&[A]]);
        world.run(10);
        let status = world.client.status(1, world.now);
        assert_eq!((status[0].state, status[0].message.as_deref()), (State::Working, Some("old client")));
        assert!(status[0].next_announce.is_some_and(|seconds| (250..300).contains(&seconds)));
        world.run(400);
        assert_eq!(world.client.status(1, world.now)[0].message, None);
    }

    /// Answers announces with these counts, and without the others.
    fn telling(counts: Counts) -> impl FnMut(&Request) -> (Duration, Answer) {
        let Counts { seeds, leechers, downloads } = counts;
        let reply =
            Reply { complete: seeds, incomplete: leechers, downloaded: downloads, ..Reply::default() };
        move |_| (MS, Ok(reply.clone()))
    }

    fn host_of(world: &World, key: u32) -> HostId {
        let line = world.client.line(world.client.lines_of(key)[0]).unwrap();
        world.client.slot_host(line, 0).unwrap()
    }

    #[test]
    fn what_a_reply_leaves_out_is_asked_for_rarely_and_for_many_torrents_at_once() {
        const DAY: u64 = 24 * 3600;
        let full = Counts { seeds: Some(1), leechers: Some(2), downloads: Some(3) };
        for (said, times) in
            [(Counts::default(), 12..=24), (Counts { downloads: None, ..full }, 1..=1), (full, 0..=0)]
        {
            let mut world = World::new();
            world.host("a.example", telling(said));
            (0..100).for_each(|key| world.insert(key, &[&[A]]));
            let (mut scrapes, mut torrents) = (0, 0);
            for end in (600..DAY).step_by(600) {
                world.run(end);
                while let Some(scrape) = world.client.poll_scrape(host_of(&world, 0)) {
                    assert_eq!(scrape.url.as_str(), "http://a.example/scrape");
                    assert!(world.client.poll_scrape(scrape.host).is_none(), "one at a time");
                    scrapes += 1;
                    torrents += scrape.torrents.len();
                    let counts = vec![full; scrape.torrents.len()];
                    world.client.scraped(&scrape, Ok(&counts), world.now);
                }
            }
            assert!(times.contains(&(torrents / 100)) && torrents % 100 == 0, "{torrents} for {said:?}");
            assert!(scrapes * MAX_SCRAPE / 2 <= torrents, "{scrapes} scrapes for {torrents}");
            assert!((0..100).all(|key| world.client.status(key, world.now)[0].counts == full));
        }
    }

    #[test]
    fn a_tracker_that_has_no_counts_is_left_alone_and_never_stands_in_the_way() {
        let mut world = World::new();
        world.host("a.example", every(600));
        (0..100).for_each(|key| world.insert(key, &[&[A]]));
        world.run(10);
        let host = host_of(&world, 0);
        let scrape = world.client.poll_scrape(host).unwrap();
        // While it is asked for them nothing else is.
        world.client.completed(5, world.now);
        world.run(20);
        assert_eq!(world.log.len(), 100);
        world.client.scraped(&scrape, Err(&Failure::Transport("silence".into())), world.now);
        assert!(world.client.poll_scrape(host).is_none());
        world.run(30);
        assert_eq!(world.events(5), [Event::Started, Event::Completed]);
        assert_eq!(world.states(5), [State::Working]);
        assert_eq!(world.client.status(5, world.now)[0].counts, Counts::default());
        world.run(3500);
        assert!(world.client.poll_scrape(host).is_none());
        world.run(6000);
        assert!(world.client.poll_scrape(host).is_some());
        // Nor is anything asked at the end.
        world.client.shutdown(world.now);
        assert!(world.client.poll_scrape(host).is_none());
    }

    #[test]
    fn a_tracker_without_a_place_for_scrapes_is_not_asked() {
        let mut world = World::new();
        world.host("a.example", every(600));
        world.insert(1, &[&["http://a.example/tracker"]]);
        world.run(10);
        assert!(world.client.poll_scrape(host_of(&world, 1)).is_none());
    }

    #[test]
    fn torrents_that_come_and_go_leave_nothing_behind() {
        let mut world = World::new();
        for n in 0..50 {
            if n % 3 == 0 {
                world.host(&format!("h{n}.example"), dead(2));
            } else {
                world.host(&format!("h{n}.example"), every(60));
            }
        }
        let mut random = Random::new(5);
        for round in 0..2000_u64 {
            let key = random.up_to(40);
            let url = |random: &mut Random| format!("http://h{}.example/announce", random.up_to(49));
            match random.below(6) {
                0 => world.client.remove(key, world.now),
                1 => world.client.completed(key, world.now),
                2 => world.client.reannounce(key, world.now),
                _ => {
                    let urls: Vec<String> = (0..random.below(5)).map(|_| url(&mut random)).collect();
                    let tiers: Vec<&[String]> = urls.chunks(2).collect();
                    let tiers: Vec<Vec<String>> = tiers.into_iter().map(<[String]>::to_vec).collect();
                    let also = [url(&mut random)];
                    world.client.insert(key, hash(key), &tiers, &also[..random.below(2)], false, world.now);
                }
            }
            world.run(round * 3);
            for key in 0..=40 {
                let _ = world.client.status(key, world.now);
            }
        }
        world.client.shutdown(world.now);
        world.run(7000);
        assert!(world.client.is_idle() && world.client.deadline().is_none());
        assert!(world.client.names.is_empty() && world.client.to_scrape.is_empty());
        assert!(world.client.hosts.is_empty());
    }

    #[test]
    fn a_torrent_costs_little() {
        assert!(size_of::<Option<Line>>() <= 112, "{}", size_of::<Option<Line>>());
        assert!(size_of::<Slot>() <= 12, "{}", size_of::<Slot>());
        assert!(size_of::<Wait>() <= 12);
    }

    #[test]
    fn spurious_calls_do_nothing() {
        let mut world = World::new();
        world.host("a.example", every(600));
        world.client.remove(9, world.now);
        world.client.completed(9, world.now);
        world.client.reannounce(9, world.now);
        assert!(world.client.poll(world.now).is_none());
        world.insert(1, &[&[A]]);
        let request = world.client.poll(world.now).unwrap();
        assert!(world.client.poll(world.now).is_none());
        assert!(world.client.poll_host(request.host, world.now).is_none());
        for _ in 0..3 {
            world.client.handle(&request, Ok(&Reply::default()), world.now);
        }
        assert_eq!(world.states(1), [State::Working]);
        world.client.remove(1, world.now);
        world.client.handle(&request, Err(&Failure::Transport("late".into())), world.now);
    }
}

//! Tracker hosts: each with its queue of announces, one at a time, and a rest after it could not be reached.
//!
//! Over UDP an announce that is not answered soon may only be lost, and is repeated after 15 s (BEP 15): meanwhile others go
//! on, if the host did answer the one before.
//!
//! Read first: nothing; `client` uses this. Many torrents name few hosts, so what goes wrong with a host is kept
//! here and not in the torrents. Omits: what is announced. Holds 16 bytes an announce that waits and some 200 a host.

use std::rc::Rc;

use crate::random::Random;
use crate::sorted::{SortedMap, SortedSet};

/// Hosts that are asked at the same time: each costs a connection and, where it is dead, a connection that is never
/// answered, of which cheap routers track few.
pub const MAX_BUSY: usize = 8;

/// Seconds after which an answer over UDP is taken for lost: slow links take a second or two.
const OVERDUE: u32 = 3;

/// Announces to one host that are taken for lost at the same time: with more it is rather the host that is gone.
const MAX_LOST: u8 = 3;

/// Seconds after which a host with a long queue lets another one have its turn.
const TURN: u32 = 20;

/// Seconds of rest after a host was not reached, doubled each time up to the second number.
const REST: (u32, u32) = (20, 1800);

/// The same where its name did not resolve: the uplink may be back at any moment and asking costs nobody much.
const REST_UNRESOLVED: (u32, u32) = (15, 300);

/// Announces to one host from which on it is better asked often for a few than once for all.
const MANY: usize = 200;

/// Seconds that a host may ask us to stay away.
const MAX_RETRY_AFTER: u32 = 3600;

/// A host's number. It may be used again once no torrent names the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostId(pub(super) u32);

/// An announce that waits. Ordered by the time from which it may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Wait {
    /// Seconds since start from which it may go along with others.
    pub earliest: u32,
    /// Seconds since start at which it goes in any case.
    pub due: u32,
    /// Whose.
    pub line: u32,
}

/// What went wrong with a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    /// No addresses.
    Unresolved,
    /// No connection, no answer.
    Unreached,
    /// Too much to do; seconds that it asks for.
    Busy(u32),
}

/// One host.
pub(super) struct Host {
    /// Host and port.
    name: Box<str>,
    /// URLs that name it.
    urls: u32,
    /// What went wrong last time, for the status.
    pub trouble: Option<Rc<str>>,
    /// That was the network's fault, as far as one can tell.
    unreached: bool,
    /// Announces that are under way, those of them that are taken for lost, and when the last one began.
    in_flight: u8,
    lost: u8,
    asked: u32,
    /// It answered last time, and over UDP.
    datagrams: bool,
    /// When it answered last.
    answered: u32,
    /// Seconds since start before which it is left alone.
    pub rest_until: u32,
    failures: u8,
    queue: SortedSet<Wait>,
    /// Not after the first `due` of the queue. It may lie before, then it is found out when it is reached.
    wake: u32,
    /// One was due, so all that may go along go now.
    burst: bool,
    /// When the turn began.
    turn: u32,
    /// Its entry in the table's order.
    ready: Option<u32>,
}

/// All hosts, in the order in which they want to be asked.
pub(super) struct Hosts {
    hosts: Pool<Host>,
    names: SortedMap<Box<str>, u32>,
    ready: SortedSet<(u32, u32)>,
    busy: usize,
    limit: usize,
}

/// Things under numbers that stay small: a number is given again after its thing is gone.
pub(super) struct Pool<T> {
    things: Vec<Option<T>>,
    free: Vec<u32>,
}

impl Hosts {
    /// Knows no host.
    pub fn new() -> Hosts {
        Hosts {
            hosts: Pool::new(),
            names: SortedMap::new(),
            ready: SortedSet::new(),
            busy: 0,
            limit: MAX_BUSY,
        }
    }

    /// No URL names a host.
    #[cfg(test)]
    pub fn is_empty(&self) -> bool {
        self.hosts.is_empty() && self.names.is_empty() && self.ready.is_empty() && self.busy == 0
    }

    /// The host of that name, which one URL more names now.
    pub fn intern(&mut self, name: &str) -> HostId {
        let known = self.names.get(name).copied();
        let id = known.unwrap_or_else(|| {
            let id = self.hosts.insert(Host {
                name: name.into(),
                urls: 0,
                trouble: None,
                unreached: false,
                in_flight: 0,
                lost: 0,
                asked: 0,
                datagrams: false,
                answered: 0,
                rest_until: 0,
                failures: 0,
                queue: SortedSet::new(),
                wake: u32::MAX,
                burst: false,
                turn: 0,
                ready: None,
            });
            self.names.insert(name.into(), id);
            id
        });
        if let Some(host) = self.hosts.thing_mut(id) {
            host.urls += 1;
        }
        HostId(id)
    }

    /// One URL less names the host.
    pub fn release(&mut self, id: HostId) {
        let Some(host) = self.host_mut(id) else { return };
        host.urls = host.urls.saturating_sub(1);
        self.sweep(id);
    }

    /// The host of that number.
    pub fn host(&self, id: HostId) -> Option<&Host> {
        self.hosts.thing(id.0)
    }

    fn host_mut(&mut self, id: HostId) -> Option<&mut Host> {
        self.hosts.thing_mut(id.0)
    }

    /// Puts an announce into the queue.
    pub fn enqueue(&mut self, id: HostId, wait: Wait) {
        let Some(host) = self.host_mut(id) else { return };
        host.queue.insert(wait);
        host.wake = host.wake.min(wait.due);
        self.order(id);
    }

    /// Takes an announce out of the queue.
    pub fn dequeue(&mut self, id: HostId, wait: Wait) {
        let Some(host) = self.host_mut(id) else { return };
        host.queue.remove(&wait);
        if host.queue.is_empty() {
            host.wake = u32::MAX;
            host.burst = false;
        }
        self.order(id);
    }

    /// Whether the host is asked for more than goes well together.
    pub fn is_asked_for_many(&self, id: HostId) -> bool {
        self.host(id).is_some_and(|host| host.queue.len() > MANY)
    }

    /// The lines that wait.
    pub fn queued(&self, id: HostId) -> Vec<u32> {
        self.host(id).map(|host| host.queue.iter().map(|wait| wait.line).collect()).unwrap_or_default()
    }

    /// The host that wants to be asked before all others, if it is time and not too many are asked already.
    pub fn first(&self, now: u32) -> Option<HostId> {
        let (at, id) = self.ready.first()?;
        (self.busy < self.limit && *at <= now).then_some(HostId(*id))
    }

    /// Whether somebody is finding out, or soon will, if a host that was not reached last time answers again.
    pub fn is_probed(&self, id: HostId) -> bool {
        self.host(id).is_some_and(|host| host.failures > 0 && (host.in_flight > 0 || !host.queue.is_empty()))
    }

    /// When [`Hosts::first`] will name a host.
    pub fn deadline(&self) -> Option<u32> {
        if self.busy >= self.limit { None } else { self.ready.first().map(|(at, _)| *at) }
    }

    /// The announce that this host should get now.
    pub fn next(&mut self, id: HostId, now: u32) -> Option<Wait> {
        let host = self.host_mut(id)?;
        if host.free_from().is_none_or(|from| from > now) {
            return None;
        }
        let mut next = None;
        if !host.burst && host.wake <= now {
            host.wake = host.first_due();
            host.burst = host.wake <= now;
        }
        if host.burst {
            next = host.queue.first().copied().filter(|wait| wait.earliest <= now);
            if next.is_none() {
                host.burst = false;
                host.wake = host.first_due();
            }
        }
        self.order(id);
        next
    }

    /// Whether it could be asked now: it is not being asked, nor are too many others.
    pub fn is_free(&self, id: HostId) -> bool {
        self.busy < self.limit && self.host(id).is_some_and(|host| host.in_flight == 0)
    }

    /// An announce is under way. One that was is taken for lost.
    pub fn begin(&mut self, id: HostId, now: u32) {
        let Some(host) = self.host_mut(id) else { return };
        (host.lost, host.asked) = (host.in_flight, now);
        host.in_flight += 1;
        self.busy += usize::from(host.in_flight == 1);
        self.order(id);
    }

    /// It is not any more.
    pub fn end(&mut self, id: HostId) {
        let Some(host) = self.host_mut(id) else { return };
        if host.in_flight > 0 {
            host.in_flight -= 1;
            host.lost = host.lost.min(host.in_flight);
            self.busy -= usize::from(host.in_flight == 0);
        }
        self.order(id);
        self.sweep(id);
    }

    /// Lets as many hosts be asked beside those that are being asked now: at the end there is no time to wait for
    /// the dead among them.
    pub fn hurry(&mut self) {
        self.limit = self.busy + MAX_BUSY;
    }

    /// A new turn begins. Inside a turn the host goes on with its queue unless others have waited for long.
    pub fn begin_turn(&mut self, id: HostId, now: u32) {
        if let Some(host) = self.host_mut(id) {
            host.turn = now;
        }
    }

    /// Whether the host should step back behind those that wait.
    pub fn turn_is_over(&self, id: HostId, now: u32) -> bool {
        let Some(host) = self.host(id) else { return false };
        // This host counts, too, though its announce has ended.
        self.busy + usize::from(host.in_flight == 0) >= self.limit
            && now.saturating_sub(host.turn) >= TURN
            && self.ready.iter().take_while(|(at, _)| *at <= now).any(|(_, other)| *other != id.0)
    }

    /// Puts the host behind all that are ready now.
    pub fn step_back(&mut self, id: HostId, now: u32) {
        if let Some(host) = self.host_mut(id) {
            host.wake = now;
            host.burst = false;
        }
        self.order(id);
    }

    /// The host answered.
    pub fn reached(&mut self, id: HostId, datagrams: bool, now: u32) {
        let Some(host) = self.host_mut(id) else { return };
        (host.datagrams, host.answered) = (datagrams, now);
        host.failures = 0;
        host.rest_until = 0;
        (host.trouble, host.unreached) = (None, false);
        self.order(id);
    }

    /// Whether it has answered since: what began then and is not answered is not for want of a host.
    pub fn has_answered_since(&self, id: HostId, began: u32) -> bool {
        self.host(id).is_some_and(|host| host.answered > began)
    }

    /// The host did not: it is left alone, longer each time.
    pub fn failed(&mut self, id: HostId, trouble: Trouble, text: Rc<str>, now: u32, random: &mut Random) {
        let Some(host) = self.host_mut(id) else { return };
        let (first, most) = if trouble == Trouble::Unresolved { REST_UNRESOLVED } else { REST };
        let mut rest = back_off(first, most, host.failures, random);
        if let Trouble::Busy(seconds) = trouble {
            rest = rest.max(seconds.min(MAX_RETRY_AFTER));
        }
        // Of several that were under way the first has told it.
        if host.rest_until <= now || matches!(trouble, Trouble::Busy(_)) {
            host.failures = host.failures.saturating_add(1);
            host.rest_until = now.saturating_add(rest);
        }
        host.datagrams = false;
        host.trouble = Some(text);
        host.unreached = !matches!(trouble, Trouble::Busy(_));
        host.burst = false;
        host.wake = host.first_due();
        self.order(id);
    }

    /// Forgets what went wrong: the user or the network says that it is worth a try.
    pub fn forgive(&mut self, id: HostId) {
        let Some(host) = self.host_mut(id) else { return };
        host.failures = 0;
        host.rest_until = 0;
        self.order(id);
    }

    /// The same for all that could not be reached.
    pub fn forgive_unreached(&mut self) {
        for id in self.names.values().copied().collect::<Vec<_>>() {
            if self.hosts.thing(id).is_some_and(|host| host.unreached) {
                self.forgive(HostId(id));
            }
        }
    }

    /// Puts the host where it belongs in the order.
    fn order(&mut self, id: HostId) {
        let Some(host) = self.hosts.thing_mut(id.0) else { return };
        // A burst goes on at its place: it began when its first announce was due.
        let ready = host.free_from().filter(|_| !host.queue.is_empty()).map(|from| host.wake.max(from));
        if ready != host.ready {
            if let Some(at) = host.ready {
                self.ready.remove(&(at, id.0));
            }
            if let Some(at) = ready {
                self.ready.insert((at, id.0));
            }
            host.ready = ready;
        }
    }

    /// Forgets a host that nobody names any more.
    fn sweep(&mut self, id: HostId) {
        let gone = |host: &Host| host.urls == 0 && host.in_flight == 0 && host.queue.is_empty();
        if self.host(id).is_some_and(gone)
            && let Some(host) = self.hosts.remove(id.0)
        {
            self.names.remove(&host.name);
        }
    }
}

impl<T> Pool<T> {
    /// Empty.
    pub fn new() -> Pool<T> {
        Pool { things: Vec::new(), free: Vec::new() }
    }

    /// Takes a thing in and gives it a number.
    pub fn insert(&mut self, thing: T) -> u32 {
        let id = self.free.pop().unwrap_or_else(|| {
            self.things.push(None);
            u32::try_from(self.things.len() - 1).unwrap_or(u32::MAX)
        });
        if let Some(place) = self.things.get_mut(index(id)) {
            *place = Some(thing);
        }
        id
    }

    /// Gives a thing back.
    pub fn remove(&mut self, id: u32) -> Option<T> {
        let thing = self.things.get_mut(index(id))?.take()?;
        self.free.push(id);
        Some(thing)
    }

    /// The thing of that number.
    pub fn thing(&self, id: u32) -> Option<&T> {
        self.things.get(index(id))?.as_ref()
    }

    /// The thing of that number.
    pub fn thing_mut(&mut self, id: u32) -> Option<&mut T> {
        self.things.get_mut(index(id))?.as_mut()
    }

    /// Nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.free.len() == self.things.len()
    }
}

impl Host {
    /// Seconds since start from which it may be asked; `None` until an answer comes.
    fn free_from(&self) -> Option<u32> {
        if self.in_flight == self.lost {
            return Some(self.rest_until);
        }
        let overdue = self.asked.checked_add(OVERDUE).filter(|_| self.datagrams && self.lost < MAX_LOST);
        overdue.map(|from| from.max(self.rest_until))
    }

    fn first_due(&self) -> u32 {
        self.queue.iter().map(|wait| wait.due).min().unwrap_or(u32::MAX)
    }
}

/// Seconds to wait after one more failure: doubled each time, capped, and up to a quarter more, so that those who
/// lost the same tracker at the same moment do not come back at the same moment.
#[inline(never)]
pub(crate) fn back_off(first: u32, most: u32, failures: u8, random: &mut Random) -> u32 {
    let base = first.saturating_mul(1 << u32::from(failures.min(16))).min(most);
    base + random.up_to(base / 4)
}

fn index(id: u32) -> usize {
    usize::try_from(id).unwrap_or(usize::MAX)
}

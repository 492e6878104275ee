//! The network between nodes and remotes: one clock, lines with a bandwidth and a latency, connections, trackers.
//!
//! A connection's bytes wait in its sender's socket. So many as its window takes are on their way: first through the
//! sender's line, which its connections share in turns, then in the queue of the receiver's. Whatever is lost comes a
//! little later, as TCP has it.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::task::{Wake, Waker};
use std::time::{Duration, Instant};

use meshseed::metainfo::InfoHash;
use meshseed::peer::PeerKey;
use meshseed::random::Random;
use meshseed::tracker::client::Request;
use meshseed::tracker::{Event as Told, Failure, Reply, Retry};

use super::ledger::Ledger;

/// What a socket holds of what is to be sent.
pub const SEND_BUFFER: usize = 256 * 1024;
/// What may wait for a reader that does not read.
const UNREAD: usize = 1024 * 1024;
/// How long it takes until what was lost is sent again.
const RESENT: Duration = Duration::from_millis(250);

/// Somebody with an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum End {
    Node(usize),
    Remote(usize),
}

/// What is at an address that is dialled.
#[derive(Clone, Copy)]
pub enum Listener {
    End(End),
    /// Nobody answers.
    Hole,
}

/// How somebody is connected. Bandwidths are bytes a second.
#[derive(Clone, Copy, Debug)]
pub struct Line {
    pub up: u64,
    pub down: u64,
    pub latency: Duration,
    /// Of a thousand packets.
    pub loss: usize,
    /// Those in different parts of the network do not reach each other.
    pub part: u32,
}

/// What a tracker is like.
#[derive(Clone, Debug)]
pub enum Tracker {
    Answers {
        interval: u32,
        peers: Vec<SocketAddr>,
    },
    /// Names fifty of those that announced the same torrent.
    Introduces {
        interval: u32,
    },
    /// Is not reached, which takes so many seconds to be found out.
    Dead(u64),
    Refuses,
}

pub enum Event {
    /// A node's main loop wakes up.
    Alarm(usize),
    DiskDone(usize),
    Answer(usize, Request, Result<Reply, Failure>),
    /// What a node has dialled was there, or not.
    Connected(usize, PeerKey, Option<End>),
    /// Bytes for the other side of this half of a connection.
    Arrive(usize, Vec<u8>),
    /// The same: the connection is at its end.
    Closed(usize),
    /// Somebody's line takes the next bytes.
    Free(End),
    /// Bytes come to the line of the other side.
    Reach(usize, Vec<u8>),
    Tick(usize),
    Connect(usize),
}

/// The network's side of somebody.
#[derive(Clone)]
struct Station {
    line: Line,
    /// When each way takes the next byte.
    up_free: Instant,
    down_free: Instant,
    /// Halves that have something to send, in turn.
    turns: VecDeque<usize>,
}

/// One side of a connection. The other is the half whose number differs in the last bit.
pub struct Half {
    pub end: End,
    /// Written, and not yet on its way.
    out: Pipe,
    /// The same, seen from the other side: come, and not yet read.
    inbox: Pipe,
    travelling: usize,
    /// When the last of it reaches the other line.
    reaches: Instant,
    /// Waits for its turn.
    waits: bool,
    /// Closes when all has arrived.
    ends: bool,
    /// The socket was full: who writes is to be woken.
    pub is_full: bool,
    /// The other side has closed.
    pub ended: bool,
    pub open: bool,
}

/// Bytes that come in at one end and go out at the other.
#[derive(Default)]
pub struct Pipe {
    bytes: Vec<u8>,
    at: usize,
}

pub struct Net {
    pub start: Instant,
    pub now: Instant,
    events: BTreeMap<(Instant, u64), Event>,
    sequence: u64,
    pub random: Random,
    /// Of nodes and of remotes.
    stations: [Vec<Station>; 2],
    halves: Vec<Half>,
    pub listeners: HashMap<SocketAddr, Listener>,
    pub trackers: HashMap<String, Tracker>,
    /// Who announced what to a tracker that introduces them.
    swarms: BTreeMap<InfoHash, BTreeSet<SocketAddr>>,
    pub ledger: Ledger,
    /// Halves whose tasks were woken.
    rung: Arc<Mutex<Vec<usize>>>,
}

/// Wakes a connection's task.
struct Bell {
    half: usize,
    rung: Arc<Mutex<Vec<usize>>>,
}

impl Wake for Bell {
    fn wake(self: Arc<Bell>) {
        self.rung.lock().expect("one thread").push(self.half);
    }
}

impl End {
    fn place(self) -> (usize, usize) {
        match self {
            End::Node(at) => (0, at),
            End::Remote(at) => (1, at),
        }
    }
}

impl Line {
    /// One that is never in the way.
    pub const IDEAL: Line = Line { up: u64::MAX, down: u64::MAX, latency: Duration::ZERO, loss: 0, part: 0 };
}

impl Pipe {
    pub fn len(&self) -> usize {
        self.bytes.len() - self.at
    }

    pub fn push(&mut self, bytes: &[u8]) {
        if self.at >= 64 * 1024 {
            self.bytes.drain(..self.at);
            self.at = 0;
        }
        self.bytes.extend_from_slice(bytes);
    }

    /// The first `most` bytes that wait.
    pub fn take(&mut self, most: usize) -> Vec<u8> {
        let mut bytes = vec![0; self.len().min(most)];
        self.read(&mut bytes);
        bytes
    }

    /// The first bytes that wait, as many as there is room for; their number.
    pub fn read(&mut self, out: &mut [u8]) -> usize {
        let n = self.len().min(out.len());
        out[..n].copy_from_slice(&self.bytes[self.at..self.at + n]);
        self.at += n;
        if self.len() == 0 {
            *self = Pipe::default();
        }
        n
    }
}

impl Net {
    pub fn new(start: Instant, seed: u64) -> Net {
        Net {
            start,
            now: start,
            events: BTreeMap::new(),
            sequence: 0,
            random: Random::new(seed),
            stations: [Vec::new(), Vec::new()],
            halves: Vec::new(),
            listeners: HashMap::new(),
            trackers: HashMap::new(),
            swarms: BTreeMap::new(),
            ledger: Ledger::default(),
            rung: Arc::default(),
        }
    }

    pub fn secs(&self) -> f64 {
        (self.now - self.start).as_secs_f64()
    }

    // Time.

    pub fn later(&mut self, after: Duration, event: Event) {
        self.at(self.now + after, event);
    }

    pub fn at(&mut self, time: Instant, event: Event) {
        self.sequence += 1;
        self.events.insert((time, self.sequence), event);
    }

    /// The next event, if it happens before `end`; the clock goes on to it.
    pub fn next(&mut self, end: Instant) -> Option<Event> {
        let first = self.events.first_entry().filter(|first| first.key().0 <= end)?;
        self.now = self.now.max(first.key().0);
        Some(first.remove())
    }

    /// A node ends: nothing that it waited for comes any more.
    pub fn forget(&mut self, node: usize) {
        self.events.retain(|_, event| match event {
            Event::Alarm(of) | Event::DiskDone(of) | Event::Answer(of, ..) | Event::Connected(of, ..) => {
                *of != node
            }
            _ => true,
        });
    }

    // Lines.

    pub fn line(&self, end: End) -> Line {
        self.station(end).line
    }

    fn station(&self, end: End) -> &Station {
        let (kind, at) = end.place();
        &self.stations[kind][at]
    }

    fn station_mut(&mut self, end: End) -> &mut Station {
        let (kind, at) = end.place();
        &mut self.stations[kind][at]
    }

    /// Connects somebody to the network, or otherwise than before.
    pub fn set_line(&mut self, end: End, line: Line) {
        let (kind, at) = end.place();
        if self.stations[kind].len() <= at {
            let (up_free, down_free) = (self.start, self.start);
            let idle = Station { line, up_free, down_free, turns: VecDeque::new() };
            self.stations[kind].resize(at + 1, idle);
        }
        self.station_mut(end).line = line;
        for half in self.halves_of(end) {
            self.offer(half);
            self.offer(half ^ 1);
        }
    }

    fn reaches(&self, one: End, other: End) -> bool {
        self.line(one).part == self.line(other).part
    }

    /// How long a byte takes from one to the other.
    pub fn latency(&self, one: End, other: End) -> Duration {
        self.line(one).latency + self.line(other).latency
    }

    /// A half may have something to send, and may send it: it has its turn.
    fn offer(&mut self, half: usize) {
        let of = &mut self.halves[half];
        if of.out.len() > 0 && !std::mem::replace(&mut of.waits, true) {
            let end = of.end;
            self.station_mut(end).turns.push_back(half);
            self.serve(end);
        }
    }

    /// A line may take bytes: those that wait for it have their turn.
    pub fn serve(&mut self, end: End) {
        while self.station(end).up_free <= self.now
            && let Some(half) = self.station_mut(end).turns.pop_front()
        {
            self.halves[half].waits = false;
            if self.transmit(half) && self.halves[half].out.len() > 0 {
                self.halves[half].waits = true;
                self.station_mut(end).turns.push_back(half);
            }
        }
    }

    /// Sends some bytes, if the window takes them. If not, their turn comes when some have arrived.
    fn transmit(&mut self, half: usize) -> bool {
        let (from, to) = (self.halves[half].end, self.halves[half ^ 1].end);
        let (line, other) = (self.line(from), self.line(to));
        let of = &self.halves[half];
        let bandwidth = line.up.min(other.down);
        let room = window(bandwidth, line.latency + other.latency).saturating_sub(of.travelling);
        let room = room.min(UNREAD.saturating_sub(of.travelling + self.halves[half ^ 1].inbox.len()));
        if !of.open || room == 0 || bandwidth == 0 || line.part != other.part {
            return false;
        }
        let bytes = self.halves[half].out.take(chunk(bandwidth).min(room));
        let lost = line.loss + other.loss;
        let lost = if lost > 0 && self.random.below(1000) < lost { RESENT } else { Duration::ZERO };
        let sent = self.now + time(bytes.len(), line.up);
        let of = &mut self.halves[half];
        of.reaches = of.reaches.max(sent + line.latency + other.latency + lost);
        of.travelling += bytes.len();
        let reaches = of.reaches;
        if of.is_full && of.out.len() < SEND_BUFFER / 2 {
            of.is_full = false;
            self.ring(half);
        }
        self.at(reaches, Event::Reach(half, bytes));
        if sent > self.now {
            self.station_mut(from).up_free = sent;
            self.at(sent, Event::Free(from));
        }
        true
    }

    /// Bytes have come to the line of the other side: they go through it after those that came before.
    pub fn reach(&mut self, half: usize, bytes: Vec<u8>) {
        let to = self.halves[half ^ 1].end;
        let (down, now) = (self.line(to).down, self.now);
        let station = self.station_mut(to);
        let arrives = station.down_free.max(now) + time(bytes.len(), down);
        station.down_free = arrives;
        self.at(arrives, Event::Arrive(half, bytes));
    }

    // Connections.

    /// Joins two ends; the number of the first one's half.
    pub fn open(&mut self, one: End, other: End) -> usize {
        for end in [one, other] {
            self.halves.push(Half {
                end,
                out: Pipe::default(),
                inbox: Pipe::default(),
                travelling: 0,
                reaches: self.now,
                waits: false,
                ends: false,
                is_full: false,
                ended: false,
                open: true,
            });
        }
        self.halves.len() - 2
    }

    pub fn half(&self, half: usize) -> &Half {
        &self.halves[half]
    }

    pub fn half_mut(&mut self, half: usize) -> &mut Half {
        &mut self.halves[half]
    }

    /// The half by which somebody is connected now.
    pub fn half_of(&self, end: End) -> Option<usize> {
        self.halves.iter().position(|half| half.end == end && half.open && !half.ended)
    }

    /// All of them.
    pub fn halves_of(&self, end: End) -> Vec<usize> {
        let is_its = |half: &usize| self.halves[*half].end == end && self.halves[*half].open;
        (0..self.halves.len()).filter(is_its).collect()
    }

    /// Bytes that the socket takes.
    pub fn room(&self, half: usize) -> usize {
        SEND_BUFFER.saturating_sub(self.halves[half].out.len())
    }

    /// Puts bytes into the socket.
    pub fn send(&mut self, half: usize, bytes: &[u8]) {
        self.halves[half].out.push(bytes);
        self.offer(half);
    }

    /// Bytes have come to the other side; whether there is somebody to read them.
    pub fn arrived(&mut self, half: usize, bytes: &[u8]) -> bool {
        let of = &mut self.halves[half];
        of.travelling -= bytes.len();
        if of.ends && of.travelling == 0 {
            self.at(self.now, Event::Closed(half));
        }
        let other = &mut self.halves[half ^ 1];
        let is_read = other.open && !other.ended;
        if is_read {
            other.inbox.push(bytes);
        }
        self.offer(half);
        is_read
    }

    /// Reads what has come, as much as there is room for; how much that is.
    pub fn receive(&mut self, half: usize, out: &mut [u8]) -> usize {
        let n = self.halves[half].inbox.read(out);
        self.offer(half ^ 1);
        n
    }

    /// Bytes that have come and were not read.
    pub fn unread(&self, half: usize) -> usize {
        self.halves[half].inbox.len()
    }

    /// One side closes: the other hears of it, after what was sent before.
    pub fn close(&mut self, half: usize) {
        let (end, other) = (self.halves[half].end, self.halves[half ^ 1].end);
        let of = &mut self.halves[half];
        if std::mem::take(&mut of.open) {
            of.out = Pipe::default();
            of.inbox = Pipe::default();
            of.ends = true;
            let is_last = of.travelling == 0;
            self.ledger.part(end, other);
            if is_last && self.reaches(end, other) {
                self.later(self.latency(end, other), Event::Closed(half));
            }
        }
    }

    /// What wakes the task of a half.
    pub fn waker(&self, half: usize) -> Waker {
        Waker::from(Arc::new(Bell { half, rung: self.rung.clone() }))
    }

    pub fn ring(&self, half: usize) {
        self.rung.lock().expect("one thread").push(half);
    }

    /// The tasks that were woken.
    pub fn rung(&self) -> Vec<usize> {
        std::mem::take(&mut *self.rung.lock().expect("one thread"))
    }

    /// Who answers when somebody dials, and when.
    pub fn dial(&self, from: End, addr: SocketAddr) -> (Option<Duration>, Option<End>) {
        match self.listeners.get(&addr) {
            Some(&Listener::End(to)) if self.reaches(from, to) => {
                (Some(self.latency(from, to) * 2), Some(to))
            }
            Some(_) => (None, None),
            None => (Some(Duration::from_millis(5)), None),
        }
    }

    // Trackers.

    /// What a tracker says to one at that address, and after how many milliseconds.
    pub fn announce(
        &mut self,
        host: &str,
        from: SocketAddr,
        request: &Request,
        stopping: bool,
    ) -> (u64, Result<Reply, Failure>) {
        match self.trackers.get(host) {
            None => (50, Ok(Reply::default())),
            Some(Tracker::Answers { interval, peers }) => {
                (50, Ok(Reply { interval: *interval, peers: peers.clone(), ..Reply::default() }))
            }
            Some(&Tracker::Introduces { interval }) => {
                let swarm = self.swarms.entry(request.info_hash).or_default();
                if request.event == Told::Stopped {
                    swarm.remove(&from);
                } else {
                    swarm.insert(from);
                }
                let mut others: Vec<SocketAddr> =
                    swarm.iter().copied().filter(|&addr| addr != from).collect();
                while others.len() > 50 {
                    others.swap_remove(self.random.below(others.len()));
                }
                (50, Ok(Reply { interval, peers: others, ..Reply::default() }))
            }
            Some(Tracker::Refuses) => (50, Err(Failure::Refused("unknown torrent".into(), Retry::Unsaid))),
            Some(Tracker::Dead(seconds)) => {
                let patience = if stopping { 2 } else { *seconds };
                (1000 * patience, Err(Failure::Transport("timed out".into())))
            }
        }
    }
}

/// Bytes that a line of this bandwidth delivers at a time; an ideal one delivers all.
fn chunk(bandwidth: u64) -> usize {
    match bandwidth {
        u64::MAX => usize::MAX,
        _ => bytes(bandwidth / 25).clamp(1460, 16 * 1024),
    }
}

/// Bytes of a connection that are on their way at a time: a fifth of a second in the queue, and what the way itself holds.
fn window(bandwidth: u64, latency: Duration) -> usize {
    match bandwidth {
        u64::MAX => usize::MAX,
        _ => {
            let way = u64::try_from(latency.as_millis()).expect("a latency of a test") * 2 * bandwidth / 1000;
            bytes(bandwidth / 5).clamp(2 * 1460, 32 * 1024) + bytes(way)
        }
    }
}

fn bytes(count: u64) -> usize {
    usize::try_from(count).expect("a bandwidth of a test")
}

fn time(bytes: usize, bandwidth: u64) -> Duration {
    match bandwidth {
        u64::MAX => Duration::ZERO,
        _ => Duration::from_nanos(bytes as u64 * 1_000_000_000 / bandwidth),
    }
}

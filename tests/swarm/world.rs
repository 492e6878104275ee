//! The world around a session: a clock, a disk, trackers and a network, all of them virtual.
//!
//! It does what the daemon and the peers' tasks do, down to who is woken when: a job that nobody was woken for, a
//! timer that goes off for nothing and a slot too many are found after every step of every test.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::task::{Wake, Waker};
use std::time::{Duration, Instant};

use meshseed::metainfo::{InfoHash, maker};
use meshseed::peer::outbox::{HEADER, Part};
use meshseed::peer::wire::{Decoder, Handshaking, Limits, Stage};
use meshseed::peer::{Close, PeerKey};
use meshseed::random::Random;
use meshseed::session::{Event as News, Happened, Job, Miss, Session, Settings, Totals, Upload};
use meshseed::storage::io::Done;
use meshseed::torrent::{State, Torrent, TorrentKey};
use meshseed::tracker::client::Request;
use meshseed::tracker::{Event as Told, Failure, Reply, Retry};

use super::disk::{Disk, ident};
use super::remote::{Kind, Remote};

/// Of a socket, as `peer::io` has it.
const SEND_BUFFER: usize = 256 * 1024;
const LEAST_ROOM: u32 = 2 * 1024;
const READ: usize = 16 * 1024;
const PARTS: usize = 64;
const MISSES: u8 = 3;
const DIAL_TIME: Duration = Duration::from_secs(10);
const RESCAN: Duration = Duration::from_secs(60);

/// What a tracker is like.
#[derive(Clone, Debug)]
pub enum Tracker {
    Answers {
        interval: u32,
        peers: Vec<SocketAddr>,
    },
    /// Is not reached, which takes so many seconds to be found out.
    Dead(u64),
    Refuses,
}

/// What is at an address that is dialled.
enum Listener {
    /// A peer.
    Remote(usize),
    /// Nobody answers.
    Hole,
}

/// An announce as the tracker saw it.
#[derive(Clone, Debug)]
pub struct Announced {
    pub at: f64,
    pub torrent: InfoHash,
    pub host: String,
    pub event: Told,
    pub totals: Totals,
}

enum Event {
    DiskDone,
    Answer(Request, Result<Reply, Failure>),
    Connected(PeerKey, Option<usize>),
    ToSeed(usize, Vec<u8>),
    ToRemote(usize, Vec<u8>),
    Drain(usize),
    SeedClosed(usize),
    RemoteClosed(usize),
    Tick(usize),
    Connect(usize),
}

enum Input {
    Handshake(Handshaking),
    Messages(Decoder, Limits),
}

/// A connection as the seed's task has it.
struct Connection {
    key: PeerKey,
    remote: usize,
    input: Input,
    inbox: Vec<u8>,
    ended: bool,
    outgoing: Vec<u8>,
    draining: bool,
    writing: bool,
    open: bool,
}

/// Wakes a connection's task.
struct Bell {
    connection: usize,
    rung: Arc<Mutex<Vec<usize>>>,
}

impl Wake for Bell {
    fn wake(self: Arc<Bell>) {
        self.rung.lock().expect("one thread").push(self.connection);
    }
}

pub struct World {
    pub session: Session,
    pub disk: Disk,
    pub start: Instant,
    pub now: Instant,
    random: Random,
    events: BTreeMap<(Instant, u64), Event>,
    sequence: u64,
    connections: Vec<Connection>,
    rung: Arc<Mutex<Vec<usize>>>,
    /// Until when the main loop sleeps, and whether somebody woke it.
    asleep: Option<Instant>,
    kicked: bool,
    stopping: bool,
    keys: HashMap<usize, TorrentKey>,
    pub remotes: Vec<Remote>,
    listeners: HashMap<SocketAddr, Listener>,
    trackers: HashMap<String, Tracker>,
    at_tracker: HashSet<String>,
    pub announces: Vec<Announced>,
    pub news: Vec<(f64, News)>,
    pub closed: HashMap<usize, Close>,
    pub refused: Vec<Close>,
    pub dials: Vec<f64>,
    /// Times that the main loop woke up.
    pub wake_ups: u64,
    pub rescans: u32,
    /// Bytes read for peers and bytes that their sockets took.
    pub read: u64,
    pub sent: u64,
    /// Writes are sometimes short.
    pub short_writes: bool,
}

pub fn settings() -> Settings {
    Settings {
        peer_id: *b"-MS0100-ourselves000",
        port: 6881,
        peers: 200,
        peers_per_torrent: 100,
        uploads: 8,
        uploads_per_torrent: 8,
        upload: 0,
        local_upload: 0,
        local: Vec::new(),
        dials_per_second: 5,
        memory: 64 << 20,
        trackers: true,
        also: Vec::new(),
        static_peers: Vec::new(),
    }
}

impl World {
    #[expect(clippy::disallowed_methods, reason = "some instant to count from")]
    pub fn new(settings: Settings) -> World {
        let start = Instant::now();
        let mut session = Session::new(settings, RESCAN, 7, start);
        session.set_clock(Some(1_700_000_000), start);
        World {
            session,
            disk: Disk::new(),
            start,
            now: start,
            random: Random::new(3),
            events: BTreeMap::new(),
            sequence: 0,
            connections: Vec::new(),
            rung: Arc::default(),
            asleep: None,
            kicked: false,
            stopping: false,
            keys: HashMap::new(),
            remotes: Vec::new(),
            listeners: HashMap::new(),
            trackers: HashMap::new(),
            at_tracker: HashSet::new(),
            announces: Vec::new(),
            news: Vec::new(),
            closed: HashMap::new(),
            refused: Vec::new(),
            dials: Vec::new(),
            wake_ups: 0,
            rescans: 0,
            read: 0,
            sent: 0,
            short_writes: true,
        }
    }

    // What tests say.

    /// A torrent of one file, whose data is there, with a tracker.
    pub fn torrent(&mut self, name: &str, len: u64, piece: u32) -> usize {
        self.torrent_of(name, &[len], piece, &["http://tracker.example/announce"])
    }

    pub fn torrent_of(&mut self, name: &str, files: &[u64], piece: u32, trackers: &[&str]) -> usize {
        let trackers = trackers.iter().map(|&url| vec![url.to_owned()]).collect();
        let options = maker::Options { trackers, ..maker::Options::default() };
        self.disk.add(name, files, piece, &options)
    }

    pub fn insert(&mut self, torrent: usize) {
        let of = &self.disk.torrents[torrent];
        let key = self.session.insert(of.metainfo.summary(), of.place.clone(), self.now);
        self.keys.insert(torrent, key.expect("a new torrent"));
        self.kick();
    }

    /// The same torrent with its data checked.
    pub fn seeded(&mut self, name: &str, len: u64, piece: u32) -> usize {
        let torrent = self.torrent(name, len, piece);
        self.insert(torrent);
        self.until(600.0, |world| world.state(torrent) == State::Seeding);
        torrent
    }

    /// Begins again with what is on the disk; torrents are to be inserted anew. Peers and trackers see nothing.
    pub fn restart(&mut self) {
        let settings = self.session.settings().clone();
        let mut world = World::new(settings);
        std::mem::swap(&mut world.disk, &mut self.disk);
        std::mem::swap(&mut world.trackers, &mut self.trackers);
        world.disk.restart();
        *self = world;
    }

    pub fn tracker(&mut self, host: &str, tracker: Tracker) {
        self.trackers.insert(host.into(), tracker);
    }

    /// A peer that connects to us now.
    pub fn connect(&mut self, kind: Kind, torrent: usize) -> usize {
        self.connect_as(kind, torrent, |_| {})
    }

    pub fn connect_as(&mut self, kind: Kind, torrent: usize, with: impl FnOnce(&mut Remote)) -> usize {
        let remote = self.remote(kind, torrent, with);
        self.connect_again(remote);
        remote
    }

    pub fn connect_again(&mut self, remote: usize) {
        let latency = self.remotes[remote].latency;
        self.later(latency, Event::Connect(remote));
    }

    fn remote(&mut self, kind: Kind, torrent: usize, with: impl FnOnce(&mut Remote)) -> usize {
        let n = self.remotes.len();
        let mut remote = Remote::new(kind, &self.disk, torrent, u32::try_from(n).expect("few") + 1);
        with(&mut remote);
        let every = if remote.kind == Kind::Trickle { 4 } else { 90 };
        self.remotes.push(remote);
        self.later(Duration::from_secs(every), Event::Tick(n));
        n
    }

    /// A peer that waits to be dialled.
    pub fn listen(&mut self, kind: Kind, torrent: usize) -> usize {
        self.listen_as(kind, torrent, |_| {})
    }

    pub fn listen_as(&mut self, kind: Kind, torrent: usize, with: impl FnOnce(&mut Remote)) -> usize {
        let remote = self.remote(kind, torrent, with);
        self.listeners.insert(self.remotes[remote].addr, Listener::Remote(remote));
        remote
    }

    /// An address where nobody answers.
    pub fn hole(&mut self, addr: SocketAddr) {
        self.listeners.insert(addr, Listener::Hole);
    }

    /// The connection of a peer breaks.
    pub fn cut(&mut self, remote: usize) {
        for connection in 0..self.connections.len() {
            if self.connections[connection].remote == remote && self.connections[connection].open {
                self.later(Duration::ZERO, Event::RemoteClosed(connection));
            }
        }
    }

    /// A peer sends this, whatever it has said before.
    pub fn say(&mut self, remote: usize, bytes: Vec<u8>) {
        let is_its = |c: &Connection| c.remote == remote && c.open;
        let connection = self.connections.iter().position(is_its).expect("a connection");
        self.send(connection, bytes);
    }

    /// A peer reads again.
    pub fn wake_link(&mut self, remote: usize) {
        let is_its = |c: &Connection| c.remote == remote && c.open;
        if let Some(connection) = self.connections.iter().position(is_its) {
            self.set_draining(connection);
        }
    }

    pub fn hash(&self, torrent: usize) -> InfoHash {
        self.disk.torrents[torrent].info_hash()
    }

    pub fn key(&self, torrent: usize) -> TorrentKey {
        self.keys[&torrent]
    }

    pub fn of(&self, torrent: usize) -> &Torrent {
        self.session.torrent(self.key(torrent)).expect("a torrent that is there")
    }

    pub fn state(&self, torrent: usize) -> State {
        self.of(torrent).state
    }

    /// Does something with the session, as a command or a signal does.
    pub fn act<T>(&mut self, act: impl FnOnce(&mut Session, Instant) -> T) -> T {
        let result = act(&mut self.session, self.now);
        self.kick();
        self.settle();
        result
    }

    pub fn change(&mut self, change: impl FnOnce(&mut Settings)) {
        let mut settings = self.session.settings().clone();
        change(&mut settings);
        self.act(|session, now| session.apply(settings, RESCAN, now));
    }

    pub fn pause(&mut self, torrent: usize) {
        let hash = self.hash(torrent);
        assert!(self.act(|session, now| session.pause(hash, now)));
    }

    pub fn resume(&mut self, torrent: usize) {
        let hash = self.hash(torrent);
        assert!(self.act(|session, now| session.resume(hash, now)));
    }

    pub fn remove(&mut self, torrent: usize) {
        let hash = self.hash(torrent);
        self.act(|session, now| session.remove(hash, now));
    }

    pub fn moved(&mut self, torrent: usize, path: &str) {
        let (hash, path) = (self.hash(torrent), self.disk.rename(torrent, path));
        let tiers = self.disk.torrents[torrent].metainfo.trackers.clone();
        let ident = ident(torrent as u64);
        self.act(|session, now| session.moved(hash, path, ident, tiers, now));
    }

    pub fn shut_down(&mut self) {
        self.stopping = true;
        self.act(Session::shut_down);
    }

    pub fn secs(&self) -> f64 {
        (self.now - self.start).as_secs_f64()
    }

    pub fn told(&self, torrent: usize) -> Vec<Told> {
        let hash = self.hash(torrent);
        self.announces.iter().filter(|told| told.torrent == hash).map(|told| told.event).collect()
    }

    pub fn happened(&self, torrent: usize, what: Happened) -> usize {
        let hash = self.hash(torrent);
        self.news.iter().filter(|(_, news)| news.info_hash == hash && news.action == what).count()
    }

    /// Why the seed closed the connection to a peer, if it did.
    pub fn why(&self, remote: usize) -> Option<&Close> {
        self.closed.get(&remote)
    }

    // Time.

    pub fn run(&mut self, seconds: f64) {
        let end = self.now + Duration::from_secs_f64(seconds);
        while self.step(end) {}
        self.now = end;
        self.settle();
    }

    /// Runs until something holds; panics if it does not in time.
    pub fn until(&mut self, seconds: f64, holds: impl Fn(&World) -> bool) {
        let end = self.now + Duration::from_secs_f64(seconds);
        self.settle();
        while !holds(self) {
            assert!(self.step(end), "{} s were not enough", seconds);
        }
    }

    /// The next thing that happens, if it does before `end`.
    fn step(&mut self, end: Instant) -> bool {
        self.settle();
        let event = self.events.first_key_value().map(|((at, _), _)| *at);
        let Some(next) = event.into_iter().chain(self.asleep).min().filter(|&next| next <= end) else {
            return false;
        };
        self.now = self.now.max(next);
        if event.is_some_and(|at| at <= self.now)
            && let Some((_, event)) = self.events.pop_first()
        {
            self.happen(event);
        }
        self.settle();
        true
    }

    fn later(&mut self, after: Duration, event: Event) {
        self.sequence += 1;
        self.events.insert((self.now + after, self.sequence), event);
    }

    fn kick(&mut self) {
        self.kicked |= self.session.wants_poll_before(self.asleep) || self.session.is_shut_down();
    }

    /// Runs the main loop and the tasks until all of them sleep.
    fn settle(&mut self) {
        for turn in 0.. {
            assert!(turn < 10_000, "somebody is awake for ever at {} s", self.secs());
            let mut is_quiet = true;
            if self.kicked || self.asleep.is_some_and(|at| at <= self.now) {
                is_quiet = false;
                self.work();
            }
            let rung = std::mem::take(&mut *self.rung.lock().expect("one thread"));
            for connection in rung {
                is_quiet = false;
                self.run_connection(connection);
            }
            if is_quiet {
                break;
            }
        }
        self.check();
    }

    /// The daemon's loop, once.
    fn work(&mut self) {
        self.wake_ups += 1;
        self.kicked = false;
        for jobs in 0.. {
            assert!(jobs < 100_000, "jobs without end at {} s", self.secs());
            let Some(job) = self.session.poll(self.now) else { break };
            self.perform(job);
        }
        self.asleep = self.session.deadline();
        if let Some(time) = self.disk.begin() {
            self.later(time, Event::DiskDone);
        }
    }

    /// What must hold whenever all sleep.
    fn check(&mut self) {
        let at = self.secs();
        assert!(self.session.poll(self.now).is_none(), "a job that nobody was woken for at {at} s");
        assert!(
            self.session.deadline().is_none_or(|at| at > self.now),
            "a timer goes off for nothing at {at} s"
        );
        assert!(!self.session.wants_poll_before(self.asleep), "the main loop oversleeps at {at} s");
        let settings = self.session.settings();
        let mut slots: HashMap<Option<TorrentKey>, usize> = HashMap::new();
        let mut dialling = 0;
        for peer in self.session.peers() {
            dialling += usize::from(peer.outgoing && !peer.ready);
            if !peer.choked {
                *slots.entry(peer.torrent).or_default() += 1;
            }
        }
        assert!(dialling <= 16, "{dialling} connections are being made");
        assert!(slots.values().all(|&slots| slots <= settings.uploads_per_torrent), "{slots:?}");
        assert!(slots.values().sum::<usize>() <= settings.uploads, "{slots:?}");
    }

    fn perform(&mut self, job: Job) {
        let at = self.secs();
        match job {
            Job::Storage(job) => {
                if let Err(job) = self.disk.submit(job) {
                    self.session.postponed(*job);
                }
                if let Some(time) = self.disk.begin() {
                    self.later(time, Event::DiskDone);
                }
            }
            Job::Announce(request, totals) => self.announce(request, totals),
            Job::Dial(key, addr) => {
                self.dials.push(at);
                let (time, found) = match self.listeners.get(&addr) {
                    Some(&Listener::Remote(remote)) => (self.remotes[remote].latency * 2, Some(remote)),
                    Some(Listener::Hole) => (DIAL_TIME, None),
                    None => (Duration::from_millis(5), None),
                };
                self.later(time, Event::Connected(key, found));
            }
            Job::Rescan => self.rescans += 1,
            Job::Event(news) => self.news.push((at, news)),
        }
    }

    fn announce(&mut self, request: Request, totals: Totals) {
        let host = request.url.host().to_owned();
        assert!(self.at_tracker.insert(host.clone()), "two announces to {host} at a time");
        let tracker = self.trackers.get(&host).cloned();
        let (time, result) = match tracker {
            None => (50, Ok(Reply::default())),
            Some(Tracker::Answers { interval, peers }) => {
                (50, Ok(Reply { interval, peers, ..Reply::default() }))
            }
            Some(Tracker::Refuses) => (50, Err(Failure::Refused("unknown torrent".into(), Retry::Unsaid))),
            Some(Tracker::Dead(seconds)) => {
                let patience = if self.stopping { 2 } else { seconds };
                (1000 * patience, Err(Failure::Transport("timed out".into())))
            }
        };
        let told =
            Announced { at: self.secs(), torrent: request.info_hash, host, event: request.event, totals };
        self.announces.push(told);
        self.later(Duration::from_millis(time), Event::Answer(request, result));
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::DiskDone => self.disk_done(),
            Event::Answer(request, result) => {
                self.at_tracker.remove(request.url.host());
                self.session.announced(&request, result.as_ref(), self.now);
                if let Some((request, totals)) = self.session.next_announce(request.host, self.now) {
                    self.announce(request, totals);
                }
            }
            Event::Connected(key, Some(remote)) => {
                self.session.connected(key);
                self.remotes[remote].dialled = true;
                self.open(key, remote);
            }
            Event::Connected(key, None) => {
                self.session.disconnected(key, &Close::Gone, self.now);
            }
            Event::Connect(remote) => match self.session.accept(self.remotes[remote].addr, self.now) {
                Ok(key) => {
                    let connection = self.open(key, remote);
                    let (hello, latency) = (self.remotes[remote].hello(), self.remotes[remote].latency);
                    self.later(latency, Event::ToSeed(connection, hello));
                }
                Err(why) => {
                    self.refused.push(why.clone());
                    self.closed.insert(remote, why);
                    self.remotes[remote].gone = Some(self.secs());
                }
            },
            Event::ToSeed(connection, bytes) => {
                self.connections[connection].inbox.extend(bytes);
                self.run_connection(connection);
            }
            Event::RemoteClosed(connection) => {
                self.connections[connection].ended = true;
                self.run_connection(connection);
            }
            Event::Drain(connection) => self.drain(connection),
            Event::ToRemote(connection, bytes) => {
                let (at, remote) = (self.secs(), self.connections[connection].remote);
                if self.connections[connection].ended {
                    return;
                }
                let answer = self.remotes[remote].receive(&self.disk, &bytes, at);
                self.send(connection, answer);
            }
            Event::SeedClosed(connection) => {
                let remote = self.connections[connection].remote;
                self.remotes[remote].gone = Some(self.secs());
            }
            Event::Tick(remote) => {
                let every = if self.remotes[remote].kind == Kind::Trickle { 4 } else { 90 };
                self.later(Duration::from_secs(every), Event::Tick(remote));
                let is_its = |c: &Connection| c.remote == remote && c.open && !c.ended;
                if let Some(connection) = self.connections.iter().position(is_its) {
                    let bytes = self.remotes[remote].tick();
                    self.send(connection, bytes);
                }
            }
        }
        self.kick();
    }

    fn send(&mut self, connection: usize, bytes: Vec<u8>) {
        if !bytes.is_empty() {
            let latency = self.remotes[self.connections[connection].remote].latency;
            self.later(latency, Event::ToSeed(connection, bytes));
        }
    }

    fn disk_done(&mut self) {
        let done = self.disk.end();
        if let Some(done) = done {
            self.session.storage_has_room();
            if let Done::Loaded { path, .. } = &done {
                let at = self.disk.torrents.iter().position(|torrent| torrent.place.torrent == *path);
                self.insert(at.expect("a torrent of this disk"));
            }
            self.session.stored(done, self.now);
            self.kick();
        }
        if let Some(time) = self.disk.begin() {
            self.later(time, Event::DiskDone);
        }
    }

    /// The disk answers again.
    pub fn revive_disk(&mut self) {
        self.disk.hung = false;
        if let Some(time) = self.disk.begin() {
            self.later(time, Event::DiskDone);
        }
    }

    // Connections, as `peer::io` serves them.

    fn open(&mut self, key: PeerKey, remote: usize) -> usize {
        self.remotes[remote].again();
        self.connections.push(Connection {
            key,
            remote,
            input: Input::Handshake(Handshaking::default()),
            inbox: Vec::new(),
            ended: false,
            outgoing: Vec::new(),
            draining: false,
            writing: false,
            open: true,
        });
        let connection = self.connections.len() - 1;
        self.rung.lock().expect("one thread").push(connection);
        connection
    }

    fn drain(&mut self, connection: usize) {
        let of = &mut self.connections[connection];
        let remote = &self.remotes[of.remote];
        let n = of.outgoing.len().min(chunk(remote.bandwidth));
        let rest = of.outgoing.split_off(n);
        let bytes = std::mem::replace(&mut of.outgoing, rest);
        of.draining = false;
        let latency = remote.latency;
        if of.writing && of.outgoing.len() < SEND_BUFFER / 2 && of.open {
            of.writing = false;
            self.rung.lock().expect("one thread").push(connection);
        }
        self.later(latency, Event::ToRemote(connection, bytes));
        self.set_draining(connection);
    }

    fn set_draining(&mut self, connection: usize) {
        let of = &mut self.connections[connection];
        let bandwidth = self.remotes[of.remote].bandwidth;
        if of.draining || of.outgoing.is_empty() || bandwidth == 0 {
            return;
        }
        of.draining = true;
        let n = of.outgoing.len().min(chunk(bandwidth));
        let time = Duration::from_nanos(n as u64 * 1_000_000_000 / bandwidth);
        self.later(time, Event::Drain(connection));
    }

    fn run_connection(&mut self, connection: usize) {
        if !self.connections[connection].open {
            return;
        }
        let key = self.connections[connection].key;
        let why = loop {
            let more = match self.read(connection) {
                Ok(more) => more,
                Err(why) => break why,
            };
            if let Err(why) = self.write(connection) {
                break why;
            }
            self.kick();
            let Some(peer) = self.session.peer_mut(key) else { break Close::Gone };
            if let Some(why) = peer.closing.take() {
                break why;
            }
            if !more {
                peer.waker = Some(Waker::from(Arc::new(Bell { connection, rung: self.rung.clone() })));
                return;
            }
        };
        self.session.disconnected(key, &why, self.now);
        let of = &mut self.connections[connection];
        of.open = false;
        of.outgoing = Vec::new();
        self.closed.insert(of.remote, why);
        let latency = self.remotes[of.remote].latency;
        self.later(latency, Event::SeedClosed(connection));
        self.kick();
    }

    /// One read; whether there is more to come at once.
    fn read(&mut self, connection: usize) -> Result<bool, Close> {
        let of = &mut self.connections[connection];
        let n = of.inbox.len().min(READ);
        if n == 0 {
            return if of.ended { Err(Close::Gone) } else { Ok(false) };
        }
        let rest = of.inbox.split_off(n);
        let bytes = std::mem::replace(&mut of.inbox, rest);
        let (mut input, now, key) = (&bytes[..], self.now, of.key);
        self.session.heard(key, now);
        if let Input::Handshake(handshaking) = &mut of.input {
            loop {
                match handshaking.feed(&mut input).map_err(|_| Close::Protocol("no BitTorrent handshake"))? {
                    Stage::More => return Ok(true),
                    Stage::InfoHash { reserved, info_hash } => {
                        self.session.greeted(key, InfoHash::from_bytes(info_hash), reserved, now)?;
                    }
                    Stage::Complete(theirs) => {
                        self.session.identified(key, theirs.peer_id, now)?;
                        let limits = self.session.wire_limits(key).ok_or(Close::TorrentStopped)?;
                        of.input = Input::Messages(Decoder::new(), limits);
                        break;
                    }
                }
            }
        }
        if let Input::Messages(decoder, limits) = &mut of.input {
            while let Some(message) =
                decoder.decode(&mut input, limits).map_err(|_| Close::Protocol("malformed message"))?
            {
                self.session.handle(key, &message, now)?;
            }
        }
        Ok(true)
    }

    fn write(&mut self, connection: usize) -> Result<(), Close> {
        let (key, now) = (self.connections[connection].key, self.now);
        let mut parts: Vec<Part> = Vec::with_capacity(PARTS);
        loop {
            let of = &mut self.connections[connection];
            if of.writing || !of.open {
                return Ok(());
            }
            if let Some(control) = self.session.control(key) {
                let n = control.len().min(SEND_BUFFER - of.outgoing.len());
                if n == 0 {
                    of.writing = true;
                    continue;
                }
                of.outgoing.extend_from_slice(&control[..n]);
                self.session.control_sent(key, n, now);
                self.set_draining(connection);
                continue;
            }
            if !self.session.owes(key) {
                return Ok(());
            }
            let room = u32::try_from(SEND_BUFFER - of.outgoing.len()).expect("small");
            if room < LEAST_ROOM {
                of.writing = true;
                continue;
            }
            let Some(upload) = self.session.upload(key, room, &mut parts, now) else { return Ok(()) };
            let mut out = Vec::new();
            match self.fill(&upload, &parts, &mut out, self.session.misses(key)) {
                Ok(()) => {}
                Err(miss) => {
                    self.session.fetch(key, &upload, miss, None);
                    return Ok(());
                }
            }
            self.read += out.len() as u64;
            let short = self.short_writes && self.random.below(10) == 0;
            let n = if short { self.random.below(out.len()) + 1 } else { out.len() };
            let of = &mut self.connections[connection];
            of.outgoing.extend_from_slice(&out[..n]);
            // A socket that took less than it was given is full; this one takes the rest a little later.
            of.writing = n < out.len();
            self.sent += n as u64;
            self.session.sent(key, u32::try_from(n).expect("small"), now);
            self.set_draining(connection);
        }
    }

    /// Puts the messages together; stops at the first byte that is not in memory.
    fn fill(&self, upload: &Upload, parts: &[Part], out: &mut Vec<u8>, misses: u8) -> Result<(), Miss> {
        let torrent = *self.keys.iter().find(|(_, key)| **key == upload.torrent).expect("a torrent").0;
        let mut first_data = None;
        for part in parts {
            out.extend(&part.header()[part.from.min(HEADER) as usize..part.to.min(HEADER) as usize]);
            let (first, len) = part.data();
            let offset = upload.lengths.block_offset(part.block) + u64::from(first);
            for span in upload.layout.spans(offset, u64::from(len)) {
                let from = out.len();
                let first_data = *first_data.get_or_insert(from);
                let len = usize::try_from(span.len).expect("small");
                out.resize(from + len, 0);
                let (bytes, force) = (&mut out[from..], misses >= MISSES);
                let read = self.disk.read(torrent, &upload.layout, span.file, span.offset, bytes, force);
                if read < len {
                    out.truncate(from + read);
                    let read = read as u64;
                    let miss = Miss { file: span.file, offset: span.offset + read, len: span.len - read };
                    // A header alone is not worth a write.
                    return if out.len() > first_data { Ok(()) } else { Err(miss) };
                }
            }
        }
        Ok(())
    }
}

/// Bytes that a link of this bandwidth delivers at a time.
fn chunk(bandwidth: u64) -> usize {
    usize::try_from(bandwidth / 50).expect("a bandwidth of a test").clamp(1460, 64 * 1024)
}

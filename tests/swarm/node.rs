//! One daemon of the virtual world: a real session with a disk, its connections and its main loop.
//!
//! It does what the daemon and the peers' tasks do, down to who is woken when: a job that nobody was woken for, a
//! timer that goes off for nothing and a slot too many are found after every step of every test.

use std::collections::{BTreeMap, HashSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use meshseed::metainfo::InfoHash;
use meshseed::metainfo::magnet::Magnet;
use meshseed::peer::outbox::{HEADER, Part};
use meshseed::peer::wire::{self, Decoder, Handshaking, Limits, Message, Stage};
use meshseed::peer::{Close, PeerKey};
use meshseed::random::Random;
use meshseed::session::{BATCH, Event as News, Happened, Job, Miss, Session, Settings, Totals, Upload};
use meshseed::storage::intake::{Intake, Keeper};
use meshseed::storage::io::Done;
use meshseed::torrent::{State, Torrent, TorrentKey};
use meshseed::tracker::Event as Told;
use meshseed::tracker::client::Request;

use super::disk::Disk;
use super::net::{End, Event, Net, SEND_BUFFER};

/// Of a socket, as `peer::io` has it.
const LEAST_ROOM: u32 = 2 * 1024;
const READ: usize = 16 * 1024;
const PARTS: usize = 64;
const BUFFERS: usize = 4;
const WORTH_WRITING: usize = 64 * 1024;
const MISSES: u8 = 3;
const DIAL_TIME: Duration = Duration::from_secs(10);
pub const RESCAN: Duration = Duration::from_secs(60);

/// An announce as the tracker saw it.
#[derive(Clone, Debug)]
pub struct Announced {
    pub at: f64,
    pub torrent: InfoHash,
    pub host: String,
    pub event: Told,
    pub totals: Totals,
}

enum Input {
    Handshake(Handshaking),
    Messages(Decoder, Limits),
}

/// A connection as its task has it.
struct Task {
    key: PeerKey,
    input: Input,
}

/// What is wrong with a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// Of so many blocks of a thousand it sends other bytes than it has.
    pub lies: u64,
    /// After so many bytes of content it sends no more of it, and stays.
    pub stalls_after: Option<u64>,
}

pub struct Node {
    at: usize,
    pub addr: SocketAddr,
    pub session: Session,
    pub disk: Disk,
    /// Until when the main loop sleeps, and whether somebody woke it.
    asleep: Option<Instant>,
    alarm: Option<Instant>,
    kicked: bool,
    pub stopping: bool,
    keys: BTreeMap<usize, TorrentKey>,
    tasks: BTreeMap<usize, Task>,
    at_tracker: HashSet<String>,
    /// What came and is to be written, and the halves that wait for room there.
    intake: Intake,
    waiters: Vec<usize>,
    scratch: Vec<u8>,
    outgoing: Vec<u8>,
    random: Random,
    pub faults: Faults,
    pub announces: Vec<Announced>,
    pub news: Vec<(f64, News)>,
    /// Why it closed its connections, and who was at the other end.
    pub closed: Vec<(End, Close)>,
    pub refused: Vec<Close>,
    pub dials: Vec<f64>,
    checks: u64,
    /// Times that the main loop woke up.
    pub wake_ups: u64,
    pub rescans: u32,
    /// Bytes read for peers and bytes that their sockets took.
    pub read: u64,
    pub sent: u64,
    /// Writes are sometimes short.
    pub short_writes: bool,
}

impl Task {
    /// Takes all messages of a read; blocks that are kept stay where they are.
    fn take(
        &mut self,
        session: &mut Session,
        read: &[u8],
        mut keeper: Option<Keeper<'_>>,
        half: usize,
        net: &mut Net,
    ) -> Result<(), Close> {
        let (mut input, now, key) = (read, net.now, self.key);
        session.heard(key, now);
        if let Input::Handshake(handshaking) = &mut self.input {
            loop {
                match handshaking.feed(&mut input).map_err(|_| Close::Protocol("no BitTorrent handshake"))? {
                    Stage::More => return Ok(()),
                    Stage::InfoHash { reserved, info_hash } => {
                        session.greeted(key, InfoHash::from_bytes(info_hash), reserved, now)?;
                    }
                    Stage::Complete(theirs) => {
                        session.identified(key, theirs.peer_id, now)?;
                        let limits = session.wire_limits(key).ok_or(Close::TorrentStopped)?;
                        self.input = Input::Messages(Decoder::new(), limits);
                        break;
                    }
                }
            }
        }
        let Input::Messages(decoder, limits) = &mut self.input else { return Ok(()) };
        if limits.pieces == wire::UNKNOWN {
            *limits = session.wire_limits(key).ok_or(Close::TorrentStopped)?;
        }
        while let Some(message) =
            decoder.decode(&mut input, limits).map_err(|_| Close::Protocol("malformed message"))?
        {
            net.ledger.note(net.half(half ^ 1).end, net.half(half).end, &message);
            match (message, &mut keeper) {
                (Message::Piece { piece, begin, data, rest }, Some(keeper)) => {
                    let len = u32::try_from(data.len()).expect("small");
                    if session.block(key, piece, begin, len, rest, now)? {
                        let torrent = session.torrent_of(key).ok_or(Close::TorrentStopped)?;
                        keeper.keep(
                            torrent.0,
                            piece,
                            begin,
                            data.as_ptr().addr() - read.as_ptr().addr(),
                            data.len(),
                        );
                    } else {
                        net.ledger.drop(net.half(half).end, data.len());
                    }
                }
                (message, _) => session.handle(key, &message, now)?,
            }
        }
        session.refill(key, now);
        Ok(())
    }
}

impl Node {
    pub fn new(at: usize, settings: Settings, disk: Disk, net: &Net) -> Node {
        let number = u32::try_from(at).expect("few");
        let [.., a, b] = number.to_be_bytes();
        let seed = 7 + u64::from(number);
        let mut session = Session::new(settings, RESCAN, seed, net.now);
        session.set_clock(Some(1_700_000_000 + (net.now - net.start).as_secs()), net.now);
        Node {
            at,
            addr: SocketAddr::from(([11, a, b, 1], 6881)),
            session,
            disk,
            asleep: None,
            alarm: None,
            kicked: false,
            stopping: false,
            keys: BTreeMap::new(),
            tasks: BTreeMap::new(),
            at_tracker: HashSet::new(),
            intake: Intake::new(BUFFERS),
            waiters: Vec::new(),
            scratch: vec![0; READ],
            outgoing: vec![0; BATCH as usize],
            random: Random::new(seed),
            faults: Faults::default(),
            announces: Vec::new(),
            news: Vec::new(),
            closed: Vec::new(),
            refused: Vec::new(),
            dials: Vec::new(),
            checks: 0,
            wake_ups: 0,
            rescans: 0,
            read: 0,
            sent: 0,
            short_writes: true,
        }
    }

    // What tests say and ask.

    pub fn insert(&mut self, torrent: usize, now: Instant) {
        let of = &self.disk.torrents[torrent];
        let key = self.session.insert(of.metainfo.summary(), of.place.clone(), now);
        self.keys.insert(torrent, key.expect("a new torrent"));
        self.kick();
    }

    /// The torrent is named by a magnet link alone.
    pub fn insert_link(&mut self, torrent: usize, now: Instant) {
        let of = &self.disk.torrents[torrent];
        let link = Magnet { name: None, ..Magnet::from(&of.metainfo) };
        let key = self.session.insert_magnet(link, of.place.clone(), now);
        self.keys.insert(torrent, key.expect("a new torrent"));
        self.kick();
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

    pub fn told(&self, torrent: usize) -> Vec<Told> {
        let hash = self.hash(torrent);
        self.announces.iter().filter(|told| told.torrent == hash).map(|told| told.event).collect()
    }

    pub fn happened(&self, torrent: usize, what: Happened) -> usize {
        let hash = self.hash(torrent);
        self.news.iter().filter(|(_, news)| news.info_hash == hash && news.action == what).count()
    }

    /// Why it last closed the connection to somebody, if it did.
    pub fn parted(&self, from: End) -> Option<&Close> {
        self.closed.iter().rev().find(|(end, _)| *end == from).map(|(_, why)| why)
    }

    // The main loop.

    pub fn kick(&mut self) {
        self.kicked |= self.session.wants_poll_before(self.asleep) || self.session.is_shut_down();
    }

    /// Whether the main loop is to run now.
    pub fn is_awake(&self, now: Instant) -> bool {
        self.kicked || self.asleep.is_some_and(|at| at <= now)
    }

    /// The daemon's loop, once.
    pub fn work(&mut self, net: &mut Net) {
        self.wake_ups += 1;
        self.kicked = false;
        for jobs in 0.. {
            assert!(jobs < 100_000, "jobs without end at {} s", net.secs());
            let Some(job) = self.session.poll(net.now) else { break };
            self.perform(job, net);
        }
        self.asleep = self.session.deadline();
        if let Some(at) = self.asleep
            && self.alarm.is_none_or(|alarm| alarm > at)
        {
            self.alarm = Some(at);
            net.at(at, Event::Alarm(self.at));
        }
        self.begin(net);
    }

    /// The alarm goes off; one that was set for later is set again.
    pub fn alarm(&mut self, net: &mut Net) {
        if self.alarm.take_if(|at| *at <= net.now).is_some()
            && let Some(at) = self.asleep.filter(|&at| at > net.now)
        {
            self.alarm = Some(at);
            net.at(at, Event::Alarm(self.at));
        }
    }

    /// What must hold whenever all sleep.
    pub fn check(&mut self, net: &Net) {
        let (at, now) = (net.secs(), net.now);
        if let Some(job) = self.session.poll(now) {
            panic!("nobody was woken for {} at {at} s", name(&job));
        }
        assert!(self.session.deadline().is_none_or(|at| at > now), "a timer goes off for nothing at {at} s");
        assert!(!self.session.wants_poll_before(self.asleep), "the main loop oversleeps at {at} s");
        let settings = self.session.settings();
        // A look at each peer, now and then.
        self.checks += 1;
        if !self.checks.is_multiple_of(8) {
            return;
        }
        let (memory, most) = (self.session.memory(), settings.memory);
        assert!(memory <= most, "{memory} bytes of {most} at {at} s");
        let mut slots: BTreeMap<Option<TorrentKey>, usize> = BTreeMap::new();
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

    fn perform(&mut self, job: Job, net: &mut Net) {
        let at = net.secs();
        match job {
            Job::Storage(job) => {
                if let Err(job) = self.disk.submit(job) {
                    self.session.postponed(*job);
                }
                self.begin(net);
            }
            Job::Announce(request, totals) => self.announce(request, totals, net),
            Job::Dial(key, addr) => {
                self.dials.push(at);
                let (time, found) = net.dial(End::Node(self.at), addr);
                net.later(time.unwrap_or(DIAL_TIME), Event::Connected(self.at, key, found));
            }
            Job::Rescan => self.rescans += 1,
            Job::Event(news) => self.news.push((at, news)),
            Job::Search(..) => panic!("no node of this world has a link"),
            Job::Datagram(..) | Job::Bootstrap => panic!("no node of this world is one of the DHT"),
            Job::Close(_) => {}
            Job::Reconnect => panic!("no node of this world changes its address"),
            Job::WebFetch(_) => panic!("no torrent of this world names a web seed"),
        }
    }

    fn announce(&mut self, request: Request, totals: Totals, net: &mut Net) {
        let host = request.url.host().to_owned();
        assert!(self.at_tracker.insert(host.clone()), "two announces to {host} at a time");
        let (time, result) = net.announce(&host, self.addr, &request, self.stopping);
        let told =
            Announced { at: net.secs(), torrent: request.info_hash, host, event: request.event, totals };
        self.announces.push(told);
        net.later(Duration::from_millis(time), Event::Answer(self.at, request, result));
    }

    pub fn answered(
        &mut self,
        request: &Request,
        result: &Result<meshseed::tracker::Reply, meshseed::tracker::Failure>,
        net: &mut Net,
    ) {
        self.at_tracker.remove(request.url.host());
        self.session.announced(request, result.as_ref(), net.now);
        if let Some((request, totals)) = self.session.next_announce(request.host, net.now) {
            self.announce(request, totals, net);
        }
    }

    // The disk.

    /// The disk begins with its next job.
    pub fn begin(&mut self, net: &mut Net) {
        if let Some(time) = self.disk.begin() {
            net.later(time, Event::DiskDone(self.at));
        }
    }

    pub fn disk_done(&mut self, net: &mut Net) {
        let done = self.disk.end();
        if let Some(done) = done {
            self.session.storage_has_room();
            if let Done::Loaded { path, .. } = &done {
                let at = self.disk.torrents.iter().position(|torrent| torrent.place.torrent == *path);
                self.insert(at.expect("a torrent of this disk"), net.now);
            }
            match done {
                Done::Wrote { bytes, outcomes } => {
                    self.session.stored(Done::Wrote { bytes: Box::default(), outcomes }, net.now);
                    self.intake.give_back(bytes);
                    self.write_out(net);
                    std::mem::take(&mut self.waiters).into_iter().for_each(|half| net.ring(half));
                }
                Done::Kept { result: Ok(kept), .. } => {
                    let of = self.disk.torrents.iter();
                    let mut of = of.filter(|torrent| torrent.info_hash() == kept.loaded.summary.info_hash);
                    let place = of.next().expect("a torrent of this disk").place.clone();
                    self.session.learn(kept.loaded.summary, place, net.now);
                }
                done => self.session.stored(done, net.now),
            }
            if !self.session.is_fetching() {
                self.intake.rest();
            }
            self.kick();
        }
        self.begin(net);
    }

    // Connections, as `peer::io` serves them.

    /// A connection is there; its task begins.
    pub fn open(&mut self, key: PeerKey, half: usize, net: &Net) {
        self.tasks.insert(half, Task { key, input: Input::Handshake(Handshaking::default()) });
        net.ring(half);
    }

    /// The task of a connection runs until it has nothing to do.
    pub fn run(&mut self, half: usize, net: &mut Net) {
        let Some(task) = self.tasks.get(&half) else { return };
        let key = task.key;
        let why = loop {
            let more = match self.read(half, net) {
                Ok(more) => more,
                Err(why) => break why,
            };
            if let Err(why) = self.write(half, net) {
                break why;
            }
            self.kick();
            let Some(peer) = self.session.peer_mut(key) else { break Close::Gone };
            if let Some(why) = peer.closing.take() {
                break why;
            }
            if !more {
                peer.waker = Some(net.waker(half));
                return;
            }
        };
        self.session.disconnected(key, &why, net.now);
        self.tasks.remove(&half);
        self.closed.push((net.half(half ^ 1).end, why));
        net.close(half);
        self.kick();
    }

    /// One read; whether there is more to come at once. Where blocks may come it goes to where they are written from.
    fn read(&mut self, half: usize, net: &mut Net) -> Result<bool, Close> {
        let Some(task) = self.tasks.get_mut(&half) else { return Err(Close::Gone) };
        let Node { session, intake, scratch, .. } = self;
        let (space, keeper) = if session.expects_blocks(task.key) {
            let Some((space, keeper)) = intake.begin() else {
                self.waiters.push(half);
                return Ok(false);
            };
            (space, Some(keeper))
        } else {
            (&mut scratch[..], None)
        };
        let n = net.receive(half, space);
        if n == 0 {
            return if net.half(half).ended { Err(Close::Gone) } else { Ok(false) };
        }
        task.take(session, &space[..n], keeper, half, net)?;
        self.write_out(net);
        Ok(true)
    }

    /// Gives the disk what has come, if it is worth it, as the daemon does.
    fn write_out(&mut self, net: &mut Net) {
        let pending = self.intake.pending();
        let worth = pending >= WORTH_WRITING || self.session.wants_write();
        let due = worth && pending > 0 && self.disk.writes_under_way() == 0;
        if (self.intake.is_full() || due)
            && let Some(filled) = self.intake.take()
        {
            let job = self.session.write(filled);
            assert!(self.disk.submit(job).is_ok(), "more buffers than the disk takes");
            self.begin(net);
        }
    }

    fn write(&mut self, half: usize, net: &mut Net) -> Result<(), Close> {
        let (key, now) = (self.tasks[&half].key, net.now);
        let mut parts: Vec<Part> = Vec::with_capacity(PARTS);
        loop {
            if net.half(half).is_full {
                return Ok(());
            }
            if let Some(control) = self.session.control(key) {
                let n = control.len().min(net.room(half));
                if n == 0 {
                    net.half_mut(half).is_full = true;
                    continue;
                }
                net.send(half, &control[..n]);
                self.session.control_sent(key, n, now);
                continue;
            }
            if !self.session.owes(key) || self.has_stalled() {
                return Ok(());
            }
            let room = u32::try_from(net.room(half)).expect("small");
            if room < LEAST_ROOM {
                net.half_mut(half).is_full = true;
                continue;
            }
            let Some(upload) = self.session.upload(key, room, &mut parts, now) else { return Ok(()) };
            let mut out = std::mem::take(&mut self.outgoing);
            let filled = self.fill(&upload, &parts, &mut out, self.session.misses(key));
            self.outgoing = out;
            let filled = match filled {
                Ok(filled) => filled,
                Err(miss) => {
                    self.session.fetch(key, &upload, miss, None);
                    return Ok(());
                }
            };
            self.read += filled as u64;
            let short = self.short_writes && self.random.below(10) == 0;
            let n = if short { self.random.below(filled) + 1 } else { filled };
            net.send(half, &self.outgoing[..n]);
            // A socket that took less than it was given is full; this one takes the rest a little later.
            net.half_mut(half).is_full = n < filled && net.room(half) < SEND_BUFFER;
            self.sent += n as u64;
            self.session.sent(key, u32::try_from(n).expect("small"), now);
        }
    }

    fn has_stalled(&self) -> bool {
        self.faults.stalls_after.is_some_and(|bytes| self.session.uploaded() >= bytes)
    }

    /// Puts the messages together; stops at the first byte that is not in memory. Nothing is sent that was not found
    /// right. How much may be sent.
    fn fill(&self, upload: &Upload, parts: &[Part], out: &mut [u8], misses: u8) -> Result<usize, Miss> {
        let torrent = *self.keys.iter().find(|(_, key)| **key == upload.torrent).expect("a torrent").0;
        let (mut at, mut first_data) = (0, None);
        for part in parts {
            let header = &part.header()[part.from.min(HEADER) as usize..part.to.min(HEADER) as usize];
            out[at..at + header.len()].copy_from_slice(header);
            at += header.len();
            let piece = part.block.piece.index();
            let is_verified = self.disk.torrents[torrent].is_verified(piece);
            let (first, len) = part.data();
            let offset = upload.lengths.block_offset(part.block) + u64::from(first);
            let lies = self.faults.lies > 0 && self.lies_about(part);
            for span in upload.layout.spans(offset, u64::from(len)) {
                let first_data = *first_data.get_or_insert(at);
                let len = usize::try_from(span.len).expect("small");
                let (bytes, force) = (&mut out[at..at + len], misses >= MISSES);
                let read = self.disk.read(torrent, &upload.layout, span.file, span.offset, bytes, force);
                if lies {
                    bytes.iter_mut().for_each(|byte| *byte = !*byte);
                }
                assert!(
                    read == 0 || is_verified,
                    "piece {piece} is served by {} at {:?} and was never verified",
                    self.at,
                    self.of(torrent).state
                );
                at += read;
                if read < len {
                    let read = read as u64;
                    let miss = Miss { file: span.file, offset: span.offset + read, len: span.len - read };
                    // A header alone is not worth a write.
                    return if at > first_data { Ok(at) } else { Err(miss) };
                }
            }
        }
        Ok(at)
    }

    /// The same of a block each time.
    fn lies_about(&self, part: &Part) -> bool {
        let block = u64::from(part.block.piece.index()) << 32 | u64::from(part.block.begin);
        Random::new(block ^ (self.at as u64) << 48).draw() % 1000 < self.faults.lies
    }
}

fn name(job: &Job) -> String {
    match job {
        Job::Storage(job) => format!("{job:?}").chars().take(60).collect(),
        Job::Announce(request, _) => format!("an announce of {}", request.info_hash),
        Job::Search(link, _) => format!("a search on {link:?}"),
        Job::Dial(_, addr) => format!("a dial of {addr}"),
        Job::Datagram(to, _) => format!("a datagram to {to}"),
        Job::Bootstrap => "a bootstrap".into(),
        Job::Rescan => "a rescan".into(),
        Job::Close(key) => format!("close {}", key.0),
        Job::Reconnect => "another network".into(),
        Job::Event(news) => format!("{news:?}"),
        Job::WebFetch(_) => "a web seed".into(),
    }
}

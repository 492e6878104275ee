//! A world of daemons and of those that they talk to, all of them virtual, on one clock.
//!
//! Most tests look at one daemon, which is what the world passes for; its remotes follow a script. Those of a swarm have
//! many, see `mesh`.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::ops::{Deref, DerefMut};
use std::time::{Duration, Instant};

use meshseed::metainfo::maker;
use meshseed::peer::Close;
use meshseed::session::{Session, Settings};
use meshseed::torrent::State;

use super::disk::{Disk, ident};
pub use super::net::Tracker;
use super::net::{End, Event, Line, Listener, Net};
use super::node::{Node, RESCAN};
use super::remote::{Kind, Remote};

pub struct World {
    pub net: Net,
    pub nodes: Vec<Node>,
    pub remotes: Vec<Remote>,
    /// Nodes that something has happened to since all slept.
    touched: BTreeSet<usize>,
}

/// The first node: most worlds have but one.
impl Deref for World {
    type Target = Node;

    fn deref(&self) -> &Node {
        &self.nodes[0]
    }
}

impl DerefMut for World {
    fn deref_mut(&mut self) -> &mut Node {
        &mut self.nodes[0]
    }
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
        download: 0,
        local_download: 0,
        superseed: false,
        pex: true,
        local: Vec::new(),
        dials_per_second: 5,
        memory: 64 << 20,
        trackers: true,
        web_seeds: true,
        also: Vec::new(),
        static_peers: Vec::new(),
        dht: None,
    }
}

impl World {
    pub fn new(settings: Settings) -> World {
        let mut world = World::empty(3);
        world.node(settings, Disk::new(), Line::IDEAL);
        world
    }

    #[expect(clippy::disallowed_methods, reason = "some instant to count from")]
    pub fn empty(seed: u64) -> World {
        let net = Net::new(Instant::now(), seed);
        World { net, nodes: Vec::new(), remotes: Vec::new(), touched: BTreeSet::new() }
    }

    // What tests say.

    /// Another node.
    pub fn node(&mut self, settings: Settings, disk: Disk, line: Line) -> usize {
        let at = self.nodes.len();
        self.net.set_line(End::Node(at), line);
        let node = Node::new(at, settings, disk, &self.net);
        self.net.listeners.insert(node.addr, Listener::End(End::Node(at)));
        self.nodes.push(node);
        at
    }

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
        self.with(0, |node, now| node.insert(torrent, now));
    }

    /// The same torrent with its data checked.
    pub fn seeded(&mut self, name: &str, len: u64, piece: u32) -> usize {
        let torrent = self.torrent(name, len, piece);
        self.insert(torrent);
        self.until(600.0, |world| world.state(torrent) == State::Seeding);
        torrent
    }

    /// Begins again with what is on the disk; torrents are to be inserted anew.
    pub fn restart(&mut self) {
        self.restart_node(0);
    }

    /// The process of a node ends and another begins.
    pub fn restart_node(&mut self, at: usize) {
        self.net.forget(at);
        self.net.halves_of(End::Node(at)).into_iter().for_each(|half| self.net.close(half));
        let node = &mut self.nodes[at];
        let mut disk = std::mem::replace(&mut node.disk, Disk::new());
        disk.restart();
        *node = Node::new(at, node.session.settings().clone(), disk, &self.net);
    }

    pub fn tracker(&mut self, host: &str, tracker: Tracker) {
        self.net.trackers.insert(host.into(), tracker);
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
        let latency = self.net.latency(End::Remote(remote), End::Node(0));
        self.net.later(latency, Event::Connect(remote));
    }

    fn remote(&mut self, kind: Kind, torrent: usize, with: impl FnOnce(&mut Remote)) -> usize {
        let n = self.remotes.len();
        let mut remote =
            Remote::new(kind, &self.disk.torrents[torrent], torrent, u32::try_from(n).expect("few") + 1);
        with(&mut remote);
        let line = Line { down: remote.bandwidth, latency: remote.latency, ..Line::IDEAL };
        self.net.set_line(End::Remote(n), line);
        self.net.later(remote.period(), Event::Tick(n));
        self.remotes.push(remote);
        n
    }

    /// A peer that waits to be dialled.
    pub fn listen(&mut self, kind: Kind, torrent: usize) -> usize {
        self.listen_as(kind, torrent, |_| {})
    }

    pub fn listen_as(&mut self, kind: Kind, torrent: usize, with: impl FnOnce(&mut Remote)) -> usize {
        let remote = self.remote(kind, torrent, with);
        self.net.listeners.insert(self.remotes[remote].addr, Listener::End(End::Remote(remote)));
        remote
    }

    /// An address where nobody answers.
    pub fn hole(&mut self, addr: SocketAddr) {
        self.net.listeners.insert(addr, Listener::Hole);
    }

    /// The connection of a peer breaks.
    pub fn cut(&mut self, remote: usize) {
        self.net.halves_of(End::Remote(remote)).into_iter().for_each(|half| self.net.close(half));
    }

    /// A peer sends this, whatever it has said before.
    pub fn say(&mut self, remote: usize, bytes: &[u8]) {
        let half = self.net.half_of(End::Remote(remote)).expect("a connection");
        self.net.send(half, bytes);
    }

    /// A peer reads so many bytes a second from now on.
    pub fn set_bandwidth(&mut self, remote: usize, bandwidth: u64) {
        let end = End::Remote(remote);
        self.net.set_line(end, Line { down: bandwidth, ..self.net.line(end) });
    }

    /// Does something with a node.
    pub fn with<T>(&mut self, node: usize, act: impl FnOnce(&mut Node, Instant) -> T) -> T {
        let result = act(&mut self.nodes[node], self.net.now);
        self.nodes[node].kick();
        self.touched.insert(node);
        result
    }

    /// Does something with the session, as a command or a signal does.
    pub fn act<T>(&mut self, act: impl FnOnce(&mut Session, Instant) -> T) -> T {
        let result = self.with(0, |node, now| act(&mut node.session, now));
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
        let info_at = self.disk.torrents[torrent].metainfo.info_at.clone();
        let ident = ident(torrent as u64);
        self.act(|session, now| session.moved(hash, path, ident, tiers, info_at, now));
    }

    pub fn shut_down(&mut self) {
        self.stopping = true;
        self.act(Session::shut_down);
    }

    /// The disk answers again.
    pub fn revive_disk(&mut self) {
        self.nodes[0].disk.hung = false;
        self.revive(0);
    }

    /// The disk of a node goes on, unless it hangs.
    pub fn revive(&mut self, node: usize) {
        self.nodes[node].begin(&mut self.net);
    }

    pub fn secs(&self) -> f64 {
        self.net.secs()
    }

    /// Why the node closed the connection to a peer, if it did.
    pub fn why(&self, remote: usize) -> Option<&Close> {
        self.parted(End::Remote(remote))
    }

    // Time.

    pub fn run(&mut self, seconds: f64) {
        let end = self.net.now + Duration::from_secs_f64(seconds);
        while self.step(end) {}
        self.net.now = end;
        self.settle();
    }

    /// Runs until something holds; panics if it does not in time.
    pub fn until(&mut self, seconds: f64, holds: impl Fn(&World) -> bool) {
        let end = self.net.now + Duration::from_secs_f64(seconds);
        self.settle();
        while !holds(self) {
            assert!(self.step(end), "{} s were not enough", seconds);
        }
    }

    /// The next thing that happens, if it does before `end`.
    fn step(&mut self, end: Instant) -> bool {
        self.settle();
        let Some(event) = self.net.next(end) else { return false };
        self.happen(event);
        self.settle();
        true
    }

    /// Runs main loops and tasks until all of them sleep.
    fn settle(&mut self) {
        for turn in 0.. {
            assert!(turn < 10_000, "somebody is awake for ever at {} s", self.secs());
            let mut is_quiet = true;
            for &node in &self.touched {
                if self.nodes[node].is_awake(self.net.now) {
                    is_quiet = false;
                    self.nodes[node].work(&mut self.net);
                }
            }
            for half in self.net.rung() {
                is_quiet = false;
                self.run_half(half);
            }
            if is_quiet {
                break;
            }
        }
        for node in std::mem::take(&mut self.touched) {
            self.nodes[node].check(&self.net);
        }
    }

    /// The task that serves a half of a connection runs.
    fn run_half(&mut self, half: usize) {
        if let End::Node(node) = self.net.half(half).end {
            self.touched.insert(node);
            self.nodes[node].run(half, &mut self.net);
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Alarm(node) => {
                self.nodes[node].alarm(&mut self.net);
                self.touched.insert(node);
            }
            Event::DiskDone(node) => {
                self.nodes[node].disk_done(&mut self.net);
                self.touched.insert(node);
            }
            Event::Answer(node, request, result) => {
                self.nodes[node].answered(&request, &result, &mut self.net);
                self.with(node, |_, _| ());
            }
            Event::Connected(node, key, Some(other)) => {
                self.with(node, |node, _| node.session.connected(key));
                let half = self.net.open(End::Node(node), other);
                self.nodes[node].open(key, half, &self.net);
                match other {
                    End::Node(other) => self.accept(other, self.nodes[node].addr, half ^ 1),
                    End::Remote(remote) => {
                        self.remotes[remote].again();
                        self.remotes[remote].dialled = true;
                    }
                }
            }
            Event::Connected(node, key, None) => {
                self.with(node, |node, now| node.session.disconnected(key, &Close::Gone, now));
            }
            Event::Connect(remote) => {
                self.remotes[remote].again();
                let half = self.net.open(End::Remote(remote), End::Node(0));
                let hello = self.remotes[remote].hello();
                self.net.send(half, &hello);
                self.accept(0, self.remotes[remote].addr, half ^ 1);
            }
            Event::Arrive(half, bytes) => {
                if self.net.arrived(half, &bytes) {
                    self.read(half ^ 1);
                }
            }
            Event::Closed(half) => {
                self.net.half_mut(half ^ 1).ended = true;
                if let End::Remote(remote) = self.net.half(half ^ 1).end {
                    self.remotes[remote].gone = Some(self.secs());
                }
                self.run_half(half ^ 1);
            }
            Event::Free(end) => self.net.serve(end),
            Event::Reach(half, bytes) => self.net.reach(half, bytes),
            Event::Tick(remote) => {
                self.net.later(self.remotes[remote].period(), Event::Tick(remote));
                if let Some(half) = self.net.half_of(End::Remote(remote)) {
                    let bytes = self.remotes[remote].tick();
                    self.net.send(half, &bytes);
                }
            }
        }
    }

    /// A connection comes in to a node.
    fn accept(&mut self, node: usize, from: SocketAddr, half: usize) {
        match self.with(node, |node, now| node.session.accept(from, now)) {
            Ok(key) => self.nodes[node].open(key, half, &self.net),
            Err(why) => {
                self.nodes[node].refused.push(why.clone());
                self.nodes[node].closed.push((self.net.half(half ^ 1).end, why));
                self.net.close(half);
            }
        }
    }

    /// Bytes have come to a half.
    fn read(&mut self, half: usize) {
        match self.net.half(half).end {
            End::Node(_) => self.run_half(half),
            End::Remote(remote) => {
                let mut bytes = vec![0; self.net.unread(half)];
                self.net.receive(half, &mut bytes);
                let at = self.secs();
                let answer = self.remotes[remote].receive(&bytes, at);
                self.net.send(half, &answer);
            }
        }
    }
}

//! Swarms: many nodes that fetch one torrent from each other, and what is counted of that.

use std::ops::{Deref, DerefMut};
use std::time::Duration;

use meshseed::metainfo::maker;
use meshseed::piece::BLOCK;
use meshseed::session::{Happened, Settings};
use meshseed::torrent::State;

use super::disk::Disk;
use super::net::{End, Line, Tracker};
use super::node::Node;
use super::world::{World, settings};
use crate::KIB;

/// The torrent of a swarm, on each disk.
pub const IT: usize = 0;

pub struct Swarm {
    world: World,
    pub size: u64,
    piece: u32,
}

/// What a swarm has cost, for each byte or block that was missing.
#[derive(Clone, Copy, Debug)]
pub struct Cost {
    /// Bytes that came in vain: those that were dropped, those of wrong pieces, and of blocks that were not finished.
    pub in_vain: f64,
    pub dropped: f64,
    pub wrong: f64,
    /// Blocks that were asked for again, with those asked of two at a time.
    pub again: f64,
    pub twice: f64,
    /// The same of one that had not answered.
    pub repeated: f64,
}

impl Deref for Swarm {
    type Target = World;

    fn deref(&self) -> &World {
        &self.world
    }
}

impl DerefMut for Swarm {
    fn deref_mut(&mut self) -> &mut World {
        &mut self.world
    }
}

/// A line with so many KiB a second both ways.
pub fn line(kib: u64) -> Line {
    Line { up: kib * KIB, down: kib * KIB, latency: Duration::from_millis(15), loss: 2, part: 0 }
}

impl Swarm {
    pub fn new(seed: u64, size: u64, piece: u32) -> Swarm {
        let mut world = World::empty(seed);
        world.tracker("tracker.example", Tracker::Introduces { interval: 300 });
        Swarm { world, size, piece }
    }

    /// A node that has all of it.
    pub fn seed(&mut self, line: Line) -> usize {
        self.join(line, |_| true, |_| {})
    }

    /// A node that has nothing of it.
    pub fn leecher(&mut self, line: Line) -> usize {
        self.join(line, |_| false, |_| {})
    }

    pub fn leechers(&mut self, count: usize, line: Line) -> Vec<usize> {
        (0..count).map(|_| self.leecher(line)).collect()
    }

    /// A node that has some pieces of it, and other settings.
    pub fn join(
        &mut self,
        line: Line,
        has: impl FnMut(&u32) -> bool,
        with: impl FnOnce(&mut Settings),
    ) -> usize {
        let node = self.arrive(line, has, with);
        self.with(node, |node, now| node.insert(IT, now));
        node
    }

    /// The same of one that was not told of the torrent yet.
    pub fn arrive(
        &mut self,
        line: Line,
        has: impl FnMut(&u32) -> bool,
        with: impl FnOnce(&mut Settings),
    ) -> usize {
        let number = self.nodes.len();
        let mut settings = settings();
        settings.peer_id[16..].copy_from_slice(&u32::try_from(number).expect("few").to_be_bytes());
        settings.peers_per_torrent = 40;
        with(&mut settings);
        let mut disk = Disk::new();
        let trackers = vec![vec!["http://tracker.example/announce".to_owned()]];
        let options = maker::Options { trackers, ..maker::Options::default() };
        let it = disk.add("swarm", &[self.size], self.piece, &options);
        assert_eq!(it, IT);
        disk.torrents[IT].hold_pieces(has);
        self.node(settings, disk, line)
    }

    /// A node that has but a magnet link.
    pub fn linked(&mut self, line: Line) -> usize {
        let node = self.arrive(line, |_| false, |_| {});
        self.with(node, |node, now| node.insert_link(IT, now));
        node
    }

    /// A node is gone without a word: its lines are dead.
    pub fn vanish(&mut self, node: usize) {
        let line = self.net.line(End::Node(node));
        self.net
            .set_line(End::Node(node), Line { part: u32::MAX - u32::try_from(node).expect("few"), ..line });
    }

    /// A node moves to that part of the network.
    pub fn part(&mut self, node: usize, part: u32) {
        let line = self.net.line(End::Node(node));
        self.net.set_line(End::Node(node), Line { part, ..line });
    }

    pub fn is_done(&self, node: usize) -> bool {
        self.nodes[node].state(IT) == State::Seeding
    }

    /// Runs until all of these have everything; panics if they have not in time.
    pub fn finish(&mut self, seconds: f64, nodes: &[usize]) {
        let end = self.secs() + seconds;
        while !nodes.iter().all(|&node| self.is_done(node)) {
            if self.secs() >= end {
                for &node in nodes.iter().filter(|&&node| !self.is_done(node)).take(5) {
                    let node = &self.nodes[node];
                    let of = node.of(IT);
                    eprintln!(
                        "{}: {} {} {} bytes, {} peers {:?}",
                        node.addr,
                        of.state,
                        of.reason,
                        of.have_bytes(),
                        of.peers().len(),
                        node.closed.iter().rev().take(3).collect::<Vec<_>>()
                    );
                }
                panic!("{seconds} s were not enough");
            }
            self.run(0.5);
        }
        for &node in nodes {
            assert!(self.nodes[node].disk.torrents[IT].is_whole(), "node {node} has not what it says");
        }
    }

    /// When a node had everything.
    pub fn done_at(&self, node: usize) -> f64 {
        let completed = self.nodes[node].news.iter().find(|(_, news)| news.action == Happened::Completed);
        completed.expect("a node that is done").0
    }

    /// How often what a node has sent is the whole torrent.
    pub fn copies(&self, node: usize) -> f64 {
        ratio(self.nodes[node].session.uploaded(), self.size)
    }

    /// What it has cost that these nodes, who had nothing, have everything now.
    pub fn cost(&self, nodes: &[usize]) -> Cost {
        let size = self.size * nodes.len() as u64;
        let blocks = self.size.div_ceil(u64::from(BLOCK)) * nodes.len() as u64;
        let sum = |figure: &dyn Fn(usize) -> u64| nodes.iter().map(|&node| figure(node)).sum::<u64>();
        let count = |node| self.net.ledger.count(End::Node(node));
        Cost {
            in_vain: ratio(sum(&|node| self.nodes[node].session.downloaded()) - size, size),
            dropped: ratio(sum(&|node| count(node).dropped), size),
            wrong: ratio(sum(&|node| self.nodes[node].disk.torrents[IT].wrong), size),
            again: ratio(sum(&|node| count(node).requests) - blocks, blocks),
            twice: ratio(sum(&|node| count(node).twice), blocks),
            repeated: ratio(sum(&|node| count(node).repeated), blocks),
        }
    }

    pub fn of_node(&mut self, node: usize) -> &mut Node {
        &mut self.world.nodes[node]
    }
}

#[expect(clippy::cast_precision_loss, reason = "a figure for people")]
pub fn ratio(one: u64, other: u64) -> f64 {
    one as f64 / other as f64
}

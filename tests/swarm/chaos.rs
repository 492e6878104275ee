//! Everything that can go wrong, at random: nodes crash, disks fill, fail and come back, lines break, users pause and
//! look again, some lie. When it is over, whoever is honest has everything, and nobody honest was banned.

use meshseed::peer::Close;
use meshseed::random::Random;

use crate::mesh::{Swarm, line};
use crate::net::{End, Line};
use crate::node::Faults;
use crate::{KIB, MIB};

struct Chaos {
    swarm: Swarm,
    random: Random,
    /// Those that are no good, and go in the end.
    bad: Vec<usize>,
    good: Vec<usize>,
    log: Vec<String>,
}

/// Tells what led to a failure.
impl Drop for Chaos {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.log.iter().for_each(|line| println!("{line}"));
        }
    }
}

impl Chaos {
    fn new(seed: u64) -> Chaos {
        let mut random = Random::new(seed);
        let piece = 1 << (15 + random.below(5));
        let size = MIB + random.below(12 << 20) as u64;
        let mut swarm = Swarm::new(seed, size, piece);
        let mut good = vec![swarm.seed(line(200))];
        let mut bad = Vec::new();
        for _ in 0..3 + random.below(8) {
            let kib = 20 << random.below(6);
            let share = random.below(4);
            let mut pieces = random.clone();
            let node = swarm.join(
                Line { loss: random.below(20), ..line(kib) },
                |_| share > 0 && pieces.below(4) < share,
                |settings| {
                    settings.uploads = 1 + random.below(6);
                    settings.peers_per_torrent = 3 + random.below(10);
                    settings.superseed = random.below(4) == 0;
                    settings.upload = if random.below(4) == 0 { 40_000 } else { 0 };
                    if random.below(2) == 0 {
                        settings.local = vec!["11.0.0.0/22".parse().unwrap()];
                    }
                    settings.memory = (100 + random.below(400) as u64) * KIB;
                    settings.download = if random.below(3) == 0 { 50_000 } else { 0 };
                },
            );
            if random.below(4) == 0 { bad.push(node) } else { good.push(node) }
        }
        Chaos { swarm, random, bad, good, log: Vec::new() }
    }

    fn any(&mut self) -> usize {
        let nodes = self.swarm.nodes.len();
        self.random.below(nodes)
    }

    fn happen(&mut self) {
        let (node, coin) = (self.any(), self.random.below(2) == 0);
        let what = self.random.below(16);
        self.log.push(format!("{:.3} {what} {coin} {node}", self.swarm.secs()));
        match what {
            0 => self.pause(node, coin),
            1 => self.crash(node, coin),
            2 => self.swarm.of_node(node).disk.root_there = coin,
            3 => self.swarm.of_node(node).disk.read_only = coin,
            4 => self.swarm.of_node(node).disk.torrents[0].broken = coin,
            5 => {
                let spare = self.random.below(4 << 20) as u64;
                self.swarm.of_node(node).disk.free = if coin { u64::MAX / 2 } else { spare };
            }
            6 => {
                self.swarm.of_node(node).disk.hung = coin;
                self.swarm.revive(node);
            }
            7 => self.swarm.of_node(node).disk.no_descriptors = coin,
            8 => {
                let part = u32::from(coin);
                self.swarm.part(node, part);
            }
            9 => {
                self.swarm.with(node, |node, now| {
                    let hash = node.hash(0);
                    node.session.remove(hash, now);
                });
                let after = self.random.below(20_000);
                self.run(after);
                self.swarm.with(node, |node, now| node.insert(0, now));
            }
            10 => {
                self.swarm.with(node, |node, _| node.session.verify(node.hash(0)));
            }
            11 => {
                let kib = 10 << self.random.below(7);
                let line = Line { up: kib * KIB, down: kib * KIB, ..self.swarm.net.line(End::Node(node)) };
                self.swarm.net.set_line(End::Node(node), line);
            }
            12 => {
                let (uploads, download) = (1 + self.random.below(8), 30_000 * self.random.below(4) as u64);
                self.swarm.with(node, |node, now| {
                    let mut settings = node.session.settings().clone();
                    (settings.uploads, settings.download) = (uploads, download);
                    node.session.apply(settings, crate::node::RESCAN, now);
                });
            }
            13 if self.bad.contains(&node) => {
                let lies = [0, 30, 1000][self.random.below(3)];
                let stalls_after = if coin { None } else { Some(self.random.below(4 << 20) as u64) };
                self.swarm.of_node(node).faults = Faults { lies, stalls_after };
            }
            14 => {
                let disk = &mut self.swarm.of_node(node).disk;
                disk.small_cache = coin;
                disk.speed = if coin { 1 << 20 } else { 50 << 20 };
            }
            _ => {}
        }
    }

    fn run(&mut self, millis: usize) {
        let seconds = u32::try_from(millis).expect("a short time");
        self.swarm.run(f64::from(seconds) / 1000.0);
    }

    fn pause(&mut self, node: usize, pause: bool) {
        self.swarm.with(node, |node, now| {
            let hash = node.hash(0);
            if pause { node.session.pause(hash, now) } else { node.session.resume(hash, now) }
        });
    }

    fn crash(&mut self, node: usize, power: bool) {
        if power {
            self.swarm.of_node(node).disk.cut_power();
        }
        self.swarm.restart_node(node);
        self.swarm.with(node, |node, now| node.insert(0, now));
    }

    /// All is well again, and those that are no good are gone.
    fn heal(&mut self) {
        for node in 0..self.swarm.nodes.len() {
            let disk = &mut self.swarm.of_node(node).disk;
            (disk.root_there, disk.read_only, disk.no_descriptors) = (true, false, false);
            (disk.free, disk.torrents[0].broken) = (u64::MAX / 2, false);
            disk.hung = false;
            self.swarm.revive(node);
            self.swarm.part(node, 0);
            self.pause(node, false);
        }
        for node in self.bad.clone() {
            self.swarm.vanish(node);
        }
    }
}

fn chaos(seed: u64) {
    let mut chaos = Chaos::new(seed);
    for _ in 0..20 + chaos.random.below(60) {
        let after = chaos.random.below(15_000);
        chaos.run(after);
        chaos.happen();
    }
    chaos.heal();
    chaos.swarm.finish(4.0 * 3600.0, &chaos.good);
    for &node in &chaos.good {
        for (end, why) in &chaos.swarm.nodes[node].closed {
            let is_good = chaos.good.iter().any(|&good| *end == End::Node(good));
            assert!(!is_good || *why != Close::Liar, "{end:?} is honest, and was banned by {node}");
        }
    }
}

#[test]
fn whatever_happens_all_are_complete_in_the_end() {
    let seeds = std::env::var("CHAOS").ok().map_or(0..6, |seeds| {
        let (from, to) = seeds.split_once('-').unwrap();
        from.parse().unwrap()..to.parse().unwrap()
    });
    for seed in seeds {
        println!("seed {seed}");
        chaos(seed);
    }
}

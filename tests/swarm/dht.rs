//! The DHT on the virtual clock: a thousand nodes, small meshes, nodes that come and go, and liars.
//!
//! Each node is the real one; a datagram takes its time or is lost. Figures are counted in datagrams that left a node.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use meshseed::dht::id::Id;
use meshseed::dht::krpc::{self, Body, Query};
use meshseed::dht::{Node, Options, Output};
use meshseed::metainfo::InfoHash;
use meshseed::random::Random;
use meshseed::rate::Bucket;

const PORT: u16 = 6881;

struct Dht {
    start: Instant,
    now: Instant,
    nodes: Vec<Member>,
    by_addr: HashMap<SocketAddr, usize>,
    queue: BTreeMap<(Instant, u64), Event>,
    events: u64,
    random: Random,
    /// Of a thousand datagrams.
    lost: u32,
    /// Milliseconds that a datagram takes, least and most.
    latency: (u32, u32),
}

struct Member {
    node: Node,
    addr: SocketAddr,
    endpoints: Bucket,
    up: bool,
    /// Only members of the same segment hear each other.
    segment: u32,
    wake: Option<Instant>,
    wake_ups: u64,
    sent: Sent,
    /// Bytes of the longest answer.
    longest: usize,
    found: Vec<(InfoHash, SocketAddr, Instant)>,
    /// It names nodes that do not exist, and peers that do not.
    liar: bool,
    targets: HashMap<Vec<u8>, Id>,
}

/// Datagrams by what they say.
#[derive(Clone, Copy, Debug, Default)]
struct Sent {
    upkeep: u64,
    searches: u64,
    announces: u64,
    answers: u64,
}

enum Event {
    Deliver { to: SocketAddr, from: usize, datagram: Vec<u8> },
    Wake(usize),
}

impl Sent {
    fn of_searches(self) -> u64 {
        self.searches + self.announces
    }
}

fn hash(n: usize) -> InfoHash {
    InfoHash::from_bytes(Id::by_chance(&mut Random::new(0xabc + n as u64)).0)
}

/// Of the mesh.
fn private(n: usize) -> SocketAddr {
    let [_, _, high, low] = u32::try_from(n).unwrap().to_be_bytes();
    ([10, 1, high, low], PORT).into()
}

/// Of the Internet.
fn global(n: usize) -> SocketAddr {
    let [_, _, high, low] = u32::try_from(n).unwrap().to_be_bytes();
    ([80 + low % 32, high, low, 9], PORT).into()
}

impl Dht {
    #[expect(clippy::disallowed_methods, reason = "some instant to count from")]
    fn new(seed: u64) -> Dht {
        let now = Instant::now();
        Dht {
            start: now,
            now,
            nodes: Vec::new(),
            by_addr: HashMap::new(),
            queue: BTreeMap::new(),
            events: 0,
            random: Random::new(seed),
            lost: 10,
            latency: (5, 150),
        }
    }

    fn add(&mut self, addr: SocketAddr, options: Options) -> usize {
        let id = if addr.is_ipv4() {
            Id::suiting(addr.ip(), &mut self.random)
        } else {
            Id::by_chance(&mut self.random)
        };
        let mut node = Node::new(options, id.0, self.random.draw(), self.now);
        node.set_families(addr.is_ipv4(), addr.is_ipv6(), self.now);
        let at = self.nodes.len();
        self.nodes.push(Member {
            node,
            addr,
            endpoints: Bucket::new(5, 10, self.now),
            up: true,
            segment: 0,
            wake: None,
            wake_ups: 0,
            sent: Sent::default(),
            longest: 0,
            found: Vec::new(),
            liar: false,
            targets: HashMap::new(),
        });
        self.by_addr.insert(addr, at);
        at
    }

    /// Nodes that know one or two who were there before, each a while after the last.
    fn grow(&mut self, count: usize, gap: f64, addr: fn(usize) -> SocketAddr) -> Vec<usize> {
        let mut grown = Vec::new();
        for _ in 0..count {
            let new = self.add(addr(self.nodes.len()), Options::default());
            for _ in 0..2 {
                if let Some(&known) = grown.get(self.random.below(grown.len())) {
                    self.meet(new, known);
                }
            }
            grown.push(new);
            self.run(gap);
        }
        grown
    }

    fn meet(&mut self, one: usize, other: usize) {
        let addr = self.nodes[other].addr;
        self.with(one, |node, now| node.contact(addr, now));
    }

    fn with<T>(&mut self, at: usize, f: impl FnOnce(&mut Node, Instant) -> T) -> T {
        let result = f(&mut self.nodes[at].node, self.now);
        self.drain(at);
        result
    }

    fn urgent(&mut self, at: usize, torrent: usize) {
        self.with(at, |node, now| node.insert(hash(torrent), PORT, true, now));
    }

    fn found(&self, at: usize, torrent: usize, peer: usize) -> Option<f64> {
        let addr = self.nodes[peer].addr;
        let mut found = self.nodes[at].found.iter();
        let found = found.find(|(info_hash, peer, _)| *info_hash == hash(torrent) && *peer == addr)?;
        Some((found.2 - self.start).as_secs_f64())
    }

    fn at(&self) -> f64 {
        (self.now - self.start).as_secs_f64()
    }

    fn run(&mut self, seconds: f64) {
        let end = self.now + Duration::from_secs_f64(seconds);
        while let Some(entry) = self.queue.first_entry().filter(|entry| entry.key().0 <= end) {
            let ((at, _), event) = entry.remove_entry();
            self.now = self.now.max(at);
            match event {
                Event::Wake(node) => {
                    if self.nodes[node].up && self.nodes[node].wake == Some(at) {
                        self.nodes[node].wake_ups += 1;
                        self.drain(node);
                    }
                }
                Event::Deliver { to, from, datagram } => self.deliver(to, from, &datagram),
            }
        }
        self.now = end;
    }

    fn deliver(&mut self, to: SocketAddr, from: usize, datagram: &[u8]) {
        let Some(&at) = self.by_addr.get(&to) else { return };
        let sender = self.nodes[from].addr;
        if !self.nodes[at].up || self.nodes[at].segment != self.nodes[from].segment {
            return;
        }
        if self.nodes[at].liar
            && let Some(message) = krpc::decode(datagram)
            && let Body::Query(_, Query::GetPeers(..) | Query::FindNode(..)) = &message.body
        {
            let target = match message.body {
                Body::Query(_, Query::GetPeers(info_hash, _)) => info_hash.into(),
                Body::Query(_, Query::FindNode(target, _)) => target,
                _ => return,
            };
            self.nodes[at].targets.insert(message.transaction.to_vec(), target);
        }
        self.with(at, |node, now| node.handle(datagram, sender, now));
    }

    /// Does all that a node wants done.
    fn drain(&mut self, at: usize) {
        let now = self.now;
        for round in 0.. {
            assert!(round < 1000, "a node never stops");
            let member = &mut self.nodes[at];
            let Some(output) = member.node.poll(&mut member.endpoints, now) else { break };
            match output {
                Output::Peers { info_hash, peers } => {
                    let found = &mut self.nodes[at].found;
                    found.extend(peers.into_iter().map(|peer| (info_hash, peer, now)));
                }
                Output::Send { to, datagram } => self.send(at, to, datagram),
            }
        }
        let wake = self.nodes[at].node.deadline();
        assert!(wake.is_none_or(|wake| wake > now), "a node wants to be woken without end");
        if self.nodes[at].wake != wake {
            self.nodes[at].wake = wake;
            if let Some(wake) = wake {
                self.later(wake, Event::Wake(at));
            }
        }
    }

    fn send(&mut self, at: usize, to: SocketAddr, mut datagram: Vec<u8>) {
        let message = krpc::decode(&datagram).expect("what we send is a message");
        let sent = &mut self.nodes[at].sent;
        match &message.body {
            Body::Query(_, Query::GetPeers(..)) => sent.searches += 1,
            Body::Query(_, Query::Announce { .. }) => sent.announces += 1,
            Body::Query(..) => sent.upkeep += 1,
            Body::Reply(_) | Body::Error(_) => {
                sent.answers += 1;
                self.nodes[at].longest = self.nodes[at].longest.max(datagram.len());
            }
        }
        if self.nodes[at].liar
            && let Body::Reply(reply) = &message.body
            && let Some(target) = self.nodes[at].targets.remove(message.transaction)
        {
            let mut reply = reply.clone();
            let mut fake = || self.random.draw().to_be_bytes();
            reply.nodes = (0..8)
                .map(|_| {
                    let mut id = target;
                    id.0[12..].copy_from_slice(&fake());
                    let [a, b, c, ..] = fake();
                    (id, ([10, a, b, c], PORT).into())
                })
                .collect();
            reply.values = (0..20).map(|n| ([10, 99, 99, n], 99).into()).collect();
            datagram = krpc::encode(&krpc::Message { body: Body::Reply(reply), ..message });
        }
        if self.random.up_to(999) >= self.lost {
            let (least, most) = self.latency;
            let latency = least + self.random.up_to(most - least);
            let arrives = self.now + Duration::from_millis(latency.into());
            self.later(arrives, Event::Deliver { to, from: at, datagram });
        }
    }

    fn later(&mut self, at: Instant, event: Event) {
        self.events += 1;
        self.queue.insert((at, self.events), event);
    }

    /// Searches for a torrent that another announced: what they found and what it cost, for each pair.
    fn lookups(&mut self, members: &[usize], count: usize, first: usize) -> Lookups {
        let mut result = Lookups::default();
        for n in first..first + count {
            let seed = members[self.random.below(members.len())];
            let seeker = members[self.random.below(members.len())];
            if seed == seeker || !self.nodes[seed].up || !self.nodes[seeker].up {
                continue;
            }
            let mut cost = |dht: &mut Dht, at: usize| {
                let before = dht.nodes[at].sent.of_searches();
                dht.urgent(at, n);
                let began = dht.at();
                dht.run(30.0);
                assert_eq!(dht.nodes[at].node.counts().searches, 0, "a search does not end");
                dht.nodes[at].node.remove(hash(n));
                let cost = dht.nodes[at].sent.of_searches() - before;
                result.most = result.most.max(cost);
                result.packets += cost;
                result.searches += 1;
                began
            };
            cost(self, seed);
            let began = cost(self, seeker);
            result.pairs += 1;
            if let Some(found) = self.found(seeker, n, seed) {
                result.found += 1;
                result.slowest = result.slowest.max(found - began);
            }
        }
        result
    }
}

#[derive(Debug, Default)]
struct Lookups {
    pairs: usize,
    found: usize,
    searches: u64,
    packets: u64,
    /// Of one search.
    most: u64,
    slowest: f64,
}

#[test]
fn a_thousand_nodes_find_each_others_torrents() {
    let mut dht = Dht::new(1);
    let members = dht.grow(1000, 0.5, private);
    dht.run(600.0);
    let result = dht.lookups(&members, 40, 0);
    println!("{result:?}");
    let known: Vec<u32> = dht.nodes.iter().map(|member| member.node.counts().nodes).collect();
    println!("nodes known: {:?} to {:?}", known.iter().min(), known.iter().max());
    assert!(result.found * 100 >= result.pairs * 97, "{result:?}");
    assert!(result.most <= 40 && result.slowest < 10.0, "{result:?}");
    assert!(known.iter().all(|&known| (30..=192).contains(&known)));
    // Upkeep.
    let before: Vec<Sent> = dht.nodes.iter().map(|member| member.sent).collect();
    let minutes = 20_u32;
    dht.run(60.0 * f64::from(minutes));
    let upkeep = dht.nodes.iter().zip(&before).map(|(member, before)| member.sent.upkeep - before.upkeep);
    let (most, all) = upkeep.fold((0, 0), |(most, all), one| (one.max(most), all + one));
    println!("upkeep: {} a minute on average, {} at most", all as f64 / 1000.0 / 20.0, most as f64 / 20.0);
    assert!(most <= 6 * u64::from(minutes), "{most} in {minutes} minutes");
    let memory = dht.nodes.iter().map(|member| member.node.memory()).max();
    println!("memory of one: {memory:?}");
}

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
        self.grow_from(&[], count, gap, addr)
    }

    fn grow_from(
        &mut self,
        there: &[usize],
        count: usize,
        gap: f64,
        addr: fn(usize) -> SocketAddr,
    ) -> Vec<usize> {
        let mut all = there.to_vec();
        for _ in 0..count {
            let new = self.add(addr(self.nodes.len()), Options::default());
            for _ in 0..2 {
                if let Some(&known) = all.get(self.random.below(all.len())) {
                    self.meet(new, known);
                }
            }
            all.push(new);
            self.run(gap);
        }
        all.split_off(there.len())
    }

    fn meet(&mut self, one: usize, other: usize) {
        let addr = self.nodes[other].addr;
        if one != other {
            self.with(one, |node, now| node.contact(addr, now));
        }
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
        assert!(to != self.nodes[at].addr, "it asks itself");
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

    /// Pairs of members: the first announces a torrent, the second searches for it. What they find, and what it costs
    /// each of them.
    fn lookups(&mut self, members: &[usize], pairs: usize, first: usize) -> Lookups {
        let mut able: Vec<usize> =
            members.iter().copied().filter(|&at| self.nodes[at].up && !self.nodes[at].liar).collect();
        let mut draw = |dht: &mut Dht| able.swap_remove(dht.random.below(able.len()));
        let pairs: Vec<(usize, usize, usize)> =
            (first..first + pairs).map(|torrent| (torrent, draw(self), draw(self))).collect();
        let mut result = Lookups { pairs: pairs.len(), ..Lookups::default() };
        for seeks in [false, true] {
            let began = self.at();
            let searchers: Vec<(usize, usize)> = pairs
                .iter()
                .map(|&(torrent, seed, seeker)| (torrent, if seeks { seeker } else { seed }))
                .collect();
            let before: Vec<u64> =
                searchers.iter().map(|&(_, at)| self.nodes[at].sent.of_searches()).collect();
            for &(torrent, at) in &searchers {
                self.urgent(at, torrent);
            }
            self.run(25.0);
            for (&(torrent, at), before) in searchers.iter().zip(before) {
                let looking = self.with(at, |node, _| {
                    node.remove(hash(torrent));
                    node.counts().searches
                });
                assert_eq!(looking, 0, "a search does not end");
                let cost = self.nodes[at].sent.of_searches() - before;
                result.most = result.most.max(cost);
                result.packets += cost;
            }
            for &(torrent, seed, seeker) in pairs.iter().filter(|_| seeks) {
                if let Some(found) = self.found(seeker, torrent, seed) {
                    result.found += 1;
                    result.slowest = result.slowest.max(found - began);
                }
            }
        }
        result
    }
}

/// How searches went.
#[derive(Debug, Default)]
struct Lookups {
    pairs: usize,
    found: usize,
    packets: u64,
    /// Of one search with its announces.
    most: u64,
    /// Seconds.
    slowest: f64,
}

#[test]
fn a_thousand_nodes_find_each_others_torrents() {
    let mut dht = Dht::new(1);
    let members = dht.grow(1000, 0.2, global);
    dht.run(180.0);
    let result = dht.lookups(&members, 100, 0);
    println!("{result:?}, {} packets on average", result.packets as f64 / 200.0);
    assert!(result.found >= 99, "{result:?}");
    assert!(result.most <= 40 && result.slowest < 5.0, "{result:?}");
    let known =
        |dht: &Dht| -> Vec<u32> { dht.nodes.iter().map(|member| member.node.counts().nodes).collect() };
    let full: Vec<bool> = known(&dht).iter().map(|&known| known >= 32).collect();
    let before: Vec<u64> = dht.nodes.iter().map(|member| member.sent.upkeep).collect();
    dht.run(300.0);
    let upkeep = dht.nodes.iter().zip(&before).map(|(member, before)| member.sent.upkeep - before);
    let upkeep: Vec<u64> = upkeep.zip(full).filter(|(_, full)| *full).map(|(upkeep, _)| upkeep).collect();
    let (all, most) = (upkeep.iter().sum::<u64>() as f64, upkeep.iter().max().copied());
    let average = all / upkeep.len() as f64;
    println!(
        "upkeep of {} full tables in five minutes: {average} packets on average, {most:?} at most",
        upkeep.len()
    );
    assert!(upkeep.len() > 500 && most <= Some(5 * 6));
    let known = known(&dht);
    println!("nodes known: {:?} to {:?}", known.iter().min(), known.iter().max());
    assert!(known.iter().all(|&known| (10..=192).contains(&known)));
}

#[test]
fn who_comes_and_goes_does_not_keep_others_from_finding() {
    let mut dht = Dht::new(2);
    let mut members = dht.grow(200, 0.5, private);
    dht.run(120.0);
    // In half an hour every other node is another.
    for _ in 0..30 {
        for _ in 0..3 {
            let gone = dht.random.below(members.len());
            let gone = members.swap_remove(gone);
            dht.nodes[gone].up = false;
        }
        members.extend(dht.grow_from(&members.clone(), 3, 5.0, private));
        dht.run(45.0);
    }
    let result = dht.lookups(&members, 50, 0);
    println!("{result:?}, {} packets on average", result.packets as f64 / 100.0);
    assert!(result.found >= 48, "{result:?}");
    assert!(result.most <= 40 && result.slowest < 10.0, "{result:?}");
}

#[test]
fn liars_cost_a_search_little_and_do_not_lead_it_astray() {
    let mut dht = Dht::new(3);
    let members = dht.grow(300, 0.3, private);
    for &liar in &members {
        dht.nodes[liar].liar = dht.random.below(10) == 0;
    }
    dht.run(120.0);
    let result = dht.lookups(&members, 50, 0);
    println!("{result:?}, {} packets on average", result.packets as f64 / 100.0);
    assert!(result.found >= 47, "{result:?}");
    assert!(result.most <= 40 && result.slowest < 15.0, "{result:?}");
    let made_up = |member: &Member| {
        let saved = member.node.saved().nodes;
        saved.iter().any(|addr| !dht.by_addr.contains_key(addr))
    };
    assert!(!dht.nodes.iter().any(made_up), "nodes that do not exist stand in tables");
    assert!(dht.nodes.iter().all(|member| member.node.memory() < 64 * 1024));
}

#[test]
fn who_chooses_ids_next_to_a_torrent_does_not_hide_it() {
    let mut dht = Dht::new(13);
    let members = dht.grow(200, 0.3, global);
    dht.run(120.0);
    for n in 0..30 {
        let new = dht.add(global(1000 + n), Options::default());
        let mut id = Id::from(hash(1));
        id.0[19] ^= u8::try_from(n).unwrap() + 1;
        let seed = dht.random.draw();
        let mut node = Node::new(Options::default(), id.0, seed, dht.now);
        node.set_families(true, false, dht.now);
        (dht.nodes[new].node, dht.nodes[new].liar) = (node, true);
        for _ in 0..10 {
            let known = members[dht.random.below(members.len())];
            dht.meet(new, known);
        }
        dht.run(3.0);
    }
    dht.run(300.0);
    let result = dht.lookups(&members, 1, 1);
    println!("{result:?}");
    assert!(result.found == 1 && result.most <= 40, "{result:?}");
}

#[test]
fn two_nodes_find_each_other_at_once_whoever_comes_first() {
    for first in [0, 1] {
        let mut dht = Dht::new(4);
        let [one, other] = [0, 1].map(|n| dht.add(private(n), Options::default()));
        dht.urgent(first, 7);
        dht.run(100.0);
        dht.urgent(1 - first, 7);
        dht.run(100.0);
        let began = dht.at();
        dht.meet(one, other);
        dht.run(10.0);
        let found = [dht.found(one, 7, other), dht.found(other, 7, one)];
        println!("{found:?}");
        assert!(found.iter().any(|found| found.is_some_and(|found| found - began < 5.0)), "{found:?}");
    }
}

#[test]
fn small_meshes_find_all_at_once() {
    for count in 2..=8 {
        // All at once, each knows the one before; and one after the other, each knows the first.
        for at_once in [true, false] {
            let mut dht = Dht::new(5 + count as u64);
            let members: Vec<usize> = (0..count).map(|n| dht.add(private(n), Options::default())).collect();
            for &at in &members {
                if at > 0 {
                    dht.meet(at, if at_once { at - 1 } else { 0 });
                }
                if !at_once {
                    dht.run(20.0);
                }
                if at == 0 || at + 1 == count {
                    dht.urgent(at, 1);
                }
            }
            let began = dht.at();
            dht.run(10.0);
            let found = [dht.found(0, 1, count - 1), dht.found(count - 1, 1, 0)];
            let first = found.iter().flatten().fold(f64::MAX, |first, found| first.min(found - began));
            println!("{count} nodes, at once {at_once}: found after {first} s");
            assert!(first < 10.0, "{count} nodes, {found:?}");
            dht.run(300.0);
            let known = members.iter().map(|&at| dht.nodes[at].node.counts().nodes as usize).min();
            assert_eq!(known, Some(count - 1), "all know all");
        }
    }
}

#[test]
fn a_mesh_that_falls_apart_finds_itself_again() {
    let mut dht = Dht::new(6);
    let members: Vec<usize> = (0..8).map(|n| dht.add(private(n), Options::default())).collect();
    for &at in &members {
        dht.nodes[at].segment = u32::from(at >= 4);
        dht.meet(at, at / 4 * 4);
        dht.urgent(at, 1);
    }
    dht.run(3600.0);
    assert!(dht.found(0, 1, 7).is_none() && dht.found(0, 1, 3).is_some());
    dht.nodes.iter_mut().for_each(|member| member.segment = 0);
    let began = dht.at();
    // A neighbour is heard on a link, or a peer sends PORT.
    dht.meet(3, 4);
    dht.run(120.0);
    for one in 0..4 {
        for other in 4..8 {
            let found = [dht.found(one, 1, other), dht.found(other, 1, one)];
            assert!(found.iter().any(|found| found.is_some()), "{one} and {other}");
        }
    }
    let last = dht.nodes.iter().flat_map(|member| &member.found).map(|(.., at)| *at).max();
    println!("the last was found {:?} after", last.map(|at| (at - dht.start).as_secs_f64() - began));
}

#[test]
fn a_mesh_whose_gateway_fails_goes_on_among_itself() {
    let mut dht = Dht::new(7);
    let internet = dht.grow(200, 0.2, global);
    let mesh = dht.grow_from(&internet, 8, 5.0, private);
    for pair in mesh.windows(2) {
        dht.meet(pair[0], pair[1]);
    }
    dht.run(600.0);
    dht.urgent(mesh[0], 1);
    dht.run(60.0);
    for &at in &internet {
        dht.nodes[at].segment = 1;
    }
    let began = dht.at();
    dht.urgent(mesh[7], 1);
    dht.run(60.0);
    let found = dht.found(mesh[7], 1, mesh[0]).expect("what the mesh has is found without the Internet");
    println!("found after {} s", found - began);
    assert!(found - began < 10.0);
    // What is new since then is found too.
    dht.urgent(mesh[3], 2);
    dht.run(30.0);
    dht.urgent(mesh[5], 2);
    dht.run(30.0);
    assert!(dht.found(mesh[5], 2, mesh[3]).is_some());
}

#[test]
fn a_thousand_torrents_take_their_turns() {
    let mut dht = Dht::new(8);
    let members: Vec<usize> = (0..8).map(|n| dht.add(private(n), Options::default())).collect();
    for &at in &members[1..] {
        dht.meet(at, 0);
    }
    dht.run(30.0);
    for n in 0..1000 {
        dht.with(0, |node, now| node.insert(hash(n), PORT, true, now));
    }
    let mut most = 0;
    let mut before = dht.nodes[0].sent.of_searches();
    for _ in 0..30 {
        dht.run(60.0);
        most = most.max(dht.nodes[0].sent.of_searches() - before);
        before = dht.nodes[0].sent.of_searches();
    }
    let stored: Vec<u32> = dht.nodes.iter().map(|member| member.node.counts().stored).collect();
    println!("{most} datagrams a minute at most, stored {stored:?}, memory {}", dht.nodes[0].node.memory());
    assert!(most <= 60 * 10 + 100);
    assert!(stored[1..].iter().all(|&stored| stored >= 950), "{stored:?}");
}

#[test]
fn an_idle_mesh_is_quiet() {
    let mut dht = Dht::new(9);
    for n in 0..8 {
        dht.add(private(n), Options::default());
        dht.meet(n, 0);
    }
    for n in 0..8 {
        // With trackers: found by them.
        dht.with(n, |node, now| node.insert(hash(1), PORT, false, now));
    }
    dht.run(3600.0);
    let before = (dht.nodes[0].sent, dht.nodes[0].wake_ups);
    dht.run(3600.0);
    let member = &dht.nodes[0];
    let upkeep = member.sent.upkeep - before.0.upkeep;
    println!(
        "an hour: {upkeep} of upkeep, {} of searches, {} wake-ups",
        member.sent.of_searches() - before.0.of_searches(),
        member.wake_ups - before.1
    );
    assert!(upkeep <= 7 * 5 && member.wake_ups - before.1 <= 150);
}

#[test]
fn a_read_only_node_finds_and_is_kept_by_nobody() {
    let mut dht = Dht::new(10);
    let members: Vec<usize> = (0..4).map(|n| dht.add(private(n), Options::default())).collect();
    for &at in &members[1..] {
        dht.meet(at, 0);
    }
    dht.urgent(1, 1);
    dht.run(30.0);
    let shy = dht.add(private(4), Options { read_only: true, router: false });
    dht.meet(shy, 2);
    dht.urgent(shy, 1);
    dht.run(600.0);
    assert!(dht.found(shy, 1, 1).is_some() && dht.found(1, 1, shy).is_some());
    assert_eq!(dht.nodes[shy].sent.answers, 0);
    for &at in &members {
        assert!(!dht.nodes[at].node.saved().nodes.contains(&private(4)));
    }
}

#[test]
fn a_router_gives_contacts_and_stores_nothing() {
    let mut dht = Dht::new(11);
    let router = dht.add(private(0), Options { read_only: false, router: true });
    dht.urgent(router, 1);
    for n in 1..6 {
        dht.add(private(n), Options::default());
        dht.meet(n, router);
        dht.urgent(n, 1);
    }
    dht.run(120.0);
    for n in 1..6 {
        assert_eq!(dht.nodes[n].node.counts().nodes, 5, "all know all by the router");
    }
    assert!(dht.found(1, 1, 5).is_some() || dht.found(5, 1, 1).is_some());
    let node = &dht.nodes[router];
    assert_eq!((node.node.counts().stored, node.sent.of_searches(), node.found.len()), (0, 0, 0));
}

#[test]
fn a_link_that_was_down_for_hours_brings_nobody_to_forget_all_others() {
    let mut dht = Dht::new(12);
    let members = dht.grow(50, 1.0, private);
    dht.run(300.0);
    dht.nodes[0].segment = 1;
    dht.run(60.0);
    (0..1000).for_each(|n| dht.urgent(0, 1000 + n));
    dht.run(600.0);
    let sent = |dht: &Dht| dht.nodes[0].sent.upkeep + dht.nodes[0].sent.of_searches();
    let before = sent(&dht);
    dht.run(3.0 * 3600.0);
    let sent = sent(&dht) - before;
    println!("{sent} datagrams in three hours without a link");
    assert!(sent <= 3 * 60 * 6);
    (0..1000).for_each(|n| dht.nodes[0].node.remove(hash(1000 + n)));
    let counts = dht.nodes[0].node.counts();
    assert!(counts.nodes == 0 && counts.known >= 20, "{counts:?}");
    dht.nodes[0].segment = 0;
    dht.urgent(members[9], 1);
    dht.run(30.0);
    dht.urgent(0, 1);
    dht.run(60.0);
    assert!(dht.found(0, 1, 9).is_some());
}

//! Who hears of whom by peer exchange (BEP 11), and who hears that a piece is gone (BEP 54).

use std::net::SocketAddr;

use meshseed::metainfo::maker;
use meshseed::peer::Close;
use meshseed::peer::extension::{LT_DONTHAVE, UT_PEX};
use meshseed::peer::pex::{self, Contact};
use meshseed::peer::wire::{self, Message};
use meshseed::torrent::State;

use crate::mesh::{Swarm, line};
use crate::net::{End, Tracker};
use crate::remote::{Kind, List, Remote};
use crate::world::{World, settings};
use crate::{KIB, MIB};

fn introduces(remote: &mut Remote) {
    (remote.introduces, remote.fast) = (true, true);
}

/// A peer that speaks extensions connects.
fn connect(world: &mut World, kind: Kind, torrent: usize) -> usize {
    world.connect_as(kind, torrent, introduces)
}

fn addresses(list: &List) -> Vec<SocketAddr> {
    list.added.iter().map(|contact| contact.addr).collect()
}

/// A list of peers as one sends it to us.
fn list(addresses: impl IntoIterator<Item = SocketAddr>, flags: u8) -> Vec<u8> {
    let contacts: Vec<Contact> = addresses.into_iter().map(|addr| Contact { addr, flags }).collect();
    let (mut payload, mut bytes) = (Vec::new(), Vec::new());
    pex::encode(&contacts, &[], &mut payload);
    wire::encode(&Message::Extended { id: UT_PEX, payload: &payload }, &mut bytes);
    bytes
}

fn hole(n: usize) -> SocketAddr {
    let [.., a, b] = n.to_be_bytes();
    SocketAddr::from(([10, 66, a, b], 6881))
}

#[test]
fn those_who_know_the_seed_alone_find_each_other_through_it() {
    let copies = [true, false].map(|is_on| {
        let mut swarm = Swarm::new(5, 4 * MIB, 64 * 1024);
        let seed = swarm.seed(line(100));
        let peers = vec![swarm.nodes[seed].addr];
        swarm.tracker("tracker.example", Tracker::Answers { interval: 1800, peers });
        let crowd: Vec<usize> =
            (0..8).map(|_| swarm.join(line(100), |_| false, |settings| settings.pex = is_on)).collect();
        swarm.finish(600.0, &crowd);
        swarm.copies(seed)
    });
    println!("copies of the seed with the exchange and without: {copies:?}");
    assert!(copies[0] < 4.0 && copies[1] >= 8.0, "{copies:?}");
}

#[test]
fn who_comes_hears_of_all_and_all_hear_of_it_once_a_minute() {
    let mut world = World::new(settings());
    let torrent = world.seeded("one", MIB, 1 << 18);
    let first = connect(&mut world, Kind::Idle, torrent);
    let mute = world.connect(Kind::Idle, torrent);
    world.run(5.0);
    assert!(world.remotes[first].lists.is_empty(), "there is nobody to be told of");
    let start = world.secs();
    let second = connect(&mut world, Kind::Idle, torrent);
    world.run(1.0);
    let third = connect(&mut world, Kind::Idle, torrent);
    world.run(30.0);
    let addr = |world: &World, remote: usize| world.remotes[remote].addr;
    let [one, two, three] = [first, second, third].map(|remote| addr(&world, remote));
    let heard =
        |world: &World, remote: usize| world.remotes[remote].lists.iter().map(addresses).collect::<Vec<_>>();
    assert_eq!(heard(&world, first), [vec![two, three]], "together, for they came together");
    assert_eq!(heard(&world, second), [vec![one]]);
    assert_eq!(heard(&world, third), [vec![one, two]]);
    let fourth = connect(&mut world, Kind::Idle, torrent);
    world.run(100.0);
    let four = addr(&world, fourth);
    assert_eq!(heard(&world, first), [vec![two, three], vec![four]]);
    assert_eq!(heard(&world, second), [vec![one], vec![three, four]]);
    for remote in [first, second, third] {
        let lists = &world.remotes[remote].lists;
        assert!(lists.windows(2).all(|two| two[1].at - two[0].at >= 60.0), "{lists:?}");
        assert!(lists[0].at - start < 5.0 && lists[1].at - start < 130.0, "{lists:?}");
    }
    assert!(heard(&world, mute).is_empty());
}

#[test]
fn that_somebody_left_is_told_with_the_next_who_comes() {
    let mut world = World::new(settings());
    let torrent = world.seeded("one", MIB, 1 << 18);
    let [first, second, third] = [(); 3].map(|()| connect(&mut world, Kind::Idle, torrent));
    world.run(90.0);
    world.cut(third);
    world.run(200.0);
    assert_eq!(world.remotes[first].lists.len(), 1);
    let fourth = connect(&mut world, Kind::Idle, torrent);
    world.run(90.0);
    let (gone, came) = (world.remotes[third].addr, world.remotes[fourth].addr);
    for remote in [first, second] {
        let last = world.remotes[remote].lists.last().unwrap();
        assert_eq!((&last.dropped[..], addresses(last)), (&[gone][..], vec![came]));
    }
    let heard = &world.remotes[fourth].lists;
    assert!(heard.len() == 1 && heard[0].dropped.is_empty(), "it never knew of it");
}

#[test]
fn whom_we_called_is_told_as_one_who_can_be_and_a_seed_as_a_seed() {
    let mut world = World::new(settings());
    let torrent = world.torrent("half", 4 * MIB, 1 << 18);
    world.disk.torrents[torrent].hold(2 * MIB);
    // Nobody gives it what it lacks, for the seed is not asked.
    world.insert(torrent);
    world.run(30.0);
    let seed = connect(&mut world, Kind::Seed, torrent);
    let called = world.listen_as(Kind::Idle, torrent, introduces);
    let peer = world.remotes[called].addr;
    let mut peers = world.session.settings().static_peers.clone();
    peers.push(peer);
    world.act(|session, now| session.set_static_peers(peers, now));
    world.run(5.0);
    let asks = connect(&mut world, Kind::Idle, torrent);
    world.run(1.0);
    let of = |remote: usize| {
        let addr = world.remotes[remote].addr;
        world.remotes[asks].lists[0].added.iter().find(|contact| contact.addr == addr).unwrap().flags
    };
    assert_eq!((of(seed), of(called)), (pex::SEED, pex::REACHABLE));
}

#[test]
fn a_list_leads_to_those_it_names_and_a_seed_calls_no_seeds() {
    let mut world = World::new(settings());
    let torrent = world.seeded("one", MIB, 1 << 18);
    let leecher = world.listen_as(Kind::Leecher, torrent, introduces);
    let seed = world.listen_as(Kind::Seed, torrent, introduces);
    let came = connect(&mut world, Kind::Idle, torrent);
    world.run(1.0);
    let [one, other, known] = [leecher, seed, came].map(|remote| world.remotes[remote].addr);
    world.say(came, &list([one, known], 0));
    world.say(came, &list([other], pex::SEED));
    world.until(60.0, |world| world.remotes[leecher].is_done());
    world.run(10.0);
    assert_eq!(world.dials.len(), 1, "nor those who are connected already");
}

#[test]
fn a_private_torrent_takes_no_part() {
    let mut world = World::new(settings());
    let options = maker::Options { private: true, ..maker::Options::default() };
    let torrent = world.disk.add("private", &[MIB], 1 << 18, &options);
    world.insert(torrent);
    world.until(60.0, |world| world.state(torrent) == State::Seeding);
    let peers: Vec<usize> = (0..3).map(|_| connect(&mut world, Kind::Idle, torrent)).collect();
    world.run(1.0);
    world.say(peers[0], &list((0..10).map(hole), 0));
    world.run(200.0);
    assert!(world.dials.is_empty() && peers.iter().all(|&peer| world.remotes[peer].lists.is_empty()));
}

#[test]
fn what_belongs_to_a_site_is_neither_told_beyond_it_nor_believed_from_there() {
    let mut world = World::new(settings());
    let torrent = world.seeded("one", MIB, 1 << 18);
    let inside = connect(&mut world, Kind::Idle, torrent);
    let outside = ["198.51.100.1:7", "198.51.100.2:7"].map(|addr| {
        world.connect_as(Kind::Idle, torrent, |remote| {
            introduces(remote);
            remote.addr = addr.parse().unwrap();
        })
    });
    world.run(100.0);
    let [one, other] = outside.map(|remote| world.remotes[remote].addr);
    let heard = |remote: usize| -> Vec<SocketAddr> {
        world.remotes[remote].lists.iter().flat_map(addresses).collect()
    };
    assert_eq!(heard(inside), [one, other]);
    assert_eq!((heard(outside[0]), heard(outside[1])), (vec![other], vec![one]));
    let inner = ["10.66.0.1:1", "127.0.0.1:2", "[fe80::1]:3", "[fd00::1]:4", "0.0.0.0:5", "198.51.100.9:0"];
    world.say(outside[0], &list(inner.map(|addr| addr.parse().unwrap()), 0));
    world.run(60.0);
    assert!(world.dials.is_empty());
}

#[test]
fn lists_of_nobody_delay_nobody_whom_a_tracker_names() {
    let mut world = World::new(settings());
    let torrent = world.seeded("one", MIB, 1 << 18);
    let liars: Vec<usize> = (0..10).map(|_| connect(&mut world, Kind::Idle, torrent)).collect();
    world.run(1.0);
    for round in 0..3 {
        for (n, &liar) in liars.iter().enumerate() {
            let named = (0..1000).map(|k| hole(round * 10_000 + n * 1000 + k));
            named.clone().for_each(|addr| world.hole(addr));
            // No message may be as long as one with all of them.
            world.say(liar, &list(named.take(400), 0));
        }
        world.run(60.0);
    }
    let before = world.dials.len();
    let other = world.torrent("other", 64 * KIB, 1 << 14);
    let friends: Vec<usize> = (0..5).map(|_| world.listen(Kind::Leecher, other)).collect();
    let peers = friends.iter().map(|&friend| world.remotes[friend].addr).collect();
    world.tracker("tracker.example", Tracker::Answers { interval: 1800, peers });
    world.insert(other);
    let start = world.secs();
    world.until(60.0, |world| friends.iter().all(|&friend| world.remotes[friend].is_done()));
    println!("{} dials in vain, and friends had it after {:.1} s", before, world.secs() - start);
    assert!(world.secs() - start < 20.0);
    // Of all of their names no more than one torrent's share is kept, each tried once in a minute at most.
    assert!(before <= 50 * 4, "{before} dials");
}

#[test]
fn one_that_floods_us_with_lists_is_left_and_others_hear_on() {
    let mut world = World::new(settings());
    let torrent = world.seeded("one", MIB, 1 << 18);
    let [flood, eager] = [(); 2].map(|()| connect(&mut world, Kind::Idle, torrent));
    world.run(1.0);
    for n in 0..30 {
        world.say(flood, &list([hole(n)], 0));
        world.run(0.1);
        if world.why(flood).is_some() {
            break;
        }
    }
    assert_eq!(world.why(flood), Some(&Close::Protocol("floods us with lists of peers")));
    // Twice as often as one should: every other list is read.
    for _ in 0..30 {
        let named = world.listen(Kind::Idle, torrent);
        let addr = world.remotes[named].addr;
        world.say(eager, &list([addr], 0));
        world.run(30.0);
    }
    assert_eq!(world.why(eager), None);
    let called = world.session.peers().filter(|peer| peer.outgoing && peer.ready).count();
    assert!((15..=17).contains(&called), "{called} were called");
}

#[test]
fn idle_peers_of_many_torrents_wake_nobody() {
    let wake_ups = [true, false].map(|is_on| {
        let mut settings = settings();
        (settings.pex, settings.peers, settings.dials_per_second) = (is_on, 1000, 100);
        let mut world = World::new(settings);
        let torrents: Vec<usize> =
            (0..200).map(|n| world.torrent(&format!("number {n}"), 64 * KIB, 1 << 14)).collect();
        torrents.iter().for_each(|&torrent| world.insert(torrent));
        world.run(60.0);
        for &torrent in &torrents {
            connect(&mut world, Kind::Idle, torrent);
            connect(&mut world, Kind::Idle, torrent);
            world.run(0.1);
        }
        world.run(200.0);
        let told: usize = world.remotes.iter().map(|remote| remote.lists.len()).sum();
        assert_eq!(told, if is_on { 400 } else { 0 });
        let before = world.wake_ups;
        world.run(3600.0);
        world.wake_ups - before
    });
    assert_eq!(wake_ups[0], wake_ups[1]);
}

#[test]
fn one_that_can_be_told_hears_which_pieces_are_gone_and_stays() {
    let mut world = World::new(settings());
    let torrent = world.torrent_of("files", &[MIB; 4], 1 << 18, &[]);
    world.insert(torrent);
    world.until(60.0, |world| world.state(torrent) == State::Seeding);
    // A file is gone, and the others are served on.
    world.disk.torrents[torrent].hold_pieces(|piece| *piece < 12);
    let hash = world.hash(torrent);
    world.act(|session, _| session.verify(hash));
    world.until(60.0, |world| world.state(torrent) == State::Incomplete);
    let told = world.connect_as(Kind::Leecher, torrent, |remote| {
        introduces(remote);
        (remote.bandwidth, remote.pipeline) = (3000, 200);
    });
    let other = world.connect(Kind::Idle, torrent);
    world.run(30.0);
    assert_eq!(world.remotes[told].seen.count(16), 12);
    world.disk.torrents[torrent].hold_pieces(|piece| *piece < 8);
    world.run(100.0);
    assert_eq!(world.why(other), Some(&Close::TorrentStopped));
    assert_eq!(world.why(told), None);
    // What it had asked for of them is refused, and the rest comes.
    world.set_bandwidth(told, 1 << 20);
    world.run(30.0);
    let remote = &world.remotes[told];
    assert!(remote.seen.missing(16).eq(8..16) && remote.seen == world.of(torrent).have);
    assert!(remote.rejects > 0 && remote.received >= 2 * MIB);
}

#[test]
fn a_piece_that_a_peer_has_lost_comes_from_another() {
    let mut swarm = Swarm::new(5, MIB, 1 << 16);
    let node = swarm.leecher(line(1000));
    let liar = swarm.connect_as(Kind::Seed, 0, introduces);
    swarm.run(5.0);
    assert_eq!(swarm.parted(End::Remote(liar)), None);
    let mut bytes = Vec::new();
    for piece in 0..16_u32 {
        let payload = &piece.to_be_bytes();
        wire::encode(&Message::Extended { id: LT_DONTHAVE, payload }, &mut bytes);
    }
    swarm.say(liar, &bytes);
    swarm.run(5.0);
    assert!(swarm.session.peers().all(|peer| peer.has() == 0 && !peer.is_seed(swarm.of(0).lengths)));
    swarm.seed(line(1000));
    swarm.finish(120.0, &[node]);
}

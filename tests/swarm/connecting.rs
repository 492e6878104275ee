//! Who is let in, whom we call, and who is shown the door.

use meshseed::peer::Close;
use meshseed::peer::wire::{self, Message};
use meshseed::torrent::State;

use crate::remote::Kind;
use crate::world::{Tracker, World, settings};
use crate::{GIB, KIB, MIB};

#[test]
fn a_handshake_without_an_end_is_dropped_within_twenty_seconds() {
    let mut world = World::new(settings());
    let torrent = world.seeded("one", MIB, 1 << 18);
    let start = world.secs();
    for kind in [Kind::Mute, Kind::Half(10), Kind::Half(48), Kind::Half(67), Kind::Trickle] {
        world.connect(kind, torrent);
    }
    world.run(60.0);
    for remote in 0..5 {
        assert_eq!(world.why(remote), Some(&Close::SlowHandshake), "{:?}", world.remotes[remote].kind);
        let time = world.remotes[remote].gone.unwrap() - start;
        assert!((10.0..=20.0).contains(&time), "{:?}: {time} s", world.remotes[remote].kind);
    }
    assert_eq!(world.session.peer_count(), 0);
}

#[test]
fn a_silent_peer_is_dropped_after_250_s_and_others_hear_that_we_live() {
    let mut world = World::new(settings());
    let torrent = world.seeded("one", MIB, 1 << 18);
    let start = world.secs();
    let silent = world.connect(Kind::Silent, torrent);
    let idle = world.connect(Kind::Idle, torrent);
    world.run(99.0);
    assert_eq!(world.remotes[idle].keep_alives, 0);
    world.run(22.0);
    assert_eq!(world.remotes[idle].keep_alives, 1);
    world.run(480.0);
    assert_eq!(world.why(silent), Some(&Close::Silent));
    let time = world.remotes[silent].gone.unwrap() - start;
    assert!((250.0..=275.0).contains(&time), "{time} s");
    assert_eq!(world.why(idle), None);
    assert!((4..=6).contains(&world.remotes[idle].keep_alives), "{}", world.remotes[idle].keep_alives);
}

#[test]
fn above_the_limits_peers_are_refused_and_those_there_stay() {
    let mut settings = settings();
    (settings.peers, settings.peers_per_torrent) = (6, 4);
    let mut world = World::new(settings);
    let one = world.seeded("one", MIB, 1 << 18);
    let two = world.seeded("two", MIB, 1 << 18);
    let first: Vec<usize> = (0..6).map(|_| world.connect(Kind::Idle, one)).collect();
    world.run(1.0);
    let refused: Vec<usize> = first.iter().copied().filter(|&remote| world.why(remote).is_some()).collect();
    assert_eq!(refused.len(), 2);
    assert_eq!(world.why(refused[0]), Some(&Close::Limit("peers of a torrent")));
    let second: Vec<usize> = (0..3).map(|_| world.connect(Kind::Idle, two)).collect();
    world.run(5.0);
    assert_eq!((world.session.peer_count(), &world.refused[..]), (6, &[Close::Limit("peers")][..]));
    world.cut(first[0]);
    world.run(1.0);
    let late = world.connect(Kind::Leecher, two);
    world.until(60.0, |world| world.remotes[late].is_done());
    assert!(second.iter().filter(|&&remote| world.why(remote).is_some()).count() == 1);
}

#[test]
fn a_full_house_drops_strangers_for_guests() {
    let mut settings = settings();
    settings.peers = 5;
    let mut world = World::new(settings);
    let torrent = world.seeded("one", MIB, 1 << 18);
    for _ in 0..5 {
        world.connect(Kind::Mute, torrent);
    }
    world.run(4.0);
    let guest = world.connect(Kind::Leecher, torrent);
    world.until(30.0, |world| world.remotes[guest].is_done());
    assert!(world.session.peer_count() <= 5);
}

#[test]
fn memory_is_a_limit_for_those_who_come_and_those_who_are_called() {
    let mut settings = settings();
    settings.memory = 2 * KIB + 5 * 10 * KIB;
    settings.static_peers = (1..9).map(|n| format!("10.1.0.{n}:6881").parse().unwrap()).collect();
    let mut world = World::new(settings);
    let torrent = world.torrent("one", MIB, 1 << 18);
    for _ in 0..8 {
        world.listen(Kind::Idle, torrent);
    }
    world.insert(torrent);
    world.run(30.0);
    assert_eq!(world.session.peer_count(), 5);
    world.connect(Kind::Idle, torrent);
    world.run(1.0);
    assert_eq!(world.refused, [Close::Limit("memory")]);
    assert!(world.session.memory() <= 2 * KIB + 5 * 10 * KIB);
}

#[test]
fn peers_are_called_at_most_so_many_a_second_and_sixteen_at_a_time() {
    let mut settings = settings();
    settings.dials_per_second = 4;
    settings.static_peers = (1..=46).map(|n| format!("10.9.0.{n}:6881").parse().unwrap()).collect();
    let mut world = World::new(settings.clone());
    for &addr in &settings.static_peers {
        world.hole(addr);
    }
    let torrent = world.torrent("one", MIB, 1 << 18);
    let friend = world.listen_as(Kind::Leecher, torrent, |remote| remote.addr = settings.static_peers[45]);
    world.insert(torrent);
    world.until(120.0, |world| world.remotes[friend].is_done());
    // Each of the others was tried once in the first minute.
    world.until(60.0, |world| world.dials.len() >= 46);
    let dials = world.dials.clone();
    for from in &dials {
        let within = dials.iter().filter(|at| (*from..from + 1.0).contains(*at)).count();
        assert!(within <= 8, "{within} dials in a second");
        let within = dials.iter().filter(|at| (*from..from + 10.0).contains(*at)).count();
        assert!(within <= 44, "{within} dials in ten seconds");
    }
    assert!(dials[45] <= 45.0, "the last was called after {} s", dials[45]);
    // They are not given up, and not called all the time either.
    let before = world.dials.len();
    world.run(3600.0);
    assert!((46..=46 * 4).contains(&(world.dials.len() - before)), "{}", world.dials.len() - before);
}

#[test]
fn the_seventeenth_is_called_as_soon_as_one_of_sixteen_has_answered() {
    let mut settings = settings();
    settings.dials_per_second = 100;
    settings.static_peers = (1..=30).map(|n| format!("10.1.0.{n}:6881").parse().unwrap()).collect();
    let mut world = World::new(settings);
    let torrent = world.torrent("one", MIB, 1 << 18);
    for _ in 0..30 {
        world.listen_as(Kind::Idle, torrent, |remote| {
            remote.latency = 300 * std::time::Duration::from_millis(1)
        });
    }
    world.insert(torrent);
    world.run(2.8);
    let ready = world.session.peers().filter(|peer| peer.ready).count();
    assert_eq!(ready, 30, "{} were called", world.dials.len());
}

#[test]
fn trackers_name_peers_who_are_called_and_get_what_they_want() {
    let mut world = World::new(settings());
    let torrent = world.torrent("one", MIB, 1 << 18);
    let leechers: Vec<usize> = (0..4).map(|_| world.listen(Kind::Leecher, torrent)).collect();
    let seed = world.listen(Kind::Seed, torrent);
    let peers = world.remotes.iter().map(|remote| remote.addr).collect();
    world.tracker("tracker.example", Tracker::Answers { interval: 300, peers });
    world.insert(torrent);
    world.until(60.0, |world| leechers.iter().all(|&leecher| world.remotes[leecher].is_done()));
    assert_eq!(world.why(seed), Some(&Close::BothSeeds));
    let dials = world.dials.len();
    world.run(3600.0);
    // All are seeds by now: they are left alone, though the tracker goes on naming them.
    assert_eq!(world.dials.len(), dials);
}

#[test]
fn ourselves_and_twins_are_recognised() {
    let mut world = World::new(settings());
    let torrent = world.torrent("one", MIB, 1 << 18);
    let own = world.session.settings().peer_id;
    let mirror = world.listen_as(Kind::Idle, torrent, |remote| remote.id = own);
    let peers = vec![world.remotes[mirror].addr];
    world.tracker("tracker.example", Tracker::Answers { interval: 300, peers });
    world.insert(torrent);
    world.run(10.0);
    assert_eq!(world.why(mirror), Some(&Close::Ourselves));
    let came = world.connect_as(Kind::Idle, torrent, |remote| remote.id = own);
    let first = world.connect_as(Kind::Idle, torrent, |remote| remote.addr = "10.3.0.1:5".parse().unwrap());
    let id = world.remotes[first].id;
    world.run(10.0);
    assert_eq!(world.why(came), Some(&Close::Ourselves));
    let twin = world.connect_as(Kind::Idle, torrent, |remote| {
        (remote.id, remote.addr) = (id, "10.3.0.1:6".parse().unwrap());
    });
    let namesake = world.connect_as(Kind::Idle, torrent, |remote| {
        (remote.id, remote.addr) = (id, "10.3.0.2:6".parse().unwrap());
    });
    world.run(10.0);
    assert_eq!(world.why(twin), Some(&Close::Duplicate));
    assert_eq!((world.why(first), world.why(namesake)), (None, None));
    world.run(3600.0);
    assert_eq!(world.dials.len(), 1, "our own address is called again");
}

#[test]
fn of_two_that_call_each_other_at_once_both_keep_the_same_call() {
    let at = |port: u16| format!("10.9.0.1:{port}").parse().unwrap();
    for (id, ours) in [(*b"-AA0000-000000000000", true), (*b"-ZZ0000-000000000000", false)] {
        let mut settings = settings();
        settings.static_peers = vec![at(6881)];
        let mut world = World::new(settings);
        let torrent = world.torrent("one", MIB, 1 << 18);
        let called = world.listen_as(Kind::Idle, torrent, |remote| (remote.id, remote.addr) = (id, at(6881)));
        world.insert(torrent);
        world.until(60.0, |world| !world.dials.is_empty());
        let calls =
            world.connect_as(Kind::Idle, torrent, |remote| (remote.id, remote.addr) = (id, at(40_000)));
        world.run(5.0);
        let (gone, stays) = if ours { (calls, called) } else { (called, calls) };
        assert_eq!((world.why(gone), world.why(stays)), (Some(&Close::Duplicate), None));
    }
}

#[test]
fn whoever_breaks_the_protocol_goes_alone() {
    let mut settings = settings();
    settings.uploads_per_torrent = 40;
    settings.uploads = 40;
    let mut world = World::new(settings);
    let torrent = world.seeded("one", 8 * MIB, 1 << 18);
    let honest = world.connect_as(Kind::Leecher, torrent, |remote| remote.bandwidth = 300_000);
    let request = |piece, begin, len| {
        let mut bytes = Vec::new();
        wire::encode(&Message::Request { piece, begin, len }, &mut bytes);
        bytes
    };
    let hostile = [
        vec![0xff; 40],
        [0, 0, 0, 0].repeat(3).into_iter().chain([1, 2, 3, 4, 5]).collect(),
        request(32, 0, 16_384),
        request(0, 0, 1 << 18),
        request(0, 1 << 18, 1),
        request(u32::MAX, u32::MAX, u32::MAX),
        vec![0, 0, 0, 5, 4, 0, 0, 0, 200],
        vec![0, 0, 0, 2, 5, 255],
        // More blocks that nobody asked for than can have been on their way.
        [vec![0, 0, 0, 19, 7, 0, 0, 0, 0, 0, 0, 0, 0], vec![1; 10]].concat().repeat(100),
        // More than we hold for one that does not wait to be unchoked.
        request(0, 0, 16_384).repeat(20_000),
    ];
    let count = hostile.len();
    let remotes: Vec<usize> = hostile
        .into_iter()
        .map(|bytes| {
            world.connect_as(Kind::Hostile(bytes), torrent, |remote| {
                remote.fast = true;
                remote.bandwidth = 0;
            })
        })
        .collect();
    world.run(0.2);
    for &remote in &remotes {
        world.set_bandwidth(remote, 3000);
    }
    world.run(30.0);
    for (n, &remote) in remotes.iter().enumerate() {
        assert!(matches!(world.why(remote), Some(Close::Protocol(_))), "{n}: {:?}", world.why(remote));
    }
    world.until(120.0, |world| world.remotes[honest].is_done());
    assert_eq!(remotes.len(), count);
    assert_eq!(world.state(torrent), State::Seeding);
}

#[test]
fn one_who_wants_what_we_do_not_have_is_told_so_and_goes_in_the_end() {
    let mut world = World::new(settings());
    let torrent = world.torrent("half", 8 * MIB, 1 << 18);
    world.disk.torrents[torrent].hold(4 * MIB);
    world.insert(torrent);
    world.until(60.0, |world| world.state(torrent) == State::Incomplete);
    let mut bytes = Vec::new();
    (0..200).for_each(|_| wire::encode(&Message::Request { piece: 31, begin: 0, len: 16_384 }, &mut bytes));
    let rude = world.connect_as(Kind::Hostile(bytes), torrent, |remote| remote.fast = true);
    let polite = world.connect(Kind::Leecher, torrent);
    world.run(60.0);
    assert!(matches!(world.why(rude), Some(Close::Protocol(_))), "{:?}", world.why(rude));
    assert_eq!(world.why(polite), None);
    assert_eq!(world.remotes[polite].received, 4 * MIB);
}

#[test]
fn a_torrent_of_which_nothing_is_there_calls_for_peers_and_takes_what_is_put_there() {
    let mut settings = settings();
    settings.static_peers = vec!["10.1.0.1:6881".parse().unwrap()];
    let mut world = World::new(settings);
    let torrent = world.torrent("empty", MIB, 1 << 18);
    world.disk.torrents[torrent].there = false;
    let friend = world.listen(Kind::Leecher, torrent);
    world.insert(torrent);
    let caller = world.connect(Kind::Leecher, torrent);
    world.run(30.0);
    assert_eq!((world.state(torrent), world.why(caller)), (State::Downloading, None));
    assert!(!world.dials.is_empty() && world.announces[0].totals.left == MIB);
    world.disk.torrents[torrent].there = true;
    world.until(300.0, |world| world.remotes[friend].is_done() && world.remotes[caller].is_done());
    assert_eq!(world.state(torrent), State::Seeding);
}

#[test]
fn torrents_that_are_not_ours_are_not_served() {
    let mut world = World::new(settings());
    world.seeded("one", MIB, 1 << 18);
    let foreign = world.torrent("foreign", MIB, 1 << 18);
    let lost = world.connect(Kind::Leecher, foreign);
    world.run(1.0);
    assert_eq!(world.why(lost), Some(&Close::UnknownTorrent));
}

#[test]
fn a_peer_that_goes_and_comes_is_served_where_it_was() {
    let mut world = World::new(settings());
    let torrent = world.seeded("one", 16 * MIB, 1 << 18);
    let remote = world.connect(Kind::Leecher, torrent);
    for _ in 0..5 {
        world.run(2.0);
        world.cut(remote);
        world.run(1.0);
        world.remotes[remote].again();
        world.connect_again(remote);
    }
    world.until(60.0, |world| world.remotes[remote].is_done());
    world.run(1.0);
    assert!(world.remotes[remote].received <= 17 * MIB);
    assert_eq!(world.session.peer_count(), 0);
}

#[test]
fn a_thousand_connections_that_come_and_go_leave_nothing_behind() {
    let mut world = World::new(settings());
    let torrent = world.seeded("one", GIB, 1 << 20);
    for n in 0..1000 {
        let kind = match n % 4 {
            0 => Kind::Leecher,
            1 => Kind::Half(50),
            2 => Kind::Hostile(vec![9; 9]),
            _ => Kind::Seed,
        };
        let remote = world.connect_as(kind, torrent, |remote| remote.bandwidth = 30_000);
        world.run(0.05);
        world.cut(remote);
    }
    world.run(400.0);
    assert_eq!(world.session.peer_count(), 0);
    assert!(world.session.torrents().all(|(_, torrent)| torrent.swarm.is_none()));
    assert_eq!(world.session.rates(world.net.now), (0, 0));
}

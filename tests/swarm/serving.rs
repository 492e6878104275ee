//! Who gets what, and how fast.

use meshseed::peer::Close;
use meshseed::torrent::State;

use crate::remote::Kind;
use crate::world::{World, settings};
use crate::{GIB, KIB, MIB};

#[test]
fn every_leecher_of_a_swarm_gets_all_of_it_though_there_are_few_slots() {
    let mut settings = settings();
    (settings.uploads, settings.uploads_per_torrent) = (3, 2);
    let mut world = World::new(settings);
    let one = world.torrent_of("one", &[300 * KIB, 7, 1, 900 * KIB, 12_345], 64 * 1024, &[]);
    world.insert(one);
    let two = world.seeded("two", MIB, 128 * 1024);
    for n in 0..12 {
        let torrent = if n % 3 == 0 { two } else { one };
        world.connect_as(Kind::Leecher, torrent, |remote| {
            remote.bandwidth = 40_000 << (n % 5);
            remote.pipeline = 1 + n * 3;
            if n == 7 {
                remote.set_block(4096, 0);
            }
        });
    }
    world.until(1800.0, |world| world.remotes.iter().all(|remote| remote.is_done()));
    world.run(30.0);
    for n in 0..12 {
        assert_eq!(world.why(n), Some(&Close::BothSeeds), "peer {n}");
    }
    let sizes = [world.disk.torrents[one].lengths().total(), world.disk.torrents[two].lengths().total()];
    let sent = world.session.uploaded();
    // A little is sent twice: a choke drops what old clients ask for again.
    assert!((8 * sizes[0] + 4 * sizes[1]..9 * sizes[0] + 5 * sizes[1]).contains(&sent), "{sent}");
}

#[test]
fn each_of_fifty_interested_peers_gets_a_turn_within_a_quarter_of_an_hour_on_four_slots() {
    let mut settings = settings();
    (settings.uploads, settings.uploads_per_torrent) = (4, 4);
    let mut world = World::new(settings);
    let torrent = world.seeded("big", 4 * GIB, 1 << 20);
    for n in 0..50 {
        // Every fifth asks for nothing; it has its turn as well, and takes no more than that.
        let kind = if n % 5 == 0 { Kind::Hoarder } else { Kind::Leecher };
        world.connect_as(kind, torrent, |remote| remote.bandwidth = 2000 + 200 * n);
    }
    world.run(900.0);
    for (n, remote) in world.remotes.iter().enumerate() {
        assert!(remote.turns > 0, "peer {n} has waited since it came");
        assert!(remote.longest_wait <= 850.0, "peer {n} waited {} s", remote.longest_wait);
        assert_eq!(remote.received > 0, n % 5 != 0, "peer {n}");
    }
}

#[test]
fn a_slot_that_comes_free_is_given_at_once() {
    let mut settings = settings();
    (settings.uploads, settings.uploads_per_torrent) = (1, 1);
    let mut world = World::new(settings);
    let torrent = world.seeded("one", 64 * MIB, 1 << 20);
    let first = world.connect(Kind::Leecher, torrent);
    world.run(5.0);
    let second = world.connect(Kind::Leecher, torrent);
    world.run(5.0);
    assert!(!world.remotes[first].choked && world.remotes[second].choked);
    world.cut(first);
    world.run(0.1);
    assert!(!world.remotes[second].choked);
}

#[test]
fn slots_and_rates_change_while_peers_are_served() {
    let mut world = World::new(settings());
    let torrent = world.seeded("one", GIB, 1 << 20);
    for _ in 0..10 {
        world.connect_as(Kind::Leecher, torrent, |remote| remote.bandwidth = 20_000);
    }
    let unchoked = |world: &World| world.remotes.iter().filter(|remote| !remote.choked).count();
    world.run(20.0);
    assert_eq!(unchoked(&world), 8);
    world.change(|settings| settings.uploads = 2);
    world.run(15.0);
    assert_eq!(unchoked(&world), 2);
    world.change(|settings| (settings.uploads, settings.uploads_per_torrent) = (20, 9));
    world.run(15.0);
    assert_eq!(unchoked(&world), 9);
    let rate = |world: &mut World| {
        let before = world.session.uploaded();
        world.run(60.0);
        (world.session.uploaded() - before) / 60
    };
    let open = rate(&mut world);
    assert!((160_000..200_000).contains(&open), "{open} bytes a second");
    world.change(|settings| settings.upload = 20_000);
    world.run(20.0);
    assert!((19_000..=20_100).contains(&rate(&mut world)));
    world.change(|settings| settings.upload = 0);
    world.run(5.0);
    let open = rate(&mut world);
    assert!((160_000..200_000).contains(&open), "{open} bytes a second");
}

#[test]
fn the_rate_holds_over_a_minute_and_neighbours_have_one_of_their_own() {
    let mut settings = settings();
    settings.upload = 30_000;
    settings.local_upload = 120_000;
    settings.local = vec!["192.168.7.0/24".parse().unwrap()];
    let mut world = World::new(settings);
    let torrent = world.seeded("one", GIB, 1 << 20);
    for n in 0..6 {
        world.connect_as(Kind::Leecher, torrent, |remote| {
            remote.bandwidth = 200_000;
            remote.pipeline = 50;
            if n >= 3 {
                remote.addr = format!("192.168.7.{n}:1000").parse().unwrap();
            }
        });
    }
    world.run(10.0);
    let took = |world: &World, from: usize| -> u64 {
        world.remotes[from..from + 3].iter().map(|remote| remote.received).sum()
    };
    for _ in 0..3 {
        let before = [took(&world, 0), took(&world, 3)];
        world.run(60.0);
        let far = (took(&world, 0) - before[0]) / 60;
        let near = (took(&world, 3) - before[1]) / 60;
        assert!((28_500..=31_500).contains(&far), "{far} bytes a second");
        assert!((114_000..=126_000).contains(&near), "{near} bytes a second");
    }
}

#[test]
fn those_that_share_a_small_rate_get_like_shares() {
    let mut settings = settings();
    settings.upload = 100_000;
    let mut world = World::new(settings);
    world.short_writes = false;
    let torrent = world.seeded("one", GIB, 1 << 20);
    for n in 0..5 {
        world.connect_as(Kind::Leecher, torrent, |remote| remote.pipeline = 5 + 20 * n);
    }
    world.run(120.0);
    for remote in &world.remotes {
        let share = remote.received / 120;
        assert!((14_000..=27_000).contains(&share), "{} got {share} bytes a second of 100,000", remote.addr);
    }
}

#[test]
fn nothing_is_read_twice_for_slow_readers() {
    let mut settings = settings();
    settings.upload = 80_000;
    let mut world = World::new(settings);
    world.short_writes = false;
    let torrent = world.seeded("one", GIB, 1 << 20);
    for n in 0..6 {
        world.connect_as(Kind::Leecher, torrent, |remote| {
            remote.bandwidth = 3000 + 9000 * n;
            remote.pipeline = 200;
        });
    }
    world.run(300.0);
    assert!(world.sent > 10_000_000, "{}", world.sent);
    assert_eq!(world.read, world.sent);
}

#[test]
fn one_that_asks_and_never_reads_costs_a_send_buffer() {
    let mut world = World::new(settings());
    let torrent = world.seeded("one", GIB, 1 << 20);
    let requests = |world: &World| world.session.peers().map(|peer| peer.outbox.len()).sum::<usize>();
    let mut bytes = Vec::new();
    for begin in 0..60 {
        let request = meshseed::peer::wire::Message::Request { piece: 0, begin: begin * 16_384, len: 16_384 };
        meshseed::peer::wire::encode(&request, &mut bytes);
    }
    // It reads until it is unchoked, then stalls.
    let remote = world.connect_as(Kind::Hoarder, torrent, |_| {});
    world.run(1.0);
    world.set_bandwidth(remote, 0);
    world.say(remote, &bytes);
    world.run(60.0);
    assert!(world.read <= 300 * KIB, "{} bytes were read", world.read);
    assert!(requests(&world) >= 40);
}

#[test]
fn a_cold_disk_is_read_once_and_peers_wait_for_nothing_else() {
    let mut world = World::new(settings());
    world.disk.small_cache = true;
    world.disk.speed = 4 << 20;
    let torrent = world.torrent_of("cold", &[500 * KIB, 3 * MIB, 10, 700_001], 256 * 1024, &[]);
    world.insert(torrent);
    world.until(60.0, |world| world.state(torrent) == State::Seeding);
    for _ in 0..3 {
        world.connect_as(Kind::Leecher, torrent, |remote| remote.pipeline = 32);
    }
    world.until(120.0, |world| world.remotes.iter().all(|remote| remote.is_done()));
    let total = 3 * world.disk.torrents[torrent].lengths().total();
    assert!(world.disk.reads <= total * 5 / 4, "{} bytes read for {total}", world.disk.reads);
}

#[test]
fn layouts_are_read_once_for_a_swarm_and_again_after_a_minute_without_peers() {
    let mut world = World::new(settings());
    let torrent = world.seeded("one", MIB, 1 << 18);
    for _ in 0..2 {
        world.connect(Kind::Leecher, torrent);
    }
    world.run(30.0);
    assert!(world.of(torrent).swarm.is_some());
    world.run(90.0);
    assert!(world.of(torrent).swarm.is_none());
    let late = world.connect(Kind::Leecher, torrent);
    world.until(30.0, |world| world.remotes[late].is_done());
}

#[test]
fn blocks_that_wait_are_dropped_by_a_choke_and_asked_for_again() {
    let mut settings = settings();
    (settings.uploads, settings.uploads_per_torrent) = (1, 1);
    let mut world = World::new(settings);
    let torrent = world.seeded("one", 4 * MIB, 1 << 18);
    for _ in 0..4 {
        world.connect_as(Kind::Leecher, torrent, |remote| {
            remote.bandwidth = 60_000;
            remote.pipeline = 100;
        });
    }
    world.until(3600.0, |world| world.remotes.iter().all(|remote| remote.is_done()));
    assert!(world.remotes.iter().all(|remote| remote.turns >= 1));
    assert!(world.remotes.iter().filter(|remote| remote.fast).any(|remote| remote.rejects > 0));
}

#[test]
fn a_rate_is_kept_with_some_fifty_wake_ups_a_second() {
    let mut settings = settings();
    settings.upload = 500_000;
    let mut world = World::new(settings);
    let torrent = world.seeded("one", GIB, 1 << 20);
    for _ in 0..8 {
        world.connect_as(Kind::Leecher, torrent, |remote| remote.pipeline = 50);
    }
    world.run(10.0);
    let (wake_ups, sent) = (world.wake_ups, world.session.uploaded());
    world.run(20.0);
    let (wake_ups, sent) = ((world.wake_ups - wake_ups) / 20, (world.session.uploaded() - sent) / 20);
    assert!((475_000..=525_000).contains(&sent), "{sent} bytes a second");
    assert!(wake_ups <= 60, "{wake_ups} wake-ups a second");
}

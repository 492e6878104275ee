//! The only seed of a swarm, which gives it piece by piece: nobody sees more than one, and each goes out once.

use meshseed::peer::Close;
use meshseed::session::Settings;

use crate::MIB;
use crate::mesh::{Swarm, line};
use crate::remote::Kind;
use crate::world::{World, settings};

fn piece_by_piece() -> Settings {
    Settings { superseed: true, ..settings() }
}

/// Copies that the seed has sent when every piece is with somebody, and when that was.
fn until_all_is_out(swarm: &mut Swarm, seed: usize, crowd: &[usize]) -> (f64, f64) {
    let pieces = swarm.nodes[seed].of(0).lengths.piece_count();
    loop {
        let is_out = |piece| crowd.iter().any(|&node| swarm.nodes[node].of(0).have.contains(piece));
        if (0..pieces).all(is_out) {
            return (swarm.copies(seed), swarm.secs());
        }
        assert!(swarm.secs() < 3600.0, "not in an hour");
        swarm.run(0.2);
    }
}

#[test]
fn each_piece_is_sent_about_once_until_all_are_out_and_that_is_sooner() {
    let [usual, piece_by_piece] = [false, true].map(|superseed| {
        let mut swarm = Swarm::new(31, 24 * MIB, 256 * 1024);
        let seed = swarm.join(line(200), |_| true, |settings| settings.superseed = superseed);
        let crowd = swarm.leechers(12, line(400));
        let (copies, seconds) = until_all_is_out(&mut swarm, seed, &crowd);
        swarm.finish(600.0, &crowd);
        let last = crowd.iter().map(|&node| swarm.done_at(node)).fold(0.0, f64::max);
        println!("{copies:.2} copies, all is out after {seconds:.0} s, the last has all after {last:.0} s");
        (copies, last)
    });
    assert!((1.0..1.12).contains(&piece_by_piece.0), "{} copies", piece_by_piece.0);
    assert!(usual.0 > 1.2 * piece_by_piece.0 && usual.1 > piece_by_piece.1, "{usual:?} {piece_by_piece:?}");
}

#[test]
fn one_alone_gets_all_of_it_and_sees_one_piece_at_a_time() {
    // The one speaks the fast extension, the other says nothing of what it has.
    for silent in [false, true] {
        let mut world = World::new(piece_by_piece());
        let torrent = world.seeded("one", 4 * MIB, 1 << 18);
        let remote = world.connect_as(Kind::Leecher, torrent, |remote| remote.fast = !silent);
        for _ in 0..200 {
            world.run(0.1);
            let remote = &world.remotes[remote];
            let seen = remote.seen.count(16);
            assert!(seen == 0 || remote.received + (1 << 18) >= u64::from(seen) << 18, "{seen} pieces");
        }
        world.until(60.0, |world| world.remotes[remote].is_done());
        assert_eq!((world.remotes[remote].haves, world.remotes[remote].received), (16, 4 * MIB));
        world.run(1.0);
        assert_eq!(world.why(remote), Some(&Close::BothSeeds));
    }
}

#[test]
fn who_asks_for_more_than_it_was_told_of_is_refused() {
    let mut world = World::new(piece_by_piece());
    let torrent = world.seeded("one", 4 * MIB, 1 << 18);
    let remote = world.connect_as(Kind::Hoarder, torrent, |remote| remote.fast = true);
    world.run(5.0);
    let mut bytes = Vec::new();
    for piece in 0..16 {
        let request = meshseed::peer::wire::Message::Request { piece, begin: 0, len: 16_384 };
        meshseed::peer::wire::encode(&request, &mut bytes);
    }
    assert_eq!(world.remotes[remote].seen.count(16), 1);
    world.say(remote, &bytes);
    world.run(5.0);
    assert_eq!(world.remotes[remote].rejects, 15);
    assert_eq!(world.session.uploaded(), 16_384);
}

#[test]
fn when_another_seed_comes_those_who_are_there_are_told_of_everything() {
    let mut world = World::new(piece_by_piece());
    // More pieces than fit in one go.
    let torrent = world.seeded("one", 300 * MIB, 1 << 14);
    let leechers: Vec<usize> =
        (0..2).map(|_| world.connect_as(Kind::Leecher, torrent, |remote| remote.bandwidth = 1000)).collect();
    world.run(30.0);
    let seen = |world: &World, remote: usize| world.remotes[remote].seen.count(19_200);
    assert!(leechers.iter().all(|&remote| seen(&world, remote) <= 10));
    let seed = world.connect(Kind::Seed, torrent);
    world.run(1.0);
    assert_eq!(world.why(seed), Some(&Close::BothSeeds));
    world.until(1200.0, |world| leechers.iter().all(|&remote| seen(world, remote) == 19_200));
    for &remote in &leechers {
        world.set_bandwidth(remote, 4 << 20);
    }
    world.until(1200.0, |world| leechers.iter().all(|&remote| world.remotes[remote].is_done()));
    // Who comes now sees at once what it is.
    let late = world.connect(Kind::Leecher, torrent);
    world.run(1.0);
    assert_eq!((seen(&world, late), world.remotes[late].haves), (19_200, 0));
}

#[test]
fn who_passes_nothing_on_waits_and_is_served_when_nobody_does() {
    let mut world = World::new(piece_by_piece());
    let torrent = world.seeded("one", 4 * MIB, 1 << 18);
    // These two do not know each other.
    let remotes =
        [0, 1].map(|_| world.connect_as(Kind::Leecher, torrent, |remote| remote.bandwidth = 50_000));
    world.run(500.0);
    assert!(remotes.iter().all(|&remote| world.remotes[remote].seen.count(16) <= 2));
    world.until(300.0, |world| remotes.iter().all(|&remote| world.remotes[remote].is_done()));
}

#[test]
fn two_seeds_that_both_hide_what_they_have_serve_and_part_in_the_end() {
    let mut swarm = Swarm::new(33, 8 * MIB, 256 * 1024);
    let seeds = [0, 1].map(|_| swarm.join(line(200), |_| true, |settings| settings.superseed = true));
    swarm.run(30.0);
    let crowd = swarm.leechers(4, line(400));
    swarm.finish(600.0, &crowd);
    swarm.run(700.0);
    assert!(seeds.iter().all(|&seed| swarm.nodes[seed].session.peer_count() == 0));
    let copies: f64 = seeds.iter().map(|&seed| swarm.copies(seed)).sum();
    assert!(copies < 2.2, "{copies}");
}

#[test]
fn it_can_be_turned_off_at_any_time() {
    let mut world = World::new(piece_by_piece());
    let torrent = world.seeded("one", 64 * MIB, 1 << 18);
    let remote = world.connect_as(Kind::Leecher, torrent, |remote| remote.bandwidth = 20_000);
    world.run(5.0);
    assert!(world.remotes[remote].seen.count(256) == 1);
    world.change(|settings| settings.superseed = false);
    world.until(30.0, |world| world.remotes[remote].seen.is_all());
    // And on: from the first peer of an empty swarm.
    world.change(|settings| settings.superseed = true);
    let late = world.connect(Kind::Leecher, torrent);
    world.run(1.0);
    assert!(world.remotes[late].seen.is_all());
    world.cut(remote);
    world.cut(late);
    world.run(5.0);
    let next = world.connect(Kind::Leecher, torrent);
    world.run(5.0);
    assert!(world.remotes[next].seen.count(256) < 30);
}

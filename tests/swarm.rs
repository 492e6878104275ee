//! Real sessions on a virtual clock and a virtual link, with a disk, trackers and peers that are good, slow or bad.
//!
//! No test here waits for anything: an hour of a swarm is a fraction of a second, and the same one each time.
#![allow(dead_code, reason = "the world can do more than each test asks for")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

#[path = "swarm/disk.rs"]
mod disk;
#[path = "swarm/remote.rs"]
mod remote;
#[path = "swarm/world.rs"]
mod world;

use meshseed::peer::Close;
use meshseed::session::Happened;
use meshseed::torrent::State;
use meshseed::tracker::Event as Told;
use remote::Kind;
use world::{Tracker, World, settings};

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;

#[test]
fn every_leecher_of_a_swarm_gets_all_of_it_though_there_are_few_slots() {
    let mut settings = settings();
    (settings.uploads, settings.uploads_per_torrent) = (3, 3);
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
    let sizes = [world.disk.torrents[one].len, world.disk.torrents[two].len];
    assert!(world.session.uploaded() >= 8 * sizes[0] + 4 * sizes[1]);
    assert!(world.session.uploaded() < 9 * sizes[0] + 5 * sizes[1], "{}", world.session.uploaded());
}

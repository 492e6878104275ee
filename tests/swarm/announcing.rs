//! What trackers hear, how often we wake up for it, and how it all ends.

use meshseed::session::{Happened, Session};
use meshseed::torrent::State;
use meshseed::tracker::Event as Told;

use crate::remote::Kind;
use crate::world::{Tracker, World, settings};
use crate::{GIB, KIB, MIB};

#[test]
fn one_dead_tracker_starves_nobody() {
    let mut world = World::new(settings());
    world.tracker("dead.example", Tracker::Dead(15));
    world.tracker("refuses.example", Tracker::Refuses);
    let urls =
        ["http://dead.example/announce", "http://refuses.example/announce", "http://good.example/announce"];
    let both = ["http://dead.example/announce", "http://good.example/announce"];
    for n in 0..90 {
        let name = format!("t{n}");
        let torrent = match n % 3 {
            0 => world.torrent_of(&name, &[64 * KIB], 1 << 14, &urls[..1]),
            1 => world.torrent_of(&name, &[64 * KIB], 1 << 14, &urls[2..]),
            _ => world.torrent_of(&name, &[64 * KIB], 1 << 14, &both),
        };
        world.insert(torrent);
    }
    let refused = world.torrent_of("refused", &[64 * KIB], 1 << 14, &urls[1..2]);
    world.insert(refused);
    world.run(60.0);
    let good: Vec<f64> =
        world.announces.iter().filter(|told| told.host == "good.example").map(|told| told.at).collect();
    assert_eq!(good.len(), 60);
    assert!(good[59] < 30.0, "the last was heard after {} s", good[59]);
    world.run(3600.0);
    let dead = world.announces.iter().filter(|told| told.host == "dead.example").count();
    assert!((3..=10).contains(&dead), "{dead} attempts at a dead tracker");
    let refused = world.announces.iter().filter(|told| told.host == "refuses.example").count();
    assert!((3..=10).contains(&refused), "{refused} attempts at one that refuses");
}

#[test]
fn an_idle_hour_of_a_hundred_torrents_is_a_hundred_wake_ups() {
    let mut world = World::new(settings());
    world.tracker("tracker.example", Tracker::Answers { interval: 300, peers: Vec::new() });
    for n in 0..100 {
        let torrent = world.torrent(&format!("t{n}"), 64 * KIB, 1 << 14);
        world.insert(torrent);
    }
    world.run(600.0);
    let (wake_ups, announces) = (world.wake_ups, world.announces.len());
    world.run(3600.0);
    // Sixty scans with a look for lost disks, and twelve bursts of announces.
    let wake_ups = world.wake_ups - wake_ups;
    assert!(wake_ups <= 100, "{wake_ups} wake-ups");
    assert!((1200..=1400).contains(&(world.announces.len() - announces)));
}

#[test]
fn an_idle_hour_with_peers_is_a_few_hundred_wake_ups() {
    let mut world = World::new(settings());
    let torrent = world.seeded("one", MIB, 1 << 18);
    for _ in 0..50 {
        world.connect(Kind::Idle, torrent);
    }
    world.run(100.0);
    let wake_ups = world.wake_ups;
    world.run(3600.0);
    let wake_ups = world.wake_ups - wake_ups;
    assert_eq!(world.session.peer_count(), 50);
    assert!(wake_ups <= 300, "{wake_ups} wake-ups");
}

#[test]
fn with_trackers_that_do_not_answer_there_is_rest_too() {
    let mut world = World::new(settings());
    world.tracker("tracker.example", Tracker::Dead(20));
    for n in 0..100 {
        let torrent = world.torrent(&format!("t{n}"), 64 * KIB, 1 << 14);
        world.insert(torrent);
    }
    world.run(3600.0);
    let wake_ups = world.wake_ups;
    world.run(3600.0);
    assert!(world.wake_ups - wake_ups <= 100, "{} wake-ups", world.wake_ups - wake_ups);
}

#[test]
fn who_is_removed_says_stopped_and_who_comes_back_says_started() {
    let mut world = World::new(settings());
    let torrent = world.seeded("one", MIB, 1 << 18);
    world.run(10.0);
    let remote = world.connect(Kind::Leecher, torrent);
    world.run(20.0);
    assert!(world.remotes[remote].is_done());
    world.remove(torrent);
    world.run(10.0);
    assert_eq!(world.told(torrent), [Told::Started, Told::Stopped]);
    world.insert(torrent);
    world.run(10.0);
    assert_eq!(world.told(torrent), [Told::Started, Told::Stopped, Told::Started]);
    assert_eq!(world.happened(torrent, Happened::Added), 2);
    world.run(3600.0);
    assert!(world.told(torrent)[3..].iter().all(|&event| event == Told::None));
}

#[test]
fn what_was_sent_is_told_since_the_start_and_kept_for_ever() {
    let mut world = World::new(settings());
    world.tracker("tracker.example", Tracker::Answers { interval: 300, peers: Vec::new() });
    let torrent = world.seeded("one", MIB, 1 << 18);
    let remote = world.connect(Kind::Leecher, torrent);
    world.until(60.0, |world| world.remotes[remote].is_done());
    world.run(400.0);
    let told = world.announces.last().unwrap();
    assert_eq!((told.totals.uploaded, told.totals.left), (MIB, 0));
    // One who is connected at the end counts as well.
    let last = world.connect_as(Kind::Leecher, torrent, |remote| remote.bandwidth = 50_000);
    world.run(10.0);
    let received = world.remotes[last].received;
    assert!(received > 300_000);
    world.shut_down();
    world.until(4.5, |world| world.session.is_shut_down());
    let uploaded = world.disk.written[&world.hash(torrent)].uploaded;
    assert!(uploaded >= MIB + received, "{uploaded} of {}", MIB + received);
    world.restart();
    world.insert(torrent);
    world.run(10.0);
    assert_eq!(world.announces[0].totals.uploaded, 0);
    assert_eq!(world.of(torrent).uploaded, uploaded);
}

#[test]
fn the_end_comes_in_time_though_trackers_hang() {
    let mut world = World::new(settings());
    let mut good = Vec::new();
    for n in 0..30 {
        let url =
            if n % 2 == 0 { format!("http://dead{n}.example/a") } else { "http://good.example/a".into() };
        let torrent = world.torrent_of(&format!("t{n}"), &[MIB], 1 << 18, &[&url]);
        world.insert(torrent);
        if n % 2 == 1 {
            good.push(torrent);
        }
    }
    let big = world.torrent("big", 100 * GIB, 4 << 20);
    world.insert(big);
    world.connect_as(Kind::Leecher, good[0], |remote| remote.bandwidth = 1000);
    world.run(30.0);
    for n in (0..30).step_by(2) {
        world.tracker(&format!("dead{n}.example"), Tracker::Dead(30));
    }
    world.shut_down();
    world.until(4.5, |world| world.session.is_shut_down());
    for &torrent in &good {
        assert_eq!(world.told(torrent), [Told::Started, Told::Stopped]);
    }
    assert_eq!(world.session.peer_count(), 0);
    // The check goes on where it was.
    let record = world.disk.written[&world.hash(big)].verified.clone().unwrap();
    assert!(record.have.count(record.pieces) > 200);
    assert!(world.act(Session::poll).is_none());
}

#[test]
fn what_changed_during_a_last_flush_is_written_by_another() {
    let mut world = World::new(settings());
    let torrent = world.seeded("one", MIB, 1 << 18);
    let other = world.seeded("other", MIB, 1 << 18);
    world.run(30.0);
    world.pause(torrent);
    world.until(6.0, |world| !world.disk.is_idle());
    world.disk.hung = true;
    world.run(1.0);
    world.pause(other);
    world.shut_down();
    world.run(0.5);
    assert!(!world.session.is_shut_down());
    world.revive_disk();
    world.until(2.0, |world| world.session.is_shut_down());
    assert!(world.disk.written.values().all(|record| record.paused));
}

#[test]
fn an_end_in_the_middle_of_the_start_does_not_read_all_torrents_first() {
    let mut world = World::new(settings());
    for n in 0..1000 {
        let torrent = world.torrent(&format!("t{n}"), 64 * KIB, 1 << 14);
        let path = world.disk.torrents[torrent].place.torrent.clone();
        world.session.submit(meshseed::storage::io::Job::Load { path });
    }
    world.act(|_, _| ());
    world.run(0.01);
    world.shut_down();
    world.until(0.1, |world| world.session.is_shut_down());
}

#[test]
fn a_changed_configuration_holds_at_once() {
    let mut world = World::new(settings());
    let torrent = world.seeded("one", 4 * MIB, 1 << 20);
    world.run(10.0);
    let idle: Vec<usize> = (0..6).map(|_| world.connect(Kind::Idle, torrent)).collect();
    world.run(5.0);
    // Fewer may come, those there stay.
    world.change(|settings| settings.peers = 3);
    let late = world.connect(Kind::Idle, torrent);
    world.run(5.0);
    assert!(world.why(late).is_some() && idle.iter().all(|&remote| world.why(remote).is_none()));
    world.change(|settings| settings.peers = 50);
    let friend = world.listen(Kind::Leecher, torrent);
    let addr = world.remotes[friend].addr;
    world.change(|settings| settings.static_peers = vec![addr]);
    world.run(5.0);
    assert_eq!(world.dials.len(), 1);
    assert!(world.remotes[friend].received > 0);
    world.change(|settings| settings.trackers = false);
    world.run(5.0);
    assert_eq!(world.told(torrent), [Told::Started, Told::Stopped]);
    world.run(3600.0);
    assert_eq!(world.announces.len(), 2);
    world.change(|settings| settings.trackers = true);
    world.change(|settings| settings.also = vec!["http://also.example/announce".into()]);
    world.run(10.0);
    let hosts: Vec<&str> = world.announces[2..].iter().map(|told| &*told.host).collect();
    assert!(hosts.contains(&"also.example") && hosts.contains(&"tracker.example"), "{hosts:?}");
    assert_eq!(world.state(torrent), State::Seeding);
}

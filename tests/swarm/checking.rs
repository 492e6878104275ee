//! Data: how it is checked, what is remembered of it, and what happens when it goes.

use std::collections::HashMap;

use meshseed::peer::Close;
use meshseed::session::Happened;
use meshseed::storage::io::Job;
use meshseed::torrent::State;
use meshseed::tracker::Event as Told;

use crate::remote::Kind;
use crate::world::{World, settings};
use crate::{GIB, KIB, MIB};

#[test]
fn a_thousand_torrents_start_without_a_storm() {
    let mut world = World::new(settings());
    let torrents: Vec<usize> =
        (0..1000).map(|n| world.torrent(&format!("t{n}"), 32 * KIB, 1 << 14)).collect();
    // The daemon reads them all after one scan.
    for &torrent in &torrents {
        let path = world.disk.torrents[torrent].place.torrent.clone();
        world.session.submit(Job::Load { path });
    }
    world.act(|_, _| ());
    world.until(120.0, |world| world.announces.len() >= 1000);
    world.run(60.0);
    let mut told: HashMap<_, usize> = HashMap::new();
    for announce in &world.announces {
        assert_eq!((announce.event, announce.totals.left), (Told::Started, 0));
        *told.entry(announce.torrent).or_default() += 1;
    }
    assert_eq!(told.len(), 1000);
    assert!(told.values().all(|&times| times == 1));
    assert!(world.disk.most_checks <= 4, "{} checks were given ahead", world.disk.most_checks);
    assert!(torrents.iter().all(|&torrent| world.state(torrent) == State::Seeding));
    assert!(world.disk.flushes <= 12, "{} flushes", world.disk.flushes);
    assert_eq!(world.disk.written.len(), 1000);
}

#[test]
fn after_a_restart_nothing_is_hashed_and_completed_is_never_said() {
    let mut world = World::new(settings());
    let torrents: Vec<usize> = (0..50).map(|n| world.torrent(&format!("t{n}"), MIB, 1 << 18)).collect();
    torrents.iter().for_each(|&torrent| world.insert(torrent));
    world.run(120.0);
    world.restart();
    let taken = world.disk.records_taken;
    world.disk.hashed.clear();
    torrents.iter().for_each(|&torrent| world.insert(torrent));
    world.run(10.0);
    assert!(world.disk.hashed.is_empty());
    assert!(torrents.iter().all(|&torrent| world.told(torrent) == [Told::Started]));
    world.run(7200.0);
    assert!(world.announces.iter().all(|announce| announce.event != Told::Completed));
    assert_eq!(world.disk.records_taken, taken, "records were written again");
}

#[test]
fn small_torrents_are_checked_before_a_big_one() {
    let mut world = World::new(settings());
    let big = world.torrent("big", 100 * GIB, 4 << 20);
    world.insert(big);
    world.run(10.0);
    let small: Vec<usize> = (0..20).map(|n| world.torrent(&format!("s{n}"), 2 * MIB, 1 << 18)).collect();
    small.iter().for_each(|&torrent| world.insert(torrent));
    world.run(10.0);
    assert!(small.iter().all(|&torrent| world.state(torrent) == State::Seeding));
    assert_eq!(world.state(big), State::Checking);
    world.until(3000.0, |world| world.state(big) == State::Seeding);
    assert_eq!(world.disk.hashed[&big], 100 * GIB);
}

#[test]
fn what_has_been_verified_so_far_is_announced_and_served() {
    let mut world = World::new(settings());
    let torrent = world.torrent("big", 512 * MIB, 1 << 18);
    world.disk.speed = 4 << 20;
    world.insert(torrent);
    world.until(60.0, |world| world.told(torrent) == [Told::Started]);
    assert_eq!(world.state(torrent), State::Checking);
    assert!(world.announces[0].totals.left > 256 * MIB);
    let early = world.connect_as(Kind::Leecher, torrent, |remote| remote.bandwidth = 4 << 20);
    // An old client, which sends its id when it has seen ours, half a second later.
    let late = world.connect_as(Kind::Leecher, torrent, |remote| {
        (remote.bandwidth, remote.fast) = (4 << 20, false);
        (remote.patient, remote.latency) = (true, std::time::Duration::from_millis(400));
    });
    world.run(60.0);
    for remote in [early, late] {
        let remote = &world.remotes[remote];
        assert!(remote.haves > 50 && remote.received > 5 * MIB, "{} {}", remote.haves, remote.received);
        let (seen, have) = (remote.seen.count(2048), world.of(torrent).have.count(2048));
        assert!(have - seen <= 12, "{seen} of {have} pieces are known to {}", remote.addr);
    }
    world.disk.speed = 400 << 20;
    world.until(120.0, |world| world.state(torrent) == State::Seeding);
    world.run(5.0);
    assert!(world.remotes[late].seen.is_all() && world.remotes[early].seen.is_all());
    // It was on the disk all the time.
    assert_eq!(world.told(torrent), [Told::Started]);
    assert_eq!(world.happened(torrent, Happened::Completed), 1);
}

#[test]
fn a_seed_that_stayed_during_a_check_is_left_when_all_is_there() {
    let mut world = World::new(settings());
    let torrent = world.torrent("big", GIB, 1 << 20);
    world.disk.speed = 20 << 20;
    world.insert(torrent);
    world.run(20.0);
    let seed = world.connect(Kind::Seed, torrent);
    world.run(5.0);
    assert_eq!(world.why(seed), None);
    world.until(120.0, |world| world.state(torrent) == State::Seeding);
    world.run(1.0);
    assert_eq!(world.why(seed), Some(&Close::BothSeeds));
}

#[test]
fn bad_pieces_are_not_served() {
    let mut world = World::new(settings());
    let torrent = world.torrent("bad", 4 * MIB, 1 << 18);
    world.disk.torrents[torrent].spoil(&[0, 7, 15]);
    world.insert(torrent);
    world.until(60.0, |world| world.state(torrent) == State::Downloading);
    let remote = world.connect(Kind::Leecher, torrent);
    world.run(60.0);
    assert_eq!(world.remotes[remote].received, 13 * 256 * KIB);
    assert_eq!(world.announces[0].totals.left, 3 * 256 * KIB);
}

#[test]
fn progress_is_put_on_record_once_a_minute_and_goes_on_after_a_crash() {
    let mut world = World::new(settings());
    let torrent = world.torrent("big", 20 * GIB, 4 << 20);
    world.insert(torrent);
    world.run(205.0);
    let taken = world.disk.records_taken;
    assert!((3..=5).contains(&taken), "{taken} records in 200 s");
    assert!(world.disk.flushes <= taken);
    let before = world.disk.hashed[&torrent];
    world.restart();
    world.insert(torrent);
    world.until(600.0, |world| world.state(torrent) == State::Seeding);
    let again = world.disk.hashed[&torrent] - 20 * GIB;
    assert!(again <= 70 * (50 << 20), "{again} of {before} bytes were hashed twice");
}

#[test]
fn changes_of_many_records_are_one_flush_and_an_idle_hour_writes_nothing() {
    let mut world = World::new(settings());
    let torrents: Vec<usize> = (0..100).map(|n| world.torrent(&format!("t{n}"), 64 * KIB, 1 << 14)).collect();
    torrents.iter().for_each(|&torrent| world.insert(torrent));
    world.run(60.0);
    let flushes = world.disk.flushes;
    assert!(flushes <= 2, "{flushes} flushes");
    for &torrent in &torrents {
        world.pause(torrent);
    }
    world.run(30.0);
    assert_eq!(world.disk.flushes, flushes + 1);
    assert!(world.disk.written.values().all(|record| record.paused));
    for &torrent in &torrents {
        world.resume(torrent);
    }
    world.run(30.0);
    let (flushes, taken) = (world.disk.flushes, world.disk.records_taken);
    world.run(3600.0);
    assert_eq!((world.disk.flushes, world.disk.records_taken), (flushes, taken));
}

#[test]
fn a_full_queue_of_the_storage_thread_delays_and_nothing_more() {
    let mut world = World::new(settings());
    let first = world.seeded("first", MIB, 1 << 18);
    // A record is to be written while the disk sleeps and the queue fills up.
    world.disk.hung = true;
    world.pause(first);
    let torrents: Vec<usize> = (0..200).map(|n| world.torrent(&format!("t{n}"), MIB, 1 << 18)).collect();
    for &torrent in &torrents {
        let path = world.disk.torrents[torrent].place.torrent.clone();
        world.session.submit(Job::Load { path });
    }
    world.act(|_, _| ());
    let wake_ups = world.wake_ups;
    world.run(300.0);
    assert!(world.wake_ups - wake_ups < 50, "{} wake-ups while the disk slept", world.wake_ups - wake_ups);
    world.revive_disk();
    world.until(120.0, |world| world.announces.len() >= 201);
    world.run(20.0);
    assert!(world.disk.written[&world.hash(first)].paused);
}

#[test]
fn a_flush_that_takes_long_is_waited_for() {
    let mut world = World::new(settings());
    let one = world.seeded("one", MIB, 1 << 18);
    let two = world.seeded("two", MIB, 1 << 18);
    world.run(30.0);
    world.pause(one);
    world.run(4.9);
    world.disk.hung = true;
    world.run(1.0);
    world.pause(two);
    let wake_ups = world.wake_ups;
    world.run(60.0);
    assert!(world.wake_ups - wake_ups < 20);
    world.revive_disk();
    world.run(10.0);
    assert!([one, two].iter().all(|&torrent| world.disk.written[&world.hash(torrent)].paused));
}

#[test]
fn a_disk_that_goes_is_waited_for_and_comes_back_without_hashing() {
    let mut world = World::new(settings());
    let torrents: Vec<usize> = (0..5).map(|n| world.seeded(&format!("t{n}"), 8 * MIB, 1 << 18)).collect();
    let remotes: Vec<usize> = torrents
        .iter()
        .map(|&torrent| world.connect_as(Kind::Leecher, torrent, |remote| remote.bandwidth = 20_000))
        .collect();
    world.run(20.0);
    world.disk.root_there = false;
    world.run(70.0);
    for (&torrent, &remote) in torrents.iter().zip(&remotes) {
        assert_eq!(world.state(torrent), State::WaitingForDisk);
        assert_eq!(world.why(remote), Some(&Close::TorrentStopped));
        assert_eq!(world.told(torrent), [Told::Started, Told::Stopped]);
        assert_eq!(world.happened(torrent, Happened::Error), 1);
        assert!(world.of(torrent).reason.contains("/mnt/disk"));
    }
    let refused = world.connect(Kind::Leecher, torrents[0]);
    world.run(600.0);
    assert_eq!(world.why(refused), Some(&Close::TorrentStopped));
    assert_eq!(world.happened(torrents[0], Happened::Error), 1);
    world.disk.hashed.clear();
    world.disk.root_there = true;
    world.run(70.0);
    for &torrent in &torrents {
        assert_eq!(world.state(torrent), State::Seeding);
        assert_eq!(world.told(torrent), [Told::Started, Told::Stopped, Told::Started]);
        assert_eq!(world.happened(torrent, Happened::Recovered), 1);
    }
    assert!(world.disk.hashed.is_empty());
    let late = world.connect(Kind::Leecher, torrents[0]);
    world.until(60.0, |world| world.remotes[late].is_done());
}

#[test]
fn data_that_once_was_whole_is_waited_for_and_part_of_it_comes_back_too() {
    let mut world = World::new(settings());
    let whole = world.seeded("whole", MIB, 1 << 18);
    let part = world.torrent("part", 4 * MIB, 1 << 18);
    world.disk.torrents[part].hold(2 * MIB);
    world.insert(part);
    world.run(60.0);
    for torrent in [whole, part] {
        world.disk.torrents[torrent].there = false;
    }
    world.run(130.0);
    assert_eq!((world.state(whole), world.state(part)), (State::WaitingForData, State::Downloading));
    assert!(world.of(part).have.is_none());
    for torrent in [whole, part] {
        world.disk.torrents[torrent].there = true;
    }
    world.run(130.0);
    assert_eq!((world.state(whole), world.state(part)), (State::Seeding, State::Downloading));
    let remote = world.connect(Kind::Leecher, part);
    world.run(30.0);
    assert_eq!(world.remotes[remote].received, 2 * MIB);
}

#[test]
fn an_io_error_parks_its_torrent_alone_and_is_met_ever_more_rarely() {
    let mut world = World::new(settings());
    let good = world.seeded("good", MIB, 1 << 18);
    let bad = world.seeded("bad", MIB, 1 << 18);
    world.disk.torrents[bad].broken = true;
    let remote = world.connect(Kind::Leecher, bad);
    world.run(5.0);
    assert_eq!(world.state(bad), State::Error);
    assert_eq!(world.why(remote), Some(&Close::TorrentStopped));
    assert!(world.of(bad).reason.contains("/mnt/disk/bad"), "{}", world.of(bad).reason);
    // Nothing can be looked at either.
    world.disk.torrents[bad].unreachable = true;
    world.disk.checks.clear();
    world.run(6.0 * 3600.0);
    let tries = world.disk.checks.iter().filter(|&&torrent| torrent == bad).count();
    assert!((5..=16).contains(&tries), "{tries} tries in six hours");
    assert_eq!(world.happened(bad, Happened::Error), 1);
    assert_eq!(world.state(good), State::Seeding);
    world.disk.torrents[bad].broken = false;
    world.disk.torrents[bad].unreachable = false;
    world.run(2.0 * 3600.0);
    assert_eq!(world.state(bad), State::Seeding);
    assert_eq!(world.happened(bad, Happened::Recovered), 1);
    let late = world.connect(Kind::Leecher, good);
    world.until(60.0, |world| world.remotes[late].is_done());
}

#[test]
fn data_that_can_be_looked_at_and_not_read_is_reported_once() {
    let mut world = World::new(settings());
    let bad = world.seeded("bad", MIB, 1 << 18);
    world.disk.torrents[bad].broken = true;
    // Somebody asks for it all the time.
    for _ in 0..240 {
        world.connect(Kind::Leecher, bad);
        world.run(60.0);
    }
    assert!(world.happened(bad, Happened::Error) <= 2, "{} reports", world.happened(bad, Happened::Error));
    let stops = world.told(bad).iter().filter(|&&event| event == Told::Stopped).count();
    assert!(stops <= 20, "{stops} times up and down");
}

#[test]
fn an_io_error_while_hashing_parks_the_torrent_and_others_are_checked() {
    let mut world = World::new(settings());
    let bad = world.torrent("bad", GIB, 1 << 20);
    let good = world.torrent("good", 2 * GIB, 1 << 20);
    world.insert(bad);
    world.insert(good);
    world.run(5.0);
    assert_eq!(world.state(bad), State::Checking);
    world.disk.torrents[bad].broken = true;
    world.until(120.0, |world| world.state(good) == State::Seeding);
    assert_eq!(world.state(bad), State::Error);
    world.disk.torrents[bad].broken = false;
    world.until(600.0, |world| world.state(bad) == State::Seeding);
    // What was hashed before the error counts, as far as it was on record.
    assert!(world.disk.hashed[&bad] <= GIB + 300 * MIB, "{}", world.disk.hashed[&bad]);
}

#[test]
fn running_out_of_descriptors_is_a_pause() {
    let mut world = World::new(settings());
    let torrent = world.seeded("one", 4 * MIB, 1 << 18);
    world.disk.no_descriptors = true;
    let remote = world.connect(Kind::Leecher, torrent);
    let other = world.torrent("other", GIB, 1 << 20);
    world.insert(other);
    world.run(150.0);
    assert_eq!(world.state(torrent), State::Seeding);
    assert_eq!((world.why(remote), world.remotes[remote].received), (None, 0));
    assert_eq!(world.happened(torrent, Happened::Error) + world.happened(other, Happened::Error), 0);
    world.disk.no_descriptors = false;
    world.run(3.0);
    assert!(world.remotes[remote].received > 0);
    world.until(60.0, |world| world.state(other) == State::Seeding);
    // And in the middle of both.
    let remote = world.connect_as(Kind::Leecher, other, |remote| remote.bandwidth = 100_000);
    let third = world.torrent("third", GIB, 1 << 20);
    world.insert(third);
    world.run(3.0);
    world.disk.no_descriptors = true;
    world.run(100.0);
    assert_eq!(world.state(third), State::Checking);
    world.disk.no_descriptors = false;
    world.until(60.0, |world| world.state(third) == State::Seeding);
    assert_eq!(world.why(remote), None);
}

#[test]
fn data_that_grows_is_hashed_when_it_holds_still() {
    let mut world = World::new(settings());
    let torrent = world.torrent("growing", GIB, 1 << 20);
    world.disk.torrents[torrent].there = false;
    world.insert(torrent);
    world.run(90.0);
    world.disk.hashed.clear();
    world.disk.torrents[torrent].there = true;
    for step in 1..=60 {
        world.disk.torrents[torrent].hold(GIB / 60 * step);
        world.disk.torrents[torrent].mtime += 5;
        world.run(5.0);
    }
    world.disk.torrents[torrent].hold(GIB);
    world.disk.torrents[torrent].mtime += 1;
    let hashed = world.disk.hashed.get(&torrent).copied().unwrap_or(0);
    assert!(hashed <= GIB / 10, "{hashed} bytes were hashed while it grew");
    world.until(120.0, |world| world.state(torrent) == State::Seeding);
    assert!(world.disk.hashed[&torrent] - hashed <= GIB);
    assert_eq!(world.told(torrent), [Told::Started]);
}

#[test]
fn data_that_changes_while_it_is_served_is_hashed_again() {
    let mut world = World::new(settings());
    let torrent = world.seeded("one", 8 * MIB, 1 << 18);
    world.disk.torrents[torrent].spoil(&[3]);
    world.disk.torrents[torrent].mtime += 9;
    let remote = world.connect(Kind::Leecher, torrent);
    world.until(60.0, |world| world.state(torrent) == State::Incomplete);
    assert_eq!(world.why(remote), Some(&Close::TorrentStopped));
    let late = world.connect(Kind::Leecher, torrent);
    world.run(30.0);
    assert_eq!(world.remotes[late].received, 31 * 256 * KIB);
    // It is whole no more, and wants nothing: trackers are told both.
    world.run(3600.0);
    let told = world.announces.last().unwrap().totals;
    assert!(told.partial && told.left == 256 * KIB, "{told:?}");
}

#[test]
fn a_pause_holds_over_restarts_and_a_resume_too() {
    let mut world = World::new(settings());
    let torrent = world.seeded("one", 4 * MIB, 1 << 18);
    let remote = world.connect_as(Kind::Leecher, torrent, |remote| remote.bandwidth = 20_000);
    world.run(10.0);
    world.pause(torrent);
    world.run(10.0);
    assert_eq!((world.state(torrent), world.why(remote)), (State::Paused, Some(&Close::TorrentStopped)));
    assert_eq!(world.told(torrent), [Told::Started, Told::Stopped]);
    world.run(300.0);
    world.restart();
    world.insert(torrent);
    world.run(300.0);
    assert_eq!((world.state(torrent), world.announces.len()), (State::Paused, 0));
    world.disk.hashed.clear();
    world.resume(torrent);
    world.run(10.0);
    assert_eq!(world.state(torrent), State::Seeding);
    assert!(world.disk.hashed.is_empty());
    world.restart();
    world.insert(torrent);
    world.run(10.0);
    assert_eq!(world.state(torrent), State::Seeding);
}

#[test]
fn what_the_user_says_before_the_record_is_read_holds_and_the_record_is_kept() {
    for jobs_before in [0, 1] {
        let mut world = World::new(settings());
        let paused = world.seeded("paused", 4 * MIB, 1 << 18);
        let running = world.seeded("running", 4 * MIB, 1 << 18);
        let remote = world.connect(Kind::Leecher, running);
        world.until(60.0, |world| world.remotes[remote].is_done());
        world.pause(paused);
        world.pause(running);
        world.resume(running);
        world.run(20.0);
        let completed = world.disk.record(running).unwrap().completed;
        assert!(completed > 0 && world.disk.record(running).unwrap().uploaded >= 4 * MIB);
        world.restart();
        world.disk.hung = jobs_before == 0;
        world.disk.hashed.clear();
        world.insert(paused);
        world.insert(running);
        world.act(|_, _| ());
        world.resume(paused);
        world.pause(running);
        world.revive_disk();
        world.run(20.0);
        assert_eq!((world.state(paused), world.state(running)), (State::Seeding, State::Paused));
        let record = world.disk.record(running).unwrap();
        assert!(record.paused && record.complete && record.verified.is_some());
        assert_eq!(record.completed, completed);
        assert!(record.uploaded >= 4 * MIB);
        assert!(!world.disk.record(paused).unwrap().paused);
        assert!(world.disk.hashed.is_empty());
        world.restart();
        world.insert(paused);
        world.insert(running);
        world.run(20.0);
        assert_eq!((world.state(paused), world.state(running)), (State::Seeding, State::Paused));
    }
}

#[test]
fn a_pause_during_a_check_keeps_what_was_done_of_it() {
    let mut world = World::new(settings());
    let torrent = world.torrent("big", 2 * GIB, 1 << 20);
    world.insert(torrent);
    world.run(30.0);
    world.pause(torrent);
    assert_eq!(world.state(torrent), State::Paused);
    world.run(100.0);
    assert_eq!(world.state(torrent), State::Paused);
    world.resume(torrent);
    world.until(120.0, |world| world.state(torrent) == State::Seeding);
    let hashed = world.disk.hashed[&torrent];
    assert!(hashed <= 2 * GIB + 100 * MIB, "{hashed} bytes were hashed");
}

#[test]
fn a_check_that_is_begun_anew_misses_no_piece() {
    for after in [0.05, 1.0, 3.33, 7.01] {
        let mut world = World::new(settings());
        let torrent = world.torrent("big", GIB, 1 << 20);
        let second = world.torrent("second", GIB, 1 << 20);
        world.insert(torrent);
        world.insert(second);
        world.run(after);
        let hash = world.hash(torrent);
        // Half of the times a slice of the old check is given already and comes after the new look at the files.
        world.disk.hung = after < 2.0;
        world.run(1.0);
        assert!(world.act(|session, _| session.verify(hash)));
        world.revive_disk();
        world.run(0.1);
        if after > 5.0 {
            world.pause(torrent);
            world.resume(torrent);
        }
        world.until(120.0, |world| world.state(torrent) == State::Seeding);
        world.until(120.0, |world| world.state(second) == State::Seeding);
    }
}

#[test]
fn verify_hashes_all_and_serves_only_what_it_found_right() {
    let mut world = World::new(settings());
    let torrent = world.seeded("one", 512 * MIB, 1 << 20);
    world.disk.hashed.clear();
    let remote = world.connect_as(Kind::Leecher, torrent, |remote| remote.bandwidth = 200_000);
    world.run(10.0);
    // Nobody can see it by the stamps.
    world.disk.torrents[torrent].spoil(&[5, 500]);
    let hash = world.hash(torrent);
    assert!(world.act(|session, _| session.verify(hash)));
    world.run(3.0);
    assert_eq!(world.state(torrent), State::Checking);
    let during = world.connect(Kind::Leecher, torrent);
    world.until(60.0, |world| world.state(torrent) == State::Incomplete);
    assert_eq!(world.disk.hashed[&torrent], 512 * MIB);
    assert_eq!(world.of(torrent).have.count(512), 510);
    // Whoever was told that we have everything had to go.
    assert_eq!(world.why(remote), Some(&Close::TorrentStopped));
    world.run(1.0);
    assert_eq!(world.remotes[during].seen.count(512), 510);
    world.disk.torrents[torrent].hold(512 * MIB);
    assert!(world.act(|session, _| session.verify(hash)));
    world.until(60.0, |world| world.state(torrent) == State::Seeding);
}

#[test]
fn a_torrent_that_moves_goes_on_as_it_was() {
    let mut world = World::new(settings());
    let torrent = world.seeded("one", 4 * MIB, 1 << 18);
    let checking = world.torrent("big", 2 * GIB, 1 << 20);
    world.insert(checking);
    let remote = world.connect_as(Kind::Leecher, torrent, |remote| remote.bandwidth = 100_000);
    world.run(10.0);
    world.disk.hashed.remove(&torrent);
    world.moved(torrent, "/etc/torrents/elsewhere/renamed.torrent");
    world.moved(checking, "/etc/torrents/elsewhere/big.torrent");
    world.until(120.0, |world| world.remotes[remote].is_done() && world.state(checking) == State::Seeding);
    assert_eq!(world.told(torrent), [Told::Started]);
    assert!(!world.disk.hashed.contains_key(&torrent));
    assert_eq!(world.disk.hashed[&checking], 2 * GIB);
    let data = world.disk.torrents[torrent].place.data.clone();
    assert_eq!(world.disk.record(torrent).unwrap().data, Some(data));
}

#[test]
fn a_removal_while_the_disk_works_is_harmless() {
    let mut world = World::new(settings());
    world.disk.small_cache = true;
    let names = ["reading", "checking", "waiting", "stays"];
    let torrents: Vec<usize> = names.iter().map(|name| world.torrent(name, GIB, 1 << 20)).collect();
    let [reading, checking, waiting, stays] = torrents[..] else { unreachable!() };
    world.insert(reading);
    world.until(60.0, |world| world.state(reading) == State::Seeding);
    let remote = world.connect(Kind::Leecher, reading);
    [checking, waiting, stays].iter().for_each(|&torrent| world.insert(torrent));
    world.run(5.0);
    world.disk.hung = true;
    world.run(1.0);
    for torrent in [reading, checking, waiting] {
        world.remove(torrent);
    }
    world.run(1.0);
    assert_eq!(world.why(remote), Some(&Close::TorrentStopped));
    world.revive_disk();
    world.run(5.0);
    // The same torrents again, as new ones.
    for torrent in [reading, checking, waiting] {
        world.insert(torrent);
    }
    world.until(300.0, |world| torrents.iter().all(|&torrent| world.state(torrent) == State::Seeding));
    assert_eq!(world.happened(reading, Happened::Removed), 1);
    world.remotes[remote].again();
    world.connect_again(remote);
    world.run(5.0);
    assert!(!world.remotes[remote].choked);
}

#[test]
fn what_a_removed_torrent_had_done_is_on_record() {
    let mut world = World::new(settings());
    let torrent = world.torrent("big", 2 * GIB, 1 << 20);
    world.insert(torrent);
    world.run(30.0);
    let remote = world.connect(Kind::Leecher, torrent);
    world.run(5.0);
    let received = world.remotes[remote].received;
    world.remove(torrent);
    world.run(20.0);
    world.insert(torrent);
    world.until(120.0, |world| world.state(torrent) == State::Seeding);
    let hashed = world.disk.hashed[&torrent];
    assert!(hashed <= 2 * GIB + 100 * MIB, "{hashed} bytes were hashed");
    assert!(world.of(torrent).uploaded >= received);
}

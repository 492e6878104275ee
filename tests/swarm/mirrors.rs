//! A node that fetches, in a life of its own: full disks, lost disks, pauses, restarts and power cuts.

use meshseed::session::Happened;
use meshseed::torrent::State;
use meshseed::tracker::Event as Told;

use crate::mesh::{Swarm, line, ratio};
use crate::world::World;
use crate::{KIB, MIB};

/// A seed and one that has got about a third of it.
fn third(seed: u64) -> (Swarm, usize) {
    let mut swarm = Swarm::new(seed, 24 * MIB, 256 * 1024);
    swarm.seed(line(400));
    let node = swarm.leecher(line(400));
    swarm.run(30.0);
    let have = swarm.nodes[node].of(0).have_bytes();
    assert!((4 * MIB..16 * MIB).contains(&have), "{have} bytes");
    (swarm, node)
}

fn pause(swarm: &mut World, node: usize, paused: bool) {
    swarm.with(node, |node, now| {
        let hash = node.hash(0);
        assert!(if paused { node.session.pause(hash, now) } else { node.session.resume(hash, now) });
    });
}

#[test]
fn what_was_missing_is_fetched_told_and_put_on_record() {
    let (mut swarm, node) = third(21);
    let peer = swarm.leecher(line(400));
    swarm.finish(300.0, &[node, peer]);
    swarm.run(20.0);
    let node = &swarm.nodes[node];
    assert_eq!(node.told(0), [Told::Started, Told::Completed]);
    assert_eq!(node.happened(0, Happened::Completed), 1);
    assert_eq!(node.announces[0].totals.left, 24 * MIB);
    assert_eq!(node.announces[1].totals.left, 0);
    assert!(node.announces[1].totals.downloaded >= 24 * MIB);
    let record = &node.disk.written[&node.hash(0)];
    assert!(record.complete && record.completed > 0 && record.downloaded >= 24 * MIB);
    assert!(!record.open && record.verified.as_ref().unwrap().have.is_all());
    // At most one a minute, one at the end, and what goes with it.
    assert!(node.disk.flushes <= 5, "{} flushes", node.disk.flushes);
}

#[test]
fn fetching_takes_some_wake_ups_a_second_and_when_it_is_done_there_is_rest() {
    let mut swarm = Swarm::new(30, 24 * MIB, 256 * 1024);
    swarm.seed(line(800));
    let nodes = swarm.leechers(6, line(800));
    swarm.finish(300.0, &nodes);
    for &node in &nodes {
        let rate = ratio(swarm.nodes[node].wake_ups, 1) / swarm.done_at(node);
        println!("{rate:.0} wake-ups a second");
        assert!(rate < 5.0, "{rate} wake-ups of the main loop a second");
    }
    swarm.run(600.0);
    let figures = |swarm: &Swarm| -> Vec<(u64, u64, u64)> {
        let disk = |node: usize| &swarm.nodes[node].disk;
        let figures =
            |&node: &usize| (swarm.nodes[node].wake_ups, disk(node).flushes, disk(node).records_taken);
        nodes.iter().map(figures).collect()
    };
    let before = figures(&swarm);
    swarm.run(3600.0);
    for (before, after) in before.into_iter().zip(figures(&swarm)) {
        assert!(after.0 - before.0 <= 100, "{} wake-ups in an idle hour", after.0 - before.0);
        assert_eq!((before.1, before.2), (after.1, after.2), "something was written in an idle hour");
    }
}

#[test]
fn a_pause_in_the_middle_keeps_what_there_is() {
    let (mut swarm, node) = third(22);
    pause(&mut swarm, node, true);
    swarm.run(60.0);
    let have = swarm.nodes[node].of(0).have_bytes();
    let downloaded = swarm.nodes[node].session.downloaded();
    assert_eq!(swarm.nodes[node].state(0), State::Paused);
    assert_eq!(swarm.nodes[node].session.peer_count(), 0);
    swarm.run(300.0);
    assert_eq!(swarm.nodes[node].session.downloaded(), downloaded);
    pause(&mut swarm, node, false);
    swarm.finish(600.0, &[node]);
    let again = swarm.nodes[node].session.downloaded() - downloaded;
    assert!(again <= 24 * MIB - have + MIB, "{again} bytes after {have}");
    assert!(swarm.nodes[node].disk.hashed.is_empty(), "{:?}", swarm.nodes[node].disk.hashed);
}

#[test]
fn one_that_is_removed_and_comes_back_goes_on() {
    let (mut swarm, node) = third(23);
    let have = swarm.nodes[node].of(0).have_bytes();
    swarm.with(node, |node, now| node.session.remove(node.hash(0), now));
    swarm.run(30.0);
    let downloaded = swarm.nodes[node].session.downloaded();
    swarm.with(node, |node, now| node.insert(0, now));
    swarm.finish(600.0, &[node]);
    let again = swarm.nodes[node].session.downloaded() - downloaded;
    assert!(again <= 24 * MIB - have + MIB, "{again} bytes after {have}");
}

#[test]
fn after_an_end_nothing_is_fetched_twice_nor_hashed() {
    let (mut swarm, node) = third(24);
    let have = swarm.nodes[node].of(0).have_bytes();
    swarm.of_node(node).stopping = true;
    swarm.with(node, |node, now| node.session.shut_down(now));
    swarm.run(5.0);
    assert!(swarm.nodes[node].session.is_shut_down());
    swarm.restart_node(node);
    swarm.with(node, |node, now| node.insert(0, now));
    swarm.finish(600.0, &[node]);
    let again = swarm.nodes[node].session.downloaded();
    assert!(again <= 24 * MIB - have + MIB, "{again} bytes after {have}");
    assert!(swarm.nodes[node].disk.hashed.is_empty(), "{:?}", swarm.nodes[node].disk.hashed);
}

#[test]
fn a_crash_costs_no_byte_that_was_written_and_a_power_cut_what_was_not_on_record() {
    for power in [false, true] {
        for after in [50.0, 3.0, 11.0, 70.0, 0.4] {
            let mut swarm = Swarm::new(25, 24 * MIB, 256 * 1024);
            swarm.seed(line(200));
            let node = swarm.leecher(line(200));
            swarm.run(20.0 + after);
            let have = swarm.nodes[node].of(0).have_bytes();
            if power {
                swarm.of_node(node).disk.cut_power();
            }
            swarm.restart_node(node);
            swarm.with(node, |node, now| node.insert(0, now));
            swarm.finish(600.0, &[node]);
            let again = swarm.nodes[node].session.downloaded();
            // Records are written once a minute.
            let lost = if power { have.min(70 * 200 * KIB) } else { MIB };
            assert!(again <= 24 * MIB - have + lost + MIB, "{again} bytes after {have} ({power}, {after})");
            let hashed = swarm.nodes[node].disk.hashed.get(&0).copied().unwrap_or(0);
            assert!(hashed <= have, "{hashed} bytes were hashed");
        }
    }
}

#[test]
fn a_look_at_what_is_not_there_yet_keeps_nothing_from_being_fetched() {
    let mut swarm = Swarm::new(31, 2 * MIB, 64 * 1024);
    let node = swarm.leecher(line(400));
    swarm.run(10.0);
    assert!(swarm.with(node, |node, _| node.session.verify(node.hash(0))));
    swarm.run(10.0);
    assert_eq!(swarm.nodes[node].state(0), State::Downloading);
    swarm.seed(line(400));
    swarm.finish(400.0, &[node]);
}

#[test]
fn a_full_disk_holds_up_fetching_alone_and_until_there_is_room() {
    let (mut swarm, node) = third(26);
    let have = swarm.nodes[node].of(0).have_bytes();
    swarm.of_node(node).disk.free = 2 * MIB;
    swarm.of_node(node).disk.floor = MIB;
    swarm.run(60.0);
    let of = swarm.nodes[node].of(0);
    assert_eq!(of.state, State::Incomplete);
    assert!(of.reason.contains("/mnt/disk") && of.have_bytes() >= have, "{}", of.reason);
    assert!(swarm.nodes[node].disk.free >= MIB, "below the floor");
    assert_eq!(swarm.nodes[node].happened(0, Happened::Error), 1);
    // What there is of it is served.
    let (downloaded, before) = (swarm.nodes[node].session.downloaded(), of.have_bytes());
    let peer = swarm.leecher(line(400));
    swarm.vanish(0);
    for spare in 0..10 {
        swarm.of_node(node).disk.free = MIB + spare * MIB / 4;
        swarm.run(60.0);
    }
    assert!(swarm.nodes[peer].of(0).have_bytes() >= before - MIB);
    assert_eq!(swarm.nodes[node].session.downloaded(), downloaded, "what is there no room for was fetched");
    assert_eq!(swarm.nodes[node].happened(0, Happened::Error), 1);
    swarm.of_node(node).disk.free = 100 * MIB;
    swarm.seed(line(400));
    swarm.finish(900.0, &[node, peer]);
    assert_eq!(swarm.nodes[node].happened(0, Happened::Recovered), 1);
    let again = swarm.nodes[node].session.downloaded() - downloaded;
    assert!(again <= 24 * MIB - before + MIB, "{again} bytes after {before}");
}

#[test]
fn a_disk_that_goes_is_waited_for_and_the_swarm_goes_on() {
    let (mut swarm, node) = third(27);
    let peers = swarm.leechers(3, line(400));
    swarm.run(10.0);
    swarm.of_node(node).disk.root_there = false;
    swarm.finish(300.0, &peers);
    assert_eq!(swarm.nodes[node].state(0), State::WaitingForDisk);
    assert!(swarm.nodes[node].told(0).ends_with(&[Told::Stopped]));
    swarm.run(120.0);
    let downloaded = swarm.nodes[node].session.downloaded();
    swarm.of_node(node).disk.root_there = true;
    swarm.finish(400.0, &[node]);
    let again = swarm.nodes[node].session.downloaded() - downloaded;
    assert!(again <= 20 * MIB, "{again} bytes were fetched after it came back");
    assert_eq!(swarm.nodes[node].happened(0, Happened::Recovered), 1);
}

#[test]
fn a_disk_that_cannot_be_written_parks_its_torrent_and_what_is_there_is_served() {
    let (mut swarm, node) = third(28);
    swarm.of_node(node).disk.read_only = true;
    swarm.run(120.0);
    let of = swarm.nodes[node].of(0);
    assert!(of.state == State::Incomplete && of.reason.contains("read-only"), "{} {}", of.state, of.reason);
    let (have, downloaded) = (of.have_bytes(), swarm.nodes[node].session.downloaded());
    swarm.vanish(0);
    let peer = swarm.leecher(line(400));
    swarm.run(300.0);
    assert!(swarm.nodes[peer].of(0).have_bytes() >= have - MIB);
    assert_eq!(swarm.nodes[node].session.downloaded(), downloaded);
    swarm.of_node(node).disk.read_only = false;
    swarm.seed(line(400));
    swarm.finish(900.0, &[node, peer]);
}

#[test]
fn data_that_was_whole_and_goes_is_fetched_again_only_when_the_user_says_so() {
    let (mut swarm, node) = third(29);
    swarm.finish(300.0, &[node]);
    swarm.run(20.0);
    swarm.of_node(node).disk.torrents[0].clear();
    swarm.run(200.0);
    assert_eq!(swarm.nodes[node].state(0), State::WaitingForData);
    let downloaded = swarm.nodes[node].session.downloaded();
    swarm.run(600.0);
    assert_eq!(swarm.nodes[node].session.downloaded(), downloaded);
    pause(&mut swarm, node, false);
    swarm.finish(400.0, &[node]);
}

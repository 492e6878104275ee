//! Torrents that only a magnet link names: their metadata comes from peers, whoever lies, refuses or goes.

use meshseed::peer::Close;
use meshseed::session::Happened;
use meshseed::torrent::State;

use crate::MIB;
use crate::mesh::{IT, Swarm, line};
use crate::net::{End, Line};

/// A swarm whose metadata has some fifty kilobytes.
fn swarm(seed: u64) -> Swarm {
    Swarm::new(seed, 80 * MIB, 32 * 1024)
}

/// A seed whose metadata is of the right size and wrong.
fn liar(swarm: &mut Swarm, line: Line) -> usize {
    let node = swarm.arrive(line, |_| true, |_| {});
    let torrent = &mut swarm.of_node(node).disk.torrents[IT];
    let middle = torrent.bytes.len() / 2;
    torrent.bytes[middle] ^= 1;
    swarm.with(node, |node, now| node.insert(IT, now));
    node
}

/// A seed that says its metadata is larger than it is.
fn boaster(swarm: &mut Swarm, line: Line) -> usize {
    let node = swarm.arrive(line, |_| true, |_| {});
    let torrent = &mut swarm.of_node(node).disk.torrents[IT];
    torrent.bytes.resize(12 << 20, b'x');
    torrent.metainfo.info_at.end = 12 << 20;
    swarm.with(node, |node, now| node.insert(IT, now));
    node
}

fn has_metadata(swarm: &Swarm, node: usize) -> bool {
    swarm.nodes[node].of(IT).metadata.is_none()
}

#[test]
fn a_link_becomes_a_torrent_and_the_torrent_is_fetched_over_the_same_connections() {
    let mut swarm = swarm(31);
    let seed = swarm.seed(line(4000));
    let node = swarm.linked(line(4000));
    swarm.run(1.0);
    assert_eq!(swarm.nodes[node].state(IT), State::FetchingMetadata);
    // A tracker takes one that lacks nothing for a seed.
    assert!(swarm.nodes[node].announces.iter().all(|told| told.totals.left > 0));
    swarm.finish(200.0, &[node]);
    assert!(swarm.nodes[node].of(IT).name.as_ref() == "swarm" && swarm.copies(seed) < 1.1);
    assert_eq!(swarm.nodes[node].happened(IT, Happened::Completed), 1);
    let parted: Vec<&Close> = swarm.nodes[node].closed.iter().map(|(_, why)| why).collect();
    assert!(
        parted.iter().all(|why| matches!(why, Close::BothSeeds | Close::Duplicate | Close::Gone)),
        "{parted:?}"
    );
    let told = swarm.nodes[node].told(IT);
    assert!(told.len() <= 3, "started, and completed: {told:?}");
}

#[test]
fn who_has_just_got_the_metadata_gives_it_to_others() {
    let mut swarm = swarm(32);
    let seed = swarm.seed(line(500));
    let first = swarm.linked(line(500));
    swarm.until(60.0, |world| world.nodes[first].of(IT).metadata.is_none());
    swarm.vanish(seed);
    let second = swarm.linked(line(500));
    swarm.until(60.0, |world| world.nodes[second].of(IT).metadata.is_none());
    assert!(swarm.nodes[first].disk.metadata_reads >= 3);
}

#[test]
fn those_who_wait_for_it_together_are_told_when_one_has_it() {
    let mut swarm = swarm(33);
    let links: Vec<usize> = (0..3).map(|_| swarm.linked(line(500))).collect();
    swarm.run(60.0);
    assert!(links.iter().all(|&node| !has_metadata(&swarm, node)));
    let wake_ups = |swarm: &Swarm| swarm.nodes[links[0]].wake_ups;
    let before = wake_ups(&swarm);
    swarm.run(600.0);
    assert!(wake_ups(&swarm) - before < 150, "{} wake-ups of waiting", wake_ups(&swarm) - before);
    swarm.seed(line(500));
    swarm.finish(900.0, &links);
}

#[test]
fn the_only_one_who_has_it_lies_and_is_banned_and_the_honest_one_who_comes_is_asked() {
    let mut swarm = swarm(34);
    let liar = liar(&mut swarm, line(500));
    let node = swarm.linked(line(500));
    swarm.run(60.0);
    assert_eq!(swarm.nodes[node].parted(End::Node(liar)), Some(&Close::Liar));
    assert!(!has_metadata(&swarm, node));
    swarm.seed(line(500));
    swarm.until(400.0, |world| world.nodes[node].of(IT).metadata.is_none());
}

#[test]
fn liars_among_the_honest_are_found_and_the_honest_are_not_banned() {
    let mut swarm = swarm(35);
    liar(&mut swarm, line(500));
    liar(&mut swarm, line(500));
    let honest: Vec<usize> = (0..2).map(|_| swarm.seed(line(500))).collect();
    let nodes: Vec<usize> = (0..4).map(|_| swarm.linked(line(500))).collect();
    swarm.run(120.0);
    for &node in &nodes {
        assert!(has_metadata(&swarm, node), "{node}");
        for &(end, ref why) in &swarm.nodes[node].closed {
            let is_honest = honest.iter().any(|&honest| end == End::Node(honest));
            assert!(!is_honest || *why != Close::Liar, "{end:?} is honest, and was banned by {node}");
        }
    }
}

#[test]
fn one_that_claims_far_more_than_there_is_costs_no_more_than_it_sends() {
    let mut swarm = swarm(36);
    boaster(&mut swarm, line(50));
    let node = swarm.linked(line(500));
    swarm.run(20.0);
    assert!(!has_metadata(&swarm, node));
    let came = swarm.nodes[node].of(IT).metadata.as_ref().map(|missing| missing.gathering.memory());
    assert!(came.is_some_and(|came| (1024..4 << 20).contains(&came)), "{came:?}");
    // It is asked on; what it gives is wrong, and it is banned for that.
    swarm.run(400.0);
    swarm.seed(line(500));
    swarm.until(400.0, |world| world.nodes[node].of(IT).metadata.is_none());
}

#[test]
fn where_memory_has_no_room_for_it_that_is_said() {
    let mut swarm = swarm(37);
    boaster(&mut swarm, line(500));
    let node = swarm.arrive(line(500), |_| false, |settings| settings.memory = 8 << 20);
    swarm.with(node, |node, now| node.insert_link(IT, now));
    swarm.run(30.0);
    assert!(swarm.nodes[node].of(IT).reason.contains("no room"), "{}", swarm.nodes[node].of(IT).reason);
    swarm.seed(line(500));
    swarm.until(400.0, |world| world.nodes[node].of(IT).metadata.is_none());
    assert!(!swarm.nodes[node].of(IT).reason.contains("no room"));
}

#[test]
fn one_that_goes_in_the_middle_leaves_the_rest_to_others() {
    let mut swarm = swarm(38);
    let slow = swarm.seed(line(4));
    let node = swarm.linked(line(500));
    swarm.until(60.0, |world| world.nodes[slow].disk.metadata_reads > 0);
    swarm.seed(line(500));
    swarm.vanish(slow);
    swarm.until(400.0, |world| world.nodes[node].of(IT).metadata.is_none());
}

#[test]
fn a_link_that_is_paused_asks_for_nothing_and_goes_on_when_it_is_resumed() {
    let mut swarm = swarm(39);
    let node = swarm.linked(line(500));
    let hash = swarm.nodes[node].hash(IT);
    swarm.run(5.0);
    assert!(swarm.with(node, |node, now| node.session.pause(hash, now)));
    swarm.seed(line(500));
    swarm.run(60.0);
    assert_eq!((swarm.nodes[node].state(IT), has_metadata(&swarm, node)), (State::Paused, false));
    assert!(swarm.with(node, |node, now| node.session.resume(hash, now)));
    swarm.until(400.0, |world| world.nodes[node].of(IT).metadata.is_none());
}

#[test]
fn what_cannot_be_written_is_said_and_tried_again() {
    let mut swarm = swarm(40);
    swarm.seed(line(500));
    let node = swarm.linked(line(500));
    swarm.of_node(node).disk.read_only = true;
    swarm.until(60.0, |world| world.nodes[node].state(IT) == State::Error);
    assert!(swarm.nodes[node].of(IT).reason.contains("cannot be written"));
    swarm.of_node(node).disk.read_only = false;
    swarm.until(400.0, |world| world.nodes[node].of(IT).metadata.is_none());
    assert_eq!(swarm.nodes[node].happened(IT, Happened::Recovered), 1);
}

#[test]
fn a_restart_in_the_middle_begins_anew_and_ends_well() {
    let mut swarm = swarm(41);
    swarm.seed(line(8));
    let node = swarm.linked(line(500));
    swarm.until(60.0, |world| {
        world.nodes[node].of(IT).metadata.as_ref().is_some_and(|missing| missing.gathering.progress().0 > 0)
    });
    swarm.restart_node(node);
    swarm.with(node, |node, now| node.insert_link(IT, now));
    swarm.until(400.0, |world| world.nodes[node].of(IT).metadata.is_none());
}

#[test]
fn metadata_is_given_within_the_upload_limit() {
    let mut swarm = swarm(42);
    let seed = swarm.join(line(4000), |_| true, |settings| settings.upload = 4096);
    let node = swarm.linked(line(4000));
    swarm.until(120.0, |world| world.nodes[node].of(IT).metadata.is_none());
    let reads = swarm.nodes[seed].disk.metadata_reads;
    // A burst of 128 KiB passes at once: 50 KB are less. All of it is counted, and what is sent later waits for it.
    assert!((3..=5).contains(&reads), "{reads}");
}

#[test]
fn over_the_slowest_link_it_comes_all_the_same() {
    let mut swarm = swarm(46);
    swarm.seed(line(1));
    let node = swarm.linked(line(500));
    swarm.until(400.0, |world| world.nodes[node].of(IT).metadata.is_none());
}

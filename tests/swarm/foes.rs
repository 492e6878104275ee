//! Peers that lie, vanish or stall, and networks that fall apart: what is right arrives all the same.

use meshseed::peer::Close;

use crate::mesh::{Swarm, line};
use crate::net::End;
use crate::node::Faults;
use crate::{KIB, MIB};

const LIAR: Faults = Faults { lies: 1000, stalls_after: None };

#[test]
fn a_liar_is_banned_and_what_it_said_is_fetched_from_others() {
    let mut swarm = Swarm::new(11, 8 * MIB, 256 * 1024);
    let liar = swarm.seed(line(400));
    swarm.of_node(liar).faults = LIAR;
    let node = swarm.leecher(line(400));
    swarm.run(120.0);
    // Nobody else has it.
    assert_eq!(swarm.nodes[node].parted(End::Node(liar)), Some(&Close::Liar));
    assert_eq!(swarm.nodes[node].of(0).have_bytes(), 0);
    let wasted = swarm.nodes[node].session.downloaded();
    assert!(wasted <= 4 * MIB, "{wasted} bytes were taken from a liar");
    swarm.seed(line(400));
    swarm.finish(400.0, &[node]);
    assert!(swarm.nodes[node].session.downloaded() - wasted <= 8 * MIB + 256 * KIB);
}

#[test]
fn liars_in_a_crowd_are_banned_by_all_and_the_honest_are_not() {
    let mut swarm = Swarm::new(12, 16 * MIB, 256 * 1024);
    let mut liars = Vec::new();
    swarm.seed(line(400));
    for lies in [1000, 300, 20] {
        let liar = swarm.seed(line(400));
        swarm.of_node(liar).faults = Faults { lies, ..Faults::default() };
        liars.push(liar);
    }
    let crowd = swarm.leechers(12, line(400));
    swarm.finish(900.0, &crowd);
    let cost = swarm.cost(&crowd);
    println!("{cost:?}");
    for &node in &crowd {
        for (end, why) in &swarm.nodes[node].closed {
            let is_liar = liars.iter().any(|&liar| *end == End::Node(liar));
            assert!(is_liar || *why != Close::Liar, "{end:?} is honest, and was banned by {node}");
        }
    }
    let banned = |liar: usize| {
        let bans = |node: &&usize| swarm.nodes[**node].closed.contains(&(End::Node(liar), Close::Liar));
        crowd.iter().filter(bans).count()
    };
    println!("banned by {:?} of {}", liars.iter().map(|&liar| banned(liar)).collect::<Vec<_>>(), crowd.len());
    assert!(liars[..2].iter().all(|&liar| banned(liar) > 0));
    assert!(cost.in_vain <= 0.3, "{cost:?}");
}

#[test]
fn a_peer_that_vanishes_in_the_middle_of_a_block_costs_little_time() {
    let mut swarm = Swarm::new(13, 16 * MIB, 256 * 1024);
    let seed = swarm.seed(line(300));
    let lost: Vec<usize> = (0..3).map(|_| swarm.seed(line(300))).collect();
    let crowd = swarm.leechers(4, line(300));
    swarm.run(20.0);
    for &node in &lost[..2] {
        swarm.vanish(node);
    }
    // One of them is seen to go.
    swarm.restart_node(lost[2]);
    swarm.finish(500.0, &crowd);
    let last = crowd.iter().map(|&node| swarm.done_at(node)).fold(0.0, f64::max);
    let cost = swarm.cost(&crowd);
    println!("the last after {last:.0} s, {cost:?}");
    assert!(last < 200.0, "{last} s");
    assert!(cost.in_vain <= 0.02, "{cost:?}");
    assert!(swarm.copies(seed) < 3.0);
}

#[test]
fn what_a_peer_keeps_to_itself_is_got_from_others() {
    let mut swarm = Swarm::new(14, 16 * MIB, 256 * 1024);
    swarm.seed(line(300));
    for _ in 0..3 {
        let node = swarm.seed(line(300));
        swarm.of_node(node).faults = Faults { stalls_after: Some(MIB), ..Faults::default() };
    }
    let crowd = swarm.leechers(4, line(300));
    swarm.finish(500.0, &crowd);
    let last = crowd.iter().map(|&node| swarm.done_at(node)).fold(0.0, f64::max);
    let cost = swarm.cost(&crowd);
    println!("the last after {last:.0} s, {cost:?}");
    assert!(last < 250.0, "{last} s");
    assert!(cost.in_vain <= 0.02, "{cost:?}");
}

#[test]
fn a_swarm_that_falls_apart_and_heals_is_complete() {
    let mut swarm = Swarm::new(15, 16 * MIB, 256 * 1024);
    swarm.seed(line(150));
    let crowd = swarm.leechers(16, line(150));
    swarm.run(60.0);
    // The seed stays with one half; the other has what it has.
    for &node in &crowd[8..] {
        swarm.part(node, 1);
    }
    swarm.finish(900.0, &crowd[..8]);
    swarm.run(600.0);
    assert!(crowd[8..].iter().any(|&node| !swarm.is_done(node)), "nothing was missing in the other half");
    let before = swarm.nodes[crowd[8]].wake_ups;
    swarm.run(600.0);
    let wake_ups = swarm.nodes[crowd[8]].wake_ups - before;
    assert!(wake_ups < 1500, "{wake_ups} wake-ups in ten minutes of waiting");
    for &node in &crowd[8..] {
        swarm.part(node, 0);
    }
    swarm.finish(1800.0, &crowd);
    let cost = swarm.cost(&crowd);
    println!("{cost:?}");
    assert!(cost.in_vain <= 0.02, "{cost:?}");
}

#[test]
fn of_thirty_nodes_that_lie_vanish_or_stall_in_part_the_others_receive_little_in_vain() {
    let mut swarm = Swarm::new(16, 32 * MIB, 128 * 1024);
    swarm.seed(line(300));
    let crowd = swarm.leechers(29, line(300));
    let (bad, good) = crowd.split_at(6);
    for &node in &bad[..2] {
        swarm.of_node(node).faults = Faults { lies: 30, ..Faults::default() };
    }
    for &node in &bad[2..4] {
        swarm.of_node(node).faults = Faults { stalls_after: Some(4 * MIB), ..Faults::default() };
    }
    swarm.run(60.0);
    swarm.vanish(bad[4]);
    swarm.run(20.0);
    swarm.vanish(bad[5]);
    swarm.finish(1800.0, good);
    let last = good.iter().map(|&node| swarm.done_at(node)).fold(0.0, f64::max);
    let cost = swarm.cost(good);
    println!("the last after {last:.0} s, {cost:?}: {:.2} % beyond the content", 100.0 * cost.in_vain);
    assert!(cost.in_vain <= 0.015, "{cost:?}");
}

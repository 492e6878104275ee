//! Many who want the same: all get it, soon, and none of them pays for it alone.

use meshseed::random::Random;
use meshseed::session::Settings;

use crate::mesh::{Swarm, line, ratio};
use crate::net::Line;
use crate::{KIB, MIB};

#[test]
fn a_crowd_of_a_hundred_is_complete_soon_and_their_only_seed_sends_little_more_than_a_copy() {
    let mut swarm = Swarm::new(1, 16 * MIB, 256 * 1024);
    let seed = swarm.seed(line(512));
    let crowd = swarm.leechers(100, line(512));
    swarm.finish(600.0, &crowd);
    let times: Vec<f64> = crowd.iter().map(|&node| swarm.done_at(node)).collect();
    let last = times.iter().copied().fold(0.0, f64::max);
    let optimum = ratio(16 * MIB, 512 * KIB);
    let cost = swarm.cost(&crowd);
    let copies = swarm.copies(seed);
    let given: Vec<f64> = crowd.iter().map(|&node| swarm.copies(node)).collect();
    let most = given.iter().copied().fold(0.0, f64::max);
    println!(
        "the last after {last:.0} s (optimum {optimum:.0} s), copies of the seed {copies:.2}, {cost:?}, \
         most given {most:.2}"
    );
    assert!(last < 5.0 * optimum, "{last} s");
    assert!(copies < 6.0, "{copies} copies");
    assert!(cost.in_vain <= 0.01 && cost.twice < 0.01, "{cost:?}");
    assert!(most < 5.0, "one gave {most} copies");
}

#[test]
fn those_who_came_first_have_room_for_the_seed_that_comes_last() {
    let mut swarm = Swarm::new(6, 2 * MIB, 64 * 1024);
    let few = |settings: &mut Settings| settings.peers_per_torrent = 8;
    let mut crowd = Vec::new();
    for _ in 0..30 {
        crowd.push(swarm.join(line(200), |_| false, few));
        swarm.run(4.0);
    }
    let came = swarm.secs();
    swarm.join(line(200), |_| true, few);
    swarm.finish(600.0, &crowd);
    let last = crowd.iter().map(|&node| swarm.done_at(node)).fold(0.0, f64::max);
    println!("the last {:.0} s after the seed came", last - came);
}

#[test]
fn one_slow_seed_beside_good_ones_holds_nobody_up() {
    let mut swarm = Swarm::new(2, 16 * MIB, 256 * 1024);
    swarm.seed(line(4));
    let good: Vec<usize> = (0..2).map(|_| swarm.seed(line(400))).collect();
    let crowd = swarm.leechers(3, line(400));
    swarm.finish(300.0, &crowd);
    let last = crowd.iter().map(|&node| swarm.done_at(node)).fold(0.0, f64::max);
    let cost = swarm.cost(&crowd);
    println!("the last after {last:.0} s, {cost:?}");
    assert!(last < 1.5 * ratio(16 * MIB, 400 * KIB) + 10.0, "{last} s");
    assert!(cost.in_vain <= 0.02, "{cost:?}");
    assert!(good.iter().all(|&seed| swarm.copies(seed) > 0.3));
}

#[test]
fn one_slow_seed_alone_is_asked_for_everything_once() {
    let mut swarm = Swarm::new(3, 4 * MIB, 256 * 1024);
    let seed = swarm.seed(line(8));
    let node = swarm.leecher(line(1000));
    swarm.finish(700.0, &[node]);
    let last = swarm.done_at(node);
    let cost = swarm.cost(&[node]);
    println!("after {last:.0} s, {cost:?}");
    assert!(last < 1.1 * ratio(4 * MIB, 8 * KIB) + 20.0, "{last} s");
    assert!(cost.again < 0.001 && swarm.copies(seed) < 1.001, "{cost:?}");
}

#[test]
fn those_who_give_are_done_before_those_who_do_not() {
    let mut swarm = Swarm::new(4, 32 * MIB, 256 * 1024);
    swarm.seed(line(50));
    // What each can take is more than all can give, and each has something that others lack.
    let asymmetric = Line { up: 100 * KIB, ..line(1000) };
    let mut random = Random::new(4);
    let (mut givers, mut riders) = (Vec::new(), Vec::new());
    for n in 0..24 {
        let rides = n % 3 == 0;
        let node = swarm.join(
            asymmetric,
            |_| random.below(3) == 0,
            |settings| settings.uploads = if rides { 0 } else { 4 },
        );
        if rides { riders.push(node) } else { givers.push(node) }
    }
    swarm.finish(2000.0, &[&givers[..], &riders].concat());
    let mean = |nodes: &[usize]| {
        nodes.iter().map(|&node| swarm.done_at(node)).sum::<f64>() / ratio(nodes.len() as u64, 1)
    };
    println!("those who give after {:.0} s, the others after {:.0} s", mean(&givers), mean(&riders));
    assert!(riders.iter().all(|&rider| swarm.nodes[rider].session.uploaded() == 0));
    assert!(mean(&riders) > 1.2 * mean(&givers));
}

#[test]
fn those_who_give_alike_get_alike() {
    let mut swarm = Swarm::new(5, 16 * MIB, 256 * 1024);
    swarm.seed(line(200));
    let crowd = swarm.leechers(20, line(200));
    swarm.finish(1000.0, &crowd);
    let given: Vec<f64> = crowd.iter().map(|&node| swarm.copies(node)).collect();
    let times: Vec<f64> = crowd.iter().map(|&node| swarm.done_at(node)).collect();
    let extremes = |all: &[f64]| {
        let least = all.iter().copied().fold(f64::MAX, f64::min);
        (least, all.iter().copied().fold(0.0, f64::max))
    };
    let ((least, most), (first, last)) = (extremes(&given), extremes(&times));
    println!("given: {least:.2} to {most:.2} copies; done after {first:.0} to {last:.0} s");
    assert!(least > 0.2 && most < 2.0, "{given:?}");
    assert!(last < 2.0 * first, "{times:?}");
}

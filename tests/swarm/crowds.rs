//! Many who want the same: all get it, soon, and none of them pays for it alone.

use crate::mesh::{Swarm, line, ratio};
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
    assert!(cost.received < 1.01 && cost.asked < 1.02, "{cost:?}");
    assert!(most < 5.0, "one gave {most} copies");
}

//! Real sessions on a virtual clock and a virtual link, with a disk, trackers and peers that are good, slow or bad.
//!
//! No test here waits for anything: an hour of a swarm is a fraction of a second, and the same one each time.
#![allow(dead_code, reason = "the world can do more than each test asks for")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

#[path = "swarm/announcing.rs"]
mod announcing;
#[path = "swarm/chaos.rs"]
mod chaos;
#[path = "swarm/checking.rs"]
mod checking;
#[path = "swarm/connecting.rs"]
mod connecting;
#[path = "swarm/content.rs"]
mod content;
#[path = "swarm/crowds.rs"]
mod crowds;
#[path = "swarm/dht.rs"]
mod dht;
#[path = "swarm/disk.rs"]
mod disk;
#[path = "swarm/foes.rs"]
mod foes;
#[path = "swarm/ledger.rs"]
mod ledger;
#[path = "swarm/magnets.rs"]
mod magnets;
#[path = "swarm/mesh.rs"]
mod mesh;
#[path = "swarm/mirrors.rs"]
mod mirrors;
#[path = "swarm/net.rs"]
mod net;
#[path = "swarm/node.rs"]
mod node;
#[path = "swarm/pex.rs"]
mod pex;
#[path = "swarm/remote.rs"]
mod remote;
#[path = "swarm/serving.rs"]
mod serving;
#[path = "swarm/superseeding.rs"]
mod superseeding;
#[path = "swarm/world.rs"]
mod world;

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;
const GIB: u64 = 1024 * MIB;

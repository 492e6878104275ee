//! A network that changes under real daemons: interfaces and addresses come late and go, segments part and heal, the
//! clock jumps. Nothing here waits for a regular scan: there is one an hour. Needs root.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::unwrap_used,
    reason = "real processes, files and sockets; a test may panic"
)]

mod common;

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::os::unix::fs::FileExt;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use common::Need::{Program, Root};
use common::daemon::{Daemon, Home};
use common::peer::RawPeer;
use common::torrent::Torrent;
use common::tracker::Tracker;
use common::world::{Namespace, World};
use common::{PATIENCE, able, machine, run, wait_value};
use serde_json::{Value, json};

#[test]
fn an_interface_that_comes_later_leads_to_neighbours() {
    if !able(&[Root]) {
        return;
    }
    let world = World::new::<2>();
    let [seed, leech] = world.spaces();
    [seed, leech].into_iter().for_each(|space| space.ip(&["link", "set", "mesh", "down"]));
    let torrent = Torrent::single("late.bin", 300_001, 32 * 1024);
    let (ours, theirs) = (home(seed), home(leech));
    torrent.add_to(&ours);
    torrent.drop_into(&theirs.torrents);
    let (giver, taker) = (ours.start(), theirs.start());
    giver.wait_seeding(&torrent);
    taker.wait_state(&torrent, &["downloading"]);
    assert_eq!(giver.ask("status", Value::Null)["lpd_interfaces"], json!([]));
    seed.ip(&["link", "add", "late", "type", "veth", "peer", "name", "late", "netns", &leech.name]);
    for (space, address) in [(seed, "10.78.0.1/24"), (leech, "10.78.0.2/24")] {
        space.ip(&["address", "add", address, "dev", "late"]);
        space.ip(&["link", "set", "late", "up"]);
    }
    taker.wait_seeding(&torrent);
    assert_eq!(giver.ask("status", Value::Null)["lpd_interfaces"], json!(["late"]));
    seed.ip(&["link", "delete", "late"]);
    let names = || giver.ask("status", Value::Null)["lpd_interfaces"].clone();
    wait_value("the interface is gone", PATIENCE, names, |names| *names == json!([]));
}

#[test]
fn an_address_to_listen_on_may_come_later_and_go_and_come_again() {
    follows(|home| home.set("listen", "addresses", json!(["10.78.0.1", "127.0.0.1"])), &["127.0.0.1:6881"]);
}

#[test]
fn an_interface_to_listen_on_is_followed_with_all_its_addresses() {
    follows(
        |home| {
            home.set("listen", "addresses", json!([]));
            home.set("listen", "interfaces", json!(["extra"]));
        },
        &[],
    );
}

/// `extra` gets 10.78.0.1 after the daemon's start, loses it and gets it again.
fn follows(configure: impl Fn(&Home), before: &[&str]) {
    if !able(&[Root]) {
        return;
    }
    let world = World::new::<2>();
    let [seed, other] = world.spaces();
    other.ip(&["route", "add", "10.78.0.0/24", "dev", "mesh"]);
    let home = home(seed);
    configure(&home);
    let torrent = Torrent::single("reached.bin", 100_000, 16 * 1024);
    torrent.add_to(&home);
    let daemon = home.start();
    daemon.wait_seeding(&torrent);
    let listens = |on: &[&str]| {
        let said = || daemon.ask("status", Value::Null)["listen"].clone();
        wait_value(&format!("it listens on {on:?}"), PATIENCE, said, |said| *said == json!(on));
    };
    listens(before);
    let after = [before, &["10.78.0.1:6881"]].concat();
    seed.ip(&["link", "add", "extra", "type", "veth", "peer", "name", "far"]);
    // No addresses but ours.
    seed.ip(&["link", "set", "extra", "addrgenmode", "none", "up"]);
    for _ in 0..2 {
        seed.ip(&["address", "add", "10.78.0.1/32", "dev", "extra"]);
        listens(&after);
        let to = SocketAddr::from(([10, 78, 0, 1], 6881));
        let mut peer = other.enter(|| RawPeer::connect(to, &torrent.info_hash)).expect("it shakes hands");
        peer.unchoked().expect("its turn comes");
        assert!(peer.download(&torrent, 4).expect("it is served") == torrent.content());
        assert!(other.enter(|| hears_udp(to)), "uTP is refused at once");
        seed.ip(&["address", "delete", "10.78.0.1/32", "dev", "extra"]);
        listens(before);
    }
    assert_eq!(daemon.ask("status", Value::Null)["last_error"], Value::Null);
}

#[test]
fn trackers_hear_of_another_address_once_whatever_it_does_then() {
    if !able(&[Root]) {
        return;
    }
    let world = World::new::<2>();
    let [seed, other] = world.spaces();
    let (torrent, home, tracker) = announced(seed, other);
    let daemon = home.start();
    daemon.wait_seeding(&torrent);
    tracker.wait_event(&torrent.info_hash, "started");
    seed.ip(&["address", "add", "10.77.0.51/24", "dev", "mesh"]);
    let events = || tracker.events(&torrent.info_hash);
    wait_value("it is announced anew", PATIENCE, events, |events| *events == ["started", ""]);
    let before = daemon.cpu();
    for _ in 0..50 {
        seed.ip(&["address", "delete", "10.77.0.51/24", "dev", "mesh"]);
        sleep(Duration::from_millis(50));
        seed.ip(&["address", "add", "10.77.0.51/24", "dev", "mesh"]);
        sleep(Duration::from_millis(50));
    }
    assert_eq!(events(), ["started", ""]);
    let cpu = daemon.cpu() - before;
    assert!(cpu < Duration::from_secs(2), "a flapping address cost {cpu:?}");
}

#[test]
fn a_tracker_that_was_not_reached_is_asked_as_soon_as_the_cable_is_in() {
    if !able(&[Root]) {
        return;
    }
    let world = World::new::<2>();
    let [seed, other] = world.spaces();
    let (torrent, home, tracker) = announced(seed, other);
    world.cable(seed, "down");
    let daemon = home.start();
    daemon.wait_seeding(&torrent);
    let said = || daemon.torrent(&torrent)["trackers"][0].clone();
    let rests = wait_value("it is not reached", PATIENCE, said, |said| {
        said["state"] == "unreachable" && said["next_announce"].as_u64().is_some_and(|seconds| seconds >= 10)
    });
    world.cable(seed, "up");
    let plugged = Instant::now();
    tracker.wait_event(&torrent.info_hash, "started");
    let rest = Duration::from_secs(rests["next_announce"].as_u64().expect("it was a number"));
    assert!(plugged.elapsed() < rest, "{:?} of {rest:?}", plugged.elapsed());
}

/// Four nodes, no tracker answers. What each segment has becomes whole on each side while they are parted, and what only
/// both together have does when they are joined again, of which no cable tells.
#[test]
fn two_segments_that_part_and_heal_are_each_a_swarm_and_then_one() {
    if !able(&[Root]) {
        return;
    }
    let world = World::new::<4>();
    let [one, two, three, four] = world.spaces();
    let nobody = "http://10.77.0.99:6969/announce";
    let [known, twice, halves] = ["known.bin", "twice.bin", "halves.bin"]
        .map(|name| Torrent::single(name, 1_000_000, 16 * 1024).announce(nobody));
    let homes = [one, two, three, four].map(home);
    known.write_data(&homes[0].data);
    homes.iter().for_each(|home| known.drop_into(&home.torrents));
    let daemons: Vec<Daemon> = homes.iter().map(Home::start).collect();
    daemons.iter().for_each(|daemon| drop(daemon.wait_seeding(&known)));

    world.part(&[three, four]);
    let first = halves.bytes_in(0..halves.pieces() / 2);
    let second = halves.size() - first;
    for (home, lost) in [(&homes[0], first..halves.size()), (&homes[2], 0..first)] {
        twice.write_data(&home.data);
        halves.write_data(&home.data);
        let zeros = vec![0; usize::try_from(lost.end - lost.start).unwrap()];
        let file = std::fs::File::options().write(true).open(home.data.join(&halves.name)).unwrap();
        file.write_all_at(&zeros, lost.start).unwrap();
    }
    for torrent in [&twice, &halves] {
        homes.iter().for_each(|home| torrent.drop_into(&home.torrents));
        daemons.iter().for_each(|daemon| drop(daemon.wait_state(torrent, &["downloading", "seeding"])));
    }
    daemons.iter().for_each(|daemon| drop(daemon.wait_seeding(&twice)));
    for (daemon, half) in daemons.iter().zip([first, first, second, second]) {
        let had = daemon.wait_have(&halves, half);
        assert_eq!(had["state"], "downloading", "{had}");
    }
    for daemon in &daemons {
        let state = || daemon.torrent(&halves)["trackers"][0]["state"].clone();
        wait_value("no tracker answers", PATIENCE, state, |state| state == "unreachable");
    }

    // All that is told of a torrent that is new has been told, into nowhere.
    sleep(Duration::from_secs(10));
    world.heal(&[three, four]);
    let healed = Instant::now();
    for (daemon, home) in daemons.iter().zip(&homes) {
        let state = || daemon.torrent(&halves)["state"].clone();
        wait_value("both halves are there", 3 * PATIENCE, state, |state| state == "seeding");
        halves.assert_lies_in(&home.data);
    }
    println!("whole on all four {:?} after the segments were joined", healed.elapsed());
}

/// As a router boots: in 1970, until somebody tells it the time, and then wrongly.
#[test]
fn a_clock_that_jumps_by_decades_neither_hastens_nor_delays_an_announce() {
    if !able(&[Root, Program(machine::LINUX)]) || !machine::is_our_own() {
        return;
    }
    let here = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let set_clock = |seconds: u64| drop(run(Command::new("date").args(["-s", &format!("@{seconds}")])));
    set_clock(300);
    let tracker = Tracker::swarm(here, 60);
    let torrent = Torrent::single("timeless.bin", 100_000, 16 * 1024).announce(&tracker.url());
    let home = Home::new();
    torrent.add_to(&home);
    let daemon = home.start();
    assert_eq!(daemon.wait_seeding(&torrent)["added"], Value::Null, "nobody knows the time");
    let started = tracker.wait_event(&torrent.info_hash, "started").at;
    set_clock(1_795_000_000);
    sleep(Duration::from_secs(10));
    set_clock(300);
    sleep(Duration::from_secs(10));
    set_clock(1_795_000_300);
    assert_eq!(tracker.events(&torrent.info_hash), ["started"], "nothing is announced twice");
    let again = tracker.wait_event(&torrent.info_hash, "").at - started;
    assert!((45..=70).contains(&again.as_secs()), "{again:?}");
    let uptime = daemon.ask("status", Value::Null)["uptime"].as_u64().expect("a number");
    assert!((45..=120).contains(&uptime), "{uptime}");
    daemon.assert_serves(&torrent);
    let (status, time) = daemon.terminate();
    assert!(status.success() && time < Duration::from_secs(5), "{status} after {time:?}");
    assert_eq!(tracker.events(&torrent.info_hash), ["started", "", "stopped"]);
}

/// On every address, found by nothing but neighbours and what the kernel tells.
fn home(space: &Namespace) -> Home {
    let home = Home::inside(space);
    home.set("listen", "addresses", json!([]));
    home.set("", "rescan", 3600);
    home.set("log", "level", json!("debug"));
    home
}

/// A seed in one namespace and its tracker in another.
fn announced(seed: &Namespace, other: &Namespace) -> (Torrent, Home, Tracker) {
    let tracker = other.enter(|| Tracker::swarm(other.address.into(), 1800));
    let torrent = Torrent::single("announced.bin", 100_000, 16 * 1024).announce(&tracker.url());
    let home = home(seed);
    torrent.add_to(&home);
    (torrent, home, tracker)
}

/// Whether who tries uTP there gets its reset.
fn hears_udp(to: SocketAddr) -> bool {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).expect("a free port");
    socket.set_read_timeout(Some(Duration::from_secs(5))).expect("above zero");
    let mut syn = [0; 20];
    (syn[0], syn[2], syn[3], syn[17]) = (0x41, 1, 2, 1);
    socket.send_to(&syn, to).expect("there is a route");
    let mut answer = [0; 64];
    socket.recv_from(&mut answer).is_ok_and(|(len, from)| len == 20 && from == to && answer[0] == 0x31)
}

//! What the released program may take on a router: memory, processor time and wake-ups, measured on the process.
//!
//! The bounds are those of the project's figures plus what a busy test machine adds; `tests/bench/run` measures the
//! figures themselves. Sizes of the structs that multiply are asserted beside the structs.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::unwrap_used,
    reason = "real processes, files and sockets; a test may panic"
)]

mod common;

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Mutex, PoisonError};
use std::thread::sleep;
use std::time::Duration;

use common::Need::Release;
use common::daemon::{Daemon, Home};
use common::peer::RawPeer;
use common::torrent::Torrent;
use common::tracker::{Answer, Tracker};
use common::{able, wait_value};
use serde_json::Value;

/// One measurement at a time.
static ALONE: Mutex<()> = Mutex::new(());

const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// Seconds: what a thousand torrents take to check on a machine that is busy with something else.
const START: Duration = Duration::from_secs(120);

/// 1000 torrents of 4096 pieces, 50 of them with 500 files, data sparse, a tracker that names 50 peers for each; the
/// memory counts after a restart with valid records. (Pieces are 128 bytes here so that the first start is short: a piece's
/// length has no part in memory. The benchmark takes 16 KiB.)
#[test]
fn a_thousand_idle_torrents_fit() {
    if !able(&[Release]) {
        return;
    }
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let strangers: Vec<_> = (1..=50).map(|n| SocketAddr::from(([127, 77, 0, n], 1))).collect();
    let tracker = Tracker::start(HERE, move |_| Answer::Peers(1800, strangers.clone()));
    let home = Home::new();
    home.set("", "rescan", 60);
    for n in 0..1000 {
        let name = format!("torrent {n}");
        let torrent = if n % 20 == 0 {
            Torrent::sparse_files(&name, 500, 4096 * 128 / 500, 128)
        } else {
            Torrent::sparse(&name, 4096 * 128, 128, &[])
        };
        let torrent = torrent.announce(&tracker.url());
        torrent.write_data(&home.data);
        torrent.drop_into(&home.torrents);
    }
    let daemon = home.start();
    wait_all(&daemon, 1000);
    assert!(daemon.terminate().0.success());

    let before = tracker.announces().len();
    let daemon = home.start();
    wait_all(&daemon, 1000);
    let started =
        || tracker.announces()[before..].iter().filter(|announce| announce.event == "started").count();
    wait_value("all are announced", START, started, |count| *count >= 1000);
    sleep(Duration::from_secs(10));
    let memory = daemon.memory();
    println!("1000 idle torrents: {memory:?}, {:?} of processor time", daemon.cpu());
    // Half of it is the program, mapped from its file.
    assert!(memory.resident < 6 * 1024, "{memory:?}");
    assert!(memory.private_dirty < 1843 + 256, "{memory:?}");
    assert!(daemon.cpu() < Duration::from_millis(1000), "a restart hashes nothing: {:?}", daemon.cpu());
}

#[test]
fn an_idle_peer_takes_little() {
    if !able(&[Release]) {
        return;
    }
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    const PEERS: u64 = 300;
    let home = Home::new();
    home.set("limits", "peers", 2 * PEERS);
    home.set("limits", "peers-per-torrent", 2 * PEERS);
    let torrent = Torrent::single("popular", 4 << 20, 16 * 1024);
    torrent.add_to(&home);
    let daemon = home.start();
    daemon.wait_seeding(&torrent);
    daemon.assert_serves(&torrent);
    let before = daemon.memory();
    let mut peers = Vec::new();
    for _ in 0..PEERS {
        let mut peer = RawPeer::connect(daemon.address(), &torrent.info_hash).unwrap();
        peer.send(common::peer::INTERESTED, &[]).unwrap();
        peers.push(peer);
    }
    sleep(Duration::from_secs(5));
    let after = daemon.memory();
    println!("{PEERS} idle peers: {before:?} became {after:?}");
    // 1.5 KiB each and the pages that happen to be begun.
    assert!(after.private_dirty - before.private_dirty < PEERS * 3 / 2 + 200, "{before:?} became {after:?}");
}

#[test]
fn uploading_to_many_keeps_memory() {
    if !able(&[Release]) {
        return;
    }
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let home = Home::new();
    home.set("limits", "uploads", 50);
    home.set("limits", "uploads-per-torrent", 50);
    let torrent = Torrent::single("busy", 16 << 20, 256 * 1024);
    torrent.add_to(&home);
    let daemon = home.start();
    daemon.wait_seeding(&torrent);
    fs::write(format!("/proc/{}/clear_refs", daemon.pid()), "5").unwrap();
    let address = daemon.address();
    std::thread::scope(|scope| {
        for _ in 0..30 {
            scope.spawn(|| {
                let mut peer = RawPeer::connect(address, &torrent.info_hash).unwrap();
                peer.unchoked().unwrap();
                assert!(peer.download(&torrent, 64).unwrap() == torrent.content());
            });
        }
    });
    let status = fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    let peak: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    println!("peak while uploading to 30: {peak} KiB");
    assert!(peak < 6 * 1024, "{peak} KiB");
}

#[test]
fn an_idle_daemon_sleeps() {
    if !able(&[Release]) {
        return;
    }
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let tracker = Tracker::swarm(HERE, 300);
    let home = Home::new();
    home.set("", "rescan", 60);
    for n in 0..100 {
        let torrent = Torrent::single(&format!("idle {n}"), 20_000, 16 * 1024).announce(&tracker.url());
        torrent.add_to(&home);
    }
    let daemon = home.start();
    wait_all(&daemon, 100);
    wait_value("all are announced", START, || tracker.announces().len(), |count| *count >= 100);
    sleep(Duration::from_secs(5));
    let (before, cpu) = (switches(&daemon), daemon.cpu());
    sleep(Duration::from_secs(30));
    let switches = switches(&daemon) - before;
    println!("100 idle torrents: {switches} context switches and {:?} in 30 s", daemon.cpu() - cpu);
    assert!(switches <= 90, "{switches} context switches in 30 s");
}

/// Waits until so many torrents are whole, asking seldom.
fn wait_all(daemon: &Daemon, count: u64) {
    let seeding = || {
        sleep(Duration::from_millis(200));
        daemon.ask("status", Value::Null)["torrents"]["seeding"].as_u64()
    };
    wait_value("all are seeded", START, seeding, |seeding| *seeding == Some(count));
}

/// Context switches of all threads so far.
fn switches(daemon: &Daemon) -> u64 {
    let tasks = fs::read_dir(format!("/proc/{}/task", daemon.pid())).unwrap();
    let texts = tasks.filter_map(|task| fs::read_to_string(task.unwrap().path().join("status")).ok());
    let numbers = texts.flat_map(|text| {
        let lines = text.lines().filter(|line| line.contains("ctxt_switches"));
        lines.map(|line| line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap()).collect::<Vec<_>>()
    });
    numbers.sum()
}

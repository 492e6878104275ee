//! The UDP port of a real process: what anybody can throw at it costs nobody anything.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::unwrap_used,
    reason = "real processes, files and sockets; a test may panic"
)]

mod common;

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use common::daemon::Home;
use common::torrent::Torrent;
use common::tracker::Tracker;
use common::{PATIENCE, wait_value};

const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// A uTP connection attempt, as BEP 29 has it.
const SYN: [u8; 20] = [0x41, 0, 0x12, 0x34, 1, 2, 3, 4, 0, 0, 0, 0, 0, 4, 0, 0, 0, 1, 0, 0];

/// All that is well-formed, near to it, or far from it.
fn rubbish() -> Vec<Vec<u8>> {
    let head = |action: u8| vec![0, 0, 0, action, 1, 2, 3, 4];
    vec![
        Vec::new(),
        SYN.to_vec(),
        [&SYN[..], &[0; 1400]].concat(),
        vec![0x41; 19],
        vec![0x31; 20],
        [head(0), vec![7; 8]].concat(),
        [head(1), vec![10; 60_000]].concat(),
        [head(3), b"go away".repeat(200)].concat(),
        b"d".repeat(1400),
        [b"l".repeat(700), b"e".repeat(700)].concat(),
        b"d1:ad2:id20:abcdefghij0123456789e1:q4:ping1:t2:aa1:y1:qe".to_vec(),
        vec![0xff; 1400],
    ]
}

/// Answers each request with a thousand datagrams of which none is the answer.
fn liar() -> (SocketAddr, Arc<AtomicBool>) {
    let socket = UdpSocket::bind((HERE, 0)).expect("a free port");
    let address = socket.local_addr().expect("it is bound");
    let asked = Arc::new(AtomicBool::new(false));
    let heard = asked.clone();
    std::thread::spawn(move || {
        let mut buffer = [0; 2048];
        while let Ok((_, from)) = socket.recv_from(&mut buffer) {
            heard.store(true, Ordering::Relaxed);
            for datagram in rubbish().iter().cycle().take(1000) {
                socket.send_to(datagram, from).ok();
            }
        }
    });
    (address, asked)
}

#[test]
fn a_lying_tracker_and_a_flood_cost_nobody_anything() {
    let (liar, asked) = liar();
    let honest = Tracker::swarm(HERE, 60);
    let home = Home::new();
    let torrent = |name: &str, url: &str| Torrent::single(name, 500_000, 16 * 1024).announce(url);
    let lied_to = torrent("lied to", &format!("udp://{liar}/announce"));
    let other = torrent("other", &honest.url());
    [&lied_to, &other].into_iter().for_each(|torrent| torrent.add_to(&home));
    let daemon = home.start();
    [&lied_to, &other].into_iter().for_each(|torrent| drop(daemon.wait_seeding(torrent)));
    honest.wait_event(&other.info_hash, "started");
    wait_value("the liar is asked", PATIENCE, || asked.load(Ordering::Relaxed), |asked| *asked);
    let before = daemon.memory();

    let flood = UdpSocket::bind((HERE, 0)).expect("a free port");
    flood.set_nonblocking(true).expect("it can");
    let start = Instant::now();
    let (mut resets, mut buffer) = (0, [0; 2048]);
    for datagram in rubbish().iter().cycle().take(30_000) {
        flood.send_to(datagram, daemon.address()).ok();
        while let Ok(len) = flood.recv(&mut buffer) {
            // The DHT may have its own answers.
            if !buffer.starts_with(b"d") {
                assert_eq!((len, &buffer[..4]), (20, &[0x31, 0, 0x12, 0x34][..]));
                resets += 1;
            }
        }
    }
    [&lied_to, &other].into_iter().for_each(|torrent| daemon.assert_serves(torrent));
    let most = 100 + 20 * (start.elapsed().as_secs() + 1);
    assert!((1..=most).contains(&resets), "{resets} resets in {:?}", start.elapsed());
    let after = daemon.memory();
    assert!(after.private_dirty < before.private_dirty + 512, "{before:?}, {after:?}");
    let said = daemon.torrent(&lied_to)["trackers"][0].clone();
    assert!(said["state"] == "announcing" || said["state"] == "unreachable", "{said}");

    // Once it is over the next attempt is answered as ever.
    let attempt = UdpSocket::bind((HERE, 0)).expect("a free port");
    attempt.set_read_timeout(Some(Duration::from_millis(200))).expect("above zero");
    let hear = || {
        attempt.send_to(&SYN, daemon.address()).expect("it is there");
        attempt.recv(&mut [0; 64]).ok()
    };
    wait_value("a reset", PATIENCE, hear, |len| *len == Some(20));
    let (status, took) = daemon.terminate();
    assert!(status.success() && took < Duration::from_secs(5), "{status}, {took:?}");
}

//! Real processes on the loopback interface: what peers and trackers meet, the hostile ones too.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::unwrap_used,
    reason = "real processes, files and sockets; a test may panic"
)]

mod common;

use std::collections::HashSet;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use common::Need::Program;
use common::daemon::{Daemon, Home};
use common::peer::{self, BLOCK, RawPeer, closed_within};
use common::torrent::Torrent;
use common::tracker::{Answer, Tracker};
use common::{PATIENCE, able, run, wait, wait_value};
use serde_json::{Value, json};

const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// A handshake may take 10 s; what is too slow is gone a little later.
const HANDSHAKE: Duration = Duration::from_secs(15);

const FAST: u8 = 0x04;
const EXTENSION: u8 = 0x10;

#[test]
fn the_answer_comes_before_the_peer_id() {
    let (home, torrent) = one("early");
    let daemon = seeding(&home, &torrent);
    let mut stream = peer::open(daemon.address()).unwrap();
    let handshake = peer::handshake(&torrent.info_hash, [0; 8]);
    stream.write_all(&handshake[..48]).unwrap();
    let mut answer = [0; 68];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(answer[28..48], torrent.info_hash);
    stream.write_all(&handshake[48..]).unwrap();
    let mut peer = RawPeer { stream, reserved: [0; 8], peer_id: [0; 20] };
    peer.unchoked().unwrap();
    assert_eq!(peer.block(0, 0, 16 * 1024).unwrap(), torrent.content()[..BLOCK]);
}

#[test]
fn a_seed_says_that_it_has_everything() {
    let (home, torrent) = one("everything");
    let daemon = seeding(&home, &torrent);
    let mut plain = RawPeer::connect(daemon.address(), &torrent.info_hash).unwrap();
    let pieces = torrent.content().len().div_ceil(torrent.piece_length);
    let bits = plain.expect(peer::BITFIELD).unwrap().body;
    assert_eq!(bits.len(), pieces.div_ceil(8));
    assert_eq!(bits.iter().map(|byte| byte.count_ones() as usize).sum::<usize>(), pieces);

    let mut reserved = [0; 8];
    reserved[7] = FAST;
    let mut fast = RawPeer::connect_with(daemon.address(), &torrent.info_hash, reserved).unwrap();
    assert_eq!(fast.reserved[7] & FAST, FAST);
    fast.expect(peer::HAVE_ALL).unwrap();
}

#[test]
fn the_extension_handshake_tells_what_a_client_wants_to_know() {
    let (home, torrent) = one("extended");
    let daemon = seeding(&home, &torrent);
    let mut reserved = [0; 8];
    reserved[5] = EXTENSION;
    let mut peer = RawPeer::connect_with(daemon.address(), &torrent.info_hash, reserved).unwrap();
    assert_eq!(peer.reserved[5] & EXTENSION, EXTENSION);
    peer.send(peer::EXTENDED, b"\0d1:mde1:v4:teste").unwrap();
    let body = peer.expect(peer::EXTENDED).unwrap().body;
    assert_eq!(body[0], 0);
    let text = String::from_utf8_lossy(&body);
    for key in ["4:reqqi", "1:v", "6:yourip4:", "11:upload_onlyi1e"] {
        assert!(text.contains(key), "{key} in {text}");
    }
}

#[test]
fn old_clients_get_it_block_by_block_and_fast_ones_many_at_a_time() {
    let home = Home::new();
    let files = [("a", 1), ("b", 100_001), ("c/d", 0), ("e", 65_536), ("f", 999)];
    let torrent = Torrent::multi("pipelines", &files, 48 * 1024);
    torrent.add_to(&home);
    let daemon = seeding(&home, &torrent);
    for q in [1, 4, 64] {
        let mut peer = RawPeer::connect(daemon.address(), &torrent.info_hash).unwrap();
        peer.unchoked().unwrap();
        assert!(peer.download(&torrent, q).unwrap() == torrent.content(), "{q} requests ahead");
    }
    // Requests that do not follow the 16 KiB grid, over file boundaries.
    let mut peer = RawPeer::connect(daemon.address(), &torrent.info_hash).unwrap();
    peer.unchoked().unwrap();
    for (piece, begin, length) in [(0, 0, 1), (0, 1, 20_000), (2, 1_000, 32_768), (3, 7, 5_000)] {
        let start = piece as usize * torrent.piece_length + begin as usize;
        let want = &torrent.content()[start..start + length as usize];
        assert!(peer.block(piece, begin, length).unwrap() == want, "{piece} {begin} {length}");
    }
}

#[test]
fn a_cancelled_request_is_not_answered_twice() {
    let (home, torrent) = one("cancelled");
    let daemon = seeding(&home, &torrent);
    let mut reserved = [0; 8];
    reserved[7] = FAST;
    let mut peer = RawPeer::connect_with(daemon.address(), &torrent.info_hash, reserved).unwrap();
    peer.unchoked().unwrap();
    for piece in 0..8 {
        peer.request(piece, 0, 16 * 1024).unwrap();
        peer.send(peer::CANCEL, &peer::triple(piece, 0, 16 * 1024)).unwrap();
    }
    // With BEP 6 each request gets exactly one answer: the block or a reject.
    let mut answered = HashSet::new();
    while answered.len() < 8 {
        let message = peer.receive().unwrap();
        if matches!(message.id, Some(peer::PIECE | peer::REJECT)) {
            assert!(answered.insert(message.body[..4].to_vec()), "answered once");
        }
    }
    assert_eq!(peer.block(0, 0, 16 * 1024).unwrap(), torrent.content()[..BLOCK]);
}

#[test]
fn blocks_beyond_four_gibibytes_are_served() {
    let home = Home::new();
    let (length, piece_length) = (4 * (1 << 30) + 300_000_u64, 4 << 20);
    let tail = b"what lies beyond";
    let torrent = Torrent::sparse("large", length, piece_length, tail);
    torrent.add_to(&home);
    let daemon = home.start();
    let done = |said: &Value| said["state"] == "seeding";
    let said =
        wait_value("5 GB of zeros are hashed", Duration::from_secs(240), || daemon.torrent(&torrent), done);
    assert_eq!(said["size"], length);
    let mut peer = RawPeer::connect(daemon.address(), &torrent.info_hash).unwrap();
    peer.unchoked().unwrap();
    let block = peer.block(1024, 300_000 - 16, 16).unwrap();
    assert_eq!(block, tail);
}

#[test]
fn more_peers_than_slots_all_get_a_turn() {
    let home = Home::new();
    home.set("limits", "uploads-per-torrent", 2);
    home.set("limits", "uploads", 2);
    let torrent = Torrent::single("turns", 200_000, 32 * 1024);
    torrent.add_to(&home);
    let daemon = seeding(&home, &torrent);
    let address = daemon.address();
    let turns = AtomicU32::new(0);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut peer = RawPeer::connect(address, &torrent.info_hash).unwrap();
                peer.stream.set_read_timeout(Some(Duration::from_secs(240))).unwrap();
                peer.unchoked().unwrap();
                turns.fetch_add(1, Ordering::Relaxed);
                // It asks for much and takes nothing, and it stays: its slot has to be taken from it.
                let request = peer::message(peer::REQUEST, &peer::triple(1, 0, 16 * 1024));
                peer.stream.write_all(&request.repeat(400)).unwrap();
                wait("all had a turn", Duration::from_secs(240), || {
                    (turns.load(Ordering::Relaxed) == 4).then_some(())
                });
            });
        }
    });
}

#[test]
fn the_upload_rates_hold() {
    // A rate for the world and one for our own links.
    for (limited, other, local) in
        [("upload", "local-upload", "10.0.0.0/8"), ("local-upload", "upload", "127.0.0.0/8")]
    {
        let home = Home::new();
        home.set("limits", limited, json!("200k"));
        home.set("limits", other, json!("0"));
        home.set("limits", "local", json!([local]));
        let torrent = Torrent::single("slowly", 1_200_000, 32 * 1024);
        torrent.add_to(&home);
        let daemon = seeding(&home, &torrent);
        let mut peer = RawPeer::connect(daemon.address(), &torrent.info_hash).unwrap();
        peer.unchoked().unwrap();
        let start = Instant::now();
        assert!(peer.download(&torrent, 32).unwrap() == torrent.content());
        let took = start.elapsed();
        assert!((4..20).contains(&took.as_secs()), "{limited}: 1.2 MB at 200 kB/s took {took:?}");
    }
}

#[test]
fn slow_and_silent_handshakes_are_dropped() {
    let (home, torrent) = one("slow");
    let daemon = seeding(&home, &torrent);
    let handshake = peer::handshake(&torrent.info_hash, [0; 8]);
    let address = daemon.address();
    std::thread::scope(|scope| {
        // Nothing at all; a half; all but the peer id.
        for sent in [0, 20, 48] {
            let part = &handshake[..sent];
            scope.spawn(move || {
                let mut stream = peer::open(address).unwrap();
                stream.write_all(part).unwrap();
                assert!(closed_within(&mut stream, HANDSHAKE), "{sent} bytes of a handshake");
            });
        }
        // A byte a second, each of them right.
        scope.spawn(|| {
            let mut stream = peer::open(address).unwrap();
            let start = Instant::now();
            for byte in &handshake {
                if stream.write_all(&[*byte]).is_err() || closed_within(&mut stream, Duration::from_secs(1)) {
                    break;
                }
            }
            assert!(start.elapsed() < HANDSHAKE, "{:?}", start.elapsed());
        });
    });
    daemon.assert_serves(&torrent);
}

#[test]
fn garbage_on_the_port_closes_that_connection_alone() {
    let (home, torrent) = one("garbage");
    let mut daemon = seeding(&home, &torrent);
    let good = peer::handshake(&torrent.info_hash, [0; 8]);
    let unknown = peer::handshake(&[7; 20], [0; 8]);
    let first: [&[u8]; 4] = [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03",
        &[0xff; 70],
        &unknown,
    ];
    for bytes in first {
        let mut stream = peer::open(daemon.address()).unwrap();
        stream.write_all(bytes).unwrap();
        assert!(closed_within(&mut stream, HANDSHAKE), "{bytes:?}");
    }
    // After a good handshake: a length of 4 GiB, a short request, a wrong bitfield, blocks nobody asked for.
    let messages: [&[u8]; 5] = [
        &[0xff; 200],
        &peer::message(peer::REQUEST, &[0; 5]),
        &peer::message(peer::BITFIELD, &[0xff; 300]),
        &peer::message(peer::REQUEST, &peer::triple(u32::MAX, 0, 16 * 1024)),
        &peer::message(peer::REQUEST, &peer::triple(0, u32::MAX, u32::MAX)),
    ];
    for bytes in messages {
        let mut stream = peer::open(daemon.address()).unwrap();
        stream.write_all(&[&good, bytes].concat()).unwrap();
        assert!(closed_within(&mut stream, HANDSHAKE), "{bytes:?}");
    }
    assert!(daemon.alive());
    daemon.assert_serves(&torrent);
}

#[test]
fn requests_outside_the_torrent_get_nothing() {
    let (home, torrent) = one("outside");
    let daemon = seeding(&home, &torrent);
    let pieces = u32::try_from(torrent.content().len().div_ceil(torrent.piece_length)).unwrap();
    let piece_length = u32::try_from(torrent.piece_length).unwrap();
    let bad = [
        (pieces, 0, 1),
        (0, piece_length, 1),
        (0, piece_length - 1, 2),
        (pieces - 1, 0, piece_length),
        (0, 0, 0),
        (0, 0, 1 << 20),
    ];
    for (piece, begin, length) in bad {
        let mut reserved = [0; 8];
        reserved[7] = FAST;
        let mut peer = RawPeer::connect_with(daemon.address(), &torrent.info_hash, reserved).unwrap();
        peer.unchoked().unwrap();
        peer.request(piece, begin, length).ok();
        // Then a good one: either the connection is closed, or the bad one is rejected and this one answered.
        peer.request(0, 0, 1).ok();
        loop {
            match peer.receive() {
                Ok(message) if message.id == Some(peer::PIECE) => {
                    assert_eq!(message.body, [0, 0, 0, 0, 0, 0, 0, 0, torrent.content()[0]]);
                    break;
                }
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => panic!("neither answered nor closed"),
                Err(_) => break,
            }
        }
    }
    daemon.assert_serves(&torrent);
}

#[test]
fn a_flood_of_requests_is_bounded() {
    let home = Home::new();
    home.set("limits", "uploads", 20);
    home.set("limits", "uploads-per-torrent", 20);
    let torrent = Torrent::single("flood", 8 << 20, 256 * 1024);
    torrent.add_to(&home);
    let daemon = seeding(&home, &torrent);
    daemon.assert_serves(&torrent);
    let before = daemon.memory();
    let request = peer::message(peer::REQUEST, &peer::triple(3, 0, 16 * 1024)).repeat(1000);
    // Ten peers that ask without end and read nothing.
    let mut floods = Vec::new();
    for _ in 0..10 {
        let mut peer = RawPeer::connect(daemon.address(), &torrent.info_hash).unwrap();
        peer.unchoked().unwrap();
        peer.stream.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
        for _ in 0..100 {
            if peer.stream.write_all(&request).is_err() {
                break;
            }
        }
        floods.push(peer);
    }
    let after = daemon.memory();
    assert!(after.private_dirty < before.private_dirty + 4096, "{before:?} became {after:?}");
    daemon.assert_serves(&torrent);
}

#[test]
fn scarce_file_descriptors_pause_and_do_not_spin() {
    if !able(&[Program("prlimit")]) {
        return;
    }
    let (home, torrent) = one("scarce");
    let mut daemon = seeding(&home, &torrent);
    let limit = daemon.open_files() + 6;
    run(Command::new("prlimit").args([
        "--pid",
        &daemon.pid().to_string(),
        &format!("--nofile={limit}:{limit}"),
    ]));
    let connections: Vec<_> = (0..40).filter_map(|_| RawPeerInTheQueue::open(&daemon)).collect();
    sleep(Duration::from_secs(2));
    let before = daemon.cpu();
    sleep(Duration::from_secs(4));
    let used = daemon.cpu() - before;
    assert!(used < Duration::from_millis(400), "{used:?} of processor time in 4 s of waiting");
    assert!(daemon.alive());
    drop(connections);
    wait("it serves again", Duration::from_secs(30), || {
        let mut peer = RawPeer::connect(daemon.address(), &torrent.info_hash).ok()?;
        peer.unchoked().ok()
    });
    daemon.assert_serves(&torrent);
}

/// A connection that is open as the kernel has it; nobody may have accepted it.
struct RawPeerInTheQueue(#[expect(dead_code, reason = "held open")] TcpStream);

impl RawPeerInTheQueue {
    fn open(daemon: &Daemon) -> Option<Self> {
        TcpStream::connect_timeout(&daemon.address(), Duration::from_secs(1)).ok().map(Self)
    }
}

#[test]
fn the_limit_of_peers_refuses_and_recovers() {
    let home = Home::new();
    home.set("limits", "peers", 8);
    let torrent = Torrent::single("crowd", 100_000, 32 * 1024);
    torrent.add_to(&home);
    let daemon = seeding(&home, &torrent);
    let shaken: Vec<_> =
        (0..30).filter_map(|_| RawPeer::connect(daemon.address(), &torrent.info_hash).ok()).collect();
    assert!(shaken.len() >= 4, "{} of 8 places were given", shaken.len());
    let open = daemon.ask("status", Value::Null)["peers"].as_u64();
    assert!(open <= Some(8), "{open:?} peers");
    drop(shaken);
    wait("there is room again", PATIENCE, || {
        RawPeer::connect(daemon.address(), &torrent.info_hash).ok()?.unchoked().ok()
    });
}

#[test]
fn peers_that_the_tracker_names_are_dialled() {
    let listener = TcpListener::bind((HERE, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let tracker = Tracker::start(HERE, move |_| Answer::Peers(1800, vec![address]));
    let home = Home::new();
    let torrent = Torrent::single("dialled", 100_000, 32 * 1024).announce(&tracker.url());
    torrent.add_to(&home);
    let daemon = seeding(&home, &torrent);
    let (mut stream, _) = listener.accept().unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut theirs = [0; 68];
    stream.read_exact(&mut theirs).unwrap();
    assert_eq!(theirs[28..48], torrent.info_hash);
    stream.write_all(&peer::handshake(&torrent.info_hash, [0; 8])).unwrap();
    let peer_id = theirs[48..].try_into().unwrap();
    let mut peer = RawPeer { stream, reserved: [0; 8], peer_id };
    peer.unchoked().unwrap();
    assert!(peer.download(&torrent, 8).unwrap() == torrent.content());
    drop(daemon);
}

#[test]
fn two_seeds_do_not_keep_each_other() {
    let tracker = Tracker::swarm(HERE, 60);
    let torrent = Torrent::single("both", 100_000, 32 * 1024).announce(&tracker.url());
    let homes = [Home::new(), Home::new()];
    homes.iter().for_each(|home| torrent.add_to(home));
    let daemons = homes.each_ref().map(|home| seeding(home, &torrent));
    wait("both are announced", PATIENCE, || (tracker.events(&torrent.info_hash).len() >= 2).then_some(()));
    sleep(Duration::from_secs(8));
    for daemon in &daemons {
        let peers = |daemon: &Daemon| daemon.ask("status", Value::Null)["peers"].as_u64();
        wait_value("no peer is left", PATIENCE, || peers(daemon), |peers| *peers == Some(0));
        daemon.assert_serves(&torrent);
    }
}

#[test]
fn a_hostile_tracker_leaves_the_others_alone() {
    let huge = [b"d8:intervali60e5:peers2000000:".as_slice(), &[1; 2_000_000], b"e"].concat();
    let endless =
        [b"HTTP/1.1 200 OK\r\n".as_slice(), &b"X-Padding: more and more\r\n".repeat(100_000)].concat();
    let answers = [
        Answer::Stall,
        Answer::Trickle,
        Answer::Body(huge),
        Answer::Raw(endless),
        Answer::Raw(Vec::new()),
        Answer::Raw(b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n".to_vec()),
        Answer::Raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n".to_vec()),
        Answer::Raw(b"\0\x01garbage".to_vec()),
        Answer::Body(b"d14:failure reason5:\x1b[31me".to_vec()),
        Answer::Body(b"d8:intervali-99999999999999999999999e5:peers3:abce".to_vec()),
        Answer::Body(b"d8:intervali0e5:peers6:\0\0\0\0\0\0e".to_vec()),
        Answer::Body(b"l".repeat(200_000)),
        Answer::Redirect("file:///etc/passwd".into()),
        Answer::Redirect("http://127.0.0.1:1/elsewhere".into()),
    ];
    let home = Home::new();
    let hostile: Vec<_> = answers.map(|answer| Tracker::start(HERE, move |_| answer.clone())).into();
    let circle = TcpListener::bind((HERE, 0)).unwrap().local_addr().unwrap();
    let mut torrents: Vec<_> = hostile
        .iter()
        .enumerate()
        .map(|(n, tracker)| {
            Torrent::single(&format!("hostile {n}"), 20_000, 16 * 1024).announce(&tracker.url())
        })
        .collect();
    // And one that nobody listens on, one with a name that does not resolve, one that is no URL.
    for url in [
        format!("http://{circle}/announce"),
        "http://no.such.host.invalid/announce".into(),
        "http://[".into(),
    ] {
        torrents.push(Torrent::single(&common::unique("hostile"), 20_000, 16 * 1024).announce(&url));
    }
    torrents.iter().for_each(|torrent| torrent.add_to(&home));
    let mut daemon = home.start();
    torrents.iter().for_each(|torrent| drop(daemon.wait_seeding(torrent)));
    let before = daemon.memory();

    // A good one that comes later is announced at once, though others still hang.
    let good = Tracker::swarm(HERE, 60);
    let torrent = Torrent::single("good", 100_000, 32 * 1024).announce(&good.url());
    torrent.add_to(&home);
    daemon.wait_seeding(&torrent);
    good.wait_event(&torrent.info_hash, "started");
    daemon.assert_serves(&torrent);

    for tracker in &hostile {
        wait("each was asked", Duration::from_secs(120), || tracker.announces().first().map(drop));
    }
    sleep(Duration::from_secs(5));
    for tracker in &hostile {
        let count = tracker.announces().len();
        assert!(
            count <= 4,
            "{count} announces to one failing tracker within seconds: {:?}",
            tracker.announces()[0]
        );
    }
    let after = daemon.memory();
    assert!(after.private_dirty < before.private_dirty + 3072, "{before:?} became {after:?}");
    assert!(!home.log().contains('\x1b'), "control characters are escaped");
    let refused = &torrents[8];
    let said = daemon.torrent(refused);
    assert!(
        said["trackers"][0].to_string().contains("[31m"),
        "the tracker's reason is in the status: {said}"
    );
    assert!(daemon.alive());
    daemon.assert_serves(&torrents[0]);
}

/// A home with one torrent of ten pieces.
fn one(name: &str) -> (Home, Torrent) {
    let home = Home::new();
    let torrent = Torrent::single(name, 310_000, 32 * 1024);
    torrent.add_to(&home);
    (home, torrent)
}

fn seeding<'home>(home: &'home Home, torrent: &Torrent) -> Daemon<'home> {
    let daemon = home.start();
    daemon.wait_seeding(torrent);
    daemon
}

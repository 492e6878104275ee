//! Real processes on the loopback interface: what a torrent lacks is fetched, kept and served, whatever is in place, and
//! whenever the daemon is stopped. What disks do meanwhile is in `fetching/disks.rs`.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::unwrap_used,
    reason = "real processes, files and sockets; a test may panic"
)]

mod common;

#[path = "fetching/disks.rs"]
mod disks;

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use common::daemon::{Daemon, Home};
use common::disk::{overwrite, room, tamper};
use common::peer::{self, BLOCK, RawPeer};
use common::seed::Seed;
use common::torrent::{Torrent, noise};
use common::tracker::{Answer, Tracker};
use common::{PATIENCE, wait, wait_value};
use serde_json::{Value, json};

const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
/// What is on the way when a torrent is stopped, and the pieces that are not whole then, are fetched once more.
const ON_THE_WAY: u64 = 512 * 1024;

#[test]
fn a_dropped_torrent_is_mirrored() {
    let files = [
        ("readme", 700),
        ("empty", 0),
        ("sub/größer.bin", 300_001),
        ("sub/deeper/one byte", 1),
        ("large", 1_200_000),
        ("sub/last and empty", 0),
    ];
    for torrent in
        [Torrent::multi("mirrored", &files, 16 * 1024), Torrent::padded("padded", &files, 32 * 1024)]
    {
        let seed = Seed::without(&[&torrent]);
        let address = seed.address;
        let tracker = Tracker::start(HERE, move |_| Answer::Peers(1800, vec![address]));
        let torrent = torrent.announce(&tracker.url());
        let home = Home::new();
        let daemon = home.start();
        torrent.drop_into(&home.torrents);
        let half = torrent.pieces() / 2;
        seed.gains(&torrent, 0..half);
        let said = daemon.wait_have(&torrent, torrent.bytes_in(0..half));
        assert_eq!(said["state"], "downloading", "{said}");
        assert_eq!(said["reason"], Value::Null);
        seed.gains(&torrent, half..torrent.pieces());
        let said = daemon.wait_seeding(&torrent);
        assert_eq!(said["down_total"], torrent.size(), "nothing is fetched twice: {said}");
        assert!(said["completed"].as_u64().is_some(), "{said}");
        torrent.assert_lies_in(&home.data);
        daemon.assert_serves(&torrent);
        let completed = tracker.wait_event(&torrent.info_hash, "completed");
        assert_eq!(completed.left, 0);
        assert_eq!(tracker.wait_event(&torrent.info_hash, "started").left, torrent.size());
        let log = home.log();
        let complete = |line: &&str| line.contains(&torrent.name) && line.contains("complete");
        assert_eq!(log.lines().filter(complete).count(), 1, "completion is one line: {log}");
        // A restart finds it whole, and it is not told once more.
        assert!(daemon.terminate().0.success());
        home.start().wait_seeding(&torrent);
        let completed = tracker.events(&torrent.info_hash).into_iter().filter(|event| event == "completed");
        assert_eq!(completed.count(), 1);
    }
}

#[test]
fn what_lies_there_already_is_kept() {
    let files = [("whole", 200_000), ("damaged and long", 400_000), ("short", 300_000), ("missing", 100_000)];
    let torrent = Torrent::multi("older", &files, 16 * 1024);
    let seed = Seed::of(&[&torrent]);
    let home = knowing(&seed);
    torrent.write_data(&home.data);
    let path = |name: &str| home.data.join("older").join(name);
    let set_length = |name: &str, length: u64| {
        fs::File::options().write(true).open(path(name)).unwrap().set_len(length).unwrap();
    };
    overwrite(&path("damaged and long"), 100_000);
    set_length("damaged and long", 444_444);
    set_length("short", 150_000);
    fs::remove_file(path("missing")).unwrap();
    torrent.drop_into(&home.torrents);
    let daemon = home.start();
    daemon.wait_seeding(&torrent);
    torrent.assert_lies_in(&home.data);
    // The piece with the damaged byte, and all from the one in which the shorter file breaks off.
    let lacking: Vec<u32> =
        [300_000 / 16_384].into_iter().chain(750_000 / 16_384..torrent.pieces()).collect();
    assert_eq!(seed.sent_pieces(&torrent), lacking);
    let bytes: u64 = lacking.iter().map(|&piece| torrent.bytes_in(piece..piece + 1)).sum();
    assert_eq!(daemon.torrent(&torrent)["down_total"], bytes);
}

#[test]
fn a_file_grows_where_its_pieces_come_unless_all_its_room_is_wanted_at_once() {
    for preallocate in [false, true] {
        let torrent = Torrent::single("room", 8 << 20, 64 * 1024);
        let seed = Seed::without(&[&torrent]);
        let home = knowing(&seed);
        home.set("disk", "preallocate", preallocate);
        torrent.drop_into(&home.torrents);
        let daemon = home.start();
        seed.gains(&torrent, 127..128);
        daemon.wait_have(&torrent, 64 * 1024);
        let taken = room(&home.data.join("room"));
        assert_eq!(taken >= 8 << 20, preallocate, "{taken} bytes, preallocate = {preallocate}");
        assert!(preallocate || taken < 1 << 20, "{taken} bytes for a piece of 64 KiB");
        seed.gains(&torrent, 0..127);
        daemon.wait_seeding(&torrent);
        torrent.assert_lies_in(&home.data);
    }
}

#[test]
fn pieces_beyond_four_gibibytes_lie_where_they_belong() {
    const PIECE: u64 = 1 << 20;
    let (length, end) = (5 << 30, noise("far", 3 << 20));
    let torrent = Torrent::sparse("far", length, 1 << 20, &end);
    let seed = Seed::without(&[&torrent]);
    let home = knowing(&seed);
    torrent.drop_into(&home.torrents);
    let daemon = home.start();
    // The last, and those on both sides of the border.
    seed.gains(&torrent, torrent.pieces() - 4..torrent.pieces());
    seed.gains(&torrent, 4095..4097);
    daemon.wait_have(&torrent, 6 * PIECE);
    let file = fs::File::open(home.data.join("far")).unwrap();
    assert_eq!(file.metadata().unwrap().len(), length);
    let at = |offset: u64, length: usize| {
        let mut bytes = vec![0; length];
        file.read_exact_at(&mut bytes, offset).unwrap();
        bytes
    };
    let begin = length - end.len() as u64;
    assert!(at(begin, end.len()) == end, "the end lies at the end");
    assert!(at(begin % (4 << 30), end.len()).iter().all(|byte| *byte == 0), "and not 4 GiB before it");
    let taken = room(&home.data.join("far"));
    assert!(taken < 32 << 20, "{taken} bytes are taken");
    let mut peer = RawPeer::connect(daemon.address(), &torrent.info_hash).unwrap();
    peer.unchoked().unwrap();
    let block = peer.block(torrent.pieces() - 1, 16 * 1024, 16 * 1024).unwrap();
    assert!(block == end[end.len() - (1 << 20) + 16 * 1024..][..BLOCK]);
}

/// Processes that live for half a second on average, most too short to put anything on record. A peer that comes along
/// with each checks all it gets.
#[test]
fn killed_a_hundred_times_it_ends_with_the_right_content() {
    let torrent = Torrent::single("killed", 12_000_001, 16 * 1024);
    let seed = Seed::of(&[&torrent]);
    seed.slow_down_to(150_000);
    let home = knowing(&seed);
    torrent.drop_into(&home.torrents);
    let address = (HERE, home.port).into();
    let (over, checked) = (AtomicBool::new(false), AtomicU32::new(0));
    let before_the_last = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                leech(address, &torrent, &checked, &over);
                sleep(Duration::from_millis(5));
            }
        });
        let mut random = 0x9e37_79b9_u64;
        let mut have = 0;
        for life in 0..110 {
            let daemon = home.spawn(&[]);
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            sleep(Duration::from_millis(random % 900));
            have = daemon.torrent(&torrent)["have"].as_u64().unwrap_or(have);
            if life % 11 == 10 {
                // What is told to end leaves a record of what it has.
                daemon.terminate();
            } else {
                daemon.kill();
            }
        }
        over.store(true, Ordering::Relaxed);
        have
    });
    assert!(before_the_last > 1_000_000, "it got on: {before_the_last} bytes");
    assert!(before_the_last < torrent.size(), "it was in the middle to the end");
    assert!(checked.into_inner() > 0, "the peer was served");
    seed.slow_down_to(0);
    let daemon = home.start();
    daemon.wait_seeding(&torrent);
    torrent.assert_lies_in(&home.data);
    daemon.assert_serves(&torrent);
}

/// Asks a daemon that may come and go for what it says it has, and checks it.
fn leech(address: SocketAddr, torrent: &Torrent, checked: &AtomicU32, over: &AtomicBool) -> Option<()> {
    let mut peer = RawPeer::connect(address, &torrent.info_hash).ok()?;
    peer.send(peer::INTERESTED, &[]).ok()?;
    let (mut had, mut choked, mut next) = (Vec::new(), true, 0);
    while !over.load(Ordering::Relaxed) {
        let message = peer.receive().ok()?;
        let number = |at: usize| u32::from_be_bytes(message.body[at..at + 4].try_into().unwrap());
        match message.id {
            Some(peer::BITFIELD) => had = pieces_in(&message.body),
            Some(peer::HAVE) => had.push(number(0)),
            Some(peer::CHOKE) => choked = true,
            Some(peer::UNCHOKE) => choked = false,
            Some(peer::PIECE) => {
                let block = &message.body[8..];
                let right = torrent.block(number(0), number(4), u32::try_from(block.len()).unwrap());
                assert!(right.as_deref() == Some(block), "a wrong block of piece {} is served", number(0));
                checked.fetch_add(1, Ordering::Relaxed);
            }
            _ => {}
        }
        // Each piece once, the newest too, one at a time.
        if !choked && next < had.len() && message.id != Some(peer::HAVE) {
            let length = u32::try_from(torrent.bytes_in(had[next]..had[next] + 1)).unwrap();
            peer.request(had[next], 0, length).ok()?;
            next += 1;
        }
    }
    Some(())
}

fn pieces_in(bitfield: &[u8]) -> Vec<u32> {
    let has = |piece: &u32| bitfield[*piece as usize / 8] & (0x80 >> (piece % 8)) != 0;
    (0..u32::try_from(bitfield.len() * 8).unwrap()).filter(has).collect()
}

#[test]
fn after_a_kill_only_what_is_not_on_record_is_hashed() {
    const PIECE: u64 = 16 * 1024;
    let torrent = Torrent::single("recorded", 64 * 16 * 1024, 16 * 1024);
    let seed = Seed::without(&[&torrent]);
    let home = knowing(&seed);
    let data = home.data.join("recorded");
    torrent.drop_into(&home.torrents);
    let daemon = home.start();
    seed.gains(&torrent, 0..20);
    daemon.wait_have(&torrent, 20 * PIECE);
    assert!(daemon.terminate().0.success());
    // What was on record then is not hashed at the next start.
    tamper(&data, 3 * PIECE);
    let daemon = home.start();
    daemon.wait_have(&torrent, 20 * PIECE);
    seed.gains(&torrent, 20..40);
    daemon.wait_have(&torrent, 40 * PIECE);
    daemon.kill();
    tamper(&data, 5 * PIECE);
    tamper(&data, 25 * PIECE);
    // Nobody is there who could give the piece that is found to be wrong.
    drop(seed);
    let daemon = home.start();
    daemon.wait_have(&torrent, 39 * PIECE);
    let mut peer = RawPeer::connect(daemon.address(), &torrent.info_hash).unwrap();
    let had = pieces_in(&peer.expect(peer::BITFIELD).unwrap().body);
    assert_eq!(had, (0..40).filter(|piece| *piece != 25).collect::<Vec<_>>());
}

#[test]
fn what_was_complete_is_never_fetched_again_by_itself() {
    let torrent = Torrent::multi("once", &[("a", 300_000), ("b", 200_000)], 32 * 1024);
    let seed = Seed::of(&[&torrent]);
    let home = knowing(&seed);
    // Where nothing else lies the disk itself would seem to be away.
    Torrent::single("another", 20_000, 16 * 1024).add_to(&home);
    torrent.drop_into(&home.torrents);
    let daemon = home.start();
    daemon.wait_seeding(&torrent);
    fs::remove_dir_all(home.data.join("once")).unwrap();
    let said = daemon.wait_state(&torrent, &["waiting-for-data"]);
    assert!(said["reason"].as_str().is_some_and(|reason| !reason.is_empty()), "{said}");
    assert!(daemon.terminate().0.success());
    let daemon = home.start();
    daemon.wait_state(&torrent, &["waiting-for-data"]);
    sleep(Duration::from_secs(3));
    daemon.wait_state(&torrent, &["waiting-for-data"]);
    assert_eq!(seed.sent(&torrent), torrent.size());
    assert!(!home.data.join("once").exists());
    daemon.ask("resume", json!({"info_hash": torrent.hex()}));
    daemon.wait_seeding(&torrent);
    torrent.assert_lies_in(&home.data);
    assert_eq!(seed.sent(&torrent), 2 * torrent.size());
}

#[test]
fn the_download_rates_hold() {
    const RATE: u64 = 400_000;
    // A rate for the world and one for our own links.
    let cases = [("download", "local-download", "10.0.0.0/8"), ("local-download", "download", "127.0.0.0/8")];
    std::thread::scope(|scope| {
        for (limited, other, local) in cases {
            scope.spawn(move || {
                let torrent = Torrent::single(limited, 6_000_000, 64 * 1024);
                let seed = Seed::of(&[&torrent]);
                let home = knowing(&seed);
                home.set("limits", limited, json!("400k"));
                home.set("limits", other, json!("0"));
                home.set("limits", "local", json!([local]));
                torrent.drop_into(&home.torrents);
                let daemon = home.start();
                let came = || (Instant::now(), daemon.torrent(&torrent)["down_total"].as_u64().unwrap_or(0));
                // It may begin with what was saved up.
                wait("it comes", PATIENCE, || (came().1 > RATE).then_some(()));
                let (start, before) = came();
                sleep(Duration::from_secs(8));
                let (end, after) = came();
                let allowed = (end - start).as_secs_f64() * 400_000.0;
                #[expect(clippy::cast_precision_loss, reason = "a few megabytes")]
                let share = (after - before) as f64 / allowed;
                assert!((0.8..1.1).contains(&share), "{limited}: {share} of what is allowed came");
                // Nor does the other side send more than that.
                assert!(seed.sent(&torrent) < after + 2 * RATE, "{} bytes were sent", seed.sent(&torrent));
            });
        }
    });
}

#[test]
fn a_pause_stops_fetching_and_resume_goes_on() {
    let torrent = Torrent::single("paused", 4_000_000, 32 * 1024);
    let (seed, home) = half_way(&torrent);
    let daemon = home.start();
    wait_half(&daemon, &torrent);
    daemon.ask("pause", json!({"info_hash": torrent.hex()}));
    wait("nobody is connected", PATIENCE, || (seed.connections(&torrent) == 0).then_some(()));
    let (said, sent) = (daemon.wait_state(&torrent, &["paused"]), seed.sent(&torrent));
    seed.slow_down_to(0);
    sleep(Duration::from_secs(2));
    assert_eq!(daemon.torrent(&torrent)["have"], said["have"]);
    assert_eq!(seed.sent(&torrent), sent);
    // A pause outlives the process.
    assert!(daemon.terminate().0.success());
    let daemon = home.start();
    assert_eq!(daemon.wait_state(&torrent, &["paused"])["have"], said["have"]);
    daemon.ask("resume", json!({"info_hash": torrent.hex()}));
    daemon.wait_seeding(&torrent);
    torrent.assert_lies_in(&home.data);
    assert!(seed.sent(&torrent) < torrent.size() + ON_THE_WAY, "{} bytes were sent", seed.sent(&torrent));
}

#[test]
fn a_torrent_that_is_put_back_fetches_only_what_it_lacks() {
    let torrent = Torrent::multi("back", &[("a", 1_500_000), ("b", 2_500_000)], 32 * 1024);
    let (seed, home) = half_way(&torrent);
    let daemon = home.start();
    wait_half(&daemon, &torrent);
    fs::remove_file(home.torrents.join("back.torrent")).unwrap();
    daemon.wait_gone(&torrent);
    wait("nobody is connected", PATIENCE, || (seed.connections(&torrent) == 0).then_some(()));
    seed.slow_down_to(0);
    torrent.drop_into(&home.torrents);
    daemon.wait_seeding(&torrent);
    torrent.assert_lies_in(&home.data);
    assert!(seed.sent(&torrent) < torrent.size() + ON_THE_WAY, "{} bytes were sent", seed.sent(&torrent));
}

#[test]
fn a_liar_is_found_out_and_heard_no_more() {
    let torrent = Torrent::single("lied about", 4_000_000, 64 * 1024);
    let (honest, liar) = (Seed::of(&[&torrent]), Seed::at(Ipv4Addr::new(127, 0, 0, 2).into(), &[&torrent]));
    liar.gains(&torrent, 0..torrent.pieces());
    liar.lies_about(&torrent);
    honest.slow_down_to(1_000_000);
    let home = Home::new();
    home.set("", "peers", json!([liar.address, honest.address]));
    torrent.drop_into(&home.torrents);
    let daemon = home.start();
    daemon.wait_seeding(&torrent);
    torrent.assert_lies_in(&home.data);
    daemon.assert_serves(&torrent);
    assert!(liar.sent(&torrent) > 0, "it was asked");
    assert!(liar.sent(&torrent) < torrent.size(), "{} bytes of lies were taken", liar.sent(&torrent));
    assert_eq!(liar.connections(&torrent), 0);
}

/// A home whose daemon knows this seed and nobody else.
fn knowing(seed: &Seed) -> Home {
    let home = Home::new();
    home.set("", "peers", json!([seed.address]));
    home
}

/// The same with a torrent dropped, from a seed that takes some seconds for it.
fn half_way(torrent: &Torrent) -> (Seed, Home) {
    let seed = Seed::of(&[torrent]);
    seed.slow_down_to(1_000_000);
    let home = knowing(&seed);
    torrent.drop_into(&home.torrents);
    (seed, home)
}

fn wait_half(daemon: &Daemon, torrent: &Torrent) {
    let enough = |said: &Value| said["have"].as_u64() > Some(torrent.size() / 4);
    let said = wait_value("some of it is there", PATIENCE, || daemon.torrent(torrent), enough);
    assert_eq!(said["state"], "downloading", "it is in the middle");
}

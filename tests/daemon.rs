//! Real processes on the loopback interface: what the daemon does when files, disks and its user change things.
//! The peers' and trackers' side is in `serving.rs`.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::unwrap_used,
    reason = "real processes, files and sockets; a test may panic"
)]

mod common;

use std::fs;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use common::Need::Root;
use common::daemon::Home;
use common::disk::{Mount, overwrite, tamper};
use common::peer::{BLOCK, RawPeer};
use common::torrent::Torrent;
use common::tracker::{Answer, COUNTS, Tracker};
use common::{PATIENCE, able, run, wait, wait_value};
use meshseed::metainfo::InfoHash;
use meshseed::storage::io::remember;
use meshseed::storage::resume::Record;
use nix::sys::signal::Signal;
use serde_json::{Value, json};

const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const WAITING: [&str; 2] = ["waiting-for-disk", "waiting-for-data"];

#[test]
fn a_dropped_torrent_is_seeded_and_announced() {
    let (home, tracker) = (Home::new(), Tracker::swarm(HERE, 1800));
    let daemon = home.start();
    let torrent =
        Torrent::multi("dropped", &[("a", 100_000), ("b/c", 33_333)], 32 * 1024).announce(&tracker.url());
    torrent.add_to(&home);
    let said = daemon.wait_seeding(&torrent);
    assert_eq!(said["size"], 133_333);
    assert_eq!(said["name"], "dropped");
    assert_eq!(said["file"], json!(home.torrents.join("dropped.torrent")));
    daemon.assert_serves(&torrent);
    let announce = tracker.wait_event(&torrent.info_hash, "started");
    assert_eq!((announce.left, announce.port), (0, daemon.address().port()));
    drop(daemon);
    assert!(
        !tracker.events(&torrent.info_hash).contains(&"completed".to_owned()),
        "it was whole at the start"
    );
}

#[test]
fn a_removed_torrent_stops_and_its_data_stays() {
    let (home, tracker) = (Home::new(), Tracker::swarm(HERE, 1800));
    let torrent = Torrent::single("removed", 100_000, 32 * 1024).announce(&tracker.url());
    torrent.add_to(&home);
    let daemon = home.start();
    daemon.wait_seeding(&torrent);
    tracker.wait_event(&torrent.info_hash, "started");
    let mut peer = RawPeer::connect(daemon.address(), &torrent.info_hash).unwrap();
    peer.unchoked().unwrap();
    fs::remove_file(home.torrents.join("removed.torrent")).unwrap();
    daemon.wait_gone(&torrent);
    tracker.wait_event(&torrent.info_hash, "stopped");
    assert!(common::peer::closed_within(&mut peer.stream, PATIENCE));
    assert!(RawPeer::connect(daemon.address(), &torrent.info_hash).is_err());
    assert_eq!(fs::read(home.data.join("removed")).unwrap(), torrent.content());
}

#[test]
fn a_rename_is_a_move_without_a_new_check() {
    let home = Home::new();
    let torrent = Torrent::single("renamed", 100_000, 32 * 1024);
    torrent.add_to(&home);
    let daemon = home.start();
    daemon.wait_seeding(&torrent);
    home.wait_recorded(&torrent);
    tamper(&home.data.join("renamed"), 99_999);
    let target = home.torrents.join("another name.torrent");
    fs::rename(home.torrents.join("renamed.torrent"), &target).unwrap();
    let moved = |said: &Value| said["file"] == json!(target) && said["state"] == "seeding";
    let said = wait_value("the move is seen", PATIENCE, || daemon.torrent(&torrent), moved);
    assert_eq!(said["have"], said["size"], "a check would have found the change");
    let block = RawPeer::connect(daemon.address(), &torrent.info_hash).and_then(|mut peer| {
        peer.unchoked()?;
        peer.block(0, 0, 16 * 1024)
    });
    assert_eq!(block.unwrap(), torrent.content()[..BLOCK], "the data is served from where it was");
    // The record remembers that place beyond this process.
    assert!(daemon.terminate().0.success());
    let daemon = home.start();
    daemon.wait_seeding(&torrent);
}

#[test]
fn a_corrupt_torrent_is_refused_with_a_reason_and_revives() {
    let home = Home::new();
    let torrent = Torrent::single("corrupt", 40_000, 16 * 1024);
    torrent.write_data(&home.data);
    let path = home.torrents.join("corrupt.torrent");
    fs::write(&path, b"d4:infod4:name7:corruptee").unwrap();
    let daemon = home.start();
    let refused = daemon.wait_refused("corrupt.torrent");
    assert!(refused.contains("piece"), "the reason names the key: {refused}");
    // Several scans later it was still warned about once.
    std::thread::sleep(Duration::from_secs(4));
    let warnings = home.log().lines().filter(|line| line.contains("corrupt.torrent")).count();
    assert_eq!(warnings, 1, "{}", home.log());
    fs::write(&path, torrent.metainfo()).unwrap();
    daemon.wait_seeding(&torrent);
    assert!(!daemon.refused().contains("corrupt.torrent"));
}

#[test]
fn a_duplicate_takes_over_when_the_first_goes() {
    let home = Home::new();
    let torrent = Torrent::single("twice", 40_000, 16 * 1024);
    torrent.add_to(&home);
    fs::copy(home.torrents.join("twice.torrent"), home.torrents.join("zz.torrent")).unwrap();
    let daemon = home.start();
    daemon.wait_seeding(&torrent);
    daemon.wait_refused("zz.torrent");
    fs::remove_file(home.torrents.join("twice.torrent")).unwrap();
    let target = json!(home.torrents.join("zz.torrent"));
    let taken = |said: &Value| said["file"] == target && said["state"] == "seeding";
    wait_value("the copy takes over", PATIENCE, || daemon.torrent(&torrent), taken);
}

#[test]
fn a_half_written_torrent_is_picked_up_when_whole() {
    let home = Home::new();
    let daemon = home.start();
    let torrent = Torrent::single("slowly", 400_000, 16 * 1024);
    torrent.write_data(&home.data);
    let bytes = torrent.metainfo();
    let mut file = fs::File::create(home.torrents.join("slowly.torrent")).unwrap();
    file.write_all(&bytes[..bytes.len() / 2]).unwrap();
    daemon.wait_refused("slowly.torrent");
    file.write_all(&bytes[bytes.len() / 2..]).unwrap();
    daemon.wait_seeding(&torrent);
}

#[test]
fn a_replaced_torrent_gives_way_to_the_new_one() {
    let home = Home::new();
    let (old, new) = (Torrent::single("old", 40_000, 16 * 1024), Torrent::single("new", 50_000, 16 * 1024));
    [&old, &new].iter().for_each(|torrent| torrent.write_data(&home.data));
    home.set("", "layout", json!("name"));
    let path = home.torrents.join("latest.torrent");
    fs::write(&path, old.metainfo()).unwrap();
    let daemon = home.start();
    daemon.wait_seeding(&old);
    fs::write(&path, new.metainfo()).unwrap();
    daemon.wait_seeding(&new);
    daemon.wait_gone(&old);
    daemon.assert_serves(&new);
}

#[test]
fn torrents_lie_deeper_where_no_torrent_lies_above() {
    let home = Home::new();
    let names = ["a", "b", "hidden"].map(|name| Torrent::single(name, 20_000, 16 * 1024));
    for (torrent, folder) in names.iter().zip(["x/y", "z", "x/y/deeper"]) {
        let folder = home.torrents.join(folder);
        fs::create_dir_all(&folder).unwrap();
        torrent.write_data(&home.data);
        torrent.drop_into(&folder);
    }
    let daemon = home.start();
    daemon.wait_seeding(&names[0]);
    daemon.wait_seeding(&names[1]);
    assert!(daemon.torrent(&names[2]).is_null(), "a folder with a torrent is not descended from");
}

#[test]
fn what_is_damaged_is_found_and_the_rest_is_served() {
    let home = Home::new();
    let torrent = Torrent::single("damaged", 100_000, 16 * 1024);
    torrent.write_data(&home.data);
    overwrite(&home.data.join("damaged"), 20_000);
    torrent.drop_into(&home.torrents);
    let daemon = home.start();
    let said = daemon.wait_state(&torrent, &["downloading"]);
    assert_eq!(said["have"], 100_000 - 16 * 1024);
    let mut peer = RawPeer::connect(daemon.address(), &torrent.info_hash).unwrap();
    peer.unchoked().unwrap();
    assert_eq!(peer.block(0, 0, 16 * 1024).unwrap(), torrent.content()[..BLOCK]);
    peer.stream.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
    assert!(peer.block(1, 0, 16 * 1024).is_err(), "a piece that failed its hash is not served");
}

#[test]
fn a_restart_hashes_nothing() {
    let home = Home::new();
    let torrent = Torrent::multi("restart", &[("a", 100_000), ("b", 50_000)], 32 * 1024);
    torrent.add_to(&home);
    let daemon = home.start();
    daemon.wait_seeding(&torrent);
    let (status, took) = daemon.terminate();
    assert!(status.success(), "{status}");
    assert!(took < Duration::from_secs(5), "{took:?}");
    tamper(&home.data.join("restart/a"), 70_000);
    home.start().wait_seeding(&torrent);
}

#[test]
fn kill_and_restart_hash_nothing() {
    let home = Home::new();
    let torrent = Torrent::single("killed", 100_000, 32 * 1024);
    torrent.add_to(&home);
    let daemon = home.start();
    daemon.wait_seeding(&torrent);
    home.wait_recorded(&torrent);
    daemon.kill();
    tamper(&home.data.join("killed"), 70_000);
    home.start().wait_seeding(&torrent);
}

#[test]
fn changed_data_is_checked_again_at_a_restart() {
    let home = Home::new();
    let torrent = Torrent::single("changed", 100_000, 32 * 1024);
    torrent.add_to(&home);
    let daemon = home.start();
    daemon.wait_seeding(&torrent);
    assert!(daemon.terminate().0.success());
    overwrite(&home.data.join("changed"), 70_000);
    let daemon = home.start();
    let partly = |said: &Value| said["have"] == 100_000 - 32 * 1024;
    wait_value("the damage is found", PATIENCE, || daemon.torrent(&torrent), partly);
}

#[test]
fn a_damaged_record_is_set_aside_and_the_data_checked() {
    let damages: [fn(&mut Vec<u8>); 3] =
        [|bytes| bytes.truncate(bytes.len() / 2), |bytes| bytes.fill(0), |bytes| bytes.clear()];
    for damage in damages {
        let home = Home::new();
        let torrent = Torrent::single("record", 100_000, 32 * 1024);
        torrent.add_to(&home);
        let daemon = home.start();
        daemon.wait_seeding(&torrent);
        assert!(daemon.terminate().0.success());
        let resume = home.state.join("resume");
        let mut bytes = fs::read(&resume).unwrap();
        damage(&mut bytes);
        fs::write(&resume, bytes).unwrap();
        tamper(&home.data.join("record"), 70_000);
        let daemon = home.start();
        let partly = |said: &Value| said["have"] == 100_000 - 32 * 1024;
        wait_value("the data was hashed", PATIENCE, || daemon.torrent(&torrent), partly);
    }
}

#[test]
fn a_record_of_the_future_is_kept_aside() {
    let home = Home::new();
    fs::write(home.state.join("resume"), b"meshseed resume 9999\nsomething else").unwrap();
    let torrent = Torrent::single("future", 40_000, 16 * 1024);
    torrent.add_to(&home);
    home.start().wait_seeding(&torrent);
    let kept = fs::read_dir(&home.state).unwrap().any(|entry| {
        fs::read(entry.unwrap().path()).is_ok_and(|bytes| bytes.starts_with(b"meshseed resume 9999"))
    });
    assert!(kept, "a record that is not understood is not thrown away");
}

#[test]
fn an_absent_data_root_is_waited_for_and_never_made() {
    let home = Home::new();
    fs::remove_dir(&home.data).unwrap();
    let torrent = Torrent::single("absent", 40_000, 16 * 1024);
    torrent.drop_into(&home.torrents);
    let daemon = home.start();
    let said = daemon.wait_state(&torrent, &WAITING);
    assert!(said["reason"].as_str().is_some_and(|reason| reason.contains("data")), "{said}");
    std::thread::sleep(Duration::from_secs(3));
    assert!(!home.data.exists());
    torrent.write_data(&home.data);
    daemon.wait_seeding(&torrent);
    daemon.assert_serves(&torrent);
}

#[test]
fn data_that_goes_while_it_is_served_comes_back_by_itself() {
    let home = Home::new();
    let torrents = ["gone", "stays"].map(|name| Torrent::single(name, 300_000, 32 * 1024));
    torrents[0].add_to(&home);
    // The other one lies elsewhere, as its sidecar says.
    let elsewhere = home.folder.path().join("elsewhere");
    torrents[1].write_data(&elsewhere);
    fs::write(home.torrents.join("stays.where"), elsewhere.join("stays").to_str().unwrap()).unwrap();
    torrents[1].drop_into(&home.torrents);
    let daemon = home.start();
    torrents.iter().for_each(|torrent| drop(daemon.wait_seeding(torrent)));
    daemon.assert_serves(&torrents[0]);
    let away = home.folder.path().join("away");
    fs::rename(&home.data, &away).unwrap();
    wait_value(
        "the loss is noticed",
        Duration::from_secs(150),
        || {
            // A peer that asks is one way to notice; what it gets is right or nothing.
            if let Ok(mut peer) = RawPeer::connect(daemon.address(), &torrents[0].info_hash) {
                peer.stream.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
                let block = peer.unchoked().and_then(|()| peer.block(3, 0, 16 * 1024));
                assert!(block.is_err() || block.unwrap() == torrents[0].content()[3 * 32 * 1024..][..BLOCK]);
            }
            daemon.torrent(&torrents[0])
        },
        |said| said["state"].as_str().is_some_and(|state| WAITING.contains(&state)),
    );
    daemon.assert_serves(&torrents[1]);
    assert!(!home.data.exists(), "a data root is never made");
    fs::rename(&away, &home.data).unwrap();
    daemon.wait_seeding(&torrents[0]);
    daemon.assert_serves(&torrents[0]);
}

#[test]
fn an_unmounted_disk_is_waited_for() {
    if !able(&[Root]) {
        return;
    }
    let home = Home::new();
    let torrent = Torrent::single("mounted", 300_000, 32 * 1024);
    let disk = Mount::tmpfs(&home.data, 16);
    torrent.add_to(&home);
    let daemon = home.start();
    daemon.wait_seeding(&torrent);
    home.wait_recorded(&torrent);
    let kept = home.folder.path().join("kept");
    fs::copy(home.data.join("mounted"), &kept).unwrap();
    let time = fs::metadata(home.data.join("mounted")).unwrap().modified().unwrap();
    drop(disk);
    let said = daemon.wait_state(&torrent, &WAITING);
    assert!(said["reason"].as_str().is_some_and(|reason| !reason.is_empty()), "{said}");
    assert_eq!(fs::read_dir(&home.data).unwrap().count(), 0, "nothing is made on the empty mount point");
    let _disk = Mount::tmpfs(&home.data, 16);
    fs::copy(&kept, home.data.join("mounted")).unwrap();
    fs::File::open(home.data.join("mounted")).unwrap().set_modified(time).unwrap();
    daemon.wait_seeding(&torrent);
    daemon.assert_serves(&torrent);
}

#[test]
fn data_on_a_read_only_disk_is_seeded() {
    if !able(&[Root]) {
        return;
    }
    let home = Home::new();
    let torrent = Torrent::single("read only", 300_000, 32 * 1024);
    let disk = Mount::tmpfs(&home.data, 16);
    torrent.add_to(&home);
    run(Command::new("mount").args(["-o", "remount,ro"]).arg(&home.data));
    let daemon = home.start();
    daemon.wait_seeding(&torrent);
    daemon.assert_serves(&torrent);
    drop(daemon);
    drop(disk);
}

#[test]
fn a_link_that_leaves_the_tree_is_not_followed() {
    let home = Home::new();
    let torrent = Torrent::multi("links", &[("a", 20_000), ("b", 20_000)], 16 * 1024);
    torrent.add_to(&home);
    let outside = home.folder.path().join("outside");
    fs::rename(home.data.join("links/b"), &outside).unwrap();
    std::os::unix::fs::symlink(&outside, home.data.join("links/b")).unwrap();
    let daemon = home.start();
    let settled =
        |said: &Value| said["state"].as_str().is_some_and(|state| !["queued", "checking"].contains(&state));
    let said = wait_value("the check is over", PATIENCE, || daemon.torrent(&torrent), settled);
    assert_ne!(said["state"], "seeding");
    assert!(said["have"].as_u64() < Some(40_000), "{said}");
}

#[test]
fn a_thousand_torrents_start_and_end_in_good_time() {
    let (home, tracker) = (Home::new(), Tracker::swarm(HERE, 1800));
    let torrents: Vec<Torrent> = (0..1000)
        .map(|n| Torrent::single(&format!("small {n}"), 3000 + n, 16 * 1024).announce(&tracker.url()))
        .collect();
    torrents.iter().for_each(|torrent| torrent.add_to(&home));
    let daemon = home.start();
    torrents.iter().for_each(|torrent| drop(daemon.wait_seeding(torrent)));
    torrents.iter().for_each(|torrent| drop(tracker.wait_event(&torrent.info_hash, "started")));
    let announces = tracker.announces();
    assert_eq!(announces.len(), 1000, "each is announced once");
    // The one before may not have closed yet when the next opens.
    assert!(tracker.most_open() <= 2, "one connection serves a tracker's queue, not {}", tracker.most_open());
    // The announces told of no leechers.
    let counted = |said: &Value| said["trackers"][0]["leechers"] == COUNTS[2];
    torrents.iter().for_each(|torrent| {
        let said = wait_value("its peers are counted", PATIENCE, || daemon.torrent(torrent), counted);
        let tracker = &said["trackers"][0];
        assert_eq!([&tracker["seeds"], &tracker["downloads"]], [&json!(COUNTS[0]), &json!(COUNTS[1])]);
    });
    let scrapes = tracker.scrapes();
    let announced: Vec<u32> = announces.iter().map(|announce| announce.connection).collect();
    assert!(scrapes.iter().all(|(connection, _)| announced.contains(connection)), "they share connections");
    assert!(scrapes.len() < 200, "{} scrapes", scrapes.len());
    assert_eq!(scrapes.iter().map(|(_, torrents)| torrents.len()).sum::<usize>(), 1000, "each once");
    let (status, took) = daemon.terminate();
    assert!(status.success(), "{status}");
    assert!(took < Duration::from_secs(5), "{took:?}");
}

#[test]
fn the_end_is_announced_within_five_seconds() {
    let (home, tracker) = (Home::new(), Tracker::swarm(HERE, 1800));
    let dead = Tracker::start(HERE, |_| Answer::Stall);
    let torrents = [&tracker, &tracker, &dead, &dead].map(|tracker| {
        let name = common::unique("ended");
        Torrent::single(&name, 40_000, 16 * 1024).announce(&tracker.url())
    });
    torrents.iter().for_each(|torrent| torrent.add_to(&home));
    let daemon = home.start();
    torrents.iter().for_each(|torrent| drop(daemon.wait_seeding(torrent)));
    torrents[..2].iter().for_each(|torrent| drop(tracker.wait_event(&torrent.info_hash, "started")));
    let (status, took) = daemon.terminate();
    assert!(status.success(), "{status}");
    assert!(took < Duration::from_secs(5), "{took:?}");
    torrents[..2].iter().for_each(|torrent| drop(tracker.wait_event(&torrent.info_hash, "stopped")));
    assert!(!home.control.exists(), "the control socket is gone");
}

#[test]
fn sighup_applies_a_good_configuration_and_keeps_the_old_for_a_bad_one() {
    let home = Home::new();
    let (first, second) =
        (Torrent::single("first", 40_000, 16 * 1024), Torrent::single("second", 40_000, 16 * 1024));
    first.add_to(&home);
    let more = home.folder.path().join("more");
    fs::create_dir(&more).unwrap();
    second.write_data(&home.data);
    second.drop_into(&more);
    let mut daemon = home.start();
    daemon.wait_seeding(&first);

    fs::write(&home.config, "torrents = [\nno such key = 1").unwrap();
    let before = home.log().len();
    daemon.signal(Signal::SIGHUP);
    wait("the bad file is complained about", PATIENCE, || (home.log().len() > before).then_some(()));
    assert!(daemon.alive());
    daemon.wait_seeding(&first);
    let error = || daemon.ask("status", Value::Null)["last_error"].clone();
    assert!(error().as_str().unwrap().contains("the old one stays"), "{}", error());

    home.set("", "torrents", json!([home.torrents, more]));
    home.configure();
    daemon.signal(Signal::SIGHUP);
    daemon.wait_seeding(&second);
    assert_eq!(error(), Value::Null);
    daemon.wait_seeding(&first);

    home.set("", "torrents", json!([more]));
    home.configure();
    daemon.signal(Signal::SIGHUP);
    daemon.wait_gone(&first);
    daemon.wait_seeding(&second);
}

#[test]
fn sighup_moves_to_another_port_and_another_data_root() {
    let home = Home::new();
    let torrent = Torrent::single("moving", 40_000, 16 * 1024);
    torrent.add_to(&home);
    let daemon = home.start();
    daemon.wait_seeding(&torrent);
    let before = daemon.address();
    let error = || daemon.ask("status", Value::Null)["last_error"].clone();
    let taken = TcpListener::bind("[::]:0").unwrap();
    home.set("listen", "port", taken.local_addr().unwrap().port());
    home.configure();
    daemon.signal(Signal::SIGHUP);
    let is_told = |error: &Value| error.as_str().is_some_and(|error| error.contains("listening as before"));
    wait_value("the port is taken", PATIENCE, error, is_told);

    let elsewhere = home.folder.path().join("elsewhere");
    fs::rename(&home.data, &elsewhere).unwrap();
    home.set("", "data", json!(elsewhere));
    home.set("listen", "port", json!("30011-30019"));
    home.configure();
    daemon.signal(Signal::SIGHUP);
    let data = elsewhere.join("moving");
    let moved = |said: &Value| said["data"] == json!(data) && said["state"] == "seeding";
    wait_value("the data is served from its new place", PATIENCE, || daemon.torrent(&torrent), moved);
    // Between closing and opening it listens nowhere.
    let address = || daemon.ask("status", Value::Null)["listen"][0].as_str()?.parse::<SocketAddr>().ok();
    let after = wait("it listens elsewhere", PATIENCE, || address().filter(|now| *now != before));
    assert!((30_011..=30_019).contains(&after.port()), "{after}");
    assert!(TcpStream::connect(before).is_err(), "the old socket is closed");
    TcpStream::connect(after).unwrap();
    let bound = |address: SocketAddr| UdpSocket::bind(address).is_err();
    assert!(bound(after) && !bound(before), "and so does the UDP socket");
    assert_eq!(error(), Value::Null, "that is over");
}

#[test]
fn a_torrent_that_is_put_back_is_known_still_but_not_for_ever() {
    let home = Home::new();
    for byte in 1..=30 {
        let data: PathBuf = "x".repeat(20_000).into();
        let record = Record { data: Some(data.into()), ..Record::new(InfoHash::from_bytes([byte; 20])) };
        remember(home.state.clone(), record).unwrap();
    }
    let torrent = Torrent::single("put back", 40_000, 16 * 1024);
    torrent.add_to(&home);
    // A directory with nothing in it may be one whose disk is away.
    Torrent::single("stays", 40_000, 16 * 1024).add_to(&home);
    let size = || fs::metadata(home.state.join("resume")).unwrap().len();
    let daemon = home.start();
    daemon.wait_seeding(&torrent);
    assert!(daemon.terminate().0.success());
    assert!(size() > 600_000);
    // Whoever hashes it finds it.
    tamper(&home.data.join("put back"), 20_000);
    let daemon = home.start();
    daemon.wait_seeding(&torrent);
    fs::remove_file(home.torrents.join("put back.torrent")).unwrap();
    daemon.wait_gone(&torrent);
    assert!(daemon.terminate().0.success());
    assert!((200_000..300_000).contains(&size()), "{} bytes", size());
    torrent.drop_into(&home.torrents);
    let daemon = home.start();
    daemon.wait_seeding(&torrent);
    drop(daemon);
}

#[test]
fn sigusr1_writes_the_status_to_the_log() {
    let home = Home::new();
    let torrent = Torrent::single("told", 40_000, 16 * 1024);
    torrent.add_to(&home);
    let daemon = home.start();
    daemon.wait_seeding(&torrent);
    let before = home.log().len();
    daemon.signal(Signal::SIGUSR1);
    wait("the status is in the log", PATIENCE, || home.log()[before..].contains("seeding").then_some(()));
}

#[test]
fn nothing_is_written_to_the_state_while_idle() {
    let home = Home::new();
    let torrent = Torrent::single("idle", 40_000, 16 * 1024);
    torrent.add_to(&home);
    let daemon = home.start();
    daemon.wait_seeding(&torrent);
    home.wait_recorded(&torrent);
    let listing = || run(Command::new("find").arg(&home.state).args(["-printf", "%P %s %T@ %i\n"]));
    let before = listing();
    std::thread::sleep(Duration::from_secs(10));
    assert_eq!(listing(), before);
}

#[test]
fn a_scan_finds_what_inotify_cannot_tell() {
    let home = Home::new();
    // A user namespace without a single inotify instance, which is what a full table looks like.
    let script = "echo 0 > /proc/sys/user/max_inotify_instances && exec \"$0\" \"$@\"";
    let possible =
        Command::new("unshare").args(["--user", "--map-root-user", "sh", "-c", script, "true"]).status();
    if !possible.is_ok_and(|status| status.success()) && !able(&[Root]) {
        return;
    }
    let mut daemon = home.start_by(&["unshare", "--user", "--map-root-user", "sh", "-c", script]);
    let torrent = Torrent::single("found", 40_000, 16 * 1024);
    torrent.add_to(&home);
    daemon.wait_seeding(&torrent);
    fs::remove_file(home.torrents.join("found.torrent")).unwrap();
    daemon.wait_gone(&torrent);
    assert!(daemon.alive());
}

#[test]
fn privileges_are_dropped_after_binding() {
    if !able(&[Root]) {
        return;
    }
    let home = Home::new();
    home.set("", "user", json!("nobody"));
    run(Command::new("chown").args(["-R", "nobody"]).arg(home.folder.path()));
    let torrent = Torrent::single("nobody's", 40_000, 16 * 1024);
    torrent.add_to(&home);
    let daemon = home.start();
    daemon.wait_seeding(&torrent);
    let status = fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
    let field =
        |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().to_owned();
    assert!(field("Uid:").split_whitespace().all(|id| id == "65534"), "{status}");
    assert_eq!(field("NoNewPrivs:"), "1");
    assert_eq!(field("CapEff:").trim_start_matches('0'), "");
    assert!(daemon.terminate().0.success());
    assert!(home.state.join("resume").exists(), "the state folder can still be written");
}

/// As of one that root copies to a router with its mode.
#[test]
fn a_file_that_the_daemons_user_may_not_read_is_refused_until_it_may() {
    if !able(&[Root]) {
        return;
    }
    let home = Home::new();
    home.set("", "user", json!("nobody"));
    run(Command::new("chown").args(["-R", "nobody"]).arg(home.folder.path()));
    let torrent = Torrent::single("private", 40_000, 16 * 1024);
    torrent.write_data(&home.data);
    let file = home.torrents.join("private.torrent");
    let link = home.torrents.join("link.magnet");
    fs::write(&file, torrent.metainfo()).unwrap();
    fs::write(&link, Torrent::single("linked", 40_000, 16 * 1024).magnet("")).unwrap();
    for path in [&file, &link] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    }
    let daemon = home.start();
    for name in ["private.torrent", "link.magnet"] {
        assert!(daemon.wait_refused(name).contains("it cannot be read: Permission denied"));
    }
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    daemon.wait_seeding(&torrent);
}

#[test]
fn two_daemons_share_a_port_range_and_not_a_control_socket() {
    let (one, two) = (Home::new(), Home::new());
    two.set("listen", "port", json!("30001-30009"));
    one.set("listen", "port", json!("30001-30009"));
    let first = one.start();
    let second = two.start();
    assert_ne!(first.address().port(), second.address().port());
    // A third that is given the first one's socket, and most likely its state, must not take it away.
    let three = Home::new();
    three.set("", "control", json!(one.control));
    let mut third = three.command(&[]).spawn().unwrap();
    let ended = wait("the third gives up", PATIENCE, || third.try_wait().unwrap());
    assert_eq!(ended.code(), Some(1));
    assert!(three.log().contains("control.sock"), "{}", three.log());
    assert_eq!(first.ask("status", Value::Null)["listen"][0], json!(first.address().to_string()));
}

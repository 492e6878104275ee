//! Disks that fill up, turn read-only, are torn out and come back, or are not there at all, while something is fetched.

use std::fs;
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use nix::sys::statvfs::statvfs;
use serde_json::json;

use crate::common::Need::{Fat, Python, Root};
use crate::common::daemon::{Daemon, Home};
use crate::common::disk::{Image, Mount, room};
use crate::common::seed::Seed;
use crate::common::torrent::{Torrent, noise};
use crate::common::{PATIENCE, able, machine, wait_value};
use crate::knowing;

/// How long a disk that is wrong is left so, while nothing must happen: some scans.
const SCANS: Duration = Duration::from_secs(4);

#[test]
fn a_full_disk_stops_its_own_torrents_until_there_is_room() {
    if !able(&[Root]) {
        return;
    }
    // The floor, and with none the disk's own end.
    for (floor, left) in [("1M", 1 << 20), ("0", 0)] {
        let [large, small] = [("large", 8_000_000), ("small", 400_000)]
            .map(|(name, length)| Torrent::single(name, length, 64 * 1024));
        let elsewhere = Torrent::single("elsewhere", 3_000_000, 64 * 1024);
        let seed = Seed::of(&[&large, &elsewhere]);
        let home = knowing(&seed);
        home.set("disk", "free-floor", json!(floor));
        let disk = Mount::tmpfs(&home.data, 13);
        small.add_to(&home);
        let ballast = home.data.join("ballast");
        fs::write(&ballast, noise("ballast", 6 << 20)).unwrap();
        let daemon = home.start();
        daemon.wait_seeding(&small);
        large.drop_into(&home.torrents);
        let said = wait_value(
            "it says why nothing comes",
            PATIENCE,
            || daemon.torrent(&large),
            |said| said["reason"].as_str().is_some_and(|reason| reason.contains("free")),
        );
        assert_eq!(said["state"], "incomplete", "what is there of it is served: {said}");
        assert!(said["have"].as_u64() > Some(0) && said["have"] != said["size"], "{said}");
        assert!(free(&home.data) >= left, "{} bytes are free", free(&home.data));

        // Others go on, and what is there is served.
        drop_elsewhere(&elsewhere, &home);
        daemon.wait_seeding(&elsewhere);
        daemon.assert_serves(&small);
        let sent = seed.sent(&large);
        sleep(SCANS);
        assert!(seed.sent(&large) < sent + 500_000, "it does not try again and again");
        let told = |line: &&str| line.contains("\"large\"");
        assert!(home.log().lines().filter(told).count() < 5, "it is told once: {}", home.log());

        fs::remove_file(ballast).unwrap();
        daemon.wait_seeding(&large);
        large.assert_lies_in(&home.data);
        daemon.assert_serves(&large);
        drop((daemon, disk));
    }
}

#[test]
fn where_a_mount_is_required_nothing_is_written_beside_it() {
    if !able(&[Root]) {
        return;
    }
    let torrent = Torrent::single("required", 2_000_000, 64 * 1024);
    let seed = Seed::of(&[&torrent]);
    let home = knowing(&seed);
    home.set("disk", "require-mount", true);
    home.set("disk", "free-floor", json!("1M"));
    torrent.drop_into(&home.torrents);
    let daemon = home.start();
    // The file system of the root, then one in memory.
    for mounted in [None, Some(Mount::tmpfs as fn(&Path, u32) -> Mount)] {
        let _disk = mounted.map(|mount| mount(&home.data, 16));
        let said = daemon.wait_state(&torrent, &["waiting-for-disk"]);
        assert!(said["reason"].as_str().is_some_and(|reason| reason.contains("mount")), "{said}");
        sleep(SCANS);
        daemon.wait_state(&torrent, &["waiting-for-disk"]);
        assert_eq!(fs::read_dir(&home.data).unwrap().count(), 0);
    }
    assert_eq!(seed.sent(&torrent), 0);
    let image = Image::new(home.folder.path().join("image"), 32, "ext4");
    let disk = image.mount(&home.data, "rw");
    daemon.wait_seeding(&torrent);
    torrent.assert_lies_in(&home.data);
    daemon.assert_serves(&torrent);
    drop((daemon, disk));
    assert_eq!(fs::read_dir(&home.data).unwrap().count(), 0, "nothing lies below the disk");
}

#[test]
fn an_absent_data_root_is_not_made_to_fetch_into_it() {
    let torrent = Torrent::multi("rootless", &[("a", 300_000), ("b/c", 30_000)], 32 * 1024);
    let seed = Seed::of(&[&torrent]);
    let home = knowing(&seed);
    fs::remove_dir(&home.data).unwrap();
    torrent.drop_into(&home.torrents);
    let daemon = home.start();
    let said = daemon.wait_state(&torrent, &["waiting-for-disk"]);
    assert!(said["reason"].as_str().is_some_and(|reason| reason.contains("data")), "{said}");
    sleep(SCANS);
    assert!(!home.data.exists());
    assert_eq!(seed.sent(&torrent), 0);
    fs::create_dir(&home.data).unwrap();
    daemon.wait_seeding(&torrent);
    torrent.assert_lies_in(&home.data);
}

#[test]
fn a_disk_that_turns_read_only_parks_its_torrent_until_it_is_repaired() {
    if !able(&[Root]) {
        return;
    }
    let case = Case::new();
    let disk = case.image.mount(&case.home.data, "errors=remount-ro");
    let daemon = case.start();
    disk.spoil();
    case.assert_parked(&daemon, "read-only");
    // It is let go of, as its owner will take it away.
    disk.unmount();
    case.image.repair();
    let disk = case.image.mount(&case.home.data, "errors=remount-ro");
    case.assert_completes(&daemon);
    drop((daemon, disk));
}

/// What had been written and was not on the disk yet is lost with it, and has to be noticed.
#[test]
fn a_disk_that_is_torn_out_parks_its_torrent_until_it_is_back() {
    if !able(&[Root, Python("fcntl")]) {
        return;
    }
    let case = Case::new();
    let disk = case.image.mount(&case.home.data, "rw");
    let daemon = case.start();
    disk.tear_out();
    case.assert_parked(&daemon, "");
    disk.unmount();
    case.assert_parked(&daemon, "");
    assert_eq!(fs::read_dir(&case.home.data).unwrap().count(), 0, "nothing is made on the empty mount point");
    let disk = case.image.mount(&case.home.data, "rw");
    case.assert_completes(&daemon);
    drop((daemon, disk));
}

#[test]
fn a_disk_that_is_unmounted_while_in_use_parks_its_torrent_until_it_is_back() {
    if !able(&[Root]) {
        return;
    }
    let case = Case::new();
    let disk = case.image.mount(&case.home.data, "rw");
    let daemon = case.start();
    // Lazily: it stays for those who hold it open.
    drop(disk);
    case.assert_parked(&daemon, "mount");
    assert_eq!(fs::read_dir(&case.home.data).unwrap().count(), 0, "nothing is made on the empty mount point");
    let disk = case.image.mount(&case.home.data, "rw");
    case.assert_completes(&daemon);
    drop((daemon, disk));
}

#[test]
fn fat_takes_what_it_can_hold() {
    if !able(&[Root, Fat]) || !machine::knows_fat() {
        return;
    }
    let files = [("a", 700_000), ("empty", 0), ("sub/Größe.bin", 1_300_001)];
    let [huge, ahead] = [("huge", 5 << 30), ("ahead", 100 << 20)]
        .map(|(name, length)| Torrent::sparse(name, length, 1 << 20, &noise(name, 1 << 20)));
    let good = Torrent::multi("good", &files, 32 * 1024);
    let seed = Seed::of(&[&good, &huge]);
    let seed_ahead = Seed::without(&[&ahead]);
    seed_ahead.gains(&ahead, 99..100);
    let home = Home::new();
    home.set("", "peers", json!([seed.address, seed_ahead.address]));
    home.set("disk", "free-floor", json!("1M"));
    let image = Image::new(home.folder.path().join("image"), 200, "vfat");
    let disk = image.mount(&home.data, "utf8");
    let daemon = home.start();
    [&huge, &ahead, &good].iter().for_each(|torrent| torrent.drop_into(&home.torrents));
    daemon.wait_seeding(&good);
    good.assert_lies_in(&home.data);
    let said = daemon.wait_state(&huge, &["error"]);
    assert!(said["reason"].as_str().is_some_and(|reason| reason.contains("4 GiB")), "{said}");
    assert_eq!(seed.sent(&huge), 0);
    // A piece far ahead would fill all before it with zeros: it has to wait.
    daemon.wait_state(&ahead, &["downloading"]);
    sleep(SCANS);
    assert_eq!(seed_ahead.sent(&ahead), 0);
    seed_ahead.gains(&ahead, 0..2);
    daemon.wait_have(&ahead, 2 << 20);
    let taken = room(&home.data.join("ahead"));
    assert!(taken < 4 << 20, "{taken} bytes are taken");
    drop((daemon, disk));
}

/// A torrent of which half has come to a disk of its own when that goes wrong, and one that lies elsewhere.
struct Case {
    home: Home,
    image: Image,
    torrent: Torrent,
    elsewhere: Torrent,
    seed: Seed,
}

impl Case {
    fn new() -> Self {
        let torrent = Torrent::multi("parked", &[("a", 1_500_000), ("b", 2_500_001)], 64 * 1024);
        let elsewhere = Torrent::single("elsewhere", 1_000_000, 64 * 1024);
        let seed = Seed::without(&[&torrent, &elsewhere]);
        let home = knowing(&seed);
        home.set("disk", "free-floor", json!("1M"));
        let image = Image::new(home.folder.path().join("image"), 32, "ext4");
        Self { home, image, torrent, elsewhere, seed }
    }

    /// Half of it has come.
    fn start(&self) -> Daemon<'_> {
        let daemon = self.home.start();
        self.torrent.drop_into(&self.home.torrents);
        let half = 0..self.torrent.pieces() / 2;
        self.seed.gains(&self.torrent, half.clone());
        daemon.wait_have(&self.torrent, self.torrent.bytes_in(half));
        daemon
    }

    /// The torrent says why nothing more comes; the other is none the worse.
    fn assert_parked(&self, daemon: &Daemon, reason: &str) {
        self.seed.gains(&self.torrent, 0..self.torrent.pieces());
        let states = ["incomplete", "waiting-for-disk", "waiting-for-data", "error"];
        let said = daemon.wait_state(&self.torrent, &states);
        let told = said["reason"].as_str().unwrap_or_default();
        assert!(!told.is_empty() && told.contains(reason), "{said}");
        self.seed.gains(&self.elsewhere, 0..self.elsewhere.pieces());
        drop_elsewhere(&self.elsewhere, &self.home);
        daemon.wait_seeding(&self.elsewhere);
    }

    fn assert_completes(&self, daemon: &Daemon) {
        daemon.wait_seeding(&self.torrent);
        self.torrent.assert_lies_in(&self.home.data);
        daemon.assert_serves(&self.torrent);
    }
}

/// Its sidecar says that it lies on another disk than the rest.
fn drop_elsewhere(torrent: &Torrent, home: &Home) {
    let sidecar = home.torrents.join(format!("{}.where", torrent.name));
    fs::write(sidecar, home.folder.path().join(&torrent.name).to_str().unwrap()).unwrap();
    torrent.drop_into(&home.torrents);
}

/// Bytes that a file system still has room for.
fn free(path: &Path) -> u64 {
    let room = statvfs(path).unwrap();
    room.blocks_available() * room.fragment_size()
}

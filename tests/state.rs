//! What a router keeps on its disk, when that is there late, is taken away, or is not there at all; and what it logs.
//! Needs root.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::unwrap_used,
    reason = "real processes, files and sockets; a test may panic"
)]

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use common::Need::Root;
use common::daemon::{Daemon, Home};
use common::disk::{Image, Mount, tamper};
use common::metadata::Giver;
use common::seed::Seed;
use common::torrent::Torrent;
use common::{PATIENCE, able, wait, wait_value};
use nix::sys::signal::Signal;
use serde_json::json;

/// How long nothing must happen: some scans.
const SCANS: Duration = Duration::from_secs(4);

/// A router whose data and state are on one disk, which is not mounted yet.
struct Router {
    home: Home,
    image: Image,
}

impl Router {
    fn new() -> Router {
        let mut home = Home::new();
        home.state = home.data.join(".meshseed");
        home.set("", "state", json!(home.state));
        home.set("disk", "require-mount", true);
        home.set("disk", "free-floor", json!("1M"));
        let image = Image::new(home.folder.path().join("image"), 32, "ext4");
        Router { home, image }
    }

    fn plug_in(&self) -> Mount {
        let disk = self.image.mount(&self.home.data, "rw");
        fs::remove_dir_all(self.home.data.join("lost+found")).ok();
        disk
    }

    fn assert_nothing_lies_beneath(&self) {
        let found: Vec<_> = fs::read_dir(&self.home.data).unwrap().collect();
        assert!(found.is_empty(), "{found:?} lies below the mount point");
    }
}

fn ask_of(daemon: &Daemon, method: &str, torrent: &Torrent) {
    daemon.ask(method, json!({"info_hash": torrent.hex()}));
}

#[test]
fn a_disk_that_comes_late_brings_records_pauses_and_metadata_and_nothing_is_hashed_again() {
    if !able(&[Root]) {
        return;
    }
    let router = Router::new();
    let home = &router.home;
    let torrents =
        ["seeded", "paused", "held", "released"].map(|name| Torrent::single(name, 300_000, 32 * 1024));
    let [seeded, paused, held, released] = &torrents;
    let linked = Torrent::single("linked", 100_000, 16 * 1024);
    let disk = router.plug_in();
    torrents.iter().for_each(|torrent| torrent.add_to(home));
    linked.write_data(&home.data);
    linked.drop_link_into(&home.torrents, "");
    // Its name is taken: the .torrent that is made of the link is kept with the state.
    let taken = fs::read_dir(&home.torrents).unwrap().map(|entry| entry.unwrap().path());
    let link =
        taken.into_iter().find(|path| path.extension().is_some_and(|ending| ending == "magnet")).unwrap();
    fs::write(link.with_extension("torrent"), "somebody else's").unwrap();
    let daemon = home.start();
    torrents.iter().for_each(|torrent| drop(daemon.wait_seeding(torrent)));
    daemon.wait_state(&linked, &["fetching-metadata"]);
    let giver = Giver::honest(daemon.address(), &linked);
    daemon.wait_seeding(&linked);
    drop(giver);
    [paused, released].iter().for_each(|torrent| ask_of(&daemon, "pause", torrent));
    assert!(daemon.terminate().0.success());
    assert_eq!(fs::metadata(&home.state).unwrap().permissions().mode() & 0o7777 & !0o755, 0);
    // Whoever hashes it finds it.
    ["seeded", "released", "linked"].iter().for_each(|name| tamper(&home.data.join(name), 70_000));
    disk.unmount();
    router.assert_nothing_lies_beneath();

    let daemon = home.start();
    torrents.iter().for_each(|torrent| drop(daemon.wait_state(torrent, &["waiting-for-disk"])));
    daemon.wait_state(&linked, &["fetching-metadata"]);
    ask_of(&daemon, "pause", held);
    ask_of(&daemon, "resume", released);
    sleep(SCANS);
    router.assert_nothing_lies_beneath();
    let disk = router.plug_in();
    [seeded, released, &linked].iter().for_each(|torrent| drop(daemon.wait_seeding(torrent)));
    assert_eq!(home.log().matches("its metadata is here").count(), 2, "from a peer, then from the disk");
    for torrent in [paused, held] {
        let said = daemon.wait_state(torrent, &["paused"]);
        assert!(said["added"].as_u64() > Some(1_600_000_000), "{said}");
    }
    sleep(SCANS);
    [paused, held].iter().for_each(|torrent| drop(daemon.wait_state(torrent, &["paused"])));
    assert!(daemon.terminate().0.success());
    // All of that is on the disk.
    let daemon = home.start();
    [seeded, released, &linked].iter().for_each(|torrent| drop(daemon.wait_seeding(torrent)));
    [paused, held].iter().for_each(|torrent| drop(daemon.wait_state(torrent, &["paused"])));
    drop((daemon, disk));
    router.assert_nothing_lies_beneath();
}

#[test]
fn what_is_found_out_while_the_disk_is_away_is_on_it_when_it_is_back() {
    if !able(&[Root]) {
        return;
    }
    // State is on the disk, data elsewhere; and where it is on a computer's only disk, or at boot, it is the same.
    for (at_boot, require) in [(false, json!("auto")), (true, json!(true))] {
        let mut router = Router::new();
        router.home.set("disk", "require-mount", require);
        let elsewhere = router.home.folder.path().join("elsewhere");
        router.home.set("", "data", json!(elsewhere));
        router.home.state = router.home.data.join("state");
        router.home.set("", "state", json!(router.home.state));
        let home = &router.home;
        let torrents =
            ["before", "meanwhile", "stopped"].map(|name| Torrent::single(name, 300_000, 32 * 1024));
        torrents.iter().for_each(|torrent| torrent.write_data(&elsewhere));
        let [before, meanwhile, stopped] = &torrents;
        let disk = router.plug_in();
        let mut daemon = home.start();
        [before, stopped].iter().for_each(|torrent| torrent.drop_into(&home.torrents));
        [before, stopped].iter().for_each(|torrent| drop(daemon.wait_seeding(torrent)));
        ask_of(&daemon, "pause", stopped);
        home.wait_recorded(stopped);
        if at_boot {
            assert!(daemon.terminate().0.success());
            disk.unmount();
            daemon = home.start();
            [before, stopped].iter().for_each(|torrent| drop(daemon.wait_seeding(torrent)));
        } else {
            // Its owner pulls it out without a word.
            drop(disk);
            ask_of(&daemon, "pause", before);
        }
        meanwhile.drop_into(&home.torrents);
        daemon.wait_seeding(meanwhile);
        sleep(2 * SCANS);
        router.assert_nothing_lies_beneath();
        let told = home.log().matches("state stays in memory").count();
        assert_eq!(told, 1, "it is told once: {}", home.log());
        let error = || daemon.ask("status", json!({}))["last_error"].as_str().map(str::to_owned);
        wait("it is told", PATIENCE, || error().filter(|error| error.contains("records are not saved")));
        let disk = router.plug_in();
        home.wait_recorded(meanwhile);
        daemon.wait_state(stopped, &["paused"]);
        wait("it is told", PATIENCE, || home.log().contains("state is there").then_some(()));
        wait("it is over", PATIENCE, || error().is_none().then_some(()));
        // What was on it is on it still.
        home.wait_recorded(before);
        daemon.kill();
        ["before", "meanwhile"].iter().for_each(|name| tamper(&elsewhere.join(name), 70_000));
        let daemon = home.start();
        daemon.wait_seeding(meanwhile);
        daemon.wait_state(before, &[if at_boot { "seeding" } else { "paused" }]);
        ask_of(&daemon, "resume", before);
        daemon.wait_seeding(before);
        drop((daemon, disk));
        router.assert_nothing_lies_beneath();
    }
}

#[test]
fn a_new_disk_that_comes_after_the_start_gets_its_state() {
    if !able(&[Root]) {
        return;
    }
    for require in [json!("auto"), json!(true)] {
        let router = Router::new();
        let home = &router.home;
        home.set("disk", "require-mount", require);
        let daemon = home.start();
        sleep(SCANS);
        router.assert_nothing_lies_beneath();
        let disk = router.plug_in();
        let torrent = Torrent::single("first", 300_000, 32 * 1024);
        torrent.add_to(home);
        daemon.wait_seeding(&torrent);
        home.wait_recorded(&torrent);
        // It is pulled out, and nothing of it is made in its place.
        drop(disk);
        ask_of(&daemon, "pause", &torrent);
        sleep(2 * SCANS);
        router.assert_nothing_lies_beneath();
    }
}

#[test]
fn a_disk_can_be_unmounted_seconds_after_its_torrents_were_paused() {
    if !able(&[Root]) {
        return;
    }
    let router = Router::new();
    let home = &router.home;
    let torrents = ["one", "two"].map(|name| Torrent::single(name, 300_000, 32 * 1024));
    let disk = router.plug_in();
    torrents.iter().for_each(|torrent| torrent.add_to(home));
    let daemon = home.start();
    for torrent in &torrents {
        daemon.wait_seeding(torrent);
        daemon.assert_serves(torrent);
        ask_of(&daemon, "pause", torrent);
    }
    torrents.iter().for_each(|torrent| home.wait_recorded(torrent));
    let start = Instant::now();
    disk.unmount();
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    sleep(SCANS);
    router.assert_nothing_lies_beneath();
    let disk = router.plug_in();
    torrents.iter().for_each(|torrent| ask_of(&daemon, "resume", torrent));
    torrents.iter().for_each(|torrent| drop(daemon.wait_seeding(torrent)));
    drop((daemon, disk));
}

#[test]
fn state_may_lie_in_memory_where_data_may_not_and_its_directory_is_made() {
    if !able(&[Root]) {
        return;
    }
    let mut router = Router::new();
    let run = router.home.folder.path().join("run");
    fs::create_dir(&run).unwrap();
    router.home.state = run.join("state");
    router.home.set("", "state", json!(router.home.state));
    let home = &router.home;
    let memory = Mount::tmpfs(&run, 4);
    let torrent = Torrent::single("in memory", 100_000, 32 * 1024);
    let disk = router.plug_in();
    torrent.add_to(home);
    let daemon = home.start();
    daemon.wait_seeding(&torrent);
    home.wait_recorded(&torrent);
    assert_eq!(fs::metadata(&home.state).unwrap().permissions().mode() & 0o7777 & !0o755, 0);
    drop((daemon, disk, memory));
    // On the file system of the root it is not made, but taken where its owner has made it.
    let daemon = home.start();
    sleep(SCANS);
    assert!(!home.state.exists() && home.log().contains("state stays in memory"), "{}", home.log());
    fs::create_dir(&home.state).unwrap();
    let disk = router.plug_in();
    daemon.wait_seeding(&torrent);
    home.wait_recorded(&torrent);
    drop((daemon, disk));
}

#[test]
fn no_torrent_lies_in_the_state_and_none_is_taken_from_there() {
    if !able(&[Root]) {
        return;
    }
    let router = Router::new();
    let home = &router.home;
    home.set("", "torrents", json!([home.data]));
    home.set("", "layout", json!("name"));
    let disk = router.plug_in();
    let good = Torrent::single("good", 100_000, 32 * 1024);
    let evil = Torrent::multi(".meshseed", &[("resume", 1000), ("more", 40_000)], 16 * 1024);
    let hidden = Torrent::single("hidden", 40_000, 16 * 1024);
    let seed = Seed::of(&[&evil]);
    home.set("", "peers", json!([seed.address]));
    good.write_data(&home.data);
    good.drop_into(&home.data);
    let daemon = home.start();
    daemon.wait_seeding(&good);
    home.wait_recorded(&good);
    let record = fs::read(home.state.join("resume")).unwrap();
    fs::write(home.data.join("evil.torrent"), evil.metainfo()).unwrap();
    fs::create_dir_all(home.state.join("magnets")).unwrap();
    hidden.write_data(&home.data);
    hidden.drop_into(&home.state.join("magnets"));
    hidden.drop_into(&home.state);
    let said = daemon.wait_state(&evil, &["error"]);
    assert!(said["reason"].as_str().unwrap().contains("state"), "{said}");
    sleep(SCANS);
    assert!(daemon.torrent(&hidden).is_null());
    assert_eq!(seed.sent(&evil), 0);
    assert!(fs::read(home.state.join("resume")).unwrap().starts_with(&record[..16]));
    assert!(!home.state.join("more").exists());
    drop((daemon, disk));
}

/// As the package installs it: no data path, nothing written but where a disk is.
#[test]
fn on_first_boot_what_lies_beside_the_torrents_is_seeded_and_nothing_is_written() {
    if !able(&[Root]) {
        return;
    }
    let mut home = Home::new();
    home.set("", "data", json!(""));
    home.set("disk", "require-mount", true);
    let run = home.folder.path().join("run");
    fs::create_dir(&run).unwrap();
    let memory = Mount::tmpfs(&run, 4);
    home.state = run.join("state");
    home.set("", "state", json!(home.state));
    let whole = Torrent::multi("whole", &[("a", 100_000), ("b/c", 50_000)], 32 * 1024);
    let [half, none] = ["half", "none"].map(|name| Torrent::single(name, 100_000, 32 * 1024));
    let seed = Seed::of(&[&half, &none]);
    home.set("", "peers", json!([seed.address]));
    [&whole, &half].iter().for_each(|torrent| torrent.write_data(&home.torrents));
    fs::File::options().write(true).open(home.torrents.join("half")).unwrap().set_len(40_000).unwrap();
    [&whole, &half, &none].iter().for_each(|torrent| torrent.drop_into(&home.torrents));
    let listing = || tree(&home.torrents);
    let before = listing();
    let daemon = home.start();
    daemon.wait_seeding(&whole);
    daemon.assert_serves(&whole);
    for torrent in [&half, &none] {
        let said = daemon.wait_state(torrent, &["waiting-for-disk"]);
        let reason = said["reason"].as_str().unwrap();
        assert!(reason.contains("mount") && reason.contains("`data`"), "it says what to do: {reason}");
    }
    sleep(SCANS);
    assert_eq!(listing(), before);
    assert_eq!((seed.sent(&half), seed.sent(&none)), (0, 0));
    home.wait_recorded(&whole);
    drop((daemon, memory));
}

/// Every path below a folder with its size and time of change.
fn tree(folder: &Path) -> String {
    let mut command = std::process::Command::new("find");
    common::run(command.arg(folder).args(["-printf", "%P %s %T@\n"]))
}

/// `/dev/log` is a fixed path: the daemon sees a `/dev` of its own, with a link to a socket of ours.
#[test]
fn the_log_daemon_gets_each_line_once_and_standard_error_only_what_it_did_not_get() {
    if !able(&[Root]) {
        return;
    }
    let home = Home::new();
    home.set("log", "to", json!("syslog"));
    let (dev, path) = (home.folder.path().join("dev"), home.folder.path().join("logd"));
    fs::create_dir(&dev).unwrap();
    ["null", "urandom"].iter().for_each(|name| fs::write(dev.join(name), "").unwrap());
    std::os::unix::fs::symlink(&path, dev.join("log")).unwrap();
    let script = format!(
        "for name in null urandom; do mount --bind /dev/$name '{0}'/$name; done && mount --rbind '{0}' /dev && exec \
         \"$0\" \"$@\"",
        dev.display()
    );
    let logd = || Logd::start(&path);
    let first = logd();
    let daemon = home.start_by(&["unshare", "--mount", "sh", "-c", &script]);
    first.wait_for("listening");
    let refused = |name: &str| {
        let path: PathBuf = home.torrents.join(format!("{name}.torrent"));
        fs::write(path, "no torrent").unwrap();
        daemon.wait_refused(name);
    };
    refused("first");
    first.wait_for("first.torrent");
    assert_eq!(home.log(), "", "nothing is doubled on standard error");
    // It is restarted, and while it is away nobody waits for it.
    drop(first);
    fs::remove_file(&path).unwrap();
    refused("second");
    wait("it is on standard error", PATIENCE, || home.log().contains("second.torrent").then_some(()));
    let said = home.log();
    let third = logd();
    refused("third");
    third.wait_for("third.torrent");
    daemon.signal(Signal::SIGUSR1);
    third.wait_for("status: up");
    assert_eq!(home.log(), said);
    assert!(daemon.terminate().0.success());
    third.wait_for("stopped after");
}

/// A log daemon: it holds what it got to the form that OpenWrt's expects.
struct Logd(UnixDatagram, std::cell::RefCell<Vec<String>>);

impl Logd {
    fn start(path: &Path) -> Logd {
        let socket = UnixDatagram::bind(path).unwrap();
        socket.set_nonblocking(true).unwrap();
        Logd(socket, std::cell::RefCell::default())
    }

    /// Exactly one line says that.
    fn wait_for(&self, text: &str) {
        let count = || {
            let mut buffer = [0; 2048];
            while let Ok(len) = self.0.recv(&mut buffer) {
                let line = String::from_utf8(buffer[..len].to_vec()).unwrap();
                let (priority, rest) = line.strip_prefix('<').unwrap().split_once('>').unwrap();
                let facility = priority.parse::<u32>().unwrap() / 8;
                let (time, message) = rest.split_at(16);
                assert!(
                    facility == 3 && !message.contains('\n') && message.starts_with("meshseed["),
                    "{line}"
                );
                let marks: Vec<char> = [3, 6, 9, 12, 15].map(|at| char::from(time.as_bytes()[at])).into();
                assert_eq!(marks, [' ', ' ', ':', ':', ' '], "{line}");
                self.1.borrow_mut().push(message.into());
            }
            self.1.borrow().iter().filter(|line| line.contains(text)).count()
        };
        wait_value(text, PATIENCE, count, |&count| count == 1);
    }
}

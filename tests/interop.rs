//! Real clients with their own default settings download from us and we from them, found through a real tracker, each in
//! a network namespace of its own. Needs root and the clients' packages; `tests/run` installs them.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::unwrap_used,
    reason = "real processes, files and sockets; a test may panic"
)]

mod common;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use common::Need::{Program, Python, Root, Shared};
use common::daemon::{Daemon, Home};
use common::torrent::{Torrent, with_tracker};
use common::tracker::{Opentracker, Tracker};
use common::world::{Namespace, World};
use common::{Folder, Running, able, python, run, sha256, shared, wait, wait_value};
use serde_json::{Value, json};

/// What a client may take for a few megabytes: some try uTP, encryption or other addresses first, and their own
/// rounds of choking and announcing pass meanwhile.
const DOWNLOAD: Duration = Duration::from_secs(150);

/// How a client is told to download every .torrent of the folder `torrents` into `out`, and to seed what is there.
type Client = fn(&Namespace, &Path, &Path) -> Running;

/// How a torrent names the tracker.
type Url = fn(&Opentracker) -> String;

/// Who is in the swarm when the other comes.
#[derive(PartialEq, Eq)]
enum Order {
    SeedFirst,
    ClientFirst,
}

#[test]
fn transmission_downloads_from_us() {
    if able(&[Root, Program("transmission-daemon"), Program("opentracker")]) {
        // It comes first and we dial it: version 3.00 tries uTP before TCP, and where that fails, by our reset or by
        // silence, it drops the TCP connection that it makes at once and comes back after a quarter of an hour only.
        downloads(transmission, Order::ClientFirst, Opentracker::url);
    }
}

#[test]
fn aria2_downloads_from_us() {
    if able(&[Root, Program("aria2c"), Program("opentracker")]) {
        downloads(aria2, Order::SeedFirst, Opentracker::url);
    }
}

#[test]
fn libtorrent_downloads_from_us() {
    if able(&[Root, Python("libtorrent"), Program("opentracker")]) {
        downloads(libtorrent, Order::SeedFirst, Opentracker::url);
    }
}

#[test]
fn rtorrent_downloads_from_us() {
    if able(&[Root, Program("rtorrent"), Program("opentracker")]) {
        downloads(rtorrent, Order::SeedFirst, Opentracker::url);
    }
}

#[test]
fn ctorrent_downloads_from_us() {
    if able(&[Root, Program("ctorrent"), Program("opentracker")]) {
        downloads(ctorrent, Order::SeedFirst, Opentracker::url);
    }
}

#[test]
fn we_download_from_transmission() {
    if able(&[Root, Program("transmission-daemon"), Program("aria2c"), Program("opentracker")]) {
        mirrors(transmission, Opentracker::url);
    }
}

#[test]
fn we_download_from_aria2() {
    if able(&[Root, Program("aria2c"), Program("opentracker")]) {
        mirrors(aria2, Opentracker::url);
    }
}

#[test]
fn we_download_from_libtorrent() {
    if able(&[Root, Python("libtorrent"), Program("aria2c"), Program("opentracker")]) {
        mirrors(libtorrent, Opentracker::url);
    }
}

#[test]
fn we_download_from_rtorrent() {
    if able(&[Root, Program("rtorrent"), Program("aria2c"), Program("opentracker")]) {
        mirrors(rtorrent, Opentracker::url);
    }
}

#[test]
fn libtorrent_downloads_from_us_over_a_udp_tracker() {
    if able(&[Root, Python("libtorrent"), Program("opentracker")]) {
        downloads(libtorrent, Order::SeedFirst, Opentracker::udp_url);
    }
}

#[test]
fn we_download_from_aria2_over_a_udp_tracker() {
    if able(&[Root, Program("aria2c"), Program("opentracker")]) {
        mirrors(aria2, Opentracker::udp_url);
    }
}

#[test]
fn opentracker_counts_us_over_udp_and_we_what_it_counts() {
    if !able(&[Root, Program("opentracker")]) {
        return;
    }
    let world = World::new::<2>();
    let [seed, middle] = world.spaces();
    let (torrents, tracker) = two_torrents(middle, Opentracker::udp_url);
    let home = Home::inside(seed);
    torrents.iter().for_each(|torrent| torrent.add_to(&home));
    let daemon = home.start();
    for torrent in &torrents {
        tracker.wait_counts(seed, &torrent.info_hash, "8:completei1e");
        let said = || daemon.torrent(torrent)["trackers"][0].clone();
        // How often it was downloaded is what only the scrape tells.
        let counted = |said: &Value| said["downloads"] == 0;
        let said = wait_value("its peers are counted", common::PATIENCE, said, counted);
        let expected = (&json!("working"), &json!(1), &json!(0));
        assert_eq!((&said["state"], &said["seeds"], &said["leechers"]), expected);
    }
    let (status, took) = daemon.terminate();
    assert!(status.success() && took < Duration::from_secs(4), "{status}, {took:?}");
    torrents.iter().for_each(|torrent| tracker.wait_counts(seed, &torrent.info_hash, "8:completei0e"));
}

/// libtorrent hears that there is no uTP and comes by TCP: it does not wait until its attempt has grown old.
#[test]
fn who_tries_utp_comes_by_tcp_at_once() {
    if !able(&[Root, Python("libtorrent")]) {
        return;
    }
    let world = World::new::<2>();
    let [seed, leech] = world.spaces();
    let torrent = Torrent::single("tcp.bin", 300_001, 32 * 1024);
    let home = Home::inside(seed);
    torrent.add_to(&home);
    let daemon = home.start();
    daemon.wait_seeding(&torrent);
    for address in [seed.address.to_string(), seed.address6.to_string()] {
        let script = "import sys, libtorrent as lt
alerts = lt.alert.category_t.peer_notification | lt.alert.category_t.connect_notification
session = lt.session({'listen_interfaces': '0.0.0.0:6881,[::]:6881', 'alert_mask': alerts, 'enable_lsd': False})
torrent = session.add_torrent({'ti': lt.torrent_info(sys.argv[1]), 'save_path': sys.argv[2]})
torrent.connect_peer((sys.argv[3], 6881))
while not torrent.status().is_seeding:
    session.wait_for_alert(1000)
    for alert in session.pop_alerts(): print(alert.message())";
        let out = Folder::new();
        let mut command = leech.command(python());
        command.args(["-W", "ignore", "-c", script]).arg(home.torrents.join("tcp.bin.torrent"));
        let said = run(command.arg(out.path()).arg(address));
        wait_same(&home.data, out.path(), &torrent);
        let end = said.lines().find(|line| line.contains("disconnecting (uTP)"));
        assert!(end.is_some_and(|line| line.contains("Connection reset by peer")), "{said}");
    }
}

/// One seed, four that come after it, and all of them end with all of it.
#[test]
fn a_mixed_swarm_ends_complete() {
    let programs = ["transmission-daemon", "aria2c", "rtorrent", "opentracker"].map(Program);
    if !able(&programs) || !able(&[Root, Python("libtorrent")]) {
        return;
    }
    let world = World::new::<6>();
    let [ours, middle, first, others @ ..] = world.spaces::<6>();
    let torrent = Torrent::single("mixed.bin", 24_000_001, 128 * 1024);
    let tracker = Opentracker::start(middle, &[torrent.hex()]);
    let torrent = torrent.announce(&tracker.url());
    let watched = Folder::new();
    torrent.drop_into(watched.path());
    let whole = Folder::new();
    torrent.write_data(whole.path());
    let _seed = transmission(first, watched.path(), whole.path());
    tracker.wait_counts(middle, &torrent.info_hash, "8:completei1e");
    let home = Home::inside(ours);
    let daemon = home.start();
    torrent.drop_into(&home.torrents);
    let clients: [Client; 3] = [aria2, libtorrent, rtorrent];
    let outs = clients.map(|client| (client, Folder::new()));
    let running =
        others.iter().zip(&outs).map(|(space, (client, out))| client(space, watched.path(), out.path()));
    let _running: Vec<_> = running.collect();
    wait_whole(&daemon, &torrent);
    torrent.assert_lies_in(&home.data);
    outs.iter().for_each(|(_, out)| wait_same(whole.path(), out.path(), &torrent));
}

#[test]
fn a_client_with_ipv6_alone_downloads_from_us() {
    if !able(&[Root, Program("aria2c")]) {
        return;
    }
    let world = World::new::<3>();
    let [seed, middle, client] = world.spaces();
    let tracker = middle.enter(|| Tracker::swarm("::".parse().expect("an address"), 60));
    let url = format!("http://[{}]:{}/announce", middle.address6, tracker.address.port());
    let torrent = Torrent::single("over six.bin", 1_000_001, 32 * 1024).announce(&url);
    let home = Home::inside(seed);
    torrent.add_to(&home);
    let daemon = home.start();
    daemon.wait_seeding(&torrent);
    tracker.wait_event(&torrent.info_hash, "started");
    run(Command::new("ip").args(["-n", &client.name, "address", "flush", "dev", "mesh", "scope", "global"]));
    let six = format!("{}/64", client.address6);
    run(Command::new("ip").args(["-n", &client.name, "address", "add", &six, "dev", "mesh", "nodad"]));
    let out = Folder::new();
    let _client = aria2(client, &home.torrents, out.path());
    wait_same(&home.data, out.path(), &torrent);
}

#[test]
fn the_tracker_is_told_on_both_families() {
    if !able(&[Root]) {
        return;
    }
    let world = World::new::<2>();
    let [seed, middle] = world.spaces();
    let tracker = middle.enter(|| Tracker::swarm("::".parse().expect("an address"), 60));
    // A name with both families, as the resolver of the seed's namespace sees it.
    let hosts = Folder::new();
    let file = hosts.path().join("hosts");
    fs::write(&file, format!("{} tracker.mesh\n{} tracker.mesh\n", middle.address, middle.address6))
        .expect("ours");
    let url = format!("http://tracker.mesh:{}/announce", tracker.address.port());
    let torrent = Torrent::single("both families.bin", 50_000, 16 * 1024).announce(&url);
    let home = Home::inside(seed);
    torrent.add_to(&home);
    let script = format!("mount --bind '{}' /etc/hosts && exec \"$0\" \"$@\"", file.display());
    let daemon = home.start_by(&["unshare", "--mount", "sh", "-c", &script]);
    daemon.wait_seeding(&torrent);
    for six in [false, true] {
        wait("an announce of each family", common::PATIENCE, || {
            let mut announces = tracker.announces().into_iter();
            announces.find(|announce| announce.from.ip().to_canonical().is_ipv6() == six)
        });
    }
}

/// The torrents of `shared/data` whose content is there: watched and read where they lie.
#[test]
fn the_shared_content_is_seeded_from_where_it_lies() {
    if !able(&[Root, Shared, Program("aria2c")]) {
        return;
    }
    let shared = shared().expect("it is there").join("data");
    let world = World::new::<3>();
    let [seed, middle, client] = world.spaces();
    let tracker = middle.enter(|| Tracker::swarm(middle.address.into(), 60));
    let home = Home::inside(seed);
    home.set("", "torrents", json!([shared.join("torrents/webtorrent-fixtures")]));
    home.set("", "data", json!(shared.join("content")));
    home.set("", "layout", json!("name"));
    home.set("trackers", "also", json!([tracker.url()]));
    let before = listing(&shared);
    let daemon = home.start();

    let (out, watched) = (Folder::new(), Folder::new());
    let manifest = fs::read_to_string(shared.join("torrents/manifest.tsv")).expect("it is text");
    let mut content = Vec::new();
    for row in manifest.lines().skip(1).map(|line| line.split('\t').collect::<Vec<_>>()) {
        let [file, _, verdict, _, info_hash, _, name] = row[..7] else { panic!("a short row") };
        if !file.starts_with("webtorrent-fixtures/")
            || verdict != "valid"
            || !shared.join("content").join(name).exists()
        {
            continue;
        }
        wait(&format!("{file} is seeded"), common::PATIENCE, || {
            let said = daemon.try_ask("torrent", json!({"info_hash": info_hash}))?;
            (said["state"] == "seeding" && said["have"] == said["size"]).then_some(())
        });
        if content.iter().any(|known| known == name) {
            continue;
        }
        let metainfo = fs::read(shared.join("torrents").join(file)).expect("it is listed");
        let target = watched.path().join(format!("{info_hash}.torrent"));
        fs::write(target, with_tracker(&metainfo, &tracker.url())).expect("the folder is ours");
        content.push(name.to_owned());
    }
    assert_eq!(content.len(), 5, "alice, folder, leaves, lots-of-numbers, numbers");
    daemon.wait_refused("corrupt.torrent");

    let _client = aria2(client, watched.path(), out.path());
    for name in &content {
        wait(&format!("{name} arrives whole"), DOWNLOAD, || {
            same(&shared.join("content").join(name), &out.path().join(name))
        });
    }
    assert_eq!(listing(&shared), before, "nothing was written there");
}

/// One file, and a folder of odd sizes with an empty file and a name beyond ASCII, told to a tracker that is started.
fn two_torrents(middle: &Namespace, url: Url) -> ([Torrent; 2], Opentracker) {
    let files = [
        ("empty", 0),
        ("one byte", 1),
        ("täglich/größer.bin", 777_777),
        ("z/last", 300_001),
        ("zz", 16 * 1024),
    ];
    let torrents =
        [Torrent::single("single.bin", 5_000_003, 64 * 1024), Torrent::multi("folder", &files, 32 * 1024)];
    let tracker = Opentracker::start(middle, &torrents.each_ref().map(Torrent::hex));
    (torrents.map(|torrent| torrent.announce(&url(&tracker))), tracker)
}

/// Two torrents reach us whole from that client as their only seed. When it is gone another gets them from us.
fn mirrors(client: Client, url: Url) {
    let world = World::new::<4>();
    let [ours, middle, first, last] = world.spaces();
    let (torrents, tracker) = two_torrents(middle, url);
    let (watched, whole) = (Folder::new(), Folder::new());
    for torrent in &torrents {
        torrent.drop_into(watched.path());
        torrent.write_data(whole.path());
    }
    let seed = client(first, watched.path(), whole.path());
    torrents.iter().for_each(|torrent| tracker.wait_counts(middle, &torrent.info_hash, "8:completei1e"));
    let home = Home::inside(ours);
    let daemon = home.start();
    torrents.iter().for_each(|torrent| torrent.drop_into(&home.torrents));
    for torrent in &torrents {
        wait_whole(&daemon, torrent);
        torrent.assert_lies_in(&home.data);
    }
    drop(seed);
    let out = Folder::new();
    let _client = aria2(last, watched.path(), out.path());
    torrents.iter().for_each(|torrent| wait_same(whole.path(), out.path(), torrent));
}

fn wait_whole(daemon: &Daemon, torrent: &Torrent) {
    let measure = || daemon.torrent(torrent);
    wait_value(&format!("{} is mirrored", torrent.name), DOWNLOAD, measure, |said| {
        said["state"] == "seeding"
    });
}

/// Two torrents reach the client whole.
fn downloads(client: Client, order: Order, url: Url) {
    let world = World::new::<3>();
    let [seed, middle, leech] = world.spaces();
    let home = Home::inside(seed);
    let (torrents, tracker) = two_torrents(middle, url);
    torrents.iter().for_each(|torrent| torrent.add_to(&home));
    let out = Folder::new();
    // Who comes later must find the other at its first announce: most ask again only after many minutes.
    let running = (order == Order::ClientFirst).then(|| {
        let running = client(leech, &home.torrents, out.path());
        torrents
            .iter()
            .for_each(|torrent| tracker.wait_counts(leech, &torrent.info_hash, "10:incompletei1e"));
        running
    });
    let daemon = home.start();
    torrents.iter().for_each(|torrent| drop(daemon.wait_seeding(torrent)));
    torrents.iter().for_each(|torrent| tracker.wait_counts(leech, &torrent.info_hash, "8:completei1e"));
    let _running = running.unwrap_or_else(|| client(leech, &home.torrents, out.path()));
    torrents.iter().for_each(|torrent| wait_same(&home.data, out.path(), torrent));
}

fn wait_same(data: &Path, out: &Path, torrent: &Torrent) {
    wait(&format!("{} arrives whole", torrent.name), DOWNLOAD, || {
        same(&data.join(&torrent.name), &out.join(&torrent.name))
    });
}

/// Whether both files, or all files of both folders, have equal SHA-256.
fn same(ours: &Path, theirs: &Path) -> Option<()> {
    if ours.is_dir() {
        return fs::read_dir(ours).expect("it is ours").try_for_each(|entry| {
            let name = entry.expect("it is ours").file_name();
            same(&ours.join(&name), &theirs.join(&name))
        });
    }
    if fs::metadata(ours).expect("it is ours").len() == 0 && !theirs.exists() {
        return Some(()); // Transmission does not make empty files.
    }
    let length = |path: &Path| fs::metadata(path).map(|metadata| metadata.len()).ok();
    (length(ours) == length(theirs) && sha256(ours) == sha256(theirs)).then_some(())
}

/// Every path below a folder with its size and time of change.
fn listing(folder: &Path) -> String {
    run(Command::new("find").arg(folder).args(["-printf", "%P %s %T@ %C@\n"]))
}

fn start(command: &mut Command, out: &Path) -> Running {
    let state = out.join(".client");
    fs::create_dir_all(&state).expect("the folder is ours");
    let log = fs::File::create(state.join("log")).expect("the folder is ours");
    let errors = log.try_clone().expect("a second handle");
    command.env("HOME", &state).current_dir(&state).stdin(Stdio::null()).stdout(log).stderr(errors);
    Running(command.spawn().expect("the client starts"))
}

fn transmission(space: &Namespace, torrents: &Path, out: &Path) -> Running {
    let mut command = space.command("transmission-daemon");
    command.arg("--foreground").arg("--config-dir").arg(out.join(".client/config"));
    // It renames what it takes from its watched folder: give it a copy.
    let watched = out.join(".watched");
    run(Command::new("cp").arg("-r").arg(torrents).arg(&watched));
    start(command.arg("--watch-dir").arg(watched).arg("--download-dir").arg(out), out)
}

fn aria2(space: &Namespace, torrents: &Path, out: &Path) -> Running {
    // It takes no file for its own that it did not begin, unless it is told to look, and ends when it has sent as much as
    // there is, with the last of it unsent.
    start(
        space
            .command("aria2c")
            .args(["--check-integrity", "--seed-ratio=0", "--dir"])
            .arg(out)
            .args(files(torrents)),
        out,
    )
}

fn rtorrent(space: &Namespace, torrents: &Path, out: &Path) -> Running {
    let mut command = space.command("rtorrent");
    // As a daemon, for it wants a terminal otherwise.
    command.args(["-n", "-o", "system.daemon.set=true", "-o"]);
    start(command.arg(format!("directory.default.set={}", out.display())).args(files(torrents)), out)
}

fn ctorrent(space: &Namespace, torrents: &Path, out: &Path) -> Running {
    // One process a torrent, with a terminal's input: it stops at the end of its standard input.
    let script = r#"for t in "$@"; do n=$(basename "$t" .torrent); tail -f /dev/null | ctorrent -E 0 -s "$OUT/$n" "$t" & done; wait"#;
    let mut command = space.command("sh");
    start(command.env("OUT", out).args(["-c", script, "sh"]).args(files(torrents)), out)
}

fn libtorrent(space: &Namespace, torrents: &Path, out: &Path) -> Running {
    let script = "import sys, time, libtorrent as lt
session = lt.session()
for path in sys.argv[2:]:
    session.add_torrent({'ti': lt.torrent_info(path), 'save_path': sys.argv[1]})
while True: time.sleep(1)";
    let mut command = space.command(python());
    start(command.args(["-c", script]).arg(out).args(files(torrents)), out)
}

fn files(folder: &Path) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(folder).expect("it is ours").map(|entry| entry.expect("it is ours").path());
    entries.filter(|path| path.extension().is_some_and(|extension| extension == "torrent")).collect()
}

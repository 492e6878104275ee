//! Local Peer Discovery between real processes: machines on one cable find each other without a tracker, a name server
//! or a router. Needs root.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::unwrap_used,
    reason = "real processes, files and sockets; a test may panic"
)]

mod common;

use std::net::{Ipv4Addr, Ipv6Addr, UdpSocket};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::Need::{Program, Python, Root};
use common::daemon::{Daemon, Home};
use common::torrent::Torrent;
use common::world::{Namespace, World};
use common::{Folder, PATIENCE, Running, able, python, run, wait, wait_value};
use serde_json::{Value, json};

#[test]
fn two_with_lone_ipv4_addresses_find_each_other_once_the_cable_is_in() {
    find_each_other(|space, other| {
        run(space.command("sysctl").args(["-q", "-w", "net.ipv6.conf.mesh.disable_ipv6=1"]));
        space.ip(&["address", "flush", "dev", "mesh"]);
        space.ip(&["address", "add", &format!("{}/32", space.address), "dev", "mesh"]);
        // As a mesh's routing daemon does it.
        space.ip(&["route", "add", &format!("{}/32", other.address), "dev", "mesh"]);
    });
}

#[test]
fn two_with_link_local_ipv6_alone_find_each_other_once_the_cable_is_in() {
    find_each_other(|space, _| space.ip(&["address", "flush", "dev", "mesh", "scope", "global"]));
}

#[test]
fn a_private_torrent_and_a_paused_one_are_not_told() {
    if !able(&[Root]) {
        return;
    }
    let world = World::new::<2>();
    let [seed, other] = world.spaces();
    world.cable(other, "down");
    let home = home(seed);
    let [told, paused] = ["told", "paused"].map(|name| Torrent::single(name, 50_000, 16 * 1024));
    let secret = Torrent::single("secret", 50_000, 16 * 1024).private();
    [&told, &secret, &paused].into_iter().for_each(|torrent| torrent.add_to(&home));
    let daemon = home.start();
    [&told, &paused].into_iter().for_each(|torrent| drop(daemon.wait_seeding(torrent)));
    let seeding = || daemon.ask("status", Value::Null)["torrents"]["seeding"].clone();
    wait_value("all are seeded", PATIENCE, seeding, |count| *count == 3);
    daemon.ask("pause", json!({"info_hash": paused.hex()}));
    let listener = other.enter(|| {
        let listener = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 6771)).expect("nobody else is here");
        listener.join_multicast_v4(&Ipv4Addr::new(239, 192, 152, 143), &other.address).expect("an address");
        listener
    });
    listener.set_read_timeout(Some(PATIENCE)).expect("above zero");
    world.cable(other, "up");
    let mut packet = [0; 2048];
    let mut heard = String::new();
    // One comes a second, as long as there is something to tell.
    while let Ok((len, _)) = listener.recv_from(&mut packet) {
        heard += &String::from_utf8_lossy(&packet[..len]);
        listener.set_read_timeout(Some(Duration::from_secs(5))).expect("above zero");
    }
    assert_eq!(heard.matches("Infohash: ").count(), heard.matches(&told.hex()).count(), "{heard}");
    assert!(heard.contains(&told.hex()) && heard.contains("\r\nPort: 6881\r\n"), "{heard}");
}

#[test]
fn a_magnet_link_without_a_tracker_is_enough_among_neighbours() {
    if !able(&[Root]) {
        return;
    }
    let world = World::new::<2>();
    let [seed, leech] = world.spaces();
    let torrent = Torrent::single("by its link.bin", 1_000_001, 32 * 1024);
    let (ours, theirs) = (home(seed), home(leech));
    torrent.add_to(&ours);
    torrent.drop_link_into(&theirs.torrents, "");
    let (giver, taker) = (ours.start(), theirs.start());
    giver.wait_seeding(&torrent);
    fetched(&taker, &torrent);
    torrent.assert_lies_in(&theirs.data);
}

#[test]
fn a_static_peer_on_the_link_is_named_with_its_interface() {
    if !able(&[Root]) {
        return;
    }
    let world = World::new::<2>();
    let spaces = world.spaces::<2>();
    let [ours, theirs] = spaces.map(|space| {
        let home = home(space);
        home.set("lpd", "enabled", false);
        home
    });
    let [seed, _] = spaces.map(|space| wait("it is no other's", PATIENCE, || link_local(space)));
    let torrent = Torrent::single("next door.bin", 1_000_001, 32 * 1024);
    torrent.add_to(&ours);
    torrent.drop_into(&theirs.torrents);
    theirs.set("", "peers", json!([format!("[{seed}%mesh]:6881")]));
    let (giver, taker) = (ours.start(), theirs.start());
    giver.wait_seeding(&torrent);
    fetched(&taker, &torrent);
    torrent.assert_lies_in(&theirs.data);
}

/// The link-local address of a machine, once it is confirmed that no other has it.
fn link_local(space: &Namespace) -> Option<Ipv6Addr> {
    let shown = space
        .command("ip")
        .args(["-6", "-oneline", "address", "show", "dev", "mesh", "scope", "link", "-tentative"])
        .output()
        .expect("ip runs");
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    shown.split_whitespace().find_map(|word| word.strip_suffix("/64")?.parse().ok())
}

#[test]
fn libtorrent_hears_us() {
    if able(&[Root, Python("libtorrent")]) {
        they_hear_us(libtorrent);
    }
}

#[test]
fn we_hear_libtorrent() {
    if able(&[Root, Python("libtorrent")]) {
        we_hear_them(libtorrent);
    }
}

#[test]
fn aria2_hears_us() {
    if able(&[Root, Program("aria2c")]) {
        they_hear_us(aria2);
    }
}

#[test]
fn we_hear_aria2() {
    if able(&[Root, Program("aria2c")]) {
        we_hear_them(aria2);
    }
}

/// In a machine, with all .torrents of a folder and the data in another, and no other way to find anybody.
type Client = fn(&Namespace, &Folder, &Folder) -> Running;

fn they_hear_us(client: Client) {
    let world = World::new::<2>();
    let [seed, leech] = world.spaces();
    let torrent = Torrent::single("heard.bin", 1_000_001, 32 * 1024);
    let (home, out, watched) = (home(seed), Folder::new(), Folder::new());
    torrent.drop_into(watched.path());
    let _client = client(leech, &watched, &out);
    torrent.add_to(&home);
    let daemon = home.start();
    daemon.wait_seeding(&torrent);
    let file = out.path().join(&torrent.name);
    let whole = || std::fs::read(&file).is_ok_and(|bytes| bytes == torrent.content());
    wait_value("the client has it", PATIENCE, whole, |whole| *whole);
}

fn we_hear_them(client: Client) {
    let world = World::new::<2>();
    let [seed, leech] = world.spaces();
    let torrent = Torrent::single("overheard.bin", 1_000_001, 32 * 1024);
    let (home, out, watched) = (home(leech), Folder::new(), Folder::new());
    torrent.drop_into(&home.torrents);
    let daemon = home.start();
    daemon.wait_state(&torrent, &["downloading"]);
    torrent.drop_into(watched.path());
    torrent.write_data(out.path());
    let _client = client(seed, &watched, &out);
    fetched(&daemon, &torrent);
}

/// On every address, with no tracker, and no look at the interfaces that nothing gives a reason for.
fn home(space: &Namespace) -> Home {
    let home = Home::inside(space);
    home.set("", "rescan", 3600);
    home.set("listen", "addresses", json!([]));
    home.set("log", "level", json!("debug"));
    home
}

/// Both wait for a cable; once it is there one fetches what the other has. `prepare` gives each its addresses.
fn find_each_other(prepare: impl Fn(&Namespace, &Namespace)) {
    if !able(&[Root]) {
        return;
    }
    let world = World::new::<2>();
    let [seed, leech] = world.spaces();
    prepare(seed, leech);
    prepare(leech, seed);
    world.cable(leech, "down");
    let torrent = Torrent::single("from next door.bin", 1_000_001, 32 * 1024);
    let (ours, theirs) = (home(seed), home(leech));
    torrent.add_to(&ours);
    torrent.drop_into(&theirs.torrents);
    let (giver, taker) = (ours.start(), theirs.start());
    giver.wait_seeding(&torrent);
    taker.wait_state(&torrent, &["downloading"]);
    world.cable(leech, "up");
    wait_value("addresses are confirmed", PATIENCE, || tentative(seed) + &tentative(leech), String::is_empty);
    let plugged = Instant::now();
    // A look at the interfaces, the packet, the dial: the benchmark measures it.
    let came = || taker.torrent(&torrent)["down_total"].clone();
    wait_value("something comes", PATIENCE, came, |came| *came != 0);
    println!("found {:?} after the cable was in", plugged.elapsed());
    fetched(&taker, &torrent);
    println!("fetched {:?} after it", plugged.elapsed());
    torrent.assert_lies_in(&theirs.data);
    assert_eq!(giver.ask("status", Value::Null)["lpd_interfaces"], json!(["mesh"]));
    // Whose cable is out is seen, and what is turned off is off.
    world.cable(leech, "down");
    let interfaces = |daemon: &Daemon| daemon.ask("status", Value::Null)["lpd_interfaces"].clone();
    wait_value("the cable is out", PATIENCE, || interfaces(&taker), |names| *names == json!([]));
    ours.set("lpd", "enabled", false);
    ours.configure();
    giver.signal(nix::sys::signal::Signal::SIGHUP);
    wait_value("it is turned off", PATIENCE, || interfaces(&giver), |names| *names == json!([]));
}

fn fetched(daemon: &Daemon, torrent: &Torrent) {
    let measure = || daemon.torrent(torrent);
    wait_value(&format!("{} is fetched", torrent.name), PATIENCE, measure, |said| said["state"] == "seeding");
}

/// The addresses that the kernel still asks the others about.
fn tentative(space: &Namespace) -> String {
    run(Command::new("ip").args(["-n", &space.name, "address", "show", "tentative"]))
}

/// With its Local Service Discovery as its only way to find anybody.
fn libtorrent(space: &Namespace, torrents: &Folder, out: &Folder) -> Running {
    let script = "import glob, sys, time, libtorrent as lt
session = lt.session({'enable_lsd': True, 'enable_dht': False, 'listen_interfaces': sys.argv[3] + ':6881'})
for path in glob.glob(sys.argv[2] + '/*.torrent'):
    session.add_torrent({'ti': lt.torrent_info(path), 'save_path': sys.argv[1]})
while True: time.sleep(1)";
    let mut command = space.command(python());
    command.args(["-c", script]).args([out.path(), torrents.path()]).arg(space.address.to_string());
    start(&mut command)
}

fn aria2(space: &Namespace, torrents: &Folder, out: &Folder) -> Running {
    let mut command = space.command("aria2c");
    command.args(["--check-integrity", "--seed-ratio=0", "--disable-ipv6", "--enable-dht=false"]);
    command.args(["--bt-enable-lpd", "--bt-lpd-interface=mesh", "--listen-port=6881"]);
    let files = std::fs::read_dir(torrents.path()).unwrap().map(|entry| entry.unwrap().path());
    start(command.arg("--dir").arg(out.path()).args(files))
}

fn start(command: &mut Command) -> Running {
    let quiet = command.stdin(Stdio::null()).stdout(Stdio::null());
    Running(quiet.spawn().expect("the client starts"))
}

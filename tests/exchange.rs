//! Peer exchange (BEP 11) and pieces that are lost (BEP 54) between real processes: nobody has a tracker, and neighbours are
//! not searched for. Needs root.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::unwrap_used,
    reason = "real processes, files and sockets; a test may panic"
)]

mod common;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use common::Need::{Python, Root};
use common::daemon::{Daemon, Home};
use common::torrent::Torrent;
use common::world::{Namespace, World};
use common::{Folder, PATIENCE, Running, able, python, wait, wait_value};
use serde_json::{Value, json};

/// Libtorrent tells of others once a minute, and what comes next a minute later.
const EXCHANGED: Duration = Duration::from_secs(150);

/// A file of ours that disappears is seen at the next scan, and believed once the others have been still for a while.
const LOST: Duration = Duration::from_secs(60);

#[test]
fn two_libtorrents_that_call_us_find_each_other() {
    find_each_other(|space| space.address.into(), false);
}

#[test]
fn two_libtorrents_that_we_call_find_each_other_by_ipv6() {
    // Calling us by IPv6 they would not say where they listen.
    find_each_other(|space| space.address6.into(), true);
}

/// Nobody knows anybody but whom it calls. Of the addresses of each machine only the one that `address` picks is used.
fn find_each_other(address: fn(&Namespace) -> IpAddr, we_call: bool) {
    if !able(&[Root, Python("libtorrent")]) {
        return;
    }
    let world = World::new::<3>();
    let [ours, spaces @ ..] = world.spaces::<3>();
    let torrent = Torrent::single("told.bin", 4_000_000, 32 * 1024);
    let home = home(ours);
    // So slow that both are there for long.
    home.set("limits", "local-upload", json!("10k"));
    torrent.add_to(&home);
    if we_call {
        home.set("", "peers", json!(spaces.map(|space| SocketAddr::new(address(space), 6881))));
    }
    let called = if we_call { None } else { Some(address(ours)) };
    let start = |space| Libtorrent::start(space, address(space), &torrent, 0, "", called.as_slice());
    let mut clients = we_call.then(|| spaces.map(start));
    let daemon = home.start();
    daemon.wait_seeding(&torrent);
    let clients = clients.get_or_insert_with(|| spaces.map(start));
    let told = || clients.each_ref().map(Libtorrent::peers);
    let said = wait_value("they have met", EXCHANGED, told, |[one, other]| {
        let knows = |peers: &Value, at: usize| peers.get(address(spaces[at]).to_string()).is_some();
        knows(one, 1) && knows(other, 0)
    });
    assert!(said.iter().any(|peers| peers.to_string().contains("\"by_exchange\":true")), "{said:?}");
}

#[test]
fn a_libtorrent_tells_us_of_another_and_we_call_it() {
    if !able(&[Root, Python("libtorrent")]) {
        return;
    }
    let world = World::new::<3>();
    let [ours, middle, other] = world.spaces();
    let torrent = Torrent::single("named.bin", 2_000_000, 32 * 1024);
    let home = home(ours);
    home.set("", "peers", json!([format!("{}:6881", middle.address)]));
    torrent.drop_into(&home.torrents);
    // The one that is named calls nobody itself, and half of it all is all there is: nobody leaves.
    let _other = Libtorrent::start(
        other,
        other.address.into(),
        &torrent,
        0,
        "session.apply_settings({'connection_speed': 0})",
        &[],
    );
    let _middle =
        Libtorrent::start(middle, middle.address.into(), &torrent, 1_000_000, "", &[other.address.into()]);
    let daemon = home.start();
    let said = wait_value(
        "we have called it",
        EXCHANGED,
        || peers(&daemon, &torrent),
        |said| peer_at(said, other).is_some(),
    );
    assert_eq!(peer_at(&said, other).unwrap()["incoming"], false, "{said}");
}

#[test]
fn a_libtorrent_hears_which_pieces_we_have_lost_and_stays() {
    if !able(&[Root, Python("libtorrent")]) {
        return;
    }
    let world = World::new::<2>();
    let [ours, other] = world.spaces();
    let files = [("a", 640 * 1024), ("b", 640 * 1024), ("c", 640 * 1024)];
    let torrent = Torrent::multi("folder", &files, 32 * 1024);
    let home = home(ours);
    torrent.add_to(&home);
    let daemon = home.start();
    daemon.wait_seeding(&torrent);
    let lose = |name: &str| std::fs::remove_file(home.data.join("folder").join(name)).unwrap();
    lose("c");
    daemon.ask("verify", json!({"info_hash": torrent.hex()}));
    daemon.wait_have(&torrent, 2 * 640 * 1024);
    // It asks for nothing: that would show us what is gone, and end the connection.
    let idle = "torrent.set_flags(lt.torrent_flags.upload_mode)
session.apply_settings({'close_redundant_connections': False})";
    let client = Libtorrent::start(other, other.address.into(), &torrent, 0, idle, &[ours.address.into()]);
    let ours = ours.address.to_string();
    let pieces = || client.peers()[&ours]["pieces"].clone();
    wait_value("it knows what we have", EXCHANGED, pieces, |pieces| *pieces == 40);
    let address = peers(&daemon, &torrent)["peers"][0]["address"].clone();
    lose("b");
    wait_value("it knows what we have left", LOST, pieces, |pieces| *pieces == 20);
    assert_eq!(peers(&daemon, &torrent)["peers"][0]["address"], address, "it is the same connection");
}

/// With no way to find anybody but by being told.
fn home(space: &Namespace) -> Home {
    let home = Home::inside(space);
    home.set("lpd", "enabled", false);
    home.set("log", "level", json!("debug"));
    home
}

fn peers(daemon: &Daemon, torrent: &Torrent) -> Value {
    daemon.try_ask("peers", json!({"info_hash": torrent.hex()})).unwrap_or_default()
}

fn peer_at<'a>(said: &'a Value, space: &Namespace) -> Option<&'a Value> {
    let prefix = format!("{}:", space.address);
    let mut peers = said["peers"].as_array()?.iter();
    peers.find(|peer| peer["address"].as_str().is_some_and(|address| address.starts_with(&prefix)))
}

/// A session of libtorrent with one torrent, which tells whom it is connected to.
struct Libtorrent {
    _process: Running,
    _folders: [Folder; 2],
    told: PathBuf,
}

impl Libtorrent {
    /// At that address of its machine. It has the first `len` bytes, does what Python code says that is `set`, and calls the `others`.
    fn start(
        space: &Namespace,
        address: IpAddr,
        torrent: &Torrent,
        len: usize,
        set: &str,
        others: &[IpAddr],
    ) -> Self {
        let script = "import glob, json, os, sys, time, libtorrent as lt
out, torrents, told, address, setting, *others = sys.argv[1:]
session = lt.session({'enable_dht': False, 'enable_lsd': False, 'listen_interfaces': address})
parameters = lt.add_torrent_params()
parameters.ti = lt.torrent_info(glob.glob(torrents + '/*.torrent')[0])
parameters.save_path = out
parameters.flags &= ~(lt.torrent_flags.auto_managed | lt.torrent_flags.paused)
torrent = session.add_torrent(parameters)
while torrent.status().state in (lt.torrent_status.checking_files, lt.torrent_status.checking_resume_data):
    time.sleep(0.05)
exec(setting)
for other in others:
    torrent.connect_peer((other, 6881))
while True:
    ready = [peer for peer in torrent.get_peer_info() if not peer.flags & (peer.handshake | peer.connecting)]
    peers = {peer.ip[0]: {'pieces': peer.num_pieces, 'by_exchange': bool(peer.source & peer.pex)} for peer in ready}
    with open(told + '.new', 'w') as file:
        file.write(json.dumps(peers))
    os.rename(told + '.new', told)
    time.sleep(0.1)";
        let folders = [Folder::new(), Folder::new()];
        let [out, torrents] = folders.each_ref().map(Folder::path);
        torrent.drop_into(torrents);
        if len > 0 {
            torrent.write_data(out);
            let file = std::fs::File::options().write(true).open(out.join(&torrent.name)).unwrap();
            file.set_len(len as u64).unwrap();
        }
        let told = torrents.join("told");
        let mut command = space.command(python());
        command
            .args(["-c", script])
            .args([out, torrents, &told])
            .arg(SocketAddr::new(address, 6881).to_string());
        command.arg(set).args(others.iter().map(IpAddr::to_string));
        let process = Running(command.stdin(Stdio::null()).spawn().expect("the client starts"));
        wait("the client is there", PATIENCE, || told.exists().then_some(()));
        Self { _process: process, told, _folders: folders }
    }

    /// Those that it is connected to, by their addresses.
    fn peers(&self) -> Value {
        let text = std::fs::read(&self.told).unwrap_or_default();
        serde_json::from_slice(&text).unwrap_or_default()
    }
}

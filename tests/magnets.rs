//! Magnet links in the watched folder, as a user has them: what is fetched, written, kept over a restart, and what is left
//! when the link goes; and what peers get of our metadata. With libtorrent, Transmission and aria2 at the other end where
//! they are installed.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::unwrap_used,
    reason = "real processes, files and sockets; a test may panic"
)]

mod common;

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use common::Need::{Program, Python, Root};
use common::daemon::{Daemon, Home};
use common::metadata::{Asker, Giver, PIECE, data};
use common::seed::Seed;
use common::torrent::{Torrent, string};
use common::tracker::Tracker;
use common::webserver::WebServer;
use common::world::{Namespace, World};
use common::{Folder, PATIENCE, Running, able, python, run, wait, wait_value};
use serde_json::{Value, json};

/// What a client may take for a few megabytes and their metadata.
const DOWNLOAD: Duration = Duration::from_secs(150);

/// With metadata of three pieces: the names of its files are long.
fn large(name: &str) -> Torrent {
    let paths: Vec<String> = (0..250).map(|n| format!("{n} {}", "x".repeat(120))).collect();
    let files: Vec<(&str, usize)> = paths.iter().map(|path| (path.as_str(), 1001)).collect();
    let torrent = Torrent::multi(name, &files, 16 * 1024);
    assert_eq!(torrent.metadata().len().div_ceil(PIECE), 3);
    torrent
}

/// The same content from a peer that the link names.
fn peer(seed: &Seed) -> String {
    format!("&x.pe={}", seed.address)
}

fn beside(home: &Home, torrent: &Torrent) -> PathBuf {
    home.torrents.join(format!("{}.torrent", torrent.name))
}

fn link(home: &Home, torrent: &Torrent) -> PathBuf {
    home.torrents.join(format!("{}.magnet", torrent.name))
}

fn wait_file(path: &Path) {
    wait(&format!("{} is written", path.display()), PATIENCE, || path.exists().then_some(()));
}

#[test]
fn a_link_becomes_a_torrent_beside_it_and_its_content_comes_from_the_peer_that_it_names() {
    let home = Home::new();
    let torrent = large("linked.bin");
    let seed = Seed::of(&[&torrent]);
    let daemon = home.start();
    torrent.drop_link_into(&home.torrents, &(peer(&seed) + "&dn=a%20name&so=0,2-4"));
    let said = daemon.wait_state(&torrent, &["fetching-metadata"]);
    assert_eq!((said["name"].as_str(), said["size"].as_u64()), (Some("a name"), Some(0)));
    assert_eq!(said["reason"], "nobody is connected who gives its metadata");
    assert_eq!(said["file"], link(&home, &torrent).display().to_string());
    let _giver = Giver::honest(daemon.address(), &torrent);
    let said = daemon.wait_seeding(&torrent);
    assert_eq!(said["name"], torrent.name);
    torrent.assert_lies_in(&home.data);
    assert!(link(&home, &torrent).exists(), "the link is the user's");
    let log = home.log();
    assert!(log.contains("selects the files 0,2-4"), "{log}");
    // Once the folder was looked at again the torrent is that of the .torrent.
    let file = beside(&home, &torrent).display().to_string();
    wait_value(
        "it is seeded from the .torrent",
        PATIENCE,
        || daemon.torrent(&torrent),
        |said| said["file"].as_str() == Some(&file),
    );
    assert_eq!(daemon.refused(), r#"{"offset":0,"refused":[],"total":0}"#);
    assert_eq!(daemon.torrent(&torrent)["state"], "seeding", "it is not checked anew");
}

#[test]
fn when_the_link_goes_the_torrent_stops_and_what_was_made_of_the_link_goes_too() {
    let home = Home::new();
    let torrent = Torrent::single("spent.bin", 100_000, 16 * 1024);
    let seed = Seed::of(&[&torrent]);
    let daemon = home.start();
    torrent.drop_link_into(&home.torrents, &peer(&seed));
    daemon.wait_state(&torrent, &["fetching-metadata"]);
    let _giver = Giver::honest(daemon.address(), &torrent);
    daemon.wait_seeding(&torrent);
    wait_file(&beside(&home, &torrent));
    fs::remove_file(link(&home, &torrent)).unwrap();
    daemon.wait_gone(&torrent);
    assert!(!beside(&home, &torrent).exists());
    torrent.assert_lies_in(&home.data);
}

#[test]
fn a_torrent_that_the_user_put_beside_the_link_is_taken_and_stays_when_the_link_goes() {
    let home = Home::new();
    let torrent = Torrent::single("both.bin", 100_000, 16 * 1024);
    let daemon = home.start();
    torrent.drop_link_into(&home.torrents, "");
    daemon.wait_state(&torrent, &["fetching-metadata"]);
    torrent.add_to(&home);
    daemon.wait_seeding(&torrent);
    fs::remove_file(link(&home, &torrent)).unwrap();
    // Several looks at the folder later it is still there.
    let log = || home.log();
    let other = Torrent::single("other.bin", 1000, 16 * 1024);
    other.add_to(&home);
    daemon.wait_seeding(&other);
    assert!(beside(&home, &torrent).exists(), "{}", log());
    assert_eq!(daemon.torrent(&torrent)["state"], "seeding");
}

#[test]
fn a_link_without_its_torrent_is_fetched_anew_and_one_with_it_is_not() {
    let home = Home::new();
    let torrent = Torrent::single("again.bin", 100_000, 16 * 1024);
    let seed = Seed::of(&[&torrent]);
    let daemon = home.start();
    torrent.drop_link_into(&home.torrents, &peer(&seed));
    daemon.wait_state(&torrent, &["fetching-metadata"]);
    let giver = Giver::honest(daemon.address(), &torrent);
    daemon.wait_seeding(&torrent);
    drop(giver);
    daemon.terminate();
    // Nobody has the metadata now.
    let daemon = home.start();
    daemon.wait_seeding(&torrent);
    fs::remove_file(beside(&home, &torrent)).unwrap();
    daemon.wait_state(&torrent, &["fetching-metadata"]);
    let _giver = Giver::honest(daemon.address(), &torrent);
    daemon.wait_seeding(&torrent);
    wait_file(&beside(&home, &torrent));
}

#[test]
fn a_restart_in_the_middle_goes_on_with_the_link() {
    let home = Home::new();
    let torrent = large("middle.bin");
    let daemon = home.start();
    torrent.drop_link_into(&home.torrents, "");
    daemon.wait_state(&torrent, &["fetching-metadata"]);
    let metadata = torrent.metadata().to_vec();
    let size = metadata.len();
    // It gives the first piece alone.
    let half =
        Giver::call(daemon.address(), &torrent, i64::try_from(size).unwrap(), move |piece| match piece {
            0 => data(0, size, &metadata[..PIECE]),
            _ => b"de".to_vec(),
        });
    wait_value(
        "a piece is here",
        PATIENCE,
        || daemon.torrent(&torrent),
        |said| said["reason"].as_str().is_some_and(|reason| reason.starts_with("1 of 3")),
    );
    drop(half);
    daemon.kill();
    torrent.write_data(&home.data);
    let daemon = home.start();
    daemon.wait_state(&torrent, &["fetching-metadata"]);
    let _giver = Giver::honest(daemon.address(), &torrent);
    daemon.wait_seeding(&torrent);
}

#[test]
fn a_paused_link_is_paused_after_a_restart_too() {
    let home = Home::new();
    let torrent = Torrent::single("paused.bin", 100_000, 16 * 1024);
    let daemon = home.start();
    torrent.drop_link_into(&home.torrents, "");
    daemon.wait_state(&torrent, &["fetching-metadata"]);
    daemon.ask("pause", json!({"info_hash": torrent.hex()}));
    daemon.terminate();
    let daemon = home.start();
    daemon.wait_state(&torrent, &["paused"]);
    daemon.ask("resume", json!({"info_hash": torrent.hex()}));
    daemon.wait_state(&torrent, &["fetching-metadata"]);
}

#[test]
fn where_the_folder_takes_no_torrent_it_is_kept_in_the_state() {
    if !able(&[Root]) {
        return;
    }
    let home = Home::new();
    let torrent = Torrent::single("kept.bin", 100_000, 16 * 1024);
    let seed = Seed::of(&[&torrent]);
    torrent.drop_link_into(&home.torrents, &peer(&seed));
    let folder = home.torrents.display();
    let script = format!(
        "mount --bind '{folder}' '{folder}' && mount -o remount,ro,bind '{folder}' && exec \"$0\" \"$@\""
    );
    let read_only = ["unshare", "--mount", "sh", "-c", &script];
    let daemon = home.start_by(&read_only);
    daemon.wait_state(&torrent, &["fetching-metadata"]);
    let giver = Giver::honest(daemon.address(), &torrent);
    daemon.wait_seeding(&torrent);
    assert!(!beside(&home, &torrent).exists());
    torrent.assert_lies_in(&home.data);
    drop(giver);
    daemon.terminate();
    let daemon = home.start_by(&read_only);
    let said = daemon.wait_seeding(&torrent);
    assert!(said["file"].as_str().unwrap().starts_with(&home.state.display().to_string()), "{said}");
    assert_eq!(home.log().matches("its metadata is here").count(), 1, "it was not fetched again");
    // Lost with the state, it is fetched anew.
    fs::remove_dir_all(home.state.join("magnets")).unwrap();
    daemon.ask("verify", json!({"info_hash": torrent.hex()}));
    daemon.wait_state(&torrent, &["fetching-metadata"]);
    let _giver = Giver::honest(daemon.address(), &torrent);
    daemon.wait_seeding(&torrent);
    // When the link goes nothing of it is left.
    fs::remove_file(link(&home, &torrent)).unwrap();
    daemon.wait_gone(&torrent);
    let kept = home.state.join("magnets");
    wait_value("it is deleted", PATIENCE, || fs::read_dir(&kept).unwrap().count(), |&count| count == 0);
}

#[test]
fn broken_links_and_second_ones_are_listed_with_their_reasons() {
    let home = Home::new();
    let torrent = Torrent::single("twice.bin", 100_000, 16 * 1024);
    fs::write(home.torrents.join("a.magnet"), torrent.magnet("")).unwrap();
    fs::write(home.torrents.join("b.magnet"), torrent.magnet("&dn=other")).unwrap();
    fs::write(home.torrents.join("empty.magnet"), "").unwrap();
    fs::write(home.torrents.join("page.magnet"), "<html>no link</html>").unwrap();
    fs::write(home.torrents.join("hash.magnet"), "magnet:?xt=urn:btih:12345").unwrap();
    fs::write(home.torrents.join("v2.magnet"), format!("magnet:?xt=urn:btmh:1220{}", "ab".repeat(32)))
        .unwrap();
    fs::write(home.torrents.join("huge.magnet"), vec![b'x'; 20 << 20]).unwrap();
    let daemon = home.start();
    daemon.wait_state(&torrent, &["fetching-metadata"]);
    for name in ["empty", "page", "hash", "v2", "huge"] {
        daemon.wait_refused(&format!("{name}.magnet"));
    }
    let refused = daemon.refused();
    for reason in
        ["duplicate of", "it is no magnet link", "no info-hash", "v2-only", "larger than", "a.magnet"]
    {
        assert!(refused.contains(reason), "{reason}: {refused}");
    }
    assert_eq!(daemon.ask("status", Value::Null)["torrents"]["fetching-metadata"], 1);
    // The second takes over when the first goes.
    fs::remove_file(home.torrents.join("a.magnet")).unwrap();
    wait_value(
        "b takes over",
        PATIENCE,
        || daemon.torrent(&torrent),
        |said| said["file"].as_str().is_some_and(|file| file.ends_with("b.magnet")),
    );
    assert_eq!(daemon.torrent(&torrent)["state"], "fetching-metadata");
}

#[test]
fn liars_boasters_and_those_who_send_nonsense_keep_nobody_from_the_honest() {
    let home = Home::new();
    let torrent = large("besieged.bin");
    let bystander = Torrent::single("bystander.bin", 100_000, 16 * 1024);
    bystander.add_to(&home);
    // All of them are at one address here: it must not be banned for one of them.
    home.set("listen", "addresses", json!(["0.0.0.0"]));
    let daemon = home.start();
    daemon.wait_seeding(&bystander);
    torrent.drop_link_into(&home.torrents, "");
    daemon.wait_state(&torrent, &["fetching-metadata"]);
    torrent.write_data(&home.data);
    let port = daemon.address().port();
    let at = ([127, 0, 0, 1], port).into();
    let size = i64::try_from(torrent.metadata().len()).unwrap();
    let nonsense = [
        (i64::MAX, b"d8:msg_typei1e5:piecei-1eeXXXX".to_vec()),
        (-1, b"de".to_vec()),
        (1 << 31, b"d8:msg_typei2e5:piecei4294967295ee".to_vec()),
        (12 << 20, data(0, 12 << 20, &[0; PIECE])),
        (size, data(0, 1, b"x")),
        (size, data(0, usize::try_from(size).unwrap(), b"short")),
        (size, b"d8:msg_typei9e5:piecei0ee".to_vec()),
        (size, b"d8:msg_typei2e5:piecei0ee".to_vec()),
        (size, b"l".repeat(1000)),
    ];
    let givers: Vec<Giver> = nonsense
        .into_iter()
        .map(|(size, answer)| Giver::call(at, &torrent, size, move |_| answer.clone()))
        .collect();
    // What nobody asked for, in floods.
    let mut flood = Asker::call(at, &torrent).expect("it speaks of metadata");
    for piece in 0..2000 {
        flood.ask(piece % 5 - 2);
    }
    let _honest = Giver::honest(at, &torrent);
    daemon.wait_seeding(&torrent);
    daemon.assert_serves(&bystander);
    assert!(daemon.memory().resident < 40 * 1024);
    drop(givers);
}

#[test]
fn who_gives_wrong_metadata_alone_is_turned_away() {
    let home = Home::new();
    let torrent = large("lied about.bin");
    let daemon = home.start();
    torrent.drop_link_into(&home.torrents, "");
    daemon.wait_state(&torrent, &["fetching-metadata"]);
    let mut liar = Giver::liar(daemon.address(), &torrent);
    wait("the liar is turned away", PATIENCE, || liar.is_closed().then_some(()));
    assert_eq!(daemon.torrent(&torrent)["state"], "fetching-metadata");
    assert!(!beside(&home, &torrent).exists());
}

#[test]
fn metadata_that_is_right_and_no_torrent_that_we_take_is_said_to_be_so() {
    let home = Home::new();
    let daemon = home.start();
    let torrent = Torrent::single("..", 100_000, 16 * 1024);
    fs::write(home.torrents.join("bad.magnet"), torrent.magnet("")).unwrap();
    daemon.wait_state(&torrent, &["fetching-metadata"]);
    let _giver = Giver::honest(daemon.address(), &torrent);
    let said = daemon.wait_state(&torrent, &["error"]);
    assert!(said["reason"].as_str().unwrap().contains("`info.name`"), "{said}");
    assert!(!home.torrents.join("bad.torrent").exists());
}

#[test]
fn metadata_is_given_to_all_but_of_private_torrents() {
    let home = Home::new();
    let open = large("open.bin");
    let private = Torrent::single("private.bin", 100_000, 16 * 1024).private();
    [&open, &private].into_iter().for_each(|torrent| torrent.add_to(&home));
    let daemon = home.start();
    [&open, &private].into_iter().for_each(|torrent| drop(daemon.wait_seeding(torrent)));
    assert!(Asker::call(daemon.address(), &private).is_none(), "it is not offered");
    let mut asker = Asker::call(daemon.address(), &open).unwrap();
    assert_eq!(asker.size, Some(open.metadata().len()));
    let pieces = open.metadata().len().div_ceil(PIECE);
    let mut metadata = vec![Vec::new(); pieces];
    for piece in (0..pieces).rev() {
        asker.ask(i64::try_from(piece).unwrap());
    }
    for _ in 0..pieces {
        let (piece, bytes) = asker.answer().unwrap();
        metadata[piece] = bytes.expect("it has it");
    }
    assert!(metadata.concat() == open.metadata());
    // What there is not is refused, what makes no sense is not answered.
    asker.ask(-1);
    asker.ask(i64::try_from(pieces).unwrap());
    assert_eq!(asker.answer().unwrap(), (pieces, None));
}

#[test]
fn a_flood_of_questions_for_metadata_is_answered_within_bounds() {
    let home = Home::new();
    let torrent = large("asked for.bin");
    torrent.add_to(&home);
    let daemon = home.start();
    daemon.wait_seeding(&torrent);
    let mut asker = Asker::call(daemon.address(), &torrent).unwrap();
    // Rejects are seventeen bytes each: those that nobody reads end the connection at last.
    let before = daemon.memory().resident;
    for _ in 0..1500 {
        asker.ask(0);
    }
    wait("refusals come", PATIENCE, || match asker.answer() {
        Ok((_, None)) | Err(_) => Some(()),
        Ok(_) => None,
    });
    assert!(daemon.memory().resident < before + 4 * 1024);
    daemon.assert_serves(&torrent);
}

#[test]
fn the_trackers_and_web_seeds_of_a_link_are_used() {
    let home = Home::new();
    let torrent = Torrent::single("on the web.bin", 300_000, 16 * 1024);
    let tracker = Tracker::swarm([127, 0, 0, 1].into(), 60);
    let server = WebServer::proper(&torrent);
    let daemon = home.start();
    torrent.drop_link_into(&home.torrents, &format!("&tr={}&ws={}", tracker.url(), server.folder()));
    let announce = tracker.wait_event(&torrent.info_hash, "started");
    assert_ne!(announce.left, 0, "a tracker takes that for a seed");
    let _giver = Giver::honest(daemon.address(), &torrent);
    daemon.wait_seeding(&torrent);
    torrent.assert_lies_in(&home.data);
    tracker.wait_event(&torrent.info_hash, "completed");
    let written = fs::read(beside(&home, &torrent)).unwrap();
    for url in [tracker.url(), server.folder()] {
        assert!(written.windows(url.len()).any(|window| window == url.as_bytes()), "{url}");
    }
    assert!(written.windows(torrent.metadata().len()).any(|window| window == torrent.metadata()));
    assert!(written.starts_with(&[b"d8:announce".to_vec(), string(tracker.url().as_bytes())].concat()));
}

// With the clients that people have.

#[test]
fn we_fetch_metadata_from_libtorrent() {
    if !able(&[Root, Python("libtorrent")]) {
        return;
    }
    let world = World::new::<2>();
    let [ours, theirs] = world.spaces();
    let (torrent, whole) = (large("from libtorrent.bin"), Folder::new());
    torrent.drop_into(whole.path());
    torrent.write_data(whole.path());
    let _seed = libtorrent(theirs, whole.path(), &[whole.path().join("from libtorrent.bin.torrent")]);
    wait_listens(theirs, 6881);
    let home = Home::inside(ours);
    let daemon = home.start();
    torrent.drop_link_into(&home.torrents, &format!("&x.pe={}:6881", theirs.address));
    wait_whole(&daemon, &torrent);
    torrent.assert_lies_in(&home.data);
    wait_file(&beside(&home, &torrent));
}

#[test]
fn we_fetch_metadata_from_transmission() {
    if !able(&[Root, Program("transmission-daemon")]) {
        return;
    }
    let world = World::new::<2>();
    let [ours, theirs] = world.spaces();
    let (torrent, whole) = (large("from transmission.bin"), Folder::new());
    let watched = Folder::new();
    torrent.drop_into(watched.path());
    torrent.write_data(whole.path());
    let _seed = transmission(theirs, watched.path(), whole.path());
    wait_listens(theirs, 51413);
    let home = Home::inside(ours);
    let daemon = home.start();
    torrent.drop_link_into(&home.torrents, &format!("&x.pe={}:51413", theirs.address));
    wait_whole(&daemon, &torrent);
    torrent.assert_lies_in(&home.data);
}

#[test]
fn libtorrent_fetches_metadata_from_us() {
    if able(&[Root, Python("libtorrent")]) {
        gives(content, |space, link, out| libtorrent(space, out, &[link.into()]));
    }
}

#[test]
fn transmission_fetches_metadata_from_us() {
    if able(&[Root, Program("transmission-daemon")]) {
        gives(metadata_alone, |space, link, out| {
            let watched = out.join(".empty");
            fs::create_dir(&watched).unwrap();
            let running = transmission(space, &watched, out);
            let request = format!(r#"{{"method":"torrent-add","arguments":{{"filename":"{link}"}}}}"#);
            space.enter(|| wait("Transmission takes the link", PATIENCE, || tell_transmission(&request)));
            running
        });
    }
}

#[test]
fn aria2_fetches_metadata_from_us() {
    if able(&[Root, Program("aria2c")]) {
        gives(content, |space, link, out| {
            let mut command = space.command("aria2c");
            start(command.args(["--seed-ratio=0", "--dir"]).arg(out).arg(link), out)
        });
    }
}

#[test]
fn a_link_alone_finds_libtorrent_in_the_dht() {
    if !able(&[Root, Python("libtorrent")]) {
        return;
    }
    let world = World::new::<3>();
    let [middle, ours, theirs] = world.spaces();
    let (torrent, whole, routes) = (large("in the dht.bin"), Folder::new(), router(middle));
    let _router = routes.start();
    torrent.drop_into(whole.path());
    torrent.write_data(whole.path());
    let file = whole.path().join("in the dht.bin.torrent");
    let _seed = libtorrent_in_dht(theirs, middle, whole.path(), &[file]);
    let home = in_dht(ours, &[middle]);
    let daemon = home.start();
    torrent.drop_link_into(&home.torrents, "");
    wait_whole(&daemon, &torrent);
    torrent.assert_lies_in(&home.data);
}

#[test]
fn libtorrent_with_a_link_alone_finds_us_in_the_dht() {
    if !able(&[Root, Python("libtorrent")]) {
        return;
    }
    let world = World::new::<3>();
    let [middle, ours, theirs] = world.spaces();
    let (torrent, out, routes) = (large("from the dht.bin"), Folder::new(), router(middle));
    let _router = routes.start();
    let home = in_dht(ours, &[middle]);
    torrent.add_to(&home);
    let daemon = home.start();
    daemon.wait_seeding(&torrent);
    let _client = libtorrent_in_dht(theirs, middle, out.path(), &[torrent.magnet("").into()]);
    wait("it arrives", DOWNLOAD, || content(&torrent, out.path()));
}

/// With the DHT as its only way to find anybody, and these nodes to begin with.
fn in_dht(space: &Namespace, nodes: &[&Namespace]) -> Home {
    let home = Home::inside(space);
    let nodes: Vec<_> = nodes.iter().map(|node| format!("{}:6881", node.address)).collect();
    home.set("dht", "bootstrap", json!(nodes));
    home.set("lpd", "enabled", false);
    home
}

fn router(space: &Namespace) -> Home {
    let home = in_dht(space, &[]);
    home.set("dht", "router", true);
    home
}

/// A client that has a link with a tracker gets what is wanted from us.
fn gives(wanted: Wanted, client: impl Fn(&Namespace, &str, &Path) -> Running) {
    let world = World::new::<3>();
    let [ours, middle, theirs] = world.spaces();
    let tracker = middle.enter(|| Tracker::swarm(middle.address.into(), 10));
    let torrent = large("given.bin").announce(&tracker.url());
    let home = Home::inside(ours);
    torrent.add_to(&home);
    // It comes first and we call it: Transmission 3.00 calls by uTP, and long waits for that.
    let out = Folder::new();
    let _client = client(theirs, &torrent.magnet(&format!("&tr={}", tracker.url())), out.path());
    tracker.wait_event(&torrent.info_hash, "started");
    let _daemon = home.start();
    wait("it arrives", DOWNLOAD, || wanted(&torrent, out.path()));
}

/// What of a torrent is to arrive in a client's folder.
type Wanted = fn(&Torrent, &Path) -> Option<()>;

fn content(torrent: &Torrent, out: &Path) -> Option<()> {
    torrent.contents().iter().try_for_each(|(path, bytes)| {
        let is_right = fs::read(out.join(path)).is_ok_and(|got| got == *bytes);
        is_right.then_some(())
    })
}

/// Transmission leaves everybody when it has the metadata, and long calls nobody then.
fn metadata_alone(torrent: &Torrent, out: &Path) -> Option<()> {
    let metadata = torrent.metadata();
    fs::read_dir(out.join(".client/config/torrents")).ok()?.find_map(|entry| {
        let kept = fs::read(entry.ok()?.path()).ok()?;
        kept.windows(metadata.len()).any(|window| window == metadata).then_some(())
    })
}

/// One that nobody answers for is called again after a minute only.
fn wait_listens(space: &Namespace, port: u16) {
    space.enter(|| wait("it listens", PATIENCE, || TcpStream::connect((space.address, port)).ok().map(drop)));
}

fn wait_whole(daemon: &Daemon, torrent: &Torrent) {
    let measure = || daemon.torrent(torrent);
    wait_value(&format!("{} is mirrored", torrent.name), DOWNLOAD, measure, |said| {
        said["state"] == "seeding"
    });
}

fn start(command: &mut Command, out: &Path) -> Running {
    let state = out.join(".client");
    fs::create_dir_all(&state).expect("the folder is ours");
    let log = fs::File::create(state.join("log")).expect("the folder is ours");
    let errors = log.try_clone().expect("a second handle");
    command.env("HOME", &state).current_dir(&state).stdin(Stdio::null()).stdout(log).stderr(errors);
    Running(command.spawn().expect("the client starts"))
}

/// Asks twice: the first answer tells the session's id.
fn tell_transmission(request: &str) -> Option<()> {
    let ask = |id: &str| {
        let mut stream = TcpStream::connect(("127.0.0.1", 9091)).ok()?;
        let (length, id) = (request.len(), format!("X-Transmission-Session-Id: {id}\r\n"));
        let head = format!("POST /transmission/rpc HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n{id}");
        write!(stream, "{head}Content-Length: {length}\r\n\r\n{request}").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        Some(answer)
    };
    let refused = ask("none")?;
    let id = refused.lines().find_map(|line| line.strip_prefix("X-Transmission-Session-Id: "))?;
    ask(id)?.contains(r#""result":"success""#).then_some(())
}

fn transmission(space: &Namespace, torrents: &Path, out: &Path) -> Running {
    // It renames what it takes from its watched folder: give it a copy.
    let watched = out.join(".watched");
    run(Command::new("cp").arg("-r").arg(torrents).arg(&watched));
    let mut command = space.command("transmission-daemon");
    command.arg("--foreground").arg("--config-dir").arg(out.join(".client/config"));
    start(command.arg("--watch-dir").arg(watched).arg("--download-dir").arg(out), out)
}

/// Adds .torrent files and links.
fn libtorrent(space: &Namespace, out: &Path, what: &[PathBuf]) -> Running {
    libtorrent_with(&json!({}), space, out, what)
}

/// The same with the DHT as its only way to find anybody. By default it takes two nodes with addresses of one network for
/// a liar and its accomplice.
fn libtorrent_in_dht(space: &Namespace, node: &Namespace, out: &Path, what: &[PathBuf]) -> Running {
    let settings = json!({
        "enable_lsd": false,
        "enable_dht": true,
        "listen_interfaces": format!("{}:6881", space.address),
        "dht_bootstrap_nodes": format!("{}:6881", node.address),
        "dht_announce_interval": 5,
        "dht_restrict_routing_ips": false,
        "dht_restrict_search_ips": false,
    });
    libtorrent_with(&settings, space, out, what)
}

fn libtorrent_with(settings: &Value, space: &Namespace, out: &Path, what: &[PathBuf]) -> Running {
    let script = "import json, sys, time, libtorrent as lt
session = lt.session(json.loads(sys.argv[2]))
for what in sys.argv[3:]:
    if what.startswith('magnet:'):
        added = lt.parse_magnet_uri(what)
    else:
        added = lt.add_torrent_params()
        added.ti = lt.torrent_info(what)
    added.save_path = sys.argv[1]
    session.add_torrent(added)
while True: time.sleep(1)";
    let mut command = space.command(python());
    start(command.args(["-c", script]).arg(out).arg(settings.to_string()).args(what), out)
}

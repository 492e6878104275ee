//! The DHT between real processes, on meshes of their own: no tracker, no name server, no Internet. Needs root.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::unwrap_used,
    reason = "real processes, files and sockets; a test may panic"
)]

mod common;

use std::net::{SocketAddr, UdpSocket};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::Need::{Conntrack, Program, Python, Root};
use common::daemon::{Daemon, Home};
use common::peer::RawPeer;
use common::torrent::{Torrent, string};
use common::world::{Namespace, World};
use common::{Folder, PATIENCE, Running, able, python, run, wait, wait_value};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

/// Until a peer is found through a DHT of eight nodes.
const FOUND: Duration = Duration::from_secs(10);

/// What others may take: they ask their nodes again after a minute or two, whoever has come meanwhile.
const THEIRS: Duration = Duration::from_secs(240);

#[test]
fn eight_nodes_alone_find_a_peer_of_a_torrent_without_a_tracker() {
    if !able(&[Root]) {
        return;
    }
    let world = World::new::<8>();
    let spaces = world.spaces::<8>();
    let homes = spaces.map(|space| home(space, &[spaces[0]]));
    let start = Instant::now();
    let daemons = homes.each_ref().map(Home::start);
    wait_value(
        "all know each other",
        PATIENCE,
        || daemons.each_ref().map(nodes),
        |nodes| nodes.iter().all(|nodes| *nodes >= 7),
    );
    println!("8 nodes know each other {:?} after the first was started", start.elapsed());
    let torrent = Torrent::single("from the mesh.bin", 1_000_001, 32 * 1024);
    let start = Instant::now();
    torrent.add_to(&homes[1]);
    daemons[1].wait_seeding(&torrent);
    let stored = || daemons.iter().map(|daemon| dht(daemon)["stored"].as_u64().unwrap()).sum::<u64>();
    wait_value("somebody remembers the seed", FOUND, stored, |stored| *stored > 0);
    println!("announced to 8 nodes {:?} after its .torrent was dropped", start.elapsed());
    let start = Instant::now();
    torrent.drop_into(&homes[6].torrents);
    wait_value("it is found", FOUND, || daemons[6].torrent(&torrent), is_found);
    println!("a peer found through 8 nodes {:?} after the .torrent was dropped", start.elapsed());
    fetched(&daemons[6], &torrent, PATIENCE);
    // Both at once: neither finds the other by asking those who have not been told.
    let torrent = Torrent::single("at once.bin", 300_000, 32 * 1024);
    let start = Instant::now();
    torrent.drop_into(&homes[5].torrents);
    torrent.add_to(&homes[3]);
    wait_value("it is found", FOUND, || daemons[5].torrent(&torrent), is_found);
    println!("a peer found through 8 nodes {:?} after both .torrents were dropped", start.elapsed());
    fetched(&daemons[5], &torrent, PATIENCE);
}

#[test]
fn two_alone_find_each_other_by_the_node_that_the_torrent_names() {
    // There is no name server.
    let names = json!(["router.bittorrent.com:6881", "dht.mesh:6881"]);
    two_alone(|home, _| home.set("dht", "bootstrap", &names), |space| space.address.to_string());
}

#[test]
fn two_alone_with_ipv6_find_each_other_by_the_node_that_the_torrent_names() {
    two_alone(
        |home, space| home.set("listen", "addresses", json!([space.address6])),
        |space| space.address6.to_string(),
    );
}

#[test]
fn peers_and_neighbours_tell_of_their_nodes() {
    if !able(&[Root]) {
        return;
    }
    let world = World::new::<4>();
    let [seed, peer, neighbour, private] = world.spaces();
    let torrent = Torrent::single("connected.bin", 300_000, 32 * 1024);
    let connected = home(seed, &[]);
    torrent.add_to(&connected);
    let giver = connected.start();
    giver.wait_seeding(&torrent);
    // By the PORT message, both ways.
    let dials = home(peer, &[]);
    dials.set("", "peers", json!([format!("{}:6881", seed.address)]));
    torrent.drop_into(&dials.torrents);
    let taker = dials.start();
    fetched(&taker, &torrent, PATIENCE);
    for daemon in [&giver, &taker] {
        wait_value("it knows the other's node", PATIENCE, || nodes(daemon), |nodes| *nodes == 1);
    }
    // By Local Peer Discovery: it is enough that they hear each other, of whatever torrent.
    drop(taker);
    connected.set("lpd", "enabled", true);
    connected.configure();
    giver.signal(Signal::SIGHUP);
    let hears = home(neighbour, &[]);
    hears.set("lpd", "enabled", true);
    let listener = hears.start();
    wait_value("it knows its neighbour's node", PATIENCE, || nodes(&listener), |nodes| *nodes >= 1);
    drop(listener);
    // What is private has no part in it.
    let secret = Torrent::single("secret", 300_000, 32 * 1024).private();
    let giver = home(neighbour, &[]);
    secret.add_to(&giver);
    let daemon = giver.start();
    wait_value("it is seeded", PATIENCE, || seeding(&daemon), |count| *count == 1);
    let address = daemon.address();
    let stranger = private.enter(|| RawPeer::connect(address, &secret.info_hash)).expect("it shakes hands");
    assert_eq!(stranger.reserved[7] & 1, 0, "a private torrent's peers are not asked for nodes");
}

#[test]
fn neighbours_with_link_local_addresses_alone_are_nodes_of_each_other() {
    if !able(&[Root]) {
        return;
    }
    let world = World::new::<2>();
    let [seed, leech] = world.spaces();
    let homes = [seed, leech].map(|space| {
        run(Command::new("ip").args([
            "-n",
            &space.name,
            "address",
            "flush",
            "dev",
            "mesh",
            "scope",
            "global",
        ]));
        let home = home(space, &[]);
        home.set("listen", "addresses", json!([]));
        home.set("lpd", "enabled", true);
        home
    });
    Torrent::single("next door.bin", 50_000, 16 * 1024).add_to(&homes[0]);
    for daemon in homes.each_ref().map(Home::start) {
        wait_value("it knows the other", PATIENCE, || nodes(&daemon), |nodes| *nodes == 1);
    }
}

#[test]
fn libtorrent_tells_us_of_its_node() {
    if !able(&[Root, Python("libtorrent")]) {
        return;
    }
    let world = World::new::<2>();
    let [seed, leech] = world.spaces();
    let torrent = Torrent::single("and its node.bin", 1_000_001, 32 * 1024);
    let (ours, out, watched) = (home(leech, &[]), Folder::new(), Folder::new());
    torrent.drop_into(watched.path());
    torrent.write_data(out.path());
    // It knows of no node, not even of a name.
    let _client = libtorrent(seed, seed, &watched, &out);
    let address = SocketAddr::from((seed.address, 6881));
    wait("it serves", PATIENCE, || seed.enter(|| RawPeer::connect(address, &torrent.info_hash).ok()));
    ours.set("", "peers", json!([address]));
    torrent.drop_into(&ours.torrents);
    let daemon = ours.start();
    fetched(&daemon, &torrent, THEIRS);
    wait_value("it knows the other's node", PATIENCE, || nodes(&daemon), |nodes| *nodes == 1);
}

#[test]
fn good_nodes_are_known_again_after_a_restart_and_a_damaged_file_is_none() {
    if !able(&[Root]) {
        return;
    }
    let world = World::new::<2>();
    let [one, other] = world.spaces();
    let (remembers, remembered) = (home(one, &[other]), home(other, &[]));
    let _stays = remembered.start();
    let daemon = remembers.start();
    wait_value("it knows the other", PATIENCE, || nodes(&daemon), |nodes| *nodes == 1);
    assert!(daemon.terminate().0.success());
    let file = remembers.state.join("dht");
    let saved = std::fs::read(&file).expect("it is saved");
    remembers.set("dht", "bootstrap", json!([]));
    let daemon = remembers.start();
    wait_value("it knows the other again", PATIENCE, || nodes(&daemon), |nodes| *nodes == 1);
    assert!(daemon.terminate().0.success());
    let again = std::fs::read(&file).expect("it is saved");
    assert_eq!(saved[..40], again[..40], "its id is the same");
    std::fs::write(&file, &again[..again.len() / 2]).unwrap();
    let daemon = remembers.start();
    assert!(dht(&daemon).is_object(), "it works without them");
    assert!(daemon.terminate().0.success());
}

#[test]
fn private_and_paused_torrents_are_never_told_and_metered_nodes_say_what_they_are() {
    if !able(&[Root]) {
        return;
    }
    let world = World::new::<2>();
    let [seed, other] = world.spaces();
    let ear = Ear::new(other);
    let home = home(seed, &[other]);
    home.set("dht", "read-only", true);
    let [told, paused] = ["told", "paused"].map(|name| Torrent::single(name, 50_000, 16 * 1024));
    let secret = Torrent::single("secret", 50_000, 16 * 1024).private();
    [&secret, &paused].into_iter().for_each(|torrent| torrent.add_to(&home));
    home.set("dht", "enabled", false);
    let daemon = home.start();
    [&secret, &paused].into_iter().for_each(|torrent| drop(daemon.wait_seeding(torrent)));
    daemon.ask("pause", json!({"info_hash": paused.hex()}));
    assert_eq!(dht(&daemon), Value::Null);
    home.set("dht", "enabled", true);
    home.configure();
    daemon.signal(Signal::SIGHUP);
    told.add_to(&home);
    daemon.wait_seeding(&told);
    wait("it is announced", PATIENCE, || ear.heard("announce_peer", &told.info_hash).then_some(()));
    // Whatever else it had to say would come within the second.
    std::thread::sleep(Duration::from_secs(3));
    assert!(ear.heard("get_peers", &told.info_hash));
    assert!(!ear.heard("", &paused.info_hash), "it is paused");
    assert!(!ear.heard("", &secret.info_hash), "it is private");
    assert!(ear.all().iter().all(|datagram| has(datagram, b"2:roi1e")), "it is read-only");
    assert_eq!(ear.ask(daemon.address(), "ping", b""), None, "who is read-only answers nobody");
}

#[test]
fn a_router_gives_contacts_and_stores_nothing() {
    if !able(&[Root]) {
        return;
    }
    let world = World::new::<3>();
    let [middle, one, other] = world.spaces();
    let home_of_router = home(middle, &[]);
    home_of_router.set("dht", "router", true);
    let router = home_of_router.start();
    let home = home(one, &[middle]);
    let daemon = home.start();
    wait_value("the router knows it", PATIENCE, || nodes(&router), |nodes| *nodes >= 1);
    let ear = Ear::new(other);
    let hash = [7; 20];
    for (daemon, stored) in [(&router, 0), (&daemon, 1)] {
        let wanted = [&b"9:info_hash20:"[..], &hash].concat();
        let answer = ear.ask(daemon.address(), "get_peers", &wanted).expect("it answers");
        assert!(has(&answer, b"5:nodes"), "it gives contacts");
        let token = after(&answer, b"5:token").unwrap_or(b"1:x").to_vec();
        let announce = [&wanted[..], b"4:porti7000e5:token", &token].concat();
        ear.ask(daemon.address(), "announce_peer", &announce);
        let answer = ear.ask(daemon.address(), "get_peers", &wanted).expect("it answers");
        assert_eq!((has(&answer, b"6:values"), dht(daemon)["stored"].as_u64()), (stored > 0, Some(stored)));
    }
    // Through the router two others find each other, one of them read-only.
    drop(ear);
    let torrent = Torrent::single("routed.bin", 500_000, 32 * 1024);
    torrent.add_to(&home);
    daemon.wait_seeding(&torrent);
    let reader = self::home(other, &[middle]);
    reader.set("dht", "read-only", true);
    torrent.drop_into(&reader.torrents);
    let reading = reader.start();
    fetched(&reading, &torrent, PATIENCE);
    assert_eq!(dht(&router)["stored"], 0);
}

#[test]
fn new_endpoints_come_at_the_pace_of_dials_and_slower_where_the_table_of_connections_is_full() {
    if !able(&[Root, Conntrack]) {
        return;
    }
    // Five at once and twenty more take four seconds; two at once and four more, one a second, as long. The first may have
    // waited to be read here.
    assert!(time_to_ask(25, None) >= Duration::from_secs(3), "five a second");
    assert!(time_to_ask(6, Some((990, 1000))) >= Duration::from_secs(3), "one a second");
}

#[test]
fn a_flood_of_questions_is_answered_in_part_and_others_are_answered_all_the_same() {
    if !able(&[Root]) {
        return;
    }
    let world = World::new::<3>();
    let [one, floods, asks] = world.spaces();
    let home = home(one, &[]);
    let daemon = home.start();
    let address = daemon.address();
    let ear = Ear::new(asks);
    ear.ask(address, "ping", b"").expect("it answers");
    let (answered, time) = floods.enter(|| {
        let socket = UdpSocket::bind((floods.address, 6881)).expect("nobody else is here");
        socket.set_nonblocking(true).expect("it is a socket");
        let (start, mut answered) = (Instant::now(), 0);
        let mut buffer = [0; 2048];
        for number in 0..30_000_u32 {
            let body =
                [&b"d2:id20:"[..], &Ear::ID, b"6:target20:", &[7; 16], &number.to_be_bytes(), b"e"].concat();
            let question = [&b"d1:a"[..], &body, b"1:q9:find_node1:t2:xx1:y1:qe"].concat();
            // Every other one ends too soon.
            let len = question.len() - (number % 2) as usize * 50;
            socket.send_to(&question[..len], address).ok();
            while socket.recv(&mut buffer).is_ok() {
                answered += 1;
            }
        }
        (answered, start.elapsed())
    });
    ear.ask(address, "ping", b"").expect("it answers others");
    // Fifty in ten seconds, and the first and last of those were not over.
    assert!(answered <= 50 * (time.as_secs() / 10 + 2), "{answered} answers in {time:?}");
    assert!(dht(&daemon).is_object());
}

#[test]
fn libtorrent_finds_us() {
    if able(&[Root, Python("libtorrent")]) {
        they_find_us(libtorrent);
    }
}

#[test]
fn we_find_libtorrent() {
    if able(&[Root, Python("libtorrent")]) {
        we_find_them(libtorrent);
    }
}

#[test]
fn aria2_finds_us() {
    if able(&[Root, Program("aria2c")]) {
        they_find_us(aria2);
    }
}

#[test]
fn we_find_aria2() {
    if able(&[Root, Program("aria2c")]) {
        we_find_them(aria2);
    }
}

/// With the DHT as its only way to find anybody, and one node of it to begin with.
type Client = fn(&Namespace, &Namespace, &Folder, &Folder) -> Running;

/// A client that has nothing finds our seed; a router is all that both know.
fn they_find_us(client: Client) {
    let world = World::new::<3>();
    let [middle, seed, leech] = world.spaces();
    let torrent = Torrent::single("theirs soon.bin", 1_000_001, 32 * 1024);
    let (routes, ours, out, watched) = (router(middle), home(seed, &[middle]), Folder::new(), Folder::new());
    let _router = routes.start();
    torrent.add_to(&ours);
    let daemon = ours.start();
    daemon.wait_seeding(&torrent);
    torrent.drop_into(watched.path());
    let start = Instant::now();
    let _client = client(leech, middle, &watched, &out);
    let file = out.path().join(&torrent.name);
    let whole = || std::fs::read(&file).is_ok_and(|bytes| bytes == torrent.content());
    wait_value("it has all of it", THEIRS, whole, |whole| *whole);
    println!("fetched from us {:?} after it was started", start.elapsed());
}

/// We have nothing and find a client that has it.
fn we_find_them(client: Client) {
    let world = World::new::<3>();
    let [middle, seed, leech] = world.spaces();
    let torrent = Torrent::single("ours soon.bin", 1_000_001, 32 * 1024);
    let (routes, ours, out, watched) = (router(middle), home(leech, &[middle]), Folder::new(), Folder::new());
    let _router = routes.start();
    let daemon = ours.start();
    torrent.drop_into(watched.path());
    torrent.write_data(out.path());
    let start = Instant::now();
    let _client = client(seed, middle, &watched, &out);
    torrent.drop_into(&ours.torrents);
    fetched(&daemon, &torrent, THEIRS);
    println!("fetched from it {:?} after both were started", start.elapsed());
}

fn libtorrent(space: &Namespace, node: &Namespace, torrents: &Folder, out: &Folder) -> Running {
    // By default it takes two nodes with addresses of one network for a liar and its accomplice.
    let script = "import glob, sys, time, libtorrent as lt
session = lt.session({'enable_lsd': False, 'enable_dht': True, 'listen_interfaces': sys.argv[3] + ':6881',
    'dht_bootstrap_nodes': sys.argv[4] + ':6881', 'dht_announce_interval': 5, 'dht_restrict_routing_ips': False,
    'dht_restrict_search_ips': False})
for path in glob.glob(sys.argv[1] + '/*.torrent'):
    session.add_torrent({'ti': lt.torrent_info(path), 'save_path': sys.argv[2]})
while True: time.sleep(1)";
    let mut command = space.command(python());
    command.args(["-c", script]).args([torrents.path(), out.path()]);
    start(command.args([space.address, node.address].map(|address| address.to_string())))
}

fn aria2(space: &Namespace, node: &Namespace, torrents: &Folder, out: &Folder) -> Running {
    let mut command = space.command("aria2c");
    command.args(["--check-integrity", "--seed-ratio=0", "--disable-ipv6", "--bt-enable-lpd=false"]);
    command.args([
        "--enable-dht",
        "--enable-peer-exchange=false",
        "--listen-port=6881",
        "--dht-listen-port=6881",
    ]);
    command.arg(format!("--dht-entry-point={}:6881", node.address));
    command.arg(format!("--dht-file-path={}", out.path().join("dht.dat").display()));
    let files = std::fs::read_dir(torrents.path()).unwrap().map(|entry| entry.unwrap().path());
    start(command.arg("--dir").arg(out.path()).args(files))
}

fn start(command: &mut Command) -> Running {
    let quiet = command.stdin(Stdio::null()).stdout(Stdio::null());
    Running(quiet.spawn().expect("the client starts"))
}

/// Two that know nobody else; the torrent of one names the other. `prepare` makes the settings of each.
fn two_alone(prepare: impl Fn(&Home, &Namespace), host: impl Fn(&Namespace) -> String) {
    if !able(&[Root]) {
        return;
    }
    let world = World::new::<2>();
    let [seed, leech] = world.spaces();
    let torrent = Torrent::single("from the other.bin", 1_000_001, 32 * 1024);
    let (ours, theirs) = (home(seed, &[]), home(leech, &[]));
    prepare(&ours, seed);
    prepare(&theirs, leech);
    torrent.add_to(&ours);
    let (giver, taker) = (ours.start(), theirs.start());
    giver.wait_seeding(&torrent);
    let start = Instant::now();
    torrent.clone().node(&host(seed), 6881).drop_into(&theirs.torrents);
    fetched(&taker, &torrent, PATIENCE);
    println!("two alone: fetched {:?} after the .torrent was dropped", start.elapsed());
    torrent.assert_lies_in(&theirs.data);
}

/// From the first to the last of so many addresses that a daemon is to begin with and that do not answer; `tracked` is how
/// full its kernel says its table of connections is, and its size.
fn time_to_ask(addresses: usize, tracked: Option<(u32, u32)>) -> Duration {
    let world = World::new::<2>();
    let [one, other] = world.spaces();
    let sockets: Vec<UdpSocket> = other.enter(|| {
        let bind = |_| UdpSocket::bind((other.address, 0)).expect("a free port");
        (0..addresses).map(bind).collect()
    });
    let home = home(one, &[]);
    let names = sockets.iter().map(|socket| socket.local_addr().unwrap().to_string());
    home.set("dht", "bootstrap", json!(names.collect::<Vec<_>>()));
    let mut script = "exec \"$0\" \"$@\"".to_owned();
    if let Some((used, room)) = tracked {
        for (name, number) in [("count", used), ("max", room)] {
            let file = home.folder.path().join(name);
            std::fs::write(&file, format!("{number}\n")).unwrap();
            let place = format!("/proc/sys/net/netfilter/nf_conntrack_{name}");
            script = format!("mount --bind '{}' {place} && {script}", file.display());
        }
    }
    let daemon = home.spawn(&["unshare", "--mount", "sh", "-c", &script]);
    let first_of = |socket: &UdpSocket| {
        socket.set_read_timeout(Some(PATIENCE)).expect("above zero");
        socket.recv(&mut [0; 2048]).map(|_| Instant::now()).expect("it is asked")
    };
    let asked: Vec<Instant> = std::thread::scope(|scope| {
        let waiting: Vec<_> = sockets.iter().map(|socket| scope.spawn(move || first_of(socket))).collect();
        waiting.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    drop(daemon);
    *asked.iter().max().unwrap() - *asked.iter().min().unwrap()
}

/// With the DHT as its only way to find anybody, and these nodes to begin with.
fn home(space: &Namespace, nodes: &[&Namespace]) -> Home {
    let home = Home::inside(space);
    let nodes: Vec<_> = nodes.iter().map(|node| format!("{}:6881", node.address)).collect();
    home.set("dht", "bootstrap", json!(nodes));
    home.set("lpd", "enabled", false);
    home.set("log", "level", json!("debug"));
    home
}

fn router(space: &Namespace) -> Home {
    let home = home(space, &[]);
    home.set("dht", "router", true);
    home
}

fn dht(daemon: &Daemon) -> Value {
    daemon.ask("status", Value::Null)["dht"].clone()
}

fn nodes(daemon: &Daemon) -> u64 {
    dht(daemon)["nodes"].as_u64().expect("a number")
}

fn seeding(daemon: &Daemon) -> Value {
    daemon.ask("status", Value::Null)["torrents"]["seeding"].clone()
}

/// Somebody has it, or has already given it.
fn is_found(said: &Value) -> bool {
    said["peers"].as_u64() > Some(0) || said["state"] == "seeding"
}

fn fetched(daemon: &Daemon, torrent: &Torrent, bound: Duration) {
    let measure = || daemon.torrent(torrent);
    wait_value(&format!("{} is fetched", torrent.name), bound, measure, |said| said["state"] == "seeding");
}

/// A node that answers every question with nothing, and remembers what it was told.
struct Ear {
    socket: UdpSocket,
    heard: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Ear {
    const ID: [u8; 20] = [0x5a; 20];

    fn new(space: &Namespace) -> Self {
        let socket = space.enter(|| UdpSocket::bind((space.address, 6881))).expect("nobody else is here");
        socket.set_read_timeout(Some(Duration::from_millis(100))).expect("above zero");
        let heard = Arc::default();
        let (theirs, all): (UdpSocket, Arc<Mutex<Vec<Vec<u8>>>>) =
            (socket.try_clone().unwrap(), Arc::clone(&heard));
        std::thread::spawn(move || {
            let mut buffer = [0; 2048];
            // Until the test has let go of all of it.
            while Arc::strong_count(&all) > 1 {
                let Ok((len, from)) = theirs.recv_from(&mut buffer) else { continue };
                all.lock().unwrap().push(buffer[..len].to_vec());
                if has(&buffer[..len], b"1:y1:q") {
                    let number = after(&buffer[..len], b"1:t").expect("a query has a number");
                    let body = [&b"d2:id20:"[..], &Self::ID, b"5:nodes0:5:token1:xe"].concat();
                    let answer = [&b"d1:r"[..], &body, b"1:t", number, b"1:y1:re"].concat();
                    theirs.send_to(&answer, from).ok();
                }
            }
        });
        Self { socket, heard }
    }

    fn all(&self) -> Vec<Vec<u8>> {
        self.heard.lock().unwrap().clone()
    }

    fn forget(&self) {
        self.heard.lock().unwrap().clear();
    }

    /// Whether a question of this kind came about a torrent.
    fn heard(&self, question: &str, info_hash: &[u8; 20]) -> bool {
        let named = string(question.as_bytes());
        let all = self.all();
        all.iter().any(|datagram| has(datagram, info_hash) && (question.is_empty() || has(datagram, &named)))
    }

    /// Asks a node something, three times if need be: what it answers.
    fn ask(&self, node: SocketAddr, question: &str, arguments: &[u8]) -> Option<Vec<u8>> {
        let body = [&b"d2:id20:"[..], &Self::ID, arguments, b"e"].concat();
        let named = string(question.as_bytes());
        let datagram = [&b"d1:a"[..], &body, b"1:q", &named, b"1:t3:ear1:y1:qe"].concat();
        self.forget();
        for _ in 0..3 {
            self.socket.send_to(&datagram, node).expect("it is on our link");
            let start = Instant::now();
            while start.elapsed() < Duration::from_secs(1) {
                let answer = self.all().into_iter().find(|datagram| has(datagram, b"1:t3:ear"));
                if answer.is_some() {
                    return answer;
                }
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        None
    }
}

fn has(datagram: &[u8], part: &[u8]) -> bool {
    datagram.windows(part.len()).any(|window| window == part)
}

/// The string that follows a key, with its length.
fn after<'a>(datagram: &'a [u8], key: &[u8]) -> Option<&'a [u8]> {
    let at = datagram.windows(key.len()).rposition(|window| window == key)? + key.len();
    let colon = at + datagram[at..].iter().position(|byte| *byte == b':')?;
    let length: usize = std::str::from_utf8(&datagram[at..colon]).ok()?.parse().ok()?;
    datagram.get(at..=colon + length)
}

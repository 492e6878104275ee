//! A tracker that a test can look into and that misbehaves on demand (BEP 3, 7, 23, 48), and a real one to compare.

use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::torrent::{dictionary, integer, string};
use super::world::Namespace;
use super::{Folder, PATIENCE, Running, wait};

/// One announce as it came.
#[derive(Clone, Debug)]
pub struct Announce {
    pub info_hash: [u8; 20],
    pub event: String,
    pub port: u16,
    pub left: u64,
    pub uploaded: u64,
    /// Everything else that was asked, undecoded.
    pub query: HashMap<String, String>,
    /// The announcing side's address: which family it came by.
    pub from: SocketAddr,
    pub at: Instant,
    /// Counts the tracker's connections: equal numbers shared one.
    pub connection: u32,
}

/// One scrape as it came: the connection, and of which torrents.
pub type Scrape = (u32, Vec<[u8; 20]>);

/// What it answers to each: seeds, downloads, leechers.
pub const COUNTS: [u64; 3] = [3, 9, 2];

/// What the tracker says.
#[derive(Clone, Debug)]
pub enum Answer {
    /// A proper reply with an interval in seconds.
    Peers(u64, Vec<SocketAddr>),
    /// HTTP status 200 and this body.
    Body(Vec<u8>),
    /// These bytes in the place of an HTTP reply, then the end of the connection.
    Raw(Vec<u8>),
    Redirect(String),
    /// Nothing, for as long as the client waits.
    Stall,
    /// A good head, then a byte a second without an end.
    Trickle,
}

/// A running tracker; it ends with the test.
#[derive(Debug)]
pub struct Tracker {
    pub address: SocketAddr,
    seen: Arc<Mutex<Vec<Announce>>>,
    scrapes: Arc<Mutex<Vec<Scrape>>>,
    /// Connections open now, and the most there were.
    open: Arc<[AtomicU32; 2]>,
    over: Arc<AtomicBool>,
}

impl Tracker {
    /// Names the peers that announced the same torrent, and asks to come back after `interval` seconds.
    pub fn swarm(at: IpAddr, interval: u64) -> Self {
        let swarms = Mutex::new(HashMap::<[u8; 20], Vec<SocketAddr>>::new());
        Self::start(at, move |announce| {
            let mut swarms = swarms.lock().expect("no test panics here");
            let swarm = swarms.entry(announce.info_hash).or_default();
            let peer = SocketAddr::new(announce.from.ip(), announce.port);
            swarm.retain(|known| *known != peer);
            let others = swarm.clone();
            if announce.event != "stopped" {
                swarm.push(peer);
            }
            Answer::Peers(interval, others)
        })
    }

    /// Answers as it is told.
    pub fn start(at: IpAddr, answer: impl Fn(&Announce) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind((at, 0)).expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let (seen, over) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let scrapes = Arc::new(Mutex::new(Vec::new()));
        let (all, scraped, end) = (Arc::clone(&seen), Arc::clone(&scrapes), Arc::clone(&over));
        let open = Arc::new([const { AtomicU32::new(0) }; 2]);
        let meter = Arc::clone(&open);
        let answer = Arc::new(answer);
        std::thread::spawn(move || {
            let count = AtomicU32::new(0);
            for stream in listener.incoming() {
                if end.load(Ordering::Relaxed) {
                    return;
                }
                let (answer, all, end) = (Arc::clone(&answer), Arc::clone(&all), Arc::clone(&end));
                let scraped = Arc::clone(&scraped);
                let connection = count.fetch_add(1, Ordering::Relaxed);
                let meter = Arc::clone(&meter);
                if let Ok(stream) = stream {
                    meter[1].fetch_max(meter[0].fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
                    std::thread::spawn(move || {
                        serve(stream, connection, &*answer, (&all, &scraped), &end);
                        meter[0].fetch_sub(1, Ordering::Relaxed);
                    });
                }
            }
        });
        Self { address, seen, scrapes, open, over }
    }

    pub fn url(&self) -> String {
        format!("http://{}/announce", self.address)
    }

    /// The most connections that were open at a time.
    pub fn most_open(&self) -> u32 {
        self.open[1].load(Ordering::Relaxed)
    }

    /// All announces so far.
    pub fn announces(&self) -> Vec<Announce> {
        self.seen.lock().expect("no test panics here").clone()
    }

    /// All scrapes so far.
    pub fn scrapes(&self) -> Vec<Scrape> {
        self.scrapes.lock().expect("no test panics here").clone()
    }

    /// The events told for one torrent, in order; a regular announce is "".
    pub fn events(&self, info_hash: &[u8; 20]) -> Vec<String> {
        let announces = self.announces().into_iter();
        announces.filter(|announce| announce.info_hash == *info_hash).map(|announce| announce.event).collect()
    }

    /// Waits until this event was told for this torrent.
    pub fn wait_event(&self, info_hash: &[u8; 20], event: &str) -> Announce {
        wait(&format!("an announce of {event:?}"), PATIENCE, || {
            let mut announces = self.announces().into_iter();
            announces.find(|announce| announce.info_hash == *info_hash && announce.event == event)
        })
    }
}

impl Drop for Tracker {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        // Wakes the listener when it is on an address of this namespace; elsewhere its thread sleeps to the end.
        TcpStream::connect_timeout(&self.address, Duration::from_millis(100)).ok();
    }
}

fn serve(
    mut stream: TcpStream,
    connection: u32,
    answer: &dyn Fn(&Announce) -> Answer,
    (seen, scrapes): (&Mutex<Vec<Announce>>, &Mutex<Vec<Scrape>>),
    over: &AtomicBool,
) {
    stream.set_read_timeout(Some(Duration::from_secs(1))).expect("above zero");
    stream.set_nodelay(true).ok();
    let from = match stream.peer_addr() {
        Ok(from) => from,
        Err(_) => return,
    };
    let mut pending = Vec::new();
    while !over.load(Ordering::Relaxed) {
        let Some(end) = pending.windows(4).position(|window| window == b"\r\n\r\n") else {
            let mut buffer = [0; 4096];
            match stream.read(&mut buffer) {
                Ok(0) => return,
                Ok(count) => pending.extend_from_slice(&buffer[..count]),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(_) => return,
            }
            continue;
        };
        let head = String::from_utf8_lossy(&pending[..end]).into_owned();
        pending.drain(..end + 4);
        if let Some(query) = head.strip_prefix("GET /scrape?") {
            let wanted = query.split([' ', '&']).filter_map(|pair| pair.strip_prefix("info_hash="));
            let wanted: Vec<[u8; 20]> = wanted.filter_map(|text| unescape(text).try_into().ok()).collect();
            let [seeds, downloads, leechers] = COUNTS.map(integer);
            let file =
                dictionary(&[("complete", seeds), ("downloaded", downloads), ("incomplete", leechers)]);
            let files: Vec<u8> =
                wanted.iter().flat_map(|hash| [string(hash), file.clone()].concat()).collect();
            scrapes.lock().expect("no test panics here").push((connection, wanted));
            if stream.write_all(&ok(&[b"d5:filesd", &files[..], b"ee"].concat())).is_err() {
                return;
            }
            continue;
        }
        let Some(announce) = parse(&head, from, connection) else { return };
        seen.lock().expect("no test panics here").push(announce.clone());
        let reply = match answer(&announce) {
            Answer::Peers(interval, peers) => ok(&reply(interval, &peers)),
            Answer::Body(body) => ok(&body),
            Answer::Raw(bytes) => {
                stream.write_all(&bytes).ok();
                return;
            }
            Answer::Redirect(url) => {
                format!("HTTP/1.1 302 Found\r\nLocation: {url}\r\nContent-Length: 0\r\n\r\n").into_bytes()
            }
            Answer::Stall => {
                while !over.load(Ordering::Relaxed) && !gone(&mut stream) {}
                return;
            }
            Answer::Trickle => {
                stream.write_all(b"HTTP/1.1 200 OK\r\n\r\nd").ok();
                while !over.load(Ordering::Relaxed) && stream.write_all(b"0").is_ok() {
                    std::thread::sleep(Duration::from_secs(1));
                }
                return;
            }
        };
        if stream.write_all(&reply).is_err() {
            return;
        }
    }
}

/// Waits a second for the other side to give up.
fn gone(stream: &mut TcpStream) -> bool {
    match stream.read(&mut [0; 64]) {
        Ok(count) => count == 0,
        Err(error) => !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
    }
}

fn ok(body: &[u8]) -> Vec<u8> {
    [format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len()).as_bytes(), body].concat()
}

fn reply(interval: u64, peers: &[SocketAddr]) -> Vec<u8> {
    let (mut four, mut six) = (Vec::new(), Vec::new());
    for peer in peers {
        match peer.ip() {
            IpAddr::V4(ip) => four.extend([ip.octets().as_slice(), &peer.port().to_be_bytes()].concat()),
            IpAddr::V6(ip) => six.extend([ip.octets().as_slice(), &peer.port().to_be_bytes()].concat()),
        }
    }
    dictionary(&[
        ("complete", integer(1)),
        ("interval", integer(interval)),
        ("peers", string(&four)),
        ("peers6", string(&six)),
    ])
}

fn parse(head: &str, from: SocketAddr, connection: u32) -> Option<Announce> {
    let (_, query) = head.lines().next()?.split(' ').nth(1)?.split_once('?')?;
    let query: HashMap<String, String> = query
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .map(|(key, value)| (key.into(), value.into()))
        .collect();
    let number = |key: &str| query.get(key).and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
    Some(Announce {
        info_hash: unescape(query.get("info_hash")?).try_into().ok()?,
        event: query.get("event").cloned().unwrap_or_default(),
        port: u16::try_from(number("port")).ok()?,
        left: number("left"),
        uploaded: number("uploaded"),
        query,
        from,
        at: Instant::now(),
        connection,
    })
}

fn unescape(text: &str) -> Vec<u8> {
    let bytes = text.as_bytes();
    let mut out = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let code = (bytes[at] == b'%').then(|| text.get(at + 1..at + 3)).flatten();
        match code.and_then(|code| u8::from_str_radix(code, 16).ok()) {
            Some(byte) => {
                out.push(byte);
                at += 3;
            }
            None => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    out
}

/// opentracker of Debian, which serves listed torrents only and does not run as root.
#[derive(Debug)]
pub struct Opentracker {
    _process: Running,
    address: SocketAddr,
    _folder: Folder,
}

impl Opentracker {
    pub const PORT: u16 = 6969;

    /// Starts in the namespace for these info-hashes.
    pub fn start(space: &Namespace, info_hashes: &[String]) -> Self {
        let folder = Folder::new();
        let list = folder.path().join("whitelist");
        std::fs::write(&list, info_hashes.join("\n") + "\n").expect("the folder is ours");
        // It reads the list after it has entered the folder as its root and become another user.
        open_to_all(folder.path(), 0o755);
        open_to_all(&list, 0o644);
        let child = space
            .command("opentracker")
            .args([
                "-i",
                &space.address.to_string(),
                "-p",
                &Self::PORT.to_string(),
                "-P",
                &Self::PORT.to_string(),
                "-u",
                "nobody",
                "-w",
                "/whitelist",
                "-d",
            ])
            .arg(folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("opentracker starts");
        let process = Running(child);
        let address = SocketAddr::new(space.address.into(), Self::PORT);
        space.enter(|| wait("opentracker listens", PATIENCE, || TcpStream::connect(address).ok()));
        Self { _process: process, address, _folder: folder }
    }

    pub fn url(&self) -> String {
        format!("http://{}/announce", self.address)
    }

    /// The same over UDP (BEP 15).
    pub fn udp_url(&self) -> String {
        format!("udp://{}/announce", self.address)
    }

    /// Waits until its counts for this torrent hold `wanted`, asking (BEP 48) from a namespace.
    pub fn wait_counts(&self, from: &Namespace, info_hash: &[u8; 20], wanted: &str) {
        let escaped: String = info_hash.iter().map(|byte| format!("%{byte:02X}")).collect();
        let head = format!("GET /scrape?info_hash={escaped} HTTP/1.0\r\nHost: {}\r\n\r\n", self.address);
        let scrape = || {
            let mut stream = TcpStream::connect(self.address).ok()?;
            stream.write_all(head.as_bytes()).ok()?;
            let mut reply = Vec::new();
            stream.read_to_end(&mut reply).ok()?;
            String::from_utf8_lossy(&reply).contains(wanted).then_some(())
        };
        from.enter(|| wait(&format!("the tracker counts {wanted}"), PATIENCE, scrape));
    }
}

fn open_to_all(path: &Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("it is ours");
}

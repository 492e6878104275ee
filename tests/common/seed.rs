//! A seed whose pace, pieces and honesty a test chooses, and that counts what it sends (BEP 3).

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use super::peer::{BITFIELD, HAVE, INTERESTED, PIECE, REQUEST, UNCHOKE, handshake, message};
use super::torrent::Torrent;

/// A running seed of some torrents; it ends with the test.
#[derive(Debug)]
pub struct Seed {
    pub address: SocketAddr,
    shared: Arc<Mutex<Shared>>,
}

#[derive(Debug)]
struct Shared {
    torrents: HashMap<[u8; 20], Served>,
    /// Open connections, by their torrent.
    connections: Vec<([u8; 20], Arc<Mutex<TcpStream>>)>,
    /// Bytes of blocks a second, for all connections together; zero is no limit.
    rate: u64,
    /// When the next block may go.
    next: Instant,
    over: bool,
}

#[derive(Debug)]
struct Served {
    torrent: Arc<Torrent>,
    has: Vec<bool>,
    /// Bytes sent of each piece.
    sent: Vec<u64>,
    lies: bool,
}

impl Seed {
    /// Has all of these torrents.
    pub fn of(torrents: &[&Torrent]) -> Self {
        let seed = Self::without(torrents);
        torrents.iter().for_each(|torrent| seed.gains(torrent, 0..torrent.pieces()));
        seed
    }

    /// Has nothing of these torrents yet.
    pub fn without(torrents: &[&Torrent]) -> Self {
        Self::at(Ipv4Addr::LOCALHOST.into(), torrents)
    }

    /// The same, on an address of its own.
    pub fn at(ip: IpAddr, torrents: &[&Torrent]) -> Self {
        let listener = TcpListener::bind((ip, 0)).expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let served = |torrent: &&Torrent| {
            let (has, sent) = (vec![false; torrent.pieces() as usize], vec![0; torrent.pieces() as usize]);
            (torrent.info_hash, Served { torrent: Arc::new((*torrent).clone()), has, sent, lies: false })
        };
        let torrents = torrents.iter().map(served).collect();
        let connections = Vec::new();
        let shared = Shared { torrents, connections, rate: 0, next: Instant::now(), over: false };
        let shared = Arc::new(Mutex::new(shared));
        let all = Arc::clone(&shared);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if lock(&all).over {
                    return;
                }
                let shared = Arc::clone(&all);
                if let Ok(stream) = stream {
                    // It ends when the other side, or the seed, closes.
                    std::thread::spawn(move || serve(stream, &shared));
                }
            }
        });
        Self { address, shared }
    }

    /// From now on it has these pieces too, and says so.
    pub fn gains(&self, torrent: &Torrent, pieces: Range<u32>) {
        let mut shared = lock(&self.shared);
        let has = &mut shared.torrents.get_mut(&torrent.info_hash).expect("a torrent of it").has;
        pieces.clone().for_each(|piece| has[piece as usize] = true);
        for (info_hash, stream) in &shared.connections {
            if *info_hash == torrent.info_hash {
                let told = pieces.clone().flat_map(|piece| message(HAVE, &piece.to_be_bytes()));
                lock(stream).write_all(&told.collect::<Vec<_>>()).ok();
            }
        }
    }

    /// Sends no more than so many bytes of blocks a second; zero is no limit.
    pub fn slow_down_to(&self, rate: u64) {
        lock(&self.shared).rate = rate;
    }

    /// From now on every block of the torrent that it sends is wrong.
    pub fn lies_about(&self, torrent: &Torrent) {
        lock(&self.shared).torrents.get_mut(&torrent.info_hash).expect("a torrent of it").lies = true;
    }

    /// Bytes of blocks that it sent so far.
    pub fn sent(&self, torrent: &Torrent) -> u64 {
        lock(&self.shared).torrents[&torrent.info_hash].sent.iter().sum()
    }

    /// The pieces of which it sent something.
    pub fn sent_pieces(&self, torrent: &Torrent) -> Vec<u32> {
        let shared = lock(&self.shared);
        let sent = (0..).zip(&shared.torrents[&torrent.info_hash].sent);
        sent.filter_map(|(piece, &sent)| (sent > 0).then_some(piece)).collect()
    }

    /// How many are connected for a torrent.
    pub fn connections(&self, torrent: &Torrent) -> usize {
        let shared = lock(&self.shared);
        shared.connections.iter().filter(|(info_hash, _)| *info_hash == torrent.info_hash).count()
    }
}

impl Drop for Seed {
    fn drop(&mut self) {
        let mut shared = lock(&self.shared);
        shared.over = true;
        for (_, stream) in &shared.connections {
            lock(stream).shutdown(std::net::Shutdown::Both).ok();
        }
        drop(shared);
        TcpStream::connect_timeout(&self.address, Duration::from_millis(100)).ok();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// One connection, to its end.
fn serve(mut stream: TcpStream, shared: &Mutex<Shared>) {
    let Ok(writer) = stream.try_clone().map(|writer| Arc::new(Mutex::new(writer))) else { return };
    if greet(&mut stream, &writer, shared).is_ok_and(|info_hash| {
        answer(&mut stream, &writer, &info_hash, shared).ok();
        true
    }) {
        lock(shared).connections.retain(|(_, known)| !Arc::ptr_eq(known, &writer));
    }
    stream.shutdown(std::net::Shutdown::Both).ok();
}

/// The handshakes, and what the seed has.
fn greet(
    stream: &mut TcpStream,
    writer: &Arc<Mutex<TcpStream>>,
    shared: &Mutex<Shared>,
) -> io::Result<[u8; 20]> {
    stream.set_nodelay(true)?;
    let mut theirs = [0; 68];
    stream.read_exact(&mut theirs)?;
    let info_hash: [u8; 20] = theirs[28..48].try_into().expect("20 bytes");
    let mut shared = lock(shared);
    let served = shared.torrents.get(&info_hash).ok_or(io::ErrorKind::NotFound)?;
    let mut bits = vec![0; served.has.len().div_ceil(8)];
    for (piece, _) in served.has.iter().enumerate().filter(|(_, has)| **has) {
        bits[piece / 8] |= 0x80 >> (piece % 8);
    }
    stream.write_all(&handshake(&info_hash, [0; 8]))?;
    stream.write_all(&message(BITFIELD, &bits))?;
    shared.connections.push((info_hash, Arc::clone(writer)));
    Ok(info_hash)
}

/// Sends what is asked for, in that order.
fn answer(
    stream: &mut TcpStream,
    writer: &Mutex<TcpStream>,
    info_hash: &[u8; 20],
    shared: &Mutex<Shared>,
) -> io::Result<()> {
    loop {
        let mut prefix = [0; 4];
        stream.read_exact(&mut prefix)?;
        let mut body = vec![0; u32::from_be_bytes(prefix) as usize];
        stream.read_exact(&mut body)?;
        match body.first() {
            Some(&INTERESTED) => lock(writer).write_all(&message(UNCHOKE, &[]))?,
            Some(&REQUEST) if body.len() == 13 => {
                let field = |at: usize| u32::from_be_bytes(body[at..at + 4].try_into().expect("4 bytes"));
                let (piece, begin, length) = (field(1), field(5), field(9));
                pace(shared, length.into());
                let block = block(shared, info_hash, piece, begin, length);
                let block = block.ok_or(io::ErrorKind::InvalidInput)?;
                lock(writer).write_all(&message(PIECE, &[&body[1..9], &block].concat()))?;
            }
            _ => {}
        }
    }
}

/// Waits until so many bytes may go.
fn pace(shared: &Mutex<Shared>, length: u64) {
    let mut shared = lock(shared);
    if let Some(nanos) = (length * 1_000_000_000).checked_div(shared.rate) {
        let at = shared.next.max(Instant::now());
        shared.next = at + Duration::from_nanos(nanos);
        drop(shared);
        std::thread::sleep(at.saturating_duration_since(Instant::now()));
    }
}

/// A block that the seed has, counted as sent.
fn block(
    shared: &Mutex<Shared>,
    info_hash: &[u8; 20],
    piece: u32,
    begin: u32,
    length: u32,
) -> Option<Vec<u8>> {
    let mut shared = lock(shared);
    let served = shared.torrents.get_mut(info_hash)?;
    if !*served.has.get(piece as usize)? {
        return None;
    }
    served.sent[piece as usize] += u64::from(length);
    let (torrent, lies) = (Arc::clone(&served.torrent), served.lies);
    drop(shared);
    let mut bytes = torrent.block(piece, begin, length)?;
    if lies {
        bytes.iter_mut().for_each(|byte| *byte = !*byte);
    }
    Some(bytes)
}

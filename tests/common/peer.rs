//! A peer that does exactly what a test tells it (BEP 3, and what is needed of 6 and 10), blocking, on one socket.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use super::torrent::Torrent;

pub const CHOKE: u8 = 0;
pub const UNCHOKE: u8 = 1;
pub const INTERESTED: u8 = 2;
pub const HAVE: u8 = 4;
pub const BITFIELD: u8 = 5;
pub const REQUEST: u8 = 6;
pub const PIECE: u8 = 7;
pub const CANCEL: u8 = 8;
pub const HAVE_ALL: u8 = 14;
pub const REJECT: u8 = 16;
pub const EXTENDED: u8 = 20;

/// What clients ask for at a time.
pub const BLOCK: usize = 16 * 1024;

/// A message; `id` is none for a keep-alive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    pub id: Option<u8>,
    pub body: Vec<u8>,
}

/// One connection as the test sees it.
#[derive(Debug)]
pub struct RawPeer {
    pub stream: TcpStream,
    pub reserved: [u8; 8],
    pub peer_id: [u8; 20],
}

impl RawPeer {
    /// Connects and shakes hands, offering no extension.
    pub fn connect(address: SocketAddr, info_hash: &[u8; 20]) -> io::Result<Self> {
        Self::connect_with(address, info_hash, [0; 8])
    }

    /// Connects and shakes hands with these reserved bits (BEP 6: `[7] & 4`, BEP 10: `[5] & 0x10`).
    pub fn connect_with(address: SocketAddr, info_hash: &[u8; 20], reserved: [u8; 8]) -> io::Result<Self> {
        let mut stream = open(address)?;
        stream.write_all(&handshake(info_hash, reserved))?;
        let mut answer = [0; 68];
        stream.read_exact(&mut answer)?;
        if answer[..20] != *b"\x13BitTorrent protocol" || answer[28..48] != *info_hash {
            return Err(io::Error::new(ErrorKind::InvalidData, "not the handshake asked for"));
        }
        let (reserved, peer_id) = (answer[20..28].try_into(), answer[48..].try_into());
        Ok(Self { stream, reserved: reserved.expect("8 bytes"), peer_id: peer_id.expect("20 bytes") })
    }

    pub fn send(&mut self, id: u8, body: &[u8]) -> io::Result<()> {
        self.stream.write_all(&message(id, body))
    }

    pub fn receive(&mut self) -> io::Result<Message> {
        let mut prefix = [0; 4];
        self.stream.read_exact(&mut prefix)?;
        let length = u32::from_be_bytes(prefix) as usize;
        if length > 1 << 20 {
            return Err(io::Error::new(ErrorKind::InvalidData, "a message above a mebibyte"));
        }
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body)?;
        Ok(if body.is_empty() {
            Message { id: None, body }
        } else {
            Message { id: Some(body.remove(0)), body }
        })
    }

    /// Reads on until a message of this kind comes.
    pub fn expect(&mut self, id: u8) -> io::Result<Message> {
        loop {
            let message = self.receive()?;
            if message.id == Some(id) {
                return Ok(message);
            }
        }
    }

    /// Says that it is interested and waits for its turn.
    pub fn unchoked(&mut self) -> io::Result<()> {
        self.send(INTERESTED, &[])?;
        self.expect(UNCHOKE).map(drop)
    }

    pub fn request(&mut self, piece: u32, begin: u32, length: u32) -> io::Result<()> {
        self.send(REQUEST, &triple(piece, begin, length))
    }

    /// Asks for one block and waits for it.
    pub fn block(&mut self, piece: u32, begin: u32, length: u32) -> io::Result<Vec<u8>> {
        self.request(piece, begin, length)?;
        loop {
            let message = self.receive()?;
            if message.id == Some(PIECE) && message.body[..8] == triple(piece, begin, length)[..8] {
                return Ok(message.body[8..].to_vec());
            }
        }
    }

    /// Downloads everything in order, `q` blocks ahead, and returns the content.
    pub fn download(&mut self, torrent: &Torrent, q: usize) -> io::Result<Vec<u8>> {
        let total = usize::try_from(torrent.size()).expect("in memory");
        let blocks = blocks(total, torrent.piece_length);
        let mut content = Vec::with_capacity(total);
        let mut asked = 0;
        while content.len() < total {
            let arrived = content.len().div_ceil(BLOCK.min(torrent.piece_length));
            while asked < blocks.len() && asked < arrived + q {
                let (piece, begin, length) = blocks[asked];
                self.request(piece, begin, length)?;
                asked += 1;
            }
            content.extend_from_slice(&self.expect(PIECE)?.body[8..]);
        }
        Ok(content)
    }
}

/// Whether the other side closed: what is still on the way is read and thrown away, for at most `patience`.
pub fn closed_within(stream: &mut TcpStream, patience: Duration) -> bool {
    let start = std::time::Instant::now();
    let mut waste = [0; 65536];
    while let Some(left) = patience.checked_sub(start.elapsed()).filter(|left| !left.is_zero()) {
        stream.set_read_timeout(Some(left)).expect("above zero");
        match stream.read(&mut waste) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) => return !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
        }
    }
    false
}

/// A connection whose reads and writes fail after a generous while instead of hanging the test.
pub fn open(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, Duration::from_secs(20))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(super::PATIENCE))?;
    stream.set_write_timeout(Some(super::PATIENCE))?;
    Ok(stream)
}

pub fn handshake(info_hash: &[u8; 20], reserved: [u8; 8]) -> Vec<u8> {
    let peer_id = format!("-TT0001-{:012}", super::number());
    [b"\x13BitTorrent protocol".as_slice(), &reserved, info_hash, peer_id.as_bytes()].concat()
}

pub fn message(id: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(1 + body.len()).expect("a message is short");
    [length.to_be_bytes().as_slice(), &[id], body].concat()
}

pub fn triple(piece: u32, begin: u32, length: u32) -> [u8; 12] {
    let mut body = [0; 12];
    body[..4].copy_from_slice(&piece.to_be_bytes());
    body[4..8].copy_from_slice(&begin.to_be_bytes());
    body[8..].copy_from_slice(&length.to_be_bytes());
    body
}

fn blocks(total: usize, piece_length: usize) -> Vec<(u32, u32, u32)> {
    let mut blocks = Vec::new();
    for start in (0..total).step_by(piece_length) {
        let end = (start + piece_length).min(total);
        for begin in (start..end).step_by(BLOCK) {
            let numbers = [start / piece_length, begin - start, BLOCK.min(end - begin)];
            let [piece, begin, length] =
                numbers.map(|number| u32::try_from(number).expect("a small torrent"));
            blocks.push((piece, begin, length));
        }
    }
    blocks
}

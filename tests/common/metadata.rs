//! A peer that has metadata and nothing else, honest or not, and one that asks for it (BEP 9, BEP 10).

use std::io::{self, ErrorKind};
use std::net::{Shutdown, SocketAddr, TcpStream};

use super::peer::{EXTENDED, Message, RawPeer};
use super::torrent::Torrent;

/// The id by which these peers take messages about metadata.
const ID: u8 = 7;

/// Bytes of a piece.
pub const PIECE: usize = 16 * 1024;

/// A peer that called a daemon and answers its questions, to the end of the test.
#[derive(Debug)]
pub struct Giver {
    stream: TcpStream,
}

impl Giver {
    /// Says that its metadata has so many bytes; `answer` makes the message to each question.
    pub fn call(
        daemon: SocketAddr,
        torrent: &Torrent,
        size: i64,
        answer: impl Fn(usize) -> Vec<u8> + Send + 'static,
    ) -> Self {
        let mut peer = extended(daemon, torrent).expect("it shakes hands");
        let stream = peer.stream.try_clone().expect("a second handle");
        std::thread::spawn(move || {
            let handshake = format!("d1:md11:ut_metadatai{ID}ee13:metadata_sizei{size}ee");
            peer.send(EXTENDED, &[b"\0", handshake.as_bytes()].concat())?;
            let theirs = theirs(&mut peer)?;
            loop {
                let Message { body, .. } = peer.expect(EXTENDED)?;
                if body[0] == ID
                    && let Some(piece) = number(&body, "5:piecei")
                {
                    peer.send(EXTENDED, &[&[theirs][..], &answer(piece)].concat())?;
                }
            }
            #[expect(unreachable_code, reason = "the type of a thread that ends by an error alone")]
            Ok::<(), io::Error>(())
        });
        Self { stream }
    }

    /// One that has it and gives it.
    pub fn honest(daemon: SocketAddr, torrent: &Torrent) -> Self {
        Self::of(daemon, torrent, torrent.metadata().to_vec())
    }

    /// The same with one byte of it wrong.
    pub fn liar(daemon: SocketAddr, torrent: &Torrent) -> Self {
        let mut metadata = torrent.metadata().to_vec();
        let last = metadata.len() - 30;
        metadata[last] ^= 1;
        Self::of(daemon, torrent, metadata)
    }

    fn of(daemon: SocketAddr, torrent: &Torrent, metadata: Vec<u8>) -> Self {
        let size = metadata.len();
        let answer =
            move |piece: usize| data(piece, size, &metadata[piece * PIECE..size.min((piece + 1) * PIECE)]);
        Self::call(daemon, torrent, i64::try_from(size).expect("small"), answer)
    }

    /// Whether the daemon closes the connection.
    pub fn is_closed(&mut self) -> bool {
        let mut byte = [0];
        self.stream.set_nonblocking(true).expect("a socket");
        let peeked = self.stream.peek(&mut byte);
        self.stream.set_nonblocking(false).expect("a socket");
        match peeked {
            Ok(n) => n == 0,
            Err(error) => error.kind() != ErrorKind::WouldBlock,
        }
    }
}

impl Drop for Giver {
    fn drop(&mut self) {
        self.stream.shutdown(Shutdown::Both).ok();
    }
}

/// A piece of metadata as a message.
pub fn data(piece: usize, total: usize, bytes: &[u8]) -> Vec<u8> {
    let head = format!("d8:msg_typei1e5:piecei{piece}e10:total_sizei{total}ee");
    [head.as_bytes(), bytes].concat()
}

/// A peer that asks a daemon for metadata.
#[derive(Debug)]
pub struct Asker {
    pub peer: RawPeer,
    theirs: u8,
    /// What the daemon says of its size.
    pub size: Option<usize>,
}

impl Asker {
    /// Shakes hands; none where the daemon takes no such messages.
    pub fn call(daemon: SocketAddr, torrent: &Torrent) -> Option<Self> {
        let mut peer = extended(daemon, torrent).expect("it shakes hands");
        let handshake = format!("d1:md11:ut_metadatai{ID}eee");
        peer.send(EXTENDED, &[b"\0", handshake.as_bytes()].concat()).expect("it is connected");
        let theirs = peer.expect(EXTENDED).expect("its handshake").body;
        let size = number(&theirs, "13:metadata_sizei");
        let theirs = u8::try_from(number(&theirs, "11:ut_metadatai")?).expect("an id");
        Some(Self { peer, theirs, size })
    }

    pub fn ask(&mut self, piece: i64) {
        let question = format!("d8:msg_typei0e5:piecei{piece}ee");
        let body = [&[self.theirs][..], question.as_bytes()].concat();
        self.peer.send(EXTENDED, &body).expect("it is connected");
    }

    /// The next answer: a piece's bytes, or none where it is refused.
    pub fn answer(&mut self) -> io::Result<(usize, Option<Vec<u8>>)> {
        loop {
            let body = self.peer.expect(EXTENDED)?.body;
            if body[0] != ID {
                continue;
            }
            let piece = number(&body, "5:piecei").expect("a piece");
            return match number(&body, "8:msg_typei") {
                Some(2) => Ok((piece, None)),
                _ => {
                    let end = body.windows(2).position(|pair| pair == b"ee").expect("a dictionary") + 2;
                    Ok((piece, Some(body[end..].to_vec())))
                }
            };
        }
    }
}

fn extended(daemon: SocketAddr, torrent: &Torrent) -> io::Result<RawPeer> {
    RawPeer::connect_with(daemon, &torrent.info_hash, [0, 0, 0, 0, 0, 0x10, 0, 0])
}

/// The id by which the daemon takes messages about metadata.
fn theirs(peer: &mut RawPeer) -> io::Result<u8> {
    let handshake = peer.expect(EXTENDED)?.body;
    let id = number(&handshake, "11:ut_metadatai").ok_or(ErrorKind::InvalidData)?;
    u8::try_from(id).map_err(|_| ErrorKind::InvalidData.into())
}

/// The number that follows a key.
fn number(body: &[u8], key: &str) -> Option<usize> {
    let at = body.windows(key.len()).position(|window| window == key.as_bytes())? + key.len();
    let digits = body[at..].iter().take_while(|byte| byte.is_ascii_digit());
    String::from_utf8(digits.copied().collect()).ok()?.parse().ok()
}

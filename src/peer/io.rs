//! The sockets of peers: listening, dialling, and one task a connection that reads, hands over, and writes what the
//! socket takes.
//!
//! A task holds its socket and its decoder, and no buffer: all tasks share one scratch for reads and one for writes,
//! used inside one synchronous stretch and never across an await. Peers that may send blocks are read into the intake
//! instead, from where the blocks are written to disk.
#![expect(clippy::disallowed_types, clippy::disallowed_methods, reason = "I/O shell")]

use std::future::poll_fn;
use std::io::{self, ErrorKind, IoSliceMut, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use async_io::{Async, Timer};

use super::outbox::{HEADER, Part};
use super::wire::{self, Decoder, Handshaking, Limits, Message, Stage};
use super::{Close, PeerKey};
use crate::daemon::house::House;
use crate::metainfo::InfoHash;
use crate::net::plain;
use crate::session::{BATCH, Miss, Upload};
use crate::storage::intake::{Keeper, whole_blocks};

/// A socket counts as writable below half of this: one whole batch fits then, and no more waits unsent in the kernel.
const UNSENT: u32 = BATCH;
/// Below this the kernel is left alone until it has more room: a write this small costs as much as a large one. A third
/// of the smallest send buffer is more, and that much is free when a socket counts as writable.
const LEAST_ROOM: u32 = 1024;
/// Reads, and writes, of one connection before the others have their turn: about a millisecond.
const TURN: usize = 8;
/// Less than this of a block is not worth a system call to wait for.
const LEAST_REST: u32 = 2 * 1024;
/// A connection that is not made by then is given up.
const DIAL_TIME: Duration = Duration::from_secs(10);
/// After running out of descriptors accepting rests this long.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);
/// Reads by the storage thread in a row after which the bytes are read here: a file system that never says that a
/// page is at hand must not keep a peer waiting for ever.
const MISSES: u8 = 3;

/// Takes connections for as long as it lives. Running out of descriptors is a pause, not an end.
pub async fn listen(house: Rc<House>, listener: Async<TcpListener>) {
    let mut told = false;
    loop {
        match listener.accept().await {
            Ok((stream, addr)) => {
                told = false;
                let addr = plain(addr);
                let now = Instant::now();
                let accepted = house.session.borrow_mut().accept(addr, now);
                house.kick();
                match accepted {
                    Ok(key) => house.spawn(serve(house.clone(), stream, key)),
                    Err(why) => log::debug!("{addr}: refused: {why}"),
                }
            }
            Err(error) if is_exhausted(&error) => {
                if !std::mem::replace(&mut told, true) {
                    log::warn!("cannot accept connections: {error}; trying again every second");
                }
                Timer::after(ACCEPT_PAUSE).await;
            }
            Err(error) => log::debug!("accept: {error}"),
        }
    }
}

/// Connects to a peer and serves it.
pub async fn dial(house: Rc<House>, key: PeerKey, addr: SocketAddr) {
    let connecting = async { Async::<TcpStream>::connect(addr).await.map_err(|_| Close::Gone) };
    let late = async {
        Timer::after(DIAL_TIME).await;
        Err(Close::SlowHandshake)
    };
    match smol::future::or(connecting, late).await {
        Ok(stream) => {
            house.session.borrow_mut().connected(key);
            serve(house, stream, key).await;
        }
        Err(why) => {
            house.session.borrow_mut().disconnected(key, &why, Instant::now());
            house.kick();
        }
    }
}

async fn serve(house: Rc<House>, stream: Async<TcpStream>, key: PeerKey) {
    prepare(stream.get_ref());
    let mut connection = Connection {
        house,
        stream,
        key,
        input: Input::Handshake(Handshaking::default()),
        reading: false,
        writing: false,
        expecting: 1,
    };
    let why = poll_fn(|cx| connection.poll(cx)).await;
    let house = connection.house.clone();
    if let Some(peer) = house.session.borrow().peer(key) {
        log::debug!("{}: {why}", peer.addr);
    }
    house.session.borrow_mut().disconnected(key, &why, Instant::now());
    house.kick();
}

/// Options of a peer's socket: small messages at once, no more unsent than a batch or two, and the traffic class of
/// what yields to everything else (RFC 8622). A network that refuses one is served without it.
fn prepare(stream: &TcpStream) {
    use nix::sys::socket::{setsockopt, sockopt};
    const LOWER_EFFORT: i32 = 1 << 2;
    let _ = stream.set_nodelay(true);
    let _ = crate::sys::limit_unsent(stream.as_fd(), UNSENT);
    let class = match stream.local_addr() {
        Ok(SocketAddr::V6(addr)) if addr.ip().to_ipv4_mapped().is_none() => {
            setsockopt(stream, sockopt::Ipv6TClass, &LOWER_EFFORT)
        }
        _ => setsockopt(stream, sockopt::Ipv4Tos, &LOWER_EFFORT),
    };
    if let Err(error) = class.map_err(io::Error::from) {
        log::debug!("traffic class: {error}");
    }
}

fn is_exhausted(error: &io::Error) -> bool {
    use nix::libc::{EMFILE, ENFILE, ENOBUFS, ENOMEM};
    matches!(error.raw_os_error(), Some(EMFILE | ENFILE | ENOBUFS | ENOMEM))
}

struct Connection {
    house: Rc<House>,
    stream: Async<TcpStream>,
    key: PeerKey,
    input: Input,
    /// The last read brought all there was: the socket is asked again only when it says that it is readable.
    reading: bool,
    /// The same for writes.
    writing: bool,
    /// Bytes that the socket waits for before it counts as readable.
    expecting: u32,
}

enum Input {
    Handshake(Handshaking),
    Messages(Decoder, Limits),
}

impl Connection {
    /// Reads, hands over and writes until the socket has nothing and takes nothing more.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Close> {
        let mut reads = 0;
        loop {
            let read = self.poll_read(cx);
            if let Poll::Ready(Err(why)) = read {
                return Poll::Ready(why);
            }
            let more = match self.poll_write(cx) {
                Poll::Ready(Err(why)) => return Poll::Ready(why),
                Poll::Ready(Ok(more)) => more,
                Poll::Pending => false,
            };
            reads += 1;
            self.house.kick();
            let mut session = self.house.session.borrow_mut();
            let Some(peer) = session.peer_mut(self.key) else { return Poll::Ready(Close::Gone) };
            if let Some(why) = peer.closing.take() {
                return Poll::Ready(why);
            }
            let again = more || (read.is_ready() && reads >= TURN);
            if again {
                cx.waker().wake_by_ref();
            }
            if again || read.is_pending() {
                if !peer.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
                    peer.waker = Some(cx.waker().clone());
                }
                return Poll::Pending;
            }
        }
    }

    /// One read, and all messages in it.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Close>> {
        if self.reading {
            ready!(self.stream.poll_readable(cx)).map_err(|_| Close::Gone)?;
            self.reading = false;
        }
        let house = self.house.clone();
        if house.session.borrow().expects_blocks(self.key) {
            return self.poll_read_blocks(&house, cx);
        }
        let mut scratch = house.scratch.borrow_mut();
        let n = match self.receive(&mut scratch.read) {
            Ok(n) => n,
            Err(error) => return self.not_received(&error, cx),
        };
        let taken = self.take(&scratch.read[..n], None);
        self.expect_block();
        Poll::Ready(taken)
    }

    /// The same where blocks may come: they are written from where they were read.
    fn poll_read_blocks(&mut self, house: &House, cx: &mut Context<'_>) -> Poll<Result<(), Close>> {
        let mut intake = house.intake.borrow_mut();
        let Some((space, mut keeper)) = intake.begin() else {
            // Everything is with the storage thread: what comes waits in the socket, where the sender sees it.
            house.wait_for_intake(cx.waker());
            return Poll::Pending;
        };
        let wanted = whole_blocks(space.len(), self.block_rest() as usize);
        let n = match self.receive(&mut space[..wanted]) {
            Ok(n) => n,
            Err(error) => return self.not_received(&error, cx),
        };
        let taken = self.take(&space[..n], Some(&mut keeper));
        drop(intake);
        self.expect_block();
        house.write_out();
        Poll::Ready(taken)
    }

    fn receive(&mut self, space: &mut [u8]) -> io::Result<usize> {
        let n = (&mut self.stream.get_ref()).read(space)?;
        if n == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        self.reading = n < space.len();
        Ok(n)
    }

    fn not_received(&mut self, error: &io::Error, cx: &mut Context<'_>) -> Poll<Result<(), Close>> {
        match error.kind() {
            ErrorKind::WouldBlock => {
                self.reading = true;
                // The read before filled its space to the last byte, and what is waited for since may be another rest.
                self.expect_block();
                self.poll_read_again(cx)
            }
            ErrorKind::Interrupted => Poll::Ready(Ok(())),
            _ => Poll::Ready(Err(Close::Gone)),
        }
    }

    /// Bytes to come of a block that has begun.
    fn block_rest(&self) -> u32 {
        match &self.input {
            Input::Messages(decoder, _) => decoder.block_rest(),
            Input::Handshake(_) => 0,
        }
    }

    /// While a block is coming in, the rest of it is waited for: on a slow link each segment would be a wake-up.
    fn expect_block(&mut self) {
        let rest = self.block_rest();
        let wanted = if rest < LEAST_REST { 1 } else { rest };
        if self.reading
            && wanted != self.expecting
            && crate::sys::expect_bytes(self.stream.get_ref().as_fd(), wanted).is_ok()
        {
            self.expecting = wanted;
        }
    }

    /// Registers for readability; a socket that became readable just now is read in the next round.
    fn poll_read_again(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Close>> {
        ready!(self.stream.poll_readable(cx)).map_err(|_| Close::Gone)?;
        self.reading = false;
        Poll::Ready(Ok(()))
    }

    /// Takes all messages of a read; what of it is blocks stays where it is, if there is a keeper for it.
    fn take(&mut self, read: &[u8], mut keeper: Option<&mut Keeper<'_>>) -> Result<(), Close> {
        let mut input = read;
        let now = Instant::now();
        let mut session = self.house.session.borrow_mut();
        session.heard(self.key, now);
        if let Input::Handshake(handshaking) = &mut self.input {
            loop {
                match handshaking.feed(&mut input).map_err(|_| Close::Protocol("no BitTorrent handshake"))? {
                    Stage::More => return Ok(()),
                    Stage::InfoHash { reserved, info_hash } => {
                        session.greeted(self.key, InfoHash::from_bytes(info_hash), reserved, now)?;
                    }
                    Stage::Complete(theirs) => {
                        session.identified(self.key, theirs.peer_id, now)?;
                        let limits = session.wire_limits(self.key).ok_or(Close::TorrentStopped)?;
                        self.input = Input::Messages(Decoder::new(), limits);
                        break;
                    }
                }
            }
        }
        if let Input::Messages(decoder, limits) = &mut self.input {
            if limits.pieces == wire::UNKNOWN {
                // Its metadata may have come meanwhile.
                *limits = session.wire_limits(self.key).ok_or(Close::TorrentStopped)?;
            }
            while let Some(message) =
                decoder.decode(&mut input, limits).map_err(|_| Close::Protocol("malformed message"))?
            {
                match (message, &mut keeper) {
                    (Message::Piece { piece, begin, data, rest }, Some(keeper)) => {
                        let len = u32::try_from(data.len()).unwrap_or(0);
                        if session.block(self.key, piece, begin, len, rest, now)? {
                            let torrent = session.torrent_of(self.key).ok_or(Close::TorrentStopped)?;
                            let at = read.len() - input.len() - data.len();
                            keeper.keep(torrent.0, piece, begin, at, data.len());
                        }
                    }
                    (message, _) => session.handle(self.key, &message, now)?,
                }
            }
            session.refill(self.key, now);
        }
        Ok(())
    }

    /// Writes until nothing is left, the socket is full, or the writer must wait for tokens or the storage thread. `true`
    /// where it could go on, and others should have their turn.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<Result<bool, Close>> {
        let house = self.house.clone();
        for _ in 0..TURN {
            if self.writing {
                ready!(self.stream.poll_writable(cx)).map_err(|_| Close::Gone)?;
                self.writing = false;
            }
            let now = Instant::now();
            let mut session = house.session.borrow_mut();
            if let Some(control) = session.control(self.key) {
                match (&mut self.stream.get_ref()).write(control) {
                    Ok(n) => session.control_sent(self.key, n, now),
                    Err(error) => self.blocked(&error)?,
                }
                continue;
            }
            if !session.owes(self.key) {
                return Poll::Ready(Ok(false));
            }
            let room = self.room();
            if room < LEAST_ROOM {
                self.writing = true;
                continue;
            }
            let mut scratch = house.scratch.borrow_mut();
            let scratch = &mut *scratch;
            let Some(upload) = session.upload(self.key, room, &mut scratch.parts, now) else {
                return Poll::Ready(Ok(false));
            };
            let filled = match fill(
                &house,
                &upload,
                &scratch.parts,
                &mut scratch.write,
                session.misses(self.key),
                now,
            ) {
                Ok(filled) => filled,
                Err(miss) => {
                    let fd = house.files.borrow_mut().find(upload.torrent.0, miss.file, now);
                    session.fetch(self.key, &upload, miss, fd);
                    return Poll::Ready(Ok(false));
                }
            };
            match (&mut self.stream.get_ref()).write(&scratch.write[..filled]) {
                Ok(n) => {
                    session.sent(self.key, u32::try_from(n).unwrap_or(0), now);
                    self.writing = n < filled;
                }
                Err(error) => self.blocked(&error)?,
            }
        }
        Poll::Ready(Ok(true))
    }

    fn blocked(&mut self, error: &io::Error) -> Result<(), Close> {
        match error.kind() {
            ErrorKind::WouldBlock => self.writing = true,
            ErrorKind::Interrupted => {}
            _ => return Err(Close::Gone),
        }
        Ok(())
    }

    /// Bytes that the socket takes now: reading more from disk would be reading it twice.
    fn room(&self) -> u32 {
        let socket = self.stream.get_ref().as_fd();
        let unsent = crate::sys::unsent(socket).unwrap_or(0);
        let buffer = crate::sys::send_room(socket).unwrap_or(BATCH);
        UNSENT.saturating_sub(unsent).min(buffer)
    }
}

/// A stretch of one file that goes to one place of a write.
struct Segment {
    /// Where in the write.
    at: usize,
    file: u32,
    /// Where in the file.
    offset: u64,
    len: usize,
}

/// Puts the messages of `parts` together in `out`: headers as they are, data by one `preadv` for each run of
/// contiguous bytes. Returns how much of `out` may be sent, which is less where pages are not in memory.
fn fill(
    house: &House,
    upload: &Upload,
    parts: &[Part],
    out: &mut [u8],
    misses: u8,
    now: Instant,
) -> Result<usize, Miss> {
    let mut segments: Vec<Segment> = Vec::with_capacity(parts.len() + 1);
    let mut at = 0;
    for part in parts {
        let header = &part.header()[part.from.min(HEADER) as usize..part.to.min(HEADER) as usize];
        out[at..at + header.len()].copy_from_slice(header);
        at += header.len();
        let (first, len) = part.data();
        let offset = upload.lengths.block_offset(part.block) + u64::from(first);
        for span in upload.layout.spans(offset, u64::from(len)) {
            let len = usize::try_from(span.len).unwrap_or(0);
            if span.pad {
                out[at..at + len].fill(0);
            } else {
                segments.push(Segment { at, file: span.file, offset: span.offset, len });
            }
            at += len;
        }
    }
    let Some(first_at) = segments.first().map(|segment| segment.at) else { return Ok(at) };
    let mut rest = &segments[..];
    while let Some(first) = rest.first() {
        let run = rest.windows(2).take_while(|two| two[0].continues_into(&two[1])).count() + 1;
        let (these, others) = rest.split_at(run);
        let wanted: usize = these.iter().map(|segment| segment.len).sum();
        let file = house.files.borrow_mut().find(upload.torrent.0, first.file, now);
        let read = file.map_or(0, |file| {
            let slices = &mut slices(out, these);
            let read = match misses {
                0 => file.read_hot(slices, first.offset),
                1..MISSES => file.read_warmed(slices, first.offset),
                _ => file.read(slices, first.offset),
            };
            // Whatever the error is: the storage thread meets it again, and says what it means.
            read.unwrap_or(0)
        });
        if read < wanted {
            let (end, segment) = reached(these, read);
            // A header alone is not worth a write.
            if end > first_at {
                return Ok(end);
            }
            return Err(Miss { file: segment.file, offset: segment.offset, len: wanted as u64 });
        }
        rest = others;
    }
    Ok(at)
}

impl Segment {
    fn continues_into(&self, next: &Segment) -> bool {
        self.file == next.file && self.offset + self.len as u64 == next.offset
    }
}

/// The places of a run in the write, as `preadv` wants them.
fn slices<'a>(out: &'a mut [u8], run: &[Segment]) -> Vec<IoSliceMut<'a>> {
    let mut slices = Vec::with_capacity(run.len());
    let (mut rest, mut at) = (out, 0);
    for segment in run {
        let (_, tail) = rest.split_at_mut(segment.at - at);
        let (slice, tail) = tail.split_at_mut(segment.len);
        slices.push(IoSliceMut::new(slice));
        (rest, at) = (tail, segment.at + segment.len);
    }
    slices
}

/// Where in the write a run ends of which only `read` bytes came, and the segment that is cut.
fn reached(run: &[Segment], mut read: usize) -> (usize, &Segment) {
    for segment in run {
        if read < segment.len {
            return (segment.at + read, segment);
        }
        read -= segment.len;
    }
    let last = &run[run.len() - 1];
    (last.at + last.len, last)
}

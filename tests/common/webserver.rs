//! A web server that holds a torrent's content, counts what it is asked and misbehaves on demand (BEP 17, BEP 19).

use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::torrent::Torrent;

/// One request as it came.
#[derive(Clone, Debug)]
pub struct Request {
    /// Path and query.
    pub target: String,
    /// First and last byte.
    pub range: Option<(u64, u64)>,
    pub host: String,
    /// Counts the server's connections: equal numbers shared one.
    pub connection: u32,
    /// Counts the requests.
    pub number: usize,
    pub at: Instant,
}

/// How it answers.
#[derive(Clone, Debug)]
pub enum Answer {
    /// As a good server does: what was asked for, 404 where there is none.
    Proper,
    /// The same in chunks of that size.
    Chunked(usize),
    /// The same until the connection ends.
    UntilClose,
    /// The whole file whatever range was asked for, with status 200.
    Whole,
    /// As a good server, but only after so long.
    Late(Duration),
    /// So many bytes of the body at a time, with a pause after each.
    Slow(usize, Duration),
    /// So many bytes of the body, then the end of the connection.
    Cut(usize),
    /// As a good server, with each byte of the content another one.
    Lies,
    /// Other bytes than those asked for, and it says so.
    Elsewhere,
    /// A body without an end behind a head that announces what was asked for.
    Endless,
    /// So many bytes at a time where more were asked for: an honest 206 of less.
    Least(u64),
    /// A compressed body.
    Gzip,
    /// A status, seconds of `Retry-After`, and a body.
    Status(u16, Option<u32>, &'static str),
    Redirect(String),
    /// These bytes in the place of a reply, then the end of the connection.
    Raw(Vec<u8>),
    /// Nothing, for as long as the client waits.
    Stall,
}

/// A running server; it ends with the test.
#[derive(Debug)]
pub struct WebServer {
    pub address: SocketAddr,
    seen: Arc<Mutex<Vec<Request>>>,
    /// Connections open now, and the most there were.
    open: Arc<[AtomicU32; 2]>,
    over: Arc<AtomicBool>,
}

/// What is served.
struct Site {
    /// By path below `/pub/`.
    files: HashMap<String, Vec<u8>>,
    info_hash: String,
    content: Vec<u8>,
    piece_length: usize,
    answer: Box<dyn Fn(&Request) -> Answer + Send + Sync>,
    seen: Arc<Mutex<Vec<Request>>>,
    over: Arc<AtomicBool>,
}

impl WebServer {
    /// The content of `torrent` below `/pub/`, and as BEP 17's script at `/seed`.
    pub fn start(torrent: &Torrent, answer: impl Fn(&Request) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let (seen, over) = (Arc::default(), Arc::new(AtomicBool::new(false)));
        let open = Arc::new([const { AtomicU32::new(0) }; 2]);
        let site = Arc::new(Site {
            files: torrent.contents().into_iter().collect(),
            info_hash: torrent.hex(),
            content: torrent.content(),
            piece_length: torrent.piece_length,
            answer: Box::new(answer),
            seen: Arc::clone(&seen),
            over: Arc::clone(&over),
        });
        let meter = Arc::clone(&open);
        std::thread::spawn(move || {
            for (connection, stream) in (0..).zip(listener.incoming()) {
                if site.over.load(Ordering::Relaxed) {
                    return;
                }
                let Ok(stream) = stream else { continue };
                let (site, meter) = (Arc::clone(&site), Arc::clone(&meter));
                meter[1].fetch_max(meter[0].fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
                std::thread::spawn(move || {
                    site.serve(stream, connection);
                    meter[0].fetch_sub(1, Ordering::Relaxed);
                });
            }
        });
        Self { address, seen, open, over }
    }

    /// One that does all it is asked.
    pub fn proper(torrent: &Torrent) -> Self {
        Self::start(torrent, |_| Answer::Proper)
    }

    /// Where BEP 19 finds the content, whether of one file or of several.
    pub fn folder(&self) -> String {
        format!("http://{}/pub/", self.address)
    }

    /// Where BEP 17 finds it.
    pub fn script(&self) -> String {
        format!("http://{}/seed", self.address)
    }

    /// All requests so far.
    pub fn requests(&self) -> Vec<Request> {
        self.seen.lock().expect("no test panics here").clone()
    }

    /// Connections so far that something was asked over.
    pub fn connections(&self) -> usize {
        let mut numbers: Vec<u32> = self.requests().iter().map(|request| request.connection).collect();
        numbers.sort_unstable();
        numbers.dedup();
        numbers.len()
    }

    /// Connections that are open.
    pub fn open(&self) -> u32 {
        self.open[0].load(Ordering::Relaxed)
    }

    /// The most connections that were open at a time.
    pub fn most_open(&self) -> u32 {
        self.open[1].load(Ordering::Relaxed)
    }

    /// Bytes that were asked for by ranges.
    pub fn bytes_asked(&self) -> u64 {
        self.requests().iter().filter_map(|request| request.range).map(|(first, last)| last - first + 1).sum()
    }
}

impl Drop for WebServer {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        TcpStream::connect_timeout(&self.address, Duration::from_millis(100)).ok();
    }
}

impl Site {
    fn serve(&self, mut stream: TcpStream, connection: u32) {
        stream.set_read_timeout(Some(Duration::from_millis(200))).expect("above zero");
        stream.set_nodelay(true).ok();
        let mut pending = Vec::new();
        while !self.over.load(Ordering::Relaxed) {
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
            let mut seen = self.seen.lock().expect("no test panics here");
            let Some(request) = parse(&head, connection, seen.len()) else { return };
            seen.push(request.clone());
            drop(seen);
            if self.answer(&mut stream, &request).is_none() {
                return;
            }
        }
    }

    /// `None`: the connection ends here.
    fn answer(&self, stream: &mut TcpStream, request: &Request) -> Option<()> {
        let mut answer = (self.answer)(request);
        if let Answer::Late(wait) = answer {
            std::thread::sleep(wait);
            answer = Answer::Proper;
        }
        match answer {
            Answer::Raw(bytes) => {
                stream.write_all(&bytes).ok();
                return None;
            }
            Answer::Status(status, retry_after, body) => {
                let retry = retry_after.map(|s| format!("Retry-After: {s}\r\n")).unwrap_or_default();
                return reply(
                    stream,
                    status,
                    &format!("{retry}Content-Length: {}\r\n", body.len()),
                    body.as_bytes(),
                );
            }
            Answer::Redirect(url) => {
                return reply(stream, 302, &format!("Location: {url}\r\nContent-Length: 5\r\n"), b"moved");
            }
            Answer::Stall => {
                while !self.over.load(Ordering::Relaxed) && !gone(stream) {}
                return None;
            }
            _ => {}
        }
        let Some((whole, range)) = self.find(request) else {
            return reply(stream, 404, "Content-Length: 4\r\n", b"none");
        };
        let total = whole.len() as u64;
        let (first, mut last) = range.unwrap_or((0, total.saturating_sub(1)));
        if first >= total {
            return reply(
                stream,
                416,
                &format!("Content-Range: bytes */{total}\r\nContent-Length: 0\r\n"),
                b"",
            );
        }
        last = last.min(total - 1);
        if let Answer::Least(most) = answer {
            last = last.min(first + most - 1);
        }
        let place = |at: u64| usize::try_from(at).expect("it fits in memory");
        let mut body = whole[place(first)..=place(last)].to_vec();
        let said = if matches!(answer, Answer::Elsewhere) { (first + 1, last) } else { (first, last) };
        let (status, ranges) = match range {
            Some(_) if !matches!(answer, Answer::Whole) => {
                (206, format!("Content-Range: bytes {}-{}/{total}\r\n", said.0, said.1))
            }
            _ => {
                body = whole.to_vec();
                (200, String::new())
            }
        };
        let exact = format!("{ranges}Content-Length: {}\r\n", body.len());
        match answer {
            Answer::Chunked(size) => {
                let chunks = body
                    .chunks(size)
                    .flat_map(|chunk| [format!("{:x}\r\n", chunk.len()).as_bytes(), chunk, b"\r\n"].concat());
                let body: Vec<u8> = chunks.chain(*b"0\r\n\r\n").collect();
                reply(stream, status, &format!("{ranges}Transfer-Encoding: chunked\r\n"), &body)
            }
            Answer::UntilClose => {
                reply(stream, status, &format!("{ranges}Connection: close\r\n"), &body);
                None
            }
            Answer::Slow(size, pause) => {
                reply(stream, status, &exact, b"")?;
                for part in body.chunks(size) {
                    if self.over.load(Ordering::Relaxed) {
                        return None;
                    }
                    stream.write_all(part).ok()?;
                    std::thread::sleep(pause);
                }
                Some(())
            }
            Answer::Cut(after) => {
                reply(stream, status, &exact, &body[..after.min(body.len())]);
                None
            }
            Answer::Lies => {
                body.iter_mut().for_each(|byte| *byte = !*byte);
                reply(stream, status, &exact, &body)
            }
            Answer::Endless => {
                reply(stream, status, &format!("{ranges}Transfer-Encoding: chunked\r\n"), b"")?;
                let size = format!("{:x}\r\n", body.len());
                while !self.over.load(Ordering::Relaxed) {
                    stream.write_all(&[size.as_bytes(), &body, b"\r\n"].concat()).ok()?;
                }
                None
            }
            Answer::Gzip => reply(stream, status, &format!("Content-Encoding: gzip\r\n{exact}"), &body),
            _ => reply(stream, status, &exact, &body),
        }
    }

    /// What was asked for, and which bytes of it.
    fn find(&self, request: &Request) -> Option<Found<'_>> {
        let (path, query) = request.target.split_once('?').unwrap_or((&request.target, ""));
        if path != "/seed" {
            let path = unescape(path.strip_prefix("/pub/")?);
            return Some((self.files.get(&String::from_utf8(path).ok()?)?, request.range));
        }
        let field = |name: &str| {
            query.split('&').filter_map(|pair| pair.split_once('=')).find(|(key, _)| *key == name)
        };
        let info_hash = super::torrent::hex(&unescape(field("info_hash")?.1));
        let piece: usize = field("piece")?.1.parse().ok()?;
        let start = piece * self.piece_length;
        if info_hash != self.info_hash || start >= self.content.len() {
            return None;
        }
        let piece = &self.content[start..self.content.len().min(start + self.piece_length)];
        let bounds = |range: &str| {
            let (first, last) = range.split_once('-')?;
            Some((first.parse().ok()?, last.parse().ok()?))
        };
        match field("ranges") {
            None => Some((piece, None)),
            // BEP 17 knows no 206: what was asked for is all there is.
            Some((_, range)) => {
                let (first, last): (usize, usize) = bounds(range)?;
                Some((piece.get(first..=last)?, None))
            }
        }
    }
}

fn reply(stream: &mut TcpStream, status: u16, fields: &str, body: &[u8]) -> Option<()> {
    let head = format!("HTTP/1.1 {status} As it is\r\n{fields}\r\n");
    stream.write_all(&[head.as_bytes(), body].concat()).ok()
}

/// Waits a moment for the other side to give up.
fn gone(stream: &mut TcpStream) -> bool {
    match stream.read(&mut [0; 16]) {
        Ok(count) => count == 0,
        Err(error) => !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
    }
}

fn parse(head: &str, connection: u32, number: usize) -> Option<Request> {
    let mut lines = head.split("\r\n");
    let target = lines.next()?.strip_prefix("GET ")?.strip_suffix(" HTTP/1.1")?.to_owned();
    let fields: HashMap<String, &str> = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(key, value)| (key.to_lowercase(), value))
        .collect();
    let range = fields.get("range").map(|range| {
        let (first, last) =
            range.strip_prefix("bytes=").and_then(|range| range.split_once('-')).expect("a range");
        (first.parse().expect("a number"), last.parse().expect("a number"))
    });
    let host = fields.get("host").expect("HTTP/1.1 has it").to_string();
    Some(Request { target, range, host, connection, number, at: Instant::now() })
}

/// A file or piece, and the first and the last byte of it that were asked for.
type Found<'a> = (&'a [u8], Option<(u64, u64)>);

fn unescape(text: &str) -> Vec<u8> {
    let mut bytes = text.bytes();
    let mut out = Vec::new();
    while let Some(byte) = bytes.next() {
        let mut digit = || bytes.next().and_then(|b| char::from(b).to_digit(16)).expect("two digits");
        let byte = if byte == b'%' { digit() << 4 | digit() } else { byte.into() };
        out.push(u8::try_from(byte).expect("two digits are a byte"));
    }
    out
}

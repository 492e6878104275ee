//! A reply put together from what the socket gives: head, then a body of any of the three kinds.
//!
//! Read first: RFC 9112 §6 and §7. Omits: trailers, which are passed over. Holds one buffer, never larger than head
//! and body may be together; a chunked body is put together in place.

use std::ops::Range;

use super::{Error, Length, MAX_HEAD, ReplyHead, decode_reply_head, head_end};

/// Interim replies (100, 103) before the real one.
const MAX_INTERIM: u8 = 4;

/// First size of a receive buffer: a tracker's reply with 50 peers has 600 bytes.
const FIRST_BUFFER: usize = 4096;

/// A line with the size of a chunk, or one field of a trailer. Nobody sends extensions there.
const MAX_CHUNK_LINE: usize = 1024;

/// Puts one reply together. The shell reads into [`Receiver::space`] and says how much came.
#[derive(Debug)]
pub struct Receiver {
    /// All of it may be written to; `filled` bytes have been.
    buffer: Vec<u8>,
    filled: usize,
    /// Bytes in which no end of a head is.
    scanned: usize,
    head: Option<ReplyHead>,
    /// The decoded body.
    body: Range<usize>,
    /// The first byte that was not decoded yet.
    raw: usize,
    chunk: Chunk,
    interim: u8,
    whole: bool,
    max_body: usize,
}

/// Where in a chunked body we are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Chunk {
    /// Before the line with a size.
    Size,
    /// Inside the data, with so many bytes to come.
    Data(u64),
    /// Before the end of line after the data.
    DataEnd,
    /// Before a line of the trailer.
    Trailer,
}

impl Receiver {
    /// For bodies of at most `max_body` bytes. Takes no memory before the first [`Receiver::space`].
    pub fn new(max_body: usize) -> Receiver {
        Receiver {
            buffer: Vec::new(),
            filled: 0,
            scanned: 0,
            head: None,
            body: 0..0,
            raw: 0,
            chunk: Chunk::Size,
            interim: 0,
            whole: false,
            max_body,
        }
    }

    /// Makes ready for another reply. A buffer that one large reply blew up is given back.
    pub fn reset(&mut self, max_body: usize) {
        let mut buffer = std::mem::take(&mut self.buffer);
        if buffer.len() > 4 * FIRST_BUFFER {
            buffer = Vec::new();
        }
        *self = Receiver { buffer, ..Receiver::new(max_body) };
    }

    /// Where the next bytes go; never empty.
    pub fn space(&mut self) -> &mut [u8] {
        if self.filled == self.buffer.len() {
            // Only what came makes it grow, never what was promised.
            let most = MAX_HEAD + self.max_body + MAX_CHUNK_LINE;
            let grown = (self.buffer.len() * 2).max(FIRST_BUFFER).min(most);
            self.buffer.resize(grown.max(self.filled + MAX_CHUNK_LINE), 0);
        }
        &mut self.buffer[self.filled..]
    }

    /// `n` bytes came into [`Receiver::space`]. True when the reply is whole.
    pub fn received(&mut self, n: usize) -> Result<bool, Error> {
        self.filled = (self.filled + n).min(self.buffer.len());
        while self.head.is_none() {
            if !self.find_head()? {
                return Ok(false);
            }
        }
        self.decode_body()?;
        Ok(self.whole)
    }

    /// The connection ended. Fine only for a body that ends so.
    pub fn closed(&mut self) -> Result<(), Error> {
        match &self.head {
            None if self.filled == 0 => Err(Error::Closed),
            Some(head) if head.length == Length::UntilClose => {
                self.whole = true;
                Ok(())
            }
            _ if self.whole => Ok(()),
            _ => Err(Error::Truncated),
        }
    }

    /// Whether a byte of the reply has come.
    pub fn begun(&self) -> bool {
        self.filled > 0 || self.interim > 0
    }

    /// The head, once it is there.
    pub fn head(&self) -> Option<&ReplyHead> {
        self.head.as_ref()
    }

    /// The body as far as it is decoded.
    pub fn body(&self) -> &[u8] {
        &self.buffer[self.body.clone()]
    }

    /// Whether the connection can carry another exchange: the reply allows it and nothing follows it.
    pub fn reusable(&self) -> bool {
        self.whole && self.raw == self.filled && self.head.as_ref().is_some_and(|head| head.keep_alive)
    }

    /// Looks for the end of the head. True when it may be looked again (a head, or an interim reply, was taken).
    fn find_head(&mut self) -> Result<bool, Error> {
        let bytes = &self.buffer[..self.filled];
        let Some(end) = head_end(bytes, self.scanned) else {
            self.scanned = self.filled;
            return if self.filled > MAX_HEAD { Err(Error::LongHead) } else { Ok(false) };
        };
        if end > MAX_HEAD {
            return Err(Error::LongHead);
        }
        let head = decode_reply_head(&bytes[..end])?;
        if (100..200).contains(&head.status) {
            self.interim += 1;
            if self.interim > MAX_INTERIM || head.status == 101 {
                return Err(Error::Interim);
            }
            self.buffer.copy_within(end..self.filled, 0);
            self.filled -= end;
            self.scanned = 0;
            return Ok(true);
        }
        if let Length::Exact(length) = head.length
            && usize::try_from(length).map_or(true, |length| length > self.max_body)
        {
            return Err(Error::LongBody);
        }
        self.head = Some(head);
        self.body = end..end;
        self.raw = end;
        Ok(true)
    }

    fn decode_body(&mut self) -> Result<(), Error> {
        let Some(head) = &self.head else { return Ok(()) };
        match head.length {
            _ if self.whole => {}
            Length::Exact(length) => {
                let length = usize::try_from(length).map_err(|_| Error::LongBody)?;
                self.body.end = self.filled.min(self.body.start + length);
                self.raw = self.body.end;
                self.whole = self.body.len() == length;
            }
            Length::UntilClose => {
                self.body.end = self.filled;
                self.raw = self.filled;
                if self.body.len() > self.max_body {
                    return Err(Error::LongBody);
                }
            }
            Length::Chunked => self.decode_chunks()?,
        }
        Ok(())
    }

    /// Moves the data of chunks down to the end of the body, so that no second buffer is needed.
    fn decode_chunks(&mut self) -> Result<(), Error> {
        while !self.whole {
            match self.chunk {
                Chunk::Size => {
                    let Some(line) = self.line()? else { break };
                    let size = chunk_size(&self.buffer[line]).ok_or(Error::Chunk)?;
                    self.chunk = if size == 0 { Chunk::Trailer } else { Chunk::Data(size) };
                }
                Chunk::Data(left) => {
                    let came = self.filled - self.raw;
                    let taken = usize::try_from(left).map_or(came, |left| left.min(came));
                    if self.body.len() + taken > self.max_body {
                        return Err(Error::LongBody);
                    }
                    self.buffer.copy_within(self.raw..self.raw + taken, self.body.end);
                    self.body.end += taken;
                    self.raw += taken;
                    let left = left - u64::try_from(taken).unwrap_or(left);
                    self.chunk = if left == 0 { Chunk::DataEnd } else { Chunk::Data(left) };
                    if left > 0 {
                        break;
                    }
                }
                Chunk::DataEnd => {
                    let Some(line) = self.line()? else { break };
                    if !line.is_empty() {
                        return Err(Error::Chunk);
                    }
                    self.chunk = Chunk::Size;
                }
                Chunk::Trailer => {
                    let Some(line) = self.line()? else { break };
                    self.whole = line.is_empty();
                }
            }
        }
        if !self.whole {
            // Close the gap that sizes leave, so that the buffer grows with the data alone.
            self.buffer.copy_within(self.raw..self.filled, self.body.end);
            self.filled -= self.raw - self.body.end;
            self.raw = self.body.end;
        }
        Ok(())
    }

    /// The next line of what was not decoded, without its end; it is passed over.
    fn line(&mut self) -> Result<Option<Range<usize>>, Error> {
        let rest = &self.buffer[self.raw..self.filled];
        let Some(length) = rest.iter().take(MAX_CHUNK_LINE).position(|b| *b == b'\n') else {
            return if rest.len() >= MAX_CHUNK_LINE { Err(Error::Chunk) } else { Ok(None) };
        };
        let start = self.raw;
        let end = if rest[..length].ends_with(b"\r") { length - 1 } else { length };
        self.raw += length + 1;
        Ok(Some(start..start + end))
    }
}

fn chunk_size(line: &[u8]) -> Option<u64> {
    let digits = line.split(|b| *b == b';').next().unwrap_or(line).trim_ascii();
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    u64::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::super::decode_request_head;
    use super::*;

    /// Feeds a reply in pieces of `step` bytes, then ends the connection where `close` says so.
    fn receive(bytes: &[u8], step: usize, max_body: usize, close: bool) -> Result<Option<Receiver>, Error> {
        let mut receiver = Receiver::new(max_body);
        for part in bytes.chunks(step) {
            let mut part = part;
            while !part.is_empty() {
                let space = receiver.space();
                let n = space.len().min(part.len());
                space[..n].copy_from_slice(&part[..n]);
                part = &part[n..];
                if receiver.received(n)? && part.is_empty() {
                    break;
                }
            }
        }
        if close {
            receiver.closed()?;
        }
        Ok(receiver.whole.then_some(receiver))
    }

    fn body(bytes: &[u8]) -> Vec<u8> {
        for step in [1, 2, 3, 7, 100_000] {
            let receiver = receive(bytes, step, 1000, false).unwrap().unwrap();
            assert_eq!(
                receiver.body(),
                receive(bytes, 5, 1000, false).unwrap().unwrap().body(),
                "steps of {step}"
            );
        }
        receive(bytes, 1, 1000, false).unwrap().unwrap().body().to_vec()
    }

    #[test]
    fn bodies_end_in_all_three_ways_however_they_are_cut() {
        assert_eq!(body(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"), b"hello");
        assert_eq!(body(b"HTTP/1.1 200 OK\ncontent-length:5\n\nhello"), b"hello");
        assert_eq!(body(b"HTTP/1.1 204 None\r\n\r\n"), b"");
        assert_eq!(
            body(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n3\r\nhel\r\n2;x=y\r\nlo\r\n0\r\nTrailer: 1\r\n\r\n"),
            b"hello"
        );
        assert_eq!(
            body(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"),
            b"ok"
        );
        let open = b"HTTP/1.0 200 OK\r\n\r\nuntil the end";
        for step in [1, 4, 1000] {
            assert!(receive(open, step, 1000, false).unwrap().is_none());
            let receiver = receive(open, step, 1000, true).unwrap().unwrap();
            assert_eq!(receiver.body(), b"until the end");
            assert!(!receiver.reusable());
        }
    }

    #[test]
    fn a_connection_is_used_again_only_when_both_sides_know_where_the_reply_ended() {
        let cases: [(&[u8], bool); 8] = [
            (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", true),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: x, Close\r\n\r\n", false),
            (b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n", false),
            (b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\nConnection: Keep-Alive\r\n\r\n", true),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nab", false),
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", true),
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nx", false),
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n", false),
        ];
        for (bytes, reusable) in cases {
            let receiver = receive(bytes, 1000, 1000, false).unwrap().unwrap();
            assert_eq!(receiver.reusable(), reusable, "{}", String::from_utf8_lossy(bytes));
        }
    }

    #[test]
    fn what_lies_about_its_length_is_refused() {
        let cases: [(&str, Error); 12] = [
            ("Content-Length: -5\r\n\r\n", Error::Length),
            ("Content-Length: +5\r\n\r\n", Error::Length),
            ("Content-Length: 5x\r\n\r\n", Error::Length),
            ("Content-Length: \r\n\r\n", Error::Length),
            ("Content-Length: 5\r\nContent-Length: 6\r\n\r\n", Error::Length),
            ("Content-Length: 99999999999999999999999\r\n\r\n", Error::Length),
            ("Content-Length: 1001\r\n\r\n", Error::LongBody),
            ("Content-Encoding: gzip\r\n\r\n", Error::Coding),
            ("Transfer-Encoding: gzip, chunked\r\n\r\n", Error::Coding),
            ("Transfer-Encoding: chunked\r\n\r\n-1\r\n", Error::Chunk),
            ("Transfer-Encoding: chunked\r\n\r\n2\r\nabc\r\n", Error::Chunk),
            ("Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n", Error::Chunk),
        ];
        for (rest, expected) in cases {
            let bytes = format!("HTTP/1.1 200 OK\r\n{rest}");
            for step in [1, 1000] {
                assert_eq!(receive(bytes.as_bytes(), step, 1000, false).err(), Some(expected), "{rest}");
            }
        }
    }

    #[test]
    fn nothing_grows_without_bound() {
        let cases: [(&str, &str, Error); 6] = [
            ("HTTP/1.1 200 OK\r\n", "X-Y: zzzzzzzzzz\r\n", Error::LongHead),
            ("", "HTTP/1.1 100 Continue\r\n\r\n", Error::Interim),
            ("HTTP/1.1 200 OK\r\n\r\n", "zzzzzzzzzzzzzz", Error::LongBody),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "5\r\nabcde\r\n", Error::LongBody),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffff\r\n", "zzzzzz", Error::LongBody),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;", "zzzzzz", Error::Chunk),
        ];
        for (start, repeated, expected) in cases {
            let mut receiver = Receiver::new(10_000);
            let mut bytes = start.bytes().chain(repeated.bytes().cycle());
            let error = loop {
                let space = receiver.space();
                let n = space.len().min(333);
                space[..n].fill_with(|| bytes.next().unwrap());
                if let Err(error) = receiver.received(n) {
                    break error;
                }
            };
            assert_eq!(error, expected, "{start}");
            assert!(
                receiver.buffer.len() <= MAX_HEAD + 10_000 + 2 * MAX_CHUNK_LINE,
                "{}",
                receiver.buffer.len()
            );
        }
        let mut receiver = Receiver::new(10);
        receiver.space();
        receiver.reset(10);
        assert_eq!(receiver.buffer.len(), FIRST_BUFFER);
    }

    #[test]
    fn no_truncation_and_no_mutation_panics() {
        let samples: [&[u8]; 4] = [
            b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\nRetry-After: 5\r\n\r\nhello",
            b"HTTP/1.1 302 Found\r\nTransfer-Encoding: chunked\r\nLocation: /x\r\n\r\n3\r\nhel\r\n2\r\nlo\r\n0\r\nT: 1\r\n\r\n",
            b"HTTP/1.1 100 C\r\n\r\nHTTP/1.0 200 OK\r\n\r\nhello",
            b"GET /announce?a=b HTTP/1.1\r\nHost: h:1\r\n\r\n",
        ];
        for sample in samples {
            for cut in 0..sample.len() {
                let _ = receive(&sample[..cut], 3, 100, true);
                let _ = decode_request_head(&sample[..cut]);
                for value in [0, b'\n', b'\r', b'0', b'9', b'-', b':', b' ', 0x80, 0xff] {
                    let mut mutated = sample.to_vec();
                    mutated[cut] = value;
                    for step in [1, 1000] {
                        let _ = receive(&mutated, step, 100, true);
                    }
                    let _ = decode_request_head(&mutated);
                    let text = String::from_utf8_lossy(&mutated);
                    let _ = crate::http::Url::parse(&text).and_then(|url| url.join(&text));
                }
            }
        }
    }
}

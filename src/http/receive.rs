//! A reply whose body is wanted whole: head and body put together from what the socket gives.
//!
//! Read first: `decode`. Holds one small buffer for reads and the body, never more of it than was allowed.

use std::ops::Range;

use super::{Decoder, Error, Length, ReplyHead};

/// Bytes of one read: a tracker's reply with 50 peers has 600 bytes.
const READ: usize = 4096;

/// A body's buffer that is kept for the next one.
const KEPT_BODY: usize = 4 * READ;

/// Puts one reply together. The shell reads into [`Receiver::space`] and says how much came.
#[derive(Debug)]
pub struct Receiver {
    decoder: Decoder,
    /// Where the next bytes go.
    space: Box<[u8]>,
    /// Those of the last read that belong to no reply, or have not been looked at.
    unread: Range<usize>,
    body: Vec<u8>,
    max_body: usize,
}

impl Receiver {
    /// For bodies of at most `max_body` bytes. Takes no memory before the first [`Receiver::space`].
    pub fn new(max_body: usize) -> Receiver {
        Receiver { decoder: Decoder::new(), space: Box::default(), unread: 0..0, body: Vec::new(), max_body }
    }

    /// Makes ready for another reply. A buffer that one large reply blew up is given back.
    pub fn reset(&mut self, max_body: usize) {
        let mut body = std::mem::take(&mut self.body);
        body.clear();
        body.shrink_to(KEPT_BODY);
        *self = Receiver { space: std::mem::take(&mut self.space), body, ..Receiver::new(max_body) };
    }

    /// Where the next bytes go; never empty.
    pub fn space(&mut self) -> &mut [u8] {
        if self.space.is_empty() {
            self.space = vec![0; READ].into();
        }
        &mut self.space
    }

    /// `n` bytes came into [`Receiver::space`]. True when the reply is whole.
    pub fn received(&mut self, n: usize) -> Result<bool, Error> {
        self.received_head(n)?;
        self.take_body()
    }

    /// The same, but stops after the head, with what came of the body left for [`Receiver::take_body`]. True when the
    /// head is there.
    pub fn received_head(&mut self, n: usize) -> Result<bool, Error> {
        let n = n.min(self.space.len());
        let mut input = &self.space[..n];
        let whole = self.decoder.decode_head(&mut input)?;
        self.unread = n - input.len()..n;
        Ok(whole)
    }

    /// Takes what came of the body. True when the reply is whole.
    pub fn take_body(&mut self) -> Result<bool, Error> {
        if let Some(ReplyHead { length: Length::Exact(length), .. }) = self.decoder.head()
            && usize::try_from(*length).map_or(true, |length| length > self.max_body)
        {
            return Err(Error::LongBody);
        }
        let mut input = &self.space[self.unread.clone()];
        while let Some(part) = self.decoder.decode(&mut input)? {
            if self.body.len() + part.len() > self.max_body {
                return Err(Error::LongBody);
            }
            // Only what came makes it grow, never what was promised.
            self.body.extend_from_slice(part);
        }
        self.unread.start = self.unread.end - input.len();
        Ok(self.decoder.is_whole())
    }

    /// The connection ended. Fine only for a body that ends so.
    pub fn closed(&mut self) -> Result<(), Error> {
        self.decoder.closed()
    }

    /// Whether a byte of the reply has come.
    pub fn begun(&self) -> bool {
        self.decoder.begun()
    }

    /// The head, once it is there.
    pub fn head(&self) -> Option<&ReplyHead> {
        self.decoder.head()
    }

    /// The body as far as it has come.
    pub fn body(&self) -> &[u8] {
        &self.body
    }

    /// Whether the connection can carry another exchange: the reply allows it and nothing follows it.
    pub fn reusable(&self) -> bool {
        self.decoder.is_whole() && self.unread.is_empty() && self.head().is_some_and(|head| head.keep_alive)
    }

    /// Goes on without this: the decoder, and what came of the body already.
    pub fn into_stream(&mut self) -> (Decoder, Box<[u8]>) {
        let early = self.space[self.unread.clone()].into();
        self.unread = 0..0;
        (std::mem::take(&mut self.decoder), early)
    }
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
        Ok(receiver.decoder.is_whole().then_some(receiver))
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
    fn a_body_comes_whole_however_it_is_cut() {
        assert_eq!(body(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"), b"hello");
        assert_eq!(body(b"HTTP/1.1 204 None\r\n\r\n"), b"");
        assert_eq!(
            body(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n3\r\nhel\r\n2;x=y\r\nlo\r\n0\r\nTrailer: 1\r\n\r\n"),
            b"hello"
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
    fn after_the_head_the_body_may_be_taken_elsewhere() {
        let bytes = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";
        let mut receiver = Receiver::new(0);
        receiver.space()[..bytes.len()].copy_from_slice(bytes);
        assert_eq!(receiver.received_head(bytes.len() - 2), Ok(true));
        let (mut decoder, early) = receiver.into_stream();
        assert_eq!(&early[..], b"hel");
        assert_eq!(decoder.decode(&mut &early[..]), Ok(Some(&b"hel"[..])));
        assert_eq!(decoder.decode(&mut &b"lo"[..]), Ok(Some(&b"lo"[..])));
        assert!(decoder.is_whole());
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
            assert!(receiver.body.len() <= 10_000 && receiver.space.len() == READ);
        }
        let mut receiver = Receiver::new(1 << 20);
        receiver.body = vec![0; 1 << 20];
        receiver.reset(10);
        assert!(receiver.body.is_empty() && receiver.body.capacity() <= KEPT_BODY);
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

//! A reply as the socket gives it: the head, then the parts of the body as they lie in the caller's buffer.
//!
//! Read first: RFC 9112 §6 and §7. Omits: trailers, which are passed over. Holds the bytes of a head or of a chunk's
//! size that is cut, and nothing of the body.

use super::{Error, Length, MAX_HEAD, ReplyHead, decode_reply_head, is_empty_line};

/// Interim replies (100, 103) before the real one.
const MAX_INTERIM: u8 = 4;

/// A line with the size of a chunk. Nobody sends extensions there.
const MAX_CHUNK_LINE: usize = 1024;

/// Decodes one reply.
#[derive(Debug, Default)]
pub struct Decoder {
    head: Option<ReplyHead>,
    stage: Stage,
    /// Bytes of a head, or of a line of a chunked body, that is not whole.
    held: Vec<u8>,
    interim: u8,
    /// Bytes of trailers.
    trailers: usize,
}

/// What comes next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Stage {
    #[default]
    Head,
    /// So many bytes of the body.
    Exact(u64),
    /// The body, until the connection ends.
    UntilClose,
    /// The line with a chunk's size.
    Size,
    /// So many bytes of a chunk.
    Chunk(u64),
    /// The end of line after a chunk.
    ChunkEnd,
    /// A line of the trailers.
    Trailer,
    /// Nothing.
    Whole,
}

impl Decoder {
    /// For a reply of which nothing has come.
    pub fn new() -> Decoder {
        Decoder::default()
    }

    /// Takes the head from the start of `input`, which moves past it. True once the head is there.
    pub fn decode_head(&mut self, input: &mut &[u8]) -> Result<bool, Error> {
        while self.stage == Stage::Head {
            if !self.line(input, MAX_HEAD, Error::LongHead)? {
                return Ok(false);
            }
            let last = self.held.split_inclusive(|b| *b == b'\n').next_back().unwrap_or_default();
            if is_empty_line(last) && !self.held.trim_ascii().is_empty() {
                let head = decode_reply_head(&self.held)?;
                self.held.clear();
                self.take_head(head)?;
            }
        }
        Ok(true)
    }

    fn take_head(&mut self, head: ReplyHead) -> Result<(), Error> {
        if (100..200).contains(&head.status) {
            self.interim += 1;
            return if self.interim > MAX_INTERIM || head.status == 101 {
                Err(Error::Interim)
            } else {
                Ok(())
            };
        }
        self.stage = match head.length {
            Length::Exact(0) => Stage::Whole,
            Length::Exact(length) => Stage::Exact(length),
            Length::UntilClose => Stage::UntilClose,
            Length::Chunked => Stage::Size,
        };
        self.head = Some(head);
        Ok(())
    }

    /// The next part of the body in `input`, which moves past it. `None`: `input` is used up, or the reply is whole.
    pub fn decode<'a>(&mut self, input: &mut &'a [u8]) -> Result<Option<&'a [u8]>, Error> {
        if !self.decode_head(input)? {
            return Ok(None);
        }
        loop {
            match self.stage {
                Stage::Head | Stage::Whole => return Ok(None),
                Stage::Exact(_) | Stage::Chunk(_) | Stage::UntilClose if input.is_empty() => return Ok(None),
                Stage::UntilClose => return Ok(Some(std::mem::take(input))),
                Stage::Exact(left) => {
                    let (part, left) = split(input, left);
                    self.stage = if left == 0 { Stage::Whole } else { Stage::Exact(left) };
                    return Ok(Some(part));
                }
                Stage::Chunk(left) => {
                    let (part, left) = split(input, left);
                    self.stage = if left == 0 { Stage::ChunkEnd } else { Stage::Chunk(left) };
                    return Ok(Some(part));
                }
                Stage::Size | Stage::ChunkEnd | Stage::Trailer => {
                    if !self.line(input, MAX_CHUNK_LINE, Error::Chunk)? {
                        return Ok(None);
                    }
                    self.stage = self.after_line()?;
                    self.held.clear();
                }
            }
        }
    }

    /// What follows the line of a chunked body that is held.
    fn after_line(&mut self) -> Result<Stage, Error> {
        let empty = is_empty_line(&self.held);
        match self.stage {
            Stage::Size => match chunk_size(&self.held).ok_or(Error::Chunk)? {
                0 => Ok(Stage::Trailer),
                size => Ok(Stage::Chunk(size)),
            },
            Stage::ChunkEnd if empty => Ok(Stage::Size),
            Stage::Trailer if empty => Ok(Stage::Whole),
            Stage::Trailer => {
                self.trailers += self.held.len();
                if self.trailers > MAX_HEAD { Err(Error::LongHead) } else { Ok(Stage::Trailer) }
            }
            _ => Err(Error::Chunk),
        }
    }

    /// Moves bytes of `input` to those held, up to the end of a line. Whether that is there.
    fn line(&mut self, input: &mut &[u8], most: usize, too_long: Error) -> Result<bool, Error> {
        let end = input.iter().take(most + 1).position(|b| *b == b'\n');
        let (line, rest) = input.split_at(end.map_or(input.len(), |end| end + 1));
        if self.held.len() + line.len() > most {
            return Err(too_long);
        }
        self.held.extend_from_slice(line);
        *input = rest;
        Ok(end.is_some())
    }

    /// The connection ended. Fine only after a whole reply, or for a body that ends so.
    pub fn closed(&mut self) -> Result<(), Error> {
        match self.stage {
            Stage::Whole => Ok(()),
            Stage::UntilClose => {
                self.stage = Stage::Whole;
                Ok(())
            }
            Stage::Head if !self.begun() => Err(Error::Closed),
            _ => Err(Error::Truncated),
        }
    }

    /// Whether a byte of the reply has come.
    pub fn begun(&self) -> bool {
        self.head.is_some() || !self.held.is_empty() || self.interim > 0
    }

    /// The head, once it is there.
    pub fn head(&self) -> Option<&ReplyHead> {
        self.head.as_ref()
    }

    /// Whether all of it has come.
    pub fn is_whole(&self) -> bool {
        self.stage == Stage::Whole
    }
}

/// As much as there is of `left` bytes, and how many of them are still to come.
fn split<'a>(input: &mut &'a [u8], left: u64) -> (&'a [u8], u64) {
    let n = usize::try_from(left).map_or(input.len(), |left| left.min(input.len()));
    let (part, rest) = input.split_at(n);
    *input = rest;
    (part, left - n as u64)
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
    use super::*;

    /// The body of a reply that comes in pieces of `step` bytes, how many parts it had, and what was left over.
    fn decode(bytes: &[u8], step: usize) -> Result<(Vec<u8>, usize, usize), Error> {
        let mut decoder = Decoder::new();
        let (mut body, mut parts, mut over) = (Vec::new(), 0, 0);
        for mut input in bytes.chunks(step) {
            while let Some(part) = decoder.decode(&mut input)? {
                assert!(!part.is_empty());
                body.extend_from_slice(part);
                parts += 1;
            }
            over += input.len();
        }
        decoder.closed()?;
        assert!(decoder.is_whole());
        Ok((body, parts, over))
    }

    #[test]
    fn parts_of_a_body_lie_where_the_socket_put_them() {
        let bytes =
            b"HTTP/1.1 206 P\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n4\r\ndefg\r\n0\r\n\r\nnext";
        let mut decoder = Decoder::new();
        let mut input = &bytes[..];
        assert_eq!(decoder.decode_head(&mut input), Ok(true));
        assert_eq!(decoder.head().unwrap().status, 206);
        assert_eq!(bytes.len() - input.len(), 46);
        let mut places = Vec::new();
        while let Some(part) = decoder.decode(&mut input).unwrap() {
            let at = bytes.len() - input.len() - part.len();
            assert_eq!(&bytes[at..at + part.len()], part);
            places.push(at);
        }
        assert_eq!(places, [49, 57]);
        assert!(decoder.is_whole());
        assert_eq!(input, b"next", "what belongs to no reply is left");
    }

    #[test]
    fn bodies_end_in_all_three_ways_however_they_are_cut() {
        for (bytes, body, over) in [
            (&b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhelloX"[..], &b"hello"[..], 1),
            (b"\r\nHTTP/1.1 200 OK\ncontent-length:5\n\nhello", b"hello", 0),
            (b"HTTP/1.1 304 Same\r\nContent-Length: 9\r\n\r\n", b"", 0),
            (b"HTTP/1.0 200 OK\r\n\r\nuntil the end", b"until the end", 0),
            (b"HTTP/1.1 103 Hints\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", b"ok", 0),
            (
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n00A;x=y\r\nten bytes.\r\n1\n!\n0\r\nT: 1\r\n\r\nY",
                b"ten bytes.!",
                1,
            ),
        ] {
            for step in [1, 2, 3, 7, 1000] {
                let (decoded, _, left) = decode(bytes, step).unwrap();
                assert_eq!((&decoded[..], left), (body, over), "{step}");
            }
        }
        let exact = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n";
        assert_eq!(
            decode(&[&exact[..], &[b'x'; 100]].concat(), 1000).unwrap().1,
            1,
            "no body is cut needlessly"
        );
    }

    #[test]
    fn what_ends_too_early_is_noticed_and_what_never_ends_is_cut_off() {
        let cut: [&[u8]; 6] = [
            b"HTTP/1.1 200 OK\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhell",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n",
            b"HTTP/1.1 100 Continue\r\n\r\n",
        ];
        for bytes in cut {
            assert_eq!(decode(bytes, 1), Err(Error::Truncated));
        }
        assert_eq!(decode(b"", 1), Err(Error::Closed));
        let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        for (start, repeated, expected) in [
            ("HTTP/1.1 200 OK\r\n", "X-Y: zzzzzzzzzz\r\n", Error::LongHead),
            ("", "\r\n", Error::LongHead),
            ("", "HTTP/1.1 100 Continue\r\n\r\n", Error::Interim),
            (&format!("{chunked}5;"), "zzzzzz", Error::Chunk),
            (&format!("{chunked}0\r\n"), "A: b\r\n", Error::LongHead),
        ] {
            for step in [1, 700, 100_000] {
                let bytes =
                    [start.as_bytes(), &repeated.repeat(40_000 / repeated.len()).into_bytes()].concat();
                assert_eq!(decode(&bytes, step), Err(expected), "{start} {repeated}");
            }
        }
    }

    #[test]
    fn nothing_is_held_of_a_body() {
        let mut decoder = Decoder::new();
        let mut input = &b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n"[..];
        assert_eq!(decoder.decode(&mut input), Ok(None));
        for _ in 0..100 {
            let mut input = &[b'x'; 10_000][..];
            assert_eq!(decoder.decode(&mut input).unwrap().unwrap().len(), 10_000);
        }
        assert!(decoder.held.is_empty() && decoder.held.capacity() <= 1024);
    }
}

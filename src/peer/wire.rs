//! The peer wire protocol as bytes: handshake, messages, a streaming decoder, and the encoder.
//!
//! Read first: BEP 3 ("peer protocol"), BEP 6 (fast extension), BEP 10 (message 20). BEP 5 adds `port`.
//! Omits what the messages mean, and whether an index exists: [`crate::piece::Lengths`] tells that.
//! A decoder reads from a scratch that all peers share and keeps of it at most 16 bytes of a message that was cut.
//! Blocks are never held: they come out as fragments of the scratch. Only a cut bitfield or extension message is
//! collected, growing as its bytes come, and freed by the call after the one that yielded it.

use std::fmt;

use crate::have::bitfield_len;
use crate::metainfo::MAX_PIECES;
use crate::piece::MAX_BLOCK;

/// Bytes of a handshake.
pub const HANDSHAKE_LEN: usize = 68;

/// The longest message of any kind that is read over but not kept: what we do not know, and extension messages longer
/// than we care for. BEP 3 has no such bound; a block of the largest size and its header is what clients agree on.
pub const MAX_MESSAGE: u32 = MAX_BLOCK + 9;

/// [`Limits::pieces`] of a torrent whose metadata is not there yet.
pub const UNKNOWN: u32 = 0;

/// Bytes of a bitfield that is kept until it can be judged: half a million pieces.
pub const MAX_EARLY: u32 = 64 * 1024;

/// A handshake's first 20 bytes.
const PROTOCOL: &[u8; 20] = b"\x13BitTorrent protocol";

/// Bytes of a handshake up to the end of the info-hash.
const INFO_HASH_END: usize = 48;

/// The longest message that is parsed whole: a `request` with its length prefix.
const SMALL: usize = 17;

const CHOKE: u8 = 0;
const UNCHOKE: u8 = 1;
const INTERESTED: u8 = 2;
const NOT_INTERESTED: u8 = 3;
const HAVE: u8 = 4;
/// The number of [`Message::Bitfield`].
pub const BITFIELD: u8 = 5;
const REQUEST: u8 = 6;
const PIECE: u8 = 7;
const CANCEL: u8 = 8;
const PORT: u8 = 9;
const SUGGEST: u8 = 13;
const HAVE_ALL: u8 = 14;
const HAVE_NONE: u8 = 15;
const REJECT: u8 = 16;
const ALLOWED_FAST: u8 = 17;
const EXTENDED: u8 = 20;

/// Why a peer is to be dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// The first bytes are no BitTorrent handshake.
    NotBitTorrent,
    /// A message is longer than any may be. Of a prefix that is cut the missing bytes count as zero.
    TooLong(u32),
    /// A message has not the length of its kind.
    Length {
        /// Which message.
        id: u8,
        /// Its length prefix.
        len: u32,
    },
    /// A block reaches beyond what 32 bits can name.
    Offset,
}

/// The eight bytes in which a handshake tells what is understood.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reserved(pub [u8; 8]);

/// A handshake, whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Handshake {
    /// What is understood.
    pub reserved: Reserved,
    /// Which torrent.
    pub info_hash: [u8; 20],
    /// Who speaks (BEP 20).
    pub peer_id: [u8; 20],
}

/// A handshake being read. Lives as long as the handshake does.
#[derive(Clone, Debug)]
pub struct Handshaking {
    bytes: [u8; HANDSHAKE_LEN],
    /// Bytes of it read.
    read: u8,
}

/// How far a handshake has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The input is used up.
    More,
    /// Told once, as soon as it is known and before any byte of the peer id is read: old clients send that only after
    /// our answer.
    InfoHash {
        /// What is understood.
        reserved: Reserved,
        /// Which torrent.
        info_hash: [u8; 20],
    },
    /// All of it has been read; what is left of the input belongs to the [`Decoder`].
    Complete(Handshake),
}

/// A message, borrowed from where it was read or is to be written from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message<'a> {
    /// A length of zero.
    KeepAlive,
    /// BEP 3
    Choke,
    /// BEP 3
    Unchoke,
    /// BEP 3
    Interested,
    /// BEP 3
    NotInterested,
    /// BEP 3: the piece.
    Have(u32),
    /// BEP 3: as many bytes as the torrent's pieces need; spare bits are for [`crate::have::Have`] to check.
    Bitfield(&'a [u8]),
    /// BEP 3
    Request {
        /// Index of the piece.
        piece: u32,
        /// First byte in it.
        begin: u32,
        /// Bytes.
        len: u32,
    },
    /// BEP 3: a block, or the fragment of one that has come.
    Piece {
        /// Index of the piece.
        piece: u32,
        /// First byte of `data` in it: it moves on from fragment to fragment.
        begin: u32,
        /// What has come, at least one byte.
        data: &'a [u8],
        /// Bytes of the block that are still to come.
        rest: u32,
    },
    /// BEP 3
    Cancel {
        /// Index of the piece.
        piece: u32,
        /// First byte in it.
        begin: u32,
        /// Bytes.
        len: u32,
    },
    /// BEP 5: the UDP port of the peer's DHT node.
    Port(u16),
    /// BEP 6: the piece.
    Suggest(u32),
    /// BEP 6
    HaveAll,
    /// BEP 6
    HaveNone,
    /// BEP 6
    Reject {
        /// Index of the piece.
        piece: u32,
        /// First byte in it.
        begin: u32,
        /// Bytes.
        len: u32,
    },
    /// BEP 6: the piece.
    AllowedFast(u32),
    /// BEP 10
    Extended {
        /// 0 is the handshake, others are what the receiver's handshake gave out.
        id: u8,
        /// What follows.
        payload: &'a [u8],
    },
    /// A message that we do not know, or an extension message too long to be kept: its bytes are skipped.
    Unknown(u8),
}

/// What a message may be at most. Differs between torrents, so it is no part of the decoder.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Pieces of the torrent: a bitfield has exactly their bytes. While it is [`UNKNOWN`] it may be any, and one above
    /// [`MAX_EARLY`] is skipped.
    pub pieces: u32,
    /// Bytes of an extension message, its two ids not counted, that are kept. Longer ones up to [`MAX_MESSAGE`] are
    /// skipped as [`Message::Unknown`]. This, a peer, is what a thousand hostile ones can make us hold.
    pub max_extended: u32,
}

/// Cuts a stream into messages. Multiplied by a thousand peers, so it is small: see the test of its size.
#[derive(Debug, Default)]
pub struct Decoder {
    state: State,
    /// A bitfield or extension message that was cut, as far as it has come. Without memory at all other times.
    body: Vec<u8>,
}

#[derive(Clone, Copy, Debug)]
enum State {
    /// Before a message, of which the first `held` bytes have come already.
    Head { held: u8, bytes: [u8; SMALL - 1] },
    /// Inside a block: where the next fragment begins, and what is to come.
    Piece { piece: u32, begin: u32, rest: u32 },
    /// Inside a message that is not kept.
    Skip { rest: u32 },
    /// Inside a body that was cut.
    Body { kind: Body, len: u32 },
    /// The body has been yielded and can be freed.
    Yielded,
}

#[derive(Clone, Copy, Debug)]
enum Body {
    Bitfield,
    Extended(u8),
}

/// What the first bytes of a message say.
enum Head {
    /// So many bytes in all are needed to say more.
    Short(usize),
    /// A whole message of so many bytes.
    Small(Message<'static>, usize),
    /// 13 bytes, then a block.
    Piece { piece: u32, begin: u32, len: u32 },
    /// So many bytes, then a body.
    Body { kind: Body, len: u32, head: usize },
    /// 5 bytes, then what nobody wants to know.
    Skip { id: u8, len: u32 },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::NotBitTorrent => f.write_str("not a BitTorrent handshake"),
            Error::TooLong(len) => write!(f, "a message of {len} bytes or more"),
            Error::Length { id, len } => write!(f, "message {id} with a length of {len}"),
            Error::Offset => f.write_str("a block beyond four gibibytes of its piece"),
        }
    }
}

impl std::error::Error for Error {}

impl Reserved {
    /// What we say: extension protocol and fast extension.
    pub const OURS: Reserved = Reserved([0, 0, 0, 0, 0, 0x10, 0, 0x04]);

    /// The same, and that we have a node of the DHT.
    pub fn and_dht(mut self) -> Reserved {
        self.0[7] |= 0x01;
        self
    }

    /// BEP 10
    pub fn has_extension_protocol(self) -> bool {
        self.0[5] & 0x10 != 0
    }

    /// BEP 6
    pub fn has_fast_extension(self) -> bool {
        self.0[7] & 0x04 != 0
    }

    /// BEP 5
    pub fn has_dht(self) -> bool {
        self.0[7] & 0x01 != 0
    }
}

impl Handshake {
    /// The bytes on the wire.
    pub fn encode(&self) -> [u8; HANDSHAKE_LEN] {
        let mut bytes = [0; HANDSHAKE_LEN];
        bytes[..20].copy_from_slice(PROTOCOL);
        bytes[20..28].copy_from_slice(&self.reserved.0);
        bytes[28..INFO_HASH_END].copy_from_slice(&self.info_hash);
        bytes[INFO_HASH_END..].copy_from_slice(&self.peer_id);
        bytes
    }
}

impl Default for Handshaking {
    fn default() -> Handshaking {
        Handshaking::new()
    }
}

impl Handshaking {
    /// Nothing read yet.
    pub fn new() -> Handshaking {
        Handshaking { bytes: [0; HANDSHAKE_LEN], read: 0 }
    }

    /// Reads on from the front of `input`: call it until it says [`Stage::More`] or [`Stage::Complete`]. The first byte
    /// that is not of the protocol is an error at once.
    pub fn feed(&mut self, input: &mut &[u8]) -> Result<Stage, Error> {
        let from = usize::from(self.read);
        let end = if from < INFO_HASH_END { INFO_HASH_END } else { HANDSHAKE_LEN };
        let taken = take(input, end - from);
        let to = from + taken.len();
        self.bytes[from..to].copy_from_slice(taken);
        self.read = u8::try_from(to).unwrap_or(u8::MAX);
        let known = to.min(PROTOCOL.len());
        if self.bytes[..known] != PROTOCOL[..known] {
            return Err(Error::NotBitTorrent);
        }
        let handshake = Handshake {
            reserved: Reserved(array(&self.bytes, 20)),
            info_hash: array(&self.bytes, 28),
            peer_id: array(&self.bytes, INFO_HASH_END),
        };
        Ok(match to {
            HANDSHAKE_LEN => Stage::Complete(handshake),
            INFO_HASH_END if from < INFO_HASH_END => {
                Stage::InfoHash { reserved: handshake.reserved, info_hash: handshake.info_hash }
            }
            _ => Stage::More,
        })
    }
}

impl Default for State {
    fn default() -> State {
        State::Head { held: 0, bytes: [0; SMALL - 1] }
    }
}

impl Decoder {
    /// Before the first message.
    pub fn new() -> Decoder {
        Decoder::default()
    }

    /// Takes the next message from the front of `input`; `None` when that is used up. Call it until then: a message may
    /// take no more input. After an error the stream can not be read on.
    ///
    /// Reading nothing into `input` and calling again does nothing. A [`Message::Piece`] comes in as many fragments as
    /// the block came in reads.
    #[inline]
    pub fn decode<'a, 'i: 'a>(
        &'a mut self,
        input: &mut &'i [u8],
        limits: &Limits,
    ) -> Result<Option<Message<'a>>, Error> {
        // By far the most frequent message a seeder gets: no copy, no state.
        if let State::Head { held: 0, .. } = self.state
            && let Some((&[0, 0, 0, 13, REQUEST, ref fields @ ..], rest)) = input.split_first_chunk::<SMALL>()
        {
            let (piece, begin, len) = triple(fields);
            *input = rest;
            return Ok(Some(Message::Request { piece, begin, len }));
        }
        self.decode_any(input, limits)
    }

    /// How many bytes a `piece` message that has begun still lacks: what `SO_RCVLOWAT` may wait for.
    pub fn block_rest(&self) -> u32 {
        match self.state {
            State::Piece { rest, .. } => rest,
            _ => 0,
        }
    }

    fn decode_any<'a, 'i: 'a>(
        &'a mut self,
        input: &mut &'i [u8],
        limits: &Limits,
    ) -> Result<Option<Message<'a>>, Error> {
        loop {
            match self.state {
                State::Head { .. } if input.is_empty() => return Ok(None),
                State::Head { held, bytes } => {
                    let Some(head) = self.head(usize::from(held), bytes, input, limits)? else {
                        return Ok(None);
                    };
                    self.state = State::default();
                    match head {
                        Head::Short(_) => return Ok(None),
                        Head::Small(message, _) => return Ok(Some(message)),
                        Head::Piece { piece, begin, len } => {
                            self.state = State::Piece { piece, begin, rest: len }
                        }
                        Head::Skip { id, len } => {
                            self.state = State::Skip { rest: len };
                            return Ok(Some(Message::Unknown(id)));
                        }
                        Head::Body { kind, len, .. } => {
                            let whole = len as usize;
                            if input.len() >= whole {
                                return Ok(Some(kind.message(take(input, whole))));
                            }
                            self.state = State::Body { kind, len };
                        }
                    }
                }
                State::Piece { piece, begin, rest } => {
                    let data = take(input, rest as usize);
                    if data.is_empty() {
                        return Ok(None);
                    }
                    let came = length(data.len());
                    let rest = rest - came;
                    self.state = match rest {
                        0 => State::default(),
                        _ => State::Piece { piece, begin: begin + came, rest },
                    };
                    return Ok(Some(Message::Piece { piece, begin, data, rest }));
                }
                State::Skip { rest } => {
                    let rest = rest - length(take(input, rest as usize).len());
                    if rest > 0 {
                        self.state = State::Skip { rest };
                        return Ok(None);
                    }
                    self.state = State::default();
                }
                State::Body { kind, len } => {
                    self.collect(input, len as usize);
                    if self.body.len() < len as usize {
                        return Ok(None);
                    }
                    self.state = State::Yielded;
                    return Ok(Some(kind.message(&self.body)));
                }
                State::Yielded => {
                    self.body = Vec::new();
                    self.state = State::default();
                }
            }
        }
    }

    /// Reads a head and takes it from the input; `None` (and the bytes kept) when it is cut.
    fn head(
        &mut self,
        mut held: usize,
        kept: [u8; SMALL - 1],
        input: &mut &[u8],
        limits: &Limits,
    ) -> Result<Option<Head>, Error> {
        let mut bytes = [0; SMALL];
        if held == 0 {
            let head = Head::parse(input, limits)?;
            if !matches!(head, Head::Short(_)) {
                take(input, head.len());
                return Ok(Some(head));
            }
        } else {
            bytes[..kept.len()].copy_from_slice(&kept);
        }
        loop {
            let head = Head::parse(&bytes[..held], limits)?;
            let Head::Short(needed) = head else { return Ok(Some(head)) };
            let more = take(input, needed - held);
            bytes[held..held + more.len()].copy_from_slice(more);
            held += more.len();
            if held < needed {
                // Looked at even so: garbage is an error with its first byte.
                Head::parse(&bytes[..held], limits)?;
                self.state = State::Head { held: u8::try_from(held).unwrap_or(0), bytes: array(&bytes, 0) };
                return Ok(None);
            }
        }
    }

    /// Adds what has come of a body. Memory follows the bytes, not the length that the peer claims.
    fn collect(&mut self, input: &mut &[u8], len: usize) {
        let more = take(input, len - self.body.len());
        let needed = self.body.len() + more.len();
        if needed > self.body.capacity() {
            let capacity = needed.max(2 * self.body.capacity()).min(len);
            self.body.reserve_exact(capacity - self.body.len());
        }
        self.body.extend_from_slice(more);
    }
}

impl Body {
    fn message(self, bytes: &[u8]) -> Message<'_> {
        match self {
            Body::Bitfield => Message::Bitfield(bytes),
            Body::Extended(id) => Message::Extended { id, payload: bytes },
        }
    }
}

impl Head {
    /// Bytes of the head on the wire.
    fn len(&self) -> usize {
        match *self {
            Head::Short(_) => 0,
            Head::Small(_, len) | Head::Body { head: len, .. } => len,
            Head::Piece { .. } => 13,
            Head::Skip { .. } => 5,
        }
    }

    fn parse(bytes: &[u8], limits: &Limits) -> Result<Head, Error> {
        let pieces = if limits.pieces == UNKNOWN { MAX_PIECES } else { limits.pieces };
        let bitfield = length(bitfield_len(pieces)).saturating_add(1);
        let mut prefix = [0; 4];
        let known = bytes.len().min(4);
        prefix[..known].copy_from_slice(&bytes[..known]);
        let len = u32::from_be_bytes(prefix);
        if len > bitfield.max(MAX_MESSAGE) {
            return Err(Error::TooLong(len));
        }
        if known < 4 {
            return Ok(Head::Short(4));
        }
        if len == 0 {
            return Ok(Head::Small(Message::KeepAlive, 4));
        }
        let Some(&id) = bytes.get(4) else { return Ok(Head::Short(5)) };
        let is_right = match id {
            CHOKE | UNCHOKE | INTERESTED | NOT_INTERESTED | HAVE_ALL | HAVE_NONE => len == 1,
            HAVE | SUGGEST | ALLOWED_FAST => len == 5,
            REQUEST | CANCEL | REJECT => len == 13,
            PORT => len == 3,
            BITFIELD if limits.pieces == UNKNOWN => (2..=bitfield).contains(&len),
            BITFIELD => len == bitfield,
            PIECE => (10..=MAX_MESSAGE).contains(&len),
            EXTENDED => (2..=MAX_MESSAGE).contains(&len),
            _ => len <= MAX_MESSAGE,
        };
        if !is_right {
            return Err(Error::Length { id, len });
        }
        let total = 4 + len as usize;
        let wanted = match id {
            BITFIELD if limits.pieces == UNKNOWN && len - 1 > MAX_EARLY => {
                return Ok(Head::Skip { id, len: len - 1 });
            }
            BITFIELD => return Ok(Head::Body { kind: Body::Bitfield, len: len - 1, head: 5 }),
            EXTENDED if len - 2 > limits.max_extended => return Ok(Head::Skip { id, len: len - 1 }),
            EXTENDED => 6,
            PIECE => 13,
            CHOKE..=PORT | SUGGEST..=ALLOWED_FAST => total,
            _ => return Ok(Head::Skip { id, len: len - 1 }),
        };
        if bytes.len() < wanted {
            return Ok(Head::Short(wanted));
        }
        let word = |at| word(bytes, at);
        let message = match id {
            CHOKE => Message::Choke,
            UNCHOKE => Message::Unchoke,
            INTERESTED => Message::Interested,
            NOT_INTERESTED => Message::NotInterested,
            HAVE => Message::Have(word(5)),
            REQUEST => Message::Request { piece: word(5), begin: word(9), len: word(13) },
            CANCEL => Message::Cancel { piece: word(5), begin: word(9), len: word(13) },
            REJECT => Message::Reject { piece: word(5), begin: word(9), len: word(13) },
            PORT => Message::Port(u16::from_be_bytes(array(bytes, 5))),
            SUGGEST => Message::Suggest(word(5)),
            HAVE_ALL => Message::HaveAll,
            HAVE_NONE => Message::HaveNone,
            ALLOWED_FAST => Message::AllowedFast(word(5)),
            EXTENDED => return Ok(Head::Body { kind: Body::Extended(bytes[5]), len: len - 2, head: 6 }),
            _ => {
                let (piece, begin, len) = (word(5), word(9), len - 9);
                begin.checked_add(len).ok_or(Error::Offset)?;
                return Ok(Head::Piece { piece, begin, len });
            }
        };
        Ok(Head::Small(message, total))
    }
}

/// Appends a message. Of a block only `data` is written: `rest` bytes are for the caller to send after it.
pub fn encode(message: &Message<'_>, out: &mut Vec<u8>) {
    let head = |out: &mut Vec<u8>, id: u8, body: usize| {
        out.extend_from_slice(&length(1 + body).to_be_bytes());
        out.push(id);
    };
    let words = |out: &mut Vec<u8>, id: u8, words: &[u32]| {
        head(out, id, 4 * words.len());
        words.iter().for_each(|word| out.extend_from_slice(&word.to_be_bytes()));
    };
    match *message {
        Message::KeepAlive => out.extend_from_slice(&[0; 4]),
        Message::Choke => head(out, CHOKE, 0),
        Message::Unchoke => head(out, UNCHOKE, 0),
        Message::Interested => head(out, INTERESTED, 0),
        Message::NotInterested => head(out, NOT_INTERESTED, 0),
        Message::Have(piece) => words(out, HAVE, &[piece]),
        Message::Bitfield(bits) => {
            head(out, BITFIELD, bits.len());
            out.extend_from_slice(bits);
        }
        Message::Request { piece, begin, len } => words(out, REQUEST, &[piece, begin, len]),
        Message::Piece { piece, begin, data, rest } => {
            head(out, PIECE, 8 + data.len() + rest as usize);
            out.extend_from_slice(&piece.to_be_bytes());
            out.extend_from_slice(&begin.to_be_bytes());
            out.extend_from_slice(data);
        }
        Message::Cancel { piece, begin, len } => words(out, CANCEL, &[piece, begin, len]),
        Message::Port(port) => {
            head(out, PORT, 2);
            out.extend_from_slice(&port.to_be_bytes());
        }
        Message::Suggest(piece) => words(out, SUGGEST, &[piece]),
        Message::HaveAll => head(out, HAVE_ALL, 0),
        Message::HaveNone => head(out, HAVE_NONE, 0),
        Message::Reject { piece, begin, len } => words(out, REJECT, &[piece, begin, len]),
        Message::AllowedFast(piece) => words(out, ALLOWED_FAST, &[piece]),
        Message::Extended { id, payload } => {
            head(out, EXTENDED, 1 + payload.len());
            out.push(id);
            out.extend_from_slice(payload);
        }
        Message::Unknown(id) => head(out, id, 0),
    }
}

/// Takes up to `n` bytes from the front.
fn take<'i>(input: &mut &'i [u8], n: usize) -> &'i [u8] {
    let (front, rest) = input.split_at(n.min(input.len()));
    *input = rest;
    front
}

/// The bytes from `at` on; zeros where there are none, which no caller asks for.
fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes.get(at..).and_then(|bytes| bytes.first_chunk()).copied().unwrap_or([0; N])
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(array(bytes, at))
}

fn triple(fields: &[u8; 12]) -> (u32, u32, u32) {
    (word(fields, 0), word(fields, 4), word(fields, 8))
}

/// A length that is known to be small.
fn length(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { pieces: 20, max_extended: 64 };

    const EVERY: &[Message<'static>] = &[
        Message::KeepAlive,
        Message::Choke,
        Message::Unchoke,
        Message::Interested,
        Message::NotInterested,
        Message::Have(3),
        Message::Bitfield(&[0xff, 0x0f, 0xf0]),
        Message::Request { piece: 1, begin: 16_384, len: 16_384 },
        Message::Piece { piece: 2, begin: 5, data: b"twenty bytes of data", rest: 0 },
        Message::Cancel { piece: u32::MAX, begin: 2, len: 3 },
        Message::Port(6881),
        Message::Suggest(4),
        Message::HaveAll,
        Message::HaveNone,
        Message::Reject { piece: 4, begin: 5, len: 6 },
        Message::AllowedFast(19),
        Message::Extended { id: 0, payload: b"d1:md11:ut_metadatai1eee" },
        Message::Extended { id: 7, payload: b"" },
        Message::Unknown(21),
    ];

    fn bytes_of(messages: &[Message<'_>]) -> Vec<u8> {
        let mut out = Vec::new();
        messages.iter().for_each(|message| encode(message, &mut out));
        out
    }

    /// What comes out, encoded again: fragments of a block are put together by that.
    fn through(decoder: &mut Decoder, chunks: &[&[u8]]) -> Result<Vec<u8>, Error> {
        let mut out = Vec::new();
        let mut inside = false;
        for chunk in chunks {
            let mut input = *chunk;
            while let Some(message) = decoder.decode(&mut input, &LIMITS)? {
                match message {
                    Message::Piece { data, rest, .. } if inside => {
                        out.extend_from_slice(data);
                        inside = rest > 0;
                    }
                    _ => {
                        encode(&message, &mut out);
                        inside = matches!(message, Message::Piece { rest: 1.., .. });
                    }
                }
            }
            assert!(input.is_empty());
        }
        Ok(out)
    }

    #[test]
    fn the_decoder_is_small_and_holds_nothing_between_messages() {
        assert!(size_of::<Decoder>() <= 48);
        let mut decoder = Decoder::new();
        let bytes = bytes_of(EVERY);
        for byte in &bytes {
            through(&mut decoder, &[std::slice::from_ref(byte)]).unwrap();
        }
        assert_eq!(decoder.body.capacity(), 0);
    }

    #[test]
    fn every_message_comes_out_as_it_went_in_wherever_the_stream_is_cut() {
        let bytes = bytes_of(EVERY);
        assert_eq!(through(&mut Decoder::new(), &[&bytes]).unwrap(), bytes);
        for size in 1..40 {
            let chunks: Vec<_> = bytes.chunks(size).collect();
            assert_eq!(through(&mut Decoder::new(), &chunks).unwrap(), bytes, "in chunks of {size}");
        }
        for first in 0..bytes.len() {
            for second in first..bytes.len() {
                let chunks = [&bytes[..first], &[], &bytes[first..second], &bytes[second..]];
                assert_eq!(
                    through(&mut Decoder::new(), &chunks).unwrap(),
                    bytes,
                    "cut at {first} and {second}"
                );
            }
        }
    }

    #[test]
    fn a_whole_bitfield_is_borrowed_and_a_cut_one_freed_after_it_was_yielded() {
        let bytes = bytes_of(&[Message::Bitfield(&[1, 2, 0x30])]);
        let mut decoder = Decoder::new();
        let mut input = &bytes[..];
        let Some(Message::Bitfield(bits)) = decoder.decode(&mut input, &LIMITS).unwrap() else { panic!() };
        assert_eq!(bits.as_ptr(), bytes[5..].as_ptr());

        assert_eq!(decoder.decode(&mut &bytes[..6], &LIMITS), Ok(None));
        assert_eq!(decoder.body.capacity(), 1);
        let mut input = &bytes[6..];
        assert_eq!(decoder.decode(&mut input, &LIMITS), Ok(Some(Message::Bitfield(&[1, 2, 0x30]))));
        assert_eq!(decoder.decode(&mut input, &LIMITS), Ok(None));
        assert_eq!(decoder.body.capacity(), 0);
    }

    #[test]
    fn memory_follows_the_bytes_that_came_not_the_length_that_is_claimed() {
        let limits = Limits { pieces: 4 << 20, max_extended: 64 };
        let mut decoder = Decoder::new();
        let claim = (limits.pieces / 8 + 1).to_be_bytes();
        let mut input = &[&claim[..], &[BITFIELD, 0, 0]].concat()[..];
        assert_eq!(decoder.decode(&mut input, &limits), Ok(None));
        assert_eq!(decoder.body.capacity(), 2);
    }

    #[test]
    fn a_block_comes_in_fragments_that_say_where_they_belong() {
        let bytes = bytes_of(&[Message::Piece { piece: 9, begin: 100, data: &[7; 50], rest: 0 }]);
        let mut decoder = Decoder::new();
        assert_eq!(decoder.decode(&mut &bytes[..13], &LIMITS), Ok(None));
        assert_eq!(decoder.block_rest(), 50);
        let mut input = &bytes[13..33];
        let fragment = Message::Piece { piece: 9, begin: 100, data: &[7; 20], rest: 30 };
        assert_eq!(decoder.decode(&mut input, &LIMITS), Ok(Some(fragment)));
        assert_eq!(decoder.block_rest(), 30);
        let mut input = &bytes[33..];
        let fragment = Message::Piece { piece: 9, begin: 120, data: &[7; 30], rest: 0 };
        assert_eq!(decoder.decode(&mut input, &LIMITS), Ok(Some(fragment)));
        assert_eq!(decoder.block_rest(), 0);
    }

    #[test]
    fn an_extension_message_we_do_not_care_for_is_skipped_without_memory() {
        let long = vec![0; 65];
        let mut bytes = bytes_of(&[Message::Extended { id: 3, payload: &long }]);
        bytes.extend(bytes_of(&[Message::HaveAll]));
        for size in [1, 7, 100] {
            let mut decoder = Decoder::new();
            let mut seen = Vec::new();
            for mut chunk in bytes.chunks(size) {
                while let Some(message) = decoder.decode(&mut chunk, &LIMITS).unwrap() {
                    seen.push(format!("{message:?}"));
                }
                assert_eq!(decoder.body.capacity(), 0);
            }
            assert_eq!(seen, ["Unknown(20)", "HaveAll"]);
        }
    }

    #[test]
    fn a_length_that_is_not_right_is_an_error_as_soon_as_it_is_known() {
        let cases: &[(&[u8], Error)] = &[
            (&[1], Error::TooLong(1 << 24)),
            (&[0, 3], Error::TooLong(3 << 16)),
            (b"\x13BitTorrent", Error::TooLong(0x1342_6974)),
            (&[0, 2, 0, 10], Error::TooLong(MAX_MESSAGE + 1)),
            (&[0, 0, 0, 2, CHOKE], Error::Length { id: CHOKE, len: 2 }),
            (&[0, 0, 0, 12, REQUEST], Error::Length { id: REQUEST, len: 12 }),
            (&[0, 0, 0, 9, PIECE], Error::Length { id: PIECE, len: 9 }),
            (&[0, 0, 0, 5, BITFIELD], Error::Length { id: BITFIELD, len: 5 }),
            (&[0, 0, 0, 3, BITFIELD], Error::Length { id: BITFIELD, len: 3 }),
            (&[0, 0, 0, 1, EXTENDED], Error::Length { id: EXTENDED, len: 1 }),
            (&[0, 0, 0, 4, HAVE_ALL], Error::Length { id: HAVE_ALL, len: 4 }),
            (&[0, 0, 0, 19, PIECE, 0, 0, 0, 0, 255, 255, 255, 250], Error::Offset),
        ];
        for (bytes, error) in cases {
            for split in 0..bytes.len() {
                let chunks = [&bytes[..split], &bytes[split..]];
                assert!(through(&mut Decoder::new(), &chunks).is_err(), "{bytes:?} at {split}");
            }
            assert_eq!(through(&mut Decoder::new(), &[bytes]), Err(*error), "{bytes:?}");
        }
    }

    #[test]
    fn the_largest_block_passes_and_a_bitfield_of_a_huge_torrent_too() {
        let block = vec![1; MAX_BLOCK as usize];
        let bytes = bytes_of(&[Message::Piece { piece: 0, begin: 0, data: &block, rest: 0 }]);
        assert_eq!(through(&mut Decoder::new(), &[&bytes]).unwrap(), bytes);
        let limits = Limits { pieces: 2 << 20, max_extended: 0 };
        let bits = vec![0xaa; 256 << 10];
        let bytes = bytes_of(&[Message::Bitfield(&bits)]);
        let mut input = &bytes[..];
        assert_eq!(Decoder::new().decode(&mut input, &limits), Ok(Some(Message::Bitfield(&bits))));
    }

    #[test]
    fn before_the_metadata_is_known_a_bitfield_may_have_any_length_and_a_huge_one_is_skipped() {
        let limits = Limits { pieces: UNKNOWN, max_extended: 0 };
        let through = |len: usize| {
            let mut bytes = bytes_of(&[Message::Bitfield(&vec![0x80; len])]);
            bytes.extend(bytes_of(&[Message::HaveAll]));
            let (mut decoder, mut input) = (Decoder::new(), &bytes[..]);
            let first = decoder.decode(&mut input, &limits)?.map(|message| match message {
                Message::Bitfield(bits) => bits.len(),
                _ => 0,
            });
            assert_eq!(decoder.decode(&mut input, &limits), Ok(Some(Message::HaveAll)));
            Ok(first)
        };
        assert_eq!((through(1), through(MAX_EARLY as usize)), (Ok(Some(1)), Ok(Some(MAX_EARLY as usize))));
        assert_eq!(through(MAX_EARLY as usize + 1), Ok(Some(0)));
        let len = MAX_PIECES / 8 + 2;
        assert_eq!(through(len as usize - 1), Err(Error::TooLong(len)));
        assert_eq!(through(0), Err(Error::Length { id: BITFIELD, len: 1 }));
    }

    #[test]
    fn a_handshake_tells_its_info_hash_before_the_peer_id_comes() {
        let handshake =
            Handshake { reserved: Reserved::OURS, info_hash: [3; 20], peer_id: *b"-XX0001-abcdefghijkl" };
        let bytes = handshake.encode();
        for size in 1..=80 {
            let mut rest = Vec::from(bytes);
            rest.extend_from_slice(b"more");
            let mut handshaking = Handshaking::new();
            let (mut fed, mut early) = (0, None);
            let complete = 'read: loop {
                let mut input = &rest[fed..rest.len().min(fed + size)];
                fed += input.len();
                loop {
                    let before = input.len();
                    match handshaking.feed(&mut input).unwrap() {
                        Stage::More => break,
                        Stage::InfoHash { info_hash, reserved } => {
                            assert_eq!((info_hash, reserved), ([3; 20], Reserved::OURS));
                            assert_eq!(fed - input.len(), 48);
                            assert_eq!(early.replace(before), None);
                        }
                        Stage::Complete(whole) => break 'read (whole, &rest[fed - input.len()..]),
                    }
                }
            };
            assert_eq!(complete, (handshake, &b"more"[..]));
            assert!(early.is_some());
        }
        assert!(Reserved::OURS.has_fast_extension() && Reserved::OURS.has_extension_protocol());
        assert!(!Reserved::OURS.has_dht() && Reserved([0, 0, 0, 0, 0, 0, 0, 5]).has_dht());
        assert_eq!(Reserved::OURS.and_dht(), Reserved([0, 0, 0, 0, 0, 0x10, 0, 5]));
    }

    #[test]
    fn a_handshake_of_something_else_is_refused_with_its_first_wrong_byte() {
        for garbage in [&b"G"[..], b"\x13C", b"\x13BitTorrent protocoL", &[0x16, 3, 1]] {
            assert_eq!(Handshaking::new().feed(&mut &*garbage), Err(Error::NotBitTorrent));
        }
        assert_eq!(Handshaking::new().feed(&mut &b"\x13BitTorrent pro"[..]), Ok(Stage::More));
    }
}

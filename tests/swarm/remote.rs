//! The other ends: leechers that check every byte, and those that are no good.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use meshseed::bencode::Value;
use meshseed::have::Have;
use meshseed::net::{Family, compact};
use meshseed::peer::extension::{self, Ids};
use meshseed::peer::pex::{self, Contact};
use meshseed::peer::wire::{self, Decoder, Handshake, Handshaking, Limits, Message, Reserved, Stage};
use meshseed::piece::Lengths;

use super::content::Content;
use super::disk::Torrent;

/// What a peer is like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Fetches everything.
    Leecher,
    /// Is interested and asks for nothing.
    Hoarder,
    /// Wants nothing; says that it lives.
    Idle,
    /// Shakes hands and falls silent.
    Silent,
    /// Says nothing at all.
    Mute,
    /// Sends so many bytes of its handshake, one in four seconds.
    Trickle,
    /// Sends so many bytes of its handshake.
    Half(usize),
    /// Has everything.
    Seed,
    /// Shakes hands, is interested, and sends this.
    Hostile(Vec<u8>),
}

/// By which ids those that speak extensions want to be sent them.
const IDS: Ids = Ids { ut_metadata: None, ut_pex: Some(9), lt_donthave: Some(10) };

/// A list of peers as it came.
#[derive(Clone, Debug)]
pub struct List {
    pub at: f64,
    pub added: Vec<Contact>,
    pub dropped: Vec<SocketAddr>,
}

/// A peer of the virtual network.
pub struct Remote {
    pub kind: Kind,
    pub torrent: usize,
    pub addr: SocketAddr,
    pub id: [u8; 20],
    pub fast: bool,
    /// Says where it listens, and takes lists of peers and what we have lost.
    pub introduces: bool,
    /// The lists that came.
    pub lists: Vec<List>,
    /// Sends its id only when it has seen ours.
    pub patient: bool,
    /// We came to it: its handshake is the second.
    pub dialled: bool,
    /// Requests under way.
    pub pipeline: usize,
    pub block: u32,
    /// Bytes a second that it takes; 0: it reads nothing.
    pub bandwidth: u64,
    pub latency: Duration,
    info_hash: [u8; 20],
    lengths: Lengths,
    content: Content,
    handshaking: Option<Handshaking>,
    decoder: Decoder,
    /// What the seed said it has.
    pub seen: Have,
    first: bool,
    interested: bool,
    pub choked: bool,
    /// Blocks of `block` bytes that came.
    got: Vec<bool>,
    pub missing: usize,
    asked: VecDeque<usize>,
    /// Asked for, and dropped by a choke: one may have been on its way.
    dropped: Vec<usize>,
    cursor: usize,
    pub received: u64,
    trickled: usize,
    pub keep_alives: u32,
    pub haves: u32,
    pub rejects: u32,
    pub turns: u32,
    /// Seconds: when it began to wait, and its longest wait.
    waits_since: Option<f64>,
    pub longest_wait: f64,
    /// Seconds at which the connection ended.
    pub gone: Option<f64>,
    pub done_at: Option<f64>,
}

impl Remote {
    pub fn new(kind: Kind, of: &Torrent, torrent: usize, n: u32) -> Remote {
        let mut id = *b"-TS0001-000000000000";
        id[16..].copy_from_slice(&n.to_be_bytes());
        let [a, b, ..] = n.to_le_bytes();
        let lengths = of.lengths();
        let mut remote = Remote {
            kind,
            torrent,
            addr: SocketAddr::from(([10, 1, b, a], 6881)),
            id,
            fast: n.is_multiple_of(2),
            introduces: false,
            lists: Vec::new(),
            patient: false,
            dialled: false,
            pipeline: 8,
            block: 16_384,
            bandwidth: 1 << 20,
            latency: Duration::from_millis(20),
            info_hash: *of.info_hash().as_bytes(),
            lengths,
            content: of.content,
            handshaking: Some(Handshaking::new()),
            decoder: Decoder::new(),
            seen: Have::None,
            first: true,
            interested: false,
            choked: true,
            got: Vec::new(),
            missing: 0,
            asked: VecDeque::new(),
            dropped: Vec::new(),
            cursor: 0,
            received: 0,
            trickled: 0,
            keep_alives: 0,
            haves: 0,
            rejects: 0,
            turns: 0,
            waits_since: None,
            longest_wait: 0.0,
            gone: None,
            done_at: None,
        };
        remote.set_block(16_384, n);
        remote
    }

    /// The size of its requests.
    pub fn set_block(&mut self, block: u32, first: u32) {
        self.block = block;
        if self.kind == Kind::Leecher {
            let blocks = self.lengths.total().div_ceil(u64::from(block));
            self.missing = usize::try_from(blocks).expect("a torrent of a test");
            self.got = vec![false; self.missing];
            self.cursor = first as usize * 7 % self.missing;
        }
    }

    /// A new connection with the same blocks in hand.
    pub fn again(&mut self) {
        self.handshaking = Some(Handshaking::new());
        self.decoder = Decoder::new();
        (self.first, self.interested, self.choked) = (true, false, true);
        self.seen = Have::None;
        self.asked.clear();
        self.dropped.clear();
        self.gone = None;
    }

    pub fn is_done(&self) -> bool {
        self.missing == 0
    }

    /// What it sends when it connects.
    pub fn hello(&self) -> Vec<u8> {
        let reserved = if self.fast { Reserved::OURS } else { Reserved([0; 8]) };
        let bytes = Handshake { reserved, info_hash: self.info_hash, peer_id: self.id }.encode().to_vec();
        match &self.kind {
            Kind::Mute | Kind::Trickle => Vec::new(),
            Kind::Half(n) => bytes[..*n].to_vec(),
            _ if self.patient => bytes[..48].to_vec(),
            _ => bytes,
        }
    }

    /// How often it does something by itself.
    pub fn period(&self) -> Duration {
        Duration::from_secs(if self.kind == Kind::Trickle { 4 } else { 90 })
    }

    /// Every while: honest ones say that they live.
    pub fn tick(&mut self) -> Vec<u8> {
        let mut out = Vec::new();
        match self.kind {
            Kind::Trickle => {
                out.push(b"\x13BitTorrent protocol"[self.trickled]);
                self.trickled += 1;
            }
            Kind::Leecher | Kind::Hoarder | Kind::Idle if self.handshaking.is_none() => {
                wire::encode(&Message::KeepAlive, &mut out);
            }
            _ => {}
        }
        out
    }

    /// Takes bytes of the seed; returns what it answers. `now`: seconds.
    pub fn receive(&mut self, mut input: &[u8], now: f64) -> Vec<u8> {
        let mut out = Vec::new();
        if let Some(handshaking) = &mut self.handshaking {
            loop {
                match handshaking.feed(&mut input).expect("a handshake") {
                    Stage::More => return out,
                    Stage::InfoHash { info_hash, .. } => assert_eq!(info_hash, self.info_hash),
                    Stage::Complete(_) => break,
                }
            }
            self.handshaking = None;
            if self.dialled {
                out.extend(self.hello());
            }
            if self.patient {
                out.extend(self.id);
            }
            self.greet(&mut out);
        }
        let limits = Limits { pieces: self.lengths.piece_count(), max_extended: 10_000 };
        let mut decoder = std::mem::take(&mut self.decoder);
        while let Some(message) = decoder.decode(&mut input, &limits).expect("well-formed messages") {
            self.take(&message, &mut out, now);
        }
        self.decoder = decoder;
        self.ask(&mut out);
        out
    }

    fn greet(&self, out: &mut Vec<u8>) {
        if matches!(self.kind, Kind::Silent | Kind::Half(_)) {
            return;
        }
        match (&self.kind, self.fast) {
            (Kind::Seed, true) => wire::encode(&Message::HaveAll, out),
            (Kind::Seed, false) => {
                let all = Have::All.encode_bitfield(self.lengths.piece_count());
                wire::encode(&Message::Bitfield(&all), out);
            }
            (Kind::Leecher, _) if self.got.contains(&true) => {
                let has = Have::from_fn(self.lengths.piece_count(), |piece| self.has(piece));
                wire::encode(&Message::Bitfield(&has.encode_bitfield(self.lengths.piece_count())), out);
            }
            (_, true) => wire::encode(&Message::HaveNone, out),
            (_, false) => {}
        }
        if self.fast {
            let mut payload = Vec::new();
            let mut handshake = extension::Handshake { client: Some("test".into()), ..Default::default() };
            if self.introduces {
                (handshake.ids, handshake.port) = (IDS, Some(self.addr.port()));
            }
            handshake.encode(&mut payload);
            wire::encode(&Message::Extended { id: extension::HANDSHAKE, payload: &payload }, out);
        }
        if let Kind::Hostile(bytes) = &self.kind {
            wire::encode(&Message::Interested, out);
            out.extend_from_slice(bytes);
        }
    }

    fn take(&mut self, message: &Message<'_>, out: &mut Vec<u8>, now: f64) {
        let count = self.lengths.piece_count();
        let first = std::mem::replace(&mut self.first, false);
        match *message {
            Message::HaveAll | Message::HaveNone | Message::Bitfield(_) => {
                assert!(first, "{message:?} comes first or not at all");
                self.seen = match *message {
                    Message::HaveAll => Have::All,
                    Message::Bitfield(bits) => Have::decode_bitfield(bits, count).expect("a bitfield"),
                    _ => Have::None,
                };
            }
            Message::Have(piece) => {
                self.seen.insert(piece, count);
                self.haves += 1;
            }
            Message::Choke => {
                self.choked = true;
                self.waits_since = self.interested.then_some(now);
                if !self.fast {
                    self.dropped.extend(self.asked.drain(..));
                }
            }
            Message::Unchoke => {
                self.choked = false;
                self.dropped.clear();
                self.turns += 1;
                if let Some(since) = self.waits_since.take() {
                    self.longest_wait = self.longest_wait.max(now - since);
                }
            }
            Message::Reject { piece, begin, .. } => {
                self.rejects += 1;
                if self.kind == Kind::Leecher {
                    let block = self.block_at(piece, begin);
                    let at = self.asked.iter().position(|&asked| asked == block);
                    self.asked.remove(at.expect("a reject of what was asked for"));
                }
            }
            Message::Piece { piece, begin, data, rest } => self.block((piece, begin), data, rest, out, now),
            Message::KeepAlive => self.keep_alives += 1,
            Message::Extended { id, payload } if id == IDS.ut_pex.expect("ours") => {
                let list = Value::parse(payload).expect("a list of peers");
                let dropped = |(key, family)| {
                    let bytes = list.find(key).and_then(Value::as_bytes).unwrap_or_default();
                    compact::decode(bytes, family)
                };
                let families = [(&b"dropped"[..], Family::V4), (b"dropped6", Family::V6)];
                let dropped = families.into_iter().flat_map(dropped).collect();
                let added = pex::decode(payload).expect("a list of peers");
                self.lists.push(List { at: now, added, dropped });
            }
            Message::Extended { id, payload } if id == IDS.lt_donthave.expect("ours") => {
                let piece = payload.try_into().map(u32::from_be_bytes).expect("a piece");
                assert!(self.seen.remove(piece, count), "{piece} was never there");
            }
            _ => {}
        }
        let wants = match self.kind {
            Kind::Leecher => self.missing > 0 && !self.seen.is_none(),
            Kind::Hoarder => true,
            _ => false,
        };
        if wants && !self.interested {
            self.interested = true;
            self.waits_since = Some(now);
            wire::encode(&Message::Interested, out);
        }
    }

    fn block_at(&self, piece: u32, begin: u32) -> usize {
        let offset = u64::from(piece) * u64::from(self.lengths.piece_length()) + u64::from(begin);
        usize::try_from(offset / u64::from(self.block)).expect("a block")
    }

    /// A fragment of a block came.
    fn block(&mut self, at: (u32, u32), data: &[u8], rest: u32, out: &mut Vec<u8>, now: f64) {
        if self.kind != Kind::Leecher {
            return;
        }
        let (piece, begin) = at;
        let offset = u64::from(piece) * u64::from(self.lengths.piece_length()) + u64::from(begin);
        assert!(self.content.is(offset, data), "wrong bytes in piece {piece} at {begin}");
        self.received += data.len() as u64;
        let last = u32::try_from(data.len()).expect("a block");
        if rest > 0 {
            return;
        }
        let block = self.block_at(piece, begin + last - 1);
        if let Some(asked) = self.asked.iter().position(|&asked| asked == block) {
            self.asked.remove(asked);
        } else {
            let dropped = self.dropped.iter().position(|&dropped| dropped == block);
            self.dropped.swap_remove(dropped.expect("a block that was asked for"));
        }
        if std::mem::replace(&mut self.got[block], true) {
            return;
        }
        self.missing -= 1;
        if self.has(piece) {
            wire::encode(&Message::Have(piece), out);
        }
        if self.missing == 0 {
            self.done_at = Some(now);
            self.interested = false;
            wire::encode(&Message::NotInterested, out);
        }
    }

    fn has(&self, piece: u32) -> bool {
        let blocks = usize::try_from(self.lengths.piece_length().div_ceil(self.block)).expect("small");
        let first = piece as usize * blocks;
        self.got[first..(first + blocks).min(self.got.len())].iter().all(|&got| got)
    }

    /// Keeps the pipeline full.
    fn ask(&mut self, out: &mut Vec<u8>) {
        if self.choked || self.kind != Kind::Leecher {
            return;
        }
        let mut looked = 0;
        while self.asked.len() < self.pipeline && looked < self.got.len() {
            let block = self.cursor;
            self.cursor = (self.cursor + 1) % self.got.len();
            looked += 1;
            let offset = block as u64 * u64::from(self.block);
            let piece = u32::try_from(offset / u64::from(self.lengths.piece_length())).expect("a piece");
            if self.got[block] || self.asked.contains(&block) || !self.seen.contains(piece) {
                continue;
            }
            let begin = u32::try_from(offset % u64::from(self.lengths.piece_length())).expect("a begin");
            let len = u64::from(self.block).min(self.lengths.total() - offset);
            let len = u32::try_from(len).expect("a block");
            self.asked.push_back(block);
            wire::encode(&Message::Request { piece, begin, len }, out);
        }
    }
}

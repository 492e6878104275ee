//! One peer of one torrent: what it said, what it is owed, and what each of its messages leads to.
//!
//! Read first: BEP 3, BEP 6 (fast extension), BEP 10 (extensions), BEP 21 (`upload_only`), BEP 54 (`lt_donthave`). Omitted:
//! what peers tell of others (`pex` reads it, the session takes it), encryption, uTP, and the
//! allowed fast set. Holds no buffer of blocks: an idle peer is some 300 bytes here and its task. While its torrent is
//! fetched there are its bitfield, and 16 bytes for each block that it was asked for lately.

mod control;
pub mod extension;
pub mod io;
pub mod metadata;
pub mod outbox;
pub mod pex;
pub mod requests;
pub mod wire;

use std::fmt;
use std::net::SocketAddr;
use std::task::Waker;

use crate::have::Have;
use crate::key::TorrentKey;
use crate::piece::{Block, Lengths, PieceIndex};
use extension::Ids;
use outbox::Outbox;
use pex::Exchange;
use requests::{Received, Requests};
use wire::Message;

/// Bad requests forgiven before the connection is closed: a client asks a few times for what it may not have while
/// its view of us is old.
const MAX_BAD_REQUESTS: u8 = 64;

/// Blocks that nobody asked for, forgiven before the connection is closed: a request and its cancel may cross.
const MAX_UNASKED: u8 = 64;

/// Pieces that a peer may have lost, beside each of the torrent once: a cache may lose the same ones many times.
const MAX_LOST: u32 = 1000;

/// Requests at a time for a peer that does not say how many it takes: what old clients queue.
const DEFAULT_REQQ: u32 = 250;

/// A connection, numbered. A number is used again only after the connection has gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerKey(pub u32);

/// Why a connection ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Close {
    /// The other side closed, or the network did.
    Gone,
    /// It broke the protocol; says how.
    Protocol(&'static str),
    /// No handshake in time.
    SlowHandshake,
    /// Nothing heard for too long.
    Silent,
    /// Both sides have everything.
    BothSeeds,
    /// It is this very daemon.
    Ourselves,
    /// The same peer is connected already.
    Duplicate,
    /// The info-hash is none of ours.
    UnknownTorrent,
    /// A limit is reached; says which.
    Limit(&'static str),
    /// It sent data that was not right.
    Liar,
    /// The torrent was removed, paused or has lost its data.
    TorrentStopped,
    /// The daemon ends.
    Shutdown,
}

impl fmt::Display for Close {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Close::Gone => f.write_str("connection closed"),
            Close::Protocol(what) => write!(f, "protocol error: {what}"),
            Close::SlowHandshake => f.write_str("no handshake in time"),
            Close::Silent => f.write_str("silent for too long"),
            Close::BothSeeds => f.write_str("both sides are seeds"),
            Close::Ourselves => f.write_str("connected to ourselves"),
            Close::Duplicate => f.write_str("the same peer is connected already"),
            Close::UnknownTorrent => f.write_str("unknown info-hash"),
            Close::Limit(which) => write!(f, "limit reached: {which}"),
            Close::Liar => f.write_str("it sent wrong data"),
            Close::TorrentStopped => f.write_str("torrent stopped"),
            Close::Shutdown => f.write_str("shutting down"),
        }
    }
}

/// What a message leads to beyond the peer itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Nothing.
    None,
    /// It began or ceased to be interested: the choker may act.
    Interest,
    /// It has another piece.
    Gained(PieceIndex),
    /// It has a piece no more (BEP 54).
    Lost(PieceIndex),
    /// It has said what it has.
    Pieces,
    /// It has told what it is (BEP 10).
    Introduced,
    /// It chokes us: these blocks do not come.
    Choked(Vec<Block>),
    /// It refuses a block.
    Rejected(Block),
    /// Its node of the DHT has this UDP port (BEP 5).
    Node(u16),
}

/// Why the writer of a peer sleeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waiting {
    /// It does not, or for the socket alone.
    No,
    /// For the storage thread.
    Storage,
    /// For tokens of its rate.
    Tokens,
}

/// How far a piece of metadata has come on its way to a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sending {
    /// There is none.
    Nothing,
    /// The storage thread reads it.
    Asked,
    /// It is among the control messages.
    Written,
}

/// A connected peer. Times are seconds since the daemon started.
pub struct Peer {
    /// Its torrent, once a handshake has named one.
    pub torrent: Option<TorrentKey>,
    /// Where it is.
    pub addr: SocketAddr,
    /// Its id, zero until it has come.
    pub id: [u8; 20],
    /// What it calls itself (BEP 10 `v`).
    pub client: Box<str>,
    /// By which ids it takes the messages of extensions.
    pub ids: Ids,
    /// Where it says that it listens, if it came to us; 0 while it has not.
    port: u16,
    /// Whom it was told of.
    pub exchange: Exchange,
    /// We dialled it.
    pub outgoing: bool,
    /// On one of our own links, or in a prefix of the configuration.
    pub local: bool,
    /// Both sides speak the fast extension.
    pub fast: bool,
    /// It has told the port of its node: others that it tells are none of its own.
    told_node: bool,
    /// Handshakes are done.
    pub ready: bool,
    /// We choke it.
    pub choked: bool,
    /// It is interested in us.
    pub interested: bool,
    /// It said that it fetches nothing (BEP 21).
    pub upload_only: bool,
    /// Why its writer sleeps.
    pub waiting: Waiting,
    /// Storage reads in a row that did not bring the head block into the page cache.
    pub misses: u8,
    bad_requests: u8,
    unasked: u8,
    /// It chokes us.
    pub choking: bool,
    /// It was told that we are interested.
    pub interesting: bool,
    /// Its pieces count for the picker of its torrent, as those of a local peer or not.
    pub counted: Option<bool>,
    /// Requests that it takes at a time (`reqq`), 0 where it has not said.
    reqq: u32,
    /// Bytes of the metadata that it says it has, 0 where it has none.
    pub metadata_size: u32,
    /// What becomes of the piece of metadata that it waits for.
    pub sending: Sending,
    /// What it said of its pieces before we knew how many there are.
    early: Option<Box<Early>>,
    /// How many pieces it has.
    has: u32,
    /// How many it has lost so far.
    lost: u16,
    /// Which: kept while we lack some ourselves.
    pub pieces: Have,
    /// What it was asked for, while its torrent is fetched.
    pub requests: Option<Box<Requests>>,
    /// Blocks it is owed.
    pub outbox: Outbox,
    /// Control messages to be written.
    pub control: Vec<u8>,
    /// So many bytes of them, all if they are no more, may wait for something else to be said.
    may_wait: usize,
    /// Bytes of content sent to it.
    pub uploaded: u64,
    /// Bytes of content sent since the last choke round.
    pub recent: u32,
    /// Bytes of content a second in the last choke round.
    pub rate: u32,
    /// Bytes of content that it sent.
    pub downloaded: u64,
    /// The same since the last choke round.
    pub given: u32,
    /// The same a second, in the last choke round.
    pub down_rate: u32,
    /// When the connection began.
    pub since: u32,
    /// When it was last choked or unchoked, or began to want a turn.
    pub turn: u32,
    /// When a byte last came.
    pub heard: u32,
    /// When a byte last went.
    pub spoke: u32,
    /// Set to end its task.
    pub closing: Option<Close>,
    /// Wakes its task.
    pub waker: Option<Waker>,
}

/// What a peer said of its pieces before they were known.
#[derive(Default)]
struct Early {
    /// As it came.
    bytes: Vec<u8>,
    /// It was too much to be kept.
    is_lost: bool,
}

/// What a peer's messages are judged against.
pub struct View<'a> {
    /// The cut of the torrent.
    pub lengths: Lengths,
    /// What we have.
    pub have: &'a Have,
}

impl Peer {
    /// A connection just made, before any handshake.
    pub fn new(addr: SocketAddr, outgoing: bool, local: bool, now: u32) -> Peer {
        Peer {
            torrent: None,
            addr,
            id: [0; 20],
            client: "".into(),
            ids: Ids::default(),
            port: 0,
            exchange: Exchange::default(),
            outgoing,
            local,
            fast: false,
            told_node: false,
            ready: false,
            choked: true,
            interested: false,
            upload_only: false,
            waiting: Waiting::No,
            misses: 0,
            bad_requests: 0,
            unasked: 0,
            choking: true,
            interesting: false,
            counted: None,
            reqq: 0,
            metadata_size: 0,
            sending: Sending::Nothing,
            early: None,
            has: 0,
            lost: 0,
            pieces: Have::None,
            requests: None,
            outbox: Outbox::default(),
            control: Vec::new(),
            may_wait: 0,
            uploaded: 0,
            recent: 0,
            rate: 0,
            downloaded: 0,
            given: 0,
            down_rate: 0,
            since: now,
            turn: now,
            heard: now,
            spoke: now,
            closing: None,
            waker: None,
        }
    }

    /// Wakes the peer's task, if it sleeps.
    pub fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// Ends the connection for the first reason given.
    pub fn close(&mut self, reason: Close) {
        if self.closing.is_none() {
            self.closing = Some(reason);
        }
        self.wake();
    }

    /// Whether it has all there is or wants nothing more.
    pub fn is_seed(&self, lengths: Lengths) -> bool {
        self.upload_only || self.has >= lengths.piece_count()
    }

    /// Bytes that are kept of it for the sake of fetching.
    pub fn memory(&self) -> usize {
        let early = self.early.as_ref().map_or(0, |early| early.bytes.capacity());
        early + self.pieces.memory() + self.requests.as_ref().map_or(0, |requests| requests.memory())
    }

    /// Pieces it has said it has.
    pub fn has(&self) -> u32 {
        self.has
    }

    /// Where others reach it, as far as that is known.
    pub fn listens(&self) -> Option<SocketAddr> {
        let mut addr = self.addr;
        if !self.outgoing {
            addr.set_port(self.port);
        }
        (addr.port() != 0).then_some(addr)
    }

    /// By which id it wants to be told of peers, if it does.
    pub fn exchanges(&self) -> Option<u8> {
        self.ids.ut_pex.filter(|&id| id != 0)
    }

    /// Keeps what it says of its pieces before it can be judged; `true` for such a message.
    pub fn keep_early(&mut self, message: &Message<'_>) -> bool {
        let is_skipped = *message == Message::Unknown(wire::BITFIELD);
        let is_kept = matches!(
            message,
            Message::Bitfield(_)
                | Message::Have(_)
                | Message::HaveAll
                | Message::HaveNone
                | Message::Extended { id: extension::LT_DONTHAVE, .. }
        );
        if !is_kept && !is_skipped {
            return false;
        }
        let early = self.early.get_or_insert_default();
        early.is_lost |= is_skipped || early.bytes.len() >= wire::MAX_EARLY as usize;
        if early.is_lost {
            early.bytes = Vec::new();
        } else {
            wire::encode(message, &mut early.bytes);
        }
        true
    }

    /// What was kept of that: it is to be handled now. `None` where it was too much.
    pub fn take_early(&mut self) -> Option<Vec<u8>> {
        let early = self.early.take().map(|early| *early).unwrap_or_default();
        (!early.is_lost).then_some(early.bytes)
    }

    /// Takes one message of the peer.
    pub fn handle(&mut self, message: &Message<'_>, view: &View<'_>) -> Result<Action, Close> {
        match *message {
            Message::Interested | Message::NotInterested => {
                let interested = matches!(message, Message::Interested);
                if interested != self.interested {
                    self.interested = interested;
                    return Ok(Action::Interest);
                }
            }
            Message::Request { piece, begin, len } => self.requested(piece, begin, len, view)?,
            Message::Cancel { piece, begin, len } => {
                if let Some(block) = view.lengths.block(piece, begin, len)
                    && self.outbox.cancel(block)
                    && self.fast
                {
                    self.reject(block)?;
                }
            }
            Message::Have(index) => {
                let count = view.lengths.piece_count();
                let piece = view.lengths.piece(index);
                let piece = piece.ok_or(Close::Protocol("have of a piece that does not exist"))?;
                if view.have.is_all() {
                    self.has = self.has.saturating_add(1).min(count);
                } else if self.pieces.insert(index, count) {
                    self.has += 1;
                    return Ok(Action::Gained(piece));
                }
                self.part_if_both_seed(view)?;
            }
            Message::Bitfield(bits) => {
                let count = view.lengths.piece_count();
                let have = Have::decode_bitfield(bits, count);
                return self.said(have.ok_or(Close::Protocol("bitfield of a wrong size"))?, view);
            }
            Message::HaveAll => return self.said(Have::All, view),
            Message::HaveNone => return self.said(Have::None, view),
            Message::Choke => {
                self.choking = true;
                // Both sides speaking the fast extension it refuses each of them by itself (BEP 6).
                if let Some(requests) = self.requests.as_mut().filter(|_| !self.fast) {
                    return Ok(Action::Choked(requests.clear()));
                }
            }
            Message::Unchoke => self.choking = false,
            Message::Reject { piece, begin, len } => {
                if let Some(requests) = &mut self.requests
                    && let Some(block) = requests.rejected(piece, begin, len)
                {
                    return Ok(Action::Rejected(block));
                }
            }
            Message::Extended { id: extension::HANDSHAKE, payload } => {
                // A handshake that cannot be read costs its sender the extensions, not the connection.
                if let Ok(theirs) = extension::Handshake::decode(payload) {
                    self.ids.update(theirs.ids);
                    if theirs.client.is_some() || self.client.is_empty() {
                        self.client = theirs.client.unwrap_or_default().into();
                    }
                    self.upload_only = theirs.upload_only;
                    if self.port == 0 {
                        self.port = theirs.port.unwrap_or(0);
                    }
                    self.metadata_size = theirs.metadata_size.unwrap_or(self.metadata_size);
                    if let Some(reqq) = theirs.reqq {
                        self.reqq = reqq;
                        if let Some(requests) = &mut self.requests {
                            requests.set_reqq(reqq);
                        }
                    }
                    self.part_if_both_seed(view)?;
                    return Ok(Action::Introduced);
                }
            }
            Message::Extended { id: extension::LT_DONTHAVE, payload } => {
                let count = view.lengths.piece_count();
                let piece = payload.first_chunk().map(|index| u32::from_be_bytes(*index));
                let piece = piece.and_then(|index| view.lengths.piece(index));
                let piece = piece.ok_or(Close::Protocol("has lost a piece that does not exist"))?;
                // Each may cost a look at all of them.
                self.lost = self.lost.saturating_add(1);
                if self.lost == u16::MAX || u32::from(self.lost) > count + MAX_LOST {
                    return Err(Close::Protocol("has lost more pieces than there are"));
                }
                if view.have.is_all() {
                    self.has = self.has.saturating_sub(1);
                } else if self.pieces.remove(piece.index(), count) {
                    self.has -= 1;
                    return Ok(Action::Lost(piece));
                }
            }
            Message::Port(port) if port != 0 && !self.told_node => {
                self.told_node = true;
                return Ok(Action::Node(port));
            }
            // We have everything by now, and this was on its way: the last blocks are often asked of two.
            Message::Piece { rest: 0, .. } => self.sent_unasked()?,
            // What we do not know is not an error (BEP 10).
            _ => {}
        }
        Ok(Action::None)
    }

    /// It has told all that it has.
    fn said(&mut self, have: Have, view: &View<'_>) -> Result<Action, Close> {
        self.has = have.count(view.lengths.piece_count());
        self.part_if_both_seed(view)?;
        if view.have.is_all() {
            return Ok(Action::None);
        }
        if !self.pieces.is_none() {
            return Err(Close::Protocol("a bitfield that is not its first message"));
        }
        self.pieces = have;
        Ok(Action::Pieces)
    }

    /// A block came that it was not asked for, or not any more.
    pub fn sent_unasked(&mut self) -> Result<(), Close> {
        self.unasked = self.unasked.saturating_add(1);
        if self.unasked > MAX_UNASKED { Err(UNASKED) } else { Ok(()) }
    }

    /// From now on it may be asked for blocks.
    pub fn begin_requests(&mut self) {
        if self.requests.is_none() {
            let reqq = if self.reqq == 0 { DEFAULT_REQQ } else { self.reqq };
            self.requests = Some(Box::new(Requests::new(reqq)));
        }
    }

    /// A fragment of a block came. `None`: the block is none that was asked for.
    pub fn block_came(
        &mut self,
        piece: u32,
        begin: u32,
        len: u32,
        rest: u32,
        now_ms: u32,
    ) -> Result<Option<Block>, Close> {
        let Some(requests) = &mut self.requests else {
            self.sent_unasked()?;
            return Ok(None);
        };
        match requests.received(piece, begin, len, rest, now_ms) {
            Received::Asked(block) | Received::Cancelled(block) => Ok(Some(block)),
            Received::Unasked => {
                if rest == 0 {
                    self.sent_unasked()?;
                }
                Ok(None)
            }
        }
    }

    /// Takes everything back that it was asked for.
    pub fn cancel_all(&mut self) {
        let Some(requests) = &mut self.requests else { return };
        for Block { piece, begin, len } in requests.clear() {
            wire::encode(&Message::Cancel { piece: piece.index(), begin, len }, &mut self.control);
        }
    }

    /// We have everything: what it has is of no more interest.
    pub fn forget_pieces(&mut self) {
        (self.pieces, self.requests) = (Have::None, None);
    }

    /// Asks it for a block.
    pub fn request(&mut self, block: Block, now_ms: u32) {
        if let Some(requests) = &mut self.requests {
            requests.asked(block, now_ms);
            let Block { piece, begin, len } = block;
            wire::encode(&Message::Request { piece: piece.index(), begin, len }, &mut self.control);
        }
    }

    /// Takes the request for a block back, if there is one.
    pub fn cancel(&mut self, block: Block) {
        if let Some(requests) = &mut self.requests
            && requests.cancel(block)
        {
            let Block { piece, begin, len } = block;
            wire::encode(&Message::Cancel { piece: piece.index(), begin, len }, &mut self.control);
            self.wake();
        }
    }

    fn requested(&mut self, piece: u32, begin: u32, len: u32, view: &View<'_>) -> Result<(), Close> {
        let Some(block) = view.lengths.block(piece, begin, len) else {
            return Err(Close::Protocol("request beyond a piece"));
        };
        if !self.choked && view.have.contains(piece) && self.outbox.push(block) {
            return Ok(());
        }
        if !view.have.contains(piece) {
            self.bad_requests = self.bad_requests.saturating_add(1);
            if self.bad_requests > MAX_BAD_REQUESTS {
                return Err(Close::Protocol("requests for pieces that we do not have"));
            }
        }
        if self.fast { self.reject(block) } else { Ok(()) }
    }

    fn part_if_both_seed(&self, view: &View<'_>) -> Result<(), Close> {
        if view.have.is_all() && self.is_seed(view.lengths) { Err(Close::BothSeeds) } else { Ok(()) }
    }
}

const UNASKED: Close = Close::Protocol("blocks that nobody asked for");

#[cfg(test)]
mod tests {
    use super::control::{MAX_CONTROL, MAX_LATER, MAX_UNREAD};
    use super::*;
    use std::num::NonZeroU32;

    fn lengths() -> Lengths {
        Lengths::new(4 << 18, NonZeroU32::new(1 << 18).unwrap()).unwrap()
    }

    fn seeding() -> View<'static> {
        View { lengths: lengths(), have: &Have::All }
    }

    fn peer(fast: bool) -> Peer {
        let mut peer = Peer::new("10.0.0.1:6881".parse().unwrap(), false, false, 0);
        peer.fast = fast;
        peer.ready = true;
        peer
    }

    const REQUEST: Message<'static> = Message::Request { piece: 1, begin: 0, len: 16_384 };

    #[test]
    fn a_request_while_choked_is_rejected_where_both_are_fast_and_ignored_elsewhere() {
        let (mut fast, mut plain) = (peer(true), peer(false));
        fast.handle(&REQUEST, &seeding()).unwrap();
        plain.handle(&REQUEST, &seeding()).unwrap();
        assert_eq!((fast.control[4], fast.control.len()), (16, 17));
        assert!(plain.control.is_empty() && plain.outbox.is_empty() && fast.outbox.is_empty());
    }

    #[test]
    fn a_peer_tells_of_one_node() {
        let mut peer = peer(true);
        let mut tells = |port| peer.handle(&Message::Port(port), &seeding()).unwrap();
        assert_eq!([tells(0), tells(6881), tells(6882)], [Action::None, Action::Node(6881), Action::None]);
    }

    #[test]
    fn a_few_blocks_that_were_on_their_way_when_we_had_all_are_forgiven_and_many_are_not() {
        let mut peer = peer(true);
        let block = Message::Piece { piece: 1, begin: 0, data: &[7; 100], rest: 0 };
        for _ in 0..MAX_UNASKED {
            assert_eq!(peer.handle(&block, &seeding()), Ok(Action::None));
        }
        assert_eq!(peer.handle(&block, &seeding()), Err(UNASKED));
    }

    #[test]
    fn the_bitfield_of_a_peer_counts_while_we_lack_pieces() {
        let mut peer = peer(true);
        assert_eq!(peer.memory(), 0);
        let view = View { lengths: lengths(), have: &Have::None };
        peer.handle(&Message::Bitfield(&[0x80]), &view).unwrap();
        assert_eq!(peer.memory(), 1);
        peer.begin_requests();
        assert!(peer.memory() > size_of::<Requests>());
        peer.forget_pieces();
        assert_eq!(peer.memory(), 0);
    }

    #[test]
    fn one_that_reads_nothing_of_what_it_is_told_is_left() {
        let mut peer = peer(true);
        while peer.closing.is_none() {
            peer.announce_piece(1);
            assert!(peer.control.len() < MAX_UNREAD + 10);
        }
        assert_eq!(peer.closing, Some(Close::Protocol("reads nothing")));
    }

    #[test]
    fn one_that_has_a_piece_itself_hears_of_ours_with_whatever_is_said_next() {
        let mut peer = peer(true);
        peer.handle(&Message::HaveAll, &View { lengths: lengths(), have: &Have::None }).unwrap();
        peer.control_sent(usize::MAX);
        peer.announce_fetched(1);
        peer.announce_fetched(2);
        assert!(!peer.speaks());
        peer.set_interesting(true);
        peer.announce_fetched(3);
        assert!(peer.speaks());
        assert_eq!((peer.control.len(), peer.control[4], peer.control[22]), (9 + 9 + 5 + 9, 4, 2));
        peer.control_sent(9);
        assert!(peer.speaks(), "the rest goes with it");
        peer.control_sent(23);
        for _ in 0..=MAX_LATER / 9 {
            assert!(!peer.speaks());
            peer.announce_fetched(1);
        }
        peer.announce_fetched(2);
        assert!(peer.speaks(), "so many are worth a write");
    }

    #[test]
    fn choking_drops_what_was_asked_for_and_rejects_it() {
        let mut peer = peer(true);
        peer.choke(false, 7);
        peer.handle(&REQUEST, &seeding()).unwrap();
        assert_eq!((peer.outbox.len(), peer.turn), (1, 7));
        peer.control.clear();
        peer.choke(true, 9);
        assert!(peer.outbox.is_empty());
        assert_eq!((&peer.control[..5], peer.control[9]), (&[0, 0, 0, 1, 0][..], 16));
    }

    #[test]
    fn a_cancelled_request_is_answered_by_a_reject() {
        let mut peer = peer(true);
        peer.choke(false, 0);
        peer.handle(&REQUEST, &seeding()).unwrap();
        peer.control.clear();
        peer.handle(&Message::Cancel { piece: 1, begin: 0, len: 16_384 }, &seeding()).unwrap();
        assert!(peer.outbox.is_empty());
        assert_eq!(peer.control[4], 16);
    }

    /// What it says of itself by BEP 10.
    fn introduces(peer: &mut Peer, payload: &[u8]) -> Result<Action, Close> {
        let view = View { lengths: lengths(), have: &Have::None };
        peer.handle(&Message::Extended { id: extension::HANDSHAKE, payload }, &view)
    }

    #[test]
    fn a_piece_that_it_has_lost_is_none_of_its_pieces_and_one_it_never_had_is_no_news() {
        let view = View { lengths: lengths(), have: &Have::None };
        let mut peer = peer(true);
        peer.handle(&Message::HaveAll, &view).unwrap();
        fn message(payload: &[u8]) -> Message<'_> {
            Message::Extended { id: extension::LT_DONTHAVE, payload }
        }
        let piece = lengths().piece(2).unwrap();
        assert_eq!(peer.handle(&message(&[0, 0, 0, 2]), &view), Ok(Action::Lost(piece)));
        assert_eq!(peer.handle(&message(&[0, 0, 0, 2]), &view), Ok(Action::None));
        assert_eq!((peer.has(), peer.pieces.missing(4).collect::<Vec<_>>()), (3, vec![2]));
        assert_eq!(peer.handle(&Message::Have(2), &view), Ok(Action::Gained(piece)));
        assert!(peer.is_seed(lengths()));
        for payload in [&[0, 0, 0, 4][..], &[0, 0, 0]] {
            assert!(matches!(peer.handle(&message(payload), &view), Err(Close::Protocol(_))));
        }
        let lost = (0..).take_while(|_| peer.handle(&message(&[0, 0, 0, 2]), &view).is_ok()).count();
        assert!((1000..1004).contains(&lost), "{lost} times");
    }

    #[test]
    fn of_pieces_that_are_gone_it_hears_by_the_id_it_gave_and_what_it_asked_for_of_them_is_refused() {
        let mut peer = peer(true);
        assert!(!peer.announce_lost(&[1]), "it does not know the message");
        introduces(&mut peer, b"d1:md11:lt_donthavei77eee").unwrap();
        peer.choke(false, 0);
        let other = Message::Request { piece: 0, begin: 0, len: 16_384 };
        [REQUEST, other].iter().for_each(|request| drop(peer.handle(request, &seeding())));
        peer.control.clear();
        assert!(peer.announce_lost(&[1, 3]));
        assert_eq!(peer.control[..20], [0, 0, 0, 6, 20, 77, 0, 0, 0, 1, 0, 0, 0, 6, 20, 77, 0, 0, 0, 3]);
        assert_eq!((peer.control.len(), peer.control[24], peer.outbox.len()), (20 + 17, 16, 1));
        peer.outbox.sent(100);
        assert!(!peer.announce_lost(&[0]), "half of it is on its way");
        introduces(&mut peer, b"d1:md11:lt_donthavei0eee").unwrap();
        assert!(!peer.announce_lost(&[2]), "it knows the message no more");
    }

    #[test]
    fn others_reach_it_where_we_did_or_where_it_first_said_that_it_listens() {
        let mut came = peer(true);
        assert_eq!((came.listens(), came.exchanges()), (None, None));
        assert_eq!(introduces(&mut came, b"d1:md6:ut_pexi5ee1:pi99ee"), Ok(Action::Introduced));
        assert_eq!(introduces(&mut came, b"d1:md6:ut_pexi5ee1:pi1000ee"), Ok(Action::Introduced));
        assert_eq!((came.listens(), came.exchanges()), (Some("10.0.0.1:99".parse().unwrap()), Some(5)));
        let mut called = peer(true);
        called.outgoing = true;
        introduces(&mut called, b"d1:md6:ut_pexi0ee1:pi99ee").unwrap();
        assert_eq!((called.listens(), called.exchanges()), (Some(called.addr), None));
    }

    #[test]
    fn a_seed_parts_from_a_seed_however_it_says_so() {
        let full = [0xf0];
        for message in [Message::HaveAll, Message::Bitfield(&full)] {
            assert_eq!(peer(true).handle(&message, &seeding()), Err(Close::BothSeeds));
        }
        let mut one_short = peer(false);
        one_short.handle(&Message::Bitfield(&[0xe0]), &seeding()).unwrap();
        assert_eq!(one_short.handle(&Message::Have(3), &seeding()), Err(Close::BothSeeds));
        let partial = View { lengths: lengths(), have: &Have::None };
        assert!(peer(true).handle(&Message::HaveAll, &partial).is_ok());
    }

    #[test]
    fn whoever_breaks_the_protocol_is_closed() {
        let hostile = [
            Message::Request { piece: 4, begin: 0, len: 1 },
            Message::Request { piece: 0, begin: 0, len: 1 << 18 },
            Message::Request { piece: 0, begin: u32::MAX, len: 2 },
            Message::Have(4),
            Message::Bitfield(&[0xff]),
            Message::Bitfield(&[0xf0, 0]),
        ];
        for message in hostile {
            assert!(
                matches!(peer(true).handle(&message, &seeding()), Err(Close::Protocol(_))),
                "{message:?}"
            );
        }
    }

    #[test]
    fn a_peer_that_floods_and_never_reads_is_closed_before_it_costs_memory() {
        let mut peer = peer(true);
        let closed = (0..100_000).find_map(|_| peer.handle(&REQUEST, &seeding()).err());
        assert!(matches!(closed, Some(Close::Protocol(_))));
        assert!(peer.control.len() <= MAX_CONTROL + 17);
    }

    #[test]
    fn what_it_says_too_early_is_kept_as_it_came_unless_it_is_too_much() {
        let mut peer = peer(true);
        let lost = Message::Extended { id: extension::LT_DONTHAVE, payload: &[0, 0, 0, 7] };
        let messages = [Message::HaveNone, Message::Bitfield(&[0xf0]), Message::Have(7), lost];
        assert!(messages.iter().all(|message| peer.keep_early(message)));
        assert!(!peer.keep_early(&Message::Interested) && peer.memory() >= 5 + 6 + 9 + 10);
        let mut bytes = Vec::new();
        messages.iter().for_each(|message| wire::encode(message, &mut bytes));
        assert_eq!(peer.take_early(), Some(bytes));
        assert_eq!(peer.take_early(), Some(Vec::new()));
        for _ in 0..wire::MAX_EARLY {
            peer.keep_early(&Message::Have(1));
        }
        assert!(peer.memory() <= wire::MAX_EARLY as usize && peer.take_early().is_none());
        assert!(peer.keep_early(&Message::Unknown(wire::BITFIELD)) && peer.take_early().is_none());
    }

    #[test]
    fn metadata_is_spoken_of_with_those_who_know_how() {
        let mut peer = peer(true);
        let request = metadata::Message::Request(1);
        peer.tell_metadata(&request).unwrap();
        peer.offer_metadata(5);
        assert!(peer.control.is_empty());
        let said = |payload: &'static [u8]| Message::Extended { id: extension::HANDSHAKE, payload };
        peer.handle(&said(b"d1:md11:ut_metadatai9ee13:metadata_sizei77e1:v1:xe"), &seeding()).unwrap();
        assert_eq!((peer.metadata_size, &*peer.client), (77, "x"));
        // What a later one does not mention stays.
        peer.handle(&said(b"d1:mdee"), &seeding()).unwrap();
        assert_eq!((peer.metadata_size, &*peer.client), (77, "x"));
        peer.tell_metadata(&request).unwrap();
        assert_eq!(peer.control[4..6], [20, 9]);
        peer.handle(&said(b"d1:md11:ut_metadatai0eee"), &seeding()).unwrap();
        peer.control.clear();
        peer.tell_metadata(&request).unwrap();
        assert!(peer.control.is_empty());
    }

    #[test]
    fn metadata_is_offered_with_its_size_where_it_is_exchanged() {
        let view = View { lengths: lengths(), have: &Have::None };
        let greeting = |size| {
            let mut peer = peer(true);
            let ids = Ids { ut_metadata: Some(metadata::ID), ..<_>::default() };
            peer.greet(&view, Some(ids), 1, true, size);
            String::from_utf8_lossy(&peer.control).into_owned()
        };
        assert!(greeting(77).contains("13:metadata_sizei77e"));
        assert!(greeting(0).contains("11:ut_metadatai2e") && !greeting(0).contains("metadata_size"));
    }

    #[test]
    fn an_idle_peer_is_small() {
        assert!(size_of::<Peer>() <= 336, "{}", size_of::<Peer>());
    }
}

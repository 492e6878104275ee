//! What a peer is told: control messages, which wait beside the blocks that it is owed and go before them.
//!
//! Read first: BEP 3, BEP 6 (what is refused is said), BEP 10 (the handshake of extensions), BEP 21 (`upload_only`), BEP 54.
//! They are encoded when they are thought of; what nobody needs soon waits for the next that is said. Who reads none of
//! them is left before they cost much.

use super::extension::{self, Ids};
use super::wire::{self, Message};
use super::{Close, Peer, View, metadata, outbox};
use crate::have::Have;
use crate::net::Host;
use crate::piece::Block;

/// Control messages that may wait for a peer that reads nothing. Rejects are what grows it: 17 bytes a request.
pub(super) const MAX_CONTROL: usize = 64 * 1024;

/// Control messages of any kind that may wait for one: our bitfield of a large torrent and the `have`s of a superseed's end
/// are among them.
pub(super) const MAX_UNREAD: usize = 256 * 1024;

/// Bytes of control messages that wait for a peer to be woken for something else.
pub(super) const MAX_LATER: usize = 1024;

impl Peer {
    /// What follows the handshake: our pieces first (BEP 6 wants them first), then the extension handshake, if it knows
    /// those, with the ids that it `may_send`. `fetching`: we want some of its pieces ourselves; otherwise it hears that we
    /// only give (BEP 21). `metadata`: its size, 0 while we have none or it is not exchanged.
    pub fn greet(
        &mut self,
        view: &View<'_>,
        may_send: Option<Ids>,
        listen_port: u16,
        fetching: bool,
        metadata: u32,
    ) {
        let count = view.lengths.piece_count();
        match view.have {
            Have::All if self.fast => wire::encode(&Message::HaveAll, &mut self.control),
            Have::None if self.fast => wire::encode(&Message::HaveNone, &mut self.control),
            Have::None => {}
            have => wire::encode(&Message::Bitfield(&have.encode_bitfield(count)), &mut self.control),
        }
        if let Some(ids) = may_send {
            let handshake = extension::Handshake {
                metadata_size: Some(metadata).filter(|&size| size > 0),
                port: Some(listen_port).filter(|&port| self.outgoing && port != 0),
                client: Some(concat!("meshseed ", env!("CARGO_PKG_VERSION")).into()),
                your_ip: Some(self.addr.host()),
                reqq: u32::try_from(outbox::MAX_REQUESTS).ok(),
                upload_only: !fetching,
                ids,
                ..extension::Handshake::default()
            };
            self.introduce(&handshake);
        }
    }

    /// Sends it the message of an extension, when it is awake.
    pub fn send_extended(&mut self, id: u8, payload: &[u8]) {
        wire::encode(&Message::Extended { id, payload }, &mut self.control);
    }

    fn introduce(&mut self, handshake: &extension::Handshake<'_>) {
        let mut payload = Vec::new();
        handshake.encode(&mut payload);
        self.send_extended(extension::HANDSHAKE, &payload);
    }

    /// Tells one that speaks of metadata that we have it now.
    pub fn offer_metadata(&mut self, size: u32) {
        if self.ids.ut_metadata.is_some_and(|id| id > 0) {
            let ids = Ids { ut_metadata: Some(metadata::ID), ..<_>::default() };
            self.introduce(&extension::Handshake { ids, metadata_size: Some(size), ..<_>::default() });
            self.wake();
        }
    }

    /// Sends a message about metadata, if it takes such.
    pub fn tell_metadata(&mut self, message: &metadata::Message<'_>) -> Result<(), Close> {
        if let Some(id) = self.ids.ut_metadata.filter(|&id| id > 0) {
            let mut payload = Vec::new();
            message.encode(&mut payload);
            self.send_extended(id, &payload);
            self.wake();
        }
        self.part_if_flooded()
    }

    /// Tells it whether we are interested in what it has.
    pub fn set_interesting(&mut self, interesting: bool) {
        if interesting != self.interesting {
            self.interesting = interesting;
            let message = if interesting { Message::Interested } else { Message::NotInterested };
            wire::encode(&message, &mut self.control);
            self.wake();
        }
    }

    pub(super) fn reject(&mut self, block: Block) -> Result<(), Close> {
        wire::encode(&reject(block), &mut self.control);
        self.part_if_flooded()
    }

    pub(super) fn part_if_flooded(&self) -> Result<(), Close> {
        if self.control.len() > MAX_CONTROL {
            return Err(Close::Protocol("floods us with requests and reads no answer"));
        }
        Ok(())
    }

    /// Chokes or unchokes it. Choking drops what it asked for, and says so where both sides can (BEP 6).
    pub fn choke(&mut self, choke: bool, now: u32) {
        if choke == self.choked {
            return;
        }
        self.choked = choke;
        if choke {
            wire::encode(&Message::Choke, &mut self.control);
            self.drop_requests(&|_| false);
        } else {
            wire::encode(&Message::Unchoke, &mut self.control);
        }
        self.turn = now;
        self.wake();
    }

    /// Tells it of a piece that we have from now on. It has been greeted: what we had then it knows, though its own
    /// handshake may have no end yet.
    pub fn announce_piece(&mut self, piece: u32) {
        if self.closing.is_none() {
            wire::encode(&Message::Have(piece), &mut self.control);
            self.wake();
        }
        self.part_if_it_reads_nothing();
    }

    /// The same of a piece that we have fetched. One that has it itself has no use for it now: it is told with what is sent
    /// to it next. To be woken for each piece costs more than all else that is sent to a seed.
    pub fn announce_fetched(&mut self, piece: u32) {
        if self.pieces.contains(piece) && !self.is_behind() && self.closing.is_none() {
            let may_wait = !self.speaks();
            wire::encode(&Message::Have(piece), &mut self.control);
            if may_wait {
                self.may_wait = self.control.len();
            }
        } else {
            self.announce_piece(piece);
        }
    }

    /// Tells it of pieces that we have no more (BEP 54): it is not given what it asked for of them. `false`: it can not be
    /// told, or half of such a block is sent.
    pub fn announce_lost(&mut self, pieces: &[u32]) -> bool {
        let Some(id) = self.ids.lt_donthave.filter(|&id| id != 0) else { return false };
        let is_lost = |block: Block| pieces.contains(&block.piece.index());
        if self.outbox.begun().is_some_and(is_lost) {
            return false;
        }
        for piece in pieces {
            wire::encode(&Message::Extended { id, payload: &piece.to_be_bytes() }, &mut self.control);
        }
        self.drop_requests(&|block| !is_lost(block));
        self.wake();
        true
    }

    /// Drops what it asked for and is not to be kept, and says so where both sides can (BEP 6).
    fn drop_requests(&mut self, keep: &dyn Fn(Block) -> bool) {
        let (fast, control) = (self.fast, &mut self.control);
        self.outbox.retain(keep, |block| {
            if fast {
                wire::encode(&reject(block), control);
            }
        });
    }

    /// Whether it lets messages pile up: what can wait waits until it has read some.
    pub fn is_behind(&self) -> bool {
        self.control.len() >= MAX_LATER
    }

    /// Whether it is to be told anything that does not wait.
    pub fn speaks(&self) -> bool {
        self.control.len() > self.may_wait
    }

    /// So many bytes of control messages were sent.
    pub fn control_sent(&mut self, bytes: usize) {
        self.may_wait = 0;
        self.control.drain(..bytes.min(self.control.len()));
        if self.control.is_empty() {
            self.control = Vec::new();
        }
    }

    /// Nothing was said for long: whatever it is, it is said now.
    pub fn keep_alive(&mut self) {
        self.may_wait = 0;
        if self.control.is_empty() {
            wire::encode(&Message::KeepAlive, &mut self.control);
        }
        self.wake();
    }

    /// Ends the connection to one that lets our messages pile up, though it may say enough itself not to be silent.
    pub fn part_if_it_reads_nothing(&mut self) {
        if self.control.len() > MAX_UNREAD {
            self.close(Close::Protocol("reads nothing"));
        }
    }
}

fn reject(block: Block) -> Message<'static> {
    Message::Reject { piece: block.piece.index(), begin: block.begin, len: block.len }
}

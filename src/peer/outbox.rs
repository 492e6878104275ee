//! What a peer asked for and has not been given yet: references to blocks, never their bytes.
//!
//! Read first: BEP 3 ("request", "piece", "cancel"), BEP 6 (what is refused instead). A block waits here as 12 bytes; its
//! bytes are read when the socket takes them. A short write leaves the offset inside the head message, so nothing is
//! read or sent twice.

use std::collections::VecDeque;

use crate::list::{self, Keep};
use crate::piece::{Block, MAX_BLOCK};

/// Requests a peer may have waiting, told to it as `reqq` (BEP 10). Libtorrent asks for up to 500; 12 bytes each.
pub const MAX_REQUESTS: usize = 500;

/// Bytes before a block's data on the wire: length, message id, piece and begin.
pub const HEADER: u32 = 13;

/// The queue of one peer.
#[derive(Default)]
pub struct Outbox {
    blocks: VecDeque<Block>,
    /// Bytes of the first block's message (header and data) that are already sent.
    head: u32,
}

/// A stretch of one `piece` message to be sent now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// The block of the message.
    pub block: Block,
    /// First byte of the message to send: below [`HEADER`] it begins in the header.
    pub from: u32,
    /// One past the last byte of the message to send.
    pub to: u32,
}

impl Part {
    /// Bytes of header in this part.
    pub fn header_len(self) -> u32 {
        self.to.min(HEADER).saturating_sub(self.from)
    }

    /// The bytes of the block in this part: first, from the block's begin, and count.
    pub fn data(self) -> (u32, u32) {
        let from = self.from.max(HEADER) - HEADER;
        (from, self.to.max(HEADER) - HEADER - from)
    }

    /// The whole header; a part may need only its end.
    pub fn header(self) -> [u8; HEADER as usize] {
        let mut header = [0; HEADER as usize];
        header[..4].copy_from_slice(&(self.block.len + HEADER - 4).to_be_bytes());
        header[4] = 7;
        header[5..9].copy_from_slice(&self.block.piece.index().to_be_bytes());
        header[9..].copy_from_slice(&self.block.begin.to_be_bytes());
        header
    }
}

impl Outbox {
    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }

    /// Requests that wait.
    pub fn len(&self) -> usize {
        self.blocks.len()
    }

    /// Whether a message has been sent in part: nothing else may be sent before its rest.
    pub fn is_inside_message(&self) -> bool {
        self.head > 0
    }

    /// Adds a request; `false` when the peer has too many waiting.
    pub fn push(&mut self, block: Block) -> bool {
        if self.blocks.len() >= MAX_REQUESTS {
            return false;
        }
        self.blocks.push_back(block);
        true
    }

    /// Takes a request back; `false` if it is not there or is being sent already.
    pub fn cancel(&mut self, block: Block) -> bool {
        let first = usize::from(self.head > 0);
        let Some(at) = self.blocks.iter().skip(first).position(|&waiting| waiting == block) else {
            return false;
        };
        list::take(&mut self.blocks, first + at).is_some()
    }

    /// The block of which a part is sent.
    pub fn begun(&self) -> Option<Block> {
        self.blocks.front().copied().filter(|_| self.head > 0)
    }

    /// Drops what is not to be kept, but for a message that is partly sent, handing each block that goes to `dropped`.
    pub fn retain(&mut self, keep: impl Fn(Block) -> bool, mut dropped: impl FnMut(Block)) {
        let mut begun = self.begun();
        self.blocks.keep(|&block| {
            let stays = begun.take().is_some() || keep(block);
            if !stays {
                dropped(block);
            }
            stays
        });
        if self.blocks.is_empty() {
            self.blocks = VecDeque::new();
        }
    }

    /// What to send within `budget` bytes, in order, into `parts` (emptied first). Headers count.
    pub fn plan(&self, mut budget: u32, parts: &mut Vec<Part>) {
        parts.clear();
        let mut from = self.head;
        for &block in &self.blocks {
            if budget == 0 || parts.len() == parts.capacity() {
                break;
            }
            let to = (HEADER + block.len).min(from.saturating_add(budget));
            parts.push(Part { block, from, to });
            budget -= to - from;
            from = 0;
        }
    }

    /// Notes that `bytes` of what was planned have been sent; returns how many of them were content.
    pub fn sent(&mut self, mut bytes: u32) -> u32 {
        let mut content = 0;
        while bytes > 0
            && let Some(&block) = self.blocks.front()
        {
            let took = bytes.min(HEADER + block.len - self.head);
            content += Part { block, from: self.head, to: self.head + took }.data().1;
            self.head += took;
            bytes -= took;
            if self.head == HEADER + block.len {
                self.blocks.pop_front();
                self.head = 0;
            }
        }
        if self.blocks.is_empty() && self.blocks.capacity() > 16 {
            // An idle peer keeps no queue: a thousand of them are a megabyte.
            self.blocks = VecDeque::new();
        }
        content
    }

    /// The stretch of the torrent, from block to block without a gap, that is to be read next: at most `limit` bytes,
    /// but one block at least.
    pub fn next_stretch(&self, offset_of: impl Fn(Block) -> u64, limit: u64) -> Option<(u64, u64)> {
        let mut blocks = self.blocks.iter();
        let &first = blocks.next()?;
        let start = offset_of(first);
        let mut end = start + u64::from(first.len);
        for &block in blocks {
            if offset_of(block) != end || end - start + u64::from(block.len) > limit {
                break;
            }
            end += u64::from(block.len);
        }
        Some((start, end - start))
    }
}

const _: () = assert!(size_of::<Block>() == 12 && MAX_BLOCK < u32::MAX - HEADER);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::piece::Lengths;
    use std::num::NonZeroU32;

    fn block(begin: u32, len: u32) -> Block {
        Lengths::new(1 << 20, NonZeroU32::new(1 << 18).unwrap()).unwrap().block(1, begin, len).unwrap()
    }

    fn planned(outbox: &Outbox, budget: u32) -> Vec<(u32, u32)> {
        let mut parts = Vec::with_capacity(8);
        outbox.plan(budget, &mut parts);
        parts.iter().map(|part| (part.from, part.to)).collect()
    }

    #[test]
    fn a_short_write_goes_on_inside_the_head_message() {
        let mut outbox = Outbox::default();
        outbox.push(block(0, 100));
        outbox.push(block(100, 50));
        assert_eq!(planned(&outbox, 1000), [(0, 113), (0, 63)]);
        assert_eq!(outbox.sent(20), 7);
        assert!(outbox.is_inside_message());
        assert_eq!(planned(&outbox, 100), [(20, 113), (0, 7)]);
        assert_eq!(outbox.sent(100), 93);
        assert_eq!(outbox.sent(56), 50);
        assert!(outbox.is_empty());
    }

    #[test]
    fn a_part_that_begins_in_the_header_has_its_end_of_it() {
        let part = Part { block: block(0, 100), from: 10, to: 20 };
        assert_eq!((part.header_len(), part.data()), (3, (0, 7)));
        let part = Part { block: block(0, 100), from: 20, to: 30 };
        assert_eq!((part.header_len(), part.data()), (0, (7, 10)));
        let part = Part { block: block(0, 100), from: 2, to: 5 };
        assert_eq!((part.header_len(), part.data()), (3, (0, 0)));
        assert_eq!(part.header(), [0, 0, 0, 109, 7, 0, 0, 0, 1, 0, 0, 0, 0]);
    }

    #[test]
    fn a_block_being_sent_can_neither_be_cancelled_nor_dropped() {
        let mut outbox = Outbox::default();
        outbox.push(block(0, 100));
        outbox.push(block(100, 50));
        outbox.sent(1);
        assert!(!outbox.cancel(block(0, 100)));
        let mut dropped = Vec::new();
        outbox.retain(|_| false, |block| dropped.push(block));
        assert_eq!(dropped, [block(100, 50)]);
        assert_eq!(outbox.len(), 1);
    }

    #[test]
    fn what_is_kept_stays_in_its_order() {
        let mut outbox = Outbox::default();
        assert!([0, 100, 200].into_iter().all(|begin| outbox.push(block(begin, 100))));
        let mut dropped = Vec::new();
        outbox.retain(|block| block.begin != 100, |block| dropped.push(block));
        assert_eq!((outbox.len(), dropped), (2, vec![block(100, 100)]));
        assert_eq!(outbox.begun(), None);
        outbox.sent(1);
        assert_eq!(outbox.begun(), Some(block(0, 100)));
        outbox.sent(HEADER + 100);
        assert_eq!(outbox.begun(), Some(block(200, 100)));
    }

    #[test]
    fn the_number_of_requests_is_bounded() {
        let mut outbox = Outbox::default();
        assert!((0..MAX_REQUESTS).all(|_| outbox.push(block(0, 1))));
        assert!(!outbox.push(block(0, 1)));
    }

    #[test]
    fn contiguous_requests_are_one_stretch() {
        let lengths = Lengths::new(1 << 20, NonZeroU32::new(1 << 18).unwrap()).unwrap();
        let mut outbox = Outbox::default();
        for begin in [0, 16_384, 32_768, 65_536] {
            outbox.push(block(begin, 16_384));
        }
        let offset = |block| lengths.block_offset(block);
        assert_eq!(outbox.next_stretch(offset, 131_072), Some((1 << 18, 49_152)));
        assert_eq!(outbox.next_stretch(offset, 20_000), Some((1 << 18, 16_384)));
    }
}

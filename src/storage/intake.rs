//! Where received blocks wait for the storage thread: in the very buffers that sockets were read into.
//!
//! Read first: BEP 3 ("piece"). Each read goes behind the last byte that was kept of the reads before, so what nobody
//! keeps costs no room, and what is kept is not copied. Omitted: what is worth keeping (see `torrent::picker`).
//! Holds at most `limit` buffers of [`BUFFER`] bytes, none while nothing is fetched, and 20 bytes a fragment.

use crate::peer::outbox::HEADER;
use crate::piece::BLOCK;

/// Bytes of a buffer: one write of the storage thread, small enough for a router's cache; eight blocks as they come.
pub const BUFFER: usize = 8 * LEAST;

/// A block of the usual size on the wire.
const MESSAGE: usize = (BLOCK + HEADER) as usize;

/// A read has room for this much at least: a block of the usual size, its header, and some of what comes next.
pub const LEAST: usize = BLOCK as usize + 64;

/// Fragments after which a buffer counts as full: pieces of a few bytes, or peers that send a few at a time.
const FRAGMENTS: usize = 512;

/// A fragment of a block, as it lies in its buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Write {
    /// Key of its torrent.
    pub key: u32,
    /// The piece.
    pub piece: u32,
    /// First byte, from the start of the piece.
    pub begin: u32,
    /// First byte, from the start of the buffer.
    pub at: u32,
    /// Bytes.
    pub len: u32,
}

/// A buffer with all that is to be written of it, in the order in which it came.
#[derive(Debug, PartialEq, Eq)]
pub struct Filled {
    /// The buffer; it goes back by [`Intake::give_back`].
    pub bytes: Box<[u8]>,
    /// The parts of it that were kept.
    pub writes: Vec<Write>,
}

/// The buffers. One is being filled; the others are with the storage thread, or empty.
#[derive(Debug)]
pub struct Intake {
    limit: usize,
    /// Buffers that exist, wherever they are.
    made: usize,
    empty: Vec<Box<[u8]>>,
    /// The one that is being filled.
    filling: Option<Box<[u8]>>,
    /// Where in it the next read goes.
    used: usize,
    writes: Vec<Write>,
    /// Buffers that come back are let go.
    resting: bool,
}

/// Remembers which parts of a read are kept.
#[derive(Debug)]
pub struct Keeper<'a> {
    start: usize,
    end: usize,
    used: &'a mut usize,
    writes: &'a mut Vec<Write>,
}

impl Intake {
    /// No buffer yet, and never more than `limit`.
    pub fn new(limit: usize) -> Intake {
        Intake {
            limit: limit.max(1),
            made: 0,
            empty: Vec::new(),
            filling: None,
            used: 0,
            writes: Vec::new(),
            resting: false,
        }
    }

    /// A place of at least [`LEAST`] bytes for the next read, and what remembers the parts of it that are kept. `None`
    /// where the buffer is full and was not taken, or all are with the storage thread.
    pub fn begin(&mut self) -> Option<(&mut [u8], Keeper<'_>)> {
        self.resting = false;
        if self.is_full() {
            return None;
        }
        if self.filling.is_none() {
            self.filling = self.empty.pop();
            if self.filling.is_none() && self.made < self.limit {
                self.made += 1;
                self.filling = Some(vec![0; BUFFER].into());
            }
        }
        let Intake { filling, used, writes, .. } = self;
        let (start, bytes) = (*used, filling.as_mut()?);
        let end = bytes.len();
        Some((&mut bytes[start..], Keeper { start, end, used, writes }))
    }

    /// Whether the buffer must be taken before anything more is read.
    pub fn is_full(&self) -> bool {
        self.filling.as_ref().is_some_and(|bytes| bytes.len() - self.used < LEAST)
            || self.writes.len() >= FRAGMENTS
    }

    /// Bytes kept and not yet taken.
    pub fn pending(&self) -> usize {
        self.writes.iter().map(|write| write.len as usize).sum()
    }

    /// All that was kept since the last time.
    pub fn take(&mut self) -> Option<Filled> {
        if self.writes.is_empty() {
            return None;
        }
        let bytes = self.filling.take()?;
        self.used = 0;
        Some(Filled { bytes, writes: std::mem::take(&mut self.writes) })
    }

    /// The storage thread is done with a buffer.
    pub fn give_back(&mut self, bytes: Box<[u8]>) {
        if self.resting {
            self.made = self.made.saturating_sub(1);
        } else {
            self.empty.push(bytes);
        }
    }

    /// Nothing is fetched any more: all memory is let go, with what was kept and not taken.
    pub fn rest(&mut self) {
        let here = self.empty.len() + usize::from(self.filling.is_some());
        *self = Intake { made: self.made.saturating_sub(here), resting: true, ..Intake::new(self.limit) };
    }
}

/// How much of `space` bytes to read when a block lacks `rest` bytes: up to the end of a block, if its sender sends one
/// after the other. A block that comes in two batches is written in two, and read back to be hashed.
pub fn whole_blocks(space: usize, rest: usize) -> usize {
    match space.checked_sub(rest) {
        Some(behind) => rest + behind / MESSAGE * MESSAGE,
        None => space,
    }
}

impl Keeper<'_> {
    /// Keeps `len` bytes that stand `at` bytes behind the start of the place; what is kept of one read is told in the
    /// order in which it stands there. A fragment that goes on where the one before ended is one with it.
    pub fn keep(&mut self, key: u32, piece: u32, begin: u32, at: usize, len: usize) {
        let from = self.start.saturating_add(at).min(self.end);
        let to = from.saturating_add(len).min(self.end);
        let (Ok(at), Ok(len)) = (u32::try_from(from), u32::try_from(to - from)) else { return };
        if len == 0 {
            return;
        }
        *self.used = to.max(*self.used);
        if let Some(last) = self.writes.last_mut()
            && (last.key, last.piece, last.at + last.len) == (key, piece, at)
            && last.begin.checked_add(last.len) == Some(begin)
        {
            last.len += len;
            return;
        }
        self.writes.push(Write { key, piece, begin, at, len });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A read of those bytes of which the parts at those places are kept, as one piece from `begin` on.
    fn read(intake: &mut Intake, bytes: &[u8], parts: &[(u32, usize, usize)]) {
        let (place, mut keeper) = intake.begin().unwrap();
        assert!(place.len() >= LEAST);
        place[..bytes.len()].copy_from_slice(bytes);
        parts.iter().for_each(|&(begin, at, len)| keeper.keep(1, 7, begin, at, len));
    }

    /// What was kept: where in the piece, which bytes.
    fn kept(filled: &Filled) -> Vec<(u32, &[u8])> {
        let part = |write: &Write| &filled.bytes[write.at as usize..(write.at + write.len) as usize];
        filled.writes.iter().map(|write| (write.begin, part(write))).collect()
    }

    #[test]
    fn what_is_kept_stays_where_it_was_read() {
        let mut intake = Intake::new(2);
        read(&mut intake, b"head0123head4567junk", &[(0, 4, 4), (8, 12, 4)]);
        read(&mut intake, b"89", &[(12, 0, 2)]);
        assert_eq!(intake.pending(), 10);
        let filled = intake.take().unwrap();
        // The junk behind the last fragment was read over, so the third goes on where the second ended.
        assert_eq!(kept(&filled), [(0, &b"0123"[..]), (8, b"456789")]);
        assert_eq!((intake.pending(), intake.take()), (0, None));
    }

    #[test]
    fn fragments_of_two_torrents_or_pieces_or_places_are_not_one() {
        let mut intake = Intake::new(1);
        let (_, mut keeper) = intake.begin().unwrap();
        keeper.keep(1, 7, 0, 0, 4);
        keeper.keep(2, 7, 4, 4, 4);
        keeper.keep(2, 8, 8, 8, 4);
        keeper.keep(2, 8, 12, 13, 4);
        keeper.keep(2, 8, 20, 17, 4);
        keeper.keep(2, 8, 24, 21, 0);
        assert_eq!(intake.take().unwrap().writes.len(), 5);
    }

    #[test]
    fn reads_that_keep_nothing_use_up_nothing() {
        let mut intake = Intake::new(1);
        read(&mut intake, b"head0123", &[(0, 4, 4)]);
        for _ in 0..1000 {
            read(&mut intake, &[9; LEAST], &[]);
        }
        assert_eq!(intake.begin().unwrap().0.len(), BUFFER - 8);
        assert_eq!(kept(&intake.take().unwrap()), [(0, &b"0123"[..])]);
        assert!(intake.begin().is_none() && intake.take().is_none());
    }

    #[test]
    fn a_full_buffer_is_taken_before_the_next_is_begun_and_there_are_never_more_than_the_limit() {
        let mut intake = Intake::new(2);
        let fill = |intake: &mut Intake| {
            let mut begin = 0;
            while let Some((place, mut keeper)) = intake.begin() {
                let len = place.len().min(LEAST);
                keeper.keep(1, 7, begin, 0, len);
                begin += u32::try_from(len).unwrap();
            }
            assert!(intake.is_full() && BUFFER - intake.pending() < LEAST);
            intake.take().unwrap()
        };
        let first = fill(&mut intake);
        assert!(!intake.is_full());
        let second = fill(&mut intake);
        assert!(intake.begin().is_none() && !intake.is_full(), "both are with the storage thread");
        intake.give_back(second.bytes);
        intake.give_back(first.bytes);
        fill(&mut intake);
        fill(&mut intake);
        assert!(intake.begin().is_none());
    }

    #[test]
    fn pieces_of_a_few_bytes_fill_a_buffer_by_their_number() {
        let mut intake = Intake::new(1);
        let mut piece = 0;
        while let Some((_, mut keeper)) = intake.begin() {
            keeper.keep(1, piece, 0, 0, 3);
            piece += 1;
        }
        assert_eq!((intake.is_full(), intake.take().unwrap().writes.len()), (true, FRAGMENTS));
    }

    #[test]
    fn when_nothing_is_fetched_no_memory_is_held() {
        let mut intake = Intake::new(3);
        read(&mut intake, b"first", &[(0, 0, 5)]);
        let first = intake.take().unwrap();
        read(&mut intake, b"second", &[(0, 0, 6)]);
        let second = intake.take().unwrap();
        read(&mut intake, b"third", &[(0, 0, 5)]);
        intake.give_back(second.bytes);
        intake.rest();
        assert_eq!((intake.made, intake.pending()), (1, 0), "one is with the storage thread");
        intake.give_back(first.bytes);
        assert!(intake.made == 0 && intake.empty.is_empty() && intake.writes.capacity() == 0);
        read(&mut intake, b"again", &[(0, 0, 5)]);
        assert_eq!(kept(&intake.take().unwrap()), [(0, &b"again"[..])]);
    }

    #[test]
    fn a_read_ends_where_a_block_does() {
        assert_eq!(whole_blocks(BUFFER, 0), 8 * MESSAGE);
        assert_eq!(whole_blocks(BUFFER - 300, 300), 300 + 7 * MESSAGE);
        assert_eq!(whole_blocks(LEAST, 0), MESSAGE);
        assert_eq!((whole_blocks(LEAST, LEAST), whole_blocks(LEAST, 1 << 17)), (LEAST, LEAST));
    }

    #[test]
    fn a_fragment_said_to_reach_beyond_its_place_is_cut() {
        let mut intake = Intake::new(1);
        let (place, mut keeper) = intake.begin().unwrap();
        let end = place.len();
        keeper.keep(1, 0, 0, end - 2, 10);
        keeper.keep(1, 0, 0, usize::MAX, usize::MAX);
        assert_eq!(intake.pending(), 2);
        assert_eq!(intake.take().unwrap().writes.len(), 1);
    }
}

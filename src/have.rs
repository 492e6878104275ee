//! Which pieces of a torrent somebody has.
//!
//! Read first: BEP 3 ("bitfield"), BEP 6 (have all, have none). Most torrents of a seeder are whole and most unfinished
//! ones are empty, so those two say it without memory; only what lies between holds one bit a piece. The number
//! of pieces is not kept: whoever asks has the torrent's lengths at hand.

/// A set of pieces. `Some` is neither empty nor whole: each change that makes it so turns it into the other two.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Have {
    /// Every piece.
    All,
    /// No piece.
    #[default]
    None,
    /// At least one piece, not all.
    Some(Bits),
}

/// One bit a piece, as on the wire: the high bit of the first byte is piece 0, spare bits at the end are zero.
/// Made by [`Have`] alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bits(Box<[u8]>);

/// Bytes of a bitfield for that many pieces.
pub const fn bitfield_len(pieces: u32) -> usize {
    pieces.div_ceil(8) as usize
}

impl Have {
    /// The set of the pieces below `pieces` for which `has` holds.
    pub fn from_fn(pieces: u32, mut has: impl FnMut(u32) -> bool) -> Have {
        let mut bytes = vec![0; bitfield_len(pieces)];
        for piece in (0..pieces).filter(|&piece| has(piece)) {
            let (at, mask) = place(piece);
            bytes[at] |= mask;
        }
        let mut have = Have::Some(Bits(bytes.into()));
        have.settle(pieces);
        have
    }

    /// Whether that piece is there. Of a piece that does not exist nothing sensible is said.
    pub fn contains(&self, piece: u32) -> bool {
        match self {
            Have::All => true,
            Have::None => false,
            Have::Some(bits) => {
                let (at, mask) = place(piece);
                bits.0.get(at).is_some_and(|byte| byte & mask != 0)
            }
        }
    }

    /// Adds a piece; `true` if it was not there. A piece that does not exist is not added.
    pub fn insert(&mut self, piece: u32, pieces: u32) -> bool {
        if piece >= pieces || self.contains(piece) {
            return false;
        }
        let (at, mask) = place(piece);
        match self {
            Have::All => return false,
            Have::None => {
                let mut bytes = vec![0; bitfield_len(pieces)];
                bytes[at] |= mask;
                *self = Have::Some(Bits(bytes.into()));
            }
            Have::Some(bits) => {
                let Some(byte) = bits.0.get_mut(at) else { return false };
                *byte |= mask;
            }
        }
        self.settle(pieces);
        true
    }

    /// Takes a piece out; `true` if it was there.
    pub fn remove(&mut self, piece: u32, pieces: u32) -> bool {
        if piece >= pieces || !self.contains(piece) {
            return false;
        }
        if let Have::All = self {
            *self = Have::Some(Bits(full(pieces)));
        }
        if let Have::Some(bits) = self {
            let (at, mask) = place(piece);
            bits.0[at] &= !mask;
        }
        self.settle(pieces);
        true
    }

    /// Adds all that `other` has.
    pub fn union(&mut self, other: &Have, pieces: u32) {
        match (&mut *self, other) {
            (Have::All, _) | (_, Have::None) => {}
            (_, Have::All) => *self = Have::All,
            (Have::None, _) => *self = other.clone(),
            (Have::Some(ours), Have::Some(theirs)) => {
                for (ours, theirs) in ours.0.iter_mut().zip(&theirs.0) {
                    *ours |= theirs;
                }
                self.settle(pieces);
            }
        }
    }

    /// Eight pieces at once: that byte of the bitfield. Of pieces that do not exist nothing sensible is said.
    pub fn byte(&self, at: usize) -> u8 {
        match self {
            Have::All => 0xff,
            Have::None => 0,
            Have::Some(bits) => bits.0.get(at).copied().unwrap_or(0),
        }
    }

    /// How many pieces are there.
    pub fn count(&self, pieces: u32) -> u32 {
        match self {
            Have::All => pieces,
            Have::None => 0,
            Have::Some(bits) => ones(&bits.0),
        }
    }

    /// Bytes it takes beside itself.
    pub fn memory(&self) -> usize {
        match self {
            Have::All | Have::None => 0,
            Have::Some(bits) => bits.0.len(),
        }
    }

    /// Whether every piece is there.
    pub fn is_all(&self) -> bool {
        matches!(self, Have::All)
    }

    /// Whether no piece is there.
    pub fn is_none(&self) -> bool {
        matches!(self, Have::None)
    }

    /// The pieces that are not there, in order.
    pub fn missing(&self, pieces: u32) -> impl Iterator<Item = u32> + '_ {
        let end = if self.is_all() { 0 } else { pieces };
        (0..end).filter(|&piece| !self.contains(piece))
    }

    /// The body of a `bitfield` message, and how a resume record keeps the set.
    pub fn encode_bitfield(&self, pieces: u32) -> Vec<u8> {
        match self {
            Have::All => full(pieces).into(),
            Have::None => vec![0; bitfield_len(pieces)],
            Have::Some(bits) => bits.0.to_vec(),
        }
    }

    /// `None` where the length is not exactly that of `pieces`, or a spare bit is set (BEP 3: drop the connection).
    pub fn decode_bitfield(bytes: &[u8], pieces: u32) -> Option<Have> {
        if bytes.len() != bitfield_len(pieces) || bytes.last().is_some_and(|last| last & spare(pieces) != 0) {
            return None;
        }
        // Seen before anything is allocated: of the peers that connect to a seeder many are seeds themselves.
        Some(match ones(bytes) {
            set if set == pieces => Have::All,
            0 => Have::None,
            _ => Have::Some(Bits(bytes.into())),
        })
    }

    fn settle(&mut self, pieces: u32) {
        if let Have::Some(bits) = self {
            // Whether it is filled from the front or from the back, one look at an end nearly always tells.
            let is_full = bits.0.last().is_none_or(|last| *last == !spare(pieces))
                && bits.0.iter().rev().skip(1).rev().all(|byte| *byte == 0xff);
            if is_full {
                *self = Have::All;
            } else if bits.0.iter().all(|byte| *byte == 0) {
                *self = Have::None;
            }
        }
    }
}

/// Where a piece's bit stands.
fn place(piece: u32) -> (usize, u8) {
    ((piece / 8) as usize, 0x80 >> (piece % 8))
}

/// The bits of the last byte that belong to no piece.
fn spare(pieces: u32) -> u8 {
    match pieces % 8 {
        0 => 0,
        used => 0xff >> used,
    }
}

fn ones(bytes: &[u8]) -> u32 {
    bytes.iter().map(|byte| byte.count_ones()).sum()
}

fn full(pieces: u32) -> Box<[u8]> {
    let mut bytes = vec![0xff; bitfield_len(pieces)];
    if let Some(last) = bytes.last_mut() {
        *last &= !spare(pieces);
    }
    bytes.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_small_and_the_usual_cases_have_no_memory() {
        assert!(size_of::<Have>() <= 24);
    }

    #[test]
    fn filling_a_torrent_ends_in_all_and_emptying_it_in_none() {
        for pieces in [1, 7, 8, 9, 64, 100] {
            let mut have = Have::None;
            for piece in 0..pieces {
                assert_eq!((have.count(pieces), have.contains(piece)), (piece, false));
                assert!(have.missing(pieces).eq(piece..pieces));
                assert!(have.insert(piece, pieces));
                assert!(!have.insert(piece, pieces));
            }
            assert_eq!(have, Have::All);
            for piece in 0..pieces {
                assert!(have.remove(piece, pieces));
                assert!(!have.remove(piece, pieces));
                assert!(!have.contains(piece));
            }
            assert_eq!(have, Have::None);
        }
    }

    #[test]
    fn a_bitfield_reads_back_as_what_it_was_written_from() {
        for pieces in [0, 1, 7, 8, 9, 15, 16, 17, 1000] {
            for step in [1, 2, 3, 5, u32::MAX] {
                let have = Have::from_fn(pieces, |piece| piece % step == step - 1);
                let bytes = have.encode_bitfield(pieces);
                // Of nothing, everything and nothing are the same bytes.
                let back = Have::decode_bitfield(&bytes, pieces).unwrap();
                assert_eq!(back.count(pieces), have.count(pieces), "{pieces} {step}");
                assert!((0..pieces).all(|piece| back.contains(piece) == have.contains(piece)));
                let byte_bits = |piece: u32| have.byte(piece as usize / 8) >> (7 - piece % 8) & 1 == 1;
                assert!((0..pieces).all(|piece| byte_bits(piece) == have.contains(piece)));
                assert!(pieces == 0 || back == have);
            }
        }
    }

    #[test]
    fn a_bitfield_of_another_length_or_with_spare_bits_is_refused() {
        assert_eq!(Have::decode_bitfield(&[0xff, 0xc0], 10), Some(Have::All));
        for bytes in [&[0xff][..], &[0xff, 0xc0, 0], &[], &[0xff, 0xe0], &[0, 1]] {
            assert_eq!(Have::decode_bitfield(bytes, 10), None, "{bytes:?}");
        }
    }

    #[test]
    fn the_first_piece_is_the_high_bit_of_the_first_byte() {
        let mut have = Have::None;
        have.insert(0, 20);
        have.insert(9, 20);
        assert_eq!(have.encode_bitfield(20), [0x80, 0x40, 0]);
        assert_eq!(Have::All.encode_bitfield(12), [0xff, 0xf0]);
    }

    #[test]
    fn pieces_that_do_not_exist_change_nothing() {
        let mut have = Have::from_fn(10, |piece| piece == 3);
        let before = have.clone();
        assert!(!have.insert(10, 10) && !have.insert(u32::MAX, 10) && !have.remove(u32::MAX, 10));
        assert!(!have.contains(u32::MAX));
        assert_eq!(have, before);
    }

    #[test]
    fn a_union_has_what_either_has() {
        let mut even = Have::from_fn(20, |piece| piece % 2 == 0);
        let odd = Have::from_fn(20, |piece| piece % 2 == 1);
        let mut few = Have::from_fn(20, |piece| piece < 2);
        few.union(&even, 20);
        assert_eq!((few.count(20), few.contains(1), few.contains(3)), (11, true, false));
        even.union(&odd, 20);
        assert_eq!(even, Have::All);
        let mut none = Have::None;
        none.union(&odd, 20);
        assert_eq!(none, odd);
        none.union(&Have::None, 20);
        assert_eq!(none, odd);
        none.union(&Have::All, 20);
        assert_eq!(none, Have::All);
    }
}

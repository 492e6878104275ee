//! Pieces and blocks as numbers: how a torrent's bytes are cut, and the only constructors of indices that fit it.
//!
//! Read first: BEP 3 ("piece length", "request"). Holds no memory; [`Lengths`] is sixteen bytes by value.

use std::num::NonZeroU32;

/// The largest block a peer may ask for or we ask for (BEP 3: implementations close above 16 KiB; old clients
/// use up to 128 KiB).
pub const MAX_BLOCK: u32 = 128 * 1024;

/// What is asked for at a time, as all clients do: some close the connection when it is more. The last block of a piece
/// may be shorter.
pub const BLOCK: u32 = 16 * 1024;

/// A torrent's total length and piece length: all that is needed to check an index or a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lengths {
    /// Bytes in all, padding files included.
    total: u64,
    /// Bytes of every piece but the last.
    piece: NonZeroU32,
}

/// The index of a piece that exists. Minted by [`Lengths::piece`] alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PieceIndex(u32);

/// A range of bytes inside one piece that exists. Minted by [`Lengths::block`] alone; 12 bytes, what an outbox holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    /// The piece.
    pub piece: PieceIndex,
    /// First byte, from the start of the piece.
    pub begin: u32,
    /// Bytes, 1 to [`MAX_BLOCK`].
    pub len: u32,
}

impl PieceIndex {
    /// The index as it stands on the wire.
    pub fn index(self) -> u32 {
        self.0
    }
}

impl Lengths {
    /// Of a torrent of which that is not known.
    pub const NOTHING: Lengths = Lengths { total: 0, piece: NonZeroU32::MIN };

    /// `None` where the number of pieces would not fit an index (BEP 3 has 32 bits).
    pub fn new(total: u64, piece: NonZeroU32) -> Option<Lengths> {
        u32::try_from(total.div_ceil(u64::from(piece.get()))).ok()?;
        Some(Lengths { total, piece })
    }

    /// Bytes in all.
    pub fn total(self) -> u64 {
        self.total
    }

    /// Bytes of every piece but the last.
    pub fn piece_length(self) -> u32 {
        self.piece.get()
    }

    /// Number of pieces.
    #[inline(never)]
    pub fn piece_count(self) -> u32 {
        u32::try_from(self.total.div_ceil(u64::from(self.piece.get()))).unwrap_or(u32::MAX)
    }

    /// The piece of that number, if there is one.
    pub fn piece(self, index: u32) -> Option<PieceIndex> {
        (index < self.piece_count()).then_some(PieceIndex(index))
    }

    /// First byte of a piece.
    pub fn offset(self, piece: PieceIndex) -> u64 {
        u64::from(piece.0) * u64::from(self.piece.get())
    }

    /// Bytes of a piece: the last one may be short.
    pub fn size(self, piece: PieceIndex) -> u32 {
        let rest = self.total - self.offset(piece);
        u32::try_from(rest).map_or(self.piece.get(), |rest| rest.min(self.piece.get()))
    }

    /// The block a peer names, if it lies inside one piece and is of a sane size.
    pub fn block(self, piece: u32, begin: u32, len: u32) -> Option<Block> {
        let piece = self.piece(piece)?;
        let end = begin.checked_add(len)?;
        (len > 0 && len <= MAX_BLOCK && end <= self.size(piece)).then_some(Block { piece, begin, len })
    }

    /// First byte of a block.
    pub fn block_offset(self, block: Block) -> u64 {
        self.offset(block.piece) + u64::from(block.begin)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lengths(total: u64, piece: u32) -> Lengths {
        Lengths::new(total, NonZeroU32::new(piece).unwrap()).unwrap()
    }

    #[test]
    fn the_last_piece_is_short_and_a_block_beyond_it_is_refused() {
        let l = lengths(100_000, 32_768);
        assert_eq!((l.piece_count(), l.size(l.piece(3).unwrap())), (4, 1696));
        assert!(l.block(3, 0, 1696).is_some());
        for (piece, begin, len) in [(3, 0, 1697), (4, 0, 1), (0, 0, 0), (0, u32::MAX, 2), (0, 32_768, 1)] {
            assert_eq!(l.block(piece, begin, len), None, "{piece} {begin} {len}");
        }
    }

    #[test]
    fn offsets_pass_four_gibibytes() {
        let l = lengths(6 << 30, 1 << 20);
        let block = l.block(5000, 16_384, 16_384).unwrap();
        assert_eq!(l.block_offset(block), (5000 << 20) + 16_384);
    }

    #[test]
    fn more_pieces_than_an_index_can_name_are_refused() {
        assert_eq!(Lengths::new(u64::MAX, NonZeroU32::new(1024).unwrap()), None);
    }
}

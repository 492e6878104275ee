//! Which pieces are taken, a bit each, and the way round all pieces that looks at eight at a time.

use crate::have::bitfield_len;

/// A set of pieces as a bitfield has it. Unlike [`crate::have::Have`] it does not care whether it is empty or full, so a
/// change costs nothing.
pub(super) struct Taken(Box<[u8]>);

impl Taken {
    pub(super) fn new(pieces: u32) -> Taken {
        Taken(vec![0; bitfield_len(pieces)].into())
    }

    pub(super) fn set(&mut self, piece: u32, taken: bool) {
        if let Some(byte) = self.0.get_mut(piece as usize / 8) {
            let mask = 0x80 >> (piece % 8);
            *byte = if taken { *byte | mask } else { *byte & !mask };
        }
    }

    pub(super) fn contains(&self, piece: u32) -> bool {
        self.byte(piece as usize / 8) & (0x80 >> (piece % 8)) != 0
    }

    pub(super) fn byte(&self, at: usize) -> u8 {
        self.0.get(at).copied().unwrap_or(0)
    }

    pub(super) fn memory(&self) -> usize {
        self.0.len()
    }
}

/// The pieces below `end` whose bit is set in what `byte` says: those from `start` on, then those before it, until `visit`
/// has seen enough and says `false`.
pub(super) fn round(start: u32, end: u32, byte: impl Fn(usize) -> u8, mut visit: impl FnMut(u32) -> bool) {
    if start >= end {
        return;
    }
    let mut look = |from: u32, to: u32| {
        let mut at = from / 8;
        let mut bits = byte(at as usize) & (0xff >> (from % 8));
        loop {
            while bits != 0 {
                let bit = bits.leading_zeros();
                bits &= !(0x80 >> bit);
                let piece = at * 8 + bit;
                if piece >= to {
                    return true;
                }
                if !visit(piece) {
                    return false;
                }
            }
            at += 1;
            if at * 8 >= to {
                return true;
            }
            bits = byte(at as usize);
        }
    };
    if look(start, end) && start > 0 {
        look(0, start);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_round_meets_every_piece_of_the_set_once_and_begins_at_the_start() {
        for end in [1, 7, 8, 9, 16, 61] {
            let mut taken = Taken::new(end);
            (0..end).filter(|piece| piece % 3 != 1).for_each(|piece| taken.set(piece, true));
            for start in 0..end {
                let mut seen = Vec::new();
                round(
                    start,
                    end,
                    |at| taken.byte(at),
                    |piece| {
                        seen.push(piece);
                        true
                    },
                );
                let all = (start..end).chain(0..start).filter(|&piece| taken.contains(piece));
                assert_eq!(seen, all.collect::<Vec<_>>(), "{start} of {end}");
            }
        }
    }

    #[test]
    fn it_ends_before_pieces_that_do_not_exist_and_when_it_is_told_to() {
        let mut seen = Vec::new();
        round(
            3,
            10,
            |_| 0xff,
            |piece| {
                seen.push(piece);
                seen.len() < 9
            },
        );
        assert_eq!(seen, [3, 4, 5, 6, 7, 8, 9, 0, 1]);
        round(0, 0, |_| 0xff, |_| unreachable!());
    }
}

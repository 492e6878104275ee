//! How many peers have each piece, and how many of those on our own links.
//!
//! Only the sum counts, so a peer that has more than half is counted as one that has everything and lacks some: a seed
//! comes and goes without a look at the pieces. Holds three bytes a piece.

use crate::have::{Have, bitfield_len};

/// The counts of one torrent.
pub(super) struct Availability {
    /// To be added to every piece's count.
    base: i32,
    counts: Box<[i16]>,
    /// The same for local peers.
    local_base: i32,
    local: Box<[i8]>,
}

impl Availability {
    pub(super) fn new(pieces: u32) -> Availability {
        let len = pieces as usize;
        Availability { base: 0, counts: vec![0; len].into(), local_base: 0, local: vec![0; len].into() }
    }

    /// The pieces of a peer count from now on.
    pub(super) fn add(&mut self, has: &Have, local: bool) {
        self.count(has, local, 1);
    }

    /// They count no more.
    pub(super) fn remove(&mut self, has: &Have, local: bool) {
        self.count(has, local, -1);
    }

    /// A peer has one piece more.
    pub(super) fn gained(&mut self, piece: u32, local: bool) {
        self.bump(piece as usize, local, 1);
    }

    /// A peer has one piece less.
    pub(super) fn lost(&mut self, piece: u32, local: bool) {
        self.bump(piece as usize, local, -1);
    }

    /// How many peers have that piece.
    pub(super) fn of(&self, piece: u32) -> u32 {
        let count = self.counts.get(piece as usize).copied().unwrap_or(0);
        u32::try_from(self.base + i32::from(count)).unwrap_or(0)
    }

    /// Whether a peer on our own links has it.
    pub(super) fn is_local(&self, piece: u32) -> bool {
        let count = self.local.get(piece as usize).copied().unwrap_or(0);
        self.local_base + i32::from(count) > 0
    }

    pub(super) fn memory(&self) -> usize {
        size_of_val(&*self.counts) + size_of_val(&*self.local)
    }

    fn count(&mut self, has: &Have, local: bool, by: i8) {
        let pieces = u32::try_from(self.counts.len()).unwrap_or(u32::MAX);
        let most = has.count(pieces) > pieces / 2;
        let (flip, by) = if most { (0xff, -by) } else { (0, by) };
        if most {
            self.base = self.base.saturating_sub(by.into());
            self.local_base = self.local_base.saturating_sub(if local { by.into() } else { 0 });
        }
        if matches!((has, most), (Have::None, _) | (Have::All, true)) {
            return;
        }
        for at in 0..bitfield_len(pieces) {
            let mut bits = has.byte(at) ^ flip;
            while bits != 0 {
                let bit = bits.leading_zeros();
                bits &= !(0x80 >> bit);
                self.bump(at * 8 + bit as usize, local, by);
            }
        }
    }

    fn bump(&mut self, piece: usize, local: bool, by: i8) {
        if let Some(count) = self.counts.get_mut(piece) {
            *count = count.saturating_add(by.into());
        }
        // With more than a hundred of them on the link the count may be wrong by then, and only web seeds ask.
        if let Some(count) = self.local.get_mut(piece).filter(|_| local) {
            *count = count.saturating_add(by);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_those_of_the_peers_that_are_there_however_they_came_to_their_pieces() {
        const PIECES: u32 = 21;
        let mut counts = Availability::new(PIECES);
        let mut peers = vec![
            (Have::All, false),
            (Have::None, true),
            (Have::from_fn(PIECES, |piece| piece % 3 == 0), false),
            (Have::from_fn(PIECES, |piece| piece % 3 != 0), true),
        ];
        for (has, local) in &peers {
            counts.add(has, *local);
        }
        // One grows from nothing to everything, and a seed goes.
        for piece in 0..PIECES {
            counts.gained(piece, true);
            peers[1].0.insert(piece, PIECES);
        }
        assert_eq!(peers[1].0, Have::All);
        // Another loses some.
        for piece in [0, 3, 20] {
            counts.lost(piece, false);
            peers[0].0.remove(piece, PIECES);
        }
        while let Some((has, local)) = peers.pop() {
            counts.remove(&has, local);
            for piece in 0..PIECES {
                let having = peers.iter().filter(|(has, _)| has.contains(piece));
                let local = having.clone().any(|(_, local)| *local);
                assert_eq!((counts.of(piece) as usize, counts.is_local(piece)), (having.count(), local));
            }
        }
    }

    #[test]
    fn a_piece_that_does_not_exist_changes_nothing() {
        let mut counts = Availability::new(3);
        counts.gained(3, true);
        counts.gained(u32::MAX, true);
        assert_eq!((0..5).map(|piece| counts.of(piece)).sum::<u32>(), 0);
    }
}

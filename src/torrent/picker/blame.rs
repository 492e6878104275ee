//! Pieces that several peers sent and that were wrong: what was sent and by whom, until a right one tells who lied.
//!
//! Holds 12 bytes a block of such a piece, at most [`MAX_BLOCKS`] blocks of [`MAX_FAILURES`] attempts: a liar who is not
//! found by the oldest is found by the next.

use super::begun::NOBODY;
use crate::list::{self, Gather, Keep};
use crate::peer::PeerKey;

/// Attempts remembered: liars are few, and each spoils a few pieces before the first of them is fetched again.
const MAX_FAILURES: usize = 16;

/// Blocks remembered, 96 KiB: eight pieces of 16 MiB.
const MAX_BLOCKS: usize = 8192;

/// What is known of wrong pieces.
#[derive(Default)]
pub(super) struct Failures(Vec<Failure>);

/// An attempt.
struct Failure {
    piece: u32,
    /// The beginning of each block's SHA-1; empty where it could not be read back.
    digests: Box<[u64]>,
    /// Who sent each block.
    senders: Box<[PeerKey]>,
}

impl Failures {
    /// Whether an attempt at that piece is remembered.
    pub(super) fn contains(&self, piece: u32) -> bool {
        self.of(piece).next().is_some()
    }

    /// An attempt has failed, and more than one had sent blocks.
    pub(super) fn remember(&mut self, piece: u32, digests: &[u64], senders: Box<[PeerKey]>) {
        self.0.push(Failure { piece, digests: digests.into(), senders });
        while self.0.len() > 1 && (self.0.len() > MAX_FAILURES || self.blocks() > MAX_BLOCKS) {
            self.0.remove(0);
        }
    }

    /// The piece has come right: forgets what was wrong, and tells who had sent blocks that differ.
    pub(super) fn resolve(&mut self, piece: u32, digests: &[u64]) -> Vec<PeerKey> {
        let mut liars = Vec::new();
        for failure in self.of(piece) {
            let sent = failure.digests.iter().zip(&failure.senders);
            for ((theirs, &sender), right) in sent.zip(digests) {
                if theirs != right && sender != NOBODY && !liars.contains(&sender) {
                    liars.push(sender);
                }
            }
        }
        self.0.keep(|failure| failure.piece != piece);
        if self.0.is_empty() {
            self.0 = Vec::new();
        }
        liars
    }

    /// Whether it sent a block of that piece when it was wrong.
    pub(super) fn is_suspect(&self, piece: u32, peer: PeerKey) -> bool {
        self.of(piece).any(|failure| failure.senders.contains(&peer))
    }

    /// Those that sent some of that piece when it was wrong, each once.
    pub(super) fn suspects(&self, piece: u32) -> Vec<PeerKey> {
        let mut suspects: Vec<_> =
            self.of(piece).flat_map(|failure| failure.senders.iter().copied()).gather();
        list::sort(&mut suspects);
        suspects.dedup();
        suspects
    }

    pub(super) fn memory(&self) -> usize {
        self.0.capacity() * size_of::<Failure>() + self.blocks() * (size_of::<u64>() + size_of::<PeerKey>())
    }

    fn of(&self, piece: u32) -> impl Iterator<Item = &Failure> {
        self.0.iter().filter(move |failure| failure.piece == piece)
    }

    fn blocks(&self) -> usize {
        self.0.iter().map(|failure| failure.senders.len()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peers(keys: &[u32]) -> Box<[PeerKey]> {
        keys.iter().map(|&key| PeerKey(key)).collect()
    }

    #[test]
    fn those_whose_blocks_differ_from_the_right_ones_are_liars() {
        let mut failures = Failures::default();
        failures.remember(7, &[1, 2, 3, 4], peers(&[10, 11, 12, 11]));
        failures.remember(7, &[0, 0, 3, 4], peers(&[NOBODY.0, 13, 10, 10]));
        failures.remember(8, &[9], peers(&[14]));
        assert!(
            failures.contains(7)
                && failures.is_suspect(7, PeerKey(12))
                && !failures.is_suspect(7, PeerKey(14))
        );
        assert_eq!(failures.suspects(8), [PeerKey(14)]);
        assert_eq!(failures.resolve(7, &[1, 5, 3, 5]), [PeerKey(11), PeerKey(13), PeerKey(10)]);
        assert!(!failures.contains(7) && failures.contains(8));
        assert_eq!(failures.resolve(8, &[]), []);
        assert_eq!(failures.memory(), 0);
    }

    #[test]
    fn what_is_remembered_is_bounded_in_number_and_in_blocks() {
        let mut failures = Failures::default();
        for piece in 0..100 {
            failures.remember(piece, &[1; 16], peers(&[1; 16]));
        }
        assert!(!failures.contains(83) && failures.contains(84));
        for piece in 0..100 {
            failures.remember(piece, &vec![1; 4096], vec![PeerKey(1); 4096].into());
        }
        assert!(!failures.contains(97) && failures.contains(98));
        // One larger than the bound is remembered alone.
        failures.remember(5, &vec![1; 10_000], vec![PeerKey(1); 10_000].into());
        assert!(failures.contains(5) && !failures.contains(99));
    }
}

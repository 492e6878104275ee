//! What a user of the picker sees: single rules by small swarms, and all of them together by random ones.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::num::NonZeroU32;

use super::*;
use crate::peer::requests::Requests;

const A: PeerKey = PeerKey(1);
const B: PeerKey = PeerKey(2);
const C: PeerKey = PeerKey(3);
const SEED: PeerKey = PeerKey(100);

fn lengths(pieces: u32, blocks: u32) -> Lengths {
    let piece = blocks * BLOCK;
    Lengths::new(u64::from(pieces) * u64::from(piece), NonZeroU32::new(piece).unwrap()).unwrap()
}

/// A picker and what we have, with the steps that most tests take.
struct Bed {
    picker: Picker,
    lengths: Lengths,
    ours: Have,
    now: u32,
}

impl Bed {
    fn new(pieces: u32, blocks: u32) -> Bed {
        Bed::of(lengths(pieces, blocks), 7)
    }

    fn of(lengths: Lengths, seed: u64) -> Bed {
        Bed { picker: Picker::new(lengths, seed), lengths, ours: Have::None, now: 0 }
    }

    fn pick(&mut self, peer: PeerKey, rate: u32, has: &Have, most: usize) -> Vec<Block> {
        let mut out = Vec::new();
        self.picker.pick(peer, rate, has, &self.ours, most, self.now, &mut out);
        out
    }

    fn all(&mut self, peer: PeerKey, most: usize) -> Vec<Block> {
        self.pick(peer, 100_000, &Have::All, most)
    }

    fn block(&self, piece: u32, block: u32) -> Block {
        let size = self.lengths.size(self.lengths.piece(piece).unwrap());
        self.lengths.block(piece, block * BLOCK, BLOCK.min(size - block * BLOCK)).unwrap()
    }

    fn comes(&mut self, peer: PeerKey, block: Block) -> Arrived {
        self.picker.arrived(peer, block.piece.index(), block.begin, block.len, 0)
    }

    fn come(&mut self, peer: PeerKey, blocks: &[Block]) {
        for &block in blocks {
            assert!(self.comes(peer, block).block_done, "{block:?}");
        }
    }

    fn others(&mut self, block: Block, except: PeerKey) -> Vec<PeerKey> {
        let mut others = Vec::new();
        self.picker.others(block, except, &mut others);
        others
    }

    fn good(&mut self, piece: u32, digests: &[u64]) -> Vec<PeerKey> {
        let blame = self.picker.verified(piece, true, digests);
        self.ours.insert(piece, self.lengths.piece_count());
        blame.liars
    }
}

fn pieces(blocks: &[Block]) -> Vec<u32> {
    let mut pieces: Vec<_> = blocks.iter().map(|block| block.piece.index()).collect();
    pieces.dedup();
    pieces
}

// Choosing.

#[test]
fn the_rarest_piece_comes_first_once_we_have_something_to_give() {
    let mut bed = Bed::new(100, 1);
    bed.ours = Have::from_fn(100, |piece| piece < 4);
    bed.picker.joined(&Have::All, false);
    for rare in [70, 20] {
        bed.picker.joined(&Have::from_fn(100, |piece| piece != 50 && piece != rare), false);
    }
    bed.picker.joined(&Have::from_fn(100, |piece| piece != 50), false);
    // One has piece 50, three have 20 and 70, four have the others.
    let blocks = bed.all(A, 3);
    let mut first = pieces(&blocks);
    assert_eq!(first.remove(0), 50);
    first.sort_unstable();
    assert_eq!(first, [20, 70]);
}

#[test]
fn the_first_pieces_are_taken_by_chance() {
    let mut first = BTreeMap::new();
    for seed in 0..200 {
        let mut bed = Bed::of(lengths(8, 1), seed);
        bed.picker.joined(&Have::from_fn(8, |piece| piece != 3), false);
        bed.picker.joined(&Have::All, false);
        *first.entry(bed.all(A, 1)[0].piece.index()).or_insert(0) += 1;
    }
    assert!(first.len() == 8 && first.values().all(|times| (10..45).contains(times)), "{first:?}");
}

#[test]
fn peers_that_know_nothing_of_each_other_spread_over_pieces_that_are_equally_rare() {
    let mut chosen = BTreeSet::new();
    for seed in 0..100 {
        let mut bed = Bed::of(lengths(1000, 4), seed);
        bed.ours = Have::from_fn(1000, |piece| piece % 100 == 0);
        bed.picker.joined(&Have::All, false);
        chosen.insert(bed.all(A, 1)[0].piece.index());
    }
    assert!(chosen.len() > 80, "{}", chosen.len());
}

#[test]
fn a_rare_piece_is_soon_found_among_a_hundred_thousand() {
    let mut bed = Bed::new(100_000, 1);
    bed.ours = Have::from_fn(100_000, |piece| piece < 4);
    bed.picker.joined(&Have::from_fn(100_000, |piece| piece != 77_777), false);
    bed.picker.joined(&Have::All, false);
    let found = (0..1000).find(|_| bed.all(A, 1)[0].piece.index() == 77_777);
    assert!(found.is_some());
}

#[test]
fn a_piece_that_is_begun_is_finished_before_another_is_begun() {
    let mut bed = Bed::new(50, 8);
    bed.picker.joined(&Have::All, false);
    let first = pieces(&bed.all(A, 3));
    assert_eq!(pieces(&bed.all(B, 3)), first);
    let third = bed.all(C, 3);
    assert_eq!((third[0].piece.index(), third[1].begin, bed.picker.active()), (first[0], 7 * BLOCK, 2));
    assert_ne!(third[2].piece, third[1].piece);
}

#[test]
fn blocks_of_a_piece_are_asked_for_in_order_and_the_last_is_short() {
    let lengths = Lengths::new(100_000, NonZeroU32::new(100_000).unwrap()).unwrap();
    let mut bed = Bed::of(lengths, 1);
    bed.picker.joined(&Have::All, false);
    let asked: Vec<_> = bed.all(A, 99).iter().map(|block| (block.begin, block.len)).collect();
    let mut right: Vec<_> = (0..6).map(|block| (block * BLOCK, BLOCK)).collect();
    right.push((6 * BLOCK, 100_000 - 6 * BLOCK));
    assert_eq!(asked, right);
}

#[test]
fn a_peer_is_asked_for_what_it_has_and_we_lack_alone() {
    let mut bed = Bed::new(30, 2);
    bed.ours = Have::from_fn(30, |piece| piece % 2 == 0);
    let has = Have::from_fn(30, |piece| piece % 3 == 0);
    bed.picker.joined(&has, false);
    assert!(bed.picker.wants(&has, &bed.ours) && !bed.picker.wants(&bed.ours.clone(), &bed.ours));
    let mut asked = pieces(&bed.pick(A, 0, &has, 1000));
    asked.sort_unstable();
    assert_eq!(asked, [3, 9, 15, 21, 27]);
    assert!(bed.pick(B, 0, &Have::None, 9).is_empty());
    assert!(bed.pick(B, 0, &bed.ours.clone(), 9).is_empty());
}

#[test]
fn one_that_had_nothing_to_offer_is_asked_again_as_soon_as_it_has() {
    let mut bed = Bed::new(10, 1);
    bed.picker.joined(&Have::All, false);
    let mut has = Have::from_fn(10, |piece| piece == 4);
    bed.picker.joined(&has, false);
    assert_eq!(bed.all(A, 9).len(), 9);
    let missed = (0..10).find(|piece| !bed.picker.taken.contains(*piece)).unwrap();
    has = Have::from_fn(10, |piece| piece == (missed + 1) % 10);
    assert!(bed.pick(B, 0, &has, 1).is_empty());
    has.insert(missed, 10);
    bed.picker.gained(missed, false);
    assert_eq!(pieces(&bed.pick(B, 0, &has, 1)), [missed]);
    // A refused block of a piece of one block makes that piece free again.
    bed.picker.release(B, bed.block(missed, 0));
    assert_eq!(bed.picker.active(), 9);
    assert_eq!(pieces(&bed.pick(B, 0, &has, 1)), [missed]);
}

#[test]
fn on_a_disk_that_fills_holes_pieces_stay_within_the_window() {
    let mut bed = Bed::new(100, 1);
    bed.picker.joined(&Have::All, false);
    bed.ours = Have::from_fn(100, |piece| piece < 10);
    bed.picker.set_window(Some(5));
    let mut asked = pieces(&bed.all(A, 100));
    asked.sort_unstable();
    assert_eq!(asked, [10, 11, 12, 13, 14]);
    bed.come(A, &[bed.block(12, 0)]);
    bed.good(12, &[]);
    assert!(bed.all(B, 1).is_empty());
    bed.come(A, &[bed.block(10, 0)]);
    bed.good(10, &[]);
    assert_eq!(pieces(&bed.all(B, 100)), [15]);
    assert!(
        bed.picker
            .claim(SEED, &Have::from_fn(100, |piece| piece < 90), 1 << 30, true)
            .is_some_and(|run| run.end <= 95)
    );
}

// Fragments.

#[test]
fn fragments_follow_each_other_without_a_gap_or_are_waste() {
    let mut bed = Bed::new(1, 2);
    bed.picker.joined(&Have::All, false);
    bed.all(A, 2);
    let mut came = |begin, len, rest| bed.picker.arrived(A, 0, begin, len, rest);
    assert!(came(0, 1000, BLOCK - 1000).keep);
    assert!(!came(2000, 1000, BLOCK - 3000).keep, "a gap");
    assert!(!came(0, 1000, BLOCK - 2000).keep, "another length");
    assert!(came(1000, BLOCK - 1001, 1).keep);
    let last = came(BLOCK - 1, 1, 0);
    assert_eq!(last, Arrived { keep: true, block_done: true, piece_done: false });
    assert_eq!(came(BLOCK - 1, 1, 0), Arrived::default(), "twice");
    assert_eq!(came(BLOCK, BLOCK, 0), Arrived { keep: true, block_done: true, piece_done: true });
    for (piece, begin, len, rest) in
        [(1, 0, BLOCK, 0), (0, 2 * BLOCK, 1, 0), (0, u32::MAX, 2, u32::MAX), (0, 0, 0, BLOCK)]
    {
        assert!(!bed.picker.arrived(A, piece, begin, len, rest).keep);
    }
}

#[test]
fn what_is_ready_of_a_piece_ends_at_the_first_gap() {
    let lengths = Lengths::new(u64::from(3 * BLOCK + 5), NonZeroU32::new(3 * BLOCK + 5).unwrap()).unwrap();
    let mut bed = Bed::of(lengths, 1);
    bed.picker.joined(&Have::All, false);
    let blocks = bed.all(A, 9);
    for (came, ready) in [(1, 0), (0, 2 * BLOCK), (3, 2 * BLOCK), (2, 3 * BLOCK + 5)] {
        bed.come(A, &[blocks[came]]);
        assert_eq!(bed.picker.ready(0), ready);
    }
    bed.good(0, &[]);
    assert_eq!((bed.picker.ready(0), bed.picker.ready(7), bed.picker.active()), (0, 0, 0));
}

#[test]
fn a_second_source_takes_a_block_over_and_the_first_ones_rest_is_waste() {
    let mut bed = Bed::new(1, 1);
    bed.picker.joined(&Have::All, false);
    let block = bed.all(A, 1)[0];
    assert!(bed.picker.arrived(A, 0, 0, 10_000, BLOCK - 10_000).keep);
    bed.now = 10;
    assert_eq!(bed.all(B, 1), [block]);
    assert!(bed.picker.arrived(B, 0, 0, 100, BLOCK - 100).keep);
    assert!(!bed.picker.arrived(A, 0, 10_000, 100, BLOCK - 10_100).keep);
    assert!(bed.picker.arrived(B, 0, 100, BLOCK - 100, 0).piece_done);
    assert_eq!(bed.others(block, B), [A]);
    assert_eq!(bed.others(block, B), []);
}

#[test]
fn a_block_that_was_taken_over_and_then_given_up_is_asked_for_again() {
    let mut bed = Bed::new(1, 1);
    bed.picker.joined(&Have::All, false);
    let block = bed.all(A, 1)[0];
    bed.now = 10;
    assert_eq!(bed.all(B, 1), [block]);
    assert!(bed.picker.arrived(A, 0, 0, 10_000, BLOCK - 10_000).keep);
    assert!(bed.picker.arrived(B, 0, 0, 100, BLOCK - 100).keep);
    // A has sent all it was asked for, in vain, and B goes before the end.
    assert!(!bed.picker.arrived(A, 0, 10_000, BLOCK - 10_000, 0).keep);
    bed.picker.left(B, &Have::None, false);
    assert_eq!(bed.all(A, 1), [block]);
}

// Losing.

#[test]
fn a_late_block_is_asked_of_another_and_whoever_brings_it_first_is_taken() {
    for late_wins in [true, false] {
        let mut bed = Bed::new(1, 2);
        bed.picker.joined(&Have::All, false);
        let blocks = bed.all(A, 2);
        bed.picker.late(A, blocks[0]);
        assert_eq!(bed.all(B, 2), [blocks[0]]);
        let (first, second) = if late_wins { (A, B) } else { (B, A) };
        assert!(bed.comes(first, blocks[0]).block_done);
        assert_eq!(bed.others(blocks[0], first), [second]);
        assert!(!bed.comes(second, blocks[0]).keep);
    }
}

#[test]
fn a_late_block_is_not_asked_again_of_the_same_peer_before_it_must_be_lost() {
    let mut bed = Bed::new(2, 4);
    bed.picker.joined(&Have::All, false);
    let blocks = bed.all(A, 4);
    bed.picker.late(A, blocks[0]);
    bed.picker.late(A, blocks[2]);
    let second = bed.all(A, 4);
    assert_eq!((second.len(), second[0].piece != blocks[0].piece), (4, true));
    assert!(bed.all(A, 4).is_empty());
    // It is all the same the end game for others.
    bed.now = 9;
    let has = Have::from_fn(2, |piece| piece == second[0].piece.index());
    assert_eq!(bed.pick(B, 100_000, &has, 9).len(), 4);
    bed.picker.release(A, blocks[2]);
    assert_eq!(bed.all(A, 4), [blocks[2]]);
    bed.now = 59;
    assert!(bed.all(A, 4).is_empty());
    bed.now = 60;
    assert_eq!(bed.all(A, 4), [blocks[0]]);
}

#[test]
fn what_a_peer_leaves_behind_is_finished_by_others() {
    let mut bed = Bed::new(20, 4);
    bed.picker.joined(&Have::All, false);
    let blocks = bed.all(A, 6);
    bed.come(A, &blocks[..1]);
    assert!(
        bed.comes(A, blocks[1]).keep
            && bed.picker.arrived(A, blocks[2].piece.index(), blocks[2].begin, 9, BLOCK - 9).keep
    );
    bed.picker.left(A, &Have::All, false);
    // Of the second piece nothing has come: it is forgotten. Half a block is of no use.
    assert_eq!(bed.picker.active(), 1);
    let rest = bed.all(B, 4);
    assert_eq!((&rest[..2], pieces(&rest).len()), (&blocks[2..4], 2));
    assert!(!bed.picker.arrived(A, blocks[2].piece.index(), blocks[2].begin + 9, 9, BLOCK - 18).keep);
}

#[test]
fn releasing_what_was_never_asked_changes_nothing() {
    let mut bed = Bed::new(4, 2);
    bed.picker.joined(&Have::All, false);
    let blocks = bed.all(A, 2);
    for block in [blocks[0], bed.block(3, 0), bed.block(2, 1)] {
        bed.picker.release(B, block);
        bed.picker.late(B, block);
    }
    bed.picker.release_all(C);
    bed.picker.unclaim(SEED);
    assert!(!bed.all(B, 8).iter().any(|block| blocks.contains(block)));
    assert_eq!(bed.picker.verified(blocks[0].piece.index(), true, &[]), Blame::default());
}

// End game.

#[test]
fn a_block_is_asked_of_a_second_peer_only_when_every_block_is_asked_for() {
    let mut bed = Bed::new(2, 4);
    bed.picker.joined(&Have::All, false);
    let slow = bed.pick(A, 1000, &Have::All, 5);
    bed.now = 20;
    // Three are left, and B is given no more than those as long as one of them is free.
    assert_eq!(bed.pick(B, 1_000_000, &Have::All, 2).iter().filter(|block| slow.contains(block)).count(), 0);
    let rest = bed.pick(B, 1_000_000, &Have::All, 3);
    assert_eq!(rest.iter().filter(|block| slow.contains(block)).count(), 2);
}

#[test]
fn in_the_end_game_a_block_has_two_sources_at_most_and_the_last_of_a_slow_peer_comes_first() {
    let mut bed = Bed::new(1, 8);
    bed.picker.joined(&Have::All, false);
    let first = bed.pick(A, 1000, &Have::All, 4);
    bed.now = 3;
    let second = bed.pick(B, 1000, &Have::All, 4);
    bed.now = 6;
    assert_eq!(bed.pick(C, 1_000_000, &Have::All, 3), [first[3], first[2], first[1]]);
    assert_eq!(bed.pick(C, 1_000_000, &Have::All, 3), [first[0], second[3], second[2]]);
    bed.now = 30;
    let fourth = bed.pick(PeerKey(4), 1_000_000, &Have::All, 9);
    assert_eq!(fourth, [second[1], second[0]]);
    assert!(bed.pick(PeerKey(5), 1_000_000, &Have::All, 9).is_empty());
}

#[test]
fn a_fast_peer_takes_of_a_slow_ones_blocks_what_it_brings_sooner() {
    let mut bed = Bed::new(1, 40);
    bed.picker.joined(&Have::All, false);
    let blocks = bed.pick(A, 100_000, &Have::All, 40);
    bed.now = 2;
    bed.come(A, &blocks[..12]);
    // It needs 4.6 s for the others, and after ten of those that the other takes from the end nearly three, as they do.
    let taken = bed.pick(B, 400_000, &Have::All, 100);
    assert!((8..12).contains(&taken.len()), "{}", taken.len());
    assert!(taken.iter().eq(blocks.iter().rev().take(taken.len())));
}

#[test]
fn a_peer_that_is_not_clearly_faster_duplicates_nothing() {
    let mut bed = Bed::new(1, 8);
    bed.picker.joined(&Have::All, false);
    let blocks = bed.pick(A, 30_000, &Have::All, 8);
    // It needs more than four seconds for all of them, and the other one and a half for each.
    for now in 0..7 {
        bed.now = now;
        if now % 2 == 0 {
            bed.picker.arrived(A, 0, blocks[0].begin, 1 + now, BLOCK - 1 - now);
        }
        assert!(bed.pick(B, 10_000, &Have::All, 8).is_empty());
    }
    assert!(!bed.pick(C, 1_000_000, &Have::All, 8).is_empty());
}

#[test]
fn the_blocks_of_a_silent_peer_are_asked_of_another_sooner_if_that_is_fast() {
    for (rate, after) in [(1_000_000, 5), (4000, 9), (0, 10)] {
        let mut bed = Bed::new(1, 2);
        bed.picker.joined(&Have::All, false);
        let blocks = bed.pick(A, 10_000_000, &Have::All, 2);
        bed.now = after - 1;
        assert!(bed.pick(B, rate, &Have::All, 1).is_empty());
        bed.now = after;
        assert_eq!(bed.pick(B, rate, &Have::All, 1), [blocks[1]]);
    }
}

#[test]
fn a_piece_that_nobody_has_does_not_put_the_end_game_off() {
    let mut bed = Bed::new(3, 2);
    let has = Have::from_fn(3, |piece| piece != 1);
    bed.picker.joined(&has, false);
    bed.picker.joined(&has, false);
    let blocks = bed.pick(A, 0, &has, 9);
    bed.now = 10;
    assert_eq!(bed.pick(B, 0, &has, 9).len(), blocks.len());
}

// Blame.

#[test]
fn one_that_alone_sent_a_wrong_piece_is_a_liar_and_half_of_it_may_be_right_all_the_same() {
    for half_is_enough in [true, false] {
        let mut bed = Bed::new(1, 4);
        bed.picker.joined(&Have::All, false);
        let blocks = bed.all(A, 4);
        bed.come(A, &blocks);
        assert_eq!(bed.picker.verified(0, false, &[1, 2, 3, 4]).liars, [A]);
        bed.picker.left(A, &Have::All, false);
        bed.picker.joined(&Have::All, false);
        assert_eq!(bed.all(B, 6), blocks[..2]);
        bed.come(B, &blocks[..2]);
        if half_is_enough {
            assert_eq!(bed.good(0, &[1, 7, 3, 4]), [A]);
            continue;
        }
        assert_eq!(bed.picker.verified(0, false, &[1, 2, 3, 4]), Blame::default());
        assert_eq!(bed.all(B, 6), blocks[2..]);
        bed.come(B, &blocks[2..]);
        assert_eq!(bed.good(0, &[1, 2, 3, 7]), [A]);
        assert!(!bed.picker.wants_digests(0));
    }
}

/// A piece of four blocks of which `A` sent the first two and `B` the others, and that was wrong; each of them counts.
fn wrong_of_two() -> Bed {
    let mut bed = Bed::new(1, 4);
    for peer in [A, B] {
        bed.picker.joined(&Have::All, false);
        let blocks = bed.all(peer, 2);
        bed.come(peer, &blocks);
    }
    assert_eq!(bed.picker.verified(0, false, &[1, 2, 3, 4]), Blame::default());
    assert!(bed.picker.wants_digests(0));
    bed
}

#[test]
fn of_a_wrong_piece_first_what_one_half_sent_is_fetched_again_from_one_that_had_no_part_in_it() {
    let mut bed = wrong_of_two();
    bed.picker.joined(&Have::All, false);
    assert!(bed.all(A, 4).is_empty());
    let mut blocks = bed.all(C, 1);
    assert!(bed.all(PeerKey(4), 4).is_empty());
    blocks.extend(bed.all(C, 4));
    // A has gone, but its name stands on the second block, which was wrong.
    bed.picker.left(A, &Have::All, false);
    assert_eq!(blocks, [bed.block(0, 0), bed.block(0, 1)]);
    bed.come(C, &blocks);
    assert_eq!(bed.good(0, &[1, 9, 3, 4]), [A]);
    assert!(!bed.picker.wants_digests(0));
}

#[test]
fn if_that_was_not_it_the_same_one_sends_the_other_half_too() {
    let mut bed = wrong_of_two();
    bed.picker.joined(&Have::All, false);
    let blocks = bed.all(C, 4);
    bed.come(C, &blocks);
    assert_eq!(bed.picker.verified(0, false, &[1, 2, 3, 4]), Blame::default());
    assert_eq!(bed.picker.ready(0), 2 * BLOCK);
    let others = bed.all(C, 4);
    assert_eq!(others, [bed.block(0, 2), bed.block(0, 3)]);
    bed.come(C, &others);
    let mut again = bed;
    assert_eq!(again.good(0, &[1, 2, 7, 4]), [B]);
}

#[test]
fn one_that_alone_sent_all_of_a_piece_anew_and_wrong_is_a_liar() {
    let mut bed = wrong_of_two();
    for expected in [vec![], vec![C]] {
        let blocks = bed.all(C, 4);
        bed.come(C, &blocks);
        assert_eq!(bed.picker.verified(0, false, &[1, 2, 3, 4]).liars, expected);
    }
    // Now anybody else, and all of it.
    bed.picker.left(C, &Have::None, false);
    let blocks = bed.all(PeerKey(4), 4);
    bed.come(PeerKey(4), &blocks);
    assert_eq!(bed.good(0, &[1, 2, 7, 4]), [B]);
}

#[test]
fn one_of_those_who_sent_a_wrong_piece_may_send_what_the_other_sent() {
    let mut bed = wrong_of_two();
    // Nobody else has it. What B sent is kept, so then all of it is of B.
    assert!(bed.all(A, 4).is_empty());
    let blocks = bed.all(B, 4);
    assert_eq!(blocks, [bed.block(0, 0), bed.block(0, 1)]);
    bed.come(B, &blocks);
    let mut wrong = bed;
    assert_eq!(wrong.picker.verified(0, false, &[1, 2, 3, 4]).liars, [B]);
    wrong.picker.left(B, &Have::All, false);
    let blocks = wrong.all(A, 4);
    assert_eq!(blocks.len(), 4);
}

#[test]
fn what_those_sent_who_have_proved_good_is_kept() {
    let mut bed = Bed::new(2, 4);
    for _ in 0..2 {
        bed.picker.joined(&Have::All, false);
    }
    let blocks = bed.all(A, 4);
    bed.come(A, &blocks);
    bed.good(blocks[0].piece.index(), &[]);
    let mut blocks = bed.all(A, 1);
    blocks.extend(bed.all(B, 3));
    bed.come(A, &blocks[..1]);
    bed.come(B, &blocks[1..]);
    let piece = blocks[0].piece.index();
    bed.picker.verified(piece, false, &[1, 2, 3, 4]);
    assert_eq!(bed.picker.ready(piece), BLOCK);
}

#[test]
fn a_suspect_is_asked_after_a_while_should_nobody_else_come() {
    let mut bed = wrong_of_two();
    bed.picker.left(B, &Have::All, false);
    bed.picker.joined(&Have::All, false);
    bed.now = 29;
    assert!(bed.all(A, 4).is_empty());
    bed.now = 30;
    assert_eq!(bed.all(A, 4).len(), 2);
}

#[test]
fn who_was_idle_before_a_second_try_is_not_silent_for_that() {
    let mut bed = wrong_of_two();
    bed.all(C, 0);
    bed.now = 20;
    assert_eq!((bed.all(C, 1).len(), bed.all(PeerKey(4), 1).len()), (1, 0));
    bed.now = 25;
    assert_eq!(bed.all(PeerKey(4), 1).len(), 1);
}

#[test]
fn one_who_fails_at_a_second_try_makes_room_for_another() {
    let mut bed = wrong_of_two();
    let blocks = bed.all(C, 4);
    bed.picker.late(C, blocks[1]);
    bed.picker.joined(&Have::All, false);
    assert_eq!(bed.all(PeerKey(4), 4), [blocks[1]]);
    bed.picker.left(C, &Have::All, false);
    assert_eq!(bed.all(PeerKey(4), 4), [blocks[0]]);
}

#[test]
fn a_web_seed_that_lies_is_named_like_a_peer() {
    let mut bed = Bed::new(4, 2);
    let run = bed.picker.claim(SEED, &Have::None, 1, false).unwrap();
    assert_eq!(run.len(), 1);
    let blocks = [bed.block(run.start, 0), bed.block(run.start, 1)];
    bed.come(SEED, &blocks);
    assert_eq!(bed.picker.verified(run.start, false, &[]).liars, [SEED]);
    assert!(bed.picker.claim(PeerKey(101), &Have::None, 1 << 30, false).is_some());
}

// Web seeds.

#[test]
fn a_web_seed_gets_a_long_run_of_what_nobody_works_on() {
    let mut bed = Bed::new(1000, 2);
    bed.ours = Have::from_fn(1000, |piece| (300..320).contains(&piece));
    bed.picker.joined(&Have::All, false);
    let asked = bed.all(A, 1);
    assert_eq!(bed.picker.claim(SEED, &bed.ours, 1 << 30, false), None, "peers have all of it");
    let mut claimed = Have::None;
    for seed in 100..110 {
        let run = bed.picker.claim(PeerKey(seed), &bed.ours, 100 * u64::from(2 * BLOCK), true).unwrap();
        assert!(run.len() <= 100);
        for piece in run {
            assert!(!bed.ours.contains(piece) && piece != asked[0].piece.index());
            assert!(claimed.insert(piece, 1000), "{piece} is claimed twice");
        }
    }
    // Peers are asked for the others, until there are none.
    let others = bed.all(B, 10_000);
    assert!(others.iter().all(|block| !claimed.contains(block.piece.index())));
    assert_eq!(pieces(&others).len(), 1000 - 20 - claimed.count(1000) as usize);
}

#[test]
fn pieces_that_a_local_peer_has_are_left_to_it_and_those_nobody_has_come_first() {
    let mut bed = Bed::new(100, 1);
    bed.picker.joined(&Have::from_fn(100, |piece| piece < 50), true);
    bed.picker.joined(&Have::from_fn(100, |piece| piece != 80), false);
    for seed in 0..50 {
        let mut other = Bed::of(bed.lengths, seed);
        std::mem::swap(&mut other.picker.availability, &mut bed.picker.availability);
        let run = other.picker.claim(SEED, &Have::None, 1 << 30, true).unwrap();
        assert_eq!(run, 80..100);
        assert_eq!(other.picker.claim(SEED, &Have::None, 1 << 30, false), Some(80..81));
        std::mem::swap(&mut other.picker.availability, &mut bed.picker.availability);
    }
}

#[test]
fn what_a_web_seed_did_not_bring_is_free_again() {
    let mut bed = Bed::new(10, 2);
    bed.picker.joined(&Have::All, false);
    let mut run = bed.picker.claim(SEED, &Have::None, 1 << 30, true).unwrap();
    while run.len() < 4 {
        run = bed.picker.claim(SEED, &Have::None, 1 << 30, true).unwrap();
    }
    bed.come(SEED, &[bed.block(run.start, 0), bed.block(run.start, 1), bed.block(run.start + 1, 0)]);
    bed.good(run.start, &[]);
    assert_eq!(bed.picker.claimed(SEED), Some(run.start + 1..run.end));
    bed.picker.unclaim(SEED);
    assert_eq!(bed.picker.claimed(SEED), None);
    let asked = bed.all(A, 100);
    assert_eq!((asked[0], asked.len()), (bed.block(run.start + 1, 1), 17));
}

#[test]
fn a_web_seed_finishes_what_peers_left_behind() {
    let mut bed = Bed::new(1, 4);
    bed.picker.joined(&Have::All, false);
    let blocks = bed.all(A, 4);
    bed.come(A, &[blocks[0], blocks[2]]);
    bed.picker.left(A, &Have::All, false);
    assert_eq!(bed.picker.claim(SEED, &Have::None, 1 << 30, false), Some(0..1));
    assert_eq!(bed.picker.ready(0), BLOCK);
    bed.come(SEED, &[blocks[1]]);
    assert!(!bed.comes(SEED, blocks[2]).keep);
    assert!(bed.comes(SEED, blocks[3]).piece_done);
}

#[test]
fn peers_take_from_the_end_of_a_run_that_would_take_long() {
    let mut bed = Bed::new(20, 4);
    bed.picker.joined(&Have::All, false);
    let mut run = 0..0;
    while run.len() < 5 {
        run = bed.picker.claim(SEED, &Have::None, 1 << 30, true).unwrap();
    }
    let rest: Vec<_> = bed.all(A, 1000);
    bed.come(A, &rest);
    rest.iter().map(|block| block.piece.index()).for_each(|piece| {
        bed.good(piece, &[]);
    });
    // It has brought 16 KiB in ten seconds: the last piece would come in two minutes.
    bed.come(SEED, &[bed.block(run.start, 0)]);
    bed.now = 10;
    assert_eq!(pieces(&bed.pick(A, 1_000_000, &Have::All, 4)), [run.end - 1]);
    assert_eq!(bed.picker.claimed(SEED), Some(run.start..run.end - 1));
    // Where the peer is slower than that nothing is taken, as long as the seed sends at all.
    bed.come(SEED, &[bed.block(run.start, 1)]);
    assert!(bed.pick(B, 200, &Have::All, 4).is_empty());
}

#[test]
fn a_web_seed_helps_out_where_a_peer_is_too_slow_with_the_last_piece() {
    let mut bed = Bed::new(1, 4);
    bed.picker.joined(&Have::All, false);
    let blocks = bed.pick(A, 1000, &Have::All, 4);
    assert_eq!(bed.picker.claim(SEED, &Have::None, 1 << 30, true), None);
    bed.now = 3;
    bed.pick(A, 1000, &Have::All, 0);
    assert_eq!(bed.picker.claim(SEED, &Have::None, 1 << 30, false), None, "peers have it");
    assert_eq!(bed.picker.claim(SEED, &Have::None, 1 << 30, true), Some(0..1));
    bed.come(SEED, &blocks[..1]);
    assert_eq!(bed.others(blocks[0], SEED), [A]);
}

// Memory.

#[test]
fn it_takes_three_bytes_a_piece_and_eight_a_block_in_work() {
    let mut bed = Bed::new(4000, 256);
    assert!(bed.picker.memory() < 4000 * 3 + 4000 / 8 + 700, "{}", bed.picker.memory());
    bed.picker.joined(&Have::All, false);
    let idle = bed.picker.memory();
    for peer in 0..40 {
        bed.all(PeerKey(peer), 250);
    }
    assert_eq!(bed.picker.active(), 40);
    assert!(bed.picker.memory() - idle < 40 * (256 * 8 + 300), "{}", bed.picker.memory() - idle);
}

#[test]
fn pieces_that_peers_begin_and_leave_do_not_pile_up() {
    let mut bed = Bed::new(2000, 1024);
    let mut begun = Have::None;
    for peer in 0..1000 {
        // Each has only what none before it was asked for, sends a block of it, and goes.
        let has = Have::from_fn(2000, |piece| !begun.contains(piece));
        let peer = PeerKey(peer);
        bed.picker.joined(&has, false);
        let blocks = bed.pick(peer, 0, &has, 4);
        begun.insert(blocks[0].piece.index(), 2000);
        bed.come(peer, &blocks[..1]);
        bed.picker.left(peer, &has, false);
    }
    assert!(bed.picker.active() <= MAX_BLOCKS / 1024);
    assert!(bed.picker.memory() < 1_000_000, "{}", bed.picker.memory());
    // No block has to come twice for all that.
    bed.picker.joined(&Have::All, false);
    bed.ours = Have::from_fn(2000, |piece| !begun.contains(piece));
    let mut asked = 0;
    loop {
        let blocks = bed.all(A, 1023);
        let Some(first) = blocks.first() else { break };
        let piece = first.piece.index();
        assert_eq!((bed.picker.ready(piece), blocks.len(), pieces(&blocks).len()), (BLOCK, 1023, 1));
        bed.come(A, &blocks);
        bed.good(piece, &[]);
        asked += 1;
    }
    assert_eq!(asked, 1000);
}

#[test]
fn small_pieces_in_work_are_bounded_too() {
    let mut bed = Bed::new(100_000, 1);
    bed.picker.joined(&Have::All, false);
    let idle = bed.picker.memory();
    let asked: usize = (0..100).map(|peer| bed.all(PeerKey(peer), 500).len()).sum();
    assert!((3000..5000).contains(&asked), "{asked}");
    assert!(bed.picker.memory() - idle < 700_000, "{}", bed.picker.memory() - idle);
}

#[test]
fn a_piece_may_be_larger_than_all_that_should_be_in_work() {
    let piece = NonZeroU32::new(u32::MAX).unwrap();
    let mut bed = Bed::of(Lengths::new(u64::from(u32::MAX), piece).unwrap(), 1);
    bed.picker.joined(&Have::All, false);
    let blocks = bed.all(A, 1 << 20);
    assert_eq!(blocks.len(), 1 << 18);
    bed.come(A, &blocks);
    assert_eq!(bed.picker.ready(0), u32::MAX);
}

// All of it together.

/// Somebody who sends blocks, as the random swarms have him.
struct Sender {
    has: Have,
    /// Blocks that he was asked for and has not sent.
    queue: VecDeque<Block>,
    /// What he sends, how far he is with it, and whether it is still wanted of him.
    sends: Option<(Block, u32, bool)>,
    /// Blocks he was late with: he may send them all the same.
    late: Vec<Block>,
}

/// A fragment: where in its block it begins, its length, and who sent it.
struct Written(u32, u32, PeerKey);

impl Sender {
    fn is_asked(&self, block: Block) -> bool {
        self.queue.contains(&block) || self.sends.is_some_and(|(sends, _, wanted)| wanted && sends == block)
    }

    fn forget(&mut self) {
        (self.queue, self.sends, self.late) = (VecDeque::new(), None, Vec::new());
    }
}

/// A random swarm, with what the picker must not know: what was really sent.
struct Swarm {
    bed: Bed,
    random: Random,
    peers: BTreeMap<PeerKey, Sender>,
    /// The web seed's key, and where in its run it is.
    seed: Option<(PeerKey, u32, u32)>,
    next: u32,
    /// What is written of each block: fragments and who sent them.
    disk: BTreeMap<(u32, u32), Vec<Written>>,
    liars: Vec<PeerKey>,
    banned: Vec<PeerKey>,
    /// Bytes in all, bytes that were waste, and those that wrong pieces cost.
    came: u64,
    waste: u64,
    wrong: u64,
}

impl Swarm {
    fn new(seed: u64) -> Swarm {
        let mut random = Random::new(seed);
        let piece = [5000, BLOCK, 3 * BLOCK + 100, 4 * BLOCK, 40 * BLOCK][random.below(5)];
        let pieces = 1 + random.up_to(60);
        let total = u64::from(pieces) * u64::from(piece) - u64::from(random.up_to(piece - 1));
        let mut bed = Bed::of(Lengths::new(total, NonZeroU32::new(piece).unwrap()).unwrap(), random.draw());
        bed.ours = Have::from_fn(pieces, |_| random.below(10) == 0);
        let (peers, disk) = (BTreeMap::new(), BTreeMap::new());
        let (liars, banned) = (Vec::new(), Vec::new());
        Swarm { bed, random, peers, seed: None, next: 0, disk, liars, banned, came: 0, waste: 0, wrong: 0 }
    }

    fn pieces(&self) -> u32 {
        self.bed.lengths.piece_count()
    }

    fn join(&mut self, has: Have, lies: bool) -> PeerKey {
        let key = PeerKey(self.next);
        self.next += 1;
        self.bed.picker.joined(&has, false);
        self.peers.insert(key, Sender { has, queue: VecDeque::new(), sends: None, late: Vec::new() });
        if lies {
            self.liars.push(key);
        }
        key
    }

    fn leave(&mut self, key: PeerKey) {
        let Some(peer) = self.peers.remove(&key) else { return };
        self.bed.picker.left(key, &peer.has, false);
    }

    fn any_peer(&mut self) -> Option<PeerKey> {
        let at = self.random.below(self.peers.len());
        self.peers.keys().nth(at).copied()
    }

    fn askers(&self, block: Block) -> usize {
        self.peers.values().filter(|peer| peer.is_asked(block)).count()
    }

    /// Often such that those of several senders meet.
    fn fragment_len(&mut self) -> u32 {
        match self.random.below(3) {
            0 => 1 + self.random.up_to(BLOCK),
            1 => BLOCK / 4,
            _ => BLOCK,
        }
    }

    /// Whether there is a block that nobody is asked for, though somebody has it.
    fn has_free(&self) -> bool {
        let claimed = self.seed.and_then(|(seed, ..)| self.bed.picker.claimed(seed)).unwrap_or(0..0);
        self.bed.ours.missing(self.pieces()).filter(|piece| !claimed.contains(piece)).any(|piece| {
            let retried = self.bed.picker.wants_digests(piece);
            let blocks = self.bed.lengths.size(self.bed.lengths.piece(piece).unwrap()).div_ceil(BLOCK);
            let had = self.peers.values().any(|peer| peer.has.contains(piece));
            had && !retried
                && (0..blocks).map(|block| self.bed.block(piece, block)).any(|block| {
                    let begun = self.bed.picker.begun.get(&piece);
                    let is_free = begun.is_none_or(|begun| begun.is_unasked(block.begin / BLOCK));
                    is_free && self.askers(block) == 0
                })
        })
    }

    fn pick(&mut self, key: PeerKey) {
        let most = self.random.below(40);
        let rate = [0, 1000, 30_000, 1_000_000][self.random.below(4)];
        let blocks = self.bed.pick(key, rate, &self.peers[&key].has, most);
        assert!(blocks.len() <= most);
        let mut again = None;
        for &block in &blocks {
            let piece = block.piece.index();
            assert!(self.peers[&key].has.contains(piece) && !self.bed.ours.contains(piece));
            assert!(!self.peers[&key].is_asked(block), "{key:?} is asked twice for {block:?}");
            let askers = self.askers(block);
            assert!(askers < 2);
            again = again.or((askers > 0).then_some(block));
            self.peers.get_mut(&key).unwrap().queue.push_back(block);
        }
        if let Some(block) = again {
            assert!(!self.has_free(), "{block:?} is asked of two though others are free");
        }
    }

    /// The next fragment of what a peer was asked for, or of what it is late with.
    fn send(&mut self, key: PeerKey) {
        let fragment = self.fragment_len();
        let peer = self.peers.get_mut(&key).unwrap();
        if peer.sends.is_none() {
            peer.sends = match peer.late.pop().filter(|_| self.random.below(3) == 0) {
                Some(block) => Some((block, 0, false)),
                None => peer.queue.pop_front().map(|block| (block, 0, true)),
            };
        }
        let Some((block, part, wanted)) = peer.sends.take() else { return };
        let len = fragment.min(block.len - part);
        let (begin, rest) = (block.begin + part, block.len - part - len);
        if rest > 0 {
            peer.sends = Some((block, part + len, wanted));
        } else if let Some(at) = peer.queue.iter().position(|&queued| queued == block) {
            // Asked for once more meanwhile: the first that comes is the one that was wanted.
            peer.late.extend(peer.queue.remove(at));
        }
        self.fragment(key, block.piece.index(), begin, len, rest);
    }

    fn fragment(&mut self, key: PeerKey, piece: u32, begin: u32, len: u32, rest: u32) -> bool {
        self.came += u64::from(len);
        let arrived = self.bed.picker.arrived(key, piece, begin, len, rest);
        if !arrived.keep {
            self.waste += u64::from(len);
            assert!(!arrived.block_done && !arrived.piece_done);
            return false;
        }
        assert!(!self.bed.ours.contains(piece));
        let (number, at) = (begin / BLOCK, begin % BLOCK);
        let block = self.disk.entry((piece, number)).or_default();
        if at == 0 {
            // What another had begun was for nothing.
            let begun: u64 = block.iter().map(|&Written(_, len, _)| u64::from(len)).sum();
            self.waste += if begun == u64::from(BLOCK) { 0 } else { begun };
            block.clear();
        }
        block.push(Written(at, len, key));
        assert_eq!(arrived.block_done, rest == 0);
        if arrived.block_done {
            let block = self.bed.block(piece, number);
            for other in self.bed.others(block, key) {
                assert_ne!(other, key);
                if let Some(other) = self.peers.get_mut(&other) {
                    other.queue.retain(|&queued| queued != block);
                    other.late.retain(|&late| late != block);
                    if let Some((sends, _, wanted)) = &mut other.sends {
                        *wanted &= *sends != block;
                    }
                }
            }
        }
        if arrived.piece_done {
            self.piece_done(piece);
        }
        true
    }

    /// Blocks have come whole from one sender each; a liar's are wrong.
    fn piece_done(&mut self, piece: u32) {
        let size = self.bed.lengths.size(self.bed.lengths.piece(piece).unwrap());
        let mut digests = Vec::new();
        for number in 0..size.div_ceil(BLOCK) {
            let fragments = &self.disk[&(piece, number)];
            let (mut at, sender) = (0, fragments[0].2);
            for &Written(begin, len, from) in fragments {
                assert_eq!((begin, from), (at, sender), "block {number} of piece {piece} is of two");
                at += len;
            }
            assert_eq!(at, self.bed.block(piece, number).len);
            let wrong = self.liars.contains(&sender);
            digests.push(u64::from(number) + if wrong { 1000 + u64::from(sender.0) } else { 0 });
        }
        assert_eq!(self.bed.picker.ready(piece), size);
        let good = digests.iter().all(|&digest| digest < 1000);
        self.wrong += if good { 0 } else { size.into() };
        let liars = match good {
            true => self.bed.good(piece, &digests),
            false => self.bed.picker.verified(piece, false, &digests).liars,
        };
        for liar in liars {
            assert!(self.liars.contains(&liar), "{liar:?} is blamed and did not lie");
            if !self.banned.contains(&liar) {
                self.banned.push(liar);
            }
            self.leave(liar);
            if self.seed.is_some_and(|(seed, ..)| seed == liar) {
                self.bed.picker.unclaim(liar);
                self.seed = None;
            }
        }
    }

    fn web(&mut self) {
        match self.seed {
            None => {
                let key = PeerKey(self.next);
                let most = u64::from(self.random.up_to(1 << 20));
                let remote_too = self.random.below(3) > 0;
                if let Some(run) = self.bed.picker.claim(key, &self.bed.ours, most, remote_too) {
                    self.next += 1;
                    assert!(run.clone().all(|piece| !self.bed.ours.contains(piece)));
                    if self.random.below(4) == 0 {
                        self.liars.push(key);
                    }
                    self.seed = Some((key, run.start, self.bed.picker.ready(run.start)));
                }
            }
            Some((key, piece, at)) => {
                let claimed = self.bed.picker.claimed(key).unwrap();
                if self.random.below(40) == 0 || !claimed.contains(&piece) {
                    self.bed.picker.unclaim(key);
                    self.seed = None;
                    return;
                }
                let size = self.bed.lengths.size(self.bed.lengths.piece(piece).unwrap());
                let block = self.bed.block(piece, at / BLOCK);
                let rest = block.begin + block.len - at;
                let len = self.fragment_len().min(rest);
                self.seed = Some(if at + len == size { (key, piece + 1, 0) } else { (key, piece, at + len) });
                self.fragment(key, piece, at, len, rest - len);
            }
        }
    }

    fn step(&mut self) {
        let pieces = self.pieces();
        let Some(key) = self.any_peer() else {
            let has = Have::from_fn(pieces, |_| self.random.below(3) > 0);
            let lies = self.random.below(4) == 0;
            self.join(has, lies);
            return;
        };
        match self.random.below(100) {
            0..3 if self.peers.len() < 8 => {
                let part = self.random.below(4);
                let has = match part {
                    0 => Have::All,
                    _ => Have::from_fn(pieces, |_| self.random.below(4) < part),
                };
                let lies = self.random.below(4) == 0;
                self.join(has, lies);
            }
            3..5 => self.leave(key),
            5..10 => {
                let piece = self.random.up_to(pieces - 1);
                if self.peers.get_mut(&key).unwrap().has.insert(piece, pieces) {
                    self.bed.picker.gained(piece, false);
                }
            }
            10..12 => {
                self.peers.get_mut(&key).unwrap().forget();
                self.bed.picker.release_all(key);
            }
            12..15 => {
                let peer = self.peers.get_mut(&key).unwrap();
                if let Some(block) = peer.queue.pop_back() {
                    self.bed.picker.release(key, block);
                }
            }
            15..18 => {
                let peer = self.peers.get_mut(&key).unwrap();
                if let Some(block) = peer.queue.pop_back() {
                    peer.late.push(block);
                    self.bed.picker.late(key, block);
                }
            }
            18..22 => self.bed.now += self.random.up_to(3),
            22..40 => self.pick(key),
            40..45 => self.web(),
            _ => self.send(key),
        }
    }
}

#[test]
fn whatever_peers_do_every_block_comes_once_from_one_and_in_the_end_all_is_there() {
    for seed in 0..100 {
        let mut swarm = Swarm::new(seed);
        for _ in 0..1500 {
            swarm.step();
            if swarm.bed.ours.is_all() {
                break;
            }
        }
        // In the end an honest seed comes, and the others stay as they are.
        if !swarm.bed.ours.is_all() {
            let honest = swarm.join(Have::All, false);
            let mut steps = 0;
            while !swarm.bed.ours.is_all() {
                steps += 1;
                assert!(steps < 20_000, "run {seed} does not end");
                swarm.bed.now += u32::from(steps % 50 == 0);
                swarm.pick(honest);
                swarm.send(honest);
                if swarm.random.below(4) == 0
                    && let Some(key) = swarm.any_peer()
                {
                    swarm.send(key);
                }
            }
        }
        assert_eq!(
            (swarm.bed.picker.active(), swarm.bed.picker.open.len(), swarm.bed.picker.load),
            (0, 0, 0)
        );
        for (key, source) in swarm.bed.picker.sources.iter() {
            assert_eq!(source.asked, 0, "{key:?} in run {seed}");
        }
    }
}

#[test]
fn nothing_is_wasted_where_peers_are_steady_and_honest() {
    for seed in 0..100 {
        let mut swarm = Swarm::new(seed);
        let speeds = [1, 2, 4, 8];
        let peers: Vec<_> = speeds.iter().map(|_| swarm.join(Have::All, false)).collect();
        let mut steps = 0;
        while !swarm.bed.ours.is_all() {
            steps += 1;
            assert!(steps < 100_000);
            swarm.bed.now = steps / 10;
            for (&peer, &speed) in peers.iter().zip(&speeds) {
                for _ in 0..speed {
                    if swarm.peers[&peer].queue.len() < 2 * speed {
                        let rate = u32::try_from(speed).unwrap() * 80_000;
                        let blocks = swarm.bed.pick(peer, rate, &Have::All, speed);
                        swarm.peers.get_mut(&peer).unwrap().queue.extend(blocks);
                    }
                    swarm.send(peer);
                }
            }
        }
        assert_eq!(swarm.waste, 0);
    }
}

#[test]
fn liars_among_the_honest_are_found_out_and_cost_little() {
    let (mut found, mut came, mut wrong) = (0, 0, 0);
    for seed in 0..50 {
        let mut swarm = Swarm::new(seed);
        swarm.bed = Bed::of(lengths(100, 16), seed);
        let peers: Vec<_> = (0..8).map(|peer| swarm.join(Have::All, peer < 2)).collect();
        let mut steps = 0;
        while !swarm.bed.ours.is_all() {
            steps += 1;
            assert!(steps < 100_000);
            swarm.bed.now = steps / 20;
            for &key in &peers {
                if swarm.peers.get(&key).is_some_and(|peer| peer.queue.len() < 4) {
                    let blocks = swarm.bed.pick(key, 200_000, &Have::All, 4);
                    swarm.peers.get_mut(&key).unwrap().queue.extend(blocks);
                }
                if swarm.peers.contains_key(&key) {
                    swarm.send(key);
                }
            }
        }
        found += swarm.banned.len();
        (came, wrong) = (came + swarm.came, wrong + swarm.wrong);
    }
    assert_eq!(found, 100);
    assert!(wrong * 10 < came, "{wrong} of {came} bytes were of wrong pieces");
}

// With the pipelines of real peers.

/// A peer at the end of a link of its own: it sends what it is asked for, in order, at its rate.
struct Link {
    requests: Requests,
    has: Have,
    /// Bytes a second; 0 once it has stalled.
    rate: u32,
    /// What it was asked for, and when that is there; how much of the first it has sent.
    queue: VecDeque<(Block, u32)>,
    part: u32,
    /// Bytes that it could have sent by now.
    credit: u64,
}

/// Milliseconds from one side to the other, and those of a step.
const WAY: u32 = 40;
const STEP: u32 = 20;

/// A download from such peers. What is theirs alone is `None` from when they have gone.
struct Download {
    bed: Bed,
    links: Vec<Option<Link>>,
    ms: u32,
    came: u64,
}

impl Download {
    fn new(lengths: Lengths, rates: &[u32], seed: u64) -> Download {
        let mut bed = Bed::of(lengths, seed);
        let link = |&rate: &u32| {
            bed.picker.joined(&Have::All, false);
            let requests = Requests::new(250);
            Some(Link { requests, has: Have::All, rate, queue: VecDeque::new(), part: 0, credit: 0 })
        };
        Download { links: rates.iter().map(link).collect(), bed, ms: 0, came: 0 }
    }

    fn step(&mut self) {
        self.ms += STEP;
        self.bed.now = self.ms / 1000;
        for at in 0..self.links.len() {
            self.receive(at);
            self.refill(at);
        }
        if self.ms.is_multiple_of(1000) {
            for (at, link) in (0..).zip(&mut self.links) {
                for block in link.iter_mut().flat_map(|link| link.requests.overdue(self.ms)) {
                    self.bed.picker.late(PeerKey(at), block);
                }
            }
        }
    }

    fn refill(&mut self, at: usize) {
        let Some(link) = &mut self.links[at] else { return };
        let key = PeerKey(u32::try_from(at).unwrap());
        let room = link.requests.room(self.ms);
        if room > 0 {
            for block in self.bed.pick(key, link.requests.rate(), &link.has, room) {
                link.requests.asked(block, self.ms);
                link.queue.push_back((block, self.ms + 2 * WAY));
            }
        }
    }

    fn receive(&mut self, at: usize) {
        let key = PeerKey(u32::try_from(at).unwrap());
        let Some(link) = &mut self.links[at] else { return };
        link.credit += u64::from(link.rate) * u64::from(STEP) / 1000;
        let mut done = Vec::new();
        while let Some(&(block, there)) = link.queue.front() {
            let len = u32::try_from(link.credit).unwrap().min(block.len - link.part);
            if there > self.ms || len == 0 {
                break;
            }
            let (begin, rest) = (block.begin + link.part, block.len - link.part - len);
            (link.credit, link.part) = (link.credit - u64::from(len), link.part + len);
            self.came += u64::from(len);
            link.requests.received(block.piece.index(), begin, len, rest, self.ms);
            let arrived = self.bed.picker.arrived(key, block.piece.index(), begin, len, rest);
            if rest == 0 {
                link.part = 0;
                link.queue.pop_front();
            }
            if arrived.block_done {
                done.push((block, arrived.piece_done));
            }
        }
        if link.queue.is_empty() {
            link.credit = 0;
        }
        for (block, piece_done) in done {
            for other in self.bed.others(block, key) {
                let Some(other) = &mut self.links[other.0 as usize] else { continue };
                assert!(other.requests.cancel(block));
                // What it has sent half it sends whole, as it does what is on its way.
                let (first, now) = (usize::from(other.part > 0), self.ms);
                let mut number = 0;
                other.queue.retain(|&(queued, there)| {
                    number += 1;
                    queued != block || number <= first || there < now + WAY
                });
            }
            if piece_done {
                self.bed.good(block.piece.index(), &[]);
            }
        }
    }

    /// Seconds until all is there.
    fn run(&mut self, mut each_second: impl FnMut(&mut Download, u32)) -> u32 {
        while !self.bed.ours.is_all() {
            self.step();
            if self.ms.is_multiple_of(1000) {
                let second = self.ms / 1000;
                assert!(second < 3600, "it does not end");
                each_second(self, second);
            }
        }
        self.ms / 1000
    }

    fn vanish(&mut self, at: usize) {
        self.links[at] = None;
        self.bed.picker.left(PeerKey(u32::try_from(at).unwrap()), &Have::All, false);
    }
}

#[test]
fn of_peers_that_are_slow_stall_or_vanish_little_comes_twice_and_nobody_is_waited_for() {
    let lengths = lengths(256, 32);
    let rates = [5000, 20_000, 80_000, 300_000, 300_000, 1_000_000, 1_000_000, 3_000_000];
    for seed in 0..8 {
        let mut download = Download::new(lengths, &rates, seed);
        let seconds = download.run(|download, second| match second {
            5 => download.links[3].as_mut().unwrap().rate = 0,
            8 => download.vanish(5),
            10 => download.links[4].as_mut().unwrap().rate = 2000,
            12 => download.links[3].as_mut().unwrap().rate = 300_000,
            15 => download.links[6].as_mut().unwrap().rate = 0,
            _ => {}
        });
        let total = lengths.total();
        let waste = download.came - total;
        assert!(waste * 1000 < 5 * total, "{waste} of {total}");
        // What is there comes in 33 s; one that stalls may hold up a block for five more.
        assert!(seconds < 40, "{seconds} s");
    }
}

//! Which blocks a peer is asked for, and which run of pieces a web seed.
//!
//! Pieces that are begun come first, then the rarest of those looked at, from a random place on: no choice looks at more
//! than [`LOOKS`] free pieces, and who had nothing to offer is not looked at again before something has changed.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::ops::Range;

use super::begun::{Access, Begun};
use super::taken::round;
use super::{Claim, Picker};
use crate::have::Have;
use crate::list::{self, Gather};
use crate::peer::PeerKey;
use crate::piece::{BLOCK, Block};

/// Free pieces looked at for the rarest. Exact for most torrents; where there are more, a piece that only one in a hundred
/// has still is found soon after the first few dozen choices.
const LOOKS: usize = 1024;

/// Blocks looked at for the end game of one peer.
const END_LOOKS: usize = 4096;

/// With fewer pieces the next is taken by chance: rare ones are slow to come, and we need something to give.
const FIRST_PIECES: usize = 4;

/// Pieces looked at for the start of a web seed's run; [`LOOKS`] more once there is one, for one that nobody has.
const CLAIM_LOOKS: usize = 8192;

/// Seconds after which a peer that is asked and sends nothing is silent: in the end game others are asked.
const SILENT: u32 = 5;

/// Milliseconds that another must need longer than twice our time before a block is asked of two: what is on its way
/// already comes within that.
const WORTH: u64 = 2000;

/// Seconds in which one alone is asked for a piece that was wrong, before a suspect or one four times as fast may be.
const ALONE: u32 = 30;

impl Picker {
    // Peers.

    /// Chooses up to `most` blocks to be asked of a peer that sends `rate` bytes a second, and appends them to `out`. They
    /// count as asked from then on.
    #[expect(clippy::too_many_arguments, reason = "the peer, what it and we have, and what comes of it")]
    pub fn pick(
        &mut self,
        peer: PeerKey,
        rate: u32,
        has: &Have,
        ours: &Have,
        most: usize,
        now: u32,
        out: &mut Vec<Block>,
    ) {
        self.now = self.now.max(now);
        self.sources.get_or_insert_with(peer, Default::default).rate = rate;
        let end = out.len().saturating_add(most);
        self.pick_open(peer, has, ours, end, out);
        if out.len() < end {
            self.pick_new(peer, has, ours, end, out);
        }
        if out.len() < end {
            self.pick_again(peer, has, ours, end, out);
        }
    }

    /// Asks for free blocks of one piece until `out` has `end`.
    fn take(&mut self, peer: PeerKey, piece: u32, end: usize, out: &mut Vec<Block>) {
        let Some(begun) = self.begun.get_mut(&piece) else { return };
        let (before, most, lengths) = (out.len(), end.saturating_sub(out.len()), self.lengths);
        begun.ask(peer, most, self.now, |begin, len| out.extend(lengths.block(piece, begin, len)));
        if out.len() > before && matches!(begun.access, Access::Retry(_) | Access::Alone(..)) {
            begun.access = match begun.access {
                Access::Alone(one, since) if one == peer => Access::Alone(one, since),
                _ => Access::Alone(peer, self.now),
            };
        }
        if !begun.is_open() {
            self.open.remove(&piece);
        }
        self.asked_more(peer, u32::try_from(out.len() - before).unwrap_or(0));
    }

    /// What is begun comes first: pieces it works on already, then those that have come farthest.
    fn pick_open(&mut self, peer: PeerKey, has: &Have, ours: &Have, end: usize, out: &mut Vec<Block>) {
        let mut pieces: Vec<(bool, u32, u32)> = self
            .open
            .iter()
            .filter(|&&piece| has.contains(piece) && !ours.contains(piece))
            .filter_map(|&piece| Some((piece, self.begun.get(&piece)?)))
            .filter(|&(piece, begun)| self.may_ask(peer, piece, begun))
            .map(|(piece, begun)| (!begun.knows(peer), u32::MAX - begun.received(), piece))
            .take(LOOKS)
            .gather();
        list::sort(&mut pieces);
        for (.., piece) in pieces {
            if out.len() >= end {
                break;
            }
            self.take(peer, piece, end, out);
        }
    }

    /// Whether a peer may be asked for what is free of a piece.
    fn may_ask(&self, peer: PeerKey, piece: u32, begun: &Begun) -> bool {
        match begun.access {
            Access::Anyone => true,
            // Whose blocks of it were kept is trusted with the others too: then all of it is its, or nearly.
            Access::Retry(_) if begun.knows(peer) || !self.failures.is_suspect(piece, peer) => true,
            Access::Retry(since) => {
                let is_kept = begun.names().any(|name| self.sources.contains_key(name));
                self.now >= since.saturating_add(ALONE) || !is_kept && self.have_suspects_alone(piece)
            }
            Access::Alone(one, since) => {
                let rate = |peer| self.sources.get(&peer).map_or(0, |source| source.rate);
                one == peer
                    || self.now >= since.saturating_add(ALONE) && rate(peer) / 4 > rate(one)
                    || self.is_silent(one)
            }
        }
    }

    /// Whether all that have that piece sent some of it when it was wrong.
    fn have_suspects_alone(&self, piece: u32) -> bool {
        let suspects = self.failures.suspects(piece);
        let here = suspects.iter().filter(|suspect| self.sources.contains_key(suspect)).count();
        self.availability.of(piece) as usize <= here
    }

    fn is_silent(&self, peer: PeerKey) -> bool {
        self.sources.get(&peer).is_none_or(|source| self.now >= source.heard.saturating_add(SILENT))
    }

    /// Begins the rarest pieces of those looked at, as many as are needed.
    fn pick_new(&mut self, peer: PeerKey, has: &Have, ours: &Have, end: usize, out: &mut Vec<Block>) {
        let epoch = self.epoch;
        if self.sources.get(&peer).is_some_and(|source| source.vain == Some(epoch)) || !self.has_room() {
            return;
        }
        let per_piece = self.lengths.piece_length().div_ceil(BLOCK) as usize;
        let needed = (end - out.len()).div_ceil(per_piece);
        let by_chance = self.is_beginning(ours);
        let looks = if by_chance { needed.min(LOOKS) } else { LOOKS.max(needed) };
        let limit = self.limit(ours);
        let start = self.start(limit);
        let mut found: Vec<Reverse<(u32, u32, u32)>> = Vec::new();
        let (availability, taken) = (&self.availability, &self.taken);
        round(
            start,
            limit,
            |at| has.byte(at) & !ours.byte(at) & !taken.byte(at),
            |piece| {
                let order = u32::try_from(found.len()).unwrap_or(u32::MAX);
                found.push(Reverse((if by_chance { 0 } else { availability.of(piece) }, order, piece)));
                found.len() < looks
            },
        );
        if found.is_empty() {
            if let Some(source) = self.sources.get_mut(&peer) {
                source.vain = Some(epoch);
            }
            return;
        }
        // Ties go by the order from the random place on: several small pieces at once lie side by side.
        let mut found = BinaryHeap::from(found);
        for _ in 0..needed {
            let Some(Reverse((.., piece))) = found.pop().filter(|_| out.len() < end && self.has_room())
            else {
                break;
            };
            self.begin(piece, Access::Anyone);
            self.take(peer, piece, end, out);
        }
    }

    fn is_beginning(&mut self, ours: &Have) -> bool {
        if !self.has_begun_well {
            let mut had = 0;
            round(
                0,
                self.lengths.piece_count(),
                |at| ours.byte(at),
                |_| {
                    had += 1;
                    had < FIRST_PIECES
                },
            );
            self.has_begun_well = had >= FIRST_PIECES;
        }
        !self.has_begun_well
    }

    /// No piece from that one on may be begun.
    fn limit(&self, ours: &Have) -> u32 {
        let pieces = self.lengths.piece_count();
        let Some(window) = self.window else { return pieces };
        let mut limit = pieces;
        round(
            0,
            pieces,
            |at| !ours.byte(at),
            |first| {
                limit = first.saturating_add(window).min(pieces);
                false
            },
        );
        limit
    }

    fn start(&mut self, limit: u32) -> u32 {
        self.random.up_to(limit.saturating_sub(1))
    }

    // The end game.

    /// Asks for what others are slow with, once there is nothing else.
    fn pick_again(&mut self, peer: PeerKey, has: &Have, ours: &Have, end: usize, out: &mut Vec<Block>) {
        let Some(source) = self.sources.get_mut(&peer).filter(|source| source.idle != Some(self.now)) else {
            return;
        };
        source.idle = Some(self.now);
        let before = out.len();
        if !self.is_end_game(ours) {
            return;
        }
        self.pick_claimed(peer, has, end, out);
        if out.len() < end {
            self.pick_asked(peer, has, end, out);
        }
        if out.len() > before
            && let Some(source) = self.sources.get_mut(&peer)
        {
            source.idle = None;
        }
    }

    /// Whether every block that somebody has is asked for.
    fn is_end_game(&self, ours: &Have) -> bool {
        let open = |piece: &u32| {
            self.availability.of(*piece) > 0
                && self
                    .begun
                    .get(piece)
                    .is_some_and(|begun| begun.access == Access::Anyone && begun.has_unasked())
        };
        if self.open.iter().any(open) {
            return false;
        }
        let mut is_end_game = true;
        let taken = &self.taken;
        round(
            0,
            self.limit(ours),
            |at| !ours.byte(at) & !taken.byte(at),
            |piece| {
                is_end_game = self.availability.of(piece) == 0;
                is_end_game
            },
        );
        is_end_game
    }

    /// Milliseconds that a source needs for that many blocks beside those it is asked for; `None` where it is not known.
    fn time(&self, peer: PeerKey, more: u32) -> Option<u64> {
        let source = self.sources.get(&peer).filter(|source| source.rate > 0)?;
        Some(u64::from(source.asked.saturating_add(more)) * u64::from(BLOCK) * 1000 / u64::from(source.rate))
    }

    /// Whether one who needs `mine` for a block should be asked for it too, though another is, who has so many to send that
    /// nobody else was asked for, the oldest of them for so many seconds.
    fn is_worth(&self, mine: Option<u64>, other: PeerKey, blocks: usize, oldest: u16) -> bool {
        if u32::from(oldest) >= SILENT && self.is_silent(other) {
            // The slower it is the longer others have the time to be first.
            return mine.unwrap_or(1000 * u64::from(SILENT)) <= u64::from(oldest) * 500;
        }
        let rate = self.sources.get(&other).map_or(0, |source| source.rate);
        let theirs = (blocks as u64 * u64::from(BLOCK) * 1000).checked_div(rate.into()).unwrap_or(0);
        // The rate may be an old one: for how long nothing has come tells as much.
        let theirs = theirs.max((u64::from(oldest) * 1000).saturating_sub(WORTH));
        oldest >= 2 && mine.is_some_and(|mine| theirs > 2 * mine + WORTH)
    }

    /// Takes the last piece of a web seed's run away where that will not be there for long.
    fn pick_claimed(&mut self, peer: PeerKey, has: &Have, end: usize, out: &mut Vec<Block>) {
        for at in 0..self.claims.len() {
            while out.len() < end {
                let claim = &self.claims[at];
                let Some(last) = claim.run.clone().next_back().filter(|last| !self.begun.contains_key(last))
                else {
                    break;
                };
                let blocks = self.size(last).div_ceil(BLOCK);
                let ahead = u64::from(last - claim.run.start) * u64::from(self.lengths.piece_length());
                let age = self.now.saturating_sub(claim.since);
                let theirs = ahead.saturating_mul(1000) / u64::from(claim.rate(self.now).max(1));
                let late = age >= 2 && self.time(peer, blocks).is_some_and(|mine| theirs > mine);
                let silent = age >= SILENT && self.is_silent(claim.seed);
                if !(late || silent) || !has.contains(last) || !self.has_room() {
                    break;
                }
                self.claims[at].run.end = last;
                self.begin(last, Access::Anyone);
                self.take(peer, last, end, out);
            }
        }
    }

    /// Asks for blocks that one other was asked for, the last first: the slow go on with theirs, and the fast come to meet
    /// them.
    fn pick_asked(&mut self, peer: PeerKey, has: &Have, end: usize, out: &mut Vec<Block>) {
        let start = self.start(self.lengths.piece_count());
        let mut looks = END_LOOKS;
        let mut others: Vec<(PeerKey, u16, u32, u32)> = Vec::new();
        for (&piece, begun) in self.begun.range(start..).chain(self.begun.range(..start)) {
            if looks == 0 {
                break;
            }
            if !has.contains(piece) || begun.is_whole() {
                continue;
            }
            looks = looks.saturating_sub(begun.blocks() as usize);
            for (block, other, age) in begun.single(self.now).filter(|&(_, other, _)| other != peer) {
                others.push((other, u16::MAX - age, piece, block));
            }
        }
        list::sort(&mut others);
        for blocks in others.chunk_by(|(one, ..), (other, ..)| one == other) {
            let (other, youth, ..) = blocks[0];
            for (at, &(.., piece, block)) in blocks.iter().enumerate().rev() {
                if out.len() >= end || !self.is_worth(self.time(peer, 1), other, at + 1, u16::MAX - youth) {
                    break;
                }
                let Some(begun) = self.begun.get_mut(&piece) else { continue };
                if let Some((begin, len)) = begun.ask_again(peer, block, self.now) {
                    out.extend(self.lengths.block(piece, begin, len));
                    self.asked_more(peer, 1);
                }
            }
        }
    }

    // Web seeds.

    /// Reserves a run of whole pieces for a web seed, `most` bytes but one piece at least: pieces on which nobody works and
    /// that no peer on our own links has, from a random place on, at first where no peer has them at all. `remote_too`:
    /// those that peers elsewhere have may be in it. When all are begun it is one that others are too slow with. The run is
    /// to be fetched in order, from [`Picker::ready`] of its first piece on; what the seed had before is no longer its.
    pub fn claim(&mut self, seed: PeerKey, ours: &Have, most: u64, remote_too: bool) -> Option<Range<u32>> {
        self.unclaim(seed);
        let limit = self.limit(ours);
        let start = self.start(limit);
        let (mut first, mut looks) = (None, CLAIM_LOOKS);
        round(
            start,
            limit,
            |at| !ours.byte(at),
            |piece| {
                looks -= 1;
                if self.may_claim(seed, piece, ours, remote_too) {
                    let is_nobodys = self.availability.of(piece) == 0;
                    first = first.filter(|_| !is_nobodys).or(Some(piece));
                    looks = if is_nobodys { 0 } else { looks.min(LOOKS) };
                }
                looks > 0
            },
        );
        let run = match first {
            Some(first) => {
                let pieces = most / u64::from(self.lengths.piece_length());
                let end = first.saturating_add(u32::try_from(pieces.max(1)).unwrap_or(u32::MAX)).min(limit);
                let end = (first + 1..end)
                    .find(|&piece| !self.may_claim(seed, piece, ours, remote_too))
                    .unwrap_or(end);
                first..end
            }
            None if remote_too && self.is_end_game(ours) => self.slow_piece(seed, ours)?,
            None => return None,
        };
        self.asked_more(seed, 0);
        for piece in run.clone() {
            self.taken.set(piece, true);
            self.ask_rest(seed, piece);
            if let Some(begun) = self.begun.get_mut(&piece).filter(|begun| begun.access != Access::Anyone) {
                begun.access = Access::Alone(seed, self.now);
            }
        }
        self.claims.push(Claim { seed, run: run.clone(), since: self.now, bytes: 0 });
        Some(run)
    }

    /// What a web seed claimed and has not sent is free again.
    pub fn unclaim(&mut self, seed: PeerKey) {
        if let Some(at) = self.claims.iter().position(|claim| claim.seed == seed) {
            let claim = self.claims.swap_remove(at);
            for piece in claim.run.filter(|piece| !self.begun.contains_key(piece)) {
                self.taken.set(piece, false);
            }
            self.epoch = self.epoch.wrapping_add(1);
        }
        self.release_all(seed);
    }

    /// What a web seed is still to send: peers take from its end what it would be long in coming to.
    pub fn claimed(&self, seed: PeerKey) -> Option<Range<u32>> {
        self.claims.iter().find(|claim| claim.seed == seed).map(|claim| claim.run.clone())
    }

    fn may_claim(&self, seed: PeerKey, piece: u32, ours: &Have, remote_too: bool) -> bool {
        let is_free = match self.begun.get(&piece) {
            None => !self.taken.contains(piece),
            // Those that worked on it are gone.
            Some(begun) => begun.is_idle() && !self.is_claimed(piece) && self.may_ask(seed, piece, begun),
        };
        is_free
            && !ours.contains(piece)
            && !self.availability.is_local(piece)
            && (remote_too || self.availability.of(piece) == 0)
    }

    pub(super) fn is_claimed(&self, piece: u32) -> bool {
        self.claims.iter().any(|claim| claim.run.contains(&piece))
    }

    /// The piece with the most blocks that others are too slow with.
    fn slow_piece(&self, seed: PeerKey, ours: &Have) -> Option<Range<u32>> {
        let mut looks = END_LOOKS;
        let mut slowest = None;
        for (&piece, begun) in self.begun.iter() {
            if looks == 0 {
                break;
            }
            if ours.contains(piece) || self.availability.is_local(piece) || self.is_claimed(piece) {
                continue;
            }
            looks = looks.saturating_sub(begun.blocks() as usize);
            let missing = begun.blocks() - begun.received();
            let time = self.time(seed, missing).unwrap_or(WORTH);
            let is_slow = |&(_, other, age): &_| {
                let blocks = self.sources.get(&other).map_or(0, |source| source.asked);
                self.is_worth(Some(time), other, blocks as usize, age)
            };
            let slow = begun.single(self.now).filter(is_slow).count();
            if slow > 0 && slowest.is_none_or(|(most, _)| slow > most) {
                slowest = Some((slow, piece));
            }
        }
        slowest.map(|(_, piece)| piece..piece + 1)
    }
}

impl Claim {
    /// Bytes a second since it was made.
    pub(super) fn rate(&self, now: u32) -> u32 {
        let seconds = now.saturating_sub(self.since).max(1);
        u32::try_from(self.bytes / u64::from(seconds)).unwrap_or(u32::MAX)
    }
}

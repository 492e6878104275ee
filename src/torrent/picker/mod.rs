//! What is asked of whom: the pieces of a torrent that we lack, from the first request to the verdict.
//!
//! Read first: BEP 3 ("rarest first", "end game"), BEP 19 (why web seeds want long runs). A block is asked of one peer, in the
//! end game of two. Beside this file: what of a piece has come (`begun`), how rare pieces are (`availability`), which are
//! taken (`choice`, `taken`), who lied (`blame`). Omitted: how much a peer is asked for at a time (`peer::requests`), and all
//! bytes. Holds three bytes a piece and, of pieces that are begun, 8 bytes a block.

mod availability;
mod begun;
mod blame;
mod choice;
mod taken;

use std::ops::Range;

use crate::have::Have;
use crate::list::{self, Gather};
use crate::peer::PeerKey;
use crate::piece::{BLOCK, Block, Lengths};
use crate::random::Random;
use crate::sorted::{SortedMap, SortedSet};
use availability::Availability;
use begun::{Access, Begun, Fragment, NOBODY};
use blame::Failures;
use taken::Taken;

/// What begun pieces may take, in blocks of 8 bytes, 512 KiB: forty peers each with a piece of 16 MiB of their own. With more,
/// pieces on which nobody works keep a bit a block; who sent their blocks is forgotten.
const MAX_BLOCKS: usize = 65_536;

/// What a piece takes beside its blocks, in the same measure.
const PIECE_COST: usize = 16;

/// A torrent that is fetched. Times are seconds since the daemon started.
pub struct Picker {
    lengths: Lengths,
    random: Random,
    /// How far beyond the first missing piece others may be begun.
    window: Option<u32>,
    availability: Availability,
    /// Pieces that are begun, or claimed by a web seed.
    taken: Taken,
    begun: SortedMap<u32, Begun>,
    /// Those of them with blocks that nobody is asked for.
    open: SortedSet<u32>,
    /// What all that are begun take: see [`MAX_BLOCKS`].
    load: usize,
    /// Which blocks have come of pieces that were begun and given up.
    parked: SortedMap<u32, Box<[u8]>>,
    claims: Vec<Claim>,
    sources: SortedMap<PeerKey, Source>,
    failures: Failures,
    /// The time of the last pick.
    now: u32,
    /// Counts how often pieces have come free, or have come to somebody.
    epoch: u32,
    /// We have enough pieces to give that rare ones come first.
    has_begun_well: bool,
}

/// A peer or web seed of which something is or was asked.
#[derive(Default)]
struct Source {
    /// Bytes a second.
    rate: u32,
    /// Blocks it is asked for.
    asked: u32,
    /// Blocks of it in pieces that were right.
    good: u32,
    /// When something last came of it.
    heard: u32,
    /// The epoch in which it was found to have no piece that is free.
    vain: Option<u32>,
    /// When it was last found of no use in the end game.
    idle: Option<u32>,
}

/// Pieces that a web seed fetches.
struct Claim {
    seed: PeerKey,
    /// Those that have not come yet.
    run: Range<u32>,
    since: u32,
    /// Bytes that have come.
    bytes: u64,
}

/// What becomes of a fragment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Arrived {
    /// It is to be written.
    pub keep: bool,
    /// It was the last of its block.
    pub block_done: bool,
    /// It was the last of its piece: all blocks have come.
    pub piece_done: bool,
}

/// Who sent what was wrong.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Blame {
    /// To be banned: they surely lied.
    pub liars: Vec<PeerKey>,
}

impl Picker {
    /// For a torrent of which nothing is asked yet. The same seed makes the same choices.
    pub fn new(lengths: Lengths, seed: u64) -> Picker {
        let pieces = lengths.piece_count();
        Picker {
            lengths,
            random: Random::new(seed),
            window: None,
            availability: Availability::new(pieces),
            taken: Taken::new(pieces),
            begun: SortedMap::new(),
            open: SortedSet::new(),
            load: 0,
            parked: SortedMap::new(),
            claims: Vec::new(),
            sources: SortedMap::new(),
            failures: Failures::default(),
            now: 0,
            epoch: 0,
            has_begun_well: false,
        }
    }

    /// Only pieces so far beyond the first missing one are begun: FAT fills what is skipped with zeros.
    pub fn set_window(&mut self, pieces: Option<u32>) {
        if self.window != pieces {
            self.window = pieces;
            self.epoch = self.epoch.wrapping_add(1);
        }
    }

    /// Pieces in work.
    pub fn active(&self) -> usize {
        self.begun.len()
    }

    /// Whether nothing of any piece has come, nor is asked.
    pub fn is_idle(&self) -> bool {
        self.begun.is_empty() && self.parked.is_empty()
    }

    /// Bytes that all this takes.
    pub fn memory(&self) -> usize {
        let begun: usize = self.begun.values().map(Begun::memory).sum();
        let parked: usize = self.parked.values().map(|bits| bits.len() + size_of::<(u32, Box<[u8]>)>()).sum();
        size_of::<Picker>()
            + self.availability.memory()
            + self.taken.memory()
            + begun
            + parked
            + self.open.len() * size_of::<u32>()
            + self.claims.capacity() * size_of::<Claim>()
            + self.sources.len() * size_of::<(PeerKey, Source)>()
            + self.failures.memory()
    }

    // Peers.

    /// The pieces of a peer count from now on.
    pub fn joined(&mut self, has: &Have, local: bool) {
        self.availability.add(has, local);
        self.epoch = self.epoch.wrapping_add(1);
    }

    /// A peer that counts has one piece more.
    pub fn gained(&mut self, piece: u32, local: bool) {
        self.availability.gained(piece, local);
        self.epoch = self.epoch.wrapping_add(1);
    }

    /// A peer that counts has one piece less.
    pub fn lacks(&mut self, piece: u32, local: bool) {
        self.availability.lost(piece, local);
    }

    /// A peer goes, and with it what it was asked for. What it sent stays under its name.
    pub fn left(&mut self, peer: PeerKey, has: &Have, local: bool) {
        self.availability.remove(has, local);
        self.unclaim(peer);
        self.sources.remove(&peer);
    }

    /// Whether a peer has a piece that we lack.
    pub fn wants(&self, has: &Have, ours: &Have) -> bool {
        let mut wants = false;
        taken::round(
            0,
            self.lengths.piece_count(),
            |at| has.byte(at) & !ours.byte(at),
            |_| {
                wants = true;
                false
            },
        );
        wants
    }

    /// A peer does not send a block that it was asked for, having refused it or choked us: others may be asked.
    pub fn release(&mut self, peer: PeerKey, block: Block) {
        self.lose(peer, block, false);
    }

    /// A peer is late with a block: others may be asked. Should it come all the same, and first, it is taken; comes another's
    /// first, the late one is among [`Picker::others`].
    pub fn late(&mut self, peer: PeerKey, block: Block) {
        self.lose(peer, block, true);
    }

    fn lose(&mut self, peer: PeerKey, block: Block, late: bool) {
        let piece = block.piece.index();
        let Some(begun) = self.begun.get_mut(&piece) else { return };
        let was_asked = begun.release(peer, block.begin / BLOCK, late);
        if was_asked {
            self.asked_less(peer, 1);
        }
        self.lost(peer, piece);
    }

    /// A peer sends nothing of what it was asked for.
    pub fn release_all(&mut self, peer: PeerKey) {
        let pieces: Vec<u32> =
            self.begun.iter().filter(|(_, begun)| begun.knows(peer)).map(|(&piece, _)| piece).gather();
        for piece in pieces {
            let Some(begun) = self.begun.get_mut(&piece) else { continue };
            let lost = begun.leave(peer);
            self.asked_less(peer, lost);
            self.lost(peer, piece);
        }
    }

    /// A peer has lost blocks of that piece.
    fn lost(&mut self, peer: PeerKey, piece: u32) {
        let Some(begun) = self.begun.get_mut(&piece) else { return };
        if begun.is_open() {
            self.open.insert(piece);
            if matches!(begun.access, Access::Alone(one, _) if one == peer) {
                begun.access = Access::Retry(self.now);
            }
        }
        if begun.access == Access::Anyone && begun.is_untouched() {
            self.end(piece);
        }
    }

    fn asked_more(&mut self, peer: PeerKey, blocks: u32) {
        let source = self.sources.get_or_insert_with(peer, Source::default);
        if source.asked == 0 {
            // Before it was asked it could not be silent.
            source.heard = self.now;
        }
        source.asked += blocks;
    }

    fn asked_less(&mut self, peer: PeerKey, blocks: u32) {
        if let Some(source) = self.sources.get_mut(&peer) {
            source.asked = source.asked.saturating_sub(blocks);
        }
    }

    // Pieces begin and end.

    fn size(&self, piece: u32) -> u32 {
        self.lengths.piece(piece).map_or(0, |piece| self.lengths.size(piece))
    }

    /// Makes room for a piece to be begun; `false` if all that are begun are in work.
    fn has_room(&mut self) -> bool {
        let more = self.lengths.piece_length().div_ceil(BLOCK) as usize + PIECE_COST;
        while self.load > 0 && self.load + more > MAX_BLOCKS {
            let idle = |begun: &&Begun| begun.is_idle() && begun.access == Access::Anyone;
            let parked = |&piece: &u32| Some((piece, self.begun.get(&piece).filter(idle)?.parked()));
            let Some((piece, bits)) = self.open.iter().find_map(parked) else { return false };
            self.end(piece);
            self.parked.insert(piece, bits);
        }
        true
    }

    fn begin(&mut self, piece: u32, access: Access) -> &mut Begun {
        let mut begun = Begun::new(self.size(piece), access);
        if let Some(bits) = self.parked.remove(&piece) {
            begun.unpark(&bits);
        }
        self.load += begun.blocks() as usize + PIECE_COST;
        self.taken.set(piece, true);
        if begun.is_open() {
            self.open.insert(piece);
        }
        self.begun.get_or_insert_with(piece, || begun)
    }

    /// Nothing more is known of that piece.
    fn end(&mut self, piece: u32) -> Option<Begun> {
        let begun = self.begun.remove(&piece)?;
        self.open.remove(&piece);
        self.load -= begun.blocks() as usize + PIECE_COST;
        self.taken.set(piece, self.is_claimed(piece));
        for peer in begun.asked() {
            self.asked_less(peer, 1);
        }
        self.epoch = self.epoch.wrapping_add(1);
        Some(begun)
    }

    // What comes.

    /// A fragment of the block that begins at `begin` rounded down to [`BLOCK`], `len` bytes from `begin` on, with `rest` of
    /// the block still to come.
    pub fn arrived(&mut self, from: PeerKey, piece: u32, begin: u32, len: u32, rest: u32) -> Arrived {
        let waste = Arrived::default();
        let Some(end) = self.lengths.block(piece, begin, len) else { return waste };
        if let Some(source) = self.sources.get_mut(&from) {
            source.heard = self.now;
        }
        if !self.begun.contains_key(&piece) && !self.begin_expected(from, piece) {
            return waste;
        }
        let Some(begun) = self.begun.get_mut(&piece) else { return waste };
        let was_open = begun.is_open();
        let was_asked = rest == 0 && begun.is_asked(from, begin);
        let fragment = begun.arrived(from, begin, len, rest);
        let (is_open, piece_done) = (begun.is_open(), begun.is_whole());
        if fragment == Fragment::Waste {
            if rest == 0 {
                // Another took the block over: this one has done with it all the same.
                self.release(from, end);
            }
            return waste;
        }
        if was_open && !is_open {
            self.open.remove(&piece);
        }
        if fragment == Fragment::End && was_asked {
            self.asked_less(from, 1);
        }
        for claim in &mut self.claims {
            let is_its = claim.seed == from;
            claim.bytes += if is_its { len.into() } else { 0 };
            if is_its && let Some(source) = self.sources.get_mut(&from) {
                source.rate = claim.rate(self.now);
            }
            if piece_done && claim.run.contains(&piece) && (is_its || claim.run.start == piece) {
                claim.run.start = piece + 1;
            }
        }
        let block_done = fragment == Fragment::End;
        Arrived { keep: true, block_done, piece_done: block_done && piece_done }
    }

    /// A piece that is not in work is expected of the web seed that claimed it, and of peers that were late with it before
    /// it was parked.
    fn begin_expected(&mut self, from: PeerKey, piece: u32) -> bool {
        let claimed = self.claims.iter().any(|claim| claim.seed == from && claim.run.contains(&piece));
        if !(claimed || self.parked.contains_key(&piece)) || !self.has_room() {
            return false;
        }
        self.begin(piece, Access::Anyone);
        if claimed {
            self.ask_rest(from, piece);
        }
        true
    }

    /// Asks one for all that has not come of a piece that is begun.
    fn ask_rest(&mut self, from: PeerKey, piece: u32) {
        let Some(begun) = self.begun.get_mut(&piece) else { return };
        let asked = begun.ask_rest(from, self.now);
        if !begun.is_open() {
            self.open.remove(&piece);
        }
        self.asked_more(from, asked);
    }

    /// Who else was asked for a block that has come, to be sent `cancel`: appended to `out`.
    pub fn others(&mut self, block: Block, except: PeerKey, out: &mut Vec<PeerKey>) {
        let Some(begun) = self.begun.get_mut(&block.piece.index()) else { return };
        let sources = &mut self.sources;
        begun.others(block.begin / BLOCK, except, |other, live| {
            out.push(other);
            if let Some(source) = sources.get_mut(&other).filter(|_| live) {
                source.asked = source.asked.saturating_sub(1);
            }
        });
    }

    /// Bytes that have come from the start of a piece on without a gap.
    pub fn ready(&self, piece: u32) -> u32 {
        match (self.begun.get(&piece), self.parked.get(&piece)) {
            (Some(begun), _) => begun.ready(),
            (None, Some(bits)) => {
                let mut begun = Begun::new(self.size(piece), Access::Anyone);
                begun.unpark(bits);
                begun.ready()
            }
            _ => 0,
        }
    }

    // Verdicts.

    /// An earlier attempt at that piece was wrong: the digests of the right one tell who lied.
    pub fn wants_digests(&self, piece: u32) -> bool {
        self.failures.contains(piece)
    }

    /// A piece of which all has come was hashed; `digests` has the first eight bytes of each block's SHA-1, of a wrong piece
    /// or where they were asked for. Of a wrong piece a half is to be fetched again, and all of it if that does not help.
    pub fn verified(&mut self, piece: u32, good: bool, digests: &[u64]) -> Blame {
        if !self.begun.get(&piece).is_some_and(Begun::is_whole) {
            return Blame::default();
        }
        let Some(begun) = self.end(piece) else { return Blame::default() };
        let senders = begun.senders();
        if good {
            for run in senders.chunk_by(PeerKey::eq) {
                if let Some(source) = self.sources.get_mut(&run[0]) {
                    source.good = source.good.saturating_add(u32::try_from(run.len()).unwrap_or(0));
                }
            }
            return Blame { liars: self.failures.resolve(piece, digests) };
        }
        let liar = begun.sender().filter(|&sender| sender != NOBODY);
        let kept = self.kept(&begun, &senders);
        let access = match begun.access {
            Access::Alone(one, _) if kept.contains(&Some(one)) => Access::Alone(one, self.now),
            _ => Access::Retry(self.now),
        };
        if liar.is_none() || begun.attempt == 0 {
            self.failures.remember(piece, digests, senders);
        }
        self.begin(piece, access).keep(&kept, begun.attempt.saturating_add(1));
        Blame { liars: liar.into_iter().collect() }
    }

    /// Which blocks of a wrong piece need not come again at once, and whose they are: at first one half of them, for that is
    /// enough as often as not, then those that came in the second try; and after that none.
    fn kept(&self, begun: &Begun, senders: &[PeerKey]) -> Vec<Option<PeerKey>> {
        let trusted = match (begun.attempt, begun.access) {
            (0, _) if begun.sender().is_some() => {
                // All are of one who lies: any half may be the right one.
                let half = senders.len().div_ceil(2);
                return (0..senders.len()).map(|block| (block >= half).then_some(NOBODY)).collect();
            }
            (0, _) => self.better_half(senders),
            (1, Access::Alone(one, _)) if begun.sender().is_none() => vec![one],
            _ => Vec::new(),
        };
        senders.iter().map(|&sender| Some(sender).filter(|sender| trusted.contains(sender))).collect()
    }

    /// Those senders whose blocks were right elsewhere, if not, who sent most.
    fn better_half(&self, senders: &[PeerKey]) -> Vec<PeerKey> {
        let mut sent = senders.to_vec();
        list::sort(&mut sent);
        let good = |peer| self.sources.get(&peer).map_or(0, |source| source.good);
        let sent = sent.chunk_by(PeerKey::eq);
        let mut best = sent.map(|blocks| (good(blocks[0]), blocks.len(), blocks[0])).gather();
        list::sort_by(&mut best, |one, other| one > other);
        best.truncate(best.len() / 2);
        best.into_iter().map(|(.., peer)| peer).filter(|&peer| peer != NOBODY).gather()
    }
}

#[cfg(test)]
mod tests;

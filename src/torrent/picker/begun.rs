//! A piece in work: what of it has come, who sent it, and of whom the rest is asked.
//!
//! Omitted: which piece is begun and for whom. Holds 8 bytes a block and 4 for each peer that had to do with the piece;
//! the blocks' bytes are with the storage thread.

use crate::peer::PeerKey;
use crate::piece::BLOCK;

/// Peers that had to do with a piece at a time: what a byte can name. With more than that the next one is not asked.
const MAX_NAMES: usize = 254;

/// Seconds after which a block that a peer is late with was lost: it may be asked for it again.
const LOST: u16 = 60;

/// Who sent a block that came in an attempt of which no more is remembered.
pub(super) const NOBODY: PeerKey = PeerKey(u32::MAX);

const LIVE: [u8; 2] = [1, 2];
const RECEIVED: u8 = 4;

/// A block.
#[derive(Clone, Copy, Default)]
struct Slot {
    /// Who was asked, as [`Begun::names`] has them, from 1 on: at most two, so that no end game is a flood. Without its
    /// flag of [`LIVE`] one is late: the block may still come of it, but others are asked.
    asked: [u8; 2],
    /// Who sends it, or has sent it.
    from: u8,
    flags: u8,
    /// Bytes that have come of it.
    fill: u16,
    /// When it was last asked for: the low bits of the seconds.
    since: u16,
}

const _: () = assert!(size_of::<Slot>() == 8);

impl Slot {
    fn is_received(self) -> bool {
        self.flags & RECEIVED != 0
    }

    /// Somebody is asked.
    fn is_live(self) -> bool {
        self.flags & (LIVE[0] | LIVE[1]) != 0
    }

    fn is_free(self) -> bool {
        !self.is_received() && !self.is_live()
    }

    /// Somebody is late with it and nobody else is asked.
    fn is_late(self) -> bool {
        self.is_free() && self.asked != [0, 0]
    }

    fn drop_asked(&mut self, which: usize) {
        self.asked[which] = 0;
        self.flags &= !LIVE[which];
    }
}

/// Who may be asked for what is free of a piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    /// Whoever has it.
    Anyone,
    /// An earlier attempt was wrong: one alone, who is still to be found. Since when, in seconds.
    Retry(u32),
    /// The one that was found, and when.
    Alone(PeerKey, u32),
}

/// What a fragment is to its piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fragment {
    /// Nothing.
    Waste,
    /// A part of a block.
    Part,
    /// The end of one.
    End,
}

/// A piece in work.
pub(super) struct Begun {
    slots: Box<[Slot]>,
    names: Vec<PeerKey>,
    /// Bytes of the last block.
    last: u32,
    /// Blocks that nobody is asked for.
    free: u32,
    /// Blocks that have not come.
    missing: u32,
    /// No block before this is free.
    next_free: u32,
    /// Blocks from the start of the piece that have come.
    front: u32,
    pub(super) access: Access,
    /// How often it was wrong.
    pub(super) attempt: u8,
}

impl Begun {
    pub(super) fn new(size: u32, access: Access) -> Begun {
        let blocks = size.div_ceil(BLOCK);
        Begun {
            slots: vec![Slot::default(); blocks as usize].into(),
            names: Vec::new(),
            last: size - blocks.saturating_sub(1) * BLOCK,
            free: blocks,
            missing: blocks,
            next_free: 0,
            front: 0,
            access,
            attempt: 0,
        }
    }

    pub(super) fn blocks(&self) -> u32 {
        u32::try_from(self.slots.len()).unwrap_or(u32::MAX)
    }

    pub(super) fn is_open(&self) -> bool {
        self.free > 0
    }

    pub(super) fn is_whole(&self) -> bool {
        self.missing == 0
    }

    /// How many blocks have come.
    pub(super) fn received(&self) -> u32 {
        self.blocks() - self.missing
    }

    /// Nobody is asked for any of it.
    pub(super) fn is_idle(&self) -> bool {
        self.free == self.missing && self.missing > 0
    }

    /// Nothing has come of it, and nothing is expected.
    pub(super) fn is_untouched(&self) -> bool {
        self.free == self.blocks() && self.slots.iter().all(|slot| slot.fill == 0 && slot.asked == [0, 0])
    }

    /// Bytes from its start that have come without a gap.
    pub(super) fn ready(&self) -> u32 {
        match self.front.checked_sub(1) {
            Some(before) if self.front == self.blocks() => before * BLOCK + self.last,
            _ => self.front * BLOCK,
        }
    }

    pub(super) fn knows(&self, peer: PeerKey) -> bool {
        self.names.contains(&peer)
    }

    /// Those that had to do with it.
    pub(super) fn names(&self) -> impl Iterator<Item = &PeerKey> {
        self.names.iter()
    }

    fn block_len(&self, block: u32) -> u32 {
        if block + 1 == self.blocks() { self.last } else { BLOCK }
    }

    fn id(&self, peer: PeerKey) -> Option<u8> {
        self.names.iter().position(|&name| name == peer).and_then(|at| u8::try_from(at + 1).ok())
    }

    /// The number of a peer that has to do with the piece from now on.
    fn add_id(&mut self, peer: PeerKey) -> Option<u8> {
        if let Some(id) = self.id(peer) {
            return Some(id);
        }
        if self.names.len() < MAX_NAMES {
            self.names.push(peer);
            return u8::try_from(self.names.len()).ok();
        }
        // The name of one that left without a block is of no more use.
        let mut used = [false; 256];
        for slot in &self.slots {
            for id in [slot.asked[0], slot.asked[1], slot.from] {
                used[usize::from(id)] = true;
            }
        }
        let free = (1..=MAX_NAMES).find(|&id| !used[id])?;
        self.names[free - 1] = peer;
        u8::try_from(free).ok()
    }

    fn name(&self, id: u8) -> Option<PeerKey> {
        self.names.get(usize::from(id).checked_sub(1)?).copied()
    }

    // Asking.

    /// Asks `peer` for up to `most` free blocks, in order, handing begin and length of each to `asked`. What it is late with it
    /// has in its queue still: a second request would have it sent twice.
    pub(super) fn ask(&mut self, peer: PeerKey, most: usize, now: u32, mut asked: impl FnMut(u32, u32)) {
        if most == 0 || !self.is_open() {
            return;
        }
        let Some(id) = self.add_id(peer) else { return };
        let (mut left, mut passed, mut block) = (most, None, self.next_free);
        while left > 0 && self.free > 0 && block < self.blocks() {
            let slot = self.slots[block as usize];
            if slot.is_free() && self.expects(block, id, now) {
                passed.get_or_insert(block);
            } else if slot.is_free() {
                self.mark(block, id, now);
                asked(block * BLOCK, self.block_len(block));
                left -= 1;
            }
            block += 1;
        }
        self.next_free = passed.unwrap_or(block);
    }

    /// Seconds since a block was last asked for.
    fn age(&self, block: u32, now: u32) -> u16 {
        self.slots.get(block as usize).map_or(0, |slot| low_bits(now).wrapping_sub(slot.since))
    }

    /// Whether a block is free with which nobody is late.
    pub(super) fn has_unasked(&self) -> bool {
        self.is_open() && self.slots.iter().any(|slot| slot.is_free() && !slot.is_late())
    }

    /// Asks `peer` for every block that has not come and is not asked of two already.
    pub(super) fn ask_rest(&mut self, peer: PeerKey, now: u32) -> u32 {
        let Some(id) = self.add_id(peer) else { return 0 };
        let mut asked = 0;
        for block in 0..self.blocks() {
            if self.askable(block, id, now) {
                self.mark(block, id, now);
                asked += 1;
            }
        }
        asked
    }

    /// Asks one more peer for a block; `None` if it may not be.
    pub(super) fn ask_again(&mut self, peer: PeerKey, block: u32, now: u32) -> Option<(u32, u32)> {
        let id = self.add_id(peer)?;
        self.askable(block, id, now).then(|| {
            self.mark(block, id, now);
            (block * BLOCK, self.block_len(block))
        })
    }

    /// Whether a block may be asked of one more.
    fn askable(&self, block: u32, id: u8, now: u32) -> bool {
        self.slots.get(block as usize).is_some_and(|slot| {
            let both = slot.flags & (LIVE[0] | LIVE[1]) == LIVE[0] | LIVE[1];
            !slot.is_received() && !both && !self.expects(block, id, now)
        })
    }

    /// Whether a block may still come of that one, on time or late.
    fn expects(&self, block: u32, id: u8, now: u32) -> bool {
        self.slots.get(block as usize).is_some_and(|slot| {
            let which = (0..2).find(|&which| slot.asked[which] == id);
            which.is_some_and(|which| slot.flags & LIVE[which] != 0 || self.age(block, now) < LOST)
        })
    }

    fn mark(&mut self, block: u32, id: u8, now: u32) {
        let slot = &mut self.slots[block as usize];
        self.free -= u32::from(slot.is_free());
        // Its own place, or an empty one, or that of one that is late.
        let which = (0..2)
            .find(|&which| slot.asked[which] == id)
            .or_else(|| (0..2).find(|&which| slot.asked[which] == 0))
            .or_else(|| (0..2).find(|&which| slot.flags & LIVE[which] == 0))
            .unwrap_or(0);
        slot.asked[which] = id;
        slot.flags |= LIVE[which];
        slot.since = low_bits(now);
    }

    /// The blocks that just one is asked for: their number, that one, for how many seconds, and bytes that have come.
    pub(super) fn single(&self, now: u32) -> impl Iterator<Item = (u32, PeerKey, u16)> + '_ {
        self.slots.iter().zip(0..).filter(|(slot, _)| !slot.is_received()).filter_map(move |(slot, block)| {
            let which = LIVE.iter().position(|live| slot.flags & (LIVE[0] | LIVE[1]) == *live)?;
            Some((block, self.name(slot.asked[which])?, self.age(block, now)))
        })
    }

    /// How many blocks are asked of each: a name for each time.
    pub(super) fn asked(&self) -> impl Iterator<Item = PeerKey> + '_ {
        self.slots.iter().flat_map(move |slot| {
            (0..2)
                .filter(move |&which| slot.flags & LIVE[which] != 0)
                .filter_map(move |which| self.name(slot.asked[which]))
        })
    }

    // Losing.

    /// `peer` does not send a block any more or, if `late`, not soon. `true` if it was asked.
    pub(super) fn release(&mut self, peer: PeerKey, block: u32, late: bool) -> bool {
        let Some(id) = self.id(peer) else { return false };
        let Some(slot) = self.slots.get_mut(block as usize) else { return false };
        let Some(which) = (0..2).find(|&which| slot.asked[which] == id) else { return false };
        let live = slot.flags & LIVE[which] != 0;
        if late {
            slot.flags &= !LIVE[which];
        } else {
            slot.drop_asked(which);
            // A part of a block is of no use without its rest.
            if slot.from == id && !slot.is_received() {
                (slot.from, slot.fill) = (0, 0);
            }
        }
        self.freed(block, live);
        live
    }

    /// `peer` sends nothing more; how many blocks it was asked for. What it sent stays.
    pub(super) fn leave(&mut self, peer: PeerKey) -> u32 {
        let Some(id) = self.id(peer) else { return 0 };
        let mut lost = 0;
        for block in 0..self.blocks() {
            let slot = &mut self.slots[block as usize];
            if slot.from == id && !slot.is_received() {
                (slot.from, slot.fill) = (0, 0);
            }
            if slot.asked.contains(&id) {
                lost += u32::from(self.release(peer, block, false));
            }
        }
        lost
    }

    fn freed(&mut self, block: u32, was_live: bool) {
        if was_live && self.slots[block as usize].is_free() {
            self.free += 1;
            self.next_free = self.next_free.min(block);
        }
    }

    // Coming.

    /// Takes a fragment: of one source each follows the one before it without a gap, and who begins a block anew has it
    /// from then on, so that no block is ever of two.
    pub(super) fn arrived(&mut self, from: PeerKey, begin: u32, len: u32, rest: u32) -> Fragment {
        let (block, at) = (begin / BLOCK, begin % BLOCK);
        let Some(slot) = self.slots.get(block as usize).copied() else { return Fragment::Waste };
        let whole = u64::from(at) + u64::from(len) + u64::from(rest) == u64::from(self.block_len(block));
        if slot.is_received() || !whole || len == 0 {
            return Fragment::Waste;
        }
        let id = if at == 0 { self.add_id(from) } else { self.id(from) };
        let Some(id) = id.filter(|&id| at == 0 || (id == slot.from && at == u32::from(slot.fill))) else {
            return Fragment::Waste;
        };
        let was_free = slot.is_free();
        let slot = &mut self.slots[block as usize];
        (slot.from, slot.fill) = (id, u16::try_from(at + len).unwrap_or(u16::MAX));
        if rest > 0 {
            return Fragment::Part;
        }
        slot.flags |= RECEIVED;
        if let Some(which) = slot.asked.iter().position(|&asked| asked == id) {
            slot.drop_asked(which);
        }
        self.free -= u32::from(was_free);
        self.missing -= 1;
        while self.slots.get(self.front as usize).is_some_and(|slot| slot.is_received()) {
            self.front += 1;
        }
        Fragment::End
    }

    #[cfg(test)]
    pub(super) fn is_unasked(&self, block: u32) -> bool {
        let slot = self.slots[block as usize];
        slot.is_free() && !slot.is_late()
    }

    /// Whether `peer` is asked for the block of which a fragment begins there.
    pub(super) fn is_asked(&self, peer: PeerKey, begin: u32) -> bool {
        let (Some(id), Some(slot)) = (self.id(peer), self.slots.get((begin / BLOCK) as usize)) else {
            return false;
        };
        (0..2).any(|which| slot.asked[which] == id && slot.flags & LIVE[which] != 0)
    }

    /// Who else was asked for a block that has come, late ones too; each is named once. `live`: it was not late.
    pub(super) fn others(&mut self, block: u32, except: PeerKey, mut other: impl FnMut(PeerKey, bool)) {
        let Some(slot) = self.slots.get(block as usize).copied().filter(|slot| slot.is_received()) else {
            return;
        };
        for (id, live) in slot.asked.into_iter().zip(LIVE) {
            if let Some(name) = self.name(id).filter(|&name| name != except) {
                other(name, slot.flags & live != 0);
            }
        }
        (0..2).for_each(|which| self.slots[block as usize].drop_asked(which));
    }

    // Blame.

    /// The one that sent all of it.
    pub(super) fn sender(&self) -> Option<PeerKey> {
        let first = self.slots.first()?.from;
        self.slots.iter().all(|slot| slot.from == first).then(|| self.name(first))?
    }

    /// Who sent each block.
    pub(super) fn senders(&self) -> Box<[PeerKey]> {
        self.slots.iter().map(|slot| self.name(slot.from).unwrap_or(NOBODY)).collect()
    }

    /// Begins another attempt with these blocks of one that was wrong.
    pub(super) fn keep(&mut self, kept: &[Option<PeerKey>], attempt: u8) {
        self.attempt = attempt;
        for (sender, block) in kept.iter().zip(0..) {
            if let Some(sender) = *sender {
                self.arrived(sender, block * BLOCK, self.block_len(block), 0);
            }
        }
    }

    // Memory.

    /// One bit a block: all that is kept of a piece on which nobody works, where many are.
    pub(super) fn parked(&self) -> Box<[u8]> {
        let bits = |slots: &[Slot]| {
            slots.iter().zip(0..).map(|(slot, bit)| u8::from(slot.is_received()) << bit).sum()
        };
        self.slots.chunks(8).map(bits).collect()
    }

    /// The other way.
    pub(super) fn unpark(&mut self, bits: &[u8]) {
        let received =
            |block: u32| bits.get(block as usize / 8).is_some_and(|byte| byte >> (block % 8) & 1 != 0);
        for block in (0..self.blocks()).filter(|&block| received(block)) {
            self.arrived(NOBODY, block * BLOCK, self.block_len(block), 0);
        }
    }

    pub(super) fn memory(&self) -> usize {
        size_of::<(u32, Begun)>() + size_of_val(&*self.slots) + self.names.capacity() * size_of::<PeerKey>()
    }
}

/// Sixteen bits of the time: that a block waits for longer than eighteen hours does not happen.
fn low_bits(seconds: u32) -> u16 {
    u16::try_from(seconds & 0xffff).unwrap_or(0)
}

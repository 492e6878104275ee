//! What a peer was asked for, how fast it delivers, and so how much to ask it for ahead.
//!
//! Read first: BEP 3 ("request", pipelining), BEP 10 (`reqq`), and any text on slow start and Little's law. Times are milliseconds on a clock that
//! may begin anew (in seven weeks), so only differences count. Omitted: which blocks (`torrent::picker`). Holds 16 bytes a
//! request, and the same for one taken back whose block may still come.

use std::collections::VecDeque;

use crate::list::{self, Gather, Keep};
use crate::piece::{BLOCK, Block, PieceIndex};

/// Requests at a time, whatever a peer takes: 8 MiB, all that a gigabit carries in a sixteenth of a second.
const MAX_REQQ: u32 = 500;

/// Requests at a time that every peer is asked for, at first and at least: one on its way, one being read, and two for a
/// rate that is about to grow.
const LEAST_DEPTH: u32 = 4;

/// How much more than the least latency the requests are to last: peers pause, and we ask in batches.
const AHEAD: u32 = 1000;

/// And how many bytes at most, for each [`NEAR`] of latency: what comes faster than it is taken lies in the kernel, and is
/// in no cache when its turn comes. With 500 requests on their way a block from next door costs a fifth more than with 64.
const AHEAD_BYTES: u32 = 1 << 20;

/// So near is one next door. The way to any other may well become longer.
const NEAR: u32 = 2;

/// The least time over which the rate is measured.
const ROUND: u32 = 500;

/// The most latency that counts: beyond it is a queue that more requests would only lengthen.
const MAX_LATENCY: u32 = 5000;

/// No block is late before this, however fast its peer was.
const LATE: u32 = 15_000;

/// Nothing has come for so long: what was asked for is for others.
const SILENT: u32 = 20_000;

/// Nothing has come for so long: the peer snubs us.
const SNUBBED: u32 = 30_000;

/// For so long a block may come that was taken back: a slow peer has many of them in its queue.
const STALE: u32 = 300_000;

/// A peer that refused a block is not asked for others before this.
const REFUSED: u32 = 1000;

/// What we asked of one peer.
pub struct Requests {
    reqq: u32,
    /// What is to come, in the order of asking.
    asked: VecDeque<Asked>,
    /// What was taken back and may come all the same.
    stale: VecDeque<Asked>,
    /// Requests at a time.
    depth: u32,
    /// Each block that comes allows one more.
    is_starting: bool,
    /// How long a block takes that finds no queue.
    least: Option<u32>,
    /// A block that found none.
    probe: Option<Block>,
    /// Bytes a second, smoothed; before the first round has ended it is not known.
    rate: Option<u32>,
    round: Round,
    /// Since when nothing has come of what was asked for.
    waiting: Option<u32>,
    /// It was too long: one block is asked for at a time until something comes.
    is_silent: bool,
    /// When it was asked for a block that it refused.
    refused: Option<u32>,
    /// The time, as far as it was told.
    now: u32,
}

/// From the asking for a block until that block has come, once or as often as it takes. What came meanwhile is the rate,
/// whether it came in bursts or not; idling between is not slowness.
#[derive(Default)]
struct Round {
    /// `None`: the next block to be asked for.
    until: Option<Block>,
    /// When that was asked for.
    since: u32,
    /// Milliseconds before that, and bytes that came in all of it.
    took: u32,
    bytes: u32,
}

#[derive(Clone, Copy)]
struct Asked {
    block: Block,
    /// When; once it is stale, since when.
    at: u32,
}

const _: () = assert!(size_of::<Asked>() == 16);

/// What a fragment is to what was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received {
    /// Part of this block, which it was asked for.
    Asked(Block),
    /// Part of this one, which was taken back or given up.
    Cancelled(Block),
    /// Neither.
    Unasked,
}

impl Asked {
    /// Whether a fragment ends where this block does if `rest` follows it.
    fn is_of(&self, piece: u32, begin: u32, len: u32, rest: u32) -> bool {
        let end = u64::from(begin) + u64::from(len) + u64::from(rest);
        let Block { piece: its, begin: first, len } = self.block;
        its.index() == piece && begin >= first && end == u64::from(first) + u64::from(len)
    }
}

impl Requests {
    /// Of a peer that takes `reqq` requests at a time.
    pub fn new(reqq: u32) -> Requests {
        Requests {
            reqq: reqq.clamp(1, MAX_REQQ),
            asked: VecDeque::new(),
            stale: VecDeque::new(),
            depth: LEAST_DEPTH,
            is_starting: true,
            least: None,
            probe: None,
            rate: None,
            round: Round::default(),
            waiting: None,
            is_silent: false,
            refused: None,
            now: 0,
        }
    }

    /// It says how many it takes at a time.
    pub fn set_reqq(&mut self, reqq: u32) {
        self.reqq = reqq.clamp(1, MAX_REQQ);
    }

    /// Blocks that it was asked for and that have not come.
    pub fn outstanding(&self) -> usize {
        self.asked.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.asked.is_empty()
    }

    /// Bytes that all this takes.
    pub fn memory(&self) -> usize {
        size_of::<Requests>() + (self.asked.capacity() + self.stale.capacity()) * size_of::<Asked>()
    }

    /// Bytes a second.
    pub fn rate(&self) -> u32 {
        self.rate.unwrap_or(0)
    }

    /// How many blocks to ask for now: what is missing to the depth, once that is a quarter of it.
    pub fn room(&self, now_ms: u32) -> usize {
        if self.refused.is_some_and(|at| now_ms.wrapping_sub(at) < REFUSED) {
            return 0;
        }
        let is_slow = self.is_silent || self.is_snubbed(now_ms);
        let depth = if is_slow { 1 } else { self.depth.min(self.reqq) } as usize;
        let free = depth.saturating_sub(self.asked.len());
        if free * 4 < depth { 0 } else { free }
    }

    /// It is asked for a block.
    pub fn asked(&mut self, block: Block, now_ms: u32) {
        self.now = now_ms;
        if self.asked.is_empty() {
            self.waiting.get_or_insert(now_ms);
        }
        if self.asked.len() < LEAST_DEPTH as usize {
            self.probe.get_or_insert(block);
        }
        if self.round.until.is_none() {
            (self.round.until, self.round.since) = (Some(block), now_ms);
        }
        self.asked.push_back(Asked { block, at: now_ms });
    }

    /// A fragment came: `len` bytes from `begin` on, with `rest` of its block to come. The last one takes the request out.
    pub fn received(&mut self, piece: u32, begin: u32, len: u32, rest: u32, now_ms: u32) -> Received {
        let is_it = |asked: &Asked| asked.is_of(piece, begin, len, rest);
        let asked = self.asked.iter().position(is_it);
        let stale = if asked.is_none() { self.stale.iter().position(is_it) } else { None };
        let (queue, at) = match (asked, stale) {
            (Some(at), _) => (&mut self.asked, at),
            (None, Some(at)) => (&mut self.stale, at),
            (None, None) => return Received::Unasked,
        };
        let Asked { block, at: since } = queue[at];
        if rest == 0 {
            list::take(queue, at);
        }
        self.now = now_ms;
        self.is_silent = false;
        if self.round.until.is_some() {
            self.round.bytes = self.round.bytes.saturating_add(len);
        }
        if rest == 0 && asked.is_some() {
            self.block_came(block, elapsed(since, now_ms));
        }
        self.waiting = (!self.asked.is_empty()).then_some(now_ms);
        if asked.is_some() { Received::Asked(block) } else { Received::Cancelled(block) }
    }

    /// A block has come after `took`.
    fn block_came(&mut self, block: Block, took: u32) {
        if self.probe == Some(block) {
            self.probe = None;
            self.probed(took.min(MAX_LATENCY));
        }
        let is_used = (self.asked.len() + 1) * 2 >= self.depth as usize;
        if self.is_starting && is_used && !self.is_queued(took) {
            self.depth = (self.depth + 1).min(self.reqq);
        }
        if self.round.until == Some(block) {
            self.round.until = None;
            self.round.took = self.round.took.saturating_add(elapsed(self.round.since, self.now));
            if self.round.took >= ROUND {
                self.measure(took);
            }
        }
    }

    /// A block has come that found no queue, or hardly one: that is as fast as it gets.
    fn probed(&mut self, took: u32) {
        self.least = Some(match self.least {
            Some(least) if took > least + AHEAD => {
                // The way has become so much longer that what is asked ahead does not fill it: begin anew.
                (self.is_starting, self.rate, self.round) = (true, None, Round::default());
                took
            }
            Some(least) if took > least => least + (took - least).div_ceil(4),
            _ => took,
        });
    }

    /// Whether a block took so long that there must be a queue. It is well before the queue is as long as it should be: what
    /// comes of it is seen one round trip later.
    fn is_queued(&self, took: u32) -> bool {
        self.least.is_some_and(|least| {
            let over = took.saturating_sub(least);
            // Of what is on its way, the share that waits; a time of zero is one below what the clock tells.
            let bytes = self.asked.len() as u64 * u64::from(BLOCK);
            let queued = bytes * (u64::from(over) + 1) / (u64::from(took) + 1);
            over >= AHEAD / 2 || queued >= most_ahead(least) / 2
        })
    }

    /// A round has ended with a block that took so long.
    fn measure(&mut self, block_took: u32) {
        let Round { took, bytes, .. } = std::mem::take(&mut self.round);
        let rate = u64::from(bytes) * 1000 / u64::from(took.max(1));
        let (rate, before) = (u32::try_from(rate).unwrap_or(u32::MAX), self.rate());
        // A slow start ends when another round trip brings no more.
        self.is_starting &= rate / 11 > before / 10 && !self.is_queued(block_took);
        self.rate = Some(if self.is_starting { rate } else { rate.max(rate / 2 + before / 2) });
        if !self.is_starting {
            self.depth = self.enough();
        }
    }

    /// So many that they last for the least latency and some time, or bytes, more.
    fn enough(&self) -> u32 {
        let lasting = |ms: u32| u64::from(self.rate()) * u64::from(ms) / 1000;
        let least = self.least.unwrap_or(0);
        let bytes = lasting(least) + lasting(AHEAD).min(most_ahead(least));
        u32::try_from(bytes.div_ceil(u64::from(BLOCK))).unwrap_or(u32::MAX).clamp(LEAST_DEPTH, MAX_REQQ)
    }

    // What does not come.

    /// It refuses a block. `Some`: it was asked for it, or late with it, and does not send it any more.
    pub fn rejected(&mut self, piece: u32, begin: u32, len: u32) -> Option<Block> {
        let is_it = |asked: &Asked| asked.block.begin == begin && asked.is_of(piece, begin, len, 0);
        if let Some(at) = self.asked.iter().position(is_it) {
            let asked = list::take(&mut self.asked, at)?;
            self.refused = Some(asked.at);
            self.lost(asked.block);
            return Some(asked.block);
        }
        let at = self.stale.iter().position(is_it)?;
        list::take(&mut self.stale, at).map(|stale| stale.block)
    }

    /// A block is not wanted of it any more. `true`: it was asked for it, so it is to be told.
    pub fn cancel(&mut self, block: Block) -> bool {
        match self.asked.iter().position(|asked| asked.block == block) {
            Some(at) => {
                self.give_up(at);
                self.lost(block);
                true
            }
            None => self.stale.iter().any(|stale| stale.block == block),
        }
    }

    /// It has lost a piece: the blocks of it that it was asked for. They may be on their way all the same.
    pub fn lose(&mut self, piece: PieceIndex) -> Vec<Block> {
        let blocks = self.asked.iter().map(|asked| asked.block).filter(|block| block.piece == piece);
        let blocks: Vec<Block> = blocks.gather();
        for &block in &blocks {
            self.cancel(block);
        }
        blocks
    }

    /// Nothing comes of what it was asked for, since it chokes us or we want no more. What is on its way may still come.
    pub fn clear(&mut self) -> Vec<Block> {
        let blocks = self.asked.iter().map(|asked| asked.block).collect();
        while !self.asked.is_empty() {
            self.give_up(0);
        }
        (self.waiting, self.probe, self.round, self.is_silent) = (None, None, Round::default(), false);
        blocks
    }

    /// The blocks that it is too slow with: others may be asked, but should they come all the same they are known.
    pub fn overdue(&mut self, now_ms: u32) -> Vec<Block> {
        self.now = now_ms;
        self.stale.keep(|stale| elapsed(stale.at, now_ms) < STALE);
        let mut late = self.late();
        if self.waiting.is_some_and(|at| elapsed(at, now_ms) >= late.min(SILENT)) {
            // The first time it loses all of it, and then what it is tried with.
            late = if self.is_silent { SILENT } else { 0 };
            (self.is_silent, self.is_starting, self.depth) = (true, true, LEAST_DEPTH);
            (self.rate, self.round) = (None, Round::default());
        }
        let mut blocks = Vec::new();
        while let Some(first) = self.asked.front().filter(|first| elapsed(first.at, now_ms) >= late) {
            let (block, took) = (first.block, elapsed(first.at, now_ms));
            blocks.push(block);
            self.give_up(0);
            if self.round.until == Some(block) {
                // It is so slow that the round would not end for long.
                self.round.took = self.round.took.saturating_add(took);
                self.rate = None;
                self.measure(took);
            }
            self.forget(block);
        }
        blocks
    }

    /// When [`Requests::overdue`] may have something, on the same clock.
    pub fn deadline_ms(&self) -> Option<u32> {
        let first = self.asked.front()?.at;
        let late = self.late();
        if self.is_silent {
            return Some(first.wrapping_add(SILENT));
        }
        let silent = self.waiting.map_or(late, |at| elapsed(first, at).saturating_add(late.min(SILENT)));
        Some(first.wrapping_add(late.min(silent)))
    }

    /// Whether nothing has come of it for long, though it was asked: who gives it something gets nothing for it.
    pub fn is_snubbed(&self, now_ms: u32) -> bool {
        self.waiting.is_some_and(|at| elapsed(at, now_ms) >= SNUBBED)
    }

    /// After how long a block is late: four times as long as the rate foretells.
    fn late(&self) -> u32 {
        let Some(rate) = self.rate.filter(|&rate| rate > 0) else { return u32::MAX / 2 };
        let depth = u64::from(self.depth.max(LEAST_DEPTH));
        let foretold = u64::from(self.least.unwrap_or(0)) + depth * u64::from(BLOCK) * 1000 / u64::from(rate);
        u32::try_from(foretold * 4).unwrap_or(u32::MAX / 2).clamp(LATE, u32::MAX / 2)
    }

    /// A request is taken back.
    fn give_up(&mut self, at: usize) {
        let Some(Asked { block, .. }) = list::take(&mut self.asked, at) else { return };
        if self.stale.len() >= MAX_REQQ as usize {
            self.stale.pop_front();
        }
        self.stale.push_back(Asked { block, at: self.now });
    }

    fn lost(&mut self, block: Block) {
        self.forget(block);
        if self.asked.is_empty() && !self.is_silent {
            self.waiting = None;
        }
    }

    /// Nothing is measured by that block.
    fn forget(&mut self, block: Block) {
        self.probe = self.probe.filter(|&probe| probe != block);
        if self.round.until == Some(block) {
            self.round = Round::default();
        }
    }
}

/// Bytes to be asked for ahead of one that is so many milliseconds away.
fn most_ahead(least: u32) -> u64 {
    u64::from(AHEAD_BYTES) * u64::from(1 + least / NEAR)
}

/// Milliseconds from one time to a later one. Of two that are not in order none have passed.
fn elapsed(from: u32, to: u32) -> u32 {
    let elapsed = to.wrapping_sub(from);
    if elapsed > u32::MAX / 2 { 0 } else { elapsed }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::piece::Lengths;
    use std::num::NonZeroU32;

    /// Its first times are before, and its later ones after the clock begins anew.
    const START: u32 = u32::MAX - 60_000;

    fn block(number: u32) -> Block {
        let lengths = Lengths::new(1 << 36, NonZeroU32::new(BLOCK).unwrap()).unwrap();
        lengths.block(number, 0, BLOCK).unwrap()
    }

    /// A peer that is asked for as much as there is room for, at the end of a link.
    struct Link {
        requests: Requests,
        /// Bytes a second, and the milliseconds that a request and its answer take beside that.
        rate: f64,
        latency: f64,
        /// Milliseconds since the start.
        now: f64,
        /// What it is asked for: the number, and when the request is there.
        queue: VecDeque<(u32, f64)>,
        /// Bytes of the first that have been sent, and when the next can be.
        part: u32,
        free: f64,
        /// Fragments on their way: when they come, of which block, from where, how many bytes.
        sent: VecDeque<(f64, u32, u32, u32)>,
        next: u32,
        came: f64,
        most: usize,
        batches: u32,
    }

    impl Link {
        fn new(rate: f64, latency: f64, reqq: u32) -> Link {
            let (queue, sent) = (VecDeque::new(), VecDeque::new());
            let requests = Requests::new(reqq);
            Link {
                requests,
                rate,
                latency,
                now: 0.0,
                queue,
                part: 0,
                free: 0.0,
                sent,
                next: 0,
                came: 0.0,
                most: 0,
                batches: 0,
            }
        }

        fn ms(&self) -> u32 {
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a test's time")]
            START.wrapping_add(self.now as u32)
        }

        /// A millisecond passes.
        fn step(&mut self) {
            self.now += 1.0;
            // It sends segments of a TCP as long as it has something to send.
            while let Some(&(number, there)) = self.queue.front() {
                let at = self.free.max(there);
                if at > self.now {
                    break;
                }
                let len = (BLOCK - self.part).min(1448);
                self.free = at + f64::from(len) * 1000.0 / self.rate;
                self.sent.push_back((self.free + self.latency / 2.0, number, self.part, len));
                self.part += len;
                if self.part == BLOCK {
                    self.part = 0;
                    self.queue.pop_front();
                }
            }
            let mut read = false;
            while let Some(&(_, number, begin, len)) = self.sent.front().filter(|(at, ..)| *at <= self.now) {
                self.sent.pop_front();
                let rest = BLOCK - begin - len;
                let received = self.requests.received(number, begin, len, rest, self.ms());
                assert_ne!(received, Received::Unasked);
                self.came += f64::from(len);
                read = true;
            }
            if read || self.next == 0 {
                self.ask();
            }
        }

        fn ask(&mut self) {
            let room = self.requests.room(self.ms());
            self.batches += u32::from(room > 0);
            for _ in 0..room {
                self.requests.asked(block(self.next), self.ms());
                self.queue.push_back((self.next, self.now + self.latency / 2.0));
                self.next += 1;
            }
            self.most = self.most.max(self.requests.outstanding());
        }

        fn run(&mut self, seconds: u32) {
            for _ in 0..seconds * 1000 {
                self.step();
                assert!(self.requests.overdue(self.ms()).is_empty());
            }
        }

        /// The share of the link that is used in so many seconds.
        fn goodput(&mut self, seconds: u32) -> f64 {
            let before = self.came;
            self.run(seconds);
            (self.came - before) / self.rate / f64::from(seconds)
        }
    }

    #[test]
    fn a_link_of_20_mbit_with_a_queue_of_300_ms_is_kept_full_and_no_more_is_asked_than_that_takes() {
        for latency in [1.0, 20.0, 320.0, 600.0] {
            let mut link = Link::new(2_500_000.0, latency, 500);
            link.run(5);
            let goodput = link.goodput(120);
            assert!(goodput > 0.999, "{latency} ms: {goodput}");
            // What it carries in two seconds, and in the round trip.
            let all = link.rate * (2000.0 + latency) / 1000.0 / f64::from(BLOCK);
            assert!((link.most as f64) < all, "{latency} ms: {} requests", link.most);
            let rate = f64::from(link.requests.rate());
            assert!((rate / link.rate - 1.0).abs() < 0.05, "{latency} ms: {rate}");
        }
    }

    #[test]
    fn the_depth_does_not_swing() {
        let mut link = Link::new(2_500_000.0, 50.0, 500);
        link.run(10);
        let (mut least, mut most) = (u32::MAX, 0);
        for _ in 0..100 {
            link.run(1);
            (least, most) = (least.min(link.requests.depth), most.max(link.requests.depth));
        }
        assert!(most - least <= most / 20, "from {least} to {most}");
    }

    #[test]
    fn a_far_peer_is_soon_asked_for_all_that_its_link_carries() {
        let mut link = Link::new(2_500_000.0, 600.0, 500);
        link.run(4);
        let goodput = link.goodput(4);
        assert!(goodput > 0.97, "{goodput}");
    }

    #[test]
    fn a_peer_next_door_is_asked_for_no_more_than_a_cache_holds_and_its_link_is_full() {
        for rate in [12_500_000.0, 125_000_000.0, 400_000_000.0] {
            let mut link = Link::new(rate, 0.2, 500);
            link.run(1);
            assert!(link.goodput(10) > 0.97, "{rate}");
            assert!(link.most <= 2 * 64 + 16, "{rate}: {}", link.most);
        }
    }

    #[test]
    fn a_slow_peer_is_asked_for_few_blocks() {
        for (rate, most) in [(1000.0, 5), (10_000.0, 8), (50_000.0, 14)] {
            let mut link = Link::new(rate, 100.0, 250);
            link.run(300);
            assert!(link.most <= most, "{rate}: {}", link.most);
            assert!(link.goodput(100) > 0.97);
        }
    }

    #[test]
    fn a_link_that_becomes_faster_or_longer_is_filled_again() {
        let mut link = Link::new(300_000.0, 40.0, 500);
        link.run(20);
        link.rate = 1_500_000.0;
        link.run(20);
        assert!(link.goodput(10) > 0.97);
        link.latency = 2500.0;
        link.run(60);
        let goodput = link.goodput(30);
        assert!(goodput > 0.97, "{goodput}");
    }

    #[test]
    fn requests_go_out_in_batches() {
        let mut link = Link::new(2_500_000.0, 20.0, 500);
        link.run(10);
        link.batches = 0;
        link.run(10);
        // 1526 blocks come in that time.
        assert!((30..60).contains(&link.batches), "{}", link.batches);
    }

    fn asked(numbers: std::ops::Range<u32>, now_ms: u32) -> Requests {
        let mut requests = Requests::new(250);
        numbers.for_each(|number| requests.asked(block(number), now_ms));
        requests
    }

    fn comes(requests: &mut Requests, number: u32, now_ms: u32) -> Received {
        requests.received(number, 0, BLOCK, 0, now_ms)
    }

    #[test]
    fn a_fragment_belongs_to_the_request_with_whose_end_it_ends() {
        let mut requests = asked(0..2, 0);
        for (piece, begin, len, rest) in
            [(2, 0, BLOCK, 0), (0, 0, BLOCK, 1), (0, 5, 100, 0), (0, u32::MAX, u32::MAX, 2)]
        {
            assert_eq!(requests.received(piece, begin, len, rest, 1), Received::Unasked);
        }
        assert_eq!(requests.received(1, 0, 1000, BLOCK - 1000, 1), Received::Asked(block(1)));
        assert_eq!((requests.outstanding(), requests.is_empty()), (2, false));
        assert_eq!(requests.received(1, 1000, BLOCK - 1000, 0, 1), Received::Asked(block(1)));
        assert_eq!(comes(&mut requests, 0, 1), Received::Asked(block(0)));
        assert_eq!(comes(&mut requests, 0, 1), Received::Unasked);
        assert!(requests.is_empty());
    }

    #[test]
    fn what_was_cancelled_may_come_once_all_the_same() {
        let mut requests = asked(0..3, 0);
        assert!(requests.cancel(block(1)) && requests.cancel(block(1)) && !requests.cancel(block(7)));
        assert_eq!(requests.clear(), [block(0), block(2)]);
        for number in 0..3 {
            assert_eq!(comes(&mut requests, number, 5), Received::Cancelled(block(number)));
            assert_eq!(comes(&mut requests, number, 5), Received::Unasked);
        }
        let mut requests = asked(0..1, 0);
        requests.cancel(block(0));
        requests.overdue(STALE);
        assert_eq!(comes(&mut requests, 0, STALE), Received::Unasked);
    }

    #[test]
    fn a_peer_that_refuses_is_not_asked_again_at_once() {
        let mut requests = asked(0..2, START);
        assert_eq!(requests.rejected(1, 0, BLOCK), Some(block(1)));
        assert_eq!(requests.rejected(1, 0, BLOCK), None);
        assert_eq!(requests.rejected(0, 0, 5), None);
        assert_eq!((requests.room(START + 900), requests.room(START + 1000)), (0, 3));
        // A refusal of what was taken back tells that it does not come.
        requests.cancel(block(0));
        assert_eq!(requests.rejected(0, 0, BLOCK), Some(block(0)));
        assert_eq!(comes(&mut requests, 0, START + 1000), Received::Unasked);
    }

    #[test]
    fn a_silent_peer_loses_its_blocks_and_is_snubbing_us_until_something_comes() {
        let mut requests = asked(0..4, START);
        assert_eq!(requests.deadline_ms(), Some(START.wrapping_add(SILENT)));
        assert!(requests.overdue(START.wrapping_add(SILENT - 1)).is_empty());
        assert_eq!(requests.overdue(START.wrapping_add(SILENT)).len(), 4);
        assert_eq!((requests.outstanding(), requests.deadline_ms()), (0, None));
        // From then on it is tried with one block at a time.
        let at = |seconds: u32| START.wrapping_add(seconds * 1000);
        assert_eq!(
            (requests.room(at(21)), requests.is_snubbed(at(29)), requests.is_snubbed(at(30))),
            (1, false, true)
        );
        requests.asked(block(9), at(31));
        assert_eq!(requests.deadline_ms(), Some(at(51)));
        assert!(requests.room(at(32)) == 0 && requests.overdue(at(50)).is_empty());
        assert_eq!(requests.overdue(at(51)), [block(9)]);
        assert_eq!(comes(&mut requests, 2, at(70)), Received::Cancelled(block(2)));
        assert_eq!((requests.room(at(70)), requests.is_snubbed(at(100))), (4, false));
    }

    #[test]
    fn a_fast_peer_that_stops_loses_its_blocks_sooner() {
        let mut link = Link::new(2_500_000.0, 20.0, 500);
        link.run(10);
        let (outstanding, now) = (link.requests.outstanding(), link.ms());
        assert!(link.requests.overdue(now.wrapping_add(LATE - 1500)).is_empty());
        assert_eq!(link.requests.overdue(now.wrapping_add(LATE)).len(), outstanding);
        assert_eq!(link.requests.room(now.wrapping_add(LATE)), 1);
    }

    #[test]
    fn a_block_that_a_peer_passes_over_is_overdue_while_the_others_come() {
        let mut link = Link::new(1_000_000.0, 20.0, 500);
        link.run(5);
        let (passed, _) = link.queue.pop_back().unwrap();
        let mut overdue = Vec::new();
        for _ in 0..20_000 {
            link.step();
            overdue.extend(link.requests.overdue(link.ms()));
        }
        assert_eq!(overdue, [block(passed)]);
        assert!(link.requests.depth > 50);
    }

    #[test]
    fn a_peer_that_becomes_slow_soon_keeps_only_what_it_can_bring() {
        let mut link = Link::new(1_000_000.0, 20.0, 500);
        link.run(10);
        assert!(link.requests.outstanding() > 40);
        link.rate = 10_000.0;
        let mut overdue = 0;
        for _ in 0..30_000 {
            link.step();
            overdue += link.requests.overdue(link.ms()).len();
        }
        assert!(
            overdue > 40 && link.requests.outstanding() <= 8,
            "{overdue} {}",
            link.requests.outstanding()
        );
        assert!(link.requests.rate() < 100_000, "{}", link.requests.rate());
    }

    #[test]
    fn the_rate_of_a_peer_that_is_asked_for_little_is_known_too() {
        // Two blocks at a time, at one megabyte a second, and then a pause.
        let mut requests = Requests::new(250);
        for batch in 0..100 {
            let now = START.wrapping_add(batch * 500);
            for number in [2 * batch, 2 * batch + 1] {
                requests.asked(block(number), now);
            }
            comes(&mut requests, 2 * batch, now.wrapping_add(36));
            comes(&mut requests, 2 * batch + 1, now.wrapping_add(52));
        }
        assert!((400_000..1_000_000).contains(&requests.rate()), "{}", requests.rate());
        assert!(requests.depth <= 70);
    }

    #[test]
    fn one_that_chokes_and_is_silent_then_does_not_snub_us() {
        let mut requests = asked(0..4, START);
        requests.clear();
        assert!(!requests.is_snubbed(START + 50_000) && requests.overdue(START + 50_000).is_empty());
        assert_eq!(requests.room(START + 50_000), 4);
    }

    #[test]
    fn every_request_comes_is_refused_or_is_given_up_and_is_known_until_then() {
        let mut random = crate::random::Random::new(5);
        for _ in 0..50 {
            let mut requests = Requests::new(random.up_to(600));
            let (mut now, mut next, mut live, mut given_up) = (START, 0, Vec::new(), Vec::new());
            for _ in 0..2000 {
                now = now.wrapping_add(random.up_to(200));
                let at = random.below(live.len());
                match random.below(20) {
                    0..6 => {
                        for _ in 0..requests.room(now).min(random.below(20)) {
                            requests.asked(block(next), now);
                            live.push(next);
                            next += 1;
                        }
                    }
                    6..14 if !live.is_empty() => {
                        let number = live.remove(at);
                        assert_eq!(comes(&mut requests, number, now), Received::Asked(block(number)));
                    }
                    14 if !live.is_empty() => {
                        assert_eq!(requests.rejected(live[at], 0, BLOCK), Some(block(live.remove(at))));
                    }
                    15 if !live.is_empty() => {
                        let number = live.remove(at);
                        assert!(requests.cancel(block(number)));
                        given_up.push((number, now));
                    }
                    16 if random.below(5) == 0 => {
                        assert!(requests.clear().into_iter().eq(live.iter().map(|&number| block(number))));
                        given_up.extend(live.drain(..).map(|number| (number, now)));
                    }
                    17 => now = now.wrapping_add(random.up_to(10_000)),
                    18 => {
                        let overdue = requests.overdue(now);
                        live.retain(|&number| !overdue.contains(&block(number)));
                        given_up.extend(overdue.iter().map(|block| (block.piece.index(), now)));
                    }
                    _ => {
                        if let Some((number, since)) = given_up.pop() {
                            let known = elapsed(since, now) < STALE / 2;
                            let came = comes(&mut requests, number, now);
                            assert!(!known || came == Received::Cancelled(block(number)), "{came:?}");
                        }
                    }
                }
                assert_eq!(requests.outstanding(), live.len());
                assert_eq!(requests.deadline_ms().is_some(), !live.is_empty());
                assert!(requests.stale.len() <= MAX_REQQ as usize);
            }
        }
    }

    #[test]
    fn it_takes_sixteen_bytes_a_request() {
        assert!(size_of::<Requests>() <= 160, "{}", size_of::<Requests>());
        let requests = asked(0..500, 0);
        assert!(requests.memory() <= 160 + 512 * 16, "{}", requests.memory());
    }
}

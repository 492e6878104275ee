//! Superseeding: a seed that is the only one gives each peer one piece at a time, so that it sends each piece once.
//!
//! Read first: BEP 16. To its peers it looks like one that has nothing and gets a piece now and then. Of all pieces a peer
//! lacks it is told of the one that is rarest among what peers have and were told of, and of the next when another
//! peer has that as well: those who pass on are served, and those who do not wait. It is over, and all are served as by
//! any seed, when every piece is out, when there is another seed, or when for long nothing has moved: then its peers
//! seem not to reach each other. Differs from the BEP where pieces are small: a peer is told of several, or it would
//! spend its time waiting for word; and where one peer alone wants something: nobody is there to pass on to, so it is
//! told on and on.
//!
//! Omits messages, and the peers' pieces: the caller has them. Holds two bytes a piece and at most 130 a peer.

use std::ops::Range;

use crate::have::Have;
use crate::list::Keep;
use crate::peer::PeerKey;
use crate::piece::Lengths;
use crate::random::Random;

/// Seconds after which it is over if nothing was sent and no peer got a piece.
pub const PATIENCE: u32 = 600;

/// A peer is told of so many bytes at a time, one piece at least and [`MOST_AT_ONCE`] at most.
const AT_ONCE: u32 = 256 * 1024;
const MOST_AT_ONCE: u32 = 8;

/// So many or more: not counted down from there.
const MANY: u8 = u8::MAX;

/// A torrent that is superseeded.
pub struct Superseed {
    /// Of each piece, until it is over.
    counts: Box<[Count]>,
    /// Those connected; when it is over, those that were then.
    peers: Vec<Taker>,
    /// Pieces that nobody has.
    left: u32,
    /// Where the next look for a rare piece begins; when it is over, the first piece that was not revealed.
    cursor: u32,
    /// Number of pieces.
    pieces: u32,
    /// How many a peer is told of before it has passed one on.
    at_once: usize,
    is_over: bool,
    /// When something last moved, in seconds, and what had been sent then.
    moved: u32,
    sent: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Count {
    /// Peers that have it.
    have: u8,
    /// Peers that were told of it and do not have it yet.
    told: u8,
}

struct Taker {
    key: PeerKey,
    /// It said what it has, or said nothing for long enough.
    known: bool,
    /// It was interested once. One that never was may be a seed that hides what it has, as we do.
    wants: bool,
    /// The pieces that it was told of and has not passed on.
    offers: Vec<Offer>,
}

#[derive(Clone, Copy)]
struct Offer {
    piece: u32,
    /// It has it now.
    taken: bool,
    /// Another has it.
    passed: bool,
}

impl Superseed {
    /// Nobody is there yet. `seed` makes its choices.
    pub fn new(lengths: Lengths, seed: u64) -> Superseed {
        let pieces = lengths.piece_count();
        Superseed {
            at_once: index((AT_ONCE / lengths.piece_length()).clamp(1, MOST_AT_ONCE)),
            counts: vec![Count::default(); index(pieces)].into(),
            peers: Vec::new(),
            left: pieces,
            cursor: Random::new(seed).up_to(pieces.saturating_sub(1)),
            pieces,
            is_over: pieces == 0,
            moved: 0,
            sent: 0,
        }
    }

    /// Whether peers are to be served as by any seed from now on.
    pub fn is_over(&self) -> bool {
        self.is_over
    }

    /// Bytes of memory, about.
    pub fn memory(&self) -> usize {
        let peer = size_of::<Taker>() + self.at_once * size_of::<Offer>();
        self.counts.len() * size_of::<Count>() + self.peers.capacity() * peer
    }

    /// A peer came, of whose pieces nothing is known yet: it is told of none before they are.
    pub fn joined(&mut self, key: PeerKey, now: u32) {
        if !self.is_over && self.at(key).is_none() {
            self.peers.push(Taker { key, known: false, wants: false, offers: Vec::new() });
            self.moved = now;
        }
    }

    /// A peer said what it has, be it by its silence. Those that never came are not listened to.
    pub fn said(&mut self, key: PeerKey, has: &Have, now: u32) {
        let Some(at) = self.at(key) else { return };
        self.peers[at].known = true;
        if has.is_all() {
            return self.end();
        }
        let pieces = if has.is_none() { 0 } else { self.pieces };
        for piece in (0..pieces).filter(|&piece| has.contains(piece)) {
            self.gained(key, piece, now);
        }
    }

    /// A peer has another piece. `true` where it may be somebody's turn now, or all is over.
    pub fn gained(&mut self, key: PeerKey, piece: u32, now: u32) -> bool {
        let Some(at) = self.at(key).filter(|_| !self.is_over) else { return false };
        let Some(count) = self.counts.get_mut(index(piece)) else { return false };
        let mut is_news = !std::mem::replace(&mut self.peers[at].known, true);
        self.left -= u32::from(count.have == 0);
        count.have = count.have.saturating_add(1);
        let have = count.have;
        for peer in &mut self.peers {
            let offer = peer.offers.iter_mut().find(|offer| offer.piece == piece);
            let Some(offer) = offer else { continue };
            if peer.key == key && !offer.taken {
                offer.taken = true;
                drop_one(&mut count.told);
            }
            offer.passed |= have > 1;
            is_news = true;
        }
        self.moved = now;
        if self.left == 0 {
            self.end();
        }
        is_news || self.is_over
    }

    /// A peer has lost a piece.
    pub fn lost(&mut self, key: PeerKey, piece: u32) {
        if self.is_over || self.at(key).is_none() {
            return;
        }
        if let Some(count) = self.counts.get_mut(index(piece)) {
            drop_one(&mut count.have);
            self.left += u32::from(count.have == 0);
        }
    }

    /// A peer is interested in what it was told of.
    pub fn interested(&mut self, key: PeerKey) {
        if let Some(at) = self.at(key) {
            self.peers[at].wants = true;
        }
    }

    /// A peer that had these pieces has gone.
    pub fn left(&mut self, key: PeerKey, has: &Have) {
        let Some(at) = self.at(key) else { return };
        let peer = self.peers.swap_remove(at);
        for offer in peer.offers.iter().filter(|offer| !offer.taken) {
            if let Some(count) = self.counts.get_mut(index(offer.piece)) {
                drop_one(&mut count.told);
            }
        }
        for (_, count) in (0..self.pieces).zip(&mut self.counts).filter(|(piece, _)| has.contains(*piece)) {
            drop_one(&mut count.have);
            self.left += u32::from(count.have == 0);
        }
    }

    /// The piece that a peer with these pieces is to be told of now, if it is its turn.
    pub fn offer(&mut self, key: PeerKey, has: &Have, now: u32) -> Option<u32> {
        let at = self.at(key)?;
        let is_alone = !self.peers.iter().any(|peer| peer.wants && peer.key != key);
        let peer = &mut self.peers[at];
        peer.offers.keep(|offer| !(offer.taken && (offer.passed || is_alone)));
        if self.is_over || !peer.known || peer.offers.len() >= self.at_once {
            return None;
        }
        let piece = self.rarest(at, has)?;
        let count = self.counts.get_mut(index(piece))?;
        count.told = count.told.saturating_add(1);
        self.peers[at].offers.push(Offer { piece, taken: false, passed: count.have > 0 });
        self.cursor = (piece + 1) % self.pieces;
        self.moved = now;
        Some(piece)
    }

    /// Whether a peer may ask for a piece.
    pub fn is_offered(&self, key: PeerKey, piece: u32) -> bool {
        self.is_over || self.at(key).is_some_and(|at| self.peers[at].is_offered(piece))
    }

    /// To be called now and then with what was sent of the torrent so far: gives up if nothing moves.
    pub fn look(&mut self, sent: u64, now: u32) {
        if sent != self.sent || self.peers.is_empty() {
            (self.sent, self.moved) = (sent, now);
        } else if now.saturating_sub(self.moved) >= PATIENCE {
            self.end();
        }
    }

    /// After the end: the next pieces, `most` of them at most, that those who were there then are to be told of.
    pub fn reveal(&mut self, most: u32) -> Option<(Range<u32>, Vec<PeerKey>)> {
        if !self.is_over || self.peers.is_empty() {
            return None;
        }
        let end = self.cursor.saturating_add(most).min(self.pieces);
        let pieces = self.cursor..end;
        self.cursor = end;
        let peers = self.peers.iter().map(|peer| peer.key).collect();
        if end == self.pieces {
            self.peers = Vec::new();
        }
        Some((pieces, peers))
    }

    /// Serves all as any seed does.
    pub fn end(&mut self) {
        if !self.is_over {
            self.is_over = true;
            self.cursor = 0;
            self.counts = Box::default();
        }
    }

    /// Of those with the fewest peers, rather told of it than having it, the first behind the one that was told of last.
    fn rarest(&self, at: usize, has: &Have) -> Option<u32> {
        let order = (self.cursor..self.pieces).chain(0..self.cursor);
        let peer = &self.peers[at];
        let mut best = None;
        for piece in order.filter(|&piece| !has.contains(piece) && !peer.is_offered(piece)) {
            let count = self.counts.get(index(piece))?;
            let peers = u16::from(count.have) + u16::from(count.told);
            if peers == 0 {
                return Some(piece);
            }
            let rank = (peers, count.have);
            if best.is_none_or(|(least, _)| rank < least) {
                best = Some((rank, piece));
            }
        }
        best.map(|(_, piece)| piece)
    }

    fn at(&self, key: PeerKey) -> Option<usize> {
        self.peers.iter().position(|peer| peer.key == key)
    }
}

impl Taker {
    fn is_offered(&self, piece: u32) -> bool {
        self.offers.iter().any(|offer| offer.piece == piece)
    }
}

fn index(piece: u32) -> usize {
    usize::try_from(piece).unwrap_or(usize::MAX)
}

fn drop_one(count: &mut u8) {
    if *count != MANY {
        *count = count.saturating_sub(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::num::NonZeroU32;

    const PIECES: u32 = 400;

    fn lengths(pieces: u32, piece: u32) -> Lengths {
        Lengths::new(u64::from(pieces) * u64::from(piece), NonZeroU32::new(piece).unwrap()).unwrap()
    }

    /// Pieces of which a peer sees one at a time.
    fn large(pieces: u32) -> Superseed {
        Superseed::new(lengths(pieces, AT_ONCE), 1)
    }

    /// A seed and its leechers. In a step the seed sends `seed_rate` pieces, each leecher one to another.
    struct Swarm {
        superseed: Superseed,
        leechers: Vec<Leecher>,
        seed_rate: usize,
        random: Random,
        now: u32,
        /// By the seed.
        sent: u32,
        /// When it came to an end.
        over: Option<u32>,
    }

    struct Leecher {
        key: PeerKey,
        has: Have,
        /// Told of, and not fetched yet.
        told: Option<u32>,
        gives: bool,
        /// It talks to those of the same group.
        group: usize,
    }

    impl Swarm {
        fn new(leechers: usize, seed_rate: usize) -> Swarm {
            let mut swarm = Swarm {
                superseed: large(PIECES),
                leechers: Vec::new(),
                seed_rate,
                random: Random::new(3),
                now: 0,
                sent: 0,
                over: None,
            };
            (0..leechers).for_each(|n| swarm.join(n, 0));
            swarm
        }

        fn join(&mut self, n: usize, group: usize) {
            let key = PeerKey(u32::try_from(n).unwrap());
            self.superseed.joined(key, self.now);
            self.superseed.said(key, &Have::None, self.now);
            self.superseed.interested(key);
            self.leechers.push(Leecher { key, has: Have::None, told: None, gives: true, group });
        }

        fn tell(&mut self) {
            for leecher in &mut self.leechers {
                if let Some(piece) = self.superseed.offer(leecher.key, &leecher.has, self.now) {
                    assert!(leecher.told.is_none() && !leecher.has.contains(piece));
                    assert!(self.superseed.is_offered(leecher.key, piece));
                    leecher.told = Some(piece);
                }
            }
        }

        fn gained(&mut self, at: usize, piece: u32) {
            let leecher = &mut self.leechers[at];
            leecher.told = leecher.told.filter(|&told| told != piece);
            if leecher.has.insert(piece, PIECES) {
                self.superseed.gained(leecher.key, piece, self.now);
            }
        }

        fn step(&mut self) {
            self.now += 10;
            self.superseed.look(u64::from(self.sent), self.now);
            if self.superseed.is_over() {
                self.over.get_or_insert(self.sent);
                return;
            }
            self.tell();
            let mut waiting: Vec<usize> =
                (0..self.leechers.len()).filter(|&at| self.leechers[at].told.is_some()).collect();
            for _ in 0..self.seed_rate.min(waiting.len()) {
                let at = waiting.swap_remove(self.random.below(waiting.len()));
                self.sent += 1;
                self.gained(at, self.leechers[at].told.unwrap());
            }
            for from in (0..self.leechers.len()).filter(|&from| self.leechers[from].gives).collect::<Vec<_>>()
            {
                let to = self.random.below(self.leechers.len());
                let (giver, taker) = (&self.leechers[from], &self.leechers[to]);
                let rarity = |piece: u32| self.leechers.iter().filter(|one| one.has.contains(piece)).count();
                let piece = (0..PIECES)
                    .filter(|&piece| giver.has.contains(piece) && !taker.has.contains(piece))
                    .min_by_key(|&piece| rarity(piece));
                if let Some(piece) = piece.filter(|_| giver.group == taker.group) {
                    self.gained(to, piece);
                }
            }
        }

        /// Copies that the seed has sent when it is over, and the steps it took.
        fn run(&mut self) -> (f64, u32) {
            (0..20_000).find(|_| {
                self.step();
                self.over.is_some()
            });
            let sent = self.over.expect("comes to an end");
            (f64::from(sent) / f64::from(PIECES), self.now / 10)
        }
    }

    #[test]
    fn the_seed_of_a_swarm_that_trades_sends_each_piece_once() {
        for (leechers, seed_rate) in [(2, 1), (5, 2), (20, 4), (40, 4), (40, 20)] {
            let (copies, steps) = Swarm::new(leechers, seed_rate).run();
            let least = PIECES.div_ceil(u32::try_from(seed_rate).unwrap());
            println!(
                "{leechers} leechers, {seed_rate} slots: {copies:.3} copies in {steps} steps of {least}"
            );
            assert!((1.0..=1.1).contains(&copies), "{leechers} leechers: {copies}");
        }
    }

    #[test]
    fn who_passes_nothing_on_is_told_of_one_piece_as_long_as_there_are_others() {
        let mut swarm = Swarm::new(30, 4);
        swarm.leechers[..10].iter_mut().for_each(|leecher| leecher.gives = false);
        let first: Vec<u32> = (0..10)
            .map(|at| {
                swarm.tell();
                swarm.leechers[at].told.unwrap()
            })
            .collect();
        // All thirty may be told of a last piece at the end.
        while swarm.superseed.left > 30 {
            swarm.step();
            for (leecher, first) in swarm.leechers.iter().zip(&first) {
                assert!(leecher.told.is_none_or(|told| told == *first));
            }
        }
        let (copies, _) = swarm.run();
        assert!((1.0..=1.1).contains(&copies), "{copies}");
    }

    #[test]
    fn one_alone_gets_all_of_it_without_anybody_to_pass_it_on_to() {
        let (copies, steps) = Swarm::new(1, 1).run();
        assert_eq!((copies, steps), (1.0, PIECES + 1));
        // One that never wants anything is nobody to pass on to either.
        let mut swarm = Swarm::new(1, 1);
        swarm.superseed.joined(PeerKey(99), 0);
        swarm.superseed.said(PeerKey(99), &Have::None, 0);
        swarm.superseed.offer(PeerKey(99), &Have::None, 0).unwrap();
        let (copies, steps) = swarm.run();
        assert_eq!((copies, steps), (1.0, PIECES + 1));
    }

    #[test]
    fn peers_that_do_not_reach_each_other_are_served_as_by_any_seed_after_ten_minutes() {
        let mut swarm = Swarm::new(0, 2);
        (0..3).for_each(|n| swarm.join(n, n));
        let (copies, _) = swarm.run();
        assert!(copies < 0.01 && (PATIENCE..PATIENCE + 60).contains(&swarm.now), "{copies} {}", swarm.now);
    }

    #[test]
    fn another_seed_ends_it_at_once() {
        let mut superseed = large(PIECES);
        superseed.joined(PeerKey(1), 0);
        superseed.joined(PeerKey(2), 0);
        superseed.said(PeerKey(1), &Have::from_fn(PIECES, |piece| piece != 7), 0);
        assert!(!superseed.is_over() && !superseed.is_offered(PeerKey(2), 1));
        superseed.said(PeerKey(2), &Have::All, 0);
        assert!(superseed.is_over() && superseed.is_offered(PeerKey(1), 1));
        assert_eq!(superseed.offer(PeerKey(1), &Have::None, 0), None);
    }

    #[test]
    fn what_one_that_left_had_is_told_of_anew() {
        let mut superseed = large(3);
        let (one, two) = (PeerKey(1), PeerKey(2));
        let mut has = Have::None;
        superseed.joined(one, 0);
        assert_eq!(superseed.offer(one, &has, 0), None, "nobody knows what it has");
        superseed.said(one, &has, 0);
        superseed.interested(one);
        for _ in 0..2 {
            let piece = superseed.offer(one, &has, 0).unwrap();
            has.insert(piece, 3);
            superseed.gained(one, piece, 0);
        }
        let third = superseed.offer(one, &has, 0).unwrap();
        superseed.left(one, &has);
        let told: Vec<u32> = (0..3)
            .map(|_| {
                superseed.joined(two, 0);
                superseed.said(two, &Have::None, 0);
                let piece = superseed.offer(two, &Have::None, 0).unwrap();
                superseed.left(two, &Have::None);
                piece
            })
            .collect();
        assert!([0, 1, 2].iter().all(|piece| told.contains(piece)), "{told:?} {third}");
        assert!(!superseed.is_over());
    }

    #[test]
    fn when_it_is_over_those_who_were_there_are_told_of_everything_once() {
        let mut superseed = large(10);
        assert!(superseed.reveal(4).is_none());
        superseed.joined(PeerKey(1), 0);
        superseed.said(PeerKey(1), &Have::All, 0);
        superseed.joined(PeerKey(2), 0);
        let told: Vec<_> = std::iter::from_fn(|| superseed.reveal(4)).collect();
        assert!(told.iter().all(|(_, peers)| *peers == [PeerKey(1)]));
        assert_eq!(told.iter().map(|(pieces, _)| pieces.clone()).collect::<Vec<_>>(), [0..4, 4..8, 8..10]);
    }

    #[test]
    fn of_small_pieces_a_peer_is_told_of_several_so_that_it_need_not_wait_for_word() {
        for (piece, at_once) in [(16 << 10, 8), (64 << 10, 4), (256 << 10, 1), (4 << 20, 1)] {
            let mut superseed = Superseed::new(lengths(PIECES, piece), 1);
            superseed.joined(PeerKey(1), 0);
            superseed.said(PeerKey(1), &Have::None, 0);
            let told: Vec<u32> = std::iter::from_fn(|| superseed.offer(PeerKey(1), &Have::None, 0)).collect();
            assert_eq!(told.len(), at_once, "{piece}");
            assert!(told.iter().all(|&piece| superseed.is_offered(PeerKey(1), piece)));
            // Another wants something too, so the next one waits until it has one of these.
            superseed.joined(PeerKey(2), 0);
            superseed.interested(PeerKey(2));
            let has = Have::from_fn(PIECES, |piece| piece == told[0]);
            superseed.said(PeerKey(1), &has, 0);
            assert_eq!(superseed.offer(PeerKey(1), &has, 0), None);
            superseed.said(PeerKey(2), &has, 0);
            assert!(superseed.offer(PeerKey(1), &has, 0).is_some());
            assert_eq!(superseed.offer(PeerKey(1), &has, 0), None);
        }
    }

    #[test]
    fn a_piece_costs_two_bytes_and_a_peer_at_most_130() {
        assert_eq!(size_of::<Count>(), 2);
        assert!(size_of::<Taker>() + MOST_AT_ONCE as usize * size_of::<Offer>() <= 130);
    }

    #[test]
    fn a_torrent_without_pieces_and_peers_that_never_came_are_no_trouble() {
        let mut none = large(0);
        none.joined(PeerKey(1), 0);
        none.look(0, 10_000);
        assert!(none.is_over() && none.offer(PeerKey(1), &Have::None, 0).is_none());
        let mut one = large(1);
        assert!(!one.gained(PeerKey(1), 0, 0));
        one.said(PeerKey(1), &Have::None, 0);
        one.left(PeerKey(1), &Have::All);
        one.gained(PeerKey(1), u32::MAX, 0);
        one.interested(PeerKey(1));
        assert!(one.offer(PeerKey(1), &Have::None, 0).is_none() && !one.is_offered(PeerKey(1), 0));
    }
}

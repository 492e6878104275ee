//! The metadata of a torrent that only a magnet link names: whom it is asked of, piece by piece, and who lied.
//!
//! Read first: BEP 9, `peer::metadata`. Nothing of it can be verified before all of it is there. So it is asked of all
//! who say the same size; if what came of several is wrong nobody knows who lied, and from then on each is asked for all
//! of it alone: whoever then gives what is wrong is a liar. A peer that is slow or refuses is left alone for a while.
//! Memory follows the bytes that came, never the size that a peer claims.

use std::net::IpAddr;

use crate::list::{self, Gather, Keep};
use crate::metainfo::MAX_TORRENT;
use crate::metainfo::magnet::{MAX_LINK, Magnet};
use crate::peer::PeerKey;
use crate::peer::metadata::{piece_len, pieces};

/// Bytes of metadata at most: with what the link adds it is a .torrent that is read again.
pub const MAX_METADATA: u32 = (16 << 20) - 256 * 1024;

const _: () = assert!(MAX_METADATA as usize + 4 * MAX_LINK == MAX_TORRENT);

/// Pieces that one peer is asked for at a time.
const AT_A_TIME: usize = 4;

/// A peer of which nothing has come for so many seconds is slow.
const PATIENCE: u32 = 15;

/// Seconds for which one that was slow, or refused, is left alone.
const REST: u32 = 60;

/// What is known of a torrent whose metadata is not there.
pub struct Missing {
    /// What the user gave.
    pub link: Magnet,
    /// What has come of it.
    pub gathering: Gathering,
    /// Why no peer's metadata will do: what is right by its hash is none that we take.
    pub hopeless: Option<Box<str>>,
}

/// A peer that says that it has the metadata.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offer {
    /// Who.
    pub peer: PeerKey,
    /// How large it says it is.
    pub size: u32,
}

/// Metadata as it comes. Times are seconds since the daemon started.
#[derive(Debug, Default)]
pub struct Gathering {
    /// Of all of it, as those say who are asked; 0 while nobody is.
    size: u32,
    pieces: Vec<Option<Box<[u8]>>>,
    /// Who sent what is there.
    senders: Vec<IpAddr>,
    asked: Vec<Asked>,
    /// Who is left alone, and until when.
    resting: Vec<(PeerKey, u32)>,
    /// What came of several was wrong.
    distrusts: bool,
    /// Who is asked alone then.
    only: Option<PeerKey>,
    /// All of it was given away to be verified.
    is_away: bool,
}

#[derive(Clone, Copy, Debug)]
struct Asked {
    piece: u32,
    peer: PeerKey,
    at: u32,
    /// It is slow: others may be asked for the same, and what it sends all the same is taken.
    late: bool,
}

/// What a piece that came means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Came {
    /// Nobody asked for it.
    Unasked,
    /// It has not the length that it must have.
    Misshapen,
    /// It is kept.
    Kept,
    /// It was the last one.
    Whole,
}

impl Missing {
    /// Nothing but the link.
    pub fn new(link: Magnet) -> Missing {
        Missing { link, gathering: Gathering::default(), hopeless: None }
    }
}

impl Gathering {
    /// Whom to ask for which piece next, if there is anybody; that is noted as asked.
    pub fn next(&mut self, offers: &[Offer], now: u32) -> Option<(PeerKey, u32)> {
        if self.is_away {
            return None;
        }
        self.resting.keep(|(_, until)| *until > now);
        let resting = &self.resting;
        self.asked.keep(|asked| !asked.late || resting.iter().any(|(peer, _)| *peer == asked.peer));
        let is_free = |offer: &&Offer| !self.resting.iter().any(|(peer, _)| *peer == offer.peer);
        let free: Vec<Offer> = offers.iter().filter(is_free).copied().gather();
        if self.size == 0 || (self.awaited().next().is_none() && !free.iter().any(|offer| self.suits(offer)))
        {
            self.begin(&free)?;
        }
        let is_open = |piece: &u32| {
            self.pieces[*piece as usize].is_none() && !self.awaited().any(|asked| asked.piece == *piece)
        };
        let piece = (0..pieces(self.size)).find(is_open)?;
        let load = |peer| self.asked.iter().filter(|asked| asked.peer == peer).count();
        let least =
            free.iter().filter(|offer| self.suits(offer)).map(|offer| (load(offer.peer), offer.peer)).min();
        let (_, peer) = least.filter(|(load, _)| *load < AT_A_TIME)?;
        self.asked.push(Asked { piece, peer, at: now, late: false });
        Some((peer, piece))
    }

    /// What is asked of those who are not slow.
    fn awaited(&self) -> impl Iterator<Item = &Asked> {
        self.asked.iter().filter(|asked| !asked.late)
    }

    fn suits(&self, offer: &Offer) -> bool {
        offer.size == self.size && (!self.distrusts || self.only == Some(offer.peer))
    }

    /// Begins anew, with what most say or, where that did not do, with what one says.
    fn begin(&mut self, free: &[Offer]) -> Option<()> {
        let (only, size) = if self.distrusts {
            free.iter().min_by_key(|offer| offer.peer).map(|offer| (Some(offer.peer), offer.size))?
        } else {
            let mut votes: Vec<u32> = free.iter().map(|offer| offer.size).collect();
            list::sort(&mut votes);
            // Of sizes that as many say the smallest is the cheapest to be wrong.
            let most = votes.chunk_by(u32::eq).rev().max_by_key(|votes| votes.len());
            (None, most?[0])
        };
        self.forget();
        (self.only, self.size) = (only, size);
        self.pieces.resize_with(pieces(size) as usize, || None);
        Some(())
    }

    fn forget(&mut self) {
        (self.size, self.only) = (0, None);
        (self.pieces, self.senders, self.asked) = <_>::default();
    }

    /// A piece came.
    pub fn received(&mut self, peer: PeerKey, ip: IpAddr, piece: u32, data: &[u8], now: u32) -> Came {
        let is_this = |asked: &Asked| asked.peer == peer && asked.piece == piece;
        let Some(at) = self.asked.iter().position(is_this) else { return Came::Unasked };
        self.asked.swap_remove(at);
        if data.len() != piece_len(self.size, piece) as usize {
            return Came::Misshapen;
        }
        self.asked
            .iter_mut()
            .filter(|asked| asked.peer == peer)
            .for_each(|asked| (asked.at, asked.late) = (now, false));
        self.resting.keep(|(resting, _)| *resting != peer);
        match self.pieces.get_mut(piece as usize) {
            Some(place @ None) => *place = Some(data.into()),
            // Another was faster.
            _ => return Came::Kept,
        }
        if !self.senders.contains(&ip) {
            self.senders.push(ip);
        }
        if self.pieces.iter().all(Option::is_some) { Came::Whole } else { Came::Kept }
    }

    /// A peer does not send a piece that it was asked for: it hardly sends others.
    pub fn rejected(&mut self, peer: PeerKey, piece: u32, now: u32) {
        if self.asked.iter().any(|asked| asked.peer == peer && asked.piece == piece) {
            self.asked.keep(|asked| asked.peer != peer);
            self.rest(peer, now);
        }
    }

    /// Looks for those that are slow; `true` where some were.
    pub fn look(&mut self, now: u32) -> bool {
        let is_slow = |asked: &&Asked| now.saturating_sub(asked.at) >= PATIENCE;
        let slow: Vec<PeerKey> = self.awaited().filter(is_slow).map(|asked| asked.peer).gather();
        for &peer in &slow {
            self.asked.iter_mut().filter(|asked| asked.peer == peer).for_each(|asked| asked.late = true);
            self.rest(peer, now);
        }
        !slow.is_empty()
    }

    /// When to look again, if something may change by itself.
    pub fn deadline(&self) -> Option<u32> {
        if self.is_away {
            return None;
        }
        let slow = self.awaited().map(|asked| asked.at + PATIENCE);
        slow.chain(self.resting.iter().map(|(_, until)| *until)).min()
    }

    fn rest(&mut self, peer: PeerKey, now: u32) {
        if !self.resting.iter().any(|(resting, _)| *resting == peer) {
            self.resting.push((peer, now + REST));
        }
    }

    /// A peer is gone.
    pub fn left(&mut self, peer: PeerKey) {
        self.asked.keep(|asked| asked.peer != peer);
        self.resting.keep(|(resting, _)| *resting != peer);
    }

    /// All of it, to be verified; nothing is asked for until [`Gathering::wrong`] or [`Gathering::again`].
    pub fn take(&mut self) -> Vec<Box<[u8]>> {
        self.is_away = true;
        self.asked.clear();
        std::mem::take(&mut self.pieces).into_iter().flatten().gather()
    }

    /// What was taken is not what the link names. Returns who lied, where that is known.
    pub fn wrong(&mut self) -> Option<IpAddr> {
        let liar = Some(&self.senders[..]).filter(|senders| senders.len() == 1).map(|senders| senders[0]);
        self.distrusts |= liar.is_none();
        self.again();
        liar
    }

    /// What was taken is lost; it is to be fetched again.
    pub fn again(&mut self) {
        self.forget();
        self.is_away = false;
    }

    /// Pieces that are there, and pieces in all.
    pub fn progress(&self) -> (usize, usize) {
        (self.pieces.iter().flatten().count(), self.pieces.len())
    }

    /// Bytes that it holds.
    pub fn memory(&self) -> usize {
        let room = self.pieces.capacity() * size_of::<Option<Box<[u8]>>>();
        room + self.pieces.iter().flatten().map(|piece| piece.len()).sum::<usize>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peer::metadata::PIECE;

    const SIZE: u32 = 5 * PIECE + 100;

    fn offers(sizes: &[u32]) -> Vec<Offer> {
        (0..).zip(sizes).map(|(peer, &size)| Offer { peer: PeerKey(peer), size }).collect()
    }

    fn ip(peer: PeerKey) -> IpAddr {
        IpAddr::from([10, 0, 0, u8::try_from(peer.0).unwrap()])
    }

    /// All that is asked for now.
    fn asks(gathering: &mut Gathering, offers: &[Offer], now: u32) -> Vec<(PeerKey, u32)> {
        std::iter::from_fn(|| gathering.next(offers, now)).collect()
    }

    fn sends(gathering: &mut Gathering, (peer, piece): (PeerKey, u32), size: u32) -> Came {
        let data = vec![0; piece_len(size, piece) as usize];
        gathering.received(peer, ip(peer), piece, &data, 0)
    }

    #[test]
    fn it_is_asked_of_all_who_say_the_same_each_piece_once() {
        let mut gathering = Gathering::default();
        let offers = offers(&[SIZE, SIZE, 7]);
        let asked = asks(&mut gathering, &offers, 0);
        let mut wanted: Vec<u32> = asked.iter().map(|(_, piece)| *piece).collect();
        wanted.sort_unstable();
        assert_eq!(wanted, [0, 1, 2, 3, 4, 5]);
        assert!(asked.iter().all(|(peer, _)| peer.0 < 2) && asked.iter().any(|(peer, _)| peer.0 == 1));
        let last = asked.len() - 1;
        for (n, &ask) in asked.iter().enumerate() {
            let came = sends(&mut gathering, ask, SIZE);
            assert_eq!(came, if n == last { Came::Whole } else { Came::Kept });
        }
        assert_eq!(gathering.take().concat().len(), SIZE as usize);
        assert_eq!((gathering.next(&offers, 0), gathering.deadline()), (None, None));
    }

    #[test]
    fn of_two_that_say_different_sizes_the_smaller_is_tried_first() {
        let mut gathering = Gathering::default();
        let offers = offers(&[MAX_METADATA, 100]);
        assert_eq!(asks(&mut gathering, &offers, 0), [(PeerKey(1), 0)]);
        assert!(gathering.memory() < 100);
    }

    #[test]
    fn who_gives_all_of_what_is_wrong_is_a_liar() {
        let mut gathering = Gathering::default();
        let offers = offers(&[100]);
        let asked = asks(&mut gathering, &offers, 0);
        assert_eq!(sends(&mut gathering, asked[0], 100), Came::Whole);
        gathering.take();
        assert_eq!(gathering.wrong(), Some(ip(PeerKey(0))));
    }

    #[test]
    fn of_several_the_liar_is_found_by_asking_each_alone() {
        let mut gathering = Gathering::default();
        let all = offers(&[SIZE, SIZE, SIZE]);
        for ask in asks(&mut gathering, &all, 0) {
            sends(&mut gathering, ask, SIZE);
        }
        gathering.take();
        assert_eq!(gathering.wrong(), None);
        for peer in 0..3 {
            let rest = &all[peer as usize..];
            while let Some(ask) = gathering.next(rest, 0) {
                assert_eq!(ask.0, PeerKey(peer));
                sends(&mut gathering, ask, SIZE);
            }
            assert_eq!(gathering.take().len(), 6);
            assert_eq!(gathering.wrong(), Some(ip(PeerKey(peer))));
        }
    }

    #[test]
    fn one_that_refuses_or_is_slow_is_left_alone_for_a_while_and_others_are_asked() {
        let mut gathering = Gathering::default();
        let both = offers(&[100, 100]);
        assert_eq!(gathering.next(&both, 0), Some((PeerKey(0), 0)));
        gathering.rejected(PeerKey(0), 5, 0);
        assert_eq!(gathering.next(&both, 0), None);
        gathering.rejected(PeerKey(0), 0, 0);
        assert_eq!(gathering.next(&both, 0), Some((PeerKey(1), 0)));
        assert_eq!(gathering.deadline(), Some(PATIENCE));
        assert!(!gathering.look(PATIENCE - 1) && gathering.look(PATIENCE));
        assert_eq!(gathering.next(&both, PATIENCE), None);
        assert_eq!((gathering.deadline(), gathering.next(&both, REST)), (Some(REST), Some((PeerKey(0), 0))));
    }

    #[test]
    fn what_comes_late_is_taken_and_its_sender_asked_again() {
        let mut gathering = Gathering::default();
        let both = offers(&[SIZE, SIZE]);
        let slow: Vec<_> = asks(&mut gathering, &both[..1], 0);
        assert!(gathering.look(PATIENCE) && slow.len() == AT_A_TIME);
        // Another is asked for the same meanwhile, and what comes twice counts once.
        let others = asks(&mut gathering, &both, PATIENCE);
        assert!(others.iter().all(|(peer, _)| *peer == PeerKey(1)));
        assert_eq!(sends(&mut gathering, slow[0], SIZE), Came::Kept);
        assert_eq!(sends(&mut gathering, others[0], SIZE), Came::Kept);
        assert_eq!((others[0].1, gathering.progress()), (slow[0].1, (1, 6)));
        assert!(asks(&mut gathering, &both, PATIENCE).iter().any(|(peer, _)| *peer == PeerKey(0)));
        // Of one that sends nothing at all no more is kept in mind than of others.
        for time in 1..20 {
            gathering.look(time * 100);
            asks(&mut gathering, &both, time * 100);
        }
        assert!(gathering.asked.len() <= 2 * AT_A_TIME);
    }

    #[test]
    fn what_a_peer_that_is_gone_was_asked_for_others_are() {
        let mut gathering = Gathering::default();
        assert_eq!(gathering.next(&offers(&[100, 200]), 0), Some((PeerKey(0), 0)));
        gathering.left(PeerKey(0));
        // Another size is begun with when nobody is left who says this one.
        assert_eq!(gathering.next(&[Offer { peer: PeerKey(1), size: 200 }], 0), Some((PeerKey(1), 0)));
    }

    #[test]
    fn what_nobody_asked_for_or_has_a_wrong_length_is_not_kept() {
        let mut gathering = Gathering::default();
        let ask = gathering.next(&offers(&[SIZE]), 0).unwrap();
        assert_eq!(gathering.received(PeerKey(9), ip(PeerKey(9)), 0, &[0; 16_384], 0), Came::Unasked);
        assert_eq!(gathering.received(ask.0, ip(ask.0), 9999, &[], 0), Came::Unasked);
        assert_eq!(gathering.received(ask.0, ip(ask.0), ask.1, &[0; 5], 0), Came::Misshapen);
        assert_eq!((gathering.progress(), gathering.senders.len()), ((0, 6), 0));
    }

    #[test]
    fn one_peer_is_asked_for_a_few_pieces_at_a_time() {
        let mut gathering = Gathering::default();
        let offers = offers(&[MAX_METADATA]);
        let asked = asks(&mut gathering, &offers, 0);
        assert_eq!(asked.len(), AT_A_TIME);
        sends(&mut gathering, asked[0], MAX_METADATA);
        assert_eq!(asks(&mut gathering, &offers, 0).len(), 1);
        assert!(gathering.memory() < 64 * 1024);
    }
}

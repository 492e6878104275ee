//! What is in a virtual torrent: bytes that follow from their place, and which of them somebody's disk holds.
//!
//! Bytes on the wire are real. On a disk only the ranges are kept, and whether they are as they should be, so that a
//! hundred nodes may hold what no memory would; a piece is right if all of it was written, and nothing wrong was
//! written over it.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::LazyLock;

use meshseed::metainfo::InfoHash;
use meshseed::random::Random;

/// Content repeats after so many bytes: a prime, so that no two pieces are alike.
const PERIOD: u64 = 65_521;

static PATTERN: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut random = Random::new(7);
    (0..PERIOD).map(|_| random.draw().to_le_bytes()[3]).collect()
});

/// The bytes of one torrent, as they should be.
#[derive(Clone, Copy, Debug)]
pub struct Content {
    shift: u64,
}

impl Content {
    pub fn of(info_hash: InfoHash) -> Content {
        let shift = info_hash.as_bytes()[..4].iter().fold(0, |sum, &byte| sum << 8 | u64::from(byte));
        Content { shift }
    }

    /// The bytes from `offset` on.
    pub fn read(self, offset: u64, out: &mut [u8]) {
        let mut rest = out;
        self.each(offset, rest.len(), |these| {
            let (first, others) = std::mem::take(&mut rest).split_at_mut(these.len());
            first.copy_from_slice(these);
            rest = others;
            true
        });
    }

    /// Whether these are the bytes from `offset` on.
    pub fn is(self, offset: u64, bytes: &[u8]) -> bool {
        let mut rest = bytes;
        self.each(offset, bytes.len(), |these| {
            let (first, others) = rest.split_at(these.len());
            rest = others;
            first == these
        })
    }

    fn each<'a>(self, offset: u64, mut len: usize, mut take: impl FnMut(&'a [u8]) -> bool) -> bool {
        let mut at = usize::try_from((offset + self.shift) % PERIOD).expect("small");
        while len > 0 {
            let these = &PATTERN[at..(at + len).min(PATTERN.len())];
            if !take(these) {
                return false;
            }
            len -= these.len();
            at = 0;
        }
        true
    }
}

/// The ranges of a torrent that are on a disk, and whether they are right. Neighbours differ.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Extents(BTreeMap<u64, (u64, bool)>);

impl Extents {
    /// All of it, and right.
    pub fn whole(total: u64) -> Extents {
        let mut extents = Extents::default();
        extents.write(0..total, true);
        extents
    }

    /// What was written last is what counts.
    pub fn write(&mut self, range: Range<u64>, right: bool) {
        if range.is_empty() {
            return;
        }
        self.cut(range.clone());
        let (mut start, mut end) = (range.start, range.end);
        if let Some((&before, &(its_end, its))) = self.0.range(..start).next_back()
            && its_end == start
            && its == right
        {
            start = before;
        }
        if let Some(&(its_end, its)) = self.0.get(&end)
            && its == right
        {
            self.0.remove(&end);
            end = its_end;
        }
        self.0.insert(start, (end, right));
    }

    /// Makes a hole.
    pub fn cut(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        if let Some((&start, &(end, right))) = self.0.range(..range.start).next_back()
            && end > range.start
        {
            self.0.insert(start, (range.start, right));
            if end > range.end {
                self.0.insert(range.end, (end, right));
            }
        }
        while let Some((&start, &(end, right))) = self.0.range(range.clone()).next() {
            self.0.remove(&start);
            if end > range.end {
                self.0.insert(range.end, (end, right));
            }
        }
    }

    /// Whether all of a range was written, and right.
    pub fn is_right(&self, range: Range<u64>) -> bool {
        let around = self.0.range(..=range.start).next_back();
        range.is_empty() || around.is_some_and(|(_, &(end, right))| right && end >= range.end)
    }

    /// Whether something of a range was written.
    pub fn is_any(&self, range: Range<u64>) -> bool {
        self.end_in(range.clone()) > range.start
    }

    /// Where the last byte of a range ends that was written; its start if there is none.
    pub fn end_in(&self, range: Range<u64>) -> u64 {
        match self.0.range(..range.end).next_back() {
            Some((_, &(end, _))) => end.clamp(range.start, range.end),
            None => range.start,
        }
    }

    /// Bytes of a range that were written.
    pub fn len_in(&self, range: Range<u64>) -> u64 {
        let from = self.0.range(..=range.start).next_back().map_or(range.start, |(&start, _)| start);
        let within = self.0.range(from..range.end);
        within.map(|(&start, &(end, _))| end.min(range.end).saturating_sub(start.max(range.start))).sum()
    }

    /// The parts of a range that were written, and whether each is right.
    pub fn parts(&self, range: Range<u64>) -> impl Iterator<Item = (Range<u64>, bool)> + '_ {
        let from = self.0.range(..=range.start).next_back().map_or(range.start, |(&start, _)| start);
        let parts = self
            .0
            .range(from..range.end)
            .map(move |(&start, &(end, right))| (start.max(range.start)..end.min(range.end), right));
        parts.filter(|(part, _)| !part.is_empty())
    }
}

#[test]
fn a_range_is_right_once_all_of_it_is_written_and_nothing_wrong_over_it() {
    let mut extents = Extents::default();
    extents.write(0..10, true);
    extents.write(20..30, true);
    assert!(extents.is_right(2..9) && !extents.is_right(5..25) && !extents.is_right(10..11));
    extents.write(8..22, true);
    assert_eq!(extents, Extents::whole(30));
    extents.write(12..14, false);
    assert!(extents.is_right(0..12) && extents.is_right(14..30) && !extents.is_right(11..13));
    extents.write(13..14, true);
    assert!(!extents.is_right(0..30));
    extents.write(11..13, true);
    assert_eq!(extents, Extents::whole(30));
    extents.cut(5..7);
    extents.cut(25..99);
    assert_eq!((extents.len_in(0..30), extents.end_in(0..30), extents.len_in(6..8)), (23, 25, 1));
    assert!(extents.is_any(3..6) && !extents.is_any(5..7) && extents.end_in(5..7) == 5);
    assert_eq!(extents.parts(4..10).collect::<Vec<_>>(), [(4..5, true), (7..10, true)]);
}

#[test]
fn content_is_known_by_its_place() {
    let content = Content::of(InfoHash::from_bytes([9; 20]));
    let mut bytes = vec![0; 200_000];
    content.read(1 << 40, &mut bytes);
    assert!(content.is(1 << 40, &bytes) && content.is((1 << 40) + 70_000, &bytes[70_000..]));
    assert!(!content.is(1 << 39, &bytes));
    bytes[150_000] ^= 1;
    assert!(!content.is(1 << 40, &bytes));
}

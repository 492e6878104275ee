//! Who asked whom for which block: what was asked of two at a time, and what was asked again.

use std::collections::HashMap;

use meshseed::peer::wire::Message;
use meshseed::piece::BLOCK;

use super::net::End;

/// A block that somebody asks for: who, the piece, and where in it the block begins.
type Asked = (End, u32, u32);

#[derive(Default)]
pub struct Ledger {
    /// Those that were asked for a block and have not answered.
    open: HashMap<Asked, Vec<End>>,
    counts: HashMap<End, Count>,
}

/// What one has asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    pub requests: u64,
    /// Those for blocks that another had been asked for and had not answered.
    pub twice: u64,
    /// Those made of the same peer before it had answered.
    pub repeated: u64,
    /// Bytes that came and were of no use: another was faster, or the request was taken back.
    pub dropped: u64,
}

impl Ledger {
    /// A message came from one to the other.
    pub fn note(&mut self, from: End, to: End, message: &Message<'_>) {
        match *message {
            Message::Request { piece, begin, .. } => {
                let open = self.open.entry((from, piece, begin)).or_default();
                let count = self.counts.entry(from).or_default();
                count.requests += 1;
                count.twice += u64::from(open.iter().any(|other| *other != to));
                count.repeated += u64::from(open.contains(&to));
                open.push(to);
            }
            Message::Cancel { piece, begin, .. } => self.end((from, piece, begin), to),
            Message::Reject { piece, begin, .. } => self.end((to, piece, begin), from),
            Message::Piece { piece, begin, rest: 0, .. } => {
                self.end((to, piece, begin / BLOCK * BLOCK), from);
            }
            _ => {}
        }
    }

    fn end(&mut self, asked: Asked, whom: End) {
        if let Some(open) = self.open.get_mut(&asked) {
            open.retain(|&other| other != whom);
            if open.is_empty() {
                self.open.remove(&asked);
            }
        }
    }

    /// Bytes that came to somebody were not kept.
    pub fn drop(&mut self, who: End, bytes: usize) {
        self.counts.entry(who).or_default().dropped += bytes as u64;
    }

    /// Two are not connected any more.
    pub fn part(&mut self, one: End, other: End) {
        self.open.retain(|(who, ..), open| {
            if *who == one || *who == other {
                open.retain(|&whom| whom != one && whom != other);
            }
            !open.is_empty()
        });
    }

    pub fn count(&self, who: End) -> Count {
        self.counts.get(&who).copied().unwrap_or_default()
    }
}

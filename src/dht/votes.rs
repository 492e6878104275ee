//! Where others see us: each node that answers says so (BEP 42), and a few may lie.
//!
//! Read first: BEP 42 ("bootstrapping"). Omits what is made of it. Holds 40 bytes a vote, at most [`MAX`] of them.

use std::net::IpAddr;

use crate::net::Canonical;

/// Votes that are kept, the latest.
const MAX: usize = 15;

/// Votes that make an agreement, if they are more than half.
const AGREED: usize = 5;

/// What the last nodes said, one vote an address.
#[derive(Debug, Default)]
pub struct Votes(Vec<(IpAddr, IpAddr)>);

impl Votes {
    /// One says where it sees us.
    pub fn insert(&mut self, by: IpAddr, ip: IpAddr) {
        self.0.retain(|(voter, _)| *voter != by);
        if self.0.len() == MAX {
            self.0.remove(0);
        }
        self.0.push((by, ip.canonical()));
    }

    /// Where most see us.
    pub fn seen(&self) -> Option<IpAddr> {
        self.most().filter(|(_, count)| 2 * count > self.0.len()).map(|(ip, _)| ip)
    }

    /// The same, if it is enough to act upon.
    pub fn agreed(&self) -> Option<IpAddr> {
        self.seen().filter(|_| self.most().is_some_and(|(_, count)| count >= AGREED))
    }

    /// Bytes held.
    pub fn memory(&self) -> usize {
        self.0.capacity() * size_of::<(IpAddr, IpAddr)>()
    }

    fn most(&self) -> Option<(IpAddr, usize)> {
        let count = |ip: IpAddr| self.0.iter().filter(|(_, said)| *said == ip).count();
        self.0.iter().map(|(_, ip)| (*ip, count(*ip))).max_by_key(|(_, count)| *count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(last: u8) -> IpAddr {
        [198, 18, 0, last].into()
    }

    #[test]
    fn the_majority_says_where_we_are_and_one_voice_counts_once() {
        let mut votes = Votes::default();
        assert_eq!(votes.seen(), None);
        for n in 0..50 {
            votes.insert(ip(1), ip(100 + n));
        }
        assert_eq!((votes.seen(), votes.agreed()), (Some(ip(149)), None));
        for voter in 2..8 {
            votes.insert(ip(voter), ip(200));
        }
        assert_eq!(votes.agreed(), Some(ip(200)));
        for voter in 10..20 {
            votes.insert(ip(voter), ip(201));
        }
        assert_eq!(votes.agreed(), Some(ip(201)));
    }
}

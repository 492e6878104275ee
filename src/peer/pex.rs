//! Peer exchange: lists of peers that somebody is connected to, and what of a swarm is news to whom.
//!
//! Read first: BEP 11. All that a swarm keeps for it is a number for each that came and the addresses of the last who
//! left; a peer keeps up to which number it was told. So nobody who stays silent costs a timer, a list or a buffer. That
//! somebody left is told with the next who came: it is worth waking nobody. Omits the `dropped` of others: that they lost
//! a connection says nothing of ours; and contacts that somebody was connected to once. Holds 28 bytes a peer, and 40 for
//! each of at most [`MAX_CONTACTS`] who left a swarm in which somebody stays.

use std::net::SocketAddr;

use super::Close;
use crate::bencode::{self, Value, Writer};
use crate::list::{self, Gather, Keep};
use crate::net::{Family, Host, compact};

/// Contacts in a message, of both families together, that came, and as many that left. More are not read.
pub const MAX_CONTACTS: usize = 50;

/// Seconds between two messages to a peer. A minute is meant, and the seconds are counted in whole ones.
pub const PERIOD: u32 = 61;

/// Seconds that the messages of a peer may be apart on average.
const LEAST_PERIOD: u32 = 60;

/// So many seconds too early a message is taken all the same: some send all they know at once and what came since with
/// the minute that just ends.
const EARLY: u32 = 60;

/// Messages that came too early, without one between that did not, before the connection is closed.
const MAX_EARLY: u8 = 16;

/// A flag of BEP 11: it has everything, or fetches nothing more.
pub const SEED: u8 = 0x02;

/// The same: it was dialled, so it can be.
pub const REACHABLE: u8 = 0x10;

/// A peer that somebody is connected to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Contact {
    /// Where it listens.
    pub addr: SocketAddr,
    /// What else is known of it: [`SEED`], [`REACHABLE`] and others that mean nothing to us.
    pub flags: u8,
}

/// What a peer is to be told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct News {
    /// Who came.
    pub added: Vec<Contact>,
    /// Who left.
    pub dropped: Vec<SocketAddr>,
    /// The number up to which all is in it.
    pub upto: u32,
}

/// Who came to a swarm and left it. Numbers go up with each, from 1 on.
#[derive(Debug, Default)]
pub struct Log {
    last: u32,
    left: Vec<Left>,
}

#[derive(Clone, Copy, Debug)]
struct Left {
    addr: SocketAddr,
    came: u32,
    left: u32,
}

/// What one peer was told and told us. Times are seconds since the daemon started.
#[derive(Clone, Copy, Debug, Default)]
pub struct Exchange {
    /// The number of its own coming; 0 while others are not told of it.
    pub came: u32,
    /// It was told of all up to this number.
    pub told: u32,
    /// Not to be told anything before.
    next: u32,
    /// Its messages so far would have filled the time up to this.
    filled: u32,
    early: u8,
}

/// Appends a message: at least one of the lists is not empty.
pub fn encode(added: &[Contact], dropped: &[SocketAddr], out: &mut Vec<u8>) {
    let is_of = |addr: &SocketAddr, family| Family::of(addr.host()) == family;
    Writer::new(out).dict(|dict| {
        for (family, key, flags_key) in [(Family::V4, "added", "added.f"), (Family::V6, "added6", "added6.f")]
        {
            let (mut contacts, mut flags) = (Vec::new(), Vec::new());
            for contact in added.iter().filter(|contact| is_of(&contact.addr, family)) {
                compact::encode(contact.addr, &mut contacts);
                flags.push(contact.flags);
            }
            if !contacts.is_empty() {
                dict.bytes(key, contacts);
                dict.bytes(flags_key, flags);
            }
        }
        for (family, key) in [(Family::V4, "dropped"), (Family::V6, "dropped6")] {
            let mut contacts = Vec::new();
            let of_family = dropped.iter().filter(|addr| is_of(addr, family));
            of_family.for_each(|&addr| compact::encode(addr, &mut contacts));
            if !contacts.is_empty() {
                dict.bytes(key, contacts);
            }
        }
    });
}

/// Who came, by a message of a peer: at most [`MAX_CONTACTS`].
pub fn decode(payload: &[u8]) -> Result<Vec<Contact>, bencode::Error> {
    let (value, _) = Value::parse_prefix(payload)?;
    let bytes = |key: &[u8]| value.find(key).and_then(Value::as_bytes).unwrap_or_default();
    let mut contacts = Vec::new();
    for (family, key, flags) in
        [(Family::V4, &b"added"[..], &b"added.f"[..]), (Family::V6, b"added6", b"added6.f")]
    {
        let flags = bytes(flags).iter().copied().chain(std::iter::repeat(0));
        let named = compact::decode(bytes(key), family).zip(flags);
        let room = MAX_CONTACTS - contacts.len();
        named.take(room).for_each(|(addr, flags)| contacts.push(Contact { addr, flags }));
    }
    Ok(contacts)
}

impl Log {
    /// The number of the last thing that happened.
    pub fn last(&self) -> u32 {
        self.last
    }

    /// Somebody came: its number.
    pub fn came(&mut self) -> u32 {
        self.last += 1;
        self.last
    }

    /// Somebody left whose coming had that number.
    pub fn left(&mut self, addr: SocketAddr, came: u32) {
        self.last += 1;
        if self.left.len() >= MAX_CONTACTS {
            self.left.remove(0);
        }
        self.left.push(Left { addr, came, left: self.last });
    }

    /// All have been told of what happened up to that number.
    pub fn forget(&mut self, told: u32) {
        self.left.keep(|left| left.left > told);
        if self.left.is_empty() {
            self.left = Vec::new();
        }
    }

    /// What is news to one who was told up to a number and of whom nothing else was said, `present` being those who are
    /// there, each with its number. Of more than a message takes, those who came and left first.
    pub fn news(&self, told: u32, mut present: Vec<(u32, Contact)>) -> News {
        present.keep(|(came, _)| *came > told);
        list::sort_by_key(&mut present, |(came, _)| *came);
        let known = |left: &&Left| left.came <= told && left.left > told;
        let gone: Vec<Left> = self.left.iter().filter(known).copied().gather();
        let came = present.get(MAX_CONTACTS).map(|(came, _)| came - 1);
        let left = gone.get(MAX_CONTACTS).map(|left| left.left - 1);
        let upto = self.last.min(came.unwrap_or(u32::MAX)).min(left.unwrap_or(u32::MAX));
        // Who came back meanwhile has never left.
        let is_back = |addr| present.iter().any(|(came, contact)| *came <= upto && contact.addr == addr);
        let went = |addr| gone.iter().any(|left| left.left <= upto && left.addr == addr);
        let added = present.iter().filter(|(came, contact)| *came <= upto && !went(contact.addr));
        let dropped = gone.iter().filter(|left| left.left <= upto && !is_back(left.addr));
        News {
            added: added.map(|(_, contact)| *contact).gather(),
            dropped: dropped.map(|left| left.addr).gather(),
            upto,
        }
    }
}

impl Exchange {
    /// Whether enough time has passed since it was last told something.
    pub fn may_be_told(&self, now: u32) -> bool {
        now >= self.next
    }

    /// It is told of all up to that number now.
    pub fn was_told(&mut self, upto: u32, now: u32) {
        self.told = upto;
        self.next = now.saturating_add(PERIOD);
    }

    /// A message of it came. Whether it is to be read: one a minute is, and another ahead of its time.
    pub fn hears(&mut self, now: u32) -> Result<bool, Close> {
        if self.filled > now.saturating_add(EARLY) {
            self.early += 1;
            return match self.early {
                MAX_EARLY.. => Err(Close::Protocol("floods us with lists of peers")),
                _ => Ok(false),
            };
        }
        (self.filled, self.early) = (self.filled.max(now).saturating_add(LEAST_PERIOD), 0);
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn nth(n: u32) -> Contact {
        let [.., a, b] = n.to_be_bytes();
        Contact { addr: SocketAddr::from(([10, 0, a, b], 6881)), flags: 0 }
    }

    /// Those who came with these numbers and stayed.
    fn present(numbers: impl IntoIterator<Item = u32>) -> Vec<(u32, Contact)> {
        numbers.into_iter().map(|n| (n, nth(n))).collect()
    }

    #[test]
    fn a_message_has_what_came_and_left_of_each_family_and_nothing_empty() {
        let added = [
            Contact { addr: at("10.0.0.1:256"), flags: SEED },
            Contact { addr: at("[fd00::1]:2"), flags: REACHABLE },
            Contact { addr: at("[::ffff:10.0.0.2]:3"), flags: 0 },
        ];
        let mut out = Vec::new();
        encode(&added, &[at("10.0.0.3:4")], &mut out);
        let expected = [
            &b"d5:added12:\x0a\0\0\x01\x01\0\x0a\0\0\x02\0\x037:added.f2:\x02\0"[..],
            b"6:added618:\xfd\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01\0\x028:added6.f1:\x10",
            b"7:dropped6:\x0a\0\0\x03\0\x04e",
        ];
        assert_eq!(out.escape_ascii().to_string(), expected.concat().escape_ascii().to_string());
        let read = decode(&out).unwrap();
        assert_eq!(read.len(), 3);
        assert_eq!(read[..], [added[0], Contact { addr: at("10.0.0.2:3"), flags: 0 }, added[1]]);
        out.clear();
        encode(&[], &[at("[fd00::3]:4")], &mut out);
        assert_eq!(decode(&out), Ok(Vec::new()));
        assert!(out.starts_with(b"d8:dropped618:"));
    }

    #[test]
    fn of_a_long_list_as_many_are_read_as_a_message_may_have() {
        let many: Vec<Contact> = (0..200).map(nth).collect();
        let mut out = Vec::new();
        encode(&many, &[], &mut out);
        assert_eq!(decode(&out), Ok(many[..MAX_CONTACTS].to_vec()));
    }

    #[test]
    fn flags_that_are_missing_are_none_and_odd_lists_are_read_as_far_as_they_go() {
        for (payload, contacts) in [
            (&b"d5:added6:\x0a\0\0\x01\0\x01e"[..], 1),
            (b"d5:added13:\x0a\0\0\x01\0\x01\x0a\0\0\x02\0\x02\x0a7:added.f1:\x02e", 2),
            (b"d5:addedi5e7:added.fle7:droppedd1:a1:bee", 0),
            (b"de and more", 0),
            (b"le", 0),
        ] {
            assert_eq!(decode(payload).map(|read| read.len()), Ok(contacts), "{}", payload.escape_ascii());
        }
        assert!(decode(b"d5:added").is_err());
    }

    #[test]
    fn what_came_and_left_since_is_news_once() {
        let mut log = Log::default();
        let [first, second] = [log.came(), log.came()];
        let all = log.news(0, present([first, second]));
        assert_eq!((all.added, all.dropped, all.upto), (vec![nth(1), nth(2)], vec![], 2));
        log.left(nth(1).addr, first);
        let third = log.came();
        let news = log.news(2, present([second, third]));
        assert_eq!((&news.added[..], &news.dropped[..], news.upto), (&[nth(4)][..], &[nth(1).addr][..], 4));
        assert_eq!(log.news(4, present([second, third])), News { upto: 4, ..News::default() });
        // Who was never told of the first does not hear that it left.
        assert_eq!(log.news(0, present([second, third])).dropped, []);
        log.forget(3);
        assert_eq!(log.news(2, present([second, third])).dropped, []);
    }

    #[test]
    fn who_left_and_came_back_between_two_messages_is_no_news() {
        let mut log = Log::default();
        let first = log.came();
        log.left(nth(1).addr, first);
        let again = log.came();
        let news = log.news(1, vec![(again, nth(1))]);
        assert_eq!(news, News { upto: 3, ..News::default() });
    }

    #[test]
    fn of_many_those_go_first_who_came_first_and_the_others_with_the_next() {
        let mut log = Log::default();
        let numbers: Vec<u32> = (0..120).map(|_| log.came()).collect();
        let (mut told, mut heard) = (0, Vec::new());
        for least in [50, 50, 20, 0] {
            let news = log.news(told, present(numbers.iter().rev().copied()));
            assert_eq!(news.added.len(), least);
            heard.extend(news.added);
            told = news.upto;
        }
        assert_eq!(heard, (1..=120).map(nth).collect::<Vec<_>>());
        for number in numbers {
            log.left(nth(number).addr, number);
        }
        let news = log.news(told, Vec::new());
        assert_eq!((news.dropped.len(), news.upto, log.left.len()), (MAX_CONTACTS, log.last(), MAX_CONTACTS));
    }

    #[test]
    fn one_message_a_minute_is_read_and_one_ahead_of_it_and_a_flood_ends_the_connection() {
        let mut exchange = Exchange::default();
        assert_eq!(
            [5, 9, 20, 64, 66, 70].map(|now| exchange.hears(now)),
            [Ok(true), Ok(true), Ok(false), Ok(false), Ok(true), Ok(false)]
        );
        // Twice as often as it should, for hours.
        for minute in 2..200 {
            assert!(exchange.hears(minute * 60).is_ok() && exchange.hears(minute * 60 + 30).is_ok());
        }
        let flood = (0..).map(|_| exchange.hears(20_000)).take_while(|heard| heard.is_ok()).count();
        assert!(flood <= usize::from(MAX_EARLY) + 2, "{flood}");
    }

    #[test]
    fn a_peer_is_told_once_a_minute() {
        let mut exchange = Exchange::default();
        assert!(exchange.may_be_told(0));
        exchange.was_told(7, 100);
        assert!(!exchange.may_be_told(160) && exchange.may_be_told(161));
    }
}

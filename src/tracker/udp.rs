//! The datagrams of UDP trackers, both ways.
//!
//! Read first: BEP 15, 41 (the URL's path and query behind an announce), 48 (what a scrape counts). A tracker gives a
//! connection id first, which proves that we can be reached where we say we are; all else is asked with it. A datagram
//! longer than it need be is taken: what is behind is an extension. Omits: an address other than the sender's. Holds no
//! memory beside what is read.

use super::peers::{Sample, encode_compact};
use super::{Announce, Counts, DEFAULT_INTERVAL, Event, Failure, NUMWANT, Reply, Retry, text};
use crate::metainfo::InfoHash;
use crate::net::Family;
use crate::random::Random;

/// Torrents of one scrape.
pub const MAX_SCRAPE: usize = 74;

/// What a request to connect begins with.
const MAGIC: u64 = 0x0417_2710_1980;

const CONNECT: u32 = 0;
const ANNOUNCE: u32 = 1;
const SCRAPE: u32 = 2;
const ERROR: u32 = 3;

/// The events that have a number, in its order.
const EVENTS: [Event; 4] = [Event::None, Event::Completed, Event::Started, Event::Stopped];

/// Options of BEP 41. All others but these have a length.
const END: u8 = 0;
const NOTHING: u8 = 1;
const URL_DATA: u8 = 2;

/// What is asked of a tracker, in a transaction that the asker numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Question {
    /// A connection id.
    Connect,
    /// With this connection id, and with this path and query if the URL has any.
    Announce(u64, Announce<'static>, Vec<u8>),
    /// With this connection id, the counts of these torrents.
    Scrape(u64, Vec<InfoHash>),
}

/// What a tracker answers, if it does not refuse.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// A connection id.
    Connected(u64),
    /// To an announce.
    Announced(Reply),
    /// In the order of the question.
    Scraped(Vec<Counts>),
}

/// Appends the request for a connection id.
pub fn encode_connect(transaction: u32, out: &mut Vec<u8>) {
    encode_head(MAGIC, CONNECT, transaction, out);
}

/// Appends an announce. The target is the URL's path and query; the usual one goes without saying.
pub fn encode_announce(
    connection: u64,
    transaction: u32,
    announce: &Announce<'_>,
    target: &str,
    out: &mut Vec<u8>,
) {
    encode_head(connection, ANNOUNCE, transaction, out);
    out.extend_from_slice(announce.info_hash.as_bytes());
    out.extend_from_slice(&announce.peer_id);
    for bytes in [announce.downloaded, announce.left, announce.uploaded] {
        out.extend_from_slice(&bytes.to_be_bytes());
    }
    // `paused` has no number (BEP 21), and some trackers refuse those that they do not know.
    let event = EVENTS.iter().position(|event| *event == announce.event).unwrap_or(0);
    let own_address = 0;
    for number in [u32::try_from(event).unwrap_or(0), own_address, announce.key, announce.numwant] {
        out.extend_from_slice(&number.to_be_bytes());
    }
    out.extend_from_slice(&announce.port.to_be_bytes());
    if !matches!(target, "/" | "/announce") {
        for part in target.as_bytes().chunks(usize::from(u8::MAX)) {
            out.extend_from_slice(&[URL_DATA, u8::try_from(part.len()).unwrap_or(0)]);
            out.extend_from_slice(part);
        }
    }
}

/// Appends a request for the counts of at most [`MAX_SCRAPE`] torrents.
pub fn encode_scrape(connection: u64, transaction: u32, torrents: &[InfoHash], out: &mut Vec<u8>) {
    encode_head(connection, SCRAPE, transaction, out);
    torrents.iter().take(MAX_SCRAPE).for_each(|info_hash| out.extend_from_slice(info_hash.as_bytes()));
}

/// What is asked, with the number of its transaction. `None` where it is no question.
pub fn decode_question(datagram: &[u8]) -> Option<(u32, Question)> {
    let mut rest = Bytes(datagram);
    let (connection, action, transaction) = (rest.u64()?, rest.u32()?, rest.u32()?);
    let question = match action {
        CONNECT if connection == MAGIC => Question::Connect,
        ANNOUNCE => {
            let info_hash = InfoHash::from_bytes(rest.take()?);
            let peer_id = rest.take()?;
            let (downloaded, left, uploaded) = (rest.u64()?, rest.u64()?, rest.u64()?);
            let (event, _own_address, key, numwant) = (rest.u32()?, rest.u32()?, rest.u32()?, rest.u32()?);
            let event = usize::try_from(event).ok().and_then(|number| EVENTS.get(number).copied());
            let announce = Announce {
                info_hash,
                peer_id,
                port: rest.u16()?,
                uploaded,
                downloaded,
                left,
                event: event.unwrap_or_default(),
                numwant: if numwant == u32::MAX { NUMWANT.into() } else { numwant },
                key,
                tracker_id: None,
            };
            Question::Announce(connection, announce, decode_target(rest.0))
        }
        SCRAPE => {
            let (torrents, _) = rest.0.as_chunks::<20>();
            let torrents = torrents.iter().take(MAX_SCRAPE).map(|bytes| InfoHash::from_bytes(*bytes));
            Question::Scrape(connection, torrents.collect())
        }
        _ => return None,
    };
    Some((transaction, question))
}

/// Appends an answer. Of the peers those are told that have the family of the asker.
pub fn encode_answer(transaction: u32, answer: &Answer, family: Family, out: &mut Vec<u8>) {
    match answer {
        Answer::Connected(connection) => {
            encode_answer_head(CONNECT, transaction, out);
            out.extend_from_slice(&connection.to_be_bytes());
        }
        Answer::Announced(reply) => {
            encode_answer_head(ANNOUNCE, transaction, out);
            for number in [reply.interval, reply.incomplete.unwrap_or(0), reply.complete.unwrap_or(0)] {
                out.extend_from_slice(&number.to_be_bytes());
            }
            encode_compact(&reply.peers, family, out);
        }
        Answer::Scraped(counts) => {
            encode_answer_head(SCRAPE, transaction, out);
            for Counts { seeds, leechers, downloads } in counts {
                for number in [seeds, downloads, leechers] {
                    out.extend_from_slice(&number.unwrap_or(0).to_be_bytes());
                }
            }
        }
    }
}

/// Appends a refusal.
pub fn encode_refusal(transaction: u32, reason: &str, out: &mut Vec<u8>) {
    encode_answer_head(ERROR, transaction, out);
    out.extend_from_slice(reason.as_bytes());
}

/// What came from a tracker that was asked over `family`. What is done with peers is said at
/// [`super::http::decode_reply`].
pub fn decode_answer(
    datagram: &[u8],
    family: Family,
    from_loopback: bool,
    random: &mut Random,
) -> Result<Answer, Failure> {
    let mut rest = Bytes(datagram);
    let answer = match (rest.u32(), rest.u32()) {
        (Some(CONNECT), Some(_)) => rest.u64().map(Answer::Connected),
        (Some(ANNOUNCE), Some(_)) => decode_announced(rest, family, from_loopback, random),
        (Some(SCRAPE), Some(_)) => {
            let (torrents, _) = rest.0.as_chunks::<12>();
            let counts = torrents.iter().filter_map(|torrent| {
                let mut torrent = Bytes(torrent);
                let (seeds, downloads, leechers) = (torrent.count()?, torrent.count()?, torrent.count()?);
                Some(Counts { seeds: Some(seeds), leechers: Some(leechers), downloads: Some(downloads) })
            });
            Some(Answer::Scraped(counts.collect()))
        }
        (Some(ERROR), Some(_)) => {
            let reason = rest.0.strip_suffix(b"\0").unwrap_or(rest.0);
            return Err(Failure::Refused(text(reason), Retry::Unsaid));
        }
        _ => None,
    };
    answer.ok_or_else(|| Failure::Reply("not a tracker's reply: too short".into()))
}

fn decode_announced(
    mut rest: Bytes<'_>,
    family: Family,
    from_loopback: bool,
    random: &mut Random,
) -> Option<Answer> {
    let (interval, incomplete, complete) = (rest.u32()?, rest.count()?, rest.count()?);
    let mut sample = Sample::new(from_loopback, random);
    sample.compact(rest.0, family);
    Some(Answer::Announced(Reply {
        // It is signed, and below 0 is no interval.
        interval: if interval.leading_zeros() == 0 { DEFAULT_INTERVAL } else { interval },
        complete: Some(complete),
        incomplete: Some(incomplete),
        peers: sample.peers(),
        ..Reply::default()
    }))
}

/// Path and query behind an announce; empty where there are none.
fn decode_target(mut options: &[u8]) -> Vec<u8> {
    let mut target = Vec::new();
    loop {
        options = match options {
            [] | [END, ..] => return target,
            [NOTHING, rest @ ..] => rest,
            [option, len, rest @ ..] if rest.len() >= usize::from(*len) => {
                let (data, rest) = rest.split_at((*len).into());
                if *option == URL_DATA {
                    target.extend_from_slice(data);
                }
                rest
            }
            _ => return target,
        };
    }
}

fn encode_head(connection: u64, action: u32, transaction: u32, out: &mut Vec<u8>) {
    out.extend_from_slice(&connection.to_be_bytes());
    encode_answer_head(action, transaction, out);
}

fn encode_answer_head(action: u32, transaction: u32, out: &mut Vec<u8>) {
    out.extend_from_slice(&action.to_be_bytes());
    out.extend_from_slice(&transaction.to_be_bytes());
}

/// What is left to read.
struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (first, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*first)
    }

    fn u16(&mut self) -> Option<u16> {
        self.take().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_be_bytes)
    }

    /// A signed number of peers.
    fn count(&mut self) -> Option<u32> {
        self.take().map(|bytes| u32::try_from(i32::from_be_bytes(bytes)).unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::super::{MAX_PEERS, MAX_TEXT};
    use super::*;

    fn decode(datagram: &[u8], family: Family) -> Result<Answer, Failure> {
        decode_answer(datagram, family, false, &mut Random::new(1))
    }

    fn announce() -> Announce<'static> {
        Announce {
            info_hash: InfoHash::from_bytes([0xab; 20]),
            peer_id: *b"-MS0100-abcdefghijkl",
            port: 6881,
            uploaded: u64::MAX,
            downloaded: 1,
            left: 1 << 40,
            event: Event::Started,
            numwant: 50,
            key: 0x0a0b_0c0d,
            tracker_id: None,
        }
    }

    #[test]
    fn requests_have_the_bytes_that_the_bep_says() {
        let mut out = Vec::new();
        encode_connect(0x0102_0304, &mut out);
        assert_eq!(out, [0, 0, 4, 0x17, 0x27, 0x10, 0x19, 0x80, 0, 0, 0, 0, 1, 2, 3, 4]);

        out.clear();
        encode_announce(7, 0x0102_0304, &announce(), "/announce", &mut out);
        assert_eq!(out.len(), 98);
        assert_eq!(out[..16], [0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 1, 1, 2, 3, 4]);
        assert_eq!((&out[16..36], &out[36..56]), (&[0xab; 20][..], &b"-MS0100-abcdefghijkl"[..]));
        assert_eq!(out[56..64], [0, 0, 0, 0, 0, 0, 0, 1], "downloaded");
        assert_eq!(out[64..72], [0, 0, 1, 0, 0, 0, 0, 0], "left");
        assert_eq!(out[72..80], [0xff; 8], "uploaded");
        assert_eq!(out[80..88], [0, 0, 0, 2, 0, 0, 0, 0], "event, address");
        assert_eq!(out[88..], [10, 11, 12, 13, 0, 0, 0, 50, 0x1a, 0xe1], "key, peers wanted, port");

        out.clear();
        encode_announce(7, 1, &announce(), "/key/announce?a=b", &mut out);
        assert_eq!((&out[98..100], &out[100..]), (&[2, 17][..], &b"/key/announce?a=b"[..]));

        out.clear();
        encode_scrape(7, 9, &[InfoHash::from_bytes([1; 20]); 80], &mut out);
        assert_eq!((&out[8..16], out.len()), (&[0, 0, 0, 2, 0, 0, 0, 9][..], 16 + 74 * 20));
    }

    #[test]
    fn requests_are_written_as_they_are_read() {
        let mut out = Vec::new();
        encode_connect(5, &mut out);
        assert_eq!(decode_question(&out), Some((5, Question::Connect)));
        let long = format!("/{}", "x".repeat(700));
        for event in EVENTS {
            for (target, read) in [("/announce", ""), ("/", ""), ("/k?a=b", "/k?a=b"), (&long, &long)] {
                let announce = Announce { event, ..announce() };
                out.clear();
                encode_announce(u64::MAX, 6, &announce, target, &mut out);
                let expected = Question::Announce(u64::MAX, announce, read.into());
                assert_eq!(decode_question(&out), Some((6, expected)));
            }
        }
        let torrents = vec![InfoHash::from_bytes([1; 20]), InfoHash::from_bytes([2; 20])];
        out.clear();
        encode_scrape(8, 7, &torrents, &mut out);
        assert_eq!(decode_question(&out), Some((7, Question::Scrape(8, torrents))));
    }

    #[test]
    fn extensions_that_we_do_not_know_are_passed_over() {
        let read = |options: &[u8]| String::from_utf8(decode_target(options)).unwrap();
        assert_eq!(read(b""), "");
        assert_eq!(read(b"\x01\x01\x02\x01a\x09\x03xyz\x02\x02bc\x00\x02\x01d"), "abc");
        assert_eq!(read(b"\x02\x05abc"), "", "cut off");
        assert_eq!(read(b"\x02"), "");
    }

    #[test]
    fn answers_are_written_as_they_are_read() {
        let peers = ["10.1.1.1:6881", "203.0.113.1:1", "[2001:db8::1]:65535"].map(|p| p.parse().unwrap());
        let counts = |n: u32| Counts { seeds: Some(n), leechers: Some(n + 1), downloads: Some(n + 2) };
        let mut out = Vec::new();
        for (family, told) in [(Family::V4, &peers[..2]), (Family::V6, &peers[2..])] {
            let reply = |peers: &[SocketAddr]| {
                let (complete, incomplete) = (Some(3), Some(4));
                let peers = peers.to_vec();
                Answer::Announced(Reply { interval: 900, complete, incomplete, peers, ..Reply::default() })
            };
            for (answer, read) in [
                (Answer::Connected(u64::MAX - 1), Answer::Connected(u64::MAX - 1)),
                (reply(&peers), reply(told)),
                (Answer::Scraped(vec![counts(1), counts(7)]), Answer::Scraped(vec![counts(1), counts(7)])),
            ] {
                out.clear();
                encode_answer(0xdead_beef, &answer, family, &mut out);
                assert_eq!(out[4..8], [0xde, 0xad, 0xbe, 0xef]);
                assert_eq!(decode(&out, family), Ok(read));
            }
        }
        out.clear();
        encode_refusal(1, "not registered", &mut out);
        let refused = Err(Failure::Refused("not registered".into(), Retry::Unsaid));
        assert_eq!(decode(&out, Family::V4), refused);
        out.push(0);
        assert_eq!(decode(&out, Family::V4), refused);
    }

    #[test]
    fn an_announce_is_answered_with_the_bytes_that_the_bep_says() {
        let datagram =
            [&[0, 0, 0, 1, 9, 9, 9, 9, 0, 0, 7, 8, 0, 0, 0, 2, 0, 0, 0, 5][..], &[10, 0, 0, 9, 0x1a, 0xe1]]
                .concat();
        let Ok(Answer::Announced(reply)) = decode(&datagram, Family::V4) else { panic!("it is one") };
        assert_eq!((reply.interval, reply.incomplete, reply.complete), (1800, Some(2), Some(5)));
        assert_eq!(reply.peers, ["10.0.0.9:6881".parse().unwrap()]);
    }

    #[test]
    fn what_a_tracker_errs_in_is_bounded() {
        let announced = |numbers: [u32; 3], peers: &[u8]| {
            let head = [ANNOUNCE, 0].into_iter().chain(numbers).flat_map(u32::to_be_bytes);
            decode(&head.chain(peers.iter().copied()).collect::<Vec<_>>(), Family::V4)
        };
        let Ok(Answer::Announced(reply)) = announced([u32::MAX; 3], b"") else { panic!("it is one") };
        assert_eq!(
            (reply.interval, reply.incomplete, reply.complete),
            (DEFAULT_INTERVAL, Some(0), Some(0)),
            "below 0"
        );
        // Nobody's, on this machine, without a port, and cut off.
        let bad = [0, 1, 2, 3, 0, 1, 127, 0, 0, 1, 0, 1, 10, 0, 0, 1, 0, 0, 10, 0, 0];
        let Ok(Answer::Announced(reply)) = announced([1; 3], &bad) else { panic!("it is one") };
        assert_eq!(reply.peers, []);
        let many: Vec<u8> = (0..=255).flat_map(|n| [10, 0, 0, n, 0, 1]).collect();
        let Ok(Answer::Announced(reply)) = announced([1; 3], &many) else { panic!("it is one") };
        assert_eq!(reply.peers.len(), MAX_PEERS);
        let mut refusal = Vec::new();
        encode_refusal(1, &"\x1b".repeat(2000), &mut refusal);
        let Err(Failure::Refused(text, _)) = decode(&refusal, Family::V4) else { panic!("it is one") };
        assert_eq!(text.len(), MAX_TEXT);
    }

    #[test]
    fn no_truncation_and_no_mutation_panics() {
        let mut whole: [Vec<u8>; 5] = Default::default();
        encode_connect(1, &mut whole[0]);
        encode_announce(1, 1, &announce(), "/key/announce?a=b", &mut whole[1]);
        encode_scrape(1, 1, &[announce().info_hash; 3], &mut whole[2]);
        let reply = Reply { peers: vec!["10.0.0.1:1".parse().unwrap(); 9], ..Reply::default() };
        encode_answer(1, &Answer::Announced(reply), Family::V4, &mut whole[3]);
        encode_answer(1, &Answer::Scraped(vec![Counts::default(); 3]), Family::V4, &mut whole[4]);
        let mut random = Random::new(3);
        for whole in whole {
            for len in 0..whole.len() {
                let short = &whole[..len];
                assert!(decode(short, Family::V6).is_err() || len >= 8);
                assert!(decode_question(short).is_none() || len >= 16);
                for _ in 0..20 {
                    let mut bent = whole.clone();
                    bent[random.below(len + 1)] = u8::try_from(random.below(256)).unwrap();
                    let _ = (decode(&bent, Family::V4), decode(&bent, Family::V6), decode_question(&bent));
                }
            }
        }
    }
}

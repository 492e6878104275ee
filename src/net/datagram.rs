//! What a datagram on our port is, told apart by its first bytes, and what a uTP connection attempt is answered with.
//!
//! Read first: BEP 5 (messages), 15 (UDP trackers), 29 (uTP's header). The three forms cannot be confused: a dictionary
//! begins with `d`, a tracker's answer with three zeros, a version-1 uTP packet with its type and a one. Omits: uTP
//! itself; a reset is what tells its users to come by TCP. Holds no memory.

/// Bytes of a uTP header, and of a reset.
pub const UTP_HEADER: usize = 20;

/// `ST_SYN` and `ST_RESET`, each in version 1.
const SYN: u8 = 0x41;
const RESET: u8 = 0x31;

/// Where a header has its connection id, and its sequence number, which is what a reset acknowledges.
const CONNECTION: std::ops::Range<usize> = 2..4;
const SEQUENCE: std::ops::Range<usize> = 16..18;
const ACKNOWLEDGED: std::ops::Range<usize> = 18..20;

/// The highest action of a tracker's answer, which is an error.
const MAX_ACTION: u32 = 3;

/// What came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Datagram {
    /// A message of the DHT.
    Dht,
    /// A tracker's answer in the transaction of this number.
    Tracker(u32),
    /// Somebody wants a uTP connection; the reset that tells that there is none.
    Connect([u8; UTP_HEADER]),
    /// Nothing that we know.
    Other,
}

/// Tells what came. A reset is never larger than what it answers, and answers nothing but a first packet: neither
/// reflects more than it took, nor do two of us answer each other.
pub fn tell_apart(datagram: &[u8]) -> Datagram {
    match datagram {
        [b'd', .., b'e'] => Datagram::Dht,
        [SYN, ..] if datagram.len() >= UTP_HEADER => Datagram::Connect(reset(datagram)),
        &[0, b, c, d, e, f, g, h, ..] if u32::from_be_bytes([0, b, c, d]) <= MAX_ACTION => {
            Datagram::Tracker(u32::from_be_bytes([e, f, g, h]))
        }
        _ => Datagram::Other,
    }
}

fn reset(syn: &[u8]) -> [u8; UTP_HEADER] {
    let mut reset = [0; UTP_HEADER];
    reset[0] = RESET;
    reset[CONNECTION].copy_from_slice(&syn[CONNECTION]);
    reset[ACKNOWLEDGED].copy_from_slice(&syn[SEQUENCE]);
    reset
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first packet of libutp, with its extension of eight bytes: id 0x1234, sequence number 1.
    const ATTEMPT: [u8; 30] =
        [0x41, 2, 0x12, 0x34, 9, 8, 7, 6, 0, 0, 0, 0, 0, 4, 0, 0, 0, 1, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0];

    #[test]
    fn a_connection_attempt_is_answered_with_a_reset_of_its_id() {
        let Datagram::Connect(reset) = tell_apart(&ATTEMPT) else { panic!("it is one") };
        let expected = [0x31, 0, 0x12, 0x34, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
        assert_eq!(reset, expected);
        assert_eq!(tell_apart(&reset), Datagram::Other, "nobody answers a reset");
        assert!(matches!(tell_apart(&ATTEMPT[..20]), Datagram::Connect(_)));
    }

    #[test]
    fn only_the_first_packet_of_a_whole_header_and_our_version_is_answered() {
        for len in 0..20 {
            assert_eq!(tell_apart(&ATTEMPT[..len]), Datagram::Other);
        }
        for first in (0..=255).filter(|first| *first != 0x41) {
            let mut packet = ATTEMPT;
            packet[0] = first;
            assert!(!matches!(tell_apart(&packet), Datagram::Connect(_)), "{first:#x}");
        }
    }

    #[test]
    fn messages_of_the_dht_and_trackers_answers_are_told_apart() {
        assert_eq!(tell_apart(b"d1:y1:qe"), Datagram::Dht);
        assert_eq!(tell_apart(b"de"), Datagram::Dht);
        for other in [&b""[..], b"d", b"e", b"d1:y1:q", b"i5e", b"ping"] {
            assert_eq!(tell_apart(other), Datagram::Other);
        }
        assert_eq!(tell_apart(&[0, 0, 0, 1, 0xde, 0xad, 0xbe, 0xef]), Datagram::Tracker(0xdead_beef));
        assert_eq!(tell_apart(&[0, 0, 0, 3, 0, 0, 0, 1, b'n', b'o']), Datagram::Tracker(1));
        assert_eq!(tell_apart(&[0, 0, 0, 4, 0, 0, 0, 1]), Datagram::Other);
        assert_eq!(tell_apart(&[0, 0, 0, 1, 0, 0, 0]), Datagram::Other);
    }
}

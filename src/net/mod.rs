//! Which addresses are whose: prefixes, the classes of addresses, and what may be dialled at all.
//!
//! Read first: RFC 6890 (special addresses). A mesh uses private, shared and even foreign ranges for its own
//! nodes, so a class never decides whether somebody is near: the prefixes of our links and of the configuration do.
//! Omits: routes. Holds no memory.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

pub mod compact;
pub mod datagram;
pub mod io;
pub mod ours;

/// A range of addresses as `10.0.0.0/8` names it. IPv4 addresses in IPv6 clothes (`::ffff:0:0/96`) count as IPv4.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix {
    /// Bits beyond `len` are zero.
    network: IpAddr,
    len: u8,
}

/// What a text is not: a prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PrefixError {
    /// No address stands before the slash.
    Address,
    /// What stands behind the slash is no number of bits that such an address has.
    Length,
}

/// What an address is for. Only [`Class::Global`] addresses are the Internet's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// Nobody's: `0.0.0.0/8`, `::`, 240/4, documentation.
    Nowhere,
    /// This machine.
    Loopback,
    /// One link: 169.254/16, `fe80::/10`.
    Link,
    /// A site's own: RFC 1918, 100.64/10, `fc00::/7`.
    Private,
    /// A group.
    Multicast,
    /// All others.
    Global,
}

/// The two kinds of IP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// A socket's address without its port: std's own is a hundred bytes in each of a hundred places.
pub trait Host {
    /// The same as `ip`.
    fn host(&self) -> IpAddr;
}

impl Host for SocketAddr {
    #[inline(never)]
    fn host(&self) -> IpAddr {
        self.ip()
    }
}

/// An address without IPv6 clothes, not inlined either.
pub trait Canonical {
    /// The same as `to_canonical`.
    fn canonical(&self) -> IpAddr;
}

impl Canonical for IpAddr {
    #[inline(never)]
    fn canonical(&self) -> IpAddr {
        self.to_canonical()
    }
}

impl Prefix {
    /// Bits of `address` beyond `len` are dropped. `None` where the address has fewer bits.
    pub fn new(address: IpAddr, len: u8) -> Option<Prefix> {
        let (address, len) = match (address, address.canonical()) {
            (IpAddr::V6(_), IpAddr::V4(v4)) => (IpAddr::V4(v4), len.checked_sub(96)?),
            (_, canonical) => (canonical, len),
        };
        let network = match address {
            IpAddr::V4(_) if len > 32 => return None,
            IpAddr::V4(v4) => IpAddr::V4(Ipv4Addr::from_bits(v4.to_bits() & mask(32, len).0)),
            IpAddr::V6(_) if len > 128 => return None,
            IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & mask(128, len).1)),
        };
        Some(Prefix { network, len })
    }

    /// Whether the address lies in it.
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.network, address.canonical()) {
            (IpAddr::V4(network), IpAddr::V4(v4)) => {
                (network.to_bits() ^ v4.to_bits()) & mask(32, self.len).0 == 0
            }
            (IpAddr::V6(network), IpAddr::V6(v6)) => {
                (network.to_bits() ^ v6.to_bits()) & mask(128, self.len).1 == 0
            }
            _ => false,
        }
    }

    /// The first address.
    pub fn network(&self) -> IpAddr {
        self.network
    }

    /// Bits that all its addresses share.
    pub fn bits(&self) -> u8 {
        self.len
    }
}

impl FromStr for Prefix {
    type Err = PrefixError;

    /// `ADDRESS/BITS`, or an address alone.
    fn from_str(text: &str) -> Result<Prefix, PrefixError> {
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| PrefixError::Address)?;
        let len = match bits {
            None => {
                if address.is_ipv4() {
                    32
                } else {
                    128
                }
            }
            Some(bits) if bits.bytes().all(|b| b.is_ascii_digit()) => {
                bits.parse::<u16>().ok().and_then(|bits| bits.try_into().ok()).ok_or(PrefixError::Length)?
            }
            Some(_) => return Err(PrefixError::Length),
        };
        Prefix::new(address, len).ok_or(PrefixError::Length)
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.len)
    }
}

impl fmt::Display for PrefixError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PrefixError::Address => write!(f, "no address stands there: write it as 10.0.0.0/8 or fd00::/8"),
            PrefixError::Length => {
                write!(f, "behind the slash stands a number of bits, at most 32 for IPv4 and 128 for IPv6")
            }
        }
    }
}

impl std::error::Error for PrefixError {}

impl Family {
    /// The family of an address.
    pub fn of(address: IpAddr) -> Family {
        if address.canonical().is_ipv4() { Family::V4 } else { Family::V6 }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", if *self == Family::V4 { "IPv4" } else { "IPv6" })
    }
}

/// What an address is for. An IPv4 address inside an IPv6 one (mapped, or translated by RFC 6052) is what it is as
/// an IPv4 address, so that nothing is reached by another spelling.
pub fn class(address: IpAddr) -> Class {
    match address.canonical() {
        IpAddr::V4(v4) => class_v4(v4),
        IpAddr::V6(v6) => class_v6(v6),
    }
}

/// Whether a peer's address that somebody told us is worth a packet. Loopback peers are believed only from a source
/// on this machine: from elsewhere they would make us knock at our own doors.
pub fn dialable(address: SocketAddr, from_loopback_source: bool) -> bool {
    let scoped = match address {
        SocketAddr::V4(_) => true,
        SocketAddr::V6(v6) => v6.scope_id() != 0,
    };
    address.port() != 0
        && match class(address.host()) {
            Class::Nowhere | Class::Multicast => false,
            Class::Loopback => from_loopback_source,
            Class::Link => scoped,
            Class::Private | Class::Global => true,
        }
}

/// An IPv4 peer is one address, whichever kind of socket it came by.
pub fn plain(addr: SocketAddr) -> SocketAddr {
    match addr {
        SocketAddr::V6(v6) => match v6.ip().to_ipv4_mapped() {
            Some(ip) => SocketAddr::new(ip.into(), v6.port()),
            None => addr,
        },
        SocketAddr::V4(_) => addr,
    }
}

fn class_v4(v4: Ipv4Addr) -> Class {
    match v4.octets() {
        [0, ..] | [240..=255, ..] => Class::Nowhere,
        [127, ..] => Class::Loopback,
        [169, 254, ..] => Class::Link,
        [10, ..] | [172, 16..=31, ..] | [192, 168, ..] | [100, 64..=127, ..] => Class::Private,
        [224..=239, ..] => Class::Multicast,
        _ => Class::Global,
    }
}

fn class_v6(v6: Ipv6Addr) -> Class {
    match v6.segments() {
        [0, 0, 0, 0, 0, 0, 0, 1] => Class::Loopback,
        [0, 0, 0, 0, 0, 0, ..] => Class::Nowhere,
        [0x64, 0xff9b, 0, 0, 0, 0, _, _] => {
            let [.., a, b, c, d] = v6.octets();
            class_v4(Ipv4Addr::new(a, b, c, d))
        }
        [0xfe80..=0xfebf, ..] => Class::Link,
        [0xfc00..=0xfdff, ..] => Class::Private,
        [0xff00..=0xffff, ..] => Class::Multicast,
        _ => Class::Global,
    }
}

/// CRC-32C (Castagnoli), reflected: what BEP 40 and 42 reckon of addresses. Bit by bit: it is reckoned once an address, and
/// a table would be a kilobyte.
pub fn crc32c(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg());
        }
    }
    !crc
}

/// The mask of `len` bits of an address of `width` bits, for both widths (only that of `width` has a meaning).
fn mask(width: u32, len: u8) -> (u32, u128) {
    let host = width.saturating_sub(u32::from(len));
    (u32::MAX.checked_shl(host).unwrap_or(0), u128::MAX.checked_shl(host).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_prefix_holds_its_addresses_and_no_others() {
        let cases = [
            ("10.0.0.0/8", "10.255.1.2", true),
            ("10.0.0.0/8", "11.0.0.0", false),
            ("10.1.2.3/8", "10.9.9.9", true),
            ("0.0.0.0/0", "203.0.113.9", true),
            ("0.0.0.0/0", "2001:db8::1", false),
            ("::/0", "2001:db8::1", true),
            ("::/0", "1.2.3.4", false),
            ("192.0.2.7", "192.0.2.7", true),
            ("192.0.2.7/32", "192.0.2.6", false),
            ("fd00::/8", "fdff::1", true),
            ("fd00::/8", "fe80::1", false),
            ("fe80::1", "fe80::1", true),
            ("10.0.0.0/8", "::ffff:10.1.1.1", true),
            ("::ffff:10.0.0.0/104", "10.1.1.1", true),
            ("::ffff:10.0.0.0/104", "11.1.1.1", false),
        ];
        for (prefix, address, inside) in cases {
            let prefix: Prefix = prefix.parse().unwrap();
            assert_eq!(prefix.contains(ip(address)), inside, "{address} in {prefix}");
        }
    }

    #[test]
    fn a_prefix_is_written_as_it_is_read() {
        for text in ["10.0.0.0/8", "0.0.0.0/0", "fd00::/8", "::/0", "192.0.2.7/32", "fe80::1/128"] {
            assert_eq!(text.parse::<Prefix>().unwrap().to_string(), text);
        }
        assert_eq!("10.1.2.3/8".parse::<Prefix>().unwrap().to_string(), "10.0.0.0/8");
    }

    #[test]
    fn what_is_no_prefix_is_refused() {
        for text in [
            "",
            "/",
            "10.0.0.0/",
            "10.0.0.0/33",
            "::/129",
            "10.0.0.0/-1",
            "10.0.0.0/+8",
            "10.0.0/8",
            "on-link",
            "10.0.0.0/8/8",
            "10.0.0.0/ 8",
            "::ffff:10.0.0.0/95",
            "10.0.0.0/256",
        ] {
            assert!(text.parse::<Prefix>().is_err(), "{text}");
        }
    }

    #[test]
    fn addresses_fall_into_their_classes_in_every_spelling() {
        let cases = [
            ("0.1.2.3", Class::Nowhere),
            ("127.9.9.9", Class::Loopback),
            ("::ffff:127.0.0.1", Class::Loopback),
            ("64:ff9b::7f00:1", Class::Loopback),
            ("169.254.1.1", Class::Link),
            ("10.0.0.1", Class::Private),
            ("64:ff9b::10.0.0.1", Class::Private),
            ("172.15.0.1", Class::Global),
            ("172.16.0.1", Class::Private),
            ("172.32.0.1", Class::Global),
            ("192.168.3.4", Class::Private),
            ("100.64.0.1", Class::Private),
            ("100.128.0.1", Class::Global),
            ("224.0.0.1", Class::Multicast),
            ("240.0.0.1", Class::Nowhere),
            ("255.255.255.255", Class::Nowhere),
            ("104.1.2.3", Class::Global),
            ("::", Class::Nowhere),
            ("::1", Class::Loopback),
            ("::7f00:1", Class::Nowhere),
            ("fe80::1", Class::Link),
            ("fd12::1", Class::Private),
            ("ff15::efc0:988f", Class::Multicast),
            ("2001:4860::1", Class::Global),
        ];
        for (address, expected) in cases {
            assert_eq!(class(ip(address)), expected, "{address}");
        }
    }

    #[test]
    fn only_addresses_that_lead_somewhere_are_dialled() {
        let cases = [
            ("1.2.3.4:6881", false, true),
            ("1.2.3.4:0", false, false),
            ("0.0.0.1:1", true, false),
            ("239.1.1.1:1", true, false),
            ("127.0.0.1:1", false, false),
            ("127.0.0.1:1", true, true),
            ("[::1]:1", false, false),
            ("[::ffff:127.0.0.1]:1", false, false),
            ("[::1]:1", true, true),
            ("10.1.1.1:1", false, true),
            ("[fe80::1]:1", false, false),
            ("[fe80::1%3]:1", false, true),
            ("[2001:db8::1]:1", false, true),
        ];
        for (address, from_loopback, expected) in cases {
            assert_eq!(dialable(address.parse().unwrap(), from_loopback), expected, "{address}");
        }
    }
}

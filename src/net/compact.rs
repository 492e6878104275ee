//! Addresses as the protocols write them one after the other: the bytes of the IP, then the port.
//!
//! Read first: BEP 5, 7, 11 and 23. Omits the scope of link-local addresses, for which there is no room. Holds nothing.

use std::net::{IpAddr, SocketAddr};

use super::Family;
use crate::net::{Canonical, Host};

/// Bytes of an address and its port.
pub const fn width(family: Family) -> usize {
    match family {
        Family::V4 => 6,
        Family::V6 => 18,
    }
}

/// Appends an address. One of IPv4 in IPv6 clothes is one of IPv4.
pub fn encode(address: SocketAddr, out: &mut Vec<u8>) {
    match address.host().canonical() {
        IpAddr::V4(v4) => out.extend_from_slice(&v4.octets()),
        IpAddr::V6(v6) => out.extend_from_slice(&v6.octets()),
    }
    out.extend_from_slice(&address.port().to_be_bytes());
}

/// One address alone.
pub fn bytes(address: SocketAddr) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(width(Family::V6));
    encode(address, &mut bytes);
    bytes
}

/// The one address of either family that all of `bytes` are.
pub fn address(bytes: &[u8]) -> Option<SocketAddr> {
    let (ip, port) = bytes.split_last_chunk::<2>()?;
    let ip = match <[u8; 4]>::try_from(ip) {
        Ok(v4) => IpAddr::from(v4),
        Err(_) => IpAddr::from(<[u8; 16]>::try_from(ip).ok()?).canonical(),
    };
    Some(SocketAddr::new(ip, u16::from_be_bytes(*port)))
}

/// The addresses of that family that `bytes` are. What is left of them at the end is no address.
pub fn decode(bytes: &[u8], family: Family) -> impl Iterator<Item = SocketAddr> + '_ {
    bytes.chunks_exact(width(family)).filter_map(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_reads_back_as_it_was_written_in_either_family() {
        for (family, texts) in
            [(Family::V4, ["10.0.0.1:6881", "255.0.1.2:65535"]), (Family::V6, ["[fd00::1]:1", "[::1]:256"])]
        {
            let addresses = texts.map(|text| text.parse::<SocketAddr>().unwrap());
            let mut bytes = Vec::new();
            addresses.into_iter().for_each(|address| encode(address, &mut bytes));
            assert_eq!(bytes.len(), 2 * width(family));
            bytes.push(7);
            assert!(decode(&bytes, family).eq(addresses));
        }
    }

    #[test]
    fn ipv4_in_ipv6_clothes_is_ipv4_both_ways() {
        let mut bytes = Vec::new();
        encode("[::ffff:1.2.3.4]:5".parse().unwrap(), &mut bytes);
        assert_eq!(bytes, [1, 2, 3, 4, 0, 5]);
        let clothed = [[0; 10].as_slice(), &[0xff, 0xff], &bytes].concat();
        assert_eq!(decode(&clothed, Family::V6).next(), Some("1.2.3.4:5".parse().unwrap()));
    }
}

//! The 160 bits by which nodes and torrents find each other, and whether a node's bits suit its address.
//!
//! Read first: BEP 5 ("overview": distances), BEP 42 (ids made of addresses). Omits nothing of either. Holds no memory.

use std::net::IpAddr;

use crate::metainfo::InfoHash;
use crate::net::{Canonical, Class, class, crc32c};
use crate::random::Random;

/// An id of a node, or what is looked for near one. Ordered as a number: the order of distances.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Id(pub [u8; 20]);

/// Bits of an id that its address decides: 21, and the last byte, which says which of eight ids it is.
const DECIDED: [u8; 3] = [0xff, 0xff, 0xf8];

/// What of an address decides (BEP 42): networks that can get many addresses get few ids.
const MASK_V4: [u8; 4] = [0x03, 0x0f, 0x3f, 0xff];
const MASK_V6: [u8; 8] = [0x01, 0x03, 0x07, 0x0f, 0x1f, 0x3f, 0x7f, 0xff];

impl Id {
    /// Any id.
    pub fn by_chance(random: &mut Random) -> Id {
        let mut bytes = [0; 20];
        for part in bytes.chunks_mut(8) {
            part.copy_from_slice(&random.draw().to_be_bytes()[..part.len()]);
        }
        Id(bytes)
    }

    /// How far from another.
    pub fn distance(self, other: Id) -> Id {
        let mut bytes = self.0;
        for (byte, other) in bytes.iter_mut().zip(other.0) {
            *byte ^= other;
        }
        Id(bytes)
    }

    /// The leading bits that both share: the number of the bucket in which one keeps the other.
    pub fn shared_bits(self, other: Id) -> u8 {
        let mut bits = 0;
        for byte in self.distance(other).0 {
            // At most 160.
            bits += u8::try_from(byte.leading_zeros()).unwrap_or(0);
            if byte != 0 {
                break;
            }
        }
        bits
    }

    /// Whether a node at this address may call itself so. Only addresses of the Internet bind an id: a mesh has
    /// thousands of nodes behind few bits of private addresses.
    pub fn suits(self, address: IpAddr) -> bool {
        let decided = |bits: [u8; 3]| (0..3).all(|at| (bits[at] ^ self.0[at]) & DECIDED[at] == 0);
        class(address) != Class::Global || decided(prefix(address, self.0[19]))
    }

    /// An id that a node at this address may have.
    pub fn suiting(address: IpAddr, random: &mut Random) -> Id {
        let mut id = Id::by_chance(random);
        let bits = prefix(address, id.0[19]);
        for at in 0..3 {
            id.0[at] = (bits[at] & DECIDED[at]) | (id.0[at] & !DECIDED[at]);
        }
        id
    }
}

impl From<InfoHash> for Id {
    fn from(info_hash: InfoHash) -> Id {
        Id(*info_hash.as_bytes())
    }
}

/// The first bytes of the checksum that an address and a number below eight make.
fn prefix(address: IpAddr, number: u8) -> [u8; 3] {
    let mut bytes = [0; 8];
    let length = match address.canonical() {
        IpAddr::V4(v4) => {
            bytes[..4].copy_from_slice(&v4.octets());
            bytes.iter_mut().zip(MASK_V4).for_each(|(byte, mask)| *byte &= mask);
            4
        }
        IpAddr::V6(v6) => {
            bytes.copy_from_slice(&v6.octets()[..8]);
            bytes.iter_mut().zip(MASK_V6).for_each(|(byte, mask)| *byte &= mask);
            8
        }
    };
    bytes[0] |= number << 5;
    let [first, second, third, _] = crc32c(&bytes[..length]).to_be_bytes();
    [first, second, third]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_made_of_addresses_as_the_bep_says() {
        let cases = [
            ("124.31.75.21", [0x5f, 0xbf, 0xbf], 1),
            ("21.75.31.124", [0x5a, 0x3c, 0xe9], 86),
            ("65.23.51.170", [0xa5, 0xd4, 0x32], 22),
            ("84.124.73.14", [0x1b, 0x03, 0x21], 65),
            ("43.213.53.83", [0xe5, 0x6f, 0x6c], 90),
        ];
        for (address, first, last) in cases {
            let mut id = Id([7; 20]);
            id.0[..3].copy_from_slice(&first);
            id.0[19] = last;
            let address: IpAddr = address.parse().unwrap();
            assert!(id.suits(address), "{address}");
            for (at, bit) in [(0, 0x80), (1, 0x01), (2, 0x08), (19, 0x01)] {
                let mut other = id;
                other.0[at] ^= bit;
                assert!(!other.suits(address), "{address}");
            }
            id.0[2] ^= 0x07;
            assert!(id.suits(address), "three bits of the third byte are free");
        }
    }

    #[test]
    fn an_id_made_for_an_address_suits_it_and_not_its_neighbour() {
        let mut random = Random::new(1);
        for address in ["203.0.114.9", "8.8.8.8", "2001:4860::1"] {
            let address: IpAddr = address.parse().unwrap();
            let id = Id::suiting(address, &mut random);
            assert!(id.suits(address) && !id.suits("9.9.9.9".parse().unwrap()));
        }
    }

    #[test]
    fn private_addresses_bind_nobody() {
        let id = Id::by_chance(&mut Random::new(1));
        for address in ["10.1.1.1", "192.168.1.1", "100.64.0.1", "fd00::1", "fe80::1", "127.0.0.1"] {
            assert!(id.suits(address.parse().unwrap()), "{address}");
        }
        assert!(!id.suits("8.8.8.8".parse().unwrap()));
    }

    #[test]
    fn near_is_what_shares_many_bits() {
        let zero = Id([0; 20]);
        let mut near = zero;
        near.0[19] = 1;
        let mut far = zero;
        far.0[0] = 0x40;
        assert_eq!([near, far, zero].map(|id| id.shared_bits(zero)), [159, 1, 160]);
        assert!(near.distance(zero) < far.distance(zero));
        assert_eq!(far.distance(near).distance(near), far);
    }
}

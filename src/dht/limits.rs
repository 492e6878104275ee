//! How much one address may ask of us, and we of it.
//!
//! No BEP names numbers: libtorrent takes no more than five packets a second from an address, which is why we send less
//! than that. What is counted is counted by few bytes of the address, so that it costs the same for any number of addresses.
//! Holds 7 KiB at most.

use std::net::{IpAddr, SocketAddr};

use crate::net::{Canonical, Class, Host, class};
use crate::random::Random;

/// Seconds of a window.
const WINDOW: u32 = 10;

/// Queries of one address that are answered in a window.
const MAX_HEARD: u8 = 50;

/// Queries that we send to one address in a window.
const MAX_SENT: u16 = 25;

/// Addresses that we know to have sent to.
const MAX_KNOWN: usize = 256;

/// Seconds for which a gateway remembers whom we have sent to: Linux forgets after two minutes.
const REMEMBERED: u32 = 100;

/// Who has asked us how much. Addresses share counters by chance, others in each window.
#[derive(Debug)]
pub struct Heard {
    window: u32,
    salt: u64,
    counts: [u8; 256],
}

/// Whom we have sent to.
#[derive(Debug, Default)]
pub struct Sent {
    known: Vec<Known>,
}

#[derive(Clone, Copy, Debug)]
struct Known {
    addr: u64,
    /// The last time, in seconds.
    last: u32,
    /// Since when `count` counts.
    since: u32,
    count: u16,
}

impl Heard {
    /// Nobody has asked.
    pub fn new() -> Heard {
        Heard { window: 0, salt: 0, counts: [0; 256] }
    }

    /// A query came: whether it is answered.
    pub fn admits(&mut self, address: IpAddr, now: u32, random: &mut Random) -> bool {
        if now / WINDOW != self.window {
            (self.window, self.salt, self.counts) = (now / WINDOW, random.draw(), [0; 256]);
        }
        let at = usize::from(mix(bits(address) ^ self.salt).to_be_bytes()[0]);
        let count = &mut self.counts[at];
        let admits = *count < MAX_HEARD;
        *count += u8::from(admits);
        admits
    }
}

impl Sent {
    /// Whether it has been sent to lately: that costs a gateway nothing more.
    pub fn knows(&self, addr: SocketAddr, now: u32) -> bool {
        self.was_sent(addr, REMEMBERED, now)
    }

    /// Whether it was sent to in the last seconds.
    pub fn was_sent(&self, addr: SocketAddr, seconds: u32, now: u32) -> bool {
        self.find(addr).is_some_and(|known| now.saturating_sub(known.last) < seconds)
    }

    /// Whether it may be asked one thing more.
    pub fn allows(&self, addr: SocketAddr, now: u32) -> bool {
        let full = |known: &Known| now.saturating_sub(known.since) < WINDOW && known.count >= MAX_SENT;
        !self.find(addr).is_some_and(full)
    }

    /// It is sent to.
    pub fn insert(&mut self, addr: SocketAddr, now: u32) {
        let key = key(addr);
        let new = Known { addr: key, last: now, since: now, count: 1 };
        if let Some(known) = self.known.iter_mut().find(|known| known.addr == key) {
            known.last = now;
            if now.saturating_sub(known.since) < WINDOW {
                known.count = known.count.saturating_add(1);
            } else {
                (known.since, known.count) = (now, 1);
            }
        } else if self.known.len() < MAX_KNOWN {
            self.known.push(new);
        } else if let Some(oldest) = self.known.iter_mut().min_by_key(|known| known.last) {
            *oldest = new;
        }
    }

    /// Bytes held.
    pub fn memory(&self) -> usize {
        self.known.capacity() * size_of::<Known>()
    }

    fn find(&self, addr: SocketAddr) -> Option<&Known> {
        let key = key(addr);
        self.known.iter().find(|known| known.addr == key)
    }
}

/// Address and port in few bits.
fn key(addr: SocketAddr) -> u64 {
    let [high, low] = halves(addr.host());
    mix(mix(high) ^ low) ^ u64::from(addr.port())
}

/// What of an address belongs to one owner: of IPv6 the network, except on a link.
pub fn bits(address: IpAddr) -> u64 {
    let [high, low] = halves(address);
    if high == 0 || class(address) == Class::Link { low } else { high }
}

fn halves(address: IpAddr) -> [u64; 2] {
    let bits = match address.canonical() {
        IpAddr::V4(v4) => u128::from(v4.to_bits()),
        IpAddr::V6(v6) => v6.to_bits(),
    };
    let mut halves = [0; 2];
    for (half, bytes) in halves.iter_mut().zip(bits.to_be_bytes().chunks(8)) {
        *half = bytes.iter().fold(0, |half, &byte| half << 8 | u64::from(byte));
    }
    halves
}

fn mix(bits: u64) -> u64 {
    Random::new(bits).draw()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_asks_too_much_is_not_heard_for_a_while_and_others_are() {
        let (mut heard, mut random) = (Heard::new(), Random::new(1));
        let mut ask = |address: &str, now| heard.admits(address.parse().unwrap(), now, &mut random);
        let admitted = (0..1000).filter(|_| ask("10.0.0.1", 100)).count();
        assert_eq!(admitted, 50);
        assert!(ask("10.0.0.2", 105) && !ask("10.0.0.1", 109) && ask("10.0.0.1", 110));
        // All addresses of one IPv6 network are one owner's.
        let admitted = (0..1000).filter(|n| ask(&format!("fd00::{n:x}"), 200)).count();
        assert_eq!(admitted, 50);
        assert!(ask("fe80::1", 200) && ask("fe80::2", 200));
    }

    #[test]
    fn nobody_is_asked_more_than_others_bear() {
        let mut sent = Sent::default();
        let [one, other]: [SocketAddr; 2] = ["10.0.0.1:1", "10.0.0.1:2"].map(|addr| addr.parse().unwrap());
        let mut count = 0;
        for now in 0..100 {
            for _ in 0..10 {
                if sent.allows(one, now) {
                    sent.insert(one, now);
                    count += 1;
                }
            }
        }
        assert_eq!(count, 250);
        assert!(sent.knows(one, 150) && !sent.knows(one, 250) && !sent.knows(other, 50));
        assert!(sent.allows(other, 50));
    }

    #[test]
    fn only_so_many_addresses_are_remembered() {
        let mut sent = Sent::default();
        for n in 0..2000_u16 {
            sent.insert(([10, 0, 0, 1], n).into(), n.into());
        }
        assert!(sent.knows(([10, 0, 0, 1], 1999).into(), 2000));
        assert!(sent.memory() <= 24 * MAX_KNOWN);
    }
}

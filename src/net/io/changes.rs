//! Changes of interfaces and addresses as the kernel tells them: when to look at [`super::interfaces`] again.
//!
//! Read first: netlink(7), rtnetlink(7). Of a message only its kind is read: what has changed is found by looking, so
//! one that was lost or cut off costs nothing. Omits routes: those of a mesh change all the time. Holds one socket.

use std::cell::Cell;
use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use async_io::{Async, Timer};
use nix::libc::{
    NLMSG_OVERRUN, RTM_DELADDR, RTM_DELLINK, RTM_NEWADDR, RTM_NEWLINK, RTMGRP_IPV4_IFADDR,
    RTMGRP_IPV6_IFADDR, RTMGRP_LINK,
};
use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, bind, recv, socket_with};

use super::route::messages;

/// A cable that is plugged in is several messages; they are gathered for so long …
const GATHER: Duration = Duration::from_millis(250);

/// … and where they do not end, one look a second is what a flapping interface gets.
const PAUSE: Duration = Duration::from_secs(1);

/// Messages that are read at a time.
const AT_ONCE: usize = 1000;

/// The interesting part of a message is its first 16 bytes; several may come in one datagram.
const BUFFER: usize = 2048;

/// Listens to the kernel.
pub struct Changes {
    socket: Async<OwnedFd>,
    /// No look before.
    next: Cell<Option<Instant>>,
}

impl Changes {
    /// Every user may listen.
    pub fn new() -> io::Result<Changes> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        // Without a protocol it is NETLINK_ROUTE.
        let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
        let groups = RTMGRP_LINK | RTMGRP_IPV4_IFADDR | RTMGRP_IPV6_IFADDR;
        bind(&socket, &SocketAddrNetlink::new(0, groups.cast_unsigned()))?;
        Ok(Changes { socket: Async::new_nonblocking(socket)?, next: Cell::new(None) })
    }

    /// Ends when interfaces or addresses have changed, once for a burst of changes.
    pub async fn changed(&self) {
        // Where it can not be read it is looked at all the same, each second at most.
        let _ = self.socket.read_with(hear).await;
        let gathered = Instant::now() + GATHER;
        Timer::at(self.next.get().map_or(gathered, |next| gathered.max(next))).await;
        self.next.set(Some(Instant::now() + PAUSE));
        // All that came meanwhile is part of it.
        let _ = hear(self.socket.get_ref());
    }
}

/// Reads what is there. Would block where none of it is a change.
fn hear(socket: &OwnedFd) -> io::Result<()> {
    let mut buffer = [0; BUFFER];
    let mut changed = false;
    for _ in 0..AT_ONCE {
        match recv(socket, &mut buffer, RecvFlags::empty()) {
            Ok((len, _)) => changed |= tells_of_change(&buffer[..len]),
            // More came than the kernel keeps for us.
            Err(Errno::NOBUFS) => changed = true,
            Err(Errno::AGAIN) if changed => break,
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Whether one of the messages says that an interface or address came, went or is another than it was.
fn tells_of_change(datagram: &[u8]) -> bool {
    messages(datagram).any(|(kind, _)| {
        [RTM_NEWLINK, RTM_DELLINK, RTM_NEWADDR, RTM_DELADDR].contains(&kind)
            || i32::from(kind) == NLMSG_OVERRUN
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16, len: u32, body: usize) -> Vec<u8> {
        [&len.to_ne_bytes()[..], &kind.to_ne_bytes(), &[0; 10], &vec![0; body]].concat()
    }

    #[test]
    fn links_and_addresses_are_changes_and_all_else_is_none() {
        let all = [RTM_NEWLINK, RTM_DELLINK, RTM_NEWADDR, RTM_DELADDR];
        assert!(all.into_iter().all(|kind| tells_of_change(&message(kind, 32, 16))));
        assert!(tells_of_change(&message(4, 16, 0)), "some were lost");
        let other = message(24, 30, 16);
        assert!(!tells_of_change(&other) && !tells_of_change(&other.repeat(9)));
        assert!(tells_of_change(&[other, message(RTM_DELADDR, 20, 4)].concat()));
    }

    #[test]
    fn broken_messages_end_the_reading_and_nothing_else() {
        for len in [0, 1, 15, 16, 17, 48, u32::MAX - 2, u32::MAX] {
            assert!(!tells_of_change(&message(24, len, 16)), "{len}");
        }
        let whole = message(RTM_NEWADDR, 32, 16);
        assert!((0..16).all(|len| !tells_of_change(&whole[..len])));
        assert!(tells_of_change(&whole[..16]), "cut off behind its head");
    }
}

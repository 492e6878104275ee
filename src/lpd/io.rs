//! The sockets of Local Peer Discovery: one an interface and family, made and closed as interfaces come and go.
//!
//! What comes is accepted by the interface it came on, never by its sender's prefix: mesh addresses are often /32. One
//! socket that cannot be made is nothing to the others. Holds a socket and a task a link, and one buffer while it reads.
#![expect(clippy::disallowed_methods, clippy::disallowed_types, reason = "I/O shell")]

use std::cell::RefCell;
use std::ffi::OsString;
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::rc::Rc;
use std::time::Instant;

use async_io::{Async, Timer};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, setsockopt, sockopt};
use rustix::io::Errno;
use rustix::net::sockopt as options;
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, bind, sendto, socket_with};

use super::{GROUP_V4, GROUP_V6, Link, MAX_READ, PORT};
use crate::daemon::House;
use crate::daemon::executor::Task;
use crate::net::Family;
use crate::net::io::{Interface, socket_address};
use crate::sorted::SortedMap;

/// What of the configuration a socket is made by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    name: String,
    /// IPv4 packets come from it.
    address: Ipv4Addr,
    hops: u8,
}

/// The open sockets.
#[derive(Default)]
pub struct Links {
    open: RefCell<SortedMap<Link, Open>>,
}

struct Open {
    place: Place,
    socket: Rc<Async<OwnedFd>>,
    /// Ends with this.
    _listens: Task,
}

/// The links on which neighbours are told: those of the interfaces named, or else of all that know multicast, as far as
/// they have an address on which peers reach us.
pub fn wanted(
    interfaces: &[Interface],
    names: &[String],
    listen: &[SocketAddr],
    hops: u8,
) -> SortedMap<Link, Place> {
    let reaches = |ip: IpAddr| {
        let mut listen = listen.iter().map(SocketAddr::ip);
        listen.any(|on| on == ip || (on.is_unspecified() && (on.is_ipv6() || ip.is_ipv4())))
    };
    let mut links = SortedMap::new();
    for found in interfaces {
        let named = names.contains(&found.name);
        if !found.running || !(named || names.is_empty() && found.multicast && !found.loopback) {
            continue;
        }
        if !reaches(found.address) {
            continue;
        }
        let link = Link { interface: found.index, family: Family::of(found.address) };
        let address = match found.address {
            IpAddr::V4(v4) => v4,
            IpAddr::V6(_) => Ipv4Addr::UNSPECIFIED,
        };
        links.get_or_insert_with(link, || Place { name: found.name.clone(), address, hops });
    }
    links
}

impl Links {
    /// Opens what is wanted and not open, closes what is open and not wanted, and tells the session.
    pub fn update(&self, house: &Rc<House>, wanted: &SortedMap<Link, Place>) {
        let mut open = self.open.borrow_mut();
        let before = open.len();
        open.retain(|link, open| wanted.get(link) == Some(&open.place));
        if open.len() < before {
            // Where another address takes the place of one that went, all is told anew.
            tell(house, &open);
        }
        for (link, place) in wanted.iter() {
            if open.contains_key(link) {
                continue;
            }
            match socket(*link, place) {
                Ok(socket) => {
                    log::debug!("neighbours are looked for on {} by {}", place.name, link.family);
                    let socket = Rc::new(socket);
                    let listens = house.task(listen(house.clone(), socket.clone(), *link));
                    open.insert(*link, Open { place: place.clone(), socket, _listens: listens });
                }
                Err(error) => log::debug!("no neighbours on {} by {}: {error}", place.name, link.family),
            }
        }
        tell(house, &open);
    }

    /// Tells the neighbours on a link. What finds no room is lost as on the way. Where it cannot be (its address is not
    /// confirmed yet, or its cable was just pulled out) the socket is closed: the next look at the interfaces makes
    /// another, and all is told anew.
    pub fn send(&self, house: &House, link: Link, datagram: &[u8]) {
        let mut open = self.open.borrow_mut();
        let Some(known) = open.get(&link) else { return };
        let socket = known.socket.get_ref();
        let sent = match link.family {
            Family::V4 => sendto(socket, datagram, SendFlags::DONTWAIT, &SocketAddrV4::new(GROUP_V4, PORT)),
            Family::V6 => {
                let group = SocketAddrV6::new(GROUP_V6, PORT, 0, link.interface);
                sendto(socket, datagram, SendFlags::DONTWAIT, &group)
            }
        };
        if let Err(error) = sent.or_else(no_room) {
            log::debug!("neighbours on {} are not told by {}: {error}", known.place.name, link.family);
            open.remove(&link);
            tell(house, &open);
        }
    }

    /// The interfaces with an open socket.
    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<String> =
            self.open.borrow().values().map(|open| open.place.name.clone()).collect();
        names.sort_unstable();
        names.dedup();
        names
    }
}

fn tell(house: &House, open: &SortedMap<Link, Open>) {
    let links: Vec<Link> = open.keys().copied().collect();
    house.session.borrow_mut().set_links(&links, Instant::now());
}

/// Bound to the group, so that nothing sent to us alone comes in, and to the interface where the system lets us.
fn socket(link: Link, place: &Place) -> io::Result<Async<OwnedFd>> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let family = if link.family == Family::V4 { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = socket_with(family, SocketType::DGRAM, flags, None)?;
    options::set_socket_reuseaddr(&socket, true)?;
    // Older kernels allow it to root alone; then what came on another interface is told apart when it is read.
    let _ = setsockopt(&socket, sockopt::BindToDevice, &OsString::from(&place.name));
    match link.family {
        Family::V4 => {
            setsockopt(&socket, sockopt::Ipv4PacketInfo, &true)?;
            bind(&socket, &SocketAddrV4::new(GROUP_V4, PORT))?;
            options::set_ip_add_membership_with_ifindex(
                &socket,
                &GROUP_V4,
                &Ipv4Addr::UNSPECIFIED,
                link.interface,
            )?;
            options::set_ip_multicast_if_with_ifindex(
                &socket,
                &Ipv4Addr::UNSPECIFIED,
                &place.address,
                link.interface,
            )?;
            options::set_ip_multicast_loop(&socket, true)?;
            options::set_ip_multicast_ttl(&socket, place.hops.into())?;
        }
        Family::V6 => {
            options::set_ipv6_v6only(&socket, true)?;
            setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true)?;
            bind(&socket, &SocketAddrV6::new(GROUP_V6, PORT, 0, 0))?;
            options::set_ipv6_add_membership(&socket, &GROUP_V6, link.interface)?;
            options::set_ipv6_multicast_if(&socket, link.interface)?;
            options::set_ipv6_multicast_loop(&socket, true)?;
            options::set_ipv6_multicast_hops(&socket, place.hops.into())?;
        }
    }
    Async::new_nonblocking(socket)
}

/// Hands the session what comes, for as long as the socket lives.
async fn listen(house: Rc<House>, socket: Rc<Async<OwnedFd>>, link: Link) {
    loop {
        let deaf = socket.read_with(|socket| hear(&house, socket, link)).await;
        match deaf {
            Ok(Some(until)) => {
                Timer::at(until).await;
            }
            Ok(None) => {}
            // An interface that goes takes its socket along at the next look.
            Err(error) => {
                log::debug!("neighbours: {error}");
                Timer::after(crate::lpd::GAP).await;
            }
        }
        house.kick();
    }
}

/// Reads one packet. Says until when no other is to be read.
fn hear(house: &House, socket: &OwnedFd, link: Link) -> io::Result<Option<Instant>> {
    let mut buffer = [0; MAX_READ + 1];
    let mut control = nix::cmsg_space!(nix::libc::in6_pktinfo);
    let mut parts = [IoSliceMut::new(&mut buffer)];
    let fd = socket.as_fd().as_raw_fd();
    let read = recvmsg::<SockaddrStorage>(fd, &mut parts, Some(&mut control), MsgFlags::empty())?;
    let came_here = read.cmsgs()?.any(|message| match message {
        ControlMessageOwned::Ipv4PacketInfo(info) => u32::try_from(info.ipi_ifindex) == Ok(link.interface),
        ControlMessageOwned::Ipv6PacketInfo(info) => info.ipi6_ifindex == link.interface,
        _ => false,
    });
    let (len, from) = (read.bytes, read.address.as_ref().and_then(socket_address));
    let (true, Some(from), Some(datagram)) = (came_here, from, buffer.get(..len)) else { return Ok(None) };
    Ok(house.session.borrow_mut().overheard(datagram, from, link, Instant::now()))
}

/// Not being sent for want of room is no error.
fn no_room(error: Errno) -> Result<usize, Errno> {
    if error == Errno::AGAIN || error == Errno::NOBUFS { Ok(0) } else { Err(error) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interface(name: &str, index: u32, address: &str) -> Interface {
        let usual = Interface::of_test(name, index, address);
        Interface { loopback: name == "lo", multicast: name != "lo", running: name != "unplugged", ..usual }
    }

    #[test]
    fn a_packet_passes_as_many_routers_as_the_configuration_says() {
        smol::block_on(async {
            let interfaces = crate::net::io::interfaces().unwrap();
            let here = interfaces.iter().find(|found| found.loopback && found.address.is_ipv4()).unwrap();
            let listen = [SocketAddr::new(here.address, 1)];
            for hops in [1, 7] {
                let wanted = wanted(&interfaces, std::slice::from_ref(&here.name), &listen, hops);
                let (link, place) = wanted.iter().next().unwrap();
                let socket = socket(*link, place).unwrap();
                assert_eq!(options::ip_multicast_ttl(socket.get_ref()).unwrap(), u32::from(hops));
            }
        });
    }

    #[test]
    fn links_are_those_where_peers_reach_us_on_the_interfaces_named_or_all() {
        let all = [
            interface("lo", 1, "127.0.0.1"),
            interface("lan", 2, "10.0.0.1"),
            interface("lan", 2, "10.0.0.2"),
            interface("lan", 2, "fe80::1"),
            interface("mesh", 3, "10.9.9.9"),
            interface("unplugged", 4, "10.4.4.4"),
        ];
        let links = |names: &[&str], listen: &[&str]| {
            let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
            let listen: Vec<SocketAddr> = listen.iter().map(|text| text.parse().unwrap()).collect();
            let found = wanted(&all, &names, &listen, 1);
            found.iter().map(|(link, place)| format!("{} {}", place.name, link.family)).collect::<Vec<_>>()
        };
        assert_eq!(links(&[], &["[::]:1"]), ["lan IPv4", "lan IPv6", "mesh IPv4"]);
        assert_eq!(links(&[], &["0.0.0.0:1"]), ["lan IPv4", "mesh IPv4"]);
        assert_eq!(links(&["lan", "none"], &["[::]:1"]), ["lan IPv4", "lan IPv6"]);
        assert_eq!(links(&["lo"], &["[::]:1"]), ["lo IPv4"]);
        assert_eq!(links(&[], &["10.0.0.2:1"]), ["lan IPv4"]);
        assert!(links(&[], &["127.0.0.1:1"]).is_empty() && links(&[], &[]).is_empty());
    }
}

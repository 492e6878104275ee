//! Messages of rtnetlink: how the kernel tells of interfaces and addresses, when it is asked and by itself.
//!
//! Read first: netlink(7), rtnetlink(7). The C libraries' `getifaddrs` reads the same and trusts every length in it;
//! here one that is broken ends the reading of its message. Holds one socket while it asks.

use std::io;
use std::net::IpAddr;

use nix::libc::{
    IFA_ADDRESS, IFA_LOCAL, IFF_LOOPBACK, IFF_MULTICAST, IFF_RUNNING, IFF_UP, IFLA_IFNAME, NLM_F_DUMP,
    NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR, RTM_GETADDR, RTM_GETLINK, RTM_NEWADDR, RTM_NEWLINK,
};
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with};

use super::Interface;
use crate::net::Prefix;
use crate::sorted::SortedMap;

/// The head of a message: its length, kind, flags, number and sender.
const HEADER: usize = 16;

/// The kernel fills a page, at most 8 KiB, where nobody asks for more.
const BUFFER: usize = 8192;

/// Answers that are read to one question: more than any machine has interfaces and addresses.
const MAX_ANSWERS: usize = 10_000;

/// The kind and body of every message in a datagram.
pub(super) fn messages(mut datagram: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let (len, kind) = (word(datagram, 0)?, half(datagram, 4)?);
        let whole = usize::try_from(len).unwrap_or(usize::MAX);
        let body = datagram.get(HEADER..whole.min(datagram.len()))?;
        datagram =
            whole.checked_next_multiple_of(4).and_then(|next| datagram.get(next..)).unwrap_or_default();
        Some((kind, body))
    })
}

/// The addresses of all interfaces that are up.
pub(super) fn interfaces() -> io::Result<Vec<Interface>> {
    let mut links = SortedMap::new();
    ask(RTM_GETLINK, |kind, body| {
        if kind == RTM_NEWLINK
            && let Some((index, link)) = link(body)
        {
            links.insert(index, link);
        }
    })?;
    let mut found = Vec::new();
    ask(RTM_GETADDR, |kind, body| {
        if kind == RTM_NEWADDR
            && let Some(interface) = address(body, &links)
        {
            found.push(interface);
        }
    })?;
    Ok(found)
}

/// An interface's name and `IFF_*` flags.
struct Link {
    name: String,
    flags: u32,
}

/// Gives every message of the kernel's answer to `each`.
fn ask(question: u16, mut each: impl FnMut(u16, &[u8])) -> io::Result<()> {
    // Without a protocol it is NETLINK_ROUTE. A body of zeros asks for all of it.
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
    let mut request = [0; HEADER + 4];
    let flags = u16::try_from(NLM_F_REQUEST | NLM_F_DUMP).unwrap_or_default();
    request[..4].copy_from_slice(&20u32.to_ne_bytes());
    request[4..6].copy_from_slice(&question.to_ne_bytes());
    request[6..8].copy_from_slice(&flags.to_ne_bytes());
    send(&socket, &request, SendFlags::empty())?;
    let mut buffer = vec![0; BUFFER];
    for _ in 0..MAX_ANSWERS {
        // The kernel has answered as soon as it was asked: there is nothing to wait for.
        let len = match recv(&socket, &mut buffer[..], RecvFlags::DONTWAIT) {
            Ok((len, _)) => len,
            Err(Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
        };
        for (kind, body) in messages(&buffer[..len]) {
            match i32::from(kind) {
                NLMSG_DONE => return Ok(()),
                NLMSG_ERROR => {
                    let error = word(body, 0).map_or(0, u32::cast_signed);
                    return Err(io::Error::from_raw_os_error(error.saturating_neg()));
                }
                _ => each(kind, body),
            }
        }
    }
    Err(io::ErrorKind::InvalidData.into())
}

/// An interface's number and what it is, of a `struct ifinfomsg` and its attributes.
fn link(body: &[u8]) -> Option<(u32, Link)> {
    let (index, flags) = (word(body, 4)?, word(body, 8)?);
    let name = attributes(body.get(16..)?).find(|(kind, _)| *kind == IFLA_IFNAME)?.1;
    let name = String::from_utf8_lossy(name.strip_suffix(&[0]).unwrap_or(name)).into_owned();
    Some((index, Link { name, flags }))
}

/// One address, of a `struct ifaddrmsg` and its attributes. None where its interface is not up.
fn address(body: &[u8], links: &SortedMap<u32, Link>) -> Option<Interface> {
    let (bits, index) = (*body.get(1)?, word(body, 4)?);
    let link = links.get(&index)?;
    let has = |flag: i32| link.flags & flag.cast_unsigned() != 0;
    let (mut ours, mut local) = (None, None);
    for (kind, value) in attributes(body.get(8..)?) {
        match kind {
            IFA_ADDRESS => ours = ip(value),
            IFA_LOCAL => local = ip(value),
            _ => {}
        }
    }
    // Of a link between two, the address is the other end's.
    let address = local.or(ours)?;
    has(IFF_UP).then_some(Interface {
        name: link.name.clone(),
        index,
        address,
        prefix: Prefix::new(address, bits)?,
        loopback: has(IFF_LOOPBACK),
        multicast: has(IFF_MULTICAST),
        running: has(IFF_RUNNING),
    })
}

fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let (len, kind) = (usize::from(half(bytes, 0)?), half(bytes, 2)?);
        let value = bytes.get(4..len)?;
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

fn ip(value: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(value).map(IpAddr::from).ok();
    v4.or_else(|| <[u8; 16]>::try_from(value).map(IpAddr::from).ok())
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().copied().map(u32::from_ne_bytes)
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().copied().map(u16::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let len = u16::try_from(4 + value.len()).unwrap();
        let mut bytes = [&len.to_ne_bytes()[..], &kind.to_ne_bytes(), value].concat();
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn mesh0(flags: i32) -> Vec<u8> {
        let head = [&[0; 4][..], &7u32.to_ne_bytes(), &flags.to_ne_bytes(), &[0; 4]].concat();
        [head, attribute(1, &[2; 6]), attribute(IFLA_IFNAME, b"mesh0\0")].concat()
    }

    fn of_mesh0(bits: u8, attributes: &[Vec<u8>]) -> Vec<u8> {
        [vec![2, bits, 0, 0], 7u32.to_ne_bytes().to_vec(), attributes.concat()].concat()
    }

    fn links(body: &[u8]) -> SortedMap<u32, Link> {
        let (index, link) = link(body).unwrap();
        let mut links = SortedMap::new();
        links.insert(index, link);
        links
    }

    #[test]
    fn the_system_is_read_as_the_c_library_reads_it() {
        let mut ours: Vec<_> =
            interfaces().unwrap().into_iter().map(|found| (found.name, found.address)).collect();
        let mut theirs: Vec<_> = nix::ifaddrs::getifaddrs()
            .unwrap()
            .filter(|found| found.flags.contains(nix::net::if_::InterfaceFlags::IFF_UP))
            .filter_map(|found| {
                Some((found.interface_name, super::super::socket_address(found.address.as_ref()?)?.ip()))
            })
            .collect();
        ours.sort_unstable();
        theirs.sort_unstable();
        assert_eq!(ours, theirs);
    }

    #[test]
    fn of_a_link_between_two_our_own_end_is_the_address() {
        let up = links(&mesh0(IFF_UP | IFF_MULTICAST));
        let pair = [attribute(IFA_ADDRESS, &[10, 0, 0, 2]), attribute(IFA_LOCAL, &[10, 0, 0, 1])];
        let found = address(&of_mesh0(32, &pair), &up).unwrap();
        assert_eq!((&*found.name, found.index), ("mesh0", 7));
        assert_eq!((found.address, found.prefix), ([10, 0, 0, 1].into(), "10.0.0.1/32".parse().unwrap()));
        assert!(found.multicast && !found.loopback && !found.running);
        let only = of_mesh0(64, &[attribute(IFA_ADDRESS, &[0xfd; 16])]);
        assert_eq!(address(&only, &up).unwrap().address, IpAddr::from([0xfd; 16]));
        let down = links(&mesh0(0));
        assert!(address(&only, &down).is_none() && address(&only, &SortedMap::new()).is_none());
    }

    #[test]
    fn broken_lengths_end_the_reading_and_keep_what_stood_before() {
        // An emulator leaves the last length in the other byte order.
        let broken = [mesh0(IFF_UP), vec![4, 0, 65, 128], vec![0, 4, 128, 65]].concat();
        assert_eq!(link(&broken).unwrap().1.name, "mesh0");
        for len in [0u16, 1, 3, 5, u16::MAX] {
            let bytes = [&len.to_ne_bytes()[..], &[0, 3]].concat();
            assert_eq!(attributes(&bytes).count(), 0, "{len}");
        }
        let whole = of_mesh0(24, &[attribute(IFA_LOCAL, &[10, 0, 0, 1])]);
        let up = links(&mesh0(IFF_UP));
        assert!((0..whole.len()).all(|len| address(&whole[..len], &up).is_none()));
    }
}

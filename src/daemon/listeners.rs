//! The sockets on which peers reach us: one an address, made and closed as the addresses of the configuration come and
//! go.
//!
//! An address that is named and not there yet is waited for: on a router the network comes later than we do. Omits when
//! to look (`links`). Holds a socket and a task an address.
#![expect(clippy::disallowed_types, reason = "I/O shell")]

use std::cell::RefCell;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, TcpListener, UdpSocket};
use std::rc::Rc;

use async_io::Async;

use super::House;
use super::executor::Task;
use super::start::StartError;
use crate::config::Listen;
use crate::net::io::Interface;
use crate::net::{Class, Family, Host, class};

/// A socket that is not read yet.
pub type Bound = Async<TcpListener>;

/// The open sockets.
#[derive(Default)]
pub struct Listeners {
    open: RefCell<Vec<Listener>>,
    /// What of the configuration they were made by.
    by: RefCell<Option<Listen>>,
    /// Addresses of which it was said that they cannot be listened on.
    told: RefCell<Vec<SocketAddr>>,
}

struct Listener {
    address: SocketAddr,
    /// Closes the socket when it ends.
    _task: Task,
}

/// Binds to the first port of the range that is free on all addresses which are there. Those may be none.
pub fn bind(listen: &Listen, interfaces: &[Interface]) -> Result<Vec<Bound>, StartError> {
    let places = places(listen, interfaces);
    let mut last = String::new();
    for port in listen.port.clone() {
        let bound = if listen.is_everywhere() { bind_everywhere(port) } else { bind_all(&places, port) };
        match bound {
            Ok(bound) => return Ok(bound),
            Err(error) => last = error.to_string(),
        }
    }
    let (first, end) = (listen.port.start(), listen.port.end());
    Err(StartError(format!(
        "cannot listen on any port of {first}-{end}: {last}; set listen.port to one that is free"
    )))
}

/// Where they are.
pub fn addresses_of(bound: &[Bound]) -> Vec<SocketAddr> {
    bound.iter().filter_map(|listener| listener.get_ref().local_addr().ok()).collect()
}

impl Listeners {
    /// Reads from sockets that were bound by this part of the configuration.
    pub fn open(&self, house: &Rc<House>, listen: &Listen, bound: Vec<Bound>) {
        self.by.replace(Some(listen.clone()));
        for listener in bound {
            self.add(house, listener);
        }
    }

    /// Closes all, so that the port is free again.
    pub fn close(&self) {
        self.open.take();
        self.told.take();
    }

    /// Closes the sockets of addresses that are gone, and opens those of addresses that have come. Says whether any
    /// were, and what could not be done.
    pub fn follow(&self, house: &Rc<House>, interfaces: &[Interface]) -> (bool, Option<String>) {
        let by = self.by.borrow();
        let Some(listen) = by.as_ref() else { return (false, None) };
        if self.open.borrow().is_empty() {
            return match bind(listen, interfaces) {
                Ok(bound) => {
                    let any = !bound.is_empty();
                    bound.into_iter().for_each(|listener| self.add(house, listener));
                    (any, None)
                }
                Err(error) => (false, self.first_time(UNKNOWN, error.to_string())),
            };
        }
        if listen.is_everywhere() {
            return (false, None);
        }
        let places = places(listen, interfaces);
        let (mut changed, mut trouble) = (false, None);
        let port = self.port();
        self.told.borrow_mut().retain(|told| places.iter().any(|place| same(*place, *told)));
        self.open.borrow_mut().retain(|listener| {
            let stays = places.iter().any(|place| same(*place, listener.address));
            if !stays {
                log::info!("not listening on {} any more: the address is gone", listener.address);
            }
            changed |= !stays;
            stays
        });
        for place in places {
            if self.open.borrow().iter().any(|listener| same(place, listener.address)) {
                continue;
            }
            match Async::<TcpListener>::bind(with_port(place, port)) {
                Ok(listener) => {
                    self.add(house, listener);
                    changed = true;
                }
                Err(error) if is_absent(&error) => {}
                Err(error) => {
                    let what = format!("cannot listen on {}: {error}", with_port(place, port));
                    trouble = trouble.or(self.first_time(place, what));
                }
            }
        }
        (changed, trouble)
    }

    /// Where we listen.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.open.borrow().iter().map(|listener| listener.address).collect()
    }

    /// The port of all of them; 0 where there are none.
    pub fn port(&self) -> u16 {
        self.open.borrow().first().map_or(0, |listener| listener.address.port())
    }

    /// Whether peers reach us over a family.
    pub fn has(&self, family: Family) -> bool {
        let takes = |on: SocketAddr| match family {
            // One socket takes both families, or there are two of them.
            Family::V4 => on.is_ipv4() || on.host().is_unspecified(),
            Family::V6 => on.is_ipv6(),
        };
        self.open.borrow().iter().any(|listener| takes(listener.address))
    }

    fn add(&self, house: &Rc<House>, listener: Bound) {
        let Ok(address) = listener.get_ref().local_addr() else { return };
        log::info!("listening on {address}");
        let task = house.task(crate::peer::io::listen(house.clone(), listener));
        self.open.borrow_mut().push(Listener { address, _task: task });
    }

    /// A trouble is told once for as long as it lasts.
    fn first_time(&self, place: SocketAddr, trouble: String) -> Option<String> {
        let mut told = self.told.borrow_mut();
        if told.contains(&place) {
            return None;
        }
        told.push(place);
        Some(trouble)
    }
}

/// Stands for all addresses.
const UNKNOWN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

/// The addresses, all with port 0, on which the configuration wants us and which are ours now; none where it wants us
/// everywhere.
fn places(listen: &Listen, interfaces: &[Interface]) -> Vec<SocketAddr> {
    let mut places = Vec::new();
    let mut add = |place| {
        if !places.contains(&place) {
            places.push(place);
        }
    };
    for &address in &listen.addresses {
        let found: Vec<_> = interfaces.iter().filter(|found| found.address == address).collect();
        found.iter().for_each(|found| add(on(found)));
        // The system may know more addresses as its own than the interfaces show.
        if found.is_empty() && UdpSocket::bind((address, 0)).is_ok() {
            add((address, 0).into());
        }
    }
    interfaces
        .iter()
        .filter(|found| listen.interfaces.contains(&found.name))
        .for_each(|found| add(on(found)));
    places
}

/// An address of an interface. That of a link is nothing without it.
fn on(interface: &Interface) -> SocketAddr {
    match interface.address {
        IpAddr::V6(v6) if class(interface.address) == Class::Link => {
            SocketAddrV6::new(v6, 0, 0, interface.index).into()
        }
        address => (address, 0).into(),
    }
}

fn with_port(mut place: SocketAddr, port: u16) -> SocketAddr {
    place.set_port(port);
    place
}

/// The same address, whatever the port.
fn same(one: SocketAddr, other: SocketAddr) -> bool {
    with_port(one, 0) == with_port(other, 0)
}

/// The address is not there (any more), or not confirmed to be ours alone yet.
fn is_absent(error: &io::Error) -> bool {
    error.kind() == ErrorKind::AddrNotAvailable || error.raw_os_error() == Some(nix::libc::ENODEV)
}

/// The first of them may choose the port.
fn bind_all(places: &[SocketAddr], mut port: u16) -> io::Result<Vec<Bound>> {
    let mut bound = Vec::new();
    for place in places {
        match Async::<TcpListener>::bind(with_port(*place, port)) {
            Ok(listener) => {
                port = listener.get_ref().local_addr()?.port();
                bound.push(listener);
            }
            Err(error) if is_absent(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(bound)
}

/// One socket takes both families, unless the system keeps them apart or has no IPv6.
fn bind_everywhere(port: u16) -> io::Result<Vec<Bound>> {
    let v6 = Async::<TcpListener>::bind((Ipv6Addr::UNSPECIFIED, port));
    if v6.as_ref().is_err_and(|error| error.kind() == ErrorKind::AddrInUse) {
        return v6.map(|v6| vec![v6]);
    }
    let port =
        v6.as_ref().ok().and_then(|v6| v6.get_ref().local_addr().ok()).map_or(port, |addr| addr.port());
    let v4 = Async::<TcpListener>::bind((Ipv4Addr::UNSPECIFIED, port));
    match (v6, v4) {
        (Ok(v6), Ok(v4)) => Ok(vec![v6, v4]),
        (Ok(v6), Err(_)) => Ok(vec![v6]),
        (Err(_), v4) => Ok(vec![v4?]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listen(addresses: &[&str], interfaces: &[&str]) -> Listen {
        Listen {
            port: 0..=0,
            addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(),
            interfaces: interfaces.iter().map(|&name| name.to_owned()).collect(),
        }
    }

    #[test]
    fn places_are_the_named_addresses_that_are_there_and_all_of_the_named_interfaces() {
        let all = [
            Interface::of_test("lan", 2, "10.0.0.1"),
            Interface::of_test("lan", 2, "fe80::1"),
            Interface::of_test("mesh", 3, "fe80::1"),
            Interface::of_test("mesh", 3, "fd00::1"),
        ];
        let said = |addresses: &[&str], interfaces: &[&str]| {
            let places = places(&listen(addresses, interfaces), &all);
            places.iter().map(SocketAddr::to_string).collect::<Vec<_>>()
        };
        assert!(said(&[], &[]).is_empty() && said(&["192.0.2.77"], &["wan"]).is_empty());
        assert_eq!(said(&["10.0.0.1", "192.0.2.77"], &[]), ["10.0.0.1:0"]);
        assert_eq!(said(&["127.0.0.99"], &[]), ["127.0.0.99:0"]);
        assert_eq!(said(&["fe80::1"], &[]), ["[fe80::1%2]:0", "[fe80::1%3]:0"]);
        assert_eq!(said(&["fd00::1"], &["mesh"]), ["[fd00::1]:0", "[fe80::1%3]:0"]);
    }

    #[test]
    fn all_addresses_get_one_port_and_those_that_are_absent_none() {
        let bound = |addresses| addresses_of(&bind(&listen(addresses, &[]), &[]).unwrap());
        let [one, two] = bound(&["127.0.0.1", "192.0.2.77", "127.0.0.2"])[..] else {
            panic!("two are there")
        };
        assert!(one.port() == two.port() && one.port() != 0, "{one} {two}");
        assert_eq!(bound(&["192.0.2.77"]), []);
    }
}

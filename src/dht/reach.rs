//! Which addresses lead to whom.
//!
//! Read first: RFC 6890; RFC 4291, 2.5.6 (link-local addresses are nothing without their link). Holds nothing.

use std::net::{IpAddr, SocketAddr, SocketAddrV6};

use crate::net::{Class, Host, class, dialable, plain};

/// Whether somebody there can do anything with an address of ours.
pub fn means_something(addr: SocketAddr, to: SocketAddr) -> bool {
    let scope = |addr: SocketAddr| if let SocketAddr::V6(v6) = addr { v6.scope_id() } else { 0 };
    match class(addr.host()) {
        Class::Loopback => class(to.host()) == Class::Loopback,
        Class::Link => class(to.host()) == Class::Link && scope(addr) == scope(to),
        _ => true,
    }
}

/// An address that somebody named, as it is from here; `None` where it leads nowhere.
pub fn as_named(addr: SocketAddr, by: SocketAddr) -> Option<SocketAddr> {
    let addr = match (plain(addr), by) {
        (SocketAddr::V6(v6), SocketAddr::V6(by)) if class(addr.host()) == Class::Link => {
            SocketAddrV6::new(*v6.ip(), v6.port(), 0, by.scope_id()).into()
        }
        (addr, _) => addr,
    };
    dialable(addr, class(by.host()) == Class::Loopback).then_some(addr)
}

/// Whether an address is of a mesh or this machine, as far as it tells.
pub fn is_near(address: IpAddr) -> bool {
    class(address) != Class::Global
}

//! The network as the system tells it: names to addresses, and the addresses of our own interfaces.
//!
//! Changes as they happen are told by [`changes`]. Holds at most 256 names with their addresses.
#![expect(clippy::disallowed_methods, clippy::disallowed_types, reason = "I/O shell")]

pub mod changes;
mod route;

use std::cell::RefCell;
use std::fmt;
use std::future::poll_fn;
use std::net::{IpAddr, SocketAddr, SocketAddrV4, SocketAddrV6, ToSocketAddrs};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::socket::SockaddrStorage;
use smol::future::FutureExt;

use super::{Class, Prefix, class};
use crate::net::Host;
use crate::sorted::SortedMap;

pub mod udp;

/// How long addresses are believed: the system's resolver does not tell their real time to live.
const FRESH: Duration = Duration::from_secs(5 * 60);

/// How long a name that does not resolve is left alone: on a mesh the uplink comes back at any moment.
const ABSENT: Duration = Duration::from_secs(15);

/// A resolver that says nothing for so long has no uplink.
const PATIENCE: Duration = Duration::from_secs(20);

/// Names that are remembered: a thousand torrents name a handful of trackers.
const MAX_NAMES: usize = 256;

/// Addresses of one name that are kept.
const MAX_ADDRESSES: usize = 16;

/// Asks the system for the addresses of names, one name at a time: a lookup blocks a thread, and routers have
/// none to spare.
pub struct Resolver {
    /// Of the lookup that runs, even when nobody waits for it any more.
    turn: Arc<Mutex<Turn>>,
    known: RefCell<SortedMap<Box<str>, Known>>,
}

/// What is shared with the thread of a lookup.
#[derive(Default)]
struct Turn {
    running: bool,
    found: Option<(Box<str>, Addresses)>,
    /// Those that wait for this lookup or for a turn of their own.
    waiting: Vec<Waker>,
}

type Addresses = Result<Box<[IpAddr]>, ResolveError>;

/// What was heard of a name.
struct Known {
    until: Instant,
    addresses: Addresses,
}

/// Why a name has no addresses. All of them may pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ResolveError {
    /// The resolver's own words.
    System(Box<str>),
    /// The resolver says nothing.
    Timeout,
}

/// One address of one interface that is up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Its name, such as `br-lan`.
    pub name: String,
    /// Its number, never 0.
    pub index: u32,
    /// Our address.
    pub address: IpAddr,
    /// The addresses that are reached without a router.
    pub prefix: Prefix,
    /// This machine's own.
    pub loopback: bool,
    /// Whether it knows multicast.
    pub multicast: bool,
    /// Whether its cable is plugged in, so to speak.
    pub running: bool,
}

impl Resolver {
    /// Knows no name yet.
    pub fn new() -> Resolver {
        Resolver { turn: Arc::default(), known: RefCell::new(SortedMap::new()) }
    }

    /// The addresses of a name, or of an address in letters (without a thread).
    pub async fn resolve(&self, host: &str) -> Addresses {
        if let Ok(literal) = host.parse::<IpAddr>() {
            return Ok(Box::new([literal]));
        }
        if let Some(known) = self.recall(host) {
            return known;
        }
        poll_fn(|context| self.poll(host, context))
            .or(async {
                smol::Timer::after(PATIENCE).await;
                self.remember(host, Err(ResolveError::Timeout));
                Err(ResolveError::Timeout)
            })
            .await
    }

    /// Takes in what was found, and begins a lookup if none runs.
    fn poll(&self, host: &str, context: &Context<'_>) -> Poll<Addresses> {
        let mut turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((name, addresses)) = turn.found.take() {
            self.remember(&name, addresses);
        }
        // Whoever had the turn before may have asked for the same name.
        if let Some(known) = self.recall(host) {
            return Poll::Ready(known);
        }
        if !turn.running {
            let (name, shared) = (Box::from(host), self.turn.clone());
            let run = move || {
                let addresses = lookup(&name);
                let mut turn = shared.lock().unwrap_or_else(PoisonError::into_inner);
                turn.running = false;
                turn.found = Some((name, addresses));
                turn.waiting.drain(..).for_each(Waker::wake);
            };
            if let Err(error) = thread::Builder::new().name("resolver".to_owned()).spawn(run) {
                return Poll::Ready(Err(ResolveError::System(error.to_string().into())));
            }
            turn.running = true;
        }
        if !turn.waiting.iter().any(|waiting| waiting.will_wake(context.waker())) {
            turn.waiting.push(context.waker().clone());
        }
        Poll::Pending
    }

    /// Makes a name known that no name server has.
    #[cfg(test)]
    pub(crate) fn teach(&self, host: &str, addresses: &[IpAddr]) {
        self.remember(host, Ok(addresses.into()));
    }

    /// The network is another: what did not resolve is asked for again, whatever was said of it.
    pub fn forget_failures(&self) {
        self.known.borrow_mut().retain(|_, known| known.addresses.is_ok());
    }

    fn recall(&self, host: &str) -> Option<Addresses> {
        let known = self.known.borrow();
        let known = known.get(host)?;
        (Instant::now() < known.until).then(|| known.addresses.clone())
    }

    fn remember(&self, host: &str, addresses: Addresses) {
        let now = Instant::now();
        let mut known = self.known.borrow_mut();
        if known.len() >= MAX_NAMES {
            known.retain(|_, known| now < known.until);
        }
        if known.len() >= MAX_NAMES {
            known.clear();
        }
        let until = now + if addresses.is_ok() { FRESH } else { ABSENT };
        known.insert(host.into(), Known { until, addresses });
    }
}

impl Default for Resolver {
    fn default() -> Resolver {
        Resolver::new()
    }
}

impl fmt::Display for ResolveError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ResolveError::System(reason) => write!(f, "{reason}"),
            ResolveError::Timeout => write!(f, "the name server does not answer"),
        }
    }
}

impl std::error::Error for ResolveError {}

#[cfg(test)]
impl Interface {
    /// One that is up, carries and knows multicast.
    pub(crate) fn of_test(name: &str, index: u32, address: &str) -> Interface {
        let address: IpAddr = address.parse().unwrap();
        let prefix = Prefix::new(address, 32).unwrap();
        let (loopback, multicast, running) = (false, true, true);
        Interface { name: name.to_owned(), index, address, prefix, loopback, multicast, running }
    }
}

/// The addresses of all interfaces that are up.
pub fn interfaces() -> std::io::Result<Vec<Interface>> {
    route::interfaces()
}

/// The number of an interface, which may be given by that instead of its name.
pub fn interface_index(name: &str) -> Option<u32> {
    name.parse().ok().or_else(|| nix::net::if_::if_nametoindex(name).ok())
}

/// The prefixes of our own links: what `on-link` in the configuration means. A routed mesh gives its nodes /32
/// and /128 addresses; those hold nobody but ourselves and are left out.
pub fn on_link(interfaces: &[Interface]) -> Vec<Prefix> {
    let mut prefixes: Vec<Prefix> = interfaces
        .iter()
        .filter(|found| {
            !found.loopback && found.prefix.bits() > 0 && found.prefix.bits() < width(found.address)
        })
        .filter(|found| !matches!(class(found.address), Class::Loopback | Class::Nowhere))
        .map(|found| found.prefix)
        .collect();
    prefixes.sort_unstable();
    prefixes.dedup();
    prefixes
}

fn lookup(name: &str) -> Addresses {
    let found = (name, 0).to_socket_addrs().map_err(|error| {
        // "failed to lookup address information: " stands before the resolver's own words.
        let text = error.to_string();
        ResolveError::System(text.rsplit(':').next().unwrap_or(&text).trim_start().into())
    })?;
    let mut addresses: Vec<IpAddr> = Vec::new();
    for address in found.map(|found| found.host()) {
        if addresses.len() < MAX_ADDRESSES && !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    if addresses.is_empty() {
        return Err(ResolveError::System("the name has no address".into()));
    }
    Ok(addresses.into())
}

/// An address as the system writes it.
pub fn socket_address(address: &SockaddrStorage) -> Option<SocketAddr> {
    if let Some(v4) = address.as_sockaddr_in() {
        return Some(SocketAddrV4::from(*v4).into());
    }
    address.as_sockaddr_in6().map(|v6| SocketAddrV6::from(*v6).into())
}

fn width(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals_need_no_thread_and_names_are_remembered() {
        smol::block_on(async {
            let resolver = Resolver::new();
            assert_eq!(*resolver.resolve("::1").await.unwrap(), ["::1".parse::<IpAddr>().unwrap()]);
            assert!(resolver.known.borrow().is_empty());
            let found = resolver.resolve("localhost").await.unwrap();
            assert!(found.iter().all(|address| address.is_loopback()));
            assert_eq!(resolver.resolve("localhost").await.unwrap(), found);
            assert_eq!(resolver.known.borrow().len(), 1);
        });
    }

    #[test]
    fn a_name_that_does_not_resolve_is_asked_for_again_soon() {
        smol::block_on(async {
            let resolver = Resolver::new();
            let error = resolver.resolve("no-such-name.invalid").await.unwrap_err();
            assert!(!error.to_string().contains("failed to lookup"), "{error}");
            let until = resolver.known.borrow()["no-such-name.invalid"].until;
            assert!(until <= Instant::now() + ABSENT);
            resolver.teach("router.mesh", &["10.0.0.1".parse().unwrap()]);
            resolver.forget_failures();
            assert_eq!(
                resolver.known.borrow().keys().map(|name| &**name).collect::<Vec<_>>(),
                ["router.mesh"]
            );
        });
    }

    #[test]
    fn the_table_of_names_is_bounded() {
        let resolver = Resolver::new();
        for n in 0..10 * MAX_NAMES {
            resolver.remember(&n.to_string(), Err(ResolveError::Timeout));
        }
        assert!(resolver.known.borrow().len() <= MAX_NAMES);
    }

    #[test]
    fn our_links_hold_our_addresses_but_not_the_world() {
        let found = interfaces().unwrap();
        let links = on_link(&found);
        for interface in &found {
            assert!(interface.prefix.contains(interface.address));
            assert!(interface.index > 0 && interface.address.is_loopback() <= interface.loopback);
        }
        assert!(links.iter().all(|link| !link.contains("192.0.2.1".parse().unwrap()) || link.bits() > 0));
        let alone = Interface {
            name: "mesh0".into(),
            index: 1,
            loopback: false,
            multicast: true,
            running: true,
            address: "10.9.0.1".parse().unwrap(),
            prefix: "10.9.0.1/32".parse().unwrap(),
        };
        assert!(on_link(&[alone]).is_empty());
    }
}

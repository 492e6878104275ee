//! What the DHT wants to know of the world: where to begin, and how full this machine's table of connections is.
//!
//! Read first: BEP 5 (`nodes`). Names are resolved while the node knows too few others, and never else. Holds the nodes
//! that torrents named, a few dozen at most.
#![expect(clippy::disallowed_methods, reason = "I/O shell")]

use std::cell::{Cell, RefCell};
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::Daemon;
use super::links::host_and_port;
use crate::net::Family;
use crate::session::Session;

/// Nodes of torrents that are remembered: of more the first ones are forgotten.
const MAX_NODES: usize = 32;
/// Between two looks at the table of connections, while there are new ones.
const LOOK: Duration = Duration::from_secs(10);
/// Where the kernel says how full it is, and how full it may be; nowhere where it keeps none.
const TRACKED: [&str; 2] =
    ["/proc/sys/net/netfilter/nf_conntrack_count", "/proc/sys/net/netfilter/nf_conntrack_max"];

/// What is remembered for the DHT.
#[derive(Default)]
pub(super) struct Begin {
    /// Nodes that torrents named.
    nodes: RefCell<Vec<(String, u16)>>,
    /// Names are being resolved.
    resolving: Cell<bool>,
    /// When the table of connections was last looked at.
    looked: Cell<Option<Instant>>,
}

impl Daemon {
    /// A torrent names nodes: those with an address are asked at once, all whenever the node needs some.
    pub(super) fn nodes_named(&self, session: &mut Session, nodes: Vec<(String, u16)>, now: Instant) {
        let mut known = self.begin.nodes.borrow_mut();
        for node in nodes {
            if known.contains(&node) {
                continue;
            }
            if let Ok(ip) = node.0.parse::<IpAddr>() {
                session.dht_contact(SocketAddr::new(ip, node.1), now);
            }
            known.truncate(MAX_NODES - 1);
            known.insert(0, node);
        }
    }

    /// Finds nodes to begin with.
    pub(super) async fn bootstrap(self: Rc<Daemon>) {
        if self.begin.resolving.replace(true) {
            return;
        }
        let mut nodes: Vec<(String, u16)> =
            self.config.borrow().dht.bootstrap.iter().map(|node| host_and_port(node)).collect();
        nodes.extend(self.begin.nodes.borrow().iter().cloned());
        // A name may take its time.
        let (addresses, names): (Vec<_>, Vec<_>) =
            nodes.into_iter().partition(|(host, _)| host.parse::<IpAddr>().is_ok());
        for (host, port) in addresses.into_iter().chain(names) {
            match self.resolve(&host, port).await {
                Ok(addresses) => {
                    let mut session = self.house.session.borrow_mut();
                    addresses.into_iter().for_each(|addr| session.dht_contact(addr, Instant::now()));
                    drop(session);
                    self.house.kick();
                }
                Err(error) => log::debug!("DHT node {host}: {error}"),
            }
        }
        self.begin.resolving.set(false);
    }

    /// Tells the node which families there is a socket for.
    pub(super) fn set_dht_families(&self, session: &mut Session) {
        let has = |family| self.house.udp.has(family);
        session.set_dht_families(has(Family::V4), has(Family::V6), Instant::now());
    }

    /// A new endpoint may have been sent to: now and then the session hears how many the kernel remembers.
    pub(super) fn look_at_tracked(&self) {
        let now = Instant::now();
        if self.begin.looked.get().is_some_and(|looked| now < looked + LOOK) {
            return;
        }
        self.begin.looked.set(Some(now));
        let [used, room] = TRACKED.map(|path| std::fs::read_to_string(path).ok()?.trim().parse().ok());
        if let (Some(used), Some(room)) = (used, room) {
            self.house.session.borrow_mut().set_tracked(used, room, now);
        }
    }
}

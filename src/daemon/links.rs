//! The network under the daemon: as interfaces and addresses come and go, listeners and the sockets for neighbours
//! follow, and the session hears what counts as near and which addresses are ours.
#![expect(clippy::disallowed_methods, reason = "I/O shell")]

use std::net::{SocketAddr, SocketAddrV6};
use std::rc::Rc;
use std::time::{Duration, Instant};

use async_io::Timer;

use super::listeners::{Bound, bind};
use super::start::local_prefixes;
use super::{Daemon, Fault};
use crate::config::Config;
use crate::metainfo::InfoHash;
use crate::net::io::changes::Changes;
use crate::net::io::{ResolveError, interface_index, interfaces};
use crate::session::Settings;

/// Names of static peers that could not be resolved are tried again after this long.
const RESOLVE_AGAIN: Duration = Duration::from_secs(300);

impl Daemon {
    /// Looks at the network whenever the kernel says that it changed; where it does not say so the regular scan finds
    /// everything a little later.
    pub(super) async fn follow_network(self: Rc<Daemon>) {
        let changes = match Changes::new() {
            Ok(changes) => changes,
            Err(error) => {
                log::warn!("netlink: {error}; changes of the network are found by the regular scan");
                return;
            }
        };
        loop {
            changes.changed().await;
            self.look_at_network();
            self.house.kick();
        }
    }

    /// Follows what has changed since the last look.
    pub(super) fn look_at_network(&self) {
        let interfaces = match interfaces() {
            Ok(interfaces) => interfaces,
            Err(error) => {
                log::debug!("interfaces: {error}");
                return;
            }
        };
        let now = Instant::now();
        let (changed, trouble) = self.listeners.follow(&self.house, &interfaces);
        if let Some(trouble) = trouble {
            self.trouble(Fault::Listen, trouble);
        }
        if changed {
            self.listens_elsewhere(now);
        }
        let config = self.config.borrow();
        let port = self.listeners.port();
        let own = interfaces.iter().filter(|found| !found.loopback);
        let own = own.map(|found| SocketAddr::new(found.address, port)).collect();
        let carrying = interfaces.iter().filter(|found| found.running).map(|found| found.address);
        let mut session = self.house.session.borrow_mut();
        session.set_local(local_prefixes(&config, &interfaces), own);
        session.set_addresses(carrying, now);
        drop(session);
        // Whom nobody reaches calls nobody.
        let listen = if config.lpd.enabled { self.listeners.addresses() } else { Vec::new() };
        let wanted = crate::lpd::io::wanted(&interfaces, &config.lpd.interfaces, &listen, config.lpd.hops);
        self.links.update(&self.house, &wanted);
    }

    /// Listens where the configuration says now; where that cannot be, as before.
    pub(super) fn listen_elsewhere(self: &Rc<Daemon>, old: Config) {
        // Old and new may share a port, so the old sockets are closed first.
        self.listeners.close();
        let listen = self.config.borrow().listen.clone();
        let interfaces = interfaces().unwrap_or_default();
        let bound = bind(&listen, &interfaces).map(|bound| (bound, listen));
        let bound = bound.inspect(|_| self.is_over(Fault::Listen)).or_else(|error| {
            self.trouble(Fault::Listen, format!("{error}; listening as before"));
            bind(&old.listen, &interfaces).map(|bound| (bound, old.listen))
        });
        match bound {
            Ok((bound, listen)) => {
                self.listeners.open(&self.house, &listen, bound);
                self.listens_elsewhere(Instant::now());
                self.look_at_network();
            }
            Err(error) => self.trouble(Fault::Listen, format!("{error}; no peer can reach us")),
        }
        self.house.kick();
    }

    /// Begins to listen on these sockets.
    pub(super) fn listen(&self, bound: Vec<Bound>) {
        let listen = self.config.borrow().listen.clone();
        if bound.is_empty() {
            log::warn!("none of the addresses to listen on is there yet; they are waited for");
        }
        self.listeners.open(&self.house, &listen, bound);
        self.listens_elsewhere(Instant::now());
    }

    /// The UDP port follows, and the session if the port is another.
    fn listens_elsewhere(&self, now: Instant) {
        self.house.udp.listen(&self.house, &self.listeners.addresses());
        let port = self.listeners.port();
        let mut session = self.house.session.borrow_mut();
        self.set_dht_families(&mut session);
        if port != 0 && port != session.settings().port {
            let settings = Settings { port, ..session.settings().clone() };
            session.apply(settings, self.config.borrow().rescan, now);
        }
    }

    /// The network is another: names are asked for anew, and trackers over both families.
    pub(super) fn reconnect(self: &Rc<Daemon>) {
        self.resolver.forget_failures();
        self.announcer.network_changed();
        if self.finding.borrow().as_ref().is_some_and(|finding| !finding.is_finished()) {
            self.seek_static_peers();
        }
    }

    /// Resolves the static peers of the configuration; whoever did it before stops.
    pub(super) fn seek_static_peers(self: &Rc<Daemon>) {
        let peers = self.config.borrow().peers.clone();
        self.finding.replace(Some(self.house.task(self.clone().resolve_static_peers(peers))));
    }

    async fn resolve_static_peers(self: Rc<Daemon>, peers: Vec<String>) {
        let named: Vec<(String, u16)> = peers.iter().map(|peer| host_and_port(peer)).collect();
        loop {
            let (found, missing) = self.find_peers(&named).await;
            self.house.session.borrow_mut().set_static_peers(found, Instant::now());
            self.house.kick();
            if !missing {
                return;
            }
            Timer::after(RESOLVE_AGAIN).await;
        }
    }

    /// The same for the peers that a magnet link names, as long as its torrent is there.
    pub(super) async fn find_named_peers(self: Rc<Daemon>, info_hash: InfoHash, peers: Vec<(String, u16)>) {
        let key = self.house.session.borrow().key(info_hash);
        loop {
            let (found, missing) = self.find_peers(&peers).await;
            if key.is_none() || self.house.session.borrow().key(info_hash) != key {
                return;
            }
            self.house.session.borrow_mut().offer_peers(info_hash, &found, Instant::now());
            self.house.kick();
            if !missing {
                return;
            }
            Timer::after(RESOLVE_AGAIN).await;
        }
    }

    /// The addresses of peers, and whether some are not known yet.
    async fn find_peers(&self, peers: &[(String, u16)]) -> (Vec<SocketAddr>, bool) {
        let (mut found, mut missing) = (Vec::new(), false);
        for (host, port) in peers {
            match self.resolve(host, *port).await {
                Ok(addresses) => found.extend(addresses),
                Err(error) => {
                    missing = true;
                    log::debug!("peer {host} port {port}: {error}");
                }
            }
        }
        (found, missing)
    }

    /// The addresses of something at a port. A link-local one carries its interface: `fe80::1%br-lan`.
    pub(super) async fn resolve(&self, host: &str, port: u16) -> Result<Vec<SocketAddr>, ResolveError> {
        if let Some((ip, interface)) = host.split_once('%')
            && let Ok(ip) = ip.parse()
        {
            let absent = || ResolveError::System(format!("no interface {interface}").into());
            let scope = interface_index(interface).ok_or_else(absent)?;
            return Ok(vec![SocketAddrV6::new(ip, port, 0, scope).into()]);
        }
        let found = self.resolver.resolve(host).await?;
        Ok(found.iter().map(|&ip| SocketAddr::new(ip, port)).collect())
    }
}

/// A `host:port` of the configuration, which has been checked.
pub(super) fn host_and_port(peer: &str) -> (String, u16) {
    let (host, port) = peer.rsplit_once(':').unwrap_or((peer, ""));
    (host.trim_start_matches('[').trim_end_matches(']').to_owned(), port.parse().unwrap_or(0))
}

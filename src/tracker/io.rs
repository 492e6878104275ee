//! Carries out what the tracker client decides: one announce over HTTP, to both address families of the host.
//!
//! Read first: BEP 7 (a client with two kinds of addresses tells both). Omits: UDP and TLS. A [`Line`] holds the
//! connections of one burst to one host (one a family, one more where it redirects) and one reply at a time; what is
//! remembered between bursts is which family leads nowhere, for at most 64 hosts.
#![expect(clippy::disallowed_methods, reason = "I/O shell")]

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::client::Request;
use super::host::back_off;
use super::http::{decode_reply, encode_announce};
use super::{Announce, Failure, Random, Reply};
use crate::http::io::{Client, Error, Limits, Response};
use crate::net::io::Resolver;
use crate::net::{Class, Family, class};

/// Bytes of a reply: 200 peers have 1.2 to 16 KiB, but some trackers send all they know.
const MAX_REPLY: usize = 1024 * 1024;

/// Time for one exchange, redirects included.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Seconds for which a family that leads nowhere is left alone while the other one works, doubled up to the second
/// number: a router with half an IPv6 uplink must not wait for it at every announce.
const FAMILY_REST: (u32, u32) = (600, 7200);

/// Hosts of which that is remembered.
const MAX_RESTS: usize = 64;

/// What the session knows and a tracker is told.
#[derive(Clone, Copy, Debug)]
pub struct Params {
    /// Who we are.
    pub peer_id: [u8; 20],
    /// Where we listen.
    pub port: u16,
    /// Drawn once a run: proves to a tracker that both families are the same client.
    pub key: u32,
    /// Bytes since the torrent was started.
    pub uploaded: u64,
    /// Bytes since the torrent was started.
    pub downloaded: u64,
    /// Bytes that are missing.
    pub left: u64,
    /// We listen on IPv4.
    pub v4: bool,
    /// We listen on IPv6.
    pub v6: bool,
    /// Time for the exchange with each family: [`PATIENCE`], or less at the end of the program.
    pub patience: Duration,
}

/// What all hosts' announces share.
pub struct Announcer {
    resolver: Rc<Resolver>,
    random: RefCell<Random>,
    rests: RefCell<BTreeMap<Box<str>, [Rest; 2]>>,
}

/// Whether a family of a host is left alone.
#[derive(Clone, Copy, Default)]
struct Rest {
    failures: u8,
    until: Option<Instant>,
}

/// The connections to one host while its announces last. Dropped when `poll_host` has no more for it.
pub struct Line {
    announcer: Rc<Announcer>,
    clients: [Client; 2],
    query: Vec<u8>,
}

impl Announcer {
    /// The seed decides which of too many peers are kept.
    pub fn new(resolver: Rc<Resolver>, seed: u64) -> Rc<Announcer> {
        Rc::new(Announcer {
            resolver,
            random: RefCell::new(Random::new(seed)),
            rests: RefCell::new(BTreeMap::new()),
        })
    }

    /// Connections to a host, none of them open yet.
    pub fn line(self: &Rc<Announcer>) -> Line {
        Line { announcer: self.clone(), clients: [Client::new(), Client::new()], query: Vec::new() }
    }

    fn rests(&self, host: &str, family: Family) -> bool {
        let rests = self.rests.borrow();
        let until = rests.get(host).and_then(|rests| rests[place(family)].until);
        until.is_some_and(|until| Instant::now() < until)
    }

    fn reached(&self, host: &str, family: Family) {
        if let Some(rests) = self.rests.borrow_mut().get_mut(host) {
            rests[place(family)] = Rest::default();
        }
    }

    fn unreached(&self, host: &str, family: Family) {
        let mut rests = self.rests.borrow_mut();
        if rests.len() >= MAX_RESTS && !rests.contains_key(host) {
            rests.pop_first();
        }
        let rest = &mut rests.entry(host.into()).or_default()[place(family)];
        let (first, most) = FAMILY_REST;
        let seconds = back_off(first, most, rest.failures, &mut self.random.borrow_mut());
        rest.failures = rest.failures.saturating_add(1);
        rest.until = Instant::now().checked_add(Duration::from_secs(seconds.into()));
    }
}

impl Line {
    /// Announces over each family that the host has and we listen on. One that hears us is enough.
    pub async fn announce(&mut self, request: &Request, params: &Params) -> Result<Reply, Failure> {
        let announcer = self.announcer.clone();
        let host = request.url.host();
        let addresses = announcer.resolver.resolve(host).await;
        let addresses = addresses.map_err(|error| Failure::Resolve(Error::Resolve(error).to_string()))?;
        let listens = |family| if family == Family::V4 { params.v4 } else { params.v6 };
        let has = |family| addresses.iter().any(|address| Family::of(*address) == family);
        let mut families = [Some(Family::V4), Some(Family::V6)]
            .map(|family| family.filter(|family| has(*family) && listens(*family)));
        let rested = families.map(|family| family.filter(|family| !announcer.rests(host, *family)));
        if rested.iter().any(Option::is_some) {
            families = rested;
        }

        self.encode(request, params);
        let limits = Limits { body: MAX_REPLY, patience: params.patience };
        let mut reply: Option<Reply> = None;
        let mut failure: Option<Failure> = None;
        let mut unreached: Option<Family> = None;
        for family in families.into_iter().flatten() {
            let client = &mut self.clients[place(family)];
            let response = client.get(&announcer.resolver, &request.url, &self.query, family, limits).await;
            if response
                .as_ref()
                .is_err_and(|error| error.is_transport() || matches!(error, Error::NoAddress(_)))
            {
                unreached = Some(family);
            } else {
                announcer.reached(host, family);
            }
            let decoded = response
                .map_err(|error| refused_by_transport(&error))
                .and_then(|response| decode(&response, &mut announcer.random.borrow_mut()));
            match (decoded, &mut reply) {
                (Ok(more), Some(reply)) => reply.merge(more, &mut announcer.random.borrow_mut()),
                (Ok(first), None) => reply = Some(first),
                (Err(error), _) => {
                    // What a tracker says tells more than that nobody answered.
                    if failure.as_ref().is_none_or(|other| weight(&error) > weight(other)) {
                        failure = Some(error);
                    }
                }
            }
        }
        if let Some(family) = unreached
            && (reply.is_some() || failure.as_ref().is_some_and(|failure| weight(failure) > 1))
        {
            announcer.unreached(host, family);
        }
        match (reply, failure) {
            (Some(reply), _) => Ok(reply),
            (None, Some(failure)) => Err(failure),
            (None, None) => Err(Failure::Transport("it has no address of a kind that we listen on".into())),
        }
    }

    fn encode(&mut self, request: &Request, params: &Params) {
        self.query.clear();
        let announce = Announce {
            info_hash: request.info_hash,
            peer_id: params.peer_id,
            port: params.port,
            uploaded: params.uploaded,
            downloaded: params.downloaded,
            left: params.left,
            event: request.event,
            numwant: request.numwant.into(),
            key: params.key,
            tracker_id: request.tracker_id.as_deref().map(Cow::Borrowed),
        };
        encode_announce(&announce, &mut self.query);
    }
}

/// The reply in a response, or what else it says.
fn decode(response: &Response<'_>, random: &mut Random) -> Result<Reply, Failure> {
    if response.status == 429 || response.status >= 500 {
        return Err(Failure::Busy(response.status, response.retry_after));
    }
    let reply = decode_reply(response.body, from_loopback(response.remote), random);
    match reply {
        Ok(_) | Err(Failure::Reply(_)) if !(200..300).contains(&response.status) => {
            Err(Failure::Reply(format!("the tracker answers with HTTP status {}", response.status)))
        }
        // Some say in the body why, whatever the status.
        reply => reply,
    }
}

fn from_loopback(remote: IpAddr) -> bool {
    class(remote) == Class::Loopback
}

fn refused_by_transport(error: &Error) -> Failure {
    let text = error.to_string();
    match error {
        Error::Resolve(_) => Failure::Resolve(text),
        Error::Url(_) | Error::Denied(_) | Error::Tls | Error::Redirects => Failure::Url(text),
        Error::NoAddress(_) => Failure::Transport(text),
        _ if error.is_transport() => Failure::Transport(text),
        _ => Failure::Reply(text),
    }
}

/// How much a failure tells about a torrent.
fn weight(failure: &Failure) -> u8 {
    match failure {
        Failure::Resolve(_) => 0,
        Failure::Transport(_) => 1,
        Failure::Url(_) => 2,
        Failure::Busy(..) => 3,
        Failure::Reply(_) => 4,
        Failure::Refused(..) => 5,
    }
}

fn place(family: Family) -> usize {
    usize::from(family == Family::V6)
}

//! Carries out what the tracker client decides, over HTTP or UDP: an announce to both address families of the host, or a
//! scrape.
//!
//! Read first: BEP 7 (a client with two kinds of addresses tells both), 21 (`paused`), 48 (scrape). A [`Burst`] holds the
//! connections of one burst to one host (one a family, one more where it redirects) and one reply at a time; what is
//! remembered between bursts is which family leads nowhere, for at most 64 hosts.
#![expect(clippy::disallowed_methods, reason = "I/O shell")]

use std::borrow::Cow;
use std::cell::RefCell;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::client::{Request, Scrape};
use super::host::back_off;
use super::http::{decode_reply, decode_scrape, encode_announce, encode_scrape};
use super::udp::{self as datagrams, Answer};
use super::{Announce, Counts, Event, Failure, Reply};
use crate::http::io::{Client, Error, Limits, Response};
use crate::http::{Purpose, Scheme, Url};
use crate::net::io::Resolver;
use crate::net::io::udp::Udp;
use crate::net::{Canonical, Class, Family, class};
use crate::random::Random;
use crate::sorted::SortedMap;

mod udp;

/// Bytes of a reply: 200 peers have 1.2 to 16 KiB, but some trackers send all they know.
const MAX_REPLY: usize = 1024 * 1024;

/// The same of the counts of a few torrents. Trackers that tell of all torrents that they have are not listened to.
const MAX_COUNTS: usize = 16 * 1024;

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
    /// They are not wanted.
    pub partial: bool,
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
    exchange: udp::Exchange,
    random: RefCell<Random>,
    rests: RefCell<SortedMap<Box<str>, [Rest; 2]>>,
}

/// Whether a family of a host is left alone.
#[derive(Clone, Copy, Default)]
struct Rest {
    failures: u8,
    until: Option<Instant>,
}

/// The connections to one host while its announces last. Dropped when `poll_host` has no more for it.
pub struct Burst {
    announcer: Rc<Announcer>,
    clients: [Client; 2],
    query: Vec<u8>,
    /// Over which the last announce was answered.
    heard: Option<Family>,
}

impl Announcer {
    /// `secret` is not to be guessed by others: the numbers of UDP's transactions are made of it.
    pub fn new(resolver: Rc<Resolver>, udp: Rc<Udp>, secret: u64) -> Rc<Announcer> {
        let exchange = udp::Exchange::new(udp, secret);
        // Which of too many peers are kept tells nothing of the secret.
        let seed = exchange.transaction().into();
        Rc::new(Announcer {
            resolver,
            exchange,
            random: RefCell::new(Random::new(seed)),
            rests: RefCell::new(SortedMap::new()),
        })
    }

    /// Connections to a host, none of them open yet.
    pub fn burst(self: &Rc<Announcer>) -> Burst {
        let clients = [Client::new(), Client::new()];
        Burst { announcer: self.clone(), clients, query: Vec::new(), heard: None }
    }

    async fn resolve(&self, url: &Url) -> Result<Box<[IpAddr]>, Failure> {
        let addresses = self.resolver.resolve(url.host()).await;
        addresses.map_err(|error| Failure::Resolve(Error::Resolve(error).to_string()))
    }

    /// The network is another: every family may lead somewhere, and who gave us a connection id may know us by another
    /// address.
    pub fn network_changed(&self) {
        self.rests.borrow_mut().clear();
        self.exchange.forget_connections();
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
        let rest = &mut rests.get_or_insert_with(host.into(), Default::default)[place(family)];
        let (first, most) = FAMILY_REST;
        let seconds = back_off(first, most, rest.failures, &mut self.random.borrow_mut());
        rest.failures = rest.failures.saturating_add(1);
        rest.until = Instant::now().checked_add(Duration::from_secs(seconds.into()));
    }
}

impl Burst {
    /// Announces over each family that the host has and we listen on. One that hears us is enough.
    pub async fn announce(&mut self, request: &Request, params: &Params) -> Result<Reply, Failure> {
        let announcer = self.announcer.clone();
        let host = request.url.host();
        let addresses = announcer.resolve(&request.url).await?;
        let over_udp = request.url.scheme() == Scheme::Udp;
        let listens = |family| {
            (if family == Family::V4 { params.v4 } else { params.v6 })
                && (!over_udp || announcer.exchange.udp.has(family))
        };
        let has = |family| addresses.iter().any(|address| Family::of(*address) == family);
        let mut families = [Some(Family::V4), Some(Family::V6)]
            .map(|family| family.filter(|family| has(*family) && listens(*family)));
        let rested = families.map(|family| family.filter(|family| !announcer.rests(host, *family)));
        if rested.iter().any(Option::is_some) {
            families = rested;
        }

        let announce = announce(request, params);
        let (v4, v6) = if over_udp {
            let ask = |family| {
                ask_over_udp(&announcer, &request.url, &announce, &addresses, family, params.patience)
            };
            smol::future::zip(ask(families[0]), ask(families[1])).await
        } else {
            self.query.clear();
            encode_announce(&announce, &mut self.query);
            let limits = Limits { body: MAX_REPLY, patience: params.patience };
            let [v4, v6] = &mut self.clients;
            smol::future::zip(
                ask(&announcer, v4, request, &self.query, families[0], limits),
                ask(&announcer, v6, request, &self.query, families[1], limits),
            )
            .await
        };

        let heard = [(Family::V4, &v4), (Family::V6, &v6)]
            .into_iter()
            .find(|(_, answer)| answer.as_ref().is_some_and(|answer| !is_silence(answer)));
        self.heard = heard.map(|(family, _)| family);
        for (family, answer) in families.into_iter().zip([&v4, &v6]) {
            match (family, answer) {
                (Some(family), Some(answer)) if !is_silence(answer) => announcer.reached(host, family),
                // Where neither hears us it is the host, and the client rests it.
                (Some(family), Some(_)) if heard.is_some() => announcer.unreached(host, family),
                _ => {}
            }
        }
        match (v4, v6) {
            (Some(Ok(mut reply)), Some(Ok(other))) => {
                reply.merge(other, &mut announcer.random.borrow_mut());
                Ok(reply)
            }
            (Some(Ok(reply)), _) | (_, Some(Ok(reply))) => Ok(reply),
            // What a tracker says tells more than that nobody answered.
            (Some(Err(one)), Some(Err(other))) => {
                Err(if weight(&other) > weight(&one) { other } else { one })
            }
            (Some(Err(failure)), None) | (None, Some(Err(failure))) => Err(failure),
            (None, None) => Err(Failure::Transport("it has no address of a kind that we listen on".into())),
        }
    }

    /// Asks for counts, over the connection of the last announce.
    pub async fn scrape(&mut self, scrape: &Scrape, patience: Duration) -> Result<Vec<Counts>, Failure> {
        let family = self.heard.unwrap_or(Family::V4);
        if scrape.url.scheme() == Scheme::Udp {
            return scrape_over_udp(&self.announcer, scrape, family, patience).await;
        }
        self.query.clear();
        encode_scrape(&scrape.torrents, &mut self.query);
        let limits = Limits { body: MAX_COUNTS, patience };
        let client = &mut self.clients[place(family)];
        let response = client.get(&self.announcer.resolver, &scrape.url, &self.query, family, limits).await;
        let response = response.map_err(|error| failure(&error))?;
        judge(&response, decode_scrape(response.body, &scrape.torrents))
    }
}

/// What the tracker is told.
fn announce<'a>(request: &'a Request, params: &Params) -> Announce<'a> {
    Announce {
        info_hash: request.info_hash,
        peer_id: params.peer_id,
        port: params.port,
        uploaded: params.uploaded,
        downloaded: params.downloaded,
        left: params.left,
        event: match request.event {
            // Others are told as ever: trackers go by them.
            Event::None if params.partial => Event::Paused,
            event => event,
        },
        numwant: request.numwant.into(),
        key: params.key,
        tracker_id: request.tracker_id.as_deref().map(Cow::Borrowed),
    }
}

/// Announces over one family, if it is to be used at all.
async fn ask(
    announcer: &Announcer,
    client: &mut Client,
    request: &Request,
    query: &[u8],
    family: Option<Family>,
    limits: Limits,
) -> Option<Result<Reply, Failure>> {
    let response = client.get(&announcer.resolver, &request.url, query, family?, limits).await;
    let response = response.map_err(|error| failure(&error));
    Some(response.and_then(|response| decode(&response, &mut announcer.random.borrow_mut())))
}

/// The same over UDP.
async fn ask_over_udp(
    announcer: &Announcer,
    url: &Url,
    announce: &Announce<'_>,
    addresses: &[IpAddr],
    family: Option<Family>,
    patience: Duration,
) -> Option<Result<Reply, Failure>> {
    let places = match places(url, addresses, family?) {
        Ok(places) => places,
        Err(denied) => return Some(Err(denied)),
    };
    let encode = |connection, transaction, out: &mut Vec<u8>| {
        datagrams::encode_announce(connection, transaction, announce, url.target(), out);
    };
    let answer = announcer.exchange.ask(&places, patience, &announcer.random, &encode).await;
    Some(answer.and_then(|answer| match answer {
        Answer::Announced(reply) => Ok(reply),
        _ => Err(other_question()),
    }))
}

/// Asks for counts over UDP.
async fn scrape_over_udp(
    announcer: &Announcer,
    scrape: &Scrape,
    family: Family,
    patience: Duration,
) -> Result<Vec<Counts>, Failure> {
    let addresses = announcer.resolve(&scrape.url).await?;
    let places = places(&scrape.url, &addresses, family)?;
    let encode = |connection, transaction, out: &mut Vec<u8>| {
        datagrams::encode_scrape(connection, transaction, &scrape.torrents, out);
    };
    match announcer.exchange.ask(&places, patience, &announcer.random, &encode).await? {
        Answer::Scraped(counts) => Ok(counts),
        _ => Err(other_question()),
    }
}

/// Where a URL may be asked over UDP.
fn places(url: &Url, addresses: &[IpAddr], family: Family) -> Result<Vec<SocketAddr>, Failure> {
    let of_family = addresses.iter().copied().filter(|address| Family::of(*address) == family);
    let mut denied = Ok(Vec::new());
    let mut places = Vec::new();
    for address in of_family {
        match url.admits(address, None, Purpose::Announce) {
            Ok(()) => places.push(SocketAddr::new(address.canonical(), url.port())),
            Err(why) => denied = Err(Failure::Url(why.to_string())),
        }
    }
    if places.is_empty() { denied } else { Ok(places) }
}

fn other_question() -> Failure {
    Failure::Reply("the tracker answers another question".into())
}

/// Whether nobody was there.
fn is_silence(answer: &Result<Reply, Failure>) -> bool {
    matches!(answer, Err(Failure::Resolve(_) | Failure::Transport(_)))
}

/// The reply in a response, or what else it says.
fn decode(response: &Response<'_>, random: &mut Random) -> Result<Reply, Failure> {
    judge(response, decode_reply(response.body, from_loopback(response.remote), random))
}

/// What was read in a response, unless its status says that there is nothing to read.
fn judge<T>(response: &Response<'_>, reply: Result<T, Failure>) -> Result<T, Failure> {
    if response.status == 429 || response.status >= 500 {
        return Err(Failure::Busy(response.status, response.retry_after));
    }
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

fn failure(error: &Error) -> Failure {
    let text = error.to_string();
    match error {
        Error::Resolve(_) => Failure::Resolve(text),
        Error::Url(_) | Error::Denied(_) | Error::NoTls | Error::Redirects => Failure::Url(text),
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

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Arc, Mutex};

    use smol::io::{AsyncReadExt, AsyncWriteExt};
    use smol::net::{TcpListener, TcpStream};

    use super::super::client;
    use super::super::http::{decode_announce, encode_refusal, encode_reply};
    use super::super::{Event, Retry};
    use super::*;
    use crate::http::{Length, ReplyHead, RequestHead, decode_request_head, encode_reply_head};
    use crate::metainfo::InfoHash;

    /// What a test tracker sends, and whether it closes then.
    struct Sent(Vec<u8>, bool);

    type Behaviour = dyn Fn(usize, &RequestHead) -> Sent + Send + Sync;

    /// A real listener that answers as the test says.
    struct TestTracker {
        address: SocketAddr,
        targets: Arc<Mutex<Vec<String>>>,
        connections: Arc<AtomicUsize>,
        _task: smol::Task<()>,
    }

    impl TestTracker {
        fn start(
            address: &str,
            behave: impl Fn(usize, &RequestHead) -> Sent + Send + Sync + 'static,
        ) -> TestTracker {
            let listener = smol::block_on(TcpListener::bind(address)).unwrap();
            let address = listener.local_addr().unwrap();
            let targets = Arc::new(Mutex::new(Vec::new()));
            let connections = Arc::new(AtomicUsize::new(0));
            let (heard, met) = (targets.clone(), connections.clone());
            let behave: Arc<Behaviour> = Arc::new(behave);
            let task = smol::spawn(async move {
                while let Ok((stream, _)) = listener.accept().await {
                    met.fetch_add(1, Ordering::SeqCst);
                    smol::spawn(serve(stream, behave.clone(), heard.clone())).detach();
                }
            });
            TestTracker { address, targets, connections, _task: task }
        }

        fn url(&self) -> String {
            format!("http://{}/announce", self.address)
        }

        fn targets(&self) -> Vec<String> {
            self.targets.lock().unwrap().clone()
        }

        fn connections(&self) -> usize {
            self.connections.load(Ordering::SeqCst)
        }
    }

    async fn serve(mut stream: TcpStream, behave: Arc<Behaviour>, heard: Arc<Mutex<Vec<String>>>) {
        let mut bytes = Vec::new();
        let mut scratch = [0; 4096];
        loop {
            while let Ok(Some((head, length))) = decode_request_head(&bytes) {
                bytes.drain(..length);
                let n = {
                    let mut heard = heard.lock().unwrap();
                    heard.push(head.target.clone());
                    heard.len()
                };
                let Sent(reply, close) = behave(n, &head);
                if stream.write_all(&reply).await.is_err() || close {
                    return;
                }
            }
            match stream.read(&mut scratch).await {
                Ok(n) if n > 0 => bytes.extend_from_slice(&scratch[..n]),
                _ => return,
            }
        }
    }

    fn with_head(status: u16, location: Option<String>, body: &[u8]) -> Sent {
        let length = Length::Exact(u64::try_from(body.len()).unwrap());
        let mut out = Vec::new();
        encode_reply_head(
            &ReplyHead { status, length, keep_alive: true, location, retry_after: None, content_range: None },
            &mut out,
        );
        out.extend_from_slice(body);
        Sent(out, false)
    }

    fn good() -> Sent {
        let peers = ["127.0.0.1:5", "10.0.0.1:6"].map(|peer| peer.parse().unwrap()).to_vec();
        let mut body = Vec::new();
        encode_reply(&Reply { interval: 600, peers, ..Reply::default() }, &mut body);
        with_head(200, None, &body)
    }

    pub(super) fn request(url: &str, key: u32) -> Request {
        let mut client = client::Client::new(1, Instant::now());
        let mut hash = [0; 20];
        hash[..4].copy_from_slice(&key.to_be_bytes());
        client.insert(key, InfoHash::from_bytes(hash), &[vec![url.to_owned()]], &[], false, Instant::now());
        client.poll(Instant::now()).unwrap()
    }

    pub(super) fn params() -> Params {
        let patience = Duration::from_secs(5);
        Params {
            peer_id: *b"-MS0100-abcdefghijkl",
            port: 6881,
            key: 5,
            uploaded: 1,
            downloaded: 2,
            left: 3,
            partial: false,
            v4: true,
            v6: true,
            patience,
        }
    }

    fn announcer() -> Rc<Announcer> {
        Announcer::new(Rc::new(Resolver::new()), Rc::new(Udp::new()), 1)
    }

    fn announce(url: &str) -> Result<Reply, Failure> {
        smol::block_on(announcer().burst().announce(&request(url, 1), &params()))
    }

    #[test]
    fn a_burst_goes_over_one_connection() {
        let tracker = TestTracker::start("127.0.0.1:0", |_, _| good());
        smol::block_on(async {
            let mut burst = announcer().burst();
            for key in 0..100 {
                let reply = burst.announce(&request(&tracker.url(), key), &params()).await.unwrap();
                assert_eq!((reply.interval, reply.peers.len()), (600, 2));
            }
        });
        assert_eq!((tracker.connections(), tracker.targets().len()), (1, 100));
        let target = tracker.targets()[7].clone();
        let heard = decode_announce(target.split_once('?').unwrap().1).unwrap();
        assert_eq!((heard.port, heard.uploaded, heard.downloaded, heard.left), (6881, 1, 2, 3));
        assert_eq!((heard.event, heard.numwant, heard.key), (Event::Started, 50, 5));
    }

    #[test]
    fn counts_come_over_the_connection_of_the_announces() {
        let begun = Instant::now();
        let hash = InfoHash::from_bytes([7; 20]);
        let tracker = TestTracker::start("127.0.0.1:0", |_, head| {
            if head.target.starts_with("/scrape?info_hash=%07%07") {
                let body = [b"d5:filesd20:", &[7; 20][..], b"d8:completei4e10:downloadedi9eeee"].concat();
                return with_head(200, None, &body);
            }
            good()
        });
        let mut client = client::Client::new(1, begun);
        client.insert(1, hash, &[vec![tracker.url()]], &[], true, begun);
        let request = client.poll(begun).unwrap();
        smol::block_on(async {
            let mut burst = announcer().burst();
            let reply = burst.announce(&request, &params()).await;
            client.handle(&request, reply.as_ref(), Instant::now());
            let scrape = client.poll_scrape(request.host).unwrap();
            let counts = burst.scrape(&scrape, params().patience).await.unwrap();
            client.scraped(&scrape, Ok(&counts), Instant::now());
        });
        let counts = Counts { seeds: Some(4), leechers: None, downloads: Some(9) };
        assert_eq!(client.status(1, Instant::now())[0].counts, counts);
        assert_eq!((tracker.connections(), tracker.targets().len()), (1, 2));
    }

    #[test]
    fn a_partial_seed_says_so_once_the_tracker_knows_it() {
        let tracker = TestTracker::start("127.0.0.1:0", |_, _| good());
        let said = |event, partial| {
            let mut request = request(&tracker.url(), 1);
            request.event = event;
            let answer =
                smol::block_on(announcer().burst().announce(&request, &Params { partial, ..params() }));
            answer.unwrap();
            decode_announce(tracker.targets().pop().unwrap().split_once('?').unwrap().1).unwrap().event
        };
        assert_eq!(said(Event::None, true), Event::Paused);
        assert_eq!(said(Event::None, false), Event::None);
        for event in [Event::Started, Event::Completed, Event::Stopped] {
            assert_eq!(said(event, true), event);
        }
    }

    #[test]
    fn a_kept_connection_that_was_closed_is_replaced_once() {
        // Every reply claims that the connection stays, every connection ends after two.
        let tracker = TestTracker::start("127.0.0.1:0", |n, _| Sent(good().0, n % 2 == 0));
        smol::block_on(async {
            let mut burst = announcer().burst();
            for key in 0..10 {
                burst.announce(&request(&tracker.url(), key), &params()).await.unwrap();
            }
        });
        assert_eq!((tracker.connections(), tracker.targets().len()), (5, 10));
        // A new connection that is closed at once is the tracker's fault and not tried twice.
        let tracker = TestTracker::start("127.0.0.1:0", |_, _| Sent(Vec::new(), true));
        assert!(matches!(announce(&tracker.url()), Err(Failure::Transport(_))));
        assert_eq!(tracker.connections(), 1);
        // One that says that it has waited for too long says so for the connection, not for the request.
        let tracker =
            TestTracker::start("127.0.0.1:0", |n, _| if n == 2 { with_head(408, None, b"") } else { good() });
        smol::block_on(async {
            let mut burst = announcer().burst();
            for key in 0..3 {
                burst.announce(&request(&tracker.url(), key), &params()).await.unwrap();
            }
        });
        assert_eq!((tracker.connections(), tracker.targets().len()), (2, 4));
    }

    #[test]
    fn redirects_are_followed_so_far_and_only_where_they_may_lead() {
        let last = TestTracker::start("127.0.0.1:0", |_, _| good());
        let to = |location: String, status: u16| {
            TestTracker::start("127.0.0.1:0", move |_, _| with_head(status, Some(location.clone()), b"moved"))
        };
        for status in [301, 302, 303, 307, 308] {
            let first = to(format!("{}?from=first", last.url()), status);
            assert_eq!(announce(&first.url()).unwrap().interval, 600);
        }
        assert!(last.targets().iter().all(|target| target == "/announce?from=first"));
        let endless = to("/announce".into(), 302);
        assert!(matches!(announce(&endless.url()), Err(Failure::Url(_))));
        assert_eq!((endless.targets().len(), endless.connections()), (6, 1));
        for location in [
            "file:///etc/passwd",
            "http://127.0.0.1:1/admin",
            "gopher://x/",
            "/announce\0",
            "http://0.0.0.0/announce",
        ] {
            let wrong = to(location.into(), 302);
            assert!(matches!(announce(&wrong.url()), Err(Failure::Url(_) | Failure::Reply(_))), "{location}");
            assert_eq!(wrong.targets().len(), 1);
        }
        // Between two hosts both connections are kept.
        let first = to(last.url(), 302);
        let before = last.connections();
        smol::block_on(async {
            let mut burst = announcer().burst();
            for key in 0..20 {
                burst.announce(&request(&first.url(), key), &params()).await.unwrap();
            }
        });
        assert_eq!((first.connections(), last.connections() - before), (1, 1));
    }

    #[test]
    fn on_this_machine_only_trackers_are_asked() {
        let tracker = TestTracker::start("127.0.0.1:0", |_, _| good());
        let answer = announce(&format!("http://{}/admin?x=/announce", tracker.address));
        assert!(matches!(answer, Err(Failure::Url(_))));
        assert_eq!(tracker.connections(), 0);
    }

    #[test]
    fn slow_and_endless_replies_end_in_time() {
        let slow = TestTracker::start("127.0.0.1:0", |_, _| Sent(b"HTTP/1.1 200 OK\r\nX: ".to_vec(), false));
        smol::block_on(async {
            let mut burst = announcer().burst();
            let params = Params { patience: Duration::from_millis(300), ..params() };
            for _ in 0..2 {
                let begun = Instant::now();
                let answer = burst.announce(&request(&slow.url(), 1), &params).await;
                assert!(matches!(answer, Err(Failure::Transport(_))), "{answer:?}");
                assert!((250..2000).contains(&begun.elapsed().as_millis()), "{:?}", begun.elapsed());
            }
        });
        assert_eq!(slow.connections(), 2, "nothing is asked over a connection with an open question");
    }

    #[test]
    fn huge_and_broken_replies_are_the_trackers_fault() {
        let huge = |head: &'static [u8], unit: &'static [u8]| {
            let reply = [head, &unit.repeat(3 * MAX_REPLY / unit.len())].concat();
            let tracker = TestTracker::start("127.0.0.1:0", move |_, _| Sent(reply.clone(), true));
            announce(&tracker.url())
        };
        for (head, unit) in [
            (&b"HTTP/1.1 200 OK\r\n\r\n"[..], &b"x"[..]),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 3000000\r\n\r\n", b"x"),
            (b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", b"x"),
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"4\r\nabcd\r\n"),
            (b"HTTP/1.1 200 OK\r\n", b"A: b\r\n"),
            (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", b"\xff"),
        ] {
            let answer = huge(head, unit);
            assert!(matches!(answer, Err(Failure::Reply(_))), "{answer:?}");
        }
        for body in ["", "<html>", "d8:intervali60e", "i5e", "le"] {
            let tracker =
                TestTracker::start("127.0.0.1:0", move |_, _| with_head(200, None, body.as_bytes()));
            assert!(matches!(announce(&tracker.url()), Err(Failure::Reply(_))), "{body}");
        }
    }

    #[test]
    fn all_kinds_of_bodies_are_read() {
        let mut body = Vec::new();
        encode_reply(&Reply { interval: 77, ..Reply::default() }, &mut body);
        let chunked = [
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n".to_vec(),
            body[..1].to_vec(),
            format!("\r\n{:x}\r\n", body.len() - 1).into_bytes(),
            body[1..].to_vec(),
            b"\r\n0\r\n\r\n".to_vec(),
        ]
        .concat();
        let until_close = [b"HTTP/1.0 200 OK\r\n\r\n".to_vec(), body.clone()].concat();
        let unusual = [b"HTTP/1.1 100 Continue\r\n\r\n".to_vec(), with_head(200, None, &body).0].concat();
        for (reply, close) in [(chunked, false), (until_close, true), (unusual, false)] {
            let tracker = TestTracker::start("127.0.0.1:0", move |_, _| Sent(reply.clone(), close));
            assert_eq!(announce(&tracker.url()).unwrap().interval, 77);
        }
    }

    #[test]
    fn what_a_tracker_says_of_itself_is_told_apart() {
        let with = |status: u16, body: &[u8]| {
            let body = body.to_vec();
            let tracker = TestTracker::start("127.0.0.1:0", move |_, _| with_head(status, None, &body));
            announce(&tracker.url())
        };
        let mut refusal = Vec::new();
        encode_refusal("not registered", Retry::Minutes(5), &mut refusal);
        let refused = Err(Failure::Refused("not registered".into(), Retry::Minutes(5)));
        assert_eq!(with(200, &refusal), refused);
        assert_eq!(with(403, &refusal), refused);
        assert_eq!(with(503, b"busy"), Err(Failure::Busy(503, None)));
        assert_eq!(with(429, b""), Err(Failure::Busy(429, None)));
        assert!(matches!(with(404, b"<html>"), Err(Failure::Reply(text)) if text.contains("404")));
        let empty = TestTracker::start("127.0.0.1:0", |_, _| good());
        let gone = empty.url();
        drop(empty);
        std::thread::sleep(Duration::from_millis(50));
        assert!(matches!(announce(&gone), Err(Failure::Transport(_))));
        assert!(matches!(announce("http://no-such-name.invalid/announce"), Err(Failure::Resolve(_))));
    }

    #[test]
    fn both_families_are_told_and_one_that_leads_nowhere_is_remembered() {
        let mut body = Vec::new();
        encode_reply(
            &Reply { peers: vec!["[2001:db8::7]:7".parse().unwrap()], ..Reply::default() },
            &mut body,
        );
        let v4 = TestTracker::start("127.0.0.1:0", |_, _| good());
        let v6 = TestTracker::start(&format!("[::1]:{}", v4.address.port()), move |_, _| {
            with_head(200, None, &body)
        });
        let url = format!("http://two.example:{}/announce", v4.address.port());
        let resolver = Rc::new(Resolver::new());
        resolver.teach("two.example", &["::1".parse().unwrap(), "127.0.0.1".parse().unwrap()]);
        let announcer = Announcer::new(resolver, Rc::new(Udp::new()), 1);
        smol::block_on(async {
            let mut burst = announcer.burst();
            let reply = burst.announce(&request(&url, 1), &params()).await.unwrap();
            assert_eq!((reply.interval, reply.peers.len()), (1800, 3));
            assert_eq!((v4.targets().len(), v6.targets().len()), (1, 1));
            assert_eq!(v4.targets(), v6.targets(), "the same key proves who we are");

            let only_v4 = Params { v6: false, ..params() };
            assert_eq!(burst.announce(&request(&url, 2), &only_v4).await.unwrap().peers.len(), 2);
            assert_eq!((v4.targets().len(), v6.targets().len()), (2, 1));
            let none = Params { v4: false, ..only_v4 };
            assert!(burst.announce(&request(&url, 2), &none).await.is_err());
        });
        // With its IPv6 half gone the tracker is fine, and the gone half is not asked each time.
        drop(v6);
        std::thread::sleep(Duration::from_millis(50));
        smol::block_on(async {
            for key in 0..3 {
                announcer.burst().announce(&request(&url, key), &params()).await.unwrap();
            }
        });
        assert!(announcer.rests("two.example", Family::V6));
        assert!(!announcer.rests("two.example", Family::V4));
        assert_eq!(announcer.rests.borrow()["two.example"][1].failures, 1);
        announcer.network_changed();
        assert!(!announcer.rests("two.example", Family::V6));
    }

    #[test]
    fn a_thousand_torrents_start_and_stop_over_one_connection_each_time() {
        let tracker = TestTracker::start("127.0.0.1:0", |_, _| good());
        let announcer = announcer();
        let begun = Instant::now();
        let mut client = client::Client::new(1, begun);
        for key in 0..1000_u32 {
            let mut hash = [0; 20];
            hash[..4].copy_from_slice(&key.to_be_bytes());
            client.insert(key, InfoHash::from_bytes(hash), &[vec![tracker.url()]], &[], true, begun);
        }
        let serve = |client: &mut client::Client| {
            let mut request = client.poll(Instant::now());
            let mut burst = announcer.burst();
            while let Some(asked) = request {
                let result = smol::block_on(burst.announce(&asked, &params()));
                client.handle(&asked, result.as_ref(), Instant::now());
                request = client.poll_host(asked.host, Instant::now());
            }
        };
        serve(&mut client);
        assert_eq!((tracker.connections(), tracker.targets().len()), (1, 1000));
        client.shutdown(Instant::now());
        serve(&mut client);
        assert!(client.is_idle());
        assert_eq!((tracker.connections(), tracker.targets().len()), (2, 2000));
        let said = |event: &str| tracker.targets().iter().filter(|target| target.contains(event)).count();
        assert_eq!((said("event=started"), said("event=stopped"), said("event=completed")), (1000, 1000, 0));
        assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    }

    #[test]
    fn an_announce_that_is_given_up_leaves_no_half_reply_behind() {
        let silent =
            TestTracker::start("127.0.0.1:0", |n, _| if n == 2 { Sent(Vec::new(), false) } else { good() });
        smol::block_on(async {
            use smol::future::FutureExt;
            let mut burst = announcer().burst();
            burst.announce(&request(&silent.url(), 1), &params()).await.unwrap();
            let given_up = async {
                smol::Timer::after(Duration::from_millis(100)).await;
                Err(Failure::Transport("given up".into()))
            };
            burst.announce(&request(&silent.url(), 2), &params()).or(given_up).await.unwrap_err();
            burst.announce(&request(&silent.url(), 3), &params()).await.unwrap();
        });
        assert_eq!(silent.connections(), 2);
    }

    #[test]
    fn the_table_of_rests_is_bounded() {
        let announcer = announcer();
        for n in 0..1000 {
            announcer.unreached(&n.to_string(), Family::V6);
        }
        assert!(announcer.rests.borrow().len() <= MAX_RESTS);
    }

    #[test]
    #[ignore = "a figure: run it in a release build"]
    fn a_thousand_announces_cost_little() {
        let tracker = TestTracker::start("127.0.0.1:0", |_, _| good());
        let url = tracker.url();
        let requests: Vec<Request> = (0..10_000).map(|key| request(&url, key)).collect();
        let usage = || nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_THREAD).unwrap();
        let before = usage();
        smol::block_on(async {
            let mut burst = announcer().burst();
            for request in &requests {
                burst.announce(request, &params()).await.unwrap();
            }
        });
        let after = usage();
        let cpu = |usage: nix::sys::resource::Usage| {
            let (user, system) = (usage.user_time(), usage.system_time());
            (user.tv_sec() + system.tv_sec()) * 1_000_000 + user.tv_usec() + system.tv_usec()
        };
        let switches = after.voluntary_context_switches() - before.voluntary_context_switches();
        eprintln!(
            "{} µs CPU an announce, {} switches in 10000",
            (cpu(after) - cpu(before)) / 10_000,
            switches
        );
    }
}

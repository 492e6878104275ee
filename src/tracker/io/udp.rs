//! One question to a tracker over UDP: with a connection id, which is asked for first, and again for as long as no answer
//! comes.
//!
//! Read first: BEP 15. Connection ids are good for all torrents of a host, for a minute and at most 64 addresses. A
//! tracker that does not even give one is given up sooner than one that did.
#![expect(clippy::disallowed_methods, reason = "I/O shell")]

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use sha1::{Digest, Sha1};
use smol::future::FutureExt;

use super::{from_loopback, other_question};
use crate::net::io::udp::Udp;
use crate::net::{Family, Host};
use crate::random::Random;
use crate::sorted::SortedMap;
use crate::tracker::Failure;
use crate::tracker::udp::{Answer, decode_answer, encode_connect};

/// The first answer is waited for so long, each further one twice as long as the one before.
const FIRST_WAIT: Duration = Duration::from_secs(15);

/// How often a connection id is asked for, and how often all else.
const CONNECT_TRIES: u32 = 2;
const TRIES: u32 = 3;

/// How long a connection id is good.
const FRESH: Duration = Duration::from_secs(60);

/// Addresses whose connection ids are kept.
const MAX_CONNECTIONS: usize = 64;

/// What all exchanges share.
pub(super) struct Exchange {
    pub udp: Rc<Udp>,
    connections: RefCell<SortedMap<SocketAddr, (u64, Instant)>>,
    /// Makes numbers of transactions that nobody can guess who does not see them.
    secret: u64,
    transactions: Cell<u64>,
}

impl Exchange {
    /// Nobody is known yet.
    pub fn new(udp: Rc<Udp>, secret: u64) -> Exchange {
        Exchange { udp, connections: RefCell::default(), secret, transactions: Cell::new(0) }
    }

    /// Our address may be another: the ids are good for those to whom they were given.
    pub fn forget_connections(&self) {
        self.connections.borrow_mut().clear();
    }

    /// Asks the host with these addresses of one family. `encode` writes the question, given a connection id and the number
    /// of the transaction. `patience` is how long one answer is waited for at most.
    pub async fn ask(
        &self,
        addresses: &[SocketAddr],
        patience: Duration,
        random: &RefCell<Random>,
        encode: &dyn Fn(u64, u32, &mut Vec<u8>),
    ) -> Result<Answer, Failure> {
        let mut renewed = false;
        let mut tries = 0;
        loop {
            let known = addresses.iter().find_map(|to| Some((*to, self.connection(*to)?)));
            let (to, connection) = match known {
                Some(known) => known,
                None => self.connect(addresses, patience, random).await?,
            };
            let asked = |transaction, out: &mut Vec<u8>| encode(connection, transaction, out);
            let answer = self.exchange(to, wait(tries, patience), random, &asked).await;
            match answer {
                // It may have started anew, and then some say nothing to ids that they did not give.
                Err(Failure::Transport(_)) if tries + 1 < TRIES => tries += 1,
                // Others say what is wrong with it, in words of their own.
                Err(Failure::Refused(reason, _))
                    if known.is_some()
                        && !renewed
                        && reason
                            .as_bytes()
                            .windows(10)
                            .any(|word| word.eq_ignore_ascii_case(b"connection")) =>
                {
                    renewed = true;
                }
                answer => return answer,
            }
            self.connections.borrow_mut().remove(&to);
        }
    }

    /// Asks for a connection id, each time at the next address.
    async fn connect(
        &self,
        addresses: &[SocketAddr],
        patience: Duration,
        random: &RefCell<Random>,
    ) -> Result<(SocketAddr, u64), Failure> {
        let mut result = Err(Failure::Transport("the host has no address that we ask".into()));
        for (tries, to) in (0..CONNECT_TRIES).zip(addresses.iter().cycle()) {
            match self.exchange(*to, wait(tries, patience), random, &encode_connect).await {
                Ok(Answer::Connected(connection)) => {
                    self.keep(*to, connection);
                    return Ok((*to, connection));
                }
                Err(Failure::Transport(text)) => result = Err(Failure::Transport(text)),
                Err(failure) => return Err(failure),
                Ok(_) => return Err(other_question()),
            }
        }
        result
    }

    /// Asks once.
    async fn exchange(
        &self,
        to: SocketAddr,
        wait: Duration,
        random: &RefCell<Random>,
        encode: &dyn Fn(u32, &mut Vec<u8>),
    ) -> Result<Answer, Failure> {
        let transaction = self.transaction();
        let answer = self.udp.answer(to, transaction);
        let mut datagram = Vec::new();
        encode(transaction, &mut datagram);
        self.udp.send(&datagram, to).map_err(|error| Failure::Transport(error.to_string()))?;
        let silence = async {
            smol::Timer::after(wait).await;
            None
        };
        match async { Some(answer.await) }.or(silence).await {
            Some(datagram) => {
                let family = Family::of(to.host());
                decode_answer(&datagram, family, from_loopback(to.host()), &mut random.borrow_mut())
            }
            None => Err(Failure::Transport("the tracker does not answer".into())),
        }
    }

    pub fn transaction(&self) -> u32 {
        self.transactions.set(self.transactions.get() + 1);
        let numbers = [self.secret, self.transactions.get()].map(u64::to_be_bytes);
        let [a, b, c, d, ..]: [u8; 20] = Sha1::digest(numbers.as_flattened()).into();
        u32::from_be_bytes([a, b, c, d])
    }

    fn connection(&self, to: SocketAddr) -> Option<u64> {
        let connections = self.connections.borrow();
        let (connection, since) = connections.get(&to)?;
        (since.elapsed() < FRESH).then_some(*connection)
    }

    fn keep(&self, to: SocketAddr, connection: u64) {
        let mut connections = self.connections.borrow_mut();
        if connections.len() >= MAX_CONNECTIONS {
            connections.retain(|_, (_, since)| since.elapsed() < FRESH);
        }
        if connections.len() >= MAX_CONNECTIONS {
            connections.pop_first();
        }
        connections.insert(to, (connection, Instant::now()));
    }
}

/// How long an answer is waited for.
fn wait(tries: u32, patience: Duration) -> Duration {
    FIRST_WAIT.saturating_mul(1 << tries).min(patience)
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use smol::net::UdpSocket;

    use super::super::tests::{params, request};
    use super::super::{Announcer, Params, Request};
    use super::*;
    use crate::metainfo::InfoHash;
    use crate::net::io::Resolver;
    use crate::tracker::client::Client;
    use crate::tracker::udp::{Question, decode_question, encode_answer, encode_refusal};
    use crate::tracker::{Counts, Event, Reply, Retry};

    /// What is done with a question: the first is number 0.
    enum Does {
        Answers(Answer),
        Refuses(&'static str),
        Ignores,
    }

    use Does::{Answers, Ignores, Refuses};

    type Behaviour = dyn Fn(usize, &Question) -> Does + Send + Sync;

    /// A real socket that answers as the test says.
    struct TestTracker {
        address: SocketAddr,
        heard: Arc<Mutex<Vec<Question>>>,
        _task: smol::Task<()>,
    }

    impl TestTracker {
        fn start(
            address: &str,
            behave: impl Fn(usize, &Question) -> Does + Send + Sync + 'static,
        ) -> TestTracker {
            let socket = smol::block_on(UdpSocket::bind(address)).unwrap();
            let address = socket.local_addr().unwrap();
            let heard = Arc::new(Mutex::new(Vec::new()));
            let task = smol::spawn(serve(socket, heard.clone(), Box::new(behave)));
            TestTracker { address, heard, _task: task }
        }

        fn url(&self) -> String {
            format!("udp://{}/announce", self.address)
        }

        /// What was asked so far: a letter each.
        fn asked(&self) -> String {
            let heard = self.heard.lock().unwrap();
            let letter = |question: &Question| match question {
                Question::Connect => 'c',
                Question::Announce(..) => 'a',
                Question::Scrape(..) => 's',
            };
            heard.iter().map(letter).collect()
        }

        fn said(&self, event: Event) -> usize {
            let heard = self.heard.lock().unwrap();
            let told = |question: &&Question| matches!(question, Question::Announce(_, announce, _) if announce.event == event);
            heard.iter().filter(told).count()
        }
    }

    async fn serve(socket: UdpSocket, heard: Arc<Mutex<Vec<Question>>>, behave: Box<Behaviour>) {
        let mut buffer = [0; 2048];
        while let Ok((len, from)) = socket.recv_from(&mut buffer).await {
            let Some((transaction, question)) = decode_question(&buffer[..len]) else { continue };
            let n = heard.lock().unwrap().len();
            let mut out = Vec::new();
            match behave(n, &question) {
                Answers(answer) => encode_answer(transaction, &answer, Family::of(from.ip()), &mut out),
                Refuses(reason) => encode_refusal(transaction, reason, &mut out),
                Ignores => {}
            }
            heard.lock().unwrap().push(question);
            if !out.is_empty() {
                // What is nobody's answer comes before.
                let mut wrong = out.clone();
                wrong[7] ^= 1;
                let stranger = UdpSocket::bind((socket.local_addr().unwrap().ip(), 0)).await.unwrap();
                for (socket, datagram) in [
                    (&socket, &wrong),
                    (&stranger, &out),
                    (&socket, &vec![0, 0, 0, 3]),
                    (&socket, &out),
                    (&socket, &out),
                ] {
                    socket.send_to(datagram, from).await.unwrap();
                }
            }
        }
    }

    const ID: u64 = 0xfedc_ba98_7654_3210;

    /// As a tracker should.
    fn good(question: &Question) -> Does {
        match question {
            Question::Connect => Answers(Answer::Connected(ID)),
            Question::Announce(ID, ..) => {
                let peers =
                    ["127.0.0.1:5", "10.0.0.1:6", "[2001:db8::7]:7"].map(|peer| peer.parse().unwrap());
                let (complete, incomplete) = (Some(3), Some(4));
                let reply =
                    Reply { interval: 600, complete, incomplete, peers: peers.to_vec(), ..Reply::default() };
                Answers(Answer::Announced(reply))
            }
            Question::Announce(..) => Refuses("Connection ID mismatch."),
            Question::Scrape(ID, torrents) => {
                let counts = Counts { seeds: Some(7), leechers: Some(8), downloads: Some(9) };
                Answers(Answer::Scraped(vec![counts; torrents.len()]))
            }
            Question::Scrape(..) => Refuses("Connection ID mismatch."),
        }
    }

    struct Us {
        udp: Rc<Udp>,
        resolver: Rc<Resolver>,
        announcer: Rc<Announcer>,
    }

    impl Us {
        fn new() -> Us {
            let (udp, resolver) = (Rc::new(Udp::new()), Rc::new(Resolver::new()));
            udp.open(&["[::]:0".parse().unwrap()]);
            let announcer = Announcer::new(resolver.clone(), udp.clone(), 1);
            Us { udp, resolver, announcer }
        }

        fn announce(&self, request: &Request, params: &Params) -> Result<Reply, Failure> {
            smol::block_on(self.udp.reading(self.announcer.burst().announce(request, params)))
        }
    }

    /// Those who do not answer are not waited for.
    fn hasty() -> Params {
        Params { patience: Duration::from_millis(700), ..params() }
    }

    #[test]
    fn a_thousand_torrents_start_and_stop_with_one_connection_id() {
        let tracker = TestTracker::start("127.0.0.1:0", |_, question| good(question));
        let us = Us::new();
        let begun = Instant::now();
        let mut client = Client::new(1, begun);
        for key in 0..1000_u32 {
            let mut hash = [0; 20];
            hash[..4].copy_from_slice(&key.to_be_bytes());
            client.insert(key, InfoHash::from_bytes(hash), &[vec![tracker.url()]], &[], true, begun);
        }
        let serve = |client: &mut Client| {
            let mut next = client.poll(Instant::now());
            while let Some(asked) = next {
                let result = us.announce(&asked, &params());
                client.handle(&asked, result.as_ref(), Instant::now());
                next = client.poll_host(asked.host, Instant::now());
            }
        };
        serve(&mut client);
        client.shutdown(Instant::now());
        serve(&mut client);
        assert!(client.is_idle());
        assert_eq!(tracker.asked(), format!("c{}", "a".repeat(2000)));
        assert_eq!((tracker.said(Event::Started), tracker.said(Event::Stopped)), (1000, 1000));
    }

    #[test]
    fn a_tracker_hears_what_it_should_and_we_what_it_says() {
        let tracker = TestTracker::start("127.0.0.1:0", |_, question| good(question));
        let us = Us::new();
        let url = format!("udp://{}/key/announce?a=b", tracker.address);
        let reply = us.announce(&request(&url, 1), &params()).unwrap();
        assert_eq!((reply.interval, reply.complete, reply.incomplete), (600, Some(3), Some(4)));
        assert_eq!(reply.peers, ["127.0.0.1:5", "10.0.0.1:6"].map(|peer| peer.parse().unwrap()));
        let heard = tracker.heard.lock().unwrap();
        let Question::Announce(ID, told, target) = &heard[1] else { panic!("{heard:?}") };
        assert_eq!((told.port, told.uploaded, told.downloaded, told.left), (6881, 1, 2, 3));
        assert_eq!((told.event, told.numwant, told.key), (Event::Started, 50, 5));
        assert_eq!((told.peer_id, &**target), (params().peer_id, &b"/key/announce?a=b"[..]));
    }

    #[test]
    fn counts_are_asked_for_with_the_connection_id_of_the_announce() {
        let tracker = TestTracker::start("127.0.0.1:0", |_, question| good(question));
        let us = Us::new();
        let mut client = Client::new(1, Instant::now());
        for key in 0..3 {
            let info_hash = InfoHash::from_bytes([key; 20]);
            client.insert(key.into(), info_hash, &[vec![tracker.url()]], &[], true, Instant::now());
        }
        let mut burst = us.announcer.burst();
        smol::block_on(us.udp.reading(async {
            let first = client.poll(Instant::now()).unwrap();
            let mut next = Some(first.clone());
            while let Some(asked) = next {
                let result = burst.announce(&asked, &params()).await;
                client.handle(&asked, result.as_ref(), Instant::now());
                next = client.poll_host(asked.host, Instant::now());
            }
            // An announce does not tell how often a torrent was downloaded.
            let scrape = client.poll_scrape(first.host).unwrap();
            let counts = burst.scrape(&scrape, params().patience).await;
            client.scraped(&scrape, counts.as_deref(), Instant::now());
        }));
        assert_eq!(tracker.asked(), "caaas");
        let said = client.status(2, Instant::now())[0].counts;
        assert_eq!((said.seeds, said.leechers, said.downloads), (Some(7), Some(8), Some(9)));
    }

    #[test]
    fn what_is_lost_is_sent_again_and_then_with_a_new_connection_id() {
        let cases: [(&[usize], &str, bool); 6] = [
            (&[0], "cca", true),
            (&[1], "caca", true),
            (&[1, 3], "cacaca", true),
            (&[0, 2, 3, 5], "ccaccaca", true),
            (&[0, 1], "cc", false),
            (&[1, 3, 5], "cacaca", false),
        ];
        // They wait, so all at once.
        std::thread::scope(|scope| {
            for (lost, asked, heard) in cases {
                scope.spawn(move || {
                    let tracker = TestTracker::start("127.0.0.1:0", move |n, question| {
                        if lost.contains(&n) { Ignores } else { good(question) }
                    });
                    let answer = Us::new().announce(&request(&tracker.url(), 1), &hasty());
                    assert_eq!(tracker.asked(), asked, "{lost:?}");
                    let silence = matches!(answer, Err(Failure::Transport(_)));
                    assert!(if heard { answer.is_ok() } else { silence }, "{answer:?}");
                });
            }
        });
    }

    #[test]
    fn an_answer_is_waited_for_ever_longer_up_to_a_bound() {
        let waits = |patience| [0, 1, 2].map(|tries| wait(tries, Duration::from_secs(patience)).as_secs());
        assert_eq!(waits(super::super::PATIENCE.as_secs()), [15, 30, 30]);
        assert_eq!((waits(1000), waits(2)), ([15, 30, 60], [2, 2, 2]));
    }

    #[test]
    fn a_tracker_that_started_anew_is_asked_for_another_connection_id() {
        let tracker = TestTracker::start("127.0.0.1:0", |n, question| match question {
            Question::Announce(..) if n == 2 => Refuses("Connection ID missmatch."),
            question => good(question),
        });
        let us = Us::new();
        for key in 0..3 {
            us.announce(&request(&tracker.url(), key), &params()).unwrap();
        }
        assert_eq!(tracker.asked(), "caacaa");
        // One that says so whatever it is asked is not asked for ever.
        let stubborn = TestTracker::start("127.0.0.1:0", |_, question| match question {
            Question::Announce(..) => Refuses("bad connection ID"),
            question => good(question),
        });
        for _ in 0..2 {
            let refused = Err(Failure::Refused("bad connection ID".into(), Retry::Unsaid));
            assert_eq!(us.announce(&request(&stubborn.url(), 1), &params()), refused);
        }
        assert_eq!(stubborn.asked(), "caaca");
        // What it says of the torrent is no reason to connect again.
        let picky = TestTracker::start("127.0.0.1:0", |_, question| match question {
            Question::Announce(..) => Refuses("not registered"),
            question => good(question),
        });
        for key in 0..3 {
            us.announce(&request(&picky.url(), key), &params()).unwrap_err();
        }
        assert_eq!(picky.asked(), "caaa");
    }

    #[test]
    fn connection_ids_grow_old_and_are_bounded() {
        let tracker = TestTracker::start("127.0.0.1:0", |_, question| good(question));
        let us = Us::new();
        us.announce(&request(&tracker.url(), 1), &params()).unwrap();
        let exchange = &us.announcer.exchange;
        let old = Instant::now().checked_sub(FRESH).unwrap();
        exchange.connections.borrow_mut().values_mut().for_each(|(_, since)| *since = old);
        us.announce(&request(&tracker.url(), 2), &params()).unwrap();
        assert_eq!(tracker.asked(), "caca");
        for port in 0..1000 {
            exchange.keep(SocketAddr::new("10.0.0.1".parse().unwrap(), port), 1);
        }
        assert!(exchange.connections.borrow().len() <= MAX_CONNECTIONS);
        exchange.forget_connections();
        assert!(exchange.connections.borrow().is_empty());
    }

    #[test]
    fn both_families_are_told_and_one_that_leads_nowhere_is_remembered() {
        let v4 = TestTracker::start("127.0.0.1:0", |_, question| good(question));
        let v6 = TestTracker::start(&format!("[::1]:{}", v4.address.port()), |n, question| {
            if n < 2 { good(question) } else { Ignores }
        });
        let us = Us::new();
        us.resolver.teach("two.example", &["::1".parse().unwrap(), "127.0.0.1".parse().unwrap()]);
        let url = format!("udp://two.example:{}/announce", v4.address.port());
        let reply = us.announce(&request(&url, 1), &params()).unwrap();
        assert_eq!(reply.peers.len(), 3, "those of both");
        let v6_asked = |key| {
            us.announce(&request(&url, key), &hasty()).unwrap();
            v6.asked()
        };
        assert_eq!(v6_asked(2), "caacc");
        assert_eq!(v6_asked(3), "caacc", "it rests");
        assert_eq!(v4.asked(), "caaa");
        let other = Params { v6: false, ..params() };
        us.announce(&request(&url, 4), &other).unwrap();
        us.udp.open(&[]);
        assert!(matches!(us.announce(&request(&url, 4), &params()), Err(Failure::Transport(_))), "no socket");
    }

    #[test]
    fn what_is_no_tracker_is_told_apart() {
        let us = Us::new();
        let tracker = TestTracker::start("127.0.0.1:0", |_, question| good(question));
        let page = format!("udp://{}/admin", tracker.address);
        assert!(matches!(us.announce(&request(&page, 1), &params()), Err(Failure::Url(_))));
        let answer = us.announce(&request("udp://no-such-name.invalid:1/announce", 1), &params());
        assert!(matches!(answer, Err(Failure::Resolve(_))));
        assert_eq!(tracker.asked(), "");
        let confused = TestTracker::start("127.0.0.1:0", |_, _| Answers(Answer::Scraped(Vec::new())));
        let answer = us.announce(&request(&confused.url(), 1), &params());
        assert!(matches!(answer, Err(Failure::Reply(_))), "{answer:?}");
    }
}

//! The node against single datagrams: who is answered, with what, and what nobody can make it do.

use super::krpc::{Message, Query, Reply, Want};
use super::*;

#[expect(clippy::disallowed_methods, reason = "the only way to make an instant")]
fn some_instant() -> Instant {
    Instant::now()
}

/// A node, and the bucket of addresses that it may send to.
struct Bench {
    node: Node,
    endpoints: Bucket,
    now: Instant,
}

impl Bench {
    fn new(options: Options) -> Bench {
        let now = some_instant();
        let mut node = Node::new(options, [0; 20], 7, now);
        node.set_families(true, true, now);
        Bench { node, endpoints: Bucket::new(5, 10, now), now }
    }

    fn run(&mut self, seconds: u64) {
        self.now += Duration::from_secs(seconds);
    }

    /// All that it does now.
    fn outputs(&mut self) -> Vec<Output> {
        std::iter::from_fn(|| self.node.poll(&mut self.endpoints, self.now)).collect()
    }

    fn sends(&mut self) -> Vec<(SocketAddr, Vec<u8>)> {
        let sends = self.outputs().into_iter().filter_map(|output| match output {
            Output::Send { to, datagram } => Some((to, datagram)),
            Output::Peers { .. } => None,
        });
        sends.collect()
    }

    fn hear(&mut self, from: &str, body: Body, transaction: &[u8]) {
        let datagram = krpc::encode(&Message { transaction, read_only: true, ip: None, body });
        self.node.handle(&datagram, addr(from), self.now);
    }

    /// What it answers to a query of a node that is not to be kept.
    fn ask(&mut self, from: &str, query: Query) -> Option<Vec<u8>> {
        self.hear(from, Body::Query(Id([9; 20]), query), b"tt");
        let answer = self.sends().into_iter().find(|(to, _)| *to == addr(from));
        answer.map(|(_, datagram)| datagram)
    }

    fn token(&mut self, from: &str) -> Vec<u8> {
        let answer = self.ask(from, Query::GetPeers(hash(1), Want::default())).unwrap();
        reply(&answer).token.unwrap().to_vec()
    }

    /// A node answers the ping that a contact gets.
    fn knows(&mut self, id: Id, at: &str) {
        self.node.contact(addr(at), self.now);
        let sends = self.sends();
        let (_, ping) = sends.iter().find(|(to, _)| *to == addr(at)).unwrap();
        let transaction = krpc::decode(ping).unwrap().transaction.to_vec();
        self.hear(at, Body::Reply(Reply::new(id)), &transaction);
    }
}

fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn hash(n: u8) -> InfoHash {
    InfoHash::from_bytes([n; 20])
}

fn id(n: u8) -> Id {
    let mut id = Id([n; 20]);
    id.0[0] = n.reverse_bits();
    id
}

fn reply(datagram: &[u8]) -> Reply<'_> {
    match krpc::decode(datagram).unwrap().body {
        Body::Reply(reply) => reply,
        other => panic!("{other:?}"),
    }
}

fn announce(token: &[u8], port: Option<u16>) -> Query<'_> {
    Query::Announce { info_hash: hash(1), port, token }
}

#[test]
fn an_announce_counts_only_with_the_token_of_its_address_and_not_for_long() {
    let mut bench = Bench::new(Options::default());
    let token = bench.token("10.0.0.1:1");
    let refused = |answer: Option<Vec<u8>>| {
        krpc::decode(&answer.unwrap()).unwrap().body == Body::Error(krpc::PROTOCOL_ERROR)
    };
    assert!(refused(bench.ask("10.0.0.2:1", announce(&token, Some(5)))));
    assert!(refused(bench.ask("10.0.0.1:1", announce(b"", Some(5)))));
    assert!(refused(bench.ask("10.0.0.1:1", announce(&token, Some(0)))));
    assert_eq!(bench.node.counts().stored, 0);
    bench.run(299);
    assert!(!refused(bench.ask("10.0.0.1:1", announce(&token, Some(5)))));
    assert!(!refused(bench.ask("10.0.0.1:77", announce(&token, None))), "another port of the same");
    bench.run(301);
    assert!(refused(bench.ask("10.0.0.1:1", announce(&token, Some(6)))));
    let answer = bench.ask("10.0.0.3:1", Query::GetPeers(hash(1), Want::default())).unwrap();
    let mut values = reply(&answer).values;
    values.sort();
    assert_eq!(values, [addr("10.0.0.1:5"), addr("10.0.0.1:77")]);
}

#[test]
fn who_announces_what_we_serve_is_a_peer_at_once() {
    let mut bench = Bench::new(Options::default());
    bench.node.insert(hash(1), 6881, true, bench.now);
    let token = bench.token("[fd00::1]:1");
    bench.hear("[fd00::1]:1", Body::Query(id(9), announce(&token, Some(5))), b"x");
    let peers = vec![addr("[fd00::1]:5")];
    assert!(bench.outputs().contains(&Output::Peers { info_hash: hash(1), peers }));
}

#[test]
fn an_answer_that_was_not_asked_for_changes_nothing() {
    let mut bench = Bench::new(Options::default());
    bench.node.contact(addr("10.0.0.1:1"), bench.now);
    let sends = bench.sends();
    let transaction = krpc::decode(&sends[0].1).unwrap().transaction.to_vec();
    bench.hear("10.0.0.2:1", Body::Reply(Reply::new(id(1))), &transaction);
    bench.hear("10.0.0.1:1", Body::Reply(Reply::new(id(1))), b"none");
    assert_eq!(bench.node.counts().known, 0);
    bench.hear("10.0.0.1:1", Body::Reply(Reply::new(id(1))), &transaction);
    assert_eq!(bench.node.counts().known, 1);
    bench.hear("10.0.0.1:1", Body::Reply(Reply::new(id(2))), &transaction);
    assert_eq!(bench.node.saved().nodes, [addr("10.0.0.1:1")]);
}

#[test]
fn we_do_not_meet_ourselves() {
    let mut bench = Bench::new(Options::default());
    bench.knows(Id([0; 20]), "10.0.0.1:1");
    assert_eq!(bench.node.counts().known, 0);
    bench.hear("10.0.0.1:1", Body::Query(Id([0; 20]), Query::Ping), b"x");
    assert_eq!(bench.sends(), []);
}

#[test]
fn a_spoofed_address_is_sent_little() {
    let mut bench = Bench::new(Options::default());
    for n in 0..8 {
        for m in 1..=30 {
            bench.knows(Id([n * 32 + m; 20]), &format!("10.{n}.0.{m}:1"));
            bench.knows(Id([n * 32 + m; 20]), &format!("[fd00::{n}:{m}]:1"));
            bench.run(1);
        }
    }
    for n in 0..200_u32 {
        for port in 1..=3 {
            let [.., high, low] = n.to_be_bytes();
            let from = SocketAddr::from(([10, 200, high, low], port));
            let seconds = bench.node.seconds(bench.now);
            bench.node.store.insert(hash(1), from, seconds, &mut bench.node.random);
        }
    }
    let want = Want { v4: true, v6: true };
    let query = Query::GetPeers(hash(1), want);
    let asked = krpc::encode(&Message {
        transaction: b"tt",
        read_only: true,
        ip: None,
        body: Body::Query(id(9), query.clone()),
    });
    let longest = bench.ask("10.0.0.77:1", query.clone()).unwrap().len();
    println!("{longest} bytes are answered to {}", asked.len());
    assert!(longest <= 900 && longest <= 8 * asked.len());
    // A victim that seems to ask a hundred times a second.
    let mut bytes = 0;
    for _ in 0..30 {
        for _ in 0..100 {
            bytes += bench.ask("10.0.0.78:1", query.clone()).map_or(0, |answer| answer.len());
        }
        bench.run(1);
    }
    println!("{} bytes a second to one victim", bytes / 30);
    assert!(bytes / 30 <= 5 * 900, "{bytes}");
    // And thousands of them.
    let mut bytes = 0;
    for second in 0..30_u8 {
        for n in 0..=255 {
            let answer = bench.ask(&format!("10.77.{second}.{n}:1"), query.clone());
            bytes += answer.map_or(0, |answer| answer.len());
        }
        bench.run(1);
    }
    println!("{} bytes a second in all", bytes / 30);
    assert!(bytes / 30 <= 11 * 1024, "{bytes}");
}

#[test]
fn nodes_that_only_ask_are_pinged_within_the_budget_and_not_passed_on() {
    let mut bench = Bench::new(Options::default());
    let mut pinged = 0;
    for second in 0..100_u8 {
        for n in 0..100 {
            let from = addr(&format!("10.{second}.0.{n}:1"));
            let body = Body::Query(Id([n ^ second; 20]), Query::Ping);
            let datagram = krpc::encode(&Message { transaction: b"x", read_only: false, ip: None, body });
            bench.node.handle(&datagram, from, bench.now);
            let sends = bench.sends();
            let pings = sends.iter().filter(|(_, datagram)| {
                matches!(krpc::decode(datagram).unwrap().body, Body::Query(_, Query::Ping))
            });
            pinged += pings.count();
        }
        bench.run(1);
    }
    assert!((100..=520).contains(&pinged), "{pinged} pings in 100 seconds");
    assert_eq!(bench.node.counts().known, 0);
    let answer = bench.ask("10.0.0.77:1", Query::FindNode(id(1), Want::default())).unwrap();
    assert_eq!(reply(&answer).nodes, []);
    assert!(bench.node.memory() < 32 * 1024);
}

#[test]
fn nodes_of_a_link_are_named_on_that_link_alone() {
    let mut bench = Bench::new(Options::default());
    bench.knows(id(1), "[fe80::1%3]:1");
    bench.knows(id(2), "[fd00::2]:1");
    bench.knows(id(3), "127.0.0.1:1");
    let named = |bench: &mut Bench, from: &str| {
        let want = Want { v4: true, v6: true };
        let answer = bench.ask(from, Query::FindNode(id(1), want)).unwrap();
        reply(&answer).nodes.iter().map(|(_, addr)| addr.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(named(&mut bench, "[fe80::9%3]:1").len(), 2);
    assert_eq!(named(&mut bench, "[fe80::9%4]:1"), ["[fd00::2]:1"]);
    assert_eq!(named(&mut bench, "10.0.0.1:1"), ["[fd00::2]:1"]);
    assert_eq!(named(&mut bench, "127.0.0.1:7").len(), 2);
    let saved = bench.node.saved().nodes;
    assert!(saved.contains(&addr("[fd00::2]:1")) && !saved.contains(&addr("[fe80::1%3]:1")));
}

#[test]
fn an_id_is_made_for_the_address_that_nodes_agree_on_unless_it_is_of_a_mesh() {
    let mut bench = Bench::new(Options::default());
    let told = |bench: &mut Bench, n: u8, ip: &str| {
        let from = format!("10.0.0.{n}:1");
        bench.node.contact(addr(&from), bench.now);
        let sends = bench.sends();
        let (_, ping) = sends.iter().find(|(to, _)| *to == addr(&from)).unwrap();
        let transaction = krpc::decode(ping).unwrap().transaction;
        let body = Body::Reply(Reply::new(id(n)));
        let message = Message { transaction, read_only: false, ip: Some(addr(ip)), body };
        bench.node.handle(&krpc::encode(&message), addr(&from), bench.now);
        bench.run(30);
    };
    for n in 1..=6 {
        told(&mut bench, n, "10.3.3.3:1");
    }
    assert_eq!(bench.node.saved().id, [0; 20]);
    for n in 7..=13 {
        told(&mut bench, n, "80.1.2.3:1");
    }
    let id = Id(bench.node.saved().id);
    assert!(id != Id([0; 20]) && id.suits(addr("80.1.2.3:1").ip()));
    for n in 14..=30 {
        told(&mut bench, n, "80.1.2.4:1");
    }
    assert_eq!(bench.node.saved().id, id.0, "not more than once an hour");
}

#[test]
fn without_nodes_it_asks_for_some_and_with_a_family_that_is_down_it_is_still() {
    let mut bench = Bench::new(Options::default());
    assert!(bench.node.needs_contacts(bench.now));
    assert_eq!((bench.outputs(), bench.node.deadline()), (vec![], None));
    bench.node.contact(addr("10.0.0.1:1"), bench.now);
    assert!(!bench.node.needs_contacts(bench.now), "one is left to be tried");
    for _ in 0..3 {
        bench.outputs();
        bench.run(6);
    }
    bench.outputs();
    assert!(bench.node.needs_contacts(bench.now), "it was tried twice");
    bench.node.set_families(false, false, bench.now);
    bench.node.contact(addr("10.0.0.2:1"), bench.now);
    assert!(!bench.node.needs_contacts(bench.now));
    assert_eq!((bench.outputs(), bench.node.deadline()), (vec![], None));
    bench.hear("10.0.0.3:1", Body::Query(id(3), Query::Ping), b"x");
    assert_eq!(bench.sends(), []);
}

#[test]
fn full_tables_a_full_store_and_a_thousand_torrents_fit() {
    let mut bench = Bench::new(Options::default());
    let mut random = Random::new(1);
    for n in 0..1000 {
        bench.node.insert(InfoHash::from_bytes(Id::by_chance(&mut random).0), 6881, n % 2 == 0, bench.now);
    }
    for n in 0..6000_u32 {
        let torrent = InfoHash::from_bytes(Id::by_chance(&mut random).0);
        let peer = SocketAddr::from(((0x0a00_0000 + n).to_be_bytes(), 1));
        bench.node.store.insert(torrent, peer, 1, &mut random);
        // As near as nodes of a large DHT are.
        let mut id = Id::by_chance(&mut random);
        let bits = usize::try_from(n % 25).unwrap();
        id.0[..bits / 8].fill(0);
        id.0[bits / 8] >>= bits % 8;
        let v6 = SocketAddr::new(std::net::Ipv6Addr::from_bits((0xfd << 120) + u128::from(n)).into(), 1);
        for at in [peer, v6] {
            bench.node.side_mut(at).table.answered(id, at, 1);
        }
    }
    bench.outputs();
    let counts = bench.node.counts();
    println!("{counts:?}: {} bytes", bench.node.memory());
    assert!(counts.known >= 2 * 160 && counts.stored == 4096);
    assert!(bench.node.memory() + size_of::<Node>() <= 300 * 1024);
    assert_eq!((size_of::<Torrent>(), size_of::<table::Contact>()), (28, 64));
}

/// What a node of the outside does with what it is asked.
type Peer<'a> = &'a mut dyn FnMut(SocketAddr, &Message) -> Option<Reply<'static>>;

impl Bench {
    /// Lets time pass as a shell does; every datagram is answered at once, or never. How many there were.
    fn live(&mut self, seconds: u64, answer: Peer) -> u32 {
        let (end, mut count) = (self.now + Duration::from_secs(seconds), 0);
        loop {
            for (to, datagram) in self.sends() {
                count += 1;
                let message = krpc::decode(&datagram).unwrap();
                if let Some(reply) = answer(to, &message) {
                    self.hear(&to.to_string(), Body::Reply(reply), message.transaction);
                }
            }
            match self.node.deadline() {
                Some(next) if next < end => self.now = next.max(self.now),
                _ => break,
            }
        }
        self.now = end;
        count
    }

    /// So many nodes of the mesh are known, and answer for a while.
    fn meets(&mut self, count: u8) {
        for n in 1..=count {
            self.node.contact(SocketAddr::from(([10, 0, 0, n], 1)), self.now);
            self.live(2, &mut |to, _| Some(Reply::new(id(last(to)))));
        }
    }
}

/// The last of its address.
fn last(addr: SocketAddr) -> u8 {
    addr.ip().to_string().rsplit(['.', ':']).next().unwrap().parse().unwrap()
}

#[test]
fn who_finds_peers_over_one_family_does_not_look_each_minute_because_the_other_has_none() {
    let mut bench = Bench::new(Options::default());
    bench.knows(id(1), "10.0.0.1:1");
    bench.knows(id(2), "[fd00::2]:1");
    bench.node.insert(hash(1), 6881, true, bench.now);
    let mut searched = 0;
    bench.live(3600, &mut |to, message| {
        let looks = matches!(message.body, Body::Query(_, Query::GetPeers(..)));
        searched += u32::from(looks && to.is_ipv4());
        let values = if looks && to.is_ipv4() { vec![addr("10.0.0.7:7")] } else { Vec::new() };
        Some(Reply { values, ..Reply::new(id(if to.is_ipv4() { 1 } else { 2 })) })
    });
    assert!((4..=7).contains(&searched), "{searched} times an hour");
}

#[test]
fn a_node_that_calls_itself_by_another_name_each_time_is_no_news_each_time() {
    let mut bench = Bench::new(Options::default());
    bench.knows(id(1), "10.0.0.1:1");
    bench.knows(id(2), "10.0.0.2:1");
    bench.node.insert(hash(1), 6881, true, bench.now);
    let mut names = 2;
    let count = bench.live(3600, &mut |to, _| {
        let honest = to == addr("10.0.0.1:1");
        names = if honest { names } else { names % 200 + 3 };
        Some(Reply::new(id(if honest { 1 } else { names })))
    });
    println!("{count} datagrams an hour");
    assert!(count <= 300, "{count} datagrams an hour");
}

#[test]
fn one_host_that_names_many_ports_does_not_keep_others_from_being_tried() {
    let mut bench = Bench::new(Options::default());
    for port in 1..=500 {
        bench.node.contact(SocketAddr::from(([10, 0, 0, 1], port)), bench.now);
    }
    bench.node.contact(addr("10.0.0.2:1"), bench.now);
    let mut tried = None;
    let start = bench.now;
    while tried.is_none() && bench.now < start + Duration::from_secs(60) {
        let sends = bench.sends();
        tried = sends.iter().find(|(to, _)| *to == addr("10.0.0.2:1")).map(|_| bench.now - start);
        bench.run(1);
    }
    assert!(tried.is_some_and(|tried| tried <= Duration::from_secs(10)), "{tried:?}");
}

#[test]
fn nodes_that_peers_tell_of_all_the_time_do_not_keep_a_table_from_being_looked_after() {
    for count in [8, 40] {
        let mut bench = Bench::new(Options::default());
        bench.meets(count);
        let stays =
            |addr: SocketAddr| addr.ip().to_string().starts_with("10.0.0.") && last(addr).is_multiple_of(2);
        let good = |bench: &Bench| {
            let contacts = bench.node.sides[0].table.contacts().iter().filter(|contact| contact.is_good());
            contacts.map(|contact| stays(contact.addr)).collect::<Vec<_>>()
        };
        assert!(good(&bench).contains(&true) && good(&bench).contains(&false));
        // Each ten seconds a peer comes with a node that does not answer.
        for minute in 0..90 {
            for n in 0..6 {
                bench.node.contact(SocketAddr::from(([10, 1, minute, n], 1)), bench.now);
                bench.live(10, &mut |to, _| stays(to).then(|| Reply::new(id(last(to)))));
            }
        }
        assert!(good(&bench).len() >= 4 && !good(&bench).contains(&false), "{count}");
    }
}

#[test]
fn nodes_that_went_for_good_are_forgotten_though_little_is_asked() {
    let mut bench = Bench::new(Options::default());
    bench.meets(8);
    let known = bench.node.counts().known;
    let dead = |addr: SocketAddr| last(addr).is_multiple_of(2);
    bench.live(3 * 3600, &mut |to, _| (!dead(to)).then(|| Reply::new(id(last(to)))));
    let counts = bench.node.counts();
    assert!(counts.nodes >= 3 && counts.known == counts.nodes && known > counts.known, "{known} {counts:?}");
}

#[test]
fn who_asks_under_many_names_does_not_keep_a_small_mesh_from_searching() {
    let searched = |flood: bool| {
        let mut bench = Bench::new(Options::default());
        for n in 1..=6 {
            bench.knows(id(n), &format!("[fd00::{n}]:1"));
            bench.run(2);
        }
        for n in 0..100 {
            bench.node.insert(hash(n), 6881, true, bench.now);
        }
        let (mut searched, mut from) = (0, 0_u64);
        for _ in 0..600 {
            for _ in 0..if flood { 10 } else { 0 } {
                from += 1;
                let ip = std::net::Ipv6Addr::from_bits((0xfd01 << 112) + (u128::from(from) << 64) + 1);
                let body = Body::Query(id(200), Query::Ping);
                let datagram = krpc::encode(&Message { transaction: b"x", read_only: false, ip: None, body });
                bench.node.handle(&datagram, (ip, 1).into(), bench.now);
            }
            bench.live(1, &mut |to, message| {
                searched += u32::from(matches!(message.body, Body::Query(_, Query::GetPeers(..))));
                let n = to.ip().to_string().strip_prefix("fd00::").and_then(|n| n.parse().ok());
                n.map(id).map(Reply::new)
            });
        }
        searched
    };
    let (alone, flooded) = (searched(false), searched(true));
    println!("{alone} queries, {flooded} while others ask");
    assert!(flooded * 2 >= alone, "{alone} {flooded}");
}

#[test]
fn nodes_of_a_family_that_is_down_are_no_reason_not_to_look_for_others() {
    let mut bench = Bench::new(Options::default());
    bench.meets(10);
    assert!(!bench.node.needs_contacts(bench.now));
    bench.node.set_families(false, true, bench.now);
    assert!(bench.node.needs_contacts(bench.now));
}

#[test]
fn a_family_in_which_nobody_answers_costs_little_though_nodes_of_it_are_named() {
    let mut bench = Bench::new(Options::default());
    bench.meets(6);
    bench.node.insert(hash(1), 6881, true, bench.now);
    let (mut named, mut pinged) = (0, 0);
    bench.live(3600, &mut |to, message| {
        pinged += u32::from(to.is_ipv6());
        let mut one = || {
            named += 1;
            (Id::by_chance(&mut Random::new(named)), addr(&format!("[fd00::{named:x}]:1")))
        };
        let asks = !matches!(message.body, Body::Query(_, Query::Ping));
        let nodes = if asks { (0..8).map(|_| one()).collect() } else { Vec::new() };
        to.is_ipv4().then(|| Reply { nodes, ..Reply::new(id(last(to))) })
    });
    println!("{named} named, {pinged} pinged");
    assert!(named > 100 && pinged <= 6 * 60, "{named} {pinged}");
}

//! Web seeds (BEP 17, BEP 19): a torrent is fetched from web servers, good ones and bad ones, where peers do not give it.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::unwrap_used,
    reason = "real processes, files and sockets; a test may panic"
)]

mod common;

use std::net::IpAddr;
use std::ops::Range;
use std::time::{Duration, Instant};

use common::Need::Program;
use common::daemon::{Daemon, Home};
use common::nginx::Nginx;
use common::seed::Seed;
use common::torrent::Torrent;
use common::webserver::{Answer, WebServer};
use common::{Folder, PATIENCE, able, wait, wait_value};
use meshseed::http::Url;
use meshseed::http::io::{Ask, Client, Error, Opened, Progress};
use meshseed::net::io::Resolver;
use serde_json::{Value, json};

/// Fetched by a daemon of its own until it is whole, and right.
fn fetched(torrent: &Torrent) -> String {
    let home = home();
    torrent.drop_into(&home.torrents);
    let daemon = home.start();
    daemon.wait_seeding(torrent);
    torrent.assert_lies_in(&home.data);
    daemon.terminate();
    home.log()
}

/// A home without trackers, whose log tells what the web seeds did.
fn home() -> Home {
    let home = Home::new();
    home.set("log", "level", json!("debug"));
    home.set("", "layout", json!("name"));
    home
}

// Good servers.

#[test]
fn a_torrent_without_peers_and_trackers_is_fetched_in_few_long_requests() {
    let torrent = Torrent::single("image", 20_000_000, 65_536);
    let server = WebServer::proper(&torrent);
    let torrent = torrent.web_seeds(&[server.folder()]);
    fetched(&torrent);
    let requests = server.requests();
    assert!(requests.iter().all(|request| request.target == "/pub/image"));
    assert_eq!(server.bytes_asked(), torrent.size(), "no byte is asked for twice");
    assert!(requests.len() <= 25, "{} requests", requests.len());
    assert_eq!(server.connections(), 1);
}

#[test]
fn files_are_asked_for_by_their_paths_and_padding_is_not() {
    let files =
        [("a b/ü#?.txt", 70_000), ("100%", 1), ("empty", 0), ("deep/er/and deeper", 400_000), ("z", 16_384)];
    for torrent in [Torrent::multi("my name", &files, 32_768), Torrent::padded("my name", &files, 32_768)] {
        let server = WebServer::proper(&torrent);
        let torrent = torrent.web_seeds(&[server.folder()]);
        fetched(&torrent);
        assert_eq!(server.bytes_asked(), 486_385);
        let asked = |path: &str| server.requests().iter().filter(|request| request.target == path).count();
        assert!(asked("/pub/my%20name/a%20b/%C3%BC%23%3F.txt") > 0 && asked("/pub/my%20name/100%25") == 1);
        assert!(!server.requests().iter().any(|request| request.target.contains("pad")));
    }
}

#[test]
fn a_script_gives_pieces() {
    let torrent = Torrent::multi("folder", &[("a", 300_000), ("b", 123_456)], 65_536);
    let server = WebServer::proper(&torrent);
    let torrent = torrent.http_seeds(&[server.script()]);
    fetched(&torrent);
    assert_eq!((server.requests().len(), server.connections()), (7, 1), "each piece is one request");
}

#[test]
fn bodies_by_chunks_and_until_the_end_of_the_connection_are_as_good() {
    for answer in [Answer::Chunked(1000), Answer::UntilClose, Answer::Least(30_000)] {
        let torrent = Torrent::single("image", 3_000_000, 65_536);
        let server = WebServer::start(&torrent, move |_| answer.clone());
        let torrent = torrent.web_seeds(&[server.folder()]);
        fetched(&torrent);
    }
    // A server that knows no ranges gives small files all the same.
    let torrent = Torrent::single("image", 600_000, 65_536);
    let server = WebServer::start(&torrent, |_| Answer::Whole);
    let torrent = torrent.web_seeds(&[server.folder()]);
    fetched(&torrent);
}

#[test]
fn a_redirector_is_asked_once_for_each_file() {
    let torrent = Torrent::multi("folder", &[("a", 5_000_000), ("b", 5_000_000)], 65_536);
    let mirror = WebServer::proper(&torrent);
    let place = mirror.address;
    let redirector = WebServer::start(&torrent, move |request| {
        Answer::Redirect(format!("http://{place}{}", request.target))
    });
    let torrent = torrent.web_seeds(&[redirector.folder()]);
    fetched(&torrent);
    assert_eq!(redirector.requests().len(), 2);
    assert!(mirror.requests().len() >= 9 && mirror.connections() == 1);
    assert_eq!(mirror.bytes_asked(), torrent.size());
}

#[test]
fn where_a_redirect_led_may_change() {
    let torrent = Torrent::single("image", 9_000_000, 65_536);
    let second = WebServer::proper(&torrent);
    let first = WebServer::start(&torrent, |request| match request.number {
        0..3 => Answer::Proper,
        _ => Answer::Status(403, None, "your time is over"),
    });
    let places = [first.address, second.address];
    let redirector = WebServer::start(&torrent, move |request| {
        Answer::Redirect(format!("http://{}{}", places[request.number.min(1)], request.target))
    });
    let torrent = torrent.web_seeds(&[redirector.folder()]);
    fetched(&torrent);
    assert_eq!((redirector.requests().len(), first.requests().len()), (2, 4));
}

// Servers that have better things to do, and bad ones.

#[test]
fn a_busy_server_is_left_alone_for_as_long_as_it_says() {
    let torrent = Torrent::single("image", 400_000, 65_536);
    let busy = |answer: Answer| {
        move |request: &common::webserver::Request| match request.number {
            0 => answer.clone(),
            _ => Answer::Proper,
        }
    };
    let by_field = WebServer::start(&torrent, busy(Answer::Status(503, Some(2), "5")));
    let by_body = WebServer::start(&torrent, busy(Answer::Status(503, None, "2")));
    for (torrent, server) in [
        (torrent.clone().web_seeds(&[by_field.folder()]), by_field),
        (torrent.http_seeds(&[by_body.script()]), by_body),
    ] {
        fetched(&torrent);
        let requests = server.requests();
        let rest = requests[1].at - requests[0].at;
        assert!((Duration::from_secs(2)..Duration::from_secs(10)).contains(&rest), "{rest:?}");
    }
}

#[test]
fn a_connection_that_breaks_costs_what_was_under_way() {
    let torrent = Torrent::single("image", 3_000_000, 1 << 20);
    let server = WebServer::start(&torrent, |request| match request.number {
        0 => Answer::Cut(700_000),
        _ => Answer::Proper,
    });
    let torrent = torrent.web_seeds(&[server.folder()]);
    fetched(&torrent);
    let asked = server.bytes_asked();
    assert!(asked <= torrent.size() + (1 << 20), "{asked} bytes asked for");
}

#[test]
fn a_liar_is_asked_no_more_and_others_give_what_it_spoilt() {
    let torrent = Torrent::single("image", 6_000_000, 65_536);
    let liar = WebServer::start(&torrent, |_| Answer::Lies);
    let honest = WebServer::proper(&torrent);
    let torrent = torrent.web_seeds(&[liar.folder(), honest.folder()]);
    let log = fetched(&torrent);
    assert!(log.contains("it sends wrong data; it is not asked again"), "{log}");
    assert!(liar.requests().len() <= 3, "{:?}", liar.requests());
}

#[test]
fn answers_that_are_not_what_was_asked_for_are_no_content() {
    let cases = [
        (Answer::Elsewhere, "other bytes than those asked for"),
        (Answer::Gzip, "encoded in a way that was not asked for"),
        (
            Answer::Raw(b"HTTP/1.1 206 P\r\nContent-Length: 5\r\n\r\nhello".to_vec()),
            "does not say where it belongs",
        ),
        (
            Answer::Raw(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello".to_vec()),
            "5 bytes instead of 600000",
        ),
        (Answer::Raw(b"nonsense\r\n\r\n".to_vec()), "the reply is not HTTP"),
        (Answer::Status(404, None, ""), "it lacks a file"),
        (Answer::Status(416, None, ""), "HTTP status 416"),
        (
            Answer::Redirect("http://127.0.0.1/order?pizza".into()),
            "a URL with a query is not asked on our own network",
        ),
    ];
    for (answer, expected) in cases {
        let torrent = Torrent::single("image", 600_000, 65_536);
        let name = format!("{answer:?}");
        let bad = WebServer::start(&torrent, move |_| answer.clone());
        let torrent = torrent.web_seeds(&[bad.folder()]);
        let home = home();
        torrent.drop_into(&home.torrents);
        let daemon = home.start();
        let said = || daemon.torrent(&torrent)["web_seeds"][0].clone();
        let message = |said: &Value| said["message"].as_str().is_some_and(|why| why.contains(expected));
        let said = wait_value(&format!("{name}: {expected}"), PATIENCE, said, message);
        assert_eq!(said["url"], bad.folder());
        assert!(bad.requests().len() <= 2, "{name}: {:?}", bad.requests());
        assert_eq!(daemon.torrent(&torrent)["state"], "downloading", "{name}");
    }
}

#[test]
fn a_body_without_an_end_is_cut_off() {
    let torrent = Torrent::single("image", 6_000_000, 65_536);
    let endless = WebServer::start(&torrent, |_| Answer::Endless);
    let proper = WebServer::proper(&torrent);
    let torrent = torrent.web_seeds(&[endless.folder(), proper.folder()]);
    let home = home();
    torrent.drop_into(&home.torrents);
    let daemon = home.start();
    let said = daemon.wait_seeding(&torrent);
    assert_eq!(said["down_total"], torrent.size(), "what was not asked for is not taken");
    torrent.assert_lies_in(&home.data);
    assert!(home.log().contains("more bytes than were asked for"));
}

#[test]
fn a_server_without_ranges_is_of_no_use_for_large_files() {
    let torrent = Torrent::single("image", 40_000_000, 1 << 20);
    let server = WebServer::start(&torrent, |_| Answer::Whole);
    let torrent = torrent.web_seeds(&[server.folder()]);
    let home = home();
    torrent.drop_into(&home.torrents);
    let _daemon = home.start();
    wait_value("it is left", PATIENCE, || home.log(), |log| log.contains("it knows no ranges"));
}

#[test]
fn a_file_that_a_mirror_lacks_comes_from_another_one() {
    let torrent = Torrent::padded("folder", &[("a", 3_000_000), ("b", 3_000_000), ("c", 3_000_000)], 65_536);
    let lacking = WebServer::start(&torrent, |request| match request.target.ends_with("/b") {
        true => Answer::Status(404, None, "none"),
        false => Answer::Proper,
    });
    let other = WebServer::start(&torrent, |request| match request.target.ends_with("/b") {
        true => Answer::Proper,
        false => Answer::Status(404, None, "none"),
    });
    let torrent = torrent.web_seeds(&[lacking.folder(), other.folder()]);
    fetched(&torrent);
}

// Peers and limits.

/// Starts a daemon that knows this peer, a neighbour or not, and has got something from it before it may ask the web.
fn beside<'home>(home: &'home Home, torrent: &Torrent, peer: &Seed, local: bool) -> Daemon<'home> {
    home.set("", "peers", json!([peer.address]));
    home.set("limits", "local", json!(if local { vec!["127.0.0.0/8"] } else { vec![] }));
    home.set("webseeds", "enabled", false);
    torrent.drop_into(&home.torrents);
    let daemon = home.start();
    wait_value("something has come", PATIENCE, || have(&daemon, torrent), |have| *have > 0);
    home.set("webseeds", "enabled", true);
    home.configure();
    daemon.ask("reload", Value::Null);
    daemon
}

#[test]
fn what_a_neighbour_has_is_never_asked_of_a_web_seed() {
    let torrent = Torrent::single("image", 4_000_000, 65_536);
    let server = WebServer::proper(&torrent);
    let torrent = torrent.web_seeds(&[server.folder()]);
    let seed = Seed::of(&[&torrent]);
    // Slower than what counts as enough.
    seed.slow_down_to(20_000);
    let home = home();
    let daemon = beside(&home, &torrent, &seed, true);
    let before = have(&daemon, &torrent);
    wait_value("more has come", PATIENCE, || have(&daemon, &torrent), |have| *have >= before + 4 * 65_536);
    assert!(server.requests().is_empty(), "{:?}", server.requests());
    drop(seed);
    daemon.wait_seeding(&torrent);
    torrent.assert_lies_in(&home.data);
    assert!(server.bytes_asked() <= torrent.size() - 5 * 65_536);
}

#[test]
fn slow_peers_elsewhere_are_helped_and_fast_ones_are_not() {
    for (rate, size, helped) in [(10_000, 30_000_000, true), (300_000, 3_000_000, false)] {
        let torrent = Torrent::single("image", size, 65_536);
        let server = WebServer::proper(&torrent);
        let torrent = torrent.web_seeds(&[server.folder()]);
        let seed = Seed::of(&[&torrent]);
        seed.slow_down_to(rate);
        let home = home();
        let daemon = beside(&home, &torrent, &seed, false);
        daemon.wait_seeding(&torrent);
        torrent.assert_lies_in(&home.data);
        let asked = server.bytes_asked();
        assert!(if helped { asked > torrent.size() / 2 } else { asked == 0 }, "{asked} bytes of the web");
    }
}

#[test]
fn pieces_that_nobody_has_come_from_the_web() {
    let torrent = Torrent::single("image", 3_000_000, 65_536);
    let server = WebServer::proper(&torrent);
    let torrent = torrent.web_seeds(&[server.folder()]);
    let seed = Seed::without(&[&torrent]);
    seed.gains(&torrent, 0..30);
    let home = home();
    let daemon = beside(&home, &torrent, &seed, true);
    daemon.wait_seeding(&torrent);
    torrent.assert_lies_in(&home.data);
    assert_eq!(server.bytes_asked(), torrent.size() - 30 * 65_536);
}

#[test]
fn the_download_rate_holds_for_web_seeds() {
    let torrent = Torrent::single("image", 1_200_000, 65_536);
    let server = WebServer::proper(&torrent);
    let torrent = torrent.web_seeds(&[server.folder()]);
    let home = home();
    home.set("limits", "download", json!("200k"));
    torrent.drop_into(&home.torrents);
    let daemon = home.start();
    wait("it has begun", PATIENCE, || (!server.requests().is_empty()).then_some(()));
    let begun = Instant::now();
    daemon.wait_seeding(&torrent);
    let took = begun.elapsed();
    // Less what may come at once.
    assert!(took >= Duration::from_millis(4500), "{took:?}");
}

#[test]
fn a_pause_ends_what_is_under_way_and_a_resume_goes_on() {
    let torrent = Torrent::single("image", 4_000_000, 65_536);
    let server = WebServer::start(&torrent, |request| match request.number {
        0 => Answer::Slow(65_536, Duration::from_millis(300)),
        _ => Answer::Proper,
    });
    let torrent = torrent.web_seeds(&[server.folder()]);
    let home = home();
    torrent.drop_into(&home.torrents);
    let daemon = home.start();
    wait_value("something has come", PATIENCE, || have(&daemon, &torrent), |have| *have > 0);
    daemon.ask("pause", json!({"info_hash": torrent.hex()}));
    wait_value("the connection is closed", PATIENCE, || server.open(), |open| *open == 0);
    let requests = server.requests().len();
    daemon.ask("resume", json!({"info_hash": torrent.hex()}));
    daemon.wait_seeding(&torrent);
    assert!(server.requests().len() > requests);
}

#[test]
fn web_seeds_that_are_switched_off_are_not_asked() {
    let torrent = Torrent::single("image", 400_000, 65_536);
    let server = WebServer::proper(&torrent);
    let torrent = torrent.web_seeds(&[server.folder()]);
    let home = home();
    home.set("webseeds", "enabled", false);
    torrent.drop_into(&home.torrents);
    let daemon = home.start();
    daemon.wait_state(&torrent, &["downloading"]);
    std::thread::sleep(Duration::from_secs(2));
    assert!(server.requests().is_empty());
    home.set("webseeds", "enabled", true);
    home.configure();
    daemon.ask("reload", Value::Null);
    daemon.wait_seeding(&torrent);
}

/// Bytes of it that are there.
fn have(daemon: &Daemon, torrent: &Torrent) -> u64 {
    daemon.torrent(torrent)["have"].as_u64().unwrap_or(0)
}

// A real server.

#[test]
fn a_torrent_is_fetched_from_nginx_plain_and_behind_a_redirect() {
    if !able(&[Program("nginx")]) {
        return;
    }
    let torrents = [
        Torrent::single("one file.iso", 12_345_678, 65_536),
        Torrent::multi("some files", &[("a/b c", 5_000_000), ("ü", 70_001), ("d", 3_000_000)], 32_768),
    ];
    for torrent in torrents {
        let folder = Folder::new();
        torrent.write_data(folder.path());
        let site = format!(
            "root {}; location /elsewhere/ {{ rewrite ^/elsewhere/(.*)$ /$1 redirect; }}",
            folder.path().display()
        );
        let nginx = Nginx::start(&[("", &site)]);
        for path in ["", "elsewhere/"] {
            let url = format!("http://{}/{path}", nginx.addresses[0]);
            fetched(&torrent.clone().web_seeds(&[url]));
        }
    }
}

// Bodies, one by one.

/// Asks for some bytes and reads `most` of them. The status of an answer without content is an error.
async fn read(
    client: &mut Client,
    url: &Url,
    from: Option<IpAddr>,
    range: Range<u64>,
    most: usize,
) -> Result<(Vec<u8>, Option<(Url, IpAddr)>), Result<u16, Error>> {
    let ask = Ask { url, from, query: b"", range: Some(range), family: None };
    let mut stream = match client.open(&Resolver::new(), &ask, PATIENCE).await.map_err(Err)? {
        Opened::Content(stream) => stream,
        Opened::Other(response) => return Err(Ok(response.status)),
    };
    let redirected = stream.redirected().cloned();
    let (mut content, mut place) = (Vec::new(), vec![0; 16 * 1024]);
    loop {
        let progress = stream.read(&mut place, |_, part| {
            content.extend_from_slice(part);
            content.len() < most
        });
        match progress.map_err(Err)? {
            Progress::Some => {}
            Progress::Nothing => stream.ready(1, PATIENCE).await.map_err(Err)?,
            Progress::End => break client.keep(stream),
            Progress::Stopped => break,
        }
    }
    Ok((content, redirected))
}

fn torrent() -> Torrent {
    Torrent::single("image", 300_000, 16_384)
}

fn url(server: &WebServer, path: &str) -> Url {
    Url::parse(&format!("{}{path}", server.folder())).unwrap()
}

#[test]
fn a_body_is_read_whatever_way_it_comes_and_connections_are_used_again() {
    let torrent = torrent();
    let content = torrent.content();
    let ways = |n: usize| match n % 4 {
        0 => Answer::Proper,
        1 => Answer::Chunked(1),
        2 => Answer::Chunked(5000),
        _ => Answer::UntilClose,
    };
    let server = WebServer::start(&torrent, move |request| ways(request.number));
    let url = url(&server, "image");
    smol::block_on(async {
        let mut client = Client::for_content();
        for (n, range) in
            [(0, 0..300_000), (1, 5..6), (2, 100_000..250_000), (3, 7..70_000), (4, 299_999..300_000)]
        {
            let (got, redirected) = read(&mut client, &url, None, range.clone(), usize::MAX).await.unwrap();
            let at = |offset| usize::try_from(offset).expect("the content is small");
            let wanted = &content[at(range.start)..at(range.end)];
            assert!(got == wanted && redirected.is_none(), "{:?} {range:?}", ways(n));
        }
        // What is given up takes its connection with it.
        let (got, _) = read(&mut client, &url, None, 0..300_000, 10_000).await.unwrap();
        assert!(got.len() >= 10_000 && content.starts_with(&got));
        read(&mut client, &url, None, 0..10, usize::MAX).await.unwrap();
    });
    let used: Vec<u32> = server.requests().iter().map(|request| request.connection).collect();
    assert_eq!(used, [0, 0, 0, 0, 1, 1, 2]);
    assert_eq!(server.requests()[2].range, Some((100_000, 249_999)));
}

#[test]
fn where_a_redirect_led_is_told_and_the_range_goes_along() {
    let torrent = torrent();
    let mirror = WebServer::proper(&torrent);
    let to = url(&mirror, "image");
    let target = to.clone();
    let first = WebServer::start(&torrent, move |_| Answer::Redirect(target.to_string()));
    smol::block_on(async {
        let mut client = Client::for_content();
        let (got, redirected) =
            read(&mut client, &url(&first, "image"), None, 50..90, usize::MAX).await.unwrap();
        assert_eq!(got, torrent.content()[50..90]);
        let (there, from) = redirected.unwrap();
        assert_eq!((&there, from), (&to, first.address.ip()));
        let (got, redirected) = read(&mut client, &there, Some(from), 60..70, usize::MAX).await.unwrap();
        assert_eq!((&got[..], redirected), (&torrent.content()[60..70], None));
        // Somebody on the Internet who sent us here once does not do so later, whatever the name means then.
        let outside = Some(IpAddr::from([203, 0, 113, 1]));
        let denied = read(&mut Client::for_content(), &there, outside, 0..1, usize::MAX).await;
        assert!(matches!(denied, Err(Err(Error::Denied(_)))), "{denied:?}");
    });
    assert_eq!((first.requests().len(), mirror.requests().len(), mirror.connections()), (1, 2, 1));
    assert_eq!(mirror.requests()[0].range, Some((50, 89)));
}

#[test]
fn what_can_not_be_content_is_an_error_that_says_so() {
    let torrent = torrent();
    let answers = [
        Answer::Gzip,
        Answer::Cut(1000),
        Answer::Status(404, None, "none"),
        Answer::Raw(b"SSH-2.0-OpenSSH\r\n\r\n".to_vec()),
        Answer::Raw(Vec::new()),
        Answer::Redirect("/pub/image".into()),
        Answer::Redirect("/pub/image?order=pizza".into()),
    ];
    let expected = [
        "the reply is encoded in a way that was not asked for",
        "the connection was closed in the middle of the reply",
        "404",
        "the reply is not HTTP",
        "the connection was closed without a reply",
        "redirected more than 5 times",
        "a URL with a query is not asked on our own network",
    ];
    for (answer, expected) in answers.into_iter().zip(expected) {
        let server = WebServer::start(&torrent, move |_| answer.clone());
        let result = smol::block_on(read(
            &mut Client::for_content(),
            &url(&server, "image"),
            None,
            0..9000,
            usize::MAX,
        ));
        let said = match result.unwrap_err() {
            Ok(status) => status.to_string(),
            Err(error) => error.to_string(),
        };
        assert_eq!(said, expected);
    }
}

#[test]
fn a_server_that_says_nothing_is_given_up_in_time() {
    let torrent = torrent();
    let silent = WebServer::start(&torrent, |_| Answer::Stall);
    let started = Instant::now();
    let result = smol::block_on(async {
        let url = url(&silent, "image");
        let ask = Ask { url: &url, from: None, query: b"", range: None, family: None };
        let mut client = Client::for_content();
        client.open(&Resolver::new(), &ask, Duration::from_millis(300)).await.map(|_| ())
    });
    assert!(matches!(result, Err(Error::Timeout)), "{result:?}");
    assert!(started.elapsed() < PATIENCE);
}

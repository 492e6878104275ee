//! The daemon on OpenWrt's bus: asked, told to do something, listened to; and a bus that refuses, hangs, lies or goes away.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::unwrap_used,
    reason = "real processes, files and sockets; a test may panic"
)]

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use common::bus::{Answer, Bus, attribute, call, frame, table};
use common::daemon::{Daemon, Home};
use common::torrent::Torrent;
use common::{PATIENCE, wait, wait_value};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

const OK: u32 = 0;
const INVALID_ARGUMENT: u32 = 2;
const METHOD_NOT_FOUND: u32 = 3;
const NOT_FOUND: u32 = 4;

/// The bus takes no more than this of a client at once.
const PAGE: usize = 512 * 1024;

/// A home whose configuration names a bus of its own.
fn home() -> (Home, PathBuf) {
    let home = Home::new();
    let path = home.folder.path().join("ubus.sock");
    home.set("ubus", "socket", json!(path));
    (home, path)
}

fn done(answer: Answer) -> Value {
    assert_eq!(answer.status, OK, "{answer:?}");
    answer.data.expect("with DATA")
}

/// What the control socket says, as far as it is known: blobmsg has no null.
fn without_nulls(value: Value) -> Value {
    match value {
        Value::Array(values) => values.into_iter().map(without_nulls).collect(),
        Value::Object(fields) => fields
            .into_iter()
            .filter(|(_, value)| !value.is_null())
            .map(|(n, v)| (n, without_nulls(v)))
            .collect(),
        other => other,
    }
}

fn events_of(bus: &Bus, torrent: &Torrent) -> Vec<String> {
    let events = bus.events();
    assert!(events.iter().all(|(name, _)| name == "meshseed.torrent"), "{events:?}");
    let of = events.iter().filter(|(_, data)| data["info_hash"] == torrent.hex());
    of.map(|(_, data)| data["action"].as_str().unwrap().to_owned()).collect()
}

fn wait_event(bus: &Bus, torrent: &Torrent, action: &str) {
    let what = format!("{} is {action}", torrent.name);
    wait_value(&what, PATIENCE, || events_of(bus, torrent), |all| all.iter().any(|event| event == action));
}

fn assert_answers(bus: &Bus, daemon: &Daemon) {
    bus.wait_object("meshseed");
    assert_eq!(done(bus.call("status", json!({})))["version"], daemon.ask("status", Value::Null)["version"]);
}

#[test]
fn what_the_control_socket_does_the_bus_does_too() {
    let (home, path) = home();
    let bus = Bus::start(&path);
    let torrent = Torrent::single("on the bus ü", 50_000, 16 * 1024);
    torrent.add_to(&home);
    fs::write(home.torrents.join("no.torrent"), "rubbish").unwrap();
    let daemon = home.start();
    daemon.wait_seeding(&torrent);
    daemon.wait_refused("no.torrent");
    let methods = bus.wait_object("meshseed");
    let (text, number) = (3, 5);
    let one = json!({"info_hash": text});
    let part = json!({"offset": number, "limit": number});
    let policies = json!({
        "status": {}, "list": part, "torrent": one, "peers": one, "refused": part, "nodes": {}, "rescan": {}, "reload": {}, "verify": one,
        "pause": one, "resume": one,
    });
    assert_eq!(methods, policies);
    let hash = json!({"info_hash": torrent.hex()});
    let said = done(bus.call("torrent", hash.clone()));
    assert_eq!(said, without_nulls(daemon.torrent(&torrent)));
    assert_eq!((&said["size"], &said["state"]), (&json!(50_000), &json!("seeding")));
    assert_eq!(done(bus.call("list", json!({})))["torrents"], json!([said]));
    let status = done(bus.call("status", json!({})));
    assert_eq!((&status["torrents"]["seeding"], &status["refused"]), (&json!(1), &json!(1)));
    assert!(status["memory"].as_u64() > Some(100_000), "{status}");
    assert!(status.get("last_error").is_none(), "what is not known is left out: {status}");
    assert!(
        done(bus.call("refused", json!({})))["refused"][0]["file"].as_str().unwrap().ends_with("no.torrent")
    );
    assert_eq!(done(bus.call("peers", hash.clone())), json!({"total": 0, "peers": []}));
    assert_eq!(done(bus.call("pause", hash.clone())), json!({}));
    daemon.wait_state(&torrent, &["paused"]);
    done(bus.call("resume", hash.clone()));
    daemon.wait_seeding(&torrent);
    for (method, arguments) in [("verify", hash), ("rescan", json!({})), ("reload", json!({}))] {
        done(bus.call(method, arguments));
    }
    assert!(home.log().contains("configuration read again"));
    daemon.wait_seeding(&torrent);
}

#[test]
fn a_wrong_call_is_told_what_is_wrong_by_its_status_alone() {
    let (home, path) = home();
    let bus = Bus::start(&path);
    let daemon = home.start();
    bus.wait_object("meshseed");
    let nobody = "ab".repeat(20);
    for (method, arguments, status) in [
        ("dance", json!({}), METHOD_NOT_FOUND),
        ("", json!({}), METHOD_NOT_FOUND),
        ("torrent", json!({"info_hash": nobody}), NOT_FOUND),
        ("pause", json!({"info_hash": nobody}), NOT_FOUND),
        ("torrent", json!({}), INVALID_ARGUMENT),
        ("torrent", json!({"info_hash": 5}), INVALID_ARGUMENT),
        ("torrent", json!({"info_hash": "abc"}), INVALID_ARGUMENT),
        ("torrent", json!({"info_hash": [nobody]}), INVALID_ARGUMENT),
        ("status", json!({"limit": 1}), INVALID_ARGUMENT),
        ("list", json!({"limit": "1"}), INVALID_ARGUMENT),
        ("list", json!({"limit": 0}), INVALID_ARGUMENT),
        ("list", json!({"limit": -1}), INVALID_ARGUMENT),
        ("list", json!({"limit": 1.5}), INVALID_ARGUMENT),
        ("list", json!({"offset": true}), INVALID_ARGUMENT),
        ("list", json!({"offset": 1_u64 << 32}), INVALID_ARGUMENT),
        ("list", json!({"ofset": 1}), INVALID_ARGUMENT),
        ("list", json!({"offset": 7, "limit": u32::MAX}), OK),
        // A web interface that calls has its session among the arguments.
        ("list", json!({"ubus_rpc_session": "0".repeat(32)}), OK),
    ] {
        let answer = bus.call(method, arguments.clone());
        assert_eq!((answer.status, answer.data.is_some()), (status, status == OK), "{method} {arguments}");
    }
    bus.send(&call(7, "status", None)).unwrap();
    let without = bus.wait_answers(7, 1).remove(0);
    assert_eq!((without.status, without.data), (INVALID_ARGUMENT, None));
    assert_answers(&bus, &daemon);
    assert_eq!(bus.connections(), 1, "nothing of it cost the connection");
}

#[test]
fn a_thousand_torrents_come_in_parts_and_are_no_news_at_the_start() {
    let (home, path) = home();
    let bus = Bus::start(&path);
    let torrents: Vec<Torrent> = (0..1000)
        .map(|i| Torrent::single(&format!("{i} {}", "long name ".repeat(20)), 1000, 16 * 1024))
        .collect();
    torrents.iter().for_each(|torrent| torrent.add_to(&home));
    let daemon = home.start();
    bus.wait_object("meshseed");
    let seeding = || done(bus.call("status", json!({})))["torrents"]["seeding"].clone();
    wait_value("all are seeded", PATIENCE, seeding, |count| *count == 1000);
    let (mut found, mut calls) = (BTreeSet::new(), 0);
    while found.len() < 1000 {
        let answer = bus.call("list", json!({"offset": found.len()}));
        assert!(answer.bytes < PAGE, "{} bytes", answer.bytes);
        let part = done(answer);
        assert_eq!((&part["total"], &part["offset"]), (&json!(1000), &json!(found.len())));
        let before = found.len();
        found.extend(part["torrents"].as_array().unwrap().iter().map(|it| it["info_hash"].to_string()));
        assert!(found.len() > before, "no part is empty");
        calls += 1;
    }
    assert!(calls <= 40, "{calls} calls");
    assert_eq!(bus.events(), [], "nothing has changed");
    let dropped = Torrent::single("dropped", 50_000, 16 * 1024);
    dropped.add_to(&home);
    wait_event(&bus, &dropped, "completed");
    assert_eq!(events_of(&bus, &dropped), ["added", "completed"]);
    fs::remove_file(home.torrents.join("dropped.torrent")).unwrap();
    wait_event(&bus, &dropped, "removed");
    // All of them go: too much for one moment, and soon over.
    torrents
        .iter()
        .for_each(|it| fs::remove_file(home.torrents.join(format!("{}.torrent", it.name))).unwrap());
    daemon.wait_gone(&torrents[0]);
    let last = bus.events().len();
    wait_value("some are told", PATIENCE, || bus.events().len(), |count| *count >= last + 64);
    assert_answers(&bus, &daemon);
    assert!(bus.events().len() < 200, "{} events", bus.events().len());
    assert_eq!(bus.connections(), 1);
}

#[test]
fn another_data_root_and_an_edited_file_are_no_news_but_what_goes_with_them_is() {
    let (home, path) = home();
    let bus = Bus::start(&path);
    let [first, second, gone, last] =
        ["first", "second", "gone", "last"].map(|name| Torrent::single(name, 50_000, 16 * 1024));
    [&first, &gone].iter().for_each(|torrent| torrent.add_to(&home));
    let daemon = home.start();
    bus.wait_object("meshseed");
    [&first, &gone].iter().for_each(|torrent| drop(daemon.wait_seeding(torrent)));
    second.add_to(&home);
    wait_event(&bus, &second, "completed");
    let elsewhere = home.folder.path().join("elsewhere");
    fs::rename(&home.data, &elsewhere).unwrap();
    last.write_data(&elsewhere);
    home.set("", "data", json!(elsewhere));
    home.configure();
    fs::remove_file(home.torrents.join("gone.torrent")).unwrap();
    daemon.signal(Signal::SIGHUP);
    for torrent in [&first, &second] {
        let data = json!(elsewhere.join(&torrent.name));
        let moved = |said: &Value| said["data"] == data && said["state"] == "seeding";
        wait_value("it is seeded from there", PATIENCE, || daemon.torrent(torrent), moved);
    }
    let file = home.torrents.join("first.torrent");
    let edited = [b"d7:comment6:edited".as_slice(), &fs::read(&file).unwrap()[1..]].concat();
    fs::write(&file, edited).unwrap();
    let changed = format!("changed {}", file.display());
    wait("it is read", PATIENCE, || home.log().contains(&changed).then_some(()));
    daemon.wait_seeding(&first);
    last.drop_into(&home.torrents);
    wait_event(&bus, &last, "completed");
    assert_eq!(events_of(&bus, &second), ["added", "completed"]);
    assert_eq!(events_of(&bus, &gone), ["removed"]);
    let told = events_of(&bus, &first);
    assert!(!told.iter().any(|action| action == "added" || action == "removed"), "{told:?}");
}

#[test]
fn trouble_is_told_with_its_reason_and_so_is_its_end() {
    for is_configured in [false, true] {
        let (home, path) = home();
        let bus = Bus::start(&path);
        let torrent = Torrent::single("moved away", 50_000, 16 * 1024);
        torrent.add_to(&home);
        let daemon = home.start();
        bus.wait_object("meshseed");
        daemon.wait_seeding(&torrent);
        let elsewhere = home.folder.path().join("elsewhere");
        fs::rename(&home.data, &elsewhere).unwrap();
        daemon.ask("verify", json!({"info_hash": torrent.hex()}));
        wait_event(&bus, &torrent, "error");
        let (_, error) = bus.events().into_iter().find(|(_, data)| data["action"] == "error").unwrap();
        assert_eq!(error["name"], "moved away");
        assert!(error["reason"].as_str().unwrap().contains(home.data.to_str().unwrap()), "{error}");
        if is_configured {
            home.set("", "data", json!(elsewhere));
            home.configure();
            daemon.signal(Signal::SIGHUP);
        } else {
            fs::rename(&elsewhere, &home.data).unwrap();
        }
        wait_event(&bus, &torrent, "recovered");
        daemon.wait_seeding(&torrent);
    }
}

#[test]
fn what_is_fetched_is_told_when_it_is_complete() {
    let (home, path) = home();
    let seed_home = Home::new();
    let torrent = Torrent::single("fetched", 400_000, 16 * 1024);
    torrent.add_to(&seed_home);
    let seed = seed_home.start();
    seed.wait_seeding(&torrent);
    // Also of a torrent that was there at the start.
    torrent.drop_into(&home.torrents);
    let bus = Bus::start(&path);
    let daemon = home.start();
    bus.wait_object("meshseed");
    home.set("", "peers", json!([seed.address().to_string()]));
    home.configure();
    daemon.signal(Signal::SIGHUP);
    daemon.wait_seeding(&torrent);
    wait_event(&bus, &torrent, "completed");
    assert_eq!(events_of(&bus, &torrent), ["completed"]);
}

#[test]
fn a_refusal_is_taken_quietly_until_the_bus_has_read_its_acl() {
    let (home, path) = home();
    let bus = Bus::start(&path);
    bus.refuse(true);
    let start = Instant::now();
    let daemon = home.start();
    wait("it asks again", PATIENCE, || (bus.asked() >= 3).then_some(()));
    assert!(start.elapsed() > Duration::from_millis(2500), "after one second, then after two");
    assert!(!home.log().contains("ubus"), "nobody needs to know: {}", home.log());
    bus.refuse(false);
    assert_answers(&bus, &daemon);
    assert_eq!((bus.connections(), home.log().matches("ubus").count()), (1, 1), "{}", home.log());
}

#[test]
fn a_bus_that_starts_anew_has_the_object_again_and_nothing_waits_for_it() {
    let (home, path) = home();
    let torrent = Torrent::single("served meanwhile", 50_000, 16 * 1024);
    torrent.add_to(&home);
    // None at the start either.
    let daemon = home.start();
    daemon.wait_seeding(&torrent);
    for _ in 0..3 {
        let bus = Bus::start(&path);
        assert_answers(&bus, &daemon);
        drop(bus);
        daemon.assert_serves(&torrent);
    }
    fs::remove_file(home.torrents.join("served meanwhile.torrent")).unwrap();
    daemon.wait_gone(&torrent);
    assert_eq!(home.log().matches("ubus").count(), 3, "a line each time it is there: {}", home.log());
}

#[test]
fn sighup_takes_it_to_another_bus_and_off_the_bus() {
    let (home, path) = home();
    let second = home.folder.path().join("second.sock");
    let (one, two) = (Bus::start(&path), Bus::start(&second));
    let daemon = home.start();
    assert_answers(&one, &daemon);
    let apply = |key: &str, value: Value| {
        home.set("ubus", key, value);
        home.configure();
        daemon.signal(Signal::SIGHUP);
    };
    apply("socket", json!(second));
    assert_answers(&two, &daemon);
    wait("it has left the first", PATIENCE, || (!one.has_object()).then_some(()));
    apply("enabled", json!(false));
    wait("it has left the second", PATIENCE, || (!two.has_object()).then_some(()));
    apply("enabled", json!(true));
    assert_answers(&two, &daemon);
    assert_eq!(one.connections(), 1);
}

#[test]
fn calls_that_come_at_once_are_answered_in_their_order() {
    let (home, path) = home();
    let bus = Bus::start(&path);
    let _daemon = home.start();
    bus.wait_object("meshseed");
    let names = ["status", "dance", "list", "torrent"];
    let calls: Vec<u8> =
        (0..400).flat_map(|seq| call(seq, names[usize::from(seq) % 4], Some(&table(&json!({}))))).collect();
    for chunk in calls.chunks(777) {
        bus.send(chunk).unwrap();
    }
    let answers = bus.wait_answers(0, 400);
    for (seq, answer) in (0..).zip(answers) {
        let status = [OK, METHOD_NOT_FOUND, OK, INVALID_ARGUMENT][usize::from(seq) % 4];
        assert_eq!((answer.seq, answer.status, answer.data.is_some()), (seq, status, status == OK));
    }
}

#[test]
fn a_bus_that_does_not_read_costs_little_and_is_left() {
    let (home, path) = home();
    let torrents: Vec<Torrent> =
        (0..60).map(|i| Torrent::single(&format!("{i} {}", "x".repeat(200)), 1000, 16 * 1024)).collect();
    torrents.iter().for_each(|torrent| torrent.add_to(&home));
    let bus = Bus::start(&path);
    let daemon = home.start();
    bus.wait_object("meshseed");
    torrents.iter().for_each(|torrent| drop(daemon.wait_seeding(torrent)));
    done(bus.call("list", json!({})));
    let before = daemon.memory().private_dirty;
    bus.go_deaf();
    // Some megabytes of answers; as many bytes of calls as the socket takes.
    let calls: Vec<u8> = (0..500).flat_map(|seq| call(seq, "list", Some(&[]))).collect();
    bus.send(&calls).unwrap();
    let start = Instant::now();
    let mut most = 0;
    wait("it is left for a new connection", PATIENCE, || {
        most = most.max(daemon.memory().private_dirty);
        daemon.ask("status", Value::Null);
        (bus.connections() == 2).then_some(())
    });
    assert!(start.elapsed() > Duration::from_secs(8), "it had some time: {:?}", start.elapsed());
    // The replies that wait, what a debug build's status takes while it is made, and what malloc keeps of both.
    assert!(most < before + 2048, "{before} KiB before, {most} at most");
    assert_answers(&bus, &daemon);
}

#[test]
fn rubbish_is_left_and_a_long_call_refused() {
    let (home, path) = home();
    let bus = Bus::start(&path);
    let mut daemon = home.start();
    bus.wait_object("meshseed");
    let long = table(&json!({"info_hash": "x".repeat(700_000)}));
    bus.send(&call(5, "torrent", Some(&long))).unwrap();
    let refused = bus.wait_answers(5, 1).remove(0);
    assert_eq!((refused.status, refused.data), (INVALID_ARGUMENT, None));
    assert_answers(&bus, &daemon);
    assert_eq!(bus.connections(), 1);
    let good = call(9, "status", Some(&[]));
    let beyond = [&good[..8], &[0, 0x10, 0, 1]].concat();
    let another_version = [&[1], &good[1..]].concat();
    let inside_out = frame(5, 9, 9, &[attribute(3, &[0; 4]), vec![7, 0, 0, 200]]);
    for (left, rubbish) in
        [beyond, another_version, inside_out, b"GET / HTTP/1.1\r\n\r\n".to_vec()].into_iter().enumerate()
    {
        bus.send(&rubbish).unwrap();
        let again = || (bus.connections() == left + 2 && bus.has_object()).then_some(());
        wait("it is left for a new connection", PATIENCE, again);
    }
    assert_answers(&bus, &daemon);
    assert!(daemon.alive());
}

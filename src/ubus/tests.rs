//! The client against frames that were captured from the real bus, byte for byte in both directions.
#![expect(clippy::disallowed_methods, reason = "the only way to make an instant")]

use super::*;

const TEST: Object = Object {
    path: "test",
    methods: &[
        ("hello", &[("id", Kind::Number), ("msg", Kind::Text)]),
        ("watch", &[("id", Kind::Number), ("counter", Kind::Number)]),
        ("count", &[("to", Kind::Number), ("string", Kind::Text)]),
    ],
};

const NOTHING: [u8; 0] = [];
const HELLO: &str = "00000000 eb62aaf3 00000004";
const ADD_OBJECT: &str = "00060001 00000000 000000a0 02000009 74657374 00000000 06000090 8200002c 00056865 6c6c6f00 85000010 \
    00026964 00000000 00000005 85000010 00036d73 67000000 00000003 82000030 00057761 74636800 85000010 00026964 00000000 \
    00000005 85000014 0007636f 756e7465 72000000 00000005 82000030 0005636f 756e7400 85000010 0002746f 00000000 00000005 \
    85000014 00067374 72696e67 00000000 00000003";
const OBJECT: &str = "00020001 00000000 00000014 03000008 f52a12a1 05000008 0f8731d1";
const DONE: &str = "00010001 00000000 0000000c 01000008 00000000";
const REFUSED: &str = "00010001 00000000 0000000c 01000008 00000002";
const COUNT: &str = "00050002 303c21c4 0000005c 03000008 f52a12a1 0400000a 636f756e 74000000 0c000009 726f6f74 00000000 \
    0d000009 726f6f74 00000000 0700002c 85000010 0002746f 00000000 0000000a 83000016 00067374 72696e67 00000000 68656c6c \
    6f000000";
const COUNTED: &str = "00010002 303c21c4 00000014 01000008 00000000 03000008 f52a12a1";
const NO_SUCH: &str = "00050002 e334dca1 00000034 03000008 f52a12a1 0400000b 6e6f7375 63680000 0c000009 726f6f74 00000000 \
    0d000009 726f6f74 00000000 07000004";
const NOT_FOUND: &str = "00010002 e334dca1 00000014 01000008 00000003 03000008 f52a12a1";
/// A subscriber's, whose caller waits for nothing; with our object for its own.
const NOTIFIED: &str = "00050002 20ec8086 00000054 0a000005 01000000 03000008 f52a12a1 04000012 746f7272 656e742e 61646465 \
    64000000 0c000009 726f6f74 00000000 0d000009 726f6f74 00000000 07000014 8300000e 00046e61 6d650000 78000000";
const ACTIVE: &str = "000a0001 00000000 00000014 03000008 f52a12a1 09000005 01000000";

/// The bytes that these digits are.
pub fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u32> = text.chars().filter_map(|c| c.to_digit(16)).collect();
    digits.chunks(2).map(|pair| u8::try_from(pair[0] * 16 + pair[1]).unwrap()).collect()
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn all_sent(client: &mut Client) -> Vec<u8> {
    let out = client.out().to_vec();
    client.sent(out.len());
    out
}

/// What it says when these frames come.
fn said(client: &mut Client, frames: &[&str], now: Instant) -> Vec<u8> {
    frames.iter().for_each(|frame| client.handle(&hex(frame)));
    assert_eq!(client.poll(now), None);
    all_sent(client)
}

fn greeted(now: Instant) -> Client {
    let mut client = Client::new(TEST, now);
    assert_eq!(client.poll(now), Some(Todo::Connect));
    client.connected(now);
    assert_eq!(said(&mut client, &[HELLO], now), hex(ADD_OBJECT));
    client
}

fn published(now: Instant) -> Client {
    let mut client = greeted(now);
    assert_eq!(said(&mut client, &[OBJECT, DONE], now), NOTHING);
    assert_eq!(client.deadline(), None, "nothing is waited for");
    client
}

fn call(client: &mut Client, frame: &str, now: Instant) -> Call {
    client.handle(&hex(frame));
    match client.poll(now) {
        Some(Todo::Answer(call)) => call,
        other => panic!("{other:?}"),
    }
}

/// An answer of so many bytes.
fn result(len: usize) -> Vec<u8> {
    let table = Value::Table(vec![("a".into(), "x".repeat(len).into())]);
    blob::encode(&table)
}

#[test]
fn an_object_is_registered_called_and_answered_as_the_real_bus_has_it() {
    let now = Instant::now();
    let mut client = published(now);
    let count = call(&mut client, COUNT, now);
    assert_eq!(count.method, "count");
    let arguments = vec![("to".into(), Value::Int(10)), ("string".into(), "hello".into())];
    assert_eq!(count.arguments, Value::Table(arguments));
    client.answer(&count, Ok(blob::encode(&Value::Table(vec![("rc".into(), Value::Int(56))]))));
    // As it was captured, but for the number: ours are of 64 bits.
    let data =
        "00020002 303c21c4 00000024 03000008 f52a12a1 07000018 84000014 00027263 00000000 00000000 00000038";
    assert_eq!(all_sent(&mut client), [hex(data), hex(COUNTED)].concat());
    let no_such = call(&mut client, NO_SUCH, now);
    assert_eq!((no_such.method.as_str(), &no_such.arguments), ("nosuch", &Value::Table(Vec::new())));
    client.answer(&no_such, Err(Status::MethodNotFound));
    assert_eq!(all_sent(&mut client), hex(NOT_FOUND));
}

#[test]
fn frames_may_be_cut_anywhere_and_come_several_at_once() {
    let now = Instant::now();
    let mut client = Client::new(TEST, now);
    client.connected(now);
    let stream = [HELLO, OBJECT, DONE, COUNT, NO_SUCH].map(hex).concat();
    let (mut calls, mut out) = (Vec::new(), Vec::new());
    for byte in stream {
        client.handle(&[byte]);
        while let Some(todo) = client.poll(now) {
            let Todo::Answer(call) = todo else { panic!("{todo:?}") };
            client.answer(&call, Err(Status::MethodNotFound));
            calls.push(call.method);
        }
        out.extend(all_sent(&mut client));
    }
    assert_eq!(calls, ["count", "nosuch"]);
    assert!(out.ends_with(&hex(NOT_FOUND)));
}

#[test]
fn who_waits_for_no_answer_gets_none() {
    let now = Instant::now();
    let mut client = published(now);
    let notified = call(&mut client, NOTIFIED, now);
    client.answer(&notified, Ok(Vec::new()));
    client.answer(&notified, Err(Status::NotFound));
    assert_eq!(all_sent(&mut client), NOTHING);
}

#[test]
fn what_is_no_call_of_ours_is_passed_over_and_one_without_arguments_refused() {
    let now = Instant::now();
    let mut client = published(now);
    let another = COUNT.replace("f52a12a1", "f52a12a2");
    assert_eq!(said(&mut client, &[ACTIVE, &another, OBJECT, DONE, REFUSED], now), NOTHING);
    let without = "00050002 e334dca1 00000018 03000008 f52a12a1 0400000b 6e6f7375 63680000";
    let garbled = COUNT.replace("83000016", "88000016");
    for refused in [without, &garbled] {
        let out = said(&mut client, &[refused], now);
        assert_eq!(out[8..], hex("00000014 01000008 00000002 03000008 f52a12a1"), "{refused}");
    }
}

#[test]
fn the_session_of_a_web_interface_is_no_argument() {
    let now = Instant::now();
    let mut client = published(now);
    let mut data = hex("83000016 00067374 72696e67 00000000 68656c6c 6f000000");
    data.extend(blob::encode(&Value::Table(vec![("ubus_rpc_session".into(), "0".repeat(32).into())])));
    let mut frame = Vec::new();
    blob::frame(&mut frame, message::INVOKE, 7, 9, |out| {
        blob::number(out, attribute::OBJID, 0xf52a_12a1);
        blob::text(out, attribute::METHOD, "count");
        blob::put(out, attribute::DATA, &data);
    });
    client.handle(&frame);
    let Some(Todo::Answer(call)) = client.poll(now) else { panic!() };
    assert_eq!(call.arguments, Value::Table(vec![("string".into(), "hello".into())]));
}

#[test]
fn an_event_is_told_as_the_real_bus_has_it() {
    let now = Instant::now();
    let mut client = published(now);
    client.tell("seedd.complete", Value::Table(vec![("name".into(), "x".into())]));
    assert_eq!(client.poll(now), None);
    let sent = "00050002 00000001 00000054 03000008 00000001 04000009 73656e64 00000000 0700003c 8300001b 00026964 00000000 \
        73656564 642e636f 6d706c65 74650000 8200001c 00046461 74610000 8300000e 00046e61 6d650000 78000000";
    assert_eq!(all_sent(&mut client), hex(sent));
    // What the bus says to it does not matter, even that we may not.
    let denied = "00010002 00000001 0000000c 01000008 00000006";
    assert_eq!(said(&mut client, &[denied], now), NOTHING);
}

#[test]
fn of_a_burst_of_events_the_newest_are_told_and_no_more_than_a_few_a_second() {
    let mut now = Instant::now();
    let mut client = published(now);
    let mut told = 0;
    for i in 0..1000 {
        client.tell("e", Value::Table(vec![("i".into(), Value::Int(i))]));
    }
    let mut last = Vec::new();
    for _ in 0..10 {
        assert_eq!(client.poll(now), None);
        let mut out = &all_sent(&mut client)[..];
        let before = told;
        while let Some(head) = Head::decode(out).unwrap() {
            let (frame, rest) = out.split_at(head.len);
            last = frame.to_vec();
            out = rest;
            told += 1;
        }
        assert!(told - before <= BURST);
        now = client.deadline().unwrap_or(now);
    }
    assert_eq!(told, MAX_EVENTS);
    let body = Body::decode(&last[HEAD..]).unwrap();
    assert_eq!(blob::table(body.data.unwrap()).unwrap().field("data").field("i").number(), 999);
    assert_eq!(client.deadline(), None);
}

#[test]
fn a_refusal_is_asked_about_again_ever_more_rarely_and_quietly() {
    let mut now = Instant::now();
    let mut client = greeted(now);
    let mut pauses = Vec::new();
    for seq in 1..10 {
        let refusal = REFUSED.replace("00010001", &format!("0001{seq:04x}"));
        assert_eq!(said(&mut client, &[&refusal], now), NOTHING);
        let again = client.deadline().unwrap();
        pauses.push((again - now).as_secs());
        assert_eq!(client.poll(again - Duration::from_millis(1)), None);
        client.tell("e", Value::Table(Vec::new()));
        now = again;
        assert_eq!(client.poll(now), None);
        assert_eq!(all_sent(&mut client)[4..], hex(ADD_OBJECT)[4..], "and nothing else");
        assert_eq!(client.told, seq >= 7, "told once it is refused for a minute");
    }
    assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
    let (object, done) = (OBJECT.replace("00020001", "0002000a"), DONE.replace("00010001", "0001000a"));
    assert_eq!(said(&mut client, &[&object, &done], now), NOTHING);
    assert_eq!((client.state, client.deadline()), (State::Published, None));
}

#[test]
fn a_bus_that_never_was_there_is_looked_for_only_when_told_to() {
    let now = Instant::now();
    let mut client = Client::new(TEST, now);
    for _ in 0..3 {
        assert_eq!(client.poll(now), Some(Todo::Connect));
        client.lost(now);
        assert_eq!((client.poll(now + seconds(9999)), client.deadline()), (None, None));
        client.look(now);
    }
}

#[test]
fn a_bus_that_goes_away_is_looked_for_at_once_then_more_rarely_then_when_told_to() {
    let start = Instant::now();
    let mut client = published(start);
    // It comes back and goes again: no better than being away.
    let mut now = start + seconds(1);
    client.lost(now);
    let mut pauses = Vec::new();
    while let Some(at) = client.deadline() {
        pauses.push((at - now).as_millis());
        now = at;
        assert_eq!(client.poll(now), Some(Todo::Connect));
        client.connected(now);
        client.lost(now);
    }
    assert_eq!(pauses, [50, 100, 200, 400, 800, 1600, 3200, 6400, 12_800, 25_600, 51_200]);
    client.look(now);
    assert_eq!(client.poll(now), Some(Todo::Connect));
    client.connected(now);
    said(&mut client, &[HELLO, OBJECT, DONE], now);
    now += seconds(61);
    client.lost(now);
    assert_eq!(client.deadline(), Some(now + FIRST_LOOK), "after a good while it begins anew");
}

#[test]
fn a_bus_that_does_not_answer_or_take_is_left() {
    let now = Instant::now();
    let mut silent = Client::new(TEST, now);
    silent.connected(now);
    assert_eq!(silent.deadline(), Some(now + PATIENCE));
    assert!(matches!(silent.poll(now + PATIENCE), Some(Todo::Close(_))));
    let mut mute = greeted(now);
    assert!(matches!(mute.poll(now + PATIENCE), Some(Todo::Close(_))));
    let mut stuck = published(now);
    let count = call(&mut stuck, COUNT, now);
    stuck.answer(&count, Ok(result(1000)));
    assert_eq!(stuck.poll(now), None);
    stuck.sent(100);
    assert_eq!(stuck.poll(now + seconds(5)), None);
    assert_eq!(stuck.deadline(), Some(now + seconds(5) + PATIENCE), "it took something");
    assert!(matches!(stuck.poll(now + seconds(15)), Some(Todo::Close(_))));
    assert_eq!(stuck.out(), NOTHING);
}

#[test]
fn whoever_asks_much_and_reads_nothing_fills_the_queue_once() {
    let now = Instant::now();
    let mut client = published(now);
    let mut most = 0;
    for _ in 0..100 {
        client.handle(&hex(COUNT));
        while let Some(Todo::Answer(call)) = client.poll(now) {
            client.answer(&call, Ok(result(MAX_REPLY - 100)));
        }
        most = most.max(client.out().len());
    }
    assert!(most <= MAX_QUEUE && !client.wants_input(), "{most}");
    // Events wait with them, and nobody wakes up for that.
    client.next_events = Some(now);
    client.tell("e", Value::Table(Vec::new()));
    assert_eq!((client.poll(now), client.deadline()), (None, Some(now + PATIENCE)));
    // As it is read again, all of them are answered.
    let mut answered = 0;
    loop {
        all_sent(&mut client);
        let Some(Todo::Answer(call)) = client.poll(now) else { break };
        client.answer(&call, Err(Status::NotFound));
        answered += 1;
    }
    assert_eq!(answered, 99);
    assert!(!all_sent(&mut client).is_empty(), "and the event is told");
    // A reply that is beyond all bounds is none.
    let count = call(&mut client, COUNT, now);
    client.answer(&count, Ok(result(MAX_REPLY)));
    assert_eq!(all_sent(&mut client), hex(&COUNTED.replace("01000008 00000000", "01000008 00000009")));
}

#[test]
fn a_call_that_is_too_long_is_refused_and_the_next_one_answered() {
    let now = Instant::now();
    let mut client = published(now);
    let mut long = Vec::new();
    blob::frame(&mut long, message::INVOKE, 7, 9, |out| {
        blob::number(out, attribute::OBJID, 0xf52a_12a1);
        blob::text(out, attribute::METHOD, "count");
        blob::put(out, attribute::DATA, &result(MAX_FRAME * 3));
    });
    for chunk in long.chunks(4096) {
        client.handle(chunk);
        assert_eq!(client.poll(now), None);
        assert!(client.read.len() <= 4096);
    }
    let refusal = "00010007 00000009 00000014 01000008 00000002 03000008 f52a12a1";
    assert_eq!(all_sent(&mut client), hex(refusal));
    assert_eq!(call(&mut client, COUNT, now).method, "count");
}

#[test]
fn what_is_not_the_bus_is_left() {
    let now = Instant::now();
    for wrong in [
        "HTTP/1.1 400 Bad Request",
        "\0\0\0\0\0\0\0\0\0\u{10}\0\u{1}",
        "\0\0\0\0\0\0\0\0\0\0\0\u{3}",
        "\0\0\0\0\0\0\0\0\0\0\0\u{8}\u{3}\0\0\u{9}",
        "\0\u{5}\0\0\0\0\0\0\0\0\0\u{4}",
    ] {
        let mut client = Client::new(TEST, now);
        client.connected(now);
        client.handle(wrong.as_bytes());
        assert!(matches!(client.poll(now), Some(Todo::Close(_))), "{wrong:?}");
        assert!(!client.wants_input());
    }
    // Registered without an object.
    let mut client = greeted(now);
    client.handle(&hex(DONE));
    assert!(matches!(client.poll(now), Some(Todo::Close(_))));
}

#[test]
fn an_answer_to_a_connection_that_is_gone_is_not_given_to_the_next() {
    let now = Instant::now();
    let mut client = published(now);
    let count = call(&mut client, COUNT, now);
    client.lost(now);
    client.answer(&count, Ok(Vec::new()));
    assert_eq!(client.out(), NOTHING);
}

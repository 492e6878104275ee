//! Announces as URL queries and replies as bencoded dictionaries, both ways; scrapes as a client needs them.
//!
//! Read first: BEP 3 ("trackers"), 7 and 23 (compact peers), 24 (external ip), 31 (retry in), 48 (scrape). Lenient where
//! trackers are known to err: keys out of order, bytes after the reply, peers as dictionaries, numbers past 64 bits.
//! Omits: peers by name, `ip=`. Holds no memory beside the reply.

use std::borrow::Cow;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::peers::{Sample, encode_compact};
use super::{Announce, Counts, DEFAULT_INTERVAL, Event, Failure, MAX_TRACKER_ID, Reply, Retry, text};
use crate::bencode::{self, Value, Writer};
use crate::http::{Scheme, Url, escape};
use crate::metainfo::InfoHash;
use crate::net::Family;
use crate::random::Random;

/// Numbers past 64 bits in one reply that are read as large ones; a reply with more is no mistake.
const MAX_HUGE: usize = 8;

/// Appends the query of an announce, without `?`.
pub fn encode_announce(announce: &Announce<'_>, out: &mut Vec<u8>) {
    out.extend_from_slice(b"info_hash=");
    escape(announce.info_hash.as_bytes(), out);
    out.extend_from_slice(b"&peer_id=");
    escape(&announce.peer_id, out);
    for (name, value) in [
        ("port", u64::from(announce.port)),
        ("uploaded", announce.uploaded),
        ("downloaded", announce.downloaded),
        ("left", announce.left),
        ("compact", 1),
        ("numwant", u64::from(announce.numwant)),
    ] {
        out.push(b'&');
        out.extend_from_slice(name.as_bytes());
        out.push(b'=');
        encode_number(value, out);
    }
    // Always eight digits: some trackers take it for text.
    out.extend_from_slice(b"&key=");
    for byte in announce.key.to_be_bytes() {
        out.extend_from_slice(&hex(byte));
    }
    let event: &[u8] = match announce.event {
        Event::None => b"",
        Event::Started => b"&event=started",
        Event::Completed => b"&event=completed",
        Event::Stopped => b"&event=stopped",
        Event::Paused => b"&event=paused",
    };
    out.extend_from_slice(event);
    if let Some(id) = &announce.tracker_id {
        out.extend_from_slice(b"&trackerid=");
        escape(id, out);
    }
}

/// The announce in a query. `None` where a key is missing that BEP 3 demands, or is wrong.
pub fn decode_announce(query: &str) -> Option<Announce<'static>> {
    let (mut info_hash, mut peer_id, mut port, mut left) = (None, None, None, None);
    let mut announce = Announce {
        info_hash: InfoHash::from_bytes([0; 20]),
        peer_id: [0; 20],
        port: 0,
        uploaded: 0,
        downloaded: 0,
        left: 0,
        event: Event::None,
        numwant: u32::from(super::NUMWANT),
        key: 0,
        tracker_id: None,
    };
    for (name, value) in query.split('&').filter_map(|pair| pair.split_once('=')) {
        match name {
            "info_hash" => info_hash = decode_bytes(value)?.try_into().ok(),
            "peer_id" => peer_id = decode_bytes(value)?.try_into().ok(),
            "port" => port = value.parse().ok(),
            "left" => left = value.parse().ok(),
            "uploaded" => announce.uploaded = value.parse().ok()?,
            "downloaded" => announce.downloaded = value.parse().ok()?,
            "numwant" => announce.numwant = value.parse().unwrap_or(announce.numwant),
            "key" => announce.key = u32::from_str_radix(value, 16).unwrap_or(0),
            "trackerid" => announce.tracker_id = Some(Cow::Owned(decode_bytes(value)?)),
            "event" => {
                announce.event = match value {
                    "started" => Event::Started,
                    "completed" => Event::Completed,
                    "stopped" => Event::Stopped,
                    "paused" => Event::Paused,
                    _ => Event::None,
                }
            }
            _ => {}
        }
    }
    announce.info_hash = InfoHash::from_bytes(info_hash?);
    announce.peer_id = peer_id?;
    announce.port = port?;
    announce.left = left?;
    Some(announce)
}

/// Appends a reply with compact peers.
pub fn encode_reply(reply: &Reply, out: &mut Vec<u8>) {
    let (mut peers, mut peers6) = (Vec::new(), Vec::new());
    encode_compact(&reply.peers, Family::V4, &mut peers);
    encode_compact(&reply.peers, Family::V6, &mut peers6);
    Writer::new(out).dict(|dict| {
        if let Some(complete) = reply.complete {
            dict.int("complete", i64::from(complete));
        }
        if let Some(downloaded) = reply.downloaded {
            dict.int("downloaded", i64::from(downloaded));
        }
        match reply.external_ip {
            Some(IpAddr::V4(v4)) => dict.bytes("external ip", v4.octets()),
            Some(IpAddr::V6(v6)) => dict.bytes("external ip", v6.octets()),
            None => {}
        }
        if let Some(incomplete) = reply.incomplete {
            dict.int("incomplete", i64::from(incomplete));
        }
        dict.int("interval", i64::from(reply.interval));
        if let Some(seconds) = reply.min_interval {
            dict.int("min interval", i64::from(seconds));
        }
        dict.bytes("peers", &peers);
        if !peers6.is_empty() {
            dict.bytes("peers6", &peers6);
        }
        if let Some(id) = &reply.tracker_id {
            dict.bytes("tracker id", id);
        }
        if let Some(warning) = &reply.warning {
            dict.bytes("warning message", warning);
        }
    });
}

/// Appends a refusal.
pub fn encode_refusal(reason: &str, retry: Retry, out: &mut Vec<u8>) {
    Writer::new(out).dict(|dict| {
        dict.bytes("failure reason", reason);
        match retry {
            Retry::Unsaid => {}
            Retry::Minutes(minutes) => dict.int("retry in", i64::from(minutes)),
            Retry::Never => dict.bytes("retry in", "never"),
        }
    });
}

/// What a tracker answered. Peers that can not be dialled are dropped, loopback ones unless `from_loopback` (the
/// tracker is on this machine); of too many a random sample is kept.
pub fn decode_reply(body: &[u8], from_loopback: bool, random: &mut Random) -> Result<Reply, Failure> {
    let body = tame(body);
    let entries = dictionary(&body)?;
    let mut reply = Reply::default();
    let (mut failure, mut retry) = (None, Retry::Unsaid);
    let mut sample = Sample::new(from_loopback, random);
    for (key, value) in entries {
        match key {
            b"failure reason" => failure = value.as_bytes().map(text),
            b"retry in" => retry = decode_retry(value),
            b"warning message" => reply.warning = value.as_bytes().filter(|text| !text.is_empty()).map(text),
            b"interval" => reply.interval = number(value).unwrap_or(DEFAULT_INTERVAL),
            b"min interval" => reply.min_interval = number(value),
            b"tracker id" => {
                reply.tracker_id =
                    value.as_bytes().filter(|id| id.len() <= MAX_TRACKER_ID).map(<[u8]>::to_vec);
            }
            b"complete" => reply.complete = number(value),
            b"incomplete" => reply.incomplete = number(value),
            b"downloaded" => reply.downloaded = number(value),
            b"external ip" => reply.external_ip = value.as_bytes().and_then(decode_ip),
            b"peers" => take_peers(value, Family::V4, &mut sample),
            b"peers6" => take_peers(value, Family::V6, &mut sample),
            _ => {}
        }
    }
    if let Some(reason) = failure {
        return Err(Failure::Refused(reason, retry));
    }
    reply.peers = sample.peers();
    Ok(reply)
}

/// Where the tracker of an announce URL is asked for counts; `None`: it is not by its URL's form.
pub fn scrape_url(announce: &Url) -> Option<Url> {
    if announce.scheme() == Scheme::Udp {
        return Some(announce.clone());
    }
    let text = announce.as_str();
    let (origin, target) = text.split_at(text.len() - announce.target().len());
    let (path, query) = target.split_at(target.find('?').unwrap_or(target.len()));
    let (folder, name) = path.split_at(path.rfind('/')? + 1);
    Url::parse(&format!("{origin}{folder}scrape{}{query}", name.strip_prefix("announce")?)).ok()
}

/// Appends the query that asks for the counts of these torrents.
pub fn encode_scrape(torrents: &[InfoHash], out: &mut Vec<u8>) {
    for (n, info_hash) in torrents.iter().enumerate() {
        out.extend_from_slice(if n == 0 { b"info_hash=" } else { b"&info_hash=" });
        escape(info_hash.as_bytes(), out);
    }
}

/// The counts of those torrents in the answer, in their order; a torrent that it leaves out has none.
pub fn decode_scrape(body: &[u8], torrents: &[InfoHash]) -> Result<Vec<Counts>, Failure> {
    let body = tame(body);
    let mut files = None;
    for (key, value) in dictionary(&body)? {
        match key {
            b"failure reason" => {
                return Err(Failure::Refused(value.as_bytes().map(text).unwrap_or_default(), Retry::Unsaid));
            }
            b"files" => files = value.entries(),
            _ => {}
        }
    }
    let files = files.ok_or_else(|| Failure::Reply("the tracker's reply has no counts".into()))?;
    let mut counts = vec![Counts::default(); torrents.len()];
    for (key, file) in files {
        let Some(at) = torrents.iter().position(|info_hash| info_hash.as_bytes() == key) else { continue };
        let count = |name: &str| file.find(name.as_bytes()).and_then(number);
        let (seeds, leechers) = (count("complete"), count("incomplete"));
        counts[at] = Counts { seeds, leechers, downloads: count("downloaded") };
    }
    Ok(counts)
}

/// Peers in compact form, or as a list of dictionaries.
fn take_peers(value: Value<'_>, family: Family, sample: &mut Sample<'_>) {
    if let Some(compact) = value.as_bytes() {
        sample.compact(compact, family);
    }
    for peer in value.items().into_iter().flatten() {
        let ip = peer.find(b"ip").and_then(Value::as_str).and_then(|ip| ip.parse().ok());
        let port = peer.find(b"port").and_then(Value::as_int).and_then(|port| u16::try_from(port).ok());
        if let (Some(ip), Some(port)) = (ip, port) {
            sample.insert(SocketAddr::new(ip, port));
        }
    }
}

/// The entries of a body that is to be a dictionary, whatever comes after it.
fn dictionary(body: &[u8]) -> Result<impl Iterator<Item = (&[u8], Value<'_>)>, Failure> {
    let (value, _) = Value::parse_prefix(body)
        .map_err(|error| Failure::Reply(format!("not a tracker's reply: {error}")))?;
    value.entries().ok_or_else(|| Failure::Reply("not a tracker's reply: no dictionary".into()))
}

/// Numbers past 64 bits made as large as fits: the interval is clamped anyway.
fn tame(body: &[u8]) -> Cow<'_, [u8]> {
    let mut body = Cow::Borrowed(body);
    for _ in 0..MAX_HUGE {
        let Err(bencode::Error::Integer(at)) = Value::parse_prefix(&body) else { break };
        let sign = at + 1 + usize::from(body.get(at + 1) == Some(&b'-'));
        let digits =
            body.get(sign..).map_or(0, |rest| rest.iter().take_while(|b| b.is_ascii_digit()).count());
        if digits < 19 || body.get(sign) == Some(&b'0') || body.get(sign + digits) != Some(&b'e') {
            break;
        }
        body.to_mut().splice(sign..sign + digits, *b"999999999999999999");
    }
    body
}

fn decode_retry(value: Value<'_>) -> Retry {
    let number: Option<u64> = value.as_int().and_then(|number| number.try_into().ok());
    let said = number.or_else(|| value.as_str().and_then(|text| text.trim().parse().ok()));
    match said {
        Some(minutes) if minutes > 0 => Retry::Minutes(u32::try_from(minutes).unwrap_or(u32::MAX)),
        None if value.as_bytes().is_some_and(|text| text.trim_ascii().eq_ignore_ascii_case(b"never")) => {
            Retry::Never
        }
        _ => Retry::Unsaid,
    }
}

/// A number that is not below 0, as far as 32 bits go.
fn number(value: Value<'_>) -> Option<u32> {
    value.as_int().map(|n| u32::try_from(n.max(0)).unwrap_or(u32::MAX))
}

fn decode_ip(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return Some(Ipv4Addr::from(v4).into());
    }
    <[u8; 16]>::try_from(bytes).ok().map(|v6| Ipv6Addr::from(v6).into())
}

fn decode_bytes(text: &str) -> Option<Vec<u8>> {
    let mut bytes = text.bytes();
    let mut out = Vec::with_capacity(20);
    while let Some(byte) = bytes.next() {
        out.push(match byte {
            b'%' => {
                let mut digit = || char::from(bytes.next()?).to_digit(16).and_then(|d| u8::try_from(d).ok());
                digit()? << 4 | digit()?
            }
            b'+' => b' ',
            _ => byte,
        });
    }
    Some(out)
}

fn encode_number(mut value: u64, out: &mut Vec<u8>) {
    let start = out.len();
    loop {
        out.push(b'0' + u8::try_from(value % 10).unwrap_or(0));
        value /= 10;
        if value == 0 {
            break;
        }
    }
    out[start..].reverse();
}

fn hex(byte: u8) -> [u8; 2] {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    [DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]
}

#[cfg(test)]
mod tests {
    use super::super::MAX_PEERS;
    use super::*;

    fn decode(body: &[u8]) -> Result<Reply, Failure> {
        decode_reply(body, false, &mut Random::new(1))
    }

    fn announce() -> Announce<'static> {
        let mut hash = [0; 20];
        for (n, byte) in hash.iter_mut().enumerate() {
            *byte = u8::try_from(n * 13).unwrap();
        }
        Announce {
            info_hash: InfoHash::from_bytes(hash),
            peer_id: *b"-MS0100-\x00\xff &=%?#~a/z",
            port: 6881,
            uploaded: u64::MAX,
            downloaded: 0,
            left: 1 << 40,
            event: Event::Started,
            numwant: 50,
            key: 0x0a0b_0c0d,
            tracker_id: None,
        }
    }

    #[test]
    fn an_announce_is_written_as_it_is_read() {
        for event in [Event::None, Event::Started, Event::Completed, Event::Stopped, Event::Paused] {
            for tracker_id in [None, Some(Cow::Borrowed(&b"id &\x00\r\n"[..]))] {
                let announce = Announce { event, tracker_id, ..announce() };
                let mut query = Vec::new();
                encode_announce(&announce, &mut query);
                let query = String::from_utf8(query).unwrap();
                assert!(query.bytes().all(|b| b > b' ' && b < 0x7f), "{query}");
                assert_eq!(decode_announce(&query), Some(announce));
                for cut in 0..query.len() {
                    let _ = decode_announce(&query[..cut]);
                    let _ = decode_announce(&format!("{}%{}", &query[..cut], &query[cut..]));
                }
            }
        }
    }

    #[test]
    fn an_announce_looks_as_trackers_expect_it() {
        let mut query = Vec::new();
        encode_announce(&announce(), &mut query);
        let query = String::from_utf8(query).unwrap();
        assert_eq!(
            query,
            "info_hash=%00%0D%1A%274AN%5Bhu%82%8F%9C%A9%B6%C3%D0%DD%EA%F7\
             &peer_id=-MS0100-%00%FF%20%26%3D%25%3F%23~a%2Fz&port=6881&uploaded=18446744073709551615&downloaded=0\
             &left=1099511627776&compact=1&numwant=50&key=0A0B0C0D&event=started"
        );
    }

    #[test]
    fn a_reply_is_written_as_it_is_read() {
        let full = Reply {
            interval: 1800,
            min_interval: Some(900),
            tracker_id: Some(b"abc\0".to_vec()),
            warning: Some("soon".into()),
            complete: Some(5),
            incomplete: Some(0),
            downloaded: Some(7),
            external_ip: Some("203.0.113.9".parse().unwrap()),
            peers: ["10.1.1.1:6881", "203.0.113.1:1", "[2001:db8::1]:65535"]
                .map(|p| p.parse().unwrap())
                .to_vec(),
        };
        let six = Reply { external_ip: Some("2001:db8::5".parse().unwrap()), ..Reply::default() };
        for reply in [full, six, Reply::default()] {
            let mut body = Vec::new();
            encode_reply(&reply, &mut body);
            assert_eq!(decode(&body), Ok(reply));
        }
        for retry in [Retry::Unsaid, Retry::Minutes(7), Retry::Never] {
            let mut body = Vec::new();
            encode_refusal("not here", retry, &mut body);
            assert_eq!(decode(&body), Err(Failure::Refused("not here".into(), retry)));
        }
    }

    #[test]
    fn a_scrape_goes_where_an_announce_goes() {
        for (announce, scrape) in [
            ("http://t.example/announce", "http://t.example/scrape"),
            ("http://t.example:7/x/announce.php?key=a/b", "http://t.example:7/x/scrape.php?key=a/b"),
            ("http://t.example/announce/announce", "http://t.example/announce/scrape"),
        ] {
            let url = scrape_url(&Url::parse(announce).unwrap()).unwrap();
            assert_eq!(url.as_str(), scrape);
        }
        for none in [
            "http://t.example/",
            "http://t.example/a",
            "http://t.example/x?/announce",
            "http://t.example/announce/x",
        ] {
            assert_eq!(scrape_url(&Url::parse(none).unwrap()), None, "{none}");
        }
        let torrents = [[b'a'; 20], [0xff; 20]].map(InfoHash::from_bytes);
        let mut query = Vec::new();
        encode_scrape(&torrents, &mut query);
        let expected = format!("info_hash={}&info_hash={}", "a".repeat(20), "%FF".repeat(20));
        assert_eq!(query, expected.as_bytes());
    }

    #[test]
    fn counts_are_taken_for_the_torrents_they_are_of() {
        let torrents = [b'a', b'b', b'c'].map(|byte| InfoHash::from_bytes([byte; 20]));
        let file = |name: &str, numbers: &str| format!("20:{}d{numbers}e", name.repeat(20));
        let body = |files: &[String]| format!("d5:filesd{}ee", files.concat()).into_bytes();
        let decode = |body: &[u8]| decode_scrape(body, &torrents);
        let found = decode(&body(&[
            file("c", "8:completei5e10:downloadedi99999999999999999999e10:incompletei-1e"),
            file("a", "8:completei0e10:incompletei7e4:name1:x"),
            file("x", "8:completei1e"),
        ]));
        let counts = |seeds, leechers, downloads| Counts { seeds, leechers, downloads };
        let expected =
            [counts(Some(0), Some(7), None), Counts::default(), counts(Some(5), Some(0), Some(u32::MAX))];
        assert_eq!(found.unwrap(), expected);
        assert_eq!(decode(b"d5:filesdee").unwrap(), [Counts::default(); 3]);
        let refused = decode(b"d14:failure reason4:full5:filesdee");
        assert_eq!(refused, Err(Failure::Refused("full".into(), Retry::Unsaid)));
        for none in ["", "de", "d5:filesi1ee", "d5:filesle", "<html>", "le"] {
            assert!(matches!(decode(none.as_bytes()), Err(Failure::Reply(_))), "{none}");
        }
        for wrong in ["d5:filesd20:aaaaaaaaaaaaaaaaaaaai1eee", "d5:filesd3:abcdeee"] {
            assert_eq!(decode(wrong.as_bytes()).unwrap(), [Counts::default(); 3]);
        }
    }

    #[test]
    fn replies_of_real_trackers_are_read() {
        let dicts = b"d8:intervali1800e5:peersld2:ip9:10.0.0.114:porti6881eed2:ip11:2001:db8::14:porti7eed2:ip4:name4:porti7eed2:ip8:10.0.0.14:porti99999eei5eee";
        let peers = decode(dicts).unwrap().peers;
        assert_eq!(peers, ["10.0.0.11:6881", "[2001:db8::1]:7"].map(|p| p.parse().unwrap()));
        // Keys out of order, a line end after the reply, a tail that is no whole peer.
        let reply = decode(b"d5:peers8:\x0a\0\0\x01\x1a\xe1zz8:intervali60ee\r\n").unwrap();
        assert_eq!((reply.interval, reply.peers.len()), (60, 1));
        assert_eq!(decode(b"de").unwrap(), Reply::default());
    }

    #[test]
    fn numbers_are_clamped_whatever_their_size() {
        let interval =
            |number: &str| decode(format!("d8:interval{number}5:peers0:e").as_bytes()).map(|r| r.interval);
        assert_eq!(interval("i0e"), Ok(0));
        assert_eq!(interval("i-5e"), Ok(0));
        assert_eq!(interval("i4294967296e"), Ok(u32::MAX));
        assert_eq!(interval("i9223372036854775808e"), Ok(u32::MAX));
        assert_eq!(interval("i99999999999999999999999999999999999999e"), Ok(u32::MAX));
        assert_eq!(interval("i-99999999999999999999999999999999999999e"), Ok(0));
        assert_eq!(interval("2:60"), Ok(DEFAULT_INTERVAL));
        for number in ["ie", "i-0e", "i01e", "i00000000000000000000000000000000e", "i1xe", "i 1e", "i1"] {
            assert!(interval(number).is_err(), "{number}");
        }
        let many =
            format!("d{}e", (10..30).map(|n| format!("2:{n}i{}e", "9".repeat(40))).collect::<String>());
        assert!(decode(many.as_bytes()).is_err());
    }

    #[test]
    fn peers_that_lead_nowhere_are_dropped_and_loopback_is_believed_only_from_loopback() {
        let peers = [
            "10.0.0.1:0",
            "0.1.2.3:5",
            "224.0.0.1:5",
            "127.0.0.1:5",
            "[::1]:5",
            "[ff02::1]:5",
            "[fe80::1]:5",
            "10.0.0.1:5",
            "255.255.255.255:5",
        ];
        let reply = Reply { peers: peers.map(|p| p.parse().unwrap()).to_vec(), ..Reply::default() };
        let mut body = Vec::new();
        encode_reply(&reply, &mut body);
        assert_eq!(decode(&body).unwrap().peers, ["10.0.0.1:5".parse().unwrap()]);
        let local = decode_reply(&body, true, &mut Random::new(1)).unwrap().peers;
        assert_eq!(local, ["127.0.0.1:5", "10.0.0.1:5", "[::1]:5"].map(|p| p.parse().unwrap()));
    }

    #[test]
    fn of_a_hundred_thousand_peers_a_fair_sample_is_kept() {
        let peers: Vec<SocketAddr> = (0..100_000_u32)
            .map(|n| SocketAddr::new(Ipv4Addr::from_bits(0x0a00_0000 + n).into(), 1))
            .collect();
        let mut body = Vec::new();
        encode_reply(&Reply { peers, ..Reply::default() }, &mut body);
        let kept = decode(&body).unwrap().peers;
        assert_eq!(kept.len(), MAX_PEERS);
        let late =
            kept.iter().filter(|p| p.ip() >= IpAddr::V4(Ipv4Addr::from_bits(0x0a00_0000 + 50_000))).count();
        assert!((60..140).contains(&late), "{late} of 200 from the second half");
    }

    #[test]
    fn foreign_text_is_cut() {
        for unit in ["a", "ä", "\u{1b}[31m", "\u{ffff}"] {
            let mut body = Vec::new();
            encode_refusal(&unit.repeat(1 << 16), Retry::Unsaid, &mut body);
            let Err(Failure::Refused(reason, _)) = decode(&body) else { panic!("no refusal") };
            assert!(reason.len() <= super::super::MAX_TEXT && reason.len() > 200);
        }
        assert!(text(&[0xff; 1000]).len() <= super::super::MAX_TEXT);
    }

    #[test]
    fn retry_in_is_a_number_or_never() {
        let retry = |value: &str| match decode(format!("d14:failure reason1:x8:retry in{value}e").as_bytes())
        {
            Err(Failure::Refused(_, retry)) => retry,
            other => panic!("{other:?}"),
        };
        assert_eq!(retry("i5e"), Retry::Minutes(5));
        assert_eq!(retry("1:5"), Retry::Minutes(5));
        assert_eq!(retry("5:never"), Retry::Never);
        assert_eq!(retry("i0e"), Retry::Unsaid);
        assert_eq!(retry("i-3e"), Retry::Unsaid);
        assert_eq!(retry("le"), Retry::Unsaid);
        assert_eq!(retry("i99999999999e"), Retry::Minutes(u32::MAX));
    }

    #[test]
    fn two_families_make_one_reply() {
        let mut random = Random::new(3);
        let peers = |from: u32, n: u32| -> Vec<SocketAddr> {
            (from..from + n)
                .map(|n| SocketAddr::new(Ipv4Addr::from_bits(0x0a00_0000 + n).into(), 1))
                .collect()
        };
        let mut reply = Reply { interval: 60, peers: peers(0, 150), ..Reply::default() };
        let other = Reply { interval: 90, min_interval: Some(5), peers: peers(100, 150), ..Reply::default() };
        reply.merge(other, &mut random);
        assert_eq!((reply.interval, reply.min_interval, reply.peers.len()), (90, Some(5), MAX_PEERS));
        reply.peers.sort_unstable();
        reply.peers.dedup();
        assert_eq!(reply.peers.len(), MAX_PEERS);
    }

    #[test]
    fn no_truncation_and_no_mutation_panics() {
        let samples: [&[u8]; 3] = [
            b"d8:completei1e11:external ip4:\x01\x02\x03\x0410:incompletei2e8:intervali1800e12:min intervali5e5:peers6:\x0a\0\0\x01\x1a\xe16:peers618:aaaaaaaaaaaaaaaaaa10:tracker id2:ab15:warning message2:hie",
            b"d5:peersld2:ip8:10.0.0.14:porti6881eeee",
            b"d14:failure reason4:gone8:retry in5:nevere",
        ];
        for sample in samples {
            decode(sample)
                .map(drop)
                .or_else(|e| if matches!(e, Failure::Refused(..)) { Ok(()) } else { Err(e) })
                .unwrap();
            for cut in 0..sample.len() {
                let _ = decode(&sample[..cut]);
                for value in 0..=255 {
                    let mut mutated = sample.to_vec();
                    mutated[cut] = value;
                    let _ = decode(&mutated);
                }
            }
        }
        let mut random = Random::new(9);
        for _ in 0..20_000 {
            let noise: Vec<u8> =
                (0..random.below(60)).map(|_| b"dlie0123456789:-\xffa"[random.below(18)]).collect();
            let _ = decode(&noise);
        }
    }
}

//! The messages of the DHT: one bencoded dictionary a datagram, both ways.
//!
//! Read first: BEP 5 ("KRPC protocol"), 32 (`nodes6`, `want`), 42 (`ip`), 43 (`ro`). Lenient where nodes differ: values
//! and nodes that can not be are passed over one by one. Omits what no BEP that we follow names.
//! Holds the nodes and peers of one message, which are bounded.

use std::net::SocketAddr;

use super::id::Id;
use crate::bencode::{DictWriter, Value, Writer};
use crate::metainfo::InfoHash;
use crate::net::{Family, Host, compact};

/// Nodes of one family that are read of a message; we send eight.
pub const MAX_NODES: usize = 16;

/// Peers that are read of a message: what a datagram that is not cut to pieces holds of one family, about.
pub const MAX_VALUES: usize = 100;

/// Bytes of a transaction id that we send back: nobody's is longer than eight.
const MAX_TRANSACTION: usize = 32;

/// Bytes of a token that we send back: SHA-1's twenty are the longest in use.
pub const MAX_TOKEN: usize = 40;

/// A bad token, or no port.
pub const PROTOCOL_ERROR: i64 = 203;
/// A query of a name that we do not know.
pub const METHOD_UNKNOWN: i64 = 204;

/// A datagram.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message<'a> {
    /// By which the asker knows the answer.
    pub transaction: &'a [u8],
    /// The asker answers nobody: it is not to be kept as a node (BEP 43).
    pub read_only: bool,
    /// Where the other end sees the receiver of this answer (BEP 42).
    pub ip: Option<SocketAddr>,
    /// What it says.
    pub body: Body<'a>,
}

/// What a message says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body<'a> {
    /// Something is asked by the node of that id.
    Query(Id, Query<'a>),
    /// Something is answered.
    Reply(Reply<'a>),
    /// What was asked can not be had, for the reason of that number.
    Error(i64),
}

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Query<'a> {
    /// Nothing but an answer.
    Ping,
    /// The nodes nearest to an id.
    FindNode(Id, Want),
    /// Peers of a torrent, and the nodes nearest to it.
    GetPeers(InfoHash, Want),
    /// That its sender be remembered as a peer.
    Announce {
        /// Of which torrent.
        info_hash: InfoHash,
        /// Where it listens; `None` is where the datagram came from.
        port: Option<u16>,
        /// What proves that it is where it says.
        token: &'a [u8],
    },
    /// Of another name. Where it names an id, the nodes nearest to it are of use all the same.
    Other(Option<Id>, Want),
}

/// What is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply<'a> {
    /// By whom.
    pub id: Id,
    /// What an announce there must show.
    pub token: Option<&'a [u8]>,
    /// Nodes near what was asked for.
    pub nodes: Vec<(Id, SocketAddr)>,
    /// Peers.
    pub values: Vec<SocketAddr>,
}

/// Of which families nodes are wanted (BEP 32): where both are false, of that of the datagram.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Want {
    /// `n4`
    pub v4: bool,
    /// `n6`
    pub v6: bool,
}

impl<'a> Reply<'a> {
    /// That we are there.
    pub fn new(id: Id) -> Reply<'a> {
        Reply { id, token: None, nodes: Vec::new(), values: Vec::new() }
    }
}

/// The bytes of a message.
pub fn encode(message: &Message) -> Vec<u8> {
    let mut out = Vec::with_capacity(128);
    Writer::new(&mut out).dict(|d| {
        match &message.body {
            Body::Query(id, query) => d.dict("a", |d| arguments(d, *id, query)),
            Body::Error(code) => d.list("e", |l| {
                l.int(*code);
                l.bytes(if *code == METHOD_UNKNOWN { "Method Unknown" } else { "Protocol Error" });
            }),
            Body::Reply(_) => {}
        }
        if let Some(ip) = message.ip {
            d.bytes("ip", compact::bytes(ip));
        }
        if let Body::Query(_, query) = &message.body {
            d.bytes("q", name(query));
        }
        if let Body::Reply(reply) = &message.body {
            d.dict("r", |d| results(d, reply));
        }
        if message.read_only {
            d.int("ro", 1);
        }
        d.bytes("t", message.transaction);
        d.bytes(
            "y",
            match message.body {
                Body::Query(..) => "q",
                Body::Reply(_) => "r",
                Body::Error(_) => "e",
            },
        );
    });
    out
}

fn name(query: &Query) -> &'static str {
    match query {
        Query::Ping | Query::Other(..) => "ping",
        Query::FindNode(..) => "find_node",
        Query::GetPeers(..) => "get_peers",
        Query::Announce { .. } => "announce_peer",
    }
}

fn arguments(d: &mut DictWriter, id: Id, query: &Query) {
    d.bytes("id", id.0);
    match query {
        Query::Ping | Query::Other(..) => {}
        Query::FindNode(target, want) => {
            d.bytes("target", target.0);
            wanted(d, *want);
        }
        Query::GetPeers(info_hash, want) => {
            d.bytes("info_hash", info_hash.as_bytes());
            wanted(d, *want);
        }
        Query::Announce { info_hash, port, token } => {
            if port.is_none() {
                d.int("implied_port", 1);
            }
            d.bytes("info_hash", info_hash.as_bytes());
            d.int("port", port.unwrap_or(0).into());
            d.bytes("token", token);
        }
    }
}

fn wanted(d: &mut DictWriter, want: Want) {
    if want != Want::default() {
        d.list("want", |l| {
            [(want.v4, "n4"), (want.v6, "n6")].iter().filter(|(is, _)| *is).for_each(|(_, n)| l.bytes(n));
        });
    }
}

fn results(d: &mut DictWriter, reply: &Reply) {
    d.bytes("id", reply.id.0);
    for (key, family) in [("nodes", Family::V4), ("nodes6", Family::V6)] {
        let of_family = reply.nodes.iter().filter(|(_, addr)| Family::of(addr.host()) == family);
        let mut bytes = Vec::new();
        for (id, addr) in of_family {
            bytes.extend_from_slice(&id.0);
            bytes.extend(compact::bytes(*addr));
        }
        if !bytes.is_empty() {
            d.bytes(key, bytes);
        }
    }
    if let Some(token) = reply.token {
        d.bytes("token", token);
    }
    if !reply.values.is_empty() {
        d.list("values", |l| reply.values.iter().for_each(|&addr| l.bytes(compact::bytes(addr))));
    }
}

/// Reads what other nodes write. `None`: it is no message, or one that makes no sense.
pub fn decode(datagram: &[u8]) -> Option<Message<'_>> {
    let value = Value::parse(datagram).ok()?;
    let (mut transaction, mut kind, mut named) = (None, None, None);
    let (mut query, mut reply, mut error) = (None, None, None);
    let mut message = Message { transaction: &[], read_only: false, ip: None, body: Body::Error(0) };
    for (key, value) in value.entries()? {
        match key {
            b"t" => transaction = value.as_bytes().filter(|bytes| bytes.len() <= MAX_TRANSACTION),
            b"y" => kind = value.as_bytes(),
            b"q" => named = value.as_bytes(),
            b"a" => query = Some(value),
            b"r" => reply = Some(value),
            b"e" => error = value.items().and_then(|mut items| items.next()?.as_int()),
            b"ro" => message.read_only = value.as_int() == Some(1),
            b"ip" => message.ip = value.as_bytes().and_then(compact::address),
            _ => {}
        }
    }
    message.transaction = transaction?;
    message.body = match kind? {
        b"q" => decode_query(named?, query?)?,
        b"r" => Body::Reply(decode_reply(reply?)?),
        b"e" => Body::Error(error.unwrap_or(0)),
        _ => return None,
    };
    Some(message)
}

fn decode_query<'a>(name: &[u8], arguments: Value<'a>) -> Option<Body<'a>> {
    let (mut id, mut target, mut info_hash, mut token) = (None, None, None, None);
    let (mut port, mut implied, mut want) = (None, false, Want::default());
    for (key, value) in arguments.entries()? {
        match key {
            b"id" => id = id_of(value),
            b"target" => target = id_of(value),
            b"info_hash" => info_hash = id_of(value),
            b"token" => token = value.as_bytes(),
            b"port" => port = value.as_int().and_then(|port| u16::try_from(port).ok()),
            b"implied_port" => implied = value.as_int().is_some_and(|implied| implied != 0),
            b"want" => {
                for one in value.items().into_iter().flatten() {
                    want.v4 |= one.as_bytes() == Some(b"n4");
                    want.v6 |= one.as_bytes() == Some(b"n6");
                }
            }
            _ => {}
        }
    }
    let torrent = info_hash.map(|id: Id| InfoHash::from_bytes(id.0));
    let query = match name {
        b"ping" => Query::Ping,
        b"find_node" => Query::FindNode(target?, want),
        b"get_peers" => Query::GetPeers(torrent?, want),
        b"announce_peer" => {
            let port = if implied { None } else { Some(port?) };
            Query::Announce { info_hash: torrent?, port, token: token? }
        }
        _ => Query::Other(target.or(info_hash), want),
    };
    Some(Body::Query(id?, query))
}

fn decode_reply(results: Value<'_>) -> Option<Reply<'_>> {
    let mut reply = Reply::new(Id([0; 20]));
    let mut id = None;
    for (key, value) in results.entries()? {
        match key {
            b"id" => id = id_of(value),
            b"token" => reply.token = value.as_bytes().filter(|token| token.len() <= MAX_TOKEN),
            b"nodes" | b"nodes6" => {
                reply.nodes.extend(nodes(value, if key == b"nodes" { 26 } else { 38 }));
            }
            b"values" => {
                let values = value.items().into_iter().flatten();
                let values = values.filter_map(|one| one.as_bytes().and_then(compact::address));
                reply.values.extend(values.take(MAX_VALUES));
            }
            _ => {}
        }
    }
    reply.id = id?;
    Some(reply)
}

fn nodes(value: Value<'_>, width: usize) -> impl Iterator<Item = (Id, SocketAddr)> {
    let each = value.as_bytes().unwrap_or_default().chunks_exact(width).take(MAX_NODES);
    each.filter_map(|bytes| {
        let (id, addr) = bytes.split_at(20);
        Some((Id(id.try_into().ok()?), compact::address(addr)?))
    })
}

fn id_of(value: Value<'_>) -> Option<Id> {
    value.as_bytes()?.try_into().ok().map(Id)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: Id = Id(*b"abcdefghij0123456789");
    const OTHER: Id = Id(*b"mnopqrstuvwxyz123456");

    fn plain(transaction: &[u8], body: Body<'static>) -> Vec<u8> {
        encode(&Message { transaction, read_only: false, ip: None, body })
    }

    #[test]
    fn messages_are_written_as_in_the_bep() {
        let info_hash = InfoHash::from_bytes(OTHER.0);
        let want = Want::default();
        let announce = Query::Announce { info_hash, port: Some(6881), token: b"aoeusnth" };
        let cases = [
            (Body::Query(ID, Query::Ping), "d1:ad2:id20:abcdefghij0123456789e1:q4:ping1:t2:aa1:y1:qe"),
            (Body::Reply(Reply::new(OTHER)), "d1:rd2:id20:mnopqrstuvwxyz123456e1:t2:aa1:y1:re"),
            (
                Body::Query(ID, Query::FindNode(OTHER, want)),
                "d1:ad2:id20:abcdefghij01234567896:target20:mnopqrstuvwxyz123456e1:q9:find_node1:t2:aa1:y1:qe",
            ),
            (
                Body::Query(ID, Query::GetPeers(info_hash, want)),
                "d1:ad2:id20:abcdefghij01234567899:info_hash20:mnopqrstuvwxyz123456e1:q9:get_peers1:t2:aa1:y1:qe",
            ),
            (
                Body::Query(ID, announce),
                "d1:ad2:id20:abcdefghij01234567899:info_hash20:mnopqrstuvwxyz1234564:porti6881e5:token8:aoeusnthe\
                1:q13:announce_peer1:t2:aa1:y1:qe",
            ),
            (Body::Error(204), "d1:eli204e14:Method Unknowne1:t2:aa1:y1:ee"),
        ];
        for (body, text) in cases {
            let bytes = plain(b"aa", body);
            assert_eq!(String::from_utf8_lossy(&bytes), text);
        }
    }

    #[test]
    fn every_message_reads_as_it_was_written() {
        let v4: SocketAddr = "10.1.2.3:6881".parse().unwrap();
        let v6: SocketAddr = "[fd00::1]:6882".parse().unwrap();
        let info_hash = InfoHash::from_bytes(OTHER.0);
        let want = Want { v4: true, v6: true };
        let reply =
            Reply { id: ID, token: Some(b"tok"), nodes: vec![(ID, v4), (OTHER, v6)], values: vec![v4, v6] };
        for body in [
            Body::Query(ID, Query::Ping),
            Body::Query(ID, Query::FindNode(OTHER, want)),
            Body::Query(ID, Query::GetPeers(info_hash, Want { v6: false, ..want })),
            Body::Query(ID, Query::Announce { info_hash, port: None, token: b"x" }),
            Body::Reply(reply),
            Body::Error(203),
        ] {
            for (read_only, ip) in [(true, Some(v6)), (false, Some(v4)), (false, None)] {
                let message = Message { transaction: b"\x00\xff", read_only, ip, body: body.clone() };
                assert_eq!(decode(&encode(&message)).as_ref(), Some(&message));
            }
        }
    }

    #[test]
    fn a_query_of_another_name_may_still_name_what_it_looks_for() {
        let text = b"d1:ad2:id20:abcdefghij01234567896:target20:mnopqrstuvwxyz123456e1:q3:get1:t1:a1:y1:qe";
        let Some(Message { body: Body::Query(id, query), .. }) = decode(text) else { panic!() };
        assert_eq!((id, query), (ID, Query::Other(Some(OTHER), Want::default())));
    }

    #[test]
    fn what_makes_no_sense_is_no_message() {
        let cases: [&[u8]; 9] = [
            b"d1:ad2:id20:abcdefghij0123456789e1:q4:ping1:y1:qe",
            b"d1:ad2:id19:abcdefghij012345678e1:q4:ping1:t2:aa1:y1:qe",
            b"d1:q4:ping1:t2:aa1:y1:qe",
            b"d1:rd2:id20:abcdefghij0123456789e1:t2:aa1:y1:qe",
            b"d1:rd2:id20:abcdefghij0123456789e1:t2:aa1:y1:xe",
            b"d1:ad2:id20:abcdefghij0123456789e1:q9:find_node1:t2:aa1:y1:qe",
            b"d1:ade1:q4:ping1:t2:aa1:y1:qe",
            b"le",
            b"",
        ];
        for bytes in cases {
            assert_eq!(decode(bytes), None, "{}", bytes.escape_ascii());
        }
        let port =
            b"d1:ad2:id20:abcdefghij01234567899:info_hash20:mnopqrstuvwxyz1234564:porti68810e5:token1:xe\
            1:q13:announce_peer1:t2:aa1:y1:qe";
        assert_eq!(decode(port), None);
    }

    #[test]
    fn of_a_message_that_names_too_many_some_are_read() {
        let mut text = b"d1:rd2:id20:abcdefghij01234567895:nodes2600:".to_vec();
        text.extend([1; 2600]);
        text.extend(b"6:valuesl");
        (0..200).for_each(|_| text.extend(b"6:\x01\x02\x03\x04\x05\x06"));
        text.extend(b"5:wronge");
        text.extend(b"e1:t2:aa1:y1:re");
        let Some(Message { body: Body::Reply(reply), .. }) = decode(&text) else { panic!() };
        assert_eq!((reply.nodes.len(), reply.values.len()), (MAX_NODES, MAX_VALUES));
    }
}

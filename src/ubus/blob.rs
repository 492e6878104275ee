//! Frames of the bus and the attributes in them, both ways.
//!
//! A frame is a head of eight bytes and an attribute that holds the others; each of those begins with its number and its
//! length, and what follows it begins at a multiple of four. Within DATA they carry names (blobmsg). All numbers are
//! big-endian. Omits what we neither send nor understand: file descriptors, fractions, monitors. Holds what it reads.

use std::borrow::Cow;

use crate::status::{Kind, Value};

/// Bytes of a frame before its attributes.
pub const HEAD: usize = 12;

/// Bytes of attributes, beyond which the bus itself would not go.
const MAX_BODY: usize = 1 << 20;

/// Tables and lists within each other: nobody means more.
const MAX_DEPTH: u32 = 16;

/// The number of an attribute with a name.
const NAMED: u8 = 0x80;

/// What a frame is.
pub mod message {
    #![expect(missing_docs, reason = "named as everywhere")]
    pub const HELLO: u8 = 0;
    pub const STATUS: u8 = 1;
    pub const DATA: u8 = 2;
    pub const INVOKE: u8 = 5;
    pub const ADD_OBJECT: u8 = 6;
}

/// What an attribute of a frame is.
pub mod attribute {
    #![expect(missing_docs, reason = "named as everywhere")]
    pub const STATUS: u8 = 1;
    pub const OBJPATH: u8 = 2;
    pub const OBJID: u8 = 3;
    pub const METHOD: u8 = 4;
    pub const SIGNATURE: u8 = 6;
    pub const DATA: u8 = 7;
    pub const NO_REPLY: u8 = 10;
}

/// What a value with a name is.
mod kind {
    pub const UNSPEC: u8 = 0;
    pub const ARRAY: u8 = 1;
    pub const TABLE: u8 = 2;
    pub const STRING: u8 = 3;
    pub const INT64: u8 = 4;
    pub const INT32: u8 = 5;
    pub const INT16: u8 = 6;
    pub const INT8: u8 = 7;
}

/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Done.
    Ok = 0,
    /// An argument is missing, wrong or not known.
    InvalidArgument = 2,
    /// No such method.
    MethodNotFound = 3,
    /// No such torrent.
    NotFound = 4,
    /// It did not work.
    UnknownError = 9,
}

/// Bytes that are no message of the bus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

/// The start of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// One of [`message`].
    pub kind: u8,
    /// Which request it belongs to.
    pub seq: u16,
    /// Whose.
    pub peer: u32,
    /// Bytes of the frame, itself counted.
    pub len: usize,
}

/// What we look for in a frame.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Body<'a> {
    /// How something ended.
    pub status: Option<u32>,
    /// The object that is meant.
    pub object: Option<u32>,
    /// What is asked of it.
    pub method: Option<Cow<'a, str>>,
    /// Nobody waits for an answer.
    pub no_reply: bool,
    /// Arguments or results, see [`table`].
    pub data: Option<&'a [u8]>,
}

impl Head {
    /// `None` while it is not all there.
    pub fn decode(bytes: &[u8]) -> Result<Option<Head>, Malformed> {
        let Some((&[version, kind, seq @ .., a, b, c, d, e, f, g, h], _)) = bytes.split_first_chunk::<HEAD>()
        else {
            // As early as it can be told.
            return if bytes.first().is_none_or(|version| *version == 0) { Ok(None) } else { Err(Malformed) };
        };
        let body = u32::from_be_bytes([e, f, g, h]) as usize;
        if version != 0 || !(4..=MAX_BODY).contains(&body) {
            return Err(Malformed);
        }
        Ok(Some(Head {
            kind,
            seq: u16::from_be_bytes(seq),
            peer: u32::from_be_bytes([a, b, c, d]),
            len: 8 + body,
        }))
    }
}

impl<'a> Body<'a> {
    /// Of what follows a head.
    pub fn decode(bytes: &'a [u8]) -> Result<Body<'a>, Malformed> {
        let (mut body, mut rest) = (Body::default(), bytes);
        while let Some((id, payload)) = next(&mut rest)? {
            match id {
                attribute::STATUS => body.status = Some(u32::from_be_bytes(exact(payload)?)),
                attribute::OBJID => body.object = Some(u32::from_be_bytes(exact(payload)?)),
                // Any caller's word: what is no text is the name of no method.
                attribute::METHOD => {
                    let end = payload.iter().position(|byte| *byte == 0).ok_or(Malformed)?;
                    body.method = Some(String::from_utf8_lossy(&payload[..end]));
                }
                attribute::NO_REPLY => body.no_reply = exact(payload)? != [0],
                attribute::DATA => body.data = Some(payload),
                _ => {}
            }
        }
        Ok(body)
    }
}

/// The values in DATA, by name.
pub fn table(bytes: &[u8]) -> Result<Value, Malformed> {
    fields(bytes, MAX_DEPTH).map(Value::Table)
}

fn fields(bytes: &[u8], depth: u32) -> Result<Vec<(Cow<'static, str>, Value)>, Malformed> {
    let within = depth.checked_sub(1).ok_or(Malformed)?;
    let (mut fields, mut rest) = (Vec::new(), bytes);
    while let Some((id, payload)) = next(&mut rest)? {
        let (len, named) = payload.split_first_chunk().ok_or(Malformed)?;
        let len = usize::from(u16::from_be_bytes(*len));
        // Two bytes of length, the name, a zero.
        let value = payload.get(padded(2 + len + 1)..).ok_or(Malformed)?;
        let name = named.get(..=len).ok_or(Malformed).and_then(string)?;
        let value = match id.checked_sub(NAMED).ok_or(Malformed)? {
            kind::UNSPEC => Value::Null,
            kind::ARRAY => Value::List(fields_of_list(value, within)?),
            kind::TABLE => Value::Table(self::fields(value, within)?),
            kind::STRING => Value::Text(string(value)?),
            kind::INT64 => Value::Int(i64::from_be_bytes(exact(value)?)),
            kind::INT32 => Value::Int(i32::from_be_bytes(exact(value)?).into()),
            kind::INT16 => Value::Int(i16::from_be_bytes(exact(value)?).into()),
            kind::INT8 => Value::Bool(exact(value)? != [0]),
            _ => return Err(Malformed),
        };
        fields.push((Cow::Owned(name), value));
    }
    Ok(fields)
}

fn fields_of_list(bytes: &[u8], depth: u32) -> Result<Vec<Value>, Malformed> {
    Ok(fields(bytes, depth)?.into_iter().map(|(_, value)| value).collect())
}

/// The next attribute with its number; it is followed by zeros up to a multiple of four.
fn next<'a>(bytes: &mut &'a [u8]) -> Result<Option<(u8, &'a [u8])>, Malformed> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let (&[id, a, b, c], _) = bytes.split_first_chunk().ok_or(Malformed)?;
    let len = u32::from_be_bytes([0, a, b, c]) as usize;
    let payload = bytes.get(4..len).ok_or(Malformed)?;
    *bytes = bytes.get(padded(len)..).ok_or(Malformed)?;
    Ok(Some((id, payload)))
}

fn exact<const N: usize>(bytes: &[u8]) -> Result<[u8; N], Malformed> {
    bytes.try_into().map_err(|_| Malformed)
}

/// A text with its zero at the end, and none before.
fn string(bytes: &[u8]) -> Result<String, Malformed> {
    match bytes.split_last() {
        Some((0, text)) if !text.contains(&0) => {
            Ok(std::str::from_utf8(text).map_err(|_| Malformed)?.to_owned())
        }
        _ => Err(Malformed),
    }
}

fn padded(len: usize) -> usize {
    len.next_multiple_of(4)
}

/// Appends a frame that `fill` puts attributes in.
pub fn frame(out: &mut Vec<u8>, kind: u8, seq: u16, peer: u32, fill: impl FnOnce(&mut Vec<u8>)) {
    out.extend_from_slice(&[0, kind]);
    out.extend_from_slice(&seq.to_be_bytes());
    out.extend_from_slice(&peer.to_be_bytes());
    let at = begin(out, 0);
    fill(out);
    end(out, at);
}

/// Appends an attribute of one number.
pub fn number(out: &mut Vec<u8>, id: u8, number: u32) {
    put(out, id, &number.to_be_bytes());
}

/// Appends an attribute of a text.
pub fn text(out: &mut Vec<u8>, id: u8, text: &str) {
    let at = begin(out, id);
    put_text(out, text);
    end(out, at);
}

/// Appends an attribute of some bytes.
pub fn put(out: &mut Vec<u8>, id: u8, payload: &[u8]) {
    let at = begin(out, id);
    out.extend_from_slice(payload);
    end(out, at);
}

/// A table as DATA holds it. What is not known is left out: blobmsg has no null.
pub fn encode(table: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    if let Value::Table(fields) = table {
        fields.iter().for_each(|(name, value)| value_named(&mut out, name, value));
    }
    out
}

fn value_named(out: &mut Vec<u8>, name: &str, value: &Value) {
    let kind = match value {
        Value::Null => return,
        Value::Bool(_) => kind::INT8,
        // Always the widest: a total does not change its type as it grows.
        Value::Int(_) => kind::INT64,
        Value::Text(_) => kind::STRING,
        Value::List(_) => kind::ARRAY,
        Value::Table(_) => kind::TABLE,
    };
    let at = begin_named(out, kind, name);
    match value {
        Value::Null => {}
        Value::Bool(flag) => out.push(u8::from(*flag)),
        Value::Int(number) => out.extend_from_slice(&number.to_be_bytes()),
        Value::Text(text) => put_text(out, text),
        Value::List(values) => values.iter().for_each(|value| value_named(out, "", value)),
        Value::Table(fields) => fields.iter().for_each(|(name, value)| value_named(out, name, value)),
    }
    end(out, at);
}

/// Appends what a method takes, as SIGNATURE lists it.
pub fn policy(out: &mut Vec<u8>, method: &str, takes: &[(&str, Kind)]) {
    let at = begin_named(out, kind::TABLE, method);
    for (name, kind) in takes {
        let kind = match kind {
            Kind::Text => kind::STRING,
            Kind::Number => kind::INT32,
        };
        let at = begin_named(out, kind::INT32, name);
        out.extend_from_slice(&u32::from(kind).to_be_bytes());
        end(out, at);
    }
    end(out, at);
}

/// Begins an attribute, which [`end`] ends.
pub fn begin(out: &mut Vec<u8>, id: u8) -> usize {
    out.extend_from_slice(&[id, 0, 0, 0]);
    out.len() - 4
}

fn begin_named(out: &mut Vec<u8>, kind: u8, name: &str) -> usize {
    let at = begin(out, NAMED | kind);
    // Names are ours, and short.
    out.extend_from_slice(&u16::try_from(name.len()).unwrap_or(0).to_be_bytes());
    put_text(out, name);
    pad(out, at);
    at
}

/// Ends what [`begin`] began at that place.
pub fn end(out: &mut Vec<u8>, at: usize) {
    // A reply is far below sixteen megabytes.
    let [_, len @ ..] = u32::try_from(out.len() - at).unwrap_or(0).to_be_bytes();
    out[at + 1..at + 4].copy_from_slice(&len);
    pad(out, at);
}

fn pad(out: &mut Vec<u8>, at: usize) {
    out.resize(at + padded(out.len() - at), 0);
}

/// A zero within would end it.
fn put_text(out: &mut Vec<u8>, text: &str) {
    out.extend(text.bytes().map(|byte| if byte == 0 { b'?' } else { byte }));
    out.push(0);
}

#[cfg(test)]
mod tests {
    use super::super::tests::hex;
    use super::*;

    /// `ubus send` of one value of each kind, as the real one sent it; without its fraction, of which we have none.
    const SENT: &str = "00050001 00000001 000000a8 03000008 00000001 04000009 73656e64 00000000 07000090 8300001b 00026964 \
        00000000 73656564 642e636f 6d706c65 74650000 82000070 00046461 74610000 8300000e 00046e61 6d650000 78000000 \
        8500000c 00016e00 ffffffff 84000014 00036269 67000000 00000001 00000000 8700000d 00026f6b 00000000 01000000 \
        81000024 00036172 72000000 8500000c 00000000 00000001 8300000a 00000000 61000000";

    #[test]
    fn a_value_of_each_kind_is_read_as_the_bus_sends_it() {
        let bytes = hex(SENT);
        let head = Head::decode(&bytes).unwrap().unwrap();
        assert_eq!(head, Head { kind: message::INVOKE, seq: 1, peer: 1, len: bytes.len() });
        let body = Body::decode(&bytes[HEAD..]).unwrap();
        assert_eq!((body.object, body.method.as_deref(), body.no_reply), (Some(1), Some("send"), false));
        let sent = table(body.data.unwrap()).unwrap();
        assert_eq!(sent.field("id").text(), "seedd.complete");
        let expected = Value::Table(vec![
            ("name".into(), "x".into()),
            ("n".into(), Value::Int(-1)),
            ("big".into(), Value::Int(1 << 32)),
            ("ok".into(), true.into()),
            ("arr".into(), Value::List(vec![Value::Int(1), "a".into()])),
        ]);
        assert_eq!(sent.field("data"), &expected);
        // All but the widths of its numbers comes out as it came in.
        let again = encode(&expected);
        assert_eq!(table(&again), Ok(expected));
        for same in [
            "8300000e 00046e61 6d650000 78000000",
            "84000014 00036269 67000000 00000001 00000000",
            "8700000d 00026f6b 00000000 01000000",
        ] {
            assert!(again.windows(hex(same).len()).any(|window| window == hex(same)), "{same}");
        }
    }

    #[test]
    fn a_fraction_and_what_is_beyond_its_bounds_are_refused() {
        for wrong in [
            "88000010 00016600 3ff80000 00000000", // a fraction
            "8300000e 00046e61 6d650000 7800",     // cut
            "8300000e 00046e61 6d650000 78790000", // no zero at its end
            "8300000e 00046e61 6d650000 00000000", // a zero within
            "8300000e 00046e61 6d650000 ff000000", // no UTF-8
            "8300000e 00056e61 6d650000 78000000", // its name has no zero
            "8300000e ffff6e61 6d650000 78000000", // its name goes on behind it
            "8500000b 00016e00 ffffffff",          // three bytes of a number
            "8500000d 00016e00 ffffffff 00000000", // five
            "80000003",                            // shorter than its own head
            "80000004",                            // without a name
            "0500000c 00016e00 ffffffff",          // not named
            "8900000c 00016e00 ffffffff",          // of no kind
            "8700000d 00026f6b 00000000 01",       // not padded
            "8000",
        ] {
            assert_eq!(table(&hex(wrong)), Err(Malformed), "{wrong}");
        }
        let mut deep = Vec::new();
        let begun: Vec<usize> = (0..20).map(|_| begin_named(&mut deep, kind::TABLE, "")).collect();
        begun.iter().rev().for_each(|at| end(&mut deep, *at));
        assert_eq!(table(&deep), Err(Malformed));
        assert!(table(&deep[8 * 8..]).is_ok());
    }

    #[test]
    fn what_is_not_known_is_left_out_and_a_zero_does_not_end_a_text() {
        let value = Value::Table(vec![("eta".into(), Value::Null), ("name".into(), "a\0b".into())]);
        let known = Value::Table(vec![("name".into(), "a?b".into())]);
        assert_eq!(table(&encode(&value)), Ok(known));
    }

    #[test]
    fn a_frame_of_another_version_or_beyond_a_megabyte_is_none() {
        for (bytes, wrong) in [
            ("01", true),
            ("00", false),
            ("00000000 eb62aaf3 000000", false),
            ("01000000 eb62aaf3 00000004", true),
            ("00000000 eb62aaf3 00000003", true),
            ("00000000 eb62aaf3 00100001", true),
            ("00000000 eb62aaf3 01000004", true),
            ("00000000 eb62aaf3 00100000", false),
        ] {
            assert_eq!(Head::decode(&hex(bytes)).is_err(), wrong, "{bytes}");
        }
    }
}

//! The handshake of the extension protocol: what a peer is, where it listens, and which extensions it speaks.
//!
//! Read first: BEP 10, then 21 (`upload_only`). Omits the extensions' own messages. A key whose value makes no sense counts as absent: clients have sent
//! odd ones for twenty years. Borrows from the message; holds nothing.

use std::borrow::Cow;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::bencode::{self, Value, Writer};
use crate::net::Canonical;

/// The message id, below [`super::wire::Message::Extended`], of the handshake itself.
pub const HANDSHAKE: u8 = 0;

/// The ids by which we want to be sent the messages of extensions.
pub const UT_PEX: u8 = 1;
/// The same of BEP 54.
pub const LT_DONTHAVE: u8 = 3;

/// Bytes of a client's name that are kept: honest ones have less than half of that, and it is shown to people.
pub const MAX_CLIENT: usize = 64;

/// Bytes of an extension message worth keeping while seeding: handshakes have a few hundred, lists of peers (BEP 11)
/// and requests for metadata (BEP 9) no more. A thousand peers can make us hold no more than this each.
pub const MAX_PAYLOAD: u32 = 4096;

/// What an extension handshake tells; all of it is optional.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Handshake<'a> {
    /// `m`: by which ids the sender wants to be sent extension messages.
    pub ids: Ids,
    /// `p`: the TCP port on which the sender listens.
    pub port: Option<u16>,
    /// `v`: name and version, for people: cut at [`MAX_CLIENT`], not escaped.
    pub client: Option<Cow<'a, str>>,
    /// `yourip`: the receiver's address as the sender sees it.
    pub your_ip: Option<IpAddr>,
    /// `ipv4`: another address of the sender.
    pub ipv4: Option<Ipv4Addr>,
    /// `ipv6`: another address of the sender.
    pub ipv6: Option<Ipv6Addr>,
    /// `reqq`: requests that the sender queues before it drops some.
    pub reqq: Option<u32>,
    /// BEP 9: bytes of the metadata, where the sender has it.
    pub metadata_size: Option<u32>,
    /// BEP 21: the sender will not download. Absent in most clients' handshakes.
    pub upload_only: bool,
}

/// Ids of the extensions we know of. `None` is not mentioned, `Some(0)` is switched off: a later handshake changes
/// only what it mentions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ids {
    /// BEP 9
    pub ut_metadata: Option<u8>,
    /// BEP 11
    pub ut_pex: Option<u8>,
    /// BEP 54
    pub lt_donthave: Option<u8>,
}

impl<'a> Handshake<'a> {
    /// Reads the payload of message [`HANDSHAKE`]. An error is no reason to drop the peer: the wire is intact.
    pub fn decode(payload: &'a [u8]) -> Result<Handshake<'a>, bencode::Error> {
        // Bytes after the dictionary do no harm, and some clients send them.
        let (value, _) = Value::parse_prefix(payload)?;
        let entries = value.entries().ok_or(bencode::Error::Unexpected(0))?;
        let [m, p, v, yourip, ipv4, ipv6, metadata_size, reqq, upload_only] =
            entries.pick(&["m", "p", "v", "yourip", "ipv4", "ipv6", "metadata_size", "reqq", "upload_only"]);
        let bytes = |value: Option<Value<'a>>| value.and_then(Value::as_bytes);
        Ok(Handshake {
            ids: m.map(Ids::decode).unwrap_or_default(),
            port: p.and_then(number).filter(|port| *port > 0),
            client: bytes(v).map(name).filter(|name| !name.is_empty()),
            your_ip: bytes(yourip).and_then(address),
            ipv4: bytes(ipv4).and_then(|b| <[u8; 4]>::try_from(b).ok()).map(Ipv4Addr::from),
            ipv6: bytes(ipv6).and_then(|b| <[u8; 16]>::try_from(b).ok()).map(Ipv6Addr::from),
            metadata_size: metadata_size.and_then(number).filter(|size| *size > 0),
            reqq: reqq.and_then(number).filter(|requests| *requests > 0),
            upload_only: upload_only.and_then(Value::as_int).is_some_and(|n| n != 0),
        })
    }

    /// Appends the payload of message [`HANDSHAKE`].
    pub fn encode(&self, out: &mut Vec<u8>) {
        Writer::new(out).dict(|dict| {
            if let Some(ipv4) = self.ipv4 {
                dict.bytes("ipv4", ipv4.octets());
            }
            if let Some(ipv6) = self.ipv6 {
                dict.bytes("ipv6", ipv6.octets());
            }
            dict.dict("m", |m| {
                let Ids { ut_metadata, ut_pex, lt_donthave } = self.ids;
                for (key, id) in
                    [("lt_donthave", lt_donthave), ("ut_metadata", ut_metadata), ("ut_pex", ut_pex)]
                {
                    if let Some(id) = id {
                        m.int(key, id.into());
                    }
                }
            });
            if let Some(size) = self.metadata_size {
                dict.int("metadata_size", size.into());
            }
            if let Some(port) = self.port {
                dict.int("p", port.into());
            }
            if let Some(reqq) = self.reqq {
                dict.int("reqq", reqq.into());
            }
            if self.upload_only {
                dict.int("upload_only", 1);
            }
            if let Some(client) = &self.client {
                dict.bytes("v", client.as_bytes());
            }
            match self.your_ip {
                Some(IpAddr::V4(ip)) => dict.bytes("yourip", ip.octets()),
                Some(IpAddr::V6(ip)) => dict.bytes("yourip", ip.octets()),
                None => {}
            }
        });
    }
}

impl Ids {
    fn decode(value: Value<'_>) -> Ids {
        let Some(entries) = value.entries() else { return Ids::default() };
        let [metadata, pex, donthave] = entries.pick(&["ut_metadata", "ut_pex", "lt_donthave"]);
        Ids {
            ut_metadata: metadata.and_then(number),
            ut_pex: pex.and_then(number),
            lt_donthave: donthave.and_then(number),
        }
    }

    /// What holds after a later handshake.
    pub fn update(&mut self, later: Ids) {
        self.ut_metadata = later.ut_metadata.or(self.ut_metadata);
        self.ut_pex = later.ut_pex.or(self.ut_pex);
        self.lt_donthave = later.lt_donthave.or(self.lt_donthave);
    }
}

fn number<N: TryFrom<i64>>(value: Value<'_>) -> Option<N> {
    value.as_int().and_then(|n| N::try_from(n).ok())
}

/// An address of either family; IPv4 in IPv6 clothes is IPv4.
fn address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        _ => <[u8; 16]>::try_from(bytes).ok().map(|bytes| IpAddr::from(bytes).canonical()),
    }
}

/// The name, cut between characters.
fn name(bytes: &[u8]) -> Cow<'_, str> {
    let cut = &bytes[..bytes.len().min(MAX_CLIENT)];
    match std::str::from_utf8(cut) {
        // The cut fell into a character.
        Err(error) if error.error_len().is_none() => String::from_utf8_lossy(&cut[..error.valid_up_to()]),
        _ => String::from_utf8_lossy(cut),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full() -> Handshake<'static> {
        Handshake {
            ids: Ids { ut_metadata: Some(3), ut_pex: Some(1), lt_donthave: Some(7) },
            port: Some(6881),
            client: Some("meshseed 0.1".into()),
            your_ip: Some(IpAddr::from([10, 1, 2, 3])),
            ipv4: Some(Ipv4Addr::new(10, 0, 0, 1)),
            ipv6: Some(Ipv6Addr::LOCALHOST),
            reqq: Some(500),
            metadata_size: Some(31_235),
            upload_only: true,
        }
    }

    fn encoded(handshake: &Handshake<'_>) -> Vec<u8> {
        let mut out = Vec::new();
        handshake.encode(&mut out);
        out
    }

    #[test]
    fn a_handshake_reads_back_as_it_was_written() {
        let without =
            Handshake { your_ip: Some(IpAddr::V6("fd00::1".parse().unwrap())), ..Handshake::default() };
        for handshake in [full(), without, Handshake::default()] {
            let bytes = encoded(&handshake);
            assert_eq!(Handshake::decode(&bytes), Ok(handshake));
        }
        assert_eq!(encoded(&Handshake::default()), b"d1:mdee");
    }

    #[test]
    fn what_libtorrent_sends_is_understood() {
        let bytes =
            b"d12:complete_agoi5e1:md11:lt_donthavei7e10:share_modei8e11:upload_onlyi3e12:ut_holepunchi4e\
            11:ut_metadatai2e6:ut_pexi1ee13:metadata_sizei31235e4:reqqi2000e11:upload_onlyi1e\
            1:v16:libtorrent/2.0.96:yourip4:\x0a\x00\x00\x01e";
        let handshake = Handshake::decode(bytes).unwrap();
        assert_eq!(handshake.ids, Ids { ut_metadata: Some(2), ut_pex: Some(1), lt_donthave: Some(7) });
        assert_eq!(handshake.client.as_deref(), Some("libtorrent/2.0.9"));
        assert_eq!((handshake.reqq, handshake.upload_only), (Some(2000), true));
        assert_eq!(handshake.metadata_size, Some(31_235));
        assert_eq!(handshake.your_ip, Some(IpAddr::from([10, 0, 0, 1])));
    }

    #[test]
    fn values_that_make_no_sense_count_as_absent() {
        for bytes in [
            &b"de"[..],
            b"d1:mi1ee",
            b"d1:mle1:pi0e4:reqqi0e1:v0:e",
            b"d1:md11:ut_metadatai256e6:ut_pexi-1eee",
            b"d1:pi65536e4:reqqi-5e11:upload_onlyi0e6:yourip3:abce",
            b"d4:ipv45:abcde4:ipv64:abcd13:metadata_sizei-1e1:p4:6881e",
            b"d13:metadata_sizei2147483648000ee",
            b"d4:reqqi4294967296e1:vi7e6:youripi5ee",
        ] {
            assert_eq!(Handshake::decode(bytes), Ok(Handshake::default()), "{}", bytes.escape_ascii());
        }
        for bytes in [&b""[..], b"i1e", b"le", b"d1:m", b"d1:pi1e1:pi2ee", &[b'l'; 1000]] {
            assert!(Handshake::decode(bytes).is_err(), "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn a_long_name_is_cut_between_characters() {
        for (name, kept) in [("é".repeat(40), 64), (format!("x{}", "é".repeat(40)), 63), ("ab".into(), 2)] {
            let bytes = format!("d1:v{}:{name}e", name.len()).into_bytes();
            let client = Handshake::decode(&bytes).unwrap().client.unwrap();
            assert_eq!((client.len(), name.starts_with(&*client)), (kept, true));
        }
        assert_eq!(Handshake::decode(b"d1:v3:a\xffbe").unwrap().client.as_deref(), Some("a\u{fffd}b"));
    }

    #[test]
    fn a_mapped_address_is_told_as_ipv4() {
        let bytes = encoded(&Handshake {
            your_ip: Some(IpAddr::V6(Ipv4Addr::new(10, 1, 1, 1).to_ipv6_mapped())),
            ..Handshake::default()
        });
        assert_eq!(Handshake::decode(&bytes).unwrap().your_ip, Some(IpAddr::from([10, 1, 1, 1])));
    }

    #[test]
    fn a_later_handshake_changes_what_it_mentions() {
        let mut ids = Ids { ut_metadata: Some(1), ut_pex: Some(2), lt_donthave: None };
        ids.update(Ids { ut_metadata: None, ut_pex: Some(0), lt_donthave: Some(3) });
        assert_eq!(ids, Ids { ut_metadata: Some(1), ut_pex: Some(0), lt_donthave: Some(3) });
    }
}

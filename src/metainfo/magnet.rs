//! Magnet links, both ways, and the .torrent that is made of one.
//!
//! Read first: BEP 9 ("magnet URI format"), 53 (`so`), 19 (`ws`); BEP 52 for `btmh`. Omits: links of other networks.
//! Holds what the link says, each list bounded.

use std::fmt;
use std::str::FromStr;

use super::info::info_name;
use super::{InfoHash, Metainfo, Outer, hashes, hex, is_host, unhex, url, whole};
use crate::bencode::{Value, Writer};

/// Bytes of a link: far more than a browser hands on.
pub const MAX_LINK: usize = 64 * 1024;

/// Trackers, web seeds, peers and file ranges, of each kind.
const MAX_LIST: usize = 256;

/// The key outside `info` by which a .torrent is known that was made of a magnet link.
const MADE: &[u8] = b"meshseed-magnet";

/// What a magnet link says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Magnet {
    /// `xt=urn:btih:`; of a link without it the first 20 bytes of the other one.
    pub info_hash: InfoHash,
    /// `xt=urn:btmh:1220`, the SHA-256 of a hybrid or of v2 alone.
    pub info_hash_v2: Option<[u8; 32]>,
    /// `dn`: a name to show, not to be used as a path.
    pub name: Option<String>,
    /// `tr`: each a tier of its own.
    pub trackers: Vec<String>,
    /// `ws`
    pub web_seeds: Vec<String>,
    /// `x.pe`: host and port.
    pub peers: Vec<(String, u16)>,
    /// `so`: the files that are wanted, first and last index of each range; empty means all.
    pub select: Vec<(u32, u32)>,
}

/// Why a link is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// Does not start with `magnet:?`, or is too long.
    NoMagnet,
    /// No `xt=urn:btih:`.
    NoHash,
    /// `xt` holds something that is no hash.
    BadHash,
    /// A v2 hash alone.
    V2Only,
    /// A file with more than one link, or that is no text.
    NotOne,
}

impl Magnet {
    /// Of a file that holds a link, and maybe blank lines.
    pub fn of_file(bytes: &[u8]) -> Result<Magnet, Error> {
        Magnet::any_of_file(bytes)?.served()
    }

    /// The same, also of a link that names a v2 hash alone.
    pub fn any_of_file(bytes: &[u8]) -> Result<Magnet, Error> {
        let text = std::str::from_utf8(bytes).map_err(|_| Error::NotOne)?;
        let text = text.strip_prefix('\u{feff}').unwrap_or(text).trim();
        if text.contains(['\n', '\r']) { Err(Error::NotOne) } else { Magnet::any(text) }
    }

    /// Of a .torrent of any format. Of one that is not served nothing is looked at but what the link says.
    pub fn of_torrent(bytes: &[u8]) -> Result<Magnet, super::Error> {
        let v2_only = match super::parse(bytes) {
            Ok(torrent) => return Ok(Magnet::from(&torrent)),
            Err(super::Error::V2Only) => true,
            Err(super::Error::Merkle) => false,
            Err(error) => return Err(error),
        };
        let (mut outer, info) = Outer::read(whole(bytes)?)?;
        let name = info_name(info.find(b"name"), info.find(b"name.utf-8"), &mut outer.warnings)?;
        let (info_hash, info_hash_v2) = hashes(info, v2_only, v2_only);
        Ok(Magnet {
            info_hash,
            info_hash_v2,
            name: Some(name),
            trackers: outer.trackers.concat(),
            web_seeds: outer.web_seeds,
            peers: Vec::new(),
            select: Vec::new(),
        })
    }

    /// Whether it names a v2 hash alone.
    pub fn is_v2_only(&self) -> bool {
        self.info_hash_v2.is_some_and(|hash| hash.starts_with(self.info_hash.as_bytes()))
    }

    /// Of a link, also of one that names a v2 hash alone.
    pub fn any(link: &str) -> Result<Magnet, Error> {
        let link = link.trim();
        let head =
            link.get(..8).filter(|head| head.eq_ignore_ascii_case("magnet:?") && link.len() <= MAX_LINK);
        let query = &link[head.ok_or(Error::NoMagnet)?.len()..];
        let (mut v1, mut v2) = (None, None);
        let mut magnet = Magnet {
            info_hash: InfoHash::from_bytes([0; 20]),
            info_hash_v2: None,
            name: None,
            trackers: Vec::new(),
            web_seeds: Vec::new(),
            peers: Vec::new(),
            select: Vec::new(),
        };
        for part in query.split('#').next().unwrap_or_default().split('&') {
            // Links copied out of a page's source have `&amp;`.
            let part = part.strip_prefix("amp;").unwrap_or(part);
            let Some((key, value)) = part.split_once('=') else { continue };
            // `tr.1`, `xt.2`: the number is of no account. `x.pe` is no such key.
            let key = match key.split_once('.') {
                Some((key, number)) if !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()) => {
                    key
                }
                _ => key,
            };
            match key {
                "xt" => {
                    let value = decode(value, false);
                    if let Some(hash) = strip(&value, b"urn:btih:") {
                        v1 = v1.or(Some(btih(hash).ok_or(Error::BadHash)?));
                    } else if let Some(hash) = strip(&value, b"urn:btmh:") {
                        let hash = strip(hash, b"1220").and_then(unhex).ok_or(Error::BadHash)?;
                        v2 = v2.or(Some(hash));
                    }
                }
                "dn" if magnet.name.is_none() => {
                    magnet.name = Some(String::from_utf8_lossy(&decode(value, true)).into_owned());
                }
                "tr" => insert(&mut magnet.trackers, url(&decode(value, false)).ok()),
                "ws" => insert(&mut magnet.web_seeds, url(&decode(value, false)).ok()),
                "x.pe" => insert(&mut magnet.peers, peer(&decode(value, false))),
                "so" => {
                    for range in value.split(',') {
                        let (first, last) = range.split_once('-').unwrap_or((range, range));
                        let range = first.parse().ok().zip(last.parse().ok());
                        insert(&mut magnet.select, range.filter(|(first, last)| first <= last));
                    }
                }
                _ => {}
            }
        }
        let short = v2.as_ref().and_then(|hash| hash.first_chunk()).map(|short| InfoHash::from_bytes(*short));
        magnet.info_hash = v1.or(short).ok_or(Error::NoHash)?;
        magnet.info_hash_v2 = v2;
        Ok(magnet)
    }

    fn served(self) -> Result<Magnet, Error> {
        if self.is_v2_only() { Err(Error::V2Only) } else { Ok(self) }
    }

    /// The .torrent of a link and the pieces of the info dictionary that it names, each let go as it is copied.
    pub fn torrent(&self, pieces: Vec<Box<[u8]>>) -> Vec<u8> {
        let info: usize = pieces.iter().map(|piece| piece.len()).sum();
        let urls = self.trackers.iter().chain(&self.web_seeds).map(|url| url.len() + 16);
        let mut out = Vec::with_capacity(info + urls.sum::<usize>() + 4096);
        let mut pieces = Some(pieces);
        Writer::new(&mut out).dict(|dict| {
            if let [first, others @ ..] = &self.trackers[..] {
                dict.bytes("announce", first);
                if !others.is_empty() {
                    dict.list("announce-list", |tiers| {
                        self.trackers.iter().for_each(|url| tiers.list(|tier| tier.bytes(url)));
                    });
                }
            }
            dict.bytes("created by", concat!("meshseed/", env!("CARGO_PKG_VERSION")));
            dict.entry("info", |value| {
                pieces.take().into_iter().flatten().for_each(|piece| value.raw(&piece));
            });
            dict.int(MADE, 1);
            if !self.web_seeds.is_empty() {
                dict.list("url-list", |urls| self.web_seeds.iter().for_each(|url| urls.bytes(url)));
            }
        });
        out
    }
}

/// Ranges of files as `so` has them.
pub fn ranges(ranges: &[(u32, u32)]) -> String {
    let range = |(first, last): &(u32, u32)| match first == last {
        true => first.to_string(),
        false => format!("{first}-{last}"),
    };
    ranges.iter().map(range).collect::<Vec<_>>().join(",")
}

/// Whether a .torrent was made of a magnet link: then it goes with that.
pub fn is_made(torrent: &[u8]) -> bool {
    Value::parse_prefix(torrent).is_ok_and(|(value, _)| value.find(MADE).is_some())
}

impl From<&Metainfo> for Magnet {
    fn from(torrent: &Metainfo) -> Magnet {
        Magnet {
            info_hash: torrent.info_hash,
            info_hash_v2: torrent.info_hash_v2,
            name: Some(torrent.name.clone()),
            trackers: torrent.trackers.concat(),
            web_seeds: torrent.web_seeds.clone(),
            peers: Vec::new(),
            select: Vec::new(),
        }
    }
}

impl FromStr for Magnet {
    type Err = Error;

    fn from_str(link: &str) -> Result<Magnet, Error> {
        Magnet::any(link)?.served()
    }
}

impl fmt::Display for Magnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("magnet:?")?;
        if !self.is_v2_only() {
            write!(f, "xt=urn:btih:{}", self.info_hash)?;
        }
        if let Some(hash) = &self.info_hash_v2 {
            let and = if self.is_v2_only() { "" } else { "&" };
            write!(f, "{and}xt=urn:btmh:1220{}", hex(hash))?;
        }
        if let Some(name) = &self.name {
            write!(f, "&dn={}", Encoded(name))?;
        }
        self.trackers.iter().try_for_each(|url| write!(f, "&tr={}", Encoded(url)))?;
        self.web_seeds.iter().try_for_each(|url| write!(f, "&ws={}", Encoded(url)))?;
        for (host, port) in &self.peers {
            // Colons and brackets stand bare: libtorrent does not decode this one.
            if host.contains(':') {
                write!(f, "&x.pe=[{host}]:{port}")?;
            } else {
                write!(f, "&x.pe={host}:{port}")?;
            }
        }
        if self.select.is_empty() { Ok(()) } else { write!(f, "&so={}", ranges(&self.select)) }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Error::NoMagnet => "it is no magnet link",
            Error::NoHash => "`xt=urn:btih:` is missing",
            Error::BadHash => {
                "`xt` holds no info-hash (40 hexadecimal or 32 base32 digits, or 1220 and 64 hexadecimal)"
            }
            Error::V2Only => "`xt` names a v2 info-hash alone: v2-only torrents are not served, hybrids are",
            Error::NotOne => "it does not hold one magnet link",
        })
    }
}

impl std::error::Error for Error {}

/// A text that stands in a query, everything encoded but what RFC 3986 calls unreserved.
struct Encoded<'a>(&'a str);

impl fmt::Display for Encoded<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for byte in self.0.bytes() {
            if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
                write!(f, "{}", char::from(byte))?;
            } else {
                write!(f, "%{byte:02X}")?;
            }
        }
        Ok(())
    }
}

/// Percent signs undone; one that no two digits follow stays. In names a plus is a blank.
fn decode(text: &str, plus: bool) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        rest = after;
        match first {
            b'%' => match after.get(..2).and_then(unhex::<1>) {
                Some([byte]) => {
                    out.push(byte);
                    rest = &after[2..];
                }
                None => out.push(b'%'),
            },
            b'+' if plus => out.push(b' '),
            byte => out.push(*byte),
        }
    }
    out
}

fn insert<T: PartialEq>(list: &mut Vec<T>, value: Option<T>) {
    if let Some(value) = value
        && list.len() < MAX_LIST
        && !list.contains(&value)
    {
        list.push(value);
    }
}

fn strip<'a>(value: &'a [u8], prefix: &[u8]) -> Option<&'a [u8]> {
    let (head, rest) = value.split_at_checked(prefix.len())?;
    head.eq_ignore_ascii_case(prefix).then_some(rest)
}

fn btih(digits: &[u8]) -> Option<InfoHash> {
    if digits.len() == 40 { unhex(digits).map(InfoHash::from_bytes) } else { base32(digits) }
}

/// 32 digits of five bits, RFC 4648.
fn base32(digits: &[u8]) -> Option<InfoHash> {
    let (groups, []) = digits.as_chunks::<8>() else { return None };
    let mut bytes = [0; 20];
    if groups.len() != 4 {
        return None;
    }
    for (out, group) in bytes.chunks_exact_mut(5).zip(groups) {
        let mut bits = 0u64;
        for digit in group {
            let value = match digit.to_ascii_uppercase() {
                letter @ b'A'..=b'Z' => letter - b'A',
                number @ b'2'..=b'7' => number - b'2' + 26,
                _ => return None,
            };
            bits = bits << 5 | u64::from(value);
        }
        out.copy_from_slice(&bits.to_be_bytes()[3..]);
    }
    Some(InfoHash::from_bytes(bytes))
}

/// `host:port`, `[v6]:port`.
fn peer(text: &[u8]) -> Option<(String, u16)> {
    let (host, port) = std::str::from_utf8(text).ok()?.rsplit_once(':')?;
    let port: u16 = port.parse().ok().filter(|port| *port != 0)?;
    let v6 = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let host = match v6 {
        Some(host) => host.parse::<std::net::Ipv6Addr>().ok().map(|_| host)?,
        None => Some(host).filter(|host| is_host(host) && !host.contains([':', '[', ']', '&', '%']))?,
    };
    Some((host.to_owned(), port))
}

#[cfg(test)]
mod tests {
    use sha2::{Digest, Sha256};

    use super::*;

    const HEX: &str = "2e34989b1c60df821b2d046c884d8f4d1858b97a";

    fn parse(query: &str) -> Magnet {
        format!("magnet:?xt=urn:btih:{HEX}{query}").parse().unwrap()
    }

    #[test]
    fn a_whole_link_reads_as_it_prints() {
        let v2 = "caf1e1c30e81cb361b9ee167c4aa64228a7fa4fa9f6105232b28ad099f3a302e";
        let link = format!(
            "magnet:?xt=urn:btih:{HEX}&xt=urn:btmh:1220{v2}&dn=gr%C3%BC%C3%9Fe%20%26%20a%2Bb\
             &tr=http%3A%2F%2Ft.example%2Fannounce%3Fkey%3D1%26x&tr=udp%3A%2F%2Ft%3A1&ws=http%3A%2F%2Fw%2Fa%2520b\
             &x.pe=10.0.0.1:6881&x.pe=[fe80::1]:51413&x.pe=host.mesh:1&so=0,2,4-8"
        );
        let magnet: Magnet = link.parse().unwrap();
        assert_eq!(magnet.info_hash.to_string(), HEX);
        assert_eq!(magnet.info_hash_v2.map(|hash| hex(&hash)).as_deref(), Some(v2));
        assert_eq!(magnet.name.as_deref(), Some("grüße & a+b"));
        assert_eq!(magnet.trackers, ["http://t.example/announce?key=1&x", "udp://t:1"]);
        assert_eq!(magnet.web_seeds, ["http://w/a%20b"]);
        assert_eq!(magnet.peers[1], ("fe80::1".to_owned(), 51413));
        assert_eq!(magnet.select, [(0, 0), (2, 2), (4, 8)]);
        assert_eq!(magnet.to_string(), link);
    }

    #[test]
    fn a_torrent_that_is_not_served_has_a_link_too() {
        let v2 = b"d9:file treede12:meta versioni2e4:name1:ae";
        let merkle = b"d4:name1:a9:root hash20:aaaaaaaaaaaaaaaaaaaae";
        let link = |info: &[u8]| {
            let torrent = [b"d8:announce8:http://t4:info", info, b"8:url-list8:http://we"].concat();
            Magnet::of_torrent(&torrent).unwrap().to_string()
        };
        let rest = "&dn=a&tr=http%3A%2F%2Ft&ws=http%3A%2F%2Fw";
        let hash = hex(&Sha256::digest(v2));
        assert_eq!(link(v2), format!("magnet:?xt=urn:btmh:1220{hash}{rest}"));
        assert_eq!(link(merkle), format!("magnet:?xt=urn:btih:{}{rest}", InfoHash::of(merkle)));
        let no_name = b"d4:infod9:root hash20:aaaaaaaaaaaaaaaaaaaaee";
        assert_eq!(Magnet::of_torrent(no_name), Err(super::super::Error::Missing("info.name")));
    }

    #[test]
    fn the_hash_comes_in_hex_or_base32_of_either_case() {
        let base32 = "FY2JRGY4MDPYEGZNARWIQTMPJUMFROL2";
        for hash in [HEX, &HEX.to_uppercase(), base32, &base32.to_lowercase()] {
            let magnet: Magnet = format!("Magnet:?dn=x&XT=1&xt.1=urn:BTIH:{hash}\n").parse().unwrap();
            assert_eq!(magnet.info_hash.to_string(), HEX);
        }
    }

    #[test]
    fn what_links_in_the_wild_have_is_read() {
        let magnet = parse(
            "&amp;dn=a+b%&amp;tr.1=http://t/%zz&tr.2=http://t/%zz&tr=http%3A%2F%2Fx%0D%0Ay&tr=&so=3-1,x",
        );
        assert_eq!(magnet.name.as_deref(), Some("a b%"));
        assert_eq!(magnet.trackers, ["http://t/%zz"]);
        assert!(magnet.select.is_empty());
        for bad in ["x:0", "x:70000", ":1", "x", "[::1:1", "[x]:1", "a%20b:1", "::1:80"] {
            assert!(parse(&format!("&x.pe={bad}")).peers.is_empty(), "{bad}");
        }
        assert_eq!(parse("&tr=http%3A//t&x.pe=%5B::1%5D:5").peers, [("::1".to_owned(), 5)]);
    }

    #[test]
    fn what_is_no_torrent_is_refused_with_its_reason() {
        let v2 = "a".repeat(64);
        for (link, error) in [
            ("http://x", Error::NoMagnet),
            ("", Error::NoMagnet),
            ("magnet:", Error::NoMagnet),
            ("größe:?x", Error::NoMagnet),
            ("magnet:?dn=x", Error::NoHash),
            ("magnet:?xt=urn:sha1:FY2JRGY4MDPYEGZNARWIQTMPJUMFROL2", Error::NoHash),
            ("magnet:?xt=urn:btih:123", Error::BadHash),
            ("magnet:?xt=urn:btih:1Y2JRGY4MDPYEGZNARWIQTMPJUMFROL2", Error::BadHash),
            ("magnet:?xt=urn:btmh:1220aa", Error::BadHash),
            (&format!("magnet:?xt=urn:btmh:1220{v2}"), Error::V2Only),
        ] {
            assert_eq!(link.parse::<Magnet>(), Err(error), "{link}");
        }
    }

    #[test]
    fn a_file_holds_one_link_and_no_more() {
        let link = format!("magnet:?xt=urn:btih:{HEX}");
        for text in [link.clone(), format!("\u{feff}\n {link}\r\n\r\n")] {
            assert_eq!(Magnet::of_file(text.as_bytes()).unwrap().info_hash.to_string(), HEX);
        }
        assert_eq!(Magnet::of_file(format!("{link}\n{link}").as_bytes()), Err(Error::NotOne));
        assert_eq!(Magnet::of_file(b"\xff"), Err(Error::NotOne));
        assert_eq!(Magnet::of_file(b""), Err(Error::NoMagnet));
    }

    #[test]
    fn a_torrent_made_of_a_link_has_its_trackers_and_web_seeds_and_says_what_it_is_made_of() {
        let info = b"d6:lengthi3e4:name1:n12:piece lengthi16384e6:pieces20:aaaaaaaaaaaaaaaaaaaae";
        let link = format!("magnet:?xt=urn:btih:{}", InfoHash::of(info));
        for (query, tiers, seeds) in
            [("", 0, 0), ("&tr=http://a/", 1, 0), ("&tr=http://a/&tr=udp://b/&ws=http://c/", 2, 1)]
        {
            let magnet: Magnet = format!("{link}{query}").parse().unwrap();
            let pieces = info.chunks(16).map(Box::from).collect();
            let bytes = magnet.torrent(pieces);
            assert!(is_made(&bytes));
            let torrent = super::super::parse(&bytes).unwrap();
            assert_eq!(torrent.info_hash, magnet.info_hash);
            assert_eq!((torrent.trackers.len(), torrent.trackers.concat()), (tiers, magnet.trackers));
            assert_eq!((torrent.web_seeds.len(), torrent.warnings.len()), (seeds, 0));
        }
        assert!(!is_made(b"d4:infodee") && !is_made(b"nonsense"));
    }

    #[test]
    fn lists_are_bounded_and_no_mutation_panics() {
        let many: String = (0..1000).map(|i| format!("&tr=http://t/{i}")).collect();
        assert_eq!(parse(&many).trackers.len(), MAX_LIST);
        let link = parse("&dn=%C3%BC&tr=http%3A%2F%2Ft&x.pe=[::1]:5&so=1-2").to_string();
        for at in 0..link.len() {
            for c in ["", "%", "&", "=", ":", "\0", "ü", "9"] {
                let _ = format!("{}{c}{}", &link[..at], &link[at + 1..]).parse::<Magnet>();
            }
            let _ = link[..at].parse::<Magnet>();
        }
    }
}

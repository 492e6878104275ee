//! URLs: checked once, then safe to be put into a request; and where they may lead us.
//!
//! Read first: RFC 3986, RFC 9110 §10.2.2 (`Location`). Omits: user names, other schemes, names beyond ASCII.
//! Holds the text and where its parts lie.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::ops::Range;

use super::decimal;
use crate::net::{Class, class};

/// Bytes of a URL: trackers' are below 200, browsers stop at 2048.
pub const MAX_URL: usize = 2048;

/// How the host is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// Plain.
    Http,
    /// TLS.
    Https,
    /// No HTTP at all: BEP 15. Only [`Url::parse_tracker`] knows it.
    Udp,
}

/// A URL that can go onto the wire as it is: no space, no control character, no user name, no fragment.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Url {
    text: Box<str>,
    scheme: Scheme,
    port: u16,
    /// Where host and port lie in `text`.
    authority: Range<u16>,
    /// Where the host lies in `text`, without the brackets of an IPv6 address.
    host: Range<u16>,
}

/// Why a URL can not be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UrlError {
    /// More than [`MAX_URL`] bytes.
    Long,
    /// A space or control character: whoever sent it to a server would be sending a head of somebody else's making.
    Forbidden,
    /// No `scheme://` stands first.
    NoScheme,
    /// Another scheme.
    Scheme(String),
    /// A user name before the host.
    User,
    /// No host, or letters that no host has.
    Host,
    /// A port that is none.
    Port,
}

/// What a URL is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// To tell a tracker.
    Announce,
    /// To fetch content from a web seed.
    Content,
}

/// Why we do not go where a URL leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denied {
    /// Somebody on the Internet redirects us to an address of our own network.
    Inwards,
    /// A loopback address with a path that is no tracker's.
    Loopback,
    /// A web seed on our own network whose URL has a query: a .torrent could make us order things there.
    Query,
    /// An address that nobody can have.
    Nowhere,
}

impl Url {
    /// Checks and takes apart. Letters that are not ASCII are escaped in the path and refused in the host.
    pub fn parse(text: &str) -> Result<Url, UrlError> {
        Url::parse_tracker(text).and_then(|url| match url.scheme {
            Scheme::Udp => Err(UrlError::Scheme("udp".into())),
            Scheme::Http | Scheme::Https => Ok(url),
        })
    }

    /// The same of a tracker's URL, which may name UDP too.
    pub fn parse_tracker(text: &str) -> Result<Url, UrlError> {
        if text.len() > MAX_URL {
            return Err(UrlError::Long);
        }
        if text.bytes().any(|b| b <= b' ' || b == 0x7f) {
            return Err(UrlError::Forbidden);
        }
        let (scheme, rest) = split_scheme(text).ok_or(UrlError::NoScheme)?;
        let (scheme, default_port) = if scheme.eq_ignore_ascii_case("http") {
            (Scheme::Http, 80)
        } else if scheme.eq_ignore_ascii_case("https") {
            (Scheme::Https, 443)
        } else if scheme.eq_ignore_ascii_case("udp") {
            (Scheme::Udp, 80)
        } else if scheme.is_empty()
            || !scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b))
        {
            return Err(UrlError::NoScheme);
        } else {
            return Err(UrlError::Scheme(scheme.to_ascii_lowercase()));
        };
        let rest = rest.split('#').next().unwrap_or(rest);
        let (authority, target) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        if authority.contains('@') {
            return Err(UrlError::User);
        }
        let (host, port, literal) = split_authority(authority)?;
        let port = if port.is_empty() { default_port } else { decode_port(port).ok_or(UrlError::Port)? };

        let mut out = String::with_capacity(text.len() + 1);
        out.push_str(match scheme {
            Scheme::Http => "http://",
            Scheme::Https => "https://",
            Scheme::Udp => "udp://",
        });
        let authority_at = out.len();
        let host_at = authority_at + usize::from(literal);
        out.push_str(if literal { "[" } else { "" });
        out.push_str(&host.to_ascii_lowercase());
        let host_end = out.len();
        out.push_str(if literal { "]" } else { "" });
        if port != default_port {
            out.push_str(&format!(":{port}"));
        }
        let authority_end = out.len();
        if !target.starts_with('/') {
            out.push('/');
        }
        for byte in target.bytes() {
            match byte {
                0x80.. => out.push_str(&format!("%{byte:02X}")),
                _ => out.push(char::from(byte)),
            }
        }
        let short = |at: usize| u16::try_from(at).map_err(|_| UrlError::Long);
        Ok(Url {
            scheme,
            port,
            authority: short(authority_at)?..short(authority_end)?,
            host: short(host_at)?..short(host_end)?,
            text: out.into(),
        })
    }

    /// Where a `Location` leads that a reply from this URL names.
    pub fn join(&self, location: &str) -> Result<Url, UrlError> {
        let before_path = location.split(['/', '?', '#']).next().unwrap_or(location);
        if before_path.contains(':') {
            return Url::parse(location);
        }
        let scheme = &self.text[..usize::from(self.authority.start)];
        let origin = self.origin();
        let path = self.target().split('?').next().unwrap_or("/");
        let text = if location.starts_with("//") {
            format!("{}{location}", scheme.trim_end_matches('/'))
        } else if location.starts_with('/') {
            format!("{origin}{location}")
        } else if location.is_empty() || location.starts_with('?') {
            format!("{origin}{path}{location}")
        } else {
            let folder = path.rfind('/').map_or("/", |at| &path[..=at]);
            format!("{origin}{folder}{location}")
        };
        Url::parse(&text)
    }

    /// The whole of it.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// How the host is spoken to.
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// Host and port as `Host` names them: the port only where it is not the usual one.
    pub fn authority(&self) -> &str {
        &self.text[usize::from(self.authority.start)..usize::from(self.authority.end)]
    }

    /// Scheme, host and port: what a connection is made for.
    pub fn origin(&self) -> &str {
        &self.text[..usize::from(self.authority.end)]
    }

    /// Name or address, without brackets.
    pub fn host(&self) -> &str {
        &self.text[usize::from(self.host.start)..usize::from(self.host.end)]
    }

    /// The port, the usual one where none was named.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Path and query.
    pub fn target(&self) -> &str {
        &self.text[usize::from(self.authority.end)..]
    }

    /// Whether we may connect to `address` for this URL. `from` is the address that redirected us here. Trackers and web
    /// seeds on private addresses are a mesh's everyday life; but nobody outside leads us to them, on this machine
    /// we announce only where a tracker answers, and for content nothing is asked there that could be an order.
    pub fn admits(&self, address: IpAddr, from: Option<IpAddr>, purpose: Purpose) -> Result<(), Denied> {
        let inside = class(address);
        if matches!(inside, Class::Nowhere | Class::Multicast) {
            return Err(Denied::Nowhere);
        }
        if inside == Class::Global {
            return Ok(());
        }
        if from.is_some_and(|from| class(from) == Class::Global) {
            return Err(Denied::Inwards);
        }
        let (path, query) = self.target().split_once('?').unwrap_or((self.target(), ""));
        let has = |name: &[u8]| path.as_bytes().windows(name.len()).any(|part| part == name);
        match purpose {
            Purpose::Announce if inside == Class::Loopback && !has(b"/announce") && !has(b"/scrape") => {
                Err(Denied::Loopback)
            }
            Purpose::Content if !query.is_empty() => Err(Denied::Query),
            _ => Ok(()),
        }
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Url({})", self.text)
    }
}

impl fmt::Display for UrlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            UrlError::Long => write!(f, "the URL is longer than {MAX_URL} bytes"),
            UrlError::Forbidden => write!(f, "the URL has a space or control character"),
            UrlError::NoScheme => write!(f, "the URL does not begin with http://"),
            UrlError::Scheme(scheme) => write!(f, "{scheme}:// is not supported"),
            UrlError::User => write!(f, "the URL has a user name, which is not supported"),
            UrlError::Host => write!(f, "the URL has no valid host"),
            UrlError::Port => write!(f, "the URL's port is not a number from 1 to 65535"),
        }
    }
}

impl std::error::Error for UrlError {}

impl fmt::Display for Denied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Denied::Inwards => write!(f, "a redirect from the Internet to a private address is not followed"),
            Denied::Loopback => write!(f, "on this machine only a path with /announce or /scrape is asked"),
            Denied::Query => write!(f, "a URL with a query is not asked on our own network"),
            Denied::Nowhere => write!(f, "the address is nobody's"),
        }
    }
}

impl std::error::Error for Denied {}

/// What stands before and behind `://`. The standard library's search for a text is two kilobytes, made for long ones.
pub fn split_scheme(url: &str) -> Option<(&str, &str)> {
    let (scheme, rest) = url.split_once(':')?;
    Some((scheme, rest.strip_prefix("//")?))
}

/// Percent-escapes all but RFC 3986's unreserved letters.
pub fn escape(bytes: &[u8], out: &mut Vec<u8>) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    for byte in bytes {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(byte) {
            out.push(*byte);
        } else {
            out.extend_from_slice(&[b'%', DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
        }
    }
}

/// Host, port (may be empty) and whether the host stood in brackets.
fn split_authority(authority: &str) -> Result<(&str, &str, bool), UrlError> {
    if let Some(rest) = authority.strip_prefix('[') {
        let (host, rest) = rest.split_once(']').ok_or(UrlError::Host)?;
        host.parse::<Ipv6Addr>().map_err(|_| UrlError::Host)?;
        let port = match rest {
            "" => "",
            rest => rest.strip_prefix(':').ok_or(UrlError::Host)?,
        };
        return Ok((host, port, true));
    }
    let (host, port) = authority.split_once(':').unwrap_or((authority, ""));
    let valid = !host.is_empty()
        && host.len() <= 253
        && host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b))
        && host.bytes().any(|b| b != b'.');
    if valid { Ok((host, port, false)) } else { Err(UrlError::Host) }
}

fn decode_port(text: &str) -> Option<u16> {
    let port = decimal(text.as_bytes())?;
    u16::try_from(port).ok().filter(|port| *port != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Url {
        Url::parse(text).unwrap()
    }

    #[test]
    fn urls_are_taken_apart() {
        let cases = [
            ("http://t.example/announce", "t.example", 80, "t.example", "/announce"),
            ("HTTP://T.Example:80/Announce", "t.example", 80, "t.example", "/Announce"),
            ("http://t.example:6969/a?key=1", "t.example", 6969, "t.example:6969", "/a?key=1"),
            ("http://t.example", "t.example", 80, "t.example", "/"),
            ("http://t.example:", "t.example", 80, "t.example", "/"),
            ("http://t.example?x=1#part", "t.example", 80, "t.example", "/?x=1"),
            ("https://t.example/a", "t.example", 443, "t.example", "/a"),
            ("http://[fe80::1]:7/a", "fe80::1", 7, "[fe80::1]:7", "/a"),
            ("http://[::1]/announce", "::1", 80, "[::1]", "/announce"),
            ("http://10.1.2.3:1/announce", "10.1.2.3", 1, "10.1.2.3:1", "/announce"),
            ("http://t.example/ä", "t.example", 80, "t.example", "/%C3%A4"),
        ];
        let tracker = [("UDP://T.Example:6969", "t.example", 6969, "t.example:6969", "/")];
        for (text, host, port, authority, target) in cases.into_iter().chain(tracker) {
            let url = Url::parse_tracker(text).unwrap();
            assert_eq!(
                (url.host(), url.port(), url.authority(), url.target()),
                (host, port, authority, target),
                "{text}"
            );
            assert_eq!(Url::parse_tracker(url.as_str()).as_ref(), Ok(&url), "what is written can be read");
            assert_eq!(Url::parse(text).is_ok(), url.scheme() != Scheme::Udp);
        }
    }

    #[test]
    fn urls_that_are_none_are_refused() {
        for text in [
            "",
            "http",
            "http:/x",
            "http://",
            "http:///announce",
            "://x/",
            "http://a b/",
            "http://a/b c",
            "http://a/\r\nX: y",
            "http://a/\0",
            "http://a/\u{7f}",
            "http://u@h/",
            "http://u:p@h/",
            "http://h:0/",
            "http://h:65536/",
            "http://h:+1/",
            "http://h:x/",
            "http://[::1/",
            "http://[::1]x/",
            "http://[zz]/",
            "http://ä/",
            "http://h%20/",
            "http://../",
            "http://a:1:2/",
            "udp://h:1/announce",
            "file:///etc/passwd",
            "wss://h/",
        ] {
            assert!(Url::parse(text).is_err(), "{text:?}");
        }
        assert_eq!(Url::parse("udp://h:1/a"), Err(UrlError::Scheme("udp".into())));
        assert_eq!(Url::parse(&format!("http://h/{}", "a".repeat(MAX_URL))), Err(UrlError::Long));
        // Escaping must not make it pass what an offset can say.
        assert!(Url::parse(&format!("http://h/{}", "ä".repeat(1000))).is_ok());
    }

    #[test]
    fn locations_are_joined() {
        let base = url("http://h.example:8/a/b?c=d");
        let cases = [
            ("http://x.example/y", "http://x.example/y"),
            ("//x.example/y", "http://x.example/y"),
            ("/y?z", "http://h.example:8/y?z"),
            ("y", "http://h.example:8/a/y"),
            ("?q=/:", "http://h.example:8/a/b?q=/:"),
            ("", "http://h.example:8/a/b"),
            ("/t:x", "http://h.example:8/t:x"),
        ];
        for (location, expected) in cases {
            assert_eq!(base.join(location).unwrap().as_str(), expected, "{location}");
        }
        for location in ["file:///etc/passwd", "javascript:x", "ftp://h/", "/a b", "/a\r\nb", "http://u@h/"] {
            assert!(base.join(location).is_err(), "{location}");
        }
        assert_eq!(url("https://h/a").join("//x/b").unwrap().as_str(), "https://x/b");
    }

    #[test]
    fn nobody_outside_leads_us_inside() {
        use Purpose::{Announce, Content};
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let tracker = url("http://t.example/announce");
        let page = url("http://t.example/admin?x=/announce");
        let global = Some(ip("203.0.113.1"));
        assert_eq!(tracker.admits(ip("10.0.0.1"), None, Announce), Ok(()));
        assert_eq!(tracker.admits(ip("fd00::1"), Some(ip("10.0.0.2")), Announce), Ok(()));
        assert_eq!(tracker.admits(ip("203.0.113.2"), global, Announce), Ok(()));
        for inside in
            ["10.0.0.1", "127.0.0.1", "::1", "fe80::1", "fd00::1", "::ffff:192.168.1.1", "64:ff9b::c0a8:101"]
        {
            assert_eq!(tracker.admits(ip(inside), global, Announce), Err(Denied::Inwards), "{inside}");
        }
        assert_eq!(tracker.admits(ip("127.0.0.1"), None, Announce), Ok(()));
        assert_eq!(page.admits(ip("127.0.0.1"), None, Announce), Err(Denied::Loopback));
        assert_eq!(page.admits(ip("::1"), Some(ip("10.0.0.1")), Announce), Err(Denied::Loopback));
        assert_eq!(page.admits(ip("10.0.0.1"), None, Announce), Ok(()));
        for nobody in ["0.0.0.0", "224.0.0.1", "::"] {
            assert_eq!(tracker.admits(ip(nobody), None, Announce), Err(Denied::Nowhere), "{nobody}");
        }
        let (file, script) = (url("http://t.example/file"), url("http://t.example/seed?x=1"));
        for inside in ["10.0.0.1", "127.0.0.1", "::1", "fd00::1"] {
            assert_eq!(file.admits(ip(inside), None, Content), Ok(()), "{inside}");
            assert_eq!(script.admits(ip(inside), None, Content), Err(Denied::Query), "{inside}");
            assert_eq!(file.admits(ip(inside), global, Content), Err(Denied::Inwards), "{inside}");
        }
        assert_eq!(script.admits(ip("203.0.113.2"), None, Content), Ok(()));
        assert_eq!(file.admits(ip("0.0.0.0"), None, Content), Err(Denied::Nowhere));
    }

    #[test]
    fn no_truncation_and_no_mutation_panics() {
        let base = "http://[fe80::1]:80/ä?x#y";
        for (cut, _) in base.char_indices() {
            let _ = Url::parse(&base[..cut]);
            for value in ["", "/", ":", "[", "]", "@", "?", "#", "%", "ä", "\0"] {
                let text = format!("{}{value}{}", &base[..cut], &base[cut..]);
                if let Ok(url) = Url::parse(&text) {
                    let _ =
                        (url.host(), url.authority(), url.target(), url.join(&text), url.join(&base[..cut]));
                }
            }
        }
    }
}

//! HTTP/1.1 as bytes: heads of requests and replies, both ways.
//!
//! Read first: RFC 9112. Heads are split by `httparse`; URLs are in `url`, bodies in `receive`. Omits: compression
//! (never asked for), pipelining, cookies, TLS. Holds nothing but the few fields of a head that matter.

use std::fmt;

pub use receive::Receiver;
pub use url::{Denied, MAX_URL, Scheme, Url, UrlError};

mod url;
mod receive;
pub mod io;

/// Bytes of a reply's head: what common servers send at most is 8 KiB.
pub const MAX_HEAD: usize = 16 * 1024;

/// Redirects that are followed: more is a loop.
pub const MAX_REDIRECTS: u8 = 5;

/// What we call ourselves.
pub const USER_AGENT: &str = concat!("meshseed/", env!("CARGO_PKG_VERSION"));

/// Fields of a head: httparse wants to know beforehand.
const MAX_FIELDS: usize = 64;

/// How a body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Length {
    /// After so many bytes.
    Exact(u64),
    /// After a chunk of no bytes.
    Chunked,
    /// With the connection.
    UntilClose,
}

/// What matters of a reply's head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplyHead {
    /// 200 and so on.
    pub status: u16,
    /// How the body ends.
    pub length: Length,
    /// The connection may be used again.
    pub keep_alive: bool,
    /// `Location`.
    pub location: Option<String>,
    /// `Retry-After`, in seconds (dates are left to those who know the time).
    pub retry_after: Option<u32>,
}

/// What matters of a request's head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestHead {
    /// `GET` and so on.
    pub method: String,
    /// Path and query.
    pub target: String,
    /// `Host`.
    pub host: Option<String>,
    /// `User-Agent`.
    pub user_agent: Option<String>,
    /// The connection may be used again.
    pub keep_alive: bool,
}

/// What is wrong with a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// The head is no HTTP.
    Head,
    /// The head passes [`MAX_HEAD`].
    LongHead,
    /// Interim replies without end.
    Interim,
    /// `Content-Length` is no number, or two of them differ.
    Length,
    /// A transfer coding or content coding that was not asked for.
    Coding,
    /// The body passes what was allowed.
    LongBody,
    /// A chunk's size is no number, or its end is not where it should be.
    Chunk,
    /// The connection ended inside the message.
    Truncated,
    /// The connection ended before the first byte.
    Closed,
}

<<<<<<< HEAD
/// Puts one reply together. The shell reads into [`Receiver::space`] and says how much came.
#[derive(Debug)]
pub struct Receiver {
    /// All of it may be written to; `filled` bytes have been.
    buffer: Vec<u8>,
    filled: usize,
    /// Bytes in which no end of a head is.
    scanned: usize,
    head: Option<ReplyHead>,
    /// The decoded body.
    body: Range<usize>,
    /// The first byte that was not decoded yet.
    raw: usize,
    chunk: Chunk,
    interim: u8,
    whole: bool,
    max_body: usize,
}

/// Where in a chunked body we are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Chunk {
    /// Before the line with a size.
    Size,
    /// Inside the data, with so many bytes to come.
    Data(u64),
    /// Before the end of line after the data.
    DataEnd,
    /// Before a line of the trailer.
    Trailer,
}

impl Url {
    /// Checks and takes apart. Letters that are not ASCII are escaped in the path and refused in the host.
    pub fn parse(text: &str) -> Result<Url, UrlError> {
        if text.len() > MAX_URL {
            return Err(UrlError::Long);
        }
        if text.bytes().any(|b| b <= b' ' || b == 0x7f) {
            return Err(UrlError::Forbidden);
        }
        let (scheme, rest) = text.split_once("://").ok_or(UrlError::NoScheme)?;
        let (scheme, default_port) = if scheme.eq_ignore_ascii_case("http") {
            (Scheme::Http, 80)
        } else if scheme.eq_ignore_ascii_case("https") {
            (Scheme::Https, 443)
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
        out.push_str(if scheme == Scheme::Http { "http://" } else { "https://" });
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
        let origin = &self.text[..usize::from(self.authority.end)];
        let path = self.target().split('?').next().unwrap_or("/");
        let text = if location.starts_with("//") {
            format!("{}{location}", scheme.trim_end_matches("//"))
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

    /// Plain or TLS.
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// Host and port as `Host` names them: the port only where it is not the usual one.
    pub fn authority(&self) -> &str {
        &self.text[usize::from(self.authority.start)..usize::from(self.authority.end)]
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

    /// Whether we, as clients of trackers, may connect to `address` for this URL. `from` is the address that
    /// redirected us here. Trackers on private addresses are a mesh's everyday life; but nobody outside leads us to
    /// them, and on this machine we knock only where a tracker answers.
    pub fn admits(&self, address: IpAddr, from: Option<IpAddr>) -> Result<(), Denied> {
        let inside = class(address);
        if matches!(inside, Class::Nowhere | Class::Multicast) {
            return Err(Denied::Nowhere);
        }
        if inside != Class::Global && from.is_some_and(|from| class(from) == Class::Global) {
            return Err(Denied::Inwards);
        }
        let path = self.target().split('?').next().unwrap_or("");
        if inside == Class::Loopback && !path.contains("/announce") {
            return Err(Denied::Loopback);
        }
        Ok(())
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
            Denied::Loopback => write!(f, "on this machine only a path with /announce is asked"),
            Denied::Nowhere => write!(f, "the address is nobody's"),
        }
    }
}

impl std::error::Error for Denied {}

=======
>>>>>>> tracker
impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Error::Head => "the reply is not HTTP",
            Error::LongHead => "the reply's head is too long",
            Error::Interim => "interim replies without end",
            Error::Length => "the reply's Content-Length is not a number",
            Error::Coding => "the reply is encoded in a way that was not asked for",
            Error::LongBody => "the reply is too long",
            Error::Chunk => "the reply's chunks are broken",
            Error::Truncated => "the connection was closed in the middle of the reply",
            Error::Closed => "the connection was closed without a reply",
        })
    }
}

impl std::error::Error for Error {}

/// Appends a GET of `url`, whose query `query` is added to, without a body.
pub fn encode_get(url: &Url, query: &[u8], out: &mut Vec<u8>) {
    let target = url.target();
    out.extend_from_slice(b"GET ");
    out.extend_from_slice(target.as_bytes());
    if !query.is_empty() {
        match target.split_once('?') {
            None => out.push(b'?'),
            Some((_, "")) => {}
            Some((_, old)) if old.ends_with('&') => {}
            Some(_) => out.push(b'&'),
        }
        out.extend_from_slice(query);
    }
    out.extend_from_slice(b" HTTP/1.1\r\nHost: ");
    out.extend_from_slice(url.authority().as_bytes());
    out.extend_from_slice(b"\r\nUser-Agent: ");
    out.extend_from_slice(USER_AGENT.as_bytes());
    out.extend_from_slice(b"\r\nAccept-Encoding: identity\r\nConnection: keep-alive\r\n\r\n");
}

/// The request whose head stands at the start of `bytes`, and the head's length. `None`: not whole yet.
pub fn decode_request_head(bytes: &[u8]) -> Result<Option<(RequestHead, usize)>, Error> {
    let Some(end) = head_end(bytes, 0) else {
        return if bytes.len() > MAX_HEAD { Err(Error::LongHead) } else { Ok(None) };
    };
    if end > MAX_HEAD {
        return Err(Error::LongHead);
    }
    let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
    let mut request = httparse::Request::new(&mut fields);
    match request.parse(&bytes[..end]) {
        Ok(httparse::Status::Complete(_)) => {}
        _ => return Err(Error::Head),
    }
    let text = |name| {
        field(request.headers, name).and_then(|value| std::str::from_utf8(value).ok()).map(str::to_owned)
    };
    let head = RequestHead {
        method: request.method.ok_or(Error::Head)?.to_owned(),
        target: request.path.ok_or(Error::Head)?.to_owned(),
        host: text("host"),
        user_agent: text("user-agent"),
        keep_alive: keep_alive(request.version, request.headers),
    };
    Ok(Some((head, end)))
}

/// Appends a reply's head. `location` must come from a [`Url`] or a constant: it is not escaped.
pub fn encode_reply_head(head: &ReplyHead, out: &mut Vec<u8>) {
    let reason = match head.status {
        200 => "OK",
        206 => "Partial Content",
        300..400 => "Redirect",
        400..500 => "Refused",
        500..600 => "Failed",
        _ => "-",
    };
    out.extend_from_slice(format!("HTTP/1.1 {} {reason}\r\n", head.status).as_bytes());
    match head.length {
        Length::Exact(length) => out.extend_from_slice(format!("Content-Length: {length}\r\n").as_bytes()),
        Length::Chunked => out.extend_from_slice(b"Transfer-Encoding: chunked\r\n"),
        Length::UntilClose => {}
    }
    if let Some(location) = &head.location {
        out.extend_from_slice(format!("Location: {location}\r\n").as_bytes());
    }
    if let Some(seconds) = head.retry_after {
        out.extend_from_slice(format!("Retry-After: {seconds}\r\n").as_bytes());
    }
    if !head.keep_alive {
        out.extend_from_slice(b"Connection: close\r\n");
    }
    out.extend_from_slice(b"\r\n");
}

/// A whole reply's head.
pub fn decode_reply_head(bytes: &[u8]) -> Result<ReplyHead, Error> {
    let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
    let mut reply = httparse::Response::new(&mut fields);
    let mut config = httparse::ParserConfig::default();
    config.ignore_invalid_headers_in_responses(true).allow_spaces_after_header_name_in_responses(true);
    match config.parse_response(&mut reply, bytes) {
        Ok(httparse::Status::Complete(_)) => {}
        _ => return Err(Error::Head),
    }
    let status = reply.code.filter(|status| *status >= 100).ok_or(Error::Head)?;
    let fields = &*reply.headers;
    let mut keep_alive = keep_alive(reply.version, fields);
    if field(fields, "content-encoding").is_some_and(|value| !value.eq_ignore_ascii_case(b"identity")) {
        return Err(Error::Coding);
    }
    let length = if (100..200).contains(&status) || status == 204 || status == 304 {
        Length::Exact(0)
    } else if let Some(coding) =
        field(fields, "transfer-encoding").filter(|c| !c.eq_ignore_ascii_case(b"identity"))
    {
        if !coding.eq_ignore_ascii_case(b"chunked") {
            return Err(Error::Coding);
        }
        // Two lengths in one head: somebody between us understands the other one (RFC 9112 §6.3).
        keep_alive &= field(fields, "content-length").is_none();
        Length::Chunked
    } else {
        match content_length(fields)? {
            Some(length) => Length::Exact(length),
            None => {
                keep_alive = false;
                Length::UntilClose
            }
        }
    };
    Ok(ReplyHead {
        status,
        length,
        keep_alive,
        location: field(fields, "location")
            .and_then(|value| std::str::from_utf8(value).ok())
            .map(str::to_owned),
        retry_after: field(fields, "retry-after")
            .and_then(decimal)
            .map(|n| u32::try_from(n).unwrap_or(u32::MAX)),
    })
}

/// Where the empty line that ends a head ends, if it does; bytes before `scanned` are known not to hold it.
fn head_end(bytes: &[u8], scanned: usize) -> Option<usize> {
    let from = scanned.saturating_sub(2);
    let mut line_start = None;
    for (at, byte) in bytes.iter().enumerate().skip(from) {
        match (byte, line_start) {
            (b'\n', Some(_)) => return Some(at + 1),
            (b'\n', None) => line_start = Some(at),
            (b'\r', Some(start)) if start + 1 == at => {}
            _ => line_start = None,
        }
    }
    None
}

fn keep_alive(version: Option<u8>, fields: &[httparse::Header<'_>]) -> bool {
    let says = |token: &[u8]| {
        let named = fields.iter().filter(|field| field.name.eq_ignore_ascii_case("connection"));
        named
            .flat_map(|field| field.value.split(|b| *b == b','))
            .any(|value| value.trim_ascii().eq_ignore_ascii_case(token))
    };
    if version == Some(1) { !says(b"close") } else { says(b"keep-alive") }
}

fn field<'a>(fields: &[httparse::Header<'a>], name: &str) -> Option<&'a [u8]> {
    fields.iter().find(|field| field.name.eq_ignore_ascii_case(name)).map(|field| field.value.trim_ascii())
}

fn content_length(fields: &[httparse::Header<'_>]) -> Result<Option<u64>, Error> {
    let mut length = None;
    for field in fields.iter().filter(|field| field.name.eq_ignore_ascii_case("content-length")) {
        for value in field.value.split(|b| *b == b',') {
            let value = decimal(value.trim_ascii()).ok_or(Error::Length)?;
            if length.is_some_and(|length| length != value) {
                return Err(Error::Length);
            }
            length = Some(value);
        }
    }
    Ok(length)
}

/// Digits alone: no sign, no space.
fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

<<<<<<< HEAD
    /// Feeds a reply in pieces of `step` bytes, then ends the connection where `close` says so.
    fn receive(bytes: &[u8], step: usize, max_body: usize, close: bool) -> Result<Option<Receiver>, Error> {
        let mut receiver = Receiver::new(max_body);
        for part in bytes.chunks(step) {
            let mut part = part;
            while !part.is_empty() {
                let space = receiver.space();
                let n = space.len().min(part.len());
                space[..n].copy_from_slice(&part[..n]);
                part = &part[n..];
                if receiver.received(n)? && part.is_empty() {
                    break;
                }
            }
        }
        if close {
            receiver.closed()?;
        }
        Ok(receiver.whole.then_some(receiver))
    }

    fn body(bytes: &[u8]) -> Vec<u8> {
        for step in [1, 2, 3, 7, 100_000] {
            let receiver = receive(bytes, step, 1000, false).unwrap().unwrap();
            assert_eq!(
                receiver.body(),
                receive(bytes, 5, 1000, false).unwrap().unwrap().body(),
                "steps of {step}"
            );
        }
        receive(bytes, 1, 1000, false).unwrap().unwrap().body().to_vec()
    }

=======
>>>>>>> tracker
    fn url(text: &str) -> Url {
        Url::parse(text).unwrap()
    }

    #[test]
<<<<<<< HEAD
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
        for (text, host, port, authority, target) in cases {
            let url = url(text);
            assert_eq!(
                (url.host(), url.port(), url.authority(), url.target()),
                (host, port, authority, target),
                "{text}"
            );
            assert_eq!(Url::parse(url.as_str()).as_ref(), Ok(&url), "what is written can be read");
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
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let tracker = url("http://t.example/announce");
        let page = url("http://t.example/admin?x=/announce");
        let global = Some(ip("203.0.113.1"));
        assert_eq!(tracker.admits(ip("10.0.0.1"), None), Ok(()));
        assert_eq!(tracker.admits(ip("fd00::1"), Some(ip("10.0.0.2"))), Ok(()));
        assert_eq!(tracker.admits(ip("203.0.113.2"), global), Ok(()));
        for inside in
            ["10.0.0.1", "127.0.0.1", "::1", "fe80::1", "fd00::1", "::ffff:192.168.1.1", "64:ff9b::c0a8:101"]
        {
            assert_eq!(tracker.admits(ip(inside), global), Err(Denied::Inwards), "{inside}");
        }
        assert_eq!(tracker.admits(ip("127.0.0.1"), None), Ok(()));
        assert_eq!(page.admits(ip("127.0.0.1"), None), Err(Denied::Loopback));
        assert_eq!(page.admits(ip("::1"), Some(ip("10.0.0.1"))), Err(Denied::Loopback));
        assert_eq!(page.admits(ip("10.0.0.1"), None), Ok(()));
        for nobody in ["0.0.0.0", "224.0.0.1", "::"] {
            assert_eq!(tracker.admits(ip(nobody), None), Err(Denied::Nowhere), "{nobody}");
        }
    }

    #[test]
=======
>>>>>>> tracker
    fn a_request_is_written_as_it_is_read() {
        for (text, query, target) in [
            ("http://h.example/announce", "a=1", "/announce?a=1"),
            ("http://h.example/announce?key=x", "a=1", "/announce?key=x&a=1"),
            ("http://h.example/announce?", "a=1", "/announce?a=1"),
            ("http://h.example/announce?key=x&", "a=1", "/announce?key=x&a=1"),
            ("http://h.example/f", "", "/f"),
        ] {
            let mut out = Vec::new();
            encode_get(&url(text), query.as_bytes(), &mut out);
            let (head, length) = decode_request_head(&out).unwrap().unwrap();
            assert_eq!(length, out.len());
            assert_eq!((head.method.as_str(), head.target.as_str()), ("GET", target));
            assert_eq!(head.host.as_deref(), Some("h.example"));
            assert_eq!(head.user_agent.as_deref(), Some(USER_AGENT));
            assert!(head.keep_alive);
            for cut in 0..length {
                assert_eq!(decode_request_head(&out[..cut]), Ok(None));
            }
        }
    }

    #[test]
    fn a_reply_head_is_written_as_it_is_read() {
        for length in [Length::Exact(0), Length::Exact(1 << 40), Length::Chunked, Length::UntilClose] {
            for status in [200, 302, 404, 503] {
                let head = ReplyHead {
                    status,
                    length,
                    keep_alive: length != Length::UntilClose,
                    location: (status == 302).then(|| "/else".into()),
                    retry_after: (status == 503).then_some(120),
                };
                let mut out = Vec::new();
                encode_reply_head(&head, &mut out);
                assert_eq!(decode_reply_head(&out), Ok(head));
            }
        }
    }
<<<<<<< HEAD

    #[test]
    fn bodies_end_in_all_three_ways_however_they_are_cut() {
        assert_eq!(body(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"), b"hello");
        assert_eq!(body(b"HTTP/1.1 200 OK\ncontent-length:5\n\nhello"), b"hello");
        assert_eq!(body(b"HTTP/1.1 204 None\r\n\r\n"), b"");
        assert_eq!(
            body(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n3\r\nhel\r\n2;x=y\r\nlo\r\n0\r\nTrailer: 1\r\n\r\n"),
            b"hello"
        );
        assert_eq!(
            body(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"),
            b"ok"
        );
        let open = b"HTTP/1.0 200 OK\r\n\r\nuntil the end";
        for step in [1, 4, 1000] {
            assert!(receive(open, step, 1000, false).unwrap().is_none());
            let receiver = receive(open, step, 1000, true).unwrap().unwrap();
            assert_eq!(receiver.body(), b"until the end");
            assert!(!receiver.reusable());
        }
    }

    #[test]
    fn a_connection_is_used_again_only_when_both_sides_know_where_the_reply_ended() {
        let cases: [(&[u8], bool); 8] = [
            (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", true),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: x, Close\r\n\r\n", false),
            (b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n", false),
            (b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\nConnection: Keep-Alive\r\n\r\n", true),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nab", false),
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", true),
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nx", false),
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n", false),
        ];
        for (bytes, reusable) in cases {
            let receiver = receive(bytes, 1000, 1000, false).unwrap().unwrap();
            assert_eq!(receiver.reusable(), reusable, "{}", String::from_utf8_lossy(bytes));
        }
    }

    #[test]
    fn what_lies_about_its_length_is_refused() {
        let cases: [(&str, Error); 12] = [
            ("Content-Length: -5\r\n\r\n", Error::Length),
            ("Content-Length: +5\r\n\r\n", Error::Length),
            ("Content-Length: 5x\r\n\r\n", Error::Length),
            ("Content-Length: \r\n\r\n", Error::Length),
            ("Content-Length: 5\r\nContent-Length: 6\r\n\r\n", Error::Length),
            ("Content-Length: 99999999999999999999999\r\n\r\n", Error::Length),
            ("Content-Length: 1001\r\n\r\n", Error::LongBody),
            ("Content-Encoding: gzip\r\n\r\n", Error::Coding),
            ("Transfer-Encoding: gzip, chunked\r\n\r\n", Error::Coding),
            ("Transfer-Encoding: chunked\r\n\r\n-1\r\n", Error::Chunk),
            ("Transfer-Encoding: chunked\r\n\r\n2\r\nabc\r\n", Error::Chunk),
            ("Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n", Error::Chunk),
        ];
        for (rest, expected) in cases {
            let bytes = format!("HTTP/1.1 200 OK\r\n{rest}");
            for step in [1, 1000] {
                assert_eq!(receive(bytes.as_bytes(), step, 1000, false).err(), Some(expected), "{rest}");
            }
        }
    }

    #[test]
    fn nothing_grows_without_bound() {
        let cases: [(&str, &str, Error); 6] = [
            ("HTTP/1.1 200 OK\r\n", "X-Y: zzzzzzzzzz\r\n", Error::LongHead),
            ("", "HTTP/1.1 100 Continue\r\n\r\n", Error::Interim),
            ("HTTP/1.1 200 OK\r\n\r\n", "zzzzzzzzzzzzzz", Error::LongBody),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "5\r\nabcde\r\n", Error::LongBody),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffff\r\n", "zzzzzz", Error::LongBody),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;", "zzzzzz", Error::Chunk),
        ];
        for (start, repeated, expected) in cases {
            let mut receiver = Receiver::new(10_000);
            let mut bytes = start.bytes().chain(repeated.bytes().cycle());
            let error = loop {
                let space = receiver.space();
                let n = space.len().min(333);
                space[..n].fill_with(|| bytes.next().unwrap());
                if let Err(error) = receiver.received(n) {
                    break error;
                }
            };
            assert_eq!(error, expected, "{start}");
            assert!(
                receiver.buffer.len() <= MAX_HEAD + 10_000 + 2 * MAX_CHUNK_LINE,
                "{}",
                receiver.buffer.len()
            );
        }
        let mut receiver = Receiver::new(10);
        receiver.space();
        receiver.reset(10);
        assert_eq!(receiver.buffer.len(), FIRST_BUFFER);
    }

    #[test]
    fn no_truncation_and_no_mutation_panics() {
        let samples: [&[u8]; 4] = [
            b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\nRetry-After: 5\r\n\r\nhello",
            b"HTTP/1.1 302 Found\r\nTransfer-Encoding: chunked\r\nLocation: /x\r\n\r\n3\r\nhel\r\n2\r\nlo\r\n0\r\nT: 1\r\n\r\n",
            b"HTTP/1.1 100 C\r\n\r\nHTTP/1.0 200 OK\r\n\r\nhello",
            b"GET /announce?a=b HTTP/1.1\r\nHost: h:1\r\n\r\n",
        ];
        for sample in samples {
            for cut in 0..sample.len() {
                let _ = receive(&sample[..cut], 3, 100, true);
                let _ = decode_request_head(&sample[..cut]);
                for value in [0, b'\n', b'\r', b'0', b'9', b'-', b':', b' ', 0x80, 0xff] {
                    let mut mutated = sample.to_vec();
                    mutated[cut] = value;
                    for step in [1, 1000] {
                        let _ = receive(&mutated, step, 100, true);
                    }
                    let _ = decode_request_head(&mutated);
                    let text = String::from_utf8_lossy(&mutated);
                    let _ = Url::parse(&text).and_then(|url| url.join(&text));
                }
            }
        }
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
=======
>>>>>>> tracker
}

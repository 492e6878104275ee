//! HTTP/1.1 as bytes: heads of requests and replies, both ways.
//!
//! Read first: RFC 9112, RFC 9110 §14 (ranges). Heads are split by `httparse`; URLs are in `url`, replies as they
//! come in `decode`, whole ones in `receive`. Omits: compression (never asked for), several ranges in one request,
//! pipelining, cookies. Holds nothing but the few fields of a head that matter.

use std::fmt;
use std::ops::Range;

pub use decode::Decoder;
pub use receive::Receiver;
pub use url::{Denied, MAX_URL, Purpose, Scheme, Url, UrlError, escape, split_scheme};

mod decode;
pub mod io;
mod receive;
mod url;

/// Bytes of a reply's head: what common servers send at most is 8 KiB.
pub const MAX_HEAD: usize = 16 * 1024;

/// Redirects that are followed: more is a loop.
pub const MAX_REDIRECTS: u8 = 5;

/// Whether this build speaks `https`.
pub const TLS: bool = cfg!(feature = "tls");

/// Why one that does not asks no `https` URL.
pub const NO_TLS: &str = "https:// needs TLS, which this build of meshseed is without";

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

/// What part of a thing a reply brings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContentRange {
    /// Its first byte and the one after its last; never empty.
    pub bytes: Range<u64>,
    /// Bytes of the whole thing, where the server tells.
    pub total: Option<u64>,
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
    /// `Content-Range`; one that makes no sense counts as none.
    pub content_range: Option<ContentRange>,
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
    /// `Range`, where it is one of both ends; of others a server need not know.
    pub range: Option<Range<u64>>,
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

/// Appends a GET of `url`, whose query `query` is added to, or of some of its bytes. An empty range is none.
pub fn encode_get(url: &Url, query: &[u8], range: Option<&Range<u64>>, out: &mut Vec<u8>) {
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
    out.extend_from_slice(b"\r\nAccept-Encoding: identity\r\n");
    if let Some(range) = range.filter(|range| !range.is_empty()) {
        out.extend_from_slice(format!("Range: bytes={}-{}\r\n", range.start, range.end - 1).as_bytes());
    }
    out.extend_from_slice(b"Connection: keep-alive\r\n\r\n");
}

/// The request whose head stands at the start of `bytes`, and the head's length. `None`: not whole yet.
pub fn decode_request_head(bytes: &[u8]) -> Result<Option<(RequestHead, usize)>, Error> {
    let Some(end) = head_end(bytes) else {
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
        range: field(request.headers, "range").and_then(decode_range),
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
    if let Some(ContentRange { bytes, total }) = head.content_range.as_ref().filter(|r| !r.bytes.is_empty()) {
        let total = total.map_or_else(|| "*".to_owned(), |total| total.to_string());
        out.extend_from_slice(
            format!("Content-Range: bytes {}-{}/{total}\r\n", bytes.start, bytes.end - 1).as_bytes(),
        );
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
        content_range: field(fields, "content-range").and_then(decode_content_range),
    })
}

/// Where the empty line that ends a head ends, if it does.
fn head_end(bytes: &[u8]) -> Option<usize> {
    let mut end = 0;
    for line in bytes.split_inclusive(|b| *b == b'\n') {
        end += line.len();
        // Empty lines before a head are passed over (RFC 9112 §2.2).
        if is_empty_line(line) && !bytes[..end].trim_ascii().is_empty() {
            return Some(end);
        }
    }
    None
}

fn is_empty_line(line: &[u8]) -> bool {
    matches!(line, b"\n" | b"\r\n")
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

fn decode_range(value: &[u8]) -> Option<Range<u64>> {
    range(value.strip_prefix(b"bytes=")?)
}

fn decode_content_range(value: &[u8]) -> Option<ContentRange> {
    let (unit, value) = value.split_at_checked(5)?;
    let slash = value.iter().position(|b| *b == b'/')?;
    let bytes = range(value[..slash].trim_ascii())?;
    let total = match &value[slash + 1..] {
        b"*" => None,
        digits => Some(decimal(digits)?),
    };
    let fits = total.is_none_or(|total| bytes.end <= total);
    (unit.eq_ignore_ascii_case(b"bytes") && fits).then_some(ContentRange { bytes, total })
}

/// `first-last`, not empty.
fn range(text: &[u8]) -> Option<Range<u64>> {
    let dash = text.iter().position(|b| *b == b'-')?;
    let (first, last) = (decimal(&text[..dash])?, decimal(&text[dash + 1..])?);
    (first <= last).then_some(first..last.checked_add(1)?)
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

    fn url(text: &str) -> Url {
        Url::parse(text).unwrap()
    }

    #[test]
    fn a_request_is_written_as_it_is_read() {
        for (text, query, target) in [
            ("http://h.example/announce", "a=1", "/announce?a=1"),
            ("http://h.example/announce?key=x", "a=1", "/announce?key=x&a=1"),
            ("http://h.example/announce?", "a=1", "/announce?a=1"),
            ("http://h.example/announce?key=x&", "a=1", "/announce?key=x&a=1"),
            ("http://h.example/f", "", "/f"),
        ] {
            let mut out = Vec::new();
            encode_get(&url(text), query.as_bytes(), None, &mut out);
            let (head, length) = decode_request_head(&out).unwrap().unwrap();
            assert_eq!(length, out.len());
            assert_eq!((head.method.as_str(), head.target.as_str()), ("GET", target));
            assert_eq!(head.host.as_deref(), Some("h.example"));
            assert_eq!(head.user_agent.as_deref(), Some(USER_AGENT));
            assert!(head.keep_alive && head.range.is_none());
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
                    content_range: None,
                };
                let mut out = Vec::new();
                encode_reply_head(&head, &mut out);
                assert_eq!(decode_reply_head(&out), Ok(head));
            }
        }
    }

    #[test]
    fn ranges_are_written_as_they_are_read_and_nonsense_is_none() {
        for range in [0..1, 5..6, 0..16_384, (5 << 30)..(6 << 30), u64::MAX - 1..u64::MAX] {
            let mut out = Vec::new();
            encode_get(&url("http://h.example/f"), b"", Some(&range), &mut out);
            assert_eq!(decode_request_head(&out).unwrap().unwrap().0.range, Some(range.clone()));
            for total in [None, Some(u64::MAX)] {
                let head = ReplyHead {
                    status: 206,
                    length: Length::Exact(range.end - range.start),
                    keep_alive: true,
                    location: None,
                    retry_after: None,
                    content_range: Some(ContentRange { bytes: range.clone(), total }),
                };
                let mut out = Vec::new();
                encode_reply_head(&head, &mut out);
                assert_eq!(decode_reply_head(&out), Ok(head));
            }
        }
        let mut out = Vec::new();
        encode_get(&url("http://h.example/f"), b"", Some(&(7..7)), &mut out);
        assert_eq!(decode_request_head(&out).unwrap().unwrap().0.range, None);
        for value in [
            "",
            "bytes",
            "bytes ",
            "bytes /",
            "bytes */100",
            "bytes 0-9",
            "bytes 9-0/100",
            "bytes 0-100/100",
            "bytes -9/100",
            "bytes 0-/100",
            "bytes 0-9/-1",
            "bytes 0-9/",
            "bytes 0-9/1e9",
            "bytes 0-18446744073709551615/*",
            "items 0-9/100",
        ] {
            let head =
                decode_reply_head(format!("HTTP/1.1 206 P\r\nContent-Range: {value}\r\n\r\n").as_bytes());
            assert_eq!(head.unwrap().content_range, None, "{value}");
        }
        for value in ["", "bytes=", "bytes=5-", "bytes=-5", "bytes=0-1,4-5", "bytes=2-1", "items=0-1"] {
            let head = format!("GET / HTTP/1.1\r\nHost: h\r\nRange: {value}\r\n\r\n");
            assert_eq!(decode_request_head(head.as_bytes()).unwrap().unwrap().0.range, None, "{value}");
        }
        let spaced = b"HTTP/1.1 206 P\r\ncontent-range:  Bytes  3-4/5 \r\n\r\n";
        let range = ContentRange { bytes: 3..5, total: Some(5) };
        assert_eq!(decode_reply_head(spaced).unwrap().content_range, Some(range));
    }
}

//! What to ask a web seed for: bytes of the torrent as bytes of its files or pieces, and what of the answer is wanted.
//!
//! Read first: BEP 19 (files by `Range`), BEP 17 (pieces by a script's parameters), BEP 47 (padding files, which are
//! not asked for). Holds nothing.

use std::ops::Range;

use super::{Ended, Kind};
use crate::http::{Length, ReplyHead, Url, UrlError, escape};
use crate::metainfo::InfoHash;
use crate::storage::{Layout, Span};

/// Bytes that are passed over at the start of a file whose server sends all of it instead of what was asked for.
const MAX_SKIP: u64 = 1 << 20;

/// The first stretch of some bytes of a torrent that is had in one way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// First byte in the torrent.
    pub at: u64,
    /// Bytes, at least one.
    pub len: u64,
    /// Where it is had.
    pub source: Source,
}

/// Where bytes are had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// In a file, from this byte on.
    File {
        /// Its number.
        file: u32,
        /// First byte in it.
        offset: u64,
        /// Bytes of all of it.
        size: u64,
    },
    /// In a piece, from this byte on.
    Piece {
        /// Its number.
        piece: u32,
        /// First byte in it.
        begin: u32,
        /// Bytes of all of it.
        size: u32,
    },
    /// Nowhere: they are zeros.
    Zeros,
}

/// What of a body is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Bytes that come first and are passed over.
    pub skip: u64,
    /// Bytes after them; all beyond is not wanted.
    pub len: u64,
}

impl Part {
    /// The first stretch of `bytes`, as long as it can be; `None` where there are none.
    pub fn first(kind: Kind, layout: &Layout, bytes: &Range<u64>) -> Option<Part> {
        let (at, most) = (bytes.start, bytes.end.checked_sub(bytes.start)?);
        if kind == Kind::HttpSeed {
            let lengths = layout.lengths();
            let piece = lengths.piece(u32::try_from(at / u64::from(lengths.piece_length())).ok()?)?;
            let (size, begin) = (lengths.size(piece), u32::try_from(at - lengths.offset(piece)).ok()?);
            let len = most.min(u64::from(size - begin));
            let source = Source::Piece { piece: piece.index(), begin, size };
            return (len > 0).then_some(Part { at, len, source });
        }
        let Span { file, offset, len, pad } = layout.spans(at, most).next()?;
        let range = layout.range(file);
        let size = range.end - range.start;
        Some(Part { at, len, source: if pad { Source::Zeros } else { Source::File { file, offset, size } } })
    }

    /// Which bytes of the URL are asked for; `None` is all it gives.
    pub fn range(&self) -> Option<Range<u64>> {
        match self.source {
            Source::File { offset, .. } => Some(offset..offset + self.len),
            Source::Piece { .. } | Source::Zeros => None,
        }
    }

    /// The parameters of BEP 17's script; nothing for a file.
    pub fn query(&self, info_hash: InfoHash) -> Vec<u8> {
        let Source::Piece { piece, begin, size } = self.source else { return Vec::new() };
        let mut query = b"info_hash=".to_vec();
        escape(info_hash.as_bytes(), &mut query);
        query.extend_from_slice(format!("&piece={piece}").as_bytes());
        if self.len < u64::from(size) {
            let last = u64::from(begin) + self.len - 1;
            query.extend_from_slice(format!("&ranges={begin}-{last}").as_bytes());
        }
        query
    }

    /// What of the body behind this head is wanted, if the head fits what was asked for.
    pub fn wanted(&self, head: &ReplyHead) -> Result<Wanted, Ended> {
        let all = Wanted { skip: 0, len: self.len };
        let (Source::File { offset, size, .. }, 206) = (self.source, head.status) else {
            let (skip, whole) = match self.source {
                Source::File { offset, size, .. } => (offset, size),
                _ if head.status == 206 => return Err(Ended::Wrong("a part where all was asked for".into())),
                _ => (0, self.len),
            };
            if let Length::Exact(length) = head.length
                && length != whole
            {
                return Err(Ended::Wrong(format!("{length} bytes instead of {whole}").into()));
            }
            if skip > MAX_SKIP {
                return Err(Ended::Useless("it knows no ranges".into()));
            }
            return Ok(Wanted { skip, ..all });
        };
        let Some(given) = &head.content_range else {
            return Err(Ended::Wrong("a part of which it does not say where it belongs".into()));
        };
        if let Some(total) = given.total
            && total != size
        {
            return Err(Ended::Wrong(format!("the file has {total} bytes there instead of {size}").into()));
        }
        // It may give less at a time.
        if given.bytes.start != offset || given.bytes.end > offset + self.len {
            return Err(Ended::Wrong("other bytes than those asked for".into()));
        }
        let len = given.bytes.end - given.bytes.start;
        match head.length {
            Length::Exact(length) if length != len => {
                Err(Ended::Wrong(format!("{length} bytes instead of {len}").into()))
            }
            _ => Ok(Wanted { skip: 0, len }),
        }
    }

    /// What another status than 200 and 206 means.
    pub fn refusal(&self, status: u16, retry_after: Option<u32>, body: &[u8]) -> Ended {
        let file = match self.source {
            Source::File { file, .. } => Some(file),
            _ => None,
        };
        // BEP 17's script says in the body how long we should stay away.
        let said = || {
            let text = std::str::from_utf8(body).ok().filter(|_| file.is_none())?;
            text.trim().parse().ok()
        };
        match status {
            429 | 503 => Ended::Busy(retry_after.or_else(said)),
            404 | 410 => Ended::Absent(file),
            500.. => Ended::Unreached(format!("HTTP status {status}").into()),
            _ => Ended::Refused(format!("HTTP status {status}").into()),
        }
    }
}

/// Where a file of a torrent called `name` is according to BEP 19, which has the torrent's own path below a URL that is a
/// folder.
pub fn file_url(seed: &Url, name: &str, layout: &Layout, file: u32) -> Result<Url, UrlError> {
    let base = seed.as_str();
    let is_folder = base.ends_with('/');
    if !layout.is_multi_file() && !is_folder {
        return Ok(seed.clone());
    }
    let mut text = base.as_bytes().to_vec();
    let path = layout.name(file);
    for (index, component) in
        std::iter::once(name).chain(path.split('/').filter(|c| !c.is_empty())).enumerate()
    {
        if index > 0 || !is_folder {
            text.push(b'/');
        }
        escape(component.as_bytes(), &mut text);
    }
    Url::parse(&String::from_utf8_lossy(&text))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::http::ContentRange;
    use crate::storage::tests::metainfo;

    fn layout(piece: u32, files: &[(&str, u64)]) -> Layout {
        Layout::new(&metainfo(piece, files), Path::new("/data/name"))
    }

    /// All parts of some bytes, as (at, len, source).
    fn parts(kind: Kind, layout: &Layout, mut bytes: Range<u64>) -> Vec<(u64, u64, Source)> {
        let mut parts = Vec::new();
        while let Some(part) = Part::first(kind, layout, &bytes) {
            assert_eq!(part.at, bytes.start);
            parts.push((part.at, part.len, part.source));
            bytes.start += part.len;
        }
        parts
    }

    fn file(file: u32, offset: u64, size: u64) -> Source {
        Source::File { file, offset, size }
    }

    fn piece(piece: u32, begin: u32, size: u32) -> Source {
        Source::Piece { piece, begin, size }
    }

    fn head(status: u16, length: Length, range: Option<(u64, u64, Option<u64>)>) -> ReplyHead {
        let content_range = range.map(|(start, end, total)| ContentRange { bytes: start..end, total });
        ReplyHead { status, length, keep_alive: true, location: None, retry_after: None, content_range }
    }

    #[test]
    fn a_run_is_as_few_requests_as_there_are_files_and_padding_is_not_asked_for() {
        let l = layout(16, &[("a", 5), (".pad/11", 11), ("empty", 0), ("b", 40), ("c", 8)]);
        assert_eq!(
            parts(Kind::GetRight, &l, 2..64),
            [(2, 3, file(0, 2, 5)), (5, 11, Source::Zeros), (16, 40, file(3, 0, 40)), (56, 8, file(4, 0, 8))]
        );
        assert_eq!(parts(Kind::GetRight, &l, 20..30), [(20, 10, file(3, 4, 40))]);
        assert!(parts(Kind::GetRight, &l, 64..99).is_empty() && parts(Kind::GetRight, &l, 7..7).is_empty());
        let reversed = Range { start: 9, end: 7 };
        assert!(Part::first(Kind::GetRight, &l, &reversed).is_none());
        assert_eq!(Part::first(Kind::GetRight, &l, &(20..30)).unwrap().range(), Some(4..14));
        let large = layout(1 << 20, &[("a", 5 << 30), ("b", 6 << 30)]);
        assert_eq!(
            parts(Kind::GetRight, &large, (5 << 30) - 1..(10 << 30) + 1),
            [
                ((5 << 30) - 1, 1, file(0, (5 << 30) - 1, 5 << 30)),
                (5 << 30, (5 << 30) + 1, file(1, 0, 6 << 30))
            ]
        );
    }

    #[test]
    fn a_script_is_asked_piece_by_piece_and_for_a_rest_by_its_range() {
        let l = layout(16, &[("a", 5), (".pad/11", 11), ("b", 20)]);
        assert_eq!(
            parts(Kind::HttpSeed, &l, 4..36),
            [(4, 12, piece(0, 4, 16)), (16, 16, piece(1, 0, 16)), (32, 4, piece(2, 0, 4))]
        );
        assert!(parts(Kind::HttpSeed, &l, 36..40).is_empty());
        let hash = InfoHash::from_bytes(*b"\x9c\xd9i\x8a\xf5Uu\x1a\x91\x86\xae\x06lW\xea!W#5\xe0");
        let query = |bytes| {
            let part = Part::first(Kind::HttpSeed, &l, &bytes).unwrap();
            assert_eq!(part.range(), None);
            String::from_utf8(part.query(hash)).unwrap()
        };
        let start = "info_hash=%9C%D9i%8A%F5Uu%1A%91%86%AE%06lW%EA%21W%235%E0&piece=";
        assert_eq!(query(16..32), format!("{start}1"));
        assert_eq!(query(20..32), format!("{start}1&ranges=4-15"));
        assert_eq!(query(32..36), format!("{start}2"));
        assert!(Part::first(Kind::GetRight, &l, &(0..5)).unwrap().query(hash).is_empty());
    }

    #[test]
    fn files_are_where_bep_19_puts_them() {
        let single = layout(16, &[("", 25)]);
        let multi = layout(16, &[("a b/ü#?.txt", 5), ("100%", 20)]);
        let url = |base: &str, layout: &Layout, file| {
            file_url(&Url::parse(base).unwrap(), "my name", layout, file).unwrap().as_str().to_owned()
        };
        assert_eq!(url("http://h/x.iso", &single, 0), "http://h/x.iso");
        assert_eq!(url("http://h/get?f=x.iso", &single, 0), "http://h/get?f=x.iso");
        assert_eq!(url("http://h/pub/", &single, 0), "http://h/pub/my%20name");
        assert_eq!(url("http://h", &single, 0), "http://h/my%20name");
        for base in ["http://h/pub", "http://h/pub/"] {
            assert_eq!(url(base, &multi, 0), "http://h/pub/my%20name/a%20b/%C3%BC%23%3F.txt");
            assert_eq!(url(base, &multi, 1), "http://h/pub/my%20name/100%25");
        }
        let long = layout(16, &[(&"ü/".repeat(600), 5), ("b", 5)]);
        assert_eq!(file_url(&Url::parse("http://h/").unwrap(), "n", &long, 0), Err(UrlError::Long));
    }

    #[test]
    fn an_answer_must_be_what_was_asked_for_or_a_start_of_it() {
        let l = layout(16, &[("a", 5), ("b", 100)]);
        let part = Part::first(Kind::GetRight, &l, &(15..35)).unwrap();
        assert_eq!(part.range(), Some(10..30));
        let wanted = |length, range| part.wanted(&head(206, length, range));
        let all = Wanted { skip: 0, len: 20 };
        assert_eq!(wanted(Length::Exact(20), Some((10, 30, Some(100)))), Ok(all));
        assert_eq!(wanted(Length::Chunked, Some((10, 30, None))), Ok(all));
        assert_eq!(wanted(Length::UntilClose, Some((10, 30, Some(100)))), Ok(all));
        assert_eq!(wanted(Length::Exact(4), Some((10, 14, Some(100)))), Ok(Wanted { skip: 0, len: 4 }));
        for (length, range) in [
            (Length::Exact(20), None),
            (Length::Exact(21), Some((10, 30, Some(100)))),
            (Length::Exact(19), Some((10, 30, Some(100)))),
            (Length::Exact(20), Some((11, 31, Some(100)))),
            (Length::Exact(20), Some((0, 20, Some(100)))),
            (Length::Exact(20), Some((9, 29, None))),
            (Length::Exact(21), Some((10, 31, Some(100)))),
            (Length::Exact(20), Some((10, 30, Some(101)))),
            (Length::Exact(20), Some((10, 30, Some(99)))),
            (Length::UntilClose, Some((10, 100, Some(100)))),
        ] {
            assert!(matches!(wanted(length, range), Err(Ended::Wrong(_))), "{length:?} {range:?}");
        }
    }

    #[test]
    fn of_a_whole_file_that_was_not_asked_for_the_start_is_passed_over_if_it_is_short() {
        let size = 4 * MAX_SKIP;
        let l = layout(16, &[("a", 8), ("b", size)]);
        let wanted = |at: u64, length| {
            let part = Part::first(Kind::GetRight, &l, &(8 + at..8 + at + 20)).unwrap();
            part.wanted(&head(200, length, None))
        };
        assert_eq!(wanted(0, Length::Exact(size)), Ok(Wanted { skip: 0, len: 20 }));
        assert_eq!(wanted(MAX_SKIP, Length::Chunked), Ok(Wanted { skip: MAX_SKIP, len: 20 }));
        assert!(matches!(wanted(MAX_SKIP + 1, Length::Exact(size)), Err(Ended::Useless(_))));
        assert!(matches!(wanted(0, Length::Exact(size - 1)), Err(Ended::Wrong(_))));
        assert!(matches!(wanted(0, Length::Exact(20)), Err(Ended::Wrong(_))), "a 200 that is cut is no file");
    }

    #[test]
    fn a_script_answers_with_200_and_what_was_asked_for() {
        let l = layout(16, &[("a", 40)]);
        let part = Part::first(Kind::HttpSeed, &l, &(20..40)).unwrap();
        assert_eq!(part.wanted(&head(200, Length::Exact(12), None)), Ok(Wanted { skip: 0, len: 12 }));
        assert_eq!(part.wanted(&head(200, Length::UntilClose, None)), Ok(Wanted { skip: 0, len: 12 }));
        for wrong in [
            head(200, Length::Exact(16), None),
            head(200, Length::Exact(0), None),
            head(206, Length::Exact(12), Some((4, 16, None))),
        ] {
            assert!(matches!(part.wanted(&wrong), Err(Ended::Wrong(_))), "{wrong:?}");
        }
    }

    #[test]
    fn a_refusal_says_how_long_to_stay_away() {
        let l = layout(16, &[("a", 20), ("b", 20)]);
        let by_file = Part::first(Kind::GetRight, &l, &(25..40)).unwrap();
        let by_piece = Part::first(Kind::HttpSeed, &l, &(25..40)).unwrap();
        assert_eq!(by_file.refusal(503, Some(7), b"9"), Ended::Busy(Some(7)));
        assert_eq!(by_file.refusal(503, None, b"9"), Ended::Busy(None));
        assert_eq!(by_piece.refusal(503, None, b" 9\r\n"), Ended::Busy(Some(9)));
        for body in [&b""[..], b"-9", b"9 s", b"<html>", b"99999999999", b"\xff"] {
            assert_eq!(by_piece.refusal(503, None, body), Ended::Busy(None));
        }
        assert_eq!(by_file.refusal(429, None, b""), Ended::Busy(None));
        assert_eq!(by_file.refusal(404, None, b""), Ended::Absent(Some(1)));
        assert_eq!(by_piece.refusal(410, None, b""), Ended::Absent(None));
        assert!(matches!(by_file.refusal(500, None, b""), Ended::Unreached(_)));
        for status in [204, 301, 400, 403, 416] {
            assert!(matches!(by_file.refusal(status, None, b""), Ended::Refused(_)), "{status}");
        }
    }
}

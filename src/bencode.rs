//! Bencoding: a borrowed pull parser, checked values to walk, and a writer that only writes canonical form.
//!
//! Read first: BEP 3 ("bencoding"). Strict: no `-0`, no leading zeros, no integer beyond 64 bits, no key twice.
//! Keys out of order are read (real files have them, and an info-hash is over the raw bytes) but never written.
//! Omits: a tree. Holds no copy of the input; checking a value needs 40 bytes a level of nesting, and 16 bytes a
//! key of a dictionary whose keys are out of order.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

/// Levels of nesting: a v2 file tree spends one a directory and none is deeper than this in earnest.
pub const MAX_DEPTH: usize = 100;

/// Keys of one dictionary that is not sorted: sorting them to find a duplicate costs memory, and no honest
/// writer gets thousands of them out of order.
const MAX_UNSORTED_KEYS: usize = 10_000;

/// Unsorted dictionaries inside one another are read again once each: in all no more than this many times the
/// whole input, or as much as costs nobody anything.
const MAX_REREADS: usize = 8;

/// Bytes that are read again freely.
const FREE_REREADS: usize = 64 * 1024;

/// What is wrong with the bytes, and where (offset from the start of what was parsed).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// The input ends inside a value.
    Truncated,
    /// A byte that can not stand there.
    Unexpected(usize),
    /// An integer that is empty, has leading zeros, is `-0` or passes 64 bits.
    Integer(usize),
    /// The length of a string is no number, has leading zeros or passes the address space.
    Length(usize),
    /// A dictionary's key is not a string.
    Key(usize),
    /// More than [`MAX_DEPTH`] levels.
    Depth(usize),
    /// Bytes after the value.
    Trailing(usize),
    /// A key stands twice in one dictionary.
    Duplicate(String),
    /// Too many keys out of order to be worth reading.
    Unsorted(usize),
}

/// One step through the input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Token<'a> {
    /// `i…e`
    Int(i64),
    /// `n:…`
    Bytes(&'a [u8]),
    /// `l`
    List,
    /// `d`
    Dict,
    /// `e` of a list or dictionary.
    End,
}

/// Reads tokens one after the other. Knows lexical rules alone: that keys are strings and stand once is checked
/// by [`Value::parse`].
#[derive(Clone, Debug)]
pub struct Parser<'a> {
    bytes: &'a [u8],
    at: usize,
    depth: usize,
}

/// One value that was checked as a whole when it was parsed: walking it can not fail.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Value<'a> {
    raw: &'a [u8],
}

/// The values of a list.
#[derive(Clone, Debug)]
pub struct Items<'a> {
    parser: Parser<'a>,
}

/// The keys and values of a dictionary, in the order in which they stand.
#[derive(Clone, Debug)]
pub struct Entries<'a> {
    parser: Parser<'a>,
}

/// Appends values to a buffer.
pub struct Writer<'a> {
    out: &'a mut Vec<u8>,
}

/// Appends entries to a dictionary; keys must come sorted, which debug builds assert.
pub struct DictWriter<'a> {
    out: &'a mut Vec<u8>,
    last: Option<Range<usize>>,
}

/// A list or dictionary that is open while a value is checked.
struct Frame<'a> {
    dict: bool,
    /// The next token is a value, its key has been read.
    value: bool,
    sorted: bool,
    last: Option<&'a [u8]>,
    start: usize,
}

impl<'a> Parser<'a> {
    /// Reads from the start of `bytes`.
    pub fn new(bytes: &'a [u8]) -> Parser<'a> {
        Parser { bytes, at: 0, depth: 0 }
    }

    /// Offset of the next token.
    pub fn offset(&self) -> usize {
        self.at
    }

    /// Lists and dictionaries that are open.
    pub fn depth(&self) -> usize {
        self.depth
    }

    /// The next token.
    pub fn token(&mut self) -> Result<Token<'a>, Error> {
        let start = self.at;
        match self.bytes.get(start).ok_or(Error::Truncated)? {
            b'i' => {
                let end =
                    self.find(b'e', start + 1, 20).ok_or(self.cut_or(Error::Integer(start), start + 22))?;
                let digits = &self.bytes[start + 1..end];
                let value = integer(digits).ok_or(Error::Integer(start))?;
                self.at = end + 1;
                Ok(Token::Int(value))
            }
            b'0'..=b'9' => {
                let colon =
                    self.find(b':', start, 10).ok_or(self.cut_or(Error::Length(start), start + 11))?;
                let digits = &self.bytes[start..colon];
                let length =
                    integer(digits).and_then(|n| usize::try_from(n).ok()).ok_or(Error::Length(start))?;
                let end = (colon + 1).checked_add(length).ok_or(Error::Length(start))?;
                let bytes = self.bytes.get(colon + 1..end).ok_or(Error::Truncated)?;
                self.at = end;
                Ok(Token::Bytes(bytes))
            }
            open @ (b'l' | b'd') => {
                if self.depth == MAX_DEPTH {
                    return Err(Error::Depth(start));
                }
                self.depth += 1;
                self.at += 1;
                Ok(if *open == b'l' { Token::List } else { Token::Dict })
            }
            b'e' if self.depth > 0 => {
                self.depth -= 1;
                self.at += 1;
                Ok(Token::End)
            }
            _ => Err(Error::Unexpected(start)),
        }
    }

    /// Passes over one value and says where it lies.
    pub fn skip(&mut self) -> Result<Range<usize>, Error> {
        let (start, depth) = (self.at, self.depth);
        loop {
            if self.token()? == Token::End && self.depth < depth {
                return Err(Error::Unexpected(self.at - 1));
            }
            if self.depth == depth {
                return Ok(start..self.at);
            }
        }
    }

    /// Passes over one value and checks all that [`Value`] promises.
    fn check(&mut self) -> Result<Range<usize>, Error> {
        let start = self.at;
        let mut frames: Vec<Frame<'a>> = Vec::new();
        let mut reread = 0;
        loop {
            let at = self.at;
            let token = self.token()?;
            if let Some(frame) = frames.last_mut()
                && frame.dict
            {
                match token {
                    _ if frame.value => {
                        if token == Token::End {
                            return Err(Error::Unexpected(at));
                        }
                        frame.value = false;
                    }
                    Token::Bytes(key) => {
                        match frame.last.map(|last| last.cmp(key)) {
                            Some(std::cmp::Ordering::Equal) => return Err(Error::duplicate(key)),
                            Some(std::cmp::Ordering::Greater) => frame.sorted = false,
                            _ => {}
                        }
                        frame.last = Some(key);
                        frame.value = true;
                        continue;
                    }
                    Token::End => {}
                    _ => return Err(Error::Key(at)),
                }
            }
            match token {
                Token::List | Token::Dict => frames.push(Frame {
                    dict: token == Token::Dict,
                    value: false,
                    sorted: true,
                    last: None,
                    start: at,
                }),
                Token::End => {
                    if let Some(frame) = frames.pop()
                        && !frame.sorted
                    {
                        let raw = &self.bytes[frame.start..self.at];
                        reread += raw.len();
                        if reread > FREE_REREADS && reread / MAX_REREADS > self.bytes.len() {
                            return Err(Error::Unsorted(frame.start));
                        }
                        no_key_twice(raw, frame.start)?;
                    }
                }
                Token::Int(_) | Token::Bytes(_) => {}
            }
            if frames.is_empty() {
                return Ok(start..self.at);
            }
        }
    }

    /// Where `byte` stands, if it comes within the next `most` bytes after the one at `from`.
    fn find(&self, byte: u8, from: usize, most: usize) -> Option<usize> {
        let rest = self.bytes.get(from..)?;
        rest.iter().take(most + 1).position(|b| *b == byte).map(|n| from + n)
    }

    /// An end mark that is not found is an error of its own only where the input had room for it.
    fn cut_or(&self, error: Error, end: usize) -> Error {
        if self.bytes.len() < end { Error::Truncated } else { error }
    }
}

impl<'a> Value<'a> {
    /// The one value that `bytes` are.
    pub fn parse(bytes: &'a [u8]) -> Result<Value<'a>, Error> {
        let (value, rest) = Value::parse_prefix(bytes)?;
        if rest.is_empty() { Ok(value) } else { Err(Error::Trailing(value.raw.len())) }
    }

    /// The value that stands first, and what follows it.
    pub fn parse_prefix(bytes: &'a [u8]) -> Result<(Value<'a>, &'a [u8]), Error> {
        let range = Parser::new(bytes).check()?;
        let (raw, rest) = bytes.split_at(range.end);
        Ok((Value { raw }, rest))
    }

    /// Its bytes as they came.
    pub fn raw(self) -> &'a [u8] {
        self.raw
    }

    /// Where its bytes lie inside `outer`, which must be what it was parsed from.
    pub fn range_in(self, outer: &[u8]) -> Option<Range<usize>> {
        range_in(self.raw, outer)
    }

    /// Its number, if it is one.
    pub fn as_int(self) -> Option<i64> {
        match Parser::new(self.raw).token() {
            Ok(Token::Int(n)) => Some(n),
            _ => None,
        }
    }

    /// Its bytes, if it is a string.
    pub fn as_bytes(self) -> Option<&'a [u8]> {
        match Parser::new(self.raw).token() {
            Ok(Token::Bytes(bytes)) => Some(bytes),
            _ => None,
        }
    }

    /// Its text, if it is a string of UTF-8.
    pub fn as_str(self) -> Option<&'a str> {
        self.as_bytes().and_then(|bytes| std::str::from_utf8(bytes).ok())
    }

    /// Its values, if it is a list.
    pub fn items(self) -> Option<Items<'a>> {
        let mut parser = Parser::new(self.raw);
        (parser.token() == Ok(Token::List)).then_some(Items { parser })
    }

    /// Its keys and values, if it is a dictionary.
    pub fn entries(self) -> Option<Entries<'a>> {
        let mut parser = Parser::new(self.raw);
        (parser.token() == Ok(Token::Dict)).then_some(Entries { parser })
    }

    /// The value of a key, if it is a dictionary that has it. Reads from its start: for many keys there is
    /// [`Entries::pick`].
    pub fn find(self, key: &[u8]) -> Option<Value<'a>> {
        self.entries()?.find(|(k, _)| *k == key).map(|(_, value)| value)
    }
}

impl fmt::Debug for Value<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Value({})", printable(self.raw))
    }
}

impl<'a> Entries<'a> {
    /// The values of these keys.
    pub fn pick<const N: usize>(self, keys: &[&str; N]) -> [Option<Value<'a>>; N] {
        let mut found = [None; N];
        self.fill(keys, &mut found);
        found
    }

    fn fill(self, keys: &[&str], found: &mut [Option<Value<'a>>]) {
        for (key, value) in self {
            if let Some(at) = keys.iter().position(|known| known.as_bytes() == key) {
                found[at] = Some(value);
            }
        }
    }
}

impl<'a> Iterator for Items<'a> {
    type Item = Value<'a>;

    fn next(&mut self) -> Option<Value<'a>> {
        let range = self.parser.skip().ok()?;
        Some(Value { raw: &self.parser.bytes[range] })
    }
}

impl<'a> Iterator for Entries<'a> {
    type Item = (&'a [u8], Value<'a>);

    fn next(&mut self) -> Option<(&'a [u8], Value<'a>)> {
        let Ok(Token::Bytes(key)) = self.parser.token() else { return None };
        let range = self.parser.skip().ok()?;
        Some((key, Value { raw: &self.parser.bytes[range] }))
    }
}

impl<'a> Writer<'a> {
    /// Appends to `out`.
    pub fn new(out: &'a mut Vec<u8>) -> Writer<'a> {
        Writer { out }
    }

    /// `i…e`
    pub fn int(&mut self, value: i64) {
        self.out.extend_from_slice(format!("i{value}e").as_bytes());
    }

    /// `n:…`
    pub fn bytes(&mut self, bytes: impl AsRef<[u8]>) {
        string(self.out, bytes.as_ref());
    }

    /// A value that is bencoded already, canonically.
    pub fn raw(&mut self, value: &[u8]) {
        self.out.extend_from_slice(value);
    }

    /// `l…e`
    pub fn list(&mut self, fill: impl FnOnce(&mut Writer<'_>)) {
        self.out.push(b'l');
        fill(&mut Writer { out: self.out });
        self.out.push(b'e');
    }

    /// `d…e`
    pub fn dict(&mut self, fill: impl FnOnce(&mut DictWriter<'_>)) {
        self.out.push(b'd');
        fill(&mut DictWriter { out: self.out, last: None });
        self.out.push(b'e');
    }
}

impl DictWriter<'_> {
    /// A key, and the one value that `fill` writes.
    pub fn entry(&mut self, key: impl AsRef<[u8]>, fill: impl FnOnce(&mut Writer<'_>)) {
        self.key(key.as_ref());
        fill(&mut Writer { out: self.out });
    }

    fn key(&mut self, key: &[u8]) {
        if let Some(last) = self.last.take() {
            debug_assert!(self.out[last] < *key, "keys are written sorted: {}", printable(key));
        }
        string(self.out, key);
        self.last = Some(self.out.len() - key.len()..self.out.len());
    }

    /// A key and a number.
    pub fn int(&mut self, key: impl AsRef<[u8]>, value: i64) {
        self.entry(key, |w| w.int(value));
    }

    /// A key and a string.
    pub fn bytes(&mut self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) {
        self.entry(key, |w| w.bytes(value));
    }

    /// A key and a list.
    pub fn list(&mut self, key: impl AsRef<[u8]>, fill: impl FnOnce(&mut Writer<'_>)) {
        self.entry(key, |w| w.list(fill));
    }

    /// A key and a dictionary.
    pub fn dict(&mut self, key: impl AsRef<[u8]>, fill: impl FnOnce(&mut DictWriter<'_>)) {
        self.entry(key, |w| w.dict(fill));
    }
}

impl Error {
    fn duplicate(key: &[u8]) -> Error {
        Error::Duplicate(printable(key).into_owned())
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Truncated => write!(f, "it ends in the middle of a value"),
            Error::Unexpected(at) => write!(f, "byte {at} can not stand there"),
            Error::Integer(at) => write!(f, "the integer at byte {at} is not well-formed or passes 64 bits"),
            Error::Length(at) => write!(f, "the string length at byte {at} is not well-formed"),
            Error::Key(at) => write!(f, "the dictionary key at byte {at} is not a string"),
            Error::Depth(at) => write!(f, "more than {MAX_DEPTH} levels of nesting at byte {at}"),
            Error::Trailing(at) => write!(f, "bytes after the end of the value, from byte {at}"),
            Error::Duplicate(key) => write!(f, "key `{key}` stands twice in one dictionary"),
            Error::Unsorted(at) => write!(f, "the dictionary at byte {at} has too many keys out of order"),
        }
    }
}

impl std::error::Error for Error {}

/// Foreign bytes for a message: cut, and nothing in it that a terminal or log would act on.
pub fn printable(bytes: &[u8]) -> Cow<'static, str> {
    let cut = bytes.len() > 64;
    let mut text = bytes[..bytes.len().min(64)].escape_ascii().to_string();
    if let Ok(whole) = std::str::from_utf8(bytes)
        && !cut
        && !whole.chars().any(char::is_control)
    {
        text = whole.to_owned();
    }
    if cut {
        text.push('…');
    }
    Cow::Owned(text)
}

/// Where `inner`, a part of `outer`, lies in it.
pub fn range_in(inner: &[u8], outer: &[u8]) -> Option<Range<usize>> {
    let start = (inner.as_ptr() as usize).checked_sub(outer.as_ptr() as usize)?;
    let end = start.checked_add(inner.len())?;
    (end <= outer.len()).then_some(start..end)
}

/// Digits as BEP 3 has them: one way alone to write each number.
fn integer(digits: &[u8]) -> Option<i64> {
    let magnitude = digits.strip_prefix(b"-").unwrap_or(digits);
    let canonical = match magnitude {
        [b'0'] => digits.len() == 1,
        [b'1'..=b'9', rest @ ..] => rest.iter().all(u8::is_ascii_digit),
        _ => false,
    };
    if !canonical {
        return None;
    }
    signed(std::str::from_utf8(digits).ok()?, 10)
}

/// `i64::from_str_radix`, which is a kilobyte where registers have 32 bits.
pub(crate) fn signed(text: &str, radix: u32) -> Option<i64> {
    let magnitude = text.strip_prefix('-');
    let number = u64::from_str_radix(magnitude.unwrap_or(text), radix).ok()?;
    if magnitude.is_some() { 0_i64.checked_sub_unsigned(number) } else { number.try_into().ok() }
}

/// Sorts the keys of one dictionary to find equal ones.
fn no_key_twice(raw: &[u8], start: usize) -> Result<(), Error> {
    let mut keys = Vec::new();
    for (key, _) in (Value { raw }).entries().into_iter().flatten() {
        if keys.len() == MAX_UNSORTED_KEYS {
            return Err(Error::Unsorted(start));
        }
        keys.push(key);
    }
    keys.sort_unstable();
    match keys.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(Error::duplicate(pair[0])),
        None => Ok(()),
    }
}

fn string(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(bytes.len().to_string().as_bytes());
    out.push(b':');
    out.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(bytes: &[u8]) -> Error {
        Value::parse(bytes).unwrap_err()
    }

    #[test]
    fn a_document_reads_as_it_was_written_byte_for_byte() {
        let mut out = Vec::new();
        Writer::new(&mut out).dict(|d| {
            d.int("a", -5);
            d.list("b", |l| {
                l.bytes("xyz");
                l.int(0);
                l.list(|_| {});
            });
            d.dict("c", |d| d.bytes("", ""));
            d.entry("d", |w| w.raw(b"i7e"));
        });
        assert_eq!(out, b"d1:ai-5e1:bl3:xyzi0elee1:cd0:0:e1:di7ee");
        let value = Value::parse(&out).unwrap();
        let keys: Vec<_> = value.entries().unwrap().map(|(k, v)| (k, v.raw())).collect();
        assert_eq!(
            keys,
            [(&b"a"[..], &b"i-5e"[..]), (b"b", b"l3:xyzi0elee"), (b"c", b"d0:0:e"), (b"d", b"i7e")]
        );
        assert_eq!(value.find(b"a").and_then(Value::as_int), Some(-5));
        let items: Vec<_> = value.find(b"b").unwrap().items().unwrap().collect();
        assert_eq!((items.len(), items[0].as_str(), items[1].as_int()), (3, Some("xyz"), Some(0)));
        assert_eq!(value.find(b"c").unwrap().range_in(&out), Some(26..32));
        assert_eq!(value.find(b"absent"), None);
        assert_eq!((value.as_int(), value.as_bytes(), value.items().is_none()), (None, None, true));
    }

    #[test]
    fn the_ends_of_the_number_range_are_read() {
        for n in [i64::MIN, -1, 0, 1, i64::MAX] {
            let mut out = Vec::new();
            Writer::new(&mut out).int(n);
            assert_eq!(Value::parse(&out).unwrap().as_int(), Some(n));
        }
    }

    #[test]
    fn what_is_not_strict_is_refused() {
        for bad in [
            "i-0e",
            "i00e",
            "i01e",
            "i-e",
            "ie",
            "i+1e",
            "i1 e",
            "i9223372036854775808e",
            "i-01e",
            "i999999999999999999999999e",
        ] {
            assert_eq!(error(bad.as_bytes()), Error::Integer(0), "{bad}");
        }
        for bad in ["01:a", "00:", "99999999999:", "4294967296999:abc", "1x:a", "111111111111"] {
            assert_eq!(error(bad.as_bytes()), Error::Length(0), "{bad}");
        }
        for cut in ["", "i", "i12", "1", "3:ab", "l", "d", "d1:a", "d1:ai1e", "li1e", "4000000000:a"] {
            assert_eq!(error(cut.as_bytes()), Error::Truncated, "{cut}");
        }
        for (bad, at) in [("e", 0), ("x", 0), ("-1:a", 0), ("d1:ae", 4), ("l-e", 1)] {
            assert_eq!(error(bad.as_bytes()), Error::Unexpected(at), "{bad}");
        }
        for bad in ["di1e1:ae", "dlei1ee", "ddei1ee"] {
            assert_eq!(error(bad.as_bytes()), Error::Key(1), "{bad}");
        }
        assert_eq!(error(b"i1ei2e"), Error::Trailing(3));
    }

    #[test]
    fn keys_out_of_order_are_read_and_a_key_twice_is_refused_by_name() {
        let value = Value::parse(b"d1:bi1e1:ai2e1:ci3ee").unwrap();
        assert_eq!(value.find(b"a").and_then(Value::as_int), Some(2));
        for twice in
            ["d1:ai1e1:ai2ee", "d1:ai1e1:bi0e1:ai2ee", "ld1:bi0e1:ai1e1:ai2eee", "d1:cd1:bi1e1:ai1e1:bi1eee"]
        {
            assert!(matches!(error(twice.as_bytes()), Error::Duplicate(_)), "{twice}");
        }
        assert_eq!(error(b"d1:ai1e1:ai2ee").to_string(), "key `a` stands twice in one dictionary");
    }

    #[test]
    fn depth_is_bounded_without_recursion() {
        let mut deep = vec![b'l'; 200_000];
        assert_eq!(error(&deep), Error::Depth(MAX_DEPTH));
        deep.resize(400_000, b'e');
        assert_eq!(error(&deep), Error::Depth(MAX_DEPTH));
        let fits = [vec![b'l'; MAX_DEPTH], vec![b'e'; MAX_DEPTH]].concat();
        assert!(Value::parse(&fits).is_ok());
    }

    #[test]
    fn unsorted_dictionaries_inside_one_another_are_not_read_again_without_end() {
        let mut nested = b"1:x".to_vec();
        for _ in 0..MAX_DEPTH - 1 {
            nested = [b"d1:b", nested.as_slice(), b"1:a0:e"].concat();
        }
        assert!(Value::parse(&nested).is_ok(), "small ones are");
        let mut nested = b"1000000:".to_vec();
        nested.resize(1_000_008, b'x');
        for _ in 0..MAX_DEPTH - 1 {
            nested = [b"d1:b", nested.as_slice(), b"1:a0:e"].concat();
        }
        assert!(matches!(error(&nested), Error::Unsorted(_)));
    }

    #[test]
    fn a_value_may_be_followed_by_other_bytes_where_that_is_asked_for() {
        let (value, rest) = Value::parse_prefix(b"d1:ai1eeBODY").unwrap();
        assert_eq!((value.raw(), rest), (&b"d1:ai1ee"[..], &b"BODY"[..]));
    }

    #[test]
    fn tokens_stream_and_a_value_is_passed_over() {
        let mut parser = Parser::new(b"d1:al1:xe1:bi2ee");
        assert_eq!(parser.token(), Ok(Token::Dict));
        assert_eq!(parser.token(), Ok(Token::Bytes(b"a")));
        assert_eq!(parser.skip(), Ok(4..9));
        assert_eq!((parser.token(), parser.token()), (Ok(Token::Bytes(b"b")), Ok(Token::Int(2))));
        assert!(parser.clone().skip().is_err(), "an end is no value");
        assert_eq!((parser.token(), parser.depth(), parser.offset()), (Ok(Token::End), 0, 16));
    }

    #[test]
    fn no_truncation_or_mutation_panics() {
        let sample = b"d1:ai-5e1:bl3:xyzi0elee1:cd0:0:e2:zzi7ee";
        for end in 0..sample.len() {
            assert_eq!(error(&sample[..end]), Error::Truncated, "{end}");
        }
        for at in 0..sample.len() {
            for byte in 0..=255 {
                let mut bytes = sample.to_vec();
                bytes[at] = byte;
                if let Ok(value) = Value::parse(&bytes) {
                    assert_eq!(value.entries().is_some(), bytes[0] == b'd');
                    for (_, v) in value.entries().into_iter().flatten() {
                        let _ = v.items().map(Iterator::count);
                    }
                }
            }
        }
    }

    #[test]
    fn foreign_text_in_messages_is_cut_and_escaped() {
        assert_eq!(printable("größe".as_bytes()), "größe");
        assert_eq!(printable(b"a\x1b[2Jb"), "a\\x1b[2Jb");
        assert!(printable(&[b'x'; 1000]).len() < 70);
    }
}

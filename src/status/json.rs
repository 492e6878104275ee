//! JSON, both ways, of what the control socket carries.
//!
//! Read first: RFC 8259. Omits numbers that are not whole, or beyond 64 bits: nothing that is asked or told here has
//! one, and they are refused. Holds what it reads, no deeper than [`MAX_DEPTH`].

use std::borrow::Cow;
use std::fmt::{self, Display, Write};

use super::value::Value;
use crate::bencode::signed;

/// Lists and objects within each other: a reply has four.
const MAX_DEPTH: u32 = 16;

/// Why a text is no JSON, or none that is understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Error {
    /// What would be right.
    pub expected: &'static str,
    /// Bytes before the place.
    pub at: usize,
}

/// A value as a line with its end.
pub fn line(value: &Value) -> String {
    let mut line = String::new();
    encode(value, &mut line);
    line.push('\n');
    line
}

/// Appends a value, in one line.
pub fn encode(value: &Value, out: &mut String) {
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(flag) => out.push_str(if *flag { "true" } else { "false" }),
        Value::Int(number) => push(out, format_args!("{number}")),
        Value::Text(text) => encode_text(text, out),
        Value::List(values) => {
            out.push('[');
            for (i, value) in values.iter().enumerate() {
                out.push_str(if i > 0 { "," } else { "" });
                encode(value, out);
            }
            out.push(']');
        }
        Value::Table(fields) => {
            out.push('{');
            for (i, (name, value)) in fields.iter().enumerate() {
                out.push_str(if i > 0 { "," } else { "" });
                encode_text(name, out);
                out.push(':');
                encode(value, out);
            }
            out.push('}');
        }
    }
}

fn encode_text(text: &str, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\0'..'\u{20}' => push(out, format_args!("\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
}

fn push(out: &mut String, text: fmt::Arguments) {
    // A String takes every write.
    let _ = out.write_fmt(text);
}

/// The one value that a text is.
pub fn decode(text: &[u8]) -> Result<Value, Error> {
    let text =
        std::str::from_utf8(text).map_err(|error| Error { expected: "UTF-8", at: error.valid_up_to() })?;
    let mut reader = Reader { text, at: 0 };
    let value = reader.value(MAX_DEPTH)?;
    reader.skip_space();
    if reader.at < text.len() { Err(reader.wanted("the end")) } else { Ok(value) }
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Reader<'a> {
    fn wanted(&self, expected: &'static str) -> Error {
        Error { expected, at: self.at }
    }

    fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn skip_space(&mut self) {
        let rest = self.rest();
        self.at += rest.len() - rest.trim_start_matches([' ', '\t', '\n', '\r']).len();
    }

    /// Goes past what stands here next, if that is this.
    fn takes(&mut self, what: &str) -> bool {
        self.skip_space();
        let found = self.rest().starts_with(what);
        self.at += if found { what.len() } else { 0 };
        found
    }

    fn value(&mut self, depth: u32) -> Result<Value, Error> {
        let within = depth.checked_sub(1).ok_or(self.wanted("an end to lists in lists"))?;
        for (word, value) in [("null", Value::Null), ("true", true.into()), ("false", false.into())] {
            if self.takes(word) {
                return Ok(value);
            }
        }
        if self.takes("\"") {
            Ok(Value::Text(self.text()?))
        } else if self.takes("[") {
            let mut values = Vec::new();
            if self.takes("]") {
                return Ok(Value::List(values));
            }
            loop {
                values.push(self.value(within)?);
                if !self.goes_on("]")? {
                    return Ok(Value::List(values));
                }
            }
        } else if self.takes("{") {
            let mut fields = Vec::new();
            if self.takes("}") {
                return Ok(Value::Table(fields));
            }
            loop {
                if !self.takes("\"") {
                    return Err(self.wanted("a name in quotes"));
                }
                let name = Cow::Owned(self.text()?);
                if !self.takes(":") {
                    return Err(self.wanted("a colon"));
                }
                fields.push((name, self.value(within)?));
                if !self.goes_on("}")? {
                    return Ok(Value::Table(fields));
                }
            }
        } else {
            self.number()
        }
    }

    /// Whether another value follows, or the end.
    fn goes_on(&mut self, end: &str) -> Result<bool, Error> {
        if self.takes(",") {
            Ok(true)
        } else if self.takes(end) {
            Ok(false)
        } else {
            Err(self.wanted("a comma or the end of a list"))
        }
    }

    fn number(&mut self) -> Result<Value, Error> {
        let of_number = |byte: &u8| byte.is_ascii_digit() || matches!(byte, b'-' | b'+' | b'.' | b'e' | b'E');
        let len = self.rest().bytes().take_while(of_number).count();
        if len == 0 {
            return Err(self.wanted("a value"));
        }
        let text = self.rest().get(..len).unwrap_or_default();
        let digits = text.strip_prefix('-').unwrap_or(text);
        let plain = digits == "0" || !digits.starts_with(['0', '+', '-']);
        let number = signed(text, 10).filter(|_| plain).ok_or(self.wanted("a whole number of 64 bits"))?;
        self.at += len;
        Ok(Value::Int(number))
    }

    /// What follows a quotation mark, up to the next.
    fn text(&mut self) -> Result<String, Error> {
        let mut text = String::new();
        loop {
            let rest = self.rest();
            let plain = rest.find(|c: char| c < ' ' || c == '"' || c == '\\').unwrap_or(rest.len());
            let (before, rest) = rest.split_at(plain);
            text.push_str(before);
            let escape = rest.as_bytes().get(1).copied();
            self.at += plain;
            match rest.as_bytes().first() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(text);
                }
                Some(b'\\') => self.at += 2,
                _ => return Err(self.wanted("the end of a text")),
            }
            text.push(match escape {
                Some(c @ (b'"' | b'\\' | b'/')) => char::from(c),
                Some(b'b') => '\u{8}',
                Some(b'f') => '\u{c}',
                Some(b'n') => '\n',
                Some(b'r') => '\r',
                Some(b't') => '\t',
                Some(b'u') => self.code_point()?,
                _ => return Err(self.wanted("an escape that JSON knows")),
            });
        }
    }

    /// The character of `\uXXXX`, or of two such that are a pair of UTF-16.
    fn code_point(&mut self) -> Result<char, Error> {
        let first = self.unit()?;
        let mut units = vec![first];
        if (0xd800..0xdc00).contains(&first) && self.rest().starts_with("\\u") {
            self.at += 2;
            units.push(self.unit()?);
        }
        match (char::decode_utf16(units.iter().copied()).next(), units.len()) {
            (Some(Ok(c)), len) if c.len_utf16() == len => Ok(c),
            _ => Err(self.wanted("both halves of a character")),
        }
    }

    fn unit(&mut self) -> Result<u16, Error> {
        let digits =
            self.rest().get(..4).filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()));
        let unit = digits.and_then(|digits| u16::from_str_radix(digits, 16).ok());
        let unit = unit.ok_or(self.wanted("four hexadecimal digits"))?;
        self.at += 4;
        Ok(unit)
    }
}

impl Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "expected {} at byte {}", self.expected, self.at + 1)
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    #[test]
    fn what_is_encoded_is_decoded_to_the_same() {
        let texts = ["", "a\"b\\c/\n\r\t\u{8}\u{c}\u{0}\u{1f}\u{7f}", "größe 😀 \u{2028}"];
        let value = Value::Table(vec![
            ("null".into(), Value::Null),
            ("flags".into(), Value::List(vec![true.into(), false.into()])),
            ("numbers".into(), Value::List([0, -1, i64::MAX, i64::MIN].map(Value::Int).into())),
            ("texts".into(), Value::List(texts.map(Value::from).into())),
            ("empty \"name\"".into(), Value::Table(Vec::new())),
            ("none".into(), Value::List(Vec::new())),
        ]);
        let line = line(&value);
        assert_eq!(decode(line.as_bytes()), Ok(value));
        assert_eq!(line.find('\n'), Some(line.len() - 1));
        // Another's reader agrees.
        let other: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(other["texts"][1], texts[1]);
        assert_eq!(other["numbers"][3], i64::MIN);
    }

    #[test]
    fn another_s_json_is_read() {
        let read = |text: &str| decode(text.as_bytes()).unwrap();
        assert_eq!(
            read(" { \"a\" :\t[ 1 , -0 ],\r\n\"b\":\"\\u00fc\\ud83d\\ude00\\/\\b\\f\" } "),
            Value::Table(vec![
                ("a".into(), Value::List(vec![Value::Int(1), Value::Int(0)])),
                ("b".into(), "ü😀/\u{8}\u{c}".into()),
            ])
        );
    }

    #[test]
    fn what_is_wrong_is_named_with_its_place() {
        let refused = |text: &str| decode(text.as_bytes()).unwrap_err().to_string();
        for (text, error) in [
            ("", "expected a value at byte 1"),
            ("status", "expected a value at byte 1"),
            ("{\"a\" 1}", "expected a colon at byte 6"),
            ("{a:1}", "expected a name in quotes at byte 2"),
            ("[1 2]", "expected a comma or the end of a list at byte 4"),
            ("[1,]", "expected a value at byte 4"),
            ("{\"a\":1,}", "expected a name in quotes at byte 8"),
            ("1.5", "expected a whole number of 64 bits at byte 1"),
            ("01", "expected a whole number of 64 bits at byte 1"),
            ("+1", "expected a whole number of 64 bits at byte 1"),
            ("-+1", "expected a whole number of 64 bits at byte 1"),
            ("9223372036854775808", "expected a whole number of 64 bits at byte 1"),
            ("\"a\nb\"", "expected the end of a text at byte 3"),
            ("\"\\x\"", "expected an escape that JSON knows at byte 4"),
            ("\"\\u12g4\"", "expected four hexadecimal digits at byte 4"),
            ("\"\\ud83d\"", "expected both halves of a character at byte 8"),
            ("\"\\ude00\"", "expected both halves of a character at byte 8"),
            ("\"\\ud83d\\u0041\"", "expected both halves of a character at byte 14"),
            ("truer", "expected the end at byte 5"),
        ] {
            assert_eq!(refused(text), error, "{text}");
        }
        assert_eq!(decode(b"\"\xff\"").unwrap_err(), Error { expected: "UTF-8", at: 1 });
    }

    #[test]
    fn lists_in_lists_have_an_end() {
        assert!(decode("[".repeat(60_000).as_bytes()).is_err());
        assert!(decode("{\"a\":".repeat(60_000).as_bytes()).is_err());
        assert!(decode(b"[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]").is_ok());
    }

    #[test]
    fn what_is_read_is_what_others_read() {
        const PARTS: &str = r#"{ } [ ] , : null true false nul 0 01 -+1 17 -9223372036854775808 9223372036854775808 1.5 1e3
            "" "a" "b": "é😀" "\"\\\/\b\f\n\r\t" "\u00e9" "\ud83d\ude00" "\ud83d" "\ude00\ud83d" "\ud83d\u0041" "\u12"
            "\u+123" "\x" ""#;
        let parts: Vec<&str> = PARTS
            .split_whitespace()
            .chain([" ", "\n", "\t", "\r", "\u{a0}", "\"\n\"", "\"\u{1}\""])
            .collect();
        let mut random = Random::new(1);
        let mut taken = 0;
        for n in 0..100_000 {
            let mut text: String =
                (0..1 + random.below(3)).map(|_| parts[random.below(parts.len())]).collect();
            for _ in 0..random.below(4) {
                let other = parts[random.below(parts.len())];
                text = match random.below(4) {
                    0 => format!("[{text}, {other}]"),
                    1 => format!("[{text}]"),
                    2 => format!("{{\"a\": {text}, \"b\":{other}}}"),
                    _ => format!("{{\"a\":{text}}}"),
                };
            }
            let other: Option<serde_json::Value> = serde_json::from_str(&text).ok();
            match decode(text.as_bytes()) {
                Ok(value) => {
                    taken += 1;
                    assert_eq!(serde_json::from_str(&line(&value)).ok(), other, "text {n}: {text}");
                }
                Err(error) => {
                    let is_refused = error.expected == "a whole number of 64 bits";
                    assert!(other.is_none() || is_refused, "text {n}: {text}: {error}");
                }
            }
        }
        assert!(taken > 5000, "{taken}");
    }
}

//! TOML 1.1 as far as a configuration needs it, key by key: sections, texts, whole numbers, true and false, lists.
//!
//! Of what no key takes, numbers with a fraction, dates and lists of sections are told apart and no more. Refused are
//! texts of several lines, control characters of any kind, braces in lists or in braces, and a section that stands behind
//! one within it. Holds the keys that were read, to refuse the second of a kind.

use super::Error;
use crate::bencode::signed;

/// Lists in one another.
const MAX_DEPTH: usize = 4;

/// What stands behind `=`.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Value {
    Text(String),
    Whole(i64),
    Fraction,
    Flag(bool),
    Date,
    List(Vec<Value>),
    /// What is in it comes next.
    Section,
}

/// Reads a text from its begin to its end.
pub(super) struct Reader<'a> {
    rest: &'a str,
    line: usize,
    /// What stands before each key, with its dot.
    section: String,
    /// The same of a section in braces, inside of which we are.
    braces: Option<String>,
    seen: Vec<String>,
}

impl<'a> Reader<'a> {
    pub fn new(text: &'a str) -> Reader<'a> {
        let rest = text.strip_prefix('\u{feff}').unwrap_or(text);
        Reader { rest, line: 1, section: String::new(), braces: None, seen: Vec::new() }
    }

    /// The next key with its section, the line that it stands in, and its value.
    pub fn next(&mut self) -> Result<Option<(usize, String, Value)>, Error> {
        self.skip_lines()?;
        if self.braces.is_some() && self.eat("}") {
            self.braces = None;
            self.end_line()?;
        }
        let line = self.line;
        // Bytes of what stands before the key's name.
        let mut before = usize::MAX;
        let (key, value) = if self.rest.is_empty() && self.braces.is_none() {
            return Ok(None);
        } else if self.braces.is_none() && self.eat("[[") {
            let key = self.key()?;
            self.expect("]]")?;
            (key, Value::List(vec![Value::Section]))
        } else if self.braces.is_none() && self.eat("[") {
            let key = self.key()?;
            self.expect("]")?;
            self.section = format!("{key}.");
            (key, Value::Section)
        } else {
            let name = self.key()?;
            let section = self.braces.as_ref().unwrap_or(&self.section);
            before = section.len();
            let key = format!("{section}{name}");
            self.expect("=")?;
            let value = self.value(0)?;
            (key, value)
        };
        let is_in = |key: &str, of: &str| key.strip_prefix(of).is_some_and(|rest| rest.starts_with('.'));
        // A section is whole where it first stands: by a line of its own, in braces, or by keys with dots.
        let is_taken =
            |seen: &String| *seen == key || is_in(seen, &key) || (seen.len() > before && is_in(&key, seen));
        if self.seen.iter().any(is_taken) {
            self.line = line;
            return Err(self.refuse(&format!("{key} stands here twice")));
        }
        self.seen.push(key.clone());
        if self.braces.is_some() {
            self.skip_lines()?;
            if !self.rest.starts_with('}') {
                self.expect(",")?;
            }
        } else if value == Value::Section && self.section != format!("{key}.") {
            self.braces = Some(format!("{key}."));
        } else {
            self.end_line()?;
        }
        Ok(Some((line, key, value)))
    }

    fn refuse(&self, reason: &str) -> Error {
        Error { line: self.line, key: String::new(), reason: reason.to_owned() }
    }

    fn eat(&mut self, what: &str) -> bool {
        let rest = self.rest.strip_prefix(what);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    fn expect(&mut self, what: &str) -> Result<(), Error> {
        self.skip_blanks();
        if self.eat(what) { Ok(()) } else { Err(self.refuse(&format!("expected {what}"))) }
    }

    /// All up to the first character that `ends`.
    fn take(&mut self, ends: fn(char) -> bool) -> &'a str {
        let (taken, rest) = self.rest.split_at(self.rest.find(ends).unwrap_or(self.rest.len()));
        self.rest = rest;
        taken
    }

    fn skip_blanks(&mut self) {
        self.take(|c| c != ' ' && c != '\t');
    }

    /// Comments and ends of lines, too.
    fn skip_lines(&mut self) -> Result<(), Error> {
        loop {
            self.skip_blanks();
            if self.eat("#") {
                self.take(|c| c.is_control() && c != '\t');
            }
            if self.eat("\n") || self.eat("\r\n") {
                self.line += 1;
            } else if self.rest.starts_with(char::is_control) {
                return Err(self.refuse("a control character"));
            } else {
                return Ok(());
            }
        }
    }

    /// Nothing but a comment follows.
    fn end_line(&mut self) -> Result<(), Error> {
        let line = self.line;
        self.skip_lines()?;
        if self.line > line || self.rest.is_empty() {
            return Ok(());
        }
        Err(self.refuse("expected the end of the line"))
    }

    /// Names with dots between them. One that needs its quotes keeps them: none of ours is such a one.
    fn key(&mut self) -> Result<String, Error> {
        let mut key = String::new();
        loop {
            self.skip_blanks();
            let before = self.rest;
            let quoted = if self.rest.starts_with(['"', '\'']) { Some(self.text()?) } else { None };
            let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
            match &quoted {
                Some(name) if !name.is_empty() && name.chars().all(plain) => key.push_str(name),
                Some(_) => key.push_str(&before[..before.len() - self.rest.len()]),
                None => {
                    let name = self.take(|c| !c.is_ascii_alphanumeric() && c != '_' && c != '-');
                    if name.is_empty() {
                        return Err(self.refuse("expected a key"));
                    }
                    key.push_str(name);
                }
            }
            self.skip_blanks();
            if !self.eat(".") {
                return Ok(key);
            }
            key.push('.');
        }
    }

    fn value(&mut self, depth: usize) -> Result<Value, Error> {
        self.skip_blanks();
        if self.rest.starts_with(['"', '\'']) {
            return self.text().map(Value::Text);
        }
        if depth == 0 && self.braces.is_none() && self.eat("{") {
            return Ok(Value::Section);
        }
        if depth < MAX_DEPTH && self.eat("[") {
            let mut list = Vec::new();
            loop {
                self.skip_lines()?;
                if self.eat("]") {
                    return Ok(Value::List(list));
                }
                list.push(self.value(depth + 1)?);
                self.skip_lines()?;
                if !self.rest.starts_with(']') {
                    self.expect(",")?;
                }
            }
        }
        let word = self.take(|c| !c.is_ascii_alphanumeric() && !"+-_.:".contains(c));
        plain(word).ok_or_else(|| self.refuse("expected a text in quotes, a number, true, false or a list"))
    }

    /// A text in quotes, single ones around what is meant as it stands.
    fn text(&mut self) -> Result<String, Error> {
        if self.rest.starts_with("\"\"\"") || self.rest.starts_with("'''") {
            return Err(self.refuse("a text has one line"));
        }
        let literal = self.eat("'");
        if !literal {
            self.eat("\"");
        }
        let mut text = String::new();
        loop {
            text.push_str(self.take(|c| matches!(c, '"' | '\'' | '\\') || (c.is_control() && c != '\t')));
            let mut chars = self.rest.chars();
            let next = chars
                .next()
                .filter(|c| !c.is_control())
                .ok_or_else(|| self.refuse("a text without its end"))?;
            self.rest = chars.as_str();
            match next {
                '\'' if literal => return Ok(text),
                '"' if !literal => return Ok(text),
                '\\' if !literal => {
                    text.push(self.escaped().ok_or_else(|| self.refuse("there is no such \\"))?)
                }
                _ => text.push(next),
            }
        }
    }

    /// What stands behind a `\`.
    fn escaped(&mut self) -> Option<char> {
        let mut chars = self.rest.chars();
        let next = chars.next()?;
        self.rest = chars.as_str();
        let digits = match next {
            'b' => return Some('\u{8}'),
            'e' => return Some('\u{1b}'),
            't' => return Some('\t'),
            'n' => return Some('\n'),
            'f' => return Some('\u{c}'),
            'r' => return Some('\r'),
            '"' | '\\' => return Some(next),
            'x' => 2,
            'u' => 4,
            'U' => 8,
            _ => return None,
        };
        let (hex, rest) = self.rest.split_at_checked(digits)?;
        self.rest = rest;
        let hex = hex.bytes().all(|byte| byte.is_ascii_hexdigit()).then_some(hex)?;
        char::from_u32(u32::from_str_radix(hex, 16).ok()?)
    }
}

/// A value that is one word.
fn plain(word: &str) -> Option<Value> {
    if let "true" | "false" = word {
        return Some(Value::Flag(word == "true"));
    }
    let unsigned = word.strip_prefix(['+', '-']).unwrap_or(word);
    let (digits, radix) = match unsigned.as_bytes() {
        b"inf" | b"nan" => return Some(Value::Fraction),
        [b'0', b'x', ..] => (&unsigned[2..], 16),
        [b'0', b'o', ..] => (&unsigned[2..], 8),
        [b'0', b'b', ..] => (&unsigned[2..], 2),
        [b'0'..=b'9', ..] => (unsigned, 10),
        _ => return None,
    };
    let groups = |part: &str| !part.is_empty() && part.chars().all(|digit| digit.is_digit(radix));
    if digits.split('_').all(groups) {
        let zero_first = radix == 10 && digits.len() > 1 && digits.starts_with('0');
        let signed_otherwise = radix != 10 && word != unsigned;
        let number = if radix == 10 { word } else { digits };
        let number = signed(&number.replace('_', ""), radix)?;
        return (!zero_first && !signed_otherwise).then_some(Value::Whole(number));
    }
    let all = |of: &[u8]| radix == 10 && word.bytes().all(|byte| byte.is_ascii_digit() || of.contains(&byte));
    if all(b".eE+-") && word.contains(['.', 'e', 'E']) {
        return Some(Value::Fraction);
    }
    (all(b"-:.+TtZz") && word.contains(['-', ':'])).then_some(Value::Date)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    fn read(text: &str) -> Result<Vec<(usize, String, Value)>, Error> {
        let mut reader = Reader::new(text);
        let mut all = Vec::new();
        while let Some(one) = reader.next()? {
            all.push(one);
        }
        Ok(all)
    }

    fn value(text: &str) -> Option<Value> {
        read(&format!("a = {text}")).ok()?.pop().map(|(.., value)| value)
    }

    #[test]
    fn keys_come_with_their_section_and_line() {
        let text = "\u{feff}a = 1 # one\r\n\n'b' . \"c\" = 2\n[ d ]\ne-f = [\n 3, # three\n 4,\n]\n[g.h]\n\"i j\".k = 5";
        let all = read(text).unwrap();
        let keys: Vec<_> = all.iter().map(|(line, key, _)| (*line, key.as_str())).collect();
        let e = (5, "d.e-f");
        assert_eq!(keys, [(1, "a"), (3, "b.c"), (4, "d"), e, (9, "g.h"), (10, "g.h.\"i j\".k")]);
        assert_eq!(all[3].2, Value::List(vec![Value::Whole(3), Value::Whole(4)]));
        let braces = read("a = { b = 1, # f\n c.d = 'e' }\ng = {}").unwrap();
        let keys: Vec<_> = braces.iter().map(|(_, key, _)| key.as_str()).collect();
        assert_eq!(keys, ["a", "a.b", "a.c.d", "g"]);
    }

    #[test]
    fn values_are_what_toml_says() {
        for (text, number) in
            [("0", 0), ("+7", 7), ("-1_000", -1000), ("0xdead_BEEF", 0xdead_beef), ("0o17", 15)]
        {
            assert_eq!(value(text), Some(Value::Whole(number)), "{text}");
        }
        for text in ["1.5", "-1e9", "6.02E+23", "inf", "-nan"] {
            assert_eq!(value(text), Some(Value::Fraction), "{text}");
        }
        for text in ["1979-05-27", "07:32:00", "1979-05-27T07:32:00.5-07:00"] {
            assert_eq!(value(text), Some(Value::Date), "{text}");
        }
        let text = |text: &str| Some(Value::Text(text.to_owned()));
        assert_eq!(value(r#""\t\"\\\u00e9\U0001F600'#""#), text("\t\"\\é😀'#"));
        assert_eq!(value(r#"'C:\new "x"'"#), text(r#"C:\new "x""#));
        assert_eq!(
            (value("\"\""), value("''"), value("true")),
            (text(""), text(""), Some(Value::Flag(true)))
        );
    }

    #[test]
    fn what_is_no_toml_is_refused() {
        for wrong in [
            "01",
            "1__0",
            "_1",
            "1_",
            "0x",
            "0x-1",
            "-0x1",
            "+-1",
            "99999999999999999999",
            "yes",
            "True",
            "",
            "\"",
            "'",
            "\"a",
            "\"\\x\"",
            "\"\\u12\"",
            "\"\\ud800\"",
            "\"\"\"a\"\"\"",
            "\"a\nb\"",
            "\"a\u{7}\"",
            "[1 2]",
            "[1,,2]",
            "[",
            "[,]",
            "[{}]",
            "[[[[[]]]]]",
            "{",
            "{ b = 1",
            "{ b }",
            "{ b = {} }",
            "{ b = 1 c = 2 }",
            "1 2",
            "1 b = 2",
            "1 # \u{1}",
        ] {
            assert_eq!(value(wrong), None, "{wrong}");
        }
        for (wrong, line) in [
            ("a", 1),
            ("a = 1\nb", 2),
            ("\n= 1", 2),
            ("a. = 1", 1),
            ("[a", 1),
            ("[a] b = 1", 1),
            ("[]", 1),
            ("[[a]", 1),
            ("a = 1\n\na = 2", 3),
            ("[a]\n[b]\n[a]", 3),
            ("[a]\nb = 1\n[c]\n[a.b]", 4),
            ("a = [1,\n2,\n;]", 3),
            ("\r", 1),
        ] {
            assert_eq!(read(wrong).unwrap_err().line, line, "{wrong}");
        }
    }

    /// What a configuration may be written like, and what people get wrong.
    const KEYS: [&str; 12] =
        ["a", "b", "c", "x-y", "1", "'b'", "\"\\u0061\"", "a.b", "a . \"c\"", "b.c", "c.'x-y'", "\"a b\""];
    const HEADERS: [&str; 9] =
        ["[a]", "[ b ]", "['c']", "[x-y] # c", "[\"a b\"]", "[a", "[]", "[a]]", "[a\n]"];
    const VALUES: [&str; 66] = [
        "0",
        "-0",
        "+7",
        "-1_000",
        "0xdead_BEEF",
        "0o17",
        "0b101",
        "9223372036854775807",
        "-9223372036854775808",
        "9223372036854775808",
        "01",
        "1__0",
        "_1",
        "1_",
        "0x",
        "-0x1",
        "0xg",
        "true",
        "false",
        "True",
        "",
        "\"text\"",
        "\"\"",
        "''",
        "\"#\" # c",
        r#""\b\t\n\f\r\"\\\u00e9\U0001F600""#,
        r#""\e\x41\xe9""#,
        r#""\x""#,
        r#""\ud800""#,
        r#""\U00110000""#,
        r#""\u12é4""#,
        r#""\q""#,
        r"'C:\new'",
        "'it''s'",
        "\"a\tb\"",
        "\"é😀\"",
        "\"a\nb\"",
        "\"a\rb\"",
        "\"a\u{7f}\"",
        "\"a",
        "'a",
        "[]",
        "[1, 2]",
        "[1,\r\n 2, # c\n]",
        "[\"a\",'b',]",
        "[[1],['x']]",
        "[true, 1, 'a']",
        "[1 2]",
        "[,]",
        "[1,,2]",
        "[",
        "{}",
        "{ b = 1 }",
        "{b=1,a='d'}",
        "{ b = 1, # c\n\n c.a = [2,\n],\n}",
        "{ b = 1 c = 2 }",
        "{ b = 1, b = 2 }",
        "{ b.c = 1, b = 2 }",
        "{ b = 1, b.c = 2 }",
        "{ , }",
        "{ b }",
        "{ a.b = 1, a.c = 2 }",
        "{ = 1 }",
        "1 2",
        "1 # \u{1}",
        "1 # \u{e9}",
    ];

    fn document(random: &mut Random) -> String {
        fn one<'a>(random: &mut Random, of: &[&'a str]) -> &'a str {
            of[random.below(of.len())]
        }
        let mut text = String::new();
        for _ in 0..=random.below(5) {
            text.push_str(one(random, &["", "", "", " ", "\t", "\n", "# c\n", "\u{feff}", "\r"]));
            if random.below(4) == 0 {
                text.push_str(one(random, &HEADERS));
            } else {
                text.push_str(one(random, &KEYS));
                text.push_str(one(random, &["=", "=", "=", " = ", " = ", " = ", "\t=", " =\n", " "]));
                text.push_str(one(random, &VALUES));
            }
            text.push_str(one(random, &["\n", "\n", "\r\n", " \n", "\t# c\r\n", "", "\r"]));
        }
        text
    }

    /// What is in a section, by its keys with their sections.
    fn leaves(of: toml::Table, before: &str, out: &mut Vec<(String, Value)>) {
        for (name, value) in of {
            let quotes = if name.contains(' ') { "\"" } else { "" };
            let key = format!("{before}{quotes}{name}{quotes}");
            match value {
                toml::Value::Table(within) => leaves(within, &format!("{key}."), out),
                value => out.push((key, ours(value))),
            }
        }
    }

    fn ours(value: toml::Value) -> Value {
        match value {
            toml::Value::String(text) => Value::Text(text),
            toml::Value::Integer(number) => Value::Whole(number),
            toml::Value::Float(_) => Value::Fraction,
            toml::Value::Boolean(flag) => Value::Flag(flag),
            toml::Value::Datetime(_) => Value::Date,
            toml::Value::Array(values) => Value::List(values.into_iter().map(ours).collect()),
            toml::Value::Table(_) => Value::Section,
        }
    }

    #[test]
    fn what_is_read_is_what_others_read() {
        let mut random = Random::new(1);
        let mut taken = 0;
        for n in 0..60_000 {
            let text = document(&mut random);
            let other = text.parse::<toml::Table>().map(|table| {
                let mut all = Vec::new();
                leaves(table, "", &mut all);
                all
            });
            let same = match (read(&text), other) {
                (Ok(all), Ok(mut other)) => {
                    let all = all.into_iter().map(|(_, key, value)| (key, value));
                    let mut all: Vec<_> = all.filter(|(_, value)| *value != Value::Section).collect();
                    for all in [&mut all, &mut other] {
                        all.sort_by(|(one, _), (other, _)| one.cmp(other));
                    }
                    taken += 1;
                    all == other
                }
                (Err(_), Err(_)) => true,
                _ => false,
            };
            assert!(same, "document {n}: {text:?}: {:?}, {:?}", read(&text), text.parse::<toml::Table>());
        }
        assert!(taken > 4000, "{taken}");
    }
}

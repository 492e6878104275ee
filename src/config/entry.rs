//! One `key = value` of the file: the reader of each kind of value, which says what would be right where it is not.
//!
//! Omits what the keys mean. Holds nothing but the key's name.

use std::fmt::{self, Display};
use std::net::{IpAddr, Ipv6Addr};
use std::ops::RangeInclusive;
use std::path::PathBuf;

use super::toml::Value;
use crate::log::escaped;

/// Entries of one list: more is a mistake, and each watched tree, peer or tracker costs work all the time.
const MAX_LIST: usize = 64;

/// What is wrong with a configuration: one sentence with line, key and what would be right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// From 1.
    pub line: usize,
    /// The key with its section; empty where the text is no TOML.
    pub key: String,
    /// What is wrong and what would be right.
    pub reason: String,
}

/// One `key = value` of the text.
pub(super) struct Entry {
    /// With its section: `limits.upload`.
    pub key: String,
    pub line: usize,
    pub value: Value,
}

impl Entry {
    #[inline(never)]
    pub fn refuse(&self, reason: &str) -> Error {
        Error { line: self.line, key: self.key.clone(), reason: reason.to_owned() }
    }

    fn not_right(&self, text: &str, right: &str) -> Error {
        self.refuse(&format!("\"{}\" is not {right}", escaped(text)))
    }

    fn wrong_type(&self, right: &str) -> Error {
        self.refuse(&format!("expected {right}, not {}", kind(&self.value)))
    }

    pub fn text(&self) -> Result<&str, Error> {
        match &self.value {
            Value::Text(text) => Ok(text),
            _ => Err(self.wrong_type("a text in quotes")),
        }
    }

    pub fn flag(&self, into: &mut bool) -> Result<(), Error> {
        let Value::Flag(flag) = self.value else { return Err(self.wrong_type("true or false")) };
        *into = flag;
        Ok(())
    }

    /// True, false, or `None` for this one word.
    pub fn flag_or(&self, word: &str) -> Result<Option<bool>, Error> {
        let right = format!("\"{word}\", or true or false without quotes");
        match &self.value {
            Value::Flag(flag) => Ok(Some(*flag)),
            Value::Text(text) if text == word => Ok(None),
            Value::Text(text) => Err(self.not_right(text, &right)),
            _ => Err(self.wrong_type(&right)),
        }
    }

    pub fn count(&self, into: &mut u32, range: RangeInclusive<u32>) -> Result<(), Error> {
        *into = self.number(range)?;
        Ok(())
    }

    pub fn number(&self, range: RangeInclusive<u32>) -> Result<u32, Error> {
        let right = format!("a whole number from {} to {}", range.start(), range.end());
        let Value::Whole(number) = self.value else { return Err(self.wrong_type(&right)) };
        u32::try_from(number)
            .ok()
            .filter(|number| range.contains(number))
            .ok_or_else(|| self.refuse(&format!("{number} is not {right}")))
    }

    /// A text, or a whole number as people write where a unit is not needed.
    fn amount(&self, right: &str) -> Result<String, Error> {
        match &self.value {
            Value::Whole(number) => Ok(number.to_string()),
            Value::Text(text) => Ok(text.clone()),
            _ => Err(self.wrong_type(right)),
        }
    }

    pub fn rate(&self, into: &mut u64) -> Result<(), Error> {
        self.scaled(into, 1000, 0, "bytes a second such as \"0\" (no limit), \"50k\" or \"1.5M\"")
    }

    /// Bytes, not fewer than `least`; `right` says so.
    pub fn size(&self, into: &mut u64, least: u64, right: &str) -> Result<(), Error> {
        self.scaled(into, 1024, least, right)
    }

    fn scaled(&self, into: &mut u64, thousand: u64, least: u64, right: &str) -> Result<(), Error> {
        let text = self.amount(right)?;
        let amount = scaled(&text, thousand).filter(|amount| *amount >= least);
        *into = amount.ok_or_else(|| self.not_right(&text, right))?;
        Ok(())
    }

    pub fn ports(&self, into: &mut RangeInclusive<u16>) -> Result<(), Error> {
        let right = "a port such as \"6881\", a range such as \"6881-6889\", or \"0\" for any";
        let text = self.amount(right)?;
        *into = ports(&text).ok_or_else(|| self.not_right(&text, right))?;
        Ok(())
    }

    /// An absolute path, or `None` for "".
    pub fn path(&self, into: &mut Option<PathBuf>) -> Result<(), Error> {
        let text = self.text()?;
        *into = match (text.is_empty(), absolute(text)) {
            (true, _) => None,
            (false, None) => Some(PathBuf::from(text)),
            (false, Some(right)) => return Err(self.not_right(text, right)),
        };
        Ok(())
    }

    pub fn choice<T: Copy>(&self, into: &mut T, choices: &[(&str, T)]) -> Result<(), Error> {
        let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
        *into = choices[self.one_of(&names)?].1;
        Ok(())
    }

    fn one_of(&self, names: &[&str]) -> Result<usize, Error> {
        let text = self.text()?;
        let right = || format!("one of \"{}\"", names.join("\", \""));
        names.iter().position(|name| *name == text).ok_or_else(|| self.not_right(text, &right()))
    }

    pub fn list(&self, into: &mut Vec<String>, check: fn(&str) -> Option<&'static str>) -> Result<(), Error> {
        *into = self.texts(check)?;
        Ok(())
    }

    /// A list of texts, each accepted by `check`, which otherwise says what would be right.
    pub fn texts(&self, check: fn(&str) -> Option<&'static str>) -> Result<Vec<String>, Error> {
        let wrong = || self.wrong_type("a list of texts such as [\"…\", \"…\"]");
        let Value::List(list) = &self.value else { return Err(wrong()) };
        if list.len() > MAX_LIST {
            return Err(self.refuse(&format!("at most {MAX_LIST} entries, not {}", list.len())));
        }
        list.iter()
            .map(|item| {
                let Value::Text(text) = item else { return Err(wrong()) };
                match check(text) {
                    None => Ok(text.to_owned()),
                    Some(right) => Err(self.not_right(text, right)),
                }
            })
            .collect()
    }
}

impl Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.key.is_empty() {
            return write!(f, "line {}: {}", self.line, self.reason);
        }
        write!(f, "line {}: {}: {}", self.line, self.key, self.reason)
    }
}

impl std::error::Error for Error {}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Text(_) => "a text",
        Value::Whole(_) | Value::Fraction => "a number",
        Value::Flag(_) => "true or false",
        Value::Date => "a date",
        Value::List(_) => "a list",
        Value::Section => "a section",
    }
}

/// Decimal digits alone: `parse` would take a sign as well.
fn number(text: &str) -> Option<u16> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) { text.parse().ok() } else { None }
}

/// `"0"`, `"50k"`, `"1.5M"`, `"2G"` as bytes, exactly (no floating point, of which small routers have none).
fn scaled(text: &str, thousand: u64) -> Option<u64> {
    let (digits, unit) = match text.as_bytes().last()? {
        b'k' | b'K' => (&text[..text.len() - 1], thousand),
        b'M' => (&text[..text.len() - 1], thousand * thousand),
        b'G' => (&text[..text.len() - 1], thousand * thousand * thousand),
        _ => (text, 1),
    };
    let (whole, part) = match digits.split_once('.') {
        Some((whole, part)) if unit > 1 && (1..=6).contains(&part.len()) => (whole, part),
        Some(_) => return None,
        None => (digits, ""),
    };
    if whole.is_empty() || !whole.bytes().chain(part.bytes()).all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let mut bytes = whole.parse::<u64>().ok()?.checked_mul(unit)?;
    if !part.is_empty() {
        let tenths = 10_u64.pow(u32::try_from(part.len()).ok()?);
        bytes = bytes.checked_add(part.parse::<u64>().ok()?.checked_mul(unit)? / tenths)?;
    }
    Some(bytes)
}

pub(super) fn absolute(text: &str) -> Option<&'static str> {
    (!text.starts_with('/') || text.contains('\0')).then_some("an absolute path: begin it with /")
}

/// A port, a range of ports, or 0 for any.
pub(super) fn ports(text: &str) -> Option<RangeInclusive<u16>> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    match (number(first)?, number(last)?) {
        (0, last) if last != 0 => None,
        (first, last) => (first <= last).then_some(first..=last),
    }
}

pub(super) fn host_and_port(text: &str) -> Option<&'static str> {
    let right = Some("\"host:port\", such as \"10.0.0.7:6881\", \"[fd00::7]:6881\" or \"node.mesh:6881\"");
    let Some((host, port)) = text.rsplit_once(':') else { return right };
    let host_is_right = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        // A link-local address carries its interface: fe80::1%br-lan.
        Some(v6) => v6.split('%').next().is_some_and(|address| address.parse::<Ipv6Addr>().is_ok()),
        None => {
            (1..=253).contains(&host.len())
                && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_'))
        }
    };
    if host_is_right && number(port).is_some_and(|port| port > 0) { None } else { right }
}

/// A name that the kernel may give an interface.
pub(super) fn interface(text: &str) -> Option<&'static str> {
    let right =
        (1..=15).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'/');
    (!right).then_some("the name of an interface such as \"br-lan\"")
}

pub(super) fn local(text: &str) -> Option<&'static str> {
    if text == "on-link" {
        return None;
    }
    let (address, length) =
        text.split_once('/').map_or((text, None), |(address, length)| (address, Some(length)));
    let most = address.parse().ok().map(|address: IpAddr| if address.is_ipv4() { 32 } else { 128 });
    let right = match (most, length) {
        (None, _) => false,
        (Some(_), None) => true,
        (Some(most), Some(length)) => number(length).is_some_and(|length| length <= most),
    };
    (!right).then_some("\"on-link\" or a prefix such as \"10.0.0.0/8\" or \"fd00::/8\"")
}

pub(super) fn tracker_url(text: &str) -> Option<&'static str> {
    let rest = ["http://", "https://", "udp://"].iter().find_map(|scheme| text.strip_prefix(scheme));
    let right = rest.is_some_and(|rest| !rest.is_empty() && !rest.starts_with(['/', ':']))
        && text.len() <= 2048
        && text.bytes().all(|byte| byte.is_ascii_graphic());
    (!right).then_some("a tracker's URL such as \"http://tracker.mesh:6969/announce\"")
}

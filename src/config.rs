//! The configuration file: TOML text in; out comes a checked [`Config`], or one sentence about what is wrong and where.
//!
//! Every default stands here, in `Config::default`; `config/meshseed.toml` explains the same to users. Keys of parts
//! that do not exist yet are unknown keys. Holds the few strings of one file.

use std::ffi::OsStr;
use std::fmt::{self, Display, Write};
use std::net::{IpAddr, Ipv6Addr};
use std::ops::RangeInclusive;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use log::LevelFilter;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Entries of one list: more is a mistake, and each watched tree, peer or tracker costs work all the time.
const MAX_LIST: usize = 64;

/// Bytes of a socket's path that the kernel takes (`sun_path`, less the closing zero).
const MAX_SOCKET_PATH: usize = 107;

/// Every key, in the order of `config/meshseed.toml`.
const KEYS: [&str; 24] = [
    "torrents",
    "data",
    "layout",
    "state",
    "rescan",
    "control",
    "user",
    "peers",
    "listen.port",
    "listen.addresses",
    "limits.upload",
    "limits.local-upload",
    "limits.local",
    "limits.peers",
    "limits.peers-per-torrent",
    "limits.uploads",
    "limits.uploads-per-torrent",
    "limits.open-files",
    "limits.dials-per-second",
    "limits.memory",
    "trackers.enabled",
    "trackers.also",
    "log.to",
    "log.level",
];

/// The sections among them.
const SECTIONS: [&str; 4] = ["listen", "limits", "trackers", "log"];

/// The configuration, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The watched trees of .torrent files, absolute; at least one.
    pub torrents: Vec<PathBuf>,
    /// Where content lies, absolute; `None`: beside each .torrent.
    pub data: Option<PathBuf>,
    /// How content is named below `data`.
    pub layout: SaveAs,
    /// Where records are kept, absolute; `None`: nowhere.
    pub state: Option<PathBuf>,
    /// Between two full scans.
    pub rescan: Duration,
    /// Path of the control socket.
    pub control: PathBuf,
    /// The user to become after binding, by name or number.
    pub user: Option<String>,
    /// Static peers, `host:port`.
    pub peers: Vec<String>,
    /// `[listen]`
    pub listen: Listen,
    /// `[limits]`
    pub limits: Limits,
    /// `[trackers]`
    pub trackers: Trackers,
    /// `[log]`
    pub log: Log,
}

/// Mainline's four save-as styles: the name of a torrent's content, made of the .torrent file's name F and `info.name` N.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SaveAs {
    /// Style 1: F.
    Torrent,
    /// Style 2: N.
    Name,
    /// Style 3: a folder F, in it the file N or the torrent's files.
    Both,
    /// Style 4: style 1 where F is N, else style 3.
    Auto,
}

/// Where peers reach us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen {
    /// The ports that are tried, in this order; `0..=0`: whatever the system gives.
    pub port: RangeInclusive<u16>,
    /// Empty: every address of both families.
    pub addresses: Vec<IpAddr>,
}

/// What is refused rather than exceeded. A rate of 0 is no limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// To peers that are not local, bytes a second.
    pub upload: u64,
    /// To local peers, bytes a second.
    pub local_upload: u64,
    /// `on-link` or prefixes: who is local.
    pub local: Vec<String>,
    /// Connections in all.
    pub peers: u32,
    /// Connections of one torrent.
    pub peers_per_torrent: u32,
    /// Unchoked peers in all.
    pub uploads: u32,
    /// Unchoked peers of one torrent.
    pub uploads_per_torrent: u32,
    /// Content files open at the same time.
    pub open_files: u32,
    /// Connections begun in a second.
    pub dials_per_second: u32,
    /// For connections and caches, bytes.
    pub memory: u64,
}

/// Trackers beside what the torrents say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trackers {
    /// Whether any tracker is asked.
    pub enabled: bool,
    /// URLs added to every torrent that is not private.
    pub also: Vec<String>,
}

/// Where log lines go and which.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Log {
    /// The place.
    pub to: LogTo,
    /// The least important level that is written.
    pub level: LevelFilter,
}

/// A place for log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogTo {
    /// `/dev/log`.
    Syslog,
    /// Standard error.
    Stderr,
}

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

impl Default for Config {
    fn default() -> Config {
        Config {
            torrents: vec![PathBuf::from("/etc/torrents")],
            data: Some(PathBuf::from("/srv/torrents")),
            layout: SaveAs::Auto,
            state: Some(PathBuf::from("/var/lib/meshseed")),
            rescan: Duration::from_secs(60),
            control: PathBuf::from("/var/run/meshseed/control.sock"),
            user: None,
            peers: Vec::new(),
            listen: Listen { port: 6881..=6889, addresses: Vec::new() },
            limits: Limits {
                upload: 0,
                local_upload: 0,
                local: vec!["on-link".to_owned()],
                peers: 200,
                peers_per_torrent: 40,
                uploads: 24,
                uploads_per_torrent: 6,
                open_files: 32,
                dials_per_second: 5,
                memory: 16 << 20,
            },
            trackers: Trackers { enabled: true, also: Vec::new() },
            log: Log { to: LogTo::Syslog, level: LevelFilter::Info },
        }
    }
}

impl Config {
    /// The configuration that a file's text means; what it does not name stands at its default.
    pub fn parse(text: &str) -> Result<Config, Error> {
        let document = DeTable::parse(text).map_err(|error| Error {
            line: line_of(text, error.span().map_or(0, |span| span.start)),
            key: String::new(),
            reason: error.message().replace('\n', ", "),
        })?;
        let mut config = Config::default();
        for (name, value) in document.get_ref() {
            let name = name.get_ref().as_ref();
            let known_section = SECTIONS.contains(&name);
            match value.get_ref() {
                DeValue::Table(section) if known_section => {
                    for (key, value) in section {
                        let line = line_of(text, key.span().start);
                        config.set(&Entry { key: format!("{name}.{}", key.get_ref()), line, value })?;
                    }
                }
                _ => {
                    let line = line_of(text, value.span().start);
                    let entry = Entry { key: name.to_owned(), line, value };
                    if known_section {
                        return Err(entry.refuse(&format!("this is a section, begun by a line [{name}]")));
                    }
                    config.set(&entry)?;
                }
            }
        }
        Ok(config)
    }

    /// The keys that differ and that a running daemon cannot change.
    pub fn changes_needing_restart(old: &Config, new: &Config) -> Vec<&'static str> {
        let mut keys = Vec::new();
        if old.control != new.control {
            keys.push("control");
        }
        if old.user != new.user {
            keys.push("user");
        }
        // The records of what was verified do not move while they are used.
        if old.state != new.state {
            keys.push("state");
        }
        // Only root binds those, and with `user` set we no longer are root.
        let low = *new.listen.port.start() != 0 && *new.listen.port.start() < 1024;
        if old.user.is_some() && low && old.listen != new.listen {
            keys.push("listen.port");
        }
        keys
    }

    /// What the configuration means, a line a key, for `daemon --check`.
    pub fn explain(&self) -> String {
        let mut text = String::with_capacity(2048);
        let mut line = |key: &str, meaning: String| {
            // A String takes every write.
            let _ = writeln!(text, "{key:<27} {meaning}");
        };
        line("torrents", list(self.torrents.iter().map(|path| path.display())));
        line(
            "data",
            self.data.as_ref().map_or("beside each .torrent".to_owned(), |path| path.display().to_string()),
        );
        line("layout", self.layout.explain().to_owned());
        line(
            "state",
            self.state.as_ref().map_or("nothing is remembered".to_owned(), |p| p.display().to_string()),
        );
        line("rescan", format!("every {} s", self.rescan.as_secs()));
        line("control", self.control.display().to_string());
        line("user", self.user.clone().unwrap_or_else(|| "as started".to_owned()));
        line("peers", or_none(&self.peers));
        let (first, last) = (*self.listen.port.start(), *self.listen.port.end());
        line(
            "listen.port",
            match (first, last) {
                (0, _) => "any that is free".to_owned(),
                (first, last) if first == last => first.to_string(),
                (first, last) => format!("the first free one of {first} to {last}"),
            },
        );
        line(
            "listen.addresses",
            if self.listen.addresses.is_empty() {
                "all".to_owned()
            } else {
                list(self.listen.addresses.iter())
            },
        );
        let limits = &self.limits;
        line("limits.upload", rate_text(limits.upload));
        line("limits.local-upload", rate_text(limits.local_upload));
        line("limits.local", or_none(&limits.local));
        line("limits.peers", limits.peers.to_string());
        line("limits.peers-per-torrent", limits.peers_per_torrent.to_string());
        line("limits.uploads", limits.uploads.to_string());
        line("limits.uploads-per-torrent", limits.uploads_per_torrent.to_string());
        line("limits.open-files", limits.open_files.to_string());
        line("limits.dials-per-second", limits.dials_per_second.to_string());
        line("limits.memory", format!("{} bytes", limits.memory));
        line("trackers.enabled", if self.trackers.enabled { "yes" } else { "no" }.to_owned());
        line("trackers.also", or_none(&self.trackers.also));
        line("log.to", if self.log.to == LogTo::Syslog { "syslog" } else { "stderr" }.to_owned());
        line("log.level", self.log.level.as_str().to_ascii_lowercase());
        text
    }

    fn set(&mut self, entry: &Entry) -> Result<(), Error> {
        match entry.key.as_str() {
            "torrents" => {
                self.torrents = entry.list(absolute)?.into_iter().map(PathBuf::from).collect();
                if self.torrents.is_empty() {
                    return Err(entry.refuse("name at least one directory"));
                }
            }
            "data" => self.data = entry.path()?,
            "layout" => {
                self.layout = entry.choice(&[
                    ("torrent", SaveAs::Torrent),
                    ("name", SaveAs::Name),
                    ("both", SaveAs::Both),
                    ("auto", SaveAs::Auto),
                ])?;
            }
            "state" => self.state = entry.path()?,
            "rescan" => self.rescan = Duration::from_secs(u64::from(entry.count(1..=86_400)?)),
            "control" => {
                self.control = entry.path()?.ok_or_else(|| entry.refuse("the socket needs a path"))?;
                if self.control.as_os_str().len() > MAX_SOCKET_PATH {
                    return Err(entry.refuse(&format!("a socket's path has at most {MAX_SOCKET_PATH} bytes")));
                }
            }
            "user" => {
                let name = entry.text()?;
                if name.contains(|c: char| c.is_whitespace() || c.is_control() || c == ':' || c == '/') {
                    return Err(entry.refuse("this is no user's name; \"\" stays the user as started"));
                }
                self.user = (!name.is_empty()).then(|| name.to_owned());
            }
            "peers" => self.peers = entry.list(host_and_port)?,
            "listen.port" => self.listen.port = entry.ports()?,
            "listen.addresses" => {
                let texts = entry.list(|text| {
                    text.parse::<IpAddr>()
                        .is_err()
                        .then_some("an address such as \"192.168.1.1\" or \"fd00::1\"")
                })?;
                self.listen.addresses = texts.iter().filter_map(|text| text.parse().ok()).collect();
            }
            "limits.upload" => self.limits.upload = entry.rate()?,
            "limits.local-upload" => self.limits.local_upload = entry.rate()?,
            "limits.local" => self.limits.local = entry.list(local)?,
            "limits.peers" => self.limits.peers = entry.count(1..=65_535)?,
            "limits.peers-per-torrent" => self.limits.peers_per_torrent = entry.count(1..=65_535)?,
            "limits.uploads" => self.limits.uploads = entry.count(1..=65_535)?,
            "limits.uploads-per-torrent" => self.limits.uploads_per_torrent = entry.count(1..=65_535)?,
            "limits.open-files" => self.limits.open_files = entry.count(1..=65_535)?,
            "limits.dials-per-second" => self.limits.dials_per_second = entry.count(1..=1000)?,
            "limits.memory" => self.limits.memory = entry.memory()?,
            "trackers.enabled" => self.trackers.enabled = entry.flag()?,
            "trackers.also" => self.trackers.also = entry.list(tracker_url)?,
            "log.to" => {
                self.log.to = entry.choice(&[("syslog", LogTo::Syslog), ("stderr", LogTo::Stderr)])?
            }
            "log.level" => {
                self.log.level = entry.choice(&[
                    ("error", LevelFilter::Error),
                    ("warn", LevelFilter::Warn),
                    ("info", LevelFilter::Info),
                    ("debug", LevelFilter::Debug),
                ])?;
            }
            _ => return Err(entry.unknown()),
        }
        Ok(())
    }
}

impl SaveAs {
    /// Where a torrent's content lies: the file itself, or the folder of its files. `torrent` is the path of the
    /// .torrent; `name` is `info.name`, one safe component; `data` is the configured root, `None`: beside the .torrent.
    pub fn data_path(self, torrent: &Path, name: &str, multi_file: bool, data: Option<&Path>) -> PathBuf {
        let root = data.or(torrent.parent()).unwrap_or(Path::new("/"));
        let file = torrent.file_name().unwrap_or_default().as_bytes();
        let stem = OsStr::from_bytes(file.strip_suffix(b".torrent").unwrap_or(file));
        match self {
            SaveAs::Torrent => root.join(stem),
            SaveAs::Name => root.join(name),
            SaveAs::Auto if stem == OsStr::new(name) => root.join(stem),
            SaveAs::Both | SaveAs::Auto if multi_file => root.join(stem),
            SaveAs::Both | SaveAs::Auto => root.join(stem).join(name),
        }
    }

    fn explain(self) -> &'static str {
        match self {
            SaveAs::Torrent => "content is called like its .torrent file",
            SaveAs::Name => "content is called as the torrent says",
            SaveAs::Both => "content lies in a folder called like its .torrent file",
            SaveAs::Auto => {
                "content lies in a folder called like its .torrent file, or is so called where the torrent says the same; what \
                 is found under the torrent's own name is taken too"
            }
        }
    }
}

impl FromStr for Listen {
    type Err = String;

    /// `ADDR:PORT`, where the port may be a range and the address may be left out.
    fn from_str(text: &str) -> Result<Listen, String> {
        let wrong = || format!("{text:?} is not ADDR:PORT, such as 10.0.0.7:6881, [::]:6881-6889 or :0");
        let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
        let port = ports(port).ok_or_else(wrong)?;
        if host.is_empty() {
            return Ok(Listen { port, addresses: Vec::new() });
        }
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        Ok(Listen { port, addresses: vec![bare.parse().map_err(|_| wrong())?] })
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

/// One `key = value` of the text.
struct Entry<'a> {
    /// With its section: `limits.upload`.
    key: String,
    line: usize,
    value: &'a Spanned<DeValue<'a>>,
}

impl Entry<'_> {
    fn refuse(&self, reason: &str) -> Error {
        Error { line: self.line, key: self.key.clone(), reason: reason.to_owned() }
    }

    fn wrong_type(&self, right: &str) -> Error {
        self.refuse(&format!("expected {right}, not {}", kind(self.value.get_ref())))
    }

    fn unknown(&self) -> Error {
        let split = |key: &'static str| key.split_once('.').unwrap_or(("", key));
        let (section, name) = self.key.split_once('.').unwrap_or(("", &self.key));
        let here =
            || KEYS.iter().map(|key| split(key)).filter(|(place, _)| *place == section).map(|(_, key)| key);
        // Two slips of the finger, but not so many that any short word is near to any other.
        let near = |known: &&str| distance(name, known) <= 2.min(name.len() / 3);
        if let Some(known) = here().find(near) {
            return self.refuse(&format!("unknown key; did you mean \"{known}\"?"));
        }
        if let Some(known) = SECTIONS.into_iter().find(|known| section.is_empty() && near(known)) {
            return self.refuse(&format!("unknown section; did you mean [{known}]?"));
        }
        if let Some((place, _)) = KEYS.iter().map(|key| split(key)).find(|(_, key)| *key == name) {
            return self.refuse(&match place {
                "" => "unknown key here; it stands above the first [section]".to_owned(),
                _ => format!("unknown key here; it stands in [{place}]"),
            });
        }
        let known = here().collect::<Vec<_>>().join(", ");
        self.refuse(&match section {
            "" => {
                format!("unknown key or section; known are {known}, and the sections {}", SECTIONS.join(", "))
            }
            _ => format!("unknown key; known in [{section}] are {known}"),
        })
    }

    fn text(&self) -> Result<&str, Error> {
        self.value.get_ref().as_str().ok_or_else(|| self.wrong_type("a text in quotes"))
    }

    fn flag(&self) -> Result<bool, Error> {
        self.value.get_ref().as_bool().ok_or_else(|| self.wrong_type("true or false"))
    }

    fn count(&self, range: RangeInclusive<u32>) -> Result<u32, Error> {
        let right = format!("a whole number from {} to {}", range.start(), range.end());
        let number = self.integer().ok_or_else(|| self.wrong_type(&right))?;
        u32::try_from(number)
            .ok()
            .filter(|number| range.contains(number))
            .ok_or_else(|| self.refuse(&format!("{number} is not {right}")))
    }

    fn integer(&self) -> Option<i128> {
        let integer = self.value.get_ref().as_integer()?;
        i128::from_str_radix(integer.as_str(), integer.radix()).ok()
    }

    /// A text, or a whole number as people write where a unit is not needed.
    fn amount(&self, right: &str) -> Result<String, Error> {
        match self.integer() {
            Some(number) => Ok(number.to_string()),
            None => self.value.get_ref().as_str().map(str::to_owned).ok_or_else(|| self.wrong_type(right)),
        }
    }

    fn rate(&self) -> Result<u64, Error> {
        let right = "bytes a second such as \"0\" (no limit), \"50k\" or \"1.5M\"";
        let text = self.amount(right)?;
        scaled(&text, 1000).ok_or_else(|| self.refuse(&format!("{text:?} is not {right}")))
    }

    fn memory(&self) -> Result<u64, Error> {
        let right = "a size of at least \"1M\", such as \"16M\"";
        let text = self.amount(right)?;
        let size = scaled(&text, 1024).filter(|size| *size >= 1 << 20);
        size.ok_or_else(|| self.refuse(&format!("{text:?} is not {right}")))
    }

    fn ports(&self) -> Result<RangeInclusive<u16>, Error> {
        let right = "a port such as \"6881\", a range such as \"6881-6889\", or \"0\" for any";
        let text = self.amount(right)?;
        ports(&text).ok_or_else(|| self.refuse(&format!("{text:?} is not {right}")))
    }

    /// An absolute path, or `None` for "".
    fn path(&self) -> Result<Option<PathBuf>, Error> {
        let text = self.text()?;
        match (text.is_empty(), absolute(text)) {
            (true, _) => Ok(None),
            (false, None) => Ok(Some(PathBuf::from(text))),
            (false, Some(right)) => Err(self.refuse(&format!("{text:?} is not {right}"))),
        }
    }

    fn choice<T: Copy>(&self, choices: &[(&str, T)]) -> Result<T, Error> {
        let text = self.text()?;
        choices.iter().find(|(name, _)| *name == text).map(|(_, choice)| *choice).ok_or_else(|| {
            let names: Vec<String> = choices.iter().map(|(name, _)| format!("{name:?}")).collect();
            self.refuse(&format!("{text:?} is not one of {}", names.join(", ")))
        })
    }

    /// A list of texts, each accepted by `check`, which otherwise says what would be right.
    fn list(&self, check: fn(&str) -> Option<&'static str>) -> Result<Vec<String>, Error> {
        let wrong = || self.wrong_type("a list of texts such as [\"…\", \"…\"]");
        let array = self.value.get_ref().as_array().ok_or_else(wrong)?;
        if array.len() > MAX_LIST {
            return Err(self.refuse(&format!("at most {MAX_LIST} entries, not {}", array.len())));
        }
        array
            .iter()
            .map(|item| {
                let text = item.get_ref().as_str().ok_or_else(wrong)?;
                match check(text) {
                    None => Ok(text.to_owned()),
                    Some(right) => Err(self.refuse(&format!("{text:?} is not {right}"))),
                }
            })
            .collect()
    }
}

fn line_of(text: &str, offset: usize) -> usize {
    text.as_bytes().iter().take(offset).filter(|byte| **byte == b'\n').count() + 1
}

fn kind(value: &DeValue) -> &'static str {
    match value {
        DeValue::String(_) => "a text",
        DeValue::Integer(_) | DeValue::Float(_) => "a number",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a section",
    }
}

fn list(items: impl Iterator<Item = impl Display>) -> String {
    items.map(|item| item.to_string()).collect::<Vec<_>>().join(", ")
}

fn or_none(items: &[String]) -> String {
    if items.is_empty() { "none".to_owned() } else { items.join(", ") }
}

fn rate_text(rate: u64) -> String {
    if rate == 0 { "no limit".to_owned() } else { format!("{rate} bytes a second") }
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

fn absolute(text: &str) -> Option<&'static str> {
    (!text.starts_with('/') || text.contains('\0')).then_some("an absolute path: begin it with /")
}

/// A port, a range of ports, or 0 for any.
fn ports(text: &str) -> Option<RangeInclusive<u16>> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    match (number(first)?, number(last)?) {
        (0, last) if last != 0 => None,
        (first, last) => (first <= last).then_some(first..=last),
    }
}

fn host_and_port(text: &str) -> Option<&'static str> {
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

fn local(text: &str) -> Option<&'static str> {
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

fn tracker_url(text: &str) -> Option<&'static str> {
    let rest = ["http://", "https://", "udp://"].iter().find_map(|scheme| text.strip_prefix(scheme));
    let right = rest.is_some_and(|rest| !rest.is_empty() && !rest.starts_with(['/', ':']))
        && text.len() <= 2048
        && text.bytes().all(|byte| byte.is_ascii_graphic());
    (!right).then_some("a tracker's URL such as \"http://tracker.mesh:6969/announce\"")
}

/// Levenshtein's, to guess what a mistyped key was meant to be.
fn distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    // A key of a hostile length is near to none of ours.
    for (i, a) in one.chars().take(64).enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (j, b) in other.iter().enumerate() {
            let cost = (diagonal + usize::from(a != *b)).min(left + 1).min(row[j + 1] + 1);
            row[j] = left;
            diagonal = row[j + 1];
            left = cost;
        }
        row[other.len()] = left;
    }
    row[other.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> String {
        Config::parse(text).unwrap_err().to_string()
    }

    #[test]
    fn the_commented_default_file_is_the_default_and_names_every_key_once() {
        let text = include_str!("../config/meshseed.toml");
        assert_eq!(Config::parse(text), Ok(Config::default()));
        let mut section = String::new();
        let mut keys = Vec::new();
        for line in text.lines() {
            if let Some(name) = line.strip_prefix('[') {
                section = format!("{}.", name.trim_end_matches(']'));
            } else if let Some((key, _)) = line.split_once(" = ").filter(|_| !line.starts_with('#')) {
                keys.push(format!("{section}{key}"));
            }
        }
        assert_eq!(keys, KEYS);
    }

    #[test]
    fn an_empty_file_is_the_default() {
        assert_eq!(Config::parse(""), Ok(Config::default()));
    }

    #[test]
    fn every_key_is_read() {
        let config = Config::parse(
            r#"
            torrents = ["/a", "/b"]
            data = ""
            layout = "both"
            state = ""
            rescan = 5
            control = "/run/c"
            user = "meshseed"
            peers = ["10.0.0.1:6881", "[fe80::1%br-lan]:1", "node.mesh:80"]
            listen.port = 7000
            listen.addresses = ["127.0.0.1", "::1"]
            limits = { upload = "1.5M", local-upload = "50k", local = ["on-link", "10.0.0.0/8", "fd00::1"], peers = 1,
              peers-per-torrent = 2, uploads = 3, uploads-per-torrent = 4, open-files = 5, dials-per-second = 6,
              memory = "2.5M" }
            trackers.enabled = false
            trackers.also = ["http://t/announce", "udp://[fd00::1]:6969"]
            log.to = "stderr"
            log.level = "debug"
            "#,
        )
        .unwrap();
        let expected = Config {
            torrents: vec!["/a".into(), "/b".into()],
            data: None,
            layout: SaveAs::Both,
            state: None,
            rescan: Duration::from_secs(5),
            control: "/run/c".into(),
            user: Some("meshseed".into()),
            peers: vec!["10.0.0.1:6881".into(), "[fe80::1%br-lan]:1".into(), "node.mesh:80".into()],
            listen: Listen {
                port: 7000..=7000,
                addresses: vec!["127.0.0.1".parse().unwrap(), "::1".parse().unwrap()],
            },
            limits: Limits {
                upload: 1_500_000,
                local_upload: 50_000,
                local: vec!["on-link".into(), "10.0.0.0/8".into(), "fd00::1".into()],
                peers: 1,
                peers_per_torrent: 2,
                uploads: 3,
                uploads_per_torrent: 4,
                open_files: 5,
                dials_per_second: 6,
                memory: 2_621_440,
            },
            trackers: Trackers {
                enabled: false,
                also: vec!["http://t/announce".into(), "udp://[fd00::1]:6969".into()],
            },
            log: Log { to: LogTo::Stderr, level: LevelFilter::Debug },
        };
        assert_eq!(config, expected);
    }

    #[test]
    fn an_unknown_key_is_named_with_its_line_and_what_was_meant() {
        assert_eq!(refused("\ntorents = []"), "line 2: torents: unknown key; did you mean \"torrents\"?");
        assert_eq!(
            refused("[limits]\npeer = 3"),
            "line 2: limits.peer: unknown key; did you mean \"peers\"?"
        );
        assert_eq!(refused("upload = \"1k\""), "line 1: upload: unknown key here; it stands in [limits]");
        assert_eq!(
            refused("[log]\nrescan = 1"),
            "line 2: log.rescan: unknown key here; it stands above the first [section]"
        );
        let long = refused("[trackers]\nbootstrap = 1");
        assert_eq!(long, "line 2: trackers.bootstrap: unknown key; known in [trackers] are enabled, also");
        assert!(
            refused("[dht]\nenabled = true")
                .starts_with("line 1: dht: unknown key or section; known are torrents")
        );
        assert_eq!(refused("[limit]\npeers = 3"), "line 1: limit: unknown section; did you mean [limits]?");
        assert_eq!(refused("limits = 3"), "line 1: limits: this is a section, begun by a line [limits]");
        assert_eq!(refused("[[limits]]"), "line 1: limits: this is a section, begun by a line [limits]");
    }

    #[test]
    fn a_wrong_type_or_value_says_what_would_be_right() {
        for (text, error) in [
            ("torrents = \"/a\"", "torrents: expected a list of texts such as [\"…\", \"…\"], not a text"),
            ("torrents = []", "torrents: name at least one directory"),
            ("torrents = [\"a\"]", "torrents: \"a\" is not an absolute path: begin it with /"),
            ("data = 3", "data: expected a text in quotes, not a number"),
            ("rescan = 0", "rescan: 0 is not a whole number from 1 to 86400"),
            ("rescan = -5", "rescan: -5 is not a whole number from 1 to 86400"),
            ("rescan = \"60\"", "rescan: expected a whole number from 1 to 86400, not a text"),
            ("layout = \"4\"", "layout: \"4\" is not one of \"torrent\", \"name\", \"both\", \"auto\""),
            ("control = \"\"", "control: the socket needs a path"),
            ("trackers.enabled = 1", "trackers.enabled: expected true or false, not a number"),
        ] {
            assert_eq!(refused(text), format!("line 1: {error}"));
        }
        for (key, values) in [
            (
                "peers",
                &["[\"a\"]", "[\":1\"]", "[\"a:0\"]", "[\"a:65536\"]", "[\"fd00::1\"]", "[\"a b:1\"]", "[3]"]
                    [..],
            ),
            ("listen.port", &["\"\"", "70000", "\"9-8\"", "\"0-9\"", "\"+5\"", "-1", "\"1-2-3\"", "true"]),
            ("listen.addresses", &["[\"localhost\"]", "[\"10.0.0.0/8\"]"]),
            (
                "limits.upload",
                &[
                    "\"fast\"",
                    "-1",
                    "1.5",
                    "\"1.5\"",
                    "\"1,5M\"",
                    "\".5M\"",
                    "\"1T\"",
                    "\"99999999999G\"",
                    "\"\"",
                ],
            ),
            ("limits.local", &["[\"lan\"]", "[\"10.0.0.0/33\"]", "[\"fd00::/129\"]", "[\"10.0.0.0/\"]"]),
            ("limits.peers", &["0", "65536", "1.0"]),
            ("limits.memory", &["\"0\"", "\"100k\"", "\"16 M\""]),
            (
                "trackers.also",
                &["[\"ftp://a\"]", "[\"http://\"]", "[\"http://a b\"]", "[\"http:///announce\"]"],
            ),
            ("log.level", &["\"trace\"", "\"\""]),
            ("user", &["\"a:b\"", "\"a b\""]),
            ("control", &["\"run/x\""]),
        ] {
            for value in values {
                let error = Config::parse(&format!("{key} = {value}")).expect_err(value);
                assert_eq!((error.line, error.key.as_str()), (1, key), "{value}");
            }
        }
        assert!(Config::parse(&format!("control = \"/{}\"", "x".repeat(107))).is_err());
        assert!(Config::parse(&format!("peers = [{}]", "\"a:1\",".repeat(65))).is_err());
    }

    #[test]
    fn what_is_no_toml_is_refused_with_its_line() {
        assert!(refused("rescan = 1\n\nlog = {").starts_with("line 3: "));
        assert!(refused("rescan = 1\nrescan = 2").starts_with("line 2: "));
        assert!(refused("a\u{0}b").starts_with("line 1: "));
        for end in 0..700 {
            // Whatever is cut off: no panic.
            let text = include_str!("../config/meshseed.toml");
            let _ = Config::parse(text.get(..text.len() - end).unwrap_or(""));
        }
    }

    #[test]
    fn a_listening_address_is_an_address_and_a_port_or_a_range() {
        let listen = |text: &str| text.parse::<Listen>().map(|listen| (listen.addresses.len(), listen.port));
        assert_eq!(listen("10.0.0.7:6881"), Ok((1, 6881..=6881)));
        assert_eq!(listen("[::]:6881-6889"), Ok((1, 6881..=6889)));
        assert_eq!(listen(":0"), Ok((0, 0..=0)));
        for wrong in ["", "6881", "10.0.0.7", "10.0.0.7:", "host:1", "10.0.0.7:9-8", "::1", "[::1]:70000"] {
            assert!(listen(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn restart_is_needed_for_user_control_state_and_low_ports_without_root() {
        let old = Config { user: Some("meshseed".into()), ..Config::default() };
        assert!(Config::changes_needing_restart(&old, &old).is_empty());
        let mut new = old.clone();
        new.listen.port = 80..=80;
        assert_eq!(Config::changes_needing_restart(&old, &new), ["listen.port"]);
        new = Config { user: None, control: "/x".into(), rescan: Duration::from_secs(9), ..old.clone() };
        assert_eq!(Config::changes_needing_restart(&old, &new), ["control", "user"]);
        new = Config { state: None, ..old.clone() };
        assert_eq!(Config::changes_needing_restart(&old, &new), ["state"]);
        let root = Config::default();
        new = root.clone();
        new.listen.port = 80..=80;
        assert!(Config::changes_needing_restart(&root, &new).is_empty());
    }

    #[test]
    fn the_four_styles_place_content_as_mainline_does() {
        let torrent = Path::new("/etc/torrents/sub/film.torrent");
        let place = |style: SaveAs, name, multi| {
            let path = style.data_path(torrent, name, multi, Some(Path::new("/srv")));
            path.to_str().unwrap().to_owned()
        };
        for (style, name, single, multi) in [
            (SaveAs::Torrent, "Film", "/srv/film", "/srv/film"),
            (SaveAs::Name, "Film", "/srv/Film", "/srv/Film"),
            (SaveAs::Both, "Film", "/srv/film/Film", "/srv/film"),
            (SaveAs::Both, "film", "/srv/film/film", "/srv/film"),
            (SaveAs::Auto, "Film", "/srv/film/Film", "/srv/film"),
            (SaveAs::Auto, "film", "/srv/film", "/srv/film"),
        ] {
            assert_eq!((place(style, name, false), place(style, name, true)), (single.into(), multi.into()));
        }
        let beside = SaveAs::Auto.data_path(torrent, "film", false, None);
        assert_eq!(beside, Path::new("/etc/torrents/sub/film"));
    }

    #[test]
    fn the_explanation_has_a_line_for_every_key() {
        let text = Config::default().explain();
        let keys: Vec<&str> = text.lines().filter_map(|line| line.split_whitespace().next()).collect();
        assert_eq!(keys, KEYS);
        assert!(text.contains("limits.upload               no limit\n"));
    }
}

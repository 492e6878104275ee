//! The configuration file: TOML text in; out comes a checked [`Config`], or one sentence about what is wrong and where.
//!
//! Every default stands here, in `Config::default`; `config/meshseed.toml` explains the same to users. Keys of parts
//! that do not exist yet are unknown keys. Holds the few strings of one file.

mod entry;
mod toml;

use std::ffi::OsStr;
use std::fmt::{Display, Write};
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use log::LevelFilter;

use entry::{Entry, absolute, host_and_port, interface, local, ports, tracker_url};
use toml::{Reader, Value};

pub use entry::Error;

/// Bytes of a socket's path that the kernel takes (`sun_path`, less the closing zero).
const MAX_SOCKET_PATH: usize = 107;

/// Every key, in the order of `config/meshseed.toml`.
const KEYS: [&str; 42] = [
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
    "listen.interfaces",
    "limits.upload",
    "limits.download",
    "limits.local-upload",
    "limits.local-download",
    "limits.local",
    "limits.peers",
    "limits.peers-per-torrent",
    "limits.uploads",
    "limits.uploads-per-torrent",
    "limits.open-files",
    "limits.dials-per-second",
    "limits.memory",
    "disk.free-floor",
    "disk.preallocate",
    "disk.require-mount",
    "trackers.enabled",
    "trackers.also",
    "dht.enabled",
    "dht.bootstrap",
    "dht.read-only",
    "dht.router",
    "lpd.enabled",
    "lpd.interfaces",
    "lpd.hops",
    "seed.superseed",
    "pex.enabled",
    "webseeds.enabled",
    "log.to",
    "log.level",
    "ubus.enabled",
    "ubus.socket",
];

/// The sections among them.
const SECTIONS: [&str; 11] =
    ["listen", "limits", "disk", "trackers", "dht", "lpd", "seed", "pex", "webseeds", "log", "ubus"];

/// The configuration, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The watched trees of .torrent and .magnet files, absolute; at least one.
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
    /// `[disk]`
    pub disk: Disk,
    /// `[trackers]`
    pub trackers: Trackers,
    /// `[dht]`
    pub dht: Dht,
    /// `[lpd]`
    pub lpd: Lpd,
    /// `[seed]`
    pub seed: Seed,
    /// `[pex]`
    pub pex: Pex,
    /// `[webseeds]`
    pub webseeds: WebSeeds,
    /// `[log]`
    pub log: Log,
    /// `[ubus]`
    pub ubus: Ubus,
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
    /// Those of them that are ours at the time. Empty, and no interfaces: every address of both families.
    pub addresses: Vec<IpAddr>,
    /// By name: all addresses that they have at the time.
    pub interfaces: Vec<String>,
}

/// What is refused rather than exceeded. A rate of 0 is no limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// To peers that are not local, bytes a second.
    pub upload: u64,
    /// From whom is not local, web seeds among them, bytes a second.
    pub download: u64,
    /// To local peers, bytes a second.
    pub local_upload: u64,
    /// From local peers, bytes a second.
    pub local_download: u64,
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

/// How the disk is treated that content is fetched to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Disk {
    /// Bytes that stay free: nothing is written that would leave less.
    pub free_floor: u64,
    /// A file takes all its room before its first byte is fetched.
    pub preallocate: bool,
    /// Where nothing is written at all.
    pub require_mount: RequireMount,
}

/// Which file systems are refused, so that a disk that is not mounted does not fill a router's flash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequireMount {
    /// The one that holds `/overlay`.
    Auto,
    /// The root file system, and those that lie in memory.
    Always,
    /// None.
    Never,
}

/// Trackers beside what the torrents say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trackers {
    /// Whether any tracker is asked.
    pub enabled: bool,
    /// URLs added to every torrent that is not private.
    pub also: Vec<String>,
}

/// The distributed hash table (BEP 5).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dht {
    /// Whether we are a node of it.
    pub enabled: bool,
    /// Nodes that are asked while we know too few, `host:port`.
    pub bootstrap: Vec<String>,
    /// Asks and is not asked (BEP 43).
    pub read_only: bool,
    /// Gives contacts and nothing else.
    pub router: bool,
}

/// Local Peer Discovery (BEP 14).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lpd {
    /// Whether neighbours are told and heard.
    pub enabled: bool,
    /// By name; empty: all that know multicast, but loopback.
    pub interfaces: Vec<String>,
    /// Routers that a packet passes, itself counted.
    pub hops: u8,
}

/// How what we have is given away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seed {
    /// A torrent that nobody else has is given out a piece at a time (BEP 16).
    pub superseed: bool,
}

/// Peer exchange (BEP 11).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pex {
    /// Whether peers tell each other of peers.
    pub enabled: bool,
}

/// Web servers that have a torrent's content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WebSeeds {
    /// Whether those that a torrent names are asked.
    pub enabled: bool,
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

/// OpenWrt's bus.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ubus {
    /// Whether our object is there.
    pub enabled: bool,
    /// Path of its socket; `None`: where OpenWrt has it.
    pub socket: Option<PathBuf>,
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
            listen: Listen { port: 6881..=6889, addresses: Vec::new(), interfaces: Vec::new() },
            limits: Limits {
                upload: 0,
                download: 0,
                local_upload: 0,
                local_download: 0,
                local: vec!["on-link".to_owned()],
                peers: 200,
                peers_per_torrent: 40,
                uploads: 24,
                uploads_per_torrent: 6,
                open_files: 32,
                dials_per_second: 5,
                memory: 16 << 20,
            },
            disk: Disk::default(),
            trackers: Trackers { enabled: true, also: Vec::new() },
            dht: Dht {
                enabled: true,
                bootstrap: ["dht.libtorrent.org:25401", "router.bittorrent.com:6881"]
                    .map(str::to_owned)
                    .into(),
                read_only: false,
                router: false,
            },
            lpd: Lpd { enabled: true, interfaces: Vec::new(), hops: 1 },
            seed: Seed { superseed: false },
            pex: Pex { enabled: true },
            webseeds: WebSeeds { enabled: true },
            log: Log { to: LogTo::Syslog, level: LevelFilter::Info },
            ubus: Ubus { enabled: true, socket: None },
        }
    }
}

impl Default for Disk {
    fn default() -> Disk {
        Disk { free_floor: 64 << 20, preallocate: false, require_mount: RequireMount::Auto }
    }
}

impl Config {
    /// The configuration that a file's text means; what it does not name stands at its default.
    pub fn parse(text: &str) -> Result<Config, Error> {
        let mut reader = Reader::new(text);
        let mut config = Config::default();
        while let Some((line, mut key, mut value)) = reader.next()? {
            let (section, name) = key.split_once('.').unwrap_or((&key, ""));
            if !SECTIONS.contains(&section) {
                if !name.is_empty() {
                    value = Value::Section;
                }
                key.truncate(section.len());
            } else if name.is_empty() && value == Value::Section {
                continue;
            } else if name.is_empty() {
                let reason = format!("this is a section, begun by a line [{section}]");
                return Err(Error { line, key, reason });
            }
            config.set(&Entry { key, line, value })?;
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
        let mut line = |key: &str, meaning: String| explain(&mut text, key, meaning);
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
            match &self.listen {
                listen if listen.is_everywhere() => "all".to_owned(),
                listen => or_none(&listen.addresses),
            },
        );
        line(
            "listen.interfaces",
            if self.listen.is_everywhere() { "all".to_owned() } else { or_none(&self.listen.interfaces) },
        );
        let limits = &self.limits;
        line("limits.upload", rate_text(limits.upload));
        line("limits.download", rate_text(limits.download));
        line("limits.local-upload", rate_text(limits.local_upload));
        line("limits.local-download", rate_text(limits.local_download));
        line("limits.local", or_none(&limits.local));
        line("limits.peers", limits.peers.to_string());
        line("limits.peers-per-torrent", limits.peers_per_torrent.to_string());
        line("limits.uploads", limits.uploads.to_string());
        line("limits.uploads-per-torrent", limits.uploads_per_torrent.to_string());
        line("limits.open-files", limits.open_files.to_string());
        line("limits.dials-per-second", limits.dials_per_second.to_string());
        line("limits.memory", format!("{} bytes", limits.memory));
        line("disk.free-floor", floor_text(self.disk.free_floor));
        line("disk.preallocate", yes_or_no(self.disk.preallocate));
        line("disk.require-mount", self.disk.require_mount.explain().to_owned());
        line("trackers.enabled", yes_or_no(self.trackers.enabled));
        line("trackers.also", or_none(&self.trackers.also));
        line("dht.enabled", yes_or_no(self.dht.enabled));
        line("dht.bootstrap", or_none(&self.dht.bootstrap));
        line("dht.read-only", yes_or_no(self.dht.read_only));
        line("dht.router", yes_or_no(self.dht.router));
        line("lpd.enabled", yes_or_no(self.lpd.enabled));
        line(
            "lpd.interfaces",
            if self.lpd.interfaces.is_empty() {
                "all that know multicast".to_owned()
            } else {
                list(self.lpd.interfaces.iter())
            },
        );
        line("lpd.hops", self.lpd.hops.to_string());
        line("seed.superseed", yes_or_no(self.seed.superseed));
        line("pex.enabled", yes_or_no(self.pex.enabled));
        line("webseeds.enabled", yes_or_no(self.webseeds.enabled));
        line("log.to", if self.log.to == LogTo::Syslog { "syslog" } else { "stderr" }.to_owned());
        line("log.level", self.log.level.as_str().to_ascii_lowercase());
        line("ubus.enabled", yes_or_no(self.ubus.enabled));
        let socket = self.ubus.socket.as_ref().map(|path| path.display().to_string());
        line("ubus.socket", socket.unwrap_or_else(|| "where OpenWrt has it".to_owned()));
        text
    }

    fn set(&mut self, entry: &Entry) -> Result<(), Error> {
        match entry.key.as_str() {
            "torrents" => {
                self.torrents = entry.texts(absolute)?.into_iter().map(PathBuf::from).collect();
                if self.torrents.is_empty() {
                    Err(entry.refuse("name at least one directory"))
                } else {
                    Ok(())
                }
            }
            "data" => entry.path(&mut self.data),
            "layout" => {
                let choices = [
                    ("torrent", SaveAs::Torrent),
                    ("name", SaveAs::Name),
                    ("both", SaveAs::Both),
                    ("auto", SaveAs::Auto),
                ];
                entry.choice(&mut self.layout, &choices)
            }
            "state" => entry.path(&mut self.state),
            "rescan" => {
                let seconds = entry.number(1..=86_400)?;
                self.rescan = Duration::from_secs(seconds.into());
                Ok(())
            }
            "control" => {
                self.control = socket(entry)?.ok_or_else(|| entry.refuse("the socket needs a path"))?;
                Ok(())
            }
            "user" => {
                let name = entry.text()?;
                if name.contains(|c: char| c.is_whitespace() || c.is_control() || c == ':' || c == '/') {
                    return Err(entry.refuse("this is no user's name; \"\" stays the user as started"));
                }
                self.user = (!name.is_empty()).then(|| name.to_owned());
                Ok(())
            }
            "peers" => entry.list(&mut self.peers, host_and_port),
            "listen.port" => entry.ports(&mut self.listen.port),
            "listen.addresses" => {
                let texts = entry.texts(|text| {
                    text.parse::<IpAddr>()
                        .is_err()
                        .then_some("an address such as \"192.168.1.1\" or \"fd00::1\"")
                })?;
                self.listen.addresses = texts.iter().filter_map(|text| text.parse().ok()).collect();
                Ok(())
            }
            "listen.interfaces" => entry.list(&mut self.listen.interfaces, interface),
            "limits.upload" => entry.rate(&mut self.limits.upload),
            "limits.download" => entry.rate(&mut self.limits.download),
            "limits.local-upload" => entry.rate(&mut self.limits.local_upload),
            "limits.local-download" => entry.rate(&mut self.limits.local_download),
            "limits.local" => entry.list(&mut self.limits.local, local),
            "limits.peers" => entry.count(&mut self.limits.peers, 1..=65_535),
            "limits.peers-per-torrent" => entry.count(&mut self.limits.peers_per_torrent, 1..=65_535),
            "limits.uploads" => entry.count(&mut self.limits.uploads, 1..=65_535),
            "limits.uploads-per-torrent" => entry.count(&mut self.limits.uploads_per_torrent, 1..=65_535),
            "limits.open-files" => entry.count(&mut self.limits.open_files, 1..=65_535),
            "limits.dials-per-second" => entry.count(&mut self.limits.dials_per_second, 1..=1000),
            "limits.memory" => {
                entry.size(&mut self.limits.memory, 1 << 20, "a size of at least \"1M\", such as \"16M\"")
            }
            "disk.free-floor" => {
                let right = "a size such as \"64M\", \"1.5G\" or \"0\" (none)";
                entry.size(&mut self.disk.free_floor, 0, right)
            }
            "disk.preallocate" => entry.flag(&mut self.disk.preallocate),
            "disk.require-mount" => {
                self.disk.require_mount = match entry.flag_or("auto")? {
                    None => RequireMount::Auto,
                    Some(true) => RequireMount::Always,
                    Some(false) => RequireMount::Never,
                };
                Ok(())
            }
            "trackers.enabled" => entry.flag(&mut self.trackers.enabled),
            "trackers.also" => entry.list(&mut self.trackers.also, tracker_url),
            "dht.enabled" => entry.flag(&mut self.dht.enabled),
            "dht.bootstrap" => entry.list(&mut self.dht.bootstrap, host_and_port),
            "dht.read-only" => entry.flag(&mut self.dht.read_only),
            "dht.router" => entry.flag(&mut self.dht.router),
            "lpd.enabled" => entry.flag(&mut self.lpd.enabled),
            "lpd.interfaces" => entry.list(&mut self.lpd.interfaces, interface),
            "lpd.hops" => {
                self.lpd.hops = u8::try_from(entry.number(1..=255)?).unwrap_or(u8::MAX);
                Ok(())
            }
            "seed.superseed" => entry.flag(&mut self.seed.superseed),
            "pex.enabled" => entry.flag(&mut self.pex.enabled),
            "webseeds.enabled" => entry.flag(&mut self.webseeds.enabled),
            "log.to" => {
                entry.choice(&mut self.log.to, &[("syslog", LogTo::Syslog), ("stderr", LogTo::Stderr)])
            }
            "log.level" => {
                let choices = [
                    ("error", LevelFilter::Error),
                    ("warn", LevelFilter::Warn),
                    ("info", LevelFilter::Info),
                    ("debug", LevelFilter::Debug),
                ];
                entry.choice(&mut self.log.level, &choices)
            }
            "ubus.enabled" => entry.flag(&mut self.ubus.enabled),
            "ubus.socket" => {
                self.ubus.socket = socket(entry)?;
                Ok(())
            }
            _ => Err(unknown(entry)),
        }
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

impl RequireMount {
    fn explain(self) -> &'static str {
        match self {
            RequireMount::Auto => "nothing is written to the file system that holds /overlay",
            RequireMount::Always => "nothing is written to the root file system or into memory",
            RequireMount::Never => "every file system is written to",
        }
    }
}

impl Listen {
    /// On every address of both families.
    pub fn is_everywhere(&self) -> bool {
        self.addresses.is_empty() && self.interfaces.is_empty()
    }
}

impl FromStr for Listen {
    type Err = String;

    /// `ADDR:PORT`, where the port may be a range and the address may be left out.
    fn from_str(text: &str) -> Result<Listen, String> {
        let wrong = || format!("\"{text}\" is not ADDR:PORT, such as 10.0.0.7:6881, [::]:6881-6889 or :0");
        let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
        let port = ports(port).ok_or_else(wrong)?;
        if host.is_empty() {
            return Ok(Listen { port, addresses: Vec::new(), interfaces: Vec::new() });
        }
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        Ok(Listen { port, addresses: vec![bare.parse().map_err(|_| wrong())?], interfaces: Vec::new() })
    }
}

/// The path of a socket, or `None` for "".
fn socket(entry: &Entry) -> Result<Option<PathBuf>, Error> {
    let mut path = None;
    entry.path(&mut path)?;
    if path.as_ref().is_some_and(|path| path.as_os_str().len() > MAX_SOCKET_PATH) {
        return Err(entry.refuse(&format!("a socket's path has at most {MAX_SOCKET_PATH} bytes")));
    }
    Ok(path)
}

fn list(items: impl Iterator<Item = impl Display>) -> String {
    items.map(|item| item.to_string()).collect::<Vec<_>>().join(", ")
}

fn or_none(items: &[impl Display]) -> String {
    if items.is_empty() { "none".to_owned() } else { list(items.iter()) }
}

/// A line of [`Config::explain`], which has forty.
#[inline(never)]
fn explain(text: &mut String, key: &str, meaning: String) {
    // A String takes every write.
    let _ = writeln!(text, "{key:<27} {meaning}");
}

fn rate_text(rate: u64) -> String {
    if rate == 0 { "no limit".to_owned() } else { format!("{rate} bytes a second") }
}

fn yes_or_no(flag: bool) -> String {
    if flag { "yes" } else { "no" }.to_owned()
}

fn floor_text(floor: u64) -> String {
    if floor == 0 { "a disk may be filled".to_owned() } else { format!("{floor} bytes of a disk stay free") }
}

/// What a key that is none of ours was most likely meant to be.
fn unknown(entry: &Entry) -> Error {
    let split = |key: &'static str| key.split_once('.').unwrap_or(("", key));
    let (section, name) = entry.key.split_once('.').unwrap_or(("", &entry.key));
    let here =
        || KEYS.iter().map(|key| split(key)).filter(|(place, _)| *place == section).map(|(_, key)| key);
    // Two slips of the finger, but not so many that any short word is near to any other.
    let near = |known: &&str| distance(name, known) <= 2.min(name.len() / 3);
    if let Some(known) = here().find(near) {
        return entry.refuse(&format!("unknown key; did you mean \"{known}\"?"));
    }
    if let Some(known) = SECTIONS.into_iter().find(|known| section.is_empty() && near(known)) {
        return entry.refuse(&format!("unknown section; did you mean [{known}]?"));
    }
    if let Some((place, _)) = KEYS.iter().map(|key| split(key)).find(|(_, key)| *key == name) {
        return entry.refuse(&match place {
            "" => "unknown key here; it stands above the first [section]".to_owned(),
            _ => format!("unknown key here; it stands in [{place}]"),
        });
    }
    let known = here().collect::<Vec<_>>().join(", ");
    entry.refuse(&match section {
        "" => {
            format!("unknown key or section; known are {known}, and the sections {}", SECTIONS.join(", "))
        }
        _ => format!("unknown key; known in [{section}] are {known}"),
    })
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
        let text = include_str!("../../config/meshseed.toml");
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
            listen.interfaces = ["br-lan"]
            limits = { upload = "1.5M", download = "2M", local-upload = "50k", local-download = 7, local = ["on-link", "10.0.0.0/8", "fd00::1"], peers = 1,
              peers-per-torrent = 2, uploads = 3, uploads-per-torrent = 4, open-files = 5, dials-per-second = 6,
              memory = "2.5M" }
            disk = { free-floor = "1.5G", preallocate = true, require-mount = true }
            trackers.enabled = false
            trackers.also = ["http://t/announce", "udp://[fd00::1]:6969"]
            dht = { enabled = false, bootstrap = ["10.0.0.1:6881", "dht.mesh:1"], read-only = true, router = true }
            lpd = { enabled = false, interfaces = ["br-lan", "wg0"], hops = 3 }
            seed.superseed = true
            pex.enabled = false
            webseeds.enabled = false
            log.to = "stderr"
            log.level = "debug"
            ubus = { enabled = false, socket = "/run/ubus" }
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
                interfaces: vec!["br-lan".into()],
            },
            limits: Limits {
                upload: 1_500_000,
                download: 2_000_000,
                local_upload: 50_000,
                local_download: 7,
                local: vec!["on-link".into(), "10.0.0.0/8".into(), "fd00::1".into()],
                peers: 1,
                peers_per_torrent: 2,
                uploads: 3,
                uploads_per_torrent: 4,
                open_files: 5,
                dials_per_second: 6,
                memory: 2_621_440,
            },
            disk: Disk { free_floor: 3 << 29, preallocate: true, require_mount: RequireMount::Always },
            trackers: Trackers {
                enabled: false,
                also: vec!["http://t/announce".into(), "udp://[fd00::1]:6969".into()],
            },
            dht: Dht {
                enabled: false,
                bootstrap: vec!["10.0.0.1:6881".into(), "dht.mesh:1".into()],
                read_only: true,
                router: true,
            },
            lpd: Lpd { enabled: false, interfaces: vec!["br-lan".into(), "wg0".into()], hops: 3 },
            seed: Seed { superseed: true },
            pex: Pex { enabled: false },
            webseeds: WebSeeds { enabled: false },
            log: Log { to: LogTo::Stderr, level: LevelFilter::Debug },
            ubus: Ubus { enabled: false, socket: Some("/run/ubus".into()) },
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
        let long = refused("[trackers]\nbehind = 1");
        assert_eq!(long, "line 2: trackers.behind: unknown key; known in [trackers] are enabled, also");
        assert!(
            refused("[proxy]\nenabled = true")
                .starts_with("line 1: proxy: unknown key or section; known are torrents")
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
            (
                "disk.free-floor = -1",
                "disk.free-floor: \"-1\" is not a size such as \"64M\", \"1.5G\" or \"0\" (none)",
            ),
            (
                "disk.require-mount = \"true\"",
                "disk.require-mount: \"true\" is not \"auto\", or true or false without quotes",
            ),
            (
                "disk.require-mount = 1",
                "disk.require-mount: expected \"auto\", or true or false without quotes, not a number",
            ),
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
            ("listen.interfaces", &["[\"br lan\"]", "\"lan\""]),
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
            ("disk.free-floor", &["\"\"", "\"some\"", "true", "\"64MB\""]),
            ("disk.preallocate", &["\"no\"", "0"]),
            (
                "trackers.also",
                &["[\"ftp://a\"]", "[\"http://\"]", "[\"http://a b\"]", "[\"http:///announce\"]"],
            ),
            (
                "lpd.interfaces",
                &["[\"\"]", "[\"br lan\"]", "[\"a/b\"]", "[\"longer-than-fifteen\"]", "\"lan\""],
            ),
            ("dht.bootstrap", &["[\"router\"]", "\"router:1\"", "[\"router:0\"]"]),
            ("dht.read-only", &["\"yes\"", "1"]),
            ("lpd.hops", &["0", "256", "\"1\""]),
            ("log.level", &["\"trace\"", "\"\""]),
            ("user", &["\"a:b\"", "\"a b\""]),
            ("control", &["\"run/x\""]),
        ] {
            for value in values {
                let error = Config::parse(&format!("{key} = {value}")).expect_err(value);
                assert_eq!((error.line, error.key.as_str()), (1, key), "{value}");
            }
        }
        for key in ["control", "ubus.socket"] {
            assert!(Config::parse(&format!("{key} = \"/{}\"", "x".repeat(107))).is_err());
        }
        assert!(Config::parse(&format!("peers = [{}]", "\"a:1\",".repeat(65))).is_err());
    }

    #[test]
    fn what_is_no_toml_is_refused_with_its_line() {
        assert!(refused("rescan = 1\n\nlog = {").starts_with("line 3: "));
        assert!(refused("rescan = 1\nrescan = 2").starts_with("line 2: "));
        assert!(refused("a\u{0}b").starts_with("line 1: "));
        for end in 0..700 {
            // Whatever is cut off: no panic.
            let text = include_str!("../../config/meshseed.toml");
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
    fn a_mount_is_required_by_itself_always_or_never() {
        let read = |value: &str| {
            Config::parse(&format!("[disk]\nrequire-mount = {value}")).unwrap().disk.require_mount
        };
        assert_eq!(
            [read("\"auto\""), read("true"), read("false")],
            [RequireMount::Auto, RequireMount::Always, RequireMount::Never]
        );
    }

    #[test]
    fn the_explanation_has_a_line_for_every_key() {
        let text = Config::default().explain();
        let keys: Vec<&str> = text.lines().filter_map(|line| line.split_whitespace().next()).collect();
        assert_eq!(keys, KEYS);
        assert!(text.contains("limits.upload               no limit\n"));
    }
}

//! The options that say what a torrent holds, for every command that makes one.
//!
//! Read first: `metainfo/maker/mod.rs`. Omits what each command does with the torrent.
#![expect(clippy::disallowed_methods, reason = "I/O shell")]

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::progress::Progress;
use crate::cli::arguments::{Arg, Parser};
use crate::cli::daemon::configured;
use crate::clock::time_of_day;
use crate::dht::Saved;
use crate::metainfo::io;
use crate::metainfo::maker::io::{CreateOptions, Created, Error, create};
use crate::metainfo::maker::{Format, Glob, MAX_ASKED_PIECE, MIN_PIECE, Options, ignored};
use crate::metainfo::{self, InfoHash, is_host, url};
use crate::status::io::ask;
use crate::status::{Method, Value};

/// The options that say what a torrent holds, for every command that makes one.
pub const MAKER_HELP: &str = "\
\x20 -a, --announce URL     tracker; again for a further tier, with commas for one tier
  -w, --web-seed URL     web server that has the file, or with / at its end the folder
                         that has it by its name (BEP 19); again for more
      --http-seed URL    script that has the content (BEP 17); again for more
      --node HOST:PORT   DHT node, for a torrent without tracker; again for more
      --trackerless      without tracker, with the best DHT nodes of the daemon: of the
                         running one, else those that it saved
      --control SOCKET   its control socket (default: what its configuration says)
      --state DIR        where it saved them, without asking the running one
  -p, --private          peers from the trackers alone
      --source S         whom it is for: gives the same content another info-hash
      --comment S        free text
      --similar HASH     info-hash of a torrent with the same files (BEP 38); again for
                         more
      --collection NAME  torrents of one name may share files (BEP 38); again for more
      --update-url URL   where a newer torrent will be (BEP 39)
      --format F         v1, which every client knows; hybrid, v1 and v2 in one, which
                         aria2 and Transmission 3 do not read; v2 alone; merkle,
                         a small .torrent that few clients know (BEP 30) (default v1)
      --piece-size N     bytes of a piece, with k or M: a power of two from 16k;
                         chosen for about 1500 pieces where it is not given
      --md5sum           the MD5 of each file, hashed by one thread (not with v2 alone)
      --attributes       which files are executable or hidden (BEP 47)
      --links            symbolic links as links (BEP 47); else they are left out
      --exclude GLOB     leave out what matches: a name (*.tmp) or a path (a/**/b)
      --include-hidden   take hidden names, CVS, core, Thumbs.db and desktop.ini
      --no-date          without the time of making: the same file every time
      --jobs N           threads that hash (1 to 16, default one a processor; 1 is best
                         for a spinning disk)
";

/// DHT nodes that a torrent gets: as many as mainline gave it.
const NODES: usize = 8;

/// The maker's options as they come in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MakerArgs {
    pub(super) options: Options,
    trackerless: bool,
    /// The daemon's control socket, as it was named.
    pub control: Option<PathBuf>,
    state: Option<PathBuf>,
    pub(super) date: bool,
    pub(super) jobs: usize,
}

impl Default for MakerArgs {
    fn default() -> MakerArgs {
        let created_by = Some(concat!("meshseed/", env!("CARGO_PKG_VERSION")).to_owned());
        let options = Options { created_by, ..Options::default() };
        MakerArgs {
            options,
            trackerless: false,
            control: None,
            state: None,
            date: true,
            jobs: super::cores(),
        }
    }
}

impl MakerArgs {
    /// Takes an option and its value from the parser; one that is none of these is an error.
    pub fn take_or_refuse(&mut self, option: &Named, parser: &mut Parser) -> Result<(), String> {
        if self.take(&option.0, parser)? { Ok(()) } else { Err(option.unexpected()) }
    }

    /// Which hashes the torrent will carry.
    pub fn format(&self) -> Format {
        self.options.format
    }

    /// Whether a name is left out of a folder.
    pub fn leaves_out(&self, name: &str) -> bool {
        let Options { include_hidden, exclude, .. } = &self.options;
        (!include_hidden && ignored(name.as_bytes())) || exclude.iter().any(|glob| glob.matches(name))
    }

    /// Takes an option, without its dashes, and its value from the parser. False where it is none of these.
    fn take(&mut self, option: &str, parser: &mut Parser) -> Result<bool, String> {
        let options = &mut self.options;
        match option {
            "announce" | "a" => {
                let tier = parser.text()?;
                options.trackers.push(split_urls(&tier).map(checked).collect::<Result<_, _>>()?);
            }
            "web-seed" | "w" => options.web_seeds.push(web(parser, "a web seed")?),
            "http-seed" => options.http_seeds.push(web(parser, "an HTTP seed")?),
            "node" => {
                let node = parser.text()?;
                options.nodes.push(host_port(&node).ok_or_else(|| format!("{node}: a node is HOST:PORT"))?);
            }
            "trackerless" => self.trackerless = true,
            "control" => self.control = Some(PathBuf::from(parser.value()?)),
            "state" => self.state = Some(PathBuf::from(parser.value()?)),
            "private" | "p" => options.private = true,
            "source" => options.source = Some(parser.text()?),
            "comment" => options.comment = Some(parser.text()?),
            "similar" => options.similar.push(*parser.text()?.parse::<InfoHash>()?.as_bytes()),
            "collection" => options.collections.push(parser.text()?),
            "update-url" => options.update_url = Some(web(parser, "an update URL")?),
            "piece-size" => {
                let size = parser.text()?;
                let piece = piece_size(&size);
                options.piece_length = Some(
                    piece
                        .ok_or_else(|| format!("{size}: a piece size is a power of two from 16k to 128M"))?,
                );
            }
            "format" => {
                options.format = match parser.text()?.as_str() {
                    "v1" => Format::V1,
                    "hybrid" => Format::Hybrid,
                    "v2" => Format::V2,
                    "merkle" => Format::Merkle,
                    other => {
                        return Err(format!("{other}: not a format (v1, hybrid, v2, merkle)"));
                    }
                }
            }
            "md5sum" => options.md5 = true,
            "attributes" => options.attributes = true,
            "links" => options.links = true,
            "exclude" => options.exclude.push(Glob::new(&parser.text()?)),
            "include-hidden" => options.include_hidden = true,
            "no-date" => self.date = false,
            "jobs" => self.jobs = super::jobs(parser)?,
            _ => return Ok(false),
        }
        if self.trackerless && !self.options.trackers.is_empty() {
            return Err("--trackerless and --announce exclude each other".into());
        }
        Ok(true)
    }

    /// Makes the torrent of `path`, with a progress bar.
    pub fn create(self, path: &Path, quiet: bool) -> Result<Created, Error> {
        let mut maker = self.options;
        if self.trackerless {
            // Those that the user names come first.
            let most = NODES.saturating_sub(maker.nodes.len());
            maker.nodes.extend(known_nodes(self.control, self.state, most)?);
            if maker.nodes.is_empty() {
                return Err(Error::Nodes("there are none yet: name one with --node".to_owned()));
            }
        }
        // A clock that is plainly unset, as routers have it after power comes, is not worth writing down.
        let now = time_of_day(SystemTime::now()).filter(|_| self.date);
        maker.creation_date = now.and_then(|now| now.try_into().ok());
        let mut progress = Progress::new("hashing", quiet);
        let options = CreateOptions { path: path.to_owned(), maker, jobs: self.jobs };
        create(&options, &mut |done, total| progress.update(done, total))
    }
}

/// DHT nodes that the daemon knows to be good or, where none is asked or answers, knew when it saved them: the best first,
/// of either family.
fn known_nodes(
    control: Option<PathBuf>,
    state: Option<PathBuf>,
    most: usize,
) -> Result<Vec<(String, u16)>, Error> {
    let configured = || configured(None).map_err(Error::Nodes);
    let mut nodes = Vec::new();
    if state.is_none() {
        let control = control.map_or_else(|| configured().map(|config| config.control), Ok)?;
        let known = ask(&control, &Method::Nodes).unwrap_or(Value::Null);
        nodes.extend(
            known.field("nodes").list().iter().filter_map(|node| node.text().parse::<SocketAddr>().ok()),
        );
    }
    if nodes.is_empty() {
        let state = state.map_or_else(|| configured().map(|config| config.state), |state| Ok(Some(state)))?;
        // No file is as good as an empty one: a daemon that has just begun has saved none.
        let saved = state.and_then(|state| io::read(&state.join("dht")).ok());
        nodes = saved.and_then(|bytes| Saved::decode(&bytes)).map_or(Vec::new(), |saved| saved.nodes);
    }
    let (v4, v6): (Vec<SocketAddr>, Vec<SocketAddr>) = nodes.into_iter().partition(SocketAddr::is_ipv4);
    let both = (0..most).flat_map(|i| [v4.get(i), v6.get(i)]).flatten();
    Ok(both.take(most).map(|node| (node.ip().to_string(), node.port())).collect())
}

/// An option by its name, without the dashes: free of the parser, which its value is to be taken from.
pub struct Named(String);

impl Named {
    /// Of an argument; a value where none is expected is an error.
    pub fn of(arg: Arg<'_>) -> Result<Named, String> {
        match arg {
            Arg::Long(name) => Ok(Named(name.to_owned())),
            Arg::Short(letter) => Ok(Named(letter.to_string())),
            value @ Arg::Value(_) => Err(value.unexpected()),
        }
    }

    fn unexpected(&self) -> String {
        let mut letters = self.0.chars();
        match (letters.next(), letters.next()) {
            (Some(letter), None) => Arg::Short(letter).unexpected(),
            _ => Arg::Long(&self.0).unexpected(),
        }
    }
}

/// At commas that a further URL follows: a comma may stand inside one.
fn split_urls(tier: &str) -> impl Iterator<Item = &str> {
    let mut rest = Some(tier);
    std::iter::from_fn(move || {
        let tier = rest?;
        let cut = tier.match_indices(',').map(|(at, _)| at).find(|at| {
            let scheme = tier[at + 1..].trim_start().split("://").next().unwrap_or_default();
            !scheme.is_empty()
                && scheme.len() < tier[at + 1..].trim_start().len()
                && scheme.bytes().all(|b| b.is_ascii_alphanumeric())
        });
        let (url, after) = cut.map_or((tier, None), |at| (&tier[..at], Some(&tier[at + 1..])));
        rest = after;
        Some(url)
    })
}

/// A value that is a URL of the web.
fn web(parser: &mut Parser, what: &str) -> Result<String, String> {
    let url = checked(&parser.text()?)?;
    if metainfo::web(&url) { Ok(url) } else { Err(format!("{url}: {what} is an http or https URL")) }
}

fn checked(text: &str) -> Result<String, String> {
    url(text.as_bytes()).map_err(|_| format!("{text}: not a URL"))
}

/// `host:port`, `[v6]:port`.
fn host_port(text: &str) -> Option<(String, u16)> {
    let (host, port) = text.rsplit_once(':')?;
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let port = port.parse().ok().filter(|port| *port != 0)?;
    is_host(bare).then(|| (bare.to_owned(), port))
}

/// `256k`, `1M`, `262144`.
fn piece_size(text: &str) -> Option<u32> {
    let text = text.strip_suffix("iB").unwrap_or(text).trim_end_matches('B');
    let (digits, unit) = match text.strip_suffix(['k', 'K']) {
        Some(digits) => (digits, 1024),
        None => text.strip_suffix('M').map_or((text, 1), |digits| (digits, 1 << 20)),
    };
    let piece = digits.trim().parse::<u32>().ok()?.checked_mul(unit)?;
    (piece.is_power_of_two() && (MIN_PIECE..=MAX_ASKED_PIECE).contains(&piece)).then_some(piece)
}

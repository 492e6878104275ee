//! `meshseed share`: makes a torrent of a file or folder and serves it where it lies, by the running daemon or here.
//!
//! The content is read once: the sidecar says to the daemon of which files the pieces were hashed (see
//! [`crate::storage::io::hashed`]), the record says it to one that runs here. Omits formats that are not served.
#![expect(clippy::disallowed_methods, reason = "I/O shell")]

use std::fs::{self, Metadata};
use std::io::{ErrorKind, IsTerminal};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use log::LevelFilter;
use nix::sys::signal::{Signal, raise};

use super::options::{MAKER_HELP, MakerArgs, Named};
use crate::cli::arguments::{Arg, Parser};
use crate::cli::output;
use crate::cli::progress::View;
use crate::cli::status::socket;
use crate::config::{Config, Listen, LogTo};
use crate::daemon::Report;
use crate::have::Have;
use crate::metainfo::magnet::Magnet;
use crate::metainfo::maker::io::Created;
use crate::metainfo::maker::{Entry, Format};
use crate::metainfo::{self, File, InfoHash, Metainfo, io};
use crate::status::io::ask;
use crate::status::{Method, Status, Value};
use crate::storage::io::{hashed, remember};
use crate::storage::resume::{Record, Stamp, Verified};

const HELP: &str = "\
meshseed share PATH [OPTION]...

Makes a torrent of a file or folder and serves it where it lies; the content is
only read, and only once. Where the daemon runs, it serves it from now on: the
.torrent goes into its first watched directory, with a file NAME.where beside it
that says where the content is. Else this command serves it until Ctrl-C.
Prints the magnet link.

      --into DIR         the watched directory to put the .torrent into
      --listen ADDR:PORT listen here (when no daemon runs); PORT may be a range
  -q, --quiet            print the magnet link alone
      --help
";

const EXAMPLE: &str = "
Only v1 and hybrid torrents are served. Exit status: 0 done, 1 failed, 2 wrong
usage.

Examples:
  meshseed share ~/openwrt-24.10-images
  meshseed share -q --no-date /srv/music > music.magnet
";

/// For the daemon to take what was handed over: more than a scan of a slow disk takes.
const PATIENCE: Duration = Duration::from_secs(5);

/// Between two questions whether it has.
const PERIOD: Duration = Duration::from_millis(50);

/// Bytes of a name that leave room for its ending.
const MAX_NAME: usize = 240;

struct Args {
    path: PathBuf,
    into: Option<PathBuf>,
    listen: Option<Listen>,
    quiet: bool,
    maker: MakerArgs,
}

/// The command.
pub fn run(parser: Parser) -> ExitCode {
    match Args::take(parser) {
        Ok(None) => output::print(&format!("{HELP}{MAKER_HELP}{EXAMPLE}")),
        Ok(Some(args)) => match args.share() {
            Ok(code) => code,
            Err(error) => output::failed("share", &error),
        },
        Err(error) => output::wrong_usage("share", &error),
    }
}

impl Args {
    /// `None` where help is asked for.
    fn take(mut parser: Parser) -> Result<Option<Args>, String> {
        let (mut path, mut into, mut listen, mut quiet) = (None, None, None, false);
        let mut maker = MakerArgs::default();
        while let Some(arg) = parser.next()? {
            match arg {
                Arg::Long("help") | Arg::Short('h') => return Ok(None),
                Arg::Long("into") => into = Some(PathBuf::from(parser.value()?)),
                Arg::Long("listen") => listen = Some(parser.text()?.parse()?),
                Arg::Long("quiet") | Arg::Short('q') => quiet = true,
                Arg::Value(value) if path.is_none() => path = Some(PathBuf::from(value)),
                other => {
                    let option = Named::of(other)?;
                    maker.take_or_refuse(&option, &mut parser)?;
                }
            }
        }
        let path = path.ok_or("PATH is missing: the file or folder to share")?;
        if !matches!(maker.format(), Format::V1 | Format::Hybrid) {
            return Err("only v1 and hybrid torrents are served; `meshseed create` makes the others".into());
        }
        Ok(Some(Args { path, into, listen, quiet, maker }))
    }

    fn share(self) -> Result<ExitCode, String> {
        let path = self.path.canonicalize().map_err(|error| format!("{}: {error}", self.path.display()))?;
        if path.as_os_str().as_encoded_bytes().contains(&b'\n') {
            return Err(format!("{}: a path with a line break in it is not shared", path.display()));
        }
        // A configuration that cannot be read is as good as none: it names a daemon that may not run.
        let control = socket(self.maker.control.clone(), None).unwrap_or_default();
        // Said before an hour of hashing, not after it.
        self.place(ask(&control, &Method::Status).ok().as_ref())?;
        let created = self.maker.clone().create(&path, self.quiet).map_err(|error| error.to_string())?;
        created.warnings.iter().filter(|_| !self.quiet).for_each(output::note);
        let torrent =
            metainfo::parse(&created.bytes).map_err(|error| format!("{}: {error}", path.display()))?;
        let daemon = ask(&control, &Method::Status).ok();
        let into = self.place(daemon.as_ref())?;
        match (daemon, into) {
            (Some(daemon), Some(into)) => self.hand_over(&path, &torrent, &created, &control, &daemon, &into),
            (_, into) => self.serve(&path, &torrent, &created, into),
        }
    }

    /// The directory that the .torrent goes into: where a daemon runs there has to be one, and it has to be writable.
    fn place(&self, daemon: Option<&Value>) -> Result<Option<PathBuf>, String> {
        let first = daemon.and_then(|daemon| daemon.field("watched").list().first());
        let into = self.into.clone().or(first.map(|path| PathBuf::from(path.text())));
        match &into {
            Some(into) => io::writable(into).map_err(|error| error.to_string())?,
            None if daemon.is_some() => {
                return Err("the daemon watches no directory: name one with --into".to_owned());
            }
            None => {}
        }
        Ok(into)
    }

    /// Gives the torrent to the running daemon.
    fn hand_over(
        &self,
        path: &Path,
        torrent: &Metainfo,
        created: &Created,
        control: &Path,
        daemon: &Value,
        into: &Path,
    ) -> Result<ExitCode, String> {
        let written = drop_into(into, torrent, created, path)?;
        if let Some(hidden) = User::of(control).and_then(|user| user.cannot_read(path, torrent)) {
            output::note(format_args!(
                "warning: the daemon's user may not read {}: it can not serve that",
                hidden.display()
            ));
        }
        // Without inotify it is found at the next scan; this only hastens it.
        let _ = ask(control, &Method::Rescan);
        let state = taken(control, torrent.info_hash);
        if !self.quiet {
            output::note(format_args!("{}: {state}", written.display()));
        }
        let listen: Vec<String> =
            daemon.field("listen").list().iter().map(|address| address.text().to_owned()).collect();
        Ok(output::print(&format!("{}\n", with_peers(Magnet::from(torrent), &listen))))
    }

    /// Serves the torrent here until it is told to stop.
    fn serve(
        &self,
        path: &Path,
        torrent: &Metainfo,
        created: &Created,
        into: Option<PathBuf>,
    ) -> Result<ExitCode, String> {
        let own = Temporary::new()?;
        let watched = into.unwrap_or_else(|| own.0.clone());
        drop_into(&watched, torrent, created, path)?;
        let state = own.0.join("state");
        // Where it cannot be kept the daemon hashes all of it again, and nothing else is amiss.
        let _ = remember(state.clone(), record(torrent, stamps(torrent, &created.files)));
        let mut config = Config {
            torrents: vec![watched],
            data: None,
            state: Some(state),
            control: own.0.join("control.sock"),
            ..Config::default()
        };
        config.log.to = LogTo::Stderr;
        config.log.level = if self.quiet { LevelFilter::Warn } else { LevelFilter::Info };
        if let Some(listen) = &self.listen {
            config.listen = listen.clone();
        }
        crate::log::init(config.log.to, config.log.level);
        let (reload, terminal) = (config.clone(), std::io::stderr().is_terminal());
        let reload = move || {
            // There is no configuration to read again: its terminal was closed.
            let _ = terminal.then(|| raise(Signal::SIGTERM));
            Ok(reload.clone())
        };
        let mut view = View::new(self.quiet);
        let again = view.is_some();
        let mut magnet = Some(Magnet::from(torrent));
        let tell = move |status: &Status| match (magnet.take(), &mut view) {
            (Some(magnet), _) => drop(output::print(&format!("{}\n", with_peers(magnet, &status.listen)))),
            (None, Some(view)) => view.update(status),
            (None, None) => {}
        };
        let report = Report { tell: Box::new(tell), again };
        crate::daemon::run(config, Box::new(reload), Some(report)).map_err(|error| error.to_string())?;
        Ok(ExitCode::SUCCESS)
    }
}

/// How the running daemon has taken a torrent.
fn taken(control: &Path, info_hash: InfoHash) -> String {
    let until = Instant::now() + PATIENCE;
    let mut state = String::new();
    while Instant::now() < until {
        let answer = ask(control, &Method::Torrent(info_hash)).unwrap_or(Value::Null);
        let text = |key: &str| Some(answer.field(key).text().to_owned()).filter(|text| !text.is_empty());
        match (text("state"), text("reason")) {
            (Some(settled), _) if settled == "seeding" => return "the running daemon seeds it".to_owned(),
            (Some(error), Some(reason)) if error != "checking" => {
                return format!("the running daemon has taken it and does not seed it yet: {reason}");
            }
            (Some(other), _) => state = other,
            (None, _) => {}
        }
        std::thread::sleep(PERIOD);
    }
    match state.as_str() {
        "" => "the running daemon has not taken it yet; it must watch that directory".to_owned(),
        state => format!("the running daemon has taken it and is {state}"),
    }
}

/// The files as they were when they were hashed, as the daemon sees them: of padding and of empty files there is nothing.
fn stamps(torrent: &Metainfo, files: &[Entry]) -> Box<[Stamp]> {
    let stamp = |(listed, file): (&File, &Entry)| match (file.length, file.modified) {
        _ if listed.pad => Stamp::ABSENT,
        (0, _) => Stamp::ABSENT,
        (size, (mtime_secs, nanos)) => Stamp { size, mtime_secs, mtime_nanos: nanos.try_into().unwrap_or(0) },
    };
    torrent.files.iter().zip(files).map(stamp).collect()
}

/// What the maker knows: every piece is right, as long as the files are what they were.
fn record(torrent: &Metainfo, stamps: Box<[Stamp]>) -> Record {
    let pieces = torrent.lengths.piece_count();
    let verified = Verified { pieces, have: Have::All, todo: Have::None, stamps };
    Record { complete: true, verified: Some(verified), ..Record::new(torrent.info_hash) }
}

/// Adds where we are reached (`x.pe`, BEP 9): without a tracker nobody else could tell.
fn with_peers(mut magnet: Magnet, listen: &[String]) -> Magnet {
    let interfaces = crate::net::io::interfaces().unwrap_or_default();
    for address in listen.iter().filter_map(|address| address.parse::<SocketAddr>().ok()) {
        let every = address.ip().is_unspecified();
        let ours = interfaces.iter().map(|interface| interface.address).filter(|ip| {
            every && !ip.is_loopback() && !is_link_local(*ip) && (address.is_ipv6() || ip.is_ipv4())
        });
        let addresses: Vec<IpAddr> = if every { ours.collect() } else { vec![address.ip()] };
        magnet.peers.extend(addresses.iter().map(|ip| (ip.to_string(), address.port())));
    }
    magnet
}

/// Such an address means nothing without its interface.
fn is_link_local(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local())
}

/// Writes the .torrent and, before it, the sidecar that tells where its content is and as what it was hashed.
fn drop_into(
    directory: &Path,
    torrent: &Metainfo,
    created: &Created,
    data: &Path,
) -> Result<PathBuf, String> {
    let mut place = data.as_os_str().as_encoded_bytes().to_vec();
    let hint = hashed(&torrent.info_hash, &stamps(torrent, &created.files));
    place.extend_from_slice(format!("\n{hint}\n").as_bytes());
    loop {
        let (name, is_ours) = free_name(directory, torrent, data);
        let (file, sidecar) = (name.file(".torrent"), name.file(".where"));
        match io::save(&sidecar, &place, is_ours) {
            // Somebody else shares something of this name.
            Err(io::Error::Exists(_)) => continue,
            saved => saved.map_err(|error| error.to_string())?,
        }
        // The same content shared again is the same torrent: not an error.
        let saved = io::save(&file, &created.bytes, true);
        if saved.is_err() && !is_ours {
            let _ = fs::remove_file(&sidecar);
        }
        return saved.map(|()| file).map_err(|error| error.to_string());
    }
}

/// A name in a directory, to which endings belong.
struct Name(PathBuf);

impl Name {
    fn file(&self, ending: &str) -> PathBuf {
        let mut path = self.0.clone().into_os_string();
        path.push(ending);
        path.into()
    }
}

/// A name that no other torrent has there, nor what belongs to one; and whether it is ours already.
fn free_name(directory: &Path, torrent: &Metainfo, data: &Path) -> (Name, bool) {
    // A hidden name is not watched.
    let name = torrent.name.trim_start_matches('.');
    let name = if name.is_empty() { torrent.info_hash.to_string() } else { name.to_owned() };
    let name = &name[..name.floor_char_boundary(MAX_NAME)];
    let mut number = 1;
    loop {
        let suffix = if number > 1 { format!("-{number}") } else { String::new() };
        let name = Name(directory.join(format!("{name}{suffix}")));
        if [".torrent", ".where", ".magnet"].iter().all(|end| name.file(end).symlink_metadata().is_err()) {
            return (name, false);
        }
        let file = name.file(".torrent");
        // Of a pipe nothing may ever come.
        let other = file.metadata().ok().filter(Metadata::is_file).and_then(|_| io::read(&file).ok());
        let other = other.and_then(|bytes| metainfo::parse(&bytes).ok());
        let place = crate::storage::io::sidecar(&file).ok().flatten();
        if other.is_some_and(|other| other.info_hash == torrent.info_hash)
            || place.is_some_and(|place| place == data)
        {
            return (name, true);
        }
        number += 1;
    }
}

/// As whom the daemon runs.
struct User {
    uid: u32,
    gids: Vec<u32>,
}

impl User {
    /// Of the process that answers on its control socket; `None` for root and where the system does not tell.
    fn of(control: &Path) -> Option<User> {
        let socket = UnixStream::connect(control).ok()?;
        let pid = rustix::net::sockopt::socket_peercred(&socket).ok()?.pid;
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let numbers = |key: &str| -> Option<Vec<u32>> {
            let line = status.lines().find_map(|line| line.strip_prefix(key))?;
            line.split_ascii_whitespace().map(|number| number.parse().ok()).collect()
        };
        // Real, effective, saved, of the file system: that last one counts.
        let last = |key| numbers(key)?.last().copied();
        let mut gids = numbers("Groups:")?;
        gids.push(last("Gid:")?);
        // Root may read everything.
        Some(User { uid: last("Uid:")?, gids }).filter(|user| user.uid != 0)
    }

    /// Whether those bits (4 to read, 1 to pass through) are set for this user.
    fn may(&self, metadata: &Metadata, bits: u32) -> bool {
        let mode = metadata.mode();
        let shift = match (metadata.uid() == self.uid, self.gids.contains(&metadata.gid())) {
            (true, _) => 6,
            (false, true) => 3,
            (false, false) => 0,
        };
        mode >> shift & bits == bits
    }

    /// The first thing of a torrent at `path` that this user may not read, as far as modes tell.
    fn cannot_read(&self, path: &Path, torrent: &Metainfo) -> Option<PathBuf> {
        let refused = |path: &Path| {
            let metadata = fs::metadata(path).ok()?;
            let bits = if metadata.is_dir() { 1 } else { 4 };
            (!self.may(&metadata, bits)).then(|| path.to_owned())
        };
        let folders: Vec<&Path> = path.ancestors().skip(1).collect();
        let files = torrent.files.iter().filter(|file| !file.pad && file.length > 0);
        folders.iter().rev().find_map(|folder| refused(folder)).or_else(|| refused(path)).or_else(|| {
            files.filter(|file| !file.path.is_empty()).find_map(|file| {
                let way: Vec<&Path> = Path::new(&file.path).ancestors().collect();
                way.iter().rev().skip(1).find_map(|below| refused(&path.join(below)))
            })
        })
    }
}

/// A directory of our own, gone with us.
struct Temporary(PathBuf);

impl Temporary {
    fn new() -> Result<Temporary, String> {
        use std::os::unix::fs::DirBuilderExt;
        let mut number = 0;
        loop {
            let path = std::env::temp_dir().join(format!("meshseed-{}-{number}", std::process::id()));
            match fs::DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => return Ok(Temporary(path)),
                // What a killed one left whose process had our number.
                Err(error) if error.kind() == ErrorKind::AlreadyExists && number < 100 => number += 1,
                Err(error) => return Err(format!("{}: {error}", path.display())),
            }
        }
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

//! `meshseed share`: makes a torrent of a file or folder and serves it where it lies, by the running daemon or here.
#![expect(clippy::disallowed_methods, reason = "I/O shell")]

use std::ffi::OsString;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use lexopt::{Arg, Parser, ValueExt};
use log::LevelFilter;

use super::create::{MAKER_HELP, MakerArgs, Named};
use super::output;
use super::progress::View;
use super::status::socket;
use crate::config::{Config, Listen, LogTo};
use crate::daemon::Report;
use crate::have::Have;
use crate::metainfo::magnet::Magnet;
use crate::metainfo::maker::Entry;
use crate::metainfo::maker::io::Created;
use crate::metainfo::{self, Metainfo, io};
use crate::status::io::ask;
use crate::status::{Method, Status};
use crate::storage::io::remember;
use crate::storage::resume::{Record, Stamp, Verified};

const HELP: &str = "\
meshseed share PATH [OPTION]...

Makes a torrent of a file or folder and serves it where it lies; the content is
only read. Where the daemon runs, it serves it from now on: the .torrent goes
into its first watched directory, with a file NAME.where beside it that says
where the content is. Else this command serves it until Ctrl-C.

      --into DIR         the watched directory to put the .torrent into
      --listen ADDR:PORT listen here (when no daemon runs); PORT may be a range
      --control SOCKET   the daemon's control socket
  -q, --quiet            print the magnet link alone
      --help
";

const EXAMPLE: &str = "
Example:
  meshseed share ~/openwrt-24.10-images
";

struct Args {
    path: PathBuf,
    into: Option<PathBuf>,
    listen: Option<Listen>,
    control: Option<PathBuf>,
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
    fn take(mut parser: Parser) -> Result<Option<Args>, lexopt::Error> {
        let (mut path, mut into, mut listen, mut quiet) = (None, None, None, false);
        let mut control = None;
        let mut maker = MakerArgs::default();
        while let Some(arg) = parser.next()? {
            match arg {
                Arg::Long("help") | Arg::Short('h') => return Ok(None),
                Arg::Long("into") => into = Some(PathBuf::from(parser.value()?)),
                Arg::Long("listen") => listen = Some(parser.value()?.string()?.parse()?),
                Arg::Long("control") => control = Some(PathBuf::from(parser.value()?)),
                Arg::Long("quiet") | Arg::Short('q') => quiet = true,
                Arg::Value(value) if path.is_none() => path = Some(PathBuf::from(value)),
                other => {
                    let option = Named::of(other)?;
                    maker.take_or_refuse(&option, &mut parser)?;
                }
            }
        }
        let path = path.ok_or("PATH is missing: the file or folder to share")?;
        Ok(Some(Args { path, into, listen, control, quiet, maker }))
    }

    fn share(self) -> Result<ExitCode, String> {
        let path = self.path.canonicalize().map_err(|error| format!("{}: {error}", self.path.display()))?;
        let created = self.maker.clone().create(&path, self.quiet).map_err(|error| error.to_string())?;
        created.warnings.iter().filter(|_| !self.quiet).for_each(output::note);
        let torrent =
            metainfo::parse(&created.bytes).map_err(|error| format!("{}: {error}", path.display()))?;
        // A configuration that cannot be read is as good as none: it names a daemon that may not run.
        let control = socket(self.control.clone(), None).unwrap_or_default();
        match ask::<Status>(&control, &Method::Status) {
            Ok(daemon) => self.hand_over(&path, &torrent, &created, &control, &daemon),
            Err(_) => self.serve(&path, &torrent, &created),
        }
    }

    /// Gives the torrent to the running daemon.
    fn hand_over(
        &self,
        path: &Path,
        torrent: &Metainfo,
        created: &Created,
        control: &Path,
        daemon: &Status,
    ) -> Result<ExitCode, String> {
        let first = daemon.watched.first().map(PathBuf::from);
        let into =
            self.into.clone().or(first).ok_or("the daemon watches no directory: name one with --into")?;
        let written = drop_into(&into, &torrent.name, &created.bytes, path)?;
        if !readable_by_others(path) {
            output::note(format_args!(
                "warning: {} is not readable by everybody: the daemon's user must be able to read it",
                path.display()
            ));
        }
        // Without inotify it is found at the next scan; this only hastens it.
        let _ = ask::<serde_json::Value>(control, &Method::Rescan);
        if !self.quiet {
            output::note(format_args!("{}: the running daemon serves it", written.display()));
        }
        Ok(output::print(&format!("{}\n", with_peers(Magnet::from(torrent), &daemon.listen))))
    }

    /// Serves the torrent here until it is told to stop.
    fn serve(&self, path: &Path, torrent: &Metainfo, created: &Created) -> Result<ExitCode, String> {
        let own = Temporary::new()?;
        let watched = match &self.into {
            Some(into) => into.clone(),
            None => own.0.clone(),
        };
        drop_into(&watched, &torrent.name, &created.bytes, path)?;
        let state = own.0.join("state");
        // Where it cannot be kept the daemon hashes all of it again, and nothing else is amiss.
        let _ = remember(state.clone(), record(torrent, &created.files));
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
        let reload = config.clone();
        let mut view = View::new(self.quiet);
        let again = view.is_some();
        let mut magnet = Some(Magnet::from(torrent));
        let tell = move |status: &Status| match (magnet.take(), &mut view) {
            (Some(magnet), _) => drop(output::print(&format!("{}\n", with_peers(magnet, &status.listen)))),
            (None, Some(view)) => view.update(status),
            (None, None) => {}
        };
        let report = Report { tell: Box::new(tell), again };
        crate::daemon::run(config, Box::new(move || Ok(reload.clone())), Some(report))
            .map_err(|error| error.to_string())?;
        Ok(ExitCode::SUCCESS)
    }
}

/// What the maker knows: every piece is right, as long as the files are what they were.
fn record(torrent: &Metainfo, files: &[Entry]) -> Record {
    let stamp = |file: &Entry| match (file.length, file.modified) {
        (0, _) => Stamp::ABSENT,
        (size, (mtime_secs, nanos)) => Stamp { size, mtime_secs, mtime_nanos: nanos.try_into().unwrap_or(0) },
    };
    let verified = Verified {
        pieces: torrent.lengths.piece_count(),
        have: Have::All,
        todo: Have::None,
        stamps: files.iter().map(stamp).collect(),
    };
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

/// Writes the .torrent and, before it, the sidecar that tells where its content is.
fn drop_into(directory: &Path, name: &str, bytes: &[u8], data: &Path) -> Result<PathBuf, String> {
    let with = |ending: &str| {
        let mut file = OsString::from(name);
        file.push(ending);
        directory.join(file)
    };
    let (torrent, sidecar) = (with(".torrent"), with(".where"));
    let mut place = data.as_os_str().as_encoded_bytes().to_vec();
    place.push(b'\n');
    io::save(&sidecar, &place, true).map_err(|error| error.to_string())?;
    // The same content shared again is the same torrent: not an error.
    io::save(&torrent, bytes, true).map_err(|error| error.to_string())?;
    Ok(torrent)
}

fn readable_by_others(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(path).is_ok_and(|metadata| metadata.permissions().mode() & 0o004 != 0)
}

/// A directory of our own, gone with us.
struct Temporary(PathBuf);

impl Temporary {
    fn new() -> Result<Temporary, String> {
        use std::os::unix::fs::DirBuilderExt;
        let path = std::env::temp_dir().join(format!("meshseed-{}", std::process::id()));
        std::fs::DirBuilder::new()
            .mode(0o700)
            .create(&path)
            .map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(Temporary(path))
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

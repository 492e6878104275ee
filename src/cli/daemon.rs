//! `meshseed daemon`: reads the configuration, prepares the process, and runs until it is told to stop.
#![expect(clippy::disallowed_methods, reason = "I/O shell")]

use std::fmt::Display;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::arguments::Arg::{Long, Short};
use super::arguments::Parser;
use super::output;
use super::progress::View;
use crate::config::{Config, Listen, LogTo};
use crate::daemon::Report;
use crate::status::Status;

/// Where the configuration is looked for when none is named.
const DEFAULT_CONFIG: &str = "/etc/meshseed.toml";

/// What OpenWrt's init script makes of `/etc/config/meshseed` while the daemon runs.
const RENDERED: &str = "/var/etc/meshseed.toml";

const HELP: &str = "\
meshseed daemon - keep what directories of .torrent files name available

Usage: meshseed daemon [OPTIONS]

The directory is the database: drop a .torrent file and its data is served, and
fetched first as far as it is missing; remove the file and that stops. Data that
is right is never written to.

Options:
  -c FILE             configuration (default /etc/meshseed.toml, if it exists)
  --check             read the configuration, print what it means, exit
  --torrents DIR      watch this directory (instead of the configuration's)
  --data DIR          the data lies here (instead of the configuration's)
  --state DIR         keep records of verified data here
  --listen ADDR:PORT  listen here; PORT may be a range (6881-6889) or 0
  --log stderr        log to standard error instead of syslog; on a terminal also
                      a line that tells how it goes

Signals: SIGHUP reads the configuration again, SIGUSR1 writes the status to the
log, SIGTERM stops.

Example: meshseed daemon --torrents /etc/torrents --data /mnt/usb/torrents --log stderr
";

/// Runs the command.
pub fn run(mut parser: Parser) -> ExitCode {
    let mut args = Args::default();
    loop {
        match args.take(&mut parser) {
            Ok(true) => {}
            Ok(false) => break,
            Err(error) => return output::wrong_usage("daemon", &error),
        }
    }
    if args.help {
        return output::print(HELP);
    }
    let config = match args.config() {
        Ok(config) => config,
        Err(error) => return output::failed("daemon", &error),
    };
    if args.check {
        return output::print(&config.explain());
    }
    crate::log::init(config.log.to, config.log.level);
    // With the log elsewhere a terminal is left alone, as it is to a supervisor.
    let to = config.log.to;
    let view = if to == LogTo::Stderr { View::new(false) } else { None };
    let report = view
        .map(|mut view| Report { tell: Box::new(move |status: &Status| view.update(status)), again: true });
    match crate::daemon::run(config, Box::new(move || args.config()), report) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log::error!("{error}");
            // A supervisor would log it once more.
            let is_told = to == LogTo::Stderr || !std::io::stderr().is_terminal();
            if is_told { ExitCode::FAILURE } else { output::failed("daemon", &error) }
        }
    }
}

#[derive(Default)]
struct Args {
    help: bool,
    check: bool,
    file: Option<PathBuf>,
    torrents: Vec<PathBuf>,
    data: Option<PathBuf>,
    state: Option<PathBuf>,
    listen: Option<Listen>,
    log: Option<LogTo>,
}

impl Args {
    fn take(&mut self, parser: &mut Parser) -> Result<bool, String> {
        let Some(arg) = parser.next()? else { return Ok(false) };
        match arg {
            Short('h') | Long("help") => self.help = true,
            Short('c') | Long("config") => self.file = Some(parser.value()?.into()),
            Long("check") => self.check = true,
            Long("torrents") => self.torrents.push(parser.value()?.into()),
            Long("data") => self.data = Some(parser.value()?.into()),
            Long("state") => self.state = Some(parser.value()?.into()),
            Long("listen") => self.listen = Some(parser.text()?.parse()?),
            Long("log") => {
                self.log = Some(match parser.text()?.as_str() {
                    "stderr" => LogTo::Stderr,
                    "syslog" => LogTo::Syslog,
                    other => return Err(format!("--log takes stderr or syslog, not '{other}'")),
                });
            }
            other => return Err(other.unexpected()),
        }
        Ok(true)
    }

    /// The configuration of the file, with the options of the command line over it. Called again for each SIGHUP.
    fn config(&self) -> Result<Config, String> {
        let mut config = configured(self.file.as_deref())?;
        if !self.torrents.is_empty() {
            config.torrents = self.torrents.iter().map(absolute).collect::<Result<_, _>>()?;
        }
        if let Some(data) = &self.data {
            config.data = Some(absolute(data)?);
        }
        if let Some(state) = &self.state {
            config.state = Some(absolute(state)?);
        }
        if let Some(listen) = &self.listen {
            config.listen = listen.clone();
        }
        if let Some(to) = self.log {
            config.log.to = to;
        }
        Ok(config)
    }
}

/// The configuration of this file, of the usual one if there is one, or the default.
pub fn configured(file: Option<&Path>) -> Result<Config, String> {
    let usual = || [DEFAULT_CONFIG, RENDERED].into_iter().map(Path::new).find(|file| file.exists());
    let Some(file) = file.or_else(usual) else { return Ok(Config::default()) };
    let failed = |error: &dyn Display| format!("{}: {error}", file.display());
    let text = std::fs::read_to_string(file).map_err(|error| failed(&error))?;
    Config::parse(&text).map_err(|error| failed(&error))
}

fn absolute(path: &PathBuf) -> Result<PathBuf, String> {
    std::path::absolute(path).map_err(|error| format!("{}: {error}", path.display()))
}

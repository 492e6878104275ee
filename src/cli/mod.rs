//! The commands, one file each; what is told the daemon in one word shares one. Exit status: 0 done, 1 failed, 2 wrong usage.

pub mod check;
pub mod control;
pub mod create;
pub mod create_all;
pub mod daemon;
pub mod magnet;
pub mod maker;
pub mod output;
pub mod progress;
pub mod share;
pub mod show;
pub mod status;

use std::process::ExitCode;

use lexopt::prelude::*;

use crate::metainfo::maker::io::MAX_JOBS;

const HELP: &str = "\
meshseed - keeps what directories of .torrent files name available, on mesh routers

Usage: meshseed COMMAND [OPTIONS]

Commands:
  daemon   watch directories of .torrent files, fetch and serve what they name
  share    make a torrent of a file or folder and serve it where it lies
  create   make a .torrent file
  show     what a .torrent file or magnet link says
  check    verify data against a .torrent file
  magnet   the magnet link of a .torrent file
  status   ask the running daemon
  pause, resume, verify, rescan, reload
           tell it to do something

`meshseed COMMAND --help` explains each, with an example.
Example: meshseed share ~/openwrt-24.10-images
";

/// The value of `--jobs`.
fn jobs(parser: &mut lexopt::Parser) -> Result<usize, lexopt::Error> {
    let jobs: usize = parser.value()?.parse()?;
    let is_sane = (1..=MAX_JOBS).contains(&jobs);
    if is_sane { Ok(jobs) } else { Err(format!("{jobs}: jobs are 1 to {MAX_JOBS}").into()) }
}

/// As many jobs as there are cores.
fn cores() -> usize {
    let cores = rustix::thread::sched_getaffinity(None).map_or(1, |set| set.count());
    usize::try_from(cores).map_or(1, |cores| cores.clamp(1, MAX_JOBS))
}

/// Runs the command of the program's arguments.
pub fn main() -> ExitCode {
    let mut parser = lexopt::Parser::from_env();
    let command = match parser.next() {
        Ok(Some(Value(command))) => command.to_string_lossy().into_owned(),
        Ok(Some(Long("version") | Short('V'))) => {
            let lacks = if crate::http::TLS { "" } else { " (no TLS)" };
            return output::print(&format!("meshseed {}{lacks}\n", env!("CARGO_PKG_VERSION")));
        }
        Ok(Some(Long("help") | Short('h'))) => {
            return output::print(HELP);
        }
        Ok(None) => {
            eprint!("{HELP}");
            return ExitCode::from(output::USAGE);
        }
        Ok(Some(other)) => return output::wrong_usage("", &other.unexpected()),
        Err(error) => return output::wrong_usage("", &error),
    };
    match command.as_str() {
        "daemon" => daemon::run(parser),
        "share" => share::run(parser),
        "create" => create::run(parser),
        "show" => show::run(parser),
        "check" => check::run(parser),
        "magnet" => magnet::run(parser),
        "status" => status::run(parser),
        "pause" | "resume" | "verify" | "rescan" | "reload" => control::run(&command, parser),
        other => output::wrong_usage("", &format!("there is no command '{other}'")),
    }
}

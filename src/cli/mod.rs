//! The commands, one file each; what is told the daemon in one word shares one. Exit status: 0 done, 1 failed, 2 wrong usage.

pub mod arguments;
pub mod control;
pub mod daemon;
pub mod magnet;
#[cfg(feature = "maker")]
pub mod maker;
#[cfg(not(feature = "maker"))]
#[path = "without_maker.rs"]
pub mod maker;
pub mod output;
pub mod progress;
pub mod status;

use std::process::ExitCode;

use arguments::Arg::{Long, Short, Value};
use arguments::Parser;

const USAGE: &str = "\
meshseed - keeps what directories of .torrent files name available, on mesh routers

Usage: meshseed COMMAND [OPTIONS]

Commands:
  daemon   watch directories of .torrent files, fetch and serve what they name
";

const COMMANDS: &str = "\
\x20 magnet   the magnet link of a .torrent file
  status   ask the running daemon
  pause, resume, verify, rescan, reload
           tell it to do something

`meshseed COMMAND --help` explains each, with an example.
";

/// What this build has.
fn help() -> String {
    [USAGE, maker::COMMANDS, COMMANDS, maker::EXAMPLE].concat()
}

/// Name, version, and what this build lacks.
fn version() -> String {
    let lacks = match (crate::http::TLS, cfg!(feature = "maker")) {
        (true, true) => "",
        (true, false) => " (no maker)",
        (false, true) => " (no TLS)",
        (false, false) => " (no TLS, no maker)",
    };
    format!("meshseed {}{lacks}\n", env!("CARGO_PKG_VERSION"))
}

/// Runs the command of the program's arguments.
pub fn main() -> ExitCode {
    let mut parser = Parser::from_env();
    let command = match parser.next() {
        Ok(Some(Value(command))) => command.to_string_lossy().into_owned(),
        Ok(Some(Long("version") | Short('V'))) => {
            return output::print(&version());
        }
        Ok(Some(Long("help") | Short('h'))) => {
            return output::print(&help());
        }
        Ok(None) => {
            eprint!("{}", help());
            return ExitCode::from(output::USAGE);
        }
        Ok(Some(other)) => return output::wrong_usage("", &other.unexpected()),
        Err(error) => return output::wrong_usage("", &error),
    };
    match command.as_str() {
        "daemon" => daemon::run(parser),
        "share" | "create" | "show" | "check" => maker::run(&command, parser),
        "magnet" => magnet::run(parser),
        "status" => status::run(parser),
        "pause" | "resume" | "verify" | "rescan" | "reload" => control::run(&command, parser),
        other => output::wrong_usage("", &format!("there is no command '{other}'")),
    }
}

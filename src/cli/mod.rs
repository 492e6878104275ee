//! The commands, one file each. Exit status: 0 done, 1 failed, 2 wrong usage.

pub mod check;
pub mod create;
pub mod daemon;
pub mod magnet;
pub mod progress;
pub mod share;
pub mod show;
pub mod status;

use std::process::ExitCode;

use lexopt::prelude::*;

const HELP: &str = "\
meshseed - serves directories of .torrent files on mesh routers

Usage: meshseed COMMAND [OPTIONS]

Commands:
  daemon   watch directories of .torrent files and serve what they name
  share    make a torrent of a file or folder and serve it where it lies
  create   make a .torrent file
  show     what a .torrent file or magnet link says
  check    verify data against a .torrent file
  magnet   the magnet link of a .torrent file
  status   ask the running daemon

`meshseed COMMAND --help` explains each, with an example.
Example: meshseed share ~/openwrt-24.10-images
";

/// Runs the command of the program's arguments.
pub fn main() -> ExitCode {
    let mut parser = lexopt::Parser::from_env();
    let command = match parser.next() {
        Ok(Some(Value(command))) => command.to_string_lossy().into_owned(),
        Ok(Some(Long("version") | Short('V'))) => {
            println!("meshseed {}", env!("CARGO_PKG_VERSION"));
            return ExitCode::SUCCESS;
        }
        Ok(Some(Long("help") | Short('h'))) => {
            print!("{HELP}");
            return ExitCode::SUCCESS;
        }
        Ok(None) => {
            eprint!("{HELP}");
            return ExitCode::from(2);
        }
        Ok(Some(other)) => return usage(&other.unexpected().to_string()),
        Err(error) => return usage(&error.to_string()),
    };
    match command.as_str() {
        "daemon" => daemon::run(parser),
        "share" => share::run(parser),
        "create" => create::run(parser),
        "show" => show::run(parser),
        "check" => check::run(parser),
        "magnet" => magnet::run(parser),
        "status" => status::run(parser),
        other => usage(&format!("there is no command '{other}'")),
    }
}

/// Says what is wrong with the arguments.
pub fn usage(error: &str) -> ExitCode {
    eprintln!("meshseed: {error}\nTry 'meshseed --help'.");
    ExitCode::from(2)
}

/// Says why a command failed.
pub fn failed(error: &dyn std::fmt::Display) -> ExitCode {
    eprintln!("meshseed: {error}");
    ExitCode::FAILURE
}

//! The commands for torrents that somebody makes or doubts: `share`, `create`, `show` and `check`.
//!
//! A build for little flash is without them, see `cli/without_maker.rs`. Omits what each of them does.

mod check;
mod create;
mod create_all;
mod options;
mod progress;
mod share;
mod show;

use std::process::ExitCode;

use crate::cli::arguments::Parser;
use crate::metainfo::maker::io::MAX_JOBS;

/// What the program's help says of them.
pub const COMMANDS: &str = "\
\x20 share    make a torrent of a file or folder and serve it where it lies
  create   make a .torrent file
  show     what a .torrent file or magnet link says
  check    verify data against a .torrent file
";

/// The last line of that help.
pub const EXAMPLE: &str = "Example: meshseed share ~/openwrt-24.10-images\n";

/// Runs the command of that name.
pub fn run(command: &str, parser: Parser) -> ExitCode {
    match command {
        "share" => share::run(parser),
        "create" => create::run(parser),
        "show" => show::run(parser),
        _ => check::run(parser),
    }
}

/// The value of `--jobs`.
fn jobs(parser: &mut Parser) -> Result<usize, String> {
    let jobs = parser.text()?;
    let jobs: usize = jobs.parse().map_err(|error| format!("cannot parse argument \"{jobs}\": {error}"))?;
    let is_sane = (1..=MAX_JOBS).contains(&jobs);
    if is_sane { Ok(jobs) } else { Err(format!("{jobs}: jobs are 1 to {MAX_JOBS}")) }
}

/// As many jobs as there are cores.
fn cores() -> usize {
    let cores = rustix::thread::sched_getaffinity(None).map_or(1, |set| set.count());
    usize::try_from(cores).map_or(1, |cores| cores.clamp(1, MAX_JOBS))
}

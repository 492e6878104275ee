//! `meshseed magnet`: the magnet link of a torrent.
//!
//! Read first: `metainfo/magnet.rs`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::arguments::{Arg, Parser};
use super::output;
use crate::metainfo::io;
use crate::metainfo::magnet::Magnet;
use crate::watch::is_magnet;

/// The help of `meshseed magnet`.
pub const HELP: &str = "\
meshseed magnet FILE

Prints the magnet link of a .torrent of any format: its info-hash, of a hybrid
both of them, name, trackers, web seeds; of a .magnet the link that meshseed
reads in it.

      --help

Exit status: 0 printed, 1 refused, 2 wrong usage.

Example:
  meshseed magnet ubuntu.torrent
";

/// The command.
pub fn run(mut parser: Parser) -> ExitCode {
    match take(&mut parser) {
        Ok(None) => output::print(HELP),
        Ok(Some(path)) => match link(&path) {
            Ok(magnet) => output::print(&format!("{magnet}\n")),
            Err(reason) => output::failed("magnet", &reason),
        },
        Err(error) => output::wrong_usage("magnet", &error),
    }
}

/// `None` where help is asked for.
fn take(parser: &mut Parser) -> Result<Option<PathBuf>, String> {
    let mut path = None;
    while let Some(arg) = parser.next()? {
        match arg {
            Arg::Long("help") | Arg::Short('h') => return Ok(None),
            Arg::Value(value) if path.is_none() => path = Some(PathBuf::from(value)),
            other => return Err(other.unexpected()),
        }
    }
    Ok(Some(path.ok_or("FILE is missing")?))
}

fn link(path: &Path) -> Result<Magnet, String> {
    let bytes = io::read(path).map_err(|error| error.to_string())?;
    let named = |reason: String| format!("{}: {reason}", path.display());
    match Magnet::any_of_file(&bytes) {
        Ok(magnet) => Ok(magnet),
        Err(error) if is_magnet(path) => Err(named(error.to_string())),
        Err(_) => Magnet::of_torrent(&bytes).map_err(|error| named(error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_one_file() {
        let take = |args: &[&str]| take(&mut Parser::from_args(args)).map_err(|error| error.to_string());
        assert_eq!(take(&["x"]), Ok(Some("x".into())));
        assert_eq!(take(&["--help"]), Ok(None));
        assert!(take(&[]).is_err() && take(&["a", "b"]).is_err() && take(&["a", "-x"]).is_err());
    }
}

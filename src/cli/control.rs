//! `meshseed pause`, `resume`, `verify`, `rescan` and `reload`: what the running daemon is told to do.
//!
//! Omits what it is asked, see `status.rs`. Holds one reply.

use std::path::PathBuf;
use std::process::ExitCode;

use super::arguments::{Arg, Parser, text};
use super::output;
use super::status::socket;
use crate::status::io::ask;
use crate::status::{Method, Value};

/// What each of them does.
pub const HELP: &str = "\
Tells the running daemon to do something.

Usage: meshseed COMMAND [-c FILE | --control SOCKET] [INFO_HASH]

  pause INFO_HASH     stop serving and fetching a torrent, also after a restart
  resume INFO_HASH    the end of a pause; what is missing of a torrent that was
                      complete once is fetched again
  verify INFO_HASH    check all of a torrent's data anew
  rescan              look at the watched directories now
  reload              read the configuration again, as SIGHUP does

  -c, --config FILE   the daemon's configuration, which names its control socket
                      (default /etc/meshseed.toml, if it exists)
  --control SOCKET    the control socket itself
  -h, --help          this text

`meshseed status` lists the torrents; `meshseed status --json` with info-hashes.

Example: meshseed pause 6a9759bffd5c0af65319979fb7832189f4f3c35d
";

/// What was asked for.
struct Asked {
    method: Method,
    control: Option<PathBuf>,
    config: Option<PathBuf>,
}

/// The command of that name.
pub fn run(command: &str, parser: Parser) -> ExitCode {
    match take(command, parser) {
        Ok(None) => output::print(HELP),
        Ok(Some(asked)) => {
            let done = socket(asked.control, asked.config)
                .and_then(|control| ask(&control, &asked.method).map_err(|error| error.to_string()));
            match done {
                Ok(_) => ExitCode::SUCCESS,
                Err(reason) => output::failed(command, &reason),
            }
        }
        Err(error) => output::wrong_usage(command, &error),
    }
}

/// `None` where help is asked for.
fn take(command: &str, mut parser: Parser) -> Result<Option<Asked>, String> {
    let (mut control, mut config, mut arguments) = (None, None, Vec::new());
    while let Some(arg) = parser.next()? {
        match arg {
            Arg::Long("help") | Arg::Short('h') => return Ok(None),
            Arg::Long("config") | Arg::Short('c') => config = Some(parser.value()?.into()),
            Arg::Long("control") => control = Some(parser.value()?.into()),
            Arg::Value(value) if arguments.is_empty() => {
                arguments.push(("info_hash".into(), text(value)?.into()));
            }
            other => return Err(other.unexpected()),
        }
    }
    let method = Method::new(command, &Value::Table(arguments)).map_err(|error| error.to_string())?;
    Ok(Some(Asked { method, control, config }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_torrent_is_named_where_one_is_meant_and_nowhere_else() {
        let take = |command: &str, args: &[&str]| take(command, Parser::from_args(args));
        let hash = "ab".repeat(20);
        let asked = take("resume", &["--control=/s", &hash, "-c", "/f"]).unwrap().unwrap();
        assert_eq!(asked.method, Method::Resume(hash.parse().unwrap()));
        assert_eq!((asked.control, asked.config), (Some("/s".into()), Some("/f".into())));
        assert_eq!(take("rescan", &[]).unwrap().unwrap().method, Method::Rescan);
        assert!(take("pause", &["--help"]).unwrap().is_none());
        for (command, args) in
            [("pause", &[][..]), ("verify", &["12"]), ("reload", &[&hash]), ("pause", &["-x"])]
        {
            assert!(take(command, args).is_err(), "{command} {args:?}");
        }
    }
}

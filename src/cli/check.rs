//! `meshseed check`: data against the hashes of its torrent.
//!
//! Read first: `storage/io/hashing.rs`. Omits repairing what is wrong. Holds one byte a piece and the torrent's list
//! of files.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use lexopt::{Arg, Parser};

use super::output::{self, bytes, clean};
use super::progress::Progress;
use crate::metainfo::magnet::Magnet;
use crate::metainfo::{self, Metainfo};
use crate::storage::Trouble;
use crate::storage::io::{self, Flaw, Verdict};

/// The help of `meshseed check`.
pub const HELP: &str = "\
meshseed check FILE [DATA] [-q]

Reads data and compares it with a .torrent. DATA is the torrent's file or
folder, or the directory that holds it; without it the data is looked for
beside FILE, and where a sidecar of FILE says.

  -q, --quiet   no progress bar
      --help

Example:
  meshseed check images.torrent /srv/torrents/images
";

/// Files with flaws that are named; of the rest their number is told.
const NAMED: usize = 50;

/// What was asked for.
struct Asked {
    torrent: PathBuf,
    data: Option<PathBuf>,
    quiet: bool,
}

/// The command.
pub fn run(mut parser: Parser) -> ExitCode {
    match take(&mut parser) {
        Ok(None) => output::print(HELP),
        Ok(Some(asked)) => check(&asked),
        Err(error) => output::wrong_usage("check", &error),
    }
}

/// `None` where help is asked for.
fn take(parser: &mut Parser) -> Result<Option<Asked>, lexopt::Error> {
    let (mut torrent, mut data, mut quiet) = (None, None, false);
    while let Some(arg) = parser.next()? {
        match arg {
            Arg::Long("help") | Arg::Short('h') => return Ok(None),
            Arg::Long("quiet") | Arg::Short('q') => quiet = true,
            Arg::Value(value) if torrent.is_none() => torrent = Some(value.into()),
            Arg::Value(value) if data.is_none() => data = Some(value.into()),
            other => return Err(other.unexpected()),
        }
    }
    Ok(Some(Asked { torrent: torrent.ok_or("FILE is missing")?, data, quiet }))
}

fn check(asked: &Asked) -> ExitCode {
    let torrent = &asked.torrent;
    let read = metainfo::io::read(torrent).map_err(|error| error.to_string()).and_then(|content| {
        metainfo::parse(&content).map_err(|error| match Magnet::of_file(&content) {
            Ok(_) => format!("{} is a magnet link, which does not say what is right", torrent.display()),
            Err(_) => format!("{}: {error}", torrent.display()),
        })
    });
    let metainfo = match read {
        Ok(metainfo) => metainfo,
        Err(reason) => return output::failed("check", &reason),
    };
    let data = match &asked.data {
        Some(data) => own_path(data, &metainfo),
        None => match io::sidecar(torrent) {
            Ok(Some(data)) => data,
            Ok(None) => torrent.with_file_name(&metainfo.name),
            Err(reason) => return output::failed("check", &reason),
        },
    };
    let mut progress = Progress::new("checking", asked.quiet);
    let verdict = io::check(torrent, &data, &mut |done, total| progress.update(done, total));
    progress.finish();
    match verdict {
        Ok(verdict) => {
            let printed = output::print(&text(&verdict, metainfo.lengths.total()));
            if verdict.files.is_empty() { printed } else { ExitCode::FAILURE }
        }
        // What looks like a missing disk to the daemon is a mistyped path to somebody who typed one.
        Err(Trouble::EmptyMount(_) | Trouble::RootAbsent(_)) => {
            output::failed("check", &Trouble::DataMissing(data))
        }
        Err(trouble) => output::failed("check", &trouble),
    }
}

/// The torrent's own path: what the user named, or what of its name is in there.
fn own_path(named: &Path, metainfo: &Metainfo) -> PathBuf {
    let inside = named.join(&metainfo.name);
    let first = metainfo.files.iter().find(|file| file.length > 0 && !file.pad);
    let is_own = match first {
        Some(first) if metainfo.multi_file => named.join(&first.path).exists() || !inside.is_dir(),
        _ => !named.is_dir(),
    };
    if is_own { named.into() } else { inside }
}

fn text(verdict: &Verdict, total: u64) -> String {
    let right = verdict.have.count(verdict.pieces);
    let mut text = format!(
        "{}: {right} of {} {} right, {} in all\n",
        clean(&verdict.name),
        verdict.pieces,
        if verdict.pieces == 1 { "piece is" } else { "pieces are" },
        bytes(total)
    );
    for (path, flaw) in verdict.files.iter().take(NAMED) {
        let path = clean(path);
        let _ = match flaw {
            Flaw::Absent => writeln!(text, "  {path}: is not there"),
            Flaw::Short(size) => writeln!(text, "  {path}: is cut short, at {}", bytes(*size)),
            Flaw::Wrong(1) => writeln!(text, "  {path}: 1 piece is wrong"),
            Flaw::Wrong(pieces) => writeln!(text, "  {path}: {pieces} pieces are wrong"),
        };
    }
    match verdict.files.len().saturating_sub(NAMED) {
        0 => {}
        1 => text.push_str("  and 1 more file\n"),
        more => {
            let _ = writeln!(text, "  and {more} more files");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::have::Have;
    use crate::storage::io::tests::Temp;
    use crate::storage::tests::metainfo;

    fn taken(args: &[&str]) -> Option<Asked> {
        take(&mut Parser::from_args(args)).ok().flatten()
    }

    #[test]
    fn arguments_are_a_torrent_and_maybe_its_data() {
        let asked = taken(&["-q", "a.torrent", "/data"]).unwrap();
        assert!(asked.quiet && asked.torrent == Path::new("a.torrent") && asked.data == Some("/data".into()));
        assert!(taken(&["a.torrent"]).unwrap().data.is_none());
        for wrong in [&[][..], &["a", "b", "c"], &["--json", "a"]] {
            assert!(take(&mut Parser::from_args(wrong)).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn the_data_may_be_named_by_itself_or_by_the_directory_that_holds_it() {
        let temp = Temp::new();
        temp.file("in/name/sub/a", b"x");
        let folder = metainfo(4, &[("sub/a", 1), ("b", 1)]);
        assert_eq!(own_path(&temp.path("in"), &folder), temp.path("in/name"));
        assert_eq!(own_path(&temp.path("in/name"), &folder), temp.path("in/name"));
        assert_eq!(own_path(&temp.path("nowhere"), &folder), temp.path("nowhere"));
        let single = metainfo(4, &[("", 1)]);
        assert_eq!(own_path(&temp.path("in"), &single), temp.path("in/name"));
        assert_eq!(own_path(&temp.path("in/name/sub/a"), &single), temp.path("in/name/sub/a"));
    }

    #[test]
    fn flaws_are_told_file_by_file() {
        let mut verdict = Verdict {
            name: "na\x1bme".into(),
            pieces: 10,
            have: Have::from_fn(10, |piece| piece < 7),
            files: vec![
                ("/d/a".into(), Flaw::Absent),
                ("/d/b".into(), Flaw::Short(2048)),
                ("/d/c".into(), Flaw::Wrong(2)),
            ],
        };
        assert_eq!(
            text(&verdict, 1 << 20),
            "na\\u{1b}me: 7 of 10 pieces are right, 1.0 MiB in all\n  /d/a: is not there\n  \
             /d/b: is cut short, at 2.0 KiB\n  /d/c: 2 pieces are wrong\n"
        );
        verdict.files = vec![("x".into(), Flaw::Absent); NAMED + 3];
        assert!(text(&verdict, 1).ends_with("and 3 more files\n"));
    }
}

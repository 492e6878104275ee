//! `meshseed check`: data against the hashes of its torrent, whatever the torrent's format.
//!
//! Read first: `storage/io/check.rs`. Omits repairing what is wrong. Holds one byte a piece, the torrent and its list
//! of files, and 128 KiB a job.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::progress::Progress;
use crate::cli::arguments::{Arg, Parser};
use crate::cli::daemon::configured;
use crate::cli::output::{self, bytes, clean, count};
use crate::config::{Config, SaveAs};
use crate::metainfo::magnet::Magnet;
use crate::metainfo::survey::Survey;
use crate::metainfo::{self, Metainfo};
use crate::status::value::table;
use crate::status::{Value, json};
use crate::storage::Trouble;
use crate::storage::io;
use crate::storage::io::check::{Flaw, Verdict};

/// The help of `meshseed check`.
pub const HELP: &str = "\
meshseed check FILE [DATA] [OPTION]...

Reads data and compares it with a .torrent: v1, hybrid (both halves), v2 or
Merkle. DATA is the torrent's file or folder, or the directory that holds it;
without it the data is looked for where a sidecar of FILE says, where the daemon
keeps it if FILE is in a directory that it watches, and beside FILE.

  -c, --config FILE  the daemon's configuration
      --jobs N       threads that hash (1 to 16, by default one a core; 1 is best
                     for a spinning disk)
      --json         one JSON object, for programs
  -q, --quiet        no progress bar
      --help

Exit status: 0 all is right, 1 it is not, 2 wrong usage.

Examples:
  meshseed check images.torrent /srv/torrents/images
  meshseed check -q images.torrent || echo 'fetch it again'
";

/// Files with flaws that are named; of the rest their number is told.
const NAMED: usize = 50;

/// What was asked for.
struct Asked {
    torrent: PathBuf,
    data: Option<PathBuf>,
    config: Option<PathBuf>,
    jobs: usize,
    json: bool,
    quiet: bool,
}

/// The fields of `--json`.
struct Told {
    name: String,
    data: String,
    whole: bool,
    pieces: u32,
    right: u32,
    files: Vec<Bad>,
    torn: Option<String>,
}

/// A file that is not as it should be.
struct Bad {
    path: String,
    flaw: &'static str,
    size: Option<u64>,
    wrong_pieces: Option<u32>,
    pieces: Option<u32>,
}

table!(Told: name, data, whole, pieces, right, files, torn);
table!(Bad: path, flaw, size, wrong_pieces, pieces);

/// The command.
pub fn run(mut parser: Parser) -> ExitCode {
    match take(&mut parser) {
        Ok(None) => output::print(HELP),
        Ok(Some(asked)) => check(&asked).unwrap_or_else(|reason| output::failed("check", &reason)),
        Err(error) => output::wrong_usage("check", &error),
    }
}

/// `None` where help is asked for.
fn take(parser: &mut Parser) -> Result<Option<Asked>, String> {
    let (mut torrent, mut data, mut config) = (None, None, None);
    let (mut jobs, mut json, mut quiet) = (None, false, false);
    while let Some(arg) = parser.next()? {
        match arg {
            Arg::Long("help") | Arg::Short('h') => return Ok(None),
            Arg::Long("config") | Arg::Short('c') => config = Some(parser.value()?.into()),
            Arg::Long("jobs") => jobs = Some(super::jobs(parser)?),
            Arg::Long("json") => json = true,
            Arg::Long("quiet") | Arg::Short('q') => quiet = true,
            Arg::Value(value) if torrent.is_none() => torrent = Some(value.into()),
            Arg::Value(value) if data.is_none() => data = Some(value.into()),
            other => return Err(other.unexpected()),
        }
    }
    let torrent = torrent.ok_or("FILE is missing")?;
    let jobs = jobs.unwrap_or_else(super::cores);
    Ok(Some(Asked { torrent, data, config, jobs, json, quiet }))
}

fn check(asked: &Asked) -> Result<ExitCode, String> {
    let torrent = &asked.torrent;
    let content = metainfo::io::read(torrent).map_err(|error| error.to_string())?;
    let survey = Survey::read(&content).map_err(|error| match Magnet::any_of_file(&content) {
        Ok(_) => format!("{} is a magnet link, which does not say what is right", torrent.display()),
        Err(_) => format!("{}: {error}", torrent.display()),
    })?;
    let data = std::path::absolute(asked.data_of(&survey.metainfo)?).map_err(|error| error.to_string())?;
    let mut progress = Progress::new("checking", asked.quiet);
    let verdict = io::check::check(&survey, torrent, &data, asked.jobs, &mut |done, total| {
        progress.update(done, total)
    });
    progress.finish();
    let verdict = verdict.map_err(|trouble| match trouble {
        // What looks like a missing disk to the daemon is a mistyped path to somebody who typed one.
        Trouble::EmptyMount(_) | Trouble::RootAbsent(_) => Trouble::DataMissing(data.clone()).to_string(),
        trouble => trouble.to_string(),
    })?;
    let Metainfo { name, files, .. } = &survey.metainfo;
    let printed = if asked.json {
        let told = Told {
            name: name.to_string(),
            data: data.to_string_lossy().into_owned(),
            whole: verdict.is_whole(),
            pieces: verdict.pieces,
            right: verdict.right,
            files: verdict.files.iter().map(|(path, flaw)| Bad::of(path, *flaw)).collect(),
            torn: verdict.torn.clone(),
        };
        output::print(&json::line(&Value::from(told)))
    } else {
        let total = files.iter().filter(|file| !file.pad).map(|file| file.length).sum();
        output::print(&text(name, &verdict, total))
    };
    Ok(if verdict.is_whole() { printed } else { ExitCode::FAILURE })
}

impl Asked {
    /// The torrent's own path: the first place that has something there, else the one that is most likely meant.
    fn data_of(&self, metainfo: &Metainfo) -> Result<PathBuf, String> {
        let Metainfo { name, multi_file, .. } = metainfo;
        let torrent = &self.torrent;
        let at = |root: Option<&Path>, layout: SaveAs| layout.data_path(torrent, name, *multi_file, root);
        let mut places = Vec::new();
        if let Some(data) = &self.data {
            if !is_own(data, metainfo) {
                places.extend([SaveAs::Name, SaveAs::Auto].map(|layout| at(Some(data), layout)));
            }
            places.push(data.clone());
        } else if let Some(data) = io::sidecar(torrent)? {
            return Ok(data);
        } else {
            // Without one that can be read it is looked for beside the .torrent alone.
            let config = match (&self.config, configured(self.config.as_deref())) {
                (Some(_), config) => Some(config?),
                (None, config) => config.ok().filter(|config| watches(config, torrent)),
            };
            if let Some(config) = &config {
                places.extend([config.layout, SaveAs::Name].map(|layout| at(config.data.as_deref(), layout)));
            }
            places.extend([SaveAs::Auto, SaveAs::Name].map(|layout| at(None, layout)));
        }
        let there = places.iter().position(|place| place.exists()).unwrap_or(places.len() - 1);
        Ok(places.swap_remove(there))
    }
}

/// Whether the daemon looks where the torrent lies. Directories and what lies in them may be links.
fn watches(config: &Config, torrent: &Path) -> bool {
    let folder = metainfo::io::folder(torrent).canonicalize().unwrap_or_default();
    config.torrents.iter().any(|watched| watched.canonicalize().is_ok_and(|it| folder.starts_with(it)))
}

/// Whether that is the torrent's file or folder itself, and not the directory that holds it.
fn is_own(named: &Path, metainfo: &Metainfo) -> bool {
    let first = metainfo.files.iter().find(|file| file.length > 0 && !file.pad);
    match first {
        Some(first) if metainfo.multi_file => named.join(&first.path).exists(),
        _ => !named.is_dir(),
    }
}

impl Bad {
    fn of(path: &str, flaw: Flaw) -> Bad {
        let bad = |flaw| Bad { path: path.to_owned(), flaw, size: None, wrong_pieces: None, pieces: None };
        match flaw {
            Flaw::Absent => bad("absent"),
            Flaw::Short(size) => Bad { size: Some(size), ..bad("short") },
            Flaw::Long(size) => Bad { size: Some(size), ..bad("long") },
            Flaw::Wrong(wrong, all) => Bad { wrong_pieces: Some(wrong), pieces: Some(all), ..bad("wrong") },
        }
    }
}

fn text(name: &str, verdict: &Verdict, total: u64) -> String {
    let mut text = format!(
        "{}: {} of {} {} right, {} in all\n",
        clean(name),
        verdict.right,
        verdict.pieces,
        if verdict.pieces == 1 { "piece is" } else { "pieces are" },
        bytes(total)
    );
    for (path, flaw) in verdict.files.iter().take(NAMED) {
        let path = clean(path);
        let _ = match flaw {
            Flaw::Absent => writeln!(text, "  {path}: is not there"),
            Flaw::Short(size) => writeln!(text, "  {path}: is cut short, to {}", bytes(*size)),
            Flaw::Long(size) => {
                writeln!(text, "  {path}: is right, and has {} more than it should", bytes(*size))
            }
            Flaw::Wrong(1, 1) => writeln!(text, "  {path}: its only piece is wrong"),
            Flaw::Wrong(wrong, all) => {
                let are = if *wrong == 1 { "is" } else { "are" };
                writeln!(text, "  {path}: {wrong} of {all} pieces {are} wrong")
            }
        };
    }
    if let more @ 1.. = verdict.files.len().saturating_sub(NAMED) {
        let _ = writeln!(text, "  and {}", count(more as u64, "more file"));
    }
    if let Some(torn) = &verdict.torn {
        let _ = writeln!(text, "  the torrent itself is wrong, its two halves do not agree: {}", clean(torn));
    }
    text
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
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
        let asked = taken(&["--json", "--jobs", "3", "-c", "/f", "a"]).unwrap();
        assert_eq!((asked.json, asked.jobs, asked.config), (true, 3, Some("/f".into())));
        for wrong in
            [&[][..], &["a", "b", "c"], &["--jsn", "a"], &["--jobs", "0", "a"], &["--jobs", "17", "a"]]
        {
            assert!(take(&mut Parser::from_args(wrong)).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn the_data_may_be_named_by_itself_or_by_the_directory_that_holds_it() {
        let temp = Temp::new();
        temp.file("in/name/sub/a", b"x");
        let (folder, single) = (metainfo(4, &[("sub/a", 1), ("b", 1)]), metainfo(4, &[("", 1)]));
        let data_of = |torrent: &Metainfo, data: &str| {
            let data = temp.path(data).to_str().unwrap().to_owned();
            taken(&["x.torrent", &data]).unwrap().data_of(torrent).unwrap()
        };
        for (torrent, named, own) in [
            (&folder, "in", "in/name"),
            (&folder, "in/name", "in/name"),
            (&folder, "nowhere", "nowhere"),
            (&single, "in", "in/name"),
            (&single, "in/name/sub/a", "in/name/sub/a"),
        ] {
            assert_eq!(data_of(torrent, named), temp.path(own), "{named}");
        }
    }

    #[test]
    fn a_torrent_is_the_daemon_s_whatever_links_lead_to_it() {
        let temp = Temp::new();
        temp.file("disk/torrents/sub/x.torrent", b"");
        temp.file("elsewhere/y.torrent", b"");
        symlink(temp.path("disk/torrents"), temp.path("watched")).unwrap();
        symlink(temp.path("elsewhere/y.torrent"), temp.path("disk/torrents/z.torrent")).unwrap();
        let config = Config { torrents: vec![temp.path("watched")], ..Config::default() };
        for (torrent, expected) in [
            ("watched/sub/x.torrent", true),
            ("disk/torrents/sub/x.torrent", true),
            ("watched/z.torrent", true),
            ("elsewhere/y.torrent", false),
            ("nowhere/y.torrent", false),
        ] {
            assert_eq!(watches(&config, &temp.path(torrent)), expected, "{torrent}");
        }
    }

    #[test]
    fn flaws_are_told_file_by_file() {
        let mut verdict = Verdict {
            pieces: 10,
            right: 7,
            files: vec![
                ("/d/a".into(), Flaw::Absent),
                ("/d/b".into(), Flaw::Short(2048)),
                ("/d/c".into(), Flaw::Wrong(2, 5)),
                ("/d/d".into(), Flaw::Long(1)),
            ],
            torn: None,
        };
        assert_eq!(
            text("na\x1bme", &verdict, 1 << 20),
            "na\\u{1b}me: 7 of 10 pieces are right, 1.0 MiB in all\n  /d/a: is not there\n  \
             /d/b: is cut short, to 2.0 KiB\n  /d/c: 2 of 5 pieces are wrong\n  \
             /d/d: is right, and has 1 bytes more than it should\n"
        );
        verdict.files = vec![("x".into(), Flaw::Absent); NAMED + 3];
        assert!(text("x", &verdict, 1).ends_with("and 3 more files\n"));
    }
}

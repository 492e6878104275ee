//! `meshseed create`: makes a torrent of a file or folder.
//!
//! Read first: `metainfo/maker/mod.rs`. Its options are in `options.rs`, for other commands take them too.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::create_all::All;
use super::options::{MAKER_HELP, MakerArgs, Named};
use crate::cli::arguments::{Arg, Parser};
use crate::cli::output;
use crate::metainfo;
use crate::metainfo::io;
use crate::metainfo::magnet::Magnet;
use crate::metainfo::maker::io::Error;
use crate::metainfo::survey::Survey;

const HELP: &str = "\
meshseed create PATH [-o FILE] [OPTION]...
meshseed create --all DIR [-o DIR] [OPTION]...

Makes a .torrent of a file or folder. The content stays where it is and is only
read. Hidden names, CVS, core, Thumbs.db, desktop.ini, links and special files
are left out and listed; the same content gives the same info-hash on every
host. A file that changes meanwhile, and a name that is not UTF-8, is an error.

  -o, --output FILE      where to write it; - is standard output
                         (NAME.torrent in the current directory)
      --all              a torrent of each entry of DIR, written beside it (or into
                         -o DIR) as ENTRY.torrent; left alone where that lists its
                         files and sizes and nothing has changed since it was written
  -f, --force            replace a .torrent that is there
  -q, --quiet            no progress, no summary
      --help
";

const EXAMPLE: &str = "\
Examples:
  meshseed create -a http://tracker.mesh/announce -o /etc/torrents/music.torrent ~/music
  meshseed create --all /srv/torrents -o /etc/torrents
  meshseed create --format hybrid -w http://files.mesh/ ~/music
  meshseed create --trackerless --node 10.1.2.3:6881 film.mkv
";

/// The command.
pub fn run(parser: Parser) -> ExitCode {
    match Args::take(parser) {
        Ok(None) => output::print(&format!("{HELP}{MAKER_HELP}{EXAMPLE}")),
        Ok(Some(args)) => args.run(),
        Err(error) => output::wrong_usage("create", &error),
    }
}

struct Args {
    path: PathBuf,
    all: bool,
    output: Option<PathBuf>,
    force: bool,
    quiet: bool,
    maker: MakerArgs,
}

impl Args {
    /// `None` where help is asked for.
    fn take(mut parser: Parser) -> Result<Option<Args>, String> {
        let (mut path, mut output, mut all, mut force, mut quiet) = (None, None, false, false, false);
        let mut maker = MakerArgs::default();
        while let Some(arg) = parser.next()? {
            match arg {
                Arg::Long("help") | Arg::Short('h') => return Ok(None),
                Arg::Long("output") | Arg::Short('o') => output = Some(PathBuf::from(parser.value()?)),
                Arg::Long("all") => all = true,
                Arg::Long("force") | Arg::Short('f') => force = true,
                Arg::Long("quiet") | Arg::Short('q') => quiet = true,
                Arg::Value(value) if path.is_none() => path = Some(PathBuf::from(value)),
                other => {
                    let option = Named::of(other)?;
                    maker.take_or_refuse(&option, &mut parser)?;
                }
            }
        }
        let path = path.ok_or("PATH is missing: the file or folder to make a torrent of")?;
        Ok(Some(Args { path, all, output, force, quiet, maker }))
    }

    fn run(self) -> ExitCode {
        if self.all {
            let Args { path, output, force, quiet, .. } = &self;
            let (folder, output) = (path.as_path(), output.as_deref());
            return All { folder, output, force: *force, quiet: *quiet }.run(&self.maker);
        }
        let to_stdout = self.output.as_ref().is_some_and(|output| output.as_os_str() == "-");
        let is_named = self.output.is_some();
        let output = match (self.output, default_output(&self.path)) {
            (Some(output), _) | (None, Some(output)) => output,
            (None, None) => return output::failed("create", &io::Error::NoName(self.path)),
        };
        // Said before an hour of hashing, not after it.
        if !to_stdout && let Err(error) = io::writable(io::folder(&output)) {
            return output::failed("create", &error);
        }
        let within = |path: &Path| {
            let content = self.path.canonicalize();
            path.canonicalize().is_ok_and(|path| content.is_ok_and(|content| path.starts_with(content)))
        };
        // Nor is anything put there that the next torrent of it would hold, unless that place is named.
        if !to_stdout && (within(&output) || !is_named && within(io::folder(&output))) {
            return output::failed("create", &Error::Content(output));
        }
        if !to_stdout && !self.force && output.symlink_metadata().is_ok() {
            return output::failed("create", &io::Error::Exists(output));
        }
        let created = match self.maker.create(&self.path, self.quiet) {
            Ok(created) => created,
            Err(error) => return output::failed("create", &error),
        };
        created.warnings.iter().filter(|_| !self.quiet).for_each(output::note);
        // What we would refuse to read is not written.
        let torrent = match Survey::read(&created.bytes) {
            Ok(survey) => survey.metainfo,
            Err(error) => return output::failed(&format!("create: {}", self.path.display()), &error),
        };
        if to_stdout {
            return output::print_bytes(&created.bytes);
        }
        if let Err(error) = io::save(&output, &created.bytes, self.force) {
            return output::failed("create", &error);
        }
        if self.quiet {
            return ExitCode::SUCCESS;
        }
        let plan = &created.plan;
        let mut text = format!(
            "{}: {} in {}, {} of {}\n",
            output::clean(&output.display().to_string()),
            output::bytes(plan.content),
            output::count(plan.files.len() as u64, "file"),
            output::count(plan.lengths.piece_count().into(), "piece"),
            output::bytes(plan.lengths.piece_length().into()),
        );
        let v2 = created.info_hash_v2.map(|hash| ("info-hash v2", metainfo::hex(&hash)));
        let v1 = created.info_hash.map(|hash| ("info-hash", hash.to_string()));
        for (what, hash) in v1.into_iter().chain(v2) {
            text.push_str(&format!("{what} {hash}\n"));
        }
        text.push_str(&format!("{}\n", Magnet::from(&torrent)));
        output::print(&text)
    }
}

/// `NAME.torrent` in the current directory.
fn default_output(path: &Path) -> Option<PathBuf> {
    let whole = path.canonicalize().ok();
    let mut name = path.file_name().or(whole.as_ref().and_then(|whole| whole.file_name()))?.to_owned();
    name.push(".torrent");
    Some(PathBuf::from(name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metainfo::maker::Format;

    fn take(args: &[&str]) -> Result<Option<Args>, String> {
        Args::take(Parser::from_args(args)).map_err(|error| error.to_string())
    }

    #[test]
    fn the_help_fits_a_terminal() {
        assert!([HELP, MAKER_HELP, EXAMPLE].iter().all(|text| text.lines().all(|line| line.len() <= 90)));
        assert!(MAKER_HELP.lines().all(|line| line.starts_with("  ")), "it stands in a column");
    }

    #[test]
    fn options_are_read_in_any_order() {
        let args = take(&[
            "-a",
            "http://a/,b,udp://c:1",
            "dir",
            "--announce=http://d/",
            "-o",
            "x",
            "--node",
            "[::1]:5",
            "-p",
            "--piece-size",
            "256k",
            "--exclude",
            "*.tmp",
            "--no-date",
            "--jobs",
            "2",
            "-w",
            "https://w/",
            "--format",
            "hybrid",
            "--similar",
            "da39a3ee5e6b4b0d3255bfef95601890afd80709",
            "--collection",
            "c",
            "--http-seed",
            "http://s/",
            "--update-url",
            "http://u/",
            "--include-hidden",
            "--md5sum",
            "--attributes",
            "--links",
            "--source",
            "s",
            "--comment",
            "c",
        ]);
        let args = args.unwrap().unwrap();
        let options = &args.maker.options;
        assert_eq!(options.trackers, [vec!["http://a/,b", "udp://c:1"], vec!["http://d/"]]);
        assert_eq!(options.nodes, [("::1".to_owned(), 5)]);
        assert_eq!(
            (options.private, options.piece_length, args.maker.date, args.maker.jobs),
            (true, Some(262_144), false, 2)
        );
        assert!(options.include_hidden && options.md5 && options.attributes && options.links);
        assert_eq!((options.format, args.maker.format()), (Format::Hybrid, Format::Hybrid));
        assert_eq!(
            (options.http_seeds.len(), options.collections.len(), options.similar[0][0]),
            (1, 1, 0xda)
        );
        assert_eq!((args.path, args.output), (PathBuf::from("dir"), Some(PathBuf::from("x"))));
    }

    #[test]
    fn wrong_usage_says_what_is_wrong() {
        for (args, word) in [
            (&[][..], "PATH is missing"),
            (&["a", "b"], "b"),
            (&["a", "--nonsense"], "--nonsense"),
            (&["a", "-z"], "-z"),
            (&["a", "--announce", "tracker"], "not a URL"),
            (&["a", "--announce", "http://a b/"], "not a URL"),
            (&["a", "--web-seed", "udp://x"], "http"),
            (&["a", "--node", "x"], "HOST:PORT"),
            (&["a", "--piece-size", "100k"], "power of two"),
            (&["a", "--piece-size", "1G"], "power of two"),
            (&["a", "--format", "v3"], "v1, hybrid, v2, merkle"),
            (&["a", "--similar", "x"], "info-hash"),
            (&["a", "--update-url", "ftp://x"], "http"),
            (&["a", "--trackerless", "-a", "http://a/"], "exclude"),
            (&["a", "-a", "http://a/", "--trackerless"], "exclude"),
            (&["a", "--jobs", "0"], "jobs"),
            (&["a", "--jobs", "x"], "x"),
            (&["a", "-o"], "-o"),
        ] {
            let error = take(args).err().unwrap();
            assert!(error.contains(word), "{args:?}: {error}");
        }
        assert!(take(&["--help"]).unwrap().is_none());
    }
}

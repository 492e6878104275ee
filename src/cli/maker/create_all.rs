//! `meshseed create --all`: one torrent for each entry of a folder, as mainline's `btcompletedir` made them.
//!
//! Read first: `create.rs`. An entry is left alone whose torrent lists its files with their sizes, when neither a file nor
//! a folder of it has changed since the torrent was written (ctime tells of every change, of names too). Omits noticing
//! that options are others than last time: `--force` makes all anew. Holds the names of the folder, and one torrent.
#![expect(clippy::disallowed_methods, reason = "I/O shell")]

use std::ffi::{OsStr, OsString};
use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::options::MakerArgs;
use crate::cli::output::{self, bytes, count};
use crate::metainfo::maker::io::Error;
use crate::metainfo::survey::Survey;
use crate::metainfo::{hex, io, maker};

/// What the user says beside what a torrent holds.
pub struct All<'a> {
    /// The folder whose entries are made torrents of.
    pub folder: &'a Path,
    /// Where the torrents go; beside the entries if nowhere else.
    pub output: Option<&'a Path>,
    /// Also those that are unchanged, and over files that are no torrent of the entry.
    pub force: bool,
    /// Neither progress nor summary.
    pub quiet: bool,
}

/// What became of the entries.
#[derive(Default)]
struct Tally {
    made: u64,
    unchanged: u64,
    empty: u64,
    failed: u64,
}

/// What is known of the .torrent of an entry.
#[derive(Debug, PartialEq, Eq)]
enum Old {
    /// There is none.
    Absent,
    /// It is of the entry as it is.
    Current,
    /// It is of the entry as it was.
    Outdated,
    /// It is of something else.
    Foreign,
}

impl All<'_> {
    /// Makes them, one after the other; one that fails does not keep the others from being made.
    pub fn run(&self, maker: &MakerArgs) -> ExitCode {
        if let Err(error) = io::writable(self.output.unwrap_or(self.folder)) {
            return output::failed("create", &error);
        }
        let mut names = match self.entries(maker) {
            Ok(names) => names,
            Err(error) => return output::failed("create", &io::Error::Io(self.folder.to_owned(), error)),
        };
        names.sort_unstable();
        let mut tally = Tally::default();
        for name in &names {
            if let Err(reason) = self.one(name, maker, &mut tally) {
                tally.failed += 1;
                output::note(format_args!("create: {reason}"));
            }
        }
        if !self.quiet {
            let line = tally.line();
            let printed = output::print(&line);
            if printed != ExitCode::SUCCESS {
                return printed;
            }
        }
        if tally.failed > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS }
    }

    /// The names that count: no torrents, nothing that belongs to them, nothing that the maker leaves out of a folder.
    fn entries(&self, maker: &MakerArgs) -> std::io::Result<Vec<OsString>> {
        let own = self.output.and_then(|output| output.canonicalize().ok());
        let mut names = Vec::new();
        for item in fs::read_dir(self.folder)? {
            let item = item?;
            let (name, path) = (item.file_name(), item.path());
            let is_ours = ["torrent", "where", "magnet"].iter().any(|ending| has_ending(&path, ending));
            let is_output =
                || own.as_ref().is_some_and(|own| path.canonicalize().is_ok_and(|path| path == *own));
            if !is_ours && !maker.leaves_out(&name.to_string_lossy()) && !is_output() {
                names.push(name);
            }
        }
        Ok(names)
    }

    fn one(&self, name: &OsStr, maker: &MakerArgs, tally: &mut Tally) -> Result<(), String> {
        let path = self.folder.join(name);
        let mut file = name.to_owned();
        file.push(".torrent");
        let file = self.output.unwrap_or(self.folder).join(file);
        match old(&path, &file) {
            Old::Current if !self.force => {
                tally.unchanged += 1;
                return Ok(());
            }
            Old::Foreign if !self.force => {
                return Err(format!("{}: it is no torrent of {}", file.display(), path.display()));
            }
            _ => {}
        }
        let created = match maker.clone().create(&path, self.quiet) {
            Ok(created) => created,
            Err(Error::Maker(_, maker::Error::Empty)) => {
                tally.empty += 1;
                return Ok(());
            }
            // As in a folder: left out, and told.
            Err(Error::File(error @ io::Error::Special(_))) => {
                if !self.quiet {
                    output::note(error);
                }
                return Ok(());
            }
            Err(error) => return Err(error.to_string()),
        };
        created.warnings.iter().filter(|_| !self.quiet).for_each(output::note);
        // What we would refuse to read is not written.
        let survey = Survey::read(&created.bytes).map_err(|error| format!("{}: {error}", path.display()))?;
        io::save(&file, &created.bytes, true).map_err(|error| error.to_string())?;
        tally.made += 1;
        if !self.quiet {
            let torrent = &survey.metainfo;
            let hash = survey.info_hash().map(|hash| hash.to_string());
            let hash = hash.or(torrent.info_hash_v2.map(|hash| hex(&hash))).unwrap_or_default();
            let (file, size) = (output::clean(&file.display().to_string()), bytes(created.plan.content));
            let pieces = count(torrent.lengths.piece_count().into(), "piece");
            output::print(&format!("{file}: {size}, {pieces}, info-hash {hash}\n"));
        }
        Ok(())
    }
}

impl Tally {
    fn line(&self) -> String {
        let mut line = format!("{} made, {} unchanged", count(self.made, "torrent"), self.unchanged);
        for (number, what) in [(self.empty, "empty"), (self.failed, "failed")] {
            if number > 0 {
                line.push_str(&format!(", {number} {what}"));
            }
        }
        line.push('\n');
        line
    }
}

fn has_ending(path: &Path, ending: &str) -> bool {
    path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case(ending))
}

/// Compares an entry with its torrent.
fn old(path: &Path, file: &Path) -> Old {
    let Ok(written) = fs::metadata(file) else { return Old::Absent };
    if !written.is_file() {
        return Old::Foreign;
    }
    let bytes = io::read(file).unwrap_or_default();
    let Ok(survey) = Survey::read(&bytes) else { return Old::Foreign };
    let torrent = &survey.metainfo;
    if Some(torrent.name.as_str()) != path.file_name().and_then(OsStr::to_str) {
        return Old::Foreign;
    }
    let is_there = torrent.files.iter().filter(|file| !file.pad).all(|file| {
        let below = if torrent.multi_file { path.join(&file.path) } else { path.to_owned() };
        fs::metadata(below).is_ok_and(|found| found.is_file() && found.len() == file.length)
    });
    if is_there && !has_changed_since(path, &written).unwrap_or(true) { Old::Current } else { Old::Outdated }
}

/// Whether anything below has changed since that file was written, or in the same moment.
fn has_changed_since(path: &Path, written: &Metadata) -> std::io::Result<bool> {
    let is_newer =
        |found: &Metadata| (found.ctime(), found.ctime_nsec()) >= (written.mtime(), written.mtime_nsec());
    let whole = fs::metadata(path)?;
    let mut folders: Vec<PathBuf> = if whole.is_dir() { vec![path.to_owned()] } else { Vec::new() };
    if is_newer(&whole) {
        return Ok(true);
    }
    while let Some(folder) = folders.pop() {
        for item in fs::read_dir(&folder)? {
            let item = item?;
            let found = item.metadata()?;
            if is_newer(&found) {
                return Ok(true);
            }
            if found.is_dir() {
                folders.push(item.path());
            }
        }
    }
    Ok(false)
}

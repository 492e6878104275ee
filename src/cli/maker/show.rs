//! `meshseed show`: what a torrent or magnet link says, and what is unusual about it.
//!
//! Read first: `metainfo/survey/mod.rs` and `lint.rs` beside it. Omits checking the content, which is `check`.
#![expect(clippy::disallowed_methods, reason = "I/O shell")]

use std::ffi::OsString;
use std::fmt::Write;
use std::path::Path;
use std::process::ExitCode;
use std::time::SystemTime;

use crate::cli::arguments::{Arg, Parser};
use crate::cli::output::{self, bytes, clean};
use crate::clock::{time_of_day, utc};
use crate::metainfo::magnet::{self, Magnet, ranges};
use crate::metainfo::survey::Survey;
use crate::metainfo::survey::lint::lint;
use crate::metainfo::{File, hex, io};
use crate::status::value::table;
use crate::status::{Value, json};
use crate::watch::is_magnet;

/// The help of `meshseed show`.
pub const HELP: &str = "\
meshseed show FILE|MAGNET [--json]

Prints what a .torrent (v1, hybrid, v2 or Merkle), a magnet link, or a file that
holds one says. A warning tells what is unusual about it, and what that means
for those who read it. What no client could use is refused, with the reason.

      --json    one JSON object, for programs
      --help

Exit status: 0 shown, 1 refused, 2 wrong usage.

Examples:
  meshseed show ubuntu.torrent
  meshseed show --json ubuntu.torrent | jq -r '.warnings[]'
";

/// The fields of `--json`. Of a magnet link those stay null that only the torrent knows.
struct Shown {
    /// `null` where there is a v2 half alone.
    info_hash: Option<String>,
    info_hash_v2: Option<String>,
    format: Option<&'static str>,
    name: Option<String>,
    size: Option<u64>,
    piece_length: Option<u32>,
    pieces: Option<u32>,
    private: Option<bool>,
    files: Vec<ShownFile>,
    trackers: Vec<Vec<String>>,
    web_seeds: Vec<String>,
    http_seeds: Vec<String>,
    nodes: Vec<(String, u16)>,
    peers: Vec<(String, u16)>,
    select: Vec<(u32, u32)>,
    source: Option<String>,
    comment: Option<String>,
    created_by: Option<String>,
    creation_date: Option<i64>,
    update_url: Option<String>,
    similar: Vec<String>,
    collections: Vec<String>,
    warnings: Vec<String>,
}

struct ShownFile {
    path: String,
    length: u64,
    pad: bool,
    executable: bool,
}

table!(Shown: info_hash, info_hash_v2, format, name, size, piece_length, pieces, private, files, trackers, web_seeds,
    http_seeds, nodes, peers, select, source, comment, created_by, creation_date, update_url, similar, collections, warnings);
table!(ShownFile: path, length, pad, executable);

/// The command.
pub fn run(mut parser: Parser) -> ExitCode {
    match take(&mut parser) {
        Ok(None) => output::print(HELP),
        Ok(Some((what, json))) => show(&what, json),
        Err(error) => output::wrong_usage("show", &error),
    }
}

/// `None` where help is asked for.
fn take(parser: &mut Parser) -> Result<Option<(OsString, bool)>, String> {
    let (mut what, mut json) = (None, false);
    while let Some(arg) = parser.next()? {
        match arg {
            Arg::Long("help") | Arg::Short('h') => return Ok(None),
            Arg::Long("json") => json = true,
            Arg::Value(value) if what.is_none() => what = Some(value),
            other => return Err(other.unexpected()),
        }
    }
    Ok(Some((what.ok_or("FILE or MAGNET is missing")?, json)))
}

fn show(what: &OsString, json: bool) -> ExitCode {
    let shown = match load(what) {
        Ok(shown) => shown,
        Err(reason) => return output::failed("show", &reason),
    };
    if !json {
        return output::print(&shown.text());
    }
    output::print(&json::line(&Value::from(shown)))
}

fn load(what: &OsString) -> Result<Shown, String> {
    let is_link = |text: &&str| text.get(..7).is_some_and(|head| head.eq_ignore_ascii_case("magnet:"));
    if let Some(text) = what.to_str().filter(is_link) {
        return Magnet::any(text).map(Shown::of_magnet).map_err(|error| error.to_string());
    }
    let path = Path::new(what);
    let content = io::read(path).map_err(|error| error.to_string())?;
    let named = |reason: String| format!("{}: {reason}", path.display());
    match Magnet::any_of_file(&content) {
        Ok(magnet) => Ok(Shown::of_magnet(magnet)),
        Err(magnet::Error::NoMagnet | magnet::Error::NotOne) if !is_magnet(path) => {
            let now = time_of_day(SystemTime::now());
            let survey = Survey::read(&content).map_err(|error| named(error.to_string()))?;
            Ok(Shown::of_torrent(survey, now))
        }
        Err(error) => Err(named(error.to_string())),
    }
}

impl Shown {
    fn of_torrent(survey: Survey<'_>, now: Option<u64>) -> Shown {
        let warnings = lint(&survey, now);
        let (format, info_hash) = (survey.format(), survey.info_hash());
        let torrent = survey.metainfo;
        // The padding of a v2 torrent stands nowhere, not even in its list of files.
        let shown = || torrent.files.iter().filter(|file| format != "v2" || !file.pad);
        let file = |f: &File| ShownFile {
            path: torrent.path_of(f),
            length: f.length,
            pad: f.pad,
            executable: f.executable,
        };
        Shown {
            info_hash: info_hash.map(|hash| hash.to_string()),
            info_hash_v2: torrent.info_hash_v2.map(|hash| hex(&hash)),
            format: Some(format),
            size: Some(shown().map(|file| file.length).sum()),
            piece_length: Some(torrent.lengths.piece_length()),
            pieces: Some(torrent.lengths.piece_count()),
            private: Some(torrent.private),
            files: shown().map(file).collect(),
            name: Some(torrent.name),
            trackers: torrent.trackers,
            web_seeds: torrent.web_seeds,
            http_seeds: torrent.http_seeds,
            nodes: torrent.nodes,
            peers: Vec::new(),
            select: Vec::new(),
            source: survey.source,
            comment: survey.comment,
            created_by: survey.created_by,
            creation_date: survey.creation_date,
            update_url: survey.update_url,
            similar: survey.similar.iter().map(|hash| hash.to_string()).collect(),
            collections: survey.collections,
            warnings: torrent.warnings.into_iter().chain(warnings).collect(),
        }
    }

    fn of_magnet(magnet: Magnet) -> Shown {
        let v2_only = magnet.is_v2_only();
        let warning =
            "it names a v2 torrent alone: meshseed does not fetch it, nor do clients older than 2020";
        Shown {
            info_hash: (!v2_only).then(|| magnet.info_hash.to_string()),
            info_hash_v2: magnet.info_hash_v2.map(|hash| hex(&hash)),
            format: None,
            name: magnet.name,
            size: None,
            piece_length: None,
            pieces: None,
            private: None,
            files: Vec::new(),
            trackers: magnet.trackers.into_iter().map(|url| vec![url]).collect(),
            web_seeds: magnet.web_seeds,
            http_seeds: Vec::new(),
            nodes: Vec::new(),
            peers: magnet.peers,
            select: magnet.select,
            source: None,
            comment: None,
            created_by: None,
            creation_date: None,
            update_url: None,
            similar: Vec::new(),
            collections: Vec::new(),
            warnings: v2_only.then(|| warning.to_owned()).into_iter().collect(),
        }
    }

    /// For people: what is absent has no line.
    fn text(&self) -> String {
        let mut out = String::new();
        let mut row = |key: &str, value: Option<String>| write_row(&mut out, key, value);
        row("name", self.name.clone());
        row("info-hash", self.info_hash.clone());
        row("info-hash v2", self.info_hash_v2.clone());
        row("format", self.format.map(|format| format.to_owned()));
        row(
            "size",
            self.size.map(
                |size| if size < 1000 { bytes(size) } else { format!("{} ({size} bytes)", bytes(size)) },
            ),
        );
        let cut = self.pieces.zip(self.piece_length);
        row("pieces", cut.map(|(pieces, length)| format!("{pieces} of {}", bytes(length.into()))));
        row(
            "private",
            self.private.filter(|private| *private).map(|_| "yes: peers from the trackers alone".to_owned()),
        );
        row("source", self.source.clone());
        row("comment", self.comment.clone());
        row("created by", self.created_by.clone());
        row(
            "created",
            self.creation_date.map(|date| utc(date).unwrap_or_else(|| format!("{date} (Unix time)"))),
        );
        for (i, tier) in self.trackers.iter().enumerate() {
            tier.iter().for_each(|url| row(&format!("tracker {}", i + 1), Some(url.clone())));
        }
        self.web_seeds.iter().for_each(|url| row("web seed", Some(url.clone())));
        self.http_seeds.iter().for_each(|url| row("http seed", Some(url.clone())));
        self.nodes.iter().for_each(|(host, port)| row("node", Some(format!("{host} port {port}"))));
        self.peers.iter().for_each(|(host, port)| row("peer", Some(format!("{host} port {port}"))));
        row("update from", self.update_url.clone());
        self.similar.iter().for_each(|hash| row("similar to", Some(hash.clone())));
        self.collections.iter().for_each(|name| row("collection", Some(name.clone())));
        let selected = (!self.select.is_empty()).then(|| ranges(&self.select));
        row("selects", selected.map(|files| format!("files {files} (meshseed fetches all files)")));
        self.warnings.iter().for_each(|warning| row("warning", Some(warning.clone())));
        for file in &self.files {
            let kind = match (file.pad, file.executable) {
                (true, _) => " (padding)",
                (false, true) => " (executable)",
                (false, false) => "",
            };
            row("file", Some(format!("{:>10} {}{kind}", bytes(file.length), file.path)));
        }
        out
    }
}

#[inline(never)]
fn write_row(out: &mut String, key: &str, value: Option<String>) {
    if let Some(value) = value {
        let _ = writeln!(out, "{key:<13} {}", clean(&value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TORRENT: &[u8] = b"d7:comment6:a\x1b[31m13:creation datei951782400e4:infod5:filesld4:attr1:x6:lengthi3e4:pathl1:a1:bee\
        d4:attr1:p6:lengthi5e4:pathl4:.pad1:5eee4:name1:n12:piece lengthi16384e6:pieces20:aaaaaaaaaaaaaaaaaaaaee";

    #[test]
    fn json_has_the_fields_of_the_contract() {
        let shown = Shown::of_torrent(Survey::read(TORRENT).unwrap(), None);
        let hash = shown.info_hash.as_ref().unwrap();
        let expected = format!(
            "{{\"info_hash\":\"{hash}\",\"info_hash_v2\":null,\"format\":\"v1\",\"name\":\"n\",\"size\":8,\"piece_length\":16384,\"pieces\":1,\
             \"private\":false,\"files\":[{{\"path\":\"n/a/b\",\"length\":3,\"pad\":false,\"executable\":true}},\
             {{\"path\":\"n/.pad/5\",\"length\":5,\"pad\":true,\"executable\":false}}],\"trackers\":[],\"web_seeds\":[],\"http_seeds\":[],\
             \"nodes\":[],\"peers\":[],\"select\":[],\"source\":null,\"comment\":\"a\\u001b[31m\",\"created_by\":null,\
             \"creation_date\":951782400,\"update_url\":null,\"similar\":[],\"collections\":[],\"warnings\":[]}}"
        );
        let shown = Shown { warnings: Vec::new(), ..shown };
        assert_eq!(json::line(&Value::from(shown)).trim_end(), expected);
    }

    #[test]
    fn people_read_lines_that_can_not_command_the_terminal() {
        let text = Shown::of_torrent(Survey::read(TORRENT).unwrap(), None).text();
        assert!(!text.contains('\x1b'), "{text}");
        assert!(text.contains("created       2000-02-29 00:00:00 UTC\n"), "{text}");
        assert!(text.contains("n/a/b (executable)\n") && text.contains("n/.pad/5 (padding)\n"), "{text}");
    }

    #[test]
    fn a_magnet_link_shows_what_it_has() {
        let link = "magnet:?xt=urn:btih:2e34989b1c60df821b2d046c884d8f4d1858b97a&dn=x&tr=http://t/&x.pe=h:1";
        let shown = load(&link.into()).unwrap();
        assert_eq!(
            (shown.name.as_deref(), shown.size, shown.trackers.len(), shown.peers.len()),
            (Some("x"), None, 1, 1)
        );
        assert!(load(&"magnet:?dn=x".into()).is_err());
    }

    #[test]
    fn arguments_are_one_file_or_link() {
        let take = |args: &[&str]| take(&mut Parser::from_args(args)).map_err(|error| error.to_string());
        assert_eq!(take(&["--json", "x"]), Ok(Some(("x".into(), true))));
        assert_eq!(take(&["-h"]), Ok(None));
        assert!(take(&[]).unwrap_err().contains("missing"));
        assert!(take(&["a", "b"]).is_err() && take(&["--x"]).is_err());
    }
}

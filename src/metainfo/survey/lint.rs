//! What is unusual about a torrent, and what that means for those who are to read it: one sentence each.
//!
//! Read first: BEP 3, 12 (announce-list), 19 (web seeds), 27 (private), 52. Omits what the reader itself warns of
//! ([`Metainfo::warnings`]). Holds the paths once more, in lower case.

use std::fmt::Display;

use super::Survey;
use crate::bencode::{Parser, Token, Value, printable};
use crate::list::{self, Gather};
use crate::metainfo::maker::problem;
use crate::metainfo::{Metainfo, web};
use crate::piece::BLOCK;

/// Bytes of a piece above which clients refuse or choke.
const LARGE_PIECE: u32 = 16 << 20;

/// Pieces above which the .torrent weighs more than 2 MB.
const MANY_PIECES: u32 = 100_000;

/// Bytes of a .torrent above which libtorrent refuses it.
const LARGE_TORRENT: usize = 10_000_000;

/// Characters of a path above which Windows does not open it.
const LONG_PATH: usize = 259;

/// BitTorrent is younger: July 2001.
const FIRST_DATE: i64 = 993_945_600;

/// A clock may be a day ahead.
const DAY: i64 = 86_400;

/// Looks at all of a torrent; `now` is Unix seconds, where the clock is set.
pub fn lint(survey: &Survey<'_>, now: Option<u64>) -> Vec<String> {
    let mut found = Vec::new();
    formats(survey, &mut found);
    pieces(survey, &mut found);
    encoding(survey, &mut found);
    names(&survey.metainfo, &mut found);
    peers(survey, &mut found);
    urls(&survey.metainfo, &mut found);
    if let Some(date) = survey.creation_date
        && (date < FIRST_DATE
            || now.and_then(|now| i64::try_from(now).ok()).is_some_and(|now| date > now + DAY))
    {
        found.push(format!(
            "the creation date ({date}) can not be right: programs that sort by it are misled"
        ));
    }
    found
}

fn formats(survey: &Survey<'_>, found: &mut Vec<String>) {
    let torrent = &survey.metainfo;
    match (survey.format(), &survey.tree) {
        ("v2", _) => found.push(
            "it is v2 alone: meshseed does not serve it and clients older than 2020 refuse it, --format hybrid suits all"
                .to_owned(),
        ),
        ("merkle", _) => found.push(
            "it is a Merkle torrent (BEP 30): meshseed and nearly all other clients refuse it, --format v1 suits all"
                .to_owned(),
        ),
        (_, Some(Err(error))) => {
            found.push(format!("the v2 half is broken ({error}): clients that know v2 refuse the torrent"));
        }
        (_, Some(Ok(tree))) => {
            let length = torrent.lengths.piece_length();
            if let Some(how) = tree.differs(&torrent.files, torrent.multi_file, length) {
                found.push(format!(
                    "the v1 and the v2 half differ ({how}): clients that know v2 refuse it, or fetch something else"
                ));
            }
        }
        _ => {}
    }
}

fn pieces(survey: &Survey<'_>, found: &mut Vec<String>) {
    let lengths = survey.metainfo.lengths;
    let length = lengths.piece_length();
    if !length.is_power_of_two() {
        found.push(format!("pieces of {length} bytes are no power of two: some clients refuse the torrent"));
    }
    if length < BLOCK {
        found.push(format!(
            "pieces of {length} bytes are smaller than a block: some clients refuse the torrent"
        ));
    }
    if length > LARGE_PIECE {
        found.push(format!(
            "pieces of {} MiB are larger than 16 MiB: old clients refuse them, and a bit that is wrong costs as much",
            length >> 20
        ));
    }
    let count = lengths.piece_count();
    if count > MANY_PIECES {
        found
            .push(format!("{count} pieces are very many: small devices lack the memory, larger pieces help"));
    }
    let size = survey.root.raw().len();
    if size > LARGE_TORRENT {
        found.push(format!(
            "a .torrent of {size} bytes is refused by clients with libtorrent: larger pieces help"
        ));
    }
}

/// How it is written.
fn encoding(survey: &Survey<'_>, found: &mut Vec<String>) {
    if let Some(key) = unsorted(survey.root) {
        found.push(format!(
            "key `{}` is out of order: strict clients refuse it, others may get another info-hash",
            printable(key)
        ));
    }
    if survey.rest > 0 {
        found.push(format!("{} after its end: strict clients refuse it", bytes(survey.rest)));
    }
    if let Some(charset) = survey.root.find(b"encoding").and_then(Value::as_bytes)
        && ![&b"utf-8"[..], b"utf8"].iter().any(|utf8| charset.eq_ignore_ascii_case(utf8))
    {
        found.push(format!(
            "it says to be in {}: clients that expect UTF-8 show other names",
            printable(charset)
        ));
    }
    if survey.root.find(b"private").is_some() && !survey.metainfo.private {
        found.push("`private` stands outside of `info`: the torrent is public all the same".to_owned());
    }
    let private = survey.root.find(b"info").and_then(|info| info.find(b"private"));
    if private.is_some_and(|value| !matches!(value.as_int(), Some(0 | 1))) {
        found.push("`private` is neither 0 nor 1: clients differ in what they make of it".to_owned());
    }
}

fn names(torrent: &Metainfo, found: &mut Vec<String>) {
    let paths = || torrent.files.iter().filter(|file| !file.pad).map(|file| file.path.as_str());
    let parts = || std::iter::once(torrent.name.as_str()).chain(paths().flat_map(|path| path.split('/')));
    // Each kind once, with the first name of it.
    let mut kinds: Vec<&str> = parts().filter_map(problem).gather();
    list::sort(&mut kinds);
    kinds.dedup();
    for kind in kinds {
        some(found, parts().filter(|name| problem(name) == Some(kind)), kind);
    }
    some(
        found,
        paths().filter(|path| torrent.name.chars().count() + 1 + path.chars().count() > LONG_PATH),
        "Windows does not open paths of 260 characters and more",
    );
    some(
        found,
        paths().filter(|path| {
            path.rsplit('/').next().is_some_and(|name| name.starts_with("_____padding_file_"))
        }),
        "padding of BitComet: other clients store it as files of zeros",
    );
    let mut lower: Vec<(String, &str)> = paths().map(|path| (path.to_lowercase(), path)).collect();
    list::sort(&mut lower);
    let twins = lower.windows(2).filter(|pair| pair[0].0 == pair[1].0).map(|pair| pair[1].1);
    some(
        found,
        twins,
        "another file's name differs by case alone: on Windows, macOS and FAT one replaces the other",
    );
}

/// Who is asked for peers.
fn peers(survey: &Survey<'_>, found: &mut Vec<String>) {
    let torrent = &survey.metainfo;
    let has_web = !torrent.web_seeds.is_empty() || !torrent.http_seeds.is_empty();
    match (torrent.private, torrent.trackers.is_empty(), torrent.nodes.is_empty()) {
        (true, true, _) => {
            found.push("it is private and names no tracker: nobody finds peers of it".to_owned());
        }
        (true, false, false) => {
            found.push("it is private and names DHT nodes: they are not asked".to_owned());
        }
        (false, true, true) => found.push(format!(
            "it names no tracker and no DHT node: peers are found {}through a DHT that a client knows already, or nearby",
            if has_web { "(beside its web seeds) " } else { "" }
        )),
        _ => {}
    }
    let announce = survey.root.find(b"announce").and_then(Value::as_str).unwrap_or_default().trim();
    let tiers = survey.root.find(b"announce-list").and_then(Value::items);
    if tiers.is_some()
        && !announce.is_empty()
        && !torrent.trackers.iter().flatten().any(|url| url == announce)
    {
        found.push(format!("{announce} is not in `announce-list`: clients that read the list never ask it"));
    }
    if tiers.into_iter().flatten().any(|tier| tier.items().is_none()) {
        found.push("`announce-list` holds URLs outside of tiers: some clients pass over them".to_owned());
    }
}

fn urls(torrent: &Metainfo, found: &mut Vec<String>) {
    for url in torrent.trackers.iter().flatten() {
        let (scheme, rest) = url.split_once("://").unwrap_or_default();
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let authority = authority.split(['?', '#']).next().unwrap_or_default();
        let host = authority.rsplit_once(':').map_or(authority, |(host, _)| host);
        let has_port =
            authority.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok_and(|n| n > 0));
        let why = match scheme.to_ascii_lowercase().as_str() {
            "udp" if !has_port => "has no port, which UDP trackers need: no client asks it",
            "http" | "https" if path.is_empty() => "has no path such as /announce: few trackers answer there",
            "ws" | "wss" => {
                "is a WebTorrent tracker: browsers ask it, meshseed and most other clients do not"
            }
            "http" | "https" | "udp" if ["localhost", "127.0.0.1", "[::1]"].contains(&host) => {
                "is asked by each client on its own machine alone: nobody else is found there"
            }
            "http" | "https" | "udp" => continue,
            _ => "is of a kind that no client knows: it is not asked",
        };
        found.push(format!("tracker {url} {why}"));
    }
    for url in &torrent.web_seeds {
        let is_folder = url.ends_with('/');
        if torrent.multi_file && !is_folder {
            found.push(format!(
                "web seed {url} does not end with `/`, though the torrent is a folder: some clients ask for a wrong path"
            ));
        } else if !torrent.multi_file && is_folder {
            found.push(format!(
                "web seed {url} is a folder, though the torrent is a file: some clients do not add the file's name"
            ));
        }
        if url.contains('?') {
            found.push(format!(
                "web seed {url} has a query: clients that add a path to it get something else"
            ));
        }
    }
    if torrent.web_seeds.is_empty() && torrent.http_seeds.iter().any(|url| web(url)) {
        found.push(
            "it has only `httpseeds` (BEP 17): few clients ask them, `url-list` is known to most".to_owned(),
        );
    }
}

/// One sentence about all names of a kind.
fn some<'a>(found: &mut Vec<String>, mut names: impl Iterator<Item = &'a str>, why: impl Display) {
    let Some(first) = names.next() else { return };
    let first = printable(first.as_bytes());
    match names.count() {
        0 => found.push(format!("{first}: {why}")),
        more => found.push(format!("{first} and {more} more: {why}")),
    }
}

/// A key of a dictionary that stands behind a greater one.
fn unsorted(root: Value<'_>) -> Option<&[u8]> {
    let mut parser = Parser::new(root.raw());
    // What is open: of a dictionary the last key, and whether its value comes next.
    let mut open: Vec<Option<(&[u8], bool)>> = Vec::new();
    while parser.offset() < root.raw().len() {
        let token = parser.token().ok()?;
        match (open.last_mut(), token) {
            (Some(Some((last, is_value @ false))), Token::Bytes(key)) => {
                if key < *last {
                    return Some(key);
                }
                (*last, *is_value) = (key, true);
                continue;
            }
            (Some(Some((_, is_value))), _) => *is_value = false,
            _ => {}
        }
        match token {
            Token::Dict => open.push(Some((b"", false))),
            Token::List => open.push(None),
            Token::End => drop(open.pop()),
            Token::Int(_) | Token::Bytes(_) => {}
        }
    }
    None
}

fn bytes(n: usize) -> String {
    format!("{n} byte{}", if n == 1 { " stands" } else { "s stand" })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is found in a torrent of one piece: `outer` are the entries before `info`, a bar, and those after it; `inner`
    /// are those in it before `pieces`, a bar, and those after that.
    fn found(outer: &str, inner: &str) -> Vec<String> {
        let (before, after) = outer.split_once('|').unwrap_or((outer, ""));
        let (inner, last) = inner.split_once('|').unwrap_or((inner, ""));
        let bytes = format!("d{before}4:infod{inner}6:pieces20:aaaaaaaaaaaaaaaaaaaa{last}e{after}e");
        lint(&Survey::read(bytes.as_bytes()).unwrap(), Some(1_800_000_000))
    }

    const SINGLE: &str = "6:lengthi3e4:name1:n12:piece lengthi16384e";

    const TRACKER: &str = "8:announce17:http://t/announce";

    fn outer(entries: &str) -> Vec<String> {
        found(entries, SINGLE)
    }

    fn files(paths: &[&str]) -> Vec<String> {
        let entry = |path: &&str| format!("d6:lengthi1e4:pathl{}:{path}ee", path.len());
        let list: String = paths.iter().map(entry).collect();
        found(TRACKER, &format!("5:filesl{list}e4:name1:n12:piece lengthi16384e"))
    }

    /// One line, and these words in it.
    fn says(lines: &[String], words: &str) {
        assert!(matches!(lines, [line] if line.contains(words)), "{words}: {lines:?}");
    }

    #[test]
    fn a_usual_torrent_has_nothing_to_tell() {
        assert_eq!(outer(TRACKER), [""; 0]);
        assert_eq!(files(&["a", "b.txt", "größe", ".hidden"]), [""; 0]);
        assert_eq!(outer("8:announce15:udp://tracker:1"), [""; 0]);
        assert_eq!(outer("8:announce17:http://t/announce13:announce-listll17:http://t/announceee"), [""; 0]);
    }

    #[test]
    fn pieces_that_some_clients_refuse_are_told() {
        let piece = |n: u32| found(TRACKER, &SINGLE.replace("16384", &n.to_string()));
        says(&piece(20_000), "no power of two");
        says(&piece(8192), "smaller than a block");
        says(&piece(32 << 20), "larger than 16 MiB");
        assert_eq!(piece(16 << 20), [""; 0]);
    }

    #[test]
    fn names_that_other_systems_can_not_store_are_told_once_a_kind() {
        says(&files(&["a:b", "x", "c:d", "e:f"]), "a:b and 2 more: Windows and FAT");
        says(&files(&["nul.txt"]), "name of a device");
        assert_eq!(files(&["a:b", "CON"]).len(), 2, "one line a kind");
        says(&files(&["Readme", "x", "README"]), "differs by case alone");
        says(&files(&["_____padding_file_0_x"]), "BitComet");
        says(&found(TRACKER, &SINGLE.replace("1:n", "5:a*b.c")), "Windows and FAT");
    }

    #[test]
    fn whom_nobody_finds_is_told() {
        says(&outer(""), "no tracker and no DHT node");
        assert_eq!(outer("|5:nodesll4:hosti1eee"), [""; 0]);
        let keys = |outer: &str| found(outer, &format!("{SINGLE}|7:privatei1e"));
        says(&keys(""), "private and names no tracker");
        assert_eq!(keys(TRACKER), [""; 0]);
        let nodes = keys(&format!("{TRACKER}|5:nodesll4:hosti1eee"));
        assert!(nodes.iter().any(|line| line.contains("not asked")), "{nodes:?}");
        says(&outer(&format!("{TRACKER}|7:privatei1e")), "public all the same");
        says(&found(TRACKER, &format!("{SINGLE}|7:privatei2e")), "neither 0 nor 1");
        says(
            &outer("8:announce17:http://t/announce13:announce-listll17:http://u/announceee"),
            "not in `announce-list`",
        );
        says(&outer("13:announce-listl17:http://u/announcee"), "outside of tiers");
    }

    #[test]
    fn urls_of_a_form_that_does_not_work_are_told() {
        let announce = |url: &str| outer(&format!("8:announce{}:{url}", url.len()));
        says(&announce("udp://tracker/announce"), "no port");
        says(&announce("http://tracker"), "no path");
        says(&announce("wss://tracker/"), "WebTorrent");
        says(&announce("dht://tracker/x"), "no client knows");
        says(&announce("http://127.0.0.1:80/announce"), "own machine alone");
        let seed = |url: &str| format!("{TRACKER}|8:url-list{}:{url}", url.len());
        says(&outer(&seed("http://w/dir/")), "is a folder");
        assert_eq!(outer(&seed("http://w/file")), [""; 0]);
        says(&outer(&seed("http://w/file?x=1")), "has a query");
        let multi = "5:filesld6:lengthi1e4:pathl1:aeee4:name1:n12:piece lengthi16384e";
        says(&found(&seed("http://w/dir"), multi), "does not end with `/`");
        assert_eq!(found(&seed("http://w/dir/"), multi), [""; 0]);
        says(&outer(&format!("{TRACKER}9:httpseedsl8:http://xe")), "few clients ask them");
    }

    #[test]
    fn dates_keys_and_rests_that_can_not_be_meant_are_told() {
        for date in ["-1", "0", "1449730287842", "1800090000"] {
            says(&outer(&format!("{TRACKER}13:creation datei{date}e")), "can not be right");
        }
        assert_eq!(outer(&format!("{TRACKER}13:creation datei1800000000e")), [""; 0]);
        says(&outer("7:comment1:c8:announce17:http://t/announce"), "`announce` is out of order");
        says(&found(TRACKER, "4:name1:n6:lengthi3e12:piece lengthi16384e"), "`length` is out of order");
        says(&outer(&format!("{TRACKER}8:encoding3:GBK")), "in GBK");
        let bytes = format!("d{TRACKER}4:infod{SINGLE}6:pieces20:aaaaaaaaaaaaaaaaaaaaee\r\n");
        says(&lint(&Survey::read(bytes.as_bytes()).unwrap(), None), "2 bytes stand after its end");
    }
}

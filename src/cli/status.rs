//! `meshseed status`: asks the running daemon through its control socket and prints what it says.
#![expect(clippy::disallowed_methods, reason = "I/O shell")]

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use lexopt::{Arg, Parser};
use serde::Serialize;
use serde_json::Value;

use super::output::{self, bytes, rate};
use crate::config::Config;
use crate::log::escaped;
use crate::metainfo::InfoHash;
use crate::status::io::{AskError, ask};
use crate::status::{
    List, MAX_LIST, Method, Part, PeerStatus, Peers, RefusedFiles, State, Status, TorrentStatus,
    TrackerStatus,
};

/// What `meshseed status --help` prints.
pub const HELP: &str = "\
Asks the running daemon how it is.

Usage: meshseed status [--json] [-c FILE | --control SOCKET] [INFO_HASH]

  INFO_HASH           one torrent with its trackers and peers, instead of all
  --json              as JSON: the fields of the control socket; all torrents under \"list\"
  -c, --config FILE   the daemon's configuration, which names its control socket
  --control SOCKET    the control socket itself
  -h, --help          this text

Example: meshseed status --json | jq .torrents
";

/// What was asked for on the command line.
#[derive(Debug, Default, PartialEq, Eq)]
struct Options {
    json: bool,
    help: bool,
    config: Option<PathBuf>,
    control: Option<PathBuf>,
    torrent: Option<InfoHash>,
}

/// The command.
pub fn run(parser: Parser) -> ExitCode {
    match parse(parser) {
        Ok(options) if options.help => output::print(HELP),
        Ok(options) => match answer(&options) {
            Ok(text) => output::print(&text),
            Err(reason) => output::failed("status", &reason),
        },
        Err(error) => output::wrong_usage("status", &error),
    }
}

fn parse(mut parser: Parser) -> Result<Options, lexopt::Error> {
    let mut options = Options::default();
    while let Some(argument) = parser.next()? {
        match argument {
            Arg::Long("json") => options.json = true,
            Arg::Short('h') | Arg::Long("help") => options.help = true,
            Arg::Short('c') | Arg::Long("config") => options.config = Some(parser.value()?.into()),
            Arg::Long("control") => options.control = Some(parser.value()?.into()),
            Arg::Value(value) if options.torrent.is_none() => {
                let text = value.to_string_lossy();
                options.torrent = Some(text.parse().map_err(|right| format!("{}: {right}", escaped(&text)))?);
            }
            _ => return Err(argument.unexpected()),
        }
    }
    Ok(options)
}

fn answer(options: &Options) -> Result<String, String> {
    let control = match (&options.control, &options.config) {
        (Some(control), _) => control.clone(),
        (None, Some(file)) => {
            let text =
                std::fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))?;
            Config::parse(&text).map_err(|error| format!("{}: {error}", file.display()))?.control
        }
        (None, None) => Config::default().control,
    };
    let text = match (options.torrent, options.json) {
        (None, false) => overview(&control),
        (None, true) => overview_json(&control),
        (Some(torrent), false) => detail(&control, torrent),
        (Some(torrent), true) => ask::<Value>(&control, &Method::Torrent(torrent)).map(|value| json(&value)),
    };
    text.map_err(|error| error.to_string())
}

fn overview(control: &Path) -> Result<String, AskError> {
    let status: Status = ask(control, &Method::Status)?;
    let mut text = summary(&status);
    let torrents = all(|part| {
        let list: List = ask(control, &Method::List(part))?;
        Ok((list.total, list.torrents))
    })?;
    if !torrents.is_empty() {
        text.push('\n');
        table(&mut text, &torrents);
    }
    if status.refused > 0 {
        text.push_str("\nnot taken:\n");
        let refused = all(|part| {
            let list: RefusedFiles = ask(control, &Method::Refused(part))?;
            Ok((list.total, list.refused))
        })?;
        for file in refused {
            put(&mut text, format_args!("  {}: {}", escaped(&file.file), escaped(&file.reason)));
        }
    }
    Ok(text)
}

fn overview_json(control: &Path) -> Result<String, AskError> {
    let mut status: Value = ask(control, &Method::Status)?;
    let torrents = all(|part| {
        let list: List = ask(control, &Method::List(part))?;
        Ok((list.total, list.torrents))
    })?;
    if let (Some(fields), Ok(list)) = (status.as_object_mut(), serde_json::to_value(torrents)) {
        fields.insert("list".to_owned(), list);
    }
    Ok(json(&status))
}

/// All of a list that comes in parts.
fn all<T>(mut next: impl FnMut(Part) -> Result<(u32, Vec<T>), AskError>) -> Result<Vec<T>, AskError> {
    let mut items = Vec::new();
    loop {
        let offset = u32::try_from(items.len()).unwrap_or(u32::MAX);
        let (total, part) = next(Part { offset, limit: MAX_LIST })?;
        let end = part.is_empty();
        items.extend(part);
        if end || items.len() >= usize::try_from(total).unwrap_or(usize::MAX) {
            return Ok(items);
        }
    }
}

fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default() + "\n"
}

fn summary(status: &Status) -> String {
    let mut text = String::new();
    let listen = if status.listen.is_empty() { "nowhere".to_owned() } else { status.listen.join(", ") };
    put(
        &mut text,
        format_args!("meshseed {}, up {}, listening on {listen}", status.version, duration(status.uptime)),
    );
    let states: Vec<String> = status
        .torrents
        .iter()
        .filter(|(_, count)| *count > 0)
        .map(|(state, count)| format!("{count} {}", state.words()))
        .collect();
    let mut torrents = count(status.torrents.total(), "torrent");
    if !states.is_empty() {
        torrents = format!("{torrents}: {}", states.join(", "));
    }
    if status.refused > 0 {
        torrents = format!("{torrents}; {} not taken", count(status.refused, "file"));
    }
    put(&mut text, format_args!("{torrents}"));
    put(
        &mut text,
        format_args!(
            "{}, up {} ({} in all), down {} ({} in all), memory {}",
            count(status.peers, "peer"),
            rate(status.up_rate),
            bytes(status.up_total),
            rate(status.down_rate),
            bytes(status.down_total),
            bytes(status.memory)
        ),
    );
    if let Some(error) = &status.last_error {
        put(&mut text, format_args!("last error: {}", escaped(error)));
    }
    text
}

fn table(text: &mut String, torrents: &[TorrentStatus]) {
    put(
        text,
        format_args!(
            "{:>10} {:>6} {:>5} {:>11} {:>10}  {:<17} NAME",
            "SIZE", "HAVE", "PEERS", "UP", "SENT", "STATE"
        ),
    );
    for torrent in torrents {
        put(
            text,
            format_args!(
                "{:>10} {:>6} {:>5} {:>11} {:>10}  {:<17} {}",
                bytes(torrent.size),
                percent(torrent.have, torrent.size),
                torrent.peers,
                rate(torrent.up_rate),
                bytes(torrent.up_total),
                torrent.state.words(),
                escaped(&torrent.name)
            ),
        );
        if let Some(reason) = &torrent.reason {
            put(text, format_args!("{:>48}{}", "", escaped(reason)));
        }
    }
}

fn detail(control: &Path, torrent: InfoHash) -> Result<String, AskError> {
    let status: TorrentStatus = ask(control, &Method::Torrent(torrent))?;
    let peers: Peers = ask(control, &Method::Peers(torrent))?;
    Ok(torrent_text(&status, &peers))
}

fn torrent_text(torrent: &TorrentStatus, peers: &Peers) -> String {
    let mut text = String::new();
    let mut field = |name: &str, value: String| put(&mut text, format_args!("{name:<10} {value}"));
    field("name", escaped(&torrent.name));
    field("info-hash", torrent.info_hash.to_string());
    field("file", escaped(&torrent.file));
    field("data", escaped(&torrent.data));
    let state = match (torrent.state, torrent.checked) {
        (State::Checking, Some(checked)) => format!("checking, {} read", bytes(checked)),
        (state, _) => state.words().to_owned(),
    };
    field(
        "state",
        torrent.reason.as_ref().map_or(state.clone(), |reason| format!("{state}: {}", escaped(reason))),
    );
    field("size", format!("{} ({} bytes)", bytes(torrent.size), torrent.size));
    field("have", format!("{} ({})", bytes(torrent.have), percent(torrent.have, torrent.size)));
    field("up", format!("{} ({} in all)", rate(torrent.up_rate), bytes(torrent.up_total)));
    field("down", format!("{} ({} in all)", rate(torrent.down_rate), bytes(torrent.down_total)));
    if !torrent.trackers.is_empty() {
        text.push_str("\ntrackers:\n");
        torrent.trackers.iter().for_each(|tracker| tracker_line(&mut text, tracker));
    }
    if !peers.peers.is_empty() {
        put(&mut text, format_args!("\n{:>11} {:>10} {:>11}  {:<7} ADDRESS", "UP", "SENT", "FOR", "SLOT"));
        peers.peers.iter().for_each(|peer| peer_line(&mut text, peer));
    }
    text
}

fn tracker_line(text: &mut String, tracker: &TrackerStatus) {
    let next = tracker.next_announce.map_or(String::new(), |next| format!(", next in {}", duration(next)));
    put(text, format_args!("  {}: {}{next}", escaped(&tracker.url), escaped(&tracker.state)));
    if let Some(message) = &tracker.message {
        put(text, format_args!("    {}", escaped(message)));
    }
}

fn peer_line(text: &mut String, peer: &PeerStatus) {
    let slot = match (peer.unchoked, peer.interested) {
        (true, _) => "yes",
        (false, true) => "waits",
        (false, false) => "no",
    };
    let local = if peer.local { ", local" } else { "" };
    put(
        text,
        format_args!(
            "{:>11} {:>10} {:>11}  {slot:<7} {} ({}{local})",
            rate(peer.up_rate),
            bytes(peer.up_total),
            duration(peer.connected),
            escaped(&peer.address),
            escaped(&peer.client)
        ),
    );
}

fn put(text: &mut String, line: std::fmt::Arguments) {
    // A String takes every write.
    let _ = text.write_fmt(line);
    text.push('\n');
}

fn count(number: u32, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

/// 100 % only where nothing is missing.
fn percent(have: u64, size: u64) -> String {
    if have >= size {
        return "100 %".to_owned();
    }
    let percent = u128::from(have) * 100 / u128::from(size);
    format!("{percent} %")
}

fn duration(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min"),
        (0, ..) => format!("{hours} h {minutes} min"),
        _ => format!("{days} d {hours} h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(arguments: &[&str]) -> Result<Options, lexopt::Error> {
        parse(Parser::from_args(arguments))
    }

    fn torrent() -> TorrentStatus {
        TorrentStatus {
            info_hash: InfoHash::from_bytes([0xab; 20]),
            name: "a\u{1b}[2Jname".to_owned(),
            file: "/etc/torrents/a.torrent".to_owned(),
            data: "/srv/torrents/a".to_owned(),
            state: State::WaitingForData,
            reason: Some("/srv/torrents/a is not there".to_owned()),
            size: 1_500_000_000,
            have: 1_499_999_999,
            checked: None,
            up_rate: 1_250_000,
            down_rate: 0,
            up_total: 3 << 30,
            down_total: 0,
            peers: 3,
            trackers: vec![TrackerStatus {
                url: "http://t/announce".to_owned(),
                state: "failed".to_owned(),
                next_announce: Some(90),
                message: Some("no\nsuch torrent".to_owned()),
            }],
            added: None,
            completed: None,
        }
    }

    #[test]
    fn the_command_line_is_understood_or_refused() {
        let hash = "ab".repeat(20);
        let all = options(&["--json", "-c", "/f", "--control=/s", &hash]).unwrap();
        let expected = Options {
            json: true,
            help: false,
            config: Some("/f".into()),
            control: Some("/s".into()),
            torrent: Some(InfoHash::from_bytes([0xab; 20])),
        };
        assert_eq!(all, expected);
        for wrong in [&["abc"][..], &["--jsn"], &[&hash, &hash], &["-c"]] {
            assert!(options(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn durations_and_shares_read_well() {
        for (seconds, text) in [(5, "5 s"), (90, "1 min"), (3_700, "1 h 1 min"), (90_000, "1 d 1 h")] {
            assert_eq!(duration(seconds), text);
        }
        assert_eq!(
            (percent(999, 1000), percent(0, 0), percent(u64::MAX - 1, u64::MAX)),
            ("99 %".to_owned(), "100 %".to_owned(), "99 %".to_owned())
        );
    }

    #[test]
    fn the_overview_counts_and_tells_only_what_there_is() {
        let mut status = Status {
            version: "1.2.3".to_owned(),
            uptime: 90_000,
            listen: vec!["0.0.0.0:6881".to_owned(), "[::]:6881".to_owned()],
            peers: 1,
            up_rate: 50_000,
            memory: 3 << 20,
            ..Status::default()
        };
        status.torrents.insert(State::Seeding);
        status.torrents.insert(State::WaitingForDisk);
        assert_eq!(
            summary(&status),
            "meshseed 1.2.3, up 1 d 1 h, listening on 0.0.0.0:6881, [::]:6881\n\
             2 torrents: 1 seeding, 1 waiting for disk\n\
             1 peer, up 50.0 kB/s (0 bytes in all), down 0 B/s (0 bytes in all), memory 3.0 MiB\n"
        );
        assert!(
            summary(&Status { refused: 1, ..Status::default() }).contains("\n0 torrents; 1 file not taken\n")
        );
    }

    #[test]
    fn the_table_is_aligned_and_harmless() {
        let mut text = String::new();
        table(&mut text, &[torrent()]);
        assert_eq!(
            text,
            "      SIZE   HAVE PEERS          UP       SENT  STATE             NAME\n\
             \u{20}  1.4 GiB   99 %     3    1.3 MB/s    3.0 GiB  waiting for data  a\\u{1b}[2Jname\n\
             \u{20}                                               /srv/torrents/a is not there\n"
        );
    }

    #[test]
    fn one_torrent_is_told_with_its_trackers_and_peers() {
        let peer = PeerStatus {
            address: "10.0.0.7:51413".to_owned(),
            client: "Transmission 4".to_owned(),
            incoming: true,
            local: true,
            interested: true,
            unchoked: false,
            connected: 3600,
            up_rate: 10_000,
            down_rate: 0,
            up_total: 1 << 20,
            down_total: 0,
        };
        let text = torrent_text(&torrent(), &Peers { total: 1, peers: vec![peer] });
        for line in [
            "info-hash  abababababababababababababababababababab",
            "state      waiting for data: /srv/torrents/a is not there",
            "size       1.4 GiB (1500000000 bytes)",
            "  http://t/announce: failed, next in 1 min",
            "    no\\nsuch torrent",
            "         UP       SENT         FOR  SLOT    ADDRESS",
            "  10.0 kB/s    1.0 MiB   1 h 0 min  waits   10.0.0.7:51413 (Transmission 4, local)",
        ] {
            assert!(text.lines().any(|found| found == line), "{line:?} in {text}");
        }
    }

    #[test]
    fn a_list_that_comes_in_parts_is_gathered() {
        let items = all(|part| {
            let first = part.offset;
            Ok((10, (first..10).take(3).collect::<Vec<u32>>()))
        });
        assert_eq!(items.unwrap(), (0..10).collect::<Vec<u32>>());
        assert_eq!(all(|_| Ok((10, Vec::<u32>::new()))).unwrap().len(), 0);
    }

    #[test]
    fn without_a_daemon_the_user_is_asked_whether_it_runs() {
        let control = Some(PathBuf::from("/nowhere/control.sock"));
        let error = answer(&Options { control, ..Options::default() }).unwrap_err();
        assert!(error.contains("is the daemon running?"), "{error}");
    }
}

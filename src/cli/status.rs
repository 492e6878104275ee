//! `meshseed status`: asks the running daemon through its control socket and prints what it says.
#![expect(clippy::disallowed_methods, reason = "I/O shell")]

use std::fmt::Write as _;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use lexopt::{Arg, Parser};
use rustix::termios::tcgetwinsize;
use serde::Serialize;
use serde_json::Value;

use super::daemon::configured;
use super::output::{self, bytes, clock, count, rate};
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

Usage: meshseed status [-w] [--json] [-c FILE | --control SOCKET] [INFO_HASH]

  INFO_HASH           one torrent with its trackers and peers, instead of all
  -w, --watch         again each second, until Ctrl-C
  --json              as JSON: the fields of the control socket; all torrents under \"list\"
  -c, --config FILE   the daemon's configuration, which names its control socket
                      (default /etc/meshseed.toml, if it exists)
  --control SOCKET    the control socket itself
  -h, --help          this text

Examples:
  meshseed status --watch
  meshseed status --json | jq .torrents
";

/// Between two answers that are watched.
const PERIOD: Duration = Duration::from_secs(1);

/// Of a terminal that does not know how many it has, as on a serial line.
const ROWS: u16 = 24;

/// What was asked for on the command line.
#[derive(Debug, Default, PartialEq, Eq)]
struct Options {
    json: bool,
    watch: bool,
    help: bool,
    config: Option<PathBuf>,
    control: Option<PathBuf>,
    torrent: Option<InfoHash>,
}

/// The command.
pub fn run(parser: Parser) -> ExitCode {
    match parse(parser) {
        Ok(options) if options.help => output::print(HELP),
        Ok(options) if options.watch => watch(&options),
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
            Arg::Short('w') | Arg::Long("watch") => options.watch = true,
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

/// The answer of now each second: on a terminal over that of before, elsewhere below it.
fn watch(options: &Options) -> ExitCode {
    let screen = output::is_screen(&std::io::stdout());
    let mut drawn = 0;
    loop {
        let text = match answer(options) {
            Ok(text) => text,
            Err(reason) => return output::failed("status", &reason),
        };
        let rows = tcgetwinsize(std::io::stdout()).map_or(0, |size| size.ws_row);
        let text = if screen { frame(&text, rows, &mut drawn) } else { text };
        match output::write(text.as_bytes()) {
            Err(error) if error.kind() == ErrorKind::BrokenPipe => return ExitCode::SUCCESS,
            Err(error) => return output::failed("standard output", &error),
            Ok(()) => std::thread::sleep(PERIOD),
        }
    }
}

/// Draws a text over the one of before, of which `drawn` lines were shown: what a screen of so many rows has room for,
/// its lines cut at the edge.
fn frame(text: &str, rows: u16, drawn: &mut usize) -> String {
    let mut frame = "\x1b[?7l".to_owned();
    if *drawn > 0 {
        let _ = write!(frame, "\x1b[{drawn}A\r");
    }
    let rows = if rows == 0 { ROWS } else { rows };
    let shown = text.lines().take(usize::from(rows).saturating_sub(1).max(1));
    *drawn = shown.clone().count();
    shown.for_each(|line| put(&mut frame, format_args!("\x1b[K{line}")));
    frame + "\x1b[J\x1b[?7h"
}

fn answer(options: &Options) -> Result<String, String> {
    let control = socket(options.control.clone(), options.config.clone())?;
    let text = match (options.torrent, options.json) {
        (None, false) => overview(&control),
        (None, true) => overview_json(&control),
        (Some(torrent), false) => detail(&control, torrent),
        (Some(torrent), true) => ask::<Value>(&control, &Method::Torrent(torrent)).map(|value| json(&value)),
    };
    text.map_err(|error| error.to_string())
}

/// The control socket: itself as it was named, or of the daemon with this configuration, or with the usual one.
pub fn socket(control: Option<PathBuf>, config: Option<PathBuf>) -> Result<PathBuf, String> {
    control.map_or_else(|| Ok(configured(config.as_deref())?.control), Ok)
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
    let mut torrents = count(status.torrents.total().into(), "torrent");
    if !states.is_empty() {
        torrents = format!("{torrents}: {}", states.join(", "));
    }
    if status.refused > 0 {
        torrents = format!("{torrents}; {} not taken", count(status.refused.into(), "file"));
    }
    put(&mut text, format_args!("{torrents}"));
    if !status.lpd_interfaces.is_empty() {
        put(&mut text, format_args!("neighbours are looked for on {}", status.lpd_interfaces.join(", ")));
    }
    if let Some(dht) = &status.dht {
        let nodes = count(dht.nodes.into(), "node");
        put(&mut text, format_args!("{nodes} of the DHT, {} known", dht.known));
    }
    put(
        &mut text,
        format_args!(
            "{}, up {} ({} in all), down {} ({} in all), memory {}",
            count(status.peers.into(), "peer"),
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
    // What comes has its columns while something comes.
    let fetches = torrents.iter().any(|torrent| torrent.state == State::Downloading);
    let mut row = |[size, have, left, peers, down, up, sent, state, name]: [&str; 9]| {
        let (left, down) =
            if fetches { (format!("{left:>8} "), format!("{down:>9} ")) } else { <_>::default() };
        let line =
            format!("{size:>9} {have:>5} {left}{peers:>5} {down}{up:>9} {sent:>9}  {state:<17} {name}");
        put(text, format_args!("{}", line.trim_end()));
    };
    row(["SIZE", "HAVE", "LEFT", "PEERS", "DOWN", "UP", "SENT", "STATE", "NAME"]);
    for torrent in torrents {
        // Of what only a link names nothing is known.
        let is_known = torrent.size > 0;
        let known = |text: String| if is_known { text } else { String::new() };
        row([
            &known(bytes(torrent.size)),
            &known(percent(torrent.have, torrent.size)),
            &torrent.eta.map_or(String::new(), clock),
            &torrent.peers.to_string(),
            &rate(torrent.down_rate),
            &rate(torrent.up_rate),
            &bytes(torrent.up_total),
            torrent.state.words(),
            &escaped(&torrent.name),
        ]);
        if let Some(reason) = &torrent.reason {
            row(["", "", "", "", "", "", "", &escaped(reason), ""]);
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
    let state = match (torrent.state, torrent.checked, torrent.eta) {
        (State::Checking, Some(checked), _) => format!("checking, {} read", bytes(checked)),
        (State::Downloading, _, Some(eta)) => format!("downloading, {} left", clock(eta)),
        (state, ..) => state.words().to_owned(),
    };
    field(
        "state",
        torrent.reason.as_ref().map_or(state.clone(), |reason| format!("{state}: {}", escaped(reason))),
    );
    if torrent.size > 0 {
        field("size", format!("{} ({} bytes)", bytes(torrent.size), torrent.size));
        field("have", format!("{} ({})", bytes(torrent.have), percent(torrent.have, torrent.size)));
    }
    field("up", format!("{} ({} in all)", rate(torrent.up_rate), bytes(torrent.up_total)));
    field("down", format!("{} ({} in all)", rate(torrent.down_rate), bytes(torrent.down_total)));
    if !torrent.trackers.is_empty() {
        text.push_str("\ntrackers:\n");
        for tracker in &torrent.trackers {
            let state = counted(tracker);
            source(&mut text, &tracker.url, &state, tracker.next_announce, tracker.message.as_ref());
        }
    }
    if !torrent.web_seeds.is_empty() {
        text.push_str("\nweb seeds:\n");
        for seed in &torrent.web_seeds {
            source(&mut text, &seed.url, &seed.state, seed.next_request, seed.message.as_ref());
        }
    }
    if !peers.peers.is_empty() {
        text.push('\n');
        peer_row(&mut text, ["DOWN", "GOT", "UP", "SENT", "FOR", "SLOT", "ADDRESS"]);
        peers.peers.iter().for_each(|peer| peer_line(&mut text, peer));
    }
    text
}

/// How it stands with a tracker, and what it knows of the torrent's peers.
fn counted(tracker: &TrackerStatus) -> String {
    let mut text = tracker.state.clone();
    for (number, what) in
        [(tracker.seeds, "seed"), (tracker.leechers, "leecher"), (tracker.downloads, "download")]
    {
        if let Some(number) = number {
            text = format!("{text}, {}", count(number.into(), what));
        }
    }
    text
}

/// A tracker or a web seed.
fn source(text: &mut String, url: &str, state: &str, next: Option<u64>, message: Option<&String>) {
    let next = next.map_or(String::new(), |next| format!(", next in {}", duration(next)));
    put(text, format_args!("  {}: {}{next}", escaped(url), escaped(state)));
    if let Some(message) = message {
        put(text, format_args!("    {}", escaped(message)));
    }
}

fn peer_row(text: &mut String, [down, got, up, sent, since, slot, address]: [&str; 7]) {
    put(text, format_args!("{down:>9} {got:>9} {up:>9} {sent:>9} {since:>11}  {slot:<5} {address}"));
}

fn peer_line(text: &mut String, peer: &PeerStatus) {
    let down = if peer.interesting && peer.choking { "waits".to_owned() } else { rate(peer.down_rate) };
    let slot = match (peer.unchoked, peer.interested) {
        (true, _) => "yes",
        (false, true) => "waits",
        (false, false) => "no",
    };
    let local = if peer.local { ", local" } else { "" };
    peer_row(
        text,
        [
            &down,
            &bytes(peer.down_total),
            &rate(peer.up_rate),
            &bytes(peer.up_total),
            &duration(peer.connected),
            slot,
            &format!("{} ({}{local})", escaped(&peer.address), escaped(&peer.client)),
        ],
    );
}

fn put(text: &mut String, line: std::fmt::Arguments) {
    // A String takes every write.
    let _ = text.write_fmt(line);
    text.push('\n');
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
    use crate::status::{DhtStatus, WebSeedStatus};

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
            eta: None,
            up_rate: 1_250_000,
            down_rate: 0,
            up_total: 3 << 30,
            down_total: 0,
            peers: 3,
            trackers: vec![TrackerStatus {
                url: "http://t/announce".to_owned(),
                state: "failed".to_owned(),
                next_announce: Some(90),
                seeds: Some(1),
                leechers: Some(0),
                downloads: Some(2000),
                message: Some("no\nsuch torrent".to_owned()),
            }],
            web_seeds: vec![WebSeedStatus {
                url: "http://w/a".to_owned(),
                state: "rests".to_owned(),
                next_request: Some(90),
                message: Some("503 Service Unavailable".to_owned()),
            }],
            added: None,
            completed: None,
        }
    }

    #[test]
    fn the_command_line_is_understood_or_refused() {
        let hash = "ab".repeat(20);
        let all = options(&["--json", "-w", "-c", "/f", "--control=/s", &hash]).unwrap();
        let expected = Options {
            json: true,
            watch: true,
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
            lpd_interfaces: vec!["br-lan".to_owned()],
            dht: Some(DhtStatus { nodes: 12, known: 40, searches: 1, stored: 3 }),
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
             neighbours are looked for on br-lan\n\
             12 nodes of the DHT, 40 known\n\
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
            "     SIZE  HAVE PEERS        UP      SENT  STATE             NAME\n\
             \u{20} 1.4 GiB  99 %     3  1.3 MB/s   3.0 GiB  waiting for data  a\\u{1b}[2Jname\n\
             \u{20}                                          /srv/torrents/a is not there\n"
        );
    }

    #[test]
    fn of_what_only_a_link_names_no_size_is_told_whatever_its_state() {
        for state in [State::FetchingMetadata, State::Paused, State::Error] {
            let link = TorrentStatus { state, size: 0, have: 0, ..torrent() };
            let mut text = String::new();
            table(&mut text, std::slice::from_ref(&link));
            text += &torrent_text(&link, &Peers { total: 0, peers: Vec::new() });
            assert!(!text.contains('%') && !text.contains("size  "), "{text}");
        }
    }

    #[test]
    fn every_state_fits_its_column() {
        for state in State::ALL {
            let mut text = String::new();
            table(&mut text, &[TorrentStatus { state, reason: None, ..torrent() }]);
            let mut lines = text.lines();
            let at = lines.next().and_then(|head| head.find("NAME")).unwrap();
            assert!(lines.next().unwrap()[at..].starts_with("a\\u"), "{text}");
        }
    }

    #[test]
    fn what_is_fetched_is_told_with_its_rate_and_the_time_left() {
        let fetched = TorrentStatus {
            state: State::Downloading,
            reason: None,
            have: 500_000_000,
            eta: Some(3723),
            down_rate: 268_600,
            down_total: 600_000_000,
            ..torrent()
        };
        let mut text = String::new();
        table(&mut text, &[fetched.clone(), TorrentStatus { reason: None, ..torrent() }]);
        assert_eq!(
            text,
            "     SIZE  HAVE     LEFT PEERS      DOWN        UP      SENT  STATE             NAME\n\
             \u{20} 1.4 GiB  33 %  1:02:03     3  269 kB/s  1.3 MB/s   3.0 GiB  downloading       a\\u{1b}[2Jname\n\
             \u{20} 1.4 GiB  99 %              3     0 B/s  1.3 MB/s   3.0 GiB  waiting for data  a\\u{1b}[2Jname\n"
        );
        let text = torrent_text(&fetched, &Peers { total: 0, peers: Vec::new() });
        for line in [
            "state      downloading, 1:02:03 left",
            "have       477 MiB (33 %)",
            "down       269 kB/s (572 MiB in all)",
            "  http://w/a: rests, next in 1 min",
            "    503 Service Unavailable",
        ] {
            assert!(text.lines().any(|found| found == line), "{line:?} in {text}");
        }
    }

    #[test]
    fn a_watched_text_is_drawn_over_the_one_before_and_fits_the_screen() {
        let mut drawn = 0;
        assert_eq!(frame("a\nb\n", 24, &mut drawn), "\x1b[?7l\x1b[Ka\n\x1b[Kb\n\x1b[J\x1b[?7h");
        assert_eq!(frame("a\nb\nc\n", 3, &mut drawn), "\x1b[?7l\x1b[2A\r\x1b[Ka\n\x1b[Kb\n\x1b[J\x1b[?7h");
        assert_eq!(drawn, 2);
        frame("a\nb\n", 1, &mut drawn);
        assert_eq!(drawn, 1);
        frame(&"a\n".repeat(99), 0, &mut drawn);
        assert_eq!(drawn, 23);
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
            interesting: true,
            choking: true,
            connected: 3600,
            up_rate: 10_000,
            down_rate: 0,
            up_total: 1 << 20,
            down_total: 2 << 20,
        };
        let text = torrent_text(&torrent(), &Peers { total: 1, peers: vec![peer] });
        for line in [
            "info-hash  abababababababababababababababababababab",
            "state      waiting for data: /srv/torrents/a is not there",
            "size       1.4 GiB (1500000000 bytes)",
            "  http://t/announce: failed, 1 seed, 0 leechers, 2000 downloads, next in 1 min",
            "    no\\nsuch torrent",
            "     DOWN       GOT        UP      SENT         FOR  SLOT  ADDRESS",
            "    waits   2.0 MiB 10.0 kB/s   1.0 MiB   1 h 0 min  waits 10.0.0.7:51413 (Transmission 4, local)",
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

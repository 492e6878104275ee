//! `meshseed status`: asks the running daemon through its control socket and prints what it says.
#![expect(clippy::disallowed_methods, reason = "I/O shell")]

use std::fmt::Write as _;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use rustix::termios::tcgetwinsize;

use super::arguments::{Arg, Parser};
use super::daemon::configured;
use super::output::{self, bytes, clock, count, rate};
use crate::log::escaped;
use crate::metainfo::InfoHash;
use crate::rate::share;
use crate::status::io::{AskError, ask};
use crate::status::{MAX_LIST, Method, Part, State, Value, json};

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

/// The states in the order they are counted up.
const GOOD_FIRST: [State; 10] = [
    State::Seeding,
    State::Downloading,
    State::FetchingMetadata,
    State::Checking,
    State::Queued,
    State::Incomplete,
    State::WaitingForDisk,
    State::WaitingForData,
    State::Paused,
    State::Error,
];

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

fn parse(mut parser: Parser) -> Result<Options, String> {
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
        (Some(torrent), true) => ask(&control, &Method::Torrent(torrent)).map(|value| json::line(&value)),
    };
    text.map_err(|error| error.to_string())
}

/// The control socket: itself as it was named, or of the daemon with this configuration, or with the usual one.
pub fn socket(control: Option<PathBuf>, config: Option<PathBuf>) -> Result<PathBuf, String> {
    control.map_or_else(|| Ok(configured(config.as_deref())?.control), Ok)
}

fn overview(control: &Path) -> Result<String, AskError> {
    let status = ask(control, &Method::Status)?;
    let mut text = summary(&status);
    let torrents = all("torrents", |part| ask(control, &Method::List(part)))?;
    if !torrents.is_empty() {
        text.push('\n');
        table(&mut text, &torrents);
    }
    if status.field("refused").number() > 0 {
        text.push_str("\nnot taken:\n");
        for file in all("refused", |part| ask(control, &Method::Refused(part)))? {
            put(&mut text, format_args!("  {}: {}", foreign(&file, "file"), foreign(&file, "reason")));
        }
    }
    Ok(text)
}

fn overview_json(control: &Path) -> Result<String, AskError> {
    let mut status = ask(control, &Method::Status)?;
    let torrents = all("torrents", |part| ask(control, &Method::List(part)))?;
    if let Value::Table(fields) = &mut status {
        fields.push(("list".into(), Value::List(torrents)));
    }
    Ok(json::line(&status))
}

/// All of a list of this name, which comes in parts.
fn all(name: &str, mut next: impl FnMut(Part) -> Result<Value, AskError>) -> Result<Vec<Value>, AskError> {
    let mut items = Vec::new();
    loop {
        let offset = u32::try_from(items.len()).unwrap_or(u32::MAX);
        let reply = next(Part { offset, limit: MAX_LIST })?;
        let part = reply.field(name).list();
        items.extend_from_slice(part);
        if part.is_empty() || items.len() as u64 >= reply.field("total").number() {
            return Ok(items);
        }
    }
}

/// A text of a reply, fit to be shown.
fn foreign(value: &Value, name: &str) -> String {
    escaped(value.field(name).text())
}

/// A state in words.
fn words(state: &str) -> String {
    state.replace('-', " ")
}

fn summary(status: &Value) -> String {
    let mut text = String::new();
    let listed = |name| status.field(name).list().iter().map(Value::text).collect::<Vec<_>>().join(", ");
    let number = |name| status.field(name).number();
    let listen = Some(listed("listen")).filter(|listen| !listen.is_empty());
    put(
        &mut text,
        format_args!(
            "meshseed {}, up {}, listening on {}",
            status.field("version").text(),
            duration(number("uptime")),
            listen.as_deref().unwrap_or("nowhere")
        ),
    );
    let counts = GOOD_FIRST.map(|state| (state, status.field("torrents").field(state.name()).number()));
    let states: Vec<String> = counts
        .iter()
        .filter(|(_, count)| *count > 0)
        .map(|(state, count)| format!("{count} {}", words(state.name())))
        .collect();
    let mut torrents = count(counts.iter().map(|(_, count)| count).sum(), "torrent");
    if !states.is_empty() {
        torrents = format!("{torrents}: {}", states.join(", "));
    }
    if number("refused") > 0 {
        torrents = format!("{torrents}; {} not taken", count(number("refused"), "file"));
    }
    put(&mut text, format_args!("{torrents}"));
    let interfaces = listed("lpd_interfaces");
    if !interfaces.is_empty() {
        put(&mut text, format_args!("neighbours are looked for on {interfaces}"));
    }
    let dht = status.field("dht");
    if !dht.is_null() {
        let nodes = count(dht.field("nodes").number(), "node");
        put(&mut text, format_args!("{nodes} of the DHT, {} known", dht.field("known").number()));
    }
    put(
        &mut text,
        format_args!(
            "{}, up {} ({} in all), down {} ({} in all), memory {}",
            count(number("peers"), "peer"),
            rate(number("up_rate")),
            bytes(number("up_total")),
            rate(number("down_rate")),
            bytes(number("down_total")),
            bytes(number("memory"))
        ),
    );
    if !status.field("last_error").is_null() {
        put(&mut text, format_args!("last error: {}", foreign(status, "last_error")));
    }
    text
}

fn table(text: &mut String, torrents: &[Value]) {
    // What comes has its columns while something comes.
    let fetches = torrents.iter().any(|torrent| is(torrent, State::Downloading));
    let mut row = |[size, have, left, peers, down, up, sent, state, name]: [&str; 9]| {
        let (left, down) =
            if fetches { (format!("{left:>8} "), format!("{down:>9} ")) } else { <_>::default() };
        let line =
            format!("{size:>9} {have:>5} {left}{peers:>5} {down}{up:>9} {sent:>9}  {state:<17} {name}");
        put(text, format_args!("{}", line.trim_end()));
    };
    row(["SIZE", "HAVE", "LEFT", "PEERS", "DOWN", "UP", "SENT", "STATE", "NAME"]);
    for torrent in torrents {
        let number = |name| torrent.field(name).number();
        // Of what only a link names nothing is known.
        let size = number("size");
        let known = |text: String| if size > 0 { text } else { String::new() };
        row([
            &known(bytes(size)),
            &known(percent(number("have"), size)),
            &torrent.field("eta").known_number().map_or(String::new(), clock),
            &number("peers").to_string(),
            &rate(number("down_rate")),
            &rate(number("up_rate")),
            &bytes(number("up_total")),
            &words(torrent.field("state").text()),
            &foreign(torrent, "name"),
        ]);
        if !torrent.field("reason").is_null() {
            row(["", "", "", "", "", "", "", &foreign(torrent, "reason"), ""]);
        }
    }
}

fn is(torrent: &Value, state: State) -> bool {
    torrent.field("state").text() == state.name()
}

fn detail(control: &Path, torrent: InfoHash) -> Result<String, AskError> {
    let status = ask(control, &Method::Torrent(torrent))?;
    let peers = ask(control, &Method::Peers(torrent))?;
    Ok(torrent_text(&status, peers.field("peers").list()))
}

fn torrent_text(torrent: &Value, peers: &[Value]) -> String {
    let mut text = String::new();
    let mut field = |name: &str, value: String| put(&mut text, format_args!("{name:<10} {value}"));
    let number = |name| torrent.field(name).number();
    field("name", foreign(torrent, "name"));
    field("info-hash", foreign(torrent, "info_hash"));
    field("file", foreign(torrent, "file"));
    field("data", foreign(torrent, "data"));
    let mut state = words(torrent.field("state").text());
    if is(torrent, State::Checking) && !torrent.field("checked").is_null() {
        state = format!("{state}, {} read", bytes(number("checked")));
    } else if let Some(eta) = torrent.field("eta").known_number() {
        state = format!("{state}, {} left", clock(eta));
    }
    if !torrent.field("reason").is_null() {
        state = format!("{state}: {}", foreign(torrent, "reason"));
    }
    field("state", state);
    let size = number("size");
    if size > 0 {
        field("size", format!("{} ({size} bytes)", bytes(size)));
        field("have", format!("{} ({})", bytes(number("have")), percent(number("have"), size)));
    }
    field("up", format!("{} ({} in all)", rate(number("up_rate")), bytes(number("up_total"))));
    field("down", format!("{} ({} in all)", rate(number("down_rate")), bytes(number("down_total"))));
    for (title, name, next) in
        [("trackers", "trackers", "next_announce"), ("web seeds", "web_seeds", "next_request")]
    {
        let sources = torrent.field(name).list();
        if !sources.is_empty() {
            put(&mut text, format_args!("\n{title}:"));
            sources.iter().for_each(|one| source(&mut text, one, next));
        }
    }
    if !peers.is_empty() {
        text.push('\n');
        peer_row(&mut text, ["DOWN", "GOT", "UP", "SENT", "FOR", "SLOT", "ADDRESS"]);
        peers.iter().for_each(|peer| peer_line(&mut text, peer));
    }
    text
}

/// A tracker or a web seed: how it stands with it, and what a tracker knows of the torrent's peers.
fn source(text: &mut String, source: &Value, next: &str) {
    let mut state = foreign(source, "state");
    for (name, what) in [("seeds", "seed"), ("leechers", "leecher"), ("downloads", "download")] {
        if let Some(number) = source.field(name).known_number() {
            state = format!("{state}, {}", count(number, what));
        }
    }
    if let Some(next) = source.field(next).known_number() {
        state = format!("{state}, next in {}", duration(next));
    }
    put(text, format_args!("  {}: {state}", foreign(source, "url")));
    if !source.field("message").is_null() {
        put(text, format_args!("    {}", foreign(source, "message")));
    }
}

fn peer_row(text: &mut String, [down, got, up, sent, since, slot, address]: [&str; 7]) {
    put(text, format_args!("{down:>9} {got:>9} {up:>9} {sent:>9} {since:>11}  {slot:<5} {address}"));
}

fn peer_line(text: &mut String, peer: &Value) {
    let flag = |name| peer.field(name).flag();
    let number = |name| peer.field(name).number();
    let down =
        if flag("interesting") && flag("choking") { "waits".to_owned() } else { rate(number("down_rate")) };
    let slot = match (flag("unchoked"), flag("interested")) {
        (true, _) => "yes",
        (false, true) => "waits",
        (false, false) => "no",
    };
    let local = if flag("local") { ", local" } else { "" };
    peer_row(
        text,
        [
            &down,
            &bytes(number("down_total")),
            &rate(number("up_rate")),
            &bytes(number("up_total")),
            &duration(number("connected")),
            slot,
            &format!("{} ({}{local})", foreign(peer, "address"), foreign(peer, "client")),
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
    format!("{} %", share(have, 100, size).min(99))
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
    use crate::status::{DhtStatus, PeerStatus, Status, TorrentStatus, TrackerStatus, WebSeedStatus};

    fn options(arguments: &[&str]) -> Result<Options, String> {
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
            summary(&status.into()),
            "meshseed 1.2.3, up 1 d 1 h, listening on 0.0.0.0:6881, [::]:6881\n\
             2 torrents: 1 seeding, 1 waiting for disk\n\
             neighbours are looked for on br-lan\n\
             12 nodes of the DHT, 40 known\n\
             1 peer, up 50.0 kB/s (0 bytes in all), down 0 B/s (0 bytes in all), memory 3.0 MiB\n"
        );
        assert!(
            summary(&Status { refused: 1, ..Status::default() }.into())
                .contains("\n0 torrents; 1 file not taken\n")
        );
    }

    #[test]
    fn the_table_is_aligned_and_harmless() {
        let mut text = String::new();
        table(&mut text, &[torrent().into()]);
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
            let link = Value::from(TorrentStatus { state, size: 0, have: 0, ..torrent() });
            let mut text = String::new();
            table(&mut text, std::slice::from_ref(&link));
            text += &torrent_text(&link, &[]);
            assert!(!text.contains('%') && !text.contains("size  "), "{text}");
        }
    }

    #[test]
    fn every_state_fits_its_column_and_is_counted() {
        assert!(State::ALL.iter().all(|state| GOOD_FIRST.contains(state)));
        for state in State::ALL {
            let mut text = String::new();
            table(&mut text, &[TorrentStatus { state, reason: None, ..torrent() }.into()]);
            let mut lines = text.lines();
            let at = lines.next().and_then(|head| head.find("NAME")).unwrap();
            assert!(lines.next().unwrap()[at..].starts_with("a\\u"), "{text}");
        }
    }

    #[test]
    fn what_is_fetched_is_told_with_its_rate_and_the_time_left() {
        let fetched = Value::from(TorrentStatus {
            state: State::Downloading,
            reason: None,
            have: 500_000_000,
            eta: Some(3723),
            down_rate: 268_600,
            down_total: 600_000_000,
            ..torrent()
        });
        let mut text = String::new();
        table(&mut text, &[fetched.clone(), TorrentStatus { reason: None, ..torrent() }.into()]);
        assert_eq!(
            text,
            "     SIZE  HAVE     LEFT PEERS      DOWN        UP      SENT  STATE             NAME\n\
             \u{20} 1.4 GiB  33 %  1:02:03     3  269 kB/s  1.3 MB/s   3.0 GiB  downloading       a\\u{1b}[2Jname\n\
             \u{20} 1.4 GiB  99 %              3     0 B/s  1.3 MB/s   3.0 GiB  waiting for data  a\\u{1b}[2Jname\n"
        );
        let text = torrent_text(&fetched, &[]);
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
        let text = torrent_text(&torrent().into(), &[peer.into()]);
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
        let reply = |items: Vec<u32>| {
            Ok(Value::Table(vec![("total".into(), 10_u32.into()), ("items".into(), items.into())]))
        };
        let items = all("items", |part| reply((part.offset..10).take(3).collect()));
        assert_eq!(Value::List(items.unwrap()), Value::from((0..10).collect::<Vec<u32>>()));
        assert_eq!(all("items", |_| reply(Vec::new())).unwrap().len(), 0);
    }

    #[test]
    fn without_a_daemon_the_user_is_asked_whether_it_runs() {
        let control = Some(PathBuf::from("/nowhere/control.sock"));
        let error = answer(&Options { control, ..Options::default() }).unwrap_err();
        assert!(error.contains("is the daemon running?"), "{error}");
    }
}

//! Where log lines go: the router's log through `/dev/log`, or standard error.
//!
//! Read first: RFC 3164 §4. Each line carries its timestamp: OpenWrt's logd takes the first 16 bytes for one, whatever
//! they are. It is in UTC; logd, journald and rsyslog put their own in its place. Nothing here blocks (a log daemon
//! that does not keep up loses lines, and is told how many) and nothing is allocated. Omitted: a panic's message, which
//! goes to standard error alone, as procd and systemd log that. Holds one socket.
#![expect(clippy::disallowed_methods, reason = "I/O shell")]

use std::fmt::{self, Write as _};
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use log::{Level, LevelFilter, Log, Metadata, Record};

use crate::config::LogTo;

/// Bytes of a packet: what RFC 3164 allows and every log daemon takes.
const MAX_PACKET: usize = 1024;

/// Bytes of a message: a packet less priority, timestamp and tag.
const MAX_MESSAGE: usize = MAX_PACKET - 48;

/// Bytes of a text from outside that [`escaped`] keeps.
const MAX_FOREIGN: usize = 256;

/// RFC 3164's number for system daemons.
const FACILITY: u8 = 3;

static LOGGER: Logger = Logger(Mutex::new(Sink::Stderr));

/// On standard error stands a line that is written over itself.
static LIVE_LINE: AtomicBool = AtomicBool::new(false);

/// Begins logging, or goes on elsewhere.
pub fn init(to: LogTo, level: LevelFilter) {
    let sink = match to {
        LogTo::Syslog => Sink::Syslog(Syslog::new(Path::new("/dev/log"))),
        LogTo::Stderr => Sink::Stderr,
    };
    *LOGGER.0.lock().unwrap_or_else(PoisonError::into_inner) = sink;
    // Fails the second time, when it already is ours.
    let _ = log::set_logger(&LOGGER);
    log::set_max_level(level);
}

/// Log lines on standard error take the place of what stands in its last line from now on; who wrote that does so again.
pub fn give_way() {
    LIVE_LINE.store(true, Ordering::Relaxed);
}

/// A peer's, tracker's or file's text as a log line may quote it: one line, no control characters, at most 256 bytes.
pub fn escaped(text: &str) -> String {
    let mut line = Line { bytes: [0; MAX_FOREIGN], len: 0 };
    // It takes all there is; what is too much it cuts.
    let _ = line.write_str(text);
    String::from_utf8_lossy(line.text()).into_owned()
}

struct Logger(Mutex<Sink>);

enum Sink {
    Stderr,
    Syslog(Syslog),
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record) {
        if !self.enabled(record.metadata()) {
            return;
        }
        // Before the lock: an argument's Display might log.
        let mut message: Line<MAX_MESSAGE> = Line::new();
        let _ = message.write_fmt(*record.args());
        let mut sink = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *sink {
            Sink::Stderr => to_stderr(record.level(), message.text()),
            Sink::Syslog(syslog) => syslog.log(record.level(), message.text()),
        }
    }

    fn flush(&self) {}
}

/// The local log daemon.
struct Syslog {
    path: PathBuf,
    /// Not connected: a log daemon that starts anew has a new socket of the same name.
    socket: Option<UnixDatagram>,
    /// Lines that it did not take, and that it has not been told of.
    lost: u32,
    /// Whether standard error was told that lines come there.
    told: bool,
}

impl Syslog {
    fn new(path: &Path) -> Syslog {
        Syslog { path: path.to_owned(), socket: None, lost: 0, told: false }
    }

    fn log(&mut self, level: Level, message: &[u8]) {
        if self.lost > 0 {
            let mut line: Line<64> = Line::new();
            let _ = write!(line, "{} lines lost: the log daemon did not keep up", self.lost);
            if self.send(Level::Warn, line.text()).is_ok() {
                self.lost = 0;
            }
        }
        match self.send(level, message) {
            Ok(()) => self.told = false,
            Err(error) if error.kind() == ErrorKind::WouldBlock => self.lost = self.lost.saturating_add(1),
            Err(error) => {
                if !std::mem::replace(&mut self.told, true) {
                    let mut line: Line<MAX_MESSAGE> = Line::new();
                    let _ = write!(line, "{}: {error}: logging to standard error", self.path.display());
                    to_stderr(Level::Warn, line.text());
                }
                to_stderr(level, message);
            }
        }
    }

    fn send(&mut self, level: Level, message: &[u8]) -> io::Result<()> {
        let socket = match &self.socket {
            Some(socket) => socket,
            None => {
                let socket = UnixDatagram::unbound()?;
                socket.set_nonblocking(true)?;
                self.socket.insert(socket)
            }
        };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let mut packet: Line<MAX_PACKET> = Line::new();
        let pid = std::process::id();
        let _ = write!(packet, "<{}>{} meshseed[{pid}]: ", FACILITY * 8 + severity(level), Timestamp(now));
        packet.append(message);
        socket.send_to(packet.text(), &self.path).map(|_| ())
    }
}

fn to_stderr(level: Level, message: &[u8]) {
    let mut line: Line<{ MAX_MESSAGE + 16 }> = Line::new();
    if LIVE_LINE.load(Ordering::Relaxed) {
        line.append(b"\r\x1b[K");
    }
    line.append(match level {
        Level::Error => b"error: ",
        Level::Warn => b"warning: ",
        Level::Info => b"",
        Level::Debug | Level::Trace => b"debug: ",
    });
    line.append(message);
    line.append(b"\n");
    // Nowhere is left to complain.
    let _ = io::stderr().lock().write_all(line.text());
}

fn severity(level: Level) -> u8 {
    match level {
        Level::Error => 3,
        Level::Warn => 4,
        Level::Info => 6,
        Level::Debug | Level::Trace => 7,
    }
}

/// A line being written, of at most `N` bytes: control characters are escaped, and what is too long ends in "…".
struct Line<const N: usize> {
    bytes: [u8; N],
    len: usize,
}

impl<const N: usize> Line<N> {
    const CUT: &'static str = "…";

    fn new() -> Line<N> {
        Line { bytes: [0; N], len: 0 }
    }

    fn text(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    /// Bytes that are as they should be, as many as there is room for.
    fn append(&mut self, bytes: &[u8]) {
        let fits = bytes.len().min(N - self.len);
        self.bytes[self.len..self.len + fits].copy_from_slice(&bytes[..fits]);
        self.len += fits;
    }
}

impl<const N: usize> fmt::Write for Line<N> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for c in text.chars() {
            let mut utf8 = [0; 4];
            let mut escape: Line<12> = Line::new();
            let bytes: &[u8] = if is_disturbing(c) {
                c.escape_default().for_each(|c| escape.append(&[u8::try_from(c).unwrap_or(b'?')]));
                escape.text()
            } else {
                c.encode_utf8(&mut utf8).as_bytes()
            };
            if self.len + bytes.len() > N - Self::CUT.len() {
                // An error, so that nothing that follows is formatted; and full, so that nothing is appended.
                if self.len <= N - Self::CUT.len() {
                    self.append(Self::CUT.as_bytes());
                }
                return Err(fmt::Error);
            }
            self.append(bytes);
        }
        Ok(())
    }
}

/// Characters that would let a text from outside forge lines, move the cursor or turn the reading direction.
fn is_disturbing(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

/// Seconds since 1970 as RFC 3164 writes them: `Nov  1 09:05:00`.
struct Timestamp(u64);

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const MONTHS: [&str; 12] =
            ["Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec", "Jan", "Feb"];
        let (day, second) = (self.0 / 86_400, self.0 % 86_400);
        // Years that begin in March have their odd day at the end; 400 of them are 146 097 days.
        let day = (day + 719_468) % 146_097;
        let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
        let day = day - (365 * year + year / 4 - year / 100);
        let month = (5 * day + 2) / 153;
        let day = day - (153 * month + 2) / 5 + 1;
        let name = usize::try_from(month).ok().and_then(|month| MONTHS.get(month)).unwrap_or(&"Jan");
        let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
        write!(f, "{name} {day:2} {hour:02}:{minute:02}:{second:02}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn socket_path(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("meshseed-log-{}-{name}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        path
    }

    fn received(socket: &UnixDatagram) -> String {
        let mut buffer = [0; 2048];
        let len = socket.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..len].to_vec()).unwrap()
    }

    #[test]
    fn a_timestamp_is_fifteen_bytes_with_the_day_padded_by_a_space() {
        for (seconds, text) in [
            (0, "Jan  1 00:00:00"),
            (951_782_399, "Feb 28 23:59:59"),
            (951_782_400, "Feb 29 00:00:00"),
            (951_868_800, "Mar  1 00:00:00"),
            (1_795_253_041, "Nov 21 09:24:01"),
            (4_107_542_399, "Feb 28 23:59:59"),
            (4_107_542_400, "Mar  1 00:00:00"),
            (1_735_689_599, "Dec 31 23:59:59"),
        ] {
            assert_eq!(Timestamp(seconds).to_string(), text);
        }
        assert_eq!(Timestamp(u64::MAX / 2).to_string().len(), 15);
    }

    #[test]
    fn a_line_has_priority_timestamp_and_tag() {
        let path = socket_path("line");
        let daemon = UnixDatagram::bind(&path).unwrap();
        let mut syslog = Syslog::new(&path);
        syslog.log(Level::Warn, b"a line");
        let line = received(&daemon);
        assert!(line.starts_with("<28>"), "{line}");
        assert_eq!(line.as_bytes()[4 + 15], b' ');
        assert_eq!(&line[4 + 16..], format!("meshseed[{}]: a line", std::process::id()));
        let _ = std::fs::remove_file(path);
    }

    #[test]
    fn a_log_daemon_may_come_late_and_start_anew() {
        let path = socket_path("anew");
        let mut syslog = Syslog::new(&path);
        syslog.log(Level::Info, b"to standard error");
        assert!(syslog.told);
        for _ in 0..2 {
            let daemon = UnixDatagram::bind(&path).unwrap();
            syslog.log(Level::Info, b"here again");
            assert!(received(&daemon).ends_with("]: here again"));
            assert!(!syslog.told);
            drop(daemon);
            std::fs::remove_file(&path).unwrap();
            syslog.log(Level::Info, b"to standard error");
        }
    }

    #[test]
    fn a_log_daemon_that_does_not_keep_up_blocks_nothing_and_is_told_what_it_missed() {
        let path = socket_path("slow");
        let daemon = UnixDatagram::bind(&path).unwrap();
        let mut syslog = Syslog::new(&path);
        while syslog.lost < 3 {
            syslog.log(Level::Info, b"a flood");
        }
        for _ in 0..4 {
            received(&daemon);
        }
        syslog.log(Level::Info, b"the end");
        assert_eq!(syslog.lost, 0);
        let mut line = String::new();
        while !line.ends_with("the end") {
            line = received(&daemon);
            if line.contains("lost") {
                assert!(line.ends_with("3 lines lost: the log daemon did not keep up"), "{line}");
            }
        }
        let _ = std::fs::remove_file(path);
    }

    #[test]
    fn foreign_text_is_one_harmless_line_of_at_most_256_bytes() {
        assert_eq!(escaped("plain ünï"), "plain ünï");
        assert_eq!(escaped("a\nb\r\t\0\x1b[2J\u{7f}\u{85}"), "a\\nb\\r\\t\\u{0}\\u{1b}[2J\\u{7f}\\u{85}");
        assert_eq!(escaped("\u{202e}gpj\u{2028}"), "\\u{202e}gpj\\u{2028}");
        for text in ["x".repeat(1000), "é".repeat(1000), "\u{1b}".repeat(1000), "€".repeat(84) + "abcdef"]
        {
            let cut = escaped(&text);
            assert!((248..=256).contains(&cut.len()) && cut.ends_with('…'), "{cut}");
        }
        assert_eq!(escaped(&"x".repeat(253)), "x".repeat(253));
    }

    #[test]
    fn a_long_line_is_cut_and_nothing_comes_after_the_cut() {
        let mut line: Line<20> = Line::new();
        let _ = write!(line, "0123456789{} {}", escaped("abcdefgh"), 1);
        assert_eq!(String::from_utf8_lossy(line.text()), "0123456789abcdefg…");
        let _ = line.write_str("x");
        assert_eq!(String::from_utf8_lossy(line.text()), "0123456789abcdefg…");
    }
}

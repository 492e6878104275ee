//! What a terminal is shown while something goes on: a bar for work that is measured in bytes, a line of how the daemon
//! does that runs here.
//!
//! Omits: guessing from more than the whole run, which hashing from one disk does not need. Holds one line.
#![expect(clippy::disallowed_methods, reason = "I/O shell")]

use std::io::Write;
use std::time::{Duration, Instant};

use super::output::{bytes, clock, count, is_screen, rate};
use crate::rate::share;
use crate::status::Status;

/// Between two drawings: a serial console keeps up.
const PERIOD: Duration = Duration::from_millis(200);

/// Cells of the bar, so that the whole line fits eighty columns.
const WIDTH: u64 = 20;

/// How far something is that is measured in bytes.
pub struct Progress {
    label: &'static str,
    started: Instant,
    drawn: Option<Instant>,
    line: Option<Line>,
}

/// How a daemon does that runs in the foreground.
pub struct View(Line);

/// A line that is written over itself; on standard error, so that standard output stays for what is asked for.
struct Line {
    colour: bool,
    shown: bool,
}

impl Progress {
    /// `quiet` is the user's `-q`; nothing is drawn where nobody looks.
    pub fn new(label: &'static str, quiet: bool) -> Progress {
        Progress { label, started: Instant::now(), drawn: None, line: Line::new(quiet) }
    }

    /// Tells how far it is; draws when it is time.
    pub fn update(&mut self, done: u64, total: u64) {
        let Some(line) = &mut self.line else { return };
        let now = Instant::now();
        if self.drawn.is_some_and(|drawn| now - drawn < PERIOD) && done < total {
            return;
        }
        self.drawn = Some(now);
        line.draw(&hashing(self.label, done, total, now - self.started, line.colour));
    }

    /// Takes the bar away.
    pub fn finish(&mut self) {
        self.line = None;
    }
}

impl View {
    /// `None` where nobody looks. From now on log lines stand above it.
    pub fn new(quiet: bool) -> Option<View> {
        let line = Line::new(quiet)?;
        crate::log::give_way();
        Some(View(line))
    }

    /// Draws.
    pub fn update(&mut self, status: &Status) {
        self.0.draw(&view(status, self.0.colour));
    }
}

impl Line {
    /// `quiet` is the user's `-q`; nothing is drawn where nobody looks.
    fn new(quiet: bool) -> Option<Line> {
        let colour = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        (!quiet && is_screen(&std::io::stderr())).then_some(Line { colour, shown: false })
    }

    fn draw(&mut self, text: &str) {
        self.shown = true;
        let mut out = std::io::stderr().lock();
        let _ = write!(out, "\r{text}\x1b[K").and_then(|()| out.flush());
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        if self.shown {
            self.draw("");
        }
    }
}

/// Progress by what is known of this run: bar, share, bytes, rate and time left.
fn hashing(label: &str, done: u64, total: u64, elapsed: Duration, colour: bool) -> String {
    let speed = share(done, 1000, u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX));
    // A rate of the first moments is a guess that would jump.
    let left = if elapsed >= Duration::from_secs(1) && speed > 0 {
        format!(", {} left", clock(total.saturating_sub(done) / speed))
    } else {
        String::new()
    };
    format!("{}, {}{left}", bar(label, done, total, colour), rate(speed))
}

/// What is fetched or checked; where all is complete, what is given.
fn view(status: &Status, colour: bool) -> String {
    let peers = count(status.peers.into(), "peer");
    let done = status.progress;
    if done.have >= done.size {
        return format!("{peers}, {} sent, {}", bytes(status.up_total), rate(status.up_rate));
    }
    if status.torrents.downloading == 0 {
        return bar("checking", done.have, done.size, colour);
    }
    // Without an end in sight it is the peers that count.
    let end = done.eta.map_or(peers, |eta| format!("{} left", clock(eta)));
    format!("{}, {}, {end}", bar("downloading", done.have, done.size, colour), rate(status.down_rate))
}

fn bar(label: &str, done: u64, total: u64, colour: bool) -> String {
    let share = |of: u64| share(done.min(total), of, total);
    let filled = usize::try_from(share(WIDTH)).unwrap_or(0);
    let empty = usize::try_from(WIDTH).unwrap_or(0) - filled;
    let (on, off) = if colour { ("\x1b[32m", "\x1b[0m") } else { ("", "") };
    let bar = format!("{on}{}{off}{}", "#".repeat(filled), "-".repeat(empty));
    format!("{label} [{bar}] {:3} % of {}", share(100), bytes(total))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::{Progress, State};

    #[test]
    fn a_line_says_share_rate_and_time_left_and_fits_a_terminal() {
        let second = Duration::from_secs(1);
        assert_eq!(
            hashing("hashing", 50_000_000, 200_000_000, second, false),
            "hashing [#####---------------]  25 % of 191 MiB, 50.0 MB/s, 0:03 left"
        );
        assert_eq!(
            hashing("hashing", 0, 1024, Duration::ZERO, false),
            "hashing [--------------------]   0 % of 1.0 KiB, 0 B/s"
        );
        assert!(hashing("checking", u64::MAX / 2, u64::MAX, 100_000 * second, false).len() < 80);
        assert!(bar("x", 1, 0, true).contains("\x1b[32m"));
    }

    #[test]
    fn a_daemon_in_the_foreground_tells_of_what_it_fetches_and_then_of_what_it_gives() {
        let mut status = Status { peers: 1, up_rate: 1000, up_total: 1 << 20, ..Status::default() };
        assert_eq!(view(&status, false), "1 peer, 1.0 MiB sent, 1.0 kB/s");
        status.progress = Progress { size: 200 << 20, have: 50 << 20, eta: None };
        status.torrents.insert(State::Checking);
        assert_eq!(view(&status, false), "checking [#####---------------]  25 % of 200 MiB");
        status.torrents.insert(State::Downloading);
        let bar = "downloading [#####---------------]  25 % of 200 MiB";
        assert_eq!(view(&status, false), format!("{bar}, 0 B/s, 1 peer"));
        (status.down_rate, status.progress.eta) = (99_900_000, Some(359_999));
        let line = view(&status, false);
        assert_eq!(line, format!("{bar}, 99.9 MB/s, 99:59:59 left"));
        assert!(line.len() < 80);
    }
}

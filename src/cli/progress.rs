//! A progress bar for work that is measured in bytes: on a terminal alone.
//!
//! Omits: guessing from more than the whole run, which hashing from one disk does not need. Holds one line.
#![expect(clippy::disallowed_methods, reason = "I/O shell")]

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use super::output::{bytes, rate};

/// Between two drawings: a serial console keeps up.
const PERIOD: Duration = Duration::from_millis(200);

/// Cells of the bar, so that the whole line fits eighty columns.
const WIDTH: u64 = 20;

/// Draws to standard error, so that standard output stays for what is asked for.
pub struct Progress {
    label: &'static str,
    started: Instant,
    drawn: Option<Instant>,
    shown: bool,
    colour: bool,
}

impl Progress {
    /// `quiet` is the user's `-q`; nothing is drawn where nobody looks.
    pub fn new(label: &'static str, quiet: bool) -> Progress {
        let set = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        let dumb = set("TERM").is_none_or(|term| term == "dumb");
        let shown = !quiet && !dumb && std::io::stderr().is_terminal();
        let colour = set("NO_COLOR").is_none();
        Progress { label, started: Instant::now(), drawn: None, shown, colour }
    }

    /// Tells how far it is; draws when it is time.
    pub fn update(&mut self, done: u64, total: u64) {
        if !self.shown {
            return;
        }
        let now = Instant::now();
        if self.drawn.is_some_and(|drawn| now - drawn < PERIOD) && done < total {
            return;
        }
        self.drawn = Some(now);
        let line = line(self.label, done, total, now - self.started, self.colour);
        let mut out = std::io::stderr().lock();
        let _ = write!(out, "\r{line}\x1b[K").and_then(|()| out.flush());
    }

    /// Takes the bar away.
    pub fn finish(&mut self) {
        if self.shown && self.drawn.take().is_some() {
            let mut out = std::io::stderr().lock();
            let _ = write!(out, "\r\x1b[K").and_then(|()| out.flush());
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.finish();
    }
}

/// One line: bar, share, bytes, rate and time left.
fn line(label: &str, done: u64, total: u64, elapsed: Duration, colour: bool) -> String {
    let share = |of: u64| {
        let part = u128::from(done.min(total)) * u128::from(of) / u128::from(total.max(1));
        u64::try_from(part).unwrap_or(of)
    };
    let filled = usize::try_from(share(WIDTH)).unwrap_or(0);
    let empty = usize::try_from(WIDTH).unwrap_or(0) - filled;
    let (on, off) = if colour { ("\x1b[32m", "\x1b[0m") } else { ("", "") };
    let bar = format!("{on}{}{off}{}", "#".repeat(filled), "-".repeat(empty));
    let millis = elapsed.as_millis().max(1);
    let speed = u64::try_from(u128::from(done) * 1000 / millis).unwrap_or(u64::MAX);
    // A rate of the first moments is a guess that would jump.
    let left = if elapsed >= Duration::from_secs(1) && speed > 0 {
        format!(", {} left", clock(total.saturating_sub(done) / speed))
    } else {
        String::new()
    };
    format!("{label} [{bar}] {:3} % of {}, {}{left}", share(100), bytes(total), rate(speed))
}

/// `1:02:03`, `2:03`.
fn clock(seconds: u64) -> String {
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    if hours > 0 { format!("{hours}:{minutes:02}:{seconds:02}") } else { format!("{minutes}:{seconds:02}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_share_rate_and_time_left_and_fits_a_terminal() {
        let second = Duration::from_secs(1);
        assert_eq!(
            line("hashing", 50_000_000, 200_000_000, second, false),
            "hashing [#####---------------]  25 % of 191 MiB, 50.0 MB/s, 0:03 left"
        );
        assert_eq!(
            line("hashing", 0, 1024, Duration::ZERO, false),
            "hashing [--------------------]   0 % of 1.0 KiB, 0 B/s"
        );
        assert!(line("checking", u64::MAX / 2, u64::MAX, 100_000 * second, false).len() < 80);
        assert!(line("x", 1, 0, second, true).contains("\x1b[32m"));
        assert_eq!((clock(3723), clock(59)), ("1:02:03".to_owned(), "0:59".to_owned()));
    }
}

//! What a terminal is shown while content is hashed: a bar, the rate and the time left.
//!
//! Read first: `cli/progress.rs`. Omits: guessing from more than the whole run, which hashing from one disk does not need.
//! Holds one line.
#![expect(clippy::disallowed_methods, reason = "I/O shell")]

use std::time::{Duration, Instant};

use crate::cli::output::{clock, rate};
use crate::cli::progress::{Line, bar};
use crate::rate::share;

/// Between two drawings: a serial console keeps up.
const PERIOD: Duration = Duration::from_millis(200);

/// How far something is that is measured in bytes.
pub struct Progress {
    label: &'static str,
    started: Instant,
    drawn: Option<Instant>,
    line: Option<Line>,
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

#[cfg(test)]
mod tests {
    use super::*;

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
}

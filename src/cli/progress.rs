//! What a terminal is shown while something goes on: a line that changes, such as of how the daemon does that runs here.
//!
//! Holds one line.

use std::io::Write;

use super::output::{bytes, clock, count, is_screen, rate};
use crate::rate::share;
use crate::status::Status;

/// Cells of the bar, so that the whole line fits eighty columns.
const WIDTH: u64 = 20;

/// How a daemon does that runs in the foreground.
pub struct View(Line);

/// A line that is written over itself; on standard error, so that standard output stays for what is asked for.
pub(super) struct Line {
    pub(super) colour: bool,
    shown: bool,
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
    pub(super) fn new(quiet: bool) -> Option<Line> {
        let colour = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        (!quiet && is_screen(&std::io::stderr())).then_some(Line { colour, shown: false })
    }

    /// Shows a text in place of the one before.
    pub(super) fn draw(&mut self, text: &str) {
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

/// How much of a whole is done, as a bar, a share and the bytes of the whole.
pub(super) fn bar(label: &str, done: u64, total: u64, colour: bool) -> String {
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

//! What commands print: text that nothing in it can turn into terminal commands, and the three exit codes.
//!
//! Omits colours. Holds the text of one command until it is written at once, so that a closed pipe is no panic.

use std::fmt::Display;
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

/// Exit code of wrong usage; 0 is done, 1 failed.
pub const USAGE: u8 = 2;

/// Writes to standard output. A reader that has gone, as `head` does, is no failure of ours.
pub fn print(text: &str) -> ExitCode {
    print_bytes(text.as_bytes())
}

/// The same for what is no text.
pub fn print_bytes(bytes: &[u8]) -> ExitCode {
    match write(bytes) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => failed("standard output", &error),
        _ => ExitCode::SUCCESS,
    }
}

/// The same for who writes again and again, until it fails.
pub fn write(bytes: &[u8]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(bytes).and_then(|()| out.flush())
}

/// Whether somebody looks who can be shown a line that changes.
pub fn is_screen(stream: &impl IsTerminal) -> bool {
    let dumb = std::env::var_os("TERM").is_none_or(|term| term.is_empty() || term == "dumb");
    !dumb && stream.is_terminal()
}

/// One line on standard error, whose end of the pipe may have gone as well.
pub fn note(text: impl Display) {
    let _ = writeln!(io::stderr().lock(), "meshseed: {}", clean(&text.to_string()));
}

/// The reason of a failure, and its exit code.
#[inline(never)]
pub fn failed(what: &str, error: &dyn Display) -> ExitCode {
    note(format_args!("{what}: {error}"));
    ExitCode::FAILURE
}

/// What is wrong about the arguments, where to read more, and the exit code.
pub fn wrong_usage(command: &str, error: &dyn Display) -> ExitCode {
    let (colon, space) = if command.is_empty() { ("", "") } else { (": ", " ") };
    note(format_args!("{command}{colon}{error} (see: meshseed {command}{space}--help)"));
    ExitCode::from(USAGE)
}

/// Text from outside, with control characters and what turns the direction of writing around made visible.
pub fn clean(text: &str) -> String {
    let hidden = |c: char| {
        c.is_control()
            || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if hidden(c) { out.extend(c.escape_default()) } else { out.push(c) }
    }
    out
}

/// A number of bytes as people read it, with the units of 1024 that file systems have.
pub fn bytes(n: u64) -> String {
    scaled(n, 1024, &["bytes", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"])
}

/// Bytes a second, with the units of 1000 that links have.
pub fn rate(n: u64) -> String {
    scaled(n, 1000, &["B/s", "kB/s", "MB/s", "GB/s", "TB/s", "PB/s", "EB/s"])
}

/// `1 file`, `2 files`.
pub fn count(number: u64, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

/// Time that is left: `2:03`, `1:02:03`, `5 d`; eight characters at most.
pub fn clock(seconds: u64) -> String {
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, minutes, seconds) => format!("{minutes}:{seconds:02}"),
        (hours @ 1..100, minutes, seconds) => format!("{hours}:{minutes:02}:{seconds:02}"),
        (hours, ..) => format!("{} d", hours / 24),
    }
}

/// Three digits at most, one of them behind the point.
fn scaled(n: u64, base: u64, units: &[&str]) -> String {
    let (mut unit, mut step) = (0, 1);
    // What would round up to four digits belongs to the next unit.
    while unit + 1 < units.len() && n / step >= base - base / 40 {
        (unit, step) = (unit + 1, step * base);
    }
    let whole = n / step;
    if step == 1 || whole >= 100 {
        format!("{} {}", (n + step / 2) / step, units[unit])
    } else {
        // Below a hundred steps, and ten of the largest step stay in 64 bits.
        let tenths = whole * 10 + (n % step * 10 + step / 2) / step;
        format!("{}.{} {}", tenths / 10, tenths % 10, units[unit])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_the_units_people_read() {
        for (n, text) in [
            (0, "0 bytes"),
            (900, "900 bytes"),
            (1024, "1.0 KiB"),
            (1_500_000, "1.4 MiB"),
            (104_857_600, "100 MiB"),
            (1_073_741_823, "1.0 GiB"),
            (u64::MAX, "16.0 EiB"),
        ] {
            assert_eq!(bytes(n), text);
        }
        assert_eq!(
            (rate(1_250_000).as_str(), rate(999).as_str(), rate(0).as_str()),
            ("1.3 MB/s", "1.0 kB/s", "0 B/s")
        );
    }

    #[test]
    fn the_time_left_is_read_off_a_clock() {
        assert_eq!([59, 3723, 359_999, 360_000].map(clock), ["0:59", "1:02:03", "99:59:59", "4 d"]);
    }

    #[test]
    fn foreign_text_can_not_command_the_terminal() {
        assert_eq!(clean("a\x1b[2J\nb\u{202e}größe"), "a\\u{1b}[2J\\nb\\u{202e}größe");
    }
}

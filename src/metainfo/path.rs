//! Names from a torrent made safe: here and nowhere else do foreign bytes become parts of a path.
//!
//! Read first: BEP 3 (`path`, "zero length is an error"), BEP 47 (`attr`). What could leave the torrent's folder
//! is refused; bytes that are not UTF-8 become `_`, as libtorrent has it, so that data fetched by it is found. A
//! backslash stays where it can not mislead, because Linux has files of such names (systemd's units do).
//! Holds four bytes a file while it looks for conflicts.

use crate::list::{self, Gather};
use std::borrow::Cow;
use std::cmp::Ordering;
use std::fmt;

/// Bytes of one name: what every common file system takes.
const MAX_COMPONENT: usize = 255;

/// Bytes of a path below the torrent's folder: PATH_MAX less room for the data root.
pub const MAX_PATH: usize = 3584;

/// Why a name is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Problem {
    /// No byte in it.
    Empty,
    /// `.` or `..`
    Dots,
    /// A `/` in it.
    Slash,
    /// A backslash in it that would lead elsewhere where it separates.
    Backslash,
    /// A NUL byte in it.
    Nul,
    /// Longer than a file system takes.
    Long,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Problem::Empty => "a name is empty",
            Problem::Dots => "a name is `.` or `..`",
            Problem::Slash => "a name contains `/`",
            Problem::Backslash => "a name leads elsewhere by `\\`",
            Problem::Nul => "a name contains a NUL byte",
            Problem::Long => "a name or path is too long",
        })
    }
}

/// One name as it will stand in a path. Borrowed where the bytes are UTF-8, owned where they had to be changed.
pub fn component(raw: &[u8]) -> Result<Cow<'_, str>, Problem> {
    if raw.is_empty() {
        return Err(Problem::Empty);
    }
    if raw == b"." || raw == b".." {
        return Err(Problem::Dots);
    }
    if raw.contains(&b'/') {
        return Err(Problem::Slash);
    }
    if raw.contains(&0) {
        return Err(Problem::Nul);
    }
    if raw.len() > MAX_COMPONENT {
        return Err(Problem::Long);
    }
    if raw.contains(&b'\\') && raw.split(|b| *b == b'\\').any(|part| matches!(part, b"" | b"." | b"..")) {
        return Err(Problem::Backslash);
    }
    if let Ok(text) = std::str::from_utf8(raw) {
        return Ok(Cow::Borrowed(text));
    }
    let mut text = String::with_capacity(raw.len());
    for chunk in raw.utf8_chunks() {
        text.push_str(chunk.valid());
        if !chunk.invalid().is_empty() {
            text.push('_');
        }
    }
    Ok(Cow::Owned(text))
}

/// Two of the paths that can not both exist: the same one twice, or a file where the other needs a folder. The
/// numbers are positions among `paths`, the smaller one first. An empty path takes no part.
pub fn conflict<'a>(count: usize, path: impl Fn(usize) -> &'a str) -> Option<(usize, usize)> {
    let mut order: Vec<u32> =
        (0..count).filter(|i| !path(*i).is_empty()).filter_map(|i| u32::try_from(i).ok()).gather();
    let path_of = |i: u32| path(usize::try_from(i).unwrap_or(usize::MAX));
    list::sort_by(&mut order, |a, b| by_component(path_of(*a), path_of(*b)).then(a.cmp(b)).is_lt());
    order.windows(2).find_map(|pair| {
        let (a, b) = (path_of(pair[0]), path_of(pair[1]));
        let clash = b.strip_prefix(a).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        let (a, b) = (usize::try_from(pair[0]).ok()?, usize::try_from(pair[1]).ok()?);
        clash.then_some((a.min(b), a.max(b)))
    })
}

/// Raw bytes of component after component, so that a folder's content stands right behind a file of its name.
pub fn by_component(a: &str, b: &str) -> Ordering {
    a.split('/').map(str::as_bytes).cmp(b.split('/').map(str::as_bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_lead_elsewhere_are_refused() {
        let long = [b'x'; 256];
        let cases: [(&[u8], Problem); 13] = [
            (b"", Problem::Empty),
            (b".", Problem::Dots),
            (b"..", Problem::Dots),
            (b"/", Problem::Slash),
            (b"/etc", Problem::Slash),
            (b"a/../b", Problem::Slash),
            (b"a\0b", Problem::Nul),
            (b"..\\..\\x", Problem::Backslash),
            (b"a\\..", Problem::Backslash),
            (b"\\x", Problem::Backslash),
            (b"a\\", Problem::Backslash),
            (b"\xff/..", Problem::Slash),
            (&long, Problem::Long),
        ];
        for (raw, problem) in cases {
            assert_eq!(component(raw), Err(problem), "{raw:?}");
        }
    }

    #[test]
    fn legal_names_stay_as_they_are() {
        for name in [
            "a",
            "...",
            ".hidden",
            "CON",
            "a:b",
            "dot.",
            "space ",
            "größe",
            "dev\\x2dsda.device",
            "\u{1f600}",
        ] {
            assert_eq!(component(name.as_bytes()), Ok(Cow::Borrowed(name)));
        }
        assert!(component(&[b'x'; 255]).is_ok());
    }

    #[test]
    fn bytes_that_are_not_utf_8_become_underscores() {
        for (raw, text) in [
            (&b"file\x80.foo"[..], "file_.foo"),
            (b"\xc0\xae\xc0\xae", "____"),
            (b"\xff.", "_."),
            (b"\xe4\xb8", "_"),
            (b"\xed\xa0\x80", "___"),
        ] {
            assert_eq!(component(raw), Ok(Cow::Owned(text.to_owned())));
        }
    }

    #[test]
    fn two_files_on_one_path_or_a_file_where_a_folder_must_be_are_found() {
        let find = |paths: &[&str]| conflict(paths.len(), |i| paths[i]);
        assert_eq!(find(&["a/b", "a-b", "a.b", "a/b-c", "ab"]), None);
        assert_eq!(find(&["x", "a/b", "y", "a/b"]), Some((1, 3)));
        assert_eq!(find(&["a/b", "a-b", "a", "a!"]), Some((0, 2)));
        assert_eq!(find(&["a/b/c/d", "z", "a/b"]), Some((0, 2)));
        assert_eq!(find(&["a/b c", "a/b/c", "a/b-"]), None);
        assert_eq!(find(&["", "", "a"]), None);
    }
}

//! Names: which are left out of a torrent, which not every system can store, and where symbolic links lead.
//!
//! Read first: BEP 47 (`symlink path`). What a reader must refuse is for [`super::super::path`] to say. Holds eight bytes a
//! file while it looks for names that differ in nothing but case.

use std::hash::{DefaultHasher, Hasher};

use super::Entry;
use crate::metainfo::path;

/// Names that a user wants left out: `*` and `?` stop at `/`, `**` does not. Without a `/` it is compared with every
/// name of a path, else with the path below the folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Glob(String);

/// What mainline leaves out of a folder: leavings of systems and programs, and hidden names.
pub fn ignored(name: &[u8]) -> bool {
    name.starts_with(b".") || matches!(name, b"CVS" | b"core" | b"Thumbs.db" | b"desktop.ini")
}

/// Where a symbolic link leads that lies at `link`, below the folder; `None` where that is outside, or the folder itself.
pub fn target(link: &str, text: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(text).ok().filter(|text| !text.starts_with('/'))?;
    let mut names: Vec<&str> = link.split('/').collect();
    names.pop();
    for name in text.split('/') {
        match name {
            "" | "." => {}
            ".." => drop(names.pop()?),
            name => {
                path::component(name.as_bytes()).ok()?;
                names.push(name);
            }
        }
    }
    (!names.is_empty()).then(|| names.join("/"))
}

/// Takes out the links that lead to nothing in the torrent. The files are sorted; the paths of the links come back.
pub fn without_dangling(files: &mut Vec<Entry>) -> Vec<String> {
    let mut dangling = Vec::new();
    loop {
        let leads = |link: &str| {
            let at = files.partition_point(|file| path::by_component(&file.path, link).is_lt());
            let below = files.get(at).and_then(|file| file.path.strip_prefix(link));
            below.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        let is_lost = |file: &Entry| file.link.as_deref().is_some_and(|link| !leads(link));
        let lost: Vec<bool> = files.iter().map(is_lost).collect();
        // Other links may have led to these.
        if !lost.contains(&true) {
            return dangling;
        }
        let mut lost = lost.into_iter();
        let gone = files.extract_if(.., |_| lost.next() == Some(true));
        dangling.extend(gone.map(|file| file.path));
    }
}

/// What some other system will not store, or not under this name, with the reason.
pub fn not_portable(name: &str, files: &[Entry]) -> Vec<String> {
    let mut found = Vec::new();
    let mut seen = Vec::new();
    let mut last = "";
    for path in files.iter().map(|file| file.path.as_str()).chain([name]) {
        let names = path.split('/').zip(last.split('/').chain(std::iter::repeat("")));
        // The folders that it shares with the last one have been looked at.
        let new = names.skip_while(|(name, last)| name == last).map(|(name, _)| name);
        found.extend(new.filter_map(problem).take(1).map(|problem| format!("{path}: {problem}")));
        let mut hasher = DefaultHasher::new();
        path.bytes().for_each(|byte| hasher.write_u8(byte.to_ascii_lowercase()));
        seen.push((hasher.finish(), path));
        last = path;
    }
    seen.pop();
    seen.sort_unstable();
    for pair in seen.windows(2) {
        if pair[0].1.eq_ignore_ascii_case(pair[1].1) {
            found.push(format!("{} and {}: some systems take them for the same name", pair[0].1, pair[1].1));
        }
    }
    found
}

/// Why a name is none on some systems.
pub fn problem(name: &str) -> Option<&'static str> {
    let stem = name.split('.').next().unwrap_or_default().trim_end();
    let device = ["CON", "PRN", "AUX", "NUL"].iter().any(|device| stem.eq_ignore_ascii_case(device))
        || (stem.len() == 4
            && stem.ends_with(|last: char| last.is_ascii_digit() && last != '0')
            && stem.get(..3).is_some_and(|port| ["COM", "LPT"].iter().any(|p| port.eq_ignore_ascii_case(p))));
    if name.chars().any(|c| c < ' ' || r#"<>:"|?*\"#.contains(c)) {
        Some("Windows and FAT store no such characters")
    } else if name.ends_with(['.', ' ']) {
        Some("Windows stores no name with a dot or a blank at its end")
    } else if device {
        Some("on Windows it is the name of a device")
    } else if name.chars().any(|c| matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}')) {
        Some("some clients leave out the characters in it that turn the direction of writing around")
    } else if name.len() > 240 {
        Some("some clients cut a name above 240 bytes")
    } else {
        None
    }
}

impl Glob {
    /// Of a pattern as the user writes it; a slash at its end, for a folder, is dropped.
    pub fn new(pattern: &str) -> Glob {
        Glob(pattern.trim_end_matches('/').to_owned())
    }

    /// Whether it leaves out this path below the folder (and, of a folder, all that it holds).
    pub fn matches(&self, path: &str) -> bool {
        let pattern = self.0.as_bytes();
        match self.0.strip_prefix('/') {
            Some(rooted) => glob(rooted.as_bytes(), path.as_bytes()),
            None if self.0.contains('/') => glob(pattern, path.as_bytes()),
            None => glob(pattern, path.rsplit('/').next().unwrap_or_default().as_bytes()),
        }
    }
}

/// Without recursion: the last star seen is where a failed comparison goes on.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    // Where to go on after `*` and after `**`: pattern behind it, and text it has swallowed so far.
    let mut star = None;
    let mut stars = None;
    while p < pattern.len() || t < text.len() {
        let next = pattern.get(p..).unwrap_or_default();
        if next.starts_with(b"**") {
            p += 2;
            // `**/` may stand for no folder at all.
            let folders = pattern.get(p) == Some(&b'/') && (t == 0 || text.get(t - 1) == Some(&b'/'));
            p += usize::from(folders);
            (stars, star) = (Some((p, t, folders)), None);
            continue;
        }
        match (next.first(), text.get(t)) {
            (Some(b'*'), _) => {
                p += 1;
                star = Some((p, t));
                continue;
            }
            (Some(a), Some(b)) if a == b || (*a == b'?' && *b != b'/') => {
                (p, t) = (p + 1, t + 1);
                // The other bytes of a letter beyond ASCII.
                while *a == b'?' && text.get(t).is_some_and(|b| b & 0xc0 == 0x80) {
                    t += 1;
                }
                continue;
            }
            _ => {}
        }
        match (star, stars) {
            (Some((after, from)), _) if from < text.len() && text[from] != b'/' => {
                star = Some((after, from + 1));
                (p, t) = (after, from + 1);
            }
            (_, Some((after, from, folders))) => {
                // After `**/` the next name starts behind the next slash.
                let rest = text.get(from..).unwrap_or_default();
                let step =
                    if folders { rest.iter().position(|b| *b == b'/') } else { rest.first().map(|_| 0) };
                let Some(step) = step else { return false };
                t = from + step + 1;
                (star, stars, p) = (None, Some((after, t, folders)), after);
            }
            _ => return false,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str) -> Entry {
        Entry { path: path.into(), ..Entry::default() }
    }

    #[test]
    fn names_that_others_can_not_store_are_told_with_the_reason() {
        for (path, word) in [
            ("a:b", "characters"),
            ("d/a\\b", "characters"),
            ("d/a\nb", "characters"),
            ("x.", "dot"),
            ("x /y", "blank"),
            ("con", "device"),
            ("d/NUL.txt", "device"),
            ("com1.log", "device"),
            ("a\u{202e}b", "direction"),
        ] {
            let found = not_portable("n", &[file(path)]);
            assert!(found.len() == 1 && found[0].contains(path) && found[0].contains(word), "{found:?}");
        }
        assert_eq!(not_portable("a?", &[file("x")]).len(), 1);
        assert_eq!(not_portable("n", &[file(&"x".repeat(241))]).len(), 1);
        let fine =
            ["com0", "lpt", "console", "com10", "größe", "x.y", "a b", "..x", &"y".repeat(240)].map(file);
        assert_eq!(not_portable("n", &fine), [""; 0]);
        let bad_folder = ["d:/a", "d:/b", "d:/c"].map(file);
        assert_eq!(not_portable("n", &bad_folder).len(), 1, "a folder is told of once");
        let same = not_portable("n", &["A/b", "a/B", "a/c"].map(file));
        assert!(same.len() == 1 && same[0].starts_with("A/b and a/B"), "{same:?}");
    }

    #[test]
    fn links_lead_to_what_is_in_the_torrent() {
        for (link, text, leads) in [
            ("l", "a", Some("a")),
            ("d/l", "a", Some("d/a")),
            ("d/e/l", "../../x/./y", Some("x/y")),
            ("d/l", "..", None),
            ("l", "../a", None),
            ("l", "/etc/passwd", None),
            ("l", "a\\..", None),
        ] {
            assert_eq!(target(link, text.as_bytes()).as_deref(), leads, "{link} -> {text}");
        }
        let link = |path: &str, to: &str| Entry { link: Some(to.into()), ..file(path) };
        let mut files =
            vec![file("a/b"), file("c"), link("d", "a"), link("e", "d"), link("f", "x"), link("g", "f")];
        assert_eq!(without_dangling(&mut files), ["f", "g"]);
        assert_eq!(files.len(), 4);
    }

    #[test]
    fn leavings_are_ignored() {
        for name in ["CVS", "core", "Thumbs.db", "desktop.ini", ".git", ".hidden"] {
            assert!(ignored(name.as_bytes()), "{name}");
        }
        for name in ["cores", "cvs", "thumbs", "a.b"] {
            assert!(!ignored(name.as_bytes()), "{name}");
        }
    }

    #[test]
    fn patterns_leave_out_names_and_paths() {
        let matches = |pattern: &str, path: &str| Glob::new(pattern).matches(path);
        for (pattern, path) in [
            ("*.tmp", "a/b/x.tmp"),
            ("node_modules/", "a/node_modules"),
            ("?.txt", "d/a.txt"),
            ("gr?ße", "größe"),
            ("a/*.c", "a/x.c"),
            ("/x", "x"),
            ("**/x", "x"),
            ("**/x", "a/b/x"),
            ("a/**", "a/b/c"),
            ("a/**/c", "a/c"),
            ("a/**/c", "a/b/b/c"),
            ("*", "x"),
            ("a*b*c", "aXbYbZc"),
            ("a/**/*.c", "a/b/c.d/x.c"),
        ] {
            assert!(matches(pattern, path), "{pattern} {path}");
        }
        for (pattern, path) in [
            ("*.tmp", "x.tmp2"),
            ("a/*.c", "a/b/x.c"),
            ("/x", "a/x"),
            ("a/?", "a//"),
            ("gr??ße", "größe"),
            ("x", "xx"),
            ("", "x"),
            ("a/**/c", "a/xc"),
            ("a*b*c", "aXbYbZ"),
        ] {
            assert!(!matches(pattern, path), "{pattern} {path}");
        }
    }
}

//! The info dictionary: the part of a .torrent that its info-hash covers, and all that can refuse it.
//!
//! Read first: BEP 3 ("info dictionary"), 47 (padding, attributes), 52 (what a hybrid adds), 30 (`root hash`). Omits the
//! keys of formats that the daemon does not serve: an [`Other`] reads them. Holds the list of files; `pieces` is borrowed.

use std::borrow::Cow;
use std::num::NonZeroU32;

use super::{Error, File, MAX_FILES, MAX_PIECES, Warnings, path};
use crate::bencode::{Entries, Value, printable};
use crate::piece::Lengths;

/// Bytes of a piece, libtorrent's bound.
const MAX_PIECE_LENGTH: i64 = 512 << 20;

/// Who reads what the daemon does not serve: it serves v1, and of a hybrid its v1 half.
pub(super) trait Other<'a> {
    /// `root hash` of a Merkle torrent (BEP 30), which stands for `pieces`.
    fn root_hash(&mut self, root: &'a [u8; 20]);

    /// `file tree` of a torrent of that name with a v2 half (BEP 52).
    fn tree(&mut self, tree: Value<'a>, name: &str, piece_length: u32, warnings: &mut Warnings);

    /// The files of that half alone, and whether they are a folder.
    fn files(&self, piece_length: u32) -> Result<(Vec<File>, bool), Error>;
}

/// The keys of `info`.
pub(super) struct Info<'a> {
    pub(super) name: String,
    pub(super) multi_file: bool,
    pub(super) lengths: Lengths,
    /// 20 bytes a piece; none of v2 and Merkle torrents.
    pub(super) pieces: &'a [u8],
    pub(super) files: Vec<File>,
    pub(super) private: bool,
    pub(super) v2: bool,
}

impl<'a> Info<'a> {
    /// Every key once; the first that can not be refuses the torrent.
    pub(super) fn read(
        entries: Entries<'a>,
        mut other: Option<&mut dyn Other<'a>>,
        warnings: &mut Warnings,
    ) -> Result<Info<'a>, Error> {
        let [
            name,
            name_utf8,
            length,
            files,
            attributes,
            pieces,
            root_hash,
            piece_length,
            tree,
            version,
            private,
        ] = entries.pick(&[
            "name",
            "name.utf-8",
            "length",
            "files",
            "attr",
            "pieces",
            "root hash",
            "piece length",
            "file tree",
            "meta version",
            "private",
        ]);
        let attributes = attributes.and_then(Value::as_bytes);
        let private = private.and_then(Value::as_int).is_some_and(|n| n != 0);
        let is_new = version.is_some_and(|version| version.as_int() != Some(1));
        if is_new && version.and_then(Value::as_int) != Some(2) {
            return Err(Error::key("info.meta version", "is neither 1 nor 2"));
        }
        let v2 = is_new && tree.is_some_and(|tree: Value<'_>| tree.entries().is_some());
        let v2_only = v2 && pieces.is_none();
        let root_hash = root_hash.filter(|_| pieces.is_none() && !v2_only);
        match other {
            None if v2_only => return Err(Error::V2Only),
            None if root_hash.is_some() => return Err(Error::Merkle),
            _ => {}
        }

        let piece_length = piece_length.ok_or(Error::Missing("info.piece length"))?;
        let piece_length = piece_length
            .as_int()
            .filter(|n| (1..=MAX_PIECE_LENGTH).contains(n))
            .and_then(|n| NonZeroU32::new(u32::try_from(n).ok()?))
            .ok_or_else(|| Error::key("info.piece length", "is not between 1 byte and 512 MiB"))?;
        let has_pieces = !v2_only && root_hash.is_none();
        if let (Some(other), Some(root)) = (&mut other, root_hash) {
            let root = root.as_bytes().and_then(|root| root.try_into().ok());
            other.root_hash(root.ok_or_else(|| Error::key("info.root hash", "has not 20 bytes"))?);
        }
        let pieces = match pieces {
            Some(pieces) => pieces.as_bytes().ok_or_else(|| Error::key("info.pieces", "is no string"))?,
            None if has_pieces => return Err(Error::Missing("info.pieces")),
            None => &[],
        };
        if has_pieces && (pieces.is_empty() || pieces.len() % 20 != 0) {
            let why = format!("has {} bytes, not 20 for each piece", pieces.len());
            return Err(Error::key("info.pieces", &why));
        }

        let name = info_name(name, name_utf8, warnings)?;
        if let (Some(other), Some(tree), true) = (&mut other, tree, v2) {
            other.tree(tree, &name, piece_length.get(), warnings);
        }
        let mut multi_file = files.is_some();
        let files = match (length, files, other) {
            (_, _, Some(other)) if v2_only => {
                let (files, is_folder) = other.files(piece_length.get())?;
                multi_file = is_folder;
                files
            }
            (Some(length), None, _) => {
                let executable = attributes.is_some_and(|a| a.contains(&b'x'));
                vec![File {
                    path: String::new(),
                    length: byte_count("info.length", length)?,
                    pad: false,
                    executable,
                }]
            }
            (None, Some(files), _) => read_files(files, warnings)?,
            (Some(_), Some(_), _) => return Err(Error::key("info.length", "stands beside `info.files`")),
            (None, None, _) => return Err(Error::Missing("info.length")),
        };
        let total = files.iter().try_fold(0i64, |sum, file| sum.checked_add_unsigned(file.length));
        let total = total.and_then(|total| u64::try_from(total).ok());
        let key = if multi_file { "info.files" } else { "info.length" };
        let total = total.ok_or_else(|| Error::key(key, "adds up to more than 63 bits"))?;
        if total == 0 {
            return Err(Error::key(key, "holds no byte"));
        }
        let hashes = pieces.len() / 20;
        let lengths = Lengths::new(total, piece_length).filter(|lengths| lengths.piece_count() <= MAX_PIECES);
        let lengths = lengths
            .ok_or_else(|| Error::key(key, &format!("makes more than {MAX_PIECES} pieces of that length")))?;
        if has_pieces && usize::try_from(lengths.piece_count()) != Ok(hashes) {
            let why = format!("has {hashes} hashes for {} pieces", lengths.piece_count());
            return Err(Error::key("info.pieces", &why));
        }
        Ok(Info { name, multi_file, lengths, pieces, files, private, v2 })
    }
}

/// `name.utf-8` where it is UTF-8, else `name`.
pub(super) fn info_name(
    plain: Option<Value<'_>>,
    utf8: Option<Value<'_>>,
    warnings: &mut Warnings,
) -> Result<String, Error> {
    let (key, value) = match (plain, utf8) {
        (_, Some(utf8)) if utf8.as_str().is_some() => ("info.name.utf-8", utf8),
        (Some(plain), _) => ("info.name", plain),
        (None, _) => return Err(Error::Missing("info.name")),
    };
    let raw = value.as_bytes().ok_or_else(|| Error::key(key, "is no string"))?;
    let name = path::component(raw).map_err(|problem| Error::key(key, &format!("is refused: {problem}")))?;
    if let Cow::Owned(_) = name {
        warnings.push(key, raw, "is not UTF-8: `_` stands for the bytes that are not");
    }
    Ok(name.into_owned())
}

fn byte_count(key: &str, value: Value<'_>) -> Result<u64, Error> {
    let number = value.as_int().and_then(|n| u64::try_from(n).ok());
    number.ok_or_else(|| Error::key(key, "is no number of bytes"))
}

fn read_files(list: Value<'_>, warnings: &mut Warnings) -> Result<Vec<File>, Error> {
    let items = list.items().ok_or_else(|| Error::key("info.files", "is no list"))?;
    let count = items.clone().take(MAX_FILES + 1).count();
    if count > MAX_FILES {
        return Err(Error::key("info.files", &format!("lists more than {MAX_FILES} files")));
    }
    let mut files: Vec<File> = Vec::with_capacity(count);
    // Positions in `files` and in the list of those whose names were changed: only these may be changed again.
    let mut changed = Vec::new();
    for (index, value) in items.enumerate() {
        let key = |key: &str| format!("info.files[{index}]{key}");
        let entries = value.entries().ok_or_else(|| Error::key(&key(""), "is no dictionary"))?;
        let [length, plain, utf8, attributes] = entries.pick(&["length", "path", "path.utf-8", "attr"]);
        let attributes = attributes.and_then(Value::as_bytes).unwrap_or_default();
        let valid = |path: &Value<'_>| {
            path.items().is_some_and(|mut names| {
                let some = names.clone().next().is_some();
                some && names.all(|name| name.as_str().is_some())
            })
        };
        let (names, path_key) = match (utf8.filter(valid), plain) {
            (Some(utf8), _) => (utf8, ".path.utf-8"),
            (None, Some(plain)) => (plain, ".path"),
            (None, None) => return Err(Error::key(&key(".path"), "is missing")),
        };
        let (path, is_changed) = join(names).map_err(|why| Error::key(&key(path_key), &why))?;
        if attributes.contains(&b'l') {
            warnings.push(&key(""), path.as_bytes(), "is a symbolic link: passed over");
            continue;
        }
        let length = length.ok_or_else(|| Error::key(&key(".length"), "is missing"))?;
        let length = byte_count(&key(".length"), length)?;
        if is_changed {
            warnings.push(&key(path_key), path.as_bytes(), "stands for a name that is not UTF-8");
            changed.push((files.len(), index));
        }
        let (pad, executable) = (attributes.contains(&b'p'), attributes.contains(&b'x'));
        files.push(File { path, length, pad, executable });
    }
    // Padding has no place on a disk, and makers give many of them one name.
    let shown = |files: &[File], i: usize| if files[i].pad { usize::MAX } else { i };
    let clash = |files: &[File]| {
        path::conflict(files.len(), |i| files.get(shown(files, i)).map_or("", |file| file.path.as_str()))
    };
    let mut found = clash(&files);
    if found.is_some() && !changed.is_empty() {
        // The position tells apart what the bytes no longer do; the same file gets the same name everywhere.
        for (at, index) in changed {
            files[at].path.push_str(&format!("~{index}"));
        }
        found = clash(&files);
    }
    match found {
        Some((a, b)) => {
            let [a, b] = [a, b].map(|at| printable(files[at].path.as_bytes()));
            Err(Error::key("info.files", &format!("has two files that can not both exist: {a} and {b}")))
        }
        None => Ok(files),
    }
}

/// The names of a `path` as one path, and whether one had to be changed.
fn join(names: Value<'_>) -> Result<(String, bool), Cow<'static, str>> {
    let mut path = String::new();
    let mut changed = false;
    for name in names.items().ok_or("is no list")? {
        let raw = name.as_bytes().ok_or("holds something that is no string")?;
        let name = path::component(raw).map_err(|problem| format!("is refused: {problem}"))?;
        changed |= matches!(name, Cow::Owned(_));
        if !path.is_empty() {
            path.push('/');
        }
        path.push_str(&name);
        if path.len() > path::MAX_PATH {
            return Err(format!("is refused: {}", path::Problem::Long).into());
        }
    }
    if path.is_empty() { Err("is an empty list".into()) } else { Ok((path, changed)) }
}

#[cfg(test)]
mod tests {
    use super::super::{MAX_TORRENT, Metainfo, parse};
    use super::*;

    /// A torrent of that info dictionary.
    fn torrent(info: &[u8]) -> Result<Metainfo, String> {
        parse(&[b"d4:info", info, b"e"].concat()).map_err(|error| error.to_string())
    }

    /// A multi-file torrent with one piece of 16 KiB and those entries of `files`.
    fn files(entries: &[&[u8]]) -> Result<Metainfo, String> {
        let pieces = b"12:piece lengthi16384e6:pieces20:aaaaaaaaaaaaaaaaaaaa";
        torrent(&[b"d5:filesl", entries.concat().as_slice(), b"e4:name1:n", pieces, b"e"].concat())
    }

    fn entry(path: &[u8]) -> Vec<u8> {
        [b"d6:lengthi1e4:pathl", path, b"ee"].concat()
    }

    fn paths(torrent: &Metainfo) -> Vec<&str> {
        torrent.files.iter().map(|file| file.path.as_str()).collect()
    }

    #[test]
    fn what_can_not_be_is_refused_by_the_name_of_its_key() {
        let good =
            b"d6:lengthi3e4:name1:n12:piece lengthi2e6:pieces40:aaaaaaaaaaaaaaaaaaaabbbbbbbbbbbbbbbbbbbbe";
        assert_eq!(torrent(good).unwrap().lengths.piece_count(), 2);
        let good = String::from_utf8(good.to_vec()).unwrap();
        for (from, to, key) in [
            ("6:lengthi3e", "", "info.length"),
            ("i3e", "i-3e", "info.length"),
            ("i3e", "i0e", "info.length"),
            ("i3e", "i5e", "info.pieces"),
            ("i3e", "i2e", "info.pieces"),
            ("i3e", "1:3", "info.length"),
            ("i3e", "i9223372036854775807e", "info.length"),
            ("i3e", "i9223372036854775808e", "integer"),
            ("6:lengthi3e", "5:filesle6:lengthi3e", "info.length"),
            ("6:lengthi3e", "5:filesle", "info.files"),
            ("6:lengthi3e", "5:filesi1e", "info.files"),
            ("6:lengthi3e", "5:filesli1ee", "info.files[0]"),
            ("4:name1:n", "", "info.name"),
            ("4:name1:n", "4:name0:", "info.name"),
            ("4:name1:n", "4:name2:..", "info.name"),
            ("4:name1:n", "4:name4:/etc", "info.name"),
            ("4:name1:n", "4:namei1e", "info.name"),
            ("4:name1:n", "4:name1:n10:name.utf-82:..", "info.name.utf-8"),
            ("4:name1:n", "4:name1:n4:name1:m", "`name`"),
            ("12:piece lengthi2e", "", "info.piece length"),
            ("lengthi2e", "lengthi0e", "info.piece length"),
            ("lengthi2e", "lengthi-2e", "info.piece length"),
            ("lengthi2e", "lengthi536870913e", "info.piece length"),
            ("lengthi2e", "lengthi99999999999e", "info.piece length"),
            ("lengthi2e", "length1:2", "info.piece length"),
            ("lengthi2e", "lengthi1e", "info.pieces"),
            ("6:pieces40:aaaaaaaaaaaaaaaaaaaabbbbbbbbbbbbbbbbbbbb", "", "info.pieces"),
            ("40:aaaaaaaaaaaaaaaaaaaa", "20:", "info.pieces"),
            ("40:aaaaaaaaaaaaaaaaaaaabb", "38:aaaaaaaaaaaaaaaaaaaa", "info.pieces"),
            ("40:aaaaaaaaaaaaaaaaaaaabbbbbbbbbbbbbbbbbbbb", "0:", "info.pieces"),
            ("40:aaaaaaaaaaaaaaaaaaaabbbbbbbbbbbbbbbbbbbb", "i1e", "info.pieces"),
            ("4:name", "12:meta versioni3e4:name", "info.meta version"),
        ] {
            assert!(good.contains(from), "{from}");
            let error = torrent(good.replacen(from, to, 1).as_bytes()).unwrap_err();
            assert!(error.contains(key), "{from} -> {to}: {error}");
        }
    }

    #[test]
    fn paths_that_could_lead_elsewhere_are_refused_wherever_they_stand() {
        for bad in
            ["2:..", "1:.", "0:", "4:/etc", "1:a2:..", "6:a/../b", "3:a\0b", "7:..\\..\\x", "", "i1e", "le"]
        {
            let error = files(&[&entry(b"1:x"), &entry(bad.as_bytes())]).unwrap_err();
            assert!(error.contains("`info.files[1].path`"), "{bad}: {error}");
            let hidden = [b"d6:lengthi1e4:pathl1:ye10:path.utf-8l", bad.as_bytes(), b"ee"].concat();
            let outcome = files(&[&entry(b"1:x"), &hidden]);
            if bad.contains(':') {
                assert!(outcome.unwrap_err().contains("`info.files[1].path.utf-8`"), "{bad}");
            } else {
                assert_eq!(paths(&outcome.unwrap()), ["x", "y"], "no path at all gives way to `path`: {bad}");
            }
        }
        let deep = entry(&b"1:a".repeat(1793));
        assert!(files(&[&deep]).unwrap_err().contains("too long"));
        assert!(files(&[b"d6:lengthi1ee"]).unwrap_err().contains("`info.files[0].path` is missing"));
        assert!(files(&[b"d4:pathl1:xee"]).unwrap_err().contains("`info.files[0].length` is missing"));
    }

    #[test]
    fn the_path_in_utf_8_is_preferred_where_it_is_that() {
        let both = |utf8: &[u8]| [b"d6:lengthi1e4:pathl2:\xb6\xd4e10:path.utf-8l", utf8, b"ee"].concat();
        assert_eq!(paths(&files(&[&both("3:对".as_bytes())]).unwrap()), ["对"]);
        assert_eq!(paths(&files(&[&both(b"1:\xff")]).unwrap()), ["__"]);
    }

    #[test]
    fn two_files_on_one_path_are_refused_and_changed_names_stay_apart() {
        let error = files(&[&entry(b"1:a1:b"), &entry(b"1:c"), &entry(b"1:a1:b")]).unwrap_err();
        assert!(error.contains("`info.files`") && error.contains("a/b"), "{error}");
        let error = files(&[&entry(b"1:a1:b"), &entry(b"1:a")]).unwrap_err();
        assert!(error.contains("`info.files`"), "{error}");
        let torrent = files(&[&entry(b"2:a\x80"), &entry(b"2:a\x81"), &entry(b"1:c")]).unwrap();
        assert_eq!(paths(&torrent), ["a_~0", "a_~1", "c"]);
        assert_eq!(paths(&files(&[&entry(b"2:a\x80"), &entry(b"1:b")]).unwrap()), ["a_", "b"]);
        assert!(files(&[&entry(b"2:a\x80"), &entry(b"4:a_~0"), &entry(b"2:a_")]).is_err());
    }

    #[test]
    fn padding_may_share_a_name_and_links_are_passed_over() {
        let pad = b"d4:attr1:p6:lengthi5e4:pathl4:.pad1:5ee";
        let link = b"d4:attr1:l4:pathl1:le12:symlink pathl2:..6:passwdee";
        let run = b"d4:attr2:hx6:lengthi2e4:pathl1:xee";
        let torrent = files(&[pad, link, run, pad, &entry(b"1:y")]).unwrap();
        assert_eq!(paths(&torrent), [".pad/5", "x", ".pad/5", "y"]);
        assert_eq!(torrent.lengths.total(), 13);
        let kinds: Vec<_> = torrent.files.iter().map(|file| (file.pad, file.executable)).collect();
        assert_eq!(kinds, [(true, false), (false, true), (true, false), (false, false)]);
        assert_eq!(torrent.warnings.len(), 1);
        assert_eq!(torrent.path_of(&torrent.files[1]), "n/x");
    }

    #[test]
    fn the_sum_of_lengths_does_not_overflow() {
        let huge = b"d6:lengthi9223372036854775807e4:pathl1:xee".to_vec();
        assert!(files(&[&huge, &entry(b"1:y")]).unwrap_err().contains("63 bits"));
    }

    #[test]
    fn the_number_of_files_is_bounded() {
        let many: Vec<Vec<u8>> =
            (0..=MAX_FILES).map(|i| entry(format!("{}:{i}", i.to_string().len()).as_bytes())).collect();
        let many: Vec<&[u8]> = many.iter().map(Vec::as_slice).collect();
        assert!(files(&many).unwrap_err().contains("more than 100000 files"));
        assert!(parse(&vec![b' '; MAX_TORRENT + 1]).unwrap_err().to_string().contains("larger than 16 MiB"));
    }
}

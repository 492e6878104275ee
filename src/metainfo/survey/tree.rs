//! The v2 half of a torrent: the file tree and the piece layers, read with bounds and verified against each other.
//!
//! Read first: BEP 52 ("file tree", "piece layers"). Omits making symbolic links. Holds the names and lengths of the
//! files; roots and layers are borrowed from the .torrent.

use crate::bencode::{Entries, Parser, Token, Value, printable};
use crate::metainfo::merkle::{self, Tree as Hashes};
use crate::metainfo::path::{self, MAX_PATH};
use crate::metainfo::{Error, File, MAX_FILES, MAX_TORRENT, Warnings};
use crate::piece::BLOCK;

/// The files as the tree has them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tree<'a> {
    /// In the order of the tree, which is that of their bytes.
    pub files: Vec<Leaf<'a>>,
    /// A folder of files and not one file of the torrent's name.
    pub multi_file: bool,
}

/// A file of the tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leaf<'a> {
    /// Safe components below the torrent's folder, joined by `/`; empty for the file of a single-file torrent.
    pub path: String,
    /// Bytes.
    pub length: u64,
    /// `x` among its attributes.
    pub executable: bool,
    /// One hash a piece: of a file of one piece the root of its tree, of an empty one none.
    pub pieces: &'a [[u8; 32]],
}

const TREE: &str = "info.file tree";

const LAYERS: &str = "piece layers";

impl<'a> Tree<'a> {
    /// Reads the tree of a torrent of that name, and `piece layers`, which lies outside of `info`.
    pub(super) fn read(
        tree: Value<'a>,
        layers: Option<Value<'a>>,
        name: &str,
        piece_length: u32,
        warnings: &mut Warnings,
    ) -> Result<Tree<'a>, Error> {
        if piece_length < BLOCK || !piece_length.is_power_of_two() {
            let why = "is no power of two of 16 KiB or more, which v2 asks for";
            return Err(Error::key("info.piece length", why));
        }
        let layers = sorted(layers)?;
        let mut files: Vec<Leaf<'a>> = Vec::new();
        let (mut path, mut total, mut names) = (String::new(), 0i64, 0);
        // Token by token: to go into a folder only after it was passed over would read it once for each level above.
        let mut parser = Parser::new(tree.raw());
        if parser.token()? != Token::Dict {
            return Err(Error::key(TREE, "is no dictionary"));
        }
        let mut name_of_last: &[u8] = b"";
        // Folders that are open, each with the length of its path and the entries that it had so far.
        let mut open = vec![(0, 0u32)];
        while let Some((base, entries)) = open.last_mut() {
            path.truncate(*base);
            let Token::Bytes(raw) = parser.token()? else {
                if *entries == 0 && *base > 0 {
                    warnings.push(TREE, path.as_bytes(), "is an empty folder: passed over");
                }
                open.pop();
                continue;
            };
            *entries += 1;
            let is_file = raw.is_empty() && *base > 0;
            if !is_file {
                name_of_last = raw;
            }
            let refuse = |why: &str| {
                let name = printable(name_of_last);
                Err(Error::key(TREE, format!("has a file that is refused: {name}: {why}")))
            };
            if is_file {
                let begin = parser.offset();
                let end = parser.skip()?.end;
                if *entries > 1 || parser.token()? != Token::End {
                    return refuse("it is file and folder at once");
                }
                let properties = tree.raw().get(begin..end).unwrap_or_default();
                let Some(properties) = Value::parse(properties)?.entries() else {
                    return refuse("its properties are no dictionary");
                };
                open.pop();
                let leaf = match Leaf::read(&path, properties, &layers, piece_length) {
                    Ok(leaf) => leaf,
                    Err(why) => return refuse(why),
                };
                let Some(leaf) = leaf else {
                    warnings.push(TREE, path.as_bytes(), "is a symbolic link: passed over");
                    continue;
                };
                names += path.len();
                total = total.checked_add_unsigned(leaf.length).unwrap_or(i64::MAX);
                files.push(leaf);
                // Names of folders are written once there, and here for each file: more than a v1 torrent could hold.
                if files.len() > MAX_FILES || names > MAX_TORRENT {
                    return Err(Error::key(
                        TREE,
                        format!("lists more than {MAX_FILES} files, or names too long"),
                    ));
                }
                continue;
            }
            let component = match path::component(raw) {
                Ok(component) => component,
                Err(problem) => return refuse(&problem.to_string()),
            };
            if component != String::from_utf8_lossy(raw) {
                warnings.push(TREE, raw, "is not UTF-8: `_` stands for the bytes that are not");
            }
            if *base > 0 {
                path.push('/');
            }
            path.push_str(&component);
            if path.len() > MAX_PATH {
                return refuse(&path::Problem::Long.to_string());
            }
            if parser.token()? != Token::Dict {
                return refuse("it is no dictionary");
            }
            open.push((path.len(), 0));
        }
        if total == 0 || total == i64::MAX {
            return Err(Error::key(TREE, "holds no byte, or more than 63 bits can count"));
        }
        if path::conflict(files.len(), |i| files.get(i).map_or("", |file| file.path.as_str())).is_some() {
            return Err(Error::key(TREE, "has two files that can not both exist"));
        }
        let multi_file = !matches!(&files[..], [only] if only.path == name);
        if let ([only], false) = (&mut files[..], multi_file) {
            only.path.clear();
        }
        Ok(Tree { files, multi_file })
    }

    /// The same as one row of bytes, in which every file begins with a piece: with padding that stands nowhere.
    pub(super) fn row(&self, piece_length: u32) -> Vec<File> {
        let mut row = Vec::with_capacity(self.files.len());
        let mut end = 0u64;
        for Leaf { path, length, executable, .. } in &self.files {
            let missing = end.next_multiple_of(u64::from(piece_length)) - end;
            if missing > 0 && *length > 0 {
                row.push(File {
                    path: format!(".pad/{missing}"),
                    length: missing,
                    pad: true,
                    executable: false,
                });
                end += missing;
            }
            row.push(File { path: path.clone(), length: *length, pad: false, executable: *executable });
            end = end.saturating_add(*length);
        }
        row
    }

    /// How the v1 files of a hybrid differ from those of the tree, which they must not; `None` where they do not.
    pub fn differs(&self, files: &[File], multi_file: bool, piece_length: u32) -> Option<String> {
        if multi_file != self.multi_file {
            return Some("one half is a file and the other a folder".to_owned());
        }
        let mut end = 0u64;
        let mut ours = self.files.iter();
        for file in files {
            let begin = end;
            end = end.saturating_add(file.length);
            if file.pad {
                continue;
            }
            match ours.next() {
                Some(leaf) if leaf.path == file.path && leaf.length == file.length => {}
                Some(leaf) if leaf.path == file.path => {
                    let (one, other) = (file.length, leaf.length);
                    return Some(format!("{} has {one} bytes in one half, {other} in the other", file.path));
                }
                Some(leaf) => {
                    return Some(format!("{} stands where the other half has {}", file.path, leaf.path));
                }
                None => return Some(format!("{} stands in one half alone", file.path)),
            }
            if file.length > 0 && !begin.is_multiple_of(u64::from(piece_length)) {
                return Some(format!(
                    "{} does not begin with a piece: padding is missing before it",
                    file.path
                ));
            }
        }
        ours.next().map(|leaf| format!("{} stands in one half alone", leaf.path))
    }
}

impl<'a> Leaf<'a> {
    /// `None` for a symbolic link.
    fn read(
        path: &str,
        properties: Entries<'a>,
        layers: &[(&[u8], Value<'a>)],
        piece_length: u32,
    ) -> Result<Option<Leaf<'a>>, &'static str> {
        let (mut length, mut root, mut attributes) = (None, None, &b""[..]);
        for (key, value) in properties {
            match key {
                b"length" => length = value.as_int().and_then(|n| u64::try_from(n).ok()),
                b"pieces root" => root = value.as_bytes(),
                b"attr" => attributes = value.as_bytes().unwrap_or_default(),
                _ => {}
            }
        }
        if attributes.contains(&b'l') {
            return Ok(None);
        }
        let length = length.ok_or("its `length` is no number of bytes")?;
        let pieces = match root.map(<[u8]>::as_chunks::<32>) {
            _ if length == 0 => &[][..],
            Some((root @ [only], [])) => {
                let count = length.div_ceil(u64::from(piece_length));
                if count == 1 { root } else { layer(only, count, layers, piece_length)? }
            }
            Some(_) => return Err("its `pieces root` has not 32 bytes"),
            None => return Err("its `pieces root` is missing"),
        };
        Ok(Some(Leaf { path: path.to_owned(), length, executable: attributes.contains(&b'x'), pieces }))
    }
}

/// The hashes of a file's pieces, verified against the root of its tree.
fn layer<'a>(
    root: &[u8; 32],
    count: u64,
    layers: &[(&[u8], Value<'a>)],
    piece_length: u32,
) -> Result<&'a [[u8; 32]], &'static str> {
    let found = layers.binary_search_by_key(&&root[..], |(key, _)| key);
    let layer = found.ok().and_then(|at| layers.get(at)?.1.as_bytes()).ok_or("its piece layer is missing")?;
    let (hashes, []) = layer.as_chunks::<32>() else { return Err("its piece layer is cut short") };
    if hashes.len() as u64 != count {
        return Err("its piece layer has not one hash a piece");
    }
    let mut tree = Hashes::new();
    hashes.iter().for_each(|hash| tree.push(hash));
    if tree.root(0, merkle::pad(merkle::levels(piece_length))) != *root {
        return Err("its piece layer does not belong to its `pieces root`");
    }
    Ok(hashes)
}

/// What `piece layers` holds, to be searched.
fn sorted<'a>(layers: Option<Value<'a>>) -> Result<Vec<(&'a [u8], Value<'a>)>, Error> {
    let Some(layers) = layers else { return Ok(Vec::new()) };
    let entries = layers.entries().ok_or(Error::key(LAYERS, "is no dictionary"))?;
    let mut layers: Vec<_> = entries.take(MAX_FILES + 1).collect();
    if layers.len() > MAX_FILES {
        return Err(Error::key(LAYERS, format!("has more than {MAX_FILES} of them")));
    }
    layers.sort_unstable_by_key(|(key, _)| *key);
    Ok(layers)
}

#[cfg(test)]
mod tests {
    use super::super::Survey;
    use super::*;
    use crate::bencode::Writer;

    const PIECE: u32 = 16_384;

    /// `length` and root of a file, in the tree under a name.
    fn file(name: &str, length: u64, root: &[u8]) -> Vec<u8> {
        let mut out = format!("{}:{name}d0:d6:lengthi{length}e", name.len()).into_bytes();
        if !root.is_empty() {
            out.extend(format!("11:pieces root{}:", root.len()).bytes());
            out.extend(root);
        }
        out.extend(b"ee");
        out
    }

    /// A v2-only torrent called `n` of that tree and those layers.
    fn torrent(tree: &[u8], piece: u32, layers: &[(&[u8], &[u8])]) -> Vec<u8> {
        let mut out = Vec::new();
        Writer::new(&mut out).dict(|d| {
            d.dict("info", |info| {
                info.entry("file tree", |w| w.raw(&[b"d", tree, b"e"].concat()));
                info.int("meta version", 2);
                info.bytes("name", "n");
                info.int("piece length", piece.into());
            });
            d.dict("piece layers", |d| layers.iter().for_each(|(root, layer)| d.bytes(root, layer)));
        });
        out
    }

    fn refused(tree: &[u8], layers: &[(&[u8], &[u8])]) -> String {
        Survey::read(&torrent(tree, PIECE, layers)).unwrap_err().to_string()
    }

    #[test]
    fn files_come_with_their_hashes_and_begin_with_a_piece() {
        let layer = [[1; 32], [2; 32], [3; 32]];
        let root = merkle::root_of_layer(&layer, PIECE);
        let folder = [b"1:dd".to_vec(), file("a", 40_000, &root), file("b", 0, b""), b"e".to_vec()].concat();
        let bytes = torrent(&[folder, file("z", 7, &[4; 32])].concat(), PIECE, &[(&root, &layer.concat())]);
        let survey = Survey::read(&bytes).unwrap();
        let Some(Ok(tree)) = &survey.tree else { panic!("{:?}", survey.tree) };
        let leaves: Vec<_> =
            tree.files.iter().map(|leaf| (leaf.path.as_str(), leaf.length, leaf.pieces)).collect();
        assert_eq!(leaves, [("d/a", 40_000, &layer[..]), ("d/b", 0, &[]), ("z", 7, &[[4; 32]])]);
        let row: Vec<_> =
            survey.metainfo.files.iter().map(|file| (file.path.as_str(), file.length, file.pad)).collect();
        assert_eq!(
            row,
            [("d/a", 40_000, false), ("d/b", 0, false), (".pad/9152", 9152, true), ("z", 7, false)]
        );
        assert_eq!((survey.metainfo.lengths.piece_count(), survey.format()), (4, "v2"));
        assert_eq!(tree.differs(&survey.metainfo.files, true, PIECE), None);
    }

    #[test]
    fn one_file_of_the_torrent_s_name_is_no_folder() {
        for (name, multi_file, path) in [("n", false, ""), ("m", true, "m")] {
            let bytes = torrent(&file(name, 7, &[4; 32]), PIECE, &[]);
            let metainfo = Survey::read(&bytes).unwrap().metainfo;
            assert_eq!((metainfo.multi_file, metainfo.files[0].path.as_str()), (multi_file, path));
        }
    }

    #[test]
    fn hashes_that_are_missing_or_belong_to_something_else_are_refused() {
        let layer = [[1; 32], [2; 32]].concat();
        let root = merkle::root_of_layer(&[[1; 32], [2; 32]], PIECE);
        let large = file("a", 20_000, &root);
        assert!(Survey::read(&torrent(&large, PIECE, &[(&root, &layer)])).is_ok());
        for (layers, why) in [
            (&[][..], "layer is missing"),
            (&[(&root[..], &layer[..32])], "not one hash a piece"),
            (&[(&root[..], &layer[..40])], "cut short"),
            (&[(&root[..], &[7; 64][..])], "does not belong"),
        ] {
            assert!(refused(&large, layers).contains(why), "{why}");
        }
        assert!(refused(&file("a", 5, b""), &[]).contains("`pieces root` is missing"));
        assert!(refused(&file("a", 5, &[4; 31]), &[]).contains("32 bytes"));
        for piece in [PIECE / 2, PIECE + 1] {
            let error = Survey::read(&torrent(&file("a", 5, &[4; 32]), piece, &[])).unwrap_err().to_string();
            assert!(error.contains("`info.piece length`"), "{error}");
        }
    }

    #[test]
    fn trees_that_can_not_be_are_refused() {
        let good = file("a", 5, &[4; 32]);
        for (tree, why) in [
            (file("..", 5, &[4; 32]), "`.` or `..`"),
            (file("x/y", 5, &[4; 32]), "contains `/`"),
            (good[4..good.len() - 1].to_vec(), "a name is empty"),
            (b"1:ai1e".to_vec(), "no dictionary"),
            (b"1:ad0:i1ee".to_vec(), "properties"),
            (b"1:ad0:d6:lengthi-1eee".to_vec(), "`length`"),
            ([&b"1:ad0:d6:lengthi0ee"[..], &good, b"e"].concat(), "file and folder at once"),
            (b"".to_vec(), "holds no byte"),
            (file("a", 0, b""), "holds no byte"),
            ([file("a", u64::MAX >> 1, &[4; 32]), file("b", 5, &[4; 32])].concat(), "layer is missing"),
        ] {
            let error = refused(&tree, &[]);
            assert!(error.contains("`info.file tree`") && error.contains(why), "{why}: {error}");
        }
    }

    #[test]
    fn links_and_empty_folders_are_passed_over_with_a_warning() {
        let link = b"1:ld0:d4:attr1:l12:symlink pathl1:aeee";
        let bytes = torrent(&[&file("a", 5, &[4; 32])[..], b"1:ede", link].concat(), PIECE, &[]);
        let metainfo = Survey::read(&bytes).unwrap().metainfo;
        assert_eq!((metainfo.files.len(), metainfo.warnings.len()), (1, 2), "{:?}", metainfo.warnings);
    }

    #[test]
    fn halves_that_differ_are_told_apart() {
        let row = |files: &[(&str, u64, bool)]| -> Vec<File> {
            let file = |&(path, length, pad): &(&str, u64, bool)| File {
                path: path.to_owned(),
                length,
                pad,
                executable: false,
            };
            files.iter().map(file).collect()
        };
        let bytes = torrent(&[file("a", 5, &[4; 32]), file("b", 6, &[4; 32])].concat(), PIECE, &[]);
        let survey = Survey::read(&bytes).unwrap();
        let Some(Ok(tree)) = &survey.tree else { panic!("{:?}", survey.tree) };
        let pad = u64::from(PIECE) - 5;
        let right = [("a", 5, false), (".pad/1", pad, true), ("b", 6, false), (".pad/2", 3, true)];
        assert_eq!(tree.differs(&row(&right), true, PIECE), None);
        for (files, word) in [
            (&[right[0], right[2]][..], "padding is missing"),
            (&right[..2], "b stands in one half alone"),
            (&[right[0], right[1], ("b", 7, false)], "7 bytes"),
            (&[right[2], right[1], right[0]], "stands where"),
            (&[right[0], right[1], right[2], ("c", 1, false)], "c stands in one half alone"),
        ] {
            let how = tree.differs(&row(files), true, PIECE);
            assert!(how.as_ref().is_some_and(|how| how.contains(word)), "{word}: {how:?}");
        }
        assert!(tree.differs(&row(&right), false, PIECE).is_some());
    }
}

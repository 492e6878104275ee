//! All that a .torrent of any format says, for the commands: what the daemon would not serve as well.
//!
//! Read first: `metainfo/mod.rs`; BEP 52 (v2), 30 (Merkle), 38 (`similar`, `collections`), 39 (`update-url`). Holds what
//! [`Metainfo`] holds; hashes are borrowed.

use super::info::Other;
use super::{Error, File, InfoHash, MAX_LIST, Metainfo, Warnings, url, whole};
use crate::bencode::Value;
use crate::list::Gather;
use tree::Tree;

pub mod lint;
pub mod tree;

/// Bytes of a comment and of other free text.
const MAX_TEXT: usize = 4096;

/// A .torrent of any format.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Survey<'a> {
    /// What all formats have. Of a v2-only torrent the info-hash is the first 20 bytes of the other one, and the files
    /// have padding between them that stands nowhere.
    pub metainfo: Metainfo,
    /// The SHA-1 of each piece; none of v2-only and Merkle torrents.
    pub pieces: &'a [[u8; 20]],
    /// The root of the tree of a Merkle torrent.
    pub root_hash: Option<&'a [u8; 20]>,
    /// The v2 half, or what is wrong with it; of a v2-only torrent it is right.
    pub tree: Option<Result<Tree<'a>, Error>>,
    /// Free text.
    pub comment: Option<String>,
    /// The program that made it.
    pub created_by: Option<String>,
    /// Unix seconds.
    pub creation_date: Option<i64>,
    /// Whom it was made for: part of the info dictionary, so that the info-hash differs.
    pub source: Option<String>,
    /// Where a newer torrent may be had (BEP 39).
    pub update_url: Option<String>,
    /// Torrents that may share files with this one (BEP 38).
    pub similar: Vec<InfoHash>,
    /// Collections whose torrents may share files (BEP 38).
    pub collections: Vec<String>,
    /// The whole file.
    root: Value<'a>,
    /// What follows it: blanks.
    rest: usize,
}

/// What is not served.
struct More<'a> {
    layers: Option<Value<'a>>,
    root_hash: Option<&'a [u8; 20]>,
    tree: Option<Result<Tree<'a>, Error>>,
}

impl<'a> Survey<'a> {
    /// Reads a .torrent.
    pub fn read(bytes: &'a [u8]) -> Result<Survey<'a>, Error> {
        let root = whole(bytes)?;
        let mut more = More { layers: root.find(b"piece layers"), root_hash: None, tree: None };
        let metainfo = super::read(bytes, Some(&mut more))?;
        let info = root.find(b"info");
        let pieces = info.and_then(|info| info.find(b"pieces")).and_then(Value::as_bytes);
        let either = |key: &[u8]| [info, Some(root)].into_iter().flatten().find_map(|dict| dict.find(key));
        let all = |key: &[u8]| either(key).and_then(Value::items).into_iter().flatten().take(MAX_LIST);
        let utf8 = root.find(b"comment.utf-8").filter(|text| text.as_str().is_some());
        Ok(Survey {
            metainfo,
            pieces: pieces.unwrap_or_default().as_chunks().0,
            root_hash: more.root_hash,
            tree: more.tree,
            comment: utf8.or(root.find(b"comment")).and_then(text),
            created_by: root.find(b"created by").and_then(text),
            creation_date: root.find(b"creation date").and_then(Value::as_int),
            source: info.and_then(|info| info.find(b"source")).and_then(text),
            update_url: either(b"update-url").and_then(Value::as_bytes).and_then(|text| url(text).ok()),
            similar: all(b"similar")
                .filter_map(|hash| hash.as_bytes()?.first_chunk().map(|hash| InfoHash::from_bytes(*hash)))
                .gather(),
            collections: all(b"collections").filter_map(text).gather(),
            root,
            rest: bytes.len() - root.raw().len(),
        })
    }

    /// `v1`, `hybrid`, `v2` or `merkle`.
    pub fn format(&self) -> &'static str {
        match (&self.tree, self.root_hash) {
            (Some(_), _) if self.pieces.is_empty() => "v2",
            (Some(_), _) => "hybrid",
            (None, Some(_)) => "merkle",
            (None, None) => "v1",
        }
    }

    /// The v1 info-hash, where there is one.
    pub fn info_hash(&self) -> Option<InfoHash> {
        Some(self.metainfo.info_hash).filter(|_| self.format() != "v2")
    }
}

impl<'a> Other<'a> for More<'a> {
    fn root_hash(&mut self, root: &'a [u8; 20]) {
        self.root_hash = Some(root);
    }

    fn tree(&mut self, tree: Value<'a>, name: &str, piece_length: u32, warnings: &mut Warnings) {
        self.tree = Some(Tree::read(tree, self.layers, name, piece_length, warnings));
    }

    fn files(&self, piece_length: u32) -> Result<(Vec<File>, bool), Error> {
        match &self.tree {
            Some(Ok(tree)) => Ok((tree.row(piece_length), tree.multi_file)),
            Some(Err(error)) => Err(error.clone()),
            None => Err(Error::V2Only),
        }
    }
}

/// Free text, whatever its encoding, cut.
fn text(value: Value<'_>) -> Option<String> {
    let bytes = value.as_bytes()?;
    let mut text = String::from_utf8_lossy(&bytes[..bytes.len().min(MAX_TEXT)]).into_owned();
    text.truncate(text.floor_char_boundary(MAX_TEXT));
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn free_text_is_read_where_it_belongs() {
        let info =
            b"4:infod6:lengthi3e4:name1:n12:piece lengthi16384e6:pieces20:aaaaaaaaaaaaaaaaaaaa6:source1:se";
        let comment = |comments: &[u8]| {
            let torrent =
                [b"d", comments, b"10:created by1:p13:creation datei5e", info, b"6:source1:xe"].concat();
            let survey = Survey::read(&torrent).unwrap();
            let (by, date, source) = (survey.created_by, survey.creation_date, survey.source);
            assert_eq!((by.as_deref(), date, source.as_deref()), (Some("p"), Some(5), Some("s")));
            survey.comment
        };
        assert_eq!(comment(b"7:comment2:hi").as_deref(), Some("hi"));
        assert_eq!(comment(b"7:comment2:hi13:comment.utf-82:ho").as_deref(), Some("ho"));
        assert_eq!(comment(b"7:comment2:hi13:comment.utf-81:\xff").as_deref(), Some("hi"));
        let long = [b"7:comment5000:", &b"x".repeat(5000)[..]].concat();
        assert_eq!(comment(&long).map(|text| text.len()), Some(MAX_TEXT));
    }
}

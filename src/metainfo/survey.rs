//! All that a .torrent of any format says, for the commands: what the daemon would not serve as well.
//!
//! Read first: `mod.rs`; BEP 52 (v2), 30 (Merkle), 38 (`similar`, `collections`), 39 (`update-url`). Holds what
//! [`Metainfo`] holds; hashes are borrowed.

use super::tree::Tree;
use super::{Error, InfoHash, MAX_LIST, Metainfo, url};
use crate::bencode::Value;
use crate::list::Gather;

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
    /// Where a newer torrent may be had (BEP 39).
    pub update_url: Option<String>,
    /// Torrents that may share files with this one (BEP 38).
    pub similar: Vec<InfoHash>,
    /// Collections whose torrents may share files (BEP 38).
    pub collections: Vec<String>,
    /// The whole file.
    pub(super) root: Value<'a>,
    /// What follows it: blanks.
    pub(super) rest: usize,
}

impl<'a> Survey<'a> {
    /// Reads a .torrent.
    pub fn read(bytes: &'a [u8]) -> Result<Survey<'a>, Error> {
        let (metainfo, inner) = super::read(bytes, true)?;
        let (root, rest) = Value::parse_prefix(bytes)?;
        let info = root.find(b"info");
        let either = |key: &[u8]| [info, Some(root)].into_iter().flatten().find_map(|dict| dict.find(key));
        let all = |key: &[u8]| either(key).and_then(Value::items).into_iter().flatten().take(MAX_LIST);
        Ok(Survey {
            metainfo,
            pieces: inner.pieces.as_chunks().0,
            root_hash: inner.root_hash,
            tree: inner.tree,
            update_url: either(b"update-url").and_then(Value::as_bytes).and_then(|text| url(text).ok()),
            similar: all(b"similar")
                .filter_map(|hash| hash.as_bytes()?.first_chunk().map(|hash| InfoHash::from_bytes(*hash)))
                .gather(),
            collections: all(b"collections").filter_map(super::text).gather(),
            root,
            rest: rest.len(),
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

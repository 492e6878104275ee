//! The number by which all parts name a torrent.

/// A torrent of the session, numbered in the order of arrival. Numbers are not used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TorrentKey(pub u32);

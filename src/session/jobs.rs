//! What the session hands out for the shells to do.

use std::net::SocketAddr;
use std::rc::Rc;

use crate::lpd::Link;
use crate::metainfo::InfoHash;
use crate::peer::PeerKey;
use crate::piece::Lengths;
use crate::storage::Layout;
use crate::storage::io::Job as StorageJob;
use crate::torrent::TorrentKey;
use crate::tracker::client::Request;
use crate::webseed::WebFetch;

/// Something for a shell to do.
pub enum Job {
    /// For the storage thread. If its queue is full it comes back by [`super::Session::postponed`].
    Storage(StorageJob),
    /// Ask a tracker, with what it is told about the torrent.
    Announce(Request, Totals),
    /// Tell the neighbours on a link.
    Search(Link, Vec<u8>),
    /// Send a datagram of the DHT.
    Datagram(SocketAddr, Vec<u8>),
    /// Find nodes to begin with, by the names that the configuration and torrents give.
    Bootstrap,
    /// Connect to a peer.
    Dial(PeerKey, SocketAddr),
    /// Close what is open of its content: its disk may be taken away.
    Close(TorrentKey),
    /// Fetch from a web seed.
    WebFetch(Box<WebFetch>),
    /// Look at the watched directories.
    Rescan,
    /// The network is another: forget what could not be reached.
    Reconnect,
    /// Something the user may want to know of.
    Event(Event),
}

/// What a tracker is told of a torrent's transfer, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Sent.
    pub uploaded: u64,
    /// Received.
    pub downloaded: u64,
    /// Still missing.
    pub left: u64,
    /// What is missing is not fetched (BEP 21).
    pub partial: bool,
}

/// A change worth a log line and an event on the bus.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// What happened.
    pub action: Happened,
    /// To which torrent.
    pub info_hash: InfoHash,
    /// Its name.
    pub name: Box<str>,
    /// Why, or the .torrent's path.
    pub reason: Box<str>,
    /// It is complete because its last piece came, not found to be.
    pub fetched: bool,
}

/// The kinds of [`Event`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Happened {
    /// A .torrent appeared.
    Added,
    /// It went.
    Removed,
    /// All data was found to be there.
    Completed,
    /// It is parked.
    Error,
    /// It is served again.
    Recovered,
}

/// What to send to a peer now.
pub struct Upload {
    /// Of which torrent.
    pub torrent: TorrentKey,
    /// Its cut.
    pub lengths: Lengths,
    /// Where its bytes lie.
    pub layout: Rc<Layout>,
}

/// The first bytes of a write that are not in memory, as they lie in their file.
#[derive(Clone, Copy, Debug)]
pub struct Miss {
    /// The file.
    pub file: u32,
    /// First byte in it.
    pub offset: u64,
    /// Bytes that the write would have had of it.
    pub len: u64,
}

//! What of the configuration the session works with.
//!
//! Omitted: what only shells need, such as paths and files.

use std::net::SocketAddr;

use crate::dht::Options;
use crate::net::Prefix;

/// What of the configuration the session works with.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Our id, the same for every torrent.
    pub peer_id: [u8; 20],
    /// The port peers are told of.
    pub port: u16,
    /// Connections in all, and of one torrent.
    pub peers: usize,
    /// Connections of one torrent.
    pub peers_per_torrent: usize,
    /// Peers unchoked in all.
    pub uploads: usize,
    /// Peers unchoked of one torrent.
    pub uploads_per_torrent: usize,
    /// Bytes a second to peers elsewhere; 0 is no limit.
    pub upload: u64,
    /// Bytes a second to peers on our own links; 0 is no limit.
    pub local_upload: u64,
    /// Bytes a second from peers elsewhere and from web seeds; 0 is no limit.
    pub download: u64,
    /// Bytes a second from peers on our own links; 0 is no limit.
    pub local_download: u64,
    /// What counts as our own links.
    pub local: Vec<Prefix>,
    /// Connections begun a second.
    pub dials_per_second: u32,
    /// Bytes that torrents and peers may take in all.
    pub memory: u64,
    /// Whether trackers are asked.
    pub trackers: bool,
    /// Whether web seeds are asked.
    pub web_seeds: bool,
    /// Whether what is complete is given piece by piece (BEP 16).
    pub superseed: bool,
    /// Whether peers are told of peers, and listened to (BEP 11).
    pub pex: bool,
    /// Trackers added to every public torrent, a tier each.
    pub also: Vec<String>,
    /// Peers offered to every public torrent.
    pub static_peers: Vec<SocketAddr>,
    /// Whether we are a node of the DHT, and of which kind.
    pub dht: Option<Options>,
}

impl Settings {
    /// Where our node of the DHT is asked, if it is at all.
    pub fn dht_port(&self) -> Option<u16> {
        let answers = self.dht.is_some_and(|dht| !dht.read_only);
        Some(self.port).filter(|&port| answers && port != 0)
    }
}

//! Trackers: what is told to them and what they answer, whatever the wire.
//!
//! Read first: BEP 3 ("trackers"), 15. The wire's forms are in `http` and `udp`, who is asked and when in `client`.
//! Holds nothing; a [`Reply`] has at most [`MAX_PEERS`] peers.

use std::borrow::Cow;
use std::fmt;
use std::net::{IpAddr, SocketAddr};

use crate::metainfo::InfoHash;
use crate::random::Random;

pub mod client;
pub mod host;
pub mod http;
pub mod io;
mod line;
mod names;
mod peers;
pub mod udp;

/// Peers of one reply that are kept, picked at random: more than anybody dials before the next announce.
pub const MAX_PEERS: usize = 200;

/// Peers asked for: BEP 3's own number.
pub const NUMWANT: u8 = 50;

/// Bytes of a tracker's text that are kept.
pub const MAX_TEXT: usize = 256;

/// Bytes of a tracker id that are kept and sent back; a longer one is not used.
pub const MAX_TRACKER_ID: usize = 64;

/// Seconds between announces where a tracker names none.
pub const DEFAULT_INTERVAL: u32 = 1800;

/// Why a tracker is told now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Event {
    /// Because the interval is over.
    #[default]
    None,
    /// For the first time.
    Started,
    /// The last piece has come: never said of data that was whole at the start.
    Completed,
    /// For the last time.
    Stopped,
    /// Because the interval is over, and what is missing is not wanted (BEP 21).
    Paused,
}

/// What a tracker is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Announce<'a> {
    /// Of which torrent.
    pub info_hash: InfoHash,
    /// Who we are.
    pub peer_id: [u8; 20],
    /// Where we listen.
    pub port: u16,
    /// Bytes since `started`.
    pub uploaded: u64,
    /// Bytes since `started`.
    pub downloaded: u64,
    /// Bytes that are missing.
    pub left: u64,
    /// Why now.
    pub event: Event,
    /// Peers wanted.
    pub numwant: u32,
    /// A number that proves to the tracker that we are the same, whatever our address.
    pub key: u32,
    /// What the tracker called us.
    pub tracker_id: Option<Cow<'a, [u8]>>,
}

/// What a tracker answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// Seconds to the next announce, as it came.
    pub interval: u32,
    /// Seconds before which no announce is welcome.
    pub min_interval: Option<u32>,
    /// What to call ourselves next time.
    pub tracker_id: Option<Vec<u8>>,
    /// For the user's eyes; at most [`MAX_TEXT`] bytes.
    pub warning: Option<String>,
    /// Seeds.
    pub complete: Option<u32>,
    /// Leechers.
    pub incomplete: Option<u32>,
    /// How often it was downloaded to its end.
    pub downloaded: Option<u32>,
    /// Our address as the tracker sees it (BEP 24).
    pub external_ip: Option<IpAddr>,
    /// Other peers: dialable ones alone.
    pub peers: Vec<SocketAddr>,
}

/// What a tracker knows of a torrent's peers, as far as it says so; it need not be true.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Peers that have all of it.
    pub seeds: Option<u32>,
    /// Those that do not.
    pub leechers: Option<u32>,
    /// How often it was downloaded to its end.
    pub downloads: Option<u32>,
}

/// When a tracker that refuses wants to be asked again (BEP 31).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// It does not say.
    Unsaid,
    /// After so many minutes.
    Minutes(u32),
    /// Never.
    Never,
}

/// Why there is no reply. Texts are at most [`MAX_TEXT`] bytes and may hold control characters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The host's name has no addresses now.
    Resolve(String),
    /// The host can not be reached or falls silent.
    Transport(String),
    /// The host has too much to do (HTTP 429, 5xx); it may say for how many seconds.
    Busy(u16, Option<u32>),
    /// The host answers, but not as a tracker does.
    Reply(String),
    /// The URL is not one that we ask.
    Url(String),
    /// The tracker refuses this torrent (`failure reason`).
    Refused(String, Retry),
}

impl Default for Reply {
    fn default() -> Reply {
        Reply {
            interval: DEFAULT_INTERVAL,
            min_interval: None,
            tracker_id: None,
            warning: None,
            complete: None,
            incomplete: None,
            downloaded: None,
            external_ip: None,
            peers: Vec::new(),
        }
    }
}

impl Reply {
    /// What it says of the torrent's peers.
    pub fn counts(&self) -> Counts {
        Counts { seeds: self.complete, leechers: self.incomplete, downloads: self.downloaded }
    }

    /// Adds what the same tracker answered over the other family of addresses.
    pub fn merge(&mut self, other: Reply, random: &mut Random) {
        self.interval = self.interval.max(other.interval);
        self.min_interval = self.min_interval.max(other.min_interval);
        self.tracker_id = self.tracker_id.take().or(other.tracker_id);
        self.warning = self.warning.take().or(other.warning);
        self.complete = self.complete.max(other.complete);
        self.incomplete = self.incomplete.max(other.incomplete);
        self.downloaded = self.downloaded.max(other.downloaded);
        self.external_ip = self.external_ip.or(other.external_ip);
        self.peers.extend(other.peers);
        self.peers.sort_unstable();
        self.peers.dedup();
        while self.peers.len() > MAX_PEERS {
            let one = random.below(self.peers.len());
            self.peers.swap_remove(one);
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Resolve(text) | Failure::Transport(text) | Failure::Reply(text) | Failure::Url(text) => {
                write!(f, "{text}")
            }
            Failure::Busy(status, _) => write!(f, "the tracker is overloaded (HTTP {status})"),
            Failure::Refused(reason, Retry::Never) => write!(f, "{reason} (for good)"),
            Failure::Refused(reason, _) => write!(f, "{reason}"),
        }
    }
}

impl std::error::Error for Failure {}

/// A foreign text as far as it is kept.
pub fn text(bytes: &[u8]) -> String {
    let mut text = String::from_utf8_lossy(&bytes[..bytes.len().min(MAX_TEXT)]).into_owned();
    text.truncate(text.floor_char_boundary(MAX_TEXT));
    text
}

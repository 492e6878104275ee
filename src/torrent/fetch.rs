//! What is kept of a torrent while it is fetched.
//!
//! Omitted: what is asked of whom (`picker`). Holds the picker, and 24 bytes for each that sent blocks of late.

use std::net::IpAddr;

use super::picker::Picker;
use crate::peer::PeerKey;

/// Senders of blocks that are remembered after they left.
const MAX_SENDERS: usize = 256;

/// A torrent that is being fetched. Times are seconds since the daemon started.
pub struct Fetch {
    /// What is asked of whom.
    pub picker: Picker,
    /// When it began.
    pub since: u32,
    /// When its pieces were last put on record.
    pub saved: u32,
    /// Pieces have come since.
    pub unsaved: bool,
    /// Who sent blocks of pieces that are not verified yet, and from where: who lies is banned, though he has left.
    senders: Vec<(PeerKey, IpAddr)>,
}

impl Fetch {
    /// Begins.
    pub fn new(picker: Picker, now: u32) -> Fetch {
        Fetch { picker, since: now, saved: now, unsaved: false, senders: Vec::new() }
    }

    /// A block of that peer is kept.
    pub fn remember(&mut self, key: PeerKey, ip: IpAddr) {
        if self.senders.iter().any(|(known, _)| *known == key) {
            return;
        }
        if self.senders.len() >= MAX_SENDERS {
            self.senders.remove(0);
        }
        self.senders.push((key, ip));
    }

    /// Where a sender of blocks was.
    pub fn sender(&self, key: PeerKey) -> Option<IpAddr> {
        self.senders.iter().find(|(known, _)| *known == key).map(|(_, ip)| *ip)
    }

    /// With nothing under way nobody can be blamed.
    pub fn forget_senders(&mut self) {
        if self.picker.active() == 0 {
            self.senders = Vec::new();
        }
    }
}

//! The session's superseeding: from when and until when the peers of a complete torrent see one piece at a time.
//!
//! Read first: BEP 16, `torrent::superseed`. It begins with the first peer of a torrent that was without any, as those who
//! are there already know what we have, and not again once it has come to its end. A peer is told of a piece once its first messages have shown what it has itself,
//! or after a moment of silence: old clients that have nothing say nothing. Once it is over, those who were there are
//! told of the other pieces bit by bit.

use std::time::Instant;

use super::{Session, Timer};
use crate::have::Have;
use crate::list::Gather;
use crate::peer::wire::Message;
use crate::peer::{Action, Close, PeerKey, View};
use crate::torrent::superseed::Superseed;
use crate::torrent::{Torrent, TorrentKey};

/// Bytes of messages that the peers of a torrent are sent at a time when they are told of everything.
const REVEAL: usize = 64 * 1024;
/// Bytes of a `have`.
const HAVE: usize = 9;
/// A peer that has not said what it has for so many seconds has nothing.
const SILENT: u32 = 2;

impl Session {
    /// A peer comes: if it is the first of a complete torrent, that is superseeded from now on where the user wants it.
    pub(super) fn begin_superseed(&mut self, key: TorrentKey) {
        if !self.settings.superseed {
            return;
        }
        let free = self.settings.memory.saturating_sub(self.memory());
        let Some(torrent) = self.torrents.get_mut(&key) else { return };
        if torrent.is_complete() && !torrent.is_out && torrent.peers().is_empty() {
            let superseed = Superseed::new(torrent.lengths, self.random.draw());
            if superseed.memory() as u64 <= free {
                torrent.swarm.get_or_insert_default().superseed = Some(Box::new(superseed));
            }
        }
    }

    /// What a peer's message means to a torrent that is superseeded.
    pub(super) fn superseed(&mut self, key: PeerKey, action: &Action, now: Instant) {
        let at = self.seconds(now);
        let Some(peer) = self.peers.get(&key) else { return };
        let Some(torrent_key) = peer.torrent else { return };
        let Some(superseed) = running(self.torrents.get_mut(&torrent_key)) else { return };
        let is_news = match action {
            Action::Gained(piece) => superseed.gained(key, piece.index(), at),
            Action::Pieces => {
                superseed.said(key, &peer.pieces, at);
                true
            }
            Action::Interest if peer.interested => {
                superseed.interested(key);
                false
            }
            Action::Lost(piece) => {
                superseed.lost(key, piece.index());
                false
            }
            _ => false,
        };
        if is_news {
            self.offer_pieces(torrent_key, now);
        }
    }

    /// A peer of a torrent is gone.
    pub(super) fn left_superseed(&mut self, torrent: TorrentKey, key: PeerKey, has: &Have, now: Instant) {
        if let Some(superseed) = running(self.torrents.get_mut(&torrent)) {
            superseed.left(key, has);
            self.offer_pieces(torrent, now);
        }
    }

    /// Tells those of a piece whose turn it is, or ends it.
    fn offer_pieces(&mut self, key: TorrentKey, now: Instant) {
        let at = self.seconds(now);
        let Some(torrent) = self.torrents.get_mut(&key) else { return };
        let is_complete = torrent.is_complete();
        let Some(swarm) = torrent.swarm.as_mut() else { return };
        let Some(superseed) = &mut swarm.superseed else { return };
        let wanted = is_complete && self.settings.superseed;
        if !wanted {
            superseed.end();
        }
        for key in &swarm.peers {
            let Some(peer) = self.peers.get_mut(key).filter(|peer| !peer.upload_only) else { continue };
            while let Some(piece) = superseed.offer(*key, &peer.pieces, at) {
                peer.announce_piece(piece);
            }
        }
        if superseed.is_over() {
            log::debug!("\"{}\" is seeded as usual from now on", crate::log::escaped(&torrent.name));
            torrent.is_out |= wanted;
            self.set(Timer::Sweep, now);
            if is_complete {
                self.part_from_seeds(key);
            }
        }
    }

    /// Looks at all that are superseeded: who came and said nothing, whether anything moves, who is to be told of
    /// everything. `true` where it should look again soon.
    pub(super) fn look_at_superseeds(&mut self, now: Instant) -> bool {
        let at = self.seconds(now);
        let superseeded = self.torrents().filter(|(_, torrent)| torrent.superseed().is_some());
        let keys: Vec<TorrentKey> = superseeded.map(|(key, _)| key).gather();
        let mut soon = false;
        for key in keys {
            let Some(torrent) = self.torrent(key) else { continue };
            let sent = torrent.uploaded + self.moved_now(torrent).0;
            let peers = torrent.peers().to_vec();
            if let Some(superseed) = running(self.torrents.get_mut(&key)) {
                for key in peers {
                    let Some(peer) = self.peers.get(&key) else { continue };
                    let is_silent = peer.pieces.is_none() && at.saturating_sub(peer.since) >= SILENT;
                    if peer.ready && is_silent {
                        superseed.said(key, &Have::None, at);
                    }
                    soon |= !is_silent && peer.pieces.is_none();
                }
                superseed.look(sent, at);
                self.offer_pieces(key, now);
            }
            soon |= self.reveal(key);
        }
        soon
    }

    /// Once it is over: tells those who were there of some more pieces. `true` while there are others.
    fn reveal(&mut self, key: TorrentKey) -> bool {
        let Some(torrent) = self.torrents.get_mut(&key) else { return false };
        let Some(swarm) = &mut torrent.swarm else { return false };
        let Some(superseed) = &mut swarm.superseed else { return false };
        let most = (REVEAL / HAVE / swarm.peers.len().max(1)).max(1);
        let Some((pieces, peers)) = superseed.reveal(u32::try_from(most).unwrap_or(1)) else { return false };
        let is_last = pieces.end == torrent.lengths.piece_count();
        for key in peers {
            let Some(peer) = self.peers.get_mut(&key) else { continue };
            if peer.control.len() > REVEAL {
                peer.close(Close::Protocol("reads nothing"));
            }
            // Those that it has itself are among them: that way even a seed that hid like us sees what we are.
            for piece in pieces.clone().filter(|&piece| torrent.have.contains(piece)) {
                peer.announce_piece(piece);
            }
            if is_last && torrent.have.is_all() {
                peer.forget_pieces();
            }
        }
        !is_last
    }
}

/// The superseeding of a torrent that is not over.
fn running(torrent: Option<&mut Box<Torrent>>) -> Option<&mut Superseed> {
    let superseed = torrent?.swarm.as_mut()?.superseed.as_deref_mut()?;
    (!superseed.is_over()).then_some(superseed)
}

/// What a message of a peer is judged against: what we do not show must not be asked for, but for the piece that the peer
/// was told of.
pub(super) fn view<'a>(torrent: &'a Torrent, key: PeerKey, message: &Message<'_>) -> View<'a> {
    match (message, torrent.superseed()) {
        (Message::Request { piece, .. }, Some(superseed)) if superseed.is_offered(key, *piece) => {
            View { lengths: torrent.lengths, have: &torrent.have }
        }
        _ => torrent.view(),
    }
}

//! The session's metadata: asked of peers for torrents that only a magnet link names, and given to those who ask us.
//!
//! Read first: BEP 9, `torrent::metadata`. What has come is verified and written as a .torrent by the storage thread;
//! from then on it is a torrent as any other, with the peers that were connected. What we give is read from the .torrent
//! when it is asked for, one piece at a time for each peer, within a rate, and never of a private torrent. Holds eight
//! bytes for each piece that a peer waits for.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::{Happened, Job, Session, Timer, event};
use crate::list::{Gather, Keep};
use crate::metainfo::magnet::Magnet;
use crate::metainfo::{InfoHash, Summary};
use crate::net::Host;
use crate::peer::metadata::{Message, PIECE, piece_len, pieces};
use crate::peer::wire::Decoder;
use crate::peer::{Close, Peer, PeerKey, Sending};
use crate::storage::Trouble;
use crate::storage::io::{Job as StorageJob, Place, Unkept};
use crate::torrent::candidates::Source;
use crate::torrent::metadata::{Came, MAX_METADATA, Offer};
use crate::torrent::{State, Torrent, TorrentKey};

/// Bytes of metadata read a second for all who ask: it is no more than a few of them, now and then.
pub(super) const RATE: u64 = 256 * 1024;
/// Bytes of it that may be read at once: all of it, for most torrents.
pub(super) const BURST: u64 = 1 << 20;
/// Pieces that one peer may wait for: Transmission asks for 64 at a time.
const MAX_WANTED: usize = 64;
/// Pieces that all of them may wait for.
const MAX_WANTED_BY_ALL: usize = 2048;
/// With fewer bytes unsent a peer is read the next piece.
const UNSENT: usize = 4 * 1024;

impl Session {
    // A link becomes a torrent.

    /// Adds a torrent that a magnet link names; `place` says where that lies.
    pub fn insert_magnet(&mut self, link: Magnet, place: Place, now: Instant) -> Option<TorrentKey> {
        if self.by_hash.contains_key(&link.info_hash) {
            return None;
        }
        let tiers = self.tiers(link.trackers.iter().map(|url| vec![url.clone()]).collect());
        let torrent = Torrent::of_link(link, tiers, place, self.time_of_day(now));
        Some(self.add(torrent, now))
    }

    /// Peers that a magnet link names. A private torrent has them from its trackers alone.
    pub fn offer_peers(&mut self, info_hash: InfoHash, peers: &[SocketAddr], now: Instant) {
        let Some(key) = self.key(info_hash) else { return };
        let Some(torrent) = self.torrents.get_mut(&key).filter(|torrent| !torrent.private) else { return };
        torrent.named = peers.into();
        if torrent.serves() && !self.stopping {
            self.candidates.insert(key.0, peers.iter().copied(), Source::Static, now);
            self.set_dial(now);
        }
    }

    /// Begins, or goes on, to ask for the metadata of a torrent.
    pub(super) fn fetch_metadata(&mut self, key: TorrentKey, now: Instant) {
        let Some(torrent) = self.torrents.get_mut(&key) else { return };
        let Some(missing) = &torrent.metadata else { return };
        if matches!(torrent.state, State::Paused | State::FetchingMetadata) {
            return;
        }
        if let Some(why) = &missing.hopeless {
            let why = why.to_string();
            return self.park(key, State::Error, &why, now);
        }
        torrent.state = State::FetchingMetadata;
        torrent.reason = "".into();
        if std::mem::take(&mut torrent.reported) {
            let event = event(Happened::Recovered, torrent, "".into());
            self.jobs.push_back(Job::Event(event));
        }
        self.announce(key, now);
        self.ask_for_metadata(key, now);
    }

    /// The .torrent of a torrent that only a link had named: it goes on as any other. `false` where it was known.
    pub fn learn(&mut self, mut summary: Summary, place: Place, now: Instant) -> bool {
        let Some(key) = self.key(summary.info_hash) else { return false };
        let tiers = self.tiers(std::mem::take(&mut summary.trackers));
        let Some(torrent) = self.torrents.get_mut(&key) else { return false };
        if torrent.metadata.take().is_none() {
            return false;
        }
        log::info!("\"{}\": its metadata is here", crate::log::escaped(&summary.name));
        torrent.name = summary.name;
        torrent.lengths = summary.lengths;
        torrent.info_at = summary.info_at;
        torrent.private = summary.private;
        torrent.web_seeded = summary.web_seeded;
        torrent.place = place;
        torrent.failures = 0;
        let other_trackers = *torrent.tiers != *tiers;
        torrent.tiers = tiers;
        if torrent.state != State::Paused {
            torrent.state = State::Queued;
            torrent.reason = "".into();
        }
        if torrent.private {
            // Whoever was found otherwise than by its trackers is to know nothing more of it (BEP 27).
            torrent.named = [].into();
            self.lpd.remove(summary.info_hash);
            self.dht.remove(summary.info_hash);
            self.candidates.remove(key.0);
            self.close_peers(key, &Close::TorrentStopped);
        }
        self.retell_trackers(key, other_trackers || summary.private, now);
        self.judge_early(key, now);
        self.queue_check(key);
        true
    }

    /// Other trackers are told of a torrent from its next announce on.
    fn retell_trackers(&mut self, key: TorrentKey, are_others: bool, now: Instant) {
        if are_others
            && let Some(torrent) = self.torrents.get_mut(&key)
            && std::mem::take(&mut torrent.announced)
        {
            self.trackers.remove(key.0, now);
        }
    }

    /// What peers said of their pieces before anybody knew how many there are is handled now.
    fn judge_early(&mut self, key: TorrentKey, now: Instant) {
        let Some(torrent) = self.torrents.get(&key) else { return };
        let (peers, size) = (torrent.peers().to_vec(), torrent.metadata_size());
        for key in peers {
            let Some(peer) = self.peers.get_mut(&key).filter(|peer| peer.closing.is_none()) else { continue };
            let early = peer.take_early();
            peer.offer_metadata(size);
            // One that said too much to be kept says it again when it is called again.
            let judged =
                early.ok_or(Close::TorrentStopped).and_then(|early| self.handle_all(key, &early, now));
            if let Err(why) = judged
                && let Some(peer) = self.peers.get_mut(&key)
            {
                peer.close(why);
            }
        }
    }

    fn handle_all(&mut self, key: PeerKey, mut input: &[u8], now: Instant) -> Result<(), Close> {
        let limits = self.wire_limits(key).ok_or(Close::TorrentStopped)?;
        let mut decoder = Decoder::new();
        while let Some(message) =
            decoder.decode(&mut input, &limits).map_err(|_| Close::Protocol("malformed message"))?
        {
            self.handle(key, &message, now)?;
        }
        Ok(())
    }

    // What is asked for.

    /// Asks those who have the metadata of a torrent for what is missing of it.
    pub(super) fn ask_for_metadata(&mut self, key: TorrentKey, now: Instant) {
        let (at, memory) = (self.seconds(now), self.memory());
        let Some(torrent) = self.torrents.get_mut(&key) else { return };
        if torrent.state != State::FetchingMetadata {
            return;
        }
        let (peers, own) = (&mut self.peers, torrent.peers().to_vec());
        let Some(missing) = &mut torrent.metadata else { return };
        let held = missing.gathering.memory() as u64;
        let room = self.settings.memory.saturating_sub(memory - held.min(memory));
        let offer = |&peer: &PeerKey| Some(Offer { peer, size: peers.get(&peer)?.offers_metadata()? });
        let offers: Vec<Offer> = own.iter().filter_map(offer).gather();
        let fit = |offer: &&Offer| offer.size <= MAX_METADATA && u64::from(offer.size) <= room;
        let fitting: Vec<Offer> = offers.iter().filter(fit).copied().gather();
        while let Some((peer, piece)) = missing.gathering.next(&fitting, at) {
            let Some(peer) = peers.get_mut(&peer) else { continue };
            if let Err(why) = peer.tell_metadata(&Message::Request(piece)) {
                peer.close(why);
            }
        }
        torrent.reason = match offers.iter().map(|offer| offer.size).min() {
            Some(size) if fitting.is_empty() => {
                format!("its metadata is said to have {size} bytes: there is no room for it in memory").into()
            }
            _ => "".into(),
        };
        if let Some(deadline) = missing.gathering.deadline() {
            self.set_by(Timer::Metadata, self.start + Duration::from_secs(deadline.into()));
        }
    }

    /// A peer sent a message about metadata.
    pub(super) fn metadata_message(
        &mut self,
        key: PeerKey,
        payload: &[u8],
        now: Instant,
    ) -> Result<(), Close> {
        let at = self.seconds(now);
        // One that we do not know is no error (BEP 9).
        let Some(message) = Message::decode(payload) else { return Ok(()) };
        if let Message::Request(piece) = message {
            return self.metadata_asked(key, piece, now);
        }
        let Some(peer) = self.peers.get_mut(&key) else { return Err(Close::Gone) };
        let torrent_key = peer.torrent.ok_or(Close::UnknownTorrent)?;
        let torrent = self.torrents.get_mut(&torrent_key).ok_or(Close::TorrentStopped)?;
        let missing = torrent.metadata.as_mut();
        match (message, missing) {
            (Message::Data { .. }, None) => peer.sent_unasked()?,
            (Message::Data { piece, total, data }, Some(missing)) => {
                if total.is_some_and(|total| total != peer.metadata_size) {
                    missing.gathering.rejected(key, piece, at);
                }
                match missing.gathering.received(key, peer.addr.host(), piece, data, at) {
                    Came::Unasked => peer.sent_unasked()?,
                    Came::Misshapen => return Err(Close::Protocol("metadata of a wrong size")),
                    Came::Kept => {}
                    Came::Whole => {
                        let job = StorageJob::Keep {
                            key: torrent_key.0,
                            pieces: missing.gathering.take(),
                            link: Box::new(missing.link.clone()),
                            path: torrent.place.torrent.clone(),
                        };
                        self.jobs.push_back(Job::Storage(job));
                    }
                }
            }
            (Message::Reject(piece), Some(missing)) => missing.gathering.rejected(key, piece, at),
            _ => {}
        }
        self.ask_for_metadata(torrent_key, now);
        Ok(())
    }

    /// What came is not what the link names, or could not be written.
    pub(super) fn not_kept(&mut self, key: TorrentKey, why: Unkept, now: Instant) {
        let at = self.seconds(now);
        let Some(torrent) = self.torrents.get_mut(&key) else { return };
        let Some(missing) = &mut torrent.metadata else { return };
        match why {
            Unkept::Wrong => {
                let liar = missing.gathering.wrong();
                log::debug!("the metadata that came for {} is not its own", torrent.info_hash);
                if let Some(liar) = liar {
                    self.ban(liar, now);
                }
                self.ask_for_metadata(key, now);
            }
            Unkept::Unfit(why) => {
                let why = format!("its metadata is here and not taken: {why}");
                missing.gathering.again();
                missing.hopeless = Some(why.as_str().into());
                self.park(key, State::Error, &why, now);
            }
            Unkept::Unwritten(why) => {
                missing.gathering.again();
                (torrent.failures, torrent.failed) = (torrent.failures.saturating_add(1), at);
                self.park(key, State::Error, &format!("its metadata cannot be written: {why}"), now);
            }
        }
    }

    /// A peer is gone: others may be asked for what it was, and it waits for nothing more.
    pub(super) fn left_metadata(&mut self, torrent: TorrentKey, key: PeerKey, now: Instant) {
        self.metadata_wanted.keep(|(peer, _)| *peer != key);
        let missing = self.torrents.get_mut(&torrent).and_then(|torrent| torrent.metadata.as_mut());
        if let Some(missing) = missing {
            missing.gathering.left(key);
            self.ask_for_metadata(torrent, now);
        }
    }

    /// Looks at those that are slow, and gives what may be given now.
    pub(super) fn look_at_metadata(&mut self, now: Instant) {
        let at = self.seconds(now);
        let missing =
            self.torrents.iter_mut().filter_map(|(key, torrent)| Some((key, torrent.metadata.as_mut()?)));
        let keys: Vec<TorrentKey> = missing
            .map(|(&key, missing)| {
                missing.gathering.look(at);
                key
            })
            .gather();
        keys.into_iter().for_each(|key| self.ask_for_metadata(key, now));
        self.give_metadata(now);
    }

    // What is given.

    /// A peer asks for a piece of the metadata.
    fn metadata_asked(&mut self, key: PeerKey, piece: u32, now: Instant) -> Result<(), Close> {
        let Some(peer) = self.peers.get_mut(&key) else { return Err(Close::Gone) };
        let torrent =
            peer.torrent.and_then(|torrent| self.torrents.get(&torrent)).ok_or(Close::TorrentStopped)?;
        let waits = self.metadata_wanted.iter().filter(|(peer, _)| *peer == key).count();
        let has = !torrent.private && piece < pieces(torrent.metadata_size());
        if !has || waits >= MAX_WANTED || self.metadata_wanted.len() >= MAX_WANTED_BY_ALL {
            return peer.tell_metadata(&Message::Reject(piece));
        }
        self.metadata_wanted.push_back((key, piece));
        self.give_metadata(now);
        Ok(())
    }

    /// Has read what peers wait for, as far as they have taken what was read before and the rates allow it.
    fn give_metadata(&mut self, now: Instant) {
        for _ in 0..self.metadata_wanted.len() {
            let Some((key, piece)) = self.metadata_wanted.pop_front() else { break };
            let Some(peer) = self.peers.get_mut(&key) else { continue };
            let Some(torrent_key) = peer.torrent else { continue };
            let Some(torrent) = self.torrents.get(&torrent_key) else { continue };
            let len = piece_len(torrent.metadata_size(), piece);
            let bucket = if peer.local { &mut self.local_upload } else { &mut self.upload };
            let ready = bucket.ready_at(len.into(), now).max(self.metadata_rate.ready_at(len.into(), now));
            if peer.sending != Sending::Nothing || ready > now {
                self.metadata_wanted.push_back((key, piece));
                if ready > now {
                    self.set_by(Timer::Metadata, ready);
                }
                continue;
            }
            bucket.take(len.into(), now);
            self.metadata_rate.take(len.into(), now);
            peer.sending = Sending::Asked;
            let start = torrent.info_at.start + piece * PIECE;
            let (place, at) = (torrent.place.clone(), start..start + len);
            let job = StorageJob::Metadata { key: torrent_key.0, peer: key.0, place, piece, at };
            self.jobs.push_back(Job::Storage(job));
        }
        if self.metadata_wanted.is_empty() {
            self.metadata_wanted = <_>::default();
        }
    }

    /// A piece that a peer waits for has been read.
    pub(super) fn metadata_read(
        &mut self,
        key: PeerKey,
        piece: u32,
        result: Result<Box<[u8]>, Trouble>,
        now: Instant,
    ) {
        let Some(peer) = self.peers.get_mut(&key) else { return };
        let torrent = peer.torrent.and_then(|torrent| self.torrents.get(&torrent));
        let total = torrent.map(|torrent| torrent.metadata_size());
        let message = match &result {
            Ok(data) => Message::Data { piece, total, data },
            Err(_) => Message::Reject(piece),
        };
        peer.sending = Sending::Written;
        if let Err(why) = peer.tell_metadata(&message) {
            peer.close(why);
        }
        if let Err(Trouble::TorrentChanged) = result {
            self.set_by(Timer::Rescan, now);
        }
        self.metadata_may_go(key, now);
    }

    /// A peer has taken what was written to it, or most of it.
    pub(super) fn metadata_may_go(&mut self, key: PeerKey, now: Instant) {
        let Some(peer) = self.peers.get_mut(&key) else { return };
        if peer.sending == Sending::Written && peer.control.len() < UNSENT {
            peer.sending = Sending::Nothing;
            if self.metadata_wanted.iter().any(|(waiting, _)| *waiting == key) {
                self.set_by(Timer::Metadata, now);
            }
        }
    }
}

impl Peer {
    /// Bytes of the metadata that it can be asked for.
    fn offers_metadata(&self) -> Option<u32> {
        let takes = self.ready && self.closing.is_none() && self.ids.ut_metadata.is_some_and(|id| id > 0);
        Some(self.metadata_size).filter(|&size| takes && size > 0)
    }
}

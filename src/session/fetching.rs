//! The session's fetching: what is asked of whom, what becomes of what comes, and when a torrent is whole.
//!
//! Read first: BEP 3, `torrent::picker`. A torrent that lacks pieces is fetched if its disk can be written to, which the
//! storage thread is asked first. What is kept of that hangs on the torrent once somebody has some of it. Whatever goes
//! wrong with writing ends it: blocks that were taken and not written are asked for again.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::checks::Rest;
use super::{CHOKE_ROUND, Event, GROWING, Happened, Job, RECORD_PROGRESS, Session, Timer, event};
use crate::have::Have;
use crate::list::{Gather, Keep};
use crate::net::Host;
use crate::peer::{Close, PeerKey};
use crate::piece::{BLOCK, Block, PieceIndex};
use crate::storage::Trouble;
use crate::storage::intake::Filled;
use crate::storage::io::{Batch, Hashed, Job as StorageJob, Outcome, Prepared, Progress, Target};
use crate::torrent::fetch::Fetch;
use crate::torrent::picker::Picker;
use crate::torrent::{State, TorrentKey};

/// How often slow peers are looked at while something is fetched.
const LOOK: Duration = Duration::from_secs(1);
/// How soon, when somebody has lost blocks.
const SOON: Duration = Duration::from_millis(50);
/// Pieces that a torrent on a disk that fills holes with zeros may be ahead of its first missing byte, in bytes.
const WINDOW: u64 = 64 << 20;

impl Session {
    // A torrent begins to be fetched, and ends.

    /// Asks whether a torrent that lacks pieces can be written to.
    pub(super) fn prepare(&mut self, key: TorrentKey) {
        let Some(torrent) = self.torrents.get(&key) else { return };
        let (info_hash, place) = (torrent.info_hash, torrent.place.clone());
        self.jobs.push_back(Job::Storage(StorageJob::Prepare { key: key.0, info_hash, place }));
    }

    /// The storage thread has looked whether it can.
    pub(super) fn prepared(&mut self, key: TorrentKey, result: Result<Prepared, Trouble>, now: Instant) {
        let Some(torrent) = self.torrents.get_mut(&key) else { return };
        if !torrent.is_wanted() {
            return;
        }
        match result {
            Ok(prepared) => {
                torrent.windowed = prepared.window;
                if torrent.state != State::Downloading {
                    let (have, size) = (torrent.have_bytes(), torrent.lengths.total());
                    let name = crate::log::escaped(&torrent.name);
                    log::info!("\"{name}\" is fetched: {} of {size} bytes are missing", size - have);
                }
                torrent.state = State::Downloading;
                torrent.written = true;
                torrent.reason = "".into();
                if std::mem::take(&mut torrent.reported) {
                    let event = event(Happened::Recovered, torrent, "".into());
                    self.jobs.push_back(Job::Event(event));
                }
                self.announce(key, now);
                self.begin_fetch(key, now);
            }
            Err(trouble) => self.cannot_write(key, &trouble, now),
        }
    }

    /// Makes use of those that are connected already.
    fn begin_fetch(&mut self, key: TorrentKey, now: Instant) {
        let peers = self.torrents.get(&key).map(|torrent| torrent.peers().to_vec()).unwrap_or_default();
        for peer in peers {
            self.consider(peer, now);
        }
        self.refill_all(key, now);
        self.begin_web(key, now);
    }

    /// Makes what is kept of a torrent that is fetched, if memory allows it.
    pub(super) fn begin_picking(&mut self, key: TorrentKey, now: Instant) -> bool {
        let Some(torrent) = self.torrents.get(&key).filter(|t| t.state == State::Downloading) else {
            return false;
        };
        if torrent.fetch.is_some() {
            return true;
        }
        let (at, memory) = (self.seconds(now), self.memory());
        let Some(torrent) = self.torrents.get_mut(&key) else { return false };
        let mut picker = Picker::new(torrent.lengths, self.random.draw());
        if memory + picker.memory() as u64 > self.settings.memory {
            return false;
        }
        if torrent.windowed {
            let piece = u64::from(torrent.lengths.piece_length());
            picker.set_window(u32::try_from((WINDOW / piece).max(1)).ok());
        }
        torrent.fetch = Some(Box::new(Fetch::new(picker, at)));
        // Before anything is written: what is on record is trusted by its record alone from now on, for its files change.
        torrent.written = true;
        self.record(key, now);
        self.set(Timer::Flush, now);
        true
    }

    /// Nothing more is fetched of a torrent. What was asked for is taken back.
    pub(super) fn end_fetch(&mut self, key: TorrentKey) {
        let Some(torrent) = self.torrents.get_mut(&key) else { return };
        if torrent.fetch.take().is_none() {
            return;
        }
        self.give_up_web(Some(key));
        let Some(torrent) = self.torrents.get_mut(&key) else { return };
        for peer in torrent.peers() {
            let Some(peer) = self.peers.get_mut(peer) else { continue };
            peer.counted = None;
            peer.cancel_all();
            peer.set_interesting(false);
        }
        if !self.is_fetching() {
            self.timers[Timer::Fetch as usize] = None;
        }
    }

    /// Whether anything is fetched.
    pub fn is_fetching(&self) -> bool {
        self.torrents.values().any(|torrent| torrent.fetch.is_some())
    }

    /// Writing did not work: what was taken and not written is lost, so it begins anew once it works again.
    pub(super) fn cannot_write(&mut self, key: TorrentKey, trouble: &Trouble, now: Instant) {
        self.end_fetch(key);
        // What is whole is put on record, as far as the disk allows.
        if let Some(torrent) = self.torrents.get_mut(&key).filter(|torrent| torrent.written) {
            torrent.state = State::Incomplete;
            self.record(key, now);
        }
        let again = Rest::Prepare(key);
        match trouble {
            Trouble::TorrentChanged => self.rest(again, now + GROWING),
            trouble => self.trouble(key, trouble, again, now),
        }
    }

    /// A peer may have something that we want.
    pub(super) fn consider(&mut self, key: PeerKey, now: Instant) {
        let Some(peer) = self.peers.get(&key).filter(|peer| peer.ready && peer.closing.is_none()) else {
            return;
        };
        let Some(torrent_key) = peer.torrent.filter(|_| !peer.pieces.is_none()) else { return };
        if !self.begin_picking(torrent_key, now) {
            return;
        }
        let Some(peer) = self.peers.get_mut(&key) else { return };
        let Some(torrent) = self.torrents.get_mut(&torrent_key) else { return };
        let Some(fetch) = &mut torrent.fetch else { return };
        if peer.counted.is_none() {
            fetch.picker.joined(&peer.pieces, peer.local);
            peer.counted = Some(peer.local);
        }
        peer.begin_requests();
        if !peer.interesting && fetch.picker.wants(&peer.pieces, &torrent.have) {
            peer.set_interesting(true);
            // The rates are looked at then.
            self.set_by(Timer::Choke, now + CHOKE_ROUND);
        }
    }

    /// A peer has another piece.
    pub(super) fn gained(&mut self, key: PeerKey, piece: PieceIndex, now: Instant) {
        let Some(peer) = self.peers.get_mut(&key) else { return };
        let Some(torrent) = peer.torrent.and_then(|torrent| self.torrents.get_mut(&torrent)) else { return };
        if torrent.state != State::Downloading {
            return;
        }
        match (&mut torrent.fetch, peer.counted) {
            (Some(fetch), Some(local)) => {
                fetch.picker.gained(piece.index(), local);
                if !peer.interesting && !torrent.have.contains(piece.index()) {
                    peer.set_interesting(true);
                    self.set_by(Timer::Choke, now + CHOKE_ROUND);
                }
            }
            _ => self.consider(key, now),
        }
    }

    /// A peer has a piece no more: it is no source of it, and others may be asked for what it was.
    pub(super) fn lacks(&mut self, key: PeerKey, piece: PieceIndex, now: Instant) {
        let Some(peer) = self.peers.get_mut(&key) else { return };
        let Some(torrent_key) = peer.torrent else { return };
        let blocks = peer.requests.as_mut().map_or(Vec::new(), |requests| requests.lose(piece));
        let fetch = self.torrents.get_mut(&torrent_key).and_then(|torrent| torrent.fetch.as_mut());
        if let (Some(fetch), Some(local)) = (fetch, peer.counted) {
            fetch.picker.lacks(piece.index(), local);
        }
        self.refused(torrent_key, key, &blocks, now);
    }

    /// A peer does not send these blocks: others may be asked.
    pub(super) fn refused(&mut self, torrent: TorrentKey, key: PeerKey, blocks: &[Block], now: Instant) {
        let fetch = self.torrents.get_mut(&torrent).and_then(|torrent| torrent.fetch.as_mut());
        if let Some(fetch) = fetch
            && !blocks.is_empty()
        {
            blocks.iter().for_each(|&block| fetch.picker.release(key, block));
            self.look_soon(now);
        }
    }

    /// A peer goes: its blocks are for others.
    pub(super) fn left(
        &mut self,
        torrent: TorrentKey,
        key: PeerKey,
        pieces: &Have,
        local: bool,
        now: Instant,
    ) {
        if let Some(fetch) = self.torrents.get_mut(&torrent).and_then(|torrent| torrent.fetch.as_mut()) {
            fetch.picker.left(key, pieces, local);
            self.look_soon(now);
        }
    }

    // Asking.

    /// Asks a peer for as much as it can use: called when its task has read, before it writes.
    pub fn refill(&mut self, key: PeerKey, now: Instant) {
        let (at, ms) = (self.seconds(now), self.millis(now));
        let Some(peer) = self.peers.get_mut(&key) else { return };
        // Whatever it sends may have us answer.
        peer.part_if_it_reads_nothing();
        if peer.choking || !peer.interesting || peer.closing.is_some() {
            return;
        }
        let Some(torrent) = peer.torrent.and_then(|torrent| self.torrents.get_mut(&torrent)) else { return };
        let (Some(requests), Some(fetch)) = (&peer.requests, &mut torrent.fetch) else { return };
        let wanted = requests.room(ms);
        if wanted == 0 {
            if requests.is_empty() {
                // It refused what it was asked for, and may say nothing more: it is asked again by then.
                self.set_by(Timer::Fetch, now + LOOK);
            }
            return;
        }
        let bucket = if peer.local { &mut self.local_download } else { &mut self.download };
        let blocks = usize::try_from(bucket.available(now) / u64::from(BLOCK)).unwrap_or(usize::MAX);
        if blocks == 0 {
            let at = bucket.ready_at(u64::from(BLOCK), now);
            if !self.hungry.contains(&key) {
                self.hungry.push_back(key);
            }
            self.set_by(Timer::Tokens, at);
            return;
        }
        let (rate, most) = (requests.rate(), wanted.min(blocks));
        fetch.picker.pick(key, rate, &peer.pieces, &torrent.have, most, at, &mut self.picked);
        let idle = self.picked.is_empty() && requests.is_empty();
        for block in self.picked.drain(..) {
            bucket.take(u64::from(block.len), now);
            peer.request(block, ms);
        }
        if idle && !fetch.picker.wants(&peer.pieces, &torrent.have) {
            peer.set_interesting(false);
        }
        self.set_by(Timer::Fetch, now + LOOK);
    }

    /// Blocks have come free: the others are asked once all that goes with it is known. A peer that chokes and unchokes
    /// us without end has all of them looked at no more often than that.
    pub(super) fn look_soon(&mut self, now: Instant) {
        self.set_by(Timer::Fetch, now + SOON);
    }

    fn refill_all(&mut self, key: TorrentKey, now: Instant) {
        let Some(torrent) = self.torrents.get(&key).filter(|torrent| torrent.fetch.is_some()) else { return };
        for peer in torrent.peers().to_vec() {
            self.refill_and_wake(peer, now);
        }
    }

    fn refill_and_wake(&mut self, key: PeerKey, now: Instant) {
        self.refill(key, now);
        if let Some(peer) = self.peers.get_mut(&key).filter(|peer| peer.speaks()) {
            peer.wake();
        }
    }

    /// Those that waited for tokens of the download rate are asked again.
    pub(super) fn feed_hungry(&mut self, now: Instant) {
        for _ in 0..self.hungry.len() {
            let Some(key) = self.hungry.pop_front() else { break };
            self.refill_and_wake(key, now);
        }
    }

    /// Whether a peer may send blocks: it is read into where they are written from.
    pub fn expects_blocks(&self, key: PeerKey) -> bool {
        self.peers.get(&key).is_some_and(|peer| peer.requests.is_some())
    }

    /// The torrent of a peer.
    pub fn torrent_of(&self, key: PeerKey) -> Option<TorrentKey> {
        self.peers.get(&key)?.torrent
    }

    // What comes.

    /// A fragment of a block came: `len` bytes from `begin` of a piece on, with `rest` to come. `true` if it is to be kept.
    pub fn block(
        &mut self,
        key: PeerKey,
        piece: u32,
        begin: u32,
        len: u32,
        rest: u32,
        now: Instant,
    ) -> Result<bool, Close> {
        let ms = self.millis(now);
        let Some(peer) = self.peers.get_mut(&key) else { return Err(Close::Gone) };
        let torrent_key = peer.torrent.ok_or(Close::UnknownTorrent)?;
        let Some(torrent) = self.torrents.get_mut(&torrent_key) else { return Err(Close::TorrentStopped) };
        peer.downloaded += u64::from(len);
        peer.given = peer.given.saturating_add(len);
        self.downloaded += u64::from(len);
        let Some(block) = peer.block_came(piece, begin, len, rest, ms)? else { return Ok(false) };
        let Some(fetch) = &mut torrent.fetch else { return Ok(false) };
        if torrent.have.contains(piece) || torrent.lengths.block(piece, begin, len).is_none() {
            return Ok(false);
        }
        let arrived = fetch.picker.arrived(key, piece, begin, len, rest);
        if arrived.keep {
            fetch.remember(key, peer.addr.host());
        }
        self.piece_arrived |= arrived.piece_done;
        if arrived.block_done {
            self.cancel_others(torrent_key, block, key);
        }
        Ok(arrived.keep)
    }

    /// A block has come: whoever else was asked for it need not send it.
    pub(super) fn cancel_others(&mut self, torrent: TorrentKey, block: Block, sender: PeerKey) {
        let fetch = self.torrents.get_mut(&torrent).and_then(|torrent| torrent.fetch.as_mut());
        let Some(fetch) = fetch else { return };
        fetch.picker.others(block, sender, &mut self.others);
        for other in self.others.drain(..) {
            if let Some(other) = self.peers.get_mut(&other) {
                other.cancel(block);
            }
        }
    }

    /// Whether a piece is whole but for the writing: that should not wait for more.
    pub fn wants_write(&self) -> bool {
        self.piece_arrived
    }

    /// What the storage thread needs to know to write what came.
    pub fn write(&mut self, mut filled: Filled) -> StorageJob {
        self.piece_arrived = false;
        let torrents = &mut self.torrents;
        // What came before a pause may be of a piece that was found right since: nothing is written over that.
        filled.writes.keep(|write| {
            let torrent = torrents.get(&TorrentKey(write.key));
            torrent.is_some_and(|torrent| torrent.fetch.is_some() && !torrent.have.contains(write.piece))
        });
        let mut targets: Vec<Target> = Vec::new();
        for write in &filled.writes {
            let Some(torrent) = torrents.get_mut(&TorrentKey(write.key)) else { continue };
            let Some(fetch) = &torrent.fetch else { continue };
            let at = targets.iter().position(|target| target.key == write.key).unwrap_or_else(|| {
                let (key, info_hash, place) = (write.key, torrent.info_hash, torrent.place.clone());
                targets.push(Target { key, info_hash, place, pieces: Vec::new() });
                targets.len() - 1
            });
            let pieces = &mut targets[at].pieces;
            if !pieces.iter().any(|progress| progress.piece == write.piece) {
                let (ready, digests) =
                    (fetch.picker.ready(write.piece), fetch.picker.wants_digests(write.piece));
                pieces.push(Progress { piece: write.piece, ready, digests });
            }
        }
        StorageJob::Write(Box::new(Batch { filled, targets }))
    }

    /// What was given to the storage thread has been written, or not.
    pub(super) fn wrote(&mut self, outcomes: Vec<Outcome>, now: Instant) {
        for Outcome { key, trouble, hashed } in outcomes {
            let key = TorrentKey(key);
            // An answer to what was asked before it was ended tells nothing of what is asked now.
            let fetched = self.torrents.get(&key).is_some_and(|torrent| torrent.fetch.is_some());
            if !fetched {
                continue;
            }
            for hashed in hashed {
                self.piece_hashed(key, &hashed, now);
            }
            if let Some(trouble) = trouble {
                self.cannot_write(key, &trouble, now);
            }
        }
    }

    fn piece_hashed(&mut self, key: TorrentKey, hashed: &Hashed, now: Instant) {
        let Some(torrent) = self.torrents.get_mut(&key) else { return };
        let Some(fetch) = &mut torrent.fetch else { return };
        let blame = fetch.picker.verified(hashed.piece, hashed.good, &hashed.digests);
        let peers: Vec<IpAddr> = blame.liars.iter().filter_map(|&liar| fetch.sender(liar)).gather();
        peers.into_iter().for_each(|ip| self.ban(ip, now));
        blame.liars.iter().for_each(|&liar| self.blame_web(key, liar));
        let Some(torrent) = self.torrents.get_mut(&key) else { return };
        if !hashed.good {
            log::debug!("piece {} of {} is not right: it is fetched again", hashed.piece, torrent.info_hash);
            self.look_soon(now);
            return;
        }
        if let Some(fetch) = &mut torrent.fetch {
            fetch.unsaved = true;
        }
        let count = torrent.lengths.piece_count();
        if torrent.have.insert(hashed.piece, count) {
            for peer in torrent.peers() {
                if let Some(peer) = self.peers.get_mut(peer) {
                    peer.announce_fetched(hashed.piece);
                }
            }
        }
        let whole = self.torrents.get(&key).is_some_and(|torrent| torrent.is_complete());
        if whole {
            self.completed(key, now);
        }
    }

    /// No more is heard of an address that sent wrong data.
    pub(super) fn ban(&mut self, ip: IpAddr, now: Instant) {
        log::debug!("{ip} sent wrong data: nothing more is taken from there");
        self.candidates.ban(ip, now);
        for peer in self.peers.values_mut().filter(|peer| peer.addr.host() == ip) {
            peer.close(Close::Liar);
        }
    }

    /// The last piece of a torrent has come.
    fn completed(&mut self, key: TorrentKey, now: Instant) {
        let clock = self.time_of_day(now);
        self.end_fetch(key);
        let Some(torrent) = self.torrents.get_mut(&key) else { return };
        torrent.state = State::Seeding;
        torrent.reason = "".into();
        torrent.web = None;
        torrent.was_complete = true;
        torrent.completed = clock;
        let event = Event { fetched: true, ..event(Happened::Completed, torrent, "".into()) };
        for peer in torrent.peers() {
            if let Some(peer) = self.peers.get_mut(peer) {
                peer.forget_pieces();
            }
        }
        self.jobs.push_back(Job::Event(event));
        self.trackers.completed(key.0, now);
        self.record(key, now);
        self.part_from_seeds(key);
        self.fill_slots(now);
    }

    // Time.

    /// Looks at what is asked of peers that are slow, and puts on record what has come.
    pub(super) fn look_at_fetches(&mut self, now: Instant) {
        let (at, ms) = (self.seconds(now), self.millis(now));
        let fetched = self.torrents.iter().filter(|(_, torrent)| torrent.fetch.is_some());
        let keys: Vec<TorrentKey> = fetched.map(|(&key, _)| key).gather();
        let mut again = false;
        for key in keys {
            let Some(torrent) = self.torrents.get_mut(&key) else { continue };
            let peers = torrent.peers().to_vec();
            let Some(fetch) = &mut torrent.fetch else { continue };
            for &peer_key in &peers {
                let Some(peer) = self.peers.get_mut(&peer_key) else { continue };
                for block in peer.requests.as_mut().map_or(Vec::new(), |requests| requests.overdue(ms)) {
                    fetch.picker.late(peer_key, block);
                    // Asked again when nobody else has it, it would send it twice. Without the fast extension nothing would
                    // tell that it does not send it at all.
                    if peer.fast {
                        peer.cancel(block);
                    }
                }
                again |= peer.requests.as_ref().is_some_and(|requests| !requests.is_empty());
            }
            fetch.forget_senders();
            let save = fetch.unsaved && at.saturating_sub(fetch.saved) >= RECORD_PROGRESS;
            again |= fetch.unsaved && !save;
            if save {
                self.record(key, now);
            }
            self.refill_all(key, now);
        }
        if again {
            self.set_by(Timer::Fetch, now + LOOK);
        }
    }

    /// Milliseconds since the start; they begin again after seven weeks.
    pub(super) fn millis(&self, now: Instant) -> u32 {
        let millis = now.saturating_duration_since(self.start).as_millis();
        u32::try_from(millis & u128::from(u32::MAX)).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::super::webseeds::tests::Rig;
    use super::*;
    use crate::peer::wire::{Decoder, Limits, Message};
    use crate::storage::Room;
    use crate::storage::intake::Write;
    use crate::storage::io::Done;

    /// What a peer was asked for and has not read yet.
    fn asked(rig: &mut Rig, peer: PeerKey) -> Vec<(u32, u32, u32)> {
        let control = std::mem::take(&mut rig.session.peer_mut(peer).unwrap().control);
        let (mut decoder, mut input, mut asked) = (Decoder::new(), &control[68..], Vec::new());
        let limits = Limits { pieces: 64, max_extended: 1 << 16 };
        while let Some(message) = decoder.decode(&mut input, &limits).unwrap() {
            if let Message::Request { piece, begin, len } = message {
                asked.push((piece, begin, len));
            }
        }
        asked
    }

    #[test]
    fn one_that_refuses_all_it_was_asked_for_and_says_no_more_is_asked_again() {
        let mut rig = Rig::new(&[], &[]);
        rig.run();
        let peer = rig.seed("10.0.0.9:5");
        rig.session.refill(peer, rig.now);
        let blocks = asked(&mut rig, peer);
        assert!(!blocks.is_empty());
        for (piece, begin, len) in blocks {
            rig.session.handle(peer, &Message::Reject { piece, begin, len }, rig.now).unwrap();
        }
        let outstanding =
            |rig: &Rig| rig.session.peer(peer).unwrap().requests.as_ref().unwrap().outstanding();
        rig.run();
        assert_eq!(outstanding(&rig), 0);
        rig.after(3);
        assert!(outstanding(&rig) > 0);
    }

    #[test]
    fn a_late_block_that_its_only_peer_gave_up_when_it_was_taken_back_is_asked_of_it_again() {
        let mut rig = Rig::new(&[], &[]);
        rig.run();
        let peer = rig.seed("10.0.0.9:5");
        rig.session.refill(peer, rig.now);
        let blocks = asked(&mut rig, peer);
        // All of them are late, and taken back.
        rig.after(25);
        for &(piece, begin, len) in &blocks {
            rig.session.handle(peer, &Message::Reject { piece, begin, len }, rig.now).unwrap();
        }
        let torrent = rig.session.torrents.get_mut(&rig.key).unwrap();
        let (mut picked, have) = (Vec::new(), torrent.have.clone());
        let fetch = torrent.fetch.as_mut().unwrap();
        fetch.picker.pick(peer, 1, &Have::All, &have, 64 * 64, 30, &mut picked);
        for (piece, begin, _) in blocks {
            assert!(picked.iter().any(|block| (block.piece.index(), block.begin) == (piece, begin)));
        }
    }

    #[test]
    fn what_a_peer_was_asked_for_of_a_piece_that_it_has_lost_is_asked_of_another() {
        let mut rig = Rig::new(&[], &[]);
        rig.run();
        let peer = rig.seed("10.0.0.9:5");
        rig.session.refill(peer, rig.now);
        let blocks = asked(&mut rig, peer);
        let piece = blocks[0].0;
        let payload = piece.to_be_bytes();
        let lost = Message::Extended { id: crate::peer::extension::LT_DONTHAVE, payload: &payload };
        rig.session.handle(peer, &lost, rig.now).unwrap();
        let outstanding = rig.session.peer(peer).unwrap().requests.as_ref().unwrap().outstanding();
        assert_eq!(outstanding, blocks.iter().filter(|(of, ..)| *of != piece).count());
        // It refuses them, as it should, and is asked for others.
        for (piece, begin, len) in blocks.into_iter().filter(|(of, ..)| *of == piece) {
            rig.session.handle(peer, &Message::Reject { piece, begin, len }, rig.now).unwrap();
        }
        rig.after(2);
        let control = &rig.session.peer(peer).unwrap().control;
        assert!(!control.is_empty() && !control.windows(9).any(|w| w[4] == 6 && w[5..] == payload));
        let other = rig.seed("10.0.0.10:5");
        let torrent = rig.session.torrents.get_mut(&rig.key).unwrap();
        let (mut picked, have) = (Vec::new(), torrent.have.clone());
        let picker = &mut torrent.fetch.as_mut().unwrap().picker;
        picker.pick(other, 1, &Have::All, &have, 64 * 64, 30, &mut picked);
        assert!(picked.iter().any(|block| block.piece.index() == piece));
    }

    #[test]
    fn blocks_that_come_free_are_looked_for_once_in_a_while_however_often_that_is() {
        let mut rig = Rig::new(&[], &[]);
        rig.run();
        let peer = rig.seed("10.0.0.9:5");
        rig.session.refill(peer, rig.now);
        for _ in 0..3 {
            rig.session.look_soon(rig.now);
            assert_eq!(rig.session.timers[Timer::Fetch as usize], Some(rig.now + SOON));
        }
    }

    #[test]
    fn what_was_kept_before_is_not_written_over_a_piece_that_is_right() {
        let mut rig = Rig::new(&["http://a/"], &[]);
        let fetch = rig.run().remove(0);
        let (_, pieces) = rig.comes(&fetch, fetch.bytes.start + (1 << 20));
        rig.verdict(&pieces, true);
        let write = |piece| Write { key: rig.key.0, piece, begin: 0, at: 0, len: 1 };
        let writes = vec![write(pieces[0]), write(pieces[0] + 1)];
        let filled = Filled { bytes: Box::default(), writes: writes.clone() };
        let StorageJob::Write(batch) = rig.session.write(filled) else { unreachable!() };
        assert_eq!(batch.filled.writes, writes[1..]);
    }

    #[test]
    fn what_did_not_reach_the_disk_is_not_served_and_is_fetched_again_by_itself() {
        let mut rig = Rig::new(&["http://a/"], &[]);
        let mut fetches = rig.run();
        while let Some(fetch) = fetches.pop() {
            let (_, pieces) = rig.comes(&fetch, fetch.bytes.end);
            rig.verdict(&pieces, true);
            fetches.extend(
                rig.session.web_ended(fetch.key, &crate::webseed::Ended::Done, rig.now).map(|next| *next),
            );
        }
        assert_eq!(rig.state(), State::Seeding);
        let room = Room { path: "/srv/name".into(), free: 0, floor: 0 };
        let result = Err(Trouble::NoRoom(room));
        rig.session.stored(Done::Saved { key: rig.key.0, result }, rig.now);
        let torrent = rig.session.torrent(rig.key).unwrap();
        assert!(torrent.state == State::Error && !torrent.serves() && torrent.reason.contains("/srv/name"));
        // The disk of the rig has lost all of it.
        rig.after(3 * 3600);
        assert_eq!(rig.state(), State::Downloading);
    }
}

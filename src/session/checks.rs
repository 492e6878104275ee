//! The session's dealings with the storage thread: what is checked next, and what its answers lead to.
//!
//! One slice of hashing is under way at a time, of the torrent with the least left to hash: a small one never waits
//! behind a large one. Comparing files with records costs little, so a few of those are given ahead.

use std::rc::Rc;
use std::time::{Duration, Instant};

use super::{
    ANNOUNCE_CHECKING, CHECKS_AHEAD, GROWING, Happened, Job, RECORD_DELAY, RECORD_PROGRESS, SLICE, Session,
    Timer, event,
};
use crate::have::Have;
use crate::list::Gather;
use crate::peer::{Close, PeerKey, Waiting};
use crate::storage::Trouble;
use crate::storage::io::{Away, Checked, Done, Job as StorageJob, Place};
use crate::storage::resume::{Record, Verified};
use crate::torrent::{Checking, PAUSED, State, Torrent, TorrentKey};

/// A torrent whose data keeps failing is tried at every scan, every second, fourth … and at last every 64th.
const MAX_REST: u8 = 6;
/// Seconds without a failure after which the next one counts as the first.
const FORGIVEN: u32 = 6 * 3600;
/// Pieces that peers are told one by one that we have no more; of more they hear when they come anew.
const MAX_LOST: usize = 512;
/// After running out of descriptors a job is given again after this long.
const DESCRIPTORS: Duration = Duration::from_secs(1);

/// A job of the storage thread that is given again later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rest {
    /// A comparison with the record.
    Check(TorrentKey),
    /// A slice of hashing.
    Verify(TorrentKey),
    /// A list of files.
    Layout(TorrentKey),
    /// A look whether the disk can be written to.
    Prepare(TorrentKey),
    /// What this peer waits for.
    Writer(PeerKey),
}

impl Session {
    /// The storage thread had no room for a job; it is handed out again after its next answer.
    pub fn postponed(&mut self, job: StorageJob) {
        self.storage_full = true;
        match job {
            StorageJob::Check { key, .. } => {
                self.checks_ahead -= 1;
                self.to_check.push_front(TorrentKey(key));
            }
            StorageJob::Verify { key, .. } => {
                self.verifying = None;
                if let Some(checking) = self.checking_mut(TorrentKey(key)) {
                    checking.asked = false;
                }
                self.queue_verify(TorrentKey(key));
            }
            StorageJob::Flush => {
                self.flushing = false;
                self.timers[Timer::Flush as usize] = Some(self.start);
            }
            other => self.jobs.push_front(Job::Storage(other)),
        }
    }

    /// The storage thread takes jobs again: an answer of any kind made room.
    pub fn storage_has_room(&mut self) {
        self.storage_full = false;
    }

    /// Takes an answer of the storage thread about a torrent. What concerns the watched directories and open files
    /// is for the caller.
    pub fn stored(&mut self, done: Done, now: Instant) {
        self.storage_has_room();
        match done {
            Done::Checked { key, known, result } => {
                self.checks_ahead -= 1;
                self.recalled(TorrentKey(key), known, now);
                match result {
                    Ok(checked) => self.compared(TorrentKey(key), checked, now),
                    Err(trouble) => {
                        self.trouble(TorrentKey(key), &trouble, Rest::Check(TorrentKey(key)), now);
                    }
                }
            }
            Done::Verified { key, pieces, good, trouble } => {
                self.verifying = None;
                let key = TorrentKey(key);
                if self.checking_mut(key).is_some_and(|checking| checking.asked) {
                    self.hashed(key, pieces, &good, now);
                    if let Some(trouble) = trouble {
                        self.trouble(key, &trouble, Rest::Verify(key), now);
                    }
                }
            }
            Done::LaidOut { key, result } => match result {
                Ok(laid_out) => {
                    let key = TorrentKey(key);
                    if let Some(swarm) =
                        self.torrents.get_mut(&key).and_then(|torrent| torrent.swarm.as_mut())
                    {
                        swarm.layout = Some(Rc::new(laid_out.layout));
                        swarm.layout_wanted = false;
                    }
                    self.web_seeds_known(key, &laid_out.web_seeds, &laid_out.http_seeds, now);
                    self.wake_waiting(key);
                }
                Err(trouble) => {
                    self.trouble(TorrentKey(key), &trouble, Rest::Layout(TorrentKey(key)), now);
                }
            },
            Done::Read { key, peer, result, .. } => match result {
                Ok(_) => self.wake_writer(PeerKey(peer)),
                Err(trouble) => {
                    self.trouble(TorrentKey(key), &trouble, Rest::Writer(PeerKey(peer)), now);
                }
            },
            Done::Lost(lost) => {
                for (key, trouble) in lost {
                    if !matches!(trouble, Trouble::NoDescriptors(_)) {
                        self.trouble(TorrentKey(key), &trouble, Rest::Check(TorrentKey(key)), now);
                    }
                }
            }
            Done::Prepared { key, result } => self.prepared(TorrentKey(key), result, now),
            Done::Wrote { outcomes, .. } => self.wrote(outcomes, now),
            Done::Saved { key, result } => {
                if let Err(trouble) = result {
                    let key = TorrentKey(key);
                    self.end_fetch(key);
                    // What did not reach the disk is fetched again by itself, though it may have been the last of it.
                    if matches!(trouble, Trouble::Io { .. } | Trouble::NoRoom(_) | Trouble::ReadOnly(_))
                        && let Some(torrent) = self.torrents.get_mut(&key)
                    {
                        torrent.was_complete = false;
                    }
                    self.trouble(key, &trouble, Rest::Check(key), now);
                }
            }
            Done::Flushed(result) => {
                self.flushing = false;
                self.unflushed = result.is_err();
            }
            Done::Kept { key, result: Err(why) } => self.not_kept(TorrentKey(key), why, now),
            Done::Metadata { peer, piece, result, .. } => {
                self.metadata_read(PeerKey(peer), piece, result, now);
            }
            Done::Nodes(Err(Away)) => {
                self.away = true;
                self.open_dht(&[], now);
            }
            Done::Nodes(Ok(bytes)) => {
                if std::mem::take(&mut self.away) {
                    self.recall_all();
                }
                self.open_dht(&bytes, now);
            }
            Done::Recalled { key, known } => {
                self.recalled(TorrentKey(key), known, now);
                self.fetch_metadata(TorrentKey(key), now);
            }
            Done::Scanned(_) | Done::Loaded { .. } | Done::Linked { .. } | Done::Kept { .. } => {}
        }
    }

    /// The next thing for the storage thread, if it has room.
    pub(super) fn next_storage_job(&mut self, now: Instant) -> Option<Job> {
        if self.storage_full || self.stopping {
            return None;
        }
        while self.checks_ahead < CHECKS_AHEAD
            && let Some(key) = self.to_check.pop_front()
        {
            let Some(torrent) = self.torrents.get(&key) else { continue };
            let (info_hash, place) = (torrent.info_hash, torrent.place.clone());
            if torrent.metadata.is_some() && !torrent.recalled {
                let path = place.torrent;
                return Some(Job::Storage(StorageJob::Recall { key: key.0, info_hash, path }));
            }
            if torrent.metadata.is_some() {
                self.fetch_metadata(key, now);
                continue;
            }
            self.checks_ahead += 1;
            return Some(Job::Storage(StorageJob::Check { key: key.0, info_hash, place }));
        }
        while self.verifying.is_none()
            && let Some((left, key)) = self.to_verify.pop_first()
        {
            let Some(torrent) = self.torrents.get_mut(&key) else { continue };
            if torrent.check_left() != Some(left) {
                continue;
            }
            let most = u32::try_from(SLICE / u64::from(torrent.lengths.piece_length())).unwrap_or(u32::MAX);
            let Some(pieces) = torrent.next_to_check(most.max(1)) else {
                self.check_ended(key, now);
                continue;
            };
            self.verifying = Some(key);
            let place = torrent.place.clone();
            if let Some(checking) = &mut torrent.checking {
                checking.asked = true;
            }
            return Some(Job::Storage(StorageJob::Verify { key: key.0, place, pieces }));
        }
        None
    }

    /// Whether a torrent is being compared with its record or hashed.
    pub fn is_checking(&self) -> bool {
        self.checks_ahead > 0
            || self.verifying.is_some()
            || !self.to_check.is_empty()
            || !self.to_verify.is_empty()
    }

    /// Whether [`Session::next_storage_job`] has one.
    pub(super) fn has_storage_work(&self) -> bool {
        let check = self.checks_ahead < CHECKS_AHEAD && !self.to_check.is_empty();
        !self.stopping && (check || (self.verifying.is_none() && !self.to_verify.is_empty()))
    }

    /// Lets a check go on when its turn comes: the one with the least left is first.
    fn queue_verify(&mut self, key: TorrentKey) {
        if let Some(left) = self.torrents.get(&key).and_then(|torrent| torrent.check_left()) {
            self.to_verify.insert((left, key));
        }
    }

    pub(super) fn queue_check(&mut self, key: TorrentKey) {
        if !self.to_check.contains(&key) {
            self.to_check.push_back(key);
        }
    }

    /// Looks whether parked torrents have their data back, and whether the data of the others is still there.
    pub(super) fn look_for_lost(&mut self) {
        if self.away {
            // Before its torrents are checked.
            self.submit(StorageJob::LoadNodes);
        }
        if self.unflushed {
            self.timers[Timer::Flush as usize] = Some(self.start);
        }
        self.scans = self.scans.wrapping_add(1);
        let scan = self.scans;
        let parked: Vec<TorrentKey> = self
            .torrents
            .iter()
            .filter(|(_, torrent)| {
                let often =
                    torrent.state != State::Error || scan.is_multiple_of(1 << torrent.failures.min(MAX_REST));
                (torrent.state.may_recover() && often) || torrent.awaits_data()
            })
            .map(|(&key, _)| key)
            .gather();
        for key in parked {
            // What keeps it from being fetched may have passed; its data needs no look for that.
            let held = |torrent: &Torrent| torrent.state == State::Incomplete && torrent.is_wanted();
            match self.torrents.get(&key) {
                Some(torrent) if held(torrent) => self.prepare(key),
                _ => self.queue_check(key),
            }
        }
        let served = self.torrents.iter().filter(|(_, torrent)| match torrent.state {
            State::Seeding => true,
            State::Downloading => !torrent.have.is_none(),
            _ => false,
        });
        let places: Vec<(u32, Place)> = served.map(|(&key, torrent)| (key.0, torrent.place.clone())).gather();
        if !places.is_empty() {
            self.jobs.push_back(Job::Storage(StorageJob::Probe(places)));
        }
    }

    /// What was on record about a torrent, its pieces apart.
    fn recalled(&mut self, key: TorrentKey, known: Result<Option<Box<Record>>, Away>, now: Instant) {
        let Some(torrent) = self.torrents.get_mut(&key) else { return };
        let Ok(known) = known else {
            self.away |= !torrent.recalled;
            return;
        };
        if std::mem::replace(&mut torrent.recalled, true) {
            return;
        }
        let unsaved = torrent.unsaved;
        if let Some(known) = known {
            torrent.recall(&known);
        }
        if torrent.state == State::Paused {
            self.park(key, State::Paused, PAUSED, now);
        }
        if unsaved {
            self.record(key, now);
        }
    }

    /// State has come: what is on record is asked for of all torrents of which it is not known.
    fn recall_all(&mut self) {
        let unknown = self.torrents.iter_mut().filter(|(_, torrent)| !torrent.recalled);
        let unknown = unknown.map(|(&key, torrent)| {
            // What is on record need not be hashed.
            if torrent.checking.take().is_some() {
                torrent.state = State::Queued;
            }
            key
        });
        let unknown: Vec<TorrentKey> = unknown.gather();
        unknown.into_iter().for_each(|key| self.queue_check(key));
    }

    /// Data that was seen growing is looked at again before the next scan: it may have come to rest.
    pub(super) fn look_at_growing(&mut self) {
        let growing = self
            .torrents
            .iter()
            .filter(|(_, torrent)| torrent.awaits_data() && torrent.seen != torrent.settled);
        let growing: Vec<TorrentKey> = growing.map(|(&key, _)| key).gather();
        growing.into_iter().for_each(|key| self.queue_check(key));
    }

    /// The files of a torrent have been compared with its record.
    fn compared(&mut self, key: TorrentKey, checked: Checked, now: Instant) {
        let at = self.seconds(now);
        let Some(torrent) = self.torrents.get_mut(&key) else { return };
        if torrent.state == State::Paused {
            // So much can be told of it. It is looked at anew when it goes on.
            torrent.have = checked.have;
            return;
        }
        if torrent.fetch.is_some() {
            // Somebody came meanwhile who has it.
            return;
        }
        if torrent.place.data != checked.data {
            torrent.place.data = checked.data;
            if let Some(swarm) = &mut torrent.swarm {
                swarm.layout = None;
            }
        }
        // Moved meanwhile, it stays kept.
        torrent.place.kept |= checked.kept;
        let count = torrent.lengths.piece_count();
        let (have, todo) =
            if torrent.verify_all { (Have::None, checked.all) } else { (checked.have, checked.todo) };
        let waits = torrent.awaits_data();
        let nothing_new = waits && torrent.settled == checked.fingerprint;
        if nothing_new || torrent.checking.is_some() {
            return;
        }
        // Data that is still being copied there is hashed once it has held still for a while.
        if waits {
            if torrent.seen != checked.fingerprint {
                (torrent.seen, torrent.seen_at) = (checked.fingerprint, at);
            }
            if Duration::from_secs(u64::from(at.saturating_sub(torrent.seen_at))) < GROWING {
                self.set_by(Timer::Growing, now + GROWING);
                return;
            }
        }
        (torrent.seen, torrent.settled) = (checked.fingerprint, checked.fingerprint);
        let (before, peers) = (std::mem::replace(&mut torrent.have, have), torrent.peers().to_vec());
        if !peers.is_empty() {
            let has = |have: &Have, piece: &u32| have.contains(*piece);
            let (new, lost): (Vec<u32>, Vec<u32>) = (0..count)
                .filter(|piece| has(&torrent.have, piece) != has(&before, piece))
                .partition(|piece| has(&torrent.have, piece));
            self.tell_lost(key, &lost);
            self.tell_of(&peers, &new);
        }
        let Some(torrent) = self.torrents.get_mut(&key) else { return };
        if todo.count(count) > 0 {
            torrent.begin_check(todo, checked.stamps, at);
            self.queue_verify(key);
        } else if torrent.is_complete() && !torrent.was_complete {
            // Who shared it has hashed it; from now on it is on our record.
            torrent.begin_check(todo, checked.stamps, at);
            self.check_ended(key, now);
        } else {
            torrent.verify_all = false;
            self.settle(key, now);
        }
    }

    /// A run of pieces has been hashed.
    fn hashed(&mut self, key: TorrentKey, pieces: std::ops::Range<u32>, good: &[bool], now: Instant) {
        let at = self.seconds(now);
        let Some(torrent) = self.torrents.get_mut(&key) else { return };
        let Some(checking) = &mut torrent.checking else { return };
        checking.asked = false;
        if pieces.is_empty() {
            // For a reason, which puts the torrent aside or lets it rest.
            return;
        }
        let start = pieces.start;
        let mut found = Vec::new();
        torrent.checked(
            pieces,
            |piece| good.get((piece - start) as usize).is_some_and(|&good| good),
            |piece| found.push(piece),
        );
        let peers = torrent.peers().to_vec();
        self.tell_of(&peers, &found);
        let Some(torrent) = self.torrents.get_mut(&key) else { return };
        let Some(checking) = &torrent.checking else { return };
        let (since, saved) = (checking.since, checking.saved);
        if torrent.next_to_check(1).is_none() {
            self.check_ended(key, now);
            return;
        }
        if at.saturating_sub(saved) >= RECORD_PROGRESS {
            if let Some(checking) = &mut torrent.checking {
                checking.saved = at;
            }
            self.record(key, now);
        }
        if at.saturating_sub(since) >= ANNOUNCE_CHECKING {
            self.announce(key, now);
        }
        self.queue_verify(key);
    }

    /// Tells the peers of a torrent of pieces that we have no more. Those who can not be told come anew, and all of them
    /// where nothing is left.
    fn tell_lost(&mut self, key: TorrentKey, lost: &[u32]) {
        let Some(torrent) = self.torrents.get(&key).filter(|_| !lost.is_empty()) else { return };
        let can_be_told = lost.len() <= MAX_LOST && !torrent.have.is_none() && torrent.superseed().is_none();
        for peer in torrent.peers() {
            if let Some(peer) = self.peers.get_mut(peer)
                && !(can_be_told && peer.announce_lost(lost))
            {
                peer.close(Close::TorrentStopped);
            }
        }
    }

    pub(super) fn tell_of(&mut self, peers: &[PeerKey], pieces: &[u32]) {
        for peer in peers {
            if let Some(peer) = self.peers.get_mut(peer) {
                pieces.iter().for_each(|&piece| peer.announce_piece(piece));
            }
        }
    }

    fn check_ended(&mut self, key: TorrentKey, now: Instant) {
        let clock = self.time_of_day(now);
        let Some(torrent) = self.torrents.get_mut(&key) else { return };
        if torrent.is_complete() {
            torrent.was_complete = true;
            torrent.completed = torrent.completed.or(clock);
        }
        self.record(key, now);
        if let Some(torrent) = self.torrents.get_mut(&key) {
            (torrent.checking, torrent.verify_all) = (None, false);
        }
        self.settle(key, now);
    }

    /// What a torrent is, now that its pieces are known.
    fn settle(&mut self, key: TorrentKey, now: Instant) {
        let Some(torrent) = self.torrents.get_mut(&key) else { return };
        if torrent.is_wanted() {
            // The state and its reason stay until it is known whether it can be fetched.
            if torrent.state == State::Checking {
                torrent.state = State::Incomplete;
            }
            return self.prepare(key);
        }
        let was_seeding = torrent.state == State::Seeding;
        // Told once, like the trouble before: where that comes and goes both are told for the first time only.
        let recovered = std::mem::take(&mut torrent.reported);
        let action = if recovered { Happened::Recovered } else { Happened::Completed };
        if torrent.is_complete() {
            torrent.state = State::Seeding;
            torrent.reason = "".into();
            torrent.was_complete = true;
        } else {
            torrent.state = State::Incomplete;
            torrent.reason = torrent.what_is_lost().into();
        }
        let seeding = torrent.state == State::Seeding;
        if recovered || (seeding && !was_seeding && torrent.failures <= 1) {
            let event = event(action, torrent, torrent.reason.clone());
            self.jobs.push_back(Job::Event(event));
        }
        if seeding {
            self.part_from_seeds(key);
        }
        self.announce(key, now);
    }

    /// Something is wrong with the data of a torrent: it alone is parked. What passes by itself is tried again after a
    /// rest.
    pub(super) fn trouble(&mut self, key: TorrentKey, trouble: &Trouble, again: Rest, now: Instant) {
        let at = self.seconds(now);
        let Some(torrent) = self.torrents.get_mut(&key) else { return };
        if torrent.state == State::Paused {
            return;
        }
        match trouble {
            Trouble::NoDescriptors(_) => self.rest(again, now + DESCRIPTORS),
            Trouble::TorrentChanged => {
                // It was moved while the job was under way, or the scan will find what became of it.
                self.set_by(Timer::Rescan, now);
                self.rest(again, now + GROWING);
            }
            Trouble::Changed(_) => {
                self.park(key, State::Error, &trouble.to_string(), now);
                self.queue_check(key);
            }
            Trouble::DataMissing(_) if torrent.awaits_data() && torrent.have.is_none() => {}
            Trouble::DataMissing(_) if !torrent.was_complete => {
                // When it comes back it is news, whatever its stamps. There is nothing to be hashed anew.
                (torrent.seen, torrent.settled, torrent.verify_all) = (0, 0, false);
                let had_some = !std::mem::take(&mut torrent.have).is_none();
                self.end_fetch(key);
                if had_some {
                    self.close_peers(key, &Close::TorrentStopped);
                }
                self.settle(key, now);
            }
            trouble => {
                let state = match torrent.state_in(trouble) {
                    // What there is of it is served only where it is known to be right still.
                    State::Incomplete if again != Rest::Prepare(key) => State::Error,
                    state => state,
                };
                if state == State::Error {
                    if at.saturating_sub(torrent.failed) >= FORGIVEN {
                        torrent.failures = 0;
                    }
                    torrent.failures = torrent.failures.saturating_add(1);
                    torrent.failed = at;
                }
                self.park(key, state, &trouble.to_string(), now);
            }
        }
    }

    pub(super) fn rest(&mut self, what: Rest, until: Instant) {
        if !self.resting.iter().any(|(_, resting)| *resting == what) {
            self.resting.push((until, what));
            self.set_by(Timer::Rest, until);
        }
    }

    /// What has rested is tried again.
    pub(super) fn rested(&mut self, now: Instant) {
        let resting = std::mem::take(&mut self.resting);
        for (until, what) in resting {
            match what {
                _ if until > now => {
                    self.resting.push((until, what));
                    self.set_by(Timer::Rest, until);
                }
                Rest::Check(key) => self.queue_check(key),
                Rest::Verify(key) => self.queue_verify(key),
                Rest::Prepare(key) => self.prepare(key),
                Rest::Writer(peer) => self.wake_writer(peer),
                Rest::Layout(key) => {
                    if let Some(swarm) =
                        self.torrents.get_mut(&key).and_then(|torrent| torrent.swarm.as_mut())
                    {
                        swarm.layout_wanted = false;
                    }
                    self.wake_waiting(key);
                }
            }
        }
    }

    fn checking_mut(&mut self, key: TorrentKey) -> Option<&mut Checking> {
        self.torrents.get_mut(&key)?.checking.as_deref_mut()
    }

    /// Puts what is known of a torrent on record, with other changes, a little later.
    pub(super) fn record(&mut self, key: TorrentKey, now: Instant) {
        let (up, down) = self.torrents.get(&key).map_or((0, 0), |torrent| self.moved_now(torrent));
        let at = self.seconds(now);
        let Some(torrent) = self.torrents.get_mut(&key) else { return };
        // What is on record is not known yet, so it can not be kept: all but what was found is written when that has been read.
        let early = !torrent.recalled;
        torrent.unsaved = early;
        if early && !torrent.written && torrent.checking.is_none() {
            return;
        }
        // From now on the record tells what is left of it.
        torrent.verify_all &= early || torrent.checking.is_none();
        let count = torrent.lengths.piece_count();
        let written = std::mem::replace(&mut torrent.written, false);
        // The storage thread knows the files that it has written to.
        let fetched =
            || Verified { pieces: count, have: torrent.have.clone(), todo: Have::None, stamps: [].into() };
        let verified = torrent.checking.as_ref().map(|checking| Verified {
            pieces: count,
            have: torrent.have.clone(),
            todo: Have::from_fn(count, |piece| piece >= checking.next && checking.todo.contains(piece)),
            stamps: checking.stamps.clone(),
        });
        let mut record = Box::new(Record {
            complete: torrent.was_complete,
            data: torrent.place.kept.then(|| torrent.place.data.clone()),
            verified: verified.or_else(|| written.then(fetched)),
            early,
            ..Record::new(torrent.info_hash)
        });
        if !early {
            record.paused = torrent.state == State::Paused;
            record.added = torrent.added.unwrap_or(0);
            record.completed = torrent.completed.unwrap_or(0);
            record.uploaded = torrent.uploaded + up;
            record.downloaded = torrent.downloaded + down;
        }
        let job = if written {
            let open = torrent.state == State::Downloading && !self.stopping;
            torrent.written = open;
            if let Some(fetch) = &mut torrent.fetch {
                (fetch.saved, fetch.unsaved) = (at, false);
            }
            StorageJob::Save { key: key.0, place: torrent.place.clone(), record, open }
        } else {
            StorageJob::Record(record)
        };
        self.jobs.push_back(Job::Storage(job));
        if !self.stopping {
            self.set_by(Timer::Flush, now + RECORD_DELAY);
        }
    }

    /// A writer may go on: what it waited for is there.
    fn wake_writer(&mut self, key: PeerKey) {
        if let Some(peer) = self.peers.get_mut(&key) {
            peer.waiting = Waiting::No;
            peer.wake();
        }
    }

    /// The same for all writers of a torrent that wait for the storage thread.
    fn wake_waiting(&mut self, key: TorrentKey) {
        let peers = self.torrents.get(&key).map(|torrent| torrent.peers().to_vec()).unwrap_or_default();
        for peer in peers {
            if self.peers.get(&peer).is_some_and(|peer| peer.waiting == Waiting::Storage) {
                self.wake_writer(peer);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::webseeds::tests::Rig;
    use super::*;
    use crate::metainfo::InfoHash;

    /// The next job for the storage thread that is of this kind; others are passed over.
    fn next<T>(rig: &mut Rig, mut wanted: impl FnMut(StorageJob) -> Option<T>) -> Option<T> {
        std::iter::from_fn(|| rig.session.poll(rig.now)).find_map(|job| match job {
            Job::Storage(job) => wanted(job),
            _ => None,
        })
    }

    fn is_check(job: StorageJob) -> Option<(u32, InfoHash)> {
        match job {
            StorageJob::Check { key, info_hash, .. } => Some((key, info_hash)),
            _ => None,
        }
    }

    fn is_record(job: StorageJob) -> Option<Record> {
        match job {
            StorageJob::Record(record) => Some(*record),
            _ => None,
        }
    }

    fn is_verify(job: StorageJob) -> Option<(u32, std::ops::Range<u32>)> {
        match job {
            StorageJob::Verify { key, pieces, .. } => Some((key, pieces)),
            _ => None,
        }
    }

    /// What a look at whole data tells, where pieces from `first` on are to be hashed.
    fn whole(first: u32) -> Checked {
        let path: std::sync::Arc<std::path::Path> = std::path::Path::new("/srv/name").into();
        let (have, todo) =
            (Have::from_fn(64, |piece| piece < first), Have::from_fn(64, |piece| piece >= first));
        Checked { data: path, kept: false, have, todo, all: Have::All, stamps: [].into(), fingerprint: 1 }
    }

    #[test]
    fn a_verify_that_the_state_comes_into_is_carried_out() {
        let mut rig = Rig::new(&[], &[]);
        let (key, info_hash) = next(&mut rig, is_check).unwrap();
        rig.session.stored(Done::Checked { key, known: Err(Away), result: Ok(whole(64)) }, rig.now);
        assert!(rig.session.verify(info_hash));
        let (key, _) = next(&mut rig, is_check).unwrap();
        rig.session.stored(Done::Checked { key, known: Err(Away), result: Ok(whole(64)) }, rig.now);
        let (key, pieces) = next(&mut rig, is_verify).unwrap();
        assert_eq!(pieces.start, 0);
        rig.session.stored(Done::Nodes(Err(Away)), rig.now);
        rig.session.stored(Done::Nodes(Ok(Box::default())), rig.now);
        rig.session.stored(Done::Verified { key, pieces: 0..1, good: vec![true], trouble: None }, rig.now);
        let (key, _) = next(&mut rig, is_check).unwrap();
        let known = Ok(Some(Box::new(Record { complete: true, ..Record::new(info_hash) })));
        rig.session.stored(Done::Checked { key, known, result: Ok(whole(64)) }, rig.now);
        let (mut key, mut pieces) = next(&mut rig, is_verify).expect("a check");
        assert_eq!(pieces.start, 0, "of all of it");
        // Told to pause, it goes on from there.
        rig.session.stored(Done::Verified { key, pieces: 0..8, good: vec![true; 8], trouble: None }, rig.now);
        assert!(rig.session.pause(info_hash, rig.now));
        let record = next(&mut rig, is_record).unwrap();
        assert_eq!(record.verified.unwrap().todo.count(64), 56);
        assert!(rig.session.resume(info_hash, rig.now));
        let known = || Ok(None);
        let checked = next(&mut rig, is_check).unwrap();
        rig.session.stored(Done::Checked { key: checked.0, known: known(), result: Ok(whole(8)) }, rig.now);
        (key, pieces) = next(&mut rig, is_verify).unwrap();
        assert_eq!(pieces.start, 8);
        let good = vec![true; 56];
        rig.session.stored(Done::Verified { key, pieces: 8..64, good, trouble: None }, rig.now);
        assert_eq!(rig.session.torrent(rig.key).unwrap().state, State::Seeding);
    }

    /// As a router boots: nobody has told it the time, and its disk is late.
    #[test]
    fn a_pause_before_the_record_is_read_holds_and_what_is_on_it_stays() {
        let mut rig = Rig::new(&[], &[]);
        let (key, info_hash) = next(&mut rig, is_check).unwrap();
        let gone = || Err(Trouble::RootAbsent("/srv".into()));
        rig.session.stored(Done::Checked { key, known: Err(Away), result: gone() }, rig.now);
        assert!(rig.session.pause(info_hash, rig.now));
        assert_eq!(next(&mut rig, is_record), None, "what is on record is not known");

        rig.session.rescan_now(rig.now);
        let asked = next(&mut rig, |job| matches!(job, StorageJob::LoadNodes).then_some(()));
        assert_eq!(asked, Some(()), "whether it is there now");
        rig.session.stored(Done::Nodes(Ok(Box::default())), rig.now);
        let before = Record {
            complete: true,
            added: 1_700_000_000,
            completed: 1_700_000_100,
            uploaded: 5,
            ..Record::new(info_hash)
        };
        let (key, _) = next(&mut rig, is_check).unwrap();
        let known = Ok(Some(Box::new(before.clone())));
        rig.session.stored(Done::Checked { key, known, result: gone() }, rig.now);
        assert_eq!(next(&mut rig, is_record), Some(Record { paused: true, ..before }));
        assert_eq!(rig.session.torrent(rig.key).unwrap().state, State::Paused);
    }
}

//! The session's dealings with the storage thread: what is checked next, and what its answers lead to.
//!
//! One slice of hashing is under way at a time, of the torrent with the least left to hash: a small one never waits
//! behind a large one. Comparing files with records costs little, so a few of those are given ahead.

use std::rc::Rc;
use std::time::Instant;

use super::{
    ANNOUNCE_CHECKING, CHECKS_AHEAD, GROWING, Happened, Job, RECORD_DELAY, RECORD_PROGRESS, SLICE, Session,
    Timer, event,
};
use crate::have::Have;
use crate::peer::{PeerKey, Waiting};
use crate::storage::Trouble;
use crate::storage::io::{Checked, Done, Job as StorageJob, Place};
use crate::storage::resume::{Record, Verified};
use crate::torrent::{State, TorrentKey};

/// A torrent whose data keeps failing is tried at every scan, every second, fourth … and at last every 64th.
const MAX_REST: u8 = 6;

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
                self.queue_verify(TorrentKey(key));
            }
            StorageJob::Flush => {
                self.flushing = false;
                self.timers[Timer::Flush as usize] = Some(self.start);
            }
            other => self.jobs.push_front(Job::Storage(other)),
        }
    }

    /// The storage thread has answered something, so that there is room in its queue.
    pub fn storage_has_room(&mut self) {
        self.storage_full = false;
    }

    /// Takes an answer of the storage thread about a torrent. What concerns the watched directories and open files
    /// is for the caller.
    pub fn stored(&mut self, done: Done, now: Instant) {
        match done {
            Done::Checked { key, known, result } => {
                self.checks_ahead -= 1;
                self.recalled(TorrentKey(key), known.as_deref(), now);
                match result {
                    Ok(checked) => self.compared(TorrentKey(key), checked, now),
                    Err(trouble) => self.trouble(TorrentKey(key), &trouble, now),
                }
            }
            Done::Verified { key, pieces, good, trouble } => {
                self.verifying = None;
                let key = TorrentKey(key);
                self.hashed(key, pieces, &good, now);
                if let Some(trouble) = trouble {
                    self.trouble(key, &trouble, now);
                }
            }
            Done::LaidOut { key, result } => match result {
                Ok(layout) => {
                    let key = TorrentKey(key);
                    if let Some(swarm) =
                        self.torrents.get_mut(&key).and_then(|torrent| torrent.swarm.as_mut())
                    {
                        swarm.layout = Some(Rc::new(*layout));
                        swarm.layout_wanted = false;
                    }
                    self.wake_waiting(key);
                }
                Err(trouble) => self.trouble(TorrentKey(key), &trouble, now),
            },
            Done::Read { key, peer, result, .. } => match result {
                Ok(_) => self.wake_writer(PeerKey(peer)),
                Err(trouble) => self.trouble(TorrentKey(key), &trouble, now),
            },
            Done::Lost(lost) => {
                for (key, trouble) in lost {
                    self.trouble(TorrentKey(key), &trouble, now);
                }
            }
            Done::Flushed(_) => self.flushing = false,
            Done::Scanned(_) | Done::Loaded { .. } => {}
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
            self.checks_ahead += 1;
            let (info_hash, place) = (torrent.info_hash, torrent.place.clone());
            return Some(Job::Storage(StorageJob::Check { key: key.0, info_hash, place }));
        }
        while self.verifying.is_none()
            && let Some((left, key)) = self.to_verify.pop_first()
        {
            let Some(torrent) = self.torrents.get_mut(&key) else { continue };
            if torrent.check_left() != Some(left) {
                continue;
            }
            let Some(mut pieces) = torrent.next_to_check() else {
                self.check_ended(key, now);
                continue;
            };
            let most =
                u32::try_from(SLICE / u64::from(torrent.lengths.piece_length())).unwrap_or(u32::MAX).max(1);
            pieces.end = pieces.end.min(pieces.start.saturating_add(most));
            self.verifying = Some(key);
            return Some(Job::Storage(StorageJob::Verify {
                key: key.0,
                place: torrent.place.clone(),
                pieces,
            }));
        }
        None
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
        self.scans = self.scans.wrapping_add(1);
        let scan = self.scans;
        let parked: Vec<TorrentKey> = self
            .torrents
            .iter()
            .filter(|(_, torrent)| {
                torrent.state.may_recover() && scan.is_multiple_of(1 << torrent.failures.min(MAX_REST))
            })
            .map(|(&key, _)| key)
            .collect();
        for key in parked {
            self.queue_check(key);
        }
        let seeding = self.torrents.iter().filter(|(_, torrent)| torrent.state == State::Seeding);
        let places: Vec<(u32, Place)> =
            seeding.map(|(&key, torrent)| (key.0, torrent.place.clone())).collect();
        if !places.is_empty() {
            self.jobs.push_back(Job::Storage(StorageJob::Probe(places)));
        }
    }

    /// What was on record about a torrent, its pieces apart.
    fn recalled(&mut self, key: TorrentKey, known: Option<&Record>, now: Instant) {
        let Some(torrent) = self.torrents.get_mut(&key) else { return };
        if std::mem::replace(&mut torrent.recalled, true) {
            return;
        }
        let unsaved = torrent.unsaved;
        if let Some(known) = known {
            torrent.recall(known);
        }
        if unsaved {
            self.record(key, now);
        }
    }

    /// Data that was seen growing is looked at again before the next scan: it may have come to rest.
    pub(super) fn look_at_growing(&mut self) {
        let growing =
            self.torrents.iter().filter(|(_, t)| t.state == State::Incomplete && t.seen != t.settled);
        let growing: Vec<TorrentKey> = growing.map(|(&key, _)| key).collect();
        growing.into_iter().for_each(|key| self.queue_check(key));
    }

    /// The files of a torrent have been compared with its record.
    fn compared(&mut self, key: TorrentKey, checked: Checked, now: Instant) {
        let at = self.seconds(now);
        let Some(torrent) = self.torrents.get_mut(&key) else { return };
        if torrent.state == State::Paused {
            return;
        }
        torrent.place.data = checked.data;
        torrent.place.kept = checked.kept;
        let count = torrent.lengths.piece_count();
        let (have, todo) = if std::mem::take(&mut torrent.verify_all) {
            (Have::None, checked.all)
        } else {
            (checked.have, checked.todo)
        };
        let nothing_new = torrent.state == State::Incomplete && torrent.settled == checked.fingerprint;
        if nothing_new || torrent.checking.is_some() {
            return;
        }
        // Data that is still being copied there is hashed once it has held still between two looks.
        let growing = torrent.state == State::Incomplete && torrent.seen != checked.fingerprint;
        torrent.seen = checked.fingerprint;
        if growing {
            self.set_by(Timer::Growing, now + GROWING);
            return;
        }
        torrent.settled = checked.fingerprint;
        torrent.have = have;
        if todo.count(count) > 0 {
            torrent.begin_check(todo, checked.stamps, at);
            // With the stamps on record, a file that changes while it is served is noticed during the check too.
            self.record(key, now);
            self.queue_verify(key);
        } else {
            self.settle(key, now);
        }
    }

    /// A run of pieces has been hashed.
    fn hashed(&mut self, key: TorrentKey, pieces: std::ops::Range<u32>, good: &[bool], now: Instant) {
        let at = self.seconds(now);
        let Some(torrent) = self.torrents.get_mut(&key) else { return };
        let Some(checking) = &torrent.checking else { return };
        if checking.next > pieces.start || pieces.is_empty() {
            return;
        }
        let start = pieces.start;
        let mut found = Vec::new();
        torrent.checked(
            pieces,
            |piece| good.get((piece - start) as usize).is_some_and(|&good| good),
            |piece| found.push(piece),
        );
        for &peer in torrent.peers() {
            if let Some(peer) = self.peers.get_mut(&peer) {
                found.iter().for_each(|&piece| peer.announce_piece(piece));
            }
        }
        let Some(checking) = &mut torrent.checking else { return };
        let (since, saved) = (checking.since, checking.saved);
        if torrent.next_to_check().is_none() {
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

    fn check_ended(&mut self, key: TorrentKey, now: Instant) {
        let clock = self.time_of_day(now);
        let Some(torrent) = self.torrents.get_mut(&key) else { return };
        if torrent.is_complete() {
            torrent.was_complete = true;
            torrent.completed = torrent.completed.or(clock);
        }
        self.record(key, now);
        if let Some(torrent) = self.torrents.get_mut(&key) {
            torrent.checking = None;
        }
        self.settle(key, now);
    }

    /// What a torrent is, now that its pieces are known.
    fn settle(&mut self, key: TorrentKey, now: Instant) {
        let Some(torrent) = self.torrents.get_mut(&key) else { return };
        let count = torrent.lengths.piece_count();
        let recovered = matches!(torrent.state, State::WaitingForDisk | State::WaitingForData | State::Error);
        let was_seeding = torrent.state == State::Seeding;
        if torrent.is_complete() {
            torrent.state = State::Seeding;
            torrent.reason = "".into();
            torrent.was_complete = true;
            torrent.failures = 0;
            let action = if recovered { Happened::Recovered } else { Happened::Completed };
            if !was_seeding {
                let event = event(action, torrent, "".into());
                self.jobs.push_back(Job::Event(event));
            }
        } else {
            torrent.state = State::Incomplete;
            let (have, total) = (torrent.have.count(count), count);
            torrent.reason =
                format!("{have} of {total} pieces are in {}", torrent.place.data.display()).into();
            if recovered {
                let event = event(Happened::Recovered, torrent, torrent.reason.clone());
                self.jobs.push_back(Job::Event(event));
            }
        }
        self.announce(key, now);
    }

    /// Something is wrong with the data of a torrent: it alone is parked.
    pub(super) fn trouble(&mut self, key: TorrentKey, trouble: &Trouble, now: Instant) {
        let Some(torrent) = self.torrents.get_mut(&key) else { return };
        if torrent.state == State::Paused {
            return;
        }
        match torrent.state_in(trouble) {
            State::Queued => {
                // The .torrent or the data is another than the one that was checked.
                if matches!(trouble, Trouble::TorrentChanged) {
                    self.set(Timer::Rescan, now);
                } else {
                    self.park(key, State::Error, &trouble.to_string(), now);
                    self.queue_check(key);
                }
            }
            state => {
                if state == State::Incomplete {
                    torrent.have = Have::None;
                }
                if state == State::Error {
                    torrent.failures = torrent.failures.saturating_add(1);
                }
                self.park(key, state, &trouble.to_string(), now);
            }
        }
    }

    /// Puts what is known of a torrent on record, with other changes, a little later.
    pub(super) fn record(&mut self, key: TorrentKey, now: Instant) {
        let uploaded = self.torrents.get(&key).map_or(0, |torrent| self.uploaded_now(torrent));
        let Some(torrent) = self.torrents.get_mut(&key) else { return };
        // What is on record is not known yet, so it can not be kept: it is written when that has been read.
        torrent.unsaved = !torrent.recalled;
        if torrent.unsaved {
            return;
        }
        let count = torrent.lengths.piece_count();
        let verified = torrent.checking.as_ref().map(|checking| Verified {
            pieces: count,
            have: torrent.have.clone(),
            todo: Have::from_fn(count, |piece| piece >= checking.next && checking.todo.contains(piece)),
            stamps: checking.stamps.clone(),
        });
        let record = Record {
            complete: torrent.was_complete,
            paused: torrent.state == State::Paused,
            added: torrent.added.unwrap_or(0),
            completed: torrent.completed.unwrap_or(0),
            uploaded: torrent.uploaded + uploaded,
            data: torrent.place.kept.then(|| torrent.place.data.clone()),
            verified,
            ..Record::new(torrent.info_hash)
        };
        self.jobs.push_back(Job::Storage(StorageJob::Record(Box::new(record))));
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

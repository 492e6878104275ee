//! The life of a torrent in the session: added, moved, paused, parked, removed.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use super::{Event, Happened, Job, RECORD_DELAY, Session, Timer, event, path_of};
use crate::ident::Ident;
use crate::list;
use crate::metainfo::{InfoHash, Summary};
use crate::peer::Close;
use crate::storage::io::{Job as StorageJob, Place};
use crate::torrent::{PAUSED, State, Torrent, TorrentKey};

impl Session {
    /// Adds a torrent. It is checked against its record as soon as the storage thread has time.
    pub fn insert(&mut self, mut summary: Summary, place: Place, now: Instant) -> Option<TorrentKey> {
        if self.by_hash.contains_key(&summary.info_hash) {
            return None;
        }
        let tiers = self.tiers(std::mem::take(&mut summary.trackers));
        let torrent = Torrent::new(summary, tiers, place, self.time_of_day(now));
        Some(self.add(torrent, now))
    }

    pub(super) fn add(&mut self, torrent: Torrent, now: Instant) -> TorrentKey {
        let key = TorrentKey(self.next_torrent);
        self.next_torrent += 1;
        self.jobs.push_back(Job::Event(event(Happened::Added, &torrent, path_of(&torrent))));
        self.by_hash.insert(torrent.info_hash, key);
        self.torrents.insert(key, Box::new(torrent));
        self.to_check.push_back(key);
        if self.timers[Timer::Rescan as usize].is_none() {
            self.set(Timer::Rescan, now + self.rescan);
        }
        key
    }

    /// Drops a torrent: its peers are closed and its trackers told. Data and record stay.
    pub fn remove(&mut self, info_hash: InfoHash, now: Instant) {
        let Some(key) = self.by_hash.remove(&info_hash) else { return };
        self.end_fetch(key);
        if let Some(torrent) = self.torrents.get_mut(&key) {
            // What is put on record now is the last.
            torrent.state = State::Queued;
        }
        self.record_progress(key, now);
        self.close_peers(key, &Close::TorrentStopped);
        self.trackers.remove(key.0, now);
        self.candidates.remove(key.0);
        self.lpd.remove(info_hash);
        self.dht.remove(info_hash);
        self.jobs.push_back(Job::Close(key));
        if let Some(torrent) = self.torrents.remove(&key) {
            self.jobs.push_back(Job::Event(event(Happened::Removed, &torrent, path_of(&torrent))));
        }
    }

    /// These were dropped, and all others that are known are there.
    pub fn thin_records(&mut self, mut left: Vec<InfoHash>, now: Instant) {
        list::sort(&mut left);
        let there = self.by_hash.keys().copied().collect();
        self.submit(StorageJob::Left { left: left.into(), there });
        self.set_by(Timer::Flush, now + RECORD_DELAY);
    }

    /// What was dropped and added just now is the same to the user: neither is told.
    pub fn is_same(&mut self, info_hash: InfoHash) {
        let is_news = |event: &Event| {
            event.info_hash != info_hash || !matches!(event.action, Happened::Added | Happened::Removed)
        };
        self.jobs.retain(|job| !matches!(job, Job::Event(event) if !is_news(event)));
    }

    /// Its .torrent has another path now: its data stays where it is, and is not checked again.
    pub fn moved(
        &mut self,
        info_hash: InfoHash,
        file: Arc<Path>,
        ident: Ident,
        tiers: Vec<Vec<String>>,
        info_at: Range<u32>,
        now: Instant,
    ) {
        let tiers = self.tiers(tiers);
        let Some(&key) = self.by_hash.get(&info_hash) else { return };
        let Some(torrent) = self.torrents.get_mut(&key) else { return };
        if *torrent.tiers != *tiers {
            // Another file than the one that was moved away names the same torrent.
            torrent.tiers = tiers;
            if std::mem::take(&mut torrent.announced) {
                self.trackers.remove(key.0, now);
                self.announce(key, now);
            }
        }
        let Some(torrent) = self.torrents.get_mut(&key) else { return };
        torrent.place.torrent = file;
        torrent.place.ident = ident;
        torrent.info_at = info_at;
        // Where its data is to lie is not known before its name.
        torrent.place.kept = torrent.metadata.is_none();
        self.record(key, now);
    }

    /// Stops a torrent until [`Session::resume`], over restarts too. `false` when there is none.
    pub fn pause(&mut self, info_hash: InfoHash, now: Instant) -> bool {
        let Some(key) = self.key(info_hash) else { return false };
        if let Some(torrent) = self.torrents.get_mut(&key) {
            torrent.decided |= !torrent.recalled;
            torrent.state = State::Paused;
            torrent.web = None;
        }
        self.end_fetch(key);
        // Before its check is forgotten: it goes on from there.
        self.record(key, now);
        self.park(key, State::Paused, PAUSED, now);
        true
    }

    /// Starts a paused torrent again; one that waits for data that it had is fetched anew.
    pub fn resume(&mut self, info_hash: InfoHash, now: Instant) -> bool {
        let Some(key) = self.key(info_hash) else { return false };
        if let Some(torrent) = self.torrents.get_mut(&key)
            && (!torrent.state.serves() || torrent.state == State::Incomplete)
        {
            torrent.decided |= !torrent.recalled;
            // Asked for by the user, what has gone is fetched again.
            torrent.was_complete &= !matches!(torrent.state, State::WaitingForData | State::Incomplete);
            torrent.state = State::Queued;
            torrent.reason = "".into();
            torrent.failures = 0;
            self.queue_check(key);
            self.record(key, now);
        }
        true
    }

    /// Hashes all of a torrent's data anew.
    pub fn verify(&mut self, info_hash: InfoHash) -> bool {
        let Some(key) = self.key(info_hash) else { return false };
        self.end_fetch(key);
        if let Some(torrent) = self.torrents.get_mut(&key) {
            torrent.verify_all = true;
            torrent.checking = None;
            torrent.failures = 0;
            if torrent.state != State::Paused {
                torrent.state = State::Queued;
                self.queue_check(key);
            }
        }
        true
    }

    /// Puts a torrent aside: its peers go, its trackers are told, and the reason is shown.
    pub(super) fn park(&mut self, key: TorrentKey, state: State, reason: &str, now: Instant) {
        self.end_fetch(key);
        let Some(torrent) = self.torrents.get_mut(&key) else { return };
        // What fails each time it is tried is news once, though it may say how much room there is now.
        let again = *torrent.reason == *reason || (torrent.state == state && torrent.reported);
        let news = !again && (state != State::Error || torrent.failures <= 1);
        torrent.state = state;
        torrent.reason = reason.into();
        torrent.checking = None;
        if news && state != State::Paused {
            torrent.reported = true;
            let event = event(Happened::Error, torrent, reason.into());
            self.jobs.push_back(Job::Event(event));
        }
        if !torrent.serves() {
            if std::mem::take(&mut torrent.announced) {
                self.trackers.remove(key.0, now);
            }
            self.lpd.remove(torrent.info_hash);
            self.dht.remove(torrent.info_hash);
            self.close_peers(key, &Close::TorrentStopped);
            self.candidates.remove(key.0);
            self.jobs.push_back(Job::Close(key));
        }
    }
}

//! The session's connections: who may connect, who is unchoked, what is sent next, and whose time is up.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use super::superseeding::view;
use super::{
    AHEAD, BATCH, CHOKE_ROUND, HANDSHAKE_TIME, Job, KEEP_ALIVE, LAYOUT_TIME, LEAST_WRITE, MAX_DIALLING, Miss,
    PEER_COST, SILENCE, SWEEP, SWEEP_HANDSHAKES, Session, Settings, TORRENT_COST, Timer, Upload,
    WRITES_PER_SECOND, is_local,
};
use crate::list::{Gather, Keep};
use crate::metainfo::InfoHash;
use crate::net::Host;
use crate::peer::extension::{self, MAX_PAYLOAD};
use crate::peer::metadata;
use crate::peer::outbox::Part;
use crate::peer::wire::{self, Handshake, Limits, Message, Reserved};
use crate::peer::{Action, Close, Peer, PeerKey, Waiting};
use crate::storage::io::{Job as StorageJob, OpenFile};
use crate::torrent::candidates::Ended;
use crate::torrent::choker::{self, Contender, Slots};
use crate::torrent::{State, Torrent, TorrentKey};

/// Connections that two peers made to each other within so many seconds were made at once.
const AT_ONCE: u32 = 30;

impl Session {
    // Connections come and go.

    /// A connection came in. An error says why it is refused.
    pub fn accept(&mut self, addr: SocketAddr, now: Instant) -> Result<PeerKey, Close> {
        if self.stopping {
            return Err(Close::Shutdown);
        }
        if self.candidates.is_banned(addr.host()) {
            return Err(Close::Liar);
        }
        let full = self.peers.len() >= self.settings.peers;
        if full && !self.drop_a_stranger(now) {
            return Err(Close::Limit("peers"));
        }
        if self.memory() + PEER_COST > self.settings.memory {
            return Err(Close::Limit("memory"));
        }
        Ok(self.connect(addr, None, now))
    }

    fn connect(&mut self, addr: SocketAddr, torrent: Option<TorrentKey>, now: Instant) -> PeerKey {
        let key = PeerKey(self.next_peer);
        self.next_peer = self.next_peer.wrapping_add(1);
        let at = self.seconds(now);
        let mut peer = Peer::new(addr, torrent.is_some(), is_local(&self.settings.local, addr), at);
        peer.torrent = torrent;
        self.peers.insert(key, Box::new(peer));
        self.half_open += 1;
        self.set_by(Timer::Sweep, now + SWEEP_HANDSHAKES);
        key
    }

    /// Makes room by dropping the oldest connection that has not even said what it wants.
    fn drop_a_stranger(&mut self, now: Instant) -> bool {
        let at = self.seconds(now);
        let stranger = self
            .peers
            .values_mut()
            .filter(|peer| !peer.ready && !peer.outgoing && peer.closing.is_none() && at > peer.since + 2)
            .min_by_key(|peer| peer.since);
        stranger.map(|peer| peer.close(Close::Limit("peers"))).is_some()
    }

    /// What the torrents and peers are reckoned to take, in bytes.
    pub fn memory(&self) -> u64 {
        let fetches = self.torrents.values().filter_map(|torrent| torrent.fetch.as_ref());
        let pickers: u64 = fetches.map(|fetch| fetch.picker.memory() as u64).sum();
        let metadata = self.torrents.values().filter_map(|torrent| torrent.metadata.as_ref());
        let metadata: u64 = metadata.map(|missing| missing.gathering.memory() as u64).sum();
        let superseeds = self.torrents.values().filter_map(|torrent| torrent.superseed());
        let superseeds: u64 = superseeds.map(|superseed| superseed.memory() as u64).sum();
        let inflows: u64 = self.peers.values().map(|peer| peer.memory() as u64).sum();
        let (torrents, peers) = (self.torrents.len() as u64, self.peers.len() as u64);
        let peers_and_all = pickers + superseeds + metadata + inflows;
        torrents * TORRENT_COST + peers * PEER_COST + peers_and_all + self.dht.memory()
    }

    /// We are connected to a peer that we dialled: our handshake goes first.
    pub fn connected(&mut self, key: PeerKey) {
        let Some(peer) = self.peers.get_mut(&key) else { return };
        let Some(torrent) = peer.torrent.and_then(|torrent| self.torrents.get(&torrent)) else {
            return peer.close(Close::TorrentStopped);
        };
        peer.control.extend_from_slice(&handshake(torrent, &self.settings));
    }

    /// A peer has named its torrent: it is answered at once, since old clients send their id last.
    pub fn greeted(
        &mut self,
        key: PeerKey,
        info_hash: InfoHash,
        theirs: Reserved,
        now: Instant,
    ) -> Result<(), Close> {
        let at = self.seconds(now);
        let Some(&torrent_key) = self.by_hash.get(&info_hash) else { return Err(Close::UnknownTorrent) };
        let memory = self.memory();
        self.begin_superseed(torrent_key);
        let Some(torrent) = self.torrents.get_mut(&torrent_key) else { return Err(Close::UnknownTorrent) };
        let Some(peer) = self.peers.get_mut(&key) else { return Err(Close::Gone) };
        if !torrent.serves() {
            return Err(Close::TorrentStopped);
        }
        if peer.torrent.is_some_and(|dialled| dialled != torrent_key) {
            return Err(Close::Protocol("answers for another torrent"));
        }
        if torrent.peers().len() >= self.settings.peers_per_torrent {
            return Err(Close::Limit("peers of a torrent"));
        }
        if memory > self.settings.memory {
            return Err(Close::Limit("memory"));
        }
        if !peer.outgoing {
            peer.control.extend_from_slice(&handshake(torrent, &self.settings));
        }
        peer.torrent = Some(torrent_key);
        peer.fast = theirs.has_fast_extension();
        peer.heard = at;
        let may_send = extension::Ids {
            ut_pex: (self.settings.pex && !torrent.private).then_some(extension::UT_PEX),
            lt_donthave: Some(extension::LT_DONTHAVE),
            // Of a private torrent nobody is told more than its trackers told him (BEP 27).
            ut_metadata: (!torrent.private).then_some(metadata::ID),
        };
        let metadata_size = if torrent.private { 0 } else { torrent.metadata_size() };
        peer.greet(
            &torrent.view(),
            theirs.has_extension_protocol().then_some(may_send),
            self.settings.port,
            torrent.seeks() || torrent.is_hidden(),
            metadata_size,
        );
        if theirs.has_dht()
            && !torrent.private
            && let Some(port) = self.settings.dht_port()
        {
            wire::encode(&Message::Port(port), &mut peer.control);
        }
        let swarm = torrent.swarm.get_or_insert_default();
        swarm.peers.push(key);
        if let Some(superseed) = &mut swarm.superseed {
            superseed.joined(key, at);
        }
        Ok(())
    }

    /// A peer has told its id: the handshake is done.
    pub fn identified(&mut self, key: PeerKey, id: [u8; 20], now: Instant) -> Result<(), Close> {
        let at = self.seconds(now);
        let Some(peer) = self.peers.get(&key) else { return Err(Close::Gone) };
        let torrent = peer.torrent;
        if id == self.settings.peer_id {
            return Err(Close::Ourselves);
        }
        let siblings = torrent.and_then(|torrent| self.torrents.get(&torrent)).map_or(&[][..], |t| t.peers());
        let is_twin = |other: &&PeerKey| {
            **other != key
                && self.peers.get(other).is_some_and(|other| {
                    other.ready
                        && other.id == id
                        && other.addr.host() == peer.addr.host()
                        && other.closing.is_none()
                })
        };
        if let Some(twin) = siblings.iter().find(is_twin).copied() {
            // Where both called at once, both ends keep the call of the one with the higher id: each closing the other's
            // would leave none.
            let ours = self.settings.peer_id > id;
            let is_better = |twin: &Peer| {
                peer.outgoing == ours && twin.outgoing != ours && at.saturating_sub(twin.since) < AT_ONCE
            };
            if !self.peers.get(&twin).is_some_and(|twin| is_better(twin)) {
                return Err(Close::Duplicate);
            }
            if let Some(twin) = self.peers.get_mut(&twin) {
                twin.close(Close::Duplicate);
            }
        }
        if let Some(peer) = self.peers.get_mut(&key) {
            peer.id = id;
            peer.ready = true;
            peer.heard = at;
            self.half_open = self.half_open.saturating_sub(1);
            if peer.outgoing
                && let Some(torrent) = torrent
            {
                self.candidates.connected(torrent.0, peer.addr);
                self.dial_again(now);
                self.introduced(key, now);
            }
        }
        Ok(())
    }

    /// Bytes came from a peer.
    pub fn heard(&mut self, key: PeerKey, now: Instant) {
        let at = self.seconds(now);
        if let Some(peer) = self.peers.get_mut(&key) {
            peer.heard = at;
        }
    }

    /// A message came from a peer.
    pub fn handle(&mut self, key: PeerKey, message: &Message<'_>, now: Instant) -> Result<(), Close> {
        let Some(peer) = self.peers.get_mut(&key) else { return Err(Close::Gone) };
        let torrent_key = peer.torrent.ok_or(Close::UnknownTorrent)?;
        let Some(torrent) = self.torrents.get(&torrent_key) else { return Err(Close::TorrentStopped) };
        if let Message::Extended { id: extension::UT_PEX, payload } = message {
            return self.hears_of_others(key, payload, now);
        }
        let is_unknown = torrent.metadata.is_some();
        if is_unknown && peer.keep_early(message) {
            return Ok(());
        }
        if let Message::Extended { id: metadata::ID, payload } = *message {
            return self.metadata_message(key, payload, now);
        }
        let action = peer.handle(message, &view(torrent, key, message))?;
        if is_unknown && matches!(message, Message::Extended { .. }) {
            // It may have said that it has the metadata.
            self.ask_for_metadata(torrent_key, now);
        }
        self.superseed(key, &action, now);
        match action {
            Action::None => {}
            Action::Interest => self.interest_changed(key, now),
            Action::Gained(piece) => self.gained(key, piece, now),
            Action::Lost(piece) => self.lacks(key, piece, now),
            Action::Introduced => self.introduced(key, now),
            Action::Pieces => self.consider(key, now),
            Action::Choked(blocks) => self.refused(torrent_key, key, &blocks, now),
            Action::Rejected(block) => self.refused(torrent_key, key, &[block], now),
            Action::Node(port) => self.node_told(key, port, now),
        }
        Ok(())
    }

    /// A connection is gone: its task has ended, or could not begin.
    pub fn disconnected(&mut self, key: PeerKey, why: &Close, now: Instant) {
        let at = self.seconds(now);
        let Some(peer) = self.peers.remove(&key) else { return };
        if !peer.ready {
            self.half_open = self.half_open.saturating_sub(1);
        }
        let Some(torrent_key) = peer.torrent else { return };
        if peer.outgoing {
            let fetched = |torrent: &Torrent| torrent.state == State::Downloading;
            let gave = peer.downloaded > 0 && self.torrent(torrent_key).is_some_and(fetched);
            let how = match why {
                Close::BothSeeds => Ended::Seed,
                // It may only have been started anew, and be the one who has what we lack.
                Close::Gone if gave => Ended::Stopped,
                Close::TorrentStopped if peer.ready => Ended::Stopped,
                Close::Liar => Ended::Liar,
                _ if peer.ready => Ended::Closed,
                _ => Ended::Failed,
            };
            self.candidates.ended(torrent_key.0, peer.addr, how, now);
            if *why == Close::Ourselves {
                self.own.push(peer.addr);
                self.candidates.set_here(self.own.clone(), self.settings.local.clone());
            }
        }
        self.dial_again(now);
        if let Some(local) = peer.counted {
            self.left(torrent_key, key, &peer.pieces, local, now);
        }
        self.left_superseed(torrent_key, key, &peer.pieces, now);
        self.has_left(torrent_key, &peer);
        self.left_metadata(torrent_key, key, now);
        let Some(torrent) = self.torrents.get_mut(&torrent_key) else { return };
        torrent.uploaded += peer.uploaded;
        torrent.downloaded += peer.downloaded;
        torrent.unsaved |= peer.uploaded + peer.downloaded > 0;
        if let Some(swarm) = &mut torrent.swarm {
            swarm.peers.keep(|&other| other != key);
            swarm.empty_since = at;
        }
        if !peer.choked {
            self.fill_slots(now);
        }
    }

    pub(super) fn close_peers(&mut self, torrent: TorrentKey, why: &Close) {
        let peers = self.torrents.get(&torrent).map(|torrent| torrent.peers().to_vec()).unwrap_or_default();
        for key in peers {
            if let Some(peer) = self.peers.get_mut(&key) {
                peer.close(why.clone());
            }
        }
    }

    /// Of a torrent of which we have everything now.
    pub(super) fn part_from_seeds(&mut self, key: TorrentKey) {
        let Some(torrent) = self.torrents.get(&key) else { return };
        for peer in torrent.peers() {
            if let Some(peer) = self.peers.get_mut(peer)
                && peer.is_seed(torrent.lengths)
            {
                peer.close(Close::BothSeeds);
            }
        }
    }

    // Dialling.

    pub(super) fn set_dial(&mut self, now: Instant) {
        if let Some(at) = self.candidates.deadline() {
            let free = self.dials.ready_at(1, now);
            self.set_by(Timer::Dial, at.max(free));
        }
    }

    /// There is room for another peer, which the candidates' own deadline knows nothing of.
    pub(super) fn dial_again(&mut self, now: Instant) {
        if !self.candidates.is_empty() {
            let free = self.dials.ready_at(1, now);
            self.set_by(Timer::Dial, free);
        }
    }

    pub(super) fn next_dial(&mut self, now: Instant) -> Option<Job> {
        let dialling = || self.peers.values().filter(|peer| peer.outgoing && !peer.ready);
        if dialling().count() >= MAX_DIALLING
            || self.peers.len() >= self.settings.peers
            || self.memory() + PEER_COST > self.settings.memory
        {
            // The next connection that is made or ends sets the timer again.
            return None;
        }
        if self.dials.available(now) == 0 {
            self.set_dial(now);
            return None;
        }
        // The other half is for those who call us: where all fill up with whom they know, those who come first are left
        // to themselves, and nobody who comes later has anyone who takes him.
        let room = self.settings.peers_per_torrent.div_ceil(2);
        let torrents = &self.torrents;
        // Some clients (Transmission 3) turn away who calls twice at a time, though it be for another torrent.
        let called: Vec<SocketAddr> = dialling().map(|peer| peer.addr).gather();
        // Who came to us is not called in return.
        let came = self.peers.values().filter(|peer| !peer.outgoing);
        let came: Vec<_> = came.filter_map(|peer| Some((peer.torrent?, peer.listens()?))).gather();
        let next = self.candidates.next(now, |torrent, address| {
            let key = TorrentKey(torrent);
            let torrent = torrents.get(&key);
            torrent.is_some_and(|t| t.serves() && t.peers().len() < room)
                && !called.contains(&address)
                && !came.contains(&(key, address))
        });
        let job = next.map(|(torrent, addr)| {
            self.dials.take(1, now);
            Job::Dial(self.connect(addr, Some(TorrentKey(torrent)), now), addr)
        });
        self.set_dial(now);
        job
    }

    // Choking.

    fn interest_changed(&mut self, key: PeerKey, now: Instant) {
        let at = self.seconds(now);
        let Some(peer) = self.peers.get_mut(&key) else { return };
        if peer.interested {
            if peer.choked {
                peer.turn = at;
            }
            self.set_by(Timer::Choke, now + CHOKE_ROUND);
            if !self.is_full() {
                self.fill_slots(now);
            }
        } else {
            // Its slot is free for another at once.
            self.fill_slots(now);
        }
    }

    fn is_full(&self) -> bool {
        self.peers.values().filter(|peer| !peer.choked).count() >= self.settings.uploads
    }

    /// Gives free slots to those that wait: nobody waits for the next round while there is room.
    pub(super) fn fill_slots(&mut self, now: Instant) {
        let at = self.seconds(now);
        let mut contenders = self.contenders(now);
        self.choker.fill(&mut contenders, self.slots(), at);
        self.apply_slots(&contenders, at);
    }

    /// One round of the choker, and a look at the rates.
    pub(super) fn choke_round(&mut self, now: Instant) {
        let at = self.seconds(now);
        let mut contenders = self.contenders(now);
        self.choker.tick(&mut contenders, self.slots(), at);
        self.apply_slots(&contenders, at);
        if self.measure() {
            self.set(Timer::Choke, now + CHOKE_ROUND);
        }
    }

    fn slots(&self) -> Slots {
        let count = |slots: usize| u32::try_from(slots).unwrap_or(u32::MAX);
        Slots { total: count(self.settings.uploads), each: count(self.settings.uploads_per_torrent) }
    }

    /// Those that have a slot or want one.
    fn contenders(&self, now: Instant) -> Vec<Contender> {
        let ms = self.millis(now);
        let contenders = self.peers.iter().filter(|(_, peer)| peer.interested || !peer.choked);
        contenders
            .filter_map(|(key, peer)| {
                let key_of_torrent = peer.torrent?;
                let torrent = self.torrents.get(&key_of_torrent)?;
                Some(Contender {
                    peer: key.0,
                    torrent: key_of_torrent.0,
                    fetching: torrent.state == State::Downloading,
                    since: peer.turn,
                    newcomer: peer.uploaded == 0,
                    rate: peer.rate.max(peer.recent / choker::PERIOD),
                    given: peer.down_rate.max(peer.given / choker::PERIOD),
                    snubs_us: peer.requests.as_ref().is_some_and(|requests| requests.is_snubbed(ms)),
                    interested: peer.interested && peer.closing.is_none(),
                    seed: peer.is_seed(torrent.lengths),
                    draining: !peer.outbox.is_empty() && peer.recent > 0,
                    unchoked: !peer.choked,
                })
            })
            .gather()
    }

    fn apply_slots(&mut self, contenders: &[Contender], at: u32) {
        for contender in contenders {
            if let Some(peer) = self.peers.get_mut(&PeerKey(contender.peer)) {
                peer.choke(!contender.unchoked, at);
            }
        }
    }

    // Sending.

    /// What to send to a peer whose socket takes `room` bytes, planned into `parts`; `None` while there is nothing,
    /// or while its writer must wait (it will be woken).
    pub fn upload(&mut self, key: PeerKey, room: u32, parts: &mut Vec<Part>, now: Instant) -> Option<Upload> {
        let peer = self.peers.get_mut(&key)?;
        if peer.outbox.is_empty() || peer.waiting != Waiting::No {
            return None;
        }
        let torrent_key = peer.torrent?;
        let torrent = self.torrents.get_mut(&torrent_key)?;
        let swarm = torrent.swarm.as_mut()?;
        let Some(layout) = &swarm.layout else {
            peer.waiting = Waiting::Storage;
            if !std::mem::replace(&mut swarm.layout_wanted, true) {
                let job = StorageJob::Layout { key: torrent_key.0, place: torrent.place.clone() };
                self.jobs.push_back(Job::Storage(job));
            }
            return None;
        };
        let (bucket, rate) = match peer.local {
            true => (&self.local_upload, self.settings.local_upload),
            false => (&self.upload, self.settings.upload),
        };
        let least = least_write(rate);
        let tokens = u32::try_from(bucket.available(now)).unwrap_or(u32::MAX);
        peer.outbox.plan(room.min(tokens).min(BATCH), parts);
        let planned: u32 = parts.iter().map(|part| part.to - part.from).sum();
        let limited_by_tokens = tokens < room.min(BATCH);
        if limited_by_tokens && u64::from(planned) < least && planned == tokens {
            peer.waiting = Waiting::Tokens;
            let at = bucket.ready_at(least, now);
            self.throttled.push_back(key);
            self.set_by(Timer::Tokens, at);
            return None;
        }
        Some(Upload { torrent: torrent_key, lengths: torrent.lengths, layout: layout.clone() })
    }

    /// `bytes` of what was planned were sent.
    pub fn sent(&mut self, key: PeerKey, bytes: u32, now: Instant) {
        let at = self.seconds(now);
        let Some(peer) = self.peers.get_mut(&key) else { return };
        let bucket = if peer.local { &mut self.local_upload } else { &mut self.upload };
        bucket.take(u64::from(bytes), now);
        let content = peer.outbox.sent(bytes);
        peer.uploaded += u64::from(content);
        peer.recent = peer.recent.saturating_add(content);
        peer.spoke = at;
        peer.misses = 0;
        self.uploaded += u64::from(content);
    }

    /// What a peer wants is not at hand: the storage thread fetches it, and wakes the writer.
    pub fn fetch(&mut self, key: PeerKey, upload: &Upload, miss: Miss, fd: Option<Arc<OpenFile>>) {
        let Some(peer) = self.peers.get_mut(&key) else { return };
        let Some(torrent) = self.torrents.get(&upload.torrent) else { return };
        peer.waiting = Waiting::Storage;
        peer.misses = peer.misses.saturating_add(1);
        // What it asked for without a gap is read from the disk in one go.
        let file = upload.layout.range(miss.file);
        let stretch = peer.outbox.next_stretch(|block| upload.lengths.block_offset(block), AHEAD);
        let end = stretch.map_or(0, |(start, len)| start + len).min(file.end);
        self.jobs.push_back(Job::Storage(StorageJob::Read {
            key: upload.torrent.0,
            peer: key.0,
            info_hash: torrent.info_hash,
            place: torrent.place.clone(),
            file: miss.file,
            path: upload.layout.path(miss.file),
            offset: miss.offset,
            len: miss.len,
            ahead: end.saturating_sub(file.start + miss.offset),
            fd,
        }));
    }

    /// Fetches in a row that did not help.
    pub fn misses(&self, key: PeerKey) -> u8 {
        self.peers.get(&key).map_or(0, |peer| peer.misses)
    }

    /// One peer, for its own task.
    pub fn peer_mut(&mut self, key: PeerKey) -> Option<&mut Peer> {
        self.peers.get_mut(&key).map(|peer| &mut **peer)
    }

    /// What its messages may be at most.
    pub fn wire_limits(&self, key: PeerKey) -> Option<Limits> {
        let torrent = self.torrents.get(&self.peers.get(&key)?.torrent?)?;
        Some(match torrent.metadata {
            Some(_) => Limits { pieces: wire::UNKNOWN, max_extended: metadata::MAX_PAYLOAD },
            None => Limits { pieces: torrent.lengths.piece_count(), max_extended: MAX_PAYLOAD },
        })
    }

    /// Whether a peer's writer has blocks to send and need not wait.
    pub fn owes(&self, key: PeerKey) -> bool {
        self.peers.get(&key).is_some_and(|peer| !peer.outbox.is_empty() && peer.waiting == Waiting::No)
    }

    /// Control messages to be sent to a peer: they pass between blocks and wait for no tokens.
    pub fn control(&mut self, key: PeerKey) -> Option<&mut Vec<u8>> {
        let peer = self.peers.get_mut(&key)?;
        (peer.speaks() && !peer.outbox.is_inside_message()).then_some(&mut peer.control)
    }

    /// `bytes` of the control messages were sent.
    pub fn control_sent(&mut self, key: PeerKey, bytes: usize, now: Instant) {
        let at = self.seconds(now);
        if let Some(peer) = self.peers.get_mut(&key) {
            peer.spoke = at;
            peer.control_sent(bytes);
            self.metadata_may_go(key, now);
        }
    }

    /// Wakes as many of those that wait for tokens as there are tokens for, those that have waited longest. If all were
    /// woken, the same one would take everything each time.
    pub(super) fn wake_throttled(&mut self, now: Instant) {
        let mut promised = [0; 2];
        for _ in 0..self.throttled.len() {
            let Some(key) = self.throttled.pop_front() else { break };
            let Some(peer) = self.peers.get_mut(&key).filter(|peer| peer.waiting == Waiting::Tokens) else {
                continue;
            };
            let (bucket, rate) = match peer.local {
                true => (&self.local_upload, self.settings.local_upload),
                false => (&self.upload, self.settings.upload),
            };
            let promised = &mut promised[usize::from(peer.local)];
            let wanted = *promised + least_write(rate);
            if bucket.available(now) < wanted {
                let at = bucket.ready_at(wanted, now);
                self.throttled.push_back(key);
                self.set_by(Timer::Tokens, at);
                continue;
            }
            *promised = wanted;
            peer.waiting = Waiting::No;
            peer.wake();
        }
    }

    /// Looks at the clocks of all connections.
    pub(super) fn sweep(&mut self, now: Instant) {
        let at = self.seconds(now);
        for peer in self.peers.values_mut() {
            if !peer.ready {
                if at.saturating_sub(peer.since) >= HANDSHAKE_TIME {
                    peer.close(Close::SlowHandshake);
                }
            } else if at.saturating_sub(peer.heard) >= SILENCE {
                peer.close(Close::Silent);
            } else if at.saturating_sub(peer.spoke) >= KEEP_ALIVE && peer.outbox.is_empty() {
                peer.keep_alive();
            }
        }
        let mut layouts = false;
        for torrent in self.torrents.values_mut() {
            if let Some(swarm) = &torrent.swarm
                && swarm.peers.is_empty()
            {
                if at.saturating_sub(swarm.empty_since) >= LAYOUT_TIME {
                    torrent.swarm = None;
                } else {
                    layouts = true;
                }
            }
        }
        let soon = self.look_at_superseeds(now);
        self.set_dial(now);
        if self.half_open > 0 || soon {
            self.set(Timer::Sweep, now + SWEEP_HANDSHAKES);
        } else if !self.peers.is_empty() || layouts {
            self.set(Timer::Sweep, now + SWEEP);
        }
    }
}

/// With fewer tokens a writer sleeps on.
fn least_write(rate: u64) -> u64 {
    (rate / WRITES_PER_SECOND).clamp(u64::from(LEAST_WRITE), u64::from(BATCH))
}

fn handshake(torrent: &Torrent, settings: &Settings) -> [u8; wire::HANDSHAKE_LEN] {
    let dht = settings.dht.is_some() && !torrent.private;
    let reserved = if dht { Reserved::OURS.and_dht() } else { Reserved::OURS };
    Handshake { reserved, info_hash: *torrent.info_hash.as_bytes(), peer_id: settings.peer_id }.encode()
}

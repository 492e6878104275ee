//! A disk in memory with the storage thread's manners: bounded queues, one job at a time, and each takes its time.
//!
//! Of content it keeps which ranges are there and right, so a torrent of a terabyte costs nothing. What a record says is
//! kept as the resume file does it: changes are seen at once, and written by a flush.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use meshseed::have::Have;
use meshseed::ident::Ident;
use meshseed::metainfo::{self, InfoHash, Metainfo, maker};
use meshseed::piece::{BLOCK, Lengths};
use meshseed::storage::intake::Filled;
use meshseed::storage::io::{
    Batch, Checked, Done, Hashed, Job, Kept, LaidOut, Loaded, Outcome, Place, Prepared, Progress, Target,
    Unkept,
};
use meshseed::storage::resume::{Record, Stamp, Verified};
use meshseed::storage::{Layout, Room, Trouble};
use rustix::io::Errno;

use super::content::{Content, Extents};

/// Bounds of the storage thread's queues.
const URGENT: usize = 256;
const USUAL: usize = 64;
const WRITES: usize = 4;
/// So much more than the floor must be free to begin.
const LEAST_ROOM: u64 = 4 << 20;
/// A slice of hashing ends after this long.
const SLICE: Duration = Duration::from_millis(100);
/// What is brought into the page cache at a time.
pub const PAGE: u64 = 128 * 1024;
/// Where everything lies.
const ROOT: &str = "/mnt/disk";

/// A torrent and its data.
pub struct Torrent {
    pub metainfo: Metainfo,
    /// Its .torrent.
    pub bytes: Vec<u8>,
    pub place: Place,
    pub content: Content,
    /// What of it was ever written, and what of that is out of the page cache.
    extents: Extents,
    synced: Extents,
    /// The pieces that were found right, each when it was last hashed.
    verified: Have,
    /// Its stamps are not minded: it is being written.
    open: bool,
    /// Why nothing is written of it until the next look.
    fault: Option<Trouble>,
    /// Pieces that are hashed in part: how far, and whether all was right up to there.
    hashing: BTreeMap<u32, (u32, bool)>,
    pub there: bool,
    pub mtime: i64,
    /// Bytes of the pieces that were received and found wrong.
    pub wrong: u64,
    /// Reading its data fails.
    pub broken: bool,
    /// Looking at it fails as well.
    pub unreachable: bool,
}

pub struct Disk {
    pub torrents: Vec<Torrent>,
    by_path: HashMap<Arc<Path>, usize>,
    pub root_there: bool,
    /// Does not answer.
    pub hung: bool,
    /// The process has as many files open as it may.
    pub no_descriptors: bool,
    /// The page cache forgets all but the last few pages.
    pub small_cache: bool,
    /// Bytes a second.
    pub speed: u64,
    /// Bytes that are free, and how many are to stay so.
    pub free: u64,
    pub floor: u64,
    pub read_only: bool,
    /// Far writes fill what is before them.
    pub fat: bool,
    records: BTreeMap<InfoHash, Record>,
    /// As they are on the disk.
    pub written: BTreeMap<InfoHash, Record>,
    urgent: VecDeque<Job>,
    usual: VecDeque<Job>,
    hashing: VecDeque<Job>,
    under_way: [usize; 3],
    busy: Option<Job>,
    opened: HashSet<(usize, u32)>,
    hot: VecDeque<(usize, u32, u64)>,
    pub reads: u64,
    /// Pieces of metadata read for peers.
    pub metadata_reads: u64,
    pub flushes: u64,
    pub records_taken: u64,
    /// Bytes hashed of each torrent.
    pub hashed: HashMap<usize, u64>,
    /// Most checks that were under way at a time.
    pub most_checks: usize,
    /// Torrents in the order in which their files were compared.
    pub checks: Vec<usize>,
}

impl Torrent {
    pub fn info_hash(&self) -> InfoHash {
        self.metainfo.info_hash
    }

    pub fn lengths(&self) -> Lengths {
        self.metainfo.lengths
    }

    /// The bytes of a piece.
    pub fn range(&self, index: u32) -> Range<u64> {
        let lengths = self.lengths();
        let piece = lengths.piece(index).expect("a piece that exists");
        lengths.offset(piece)..lengths.offset(piece) + u64::from(lengths.size(piece))
    }

    /// Whether a piece was found right when it was last hashed.
    pub fn is_verified(&self, piece: u32) -> bool {
        self.verified.contains(piece)
    }

    /// Whether all of it is there and right.
    pub fn is_whole(&self) -> bool {
        self.there && self.extents.is_right(0..self.lengths().total())
    }

    /// So many of its bytes are there, from the first on, and right.
    pub fn hold(&mut self, len: u64) {
        self.extents = Extents::whole(len);
        self.synced = self.extents.clone();
    }

    /// Those pieces are there, and right.
    pub fn hold_pieces(&mut self, holds: impl FnMut(&u32) -> bool) {
        self.extents = Extents::default();
        for piece in (0..self.lengths().piece_count()).filter(holds) {
            self.extents.write(self.range(piece), true);
        }
        self.synced = self.extents.clone();
        self.there = self.held() > 0;
    }

    /// Nothing of it is there.
    pub fn clear(&mut self) {
        self.hold(0);
        (self.there, self.verified) = (false, Have::None);
    }

    /// Bytes of it that are there.
    pub fn held(&self) -> u64 {
        self.extents.len_in(0..self.lengths().total())
    }

    /// These pieces are not what they should be, though they are there.
    pub fn spoil(&mut self, pieces: &[u32]) {
        for &piece in pieces {
            let range = self.range(piece);
            self.extents.write(range, false);
        }
    }

    fn judge(&mut self, index: u32) -> bool {
        let count = self.lengths().piece_count();
        let right = self.there && self.extents.is_right(self.range(index));
        if right {
            self.verified.insert(index, count);
        } else {
            self.verified.remove(index, count);
        }
        right
    }

    /// The files that have some of a piece.
    fn files_of(&self, piece: u32) -> impl Iterator<Item = usize> {
        let (range, mut start) = (self.range(piece), 0);
        let files = self.metainfo.files.iter().enumerate().filter(move |(_, file)| {
            let of = start..start + file.length;
            start = of.end;
            of.start < range.end && range.start < of.end
        });
        files.map(|(at, _)| at)
    }

    fn stamps(&self) -> Box<[Stamp]> {
        let mut start = 0;
        let stamps = self.metainfo.files.iter().map(|file| {
            let range = start..start + file.length;
            start = range.end;
            let size = self.extents.end_in(range.clone()) - range.start;
            Stamp { size, mtime_secs: self.mtime, mtime_nanos: 0 }
        });
        stamps.collect()
    }
}

impl Disk {
    pub fn new() -> Disk {
        Disk {
            torrents: Vec::new(),
            by_path: HashMap::new(),
            root_there: true,
            hung: false,
            no_descriptors: false,
            small_cache: false,
            speed: 50 << 20,
            free: u64::MAX / 2,
            floor: 0,
            read_only: false,
            fat: false,
            records: BTreeMap::new(),
            written: BTreeMap::new(),
            urgent: VecDeque::new(),
            usual: VecDeque::new(),
            hashing: VecDeque::new(),
            under_way: [0; 3],
            busy: None,
            opened: HashSet::new(),
            hot: VecDeque::new(),
            reads: 0,
            metadata_reads: 0,
            flushes: 0,
            records_taken: 0,
            hashed: HashMap::new(),
            most_checks: 0,
            checks: Vec::new(),
        }
    }

    /// Makes a torrent whose data is there; files of these lengths, one alone being the torrent itself.
    pub fn add(&mut self, name: &str, files: &[u64], piece: u32, options: &maker::Options) -> usize {
        let entry = |(n, &length): (usize, &u64)| maker::Entry {
            path: if files.len() == 1 { String::new() } else { format!("file {n:03}") },
            length,
            ..maker::Entry::default()
        };
        let options = &maker::Options { piece_length: Some(piece), ..options.clone() };
        let plan = maker::plan(name, files.iter().enumerate().map(entry).collect(), options)
            .expect("a torrent that can be made");
        let mut pieces = vec![[0; 20]; plan.lengths.piece_count() as usize];
        let bytes = pieces.as_flattened_mut().iter_mut();
        bytes.zip(name.bytes().cycle()).for_each(|(hash, byte)| *hash = byte);
        let hashes = maker::Hashes { pieces, ..maker::Hashes::default() };
        let bytes = maker::encode(&plan, options, &hashes);
        let metainfo = metainfo::parse(&bytes).expect("what was just encoded");
        let at = self.torrents.len();
        let torrent: Arc<Path> = Path::new("/etc/torrents").join(format!("{name}.torrent")).into();
        let place = Place {
            torrent: torrent.clone(),
            ident: ident(at as u64),
            data: Path::new(ROOT).join(name).into(),
            other: None,
            root: Path::new(ROOT).into(),
            kept: false,
            sidecar: false,
        };
        self.by_path.insert(torrent, at);
        self.torrents.push(Torrent {
            content: Content::of(metainfo.info_hash),
            extents: Extents::whole(metainfo.lengths.total()),
            synced: Extents::whole(metainfo.lengths.total()),
            verified: Have::None,
            open: false,
            fault: None,
            hashing: BTreeMap::new(),
            metainfo,
            bytes,
            place,
            there: true,
            mtime: 1_000_000,
            wrong: 0,
            broken: false,
            unreachable: false,
        });
        at
    }

    /// Gives the .torrent another path.
    pub fn rename(&mut self, torrent: usize, path: &str) -> Arc<Path> {
        let path: Arc<Path> = Path::new(path).into();
        let old = std::mem::replace(&mut self.torrents[torrent].place.torrent, path.clone());
        self.by_path.remove(&old);
        self.by_path.insert(path.clone(), torrent);
        path
    }

    /// The process ends: what was not written is forgotten.
    pub fn restart(&mut self) {
        self.records = self.written.clone();
        (self.urgent, self.usual, self.hashing) = Default::default();
        self.under_way = [0; 3];
        self.busy = None;
        self.opened.clear();
        self.hot.clear();
        for torrent in &mut self.torrents {
            (torrent.open, torrent.fault) = (false, None);
            torrent.hashing.clear();
        }
    }

    /// The machine ends: what was not synced has gone with it.
    pub fn cut_power(&mut self) {
        self.restart();
        for torrent in &mut self.torrents {
            torrent.extents = torrent.synced.clone();
        }
    }

    pub fn is_idle(&self) -> bool {
        self.busy.is_none()
    }

    pub fn record(&self, torrent: usize) -> Option<&Record> {
        self.records.get(&self.torrents[torrent].info_hash())
    }

    /// Takes a job, or gives it back where too many are under way.
    pub fn submit(&mut self, job: Job) -> Result<(), Box<Job>> {
        let (queue, bound) = match job {
            Job::Read { .. } | Job::Layout { .. } => (0, URGENT),
            Job::Write(_) => (2, WRITES),
            Job::Save { .. } => (1, usize::MAX),
            _ => (1, USUAL),
        };
        if !matches!(job, Job::Disk(_) | Job::Record(_) | Job::Left { .. } | Job::Stop) {
            if self.under_way[queue] >= bound {
                return Err(Box::new(job));
            }
            self.under_way[queue] += 1;
        }
        match job {
            Job::Read { .. } | Job::Layout { .. } => self.urgent.push_back(job),
            Job::Verify { .. } => self.hashing.push_back(job),
            _ => self.usual.push_back(job),
        }
        let is_check = |job: &&Job| matches!(job, Job::Check { .. });
        let checks = self.usual.iter().chain(&self.busy).filter(is_check).count();
        self.most_checks = self.most_checks.max(checks);
        Ok(())
    }

    /// Writes that are not done.
    pub fn writes_under_way(&self) -> usize {
        self.under_way[2]
    }

    /// Begins the next job; says how long it takes.
    pub fn begin(&mut self) -> Option<Duration> {
        if self.busy.is_some() || self.hung {
            return None;
        }
        let job = self
            .urgent
            .pop_front()
            .or_else(|| self.usual.pop_front())
            .or_else(|| self.hashing.pop_front())?;
        let micros = match &job {
            Job::Read { len, .. } => 4000 + len * 1_000_000 / self.speed,
            Job::Verify { place, pieces, .. } => {
                let piece = self.at(place).map_or(1, |at| self.torrents[at].lengths().piece_length());
                let piece = u64::from(piece);
                u64::from(self.slice(pieces.clone(), piece)) * piece * 1_000_000 / self.speed
            }
            Job::Write(batch) => {
                let bytes: u64 = batch.filled.writes.iter().map(|write| u64::from(write.len)).sum();
                bytes * 1_000_000 / self.speed
            }
            Job::Flush | Job::Save { .. } => 20_000,
            Job::Disk(_) | Job::Record(_) | Job::Left { .. } => 1,
            Job::Probe(places) => 50 * places.len() as u64,
            _ => 300,
        };
        self.busy = Some(job);
        Some(Duration::from_micros(micros.max(1)))
    }

    /// Pieces of a slice.
    fn slice(&self, pieces: Range<u32>, piece: u64) -> u32 {
        let in_time = self.speed * u64::try_from(SLICE.as_millis()).expect("small") / 1000 / piece;
        u32::try_from(in_time).unwrap_or(u32::MAX).clamp(1, pieces.end - pieces.start)
    }

    /// The job that was begun is done.
    pub fn end(&mut self) -> Option<Done> {
        let done = match self.busy.take()? {
            Job::Scan { .. } => Done::Scanned(None),
            Job::Load { path } => {
                let torrent = &self.torrents[self.by_path[&path]];
                let summary = torrent.metainfo.summary();
                let loaded = Loaded { summary, sidecar: None };
                Done::Loaded { path, ident: torrent.place.ident, result: Ok(Box::new(loaded)) }
            }
            Job::Keep { key, pieces, link, path } => {
                let at = self.torrents.iter().position(|torrent| torrent.info_hash() == link.info_hash);
                let torrent = &self.torrents[at.expect("a torrent of this disk")];
                let loaded = Loaded { summary: torrent.metainfo.summary(), sidecar: None };
                let kept = Kept { path, ident: torrent.place.ident, loaded };
                let result = match InfoHash::of(&pieces.concat()) == link.info_hash {
                    _ if self.read_only => Err(Unkept::Unwritten("read-only".into())),
                    true => Ok(Box::new(kept)),
                    false => Err(Unkept::Wrong),
                };
                Done::Kept { key, result }
            }
            Job::Metadata { key, peer, place, piece, at } => {
                self.metadata_reads += 1;
                let range = at.start as usize..at.end as usize;
                let result = self.at(&place).map(|of| self.torrents[of].bytes[range].into());
                Done::Metadata { key, peer, piece, result }
            }
            Job::Check { key, info_hash, place } => {
                self.checks.extend(self.at(&place));
                let mut known = self.records.get(&info_hash).cloned().map(Box::new);
                let open = known.as_ref().is_some_and(|record| record.open);
                let verified = known.as_mut().and_then(|record| record.verified.take());
                Done::Checked { key, known: Ok(known), result: self.compare(&place, verified, open) }
            }
            Job::Verify { key, place, pieces } => self.verify(key, &place, pieces),
            Job::Probe(places) => {
                let lost = places.into_iter().filter_map(|(key, place)| Some((key, self.missing(&place)?)));
                Done::Lost(lost.collect())
            }
            Job::Layout { key, place } => {
                let laid_out = |at: usize| LaidOut {
                    layout: Layout::new(&self.torrents[at].metainfo, place.data.clone()),
                    web_seeds: Vec::new(),
                    http_seeds: Vec::new(),
                };
                let result = match self.no_descriptors {
                    true => Err(Trouble::NoDescriptors(place.torrent.to_path_buf())),
                    false => self.at(&place).map(|at| Box::new(laid_out(at))),
                };
                Done::LaidOut { key, result }
            }
            Job::Read { key, peer, place, file, path, offset, len, .. } => {
                let result = self.fetch(&place, file, path, offset, len).map(|()| None);
                Done::Read { key, peer, file, result }
            }
            Job::Prepare { key, place, .. } => Done::Prepared { key, result: self.prepare(&place) },
            Job::Write(batch) => {
                let Batch { filled, targets } = *batch;
                let outcomes = targets.iter().map(|target| self.write(target, &filled)).collect();
                Done::Wrote { bytes: filled.bytes, outcomes }
            }
            Job::Save { key, place, record, open } => {
                Done::Saved { key, result: self.save(&place, *record, open) }
            }
            Job::Disk(disk) => {
                self.floor = disk.free_floor;
                return None;
            }
            Job::Flush => {
                self.flushes += u64::from(self.written != self.records);
                self.written = self.records.clone();
                Done::Flushed(Ok(()))
            }
            Job::Record(record) => {
                self.take_record(*record);
                return None;
            }
            Job::LoadNodes => Done::Nodes(Ok(Box::default())),
            Job::Recall { key, info_hash, .. } => {
                Done::Recalled { key, known: Ok(self.records.get(&info_hash).cloned().map(Box::new)) }
            }
            Job::SaveNodes(_) => return None,
            Job::Left { .. } => return None,
            Job::Link { .. } | Job::Discard { .. } | Job::Stop => return None,
        };
        let queue = match done {
            Done::Read { .. } | Done::LaidOut { .. } => 0,
            Done::Wrote { .. } => 2,
            _ => 1,
        };
        self.under_way[queue] -= 1;
        Some(done)
    }

    // Writing.

    fn prepare(&mut self, place: &Place) -> Result<Prepared, Trouble> {
        let at = self.at(place)?;
        self.torrents[at].hashing.clear();
        if !self.root_there {
            return Err(Trouble::RootAbsent(place.root.to_path_buf()));
        }
        if self.read_only {
            return Err(Trouble::ReadOnly(place.data.to_path_buf()));
        }
        let lacks = self.torrents[at].lengths().total() - self.torrents[at].held();
        self.has_room(place, lacks.min(LEAST_ROOM))?;
        (self.torrents[at].open, self.torrents[at].fault) = (true, None);
        Ok(Prepared { window: self.fat })
    }

    fn has_room(&self, place: &Place, bytes: u64) -> Result<(), Trouble> {
        let (free, floor) = (self.free, self.floor);
        let path = place.data.to_path_buf();
        if free < floor.saturating_add(bytes) {
            Err(Trouble::NoRoom(Room { path, free, floor }))
        } else {
            Ok(())
        }
    }

    /// Writes what is of one torrent, and hashes its pieces as far as they are received.
    fn write(&mut self, target: &Target, filled: &Filled) -> Outcome {
        let key = target.key;
        let failed = |trouble| Outcome { key, trouble: Some(trouble), hashed: Vec::new() };
        let at = match self.at(&target.place) {
            Ok(at) => at,
            Err(trouble) => return failed(trouble),
        };
        assert!(self.torrents[at].open, "written before it was asked whether that may be");
        let its = filled.writes.iter().filter(|write| write.key == key);
        let fault = self.torrents[at].fault.clone();
        let done = fault.map_or(Ok(()), Err).and_then(|()| {
            its.clone().try_for_each(|write| {
                let bytes = &filled.bytes[write.at as usize..(write.at + write.len) as usize];
                self.write_fragment(at, &target.place, write.piece, write.begin, bytes)
            })
        });
        if let Err(trouble) = done {
            self.torrents[at].fault = Some(trouble.clone());
            return failed(trouble);
        }
        let hashed = target.pieces.iter().filter_map(|progress| self.hash_on(at, *progress));
        Outcome { key, trouble: None, hashed: hashed.collect() }
    }

    fn write_fragment(
        &mut self,
        at: usize,
        place: &Place,
        piece: u32,
        begin: u32,
        bytes: &[u8],
    ) -> Result<(), Trouble> {
        if !self.root_there {
            return Err(Trouble::RootAbsent(place.root.to_path_buf()));
        }
        if self.read_only {
            return Err(Trouble::ReadOnly(place.data.to_path_buf()));
        }
        if self.torrents[at].broken {
            return Err(io_error(&place.data));
        }
        let torrent = &self.torrents[at];
        let start = torrent.range(piece).start + u64::from(begin);
        let range = start..start + bytes.len() as u64;
        assert!(range.end <= torrent.range(piece).end, "written beyond piece {piece}");
        assert!(!torrent.is_verified(piece), "piece {piece} is right, and written over");
        let hashed = torrent.hashing.get(&piece).map_or(0, |&(to, _)| to);
        assert!(
            begin >= hashed,
            "{begin} of piece {piece} is written again: {hashed} bytes of it are hashed"
        );
        let new = range.end - range.start - torrent.extents.len_in(range.clone());
        self.has_room(place, new)?;
        self.free -= new;
        let torrent = &mut self.torrents[at];
        let right = torrent.content.is(start, bytes);
        torrent.extents.write(range, right);
        (torrent.there, torrent.mtime) = (true, torrent.mtime + 1);
        Ok(())
    }

    /// Goes on with the hash of a piece; its verdict, when it is whole.
    fn hash_on(&mut self, at: usize, Progress { piece, ready, digests }: Progress) -> Option<Hashed> {
        let torrent = &mut self.torrents[at];
        let range = torrent.range(piece);
        let (from, right) = torrent.hashing.get(&piece).copied().unwrap_or((0, true));
        assert!(ready >= from, "less of piece {piece} is received than was");
        let these = range.start + u64::from(from)..range.start + u64::from(ready);
        let there = torrent.extents.len_in(these.clone());
        assert_eq!(
            there,
            these.end - these.start,
            "piece {piece} is received up to {ready} and was not written"
        );
        let good = right && torrent.extents.is_right(these);
        torrent.hashing.insert(piece, (ready, good));
        if range.start + u64::from(ready) < range.end {
            return None;
        }
        torrent.hashing.remove(&piece);
        torrent.wrong += if good { 0 } else { range.end - range.start };
        assert_eq!(torrent.judge(piece), good, "piece {piece} is not what was hashed");
        let mut hashed = Hashed { piece, good, digests: Box::default() };
        if !good || digests {
            let blocks = (range.start..range.end).step_by(BLOCK as usize);
            let digest = |start: u64| {
                let right = torrent.extents.is_right(start..range.end.min(start + u64::from(BLOCK)));
                start << 1 | u64::from(right)
            };
            hashed.digests = blocks.map(digest).collect();
        }
        Some(hashed)
    }

    /// Puts a torrent on record, once all that it has is out of the page cache.
    fn save(&mut self, place: &Place, mut record: Record, open: bool) -> Result<(), Trouble> {
        let at = self.at(place)?;
        if !self.root_there {
            return Err(Trouble::RootAbsent(place.root.to_path_buf()));
        }
        let torrent = &mut self.torrents[at];
        if torrent.broken {
            return Err(io_error(&place.data));
        }
        torrent.synced = torrent.extents.clone();
        torrent.open &= open;
        if let Some(verified) = &mut record.verified {
            for piece in 0..torrent.lengths().piece_count() {
                let right = torrent.extents.is_right(torrent.range(piece));
                assert!(
                    right || !verified.have.contains(piece),
                    "piece {piece} is put on record and is not right"
                );
            }
            verified.stamps = torrent.stamps();
            record.open = open;
        }
        self.take_record(record);
        Ok(())
    }

    fn take_record(&mut self, mut record: Record) {
        self.records_taken += 1;
        if record.verified.is_none()
            && let Some(old) = self.records.get(&record.info_hash)
        {
            record.verified = old.verified.clone();
            record.open = old.open;
            record.data = record.data.or(old.data.clone());
        }
        self.records.insert(record.info_hash, record);
    }

    /// The torrent of a place; none once its .torrent is elsewhere.
    fn at(&self, place: &Place) -> Result<usize, Trouble> {
        self.by_path.get(&place.torrent).copied().ok_or(Trouble::TorrentChanged)
    }

    fn missing(&self, place: &Place) -> Option<Trouble> {
        if !self.root_there {
            return Some(Trouble::RootAbsent(place.root.to_path_buf()));
        }
        if self.no_descriptors {
            return Some(Trouble::NoDescriptors(place.data.to_path_buf()));
        }
        let there = self.torrents.iter().any(|torrent| torrent.there && torrent.place.data == place.data);
        (!there).then(|| Trouble::DataMissing(place.data.to_path_buf()))
    }

    fn compare(&mut self, place: &Place, verified: Option<Verified>, open: bool) -> Result<Checked, Trouble> {
        let at = self.at(place)?;
        let torrent = &self.torrents[at];
        if let Some(trouble) = self.missing(place) {
            return Err(trouble);
        }
        if torrent.unreachable {
            return Err(io_error(&place.data));
        }
        let is_there = |index: u32| {
            let range = torrent.range(index);
            torrent.extents.len_in(range.clone()) == range.end - range.start
        };
        let all = Have::from_fn(torrent.lengths().piece_count(), is_there);
        let stamps = torrent.stamps();
        let (have, todo) = match verified {
            Some(verified) if verified.stamps == stamps => (verified.have, verified.todo),
            // What is on record was synced before; of the rest something may have been written since.
            Some(Verified { have, .. }) if open => {
                let todo = Have::from_fn(torrent.lengths().piece_count(), |piece| {
                    !have.contains(piece) && is_there(piece)
                });
                (have, todo)
            }
            // Of files that are as they were nothing is hashed.
            Some(Verified { have, todo, stamps: old, .. }) => {
                let is_known = |piece: u32| torrent.files_of(piece).all(|file| old[file] == stamps[file]);
                let count = torrent.lengths().piece_count();
                let known = Have::from_fn(count, |piece| is_known(piece) && have.contains(piece));
                let is_due =
                    |piece: u32| if is_known(piece) { todo.contains(piece) } else { is_there(piece) };
                (known, Have::from_fn(count, is_due))
            }
            None => (Have::None, all.clone()),
        };
        let len = torrent.extents.end_in(0..torrent.lengths().total());
        let fingerprint = len.wrapping_mul(31).wrapping_add(torrent.mtime.unsigned_abs());
        let torrent = &mut self.torrents[at];
        let before = std::mem::replace(&mut torrent.verified, have.clone());
        if torrent.open {
            // Nobody else writes to it: what was right is so still.
            torrent.verified.union(&before, torrent.lengths().piece_count());
        }
        Ok(Checked { data: place.data.clone(), kept: place.kept, have, todo, all, stamps, fingerprint })
    }

    fn verify(&mut self, key: u32, place: &Place, mut pieces: Range<u32>) -> Done {
        let found = match self.at(place) {
            Ok(at) if self.torrents[at].broken => Err(io_error(&place.data)),
            found => self.missing(place).map_or(found, Err),
        };
        let at = match found {
            Ok(at) => at,
            Err(trouble) => {
                pieces.end = pieces.start;
                return Done::Verified { key, pieces, good: Vec::new(), trouble: Some(trouble) };
            }
        };
        let piece = u64::from(self.torrents[at].lengths().piece_length());
        let interrupted = !self.urgent.is_empty() || !self.usual.is_empty();
        let count = if interrupted { 1 } else { self.slice(pieces.clone(), piece) };
        pieces.end = pieces.start + count;
        let good = pieces.clone().map(|index| self.torrents[at].judge(index)).collect();
        *self.hashed.entry(at).or_default() += u64::from(count) * piece;
        Done::Verified { key, pieces, good, trouble: None }
    }

    fn fetch(
        &mut self,
        place: &Place,
        file: u32,
        path: PathBuf,
        offset: u64,
        len: u64,
    ) -> Result<(), Trouble> {
        let at = self.at(place)?;
        if let Some(trouble) = self.missing(place) {
            return Err(trouble);
        }
        let torrent = &self.torrents[at];
        if torrent.broken {
            return Err(io_error(&path));
        }
        let recorded = self.records.get(&torrent.info_hash()).and_then(|record| record.verified.as_ref());
        if self.opened.insert((at, file))
            && !torrent.open
            && recorded
                .is_some_and(|verified| verified.stamps[file as usize] != torrent.stamps()[file as usize])
        {
            return Err(Trouble::Changed(path));
        }
        self.reads += len;
        if self.small_cache {
            self.hot.extend((offset / PAGE..=(offset + len - 1) / PAGE).map(|page| (at, file, page)));
            while self.hot.len() > 8 {
                self.hot.pop_front();
            }
        }
        Ok(())
    }

    /// Reads what is in memory; the number of bytes that are.
    pub fn read(
        &self,
        torrent: usize,
        layout: &Layout,
        file: u32,
        offset: u64,
        out: &mut [u8],
        force: bool,
    ) -> usize {
        if !self.opened.contains(&(torrent, file)) || !self.torrents[torrent].there {
            return 0;
        }
        let mut there = out.len() as u64;
        if self.small_cache && !force {
            let is_hot = |page: &u64| self.hot.contains(&(torrent, file, *page));
            let hot = (offset / PAGE..).take_while(is_hot).take(3).count() as u64;
            there = there.min((hot * PAGE).saturating_sub(offset % PAGE));
        }
        let there = usize::try_from(there).expect("small");
        let of = &self.torrents[torrent];
        let start = layout.range(file).start + offset;
        of.content.read(start, &mut out[..there]);
        let range = start..start + there as u64;
        if !of.extents.is_right(range.clone()) {
            out[..there].iter_mut().for_each(|byte| *byte = !*byte);
            for (part, _) in of.extents.parts(range).filter(|(_, right)| *right) {
                let at = |offset: u64| usize::try_from(offset - start).expect("small");
                of.content.read(part.start, &mut out[at(part.start)..at(part.end)]);
            }
        }
        there
    }
}

fn io_error(path: &Path) -> Trouble {
    Trouble::Io { path: path.into(), error: Errno::IO }
}

pub fn ident(inode: u64) -> Ident {
    Ident { inode, size: 1000, mtime_secs: 1, mtime_nanos: 0, ctime: 1 }
}

//! A disk in memory with the storage thread's manners: bounded queues, one job at a time, and each takes its time.
//!
//! Content follows from the offset, so a torrent of a terabyte costs nothing. What a record says is kept as the
//! resume file does it: changes are seen at once, and written by a flush.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use meshseed::have::Have;
use meshseed::ident::Ident;
use meshseed::metainfo::{self, InfoHash, Metainfo, maker};
use meshseed::piece::Lengths;
use meshseed::storage::io::{Checked, Done, Job, LaidOut, Loaded, Place};
use meshseed::storage::resume::{Record, Stamp, Verified};
use meshseed::storage::{Layout, Trouble};
use rustix::io::Errno;

/// Bounds of the storage thread's queues.
const URGENT: usize = 256;
const USUAL: usize = 64;
/// A slice of hashing ends after this long.
const SLICE: Duration = Duration::from_millis(100);
/// What is brought into the page cache at a time.
pub const PAGE: u64 = 128 * 1024;
/// Where everything lies.
const ROOT: &str = "/mnt/disk";
/// Content repeats after so many bytes: a prime, so that no two pieces are alike.
const PERIOD: u64 = 65_521;

/// A torrent and its data.
pub struct Torrent {
    pub metainfo: Metainfo,
    pub place: Place,
    /// So many of its bytes are there, from the first on.
    pub len: u64,
    pub there: bool,
    pub mtime: i64,
    /// Pieces that are not what they should be.
    pub bad: BTreeSet<u32>,
    /// Reading its data fails.
    pub broken: bool,
    /// Looking at it fails as well.
    pub unreachable: bool,
    shift: u64,
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
    records: BTreeMap<InfoHash, Record>,
    /// As they are on the disk.
    pub written: BTreeMap<InfoHash, Record>,
    urgent: VecDeque<Job>,
    usual: VecDeque<Job>,
    hashing: VecDeque<Job>,
    under_way: [usize; 2],
    busy: Option<Job>,
    opened: HashSet<(usize, u32)>,
    hot: VecDeque<(usize, u32, u64)>,
    pattern: Vec<u8>,
    pub reads: u64,
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

    fn piece_is_right(&self, index: u32) -> bool {
        let lengths = self.lengths();
        let piece = lengths.piece(index).expect("a piece that exists");
        self.there
            && lengths.offset(piece) + u64::from(lengths.size(piece)) <= self.len
            && !self.bad.contains(&index)
    }

    fn stamps(&self) -> Box<[Stamp]> {
        let size = |file: &metainfo::File| file.length.min(self.len);
        self.metainfo
            .files
            .iter()
            .map(|file| Stamp { size: size(file), mtime_secs: self.mtime, mtime_nanos: 0 })
            .collect()
    }

    /// The byte range that should be there, as it should be.
    pub fn content(&self, disk: &Disk, offset: u64, out: &mut [u8]) {
        let (mut at, mut rest) = (usize::try_from((offset + self.shift) % PERIOD).expect("small"), out);
        while !rest.is_empty() {
            let n = rest.len().min(disk.pattern.len() - at);
            let (these, others) = rest.split_at_mut(n);
            these.copy_from_slice(&disk.pattern[at..at + n]);
            (at, rest) = (0, others);
        }
    }
}

impl Disk {
    pub fn new() -> Disk {
        let mut random = meshseed::random::Random::new(7);
        Disk {
            torrents: Vec::new(),
            by_path: HashMap::new(),
            root_there: true,
            hung: false,
            no_descriptors: false,
            small_cache: false,
            speed: 50 << 20,
            records: BTreeMap::new(),
            written: BTreeMap::new(),
            urgent: VecDeque::new(),
            usual: VecDeque::new(),
            hashing: VecDeque::new(),
            under_way: [0; 2],
            busy: None,
            opened: HashSet::new(),
            hot: VecDeque::new(),
            pattern: (0..PERIOD).map(|_| random.draw().to_le_bytes()[3]).collect(),
            reads: 0,
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
            names: if files.len() == 1 { Vec::new() } else { vec![format!("file {n:03}")] },
            length,
            modified: (0, 0),
        };
        let plan = maker::plan(name, files.iter().enumerate().map(entry).collect(), Some(piece))
            .expect("a torrent that can be made");
        let mut hashes = vec![0; plan.lengths.piece_count() as usize * 20];
        hashes.iter_mut().zip(name.bytes().cycle()).for_each(|(hash, byte)| *hash = byte);
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
            len: metainfo.lengths.total(),
            metainfo,
            place,
            there: true,
            mtime: 1_000_000,
            bad: BTreeSet::new(),
            broken: false,
            unreachable: false,
            shift: at as u64 * 977,
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
        self.under_way = [0; 2];
        self.busy = None;
        self.opened.clear();
        self.hot.clear();
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
            _ => (1, USUAL),
        };
        if !matches!(job, Job::Record(_) | Job::Forget(_) | Job::Stop) {
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
            Job::Flush => 20_000,
            Job::Record(_) | Job::Forget(_) => 1,
            Job::Probe(places) => 50 * places.len() as u64,
            _ => 300,
        };
        self.busy = Some(job);
        Some(Duration::from_micros(micros.max(1)))
    }

    /// Pieces of a slice.
    fn slice(&self, pieces: std::ops::Range<u32>, piece: u64) -> u32 {
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
            Job::Check { key, info_hash, place } => {
                self.checks.extend(self.at(&place));
                let mut known = self.records.get(&info_hash).cloned().map(Box::new);
                let verified = known.as_mut().and_then(|record| record.verified.take());
                Done::Checked { key, known, result: self.compare(&place, verified) }
            }
            Job::Verify { key, place, pieces } => self.verify(key, &place, pieces),
            Job::Probe(places) => {
                let lost = places.into_iter().filter_map(|(key, place)| Some((key, self.missing(&place)?)));
                Done::Lost(lost.collect())
            }
            Job::Layout { key, place } => {
                let laid_out = |at: usize| {
                    let layout = Layout::new(&self.torrents[at].metainfo, place.data.clone());
                    Box::new(LaidOut { layout, web_seeds: Vec::new(), http_seeds: Vec::new() })
                };
                let result = match self.no_descriptors {
                    true => Err(Trouble::NoDescriptors(place.torrent.to_path_buf())),
                    false => self.at(&place).map(laid_out),
                };
                Done::LaidOut { key, result }
            }
            Job::Read { key, peer, place, file, path, offset, len, .. } => {
                let result = self.fetch(&place, file, path, offset, len).map(|()| None);
                Done::Read { key, peer, file, result }
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
            Job::Forget(info_hash) => {
                self.records.remove(&info_hash);
                return None;
            }
            // Nothing is fetched here.
            Job::Prepare { .. } | Job::Write(_) | Job::Save { .. } | Job::Disk(_) | Job::Stop => return None,
        };
        let queue = usize::from(!matches!(done, Done::Read { .. } | Done::LaidOut { .. }));
        self.under_way[queue] -= 1;
        Some(done)
    }

    fn take_record(&mut self, mut record: Record) {
        self.records_taken += 1;
        if record.verified.is_none()
            && let Some(old) = self.records.get(&record.info_hash)
        {
            record.verified = old.verified.clone();
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

    fn compare(&self, place: &Place, verified: Option<Verified>) -> Result<Checked, Trouble> {
        let torrent = &self.torrents[self.at(place)?];
        if let Some(trouble) = self.missing(place) {
            return Err(trouble);
        }
        if torrent.unreachable {
            return Err(io_error(&place.data));
        }
        let count = torrent.lengths().piece_count();
        let piece = u64::from(torrent.lengths().piece_length());
        let whole =
            |index: u32| (u64::from(index) * piece + piece).min(torrent.lengths().total()) <= torrent.len;
        let all = Have::from_fn(count, whole);
        let stamps = torrent.stamps();
        let (have, todo) = match verified {
            Some(verified) if verified.stamps == stamps => (verified.have, verified.todo),
            _ => (Have::None, all.clone()),
        };
        let fingerprint = torrent.len.wrapping_mul(31).wrapping_add(torrent.mtime.unsigned_abs());
        Ok(Checked { data: place.data.clone(), kept: place.kept, have, todo, all, stamps, fingerprint })
    }

    fn verify(&mut self, key: u32, place: &Place, mut pieces: std::ops::Range<u32>) -> Done {
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
        let torrent = &self.torrents[at];
        let piece = u64::from(torrent.lengths().piece_length());
        let interrupted = !self.urgent.is_empty() || !self.usual.is_empty();
        let count = if interrupted { 1 } else { self.slice(pieces.clone(), piece) };
        pieces.end = pieces.start + count;
        let good = pieces.clone().map(|index| torrent.piece_is_right(index)).collect();
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
            && recorded.is_some_and(|verified| verified.stamps != torrent.stamps())
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
        if !self.opened.contains(&(torrent, file)) {
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
        of.content(self, start, &mut out[..there]);
        if !of.bad.is_empty() {
            for (at, byte) in (start..).zip(&mut out[..there]) {
                let piece = u32::try_from(at / u64::from(of.lengths().piece_length())).expect("a piece");
                if of.bad.contains(&piece) {
                    *byte = !*byte;
                }
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

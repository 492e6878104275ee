//! The thread as a whole, on real files.

use super::*;
use std::fs;
use std::sync::atomic::{AtomicU32, Ordering};

/// A directory that goes with the value.
pub(crate) struct Temp(PathBuf);

impl Temp {
    pub(crate) fn new() -> Temp {
        Temp::below(std::env::temp_dir())
    }

    /// One where nothing waits for a disk, if there is such a place.
    pub(crate) fn in_memory() -> Temp {
        let memory = Path::new("/dev/shm");
        Temp::below(if memory.is_dir() { memory.into() } else { std::env::temp_dir() })
    }

    fn below(directory: PathBuf) -> Temp {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = directory.join(format!("meshseed-test-{}-{number}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        Temp(fs::canonicalize(path).unwrap())
    }

    pub(crate) fn path(&self, below: &str) -> PathBuf {
        self.0.join(below)
    }

    pub(crate) fn file(&self, below: &str, bytes: &[u8]) {
        let path = self.path(below);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    /// A file of that size that is all holes, with a byte 1 at some places.
    pub(crate) fn sparse(&self, below: &str, size: u64, ones: &[u64]) {
        use std::os::unix::fs::FileExt;
        let path = self.path(below);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let file = fs::OpenOptions::new().create(true).truncate(false).write(true).open(path).unwrap();
        file.set_len(size).unwrap();
        for &at in ones {
            file.write_all_at(&[1], at).unwrap();
        }
    }
}

impl Drop for Temp {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

use crate::have::Have;
use crate::storage::resume::{Stamp, Verified};
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, utimensat};
use sha1::{Digest, Sha1};
use std::io::IoSliceMut;
use std::os::unix::fs::symlink;

/// A thread with a torrent directory, a data root and a state directory of its own.
pub(super) struct World {
    pub(super) temp: Temp,
    pub(super) storage: Storage,
}

/// A torrent in it.
#[derive(Clone)]
pub(super) struct Torrent {
    pub(super) info_hash: InfoHash,
    pub(super) place: Place,
    pub(super) pieces: u32,
}

pub(super) fn piece_hashes(content: &[u8], piece: usize) -> Vec<u8> {
    content.chunks(piece).flat_map(|piece| Sha1::digest(piece).to_vec()).collect()
}

fn ident(path: &Path) -> Ident {
    ident_of(&tree::open_torrent(path).unwrap().1)
}

/// Sets a file's time of change.
pub(super) fn touch(path: &Path, seconds: i64, nanos: u32) {
    let time = Timespec { tv_sec: seconds, tv_nsec: nanos.into() };
    let times = Timestamps { last_access: time, last_modification: time };
    utimensat(CWD, path, &times, AtFlags::empty()).unwrap();
}

impl World {
    pub(super) fn new() -> World {
        World::within(Temp::new())
    }

    pub(super) fn within(temp: Temp) -> World {
        fs::create_dir_all(temp.path("root")).unwrap();
        let storage = Storage::start(Some(temp.path("state"))).unwrap();
        World { temp, storage }
    }

    /// The same after the daemon was killed.
    pub(super) fn restarted(self) -> World {
        let World { temp, .. } = self;
        let storage = Storage::start(Some(temp.path("state"))).unwrap();
        World { temp, storage }
    }

    pub(super) fn write_torrent(
        &self,
        name: &str,
        piece: usize,
        files: &[(&str, u64)],
        hashes: &[u8],
    ) -> Torrent {
        let mut info = b"d".to_vec();
        if let [("", length)] = files {
            info.extend(format!("6:lengthi{length}e").bytes());
        } else {
            info.extend(b"5:filesl");
            for (path, length) in files {
                info.push(b'd');
                if path.starts_with(".pad") {
                    info.extend(b"4:attr1:p");
                } else if path.ends_with(".sh") {
                    info.extend(b"4:attr1:x");
                }
                info.extend(format!("6:lengthi{length}e4:pathl").bytes());
                path.split('/').for_each(|part| info.extend(format!("{}:{part}", part.len()).bytes()));
                info.extend(b"ee");
            }
            info.push(b'e');
        }
        info.extend(format!("4:name{}:{name}12:piece lengthi{piece}e", name.len()).bytes());
        info.extend(format!("6:pieces{}:", hashes.len()).bytes());
        info.extend(hashes);
        info.push(b'e');
        let path = self.temp.path(&format!("torrents/{name}.torrent"));
        self.temp.file(&format!("torrents/{name}.torrent"), &[b"d4:info", &info[..], b"e"].concat());
        let place = Place {
            ident: ident(&path),
            torrent: path.into(),
            data: self.temp.path(&format!("root/{name}")).into(),
            other: None,
            root: self.temp.path("root").into(),
            kept: false,
            sidecar: false,
        };
        let pieces = u32::try_from(hashes.len() / 20).unwrap();
        Torrent { info_hash: InfoHash::of(&info), place, pieces }
    }

    /// A torrent and its data.
    pub(super) fn torrent(&self, name: &str, piece: usize, files: &[(&str, &[u8])]) -> Torrent {
        let content: Vec<u8> = files.iter().flat_map(|(_, bytes)| bytes.to_vec()).collect();
        for (path, bytes) in
            files.iter().filter(|(path, bytes)| !path.starts_with(".pad") && !bytes.is_empty())
        {
            self.temp.file(format!("root/{name}/{path}").trim_end_matches('/'), bytes);
        }
        let lengths: Vec<_> = files.iter().map(|&(path, bytes)| (path, bytes.len() as u64)).collect();
        self.write_torrent(name, piece, &lengths, &piece_hashes(&content, piece))
    }

    pub(super) fn ask(&self, job: Job) -> Done {
        self.storage.try_submit(job).unwrap();
        smol::block_on(self.storage.next())
    }

    pub(super) fn check_with(&self, torrent: &Torrent) -> (Option<Box<Record>>, Result<Checked, Trouble>) {
        let (info_hash, place) = (torrent.info_hash, torrent.place.clone());
        let Done::Checked { key: 1, known, result } = self.ask(Job::Check { key: 1, info_hash, place })
        else {
            panic!("another answer")
        };
        (known.unwrap(), result)
    }

    pub(super) fn check(&self, torrent: &Torrent) -> Result<Checked, Trouble> {
        self.check_with(torrent).1
    }

    pub(super) fn verify(&self, torrent: &Torrent, pieces: Range<u32>) -> (Vec<bool>, Option<Trouble>) {
        let (mut all, mut next) = (Vec::new(), pieces.start);
        while next < pieces.end {
            let job = Job::Verify { key: 1, place: torrent.place.clone(), pieces: next..pieces.end };
            let Done::Verified { key: 1, pieces: done, good, trouble } = self.ask(job) else {
                panic!("another answer")
            };
            assert_eq!((done.start, done.len()), (next, good.len()));
            all.extend(good);
            if trouble.is_some() {
                return (all, trouble);
            }
            assert!(!done.is_empty());
            next = done.end;
        }
        (all, None)
    }

    pub(super) fn record(&self, torrent: &Torrent, checked: &Checked, have: Have, todo: Have) {
        let verified = Verified { pieces: torrent.pieces, have, todo, stamps: checked.stamps.clone() };
        let mut record = Record::new(torrent.info_hash);
        record.complete = true;
        record.verified = Some(verified);
        self.storage.try_submit(Job::Record(Box::new(record))).unwrap();
    }

    /// Checks, hashes what must be, and puts it on record.
    pub(super) fn settle(&self, torrent: &Torrent) -> Have {
        let checked = self.check(torrent).unwrap();
        let mut have = checked.have.clone();
        for piece in (0..torrent.pieces).filter(|&piece| checked.todo.contains(piece)) {
            if self.verify(torrent, piece..piece + 1) == (vec![true], None) {
                have.insert(piece, torrent.pieces);
            }
        }
        self.record(torrent, &checked, have.clone(), Have::None);
        let Done::Flushed(Ok(())) = self.ask(Job::Flush) else { panic!("not flushed") };
        have
    }

    pub(super) fn read(
        &self,
        torrent: &Torrent,
        path: &str,
        file: u32,
        at: u64,
        len: u64,
    ) -> Result<OpenFile, Trouble> {
        let job = Job::Read {
            key: 1,
            peer: 9,
            info_hash: torrent.info_hash,
            place: torrent.place.clone(),
            file,
            path: if path.is_empty() {
                torrent.place.data.to_path_buf()
            } else {
                torrent.place.data.join(path)
            },
            offset: at,
            len,
            ahead: 0,
            fd: None,
        };
        let Done::Read { key: 1, peer: 9, result, .. } = self.ask(job) else { panic!("another answer") };
        result.map(|open| open.unwrap())
    }
}

pub(super) fn numbers(have: &Have, pieces: u32) -> Vec<u32> {
    (0..pieces).filter(|&piece| have.contains(piece)).collect()
}

#[test]
fn a_torrent_is_hashed_once_and_after_a_restart_not_at_all() {
    let world = World::new();
    let torrent = world.torrent("t", 10, &[("a", b"0123456789012"), ("sub/b", b"hello"), ("empty", b"")]);
    let (known, checked) = world.check_with(&torrent);
    let checked = checked.unwrap();
    assert_eq!((known, &checked.have, &checked.todo), (None, &Have::None, &Have::All));
    assert_eq!(checked.stamps[2], Stamp::ABSENT);
    assert_eq!(world.settle(&torrent), Have::All);
    let world = world.restarted();
    let (known, again) = world.check_with(&torrent);
    let again = again.unwrap();
    assert_eq!((&again.have, &again.todo, &again.all), (&Have::All, &Have::None, &Have::All));
    assert_eq!(again.fingerprint, checked.fingerprint);
    let known = known.unwrap();
    assert!(known.complete && known.verified.is_none());
    assert!(!world.temp.path("root/t/empty").exists());
}

#[test]
fn only_pieces_that_touch_a_changed_file_are_hashed_again() {
    let world = World::new();
    let torrent = world.torrent("t", 10, &[("a", &[1; 25]), ("b", &[2; 10]), ("c", &[3; 30])]);
    assert_eq!((world.settle(&torrent), torrent.pieces), (Have::All, 7));
    touch(&world.temp.path("root/t/b"), 5, 0);
    let checked = world.check(&torrent).unwrap();
    assert_eq!(numbers(&checked.todo, 7), [2, 3]);
    assert_eq!(numbers(&checked.have, 7), [0, 1, 4, 5, 6]);
    assert_eq!(checked.all, Have::All);
    world.temp.file("root/t/c", &[3; 29]);
    touch(&world.temp.path("root/t/b"), 6, 0);
    let checked = world.check(&torrent).unwrap();
    assert_eq!(numbers(&checked.have, 7), [0, 1]);
    assert_eq!(numbers(&checked.todo, 7), [2, 3, 4, 5], "the last piece is not all there");
    assert_eq!(numbers(&checked.all, 7), [0, 1, 2, 3, 4, 5]);
    fs::remove_file(world.temp.path("root/t/a")).unwrap();
    let checked = world.check(&torrent).unwrap();
    assert_eq!((numbers(&checked.have, 7), numbers(&checked.todo, 7)), (vec![], vec![3, 4, 5]));
    assert_eq!(numbers(&world.settle(&torrent), 7), [3, 4, 5]);
    let checked = world.restarted().check(&torrent).unwrap();
    assert_eq!((numbers(&checked.have, 7), checked.todo), (vec![3, 4, 5], Have::None));
}

#[test]
fn times_are_compared_to_the_nanosecond_and_may_be_of_1970_or_of_the_future() {
    let world = World::new();
    let torrent = world.torrent("t", 16, &[("", &[7; 40])]);
    for (seconds, nanos) in [(0, 0), (4_100_000_000, 999_999_999), (4_100_000_000, 999_999_998), (-5, 1)] {
        touch(&world.temp.path("root/t"), seconds, nanos);
        assert_eq!(world.check(&torrent).unwrap().todo, Have::All, "{seconds}.{nanos}");
        assert_eq!(world.settle(&torrent), Have::All);
        assert_eq!(world.check(&torrent).unwrap().todo, Have::None);
    }
}

#[test]
fn wrong_and_missing_bytes_are_found_and_are_no_trouble() {
    let world = World::new();
    let torrent = world.torrent("t", 10, &[("a", &[1; 30]), (".pad/2", &[0; 10]), ("b", &[2; 20])]);
    world.temp.file("root/t/a", &[&[1; 15][..], &[9], &[1; 14]].concat());
    fs::remove_file(world.temp.path("root/t/b")).unwrap();
    assert_eq!(world.verify(&torrent, 0..6), (vec![true, false, true, true, false, false], None));
    world.temp.file("root/t/b", &[2; 15]);
    assert_eq!(world.verify(&torrent, 0..6).0, [true, false, true, true, true, false]);
    assert_eq!(world.verify(&torrent, 5..6), (vec![false], None));
}

#[test]
fn a_check_cut_short_goes_on_where_it_stopped() {
    let world = World::new();
    let torrent = world.torrent("t", 10, &[("a", &[1; 60])]);
    let checked = world.check(&torrent).unwrap();
    let (have, todo) = (Have::from_fn(6, |piece| piece < 2), Have::from_fn(6, |piece| piece > 2));
    world.record(&torrent, &checked, have.clone(), todo.clone());
    world.ask(Job::Flush);
    let checked = world.restarted().check(&torrent).unwrap();
    assert_eq!((checked.have, checked.todo), (have, todo));
}

#[test]
fn a_missing_disk_is_told_from_missing_data() {
    let world = World::new();
    let torrent = world.torrent("t", 10, &[("a", &[1; 60])]);
    let place = (1, torrent.place.clone());
    let lost = |world: &World| match world.ask(Job::Probe(vec![place.clone()])) {
        Done::Lost(lost) => lost.into_iter().map(|(_, trouble)| trouble).next(),
        _ => panic!("another answer"),
    };
    assert_eq!(lost(&world), None);
    let (root, data) = (world.temp.path("root"), world.temp.path("root/t"));
    fs::rename(&data, world.temp.path("away")).unwrap();
    assert_eq!(world.check(&torrent), Err(Trouble::DataMissing(data.clone())), "it never was there");
    fs::rename(world.temp.path("away"), &data).unwrap();
    world.settle(&torrent);
    fs::rename(&data, world.temp.path("away")).unwrap();
    let (known, result) = world.check_with(&torrent);
    assert!(known.unwrap().complete);
    assert_eq!(result, Err(Trouble::EmptyMount(root.clone())));
    assert_eq!(lost(&world), Some(Trouble::EmptyMount(root.clone())));
    assert_eq!(world.verify(&torrent, 0..3), (vec![], Some(Trouble::EmptyMount(root.clone()))));
    assert_eq!(world.read(&torrent, "a", 0, 0, 1).unwrap_err(), Trouble::EmptyMount(root.clone()));
    world.temp.file("root/other", b"");
    assert_eq!(world.check(&torrent), Err(Trouble::DataMissing(data.clone())));
    fs::remove_dir_all(&root).unwrap();
    assert_eq!(world.check(&torrent), Err(Trouble::RootAbsent(root.clone())));
    assert_eq!(lost(&world), Some(Trouble::RootAbsent(root.clone())));
    assert_eq!(world.verify(&torrent, 0..3), (vec![], Some(Trouble::RootAbsent(root.clone()))));
    fs::create_dir(&root).unwrap();
    fs::rename(world.temp.path("away"), &data).unwrap();
    assert_eq!(world.check(&torrent).unwrap().have, Have::All, "the disk is back and nothing is hashed");
}

#[test]
fn data_unplugged_in_the_midst_of_a_check_is_trouble_and_not_wrong_pieces() {
    let world = World::new();
    let torrent = world.torrent("t", 10, &[("a", &[1; 20]), ("b", &[2; 20])]);
    assert_eq!(world.verify(&torrent, 0..2), (vec![true, true], None));
    fs::rename(world.temp.path("root"), world.temp.path("away")).unwrap();
    let (good, trouble) = world.verify(&torrent, 2..4);
    // The folder may still be at hand, as it is after a lazy unmount: then the bytes are the right ones.
    assert!(good.iter().all(|&good| good) && (trouble.is_some() || good.len() == 2), "{good:?} {trouble:?}");
}

#[test]
fn another_torrent_in_the_place_of_the_one_loaded_is_noticed() {
    let world = World::new();
    let torrent = world.torrent("t", 10, &[("a", &[1; 60])]);
    let changed = || Err(Trouble::TorrentChanged);
    let layout = |torrent: &Torrent| match world.ask(Job::Layout { key: 1, place: torrent.place.clone() }) {
        Done::LaidOut { result, .. } => result.map(|laid_out| laid_out.layout.path(0)),
        _ => panic!("another answer"),
    };
    assert_eq!(layout(&torrent), Ok(world.temp.path("root/t/a")));
    assert_eq!(world.verify(&torrent, 0..1).1, None);
    let stranger = Torrent { info_hash: InfoHash::from_bytes([1; 20]), ..torrent.clone() };
    assert_eq!(world.check(&stranger).map(|_| ()), changed());
    touch(&torrent.place.torrent, 77, 0);
    assert_eq!(world.check(&torrent).map(|_| ()), changed());
    assert_eq!(layout(&torrent).map(|_| ()), changed());
    assert_eq!(world.verify(&torrent, 0..1), (vec![], Some(Trouble::TorrentChanged)), "though it was open");
    fs::remove_file(&torrent.place.torrent).unwrap();
    assert_eq!(world.check(&torrent).map(|_| ()), changed());
}

#[test]
fn what_a_peer_asks_for_is_brought_into_memory_and_a_changed_file_is_not_served() {
    let world = World::new();
    let content: Vec<u8> = (0..200_000u32).map(|n| n.to_le_bytes()[1]).collect();
    let torrent = world.torrent("t", 65_536, &[("a", &content), ("b", &[2; 10])]);
    world.settle(&torrent);
    let open = world.read(&torrent, "a", 0, 1000, 131_072).unwrap();
    let mut bytes = vec![0; 131_072];
    assert_eq!(open.read_warmed(&mut [IoSliceMut::new(&mut bytes)], 1000).unwrap(), bytes.len());
    assert_eq!(bytes, content[1000..132_072]);
    assert_eq!(
        world.read(&torrent, "a", 0, 199_999, 2).unwrap_err(),
        Trouble::Changed(world.temp.path("root/t/a"))
    );
    let fd = Some(Arc::new(open));
    touch(&world.temp.path("root/t/a"), 5, 5);
    let changed = Trouble::Changed(world.temp.path("root/t/a"));
    assert_eq!(world.read(&torrent, "a", 0, 0, 1).unwrap_err(), changed);
    let path = world.temp.path("root/t/a");
    let (info_hash, place) = (torrent.info_hash, torrent.place.clone());
    let job = Job::Read { key: 1, peer: 9, info_hash, place, file: 0, path, offset: 0, len: 1, ahead: 0, fd };
    let Done::Read { result, .. } = world.ask(job) else { panic!("another answer") };
    assert_eq!(result.map(|_| ()), Err(changed));
    assert!(world.read(&torrent, "b", 1, 0, 10).is_ok());
    fs::remove_file(world.temp.path("root/t/b")).unwrap();
    symlink(world.temp.path("torrents/t.torrent"), world.temp.path("root/t/b")).unwrap();
    assert_eq!(
        world.read(&torrent, "b", 1, 0, 10).unwrap_err(),
        Trouble::Outside(world.temp.path("root/t/b"))
    );
}

#[test]
fn a_file_above_four_gibibytes_is_hashed_and_read_at_its_end() {
    let world = World::new();
    let (size, piece) = (5u64 << 30, 1usize << 20);
    let mut hashes = vec![0; 5120 * 20];
    let mut last = vec![0; piece];
    last[piece - 3] = 1;
    hashes[5119 * 20..].copy_from_slice(&Sha1::digest(&last));
    let torrent = world.write_torrent("t", piece, &[("", size)], &hashes);
    world.temp.sparse("root/t", size, &[size - 3]);
    assert_eq!(world.verify(&torrent, 5118..5120), (vec![false, true], None));
    let open = world.read(&torrent, "", 0, size - 4, 4).unwrap();
    let mut bytes = [9; 8];
    assert_eq!(open.read_warmed(&mut [IoSliceMut::new(&mut bytes)], size - 4).unwrap(), 4);
    assert_eq!(bytes[..4], [0, 1, 0, 0]);
    assert_eq!(world.check(&torrent).unwrap().stamps[0].size, size);
}

#[test]
fn a_peer_and_a_small_torrent_do_not_wait_behind_a_big_one() {
    let world = World::new();
    let piece = 64 << 20;
    let big = world.write_torrent("big", piece, &[("", 100 * piece as u64)], &[0; 2000]);
    world.temp.sparse("root/big", 100 * piece as u64, &[]);
    let small = world.torrent("small", 10, &[("", &[3; 35])]);
    let submit = |job| world.storage.try_submit(job).unwrap();
    submit(Job::Verify { key: 1, place: big.place.clone(), pieces: 0..100 });
    // Once its first piece is under way.
    while !world.storage.shared.lock().hashing.is_empty() {
        std::thread::yield_now();
    }
    submit(Job::Verify { key: 2, place: small.place.clone(), pieces: 0..4 });
    submit(Job::Check { key: 2, info_hash: small.info_hash, place: small.place.clone() });
    submit(Job::Layout { key: 2, place: small.place.clone() });
    let next = || smol::block_on(world.storage.next());
    assert!(matches!(next(), Done::LaidOut { key: 2, .. }), "inside the piece");
    let Done::Verified { key: 1, pieces, good, trouble: None } = next() else { panic!("another answer") };
    assert_eq!((pieces, good.len()), (0..1, 1), "after the piece");
    assert!(matches!(next(), Done::Checked { key: 2, result: Ok(_), .. }));
    assert!(matches!(next(), Done::Verified { key: 2, pieces: Range { start: 0, end: 4 }, .. }));
}

#[test]
fn too_many_jobs_are_refused_and_records_never_are() {
    let world = World::new();
    let torrent = world.torrent("t", 10, &[("a", &[1; 60])]);
    let check = || Job::Check { key: 1, info_hash: torrent.info_hash, place: torrent.place.clone() };
    let layout = || Job::Layout { key: 1, place: torrent.place.clone() };
    for _ in 0..USUAL {
        world.storage.try_submit(check()).unwrap();
    }
    assert!(matches!(world.storage.try_submit(check()), Err(Job::Check { .. })));
    let left = || [torrent.info_hash].into();
    world.storage.try_submit(Job::Left { left: left(), there: left() }).unwrap();
    for _ in 0..URGENT {
        world.storage.try_submit(layout()).unwrap();
    }
    assert!(world.storage.try_submit(layout()).is_err());
    for _ in 0..USUAL + URGENT {
        smol::block_on(world.storage.next());
    }
    assert!(world.storage.try_next().is_none());
    world.storage.try_submit(check()).unwrap();
}

#[test]
fn a_torrent_is_loaded_with_its_sidecar_and_refused_with_a_reason() {
    let world = World::new();
    let torrent = world.torrent("t", 10, &[("a", &[1; 60])]);
    let load = |path: &Path| match world.ask(Job::Load { path: path.into() }) {
        Done::Loaded { ident, result, .. } => (ident, result.map(|loaded| (loaded.summary, loaded.sidecar))),
        _ => panic!("another answer"),
    };
    let (found, result) = load(&torrent.place.torrent);
    assert!(found.matches(&torrent.place.ident));
    let (summary, sidecar) = result.unwrap();
    assert_eq!((summary.info_hash, sidecar), (torrent.info_hash, None));
    world.temp.file("torrents/t.where", b"/srv/elsewhere/t\n");
    assert_eq!(load(&torrent.place.torrent).1.unwrap().1, Some("/srv/elsewhere/t".into()));
    for bad in [&b"relative/path\n"[..], b"", b"/a\n/b\n", &[b'/'; 5000]] {
        world.temp.file("torrents/t.where", bad);
        assert!(load(&torrent.place.torrent).1.unwrap_err().contains("t.where"));
    }
    for (bytes, reason) in [(&b"d4:info"[..], ""), (b"", "")] {
        world.temp.file("torrents/bad.torrent", bytes);
        let (found, result) = load(&world.temp.path("torrents/bad.torrent"));
        assert!(found.size == bytes.len() as u64 && result.unwrap_err().contains(reason));
    }
    world.temp.sparse("torrents/huge.torrent", 17 << 20, &[]);
    assert!(load(&world.temp.path("torrents/huge.torrent")).1.unwrap_err().contains("16 MiB"));
    rustix::fs::mknodat(
        CWD,
        world.temp.path("torrents/fifo.torrent"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR,
        0,
    )
    .unwrap();
    assert!(load(&world.temp.path("torrents/fifo.torrent")).1.unwrap_err().contains("regular"));
    assert_eq!(load(&world.temp.path("torrents/gone.torrent")).0.size, 0);
}

#[test]
fn a_file_is_the_same_whether_it_was_listed_or_read() {
    let world = World::new();
    world.temp.file("torrents/bad.torrent", b"d4:info");
    let roots = Arc::new([world.temp.path("torrents")]);
    let Done::Scanned(Some(listing)) = world.ask(Job::Scan { roots, known: 0 }) else { panic!("no listing") };
    let (path, listed) = listing.files[0].clone();
    let Done::Loaded { ident, .. } = world.ask(Job::Load { path }) else { panic!("another answer") };
    // Else a file that was refused would be read again, and warned about, with every change around it.
    assert!(ident.matches(&listed) && ident.ctime == listed.ctime);
}

#[test]
fn a_renamed_torrent_keeps_its_data_path_and_a_sidecar_overrides_it() {
    let world = World::new();
    let mut torrent = world.torrent("t", 10, &[("a", &[1; 60])]);
    let old = torrent.place.data.clone();
    let checked = world.check(&torrent).unwrap();
    let mut record = Record::new(torrent.info_hash);
    record.data = Some(old.clone());
    record.verified =
        Some(Verified { pieces: 6, have: Have::All, todo: Have::None, stamps: checked.stamps.clone() });
    world.storage.try_submit(Job::Record(Box::new(record))).unwrap();
    let bare = Record { uploaded: 5, ..Record::new(torrent.info_hash) };
    world.storage.try_submit(Job::Record(Box::new(bare))).unwrap();
    torrent.place.data = world.temp.path("root/renamed").into();
    let (known, checked) = world.check_with(&torrent);
    let checked = checked.unwrap();
    assert_eq!((checked.data, checked.kept, checked.have), (old.clone(), true, Have::All));
    assert_eq!(known.unwrap().uploaded, 5);
    torrent.place.sidecar = true;
    assert_eq!(world.check(&torrent), Err(Trouble::DataMissing(world.temp.path("root/renamed"))));
    torrent.place.sidecar = false;
    fs::rename(&old, world.temp.path("root/renamed")).unwrap();
    let checked = world.check(&torrent).unwrap();
    assert_eq!((checked.data, checked.kept, checked.have), (torrent.place.data.clone(), false, Have::All));
    fs::rename(world.temp.path("root/renamed"), world.temp.path("root/third")).unwrap();
    assert!(matches!(world.check(&torrent), Err(Trouble::DataMissing(_))), "neither path has it");
    torrent.place.other = Some(world.temp.path("root/third").into());
    assert_eq!(world.check(&torrent).unwrap().data, torrent.place.other.unwrap());
}

#[test]
fn what_a_sidecar_says_was_hashed_is_not_hashed_again_while_the_files_are_the_same() {
    let world = World::new();
    let mut torrent = world.torrent("t", 10, &[("a", &[1; 30]), (".pad/10", &[0; 10]), ("b", &[2; 20])]);
    let sidecar = torrent.place.torrent.with_extension("where");
    let data = torrent.place.data.to_string_lossy().into_owned();
    let stamps = world.check(&torrent).unwrap().stamps;
    let hint = hashed(&torrent.info_hash, &stamps);
    torrent.place.sidecar = true;
    for (text, trusted) in [
        (format!("{data}\n"), false),
        (format!("{data}\n{hint}\n"), true),
        (format!("{data}\n{}\n", hashed(&InfoHash::of(b"another"), &stamps)), false),
        (format!("{data}\nhashed \n"), false),
    ] {
        fs::write(&sidecar, &text).unwrap();
        assert_eq!(super::sidecar(&torrent.place.torrent), Ok(Some(data.clone().into())), "{text}");
        let checked = world.check(&torrent).unwrap();
        let all = |whole| if whole { Have::All } else { Have::None };
        assert_eq!((checked.have, checked.todo), (all(trusted), all(!trusted)), "{text}");
    }
    fs::write(&sidecar, format!("{data}\n{hint}\n")).unwrap();
    world.temp.file("root/t/b", &[2; 21]);
    assert_eq!(world.check(&torrent).unwrap().have, Have::None, "a file has changed since");
    torrent.place.sidecar = false;
    for text in [format!("{data}\n{data}\n"), format!("{data}\n{hint}\n{hint}\n"), format!("{data}\n\n")] {
        fs::write(&sidecar, &text).unwrap();
        assert!(super::sidecar(&torrent.place.torrent).is_err(), "{text}");
    }
}

#[test]
fn a_state_directory_that_cannot_be_made_leaves_everything_else_working() {
    let world = World::new();
    world.temp.file("state", b"not a directory");
    let world = world.restarted();
    let torrent = world.torrent("t", 10, &[("a", &[1; 60])]);
    let checked = world.check(&torrent).unwrap();
    assert_eq!(world.verify(&torrent, 0..6).0, [true; 6]);
    world.record(&torrent, &checked, Have::All, Have::None);
    assert!(matches!(world.ask(Job::Flush), Done::Flushed(Err(_))));
    assert_eq!(world.check(&torrent).unwrap().have, Have::All, "remembered as long as it runs");
}

#[test]
fn the_thread_lets_go_of_everything_and_ends_when_asked() {
    let world = World::new();
    let torrent = world.torrent("t", 10, &[("a", &[1; 60])]);
    world.settle(&torrent);
    let shared = Arc::downgrade(&world.storage.shared);
    drop(world);
    let started = Instant::now();
    while shared.upgrade().is_some() {
        assert!(started.elapsed() < Duration::from_secs(10));
        std::thread::yield_now();
    }
}

#[test]
fn what_was_hashed_is_closed_soon_also_where_there_is_always_something_to_do() {
    let world = World::new();
    let torrent = world.torrent("t", 10, &[("a", &[1; 60])]);
    let is_open = || {
        let ours = fs::read_dir("/proc/self/fd").unwrap().map(|entry| fs::read_link(entry.unwrap().path()));
        ours.flatten().any(|path| path.starts_with(world.temp.path("root")))
    };
    world.check(&torrent).unwrap();
    assert_eq!(world.verify(&torrent, 0..6).0, [true; 6]);
    assert!(is_open(), "the next slice may follow");
    let started = Instant::now();
    while is_open() {
        assert!(started.elapsed() < Duration::from_secs(10), "its disk cannot be unmounted");
        world.ask(Job::Probe(Vec::new()));
        std::thread::sleep(Duration::from_millis(100));
    }
}

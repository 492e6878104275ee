//! Torrents that are fetched, on real files.

use super::super::fault::tests::Faults;
use super::super::tests::{Temp, Torrent, World, numbers, piece_hashes, touch};
use super::super::{Batch, Done, Job, Storage};
use super::*;
use crate::config::RequireMount;
use crate::have::Have;
use crate::storage::intake::{Filled, Intake};
use crate::storage::resume::Verified;
use rustix::fs::{Mode, OFlags};
use sha1::{Digest, Sha1};
use std::fs;
use std::io::IoSliceMut;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::PathBuf;
use std::sync::Arc;

const BLOCK: usize = 16 * 1024;

/// A piece of three blocks, the last of which is short.
const PIECE: usize = 2 * BLOCK + 100;

/// A stretch of a piece: its number, first byte and length.
type Stretch = (u32, usize, usize);

/// A torrent of which only the .torrent is here, and all that peers could send of it.
struct Swarm {
    torrent: Torrent,
    key: u32,
    content: Vec<u8>,
    files: Vec<(String, usize)>,
    /// For each piece the bytes that are received.
    received: Vec<Vec<bool>>,
    digests: bool,
}

/// Numbers that are the same each time.
struct Dice(u32);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (self.0 >> 8) as usize % sides
    }

    fn shuffle<T>(&mut self, items: &mut [T]) {
        for at in (1..items.len()).rev() {
            items.swap(at, self.roll(at + 1));
        }
    }
}

impl Swarm {
    fn new(world: &World, key: u32, name: &str, files: &[(&str, usize)]) -> Swarm {
        let mut dice = Dice(key);
        let mut content = Vec::new();
        for &(path, len) in files {
            let pad = path.starts_with(".pad");
            content.extend((0..len).map(|_| if pad { 0 } else { u8::try_from(dice.roll(255)).unwrap() + 1 }));
        }
        let lengths: Vec<_> = files.iter().map(|&(path, len)| (path, len as u64)).collect();
        let torrent = world.write_torrent(name, PIECE, &lengths, &piece_hashes(&content, PIECE));
        let files = files.iter().map(|&(path, len)| (path.to_owned(), len)).collect();
        let received = content.chunks(PIECE).map(|piece| vec![false; piece.len()]).collect();
        Swarm { torrent, key, content, files, received, digests: false }
    }

    fn blocks(&self) -> Vec<Stretch> {
        self.blocks_of(0..u32::try_from(self.received.len()).unwrap())
    }

    fn blocks_of(&self, pieces: std::ops::Range<u32>) -> Vec<Stretch> {
        let of = |piece: u32| {
            let size = self.received[piece as usize].len();
            (0..size).step_by(BLOCK).map(move |begin| (piece, begin, BLOCK.min(size - begin)))
        };
        pieces.flat_map(of).collect()
    }

    fn bytes(&self, (piece, begin, len): Stretch) -> &[u8] {
        let at = piece as usize * PIECE + begin;
        &self.content[at..at + len]
    }

    /// What the storage thread is told of the pieces of those stretches, once they are received.
    fn target(&mut self, stretches: &[Stretch]) -> Target {
        for &(piece, begin, len) in stretches {
            self.received[piece as usize][begin..begin + len].fill(true);
        }
        let mut pieces: Vec<u32> = stretches.iter().map(|stretch| stretch.0).collect();
        pieces.sort_unstable();
        pieces.dedup();
        let progress = |piece: u32| {
            let received = &self.received[piece as usize];
            let ready = received.iter().position(|&received| !received).unwrap_or(received.len());
            Progress { piece, ready: u32::try_from(ready).unwrap(), digests: self.digests }
        };
        Target {
            key: self.key,
            info_hash: self.torrent.info_hash,
            place: self.torrent.place.clone(),
            pieces: pieces.into_iter().map(progress).collect(),
        }
    }

    fn path(&self, path: &str) -> PathBuf {
        if path.is_empty() {
            self.torrent.place.data.to_path_buf()
        } else {
            self.torrent.place.data.join(path)
        }
    }

    /// Whether the files hold the right bytes of a piece.
    fn is_on_disk(&self, piece: u32) -> bool {
        let (start, end) = (piece as usize * PIECE, (piece as usize * PIECE + PIECE).min(self.content.len()));
        let mut at = 0;
        self.files.iter().all(|(path, len)| {
            let len = *len;
            let (from, to) = (start.max(at), end.min(at + len));
            let first = at;
            at += len;
            path.starts_with(".pad")
                || from >= to
                || fs::read(self.path(path))
                    .is_ok_and(|bytes| bytes.get(from - first..to - first) == Some(&self.content[from..to]))
        })
    }

    fn record(&self, have: Have) -> Record {
        let verified =
            Verified { pieces: self.torrent.pieces, have, todo: Have::None, stamps: Box::default() };
        Record { verified: Some(verified), ..Record::new(self.torrent.info_hash) }
    }
}

/// A buffer as sockets fill it: each stretch behind a header, cut in two here and there, with other things between.
fn filled(parts: &[(u32, Stretch, &[u8])], dice: &mut Dice) -> Filled {
    let mut intake = Intake::new(1);
    for &(key, (piece, begin, _), bytes) in parts {
        let cut = dice.roll(bytes.len() + 1);
        let (junk, begin) = (dice.roll(3) * 13, u32::try_from(begin).unwrap());
        for (begin, bytes) in [(begin, &bytes[..cut]), (begin + u32::try_from(cut).unwrap(), &bytes[cut..])] {
            let (place, mut keeper) = intake.begin().expect("a batch fits one buffer");
            place[junk..junk + bytes.len()].copy_from_slice(bytes);
            keeper.keep(key, piece, begin, junk, bytes.len());
        }
    }
    intake.take().unwrap_or(Filled { bytes: Box::default(), writes: Vec::new() })
}

impl World {
    fn prepare(&self, swarm: &Swarm) -> Result<Prepared, Trouble> {
        let (info_hash, place) = (swarm.torrent.info_hash, swarm.torrent.place.clone());
        match self.ask(Job::Prepare { key: swarm.key, info_hash, place }) {
            Done::Prepared { key, result } if key == swarm.key => result,
            done => panic!("another answer: {done:?}"),
        }
    }

    fn write(&self, batch: Batch) -> Vec<Outcome> {
        match self.ask(Job::Write(Box::new(batch))) {
            Done::Wrote { outcomes, .. } => outcomes,
            done => panic!("another answer: {done:?}"),
        }
    }

    /// Some stretches of one torrent arrive.
    fn receive(&self, swarm: &mut Swarm, stretches: &[Stretch]) -> Outcome {
        let parts: Vec<_> = stretches.iter().map(|&part| (swarm.key, part, swarm.bytes(part))).collect();
        let filled = filled(&parts, &mut Dice(7));
        let batch = Batch { filled, targets: vec![swarm.target(stretches)] };
        self.write(batch).remove(0)
    }

    /// All blocks of some pieces arrive.
    fn fetch(&self, swarm: &mut Swarm, pieces: std::ops::Range<u32>) -> Outcome {
        let blocks = swarm.blocks_of(pieces);
        self.receive(swarm, &blocks)
    }

    fn save(&self, swarm: &Swarm, have: Have, open: bool) -> Result<(), Trouble> {
        let (place, record) = (swarm.torrent.place.clone(), Box::new(swarm.record(have)));
        match self.ask(Job::Save { key: swarm.key, place, record, open }) {
            Done::Saved { key, result } if key == swarm.key => result,
            done => panic!("another answer: {done:?}"),
        }
    }

    fn flush(&self) {
        let Done::Flushed(Ok(())) = self.ask(Job::Flush) else { panic!("not flushed") };
    }

    fn set_disk(&self, disk: Disk) {
        self.storage.try_submit(Job::Disk(disk)).unwrap();
    }

    /// A world that writes wherever its directory happens to be.
    fn anywhere() -> World {
        let world = World::new();
        world.set_disk(ANYWHERE);
        world
    }
}

const ANYWHERE: Disk = Disk { free_floor: 0, preallocate: false, require_mount: RequireMount::Never };

fn good(outcome: &Outcome) -> Vec<u32> {
    assert_eq!(outcome.trouble, None);
    outcome.hashed.iter().filter(|hashed| hashed.good).map(|hashed| hashed.piece).collect()
}

#[test]
fn blocks_that_come_in_any_order_become_files_under_their_own_names() {
    let world = World::anywhere();
    let files = [
        ("a", 70_000),
        ("sub/deep/run.sh", 20_000),
        ("none", 0),
        (".pad/1", 7_000),
        ("sub/b", 90_000),
        ("sub/none", 0),
        ("c", 3),
    ];
    let mut swarm = Swarm::new(&world, 4, "t", &files);
    assert_eq!(world.prepare(&swarm), Ok(Prepared { window: false }));
    assert!(!world.temp.path("root/t").exists(), "nothing is made before there is something to write");
    let (mut blocks, mut dice) = (swarm.blocks(), Dice(1));
    dice.shuffle(&mut blocks);
    let mut have = Have::None;
    while !blocks.is_empty() {
        let some = 1 + dice.roll(5).min(blocks.len() - 1);
        let batch: Vec<_> = blocks.drain(..some).collect();
        for piece in good(&world.receive(&mut swarm, &batch)) {
            assert!(swarm.is_on_disk(piece) && have.insert(piece, swarm.torrent.pieces));
        }
    }
    assert_eq!(have, Have::All);
    assert_eq!(world.save(&swarm, have, false), Ok(()));
    world.flush();
    let mode = |path: &str| fs::metadata(swarm.path(path)).unwrap().permissions().mode() & 0o111;
    assert_eq!((mode("a"), mode("sub/deep/run.sh") & 0o100), (0, 0o100));
    assert_eq!(
        fs::read(swarm.path("none")).unwrap().len() + fs::read(swarm.path("sub/none")).unwrap().len(),
        0
    );
    assert!(!swarm.path(".pad").exists());
    let world = world.restarted();
    let (known, checked) = world.check_with(&swarm.torrent);
    let checked = checked.unwrap();
    assert_eq!((checked.have, checked.todo, known.unwrap().open), (Have::All, Have::None, false));
    assert_eq!(world.verify(&swarm.torrent, 0..swarm.torrent.pieces).0, vec![true; 6]);
}

#[test]
fn a_wrong_piece_is_told_with_the_digests_of_its_blocks_and_a_right_one_when_asked() {
    let world = World::anywhere();
    let mut swarm = Swarm::new(&world, 1, "t", &[("a", BLOCK + 5), (".pad", BLOCK), ("b", 2 * PIECE)]);
    world.prepare(&swarm).unwrap();
    let blocks = swarm.blocks_of(0..2);
    let lie = vec![0xff; BLOCK];
    let mut parts: Vec<_> = blocks.iter().map(|&part| (1, part, swarm.bytes(part))).collect();
    // Padding is zeros, whatever is sent for it, and the first block of the second piece is a lie.
    let padding = [swarm.bytes(blocks[0]), swarm.bytes(blocks[1])].concat();
    let padding = [&padding[..BLOCK + 5], &[0xee; BLOCK - 5]].concat();
    parts[1].2 = &padding[BLOCK..];
    parts[3].2 = &lie;
    let filled = filled(&parts, &mut Dice(3));
    let outcome = world.write(Batch { filled, targets: vec![swarm.target(&blocks)] }).remove(0);
    let digest = |bytes: &[u8]| u64::from_be_bytes(Sha1::digest(bytes)[..8].try_into().unwrap());
    let truth = |swarm: &Swarm, piece| -> Box<[u64]> {
        swarm.blocks_of(piece..piece + 1).iter().map(|&part| digest(swarm.bytes(part))).collect()
    };
    let mut seen = truth(&swarm, 1);
    seen[0] = digest(&lie);
    let right = Hashed { piece: 0, good: true, digests: Box::default() };
    assert_eq!(outcome.trouble, None);
    assert_eq!(outcome.hashed, [right, Hashed { piece: 1, good: false, digests: seen }]);
    swarm.digests = true;
    swarm.received[1].fill(false);
    let outcome = world.receive(&mut swarm, &blocks[3..]);
    assert_eq!(outcome.hashed, [Hashed { piece: 1, good: true, digests: truth(&swarm, 1) }]);
    assert!(swarm.is_on_disk(1));
}

#[test]
fn what_was_sent_twice_is_judged_by_what_stays_on_disk() {
    let world = World::anywhere();
    let mut swarm = Swarm::new(&world, 1, "t", &[("", 3 * PIECE)]);
    world.prepare(&swarm).unwrap();
    let blocks = swarm.blocks();
    let lie = vec![0xff; BLOCK];
    for (piece, first, second) in [(0, true, false), (1, false, true)] {
        let these: Vec<_> = blocks.iter().copied().filter(|block| block.0 == piece).collect();
        let mut parts: Vec<_> = these.iter().map(|&part| (1, part, swarm.bytes(part))).collect();
        let late = (piece, 8000, BLOCK);
        let (truth, late_truth) = (parts[0].2, swarm.bytes(late));
        parts[0].2 = if first { &lie } else { truth };
        parts.push((1, late, if second { &lie } else { late_truth }));
        parts.push((1, these[0], if second { &lie } else { truth }));
        let filled = filled(&parts, &mut Dice(9));
        let outcome = world.write(Batch { filled, targets: vec![swarm.target(&these)] }).remove(0);
        assert_eq!(outcome.hashed[0].good, !second);
        assert_eq!(swarm.is_on_disk(piece), !second);
    }
}

#[test]
fn hashing_goes_on_whatever_was_forgotten_meanwhile() {
    let world = World::anywhere();
    let pieces = BEGUN + 20;
    let mut swarm = Swarm::new(&world, 1, "t", &[("a", pieces * PIECE / 2), ("b", pieces * PIECE / 2)]);
    world.prepare(&swarm).unwrap();
    // More pieces are begun than are remembered, then each goes on twice, the later blocks first.
    let turns: Vec<Vec<Stretch>> = [0, 2, 1]
        .iter()
        .map(|turn| swarm.blocks().into_iter().filter(|(_, begin, _)| begin / BLOCK == *turn).collect())
        .collect();
    let mut all = Vec::new();
    for turn in turns {
        for batch in turn.chunks(6) {
            all.extend(good(&world.receive(&mut swarm, batch)));
        }
    }
    all.sort_unstable();
    assert!(all.into_iter().eq(0..swarm.torrent.pieces));
    // A piece of which less is received than before is hashed anew, and so is one of a torrent that is prepared again.
    let lie = [0xff; BLOCK];
    let first = filled(&[(1, (0, 0, BLOCK), &lie)], &mut Dice(1));
    swarm.received[0].fill(false);
    let targets = vec![swarm.target(&[(0, 0, BLOCK)])];
    world.write(Batch { filled: first, targets });
    swarm.received[0].fill(false);
    assert!(good(&world.receive(&mut swarm, &[(0, BLOCK, BLOCK)])).is_empty());
    assert_eq!(good(&world.receive(&mut swarm, &[(0, 0, BLOCK), (0, 2 * BLOCK, 100)])), [0]);
    swarm.received[0].fill(false);
    world.receive(&mut swarm, &[(0, 0, BLOCK)]);
    world.prepare(&swarm).unwrap();
    swarm.received[0].fill(false);
    let all: Vec<_> = swarm.blocks_of(0..1);
    assert_eq!(good(&world.receive(&mut swarm, &all)), [0]);
}

#[test]
fn after_a_crash_only_what_was_not_on_record_is_hashed_again() {
    let world = World::anywhere();
    let files = [("whole", 2 * PIECE), ("part", 8 * PIECE), ("later", PIECE), ("none", 0)];
    let mut swarm = Swarm::new(&world, 1, "t", &files);
    world.prepare(&swarm).unwrap();
    assert_eq!(world.save(&swarm, Have::None, true), Ok(()));
    world.fetch(&mut swarm, 0..2);
    world.fetch(&mut swarm, 4..6);
    let have = Have::from_fn(11, |piece| [0, 1, 4, 5].contains(&piece));
    assert_eq!(world.save(&swarm, have.clone(), true), Ok(()));
    world.flush();
    // Of the last piece only the first block comes; nothing of all this is put on record.
    world.fetch(&mut swarm, 7..9);
    world.receive(&mut swarm, &[(9, 0, BLOCK)]);
    touch(&swarm.path("part"), 5, 5);
    let world = world.restarted();
    world.set_disk(ANYWHERE);
    let (known, checked) = world.check_with(&swarm.torrent);
    let checked = checked.unwrap();
    assert!(known.unwrap().open);
    assert_eq!(checked.have, have);
    let part = world.read(&swarm.torrent, "part", 1, 2 * PIECE as u64, 2 * PIECE as u64);
    assert!(part.is_ok(), "it is served before it is written again: {part:?}");
    let todo = numbers(&checked.todo, 11);
    // What is beyond the end of a file, or in a file that is not there, is not hashed; nor is a hole.
    world.temp.sparse("probe", 1 << 20, &[]);
    let probe = rustix::fs::open(world.temp.path("probe"), OFlags::RDONLY, Mode::empty()).unwrap();
    let tells_of_holes = rustix::fs::seek(&probe, rustix::fs::SeekFrom::Data(0)) == Err(Errno::NXIO);
    assert_eq!(todo, if tells_of_holes { vec![7, 8] } else { vec![2, 3, 6, 7, 8] });
    if tells_of_holes {
        // What was on record and is no more where it was is not trusted.
        fs::remove_file(swarm.path("part")).unwrap();
        world.temp.sparse("root/t/part", 8 * PIECE as u64, &[]);
        let checked = world.check(&swarm.torrent).unwrap();
        assert_eq!((numbers(&checked.have, 11), numbers(&checked.todo, 11)), (vec![0, 1], vec![4, 5]));
    }
    // A file of which nothing is missing is compared all the same.
    touch(&swarm.path("whole"), 6, 6);
    let checked = world.check(&swarm.torrent).unwrap();
    assert!(!checked.have.contains(0) && checked.todo.contains(0) && checked.todo.contains(1));
    fs::remove_file(swarm.path("whole")).unwrap();
    let checked = world.check(&swarm.torrent).unwrap();
    assert!(!checked.have.contains(0) && !checked.todo.contains(0));
}

#[test]
fn a_torrent_is_served_while_it_is_written_and_then_compared_by_its_stamps_again() {
    for temp in [Temp::new(), Temp::in_memory()] {
        let world = World::within(temp);
        world.set_disk(ANYWHERE);
        let mut swarm = Swarm::new(&world, 1, "t", &[("a", 2 * PIECE), ("b", 2 * PIECE)]);
        world.prepare(&swarm).unwrap();
        world.fetch(&mut swarm, 0..1);
        let have = Have::from_fn(4, |piece| piece == 0);
        assert_eq!(world.save(&swarm, have.clone(), true), Ok(()));
        let open = Arc::new(world.read(&swarm.torrent, "a", 0, 0, PIECE as u64).unwrap());
        world.fetch(&mut swarm, 1..2);
        let again = |fd| {
            let (info_hash, place) = (swarm.torrent.info_hash, swarm.torrent.place.clone());
            let (path, offset, len) = (swarm.path("a"), PIECE as u64, PIECE as u64);
            let job =
                Job::Read { key: 1, peer: 9, info_hash, place, file: 0, path, offset, len, ahead: 0, fd };
            let Done::Read { result, .. } = world.ask(job) else { panic!("another answer") };
            result
        };
        assert!(again(Some(open.clone())).unwrap().is_none() && again(None).unwrap().is_some());
        let mut bytes = vec![0; PIECE];
        let read = open.read_warmed(&mut [IoSliceMut::new(&mut bytes)], PIECE as u64).unwrap();
        assert_eq!((read, &bytes[..]), (PIECE, swarm.bytes((1, 0, PIECE))));
        let have = Have::from_fn(4, |piece| piece < 2);
        assert_eq!(world.save(&swarm, have.clone(), false), Ok(()));
        assert!(again(None).is_ok());
        let checked = world.check(&swarm.torrent).unwrap();
        assert_eq!((checked.have, checked.todo), (have, Have::None));
        touch(&swarm.path("a"), 5, 5);
        assert_eq!(again(None).unwrap_err(), Trouble::Changed(swarm.path("a")));
        assert_eq!(again(Some(open)).unwrap_err(), Trouble::Changed(swarm.path("a")));
        assert_eq!(numbers(&world.check(&swarm.torrent).unwrap().todo, 4), [0, 1]);
    }
}

#[test]
fn stamps_of_files_that_nobody_writes_stay_as_they_are_on_record() {
    let world = World::anywhere();
    let mut swarm = Swarm::new(&world, 1, "t", &[("a", PIECE), ("b", 2 * PIECE)]);
    world.prepare(&swarm).unwrap();
    world.fetch(&mut swarm, 0..1);
    let have = Have::from_fn(3, |piece| piece == 0);
    world.save(&swarm, have.clone(), true).unwrap();
    // Somebody changes it behind our back: the next save must not take that for what was hashed.
    touch(&swarm.path("a"), 5, 5);
    world.fetch(&mut swarm, 1..2);
    let more = Have::from_fn(3, |piece| piece < 2);
    for open in [true, false] {
        world.save(&swarm, more.clone(), open).unwrap();
        let checked = world.check(&swarm.torrent).unwrap();
        assert_eq!((numbers(&checked.have, 3), numbers(&checked.todo, 3)), (vec![1], vec![0]));
    }
}

#[test]
fn what_was_taken_away_while_it_was_written_is_not_put_on_record() {
    let world = World::anywhere();
    let mut swarm = Swarm::new(&world, 1, "t", &[("a", 2 * PIECE), ("b", 2 * PIECE)]);
    world.prepare(&swarm).unwrap();
    world.fetch(&mut swarm, 0..1);
    fs::rename(swarm.path("a"), swarm.path("moved")).unwrap();
    let have = Have::from_fn(4, |piece| piece == 0);
    let changed = Trouble::Changed(swarm.path("a"));
    assert_eq!(world.save(&swarm, have.clone(), true), Err(changed.clone()));
    world.prepare(&swarm).unwrap();
    world.fetch(&mut swarm, 1..2);
    fs::rename(swarm.path("a"), swarm.path("moved")).unwrap();
    fs::copy(swarm.path("moved"), swarm.path("a")).unwrap();
    assert_eq!(world.save(&swarm, have.clone(), true), Err(changed.clone()), "another file of that name");
    assert_eq!(world.fetch(&mut swarm, 2..3).trouble, Some(changed.clone()), "until prepared");
    world.prepare(&swarm).unwrap();
    swarm.received[2].fill(false);
    assert_eq!(good(&world.fetch(&mut swarm, 2..3)), [2]);
    // A partial file at that path: too short for what is said to be in it.
    world.temp.file("root/t/a", b"short");
    assert_eq!(world.save(&swarm, have, false), Err(changed));
    assert!(world.check_with(&swarm.torrent).0.is_none());
}

#[test]
fn trouble_of_one_torrent_stops_it_until_it_is_prepared_again_and_no_other() {
    let world = World::anywhere();
    let mut left = Swarm::new(&world, 1, "left", &[("a", 3 * PIECE)]);
    let mut right = Swarm::new(&world, 2, "right", &[("a", 3 * PIECE)]);
    world.prepare(&left).unwrap();
    world.prepare(&right).unwrap();
    world.temp.file("root/left", b"a file where the folder should be");
    for piece in 0..2 {
        let blocks = left.blocks_of(piece..piece + 1);
        let mut parts = Vec::new();
        for &block in &blocks {
            parts.push((1, block, left.bytes(block)));
            parts.push((3, block, left.bytes(block)));
            parts.push((2, block, right.bytes(block)));
        }
        let filled = filled(&parts, &mut Dice(5));
        let targets = vec![left.target(&blocks), right.target(&blocks)];
        let outcomes = world.write(Batch { filled, targets });
        assert!(matches!(&outcomes[0].trouble, Some(Trouble::Io { .. })), "{:?}", outcomes[0]);
        assert!(outcomes[0].hashed.is_empty());
        assert_eq!(good(&outcomes[1]), [piece]);
        let _ = fs::remove_file(world.temp.path("root/left"));
    }
    left.received.iter_mut().for_each(|piece| piece.fill(false));
    world.prepare(&left).unwrap();
    assert_eq!(good(&world.fetch(&mut left, 1..2)), [1]);
}

#[test]
fn writing_stops_before_the_floor_and_goes_on_when_there_is_room() {
    let world = World::anywhere();
    let mut swarm = Swarm::new(&world, 1, "t", &[("a", 3 * PIECE), ("b", PIECE)]);
    let full = Disk { free_floor: u64::MAX, ..ANYWHERE };
    assert!(world.prepare(&swarm).is_ok());
    world.set_disk(full);
    let outcome = world.fetch(&mut swarm, 0..1);
    let Some(Trouble::NoRoom(room)) = outcome.trouble else { panic!("{outcome:?}") };
    assert!(room.floor == u64::MAX && room.free > 0 && room.path == swarm.path("a"));
    assert_eq!(fs::metadata(swarm.path("a")).unwrap().len(), 0);
    assert!(matches!(world.prepare(&swarm), Err(Trouble::NoRoom(_))));
    assert!(!world.fetch(&mut swarm, 1..2).hashed.iter().any(|hashed| hashed.good));
    world.set_disk(ANYWHERE);
    assert!(matches!(world.fetch(&mut swarm, 2..3).trouble, Some(Trouble::NoRoom(_))));
    world.prepare(&swarm).unwrap();
    swarm.received.iter_mut().for_each(|piece| piece.fill(false));
    assert_eq!(good(&world.fetch(&mut swarm, 0..3)), [0, 1, 2]);
    // Nor is a torrent that nobody prepared written once it was refused.
    let mut other = Swarm::new(&world, 2, "other", &[("", PIECE)]);
    for disk in [full, ANYWHERE] {
        world.set_disk(disk);
        assert!(matches!(world.fetch(&mut other, 0..1).trouble, Some(Trouble::NoRoom(_))));
    }
    // A file that has all its room already takes none.
    world.save(&swarm, Have::None, true).unwrap();
    if fs::metadata(swarm.path("a")).unwrap().blocks() * 512 >= 3 * PIECE as u64 {
        world.prepare(&swarm).unwrap();
        world.set_disk(full);
        swarm.received[1].fill(false);
        assert_eq!(good(&world.fetch(&mut swarm, 1..2)), [1]);
        assert!(matches!(world.fetch(&mut swarm, 3..4).trouble, Some(Trouble::NoRoom(_))));
    }
}

#[test]
fn a_file_may_take_its_room_at_once_and_is_no_larger_for_it() {
    let world = World::anywhere();
    let mut swarm = Swarm::new(&world, 1, "t", &[("a", 20 * PIECE)]);
    world.set_disk(Disk { preallocate: true, ..ANYWHERE });
    world.prepare(&swarm).unwrap();
    world.fetch(&mut swarm, 0..1);
    let found = fs::metadata(swarm.path("a")).unwrap();
    assert_eq!(found.len(), PIECE as u64);
    world.temp.file("probe", b"");
    let can = {
        let probe = rustix::fs::open(world.temp.path("probe"), OFlags::WRONLY, Mode::empty()).unwrap();
        rustix::fs::fallocate(&probe, rustix::fs::FallocateFlags::KEEP_SIZE, 0, 4096).is_ok()
    };
    assert_eq!(found.blocks() * 512 >= 20 * PIECE as u64, can);
}

#[test]
fn content_stays_in_its_tree_and_the_data_root_is_never_made() {
    let world = World::anywhere();
    let mut swarm = Swarm::new(
        &world,
        1,
        "t",
        &[("inside/a", PIECE), ("outside/b", PIECE), ("dangling", PIECE), ("dir", PIECE), ("sub/c", PIECE)],
    );
    for directory in ["root/t/dir", "root/elsewhere", "secret"] {
        fs::create_dir_all(world.temp.path(directory)).unwrap();
    }
    symlink("../elsewhere", swarm.path("inside")).unwrap();
    symlink(world.temp.path("secret"), swarm.path("outside")).unwrap();
    symlink(world.temp.path("secret/made"), swarm.path("dangling")).unwrap();
    let outcome = |swarm: &mut Swarm, piece: u32| {
        world.prepare(swarm).unwrap();
        world.fetch(swarm, piece..piece + 1)
    };
    assert_eq!(good(&outcome(&mut swarm, 0)), [0]);
    assert!(world.temp.path("root/elsewhere/a").exists());
    assert_eq!(outcome(&mut swarm, 1).trouble, Some(Trouble::Outside(swarm.path("outside/b"))));
    assert!(matches!(outcome(&mut swarm, 2).trouble, Some(Trouble::Outside(_) | Trouble::NotAFile(_))));
    assert_eq!(outcome(&mut swarm, 3).trouble, Some(Trouble::NotAFile(swarm.path("dir"))));
    assert_eq!(good(&outcome(&mut swarm, 4)), [4]);
    assert_eq!(fs::read_dir(world.temp.path("secret")).unwrap().count(), 0);
    fs::rename(world.temp.path("root"), world.temp.path("away")).unwrap();
    assert_eq!(world.prepare(&swarm), Err(Trouble::RootAbsent(world.temp.path("root"))));
    let gone = world.fetch(&mut swarm, 0..1).trouble;
    assert_eq!(gone, Some(Trouble::RootAbsent(world.temp.path("root"))));
    assert!(!world.temp.path("root").exists());
}

#[test]
fn data_that_the_user_has_put_elsewhere_is_written_there() {
    let world = World::anywhere();
    fs::create_dir_all(world.temp.path("disk")).unwrap();
    let mut folder = Swarm::new(&world, 1, "folder", &[("sub/a", PIECE), ("b", 5)]);
    let mut file = Swarm::new(&world, 2, "file", &[("", PIECE)]);
    for (swarm, path) in [(&mut folder, "disk/named"), (&mut file, "disk/file")] {
        swarm.torrent.place.data = world.temp.path(path).into();
        swarm.torrent.place.sidecar = true;
        world.prepare(swarm).unwrap();
        let have = good(&world.fetch(swarm, 0..swarm.torrent.pieces));
        assert_eq!(have.len(), swarm.torrent.pieces as usize);
        assert_eq!(world.save(swarm, Have::All, false), Ok(()));
        assert_eq!(world.check(&swarm.torrent).unwrap().have, Have::All);
    }
    assert_eq!(fs::read(world.temp.path("disk/file")).unwrap(), file.content);
    folder.torrent.place.data = world.temp.path("nowhere/named").into();
    assert_eq!(world.prepare(&folder), Err(Trouble::RootAbsent(world.temp.path("nowhere"))));
}

#[test]
fn a_fresh_torrent_on_an_empty_disk_is_no_missing_disk_and_one_that_had_data_is() {
    let world = World::anywhere();
    let mut swarm = Swarm::new(&world, 1, "t", &[("a", 2 * PIECE)]);
    let root = world.temp.path("root");
    let data_missing = Err(Trouble::DataMissing(swarm.torrent.place.data.to_path_buf()));
    world.storage.try_submit(Job::Record(Box::new(Record::new(swarm.torrent.info_hash)))).unwrap();
    assert_eq!(world.check(&swarm.torrent), data_missing);
    world.prepare(&swarm).unwrap();
    world.save(&swarm, Have::None, true).unwrap();
    assert_eq!(world.check(&swarm.torrent), data_missing);
    world.fetch(&mut swarm, 0..1);
    world.save(&swarm, Have::from_fn(2, |piece| piece == 0), true).unwrap();
    fs::rename(&root, world.temp.path("away")).unwrap();
    fs::create_dir(&root).unwrap();
    let empty = Trouble::EmptyMount(root.clone());
    assert_eq!(world.check(&swarm.torrent), Err(empty.clone()));
    assert_eq!(world.prepare(&swarm), Err(empty.clone()));
    assert_eq!(world.fetch(&mut swarm, 1..2).trouble, Some(empty));
    assert_eq!(fs::read_dir(&root).unwrap().count(), 0, "nothing is written below an empty mount point");
}

#[test]
fn the_root_file_system_and_memory_are_refused_where_a_mount_is_required() {
    let world = World::anywhere();
    let swarm = Swarm::new(&world, 1, "t", &[("a", PIECE)]);
    world.set_disk(Disk { require_mount: RequireMount::Always, ..ANYWHERE });
    let device = |path: &Path| fs::metadata(path).unwrap().dev();
    let is_system = device(&world.temp.path("root")) == device(Path::new("/"));
    let root = rustix::fs::open(world.temp.path("root"), OFlags::PATH, Mode::empty()).unwrap();
    let in_memory = super::super::prepare::is_in_memory(root);
    let expected = if is_system || in_memory {
        Err(Trouble::NotMounted(world.temp.path("root")))
    } else {
        Ok(Prepared { window: false })
    };
    assert_eq!(world.prepare(&swarm), expected);
}

#[test]
fn a_directory_that_may_not_be_written_is_told_at_once() {
    if rustix::process::geteuid().is_root() {
        return;
    }
    let world = World::anywhere();
    let swarm = Swarm::new(&world, 1, "t", &[("a", PIECE)]);
    let root = world.temp.path("root");
    fs::set_permissions(&root, fs::Permissions::from_mode(0o555)).unwrap();
    let refused = world.prepare(&swarm);
    fs::set_permissions(&root, fs::Permissions::from_mode(0o755)).unwrap();
    assert_eq!(refused, Err(Trouble::Io { path: root, error: Errno::ACCESS }));
}

#[test]
fn a_few_batches_are_taken_at_a_time_and_a_save_always_is() {
    let world = World::anywhere();
    let swarm = Swarm::new(&world, 1, "t", &[("a", PIECE)]);
    let batch = || Job::Write(Box::new(Batch { filled: filled(&[], &mut Dice(1)), targets: Vec::new() }));
    let submit = |storage: &Storage, job| storage.try_submit(job).is_ok();
    assert_eq!((0..10).filter(|_| submit(&world.storage, batch())).count(), 4);
    assert_eq!(world.storage.writes_under_way(), 4);
    let check =
        || Job::Check { key: 1, info_hash: swarm.torrent.info_hash, place: swarm.torrent.place.clone() };
    while submit(&world.storage, check()) {}
    let record = || Box::new(swarm.record(Have::None));
    let place = swarm.torrent.place.clone();
    assert!(submit(&world.storage, Job::Save { key: 1, place, record: record(), open: true }));
    let mut saved = 0;
    while saved == 0 {
        saved += usize::from(matches!(smol::block_on(world.storage.next()), Done::Saved { .. }));
    }
    assert_eq!(world.storage.writes_under_way(), 0);
    assert!(submit(&world.storage, batch()));
}

/// A writer without its thread, and what its directory holds.
struct Bench {
    writer: Writer,
    buffer: Vec<u8>,
    /// What is on record.
    records: Vec<Record>,
}

impl Bench {
    fn new() -> Bench {
        let mut writer = Writer::default();
        writer.set_disk(Disk { free_floor: 1, preallocate: true, ..ANYWHERE });
        Bench { writer, buffer: Vec::new(), records: Vec::new() }
    }

    fn prepare(&mut self, swarm: &Swarm) -> Result<Prepared, Trouble> {
        let (info_hash, place) = (&swarm.torrent.info_hash, &swarm.torrent.place);
        self.writer.prepare(info_hash, place, false, &mut self.buffer, Instant::now())
    }

    fn receive(&mut self, swarm: &mut Swarm, stretches: &[Stretch], now: Instant) -> Outcome {
        let parts: Vec<_> = stretches.iter().map(|&part| (swarm.key, part, swarm.bytes(part))).collect();
        let Filled { bytes, mut writes } = filled(&parts, &mut Dice(7));
        let mut reader = Reader { buffer: &mut self.buffer, between: &mut || {} };
        self.writer.write(&swarm.target(stretches), &mut writes, &bytes, false, &mut reader, now)
    }

    fn save(&mut self, swarm: &Swarm, have: Have, open: bool) -> Result<(), Trouble> {
        let mut record = swarm.record(have);
        let old = self.records.iter().position(|old| old.info_hash == record.info_hash);
        let old = old.map(|at| self.records.swap_remove(at));
        let stamps = old.as_ref().and_then(|old| Some(old.verified.as_ref()?.stamps.clone()));
        let mut reader = Reader { buffer: &mut self.buffer, between: &mut || {} };
        let place = &swarm.torrent.place;
        let saved = self.writer.save(place, &mut record, &stamps.unwrap_or_default(), open, &mut reader);
        self.records.extend(if saved.is_ok() { Some(record) } else { old });
        saved
    }
}

#[test]
fn many_torrents_and_files_are_written_with_few_descriptors_and_none_after_a_minute() {
    let world = World::within(Temp::in_memory());
    let files = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j"].map(|name| (name, PIECE / 2));
    let names: Vec<String> = (0..TORRENTS + 2).map(|n| n.to_string()).collect();
    let mut swarms: Vec<_> =
        names.iter().zip(0..).map(|(name, key)| Swarm::new(&world, key, name, &files)).collect();
    let (mut bench, now) = (Bench::new(), Instant::now());
    swarms.iter().for_each(|swarm| assert!(bench.prepare(swarm).is_ok()));
    for piece in 0..5 {
        for (swarm, seconds) in swarms.iter_mut().zip(0..) {
            let blocks = swarm.blocks_of(piece..piece + 1);
            let outcome = bench.receive(swarm, &blocks, now + Duration::from_secs(seconds));
            assert_eq!(good(&outcome), [piece]);
            assert!(bench.writer.ready.len() <= TORRENTS && bench.writer.outputs.len() <= 8);
        }
    }
    let last = swarms.last_mut().unwrap();
    last.received.iter_mut().for_each(|piece| piece.fill(false));
    for batch in last.blocks().chunks(6) {
        bench.receive(last, batch, now + Duration::from_secs(TORRENTS as u64 + 1));
        assert!(bench.writer.outputs.len() <= 8);
    }
    assert_eq!(bench.writer.deadline(), Some(now + IDLE + Duration::from_secs(2)));
    bench.writer.poll(now + IDLE + Duration::from_secs(TORRENTS as u64));
    assert_eq!(bench.writer.ready.len(), 1);
    bench.writer.poll(now + IDLE + Duration::from_secs(TORRENTS as u64 + 1));
    assert_eq!((bench.writer.deadline(), bench.writer.outputs.len()), (None, 0));
    for swarm in &swarms {
        // What was written is remembered without them.
        assert_eq!(bench.writer.unsaved_mut(&swarm.torrent.info_hash).written, Have::All);
        assert_eq!(bench.save(swarm, Have::All, false), Ok(()));
    }
    assert!(bench.writer.unsaved.is_empty() && bench.writer.ready.is_empty());
}

#[test]
fn a_torrent_of_many_files_is_ready_alone() {
    let world = World::within(Temp::in_memory());
    let names: Vec<String> = (0..FILES).map(|n| n.to_string()).collect();
    let many: Vec<(&str, usize)> = names.iter().map(|name| (name.as_str(), 4)).collect();
    let (large, small) = (Swarm::new(&world, 1, "large", &many), Swarm::new(&world, 2, "small", &[("", 9)]));
    let mut bench = Bench::new();
    for swarm in [&small, &large, &small, &large] {
        bench.prepare(swarm).unwrap();
        assert_eq!(bench.writer.ready.len(), 1);
    }
}

#[test]
fn half_hashed_pieces_are_bounded() {
    let world = World::within(Temp::in_memory());
    let pieces = 2 * BEGUN;
    let mut swarm = Swarm::new(&world, 1, "t", &[("", pieces * PIECE)]);
    let mut bench = Bench::new();
    bench.prepare(&swarm).unwrap();
    for piece in 0..swarm.torrent.pieces {
        bench.receive(&mut swarm, &[(piece, 0, 100)], Instant::now());
    }
    assert_eq!(bench.writer.ready[0].begun.len(), BEGUN);
}

#[test]
fn a_torrent_whose_folder_went_while_it_was_idle_is_not_begun_anew() {
    let world = World::new();
    let mut swarm = Swarm::new(&world, 1, "t", &[("a", 2 * PIECE), ("b", PIECE)]);
    let (mut bench, now) = (Bench::new(), Instant::now());
    world.temp.file("root/other", b"");
    bench.prepare(&swarm).unwrap();
    let first = swarm.blocks_of(0..1);
    assert_eq!(good(&bench.receive(&mut swarm, &first, now)), [0]);
    bench.writer.poll(now + IDLE);
    fs::remove_dir_all(&swarm.torrent.place.data).unwrap();
    let second = swarm.blocks_of(1..2);
    let missing = Trouble::DataMissing(swarm.torrent.place.data.to_path_buf());
    assert_eq!(bench.receive(&mut swarm, &second, now + IDLE).trouble, Some(missing));
    assert!(!swarm.torrent.place.data.exists());
}

#[test]
fn whichever_system_call_fails_nothing_is_called_good_that_is_not_on_disk_and_others_go_on() {
    let mut failures = 0;
    for error in [Errno::NOSPC, Errno::IO, Errno::ROFS] {
        for dead in [false, true] {
            for n in 1.. {
                assert!(n < 400, "no end");
                let world = World::within(Temp::in_memory());
                let files = [("a", PIECE + 9), ("x/b.sh", PIECE), ("none", 0)];
                let mut swarms =
                    [Swarm::new(&world, 0, "left", &files), Swarm::new(&world, 1, "right", &files)];
                let mut bench = Bench::new();
                let mut have = [Have::None, Have::None];
                let mut troubles = [0, 0];
                let faults = Faults::at(n, error, dead);
                for (swarm, troubles) in swarms.iter().zip(&mut troubles) {
                    *troubles += u32::from(bench.prepare(swarm).is_err());
                }
                for turn in [2, 0, 1] {
                    for (at, swarm) in swarms.iter_mut().enumerate() {
                        let blocks: Vec<_> =
                            swarm.blocks().into_iter().filter(|block| block.1 / BLOCK == turn).collect();
                        for batch in blocks.chunks(2) {
                            let outcome = bench.receive(swarm, batch, Instant::now());
                            for hashed in &outcome.hashed {
                                assert!(hashed.good && swarm.is_on_disk(hashed.piece), "call {n}: {error:?}");
                                have[at].insert(hashed.piece, swarm.torrent.pieces);
                            }
                            troubles[at] += u32::from(outcome.trouble.is_some());
                        }
                        let saved = bench.save(swarm, have[at].clone(), turn != 1);
                        troubles[at] += u32::from(saved.is_err());
                    }
                }
                let calls = faults.calls();
                drop(faults);
                for (at, swarm) in swarms.iter().enumerate() {
                    let record =
                        bench.records.iter().find(|record| record.info_hash == swarm.torrent.info_hash);
                    if let Some(verified) = record.and_then(|record| record.verified.as_ref()) {
                        let all = (0..swarm.torrent.pieces).filter(|&piece| verified.have.contains(piece));
                        all.for_each(|piece| assert!(swarm.is_on_disk(piece), "call {n}: {error:?}"));
                    }
                    if troubles[at] == 0 {
                        assert_eq!(have[at], Have::All, "call {n}: {error:?}");
                        assert!(record.is_some_and(|record| !record.open));
                    }
                }
                assert!(dead || troubles.contains(&0), "call {n}: {error:?} stopped both: {troubles:?}");
                failures += u32::from(troubles != [0, 0]);
                if calls < n {
                    assert_eq!((&have, troubles), (&[Have::All, Have::All], [0, 0]));
                    break;
                }
                if !dead {
                    // Prepared again, all of it comes in the end.
                    for (at, swarm) in swarms.iter_mut().enumerate() {
                        swarm.received.iter_mut().for_each(|piece| piece.fill(false));
                        bench.prepare(swarm).unwrap();
                        for batch in swarm.blocks().chunks(4) {
                            bench.receive(swarm, batch, Instant::now());
                        }
                        assert_eq!(bench.save(swarm, Have::All, false), Ok(()), "call {n}: {at}");
                        assert!((0..swarm.torrent.pieces).all(|piece| swarm.is_on_disk(piece)));
                        assert!(swarm.path("none").exists());
                    }
                }
            }
        }
    }
    assert!(failures > 300, "only {failures} of them did harm");
}

#[test]
fn what_could_not_be_synced_once_is_not_believed_the_second_time() {
    for n in 1.. {
        let world = World::within(Temp::in_memory());
        let mut swarm = Swarm::new(&world, 1, "t", &[("a", PIECE), ("x/b", PIECE)]);
        let mut bench = Bench::new();
        bench.prepare(&swarm).unwrap();
        let blocks = swarm.blocks();
        assert_eq!(good(&bench.receive(&mut swarm, &blocks, Instant::now())), [0, 1]);
        let faults = Faults::at(n, Errno::IO, false);
        let saved = bench.save(&swarm, Have::All, true);
        let calls = faults.calls();
        drop(faults);
        if calls < n {
            assert_eq!((saved, n), (Ok(()), 6), "two files, two directories and the root");
            break;
        }
        assert!(saved.is_err() && bench.records.is_empty());
        assert_eq!(bench.save(&swarm, Have::All, true), saved);
        assert_eq!(bench.receive(&mut swarm, &blocks, Instant::now()).trouble, saved.clone().err());
        assert!(bench.records.is_empty());
        bench.prepare(&swarm).unwrap();
        assert_eq!(bench.save(&swarm, Have::All, false), Ok(()));
    }
}

#[test]
fn a_file_that_fat_cannot_hold_is_told_before_anything_is_fetched() {
    use super::super::prepare::Ground;
    let temp = Temp::new();
    fs::create_dir_all(temp.path("root")).unwrap();
    let files = [("small", (4 << 30) - 1), ("large", 4 << 30)];
    let layout = Layout::new(&crate::storage::tests::metainfo(1 << 20, &files), temp.path("root/t"));
    let world = World::new();
    let mut place = Swarm::new(&world, 1, "t", &[("a", 1)]).torrent.place;
    (place.root, place.data) = (temp.path("root").into(), temp.path("root/t").into());
    let tree = Tree::open(&place, true).unwrap();
    let ground = |kind| Ground::of(&temp.path("root"), kind);
    let too_large = Err(Trouble::TooLarge(temp.path("root/t/large")));
    assert_eq!(ground(0x4d44).takes(&layout, &tree, &ANYWHERE), too_large);
    assert_eq!(ground(0x2011_bab0).takes(&layout, &tree, &ANYWHERE), Ok(Prepared { window: true }));
    assert_eq!(ground(0xef53).takes(&layout, &tree, &ANYWHERE), Ok(Prepared { window: false }));
    let small = Layout::new(&crate::storage::tests::metainfo(1 << 20, &files[..1]), temp.path("root/t"));
    assert_eq!(ground(0x4d44).takes(&small, &tree, &ANYWHERE), Ok(Prepared { window: true }));
}

#[test]
fn a_fragment_from_a_web_seed_may_be_longer_than_any_block_of_a_peer() {
    let lengths = Lengths::new(3 << 20, std::num::NonZeroU32::new(1 << 20).unwrap()).unwrap();
    let write = |begin, len| Write { key: 1, piece: 2, begin, at: 0, len };
    assert_eq!(offset_of(lengths, &write(5, (1 << 20) - 5)), Some((2 << 20) + 5));
    assert_eq!(offset_of(lengths, &write(5, (1 << 20) - 4)), None);
    assert_eq!(offset_of(lengths, &write(u32::MAX, 2)), None);
}

//! All data of a torrent against its hashes, for the command line: v1, hybrid (both halves in one reading), v2, Merkle.
//!
//! Read first: `hashing.rs`, BEP 52 and 30. Several threads take runs of pieces, so that a disk is still read in long
//! stretches. Omits what the daemon has a record for. Holds 128 KiB a job, one byte a piece and the list of files; of a
//! Merkle torrent, which has one hash for all pieces, 20 bytes a piece.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Mutex;
use std::{iter, slice, thread};

use sha1::{Digest, Sha1};
use sha2::Sha256;

use super::Place;
use super::hashing::{stored, zeros};
use super::tree::{Tree, ident_of, open_torrent};
use crate::list::Gather;
use crate::metainfo::merkle;
use crate::metainfo::survey::Survey;
use crate::metainfo::survey::tree::Leaf;
use crate::piece::BLOCK;
use crate::storage::resume::Stamp;
use crate::storage::{Layout, Trouble};

/// Bytes that one job takes at a time.
const RUN: u32 = 8 << 20;

/// What [`check`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Pieces in all.
    pub pieces: u32,
    /// Those that were right.
    pub right: u32,
    /// Files that are not as they should be: path, what is wrong.
    pub files: Vec<(String, Flaw)>,
    /// Why the torrent itself can not be right: its halves contradict each other.
    pub torn: Option<String>,
}

/// What is wrong with a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// It is not there.
    Absent,
    /// It has so many bytes, fewer than it should.
    Short(u64),
    /// All of it is there, and then as many bytes more.
    Long(u64),
    /// So many of its pieces are not right, of so many.
    Wrong(u32, u32),
}

impl Verdict {
    /// Nothing is wrong with the data, nor with the torrent.
    pub fn is_whole(&self) -> bool {
        self.right == self.pieces && self.files.is_empty() && self.torn.is_none()
    }
}

/// What is known of a piece.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Piece {
    /// Not right, or not looked at.
    #[default]
    Wrong,
    /// Right by all hashes that there are.
    Right,
    /// Right by one half of a hybrid alone.
    Torn,
}

/// What all jobs share.
struct Work<'a> {
    survey: &'a Survey<'a>,
    place: Place,
    layout: Layout,
    tree: Tree,
    /// The files of the v2 half that have bytes, each with the number of its first piece. Every one begins with a piece.
    leaves: Vec<(u32, &'a Leaf<'a>)>,
}

/// What the jobs take and tell: runs of pieces, with what is found of them and, for a Merkle torrent, their hashes.
struct Runs<'a> {
    pieces: iter::Enumerate<slice::ChunksMut<'a, Piece>>,
    hashes: slice::ChunksMut<'a, [u8; 20]>,
    /// Bytes that were looked at.
    done: u64,
    /// Why all of it is in vain.
    failed: Option<Trouble>,
}

/// What one job holds.
struct Reader<'a, 'b> {
    work: &'a Work<'a>,
    runs: &'a Mutex<Runs<'b>>,
    open: Option<(u32, Option<OwnedFd>)>,
    buffer: Vec<u8>,
}

/// The hashes of a piece as it is.
struct Hashed {
    v1: [u8; 20],
    v2: Option<[u8; 32]>,
}

/// Hashes all that is there of a torrent, by so many threads. `progress` hears of bytes done and bytes in all.
pub fn check(
    survey: &Survey<'_>,
    torrent: &Path,
    data: &Path,
    jobs: usize,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Verdict, Trouble> {
    let metainfo = &survey.metainfo;
    let (_, stat) = open_torrent(torrent).map_err(|error| Trouble::of(torrent, error))?;
    let place = Place {
        torrent: torrent.into(),
        ident: ident_of(&stat),
        data: data.into(),
        other: None,
        root: data.into(),
        kept: false,
        sidecar: true,
    };
    let tree = Tree::open(&place, metainfo.multi_file)?;
    let layout = Layout::new(metainfo, data);
    let lengths = layout.lengths();
    let (leaves, mut torn) = leaves(survey);
    let work = Work { survey, place, layout, tree, leaves };
    let count = lengths.piece_count() as usize;
    let mut pieces = vec![Piece::Wrong; count];
    let mut hashes = vec![[0; 20]; if survey.root_hash.is_some() { count } else { 0 }];
    hash(&work, &mut pieces, &mut hashes, jobs, progress)?;
    if let Some(root) = survey.root_hash {
        // One hash for all: they are right together or not at all.
        let right = pieces.iter().all(|piece| *piece == Piece::Right) && merkle::root_v1(&hashes) == *root;
        pieces.fill(if right { Piece::Right } else { Piece::Wrong });
    }
    if pieces.contains(&Piece::Torn) {
        torn = torn.or(Some("pieces that are right by one half are wrong by the other".to_owned()));
    }
    let wrong = |range| {
        let range: std::ops::Range<u32> = range;
        range.filter(|&piece| pieces.get(piece as usize) != Some(&Piece::Right)).count()
    };
    let mut files = Vec::new();
    let layout = &work.layout;
    // The empty ones too: whoever compares misses them.
    for file in (0..layout.file_count()).filter(|&file| !layout.is_pad(file)) {
        let range = layout.range(file);
        let (length, its) = (range.end - range.start, layout.pieces(range));
        let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let stamp = work.tree.stamp(layout, file)?;
        let flaw = match number(wrong(its.clone())) {
            _ if stamp == Stamp::ABSENT => Flaw::Absent,
            _ if stamp.size < length => Flaw::Short(stamp.size),
            0 if stamp.size > length => Flaw::Long(stamp.size - length),
            0 => continue,
            wrong => Flaw::Wrong(wrong, number(its.len())),
        };
        files.push((layout.path(file).to_string_lossy().into_owned(), flaw));
    }
    let pieces = lengths.piece_count();
    let right = pieces - u32::try_from(wrong(0..pieces)).unwrap_or(pieces);
    Ok(Verdict { pieces, right, files, torn })
}

/// The files of the v2 half by their first pieces; none where that half is not that of these files, with the reason.
fn leaves<'a>(survey: &'a Survey<'a>) -> (Vec<(u32, &'a Leaf<'a>)>, Option<String>) {
    let metainfo = &survey.metainfo;
    let tree = match &survey.tree {
        None => return (Vec::new(), None),
        Some(Err(error)) => return (Vec::new(), Some(error.to_string())),
        Some(Ok(tree)) => tree,
    };
    let length = metainfo.lengths.piece_length();
    if let Some(how) = tree.differs(&metainfo.files, metainfo.multi_file, length) {
        return (Vec::new(), Some(how));
    }
    let first = |leaf: &Leaf<'_>| u32::try_from(leaf.pieces.len()).unwrap_or(u32::MAX);
    let with_bytes = tree.files.iter().filter(|leaf| leaf.length > 0);
    let leaves = with_bytes.scan(0u32, |next, leaf| {
        let at = *next;
        *next = next.saturating_add(first(leaf));
        Some((at, leaf))
    });
    (leaves.gather(), None)
}

/// Looks at all pieces; this thread tells the progress.
fn hash(
    work: &Work<'_>,
    pieces: &mut [Piece],
    hashes: &mut [[u8; 20]],
    jobs: usize,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<(), Trouble> {
    let lengths = work.layout.lengths();
    let run = (RUN / lengths.piece_length()).max(1) as usize;
    let (pieces, hashes) = (pieces.chunks_mut(run).enumerate(), hashes.chunks_mut(run));
    let runs = Mutex::new(Runs { pieces, hashes, done: 0, failed: None });
    let mut tell = |done| progress(done, lengths.total());
    tell(0);
    thread::scope(|scope| {
        let job = || Reader { work, runs: &runs, open: None, buffer: Vec::new() };
        for _ in 1..jobs {
            // Where there is no further thread this one does more.
            let _ = thread::Builder::new().spawn_scoped(scope, move || job().work(run, &mut |_| ()));
        }
        job().work(run, &mut tell);
    });
    // A thread that panics has ended the program.
    let Ok(runs) = runs.into_inner() else { return Ok(()) };
    tell(runs.done);
    runs.failed.map_or(Ok(()), Err)
}

impl Reader<'_, '_> {
    /// Takes runs until there is none left, or a job has failed.
    fn work(&mut self, run: usize, tell: &mut dyn FnMut(u64)) {
        loop {
            let taken =
                self.runs.lock().ok().and_then(|mut runs| Some((runs.pieces.next()?, runs.hashes.next())));
            let Some(((number, pieces), mut hashes)) = taken else { return };
            for (at, piece) in pieces.iter_mut().enumerate() {
                let lengths = self.work.layout.lengths();
                let Some(index) =
                    u32::try_from(number * run + at).ok().and_then(|index| lengths.piece(index))
                else {
                    return;
                };
                let hashed = self.piece(index.index());
                let Ok(mut runs) = self.runs.lock() else { return };
                match hashed {
                    Ok(Some(hashed)) => {
                        *piece = self.work.judge(index.index(), &hashed);
                        if let Some(hash) = hashes.as_mut().and_then(|hashes| hashes.get_mut(at)) {
                            (*hash, *piece) = (hashed.v1, Piece::Right);
                        }
                    }
                    Ok(None) => {}
                    Err(trouble) => {
                        runs.failed.get_or_insert(trouble);
                    }
                }
                if runs.failed.is_some() {
                    return;
                }
                runs.done += u64::from(lengths.size(index));
                let done = runs.done;
                drop(runs);
                tell(done);
            }
        }
    }

    /// Hashes a piece; `None` where not all of it is there.
    fn piece(&mut self, index: u32) -> Result<Option<Hashed>, Trouble> {
        let Reader { work, open, buffer, .. } = self;
        let Work { survey, layout, tree, place, .. } = work;
        let has_v1 = survey.format() != "v2";
        let leaf = work.leaf(index).map(|(leaf, _)| leaf);
        let (mut v1, mut blocks) = (Sha1::new(), Blocks::default());
        let length = layout.lengths().piece_length();
        for span in layout.spans(u64::from(index) * u64::from(length), u64::from(length)) {
            if span.pad {
                if has_v1 {
                    zeros(&mut v1, span.len);
                }
                continue;
            }
            let whole = stored(open, tree, layout, place, span, buffer, &mut |bytes| {
                if has_v1 {
                    v1.update(bytes);
                }
                if leaf.is_some() {
                    blocks.update(bytes);
                }
            })?;
            if !whole {
                return Ok(None);
            }
        }
        // Of a file of one piece the tree is only as high as it needs to be.
        let levels = leaf.map(|leaf| if leaf.pieces.len() > 1 { merkle::levels(length) } else { 0 });
        Ok(Some(Hashed { v1: v1.finalize().into(), v2: levels.map(|levels| blocks.root(levels)) }))
    }
}

impl Work<'_> {
    /// The file of the v2 half that a piece is of, and the piece's hash.
    fn leaf(&self, index: u32) -> Option<(&Leaf<'_>, &[u8; 32])> {
        let at = self.leaves.partition_point(|(first, _)| *first <= index).checked_sub(1)?;
        let (first, leaf) = self.leaves.get(at)?;
        Some((*leaf, leaf.pieces.get((index - first) as usize)?))
    }

    fn judge(&self, index: u32, hashed: &Hashed) -> Piece {
        let v1 = self.survey.pieces.get(index as usize).map(|hash| *hash == hashed.v1);
        let v2 = self.leaf(index).map(|(_, hash)| Some(*hash) == hashed.v2);
        match (v1, v2) {
            (Some(true), Some(false)) | (Some(false), Some(true)) => Piece::Torn,
            (Some(false), _) | (_, Some(false)) | (None, None) => Piece::Wrong,
            (Some(true), _) | (_, Some(true)) => Piece::Right,
        }
    }
}

/// The tree over a piece's blocks, as its bytes come in.
#[derive(Default)]
struct Blocks {
    tree: merkle::Tree,
    sha: Sha256,
    /// Bytes of the block that is begun.
    begun: usize,
}

impl Blocks {
    fn update(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let (here, rest) = bytes.split_at(bytes.len().min(BLOCK as usize - self.begun));
            self.sha.update(here);
            self.begun += here.len();
            bytes = rest;
            if self.begun == BLOCK as usize {
                self.end_block();
            }
        }
    }

    fn end_block(&mut self) {
        self.tree.push(&self.sha.finalize_reset().into());
        self.begun = 0;
    }

    fn root(mut self, levels: u32) -> [u8; 32] {
        if self.begun > 0 {
            self.end_block();
        }
        self.tree.root(levels, [0; 32])
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::tests::World;
    use super::*;

    #[test]
    fn the_command_line_hears_what_is_wrong_with_each_file() {
        let world = World::new();
        let files: [(&str, &[u8]); 5] =
            [("a", &[1; 30]), ("b", &[2; 10]), (".pad/10", &[0; 10]), ("c", &[3; 30]), ("d", &[4; 10])];
        let torrent = world.torrent("t", 10, &files);
        let bytes = fs::read(&torrent.place.torrent).unwrap();
        let survey = Survey::read(&bytes).unwrap();
        let verdict = |jobs| {
            let (mut last, Place { torrent, data, .. }) = ((0, 0), &torrent.place);
            let told = check(&survey, torrent, data, jobs, &mut |done, total| last = (done, total));
            assert!(told.is_err() || last == (90, 90));
            told
        };
        let whole = verdict(1).unwrap();
        assert!(whole.is_whole());
        assert_eq!((whole.right, whole.pieces), (9, 9));
        world.temp.file("root/t/a", &[&[1; 5][..], &[9; 20], &[1; 5]].concat());
        fs::remove_file(world.temp.path("root/t/b")).unwrap();
        world.temp.file("root/t/c", &[3; 25]);
        world.temp.file("root/t/d", &[4; 11]);
        let path = |name: &str| world.temp.path("root/t").join(name).to_string_lossy().into_owned();
        for jobs in [1, 3] {
            let verdict = verdict(jobs).unwrap();
            assert_eq!(verdict.right, 4);
            assert_eq!(
                verdict.files,
                [
                    (path("a"), Flaw::Wrong(3, 3)),
                    (path("b"), Flaw::Absent),
                    (path("c"), Flaw::Short(25)),
                    (path("d"), Flaw::Long(1))
                ]
            );
        }
        fs::remove_dir_all(world.temp.path("root/t")).unwrap();
        assert!(verdict(1).is_err());
    }
}

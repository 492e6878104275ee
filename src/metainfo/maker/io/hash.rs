//! Hashes the content: each byte is read once, for all hashes that the format has, by as many threads as are wished.
//!
//! Read first: BEP 3 (`pieces`), 52 (leaves of 16 KiB). Pieces are taken in runs, so that several threads do not make a
//! disk seek for every piece. An MD5 goes through a file from its start, so with it there is one thread. Holds 128 KiB a
//! thread and the hashes.
#![expect(clippy::disallowed_types, reason = "I/O shell")]

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::slice::ChunksMut;
use std::sync::Mutex;
use std::thread;

use rustix::fs::{Advice, OFlags, fadvise};
use sha1::{Digest, Sha1};
use sha2::Sha256;

use super::super::md5::Md5;
use super::super::{Hashes, Plan};
use super::{Error, MAX_JOBS, below, unchanged};
use crate::metainfo::merkle::{self, Tree};
use crate::piece::BLOCK;

/// Bytes of one read: it stays in the processor's own memory until all hashes have seen it.
const READ: usize = 128 * 1024;

/// Bytes of a leaf of BEP 52; a read is a whole number of them.
const LEAF: usize = BLOCK as usize;

/// Bytes that one job takes at a time.
const RUN: u32 = 8 << 20;

/// What the jobs share.
struct Shared<'h> {
    /// The number of the next run.
    run: u32,
    pieces: ChunksMut<'h, [u8; 20]>,
    nodes: ChunksMut<'h, [u8; 32]>,
    /// Bytes that are hashed.
    done: u64,
    failed: Option<Error>,
}

/// What one job holds.
struct Job<'a, 'h> {
    root: &'a Path,
    plan: &'a Plan,
    shared: &'a Mutex<Shared<'h>>,
    /// Pieces of a run.
    run: u32,
    /// The file that was read last.
    open: Option<(usize, File)>,
    buffer: Vec<u8>,
    /// The MD5 of the file that is being read, and of those before it.
    md5: Option<(Md5, Vec<[u8; 16]>)>,
    /// The job that runs where the progress is told.
    progress: Option<&'a mut dyn FnMut(u64, u64)>,
}

/// The hashes of one piece as its bytes come in.
struct Piece {
    sha1: Option<Sha1>,
    tree: Option<Tree>,
}

/// All that the torrent holds of its content.
pub(super) fn hash(
    root: &Path,
    plan: &Plan,
    md5: bool,
    jobs: usize,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Hashes, Error> {
    let count = |has: bool| usize::try_from(if has { plan.lengths.piece_count() } else { 0 }).unwrap_or(0);
    let mut pieces = vec![[0; 20]; count(plan.format.is_v1())];
    let mut nodes = vec![[0; 32]; count(plan.format.is_v2())];
    let run = (RUN / plan.lengths.piece_length()).max(1);
    let chunk = usize::try_from(run).unwrap_or(1);
    let (jobs, total) = (if md5 { 1 } else { jobs.clamp(1, MAX_JOBS) }, plan.content);
    progress(0, total);
    let (pieces_left, nodes_left) = (pieces.chunks_mut(chunk), nodes.chunks_mut(chunk));
    let shared = Mutex::new(Shared { run: 0, pieces: pieces_left, nodes: nodes_left, done: 0, failed: None });
    let job = || Job {
        root,
        plan,
        shared: &shared,
        run,
        open: None,
        buffer: vec![0; READ],
        md5: None,
        progress: None,
    };
    let mut own = Job { md5: md5.then(Default::default), progress: Some(progress), ..job() };
    thread::scope(|scope| {
        for _ in 1..jobs {
            // Where there is no further thread this one does more.
            let _ = thread::Builder::new().spawn_scoped(scope, || job().work());
        }
        own.work();
    });
    let Job { md5, progress, .. } = own;
    // A thread that panics has ended the program.
    if let Some(error) = shared.lock().ok().and_then(|mut shared| shared.failed.take()) {
        return Err(error);
    }
    if let Some(progress) = progress {
        progress(total, total);
    }
    drop(shared);
    let md5 = md5.map(|(last, digests)| with_last(plan, last, digests)).unwrap_or_default();
    Ok(Hashes { pieces, nodes, md5 })
}

/// The digests of all files: behind the last one with a byte in it there may be empty ones.
fn with_last(plan: &Plan, last: Md5, mut digests: Vec<[u8; 16]>) -> Vec<[u8; 16]> {
    digests.push(last.finish());
    digests.resize(plan.files.len(), Md5::new().finish());
    digests
}

impl Job<'_, '_> {
    /// Takes runs of pieces until there is none left, or a job has failed.
    fn work(&mut self) {
        loop {
            let Ok(mut shared) = self.shared.lock() else { return };
            let (first, failed) = (shared.run.saturating_mul(self.run), shared.failed.is_some());
            if failed || self.plan.lengths.piece(first).is_none() {
                return;
            }
            shared.run += 1;
            let (pieces, nodes) = (shared.pieces.next(), shared.nodes.next());
            drop(shared);
            if let Err(error) = self.run(first, pieces.unwrap_or_default(), nodes.unwrap_or_default()) {
                if let Ok(mut shared) = self.shared.lock() {
                    shared.failed.get_or_insert(error);
                }
                return;
            }
        }
    }

    fn run(&mut self, first: u32, pieces: &mut [[u8; 20]], nodes: &mut [[u8; 32]]) -> Result<(), Error> {
        let count = pieces.len().max(nodes.len());
        for (number, i) in (first..).zip(0..count) {
            let mut piece = Piece {
                sha1: (!pieces.is_empty()).then(Sha1::new),
                tree: (!nodes.is_empty()).then(Tree::new),
            };
            let levels = self.piece(number, &mut piece)?;
            if let (Some(hash), Some(sha1)) = (pieces.get_mut(i), piece.sha1) {
                *hash = sha1.finalize().into();
            }
            if let (Some(node), Some(tree)) = (nodes.get_mut(i), piece.tree) {
                *node = tree.root(levels, [0; 32]);
            }
        }
        Ok(())
    }

    /// Feeds a piece to its hashes; the levels of its tree come back.
    fn piece(&mut self, number: u32, piece: &mut Piece) -> Result<u32, Error> {
        let plan = self.plan;
        let Some(index) = plan.lengths.piece(number) else { return Ok(0) };
        let mut offset = plan.lengths.offset(index);
        let end = offset + u64::from(plan.lengths.size(index));
        let mut levels = 0;
        while offset < end {
            let file = plan.ends.partition_point(|end| *end <= offset);
            let Some(entry) = plan.files.get(file) else { break };
            let start = plan.ends[file] - entry.length;
            let most = |to: u64| usize::try_from(to.min(end) - offset).map_or(READ, |most| most.min(READ));
            if offset < start {
                let zeros = most(start);
                self.buffer[..zeros].fill(0);
                // They are no part of a tree.
                if let Some(sha1) = &mut piece.sha1 {
                    sha1.update(&self.buffer[..zeros]);
                }
                offset += zeros as u64;
                continue;
            }
            if entry.length > plan.lengths.piece_length().into() {
                levels = merkle::levels(plan.lengths.piece_length());
            }
            let bytes = most(plan.ends[file]);
            self.fill(file, offset - start, bytes)?;
            piece.update(&self.buffer[..bytes]);
            if let Some((md5, digests)) = &mut self.md5 {
                while digests.len() < file {
                    digests.push(std::mem::take(md5).finish());
                }
                md5.update(&self.buffer[..bytes]);
            }
            offset += bytes as u64;
            self.tell(bytes as u64);
        }
        Ok(levels)
    }

    /// Reads so many bytes of a file, all of them.
    fn fill(&mut self, file: usize, offset: u64, bytes: usize) -> Result<(), Error> {
        if self.open.as_ref().is_none_or(|(open, _)| *open != file) {
            self.open = Some((file, self.start(file)?));
        }
        let Some((_, open)) = &self.open else { return Ok(()) };
        open.read_exact_at(&mut self.buffer[..bytes], offset).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => Error::Changed(self.path(file)),
            _ => Error::io(&self.path(file), error),
        })
    }

    fn start(&self, file: usize) -> Result<File, Error> {
        let path = self.path(file);
        // A name that became a link or a pipe since the walk neither leads away nor blocks.
        let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
        let opened = OpenOptions::new().read(true).custom_flags(flags).open(&path);
        let io = |error| Error::io(&path, error);
        let open = opened.map_err(io)?;
        let metadata = open.metadata().map_err(io)?;
        let entry = self.plan.files.get(file).filter(|entry| unchanged(&metadata, entry));
        let Some(entry) = entry else { return Err(Error::Changed(path)) };
        if entry.length > READ as u64 {
            // The kernel reads further ahead; where it does not, it is slower and nothing else.
            let _ = fadvise(&open, 0, None, Advice::Sequential);
        }
        Ok(open)
    }

    fn path(&self, file: usize) -> PathBuf {
        below(self.root, self.plan.files.get(file).map_or("", |file| file.path.as_str()))
    }

    fn tell(&mut self, bytes: u64) {
        let Ok(mut shared) = self.shared.lock() else { return };
        shared.done += bytes;
        let done = shared.done;
        drop(shared);
        if let Some(progress) = &mut self.progress {
            progress(done, self.plan.content);
        }
    }
}

impl Piece {
    fn update(&mut self, bytes: &[u8]) {
        if let Some(sha1) = &mut self.sha1 {
            sha1.update(bytes);
        }
        if let Some(tree) = &mut self.tree {
            bytes.chunks(LEAF).for_each(|leaf| tree.push(&Sha256::digest(leaf).into()));
        }
    }
}

//! What the storage thread is asked, and what it answers.
//!
//! Holds what a job is about; the buffers of received blocks pass through it and back.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::files::OpenFile;
use crate::config::Disk;
use crate::have::Have;
use crate::ident::Ident;
use crate::metainfo::magnet::Magnet;
use crate::metainfo::{InfoHash, Summary};
use crate::storage::intake::Filled;
use crate::storage::resume::{Record, Stamp};
use crate::storage::{Layout, Trouble};
use crate::watch::Listing;

/// Where a torrent lies.
#[derive(Clone, Debug)]
pub struct Place {
    /// Its .torrent.
    pub torrent: Arc<Path>,
    /// Which file that was when it was loaded.
    pub ident: Ident,
    /// Its data: the file, or the folder of its files.
    pub data: Arc<Path>,
    /// Where its data is as well looked for.
    pub other: Option<Arc<Path>>,
    /// The data root, which must exist and which nothing below it may lead out of. Data elsewhere has the directory
    /// it stands in for its root, and may itself be a link.
    pub root: Arc<Path>,
    /// `data` was kept over a rename of the .torrent.
    pub kept: bool,
    /// `data` was named by the user, beside the .torrent: the path on record is not looked at.
    pub sidecar: bool,
}

/// A buffer of received blocks, and what they belong to. Fragments of other torrents are passed over.
#[derive(Debug)]
pub struct Batch {
    /// The blocks.
    pub filled: Filled,
    /// Their torrents.
    pub targets: Vec<Target>,
}

/// A torrent that blocks of a batch belong to.
#[derive(Debug)]
pub struct Target {
    /// The torrent's key in the session, as in [`crate::storage::intake::Write`].
    pub key: u32,
    /// The torrent.
    pub info_hash: InfoHash,
    /// Where it lies.
    pub place: Place,
    /// Its pieces that are to be hashed on.
    pub pieces: Vec<Progress>,
}

/// How far a piece is received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// The piece.
    pub piece: u32,
    /// Bytes received from its start on without a gap, in this batch or before: they are hashed, and a piece of which
    /// that is all gets its verdict.
    pub ready: u32,
    /// Its blocks' digests are wanted also if it is right.
    pub digests: bool,
}

/// What has come of a [`Target`].
#[derive(Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The torrent's key.
    pub key: u32,
    /// Why nothing more is written of it until the next [`Job::Prepare`]. Of blocks that were received and not put on
    /// record nothing is certain then.
    pub trouble: Option<Trouble>,
    /// The pieces that are received as a whole, in the order in which they were named.
    pub hashed: Vec<Hashed>,
}

/// The verdict on a piece.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hashed {
    /// The piece.
    pub piece: u32,
    /// Its hash is that of the .torrent.
    pub good: bool,
    /// The first eight bytes of the SHA-1 of each of its blocks of 16 KiB, where it is not good or they were wanted.
    pub digests: Box<[u64]>,
}

/// Something for the thread to do. Each is answered by the [`Done`] of the same name, but for the last five.
#[derive(Debug)]
pub enum Job {
    /// List the watched directories, unless that gives the listing of this fingerprint again.
    Scan {
        /// The directories.
        roots: Arc<[PathBuf]>,
        /// Fingerprint of the last listing, 0 for none.
        known: u64,
    },
    /// Read a .torrent.
    Load {
        /// Its path.
        path: Arc<Path>,
    },
    /// Read a .magnet.
    Link {
        /// Its path.
        path: Arc<Path>,
    },
    /// Verify the metadata that a link names, and write it as a .torrent.
    Keep {
        /// The torrent's key in the session.
        key: u32,
        /// The info dictionary.
        pieces: Vec<Box<[u8]>>,
        /// What the .magnet holds.
        link: Box<Magnet>,
        /// The .magnet.
        path: Arc<Path>,
    },
    /// Read a piece of metadata.
    Metadata {
        /// The torrent's key in the session.
        key: u32,
        /// Key of the peer that waits.
        peer: u32,
        /// Where it lies.
        place: Place,
        /// Which piece.
        piece: u32,
        /// Its bytes in the .torrent.
        at: Range<u32>,
    },
    /// Compare a torrent's files with its record.
    Check {
        /// The torrent's key in the session.
        key: u32,
        /// The torrent.
        info_hash: InfoHash,
        /// Where it lies.
        place: Place,
    },
    /// Hash some pieces. The answer tells which were done: maybe only the first of them.
    Verify {
        /// The torrent's key in the session.
        key: u32,
        /// Where it lies.
        place: Place,
        /// The pieces.
        pieces: Range<u32>,
    },
    /// Tell of which torrents the data is gone.
    Probe(Vec<(u32, Place)>),
    /// Read the list of files.
    Layout {
        /// The torrent's key in the session.
        key: u32,
        /// Where it lies.
        place: Place,
    },
    /// Bring a range of a file into the page cache, opening the file if need be.
    Read {
        /// The torrent's key in the session.
        key: u32,
        /// Key of the peer that waits.
        peer: u32,
        /// The torrent.
        info_hash: InfoHash,
        /// Where it lies.
        place: Place,
        /// Number of the file.
        file: u32,
        /// Its path, [`Layout::path`].
        path: PathBuf,
        /// First byte.
        offset: u64,
        /// Bytes.
        len: u64,
        /// Bytes from `offset` on that will be wanted soon: the disk may begin with them.
        ahead: u64,
        /// The file, if it is open.
        fd: Option<Arc<OpenFile>>,
    },
    /// Tell whether a torrent may be written, and begin: until the `Save` that ends it, its files may change, so they are
    /// no more compared with their stamps. Half-hashed pieces of it are forgotten.
    Prepare {
        /// The torrent's key in the session.
        key: u32,
        /// The torrent.
        info_hash: InfoHash,
        /// Where it lies.
        place: Place,
    },
    /// Write received blocks, and hash their pieces as far as they are received. A few are taken at a time.
    Write(Box<Batch>),
    /// Sync what was written of a torrent, and only then put it on record. Always taken.
    Save {
        /// The torrent's key in the session.
        key: u32,
        /// Where it lies.
        place: Place,
        /// The record, whose `stamps` and `open` are filled in here.
        record: Box<Record>,
        /// More will be written. Otherwise its files are closed and compared with their stamps again; of a torrent that
        /// is whole the empty files are made.
        open: bool,
    },
    /// Write what has changed of the records.
    Flush,
    /// Read the nodes of the DHT that were saved. The answer tells as well whether state is there.
    LoadNodes,
    /// Read what is on record of a torrent that a magnet link names. Answered by [`Done::Kept`] where a .torrent was made of
    /// it before.
    Recall {
        /// The torrent's key in the session.
        key: u32,
        /// The torrent.
        info_hash: InfoHash,
        /// The .magnet.
        path: Arc<Path>,
    },
    /// Write as these settings say. Always taken.
    Disk(Disk),
    /// Save the nodes of the DHT. Always taken.
    SaveNodes(Box<[u8]>),
    /// Remember a torrent, at the next flush. Without `verified`, that and the path of the data stay as they are on
    /// record. Always taken.
    Record(Box<Record>),
    /// Torrents have gone: not all of their records are kept for ever. Always taken.
    Left {
        /// Which just now: their records are.
        left: Box<[InfoHash]>,
        /// All that are there, sorted.
        there: Box<[InfoHash]>,
    },
    /// Delete what was made of a magnet link that is gone. Always taken.
    Discard {
        /// Which torrent.
        info_hash: InfoHash,
        /// The .torrent that may have been made of it.
        beside: Option<Arc<Path>>,
    },
    /// End, once what was given before is done but for hashing and reading. Always taken.
    Stop,
}

/// What has come of a [`Job`].
#[derive(Debug)]
pub enum Done {
    /// What is in the watched directories; `None` if it is what it was.
    Scanned(Option<Box<Listing>>),
    /// A .torrent.
    Loaded {
        /// Its path.
        path: Arc<Path>,
        /// Which file it was; all zeros where it could not be looked at.
        ident: Ident,
        /// The torrent, or why it is refused.
        result: Result<Box<Loaded>, String>,
    },
    /// A magnet link.
    Linked {
        /// Path of the .magnet.
        path: Arc<Path>,
        /// Which file it was; all zeros where it could not be looked at.
        ident: Ident,
        /// The link, or why it is refused.
        result: Result<Box<Linked>, String>,
    },
    /// Metadata was verified and written.
    Kept {
        /// The torrent's key.
        key: u32,
        /// The .torrent, or why there is none.
        result: Result<Box<Kept>, Unkept>,
    },
    /// A piece of metadata.
    Metadata {
        /// The torrent's key.
        key: u32,
        /// Key of the peer that waits.
        peer: u32,
        /// Which piece.
        piece: u32,
        /// Its bytes.
        result: Result<Box<[u8]>, Trouble>,
    },
    /// Files compared with the record.
    Checked {
        /// The torrent's key.
        key: u32,
        /// The record without `verified`, also where there is trouble.
        known: Result<Option<Box<Record>>, Away>,
        /// What is right and what is to be hashed.
        result: Result<Checked, Trouble>,
    },
    /// Pieces hashed.
    Verified {
        /// The torrent's key.
        key: u32,
        /// Those that were hashed: the first of those asked for.
        pieces: Range<u32>,
        /// For each of them whether it was right.
        good: Vec<bool>,
        /// Why there are no more.
        trouble: Option<Trouble>,
    },
    /// Torrents whose data is gone.
    Lost(Vec<(u32, Trouble)>),
    /// A torrent's files.
    LaidOut {
        /// The torrent's key.
        key: u32,
        /// The files, and where they are on the web.
        result: Result<Box<LaidOut>, Trouble>,
    },
    /// A range is in the page cache.
    Read {
        /// The torrent's key.
        key: u32,
        /// Key of the peer that waits.
        peer: u32,
        /// Number of the file.
        file: u32,
        /// The file, if it was not open before.
        result: Result<Option<OpenFile>, Trouble>,
    },
    /// Whether a torrent may be written.
    Prepared {
        /// The torrent's key.
        key: u32,
        /// What is to be minded there, or why not.
        result: Result<Prepared, Trouble>,
    },
    /// Blocks are written.
    Wrote {
        /// The buffer they were in.
        bytes: Box<[u8]>,
        /// What came of each target.
        outcomes: Vec<Outcome>,
    },
    /// A torrent is synced and put on record; if not, its record is as before, and pieces that are not on it must be
    /// checked.
    Saved {
        /// The torrent's key.
        key: u32,
        /// Why not.
        result: Result<(), Trouble>,
    },
    /// Records are written, or why not: logged by the thread, once.
    Flushed(Result<(), String>),
    /// The nodes of the DHT as they were saved; empty where there are none.
    Nodes(Result<Box<[u8]>, Away>),
    /// What is on record of a torrent.
    Recalled {
        /// The torrent's key.
        key: u32,
        /// The record without `verified`.
        known: Result<Option<Box<Record>>, Away>,
    },
}

/// The state directory is not there, and may come with its disk: what is on record is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Away;

/// What a .torrent says of where its data is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LaidOut {
    /// On disk.
    pub layout: Layout,
    /// On the web (BEP 19).
    pub web_seeds: Vec<String>,
    /// The same for BEP 17.
    pub http_seeds: Vec<String>,
}

/// What is to be minded in writing a torrent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prepared {
    /// The file system fills the room before a far write with zeros: pieces are to be fetched in a growing window.
    pub window: bool,
}

/// A .torrent as it was read.
#[derive(Debug)]
pub struct Loaded {
    /// What the session keeps.
    pub summary: Summary,
    /// The path in the sidecar beside it (`NAME.where`), which is absolute.
    pub sidecar: Option<PathBuf>,
}

/// A magnet link as it was read.
#[derive(Debug)]
pub struct Linked {
    /// What it says.
    pub link: Magnet,
    /// The .torrent, where it was made before and kept in the state directory.
    pub kept: Option<Kept>,
}

/// A .torrent that was made of a magnet link.
#[derive(Debug)]
pub struct Kept {
    /// Its path.
    pub path: Arc<Path>,
    /// Which file that is.
    pub ident: Ident,
    /// What it says.
    pub loaded: Loaded,
}

/// Why metadata became no .torrent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unkept {
    /// It is not what the link names.
    Wrong,
    /// It is, and we take no such torrent.
    Unfit(String),
    /// The system refused.
    Unwritten(String),
}

/// What comparing a torrent's files with its record has found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checked {
    /// Where the data is: [`Place::data`], [`Place::other`], or the path on record.
    pub data: Arc<Path>,
    /// What [`Place::kept`] must say from now on.
    pub kept: bool,
    /// Pieces known to be right.
    pub have: Have,
    /// Pieces to be hashed.
    pub todo: Have,
    /// Pieces to be hashed if nothing were known.
    pub all: Have,
    /// The files, for the record.
    pub stamps: Box<[Stamp]>,
    /// A sum over the stamps.
    pub fingerprint: u64,
}

impl Job {
    pub(super) fn is_answered(&self) -> bool {
        !matches!(
            self,
            Job::Disk(_)
                | Job::Record(_)
                | Job::SaveNodes(_)
                | Job::Left { .. }
                | Job::Discard { .. }
                | Job::Stop
        )
    }
}

//! Comparing the files of a torrent with its record: what is known to be right, and what must be hashed.
//!
//! One `stat` a file, no byte read. Files that have not changed since they were hashed need no hashing; of the others
//! only the pieces that touch them do; what is not there needs none either. Of files that were being written the pieces
//! on record need none, and of the others those where something was written. Holds one byte a piece and 24 a file
//! while it works, and only where something differs from the record.

use std::hash::{Hash, Hasher};
use std::path::Path;
use std::sync::Arc;

use super::hashing::parse_torrent;
use super::records::Records;
use super::tree::{Tree, exists, hashed, missing, read_sidecar};
use super::{Checked, Done, Place};
use crate::have::Have;
use crate::ident::Fingerprint;
use crate::metainfo::InfoHash;
use crate::storage::resume::{Record, Stamp, Verified};
use crate::storage::{Layout, Trouble};

/// What is to be done about a piece.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Piece {
    /// What the record says.
    AsRecorded,
    /// It must be hashed.
    Changed,
    /// It lies in a file that was being written: it must be hashed if it is not on record.
    Open,
    /// The same, and some of it was never written.
    Hole,
    /// Some of it is not there.
    Missing,
}

/// Compares; the record, if there is one, is told in any case, without what hashing had found.
pub(super) fn compare(
    key: u32,
    info_hash: InfoHash,
    place: &Place,
    records: &Records,
    buffer: &mut Vec<u8>,
) -> Done {
    let (known, verified) = records.recall(&info_hash);
    let record = known.as_ref().ok().and_then(|known| known.as_deref());
    let result = against(info_hash, place, records, record, verified, buffer);
    Done::Checked { key, known, result }
}

fn against(
    info_hash: InfoHash,
    place: &Place,
    records: &Records,
    known: Option<&Record>,
    verified: Option<Verified>,
    buffer: &mut Vec<u8>,
) -> Result<Checked, Trouble> {
    let (_, metainfo) = parse_torrent(place, buffer)?;
    if metainfo.info_hash != info_hash {
        return Err(Trouble::TorrentChanged);
    }
    let had_data = records.had_data(&info_hash);
    let (place, kept) = choose(place, records, known)?;
    let layout = Layout::new(&metainfo, place.data.clone());
    drop(metainfo);
    let tree = Tree::open(&place, layout.is_multi_file())?;
    let stamps = stamps(&tree, &layout, &place)?;
    let needed = |file: &u32| layout.is_needed(*file);
    let present = |file: u32| stamps.get(file as usize).is_some_and(|stamp| *stamp != Stamp::ABSENT);
    if (0..layout.file_count()).any(|file| needed(&file))
        && !(0..layout.file_count()).filter(needed).any(present)
    {
        return Err(missing(&place, had_data));
    }
    let (have, todo, all) = match verified.filter(|verified| verified.fits(&layout)) {
        Some(verified) if known.is_some_and(|record| record.open) => {
            judge_open(&layout, &tree, &stamps, &verified)?
        }
        // Whoever wrote the sidecar may have hashed the files: they are not hashed again, if they are the same.
        None if place.sidecar && is_hashed(&info_hash, &place, &stamps) => {
            (Have::All, Have::None, whole(&layout, &stamps))
        }
        verified => judge(&layout, &stamps, verified),
    };
    let fingerprint = fingerprint(&stamps);
    Ok(Checked { data: place.data, kept, have, todo, all, stamps, fingerprint })
}

/// Where the data is: the path that was kept over a rename comes first, unless the user has named another.
fn choose(place: &Place, records: &Records, known: Option<&Record>) -> Result<(Place, bool), Trouble> {
    let recorded = known.and_then(|record| record.data.as_ref()).filter(|_| !place.sidecar);
    let mut found = place.clone();
    let differs = |path: &&Arc<Path>| ***path != *place.data;
    let candidates = [recorded.filter(differs), Some(&place.data), place.other.as_ref().filter(differs)];
    if candidates.iter().flatten().count() > 1
        && let Some(path) = candidates
            .into_iter()
            .flatten()
            .find(|path| exists(path) != Ok(false) && !records.holds(&place.root, path))
    {
        found.data = path.clone();
    }
    if records.holds(&found.root, &found.data) {
        return Err(Trouble::Ours(found.data.to_path_buf()));
    }
    // Where neither exists, the next record must not forget the old path.
    let kept = place.kept || recorded.is_some_and(|path| *path == found.data);
    Ok((found, kept))
}

fn stamps(tree: &Tree, layout: &Layout, place: &Place) -> Result<Box<[Stamp]>, Trouble> {
    let mut stamps = vec![Stamp::ABSENT; layout.file_count() as usize];
    let mut looked = false;
    for file in (0..layout.file_count()).filter(|&file| layout.is_needed(file)) {
        let stamp = tree.stamp(layout, file)?;
        // Of a folder that is not there no file is.
        if stamp == Stamp::ABSENT && !std::mem::replace(&mut looked, true) && exists(&place.data) == Ok(false)
        {
            break;
        }
        stamps[file as usize] = stamp;
    }
    Ok(stamps.into())
}

/// Whether the sidecar says that these files were hashed when they were what they are.
fn is_hashed(info_hash: &InfoHash, place: &Place, stamps: &[Stamp]) -> bool {
    let hint = read_sidecar(&place.torrent).ok().flatten();
    hint.is_some_and(|(data, hint)| *data == *place.data && hint == hashed(info_hash, stamps))
}

/// What is right, what is to be hashed, and what would be to be hashed without the record.
fn judge(layout: &Layout, stamps: &[Stamp], verified: Option<Verified>) -> (Have, Have, Have) {
    let all = whole(layout, stamps);
    let Some(verified) = verified else { return (Have::None, all.clone(), all) };
    if *verified.stamps == *stamps {
        return (verified.have, verified.todo, all);
    }
    let mut pieces = vec![Piece::AsRecorded; layout.lengths().piece_count() as usize];
    for file in (0..layout.file_count()).filter(|&file| layout.is_needed(file)) {
        if verified.stamps[file as usize] != stamps[file as usize] {
            mark(&mut pieces, layout.pieces(layout.range(file)), Piece::Changed);
        }
    }
    mark_missing(&mut pieces, layout, stamps);
    let (have, todo) = sort_out(&pieces, &verified);
    (have, todo, all)
}

/// The same where files were open for writing: what is on record was safe on disk before.
fn judge_open(
    layout: &Layout,
    tree: &Tree,
    stamps: &[Stamp],
    verified: &Verified,
) -> Result<(Have, Have, Have), Trouble> {
    let mut pieces = vec![Piece::AsRecorded; layout.lengths().piece_count() as usize];
    let needed = || (0..layout.file_count()).filter(|&file| layout.is_needed(file));
    let is_open = |file: u32| layout.pieces(layout.range(file)).any(|piece| !verified.have.contains(piece));
    for file in needed().filter(|&file| is_open(file)) {
        mark(&mut pieces, layout.pieces(layout.range(file)), Piece::Open);
    }
    for file in needed().filter(|&file| is_open(file) && stamps[file as usize] != Stamp::ABSENT) {
        let range = layout.range(file);
        tree.holes(layout, file, range.end - range.start, &mut |hole| {
            let hole = range.start + hole.start..range.start + hole.end;
            mark(&mut pieces, layout.pieces(hole), Piece::Hole);
        })?;
    }
    for file in needed().filter(|&file| !is_open(file)) {
        if verified.stamps[file as usize] != stamps[file as usize] {
            mark(&mut pieces, layout.pieces(layout.range(file)), Piece::Changed);
        }
    }
    mark_missing(&mut pieces, layout, stamps);
    let (have, todo) = sort_out(&pieces, verified);
    Ok((have, todo, whole(layout, stamps)))
}

/// The pieces that are right, and those to be hashed.
fn sort_out(pieces: &[Piece], verified: &Verified) -> (Have, Have) {
    let recorded = |piece: u32| verified.have.contains(piece) && !verified.todo.contains(piece);
    let state = |piece: u32| pieces.get(piece as usize).copied().unwrap_or(Piece::Missing);
    let have = Have::from_fn(verified.pieces, |piece| {
        recorded(piece) && matches!(state(piece), Piece::AsRecorded | Piece::Open)
    });
    let todo = Have::from_fn(verified.pieces, |piece| match state(piece) {
        Piece::AsRecorded => verified.todo.contains(piece),
        Piece::Changed => true,
        Piece::Open => !recorded(piece),
        // What was on record and is not there is not to be trusted.
        Piece::Hole => recorded(piece),
        Piece::Missing => false,
    });
    (have, todo)
}

/// The pieces of which every byte has a place in a file that is there.
fn whole(layout: &Layout, stamps: &[Stamp]) -> Have {
    let is_short = |file: u32| {
        let (range, stamp) = (layout.range(file), stamps[file as usize]);
        layout.is_needed(file) && (stamp == Stamp::ABSENT || stamp.size < range.end - range.start)
    };
    if !(0..layout.file_count()).any(is_short) {
        return Have::All;
    }
    let count = layout.lengths().piece_count();
    let mut pieces = vec![Piece::Changed; count as usize];
    mark_missing(&mut pieces, layout, stamps);
    Have::from_fn(count, |piece| pieces.get(piece as usize) == Some(&Piece::Changed))
}

fn mark_missing(pieces: &mut [Piece], layout: &Layout, stamps: &[Stamp]) {
    for file in (0..layout.file_count()).filter(|&file| layout.is_needed(file)) {
        let (range, stamp) = (layout.range(file), stamps[file as usize]);
        let there = if stamp == Stamp::ABSENT { 0 } else { stamp.size };
        let from = range.start.saturating_add(there);
        if from < range.end {
            mark(pieces, layout.pieces(from..range.end), Piece::Missing);
        }
    }
}

fn mark(pieces: &mut [Piece], range: std::ops::Range<u32>, as_what: Piece) {
    if let Some(pieces) = pieces.get_mut(range.start as usize..range.end as usize) {
        pieces.fill(as_what);
    }
}

impl Verified {
    /// Whether it is of a torrent that is cut like this one.
    fn fits(&self, layout: &Layout) -> bool {
        self.pieces == layout.lengths().piece_count() && self.stamps.len() == layout.file_count() as usize
    }
}

fn fingerprint(stamps: &[Stamp]) -> u64 {
    let mut sum = Fingerprint::default();
    for stamp in stamps {
        (stamp.size, stamp.mtime_secs, stamp.mtime_nanos).hash(&mut sum);
    }
    sum.finish()
}

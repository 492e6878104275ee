//! Files that are open for writing, and how much may be written before the disk is too full.
//!
//! Read first: pwritev(2), fallocate(2). Holds at most [`OUTPUTS`] descriptors, and a number for each of a few file
//! systems.

use std::io::IoSlice;
use std::os::fd::OwnedFd;

use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::{Errno, pwritev};

use super::fault::attempt;
use super::hashing::Hashing;
use super::prepare::{allocated, free};
use super::tree::number;
use super::write::Unsaved;
use crate::config::Disk;
use crate::metainfo::InfoHash;
use crate::storage::{Layout, Room, Span, Trouble};

/// Files open for writing at a time, of all torrents: blocks of one batch mostly lie in one or two.
const OUTPUTS: usize = 8;

/// Bytes after which a file system is asked at the latest how much it has free: others write, too.
const ASK: u64 = 16 << 20;

/// File systems whose room is remembered.
const ROOMS: usize = 4;

/// Parts of one write. With more of them it is two.
const PARTS: usize = 64;

/// A stretch of one file that is written with one call.
pub(super) struct Run<'a> {
    file: u32,
    offset: u64,
    len: u64,
    parts: [IoSlice<'a>; PARTS],
    count: usize,
}

/// The files that are open for writing, the one used last at the end.
#[derive(Default)]
pub(super) struct Outputs {
    disk: Disk,
    open: Vec<Output>,
    /// By device number, bytes that may be written before it is asked again.
    rooms: Vec<(u64, u64)>,
}

struct Output {
    info_hash: InfoHash,
    file: u32,
    fd: OwnedFd,
    device: u64,
    /// All of its room is taken already: writing it takes none.
    allocated: bool,
}

impl<'a> Run<'a> {
    pub(super) fn new(span: &Span, part: &'a [u8]) -> Run<'a> {
        let mut parts = [IoSlice::new(&[]); PARTS];
        parts[0] = IoSlice::new(part);
        Run { file: span.file, offset: span.offset, len: span.len, parts, count: 1 }
    }

    /// Adds what goes on where it ends; `false` where that is elsewhere.
    pub(super) fn extend(&mut self, span: &Span, part: &'a [u8]) -> bool {
        let follows = self.file == span.file && self.offset + self.len == span.offset && self.count < PARTS;
        if follows {
            self.parts[self.count] = IoSlice::new(part);
            self.count += 1;
            self.len += span.len;
        }
        follows
    }
}

impl Outputs {
    /// How to write from now on.
    pub(super) fn set_disk(&mut self, disk: Disk) {
        self.disk = disk;
        self.rooms.clear();
    }

    /// Writes a run, opening its file if need be.
    pub(super) fn write(
        &mut self,
        mut run: Run<'_>,
        info_hash: &InfoHash,
        hashing: &Hashing,
        unsaved: &mut Unsaved,
    ) -> Result<(), Trouble> {
        let layout = hashing.layout();
        self.open(info_hash, run.file, hashing, unsaved)?;
        let Outputs { disk, open, rooms } = self;
        let Some(output) = open.last() else { return Ok(()) };
        if !output.allocated {
            take_room(disk, rooms, output, run.len, || layout.path(run.file))?;
        }
        unsaved.written.insert(run.file, layout.file_count());
        unsaved.some = true;
        let (mut parts, mut offset) = (&mut run.parts[..run.count], run.offset);
        while !parts.is_empty() {
            match attempt().and_then(|()| pwritev(&output.fd, parts, offset)) {
                Ok(0) => return Err(refused(layout, run.file, &output.fd, disk, Errno::IO)),
                Ok(written) => {
                    offset += written as u64;
                    IoSlice::advance_slices(&mut parts, written);
                }
                Err(Errno::INTR) => {}
                Err(error) => return Err(refused(layout, run.file, &output.fd, disk, error)),
            }
        }
        Ok(())
    }

    /// How it is written.
    pub(super) fn disk(&self) -> &Disk {
        &self.disk
    }

    /// A file that is open.
    pub(super) fn find(&self, info_hash: &InfoHash, file: u32) -> Option<&OwnedFd> {
        self.position(info_hash, file).and_then(|at| self.open.get(at)).map(|output| &output.fd)
    }

    /// Files that are open.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.open.len()
    }

    /// Closes the files of a torrent, and asks anew how much room there is.
    pub(super) fn close(&mut self, info_hash: &InfoHash) {
        self.open.retain(|output| output.info_hash != *info_hash);
        self.rooms.clear();
        if self.open.is_empty() {
            (self.open, self.rooms) = (Vec::new(), Vec::new());
        }
    }

    /// Makes a file of which nothing is written.
    pub(super) fn touch(
        &mut self,
        info_hash: &InfoHash,
        file: u32,
        hashing: &Hashing,
        unsaved: &mut Unsaved,
    ) -> Result<(), Trouble> {
        self.open(info_hash, file, hashing, unsaved)?;
        if unsaved.made.contains(file) {
            unsaved.written.insert(file, hashing.layout().file_count());
        }
        Ok(())
    }

    fn position(&self, info_hash: &InfoHash, file: u32) -> Option<usize> {
        self.open.iter().position(|output| output.file == file && output.info_hash == *info_hash)
    }

    /// Opens a file and makes it the last in the list.
    fn open(
        &mut self,
        info_hash: &InfoHash,
        file: u32,
        hashing: &Hashing,
        unsaved: &mut Unsaved,
    ) -> Result<(), Trouble> {
        if let Some(at) = self.position(info_hash, file) {
            self.open[at..].rotate_left(1);
            return Ok(());
        }
        // First closed, then opened: the bound holds at any time.
        if self.open.len() >= OUTPUTS {
            self.open.remove(0);
        }
        let layout = hashing.layout();
        let (fd, stat, made) = hashing.tree().output(layout, file)?;
        if made {
            unsaved.made.insert(file, layout.file_count());
        }
        let range = layout.range(file);
        let (length, there) = (range.end - range.start, allocated(&stat));
        let device = number(stat.st_dev);
        let mut output = Output { info_hash: *info_hash, file, fd, device, allocated: there >= length };
        if self.disk.preallocate && !output.allocated {
            self.allocate(&mut output, layout, length, length - there)?;
        }
        self.open.push(output);
        Ok(())
    }

    /// Takes the room for all of a file. Its size stays what it is, so that what was not written is not read.
    fn allocate(
        &mut self,
        output: &mut Output,
        layout: &Layout,
        length: u64,
        lacks: u64,
    ) -> Result<(), Trouble> {
        take_room(&self.disk, &mut self.rooms, output, lacks, || layout.path(output.file))?;
        loop {
            match attempt().and_then(|()| fallocate(&output.fd, FallocateFlags::KEEP_SIZE, 0, length)) {
                Ok(()) => output.allocated = true,
                Err(Errno::INTR) => continue,
                // Not every file system can: such a file stays sparse.
                Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL | Errno::NODEV) => {}
                Err(error) => return Err(refused(layout, output.file, &output.fd, &self.disk, error)),
            }
            return Ok(());
        }
    }
}

/// Counts what is about to be written against what may be.
fn take_room(
    disk: &Disk,
    rooms: &mut Vec<(u64, u64)>,
    output: &Output,
    len: u64,
    path: impl FnOnce() -> std::path::PathBuf,
) -> Result<(), Trouble> {
    let floor = disk.free_floor;
    if floor == 0 {
        return Ok(());
    }
    if let Some((_, left)) = rooms.iter_mut().find(|(device, left)| *device == output.device && *left >= len)
    {
        *left -= len;
        return Ok(());
    }
    let Some(free) = free(&output.fd) else { return Ok(()) };
    let Some(spare) = free.saturating_sub(floor).checked_sub(len) else {
        return Err(Trouble::NoRoom(Room { path: path(), free, floor }));
    };
    // Near the floor it is asked ever more often, in the end each time.
    let left = (spare / 2).min(ASK);
    rooms.retain(|(device, _)| *device != output.device);
    rooms.truncate(ROOMS - 1);
    rooms.push((output.device, left));
    Ok(())
}

/// What an error of a call that takes room means.
pub(super) fn refused(layout: &Layout, file: u32, fd: &OwnedFd, disk: &Disk, error: Errno) -> Trouble {
    let path = layout.path(file);
    match error {
        Errno::NOSPC | Errno::DQUOT => {
            Trouble::NoRoom(Room { path, free: free(fd).unwrap_or(0), floor: disk.free_floor })
        }
        error => Trouble::of(&path, error),
    }
}

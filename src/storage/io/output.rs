//! Files that are open for writing, and how much may be written before the disk is too full.
//!
//! Read first: pwritev(2), fallocate(2). Holds at most [`OUTPUTS`] descriptors, and a number for each of a few file
//! systems.

use std::io::IoSlice;
use std::os::fd::OwnedFd;

use rustix::fs::{FallocateFlags, fallocate, ftruncate};
use rustix::io::{Errno, pwritev};

use super::fault::attempt;
use super::hashing::Hashing;
use super::prepare::{allocated, free};
use super::tree::number;
use super::write::Unsaved;
use crate::config::Disk;
use crate::list::Keep;
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
    rooms: Rooms,
}

/// For file systems by their device number, bytes that may be written before it is asked again how much is free.
#[derive(Default)]
struct Rooms(Vec<(u64, u64)>);

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
        self.rooms = Rooms::default();
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
            output.take_room(rooms, run.len, disk, layout)?;
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
        self.open.keep(|output| output.info_hash != *info_hash);
        self.rooms = Rooms::default();
        if self.open.is_empty() {
            self.open = Vec::new();
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
        if number(stat.st_size) > length {
            // An older copy was longer: that end of it is none of the torrent's.
            attempt()
                .and_then(|()| ftruncate(&fd, length))
                .map_err(|error| refused(layout, file, &fd, &self.disk, error))?;
        }
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
        output.take_room(&mut self.rooms, lacks, &self.disk, layout)?;
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

impl Rooms {
    /// Counts what is about to be written; the bytes that are free where that would leave fewer than `floor`.
    fn take(
        &mut self,
        device: u64,
        len: u64,
        floor: u64,
        free: impl FnOnce() -> Option<u64>,
    ) -> Result<(), u64> {
        if floor == 0 {
            return Ok(());
        }
        if let Some((_, left)) = self.0.iter_mut().find(|(known, left)| *known == device && *left >= len) {
            *left -= len;
            return Ok(());
        }
        let Some(free) = free() else { return Ok(()) };
        let spare = free.saturating_sub(floor).checked_sub(len).ok_or(free)?;
        self.0.keep(|(known, _)| *known != device);
        self.0.truncate(ROOMS - 1);
        // Near the floor it is asked ever more often, in the end each time.
        self.0.push((device, (spare / 2).min(ASK)));
        Ok(())
    }
}

impl Output {
    /// Counts what is about to be written.
    fn take_room(&self, rooms: &mut Rooms, len: u64, disk: &Disk, layout: &Layout) -> Result<(), Trouble> {
        let floor = disk.free_floor;
        rooms
            .take(self.device, len, floor, || free(&self.fd))
            .map_err(|free| Trouble::NoRoom(Room { path: layout.path(self.file), free, floor }))
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writing_stops_at_the_last_byte_above_the_floor_and_the_disk_is_seldom_asked() {
        for (room, len) in [(1u64 << 30, 128 * 1024), (100 << 20, 16_384), (200_000, 131_072), (5, 1)] {
            let floor = 64 << 20;
            let (mut rooms, mut free, mut asked, mut written) = (Rooms::default(), floor + room, 0u64, 0);
            let full = loop {
                let answer = rooms.take(7, len, floor, || {
                    asked += 1;
                    Some(free)
                });
                if let Err(told) = answer {
                    break told;
                }
                free -= len;
                written += 1;
            };
            assert!(free >= floor && free - floor < len, "{room} {len}: {free}");
            assert_eq!((full, written), (free, room / len));
            assert!(asked < 40 + room / ASK, "{asked} times for {written} writes");
        }
    }

    #[test]
    fn each_file_system_has_its_own_room_and_one_that_does_not_tell_has_no_floor() {
        let mut rooms = Rooms::default();
        assert_eq!(rooms.take(1, 10, 100, || Some(1000)), Ok(()));
        assert_eq!(rooms.take(2, 10, 100, || Some(109)), Err(109));
        assert_eq!(rooms.take(1, 10, 100, || Some(0)), Ok(()), "not asked again");
        for device in 3..20 {
            assert_eq!(rooms.take(device, 10, 100, || Some(1000)), Ok(()));
            assert!(rooms.0.len() <= ROOMS);
        }
        assert_eq!(rooms.take(99, u64::MAX, 100, || None), Ok(()));
        assert_eq!(rooms.take(98, u64::MAX, 0, || Some(0)), Ok(()));
    }
}

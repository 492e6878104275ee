//! Whether content may be written where it would lie: on a mounted disk, that takes writes, has room, and holds files
//! of that size; and whether a state directory may be made there.
//!
//! Read first: statfs(2). Holds no memory.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Access, AtFlags, CWD, Mode, OFlags, accessat, fstat, fstatfs, fstatvfs, openat, stat};
use rustix::io::Errno;

use super::fault::attempt;
use super::jobs::{Place, Prepared};
use super::tree::{Tree, exists, missing, number, root_of, signed};
use crate::config::{Disk, RequireMount};
use crate::storage::{LEAST_ROOM, Layout, Room, Trouble};

// The numbers of linux/magic.h.
const TMPFS: u32 = 0x0102_1994;
const RAMFS: u32 = 0x8584_58f6;
const OVERLAY: u32 = 0x794c_7630;
const FAT: u32 = 0x4d44;
const EXFAT: u32 = 0x2011_bab0;

/// Bytes of the largest file on FAT.
const FAT_LARGEST: u64 = (4 << 30) - 1;

/// On which file systems the data would lie, and the system lies.
#[derive(Clone, Copy, Debug)]
struct Facts {
    /// Device number of the data's.
    data: u64,
    /// The same of `/`.
    system: u64,
    /// The same of `/overlay`, where there is one: the flash of a router.
    overlay: Option<u64>,
    /// What kind the data's is.
    kind: u32,
    /// The same of `/`.
    system_kind: u32,
}

/// A place that was looked at.
pub(super) struct Ground {
    /// The deepest directory of the way to the data that is there.
    directory: OwnedFd,
    /// What kind of file system that is on.
    kind: u32,
}

/// Whether a file system is one in memory.
pub(super) fn is_in_memory(fd: impl AsFd) -> bool {
    matches!(kind_of(fd), TMPFS | RAMFS)
}

/// Bytes that are free for the likes of us; `None` where the file system does not say.
pub(super) fn free(fd: impl AsFd) -> Option<u64> {
    let statvfs = attempt().and_then(|()| fstatvfs(fd)).ok().filter(|statvfs| statvfs.f_blocks > 0)?;
    Some(statvfs.f_bavail.saturating_mul(statvfs.f_frsize))
}

/// Where a state directory may be made, and on which file system: where data may lie, or in memory.
pub(super) fn ground_of_state(parent: &Path, require: RequireMount) -> Result<(OwnedFd, u64), Trouble> {
    let directory = look_at_root(parent)?;
    let facts = Facts::of(&directory, parent)?;
    if facts.refuse(require) && !is_in_memory(&directory) {
        return Err(Trouble::NotMounted(parent.into()));
    }
    Ok((directory, facts.data))
}

fn look(path: &Path) -> Result<OwnedFd, Errno> {
    attempt()?;
    openat(CWD, path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

fn look_at_root(root: &Path) -> Result<OwnedFd, Trouble> {
    look(root).map_err(|error| match error {
        Errno::NOENT | Errno::NOTDIR => Trouble::RootAbsent(root.into()),
        error => Trouble::of(root, error),
    })
}

/// Looks at where a torrent's data would lie. `known`: some of it was there.
pub(super) fn survey(place: &Place, known: bool, disk: &Disk) -> Result<Ground, Trouble> {
    let root = root_of(place);
    let mut directory = look_at_root(root)?;
    // The way below the root may lead over a mount of its own.
    let mut deepest = root;
    for path in place.data.ancestors().take_while(|path| *path != root) {
        if let Ok(found) = look(path) {
            (directory, deepest) = (found, path);
            break;
        }
    }
    let facts = Facts::of(&directory, deepest)?;
    if facts.refuse(disk.require_mount) {
        return Err(Trouble::NotMounted(root.into()));
    }
    if known
        && exists(&place.data) == Ok(false)
        && let empty @ Trouble::EmptyMount(_) = missing(place, true)
    {
        return Err(empty);
    }
    // A file that is there need not be made.
    let (target, access) = match exists(&place.data) {
        Ok(true) if deepest != &*place.data => (&*place.data, Access::WRITE_OK),
        _ => (deepest, Access::WRITE_OK | Access::EXEC_OK),
    };
    attempt()
        .and_then(|()| accessat(CWD, target, access, AtFlags::empty()))
        .map_err(|error| Trouble::of(target, error))?;
    takes_writes(&directory).map_err(|error| Trouble::of(deepest, error))?;
    Ok(Ground { directory, kind: facts.kind })
}

/// A file system that has stopped taking writes after an error says so only when something is written: a file without a
/// name, where it knows such files.
fn takes_writes(directory: &OwnedFd) -> Result<(), Errno> {
    let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
    match attempt().and_then(|()| openat(directory, ".", flags, Mode::RUSR | Mode::WUSR)) {
        Err(error @ (Errno::ROFS | Errno::IO)) => Err(error),
        _ => Ok(()),
    }
}

impl Facts {
    fn of(directory: &OwnedFd, path: &Path) -> Result<Facts, Trouble> {
        let device = |path: &Path| stat(path).ok().map(|stat| number(stat.st_dev));
        Ok(Facts {
            data: fstat(directory).map(|stat| number(stat.st_dev)).map_err(|e| Trouble::of(path, e))?,
            system: device(Path::new("/")).unwrap_or(0),
            overlay: device(Path::new("/overlay")),
            kind: kind_of(directory),
            system_kind: look(Path::new("/")).map_or(0, kind_of),
        })
    }

    fn refuse(&self, require: RequireMount) -> bool {
        match require {
            RequireMount::Auto => {
                self.overlay == Some(self.data) || (self.system_kind == OVERLAY && self.data == self.system)
            }
            RequireMount::Always => self.data == self.system || matches!(self.kind, TMPFS | RAMFS),
            RequireMount::Never => false,
        }
    }
}

impl Ground {
    /// A directory as if it were on a file system of that kind.
    #[cfg(test)]
    pub(super) fn of(directory: &Path, kind: u32) -> Ground {
        let directory = openat(CWD, directory, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap();
        Ground { directory, kind }
    }

    /// Whether a torrent's files fit there.
    pub(super) fn takes(&self, layout: &Layout, tree: &Tree, disk: &Disk) -> Result<Prepared, Trouble> {
        let largest = if self.kind == FAT { FAT_LARGEST } else { u64::MAX };
        let needed = || (0..layout.file_count()).filter(|&file| layout.is_needed(file));
        let length = |file: u32| {
            let range = layout.range(file);
            range.end - range.start
        };
        if let Some(file) = needed().find(|&file| length(file) > largest) {
            return Err(Trouble::TooLarge(layout.path(file)));
        }
        if let Some(free) = free(&self.directory) {
            let mut lacks = 0u64;
            for file in needed() {
                let there = tree.stat(layout, file)?.map_or(0, |stat| allocated(&stat));
                lacks = lacks.saturating_add(length(file).saturating_sub(there));
                if lacks >= LEAST_ROOM {
                    break;
                }
            }
            if free < disk.free_floor.saturating_add(lacks.min(LEAST_ROOM)) {
                let path = layout.data().to_path_buf();
                return Err(Trouble::NoRoom(Room { path, free, floor: disk.free_floor }));
            }
        }
        Ok(Prepared { window: matches!(self.kind, FAT | EXFAT) })
    }
}

/// Bytes of a file that have room on disk.
pub(super) fn allocated(stat: &rustix::fs::Stat) -> u64 {
    number(stat.st_blocks).saturating_mul(512)
}

/// The number of a file system's kind. Its field is signed on some machines, and short on some.
fn kind_of(fd: impl AsFd) -> u32 {
    let [a, b, c, d, ..] = fstatfs(fd).map_or(0, |statfs| signed(statfs.f_type)).to_le_bytes();
    u32::from_le_bytes([a, b, c, d])
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXT4: u32 = 0xef53;
    const UBIFS: u32 = 0x2405_1905;

    /// A disk of its own beside a root file system.
    const DISK: Facts = Facts { data: 7, system: 1, overlay: None, kind: EXT4, system_kind: EXT4 };
    /// A router: its root is an overlay, the flash below that is mounted beside it.
    const ROUTER: Facts = Facts { overlay: Some(2), system_kind: OVERLAY, ..DISK };

    #[test]
    fn a_routers_flash_is_not_written_unless_the_user_says_so() {
        let unmounted = Facts { data: 1, kind: OVERLAY, ..ROUTER };
        let flash = Facts { data: 2, kind: UBIFS, ..ROUTER };
        for facts in [unmounted, flash] {
            assert!(facts.refuse(RequireMount::Auto), "{facts:?}");
            assert!(!facts.refuse(RequireMount::Never), "{facts:?}");
        }
        assert!(!ROUTER.refuse(RequireMount::Auto) && !ROUTER.refuse(RequireMount::Always));
        let memory = Facts { data: 3, kind: TMPFS, ..ROUTER };
        assert!(!memory.refuse(RequireMount::Auto), "memory is nobody's flash");
        assert!(memory.refuse(RequireMount::Always));
    }

    #[test]
    fn a_computer_without_an_overlay_may_keep_data_on_its_only_disk() {
        let only = Facts { data: 1, ..DISK };
        assert!(!only.refuse(RequireMount::Auto) && only.refuse(RequireMount::Always));
        assert!(!DISK.refuse(RequireMount::Always));
        for kind in [TMPFS, RAMFS] {
            assert!(Facts { kind, ..DISK }.refuse(RequireMount::Always));
        }
    }
}

//! What tells one state of a file from another without reading it.
//!
//! Holds no memory; an [`Ident`] is 32 bytes by value.

use std::fs::Metadata;
use std::hash::Hasher;
use std::os::unix::fs::MetadataExt;

/// A file as `stat` saw it.
///
/// It has no `==` on purpose: use [`Ident::matches`]. FAT, exFAT and some FUSE file systems give a file a new inode
/// number each time they have forgotten it, so a comparison of inodes would restart such torrents at random.
#[derive(Clone, Copy, Debug)]
pub struct Ident {
    /// Inode number; fleeting on FAT and exFAT.
    pub inode: u64,
    /// Bytes.
    pub size: u64,
    /// Time of the last change of content, seconds since 1970.
    pub mtime_secs: i64,
    /// The part of it below a second, nanoseconds.
    pub mtime_nanos: u32,
    /// A digest of the time of the last change of content, name or permissions (ctime): compared for equality alone.
    pub ctime: u32,
}

/// Tells that files are as they were at the last look, without keeping what was seen of them.
///
/// FNV-1a, whose last bytes are mixed too: nobody is to be kept from guessing, and the library's hash is two kilobytes.
pub struct Fingerprint(u64);

impl Default for Fingerprint {
    fn default() -> Fingerprint {
        Fingerprint(0xcbf2_9ce4_8422_2325)
    }
}

impl Hasher for Fingerprint {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
        }
    }

    fn finish(&self) -> u64 {
        crate::random::Random::new(self.0).draw()
    }
}

impl Ident {
    /// From what `stat` returned.
    pub fn of(metadata: &Metadata) -> Ident {
        Ident {
            inode: metadata.ino(),
            size: metadata.len(),
            mtime_secs: metadata.mtime(),
            mtime_nanos: u32::try_from(metadata.mtime_nsec()).unwrap_or(0),
            ctime: Ident::digest(metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// What stands for a ctime: all that looks at a file must agree on it.
    pub fn digest(seconds: i64, nanos: i64) -> u32 {
        low_bits(seconds) ^ (low_bits(nanos) << 2)
    }

    /// Whether the content can be taken for unchanged: size and mtime agree (mainline's rule), and it is not another
    /// file that was given the same mtime (`cp -p`, a reproducible package): such a one differs in inode and ctime.
    pub fn matches(&self, other: &Ident) -> bool {
        self.size == other.size
            && self.mtime_secs == other.mtime_secs
            && self.mtime_nanos == other.mtime_nanos
            && (self.inode == other.inode || self.ctime == other.ctime)
    }
}

fn low_bits(number: i64) -> u32 {
    let [a, b, c, d, ..] = number.to_le_bytes();
    u32::from_le_bytes([a, b, c, d])
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEEN: Ident = Ident { inode: 7, size: 100, mtime_secs: 5, mtime_nanos: 1, ctime: 9 };

    #[test]
    fn size_or_mtime_make_another_content() {
        assert!(SEEN.matches(&SEEN));
        assert!(!SEEN.matches(&Ident { size: 101, ..SEEN }));
        assert!(!SEEN.matches(&Ident { mtime_secs: 6, ..SEEN }));
        assert!(!SEEN.matches(&Ident { mtime_nanos: 2, ..SEEN }));
    }

    #[test]
    fn a_fleeting_inode_number_or_a_chmod_alone_is_no_change_but_both_are() {
        assert!(SEEN.matches(&Ident { inode: 8, ..SEEN }));
        assert!(SEEN.matches(&Ident { ctime: 10, ..SEEN }));
        assert!(!SEEN.matches(&Ident { inode: 8, ctime: 10, ..SEEN }));
    }
}

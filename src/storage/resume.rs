//! What is remembered of a torrent over a restart, and how it stands in the resume file.
//!
//! The file is a head, one frame a torrent in the order of their info-hashes, and a foot. Head, frame and foot carry
//! a checksum each, so that a torn frame loses itself alone and a missing foot tells that the file was cut. Numbers
//! are big-endian or LEB128; nothing depends on the machine. Omitted: reading and writing files (see `io::records`).
//! Holds no memory.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use crate::have::{Have, bitfield_len};
use crate::metainfo::{InfoHash, MAX_PIECES};

/// What the file begins with; `\n` and the byte above 127 show a copy that was mangled as text.
const MAGIC: [u8; 16] = *b"meshseed\xabresume\n";

/// Of the frames' content. A file of another version is set aside: its data is hashed again.
const VERSION: u32 = 1;

/// Bytes of the head: magic, version, checksum.
pub const HEAD: usize = 24;

/// Bytes before the body of a frame: mark, length of the body, checksum of both. The foot is a frame without a body.
pub const FRAME: usize = 12;

/// Bytes of one body: stamps of [`crate::metainfo::MAX_FILES`] files and two bitfields of the most pieces take a
/// quarter of it.
pub const MAX_BODY: u32 = 16 << 20;

/// What a frame begins with, so that the next one is found after a torn one.
pub const MARK: [u8; 4] = *b"MS\xf1\x0e";

/// What the foot begins with.
const END: [u8; 4] = *b"MS\xf1\x0f";

/// A file as it was when its pieces were hashed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// Bytes.
    pub size: u64,
    /// Time of the last change, seconds since 1970: any value, routers boot in 1970.
    pub mtime_secs: i64,
    /// The part of it below a second, nanoseconds.
    pub mtime_nanos: u32,
}

/// What is remembered of a torrent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Whose record it is.
    pub info_hash: InfoHash,
    /// All of its data was there once.
    pub complete: bool,
    /// Stopped by the user.
    pub paused: bool,
    /// When it was first seen, Unix seconds; 0 while the clock was plainly unset.
    pub added: u64,
    /// When its data was found complete, Unix seconds; 0 if it never was or the clock was unset.
    pub completed: u64,
    /// Bytes of content sent, ever.
    pub uploaded: u64,
    /// Bytes of content fetched, ever.
    pub downloaded: u64,
    /// Where its data lies, if that is not where the layout would put it: kept over a rename of the .torrent.
    pub data: Option<Arc<Path>>,
    /// What hashing has found. In a change `None` keeps what is on record.
    pub verified: Option<Verified>,
    /// The files of the pieces that `verified` lacks are open for writing and have no stamps: what it has of them was on
    /// disk before it was put on record. Belongs to `verified`.
    pub open: bool,
    /// Made while what was on record could not be read: it tells what is verified, and nothing else.
    pub early: bool,
}

/// What hashing has found, and of which files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// Number of pieces of the torrent.
    pub pieces: u32,
    /// Those that were right.
    pub have: Have,
    /// Those that have not been looked at: the rest of a check that was cut short.
    pub todo: Have,
    /// Every file as it was before the first byte was hashed, [`Stamp::ABSENT`] for one that was not there, that needs
    /// nothing on disk, or that is open for writing.
    pub stamps: Box<[Stamp]>,
}

impl Stamp {
    /// No file.
    pub const ABSENT: Stamp = Stamp { size: u64::MAX, mtime_secs: 0, mtime_nanos: 0 };
}

impl Record {
    /// A record of a torrent of which nothing is known yet.
    pub fn new(info_hash: InfoHash) -> Record {
        Record {
            info_hash,
            complete: false,
            paused: false,
            added: 0,
            completed: 0,
            uploaded: 0,
            downloaded: 0,
            data: None,
            verified: None,
            open: false,
            early: false,
        }
    }

    /// This, where `old` was on record: what it does not tell stays as it was.
    pub fn over(mut self, old: Record) -> Record {
        // What was found before holds where a check was cut short.
        let is_less = |found: &Verified| self.early && !old.early && !found.todo.is_none();
        let keep = self.verified.as_ref().is_none_or(|found| old.verified.is_some() && is_less(found));
        let found = if keep { (old.verified.clone(), old.open) } else { (self.verified, self.open) };
        let data = self.data.or_else(|| old.data.clone().filter(|_| keep || self.early));
        if self.early {
            let complete = self.complete || old.complete;
            self = Record { complete, ..old };
        }
        Record { verified: found.0, open: found.1, data, ..self }
    }

    /// Whether some of its data was there.
    pub fn had_data(&self) -> bool {
        self.complete || self.verified.as_ref().is_some_and(|verified| !verified.have.is_none())
    }

    /// The body of its frame.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(64);
        out.extend_from_slice(self.info_hash.as_bytes());
        let (data, verified) = (self.data.is_some(), self.verified.is_some());
        let flags = [self.complete, self.paused, data, verified, self.open, self.early];
        out.push(flags.iter().rev().fold(0, |byte, &flag| byte << 1 | u8::from(flag)));
        for number in [self.added, self.completed, self.uploaded, self.downloaded] {
            put(&mut out, number);
        }
        if let Some(data) = &self.data {
            let bytes = data.as_os_str().as_bytes();
            put(&mut out, bytes.len() as u64);
            out.extend_from_slice(bytes);
        }
        if let Some(verified) = &self.verified {
            verified.encode(&mut out);
        }
        out
    }

    /// `None` where the body is not exactly what [`Record::encode`] writes.
    pub fn decode(body: &[u8]) -> Option<Record> {
        let mut rest = body;
        let mut record = Record::new(info_hash_of(take(&mut rest, 20)?)?);
        let flags = *take(&mut rest, 1)?.first()?;
        if flags > 0b11_1111 {
            return None;
        }
        record.complete = flags & 1 != 0;
        record.paused = flags & 2 != 0;
        record.open = flags & 16 != 0;
        record.early = flags & 32 != 0;
        for number in [&mut record.added, &mut record.completed, &mut record.uploaded, &mut record.downloaded]
        {
            *number = number_from(&mut rest)?;
        }
        if flags & 4 != 0 {
            let len = usize::try_from(number_from(&mut rest)?).ok()?;
            record.data = Some(Path::new(OsStr::from_bytes(take(&mut rest, len)?)).into());
        }
        if flags & 8 != 0 {
            record.verified = Some(Verified::decode(&mut rest)?);
        }
        rest.is_empty().then_some(record)
    }
}

impl Verified {
    fn encode(&self, out: &mut Vec<u8>) {
        put(out, u64::from(self.pieces));
        for set in [&self.have, &self.todo] {
            match set.count(self.pieces) {
                // A torrent without pieces has all of them, whatever the set is called.
                count if count == self.pieces => out.push(1),
                0 => out.push(0),
                _ => {
                    out.push(2);
                    out.extend(set.encode_bitfield(self.pieces));
                }
            }
        }
        put(out, self.stamps.len() as u64);
        // Files of one torrent were mostly written in one go: the difference is short.
        let mut before = 0i64;
        for stamp in &self.stamps {
            if *stamp == Stamp::ABSENT {
                put(out, 0);
                continue;
            }
            // No file has 2^64 - 1 bytes, so nothing is lost by counting from 1.
            put(out, stamp.size.saturating_add(1));
            let step = stamp.mtime_secs.wrapping_sub(before);
            before = stamp.mtime_secs;
            put(out, (step.wrapping_shl(1) ^ (step >> 63)).cast_unsigned());
            put(out, u64::from(stamp.mtime_nanos));
        }
    }

    fn decode(rest: &mut &[u8]) -> Option<Verified> {
        let pieces = u32::try_from(number_from(rest)?).ok().filter(|&pieces| pieces <= MAX_PIECES)?;
        let mut set = || {
            Some(match take(rest, 1)?.first()? {
                0 => Have::None,
                1 => Have::All,
                2 => Have::decode_bitfield(take(rest, bitfield_len(pieces))?, pieces)?,
                _ => return None,
            })
        };
        let (have, todo) = (set()?, set()?);
        let count = usize::try_from(number_from(rest)?).ok()?;
        // Each takes a byte at least, so that a lie about their number allocates little.
        if count > rest.len() {
            return None;
        }
        let mut stamps = Vec::with_capacity(count);
        let mut before = 0i64;
        for _ in 0..count {
            let Some(size) = number_from(rest)?.checked_sub(1) else {
                stamps.push(Stamp::ABSENT);
                continue;
            };
            let step = number_from(rest)?;
            let step = (step >> 1).cast_signed() ^ (step & 1).cast_signed().wrapping_neg();
            before = before.wrapping_add(step);
            let mtime_nanos = u32::try_from(number_from(rest)?).ok()?;
            stamps.push(Stamp { size, mtime_secs: before, mtime_nanos });
        }
        Some(Verified { pieces, have, todo, stamps: stamps.into() })
    }
}

/// What stands before a record's body.
pub fn frame(body: &[u8]) -> [u8; FRAME] {
    let len = u32::try_from(body.len()).unwrap_or(u32::MAX).to_be_bytes();
    let sum = checksum(checksum(0, &len), body);
    join(MARK, len, sum.to_be_bytes())
}

/// Length and checksum of the body that follows, if these twelve bytes can be what stands before one.
pub fn decode_frame(bytes: &[u8]) -> Option<(u32, u32)> {
    let (mark, len, sum) = split(bytes)?;
    (mark == MARK && len <= MAX_BODY).then_some((len, sum))
}

/// What a body's checksum starts from.
pub fn checksum_of_length(len: u32) -> u32 {
    checksum(0, &len.to_be_bytes())
}

/// What the file begins with.
pub fn head() -> [u8; HEAD] {
    let mut head = [0; HEAD];
    head[..16].copy_from_slice(&MAGIC);
    head[16..20].copy_from_slice(&VERSION.to_be_bytes());
    let sum = checksum(0, &head[..20]);
    head[20..].copy_from_slice(&sum.to_be_bytes());
    head
}

/// What it ends with.
pub fn foot(records: u32) -> [u8; FRAME] {
    let records = records.to_be_bytes();
    join(END, records, checksum(0, &records).to_be_bytes())
}

/// The number of records, if these twelve bytes are a foot.
pub fn decode_foot(bytes: &[u8]) -> Option<u32> {
    let (mark, records, sum) = split(bytes)?;
    (mark == END && sum == checksum(0, &records.to_be_bytes())).then_some(records)
}

/// Whose record a body is.
pub fn info_hash_of(body: &[u8]) -> Option<InfoHash> {
    Some(InfoHash::from_bytes(body.get(..20)?.try_into().ok()?))
}

/// CRC-32 as in zip and Ethernet; `before` is the sum of what stands before `bytes`, 0 at the start.
pub fn checksum(before: u32, bytes: &[u8]) -> u32 {
    const TABLE: [u32; 256] = {
        let mut table = [0; 256];
        let mut index = 0u32;
        while index < 256 {
            let (mut sum, mut bit) = (index, 0);
            while bit < 8 {
                sum = if sum & 1 != 0 { 0xedb8_8320 ^ (sum >> 1) } else { sum >> 1 };
                bit += 1;
            }
            table[index as usize] = sum;
            index += 1;
        }
        table
    };
    !bytes.iter().fold(!before, |sum, &byte| TABLE[usize::from(sum.to_le_bytes()[0] ^ byte)] ^ (sum >> 8))
}

fn join(mark: [u8; 4], number: [u8; 4], sum: [u8; 4]) -> [u8; FRAME] {
    let mut out = [0; FRAME];
    out[..4].copy_from_slice(&mark);
    out[4..8].copy_from_slice(&number);
    out[8..].copy_from_slice(&sum);
    out
}

fn split(bytes: &[u8]) -> Option<([u8; 4], u32, u32)> {
    let field = |at: usize| -> Option<[u8; 4]> { bytes.get(at..at + 4)?.try_into().ok() };
    Some((field(0)?, u32::from_be_bytes(field(4)?), u32::from_be_bytes(field(8)?)))
}

fn take<'a>(rest: &mut &'a [u8], len: usize) -> Option<&'a [u8]> {
    let (taken, left) = rest.split_at_checked(len)?;
    *rest = left;
    Some(taken)
}

/// LEB128: seven bits a byte, the lowest first.
fn put(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number.to_le_bytes()[0] | 0x80);
        number >>= 7;
    }
    out.push(number.to_le_bytes()[0]);
}

fn number_from(rest: &mut &[u8]) -> Option<u64> {
    let mut number = 0u64;
    for shift in (0..64).step_by(7) {
        let byte = *take(rest, 1)?.first()?;
        let bits = u64::from(byte & 0x7f);
        if bits << shift >> shift != bits {
            return None;
        }
        number |= bits << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn hash(byte: u8) -> InfoHash {
        InfoHash::from_bytes([byte; 20])
    }

    fn stamp(size: u64, mtime_secs: i64, mtime_nanos: u32) -> Stamp {
        Stamp { size, mtime_secs, mtime_nanos }
    }

    pub(crate) fn record(byte: u8) -> Record {
        Record {
            info_hash: hash(byte),
            complete: true,
            paused: byte.is_multiple_of(2),
            added: 1_700_000_000,
            completed: 0,
            uploaded: u64::MAX,
            downloaded: 1 << 40,
            data: byte.is_multiple_of(3).then(|| Path::new("/srv/torrents/caf\u{e9}").into()),
            verified: Some(Verified {
                pieces: 20,
                have: Have::from_fn(20, |piece| piece % 3 == 0),
                todo: Have::from_fn(20, |piece| piece > 15),
                stamps: [
                    stamp(5 << 30, 1_700_000_000, 999_999_999),
                    Stamp::ABSENT,
                    stamp(0, -1, 0),
                    stamp(u64::MAX - 1, i64::MAX, 1),
                    stamp(1, i64::MIN, 0),
                    stamp(7, 4_000_000_000, 0),
                ]
                .into(),
            }),
            open: byte.is_multiple_of(5),
            early: false,
        }
    }

    #[test]
    fn a_record_reads_back_as_it_was_written() {
        for byte in 0..6 {
            let record = record(byte);
            assert_eq!(Record::decode(&record.encode()), Some(record));
        }
        let mut bare = Record::new(hash(9));
        assert_eq!(Record::decode(&bare.encode()), Some(bare.clone()));
        bare.verified =
            Some(Verified { pieces: 2_000_000, have: Have::All, todo: Have::None, stamps: [].into() });
        let body = bare.encode();
        assert!(body.len() < 40, "a whole torrent takes no bit a piece: {}", body.len());
        assert_eq!(Record::decode(&body), Some(bare));
    }

    #[test]
    fn a_record_from_before_there_was_writing_reads_as_one_without_open_files() {
        let old = Record { open: false, ..record(5) }.encode();
        let new = Record { open: true, ..record(5) }.encode();
        assert_eq!((old[20], new[20]), (0b1001, 0b1_1001), "one bit, and nothing else");
        assert_eq!((&old[..20], &old[21..]), (&new[..20], &new[21..]));
        assert!(!Record::decode(&old).unwrap().open);
    }

    #[test]
    fn what_was_found_before_the_record_could_be_read_is_all_that_it_adds() {
        let found = |todo| Verified { pieces: 20, have: Have::None, todo, stamps: [].into() };
        let early = |todo| Record { early: true, verified: Some(found(todo)), ..Record::new(hash(2)) };
        let over = early(Have::None).over(record(2));
        assert_eq!(over, Record { verified: Some(found(Have::None)), open: false, ..record(2) });
        assert_eq!(early(Have::All).over(record(2)), record(2), "a check that is not over tells less");
        assert_eq!(early(Have::All).over(early(Have::None)), early(Have::All), "but it is the newer one");
        let paused = Record { paused: true, ..Record::new(hash(2)) };
        let full = paused.over(early(Have::None));
        assert_eq!(full, Record { paused: true, early: false, ..early(Have::None) });
    }

    #[test]
    fn a_file_of_a_whole_torrent_takes_about_twelve_bytes() {
        let stamps: Box<[Stamp]> = (0..500)
            .map(|n| stamp(1_000_000 + n, 1_700_000_000 + n.cast_signed() / 10, 123_456_789))
            .collect();
        let verified = Verified { pieces: 4096, have: Have::All, todo: Have::None, stamps };
        let record = Record { verified: Some(verified), ..Record::new(hash(1)) };
        assert!(record.encode().len() < 500 * 10, "{}", record.encode().len());
    }

    #[test]
    fn no_truncation_and_no_flipped_bit_panics_or_passes_for_whole() {
        let body = record(3).encode();
        for len in 0..body.len() {
            assert_eq!(Record::decode(&body[..len]), None);
        }
        let sum = frame(&body);
        for at in 0..body.len() * 8 {
            let mut torn = body.clone();
            torn[at / 8] ^= 1 << (at % 8);
            let _ = Record::decode(&torn);
            assert_ne!(frame(&torn), sum);
        }
        assert_eq!(Record::decode(&[&body[..], &[0]].concat()), None);
    }

    #[test]
    fn a_lie_about_the_number_of_files_or_pieces_allocates_nothing() {
        let mut record = Record::new(hash(1));
        record.verified =
            Some(Verified { pieces: MAX_PIECES + 1, have: Have::All, todo: Have::None, stamps: [].into() });
        assert_eq!(Record::decode(&record.encode()), None);
        let mut body = Record::new(hash(1)).encode();
        body[20] = 8;
        body.extend([1, 1, 0]);
        put(&mut body, u64::MAX);
        assert_eq!(Record::decode(&body), None);
    }

    #[test]
    fn numbers_of_ten_bytes_that_overflow_are_refused() {
        for (number, len) in [(0, 1), (127, 1), (128, 2), (u64::from(u32::MAX), 5), (u64::MAX, 10)] {
            let mut out = Vec::new();
            put(&mut out, number);
            assert_eq!((out.len(), number_from(&mut &out[..])), (len, Some(number)));
        }
        assert_eq!(number_from(&mut &[0xff; 9][..]), None);
        assert_eq!(number_from(&mut &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2][..]), None);
    }

    #[test]
    fn the_checksum_is_the_usual_crc_32() {
        assert_eq!(checksum(0, b"123456789"), 0xcbf4_3926);
        assert_eq!(checksum(checksum(0, b"1234"), b"56789"), 0xcbf4_3926);
    }

    #[test]
    fn the_bytes_of_a_file_are_the_same_on_every_machine() {
        assert_eq!(head()[16..20], [0, 0, 0, 1]);
        assert_eq!(foot(258)[4..8], [0, 0, 1, 2]);
        assert_eq!(decode_foot(&foot(258)), Some(258));
        let body = [1, 2, 3];
        assert_eq!(frame(&body)[..8], [b'M', b'S', 0xf1, 0x0e, 0, 0, 0, 3]);
        let (len, sum) = decode_frame(&frame(&body)).unwrap();
        assert_eq!((len, sum), (3, checksum(checksum_of_length(3), &body)));
    }
}

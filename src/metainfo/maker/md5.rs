//! MD5, for one key alone: `md5sum` of a file. It proves nothing about who made it.
//!
//! Read first: RFC 1321. The rounds are loops, which are small: the key is too rarely wanted for a dependency of its own.
//! Holds 88 bytes.

/// Bits by which each of the four rounds turns, in turn.
const TURNS: [[u32; 4]; 4] = [[7, 12, 17, 22], [5, 9, 14, 20], [4, 11, 16, 23], [6, 10, 15, 21]];

/// Of each step: the whole part of 2³² · |sin(step + 1)|.
const SINES: [u32; 64] = [
    0xd76a_a478,
    0xe8c7_b756,
    0x2420_70db,
    0xc1bd_ceee,
    0xf57c_0faf,
    0x4787_c62a,
    0xa830_4613,
    0xfd46_9501,
    0x6980_98d8,
    0x8b44_f7af,
    0xffff_5bb1,
    0x895c_d7be,
    0x6b90_1122,
    0xfd98_7193,
    0xa679_438e,
    0x49b4_0821,
    0xf61e_2562,
    0xc040_b340,
    0x265e_5a51,
    0xe9b6_c7aa,
    0xd62f_105d,
    0x0244_1453,
    0xd8a1_e681,
    0xe7d3_fbc8,
    0x21e1_cde6,
    0xc337_07d6,
    0xf4d5_0d87,
    0x455a_14ed,
    0xa9e3_e905,
    0xfcef_a3f8,
    0x676f_02d9,
    0x8d2a_4c8a,
    0xfffa_3942,
    0x8771_f681,
    0x6d9d_6122,
    0xfde5_380c,
    0xa4be_ea44,
    0x4bde_cfa9,
    0xf6bb_4b60,
    0xbebf_bc70,
    0x289b_7ec6,
    0xeaa1_27fa,
    0xd4ef_3085,
    0x0488_1d05,
    0xd9d4_d039,
    0xe6db_99e5,
    0x1fa2_7cf8,
    0xc4ac_5665,
    0xf429_2244,
    0x432a_ff97,
    0xab94_23a7,
    0xfc93_a039,
    0x655b_59c3,
    0x8f0c_cc92,
    0xffef_f47d,
    0x8584_5dd1,
    0x6fa8_7e4f,
    0xfe2c_e6e0,
    0xa301_4314,
    0x4e08_11a1,
    0xf753_7e82,
    0xbd3a_f235,
    0x2ad7_d2bb,
    0xeb86_d391,
];

/// The digest of what came so far.
#[derive(Clone, Debug)]
pub struct Md5 {
    state: [u32; 4],
    /// Bytes in all, of which the last up to 64 wait in `block`.
    length: u64,
    block: [u8; 64],
}

impl Md5 {
    /// Of nothing.
    pub fn new() -> Md5 {
        Md5 { state: [0x6745_2301, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476], length: 0, block: [0; 64] }
    }

    /// Adds bytes.
    pub fn update(&mut self, mut bytes: &[u8]) {
        let held = self.held();
        self.length = self.length.wrapping_add(bytes.len() as u64);
        if held > 0 {
            let (head, rest) = bytes.split_at(bytes.len().min(64 - held));
            self.block[held..held + head.len()].copy_from_slice(head);
            bytes = rest;
            if held + head.len() < 64 {
                return;
            }
            compress(&mut self.state, &self.block);
        }
        let (blocks, rest) = bytes.as_chunks();
        blocks.iter().for_each(|block| compress(&mut self.state, block));
        self.block[..rest.len()].copy_from_slice(rest);
    }

    /// The digest.
    pub fn finish(mut self) -> [u8; 16] {
        let bits = self.length.wrapping_mul(8);
        let zeros = (55usize.wrapping_sub(self.held())) % 64;
        self.update(&[0x80]);
        self.update(&[0; 63][..zeros]);
        self.update(&bits.to_le_bytes());
        let mut digest = [0; 16];
        for (bytes, word) in digest.chunks_exact_mut(4).zip(self.state) {
            bytes.copy_from_slice(&word.to_le_bytes());
        }
        digest
    }

    /// Bytes of a block that is not full.
    fn held(&self) -> usize {
        usize::try_from(self.length % 64).unwrap_or(0)
    }
}

impl Default for Md5 {
    fn default() -> Md5 {
        Md5::new()
    }
}

fn compress(state: &mut [u32; 4], block: &[u8; 64]) {
    let mut words = [0; 16];
    for (word, bytes) in words.iter_mut().zip(block.as_chunks().0) {
        *word = u32::from_le_bytes(*bytes);
    }
    let [mut a, mut b, mut c, mut d] = *state;
    for (step, sine) in SINES.iter().enumerate() {
        let (mixed, word) = match step / 16 {
            0 => (b & c | !b & d, step),
            1 => (d & b | !d & c, 5 * step + 1),
            2 => (b ^ c ^ d, 3 * step + 5),
            _ => (c ^ (b | !d), 7 * step),
        };
        let sum = a.wrapping_add(mixed).wrapping_add(*sine).wrapping_add(words[word % 16]);
        (a, d, c, b) = (d, c, b, b.wrapping_add(sum.rotate_left(TURNS[step / 16][step % 4])));
    }
    for (old, new) in state.iter_mut().zip([a, b, c, d]) {
        *old = old.wrapping_add(new);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metainfo::hex;

    fn md5(bytes: &[u8], cut: usize) -> String {
        let mut md5 = Md5::new();
        bytes.chunks(cut).for_each(|part| md5.update(part));
        hex(&md5.finish())
    }

    #[test]
    fn digests_are_those_of_the_rfc_however_the_bytes_come() {
        let digits = b"12345678901234567890123456789012345678901234567890123456789012345678901234567890";
        for (text, digest) in [
            (&b""[..], "d41d8cd98f00b204e9800998ecf8427e"),
            (b"a", "0cc175b9c0f1b6a831c399e269772661"),
            (b"message digest", "f96b697d7cb7938d525a2f31aaf161d0"),
            (digits, "57edf4a22be3c955ac49da2e2107b67a"),
        ] {
            for cut in [1, 7, 64, 100] {
                assert_eq!(md5(text, cut), digest, "{text:?} by {cut}");
            }
        }
        // Every length around the end of a block; the digest of Python's hashlib.
        let all: String = (0..200).map(|length| md5(&vec![b'x'; length], 33)).collect();
        assert_eq!(md5(all.as_bytes(), 64), "0f0e2ac786e6a42eac7e7de3a518cd0c");
    }
}

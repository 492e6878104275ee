//! Hash trees: how one hash stands for many.
//!
//! Read first: BEP 52 ("pieces root", "piece layers"): SHA-256 over leaves of 16 KiB, one tree a file; BEP 30: SHA-1
//! over pieces, one tree a torrent. Both fill the row of leaves with zeros to a power of two. Omits the proofs that
//! peers send each other. Holds one hash a level.

use sha1::{Digest, Sha1};
use sha2::Sha256;

use crate::piece::BLOCK;

/// A tree whose nodes come in from the left, all of one level: those that are whole are joined at once.
#[derive(Clone, Debug)]
pub struct Tree {
    /// The first 20 bytes of each node count, and it is SHA-1.
    v1: bool,
    /// Nodes so far: its bits say of which levels `waiting` are.
    count: u64,
    /// Nodes that wait for their right neighbour, the highest first.
    waiting: Vec<[u8; 32]>,
}

impl Tree {
    /// One of BEP 52, without nodes.
    pub fn new() -> Tree {
        Tree { v1: false, count: 0, waiting: Vec::new() }
    }

    /// Adds a node on the right.
    pub fn push(&mut self, node: &[u8; 32]) {
        let mut node = *node;
        for _ in 0..self.count.trailing_ones() {
            let Some(left) = self.waiting.pop() else { break };
            node = self.join(&left, &node);
        }
        self.waiting.push(node);
        self.count += 1;
    }

    /// The root of so many levels above the row, or of as many more as the nodes need; what is missing on the right
    /// is `pad`. Without nodes it is padding alone.
    pub fn root(mut self, levels: u32, mut pad: [u8; 32]) -> [u8; 32] {
        let levels = levels.max(self.count.next_power_of_two().trailing_zeros());
        let mut node = None;
        for level in 0..levels {
            node = match (node, self.count >> level & 1 == 1) {
                (None, false) => None,
                // The first node from the right, but for one that is the root.
                (None, true) => self.waiting.pop().map(|left| self.join(&left, &pad)),
                (Some(right), true) => self.waiting.pop().map(|left| self.join(&left, &right)),
                (Some(left), false) => Some(self.join(&left, &pad)),
            };
            pad = self.join(&pad, &pad);
        }
        node.or_else(|| self.waiting.pop()).unwrap_or(pad)
    }

    fn join(&self, left: &[u8; 32], right: &[u8; 32]) -> [u8; 32] {
        if !self.v1 {
            return Sha256::new().chain_update(left).chain_update(right).finalize().into();
        }
        let mut node = [0; 32];
        let sha1 = Sha1::new().chain_update(&left[..20]).chain_update(&right[..20]);
        node[..20].copy_from_slice(&sha1.finalize());
        node
    }
}

impl Default for Tree {
    fn default() -> Tree {
        Tree::new()
    }
}

/// Levels of a tree between its leaves and the nodes that stand for whole pieces.
pub fn levels(piece_length: u32) -> u32 {
    (piece_length / BLOCK).max(1).ilog2()
}

/// The node of that level above the leaves that has nothing but padding below it.
pub fn pad(level: u32) -> [u8; 32] {
    Tree::new().root(level, [0; 32])
}

/// The root of a file's tree from its leaves: `pieces root`.
pub fn root(leaves: &[[u8; 32]]) -> [u8; 32] {
    above(leaves, 0, 0)
}

/// The node that stands for one piece, of a file that has several.
pub fn piece(leaves: &[[u8; 32]], piece_length: u32) -> [u8; 32] {
    above(leaves, 0, levels(piece_length))
}

/// The nodes of all pieces: what `piece layers` holds of a file that has several.
pub fn layer(leaves: &[[u8; 32]], piece_length: u32) -> Vec<[u8; 32]> {
    leaves.chunks(1 << levels(piece_length)).map(|leaves| piece(leaves, piece_length)).collect()
}

/// The root of a file's tree from the nodes of its pieces.
pub fn root_of_layer(layer: &[[u8; 32]], piece_length: u32) -> [u8; 32] {
    above(layer, levels(piece_length), 0)
}

/// The root of a torrent's tree from the SHA-1 of its pieces: `root hash` of BEP 30.
pub fn root_v1(pieces: &[[u8; 20]]) -> [u8; 20] {
    let mut tree = Tree { v1: true, ..Tree::new() };
    let mut node = [0; 32];
    for piece in pieces {
        node[..20].copy_from_slice(piece);
        tree.push(&node);
    }
    let mut root = [0; 20];
    root.copy_from_slice(&tree.root(0, [0; 32])[..20]);
    root
}

/// The root of at least so many levels above a row of nodes of that level.
fn above(row: &[[u8; 32]], level: u32, levels: u32) -> [u8; 32] {
    let mut tree = Tree::new();
    row.iter().for_each(|node| tree.push(node));
    tree.root(levels, pad(level))
}

#[cfg(test)]
mod tests {
    use super::super::hex;
    use super::*;

    /// Leaves that are easily made elsewhere: the SHA-256 of one byte each.
    fn leaves(count: u8) -> Vec<[u8; 32]> {
        (0..count).map(|n| Sha256::digest([n]).into()).collect()
    }

    /// A tree as BEP 52 tells it: the whole row filled up, then row after row.
    fn by_rows(mut row: Vec<Vec<u8>>, hash: fn(&[u8]) -> Vec<u8>) -> Vec<u8> {
        row.resize(row.len().next_power_of_two(), vec![0; row[0].len()]);
        while row.len() > 1 {
            row = row.chunks(2).map(|pair| hash(&pair.concat())).collect();
        }
        row.remove(0)
    }

    // Values of Python's hashlib.
    #[test]
    fn roots_are_those_of_another_program() {
        for (count, expected) in [
            (1, "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d"),
            (2, "30e1867424e66e8b6d159246db94e3486778136f7e386ff5f001859d6b8484ab"),
            (3, "7ee5fcde741ff935e2c5fee3f08c8761b800957f20035d9d5dac2897f942a5eb"),
            (5, "41886469306e351e1887e826f9fd0a51c08cfa38881129135e646320e3a134a2"),
            (8, "0727b310f87099c1ba2ec0ba408def82c308237c8577f0bdfd2643e9cc6b7578"),
            (13, "4c6a225fee53fc9a2ac52d385f95607cae55a5f6e233706d3fd1cf6470cb638e"),
        ] {
            assert_eq!(hex(&root(&leaves(count))), expected, "{count} leaves");
        }
        assert_eq!(hex(&pad(0)), "0".repeat(64));
        assert_eq!(hex(&pad(1)), "f5a5fd42d16a20302798ef6ed309979b43003d2320d9f0e8ea9831a92759fb4b");
        assert_eq!(hex(&pad(4)), "536d98837f2dd165a55d5eeae91485954472d56f246df256bf3cae19352a123c");
        let pieces: Vec<[u8; 20]> = (0..5u8).map(|n| Sha1::digest([n]).into()).collect();
        assert_eq!(hex(&root_v1(&pieces)), "5c9ee9a741658836975c17791ce53efe30e8d9e1");
        assert_eq!(root_v1(&pieces[..1]), pieces[0]);
    }

    #[test]
    fn any_number_of_leaves_gives_the_root_of_the_row_that_is_filled_up() {
        for count in 1..70 {
            let leaves = leaves(count);
            let rows = leaves.iter().map(|leaf| leaf.to_vec()).collect();
            assert_eq!(
                root(&leaves).to_vec(),
                by_rows(rows, |pair| Sha256::digest(pair).to_vec()),
                "{count}"
            );
            let pieces: Vec<[u8; 20]> = (0..count).map(|n| Sha1::digest([n]).into()).collect();
            let rows = pieces.iter().map(|piece| piece.to_vec()).collect();
            assert_eq!(
                root_v1(&pieces).to_vec(),
                by_rows(rows, |pair| Sha1::digest(pair).to_vec()),
                "{count}"
            );
        }
    }

    #[test]
    fn the_layer_of_pieces_has_the_root_of_the_leaves() {
        for (piece_length, levels) in [(16 << 10, 0), (32 << 10, 1), (128 << 10, 3)] {
            assert_eq!(super::levels(piece_length), levels);
            for count in [9, 16, 17, 63, 64] {
                let leaves = leaves(count);
                let layer = layer(&leaves, piece_length);
                assert_eq!(layer.len(), usize::from(count).div_ceil(1 << levels));
                assert_eq!(
                    layer.last(),
                    Some(&piece(leaves.chunks(1 << levels).last().unwrap(), piece_length))
                );
                assert_eq!(root_of_layer(&layer, piece_length), root(&leaves), "{count} leaves");
            }
        }
    }
}

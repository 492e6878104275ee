//! What of the DHT is remembered over a restart: who we were, and whom we knew.
//!
//! Read first: BEP 5 ("routing table" is saved between invocations). Omits files. Holds what it decodes.

use std::net::SocketAddr;

use sha1::{Digest, Sha1};

use super::id::Id;
use crate::net::compact;

/// What the bytes begin with, the last of them the version.
const MAGIC: [u8; 16] = *b"meshseed\xabnodes\n\x01";

/// Nodes that are kept of each family.
pub const MAX_SAVED: usize = 40;

/// Who we were, and whom we knew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Saved {
    /// Our id.
    pub id: [u8; 20],
    /// Nodes that answered.
    pub nodes: Vec<SocketAddr>,
}

impl Saved {
    /// Its bytes, with a checksum at their end. Link-local nodes lose their link, and so are left out.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = [&MAGIC[..], &self.id].concat();
        for &node in &self.nodes {
            let bytes = compact::bytes(node);
            // 6 or 18.
            out.extend(u8::try_from(bytes.len()));
            out.extend(bytes);
        }
        let sum = Sha1::digest(&out);
        out.extend_from_slice(&sum);
        out
    }

    /// `None` where the bytes are not exactly what [`Saved::encode`] writes.
    pub fn decode(bytes: &[u8]) -> Option<Saved> {
        let (content, sum) = bytes.split_at_checked(bytes.len().checked_sub(20)?)?;
        let rest = content.strip_prefix(&MAGIC)?;
        if Sha1::digest(content)[..] != *sum {
            return None;
        }
        let (id, mut rest) = rest.split_first_chunk()?;
        let mut nodes = Vec::new();
        while let Some((&length, after)) = rest.split_first() {
            let (node, after) = after.split_at_checked(length.into())?;
            nodes.push(compact::address(node)?);
            rest = after;
        }
        (nodes.len() <= 2 * MAX_SAVED).then_some(Saved { id: Id(*id).0, nodes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_saved_is_read_and_what_is_torn_is_not() {
        let nodes = vec!["10.1.1.1:6881".parse().unwrap(), "[fd00::1]:6882".parse().unwrap()];
        let saved = Saved { id: [7; 20], nodes };
        let bytes = saved.encode();
        assert_eq!(Saved::decode(&bytes).as_ref(), Some(&saved));
        for cut in 0..bytes.len() {
            assert_eq!(Saved::decode(&bytes[..cut]), None);
            let mut torn = bytes.clone();
            torn[cut] ^= 1;
            assert_eq!(Saved::decode(&torn), None);
        }
        let empty = Saved { id: [0; 20], nodes: Vec::new() };
        assert_eq!(Saved::decode(&empty.encode()), Some(empty));
    }
}

//! Metadata between peers: the info dictionary of a torrent, sixteen kibibytes a message.
//!
//! Read first: BEP 9, then BEP 10 for how its messages travel. Omits who is asked for what, see
//! `torrent::metadata`. Borrows from the message; holds nothing.

use crate::bencode::{Value, Writer};

/// By which id peers are to send us these messages.
pub const ID: u8 = 2;

/// Bytes of a piece of metadata; the last one may be shorter.
pub const PIECE: u32 = 16 * 1024;

/// Bytes of a message with a piece in it: the dictionary before it has some sixty, and clients add keys of their own.
pub const MAX_PAYLOAD: u32 = PIECE + 1024;

/// A message about metadata.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message<'a> {
    /// A piece is asked for.
    Request(u32),
    /// A piece comes.
    Data {
        /// Which.
        piece: u32,
        /// Bytes of all the metadata, as the sender says.
        total: Option<u32>,
        /// What follows the dictionary.
        data: &'a [u8],
    },
    /// A piece that was asked for does not come.
    Reject(u32),
}

impl<'a> Message<'a> {
    /// Reads a payload; `None` for what is no message we know, which is no reason to drop the peer.
    pub fn decode(payload: &'a [u8]) -> Option<Message<'a>> {
        let (value, data) = Value::parse_prefix(payload).ok()?;
        let number = |key: &[u8]| u32::try_from(value.find(key)?.as_int()?).ok();
        let piece = number(b"piece")?;
        match value.find(b"msg_type")?.as_int()? {
            0 => Some(Message::Request(piece)),
            1 => Some(Message::Data { piece, total: number(b"total_size"), data }),
            2 => Some(Message::Reject(piece)),
            _ => None,
        }
    }

    /// Appends the payload.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let (kind, piece) = match *self {
            Message::Request(piece) => (0, piece),
            Message::Data { piece, .. } => (1, piece),
            Message::Reject(piece) => (2, piece),
        };
        Writer::new(out).dict(|dict| {
            dict.int("msg_type", kind);
            dict.int("piece", piece.into());
            if let Message::Data { total: Some(total), .. } = self {
                dict.int("total_size", i64::from(*total));
            }
        });
        if let Message::Data { data, .. } = self {
            out.extend_from_slice(data);
        }
    }
}

/// Pieces of so many bytes of metadata.
pub fn pieces(size: u32) -> u32 {
    size.div_ceil(PIECE)
}

/// Bytes of a piece; 0 where there is none of that number.
pub fn piece_len(size: u32, piece: u32) -> u32 {
    piece.checked_mul(PIECE).map_or(0, |start| size.saturating_sub(start).min(PIECE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_reads_back_as_it_was_written() {
        for message in [
            Message::Request(0),
            Message::Data { piece: 3, total: Some(50_000), data: b"d4:spam" },
            Message::Data { piece: u32::MAX, total: None, data: b"" },
            Message::Reject(7),
        ] {
            let mut out = Vec::new();
            message.encode(&mut out);
            assert_eq!(Message::decode(&out), Some(message));
        }
    }

    #[test]
    fn what_is_no_message_is_none_whatever_its_numbers() {
        for bytes in [
            &b""[..],
            b"i1e",
            b"de",
            b"d8:msg_typei0ee",
            b"d5:piecei0ee",
            b"d8:msg_typei0e5:piecei-1ee",
            b"d8:msg_typei1e5:piecei4294967296ee",
            b"d8:msg_typei3e5:piecei0ee",
            b"d8:msg_type1:05:piecei0ee",
            b"d8:msg_typei0e5:piecei0e",
        ] {
            assert_eq!(Message::decode(bytes), None, "{}", bytes.escape_ascii());
        }
        let huge = b"d8:msg_typei1e5:piecei0e10:total_sizei9223372036854775807ee";
        assert_eq!(Message::decode(huge), Some(Message::Data { piece: 0, total: None, data: b"" }));
    }

    #[test]
    fn metadata_is_cut_into_pieces_of_which_the_last_may_be_short() {
        assert_eq!((pieces(0), pieces(1), pieces(PIECE), pieces(PIECE + 1)), (0, 1, 1, 2));
        let size = 2 * PIECE + 5;
        assert_eq!([0, 2, 3, u32::MAX].map(|piece| piece_len(size, piece)), [PIECE, 5, 0, 0]);
        // All that a message says fits, with its dictionary.
        let mut out = Vec::new();
        let data = vec![0; PIECE as usize];
        Message::Data { piece: 1023, total: Some(16 << 20), data: &data }.encode(&mut out);
        assert!(out.len() <= MAX_PAYLOAD as usize);
    }
}

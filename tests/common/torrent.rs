//! Torrents made for a test: content that follows from the name, and the metainfo of BEP 3 around it.

use std::path::Path;

use sha1::{Digest, Sha1};

use super::daemon::Home;

/// A torrent with its content in memory.
#[derive(Clone, Debug)]
pub struct Torrent {
    pub name: String,
    pub info_hash: [u8; 20],
    pub piece_length: usize,
    /// Paths as they lie below the data root, with the bytes.
    pub files: Vec<(String, Vec<u8>)>,
    /// The same for files of zeros alone: path and length.
    holes: Vec<(String, u64)>,
    info: Vec<u8>,
    announce: Option<String>,
}

impl Torrent {
    /// One file called `name`.
    pub fn single(name: &str, length: usize, piece_length: usize) -> Self {
        let files = vec![(name.to_owned(), noise(name, length))];
        let info = [("length", integer(length as u64))];
        Self::new(name, files, &info, piece_length)
    }

    /// A folder called `name` with files of these lengths at these paths.
    pub fn multi(name: &str, files: &[(&str, usize)], piece_length: usize) -> Self {
        let entries: Vec<_> = files
            .iter()
            .map(|(path, length)| {
                let components: Vec<_> = path.split('/').map(|part| string(part.as_bytes())).collect();
                dictionary(&[("length", integer(*length as u64)), ("path", list(&components))])
            })
            .collect();
        let files =
            files.iter().map(|(path, length)| (format!("{name}/{path}"), noise(path, *length))).collect();
        Self::new(name, files, &[("files", list(&entries))], piece_length)
    }

    fn new(
        name: &str,
        files: Vec<(String, Vec<u8>)>,
        lengths: &[(&str, Vec<u8>)],
        piece_length: usize,
    ) -> Self {
        let content: Vec<u8> = files.iter().flat_map(|(_, bytes)| bytes).copied().collect();
        let hashes: Vec<u8> = content.chunks(piece_length).flat_map(Sha1::digest).collect();
        let info = info(name, lengths, piece_length as u64, &hashes);
        Self::of_info(name, files, info, piece_length)
    }

    /// A torrent of a sparse file of zeros that ends with the bytes of `tail`: gigabytes that take no room.
    pub fn sparse(name: &str, length: u64, piece_length: usize, tail: &[u8]) -> Self {
        let zeros = Sha1::digest(vec![0; piece_length]);
        let count = length.div_ceil(piece_length as u64);
        let last_length =
            usize::try_from(length - (count - 1) * piece_length as u64).expect("at most a piece");
        let mut last = vec![0; last_length];
        last[last_length - tail.len()..].copy_from_slice(tail);
        let mut hashes: Vec<u8> = (1..count).flat_map(|_| zeros).collect();
        hashes.extend(Sha1::digest(last));
        let info = info(name, &[("length", integer(length))], piece_length as u64, &hashes);
        Self { holes: vec![(name.to_owned(), length)], ..Self::of_info(name, Vec::new(), info, piece_length) }
    }

    /// The same with many files of zeros.
    pub fn sparse_files(name: &str, count: usize, length: u64, piece_length: usize) -> Self {
        let paths: Vec<String> = (0..count).map(|n| format!("file {n}")).collect();
        let total = count as u64 * length;
        let zeros = Sha1::digest(vec![0; piece_length]);
        let pieces = total.div_ceil(piece_length as u64);
        let last = usize::try_from(total - (pieces - 1) * piece_length as u64).expect("at most a piece");
        let mut hashes: Vec<u8> = (1..pieces).flat_map(|_| zeros).collect();
        hashes.extend(Sha1::digest(vec![0; last]));
        let entry = |path: &String| {
            dictionary(&[("length", integer(length)), ("path", list(&[string(path.as_bytes())]))])
        };
        let entries: Vec<_> = paths.iter().map(entry).collect();
        let info = info(name, &[("files", list(&entries))], piece_length as u64, &hashes);
        let holes = paths.iter().map(|path| (format!("{name}/{path}"), length)).collect();
        Self { holes, ..Self::of_info(name, Vec::new(), info, piece_length) }
    }

    fn of_info(name: &str, files: Vec<(String, Vec<u8>)>, info: Vec<u8>, piece_length: usize) -> Self {
        let info_hash = Sha1::digest(&info).into();
        Self {
            name: name.to_owned(),
            info_hash,
            piece_length,
            files,
            holes: Vec::new(),
            info,
            announce: None,
        }
    }

    /// The same torrent, with a tracker.
    pub fn announce(mut self, url: &str) -> Self {
        self.announce = Some(url.to_owned());
        self
    }

    /// The bytes of the .torrent file.
    pub fn metainfo(&self) -> Vec<u8> {
        match &self.announce {
            Some(url) => dictionary(&[("announce", string(url.as_bytes())), ("info", self.info.clone())]),
            None => dictionary(&[("info", self.info.clone())]),
        }
    }

    /// The content of all files, as pieces run through it.
    pub fn content(&self) -> Vec<u8> {
        self.files.iter().flat_map(|(_, bytes)| bytes).copied().collect()
    }

    pub fn hex(&self) -> String {
        hex(&self.info_hash)
    }

    /// Writes the files below `root`.
    pub fn write_data(&self, root: &Path) {
        for (path, bytes) in &self.files {
            let path = root.join(path);
            std::fs::create_dir_all(path.parent().expect("below the root")).expect("the root is ours");
            std::fs::write(path, bytes).expect("the root is ours");
        }
    }

    /// Makes the files of zeros below `root`, without giving them room.
    pub fn write_sparse(&self, root: &Path) {
        for (path, length) in &self.holes {
            let path = root.join(path);
            std::fs::create_dir_all(path.parent().expect("below the root")).expect("the root is ours");
            let file = std::fs::File::create(path).expect("the root is ours");
            file.set_len(*length).expect("a file system with sparse files");
        }
    }

    /// Drops the .torrent into a watched folder at once, as a careful user does: under its name, by a rename.
    pub fn drop_into(&self, folder: &Path) {
        let unseen = folder.join(format!(".{}.part", self.name));
        std::fs::write(&unseen, self.metainfo()).expect("the folder is ours");
        std::fs::rename(unseen, folder.join(format!("{}.torrent", self.name))).expect("one file system");
    }

    /// Data first, then the .torrent.
    pub fn add_to(&self, home: &Home) {
        self.write_data(&home.data);
        self.drop_into(&home.torrents);
    }
}

/// The .torrent of someone else with its tracker replaced; the info dictionary stays byte for byte as it is.
pub fn with_tracker(metainfo: &[u8], url: &str) -> Vec<u8> {
    let mut at = 1;
    while metainfo[at] != b'e' {
        let key = skip(metainfo, at);
        let value = skip(metainfo, key);
        if &metainfo[at..key] == b"4:info" {
            let info = metainfo[key..value].to_vec();
            return dictionary(&[("announce", string(url.as_bytes())), ("info", info)]);
        }
        at = value;
    }
    panic!("a torrent has an info dictionary");
}

/// Where the bencoded value that begins at `at` ends.
fn skip(bytes: &[u8], at: usize) -> usize {
    match bytes[at] {
        b'i' => at + 1 + bytes[at..].iter().position(|byte| *byte == b'e').expect("an end"),
        b'l' | b'd' => {
            let mut inner = at + 1;
            while bytes[inner] != b'e' {
                inner = skip(bytes, inner);
            }
            inner + 1
        }
        _ => {
            let colon = at + bytes[at..].iter().position(|byte| *byte == b':').expect("a length");
            let length: usize =
                std::str::from_utf8(&bytes[at..colon]).expect("digits").parse().expect("a number");
            colon + 1 + length
        }
    }
}

fn info(name: &str, lengths: &[(&str, Vec<u8>)], piece_length: u64, hashes: &[u8]) -> Vec<u8> {
    let mut keys = lengths.to_vec();
    keys.push(("name", string(name.as_bytes())));
    keys.push(("piece length", integer(piece_length)));
    keys.push(("pieces", string(hashes)));
    dictionary(&keys)
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub fn string(bytes: &[u8]) -> Vec<u8> {
    [format!("{}:", bytes.len()).as_bytes(), bytes].concat()
}

pub fn integer(number: u64) -> Vec<u8> {
    format!("i{number}e").into_bytes()
}

pub fn list(items: &[Vec<u8>]) -> Vec<u8> {
    [b"l", items.concat().as_slice(), b"e"].concat()
}

/// Keys have to come in order.
pub fn dictionary(pairs: &[(&str, Vec<u8>)]) -> Vec<u8> {
    assert!(pairs.is_sorted_by_key(|(key, _)| *key), "keys of a dictionary are sorted");
    let body: Vec<u8> =
        pairs.iter().flat_map(|(key, value)| [string(key.as_bytes()), value.clone()].concat()).collect();
    [b"d", body.as_slice(), b"e"].concat()
}

/// Bytes without a pattern that depend on the name alone (xorshift64*).
fn noise(name: &str, length: usize) -> Vec<u8> {
    let mut state = name.bytes().fold(0x9e37_79b9_7f4a_7c15_u64, |state, byte| {
        (state ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
    }) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        bytes.extend(state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_be_bytes());
    }
    bytes.truncate(length);
    bytes
}

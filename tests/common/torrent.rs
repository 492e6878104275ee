//! Torrents made for a test: content that follows from the name, and the metainfo of BEP 3 around it.

use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use sha1::{Digest, Sha1};
use sha2::Sha256;

use super::daemon::Home;
use super::{run, sha256};

/// A torrent and its content.
#[derive(Clone, Debug)]
pub struct Torrent {
    pub name: String,
    pub info_hash: [u8; 20],
    pub piece_length: usize,
    files: Vec<Entry>,
    info: Vec<u8>,
    announce: Option<String>,
    /// `url-list` (BEP 19) and `httpseeds` (BEP 17).
    web_seeds: [Vec<String>; 2],
    /// Nodes of the DHT (BEP 5).
    nodes: Vec<(String, u16)>,
}

/// A file of a torrent: zeros, which need no memory here, up to the bytes at its end.
#[derive(Clone, Debug)]
struct Entry {
    /// As it lies below the data root.
    path: String,
    length: u64,
    end: Vec<u8>,
    /// It fills a piece up and is on no disk (BEP 47).
    padding: bool,
}

impl Entry {
    fn noise(path: String, seed: &str, length: usize) -> Self {
        Self { path, length: length as u64, end: noise(seed, length), padding: false }
    }

    fn zeros(path: String, length: u64) -> Self {
        Self { path, length, end: Vec::new(), padding: false }
    }

    /// Where its bytes that are not zeros lie, counted from its start.
    fn end(&self) -> Range<u64> {
        self.length - self.end.len() as u64..self.length
    }
}

impl Torrent {
    /// One file called `name`.
    pub fn single(name: &str, length: usize, piece_length: usize) -> Self {
        Self::one_file(Entry::noise(name.to_owned(), name, length), piece_length)
    }

    /// One file of zeros that ends with these bytes: gigabytes that take no room.
    pub fn sparse(name: &str, length: u64, piece_length: usize, end: &[u8]) -> Self {
        let file = Entry { end: end.to_vec(), ..Entry::zeros(name.to_owned(), length) };
        Self::one_file(file, piece_length)
    }

    /// A folder called `name` with files of these lengths at these paths.
    pub fn multi(name: &str, files: &[(&str, usize)], piece_length: usize) -> Self {
        let file = |&(path, length): &(&str, usize)| Entry::noise(format!("{name}/{path}"), path, length);
        Self::folder(name, files.iter().map(file).collect(), piece_length)
    }

    /// The same, each file beginning with a piece, as BEP 47 has it.
    pub fn padded(name: &str, files: &[(&str, usize)], piece_length: usize) -> Self {
        let mut entries = Vec::new();
        for &(path, length) in files {
            entries.push(Entry::noise(format!("{name}/{path}"), path, length));
            let missing = length.next_multiple_of(piece_length) - length;
            if missing > 0 {
                let path = format!("{name}/.pad/{missing}");
                entries.push(Entry { padding: true, ..Entry::zeros(path, missing as u64) });
            }
        }
        Self::folder(name, entries, piece_length)
    }

    /// A folder of files of zeros.
    pub fn sparse_files(name: &str, count: usize, length: u64, piece_length: usize) -> Self {
        let files = (0..count).map(|n| Entry::zeros(format!("{name}/file {n}"), length)).collect();
        Self::folder(name, files, piece_length)
    }

    fn one_file(file: Entry, piece_length: usize) -> Self {
        let lengths = [("length", integer(file.length))];
        Self::new(&file.path.clone(), vec![file], &lengths, piece_length)
    }

    fn folder(name: &str, files: Vec<Entry>, piece_length: usize) -> Self {
        let entry = |file: &Entry| {
            let parts: Vec<_> = file.path.split('/').skip(1).map(|part| string(part.as_bytes())).collect();
            let (length, path) = (("length", integer(file.length)), ("path", list(&parts)));
            if file.padding {
                dictionary(&[("attr", string(b"p")), length, path])
            } else {
                dictionary(&[length, path])
            }
        };
        let entries = list(&files.iter().map(entry).collect::<Vec<_>>());
        Self::new(name, files, &[("files", entries)], piece_length)
    }

    fn new(name: &str, files: Vec<Entry>, lengths: &[(&str, Vec<u8>)], piece_length: usize) -> Self {
        let (name, info_hash, info, announce) = (name.to_owned(), [0; 20], Vec::new(), None);
        let (web_seeds, nodes) = Default::default();
        let mut torrent = Self { name, info_hash, piece_length, files, info, announce, web_seeds, nodes };
        torrent.info = torrent.info(lengths);
        torrent.info_hash = Sha1::digest(&torrent.info).into();
        torrent
    }

    fn info(&self, lengths: &[(&str, Vec<u8>)]) -> Vec<u8> {
        // Of the many pieces of zeros in a large file one is hashed.
        let of_zeros = Sha1::digest(vec![0; self.piece_length]);
        let ends: Vec<_> = self.ends().collect();
        let mut hashes = Vec::new();
        for piece in 0..self.pieces() {
            let range = self.range(piece);
            let whole = range.end - range.start == self.piece_length as u64;
            let zeros = !ends.iter().any(|(end, _)| end.start < range.end && range.start < end.end);
            hashes.extend(if whole && zeros { of_zeros } else { Sha1::digest(self.read(range)) });
        }
        let mut keys = lengths.to_vec();
        keys.push(("name", string(self.name.as_bytes())));
        keys.push(("piece length", integer(self.piece_length as u64)));
        keys.push(("pieces", string(&hashes)));
        dictionary(&keys)
    }

    /// How many pieces it has.
    pub fn pieces(&self) -> u32 {
        u32::try_from(self.size().div_ceil(self.piece_length as u64)).expect("a torrent of this protocol")
    }

    /// Where a piece lies in the content.
    fn range(&self, piece: u32) -> Range<u64> {
        let at = u64::from(piece) * self.piece_length as u64;
        at..self.size().min(at + self.piece_length as u64)
    }

    /// The bytes in these pieces.
    pub fn bytes_in(&self, pieces: Range<u32>) -> u64 {
        pieces.map(|piece| self.range(piece)).map(|range| range.end - range.start).sum()
    }

    /// A block, where it has one.
    pub fn block(&self, piece: u32, begin: u32, length: u32) -> Option<Vec<u8>> {
        let range = (piece < self.pieces()).then(|| self.range(piece))?;
        let at = range.start + u64::from(begin);
        (at + u64::from(length) <= range.end).then(|| self.read(at..at + u64::from(length)))
    }

    /// The bytes of all files, padding too.
    pub fn size(&self) -> u64 {
        self.files.iter().map(|file| file.length).sum()
    }

    /// What is not zero in the content, and where it lies.
    fn ends(&self) -> impl Iterator<Item = (Range<u64>, &[u8])> {
        let mut begin = 0;
        self.files.iter().filter_map(move |file| {
            let end = begin + file.end().start..begin + file.length;
            begin += file.length;
            (!end.is_empty()).then_some((end, file.end.as_slice()))
        })
    }

    /// A part of the content of all files, as pieces run through it.
    pub fn read(&self, range: Range<u64>) -> Vec<u8> {
        let short = |length: u64| usize::try_from(length).expect("in memory");
        let mut bytes = vec![0; short(range.end - range.start)];
        for (place, end) in self.ends() {
            let (from, to) = (range.start.max(place.start), range.end.min(place.end));
            if from < to {
                let part = &end[short(from - place.start)..short(to - place.start)];
                bytes[short(from - range.start)..short(to - range.start)].copy_from_slice(part);
            }
        }
        bytes
    }

    /// The same torrent, with a tracker.
    pub fn announce(mut self, url: &str) -> Self {
        self.announce = Some(url.to_owned());
        self
    }

    /// The same torrent, with web seeds of BEP 19.
    pub fn web_seeds(mut self, urls: &[String]) -> Self {
        self.web_seeds[0] = urls.to_vec();
        self
    }

    /// The same torrent, with web seeds of BEP 17.
    pub fn http_seeds(mut self, urls: &[String]) -> Self {
        self.web_seeds[1] = urls.to_vec();
        self
    }

    /// The same torrent, with a node of the DHT.
    pub fn node(mut self, host: &str, port: u16) -> Self {
        self.nodes.push((host.to_owned(), port));
        self
    }

    /// The same content as a private torrent (BEP 27).
    pub fn private(mut self) -> Self {
        self.info.truncate(self.info.len() - 1);
        self.info.extend(b"7:privatei1ee");
        self.info_hash = Sha1::digest(&self.info).into();
        self
    }

    /// The bytes of the info dictionary: the metadata of BEP 9.
    pub fn metadata(&self) -> &[u8] {
        &self.info
    }

    /// Its magnet link, with what else is to stand in it.
    pub fn magnet(&self, rest: &str) -> String {
        format!("magnet:?xt=urn:btih:{}{rest}", self.hex())
    }

    /// Drops a magnet link into a watched folder, as a browser or a user does.
    pub fn drop_link_into(&self, folder: &Path, rest: &str) {
        let unseen = folder.join(format!(".{}.part", self.name));
        std::fs::write(&unseen, self.magnet(rest) + "\n").expect("the folder is ours");
        std::fs::rename(unseen, folder.join(format!("{}.magnet", self.name))).expect("one file system");
    }

    /// The bytes of the .torrent file.
    pub fn metainfo(&self) -> Vec<u8> {
        let mut keys = Vec::new();
        if let Some(url) = &self.announce {
            keys.push(("announce", string(url.as_bytes())));
        }
        let urls = |urls: &[String]| list(&urls.iter().map(|url| string(url.as_bytes())).collect::<Vec<_>>());
        if !self.web_seeds[1].is_empty() {
            keys.push(("httpseeds", urls(&self.web_seeds[1])));
        }
        keys.push(("info", self.info.clone()));
        if !self.nodes.is_empty() {
            let node =
                |(host, port): &(String, u16)| list(&[string(host.as_bytes()), integer((*port).into())]);
            keys.push(("nodes", list(&self.nodes.iter().map(node).collect::<Vec<_>>())));
        }
        if !self.web_seeds[0].is_empty() {
            keys.push(("url-list", urls(&self.web_seeds[0])));
        }
        dictionary(&keys)
    }

    /// The files that lie on a disk: paths below the data root, and bytes.
    pub fn contents(&self) -> Vec<(String, Vec<u8>)> {
        let mut begin = 0;
        let mut contents = Vec::new();
        for file in &self.files {
            if !file.padding {
                contents.push((file.path.clone(), self.read(begin..begin + file.length)));
            }
            begin += file.length;
        }
        contents
    }

    /// The content of all files, as pieces run through it.
    pub fn content(&self) -> Vec<u8> {
        self.read(0..self.size())
    }

    pub fn hex(&self) -> String {
        hex(&self.info_hash)
    }

    /// Writes the files below `root`. Zeros before their end take no room.
    pub fn write_data(&self, root: &Path) {
        for entry in self.files.iter().filter(|entry| !entry.padding) {
            let path = root.join(&entry.path);
            std::fs::create_dir_all(path.parent().expect("below the root")).expect("the root is ours");
            let file = std::fs::File::create(path).expect("the root is ours");
            file.set_len(entry.length).expect("a file system with sparse files");
            file.write_all_at(&entry.end, entry.end().start).expect("there is room");
        }
    }

    /// All files lie below `root` with the right bytes, and nothing else does.
    pub fn assert_lies_in(&self, root: &Path) {
        let mut wanted = Vec::new();
        for entry in self.files.iter().filter(|entry| !entry.padding) {
            let zeros = vec![0; usize::try_from(entry.end().start).expect("in memory")];
            let sum = Sha256::new().chain_update(zeros).chain_update(&entry.end).finalize();
            assert_eq!(sha256(&root.join(&entry.path)), hex(&sum), "{} is right", entry.path);
            wanted.push(entry.path.clone());
        }
        let found = run(Command::new("find").arg(root.join(&self.name)).args(["-type", "f", "-print"]));
        let mut found: Vec<_> =
            found.lines().map(|line| line[root.as_os_str().len() + 1..].to_owned()).collect();
        found.sort_unstable();
        wanted.sort_unstable();
        assert_eq!(found, wanted, "the files of the torrent and no others");
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
pub fn noise(name: &str, length: usize) -> Vec<u8> {
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

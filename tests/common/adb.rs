//! apk-tools' packages and indexes of version 3, read from the description of the format, apk-v3(5), and of its fields,
//! src/apk_adb.h. Strict: what is not used, not aligned or not in order is a mistake of the writer.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

/// The blocks of a file.
#[derive(Debug)]
pub struct Archive {
    /// `pckg` or `indx`.
    pub schema: [u8; 4],
    /// The block that the root lies in.
    pub adb: Vec<u8>,
    pub signatures: Vec<Vec<u8>>,
    /// Directory and file by number, and content.
    pub data: Vec<(usize, usize, Vec<u8>)>,
}

/// A value with all that is in it.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Null,
    Number(u64),
    Blob(Vec<u8>),
    /// An object's fields or an array's items.
    Row(Vec<Self>),
}

impl Archive {
    pub fn read(path: &Path) -> Self {
        let packed = std::fs::read(path).expect("a package is read");
        assert_eq!(&packed[..4], b"ADBd", "a deflated ADB file");
        let file = inflate(&packed[4..]);
        assert_eq!(&file[..4], b"ADB.");
        let schema = file[4..8].try_into().expect("four bytes");
        let mut archive = Self { schema, adb: Vec::new(), signatures: Vec::new(), data: Vec::new() };
        let (mut rest, mut last) = (&file[8..], 0);
        while !rest.is_empty() {
            let head = number(rest, 0, 4);
            let (kind, size) = (head >> 30, usize::try_from(head & 0x3fff_ffff).expect("small"));
            let content = rest[4..size].to_vec();
            assert!(rest[size..size.next_multiple_of(8)].iter().all(|byte| *byte == 0), "padded with zeros");
            assert!(kind >= last, "blocks come in the order of their types");
            match kind {
                0 if archive.adb.is_empty() => archive.adb = content,
                1 => archive.signatures.push(content),
                2 => archive.data.push((
                    usize::try_from(number(&content, 0, 4)).expect("small"),
                    usize::try_from(number(&content, 4, 4)).expect("small"),
                    content[8..].to_vec(),
                )),
                other => panic!("a block of type {other}"),
            }
            last = kind;
            rest = &rest[size.next_multiple_of(8)..];
        }
        archive
    }

    pub fn root(&self) -> Value {
        assert_eq!(self.adb[..4], [0; 4], "version 0 of the format");
        self.value(number(&self.adb, 4, 4))
    }

    fn value(&self, word: u64) -> Value {
        let at = usize::try_from(word & 0x0fff_ffff).expect("28 bits");
        let aligned = |size: usize| assert_eq!(at % size, 0, "a value at {at}");
        match word >> 28 {
            0 if at == 0 => Value::Null,
            0x1 => Value::Number(word & 0x0fff_ffff),
            0x2 => {
                aligned(4);
                Value::Number(number(&self.adb, at, 4))
            }
            kind @ 0x8..=0xa => {
                let size = 1 << (kind - 0x8);
                aligned(size);
                let length = usize::try_from(number(&self.adb, at, size)).expect("32 bits");
                assert!(length > 0, "nothing is written as no value");
                Value::Blob(self.adb[at + size..][..length].to_vec())
            }
            kind @ (0xd | 0xe) => {
                aligned(4);
                let count = usize::try_from(number(&self.adb, at, 4)).expect("32 bits");
                let items: Vec<_> =
                    (1..count).map(|item| self.value(number(&self.adb, at + 4 * item, 4))).collect();
                assert!(!matches!(items.last(), None | Some(Value::Null)), "a row ends with a value");
                assert!(kind == 0xe || !items.contains(&Value::Null), "an array has no gaps");
                Value::Row(items)
            }
            kind => panic!("a value of type {kind:#x}"),
        }
    }
}

impl Value {
    /// A field of an object by its number in the schema.
    pub fn field(&self, number: usize) -> &Self {
        self.items().get(number - 1).unwrap_or(&Self::Null)
    }

    pub fn items(&self) -> &[Self] {
        match self {
            Self::Row(items) => items,
            Self::Null => &[],
            other => panic!("{other:?} is no row"),
        }
    }

    pub fn bytes(&self) -> &[u8] {
        match self {
            Self::Blob(bytes) => bytes,
            Self::Null => &[],
            other => panic!("{other:?} is no blob"),
        }
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(self.bytes()).expect("text")
    }

    pub fn number(&self) -> u64 {
        match self {
            Self::Number(number) => *number,
            other => panic!("{other:?} is no number"),
        }
    }
}

fn number(bytes: &[u8], at: usize, size: usize) -> u64 {
    bytes[at..at + size].iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// Raw deflate, by zlib; nothing may follow it.
fn inflate(packed: &[u8]) -> Vec<u8> {
    let program = "import sys, zlib\n\
        one = zlib.decompressobj(-15)\n\
        sys.stdout.buffer.write(one.decompress(sys.stdin.buffer.read()))\n\
        assert one.eof and not one.unused_data";
    let mut python = Command::new("python3")
        .args(["-c", program])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("python3 starts");
    let mut stdin = python.stdin.take().expect("piped");
    let packed = packed.to_vec();
    let writer = std::thread::spawn(move || stdin.write_all(&packed));
    let out = python.wait_with_output().expect("python3 ends");
    writer.join().expect("no panic").expect("python3 reads all");
    assert!(out.status.success(), "one deflated stream and nothing else");
    out.stdout
}

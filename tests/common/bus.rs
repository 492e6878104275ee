//! OpenWrt's bus, as far as a daemon with one object meets it: it greets, gives the object a number or refuses it, passes
//! calls on and hears events. It can stop reading, say what nobody understands, and go away.

use std::fs;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread;

use serde_json::{Map, Value, json};

use super::{PATIENCE, wait};

const HELLO: u8 = 0;
const STATUS: u8 = 1;
const DATA: u8 = 2;
const INVOKE: u8 = 5;
const ADD_OBJECT: u8 = 6;

/// The number that each object is given.
const OBJECT: u32 = 0xf52a_12a1;

/// A bus in this process, gone with the test.
pub struct Bus {
    path: PathBuf,
    seen: Arc<Mutex<Seen>>,
}

/// What an owner of an object answered.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    pub seq: u16,
    pub status: u32,
    pub data: Option<Value>,
    /// Of the frame with the data.
    pub bytes: usize,
}

#[derive(Default)]
struct Seen {
    gone: bool,
    refuses: bool,
    deaf: bool,
    /// Connections so far, and the last of them.
    connections: usize,
    stream: Option<UnixStream>,
    /// Asked for its object so often.
    asked: usize,
    path: String,
    /// Methods with their arguments, by the types of blobmsg.
    signature: Option<Value>,
    data: Option<(Value, usize)>,
    answers: Vec<Answer>,
    events: Vec<(String, Value)>,
}

impl Bus {
    /// Listens at this path.
    pub fn start(path: &Path) -> Bus {
        let listener = UnixListener::bind(path).expect("the folder is ours");
        let seen = Arc::new(Mutex::new(Seen::default()));
        let shared = seen.clone();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let stream = stream.expect("a connection");
                if shared.lock().unwrap().gone {
                    return;
                }
                let shared = shared.clone();
                thread::spawn(move || serve(stream, &shared));
            }
        });
        Bus { path: path.to_owned(), seen }
    }

    /// As long as its ACL does not name the daemon.
    pub fn refuse(&self, refuses: bool) {
        self.seen.lock().unwrap().refuses = refuses;
    }

    /// Reads nothing more on the connection there is.
    pub fn go_deaf(&self) {
        self.seen.lock().unwrap().deaf = true;
    }

    pub fn connections(&self) -> usize {
        self.seen.lock().unwrap().connections
    }

    pub fn asked(&self) -> usize {
        self.seen.lock().unwrap().asked
    }

    pub fn events(&self) -> Vec<(String, Value)> {
        self.seen.lock().unwrap().events.clone()
    }

    /// Waits for the object of this name, and returns its methods.
    pub fn wait_object(&self, path: &str) -> Value {
        wait("the object is there", PATIENCE, || {
            let seen = self.seen.lock().unwrap();
            seen.signature.clone().filter(|_| seen.path == path)
        })
    }

    pub fn has_object(&self) -> bool {
        self.seen.lock().unwrap().signature.is_some()
    }

    /// Bytes to the owner of the object.
    pub fn send(&self, bytes: &[u8]) -> io::Result<()> {
        let stream = self.seen.lock().unwrap().stream.as_ref().map(UnixStream::try_clone);
        stream.expect("it is connected")?.write_all(bytes)
    }

    /// Calls the object, and waits.
    pub fn call(&self, method: &str, arguments: Value) -> Answer {
        let seq = 1000 + u16::try_from(self.seen.lock().unwrap().answers.len()).expect("few calls");
        self.send(&call(seq, method, Some(&table(&arguments)))).expect("it is connected");
        self.wait_answers(seq, 1).remove(0)
    }

    /// Waits for so many answers, the first of which has this number.
    pub fn wait_answers(&self, seq: u16, count: usize) -> Vec<Answer> {
        wait("the answers", PATIENCE, || {
            let seen = self.seen.lock().unwrap();
            let first = seen.answers.iter().position(|answer| answer.seq == seq)?;
            seen.answers.get(first..first + count).map(<[_]>::to_vec)
        })
    }
}

impl Drop for Bus {
    /// The process is killed, its socket stays.
    fn drop(&mut self) {
        let mut seen = self.seen.lock().unwrap();
        seen.gone = true;
        if let Some(stream) = &seen.stream {
            stream.shutdown(Shutdown::Both).ok();
        }
        drop(seen);
        UnixStream::connect(&self.path).ok();
        fs::remove_file(&self.path).ok();
    }
}

fn serve(mut stream: UnixStream, shared: &Mutex<Seen>) {
    let mut seen = shared.lock().unwrap();
    seen.connections += 1;
    seen.signature = None;
    seen.deaf = false;
    seen.stream = stream.try_clone().ok();
    drop(seen);
    stream.write_all(&frame(HELLO, 0, 0xeb62_aaf3, &[])).ok();
    while !shared.lock().unwrap().deaf {
        let mut head = [0; 12];
        if stream.read_exact(&mut head).is_err() {
            break;
        }
        let mut body = vec![0; u32::from_be_bytes(head[8..].try_into().unwrap()) as usize - 4];
        if stream.read_exact(&mut body).is_err() {
            break;
        }
        let (kind, seq) = (head[1], u16::from_be_bytes([head[2], head[3]]));
        let mut seen = shared.lock().unwrap();
        let find =
            |id: u8| attributes(&body).into_iter().find(|(known, _)| *known == id).map(|(_, value)| value);
        let number = |id| find(id).map(|value| u32::from_be_bytes(value.try_into().unwrap()));
        let reply = match kind {
            ADD_OBJECT => {
                seen.asked += 1;
                seen.path = text(find(2).expect("an object has a name"));
                if seen.refuses {
                    frame(STATUS, seq, 0, &[attribute(1, &2_u32.to_be_bytes())])
                } else {
                    seen.signature = find(6).map(|methods| value(2, methods));
                    let ids = [attribute(3, &OBJECT.to_be_bytes()), attribute(5, &[1, 2, 3, 4])];
                    [frame(DATA, seq, 0, &ids), frame(STATUS, seq, 0, &[attribute(1, &[0; 4])])].concat()
                }
            }
            INVOKE => {
                assert_eq!((number(3), find(4)), (Some(1), Some(&b"send\0"[..])), "nothing else is asked");
                let event = value(2, find(7).expect("an event has data"));
                seen.events.push((event["id"].as_str().expect("a name").to_owned(), event["data"].clone()));
                frame(STATUS, seq, 1, &[attribute(1, &[0; 4])])
            }
            DATA => {
                assert_eq!(number(3), Some(OBJECT), "else it is dropped silently");
                seen.data = Some((value(2, find(7).expect("a result")), body.len() + 12));
                continue;
            }
            STATUS => {
                assert_eq!(number(3), Some(OBJECT), "else it is dropped silently");
                let (data, bytes) = seen.data.take().unzip();
                let status = number(1).expect("a status");
                seen.answers.push(Answer { seq, status, data, bytes: bytes.unwrap_or(0) });
                continue;
            }
            other => panic!("a daemon sends no message {other}"),
        };
        drop(seen);
        stream.write_all(&reply).ok();
    }
    if !shared.lock().unwrap().deaf {
        shared.lock().unwrap().signature = None;
    }
}

/// A call as the bus passes it on.
pub fn call(seq: u16, method: &str, arguments: Option<&[u8]>) -> Vec<u8> {
    let mut body = vec![attribute(3, &OBJECT.to_be_bytes()), attribute(4, format!("{method}\0").as_bytes())];
    body.extend([attribute(12, b"root\0"), attribute(13, b"root\0")]);
    body.extend(arguments.map(|arguments| attribute(7, arguments)));
    frame(INVOKE, seq, 0x303c_21c4, &body)
}

/// A frame of these attributes.
pub fn frame(kind: u8, seq: u16, peer: u32, body: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = vec![0, kind];
    bytes.extend(seq.to_be_bytes());
    bytes.extend(peer.to_be_bytes());
    bytes.extend(attribute(0, &body.concat()));
    bytes
}

/// An attribute, padded.
pub fn attribute(id: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes =
        (u32::from(id) << 24 | u32::try_from(payload.len() + 4).expect("a short one")).to_be_bytes().to_vec();
    bytes.extend(payload);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// Arguments, as `ubus call` makes them of JSON.
pub fn table(arguments: &Value) -> Vec<u8> {
    let fields = arguments.as_object().expect("an object").iter();
    fields.flat_map(|(name, value)| named(name, value)).collect()
}

fn named(name: &str, value: &Value) -> Vec<u8> {
    let mut payload = u16::try_from(name.len()).unwrap().to_be_bytes().to_vec();
    payload.extend(name.bytes().chain([0]));
    payload.resize(payload.len().next_multiple_of(4), 0);
    let (kind, value) = match value {
        Value::Bool(flag) => (7, vec![u8::from(*flag)]),
        Value::String(text) => (3, format!("{text}\0").into_bytes()),
        Value::Array(values) => (1, values.iter().flat_map(|value| named("", value)).collect()),
        Value::Object(_) => (2, table(value)),
        Value::Number(number) => match number.as_i64() {
            None => (8, number.as_f64().unwrap().to_be_bytes().to_vec()),
            Some(number) => i32::try_from(number).map_or_else(
                |_| (4, number.to_be_bytes().to_vec()),
                |number| (5, number.to_be_bytes().to_vec()),
            ),
        },
        Value::Null => (0, Vec::new()),
    };
    payload.extend(value);
    attribute(0x80 | kind, &payload)
}

fn value(kind: u8, bytes: &[u8]) -> Value {
    let fields = || {
        attributes(bytes).into_iter().map(|(id, payload)| {
            let len = usize::from(u16::from_be_bytes([payload[0], payload[1]]));
            let name = text(&payload[2..=len + 2]);
            (name, value(id & 0x7f, &payload[(len + 3).next_multiple_of(4)..]))
        })
    };
    match kind {
        1 => fields().map(|(_, value)| value).collect(),
        2 => Value::Object(fields().collect::<Map<_, _>>()),
        3 => json!(text(bytes)),
        4 => json!(i64::from_be_bytes(bytes.try_into().expect("eight bytes"))),
        5 => json!(i32::from_be_bytes(bytes.try_into().expect("four bytes"))),
        7 => json!(bytes == [1]),
        other => panic!("no value of ours is of type {other}"),
    }
}

fn attributes(mut bytes: &[u8]) -> Vec<(u8, &[u8])> {
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let len = u32::from_be_bytes([0, bytes[1], bytes[2], bytes[3]]) as usize;
        found.push((bytes[0], &bytes[4..len]));
        assert!(bytes[len..len.next_multiple_of(4)].iter().all(|byte| *byte == 0), "padded with zeros");
        bytes = &bytes[len.next_multiple_of(4)..];
    }
    found
}

fn text(bytes: &[u8]) -> String {
    let (end, text) = bytes.split_last().expect("its end");
    assert!(*end == 0 && !text.contains(&0), "one zero, at the end");
    std::str::from_utf8(text).expect("UTF-8").to_owned()
}

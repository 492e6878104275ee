//! Every decoder × every truncation × mutation: nothing that comes from outside may panic, take memory out of proportion
//! to its bytes, or depend on how the network cut it.
//!
//! A decoder is a row: well-formed samples, a closure that decodes and says whether it accepted, and what it may
//! allocate. [`torture`] does the rest. What a decoder accepts is to be used by the closure as the program would (walked,
//! encoded again), so that a value that bites later bites here. Chance is seeded: a failure comes again.
#![expect(unsafe_code, reason = "an allocator that counts can not be written without")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use meshseed::bencode::{Value, Writer};
use meshseed::config::Config;
use meshseed::dht::id::Id;
use meshseed::dht::krpc::{self, Body, Query, Want};
use meshseed::dht::{self, Node, Output, Saved};
use meshseed::have::Have;
use meshseed::http::{Receiver, Url, decode_request_head};
use meshseed::lpd::{self, Search};
use meshseed::metainfo::survey::Survey;
use meshseed::metainfo::survey::lint::lint;
use meshseed::metainfo::{self, InfoHash, magnet::Magnet, merkle};
use meshseed::net::datagram::{Datagram, UTP_HEADER, tell_apart};
use meshseed::net::{Family, Prefix};
use meshseed::peer::wire::{self, Decoder, Handshake, Handshaking, Limits, Message, Reserved, Stage};
use meshseed::peer::{PeerKey, extension, metadata, pex};
use meshseed::random::Random;
use meshseed::rate::Bucket;
use meshseed::status::{self, METHODS, Method, json};
use meshseed::storage::resume::{self, Record, Stamp, Verified};
use meshseed::torrent::metadata::{Came, Gathering, MAX_METADATA, Offer};
use meshseed::tracker::{self, MAX_PEERS, MAX_TEXT, MAX_TRACKER_ID, Reply};
use meshseed::ubus::blob::{self, HEAD, Head};
use meshseed::ubus::{Client, MAX_FRAME, MAX_QUEUE, Object, Todo};

/// Mutations by chance of each sample, beside those of each byte.
const BY_CHANCE: usize = 4000;

/// Counts what the decoder under test holds, thread by thread, for tests run at once.
struct Counting;

thread_local! {
    static LIVE: Cell<usize> = const { Cell::new(0) };
    static PEAK: Cell<usize> = const { Cell::new(0) };
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// SAFETY: all of it is passed on to the system's allocator; the counters are plain cells that allocate nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size(), 0);
        // SAFETY: as our caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        count(0, layout.size());
        // SAFETY: as our caller promises.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size(), 0);
        // SAFETY: as our caller promises.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size, layout.size());
        // SAFETY: as our caller promises.
        unsafe { System.realloc(at, layout, size) }
    }
}

fn count(more: usize, less: usize) {
    // A thread that ends has no counters any more.
    let _ = LIVE.try_with(|live| {
        live.set(live.get().wrapping_add(more).wrapping_sub(less));
        let _ = PEAK.try_with(|peak| {
            // What one test frees of another's makes the count wrap: that is no peak.
            if live.get() < usize::MAX / 2 {
                peak.set(peak.get().max(live.get()));
            }
        });
    });
}

/// The most that was held at once while `f` ran.
fn peak_of<T>(f: impl FnOnce() -> T) -> (T, usize) {
    LIVE.set(0);
    PEAK.set(0);
    let result = f();
    (result, PEAK.get())
}

/// SplitMix64.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.next() % (n.max(1) as u64)).unwrap_or(0)
    }

    fn byte(&mut self) -> u8 {
        self.next().to_be_bytes()[0]
    }
}

/// Feeds a decoder everything that can be made of its samples. `decode` says whether it accepted, and may do nothing
/// but that; it holds at most `bound(bytes of input)` bytes at once.
fn torture(samples: &[Vec<u8>], bound: impl Fn(usize) -> usize, mut decode: impl FnMut(&[u8]) -> bool) {
    let mut feed = |bytes: &[u8]| -> bool {
        let (outcome, peak) = peak_of(|| catch_unwind(AssertUnwindSafe(|| decode(bytes))));
        let Ok(accepted) = outcome else { panic!("it panics at: {}", shown(bytes)) };
        assert!(peak <= bound(bytes.len()), "{peak} bytes held for {}: {}", bytes.len(), shown(bytes));
        accepted
    };
    let mut chance = Chance(1);
    for sample in samples {
        assert!(feed(sample), "a well-formed sample is refused: {}", shown(sample));
        for cut in 0..sample.len() {
            feed(&sample[..cut]);
            feed(&sample[cut..]);
        }
        let mut bytes = sample.clone();
        for at in 0..sample.len() {
            let was = bytes[at];
            for now in [0, 1, 0x7f, 0x80, 0xff, was ^ 1, was ^ 0x80, was.wrapping_add(1), was.wrapping_sub(1)]
                .into_iter()
                .chain(*b"059:ideluxe-%&=/.\"\\\r\n")
            {
                bytes[at] = now;
                feed(&bytes);
            }
            bytes[at] = was;
        }
        for _ in 0..BY_CHANCE {
            feed(&mutated(sample, samples, &mut chance));
        }
    }
    for length in (0..200).chain([1000, 70_000]) {
        for _ in 0..20 {
            let mut bytes = vec![0; length];
            bytes.fill_with(|| chance.byte());
            feed(&bytes);
            feed(&vec![bytes.first().copied().unwrap_or(0); length]);
        }
    }
}

/// One to four changes, of the kinds that parsers have fallen for.
fn mutated(sample: &[u8], samples: &[Vec<u8>], chance: &mut Chance) -> Vec<u8> {
    let mut bytes = sample.to_vec();
    for _ in 0..=chance.below(4) {
        let at = chance.below(bytes.len() + 1);
        let end = at + chance.below((bytes.len() - at).min(40) + 1);
        match chance.below(8) {
            0 => bytes.truncate(at),
            1 => drop(bytes.drain(at..end)),
            2 => {
                let copy = bytes[at..end].to_vec();
                let to = chance.below(bytes.len() + 1);
                bytes.splice(to..to, copy);
            }
            3 => {
                let numbers: &[&[u8]] = &[
                    b"-1",
                    b"-0",
                    b"00",
                    b"4294967296",
                    b"9223372036854775808",
                    b"99999999999999999999999",
                    b"",
                ];
                bytes.splice(at..end, numbers[chance.below(numbers.len())].iter().copied());
            }
            4 => {
                let words = [0, 1, 0x7fff_ffff, 0x8000_0000, u32::MAX, u32::MAX - 3];
                let word = u32::to_be_bytes(words[chance.below(words.len())]);
                let end = (at + 4).min(bytes.len());
                bytes.splice(at..end, word);
            }
            5 => {
                let other = &samples[chance.below(samples.len())];
                let from = chance.below(other.len() + 1);
                bytes.splice(at.., other[from..].iter().copied());
            }
            6 => bytes[at..end].reverse(),
            _ => {
                let noise: Vec<u8> = (0..chance.below(9)).map(|_| chance.byte()).collect();
                bytes.splice(at..end, noise);
            }
        }
        bytes.truncate(100_000);
    }
    bytes
}

fn shown(bytes: &[u8]) -> String {
    format!("{} ({} bytes)", bytes[..bytes.len().min(400)].escape_ascii(), bytes.len())
}

/// Text decoders get only what is text.
fn text(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes).ok()
}

/// A few kilobytes of fixed things, and so many times the input.
fn times(factor: usize) -> impl Fn(usize) -> usize {
    move |len| 8 * 1024 + factor * len
}

/// Decodes a stream that comes in pieces of `sizes`, repeated, until it is used up or refused. What came is told in a
/// form that does not show the cuts.
fn stream(bytes: &[u8], mut size: impl FnMut() -> usize) -> (Vec<u8>, bool) {
    const LIMITS: Limits = Limits { pieces: 100, max_extended: 300 };
    let (mut decoder, mut rest, mut seen, mut inside) = (Decoder::new(), bytes, Vec::new(), false);
    while !rest.is_empty() {
        let (mut chunk, after) = rest.split_at(size().clamp(1, rest.len()));
        rest = after;
        loop {
            match decoder.decode(&mut chunk, &LIMITS) {
                Ok(None) => break,
                Ok(Some(Message::Piece { data, rest, .. })) if inside => {
                    seen.extend_from_slice(data);
                    inside = rest > 0;
                }
                Ok(Some(message)) => {
                    inside = matches!(message, Message::Piece { rest: 1.., .. });
                    wire::encode(&message, &mut seen);
                }
                Err(error) => {
                    assert!(!error.to_string().is_empty());
                    return (seen, false);
                }
            }
        }
        assert!(chunk.is_empty(), "bytes are left that nobody will read");
    }
    (seen, true)
}

fn torrent(fill: impl FnOnce(&mut Writer<'_>)) -> Vec<u8> {
    let mut out = Vec::new();
    Writer::new(&mut out).dict(|d| {
        d.bytes("announce", "http://t.example/announce");
        d.list("announce-list", |l| l.list(|tier| tier.bytes("http://t.example:8080/a?b=c")));
        d.int("creation date", 1_234_567_890);
        d.entry("info", fill);
        d.list("nodes", |l| {
            l.list(|node| {
                node.bytes("10.0.0.1");
                node.int(6881);
            })
        });
        d.bytes("url-list", "http://w.example/");
    });
    out
}

#[test]
fn the_counting_allocator_counts() {
    let (kept, peak) = peak_of(|| {
        drop(vec![1_u8; 100_000]);
        vec![1_u8; 5000]
    });
    assert_eq!((kept.len(), peak), (5000, 100_000));
}

#[test]
fn peer_messages() {
    let block = [7; 100];
    let all = [
        Message::HaveAll,
        Message::Bitfield(&[0xff; 13]),
        Message::Extended { id: 0, payload: b"d1:md6:ut_pexi1ee4:reqqi500ee" },
        Message::Interested,
        Message::Request { piece: 99, begin: 16_384, len: 16_384 },
        Message::Cancel { piece: 99, begin: 16_384, len: 16_384 },
        Message::Reject { piece: 0, begin: 0, len: 1 },
        Message::Piece { piece: 3, begin: 0, data: &block, rest: 0 },
        Message::KeepAlive,
        Message::Have(5),
        Message::Port(6881),
        Message::Suggest(1),
        Message::AllowedFast(2),
        Message::Unknown(77),
        Message::Extended { id: 3, payload: &[1; 400] },
        Message::NotInterested,
    ];
    let mut samples = vec![Vec::new()];
    for message in &all {
        let mut alone = Vec::new();
        wire::encode(message, &mut alone);
        samples[0].extend_from_slice(&alone);
        samples.push(alone);
    }
    let mut chance = Chance(2);
    torture(&samples, times(8), |bytes| {
        let whole = stream(bytes, || usize::MAX);
        assert_eq!(stream(bytes, || 1), whole, "one byte at a time");
        assert_eq!(stream(bytes, || 1 + chance.below(30)), whole, "cut by chance");
        whole.1
    });
}

#[test]
fn a_peer_that_promises_much_and_sends_little_gets_no_memory() {
    let limits = Limits { pieces: metainfo::MAX_PIECES, max_extended: wire::MAX_MESSAGE };
    for id in 0..=255 {
        for len in [2, 17, 10_000, wire::MAX_MESSAGE, limits.pieces / 8 + 1, 1 << 20, u32::MAX] {
            let bytes = [&len.to_be_bytes()[..], &[id, 0, 0, 0, 0, 0, 0, 0, 0, 0]].concat();
            let (_, peak) = peak_of(|| {
                let mut decoder = Decoder::new();
                let mut input = &bytes[..];
                while let Ok(Some(_)) = decoder.decode(&mut input, &limits) {}
            });
            assert!(peak <= 64, "{peak} bytes for message {id} of {len}");
        }
    }
}

#[test]
fn peer_handshakes() {
    let handshake =
        Handshake { reserved: Reserved::OURS, info_hash: [9; 20], peer_id: *b"-XX0001-abcdefghijkl" };
    let read = |bytes: &[u8], size: usize| {
        let mut handshaking = Handshaking::new();
        for mut chunk in bytes.chunks(size) {
            loop {
                match handshaking.feed(&mut chunk) {
                    Ok(Stage::More) => break,
                    Ok(Stage::InfoHash { .. }) => {}
                    Ok(Stage::Complete(handshake)) => return Ok(Some(handshake)),
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(None)
    };
    torture(
        &[handshake.encode().to_vec()],
        |_| 0,
        |bytes| {
            let whole = read(bytes, usize::MAX);
            assert_eq!(read(bytes, 1), whole);
            assert_eq!(read(bytes, 31), whole);
            if let Ok(Some(handshake)) = whole {
                assert_eq!(handshake.encode(), bytes[..wire::HANDSHAKE_LEN]);
            }
            matches!(whole, Ok(Some(_)))
        },
    );
}

#[test]
fn extension_handshakes() {
    let samples = [
        b"d4:ipv44:\x01\x02\x03\x044:ipv616:0123456789abcdef1:md11:lt_donthavei3e11:ut_metadatai2e6:ut_pexi1ee13:metadata_sizei31235e\
          1:pi6881e4:reqqi500e11:upload_onlyi1e1:v12:meshseed 0.16:yourip4:\x0a\x00\x00\x01e"
            .to_vec(),
        b"de".to_vec(),
    ];
    torture(&samples, times(60), |bytes| {
        let Ok(handshake) = extension::Handshake::decode(bytes) else { return false };
        let mut again = Vec::new();
        handshake.encode(&mut again);
        assert_eq!(extension::Handshake::decode(&again), Ok(handshake));
        true
    });
}

#[test]
fn lists_of_peers() {
    let mut samples =
        vec![b"d5:added12:\x0a\0\0\x01\x1a\xe1\x0a\0\0\x02\x1a\xe17:added.f2:\x02\x107:dropped0:e".to_vec()];
    let addresses = ["10.0.0.1:1", "[fd00::1]:2", "[fe80::1]:3", "[::ffff:10.0.0.2]:4"];
    let addresses = addresses.map(|addr| addr.parse().unwrap());
    let contacts = addresses.map(|addr| pex::Contact { addr, flags: pex::SEED });
    samples.push(Vec::new());
    pex::encode(&contacts, &addresses, &mut samples[1]);
    samples.push([&b"d6:added63600:"[..], &[0xfd; 3600], b"e"].concat());
    torture(&samples, times(60), |bytes| {
        let Ok(contacts) = pex::decode(bytes) else { return false };
        assert!(contacts.len() <= pex::MAX_CONTACTS);
        let mut again = Vec::new();
        pex::encode(&contacts, &[], &mut again);
        let mut read = pex::decode(&again).unwrap();
        let mut contacts = contacts;
        contacts.sort_by_key(|contact| contact.addr);
        read.sort_by_key(|contact| contact.addr);
        assert_eq!(read, contacts);
        true
    });
}

#[test]
fn messages_about_metadata() {
    let samples = [
        b"d8:msg_typei0e5:piecei3ee".to_vec(),
        b"d8:msg_typei1e5:piecei3e10:total_sizei50000eexxxxxxxx".to_vec(),
        b"d8:msg_typei2e5:piecei0ee".to_vec(),
    ];
    torture(&samples, times(60), |bytes| {
        let Some(message) = metadata::Message::decode(bytes) else { return false };
        let mut again = Vec::new();
        message.encode(&mut again);
        assert_eq!(metadata::Message::decode(&again), Some(message));
        true
    });
}

/// Whatever peers offer, answer, refuse and leave in whatever order: what is kept is bounded by what came, no piece is
/// asked of two, and all of it comes in the end.
#[test]
fn metadata_of_any_crowd() {
    use std::net::IpAddr;
    for seed in 0..200 {
        let mut chance = Chance(seed);
        let mut gathering = Gathering::default();
        let sizes = [1, metadata::PIECE, 5 * metadata::PIECE + 9, MAX_METADATA];
        let mut offers: Vec<Offer> = Vec::new();
        let mut asked: Vec<(PeerKey, u32)> = Vec::new();
        let (mut now, mut came) = (0, 0);
        for turn in 0..400 {
            match chance.below(8) {
                0 if offers.len() < 12 => {
                    offers.push(Offer { peer: PeerKey(turn), size: sizes[chance.below(sizes.len())] });
                }
                1 if !offers.is_empty() => {
                    let gone = offers.swap_remove(chance.below(offers.len())).peer;
                    gathering.left(gone);
                    asked.retain(|(peer, _)| *peer != gone);
                }
                2 => now += u32::from(chance.byte()) / 8,
                3 => drop(gathering.look(now)),
                4 if !asked.is_empty() => {
                    let (peer, piece) = asked.swap_remove(chance.below(asked.len()));
                    gathering.rejected(peer, piece, now);
                }
                5 => {
                    let (peer, piece) = (PeerKey(u32::from(chance.byte())), u32::from(chance.byte()));
                    gathering.received(peer, IpAddr::from([10, 0, 0, 1]), piece, &[1; 20], now);
                }
                _ => {
                    if let Some(ask) = gathering.next(&offers, now) {
                        assert!(offers.iter().any(|offer| offer.peer == ask.0), "of one that is gone");
                        asked.push(ask);
                    }
                    let Some((peer, piece)) = asked.pop() else { continue };
                    let Some(offer) = offers.iter().find(|offer| offer.peer == peer) else { continue };
                    let data = vec![0; metadata::piece_len(offer.size, piece) as usize];
                    came += data.len();
                    if gathering.received(peer, IpAddr::from([10, 0, 0, chance.byte()]), piece, &data, now)
                        == Came::Whole
                    {
                        let whole: usize = gathering.take().iter().map(|piece| piece.len()).sum();
                        assert!(whole > 0 && gathering.next(&offers, now).is_none());
                        gathering.wrong();
                        asked.clear();
                    }
                }
            }
            assert!(gathering.memory() <= came + 1024 * 16, "{} of {came}", gathering.memory());
        }
        let honest = [Offer { peer: PeerKey(u32::MAX), size: 5 * metadata::PIECE }];
        let end = now + 1000;
        gathering.look(end);
        offers.iter().for_each(|offer| gathering.left(offer.peer));
        while let Some((peer, piece)) = gathering.next(&honest, end) {
            let data = vec![0; metadata::PIECE as usize];
            if gathering.received(peer, IpAddr::from([10, 0, 0, 1]), piece, &data, end) == Came::Whole {
                break;
            }
        }
        assert_eq!(gathering.take().len(), 5);
    }
}

#[test]
fn bitfields() {
    let samples: Vec<_> =
        [8, 13, 1000].map(|n| Have::from_fn(n, |piece| piece % 3 == 0).encode_bitfield(n)).into();
    torture(&samples, times(2), |bytes| {
        let mut accepted = false;
        for pieces in [0, 1, 8, 13, 1000, u32::try_from(bytes.len()).unwrap() * 8, u32::MAX] {
            if let Some(have) = Have::decode_bitfield(bytes, pieces) {
                assert!(have.count(pieces) <= pieces);
                assert_eq!(have.encode_bitfield(pieces), bytes);
                accepted = true;
            }
        }
        accepted
    });
}

#[test]
fn bencoded_values() {
    let samples =
        [b"d1:ad1:bi-17ee1:cl4:spami0elee1:dd0:0:ee".to_vec(), [b"l".repeat(50), b"e".repeat(50)].concat()];
    fn walk(value: Value<'_>) -> usize {
        let items = value.items().into_iter().flatten().map(walk).sum::<usize>();
        let entries =
            value.entries().into_iter().flatten().map(|(key, value)| key.len() + walk(value)).sum::<usize>();
        let _ = (value.as_int(), value.as_str(), value.find(b"a"), format!("{value:?}"));
        1 + items + entries
    }
    torture(&samples, times(60), |bytes| {
        let Ok(value) = Value::parse(bytes) else { return false };
        assert_eq!(value.raw(), bytes);
        walk(value) > 0
    });
}

#[test]
fn torrents() {
    let samples = [
        torrent(|w| {
            w.dict(|d| {
                d.int("length", 40_000);
                d.bytes("name", "file.bin");
                d.int("piece length", 16_384);
                d.bytes("pieces", [7; 60]);
                d.int("private", 1);
            })
        }),
        torrent(|w| {
            w.dict(|d| {
                d.list("files", |files| {
                    for (length, name, attr) in [(10, "a", "x"), (6, ".pad", "p"), (20, "b", "")] {
                        files.dict(|file| {
                            file.bytes("attr", attr);
                            file.int("length", length);
                            file.list("path", |path| {
                                path.bytes("dir");
                                path.bytes(name);
                            });
                        });
                    }
                });
                d.bytes("name", "folder");
                d.int("piece length", 16);
                d.bytes("pieces", [7; 60]);
            })
        }),
    ];
    torture(&samples, times(60), |bytes| {
        let Ok(metainfo) = metainfo::parse(bytes) else { return false };
        let total: u64 = metainfo.files.iter().map(|file| file.length).sum();
        assert_eq!(total, metainfo.lengths.total());
        assert!(metainfo.hashes_at as usize + 20 * metainfo.lengths.piece_count() as usize <= bytes.len());
        for file in &metainfo.files {
            let path = metainfo.path_of(file);
            assert!(
                !path.starts_with('/') && path.split('/').all(|part| !matches!(part, "" | "." | "..")),
                "{path:?}"
            );
        }
        assert_eq!(metainfo.summary().info_hash, metainfo.info_hash);
        true
    });
}

/// A folder of two files, one of several pieces, as v2 has it; with a v1 half or without.
fn v2_torrent(hybrid: bool) -> Vec<u8> {
    let layer = [[1; 32], [2; 32], [3; 32]];
    let root = merkle::root_of_layer(&layer, 32_768);
    let mut out = Vec::new();
    Writer::new(&mut out).dict(|d| {
        d.dict("info", |d| {
            d.dict("file tree", |tree| {
                tree.dict("dir", |dir| {
                    dir.dict("a", |file| {
                        file.dict("", |file| {
                            file.bytes("attr", "x");
                            file.int("length", 70_000);
                            file.bytes("pieces root", root);
                        });
                    });
                    dir.dict("empty", |file| file.dict("", |file| file.int("length", 0)));
                });
                tree.dict("z", |file| {
                    file.dict("", |file| {
                        file.int("length", 5);
                        file.bytes("pieces root", [4; 32]);
                    });
                });
            });
            if hybrid {
                d.list("files", |files| {
                    for (length, path, attr) in [
                        (70_000, &["dir", "a"][..], "x"),
                        (28_304, &["pad"], "p"),
                        (0, &["dir", "empty"], ""),
                        (5, &["z"], ""),
                    ] {
                        files.dict(|file| {
                            file.bytes("attr", attr);
                            file.int("length", length);
                            file.list("path", |names| path.iter().for_each(|name| names.bytes(name)));
                        });
                    }
                });
            }
            d.int("meta version", 2);
            d.bytes("name", "both");
            d.int("piece length", 32_768);
            if hybrid {
                d.bytes("pieces", [7; 80]);
            }
            d.list("similar", |similar| similar.bytes([9; 20]));
            d.bytes("update-url", "http://u.example/");
        });
        d.dict("piece layers", |layers| layers.bytes(root, layer.concat()));
    });
    out
}

#[test]
fn torrents_of_every_format() {
    let merkle = torrent(|w| {
        w.dict(|d| {
            d.int("length", 40_000);
            d.bytes("name", "file.bin");
            d.int("piece length", 16_384);
            d.bytes("root hash", [7; 20]);
        })
    });
    let samples = [v2_torrent(false), v2_torrent(true), merkle];
    for (sample, format) in samples.iter().zip(["v2", "hybrid", "merkle"]) {
        let survey = Survey::read(sample).unwrap();
        assert_eq!(survey.format(), format);
        assert!(lint(&survey, Some(1_800_000_000)).iter().all(|line| !line.contains("differ")));
    }
    torture(&samples, times(100), |bytes| {
        let Ok(survey) = Survey::read(bytes) else { return false };
        let torrent = &survey.metainfo;
        let total: u64 = torrent.files.iter().map(|file| file.length).sum();
        assert_eq!(total, torrent.lengths.total());
        let pieces = torrent.lengths.piece_count() as usize;
        if let Some(Ok(tree)) = &survey.tree {
            for leaf in &tree.files {
                let count = leaf.length.div_ceil(torrent.lengths.piece_length().into());
                assert_eq!(leaf.pieces.len() as u64, count);
            }
            let of_tree: usize = tree.files.iter().map(|leaf| leaf.pieces.len()).sum();
            let differs = tree.differs(&torrent.files, torrent.multi_file, torrent.lengths.piece_length());
            assert!(differs.is_some() || of_tree == pieces, "the halves have one row of pieces");
        }
        assert!(survey.pieces.is_empty() || survey.pieces.len() == pieces);
        assert_eq!(metainfo::parse(bytes).is_ok(), !survey.pieces.is_empty());
        for file in &torrent.files {
            let path = torrent.path_of(file);
            assert!(path.split('/').all(|part| !matches!(part, "" | "." | "..")), "{path:?}");
        }
        assert!(lint(&survey, None).len() < 100);
        assert_eq!(Magnet::of_torrent(bytes), Ok(Magnet::from(torrent)));
        let link = Magnet::from(torrent).to_string();
        assert_eq!(Magnet::any(&link).map(|magnet| magnet.info_hash), Ok(torrent.info_hash), "{link}");
        true
    });
}

#[test]
fn a_tree_of_long_names_takes_no_more_memory_than_a_torrent() {
    let folder = "f".repeat(250);
    let mut out = Vec::new();
    Writer::new(&mut out).dict(|d| {
        d.dict("info", |d| {
            d.entry("file tree", |tree| {
                let open = format!("d{}:{folder}", folder.len()).repeat(14);
                let mut raw = open.into_bytes();
                raw.push(b'd');
                for file in 100_000..190_000 {
                    raw.extend(format!("6:{file}d0:d6:lengthi0eee").as_bytes());
                }
                raw.extend([b'e'; 15]);
                tree.raw(&raw);
            });
            d.int("meta version", 2);
            d.bytes("name", "n");
            d.int("piece length", 16_384);
        });
    });
    let (read, peak) = peak_of(|| Survey::read(&out).map(|_| ()));
    assert!(read.unwrap_err().to_string().contains("names too long"));
    assert!(peak < 40 << 20, "{peak} bytes held for {}", out.len());
}

#[test]
#[expect(clippy::disallowed_methods, reason = "the only way to make an instant")]
fn a_deep_tree_is_read_in_one_go() {
    let mut tree: Vec<u8> = Vec::new();
    (100_000..400_000).for_each(|folder| tree.extend(format!("6:{folder}de").as_bytes()));
    let tree = [b"1:ad".repeat(90), tree, b"e".repeat(90)].concat();
    let rest = b"e12:meta versioni2e4:name1:n12:piece lengthi16384eee";
    let out = [&b"d4:infod9:file treed"[..], &tree, rest].concat();
    // Where each level is passed over before it is gone into, it takes minutes.
    let start = Instant::now();
    let (read, peak) = peak_of(|| Survey::read(&out).map(|_| ()));
    assert!(read.unwrap_err().to_string().contains("holds no byte"));
    assert!(start.elapsed() < Duration::from_secs(10) && peak < 1 << 20, "{peak} {:?}", start.elapsed());
}

#[test]
fn magnet_links() {
    let samples = [
        b"magnet:?xt=urn:btih:0123456789abcdef0123456789ABCDEF01234567&dn=a%20b&tr=http%3A%2F%2Ft.example%2Fannounce\
          &ws=http://w.example/&x.pe=10.0.0.1:6881&x.pe=[fd00::1]:6881&so=0,2-5"
            .to_vec(),
        b"magnet:?xt=urn:btih:AERUKZ4JVPG66AJDIVTYTK6N54ASGRLH".to_vec(),
        format!("magnet:?xt=urn:btmh:1220{}&dn=v2", "5a".repeat(32)).into_bytes(),
    ];
    torture(&samples, times(60), |bytes| {
        let Some(magnet) = text(bytes).and_then(|link| Magnet::any(link).ok()) else { return false };
        assert!(Magnet::any_of_file(bytes).is_ok() || bytes.contains(&b'\n') || bytes.contains(&b'\r'));
        let link = magnet.to_string();
        assert_eq!(link.parse::<Magnet>().is_err(), magnet.is_v2_only(), "{link}");
        assert_eq!(Magnet::any(&link).as_ref(), Ok(&magnet), "{link}");
        true
    });
}

#[test]
fn http_heads_and_bodies() {
    let samples = [
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: keep-alive\r\n\r\nhello".to_vec(),
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n1;x=y\r\n!\r\n0\r\nA: b\r\n\r\n".to_vec(),
        b"HTTP/1.0 302 Found\r\nLocation: http://other.example/announce\r\n\r\nuntil the end".to_vec(),
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 206 Partial\r\nContent-Range: bytes 0-3/9\r\nContent-Length: 4\r\n\r\nabcd"
            .to_vec(),
    ];
    let read = |bytes: &[u8], size: usize| {
        let mut receiver = Receiver::new(4096);
        let mut rest = bytes;
        let mut whole = false;
        while !rest.is_empty() && !whole {
            let space = receiver.space();
            let n = rest.len().min(size).min(space.len());
            space[..n].copy_from_slice(&rest[..n]);
            rest = &rest[n..];
            whole = receiver.received(n).ok()?;
        }
        if !whole {
            receiver.closed().ok()?;
        }
        Some((receiver.head().cloned(), receiver.body().to_vec()))
    };
    torture(&samples, times(60), |bytes| {
        let whole = read(bytes, usize::MAX);
        let Some((head, body)) = &whole else { return false };
        assert!(head.is_some() && body.len() <= 4096);
        assert_eq!(read(bytes, 1).as_ref().map(|(_, body)| body), Some(body));
        true
    });
    torture(
        &[b"GET /announce?a=b HTTP/1.1\r\nHost: t.example\r\nUser-Agent: x\r\n\r\n".to_vec()],
        times(60),
        |bytes| matches!(decode_request_head(bytes), Ok(Some(_))),
    );
}

#[test]
fn scrape_replies() {
    let torrents = [b'a', b'b'].map(|byte| InfoHash::from_bytes([byte; 20]));
    let file =
        |byte: u8| [b"20:", &[byte; 20][..], b"d8:completei1e10:downloadedi2e10:incompletei3ee"].concat();
    let samples = [[&b"d5:filesd"[..], &file(b'a'), &file(b'x'), &file(b'b'), b"ee"].concat()];
    torture(&samples, times(60), |bytes| match tracker::http::decode_scrape(bytes, &torrents) {
        Ok(counts) => counts.len() == torrents.len(),
        Err(error) => {
            assert!(error.to_string().len() <= 2 * MAX_TEXT);
            false
        }
    });
}

#[test]
fn tracker_replies() {
    let mut samples = vec![Vec::new()];
    let reply = Reply {
        interval: 300,
        min_interval: Some(60),
        tracker_id: Some(b"id".to_vec()),
        warning: Some("slow".into()),
        complete: Some(3),
        incomplete: Some(4),
        downloaded: Some(3),
        external_ip: Some([10, 0, 0, 1].into()),
        peers: vec!["10.1.1.1:6881".parse().unwrap(), "[fd00::1]:6881".parse().unwrap()],
    };
    tracker::http::encode_reply(&reply, &mut samples[0]);
    samples.push(b"d8:intervali99999999999999999999e5:peersld2:ip8:10.0.0.14:porti1eeee".to_vec());
    samples.push(b"d14:failure reason4:gone8:retry in5:nevere".to_vec());
    samples.push([&b"d8:intervali9e5:peers1260:"[..], &[9; 1260], b"e"].concat()[..].into());
    let mut random = Random::new(1);
    torture(&samples, times(60), |bytes| match tracker::http::decode_reply(bytes, false, &mut random) {
        Ok(reply) => {
            assert!(reply.peers.len() <= MAX_PEERS && reply.peers.iter().all(|peer| peer.port() != 0));
            assert!(reply.warning.as_ref().is_none_or(|text| text.len() <= MAX_TEXT));
            assert!(reply.tracker_id.as_ref().is_none_or(|id| id.len() <= MAX_TRACKER_ID));
            let mut again = Vec::new();
            tracker::http::encode_reply(&reply, &mut again);
            assert!(tracker::http::decode_reply(&again, false, &mut random).is_ok());
            true
        }
        Err(failure) => {
            assert!(failure.to_string().len() <= 2 * MAX_TEXT);
            matches!(failure, tracker::Failure::Refused(..))
        }
    });
}

#[test]
fn announces() {
    let samples = [b"info_hash=%012345678901234567890&peer_id=-XX0001-abcdefghijkl&port=6881&uploaded=1&downloaded=2&left=3\
        &compact=1&numwant=50&key=0123abcd&event=started&trackerid=a%20b"
        .to_vec()];
    torture(&samples, times(60), |bytes| {
        let Some(announce) = text(bytes).and_then(tracker::http::decode_announce) else { return false };
        let mut again = Vec::new();
        tracker::http::encode_announce(&announce, &mut again);
        assert_eq!(text(&again).and_then(tracker::http::decode_announce).as_ref(), Some(&announce));
        true
    });
}

#[test]
fn datagrams_of_the_port() {
    let syn = [&[0x41, 0, 0x12, 0x34][..], &[7; 16]].concat();
    let samples = [b"d1:q4:ping1:y1:qe".to_vec(), syn, [&[0, 0, 0, 1, 9, 9, 9, 9][..], &[1; 30]].concat()];
    torture(
        &samples,
        |_| 0,
        |bytes| match tell_apart(bytes) {
            Datagram::Dht => bytes.starts_with(b"d"),
            Datagram::Connect(reset) => {
                assert!(bytes.len() >= UTP_HEADER, "what is answered is no smaller than the answer");
                assert!(tell_apart(&reset) == Datagram::Other && reset[2..4] == bytes[2..4]);
                true
            }
            Datagram::Tracker(transaction) => transaction.to_be_bytes() == bytes[4..8],
            Datagram::Other => false,
        },
    );
}

#[test]
fn answers_of_udp_trackers() {
    let announced =
        [&[0, 0, 0, 1, 9, 9, 9, 9, 0, 0, 7, 8, 0, 0, 0, 2, 0, 0, 0, 5][..], &[10; 6 * 210]].concat();
    let counted = [&[0, 0, 0, 2, 9, 9, 9, 9][..], &[1; 12 * 10]].concat();
    let refused = [&[0, 0, 0, 3, 9, 9, 9, 9][..], &b"no\x1b[2J such torrent".repeat(20)].concat();
    let samples = [vec![0, 0, 0, 0, 9, 9, 9, 9, 1, 2, 3, 4, 5, 6, 7, 8], announced, counted, refused];
    let mut random = Random::new(1);
    for family in [Family::V4, Family::V6] {
        torture(&samples, times(40), |bytes| {
            let (answer, bytes) = match tracker::udp::decode_answer(bytes, family, false, &mut random) {
                Ok(answer) => (answer, bytes),
                Err(failure) => {
                    assert!(failure.to_string().len() <= 2 * MAX_TEXT);
                    return matches!(failure, tracker::Failure::Refused(..));
                }
            };
            if let tracker::udp::Answer::Announced(reply) = &answer {
                assert!(reply.peers.len() <= MAX_PEERS && reply.peers.iter().all(|peer| peer.port() != 0));
            }
            let mut again = Vec::new();
            tracker::udp::encode_answer(1, &answer, family, &mut again);
            assert!(again.len() <= bytes.len());
            true
        });
    }
}

#[test]
fn questions_to_udp_trackers() {
    let head = |action: u8| [&[1; 8][..], &[0, 0, 0, action, 9, 9, 9, 9]].concat();
    let options = b"\x02\x06/k?a=b\x01\x07\x01x\x02\x02cd\x00";
    let samples = [
        vec![0, 0, 4, 0x17, 0x27, 0x10, 0x19, 0x80, 0, 0, 0, 0, 9, 9, 9, 9],
        [&head(1), &[3; 82][..], options].concat(),
        [&head(2), &[4; 20 * 76][..]].concat(),
    ];
    torture(&samples, times(40), |bytes| {
        use tracker::udp::{
            MAX_SCRAPE, Question, decode_question, encode_announce, encode_connect, encode_scrape,
        };
        let Some((transaction, question)) = decode_question(bytes) else { return false };
        let mut again = Vec::new();
        match &question {
            Question::Connect => encode_connect(transaction, &mut again),
            Question::Announce(connection, announce, target) => {
                // A tracker takes any bytes for a path; we send those of a URL.
                let target = text(target).unwrap_or_default();
                encode_announce(*connection, transaction, announce, target, &mut again);
            }
            Question::Scrape(connection, torrents) => {
                assert!(torrents.len() <= MAX_SCRAPE);
                encode_scrape(*connection, transaction, torrents, &mut again);
            }
        }
        assert!(decode_question(&again).is_some_and(|(number, _)| number == transaction));
        true
    });
}

#[test]
fn searches_of_neighbours() {
    let info_hashes = (0..3).map(|n| InfoHash::from_bytes([n; 20])).collect();
    let sample = lpd::encode(Family::V6, &Search { port: 6881, info_hashes, cookie: "ms-1" });
    torture(&[sample], times(60), |bytes| {
        let Some(search) = lpd::decode(bytes) else { return false };
        assert!(search.port != 0 && !search.info_hashes.is_empty());
        let again = lpd::encode(Family::V4, &Search { cookie: "", ..search.clone() });
        assert_eq!(lpd::decode(&again).map(|again| again.info_hashes), Some(search.info_hashes));
        true
    });
}

/// Messages of each kind, as nodes send them.
fn messages() -> Vec<Vec<u8>> {
    let v4: SocketAddr = ([10, 1, 1, 1], 6881).into();
    let v6: SocketAddr = ([0xfd00, 0, 0, 0, 0, 0, 0, 1], 6881).into();
    let (id, info_hash) = (Id([1; 20]), InfoHash::from_bytes([2; 20]));
    let want = Want { v4: true, v6: true };
    let reply =
        krpc::Reply { id, token: Some(b"token"), nodes: vec![(id, v4), (id, v6)], values: vec![v4, v6] };
    let bodies = [
        Body::Query(id, Query::Ping),
        Body::Query(id, Query::FindNode(Id([3; 20]), want)),
        Body::Query(id, Query::GetPeers(info_hash, want)),
        Body::Query(id, Query::Announce { info_hash, port: Some(6881), token: b"token" }),
        Body::Query(id, Query::Announce { info_hash, port: None, token: b"token" }),
        Body::Reply(reply),
        Body::Error(203),
    ];
    let message = |body| krpc::Message { transaction: b"aa", read_only: true, ip: Some(v4), body };
    bodies.into_iter().map(|body| krpc::encode(&message(body))).collect()
}

#[test]
fn messages_of_the_dht() {
    torture(&messages(), times(60), |bytes| {
        let Some(message) = krpc::decode(bytes) else { return false };
        if let Body::Reply(reply) = &message.body {
            assert!(reply.nodes.len() <= 2 * krpc::MAX_NODES && reply.values.len() <= krpc::MAX_VALUES);
        }
        let again = krpc::encode(&message);
        assert!(krpc::decode(&again).is_some_and(|again| again.transaction == message.transaction));
        true
    });
}

#[test]
#[expect(clippy::disallowed_methods, reason = "the only way to make an instant")]
fn a_node_of_the_dht_that_hears_anything() {
    let mut now = Instant::now();
    let mut node = Node::new(dht::Options::default(), [0; 20], 1, now);
    node.set_families(true, true, now);
    let mut endpoints = Bucket::new(0, 1, now);
    let mut chance = Chance(5);
    let samples = messages();
    for n in 0..40_000_u32 {
        let [.., a, b] = n.to_be_bytes();
        let from = if n % 3 == 0 { ([10, 1, a, b % 8], 1).into() } else { ([10, 1, 0, b % 4], 1).into() };
        if n % 50 == 0 {
            node.contact(from, now);
            node.insert(InfoHash::from_bytes([b; 20]), 1, n % 100 == 0, now);
        }
        let heard = mutated(&samples[chance.below(samples.len())], &samples, &mut chance);
        node.handle(&heard, from, now);
        for round in 0.. {
            assert!(round < 1000, "it never stops");
            let Some(output) = node.poll(&mut endpoints, now) else { break };
            let Output::Send { to, datagram } = output else { continue };
            // Whoever is asked answers something with the right transaction.
            if let Some(krpc::Message { transaction, body: Body::Query(..), .. }) = krpc::decode(&datagram) {
                let sample = mutated(&samples[5], &samples, &mut chance);
                if let Some(message) = krpc::decode(&sample) {
                    node.handle(&krpc::encode(&krpc::Message { transaction, ..message }), to, now);
                }
            }
        }
        assert!(node.deadline().is_none_or(|at| at > now));
        now += Duration::from_millis(chance.below(200) as u64);
        if n % 1000 == 0 {
            assert!(node.memory() < 300 * 1024, "{} bytes", node.memory());
        }
    }
    assert!(node.counts().known > 0);
}

#[test]
fn saved_nodes() {
    let nodes = vec!["10.1.1.1:6881".parse().unwrap(), "[fd00::1]:6881".parse().unwrap()];
    let sample = Saved { id: [1; 20], nodes }.encode();
    torture(&[sample], times(60), |bytes| Saved::decode(bytes).is_some_and(|saved| saved.encode() == bytes));
}

#[test]
fn urls_and_prefixes() {
    let samples = [
        b"http://t.example:8080/announce?a=b#c".to_vec(),
        b"https://[fd00::1]/".to_vec(),
        b"http://10.0.0.1:6969/announce".to_vec(),
    ];
    torture(&samples, times(60), |bytes| {
        let Some(url) = text(bytes).and_then(|url| Url::parse(url).ok()) else { return false };
        assert_eq!(Url::parse(url.as_str()).as_ref(), Ok(&url));
        assert!(!url.as_str().bytes().any(|byte| byte <= b' '), "{:?}", url.as_str());
        let _ = [url.join("//x/y"), url.join("../z"), url.join("?q")];
        true
    });
    torture(&[b"10.0.0.0/8".to_vec(), b"fd00::/8".to_vec()], times(60), |bytes| {
        let Some(prefix) = text(bytes).and_then(|text| text.parse::<Prefix>().ok()) else { return false };
        assert_eq!(prefix.to_string().parse(), Ok(prefix));
        true
    });
}

#[test]
fn configurations() {
    let shipped = include_str!("../config/meshseed.toml");
    let keys = shipped.lines().filter(|line| !line.starts_with('#')).collect::<Vec<_>>().join("\n");
    let others = "\u{feff}torrents = ['/a', \"/\\u00e9\\x41\",\r\n] # \u{e9}\r\nlisten . \"port\" = '6881-6889'\n\
        limits = { upload = \"1M\",\n peers = 0x1_0, }\n['disk']\npreallocate = true\n";
    let judge = |bytes: &[u8]| match text(bytes).map(Config::parse) {
        Some(Ok(config)) => !config.explain().is_empty(),
        Some(Err(error)) => {
            assert!(!error.to_string().is_empty());
            false
        }
        None => false,
    };
    torture(&[keys.into(), others.into()], |len| (1 << 20) + 2000 * len, judge);
    assert!(judge(shipped.as_bytes()));
    for cut in 0..shipped.len() {
        judge(&shipped.as_bytes()[..cut]);
        judge(&shipped.as_bytes()[cut..]);
    }
}

#[test]
fn resume_records() {
    let mut record = Record::new(InfoHash::from_bytes([5; 20]));
    let empty = record.encode();
    (record.added, record.uploaded, record.complete) = (1_700_000_000, 1 << 40, true);
    record.data = Some(std::path::Path::new("/mnt/disk/file").into());
    record.verified = Some(Verified {
        pieces: 1000,
        have: Have::from_fn(1000, |piece| piece != 17),
        todo: Have::None,
        stamps: [
            Stamp { size: 4096, mtime_secs: 1_600_000_000, mtime_nanos: 5 },
            Stamp::ABSENT,
            Stamp { size: 1 << 40, mtime_secs: -3, mtime_nanos: 999_999_999 },
        ]
        .into(),
    });
    torture(&[empty, record.encode()], times(60), |bytes| {
        let _ = (resume::decode_frame(bytes), resume::decode_foot(bytes), resume::info_hash_of(bytes));
        let Some(record) = Record::decode(bytes) else { return false };
        let again = record.encode();
        assert_eq!(Record::decode(&again).map(|record| record.encode()), Some(again));
        true
    });
}

#[test]
fn requests_of_the_control_socket() {
    let samples = [
        Method::Status.encode(),
        Method::List(status::Part { offset: 3, limit: 4 }).encode(),
        Method::Torrent(InfoHash::from_bytes([0xab; 20])).encode(),
        br#"{"method": "l\u0069st", "params": {"limit": 4000000000, "offset": null}}"#.to_vec(),
    ];
    torture(&samples, times(60), |bytes| match Method::decode(bytes) {
        Ok(method) => Method::decode(&method.encode()) == Ok(method),
        Err(error) => {
            assert!(error.to_string().len() < 400, "{error}");
            false
        }
    });
    let any = br#"{"a": [1, -2, "\ud83d\ude00 \n", {"b": null, "c": [true, false, [[]], {}]}]}"#.to_vec();
    torture(&[any], times(60), |bytes| {
        let Ok(value) = json::decode(bytes) else { return false };
        assert_eq!(json::decode(json::line(&value).as_bytes()), Ok(value));
        true
    });
}

/// A greeting, an object, calls of it with arguments of each type, and what is none of ours.
fn frames_of_the_bus() -> Vec<Vec<u8>> {
    let table = |fields: &[(&'static str, status::Value)]| {
        blob::encode(&status::Value::Table(
            fields.iter().map(|(name, value)| ((*name).into(), value.clone())).collect(),
        ))
    };
    let call = |method: &str, arguments: &[u8]| {
        let mut out = Vec::new();
        blob::frame(&mut out, 5, 7, 9, |out| {
            blob::number(out, 3, 0xf52a_12a1);
            blob::text(out, 4, method);
            blob::put(out, 10, &[0]);
            blob::text(out, 12, "root");
            blob::put(out, 7, arguments);
        });
        out
    };
    let numbers: [(&str, status::Value); 2] = [("offset", 5_u32.into()), ("limit", u64::MAX.into())];
    let nested = status::Value::List(vec![
        true.into(),
        "x".into(),
        status::Value::Table(vec![("y".into(), 1_u32.into())]),
    ]);
    let widths = b"\x85\0\0\x0c\0\x01n\0\xff\xff\xff\xff\x86\0\0\x0a\0\x01m\0\0\x05\0\0\x80\0\0\x08\0\x01u\0";
    vec![
        call("list", &table(&numbers)),
        call("torrent", &table(&[("info_hash", "ab".repeat(20).into()), ("more", nested)])),
        call("status", widths),
        b"\0\x0a\0\x01\0\0\0\0\0\0\0\x14\x03\0\0\x08\xf5\x2a\x12\xa1\x09\0\0\x05\x01\0\0\0".to_vec(),
    ]
}

#[test]
fn frames_of_the_bus_and_what_is_in_them() {
    torture(&frames_of_the_bus(), times(60), |bytes| {
        let Ok(Some(head)) = Head::decode(bytes) else { return false };
        let Some(Ok(body)) = bytes.get(HEAD..head.len).map(blob::Body::decode) else { return false };
        let Some(Ok(value)) = body.data.map(blob::table) else { return body.data.is_none() };
        let _ = Method::new(body.method.as_deref().unwrap_or_default(), &value);
        assert!(blob::table(&blob::encode(&value)).is_ok());
        true
    });
}

#[test]
#[expect(clippy::disallowed_methods, reason = "the only way to make an instant")]
fn a_client_of_the_bus_that_hears_anything() {
    const WELCOME: &[u8] = b"\0\0\0\0\xeb\x62\xaa\xf3\0\0\0\x04\
        \0\x02\0\x01\0\0\0\0\0\0\0\x0c\x03\0\0\x08\xf5\x2a\x12\xa1\
        \0\x01\0\x01\0\0\0\0\0\0\0\x0c\x01\0\0\x08\0\0\0\0";
    let now = Instant::now();
    let mut chance = Chance(7);
    let object = Object { path: "meshseed", methods: &METHODS };
    let reply = blob::encode(&status::Value::Table(vec![("text".into(), "x".repeat(5000).into())]));
    torture(
        &frames_of_the_bus(),
        |len| MAX_QUEUE * 2 + 60 * len,
        |bytes| {
            let mut client = Client::new(object, now);
            client.connected(now);
            let mut answered = 0;
            for mut rest in [WELCOME, bytes] {
                while !rest.is_empty() && client.wants_input() {
                    let (chunk, after) = rest.split_at((1 + chance.below(MAX_FRAME / 16)).min(rest.len()));
                    rest = after;
                    client.handle(chunk);
                    for round in 0.. {
                        assert!(round < 100_000, "it never stops");
                        match client.poll(now) {
                            None | Some(Todo::Close(_)) => break,
                            Some(Todo::Connect) => panic!("it is connected"),
                            Some(Todo::Answer(call)) => {
                                answered += 1;
                                client.answer(&call, Ok(reply.clone()));
                            }
                        }
                    }
                    assert!(client.out().len() <= MAX_QUEUE);
                    if chance.below(2) == 0 {
                        client.sent(client.out().len());
                    }
                }
            }
            assert!(client.deadline().is_none_or(|at| at > now));
            answered > 0 || bytes.get(1) == Some(&10)
        },
    );
}

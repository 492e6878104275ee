//! meshseed: a headless BitTorrent seeding daemon for mesh routers.
//!
//! One thread holds all state and speaks all protocols; one more does what may block. A folder here is one thing of the
//! protocol. Inside it everything is pure (bytes and time come in, decisions come out) but the files called `io.rs`
//! and what `io/` holds: they alone touch files, sockets and the clock. The daemon and the commands are shells too.
//!
//! # The map, in the order data passes
//!
//! | module | what it is |
//! | --- | --- |
//! | [`piece`] | how a torrent's bytes are cut: the only constructors of pieces and blocks that exist |
//! | [`have`] | which pieces somebody has |
//! | [`key`] | the number of a torrent |
//! | [`list`] | gathering, keeping and sorting, in little code |
//! | [`sorted`] | maps and sets as one sorted vector |
//! | [`ident`] | whether a file is the one that was seen before |
//! | [`bencode`] | the encoding of .torrent files and tracker replies |
//! | [`metainfo`] | .torrent files, magnet links, and the maker of torrents (feature `maker`) |
//! | [`config`] | the configuration: every key, default and unit |
//! | [`rate`] | token buckets and meters |
//! | [`random`] | numbers that need not be secret |
//! | [`clock`] | the time of day, where the clock has one |
//! | [`http`] | heads, bodies and redirects; one client, plain or under TLS |
//! | [`net`] | addresses, prefixes, names; the UDP port |
//! | [`storage`] | where bytes lie on disk, what is known of them; the storage thread |
//! | [`peer`] | the peer protocol: wire, extensions, one peer, its task |
//! | [`tracker`] | announces: what is asked of whom and when |
//! | [`webseed`] | web servers that have a torrent: which of them is asked for what |
//! | [`lpd`] | neighbours on our own links: what we tell them, and they us |
//! | [`dht`] | peers without a tracker, through nodes that each know a few others |
//! | [`torrent`] | one torrent: its record, what is asked of whom, its choker, whom it might dial |
//! | [`session`] | all torrents, all peers and one set of clocks |
//! | [`watch`] | the watched directories: the database |
//! | [`status`] | what is told of it all, and the socket where one asks |
//! | [`ubus`] | the same on OpenWrt's bus |
//! | [`sys`] | the only unsafe code |
//! | [`log`] | where log lines go |
//! | [`daemon`] | runs what the session hands out |
//! | [`cli`] | the commands |
//!
//! # A .torrent is dropped
//!
//! 1. [`watch::io::Hints`] hastens the scan; [`watch::io::scan`] lists the directories on the storage thread.
//! 2. [`watch::Watch::scanned`] says which files to read; the storage thread reads and [`metainfo::parse`]s each.
//! 3. [`watch::Watch::loaded`] says what it means; [`session::Session::insert`] makes it a torrent.
//! 4. The storage thread compares the files with the record (`Job::Check`) and hashes what is not on it (`Job::Verify`).
//! 5. [`session::Session::poll`] hands out the announce; [`tracker::client::Client`] decides when and to whom.
//!
//! # A cable is plugged in
//!
//! 1. [`net::io::changes::Changes`] hears of it from the kernel and gathers what comes with it; the daemon looks at
//!    [`net::io::interfaces`].
//! 2. Listening sockets, TCP and UDP, follow the addresses of the configuration; [`lpd::io::Links`] opens a socket on the
//!    link, and neighbours are told.
//! 3. [`net::ours::Ours`] decides whether it is news: what could not be reached is tried again, and trackers are told
//!    if we are elsewhere now.
//!
//! # A magnet link is dropped
//!
//! 1. The storage thread reads it (`Job::Link`); [`session::Session::insert_magnet`] makes it a torrent of which nothing
//!    is known. Its trackers and neighbours are asked for peers as for any other.
//! 2. Peers say that they have the metadata; [`torrent::metadata::Gathering::next`] says whom to ask for which piece.
//! 3. All of it is here: the storage thread verifies it and writes the .torrent (`Job::Keep`);
//!    [`session::Session::learn`] takes it, with the peers that are connected. From there it goes as above.
//!
//! # A block is fetched
//!
//! 1. A check leaves pieces missing: the storage thread says whether the disk can be written to (`Job::Prepare`), and
//!    the torrent's peers are told that we are interested.
//! 2. When a peer's task has read, [`session::Session::refill`] asks it for as many blocks as
//!    [`peer::requests::Requests::room`] allows and [`torrent::picker::Picker::pick`] chooses.
//! 3. What comes is read into the [`storage::intake::Intake`], and [`peer::wire::Decoder::decode`] yields fragments of
//!    blocks borrowed from it; [`session::Session::block`] says which are kept. None is copied. A web seed's body
//!    comes the same way ([`webseed::io::fetch`], [`session::Session::web_block`]).
//! 4. [`daemon::house::House::write_out`] hands the buffer to the storage thread, with how far each piece has come
//!    ([`session::Session::write`]). There it is written, and hashed as far as pieces have come without a gap.
//! 5. [`session::Session::stored`] takes the verdict: a piece that is right is announced to all peers; of one that is
//!    not the picker finds out who lied.
//!
//! # A web seed is asked
//!
//! 1. Peers give too little: [`session::Session::poll`] claims a run of pieces that nobody works on
//!    ([`torrent::picker::Picker::claim`]) and hands out `Job::WebFetch`.
//! 2. [`webseed::io::fetch`] cuts the run into requests ([`webseed::request::Part::first`]) and sends each with
//!    [`http::io::Client::open`], which follows redirects.
//! 3. [`http::io::Stream::read`] reads the body into the intake, as fast as [`session::Session::web_allowance`] says;
//!    [`session::Session::web_block`] says what is kept. From there it goes as above.
//! 4. [`session::Session::web_ended`] says what is next over the same connection;
//!    [`webseed::WebSeeds::ended`] for how long one that failed is left alone.
//!
//! # A block is seeded
//!
//! 1. The socket is readable: the peer's task reads into the shared scratch (`peer::io`), and
//!    [`peer::wire::Decoder::decode`] yields a `request` borrowed from it.
//! 2. [`session::Session::handle`] → [`peer::Peer::handle`]: the request becomes twelve bytes in the
//!    [`peer::outbox::Outbox`].
//! 3. The socket takes more: [`session::Session::upload`] plans as much as tokens and the free send buffer allow.
//! 4. `peer::io` reads the run of blocks with one `preadv2(RWF_NOWAIT)` into the shared scratch, headers between them,
//!    and writes it with one `send`. What is not in the page cache is fetched there by the storage thread first.
//! 5. [`session::Session::sent`] moves the outbox on; a short write leaves the offset inside the head message.

pub mod piece;

pub mod have;

pub mod key;

pub mod list;

pub mod sorted;

pub mod ident;

pub mod bencode;

pub mod metainfo;

pub mod config;

pub mod rate;

pub mod random;

pub mod clock;

pub mod http;

pub mod net;

pub mod storage;

pub mod peer;

pub mod tracker;

pub mod webseed;

pub mod lpd;

pub mod dht;

pub mod torrent;

pub mod session;

pub mod watch;

pub mod status;

pub mod ubus;

pub mod sys;

pub mod log;

pub mod daemon;

pub mod cli;

//! A torrent as the session keeps it: a record while it is idle, a swarm while somebody is connected.
//!
//! Read first: BEP 3. Omitted: piece hashes and file lists (they stay in the .torrent, see `storage`). Holds at most 512
//! bytes a torrent with no peers, its path and name included; what a check, a swarm or fetching needs hangs on a box
//! that goes with it.

pub mod candidates;
pub mod choker;
pub mod fetch;
pub mod metadata;
pub mod picker;
pub mod superseed;

use std::fmt;
use std::net::SocketAddr;
use std::ops::Range;
use std::path::Path;
use std::rc::Rc;

use crate::have::Have;
pub use crate::key::TorrentKey;
use crate::metainfo::magnet::Magnet;
use crate::metainfo::{InfoHash, Summary};
use crate::peer::{PeerKey, View, pex};
use crate::piece::Lengths;
use crate::storage::io::Place;
use crate::storage::resume::{Record, Stamp};
use crate::storage::{Layout, Trouble};
use crate::webseed::WebSeeds;
use fetch::Fetch;
use metadata::Missing;
use superseed::Superseed;

/// Bytes of a magnet link's name that are shown.
const MAX_NAME: usize = 255;

/// The reason of a pause.
pub const PAUSED: &str = "paused by the user";

/// What a torrent does at present, by the words of the status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// Waits for its turn to be checked.
    Queued,
    /// Its data is being hashed; what has passed is served.
    Checking,
    /// A magnet link names it, and what it is peers are asked.
    FetchingMetadata,
    /// What it lacks is fetched; what there is is served.
    Downloading,
    /// All of it is served.
    Seeding,
    /// What there is of it is served.
    Incomplete,
    /// The data root is not there.
    WaitingForDisk,
    /// The root is there, the data that once was complete is not.
    WaitingForData,
    /// Stopped by the user.
    Paused,
    /// Parked with its reason; tried again at each scan.
    Error,
}

impl State {
    /// Every state, in the order of the status.
    pub const ALL: [State; 10] = [
        State::Queued,
        State::Checking,
        State::FetchingMetadata,
        State::Downloading,
        State::Seeding,
        State::Incomplete,
        State::WaitingForDisk,
        State::WaitingForData,
        State::Paused,
        State::Error,
    ];

    /// The word of the status.
    pub fn name(self) -> &'static str {
        match self {
            State::Queued => "queued",
            State::Checking => "checking",
            State::FetchingMetadata => "fetching-metadata",
            State::Downloading => "downloading",
            State::Seeding => "seeding",
            State::Incomplete => "incomplete",
            State::WaitingForDisk => "waiting-for-disk",
            State::WaitingForData => "waiting-for-data",
            State::Paused => "paused",
            State::Error => "error",
        }
    }

    /// Whether peers are served in this state.
    pub fn serves(self) -> bool {
        matches!(
            self,
            State::Checking
                | State::FetchingMetadata
                | State::Downloading
                | State::Seeding
                | State::Incomplete
        )
    }

    /// Whether a later look at the disk may bring it back.
    pub fn may_recover(self) -> bool {
        matches!(self, State::Incomplete | State::WaitingForDisk | State::WaitingForData | State::Error)
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A torrent. Times are seconds since the daemon started.
pub struct Torrent {
    /// Its identity on the network.
    pub info_hash: InfoHash,
    /// The name it gives itself.
    pub name: Box<str>,
    /// How its bytes are cut.
    pub lengths: Lengths,
    /// The pieces whose hash was right.
    pub have: Have,
    /// What it does.
    pub state: State,
    /// Why it does no more, for the user; empty when nothing is amiss.
    pub reason: Box<str>,
    /// Where its .torrent (or .magnet, while there is none) and its data are.
    pub place: Place,
    /// Where the info dictionary lies in the .torrent.
    pub info_at: Range<u32>,
    /// What a magnet link says of it, while there is no .torrent.
    pub metadata: Option<Box<Missing>>,
    /// Peers that a magnet link names.
    pub named: Box<[SocketAddr]>,
    /// No source of peers but its trackers (BEP 27).
    pub private: bool,
    /// Its trackers, tier by tier (BEP 12).
    pub tiers: Rc<Tiers>,
    /// All of its data was there once: what goes then is not fetched again unless the user says so.
    pub was_complete: bool,
    /// Its files may have been written to since its record was last closed.
    pub written: bool,
    /// It names web seeds.
    pub web_seeded: bool,
    /// They, once the .torrent has been read for them and until it is whole.
    pub web: Option<Box<WebSeeds>>,
    /// Others have all of it, as far as we know: it is not superseeded again.
    pub is_out: bool,
    /// Its disk fills holes with zeros: it is fetched from the front.
    pub windowed: bool,
    /// Its trackers know of us.
    pub announced: bool,
    /// Stamps of the files as they were last seen, hashed: data that still grows is not checked.
    pub seen: u64,
    /// When they were first seen so.
    pub seen_at: u32,
    /// The stamps that the last check, or the last look that found nothing to check, went by.
    pub settled: u64,
    /// Its record has been read.
    pub recalled: bool,
    /// The user paused or resumed it before that.
    pub decided: bool,
    /// All of it is to be hashed anew, whatever the record says.
    pub verify_all: bool,
    /// Bytes were sent since it was last put on record.
    pub unsaved: bool,
    /// When it was added, Unix seconds.
    pub added: Option<u64>,
    /// When its data was found complete, Unix seconds.
    pub completed: Option<u64>,
    /// Bytes of content sent, ever; what those connected now have got is not in it.
    pub uploaded: u64,
    /// What of it was sent before the daemon started: trackers count from there.
    pub uploaded_before: u64,
    /// Bytes of content that came, ever, also those that were of no use.
    pub downloaded: u64,
    /// What of it came before the daemon started.
    pub downloaded_before: u64,
    /// Times in a row that its data could not be read.
    pub failures: u8,
    /// When that was last so.
    pub failed: u32,
    /// The user was told that something is amiss, and not yet that it is well again.
    pub reported: bool,
    /// A check in progress.
    pub checking: Option<Box<Checking>>,
    /// What is being fetched, once somebody has some of it.
    pub fetch: Option<Box<Fetch>>,
    /// Those connected.
    pub swarm: Option<Box<Swarm>>,
}

/// Trackers, tier by tier.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tiers(pub Vec<Vec<String>>);

/// A check in progress.
pub struct Checking {
    /// Pieces still to be hashed.
    pub todo: Have,
    /// The first piece not yet looked at.
    pub next: u32,
    /// Bytes hashed in this check.
    pub hashed: u64,
    /// Bytes to hash in this check.
    pub total: u64,
    /// The files as they were before the first byte was hashed: they go into the record.
    pub stamps: Box<[Stamp]>,
    /// A slice of it is with the storage thread. An answer that comes at another time is of an earlier check.
    pub asked: bool,
    /// When it began.
    pub since: u32,
    /// When its progress was last put on record.
    pub saved: u32,
}

/// What is kept of a torrent while peers are connected, and a minute longer.
#[derive(Default)]
pub struct Swarm {
    /// Those connected.
    pub peers: Vec<PeerKey>,
    /// Who came and left, for those who want to hear of them.
    pub log: pex::Log,
    /// Where the bytes lie, once a peer has asked for some.
    pub layout: Option<Rc<Layout>>,
    /// The layout is on its way.
    pub layout_wanted: bool,
    /// When the last peer left.
    pub empty_since: u32,
    /// Bytes of content sent a second in the last choke round.
    pub rate: u64,
    /// Bytes of content that came a second in the last choke round.
    pub down_rate: u64,
    /// It is given piece by piece, or was.
    pub superseed: Option<Box<Superseed>>,
}

impl Torrent {
    /// A torrent of which nothing is known but its .torrent; `added` is the time of day, Unix seconds.
    pub fn new(summary: Summary, tiers: Rc<Tiers>, place: Place, added: Option<u64>) -> Torrent {
        Torrent {
            info_hash: summary.info_hash,
            name: summary.name,
            lengths: summary.lengths,
            have: Have::None,
            state: State::Queued,
            reason: "".into(),
            place,
            info_at: summary.info_at,
            metadata: None,
            named: [].into(),
            private: summary.private,
            tiers,
            was_complete: false,
            written: false,
            web_seeded: summary.web_seeded,
            web: None,
            is_out: false,
            windowed: false,
            announced: false,
            seen: 0,
            seen_at: 0,
            settled: 0,
            recalled: false,
            decided: false,
            verify_all: false,
            unsaved: false,
            added,
            completed: None,
            uploaded: 0,
            uploaded_before: 0,
            downloaded: 0,
            downloaded_before: 0,
            failures: 0,
            failed: 0,
            reported: false,
            checking: None,
            fetch: None,
            swarm: None,
        }
    }

    /// A torrent of which nothing is known but a magnet link.
    pub fn of_link(link: Magnet, tiers: Rc<Tiers>, place: Place, added: Option<u64>) -> Torrent {
        let info_hash = link.info_hash;
        let mut name = link.name.clone().unwrap_or_else(|| info_hash.to_string());
        name.truncate(name.floor_char_boundary(MAX_NAME));
        let summary = Summary {
            info_hash,
            name: name.into(),
            lengths: Lengths::NOTHING,
            hashes_at: 0,
            info_at: 0..0,
            private: false,
            multi_file: false,
            trackers: Vec::new(),
            web_seeded: false,
            nodes: Vec::new(),
        };
        let metadata = Some(Box::new(Missing::new(link)));
        Torrent { metadata, ..Torrent::new(summary, tiers, place, added) }
    }

    /// Bytes of the metadata that its peers may be given; 0 where we have none.
    pub fn metadata_size(&self) -> u32 {
        self.info_at.end - self.info_at.start
    }

    /// What its peers are shown, and their messages are judged against.
    pub fn view(&self) -> View<'_> {
        let have = if self.is_hidden() { &Have::None } else { &self.have };
        View { lengths: self.lengths, have }
    }

    /// How it is given piece by piece, if it is, or was.
    pub fn superseed(&self) -> Option<&Superseed> {
        self.swarm.as_ref()?.superseed.as_deref()
    }

    /// Whether its peers are not to know what we have (BEP 16).
    pub fn is_hidden(&self) -> bool {
        self.superseed().is_some_and(|superseed| !superseed.is_over())
    }

    /// Bytes of the pieces that we have.
    pub fn have_bytes(&self) -> u64 {
        bytes_of(&self.have, self.lengths)
    }

    /// Whether every piece is there.
    pub fn is_complete(&self) -> bool {
        self.have.is_all()
    }

    /// Whether there is something of it that peers are given, or wanted from them.
    pub fn serves(&self) -> bool {
        self.state.serves() && (self.seeks() || !self.have.is_none())
    }

    /// Whether others than its trackers may hear of it: neighbours, nodes of the DHT, peers of other peers.
    pub fn is_told(&self) -> bool {
        !self.private && self.serves()
    }

    /// Whether something of it is wanted from peers.
    pub fn seeks(&self) -> bool {
        matches!(self.state, State::Downloading | State::FetchingMetadata)
    }

    /// Whether it lacks pieces that are to be fetched.
    pub fn is_wanted(&self) -> bool {
        let idle = self.checking.is_none() && !self.verify_all && self.state != State::Paused;
        idle && !self.is_complete() && !self.was_complete
    }

    /// Whether what it lacks is fetched only when the user says so.
    pub fn is_partial(&self) -> bool {
        self.state == State::Incomplete && self.was_complete
    }

    /// Whether data that somebody puts in its place is looked for: it waits for its own, or nobody has come who has some.
    pub fn awaits_data(&self) -> bool {
        match self.state {
            State::Downloading => self.fetch.is_none(),
            _ => self.is_partial(),
        }
    }

    /// Why a torrent that was complete waits for what it lacks.
    pub fn what_is_lost(&self) -> String {
        let count = self.lengths.piece_count();
        format!(
            "{} of {count} pieces are in {}: it was complete once, so the others are fetched only after a 'resume'",
            self.have.count(count),
            self.place.data.display()
        )
    }

    /// Those connected. By itself: it is asked in twenty places.
    #[inline(never)]
    pub fn peers(&self) -> &[PeerKey] {
        self.swarm.as_ref().map_or(&[], |swarm| &swarm.peers)
    }

    /// The .torrent's path.
    pub fn file(&self) -> &Path {
        &self.place.torrent
    }

    /// Takes what was on record, its pieces apart.
    pub fn recall(&mut self, known: &Record) {
        let some = |number: u64| Some(number).filter(|&number| number > 0);
        self.was_complete |= known.complete;
        self.uploaded += known.uploaded;
        self.uploaded_before = known.uploaded;
        self.downloaded += known.downloaded;
        self.downloaded_before = known.downloaded;
        self.added = some(known.added).or(self.added);
        self.completed = some(known.completed).or(self.completed);
        if known.paused && !self.decided {
            self.state = State::Paused;
            self.reason = PAUSED.into();
        }
    }

    /// Starts a check of the pieces in `todo`.
    pub fn begin_check(&mut self, todo: Have, stamps: Box<[Stamp]>, now: u32) {
        let total = bytes_of(&todo, self.lengths);
        self.state = State::Checking;
        self.reason = "".into();
        let (next, hashed, asked) = (0, 0, false);
        self.checking =
            Some(Box::new(Checking { todo, next, hashed, total, stamps, asked, since: now, saved: now }));
    }

    /// Bytes that its check has still to read; `None` when there is none or nothing is left to do.
    pub fn check_left(&self) -> Option<u64> {
        self.checking.as_ref().map(|checking| checking.total - checking.hashed)
    }

    /// The next run of pieces to hash, `most` of them at most.
    pub fn next_to_check(&self, most: u32) -> Option<Range<u32>> {
        let checking = self.checking.as_ref()?;
        let count = self.lengths.piece_count();
        let from = (checking.next..count).find(|&piece| checking.todo.contains(piece))?;
        let end = from.saturating_add(most).min(count);
        let to = (from..end).find(|&piece| !checking.todo.contains(piece)).unwrap_or(end);
        Some(from..to)
    }

    /// Takes the verdict on a run of pieces; tells those that were found good.
    pub fn checked(&mut self, pieces: Range<u32>, good: impl Fn(u32) -> bool, mut found: impl FnMut(u32)) {
        let count = self.lengths.piece_count();
        let Some(checking) = &mut self.checking else { return };
        checking.next = pieces.end;
        for index in pieces {
            let Some(piece) = self.lengths.piece(index) else { break };
            checking.hashed += u64::from(self.lengths.size(piece));
            if good(index) {
                if !self.have.contains(index) {
                    self.have.insert(index, count);
                    found(index);
                }
            } else {
                self.have.remove(index, count);
            }
        }
    }

    /// The state that trouble with its data puts it into.
    pub fn state_in(&self, trouble: &Trouble) -> State {
        match trouble {
            Trouble::RootAbsent(_) | Trouble::EmptyMount(_) | Trouble::NotMounted(_) => State::WaitingForDisk,
            Trouble::DataMissing(_) if self.was_complete => State::WaitingForData,
            Trouble::DataMissing(_) | Trouble::NoRoom { .. } | Trouble::ReadOnly(_) => State::Incomplete,
            _ => State::Error,
        }
    }
}

/// Bytes of a set of pieces: all of it but the last piece is of one size.
fn bytes_of(pieces: &Have, lengths: Lengths) -> u64 {
    let count = lengths.piece_count();
    let Some(last) = count.checked_sub(1).and_then(|last| lengths.piece(last)) else { return 0 };
    let whole = u64::from(pieces.count(count)) * u64::from(lengths.piece_length());
    if pieces.contains(last.index()) {
        whole - u64::from(lengths.piece_length() - lengths.size(last))
    } else {
        whole
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ident::Ident;
    use std::num::NonZeroU32;
    use std::path::PathBuf;

    /// Ten pieces, the last of half the length.
    fn torrent() -> Torrent {
        let path: std::sync::Arc<Path> = Path::new("/srv/one").into();
        let ident = Ident { inode: 1, size: 1, mtime_secs: 1, mtime_nanos: 0, ctime: 1 };
        let place = Place {
            torrent: path.clone(),
            ident,
            data: path.clone(),
            other: None,
            root: path,
            kept: false,
            sidecar: false,
        };
        let lengths = Lengths::new(19 << 14, NonZeroU32::new(2 << 14).unwrap()).unwrap();
        let summary = Summary {
            info_hash: InfoHash::from_bytes([1; 20]),
            name: "one".into(),
            lengths,
            hashes_at: 0,
            info_at: 0..0,
            private: false,
            multi_file: false,
            trackers: Vec::new(),
            web_seeded: false,
            nodes: Vec::new(),
        };
        Torrent::new(summary, Rc::default(), place, Some(7))
    }

    fn bits(pieces: &[u32]) -> Have {
        Have::from_fn(10, |piece| pieces.contains(&piece))
    }

    #[test]
    fn a_check_goes_run_by_run_through_what_is_to_be_done() {
        let mut torrent = torrent();
        assert_eq!((torrent.next_to_check(9), torrent.check_left()), (None, None));
        torrent.have = bits(&[0, 1]);
        torrent.begin_check(bits(&[2, 3, 4, 7, 9]), Box::default(), 5);
        assert_eq!((torrent.state, torrent.check_left()), (State::Checking, Some(9 << 14)));
        assert_eq!((torrent.next_to_check(2), torrent.next_to_check(9)), (Some(2..4), Some(2..5)));
        let mut found = Vec::new();
        // The storage thread did only the first of them.
        torrent.checked(2..4, |piece| piece != 3, |piece| found.push(piece));
        assert_eq!(torrent.next_to_check(u32::MAX), Some(4..5));
        torrent.checked(4..5, |_| true, |piece| found.push(piece));
        torrent.checked(7..8, |_| true, |piece| found.push(piece));
        assert_eq!((torrent.next_to_check(9), torrent.check_left()), (Some(9..10), Some(1 << 14)));
        torrent.checked(9..10, |_| true, |piece| found.push(piece));
        assert_eq!((torrent.next_to_check(9), torrent.check_left()), (None, Some(0)));
        assert_eq!((found, torrent.have.clone()), (vec![2, 4, 7, 9], bits(&[0, 1, 2, 4, 7, 9])));
        assert_eq!(torrent.have_bytes(), 11 << 14);
    }

    #[test]
    fn a_check_takes_back_what_is_not_right_any_more_and_tells_no_piece_twice() {
        let mut torrent = torrent();
        torrent.have = Have::All;
        torrent.begin_check(Have::All, Box::default(), 0);
        let mut found = Vec::new();
        torrent.checked(0..10, |piece| piece != 6, |piece| found.push(piece));
        assert!(found.is_empty());
        assert_eq!(torrent.have.missing(10).collect::<Vec<_>>(), [6]);
        // An answer about pieces that do not exist changes nothing.
        torrent.checked(10..12, |_| true, |piece| found.push(piece));
        assert!(found.is_empty() && !torrent.is_complete());
    }

    #[test]
    fn a_record_is_recalled_but_for_what_the_user_said_since() {
        let known = Record {
            complete: true,
            paused: true,
            uploaded: 90,
            added: 0,
            completed: 11,
            ..Record::new(InfoHash::from_bytes([1; 20]))
        };
        let mut one = torrent();
        one.recall(&known);
        assert_eq!((one.state, one.uploaded, one.uploaded_before), (State::Paused, 90, 90));
        assert_eq!((one.was_complete, one.added, one.completed), (true, Some(7), Some(11)));
        let mut other = torrent();
        other.decided = true;
        other.recall(&known);
        assert_eq!((other.state, other.uploaded), (State::Queued, 90));
    }

    #[test]
    fn peers_are_welcome_where_there_is_something_to_give_or_to_fetch() {
        let mut torrent = torrent();
        for state in State::ALL {
            torrent.state = state;
            torrent.have = Have::None;
            let seeks = matches!(state, State::Downloading | State::FetchingMetadata);
            assert_eq!(torrent.serves(), seeks, "{state}");
            torrent.have = bits(&[3]);
            assert_eq!(torrent.serves(), state.serves(), "{state}");
        }
    }

    #[test]
    fn what_is_missing_is_waited_for_where_it_once_was() {
        let mut torrent = torrent();
        let path = || PathBuf::from("/srv/one");
        assert_eq!(torrent.state_in(&Trouble::DataMissing(path())), State::Incomplete);
        torrent.was_complete = true;
        assert_eq!(torrent.state_in(&Trouble::DataMissing(path())), State::WaitingForData);
        assert_eq!(torrent.state_in(&Trouble::RootAbsent(path())), State::WaitingForDisk);
        assert_eq!(torrent.state_in(&Trouble::EmptyMount(path())), State::WaitingForDisk);
        assert_eq!(torrent.state_in(&Trouble::Outside(path())), State::Error);
    }

    #[test]
    fn an_idle_torrent_is_small() {
        // With its names and paths, and what the allocator adds, it stays below 512 bytes.
        assert!(size_of::<Torrent>() <= 384, "{}", size_of::<Torrent>());
    }
}

//! The web seeds of a torrent: which of them may be asked now, and how long one that failed is left alone.
//!
//! Read first: BEP 19 (GetRight style, any web server), BEP 17 (Hoffman style, a script). What is asked for is in
//! `request`. Omits: FTP, and when a web seed is asked at all, which the session decides. Holds at most eight URLs a
//! torrent and sixteen places to which redirects have led.

pub mod io;
pub mod request;

use std::fmt;
use std::net::IpAddr;
use std::ops::Range;
use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::http::{Scheme, Url};
use crate::key::TorrentKey;
use crate::metainfo::InfoHash;
use crate::peer::PeerKey;
use crate::random::Random;
use crate::storage::Layout;
use crate::tracker::host::back_off;

/// URLs of one torrent that are kept: popular images name a hundred mirrors, and two are asked at a time.
const MAX_SEEDS: usize = 8;
/// Files for which it is remembered where a redirect led: each is asked for in long runs.
const MAX_REDIRECTS: usize = 16;
/// Files that one web seed may lack before it is left alone as a whole.
const MAX_ABSENT: usize = 16;
/// Answers that are not what was asked for before nothing more is asked.
const MAX_WRONG: u8 = 3;

/// Seconds of rest after a web seed was not reached or broke off, doubled each time up to the second number: the name
/// server or the uplink may be back within minutes.
const REST: (u32, u32) = (30, 600);
/// The same after it had sent something: connections break.
const REST_BROKEN: (u32, u32) = (5, 5);
/// The same where it has too much to do and does not say for how long.
const REST_BUSY: (u32, u32) = (60, 3600);
/// Seconds for which a web seed may ask us to stay away.
const MAX_RETRY_AFTER: u32 = 24 * 3600;
/// The same after a refusal that will hardly pass soon.
const REST_REFUSED: (u32, u32) = (3600, 6 * 3600);
/// The same after a wrong answer.
const REST_WRONG: (u32, u32) = (300, 3600);

/// A web seed that is slower is of no use: below this many bytes in a minute of waiting for it.
const LEAST: u64 = 60 * 1024;
const MINUTE: Duration = Duration::from_secs(60);

/// The two kinds of web seeds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// BEP 19: the files lie on a web server.
    GetRight,
    /// BEP 17: a script gives pieces.
    HttpSeed,
}

/// How a fetch from a web seed ended. Texts are for the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// All came that was asked for.
    Done,
    /// We want no more.
    Stopped,
    /// It has too much to do; how many seconds it wants to be left alone, if it says.
    Busy(Option<u32>),
    /// It lacks this file, or the torrent as a whole.
    Absent(Option<u32>),
    /// It does not give it.
    Refused(Box<str>),
    /// What it sends is not what was asked for.
    Wrong(Box<str>),
    /// It is of no use to us, and never will be.
    Useless(Box<str>),
    /// It was not reached, or broke off.
    Unreached(Box<str>),
}

/// What to fetch from a web seed.
#[derive(Clone, Debug)]
pub struct WebFetch {
    /// Of which torrent.
    pub torrent: TorrentKey,
    /// Its identity.
    pub info_hash: InfoHash,
    /// The name it gives itself.
    pub name: Box<str>,
    /// Where its bytes lie.
    pub layout: Rc<Layout>,
    /// From whom.
    pub key: PeerKey,
    /// How.
    pub kind: Kind,
    /// Where that is.
    pub url: Url,
    /// Which bytes of the torrent.
    pub bytes: Range<u64>,
}

/// What becomes of bytes that came, up to the end of their block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// They are written.
    Keep {
        /// Of that piece.
        piece: u32,
        /// From that byte of it on.
        begin: u32,
        /// So many of them.
        len: u32,
    },
    /// So many of them are of no use.
    Skip(u32),
    /// No more is wanted.
    Stop,
}

/// The web seeds of one torrent.
#[derive(Debug)]
pub struct WebSeeds {
    seeds: Vec<WebSeed>,
    redirects: Vec<Redirect>,
    random: Random,
    /// Bytes that came since the last choke round.
    pub given: u32,
    /// The same a second, in the last choke round.
    pub rate: u32,
}

/// One of them.
#[derive(Debug)]
pub struct WebSeed {
    /// As the .torrent has it.
    pub url: Url,
    /// How it is asked.
    pub kind: Kind,
    /// As whom the picker knows it.
    pub key: PeerKey,
    state: State,
    /// Times in a row that it gave nothing.
    failures: u8,
    wrong: u8,
    absent: Vec<u32>,
    /// It rests because its host was not reached.
    unreached: bool,
    /// What was wrong last.
    trouble: Option<Box<str>>,
}

/// What is told of a web seed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeedStatus {
    /// As the .torrent has it.
    pub url: String,
    /// A word or two.
    pub state: &'static str,
    /// Until it is asked again, seconds.
    pub next: Option<u64>,
    /// What was wrong last.
    pub trouble: Option<Box<str>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Idle,
    /// It is being asked.
    Busy,
    /// Not before then.
    Resting(Instant),
    /// Never again.
    Banned,
}

/// Where a file was found.
#[derive(Debug)]
struct Redirect {
    key: PeerKey,
    file: u32,
    url: Url,
    /// Who said so.
    from: IpAddr,
}

impl WebSeeds {
    /// Those of a .torrent: `url-list` and `httpseeds`. Of too many the plain ones are kept first, for TLS costs a router
    /// time and proves nothing that pieces do not prove; in an order drawn by chance, so that not all nodes ask the same
    /// one.
    pub fn new(
        web_seeds: &[String],
        http_seeds: &[String],
        seed: u64,
        mut key: impl FnMut() -> PeerKey,
    ) -> WebSeeds {
        let mut random = Random::new(seed);
        let named = web_seeds.iter().map(|url| (url, Kind::GetRight));
        let named = named.chain(http_seeds.iter().map(|url| (url, Kind::HttpSeed)));
        let mut urls: Vec<(Url, Kind)> =
            named.filter_map(|(url, kind)| Some((Url::parse(url).ok()?, kind))).collect();
        for at in 1..urls.len() {
            urls.swap(at, random.below(at + 1));
        }
        urls.sort_unstable_by_key(|(url, _)| url.scheme() == Scheme::Https);
        urls.truncate(MAX_SEEDS);
        let seeds = urls
            .into_iter()
            .map(|(url, kind)| WebSeed {
                url,
                kind,
                key: key(),
                state: State::Idle,
                failures: 0,
                wrong: 0,
                absent: Vec::new(),
                unreached: false,
                trouble: None,
            })
            .collect();
        WebSeeds { seeds, redirects: Vec::new(), random, given: 0, rate: 0 }
    }

    /// Whether one may be asked now.
    pub fn has_free(&self, now: Instant) -> bool {
        self.seeds.iter().any(|seed| seed.is_free(now))
    }

    /// Those that may be asked now, those that work first.
    pub fn free(&self, now: Instant) -> Vec<PeerKey> {
        let mut free: Vec<&WebSeed> = self.seeds.iter().filter(|seed| seed.is_free(now)).collect();
        free.sort_unstable_by_key(|seed| (seed.failures, seed.wrong, seed.key));
        free.into_iter().map(|seed| seed.key).collect()
    }

    /// When the next one has rested. `None`: when one that is asked now has ended, or never.
    pub fn deadline(&self) -> Option<Instant> {
        let rests = self.seeds.iter().filter_map(|seed| match seed.state {
            State::Resting(until) => Some(until),
            _ => None,
        });
        rests.min()
    }

    /// The one that the picker knows so.
    pub fn seed(&self, key: PeerKey) -> Option<&WebSeed> {
        self.seeds.iter().find(|seed| seed.key == key)
    }

    fn seed_mut(&mut self, key: PeerKey) -> Option<&mut WebSeed> {
        self.seeds.iter_mut().find(|seed| seed.key == key)
    }

    /// It is being asked.
    pub fn begin(&mut self, key: PeerKey) {
        if let Some(seed) = self.seed_mut(key)
            && seed.state != State::Banned
        {
            seed.state = State::Busy;
        }
    }

    /// It is not asked any more; `got` says whether it sent something that was wanted. What the log should say of it is
    /// returned: that it failed after it had worked, or that nothing more is asked.
    pub fn ended(&mut self, key: PeerKey, how: &Ended, got: bool, now: Instant) -> Option<String> {
        let seed = self.seeds.iter_mut().find(|seed| seed.key == key)?;
        if seed.state == State::Banned {
            return None;
        }
        if got {
            seed.failures = 0;
        }
        seed.unreached = !got && matches!(how, Ended::Unreached(_));
        seed.trouble = match how {
            Ended::Done | Ended::Stopped => None,
            how => Some(how.to_string().into()),
        };
        let mut failures = seed.failures;
        let range = match how {
            Ended::Done | Ended::Stopped => {
                seed.state = State::Idle;
                return None;
            }
            Ended::Absent(Some(file)) if seed.absent.len() < MAX_ABSENT => {
                if !seed.lacks(*file) {
                    seed.absent.push(*file);
                }
                Some(REST_BROKEN)
            }
            Ended::Absent(_) | Ended::Refused(_) => Some(REST_REFUSED),
            Ended::Busy(None) => Some(REST_BUSY),
            Ended::Busy(Some(seconds)) => {
                let seconds = (*seconds).clamp(1, MAX_RETRY_AFTER);
                Some((seconds, seconds))
            }
            Ended::Unreached(_) => Some(if got { REST_BROKEN } else { REST }),
            Ended::Wrong(_) => {
                failures = seed.wrong;
                seed.wrong += 1;
                (seed.wrong < MAX_WRONG).then_some(REST_WRONG)
            }
            Ended::Useless(_) => None,
        };
        let worked = seed.failures == 0;
        seed.failures = seed.failures.saturating_add(1);
        let Some((first, most)) = range else {
            seed.state = State::Banned;
            return Some(format!("web seed {}: {how}; it is not asked again", seed.url));
        };
        let seconds = back_off(first, most, failures, &mut self.random);
        seed.state = State::Resting(now + Duration::from_secs(seconds.into()));
        worked.then(|| format!("web seed {}: {how}; it is asked again in {seconds} s", seed.url))
    }

    /// The network is another: those that were not reached are tried again.
    pub fn network_changed(&mut self) {
        for seed in self.seeds.iter_mut().filter(|seed| seed.unreached) {
            if matches!(seed.state, State::Resting(_)) {
                (seed.state, seed.failures) = (State::Idle, 0);
            }
        }
    }

    /// It alone sent a piece that is not right. What the log should say of it is returned.
    pub fn ban(&mut self, key: PeerKey) -> Option<String> {
        self.redirects.retain(|redirect| redirect.key != key);
        let seed = self.seed_mut(key).filter(|seed| seed.state != State::Banned)?;
        seed.state = State::Banned;
        seed.trouble = Some("it sends wrong data".into());
        Some(format!("web seed {}: it sends wrong data; it is not asked again", seed.url))
    }

    /// Until when a host (a URL's origin) is left alone, of which a web seed here found that it is not there.
    pub fn rest_of(&self, host: &str) -> Option<Instant> {
        self.seeds.iter().find_map(|seed| match seed.state {
            State::Resting(until) if seed.unreached && seed.url.origin() == host => Some(until),
            _ => None,
        })
    }

    /// A web seed of another torrent has found that.
    pub fn rest_with(&mut self, host: &str, until: Instant) {
        for seed in self.seeds.iter_mut().filter(|seed| seed.url.origin() == host) {
            let sooner = match seed.state {
                State::Idle => true,
                State::Resting(rest) => rest < until,
                State::Busy | State::Banned => false,
            };
            if sooner {
                (seed.state, seed.unreached) = (State::Resting(until), true);
            }
        }
    }

    /// A web seed of another torrent has reached that host.
    pub fn reached(&mut self, host: &str) {
        for seed in self.seeds.iter_mut().filter(|seed| seed.unreached && seed.url.origin() == host) {
            if matches!(seed.state, State::Resting(_)) {
                seed.state = State::Idle;
            }
        }
    }

    /// The hosts of all of them.
    pub fn hosts(&self) -> impl Iterator<Item = &str> {
        self.seeds.iter().map(|seed| seed.url.origin())
    }

    /// What is told of each.
    pub fn status(&self, now: Instant) -> Vec<SeedStatus> {
        let status = |seed: &WebSeed| {
            let (state, next) = match seed.state {
                State::Busy => ("asked", None),
                State::Resting(until) if until > now => ("rests", Some((until - now).as_secs())),
                State::Idle | State::Resting(_) => ("at hand", None),
                State::Banned => ("given up", None),
            };
            SeedStatus { url: seed.url.to_string(), state, next, trouble: seed.trouble.clone() }
        };
        self.seeds.iter().map(status).collect()
    }

    /// Where a redirect led for that file, and who said so.
    pub fn redirect(&self, key: PeerKey, file: u32) -> Option<(&Url, IpAddr)> {
        let known = self.redirects.iter().find(|known| known.key == key && known.file == file);
        known.map(|known| (&known.url, known.from))
    }

    /// Remembers where a redirect led, or that it leads nowhere any more.
    pub fn set_redirect(&mut self, key: PeerKey, file: u32, to: Option<(Url, IpAddr)>) {
        self.redirects.retain(|known| known.key != key || known.file != file);
        if let Some((url, from)) = to {
            if self.redirects.len() == MAX_REDIRECTS {
                self.redirects.remove(0);
            }
            self.redirects.push(Redirect { key, file, url, from });
        }
    }
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Ended::Done => f.write_str("all came"),
            Ended::Stopped => f.write_str("no more is wanted"),
            Ended::Busy(_) => f.write_str("it has too much to do"),
            Ended::Absent(Some(_)) => f.write_str("it lacks a file"),
            Ended::Absent(None) => f.write_str("it lacks the torrent"),
            Ended::Refused(why) | Ended::Wrong(why) | Ended::Useless(why) | Ended::Unreached(why) => {
                f.write_str(why)
            }
        }
    }
}

impl WebSeed {
    fn is_free(&self, now: Instant) -> bool {
        match self.state {
            State::Idle => true,
            State::Resting(until) => until <= now,
            State::Busy | State::Banned => false,
        }
    }

    /// Whether it was found to lack a file.
    fn lacks(&self, file: u32) -> bool {
        self.absent.contains(&file)
    }

    /// The pieces that it may have, from the start of a run on.
    pub fn first_of(&self, layout: &Layout, run: Range<u32>) -> Range<u32> {
        let length = u64::from(layout.lengths().piece_length());
        let start = u64::from(run.start) * length;
        let mut spans = layout.spans(start, u64::from(run.end - run.start) * length);
        let lacking = spans.find(|span| !span.pad && self.lacks(span.file));
        let end = lacking.map_or(run.end, |span| {
            let at = layout.range(span.file).start + span.offset;
            u32::try_from(at / length).unwrap_or(run.end).min(run.end)
        });
        run.start..end
    }
}

/// Whether a web seed is fast enough, by the time that was spent waiting for it: what we ourselves hold back for the
/// sake of a limit or the disk is not its fault.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pace {
    waited: Duration,
    came: u64,
}

impl Pace {
    /// Bytes came after that time of waiting. `false` when it is too slow.
    pub fn came(&mut self, bytes: u64, waited: Duration) -> bool {
        self.waited += waited;
        self.came += bytes;
        if self.waited < MINUTE {
            return true;
        }
        let enough = self.came >= LEAST;
        *self = Pace::default();
        enough
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::storage::tests::metainfo;

    #[expect(clippy::disallowed_methods, reason = "the only way to make an instant")]
    fn start() -> Instant {
        Instant::now()
    }

    fn web_seeds(urls: &[&str]) -> WebSeeds {
        let urls: Vec<String> = urls.iter().map(|url| url.to_string()).collect();
        let mut keys = (100..).map(PeerKey);
        WebSeeds::new(&urls, &[], 1, || keys.next().unwrap())
    }

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// How long it rests after that.
    fn rest(seeds: &mut WebSeeds, key: PeerKey, how: &Ended, got: bool, now: Instant) -> u64 {
        seeds.begin(key);
        seeds.ended(key, how, got, now);
        seeds.deadline().map_or(0, |until| (until - now).as_secs())
    }

    #[test]
    fn of_many_urls_eight_are_kept_and_plain_ones_first() {
        let named: Vec<String> =
            (0..20).map(|n| format!("http{}://h{n}/", if n < 14 { "s" } else { "" })).collect();
        let mut keys = (0..).map(PeerKey);
        let scripts = ["http://script/seed".to_owned(), "no URL".to_owned()];
        let seeds = WebSeeds::new(&named, &scripts, 3, || keys.next().unwrap());
        assert_eq!(seeds.seeds.len(), MAX_SEEDS);
        assert_eq!(seeds.seeds.iter().filter(|seed| seed.url.scheme() == Scheme::Http).count(), 7);
        let script = seeds.seeds.iter().find(|seed| seed.kind == Kind::HttpSeed).unwrap();
        assert_eq!(script.url.as_str(), "http://script/seed");
        assert!(WebSeeds::new(&["nothing".to_owned()], &[], 1, || PeerKey(1)).seeds.is_empty());
        let first = |seed| {
            let mut keys = (0..).map(PeerKey);
            WebSeeds::new(&named, &[], seed, || keys.next().unwrap()).seeds[0].url.clone()
        };
        assert!((0..20).any(|seed| first(seed) != first(0)), "not all nodes ask the same one");
    }

    #[test]
    fn one_that_is_asked_or_rests_is_passed_over_and_one_that_works_goes_first() {
        let now = start();
        let mut seeds = web_seeds(&["http://a/", "http://b/", "http://c/"]);
        let first = seeds.free(now)[0];
        seeds.begin(first);
        let second = seeds.free(now)[0];
        assert!(second != first);
        seeds.begin(second);
        assert!(seeds.ended(second, &Ended::Unreached("gone".into()), false, now).unwrap().contains("gone"));
        let third = seeds.free(now)[0];
        assert!(third != first && third != second);
        seeds.begin(third);
        assert!(seeds.free(now).is_empty());
        let until = seeds.deadline().unwrap();
        assert!((30..=38).contains(&(until - now).as_secs()));
        assert!(seeds.free(until - seconds(1)).is_empty());
        assert_eq!(seeds.free(until)[0], second);
        assert_eq!(seeds.ended(first, &Ended::Done, true, now), None);
        assert_eq!(seeds.free(until)[0], first);
    }

    #[test]
    fn rests_grow_with_failures_in_a_row_and_are_as_long_as_it_says() {
        let mut now = start();
        let mut seeds = web_seeds(&["http://a/"]);
        let key = seeds.seeds[0].key;
        let gone = Ended::Unreached("gone".into());
        for least in [30, 60, 120, 240, 480, 600, 600] {
            let rest = rest(&mut seeds, key, &gone, false, now);
            assert!((least..=least + least / 4).contains(&rest), "{rest} after {least}");
            now += seconds(rest + 1);
        }
        rest(&mut seeds, key, &gone, false, now);
        assert_eq!(seeds.free(now), []);
        seeds.network_changed();
        assert_eq!(seeds.free(now), [key], "in another network it is worth a try");
        assert!((30..=38).contains(&rest(&mut seeds, key, &gone, false, now)));
        assert!(
            (5..=6).contains(&rest(&mut seeds, key, &gone, true, now)),
            "what gave something is asked soon"
        );
        assert!((7..=8).contains(&rest(&mut seeds, key, &Ended::Busy(Some(7)), false, now)));
        assert!(rest(&mut seeds, key, &Ended::Busy(Some(u32::MAX)), false, now) <= 30 * 3600);
        assert!(rest(&mut seeds, key, &Ended::Busy(Some(0)), false, now) >= 1);
        seeds.ended(key, &Ended::Done, true, now);
        assert!((60..=75).contains(&rest(&mut seeds, key, &Ended::Busy(None), false, now)));
        for how in [Ended::Refused("403".into()), Ended::Absent(None)] {
            seeds.ended(key, &Ended::Done, true, now);
            assert!(rest(&mut seeds, key, &how, false, now) >= 3600);
        }
    }

    #[test]
    fn a_host_that_is_not_there_is_left_alone_by_all_its_torrents() {
        let now = start();
        let mut one = web_seeds(&["http://dead:81/a/", "http://fine/a/"]);
        let mut other = web_seeds(&["http://dead:81/b/", "http://dead/b/", "http://fine/b/"]);
        let key = one.seeds.iter().find(|seed| seed.url.port() == 81).unwrap().key;
        one.ended(key, &Ended::Unreached("gone".into()), false, now);
        let until = one.rest_of("http://dead:81").unwrap();
        assert!(one.rest_of("http://dead").is_none() && one.rest_of("http://fine").is_none());
        other.rest_with("http://dead:81", until);
        assert_eq!((other.free(now).len(), other.free(until).len()), (2, 3));
        other.reached("http://dead");
        assert_eq!(other.free(now).len(), 2);
        other.reached("http://dead:81");
        assert_eq!(other.free(now).len(), 3);
        // What it says itself, or what it broke off, is of one torrent.
        for (how, got) in [(Ended::Unreached("cut".into()), true), (Ended::Busy(None), false)] {
            one.ended(key, &how, got, now);
            assert!(one.rest_of("http://dead:81").is_none());
        }
    }

    #[test]
    fn what_goes_wrong_is_told_once_until_it_works_again() {
        let now = start();
        let mut seeds = web_seeds(&["http://a/"]);
        let key = seeds.seeds[0].key;
        let gone = Ended::Unreached("gone".into());
        assert!(seeds.ended(key, &gone, false, now).is_some());
        assert!(seeds.ended(key, &gone, false, now).is_none());
        assert!(seeds.ended(key, &Ended::Done, true, now).is_none());
        assert!(seeds.ended(key, &gone, false, now).is_some());
    }

    #[test]
    fn each_is_told_with_its_state_and_what_was_wrong_last() {
        let now = start();
        let mut seeds = web_seeds(&["http://a/", "http://b/", "http://c/", "http://d/"]);
        let [_, b, c, d] = [0, 1, 2, 3].map(|at: usize| seeds.seeds[at].key);
        seeds.begin(b);
        seeds.ended(c, &Ended::Busy(Some(7)), false, now);
        seeds.ban(d);
        let told = |now| -> Vec<_> {
            let status = |seed: SeedStatus| (seed.state, seed.next.is_some(), seed.trouble);
            seeds.status(now).into_iter().map(status).collect()
        };
        let (busy, banned) = ("it has too much to do".into(), Some("it sends wrong data".into()));
        assert_eq!(
            told(now),
            [
                ("at hand", false, None),
                ("asked", false, None),
                ("rests", true, Some(busy)),
                ("given up", false, banned)
            ]
        );
        assert_eq!(told(now + seconds(9))[2].0, "at hand");
    }

    #[test]
    fn wrong_answers_are_counted_and_wrong_data_is_the_end() {
        let now = start();
        let mut seeds = web_seeds(&["http://a/", "http://b/", "http://c/"]);
        let [a, b, c] = [0, 1, 2].map(|at: usize| seeds.seeds[at].key);
        let wrong = Ended::Wrong("other bytes".into());
        assert!((300..=375).contains(&rest(&mut seeds, a, &wrong, false, now)));
        // What it gave in between was right, and yet.
        seeds.ended(a, &Ended::Done, true, now);
        assert!((600..=750).contains(&rest(&mut seeds, a, &wrong, true, now)));
        assert!(seeds.ended(a, &wrong, false, now).unwrap().contains("not asked again"));
        assert!(seeds.ended(b, &Ended::Useless("https".into()), false, now).unwrap().contains("https"));
        seeds.set_redirect(c, 1, Some((Url::parse("http://z/").unwrap(), IpAddr::from([1, 1, 1, 1]))));
        seeds.begin(c);
        assert!(seeds.ban(c).is_some() && seeds.ban(c).is_none() && seeds.redirect(c, 1).is_none());
        seeds.ended(c, &Ended::Done, true, now);
        seeds.begin(c);
        assert!(seeds.free(now + seconds(1 << 30)).is_empty() && seeds.deadline().is_none());
    }

    #[test]
    fn a_mirror_may_lack_some_files() {
        let now = start();
        let mut seeds = web_seeds(&["http://a/"]);
        let key = seeds.seeds[0].key;
        for file in 0..16 {
            assert!(rest(&mut seeds, key, &Ended::Absent(Some(file)), false, now) <= 6);
        }
        assert!(seeds.seed(key).unwrap().lacks(3) && !seeds.seed(key).unwrap().lacks(16));
        assert!(rest(&mut seeds, key, &Ended::Absent(Some(16)), false, now) >= 3600);
        // It is asked up to the first of them: pieces of ten bytes, and files that do not end with one.
        let files: Vec<(String, u64)> = (0..20).map(|n| (n.to_string(), 25)).collect();
        let files: Vec<(&str, u64)> = files.iter().map(|(name, length)| (&name[..], *length)).collect();
        let layout = Layout::new(&metainfo(10, &files), Path::new("/data/name"));
        let one = seeds.seed(key).unwrap();
        assert_eq!(one.first_of(&layout, 40..50), 40..50);
        assert_eq!(one.first_of(&layout, 39..50), 39..39, "the piece has a byte of what is lacking");
        seeds.seeds[0].absent = vec![2, 18];
        let one = seeds.seed(key).unwrap();
        assert_eq!(one.first_of(&layout, 0..50), 0..5);
        assert_eq!(one.first_of(&layout, 5..9), 5..5);
        assert_eq!(one.first_of(&layout, 8..44), 8..44);
        assert_eq!(one.first_of(&layout, 8..50), 8..45);
    }

    #[test]
    fn it_is_remembered_where_redirects_led_for_so_many_files() {
        let mut seeds = web_seeds(&["http://a/"]);
        let key = seeds.seeds[0].key;
        let from = IpAddr::from([10, 0, 0, 1]);
        let to = |n: u32| Url::parse(&format!("http://mirror/{n}")).unwrap();
        for file in 0..20 {
            seeds.set_redirect(key, file, Some((to(file), from)));
        }
        assert_eq!((seeds.redirect(key, 3), seeds.redirects.len()), (None, MAX_REDIRECTS));
        assert_eq!(seeds.redirect(key, 19), Some((&to(19), from)));
        assert_eq!(seeds.redirect(PeerKey(1), 19), None);
        seeds.set_redirect(key, 19, Some((to(0), from)));
        assert_eq!((seeds.redirect(key, 19), seeds.redirects.len()), (Some((&to(0), from)), MAX_REDIRECTS));
        seeds.set_redirect(key, 19, None);
        assert_eq!(seeds.redirect(key, 19), None);
    }

    #[test]
    fn a_slow_server_is_told_from_one_that_we_hold_back() {
        let mut pace = Pace::default();
        for _ in 0..59 {
            assert!(pace.came(100, seconds(1)));
        }
        assert!(!pace.came(100, seconds(1)));
        let mut pace = Pace::default();
        for _ in 0..600 {
            assert!(pace.came(1024, seconds(1)));
        }
        let mut pace = Pace::default();
        for _ in 0..600 {
            assert!(pace.came(1, Duration::ZERO), "no time was spent waiting for it");
        }
    }
}

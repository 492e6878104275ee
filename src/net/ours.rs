//! Our own addresses, and when a change of them is news: what could not be reached is tried again soon, and trackers that
//! know us by our addresses are told a little later.
//!
//! Late by chance, so that the neighbours of one uplink do not all come at once, and seldom, so that an interface that
//! comes and goes each second is no storm: what is as it was when it was last told is no news. Omits who is told.
//! Holds two short lists.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::{Class, class};
use crate::random::Random;

/// Milliseconds, at least and at most, until what could not be reached is tried again: routes and name servers come a
/// little after an address.
const RETRY: (u32, u32) = (1_000, 4_000);
/// Between two such tries.
const RETRY_PAUSE: Duration = Duration::from_secs(60);
/// Milliseconds, at least and at most, until addresses that are others are told.
const TELL: (u32, u32) = (5_000, 30_000);
/// Between two times that they are told.
const TELL_PAUSE: Duration = Duration::from_secs(300);

/// What is to be done about a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum News {
    /// What could not be reached may be there now.
    Retry,
    /// That, and those who know our addresses know the wrong ones.
    Tell,
}

/// Addresses of ours that others, beyond our own links, know.
#[derive(Debug)]
pub struct Ours {
    /// Sorted.
    are: Vec<IpAddr>,
    /// As they were told; `None` at first.
    told: Option<Vec<IpAddr>>,
    retry: Clock,
    tell: Clock,
    random: Random,
}

/// When something is to be done, and when it may be at all.
#[derive(Debug, Default)]
struct Clock {
    due: Option<Instant>,
    not_before: Option<Instant>,
}

impl Ours {
    /// Knows none. The seed decides how late is how late.
    pub fn new(seed: u64) -> Ours {
        Ours {
            are: Vec::new(),
            told: None,
            retry: Clock::default(),
            tell: Clock::default(),
            random: Random::new(seed),
        }
    }

    /// Takes the addresses of all interfaces that carry packets. The first ones are no news.
    pub fn handle(&mut self, addresses: impl Iterator<Item = IpAddr>, now: Instant) {
        let mut are: Vec<IpAddr> =
            addresses.filter(|address| matches!(class(*address), Class::Private | Class::Global)).collect();
        are.sort_unstable();
        are.dedup();
        let gained = are.iter().any(|address| !self.are.contains(address));
        self.are = are;
        let Some(told) = &self.told else {
            self.told = Some(self.are.clone());
            return;
        };
        if gained {
            self.retry.set(RETRY, &mut self.random, now);
        }
        if *told != self.are {
            self.tell.set(TELL, &mut self.random, now);
        }
    }

    /// What is due.
    pub fn poll(&mut self, now: Instant) -> Option<News> {
        let others = self.told.as_ref() != Some(&self.are);
        // Whoever has no address at all reaches nobody.
        if self.tell.expired(now) && others && !self.are.is_empty() {
            self.told = Some(self.are.clone());
            self.tell.not_before = Some(now + TELL_PAUSE);
            self.retry = Clock { due: None, not_before: Some(now + RETRY_PAUSE) };
            return Some(News::Tell);
        }
        if self.retry.expired(now) {
            self.retry.not_before = Some(now + RETRY_PAUSE);
            return Some(News::Retry);
        }
        None
    }

    /// When [`Ours::poll`] may have something.
    pub fn deadline(&self) -> Option<Instant> {
        [self.retry.due, self.tell.due].into_iter().flatten().min()
    }
}

impl Clock {
    fn set(&mut self, (least, most): (u32, u32), random: &mut Random, now: Instant) {
        if self.due.is_none() {
            let late = now + Duration::from_millis((least + random.up_to(most - least)).into());
            self.due = Some(self.not_before.map_or(late, |not_before| late.max(not_before)));
        }
    }

    fn expired(&mut self, now: Instant) -> bool {
        self.due.take_if(|due| *due <= now).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[expect(clippy::disallowed_methods, reason = "some instant to count from")]
    fn some_instant() -> Instant {
        Instant::now()
    }

    /// Takes the changes at their seconds and says at which seconds there was which news.
    fn news<'a>(seed: u64, changes: impl Iterator<Item = (u64, &'a [&'a str])>) -> Vec<(f64, News)> {
        let start = some_instant();
        let mut ours = Ours::new(seed);
        let mut news = Vec::new();
        let mut run = |ours: &mut Ours, until: Option<Instant>| {
            while let Some(due) = ours.deadline().filter(|due| until.is_none_or(|until| *due <= until)) {
                news.extend(ours.poll(due).map(|what| ((due - start).as_secs_f64(), what)));
            }
        };
        for (second, addresses) in changes {
            let at = start + Duration::from_secs(second);
            run(&mut ours, Some(at));
            ours.handle(addresses.iter().map(|text| text.parse().unwrap()), at);
        }
        run(&mut ours, None);
        news
    }

    #[test]
    fn the_first_addresses_are_no_news_nor_are_those_of_a_link_or_this_machine() {
        assert_eq!(news(1, [(0, &["10.0.0.1"][..])].into_iter()), []);
        let more = ["127.0.0.1", "::1", "fe80::1", "10.0.0.1", "169.254.1.1", "10.0.0.1"];
        assert_eq!(news(1, [(0, &["10.0.0.1"][..]), (9, &more)].into_iter()), []);
    }

    #[test]
    fn another_address_is_tried_soon_and_told_a_little_later_by_each_at_its_own_time() {
        let mut times = Vec::new();
        for seed in 0..50 {
            let heard = news(seed, [(0, &["10.0.0.1"][..]), (100, &["10.0.0.2"])].into_iter());
            let [(retried, News::Retry), (told, News::Tell)] = heard[..] else { panic!("{heard:?}") };
            assert!((101.0..=104.0).contains(&retried) && (105.0..=130.0).contains(&told), "{heard:?}");
            times.push(told);
        }
        times.sort_by(f64::total_cmp);
        assert!(times[45] - times[5] > 10.0, "{times:?}");
    }

    #[test]
    fn an_address_that_comes_back_is_tried_but_not_told() {
        let changes: [(u64, &[&str]); 3] = [(0, &["10.0.0.1"]), (100, &[]), (110, &["10.0.0.1"])];
        let heard = news(1, changes.into_iter());
        assert!(matches!(heard[..], [(retried, News::Retry)] if retried < 115.0), "{heard:?}");
        let heard = news(1, [(0, &["10.0.0.1"][..]), (100, &[])].into_iter());
        assert_eq!(heard, [], "nobody can be told");
    }

    #[test]
    fn an_interface_that_flaps_for_an_hour_is_no_storm() {
        let flap = |second| {
            let up: &[&str] = if second % 2 == 0 { &["10.0.0.1"] } else { &["10.0.0.1", "10.0.0.2"] };
            (second, up)
        };
        let heard = news(1, (0..3600).map(flap));
        let told = heard.iter().filter(|(_, what)| *what == News::Tell).count();
        assert!(told <= 13 && heard.len() - told <= 61, "{heard:?}");
        let renumbered = |second| {
            let address: &[&str] = if second % 2 == 0 { &["10.0.0.1"] } else { &["10.0.0.2"] };
            (second, address)
        };
        let heard = news(1, (0..3600).map(renumbered));
        let told = heard.iter().filter(|(_, what)| *what == News::Tell).count();
        assert!((1..=13).contains(&told) && heard.len() - told <= 61, "{heard:?}");
    }
}

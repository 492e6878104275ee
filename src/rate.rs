//! A token bucket: how much of something (bytes, dials, packets) may pass now, and when more may.
//!
//! Read first: RFC 2697 or any text on token buckets. Arithmetic on (amount, now), exact however long it idled and
//! however often it is asked: what is left of a division is kept. Omits waiting: the caller sleeps until
//! [`Bucket::ready_at`]. Holds no memory beside itself.

use std::time::{Duration, Instant};

/// The largest burst and, a second, the largest rate: products with the nanoseconds of a second stay in 64 bits.
/// Eight gibibytes a second are no limit to anything we run on.
const MAX: u64 = 1 << 33;

/// The least burst of a bucket of bytes: what one write to a socket carries at most.
pub const BATCH: u64 = 128 * 1024;

const NANOS: u64 = 1_000_000_000;

/// `amount * times / whole` without 128 bits: where the product has more than 64, amount and whole lose their lowest.
pub fn share(mut amount: u64, times: u64, mut whole: u64) -> u64 {
    while amount.checked_mul(times).is_none() {
        (amount, whole) = (amount / 2, whole / 2);
    }
    amount * times / whole.max(1)
}

/// Tokens that come at a steady rate, up to a burst. Starts full.
#[derive(Clone, Debug)]
pub struct Bucket {
    /// Tokens a second; 0 is without limit.
    rate: u64,
    /// The most that idling can save up, at least 1.
    burst: u64,
    /// Tokens there; negative after [`Bucket::take`] took more than there were, never below `-burst`.
    level: i64,
    /// Billionths of a token there beside `level`.
    nanos: u32,
    /// When `level` held.
    since: Instant,
}

/// A burst for a rate of bytes: a quarter of a second, but one batch at least.
pub fn byte_burst(rate: u64) -> u64 {
    (rate / 4).max(BATCH)
}

impl Bucket {
    /// `rate` tokens a second, 0 for no limit; at most `burst` at once.
    pub fn new(rate: u64, burst: u64, now: Instant) -> Bucket {
        let burst = burst.clamp(1, MAX);
        Bucket { rate: rate.min(MAX), burst, level: level(burst), nanos: 0, since: now }
    }

    /// Changes rate and burst; what has been saved up or overdrawn stays.
    #[inline(never)]
    pub fn set_rate(&mut self, rate: u64, burst: u64, now: Instant) {
        self.refill(now);
        self.rate = rate.min(MAX);
        self.burst = burst.clamp(1, MAX);
        self.level = self.level.clamp(-level(self.burst), level(self.burst));
    }

    /// Tokens that may be taken now; `u64::MAX` without a limit.
    pub fn available(&self, now: Instant) -> u64 {
        if self.rate == 0 {
            return u64::MAX;
        }
        u64::try_from(self.refilled(now).level).unwrap_or(0)
    }

    /// Takes `n` tokens. What passed without asking first (control messages do) is owed, up to one burst.
    #[inline(never)]
    pub fn take(&mut self, n: u64, now: Instant) {
        if self.rate == 0 {
            return;
        }
        self.refill(now);
        self.level = self.level.saturating_sub(level(n)).max(-level(self.burst));
    }

    /// The first moment at which `n` tokens (or a full bucket, if `n` is more) will be there, if none are taken.
    /// Not before `now`.
    pub fn ready_at(&self, n: u64, now: Instant) -> Instant {
        if self.rate == 0 {
            return now;
        }
        let then = self.refilled(now);
        let lacking = u64::try_from(level(n.min(then.burst)) - then.level).unwrap_or(0);
        if lacking == 0 {
            return now;
        }
        // At most twice MAX is lacking: the product is below 2⁶⁴. Rounded up, for coming early is coming in vain.
        let wait = Duration::from_nanos((lacking * NANOS - u64::from(then.nanos)).div_ceil(then.rate));
        // `since` is `now` unless the clock went back.
        then.since.max(now).checked_add(wait).unwrap_or(now)
    }

    fn refilled(&self, now: Instant) -> Bucket {
        let mut bucket = self.clone();
        bucket.refill(now);
        bucket
    }

    fn refill(&mut self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.since);
        if elapsed.is_zero() {
            return;
        }
        self.since = now;
        if self.rate == 0 {
            return;
        }
        // Below: MAX × 10⁹ + 10⁹ < 2⁶⁴.
        let part = self.rate * u64::from(elapsed.subsec_nanos()) + u64::from(self.nanos);
        let whole = elapsed.as_secs().saturating_mul(self.rate).saturating_add(part / NANOS);
        let level_now = self.level.saturating_add(level(whole));
        if level_now >= level(self.burst) {
            self.level = level(self.burst);
            self.nanos = 0;
        } else {
            self.level = level_now;
            self.nanos = u32::try_from(part % NANOS).unwrap_or(0);
        }
    }
}

fn level(tokens: u64) -> i64 {
    i64::try_from(tokens).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIB: u64 = 1024;

    #[expect(clippy::disallowed_methods, reason = "the only way to make an instant")]
    fn some_instant() -> Instant {
        Instant::now()
    }

    #[test]
    fn a_share_is_exact_and_of_huge_amounts_nearly_so() {
        assert_eq!((share(7, 1000, 2), share(0, 5, 0), share(5, 0, 9)), (3500, 0, 0));
        assert_eq!((share(u64::MAX / 2, 100, u64::MAX), share(u64::MAX, 100, u64::MAX)), (49, 100));
    }

    #[test]
    fn a_full_bucket_gives_its_burst_and_then_its_rate() {
        let start = some_instant();
        let mut bucket = Bucket::new(100 * KIB, 128 * KIB, start);
        assert_eq!(bucket.available(start), 128 * KIB);
        bucket.take(128 * KIB, start);
        assert_eq!(bucket.available(start), 0);
        assert_eq!(bucket.available(start + Duration::from_secs(1)), 100 * KIB);
        assert_eq!(bucket.available(start + Duration::from_secs(2)), 128 * KIB);
    }

    #[test]
    fn nothing_is_lost_however_often_it_is_asked() {
        // 7 does not divide the nanoseconds: every step leaves a fraction.
        for rate in [1, 7, 999, 16_384, 123_456_789] {
            let start = some_instant();
            let mut bucket = Bucket::new(rate, MAX, start);
            bucket.take(MAX, start);
            let mut now = start;
            for step in 0..100_000_u64 {
                now += Duration::from_nanos(1 + step * 37 % 99_991);
                bucket.take(0, now);
            }
            let elapsed = u64::try_from((now - start).as_nanos()).unwrap();
            assert_eq!(
                u128::from(bucket.available(now)),
                u128::from(rate) * u128::from(elapsed) / 1_000_000_000
            );
        }
    }

    #[test]
    fn the_moment_it_names_is_the_first_at_which_the_tokens_are_there() {
        let start = some_instant();
        for rate in [1, 3, 1000, 16_383, 1 << 20, MAX] {
            for n in [1, 2, 17, 16_384, 131_072] {
                let mut bucket = Bucket::new(rate, 131_072, start);
                bucket.take(131_072 + 5, start);
                let now = start + Duration::from_nanos(333);
                let at = bucket.ready_at(n, now);
                assert!(at >= now);
                assert!(bucket.available(at) >= n, "{rate} {n}");
                assert!(at == now || bucket.available(at - Duration::from_nanos(1)) < n, "{rate} {n}");
            }
        }
    }

    #[test]
    fn more_than_the_burst_is_ready_when_the_bucket_is_full() {
        let start = some_instant();
        let mut bucket = Bucket::new(10, 100, start);
        bucket.take(100, start);
        assert_eq!(bucket.ready_at(1_000_000, start), start + Duration::from_secs(10));
        assert_eq!(bucket.ready_at(u64::MAX, start), start + Duration::from_secs(10));
    }

    #[test]
    fn years_of_idling_and_absurd_rates_do_not_overflow() {
        let start = some_instant();
        for rate in [1, u64::MAX] {
            let mut bucket = Bucket::new(rate, u64::MAX, start);
            bucket.take(u64::MAX, start);
            assert_eq!(bucket.available(start), 0);
            assert!(bucket.ready_at(u64::MAX, start) > start);
            assert_eq!(bucket.available(start + Duration::from_secs(1 << 40)), MAX);
            bucket.take(u64::MAX, start);
            bucket.take(u64::MAX, start);
            assert_eq!(bucket.available(start), 0);
        }
    }

    #[test]
    fn what_passed_unasked_is_owed_but_no_more_than_a_burst() {
        let start = some_instant();
        let mut bucket = Bucket::new(10, 100, start);
        bucket.take(150, start);
        assert_eq!(bucket.ready_at(1, start), start + Duration::from_millis(5100));
        bucket.take(10_000, start);
        assert_eq!(bucket.ready_at(1, start), start + Duration::from_millis(10_100));
    }

    #[test]
    fn without_a_limit_everything_passes_and_a_limit_can_come_later() {
        let start = some_instant();
        let mut bucket = Bucket::new(0, BATCH, start);
        bucket.take(1 << 50, start);
        assert_eq!((bucket.available(start), bucket.ready_at(1 << 40, start)), (u64::MAX, start));
        let later = start + Duration::from_secs(3600);
        bucket.set_rate(1000, 500, later);
        assert_eq!(bucket.available(later), 500);
        bucket.take(500, later);
        bucket.set_rate(0, 500, later);
        assert_eq!(bucket.available(later), u64::MAX);
    }

    #[test]
    fn a_clock_that_goes_back_gives_nothing_twice() {
        let start = some_instant() + Duration::from_secs(100);
        let mut bucket = Bucket::new(10, 100, start);
        bucket.take(100, start);
        assert_eq!(bucket.available(start - Duration::from_secs(50)), 0);
        assert_eq!(bucket.available(start + Duration::from_secs(1)), 10);
    }
}

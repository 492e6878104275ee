//! The time of day, where the clock has one: routers start in 1970, or when their firmware was built, until somebody
//! tells them the time. Holds nothing.

use std::time::{SystemTime, UNIX_EPOCH};

/// A clock before this has plainly not been set: 1 January 2024.
const PLAINLY_UNSET: u64 = 1_704_067_200;

/// Unix seconds, unless the clock has plainly not been set.
pub fn time_of_day(clock: SystemTime) -> Option<u64> {
    clock.duration_since(UNIX_EPOCH).ok().map(|since| since.as_secs()).filter(|&now| now >= PLAINLY_UNSET)
}

/// A day and time of Unix seconds, by the proleptic Gregorian calendar; none beyond the year 9999.
pub fn utc(seconds: i64) -> Option<String> {
    let (mut day, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    if !(0..=2_932_896).contains(&day) {
        return None;
    }
    // Years that begin in March have their odd day at the end.
    day += 719_468;
    let era = day / 146_097;
    let of_era = day % 146_097;
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let date = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year + era * 400 + i64::from(month <= 2);
    let (hours, minutes) = (second / 3600, second / 60 % 60);
    Some(format!("{year:04}-{month:02}-{date:02} {hours:02}:{minutes:02}:{:02} UTC", second % 60))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_clock_that_nobody_has_set_tells_no_time() {
        let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
        assert_eq!([at(0), at(PLAINLY_UNSET - 1)].map(time_of_day), [None, None]);
        assert_eq!(time_of_day(UNIX_EPOCH - Duration::from_secs(1)), None);
        assert_eq!(time_of_day(at(1_800_000_000)), Some(1_800_000_000));
    }

    #[test]
    fn days_are_counted_by_the_calendar() {
        for (seconds, text) in [
            (0, "1970-01-01 00:00:00 UTC"),
            (1_709_164_799, "2024-02-28 23:59:59 UTC"),
            (1_709_251_199, "2024-02-29 23:59:59 UTC"),
            (4_107_542_400, "2100-03-01 00:00:00 UTC"),
            (253_402_300_799, "9999-12-31 23:59:59 UTC"),
        ] {
            assert_eq!(utc(seconds).as_deref(), Some(text));
        }
        assert_eq!((utc(-1), utc(i64::MAX), utc(i64::MIN)), (None, None, None));
    }
}

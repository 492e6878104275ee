//! The time of day, where the clock has one: routers start in 1970, or when their firmware was built, until somebody
//! tells them the time. Holds nothing.

use std::time::{SystemTime, UNIX_EPOCH};

/// A clock before this has plainly not been set: 1 January 2024.
const PLAINLY_UNSET: u64 = 1_704_067_200;

/// Unix seconds, unless the clock has plainly not been set.
pub fn time_of_day(clock: SystemTime) -> Option<u64> {
    clock.duration_since(UNIX_EPOCH).ok().map(|since| since.as_secs()).filter(|&now| now >= PLAINLY_UNSET)
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
}

//! Debounce: a state that usually passes within seconds is not reported at once, which saves a write of the status
//! (T1).

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

/// The time for which a state is not reported.
pub const DEBOUNCE: Duration = Duration::from_secs(2);

/// True if a state that began at `since` is too young to report. A wrong clock makes the report only earlier or later,
/// and nothing else depends on the clock.
pub fn is_passing(since: Option<&Time>, now: Timestamp) -> bool {
    let window = SignedDuration::try_from(DEBOUNCE).unwrap_or_default();
    since.is_some_and(|since| (SignedDuration::ZERO..window).contains(&now.duration_since(since.0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn t1_only_a_state_that_lasts_is_reported() {
        let at = |second: i64| Timestamp::from_second(1_000_000 + second).unwrap();
        for (began, expected) in
            [(Some(-1), true), (Some(0), true), (Some(-2), false), (Some(-86_400), false)]
        {
            assert_eq!(is_passing(began.map(|s| Time(at(s))).as_ref(), at(0)), expected, "{began:?}");
        }
        assert!(!is_passing(Some(&Time(at(1))), at(0)), "the clock is behind");
        assert!(!is_passing(None, at(0)));
    }
}

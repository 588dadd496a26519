//! Flow: whether a request is admitted, or refused for the sake of those that matter more.
//!
//! Only a request that may be refused is: its priority is below 0, and every endpoint that could take it is known to be saturated.

use std::time::Duration;

use crate::endpoint::Reading;
use crate::member::Member;
use crate::time::Instant;

/// An endpoint where so many requests wait is saturated (llm-d-router, `saturationdetector/utilization`: `queueDepthThreshold`).
pub const WAITING_SATURATED: u64 = 5;
/// An endpoint that uses so much of its KV cache is saturated (the same: `kvCacheUtilThreshold`).
pub const KV_SATURATED: f64 = 0.8;
/// An older reading says nothing of saturation: twice the longest time between two readings of an endpoint that answers.
pub const READING_FRESH: Duration = Duration::from_secs(10);

/// Whether a request may go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// It may.
    Admitted,
    /// It may not.
    Refused {
        /// In how many seconds the first endpoint is expected to be saturated no longer, where that is known.
        retry_after_s: Option<u32>,
    },
}

/// Whether a request of `priority` may go to one of `members`. What is not known of an endpoint refuses nothing.
pub fn admission<'m>(
    now: Instant,
    priority: i32,
    members: impl IntoIterator<Item = &'m Member>,
) -> Admission {
    if priority >= 0 {
        return Admission::Admitted;
    }
    let mut known = false;
    let mut relief: Option<f64> = None;
    for member in members {
        let fresh = member
            .reading()
            .filter(|(at, _)| now <= *at + READING_FRESH);
        let Some((_, reading)) = fresh else {
            continue;
        };
        if !is_saturated(reading) {
            return Admission::Admitted;
        }
        known = true;
        let waiting = reading.waiting().unwrap_or(0);
        let seconds = member.drain().per_s().map(|rate| relief_s(waiting, rate));
        relief = [relief, seconds].into_iter().flatten().reduce(f64::min);
    }
    if known {
        let whole = |seconds: f64| seconds.ceil().clamp(1.0, f64::from(u32::MAX)) as u32;
        Admission::Refused {
            retry_after_s: relief.map(whole),
        }
    } else {
        Admission::Admitted
    }
}

/// Whether a reading shows an endpoint that has more than enough to do. A number that it does not show counts as little.
#[must_use]
pub fn is_saturated(reading: &Reading) -> bool {
    reading.waiting().is_some_and(|it| it >= WAITING_SATURATED)
        || reading.kv_usage().is_some_and(|it| it >= KV_SATURATED)
}

/// In how many seconds an endpoint that `waiting` requests wait at, and `per_s` leave in a second, has fewer waiting than saturate it; at
/// least until one has left.
fn relief_s(waiting: u64, per_s: f64) -> f64 {
    let too_many = (waiting + 1).saturating_sub(WAITING_SATURATED).max(1);
    too_many as f64 / per_s
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_relieved_once_those_that_are_too_many_have_left() {
        for (waiting, per_s, expected) in [
            // Nine wait and four may: five have to leave, two a second.
            (9, 2.0, 2.5),
            (5, 2.0, 0.5),
            (104, 10.0, 10.0),
            // Its KV cache is full though nobody waits: one has to leave.
            (0, 0.25, 4.0),
        ] {
            assert_eq!(relief_s(waiting, per_s), expected, "{waiting} at {per_s}/s");
        }
    }
}

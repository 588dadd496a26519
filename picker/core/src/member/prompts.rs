//! How much of an endpoint's time prompts take, whoever sent them: what its engines' counters say of late.

use crate::rates::Interval;
use crate::time::Instant;

/// The weight of the newest interval; each is about a second.
const WEIGHT: f64 = 0.3;
/// What was seen counts for half once so much time has passed without news, in milliseconds.
const HALF_LIFE_MS: f64 = 10_000.0;
/// At most this share: an engine that computes prompts decodes beside them.
const SHARE_MAX: f64 = 0.9;

/// Prompt tokens computed in a millisecond of work, smoothed.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Prompts {
    tokens_per_ms: f64,
    latest: Instant,
}

impl Prompts {
    /// Takes in what an engine did in an interval that ended at `now`.
    pub(super) fn observe(&mut self, now: Instant, interval: &Interval) {
        let seen = interval.prompt_tokens / interval.busy_ms;
        self.tokens_per_ms += WEIGHT * (seen - self.tokens_per_ms);
        self.latest = now;
    }

    /// The share of an engine's time that prompts take, where a token of one takes `token_ms`.
    pub(super) fn share(&self, now: Instant, token_ms: f64) -> f64 {
        let fresh = 0.5_f64.powf(now.ms_since(self.latest) / HALF_LIFE_MS);
        (self.tokens_per_ms * fresh * token_ms).clamp(0.0, SHARE_MAX)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_share_is_that_of_the_latest_seconds_and_fades() {
        let interval = |prompt_tokens| Interval {
            busy_ms: 1_000.0,
            prompt_tokens,
            ..Interval::default()
        };
        let at = |seconds| Instant::ZERO + Duration::from_secs(seconds);
        let mut prompts = Prompts::default();
        let check = |prompts: &Prompts, seconds, expected: f64| {
            let share = prompts.share(at(seconds), 0.05);
            assert!((share - expected).abs() < 0.01, "{share} is not {expected}");
        };
        check(&prompts, 0, 0.0);
        for second in 1..=20 {
            // 10,000 tokens of 0.05 ms: half of each second.
            prompts.observe(at(second), &interval(10_000.0));
        }
        check(&prompts, 20, 0.5);
        check(&prompts, 30, 0.25);
        prompts.observe(at(21), &interval(0.0));
        check(&prompts, 21, 0.35);
        for second in 22..=40 {
            prompts.observe(at(second), &interval(100_000.0));
        }
        check(&prompts, 40, SHARE_MAX);
    }
}

//! How fast requests leave an endpoint, whoever sent them: what its engines' counters say of late.

/// What was seen counts for half once so much busy time has come after it, in seconds.
const HALF_LIFE_S: f64 = 10.0;

/// Requests that ended, over the time in which there were some.
#[derive(Clone, Copy, Debug, Default)]
pub struct Drain {
    ended: f64,
    seconds: f64,
}

impl Drain {
    /// In so many seconds, so many requests ended.
    pub fn observe(&mut self, seconds: f64, ended: f64) {
        let kept = 0.5_f64.powf(seconds / HALF_LIFE_S);
        self.ended = self.ended * kept + ended;
        self.seconds = self.seconds * kept + seconds;
    }

    /// Requests that end in a second; `None` where none was seen to.
    #[must_use]
    pub fn per_s(&self) -> Option<f64> {
        (self.ended > 0.0 && self.seconds > 0.0).then(|| self.ended / self.seconds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(intervals: &[(f64, f64)], expected: Option<f64>) {
        let mut drain = Drain::default();
        for &(seconds, ended) in intervals {
            drain.observe(seconds, ended);
        }
        let found = drain.per_s();
        let near = match (found, expected) {
            (Some(found), Some(expected)) => (found - expected).abs() < 1e-9,
            (found, expected) => found == expected,
        };
        assert!(near, "{intervals:?}: {found:?}");
    }

    #[test]
    fn requests_that_end_in_a_second_are_counted_and_older_ones_weigh_less() {
        check(&[], None);
        check(&[(1.0, 0.0)], None);
        check(&[(2.0, 8.0)], Some(4.0));
        check(&[(2.0, 8.0), (2.0, 8.0)], Some(4.0));
        // Ten seconds at 1/s, then ten at 3/s: (10 / 2 + 30) / (10 / 2 + 10).
        check(&[(10.0, 10.0), (10.0, 30.0)], Some(35.0 / 15.0));
    }
}

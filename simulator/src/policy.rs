//! Policies: how a gateway chooses a server, and the baselines among them.

use picker_core::seed::Random;

/// Who chooses the server of a request.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, clap::ValueEnum, serde::Serialize,
)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum Policy {
    /// The decisions of this project's picker.
    Pointsman,
    /// Any server.
    Random,
    /// One after another.
    RoundRobin,
    /// As Envoy's `LEAST_REQUEST` with its defaults: of two servers drawn at random (perhaps the same one twice), the one
    /// with fewer requests in flight, the first drawn if they are equal. From Envoy's documentation of
    /// `envoy.load_balancing_policies.least_request`, `choice_count` 2, equal weights.
    LeastRequest,
    /// The power of two choices (Mitzenmacher 2001): of two different servers, the one with fewer requests in flight.
    P2c,
}

impl Policy {
    /// Every policy.
    pub const ALL: [Self; 5] = [
        Self::Pointsman,
        Self::Random,
        Self::RoundRobin,
        Self::LeastRequest,
        Self::P2c,
    ];
}

/// A policy that sees only how many requests each server has in flight.
#[derive(Clone, Debug)]
pub struct Baseline {
    rule: Rule,
    random: Random,
}

#[derive(Clone, Debug)]
enum Rule {
    Random,
    /// The server after the last one.
    RoundRobin(usize),
    LeastRequest,
    P2c,
}

impl Baseline {
    /// The baseline `policy`; `None` for [`Policy::Pointsman`], which is none.
    #[must_use]
    pub fn of(policy: Policy, seed: u64) -> Option<Self> {
        let rule = match policy {
            Policy::Pointsman => return None,
            Policy::Random => Rule::Random,
            Policy::RoundRobin => Rule::RoundRobin(0),
            Policy::LeastRequest => Rule::LeastRequest,
            Policy::P2c => Rule::P2c,
        };
        let random = Random::split(seed, "baseline");
        Some(Self { rule, random })
    }

    /// A server, by its place in `active`, the requests in flight by server; `None` if there is none.
    pub fn pick(&mut self, active: &[u64]) -> Option<usize> {
        let count = active.len();
        if count == 0 {
            return None;
        }
        let server = match &mut self.rule {
            Rule::Random => self.random.below(count),
            Rule::RoundRobin(next) => {
                let server = *next % count;
                *next = server + 1;
                server
            }
            Rule::LeastRequest => {
                let first = self.random.below(count);
                fewer(active, first, self.random.below(count))
            }
            Rule::P2c => {
                let first = self.random.below(count);
                let step = 1 + self.random.below(count - 1);
                fewer(active, first, (first + step) % count)
            }
        };
        Some(server)
    }
}

/// The one with fewer requests in flight, the first if they are equal.
fn fewer(active: &[u64], first: usize, second: usize) -> usize {
    if active[second] < active[first] {
        second
    } else {
        first
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picks(policy: Policy, active: &[u64]) -> Vec<u32> {
        let mut baseline = Baseline::of(policy, 1).expect("a baseline");
        let mut picks = vec![0; active.len()];
        for _ in 0..10_000 {
            picks[baseline.pick(active).expect("there are servers")] += 1;
        }
        picks
    }

    fn check(policy: Policy, active: &[u64], expected: &[f64]) {
        for (picks, share) in picks(policy, active).into_iter().zip(expected) {
            let got = f64::from(picks) / 10_000.0;
            assert!((got - share).abs() < 0.02, "{policy:?} {active:?}: {got}");
        }
    }

    #[test]
    fn round_robin_and_random_heed_no_load() {
        assert_eq!(picks(Policy::RoundRobin, &[9, 0, 0, 0]), [2_500; 4]);
        check(Policy::Random, &[9, 0, 0, 0], &[0.25; 4]);
    }

    #[test]
    fn two_draws_miss_the_busiest_server_but_for_the_same_one_drawn_twice() {
        // Both draws hit the busy one: 1/16. The three others share the rest.
        check(
            Policy::LeastRequest,
            &[9, 0, 0, 0],
            &[0.0625, 0.3125, 0.3125, 0.3125],
        );
    }

    #[test]
    fn two_different_choices_never_take_the_busiest_server() {
        check(
            Policy::P2c,
            &[9, 0, 0, 0],
            &[0.0, 1.0 / 3.0, 1.0 / 3.0, 1.0 / 3.0],
        );
        // The least busy is among the two with chance 1/2, the next is then the best of the rest: 2/6, 1/6.
        check(
            Policy::P2c,
            &[0, 1, 2, 3],
            &[0.5, 2.0 / 6.0, 1.0 / 6.0, 0.0],
        );
    }

    #[test]
    fn one_server_is_always_taken_and_none_is_none() {
        for policy in &Policy::ALL[1..] {
            let mut baseline = Baseline::of(*policy, 1).expect("a baseline");
            assert_eq!((baseline.pick(&[7]), baseline.pick(&[])), (Some(0), None));
        }
    }
}

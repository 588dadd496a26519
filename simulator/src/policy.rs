//! Policies: how a gateway chooses a server, and the baselines among them.

pub mod oracle;

use picker_core::seed::Random;

/// Who chooses the server of a request.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    clap::ValueEnum,
    serde::Serialize,
    serde::Deserialize,
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
    /// LMetric (Zhang et al., arXiv 2603.15202), in the form of its port to a gateway (sgl-project/sglang, pull request 29574):
    /// least uncached prompt of the request x (requests in flight + 1). Equal products are told apart by requests in flight,
    /// then by prompt tokens in flight that have given no first token.
    Lmetric,
    /// Greedy least completion, knowing all: the engines' true state, their constants and every answer's length, at once. No
    /// gateway can know that; it is the measure of regret.
    Oracle,
}

impl Policy {
    /// Every policy.
    pub const ALL: [Self; 7] = [
        Self::Pointsman,
        Self::Random,
        Self::RoundRobin,
        Self::LeastRequest,
        Self::P2c,
        Self::Lmetric,
        Self::Oracle,
    ];
}

/// What a gateway knows of one server by itself: what it has sent there and what came back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Requests in flight.
    pub requests: u64,
    /// Prompt tokens in flight that have given no first token, those believed cached left out.
    pub prefill_tokens: u64,
    /// Prompt tokens of the request to be placed that are not believed cached there.
    pub uncached_tokens: u64,
}

/// A policy that sees only what its gateway has sent.
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
    Lmetric,
}

impl Baseline {
    /// The baseline `policy`; `None` for [`Policy::Pointsman`] and [`Policy::Oracle`], which know more.
    #[must_use]
    pub fn of(policy: Policy, seed: u64) -> Option<Self> {
        let rule = match policy {
            Policy::Pointsman | Policy::Oracle => return None,
            Policy::Random => Rule::Random,
            Policy::RoundRobin => Rule::RoundRobin(0),
            Policy::LeastRequest => Rule::LeastRequest,
            Policy::P2c => Rule::P2c,
            Policy::Lmetric => Rule::Lmetric,
        };
        let random = Random::split(seed, "baseline");
        Some(Self { rule, random })
    }

    /// A server, by its place in `loads`; `None` if there is none.
    pub fn pick(&mut self, loads: &[Load]) -> Option<usize> {
        let count = loads.len();
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
                fewer(loads, first, self.random.below(count))
            }
            Rule::P2c => {
                let first = self.random.below(count);
                let step = 1 + self.random.below(count - 1);
                fewer(loads, first, (first + step) % count)
            }
            Rule::Lmetric => {
                let score = |load: &Load| {
                    let product = load.uncached_tokens * (load.requests + 1);
                    (product, load.requests, load.prefill_tokens)
                };
                (0..count).min_by_key(|&server| score(&loads[server]))?
            }
        };
        Some(server)
    }
}

/// The one with fewer requests in flight, the first if they are equal.
fn fewer(loads: &[Load], first: usize, second: usize) -> usize {
    if loads[second].requests < loads[first].requests {
        second
    } else {
        first
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loads(requests: &[u64]) -> Vec<Load> {
        let load = |&requests| Load {
            requests,
            ..Load::default()
        };
        requests.iter().map(load).collect()
    }

    fn picks(policy: Policy, active: &[u64]) -> Vec<u32> {
        let mut baseline = Baseline::of(policy, 1).expect("a baseline");
        let mut picks = vec![0; active.len()];
        for _ in 0..10_000 {
            picks[baseline.pick(&loads(active)).expect("there are servers")] += 1;
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
    fn lmetric_takes_the_least_product_then_the_fewest_requests_then_the_least_prefill() {
        let mut lmetric = Baseline::of(Policy::Lmetric, 1).expect("a baseline");
        // (requests, prefill tokens, uncached tokens of the request): the products stand beside.
        for (loads, expected) in [
            // 1000 x 1, 100 x 5, 500 x 2: a hit outweighs the load.
            ([(0, 0, 1000), (4, 0, 100), (1, 0, 500)], 1),
            // 1000 x 1, 100 x 21, 500 x 3: until the load outweighs the hit.
            ([(0, 0, 1000), (20, 0, 100), (2, 0, 500)], 0),
            // 600 x 2, 400 x 3, 1200 x 1: equal, so the fewest requests.
            ([(1, 0, 600), (2, 0, 400), (0, 0, 1200)], 2),
            // 500 x 2 each: equal in both, so the least prefill in flight.
            ([(1, 900, 500), (1, 300, 500), (1, 700, 500)], 1),
        ] {
            let loads = loads.map(|(requests, prefill_tokens, uncached_tokens)| Load {
                requests,
                prefill_tokens,
                uncached_tokens,
            });
            assert_eq!(lmetric.pick(&loads), Some(expected), "{loads:?}");
        }
    }

    #[test]
    fn one_server_is_always_taken_and_none_is_none() {
        for policy in Policy::ALL {
            let Some(mut baseline) = Baseline::of(policy, 1) else {
                continue;
            };
            let picked = (baseline.pick(&loads(&[7])), baseline.pick(&[]));
            assert_eq!(picked, (Some(0), None));
        }
    }
}

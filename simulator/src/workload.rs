//! Workloads: what clients send and when, by a seed.

use std::time::Duration;

use picker_core::seed::Random;
use rand_distr::{Distribution as _, Exp1, Zipf};
use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::SeedableRng as _;
use serde::Serialize;

/// Bytes of prompt text to a token, for clients and simulated servers alike. There is no tokenizer here; English prose has
/// about four.
pub const BYTES_PER_TOKEN: u32 = 4;

/// Every parameter of what clients send; a report can print it whole.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Workload {
    /// What `--workload` calls it.
    pub name: &'static str,
    /// Kinds of requests, by their shares.
    pub kinds: Vec<Kind>,
    /// Adapters that requests are spread over; 0 sends all to the base model.
    pub adapters: u32,
    /// Adapter k of 1 to `adapters` is asked for in proportion to k to the minus this (Zipf's law); 0 asks for all alike.
    pub zipf_exponent: f64,
}

/// One kind of request.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Kind {
    /// Its weight among the kinds.
    pub share: f64,
    /// Tokens of the prompt.
    pub prompt_tokens: Span,
    /// Tokens of the answer.
    pub output_tokens: Span,
}

/// Whole numbers from `least` to `most`, all as likely.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Span {
    /// The smallest.
    pub least: u32,
    /// The largest.
    pub most: u32,
}

impl Span {
    /// Always `value`.
    #[must_use]
    pub const fn exactly(value: u32) -> Self {
        Self {
            least: value,
            most: value,
        }
    }

    fn draw(self, random: &mut Random) -> u32 {
        let width = self.most.saturating_sub(self.least) as usize + 1;
        self.least + random.below(width) as u32
    }
}

/// One request of a workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// After the start of the load.
    pub at: Duration,
    /// The adapter, from 0; `None` is the base model.
    pub adapter: Option<u32>,
    /// Tokens of the prompt.
    pub prompt_tokens: u32,
    /// Tokens of the answer.
    pub output_tokens: u32,
}

impl Arrival {
    /// Bytes of prompt text that make up its tokens.
    #[must_use]
    pub const fn prompt_bytes(&self) -> u32 {
        self.prompt_tokens * BYTES_PER_TOKEN
    }
}

impl Workload {
    /// Small requests on 12 adapters, a few of them asked for most of the time: three times as many as one demo server has
    /// slots for. An edition for slow modelled cards.
    #[must_use]
    pub fn demo_lora() -> Self {
        Self {
            name: "lora",
            kinds: vec![SMALL],
            adapters: 12,
            zipf_exponent: 1.0,
        }
    }

    /// Nine small requests and one long prompt, which holds up whoever shares its server; no adapters. An edition for slow
    /// modelled cards.
    #[must_use]
    pub fn demo_mixed() -> Self {
        let small = Kind {
            share: 0.9,
            ..SMALL
        };
        let long = Kind {
            share: 0.1,
            prompt_tokens: Span {
                least: 2000,
                most: 4000,
            },
            output_tokens: Span {
                least: 40,
                most: 120,
            },
        };
        Self {
            name: "mixed",
            kinds: vec![small, long],
            adapters: 0,
            zipf_exponent: 0.0,
        }
    }

    /// Requests all alike, over `adapters` adapters by Zipf's law with exponent 1.
    #[must_use]
    pub fn uniform(prompt_tokens: u32, output_tokens: u32, adapters: u32) -> Self {
        let kind = Kind {
            share: 1.0,
            prompt_tokens: Span::exactly(prompt_tokens.max(1)),
            output_tokens: Span::exactly(output_tokens.max(1)),
        };
        Self {
            name: "uniform",
            kinds: vec![kind],
            adapters,
            zipf_exponent: 1.0,
        }
    }

    /// The demo's edition of the workload called `name`.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        [Self::demo_lora(), Self::demo_mixed()]
            .into_iter()
            .find(|workload| workload.name == name)
    }

    /// Requests without end, `rate` a second on average, in an open loop: gaps are exponential (a Poisson process).
    ///
    /// The same seed gives the same requests at any rate, closer together or further apart: times, lengths and adapters each
    /// have a random stream of their own. `rate` is above 0.
    #[must_use]
    pub fn arrivals(&self, rate: f64, seed: u64) -> Arrivals<'_> {
        let stream =
            |purpose| Xoshiro256PlusPlus::seed_from_u64(Random::split(seed, purpose).next_u64());
        Arrivals {
            workload: self,
            rate,
            units: 0.0,
            gaps: stream("gaps"),
            adapters: stream("adapters"),
            lengths: Random::split(seed, "lengths"),
            zipf: Zipf::new(f64::from(self.adapters), self.zipf_exponent).ok(),
        }
    }

    /// Exactly `rate` x `duration` requests, rounded, within `duration`: a Poisson process given its count, so that the rate
    /// that was asked for and the rate that was reached can be compared.
    #[must_use]
    pub fn schedule(&self, rate: f64, duration: Duration, seed: u64) -> Vec<Arrival> {
        let count = (rate * duration.as_secs_f64()).round() as usize;
        let mut arrivals: Vec<_> = self.arrivals(rate, seed).take(count + 1).collect();
        // Given that the last of them comes at `duration`, those before are a Poisson process of `count` within it.
        let stretch = arrivals
            .pop()
            .map_or(1.0, |last| duration.as_secs_f64() / last.at.as_secs_f64());
        for arrival in &mut arrivals {
            arrival.at = arrival.at.mul_f64(stretch);
        }
        arrivals
    }
}

/// Prompts near 200 tokens and answers near 40.
const SMALL: Kind = Kind {
    share: 1.0,
    prompt_tokens: Span {
        least: 100,
        most: 300,
    },
    output_tokens: Span {
        least: 20,
        most: 60,
    },
};

/// The requests of one workload, in order of time; made by [`Workload::arrivals`].
#[derive(Clone, Debug)]
pub struct Arrivals<'a> {
    workload: &'a Workload,
    rate: f64,
    /// Time so far, in mean gaps.
    units: f64,
    gaps: Xoshiro256PlusPlus,
    adapters: Xoshiro256PlusPlus,
    lengths: Random,
    zipf: Option<Zipf<f64>>,
}

impl Iterator for Arrivals<'_> {
    type Item = Arrival;

    fn next(&mut self) -> Option<Arrival> {
        let gap: f64 = Exp1.sample(&mut self.gaps);
        self.units += gap;
        let kind = self.kind();
        Some(Arrival {
            at: Duration::from_secs_f64(self.units / self.rate),
            adapter: self
                .zipf
                .map(|zipf| zipf.sample(&mut self.adapters) as u32 - 1),
            prompt_tokens: kind.prompt_tokens.draw(&mut self.lengths),
            output_tokens: kind.output_tokens.draw(&mut self.lengths),
        })
    }
}

impl Arrivals<'_> {
    fn kind(&mut self) -> Kind {
        let kinds = &self.workload.kinds;
        let total: f64 = kinds.iter().map(|kind| kind.share).sum();
        let mut left = self.lengths.unit() * total;
        let drawn = kinds.iter().find(|kind| {
            left -= kind.share;
            left < 0.0
        });
        drawn.or(kinds.last()).copied().unwrap_or(SMALL)
    }
}

/// Adapter names as `pointsman-sim` makes them up: `adapter-1` to `adapter-count`, the most asked for first.
#[must_use]
pub fn adapter_names(count: u32) -> Vec<String> {
    (1..=count)
        .map(|number| format!("adapter-{number}"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const COUNT: usize = 20_000;

    #[test]
    fn the_same_seed_gives_the_same_requests_and_the_rate_moves_only_their_times() {
        let workload = Workload::demo_lora();
        let slow: Vec<_> = workload.arrivals(1.0, 7).take(100).collect();
        let fast: Vec<_> = workload.arrivals(10.0, 7).take(100).collect();
        assert_eq!(
            slow,
            workload.arrivals(1.0, 7).take(100).collect::<Vec<_>>()
        );
        assert_ne!(
            slow,
            workload.arrivals(1.0, 8).take(100).collect::<Vec<_>>()
        );
        for (slow, fast) in slow.iter().zip(&fast) {
            let ratio = slow.at.as_secs_f64() / fast.at.as_secs_f64();
            assert!((ratio - 10.0).abs() < 1e-3, "{ratio}");
            assert_eq!(
                Arrival {
                    at: slow.at,
                    ..*fast
                },
                *slow
            );
        }
    }

    #[test]
    fn gaps_are_exponential() {
        let at: Vec<_> = Workload::demo_mixed()
            .arrivals(50.0, 1)
            .take(COUNT)
            .map(|arrival| arrival.at)
            .collect();
        let gaps: Vec<_> = at
            .windows(2)
            .map(|pair| (pair[1] - pair[0]).as_secs_f64())
            .collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let variance = gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / gaps.len() as f64;
        assert!((mean * 50.0 - 1.0).abs() < 0.03, "mean {mean}");
        assert!(
            (variance.sqrt() / mean - 1.0).abs() < 0.03,
            "an exponential has CV 1"
        );
    }

    #[test]
    fn adapters_follow_zipfs_law() {
        let mut counts = [0_u32; 12];
        for arrival in Workload::demo_lora().arrivals(1.0, 3).take(COUNT) {
            counts[arrival.adapter.expect("every request has one") as usize] += 1;
        }
        let weights: f64 = (1..=12).map(|rank| 1.0 / f64::from(rank)).sum();
        for (rank, &count) in (1_u32..).zip(&counts) {
            let expected = COUNT as f64 / f64::from(rank) / weights;
            assert!(
                (f64::from(count) / expected - 1.0).abs() < 0.15,
                "{rank}: {count}, {expected}"
            );
        }
    }

    #[test]
    fn one_in_ten_of_mixed_is_long_and_none_has_an_adapter() {
        let arrivals: Vec<_> = Workload::demo_mixed()
            .arrivals(1.0, 5)
            .take(COUNT)
            .collect();
        let long = arrivals
            .iter()
            .filter(|arrival| arrival.prompt_tokens >= 2000)
            .count();
        assert!((long as f64 / COUNT as f64 - 0.1).abs() < 0.01, "{long}");
        assert!(arrivals.iter().all(|arrival| arrival.adapter.is_none()));
        assert!(
            arrivals
                .iter()
                .all(|arrival| (100..=4000).contains(&arrival.prompt_tokens))
        );
    }

    #[test]
    fn a_schedule_has_the_asked_number_of_requests_within_its_time() {
        let duration = Duration::from_secs(10);
        let schedule = Workload::uniform(50, 4, 0).schedule(12.5, duration, 9);
        assert_eq!(schedule.len(), 125);
        assert!(schedule.is_sorted_by_key(|arrival| arrival.at));
        assert!(schedule.iter().all(|arrival| arrival.at < duration));
        assert_eq!(schedule[0].prompt_bytes(), 200);
        assert_eq!(Workload::uniform(50, 4, 0).schedule(0.01, duration, 9), []);
    }
}

//! The workloads of the bench: jobs by a seed, as an open loop.

use std::time::Duration;

use picker_core::seed::Random;
use picker_core::time::Instant;

use crate::engine::AdapterId;
use crate::virtual_time::Job;

/// What clients send.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, clap::ValueEnum, serde::Serialize,
)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum Workload {
    /// Every request is for one of 12 adapters, by Zipf's law with exponent 1.
    Lora,
    /// The same prompts and answers, all for the base model.
    Mixed,
}

/// The adapters of [`Workload::Lora`].
pub const ADAPTERS: u32 = 12;

impl Workload {
    /// Adapters that the servers list.
    #[must_use]
    pub const fn adapters(self) -> u32 {
        match self {
            Self::Lora => ADAPTERS,
            Self::Mixed => 0,
        }
    }

    /// `count` jobs that arrive by chance (Poisson), `rate` a second on average.
    ///
    /// Prompts have 50 to 800 tokens and answers 8 to 64, evenly spread; three of four answers are streamed.
    #[must_use]
    pub fn jobs(self, seed: u64, rate: f64, count: usize) -> Vec<Job> {
        let mut random = Random::split(seed, "workload");
        let mut at = Instant::ZERO;
        let draw = |_| {
            // Inverse transform of the exponential distribution; 1 - unit is never 0.
            at += Duration::from_secs_f64(-(1.0 - random.unit()).ln() / rate);
            let prompt_tokens = 50 + random.below(751) as u32;
            let output_tokens = 8 + random.below(57) as u32;
            let streamed = random.below(4) > 0;
            let adapter = zipf(random.unit(), self.adapters());
            Job {
                at,
                adapter,
                prompt_bytes: u64::from(prompt_tokens) * 4,
                prompt_tokens,
                output_tokens,
                max_tokens: Some(output_tokens),
                streamed,
            }
        };
        (0..count).map(draw).collect()
    }
}

/// The adapter at `unit` of the cumulative weights 1, 1/2, 1/3 and so on; `None` if there are none.
fn zipf(unit: f64, adapters: u32) -> Option<AdapterId> {
    let total: f64 = (1..=adapters).map(|rank| 1.0 / f64::from(rank)).sum();
    let mut left = unit * total;
    for rank in 1..=adapters {
        left -= 1.0 / f64::from(rank);
        if left < 0.0 || rank == adapters {
            return Some(AdapterId(rank - 1));
        }
    }
    None
}

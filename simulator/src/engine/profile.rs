//! The hardware and settings of one modelled server, as named profiles.

use std::time::Duration;

use super::step_time::{StepTime, Work};

/// How fast one server is, and how it is configured. Times are milliseconds.
///
/// A step takes what `calibrated` says, or where that is absent `base_ms + per_prefill_token_ms x prefill tokens + per_seq_ms x decoding
/// sequences`; divided by `speed`, plus `adapter_load_ms` for each adapter that the step is the first to use: the whole batch waits for
/// the copy from host memory. An adapter that is not in host memory keeps only its own requests waiting, for `adapter_disk_ms`.
#[derive(Clone, Debug, PartialEq)]
pub struct Profile {
    /// What `--profile` calls it.
    pub name: &'static str,
    /// vLLM's `--max-num-seqs`: the most requests in one step.
    pub max_num_seqs: usize,
    /// vLLM's `--max-num-batched-tokens`: the most tokens in one step.
    pub token_budget: u32,
    /// vLLM's `--max-model-len`: the most tokens of prompt and output together.
    pub max_model_len: u32,
    /// The step time of measured hardware, instead of the three terms that follow.
    pub calibrated: Option<StepTime>,
    /// The time of a step with nothing in it.
    pub base_ms: f64,
    /// What each prompt token adds to the step that computes it.
    pub per_prefill_token_ms: f64,
    /// What each decoding sequence adds to a step.
    pub per_seq_ms: f64,
    /// vLLM's `--max-loras`: the adapters that fit in GPU memory at once; 0 turns LoRA off.
    pub max_loras: usize,
    /// The time to bring one adapter from host memory into a slot; `speed` does not change it, for a slow card loads as fast as a quick one.
    pub adapter_load_ms: f64,
    /// vLLM's `--max-cpu-loras`: the adapters that fit in host memory at once; fewer than `max_loras` count as that many.
    pub max_cpu_loras: usize,
    /// The time to bring one adapter from disk or network into host memory; 0 when all are there from the start.
    pub adapter_disk_ms: f64,
    /// vLLM's `--enable-prefix-caching`, which is on by default.
    pub prefix_caching: bool,
    /// Tokens in one KV block.
    pub block_size: u32,
    /// KV blocks, the null block that vLLM keeps for itself included.
    pub num_gpu_blocks: u32,
    /// Divides the time of a step: 0.5 is a card half as fast.
    pub speed: f64,
}

/// A profile that no server could run with.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field} is {value}: {remedy}")]
pub struct ProfileError {
    /// The setting.
    pub field: &'static str,
    /// What it was set to.
    pub value: String,
    /// What would do.
    pub remedy: &'static str,
}

impl Profile {
    /// Llama-3.1-8B on one H100-80GB ([`StepTime::LLAMA_8B_H100`]).
    ///
    /// Blocks: 29,205 of 16 tokens (inference-sim, defaults.yaml). Budget: vLLM's default on this card.
    /// The adapter load of 300 ms is a guess between a bare copy (2 to 17 ms) and reported swaps (0.5 s and more).
    #[must_use]
    pub const fn llama_8b_h100() -> Self {
        Self {
            name: "8b-h100",
            max_num_seqs: 128,
            token_budget: 8192,
            max_model_len: 131_072,
            calibrated: Some(StepTime::LLAMA_8B_H100),
            base_ms: 0.0,
            per_prefill_token_ms: 0.0,
            per_seq_ms: 0.0,
            max_loras: 3,
            adapter_load_ms: 300.0,
            max_cpu_loras: 0,
            adapter_disk_ms: 0.0,
            prefix_caching: true,
            block_size: 16,
            num_gpu_blocks: 29_205,
            speed: 1.0,
        }
    }

    /// Llama-3.x-70B on four H100-80GB ([`StepTime::LLAMA_70B_TP4_H100`]).
    ///
    /// Blocks: four cards at 90 % of 80 GB less 141 GB of weights and 2 GB a card for activations leave 139 GB, 420,000 tokens of 327,680
    /// bytes. Derived; inference-sim's number for more than one card is too large by the number of cards.
    #[must_use]
    pub const fn llama_70b_tp4_h100() -> Self {
        Self {
            name: "70b-tp4-h100",
            calibrated: Some(StepTime::LLAMA_70B_TP4_H100),
            num_gpu_blocks: 26_250,
            ..Self::llama_8b_h100()
        }
    }

    /// Llama-3.1-8B on one A100-40GB ([`StepTime::LLAMA_8B_A100_40GB`]): a slow card that exists.
    ///
    /// Blocks: 90 % of 40 GB less 16 GB of weights and 2 GB for activations leave 17.9 GB, 136,000 tokens of 131,072 bytes. Derived.
    /// Budget: vLLM's default on cards of this size.
    #[must_use]
    pub const fn llama_8b_a100_40gb() -> Self {
        Self {
            name: "8b-a100-40gb",
            token_budget: 2048,
            calibrated: Some(StepTime::LLAMA_8B_A100_40GB),
            num_gpu_blocks: 8_500,
            ..Self::llama_8b_h100()
        }
    }

    /// An invented slow card: steps so long that eight servers with a few dozen streams leave two cores idle, and
    /// what is measured is the routing and not the machine.
    #[must_use]
    pub const fn demo() -> Self {
        Self {
            name: "demo",
            max_num_seqs: 8,
            token_budget: 2048,
            max_model_len: 16_384,
            calibrated: None,
            base_ms: 40.0,
            per_prefill_token_ms: 0.1,
            per_seq_ms: 0.5,
            max_loras: 4,
            adapter_load_ms: 200.0,
            max_cpu_loras: 0,
            adapter_disk_ms: 0.0,
            prefix_caching: true,
            block_size: 16,
            num_gpu_blocks: 4097,
            speed: 1.0,
        }
    }

    /// Every named profile.
    #[must_use]
    pub const fn all() -> [Self; 4] {
        [
            Self::demo(),
            Self::llama_8b_h100(),
            Self::llama_70b_tp4_h100(),
            Self::llama_8b_a100_40gb(),
        ]
    }

    /// The same, with load times for adapters of `bytes` by tier: 10 ms and 20 GB/s from host memory, 50 ms and 2 GB/s from disk to host
    /// memory. Our guesses: what is published is from 20 ms a layer to 2 s, and minutes from cold storage. A rank-16 adapter of
    /// all linear layers of an 8B model has 84 MB.
    #[must_use]
    pub fn with_adapter_tiers(self, bytes: f64, max_cpu_loras: usize) -> Self {
        Self {
            adapter_load_ms: 10.0 + bytes / 20e6,
            adapter_disk_ms: 50.0 + bytes / 2e6,
            max_cpu_loras,
            ..self
        }
    }

    /// The profile called `name`.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::all().into_iter().find(|profile| profile.name == name)
    }

    /// Checks that a server with this profile can finish every request that it accepts.
    ///
    /// # Errors
    /// Names the first setting that does not fit.
    pub fn validate(&self) -> Result<(), ProfileError> {
        let error = |field, value: String, remedy| {
            Err(ProfileError {
                field,
                value,
                remedy,
            })
        };
        if self.max_num_seqs == 0 {
            return error("max_num_seqs", "0".into(), "give at least 1");
        }
        if self.token_budget == 0 {
            return error("token_budget", "0".into(), "give at least 1");
        }
        if self.block_size == 0 {
            return error("block_size", "0".into(), "give at least 1");
        }
        for (field, value, least) in [
            (
                "base_ms",
                self.base_ms,
                if self.calibrated.is_some() {
                    0.0
                } else {
                    0.001
                },
            ),
            ("per_prefill_token_ms", self.per_prefill_token_ms, 0.0),
            ("per_seq_ms", self.per_seq_ms, 0.0),
            ("adapter_load_ms", self.adapter_load_ms, 0.0),
            ("adapter_disk_ms", self.adapter_disk_ms, 0.0),
            ("speed", self.speed, 0.001),
        ] {
            if !value.is_finite() || value < least {
                return error(
                    field,
                    value.to_string(),
                    "give a finite number that is not negative, and above 0 for base_ms and speed",
                );
            }
        }
        if u64::from(self.max_model_len) > self.kv_capacity_tokens() {
            return error(
                "max_model_len",
                self.max_model_len.to_string(),
                "the KV blocks cannot hold one request of that length: lower it or give more blocks",
            );
        }
        Ok(())
    }

    /// KV blocks that requests may hold: all but vLLM's null block.
    #[must_use]
    pub const fn usable_blocks(&self) -> u32 {
        self.num_gpu_blocks.saturating_sub(1)
    }

    /// Tokens that the usable blocks hold.
    #[must_use]
    pub const fn kv_capacity_tokens(&self) -> u64 {
        self.usable_blocks() as u64 * self.block_size as u64
    }

    /// The time of a step over `work` that loads `adapter_loads` adapters.
    #[must_use]
    pub fn step_time(&self, work: &Work, adapter_loads: u32) -> Duration {
        let compute_ms = match &self.calibrated {
            Some(step_time) => step_time.ms(work),
            None => {
                self.base_ms
                    + self.per_prefill_token_ms * f64::from(work.prefill_tokens)
                    + self.per_seq_ms * f64::from(work.decode_sequences)
            }
        };
        let ms = compute_ms / self.speed + self.adapter_load_ms * f64::from(adapter_loads);
        Duration::from_nanos((ms * 1e6).round() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_named_profile_is_valid_and_found_by_its_name() {
        for profile in Profile::all() {
            assert_eq!(profile.validate(), Ok(()));
            assert_eq!(Profile::named(profile.name), Some(profile));
        }
        assert_eq!(Profile::named("a100"), None);
    }

    #[test]
    fn speed_scales_the_compute_of_a_step_and_not_the_adapter_load() {
        let mut work = Work::default();
        work.add_prefill(0, 100);
        (0..4).for_each(|_| work.add_decode(50));
        let half = |profile: Profile| {
            let profile = Profile {
                speed: 0.5,
                ..profile
            };
            profile.step_time(&work, 1)
        };
        assert_eq!(
            half(Profile::demo()),
            Duration::from_millis((40 + 10 + 2) * 2 + 200)
        );
        let measured_ms = StepTime::LLAMA_8B_H100.ms(&work) * 2.0 + 300.0;
        let expected = Duration::from_nanos((measured_ms * 1e6).round() as u64);
        assert_eq!(half(Profile::llama_8b_h100()), expected);
    }

    #[test]
    fn adapter_tiers_take_their_time_by_size() {
        let profile = Profile::demo().with_adapter_tiers(84e6, 8);
        let times = (profile.adapter_load_ms, profile.adapter_disk_ms);
        assert_eq!((times, profile.max_cpu_loras), ((14.2, 92.0), 8));
    }

    #[test]
    fn a_context_longer_than_the_cache_is_refused_by_name() {
        let mut profile = Profile::demo();
        profile.num_gpu_blocks = 10;
        let error = profile
            .validate()
            .expect_err("144 tokens cannot hold 16,384");
        assert_eq!(error.field, "max_model_len");
        assert!(
            error.to_string().starts_with("max_model_len is 16384: "),
            "{error}"
        );
    }
}

//! The hardware and settings of one modelled server, as named profiles.

use std::time::Duration;

/// How fast one server is, and how it is configured. Times are milliseconds.
///
/// A step takes `base_ms + per_prefill_token_ms x prefill tokens + per_seq_ms x decoding sequences`, divided by `speed`,
/// plus `adapter_load_ms` for each adapter that the step is the first to use: the whole batch waits for a load.
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
    /// The time of a step with nothing in it.
    pub base_ms: f64,
    /// What each prompt token adds to the step that computes it.
    pub per_prefill_token_ms: f64,
    /// What each decoding sequence adds to a step.
    pub per_seq_ms: f64,
    /// vLLM's `--max-loras`: the adapters that fit in GPU memory at once; 0 turns LoRA off.
    pub max_loras: usize,
    /// The time to bring one adapter into a slot; `speed` does not change it, for a slow card loads as fast as a quick one.
    pub adapter_load_ms: f64,
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
    /// Llama-3.1-8B on one H100-80GB.
    ///
    /// Step time: linear fit to vLLM 0.11.0 measured by inference-perf (kubernetes-sigs/inference-perf, demos/kubecon-na-2025):
    /// 7.0 ms + 0.021 ms a prefill token + 0.031 ms a decoding sequence, prompts near 200 tokens, so long prompts are
    /// extrapolated. Blocks: 29,205 of 16 tokens (inference-sim, defaults.yaml). Budget: vLLM's default on this card.
    /// The adapter load of 300 ms is a guess between a bare copy (2 to 17 ms) and reported swaps (0.5 s and more).
    #[must_use]
    pub const fn llama_8b_h100() -> Self {
        Self {
            name: "8b-h100",
            max_num_seqs: 128,
            token_budget: 8192,
            max_model_len: 131_072,
            base_ms: 7.0,
            per_prefill_token_ms: 0.021,
            per_seq_ms: 0.031,
            max_loras: 3,
            adapter_load_ms: 300.0,
            block_size: 16,
            num_gpu_blocks: 29_205,
            speed: 1.0,
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
            base_ms: 40.0,
            per_prefill_token_ms: 0.1,
            per_seq_ms: 0.5,
            max_loras: 4,
            adapter_load_ms: 200.0,
            block_size: 16,
            num_gpu_blocks: 4097,
            speed: 1.0,
        }
    }

    /// Every named profile.
    #[must_use]
    pub const fn all() -> [Self; 2] {
        [Self::demo(), Self::llama_8b_h100()]
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
            ("base_ms", self.base_ms, 0.001),
            ("per_prefill_token_ms", self.per_prefill_token_ms, 0.0),
            ("per_seq_ms", self.per_seq_ms, 0.0),
            ("adapter_load_ms", self.adapter_load_ms, 0.0),
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

    /// The time of a step over `prefill_tokens` prompt tokens and `decode_seqs` decoding sequences that loads `adapter_loads` adapters.
    #[must_use]
    pub fn step_time(&self, prefill_tokens: u32, decode_seqs: u32, adapter_loads: u32) -> Duration {
        let compute_ms = self.base_ms
            + self.per_prefill_token_ms * f64::from(prefill_tokens)
            + self.per_seq_ms * f64::from(decode_seqs);
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
    fn the_h100_profile_meets_the_measured_decode_step() {
        // Measured with prefix caching on: 7.14 ms at a mean batch of 0.5, 11.29 ms at 119 (12 uncached tokens a request, 2.6 a step).
        let profile = Profile::llama_8b_h100();
        let idle_ms = profile.step_time(0, 1, 0).as_secs_f64() * 1e3;
        let busy_ms = profile.step_time(23, 119, 0).as_secs_f64() * 1e3;
        assert!((idle_ms / 7.14 - 1.0).abs() < 0.05, "{idle_ms}");
        assert!((busy_ms / 11.29 - 1.0).abs() < 0.05, "{busy_ms}");
    }

    #[test]
    fn speed_scales_the_compute_of_a_step_and_not_the_adapter_load() {
        let mut profile = Profile::demo();
        profile.speed = 0.5;
        assert_eq!(
            profile.step_time(100, 4, 1),
            Duration::from_millis((40 + 10 + 2) * 2 + 200)
        );
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

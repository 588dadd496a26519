//! The time of one engine step, from what the step computes and the hardware that it runs on.
//!
//! ```text
//! memory  = (weights + KV of the contexts) / bandwidth
//! compute = (2 x parameters x tokens + attention of the prefills) / FLOP/s
//! step    = fixed + sqrt(memory^2 + compute^2) + per sequence x sequences
//! ```
//!
//! A roofline whose corner is rounded, for kernels overlap reads and arithmetic imperfectly, plus what the scheduler, the launch of
//! the kernels and the sampler add. The root of the sum of squares, and not another norm, because it fits as well as a free
//! exponent does, and because a square root is rounded alike on every machine, which `powf` is not: same seed, same trace.
//! A step costs a dozen multiplications and one square root, so there is no table and no case for decode-only steps.
//!
//! `docs/benchmarks/engine.md` has the measurements, the errors and what the data leaves open.

mod hardware;

use std::time::Duration;

pub use hardware::{Card, Model, Overheads};

/// What one step computes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// Sequences that compute one token each.
    pub decode_sequences: u32,
    /// Sequences that compute a part of their prompt.
    pub prefill_sequences: u32,
    /// Prompt tokens that the step computes; tokens found in the prefix cache are not among them.
    pub prefill_tokens: u32,
    /// Tokens whose keys and values the step reads or writes, over all sequences.
    pub context_tokens: u64,
    /// Pairs of a prefill token and a token that it attends to.
    pub prefill_pairs: u64,
}

impl Work {
    /// Adds a sequence that computes one token, the last of `context_tokens`.
    pub const fn add_decode(&mut self, context_tokens: u32) {
        self.decode_sequences += 1;
        self.context_tokens += context_tokens as u64;
    }

    /// Adds `tokens` prompt tokens of a sequence that has `computed` already, computed or found in the prefix cache.
    pub const fn add_prefill(&mut self, computed: u32, tokens: u32) {
        let (computed, new) = (computed as u64, tokens as u64);
        self.prefill_sequences += 1;
        self.prefill_tokens += tokens;
        self.context_tokens += computed + new;
        self.prefill_pairs += new * computed + new * (new + 1) / 2;
    }

    /// Whether there is nothing to compute, so that no step runs.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.decode_sequences == 0 && self.prefill_sequences == 0
    }
}

/// A function from [`Work`] to time, with all that does not change from step to step computed beforehand.
///
/// The named ones, with their errors:
///
/// | constant | provenance | error |
/// |---|---|---|
/// | [`StepTime::LLAMA_8B_H100`] | fitted to measurements | 1.0 % RMS, 2.3 % at most over the 28 rows; extrapolated beyond them |
/// | [`StepTime::LLAMA_70B_TP4_H100`] | derived | -16 to +13 % against another simulator's fit; no measurement of its own |
/// | [`StepTime::LLAMA_8B_A100_40GB`] | derived | decode of one sequence 2 % above a measurement; prefill unverified |
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepTime {
    fixed_ms: f64,
    weights_ms: f64,
    context_token_ms: f64,
    token_ms: f64,
    prefill_pair_ms: f64,
    sequence_ms: f64,
}

impl StepTime {
    /// Llama-3.1-8B on one H100-80GB SXM under vLLM 0.11.0.
    ///
    /// Fitted to the rows of `simulator/data/calib_h100_llama31_8b.csv` that are not held out. RMS error 1.0 %; held-out rows
    /// at most 2.3 %. Measured: up to 186 sequences, prompts near 204 tokens, contexts under 270 tokens. Longer
    /// prompts are extrapolated, and may take up to 20 % longer ([`Overheads::VLLM_0_11`]).
    pub const LLAMA_8B_H100: Self =
        Self::new(Card::H100_SXM, 1, Model::LLAMA_3_1_8B, Overheads::VLLM_0_11);

    /// Llama-3.x-70B on four H100-80GB SXM, tensor-parallel. Derived, not measured.
    ///
    /// Overheads of [`StepTime::LLAMA_8B_H100`], but `mfu` 0.46: with it the time of a prefill token meets the 76.4 us that
    /// inference-sim fitted (`defaults.yaml`: 12.6 ms + 76.4 us a prefill token + 66.8 us a decode token), so the all-reduce of
    /// prefills is in it; that of decodes (two a layer) is not, for the same fit leaves no room for it. Against that fit
    /// the error is between -16 and +13 %. Older engines are slower: see `docs/benchmarks/engine.md`.
    pub const LLAMA_70B_TP4_H100: Self = Self::new(
        Card::H100_SXM,
        4,
        Model::LLAMA_3_70B,
        Overheads {
            mfu: 0.46,
            ..Overheads::VLLM_0_11
        },
    );

    /// Llama-3.1-8B on one A100-40GB: a slow card. Derived, not measured.
    ///
    /// Overheads of [`StepTime::LLAMA_8B_H100`]. One request at a time decodes at 75 tokens/s on vLLM 0.23.0 (BF16, 1,024 tokens
    /// in, 128 out; johnmusgrave.com/p/vllm-throughput-latency-sweep-on), 13.3 ms a step: this gives 13.6. The time of a prefill token
    /// (80 us) is checked by nothing: inference-sim's 47.8 us for the A100-80GB is below the 51.5 us that the card needs at its peak.
    pub const LLAMA_8B_A100_40GB: Self = Self::new(
        Card::A100_40GB,
        1,
        Model::LLAMA_3_1_8B,
        Overheads::VLLM_0_11,
    );

    /// `model` on `cards` equal cards, each of which holds and reads its share (tensor parallelism).
    #[must_use]
    pub const fn new(card: Card, cards: u32, model: Model, overheads: Overheads) -> Self {
        let cards = cards as f64;
        let bytes_per_ms = cards * card.bytes_per_s * overheads.bandwidth_efficiency / 1e3;
        let flop_per_ms = cards * card.flop_per_s * overheads.mfu / 1e3;
        Self {
            fixed_ms: overheads.fixed_ms,
            weights_ms: model.weight_bytes / bytes_per_ms,
            context_token_ms: model.kv_bytes_per_token / bytes_per_ms,
            // A weight takes a multiplication and an addition for each token.
            token_ms: 2.0 * model.parameters / flop_per_ms,
            prefill_pair_ms: model.attention_flop_per_pair / flop_per_ms,
            sequence_ms: overheads.sequence_ms,
        }
    }

    /// `fixed_ms + token_ms x tokens + sequence_ms x sequences`, for a server of which no more is known or wanted.
    ///
    /// Prefill and decode tokens count alike; a sequence that decodes costs `token_ms + sequence_ms`.
    #[must_use]
    pub const fn linear(fixed_ms: f64, token_ms: f64, sequence_ms: f64) -> Self {
        Self {
            fixed_ms,
            weights_ms: 0.0,
            context_token_ms: 0.0,
            token_ms,
            prefill_pair_ms: 0.0,
            sequence_ms,
        }
    }

    /// The same, `speed` times as fast: 0.5 doubles the time of every step. `speed` is above 0.
    #[must_use]
    pub const fn with_speed(self, speed: f64) -> Self {
        Self {
            fixed_ms: self.fixed_ms / speed,
            weights_ms: self.weights_ms / speed,
            context_token_ms: self.context_token_ms / speed,
            token_ms: self.token_ms / speed,
            prefill_pair_ms: self.prefill_pair_ms / speed,
            sequence_ms: self.sequence_ms / speed,
        }
    }

    /// The time of a step over `work`, in milliseconds. More work never takes less time.
    #[must_use]
    pub fn ms(&self, work: &Work) -> f64 {
        let tokens = f64::from(work.prefill_tokens) + f64::from(work.decode_sequences);
        let sequences = f64::from(work.prefill_sequences) + f64::from(work.decode_sequences);
        let memory_ms = self.weights_ms + self.context_token_ms * work.context_tokens as f64;
        let compute_ms = self.token_ms * tokens + self.prefill_pair_ms * work.prefill_pairs as f64;
        let roofline_ms = (memory_ms * memory_ms + compute_ms * compute_ms).sqrt();
        self.fixed_ms + roofline_ms + self.sequence_ms * sequences
    }

    /// [`StepTime::ms`], rounded to the nanosecond.
    #[must_use]
    pub fn duration(&self, work: &Work) -> Duration {
        Duration::from_nanos((self.ms(work) * 1e6).round() as u64)
    }
}

#[cfg(test)]
mod tests;

//! Cards, models and overheads as constants, each with its source.

/// An accelerator, at the peak of its data sheet.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Card {
    /// Memory bandwidth.
    pub bytes_per_s: f64,
    /// Dense BF16 arithmetic, without sparsity.
    pub flop_per_s: f64,
}

impl Card {
    /// NVIDIA H100-80GB SXM (data sheet: 3.35 TB/s, 989 TFLOP/s).
    pub const H100_SXM: Self = Self {
        bytes_per_s: 3.35e12,
        flop_per_s: 989e12,
    };

    /// NVIDIA A100-40GB (data sheet: 1,555 GB/s, 312 TFLOP/s).
    pub const A100_40GB: Self = Self {
        bytes_per_s: 1.555e12,
        flop_per_s: 312e12,
    };
}

/// A dense transformer with weights and KV cache in 16 bits.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Model {
    /// Weights.
    pub parameters: f64,
    /// Bytes of all weights, which every step reads once.
    pub weight_bytes: f64,
    /// Keys and values of one token: 2 x layers x KV heads x head size x 2 bytes.
    pub kv_bytes_per_token: f64,
    /// Arithmetic of one token that attends to one token: 4 x layers x heads x head size (two products, each a multiplication and an addition).
    pub attention_flop_per_pair: f64,
}

impl Model {
    /// Llama-3.1-8B: 8.03e9 parameters, 32 layers, 32 heads and 8 KV heads of 128 (`config.json`).
    pub const LLAMA_3_1_8B: Self = Self {
        parameters: 8.03e9,
        weight_bytes: 16.06e9,
        kv_bytes_per_token: 131_072.0,
        attention_flop_per_pair: 524_288.0,
    };

    /// Llama-3.1-70B and 3.3-70B: 70.55e9 parameters, 80 layers, 64 heads and 8 KV heads of 128 (`config.json`).
    pub const LLAMA_3_70B: Self = Self {
        parameters: 70.55e9,
        weight_bytes: 141.1e9,
        kv_bytes_per_token: 327_680.0,
        attention_flop_per_pair: 2_621_440.0,
    };
}

/// What an engine makes of the hardware.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Overheads {
    /// The share of the bandwidth that is reached.
    pub bandwidth_efficiency: f64,
    /// Model FLOP utilisation: the share of the arithmetic peak that is reached.
    pub mfu: f64,
    /// Milliseconds of a step that depend on nothing: scheduling, kernel launches, sampling.
    pub fixed_ms: f64,
    /// Milliseconds that each sequence adds: its share of scheduling, sampling, detokenization.
    pub sequence_ms: f64,
}

impl Overheads {
    /// vLLM 0.11.0 on one H100, fitted to `simulator/data/calib_h100_llama31_8b.csv`.
    ///
    /// `bandwidth_efficiency` is assumed and the other three are fitted: near an idle server only the sum of `fixed_ms` and the reading
    /// of the weights shows, so that 0.80 or 1.00 fit as well with another `fixed_ms`. `mfu` and `sequence_ms` hang together too, through
    /// the prompt tokens that the prefix cache is assumed to leave over: the data allows an `mfu` from 0.58 to 0.66, and another engine's
    /// 53 % (llm-d, Qwen3-32B on two H100) suggests the lower end for long prompts.
    pub const VLLM_0_11: Self = Self {
        bandwidth_efficiency: 0.87,
        mfu: 0.643,
        fixed_ms: 1.613,
        sequence_ms: 0.0167,
    };
}

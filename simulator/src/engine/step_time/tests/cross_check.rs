//! Step times that others published, beside what the named step times give for the same work.

use super::{Card, Model, Overheads, StepTime, Work};

/// One published number.
pub(super) struct CrossCheck {
    /// The server.
    pub(super) server: &'static str,
    /// What the step computes.
    pub(super) work: &'static str,
    /// Who says so.
    pub(super) source: &'static str,
    pub(super) published_ms: f64,
    pub(super) model_ms: f64,
}

impl CrossCheck {
    /// The model's / the published - 1.
    pub(super) fn error(&self) -> f64 {
        self.model_ms / self.published_ms - 1.0
    }
}

/// 70B TP4 against inference-sim's fit for it (`defaults.yaml`): 12.6 ms + 76.4 us a prefill token + 66.8 us a decode token.
pub(super) fn llama_70b() -> Vec<CrossCheck> {
    let rows = [
        ("1 decode", decodes(1, 1024)),
        ("32 decodes", decodes(32, 1024)),
        ("128 decodes", decodes(128, 1024)),
        ("256 decodes", decodes(256, 1024)),
        ("prefill of 512", prefill(512)),
        ("prefill of 2,048", prefill(2048)),
        ("prefill of 8,192", prefill(8192)),
    ];
    let published = |work: &Work| {
        12.6 + 0.0764 * f64::from(work.prefill_tokens) + 0.0668 * f64::from(work.decode_sequences)
    };
    rows.into_iter()
        .map(|(text, work)| CrossCheck {
            server: "70B TP4 on H100",
            work: text,
            source: "inference-sim's fit",
            published_ms: published(&work),
            model_ms: StepTime::LLAMA_70B_TP4_H100.ms(&work),
        })
        .collect()
}

/// 8B on an A100-40GB: 75 tokens/s with one request of 1,024 tokens in and 128 out.
pub(super) fn llama_8b_a100() -> CrossCheck {
    CrossCheck {
        server: "8B on A100-40GB",
        work: "1 decode",
        source: "johnmusgrave.com, vLLM 0.23.0",
        published_ms: 1e3 / 75.0,
        model_ms: StepTime::LLAMA_8B_A100_40GB.ms(&decodes(1, 1024 + 64)),
    }
}

/// Engines and cards that the constants are not meant for: how far such a number may be off.
pub(super) fn strangers() -> Vec<CrossCheck> {
    // NVIDIA H200 SXM (data sheet: 4.8 TB/s, 989 TFLOP/s).
    let h200 = Card {
        bytes_per_s: 4.8e12,
        flop_per_s: 989e12,
    };
    let overheads = Overheads::VLLM_0_11;
    let batch_of_8 = decodes(8, 32 + 64);
    let on_h200 = |server, latency_ms: f64, cards, model| CrossCheck {
        server,
        work: "8 decodes",
        source: "vLLM's CI, build 9515: mean latency / 128 tokens",
        published_ms: latency_ms / 128.0,
        model_ms: StepTime::new(h200, cards, model, overheads).ms(&batch_of_8),
    };
    vec![
        on_h200("8B on H200", 833.421, 1, Model::LLAMA_3_1_8B),
        on_h200("70B TP4 on H200", 2077.53, 4, Model::LLAMA_3_70B),
        CrossCheck {
            server: "8B on H100",
            work: "1 decode",
            source: "inference-sim's fit to vLLM 0.8.4",
            published_ms: 5.753 + 0.006 + 3.36,
            model_ms: StepTime::LLAMA_8B_H100.ms(&decodes(1, 1024)),
        },
        CrossCheck {
            server: "8B on H100",
            work: "prefill of 2,048",
            source: "inference-sim's fit to vLLM 0.8.4",
            published_ms: 5.753 + 0.01725 * 2048.0,
            model_ms: StepTime::LLAMA_8B_H100.ms(&prefill(2048)),
        },
    ]
}

/// `sequences` that decode at `context_tokens` each.
pub(super) fn decodes(sequences: u32, context_tokens: u32) -> Work {
    let mut work = Work::default();
    for _ in 0..sequences {
        work.add_decode(context_tokens);
    }
    work
}

/// One prompt of `tokens`, computed whole.
pub(super) fn prefill(tokens: u32) -> Work {
    let mut work = Work::default();
    work.add_prefill(0, tokens);
    work
}

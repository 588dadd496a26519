//! The measured step times, and what the model gives for the mix of steps that each is the mean of.

use super::{StepTime, Work};

const CSV: &str = include_str!("../../../../data/calib_h100_llama31_8b.csv");

/// Output tokens of every request.
const OUTPUT_TOKENS: u32 = 64;

/// Prompt tokens that a hit leaves over: prompts repeat whole, and 12 of their blocks of 16 tokens are full.
pub(super) const UNCACHED_TOKENS: f64 = 12.0;

/// The mean of one run at one rate.
#[derive(Clone, Debug)]
pub(super) struct Row {
    pub(super) configuration: String,
    pub(super) stage: u32,
    pub(super) max_num_seqs: f64,
    pub(super) prefix_cache: bool,
    pub(super) completed_per_s: f64,
    pub(super) prompt_tokens: f64,
    pub(super) step_ms: f64,
    pub(super) decode_batch: f64,
    /// Every third row: the fit does not see it.
    pub(super) held_out: bool,
}

/// The 28 rows of vLLM 0.11.0, in the order of the file.
pub(super) fn rows() -> Vec<Row> {
    let mut lines = CSV.lines().filter(|line| !line.starts_with('#'));
    let header: Vec<&str> = lines.next().expect("a header").split(',').collect();
    let mut rows = Vec::new();
    for line in lines {
        let values: Vec<&str> = line.split(',').collect();
        let text = |name: &str| {
            let place = header.iter().position(|column| *column == name);
            values[place.expect("a column of this name")]
        };
        let number = |name: &str| text(name).parse::<f64>().expect("a number");
        if text("vllm_version") != "0.11.0" {
            continue;
        }
        assert_eq!(number("output_tokens"), f64::from(OUTPUT_TOKENS));
        rows.push(Row {
            configuration: text("config").to_owned(),
            stage: text("stage").parse().expect("a number"),
            max_num_seqs: number("max_num_seqs"),
            prefix_cache: text("prefix_cache") == "1",
            completed_per_s: number("completed_rps"),
            prompt_tokens: number("prompt_tokens_mean"),
            step_ms: number("step_ms"),
            decode_batch: number("mean_decode_batch"),
            held_out: rows.len() % 3 == 2,
        });
    }
    rows
}

impl Row {
    /// Prefills in a step, on average: each completed request was one.
    pub(super) fn prefills(&self) -> f64 {
        self.completed_per_s * self.step_ms / 1e3
    }

    /// Sequences that decode in a step as one of them sees it: itself and the mean of the others, who arrive independently,
    /// but no more than `max_num_seqs` leaves beside the prefills.
    pub(super) fn decodes(&self) -> f64 {
        (self.decode_batch + 1.0).min(self.max_num_seqs - self.prefills())
    }

    /// What `step_time` gives for this row: the mean over 0, 1, 2, ... prefills in a step, Poisson-distributed.
    pub(super) fn model_ms(&self, step_time: &StepTime, uncached_tokens: f64) -> f64 {
        let mean = self.prefills();
        let (mut total_ms, mut weights, mut weight) = (0.0, 0.0, (-mean).exp());
        for prefills in 0..30 {
            total_ms += weight * self.step_ms_with(step_time, prefills, uncached_tokens);
            weights += weight;
            weight *= mean / f64::from(prefills + 1);
        }
        total_ms / weights
    }

    /// [`Row::model_ms`] with the named step time of the measured server.
    pub(super) fn h100_ms(&self) -> f64 {
        self.model_ms(&StepTime::LLAMA_8B_H100, UNCACHED_TOKENS)
    }

    /// [`Row::model_ms`] / measured - 1.
    pub(super) fn error(&self, step_time: &StepTime) -> f64 {
        self.model_ms(step_time, UNCACHED_TOKENS) / self.step_ms - 1.0
    }

    /// A step with `prefills` whole prompts beside the mean number of decodes, whose answers are half done on average.
    fn step_ms_with(&self, step_time: &StepTime, prefills: u32, uncached_tokens: f64) -> f64 {
        let prompt = self.prompt_tokens.round() as u32;
        let uncached = if self.prefix_cache {
            uncached_tokens
        } else {
            self.prompt_tokens
        };
        let uncached = uncached.round() as u32;
        let step = |decodes: u32| {
            let mut work = Work {
                decode_sequences: decodes,
                context_tokens: u64::from(decodes) * u64::from(prompt + OUTPUT_TOKENS / 2),
                ..Work::default()
            };
            for _ in 0..prefills {
                work.add_prefill(prompt - uncached, uncached);
            }
            step_time.ms(&work)
        };
        // The mean number of decodes is no integer: the step time between two integers is as good as straight.
        let decodes = self.decodes();
        let below = decodes.floor();
        step(below as u32) + (decodes - below) * (step(below as u32 + 1) - step(below as u32))
    }
}

/// The root of the mean square.
pub(super) fn rms(errors: &[f64]) -> f64 {
    (errors.iter().map(|error| error * error).sum::<f64>() / errors.len() as f64).sqrt()
}

/// The largest, whatever its sign.
pub(super) fn worst(errors: &[f64]) -> f64 {
    errors
        .iter()
        .fold(0.0, |worst, error| worst.max(error.abs()))
}

//! What one run of load found; as JSON it is what scripts read.

use std::collections::BTreeMap;

use serde::Serialize;

use super::process::Cost;
use crate::workload::Workload;

/// The generator's own lag above which its latencies are doubtful, in milliseconds at p99.
pub const DOUBTFUL_LAG_MS: f64 = 5.0;

/// What a run of load found. Latencies are milliseconds, count from the scheduled time of sending, and leave failed requests
/// out; they are null when nothing was measured.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LoadReport {
    /// Requests that ended, well or not.
    pub requests: u64,
    /// Those that failed.
    pub errors: u64,
    /// The same by kind: `connect`, `timeout`, `http_STATUS`, `broken_off`, `cut_off`, `error_in_stream`, `unreadable_answer`; of
    /// ext_proc `grpc_CODE`, `immediate_STATUS`, `no_endpoint`, `cut_off`, `body_not_streamed`.
    pub errors_by_kind: BTreeMap<String, u64>,
    /// Time to first token, of streamed answers.
    pub ttft_ms: Option<Percentiles>,
    /// Time of a token after the first, by request, of streamed answers.
    pub tpot_ms: Option<Percentiles>,
    /// Between one token and the next, over all tokens, of streamed answers. Tokens that came in one piece have none between.
    pub itl_ms: Option<Percentiles>,
    /// Time to the end of the answer.
    pub e2e_ms: Option<Percentiles>,
    /// From the last frame of a request to the answer that names the endpoint, of ext_proc.
    pub pick_ms: Option<Percentiles>,
    /// From a chunk of the response to its answer, over all chunks, of ext_proc.
    pub chunk_ms: Option<Percentiles>,
    /// Requests that kept to [`Slo`]: null if nothing was asked for.
    pub goodput: Option<Goodput>,
    /// Of the prompt tokens of answers that say so, the share that was in a prefix cache.
    pub prefix_hit_rate: Option<f64>,
    /// Tokens of all answers over the time from the start to the last end.
    pub output_tokens_per_s: f64,
    /// Adapter loads of the named servers; null if none was named or one did not say.
    pub adapter_loads_per_1000: Option<f64>,
    /// Requests of the busiest server over the mean of all; null if no answer named its server.
    pub load_max_over_mean: Option<f64>,
    /// Answers in full over the time from the start to the last end.
    pub requests_per_s: f64,
    /// Requests, or conversations, that began in a second.
    pub rate: Rate,
    /// How late the generator itself sent.
    pub lag_ms: Option<Percentiles>,
    /// What the generator itself cost, where the system says so.
    pub generator: Option<Cost>,
    /// What the process asked for cost.
    pub process: Option<Cost>,
    /// Requests that were under way when the run was stopped; they count nowhere else.
    pub unanswered: u64,
    /// From the start to the last end.
    pub seconds: f64,
    /// The seed of times, lengths and adapters.
    pub seed: u64,
    /// Requests or conversations kept under way in a closed loop; null in an open one.
    pub concurrency: Option<usize>,
    /// What was sent.
    pub workload: Workload,
    /// By server, as answers name them.
    pub servers: Vec<ServerShare>,
    /// The percentiles of the latencies, for drawing.
    pub curves: Vec<Curve>,
}

/// What a request is to keep to; what is not given is not asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Slo {
    /// The most to the first token, in milliseconds.
    pub ttft_ms: Option<f64>,
    /// The most for each token after it, in milliseconds, as a mean over the answer.
    pub tpot_ms: Option<f64>,
}

/// Requests that were answered in full and in time.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Goodput {
    /// What was asked for.
    pub slo: Slo,
    /// Their share of all that ended.
    pub share: f64,
    /// How many there were in a second.
    pub requests_per_s: f64,
}

/// One latency at many percentiles.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Curve {
    /// Which: `TTFT`, `TPOT`, `E2E`, `pick` or `chunk`.
    pub name: &'static str,
    /// Percentiles with their milliseconds.
    pub points: Vec<(f64, f64)>,
}

/// Where values lie.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Percentiles {
    /// The mean.
    pub mean: f64,
    /// Half are at most this.
    pub p50: f64,
    /// Nine of ten are at most this.
    pub p90: f64,
    /// 19 of 20 are at most this.
    pub p95: f64,
    /// 99 of 100 are at most this.
    pub p99: f64,
}

/// Arrivals a second, asked for and sent.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Rate {
    /// What the plan said; null in a closed loop, which asks for none.
    pub asked: Option<f64>,
    /// What was sent.
    pub achieved: f64,
}

/// What one server got.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ServerShare {
    /// `x-inference-pod:x-inference-port`, or the endpoint that a picker named.
    pub server: String,
    /// Requests that it answered.
    pub requests: u64,
    /// Those of them that failed.
    pub errors: u64,
    /// Its times to first token.
    pub ttft_ms: Option<Percentiles>,
}

impl Rate {
    /// Whether at least 95 % of the rate was sent; otherwise the run says little of it.
    #[must_use]
    pub fn is_reached(&self) -> bool {
        self.asked.is_none_or(|asked| self.achieved >= 0.95 * asked)
    }
}

impl LoadReport {
    /// Whether the generator kept its own schedule well enough for its latencies to be believed.
    #[must_use]
    pub fn lag_is_small(&self) -> bool {
        self.lag_ms.is_none_or(|lag| lag.p99 <= DOUBTFUL_LAG_MS)
    }
}

//! What one run of load found; as JSON it is what scripts read.

use std::collections::BTreeMap;

use serde::Serialize;

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
    /// The same by kind: `connect`, `timeout`, `http_STATUS`, `broken_off`, `cut_off`, `error_in_stream`, `unreadable_answer`.
    pub errors_by_kind: BTreeMap<String, u64>,
    /// Time to first token, of streamed answers.
    pub ttft_ms: Option<Percentiles>,
    /// Time of a token after the first, by request, of streamed answers.
    pub tpot_ms: Option<Percentiles>,
    /// Time to the end of the answer.
    pub e2e_ms: Option<Percentiles>,
    /// Tokens of all answers over the time from the start to the last end.
    pub output_tokens_per_s: f64,
    /// Adapter loads of the named servers; null if none was named or one did not say.
    pub adapter_loads_per_1000: Option<f64>,
    /// Requests of the busiest server over the mean of all; null if no answer named its server.
    pub load_max_over_mean: Option<f64>,
    /// Requests a second.
    pub rate: Rate,
    /// How late the generator itself sent.
    pub lag_ms: Option<Percentiles>,
    /// Requests that were under way when the run was stopped; they count nowhere else.
    pub unanswered: u64,
    /// From the start to the last end.
    pub seconds: f64,
    /// The seed of times, lengths and adapters.
    pub seed: u64,
    /// What was sent.
    pub workload: Workload,
    /// By server, as answers name them.
    pub servers: Vec<ServerShare>,
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
    /// 99 of 100 are at most this.
    pub p99: f64,
}

/// Requests a second, asked for and sent.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Rate {
    /// What the plan said.
    pub asked: f64,
    /// What was sent.
    pub achieved: f64,
}

/// What one server got.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ServerShare {
    /// `x-inference-pod:x-inference-port`.
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
        self.achieved >= 0.95 * self.asked
    }
}

impl LoadReport {
    /// Whether the generator kept its own schedule well enough for its latencies to be believed.
    #[must_use]
    pub fn lag_is_small(&self) -> bool {
        self.lag_ms.is_none_or(|lag| lag.p99 <= DOUBTFUL_LAG_MS)
    }
}

//! Receipts: why a request went where it went, and what became of it.

use std::net::SocketAddr;
use std::sync::Arc;

use arrayvec::ArrayVec;
use serde::{Deserialize, Serialize};

use crate::adapter::Need;
use crate::cost::Cost;
use crate::endpoint::EndpointKey;
use crate::ledger::Following;
use crate::rates::Rates;
use crate::request::{Request, RequestKey};
use crate::schedule::Exclusion;
use crate::view::objective::Standing;
use crate::view::rewrite::Rewriting;

/// The most candidates that a receipt lists; the rest are counted.
pub const CANDIDATES_MAX: usize = 8;
/// The most exclusions that a receipt lists; the rest are counted.
pub const EXCLUSIONS_MAX: usize = 8;

/// Why a request went where it went.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Receipt {
    /// The request, by this process's count.
    pub key: RequestKey,
    /// The request's `x-request-id`.
    pub request_id: Arc<str>,
    /// Nanoseconds since the start of the process at which it was decided.
    pub at_ns: u64,
    /// What was known of the request.
    pub request: Request,
    /// How much it matters, and in whose name it came, where its pool says so.
    pub standing: Option<Standing>,
    /// What became of its model, if one was chosen for it.
    pub rewrite: Option<Rewriting>,
    /// Prompt tokens expected.
    pub prompt_tokens: u64,
    /// Tokens expected to be generated, of all its sequences.
    pub output_tokens: u64,
    /// Endpoints of the pool.
    pub endpoints: usize,
    /// The generation of the configuration that it was decided under: of the pool's endpoints.
    pub generation: u64,
    /// The cheapest endpoints, the chosen one first, then by cost.
    pub candidates: ArrayVec<Candidate, CANDIDATES_MAX>,
    /// Endpoints that might have been chosen.
    pub candidate_count: usize,
    /// Of those, endpoints so near to the cheapest that chance decided.
    pub ties: usize,
    /// What the runner-up would have cost more than the chosen one, in milliseconds; negative if chance chose a dearer one.
    pub margin_ms: Option<f64>,
    /// Endpoints that could not be chosen.
    pub exclusions: ArrayVec<Excluded, EXCLUSIONS_MAX>,
    /// Endpoints that could not be chosen, in all.
    pub exclusion_count: usize,
    /// Whether it was sent to a suspect, to see whether that works.
    pub probe: bool,
    /// Whether the model is known to be served nowhere in the pool.
    pub unserved: bool,
    /// The time to the first token that was expected, in milliseconds.
    pub expected_ttft_ms: Option<f64>,
    /// The time to the end that was expected, in milliseconds.
    pub expected_duration_ms: Option<f64>,
    /// Whether it was refused for the sake of others, though there are candidates.
    pub overloaded: bool,
    /// How the request is followed to its end; `None` if nothing was picked.
    pub following: Option<Following>,
    /// What became of it; `None` while it is in flight.
    pub outcome: Option<Outcome>,
}

/// One endpoint that might have been chosen.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Candidate {
    /// The endpoint.
    pub endpoint: EndpointKey,
    /// Its name.
    pub name: Arc<str>,
    /// Its address.
    pub address: SocketAddr,
    /// The sum of the terms, in milliseconds.
    pub cost_ms: f64,
    /// The terms.
    pub cost: Cost,
    /// Requests of ours in flight there.
    pub own: u64,
    /// Requests of others there, smoothed.
    pub foreign: f64,
    /// What the request's adapter would have needed.
    pub adapter: Need,
    /// The speeds that were assumed of it.
    pub rates: Rates,
}

/// One endpoint that could not be chosen.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Excluded {
    /// Its name.
    pub name: Arc<str>,
    /// Its address.
    pub address: SocketAddr,
    /// Why not.
    pub reason: Exclusion,
}

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Outcome {
    /// How it ended.
    pub end: End,
    /// The response's status, where one came.
    pub status: Option<u16>,
    /// The endpoint that served it, where the proxy says so and it is another.
    pub served: Option<SocketAddr>,
    /// From decision to first token, in milliseconds; only for streamed responses.
    pub ttft_ms: Option<f64>,
    /// What had been expected of that.
    pub expected_ttft_ms: f64,
    /// What had been expected of the duration.
    pub expected_duration_ms: f64,
    /// From decision to end, in milliseconds.
    pub duration_ms: f64,
    /// Prompt tokens, as the engine counts them.
    pub prompt_tokens: Option<u64>,
    /// Tokens generated.
    pub generated: Option<u64>,
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// The response came to its end.
    Completed,
    /// The server, or the proxy in its place, answered with an error.
    Failed,
    /// The client or the proxy went away first.
    Abandoned,
    /// It was not followed, and is taken to be over.
    Presumed,
}

//! What a picker shows of its endpoints, and the small things that it learns of the pool as a whole.

use std::net::SocketAddr;
use std::sync::Arc;

use serde::Serialize;

use crate::adapter::names::Names;
use crate::endpoint::{EndpointKey, Reading};
use crate::ledger::{Ledger, Load};
use crate::member::Member;
use crate::member::health::Suspicion;
use crate::rates::Rates;
use crate::time::Instant;

/// One endpoint, as an operator wants to see it.
#[derive(Clone, Debug, Serialize)]
pub struct EndpointState {
    /// The endpoint's key.
    pub endpoint: EndpointKey,
    /// Its name.
    pub name: Arc<str>,
    /// Its address.
    pub address: SocketAddr,
    /// The kind of engine that it is said to be.
    pub engine: Arc<str>,
    /// Whether the series of that engine are known; if not, its page is read as vLLM's.
    pub engine_is_known: bool,
    /// Ours in flight.
    pub own: Load,
    /// Requests of others, smoothed.
    pub foreign: f64,
    /// The most requests it was seen to run while others waited.
    pub slots: Option<u64>,
    /// How fast it is, as far as known.
    pub rates: Rates,
    /// What that rests on: its busy time that was measured, in units of 200 ms; old ones count less.
    pub rate_samples: f64,
    /// The adapters thought to be in its slots, least recently used first.
    pub resident: Vec<Arc<str>>,
    /// Why it is suspect, if it is.
    pub suspicion: Option<Suspicion>,
    /// How old the last reading is, in milliseconds.
    pub reading_age_ms: Option<f64>,
    /// The last reading.
    pub reading: Option<Reading>,
}

impl EndpointState {
    /// The state of `member` at `now`.
    pub(super) fn of(now: Instant, member: &Member, ledger: &Ledger, names: &Names) -> Self {
        let resident = member.adapters.resident();
        Self {
            endpoint: member.key,
            name: member.endpoint.name.clone(),
            address: member.endpoint.address,
            engine: member.endpoint.engine.name.clone(),
            engine_is_known: member.endpoint.engine.is_known,
            own: ledger.load(member.key),
            foreign: member.foreign(),
            slots: member.slots(),
            rates: *member.rates(),
            rate_samples: member.fit().samples(),
            resident: resident.filter_map(|id| names.name(id).cloned()).collect(),
            suspicion: member.health.suspicion(),
            reading_age_ms: member.reading().map(|(at, _)| now.ms_since(*at)),
            reading: member.reading().map(|(_, reading)| reading.clone()),
        }
    }
}

/// Bytes of a prompt that make a token, for text in English.
const BYTES_PER_TOKEN_PRIOR: f64 = 4.0;
/// As many tokens of evidence weigh as much as the prior.
const PRIOR_TOKENS: f64 = 10_000.0;
/// Evidence loses half its weight once so many tokens have come after it.
const HALF_LIFE_TOKENS: f64 = 1e6;
/// No text has fewer bytes to a token, or more: what says so is wrong.
const BYTES_PER_TOKEN_RANGE: (f64, f64) = (1.0, 12.0);

/// How many bytes of a prompt make a token, learnt from what engines report of requests.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct BytesPerToken {
    bytes: f64,
    tokens: f64,
}

impl BytesPerToken {
    /// Bytes to a token.
    pub(super) fn get(self) -> f64 {
        let bytes = self.bytes + PRIOR_TOKENS * BYTES_PER_TOKEN_PRIOR;
        let (least, most) = BYTES_PER_TOKEN_RANGE;
        (bytes / (self.tokens + PRIOR_TOKENS)).clamp(least, most)
    }

    /// A prompt of so many bytes had so many tokens.
    pub(super) fn on_usage(&mut self, bytes: u64, tokens: u64) {
        let (bytes, tokens) = (bytes as f64, tokens as f64);
        let kept = 0.5_f64.powf(tokens / HALF_LIFE_TOKENS);
        self.bytes = self.bytes * kept + bytes;
        self.tokens = self.tokens * kept + tokens;
    }
}

/// How much the newest first token counts.
const FIXED_WEIGHT: f64 = 0.05;
/// Nothing takes longer beside the engine's work.
const FIXED_MAX_MS: f64 = 500.0;

/// What a request takes beside the engine's work: network, parsing, the tokenizer. Learnt from first tokens of requests that were alone.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fixed(f64);

impl Default for Fixed {
    fn default() -> Self {
        Self(Rates::PRIOR.fixed_ms)
    }
}

impl Fixed {
    /// In milliseconds.
    pub(super) fn ms(self) -> f64 {
        self.0
    }

    /// A first token came `late_ms` later than expected.
    pub(super) fn observe(&mut self, late_ms: f64) {
        let seen = (self.0 + late_ms).clamp(0.0, FIXED_MAX_MS);
        self.0 += FIXED_WEIGHT * (seen - self.0);
    }
}

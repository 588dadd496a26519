//! What one request costs on one endpoint: expected milliseconds, as a sum of named terms.
//!
//! ```text
//!   queue   = admit + c_p x (prompt tokens ahead + prompt tokens) + fixed
//!   adapter = 0 | load | 2 x load | 2 x load + drain
//!   decode  = o x step(b + 1)  +  b x (c_p x prompt tokens + o x c_d)
//!   cost    = queue + adapter + decode + risk
//! ```
//!
//! with `step(b) = a + c_d x b`, `b` sequences decoding there and `o` tokens to generate. The second half of `decode`
//! is what the request costs those that are running: its prefill and its place in the batch lengthen their steps.
//! The form follows Dynamo's and SMetric's costs and LMetric's product; `docs/architecture.md` has the sources.

use serde::Serialize;

use crate::adapter::Need;

/// The speeds of an endpoint, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Rates {
    /// `a`: an engine step with nothing in it.
    pub step_ms: f64,
    /// `c_p`: a prompt token.
    pub prompt_token_ms: f64,
    /// `c_d`: what a sequence adds to a step.
    pub sequence_ms: f64,
    /// What a request takes beside the engine's work.
    pub fixed_ms: f64,
    /// Loading an adapter.
    pub adapter_load_ms: f64,
}

impl Rates {
    /// What is assumed of an endpoint of which nothing is known: about an 8B model on one A100 or H100. (Step and
    /// sequence: Llama-3.1-8B on H100 shows 7.1 ms + 0.036 ms a sequence, BLIS fits 16.4 ms + 0.018 ms on A100; prompt
    /// token: 0.021 to 0.048 ms there. Adapter load: reports range from 10 ms, from memory, to seconds, from disk.)
    pub const PRIOR: Self = Self {
        step_ms: 15.0,
        prompt_token_ms: 0.05,
        sequence_ms: 0.05,
        fixed_ms: 20.0,
        adapter_load_ms: 300.0,
    };

    /// A step that decodes `sequences`.
    #[must_use]
    pub fn step(&self, sequences: f64) -> f64 {
        self.step_ms + self.sequence_ms * sequences
    }
}

/// Tokens that a request is expected to generate where nothing limits it.
pub const OUTPUT_TOKENS_PRIOR: u64 = 256;
/// Bytes of a prompt that make a token, for text in English.
pub const BYTES_PER_TOKEN_PRIOR: u64 = 4;

/// What an endpoint has before it already, and what it would have to do for the adapter.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Situation {
    /// Requests there, of ours and of others.
    pub requests: f64,
    /// Prompt tokens there that are not computed yet.
    pub prefill_tokens: f64,
    /// Requests that run at once, as far as known.
    pub slots: Option<f64>,
    /// What the request's adapter needs.
    pub adapter: Need,
    /// Whether the endpoint is suspect, yet a candidate because too many others are.
    pub suspect: bool,
}

impl Situation {
    /// Nothing is there, and any adapter is resident.
    pub const IDLE: Self = Self {
        requests: 0.0,
        prefill_tokens: 0.0,
        slots: None,
        adapter: Need::NoAdapter,
        suspect: false,
    };
}

/// The work of a request.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Work {
    /// Prompt tokens to compute.
    pub prompt_tokens: f64,
    /// Tokens to generate.
    pub output_tokens: f64,
}

/// The terms of a cost, in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Cost {
    /// Until the prompt is computed: waiting for a place in the batch, the prompts ahead, its own prompt.
    pub queue_ms: f64,
    /// Loading the adapter, and what that takes from others.
    pub adapter_ms: f64,
    /// Generating the tokens, and what that takes from others.
    pub decode_ms: f64,
    /// What is added for doubt.
    pub risk_ms: f64,
}

/// What is added to an endpoint that is suspect and still a candidate: as much as a request that takes ten seconds.
const SUSPECT_MS: f64 = 10_000.0;

impl Cost {
    /// The cost of `work` on an endpoint of `rates` in `situation`.
    #[must_use]
    pub fn of(rates: &Rates, situation: &Situation, work: &Work) -> Self {
        let slots = situation.slots.unwrap_or(f64::INFINITY);
        let decoding = situation.requests.min(slots);
        let service_ms = work.output_tokens * rates.step(decoding);
        let excess = (situation.requests + 1.0 - slots).max(0.0);
        let admit_ms = if excess > 0.0 {
            excess * service_ms / slots.max(1.0)
        } else {
            0.0
        };
        let prompt_ms = rates.prompt_token_ms * work.prompt_tokens;
        let ahead_ms = rates.prompt_token_ms * situation.prefill_tokens;
        let harm_ms = decoding * (prompt_ms + work.output_tokens * rates.sequence_ms);
        Self {
            queue_ms: admit_ms + ahead_ms + prompt_ms + rates.fixed_ms,
            adapter_ms: adapter_ms(rates, situation.adapter, service_ms),
            decode_ms: work.output_tokens * rates.step(decoding + 1.0) + harm_ms,
            risk_ms: if situation.suspect { SUSPECT_MS } else { 0.0 },
        }
    }

    /// The sum of the terms.
    #[must_use]
    pub fn total_ms(&self) -> f64 {
        self.queue_ms + self.adapter_ms + self.decode_ms + self.risk_ms
    }

    /// The part that passes before the first token.
    #[must_use]
    pub fn ttft_ms(&self, rates: &Rates, adapter: Need) -> f64 {
        let load_ms = if matches!(adapter, Need::NoAdapter | Need::Resident) {
            0.0
        } else {
            rates.adapter_load_ms
        };
        self.queue_ms + load_ms + rates.step_ms
    }
}

/// An adapter that is pushed out has to be loaded again for the next request that wants it, so it counts twice; where
/// every slot is running, half a request passes on average before the first of them is free.
fn adapter_ms(rates: &Rates, need: Need, service_ms: f64) -> f64 {
    match need {
        Need::NoAdapter | Need::Resident => 0.0,
        Need::Load => rates.adapter_load_ms,
        Need::Evict => 2.0 * rates.adapter_load_ms,
        Need::Wait => 2.0 * rates.adapter_load_ms + 0.5 * service_ms,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATES: Rates = Rates {
        step_ms: 10.0,
        prompt_token_ms: 0.1,
        sequence_ms: 1.0,
        fixed_ms: 5.0,
        adapter_load_ms: 300.0,
    };
    const WORK: Work = Work {
        prompt_tokens: 100.0,
        output_tokens: 20.0,
    };
    const IDLE: Situation = Situation::IDLE;

    fn check(situation: Situation, queue: f64, adapter: f64, decode: f64) {
        let cost = Cost::of(&RATES, &situation, &WORK);
        let terms = [cost.queue_ms, cost.adapter_ms, cost.decode_ms];
        for (term, expected) in terms.into_iter().zip([queue, adapter, decode]) {
            assert!((term - expected).abs() < 1e-9, "{situation:?}: {terms:?}");
        }
    }

    #[test]
    fn an_idle_endpoint_costs_its_own_prompt_and_tokens() {
        // Prompt 100 x 0.1 + fixed 5; 20 steps of 10 + 1.
        check(IDLE, 15.0, 0.0, 220.0);
    }

    #[test]
    fn prompts_ahead_and_running_sequences_are_waited_for_and_harmed() {
        // 500 tokens ahead add 50. 20 steps of 10 + 4; three others wait 10 for the prompt and 20 x 1 for the tokens.
        let busy = Situation {
            requests: 3.0,
            prefill_tokens: 500.0,
            ..IDLE
        };
        check(busy, 65.0, 0.0, 280.0 + 90.0);
    }

    #[test]
    fn a_full_batch_is_waited_for() {
        // Two of four requests have to leave, each after 20 steps of 10 + 4 = 280, four at a time: 2 x 280 / 4.
        let full = Situation {
            requests: 5.0,
            slots: Some(4.0),
            ..IDLE
        };
        check(full, 15.0 + 140.0, 0.0, 300.0 + 4.0 * 30.0);
    }

    #[test]
    fn an_adapter_costs_its_load_and_what_it_pushes_out() {
        for (adapter, expected) in [
            (Need::Resident, 0.0),
            (Need::Load, 300.0),
            (Need::Evict, 600.0),
            (Need::Wait, 600.0 + 100.0),
        ] {
            check(Situation { adapter, ..IDLE }, 15.0, expected, 220.0);
        }
    }

    #[test]
    fn doubt_costs_more_than_any_wait_worth_taking() {
        let doubtful = Situation {
            suspect: true,
            ..IDLE
        };
        let cost = Cost::of(&RATES, &doubtful, &WORK);
        assert_eq!(cost.total_ms(), 235.0 + SUSPECT_MS);
    }

    #[test]
    fn the_expected_first_token_leaves_out_what_others_pay() {
        let evict = Situation {
            adapter: Need::Evict,
            ..IDLE
        };
        let cost = Cost::of(&RATES, &evict, &WORK);
        assert_eq!(cost.ttft_ms(&RATES, Need::Evict), 15.0 + 300.0 + 10.0);
    }
}

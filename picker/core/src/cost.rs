//! What one request costs on one endpoint: expected milliseconds, as a sum of named terms.
//!
//! ```text
//! admit   = max(0, requests + 1 - slots) x service / slots, and what too few free KV blocks delay likewise
//! ahead   = the time that the prompts before it still take, those of the requests that wait among them
//! prompt  = c_p x prompt tokens + fixed
//! adapter = until a slot is free + load
//! decode  = o x step(b + n), slowed by the prompts of others, and until the last of its n sequences has a place
//! harm    = b x ((c_p x prompt tokens + load) / 5 + n x o x c_d), and what those lose that wait, for a place or for a slot
//! risk    = what it costs if the endpoint fails the request, times how likely that is
//! share   = for having been sent more than the mean, while adapters in flight outnumber slots: added once all are priced ([`crate::share`])
//! ```
//!
//! with `step(b) = a + c_d x b`, `b` sequences decoding there, `o` tokens to generate for each of `n` sequences, and `service` the time that a request decodes there.
//! The first five are what the request itself waits for; `harm` is what it takes from those that run: its prompt and its
//! adapter lengthen their steps, and so does its place in the batch. `docs/concepts/cost.md` explains each with an example, and has the sources.

use serde::Serialize;

use crate::adapter::Claim;
use crate::rates::Rates;

/// What an endpoint has before it already, and what it would have to do for the adapter.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Situation {
    /// Requests there, of ours and of others, for each engine behind the address; as engines count them, to whom each sequence is one.
    pub requests: f64,
    /// How long the prompts there will still be computed, in milliseconds.
    pub prefill_ms: f64,
    /// The share of its time, 0 to 1, that it spent on prompts of late.
    pub prefill_share: f64,
    /// Prompt tokens of a request there, by the mean of those in flight.
    pub mean_prompt_tokens: f64,
    /// Requests that an engine runs at once, as far as known.
    pub slots: Option<f64>,
    /// Tokens that a request there generates, by the mean of those in flight.
    pub mean_output_tokens: Option<f64>,
    /// What is asked for of the KV blocks, the request's prompt included, as a share of all.
    pub kv_demand: f64,
    /// What the request's adapter asks of the slots.
    pub claim: Claim,
    /// Requests for the same adapter that are in flight anywhere in the pool.
    pub sharers: f64,
    /// How likely the endpoint fails the request, 0 to 1.
    pub failure: f64,
}

impl Situation {
    /// Nothing is there, and any adapter is resident.
    pub const IDLE: Self = Self {
        requests: 0.0,
        prefill_ms: 0.0,
        prefill_share: 0.0,
        mean_prompt_tokens: 0.0,
        slots: None,
        mean_output_tokens: None,
        kv_demand: 0.0,
        claim: Claim::NONE,
        sharers: 0.0,
        failure: 0.0,
    };

    /// Of the requests there, those that wait for a place in a batch of `slots`, or for KV blocks.
    fn queued(&self, slots: f64) -> f64 {
        let for_blocks = self.requests * (1.0 - 1.0 / self.kv_demand.max(1.0));
        (self.requests - slots).max(for_blocks).max(0.0)
    }
}

/// The work of a request.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Work {
    /// Prompt tokens to compute.
    pub prompt_tokens: f64,
    /// Tokens to generate for each sequence.
    pub output_tokens: f64,
    /// Sequences to generate, 1 to [`SEQUENCES_MAX`].
    pub sequences: f64,
}

/// A request counts as so many sequences at the most, whatever it asks for: the most that vLLM runs at once unless told otherwise (`max_num_seqs`
/// in `vllm/engine/arg_utils.py`).
pub const SEQUENCES_MAX: u32 = 1_024;

impl Work {
    /// How many of its sequences find a place at once beside `decoding` others; the first waits for one.
    #[must_use]
    pub fn joining(&self, decoding: f64, slots: f64) -> f64 {
        self.sequences.min((slots - decoding).max(1.0))
    }
}

/// The terms of a cost, in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Cost {
    /// Until there is a place in the batch, and KV blocks.
    pub admit_ms: f64,
    /// The prompts that are computed first.
    pub ahead_ms: f64,
    /// Its own prompt, and what a request takes beside the engine's work.
    pub prompt_ms: f64,
    /// Until the adapter is in a slot.
    pub adapter_ms: f64,
    /// Generating its tokens.
    pub decode_ms: f64,
    /// What it takes from others.
    pub harm_ms: f64,
    /// What is added for doubt.
    pub risk_ms: f64,
    /// What is added for having been sent more than its share, while adapters in flight outnumber slots.
    pub share_ms: f64,
}

/// How much a millisecond counts by which a prompt or an adapter holds up those that run or wait. With more, long prompts gather where few run and
/// wait for each other, at the price of times to first token; with less, mean times are longer where servers differ (`docs/benchmarks/virtual-time.md`).
const STALL_SHARE: f64 = 0.2;

/// How much of the time that prompts took of late counts as time that the next ones will take from a request that decodes. All of it measured worse: where
/// prompts have been is where picks send fewer of them next.
const PREFILL_PERSISTENCE: f64 = 0.6;

/// So many requests in flight for an adapter halve what one more copy of it costs those that run: a copy stays, and serves many. 20 measured worse,
/// and so did to count each request alone.
const SHARERS_HALF: f64 = 64.0;

/// What a request that fails has cost: as much as one that takes ten seconds. More than any wait that is worth taking.
pub const FAILURE_MS: f64 = 10_000.0;

impl Cost {
    /// The cost of `work` on an endpoint of `rates` in `situation`.
    #[must_use]
    pub fn of(rates: &Rates, situation: &Situation, work: &Work) -> Self {
        let slots = situation.slots.unwrap_or(f64::INFINITY);
        let decoding = situation.requests.min(slots);
        let output_tokens = situation.mean_output_tokens.unwrap_or(work.output_tokens);
        let service_ms = output_tokens * rates.step(decoding);
        let joining = work.joining(decoding, slots);
        let until_free = |wanted: f64| {
            let excess = (situation.requests + wanted - slots).max(0.0);
            excess * service_ms / slots.max(1.0)
        };
        let mut admit_ms = until_free(1.0);
        let rest_waits_ms = until_free(work.sequences) - admit_ms;
        // As the requests there end, all of the blocks come free in a request's time.
        admit_ms += (situation.kv_demand - 1.0).max(0.0) * service_ms;
        let prompt_ms = rates.prompt_token_ms * work.prompt_tokens;
        let load_ms = if situation.claim.need.loads() {
            rates.adapter_load_ms
        } else {
            0.0
        };
        let queued = situation.queued(slots);
        let queued_prompts_ms = queued * situation.mean_prompt_tokens * rates.prompt_token_ms;
        let slowed = 1.0 / (1.0 - PREFILL_PERSISTENCE * situation.prefill_share);
        let tokens = work.sequences * work.output_tokens;
        // What it takes from each that runs, and from each that comes to run after it.
        let stall_ms = prompt_ms + load_ms * SHARERS_HALF / (SHARERS_HALF + situation.sharers);
        let place_ms = tokens * rates.step(decoding) / slots.max(1.0);
        let harm_ms = decoding * (STALL_SHARE * stall_ms + tokens * rates.sequence_ms)
            + queued * STALL_SHARE * (stall_ms + place_ms)
            + situation.claim.delays_ms;
        Self {
            admit_ms,
            ahead_ms: situation.prefill_ms.max(queued_prompts_ms),
            prompt_ms: prompt_ms + rates.fixed_ms,
            adapter_ms: situation.claim.wait_ms + load_ms,
            decode_ms: work.output_tokens * rates.step(decoding + joining) * slowed + rest_waits_ms,
            harm_ms,
            risk_ms: situation.failure * FAILURE_MS,
            share_ms: 0.0,
        }
    }

    /// The sum of the terms.
    #[must_use]
    pub fn total_ms(&self) -> f64 {
        self.ttft_ms() + self.decode_ms + self.harm_ms + self.risk_ms + self.share_ms
    }

    /// The part that passes before the first token is computed.
    #[must_use]
    pub fn ttft_ms(&self) -> f64 {
        self.admit_ms + self.ahead_ms + self.prompt_ms + self.adapter_ms
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapter::Need;

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
        sequences: 1.0,
    };
    /// Prompt 100 x 0.1 + fixed 5; 20 steps of 10 + 1.
    const ALONE: Cost = Cost {
        admit_ms: 0.0,
        ahead_ms: 0.0,
        prompt_ms: 15.0,
        adapter_ms: 0.0,
        decode_ms: 220.0,
        harm_ms: 0.0,
        risk_ms: 0.0,
        share_ms: 0.0,
    };
    const IDLE: Situation = Situation::IDLE;

    fn check(situation: Situation, expected: Cost) {
        check_of(WORK, situation, expected);
    }

    fn check_of(work: Work, situation: Situation, expected: Cost) {
        let cost = Cost::of(&RATES, &situation, &work);
        let terms = |cost: &Cost| {
            let own = [
                cost.admit_ms,
                cost.ahead_ms,
                cost.prompt_ms,
                cost.adapter_ms,
            ];
            (own, [cost.decode_ms, cost.harm_ms, cost.risk_ms])
        };
        let ((own, rest), (own_expected, rest_expected)) = (terms(&cost), terms(&expected));
        let near = |one: f64, other: f64| (one - other).abs() < 1e-9;
        assert!(
            own.iter()
                .zip(own_expected)
                .all(|(&one, other)| near(one, other))
                && rest
                    .iter()
                    .zip(rest_expected)
                    .all(|(&one, other)| near(one, other)),
            "{situation:?}: {cost:?} is not {expected:?}"
        );
        let total: f64 = own.iter().chain(&rest).sum();
        assert!(
            near(cost.total_ms(), total),
            "the cost is the sum of its terms"
        );
        assert!(near(cost.ttft_ms(), own.iter().sum()));
    }

    #[test]
    fn an_idle_endpoint_costs_its_own_prompt_and_tokens() {
        check(IDLE, ALONE);
    }

    #[test]
    fn prompts_ahead_are_waited_for_and_running_sequences_are_harmed() {
        // 20 steps of 10 + 4. Each of three others loses a fifth of the prompt's 10 and 20 x 1 for its tokens.
        let busy = Situation {
            requests: 3.0,
            prefill_ms: 50.0,
            ..IDLE
        };
        let expected = Cost {
            ahead_ms: 50.0,
            decode_ms: 280.0,
            harm_ms: 3.0 * 22.0,
            ..ALONE
        };
        check(busy, expected);
    }

    #[test]
    fn a_full_batch_is_waited_for() {
        // Two of five requests have to leave; each takes 30 steps of 10 + 4 = 420, four at a time: 2 x 420 / 4. The one that waits loses
        // a fifth of the prompt's 10 and of a fourth of the 280 that the request is in a place.
        let full = Situation {
            requests: 5.0,
            slots: Some(4.0),
            mean_output_tokens: Some(30.0),
            ..IDLE
        };
        let expected = Cost {
            admit_ms: 210.0,
            decode_ms: 300.0,
            harm_ms: 4.0 * 22.0 + 16.0,
            ..ALONE
        };
        check(full, expected);
    }

    #[test]
    fn several_sequences_decode_side_by_side_and_wait_for_places_of_their_own() {
        let three = Work {
            sequences: 3.0,
            ..WORK
        };
        // 20 steps of 10 + 2 + 3. Each of two others loses a fifth of the prompt's 10 and 3 x 20 x 1 for the tokens.
        let roomy = Situation {
            requests: 2.0,
            ..IDLE
        };
        let expected = Cost {
            decode_ms: 300.0,
            harm_ms: 2.0 * 62.0,
            ..ALONE
        };
        check_of(three, roomy, expected);
        // One finds a place: 20 steps of 10 + 3 + 1. The others wait for two to leave, four of which take 30 steps of 10 + 3 = 390 each: 2 x 390 / 4.
        let narrow = Situation {
            requests: 3.0,
            slots: Some(4.0),
            mean_output_tokens: Some(30.0),
            ..IDLE
        };
        let expected = Cost {
            decode_ms: 280.0 + 195.0,
            harm_ms: 3.0 * 62.0,
            ..ALONE
        };
        check_of(three, narrow, expected);
        // Two have to leave before the first joins: 2 x 420 / 4; then two more before the last does. The one that waits
        // loses a fifth of 10 and of a fourth of 3 x 280.
        let full = Situation {
            requests: 5.0,
            ..narrow
        };
        let expected = Cost {
            admit_ms: 210.0,
            decode_ms: 300.0 + 210.0,
            harm_ms: 4.0 * 62.0 + (10.0 + 210.0) / 5.0,
            ..ALONE
        };
        check_of(three, full, expected);
    }

    #[test]
    fn what_is_asked_of_the_kv_cache_beyond_all_of_it_is_waited_for() {
        // A quarter too much comes free in a quarter of a request's time: 20 steps of 10 + 2. A fifth of the two wait, and lose a fifth of the
        // prompt's 10.
        let scarce = Situation {
            requests: 2.0,
            kv_demand: 1.25,
            ..IDLE
        };
        let expected = Cost {
            admit_ms: 60.0,
            decode_ms: 260.0,
            harm_ms: 2.0 * 22.0 + 0.4 * 2.0,
            ..ALONE
        };
        check(scarce, expected);
    }

    #[test]
    fn the_prompts_of_those_that_wait_are_computed_first_and_what_a_request_takes_from_them_is_harm()
     {
        // Three of seven wait for a place. Their prompts take 3 x 40 x 0.1. Four have to leave: 4 x (20 steps of 10 + 4) / 4. Each of the three loses a fifth
        // of the prompt's 10 and of a fourth of the 280 that the request is in a place; each of the four that run a fifth of 10, and 20 x 1.
        let queue = Situation {
            requests: 7.0,
            slots: Some(4.0),
            mean_prompt_tokens: 40.0,
            prefill_ms: 5.0,
            ..IDLE
        };
        let expected = Cost {
            admit_ms: 280.0,
            ahead_ms: 12.0,
            decode_ms: 300.0,
            harm_ms: 4.0 * 22.0 + 3.0 * (10.0 + 70.0) / 5.0,
            ..ALONE
        };
        check(queue, expected);
        // Prompts that are known to take longer count as such.
        let known = Situation {
            prefill_ms: 50.0,
            ..queue
        };
        let expected = Cost {
            ahead_ms: 50.0,
            ..expected
        };
        check(known, expected);
    }

    #[test]
    fn prompts_that_keep_coming_slow_down_decoding() {
        // 0.6 of the half of the time that prompts took: 20 steps of 11 at 0.7 of the speed.
        let interrupted = Situation {
            prefill_share: 0.5,
            ..IDLE
        };
        let expected = Cost {
            decode_ms: 220.0 / 0.7,
            ..ALONE
        };
        check(interrupted, expected);
    }

    #[test]
    fn a_copy_of_an_adapter_that_many_use_counts_less_against_those_that_run() {
        // With 192 in flight for it, a quarter of the load's 300 counts: each of two loses a fifth of 10 + 75, and 20 x 1.
        let shared = Situation {
            requests: 2.0,
            claim: Claim {
                need: Need::Load,
                ..Claim::NONE
            },
            sharers: 192.0,
            ..IDLE
        };
        let expected = Cost {
            adapter_ms: 300.0,
            decode_ms: 260.0,
            harm_ms: 2.0 * (17.0 + 20.0),
            ..ALONE
        };
        check(shared, expected);
    }

    #[test]
    fn an_adapter_costs_the_wait_for_a_slot_and_its_load_and_those_that_run_wait_with_it() {
        let claim = |need| Claim {
            need,
            wait_ms: 40.0,
            delays_ms: 7.0,
        };
        for (need, load_ms) in [
            (Need::NoAdapter, 0.0),
            (Need::Resident, 0.0),
            (Need::Load, 300.0),
            (Need::Evict, 300.0),
            (Need::Wait, 300.0),
        ] {
            let situation = Situation {
                requests: 1.0,
                claim: claim(need),
                ..IDLE
            };
            let expected = Cost {
                adapter_ms: 40.0 + load_ms,
                decode_ms: 240.0,
                harm_ms: 22.0 + load_ms / 5.0 + 7.0,
                ..ALONE
            };
            check(situation, expected);
        }
    }

    #[test]
    fn doubt_costs_as_much_as_a_failure_times_its_chance() {
        let doubtful = Situation {
            failure: 0.25,
            ..IDLE
        };
        let expected = Cost {
            risk_ms: FAILURE_MS / 4.0,
            ..ALONE
        };
        check(doubtful, expected);
    }
}

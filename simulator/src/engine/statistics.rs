//! What one server has counted, as vLLM counts it: everything here changes at the end of a step and at no other time.

use std::collections::HashMap;

use picker_core::time::Instant;

use super::histogram::Histogram;
use super::request::{FinishReason, Live};
use super::{AdapterId, Profile};

/// Bucket bounds of vLLM 0.32.0, as its page lists them.
mod bounds {
    /// Token counts of requests: 1-2-5 up to `max_model_len`; 2,000 in the recordings, whose model had 2,048.
    pub(super) const TOKENS: &[f64] = &[
        1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0,
    ];
    pub(super) const ITERATION_TOKENS: &[f64] = &[
        1.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0, 16384.0,
    ];
    pub(super) const PARAMS_N: &[f64] = &[1.0, 2.0, 5.0, 10.0, 20.0];
    pub(super) const FIRST_TOKEN_SECONDS: &[f64] = &[
        0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
        20.0, 40.0, 80.0, 160.0, 640.0, 2560.0,
    ];
    pub(super) const TOKEN_SECONDS: &[f64] = &[
        0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
        20.0, 40.0, 80.0,
    ];
    pub(super) const REQUEST_SECONDS: &[f64] = &[
        0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0,
        240.0, 480.0, 960.0, 1920.0, 7680.0,
    ];
    pub(super) const PREEMPTIONS: &[f64] = &[1.0, 2.0, 3.0, 4.0, 5.0, 10.0, 20.0];
}

/// The gauges that the last step left behind.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Gauges {
    /// Requests in the running set.
    pub running: usize,
    /// Requests waiting for a free sequence or block.
    pub waiting_capacity: usize,
    /// Requests passed by others since their adapter has no slot.
    pub waiting_deferred: usize,
    /// Share of the usable KV blocks that live requests hold, 0 to 1.
    pub kv_usage: f64,
}

/// Counters, histograms and gauges of one server. Field names follow the metric names.
#[derive(Clone, Debug)]
pub struct Statistics {
    /// Steps that ended.
    pub steps: u64,
    /// The gauges of the last step's end.
    pub gauges: Gauges,
    /// Preemptions, counted when the preempted request gives output again.
    pub preemptions: u64,
    /// Prompt tokens of requests that gave a first token.
    pub prompt_tokens: u64,
    /// Those of them that were found in the prefix cache.
    pub prompt_tokens_cached: u64,
    /// Prompt tokens of admitted requests, each looked up once; a preempted request's second look is not counted.
    pub prefix_cache_queries: u64,
    /// Those of them that were found, in whole blocks.
    pub prefix_cache_hits: u64,
    /// Tokens generated.
    pub generation_tokens: u64,
    /// Adapters brought into a slot. vLLM does not show it.
    pub adapter_loads: u64,
    /// Requests finished by reaching a stop.
    pub success_stop: u64,
    /// Requests finished by reaching their length.
    pub success_length: u64,
    /// Prompt tokens of each finished request.
    pub request_prompt_tokens: Histogram,
    /// Generated tokens of each finished request.
    pub request_generation_tokens: Histogram,
    /// Prompt tokens computed and tokens generated, by step that gave output.
    pub iteration_tokens: Histogram,
    /// `n` of each finished request; always 1 here.
    pub request_params_n: Histogram,
    /// `max_tokens` of each finished request.
    pub request_params_max_tokens: Histogram,
    /// Arrival to first token.
    pub time_to_first_token: Histogram,
    /// Token to token.
    pub inter_token_latency: Histogram,
    /// Mean time of a token after the first, by finished request.
    pub request_time_per_output_token: Histogram,
    /// Arrival to last token.
    pub e2e_request_latency: Histogram,
    /// Arrival to admission.
    pub request_queue_time: Histogram,
    /// Admission to last token.
    pub request_inference_time: Histogram,
    /// Admission to first token.
    pub request_prefill_time: Histogram,
    /// First to last token.
    pub request_decode_time: Histogram,
    /// Preemptions of each finished request.
    pub request_num_preemptions: Histogram,
    /// Prompt tokens that each finished request had computed.
    pub request_prefill_kv_computed: Histogram,
    adapters: AdapterLabels,
    /// Looked up and found for the step under way.
    pending_prefix: [u64; 2],
    /// Tokens given at the end of the step under way, by requests whose last one was at this time.
    pending_intervals: (Instant, u64),
}

impl Statistics {
    pub(super) fn new() -> Self {
        let tokens = || Histogram::new(bounds::TOKENS);
        let seconds = || Histogram::new(bounds::REQUEST_SECONDS);
        Self {
            steps: 0,
            gauges: Gauges::default(),
            preemptions: 0,
            prompt_tokens: 0,
            prompt_tokens_cached: 0,
            prefix_cache_queries: 0,
            prefix_cache_hits: 0,
            generation_tokens: 0,
            adapter_loads: 0,
            success_stop: 0,
            success_length: 0,
            request_prompt_tokens: tokens(),
            request_generation_tokens: tokens(),
            iteration_tokens: Histogram::new(bounds::ITERATION_TOKENS),
            request_params_n: Histogram::new(bounds::PARAMS_N),
            request_params_max_tokens: tokens(),
            time_to_first_token: Histogram::new(bounds::FIRST_TOKEN_SECONDS),
            inter_token_latency: Histogram::new(bounds::TOKEN_SECONDS),
            request_time_per_output_token: Histogram::new(bounds::TOKEN_SECONDS),
            e2e_request_latency: seconds(),
            request_queue_time: seconds(),
            request_inference_time: seconds(),
            request_prefill_time: seconds(),
            request_decode_time: seconds(),
            request_num_preemptions: Histogram::new(bounds::PREEMPTIONS),
            request_prefill_kv_computed: tokens(),
            adapters: AdapterLabels::default(),
            pending_prefix: [0; 2],
            pending_intervals: (Instant::ZERO, 0),
        }
    }

    /// The adapters that the last step's end showed as running (and, by vLLM's quirk, as waiting), in the order in
    /// which their requests first gave output. `None` before the first step.
    #[must_use]
    pub fn adapters(&self) -> Option<&[AdapterId]> {
        self.adapters.current()
    }

    /// Every label set that `lora_requests_info` has had, in order of appearance, with the time it was last set.
    ///
    /// vLLM never removes one: the current one is the set with the greatest time.
    pub fn adapter_label_sets(&self) -> impl Iterator<Item = (&[AdapterId], Instant)> {
        self.adapters
            .sets
            .iter()
            .map(|(adapters, at)| (adapters.as_slice(), *at))
    }

    /// Counts the look-up of an admitted request's prompt; seen when the step ends.
    pub(super) const fn looked_up(&mut self, prompt_tokens: u32, found: u32) {
        self.pending_prefix[0] += prompt_tokens as u64;
        self.pending_prefix[1] += found as u64;
    }

    /// Counts the token that `live` gave at `at`, before `live` itself is told of it. Returns the tokens that vLLM adds to
    /// the step's `iteration_tokens_total`: one, and with a first token those of the prompt that were computed.
    pub(super) fn token(&mut self, live: &Live, at: Instant) -> u64 {
        self.generation_tokens += 1;
        self.preemptions += u64::from(live.preemptions - live.preemptions_counted);
        if let Some(last_token) = live.last_token {
            // Nearly all of a batch have their last token from one and the same step.
            if last_token != self.pending_intervals.0 {
                self.count_intervals(at);
                self.pending_intervals.0 = last_token;
            }
            self.pending_intervals.1 += 1;
            return 1;
        }
        let (prompt_tokens, cached) = (live.request.prompt_tokens, live.cached_tokens);
        self.prompt_tokens += u64::from(prompt_tokens);
        self.prompt_tokens_cached += u64::from(cached);
        self.time_to_first_token.observe(seconds(live.arrived, at));
        if let Some(adapter) = live.request.adapter {
            self.adapters.enter(adapter);
        }
        u64::from(1 + prompt_tokens - cached)
    }

    fn count_intervals(&mut self, at: Instant) {
        let (last_token, tokens) = self.pending_intervals;
        if tokens > 0 {
            self.inter_token_latency
                .observe_many(seconds(last_token, at), tokens);
            self.pending_intervals.1 = 0;
        }
    }

    /// Counts a request whose last token has been given.
    pub(super) fn finished(&mut self, live: &Live) {
        let request = &live.request;
        match request.finish {
            FinishReason::Stop => self.success_stop += 1,
            FinishReason::Length => self.success_length += 1,
        }
        let first = live.first_token.unwrap_or(live.arrived);
        let last = live.last_token.unwrap_or(first);
        let admitted = live.admitted.unwrap_or(live.arrived);
        let decode_seconds = seconds(first, last);
        let later_tokens = live.generated.saturating_sub(1);
        self.request_prompt_tokens
            .observe(f64::from(request.prompt_tokens));
        self.request_generation_tokens
            .observe(f64::from(live.generated));
        self.request_params_n.observe(1.0);
        self.request_params_max_tokens
            .observe(f64::from(request.max_tokens));
        self.request_time_per_output_token
            .observe(if later_tokens == 0 {
                0.0
            } else {
                decode_seconds / f64::from(later_tokens)
            });
        self.e2e_request_latency
            .observe(seconds(live.arrived, last));
        self.request_queue_time
            .observe(seconds(live.arrived, admitted));
        self.request_inference_time.observe(seconds(admitted, last));
        self.request_prefill_time.observe(seconds(admitted, first));
        self.request_decode_time.observe(decode_seconds);
        self.request_num_preemptions
            .observe(f64::from(live.preemptions));
        self.request_prefill_kv_computed
            .observe(f64::from(request.prompt_tokens - live.cached_tokens));
        self.gone(live);
    }

    /// A request that had given output is no more, by its end or by an abort.
    pub(super) fn gone(&mut self, live: &Live) {
        if let (Some(adapter), Some(_)) = (live.request.adapter, live.first_token) {
            self.adapters.leave(adapter);
        }
    }

    /// The end of a step: sets what vLLM sets there.
    pub(super) fn step_ended(&mut self, at: Instant, gauges: Gauges, profile: &Profile) {
        self.steps += 1;
        self.gauges = gauges;
        self.count_intervals(at);
        let [queries, hits] = std::mem::take(&mut self.pending_prefix);
        self.prefix_cache_queries += queries;
        self.prefix_cache_hits += hits;
        if profile.max_loras > 0 {
            self.adapters.set(at);
        }
    }
}

/// The series of `vllm:lora_requests_info`.
#[derive(Clone, Debug, Default)]
struct AdapterLabels {
    /// Adapters with a live request that has given output, in order of entry, and how many such requests.
    live: Vec<(AdapterId, u32)>,
    sets: Vec<(Vec<AdapterId>, Instant)>,
    index: HashMap<Vec<AdapterId>, usize>,
    current: Option<usize>,
}

impl AdapterLabels {
    fn enter(&mut self, adapter: AdapterId) {
        match self.live.iter_mut().find(|(live, _)| *live == adapter) {
            Some((_, requests)) => *requests += 1,
            None => self.live.push((adapter, 1)),
        }
    }

    fn leave(&mut self, adapter: AdapterId) {
        if let Some(place) = self.live.iter().position(|(live, _)| *live == adapter) {
            self.live[place].1 -= 1;
            if self.live[place].1 == 0 {
                self.live.remove(place);
            }
        }
    }

    fn set(&mut self, at: Instant) {
        let live = self.live.iter().map(|&(adapter, _)| adapter);
        let place = match self.current {
            Some(place) if live.clone().eq(self.sets[place].0.iter().copied()) => place,
            _ => {
                let labels: Vec<_> = live.collect();
                *self.index.entry(labels).or_insert_with_key(|labels| {
                    self.sets.push((labels.clone(), at));
                    self.sets.len() - 1
                })
            }
        };
        self.sets[place].1 = at;
        self.current = Some(place);
    }

    fn current(&self) -> Option<&[AdapterId]> {
        self.current.map(|place| self.sets[place].0.as_slice())
    }
}

fn seconds(from: Instant, to: Instant) -> f64 {
    to.ms_since(from) / 1e3
}

//! One vLLM server as a state machine: requests in, tokens out, time as an argument.
//!
//! The engine follows vLLM V1's scheduler (vllm/v1/core/sched/scheduler.py) step by step: decodes first, chunked prefill
//! within the token budget, FCFS admission, LoRA slots, preemption by recompute. It reads no clock and draws no chance;
//! a server in real time and a simulation in virtual time drive the same code:
//!
//! - [`Engine::submit`] and [`Engine::abort`] take effect when the step under way ends, or at once if there is none;
//! - [`Engine::next_step_end`] says when there will be something to hear;
//! - [`Engine::advance`] ends every step that is due and hands out its tokens.

pub mod exposition;
pub mod histogram;
pub mod profile;
pub mod statistics;
pub mod step_time;

mod adapter_slots;
mod condition;
mod kv_cache;
mod request;
mod schedule;

use std::collections::VecDeque;

use picker_core::time::Instant;

pub use kv_cache::content::{Content, Segment};
pub use kv_cache::event::{KvBatch, KvEvent};
pub use profile::Profile;
pub use request::{AdapterId, FinishReason, Request, RequestId};
pub use statistics::Statistics;

use adapter_slots::AdapterSlots;
use condition::Condition;
use kv_cache::content::Identity;
use kv_cache::{BlockId, KvCache};
use request::Live;
use statistics::Gauges;

/// A token that a request was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Output {
    /// The request.
    pub request: RequestId,
    /// The end of the step that gave it.
    pub at: Instant,
    /// Which token of the answer it is, from 1.
    pub token: u32,
    /// Set with the last one.
    pub finished: Option<FinishReason>,
}

impl Output {
    /// Whether it is the first token of the answer.
    #[must_use]
    pub const fn is_first(&self) -> bool {
        self.token == 1
    }
}

/// A request that the server could never finish.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// Prompt and output together are longer than the context.
    #[error(
        "prompt_tokens + output_tokens is {tokens}: give at most max_model_len, {max_model_len}"
    )]
    TooLong {
        /// Prompt and output tokens of the request.
        tokens: u64,
        /// The profile's limit.
        max_model_len: u32,
    },
    /// The request names an adapter and the server has no slot for any.
    #[error("adapter is set and the profile's max_loras is 0: give it at least 1")]
    NoSlots,
    /// The segments of the prompt are not as long as the prompt.
    #[error(
        "the segments of the prompt have {segment_tokens} tokens: give as many as prompt_tokens, {prompt_tokens}"
    )]
    ContentLength {
        /// Tokens of all segments.
        segment_tokens: u64,
        /// Tokens of the prompt.
        prompt_tokens: u32,
    },
    /// The server has crashed.
    #[error("the engine has crashed: restart it")]
    Crashed,
}

/// One vLLM server.
#[derive(Clone, Debug)]
pub struct Engine {
    profile: Profile,
    /// Arrived since the step under way began: the scheduler has not seen them.
    inbox: Vec<Live>,
    waiting: VecDeque<Live>,
    /// Passed by others for want of an adapter slot; looked at before `waiting`, as vLLM's `skipped_waiting` is.
    deferred: VecDeque<Live>,
    running: Vec<Live>,
    /// Aborted since the step under way began.
    aborted: Vec<RequestId>,
    slots: AdapterSlots,
    cache: KvCache,
    /// The end of the step under way.
    step_end: Option<Instant>,
    /// Adapters that the step under way loads.
    loads: u64,
    /// Multiplies the time of each step.
    slowdown: f64,
    condition: Condition,
    statistics: Statistics,
    /// Requests so far; numbers those that share no prefix.
    submitted: u64,
    kv_batches: Vec<KvBatch>,
    kv_sequence: u64,
    // Kept for their memory.
    hits: Vec<BlockId>,
    table: Vec<BlockId>,
}

impl Engine {
    /// An idle server without resident adapters. `profile` is expected to be valid ([`Profile::validate`]).
    #[must_use]
    pub fn new(profile: Profile) -> Self {
        Self {
            slots: AdapterSlots::new(&profile),
            cache: KvCache::new(&profile),
            profile,
            inbox: Vec::new(),
            waiting: VecDeque::new(),
            deferred: VecDeque::new(),
            running: Vec::new(),
            aborted: Vec::new(),
            step_end: None,
            loads: 0,
            slowdown: 1.0,
            condition: Condition::Healthy,
            statistics: Statistics::new(),
            submitted: 0,
            kv_batches: Vec::new(),
            kv_sequence: 0,
            hits: Vec::new(),
            table: Vec::new(),
        }
    }

    /// Hands over a request that arrives at `now` and shares no prefix with any other. A step begins at once if none is under way.
    ///
    /// Call [`Engine::advance`] with the same `now` before: steps that are due end first.
    ///
    /// # Errors
    /// Refuses a request that could never end; nothing changes then.
    pub fn submit(&mut self, now: Instant, request: Request) -> Result<(), SubmitError> {
        let identity = Identity::Unique(self.submitted);
        self.take_in(now, request, identity)
    }

    /// The same for a request whose prompt may begin like others.
    ///
    /// # Errors
    /// As [`Engine::submit`], and when `content` is not as long as the prompt.
    pub fn submit_with(
        &mut self,
        now: Instant,
        request: Request,
        content: Content,
    ) -> Result<(), SubmitError> {
        let tokens = |segment: &Segment| u64::from(segment.tokens);
        let segment_tokens: u64 = content.prompt.iter().map(tokens).sum();
        if segment_tokens != u64::from(request.prompt_tokens) {
            return Err(SubmitError::ContentLength {
                segment_tokens,
                prompt_tokens: request.prompt_tokens,
            });
        }
        let identity = Identity::shared(content, request.adapter);
        self.take_in(now, request, identity)
    }

    fn take_in(
        &mut self,
        now: Instant,
        mut request: Request,
        identity: Identity,
    ) -> Result<(), SubmitError> {
        if self.condition == Condition::Crashed {
            return Err(SubmitError::Crashed);
        }
        request.prompt_tokens = request.prompt_tokens.max(1);
        request.output_tokens = request.output_tokens.max(1);
        let tokens = u64::from(request.prompt_tokens) + u64::from(request.output_tokens);
        if tokens > u64::from(self.profile.max_model_len) {
            let max_model_len = self.profile.max_model_len;
            return Err(SubmitError::TooLong {
                tokens,
                max_model_len,
            });
        }
        if request.adapter.is_some() && self.profile.max_loras == 0 {
            return Err(SubmitError::NoSlots);
        }
        self.submitted += 1;
        self.inbox.push(Live::new(request, identity, now));
        self.wake(now);
        Ok(())
    }

    /// Begins a step if none is under way.
    fn wake(&mut self, now: Instant) {
        if self.step_end.is_none() && self.condition == Condition::Healthy {
            self.begin_step(now);
        }
    }

    /// Gives up a request, whose client has gone: it gives no further token and leaves with the step under way.
    ///
    /// vLLM counts such a request in no `request_success_total`. Unknown and finished requests are ignored.
    pub fn abort(&mut self, now: Instant, id: RequestId) {
        self.aborted.push(id);
        self.wake(now);
    }

    /// When to call [`Engine::advance`] next: when the step under way ends, or without one when an adapter comes from disk; `None` when the
    /// server is idle, hangs or has crashed.
    #[must_use]
    pub fn next_step_end(&self) -> Option<Instant> {
        if self.condition == Condition::Healthy {
            self.step_end.or_else(|| self.slots.next_fetched())
        } else {
            None
        }
    }

    /// Ends every step that is due at `now`, in order, and appends the tokens it gave to `outputs`.
    pub fn advance(&mut self, now: Instant, outputs: &mut Vec<Output>) {
        while let Some(end) = self.next_step_end()
            && end <= now
        {
            if self.step_end.is_some() {
                self.end_step(end, outputs);
            }
            self.begin_step(end);
        }
    }

    /// What the server's `/metrics` shows.
    #[must_use]
    pub const fn statistics(&self) -> &Statistics {
        &self.statistics
    }

    /// The hardware and settings.
    #[must_use]
    pub const fn profile(&self) -> &Profile {
        &self.profile
    }

    /// The adapters in GPU memory, least recently used first. vLLM does not show it.
    #[must_use]
    pub fn resident_adapters(&self) -> &[AdapterId] {
        self.slots.resident()
    }

    /// Requests that have not ended, those included that no metric shows yet.
    #[must_use]
    pub fn unfinished(&self) -> usize {
        self.inbox.len() + self.waiting.len() + self.deferred.len() + self.running.len()
    }

    /// Forgets the prefix cache, as vLLM's `POST /reset_prefix_cache` does. Says whether it did: not while a request holds a block.
    pub fn reset_prefix_cache(&mut self) -> bool {
        self.cache.reset()
    }

    /// Begins to keep KV events. Take them with [`Engine::take_kv_batches`]: they are kept without a bound.
    pub fn keep_kv_events(&mut self) {
        self.cache.keep_events();
    }

    /// The KV events of the steps that ended since the last call.
    pub fn take_kv_batches(&mut self) -> Vec<KvBatch> {
        std::mem::take(&mut self.kv_batches)
    }

    /// Takes in what came during the last step, and starts the next if there is anything to compute.
    fn begin_step(&mut self, now: Instant) {
        for live in self.inbox.drain(..) {
            if let Some(adapter) = live.request.adapter {
                self.slots.fetch(adapter, now);
            }
            self.waiting.push_back(live);
        }
        let aborted = !self.aborted.is_empty() && self.remove_aborted();
        let step = schedule::next_step(self, now);
        self.loads = u64::from(step.adapter_loads);
        self.step_end = step.time.map(|time| now + time);
        // vLLM runs one empty step after an abort that leaves nothing to do, so its gauges fall to zero.
        if self.step_end.is_none() && aborted {
            self.statistics
                .step_ended(now, self.gauges(), &self.profile);
        }
    }

    fn remove_aborted(&mut self) -> bool {
        let mut removed = false;
        for id in std::mem::take(&mut self.aborted) {
            if let Some(place) = self.running.iter().position(|live| live.request.id == id) {
                let live = self.running.remove(place);
                leave(&mut self.cache, &mut self.slots, &live);
                self.statistics.gone(&live);
                removed = true;
                continue;
            }
            for queue in [&mut self.waiting, &mut self.deferred] {
                if let Some(live) = queue
                    .iter()
                    .position(|live| live.request.id == id)
                    .and_then(|place| queue.remove(place))
                {
                    self.statistics.gone(&live);
                    removed = true;
                }
            }
        }
        removed
    }

    fn end_step(&mut self, at: Instant, outputs: &mut Vec<Output>) {
        let mut iteration_tokens = 0;
        let mut any_finished = false;
        for live in &mut self.running {
            let scheduled = std::mem::take(&mut live.scheduled);
            live.computed += scheduled;
            let gives = scheduled > 0 && live.computed == live.tokens();
            if !gives || (!self.aborted.is_empty() && self.aborted.contains(&live.request.id)) {
                continue;
            }
            iteration_tokens += self.statistics.token(live, at);
            live.give_token(at);
            let finished = live.generated == live.request.output_tokens;
            if finished {
                // In order with the tokens of others: an adapter may leave here and come back behind another.
                self.statistics.finished(live);
                any_finished = true;
            }
            outputs.push(Output {
                request: live.request.id,
                at,
                token: live.generated,
                finished: finished.then_some(live.request.finish),
            });
        }
        if any_finished {
            self.remove_finished();
        }
        if iteration_tokens > 0 {
            self.statistics
                .iteration_tokens
                .observe(iteration_tokens as f64);
        }
        self.statistics.adapter_loads += self.loads;
        self.statistics.step_ended(at, self.gauges(), &self.profile);
        self.publish(at);
    }

    fn remove_finished(&mut self) {
        let (cache, slots) = (&mut self.cache, &mut self.slots);
        self.running.retain(|live| {
            let finished = live.generated == live.request.output_tokens;
            if finished {
                leave(cache, slots, live);
            }
            !finished
        });
    }

    fn publish(&mut self, at: Instant) {
        let events = self.cache.take_events();
        if !events.is_empty() {
            self.kv_batches.push(KvBatch {
                sequence: self.kv_sequence,
                at,
                events,
            });
            self.kv_sequence += 1;
        }
    }

    fn gauges(&self) -> Gauges {
        Gauges {
            running: self.running.len(),
            waiting_capacity: self.waiting.len(),
            waiting_deferred: self.deferred.len(),
            kv_usage: self.cache.usage(),
        }
    }
}

/// Gives back what a running request holds.
fn leave(cache: &mut KvCache, slots: &mut AdapterSlots, live: &Live) {
    cache.release(&live.blocks);
    if let Some(adapter) = live.request.adapter {
        slots.leave(adapter);
    }
}

#[cfg(test)]
mod tests;

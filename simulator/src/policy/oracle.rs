//! What the oracle knows: a twin of each engine, followed step by step, and run ahead to see when a request would end.
//!
//! A twin schedules as the engine does (running requests first, FCFS admission within the token budget, adapter slots), but
//! leaves out preemption, which needs a full KV cache. Where nothing changes but the number of tokens, it runs many steps at once.

use std::collections::VecDeque;

use crate::engine::step_time::Work;
use crate::engine::{AdapterId, Profile};

/// One request as the oracle sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sequence {
    /// Which request it is.
    pub job: usize,
    /// Its adapter.
    pub adapter: Option<AdapterId>,
    /// Prompt tokens yet to be computed.
    pub prefill: u32,
    /// Tokens yet to be given.
    pub outputs: u32,
    /// Tokens computed.
    pub context: u32,
    /// Prompt tokens that the step under way computes.
    scheduled: u32,
}

impl Sequence {
    /// A request that has not been begun.
    #[must_use]
    pub const fn new(
        job: usize,
        adapter: Option<AdapterId>,
        prompt_tokens: u32,
        output_tokens: u32,
    ) -> Self {
        Self {
            job,
            adapter,
            prefill: prompt_tokens,
            outputs: output_tokens,
            context: 0,
            scheduled: 0,
        }
    }

    /// Whether the step under way computes one of its answer's tokens.
    const fn decodes(&self) -> bool {
        self.prefill == 0
    }

    /// Whether the step under way gives it a token.
    const fn gives(&self) -> bool {
        self.scheduled == self.prefill
    }
}

/// One engine's requests.
#[derive(Clone, Debug, Default)]
pub struct Twin {
    running: Vec<Sequence>,
    waiting: VecDeque<Sequence>,
    /// Least recently used first.
    resident: Vec<AdapterId>,
}

impl Twin {
    /// A request arrives.
    pub fn push(&mut self, sequence: Sequence) {
        self.waiting.push_back(sequence);
    }

    /// A step begins: each sequence gets its share of it. Says how long it takes in milliseconds; `None` if there is nothing to do.
    pub fn begin_step(&mut self, profile: &Profile) -> Option<f64> {
        let decoding = self.running.iter().filter(|one| one.decodes()).count() as u32;
        let mut budget = profile.token_budget.saturating_sub(decoding);
        for one in &mut self.running {
            one.scheduled = one.prefill.min(budget);
            budget -= one.scheduled;
        }
        let mut adapters: Vec<AdapterId> = Vec::new();
        for adapter in self.running.iter().filter_map(|one| one.adapter) {
            if !adapters.contains(&adapter) {
                adapters.push(adapter);
            }
        }
        self.admit(profile, budget, &mut adapters);
        if self.running.is_empty() {
            return None;
        }
        let loads = self.activate(&adapters, profile.max_loras);
        Some(self.step_ms(profile, loads))
    }

    /// The step under way ends; what it finished is gone.
    pub fn end_step(&mut self) {
        self.end_steps(1);
    }

    /// Milliseconds from now to the end of `newcomer`, were it to arrive now and nothing after it: `to_step_end_ms` is what is
    /// left of the step under way, if there is one. What takes `limit_ms` or longer is followed no further.
    #[must_use]
    pub fn completion_ms(
        mut self,
        profile: &Profile,
        to_step_end_ms: Option<f64>,
        newcomer: Sequence,
        limit_ms: f64,
    ) -> f64 {
        let ahead = &mut self;
        let mut ms = 0.0;
        if let Some(left) = to_step_end_ms {
            ms += left;
            ahead.end_steps(1);
        }
        ahead.push(newcomer);
        while ms < limit_ms {
            if ahead.only_decodes() {
                return ms + ahead.decode_ms(profile, newcomer.job);
            }
            let Some(step_ms) = ahead.begin_step(profile) else {
                break;
            };
            let steps = ahead.equal_steps();
            // The context grows by a token a step: the step in the middle takes the mean time.
            ahead.grow(steps / 2);
            let mean_ms = if steps > 1 {
                ahead.step_ms(profile, 0)
            } else {
                step_ms
            };
            ms += mean_ms * f64::from(steps);
            ahead.shrink(steps / 2);
            ahead.end_steps(steps);
            if !ahead.has(newcomer.job) {
                break;
            }
        }
        ms
    }

    /// Whether nothing waits, neither a request nor a prompt.
    fn only_decodes(&self) -> bool {
        self.waiting.is_empty() && self.running.iter().all(Sequence::decodes)
    }

    /// Milliseconds to the end of `job` where nothing waits: from one end to the next at once.
    fn decode_ms(&mut self, profile: &Profile, job: usize) -> f64 {
        self.running.sort_unstable_by_key(|one| one.outputs);
        let mut sequences = self.running.len() as u32;
        let mut contexts: u64 = self.running.iter().map(|one| u64::from(one.context)).sum();
        let (mut steps_done, mut ms) = (0, 0.0);
        for one in &self.running {
            let steps = one.outputs - steps_done;
            if steps > 0 {
                // As in `completion_ms`, the step in the middle takes the mean time.
                let work = Work {
                    decode_sequences: sequences,
                    context_tokens: contexts + u64::from(sequences * (steps / 2 + 1)),
                    ..Work::default()
                };
                let step_ms = profile.step_time(&work, 0).as_secs_f64() * 1e3;
                ms += step_ms * f64::from(steps);
                contexts += u64::from(sequences * steps);
                steps_done = one.outputs;
            }
            if one.job == job {
                break;
            }
            sequences -= 1;
            contexts -= u64::from(one.context + one.outputs);
        }
        ms
    }

    fn admit(&mut self, profile: &Profile, mut budget: u32, adapters: &mut Vec<AdapterId>) {
        let mut passed = VecDeque::new();
        while budget > 0
            && self.running.len() < profile.max_num_seqs
            && let Some(mut one) = self.waiting.pop_front()
        {
            let newcomer = one.adapter.filter(|adapter| !adapters.contains(adapter));
            if newcomer.is_some() && adapters.len() >= profile.max_loras {
                passed.push_back(one);
                continue;
            }
            adapters.extend(newcomer);
            one.scheduled = one.prefill.min(budget);
            budget -= one.scheduled;
            self.running.push(one);
        }
        passed.append(&mut self.waiting);
        self.waiting = passed;
    }

    /// Makes the adapters of a step resident; says how many have to be loaded.
    fn activate(&mut self, adapters: &[AdapterId], slots: usize) -> u32 {
        let before = self.resident.len();
        self.resident.retain(|adapter| !adapters.contains(adapter));
        let hits = before - self.resident.len();
        let keep = slots.saturating_sub(adapters.len());
        let evicted = self.resident.len().saturating_sub(keep);
        self.resident.drain(..evicted);
        self.resident.extend_from_slice(adapters);
        (adapters.len() - hits) as u32
    }

    /// How many steps like the one under way follow each other: one if it computes prompts or loads, or else until an answer ends.
    fn equal_steps(&self) -> u32 {
        if self.running.iter().any(|one| !one.decodes()) {
            return 1;
        }
        let first_end = self.running.iter().map(|one| one.outputs).min();
        first_end.unwrap_or(1).max(1)
    }

    fn grow(&mut self, steps: u32) {
        for one in &mut self.running {
            one.context += steps;
        }
    }

    fn shrink(&mut self, steps: u32) {
        for one in &mut self.running {
            one.context -= steps;
        }
    }

    fn end_steps(&mut self, steps: u32) {
        for one in &mut self.running {
            if one.gives() {
                one.outputs -= steps.min(one.outputs);
                one.context += steps;
            }
            one.context += one.scheduled;
            one.prefill -= one.scheduled;
            one.scheduled = 0;
        }
        self.running.retain(|one| one.outputs > 0);
    }

    fn has(&self, job: usize) -> bool {
        let mut all = self.running.iter().chain(&self.waiting);
        all.any(|one| one.job == job)
    }

    fn step_ms(&self, profile: &Profile, loads: u32) -> f64 {
        let mut work = Work::default();
        for one in &self.running {
            if one.decodes() {
                work.add_decode(one.context + 1);
            } else if one.scheduled > 0 {
                work.add_prefill(one.context, one.scheduled);
            }
        }
        let time = profile.step_time(&work, loads);
        time.as_secs_f64() * 1e3
    }
}

#[cfg(test)]
mod tests {
    use picker_core::time::Instant;

    use super::*;
    use crate::engine::{Engine, Request, RequestId};

    /// A step of 40 + 0.1 a prompt token + 0.5 a decoding sequence; 200 to load an adapter; 8 at once, 4 slots.
    fn profile() -> Profile {
        Profile::demo()
    }

    fn adapter(number: u32) -> Option<AdapterId> {
        Some(AdapterId(number))
    }

    #[test]
    fn a_completion_is_the_sum_of_its_steps() {
        // Alone: 40 + 100 x 0.1, then 2 x 40.5.
        let newcomer = Sequence::new(9, None, 100, 3);
        let alone = Twin::default().completion_ms(&profile(), None, newcomer, f64::INFINITY);
        assert_eq!(alone, 131.0);
        // Its adapter is loaded first.
        let loads = Sequence::new(9, adapter(1), 100, 3);
        let loaded = Twin::default().completion_ms(&profile(), None, loads, f64::INFINITY);
        assert_eq!(loaded, 331.0);
        // Another is 5 ms before the end of its only prompt step, and gives 2 more tokens beside the newcomer's prompt and first
        // decode: 5, then 40 + 10 + 0.5, then 41, then 40.5 alone.
        let mut twin = Twin::default();
        twin.push(Sequence::new(1, None, 100, 3));
        twin.begin_step(&profile());
        let beside = twin.completion_ms(&profile(), Some(5.0), newcomer, f64::INFINITY);
        assert!((beside - 137.0).abs() < 1e-9, "{beside}");
    }

    #[test]
    fn a_request_waits_for_a_place_and_for_a_slot() {
        let mut one_place = profile();
        one_place.max_num_seqs = 1;
        let mut twin = Twin::default();
        twin.push(Sequence::new(1, None, 100, 3));
        let newcomer = Sequence::new(9, None, 100, 3);
        assert_eq!(
            twin.completion_ms(&one_place, None, newcomer, f64::INFINITY),
            262.0
        );
        let mut one_slot = profile();
        one_slot.max_loras = 1;
        let mut twin = Twin::default();
        twin.push(Sequence::new(1, adapter(1), 100, 3));
        let newcomer = Sequence::new(9, adapter(2), 100, 3);
        assert_eq!(
            twin.completion_ms(&one_slot, None, newcomer, f64::INFINITY),
            662.0
        );
    }

    #[test]
    fn a_twin_foresees_what_the_engine_does() {
        let profile = profile();
        let (mut engine, mut twin) = (Engine::new(profile.clone()), Twin::default());
        for job in 0..30_u32 {
            let (prompt, output) = (100 + 700 * (job % 4), 5 + 11 * (job % 7));
            let id = RequestId(u64::from(job));
            let request = Request::new(id, adapter(job % 6), prompt, output);
            engine.submit(Instant::ZERO, request).expect("it fits");
            // The first request begins a step at once; the others find it under way.
            let sequence = Sequence::new(job as usize, adapter(job % 6), prompt, output);
            if job < 29 {
                twin.push(sequence);
                if job == 0 {
                    twin.begin_step(&profile);
                }
                continue;
            }
            let step_end = engine.next_step_end().expect("a step is under way");
            let left_ms = step_end.ms_since(Instant::ZERO);
            let foreseen =
                twin.clone()
                    .completion_ms(&profile, Some(left_ms), sequence, f64::INFINITY);
            let mut outputs = Vec::new();
            engine.advance(Instant::from_millis(1_000_000), &mut outputs);
            let last = outputs.iter().rfind(|output| output.request == id);
            let true_ms = last.expect("it ended").at.ms_since(Instant::ZERO);
            assert!(
                (foreseen / true_ms - 1.0).abs() < 1e-6,
                "{foreseen} {true_ms}"
            );
        }
    }
}

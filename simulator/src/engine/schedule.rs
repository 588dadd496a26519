//! What goes into one step: vLLM V1's `Scheduler.schedule`, without a prefix cache.

use std::collections::VecDeque;
use std::time::Duration;

use picker_core::time::Instant;

use super::request::Live;
use super::{AdapterId, Engine};

/// The step that was put together.
pub(super) struct Step {
    /// How long it takes; `None` when there is nothing to compute.
    pub(super) time: Option<Duration>,
    pub(super) adapter_loads: u32,
}

/// Puts the next step together: running requests first, then waiting ones if nobody had to be preempted.
pub(super) fn next_step(engine: &mut Engine, now: Instant) -> Step {
    let mut budget = engine.profile.token_budget;
    let preempted = schedule_running(engine, &mut budget);
    let mut adapters = adapters_of(&engine.running);
    if !preempted {
        admit(engine, now, &mut budget, &mut adapters);
    }

    let (mut prefill_tokens, mut decode_seqs) = (0, 0);
    for live in &engine.running {
        if live.decodes() {
            decode_seqs += 1;
        } else {
            prefill_tokens += live.scheduled;
        }
    }
    if prefill_tokens + decode_seqs == 0 {
        return Step {
            time: None,
            adapter_loads: 0,
        };
    }
    let adapter_loads = engine.slots.activate(&adapters);
    let time = engine
        .profile
        .step_time(prefill_tokens, decode_seqs, adapter_loads);
    Step {
        time: Some(time),
        adapter_loads,
    }
}

/// Gives each running request its share of the budget, in order. When blocks run out the newest loses its own and goes to
/// the front of the queue (FCFS policy). Says whether one did.
fn schedule_running(engine: &mut Engine, budget: &mut u32) -> bool {
    let mut preempted = false;
    let mut place = 0;
    while place < engine.running.len() {
        let tokens = engine.running[place].remaining().min(*budget);
        if !grow(
            &mut engine.running[place],
            tokens,
            &mut engine.free_blocks,
            engine.profile.block_size,
        ) {
            preempted = true;
            if let Some(mut victim) = engine.running.pop() {
                engine.free_blocks += victim.blocks;
                victim.preempted();
                engine.waiting.push_front(victim);
            }
            continue;
        }
        *budget -= tokens;
        place += 1;
    }
    preempted
}

/// Admits waiting requests in order of arrival. Only a request whose adapter finds no slot is passed by others; one that
/// finds no blocks holds up everyone behind it.
fn admit(engine: &mut Engine, now: Instant, budget: &mut u32, adapters: &mut Vec<AdapterId>) {
    let mut passed = VecDeque::new();
    while *budget > 0 && engine.running.len() < engine.profile.max_num_seqs {
        let queue = if engine.deferred.is_empty() {
            &mut engine.waiting
        } else {
            &mut engine.deferred
        };
        let Some(mut live) = queue.pop_front() else {
            break;
        };
        let newcomer = live
            .request
            .adapter
            .filter(|adapter| !adapters.contains(adapter));
        if newcomer.is_some() && adapters.len() >= engine.profile.max_loras {
            passed.push_back(live);
            continue;
        }
        let tokens = live.remaining().min(*budget);
        if !grow(
            &mut live,
            tokens,
            &mut engine.free_blocks,
            engine.profile.block_size,
        ) {
            queue.push_front(live);
            break;
        }
        live.admitted.get_or_insert(now);
        adapters.extend(newcomer);
        *budget -= tokens;
        engine.running.push(live);
    }
    passed.append(&mut engine.deferred);
    engine.deferred = passed;
}

/// Books `tokens` more tokens for `live` and the blocks they need; false, and nothing booked, if there are too few.
fn grow(live: &mut Live, tokens: u32, free_blocks: &mut u32, block_size: u32) -> bool {
    let needed = (live.computed + tokens)
        .div_ceil(block_size)
        .saturating_sub(live.blocks);
    if needed > *free_blocks {
        return false;
    }
    *free_blocks -= needed;
    live.blocks += needed;
    live.scheduled = tokens;
    true
}

fn adapters_of(running: &[Live]) -> Vec<AdapterId> {
    let mut adapters = Vec::new();
    for adapter in running.iter().filter_map(|live| live.request.adapter) {
        if !adapters.contains(&adapter) {
            adapters.push(adapter);
        }
    }
    adapters
}

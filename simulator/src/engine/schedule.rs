//! What goes into one step: vLLM V1's `Scheduler.schedule` (vllm/v1/core/sched/scheduler.py).

use std::time::Duration;

use picker_core::time::Instant;

use super::request::Live;
use super::step_time::Work;
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
    let mut work = Work::default();
    let preempted = schedule_running(engine, &mut budget, &mut work);
    if !preempted {
        admit(engine, now, &mut budget, &mut work);
    }
    if work.is_empty() {
        return Step {
            time: None,
            adapter_loads: 0,
        };
    }
    let adapter_loads = engine.slots.activate();
    let time = engine.profile.step_time(&work, adapter_loads);
    Step {
        time: Some(match engine.slowdown {
            1.0 => time,
            slowdown => time.mul_f64(slowdown),
        }),
        adapter_loads,
    }
}

/// Gives each running request its share of the budget, in order. When blocks run out the newest loses its own and goes to
/// the front of the queue (FCFS policy). Says whether one did.
fn schedule_running(engine: &mut Engine, budget: &mut u32, work: &mut Work) -> bool {
    let mut preempted = false;
    let mut place = 0;
    while place < engine.running.len() && *budget > 0 {
        let live = &mut engine.running[place];
        let tokens = live.remaining().min(*budget);
        let total = live.computed + tokens;
        let held = live.blocks.len() as u32 * engine.profile.block_size;
        if total > held && !engine.cache.grow(&mut live.blocks, &[], total) {
            preempted = true;
            preempt_newest(engine);
            continue;
        }
        book(engine, place, tokens, work);
        *budget -= tokens;
        place += 1;
    }
    preempted
}

/// Books `tokens` tokens of the running request at `place` for the step. Its blocks that will be full then are cached at once, so that
/// others can share them from the next look-up on.
fn book(engine: &mut Engine, place: usize, tokens: u32, work: &mut Work) {
    let live = &mut engine.running[place];
    live.scheduled = tokens;
    let total = live.computed + tokens;
    if live.generated > 0 && tokens == 1 && total == live.tokens() {
        work.add_decode(total);
    } else {
        work.add_prefill(live.computed, tokens);
    }
    let block_size = engine.profile.block_size;
    if total >= (live.stored as u32 + 1) * block_size {
        let full = (total / block_size) as usize;
        let stored = (live.stored, full);
        let adapter = live.request.adapter;
        engine
            .cache
            .store(&live.blocks, &mut live.identity, adapter, stored);
        live.stored = full;
    }
}

fn preempt_newest(engine: &mut Engine) {
    let Some(mut victim) = engine.running.pop() else {
        return;
    };
    engine.cache.release(&victim.blocks);
    if let Some(adapter) = victim.request.adapter {
        engine.slots.leave(adapter);
    }
    victim.preempted();
    engine.waiting.push_front(victim);
}

/// Admits waiting requests in order of arrival, those that were passed before first. Only a request whose adapter finds no slot, or is not in
/// memory yet, is passed by others; one that finds no blocks holds up everyone behind it.
fn admit(engine: &mut Engine, now: Instant, budget: &mut u32, work: &mut Work) {
    let mut place = 0;
    while place < engine.deferred.len() && has_room(engine, *budget) {
        let adapter = engine.deferred[place].request.adapter;
        if !may_join(engine, adapter, now) {
            place += 1;
            continue;
        }
        let Some(live) = engine.deferred.remove(place) else {
            return;
        };
        if let Some(live) = start(engine, live, now, budget, work) {
            engine.deferred.insert(place, live);
            return;
        }
    }
    while has_room(engine, *budget)
        && let Some(live) = engine.waiting.pop_front()
    {
        if !may_join(engine, live.request.adapter, now) {
            engine.deferred.push_back(live);
        } else if let Some(live) = start(engine, live, now, budget, work) {
            engine.waiting.push_front(live);
            return;
        }
    }
}

fn has_room(engine: &Engine, budget: u32) -> bool {
    budget > 0 && engine.running.len() < engine.profile.max_num_seqs
}

fn may_join(engine: &mut Engine, adapter: Option<AdapterId>, now: Instant) -> bool {
    let slots = &mut engine.slots;
    adapter.is_none_or(|id| slots.has_room(id) && slots.fetch(id, now))
}

/// Lets a waiting request run; gives it back if there are too few blocks.
fn start(
    engine: &mut Engine,
    mut live: Live,
    now: Instant,
    budget: &mut u32,
    work: &mut Work,
) -> Option<Live> {
    if !take_blocks(engine, &mut live, *budget) {
        return Some(live);
    }
    if live.admitted.is_none() {
        live.admitted = Some(now);
        live.cached_tokens = live.computed;
        let prompt_tokens = live.request.prompt_tokens;
        engine.statistics.looked_up(prompt_tokens, live.computed);
    }
    if let Some(adapter) = live.request.adapter {
        engine.slots.join(adapter);
    }
    let tokens = live.remaining().min(*budget);
    *budget -= tokens;
    engine.running.push(live);
    book(engine, engine.running.len() - 1, tokens, work);
    None
}

/// Takes what the prefix cache has of a waiting request, and blocks for the tokens that `budget` lets it compute; false, and nothing
/// taken, if there are too few. The last token is always computed, for its logits.
fn take_blocks(engine: &mut Engine, live: &mut Live, budget: u32) -> bool {
    let (cache, hits) = (&mut engine.cache, &mut engine.hits);
    hits.clear();
    let reusable = live.tokens() - 1;
    cache.find(&mut live.identity, &live.blocks, reusable, hits);
    let cached = hits.len() as u32 * engine.profile.block_size;
    let total = cached + (live.tokens() - cached).min(budget);
    let mut blocks = std::mem::take(&mut engine.table);
    blocks.clear();
    let taken = cache.grow(&mut blocks, hits, total);
    if taken {
        live.computed = cached;
        live.stored = hits.len();
        std::mem::swap(&mut live.blocks, &mut blocks);
    }
    engine.table = blocks;
    taken
}

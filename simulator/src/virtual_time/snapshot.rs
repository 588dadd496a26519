//! What a reader of an engine's metrics page would know, without the page: bulk runs read thousands of times.

use picker_core::adapter::Model;
use picker_core::endpoint::{AdapterReading, EngineReading, Reading};

use crate::engine::{AdapterId, Engine};

/// When every simulated server started, in seconds since 1970.
pub const STARTED_UNIX_SECONDS: f64 = 1.75e9;

/// The reading that [`picker_core::exposition::read`] gives of the page that `engine` would show now, where adapters have these
/// names.
#[must_use]
pub fn reading(engine: &Engine, adapter_names: &[String]) -> Reading {
    let (statistics, profile) = (engine.statistics(), engine.profile());
    let gauges = statistics.gauges;
    let steps = &statistics.iteration_tokens;
    let waiting = gauges.waiting_capacity + gauges.waiting_deferred;
    let one = EngineReading {
        engine: "0".to_owned(),
        running: Some(gauges.running as u64),
        waiting: Some(waiting as u64),
        waiting_capacity: Some(gauges.waiting_capacity as u64),
        waiting_deferred: Some(gauges.waiting_deferred as u64),
        kv_usage: Some(gauges.kv_usage),
        block_size: Some(u64::from(profile.block_size)),
        kv_blocks: Some(u64::from(profile.num_gpu_blocks)),
        prompt_tokens: Some(statistics.prompt_tokens),
        generation_tokens: Some(statistics.generation_tokens),
        steps: Some(steps.count()),
        step_tokens: Some(steps.sum() as u64),
        prefix_queries: Some(statistics.prefix_cache_queries),
        prefix_hits: Some(statistics.prefix_cache_hits),
        preemptions: Some(statistics.preemptions),
        finished: Some(statistics.success_stop + statistics.success_length),
    };
    let name = |id: &AdapterId| adapter_names.get(id.0 as usize).cloned();
    let adapters = statistics.adapters().filter(|_| profile.max_loras > 0);
    Reading {
        engines: vec![one],
        adapters: adapters.map(|running| AdapterReading {
            slots: u32::try_from(profile.max_loras).ok(),
            running: running.iter().filter_map(name).collect(),
        }),
        process_start_s: Some(STARTED_UNIX_SECONDS),
    }
}

/// The name of the base model.
pub const BASE_MODEL: &str = "base";

/// What `/v1/models` of a server with these adapters lists.
#[must_use]
pub fn models(adapter_names: &[String]) -> Vec<Model> {
    let base = Model {
        name: BASE_MODEL.into(),
        adapter: false,
    };
    let adapter = |name: &String| Model {
        name: name.as_str().into(),
        adapter: true,
    };
    std::iter::once(base)
        .chain(adapter_names.iter().map(adapter))
        .collect()
}

//! A recording of vLLM 0.32.0, and what the engine makes of its requests.

use std::path::Path;

use picker_core::time::Instant;
use serde::Deserialize;
use simulator::engine::{
    AdapterId, Content, Engine, KvEvent, Output, Profile, Request, RequestId, Segment,
};

/// What was sent to a server, and what its metrics page showed.
#[derive(Deserialize)]
pub(crate) struct Recording {
    pub(crate) num_gpu_blocks: u32,
    /// Adapter, prompt tokens and output tokens of each request, in order of arrival within five milliseconds.
    pub(crate) requests: Vec<(Option<String>, u32, u32)>,
    /// One for each step whose end was seen.
    pub(crate) timeline: Vec<Shown>,
    /// The events of each step that published any: blocks stored, negative if they follow others, or 0 for one removed.
    #[serde(default)]
    pub(crate) kv_batches: Vec<Vec<i32>>,
}

/// What a metrics page shows after a step: when it ended in seconds, then running, waiting for capacity, deferred, the adapters' label,
/// KV blocks in use, preemptions, prompt tokens, generated tokens, prefix cache queries and hits.
#[derive(Clone, Debug, Deserialize, PartialEq)]
pub(crate) struct Shown(
    pub(crate) f64,
    pub(crate) u64,
    pub(crate) u64,
    pub(crate) u64,
    pub(crate) String,
    pub(crate) u64,
    pub(crate) u64,
    pub(crate) u64,
    pub(crate) u64,
    pub(crate) u64,
    pub(crate) u64,
);

impl Shown {
    /// Running, waiting by reason, adapters.
    pub(crate) fn state(&self) -> (u64, u64, u64, &str) {
        (self.1, self.2, self.3, &self.4)
    }

    pub(crate) const fn seconds(&self) -> f64 {
        self.0
    }

    pub(crate) const fn kv_blocks(&self) -> u64 {
        self.5
    }

    pub(crate) const fn generated(&self) -> u64 {
        self.8
    }

    /// All but the time.
    pub(crate) fn untimed(&self) -> Self {
        {
            let mut same = self.clone();
            same.0 = 0.0;
            same
        }
    }
}

impl Recording {
    pub(crate) fn read(name: &str) -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/fixtures/vllm-0.32.0-load")
            .join(format!("{name}.json"));
        let text = std::fs::read_to_string(path).expect("the fixture is there");
        serde_json::from_str(&text).expect("it is a recording")
    }

    /// The settings of the recorded server, with these times: milliseconds of a step, of a prompt token, of a decoding sequence.
    pub(crate) fn profile(&self, [base_ms, per_prefill_token_ms, per_seq_ms]: [f64; 3]) -> Profile {
        Profile {
            name: "recorded",
            max_num_seqs: 8,
            token_budget: 2048,
            max_model_len: 2048,
            base_ms,
            per_prefill_token_ms,
            per_seq_ms,
            max_loras: 2,
            adapter_load_ms: 0.0,
            block_size: 32,
            num_gpu_blocks: self.num_gpu_blocks,
            ..Profile::demo()
        }
    }

    /// An engine that the requests have been sent to at once, as they were; a step began with the first alone. All prompts begin with
    /// the same `shared_tokens` tokens.
    pub(crate) fn sent(&self, profile: Profile, shared_tokens: u32) -> Engine {
        let mut engine = Engine::new(profile);
        engine.keep_kv_events();
        for (id, (adapter, prompt_tokens, output_tokens)) in self.requests.iter().enumerate() {
            let id = id as u64;
            let adapter = adapter.as_deref().map(adapter_id);
            let request = Request::new(RequestId(id), adapter, *prompt_tokens, *output_tokens);
            let content = content(id, *prompt_tokens, shared_tokens);
            engine
                .submit_with(Instant::ZERO, request, content)
                .expect("as the real server did, ours takes it");
        }
        engine
    }

    /// What the end of each step shows, and what each that changed the cache published.
    pub(crate) fn replay(
        &self,
        profile: Profile,
        shared_tokens: u32,
    ) -> (Vec<Shown>, Vec<Vec<i32>>) {
        let mut engine = self.sent(profile, shared_tokens);
        let mut shown = Vec::new();
        let mut outputs: Vec<Output> = Vec::new();
        while let Some(end) = engine.next_step_end() {
            engine.advance(end, &mut outputs);
            shown.push(page(&engine, end));
        }
        let batches = engine.take_kv_batches();
        let shapes = batches
            .iter()
            .map(|batch| batch.events.iter().map(shape).collect());
        (shown, shapes.collect())
    }
}

fn content(id: u64, prompt_tokens: u32, shared_tokens: u32) -> Content {
    let shared = Segment {
        content: 1,
        tokens: shared_tokens.min(prompt_tokens),
    };
    let own = Segment {
        content: 1000 + id,
        tokens: prompt_tokens - shared.tokens,
    };
    Content {
        prompt: [shared, own].into(),
        answer: 2000 + id,
        salt: None,
    }
}

fn adapter_id(name: &str) -> AdapterId {
    let place = ADAPTERS.iter().position(|adapter| *adapter == name);
    AdapterId(place.expect("a recorded adapter") as u32)
}

/// The names of the adapters.
pub(crate) const ADAPTERS: [&str; 4] = ["a", "b", "c", "d"];

/// What the page would show now.
pub(crate) fn page(engine: &Engine, now: Instant) -> Shown {
    let statistics = engine.statistics();
    let gauges = statistics.gauges;
    let adapters = statistics.adapters().unwrap_or_default();
    let names: Vec<_> = adapters
        .iter()
        .map(|adapter| ADAPTERS[adapter.0 as usize])
        .collect();
    let usable = f64::from(engine.profile().usable_blocks());
    Shown(
        now.ms_since(Instant::ZERO) / 1e3,
        gauges.running as u64,
        gauges.waiting_capacity as u64,
        gauges.waiting_deferred as u64,
        names.join(","),
        (gauges.kv_usage * usable).round() as u64,
        statistics.preemptions,
        statistics.prompt_tokens,
        statistics.generation_tokens,
        statistics.prefix_cache_queries,
        statistics.prefix_cache_hits,
    )
}

fn shape(event: &KvEvent) -> i32 {
    match event {
        KvEvent::Stored { hashes, parent, .. } => {
            let blocks = hashes.len() as i32;
            if parent.is_some() { -blocks } else { blocks }
        }
        KvEvent::Removed { .. } | KvEvent::Cleared => 0,
    }
}

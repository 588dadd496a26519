//! What the counters of real vLLM servers teach, beside what their recordings show step by step.

use std::path::Path;

use picker_core::endpoint::{EngineReading, Reading};
use picker_core::rates::{Factors, Fit, Meter, Rates, pooled};
use picker_core::time::Instant;
use serde::Deserialize;

/// A recording of `simulator/tests/fixtures/vllm-0.32.0-load`, whose README says what the columns are.
#[derive(Deserialize)]
struct Recording {
    timeline: Vec<Row>,
}

type Row = (f64, u64, u64, u64, String, u64, u64, u64, u64, u64, u64);

/// An engine after a step whose end was seen: the time, the batch, and its counters.
#[derive(Clone, Copy)]
struct Moment {
    ms: f64,
    running: u64,
    steps: u64,
    /// Prompt tokens computed.
    prompts: u64,
    generated: u64,
}

fn recorded(name: &str) -> Vec<Moment> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../simulator/tests/fixtures/vllm-0.32.0-load");
    let text = std::fs::read_to_string(folder.join(name)).expect("a recording");
    let recording: Recording = serde_json::from_str(&text).expect("its columns");
    let mut moments: Vec<Moment> = Vec::new();
    for (seconds, running, .., generated, queries, hits) in recording.timeline {
        // Each sequence of the batch generates a token a step; a few ends of steps were not seen.
        let (steps, before, batch) = moments.last().map_or((0, 0, running), |last| {
            (last.steps, last.generated, running.max(last.running))
        });
        let more = ((generated - before) as f64 / batch.max(1) as f64)
            .round()
            .max(1.0);
        moments.push(Moment {
            ms: seconds * 1e3,
            running,
            steps: steps + more as u64,
            prompts: queries - hits,
            generated,
        });
    }
    moments
}

impl Moment {
    fn reading(&self) -> Reading {
        Reading {
            engines: vec![EngineReading {
                running: Some(self.running),
                steps: Some(self.steps),
                step_tokens: Some(self.prompts + self.generated),
                generation_tokens: Some(self.generated),
                ..EngineReading::default()
            }],
            ..Reading::default()
        }
    }
}

/// What is thought of the engine after it was read each second.
fn learnt(moments: &[Moment]) -> Rates {
    let (mut meter, mut fit) = (Meter::default(), Fit::default());
    let mut now = Instant::ZERO;
    for second in 1..=40 {
        let shown = |moment: &&Moment| moment.ms <= f64::from(second) * 1e3;
        let Some(moment) = moments.iter().take_while(shown).last() else {
            continue;
        };
        now = Instant::from_millis(1_000 * second as u64);
        meter.on_reading(now, &moment.reading(), false, |interval| {
            fit.observe(now, &interval)
        });
    }
    let again = |pool| pooled(std::iter::once(&fit), &pool);
    let pool = (0..20).fold(Factors::ONE, |pool, _| again(pool));
    Rates::of(&fit.factors(now, &pool))
}

/// The mean time of steps that decode `batch` sequences and compute no prompt.
fn decoding_ms(moments: &[Moment], batch: u64) -> f64 {
    let pairs = moments.iter().zip(&moments[1..]);
    let decodes = pairs.filter(|(old, new)| new.running == batch && new.prompts == old.prompts);
    let (ms, steps) = decodes.fold((0.0, 0), |(ms, steps), (old, new)| {
        (ms + new.ms - old.ms, steps + new.steps - old.steps)
    });
    ms / steps as f64
}

/// The time that a prompt token adds to the steps that compute prompts, beside what decoding takes in them.
fn prompt_token_ms(moments: &[Moment]) -> f64 {
    let pairs = moments.iter().zip(&moments[1..]);
    let prefills = pairs.filter(|(old, new)| new.prompts > old.prompts);
    let (ms, tokens) = prefills.fold((0.0, 0), |(ms, tokens), (old, new)| {
        let steps = (new.steps - old.steps) as f64;
        let decoding_ms = steps * decoding_ms(moments, 8);
        let more = new.prompts - old.prompts;
        (ms + new.ms - old.ms - decoding_ms, tokens + more)
    });
    ms / tokens as f64
}

fn check(what: &str, got: f64, shown: f64) {
    let miss = got / shown - 1.0;
    assert!(
        miss.abs() < 0.15,
        "{what}: {got:.2} ms, {shown:.2} ms shown"
    );
}

/// A CPU's steps, and a full batch of eight but at the end: within 15 % of what the steps themselves show. (Those of `preempt.json` are too short to have
/// been seen one by one.)
#[test]
fn the_steps_of_recorded_servers_are_learnt_from_a_page_a_second() {
    for name in ["base.json", "lora3-2slots.json", "mixed.json"] {
        let moments = recorded(name);
        check(name, learnt(&moments).step(8.0), decoding_ms(&moments, 8));
    }
}

/// Of `mixed` alone, in which prompts take almost half of the time; 40 times the prior on that CPU.
#[test]
fn the_prompt_tokens_of_a_recorded_server_are_learnt_from_a_page_a_second() {
    let moments = recorded("mixed.json");
    let got = learnt(&moments).prompt_token_ms;
    check("a prompt token", got, prompt_token_ms(&moments));
}

//! Requests that were sent to a real vLLM 0.32.0, sent to the engine: it shows what the real one showed, in the same order.

use std::path::{Path, PathBuf};
use std::time::Duration;

use picker_core::time::Instant;
use simulator::engine::{AdapterId, Engine, Request, RequestId};

mod pages;
mod picture;
mod recording;
mod times;

use picture::Panel;
use recording::{Recording, Shown, page};

/// The recordings that have requests, and how many tokens all of their prompts begin with.
const RECORDINGS: [(&str, u32); 4] = [
    ("base", 0),
    ("mixed", 96),
    ("lora3-2slots", 0),
    ("preempt", 0),
];

/// What [`times::fit`] makes of `base`, rounded: milliseconds of a step, of a prompt token, of a decoding sequence.
const TERMS: [f64; 3] = [28.5, 0.367, 1.03];

/// The furthest that a step may end from where it was recorded, and the root of the mean square, as shares of the recording's length.
const WORST: f64 = 0.13;
const RMS: f64 = 0.08;

/// The recording, and what the engine shows at the profile of `base` with the one factor that fits the recording.
fn modelled((name, shared): (&str, u32)) -> (Recording, Vec<Shown>, f64) {
    let recording = Recording::read(name);
    let factor = match name {
        "base" => 1.0,
        _ => times::factor(&recording, TERMS, shared),
    };
    let shown = times::run(&recording, TERMS.map(|term| term * factor), shared);
    (recording, shown, factor)
}

#[test]
fn every_recorded_page_occurs_in_the_recorded_order_value_by_value() {
    for (name, shared) in RECORDINGS {
        let recording = Recording::read(name);
        let shown = times::run(&recording, TERMS, shared);
        let mut rest = shown.iter();
        for recorded in &recording.timeline {
            assert!(
                rest.any(|shown| shown.untimed() == recorded.untimed()),
                "{name}: never after the page before it: {recorded:?}"
            );
        }
    }
}

#[test]
fn between_the_recorded_states_there_are_only_those_that_no_scrape_hit() {
    // A page was read about every 57 ms, so short states were missed; how many is known for each recording.
    let missed = RECORDINGS.map(|(name, shared)| {
        let recording = Recording::read(name);
        let shown = times::run(&recording, TERMS, shared);
        let states = |pages: &[Shown]| {
            let mut states: Vec<_> = pages
                .iter()
                .map(|page| {
                    let (running, capacity, deferred, adapters) = page.state();
                    (running, capacity, deferred, adapters.to_owned())
                })
                .collect();
            states.dedup();
            states.len()
        };
        states(&shown) - states(&recording.timeline)
    });
    assert_eq!(missed, [0, 0, 0, 2]);
}

#[test]
fn every_block_is_stored_and_evicted_in_the_recorded_step_and_order() {
    // Of these two the events were recorded too; `mixed` began with an empty cache, `base` evicted nothing.
    for (name, shared) in [("base", 0), ("mixed", 96)] {
        let recording = Recording::read(name);
        let (_, batches) = recording.replay(recording.profile(TERMS), shared);
        assert_eq!(batches, recording.kv_batches, "{name}");
    }
}

#[test]
fn the_profile_is_the_one_that_fits_base() {
    let fitted = times::fit(&Recording::read("base"));
    for (fitted, term) in fitted.into_iter().zip(TERMS) {
        assert!((fitted / term - 1.0).abs() < 0.01, "{fitted} {term}");
    }
}

#[test]
fn times_are_within_the_stated_share_of_a_recordings_length_with_one_factor() {
    let mut table = String::new();
    for (name, shared) in RECORDINGS {
        let (recording, shown, factor) = modelled((name, shared));
        let matched = times::matched(&recording, &shown);
        let length = matched[matched.len() - 1].0;
        let errors: Vec<f64> = matched
            .iter()
            .map(|(recorded, modelled)| (modelled - recorded) / length)
            .collect();
        let worst = errors
            .iter()
            .fold(0.0, |worst: f64, error| worst.max(error.abs()));
        let squares: f64 = errors.iter().map(|error| error * error).sum();
        let rms = (squares / errors.len() as f64).sqrt();
        assert!(worst <= WORST && rms <= RMS, "{name}: {worst:.3} {rms:.3}");
        table += &format!(
            "| {name} | {} | {} | {factor:.2} | {:.1} % | {:.1} % |\n",
            recording.timeline.len(),
            shown.len(),
            100.0 * worst,
            100.0 * rms
        );
    }
    let docs = std::fs::read_to_string(benchmarks().join("engine.md")).expect("it is there");
    assert!(
        docs.contains(&table),
        "docs/benchmarks/engine.md should have\n{table}"
    );
}

#[test]
fn the_plot_shows_what_is_computed() {
    let runs = RECORDINGS.map(modelled);
    let panels: Vec<_> = RECORDINGS
        .iter()
        .zip(&runs)
        .map(|((name, _), (recording, modelled, factor))| Panel {
            title: format!("{name} (x {factor:.2}): KV blocks"),
            recording,
            modelled,
        })
        .collect();
    let computed = picture::svg(&panels);
    let path = benchmarks().join("engine-replay.svg");
    #[expect(
        clippy::disallowed_methods,
        reason = "a test has no arguments of its own"
    )]
    let update = std::env::var_os("UPDATE_EXPECT").is_some();
    if update {
        std::fs::write(&path, computed).expect("the file can be written");
        return;
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        committed == computed,
        "{} is out of date: run UPDATE_EXPECT=1 cargo test -p simulator --test replay",
        path.display()
    );
}

#[test]
fn an_aborted_request_is_gone_within_a_step_as_recorded() {
    let recording = Recording::read("abort-alone");
    let mut engine = Engine::new(recording.profile(TERMS));
    let (adapter, prompt_tokens, output_tokens) = &recording.requests[0];
    assert_eq!(adapter.as_deref(), Some("a"));
    let request = Request::new(
        RequestId(0),
        Some(AdapterId(0)),
        *prompt_tokens,
        *output_tokens,
    );
    engine.submit(Instant::ZERO, request).expect("it fits");
    let last = &recording.timeline[recording.timeline.len() - 1];
    let mut shown = Vec::new();
    while let Some(end) = engine.next_step_end() {
        engine.advance(end, &mut Vec::new());
        shown.push(page(&engine, end));
        if engine.statistics().generation_tokens == last.generated() {
            engine.abort(end + Duration::from_millis(1), RequestId(0));
        }
    }
    let mut rest = shown.iter();
    for recorded in &recording.timeline {
        assert!(
            rest.any(|shown| shown.untimed() == recorded.untimed()),
            "{recorded:?}"
        );
    }
    assert_eq!(shown[shown.len() - 1].untimed(), last.untimed());
    let statistics = engine.statistics();
    assert_eq!(
        (statistics.success_length, statistics.success_stop),
        (0, 0),
        "it is counted in no request_success_total"
    );
}

#[test]
fn of_ten_admitted_requests_eight_run_and_two_follow_when_the_first_ends() {
    // As recorded: fourteen were sent, four refused at the door; 0 first, 1 to 7 in the next step; 8 in the step after 0
    // ended, 9 one step later, when 1 to 7 had ended.
    let base = Recording::read("base");
    let mut engine = Engine::new(base.profile(TERMS));
    for id in 0..10 {
        let request = Request::new(RequestId(id), None, 3, 400);
        engine.submit(Instant::ZERO, request).expect("it fits");
    }
    let (mut firsts, mut outputs, mut step) = (Vec::new(), Vec::new(), 0);
    while let Some(end) = engine.next_step_end() {
        engine.advance(end, &mut outputs);
        step += 1;
        let new = outputs.drain(..).filter(|output| output.is_first());
        firsts.extend(new.map(|output| (step, output.request.0)));
        if step == 2 {
            assert_eq!(page(&engine, end).state(), (8, 2, 0, ""));
        }
    }
    let mut expected = vec![(1, 0)];
    expected.extend((1..8).map(|id| (2, id)));
    expected.extend([(401, 8), (402, 9)]);
    assert_eq!(firsts, expected);
}

fn benchmarks() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/benchmarks")
}

//! Whole metrics pages: recorded ones against those of an engine in the same situation.

use picker_core::exposition;
use simulator::engine::exposition::{About, Answered, Traffic, text};

use crate::TERMS;
use crate::recording::{ADAPTERS, Recording};

/// Pages of `mixed`: the tokens generated when each was read, and the requests answered.
const PAGES: [(&str, u64, usize); 3] = [
    (
        include_str!("../fixtures/vllm-0.32.0-load/mixed-3s.txt"),
        1,
        0,
    ),
    (
        include_str!("../fixtures/vllm-0.32.0-load/mixed-8s.txt"),
        111,
        0,
    ),
    (
        include_str!("../fixtures/vllm-0.32.0-load/mixed-20s.txt"),
        639,
        6,
    ),
];

/// The only lines that vLLM does not have: they are the last.
const OWN: &str = "sim:adapter_loads_total";

/// Series whose values are a clock's, a machine's or an allocator's; all others have the recorded value.
const VALUES_OF_A_MACHINE: [&str; 8] = [
    "python_",
    "process_",
    "http_",
    "vllm:estimated_",
    "vllm:lora_requests_info",
    "_seconds_bucket",
    "_seconds_sum",
    "_created",
];

/// The page of an engine that has generated so many tokens of `mixed`.
fn simulated(generated: u64, answered: usize) -> String {
    let recording = Recording::read("mixed");
    let mut engine = recording.sent(recording.profile(TERMS), 96);
    while engine.statistics().generation_tokens < generated {
        let end = engine.next_step_end().expect("there is more to generate");
        engine.advance(end, &mut Vec::new());
    }
    let mut traffic = Traffic::default();
    for _ in 0..answered {
        traffic.answered(&Answered {
            handler: "/v1/completions",
            method: "POST",
            status: 200,
            request_bytes: 1_160,
            response_bytes: 0,
            seconds: 15.0,
        });
    }
    let about = About {
        model_name: "tiny",
        adapter_names: &ADAPTERS.map(str::to_owned),
        started_unix_seconds: 1_795_197_643.5,
    };
    text(&engine, &about, &traffic)
}

/// A line as a heading, or as a series and its value.
fn split(line: &str) -> (&str, &str) {
    match line.rsplit_once(' ') {
        Some((series, value)) if !line.starts_with('#') => (series, value),
        _ => (line, ""),
    }
}

#[test]
fn a_page_differs_from_the_recorded_one_in_a_machines_values_and_in_nothing_else() {
    for (recorded, generated, answered) in PAGES {
        let page = simulated(generated, answered);
        let (theirs, own) = page
            .split_once(&format!("# HELP {OWN}"))
            .expect("our own family is the last");
        assert_eq!(own.lines().count(), 3);
        assert_eq!(theirs.lines().count(), recorded.lines().count());
        for (ours, recorded) in theirs.lines().zip(recorded.lines()) {
            let ((series, value), (of, measured)) = (split(ours), split(recorded));
            assert_eq!(series, of, "after {generated} tokens");
            if !VALUES_OF_A_MACHINE.iter().any(|name| series.contains(name)) {
                assert_eq!(value, measured, "{series} after {generated} tokens");
            }
        }
    }
}

#[test]
fn the_picker_reads_the_same_from_a_recorded_page_and_a_simulated_one() {
    for (recorded, generated, answered) in PAGES {
        let read = |page: &str| {
            let mut reading =
                exposition::read(page.as_bytes(), &picker_core::engine::Engine::vllm())
                    .expect("a page of vLLM's");
            // When the process started is the only thing that is not of the situation.
            assert!(reading.process_start_s.take().is_some());
            reading
        };
        let of_ours = read(&simulated(generated, answered));
        assert_eq!(of_ours, read(recorded), "after {generated} tokens");
    }
}

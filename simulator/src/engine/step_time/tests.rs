//! Specifications of the step time, and the pages that show it.

mod measurement;
mod fit;
mod cross_check;
mod report;
mod plot;

use std::path::{Path, PathBuf};

use super::*;
use cross_check::{decodes, prefill};
use fit::{Assumptions, fit};
use measurement::{Row, rms, rows, worst};

const BEGIN: &str = "<!-- step time: computed, begin -->\n";
const END: &str = "<!-- step time: computed, end -->\n";

#[test]
fn the_measurements_are_met_within_five_percent_and_those_held_out_within_eight() {
    let rows = rows();
    assert_eq!(rows.len(), 28);
    let errors: Vec<f64> = rows
        .iter()
        .map(|row| row.error(&StepTime::LLAMA_8B_H100))
        .collect();
    assert!(rms(&errors) < 0.05, "RMS {}", rms(&errors));
    let held_out = rows.iter().zip(&errors).filter(|(row, _)| row.held_out);
    assert_eq!(held_out.clone().count(), 9);
    for (row, error) in held_out {
        let (configuration, stage) = (&row.configuration, row.stage);
        assert!(error.abs() < 0.08, "{configuration} {stage}: {error}");
    }
}

#[test]
fn the_errors_are_those_that_the_documentation_states() {
    let errors: Vec<f64> = rows()
        .iter()
        .map(|row| row.error(&StepTime::LLAMA_8B_H100))
        .collect();
    assert!((0.0095..0.0105).contains(&rms(&errors)), "{}", rms(&errors));
    assert!(
        (0.0225..0.0235).contains(&worst(&errors)),
        "{}",
        worst(&errors)
    );
}

#[test]
fn the_fit_to_the_rows_that_are_not_held_out_gives_the_committed_overheads_from_any_start() {
    let rows = rows();
    let fitted: Vec<&Row> = rows.iter().filter(|row| !row.held_out).collect();
    assert_eq!(fitted.len(), 19);
    let committed = Overheads::VLLM_0_11;
    for mfu in [(0.3, 1.0), (0.1, 0.9), (0.6, 0.7)] {
        let assumptions = Assumptions {
            mfu,
            ..Assumptions::COMMITTED
        };
        let (found, _) = fit(&fitted, assumptions);
        assert!((found.mfu - committed.mfu).abs() < 5e-4, "{found:?}");
        assert!(
            (found.fixed_ms - committed.fixed_ms).abs() < 5e-3,
            "{found:?}"
        );
        assert!(
            (found.sequence_ms - committed.sequence_ms).abs() < 5e-5,
            "{found:?}"
        );
    }
}

#[test]
fn the_70b_profile_is_within_seventeen_percent_of_another_simulators_fit() {
    for check in cross_check::llama_70b() {
        let error = check.error();
        assert!((-0.17..0.14).contains(&error), "{}: {error}", check.work);
    }
}

#[test]
fn the_slow_card_decodes_one_sequence_as_measured() {
    let error = cross_check::llama_8b_a100().error();
    assert!((0.0..0.03).contains(&error), "{error}");
}

#[test]
fn a_prompt_in_chunks_attends_to_as_much_as_a_whole_one() {
    let whole = prefill(8192);
    let mut chunks = Work::default();
    for chunk in 0..8 {
        chunks.add_prefill(chunk * 1024, 1024);
    }
    assert_eq!(chunks.prefill_pairs, whole.prefill_pairs);
    assert_eq!(chunks.prefill_tokens, whole.prefill_tokens);
    assert_eq!(whole.prefill_pairs, 8192 * 8193 / 2);
}

#[test]
fn more_work_never_takes_less_time() {
    for step_time in [
        StepTime::LLAMA_8B_H100,
        StepTime::LLAMA_70B_TP4_H100,
        StepTime::LLAMA_8B_A100_40GB,
        StepTime::linear(40.0, 0.1, 0.4),
    ] {
        for sequences in [0, 1, 7, 128, 1024] {
            let base = decodes(sequences, 500);
            let (mut decode, mut prompt, mut hit) = (base, base, base);
            decode.add_decode(500);
            prompt.add_prefill(0, 300);
            hit.add_prefill(200, 100);
            let ms = |work| step_time.ms(&work);
            assert!(ms(decode) > ms(base), "{step_time:?} {sequences}");
            assert!(
                ms(prompt) > ms(hit) && ms(hit) > ms(base),
                "{step_time:?} {sequences}"
            );
        }
    }
}

#[test]
fn a_long_context_slows_decodes_by_the_reading_of_its_keys_and_values() {
    // 32 contexts of 14,000 tokens are 58.7 GB of KV, 20.1 ms at 2.91 TB/s, on top of 5.5 ms for the weights.
    let ms = StepTime::LLAMA_8B_H100.ms(&decodes(32, 14_000));
    let (memory_ms, compute_ms) = (20.15 + 5.51, 0.81);
    let expected_ms = 1.613 + f64::hypot(memory_ms, compute_ms) + 32.0 * 0.0167;
    assert!((ms - expected_ms).abs() < 0.02, "{ms} {expected_ms}");
}

#[test]
fn half_the_speed_is_twice_the_time() {
    let work = decodes(20, 700);
    let slow = StepTime::LLAMA_8B_H100.with_speed(0.5);
    let ratio = slow.ms(&work) / StepTime::LLAMA_8B_H100.ms(&work);
    assert!((ratio - 2.0).abs() < 1e-12, "{ratio}");
}

#[test]
fn a_linear_step_time_counts_tokens_and_sequences() {
    let mut work = decodes(3, 5000);
    work.add_prefill(1000, 100);
    // 40 + 0.1 x 103 + 0.4 x 4
    let time = StepTime::linear(40.0, 0.1, 0.4).duration(&work);
    assert_eq!(time, Duration::from_micros(51_900));
}

#[test]
fn the_page_shows_what_is_computed() {
    let path = benchmarks().join("engine.md");
    let page = std::fs::read_to_string(&path).expect("docs/benchmarks/engine.md");
    let (before, rest) = page.split_once(BEGIN).expect("the begin mark");
    let (_, after) = rest.split_once(END).expect("the end mark");
    let section = report::report();
    compare(
        &path,
        &page,
        &format!("{before}{BEGIN}\n{section}\n{END}{after}"),
    );
}

#[test]
fn the_plot_shows_what_is_computed() {
    let path = benchmarks().join("step-time.svg");
    let picture = std::fs::read_to_string(&path).unwrap_or_default();
    compare(&path, &picture, &plot::plot());
}

fn benchmarks() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/benchmarks")
}

/// Fails if the file is not `computed`; writes it instead when `UPDATE_EXPECT` is set.
fn compare(path: &Path, committed: &str, computed: &str) {
    #[expect(
        clippy::disallowed_methods,
        reason = "a test has no arguments of its own"
    )]
    let update = std::env::var_os("UPDATE_EXPECT").is_some();
    if update {
        std::fs::write(path, computed).expect("the file can be written");
        return;
    }
    assert!(
        committed == computed,
        "{} is out of date: run UPDATE_EXPECT=1 cargo test -p simulator --lib step_time",
        path.display()
    );
}

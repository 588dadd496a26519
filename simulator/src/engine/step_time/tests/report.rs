//! The section of `docs/benchmarks/engine.md` that is computed: tables of model against measurement.

use std::fmt::Write;

use super::cross_check::{self, CrossCheck, decodes, prefill};
use super::fit::{Assumptions, fit, step_time};
use super::measurement::{Row, rms, rows, worst};
use super::{Overheads, StepTime};

/// The computed section, in Markdown.
pub(super) fn report() -> String {
    let rows = rows();
    [
        summary(&rows),
        by_row(&rows),
        left_out(&rows),
        assumptions(&rows),
        profiles(),
        cross_checks(),
    ]
    .join("\n")
}

fn summary(rows: &[Row]) -> String {
    let errors_of = |keep: fn(&Row) -> bool| -> Vec<f64> {
        let kept = rows.iter().filter(|row| keep(row));
        kept.map(|row| row.error(&StepTime::LLAMA_8B_H100))
            .collect()
    };
    let mut text = String::from(
        "| rows | number | RMS error | worst error | bound |\n|---|---:|---:|---:|---|\n",
    );
    for (name, errors, bound) in [
        ("all", errors_of(|_| true), "RMS 5 %"),
        ("fitted", errors_of(|row| !row.held_out), ""),
        ("held out", errors_of(|row| row.held_out), "each 8 %"),
    ] {
        let (rms, worst) = (percent(rms(&errors)), percent(worst(&errors)));
        line(
            &mut text,
            &format!("| {name} | {} | {rms} | {worst} | {bound} |", errors.len()),
        );
    }
    let fitted: Vec<&Row> = rows.iter().filter(|row| !row.held_out).collect();
    let (overheads, _) = fit(&fitted, Assumptions::COMMITTED);
    line(&mut text, "");
    line(
        &mut text,
        "| constant | fitted | committed |\n|---|---:|---:|",
    );
    let committed = Overheads::VLLM_0_11;
    for (name, fitted, committed) in [
        ("fixed_ms", overheads.fixed_ms, committed.fixed_ms),
        ("sequence_ms", overheads.sequence_ms, committed.sequence_ms),
        ("mfu", overheads.mfu, committed.mfu),
    ] {
        line(
            &mut text,
            &format!("| `{name}` | {fitted:.4} | {committed} |"),
        );
    }
    text
}

fn by_row(rows: &[Row]) -> String {
    let mut text = String::from(
        "| configuration | stage | done/s | decoding | measured ms | model ms | error | held out |\n|---|---:|---:|---:|---:|---:|---:|---|\n",
    );
    for row in rows {
        let model_ms = row.h100_ms();
        let (configuration, stage) = (&row.configuration, row.stage);
        let (rate, batch, step_ms) = (row.completed_per_s, row.decode_batch, row.step_ms);
        let error = signed(model_ms / step_ms - 1.0);
        let held_out = if row.held_out { "yes" } else { "" };
        line(
            &mut text,
            &format!(
                "| {configuration} | {stage} | {rate:.1} | {batch:.1} | {step_ms:.2} | {model_ms:.2} | {error} | {held_out} |"
            ),
        );
    }
    text
}

fn left_out(rows: &[Row]) -> String {
    let mut text = String::from(
        "| configuration left out of the fit | its RMS error | its worst error |\n|---|---:|---:|\n",
    );
    let mut configurations: Vec<&str> = rows.iter().map(|row| row.configuration.as_str()).collect();
    configurations.dedup();
    for configuration in configurations {
        let (of_it, others): (Vec<&Row>, Vec<&Row>) = rows
            .iter()
            .partition(|row| row.configuration == configuration);
        let step_time = step_time(fit(&others, Assumptions::COMMITTED).0);
        let errors: Vec<f64> = of_it.iter().map(|row| row.error(&step_time)).collect();
        let (rms, worst) = (percent(rms(&errors)), percent(worst(&errors)));
        line(&mut text, &format!("| {configuration} | {rms} | {worst} |"));
    }
    text
}

fn assumptions(rows: &[Row]) -> String {
    let fitted: Vec<&Row> = rows.iter().filter(|row| !row.held_out).collect();
    let mut text = String::from(
        "| bandwidth efficiency | uncached tokens at a hit | `fixed_ms` | `sequence_ms` | `mfu` | RMS error of the fit |\n|---:|---:|---:|---:|---:|---:|\n",
    );
    for (bandwidth_efficiency, uncached_tokens) in [
        (0.87, 12.0),
        (0.80, 12.0),
        (1.0, 12.0),
        (0.87, 28.0),
        (0.87, 44.0),
    ] {
        let assumptions = Assumptions {
            bandwidth_efficiency,
            uncached_tokens,
            ..Assumptions::COMMITTED
        };
        let (found, rms) = fit(&fitted, assumptions);
        let (fixed_ms, sequence_ms, mfu) = (found.fixed_ms, found.sequence_ms, found.mfu);
        let rms = percent(rms);
        line(
            &mut text,
            &format!(
                "| {bandwidth_efficiency:.2} | {uncached_tokens} | {fixed_ms:.2} | {sequence_ms:.4} | {mfu:.3} | {rms} |"
            ),
        );
    }
    text
}

fn profiles() -> String {
    let mut text = String::from(
        "| step, ms | 8B on H100 | 70B TP4 on H100 | 8B on A100-40GB |\n|---|---:|---:|---:|\n",
    );
    for (name, work) in [
        ("1 decode at 1,024 tokens", decodes(1, 1024)),
        ("32 decodes", decodes(32, 1024)),
        ("128 decodes", decodes(128, 1024)),
        ("256 decodes", decodes(256, 1024)),
        ("prefill of 512", prefill(512)),
        ("prefill of 2,048", prefill(2048)),
        ("prefill of 8,192", prefill(8192)),
    ] {
        let [h100, tp4, a100] = [
            StepTime::LLAMA_8B_H100,
            StepTime::LLAMA_70B_TP4_H100,
            StepTime::LLAMA_8B_A100_40GB,
        ]
        .map(|step_time| step_time.ms(&work));
        line(
            &mut text,
            &format!("| {name} | {h100:.1} | {tp4:.1} | {a100:.1} |"),
        );
    }
    text
}

fn cross_checks() -> String {
    let mut text = String::from(
        "| server | step | published by | published ms | model ms | difference |\n|---|---|---|---:|---:|---:|\n",
    );
    let mut checks = cross_check::llama_70b();
    checks.push(cross_check::llama_8b_a100());
    checks.extend(cross_check::strangers());
    for check in &checks {
        let CrossCheck {
            server,
            work,
            source,
            published_ms,
            model_ms,
        } = check;
        let error = signed(check.error());
        line(
            &mut text,
            &format!(
                "| {server} | {work} | {source} | {published_ms:.1} | {model_ms:.1} | {error} |"
            ),
        );
    }
    text
}

fn line(text: &mut String, line: &str) {
    writeln!(text, "{line}").expect("a string takes all that is written");
}

fn percent(fraction: f64) -> String {
    format!("{:.1} %", fraction * 100.0)
}

fn signed(fraction: f64) -> String {
    format!("{:+.1} %", fraction * 100.0)
}

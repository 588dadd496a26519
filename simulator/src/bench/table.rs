//! The report as tables for people.

use std::io::{self, Write};

use super::Report;
use super::cell::{self, policy_name};
use super::verdict::{RATIO_MAX, SHARE_MIN, Standing, TIED_MAX};
use crate::policy::Policy;

/// Writes the report for people.
///
/// # Errors
/// When `out` cannot be written to.
pub fn write(out: &mut impl Write, report: &Report) -> io::Result<()> {
    write_cells(out, report)?;
    write_verdicts(out, report)?;
    writeln!(
        out,
        "\nbest or tied, share of cells: ttft p90, e2e mean (target of pointsman: {SHARE_MIN})"
    )?;
    let shares = &report.best_or_tied_share;
    for policy in shares.policies() {
        let share = |metric| shares.share(policy, metric).unwrap_or_default();
        let (ttft, e2e) = (share("ttft_p90"), share("e2e_mean"));
        writeln!(out, "  {:<14}{ttft:>6.2}{e2e:>6.2}", policy_name(policy))?;
    }
    writeln!(
        out,
        "\nModelled servers: read the ratios, not the milliseconds. regret: mean TTFT over the oracle's, less 1; +- is its 95 % interval."
    )
}

fn write_cells(out: &mut impl Write, report: &Report) -> io::Result<()> {
    writeln!(
        out,
        "{:<20}{:<14}{:>10}{:>10}{:>10}{:>12}{:>9}{:>12}{:>10}{:>9}{:>9}{:>8}",
        "cell",
        "policy",
        "ttft p50",
        "ttft p90",
        "ttft p99",
        "e2e mean",
        "goodput",
        "loads/1000",
        "max/mean",
        "regret",
        "+-",
        "errors"
    )?;
    for cell in &report.cells {
        let interval = cell.ci95.get("ttft_mean");
        writeln!(
            out,
            "{:<20}{:<14}{:>10.0}{:>10.0}{:>10.0}{:>12.0}{:>9.3}{:>12.1}{:>10.2}{:>9}{:>9}{:>8}",
            cell.name,
            policy_name(cell.policy),
            cell.ttft_ms.p50,
            cell.ttft_ms.p90,
            cell.ttft_ms.p99,
            cell.e2e_ms.mean,
            cell.goodput,
            cell.adapter_loads_per_1000,
            cell.load_max_over_mean,
            number(cell.regret),
            interval.map_or("-".to_owned(), |half| format!("{:.1} %", half * 100.0)),
            cell.errors
        )?;
    }
    Ok(())
}

/// The picker against its rivals; nothing where it or they did not run.
fn write_verdicts(out: &mut impl Write, report: &Report) -> io::Result<()> {
    if report.verdicts.is_empty() {
        return Ok(());
    }
    writeln!(
        out,
        "\n{} against the best of its rivals: ratio, 95 % interval's upper end (of any rival at most {TIED_MAX}; mean ratio at most {RATIO_MAX}).
EACH: the interval is wide, but no seed's ratio is over {TIED_MAX}",
        policy_name(Policy::Pointsman)
    )?;
    writeln!(
        out,
        "{:<20}{:<34}{:<34}{:>7}  misses",
        "cell", "ttft p90", "e2e mean", "regret"
    )?;
    for verdict in &report.verdicts {
        let standing = |metric: &str| verdict.standings.get(metric).map_or(String::new(), text);
        let [ttft, e2e] = cell::JUDGED.map(|(metric, _)| standing(metric));
        writeln!(
            out,
            "{:<20}{ttft:<34}{e2e:<34}{:>7}  {}",
            verdict.cell,
            number(verdict.regret),
            verdict.misses.join("; ")
        )?;
    }
    let met = report.verdicts.iter().filter(|one| one.misses.is_empty());
    writeln!(
        out,
        "{} of {} cells miss nothing",
        met.count(),
        report.verdicts.len()
    )
}

fn text(standing: &Standing) -> String {
    let upper = standing
        .upper
        .map_or("-".to_owned(), |upper| format!("{upper:.3}"));
    let word = match (standing.best_or_tied, standing.by_each_seed) {
        (false, _) => " LOST",
        (true, true) => " EACH",
        (true, false) => "",
    };
    format!(
        "{:.3} <= {upper} {}{word}",
        standing.ratio,
        policy_name(standing.best_rival)
    )
}

fn number(known: Option<f64>) -> String {
    known.map_or("-".to_owned(), |known| format!("{known:.2}"))
}

//! What was found: as JSON for scripts, as a table for people.

use std::collections::BTreeMap;
use std::io::{self, Write};

use serde::Serialize;

use super::case::{Aim, Case};
use crate::load::LoadReport;

/// Everything that was measured.
#[derive(Debug, Serialize)]
pub(super) struct EdgeReport {
    pub(super) endpoints: u16,
    pub(super) rounds: u32,
    pub(super) idle: Option<Idle>,
    pub(super) cases: Vec<CaseReport>,
    pub(super) crowd: Option<Crowd>,
}

/// The picker with nothing to do.
#[derive(Debug, Serialize)]
pub(super) struct Idle {
    pub(super) cpu_cores: f64,
    pub(super) most_cores: f64,
    pub(super) ok: bool,
}

/// One case on both servers.
#[derive(Debug, Serialize)]
pub(super) struct CaseReport {
    name: &'static str,
    prompt_bytes: u32,
    chunks: u32,
    chunk_interval_ms: f64,
    follow: String,
    rate: f64,
    picker: Side,
    noop: Side,
    /// The median over the rounds of the picker's processor time over the other's.
    ratio: f64,
    most_ratio: Option<f64>,
    most_cpu_ms: Option<f64>,
    /// Null where nothing is asked.
    ok: Option<bool>,
    #[serde(skip)]
    aim: Aim,
}

/// One server in one case.
#[derive(Debug, Serialize)]
pub(super) struct Side {
    /// The median over the rounds.
    cpu_ms_per_request: f64,
    runs: Vec<Run>,
}

/// One measurement.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Run {
    requests: u64,
    errors: u64,
    rate_reached: bool,
    cpu_ms_per_request: f64,
    cpu_cores: f64,
    pub(super) peak_rss_mib: f64,
    pick_p50_ms: Option<f64>,
    pick_p99_ms: Option<f64>,
    chunk_p50_ms: Option<f64>,
    chunk_p99_ms: Option<f64>,
}

/// Many streams at once.
#[derive(Debug, Serialize)]
pub(super) struct Crowd {
    pub(super) streams: u64,
    pub(super) errors: u64,
    pub(super) errors_by_kind: BTreeMap<String, u64>,
    pub(super) most_mib: f64,
    pub(super) ok: bool,
    pub(super) run: Run,
}

impl Run {
    /// `None` if the measured process has ended.
    pub(super) fn of(report: &LoadReport) -> Option<Self> {
        let cost = report.process?;
        Some(Self {
            requests: report.requests,
            errors: report.errors,
            rate_reached: report.rate.is_reached(),
            cpu_ms_per_request: cost.cpu_ms_per_request?,
            cpu_cores: cost.cpu_cores,
            peak_rss_mib: cost.peak_rss_mib,
            pick_p50_ms: report.pick_ms.map(|ms| ms.p50),
            pick_p99_ms: report.pick_ms.map(|ms| ms.p99),
            chunk_p50_ms: report.chunk_ms.map(|ms| ms.p50),
            chunk_p99_ms: report.chunk_ms.map(|ms| ms.p99),
        })
    }

    /// Whether it says what it is to say: every request answered, as many as asked.
    const fn is_sound(&self) -> bool {
        self.rate_reached && self.errors == 0
    }
}

impl CaseReport {
    /// Of as many runs of either server, in pairs.
    pub(super) fn of(case: &Case, picker: Vec<Run>, noop: Vec<Run>) -> Self {
        let pairs = picker.iter().zip(&noop);
        let ratio = median(pairs.map(|(one, other)| {
            one.cpu_ms_per_request / other.cpu_ms_per_request.max(f64::MIN_POSITIVE)
        }));
        let sound = picker.iter().chain(&noop).all(Run::is_sound);
        let (picker, noop) = (Side::of(picker), Side::of(noop));
        let within = match case.aim {
            Aim::Ratio(most) => Some(ratio <= most),
            Aim::CpuMs(most) => Some(picker.cpu_ms_per_request <= most),
            Aim::None => None,
        };
        Self {
            name: case.name,
            prompt_bytes: case.prompt_bytes,
            chunks: case.chunks,
            chunk_interval_ms: case.chunk_interval.as_secs_f64() * 1e3,
            follow: format!("{:?}", case.follow).to_lowercase(),
            rate: case.rate,
            picker,
            noop,
            ratio,
            most_ratio: match case.aim {
                Aim::Ratio(most) => Some(most),
                Aim::CpuMs(_) | Aim::None => None,
            },
            most_cpu_ms: match case.aim {
                Aim::CpuMs(most) => Some(most),
                Aim::Ratio(_) | Aim::None => None,
            },
            ok: within.map(|within| within && sound),
            aim: case.aim,
        }
    }
}

impl Side {
    fn of(runs: Vec<Run>) -> Self {
        Self {
            cpu_ms_per_request: median(runs.iter().map(|run| run.cpu_ms_per_request)),
            runs,
        }
    }

    /// The median over the rounds of a latency.
    fn latency(&self, of: impl Fn(&Run) -> Option<f64>) -> Option<f64> {
        let known: Vec<f64> = self.runs.iter().filter_map(of).collect();
        (!known.is_empty()).then(|| median(known.into_iter()))
    }
}

impl EdgeReport {
    /// Writes the table.
    pub(super) fn write(&self, out: &mut impl Write) -> io::Result<()> {
        let head = ["picker", "no-op", "ratio", "aim", ""];
        let [picker, noop, ratio, aim, verdict] = head;
        writeln!(
            out,
            "{:38} {picker:>8} {noop:>8} {ratio:>6} {aim:>7}  {verdict:6} {:>9} {:>9}",
            "CPU ms a request", "pick p99", "chunk p99"
        )?;
        for case in &self.cases {
            let shown = |ms: Option<f64>| ms.map_or("-".to_owned(), |ms| format!("{ms:.2}"));
            writeln!(
                out,
                "{:38} {:8.3} {:8.3} {:6.2} {:>7}  {:6} {:>9} {:>9}",
                case.name,
                case.picker.cpu_ms_per_request,
                case.noop.cpu_ms_per_request,
                case.ratio,
                case.aim.to_string(),
                case.ok.map_or("", verdict_of),
                shown(case.picker.latency(|run| run.pick_p99_ms)),
                shown(case.picker.latency(|run| run.chunk_p99_ms)),
            )?;
            self.doubts(out, case)?;
        }
        if let Some(idle) = &self.idle {
            writeln!(
                out,
                "\nidle, {} endpoints: {:.3} cores, at most {:.2}: {}",
                self.endpoints,
                idle.cpu_cores,
                idle.most_cores,
                verdict_of(idle.ok)
            )?;
        }
        if let Some(crowd) = &self.crowd {
            writeln!(
                out,
                "{} streams of 60 s, a chunk a second: {} errors {:?}, {:.0} MiB at most, {:.2} cores; at most {:.0} MiB: {}",
                crowd.streams,
                crowd.errors,
                crowd.errors_by_kind,
                crowd.run.peak_rss_mib,
                crowd.run.cpu_cores,
                crowd.most_mib,
                verdict_of(crowd.ok)
            )?;
        }
        Ok(())
    }

    /// Runs that say little.
    fn doubts(&self, out: &mut impl Write, case: &CaseReport) -> io::Result<()> {
        for (name, side) in [("picker", &case.picker), ("no-op", &case.noop)] {
            let unsound = side.runs.iter().filter(|run| !run.is_sound());
            for run in unsound {
                let rate = if run.rate_reached {
                    ""
                } else {
                    "; the rate was not held"
                };
                writeln!(
                    out,
                    "  {name}: {} errors of {}{rate}",
                    run.errors, run.requests
                )?;
            }
        }
        Ok(())
    }
}

const fn verdict_of(ok: bool) -> &'static str {
    if ok { "ok" } else { "MISSED" }
}

/// The value in the middle; of an even number, the mean of the two there. Zero of none.
fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut sorted: Vec<f64> = values.collect();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match (sorted.len() % 2, sorted.get(middle)) {
        (_, None) => 0.0,
        (1, Some(&value)) => value,
        (_, Some(&value)) => f64::midpoint(sorted[middle - 1], value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::edge::case::cases;

    fn run(cpu_ms_per_request: f64) -> Run {
        Run {
            requests: 10,
            errors: 0,
            rate_reached: true,
            cpu_ms_per_request,
            cpu_cores: 0.1,
            peak_rss_mib: 20.0,
            pick_p50_ms: Some(0.2),
            pick_p99_ms: Some(0.4),
            chunk_p50_ms: None,
            chunk_p99_ms: None,
        }
    }

    fn with_aim(aim: Aim) -> Case {
        Case { aim, ..cases()[0] }
    }

    #[test]
    fn a_case_is_judged_by_the_median_of_its_paired_ratios() {
        // In the third round the machine was slow, for both.
        let picker = vec![run(1.4), run(1.4), run(28.0)];
        let noop = vec![run(1.0), run(1.0), run(10.0)];
        let of = |aim| CaseReport::of(&with_aim(aim), picker.clone(), noop.clone());
        let report = of(Aim::Ratio(1.5));
        assert!((report.ratio - 1.4).abs() < 1e-9);
        assert_eq!(report.ok, Some(true));
        assert_eq!(of(Aim::Ratio(1.3)).ok, Some(false));
        assert_eq!(of(Aim::CpuMs(1.0)).ok, Some(false));
        assert_eq!(of(Aim::None).ok, None);
    }

    #[test]
    fn a_run_with_errors_or_without_its_rate_meets_no_aim() {
        let failed = Run {
            errors: 1,
            ..run(1.0)
        };
        let slow = Run {
            rate_reached: false,
            ..run(1.0)
        };
        for unsound in [failed, slow] {
            let case = with_aim(Aim::Ratio(1.5));
            let report = CaseReport::of(&case, vec![run(1.0)], vec![unsound.clone()]);
            assert_eq!(report.ok, Some(false), "{unsound:?}");
        }
    }

    #[test]
    fn a_median_of_two_lies_between_them() {
        assert_eq!(median([4.0, 1.0].into_iter()), 2.5);
        assert_eq!(median([4.0, 1.0, 2.0].into_iter()), 2.0);
    }
}

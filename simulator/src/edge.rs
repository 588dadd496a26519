//! The cost of the picker's edge, measured beside a server that only echoes: `make bench-edge`.
//!
//! Both servers are processes of their own and get the same load in turn, case by case and round by round, so that what else the
//! machine does falls on both. A case is judged by the median over the rounds of the picker's cost over the other's.

mod case;
mod report;
mod scene;

use std::error::Error;
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use tokio::time::sleep;

use crate::load::ext_proc::ExtProc;
use crate::load::process::Usage;
use crate::load::{self, LoadPlan, LoadReport, Target};
use crate::pointsman::Pointsman;
use crate::workload::{Span, Workload, adapter_names};

use case::{Aim, CROWD, Case, IDLE_CORES, cases};
use report::{CaseReport, Crowd, EdgeReport, Idle, Run};
use scene::Scene;

/// Measure what the picker's edge costs, beside a server that only echoes.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// The `pointsman` executable
    #[arg(long, value_name = "FILE")]
    pointsman: PathBuf,
    /// The report as JSON; what is started logs beside it
    #[arg(long, value_name = "FILE", default_value = "target/bench/edge.json")]
    out: PathBuf,
    /// Measurements of each case, on either server
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Only the cases whose names have this in them; `idle` and `crowd` are names, too
    #[arg(long, value_name = "TEXT")]
    case: Option<String>,
    /// Endpoints that the picker reads meanwhile
    #[arg(long, value_name = "N", default_value_t = 100)]
    endpoints: u16,
}

/// How long the idle picker is measured.
const IDLE: Duration = Duration::from_secs(20);
/// Load before the counted one: connections, pages of memory, what is set up once.
const WARM_UP: Duration = Duration::from_secs(1);

/// Runs the cases, prints the table and writes the report.
///
/// # Errors
/// Something could not be started, a plan does not fit, or a file or the table cannot be written.
pub async fn run(options: Options) -> Result<(), Box<dyn Error>> {
    let folder = options.out.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let wanted = |name: &str| {
        let filter = options.case.as_deref();
        filter.is_none_or(|text| name.contains(text))
    };
    let cases: Vec<Case> = cases()
        .into_iter()
        .filter(|case| wanted(case.name))
        .collect();
    let bar = progress_bar(&options, cases.len());
    let scene = Scene::start(&options.pointsman, folder, options.endpoints).await?;
    let mut report = EdgeReport {
        endpoints: options.endpoints,
        rounds: options.rounds,
        idle: None,
        cases: Vec::new(),
        crowd: None,
    };
    if wanted("idle") {
        bar.set_message("idle");
        report.idle = Some(idle(&scene.picker).await?);
    }
    for case in &cases {
        report
            .cases
            .push(measure(case, &scene, &options, &bar).await?);
    }
    if wanted("crowd") {
        bar.set_message("crowd");
        // A process of its own: the peak of its memory is to be that of this case.
        let picker = scene.another_picker(&options.pointsman, folder).await?;
        report.crowd = Some(crowd(&picker).await?);
    }
    bar.finish_and_clear();
    let text = serde_json::to_string_pretty(&report)?;
    fs::write(&options.out, text).map_err(|error| format!("{}: {error}", options.out.display()))?;
    let mut out = io::stdout().lock();
    report.write(&mut out)?;
    writeln!(out, "written to {}", options.out.display())?;
    Ok(())
}

/// The picker with nothing to do but to read its endpoints.
async fn idle(picker: &Pointsman) -> Result<Idle, Box<dyn Error>> {
    let usage = Usage::of(picker.pid)?;
    sleep(IDLE).await;
    let cost = usage.since(0).ok_or("the picker has ended")?;
    Ok(Idle {
        cpu_cores: cost.cpu_cores,
        most_cores: IDLE_CORES,
        ok: cost.cpu_cores <= IDLE_CORES,
    })
}

/// One case on both servers, in turn.
async fn measure(
    case: &Case,
    scene: &Scene,
    options: &Options,
    bar: &ProgressBar,
) -> Result<CaseReport, Box<dyn Error>> {
    let picker = (scene.picker.ext_proc.to_string(), scene.picker.pid);
    let noop = (scene.noop.address.clone(), scene.noop.pid);
    for (server, pid) in [&picker, &noop] {
        let mut plan = plan(case, server, *pid);
        plan.duration = WARM_UP;
        case.without_chunks(&mut plan);
        load::run(plan).await?;
    }
    let (mut of_picker, mut of_noop) = (Vec::new(), Vec::new());
    for round in 0..options.rounds {
        let mut both = [(&picker, &mut of_picker), (&noop, &mut of_noop)];
        if round % 2 == 1 {
            both.reverse();
        }
        for ((server, pid), runs) in both {
            bar.set_message(case.name);
            let report = load::run(plan(case, server, *pid)).await?;
            runs.push(Run::of(&report).ok_or("the measured server has ended")?);
            bar.inc(1);
        }
    }
    Ok(CaseReport::of(case, of_picker, of_noop))
}

fn plan(case: &Case, server: &str, pid: u32) -> LoadPlan {
    let to = ExtProc {
        follow: case.follow,
        chunk_interval: case.chunk_interval,
        frame_bytes: case.frame_bytes,
        connections: case.connections,
        ..ExtProc::new(server)
    };
    let mut workload = Workload::uniform(case.prompt_bytes / 4, 1, 0);
    workload.kinds[0].output_tokens = Span::exactly(case.chunks);
    LoadPlan {
        target: Target::ExtProc(to),
        adapter_names: adapter_names(0),
        pid: Some(pid),
        ..LoadPlan::new("", "base", workload, case.rate, case.duration)
    }
}

/// Many streams at once.
async fn crowd(picker: &Pointsman) -> Result<Crowd, Box<dyn Error>> {
    let (case, streams, most_mib) = CROWD;
    let report: LoadReport =
        load::run(plan(&case, &picker.ext_proc.to_string(), picker.pid)).await?;
    let run = Run::of(&report).ok_or("the picker has ended")?;
    let ok = report.requests == streams && report.errors == 0 && run.peak_rss_mib <= most_mib;
    Ok(Crowd {
        streams,
        errors: report.errors,
        errors_by_kind: report.errors_by_kind,
        most_mib,
        ok,
        run,
    })
}

fn progress_bar(options: &Options, cases: usize) -> ProgressBar {
    let runs = cases as u64 * u64::from(options.rounds) * 2;
    let style = ProgressStyle::with_template("{elapsed_precise} {bar:40} {pos}/{len} {msg}");
    let bar = ProgressBar::new(runs);
    bar.enable_steady_tick(Duration::from_millis(250));
    bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

impl Case {
    /// A warm-up needs no long responses.
    fn without_chunks(&self, plan: &mut LoadPlan) {
        plan.workload.kinds[0].output_tokens = Span::exactly(self.chunks.min(10));
    }
}

/// What a case is judged by, in words.
impl std::fmt::Display for Aim {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Ratio(most) => write!(formatter, "x{most:.1}"),
            Self::CpuMs(most) => write!(formatter, "{most:.1} ms"),
            Self::None => write!(formatter, "-"),
        }
    }
}

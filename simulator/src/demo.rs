//! The demo: the same load through a real Envoy three ways, and what picking by adapters and load is worth.
//!
//! Eight model servers, one picker and one Envoy run on this machine. Envoy has three routes to the same servers: two
//! with its own balancing, and one on which it asks the picker.

mod machine;
mod page;
mod receipts;
mod report;
mod scene;

use std::fs;
use std::io::{self, Write};
use std::path::PathBuf;
use std::time::Duration;

use thiserror::Error;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use self::machine::BusyTime;
use self::report::{Report, RouteReport, WorkloadReport};
use self::scene::Scene;
use crate::bench;
use crate::envoy::EnvoyError;
use crate::load::{self, LoadError, LoadPlan};
use crate::pointsman::PointsmanError;
use crate::serve::ServeError;
use crate::workload::Workload;

/// How to run the demo.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// The `envoy` executable.
    #[arg(long)]
    envoy: PathBuf,
    /// The `pointsman` executable.
    #[arg(long)]
    pointsman: PathBuf,
    /// The folder for the report.
    #[arg(long, default_value = "target/demo")]
    out: PathBuf,
    /// Seconds of counted load for each workload and route.
    #[arg(long, default_value_t = 9)]
    seconds: u64,
    /// The load, as a share of what the servers can do with every adapter resident.
    #[arg(long, default_value_t = 0.7)]
    rate_of_capacity: f64,
    /// The seed of the load.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// Why the demo ended early.
#[derive(Debug, Error)]
pub enum DemoError {
    /// A file could not be written.
    #[error("{0}: {1}")]
    File(PathBuf, io::Error),
    /// Standard output is gone.
    #[error("the table cannot be written: {0}")]
    Output(#[from] io::Error),
    /// The model servers did not start.
    #[error(transparent)]
    Servers(#[from] ServeError),
    /// Envoy did not start.
    #[error(transparent)]
    Envoy(#[from] EnvoyError),
    /// The picker did not start, or did not answer.
    #[error(transparent)]
    Picker(#[from] PointsmanError),
    /// The load could not be sent.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// Somebody pressed Ctrl-C.
    #[error("interrupted; nothing is left running")]
    Interrupted,
}

/// The ways through Envoy, as the report calls them; the last one asks the picker.
const ROUTES: [&str; 3] = ["round_robin", "least_request", "picker"];
/// Load of another seed before the counted one, so that every route starts with warm servers.
const WARM_UP: Duration = Duration::from_secs(3);
/// Further rounds of it while the picker's adapter slots are not filled.
const WARM_UPS_MAX: usize = 3;
/// Servers.
const SERVERS: usize = 8;

/// Runs the demo and writes the table, `report.json` and `report.html`.
///
/// # Errors
/// [`DemoError`]. Nothing is left running, whatever happens.
pub async fn run(options: Options) -> Result<(), DemoError> {
    let stop = CancellationToken::new();
    tokio::select! {
        result = run_workloads(&options, &stop) => result,
        () = interrupted() => {
            stop.cancel();
            Err(DemoError::Interrupted)
        }
    }
}

async fn interrupted() {
    let (Ok(mut interrupt), Ok(mut terminate)) = (
        signal(SignalKind::interrupt()),
        signal(SignalKind::terminate()),
    ) else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}

async fn run_workloads(options: &Options, stop: &CancellationToken) -> Result<(), DemoError> {
    fs::create_dir_all(&options.out)
        .map_err(|error| DemoError::File(options.out.clone(), error))?;
    let mut out = io::stdout();
    let mut report = Report::new(options.seed, options.rate_of_capacity);
    let mut explained = Vec::new();
    for (workload, capacity) in workloads() {
        let rate = capacity * options.rate_of_capacity;
        writeln!(
            out,
            "\n{}: {SERVERS} model servers, {rate:.1} requests a second of {capacity:.1}; {}",
            report::short_name(&workload),
            workload.description()
        )?;
        let scene = Scene::start(options, &workload).await?;
        let mut routes = Vec::new();
        for name in ROUTES {
            routes.push(one_route(options, &scene, name, &workload, rate, stop).await?);
        }
        explained.extend(receipts::worth_reading(&scene.decisions().await?));
        let result = WorkloadReport::new(&workload, rate, capacity, routes);
        result.write_table(&mut out)?;
        report.workloads.push(result);
    }
    writeln!(out, "\nWhy requests went where they went:\n")?;
    for text in &explained {
        writeln!(out, "{text}\n")?;
    }
    report.warn(&mut out)?;
    let json = options.out.join("report.json");
    let html = options.out.join("report.html");
    let text = serde_json::to_string_pretty(&report).unwrap_or_default();
    fs::write(&json, text).map_err(|error| DemoError::File(json.clone(), error))?;
    fs::write(&html, page::of(&report, &explained))
        .map_err(|error| DemoError::File(html.clone(), error))?;
    writeln!(out, "Written: {} and {}", json.display(), html.display())?;
    writeln!(out, "\nTo go on:\n{}", NEXT)?;
    Ok(())
}

/// What to try after the demo.
const NEXT: &str = "  target/release/pointsman-sim bench --workload demo_lora            the same question in virtual time
  target/release/pointsman-sim serve --help                         vLLM-like servers to play with
  docs/guides/without-kubernetes.md                                 your own vLLM servers behind Envoy and Pointsman";

/// The workloads, each with what the servers complete a second when they are kept busy with every adapter resident.
fn workloads() -> [(Workload, f64); 2] {
    let profile = scene::profile();
    let lora = Workload::demo_lora();
    let mixed = Workload::demo_mixed();
    let capacity = |workload: &Workload| bench::capacity(workload, &profile, SERVERS);
    let (of_lora, of_mixed) = (capacity(&lora), capacity(&mixed));
    [(lora, of_lora), (mixed, of_mixed)]
}

/// Warms one route up, sends the counted load, and says what came of it.
async fn one_route(
    options: &Options,
    scene: &Scene,
    name: &'static str,
    workload: &Workload,
    rate: f64,
    stop: &CancellationToken,
) -> Result<RouteReport, DemoError> {
    let plan = |seed, duration, progress| LoadPlan {
        seed,
        servers: scene.addresses(),
        progress,
        stop: stop.clone(),
        ..LoadPlan::new(
            &scene.url(name),
            scene::MODEL,
            workload.clone(),
            rate,
            duration,
        )
    };
    for round in 0..WARM_UPS_MAX {
        let seed = options.seed.wrapping_add(1000 + round as u64);
        load::run(plan(seed, WARM_UP, false)).await?;
        if name != "picker" || scene.slots_are_filled(workload).await? {
            break;
        }
    }
    let busy = BusyTime::now();
    let counted = plan(options.seed, Duration::from_secs(options.seconds), true);
    let load = load::run(counted).await?;
    Ok(RouteReport::new(name, load, busy.share_since()))
}

//! `pointsman-sim bench`: workloads x policies in virtual time, as a table or as JSON.

pub mod cell;
pub mod interval;
pub mod matrix;
pub mod two_clocks;

mod parallel;

use std::error::Error;
use std::fs;
use std::io::{self, IsTerminal as _, Write};
use std::path::PathBuf;

use picker_core::time::Instant;
use serde::Serialize;

use crate::engine::Profile;
use crate::policy::Policy;
use crate::virtual_time::record::Trace;
use crate::virtual_time::{self, Job, Plan};
use crate::workload::Workload;
use cell::{Cell, SharesOfCells, Slo};
use matrix::Scenario;

/// Compare policies in virtual time, over modelled servers and without a network.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// What clients send; may be given several times.
    #[arg(long, default_values = ["lora"], value_parser = Workload::named)]
    pub workload: Vec<Workload>,
    /// Who chooses the server; may be given several times. All, if not given.
    #[arg(long)]
    pub policy: Vec<Policy>,
    /// How many servers there are.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..))]
    pub servers: u16,
    /// Requests of each run that count.
    #[arg(long, default_value_t = 5_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub requests: u32,
    /// How many runs make a cell, with the seeds 0, 1, 2 and so on.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..))]
    pub seeds: u64,
    /// Requests a second, as a share of what the servers complete when saturated with every adapter resident. 0.7 if not given,
    /// 1.2 for overload.
    #[arg(long, value_parser = positive)]
    pub rate_of_capacity: Option<f64>,
    /// The servers' hardware and settings. What the workload is meant for, if not given.
    #[arg(long, value_parser = profile)]
    pub profile: Option<Profile>,
    /// A TOML file of cells, instead of the options above.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["workload", "policy", "servers", "requests", "seeds", "rate_of_capacity", "profile", "trace"])]
    pub cells: Option<PathBuf>,
    /// Recorded requests instead of a workload: Mooncake's JSON lines or Azure's CSV, gzipped or not.
    #[arg(long, value_name = "FILE", conflicts_with = "workload")]
    pub trace: Option<PathBuf>,
    /// Runs at once; the numbers do not depend on it. As many as there are processors, if not given.
    #[arg(long, value_name = "N")]
    pub threads: Option<usize>,
    /// virtual: modelled time. both: the same requests again over HTTP in real time, to see how far the clocks agree; its workloads
    /// are small editions of lora and mixed.
    #[arg(long, value_enum, default_value_t = Clock::Virtual)]
    pub clock: Clock,
    /// How long each run in real time sends.
    #[arg(long, value_name = "N", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..))]
    pub seconds: u64,
    /// Print JSON, not a table.
    #[arg(long)]
    pub json: bool,
    /// Write the JSON to a file too.
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
}

/// Which clocks a bench runs by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Clock {
    /// The agenda's alone.
    Virtual,
    /// The agenda's and the machine's.
    Both,
}

/// What `--json` prints.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// One for each workload, rate and policy.
    pub cells: Vec<Cell>,
    /// By policy, the share of workloads and rates in which it was the best or not told from the best.
    pub best_or_tied_share: SharesOfCells,
    /// What `goodput` asks for.
    pub slo: Slo,
}

/// Runs what `options` ask for and prints it.
///
/// # Errors
/// A file that cannot be read or makes no sense, or an output that cannot be written to.
pub async fn run(options: &Options) -> Result<(), Box<dyn Error>> {
    if options.clock == Clock::Both {
        let compared = two_clocks::compare(options).await?;
        return print(options, &compared, |out| {
            two_clocks::write_table(out, &compared)
        });
    }
    let scenarios = matrix::scenarios(options)?;
    let report = report(&scenarios, options.threads);
    print(options, &report, |out| cell::write_table(out, &report))
}

/// Writes `report` to the file that was asked for, and as JSON or as a `table` to standard output.
fn print(
    options: &Options,
    report: &impl Serialize,
    table: impl FnOnce(&mut io::StdoutLock<'_>) -> io::Result<()>,
) -> Result<(), Box<dyn Error>> {
    if let Some(file) = &options.out {
        let failed = |error: io::Error| format!("{}: {error}", file.display());
        if let Some(folder) = file.parent() {
            fs::create_dir_all(folder).map_err(failed)?;
        }
        fs::write(file, serde_json::to_string_pretty(report)?).map_err(failed)?;
    }
    let mut out = io::stdout().lock();
    if options.json {
        serde_json::to_writer_pretty(&mut out, report)?;
        writeln!(out)?;
    } else {
        table(&mut out)?;
    }
    Ok(())
}

/// Runs every scenario under each of its policies, on `threads` threads or as many as there are processors.
///
/// The oracle always runs too, as the measure of regret, and is a cell where it was asked for. Every policy gets the same
/// arrivals, lengths and adapters, seed by seed.
#[must_use]
pub fn report(scenarios: &[Scenario], threads: Option<usize>) -> Report {
    let progress = io::stderr().is_terminal();
    let rates = parallel::map(scenarios, threads, None, |scenario| {
        let servers = usize::from(scenario.servers);
        scenario.rate_of_capacity * capacity(&scenario.workload, &scenario.profile, servers)
    });
    let mut runs = Vec::new();
    for (scenario, rate) in scenarios.iter().zip(rates) {
        for policy in scenario.policies_and_oracle() {
            runs.extend((0..scenario.seeds).map(|seed| (scenario, policy, seed, rate)));
        }
    }
    let bar = progress.then_some("runs");
    let traces = parallel::map(&runs, threads, bar, |&(scenario, policy, seed, rate)| {
        one_run(scenario, policy, seed, rate)
    });
    let mut traces = traces.into_iter();
    let (mut cells, mut shares) = (Vec::new(), SharesOfCells::default());
    for scenario in scenarios {
        let policies = scenario.policies_and_oracle();
        let of_scenario: Vec<(Policy, Vec<Trace>)> = policies
            .into_iter()
            .map(|policy| {
                (
                    policy,
                    traces.by_ref().take(scenario.seeds as usize).collect(),
                )
            })
            .collect();
        cells.extend(Cell::of_scenario(scenario, &of_scenario));
        shares.add(scenario, &of_scenario);
    }
    Report {
        cells,
        best_or_tied_share: shares,
        slo: Slo::BENCH,
    }
}

/// One run at `rate` requests a second. The jobs depend on the workload and the seed alone, so that policies are compared
/// on the same ones.
#[must_use]
pub fn one_run(scenario: &Scenario, policy: Policy, seed: u64, rate: f64) -> Trace {
    let servers = usize::from(scenario.servers);
    let workload = &scenario.workload;
    let mut plan = Plan::new(scenario.profile.clone(), servers, workload.adapters, policy);
    plan.seed = seed;
    plan.trace.clone_from(&workload.trace);
    plan.warm_up = WARM_UP_BATCHES * scenario.profile.max_num_seqs * servers;
    let count = plan.warm_up + scenario.requests as usize;
    virtual_time::run(&plan, &jobs(workload, seed, rate, count))
}

/// Jobs before those that count, by server, in batches of the size that it runs: until queues and slots are as they stay.
const WARM_UP_BATCHES: usize = 6;

/// The requests that `servers` servers complete per second when kept saturated with every adapter resident.
///
/// Measured with many batches of jobs on each server from the start, from the first tenth of the answers to the last fifth, where
/// servers begin to run dry.
#[must_use]
pub fn capacity(workload: &Workload, profile: &Profile, servers: usize) -> f64 {
    let mut profile = profile.clone();
    let adapters = workload.adapters;
    profile.max_loras = profile.max_loras.max(adapters as usize);
    profile.adapter_load_ms = 0.0;
    let count = SATURATING_BATCHES * profile.max_num_seqs * servers;
    let mut jobs = jobs(workload, 0, 1.0, count);
    for job in &mut jobs {
        job.at = Instant::ZERO;
    }
    let plan = Plan::new(profile, servers, adapters, Policy::RoundRobin);
    let trace = virtual_time::run(&plan, &jobs);
    let mut ends: Vec<Instant> = trace
        .records
        .iter()
        .filter_map(|record| record.ended)
        .collect();
    ends.sort_unstable();
    let (from, to) = (ends.len() / 10, ends.len() * 8 / 10);
    (to - from) as f64 * 1e3 / ends[to].ms_since(ends[from])
}

/// Jobs that a server has from the start when its capacity is measured, in batches of the size that it runs.
const SATURATING_BATCHES: usize = 20;

fn jobs(workload: &Workload, seed: u64, rate: f64, count: usize) -> Vec<Job> {
    let arrivals = workload.arrivals(rate, seed).take(count);
    arrivals.map(|arrival| Job::of(&arrival)).collect()
}

fn profile(name: &str) -> Result<Profile, String> {
    Profile::named(name).ok_or_else(|| {
        let names: Vec<_> = Profile::all().iter().map(|profile| profile.name).collect();
        format!(
            "there is no profile of that name: give one of {}",
            names.join(", ")
        )
    })
}

fn positive(text: &str) -> Result<f64, String> {
    let share: f64 = text
        .parse()
        .map_err(|error| format!("{error}: give a number such as 0.7"))?;
    if share.is_finite() && share > 0.0 {
        Ok(share)
    } else {
        Err("give a number above 0, such as 0.7".to_owned())
    }
}

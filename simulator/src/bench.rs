//! `pointsman-sim bench`: workloads x policies in virtual time, as a table or as JSON.

pub mod cell;
pub mod constants;
pub mod interval;
pub mod matrix;
pub mod table;
pub mod two_clocks;
pub mod verdict;

mod parallel;
mod run;

use std::error::Error;
use std::fs;
use std::io::{self, IsTerminal as _, Write};
use std::path::PathBuf;
use std::time::Instant;

use serde::Serialize;

use crate::engine::Profile;
use crate::policy::Policy;
use crate::virtual_time::record::Trace;
use crate::workload::Workload;
use cell::{Cell, Slo};
use constants::Constants;
use matrix::Scenario;
use verdict::{Comparison, SharesOfCells, Verdict};

pub use run::{capacity, one_run, rate};

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
    /// Requests of each run that count. 5,000 if not given; for failures, those of two minutes.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pub requests: Option<u32>,
    /// How many runs make a cell, with the seeds 0, 1, 2 and so on. 5 if not given, or what the file of cells says.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    pub seeds: Option<u64>,
    /// Requests a second, as a share of what the servers complete when saturated with every adapter resident. 0.7 if not given,
    /// 1.2 for overload.
    #[arg(long, value_parser = positive)]
    pub rate_of_capacity: Option<f64>,
    /// The servers' hardware and settings. What the workload is meant for, if not given.
    #[arg(long, value_parser = profile)]
    pub profile: Option<Profile>,
    /// A TOML file of cells, instead of the options above but --policy and --seeds.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["workload", "servers", "requests", "rate_of_capacity", "profile", "trace"])]
    pub cells: Option<PathBuf>,
    /// Those cells of the file alone whose names begin so, such as lora or lora-drawn; a list is parted by commas.
    #[arg(long, value_name = "CELL", value_delimiter = ',', requires = "cells")]
    pub only: Vec<String>,
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
    /// By policy and metric, the share of cells in which it was best or tied against every other one but the oracle.
    pub best_or_tied_share: SharesOfCells,
    /// Every policy against every other one but the oracle, by cell and metric.
    pub comparisons: Vec<Comparison>,
    /// The picker against its targets, by cell.
    pub verdicts: Vec<Verdict>,
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
    print(options, &report, |out| table::write(out, &report))
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
/// servers, arrivals, lengths, adapters and faults, seed by seed.
#[must_use]
pub fn report(scenarios: &[Scenario], threads: Option<usize>) -> Report {
    let began = Instant::now();
    let mut report = Report {
        cells: Vec::new(),
        best_or_tied_share: SharesOfCells::default(),
        comparisons: Vec::new(),
        verdicts: Vec::new(),
        slo: Slo::BENCH,
    };
    for (number, scenario) in scenarios.iter().enumerate() {
        let runs = runs(scenario, threads);
        let cells = Cell::of_scenario(scenario, &runs);
        let comparisons = verdict::comparisons(scenario, &runs);
        report.best_or_tied_share.add(&comparisons);
        report
            .verdicts
            .extend(Verdict::of(scenario, &cells, &comparisons));
        report.cells.extend(cells);
        report.comparisons.extend(comparisons);
        // Progress is no result: whoever does not listen misses nothing.
        let _ = writeln!(
            io::stderr(),
            "{} of {} cells after {:.0} s: {}",
            number + 1,
            scenarios.len(),
            began.elapsed().as_secs_f64(),
            scenario.name()
        );
    }
    report
}

/// The runs of one scenario, by policy and in the order of the seeds.
fn runs(scenario: &Scenario, threads: Option<usize>) -> Vec<(Policy, Vec<Trace>)> {
    let seeds: Vec<u64> = (0..scenario.seeds).collect();
    let rates = match scenario.constants {
        Constants::Profile => vec![rate(scenario, 0); seeds.len()],
        Constants::Drawn => parallel::map(&seeds, threads, None, |&seed| rate(scenario, seed)),
    };
    let policies = scenario.policies_and_oracle();
    let mut runs = Vec::new();
    for &policy in &policies {
        let each = seeds.iter().zip(&rates);
        runs.extend(each.map(|(&seed, &rate)| (policy, seed, rate)));
    }
    let bar = io::stderr().is_terminal().then_some("runs");
    let traces = parallel::map(&runs, threads, bar, |&(policy, seed, rate)| {
        one_run(scenario, policy, seed, rate)
    });
    let mut traces = traces.into_iter();
    let by_policy = policies
        .into_iter()
        .map(|policy| (policy, traces.by_ref().take(seeds.len()).collect()));
    by_policy.collect()
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

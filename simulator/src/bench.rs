//! `pointsman-sim bench`: workloads x policies in virtual time, as a table or as JSON.

pub mod cell;

use std::io::{self, Write};

use picker_core::time::Instant;
use serde::Serialize;

use crate::engine::Profile;
use crate::policy::Policy;
use crate::virtual_time::record::Trace;
use crate::virtual_time::{self, Job, Plan};
use crate::workload::Workload;
use cell::Cell;

/// Compare policies in virtual time, over modelled servers and without a network.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// What clients send; may be given several times.
    #[arg(long, default_values = ["lora", "mixed"], value_parser = workload)]
    pub workload: Vec<Workload>,
    /// Who chooses the server; may be given several times. All, if not given.
    #[arg(long)]
    pub policy: Vec<Policy>,
    /// How many servers there are.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..))]
    pub servers: u16,
    /// Requests of each run that count.
    #[arg(long, default_value_t = 2_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub requests: u32,
    /// How many runs make a cell, with the seeds 0, 1, 2 and so on.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..))]
    pub seeds: u64,
    /// Requests a second, as a share of what the servers complete when saturated with every adapter resident.
    #[arg(long, default_value_t = 0.7, value_parser = positive)]
    pub rate_of_capacity: f64,
    /// The servers' hardware and settings.
    #[arg(long, default_value = "demo", value_parser = profile)]
    pub profile: Profile,
    /// Print JSON, not a table.
    #[arg(long)]
    pub json: bool,
}

/// What `--json` prints.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// One for each workload and policy.
    pub cells: Vec<Cell>,
}

/// Runs what `options` ask for and prints it.
///
/// # Errors
/// When standard output cannot be written to.
pub fn run(options: &Options) -> io::Result<()> {
    let report = report(options);
    let mut out = io::stdout().lock();
    if options.json {
        serde_json::to_writer_pretty(&mut out, &report)?;
        return writeln!(out);
    }
    cell::write_table(&mut out, &report.cells)
}

/// Runs every workload under every policy.
#[must_use]
pub fn report(options: &Options) -> Report {
    let all = options.policy.is_empty();
    let policies = if all {
        &Policy::ALL[..]
    } else {
        &options.policy
    };
    let mut cells = Vec::new();
    for workload in &options.workload {
        let rate = options.rate_of_capacity
            * capacity(workload, &options.profile, usize::from(options.servers));
        for &policy in policies {
            let traces: Vec<Trace> = (0..options.seeds)
                .map(|seed| one_run(options, workload, policy, seed, rate))
                .collect();
            cells.push(Cell::of(
                workload.name,
                options.rate_of_capacity,
                policy,
                &traces,
            ));
        }
    }
    Report { cells }
}

/// One run at `rate` requests a second. The jobs depend on the workload and the seed alone, so that policies are compared
/// on the same ones.
#[must_use]
pub fn one_run(
    options: &Options,
    workload: &Workload,
    policy: Policy,
    seed: u64,
    rate: f64,
) -> Trace {
    let servers = usize::from(options.servers);
    let mut plan = Plan::new(options.profile.clone(), servers, workload.adapters, policy);
    plan.seed = seed;
    plan.warm_up = WARM_UP_PER_SERVER * servers;
    let jobs = jobs(
        workload,
        seed,
        rate,
        plan.warm_up + options.requests as usize,
    );
    virtual_time::run(&plan, &jobs)
}

/// Jobs before those that count, by server: until queues and slots are as they stay.
const WARM_UP_PER_SERVER: usize = 50;

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

fn workload(name: &str) -> Result<Workload, String> {
    Workload::named(name)
        .ok_or_else(|| "there is no workload of that name: give lora or mixed".to_owned())
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

//! The same requests in virtual time and, over HTTP, in real time: how far the two clocks agree.
//!
//! One engine runs by both clocks. What real time adds is the machine: timers, sockets, the HTTP of servers and clients. Both
//! sides place requests by the same policy, which knows what is in flight and nothing else.

use std::error::Error;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::time::Duration;

use serde::Serialize;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::cell::Distribution;
use super::{Options, capacity};
use crate::engine::Profile;
use crate::load::LoadPlan;
use crate::load::request::{Outcome, Sender};
use crate::policy::{Baseline, Policy};
use crate::serve;
use crate::virtual_time::gateway::Sender as Balancer;
use crate::virtual_time::record::Record;
use crate::virtual_time::{self, Job, Plan};
use crate::workload::{Arrival, Workload, adapter_names};

/// Servers of an edition: a small machine is to have time to spare.
const SERVERS: usize = 4;
/// Requests a second, as a share of the capacity.
const RATE_OF_CAPACITY: f64 = 0.5;
/// From the gateway to a server and back: what loopback and the HTTP of both sides take.
const LINK_DELAY: Duration = Duration::from_micros(500);

/// How far the clocks may differ, as a share: times to first token, adapter loads.
const TOLERANCES: [f64; 3] = [0.15, 0.15, 0.10];
/// What is compared.
const METRICS: [&str; 3] = ["ttft_p50_ms", "ttft_p90_ms", "adapter_loads"];

/// What both clocks made of the same requests.
#[derive(Clone, Debug, Serialize)]
pub struct Comparison {
    /// One for each workload.
    pub workloads: Vec<Compared>,
    /// The policy that placed requests.
    pub policy: Policy,
    /// Servers.
    pub servers: usize,
    /// How long each run sent.
    pub seconds: u64,
}

/// One workload by both clocks.
#[derive(Clone, Debug, Serialize)]
pub struct Compared {
    /// Its name.
    pub workload: &'static str,
    /// Requests a second.
    pub rate: f64,
    /// Pairs of runs, by seed.
    pub pairs: Vec<Pair>,
    /// Medians over the pairs, by metric.
    pub medians: Vec<Median>,
}

/// The same requests by both clocks.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Pair {
    /// The seed of the requests.
    pub seed: u64,
    /// In virtual time.
    pub virtual_time: Run,
    /// In real time.
    pub real_time: Run,
}

/// What one run gave.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Run {
    /// Requests that ended.
    pub requests: usize,
    /// Those that failed.
    pub errors: usize,
    /// Median time to first token.
    pub ttft_p50_ms: f64,
    /// Nine of ten times to first token are at most this.
    pub ttft_p90_ms: f64,
    /// Adapters brought into a slot.
    pub adapter_loads: f64,
}

/// The medians of one metric.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Median {
    /// Which.
    pub metric: &'static str,
    /// Over the runs in virtual time.
    pub virtual_time: f64,
    /// Over the runs in real time.
    pub real_time: f64,
    /// Real over virtual: the median of the pairs' ratios. 1 if both are 0.
    pub ratio: f64,
    /// How far from 1 the ratio may be.
    pub tolerance: f64,
}

impl Median {
    /// Whether the clocks agree.
    #[must_use]
    pub fn is_within(&self) -> bool {
        (self.ratio - 1.0).abs() <= self.tolerance
    }
}

/// Llama-3.1-8B on a card a quarter as fast as an H100, at most 16 requests at once.
fn profile() -> Profile {
    Profile {
        speed: 0.25,
        max_num_seqs: 16,
        ..Profile::llama_8b_h100()
    }
}

/// Runs `lora` and `mixed` by both clocks, seed by seed.
///
/// # Errors
/// A policy that needs a picker, or servers that cannot be started.
pub async fn compare(options: &Options) -> Result<Comparison, Box<dyn Error>> {
    let policy = options
        .policy
        .first()
        .copied()
        .unwrap_or(Policy::RoundRobin);
    if Baseline::of(policy, 0).is_none() {
        return Err(
            "--clock both has no picker: give --policy round_robin or another baseline".into(),
        );
    }
    let duration = Duration::from_secs(options.seconds);
    let mut workloads = Vec::new();
    for workload in [Workload::lora(), Workload::mixed()] {
        let rate = RATE_OF_CAPACITY * capacity(&workload, &profile(), SERVERS);
        let mut pairs = Vec::new();
        for seed in 0..options.seeds.unwrap_or(5) {
            let schedule = workload.schedule(rate, duration, seed);
            let real = in_real_time(&workload, policy, seed, &schedule);
            pairs.push(Pair {
                seed,
                virtual_time: in_virtual_time(&workload, policy, seed, &schedule),
                real_time: real.await?,
            });
        }
        workloads.push(Compared {
            workload: workload.name,
            rate,
            medians: medians(&pairs),
            pairs,
        });
    }
    Ok(Comparison {
        workloads,
        policy,
        servers: SERVERS,
        seconds: options.seconds,
    })
}

fn medians(pairs: &[Pair]) -> Vec<Median> {
    let of = |run: &Run, place: usize| [run.ttft_p50_ms, run.ttft_p90_ms, run.adapter_loads][place];
    let compared = (0..METRICS.len()).map(|place| {
        let all =
            |side: fn(&Pair) -> Run| pairs.iter().map(|pair| of(&side(pair), place)).collect();
        let (modelled, real): (Vec<f64>, Vec<f64>) =
            (all(|pair| pair.virtual_time), all(|pair| pair.real_time));
        let ratios = modelled.iter().zip(&real);
        let ratios = ratios.map(|(modelled, real)| {
            if modelled == real {
                1.0
            } else {
                real / modelled
            }
        });
        Median {
            metric: METRICS[place],
            ratio: median(ratios.collect()),
            virtual_time: median(modelled),
            real_time: median(real),
            tolerance: TOLERANCES[place],
        }
    });
    compared.collect()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    let middle = values.len() / 2;
    let upper = values.get(middle).copied().unwrap_or_default();
    match values.len() % 2 {
        0 if middle > 0 => f64::midpoint(values[middle - 1], upper),
        _ => upper,
    }
}

fn in_virtual_time(workload: &Workload, policy: Policy, seed: u64, schedule: &[Arrival]) -> Run {
    let mut plan = Plan::new(profile(), SERVERS, workload.adapters, policy);
    plan.seed = seed;
    plan.link_delay = LINK_DELAY;
    let jobs: Vec<Job> = schedule.iter().map(Job::of).collect();
    let trace = virtual_time::run(&plan, &jobs);
    let ttft_ms = Distribution::of(trace.records.iter().filter_map(Record::ttft_ms));
    Run {
        requests: trace.records.len(),
        errors: trace.errors(),
        ttft_p50_ms: ttft_ms.p50,
        ttft_p90_ms: ttft_ms.p90,
        adapter_loads: trace.adapter_loads as f64,
    }
}

/// Servers on free ports of this machine, and clients that place each request themselves.
async fn in_real_time(
    workload: &Workload,
    policy: Policy,
    seed: u64,
    schedule: &[Arrival],
) -> Result<Run, Box<dyn Error>> {
    let names = adapter_names(workload.adapters);
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let options = serve::Options {
        remember: 0,
        ..serve::Options::local(SERVERS, "base", &names, profile())
    };
    let servers = serve::spawn(options).await?;
    let addresses: Vec<SocketAddr> = servers.iter().map(serve::Server::address).collect();
    let sender = |address: &SocketAddr| {
        let url = format!("http://{address}");
        let workload = workload.clone();
        let plan = LoadPlan::new(&url, "base", workload, 1.0, Duration::ZERO);
        Sender::new(&url, &plan)
    };
    let senders: Vec<Sender> = addresses.iter().map(sender).collect::<Result<_, _>>()?;
    let baseline = Baseline::of(policy, seed).ok_or("the policy is no baseline")?;
    let outcomes = send(schedule, &senders, Balancer::new(baseline, SERVERS)).await;
    let loads = senders[0].adapter_loads(&addresses).await;
    let first_tokens = outcomes.iter().filter_map(|outcome| outcome.first_token);
    let ttft_ms = Distribution::of(first_tokens.map(|took| took.as_secs_f64() * 1e3));
    Ok(Run {
        requests: outcomes.len(),
        errors: outcomes
            .iter()
            .filter(|outcome| outcome.failure.is_some())
            .count(),
        ttft_p50_ms: ttft_ms.p50,
        ttft_p90_ms: ttft_ms.p90,
        adapter_loads: loads.unwrap_or_default(),
    })
}

async fn send(schedule: &[Arrival], senders: &[Sender], mut balancer: Balancer) -> Vec<Outcome> {
    let start = Instant::now();
    let mut under_way = JoinSet::new();
    let mut outcomes = Vec::with_capacity(schedule.len());
    let mut next = (0..).zip(schedule).peekable();
    loop {
        let due = next.peek().map(|(_, arrival)| start + arrival.at);
        tokio::select! {
            biased;
            Some(ended) = under_way.join_next() => {
                let (index, outcome): (usize, Option<Outcome>) = ended.unwrap_or_default();
                balancer.ended(index);
                outcomes.extend(outcome);
            }
            () = sleep_until(due.unwrap_or(start)), if due.is_some() => {
                let Some(((index, arrival), due)) = next.next().zip(due) else { continue };
                let prompt_tokens = u64::from(arrival.prompt_tokens);
                let server = balancer.place(index, prompt_tokens).unwrap_or_default();
                let (sender, arrival) = (senders[server].clone(), *arrival);
                under_way.spawn(async move {
                    let (report_to, mut reported) = mpsc::channel(1);
                    sender.converse(index as u64, arrival, Some(due), report_to).await;
                    (index, reported.recv().await)
                });
            }
            else => return outcomes,
        }
    }
}

/// Writes the comparison for people.
///
/// # Errors
/// When `out` cannot be written to.
pub fn write_table(out: &mut impl Write, comparison: &Comparison) -> io::Result<()> {
    writeln!(
        out,
        "{:<10}{:>8}  {:<16}{:>12}{:>12}{:>8}{:>12}",
        "workload", "rate/s", "median of", "virtual", "real", "ratio", "target"
    )?;
    for compared in &comparison.workloads {
        for median in &compared.medians {
            let verdict = if median.is_within() { "" } else { "  MISSED" };
            writeln!(
                out,
                "{:<10}{:>8.2}  {:<16}{:>12.1}{:>12.1}{:>8.3}{:>12}{verdict}",
                compared.workload,
                compared.rate,
                median.metric,
                median.virtual_time,
                median.real_time,
                median.ratio,
                format!("+-{:.0} %", median.tolerance * 100.0),
            )?;
        }
        let errors: usize = compared
            .pairs
            .iter()
            .map(|pair| pair.real_time.errors)
            .sum();
        if errors > 0 {
            writeln!(out, "  {errors} requests failed in real time")?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(ttft_p50_ms: f64, ttft_p90_ms: f64, adapter_loads: f64) -> Run {
        Run {
            requests: 1,
            errors: 0,
            ttft_p50_ms,
            ttft_p90_ms,
            adapter_loads,
        }
    }

    #[test]
    fn the_ratio_is_the_median_of_the_pairs_ratios() {
        let pair = |seed, virtual_time, real_time| Pair {
            seed,
            virtual_time,
            real_time,
        };
        let pairs = [
            pair(0, run(10.0, 100.0, 0.0), run(11.0, 120.0, 0.0)),
            pair(1, run(20.0, 100.0, 0.0), run(20.0, 120.0, 0.0)),
            pair(2, run(30.0, 100.0, 0.0), run(90.0, 120.0, 0.0)),
        ];
        let medians = medians(&pairs);
        assert!((medians[0].ratio - 1.1).abs() < 1e-12, "{:?}", medians[0]);
        assert_eq!(
            (medians[0].virtual_time, medians[0].real_time),
            (20.0, 20.0)
        );
        assert!(medians[0].is_within() && !medians[1].is_within());
        assert_eq!(medians[2].ratio, 1.0, "no adapter, nothing to differ in");
        assert_eq!(median(vec![4.0, 1.0, 3.0, 2.0]), 2.5);
    }
}

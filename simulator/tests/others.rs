//! A picker before which others have used the servers, as in the demo, where the same load comes by round robin and by least request first:
//! it has seen their metrics alone, and what it makes of those must not spoil its picks.

use std::time::Duration;

use picker_core::time::Instant;
use simulator::bench;
use simulator::bench::cell::Distribution;
use simulator::engine::Profile;
use simulator::policy::{Baseline, Policy};
use simulator::virtual_time::record::{Record, Trace};
use simulator::virtual_time::{self, Follow, Job, Other, Plan};
use simulator::workload::Workload;

const SERVERS: usize = 8;
const SEEDS: u64 = 10;
/// Between the end of one load and the begin of the next: all answers have come by then.
const PAUSE: Duration = Duration::from_secs(6);

/// The demo's load of adapters, at its rate.
struct Load {
    workload: Workload,
    rate: f64,
    jobs: Vec<Job>,
    start: Instant,
}

impl Load {
    fn new() -> Self {
        let workload = Workload::demo_lora();
        Self {
            rate: 0.7 * bench::capacity(&workload, &Profile::demo(), SERVERS),
            workload,
            jobs: Vec::new(),
            start: Instant::from_millis(100),
        }
    }

    /// Adds so many seconds of it, and says how many requests these are.
    fn send(&mut self, seconds: u64, seed: u64) -> usize {
        let span = Duration::from_secs(seconds);
        let arrivals = self.workload.schedule(self.rate, span, seed);
        self.jobs.extend(arrivals.iter().map(|arrival| Job {
            at: self.start + arrival.at,
            ..Job::of(arrival)
        }));
        self.start = self.start + span + PAUSE;
        arrivals.len()
    }
}

/// Nine counted seconds under `policy`, after rounds of three seconds to warm up, and with `others` after the load of two other gateways.
fn run(policy: Policy, others: bool, rounds: u64, seed: u64) -> Trace {
    let mut load = Load::new();
    let mut plan = Plan::new(Profile::demo(), SERVERS, load.workload.adapters, policy);
    (plan.follow, plan.seed) = (Follow::Watched, seed);
    if others {
        for other in [Policy::RoundRobin, Policy::LeastRequest] {
            let jobs = load.send(3, 1_000 + seed) + load.send(9, seed);
            let baseline = Baseline::of(other, seed).expect("a baseline");
            plan.others.push(Other { baseline, jobs });
        }
    }
    for round in 0..rounds {
        load.send(3, 1_000 + seed + round);
    }
    plan.warm_up = load.jobs.len();
    load.send(9, seed);
    virtual_time::run(&plan, &load.jobs)
}

fn ttft_p90_ms(trace: &Trace) -> f64 {
    let answered = |record: &Record| record.ttft_ms().is_some();
    assert!(trace.counted().iter().all(answered), "each is answered");
    Distribution::of(trace.counted().iter().filter_map(Record::ttft_ms)).p90
}

/// Seed by seed: a tenth of the adapter loads and half of the p90 TTFT of round robin in the picker's place.
fn check(others: bool, rounds: u64) {
    for seed in 0..SEEDS {
        let picker = run(Policy::Pointsman, others, rounds, seed);
        let round_robin = run(Policy::RoundRobin, others, rounds, seed);
        let loads = picker.adapter_loads as f64 / round_robin.adapter_loads as f64;
        let ttft = ttft_p90_ms(&picker) / ttft_p90_ms(&round_robin);
        assert!(
            loads <= 0.1 && ttft <= 0.5,
            "seed {seed}: {loads:.2} of the loads and {ttft:.2} of the p90 TTFT of round robin"
        );
    }
}

#[test]
fn a_picker_that_has_watched_others_load_adapters_knows_what_a_load_costs() {
    check(true, 1);
    check(true, 3);
}

#[test]
fn a_picker_that_begins_with_idle_servers_fills_their_slots_once() {
    check(false, 3);
}

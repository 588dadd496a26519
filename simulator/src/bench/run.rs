//! One run of a scenario: its servers, its rate, its jobs and what befalls it, all from the seed.

use std::time::Duration;

use picker_core::seed::Random;
use picker_core::time::Instant;

use super::constants::{self, Constants};
use super::matrix::{Length, Limits, Scenario};
use crate::engine::Profile;
use crate::policy::Policy;
use crate::virtual_time::fault::{Fault, FaultKind};
use crate::virtual_time::record::Trace;
use crate::virtual_time::{self, Job, Plan};
use crate::workload::Workload;

/// What befalls a pool in the workload `failures`: kind, server, begin and end in seconds of the run. All of it within the two minutes that
/// count after one of warm-up, one thing at a time, with time between to work off what has piled up.
const FAULTS: [(FaultKind, usize, u64, u64); 3] = [
    (FaultKind::Hang, 1, 70, 90),
    (FaultKind::Crash, 3, 105, 125),
    (FaultKind::Freeze, 5, 145, 165),
];

/// One run at `rate` requests a second. The jobs depend on the scenario and the seed alone, so that policies are compared on the same ones.
#[must_use]
pub fn one_run(scenario: &Scenario, policy: Policy, seed: u64, rate: f64) -> Trace {
    let servers = usize::from(scenario.servers);
    let workload = &scenario.workload;
    let profile = scenario.profile.clone();
    let mut plan = Plan::new(profile, servers, workload.adapters, policy);
    plan.profiles = profiles(scenario, seed);
    plan.seed = seed;
    plan.trace.clone_from(&workload.trace);
    plan.follow = scenario.follow;
    if scenario.faults {
        plan.faults = faults(servers);
    }
    let mut jobs = jobs(scenario, seed, rate);
    plan.warm_up = match scenario.length {
        Length::Requests(_) => warm_up_jobs(scenario),
        Length::Seconds { warm_up, .. } => {
            let end = Instant::ZERO + Duration::from_secs(u64::from(warm_up));
            jobs.partition_point(|job| job.at < end)
        }
    };
    limit(&mut jobs, scenario.limits, seed);
    virtual_time::run(&plan, &jobs)
}

/// Requests a second of the run with this seed.
#[must_use]
pub fn rate(scenario: &Scenario, seed: u64) -> f64 {
    let mut rate = 0.0;
    let mut left = profiles(scenario, seed);
    while let Some(profile) = left.first().cloned() {
        let before = left.len();
        left.retain(|other| *other != profile);
        rate += capacity(&scenario.workload, &profile, before - left.len());
    }
    rate * scenario.rate_of_capacity
}

/// Jobs before those that count, by server, in batches of the size that it runs: until queues and slots are as they stay.
const WARM_UP_BATCHES: usize = 6;

fn warm_up_jobs(scenario: &Scenario) -> usize {
    WARM_UP_BATCHES * scenario.profile.max_num_seqs * usize::from(scenario.servers)
}

/// The servers of the run with this seed; the second half is the slower one.
fn profiles(scenario: &Scenario, seed: u64) -> Vec<Profile> {
    let profile = match scenario.constants {
        Constants::Profile => scenario.profile.clone(),
        Constants::Drawn => constants::drawn(&scenario.profile, seed),
    };
    let servers = usize::from(scenario.servers);
    let mut profiles = vec![profile; servers];
    for slower in &mut profiles[servers.div_ceil(2)..] {
        slower.speed /= scenario.half_slower;
    }
    profiles
}

fn faults(servers: usize) -> Vec<Fault> {
    let at = |seconds| Instant::ZERO + Duration::from_secs(seconds);
    let faults = FAULTS.into_iter().map(|(kind, server, from, to)| Fault {
        kind,
        server,
        from: at(from),
        to: at(to),
    });
    faults.filter(|fault| fault.server < servers).collect()
}

fn jobs(scenario: &Scenario, seed: u64, rate: f64) -> Vec<Job> {
    let arrivals = scenario.workload.arrivals(rate, seed);
    let jobs = arrivals.map(|arrival| Job::of(&arrival));
    match scenario.length {
        Length::Requests(count) => jobs.take(warm_up_jobs(scenario) + count as usize).collect(),
        Length::Seconds { warm_up, counted } => {
            let seconds = u64::from(warm_up) + u64::from(counted);
            let end = Instant::ZERO + Duration::from_secs(seconds);
            jobs.take_while(|job| job.at < end).collect()
        }
    }
}

/// The limit of clients that set one to be safe.
const LOOSE_LIMIT: u32 = 1_024;

fn limit(jobs: &mut [Job], limits: Limits, seed: u64) {
    if limits == Limits::Loose {
        let mut random = Random::split(seed, "limits");
        for job in jobs {
            job.max_tokens = (random.unit() < 0.5).then_some(LOOSE_LIMIT.max(job.output_tokens));
        }
    }
}

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
    let arrivals = workload.arrivals(1.0, 0).take(count);
    let jobs: Vec<Job> = arrivals
        .map(|arrival| Job {
            at: Instant::ZERO,
            ..Job::of(&arrival)
        })
        .collect();
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::virtual_time::record::Record;

    #[test]
    fn half_of_a_hetero_pool_is_three_times_slower() {
        let scenario = Scenario::of(Workload::hetero());
        let speeds: Vec<f64> = profiles(&scenario, 0).iter().map(|one| one.speed).collect();
        let third = 1.0 / 3.0;
        assert_eq!(speeds, [1.0, 1.0, 1.0, 1.0, third, third, third, third]);
    }

    #[test]
    fn a_pool_of_two_speeds_has_the_capacity_of_both_halves() {
        let mut scenario = Scenario::of(Workload::hetero());
        (scenario.servers, scenario.rate_of_capacity) = (4, 1.0);
        scenario.profile.max_num_seqs = 8;
        let quick = capacity(&scenario.workload, &scenario.profile, 2);
        let rate = rate(&scenario, 0);
        assert!((rate / quick - 4.0 / 3.0).abs() < 1e-6, "{rate} {quick}");
    }

    #[test]
    fn drawn_pools_differ_by_seed_and_their_rates_follow() {
        let mut scenario = Scenario::of(Workload::mixed());
        (scenario.servers, scenario.constants) = (2, Constants::Drawn);
        scenario.profile.max_num_seqs = 8;
        for seed in 0..3 {
            let profiles = profiles(&scenario, seed);
            assert_eq!(profiles[0], profiles[1], "one draw for the whole pool");
            let capacity = capacity(&scenario.workload, &profiles[0], 2);
            assert!((rate(&scenario, seed) / capacity - 0.7).abs() < 1e-9);
        }
        assert_ne!(rate(&scenario, 0), rate(&scenario, 1));
    }

    #[test]
    fn every_policy_meets_the_same_requests_of_the_seconds_that_count() {
        let mut scenario = Scenario::of(Workload::failures());
        (scenario.servers, scenario.constants) = (2, Constants::Drawn);
        scenario.length = Length::Seconds {
            warm_up: 4,
            counted: 6,
        };
        let met = |policy, seed| {
            let trace = one_run(&scenario, policy, seed, 20.0);
            let met = |one: &Record| (one.arrived, one.prompt_tokens);
            trace.counted().iter().map(met).collect::<Vec<_>>()
        };
        let requests = met(Policy::Pointsman, 1);
        assert_eq!(requests, met(Policy::Random, 1));
        assert_ne!(requests, met(Policy::Pointsman, 2));
        let counted = Instant::from_millis(4_000)..Instant::from_millis(10_000);
        assert!(requests.iter().all(|(at, _)| counted.contains(at)));
        assert!((90..150).contains(&requests.len()), "{}", requests.len());
    }

    #[test]
    fn loose_limits_are_set_by_half_of_the_clients_and_tell_no_length() {
        let mut scenario = Scenario::of(Workload::mixed());
        scenario.length = Length::Requests(1_000);
        let mut jobs = jobs(&scenario, 1, 100.0);
        limit(&mut jobs, Limits::Exact, 1);
        assert!(
            jobs.iter()
                .all(|job| job.max_tokens == Some(job.output_tokens))
        );
        limit(&mut jobs, Limits::Loose, 1);
        let set: Vec<u32> = jobs.iter().filter_map(|job| job.max_tokens).collect();
        assert!(set.iter().all(|&limit| limit == LOOSE_LIMIT));
        let share = set.len() as f64 / jobs.len() as f64;
        assert!((0.45..0.55).contains(&share), "{share}");
    }
}

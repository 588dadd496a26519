//! What the picker promises of adapters and of hung servers, in virtual time.

use std::time::Duration;

use picker_core::time::Instant;
use simulator::bench;
use simulator::bench::cell::{Cell, Distribution};
use simulator::bench::matrix::{Length, Limits, Scenario};
use simulator::engine::Profile;
use simulator::policy::Policy;
use simulator::virtual_time::fault::{Fault, FaultKind};
use simulator::virtual_time::record::{Record, Trace};
use simulator::virtual_time::{self, Follow, Job, Plan};
use simulator::workload::Workload;

const SEEDS: u64 = 6;

/// Half a minute that counts after another of warm-up, at 0.7 of the capacity; of responses the picker sees the end alone.
fn scenario(workload: Workload) -> Scenario {
    Scenario {
        follow: Follow::Watched,
        limits: Limits::Loose,
        length: Length::Seconds {
            warm_up: 30,
            counted: 30,
        },
        rate_of_capacity: 0.7,
        ..Scenario::of(workload)
    }
}

/// Adapters go where they are resident, no request is lost, and the busiest server has at most so many times the mean's requests, by the mean of the seeds.
fn check_adapters(scenario: &Scenario, loads_per_1000_max: f64, max_over_mean: f64) {
    let rate = bench::rate(scenario, 0);
    let mut busiest = 0.0;
    for seed in 0..SEEDS {
        let traces = [bench::one_run(scenario, Policy::Pointsman, seed, rate)];
        let cell = Cell::of(scenario, Policy::Pointsman, &traces, &traces);
        assert!(
            cell.adapter_loads_per_1000 <= loads_per_1000_max,
            "seed {seed}: {:.1} loads for 1,000 requests",
            cell.adapter_loads_per_1000
        );
        assert_eq!(cell.errors, 0);
        busiest += cell.load_max_over_mean / SEEDS as f64;
    }
    assert!(
        busiest <= max_over_mean,
        "the busiest server has {busiest:.2} of the mean"
    );
}

#[test]
fn fifteen_adapters_over_ten_servers_with_three_slots_are_hardly_ever_loaded() {
    let scenario = Scenario {
        servers: 10,
        ..scenario(Workload::lora())
    };
    check_adapters(&scenario, 5.0, 1.15);
}

/// Affinity that knows the slots but no times needs 229 loads for 1,000 requests here, and a choice at random 752. The adapters are of rank 16 and all in
/// host memory: with a load of 300 ms the servers could not serve this at any rate worth the name.
#[test]
fn sixty_four_adapters_over_eight_servers_with_four_slots_are_loaded_for_less_than_half_of_the_requests()
 {
    let mut scenario = scenario(Workload {
        adapters: 64,
        adapter_groups: Vec::new(),
        zipf_exponent: 1.0,
        ..Workload::lora()
    });
    scenario.profile = Profile {
        max_loras: 4,
        adapter_disk_ms: 0.0,
        ..scenario.profile.with_adapter_tiers(84e6, 64)
    };
    check_adapters(&scenario, 460.0, 1.15);
    check_unequal_servers(&Scenario {
        half_slower: 3.0,
        ..scenario
    });
}

/// Slow servers do not get as much as fast ones: requests wait little longer than where each goes where it ends first.
fn check_unequal_servers(scenario: &Scenario) {
    let rate = bench::rate(scenario, 0);
    let runs = |policy| {
        let runs = (0..SEEDS).map(|seed| bench::one_run(scenario, policy, seed, rate));
        runs.collect::<Vec<_>>()
    };
    let cell = Cell::of(
        scenario,
        Policy::Pointsman,
        &runs(Policy::Pointsman),
        &runs(Policy::Oracle),
    );
    let regret = cell.regret.expect("the oracle ran");
    assert!(regret <= 0.5, "mean TTFT is {regret:.2} over the oracle's");
}

/// Times to first token of the requests that came between `from_s` and `to_s`.
fn ttfts_ms(trace: &Trace, from_s: u64, to_s: u64) -> impl Iterator<Item = f64> {
    let at = move |seconds| Instant::ZERO + Duration::from_secs(seconds);
    let window = move |record: &&Record| record.arrived >= at(from_s) && record.arrived < at(to_s);
    trace
        .records
        .iter()
        .filter(window)
        .map(Record::judged_ttft_ms)
}

/// The server hangs after half a minute. Ten seconds later it is detected: nothing came from it for 3 s, or for five times what was expected. What counts is p99 over the
/// requests of all seeds: that of one minute alone is the luck of a few long prompts.
#[test]
fn with_one_of_eight_servers_hung_others_wait_as_with_seven() {
    let scenario = scenario(Workload::mixed());
    let rate = bench::rate(&scenario, 0);
    let end = Instant::ZERO + Duration::from_secs(100);
    let hang = Fault {
        kind: FaultKind::Hang,
        server: 1,
        from: Instant::ZERO + Duration::from_secs(30),
        to: end,
    };
    for follow in [Follow::Watched, Follow::Full] {
        let (mut hung, mut seven) = (Vec::new(), Vec::new());
        for seed in 0..SEEDS {
            let arrivals = scenario.workload.arrivals(rate, seed);
            let jobs: Vec<Job> = arrivals
                .map(|arrival| Job::of(&arrival))
                .take_while(|job| job.at < end)
                .collect();
            let run = |servers, faults| {
                let mut plan = Plan::new(scenario.profile.clone(), servers, 0, Policy::Pointsman);
                (plan.seed, plan.follow, plan.faults) = (seed, follow, faults);
                virtual_time::run(&plan, &jobs)
            };
            hung.extend(ttfts_ms(&run(8, vec![hang]), 40, 100));
            seven.extend(ttfts_ms(&run(7, Vec::new()), 40, 100));
        }
        let p99 = |all: Vec<f64>| Distribution::of(all.into_iter()).p99;
        let (hung, seven) = (p99(hung), p99(seven));
        assert!(
            hung <= 1.5 * seven,
            "{follow:?}: {hung:.0} ms with one hung, {seven:.0} with seven"
        );
    }
}

//! Runs in virtual time: worked out by hand, the same again from the same seed, and what the demo promises.

use picker_core::exposition;
use picker_core::time::Instant;
use simulator::bench;
use simulator::bench::cell::Cell;
use simulator::bench::matrix::{Length, Scenario};
use simulator::engine::exposition::{About, Traffic, text};
use simulator::engine::{AdapterId, Engine, Profile, Request, RequestId};
use simulator::policy::Policy;
use simulator::virtual_time::fault::{Fault, FaultKind};
use simulator::virtual_time::snapshot::{STARTED_UNIX_SECONDS, reading};
use simulator::virtual_time::{self, Follow, Job, Plan};
use simulator::workload::{self, Content, Workload};

fn job(at_ms: u64, prompt_tokens: u32, output_tokens: u32, adapter: Option<u32>) -> Job {
    Job {
        at: Instant::from_millis(at_ms),
        adapter: adapter.map(AdapterId),
        prompt_bytes: u64::from(prompt_tokens) * 4,
        prompt_tokens,
        output_tokens,
        max_tokens: None,
        streamed: true,
        content: Content::Own,
    }
}

fn lora(seed: u64, rate: f64, count: usize) -> Vec<Job> {
    let workload = Workload::demo_lora();
    let arrivals = workload.arrivals(rate, seed).take(count);
    arrivals.map(|arrival| Job::of(&arrival)).collect()
}

#[test]
fn a_lone_request_takes_its_steps_and_the_way_there_and_back() {
    for policy in Policy::ALL {
        let plan = Plan::new(Profile::demo(), 1, 0, policy);
        let trace = virtual_time::run(&plan, &[job(10, 100, 3, None)]);
        let record = trace.records[0];
        // A step of 40 + 100 x 0.1, two of 40 + 0.5, a millisecond each way.
        assert_eq!(record.ttft_ms(), Some(52.0), "{policy:?}");
        assert_eq!(record.e2e_ms(), Some(133.0), "{policy:?}");
        assert_eq!(
            (record.tokens, record.status, record.server),
            (3, 200, Some(0))
        );
    }
}

#[test]
fn an_adapter_is_loaded_once_and_the_first_request_waits_for_it() {
    let plan = Plan::new(Profile::demo(), 1, 2, Policy::RoundRobin);
    let jobs = [job(0, 100, 3, Some(1)), job(1_000, 100, 3, Some(1))];
    let trace = virtual_time::run(&plan, &jobs);
    let ttft: Vec<_> = trace
        .records
        .iter()
        .map(|record| record.ttft_ms())
        .collect();
    assert_eq!(ttft, [Some(252.0), Some(52.0)]);
    assert_eq!(
        (trace.adapter_loads, trace.adapter_loads_per_1000()),
        (1, 500.0)
    );
}

#[test]
fn a_shared_beginning_is_computed_once_by_each_server() {
    let mut plan = Plan::new(Profile::demo(), 2, 0, Policy::Lmetric);
    for profile in &mut plan.profiles {
        profile.prefix_caching = true;
    }
    let shared = |at_ms| Job {
        content: Content::Prefix {
            group: 3,
            tokens: 1_600,
        },
        ..job(at_ms, 1_700, 3, None)
    };
    let trace = virtual_time::run(&plan, &[shared(0), shared(1_000), shared(2_000)]);
    let ttft: Vec<_> = trace.records.iter().map(|one| one.ttft_ms()).collect();
    // 40 + 1,700 x 0.1 and a millisecond each way, then 40 + 100 x 0.1: LMetric keeps to the server that has it.
    assert_eq!(ttft, [Some(212.0), Some(52.0), Some(52.0)]);
    let hit_rate = 2.0 * 1_600.0 / (3.0 * 1_700.0);
    assert!((trace.prefix_hit_rate - hit_rate).abs() < 1e-3);
}

#[test]
fn what_comes_before_the_warm_up_ends_does_not_count() {
    let mut plan = Plan::new(Profile::demo(), 1, 2, Policy::RoundRobin);
    plan.warm_up = 1;
    let jobs = [job(0, 100, 3, Some(1)), job(1_000, 100, 3, Some(1))];
    let trace = virtual_time::run(&plan, &jobs);
    assert_eq!((trace.adapter_loads, trace.counted().len()), (0, 1));
}

#[test]
fn a_pool_without_servers_and_a_prompt_too_long_are_errors_and_end() {
    for policy in Policy::ALL {
        let none = virtual_time::run(
            &Plan::new(Profile::demo(), 0, 0, policy),
            &[job(0, 9, 9, None)],
        );
        assert_eq!(
            (none.errors(), none.records[0].status),
            (1, 503),
            "{policy:?}"
        );
        let plan = Plan::new(Profile::demo(), 2, 0, policy);
        let long = virtual_time::run(&plan, &[job(0, 20_000, 9, None), job(1, 9, 9, None)]);
        let statuses: Vec<_> = long.records.iter().map(|record| record.status).collect();
        assert_eq!(statuses, [400, 200], "{policy:?}");
    }
}

fn fault(kind: FaultKind, server: usize, from_ms: u64, to_ms: u64) -> Fault {
    Fault {
        kind,
        server,
        from: Instant::from_millis(from_ms),
        to: Instant::from_millis(to_ms),
    }
}

#[test]
fn what_a_hung_server_has_waits_until_it_goes_on() {
    for policy in Policy::ALL {
        let mut plan = Plan::new(Profile::demo(), 1, 0, policy);
        plan.faults = vec![fault(FaultKind::Hang, 0, 30, 1_030)];
        // The first is caught in its first step, the second comes meanwhile: its prompt shares the second step.
        let trace = virtual_time::run(&plan, &[job(10, 100, 3, None), job(500, 100, 3, None)]);
        let ttft: Vec<_> = trace.records.iter().map(|one| one.ttft_ms()).collect();
        assert_eq!(ttft[0], Some(1_052.0), "{policy:?}");
        assert_eq!(ttft[1], Some(612.5), "{policy:?}");
        assert_eq!(trace.errors(), 0);
    }
}

#[test]
fn a_crashed_server_loses_what_it_has_refuses_and_comes_back_with_nothing_resident() {
    for policy in Policy::ALL {
        let mut plan = Plan::new(Profile::demo(), 1, 2, policy);
        plan.faults = vec![fault(FaultKind::Crash, 0, 1_000, 3_000)];
        let jobs = [100, 900, 2_000, 4_000].map(|at_ms| job(at_ms, 100, 3, Some(1)));
        let trace = virtual_time::run(&plan, &jobs);
        let statuses: Vec<_> = trace.records.iter().map(|one| one.status).collect();
        assert_eq!(statuses, [200, 503, 503, 200], "{policy:?}");
        let loads = [trace.records[0].ttft_ms(), trace.records[3].ttft_ms()];
        assert_eq!(loads, [Some(252.0); 2], "{policy:?}");
        assert_eq!((trace.adapter_loads, trace.errors()), (2, 2));
        // The oracle knows that nobody is there; the others are told by the way there and back.
        let refused = trace.records[2].e2e_ms();
        let expected = if policy == Policy::Oracle { 0.0 } else { 2.0 };
        assert_eq!(refused, Some(expected), "{policy:?}");
        assert_eq!(trace.records[1].e2e_ms(), Some(101.0), "{policy:?}");
    }
}

#[test]
fn with_faults_every_request_ends_and_the_same_seed_gives_the_same_trace() {
    let jobs = lora(3, 25.0, 500);
    for policy in Policy::ALL {
        let mut plan = Plan::new(Profile::demo(), 8, 12, policy);
        plan.follow = Follow::Watched;
        plan.faults = vec![
            fault(FaultKind::Hang, 1, 2_000, 8_000),
            fault(FaultKind::Crash, 3, 4_000, 9_000),
            fault(FaultKind::Freeze, 5, 5_000, 15_000),
        ];
        let trace = virtual_time::run(&plan, &jobs);
        assert!(trace.records.iter().all(|one| one.ended.is_some()));
        assert!(trace.errors() > 0, "{policy:?}: the crash took something");
        assert_eq!(trace.hash(), virtual_time::run(&plan, &jobs).hash());
    }
}

#[test]
fn what_is_seen_of_responses_matters_to_the_picker_alone() {
    let jobs = lora(3, 25.0, 500);
    for policy in Policy::ALL {
        let mut plan = Plan::new(Profile::demo(), 8, 12, policy);
        let full = virtual_time::run(&plan, &jobs).hash();
        plan.follow = Follow::Watched;
        let watched = virtual_time::run(&plan, &jobs).hash();
        assert_eq!(full != watched, policy == Policy::Pointsman, "{policy:?}");
    }
}

#[test]
fn the_same_seed_gives_the_same_trace_and_another_seed_another() {
    for policy in Policy::ALL {
        let hash = |seed| {
            let mut plan = Plan::new(Profile::demo(), 8, 12, policy);
            plan.seed = seed;
            virtual_time::run(&plan, &lora(seed, 25.0, 300)).hash()
        };
        assert_eq!(hash(1), hash(1), "{policy:?}");
        assert_ne!(hash(1), hash(2), "{policy:?}");
    }
}

#[test]
fn every_request_gets_all_of_its_tokens_in_order_of_time() {
    let jobs = lora(3, 40.0, 500);
    for policy in Policy::ALL {
        let trace = virtual_time::run(&Plan::new(Profile::demo(), 8, 12, policy), &jobs);
        for (job, record) in jobs.iter().zip(&trace.records) {
            assert_eq!((record.tokens, record.status), (job.output_tokens, 200));
            let ttft_ms = record.ttft_ms().expect("it has a first token");
            assert!(ttft_ms >= 42.0, "a step and the way: {ttft_ms}");
            assert!(record.first_token <= record.ended);
        }
    }
}

#[test]
fn a_bulk_reading_is_what_a_reader_of_the_page_sees() {
    let names = workload::adapter_names(12);
    let about = About {
        model_name: "base",
        adapter_names: &names,
        started_unix_seconds: STARTED_UNIX_SECONDS,
    };
    let check = |engine: &Engine| {
        let page = text(engine, &about, &Traffic::default());
        let read = exposition::read(page.as_bytes(), &picker_core::engine::Engine::vllm())
            .expect("a page of vLLM's families");
        assert_eq!(reading(engine, &names), read);
        read
    };
    let mut profile = Profile::demo();
    profile.num_gpu_blocks = 1_025;
    let mut engine = Engine::new(profile);
    check(&engine);
    let mut now = Instant::ZERO;
    let (mut most_waiting, mut most_adapters) = (0, 0);
    for (id, job) in lora(1, 8.0, 150).into_iter().enumerate() {
        while let Some(end) = engine.next_step_end().filter(|&end| end <= job.at) {
            engine.advance(end, &mut Vec::new());
            now = end;
        }
        now = now.max(job.at);
        let request = Request::new(
            RequestId(id as u64),
            job.adapter,
            job.prompt_tokens,
            job.output_tokens,
        );
        engine.submit(now, request).expect("it fits");
        let read = check(&engine);
        most_waiting = most_waiting.max(read.waiting().unwrap_or(0));
        most_adapters =
            most_adapters.max(read.adapters.map_or(0, |adapters| adapters.running.len()));
    }
    assert!(
        most_waiting > 5 && most_adapters == 4,
        "{most_waiting} {most_adapters}"
    );
}

/// 8 demo servers with 4 slots, 0.7 of their capacity.
fn demo(workload: Workload) -> Scenario {
    Scenario {
        length: Length::Requests(1_000),
        ..Scenario::of(workload)
    }
}

/// Seed by seed, the picker's cell and those of the two baselines that a gateway has.
fn check_demo(workload: Workload, check: impl Fn(u64, &Cell, &[Cell; 2])) {
    let scenario = demo(workload);
    let capacity = bench::capacity(&scenario.workload, &scenario.profile, 8);
    for seed in 0..scenario.seeds {
        let cell = |policy| {
            let rate = scenario.rate_of_capacity * capacity;
            let traces = [bench::one_run(&scenario, policy, seed, rate)];
            Cell::of(&scenario, policy, &traces, &traces)
        };
        let baselines = [cell(Policy::RoundRobin), cell(Policy::LeastRequest)];
        check(seed, &cell(Policy::Pointsman), &baselines);
    }
}

/// The better of both baselines.
fn better(baselines: &[Cell; 2], of: fn(&Cell) -> f64) -> f64 {
    of(&baselines[0]).min(of(&baselines[1]))
}

#[test]
fn with_adapters_the_picker_loads_a_tenth_and_halves_p90_ttft() {
    check_demo(Workload::demo_lora(), |seed, picker, baselines| {
        let loads =
            picker.adapter_loads_per_1000 / better(baselines, |cell| cell.adapter_loads_per_1000);
        let ttft = picker.ttft_ms.p90 / better(baselines, |cell| cell.ttft_ms.p90);
        assert!(
            loads <= 0.1,
            "seed {seed}: loads {loads:.3} of the better baseline"
        );
        assert!(
            ttft <= 0.5,
            "seed {seed}: p90 TTFT {ttft:.3} of the better baseline"
        );
        assert_eq!(picker.errors, 0);
    });
}

#[test]
fn without_adapters_the_picker_is_no_worse_than_a_tenth_at_p90_ttft() {
    check_demo(Workload::demo_mixed(), |seed, picker, baselines| {
        let ttft = picker.ttft_ms.p90 / better(baselines, |cell| cell.ttft_ms.p90);
        assert!(
            ttft <= 1.1,
            "seed {seed}: p90 TTFT {ttft:.3} of the better baseline"
        );
        assert_eq!(picker.errors, 0);
    });
}

#[test]
fn the_capacity_is_that_of_servers_which_never_load_an_adapter() {
    let demo = Profile::demo();
    let lora = Workload::demo_lora();
    let without = Workload {
        adapters: 0,
        ..lora.clone()
    };
    let capacity = bench::capacity(&lora, &demo, 8);
    assert_eq!(capacity, bench::capacity(&without, &demo, 8));
    // 8 x 8 requests at once, each 40 steps of 40 + 8 x 0.5 ms and 200 tokens of 0.1 ms that hold up all eight.
    let expected = 64.0 / (40.0 * 0.044 + 8.0 * 0.020);
    assert!(
        (capacity / expected - 1.0).abs() < 0.05,
        "{capacity} {expected}"
    );
    let double = bench::capacity(&lora, &demo, 16);
    assert!((double / capacity - 2.0).abs() < 0.1, "{double} {capacity}");
}

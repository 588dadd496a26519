//! The bench as scripts and people rely on it: keys, pairs, the oracle, and the same numbers on any number of threads.

use std::path::Path;

use serde_json::Value;
use simulator::bench::cell::{Cell, Slo};
use simulator::bench::matrix::{self, Length, Scenario};
use simulator::bench::{self, Report};
use simulator::policy::Policy;
use simulator::virtual_time::Follow;
use simulator::workload::Workload;

/// A few requests of `workload` on 3 servers that run 8 at once, so that a warm-up is short.
fn brief(workload: Workload) -> Scenario {
    let mut scenario = Scenario {
        servers: 3,
        length: Length::Requests(60),
        seeds: 2,
        ..Scenario::of(workload)
    };
    scenario.profile.max_num_seqs = 8;
    scenario
}

fn cell(report: &Report, policy: Policy) -> &Cell {
    let mut cells = report.cells.iter();
    cells
        .find(|cell| cell.policy == policy)
        .expect("it was asked for")
}

#[test]
fn the_report_has_the_keys_that_scripts_rely_on() {
    let scenarios = [brief(Workload::demo_lora()), brief(Workload::mixed())];
    let report = serde_json::to_value(bench::report(&scenarios, None)).expect("it is JSON");
    let cells = report["cells"].as_array().expect("a list of cells");
    assert_eq!(cells.len(), 2 * Policy::ALL.len());
    assert_eq!(
        (&cells[0]["workload"], &cells[0]["policy"]),
        (&"demo_lora".into(), &"pointsman".into())
    );
    for cell in cells {
        for key in [
            "rate_of_capacity",
            "goodput",
            "prefix_hit_rate",
            "adapter_loads_per_1000",
            "load_max_over_mean",
            "errors",
            "regret",
        ] {
            assert!(cell[key].is_number(), "{key}: {cell}");
        }
        for (key, part) in ["ttft_ms", "e2e_ms"]
            .into_iter()
            .flat_map(|key| ["mean", "p50", "p90", "p99"].map(|part| (key, part)))
        {
            let ms = cell[key][part].as_f64();
            assert!(ms.is_some_and(|ms| ms > 0.0), "{key}.{part}: {cell}");
        }
        for metric in ["ttft_mean", "ttft_p90", "e2e_mean"] {
            let half_width = cell["ci95"][metric].as_f64();
            assert!(
                half_width.is_some_and(|half| half > 0.0),
                "{metric}: {cell}"
            );
        }
    }
    check_judgement(&report);
}

/// What the report says of policies against each other.
fn check_judgement(report: &Value) {
    let comparisons = report["comparisons"].as_array().expect("a list");
    // In each of two cells, six policies against five others by two metrics.
    assert_eq!(comparisons.len(), 2 * 6 * 5 * 2);
    for one in comparisons {
        for key in ["ratio", "lower", "upper"] {
            assert!(one[key].as_f64().is_some_and(|number| number > 0.0));
        }
        let tied = one["upper"].as_f64().is_some_and(|upper| upper <= 1.05);
        assert_eq!(one["best_or_tied"].as_bool(), Some(tied), "{one}");
    }
    let verdicts = report["verdicts"].as_array().expect("a list");
    let names: Vec<_> = verdicts.iter().map(|one| one["cell"].as_str()).collect();
    assert_eq!(names, [Some("demo_lora-0.7"), Some("mixed-0.7")]);
    let shares = report["best_or_tied_share"].as_object().expect("by policy");
    assert_eq!(
        shares.len(),
        Policy::ALL.len() - 1,
        "the oracle is left out"
    );
    for metric in ["ttft_p90", "e2e_mean"] {
        let all = shares.values().map(|share| share[metric].as_f64());
        let all: Vec<f64> = all.map(|share| share.expect("a fraction")).collect();
        assert!(
            all.iter().all(|share| (0.0..=1.0).contains(share)),
            "{metric}: {all:?}"
        );
    }
}

#[test]
fn the_trace_is_the_same_on_any_number_of_threads_and_again() {
    let scenarios = [brief(Workload::lora()), brief(Workload::bursts())];
    let hashes = |threads| {
        let report = bench::report(&scenarios, Some(threads));
        let hashes = report.cells.into_iter().map(|cell| cell.trace_hash);
        hashes.collect::<Vec<_>>()
    };
    let one = hashes(1);
    assert_eq!(one, hashes(2));
    assert_eq!(one, hashes(5));
    let mut different = one.clone();
    different.sort();
    different.dedup();
    assert!(different.len() > one.len() / 2, "policies differ: {one:?}");
}

#[test]
fn regret_is_what_the_mean_is_above_the_oracles() {
    let mut scenario = brief(Workload::lora());
    (scenario.length, scenario.seeds) = (Length::Requests(400), 3);
    let report = bench::report(&[scenario.clone()], None);
    let oracle = cell(&report, Policy::Oracle);
    assert_eq!(oracle.regret, Some(0.0));
    for one in &report.cells {
        let regret = one.ttft_ms.mean / oracle.ttft_ms.mean - 1.0;
        assert_eq!(one.regret, Some(regret));
    }
    for blind in [Policy::Random, Policy::RoundRobin, Policy::LeastRequest] {
        let cell = cell(&report, blind);
        assert!(
            cell.regret > Some(0.0) && cell.e2e_ms.mean > oracle.e2e_ms.mean,
            "{blind:?} knows nothing of adapters: {:?}",
            cell.regret
        );
    }
    // It runs as a measure even where it is no cell.
    scenario.policies = vec![Policy::P2c];
    let without = bench::report(&[scenario.clone()], None);
    assert_eq!(without.cells.len(), 1);
    let p2c = cell(&report, Policy::P2c);
    assert_eq!(without.cells[0].regret, p2c.regret);
    assert_eq!(without.cells[0].trace_hash, p2c.trace_hash);
    // Without it nothing is said of regret, and no less of the rest.
    scenario.oracle = false;
    let unmeasured = bench::report(&[scenario], None);
    assert_eq!(unmeasured.cells[0].regret, None);
    assert_eq!(unmeasured.cells[0].ttft_ms, p2c.ttft_ms);
}

#[test]
fn goodput_counts_what_is_answered_in_time() {
    let report = bench::report(&[brief(Workload::mixed())], None);
    let quiet = cell(&report, Policy::Oracle).goodput;
    assert!(quiet > 0.9, "{quiet}");
    // Every step of a demo server is longer than 30 ms.
    let slow = bench::report(&[brief(Workload::demo_mixed())], None);
    assert!(slow.cells.iter().all(|cell| cell.goodput == 0.0));
    assert_eq!(Slo::BENCH.ttft_ms, 500.0);
}

#[test]
fn the_committed_cells_are_eighteen_in_six_workloads() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/bench");
    let scenarios = matrix::read(&folder.join("routing.toml")).expect("valid");
    let names: Vec<_> = scenarios.iter().map(Scenario::name).collect();
    let mut expected = Vec::new();
    for name in ["lora", "mixed", "bursts", "hetero", "failures"] {
        expected.extend(["-0.6", "-0.85", "-drawn-0.7"].map(|rate| format!("{name}{rate}")));
    }
    expected.extend(["1.2", "1.5", "drawn-1.3"].map(|rate| format!("overload-{rate}")));
    assert_eq!(names, expected);
    for scenario in &scenarios {
        assert_eq!((scenario.servers, scenario.seeds), (8, 10));
        assert_eq!(scenario.follow, Follow::Watched);
        assert_eq!(scenario.faults, scenario.workload.name == "failures");
        let half_slower = if scenario.workload.name == "hetero" {
            3.0
        } else {
            1.0
        };
        assert_eq!(scenario.half_slower, half_slower);
    }
}

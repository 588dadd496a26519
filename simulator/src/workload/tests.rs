//! Specifications of workloads.

use super::*;

const COUNT: usize = 20_000;

#[test]
fn the_same_seed_gives_the_same_requests_and_the_rate_moves_only_their_times() {
    let workload = Workload::demo_lora();
    let slow: Vec<_> = workload.arrivals(1.0, 7).take(100).collect();
    let fast: Vec<_> = workload.arrivals(10.0, 7).take(100).collect();
    assert_eq!(
        slow,
        workload.arrivals(1.0, 7).take(100).collect::<Vec<_>>()
    );
    assert_ne!(
        slow,
        workload.arrivals(1.0, 8).take(100).collect::<Vec<_>>()
    );
    for (slow, fast) in slow.iter().zip(&fast) {
        let ratio = slow.at.as_secs_f64() / fast.at.as_secs_f64();
        assert!((ratio - 10.0).abs() < 1e-3, "{ratio}");
        assert_eq!(
            Arrival {
                at: slow.at,
                ..*fast
            },
            *slow
        );
    }
}

#[test]
fn gaps_are_exponential() {
    let at: Vec<_> = Workload::demo_mixed()
        .arrivals(50.0, 1)
        .take(COUNT)
        .map(|arrival| arrival.at)
        .collect();
    let gaps: Vec<_> = at
        .windows(2)
        .map(|pair| (pair[1] - pair[0]).as_secs_f64())
        .collect();
    let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
    let variance = gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / gaps.len() as f64;
    assert!((mean * 50.0 - 1.0).abs() < 0.03, "mean {mean}");
    assert!(
        (variance.sqrt() / mean - 1.0).abs() < 0.03,
        "an exponential has CV 1"
    );
}

#[test]
fn adapters_follow_zipfs_law() {
    let mut counts = [0_u32; 12];
    for arrival in Workload::demo_lora().arrivals(1.0, 3).take(COUNT) {
        counts[arrival.adapter.expect("every request has one") as usize] += 1;
    }
    let weights: f64 = (1..=12).map(|rank| 1.0 / f64::from(rank)).sum();
    for (rank, &count) in (1_u32..).zip(&counts) {
        let expected = COUNT as f64 / f64::from(rank) / weights;
        assert!(
            (f64::from(count) / expected - 1.0).abs() < 0.15,
            "{rank}: {count}, {expected}"
        );
    }
}

#[test]
fn one_in_ten_of_mixed_is_long_and_none_has_an_adapter() {
    let arrivals: Vec<_> = Workload::demo_mixed()
        .arrivals(1.0, 5)
        .take(COUNT)
        .collect();
    let long = arrivals
        .iter()
        .filter(|arrival| arrival.prompt_tokens >= 2000)
        .count();
    assert!((long as f64 / COUNT as f64 - 0.1).abs() < 0.01, "{long}");
    assert!(arrivals.iter().all(|arrival| arrival.adapter.is_none()));
    assert!(
        arrivals
            .iter()
            .all(|arrival| (100..=4000).contains(&arrival.prompt_tokens))
    );
}

#[test]
fn a_schedule_has_the_asked_number_of_requests_within_its_time() {
    let duration = Duration::from_secs(10);
    let schedule = Workload::uniform(50, 4, 0).schedule(12.5, duration, 9);
    assert_eq!(schedule.len(), 125);
    assert!(schedule.is_sorted_by_key(|arrival| arrival.at));
    assert!(schedule.iter().all(|arrival| arrival.at < duration));
    assert_eq!(schedule[0].prompt_bytes(), 200);
    assert_eq!(Workload::uniform(50, 4, 0).schedule(0.01, duration, 9), []);
}

#[test]
fn a_trace_keeps_its_gaps_at_any_rate_and_starts_over_at_its_end() {
    let file = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/data/traces/AzureLLMInferenceTrace_code_2023.csv.gz"
    );
    let trace = Trace::read(file.as_ref(), false).expect("it is there");
    let rows = trace.rows().len();
    let recorded_at: Vec<f64> = trace.rows().iter().map(|row| row.at_ms / 1e3).collect();
    let workload = Workload::replay(trace.clone());
    let at = |rate: f64, seed: u64| -> Vec<f64> {
        let arrivals = workload.arrivals(rate, seed).take(rows + 2);
        arrivals.map(|arrival| arrival.at.as_secs_f64()).collect()
    };
    let (as_recorded, twice) = (at(trace.rate(), 0), at(2.0 * trace.rate(), 0));
    for place in [0, 1, 500, rows - 1] {
        assert!((as_recorded[place] - recorded_at[place]).abs() < 1e-3);
        assert!((twice[place] - recorded_at[place] / 2.0).abs() < 1e-3);
    }
    let mean_gap = 1.0 / trace.rate();
    assert!((as_recorded[rows] - as_recorded[rows - 1] - mean_gap).abs() < 1e-3);
    let other = at(trace.rate(), 1);
    assert!(other[0] == 0.0 && other.is_sorted() && other != as_recorded);
}

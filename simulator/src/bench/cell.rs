//! One cell of the bench: a workload under a policy, over all seeds.

use std::io::{self, Write};

use clap::ValueEnum as _;
use serde::Serialize;

use crate::policy::Policy;
use crate::virtual_time::record::{Record, Trace};

/// What a policy made of a workload.
#[derive(Clone, Debug, Serialize)]
pub struct Cell {
    /// The workload's name.
    pub workload: &'static str,
    /// The rate, as a share of the capacity.
    pub rate_of_capacity: f64,
    /// The policy.
    pub policy: Policy,
    /// Runs.
    pub seeds: usize,
    /// Requests that count, in all runs.
    pub requests: usize,
    /// From a request's arrival at the gateway to its first token there.
    pub ttft_ms: Distribution,
    /// From a request's arrival to its last token.
    pub e2e_ms: Distribution,
    /// Adapters brought into a slot for each thousand requests.
    pub adapter_loads_per_1000: f64,
    /// Requests at the server that got most, by the mean of all: the mean over the runs.
    pub load_max_over_mean: f64,
    /// Requests that were not answered in full.
    pub errors: usize,
}

/// A distribution in a few numbers.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Distribution {
    /// The mean.
    pub mean: f64,
    /// The median.
    pub p50: f64,
    /// Nine of ten are at most this.
    pub p90: f64,
    /// 99 of 100 are at most this.
    pub p99: f64,
}

impl Cell {
    /// The cell of these runs.
    #[must_use]
    pub fn of(
        workload: &'static str,
        rate_of_capacity: f64,
        policy: Policy,
        traces: &[Trace],
    ) -> Self {
        let records = || traces.iter().flat_map(Trace::counted);
        let mean = |of: fn(&Trace) -> f64| traces.iter().map(of).sum::<f64>() / traces.len() as f64;
        Self {
            workload,
            rate_of_capacity,
            policy,
            seeds: traces.len(),
            requests: records().count(),
            ttft_ms: Distribution::of(records().filter_map(Record::ttft_ms)),
            e2e_ms: Distribution::of(
                records()
                    .filter(|record| record.succeeded())
                    .filter_map(Record::e2e_ms),
            ),
            adapter_loads_per_1000: mean(Trace::adapter_loads_per_1000),
            load_max_over_mean: mean(Trace::load_max_over_mean),
            errors: traces.iter().map(Trace::errors).sum(),
        }
    }
}

impl Distribution {
    /// The distribution of `values`; percentiles by the nearest rank. All zero if there are none.
    pub fn of(values: impl Iterator<Item = f64>) -> Self {
        let mut values: Vec<f64> = values.collect();
        values.sort_unstable_by(f64::total_cmp);
        let rank = |share: f64| {
            let place = (share * values.len() as f64).ceil() as usize;
            values.get(place.saturating_sub(1)).copied().unwrap_or(0.0)
        };
        Self {
            mean: values.iter().sum::<f64>() / values.len().max(1) as f64,
            p50: rank(0.50),
            p90: rank(0.90),
            p99: rank(0.99),
        }
    }
}

/// Writes the cells for people.
///
/// # Errors
/// When `out` cannot be written to.
pub fn write_table(out: &mut impl Write, cells: &[Cell]) -> io::Result<()> {
    writeln!(
        out,
        "{:<10}{:>6}  {:<14}{:>10}{:>10}{:>10}{:>12}{:>12}{:>11}{:>8}",
        "workload",
        "rate",
        "policy",
        "ttft p50",
        "ttft p90",
        "ttft p99",
        "e2e mean",
        "loads/1000",
        "max/mean",
        "errors"
    )?;
    for cell in cells {
        writeln!(
            out,
            "{:<10}{:>6.2}  {:<14}{:>10.0}{:>10.0}{:>10.0}{:>12.0}{:>12.1}{:>11.2}{:>8}",
            cell.workload,
            cell.rate_of_capacity,
            name(cell.policy),
            cell.ttft_ms.p50,
            cell.ttft_ms.p90,
            cell.ttft_ms.p99,
            cell.e2e_ms.mean,
            cell.adapter_loads_per_1000,
            cell.load_max_over_mean,
            cell.errors
        )?;
    }
    Ok(())
}

/// The name that options have for a policy.
fn name(policy: Policy) -> String {
    policy
        .to_possible_value()
        .map_or_else(String::new, |value| value.get_name().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_those_of_the_nearest_rank() {
        let distribution = Distribution::of((1..=200).rev().map(f64::from));
        let expected = Distribution {
            mean: 100.5,
            p50: 100.0,
            p90: 180.0,
            p99: 198.0,
        };
        assert_eq!(distribution, expected);
        assert_eq!(Distribution::of([7.0].into_iter()).p99, 7.0);
        assert_eq!(Distribution::of(std::iter::empty()).p50, 0.0);
    }
}

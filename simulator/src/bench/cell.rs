//! One cell of the bench: a workload under a policy, over all seeds.

use std::collections::BTreeMap;

use clap::ValueEnum as _;
use serde::Serialize;

use super::constants::Constants;
use super::interval::Ratio;
use super::matrix::Scenario;
use crate::policy::Policy;
use crate::virtual_time::record::{Record, Trace};

/// What a policy made of a workload.
#[derive(Clone, Debug, Serialize)]
pub struct Cell {
    /// What tells its workload, pool and rate from others.
    pub name: String,
    /// The workload's name.
    pub workload: &'static str,
    /// The rate, as a share of the capacity.
    pub rate_of_capacity: f64,
    /// The policy.
    pub policy: Policy,
    /// The servers' profile, `drawn` where it differs by seed.
    pub profile: &'static str,
    /// Servers.
    pub servers: u16,
    /// Runs.
    pub seeds: usize,
    /// Requests that count, in all runs.
    pub requests: usize,
    /// From a request's arrival at the gateway to its first token there; as [`Record::judged_ttft_ms`] has it where none was answered.
    pub ttft_ms: Distribution,
    /// Time of a token after the first, by request.
    pub tpot_ms: Distribution,
    /// From a request's arrival to its last token, likewise.
    pub e2e_ms: Distribution,
    /// The share of requests that were answered in full and within [`Slo::BENCH`].
    pub goodput: f64,
    /// Of the prompt tokens looked up in the servers' prefix caches, the share that was there: the mean over the runs.
    pub prefix_hit_rate: f64,
    /// Adapters brought into a slot for each thousand requests.
    pub adapter_loads_per_1000: f64,
    /// Requests at the server that got most, by the mean of all: the mean over the runs.
    pub load_max_over_mean: f64,
    /// Requests that were not answered in full.
    pub errors: usize,
    /// Mean time to first token over the oracle's, less 1; `None` where the oracle did not run.
    pub regret: Option<f64>,
    /// By metric, half the width of the 95 % interval (Student's t) of the ratio to the oracle, paired by seed, as a fraction;
    /// of the oracle, and where it did not run, that of the policy's own values. Left out where a single seed allows none, or values are 0.
    pub ci95: BTreeMap<&'static str, f64>,
    /// A number that two benches share when all of the cell's requests went the same way at the same times.
    pub trace_hash: String,
}

/// What a request is to keep to.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Slo {
    /// Time to first token of an empty prompt.
    pub ttft_ms: f64,
    /// What each prompt token adds to it.
    pub ttft_ms_per_prompt_token: f64,
    /// Time of each token after the first.
    pub tpot_ms: f64,
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

/// A name and the value of one run.
pub(super) type Metric = (&'static str, fn(&Trace) -> f64);

/// What policies are judged by, run by run.
pub(super) const JUDGED: [Metric; 2] = [METRICS[2], METRICS[4]];

/// What is compared with the oracle's, run by run.
const METRICS: [Metric; 6] = [
    ("ttft_mean", |trace| ttft_ms([trace]).mean),
    ("ttft_p50", |trace| ttft_ms([trace]).p50),
    ("ttft_p90", |trace| ttft_ms([trace]).p90),
    ("ttft_p99", |trace| ttft_ms([trace]).p99),
    ("e2e_mean", |trace| e2e_ms([trace]).mean),
    ("goodput", |trace| goodput([trace])),
];

impl Slo {
    /// What `goodput` of the bench asks for: half a second to the first token and 0.1 ms more for each prompt token, and 30 ms a
    /// token from there.
    pub const BENCH: Self = Self {
        ttft_ms: 500.0,
        ttft_ms_per_prompt_token: 0.1,
        tpot_ms: 30.0,
    };

    /// Whether `record` was answered in full and in time.
    #[must_use]
    pub fn is_met(&self, record: &Record) -> bool {
        let ttft_max =
            self.ttft_ms + self.ttft_ms_per_prompt_token * f64::from(record.prompt_tokens);
        record.succeeded()
            && record.ttft_ms().is_some_and(|ttft| ttft <= ttft_max)
            && record.tpot_ms().is_none_or(|tpot| tpot <= self.tpot_ms)
    }
}

impl Cell {
    /// The cells of the policies that `scenario` asks for, from the runs of those and of the oracle.
    #[must_use]
    pub fn of_scenario(scenario: &Scenario, runs: &[(Policy, Vec<Trace>)]) -> Vec<Self> {
        let oracle = runs.iter().find(|(policy, _)| *policy == Policy::Oracle);
        let oracle = oracle.map_or(&[][..], |(_, traces)| traces);
        let asked = runs
            .iter()
            .filter(|(policy, _)| scenario.policies.contains(policy));
        asked
            .map(|(policy, traces)| Self::of(scenario, *policy, traces, oracle))
            .collect()
    }

    /// The cell of these runs, measured by the oracle's of the same seeds.
    #[must_use]
    pub fn of(scenario: &Scenario, policy: Policy, traces: &[Trace], oracle: &[Trace]) -> Self {
        let mean = |of: fn(&Trace) -> f64| traces.iter().map(of).sum::<f64>() / traces.len() as f64;
        let ttft_ms = ttft_ms(traces);
        Self {
            name: scenario.name(),
            workload: scenario.workload.name,
            rate_of_capacity: scenario.rate_of_capacity,
            policy,
            profile: match scenario.constants {
                Constants::Profile => scenario.profile.name,
                Constants::Drawn => "drawn",
            },
            servers: scenario.servers,
            seeds: traces.len(),
            requests: traces.iter().map(|trace| trace.counted().len()).sum(),
            ttft_ms,
            tpot_ms: Distribution::of(counted(traces).filter_map(Record::tpot_ms)),
            e2e_ms: e2e_ms(traces),
            goodput: goodput(traces),
            prefix_hit_rate: mean(|trace| trace.prefix_hit_rate),
            adapter_loads_per_1000: mean(Trace::adapter_loads_per_1000),
            load_max_over_mean: mean(Trace::load_max_over_mean),
            errors: traces.iter().map(Trace::errors).sum(),
            regret: (!oracle.is_empty()).then(|| ttft_ms.mean / self::ttft_ms(oracle).mean - 1.0),
            ci95: intervals(policy, traces, oracle),
            trace_hash: format!("{:016x}", hash(traces)),
        }
    }
}

fn intervals(policy: Policy, traces: &[Trace], oracle: &[Trace]) -> BTreeMap<&'static str, f64> {
    let interval = |(name, of): Metric| {
        let values: Vec<f64> = traces.iter().map(of).collect();
        let others: Vec<f64> = if policy == Policy::Oracle || oracle.is_empty() {
            vec![1.0; values.len()]
        } else {
            oracle.iter().map(of).collect()
        };
        let half_width = Ratio::paired(&values, &others)?.fraction()?;
        Some((name, half_width))
    };
    METRICS.into_iter().filter_map(interval).collect()
}

fn counted<'a>(traces: impl IntoIterator<Item = &'a Trace>) -> impl Iterator<Item = &'a Record> {
    traces.into_iter().flat_map(Trace::counted)
}

fn ttft_ms<'a>(traces: impl IntoIterator<Item = &'a Trace>) -> Distribution {
    Distribution::of(counted(traces).map(Record::judged_ttft_ms))
}

fn e2e_ms<'a>(traces: impl IntoIterator<Item = &'a Trace>) -> Distribution {
    Distribution::of(counted(traces).map(Record::judged_e2e_ms))
}

fn goodput<'a>(traces: impl IntoIterator<Item = &'a Trace>) -> f64 {
    let (mut good, mut all) = (0_u32, 0_u32);
    for record in counted(traces) {
        all += 1;
        good += u32::from(Slo::BENCH.is_met(record));
    }
    f64::from(good) / f64::from(all.max(1))
}

/// FNV-1a over the hashes of the runs.
fn hash(traces: &[Trace]) -> u64 {
    let fold = |hash: u64, trace: &Trace| (hash ^ trace.hash()).wrapping_mul(0x0000_0100_0000_01b3);
    traces.iter().fold(0xcbf2_9ce4_8422_2325, fold)
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

/// The name that options have for a policy.
pub(super) fn policy_name(policy: Policy) -> String {
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

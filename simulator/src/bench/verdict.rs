//! The verdict: every policy against its rivals, cell by cell, and the picker against its targets.

use std::collections::BTreeMap;

use serde::Serialize;

use super::cell::{self, Cell};
use super::interval::Ratio;
use super::matrix::Scenario;
use crate::policy::Policy;
use crate::virtual_time::record::Trace;

/// A policy is best or tied where no rival is better by more than this factor, chance included.
pub const TIED_MAX: f64 = 1.05;
/// In so many seeds without exception, no worse by more than [`TIED_MAX`] is no chance: in equals that comes once in a thousand times (2^-10).
pub const SEEDS_WITHOUT_EXCEPTION: usize = 10;
/// How much worse than the best rival the picker may be anywhere, by the mean ratio.
pub const RATIO_MAX: f64 = 1.10;
/// The regret that the picker may have where nothing befalls the pool and nothing overloads it.
pub const REGRET_MAX: f64 = 0.2;
/// In so many of all cells the picker is to be best or tied.
pub const SHARE_MIN: f64 = 0.9;

/// One policy against another in one cell, by one metric.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Comparison {
    /// The cell's name.
    pub cell: String,
    /// Whose values are above the line.
    pub policy: Policy,
    /// Whose values are below.
    pub rival: Policy,
    /// What is compared.
    pub metric: &'static str,
    /// The geometric mean of the ratios, seed by seed: below 1, `policy` is the better one.
    pub ratio: f64,
    /// The ratio of each seed.
    pub by_seed: Vec<f64>,
    /// The lower end of its 95 % interval (Student's t on the logarithms); `None` for a single seed.
    pub lower: Option<f64>,
    /// The upper end.
    pub upper: Option<f64>,
    /// Whether the upper end is at most [`TIED_MAX`], so that noise counts against `policy` (a single seed is judged by its ratio), or each seed's ratio
    /// is, in [`SEEDS_WITHOUT_EXCEPTION`] or more.
    pub best_or_tied: bool,
    /// Whether the interval alone would not say so: its upper end is above that because some wins are larger than others.
    pub by_each_seed: bool,
}

/// What the picker made of one cell, by one metric.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Standing {
    /// Whether it is best or tied against each rival.
    pub best_or_tied: bool,
    /// The rival that is best.
    pub best_rival: Policy,
    /// The mean ratio to that one.
    pub ratio: f64,
    /// Its interval's upper end.
    pub upper: Option<f64>,
    /// Whether some rival's interval is wide and `policy` is better in each seed.
    pub by_each_seed: bool,
}

/// What the picker made of one cell.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Verdict {
    /// The cell's name.
    pub cell: String,
    /// By metric.
    pub standings: BTreeMap<&'static str, Standing>,
    /// Mean time to first token over the oracle's, less 1, where that ran.
    pub regret: Option<f64>,
    /// The most that it may be, where there is a target.
    pub regret_max: Option<f64>,
    /// What is wrong with it; empty where every target is met.
    pub misses: Vec<String>,
}

/// By policy and metric, the share of cells in which it was best or tied against every other policy but the oracle.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(transparent)]
pub struct SharesOfCells(BTreeMap<Policy, BTreeMap<&'static str, Share>>);

/// So many of all.
#[derive(Clone, Copy, Debug, Default)]
struct Share {
    some: u32,
    all: u32,
}

impl Share {
    fn fraction(self) -> f64 {
        f64::from(self.some) / f64::from(self.all.max(1))
    }
}

impl Serialize for Share {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(self.fraction())
    }
}

impl SharesOfCells {
    /// Counts one more cell in.
    pub fn add(&mut self, comparisons: &[Comparison]) {
        let mut best: BTreeMap<(Policy, &'static str), bool> = BTreeMap::new();
        for one in comparisons {
            *best.entry((one.policy, one.metric)).or_insert(true) &= one.best_or_tied;
        }
        for ((policy, metric), best) in best {
            let share = self.0.entry(policy).or_default().entry(metric).or_default();
            share.all += 1;
            share.some += u32::from(best);
        }
    }

    /// The share of `policy` by `metric`, 0 to 1; `None` if it was in no comparison.
    #[must_use]
    pub fn share(&self, policy: Policy, metric: &str) -> Option<f64> {
        Some(self.0.get(&policy)?.get(metric)?.fraction())
    }

    /// The policies that were compared.
    pub fn policies(&self) -> impl Iterator<Item = Policy> {
        self.0.keys().copied()
    }
}

/// Every policy of a cell but the oracle against every other one.
#[must_use]
pub fn comparisons(scenario: &Scenario, runs: &[(Policy, Vec<Trace>)]) -> Vec<Comparison> {
    let asked = runs
        .iter()
        .filter(|(policy, _)| *policy != Policy::Oracle && scenario.policies.contains(policy));
    let mut comparisons = Vec::new();
    for (metric, of) in cell::JUDGED {
        let values: Vec<(Policy, Vec<f64>)> = asked
            .clone()
            .map(|(policy, traces)| (*policy, traces.iter().map(of).collect()))
            .collect();
        for (policy, ours) in &values {
            for (rival, theirs) in values.iter().filter(|(rival, _)| rival != policy) {
                if let Some(ratio) = Ratio::paired(ours, theirs) {
                    let by_seed = ours.iter().zip(theirs).map(|(our, their)| our / their);
                    let by_seed = by_seed.collect();
                    let pair = (*policy, *rival);
                    comparisons.push(Comparison::new(scenario, pair, metric, ratio, by_seed));
                }
            }
        }
    }
    comparisons
}

impl Comparison {
    fn new(
        scenario: &Scenario,
        (policy, rival): (Policy, Policy),
        metric: &'static str,
        ratio: Ratio,
        by_seed: Vec<f64>,
    ) -> Self {
        let upper = ratio.upper();
        let by_interval = upper.unwrap_or(ratio.mean) <= TIED_MAX;
        let by_each_seed = by_seed.len() >= SEEDS_WITHOUT_EXCEPTION
            && by_seed.iter().all(|&ratio| ratio <= TIED_MAX);
        Self {
            cell: scenario.name(),
            policy,
            rival,
            metric,
            ratio: ratio.mean,
            by_seed,
            lower: ratio.lower(),
            upper,
            best_or_tied: by_interval || by_each_seed,
            by_each_seed: by_each_seed && !by_interval,
        }
    }
}

impl Verdict {
    /// What the picker made of its cell against its rivals; `None` if it did not run or had no rival.
    #[must_use]
    pub fn of(scenario: &Scenario, cells: &[Cell], comparisons: &[Comparison]) -> Option<Self> {
        let cell = cells.iter().find(|cell| cell.policy == Policy::Pointsman)?;
        let mut standings = BTreeMap::new();
        for (metric, _) in cell::JUDGED {
            let ours = comparisons
                .iter()
                .filter(|one| one.policy == Policy::Pointsman && one.metric == metric);
            let best = ours
                .clone()
                .max_by(|one, other| one.ratio.total_cmp(&other.ratio))?;
            let standing = Standing {
                best_or_tied: ours.clone().all(|one| one.best_or_tied),
                best_rival: best.rival,
                ratio: best.ratio,
                upper: best.upper,
                by_each_seed: ours.clone().any(|one| one.by_each_seed),
            };
            standings.insert(metric, standing);
        }
        let calm = ["lora", "mixed"].contains(&scenario.workload.name);
        let mut verdict = Self {
            cell: scenario.name(),
            standings,
            regret: cell.regret,
            regret_max: calm.then_some(REGRET_MAX),
            misses: Vec::new(),
        };
        verdict.find_misses();
        Some(verdict)
    }

    fn find_misses(&mut self) {
        for (metric, standing) in &self.standings {
            let rival = cell::policy_name(standing.best_rival);
            if !standing.best_or_tied {
                self.misses.push(format!("{metric}: not best or tied"));
            }
            if standing.ratio > RATIO_MAX {
                let ratio = standing.ratio;
                self.misses.push(format!("{metric}: {ratio:.2} of {rival}"));
            }
        }
        if let (Some(regret), Some(most)) = (self.regret, self.regret_max)
            && regret > most
        {
            self.misses
                .push(format!("regret {regret:.2}, at most {most}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use picker_core::time::Instant;

    use super::*;
    use crate::virtual_time::record::Record;
    use crate::workload::Workload;

    /// A run whose every request took so long until its first token and twice as long in all.
    fn run(ttft_ms: u64) -> Trace {
        let mut record = Record::new(Instant::ZERO, 9);
        record.first_token = Some(Instant::from_millis(ttft_ms));
        record.ended = Some(Instant::from_millis(2 * ttft_ms));
        record.status = 200;
        Trace {
            records: vec![record; 10],
            warm_up: 0,
            servers: 1,
            adapter_loads: 0,
            prefix_hit_rate: 0.0,
        }
    }

    /// The runs of the picker, of two rivals and of the oracle.
    fn compared(ours: &[u64], [p2c, lmetric]: [&[u64]; 2]) -> (Vec<Comparison>, Verdict) {
        let scenario = Scenario::of(Workload::lora());
        let runs = |ttft_ms: &[u64]| ttft_ms.iter().map(|&ms| run(ms)).collect::<Vec<_>>();
        let runs = [
            (Policy::Pointsman, runs(ours)),
            (Policy::P2c, runs(p2c)),
            (Policy::Lmetric, runs(lmetric)),
            (Policy::Oracle, runs(&[100, 100, 100])),
        ];
        let comparisons = comparisons(&scenario, &runs);
        let cells = Cell::of_scenario(&scenario, &runs);
        let verdict = Verdict::of(&scenario, &cells, &comparisons).expect("it has rivals");
        (comparisons, verdict)
    }

    #[test]
    fn equal_runs_have_the_ratio_one_and_are_tied() {
        let runs: &[u64] = &[100, 120, 90];
        let (comparisons, verdict) = compared(runs, [runs, runs]);
        // Three policies, each against two others, by two metrics; the oracle takes no part.
        assert_eq!(comparisons.len(), 12);
        for one in comparisons {
            let expected = (1.0, Some(1.0), Some(1.0), true);
            assert_eq!(
                (one.ratio, one.lower, one.upper, one.best_or_tied),
                expected
            );
        }
        assert_eq!(verdict.misses, [""; 0]);
    }

    #[test]
    fn noise_counts_against_and_a_clear_win_with_a_wide_interval_does_not() {
        // Better by 40 to 60 %, seed by seed; and better by 1 % on average, with seeds that differ by 20 %.
        let (comparisons, verdict) = compared(&[60, 50, 40], [&[100, 100, 100], &[70, 60, 50]]);
        let standing = &verdict.standings["ttft_p90"];
        assert!(standing.best_or_tied, "{standing:?}");
        assert_eq!(standing.best_rival, Policy::Lmetric);
        let wide = comparisons.iter().find(|one| one.rival == Policy::P2c);
        let wide = wide.expect("it was compared");
        assert!(wide.upper.is_some_and(|upper| upper > 0.8), "{wide:?}");
        let (_, noisy) = compared(&[120, 100, 80], [&[900, 900, 900], &[100, 100, 100]]);
        assert!(!noisy.standings["ttft_p90"].best_or_tied);
        assert!(noisy.standings["ttft_p90"].ratio < 1.0, "though not worse");
    }

    #[test]
    fn no_loss_in_any_of_ten_seeds_is_no_loss_however_wide_some_wins_make_the_interval() {
        // 97 of 100 in all seeds but two, which are won by a factor of 16: the interval reaches above 1.
        let ours = [97, 6, 97, 97, 97, 97, 97, 6, 97, 97];
        let (comparisons, verdict) = compared(&ours, [&[200; 10], &[100; 10]]);
        let standing = &verdict.standings["ttft_p90"];
        assert!(standing.upper.is_some_and(|upper| upper > TIED_MAX));
        assert!(standing.best_or_tied && standing.by_each_seed);
        let seeds = &comparisons[0].by_seed;
        assert_eq!((seeds.len(), seeds[1]), (10, 6.0 / 200.0));
        // One seed of ten, or fewer than ten, are not enough.
        for count in [9, 10] {
            let mut ours = ours[..count].to_vec();
            ours[0] = if count == 10 { 106 } else { 97 };
            let (_, verdict) = compared(&ours, [&[200; 10][..count], &[100; 10][..count]]);
            assert!(!verdict.standings["ttft_p90"].best_or_tied, "{count} seeds");
        }
    }

    #[test]
    fn shares_count_the_cells_in_which_no_rival_is_better() {
        let mut shares = SharesOfCells::default();
        shares.add(&compared(&[100, 101, 102], [&[200, 201, 202], &[50, 51, 52]]).0);
        shares.add(&compared(&[100, 101, 102], [&[200, 201, 202], &[99, 100, 102]]).0);
        let share = |policy| shares.share(policy, "e2e_mean");
        assert_eq!(share(Policy::Pointsman), Some(0.5));
        assert_eq!(share(Policy::Lmetric), Some(1.0));
        assert_eq!(share(Policy::P2c), Some(0.0));
        assert_eq!(share(Policy::Oracle), None);
    }

    #[test]
    fn a_verdict_says_what_it_misses() {
        let (_, verdict) = compared(&[130, 130, 130], [&[200, 200, 200], &[100, 100, 100]]);
        let regret = "regret 0.30, at most 0.2";
        let expected = [
            "e2e_mean: not best or tied",
            "e2e_mean: 1.30 of lmetric",
            "ttft_p90: not best or tied",
            "ttft_p90: 1.30 of lmetric",
            regret,
        ];
        assert_eq!(verdict.misses, expected);
    }
}

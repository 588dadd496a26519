//! What the outcomes of a run add up to.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;
use tokio::time::Instant;

use super::LoadPlan;
use super::report::{Curve, Goodput, LoadReport, Percentiles, Rate, ServerShare, Slo};
use super::request::Outcome;

/// The outcomes so far.
pub(super) struct Tally {
    start: Instant,
    slo: Slo,
    /// Requests and conversations begun by the schedule.
    started: u64,
    sent: u64,
    requests: u64,
    output_tokens: u64,
    /// Answers that kept to the objectives.
    good: u64,
    /// Prompt tokens, and those of them in a prefix cache, of answers that say so.
    cached: (u64, u64),
    errors: BTreeMap<String, u64>,
    lag: Spread,
    first_token: Spread,
    per_token: Spread,
    between_tokens: Spread,
    e2e: Spread,
    pick: Spread,
    chunk: Spread,
    servers: BTreeMap<String, Share>,
    /// When the last answer ended.
    last: Instant,
}

struct Share {
    requests: u64,
    errors: u64,
    first_token: Spread,
}

impl Tally {
    pub(super) fn new(start: Instant, plan: &LoadPlan) -> Self {
        Self {
            start,
            slo: plan.slo,
            started: 0,
            sent: 0,
            requests: 0,
            output_tokens: 0,
            good: 0,
            cached: (0, 0),
            errors: BTreeMap::new(),
            lag: Spread::new(),
            first_token: Spread::new(),
            per_token: Spread::new(),
            between_tokens: Spread::new(),
            e2e: Spread::new(),
            pick: Spread::new(),
            chunk: Spread::new(),
            servers: BTreeMap::new(),
            last: start,
        }
    }

    /// A request or conversation of the schedule was begun.
    pub(super) const fn started(&mut self) {
        self.started += 1;
        self.sent += 1;
    }

    /// Requests that ended.
    pub(super) const fn requests(&self) -> u64 {
        self.requests
    }

    pub(super) fn add(&mut self, outcome: &Outcome) {
        self.requests += 1;
        self.sent += u64::from(outcome.later_turn);
        self.output_tokens += outcome.output_tokens;
        self.last = Instant::now();
        self.lag.add(outcome.lag);
        if let Some(server) = &outcome.server {
            let share = self
                .servers
                .entry(server.clone())
                .or_insert_with(Share::new);
            share.requests += 1;
            share.errors += u64::from(outcome.failure.is_some());
            if outcome.failure.is_none() {
                outcome
                    .first_token
                    .into_iter()
                    .for_each(|took| share.first_token.add(took));
            }
        }
        if let Some(failure) = &outcome.failure {
            *self.errors.entry(failure.clone()).or_default() += 1;
            // A failed request has no latency: a refusal would make the percentiles look fast.
            return;
        }
        self.answered(outcome);
    }

    fn answered(&mut self, outcome: &Outcome) {
        self.e2e.add(outcome.e2e);
        outcome
            .pick
            .into_iter()
            .for_each(|took| self.pick.add(took));
        outcome.chunks.iter().for_each(|&took| self.chunk.add(took));
        if let Some(cached) = outcome.cached_tokens {
            self.cached.0 += outcome.prompt_tokens;
            self.cached.1 += cached;
        }
        let mut tpot = None;
        if let (Some(first), Some(last)) = (outcome.first_token, outcome.last_token) {
            self.first_token.add(first);
            if let Ok(later @ 1..) = u32::try_from(outcome.output_tokens.saturating_sub(1)) {
                let per_token = (last - first) / later;
                self.per_token.add(per_token);
                tpot = Some(per_token);
            }
        }
        for &gap in &outcome.gaps {
            self.between_tokens.add(gap);
        }
        let within = |took: Option<Duration>, most_ms: Option<f64>| {
            let took_ms = took.map_or(0.0, |took| took.as_secs_f64() * 1e3);
            most_ms.is_none_or(|most_ms| took_ms <= most_ms)
        };
        // A whole answer shows no first token before its end.
        let first = outcome.first_token.or(Some(outcome.e2e));
        let good = within(first, self.slo.ttft_ms) && within(tpot, self.slo.tpot_ms);
        self.good += u64::from(good);
    }

    /// What the progress bar says behind the count.
    pub(super) fn progress(&self) -> String {
        let under_way = self.sent - self.requests;
        let errors: u64 = self.errors.values().sum();
        format!(
            ", {under_way} under way, {errors} errors, TTFT p90 {:.0} ms",
            self.first_token.ms(90.0)
        )
    }

    pub(super) fn report(
        self,
        plan: &LoadPlan,
        sending: Duration,
        adapter_loads: Option<f64>,
    ) -> LoadReport {
        let span = (self.last - self.start).as_secs_f64();
        let a_second = |count: u64| {
            if span > 0.0 { count as f64 / span } else { 0.0 }
        };
        let servers = self.servers.len().max(plan.servers.len());
        let counts = self.servers.values().map(|share| share.requests);
        let (most, all) = (counts.clone().max(), counts.sum::<u64>());
        let errors: u64 = self.errors.values().sum();
        LoadReport {
            requests: self.requests,
            errors,
            ttft_ms: self.first_token.percentiles(),
            tpot_ms: self.per_token.percentiles(),
            itl_ms: self.between_tokens.percentiles(),
            e2e_ms: self.e2e.percentiles(),
            pick_ms: self.pick.percentiles(),
            chunk_ms: self.chunk.percentiles(),
            goodput: (self.slo != Slo::default()).then(|| Goodput {
                slo: self.slo,
                share: self.good as f64 / self.requests.max(1) as f64,
                requests_per_s: a_second(self.good),
            }),
            prefix_hit_rate: (self.cached.0 > 0)
                .then(|| self.cached.1 as f64 / self.cached.0 as f64),
            output_tokens_per_s: a_second(self.output_tokens),
            requests_per_s: a_second(self.requests - errors),
            adapter_loads_per_1000: adapter_loads
                .filter(|_| self.requests > 0)
                .map(|loads| loads * 1e3 / self.requests as f64),
            load_max_over_mean: most.map(|most| most as f64 * servers as f64 / all as f64),
            rate: Rate {
                asked: plan.concurrency.is_none().then_some(plan.rate),
                achieved: self.started as f64 / sending.as_secs_f64().max(f64::MIN_POSITIVE),
            },
            lag_ms: self.lag.percentiles(),
            generator: None,
            process: None,
            unanswered: self.sent - self.requests,
            seconds: span,
            seed: plan.seed,
            concurrency: plan.concurrency,
            workload: plan.workload.clone(),
            curves: self.curves(),
            errors_by_kind: self.errors,
            servers: self
                .servers
                .into_iter()
                .map(|(server, share)| share.report(server))
                .collect(),
        }
    }

    fn curves(&self) -> Vec<Curve> {
        let spreads = [
            ("TTFT", &self.first_token),
            ("TPOT", &self.per_token),
            ("E2E", &self.e2e),
            ("pick", &self.pick),
            ("chunk", &self.chunk),
        ];
        let measured = spreads
            .into_iter()
            .filter(|(_, spread)| !spread.0.is_empty());
        measured
            .map(|(name, spread)| Curve {
                name,
                points: spread.curve(),
            })
            .collect()
    }
}

impl Share {
    fn new() -> Self {
        Self {
            requests: 0,
            errors: 0,
            first_token: Spread::new(),
        }
    }

    fn report(self, server: String) -> ServerShare {
        ServerShare {
            server,
            requests: self.requests,
            errors: self.errors,
            ttft_ms: self.first_token.percentiles(),
        }
    }
}

/// The longest duration that is told from longer ones.
const HOUR_US: u64 = 3_600_000_000;

/// Durations in microseconds, to three digits.
struct Spread(Histogram<u64>);

impl Spread {
    fn new() -> Self {
        Self(Histogram::new_with_bounds(1, HOUR_US, 3).expect("the bounds and digits are allowed"))
    }

    fn add(&mut self, took: Duration) {
        self.0
            .saturating_record(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
    }

    fn ms(&self, percentile: f64) -> f64 {
        self.0.value_at_percentile(percentile) as f64 / 1e3
    }

    /// Every second percentile, and the last ones.
    fn curve(&self) -> Vec<(f64, f64)> {
        let percentiles = (0..50).map(|half| f64::from(half) * 2.0);
        let all = percentiles.chain([99.0, 99.5, 99.9, 100.0]);
        all.map(|percentile| (percentile, self.ms(percentile)))
            .collect()
    }

    fn percentiles(&self) -> Option<Percentiles> {
        (!self.0.is_empty()).then(|| Percentiles {
            mean: self.0.mean() / 1e3,
            p50: self.ms(50.0),
            p90: self.ms(90.0),
            p95: self.ms(95.0),
            p99: self.ms(99.0),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::Workload;

    fn answered(server: &str, first_ms: u64, last_ms: u64, output_tokens: u64) -> Outcome {
        Outcome {
            server: Some(server.into()),
            lag: Duration::from_millis(1),
            prompt_tokens: 10,
            e2e: Duration::from_millis(last_ms),
            first_token: Some(Duration::from_millis(first_ms)),
            last_token: Some(Duration::from_millis(last_ms)),
            output_tokens,
            ..Outcome::default()
        }
    }

    fn report(outcomes: &[Outcome], servers: usize, adapter_loads: Option<f64>) -> LoadReport {
        let workload = Workload::uniform(1, 1, 0);
        let mut plan = LoadPlan::new("http://x", "m", workload, 2.0, Duration::from_secs(2));
        plan.slo.ttft_ms = Some(25.0);
        plan.servers = vec![([127, 0, 0, 1], 1).into(); servers];
        let mut tally = Tally::new(Instant::now(), &plan);
        for outcome in outcomes {
            tally.started();
            tally.add(outcome);
        }
        tally.report(&plan, plan.duration, adapter_loads)
    }

    #[tokio::test]
    async fn percentiles_shares_and_loads_add_up() {
        let outcomes = [
            answered("a", 10, 110, 11),
            answered("a", 20, 30, 2),
            answered("b", 30, 30, 1),
        ];
        let report = report(&outcomes, 3, Some(6.0));
        assert_eq!((report.requests, report.errors), (3, 0));
        let ttft = report.ttft_ms.expect("three were streamed");
        assert_eq!((ttft.p50.round(), ttft.p99.round()), (20.0, 30.0));
        let tpot = report.tpot_ms.expect("two had a second token");
        assert_eq!((tpot.mean.round(), tpot.p90.round()), (10.0, 10.0));
        let goodput = report.goodput.expect("an objective was given");
        assert_eq!((goodput.share * 3.0).round(), 2.0, "10 and 20 ms of 25");
        assert_eq!(report.adapter_loads_per_1000, Some(2000.0));
        assert_eq!(
            report.load_max_over_mean,
            Some(2.0),
            "two on one of three servers"
        );
        assert_eq!(report.rate.achieved, 1.5);
        assert!(!report.rate.is_reached());
    }

    #[tokio::test]
    async fn failures_are_counted_by_kind_and_have_no_latency() {
        let failed = |kind: &str| Outcome {
            failure: Some(kind.into()),
            ..answered("a", 1, 1, 0)
        };
        let report = report(
            &[failed("http_503"), failed("http_503"), failed("connect")],
            0,
            None,
        );
        assert_eq!((report.requests, report.errors), (3, 3));
        assert_eq!(report.errors_by_kind["http_503"], 2);
        assert_eq!((report.ttft_ms, report.e2e_ms), (None, None));
        assert_eq!(report.adapter_loads_per_1000, None);
    }
}

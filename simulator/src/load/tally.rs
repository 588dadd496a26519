//! What the outcomes of a run add up to.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;
use tokio::time::Instant;

use super::LoadPlan;
use super::report::{LoadReport, Percentiles, Rate, ServerShare};
use super::request::Outcome;

/// The outcomes so far.
pub(super) struct Tally {
    start: Instant,
    sent: u64,
    requests: u64,
    output_tokens: u64,
    errors: BTreeMap<String, u64>,
    lag: Spread,
    first_token: Spread,
    per_token: Spread,
    e2e: Spread,
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
    pub(super) fn new(start: Instant) -> Self {
        Self {
            start,
            sent: 0,
            requests: 0,
            output_tokens: 0,
            errors: BTreeMap::new(),
            lag: Spread::new(),
            first_token: Spread::new(),
            per_token: Spread::new(),
            e2e: Spread::new(),
            servers: BTreeMap::new(),
            last: start,
        }
    }

    pub(super) const fn sent(&mut self) {
        self.sent += 1;
    }

    pub(super) fn add(&mut self, outcome: &Outcome) {
        self.requests += 1;
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
        self.e2e.add(outcome.e2e);
        if let (Some(first), Some(last)) = (outcome.first_token, outcome.last_token) {
            self.first_token.add(first);
            if let Ok(later @ 1..) = u32::try_from(outcome.output_tokens.saturating_sub(1)) {
                self.per_token.add((last - first) / later);
            }
        }
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
        let servers = self.servers.len().max(plan.servers.len());
        let counts = self.servers.values().map(|share| share.requests);
        let (most, all) = (counts.clone().max(), counts.sum::<u64>());
        LoadReport {
            requests: self.requests,
            errors: self.errors.values().sum(),
            errors_by_kind: self.errors,
            ttft_ms: self.first_token.percentiles(),
            tpot_ms: self.per_token.percentiles(),
            e2e_ms: self.e2e.percentiles(),
            output_tokens_per_s: if span > 0.0 {
                self.output_tokens as f64 / span
            } else {
                0.0
            },
            adapter_loads_per_1000: adapter_loads
                .filter(|_| self.requests > 0)
                .map(|loads| loads * 1e3 / self.requests as f64),
            load_max_over_mean: most.map(|most| most as f64 * servers as f64 / all as f64),
            rate: Rate {
                asked: plan.rate,
                achieved: self.sent as f64 / sending.as_secs_f64().max(f64::MIN_POSITIVE),
            },
            lag_ms: self.lag.percentiles(),
            unanswered: self.sent - self.requests,
            seconds: span,
            seed: plan.seed,
            workload: plan.workload.clone(),
            servers: self
                .servers
                .into_iter()
                .map(|(server, share)| share.report(server))
                .collect(),
        }
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

    fn percentiles(&self) -> Option<Percentiles> {
        (!self.0.is_empty()).then(|| Percentiles {
            mean: self.0.mean() / 1e3,
            p50: self.ms(50.0),
            p90: self.ms(90.0),
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
            e2e: Duration::from_millis(last_ms),
            first_token: Some(Duration::from_millis(first_ms)),
            last_token: Some(Duration::from_millis(last_ms)),
            output_tokens,
            failure: None,
        }
    }

    fn report(outcomes: &[Outcome], servers: usize, adapter_loads: Option<f64>) -> LoadReport {
        let workload = Workload::uniform(1, 1, 0);
        let mut plan = LoadPlan::new("http://x", "m", workload, 2.0, Duration::from_secs(2));
        plan.servers = vec![([127, 0, 0, 1], 1).into(); servers];
        let mut tally = Tally::new(Instant::now());
        for outcome in outcomes {
            tally.sent();
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

//! What the driver counts: picks, what became of them, and the state of each pool's endpoints.

use std::time::Duration;

use picker_core::action::Refusal;
use picker_core::picker::EndpointState;
use picker_core::receipt::{End, Outcome};
use picker_core::route::PoolKey;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use super::Refused;

/// The driver's metrics; the label values are pools, endpoints and closed enums.
#[derive(Clone, Debug)]
pub struct DriverMetrics {
    picks: Family<OfPool, Counter>,
    refusals: Family<OfRefusal, Counter>,
    pick_duration: Histogram,
    ended: Family<OfEnd, Counter>,
    responses: Family<OfStatus, Counter>,
    ttft: Family<OfPool, Histogram>,
    in_flight: Family<OfPool, Gauge>,
    endpoints: Family<OfState, Gauge>,
    own: Family<OfEndpoint, Gauge>,
    foreign: Family<OfEndpoint, Gauge<f64, std::sync::atomic::AtomicU64>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfPool {
    pool: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfRefusal {
    pool: String,
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfEnd {
    pool: String,
    end: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfStatus {
    pool: String,
    status: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfState {
    pool: String,
    state: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfEndpoint {
    pool: String,
    endpoint: String,
}

/// Upper bounds of pick durations, in seconds: upstream's for its scheduler, and finer ones below.
const PICK_BUCKETS: [f64; 10] = [
    0.000_005, 0.000_01, 0.000_02, 0.000_05, 0.000_1, 0.000_2, 0.000_5, 0.001, 0.01, 0.1,
];
/// Upper bounds of times to first token, in seconds: upstream's for TTFT.
const TTFT_BUCKETS: [f64; 16] = [
    0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0, 120.0,
];

impl DriverMetrics {
    /// Registers the metrics.
    #[must_use]
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            picks: Family::default(),
            refusals: Family::default(),
            pick_duration: Histogram::new(PICK_BUCKETS),
            ended: Family::default(),
            responses: Family::default(),
            ttft: Family::new_with_constructor(|| Histogram::new(TTFT_BUCKETS)),
            in_flight: Family::default(),
            endpoints: Family::default(),
            own: Family::default(),
            foreign: Family::default(),
        };
        let m = &metrics;
        registry.register("pointsman_picks", "Requests placed", m.picks.clone());
        registry.register(
            "pointsman_refusals",
            "Requests without endpoint",
            m.refusals.clone(),
        );
        registry.register_with_unit(
            "pointsman_pick_duration",
            "Time to decide, lock included",
            Unit::Seconds,
            m.pick_duration.clone(),
        );
        registry.register("pointsman_ended", "Requests over, by how", m.ended.clone());
        registry.register(
            "pointsman_responses",
            "Responses of servers, or of the proxy in their place, by status; refusals of ours are not among them",
            m.responses.clone(),
        );
        registry.register_with_unit(
            "pointsman_ttft",
            "From decision to first token of streamed responses",
            Unit::Seconds,
            m.ttft.clone(),
        );
        registry.register(
            "pointsman_in_flight",
            "Requests in flight",
            m.in_flight.clone(),
        );
        registry.register(
            "pointsman_endpoints",
            "Endpoints, by state",
            m.endpoints.clone(),
        );
        registry.register(
            "pointsman_endpoint_own",
            "Own requests in flight",
            m.own.clone(),
        );
        registry.register(
            "pointsman_endpoint_foreign",
            "Requests of others, smoothed",
            m.foreign.clone(),
        );
        metrics
    }

    pub(super) fn on_pick(&self, pool: &PoolKey, took: Duration, refused: Option<&Refused>) {
        let pool = pool.to_string();
        self.pick_duration.observe(took.as_secs_f64());
        match refused {
            None => self.picks.get_or_create(&OfPool { pool }).inc(),
            Some(refused) => {
                let reason = match refused.refusal {
                    Refusal::NoEndpoints => "no_endpoints",
                    Refusal::EmptySubset => "empty_subset",
                };
                self.refusals
                    .get_or_create(&OfRefusal { pool, reason })
                    .inc()
            }
        };
    }

    pub(super) fn on_settled(&self, pool: &PoolKey, outcome: &Outcome) {
        let pool = pool.to_string();
        let end = match outcome.end {
            End::Completed => "completed",
            End::Failed => "failed",
            End::Abandoned => "abandoned",
            End::Presumed => "presumed",
        };
        self.ended
            .get_or_create(&OfEnd {
                pool: pool.clone(),
                end,
            })
            .inc();
        if let Some(status) = outcome.status {
            let labels = OfStatus {
                pool: pool.clone(),
                status: class_of(status),
            };
            self.responses.get_or_create(&labels).inc();
        }
        if let Some(ttft_ms) = outcome.ttft_ms {
            self.ttft
                .get_or_create(&OfPool { pool })
                .observe(ttft_ms / 1e3);
        }
    }

    /// Sets the gauges anew from what the pools hold; series of what is gone are gone.
    pub fn observe(&self, pools: &[(PoolKey, usize, Vec<EndpointState>)]) {
        self.in_flight.clear();
        self.endpoints.clear();
        self.own.clear();
        self.foreign.clear();
        for (pool, in_flight, endpoints) in pools {
            let pool = pool.to_string();
            let of_pool = OfPool { pool: pool.clone() };
            self.in_flight
                .get_or_create(&of_pool)
                .set(gauge(*in_flight as u64));
            let suspect = endpoints
                .iter()
                .filter(|one| one.suspicion.is_some())
                .count();
            for (state, count) in [("healthy", endpoints.len() - suspect), ("suspect", suspect)] {
                let labels = OfState {
                    pool: pool.clone(),
                    state,
                };
                self.endpoints
                    .get_or_create(&labels)
                    .set(gauge(count as u64));
            }
            for one in endpoints {
                let labels = OfEndpoint {
                    pool: pool.clone(),
                    endpoint: one.name.to_string(),
                };
                self.own.get_or_create(&labels).set(gauge(one.own.requests));
                self.foreign.get_or_create(&labels).set(one.foreign);
            }
        }
    }
}

/// The class of a status, so that a server cannot make up label values.
fn class_of(status: u16) -> &'static str {
    match status {
        200..300 => "2xx",
        300..400 => "3xx",
        400..500 => "4xx",
        500..600 => "5xx",
        _ => "other",
    }
}

/// A count as a gauge's value.
fn gauge(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

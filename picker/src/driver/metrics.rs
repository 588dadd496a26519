//! What the driver counts: picks, what became of them, and the state of each pool's endpoints.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use picker_core::action::Refusal;
use picker_core::picker::EndpointState;
use picker_core::receipt::{End, Outcome, Receipt};
use picker_core::route::{PoolKey, Told};
use picker_core::view::rewrite::{Naming, Rewriting};
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
    expected: Family<OfSpan, Seconds>,
    taken: Family<OfSpan, Seconds>,
    missed: Family<OfSpan, Seconds>,
    unserved: Family<OfPool, Counter>,
    probes: Family<OfPool, Counter>,
    in_flight: Family<OfPool, Gauge>,
    endpoints: Family<OfState, Gauge>,
    unknown_engines: Family<OfEngine, Gauge>,
    own: Family<OfEndpoint, Gauge>,
    foreign: Family<OfEndpoint, Gauge<f64, std::sync::atomic::AtomicU64>>,
    panics: Family<OfPool, Counter>,
    told: Family<OfTold, Counter>,
    turns: Family<OfPool, Counter>,
    ambiguous: Family<OfPool, Counter>,
    routes: Gauge,
    rewrites: Family<OfArm, Counter>,
    /// The series of `rewrites`, of which there is a bound.
    arms: Arc<Mutex<BTreeSet<OfArm>>>,
    labelled: Arc<Mutex<BTreeSet<Arc<str>>>>,
}

/// The most pools that have series of their own; the others share one name.
const POOLS_LABELLED_MAX: usize = 2_000;
/// The name that they share.
pub(super) const OTHER: &str = "other";
/// The most arms of rewrites that have series of their own; the others share a series in their pool.
const ARMS_LABELLED_MAX: usize = 2_000;
/// The most endpoints that have series of their own.
const ENDPOINTS_LABELLED_MAX: usize = 5_000;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfPool {
    pool: String,
}

/// A sum of seconds.
type Seconds = Counter<f64, std::sync::atomic::AtomicU64>;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfSpan {
    pool: String,
    span: &'static str,
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
struct OfTold {
    by: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfState {
    pool: String,
    state: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfEngine {
    engine: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfEndpoint {
    pool: String,
    endpoint: String,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, EncodeLabelSet)]
struct OfArm {
    pool: String,
    rewrite: String,
    rule: String,
    model: String,
    put: &'static str,
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
            expected: Family::default(),
            taken: Family::default(),
            missed: Family::default(),
            unserved: Family::default(),
            probes: Family::default(),
            in_flight: Family::default(),
            endpoints: Family::default(),
            unknown_engines: Family::default(),
            own: Family::default(),
            foreign: Family::default(),
            panics: Family::default(),
            told: Family::default(),
            turns: Family::default(),
            ambiguous: Family::default(),
            routes: Gauge::default(),
            rewrites: Family::default(),
            arms: Arc::default(),
            labelled: Arc::default(),
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
        metrics.register_knowledge(registry);
        metrics.register_resolution(registry);
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
        metrics.register_defects(registry);
        metrics
    }

    fn register_knowledge(&self, registry: &mut Registry) {
        registry.register(
            "pointsman_endpoint_own",
            "Own requests in flight",
            self.own.clone(),
        );
        registry.register(
            "pointsman_endpoints_of_unknown_engine",
            "Endpoints whose label names an engine that is not known; their metrics are read as vLLM's",
            self.unknown_engines.clone(),
        );
        registry.register(
            "pointsman_endpoint_foreign",
            "Requests of others, smoothed",
            self.foreign.clone(),
        );
        registry.register_with_unit(
            "pointsman_expected",
            "Sum of what was expected of completed requests: time to first token where it was seen, time to the end",
            Unit::Seconds,
            self.expected.clone(),
        );
        registry.register_with_unit(
            "pointsman_taken",
            "Sum of what the same requests took; expected less taken is the bias",
            Unit::Seconds,
            self.taken.clone(),
        );
        registry.register_with_unit(
            "pointsman_expectation_missed",
            "Sum of the differences between both, each as an absolute value",
            Unit::Seconds,
            self.missed.clone(),
        );
        registry.register(
            "pointsman_unserved",
            "Requests for a model that no endpoint is known to serve, placed by load",
            self.unserved.clone(),
        );
        registry.register(
            "pointsman_probes",
            "Requests sent to a suspect to see whether it works",
            self.probes.clone(),
        );
        registry.register(
            "pointsman_rewrites",
            "Requests whose model was chosen for them, by the arm that chose",
            self.rewrites.clone(),
        );
    }

    fn register_defects(&self, registry: &mut Registry) {
        registry.register(
            "pointsman_panics",
            "Defects after which a pool began anew",
            self.panics.clone(),
        );
        registry.register(
            "pointsman_turns",
            "Requests placed in turn, since the pool was busy for all of --pick-budget; nothing is booked for them",
            self.turns.clone(),
        );
    }

    fn register_resolution(&self, registry: &mut Registry) {
        registry.register(
            "pointsman_pools_told",
            "Requests by what told their pool",
            self.told.clone(),
        );
        registry.register(
            "pointsman_pools_ambiguous",
            "Requests that could have been for another pool too, by the pool that was taken as the first by name",
            self.ambiguous.clone(),
        );
        registry.register(
            "pointsman_routes",
            "HTTPRoutes and GRPCRoutes that are known",
            self.routes.clone(),
        );
        for told in [
            Told::Port,
            Told::Authority,
            Told::Metadata,
            Told::Attributes,
            Told::Routes,
            Told::Subset,
            Told::OnlyPool,
        ] {
            self.told
                .get_or_create(&OfTold { by: told.label() })
                .inc_by(0);
        }
    }

    /// How many routes there are now.
    pub(super) fn on_routes(&self, count: usize) {
        self.routes.set(gauge(count as u64));
    }

    /// What told the pool of a request.
    pub(super) fn on_told(&self, pool: &str, told: Told, or: &[PoolKey]) {
        self.told.get_or_create(&OfTold { by: told.label() }).inc();
        if !or.is_empty() {
            let pool = pool.to_owned();
            self.ambiguous.get_or_create(&OfPool { pool }).inc();
        }
    }

    /// Counts a request that was placed in turn.
    pub fn on_turn(&self, pool: &str) {
        let pool = pool.to_owned();
        self.turns.get_or_create(&OfPool { pool }).inc();
    }

    /// What is notable of a decision that was made.
    pub(super) fn on_receipt(&self, pool: &str, receipt: &Receipt) {
        let of_pool = || OfPool {
            pool: pool.to_owned(),
        };
        if receipt.unserved {
            self.unserved.get_or_create(&of_pool()).inc();
        }
        if receipt.probe {
            self.probes.get_or_create(&of_pool()).inc();
        }
        if let Some(rewrite) = &receipt.rewrite {
            self.rewrites.get_or_create(&self.arm(pool, rewrite)).inc();
        }
    }

    /// The labels of an arm; a model that a request's header asks for is no label, since clients may think of any.
    fn arm(&self, pool: &str, rewrite: &Rewriting) -> OfArm {
        let put = match rewrite.naming {
            Naming::Unchanged => "unchanged",
            Naming::PutBack => "put_back",
            Naming::Stays => "stays",
            Naming::NotPut => "not_put",
        };
        let shared = |rewrite: &str| OfArm {
            pool: pool.to_owned(),
            rewrite: rewrite.to_owned(),
            rule: String::new(),
            model: String::new(),
            put,
        };
        let Some(arm) = &rewrite.arm else {
            return shared("header");
        };
        let labels = OfArm {
            pool: pool.to_owned(),
            rewrite: arm.rewrite.name.to_string(),
            rule: arm.rule.to_string(),
            model: rewrite.model.to_string(),
            put,
        };
        let mut arms = self.arms.lock().unwrap_or_else(PoisonError::into_inner);
        if arms.contains(&labels) {
            return labels;
        }
        if pool == OTHER || arms.len() >= ARMS_LABELLED_MAX {
            return shared(OTHER);
        }
        arms.insert(labels.clone());
        labels
    }

    fn compare(&self, pool: &str, span: &'static str, expected_ms: f64, taken_ms: f64) {
        let labels = OfSpan {
            pool: pool.to_owned(),
            span,
        };
        let add = |family: &Family<OfSpan, Seconds>, ms: f64| {
            family.get_or_create(&labels).inc_by(ms / 1e3);
        };
        add(&self.expected, expected_ms);
        add(&self.taken, taken_ms);
        add(&self.missed, (expected_ms - taken_ms).abs());
    }

    /// The name of a pool in metrics. There is a bound, as pools are made by many people.
    pub(super) fn label(&self, pool: &PoolKey) -> Arc<str> {
        let mut labelled = self.labelled.lock().unwrap_or_else(PoisonError::into_inner);
        if labelled.len() >= POOLS_LABELLED_MAX {
            return OTHER.into();
        }
        let label: Arc<str> = pool.to_string().into();
        labelled.insert(label.clone());
        label
    }

    /// Removes the series of a pool that is gone.
    pub(super) fn forget(&self, label: &Arc<str>) {
        let mut labelled = self.labelled.lock().unwrap_or_else(PoisonError::into_inner);
        if !labelled.remove(label) {
            return;
        }
        let pool = || label.to_string();
        self.picks.remove(&OfPool { pool: pool() });
        self.ttft.remove(&OfPool { pool: pool() });
        self.panics.remove(&OfPool { pool: pool() });
        self.unserved.remove(&OfPool { pool: pool() });
        self.probes.remove(&OfPool { pool: pool() });
        self.ambiguous.remove(&OfPool { pool: pool() });
        self.turns.remove(&OfPool { pool: pool() });
        for span in ["first_token", "end"] {
            let labels = OfSpan { pool: pool(), span };
            self.expected.remove(&labels);
            self.taken.remove(&labels);
            self.missed.remove(&labels);
        }
        for reason in ["no_endpoints", "empty_subset", "overloaded"] {
            let pool = pool();
            self.refusals.remove(&OfRefusal { pool, reason });
        }
        let mut arms = self.arms.lock().unwrap_or_else(PoisonError::into_inner);
        arms.retain(|arm| {
            let stays = arm.pool != **label;
            if !stays {
                self.rewrites.remove(arm);
            }
            stays
        });
        drop(arms);
        for end in ["completed", "failed", "abandoned", "presumed"] {
            self.ended.remove(&OfEnd { pool: pool(), end });
        }
        for status in ["2xx", "3xx", "4xx", "5xx", "other"] {
            let pool = pool();
            self.responses.remove(&OfStatus { pool, status });
        }
    }

    /// Counts a defect after which a pool began anew.
    pub fn on_panic(&self, pool: &str) {
        let pool = pool.to_owned();
        self.panics.get_or_create(&OfPool { pool }).inc();
    }

    pub(super) fn on_pick(&self, pool: &str, took: Duration, refused: Option<&Refused>) {
        let pool = pool.to_string();
        self.pick_duration.observe(took.as_secs_f64());
        match refused {
            None => self.picks.get_or_create(&OfPool { pool }).inc(),
            Some(refused) => {
                let reason = match refused.refusal {
                    Refusal::NoEndpoints => "no_endpoints",
                    Refusal::EmptySubset => "empty_subset",
                    Refusal::Overloaded { .. } => "overloaded",
                };
                self.refusals
                    .get_or_create(&OfRefusal { pool, reason })
                    .inc()
            }
        };
    }

    pub(super) fn on_settled(&self, pool: &str, outcome: &Outcome) {
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
        if outcome.end == End::Completed {
            self.compare(
                &pool,
                "end",
                outcome.expected_duration_ms,
                outcome.duration_ms,
            );
            if let Some(ttft_ms) = outcome.ttft_ms {
                self.compare(&pool, "first_token", outcome.expected_ttft_ms, ttft_ms);
            }
        }
        if let Some(ttft_ms) = outcome.ttft_ms {
            self.ttft
                .get_or_create(&OfPool { pool })
                .observe(ttft_ms / 1e3);
        }
    }

    /// Sets the gauges anew from what the pools hold; series of what is gone are gone.
    pub fn observe(&self, pools: &[(Arc<str>, usize, Vec<EndpointState>)]) {
        self.in_flight.clear();
        self.endpoints.clear();
        self.unknown_engines.clear();
        self.own.clear();
        self.foreign.clear();
        let mut left = ENDPOINTS_LABELLED_MAX;
        for (pool, in_flight, endpoints) in pools {
            // Pools that share a name add up.
            let name = || pool.to_string();
            let in_flight = gauge(*in_flight as u64);
            let of_pool = OfPool { pool: name() };
            self.in_flight.get_or_create(&of_pool).inc_by(in_flight);
            let suspect = endpoints
                .iter()
                .filter(|one| one.suspicion.is_some())
                .count();
            for (state, count) in [("healthy", endpoints.len() - suspect), ("suspect", suspect)] {
                let of_state = OfState {
                    pool: name(),
                    state,
                };
                let count = gauge(count as u64);
                self.endpoints.get_or_create(&of_state).inc_by(count);
            }
            for one in endpoints.iter().filter(|one| !one.engine_is_known) {
                let engine = one.engine.to_string();
                let of_engine = OfEngine { engine };
                self.unknown_engines.get_or_create(&of_engine).inc();
            }
            let shown = if **pool == *OTHER { 0 } else { left };
            for one in endpoints.iter().take(shown) {
                left -= 1;
                let labels = OfEndpoint {
                    pool: name(),
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

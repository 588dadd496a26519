//! What this edge counts: streams, bodies that were cut short, headers that were stripped, messages that were ignored.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

use super::modes::Follow;

/// The edge's metrics; every label value is of a closed set.
#[derive(Clone, Debug)]
pub struct EdgeMetrics {
    streams: Family<Followed, Counter>,
    bodies_cut: Family<Reason, Counter>,
    pub(super) body_bytes: Gauge,
    no_pool: Counter,
    late_picks: Counter,
    control_headers: Counter,
    ignored: Family<Reason, Counter>,
    broken: Counter,
    watches: Family<Reason, Counter>,
    catalogues: Counter,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Followed {
    followed: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reason {
    reason: &'static str,
}

/// Why a pick was made on the beginning of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cut {
    /// It is longer than is held or scanned.
    Limit,
    /// Bodies took more memory together than they may.
    Budget,
    /// Its rest was long in coming.
    Stalled,
}

/// Why a message was not acted upon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ignored {
    /// Of a kind that is not known.
    Unknown,
    /// Again, or after the end.
    Unexpected,
}

/// Why a pick and its watching stream did not meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Missed {
    /// No watching stream came for a pick.
    NotWatched,
    /// A watching stream came for a request that was not picked here.
    NotPicked,
}

impl EdgeMetrics {
    /// Registers the metrics.
    #[must_use]
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            streams: Family::default(),
            bodies_cut: Family::default(),
            body_bytes: Gauge::default(),
            no_pool: Counter::default(),
            late_picks: Counter::default(),
            control_headers: Counter::default(),
            ignored: Family::default(),
            broken: Counter::default(),
            watches: Family::default(),
            catalogues: Counter::default(),
        };
        let m = &metrics;
        registry.register(
            "pointsman_streams",
            "Requests asked about, by how their end is known",
            m.streams.clone(),
        );
        registry.register(
            "pointsman_bodies_cut",
            "Picks made on the beginning of a body, by why it was not held whole",
            m.bodies_cut.clone(),
        );
        registry.register_with_unit(
            "pointsman_bodies_held",
            "Bodies of requests that wait for their pick",
            Unit::Bytes,
            m.body_bytes.clone(),
        );
        registry.register(
            "pointsman_no_pool",
            "Requests that no pool answers to",
            m.no_pool.clone(),
        );
        registry.register(
            "pointsman_late_picks",
            "Picks that took longer than --pick-budget",
            m.late_picks.clone(),
        );
        registry.register(
            "pointsman_control_headers_stripped",
            "Control headers that clients sent and that did not go on",
            m.control_headers.clone(),
        );
        registry.register(
            "pointsman_messages_ignored",
            "Messages of proxies that were not acted upon",
            m.ignored.clone(),
        );
        registry.register(
            "pointsman_streams_broken",
            "Streams that ended with a message that could not be read",
            m.broken.clone(),
        );
        registry.register(
            "pointsman_watches_missed",
            "Picks and watching streams that did not meet",
            m.watches.clone(),
        );
        registry.register(
            "pointsman_catalogues",
            "Requests for the list of models that were answered here",
            m.catalogues.clone(),
        );
        metrics.begin_at_zero();
        metrics
    }

    /// Makes every series be there from the start, so that a rate can be taken over the first of each.
    fn begin_at_zero(&self) {
        for followed in ["full", "watched", "watch_filter", "released", "observed"] {
            self.streams.get_or_create(&Followed { followed }).inc_by(0);
        }
        for (family, reasons) in [
            (&self.bodies_cut, ["limit", "budget", "stalled"].as_slice()),
            (&self.ignored, &["unknown", "unexpected"]),
            (&self.watches, &["not_watched", "not_picked"]),
        ] {
            for reason in reasons {
                family.get_or_create(&Reason { reason }).inc_by(0);
            }
        }
    }

    pub(super) fn on_decided(&self, follow: Option<Follow>) {
        let followed = match follow {
            Some(Follow::Full) => "full",
            Some(Follow::Watched) => "watched",
            Some(Follow::WatchFilter) => "watch_filter",
            Some(Follow::Released) => "released",
            None => "observed",
        };
        self.streams.get_or_create(&Followed { followed }).inc();
    }

    pub(super) fn on_cut(&self, cut: Cut) {
        let reason = match cut {
            Cut::Limit => "limit",
            Cut::Budget => "budget",
            Cut::Stalled => "stalled",
        };
        self.bodies_cut.get_or_create(&Reason { reason }).inc();
    }

    pub(super) fn on_no_pool(&self) {
        self.no_pool.inc();
    }

    pub(super) fn on_catalogue(&self) {
        self.catalogues.inc();
    }

    pub(super) fn on_late_pick(&self) {
        self.late_picks.inc();
    }

    pub(super) fn on_stripped(&self, headers: usize) {
        self.control_headers.inc_by(headers as u64);
    }

    pub(super) fn on_ignored(&self, ignored: Ignored) {
        let reason = match ignored {
            Ignored::Unknown => "unknown",
            Ignored::Unexpected => "unexpected",
        };
        self.ignored.get_or_create(&Reason { reason }).inc();
    }

    pub(super) fn on_broken(&self) {
        self.broken.inc();
    }

    pub(super) fn on_missed(&self, missed: Missed) {
        let reason = match missed {
            Missed::NotWatched => "not_watched",
            Missed::NotPicked => "not_picked",
        };
        self.watches.get_or_create(&Reason { reason }).inc();
    }
}

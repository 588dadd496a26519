//! What became of connections: counted, and the refused ones logged at a bounded rate.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use tracing::warn;

use super::{Connection, Refusal};

/// The least time between two lines about one kind of refusal: a proxy that is configured wrongly tries again
/// several times a second, and one line is as good as all of them.
const LOG_EVERY: Duration = Duration::from_secs(60);

/// Counts connections, and logs why some were refused.
#[derive(Debug, Default)]
pub struct Tally {
    begun: Family<OfConnection, Counter>,
    refused: Family<OfRefusal, Counter>,
    logged: Mutex<BTreeMap<&'static str, Logged>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfConnection {
    security: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfRefusal {
    reason: &'static str,
}

/// The last line about a kind of refusal.
#[derive(Debug)]
struct Logged {
    at: Instant,
    /// How many were refused since, without a line.
    since: u64,
}

impl Tally {
    /// Registers the metrics.
    #[must_use]
    pub fn register(registry: &mut Registry) -> Self {
        let tally = Self::default();
        registry.register(
            "pointsman_connections",
            "Connections for ext_proc that began, by what protects them",
            tally.begun.clone(),
        );
        registry.register(
            "pointsman_connections_refused",
            "Connections for ext_proc that did not begin, by why",
            tally.refused.clone(),
        );
        tally
    }

    /// One has begun.
    pub fn begun(&self, connection: &Connection) {
        let security = connection.security();
        self.begun.get_or_create(&OfConnection { security }).inc();
    }

    /// One was refused.
    pub fn refused(&self, now: Instant, peer: Option<SocketAddr>, refusal: &Refusal) {
        let reason = refusal.kind();
        self.refused.get_or_create(&OfRefusal { reason }).inc();
        if let Some(unlogged) = self.is_due(now, reason) {
            let peer = peer.map(tracing::field::display);
            let unlogged = (unlogged > 0).then_some(unlogged);
            warn!(peer, reason, unlogged, "{refusal}");
        }
    }

    /// How many of this kind were refused without a line since the last one, if another is due.
    fn is_due(&self, now: Instant, kind: &'static str) -> Option<u64> {
        let mut logged = self.logged.lock().expect("nobody panics while holding it");
        let fresh = Logged { at: now, since: 0 };
        match logged.get_mut(kind) {
            Some(last) if now.saturating_duration_since(last.at) < LOG_EVERY => {
                last.since += 1;
                None
            }
            Some(last) => Some(std::mem::replace(last, fresh).since),
            None => {
                logged.insert(kind, fresh);
                Some(0)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_of_refusal_is_logged_once_a_minute_with_how_many_were_not() {
        let tally = Tally::default();
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        for (seconds, kind, expected) in [
            (0, "slow", Some(0)),
            (0, "slow", None),
            (59, "slow", None),
            (59, "untrusted", Some(0)),
            (60, "slow", Some(2)),
            (61, "slow", None),
            (500, "slow", Some(1)),
        ] {
            let due = tally.is_due(after(seconds), kind);
            assert_eq!(due, expected, "{kind} after {seconds} s");
        }
    }
}

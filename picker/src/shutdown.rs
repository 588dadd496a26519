//! Shutdown and readiness: whether new work is welcome, and when the process is to end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::signal::unix::{SignalKind, signal};
use tracing::warn;

use crate::driver::Pools;

/// Whether this process is ready for new work. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Readiness {
    pools: Arc<Pools>,
    draining: Arc<AtomicBool>,
    /// Whether every endpoint was heard of at one time. Those that come later are not waited for.
    has_started: Arc<AtomicBool>,
}

/// Something that has to come to pass before the process is ready, or has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Guard {
    /// What it is.
    pub name: String,
    /// What is still missing; `None` if nothing is.
    pub missing: Option<String>,
}

impl Readiness {
    /// Ready once the sources of `pools` have answered and the endpoints known then were read, until draining begins.
    #[must_use]
    pub fn new(pools: Arc<Pools>) -> Self {
        Self {
            pools,
            draining: Arc::default(),
            has_started: Arc::default(),
        }
    }

    /// From here on, new work is not welcome.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::SeqCst);
    }

    /// Whether new work is welcome.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.guards().iter().all(|guard| guard.missing.is_none())
    }

    /// Everything that readiness waits for.
    #[must_use]
    pub fn guards(&self) -> Vec<Guard> {
        let draining = self.draining.load(Ordering::SeqCst);
        let mut guards = vec![Guard {
            name: "not draining".to_owned(),
            missing: draining.then(|| "the process was told to end".to_owned()),
        }];
        let sources = self.pools.sources().guards().into_iter();
        guards.extend(sources.map(|(name, missing)| Guard { name, missing }));
        let have_answered = guards[1..].iter().all(|guard| guard.missing.is_none());
        guards.push(self.first_readings(have_answered));
        guards
    }

    /// The first readings of all endpoints; once they are there, those of later endpoints are not waited for.
    fn first_readings(&self, sources_have_answered: bool) -> Guard {
        let guard = |missing| Guard {
            name: "first readings".to_owned(),
            missing,
        };
        if self.has_started.load(Ordering::SeqCst) {
            return guard(None);
        }
        let pools = self.pools.all();
        let unheard = pools.iter().map(|pool| (pool.unheard(), pool));
        if let Some((unheard, pool)) = unheard.max_by_key(|(unheard, _)| *unheard)
            && unheard > 0
        {
            let pool = pool.pool();
            return guard(Some(format!(
                "{unheard} endpoints of pool {pool} are not read yet"
            )));
        }
        self.has_started
            .store(sources_have_answered, Ordering::SeqCst);
        guard(None)
    }
}

/// Waits for SIGTERM or SIGINT; for ever where signals cannot be caught, which is logged.
pub async fn told_to_end() {
    let caught = signal(SignalKind::terminate())
        .and_then(|terminate| Ok((terminate, signal(SignalKind::interrupt())?)));
    let (mut terminate, mut interrupt) = match caught {
        Ok(signals) => signals,
        Err(error) => {
            warn!(%error, "signals cannot be caught; end the process by SIGKILL");
            return std::future::pending().await;
        }
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

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
    /// Ready once each of `pools` has endpoints that were read, until draining begins.
    #[must_use]
    pub fn new(pools: Arc<Pools>) -> Self {
        Self {
            pools,
            draining: Arc::default(),
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
        guards.extend(self.pools.all().into_iter().map(|handle| {
            let unheard = handle.unheard();
            Guard {
                name: format!("first readings of pool {}", handle.pool()),
                missing: (unheard > 0).then(|| format!("{unheard} endpoints are not read yet")),
            }
        }));
        guards
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

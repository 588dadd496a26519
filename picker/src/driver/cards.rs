//! The cards of a pool: what each of its servers lists under `/v1/models`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use picker_core::catalogue::{self, Card};
use picker_core::view::PoolView;

/// What servers list, by their addresses.
#[derive(Debug, Default)]
pub(super) struct Cards {
    lists: Mutex<BTreeMap<SocketAddr, Vec<Card>>>,
}

impl Cards {
    /// A server lists these.
    pub(super) fn set(&self, server: SocketAddr, cards: Vec<Card>) {
        self.lock().insert(server, cards);
    }

    /// No other servers than these are there.
    pub(super) fn retain(&self, servers: &BTreeSet<SocketAddr>) {
        self.lock().retain(|server, _| servers.contains(server));
    }

    /// What all list together, and the names that rewrites add.
    pub(super) fn merged(&self, view: &PoolView) -> Vec<Card> {
        catalogue::merge(self.lock().values().map(Vec::as_slice), view)
    }

    /// A thread that panicked while it held the lock has left whole lists.
    fn lock(&self) -> MutexGuard<'_, BTreeMap<SocketAddr, Vec<Card>>> {
        self.lists.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

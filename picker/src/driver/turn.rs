//! The endpoints of a pool in turn: where requests go while the pool's lock is not to be had.

use std::net::SocketAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use picker_core::action::Refusal;
use picker_core::event::Arrival;

use super::Refused;

/// The endpoints, read without a lock.
#[derive(Debug, Default)]
pub(super) struct Turn {
    addresses: ArcSwap<Vec<SocketAddr>>,
}

impl Turn {
    /// No other endpoints than these are there.
    pub(super) fn set(&self, addresses: Vec<SocketAddr>) {
        self.addresses.store(Arc::new(addresses));
    }

    /// The endpoint whose turn it is by the request's number, of those that the gateway allows, and after it those to try next.
    pub(super) fn next(&self, arrival: &Arrival) -> Result<Vec<SocketAddr>, Refused> {
        let all = self.addresses.load();
        let inside = |address: &&SocketAddr| {
            let subset = arrival.subset.as_ref();
            subset.is_none_or(|subset| subset.contains(**address))
        };
        let mut allowed: Vec<SocketAddr> = all.iter().filter(inside).copied().collect();
        if allowed.is_empty() {
            let refusal = if all.is_empty() {
                Refusal::NoEndpoints
            } else {
                Refusal::EmptySubset
            };
            let endpoints = all.len();
            return Err(Refused { refusal, endpoints });
        }
        let first = (arrival.key.0 % allowed.len() as u64) as usize;
        allowed.rotate_left(first);
        allowed.truncate(1 + arrival.fallbacks);
        Ok(allowed)
    }
}

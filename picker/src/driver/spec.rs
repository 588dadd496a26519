//! A pool as discovery describes it.

use std::sync::Arc;

use picker_core::endpoint::Endpoint;
use picker_core::route::{PoolKey, PoolRoute};
use picker_core::view::objective::Objective;
use picker_core::view::rewrite::Rewrite;

/// How one pool is configured from outside.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PoolSpec {
    /// The Service that the pool's `endpointPickerRef` names.
    pub service: Option<Arc<str>>,
    /// A listener that is this pool's alone.
    pub port: Option<u16>,
    /// Its endpoints.
    pub endpoints: Vec<Endpoint>,
    /// Its InferenceObjectives: how much its requests matter.
    pub objectives: Vec<Objective>,
    /// Its InferenceModelRewrites: which models its requests get.
    pub rewrites: Vec<Rewrite>,
}

impl PoolSpec {
    /// How calls for the pool are known.
    pub(super) fn route(&self, pool: &PoolKey) -> PoolRoute {
        let addresses = self.endpoints.iter().map(|endpoint| endpoint.address);
        PoolRoute {
            pool: pool.clone(),
            service: self.service.clone(),
            port: self.port,
            addresses: Arc::new(addresses.collect()),
        }
    }
}

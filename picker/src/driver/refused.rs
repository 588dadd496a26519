//! A request that goes nowhere, and why.

use picker_core::action::Refusal;
use picker_core::route::PoolKey;

/// A request that goes nowhere.
#[derive(Debug)]
pub struct Refused {
    /// Why.
    pub refusal: Refusal,
    /// The endpoints of the pool.
    pub endpoints: usize,
}

// === impl Refused ===

impl Refused {
    /// A refusal since the pool is not there (any more).
    #[must_use]
    pub fn without_endpoints() -> Self {
        Self {
            refusal: Refusal::NoEndpoints,
            endpoints: 0,
        }
    }

    /// The refusal in words, with what can be done about it.
    #[must_use]
    pub fn explain(&self, pool: &PoolKey) -> String {
        match self.refusal {
            Refusal::NoEndpoints => format!(
                "InferencePool {pool} has no endpoints: no model server is known that could serve this request; \
                 check the pool's endpoints file or selector"
            ),
            Refusal::EmptySubset => format!(
                "the gateway's subset hint leaves out all {} endpoints of InferencePool {pool}; \
                 check x-gateway-destination-endpoint-subset",
                self.endpoints
            ),
            Refusal::Overloaded { .. } => format!(
                "every endpoint of InferencePool {pool} that could serve this request has too much to do, and the request's \
                 priority is below 0: it gives way to others; ask again later, or give it an InferenceObjective of priority 0 or more"
            ),
        }
    }
}

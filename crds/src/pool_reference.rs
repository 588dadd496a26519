//! The reference by which objectives and rewrites name the InferencePool that they are of.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::syntax::{DNS_SUBDOMAIN_OR_EMPTY, KIND};

/// An InferencePool in the same namespace.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct PoolReference {
    /// The API group.
    #[serde(default = "pool_group")]
    #[schemars(length(max = 253), regex(pattern = DNS_SUBDOMAIN_OR_EMPTY))]
    pub group: String,
    /// The kind.
    #[serde(default = "pool_kind")]
    #[schemars(length(min = 1, max = 63), regex(pattern = KIND))]
    pub kind: String,
    /// The name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

fn pool_group() -> String {
    "inference.networking.k8s.io".to_owned()
}

fn pool_kind() -> String {
    "InferencePool".to_owned()
}

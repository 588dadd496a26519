//! `InferenceObjective`, in `llm-d.ai/v1alpha2` and in the older group: how important the requests are that name it.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::CustomResource;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize};

use crate::pool_reference::PoolReference;
use crate::syntax;

/// How important requests of one kind are among all of a pool.
#[derive(CustomResource, JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "llm-d.ai",
    version = "v1alpha2",
    kind = "InferenceObjective",
    namespaced,
    status = "InferenceObjectiveStatus",
    derive = "PartialEq",
    doc = "How important the requests are that name this object.",
    annotation("llm-d.ai/bundle-version", "main-dev"),
    printcolumn = r#"{"name": "Inference Pool", "type": "string", "jsonPath": ".spec.poolRef.name"}"#,
    printcolumn = r#"{"name": "Priority", "type": "string", "jsonPath": ".spec.priority"}"#,
    printcolumn = r#"{"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct InferenceObjectiveSpec {
    /// The pool, in the same namespace.
    pub pool_ref: PoolReference,
    /// Higher goes first; absent means 0; below 0 may be refused when the pool is full.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<i32>,
}

/// The same in the group where it began.
#[derive(CustomResource, JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "inference.networking.x-k8s.io",
    version = "v1alpha2",
    kind = "InferenceObjective",
    root = "LegacyInferenceObjective",
    namespaced,
    status = "InferenceObjectiveStatus",
    derive = "PartialEq",
    doc = "How important the requests are that name this object.",
    annotation("inference.networking.k8s.io/bundle-version", "v1.4.0"),
    printcolumn = r#"{"name": "Inference Pool", "type": "string", "jsonPath": ".spec.poolRef.name"}"#,
    printcolumn = r#"{"name": "Priority", "type": "string", "jsonPath": ".spec.priority"}"#,
    printcolumn = r#"{"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}"#
)]
#[serde(transparent)]
pub struct LegacyInferenceObjectiveSpec(pub InferenceObjectiveSpec);

/// What a controller says of an objective; upstream's picker says nothing, and neither does this one.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
pub struct InferenceObjectiveStatus {
    /// Accepted; the default names `Ready`, as upstream's does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "conditions")]
    pub conditions: Option<Vec<Condition>>,
}

fn conditions(generator: &mut SchemaGenerator) -> Schema {
    syntax::conditions_pending(generator, "Ready")
}

impl From<LegacyInferenceObjective> for InferenceObjective {
    fn from(old: LegacyInferenceObjective) -> Self {
        Self {
            metadata: old.metadata,
            spec: old.spec.0,
            status: old.status,
        }
    }
}

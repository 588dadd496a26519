//! `InferenceModelRewrite`, in `llm-d.ai/v1alpha2` and in the older group: which model a request for another one gets.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::CustomResource;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize};

use crate::pool_reference::PoolReference;
use crate::syntax;

/// Rules by which the models that requests ask for are replaced.
#[derive(CustomResource, JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "llm-d.ai",
    version = "v1alpha2",
    kind = "InferenceModelRewrite",
    namespaced,
    status = "InferenceModelRewriteStatus",
    derive = "PartialEq",
    doc = "Rules by which the models that requests ask for are replaced.",
    annotation("llm-d.ai/bundle-version", "main-dev"),
    printcolumn = r#"{"name": "Inference Pool", "type": "string", "jsonPath": ".spec.poolRef.name"}"#,
    printcolumn = r#"{"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct InferenceModelRewriteSpec {
    /// The pool, in the same namespace.
    pub pool_ref: PoolReference,
    /// The rules; an exact match goes before a rule for every model.
    pub rules: Vec<RewriteRule>,
}

/// The same in the group where it began.
#[derive(CustomResource, JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "inference.networking.x-k8s.io",
    version = "v1alpha2",
    kind = "InferenceModelRewrite",
    root = "LegacyInferenceModelRewrite",
    namespaced,
    status = "InferenceModelRewriteStatus",
    derive = "PartialEq",
    doc = "Rules by which the models that requests ask for are replaced.",
    annotation("inference.networking.k8s.io/bundle-version", "v1.4.0"),
    printcolumn = r#"{"name": "Inference Pool", "type": "string", "jsonPath": ".spec.poolRef.name"}"#,
    printcolumn = r#"{"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}"#
)]
#[serde(transparent)]
pub struct LegacyInferenceModelRewriteSpec(pub InferenceModelRewriteSpec);

/// One rule.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
pub struct RewriteRule {
    /// The models that it is about; every model if there are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub matches: Option<Vec<RewriteMatch>>,
    /// What they become; one is chosen by weight.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub targets: Option<Vec<RewriteTarget>>,
}

/// What a rule is about.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct RewriteMatch {
    /// The model that a request asks for.
    pub model: ModelMatch,
}

/// The name of a model.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct ModelMatch {
    /// How the value is compared.
    #[serde(default, rename = "type")]
    pub kind: MatchKind,
    /// The name.
    #[schemars(length(min = 1))]
    pub value: String,
}

/// How a name is compared.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MatchKind {
    #[default]
    #[doc = "Letter by letter."]
    Exact,
}

/// What a model becomes.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct RewriteTarget {
    /// The name that the server is asked for.
    pub model_rewrite: String,
    /// Its share of the requests, among the weights of all targets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub weight: Option<i32>,
}

/// What a controller says of a rewrite; upstream's picker says nothing, and neither does this one.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
pub struct InferenceModelRewriteStatus {
    /// Accepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "conditions")]
    pub conditions: Option<Vec<Condition>>,
}

fn conditions(generator: &mut SchemaGenerator) -> Schema {
    syntax::conditions_pending(generator, "Accepted")
}

impl From<LegacyInferenceModelRewrite> for InferenceModelRewrite {
    fn from(old: LegacyInferenceModelRewrite) -> Self {
        Self {
            metadata: old.metadata,
            spec: old.spec.0,
            status: old.status,
        }
    }
}

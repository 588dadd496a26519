//! `InferencePool`, `inference.networking.k8s.io/v1`: pods that serve a model, and who picks among them.
#![expect(
    unreachable_pub,
    reason = "KubeSchema repeats a struct, with its visibility, inside a function"
)]

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use crate::syntax::{self, CONTROLLER_NAME, DNS_LABEL, DNS_SUBDOMAIN_OR_EMPTY, KIND};

pub mod v1alpha2;

/// What an InferencePool asks for: which pods serve, on which ports, and who picks among them.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "inference.networking.k8s.io",
    version = "v1",
    kind = "InferencePool",
    namespaced,
    shortname = "infpool",
    status = "InferencePoolStatus",
    derive = "PartialEq",
    doc = "Pods that serve a model, and the endpoint picker that chooses among them.",
    annotation(
        "api-approved.kubernetes.io",
        "https://github.com/kubernetes-sigs/gateway-api-inference-extension/pull/1173"
    ),
    annotation("inference.networking.k8s.io/bundle-version", "main-dev")
)]
#[serde(rename_all = "camelCase")]
pub struct InferencePoolSpec {
    /// The pods of the pool, in the pool's own namespace.
    pub selector: LabelSelector,
    /// The ports that serve on every pod: one for each data-parallel rank.
    #[schemars(length(min = 1, max = 8))]
    #[x_kube(
        merge_strategy = ListMerge::Atomic,
        validation = Rule::new("self.all(p1, self.exists_one(p2, p1.number==p2.number))")
            .message("port number must be unique"),
    )]
    pub target_ports: Vec<Port>,
    /// What the gateway speaks to the pods.
    #[serde(default)]
    pub app_protocol: AppProtocol,
    /// Who picks an endpoint; without it the gateway chooses by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint_picker_ref: Option<EndpointPickerRef>,
}

/// Which pods are meant: those that have every label. There are no expressions.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct LabelSelector {
    /// Label names and values.
    #[schemars(schema_with = "labels")]
    pub match_labels: BTreeMap<String, String>,
}

/// A port of a pod or a Service.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub struct Port {
    /// From 1 to 65535.
    #[schemars(with = "i32", range(min = 1, max = 65535))]
    pub number: u16,
}

/// What the gateway speaks to the pods.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AppProtocol {
    #[default]
    #[serde(rename = "http")]
    #[doc = "HTTP/1.1 in plain text."]
    Http,
    #[serde(rename = "kubernetes.io/h2c")]
    #[doc = "HTTP/2 in plain text, with prior knowledge."]
    H2c,
}

/// The endpoint picker of a pool.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.kind != 'Service' || has(self.port)")
    .message("port is required when kind is 'Service' or unspecified (defaults to 'Service')"))]
pub struct EndpointPickerRef {
    /// The API group; empty for a Service.
    #[serde(default)]
    #[schemars(length(min = 0, max = 253), regex(pattern = DNS_SUBDOMAIN_OR_EMPTY))]
    pub group: String,
    /// The kind, a Service unless it says otherwise. A Service of type ExternalName is not supported.
    #[serde(default = "service")]
    #[schemars(length(min = 1, max = 63), regex(pattern = KIND))]
    pub kind: String,
    /// The name, in the pool's own namespace.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Where the picker listens; a Service needs one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<Port>,
    /// What the gateway does while the picker does not answer.
    #[serde(default)]
    pub failure_mode: FailureMode,
}

/// What the gateway does while the picker does not answer.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FailureMode {
    #[doc = "Any endpoint of the pool serves the request."]
    FailOpen,
    #[default]
    #[doc = "The request is refused."]
    FailClose,
}

/// What gateways say of a pool; an endpoint picker only reads it.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct InferencePoolStatus {
    /// One entry for each Gateway that routes to the pool; its controller writes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub parents: Option<Vec<ParentStatus>>,
}

/// What one Gateway says of a pool.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ParentStatus {
    /// The Gateway.
    pub parent_ref: ParentReference,
    /// Who wrote the entry, as `domain/path`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), regex(pattern = CONTROLLER_NAME))]
    pub controller_name: Option<String>,
    /// Accepted, ResolvedRefs, Exported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "syntax::conditions")]
    pub conditions: Option<Vec<Condition>>,
}

/// A Gateway, or what stands in for one.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ParentReference {
    /// The API group.
    #[serde(default = "gateway_group")]
    #[schemars(length(min = 0, max = 253), regex(pattern = DNS_SUBDOMAIN_OR_EMPTY))]
    pub group: String,
    /// The kind.
    #[serde(default = "gateway")]
    #[schemars(length(min = 1, max = 63), regex(pattern = KIND))]
    pub kind: String,
    /// The name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// The namespace; the pool's own if it is absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63), regex(pattern = DNS_LABEL))]
    pub namespace: Option<String>,
}

fn service() -> String {
    "Service".to_owned()
}

fn gateway_group() -> String {
    "gateway.networking.k8s.io".to_owned()
}

fn gateway() -> String {
    "Gateway".to_owned()
}

fn labels(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "minProperties": 1,
        "maxProperties": 64,
        "additionalProperties": syntax::label_value(),
    })
}

//! `InferencePool`, `inference.networking.x-k8s.io/v1alpha2`: the pool as it was before v1, read as a v1 pool.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::CustomResource;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    AppProtocol, EndpointPickerRef, FailureMode, LabelSelector, ParentReference, ParentStatus, Port,
};
use crate::syntax::{self, DNS_SUBDOMAIN_OR_EMPTY, KIND};

/// Where a picker that is a Service listens when the pool does not say.
const PICKER_PORT: u16 = 9002;

/// What a pool of v1alpha2 asks for.
#[derive(CustomResource, JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "inference.networking.x-k8s.io",
    version = "v1alpha2",
    kind = "InferencePool",
    namespaced,
    shortname = "xinfpool",
    status = "InferencePoolStatus",
    derive = "PartialEq",
    doc = "Pods that serve a model, and the endpoint picker that chooses among them."
)]
#[serde(rename_all = "camelCase")]
pub struct InferencePoolSpec {
    /// The labels that every pod of the pool has, in the pool's own namespace.
    #[schemars(schema_with = "labels")]
    pub selector: BTreeMap<String, String>,
    /// The port that serves on every pod.
    #[schemars(with = "i32", range(min = 1, max = 65535))]
    pub target_port_number: u16,
    /// Who picks an endpoint.
    pub extension_ref: ExtensionRef,
}

/// The endpoint picker of a pool.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ExtensionRef {
    /// The API group; empty for a Service.
    #[serde(default)]
    #[schemars(length(max = 253), regex(pattern = DNS_SUBDOMAIN_OR_EMPTY))]
    pub group: String,
    /// The kind, a Service unless it says otherwise.
    #[serde(default = "super::service")]
    #[schemars(length(min = 1, max = 63), regex(pattern = KIND))]
    pub kind: String,
    /// The name, in the pool's own namespace.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Where the picker listens; for a Service, 9002 unless it says otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<i32>", range(min = 1, max = 65535))]
    pub port_number: Option<u16>,
    /// What the gateway does while the picker does not answer.
    #[serde(default)]
    pub failure_mode: FailureMode,
}

/// What gateways say of a pool.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
pub struct InferencePoolStatus {
    /// One entry for each Gateway; one of kind `Status`, name `default`, stands for none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub parent: Option<Vec<PoolStatus>>,
}

/// What one Gateway says of a pool.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct PoolStatus {
    /// The Gateway.
    pub parent_ref: ParentReference,
    /// Accepted, ResolvedRefs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "conditions")]
    pub conditions: Option<Vec<Condition>>,
}

/// The status of a pool that no Gateway has said anything of.
pub(crate) fn status_default() -> Value {
    json!({
        "parent": [{
            "parentRef": {"kind": "Status", "name": "default"},
            "conditions": [syntax::pending("Accepted")],
        }],
    })
}

fn conditions(generator: &mut SchemaGenerator) -> Schema {
    syntax::conditions_pending(generator, "Accepted")
}

fn labels(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "object", "additionalProperties": syntax::label_value()})
}

impl From<InferencePool> for super::InferencePool {
    /// The same pool in the words of v1: one target port, HTTP/1.1 to the pods, and 9002 where a Service has no port.
    fn from(old: InferencePool) -> Self {
        let picker = old.spec.extension_ref;
        let inferred = (picker.kind == super::service()).then_some(PICKER_PORT);
        let port = picker.port_number.or(inferred);
        Self {
            metadata: old.metadata,
            spec: super::InferencePoolSpec {
                selector: LabelSelector {
                    match_labels: old.spec.selector,
                },
                target_ports: vec![Port {
                    number: old.spec.target_port_number,
                }],
                app_protocol: AppProtocol::Http,
                endpoint_picker_ref: Some(EndpointPickerRef {
                    group: picker.group,
                    kind: picker.kind,
                    name: picker.name,
                    port: port.map(|number| Port { number }),
                    failure_mode: picker.failure_mode,
                }),
            },
            status: old.status.map(status),
        }
    }
}

fn status(old: InferencePoolStatus) -> super::InferencePoolStatus {
    let of_gateway = |one: &PoolStatus| one.parent_ref.kind != "Status";
    let parents = old
        .parent
        .unwrap_or_default()
        .into_iter()
        .filter(of_gateway);
    let parents = parents.map(|one| ParentStatus {
        parent_ref: one.parent_ref,
        controller_name: None,
        conditions: one.conditions,
    });
    super::InferencePoolStatus {
        parents: Some(parents.collect()),
    }
}

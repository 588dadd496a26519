//! The objects around a pool, as plain values: InferencePools, Services, and what makes pods.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Deserialize;

use super::command::Engine;
use crate::route::PoolKey;
use crate::route::object::{Metadata, ObjectKey};

/// Labels by name.
pub type Labels = BTreeMap<Arc<str>, Arc<str>>;

/// An InferencePool.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Pool {
    /// Its name.
    pub metadata: Metadata,
    /// What it asks for.
    pub spec: PoolSpec,
}

/// What an InferencePool asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PoolSpec {
    /// Its pods.
    pub selector: PoolSelector,
    /// The ports that serve on each pod.
    pub target_ports: Vec<PortNumber>,
    /// The picker.
    pub endpoint_picker_ref: Option<PickerRef>,
}

/// The pods of a pool: those that have every label.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PoolSelector {
    /// Labels by value.
    pub match_labels: Labels,
}

/// The picker of a pool.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PickerRef {
    /// The API group; empty for a Service.
    #[serde(default)]
    pub group: Arc<str>,
    /// The kind.
    #[serde(default = "service")]
    pub kind: Arc<str>,
    /// The name, in the pool's namespace.
    pub name: Arc<str>,
    /// The port.
    #[serde(default)]
    pub port: Option<PortNumber>,
    /// What a gateway does while the picker does not answer.
    #[serde(default)]
    pub failure_mode: FailureMode,
}

fn service() -> Arc<str> {
    "Service".into()
}

/// A port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub struct PortNumber {
    /// Its number.
    pub number: u16,
}

/// What a gateway does while the picker does not answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub enum FailureMode {
    /// Any pod of the pool serves the request.
    FailOpen,
    /// The request is refused.
    #[default]
    FailClose,
}

/// A Service.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Service {
    /// Its name.
    pub metadata: Metadata,
    /// What it asks for.
    #[serde(default)]
    pub spec: ServiceSpec,
}

/// What a Service asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServiceSpec {
    /// `ExternalName`, or one of the types that lead to pods.
    #[serde(rename = "type")]
    pub kind: Arc<str>,
    /// The labels of the pods it leads to; none if somebody else says where it leads.
    pub selector: Labels,
    /// Its ports.
    pub ports: Vec<ServicePort>,
}

/// A port of a Service.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServicePort {
    /// The port that clients call.
    pub port: u16,
    /// The port of the pods, the same one if absent.
    #[serde(default)]
    pub target_port: Option<TargetPort>,
    /// What it speaks.
    #[serde(default)]
    pub app_protocol: Option<Arc<str>>,
}

/// A port of pods.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum TargetPort {
    /// By its number.
    Number(u16),
    /// By the name that a container gives it.
    Name(Arc<str>),
}

/// A pod, or what makes pods that are alike.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Workload {
    /// The kind: Pod, Deployment, and so on.
    pub kind: Arc<str>,
    /// Its name.
    pub metadata: Metadata,
    /// How many pods there are to be.
    pub replicas: u32,
    /// The labels of the pods.
    pub labels: Labels,
    /// The annotations of the pods.
    pub annotations: Labels,
    /// What runs in a pod.
    pub containers: Vec<Container>,
    /// What the cluster says of a pod; nothing of one that is only written down.
    pub state: Option<PodState>,
}

/// What the cluster says of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodState {
    /// Why it is not ready, if it is not.
    pub unready: Option<Arc<str>>,
    /// Why its metrics could not be had, by port, where that was tried.
    pub unread: BTreeMap<u16, Arc<str>>,
}

/// A container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Container {
    /// Its name.
    pub name: Arc<str>,
    /// Its image.
    pub image: Arc<str>,
    /// What takes the place of the image's entry point.
    pub command: Vec<Arc<str>>,
    /// Its arguments.
    pub args: Vec<Arc<str>>,
    /// Its environment.
    pub env: Vec<Variable>,
    /// The ports that it says it listens on.
    pub ports: Vec<ContainerPort>,
}

/// A variable of the environment.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Variable {
    /// Its name.
    pub name: Arc<str>,
    /// Its value, if it stands there.
    #[serde(default)]
    pub value: Option<Arc<str>>,
}

/// A port that a container says it listens on.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ContainerPort {
    /// Its name.
    #[serde(default)]
    pub name: Arc<str>,
    /// Its number.
    pub container_port: u16,
}

impl Pool {
    /// Its name.
    #[must_use]
    pub fn key(&self) -> PoolKey {
        PoolKey {
            namespace: self.metadata.namespace.clone(),
            name: self.metadata.name.clone(),
        }
    }

    /// The Service and port by which calls for the pool are known.
    pub(super) fn picker(&self) -> Option<(ObjectKey, u16)> {
        let picker = self.spec.endpoint_picker_ref.as_ref()?;
        let service = ObjectKey {
            namespace: self.metadata.namespace.clone(),
            name: picker.name.clone(),
        };
        Some((service, picker.port.map_or(0, |port| port.number)))
    }

    /// Whether pods of that workload are in the pool.
    #[must_use]
    pub fn selects(&self, workload: &Workload) -> bool {
        let labels = &self.spec.selector.match_labels;
        self.metadata.namespace == workload.metadata.namespace && workload.has(labels)
    }
}

impl Service {
    /// Whether it leads to pods of that workload.
    #[must_use]
    pub fn selects(&self, workload: &Workload) -> bool {
        self.metadata.namespace == workload.metadata.namespace && workload.has(&self.spec.selector)
    }
}

impl Workload {
    /// Whether its pods have every one of these labels, of which there has to be one.
    fn has(&self, labels: &Labels) -> bool {
        let has = |(name, value)| self.labels.get(name) == Some(value);
        !labels.is_empty() && labels.iter().all(has)
    }

    /// Whether a container of it starts an engine that is known.
    #[must_use]
    pub fn is_model_server(&self) -> bool {
        let mut containers = self.containers.iter();
        containers.any(|it| Engine::of(it).is_some())
    }

    /// Its kind and name.
    pub(super) fn title(&self) -> String {
        format!("{} {}", self.kind, self.metadata.key())
    }
}

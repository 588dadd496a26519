//! Pods and what makes them, read from objects of any kind that has a pod template.

use std::collections::BTreeMap;
use std::sync::Arc;

use picker_core::diagnosis::object::{Container, Labels, PodState, Workload};
use picker_core::route::object::Metadata;
use serde::Deserialize;
use serde_json::Value;

use super::{Document, ManifestError};

/// Where objects keep the templates of their pods, and the number of pods.
const TEMPLATES: &[(&str, &str)] = &[
    ("/spec/template", "/spec/replicas"),
    (
        "/spec/leaderWorkerTemplate/leaderTemplate",
        "/spec/replicas",
    ),
    (
        "/spec/leaderWorkerTemplate/workerTemplate",
        "/spec/replicas",
    ),
];

#[derive(Deserialize)]
struct Owner {
    metadata: Metadata,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Template {
    metadata: TemplateMetadata,
    spec: TemplateSpec,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct TemplateMetadata {
    labels: Labels,
    annotations: Labels,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct TemplateSpec {
    containers: Vec<Container>,
    /// Sidecars among them go on running.
    init_containers: Vec<InitContainer>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct InitContainer {
    #[serde(default)]
    restart_policy: Option<Arc<str>>,
    #[serde(flatten)]
    container: Container,
}

/// The workloads that an object is or makes: none if it makes no pods.
pub(crate) fn of(document: &Document) -> Result<Vec<Workload>, ManifestError> {
    if document.group().is_empty() && document.kind() == "Pod" {
        return of_pod(document);
    }
    let mut workloads = Vec::new();
    for (template, replicas) in TEMPLATES {
        let Some(found) = document.object.pointer(template) else {
            continue;
        };
        if found["spec"]["containers"].is_array() {
            let count = document.object.pointer(replicas).and_then(Value::as_u64);
            let mut workload = read(document, found.clone(), template)?;
            workload.replicas = count.map_or(1, |it| u32::try_from(it).unwrap_or(u32::MAX));
            workloads.push(workload);
        }
    }
    Ok(workloads)
}

fn of_pod(document: &Document) -> Result<Vec<Workload>, ManifestError> {
    let status = &document.object["status"];
    if matches!(status["phase"].as_str(), Some("Succeeded" | "Failed"))
        || !document.object["metadata"]["deletionTimestamp"].is_null()
    {
        return Ok(Vec::new());
    }
    let mut pod = read(document, document.object.clone(), "")?;
    pod.replicas = 1;
    let conditions = status["conditions"].as_array();
    pod.state = conditions.map(|conditions| PodState {
        unready: unready(status, conditions),
        unread: BTreeMap::new(),
    });
    Ok(vec![pod])
}

/// Why a pod is not ready, in the words of its status.
fn unready(status: &Value, conditions: &[Value]) -> Option<Arc<str>> {
    let ready = conditions.iter().find(|one| one["type"] == "Ready");
    if ready.is_some_and(|one| one["status"] == "True") {
        return None;
    }
    let containers = status["containerStatuses"].as_array();
    let waiting = containers.into_iter().flatten().find_map(|one| {
        let state = &one["state"]["waiting"];
        let reason = state["reason"].as_str()?;
        Some(format!("{} waits: {reason}", one["name"].as_str()?))
    });
    let unscheduled = conditions.iter().find_map(|one| {
        let is_false = one["type"] == "PodScheduled" && one["status"] == "False";
        let message = one["message"].as_str().filter(|_| is_false)?;
        Some(format!("not scheduled: {message}"))
    });
    let told = ready.and_then(|one| one["message"].as_str());
    let why = waiting
        .or(unscheduled)
        .or_else(|| told.map(str::to_owned))
        .unwrap_or_else(|| "its condition Ready is not True".to_owned());
    Some(why.into())
}

fn read(document: &Document, template: Value, at: &str) -> Result<Workload, ManifestError> {
    let owner: Owner = document.read_as()?;
    let inner = Document {
        place: document.place.clone(),
        object: template,
    };
    let read: Template = inner.read_as().map_err(|error| match error {
        ManifestError::Field(place, path, why, _) => {
            let path = format!("{}.{path}", at.trim_start_matches('/').replace('/', "."));
            let remedy = format!("correct {} {}", document.kind(), document.name());
            ManifestError::Field(place, path.trim_start_matches('.').to_owned(), why, remedy)
        }
        other => other,
    })?;
    let mut containers = read.spec.containers;
    let sidecars = read.spec.init_containers.into_iter();
    let sidecars = sidecars.filter(|it| it.restart_policy.as_deref() == Some("Always"));
    containers.extend(sidecars.map(|it| it.container));
    Ok(Workload {
        kind: document.kind().into(),
        metadata: owner.metadata,
        replicas: 1,
        labels: read.metadata.labels,
        annotations: read.metadata.annotations,
        containers,
        state: None,
    })
}

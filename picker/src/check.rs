//! `pointsman check`: whether routes, pools, pickers and pods fit together, in a cluster or in manifests.

mod objects;
mod probe;
mod report;

use std::sync::Arc;

use picker_core::diagnosis::{Finding, Kind, Places, Reason};
use picker_core::route::object::Metadata;
use serde_json::{Value, json};
use thiserror::Error;

pub use self::report::Report;

use self::objects::Objects;
use crate::discovery::listing::{self, Listing, ListingError};
use crate::manifest::{self, Document, ManifestError, Manifests, Place};
use crate::settings::Check;

/// Why nothing can be said.
#[derive(Debug, Error)]
pub enum CheckError {
    /// A manifest cannot be read.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// The cluster cannot be asked.
    #[error(transparent)]
    Cluster(#[from] ListingError),
}

/// Looks at manifests, or at a cluster if none are given.
///
/// # Errors
/// [`CheckError`]; what is wrong with objects that can be read is in the report.
pub async fn check(settings: &Check) -> Result<Report, CheckError> {
    if settings.manifests.is_empty() {
        let namespaces = &settings.namespaces;
        let listing = listing::list(settings.kubeconfig.as_deref(), namespaces).await?;
        return Ok(of_cluster(listing, settings).await);
    }
    let read = manifest::read(&settings.manifests)?;
    Ok(of_manifests(read, &settings.namespace, settings.complete)?)
}

/// Looks at manifests; those that name no namespace are of `namespace`. If they are `complete`, what they refer to and do
/// not contain is missing.
///
/// # Errors
/// [`ManifestError`].
pub fn of_manifests(
    read: Manifests,
    namespace: &str,
    complete: bool,
) -> Result<Report, ManifestError> {
    let mut objects = Objects::default();
    for mut document in read.documents {
        if document.namespace().is_none() && document.object["metadata"].is_object() {
            document.object["metadata"]["namespace"] = json!(namespace);
        }
        objects.add(&document)?;
    }
    let passed = |place: &Place| format!("{place}: it is no object of Kubernetes");
    let mut unchecked: Vec<String> = read.others.iter().map(passed).collect();
    unchecked.extend(objects.complete(complete));
    let findings = objects.fleet.findings();
    let Objects { places, counts, .. } = objects;
    Ok(Report::new(findings, &places, unchecked, counts))
}

async fn of_cluster(listing: Listing, settings: &Check) -> Report {
    let mut objects = Objects::default();
    let mut addresses: Vec<Option<Arc<str>>> = Vec::new();
    let mut findings = Vec::new();
    for object in listing.objects {
        let document = Document {
            place: Place {
                file: "the cluster".into(),
                document: 1,
            },
            object,
        };
        if let Err(error) = objects.add(&document) {
            findings.push(unreadable(&document, error));
        }
        let ip = document.object["status"]["podIP"].as_str().map(Arc::from);
        addresses.resize(objects.fleet.workloads.len(), ip);
    }
    let places = match &*settings.namespaces {
        [] => Places::Every,
        some => Places::These(some.iter().map(|it| it.as_str().into()).collect()),
    };
    for kind in &listing.complete {
        if let Some(kind) = known_kind(kind) {
            objects.fleet.known.add(kind, places.clone());
        }
    }
    let mut unchecked: Vec<String> = Vec::new();
    for (kind, right) in listing.refused {
        unchecked.push(format!("{kind}s may not be listed: {right}"));
    }
    if settings.probe {
        let address = |index: usize| addresses.get(index).cloned().flatten();
        probe::probe(&mut objects.fleet, address).await;
    }
    objects.fleet.learn_served();
    findings.extend(objects.fleet.findings());
    Report::new(findings, &Default::default(), unchecked, objects.counts)
}

fn known_kind(kind: &str) -> Option<Kind> {
    Some(match kind {
        "InferencePool" => Kind::Pool,
        "InferencePoolImport" => Kind::Import,
        "Gateway" => Kind::Gateway,
        "Namespace" => Kind::Namespace,
        "Service" => Kind::Service,
        "EndpointSlice" => Kind::Slice,
        "Pod" => Kind::Workload,
        _ => return None,
    })
}

/// An object that the API server has and that cannot be read, which is that object's trouble alone.
fn unreadable(document: &Document, error: ManifestError) -> Finding {
    let (field, text) = match error {
        ManifestError::Field(_, field, why, _) => (field, why),
        other => (String::new(), other.to_string()),
    };
    let metadata = Metadata {
        name: document.name().into(),
        namespace: document.namespace().unwrap_or_default().into(),
        ..Metadata::default()
    };
    let fix = match document.object.pointer("/spec") {
        Some(Value::Object(_)) => format!("# correct {field}\nspec: {{}}"),
        _ => "spec: {}  # it has none".to_owned(),
    };
    let text = format!("it cannot be read: {text}");
    let kind = document.kind();
    Finding::of(kind, &metadata, &field, Reason::Unreadable, text, fix)
}

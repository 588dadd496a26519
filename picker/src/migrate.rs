//! `pointsman migrate`: from an Ingress, from routes to Services, or from values of llm-d's charts, to pools and routes.

mod annotation;
mod helm;
mod ingress;
mod notice;
mod pool;
mod route;

use std::fmt::Write;
use std::fs;

use picker_core::diagnosis::object::Service;
use serde_json::{Value, json};
use thiserror::Error;

pub use self::notice::{Notice, Outcome, table};

use self::notice::Notices;
use self::pool::Pools;
use crate::manifest::{self, Document, ManifestError, workload};
use crate::settings::Migrate;

/// Why nothing can be converted.
#[derive(Debug, Error)]
pub enum MigrateError {
    /// A manifest cannot be read.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// The file of values cannot be read.
    #[error("--helm-values {0}: {1}; give a file of YAML")]
    Values(String, String),
    /// The values are none of a chart that is known.
    #[error("--helm-values {0}: {1}")]
    Chart(String, String),
    /// There is nothing that could be converted.
    #[error(
        "there is neither an Ingress nor an HTTPRoute or GRPCRoute among the manifests; give those that stand in front of the model servers"
    )]
    Nothing,
    /// What was made cannot be written.
    #[error("the output: {0}")]
    Output(String),
}

/// What was made of the input.
#[derive(Debug, Default)]
pub struct Migrated {
    /// The objects, in the order to apply them.
    pub objects: Vec<Value>,
    /// What became of each part.
    pub notices: Vec<Notice>,
    /// What the picker's Deployment gets, a line each.
    pub settings: Vec<String>,
}

/// Converts what the settings name.
///
/// # Errors
/// [`MigrateError`].
pub fn migrate(settings: &Migrate) -> Result<Migrated, MigrateError> {
    let Some(file) = &settings.helm_values else {
        return of_manifests(manifest::read(&settings.manifests)?.documents, settings);
    };
    let name = file.display().to_string();
    let wrong = |why: String| MigrateError::Values(name.clone(), why);
    let text = fs::read_to_string(file).map_err(|error| wrong(error.to_string()))?;
    let values: Value = serde_saphyr::from_str(&text)
        .map_err(|error| wrong(error.without_snippet().to_string()))?;
    let mut notices = Notices::default();
    let release = settings.release.as_deref().unwrap_or_default();
    let (objects, lines) = helm::convert(&values, release, settings, &mut notices)
        .map_err(|why| MigrateError::Chart(name, why))?;
    Ok(Migrated {
        objects,
        notices: notices.0,
        settings: lines,
    })
}

fn of_manifests(
    mut documents: Vec<Document>,
    settings: &Migrate,
) -> Result<Migrated, MigrateError> {
    for document in &mut documents {
        if document.namespace().is_none() {
            document.object["metadata"]["namespace"] = json!(settings.namespace);
        }
    }
    let mut pools = Pools::new(settings);
    let (mut ingresses, mut routes) = (Vec::new(), Vec::new());
    for document in &documents {
        match (document.group(), document.kind()) {
            ("", "Service") => take_service(document, &mut pools)?,
            ("networking.k8s.io" | "extensions", "Ingress") => ingresses.push(document),
            ("gateway.networking.k8s.io", "HTTPRoute" | "GRPCRoute") => routes.push(document),
            _ => pools.workloads.extend(workload::of(document)?),
        }
    }
    if ingresses.is_empty() && routes.is_empty() {
        return Err(MigrateError::Nothing);
    }
    let mut notices = Notices::default();
    let mut made = ingress::convert(&ingresses, &settings.gateway, &mut pools, &mut notices)?;
    for document in routes {
        match route::convert(document, &mut pools, &mut notices) {
            Some(objects) => made.extend(objects),
            None => {
                let namespace = document.namespace().unwrap_or_default();
                let title = format!("{} {namespace}/{}", document.kind(), document.name());
                let text = "none of its backends was converted: it is not among the output";
                notices.left(&title, "", text);
            }
        }
    }
    // Pools that are there already go along, so that what comes out is whole.
    let is_pool = |it: &&Document| it.kind() == "InferencePool";
    let mut objects: Vec<Value> = documents
        .iter()
        .filter(is_pool)
        .map(|document| route::cleaned(document.object.clone()))
        .collect();
    objects.extend(pools.objects(&mut notices));
    objects.extend(made);
    Ok(Migrated {
        objects,
        notices: notices.0,
        settings: Vec::new(),
    })
}

fn take_service(document: &Document, pools: &mut Pools<'_>) -> Result<(), ManifestError> {
    let service: Service = document.read_as()?;
    let key = service.metadata.key();
    let ports = document.object["spec"]["ports"].as_array();
    for port in ports.into_iter().flatten() {
        let number = port["port"].as_u64().and_then(|it| u16::try_from(it).ok());
        if let (Some(name), Some(number)) = (port["name"].as_str(), number) {
            pools
                .port_names
                .insert((key.clone(), name.to_owned()), number);
        }
    }
    pools.services.insert(key, service);
    Ok(())
}

impl Migrated {
    /// The objects as YAML documents, and the picker's settings as a comment.
    ///
    /// # Errors
    /// [`MigrateError::Output`].
    pub fn yaml(&self) -> Result<String, MigrateError> {
        let mut text = String::new();
        if !self.settings.is_empty() {
            text +=
                "# The picker's Deployment (deploy/kubernetes/namespaced), besides what it has:\n";
        }
        for line in &self.settings {
            let _infallible = writeln!(text, "#   {line}");
        }
        for object in &self.objects {
            let document = serde_saphyr::to_string(object)
                .map_err(|error| MigrateError::Output(error.to_string()))?;
            let _infallible = write!(text, "---\n{}\n", document.trim_end());
        }
        Ok(text)
    }
}

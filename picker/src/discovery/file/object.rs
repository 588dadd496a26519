//! Objectives and rewrites as an endpoints file writes them: those of Kubernetes, without what only an API server needs.

use std::collections::BTreeMap;
use std::sync::Arc;

use picker_core::route::PoolKey;
use picker_core::route::object::{Metadata, POOL_GROUP};
use picker_core::view::PoolRef;
use picker_core::view::objective::{MODELS, Objective, ObjectiveSpec};
use picker_core::view::rewrite::{HEADERS, Rewrite, RewriteRule, RewriteSpec, STICKY};
use serde::Deserialize;

/// An InferenceObjective.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ObjectiveEntry {
    name: Arc<str>,
    #[serde(default)]
    priority: i32,
    /// The models whose requests it is for, though they do not name it.
    #[serde(default)]
    models: Vec<String>,
}

/// An InferenceModelRewrite.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct RewriteEntry {
    name: Arc<str>,
    /// The headers that a request has to have for any of the rules.
    #[serde(default)]
    match_headers: BTreeMap<String, String>,
    /// The header whose value decides the model: the same value, the same model.
    sticky_header: Option<String>,
    rules: Vec<RewriteRule>,
}

impl ObjectiveEntry {
    pub(super) fn of(self, pool: &PoolKey) -> Objective {
        Objective {
            metadata: metadata(pool, self.name, [(MODELS, self.models.join(","))]),
            spec: ObjectiveSpec {
                priority: Some(self.priority),
                pool_ref: reference(pool),
            },
        }
    }
}

impl RewriteEntry {
    pub(super) fn of(self, pool: &PoolKey) -> Rewrite {
        let headers = self.match_headers.iter();
        let headers: Vec<String> = headers
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        let annotations = [
            (HEADERS, headers.join(",")),
            (STICKY, self.sticky_header.unwrap_or_default()),
        ];
        Rewrite {
            metadata: metadata(pool, self.name, annotations),
            spec: RewriteSpec {
                pool_ref: reference(pool),
                rules: self.rules,
            },
        }
    }
}

fn metadata<const N: usize>(
    pool: &PoolKey,
    name: Arc<str>,
    annotations: [(&str, String); N],
) -> Metadata {
    let annotation = |(name, value): (&str, String)| (name.into(), value.into());
    Metadata {
        name,
        namespace: pool.namespace.clone(),
        annotations: annotations.into_iter().map(annotation).collect(),
        ..Metadata::default()
    }
}

fn reference(pool: &PoolKey) -> PoolRef {
    PoolRef {
        group: POOL_GROUP.into(),
        kind: "InferencePool".into(),
        name: pool.name.clone(),
    }
}

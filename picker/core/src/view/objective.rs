//! InferenceObjectives: the priority of a request, and the key under which it shares with others.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Asked, PoolRef};
use crate::route::object::Metadata;

/// The annotation that lists the models whose requests an objective is for, though they do not name it.
pub const MODELS: &str = "pointsman.dev/models";
/// The headers that name an objective; the first that is there counts (llm-d, `pkg/common/envoy/headers.go`).
pub const OBJECTIVE: &[&str] = &[
    "x-llm-d-inference-objective",
    "x-gateway-inference-objective",
];
/// The headers that name whom a request is for.
pub const FAIRNESS: &[&str] = &[
    "x-llm-d-inference-fairness-id",
    "x-gateway-inference-fairness-id",
];
/// The key of requests that name nobody, as upstream's.
const DEFAULT_FLOW: &str = "default-flow";

/// An InferenceObjective.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Objective {
    /// Its name.
    pub metadata: Metadata,
    /// What it asks for.
    pub spec: ObjectiveSpec,
}

/// What an InferenceObjective asks for.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ObjectiveSpec {
    /// How much its requests matter: more first, and below 0 they may be refused.
    #[serde(default)]
    pub priority: Option<i32>,
    /// The pool.
    pub pool_ref: PoolRef,
}

/// How much a request matters, and in whose name it comes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Standing {
    /// More first; below 0 it may be refused.
    pub priority: i32,
    /// Requests with the same key take turns with those of others.
    pub fairness: Arc<str>,
    /// The objective that says so.
    pub objective: Option<Arc<str>>,
}

/// The objectives of one pool.
#[derive(Clone, Debug)]
pub(super) struct Objectives {
    /// [`DEFAULT_FLOW`], once for all requests.
    default_flow: Arc<str>,
    pub(super) priorities: BTreeMap<Arc<str>, i32>,
    /// The objective of a model.
    models: BTreeMap<Arc<str>, Arc<str>>,
}

impl Default for Objectives {
    fn default() -> Self {
        Self {
            default_flow: DEFAULT_FLOW.into(),
            priorities: BTreeMap::new(),
            models: BTreeMap::new(),
        }
    }
}

impl Objectives {
    pub(super) fn new<'o>(objectives: impl Iterator<Item = &'o Objective>) -> Self {
        let mut sorted: Vec<_> = objectives.collect();
        sorted.sort_by_key(|it| super::age(&it.metadata));
        let mut all = Self::default();
        for Objective { metadata, spec } in sorted {
            let name = &metadata.name;
            let priority = spec.priority.unwrap_or(0);
            all.priorities.entry(name.clone()).or_insert(priority);
            for model in super::items(metadata, MODELS) {
                let objective = all.models.entry(model.into());
                objective.or_insert_with(|| name.clone());
            }
        }
        all
    }

    /// By the header; without one by the model, which an objective lists or is named for.
    pub(super) fn standing(&self, asked: &Asked<'_>) -> Standing {
        let name = asked.header(OBJECTIVE).or_else(|| {
            let model = asked.model?;
            Some(self.models.get(model).map_or(model, |name| &**name))
        });
        let found = name.and_then(|name| self.priorities.get_key_value(name));
        let objective = found.map(|(name, _)| name.clone());
        let named = asked.header(FAIRNESS).filter(|id| !id.is_empty());
        Standing {
            priority: found.map_or(0, |(_, priority)| *priority),
            fairness: match (named, &objective) {
                (Some(id), _) => id.into(),
                (None, Some(objective)) => objective.clone(),
                (None, None) => self.default_flow.clone(),
            },
            objective,
        }
    }
}

//! InferenceModelRewrites: which model a request gets in the place of the one it asks for, by weight, and the same one
//! again for the same client where that is wanted.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Asked, PoolRef};
use crate::route::object::{Metadata, ObjectKey};
use crate::seed::Random;

/// The annotation that lists the headers, `name=value`, that a request has to have for any rule of a rewrite.
pub const HEADERS: &str = "pointsman.dev/match-headers";
/// The annotation that names the header whose value decides the model: the same value, the same model.
pub const STICKY: &str = "pointsman.dev/sticky-header";
/// The headers by which a request asks for another model itself (llm-d, `pkg/common/envoy/headers.go`).
pub const REWRITE: &[&str] = &["x-llm-d-model-name-rewrite", "x-gateway-model-name-rewrite"];

/// An InferenceModelRewrite.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Rewrite {
    /// Its name.
    pub metadata: Metadata,
    /// What it asks for.
    pub spec: RewriteSpec,
}

/// What an InferenceModelRewrite asks for.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RewriteSpec {
    /// The pool.
    pub pool_ref: PoolRef,
    /// Its rules.
    #[serde(default)]
    pub rules: Vec<RewriteRule>,
}

/// One rule.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct RewriteRule {
    /// The models it is for; every one, if there is none.
    pub matches: Vec<RewriteMatch>,
    /// What they become.
    pub targets: Vec<RewriteTarget>,
}

/// A model that a rule is for.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct RewriteMatch {
    /// The model.
    pub model: ModelMatch,
}

/// The name of a model.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct ModelMatch {
    /// The name, letter by letter.
    pub value: Arc<str>,
}

/// What a model becomes.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RewriteTarget {
    /// The model that the server is asked for.
    pub model_rewrite: Arc<str>,
    /// Its part among the weights of the rule.
    #[serde(default)]
    pub weight: Option<u32>,
}

/// The model that a request gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The model.
    pub model: Arc<str>,
    /// The arm of the rewrite that chose it; `None` if the request itself did.
    pub arm: Option<ArmKey>,
}

/// What became of a request whose model was chosen for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Rewriting {
    /// The model that it asked for.
    pub asked: Option<Arc<str>>,
    /// The model that was chosen.
    pub model: Arc<str>,
    /// The arm of the rewrite that chose it; `None` if the request itself did.
    pub arm: Option<ArmKey>,
    /// Where the names stand.
    pub naming: Naming,
}

/// Where the model's name stands when it was chosen for a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Naming {
    /// The request asked for this very model.
    Unchanged,
    /// The server is asked for it, and in a response that can be read its name gives way to the one that the client asked for.
    PutBack,
    /// The server is asked for it, and its name stays in the response, which passes elsewhere.
    Stays,
    /// The request names no model in a body that is ours to change: it keeps what it says, and is placed by that.
    NotPut,
}

/// Names one target of one rule of a rewrite.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct ArmKey {
    /// The rewrite.
    pub rewrite: ObjectKey,
    /// The rule in it, from 0.
    pub rule: usize,
    /// The target in the rule, from 0.
    pub target: usize,
}

/// The rewrites of one pool.
#[derive(Clone, Debug, Default)]
pub(super) struct Rewrites {
    /// By the model, what comes first first.
    models: BTreeMap<Arc<str>, Vec<Arc<Rule>>>,
    /// For every model.
    any: Vec<Arc<Rule>>,
}

#[derive(Debug)]
struct Rule {
    headers: Vec<(Arc<str>, Arc<str>)>,
    sticky: Option<Arc<str>>,
    arms: Vec<Arm>,
}

#[derive(Debug)]
struct Arm {
    key: ArmKey,
    model: Arc<str>,
    weight: u32,
    /// What its draws are split by.
    purpose: String,
}

impl Rewrites {
    /// Rewrites with more headers come first, then the older, then the first by name; within one the order of rules.
    pub(super) fn new<'r>(rewrites: impl Iterator<Item = &'r Rewrite>) -> Self {
        let mut sorted: Vec<_> = rewrites.collect();
        sorted.sort_by_cached_key(|it| {
            let headers = headers(&it.metadata).len();
            (std::cmp::Reverse(headers), super::age(&it.metadata))
        });
        let mut all = Self::default();
        for rewrite in sorted {
            for (index, rule) in rewrite.spec.rules.iter().enumerate() {
                all.take(rewrite, index, rule);
            }
        }
        all
    }

    fn take(&mut self, rewrite: &Rewrite, index: usize, rule: &RewriteRule) {
        let metadata = &rewrite.metadata;
        let arms = arms(&metadata.key(), index, &rule.targets);
        if arms.is_empty() {
            return;
        }
        let sticky = super::items(metadata, STICKY).next();
        let compiled = Arc::new(Rule {
            headers: headers(metadata),
            sticky: sticky.map(|name| name.to_ascii_lowercase().into()),
            arms,
        });
        if rule.matches.is_empty() {
            self.any.push(compiled);
            return;
        }
        let models: BTreeSet<_> = rule.matches.iter().map(|it| &it.model.value).collect();
        for model in models {
            let rules = self.models.entry(model.clone()).or_default();
            rules.push(compiled.clone());
        }
    }

    /// A rule for the very model, or else one for every model; without either, what the request's header asks for.
    pub(super) fn target(&self, asked: &Asked<'_>, draw: u64) -> Option<Target> {
        let exact = asked.model.and_then(|model| self.models.get(model));
        let rules = exact.into_iter().flatten().chain(&self.any);
        let rule = rules.into_iter().find(|rule| rule.is_for(asked));
        let chosen = rule.and_then(|rule| rule.choose(asked, draw));
        if let Some(arm) = chosen {
            return Some(Target {
                model: arm.model.clone(),
                arm: Some(arm.key.clone()),
            });
        }
        let wanted = asked.header(REWRITE).filter(|model| !model.is_empty())?;
        Some(Target {
            model: wanted.into(),
            arm: None,
        })
    }

    pub(super) fn aliases(&self) -> impl Iterator<Item = (&Arc<str>, Vec<&Arc<str>>)> {
        self.models.iter().map(|(model, rules)| {
            let arms = rules.iter().flat_map(|rule| &rule.arms);
            let targets: BTreeSet<_> = arms.map(|arm| &arm.model).collect();
            (model, targets.into_iter().collect())
        })
    }
}

impl Rule {
    fn is_for(&self, asked: &Asked<'_>) -> bool {
        self.headers
            .iter()
            .all(|(name, value)| asked.header(&[name]) == Some(value))
    }

    /// An arm, in proportion to the weights.
    ///
    /// Every arm draws an exponential time with its weight as rate, and the first wins (weighted rendezvous hashing):
    /// when a weight changes, only the clients that the change is about get another model.
    fn choose(&self, asked: &Asked<'_>, draw: u64) -> Option<&Arm> {
        let sticky = self.sticky.as_ref().and_then(|name| asked.header(&[name]));
        let key = match sticky {
            Some(client) => Random::split(0, client).next_u64(),
            None => draw,
        };
        let time = |arm: &Arm| {
            let unit = Random::split(key, &arm.purpose).unit();
            -(1.0 - unit).ln() / f64::from(arm.weight)
        };
        let times = self.arms.iter().map(|arm| (time(arm), arm));
        let first = times.min_by(|(one, _), (other, _)| one.total_cmp(other));
        first.map(|(_, arm)| arm)
    }
}

/// The headers that a request has to have, names in lower case.
fn headers(metadata: &Metadata) -> Vec<(Arc<str>, Arc<str>)> {
    super::items(metadata, HEADERS)
        .map(|item| {
            let (name, value) = item.split_once('=').unwrap_or((item, ""));
            (name.trim().to_ascii_lowercase().into(), value.trim().into())
        })
        .collect()
}

/// The targets that can be chosen: all alike if none has a weight, or else those that have one, as upstream has it.
fn arms(rewrite: &ObjectKey, rule: usize, targets: &[RewriteTarget]) -> Vec<Arm> {
    let weighted = targets.iter().any(|it| it.weight.is_some());
    let arm = |(target, it): (usize, &RewriteTarget)| Arm {
        key: ArmKey {
            rewrite: rewrite.clone(),
            rule,
            target,
        },
        model: it.model_rewrite.clone(),
        weight: it.weight.unwrap_or(u32::from(!weighted)),
        purpose: format!("{rewrite}/{rule}/{}", it.model_rewrite),
    };
    let arms = targets.iter().enumerate().map(arm);
    arms.filter(|arm| arm.weight > 0).collect()
}

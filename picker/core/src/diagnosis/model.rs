//! Models that nobody has: targets of rewrites, adapters that routes ask for; and objectives and rewrites that others
//! hide or that no pool has.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{Finding, Fleet, Kind, Reason};
use crate::route::PoolKey;
use crate::route::entry;
use crate::route::object::{Metadata, Route};
use crate::route::rule::Text;
use crate::view::objective::MODELS;
use crate::view::rewrite::{HEADERS, Rewrite};
use crate::view::{self, PoolRef};

/// Headers in which gateways put the model of a request, so that routes can match on it.
const MODEL_HEADERS: &[&str] = &["x-gateway-model-name", "x-ai-eg-model"];

pub(super) fn find(fleet: &Fleet, findings: &mut Vec<Finding>) {
    for rewrite in &fleet.rewrites {
        let (metadata, reference) = (&rewrite.metadata, &rewrite.spec.pool_ref);
        find_pool(
            fleet,
            "InferenceModelRewrite",
            metadata,
            reference,
            findings,
        );
        find_targets(fleet, rewrite, findings);
    }
    for objective in &fleet.objectives {
        let (metadata, reference) = (&objective.metadata, &objective.spec.pool_ref);
        find_pool(fleet, "InferenceObjective", metadata, reference, findings);
    }
    find_shadowed_rewrites(fleet, findings);
    find_shadowed_objectives(fleet, findings);
    for route in fleet.table.routes() {
        find_adapters(fleet, route, findings);
    }
}

fn find_pool(
    fleet: &Fleet,
    kind: &str,
    metadata: &Metadata,
    reference: &PoolRef,
    findings: &mut Vec<Finding>,
) {
    let pool = reference.pool(metadata);
    let known = |pool: &PoolKey| {
        fleet.pool(pool).is_some() || !fleet.known.has(Kind::Pool, &pool.namespace)
    };
    if pool.as_ref().is_some_and(known) {
        return;
    }
    let text = match pool {
        Some(pool) => format!(
            "its poolRef names the pool {pool}, which does not exist (a poolRef is always of the object's own namespace)"
        ),
        None => format!(
            "its poolRef is a {} of the group {}, which is no pool",
            reference.kind, reference.group
        ),
    };
    let fix = "spec:\n  poolRef:\n    group: inference.networking.k8s.io\n    kind: InferencePool\n    name: POOL".to_owned();
    findings.push(Finding::of(
        kind,
        metadata,
        "spec.poolRef",
        Reason::ReferencedPoolMissing,
        text,
        fix,
    ));
}

fn find_targets(fleet: &Fleet, rewrite: &Rewrite, findings: &mut Vec<Finding>) {
    let metadata = &rewrite.metadata;
    let mut tell = |field: &str, reason, text, fix: String| {
        findings.push(Finding::of(
            "InferenceModelRewrite",
            metadata,
            field,
            reason,
            text,
            fix,
        ));
    };
    let pool = rewrite.spec.pool_ref.pool(metadata);
    let served = pool.as_ref().and_then(|pool| fleet.served.get(pool));
    for (index, rule) in rewrite.spec.rules.iter().enumerate() {
        let targets = &rule.targets;
        let field = format!("spec.rules[{index}].targets");
        if targets.is_empty() {
            let text = format!("rule {index} has no targets: it does nothing");
            tell(
                &field,
                Reason::TargetsMissing,
                text,
                "spec:\n  rules:\n  - targets:\n    - modelRewrite: MODEL".to_owned(),
            );
        }
        let weighted = targets.iter().filter(|it| it.weight.is_some()).count();
        if weighted > 0 && weighted < targets.len() {
            let idle = targets.iter().filter(|it| it.weight.is_none());
            let idle: Vec<_> = idle.map(|it| &*it.model_rewrite).collect();
            let text = format!(
                "some targets of rule {index} have weights, so those without get nothing: {}",
                idle.join(", ")
            );
            let fix = format!(
                "spec:\n  rules:\n  - targets:\n    - modelRewrite: {}\n      weight: 1",
                idle[0]
            );
            tell(&field, Reason::WeightsMixed, text, fix);
        }
        let Some(served) = served else { continue };
        for target in targets
            .iter()
            .filter(|it| !served.contains(&it.model_rewrite))
        {
            let model = &target.model_rewrite;
            let text = format!(
                "rule {index} leads to {model}, which no server of the pool lists: {}",
                listed(served)
            );
            let first = served.iter().next().map_or("MODEL", |it| it);
            let fix = format!(
                "spec:\n  rules:\n  - targets:\n    - modelRewrite: {first}  # or load {model} on the servers"
            );
            tell(&field, Reason::TargetNotServed, text, fix);
        }
    }
}

fn listed(served: &BTreeSet<Arc<str>>) -> String {
    let names: Vec<_> = served.iter().take(8).map(|it| &**it).collect();
    let more = if served.len() > 8 { ", ..." } else { "" };
    format!("they list {}{more}", names.join(", "))
}

/// The requests that a rule is for: the pool, the headers of its rewrite, and the model, or every one.
type Audience = (PoolKey, Arc<str>, Option<Arc<str>>);

/// Rewrites that an older one of the same pool, headers and model hides.
fn find_shadowed_rewrites(fleet: &Fleet, findings: &mut Vec<Finding>) {
    let mut sorted: Vec<_> = fleet.rewrites.iter().collect();
    sorted.sort_by_cached_key(|it| view::age(&it.metadata));
    let mut first: BTreeMap<Audience, &Rewrite> = BTreeMap::new();
    for rewrite in sorted {
        let metadata = &rewrite.metadata;
        let Some(pool) = rewrite.spec.pool_ref.pool(metadata) else {
            continue;
        };
        let headers = metadata
            .annotations
            .get(HEADERS)
            .cloned()
            .unwrap_or_default();
        for (index, rule) in rewrite.spec.rules.iter().enumerate() {
            let models = rule.matches.iter().map(|it| Some(it.model.value.clone()));
            let every = rule.matches.is_empty().then_some(None);
            for model in models.chain(every) {
                let key = (pool.clone(), headers.clone(), model.clone());
                let older = first.entry(key).or_insert(rewrite);
                if std::ptr::eq(*older, rewrite) {
                    continue;
                }
                let model = model.as_deref().unwrap_or("every model");
                let text = format!(
                    "rule {index} is for {model}, as a rule of {} is, which is older or first by name: it is never used",
                    older.metadata.key()
                );
                let fix = format!(
                    "# one of the two, or requests of its own\nmetadata:\n  annotations:\n    {HEADERS}: \"x-beta=yes\""
                );
                findings.push(Finding::of(
                    "InferenceModelRewrite",
                    metadata,
                    &format!("spec.rules[{index}].matches"),
                    Reason::RewriteShadowed,
                    text,
                    fix,
                ));
            }
        }
    }
}

fn find_shadowed_objectives(fleet: &Fleet, findings: &mut Vec<Finding>) {
    let mut sorted: Vec<_> = fleet.objectives.iter().collect();
    sorted.sort_by_cached_key(|it| view::age(&it.metadata));
    let mut first: BTreeMap<(PoolKey, &str), &Metadata> = BTreeMap::new();
    for objective in sorted {
        let metadata = &objective.metadata;
        let Some(pool) = objective.spec.pool_ref.pool(metadata) else {
            continue;
        };
        for model in view::items(metadata, MODELS) {
            let older = first.entry((pool.clone(), model)).or_insert(metadata);
            if older.name == metadata.name {
                continue;
            }
            let text = format!(
                "it lists the model {model}, as the older {} does, whose priority counts",
                older.key()
            );
            let fix = format!("metadata:\n  annotations:\n    {MODELS}: \"\"  # without {model}");
            findings.push(Finding::of(
                "InferenceObjective",
                metadata,
                &format!("metadata.annotations[{MODELS}]"),
                Reason::ObjectiveShadowed,
                text,
                fix,
            ));
        }
    }
}

/// Routes that ask for a model by header which no server of their pools lists.
fn find_adapters(fleet: &Fleet, route: &Route, findings: &mut Vec<Finding>) {
    let backends: Vec<_> = route.backend_refs().collect();
    for one in entry::matches(route) {
        let Ok((_, conditions)) = one.wanted else {
            continue;
        };
        let pools = entry::pools(backends[one.rule], &route.metadata().namespace);
        let asked = conditions.headers.iter().find_map(|it| match &it.value {
            Text::Exact(model) if MODEL_HEADERS.contains(&&*it.name) => Some(model.clone()),
            _ => None,
        });
        let Some(model) = asked else { continue };
        for pool in pools {
            let Some(served) = fleet.served.get(&pool) else {
                continue;
            };
            if served.contains(&model) || is_rewritten(fleet, &pool, &model) {
                continue;
            }
            let text = format!(
                "rule {} sends requests for {model} to {pool}, where no server lists it: {}",
                one.rule,
                listed(served)
            );
            let fix = format!(
                "# load it on the servers of {pool}, or rewrite it\napiVersion: llm-d.ai/v1alpha2\nkind: InferenceModelRewrite\nmetadata:\n  name: REWRITE\n  namespace: {}\nspec:\n  poolRef:\n    name: {}\n  rules:\n  - matches:\n    - model:\n        value: {model}\n    targets:\n    - modelRewrite: {}",
                pool.namespace,
                pool.name,
                served.iter().next().map_or("MODEL", |it| it)
            );
            findings.push(Finding::of_route(
                route,
                &format!("spec.rules[{}].matches", one.rule),
                Reason::AdapterNotServed,
                text,
                fix,
            ));
        }
    }
}

/// Whether some rewrite of the pool is for the model: what it becomes is another finding's concern.
fn is_rewritten(fleet: &Fleet, pool: &PoolKey, model: &str) -> bool {
    fleet.rewrites.iter().any(|rewrite| {
        let own = rewrite.spec.pool_ref.pool(&rewrite.metadata);
        own.as_ref() == Some(pool)
            && rewrite.spec.rules.iter().any(|rule| {
                rule.matches.is_empty() || rule.matches.iter().any(|it| *it.model.value == *model)
            })
    })
}

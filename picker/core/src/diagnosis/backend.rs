//! Rules that lead nowhere or past the picker: pools, imports and grants that are missing, weights of 0.

use super::object::Pool;
use super::{Finding, Fleet, Kind, Reason};
use crate::route::PoolKey;
use crate::route::entry;
use crate::route::object::{BackendRef, ObjectKey, POOL_GROUP, Route, RouteKey};
use crate::route::rule::Unusable;
use crate::route::table::permits;

pub(super) fn find(fleet: &Fleet, route: &Route, findings: &mut Vec<Finding>) {
    let mut tell = |field: &str, reason, text, fix| {
        findings.push(Finding::of_route(route, field, reason, text, fix));
    };
    for (index, backends) in route.backend_refs().enumerate() {
        let list = format!("spec.rules[{index}].backendRefs");
        for (place, backend) in backends.iter().enumerate() {
            if let Some((reason, text, fix)) = wrong(fleet, &route.key(), index, backend) {
                tell(&format!("{list}[{place}]"), reason, text, fix);
            }
        }
        let pools = backends.iter().filter(|it| it.is_pool()).count();
        if pools > 0 && backends.iter().all(|it| it.weight == 0) {
            let text = format!("the weights of rule {index} sum to 0: its requests get a 500");
            let fix = format!("{}      weight: 1", reference(&backends[0]));
            tell(&list, Reason::WeightsZero, text, fix);
        }
        if pools > 0 && entry::redirects(route, index) {
            let text = format!(
                "rule {index} has a redirect and backends: the redirect answers, and no pool is asked"
            );
            let fix = "spec:\n  rules:\n  - filters: []  # or backendRefs: []".to_owned();
            tell(
                &format!("spec.rules[{index}].filters"),
                Reason::RedirectWithBackends,
                text,
                fix,
            );
        }
    }
    for one in entry::matches(route) {
        let rule = one.rule;
        let field = format!("spec.rules[{rule}].matches");
        match one.wanted {
            Err(Unusable::Pattern(pattern, why)) => {
                let why = why.lines().last().unwrap_or_default().trim().to_owned();
                let text = format!(
                    "the regular expression {pattern} of rule {rule} cannot be read ({why}): the match is never met"
                );
                let fix = "spec:\n  rules:\n  - matches:\n    - path:\n        type: PathPrefix\n        value: /".to_owned();
                tell(&field, Reason::PatternInvalid, text, fix);
            }
            Err(Unusable::Kind) => {
                let text = format!(
                    "a match of rule {rule} has a type that is none of Exact, PathPrefix and RegularExpression: it is never met"
                );
                let fix = "spec:\n  rules:\n  - matches:\n    - path:\n        type: PathPrefix\n        value: /".to_owned();
                tell(&field, Reason::MatchKindUnknown, text, fix);
            }
            Ok(_) => {}
        }
    }
}

/// What is wrong with one backend.
fn wrong(
    fleet: &Fleet,
    route: &RouteKey,
    rule: usize,
    backend: &BackendRef,
) -> Option<(Reason, String, String)> {
    let target = backend.target(&route.namespace);
    if backend.is_import() {
        let missing =
            !fleet.imports.contains(&target) && fleet.known.has(Kind::Import, &target.namespace);
        let text =
            format!("rule {rule} leads to the InferencePoolImport {target}, which does not exist");
        let fix = format!(
            "# on the exporting cluster, InferencePool {target}\nmetadata:\n  annotations:\n    inference.networking.x-k8s.io/export: ClusterSet"
        );
        return missing.then_some((Reason::ImportMissing, text, fix));
    }
    if let Some(bypassed) = bypassed(fleet, rule, backend, &target) {
        return Some(bypassed);
    }
    if !backend.is_pool() {
        let meant = &*backend.kind == "InferencePool";
        let group = &backend.group;
        let text = format!(
            "rule {rule} leads to an InferencePool of the group \"{group}\", which gateways do not know: pools are of {POOL_GROUP}"
        );
        return meant.then(|| (Reason::PoolGroupWrong, text, reference(backend)));
    }
    let pool = PoolKey::from(target);
    if fleet.pool(&pool).is_none() {
        let known = fleet.known.has(Kind::Pool, &pool.namespace);
        return known.then(|| missing(fleet, rule, backend, &pool));
    }
    let granted = pool.namespace == route.namespace
        || fleet.table.grants().any(|grant| {
            grant.metadata.namespace == pool.namespace && permits(grant, route, &pool.name)
        });
    if granted {
        return None;
    }
    let near = fleet
        .table
        .grants()
        .find(|grant| grant.metadata.namespace == pool.namespace);
    let near = near.map_or(String::new(), |grant| {
        format!(" (the grant {} there is not for it)", grant.metadata.name)
    });
    let text = format!(
        "rule {rule} leads to the pool {pool} of another namespace without a ReferenceGrant there{near}"
    );
    let fix = format!(
        "apiVersion: gateway.networking.k8s.io/v1beta1\nkind: ReferenceGrant\nmetadata:\n  name: {}-to-{}\n  namespace: {}\nspec:\n  from:\n  - group: gateway.networking.k8s.io\n    kind: {}\n    namespace: {}\n  to:\n  - group: {POOL_GROUP}\n    kind: InferencePool\n    name: {}",
        route.namespace, pool.name, pool.namespace, route.kind, route.namespace, pool.name
    );
    Some((Reason::GrantMissing, text, fix))
}

/// A pool that does not exist, and the one that may have been meant.
fn missing(
    fleet: &Fleet,
    rule: usize,
    backend: &BackendRef,
    pool: &PoolKey,
) -> (Reason, String, String) {
    let elsewhere = fleet.pools.iter().find(|it| it.metadata.name == pool.name);
    let text = match elsewhere {
        Some(other) => format!(
            "rule {rule} leads to the pool {pool}, which does not exist; there is one in the namespace {}",
            other.metadata.namespace
        ),
        None => format!("rule {rule} leads to the pool {pool}, which does not exist"),
    };
    let mut meant = backend.clone();
    if let Some(other) = elsewhere {
        meant.namespace = Some(other.metadata.namespace.clone());
    } else {
        let there = fleet.pools.iter().map(Pool::key);
        let there = there.filter(|it| it.namespace == pool.namespace);
        let there: Vec<_> = there.map(|it| it.name.to_string()).collect();
        let namespace = &pool.namespace;
        meant.name = match &*there {
            [] => format!("POOL  # {namespace} has none").into(),
            some => format!("POOL  # {namespace} has {}", some.join(", ")).into(),
        };
    }
    (Reason::PoolMissing, text, reference(&meant))
}

/// A backend reference to an InferencePool, as it stands in a rule.
fn reference(backend: &BackendRef) -> String {
    let namespace = backend.namespace.as_ref();
    let namespace = namespace.map_or(String::new(), |it| format!("      namespace: {it}\n"));
    format!(
        "spec:\n  rules:\n  - backendRefs:\n    - group: {POOL_GROUP}\n      kind: InferencePool\n      name: {}\n{namespace}",
        backend.name
    )
}

/// A Service that leads to the pods of a pool: no picker is asked by that way.
fn bypassed(
    fleet: &Fleet,
    rule: usize,
    backend: &BackendRef,
    target: &ObjectKey,
) -> Option<(Reason, String, String)> {
    if &*backend.kind != "Service" || !backend.group.is_empty() || backend.weight == 0 {
        return None;
    }
    let service = fleet.services.get(target)?;
    let pods = fleet.workloads.iter().filter(|it| service.selects(it));
    let mut pools = pods.flat_map(|pod| fleet.pools.iter().filter(|it| it.selects(pod)));
    let pool = pools.next()?;
    let text = format!(
        "rule {rule} leads to the Service {target}, whose pods are those of the pool {}: no picker is asked on that way",
        pool.key()
    );
    let mut meant = backend.clone();
    meant.name = pool.metadata.name.clone();
    Some((Reason::PoolBypassed, text, reference(&meant)))
}

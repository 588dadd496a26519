//! Rules that meet: two for the same requests, two whose order gateways do not agree on, and pools behind them that a
//! picker cannot tell apart.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{Finding, Fleet, Reason};
use crate::route::PoolKey;
use crate::route::attachment::{self, Entrance};
use crate::route::entry;
use crate::route::hostname::Hostname;
use crate::route::object::{ObjectKey, Route};
use crate::route::rule::{Conditions, PathCondition, Rank};

/// One match at one entrance for one host.
struct Claim<'f> {
    route: &'f Route,
    rule: usize,
    entrance: Arc<Entrance>,
    host: Hostname,
    rank: Rank,
    conditions: Conditions,
    pools: BTreeSet<PoolKey>,
}

pub(super) fn find(fleet: &Fleet, findings: &mut Vec<Finding>) {
    let claims = claims(fleet);
    let mut same: BTreeMap<String, Vec<&Claim<'_>>> = BTreeMap::new();
    let mut hosts: BTreeMap<(&Entrance, &Hostname), Vec<&Claim<'_>>> = BTreeMap::new();
    for claim in &claims {
        let key = format!("{:?} {:?}", claim.host, claim.conditions);
        same.entry(key).or_default().push(claim);
        let host = (&*claim.entrance, &claim.host);
        hosts.entry(host).or_default().push(claim);
    }
    for alike in same.values() {
        find_shadowed(alike, findings);
        find_indistinct_entrances(fleet, alike, findings);
    }
    for at_host in hosts.values() {
        find_unclear(at_host, findings);
    }
    find_kinds(&claims, findings);
    for route in fleet.table.routes() {
        find_indistinct_weights(fleet, route, findings);
    }
}

fn claims(fleet: &Fleet) -> Vec<Claim<'_>> {
    let mut claims = Vec::new();
    for route in fleet.table.routes() {
        let namespace = &route.metadata().namespace;
        let pools: Vec<BTreeSet<PoolKey>> = route
            .backend_refs()
            .map(|backends| entry::pools(backends, namespace))
            .collect();
        let entrances = fleet.table.entrances_of(route);
        for one in entry::matches(route) {
            let Ok((rank, conditions)) = one.wanted else {
                continue;
            };
            for entrance in &entrances {
                let mut hosts = entrance.service_hosts();
                if hosts.is_empty() {
                    hosts = attachment::hosts(route);
                }
                claims.extend(hosts.into_iter().map(|host| Claim {
                    route,
                    rule: one.rule,
                    entrance: entrance.clone(),
                    host,
                    rank: rank.clone(),
                    conditions: conditions.clone(),
                    pools: pools[one.rule].clone(),
                }));
            }
        }
    }
    claims
}

/// Of matches that are the same at one entrance, all but the first never get a request.
fn find_shadowed(alike: &[&Claim<'_>], findings: &mut Vec<Finding>) {
    for claim in alike {
        let there = alike.iter().filter(|it| it.entrance == claim.entrance);
        let same_kind = there.filter(|it| it.route.kind() == claim.route.kind());
        let Some(first) = same_kind.min_by(|one, other| one.rank.cmp(&other.rank)) else {
            continue;
        };
        if std::ptr::eq(*first, *claim) || first.rank == claim.rank {
            continue;
        }
        let (rule, other, theirs) = (claim.rule, first.route.key(), first.rule);
        let text = if first.route.key() == claim.route.key() {
            format!("rule {rule} matches the same requests as rule {theirs}, which gets them all")
        } else {
            format!(
                "rule {rule} matches the same requests as rule {theirs} of {other}, which is older or first by name and gets them all"
            )
        };
        let fix = "spec:\n  rules:\n  - matches:\n    - path:\n        value: /ANOTHER  # or another hostname, or a header".to_owned();
        let field = format!("spec.rules[{rule}].matches");
        findings.push(Finding::of_route(
            claim.route,
            &field,
            Reason::SameRequests,
            text,
            fix,
        ));
    }
}

/// The same requests at two entrances, for different pools that are called by one name.
fn find_indistinct_entrances(fleet: &Fleet, alike: &[&Claim<'_>], findings: &mut Vec<Finding>) {
    for claim in alike {
        let others = alike.iter().filter(|it| it.entrance != claim.entrance);
        for other in others {
            let pairs = claim
                .pools
                .iter()
                .flat_map(|one| other.pools.iter().map(move |two| (one, two)));
            for (one, two) in pairs.filter(|(one, two)| one < two) {
                let Some(service) = shared_picker(fleet, one, two) else {
                    continue;
                };
                let text = format!(
                    "the same requests can be for {one} (by {}) and for {two} (by {}), by different listeners; both pools call the Service {service}, so the picker cannot tell them apart",
                    claim.route.key(),
                    other.route.key()
                );
                tell_pool(fleet, two, text, findings);
            }
        }
    }
}

/// Weighted pools of one rule that are called by one name.
fn find_indistinct_weights(fleet: &Fleet, route: &Route, findings: &mut Vec<Finding>) {
    for backends in route.backend_refs() {
        let pools = entry::pools(backends, &route.metadata().namespace);
        for one in &pools {
            for two in pools.iter().filter(|two| one < *two) {
                let Some(service) = shared_picker(fleet, one, two) else {
                    continue;
                };
                let text = format!(
                    "{} splits requests between {one} and {two} by weight; both pools call the Service {service}, so the picker cannot tell which was drawn",
                    route.key()
                );
                tell_pool(fleet, two, text, findings);
            }
        }
    }
}

fn tell_pool(fleet: &Fleet, pool: &PoolKey, text: String, findings: &mut Vec<Finding>) {
    let Some(object) = fleet.pool(pool) else {
        return;
    };
    let name = &pool.name;
    let fix = format!(
        "# a Service of its own, with the selector of the picker's\napiVersion: v1\nkind: Service\nmetadata:\n  name: {name}-picker\n  namespace: {}\nspec:\n  ports:\n  - port: 9002\n    appProtocol: http2\n---\n# InferencePool {pool}\nspec:\n  endpointPickerRef:\n    name: {name}-picker\n    port:\n      number: 9002",
        pool.namespace
    );
    let finding = Finding::of(
        "InferencePool",
        &object.metadata,
        "spec.endpointPickerRef",
        Reason::PoolsIndistinct,
        text,
        fix,
    );
    findings.push(finding);
}

/// The Service and port that both pools call, if it is the same.
fn shared_picker(fleet: &Fleet, one: &PoolKey, two: &PoolKey) -> Option<ObjectKey> {
    let one = fleet.pool(one)?.picker()?;
    let two = fleet.pool(two)?.picker()?;
    (one == two).then_some(one.0)
}

/// Regular expressions that begin where a prefix of another pool stands.
fn find_unclear(at_host: &[&Claim<'_>], findings: &mut Vec<Finding>) {
    for claim in at_host {
        let PathCondition::Pattern(pattern) = &claim.conditions.path else {
            continue;
        };
        let first = pattern.first_elements();
        let under = |prefix: &str| {
            first
                .strip_prefix(prefix)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        let clash = at_host.iter().find(|other| match &other.conditions.path {
            PathCondition::Prefix(prefix) => {
                !prefix.is_empty() && under(prefix) && other.pools != claim.pools
            }
            _ => false,
        });
        let Some(other) = clash else { continue };
        let (rule, theirs) = (claim.rule, other.rule);
        let text = format!(
            "the regular expression of rule {rule} and the prefix of rule {theirs} of {} match the same paths for different pools; the Gateway API leaves the order to each gateway",
            other.route.key()
        );
        let fix = "spec:\n  rules:\n  - matches:\n    - path:\n        type: PathPrefix  # or Exact: their order is fixed\n        value: /".to_owned();
        let field = format!("spec.rules[{rule}].matches");
        findings.push(Finding::of_route(
            claim.route,
            &field,
            Reason::PrecedenceUnclear,
            text,
            fix,
        ));
    }
}

/// HTTPRoutes and GRPCRoutes that claim the same hosts of a listener: only the older is accepted.
fn find_kinds(claims: &[Claim<'_>], findings: &mut Vec<Finding>) {
    let listener = |claim: &&Claim<'_>| matches!(*claim.entrance, Entrance::Listener { .. });
    for claim in claims.iter().filter(listener) {
        let clash = claims.iter().find(|other| {
            other.entrance == claim.entrance
                && other.route.kind() != claim.route.kind()
                && other.host.intersects(&claim.host)
                && other.rank.age < claim.rank.age
        });
        let Some(other) = clash else { continue };
        let text = format!(
            "{} is for the same host of the same listener, and older or first by name: gateways accept only one of an HTTPRoute and a GRPCRoute there",
            other.route.key()
        );
        let fix = "spec:\n  hostnames:\n  - grpc.example.com  # a host of its own".to_owned();
        findings.push(Finding::of_route(
            claim.route,
            "spec.hostnames",
            Reason::KindsConflict,
            text,
            fix,
        ));
    }
}

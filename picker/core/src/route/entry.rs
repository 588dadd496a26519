//! The matches of a route, ready to be looked up: conditions, precedence, pools and ways in, together.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::PoolKey;
use super::attachment::Entrance;
use super::filter::{Change, Undo};
use super::hostname::Hostname;
use super::object::{BackendRef, Filter, PathMatchKind, Route, RouteKey};
use super::rule::{Age, Conditions, Rank, Unusable};

/// One match of one rule of a route, as it is looked up.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) rank: Rank,
    pub(super) route: RouteKey,
    pub(super) conditions: Conditions,
    pub(super) backends: Vec<Backend>,
    pub(super) entrances: Vec<Arc<Entrance>>,
    /// How to tell what a request was before; for an entry by what is seen after filters.
    pub(super) undo: Option<Undo>,
}

/// A pool that a rule can send requests to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Backend {
    pub(super) pool: PoolKey,
    /// Whether it lies in another namespace than the route, so that a grant is needed.
    pub(super) foreign: bool,
    /// Whether filters change what is seen of requests to it.
    pub(super) changed: bool,
}

/// One match of one rule, before it is attached to anything.
pub(crate) struct Match {
    /// The rule in its route.
    pub(crate) rule: usize,
    /// Place and conditions; or why it can never be met.
    pub(crate) wanted: Result<(Rank, Conditions), Unusable>,
}

/// The entries of a route, each with a host it is for, where requests come in by `entrances`.
pub(super) fn entries(
    route: &Route,
    hosts: &[Hostname],
    entrances: &[Arc<Entrance>],
) -> Vec<(Hostname, Arc<Entry>)> {
    let key = route.key();
    let rules: Vec<_> = rules(route).map(|rule| backends(&rule, &key)).collect();
    let mut entries = Vec::new();
    for Match { rule, wanted } in matches(route) {
        // A match that can never be met is told by `diagnosis`.
        let Ok((rank, conditions)) = wanted else {
            continue;
        };
        let entry = |conditions, backends, undo| {
            Arc::new(Entry {
                rank: rank.clone(),
                route: key.clone(),
                conditions,
                backends,
                entrances: entrances.into(),
                undo,
            })
        };
        let backends = rules[rule].iter().map(|(backend, _)| backend.clone());
        let plain = entry(conditions.clone(), backends.collect(), None);
        entries.extend(hosts.iter().map(|host| (host.clone(), plain.clone())));
        for (backend, change) in &rules[rule] {
            let Some(change) = change else { continue };
            let undo = Undo {
                change: change.clone(),
                hosts: hosts.into(),
                conditions: conditions.clone(),
            };
            let after = change.conditions_after(&conditions);
            let seen = entry(after, vec![backend.clone()], Some(undo));
            let mut hosts: Vec<_> = hosts.iter().map(|it| change.host_after(it)).collect();
            hosts.dedup();
            entries.extend(hosts.into_iter().map(|host| (host, seen.clone())));
        }
    }
    entries
}

/// Every match of every rule of a route, in order; a rule without one has one that every request meets.
pub(crate) fn matches(route: &Route) -> Vec<Match> {
    let age = Age::of(route.metadata());
    let mut found = Vec::new();
    let mut take = |rule, index, conditions: Result<Conditions, Unusable>, length| {
        let ranked = |it: Conditions| (Rank::of(&it, length, age.clone(), (rule, index)), it);
        found.push(Match {
            rule,
            wanted: conditions.map(ranked),
        });
    };
    match route {
        Route::Http(route) => {
            for (number, rule) in route.spec.rules.iter().enumerate() {
                for (index, one) in or_default(&rule.matches).iter().enumerate() {
                    let path = one.path.as_ref();
                    let prefix = path.filter(|path| path.kind == PathMatchKind::PathPrefix);
                    let length = prefix.map_or(1, |path| path.value.chars().count());
                    take(number, index, Conditions::of_http(one), length);
                }
            }
        }
        Route::Grpc(route) => {
            for (number, rule) in route.spec.rules.iter().enumerate() {
                for (index, one) in or_default(&rule.matches).iter().enumerate() {
                    take(number, index, Conditions::of_grpc(one), 0);
                }
            }
        }
    }
    found
}

fn or_default<T: Clone + Default>(matches: &[T]) -> Vec<T> {
    if matches.is_empty() {
        vec![T::default()]
    } else {
        matches.into()
    }
}

/// Filters and backends of a rule of either kind.
struct Rule<'r> {
    filters: &'r [Filter],
    backends: &'r [BackendRef],
}

fn rules(route: &Route) -> impl Iterator<Item = Rule<'_>> {
    let (http, grpc) = match route {
        Route::Http(route) => (&route.spec.rules[..], &[][..]),
        Route::Grpc(route) => (&[][..], &route.spec.rules[..]),
    };
    let http = http.iter().map(|rule| Rule {
        filters: &rule.filters,
        backends: &rule.backend_refs,
    });
    http.chain(grpc.iter().map(|rule| Rule {
        filters: &rule.filters,
        backends: &rule.backend_refs,
    }))
}

/// The pools that a rule with these backends can send requests to, grants aside.
pub(crate) fn pools(backends: &[BackendRef], namespace: &Arc<str>) -> BTreeSet<PoolKey> {
    let pools = backends.iter().filter(|it| it.is_pool() && it.weight > 0);
    pools.map(|it| it.target(namespace).into()).collect()
}

/// Whether a rule answers with a redirect.
pub(crate) fn redirects(route: &Route, rule: usize) -> bool {
    rules(route)
        .nth(rule)
        .is_some_and(|rule| rule.filters.iter().any(is_redirect))
}

fn is_redirect(filter: &Filter) -> bool {
    &*filter.kind == "RequestRedirect"
}

/// The pools that a rule sends requests to, with what the filters on the way there change.
fn backends(rule: &Rule<'_>, route: &RouteKey) -> Vec<(Backend, Option<Change>)> {
    if rule.filters.iter().any(is_redirect) {
        return Vec::new();
    }
    let wanted = rule
        .backends
        .iter()
        .filter(|it| it.is_pool() && it.weight > 0 && !it.filters.iter().any(is_redirect));
    wanted
        .map(|reference| {
            let target = reference.target(&route.namespace);
            let change = Change::of(rule.filters.iter().chain(&reference.filters));
            let backend = Backend {
                foreign: target.namespace != route.namespace,
                pool: target.into(),
                changed: change.is_some(),
            };
            (backend, change)
        })
        .collect()
}

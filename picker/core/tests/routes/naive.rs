//! A plain reading of the Gateway API: every listener, every route, every rule, every match, each time.
//!
//! It shares the objects with the route table, and no code.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use picker_core::route::PoolKey;
use picker_core::route::head::Head;
use picker_core::route::object::{
    BackendRef, FromNamespaces, Gateway, Grant, GrpcMatch, HttpMatch, LabelSelector, Listener,
    NameMatch, Namespace, ParentRef, PathMatchKind, Route, ValueMatchKind,
};
use regex::Regex;

/// Everything there is.
#[derive(Clone, Debug, Default)]
pub(crate) struct World {
    pub(crate) routes: Vec<Route>,
    pub(crate) gateways: Vec<Gateway>,
    pub(crate) namespaces: Vec<Namespace>,
    pub(crate) grants: Vec<Grant>,
}

/// One match that a request meets, by what decides about it, in the order in which it decides.
type Place = (
    (Reverse<usize>, Reverse<usize>),
    (u8, Reverse<usize>, Reverse<usize>),
    (bool, Reverse<usize>, Reverse<usize>),
    (Option<String>, String, String),
    (usize, usize),
);

/// A rule of a route that a request can have gone by.
#[derive(Clone, Debug)]
pub(crate) struct Winner<'w> {
    pub(crate) route: &'w Route,
    pub(crate) rule: usize,
}

impl World {
    /// The pools that a request can be for.
    pub(crate) fn pools(&self, head: &Head<'_>) -> BTreeSet<PoolKey> {
        let winners = self.winners(head);
        winners
            .iter()
            .flat_map(|winner| self.pools_of(winner))
            .collect()
    }

    /// The rule that each listener, and each Service, sends a request by.
    pub(crate) fn winners(&self, head: &Head<'_>) -> Vec<Winner<'_>> {
        let host = host_of(head.authority);
        let mut winners = Vec::new();
        for gateway in &self.gateways {
            for listener in &gateway.spec.listeners {
                if takes_host(gateway, listener, &host) {
                    let routes = self
                        .routes
                        .iter()
                        .filter(|route| self.is_attached(route, gateway, listener));
                    winners.extend(first(routes, head, true));
                }
            }
        }
        let mut services: Vec<(String, String, Option<u16>, String)> = Vec::new();
        for route in &self.routes {
            for parent in service_parents(route) {
                services.push(service_key(route, parent));
            }
        }
        services.sort();
        services.dedup();
        for service in services {
            let (namespace, name, port, _) = &service;
            let names = [
                name.clone(),
                format!("{name}.{namespace}"),
                format!("{name}.{namespace}.svc"),
                format!("{name}.{namespace}.svc.cluster.local"),
            ];
            let called = head.authority.split_once(':').map(|(_, port)| port);
            let port_fits = match (port, called) {
                (Some(port), Some(called)) => port.to_string() == called,
                _ => true,
            };
            if names.contains(&host) && port_fits {
                let routes = self.routes.iter().filter(|route| {
                    service_parents(route).any(|parent| service_key(route, parent) == service)
                });
                winners.extend(first(routes, head, false));
            }
        }
        winners
    }

    /// The pools that a rule sends requests to.
    pub(crate) fn pools_of(&self, winner: &Winner<'_>) -> Vec<PoolKey> {
        let own = &*winner.route.metadata().namespace;
        let backends = match winner.route {
            Route::Http(route) => &route.spec.rules[winner.rule].backend_refs,
            Route::Grpc(route) => &route.spec.rules[winner.rule].backend_refs,
        };
        let pools = backends.iter().filter(|backend| {
            &*backend.group == "inference.networking.k8s.io"
                && &*backend.kind == "InferencePool"
                && backend.weight != 0
        });
        let pools = pools.filter(|backend| self.is_granted(winner.route, backend));
        pools
            .map(|backend| PoolKey::new(backend.namespace.as_deref().unwrap_or(own), &backend.name))
            .collect()
    }

    fn is_granted(&self, route: &Route, backend: &BackendRef) -> bool {
        let own = &*route.metadata().namespace;
        let to = backend.namespace.as_deref().unwrap_or(own);
        let kind = match route {
            Route::Http(_) => "HTTPRoute",
            Route::Grpc(_) => "GRPCRoute",
        };
        to == own
            || self.grants.iter().any(|grant| {
                &*grant.metadata.namespace == to
                    && grant.spec.from.iter().any(|from| {
                        &*from.group == "gateway.networking.k8s.io"
                            && &*from.kind == kind
                            && &*from.namespace == own
                    })
                    && grant.spec.to.iter().any(|target| {
                        &*target.group == "inference.networking.k8s.io"
                            && &*target.kind == "InferencePool"
                            && target
                                .name
                                .as_ref()
                                .is_none_or(|name| name == &backend.name)
                    })
            })
    }

    fn is_attached(&self, route: &Route, gateway: &Gateway, listener: &Listener) -> bool {
        let own = &*route.metadata().namespace;
        let refers = route.parent_refs().iter().any(|parent| {
            &*parent.kind == "Gateway"
                && parent.name == gateway.metadata.name
                && parent.namespace.as_deref().unwrap_or(own) == &*gateway.metadata.namespace
                && parent
                    .section_name
                    .as_ref()
                    .is_none_or(|name| name == &listener.name)
                && parent.port.is_none_or(|port| port == listener.port)
        });
        let from = match listener.allowed_routes.namespaces.from {
            FromNamespaces::All => true,
            FromNamespaces::Same => own == &*gateway.metadata.namespace,
            FromNamespaces::Selector => self.is_selected(listener, own),
            FromNamespaces::None => false,
        };
        let kind = match route {
            Route::Http(_) => "HTTPRoute",
            Route::Grpc(_) => "GRPCRoute",
        };
        let kinds = &listener.allowed_routes.kinds;
        refers && from && (kinds.is_empty() || kinds.iter().any(|it| &*it.kind == kind))
    }

    fn is_selected(&self, listener: &Listener, namespace: &str) -> bool {
        let Some(LabelSelector { match_labels, .. }) = &listener.allowed_routes.namespaces.selector
        else {
            return false;
        };
        let known = self
            .namespaces
            .iter()
            .find(|it| &*it.metadata.name == namespace);
        known.is_some_and(|it| {
            match_labels
                .iter()
                .all(|(key, value)| it.metadata.labels.get(key) == Some(value))
        })
    }
}

fn service_parents(route: &Route) -> impl Iterator<Item = &ParentRef> {
    route
        .parent_refs()
        .iter()
        .filter(|it| &*it.kind == "Service")
}

/// A Service's namespace, name and port, and the namespace of the routes.
fn service_key(route: &Route, parent: &ParentRef) -> (String, String, Option<u16>, String) {
    let own = route.metadata().namespace.to_string();
    let namespace = parent.namespace.as_deref().unwrap_or(&own).to_owned();
    (namespace, parent.name.to_string(), parent.port, own)
}

fn host_of(authority: &str) -> String {
    let host = authority.split(':').next().unwrap_or_default();
    host.to_lowercase()
}

/// Whether a request for `host` goes to this listener, and not to a more specific one of the same port.
fn takes_host(gateway: &Gateway, listener: &Listener, host: &str) -> bool {
    let best = gateway
        .spec
        .listeners
        .iter()
        .filter(|other| other.port == listener.port)
        .filter_map(|other| specificity(other.hostname.as_deref(), host))
        .max();
    let own = specificity(listener.hostname.as_deref(), host);
    own.is_some() && own == best
}

/// Characters that match exactly, and characters that match at all; `None` if the host does not match.
fn specificity(pattern: Option<&str>, host: &str) -> Option<(usize, usize)> {
    let Some(pattern) = pattern else {
        return Some((0, 0));
    };
    let Some(domain) = pattern.strip_prefix("*.") else {
        return (pattern == host).then_some((pattern.len(), pattern.len()));
    };
    let wanted: Vec<_> = domain.split('.').rev().collect();
    let labels: Vec<_> = host.split('.').rev().collect();
    (labels.len() > wanted.len() && labels[..wanted.len()] == wanted[..])
        .then_some((0, pattern.len()))
}

/// The first of the rules that a request meets; of two kinds of routes, of the kind of the oldest.
fn first<'w>(
    routes: impl Iterator<Item = &'w Route>,
    head: &Head<'_>,
    by_host: bool,
) -> Option<Winner<'w>> {
    let mut met: Vec<(Place, bool, Winner<'w>)> = Vec::new();
    for route in routes {
        let host = if by_host {
            best_host(route, head)
        } else {
            Some((0, 0))
        };
        if let Some(host) = host {
            meet(route, head, host, &mut met);
        }
    }
    let age = |place: &Place| place.3.clone();
    let oldest = met.iter().min_by_key(|(place, ..)| age(place))?.1;
    met.retain(|(_, grpc, _)| *grpc == oldest);
    let first = met.into_iter().min_by(|one, other| one.0.cmp(&other.0))?;
    Some(first.2)
}

fn best_host(route: &Route, head: &Head<'_>) -> Option<(usize, usize)> {
    let host = host_of(head.authority);
    if route.hostnames().is_empty() {
        return Some((0, 0));
    }
    let names = route.hostnames().iter();
    names
        .filter_map(|name| specificity(Some(name), &host))
        .max()
}

fn meet<'w>(
    route: &'w Route,
    head: &Head<'_>,
    host: (usize, usize),
    met: &mut Vec<(Place, bool, Winner<'w>)>,
) {
    let metadata = route.metadata();
    let age = (
        metadata.creation_timestamp.as_deref().map(str::to_owned),
        metadata.namespace.to_string(),
        metadata.name.to_string(),
    );
    let host = (Reverse(host.0), Reverse(host.1));
    let mut take = |path, rest, rule, index, grpc| {
        let place = (host, path, rest, age.clone(), (rule, index));
        met.push((place, grpc, Winner { route, rule }));
    };
    match route {
        Route::Http(it) => {
            for (rule, one) in it.spec.rules.iter().enumerate() {
                let mut matches = one.matches.clone();
                if matches.is_empty() {
                    matches.push(HttpMatch::default());
                }
                for (index, wanted) in matches.iter().enumerate() {
                    if let Some((path, rest)) = http(wanted, head) {
                        take(path, rest, rule, index, false);
                    }
                }
            }
        }
        Route::Grpc(it) => {
            for (rule, one) in it.spec.rules.iter().enumerate() {
                let mut matches = one.matches.clone();
                if matches.is_empty() {
                    matches.push(GrpcMatch::default());
                }
                for (index, wanted) in matches.iter().enumerate() {
                    if let Some((path, rest)) = grpc(wanted, head) {
                        take(path, rest, rule, index, true);
                    }
                }
            }
        }
    }
}

type PathPlace = (u8, Reverse<usize>, Reverse<usize>);
type RestPlace = (bool, Reverse<usize>, Reverse<usize>);

fn http(wanted: &HttpMatch, head: &Head<'_>) -> Option<(PathPlace, RestPlace)> {
    let (path, query) = head.path.split_once('?').unwrap_or((head.path, ""));
    let place = match &wanted.path {
        None => Some((2, 1)),
        Some(it) => {
            let long = it.value.chars().count();
            match it.kind {
                PathMatchKind::Exact => (path == &*it.value).then_some((0, long)),
                PathMatchKind::RegularExpression => whole(&it.value, path).then_some((1, long)),
                PathMatchKind::PathPrefix => is_under(path, &it.value).then_some((2, long)),
                PathMatchKind::Unknown => None,
            }
        }
    };
    let (class, long) = place?;
    if wanted
        .method
        .as_ref()
        .is_some_and(|method| **method != *head.method)
    {
        return None;
    }
    let headers = names(&wanted.headers, true, |name| header(head, name))?;
    let parameters = names(&wanted.query_params, false, |name| {
        query.split('&').find_map(|pair| {
            let (other, value) = pair.split_once('=').unwrap_or((pair, ""));
            (other == name).then(|| value.to_owned())
        })
    })?;
    let path = (class, Reverse(long), Reverse(0));
    let rest = (
        wanted.method.is_none(),
        Reverse(headers),
        Reverse(parameters),
    );
    Some((path, rest))
}

fn grpc(wanted: &GrpcMatch, head: &Head<'_>) -> Option<(PathPlace, RestPlace)> {
    let path = head.path.split('?').next().unwrap_or_default();
    let elements: Vec<_> = path.splitn(3, '/').collect();
    let &["", service, method] = &elements[..] else {
        return None;
    };
    let mut lengths = (0, 0);
    if let Some(call) = &wanted.method {
        let fits = |text: &Option<std::sync::Arc<str>>, value: &str| match text.as_deref() {
            None | Some("") => Some(0),
            Some(text) => match call.kind {
                ValueMatchKind::Exact => text == value,
                ValueMatchKind::RegularExpression => whole(text, value),
                ValueMatchKind::Unknown => false,
            }
            .then(|| text.chars().count()),
        };
        lengths = (fits(&call.service, service)?, fits(&call.method, method)?);
    }
    let headers = names(&wanted.headers, true, |name| header(head, name))?;
    let path = (2, Reverse(lengths.0), Reverse(lengths.1));
    Some((path, (true, Reverse(headers), Reverse(0))))
}

/// How many names count, if the values of all of them fit; of one name the first entry alone counts.
fn names(
    wanted: &[NameMatch],
    fold: bool,
    value_of: impl Fn(&str) -> Option<String>,
) -> Option<usize> {
    let mut seen = BTreeSet::new();
    for one in wanted {
        let name = if fold {
            one.name.to_lowercase()
        } else {
            one.name.to_string()
        };
        if !seen.insert(name.clone()) {
            continue;
        }
        let value = value_of(&name)?;
        let fits = match one.kind {
            ValueMatchKind::Exact => value == *one.value,
            ValueMatchKind::RegularExpression => whole(&one.value, &value),
            ValueMatchKind::Unknown => false,
        };
        if !fits {
            return None;
        }
    }
    Some(seen.len())
}

fn header(head: &Head<'_>, name: &str) -> Option<String> {
    let values: Vec<_> = head
        .headers
        .iter()
        .filter(|(other, _)| *other == name)
        .map(|(_, value)| *value)
        .collect();
    (!values.is_empty()).then(|| values.join(","))
}

fn whole(pattern: &str, text: &str) -> bool {
    let pattern = Regex::new(&format!("\\A(?:{pattern})\\z")).expect("the generator's pattern");
    pattern.is_match(text)
}

fn is_under(path: &str, prefix: &str) -> bool {
    let elements = |text: &str| text.split('/').map(str::to_owned).collect::<Vec<_>>();
    let mut wanted = elements(prefix);
    if wanted.last().is_some_and(String::is_empty) {
        wanted.pop();
    }
    elements(path).starts_with(&wanted)
}

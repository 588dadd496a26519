//! Attachment: through which listeners and Services requests can reach a route.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::head::Parts;
use super::hostname::Hostname;
use super::object::{
    AllowedRoutes, FromNamespaces, GATEWAY_GROUP, Gateway, LabelSelector, Listener, ObjectKey,
    ParentRef, Route, RouteKind,
};

/// The labels of a namespace.
pub(crate) type Labels = BTreeMap<Arc<str>, Arc<str>>;

/// One way by which requests come in: a listener, or a Service inside a mesh.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Entrance {
    /// A listener of a Gateway.
    Listener {
        gateway: ObjectKey,
        name: Arc<str>,
        /// The hosts it is for.
        hostname: Hostname,
        /// The hosts that go to a narrower listener of the same port.
        elsewhere: Vec<Hostname>,
    },
    /// A Service that clients in the mesh call.
    Service {
        service: ObjectKey,
        /// The only port that is meant.
        port: Option<u16>,
        /// The namespace whose clients alone take it, where the routes stand outside of the Service's namespace.
        consumers: Option<Arc<str>>,
    },
}

/// Why a reference to a parent does not attach its route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Detached {
    /// The Gateway has no listener of that name or port.
    Listener,
    /// No listener takes routes of this namespace.
    Namespace,
    /// No listener takes routes of this kind.
    RouteKind,
    /// No listener has a host of the route.
    Hostname,
}

impl Entrance {
    /// The entrances of a Gateway: its listeners for HTTP, in order.
    pub(crate) fn of_gateway(gateway: &Gateway) -> Vec<Arc<Self>> {
        let key = gateway.metadata.key();
        let hostname = |listener: &Listener| Hostname::of(listener.hostname.as_deref());
        let listeners = &gateway.spec.listeners;
        let entrance = |listener: &Listener| {
            let own = hostname(listener);
            let siblings = listeners
                .iter()
                .filter(|other| other.port == listener.port && carries_http(other));
            let elsewhere = siblings
                .map(hostname)
                .filter(|other| other.is_narrower_than(&own));
            Arc::new(Self::Listener {
                gateway: key.clone(),
                name: listener.name.clone(),
                elsewhere: elsewhere.collect(),
                hostname: own,
            })
        };
        listeners.iter().map(entrance).collect()
    }

    /// The entrance of a Service, for a route in `namespace`.
    pub(crate) fn of_service(reference: &ParentRef, namespace: &Arc<str>) -> Self {
        let service = reference.target(namespace);
        let consumers = (service.namespace != *namespace).then(|| namespace.clone());
        Self::Service {
            service,
            port: reference.port,
            consumers,
        }
    }

    /// Whether a request with this head can have come in here.
    pub(super) fn admits(&self, parts: &Parts<'_>) -> bool {
        match self {
            Self::Listener {
                hostname,
                elsewhere,
                ..
            } => {
                hostname.matches(&parts.host)
                    && !elsewhere.iter().any(|other| other.matches(&parts.host))
            }
            Self::Service { port, .. } => match (port, parts.port) {
                (Some(wanted), Some(port)) => *wanted == port,
                _ => true,
            },
        }
    }

    /// The hosts by which clients call a Service; none for a listener.
    pub(crate) fn service_hosts(&self) -> Vec<Hostname> {
        let Self::Service { service, .. } = self else {
            return Vec::new();
        };
        let ObjectKey { namespace, name } = service;
        let hosts = [
            name.to_string(),
            format!("{name}.{namespace}"),
            format!("{name}.{namespace}.svc"),
            format!("{name}.{namespace}.svc.cluster.local"),
        ];
        hosts.map(|host| Hostname::of(Some(&host))).into()
    }
}

/// The listeners of `gateway` that take `route` by the reference `reference`.
///
/// `labels` are those of the route's namespace.
///
/// # Errors
/// [`Detached`], the first of its reasons that leaves no listener.
pub(crate) fn attach(
    route: &Route,
    reference: &ParentRef,
    gateway: &Gateway,
    labels: Option<&Labels>,
) -> Result<Vec<usize>, Detached> {
    let mut left: Vec<(usize, &Listener)> = gateway.spec.listeners.iter().enumerate().collect();
    let mut narrow = |keep: &dyn Fn(&Listener) -> bool, reason| {
        left.retain(|(_, listener)| keep(listener));
        if left.is_empty() { Err(reason) } else { Ok(()) }
    };
    let section = reference.section_name.as_deref().unwrap_or_default();
    narrow(
        &|listener| {
            (section.is_empty() || *section == *listener.name)
                && reference.port.is_none_or(|port| port == listener.port)
        },
        Detached::Listener,
    )?;
    let kind = route.kind();
    narrow(
        &|listener| carries_http(listener) && takes_kind(&listener.allowed_routes, kind),
        Detached::RouteKind,
    )?;
    let from = &route.metadata().namespace;
    let home = &gateway.metadata.namespace;
    narrow(
        &|listener| takes_namespace(&listener.allowed_routes, from, home, labels),
        Detached::Namespace,
    )?;
    narrow(
        &|listener| {
            let host = Hostname::of(listener.hostname.as_deref());
            hosts(route).iter().any(|own| own.intersects(&host))
        },
        Detached::Hostname,
    )?;
    Ok(left.into_iter().map(|(index, _)| index).collect())
}

/// The hosts that a route is for.
pub(crate) fn hosts(route: &Route) -> Vec<Hostname> {
    let names = route.hostnames();
    if names.is_empty() {
        return vec![Hostname::Any];
    }
    let mut hosts: Vec<_> = names.iter().map(|name| Hostname::of(Some(name))).collect();
    hosts.sort();
    hosts.dedup();
    hosts
}

fn carries_http(listener: &Listener) -> bool {
    matches!(&*listener.protocol, "HTTP" | "HTTPS")
}

fn takes_kind(allowed: &AllowedRoutes, kind: RouteKind) -> bool {
    let name = kind.to_string();
    allowed.kinds.is_empty()
        || allowed
            .kinds
            .iter()
            .any(|it| &*it.group == GATEWAY_GROUP && *it.kind == *name)
}

fn takes_namespace(
    allowed: &AllowedRoutes,
    from: &Arc<str>,
    home: &Arc<str>,
    labels: Option<&Labels>,
) -> bool {
    match allowed.namespaces.from {
        FromNamespaces::All => true,
        FromNamespaces::Same => from == home,
        FromNamespaces::None => false,
        FromNamespaces::Selector => {
            let selector = allowed.namespaces.selector.as_ref();
            selector.is_some_and(|selector| labels.is_some_and(|labels| selects(selector, labels)))
        }
    }
}

/// Whether a selector chooses an object with these labels; an empty one chooses all.
fn selects(selector: &LabelSelector, labels: &Labels) -> bool {
    let equal = |(key, value): (&Arc<str>, &Arc<str>)| labels.get(key) == Some(value);
    let holds = |key: &Arc<str>, operator: &str, values: &[Arc<str>]| {
        let value = labels.get(key);
        let listed = value.is_some_and(|value| values.contains(value));
        match operator {
            "In" => listed,
            "NotIn" => !listed,
            "Exists" => value.is_some(),
            "DoesNotExist" => value.is_none(),
            _ => false,
        }
    };
    selector.match_labels.iter().all(equal)
        && selector
            .match_expressions
            .iter()
            .all(|it| holds(&it.key, &it.operator, &it.values))
}

//! Routes that requests cannot reach: parents, listeners, namespaces, kinds and hostnames that do not fit.

use super::{Finding, Fleet, Kind, Reason};
use crate::route::attachment::{self, Detached};
use crate::route::hostname::Hostname;
use crate::route::object::{FromNamespaces, Gateway, Listener, ParentRef, Route};

pub(super) fn find(fleet: &Fleet, route: &Route, findings: &mut Vec<Finding>) {
    let mut tell = |field: &str, reason, text, fix| {
        findings.push(Finding::of_route(route, field, reason, text, fix));
    };
    if route.parent_refs().is_empty() {
        let text = "it has no parentRefs, so no gateway sends requests by it".to_owned();
        let fix = "spec:\n  parentRefs:\n  - name: GATEWAY".to_owned();
        tell("spec.parentRefs", Reason::NotAttached, text, fix);
    }
    for (index, name) in route.hostnames().iter().enumerate() {
        if let Some(why) = invalid(name) {
            let text = format!("the hostname {name} {why}, so no request has it");
            let fix = format!("spec:\n  hostnames:\n  - {}", repaired(name));
            let field = format!("spec.hostnames[{index}]");
            tell(&field, Reason::HostnameInvalid, text, fix);
        }
    }
    for (index, reference) in route.parent_refs().iter().enumerate() {
        if let Some((reason, text, fix)) = unattached(fleet, route, reference) {
            let field = match reason {
                Reason::HostnameNotServed => "spec.hostnames".to_owned(),
                _ => format!("spec.parentRefs[{index}]"),
            };
            tell(&field, reason, text, fix);
        }
    }
    find_unserved(fleet, route, findings);
}

/// Tells of hostnames that none of the listeners has to which the route is attached, where others are served.
fn find_unserved(fleet: &Fleet, route: &Route, findings: &mut Vec<Finding>) {
    let mut served = Vec::new();
    for reference in route.parent_refs() {
        let target = reference.target(&route.metadata().namespace);
        // In a mesh, and at a Gateway that is not known, any host may be served.
        let Some(gateway) = fleet
            .table
            .gateway(&target)
            .filter(|_| reference.is_gateway())
        else {
            return;
        };
        let labels = fleet.table.labels(&route.metadata().namespace);
        let attached = attachment::attach(route, reference, gateway, labels).unwrap_or_default();
        let listeners = attached
            .into_iter()
            .map(|index| &gateway.spec.listeners[index]);
        served.extend(listeners.map(|it| (Hostname::of(it.hostname.as_deref()), gateway, it)));
    }
    let Some((_, gateway, listener)) = served.first() else {
        return;
    };
    for (index, name) in route.hostnames().iter().enumerate() {
        let host = Hostname::of(Some(name));
        if invalid(name).is_some() || served.iter().any(|(it, ..)| it.intersects(&host)) {
            continue;
        }
        let key = gateway.metadata.key();
        let text = format!(
            "no listener that takes the route has its hostname {name}: only the others are served"
        );
        let fix = format!(
            "# Gateway {key}\nspec:\n  listeners:\n  - name: NEW\n    hostname: \"{name}\"\n    port: {}\n    protocol: {}",
            listener.port, listener.protocol
        );
        let field = format!("spec.hostnames[{index}]");
        let reason = Reason::HostnameNotServed;
        findings.push(Finding::of_route(route, &field, reason, text, fix));
    }
}

/// Why one reference attaches nothing, and what to do about it.
fn unattached(
    fleet: &Fleet,
    route: &Route,
    reference: &ParentRef,
) -> Option<(Reason, String, String)> {
    let target = reference.target(&route.metadata().namespace);
    if reference.is_service() {
        let missing = fleet.lacks_service(&target);
        let text = format!("it is attached to the Service {target}, which does not exist");
        let fix = format!(
            "spec:\n  parentRefs:\n  - group: \"\"\n    kind: Service\n    name: SERVICE  # of {}",
            target.namespace
        );
        return missing.then_some((Reason::ServiceMissing, text, fix));
    }
    if !reference.is_gateway() {
        let kind = format!("{}/{}", reference.group, reference.kind);
        let name = &reference.name;
        let text = format!(
            "its parent {name} is a {kind}: routes to pools attach to Gateways (group gateway.networking.k8s.io) and Services (group \"\")"
        );
        let fix = match &*reference.kind {
            "Service" => format!(
                "spec:\n  parentRefs:\n  - group: \"\"\n    kind: Service\n    name: {name}"
            ),
            _ => format!(
                "spec:\n  parentRefs:\n  - group: gateway.networking.k8s.io\n    kind: Gateway\n    name: {name}"
            ),
        };
        return Some((Reason::ParentUnsupported, text, fix));
    }
    let Some(gateway) = fleet.table.gateway(&target) else {
        if !fleet.known.has(Kind::Gateway, &target.namespace) {
            return None;
        }
        let text = format!("its parent, the Gateway {target}, does not exist");
        let fix = format!(
            "spec:\n  parentRefs:\n  - name: GATEWAY\n    namespace: {}",
            target.namespace
        );
        return Some((Reason::GatewayMissing, text, fix));
    };
    let labels = fleet.table.labels(&route.metadata().namespace);
    let detached = attachment::attach(route, reference, gateway, labels).err()?;
    let mut listeners = gateway.spec.listeners.iter();
    let by_labels = |it: &Listener| it.allowed_routes.namespaces.from == FromNamespaces::Selector;
    if matches!(detached, Detached::Namespace)
        && !fleet
            .known
            .has(Kind::Namespace, &route.metadata().namespace)
        && listeners.any(by_labels)
    {
        return None;
    }
    Some(explain(route, reference, gateway, &detached))
}

fn explain(
    route: &Route,
    reference: &ParentRef,
    gateway: &Gateway,
    detached: &Detached,
) -> (Reason, String, String) {
    let key = gateway.metadata.key();
    let listeners = &gateway.spec.listeners;
    let names: Vec<_> = listeners.iter().map(|it| &*it.name).collect();
    let first = names.first().copied().unwrap_or("LISTENER");
    // The listener to change: the one that is named, or else the first.
    let named = reference.section_name.as_deref().unwrap_or(first);
    let namespace = &route.metadata().namespace;
    let kind = route.kind();
    match detached {
        Detached::Listener => {
            let section = reference.section_name.as_deref();
            let section = section.map_or(String::new(), |name| format!(" {name}"));
            let port = reference
                .port
                .map_or(String::new(), |port| format!(" on port {port}"));
            let has = names.join(", ");
            let text = format!("the Gateway {key} has no listener{section}{port}; it has {has}");
            let fix = format!(
                "spec:\n  parentRefs:\n  - name: {}\n    namespace: {}\n    sectionName: {first}",
                key.name, key.namespace
            );
            (Reason::ListenerMissing, text, fix)
        }
        Detached::RouteKind => {
            let text = format!("no listener of the Gateway {key} that it names takes {kind}s");
            let fix = format!(
                "# Gateway {key}\nspec:\n  listeners:\n  - name: {}\n    protocol: HTTP\n    allowedRoutes:\n      kinds:\n      - kind: {kind}",
                named
            );
            (Reason::KindNotAllowed, text, fix)
        }
        Detached::Namespace => {
            let text = format!(
                "no listener of the Gateway {key} that it names takes routes of the namespace {namespace}"
            );
            let fix = format!(
                "# Gateway {key}\nspec:\n  listeners:\n  - name: {}\n    allowedRoutes:\n      namespaces:\n        from: Selector\n        selector:\n          matchLabels:\n            kubernetes.io/metadata.name: {namespace}",
                named
            );
            (Reason::NamespaceNotAllowed, text, fix)
        }
        Detached::Hostname => {
            let own = route.hostnames().join(", ");
            let theirs = listeners.iter().filter_map(|it| it.hostname.as_deref());
            let theirs: Vec<_> = theirs.collect();
            let text = format!(
                "its hostnames ({own}) are none of the Gateway {key}'s ({})",
                theirs.join(", ")
            );
            let host = route.hostnames().first().map_or("HOST", |it| it);
            let fix = format!(
                "# Gateway {key}\nspec:\n  listeners:\n  - name: NEW\n    hostname: \"{host}\"\n    port: {}\n    protocol: {}",
                listeners[0].port, listeners[0].protocol
            );
            (Reason::HostnameNotServed, text, fix)
        }
    }
}

/// Why no request can have this hostname.
fn invalid(name: &str) -> Option<&'static str> {
    let domain = name.strip_prefix("*.").unwrap_or(name);
    if domain.contains('*') {
        return Some("has a wildcard that is not its first label alone");
    }
    if domain.contains(':') || domain.parse::<std::net::IpAddr>().is_ok() {
        return Some("is an address or has a port");
    }
    None
}

fn repaired(name: &str) -> String {
    match name.split_once(':') {
        Some((host, _)) if !host.is_empty() && host.parse::<std::net::IpAddr>().is_err() => {
            host.to_owned()
        }
        _ if name.contains('*') => {
            let after = name.rsplit_once('*').map_or("", |(_, rest)| rest);
            format!(
                "\"*.{}\"",
                after
                    .trim_start_matches(|it| it != '.')
                    .trim_start_matches('.')
            )
        }
        _ => {
            "HOST  # a name, not an address; without hostnames a route is for every host".to_owned()
        }
    }
}

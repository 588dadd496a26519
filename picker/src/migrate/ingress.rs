//! Ingresses made into HTTPRoutes: one for each host, whose rules lead to pools where Services are model servers.

use std::collections::BTreeMap;
use std::sync::Arc;

use picker_core::route::object::ObjectKey;
use serde::Deserialize;
use serde_json::{Value, json};

use super::annotation::{self, Annotations, Canary};
use super::notice::Notices;
use super::pool::{Pools, PortName};
use crate::manifest::{Document, ManifestError};
use crate::settings::GatewayArgument;

/// The most rules of an HTTPRoute (Gateway API, `apis/v1/httproute_types.go`).
const RULES_MAX: usize = 16;

#[derive(Deserialize)]
struct Ingress {
    metadata: IngressMetadata,
    #[serde(default)]
    spec: IngressSpec,
}

#[derive(Deserialize)]
struct IngressMetadata {
    name: Arc<str>,
    namespace: Arc<str>,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct IngressSpec {
    ingress_class_name: Option<String>,
    default_backend: Option<Backend>,
    tls: Vec<Value>,
    rules: Vec<HostRule>,
}

#[derive(Deserialize)]
struct HostRule {
    #[serde(default)]
    host: Option<String>,
    #[serde(default)]
    http: Option<Paths>,
}

#[derive(Deserialize)]
struct Paths {
    paths: Vec<Path>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Path {
    #[serde(default)]
    path: Option<String>,
    #[serde(default)]
    path_type: Option<String>,
    backend: Backend,
}

#[derive(Deserialize)]
struct Backend {
    #[serde(default)]
    service: Option<ServiceBackend>,
}

#[derive(Deserialize)]
struct ServiceBackend {
    name: Arc<str>,
    #[serde(default)]
    port: Option<ServicePort>,
}

#[derive(Deserialize)]
struct ServicePort {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    number: Option<u16>,
}

/// The rules of one host in one namespace, by what they match.
#[derive(Default)]
struct Host {
    /// The Ingress that has it first; the route is named for it.
    ingress: Arc<str>,
    rules: Vec<Rule>,
}

struct Rule {
    matched: Value,
    filters: Vec<Value>,
    backends: Vec<Value>,
}

/// Makes the routes of all Ingresses, canaries after those that they are canaries of.
pub(super) fn convert(
    documents: &[&Document],
    gateway: &GatewayArgument,
    pools: &mut Pools<'_>,
    notices: &mut Notices,
) -> Result<Vec<Value>, ManifestError> {
    let mut hosts: BTreeMap<(Arc<str>, Option<String>), Host> = BTreeMap::new();
    let mut read = Vec::new();
    for document in documents {
        let ingress: Ingress = document.read_as()?;
        let title = format!(
            "Ingress {}/{}",
            ingress.metadata.namespace, ingress.metadata.name
        );
        let annotations = annotation::read(&title, &ingress.metadata.annotations, notices);
        around(&title, &ingress.spec, notices);
        read.push((ingress, title, annotations));
    }
    read.sort_by_key(|(_, _, annotations)| annotations.canary.is_some());
    for (ingress, title, annotations) in &read {
        take(ingress, title, annotations, &mut hosts, pools, notices);
    }
    let mut routes = Vec::new();
    let mut count: BTreeMap<(Arc<str>, Arc<str>), usize> = BTreeMap::new();
    for ((namespace, _), host) in &hosts {
        *count
            .entry((namespace.clone(), host.ingress.clone()))
            .or_default() += 1;
    }
    for ((namespace, name), host) in hosts {
        let alone = count[&(namespace.clone(), host.ingress.clone())] == 1;
        routes.extend(host.routes(&namespace, name.as_deref(), alone, gateway));
    }
    Ok(routes)
}

/// What an Ingress says beside its rules.
fn around(title: &str, spec: &IngressSpec, notices: &mut Notices) {
    if let Some(class) = &spec.ingress_class_name {
        let text = format!("{class}: the Gateway's class says who serves it");
        notices.dropped(title, "spec.ingressClassName", text);
    }
    for (index, tls) in spec.tls.iter().enumerate() {
        let secret = tls["secretName"].as_str().unwrap_or("its certificate");
        let text = format!(
            "certificates belong to the Gateway: a listener of protocol HTTPS with tls.certificateRefs [{{name: {secret}}}]"
        );
        notices.left(title, &format!("spec.tls[{index}]"), text);
    }
}

fn take(
    ingress: &Ingress,
    title: &str,
    annotations: &Annotations,
    hosts: &mut BTreeMap<(Arc<str>, Option<String>), Host>,
    pools: &mut Pools<'_>,
    notices: &mut Notices,
) {
    let namespace = &ingress.metadata.namespace;
    let mut add = |host: Option<&String>, path: &Path, field: &str, notices: &mut Notices| {
        let backend = backend(namespace, (title, field), &path.backend, pools, notices);
        let Some(backend) = backend else { return };
        let (matched, filters) = conditions((title, field), path, annotations, notices);
        let host = hosts.entry((namespace.clone(), host.cloned())).or_default();
        if host.ingress.is_empty() {
            host.ingress = ingress.metadata.name.clone();
        }
        host.add(
            Rule {
                matched,
                filters,
                backends: vec![backend],
            },
            annotations.canary.as_ref(),
        );
    };
    for (index, rule) in ingress.spec.rules.iter().enumerate() {
        let paths = rule.http.iter().flat_map(|http| &http.paths);
        for (number, path) in paths.enumerate() {
            let field = format!("spec.rules[{index}].http.paths[{number}]");
            add(rule.host.as_ref(), path, &field, notices);
        }
    }
    if let Some(backend) = &ingress.spec.default_backend {
        let path = Path {
            path: Some("/".to_owned()),
            path_type: Some("Prefix".to_owned()),
            backend: Backend {
                service: backend.service.as_ref().map(|it| ServiceBackend {
                    name: it.name.clone(),
                    port: it.port.as_ref().map(|port| ServicePort {
                        name: port.name.clone(),
                        number: port.number,
                    }),
                }),
            },
        };
        add(None, &path, "spec.defaultBackend", notices);
        if ingress.spec.rules.iter().any(|rule| rule.host.is_some()) {
            let text = "it gets the requests of other hosts; at a host of its own rules, a path that none of them has gets a 404: add a rule for / there if it is wanted";
            notices.left(title, "spec.defaultBackend", text);
        }
    }
}

/// A backend of a rule: a pool, or the Service as it was.
fn backend(
    namespace: &Arc<str>,
    (title, field): (&str, &str),
    backend: &Backend,
    pools: &mut Pools<'_>,
    notices: &mut Notices,
) -> Option<Value> {
    let Some(service) = &backend.service else {
        let text = "its backend is no Service, and routes know none of that kind";
        notices.left(title, field, text);
        return None;
    };
    let key = ObjectKey {
        namespace: namespace.clone(),
        name: service.name.clone(),
    };
    let port = match service.port.as_ref() {
        Some(ServicePort {
            number: Some(number),
            ..
        }) => PortName::Number(*number),
        Some(ServicePort {
            name: Some(name), ..
        }) => PortName::Name(name.clone()),
        _ => PortName::Any,
    };
    if let Some(pool) = pools.of_backend((title, field), &key, &port, notices) {
        return Some(json!({
            "group": "inference.networking.k8s.io",
            "kind": "InferencePool",
            "name": pool.name,
        }));
    }
    let number = match &port {
        PortName::Number(number) => Some(*number),
        PortName::Name(name) => pools.port_names.get(&(key.clone(), name.clone())).copied(),
        PortName::Any => None,
    };
    let Some(number) = number else {
        let text = format!(
            "the port of Service {key} has no number here; give the Service, or write the number"
        );
        notices.left(title, field, text);
        return None;
    };
    Some(json!({"name": key.name, "port": number}))
}

/// What a path matches, and what is done to the request on its way.
fn conditions(
    (title, field): (&str, &str),
    path: &Path,
    annotations: &Annotations,
    notices: &mut Notices,
) -> (Value, Vec<Value>) {
    let mut value = path.path.clone().unwrap_or_else(|| "/".to_owned());
    let mut kind = match path.path_type.as_deref() {
        Some("Exact") => "Exact",
        _ => "PathPrefix",
    };
    let mut filters = Vec::new();
    let mut is_plain = false;
    let rewrite = annotations.rewrite.as_deref();
    let rewrites = "metadata.annotations[nginx.ingress.kubernetes.io/rewrite-target]";
    let stripped = value.strip_suffix("(/|$)(.*)").map(str::to_owned);
    match (rewrite, stripped) {
        (Some(target), Some(prefix))
            if target.ends_with("$2") && !target[..target.len() - 2].contains('$') =>
        {
            let to = target.trim_end_matches("$2");
            filters.push(rewrite_filter(
                "ReplacePrefixMatch",
                "replacePrefixMatch",
                to,
            ));
            notices.converted(title, rewrites, format!("the prefix {prefix} becomes {to}"));
            (value, kind, is_plain) = (prefix, "PathPrefix", true);
        }
        (Some(target), _) if !target.contains('$') => {
            filters.push(rewrite_filter("ReplaceFullPath", "replaceFullPath", target));
            notices.converted(
                title,
                rewrites,
                format!("every path becomes {target}, as nginx does it"),
            );
        }
        (Some(target), _) => {
            let text = format!(
                "{target} takes parts of a regular expression, which an HTTPRoute cannot; use a prefix and ReplacePrefixMatch"
            );
            notices.left(title, rewrites, text);
        }
        (None, _) => {}
    }
    let is_pattern = value.contains(['(', '[', '*', '$', '|', '\\', '^', '+']);
    if kind == "PathPrefix" && !is_plain && value != "/" && (annotations.regex || is_pattern) {
        kind = "RegularExpression";
        // nginx takes an expression for the beginning of a path, gateways for all of it.
        if !value.ends_with('$') && !value.ends_with(".*") {
            value += ".*";
        }
        let text =
            "gateways differ in how regular expressions stand to other paths; a prefix is surer";
        notices.left(title, field, text);
    } else if path.path_type.as_deref() == Some("ImplementationSpecific") {
        notices.converted(
            title,
            field,
            format!("ImplementationSpecific {value} becomes a PathPrefix"),
        );
    }
    if value.is_empty() {
        "/".clone_into(&mut value);
    }
    (json!({"path": {"type": kind, "value": value}}), filters)
}

fn rewrite_filter(kind: &str, field: &str, to: &str) -> Value {
    let to = if to.is_empty() { "/" } else { to };
    json!({"type": "URLRewrite", "urlRewrite": {"path": {"type": kind, field: to}}})
}

impl Host {
    /// Takes over a rule: a canary shares those of its main Ingress, a rule for the same pool joins another.
    fn add(&mut self, mut rule: Rule, canary: Option<&Canary>) {
        let main = self.rules.iter_mut().find(|it| it.matched == rule.matched);
        match (canary, main) {
            (Some(Canary::Weight(part, of)), Some(main)) if main.backends.len() == 1 => {
                main.backends[0]["weight"] = json!(of - part);
                rule.backends[0]["weight"] = json!(part);
                main.backends.extend(rule.backends);
            }
            (Some(Canary::Header(name, value)), _) => {
                rule.matched["headers"] = json!([{"name": name, "value": value}]);
                self.rules.push(rule);
            }
            (Some(_), _) => {}
            // Of two paths that are the same, an Ingress controller takes the first.
            (None, Some(_)) => {}
            (None, None) => self.rules.push(rule),
        }
    }

    fn routes(
        self,
        namespace: &str,
        host: Option<&str>,
        alone: bool,
        gateway: &GatewayArgument,
    ) -> Vec<Value> {
        let mut joined: Vec<Value> = Vec::new();
        for rule in self.rules {
            let same = joined.iter_mut().find(|it| {
                it["backendRefs"] == json!(rule.backends)
                    && it["filters"] == filters_of(&rule.filters)
                    && it["matches"]
                        .as_array()
                        .is_some_and(|matches| matches.len() < 8)
            });
            match same {
                Some(other) => {
                    if let Some(matches) = other["matches"].as_array_mut() {
                        matches.push(rule.matched);
                    }
                }
                None => joined.push(json!({
                    "matches": [rule.matched],
                    "filters": filters_of(&rule.filters),
                    "backendRefs": rule.backends,
                })),
            }
        }
        for rule in &mut joined {
            if let Some(fields) = rule.as_object_mut() {
                fields.retain(|_, value| !value.is_null());
            }
        }
        let base = match host {
            Some(host) if !alone => {
                format!(
                    "{}-{}",
                    self.ingress,
                    host.replace("*.", "any-").replace('.', "-")
                )
            }
            _ => self.ingress.to_string(),
        };
        let mut parent = json!({"name": gateway.name});
        if let Some(namespace) = &gateway.namespace {
            parent["namespace"] = json!(namespace);
        }
        let chunks = joined.chunks(RULES_MAX).enumerate();
        let route = |(index, rules): (usize, &[Value])| {
            let name = match index {
                0 => base.clone(),
                _ => format!("{base}-{}", index + 1),
            };
            let mut route = json!({
                "apiVersion": "gateway.networking.k8s.io/v1",
                "kind": "HTTPRoute",
                "metadata": {"name": name, "namespace": namespace},
                "spec": {"parentRefs": [parent], "rules": rules},
            });
            if let Some(host) = host {
                route["spec"]["hostnames"] = json!([host]);
            }
            route
        };
        chunks.map(route).collect()
    }
}

fn filters_of(filters: &[Value]) -> Value {
    match filters {
        [] => Value::Null,
        some => json!(some),
    }
}

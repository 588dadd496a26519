//! Routes to Services made into routes to pools; what else they say stays as it is.

use picker_core::route::object::ObjectKey;
use serde_json::{Value, json};

use super::notice::Notices;
use super::pool::{Pools, PortName};
use crate::manifest::Document;

/// What the API server or its clients write into an object, which is not for another one to be made of.
const SERVER_FIELDS: &[&str] = &[
    "uid",
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "managedFields",
    "selfLink",
    "ownerReferences",
];

/// What a route becomes, with the grants that its pools of other namespaces need; `None` if none of its backends is
/// converted.
pub(super) fn convert(
    document: &Document,
    pools: &mut Pools<'_>,
    notices: &mut Notices,
) -> Option<Vec<Value>> {
    let kind = document.kind().to_owned();
    let namespace = document.namespace().unwrap_or_default();
    let title = format!("{kind} {namespace}/{}", document.name());
    let mut route = document.object.clone();
    let mut grants = Vec::new();
    let mut converted = false;
    let rules = route.pointer_mut("/spec/rules");
    let rules = rules.and_then(Value::as_array_mut);
    for (index, rule) in rules.into_iter().flatten().enumerate() {
        around(&title, index, rule, notices);
        let backends = rule.get_mut("backendRefs");
        let backends = backends.and_then(Value::as_array_mut);
        for (place, backend) in backends.into_iter().flatten().enumerate() {
            let field = format!("spec.rules[{index}].backendRefs[{place}]");
            let Some(pool) = pool_of((&title, &field), namespace, backend, pools, notices) else {
                continue;
            };
            converted = true;
            backend["group"] = json!("inference.networking.k8s.io");
            backend["kind"] = json!("InferencePool");
            backend["name"] = json!(pool.name);
            if let Some(fields) = backend.as_object_mut() {
                fields.remove("port");
            }
            if &*pool.namespace != namespace {
                let grant = grant(&kind, namespace, &pool);
                notices.converted(
                    &title,
                    &field,
                    format!(
                        "a ReferenceGrant in {} lets the route refer to the pool",
                        pool.namespace
                    ),
                );
                if !grants.contains(&grant) {
                    grants.push(grant);
                }
            }
        }
    }
    if !converted {
        return None;
    }
    let mut objects = vec![cleaned(route)];
    objects.extend(grants);
    Some(objects)
}

fn pool_of(
    (title, field): (&str, &str),
    namespace: &str,
    backend: &Value,
    pools: &mut Pools<'_>,
    notices: &mut Notices,
) -> Option<ObjectKey> {
    let word = |name: &str| backend[name].as_str().unwrap_or_default();
    match (word("group"), word("kind")) {
        ("", "" | "Service") => {}
        ("inference.networking.k8s.io", "InferencePool") => {
            notices.dropped(title, field, "it is an InferencePool already");
            return None;
        }
        (group, kind) => {
            let text = format!("it is a {kind} of the group {group}, and stays what it is");
            notices.left(title, field, text);
            return None;
        }
    }
    let of = Some(word("namespace")).filter(|it| !it.is_empty());
    let key = ObjectKey {
        namespace: of.unwrap_or(namespace).into(),
        name: word("name").into(),
    };
    let port = backend["port"]
        .as_u64()
        .and_then(|it| u16::try_from(it).ok());
    let port = port.map_or(PortName::Any, PortName::Number);
    pools.of_backend((title, field), &key, &port, notices)
}

/// What a rule says that means something else for a pool of model servers.
fn around(title: &str, index: usize, rule: &Value, notices: &mut Notices) {
    let field = format!("spec.rules[{index}]");
    if rule["sessionPersistence"].is_object() {
        let text = "it stays, and where the gateway obeys it, it goes before the picker's choice: take it away unless sessions need it";
        notices.left(title, &format!("{field}.sessionPersistence"), text);
    }
    let request = rule["timeouts"]["request"].as_str();
    if let Some(timeout) = request.filter(|it| seconds(it).is_some_and(|it| it > 0.0 && it < 60.0))
    {
        let text = format!(
            "{timeout} is over before many answers of a model are; it stays: make it longer than the longest answer, or 0s"
        );
        notices.left(title, &format!("{field}.timeouts.request"), text);
    }
}

/// A duration of the Gateway API: `1h30m`, `10s`, `500ms`.
fn seconds(text: &str) -> Option<f64> {
    let mut total = 0.0;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|it: char| !it.is_ascii_digit())?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let (unit, factor) = [("ms", 0.001), ("h", 3600.0), ("m", 60.0), ("s", 1.0)]
            .into_iter()
            .find(|(unit, _)| rest.starts_with(unit))?;
        total += number * factor;
        rest = &rest[unit.len()..];
    }
    Some(total)
}

fn grant(kind: &str, namespace: &str, pool: &ObjectKey) -> Value {
    json!({
        "apiVersion": "gateway.networking.k8s.io/v1beta1",
        "kind": "ReferenceGrant",
        "metadata": {"name": format!("{namespace}-to-{}", pool.name), "namespace": pool.namespace},
        "spec": {
            "from": [{"group": "gateway.networking.k8s.io", "kind": kind, "namespace": namespace}],
            "to": [{"group": "inference.networking.k8s.io", "kind": "InferencePool", "name": pool.name}],
        },
    })
}

/// An object without what is of the one that was read alone.
pub(super) fn cleaned(mut object: Value) -> Value {
    if let Some(fields) = object.as_object_mut() {
        fields.remove("status");
    }
    let metadata = object.get_mut("metadata");
    if let Some(metadata) = metadata.and_then(Value::as_object_mut) {
        metadata.retain(|name, _| !SERVER_FIELDS.contains(&&**name));
        let annotations = metadata.get_mut("annotations");
        if let Some(annotations) = annotations.and_then(Value::as_object_mut) {
            annotations.remove("kubectl.kubernetes.io/last-applied-configuration");
            if annotations.is_empty() {
                metadata.remove("annotations");
            }
        }
    }
    object
}

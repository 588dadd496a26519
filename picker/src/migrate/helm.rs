//! Values of the charts that install a pool with llm-d's picker, made into the pool, its route, its objectives and the
//! settings of this picker.

use clap::CommandFactory;
use picker_core::route::object::ObjectKey;
use serde_json::{Map, Value, json};

use super::notice::Notices;
use super::pool::{picker_name, picker_ref, picker_service, pool_object};
use crate::settings::{Arguments, Migrate};

/// Where each chart has what the other calls otherwise (llm-d-router `config/charts/routerlib/values.yaml`, Gateway API
/// Inference Extension `config/charts/inferencepool/values.yaml`).
struct Shape {
    /// Above everything else.
    root: &'static str,
    picker: &'static str,
    servers: &'static str,
}

const ROUTER: Shape = Shape {
    root: "/router",
    picker: "/epp",
    servers: "/modelServers",
};
const INFERENCE_POOL: Shape = Shape {
    root: "",
    picker: "/inferenceExtension",
    servers: "/inferencePool/modelServers",
};

/// Parts of the values that mean nothing here, each with why; and those that have to be seen to by hand.
const PARTS: &[(&str, bool, &str)] = &[
    ("image", true, "the image is Pointsman's: deploy/Dockerfile"),
    (
        "extProcPort",
        true,
        "the picker listens on 9002, and the pool says so",
    ),
    ("grpcHealthPort", true, "health checks are on 9003"),
    (
        "parsers",
        true,
        "every API that is known is told by its path",
    ),
    (
        "pluginsConfigFile",
        true,
        "there are no plugins: picks go by expected milliseconds, which need no weights",
    ),
    (
        "pluginsConfig",
        true,
        "there are no plugins: picks go by expected milliseconds, which need no weights",
    ),
    (
        "pluginsCustomConfig",
        true,
        "there are no plugins: picks go by expected milliseconds, which need no weights",
    ),
    (
        "autoscaling",
        false,
        "scale the picker's Deployment by your own HorizontalPodAutoscaler; every replica serves",
    ),
    ("affinity", false, "patch the picker's Deployment"),
    ("tolerations", false, "patch the picker's Deployment"),
    ("podAnnotations", false, "patch the picker's Deployment"),
    (
        "env",
        false,
        "settings are flags here; see docs/reference/flags.md for those that have a variable",
    ),
    (
        "extraContainerPorts",
        false,
        "patch the picker's Deployment",
    ),
    (
        "deploymentStrategy",
        true,
        "replicas serve side by side, and are replaced one after the other",
    ),
];

/// Makes what a release of the chart has installed.
///
/// # Errors
/// Why the values are none of a chart that is known: field and remedy.
pub(super) fn convert(
    values: &Value,
    release: &str,
    settings: &Migrate,
    notices: &mut Notices,
) -> Result<(Vec<Value>, Vec<String>), String> {
    let shape = if values["router"].is_object() {
        ROUTER
    } else if values["inferencePool"].is_object() || values["inferenceExtension"].is_object() {
        INFERENCE_POOL
    } else {
        return Err("field `router`: neither it nor `inferencePool` is there; give the values of llm-d's router chart or of the inferencepool chart".into());
    };
    let root = values.pointer(shape.root).unwrap_or(values);
    let pool = ObjectKey {
        namespace: settings.namespace.as_str().into(),
        name: release.into(),
    };
    let mut objects = Vec::new();
    let servers = root.pointer(shape.servers).unwrap_or(&Value::Null);
    if root["inferencePool"]["create"] == json!(false) {
        notices.left("values", "inferencePool.create", "without a pool there is nothing that a route could refer to; a pool is made all the same");
    }
    objects.push(pool_of(root, servers, &pool, notices)?);
    objects.extend(picker_service(settings, &pool, notices));
    objects.extend(route_of(values, root, &pool, notices));
    objects.extend(objectives_of(root, &pool, notices)?);
    let none = json!({});
    let picker = root.pointer(shape.picker).unwrap_or(&none);
    let lines = settings_of(picker, notices);
    others(values, root, notices);
    Ok((objects, lines))
}

fn pool_of(
    root: &Value,
    servers: &Value,
    pool: &ObjectKey,
    notices: &mut Notices,
) -> Result<Value, String> {
    let own = &root["inferencePool"];
    let labels = [&servers["matchLabels"], &own["selector"]];
    let labels = labels
        .into_iter()
        .find(|it| it.as_object().is_some_and(|it| !it.is_empty()));
    let labels = labels.ok_or("field `modelServers.matchLabels`: it is missing; write the labels of the model servers' pods, as the chart asks for them")?;
    let list = [&servers["targetPorts"], &own["targetPorts"]];
    let list = list.into_iter().find_map(Value::as_array);
    let mut ports: Vec<Value> = Vec::new();
    for port in list.into_iter().flatten() {
        let number = port["number"].as_u64().or(port.as_u64());
        let number = number.ok_or(format!(
            "field `targetPorts`: {port} is no port; write `- number: 8000`"
        ))?;
        ports.push(json!({"number": number}));
    }
    if ports.is_empty() {
        let number = own["targetPortNumber"].as_u64().unwrap_or(8000);
        ports.push(json!({"number": number}));
    }
    let mut picker = picker_ref(&picker_name(&pool.name), 9002);
    if let Some(mode) = own["failureMode"].as_str() {
        picker["failureMode"] = json!(mode);
    }
    let kind = [&servers["type"], &own["modelServerType"]];
    let kind = kind.into_iter().find_map(Value::as_str).unwrap_or("vllm");
    if kind != "vllm" {
        notices.left("values", "modelServers.type", format!("label the pods llm-d.ai/engine-type: {kind}; without it their metrics are read as vLLM's"));
    }
    let mut spec = json!({
        "selector": {"matchLabels": labels},
        "targetPorts": ports,
        "endpointPickerRef": picker,
    });
    if servers["protocol"] == "grpc" {
        spec["appProtocol"] = json!("kubernetes.io/h2c");
    }
    notices.converted(
        "values",
        "inferencePool, modelServers",
        format!("InferencePool {pool}"),
    );
    Ok(pool_object(pool, spec))
}

fn route_of(
    values: &Value,
    root: &Value,
    pool: &ObjectKey,
    notices: &mut Notices,
) -> Option<Value> {
    let places = [
        ("httpRoute", &values["httpRoute"], "create"),
        ("router.httpRoute", &root["httpRoute"], "create"),
        (
            "experimentalHttpRoute",
            &values["experimentalHttpRoute"],
            "enabled",
        ),
    ];
    let (field, route, _) = places
        .into_iter()
        .find(|(_, it, switch)| it[*switch] == json!(true))?;
    let gateway = route["inferenceGatewayName"]
        .as_str()
        .unwrap_or("inference-gateway");
    let mut parent = json!({"name": gateway});
    if let Some(namespace) = route["inferenceGatewayNamespace"]
        .as_str()
        .filter(|it| !it.is_empty())
    {
        parent["namespace"] = json!(namespace);
    }
    let mut rule = json!({
        "backendRefs": [{
            "group": "inference.networking.k8s.io",
            "kind": "InferencePool",
            "name": pool.name,
        }],
        "timeouts": {"request": route["requestTimeout"].as_str().unwrap_or("300s")},
    });
    let mut headers: Vec<Value> = Vec::new();
    if let Some(model) = route["baseModel"].as_str().filter(|it| !it.is_empty()) {
        headers.push(json!({"type": "Exact", "name": "X-Gateway-Base-Model-Name", "value": model}));
        notices.left("values", &format!("{field}.baseModel"), "the route asks for the header X-Gateway-Base-Model-Name, which something in front of it has to set, as before");
    }
    headers.extend(
        route["headerMatches"]
            .as_array()
            .into_iter()
            .flatten()
            .cloned(),
    );
    let mut matched = json!({"path": {"type": "PathPrefix", "value": "/"}});
    if !headers.is_empty() {
        matched["headers"] = json!(headers);
    }
    rule["matches"] = json!([matched]);
    notices.converted("values", field, format!("HTTPRoute {pool}"));
    Some(json!({
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "HTTPRoute",
        "metadata": {"name": pool.name, "namespace": pool.namespace},
        "spec": {"parentRefs": [parent], "rules": [rule]},
    }))
}

fn objectives_of(
    root: &Value,
    pool: &ObjectKey,
    notices: &mut Notices,
) -> Result<Vec<Value>, String> {
    let list = root["inferenceObjectives"].as_array();
    let mut objects = Vec::new();
    for one in list.into_iter().flatten() {
        let name = one["name"].as_str();
        let name = name.ok_or(
            "field `inferenceObjectives[].name`: it is missing; give each objective a name",
        )?;
        notices.converted(
            "values",
            "inferenceObjectives",
            format!("InferenceObjective {}/{name}", pool.namespace),
        );
        objects.push(json!({
            "apiVersion": "llm-d.ai/v1alpha2",
            "kind": "InferenceObjective",
            "metadata": {"name": name, "namespace": pool.namespace},
            "spec": {"priority": one["priority"].as_i64().unwrap_or(0), "poolRef": {"name": pool.name}},
        }));
    }
    Ok(objects)
}

/// The picker's replicas, flags and resources, as lines of a patch of its Deployment.
fn settings_of(picker: &Value, notices: &mut Notices) -> Vec<String> {
    let mut lines = Vec::new();
    if let Some(replicas) = picker["replicas"].as_u64() {
        // One replica of upstream's is a leader that nobody can stand in for.
        let replicas = replicas.max(2);
        lines.push(format!("replicas: {replicas}"));
        notices.converted(
            "values",
            "epp.replicas",
            format!("{replicas} replicas, all of which serve"),
        );
    }
    for (flag, value) in picker["flags"].as_object().unwrap_or(&Map::new()) {
        if let Some(line) = flag_of(flag, value, notices) {
            lines.push(line);
        }
    }
    if picker["resources"].is_object() {
        notices.left("values", "epp.resources", "they are for another program; deploy/kubernetes asks for 250m and 256Mi: measure, then patch the Deployment");
    }
    for (part, is_dropped, why) in PARTS {
        let value = &picker[*part];
        let is_empty = match value {
            Value::Null => true,
            Value::Array(list) => list.is_empty(),
            Value::Object(fields) => {
                fields.is_empty() || fields.get("enabled") == Some(&json!(false))
            }
            _ => false,
        };
        let field = format!("epp.{part}");
        match (is_empty, is_dropped) {
            (true, _) => {}
            (false, true) => notices.dropped("values", &field, *why),
            (false, false) => notices.left("values", &field, *why),
        }
    }
    lines
}

/// A flag of upstream's picker as one of this picker, if it has it.
fn flag_of(flag: &str, value: &Value, notices: &mut Notices) -> Option<String> {
    let field = format!("epp.flags.{flag}");
    let text = match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let command = Arguments::command();
    let serve = command.find_subcommand("serve")?;
    let mut arguments = serve.get_arguments();
    let known = arguments.find(|it| {
        let aliases = it.get_all_aliases().unwrap_or_default();
        it.get_long() == Some(flag)
            || aliases.contains(&flag)
            || it.get_short().is_some_and(|it| it.to_string() == flag)
    });
    match known {
        Some(one) if one.is_hide_set() => {
            let help = one.get_help().map(ToString::to_string).unwrap_or_default();
            notices.dropped(
                "values",
                &field,
                format!("accepted and without effect: {help}"),
            );
            None
        }
        Some(_) if matches!(flag, "pool-name" | "pool-namespace") => {
            notices.dropped("values", &field, "one picker serves every pool");
            None
        }
        Some(_) => {
            notices.converted("values", &field, format!("--{flag}={text}"));
            Some(format!("args: --{flag}={text}"))
        }
        None => {
            notices.left(
                "values",
                &field,
                "this picker has no such flag; see docs/reference/flags.md",
            );
            None
        }
    }
}

/// Parts of the values beside pool, route and picker.
fn others(values: &Value, root: &Value, notices: &mut Notices) {
    let on =
        |part: &str| root[part]["enabled"] == json!(true) || values[part]["enabled"] == json!(true);
    for (part, why) in [
        (
            "tokenizer",
            "lengths are estimated from bytes; no sidecar is needed",
        ),
        (
            "latencyPredictor",
            "speeds are learnt in the picker, from the engines' counters; no sidecars are needed",
        ),
    ] {
        if on(part) {
            notices.dropped("values", part, why);
        }
    }
    for (part, why) in [
        (
            "tracing",
            "the picker writes no traces; it tells of a request by `pointsman why`",
        ),
        (
            "proxy",
            "a proxy beside the picker is not made; see docs/guides/without-kubernetes.md",
        ),
    ] {
        if on(part) {
            notices.left("values", part, why);
        }
    }
    if root["monitoring"]["prometheus"]["enabled"] == json!(true) {
        notices.left("values", "monitoring.prometheus", "metrics are on port 9090 of the picker without authentication, with names of their own (docs/reference/metrics.md); make a ServiceMonitor for the Service pointsman-metrics");
    }
    let provider = values["provider"]["name"]
        .as_str()
        .or(root["provider"]["name"].as_str());
    match provider {
        Some("istio") => notices.left("values", "provider.name", "Istio calls the picker with an authority that its HTTP/2 library rejects: it does not work behind Istio yet"),
        Some("gke") => notices.left("values", "provider.name", "keep the HealthCheckPolicy and GCPBackendPolicy of the pool; they name it by its name, which has not changed"),
        _ => {}
    }
    let known = [
        "router",
        "httpRoute",
        "provider",
        "inferencePool",
        "inferenceExtension",
        "experimentalHttpRoute",
        "global",
    ];
    let mut inner: Vec<(String, &Value)> = Vec::new();
    if root != values {
        inner.extend(
            values
                .as_object()
                .into_iter()
                .flatten()
                .map(|(name, it)| (name.clone(), it)),
        );
    }
    for (name, value) in inner {
        if !known.contains(&&*name) && !value.is_null() {
            notices.left("values", &name, "this part of the values is not known here");
        }
    }
}

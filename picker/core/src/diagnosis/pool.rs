//! Pools whose pods are not what they say: selectors that match nothing, ports that differ, pods of two pools, servers
//! without metrics.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::command::Engine;
use super::object::{Labels, Pool, Workload};
use super::{Finding, Fleet, Kind, Reason};

/// Upstream's annotation by which a pod narrows the ports that serve, and its older name (llm-d,
/// `pkg/epp/datastore/datastore.go`).
const ACTIVE_PORTS: [&str; 2] = [
    "llm-d.ai/active-ports",
    "inference.networking.k8s.io/active-ports",
];

/// Upstream's label that names the engine, and its older name.
const ENGINE_LABELS: [&str; 2] = [
    "llm-d.ai/engine-type",
    "inference.networking.k8s.io/engine-type",
];

pub(super) fn find(fleet: &Fleet, findings: &mut Vec<Finding>) {
    for pool in &fleet.pools {
        let pods: Vec<&Workload> = fleet.pods_of(pool).collect();
        find_selector(fleet, pool, &pods, findings);
        find_state(pool, &pods, findings);
        for workload in &pods {
            find_ports(pool, workload, findings);
            find_metrics(pool, workload, findings);
        }
    }
    find_shared(fleet, findings);
}

fn of_pool(pool: &Pool, field: &str, reason: Reason, text: String, fix: String) -> Finding {
    Finding::of("InferencePool", &pool.metadata, field, reason, text, fix)
}

fn title(pool: &Pool) -> String {
    format!("InferencePool {}", pool.key())
}

/// The field of an InferencePool that holds a label selector, as YAML.
fn selector(labels: &Labels) -> String {
    let mut fix = "spec:\n  selector:\n    matchLabels:".to_owned();
    for (name, value) in labels {
        fix += &format!("\n      {name}: {value:?}");
    }
    fix
}

fn find_selector(fleet: &Fleet, pool: &Pool, pods: &[&Workload], findings: &mut Vec<Finding>) {
    let labels = &pool.spec.selector.match_labels;
    let namespace = &pool.metadata.namespace;
    let field = "spec.selector.matchLabels";
    if labels.is_empty() {
        let text = "its selector has no labels, so it has no pods".to_owned();
        let fix = "spec:\n  selector:\n    matchLabels:\n      app: MODEL-SERVER".to_owned();
        findings.push(of_pool(pool, field, Reason::SelectorEmpty, text, fix));
        return;
    }
    if !pods.is_empty() || !fleet.known.has(Kind::Workload, namespace) {
        return;
    }
    let written: Vec<_> = labels
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    let written = written.join(",");
    let all = fleet.workloads.iter();
    let elsewhere = all
        .clone()
        .find(|it| it.metadata.namespace != *namespace && subset(labels, &it.labels));
    let there: Vec<_> = all
        .filter(|it| it.metadata.namespace == *namespace && !is_picker(it))
        .collect();
    let near = there
        .iter()
        .max_by_key(|it| (closeness(labels, it), it.is_model_server()));
    let near = near.filter(|it| closeness(labels, it) > 0);
    let (text, fix) = match (elsewhere, near) {
        (Some(other), _) => (
            format!(
                "no pod of the namespace {namespace} has the labels {written}; those of {} have them, but a pool has only pods of its own namespace",
                other.title()
            ),
            format!("metadata:\n  namespace: {}", other.metadata.namespace),
        ),
        (None, Some(near)) => (
            format!(
                "no pod has the labels {written}; the nearest are those of {}",
                near.title()
            ),
            selector(&meant(labels, near)),
        ),
        (None, None) => {
            let names: Vec<_> = there.iter().map(|it| it.title()).collect();
            let there = if names.is_empty() {
                String::new()
            } else {
                format!("; there are {}", names.join(", "))
            };
            (
                format!("no pod of the namespace {namespace} has the labels {written}{there}"),
                format!(
                    "# the labels of the model servers' pods, once they are there\n{}",
                    selector(labels)
                ),
            )
        }
    };
    findings.push(of_pool(pool, field, Reason::PodsMissing, text, fix));
}

fn is_picker(workload: &Workload) -> bool {
    workload.containers.iter().any(super::command::is_picker)
}

fn subset(labels: &Labels, of: &Labels) -> bool {
    labels
        .iter()
        .all(|(name, value)| of.get(name) == Some(value))
}

/// How much the labels of a workload are like those that are wanted; 0 if one would not be taken for the other.
fn closeness(wanted: &Labels, workload: &Workload) -> usize {
    wanted
        .keys()
        .map(|name| likeness(wanted, name, workload).map_or(0, |(_, much)| much))
        .sum()
}

/// Name and value.
type Label<'w> = (&'w Arc<str>, &'w Arc<str>);

/// The label of a workload that one of the wanted was meant to be, and how much it is like it.
fn likeness<'w>(wanted: &Labels, name: &str, workload: &'w Workload) -> Option<(Label<'w>, usize)> {
    let value = wanted.get(name)?;
    let like = |(own_name, own): Label<'w>| {
        let pairs = value.chars().zip(own.chars());
        let same = pairs.take_while(|(one, other)| one == other).count();
        let much = match (**own_name == *name, own == value) {
            (true, true) => 100,
            (false, true) => 50,
            (true, false) if same * 2 > value.len() => same,
            _ => return None,
        };
        Some(((own_name, own), much))
    };
    workload
        .labels
        .iter()
        .filter_map(like)
        .max_by_key(|(_, much)| *much)
}

/// The labels of a workload that were meant by those that are wanted.
fn meant(wanted: &Labels, workload: &Workload) -> Labels {
    let found = wanted
        .keys()
        .filter_map(|name| likeness(wanted, name, workload));
    found
        .map(|((name, value), _)| (name.clone(), value.clone()))
        .collect()
}

/// Pods that are there and serve nothing.
fn find_state(pool: &Pool, pods: &[&Workload], findings: &mut Vec<Finding>) {
    let field = "spec.selector.matchLabels";
    if let [first, ..] = pods
        && pods.iter().all(|it| it.replicas == 0)
    {
        let text = format!("{} makes its pods, and is to make 0", first.title());
        let fix = format!("# {}\nspec:\n  replicas: 1", first.title());
        findings.push(of_pool(pool, field, Reason::ReplicasZero, text, fix));
    }
    let states: Vec<_> = pods.iter().filter_map(|it| it.state.as_ref()).collect();
    let unready: Vec<_> = states.iter().filter_map(|it| it.unready.as_ref()).collect();
    if states.len() == pods.len()
        && unready.len() == states.len()
        && let [why, ..] = &*unready
    {
        let count = match pods.len() {
            1 => "its only pod is not ready".to_owned(),
            more => format!("none of its {more} pods is ready"),
        };
        let text = format!(
            "{count}, so its requests get a 503; {}: {why}",
            pods[0].metadata.name
        );
        let fix = format!(
            "# kubectl --namespace {} describe pod {} says more\nspec:\n  containers:\n  - name: {}  # what it waits for",
            pool.metadata.namespace,
            pods[0].metadata.name,
            pods[0].containers.first().map_or("SERVER", |it| &it.name)
        );
        findings.push(of_pool(pool, field, Reason::PodsNotReady, text, fix));
    }
}

/// Ports of the pool on which pods do not listen.
fn find_ports(pool: &Pool, workload: &Workload, findings: &mut Vec<Finding>) {
    let wanted: Vec<u16> = pool.spec.target_ports.iter().map(|it| it.number).collect();
    let active = ACTIVE_PORTS
        .iter()
        .find_map(|name| Some((*name, workload.annotations.get(*name)?)));
    if let Some((name, list)) = active {
        let listed = list.split(',').filter_map(|it| it.trim().parse().ok());
        if !listed.into_iter().any(|port: u16| wanted.contains(&port)) {
            let (field, ports) = (format!("metadata.annotations[{name}]"), join(&wanted));
            let text = format!(
                "its annotation says that only {list} serves, and {} has the ports {ports}: none of its pods is used",
                title(pool)
            );
            let fix = format!("metadata:\n  annotations:\n    {name}: \"{ports}\"");
            findings.push(Finding::of_workload(
                workload,
                &field,
                Reason::ActivePortsNone,
                text,
                fix,
            ));
        }
    }
    let Some(listening) = listening(workload) else {
        return;
    };
    for (index, port) in wanted.iter().enumerate() {
        if listening.contains(port) {
            continue;
        }
        let (title, ports) = (workload.title(), join(&listening));
        let text = format!("nothing in {title} listens on {port}; it listens on {ports}");
        let mut fix = "spec:\n  targetPorts:".to_owned();
        let kept = wanted.iter().filter(|it| listening.contains(it)).copied();
        let mut right: Vec<u16> = kept.collect();
        if right.is_empty() {
            right.extend(listening.iter().next());
        }
        for port in right {
            fix += &format!("\n  - number: {port}");
        }
        let field = format!("spec.targetPorts[{index}].number");
        findings.push(of_pool(pool, &field, Reason::PortNotServed, text, fix));
    }
}

fn join<'p>(ports: impl IntoIterator<Item = &'p u16>) -> String {
    let ports: Vec<_> = ports.into_iter().map(u16::to_string).collect();
    ports.join(", ")
}

/// The ports on which a workload says it listens: those that containers declare, and that command lines name. `None` if
/// some container says nothing, which may listen anywhere.
fn listening(workload: &Workload) -> Option<BTreeSet<u16>> {
    let mut ports = BTreeSet::new();
    for container in &workload.containers {
        let engine = Engine::of(container);
        if container.ports.is_empty() && engine.is_none() {
            return None;
        }
        ports.extend(container.ports.iter().map(|it| it.container_port));
        if let Some(engine) = engine {
            // A declared port that the engine was not told of is a name for nothing.
            ports.insert(engine.port?);
        }
    }
    (!ports.is_empty()).then_some(ports)
}

/// Servers that were started without metrics, and pods that gave none when asked.
fn find_metrics(pool: &Pool, workload: &Workload, findings: &mut Vec<Finding>) {
    for (index, container) in workload.containers.iter().enumerate() {
        let Some(engine) = Engine::of(container) else {
            continue;
        };
        find_label(workload, &engine, findings);
        let Some((flag, missing)) = engine.metrics_off else {
            continue;
        };
        let (name, field) = (engine.name, format!("spec.containers[{index}].args"));
        let text = if missing {
            format!(
                "{name} has metrics only with {flag}: picks would go by the picker's own load alone"
            )
        } else {
            format!(
                "{name} has no metrics with {flag}: picks would go by the picker's own load alone"
            )
        };
        let change = if missing { "add" } else { "take away" };
        let fix = format!(
            "spec:\n  containers:\n  - name: {}\n    args: []  # {change} {flag}",
            container.name
        );
        findings.push(Finding::of_workload(
            workload,
            &field,
            Reason::MetricsOff,
            text,
            fix,
        ));
    }
    let state = workload.state.as_ref();
    for (port, why) in state.iter().flat_map(|state| &state.unread) {
        let text = format!("GET /metrics on port {port} gave nothing that can be read: {why}");
        let fix = format!(
            "# InferencePool {}\nspec:\n  targetPorts:\n  - number: {port}  # the port that answers /metrics",
            pool.key()
        );
        findings.push(Finding::of_workload(
            workload,
            "status.podIP",
            Reason::MetricsMissing,
            text,
            fix,
        ));
    }
}

/// An engine whose metrics are known by a label that its pods do not have.
fn find_label(workload: &Workload, engine: &Engine, findings: &mut Vec<Finding>) {
    let Some(name) = engine.label else { return };
    if ENGINE_LABELS
        .iter()
        .any(|label| workload.labels.contains_key(*label))
    {
        return;
    }
    let label = ENGINE_LABELS[0];
    let text = format!(
        "{} runs in its pods and no label says so: their metrics would be read as vLLM's",
        engine.name
    );
    let fix =
        format!("# its pods, or the template of them\nmetadata:\n  labels:\n    {label}: {name}");
    let field = format!("metadata.labels[{label}]");
    let finding = Finding::of_workload(workload, &field, Reason::EngineUnlabelled, text, fix);
    findings.push(finding);
}

/// Pools that have pods, and a port of them, in common.
fn find_shared(fleet: &Fleet, findings: &mut Vec<Finding>) {
    for (place, pool) in fleet.pools.iter().enumerate() {
        for other in fleet.pools[place + 1..].iter() {
            let ports = &pool.spec.target_ports;
            if !ports.iter().any(|it| other.spec.target_ports.contains(it)) {
                continue;
            }
            let shared = fleet.pods_of(pool).find(|it| other.selects(it));
            let Some(workload) = shared else { continue };
            // The pool with fewer labels is the one that takes in too much.
            let labels = |pool: &Pool| pool.spec.selector.match_labels.len();
            let (wide, narrow) = if labels(other) < labels(pool) {
                (other, pool)
            } else {
                (pool, other)
            };
            let text = format!(
                "it selects {}, as {} does: each pool's picks are load that the other does not see coming",
                workload.title(),
                title(narrow)
            );
            let fix = format!(
                "# and the label on the pods of this pool alone\n{}\n      pool: {}",
                selector(&wide.spec.selector.match_labels),
                wide.metadata.name
            );
            let field = "spec.selector.matchLabels";
            findings.push(of_pool(wide, field, Reason::PodsShared, text, fix));
        }
    }
}

//! The Service of a pool's picker: whether it is there, has the port, and leads to a picker that serves the pool.

use std::sync::Arc;

use super::command::{Words, is_picker, is_pointsman};
use super::object::{
    Container, FailureMode, PickerRef, Pool, Service, ServicePort, TargetPort, Workload,
};
use super::{Finding, Fleet, Kind, Reason};
use crate::route::object::ObjectKey;

/// Where a picker listens unless its flags say otherwise, upstream's as well as this one.
const PICKER_PORT: u16 = 9002;
/// The protocols of a Service port by which gateways speak HTTP/2 to it.
const HTTP2: &[&str] = &[
    "http2",
    "kubernetes.io/h2c",
    "grpc",
    "grpcs",
    "h2c",
    "https",
];

pub(super) fn find(fleet: &Fleet, findings: &mut Vec<Finding>) {
    for pool in &fleet.pools {
        let mut tell = |field: &str, reason, text, fix| {
            let metadata = &pool.metadata;
            let kind = "InferencePool";
            findings.push(Finding::of(kind, metadata, field, reason, text, fix));
        };
        let Some(picker) = &pool.spec.endpoint_picker_ref else {
            let text =
                "it has no endpointPickerRef: the gateway chooses by itself, or refuses the pool";
            let field = "spec.endpointPickerRef";
            tell(
                field,
                Reason::PickerMissing,
                text.to_owned(),
                reference(None),
            );
            continue;
        };
        if &*picker.kind != "Service" || !picker.group.is_empty() {
            let text = format!(
                "its picker is a {} of the group \"{}\"; gateways know Services (group \"\")",
                picker.kind, picker.group
            );
            let field = "spec.endpointPickerRef.kind";
            tell(field, Reason::PickerKindUnsupported, text, reference(None));
            continue;
        }
        let Some(port) = picker.port.map(|port| port.number) else {
            let text = format!("its picker is the Service {} without a port", picker.name);
            let field = "spec.endpointPickerRef.port";
            let fix = reference(Some((&picker.name, PICKER_PORT)));
            tell(field, Reason::PickerPortMissing, text, fix);
            continue;
        };
        let at = At {
            fleet,
            pool,
            picker,
        };
        if let Some((field, reason, text, fix)) = at.service(port) {
            tell(field, reason, text, fix);
        }
        at.protocol(port, findings);
    }
}

/// A reference to a picker, as it stands in a pool.
fn reference(picker: Option<(&str, u16)>) -> String {
    let (name, port) = picker.unwrap_or(("PICKER-SERVICE", PICKER_PORT));
    format!("spec:\n  endpointPickerRef:\n    name: {name}\n    port:\n      number: {port}")
}

/// A field, what is wrong with it, and what to write there.
type Fault = (&'static str, Reason, String, String);

/// The reference of one pool to its picker.
struct At<'f> {
    fleet: &'f Fleet,
    pool: &'f Pool,
    picker: &'f PickerRef,
}

impl At<'_> {
    fn key(&self) -> ObjectKey {
        ObjectKey {
            namespace: self.pool.metadata.namespace.clone(),
            name: self.picker.name.clone(),
        }
    }

    /// What is wrong on the way from the pool to the picker's pods; the first thing only, since the rest follows.
    fn service(&self, port: u16) -> Option<Fault> {
        let (fleet, key) = (self.fleet, self.key());
        let name = "spec.endpointPickerRef.name";
        let Some(service) = fleet.services.get(&key) else {
            let known = fleet.known.has(Kind::Service, &key.namespace);
            return (known && !self.is_published()).then(|| self.missing(&key));
        };
        if &*service.spec.kind == "ExternalName" {
            let text = format!(
                "its picker, the Service {key}, is an ExternalName, which gateways do not follow"
            );
            let fix = format!(
                "# Service {key}\nspec:\n  type: ClusterIP\n  selector:\n    app: PICKER\n  ports:\n  - port: {port}"
            );
            return Some((name, Reason::PickerServiceExternal, text, fix));
        }
        let Some(entry) = service.spec.ports.iter().find(|it| it.port == port) else {
            let has: Vec<_> = service
                .spec
                .ports
                .iter()
                .map(|it| it.port.to_string())
                .collect();
            let text = format!(
                "its picker, the Service {key}, has no port {port}; it has {}",
                if has.is_empty() {
                    "none".to_owned()
                } else {
                    has.join(", ")
                }
            );
            let right = service.spec.ports.iter().map(|it| it.port);
            let right = right
                .min_by_key(|it| it.abs_diff(PICKER_PORT))
                .unwrap_or(port);
            let fix = reference(Some((&key.name, right)));
            let field = "spec.endpointPickerRef.port.number";
            return Some((field, Reason::PickerServicePortMissing, text, fix));
        };
        if service.spec.selector.is_empty() {
            return self.without_selector(&key);
        }
        let pods: Vec<_> = fleet
            .workloads
            .iter()
            .filter(|it| service.selects(it))
            .collect();
        if pods.is_empty() {
            return fleet
                .known
                .has(Kind::Workload, &key.namespace)
                .then(|| self.empty(&key));
        }
        self.pods(service, entry, &pods)
    }

    fn missing(&self, key: &ObjectKey) -> Fault {
        let text = format!("its endpointPickerRef names the Service {key}, which does not exist");
        let fix = format!(
            "# in the pool's own namespace, leading to the picker (with --publish-services the picker makes it)\napiVersion: v1\nkind: Service\nmetadata:\n  name: {}\n  namespace: {}\n{}\n  ports:\n  - port: {PICKER_PORT}\n    appProtocol: kubernetes.io/h2c",
            key.name,
            key.namespace,
            self.picker_selector()
        );
        (
            "spec.endpointPickerRef.name",
            Reason::PickerServiceMissing,
            text,
            fix,
        )
    }

    /// A Service to which somebody else writes EndpointSlices.
    fn without_selector(&self, key: &ObjectKey) -> Option<Fault> {
        let fleet = self.fleet;
        let known = fleet.known.has(Kind::Slice, &key.namespace);
        if fleet.backed.contains(key) || !known || self.is_published() {
            return None;
        }
        let text = format!(
            "its picker, the Service {key}, has no selector and no EndpointSlices: it leads nowhere"
        );
        let fix = format!("# Service {key}\n{}", self.picker_selector());
        Some((
            "spec.endpointPickerRef.name",
            Reason::PickerServiceEmpty,
            text,
            fix,
        ))
    }

    fn empty(&self, key: &ObjectKey) -> Fault {
        let text = format!(
            "its picker, the Service {key}, selects no pods of its namespace: it leads nowhere"
        );
        let fix = format!(
            "# Service {key}, to the picker of this namespace (with --publish-services the picker itself makes it)\n{}",
            self.picker_selector()
        );
        (
            "spec.endpointPickerRef.name",
            Reason::PickerServiceEmpty,
            text,
            fix,
        )
    }

    /// The selector of a Service that leads to a picker in the pool's namespace, as YAML: to the one that runs there, or else
    /// to Pointsman as its manifests label it.
    fn picker_selector(&self) -> String {
        let namespace = &self.pool.metadata.namespace;
        let mut workloads = self.fleet.workloads.iter();
        let running = workloads.find(|it| it.metadata.namespace == *namespace && runs_picker(it));
        let mut text = "spec:\n  selector:".to_owned();
        match running {
            Some(picker) => {
                for (name, value) in &picker.labels {
                    text += &format!("\n    {name}: {value:?}");
                }
            }
            None => text += "\n    app.kubernetes.io/name: pointsman",
        }
        text
    }

    /// What is wrong with the pods that the Service leads to.
    fn pods(&self, service: &Service, entry: &ServicePort, pods: &[&Workload]) -> Option<Fault> {
        let name = "spec.endpointPickerRef.name";
        let key = service.metadata.key();
        if let Some(server) = pods
            .iter()
            .find(|it| self.pool.selects(it) && !runs_picker(it))
        {
            let text = format!(
                "its picker, the Service {key}, leads to {}, which is in the pool itself: a picker is not a model server",
                server.title()
            );
            let reason = Reason::PickerServiceLeadsToServers;
            return Some((name, reason, text, reference(None)));
        }
        if let Some(fault) = pods.iter().find_map(|it| port_fault(&key, entry, it)) {
            return Some(fault);
        }
        if let Some(fault) = pods.iter().find_map(|it| self.scope(it)) {
            return Some(fault);
        }
        let unready = |it: &&&Workload| it.state.as_ref().is_some_and(|it| it.unready.is_some());
        if let Some(first) = pods.iter().find(unready)
            && pods.iter().all(|it| unready(&it))
        {
            let state = first.state.as_ref().and_then(|it| it.unready.clone());
            let text = format!(
                "its picker, the Service {key}, has no ready pod: {}",
                state.as_deref().unwrap_or("not ready")
            );
            let fix = format!(
                "# kubectl --namespace {} port-forward pod/{} 9090, and /readyz says what it waits for; until then\nspec:\n  endpointPickerRef:\n    failureMode: FailOpen",
                key.namespace, first.metadata.name
            );
            return Some((name, Reason::PickerNotReady, text, fix));
        }
        let replicas: u32 = pods.iter().map(|it| it.replicas).sum();
        let alone = replicas == 1 && self.picker.failure_mode == FailureMode::FailClose;
        alone.then(|| {
            let title = pods[0].title();
            let text = format!(
                "failureMode is FailClose and its picker, {title}, has one replica: while it restarts, every request is refused"
            );
            let fix = "# or more replicas of the picker\nspec:\n  endpointPickerRef:\n    failureMode: FailOpen".to_owned();
            ("spec.endpointPickerRef.failureMode", Reason::PickerAlone, text, fix)
        })
    }

    /// Whether the picker's flags leave the pool out.
    fn scope(&self, workload: &Workload) -> Option<Fault> {
        let container = workload.containers.iter().find(|it| is_picker(it))?;
        let words = Words::of(container);
        let title = workload.title();
        let pool = self.pool.key();
        let fault = |flag: &str, value: &str, right: &str| {
            let text = format!("its picker, {title}, does not serve it: it has {flag}={value}");
            let fix = format!(
                "# {title}\nspec:\n  template:\n    spec:\n      containers:\n      - name: {}\n        args:\n        - {flag}={right}",
                container.name
            );
            (
                "spec.endpointPickerRef.name",
                Reason::PickerServesOthers,
                text,
                fix,
            )
        };
        let written = |flag| words.value(flag).filter(|value| !value.contains('$'));
        if let Some(name) = written("--pool-name").filter(|name| *name != pool.name) {
            return Some(self.other_pool(&title, &name));
        }
        if !is_pointsman(container) {
            return None;
        }
        for flag in ["--endpoint-selector", "--endpoints"] {
            if words.has(flag) {
                let text = format!(
                    "its picker, {title}, does not serve it: with {flag} it serves no InferencePools"
                );
                let fix = format!(
                    "# {title}\nspec:\n  template:\n    spec:\n      containers:\n      - name: {}\n        args: []  # without {flag}",
                    container.name
                );
                let field = "spec.endpointPickerRef.name";
                return Some((field, Reason::PickerServesOthers, text, fix));
            }
        }
        for (flag, own) in [
            ("--namespaces", &pool.namespace),
            ("--picker-service", &self.picker.name),
        ] {
            if let Some(list) = written(flag)
                && !list.split(',').any(|one| one.trim() == &**own)
            {
                return Some(fault(flag, &list, &format!("{list},{own}")));
            }
        }
        None
    }

    /// A picker of one pool, which is another.
    fn other_pool(&self, title: &str, name: &str) -> Fault {
        let text = format!(
            "its picker, {title}, does not serve it: it has --pool-name={name}, and so no other pool"
        );
        let fix = format!(
            "# a picker of its own, or one without --pool-name, which serves every pool\n{}",
            reference(Some((
                &format!("{}-picker", self.pool.metadata.name),
                PICKER_PORT
            )))
        );
        (
            "spec.endpointPickerRef.name",
            Reason::PickerServesOthers,
            text,
            fix,
        )
    }

    /// Whether some picker here makes the Services that pools name.
    fn is_published(&self) -> bool {
        let mut containers = self.fleet.workloads.iter().flat_map(|it| &it.containers);
        containers.any(|it| is_pointsman(it) && Words::of(it).has("--publish-services"))
    }

    fn protocol(&self, port: u16, findings: &mut Vec<Finding>) {
        let Some(service) = self.fleet.services.get(&self.key()) else {
            return;
        };
        let ports = service.spec.ports.iter().enumerate();
        for (index, entry) in ports.filter(|(_, it)| it.port == port) {
            let protocol = entry.app_protocol.as_deref();
            if protocol.is_some_and(|it| HTTP2.contains(&it)) {
                continue;
            }
            let text = format!(
                "{} is a picker's port and says {}: some gateways then speak HTTP/1.1 to it, and a picker speaks gRPC",
                port,
                protocol.map_or("no appProtocol".to_owned(), |it| format!(
                    "appProtocol {it}"
                ))
            );
            let fix =
                format!("spec:\n  ports:\n  - port: {port}\n    appProtocol: kubernetes.io/h2c");
            let field = format!("spec.ports[{index}].appProtocol");
            findings.push(Finding::of(
                "Service",
                &service.metadata,
                &field,
                Reason::PickerProtocolUnset,
                text,
                fix,
            ));
        }
    }
}

fn runs_picker(workload: &Workload) -> bool {
    workload.containers.iter().any(is_picker)
}

/// A port of the Service that leads to no port of the picker.
fn port_fault(key: &ObjectKey, entry: &ServicePort, workload: &Workload) -> Option<Fault> {
    let container = workload.containers.iter().find(|it| is_picker(it))?;
    let listening = Listening::of(container)?;
    let declared = |name: &str| {
        let mut ports = workload.containers.iter().flat_map(|it| &it.ports);
        ports
            .find(|it| &*it.name == name)
            .map(|it| it.container_port)
    };
    let title = workload.title();
    let to = entry.target_port.clone();
    let to = to.unwrap_or(TargetPort::Number(entry.port));
    let wrong = match &to {
        TargetPort::Number(number) => (!listening.takes(*number)).then(|| number.to_string()),
        TargetPort::Name(name) => match declared(name) {
            None => Some(format!("\"{name}\"")),
            Some(number) if number != listening.shared => Some(format!("\"{name}\" ({number})")),
            Some(_) => None,
        },
    }?;
    let text = format!(
        "port {} of its picker, the Service {key}, leads to port {wrong} of {title}, where the picker does not listen; it does on {}",
        entry.port, listening.shared
    );
    let fix = format!(
        "# Service {key}\nspec:\n  ports:\n  - port: {}\n    targetPort: {}\n    appProtocol: kubernetes.io/h2c",
        entry.port, listening.shared
    );
    let field = "spec.endpointPickerRef.port.number";
    Some((field, Reason::PickerPortNotServed, text, fix))
}

/// Where a picker listens for gateways.
struct Listening {
    /// The port of all pools.
    shared: u16,
    /// Ports that are for something else.
    others: [u16; 2],
    /// Whether a pool whose Service leads to another port gets a listener there.
    per_pool: bool,
}

impl Listening {
    /// `None` if the port is not written as a number.
    fn of(container: &Container) -> Option<Self> {
        let words = Words::of(container);
        let port = |flags: &[&str], default: u16| {
            let value: Option<Arc<str>> = flags.iter().find_map(|flag| words.value(flag));
            value.map_or(Some(default), |text| text.parse().ok())
        };
        Some(Self {
            shared: port(&["--grpc-port", "--grpcPort", "-grpcPort"], PICKER_PORT)?,
            others: [
                port(
                    &["--grpc-health-port", "--grpcHealthPort", "-grpcHealthPort"],
                    9003,
                )?,
                port(&["--metrics-port", "--metricsPort", "-metricsPort"], 9090)?,
            ],
            per_pool: is_pointsman(container),
        })
    }

    fn takes(&self, port: u16) -> bool {
        let own = self.per_pool && port >= 1024 && !self.others.contains(&port);
        port == self.shared || own
    }
}

//! Services in front of model servers made into InferencePools.

use std::collections::BTreeMap;

use picker_core::diagnosis::object::{Service, ServicePort, TargetPort, Workload};
use picker_core::route::object::ObjectKey;
use serde_json::{Value, json};

use super::notice::Notices;
use crate::settings::Migrate;

/// Where pickers listen.
const PICKER_PORT: u16 = 9002;

/// The port of a Service, as a route or an Ingress names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum PortName {
    Number(u16),
    Name(String),
    /// Whichever the Service has.
    Any,
}

/// What is known of Services and servers, and the pools that were made of them.
pub(super) struct Pools<'s> {
    settings: &'s Migrate,
    pub(super) services: BTreeMap<ObjectKey, Service>,
    /// Names of Service ports, which the diagnosis has no need of.
    pub(super) port_names: BTreeMap<(ObjectKey, String), u16>,
    pub(super) workloads: Vec<Workload>,
    made: BTreeMap<ObjectKey, Made>,
}

struct Made {
    pool: Value,
    selector: Value,
    port: u16,
}

impl<'s> Pools<'s> {
    pub(super) fn new(settings: &'s Migrate) -> Self {
        Self {
            settings,
            services: BTreeMap::new(),
            port_names: BTreeMap::new(),
            workloads: Vec::new(),
            made: BTreeMap::new(),
        }
    }

    /// The pool that takes the place of a Service as a backend; `None` leaves the Service where it is. Why is noted for
    /// `object` and `field`, which refer to it.
    pub(super) fn of_backend(
        &mut self,
        (object, field): (&str, &str),
        key: &ObjectKey,
        port: &PortName,
        notices: &mut Notices,
    ) -> Option<ObjectKey> {
        match self.plan(key, port) {
            Ok((service, entry, target)) => {
                let pool = self.make(key, service, &entry, target, notices);
                let text = format!(
                    "Service {key} becomes InferencePool {pool}, port {target} of its pods"
                );
                notices.converted(object, field, text);
                Some(pool)
            }
            Err(why) => {
                notices.left(object, field, why);
                None
            }
        }
    }

    /// The Service, its port, and the port of its pods; or why it is no pool.
    fn plan(
        &self,
        key: &ObjectKey,
        port: &PortName,
    ) -> Result<(Service, ServicePort, u16), String> {
        let Some(service) = self.services.get(key) else {
            return Err(format!(
                "Service {key} is not among the manifests, so its pods are not known; give it, too"
            ));
        };
        if service.spec.selector.is_empty() || &*service.spec.kind == "ExternalName" {
            return Err(format!(
                "Service {key} has no selector, and a pool is pods by their labels; it stays a backend"
            ));
        }
        let servers: Vec<_> = self
            .workloads
            .iter()
            .filter(|it| service.selects(it))
            .collect();
        let named = [key.to_string(), key.name.to_string()];
        let is_named = self
            .settings
            .model_service
            .iter()
            .any(|it| named.contains(it));
        if !is_named && !servers.iter().any(|it| it.is_model_server()) {
            let why = match &*servers {
                [] => "the pods of Service {} are not among the manifests",
                _ => "no pod of Service {} runs a model server that is known",
            };
            let why = why.replace("{}", &key.to_string());
            return Err(format!(
                "{why}, so it stays a backend; if they are model servers, say --model-service {key}"
            ));
        }
        let number = match port {
            PortName::Number(number) => Some(*number),
            PortName::Name(name) => self.port_names.get(&(key.clone(), name.clone())).copied(),
            PortName::Any => service.spec.ports.first().map(|it| it.port),
        };
        let mut ports = service.spec.ports.iter();
        let Some(entry) = ports.find(|it| Some(it.port) == number) else {
            return Err(format!(
                "Service {key} has no such port; correct the reference"
            ));
        };
        let target = match entry.target_port.clone() {
            None => Some(entry.port),
            Some(TargetPort::Number(number)) => Some(number),
            Some(TargetPort::Name(name)) => {
                let containers = servers.iter().flat_map(|it| &it.containers);
                let mut ports = containers.flat_map(|it| &it.ports);
                ports.find(|it| it.name == name).map(|it| it.container_port)
            }
        };
        let target = target.ok_or_else(|| {
            format!("the targetPort of Service {key} is a name that no container gives a port; pools have numbers: write the number")
        })?;
        Ok((service.clone(), entry.clone(), target))
    }

    fn make(
        &mut self,
        key: &ObjectKey,
        service: Service,
        entry: &ServicePort,
        port: u16,
        notices: &mut Notices,
    ) -> ObjectKey {
        let selector = json!(service.spec.selector);
        let alike = self.made.iter().find(|(name, made)| {
            name.namespace == key.namespace && made.selector == selector && made.port == port
        });
        if let Some((name, _)) = alike {
            return name.clone();
        }
        let name = if self.made.contains_key(key) {
            format!("{}-{port}", key.name)
        } else {
            key.name.to_string()
        };
        let title = format!("Service {key}");
        let mut spec = json!({
            "selector": {"matchLabels": selector},
            "targetPorts": [{"number": port}],
            "endpointPickerRef": picker_ref(&picker_name(&name), PICKER_PORT),
        });
        match entry.app_protocol.as_deref() {
            Some("kubernetes.io/h2c" | "h2c" | "http2" | "grpc") => {
                spec["appProtocol"] = json!("kubernetes.io/h2c");
                notices.converted(&title, "spec.ports[].appProtocol", "appProtocol of the pool: HTTP/2 in plain text");
            }
            Some(protocol @ ("https" | "kubernetes.io/wss")) => notices.left(
                &title,
                "spec.ports[].appProtocol",
                format!("{protocol}: gateways speak plain text to pools; end TLS in front of the server, or let the server speak plain text"),
            ),
            _ => {}
        }
        let pool = ObjectKey {
            namespace: key.namespace.clone(),
            name: name.as_str().into(),
        };
        let object = pool_object(&pool, spec);
        let made = Made {
            pool: object,
            selector,
            port,
        };
        self.made.insert(pool.clone(), made);
        pool
    }

    /// The pools that were made, each with the Service of its picker, unless the picker makes those.
    pub(super) fn objects(&self, notices: &mut Notices) -> Vec<Value> {
        let mut objects = Vec::new();
        for (pool, made) in &self.made {
            objects.push(made.pool.clone());
            objects.extend(picker_service(self.settings, pool, notices));
        }
        objects
    }
}

/// An InferencePool.
pub(super) fn pool_object(pool: &ObjectKey, spec: Value) -> Value {
    json!({
        "apiVersion": "inference.networking.k8s.io/v1",
        "kind": "InferencePool",
        "metadata": {"name": pool.name, "namespace": pool.namespace},
        "spec": spec,
    })
}

/// A reference to a picker. Requests go on while the picker is away, as they did when there was none.
pub(super) fn picker_ref(service: &str, port: u16) -> Value {
    json!({"name": service, "port": {"number": port}, "failureMode": "FailOpen"})
}

/// The name of a pool's picker Service, which has at most 63 letters.
pub(super) fn picker_name(pool: &str) -> String {
    let mut end = pool.len().min(56);
    while !pool.is_char_boundary(end) {
        end -= 1;
    }
    format!(
        "{}-picker",
        pool[..end].trim_end_matches(['-', '.']).replace('.', "-")
    )
}

/// The Service by which a pool's picker is called, one for each pool, so that calls say which pool they are for.
pub(super) fn picker_service(
    settings: &Migrate,
    pool: &ObjectKey,
    notices: &mut Notices,
) -> Option<Value> {
    let name = picker_name(&pool.name);
    let title = format!("InferencePool {pool}");
    if settings.published {
        let text = format!(
            "the Service {name} is not among the output: a picker with --publish-services makes it"
        );
        notices.converted(&title, "spec.endpointPickerRef", text);
        return None;
    }
    let text = format!(
        "the Service {name} leads to the pods of {} with app.kubernetes.io/name=pointsman, as deploy/kubernetes/namespaced runs them; for a picker elsewhere, --published",
        pool.namespace
    );
    notices.converted(&title, "spec.endpointPickerRef", text);
    Some(json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": pool.namespace},
        "spec": {
            "selector": {"app.kubernetes.io/name": "pointsman"},
            "ports": [{
                "name": "grpc-ext-proc",
                "port": PICKER_PORT,
                "targetPort": PICKER_PORT,
                "appProtocol": "kubernetes.io/h2c",
            }],
        },
    }))
}

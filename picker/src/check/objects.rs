//! Objects of any source made into what the diagnosis looks at.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crds::inference_pool::v1alpha2;
use picker_core::diagnosis::object::{Pool, Service};
use picker_core::diagnosis::{Fleet, Kind, Known, Places};
use picker_core::route::object::{
    AllowedRoutes, FromNamespaces, Gateway, GatewaySpec, Listener, Metadata, Namespace, ObjectKey,
    POOL_GROUP, POOL_GROUP_EXPERIMENTAL, Route, RouteNamespaces,
};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::manifest::{Document, ManifestError, Place, workload};

/// The group of InferenceObjective and InferenceModelRewrite.
const LLM_D: &str = "llm-d.ai";
/// The label that every Namespace of a cluster has, with its name.
const NAMESPACE_NAME: &str = "kubernetes.io/metadata.name";

/// A fleet that is put together object by object.
#[derive(Default)]
pub(super) struct Objects {
    pub(super) fleet: Fleet,
    /// Where each object stands, by kind, namespace and name.
    pub(super) places: BTreeMap<String, Place>,
    /// How many objects of each kind were looked at.
    pub(super) counts: BTreeMap<String, usize>,
    /// The namespaces in which there is some object of a kind.
    seen: BTreeMap<Kind, BTreeSet<Arc<str>>>,
    /// Objects that the older of two editions must not take the place of.
    current: BTreeSet<String>,
}

/// An EndpointSlice, as far as it says whose and whether it is of use.
#[derive(Deserialize)]
struct Slice {
    metadata: Metadata,
    #[serde(default)]
    endpoints: Vec<SliceEndpoint>,
}

#[derive(Deserialize)]
struct SliceEndpoint {
    #[serde(default)]
    conditions: SliceConditions,
}

#[derive(Default, Deserialize)]
struct SliceConditions {
    #[serde(default)]
    ready: Option<bool>,
}

#[derive(Deserialize)]
struct Named {
    metadata: Metadata,
}

impl Objects {
    /// Takes over one object; of kinds that nothing depends on, nothing is kept.
    ///
    /// # Errors
    /// [`ManifestError::Field`], if it is none of its kind.
    pub(super) fn add(&mut self, document: &Document) -> Result<(), ManifestError> {
        let name = title(document);
        let (group, kind) = (document.group(), document.kind());
        let before = self.places.len();
        match (group, kind) {
            (POOL_GROUP, "InferencePool") => {
                let pool: crds::InferencePool = document.read_as()?;
                known_fields(document, &json!(pool))?;
                self.add_pool(document, &name, &json!(pool), true)?;
            }
            (POOL_GROUP_EXPERIMENTAL, "InferencePool") => {
                let old: v1alpha2::InferencePool = document.read_as()?;
                known_fields(document, &json!(old))?;
                let pool = crds::InferencePool::from(old);
                self.add_pool(document, &name, &json!(pool), false)?;
            }
            (POOL_GROUP_EXPERIMENTAL, "InferencePoolImport") => {
                let import: Named = document.read_as()?;
                self.see(Kind::Import, document);
                self.fleet.imports.insert(import.metadata.key());
            }
            (LLM_D | POOL_GROUP_EXPERIMENTAL, "InferenceObjective" | "InferenceModelRewrite") => {
                self.add_of_models(document, &name)?;
            }
            ("gateway.networking.k8s.io", _) => self.add_of_gateway(document)?,
            ("", "Namespace") => {
                let mut namespace: Namespace = document.read_as()?;
                self.seen
                    .entry(Kind::Namespace)
                    .or_default()
                    .insert(document.name().into());
                let name = namespace.metadata.name.clone();
                namespace
                    .metadata
                    .labels
                    .insert(NAMESPACE_NAME.into(), name);
                self.fleet.table.set_namespace(namespace);
            }
            ("", "Service") => {
                let service: Service = document.read_as()?;
                self.see(Kind::Service, document);
                self.fleet.services.insert(service.metadata.key(), service);
            }
            ("discovery.k8s.io", "EndpointSlice") => self.add_slice(document)?,
            _ => {
                let workloads = workload::of(document)?;
                if workloads.is_empty() {
                    return Ok(());
                }
                self.see(Kind::Workload, document);
                self.fleet.workloads.extend(workloads);
            }
        }
        self.places.insert(name, document.place.clone());
        if self.places.len() > before {
            *self.counts.entry(kind.to_owned()).or_default() += 1;
        }
        Ok(())
    }

    fn add_pool(
        &mut self,
        document: &Document,
        name: &str,
        pool: &Value,
        current: bool,
    ) -> Result<(), ManifestError> {
        if !self.is_newest(name, current) {
            return Ok(());
        }
        let mut whole = document.clone();
        whole.object["spec"] = pool["spec"].clone();
        let pool: Pool = whole.read_as()?;
        self.see(Kind::Pool, document);
        self.fleet.pools.retain(|it| !same(&it.metadata, document));
        self.fleet.pools.push(pool);
        Ok(())
    }

    fn add_of_models(&mut self, document: &Document, name: &str) -> Result<(), ManifestError> {
        if !self.is_newest(name, document.group() == LLM_D) {
            return Ok(());
        }
        let fleet = &mut self.fleet;
        if document.kind() == "InferenceObjective" {
            let objective = document.read_as()?;
            fleet.objectives.retain(|it| !same(&it.metadata, document));
            fleet.objectives.push(objective);
        } else {
            let rewrite = document.read_as()?;
            fleet.rewrites.retain(|it| !same(&it.metadata, document));
            fleet.rewrites.push(rewrite);
        }
        Ok(())
    }

    fn add_of_gateway(&mut self, document: &Document) -> Result<(), ManifestError> {
        match document.kind() {
            "HTTPRoute" => {
                self.fleet.table.set_route(Route::Http(document.read_as()?));
            }
            "GRPCRoute" => {
                self.fleet.table.set_route(Route::Grpc(document.read_as()?));
            }
            "Gateway" => {
                self.see(Kind::Gateway, document);
                self.fleet.table.set_gateway(document.read_as()?);
            }
            "ReferenceGrant" => {
                self.fleet.table.set_grant(document.read_as()?);
            }
            _ => {}
        }
        Ok(())
    }

    fn add_slice(&mut self, document: &Document) -> Result<(), ManifestError> {
        let slice: Slice = document.read_as()?;
        self.see(Kind::Slice, document);
        let ready = |it: &SliceEndpoint| it.conditions.ready.unwrap_or(true);
        let service = slice.metadata.labels.get("kubernetes.io/service-name");
        if let Some(service) = service.filter(|_| slice.endpoints.iter().any(ready)) {
            self.fleet.backed.insert(ObjectKey {
                namespace: slice.metadata.namespace.clone(),
                name: service.clone(),
            });
        }
        Ok(())
    }

    /// Whether an object is of the current edition, or of an older one and the only one of its name.
    fn is_newest(&mut self, name: &str, current: bool) -> bool {
        if current {
            self.current.insert(name.to_owned());
        }
        current || !self.current.contains(name)
    }

    fn see(&mut self, kind: Kind, document: &Document) {
        let namespace = document.namespace().unwrap_or_default();
        self.seen.entry(kind).or_default().insert(namespace.into());
    }

    /// Completes a fleet of manifests: of a kind that stands in a namespace, all of that namespace are taken to be there.
    /// Pools are the subject: where there are any, they are all there is.
    ///
    /// A Gateway that is not among them is taken to admit whatever refers to it, so that routes are still compared with
    /// one another. What that leaves open is returned, for people.
    pub(super) fn complete(&mut self, everything: bool) -> Vec<String> {
        let mut open = Vec::new();
        if everything {
            self.fleet.known = Known::everything();
        } else {
            for (kind, namespaces) in &self.seen {
                let places = match kind {
                    Kind::Pool => Places::Every,
                    _ => Places::These(namespaces.clone()),
                };
                self.fleet.known.add(*kind, places);
            }
            open = self.suppose_gateways();
            self.suppose_namespaces();
            open.extend(self.open_questions());
        }
        self.fleet.learn_served();
        open
    }

    fn suppose_gateways(&mut self) -> Vec<String> {
        let mut wanted: BTreeMap<ObjectKey, Vec<Listener>> = BTreeMap::new();
        for route in self.fleet.table.routes() {
            let namespace = &route.metadata().namespace;
            for reference in route.parent_refs().iter().filter(|it| it.is_gateway()) {
                let key = reference.target(namespace);
                if self.fleet.table.gateway(&key).is_some()
                    || self.fleet.known.has(Kind::Gateway, &key.namespace)
                {
                    continue;
                }
                let name = reference.section_name.clone();
                let listener = Listener {
                    name: name.unwrap_or_else(|| "any".into()),
                    hostname: None,
                    port: reference.port.unwrap_or(80),
                    protocol: "HTTP".into(),
                    allowed_routes: AllowedRoutes {
                        namespaces: RouteNamespaces {
                            from: FromNamespaces::All,
                            selector: None,
                        },
                        kinds: Vec::new(),
                    },
                };
                let listeners = wanted.entry(key).or_default();
                let is_same =
                    |it: &Listener| (&it.name, it.port) == (&listener.name, listener.port);
                if !listeners.iter().any(is_same) {
                    listeners.push(listener);
                }
            }
        }
        let mut open = Vec::new();
        for (ObjectKey { namespace, name }, listeners) in wanted {
            open.push(format!(
                "Gateway {namespace}/{name} is not among the manifests: whether it takes its routes"
            ));
            self.fleet.table.set_gateway(Gateway {
                metadata: Metadata {
                    name,
                    namespace,
                    ..Metadata::default()
                },
                spec: GatewaySpec { listeners },
            });
        }
        open
    }

    /// What is known of a Namespace that is not among the manifests: the label with its name.
    fn suppose_namespaces(&mut self) {
        let seen = self.seen.get(&Kind::Namespace);
        let routes = self.fleet.table.routes();
        let missing: BTreeSet<Arc<str>> = routes
            .map(|route| route.metadata().namespace.clone())
            .filter(|name| seen.is_none_or(|seen| !seen.contains(name)))
            .collect();
        for name in missing {
            let mut metadata = Metadata {
                name: name.clone(),
                ..Metadata::default()
            };
            metadata.labels.insert(NAMESPACE_NAME.into(), name);
            self.fleet.table.set_namespace(Namespace { metadata });
        }
    }

    /// What cannot be told of the pools, for want of objects.
    fn open_questions(&self) -> Vec<String> {
        let fleet = &self.fleet;
        let mut open = Vec::new();
        for pool in &fleet.pools {
            let key = pool.key();
            if fleet.pods_of(pool).next().is_none()
                && !fleet.known.has(Kind::Workload, &key.namespace)
            {
                open.push(format!(
                    "InferencePool {key}: its pods are not among the manifests"
                ));
            }
            let picker = pool.spec.endpoint_picker_ref.as_ref();
            let service = picker.map(|picker| ObjectKey {
                namespace: key.namespace.clone(),
                name: picker.name.clone(),
            });
            if let Some(service) = service
                && !fleet.services.contains_key(&service)
                && !fleet.known.has(Kind::Service, &key.namespace)
            {
                open.push(format!(
                    "InferencePool {key}: its picker's Service {service} is not among the manifests"
                ));
            }
        }
        open
    }
}

/// Kind, namespace and name, as findings name an object.
pub(super) fn title(document: &Document) -> String {
    let namespace = document.namespace().unwrap_or("default");
    format!("{} {namespace}/{}", document.kind(), document.name())
}

fn same(metadata: &Metadata, document: &Document) -> bool {
    *metadata.name == *document.name() && Some(&*metadata.namespace) == document.namespace()
}

/// Refuses fields of `spec` that its kind does not have: mostly they are misspelt.
fn known_fields(document: &Document, read: &Value) -> Result<(), ManifestError> {
    match unknown(&document.object["spec"], &read["spec"], "spec") {
        None => Ok(()),
        Some((field, fields)) => Err(ManifestError::Field(
            document.place.clone(),
            field,
            format!("{} has no such field", title(document)),
            format!("its fields are {fields}; correct it or take it away"),
        )),
    }
}

/// The first field that was written and not read, and those that its object has.
fn unknown(written: &Value, read: &Value, path: &str) -> Option<(String, String)> {
    match (written, read) {
        (Value::Object(written), Value::Object(read)) => {
            written.iter().find_map(|(name, value)| {
                let path = format!("{path}.{name}");
                match read.get(name) {
                    Some(read) => unknown(value, read, &path),
                    None if value.is_null() => None,
                    None => {
                        let fields: Vec<_> = read.keys().map(String::as_str).collect();
                        Some((path, fields.join(", ")))
                    }
                }
            })
        }
        (Value::Array(written), Value::Array(read)) => {
            let pairs = written.iter().zip(read).enumerate();
            let mut found =
                pairs.filter_map(|(index, (a, b))| unknown(a, b, &format!("{path}[{index}]")));
            found.next()
        }
        _ => None,
    }
}

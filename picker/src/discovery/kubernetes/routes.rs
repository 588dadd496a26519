//! Routes: what the API server tells of HTTPRoutes, GRPCRoutes, Gateways, ReferenceGrants and namespaces, as the route
//! table.
//!
//! None of it has to be there. What is absent or may not be read is a source that says so, and is asked again; a call
//! that does not name its pool then goes by what is left.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use futures::stream::{BoxStream, StreamExt};
use k8s_openapi::api::core::v1;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Api;
use kube::api::{ApiResource, DynamicObject, GroupVersionKind};
use kube::runtime::watcher;
use picker_core::route::object::{
    self, GATEWAY_GROUP, Gateway, Grant, GrpcRoute, HttpRoute, Metadata, Namespace, Route,
    RouteKey, RouteKind,
};
use picker_core::route::table::RouteTable;
use serde::de::DeserializeOwned;

use super::inventory::Change;
use super::object::{Made, ObjectKey};
use super::{Kubernetes, Note, watch_of};
use crate::driver::{Need, Pools};

/// Something that a watch of these kinds told.
pub(super) enum RouteNote {
    Route(RouteKind, Change<Route>),
    Gateway(Change<Gateway>),
    Grant(Change<Grant>),
    Namespace(Change<Namespace>),
}

/// The route table as it comes to be known.
#[derive(Debug, Default)]
pub(super) struct KnownRoutes {
    table: RouteTable,
    has_changed: bool,
}

impl KnownRoutes {
    pub(super) fn take(&mut self, note: RouteNote) {
        self.has_changed |= match note {
            RouteNote::Route(kind, change) => self.on_route(kind, change),
            RouteNote::Gateway(change) => self.on_gateway(change),
            RouteNote::Grant(change) => self.on_grant(change),
            RouteNote::Namespace(change) => self.on_namespace(change),
        };
    }

    /// The table, if it has changed since the last call: a copy costs nothing.
    pub(super) fn changed(&mut self) -> Option<RouteTable> {
        std::mem::take(&mut self.has_changed).then(|| self.table.clone())
    }

    fn on_route(&mut self, kind: RouteKind, change: Change<Route>) -> bool {
        let key = |key: ObjectKey| RouteKey {
            namespace: key.namespace,
            name: key.name,
            kind,
        };
        match change {
            Change::Set(_, route) => self.table.set_route(route),
            Change::Gone(gone) => self.table.remove_route(&key(gone)),
            Change::Only(scope, keys) => {
                let of_kind = self.table.routes().filter(|route| route.kind() == kind);
                let known = of_kind.map(|route| key_of(&route.metadata().key()));
                let gone = left_out(scope.as_ref(), &keys, known);
                any(gone, |gone| self.table.remove_route(&key(gone)))
            }
        }
    }

    fn on_gateway(&mut self, change: Change<Gateway>) -> bool {
        match change {
            Change::Set(_, gateway) => self.table.set_gateway(gateway),
            Change::Gone(gone) => self.table.remove_gateway(&in_core(gone)),
            Change::Only(scope, keys) => {
                let known = self.table.gateways().map(key_of);
                let gone = left_out(scope.as_ref(), &keys, known);
                any(gone, |gone| self.table.remove_gateway(&in_core(gone)))
            }
        }
    }

    fn on_grant(&mut self, change: Change<Grant>) -> bool {
        match change {
            Change::Set(_, grant) => self.table.set_grant(grant),
            Change::Gone(gone) => self.table.remove_grant(&in_core(gone)),
            Change::Only(scope, keys) => {
                let known = self.table.grants().map(|it| key_of(&it.metadata.key()));
                let gone = left_out(scope.as_ref(), &keys, known);
                any(gone, |gone| self.table.remove_grant(&in_core(gone)))
            }
        }
    }

    fn on_namespace(&mut self, change: Change<Namespace>) -> bool {
        match change {
            Change::Set(_, namespace) => self.table.set_namespace(namespace),
            Change::Gone(gone) => self.table.remove_namespace(&gone.name),
            Change::Only(_, keys) => {
                let known = self.table.namespaces().map(|name| ObjectKey {
                    namespace: "".into(),
                    name: name.clone(),
                });
                let gone = left_out(None, &keys, known);
                any(gone, |gone| self.table.remove_namespace(&gone.name))
            }
        }
    }
}

impl Kubernetes {
    /// The watches of everything that routes depend on, each announced to the sources of `pools`; none where one pool is
    /// all that is served, which every call is for.
    pub(super) fn route_watches(&self, pools: &Arc<Pools>) -> Vec<BoxStream<'static, Note>> {
        if self.scope.pool.is_some() {
            return Vec::new();
        }
        let mut all: Vec<BoxStream<'static, RouteNote>> = Vec::new();
        for place in self.route_places() {
            let place = place.as_ref();
            let routes = |kind, plural, make| {
                let changes = self.gateway_api(kind, "v1", plural, place, make, pools);
                changes.boxed()
            };
            let http = routes("HTTPRoute", "httproutes", of_http);
            all.push(http.map(|it| RouteNote::Route(RouteKind::Http, it)).boxed());
            let grpc = routes("GRPCRoute", "grpcroutes", of_grpc);
            all.push(grpc.map(|it| RouteNote::Route(RouteKind::Grpc, it)).boxed());
            let gateways = self.gateway_api("Gateway", "v1", "gateways", place, of_gateway, pools);
            all.push(gateways.map(RouteNote::Gateway).boxed());
            // Every release of the Gateway API serves this version; v1 came late.
            let version = "v1beta1";
            let (kind, plural) = ("ReferenceGrant", "referencegrants");
            let grants = self.gateway_api(kind, version, plural, place, of_grant, pools);
            all.push(grants.map(RouteNote::Grant).boxed());
        }
        if self.scope.namespaces.is_empty() {
            let api: Api<v1::Namespace> = Api::all(self.client.clone());
            let config = watcher::Config::default();
            let watch = watch_of("Namespace", "namespaces", api, None, &config);
            pools.sources().begin(&watch.name, Need::Answered);
            let changes = watch.changes(of_namespace, pools.clone());
            all.push(changes.map(RouteNote::Namespace).boxed());
        }
        let notes = all.into_iter().map(|one| one.map(Note::Route).boxed());
        notes.collect()
    }

    /// The namespaces whose routes, Gateways and grants are read: those that are served, and those that are named for it.
    fn route_places(&self) -> Vec<Option<Arc<str>>> {
        let (served, further) = (&self.scope.namespaces, &self.scope.route_namespaces);
        if served.is_empty() {
            return vec![None];
        }
        let names: BTreeSet<&String> = served.iter().chain(further).collect();
        let names = names.into_iter().map(|name| Some(name.as_str().into()));
        names.collect()
    }

    fn gateway_api<T: Send + 'static>(
        &self,
        kind: &'static str,
        version: &str,
        plural: &str,
        namespace: Option<&Arc<str>>,
        make: fn(&DynamicObject) -> Made<T>,
        pools: &Arc<Pools>,
    ) -> BoxStream<'static, Change<T>> {
        let named = GroupVersionKind::gvk(GATEWAY_GROUP, version, kind);
        let resource = ApiResource::from_gvk_with_plural(&named, plural);
        let api = match namespace {
            Some(namespace) => Api::namespaced_with(self.client.clone(), namespace, &resource),
            None => Api::all_with(self.client.clone(), &resource),
        };
        let plural = format!("{plural}.{GATEWAY_GROUP}");
        let watch = watch_of(kind, &plural, api, namespace, &watcher::Config::default());
        pools.sources().begin(&watch.name, Need::Answered);
        watch.changes(make, pools.clone()).boxed()
    }
}

fn of_http(object: &DynamicObject) -> Made<Route> {
    read(object, |metadata, spec| {
        Route::Http(HttpRoute { metadata, spec })
    })
}

fn of_grpc(object: &DynamicObject) -> Made<Route> {
    read(object, |metadata, spec| {
        Route::Grpc(GrpcRoute { metadata, spec })
    })
}

fn of_gateway(object: &DynamicObject) -> Made<Gateway> {
    read(object, |metadata, spec| Gateway { metadata, spec })
}

fn of_grant(object: &DynamicObject) -> Made<Grant> {
    read(object, |metadata, spec| Grant { metadata, spec })
}

fn of_namespace(namespace: &v1::Namespace) -> Made<Namespace> {
    let metadata = metadata(&namespace.metadata);
    Made::Kept(Namespace { metadata })
}

/// Reads one object; a route that is being deleted is gone, as for gateways.
fn read<T: DeserializeOwned, R>(
    object: &DynamicObject,
    keep: impl FnOnce(Metadata, T) -> R,
) -> Made<R> {
    if object.metadata.deletion_timestamp.is_some() {
        return Made::Ignored;
    }
    let spec = object.data.get("spec").cloned();
    match serde_json::from_value(spec.unwrap_or_default()) {
        Ok(spec) => Made::Kept(keep(metadata(&object.metadata), spec)),
        Err(error) => Made::Unreadable(error.to_string()),
    }
}

fn metadata(of: &ObjectMeta) -> Metadata {
    let ObjectKey { namespace, name } = ObjectKey::of(of);
    let labels = of.labels.iter().flatten();
    let created = of.creation_timestamp.as_ref();
    Metadata {
        namespace,
        name,
        creation_timestamp: created.map(|time| time.0.to_string().into()),
        labels: labels
            .map(|(name, value)| (name.as_str().into(), value.as_str().into()))
            .collect(),
        ..Metadata::default()
    }
}

/// What is known within `scope` and not in `keys`.
fn left_out(
    scope: Option<&Arc<str>>,
    keys: &HashSet<ObjectKey>,
    known: impl Iterator<Item = ObjectKey>,
) -> Vec<ObjectKey> {
    let gone = known
        .filter(|key| scope.is_none_or(|scope| key.namespace == *scope) && !keys.contains(key));
    gone.collect()
}

/// Acts on each; whether any of them changed anything.
fn any(keys: Vec<ObjectKey>, mut act: impl FnMut(ObjectKey) -> bool) -> bool {
    keys.into_iter()
        .fold(false, |changed, key| act(key) | changed)
}

fn key_of(key: &object::ObjectKey) -> ObjectKey {
    ObjectKey {
        namespace: key.namespace.clone(),
        name: key.name.clone(),
    }
}

fn in_core(key: ObjectKey) -> object::ObjectKey {
    object::ObjectKey {
        namespace: key.namespace,
        name: key.name,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn object(name: &str, spec: Value) -> DynamicObject {
        serde_json::from_value(json!({
            "metadata": {"name": name, "namespace": "ai", "creationTimestamp": "2026-11-21T12:00:00Z"},
            "spec": spec,
        }))
        .expect("an object")
    }

    fn set(known: &mut KnownRoutes, name: &str, hostname: &str) {
        let Made::Kept(route) = of_http(&object(name, json!({"hostnames": [hostname]}))) else {
            panic!("this is a route");
        };
        let key = key_of(&route.metadata().key());
        known.take(RouteNote::Route(RouteKind::Http, Change::Set(key, route)));
    }

    fn only(known: &mut KnownRoutes, kind: RouteKind, scope: &str, names: &[&str]) {
        let key = |name: &&str| ObjectKey {
            namespace: scope.into(),
            name: (*name).into(),
        };
        let keys = names.iter().map(key).collect();
        let change = Change::Only(Some(scope.into()), keys);
        known.take(RouteNote::Route(kind, change));
    }

    #[test]
    fn a_table_is_handed_on_when_something_has_changed_and_only_then() {
        let mut known = KnownRoutes::default();
        assert!(known.changed().is_none());
        set(&mut known, "chat", "chat.example.com");
        let first = known.changed().expect("a route is new");
        assert_eq!(first.len(), 1);
        set(&mut known, "chat", "chat.example.com");
        assert!(known.changed().is_none());
        set(&mut known, "chat", "other.example.com");
        assert!(known.changed().is_some());
    }

    #[test]
    fn what_a_list_leaves_out_of_its_namespace_and_kind_is_gone() {
        let mut known = KnownRoutes::default();
        for name in ["chat", "code"] {
            set(&mut known, name, "llm.example.com");
        }
        for (kind, scope, names, left) in [
            (RouteKind::Grpc, "ai", &[][..], 2),
            (RouteKind::Http, "elsewhere", &[], 2),
            (RouteKind::Http, "ai", &["chat"], 1),
            (RouteKind::Http, "ai", &[], 0),
        ] {
            only(&mut known, kind, scope, names);
            assert_eq!(known.table.len(), left, "{kind} {scope} {names:?}");
        }
    }

    #[test]
    fn precedence_goes_by_the_time_that_the_api_server_writes() {
        let Made::Kept(route) = of_http(&object("chat", json!({}))) else {
            panic!("this is a route");
        };
        let created = route.metadata().creation_timestamp.as_deref();
        assert_eq!(created, Some("2026-11-21T12:00:00Z"));
    }

    #[test]
    fn a_route_that_cannot_be_read_says_why_and_one_that_is_deleted_is_gone() {
        let wrong = object("chat", json!({"hostnames": "chat.example.com"}));
        assert!(
            matches!(of_http(&wrong), Made::Unreadable(why) if why.contains("chat.example.com"))
        );
        let mut deleted = object("chat", json!({}));
        deleted.metadata.deletion_timestamp = deleted.metadata.creation_timestamp.clone();
        assert!(matches!(of_http(&deleted), Made::Ignored));
    }
}

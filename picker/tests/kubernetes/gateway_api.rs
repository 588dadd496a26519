//! The Gateway API in these tests: its CRDs as upstream publishes them, and its objects.

use std::fs;
use std::process::Command;

use kube::api::{ApiResource, DeleteParams, DynamicObject, GroupVersionKind, Patch, PatchParams};
use kube::{Api, Client};
use serde_json::{Value, json};

use super::object::install;
use super::scene::repository;

/// The kinds that the picker reads, by the names of their resources.
pub(crate) const KINDS: [&str; 4] = ["gateways", "httproutes", "grpcroutes", "referencegrants"];

/// Installs the CRDs of the kinds that the picker reads, and waits until objects of them can be made.
pub(crate) async fn install_gateway_api(client: &Client) {
    for kind in KINDS {
        let file = format!("standard/gateway.networking.k8s.io_{kind}.yaml");
        let path = definitions().join(file);
        let text = fs::read_to_string(&path).expect("the CRD is there");
        let documents: Vec<Value> = serde_saphyr::from_multiple(&text).expect("YAML");
        let mut documents = documents.into_iter();
        let definition = documents.find(|one| one["kind"] == "CustomResourceDefinition");
        install(client, definition.expect("a CRD")).await;
    }
}

/// The folder with the CRDs, which `tools/gateway_api.py` fetches if it is not there yet.
fn definitions() -> std::path::PathBuf {
    let fetched = Command::new("python3")
        .args(["-B", "tools/gateway_api.py"])
        .current_dir(repository())
        .output()
        .expect("python3 is installed");
    let errors = String::from_utf8_lossy(&fetched.stderr);
    assert!(fetched.status.success(), "tools/gateway_api.py: {errors}");
    String::from_utf8(fetched.stdout)
        .expect("a path")
        .trim()
        .into()
}

/// Makes an object, or makes it be as said.
pub(crate) async fn apply(client: &Client, object: &Value) {
    let (api, name) = api_of(client, object);
    let parameters = PatchParams::apply("test").force();
    api.patch(&name, &parameters, &Patch::Apply(object))
        .await
        .unwrap_or_else(|error| panic!("{name}: {error}"));
}

pub(crate) async fn delete(client: &Client, object: &Value) {
    let (api, name) = api_of(client, object);
    let deleted = api.delete(&name, &DeleteParams::default()).await;
    deleted.expect("the object is deleted");
}

fn api_of(client: &Client, object: &Value) -> (Api<DynamicObject>, String) {
    let text = |value: &Value| value.as_str().expect("text").to_owned();
    let (group, version) = object["apiVersion"]
        .as_str()
        .and_then(|it| it.split_once('/'))
        .expect("a group and version");
    let kind = text(&object["kind"]);
    let named = GroupVersionKind::gvk(group, version, &kind);
    let plural = format!("{}s", kind.to_lowercase());
    let resource = ApiResource::from_gvk_with_plural(&named, &plural);
    let namespace = text(&object["metadata"]["namespace"]);
    let api = Api::namespaced_with(client.clone(), &namespace, &resource);
    (api, text(&object["metadata"]["name"]))
}

fn object(version: &str, kind: &str, namespace: &str, name: &str, spec: &Value) -> Value {
    json!({
        "apiVersion": format!("gateway.networking.k8s.io/{version}"),
        "kind": kind,
        "metadata": {"name": name, "namespace": namespace},
        "spec": spec,
    })
}

/// A Gateway with one listener, that takes routes of every namespace.
pub(crate) fn gateway(namespace: &str, name: &str) -> Value {
    let listener = json!({
        "name": "http", "port": 80, "protocol": "HTTP",
        "allowedRoutes": {"namespaces": {"from": "All"}},
    });
    let spec = json!({"gatewayClassName": "any", "listeners": [listener]});
    object("v1", "Gateway", namespace, name, &spec)
}

/// A route of `gateway` in the same namespace, or as `parent` says, for one host.
pub(crate) fn route(namespace: &str, host: &str, parent: &Value, backends: &[Value]) -> Value {
    let spec = json!({
        "parentRefs": [parent],
        "hostnames": [host],
        "rules": [{"backendRefs": backends}],
    });
    let name = host.split('.').next().expect("a name");
    object("v1", "HTTPRoute", namespace, name, &spec)
}

/// A reference to a pool, as a backend.
pub(crate) fn backend(pool: &str, more: &Value) -> Value {
    let mut backend =
        json!({"group": "inference.networking.k8s.io", "kind": "InferencePool", "name": pool});
    for (key, value) in more.as_object().expect("fields") {
        backend[key] = value.clone();
    }
    backend
}

/// A grant for HTTPRoutes of one namespace to the pools of another.
pub(crate) fn grant(namespace: &str, from: &str) -> Value {
    let spec = json!({
        "from": [{"group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "namespace": from}],
        "to": [{"group": "inference.networking.k8s.io", "kind": "InferencePool"}],
    });
    object("v1beta1", "ReferenceGrant", namespace, "routes", &spec)
}

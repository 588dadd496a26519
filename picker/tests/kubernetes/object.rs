//! The objects that these tests make: pods without a kubelet, pools, Services, CRDs.

use std::net::SocketAddr;

use k8s_openapi::api::core::v1::{Namespace, Pod, Service};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::{Value, json};

use crds::InferencePool;

use super::scene::eventually;

/// Installs CRDs of this repository and waits until objects of them can be made.
pub(crate) async fn install_crds(client: &Client, files: &[&str]) {
    for manifest in crds::manifest::manifests() {
        if !files.contains(&manifest.file) {
            continue;
        }
        install(client, manifest.definition).await;
    }
}

/// Installs a CRD and waits until objects of it can be made.
pub(crate) async fn install(client: &Client, definition: Value) {
    let api: Api<CustomResourceDefinition> = Api::all(client.clone());
    let definition: CustomResourceDefinition =
        serde_json::from_value(definition).expect("a definition");
    let name = definition.metadata.name.clone().expect("a name");
    api.create(&PostParams::default(), &definition)
        .await
        .expect("the CRD is accepted");
    eventually("the CRD is established", async || {
        let read = api.get(&name).await.expect("the CRD is there");
        let conditions = read.status.and_then(|status| status.conditions);
        conditions.is_some_and(|all| {
            all.iter()
                .any(|one| one.type_ == "Established" && one.status == "True")
        })
    })
    .await;
}

/// The CRD of the pools alone.
pub(crate) const POOLS: &[&str] = &["inferencepools.yaml"];

pub(crate) async fn make_namespace(client: &Client, name: &str) {
    let api: Api<Namespace> = Api::all(client.clone());
    let namespace = serde_json::from_value(json!({"metadata": {"name": name}}));
    api.create(&PostParams::default(), &namespace.expect("a namespace"))
        .await
        .expect("the namespace is made");
}

/// A pool of the pods with label `app: NAME`, whose picker is the Service `NAME-epp`.
pub(crate) fn pool(name: &str, ports: &[u16]) -> Value {
    let ports: Vec<Value> = ports
        .iter()
        .map(|number| json!({"number": number}))
        .collect();
    json!({
        "apiVersion": "inference.networking.k8s.io/v1",
        "kind": "InferencePool",
        "metadata": {"name": name},
        "spec": {
            "selector": {"matchLabels": {"app": name}},
            "targetPorts": ports,
            "endpointPickerRef": {"name": format!("{name}-epp"), "port": {"number": 9002}},
        },
    })
}

/// Makes a pool, or makes it be as said.
pub(crate) async fn apply_pool(client: &Client, namespace: &str, pool: &Value) {
    let api: Api<InferencePool> = Api::namespaced(client.clone(), namespace);
    let name = pool["metadata"]["name"].as_str().expect("a name");
    let parameters = PatchParams::apply("test").force();
    api.patch(name, &parameters, &Patch::Apply(pool))
        .await
        .expect("the pool is accepted");
}

pub(crate) async fn delete_pool(client: &Client, namespace: &str, name: &str) {
    let api: Api<InferencePool> = Api::namespaced(client.clone(), namespace);
    api.delete(name, &DeleteParams::default())
        .await
        .expect("the pool is deleted");
}

/// Makes a pod and gives it the status that a kubelet would: Ready, at the server's address.
pub(crate) async fn make_pod(
    client: &Client,
    namespace: &str,
    name: &str,
    labels: &Value,
    at: SocketAddr,
) {
    let api: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let pod = json!({
        "metadata": {"name": name, "labels": labels},
        "spec": {"containers": [{"name": "vllm", "image": "vllm"}]},
    });
    api.create(
        &PostParams::default(),
        &serde_json::from_value(pod).expect("a pod"),
    )
    .await
    .expect("the pod is made");
    let status = json!({"status": {
        "phase": "Running",
        "podIP": at.ip().to_string(),
        "podIPs": [{"ip": at.ip().to_string()}],
        "conditions": [{"type": "Ready", "status": "True"}],
    }});
    patch_pod_status(client, namespace, name, &status).await;
}

pub(crate) async fn set_ready(client: &Client, namespace: &str, name: &str, ready: bool) {
    let word = if ready { "True" } else { "False" };
    let status = json!({"status": {"conditions": [{"type": "Ready", "status": word}]}});
    patch_pod_status(client, namespace, name, &status).await;
}

async fn patch_pod_status(client: &Client, namespace: &str, name: &str, status: &Value) {
    let api: Api<Pod> = Api::namespaced(client.clone(), namespace);
    api.patch_status(name, &PatchParams::default(), &Patch::Strategic(status))
        .await
        .expect("the pod has a status");
}

pub(crate) async fn label_pod(client: &Client, namespace: &str, name: &str, labels: &Value) {
    let api: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let patch = json!({"metadata": {"labels": labels}});
    api.patch(name, &PatchParams::default(), &Patch::Merge(&patch))
        .await
        .expect("the pod is labelled");
}

/// Deletes a pod as `kubectl delete` does: without a kubelet, a grace period above 0 leaves it terminating.
pub(crate) async fn delete_pod(client: &Client, namespace: &str, name: &str, grace_s: u32) {
    let api: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let parameters = DeleteParams::default().grace_period(grace_s);
    api.delete(name, &parameters)
        .await
        .expect("the pod is deleted");
}

/// A Service whose port 9002 leads to `target`.
pub(crate) async fn make_service(client: &Client, namespace: &str, name: &str, target: u16) {
    let api: Api<Service> = Api::namespaced(client.clone(), namespace);
    let service = json!({
        "metadata": {"name": name},
        "spec": {"ports": [{"port": 9002, "targetPort": target}]},
    });
    let service = serde_json::from_value(service).expect("a Service");
    api.create(&PostParams::default(), &service)
        .await
        .expect("the Service is made");
}

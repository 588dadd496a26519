//! What is wrong with one pool, and what other pools notice of it: nothing.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{ApiResource, DynamicObject, Patch, PatchParams};
use kube::{Api, Client};
use serde_json::{Value, json};

use super::api_server::ApiServer;
use super::object::{POOLS, apply_pool, install_crds, make_namespace, make_pod, pool};
use super::scene::{Scene, Went, eventually, pods};

/// Makes the API server accept any pool, as one whose CRD is of a later version does.
async fn accept_anything(client: &Client) {
    let api: Api<CustomResourceDefinition> = Api::all(client.clone());
    let any = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    let patch = json!([
        {"op": "replace", "path": "/spec/versions/0/schema/openAPIV3Schema", "value": any},
    ]);
    let patch: Patch<()> = Patch::Json(serde_json::from_value(patch).expect("a patch"));
    let name = "inferencepools.inference.networking.k8s.io";
    api.patch(name, &PatchParams::default(), &patch)
        .await
        .expect("the CRD is changed");
}

/// Changes a pool, once the API server accepts that.
async fn change_pool(client: &Client, name: &str, spec: &Value) {
    let resource = ApiResource::erase::<crds::InferencePool>(&());
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), "models", &resource);
    let patch = Patch::Merge(json!({"spec": spec}));
    eventually("the pool is accepted", async || {
        let changed = api.patch(name, &PatchParams::default(), &patch).await;
        changed.is_ok()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pool_that_cannot_be_read_stays_as_it_was_and_touches_no_other() {
    let api_server = ApiServer::start().await;
    let client = api_server.client.clone();
    install_crds(&client, POOLS).await;
    make_namespace(&client, "models").await;
    let servers = pods(3).await;
    let addresses: Vec<_> = servers
        .iter()
        .map(simulator::serve::Server::address)
        .collect();
    let port = addresses[0].port();
    for (name, at) in ["chat", "code"].into_iter().zip(&addresses) {
        apply_pool(&client, "models", &pool(name, &[port])).await;
        make_pod(&client, "models", name, &json!({"app": name}), *at).await;
    }
    let scene = Scene::of(api_server, &["models/chat", "models/code"], &[]).await;
    scene.serves("models/chat", vec![addresses[0]]).await;
    scene.serves("models/code", vec![addresses[1]]).await;
    scene.ready().await;

    accept_anything(&client).await;
    change_pool(&client, "code", &json!({"targetPorts": "many"})).await;
    let counted = "pointsman_unreadable_objects_total{kind=\"InferencePool\"} 1";
    eventually("the pool that cannot be read is counted", async || {
        scene.metrics().await.contains(counted)
    })
    .await;
    let label = json!({"app": "chat"});
    make_pod(&client, "models", "chat-1", &label, addresses[2]).await;
    let both = vec![addresses[0], addresses[2]];
    scene.serves("models/chat", both).await;
    scene.serves("models/code", vec![addresses[1]]).await;
    let went = scene.went("models/code", "as-before", &servers).await;
    assert_eq!(went, Went::To(addresses[1]));
    assert_eq!(scene.readyz().await.0, 200);

    let ports = json!({"targetPorts": [{"number": port ^ 1}]});
    change_pool(&client, "code", &ports).await;
    let moved = std::net::SocketAddr::new(addresses[1].ip(), port ^ 1);
    scene.serves("models/code", vec![moved]).await;
}

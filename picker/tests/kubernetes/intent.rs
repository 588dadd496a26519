//! What owners want of a pool's requests: InferenceModelRewrites and InferenceObjectives, of both groups.

use kube::api::{ApiResource, DeleteParams, DynamicObject, GroupVersionKind, Patch, PatchParams};
use kube::{Api, Client};
use serde_json::{Value, json};

use super::api_server::ApiServer;
use super::object::{apply_pool, install_crds, make_namespace, make_pod, pool};
use super::scene::{Scene, eventually, pods};

const POOL: &str = "models/chat";
/// The CRDs of pools, and of what is wanted of their requests.
const CRDS: &[&str] = &[
    "inferencepools.yaml",
    "inferenceobjectives.yaml",
    "inferencemodelrewrites.yaml",
    "x-inferencemodelrewrites.yaml",
];

fn api(client: &Client, group: &str, kind: &str) -> Api<DynamicObject> {
    let kind = GroupVersionKind::gvk(group, "v1alpha2", kind);
    Api::namespaced_with(client.clone(), "models", &ApiResource::from_gvk(&kind))
}

/// Makes an object of the pool `chat`, or makes it be as said.
async fn apply(client: &Client, group: &str, kind: &str, name: &str, mut spec: Value) {
    spec["poolRef"] = json!({"name": "chat"});
    let object = json!({
        "apiVersion": format!("{group}/v1alpha2"),
        "kind": kind,
        "metadata": {"name": name},
        "spec": spec,
    });
    let parameters = PatchParams::apply("test").force();
    api(client, group, kind)
        .patch(name, &parameters, &Patch::Apply(&object))
        .await
        .expect("the object is accepted");
}

/// Rules by which requests for `base` get another model.
fn to(model: &str) -> Value {
    json!({"rules": [{
        "matches": [{"model": {"value": "base"}}],
        "targets": [{"modelRewrite": model, "weight": 1}],
    }]})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_get_the_model_and_the_priority_that_objects_of_their_pool_give_them() {
    let api_server = ApiServer::start().await;
    let client = api_server.client.clone();
    install_crds(&client, CRDS).await;
    make_namespace(&client, "models").await;
    let servers = pods(1).await;
    let at = servers[0].address();
    apply_pool(&client, "models", &pool("chat", &[at.port()])).await;
    make_pod(&client, "models", "chat-0", &json!({"app": "chat"}), at).await;
    let scene = Scene::of(api_server, &[POOL], &[]).await;
    scene.serves(POOL, vec![at]).await;
    scene.ready().await;

    let mut count = 0;
    let mut becomes = async |what: &str, model: &str, priority: i32| {
        eventually(what, async || {
            count += 1;
            let id = format!("r-{count}");
            scene.send(POOL, &id).await;
            let received = servers[0].received().into_iter();
            let mut received = received.filter(|one| one.request_id.as_deref() == Some(&*id));
            let body = received
                .next()
                .and_then(|one| one.body)
                .expect("a small body");
            let body: Value = serde_json::from_slice(&body).expect("JSON");
            let receipt = scene.receipt(&id).await;
            body["model"] == model && receipt["standing"]["priority"] == priority
        })
        .await;
    };
    let (kind, current, older) = (
        "InferenceModelRewrite",
        "llm-d.ai",
        "inference.networking.x-k8s.io",
    );
    becomes("a request gets what it asks for", "base", 0).await;
    apply(&client, older, kind, "canary", to("v1")).await;
    becomes("the older group counts where it is alone", "v1", 0).await;
    apply(&client, current, kind, "canary", to("v2")).await;
    becomes("the newer group goes before it", "v2", 0).await;
    apply(&client, current, kind, "canary", to("v3")).await;
    becomes("a change is followed", "v3", 0).await;
    // It is of the model that requests ask for, by its name.
    apply(
        &client,
        current,
        "InferenceObjective",
        "base",
        json!({"priority": -3}),
    )
    .await;
    becomes("requests have a priority", "v3", -3).await;
    for group in [current, older] {
        let rewrites = api(&client, group, kind);
        let gone = rewrites.delete("canary", &DeleteParams::default()).await;
        gone.expect("the object is deleted");
    }
    becomes("without rewrites it gets what it asks for", "base", -3).await;
}

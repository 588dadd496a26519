//! How a request reaches its pool, and which pools are served.

use serde_json::json;
use simulator::serve::Server;

use super::api_server::{ApiServer, free_ports};
use super::object::{apply_pool, install_crds, make_namespace, make_pod, make_service, pool};
use super::scene::{Scene, Went, pods};

/// Two pools in a namespace, with a pod each.
async fn two_pools() -> (ApiServer, Vec<Server>) {
    let api_server = ApiServer::start().await;
    let client = api_server.client.clone();
    install_crds(&client, &["inferencepools.yaml", "x-inferencepools.yaml"]).await;
    make_namespace(&client, "models").await;
    let servers = pods(2).await;
    let port = servers[0].address().port();
    for (name, server) in ["chat", "code"].into_iter().zip(&servers) {
        apply_pool(&client, "models", &pool(name, &[port])).await;
        let labels = json!({"app": name});
        make_pod(&client, "models", name, &labels, server.address()).await;
    }
    (api_server, servers)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pool_whose_service_leads_to_another_port_has_a_listener_of_its_own() {
    let (api_server, servers) = two_pools().await;
    let client = api_server.client.clone();
    let [own] = free_ports();
    make_service(&client, "models", "code-epp", own).await;
    let scene = Scene::of(api_server, &["models/chat"], &[]).await;
    scene
        .serves("models/code", vec![servers[1].address()])
        .await;
    scene.ready().await;
    let by_own_port = scene.another_envoy(own).await;
    let went = by_own_port.went("any", "own-port", &servers).await;
    assert_eq!(went, Went::To(servers[1].address()));
    let (status, why) = scene.send("any", "shared-port").await;
    assert_eq!(status, 503, "two pools, and nothing tells which: {why}");
    assert!(
        why.contains("models/chat") && why.contains("models/code"),
        "{why}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_only_pool_is_served_alone_and_needs_no_name() {
    let (api_server, servers) = two_pools().await;
    let flags = ["--pool-name=code", "--pool-namespace=models"];
    let scene = Scene::of(api_server, &[], &flags).await;
    scene
        .serves("models/code", vec![servers[1].address()])
        .await;
    scene.ready().await;
    assert_eq!(scene.endpoints("models/chat").await, None);
    let went = scene.went("any", "only", &servers).await;
    assert_eq!(went, Went::To(servers[1].address()));
    let (_, page) = scene.readyz().await;
    assert!(
        !page.contains("all namespaces"),
        "a watch of the cluster: {page}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pools_are_chosen_by_namespace_and_by_picker() {
    let (api_server, servers) = two_pools().await;
    make_namespace(&api_server.client, "other").await;
    let port = servers[0].address().port();
    apply_pool(&api_server.client, "other", &pool("chat", &[port])).await;
    let flags = ["--namespaces=models", "--picker-service=chat-epp"];
    let scene = Scene::of(api_server, &[], &flags).await;
    scene
        .serves("models/chat", vec![servers[0].address()])
        .await;
    scene.ready().await;
    assert_eq!(scene.endpoints("models/code").await, None);
    assert_eq!(scene.endpoints("other/chat").await, None);
    let (_, page) = scene.readyz().await;
    assert!(page.contains("pods in namespace models"), "{page}");
    assert!(
        !page.contains("all namespaces"),
        "a watch of the cluster: {page}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pool_of_v1alpha2_is_served() {
    let (api_server, servers) = two_pools().await;
    let client = api_server.client.clone();
    let old: crds::inference_pool::v1alpha2::InferencePool = serde_json::from_value(json!({
        "metadata": {"name": "old"},
        "spec": {
            "selector": {"app": "chat"},
            "targetPortNumber": servers[0].address().port(),
            "extensionRef": {"name": "old-epp"},
        },
    }))
    .expect("a pool");
    let api: kube::Api<crds::inference_pool::v1alpha2::InferencePool> =
        kube::Api::namespaced(client, "models");
    let made = api.create(&kube::api::PostParams::default(), &old).await;
    made.expect("the pool is accepted");
    let scene = Scene::of(api_server, &["models/old"], &[]).await;
    scene.serves("models/old", vec![servers[0].address()]).await;
    scene.ready().await;
    let went = scene.went("models/old", "old", &servers).await;
    assert_eq!(went, Went::To(servers[0].address()));
}

//! The API server is not there, does not know, or does not tell.

use std::time::Duration;

use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
use kube::Api;
use kube::api::{DeleteParams, PostParams};
use serde_json::json;
use simulator::serve::Server;
use tokio::time::Instant;

use super::api_server::ApiServer;
use super::object::{POOLS, apply_pool, install_crds, make_namespace, make_pod, pool};
use super::scene::{Scene, Went, eventually, pods};

const POOL: &str = "models/chat";

async fn make_chat_pod(scene: &Scene, index: usize, servers: &[Server]) {
    let (name, labels) = (format!("chat-{index}"), json!({"app": "chat"}));
    let at = servers[index].address();
    make_pod(&scene.client, "models", &name, &labels, at).await;
}

/// A pool with the first of two pods.
async fn with_one_pod(flags: &[&str]) -> (Scene, Vec<Server>) {
    let api_server = ApiServer::start().await;
    install_crds(&api_server.client, POOLS).await;
    make_namespace(&api_server.client, "models").await;
    let servers = pods(2).await;
    let port = servers[0].address().port();
    apply_pool(&api_server.client, "models", &pool("chat", &[port])).await;
    let scene = Scene::of(api_server, &[POOL], flags).await;
    make_chat_pod(&scene, 0, &servers).await;
    scene.serves(POOL, vec![servers[0].address()]).await;
    scene.ready().await;
    (scene, servers)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn crds_that_are_installed_after_the_start_are_noticed() {
    let api_server = ApiServer::start().await;
    make_namespace(&api_server.client, "models").await;
    let scene = Scene::of(api_server, &[POOL], &[]).await;
    let guard = "[-] inferencepools.inference.networking.k8s.io in all namespaces: absent";
    eventually("readiness says what is missing", async || {
        let (status, page) = scene.readyz().await;
        status == 503 && page.contains(guard)
    })
    .await;
    let metric = "pointsman_sources{source=\"inferencepools.inference.networking.k8s.io in all namespaces\",state=\"absent\"} 1";
    let metrics = scene.metrics().await;
    assert!(metrics.contains(metric), "{metrics}");

    install_crds(&scene.client, POOLS).await;
    let servers = pods(1).await;
    let port = servers[0].address().port();
    apply_pool(&scene.client, "models", &pool("chat", &[port])).await;
    make_chat_pod(&scene, 0, &servers).await;
    scene.serves(POOL, vec![servers[0].address()]).await;
    scene.ready().await;
    let went = scene.went(POOL, "late", &servers).await;
    assert_eq!(went, Went::To(servers[0].address()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rights_that_are_withdrawn_stop_no_traffic_and_are_used_when_restored() {
    let api_server = ApiServer::start().await;
    let client = api_server.client.clone();
    install_crds(&client, POOLS).await;
    make_namespace(&client, "models").await;
    let servers = pods(2).await;
    let port = servers[0].address().port();
    apply_pool(&client, "models", &pool("chat", &[port])).await;
    grant(&client).await;
    let kubeconfig = api_server.kubeconfig("reader", Some("reader-token"));
    let mut scene = Scene::asking_as(api_server, &kubeconfig, &[POOL], &[]).await;
    make_chat_pod(&scene, 0, &servers).await;
    scene.serves(POOL, vec![servers[0].address()]).await;
    scene.ready().await;

    withdraw(&client).await;
    scene.api_server.stop();
    scene.api_server.start_again().await;
    make_chat_pod(&scene, 1, &servers).await;
    let forbidden = "(forbidden: grant get, list and watch on pods in all namespaces)";
    eventually("readiness tells of the refusal", async || {
        scene.readyz().await.1.contains(forbidden)
    })
    .await;
    let went = scene.went(POOL, "known", &servers).await;
    assert_eq!(
        went,
        Went::To(servers[0].address()),
        "what was known stands"
    );
    assert_eq!(scene.readyz().await.0, 200, "it was ready, and stays so");

    grant(&client).await;
    scene
        .serves(POOL, servers.iter().map(Server::address).collect())
        .await;
}

const ROLE: &str = "reader";

async fn grant(client: &kube::Client) {
    let role = json!({
        "metadata": {"name": ROLE},
        "rules": [
            {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]},
            {
                "apiGroups": ["inference.networking.k8s.io"],
                "resources": ["inferencepools"],
                "verbs": ["get", "list", "watch"],
            },
        ],
    });
    let binding = json!({
        "metadata": {"name": ROLE},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": ROLE},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "reader"}],
    });
    let roles: Api<ClusterRole> = Api::all(client.clone());
    let bindings: Api<ClusterRoleBinding> = Api::all(client.clone());
    let role = serde_json::from_value(role).expect("a role");
    let binding = serde_json::from_value(binding).expect("a binding");
    let parameters = PostParams::default();
    roles.create(&parameters, &role).await.expect("the role");
    bindings
        .create(&parameters, &binding)
        .await
        .expect("the binding");
}

async fn withdraw(client: &kube::Client) {
    let roles: Api<ClusterRole> = Api::all(client.clone());
    let bindings: Api<ClusterRoleBinding> = Api::all(client.clone());
    let parameters = DeleteParams::default();
    bindings
        .delete(ROLE, &parameters)
        .await
        .expect("the binding goes");
    roles
        .delete(ROLE, &parameters)
        .await
        .expect("the role goes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_restart_of_the_api_server_changes_are_seen() {
    let (mut scene, servers) = with_one_pod(&[]).await;
    scene.api_server.stop();
    scene.api_server.start_again().await;
    make_chat_pod(&scene, 1, &servers).await;
    let both = servers.iter().map(Server::address).collect();
    scene.serves(POOL, both).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_the_api_server_is_gone_for_30_s_no_request_is_lost() {
    let (mut scene, servers) = with_one_pod(&[]).await;
    make_chat_pod(&scene, 1, &servers).await;
    let both: Vec<_> = servers.iter().map(Server::address).collect();
    scene.serves(POOL, both.clone()).await;
    scene.api_server.stop();
    let end = Instant::now() + Duration::from_secs(30);
    let mut sent = 0;
    while Instant::now() < end {
        let (status, body) = scene.send(POOL, &format!("gone-{sent}")).await;
        assert!(status.is_success(), "request {sent}: {status}: {body}");
        sent += 1;
    }
    assert!(sent > 100, "{sent} requests are no load");
    assert_eq!(scene.endpoints(POOL).await, Some(both));
    scene.api_server.start_again().await;
    super::object::delete_pod(&scene.client, "models", "chat-0", 0).await;
    scene.serves(POOL, vec![servers[1].address()]).await;
}

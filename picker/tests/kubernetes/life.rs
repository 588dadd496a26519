//! Pools and pods come, change and go.

use serde_json::json;
use simulator::engine::Profile;
use simulator::serve::{self, Options, Server};

use super::api_server::ApiServer;
use super::object::{
    POOLS, apply_pool, delete_pod, delete_pool, install_crds, label_pod, make_namespace, make_pod,
    pool, set_ready,
};
use super::scene::{Scene, Went, eventually, pods};

const POOL: &str = "models/chat";

/// A scene with a pool of so many pods, and traffic that flows to it.
async fn with_pods(count: u8) -> (Scene, Vec<Server>) {
    let api_server = ApiServer::start().await;
    let client = api_server.client.clone();
    install_crds(&client, POOLS).await;
    make_namespace(&client, "models").await;
    let servers = pods(count).await;
    let port = servers[0].address().port();
    apply_pool(&client, "models", &pool("chat", &[port])).await;
    for (index, server) in servers.iter().enumerate() {
        let (name, labels) = (format!("chat-{index}"), json!({"app": "chat"}));
        make_pod(&client, "models", &name, &labels, server.address()).await;
    }
    let scene = Scene::of(api_server, &[POOL], &[]).await;
    scene.serves(POOL, addresses(&servers)).await;
    scene.ready().await;
    (scene, servers)
}

fn addresses(servers: &[Server]) -> Vec<std::net::SocketAddr> {
    servers.iter().map(Server::address).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn traffic_flows_once_there_is_a_pool_with_pods() {
    let api_server = ApiServer::start().await;
    let client = api_server.client.clone();
    install_crds(&client, POOLS).await;
    make_namespace(&client, "models").await;
    let scene = Scene::of(api_server, &[POOL], &[]).await;
    scene.ready().await;
    assert_eq!(scene.send(POOL, "none").await.0, 503);

    let servers = pods(2).await;
    let port = servers[0].address().port();
    apply_pool(&client, "models", &pool("chat", &[port])).await;
    scene.serves(POOL, vec![]).await;
    let (status, why) = scene.send(POOL, "empty").await;
    assert_eq!(status, 503);
    assert!(why.contains("models/chat has no endpoints"), "{why}");

    for (index, server) in servers.iter().enumerate() {
        let (name, labels) = (format!("chat-{index}"), json!({"app": "chat"}));
        make_pod(&client, "models", &name, &labels, server.address()).await;
    }
    scene.serves(POOL, addresses(&servers)).await;
    for index in 0..10 {
        let went = scene.went(POOL, &format!("r-{index}"), &servers).await;
        assert!(matches!(went, Went::To(_)), "{went:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_whose_label_changes_leaves_the_pool_and_comes_back() {
    let (scene, servers) = with_pods(2).await;
    label_pod(&scene.client, "models", "chat-0", &json!({"app": "other"})).await;
    scene.serves(POOL, vec![servers[1].address()]).await;
    let went = scene.went(POOL, "without", &servers).await;
    assert_eq!(went, Went::To(servers[1].address()));
    label_pod(&scene.client, "models", "chat-0", &json!({"app": "chat"})).await;
    scene.serves(POOL, addresses(&servers)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_that_is_not_ready_gets_nothing_until_it_is() {
    let (scene, servers) = with_pods(2).await;
    set_ready(&scene.client, "models", "chat-1", false).await;
    scene.serves(POOL, vec![servers[0].address()]).await;
    for index in 0..5 {
        let went = scene.went(POOL, &format!("r-{index}"), &servers).await;
        assert_eq!(went, Went::To(servers[0].address()));
    }
    set_ready(&scene.client, "models", "chat-1", true).await;
    scene.serves(POOL, addresses(&servers)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_terminating_pod_gets_no_new_request_and_a_deleted_one_is_gone() {
    let (scene, servers) = with_pods(3).await;
    // Nobody ends the pod, so it stays, Ready and terminating.
    delete_pod(&scene.client, "models", "chat-0", 300).await;
    let left = addresses(&servers[1..]);
    scene.serves(POOL, left).await;
    delete_pod(&scene.client, "models", "chat-1", 0).await;
    scene.serves(POOL, vec![servers[2].address()]).await;
    let went = scene.went(POOL, "last", &servers).await;
    assert_eq!(went, Went::To(servers[2].address()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pool_that_is_deleted_is_not_served_until_it_is_made_again() {
    let (scene, servers) = with_pods(1).await;
    delete_pool(&scene.client, "models", "chat").await;
    eventually("the pool is gone", async || {
        scene.endpoints(POOL).await.is_none()
    })
    .await;
    let (status, why) = scene.send(POOL, "gone").await;
    assert_eq!(status, 503);
    assert!(why.contains(POOL), "{why}");
    let port = servers[0].address().port();
    apply_pool(&scene.client, "models", &pool("chat", &[port])).await;
    scene.serves(POOL, addresses(&servers)).await;
    let went = scene.went(POOL, "again", &servers).await;
    assert_eq!(went, Went::To(servers[0].address()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_selector_selects_other_pods() {
    let (scene, servers) = with_pods(2).await;
    label_pod(&scene.client, "models", "chat-1", &json!({"tier": "gpu"})).await;
    let mut narrow = pool("chat", &[servers[0].address().port()]);
    narrow["spec"]["selector"]["matchLabels"] = json!({"tier": "gpu"});
    apply_pool(&scene.client, "models", &narrow).await;
    scene.serves(POOL, vec![servers[1].address()]).await;
    let went = scene.went(POOL, "narrow", &servers).await;
    assert_eq!(went, Went::To(servers[1].address()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_target_port_is_another_endpoint_and_several_are_ranks() {
    let (scene, servers) = with_pods(1).await;
    let address = servers[0].address();
    let other = std::net::SocketAddr::new(address.ip(), address.port() ^ 1);
    apply_pool(&scene.client, "models", &pool("chat", &[other.port()])).await;
    scene.serves(POOL, vec![other]).await;
    let both = pool("chat", &[address.port(), other.port()]);
    apply_pool(&scene.client, "models", &both).await;
    scene.serves(POOL, vec![address, other]).await;
    let state = scene.state().await.to_string();
    assert!(state.contains("models/chat-0-rank-1"), "{state}");
    // Nobody listens at the second rank, which is noticed before a request is lost there.
    eventually("the dead rank is suspect", async || {
        scene.state().await.to_string().contains("refused")
    })
    .await;
    let went = scene.went(POOL, "rank", &servers).await;
    assert_eq!(went, Went::To(address));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pools_of_two_namespaces_are_served_by_one_picker_each_by_itself() {
    let api_server = ApiServer::start().await;
    let client = api_server.client.clone();
    install_crds(&client, POOLS).await;
    let servers = pods(2).await;
    let port = servers[0].address().port();
    for (index, namespace) in ["red", "blue"].into_iter().enumerate() {
        make_namespace(&client, namespace).await;
        apply_pool(&client, namespace, &pool("chat", &[port])).await;
        let at = servers[index].address();
        make_pod(&client, namespace, "chat-0", &json!({"app": "chat"}), at).await;
    }
    let scene = Scene::of(api_server, &["red/chat", "blue/chat"], &[]).await;
    scene.serves("red/chat", vec![servers[0].address()]).await;
    scene.serves("blue/chat", vec![servers[1].address()]).await;
    scene.ready().await;
    for (index, route) in ["red/chat", "blue/chat"].into_iter().enumerate() {
        let went = scene.went(route, &format!("to-{index}"), &servers).await;
        assert_eq!(went, Went::To(servers[index].address()));
    }
    delete_pool(&client, "red", "chat").await;
    eventually("one is gone", async || {
        scene.endpoints("red/chat").await.is_none()
    })
    .await;
    let went = scene.went("blue/chat", "other", &servers).await;
    assert_eq!(went, Went::To(servers[1].address()));
    let metrics = scene.metrics().await;
    assert!(metrics.contains("pool=\"blue/chat\""), "{metrics}");
    assert!(!metrics.contains("pool=\"red/chat\""), "{metrics}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_target_port_of_a_pod_gets_requests() {
    let (scene, mut servers) = with_pods(1).await;
    let mut options = Options::local(1, "base", &[], Profile::llama_8b_h100());
    options.addresses = vec![std::net::SocketAddr::new(servers[0].address().ip(), 0)];
    servers.extend(serve::spawn(options).await.expect("a server starts"));
    let ports: Vec<u16> = addresses(&servers).iter().map(|at| at.port()).collect();
    apply_pool(&scene.client, "models", &pool("chat", &ports)).await;
    scene.serves(POOL, addresses(&servers)).await;
    let mut sent = 0;
    eventually("both ranks have got a request", async || {
        sent += 1;
        let went = scene.went(POOL, &format!("r-{sent}"), &servers).await;
        assert!(matches!(went, Went::To(_)), "{went:?}");
        servers.iter().all(|server| !server.received().is_empty())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_label_of_a_pod_says_which_engine_it_is() {
    let (scene, _servers) = with_pods(2).await;
    let label = |name| json!({"llm-d.ai/engine-type": name});
    label_pod(&scene.client, "models", "chat-0", &label("sglang")).await;
    label_pod(&scene.client, "models", "chat-1", &label("of-its-own")).await;
    eventually("the engines are those of the labels", async || {
        let state = scene.state().await;
        let endpoints = state["pools"][0]["endpoints"].as_array();
        let of = |name: &str| {
            let found = endpoints.into_iter().flatten();
            let mut named = found.filter(|one| one["name"] == name);
            named
                .next()
                .map(|one| (&one["engine"], &one["engine_is_known"]))
        };
        of("models/chat-0") == Some((&json!("sglang"), &json!(true)))
            && of("models/chat-1") == Some((&json!("of-its-own"), &json!(false)))
    })
    .await;
    let metrics = scene.metrics().await;
    let counted = "pointsman_endpoints_of_unknown_engine{engine=\"of-its-own\"} 1";
    assert!(metrics.contains(counted), "{metrics}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_are_served_by_a_selector_alone_without_an_inference_pool() {
    let api_server = ApiServer::start().await;
    let client = api_server.client.clone();
    make_namespace(&client, "models").await;
    let servers = pods(3).await;
    let port = servers[0].address().port();
    for (name, tier, server) in [
        ("chat-0", "gpu", &servers[0]),
        ("chat-1", "test", &servers[1]),
        ("mail-0", "gpu", &servers[2]),
    ] {
        let labels = json!({"app": &name[..4], "tier": tier});
        make_pod(&client, "models", name, &labels, server.address()).await;
    }
    let flags = [
        "--endpoint-selector=app in (chat, mail),tier!=test",
        &format!("--endpoint-target-ports={port}"),
        "--pool-namespace=models",
        "--pod-name=picker-7d4b9c6f5d-x2x4z",
    ];
    let scene = Scene::of(api_server, &[], &flags).await;
    let selected = vec![servers[0].address(), servers[2].address()];
    scene.serves("models/picker", selected).await;
    scene.ready().await;
    let (_, page) = scene.readyz().await;
    assert!(!page.contains("inferencepools"), "nobody asked: {page}");
    let went = scene.went("any", "selected", &servers).await;
    assert!(matches!(went, Went::To(at) if at != servers[1].address()));

    label_pod(&client, "models", "chat-0", &json!({"tier": "test"})).await;
    scene
        .serves("models/picker", vec![servers[2].address()])
        .await;
}

//! How a request reaches its pool, and which pools are served.

use serde_json::json;
use simulator::serve::Server;

use super::api_server::{ApiServer, free_ports};
use super::call::Call;
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

/// A picker of both pools, of which each call has to say which it is for.
async fn both() -> (Scene, Vec<Server>) {
    let (api_server, servers) = two_pools().await;
    let scene = Scene::of(api_server, &[], &[]).await;
    for (pool, server) in ["models/chat", "models/code"].into_iter().zip(&servers) {
        scene.serves(pool, vec![server.address()]).await;
    }
    scene.ready().await;
    (scene, servers)
}

/// Checks where calls go: to one of `servers` by its number, or to none.
async fn check(calls: &[(Call, Option<usize>)]) {
    let (scene, servers) = both().await;
    for (call, expected) in calls {
        let channel = call.connect(scene.picker.ext_proc[0]).await;
        let went = call.ask(&channel).await;
        match expected {
            Some(number) => assert_eq!(went, Ok(servers[*number].address()), "{call:?}"),
            None => {
                let why = went.expect_err("nothing tells");
                assert!(
                    why.contains("models/chat") && why.contains("models/code"),
                    "{call:?}: {why}"
                );
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_service_in_the_authority_of_the_call_tells_the_pool() {
    let by = |authority: &str| Call {
        authority: Some(authority.to_owned()),
        ..Call::default()
    };
    check(&[
        (by("chat-epp.models:9002"), Some(0)),
        (by("code-epp.models.svc.cluster.local:9002"), Some(1)),
        (by("code-epp.other.svc.cluster.local:9002"), None),
        (by("127.0.0.1:9002"), None),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_metadata_of_the_call_tells_the_pool() {
    let by = |pool: &str| Call {
        pool: Some(pool.to_owned()),
        ..Call::default()
    };
    check(&[
        (by("models/chat"), Some(0)),
        (by("models/code"), Some(1)),
        (by("models/mail"), None),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_proxys_name_for_the_cluster_tells_the_pool() {
    let by = |cluster: &str| Call {
        cluster: Some(cluster.to_owned()),
        ..Call::default()
    };
    check(&[
        (by("endpointpicker_chat_models_original_dst"), Some(0)),
        (
            by("outbound|54321||code-ip-1a2b3c4d.models.svc.cluster.local"),
            Some(1),
        ),
        (by("httproute/models/code/rule/0"), None),
        (by("endpointpicker_mail_models_original_dst"), None),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_addresses_of_the_subset_hint_tell_the_pool() {
    let (scene, servers) = both().await;
    for server in &servers {
        let call = Call {
            subset: Some(server.address().to_string()),
            ..Call::default()
        };
        let channel = call.connect(scene.picker.ext_proc[0]).await;
        assert_eq!(call.ask(&channel).await, Ok(server.address()));
    }
    let both = servers.iter().map(|server| server.address().to_string());
    let call = Call {
        subset: Some(both.collect::<Vec<_>>().join(",")),
        ..Call::default()
    };
    let channel = call.connect(scene.picker.ext_proc[0]).await;
    let why = call.ask(&channel).await;
    let why = why.expect_err("the hint is of both pools");
    assert!(why.contains("models/chat"), "{why}");
}

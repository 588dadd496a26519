//! The Services that pools name, kept by the picker.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::ListParams;
use kube::{Api, Client};
use serde_json::json;

use super::api_server::ApiServer;
use super::object::{
    POOLS, apply_pool, delete_pool, install_crds, make_namespace, make_pod, make_service, pool,
    set_ready,
};
use super::scene::{Scene, eventually};

/// The addresses in the slices of a Service.
async fn leads_to(client: &Client, namespace: &str, service: &str) -> BTreeSet<String> {
    let api: Api<EndpointSlice> = Api::namespaced(client.clone(), namespace);
    let of = ListParams::default().labels(&format!("kubernetes.io/service-name={service}"));
    let slices = api.list(&of).await.expect("slices can be listed");
    let endpoints = slices.items.into_iter().filter_map(|slice| slice.endpoints);
    endpoints.flatten().flat_map(|one| one.addresses).collect()
}

fn set(addresses: &[&str]) -> BTreeSet<String> {
    addresses.iter().map(|&one| one.to_owned()).collect()
}

/// Two ready replicas, a pool whose Service is to be published, and one whose Service is somebody's own.
async fn published() -> (Scene, Client) {
    let api_server = ApiServer::start().await;
    let client = api_server.client.clone();
    install_crds(&client, POOLS).await;
    for namespace in ["pointsman", "models"] {
        make_namespace(&client, namespace).await;
    }
    let labels = json!({"app": "pointsman"});
    for (name, at) in [
        ("replica-a", "10.1.0.1:9002"),
        ("replica-b", "10.1.0.2:9002"),
    ] {
        let at = at.parse().expect("an address");
        make_pod(&client, "pointsman", name, &labels, at).await;
    }
    make_service(&client, "models", "own-epp", 9002).await;
    for name in ["chat", "own"] {
        apply_pool(&client, "models", &pool(name, &[8000])).await;
    }
    let flags = [
        "--publish-services=app=pointsman",
        "--pool-namespace=pointsman",
    ];
    let scene = Scene::of(api_server, &[], &flags).await;
    let both = set(&["10.1.0.1", "10.1.0.2"]);
    eventually("the Service leads to both", async || {
        leads_to(&client, "models", "chat-epp").await == both
    })
    .await;
    (scene, client)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_service_that_a_pool_names_leads_to_the_ready_replicas() {
    let (scene, client) = published().await;
    let services: Api<Service> = Api::namespaced(client.clone(), "models");
    let made = services.get("chat-epp").await.expect("it is there");
    let spec = made.spec.expect("it has a spec");
    assert_eq!(
        spec.selector, None,
        "it would select pods of its own namespace"
    );
    let port = &spec.ports.expect("it has ports")[0];
    assert_eq!((port.port, port.name.as_deref()), (9002, Some("grpc-9002")));
    set_ready(&client, "pointsman", "replica-a", false).await;
    eventually("a replica that is not ready is left out", async || {
        leads_to(&client, "models", "chat-epp").await == set(&["10.1.0.2"])
    })
    .await;
    assert!(!scene.readyz().await.1.contains("[-]"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_goes_when_no_pool_names_it_and_one_of_somebody_else_is_left_alone() {
    let (_scene, client) = published().await;
    let services: Api<Service> = Api::namespaced(client.clone(), "models");
    delete_pool(&client, "models", "chat").await;
    eventually("a Service that no pool names is removed", async || {
        let service = services.get_opt("chat-epp").await.expect("an answer");
        service.is_none() && leads_to(&client, "models", "chat-epp").await.is_empty()
    })
    .await;
    let mut other = pool("own", &[8000]);
    other["spec"]["endpointPickerRef"]["name"] = json!("other-epp");
    apply_pool(&client, "models", &other).await;
    eventually("a Service that a pool names now is made", async || {
        !leads_to(&client, "models", "other-epp").await.is_empty()
    })
    .await;
    let own = services.get_opt("own-epp").await.expect("an answer");
    assert!(own.is_some(), "it was made by somebody else");
    assert!(leads_to(&client, "models", "own-epp").await.is_empty());
}

//! Routes of the Gateway API, as a picker follows them whose gateway does not name the pool: retargeted, weighted, granted,
//! deleted, of a mesh; and without the Gateway API.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;

use futures::future::join;
use kube::Client;
use reqwest::StatusCode;
use serde_json::json;
use simulator::serve::Server;

use super::api_server::ApiServer;
use super::gateway_api::{apply, backend, delete, gateway, grant, install_gateway_api, route};
use super::object::{POOLS, apply_pool, install_crds, make_namespace, make_pod, pool};
use super::scene::{Scene, Went, eventually, pods};

const HOST: &str = "llm.example.com";

/// A cluster with a pool of one pod in each of the namespaces, called as it says.
struct World {
    scene: Scene,
    servers: Vec<Server>,
    count: Cell<usize>,
}

impl World {
    async fn of(pools: &[(&str, &str)], api: bool) -> Self {
        let api_server = ApiServer::start().await;
        let client = api_server.client.clone();
        install_crds(&client, POOLS).await;
        if api {
            install_gateway_api(&client).await;
        }
        let servers = pods(u8::try_from(pools.len()).expect("few")).await;
        for ((namespace, name), server) in pools.iter().zip(&servers) {
            make_namespace(&client, namespace).await;
            let at = server.address();
            apply_pool(&client, namespace, &pool(name, &[at.port()])).await;
            make_pod(
                &client,
                namespace,
                &format!("{name}-0"),
                &json!({"app": name}),
                at,
            )
            .await;
        }
        let scene = Scene::of(api_server, &["a/chat"], &[]).await;
        for ((namespace, name), server) in pools.iter().zip(&servers) {
            scene
                .serves(&format!("{namespace}/{name}"), vec![server.address()])
                .await;
        }
        scene.ready().await;
        let world = Self {
            scene,
            servers,
            count: Cell::new(0),
        };
        if api {
            apply(world.client(), &gateway("a", "gw")).await;
        }
        world
    }

    fn client(&self) -> &Client {
        &self.scene.client
    }

    fn at(&self, index: usize) -> Went {
        Went::To(self.servers[index].address())
    }

    async fn send(&self, host: &str) -> Went {
        let id = format!("{host}-{}", self.count.replace(self.count.get() + 1));
        self.scene.went_by_host(host, &id, &self.servers).await
    }

    /// Waits until requests for a host go there, and sees that the next do as well.
    async fn leads(&self, host: &str, expected: Went) {
        eventually(&format!("{host} leads to {expected:?}"), async || {
            self.send(host).await == expected
        })
        .await;
        for _ in 0..10 {
            assert_eq!(self.send(host).await, expected, "{host}");
        }
    }

    /// Sends requests to `HOST`, one after the other, while `change` runs; where they went. None may be refused.
    async fn meanwhile(&self, change: impl Future<Output = ()>) -> Vec<SocketAddr> {
        let (over, went) = (Cell::new(false), RefCell::new(Vec::new()));
        let load = async {
            while !over.get() {
                match self.send(HOST).await {
                    Went::To(server) => went.borrow_mut().push(server),
                    Went::Refused(status) => panic!("a request was refused: {status}"),
                }
            }
        };
        let change = async {
            change.await;
            over.set(true);
        };
        join(load, change).await;
        went.into_inner()
    }

    async fn metric(&self, name: &str) -> u64 {
        let page = self.scene.metrics().await;
        let lines = page.lines().filter_map(|line| line.strip_prefix(name));
        let values = lines.filter_map(|rest| rest.rsplit(' ').next()?.parse::<u64>().ok());
        values.sum()
    }
}

fn of_gateway() -> serde_json::Value {
    json!({"name": "gw", "namespace": "a"})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_route_that_is_retargeted_takes_its_requests_along_and_loses_none() {
    let world = World::of(&[("a", "chat"), ("b", "code")], true).await;
    let client = world.client();
    apply_pool(
        client,
        "a",
        &pool("draw", &[world.servers[1].address().port()]),
    )
    .await;
    let draw = world.servers[1].address();
    make_pod(client, "a", "draw-0", &json!({"app": "draw"}), draw).await;
    let to = |name| route("a", HOST, &of_gateway(), &[backend(name, &json!({}))]);
    apply(client, &to("chat")).await;
    world.leads(HOST, world.at(0)).await;
    let went = world
        .meanwhile(async {
            apply(client, &to("draw")).await;
            world.leads(HOST, world.at(1)).await;
        })
        .await;
    // Each went to the old pool or to the new one, and from the change on to the new one alone.
    let first = went
        .iter()
        .position(|at| *at == draw)
        .expect("it was sent to");
    assert!(went[first..].iter().all(|at| *at == draw), "{went:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn weights_that_change_from_90_and_10_to_0_and_100_leave_one_pool_and_lose_no_request() {
    let world = World::of(&[("a", "chat"), ("a2", "code")], true).await;
    let client = world.client();
    let weighted = |chat: u32, code: u32| {
        let backends = [
            backend("chat", &json!({"weight": chat})),
            backend("code", &json!({"weight": code, "namespace": "a2"})),
        ];
        route("a", HOST, &of_gateway(), &backends)
    };
    apply(client, &grant("a2", "a")).await;
    apply(client, &weighted(90, 10)).await;
    // The gateway's dice are not seen: either pool is right, the first by name is taken, and it is said.
    world.leads(HOST, world.at(0)).await;
    let ambiguous = world.metric("pointsman_pools_ambiguous_total").await;
    assert!(ambiguous >= 10, "{ambiguous}");
    let went = world
        .meanwhile(async {
            apply(client, &weighted(0, 100)).await;
            world.leads(HOST, world.at(1)).await;
        })
        .await;
    assert!(!went.is_empty());
    let ambiguous = world.metric("pointsman_pools_ambiguous_total").await;
    world.leads(HOST, world.at(1)).await;
    assert_eq!(
        world.metric("pointsman_pools_ambiguous_total").await,
        ambiguous
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pool_of_another_namespace_is_led_to_as_long_as_it_is_granted() {
    let world = World::of(&[("a", "chat"), ("b", "code")], true).await;
    let client = world.client();
    let far = backend("code", &json!({"namespace": "b"}));
    apply(client, &route("a", HOST, &of_gateway(), &[far])).await;
    apply(
        client,
        &route(
            "a",
            "near.example.com",
            &of_gateway(),
            &[backend("chat", &json!({}))],
        ),
    )
    .await;
    world.leads("near.example.com", world.at(0)).await;
    let refused = Went::Refused(StatusCode::SERVICE_UNAVAILABLE);
    world.leads(HOST, refused.clone()).await;
    apply(client, &grant("b", "elsewhere")).await;
    world.leads(HOST, refused.clone()).await;
    apply(client, &grant("b", "a")).await;
    world.leads(HOST, world.at(1)).await;
    delete(client, &grant("b", "a")).await;
    world.leads(HOST, refused).await;
    world.leads("near.example.com", world.at(0)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_route_that_is_deleted_leads_nowhere_and_others_go_on() {
    let world = World::of(&[("a", "chat"), ("b", "code")], true).await;
    let client = world.client();
    let chat = route("a", HOST, &of_gateway(), &[backend("chat", &json!({}))]);
    let code = backend("code", &json!({}));
    let code = route("b", "code.example.com", &of_gateway(), &[code]);
    apply(client, &chat).await;
    apply(client, &code).await;
    world.leads(HOST, world.at(0)).await;
    world.leads("code.example.com", world.at(1)).await;
    let went = world
        .meanwhile(async {
            delete(client, &code).await;
            let refused = Went::Refused(StatusCode::SERVICE_UNAVAILABLE);
            world.leads("code.example.com", refused).await;
        })
        .await;
    assert!(
        went.iter().all(|at| world.at(0) == Went::To(*at)),
        "{went:?}"
    );
    // A Gateway that is gone takes its routes along, and brings them back.
    delete(client, &gateway("a", "gw")).await;
    world
        .leads(HOST, Went::Refused(StatusCode::SERVICE_UNAVAILABLE))
        .await;
    apply(client, &gateway("a", "gw")).await;
    world.leads(HOST, world.at(0)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mesh_route_leads_by_the_service_that_is_called() {
    let world = World::of(&[("a", "chat"), ("b", "code")], true).await;
    let client = world.client();
    let service = json!({"group": "", "kind": "Service", "name": "models"});
    for (namespace, name) in [("a", "chat"), ("b", "code")] {
        let mut mesh = route(namespace, "mesh", &service, &[backend(name, &json!({}))]);
        // A route of a mesh has no hosts: it is for those of its Service.
        mesh["spec"]
            .as_object_mut()
            .expect("fields")
            .remove("hostnames");
        apply(client, &mesh).await;
    }
    world.leads("models.a", world.at(0)).await;
    world.leads("models.b.svc.cluster.local", world.at(1)).await;
    world.leads("models.a.svc", world.at(0)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_gateway_api_calls_that_name_their_pool_are_served_and_routes_follow_once_it_is_there()
 {
    let world = World::of(&[("a", "chat"), ("b", "code")], false).await;
    let page = world.scene.readyz().await.1;
    let absent = |kind: &str| {
        let source = format!("{kind}.gateway.networking.k8s.io in all namespaces (absent");
        page.contains(&source)
    };
    for kind in super::gateway_api::KINDS {
        assert!(absent(kind), "{page}");
    }
    assert!(
        page.contains("[+] namespaces in all namespaces\n"),
        "{page}"
    );
    let metrics = world.scene.metrics().await;
    assert!(
        metrics.contains(
            "source=\"httproutes.gateway.networking.k8s.io in all namespaces\",state=\"absent\""
        ),
        "{metrics}"
    );
    let named = world.scene.went("a/chat", "named", &world.servers).await;
    assert_eq!(named, world.at(0));
    world
        .leads(HOST, Went::Refused(StatusCode::SERVICE_UNAVAILABLE))
        .await;
    install_gateway_api(world.client()).await;
    apply(world.client(), &gateway("a", "gw")).await;
    let chat = route("a", HOST, &of_gateway(), &[backend("chat", &json!({}))]);
    apply(world.client(), &chat).await;
    world.leads(HOST, world.at(0)).await;
    let page = world.scene.readyz().await.1;
    assert!(!page.contains("absent: httproutes"), "{page}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_picker_of_one_pool_asks_for_no_routes() {
    let api_server = ApiServer::start().await;
    let client = api_server.client.clone();
    install_crds(&client, POOLS).await;
    make_namespace(&client, "a").await;
    let servers = pods(1).await;
    let at = servers[0].address();
    apply_pool(&client, "a", &pool("chat", &[at.port()])).await;
    make_pod(&client, "a", "chat-0", &json!({"app": "chat"}), at).await;
    let flags = ["--pool-name=chat", "--pool-namespace=a"];
    let scene = Scene::of(api_server, &[], &flags).await;
    scene.serves("a/chat", vec![at]).await;
    scene.ready().await;
    let page = scene.readyz().await.1;
    assert!(!page.contains("gateway.networking.k8s.io"), "{page}");
    assert_eq!(
        scene.went_by_host(HOST, "any", &servers).await,
        Went::To(at)
    );
}

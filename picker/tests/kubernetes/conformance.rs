//! The conformance tests of the Inference Extension, replayed with this picker in the place of the one that they bring.
//!
//! `docs/conformance.md` says which, and how. The gateway is a bare Envoy that names no pool, so the picker finds the pool by the
//! routes; the servers are echoes, as upstream's are.

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::time::Duration;

use futures::stream::{self, StreamExt};
use kube::Client;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use simulator::envoy::{Differences, Envoy, Plan, Route, Upstream};
use simulator::load::ext_proc::Follow;
use tempfile::TempDir;
use tokio::sync::oneshot;

use super::api_server::ApiServer;
use super::echo::{self, Answer, Pod};
use super::gateway_api::{apply, backend, delete, gateway, install_gateway_api, route};
use super::object::{POOLS, apply_pool, install_crds, make_namespace, make_pod, pool};
use super::scene::{envoy_executable, eventually, repository, start_picker};

const INFRA: &str = "inference-conformance-infra";
const APP: &str = "inference-conformance-app-backend";
const PRIMARY: &str = "primary.example.com";
const SECONDARY: &str = "secondary.example.com";
/// The header by which a test pins a request.
const PIN: &str = "test-epp-endpoint-selection";

/// What every test finds there: two Gateways, two pools of three pods, the picker, and an Envoy that asks it.
struct Suite {
    api_server: ApiServer,
    envoy: Envoy,
    http: reqwest::Client,
    picker: Option<oneshot::Sender<()>>,
    primary: Vec<Pod>,
    secondary: Vec<Pod>,
    _folder: TempDir,
}

impl Suite {
    /// `ports` of each pod are target ports; Envoy chooses servers as `to` says.
    async fn start(ports: usize, to: Upstream) -> Self {
        let api_server = ApiServer::start().await;
        let client = api_server.client.clone();
        install_crds(&client, POOLS).await;
        install_gateway_api(&client).await;
        for namespace in [INFRA, APP] {
            make_namespace(&client, namespace).await;
        }
        apply(&client, &gateway(INFRA, "conformance-primary")).await;
        let mut narrow = gateway(INFRA, "conformance-secondary");
        narrow["spec"]["listeners"][0]["hostname"] = json!(SECONDARY);
        apply(&client, &narrow).await;
        let primary = echo::pods(3, ports).await;
        let secondary = echo::pods(3, ports).await;
        for (name, pods) in [("primary", &primary), ("secondary", &secondary)] {
            apply_pool(&client, APP, &pool(name, &pods[0].ports)).await;
            for (index, pod) in pods.iter().enumerate() {
                let at = SocketAddr::new(pod.ip, pod.ports[0]);
                let labels = json!({"app": name});
                make_pod(&client, APP, &format!("{name}-{index}"), &labels, at).await;
            }
        }
        let kubeconfig = api_server.kubeconfig("picker", None);
        let flags = ["--conformance", "--read-metrics=false"];
        let (picker, end) = start_picker(&kubeconfig, &flags).await;
        let folder = tempfile::tempdir().expect("a folder");
        let plan = Plan {
            executable: envoy_executable(),
            folder: folder.path().to_owned(),
            picker: picker.ext_proc[0],
            picker_security: None,
            servers: secondary.iter().flat_map(Pod::addresses).collect(),
            routes: ["primary", "secondary"]
                .map(|pool| told(pool, to))
                .into_iter()
                .chain([Route {
                    prefix: "/".to_owned(),
                    to,
                    pool: None,
                }])
                .collect(),
            follow: Follow::Full,
            differences: Differences::default(),
            concurrency: 1,
        };
        let suite = Self {
            envoy: Envoy::start(&plan).await.expect("Envoy starts"),
            api_server,
            http: reqwest::Client::builder()
                .no_proxy()
                .build()
                .expect("a client"),
            picker: Some(end),
            primary,
            secondary,
            _folder: folder,
        };
        suite.sees_the_picker(1).await;
        suite
    }

    fn client(&self) -> &Client {
        &self.api_server.client
    }

    async fn sees_the_picker(&self, healthy: u64) {
        eventually("Envoy sees how the picker is", async || {
            self.envoy.stat("cluster.picker.membership_healthy").await == Some(healthy)
        })
        .await;
    }

    /// A request with these endpoints in the test's header.
    async fn send(&self, method: Method, host: &str, path: &str, pin: Option<&str>) -> Answer {
        let url = format!("http://{}{path}", self.envoy.address);
        let mut request = self.http.request(method.clone(), url).header("host", host);
        if method == Method::POST {
            request = request.json(&json!({"model": "conformance-fake-model", "prompt": "Write as if you were a critic"}));
        }
        if let Some(pin) = pin {
            request = request.header(PIN, pin);
        }
        Answer::of(
            request
                .timeout(Duration::from_secs(60))
                .send()
                .await
                .expect("Envoy answers"),
        )
        .await
    }

    async fn get(&self, host: &str, path: &str) -> Answer {
        self.send(Method::GET, host, path, None).await
    }

    async fn post(&self, host: &str, path: &str, pin: &str) -> Answer {
        self.send(Method::POST, host, path, Some(pin)).await
    }

    /// Waits until a GET is answered by one of these pods.
    async fn reaches(&self, host: &str, path: &str, pods: &[Pod]) {
        eventually(&format!("{host}{path} is served"), async || {
            let answer = self.get(host, path).await;
            pods.iter().any(|pod| answer.is_from(pod))
        })
        .await;
    }

    /// Waits until a GET is refused: a gateway without the route would not have called.
    async fn refuses(&self, host: &str, path: &str) {
        eventually(&format!("{host}{path} is refused"), async || {
            self.get(host, path).await.status == StatusCode::SERVICE_UNAVAILABLE
        })
        .await;
    }

    async fn route(&self, host: &str, gateway: &str, rules: Value) -> Value {
        let parent = json!({"name": gateway, "namespace": INFRA});
        let mut object = route(APP, host, &parent, &[]);
        object["spec"]["rules"] = rules;
        apply(self.client(), &object).await;
        object
    }

    /// A route of the primary Gateway, with one rule to one pool.
    async fn route_to(&self, host: &str, pool: &str) -> Value {
        self.route(host, "conformance-primary", to(pool)).await
    }
}

/// Envoy's route to a pool that it names to the picker.
fn told(pool: &str, to: Upstream) -> Route {
    Route {
        prefix: format!("/{pool}-told/"),
        to,
        pool: Some(format!("{APP}/{pool}")),
    }
}

fn to(pool: &str) -> Value {
    json!([{"backendRefs": [backend(pool, &json!({}))]}])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn inference_pool_accepted() {
    let suite = Suite::start(1, Upstream::OriginalDst).await;
    suite.route_to(PRIMARY, "primary").await;
    suite.reaches(PRIMARY, "/accepted", &suite.primary).await;
    let api: kube::Api<crds::InferencePool> = kube::Api::namespaced(suite.client().clone(), APP);
    let pool = api.get("primary").await.expect("the pool");
    // The status is the gateway's to write, and nobody else's.
    assert!(pool.status.is_none(), "{:?}", pool.status);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn inference_pool_resolved_refs_condition() {
    let suite = Suite::start(1, Upstream::OriginalDst).await;
    let first = suite.route_to(PRIMARY, "primary").await;
    let second = suite
        .route(SECONDARY, "conformance-secondary", to("primary"))
        .await;
    suite
        .reaches(PRIMARY, "/primary-gateway-test", &suite.primary)
        .await;
    suite
        .reaches(SECONDARY, "/secondary-gateway-test", &suite.primary)
        .await;
    delete(suite.client(), &first).await;
    suite.refuses(PRIMARY, "/primary-gateway-test").await;
    suite
        .reaches(SECONDARY, "/secondary-gateway-test", &suite.primary)
        .await;
    delete(suite.client(), &second).await;
    suite.refuses(SECONDARY, "/secondary-gateway-test").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn inference_pool_missing_epp_ref() {
    let suite = Suite::start(1, Upstream::OriginalDst).await;
    let mut without = pool("without", &suite.primary[0].ports);
    without["spec"]
        .as_object_mut()
        .expect("fields")
        .remove("endpointPickerRef");
    apply_pool(suite.client(), APP, &without).await;
    suite.route_to("without.example.com", "without").await;
    suite.route_to(PRIMARY, "primary").await;
    suite.reaches(PRIMARY, "/", &suite.primary).await;
    suite.refuses("without.example.com", "/").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn inference_pool_app_protocol() {
    let suite = Suite::start(1, Upstream::OriginalDst).await;
    for (name, protocol) in [("http", "http"), ("h2c", "kubernetes.io/h2c")] {
        let mut object = pool(name, &suite.primary[0].ports);
        object["spec"]["appProtocol"] = json!(protocol);
        object["spec"]["selector"]["matchLabels"]["app"] = json!("primary");
        apply_pool(suite.client(), APP, &object).await;
    }
    for name in ["http", "h2c", "primary"] {
        let host = format!("{name}.example.com");
        suite.route_to(&host, name).await;
        suite.reaches(&host, "/", &suite.primary).await;
        for pod in &suite.primary {
            let answer = suite.post(&host, "/protocol", &pod.ip.to_string()).await;
            assert!(answer.is_from(pod), "{name}: {answer:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn inference_pool_http_route_port_validation() {
    let suite = Suite::start(1, Upstream::OriginalDst).await;
    for (host, port) in [
        ("port-unspecified.example.com", json!({})),
        (
            "port-matching.example.com",
            json!({"port": suite.primary[0].ports[0]}),
        ),
        ("port-non-matching.example.com", json!({"port": 8888})),
    ] {
        let rules = json!([{"backendRefs": [backend("primary", &port)]}]);
        suite.route(host, "conformance-primary", rules).await;
        suite.reaches(host, "/test", &suite.primary).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http_route_invalid_inference_pool_ref() {
    let suite = Suite::start(1, Upstream::OriginalDst).await;
    suite.route_to("nowhere.example.com", "non-existent").await;
    suite.route_to(PRIMARY, "primary").await;
    suite.reaches(PRIMARY, "/", &suite.primary).await;
    suite.refuses("nowhere.example.com", "/").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http_route_multiple_gateways_different_pools() {
    let suite = Suite::start(1, Upstream::OriginalDst).await;
    suite.route_to(PRIMARY, "primary").await;
    suite
        .route(SECONDARY, "conformance-secondary", to("secondary"))
        .await;
    suite.reaches(PRIMARY, "/test", &suite.primary).await;
    suite.reaches(SECONDARY, "/test", &suite.secondary).await;
    for _ in 0..10 {
        suite.reaches(PRIMARY, "/test", &suite.primary).await;
        let answer = suite.get(SECONDARY, "/test").await;
        assert!(
            suite.secondary.iter().any(|pod| answer.is_from(pod)),
            "{answer:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http_route_multiple_rules_different_pools() {
    let suite = Suite::start(1, Upstream::OriginalDst).await;
    let rule = |pool: &str| {
        let path = json!({"path": {"type": "PathPrefix", "value": format!("/{pool}")}});
        json!({"matches": [path], "backendRefs": [backend(pool, &json!({}))]})
    };
    let rules = json!([rule("primary"), rule("secondary")]);
    suite.route(PRIMARY, "conformance-primary", rules).await;
    suite.reaches(PRIMARY, "/primary", &suite.primary).await;
    suite
        .reaches(PRIMARY, "/secondary/below", &suite.secondary)
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gateway_following_epp_routing() {
    let suite = Suite::start(1, Upstream::OriginalDst).await;
    let path = "/primary-gateway-test";
    suite.route_to(PRIMARY, "primary").await;
    suite.reaches(PRIMARY, path, &suite.primary).await;
    for pod in &suite.primary {
        let answer = suite.post(PRIMARY, path, &pod.ip.to_string()).await;
        assert!(answer.is_from(pod), "{answer:?}");
    }
    for count in 1..=3 {
        let listed = &suite.primary[..count];
        let pin = listed
            .iter()
            .map(|pod| pod.ip.to_string())
            .collect::<Vec<_>>()
            .join(",");
        let requests = (0..100).map(|_| suite.post(PRIMARY, path, &pin));
        let answers: Vec<Answer> = stream::iter(requests).buffer_unordered(10).collect().await;
        for answer in answers {
            assert!(
                listed.iter().any(|pod| answer.is_from(pod)),
                "{pin}: {answer:?}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gateway_following_epp_routing_with_data_parallelism() {
    let suite = Suite::start(3, Upstream::OriginalDst).await;
    let path = "/primary-gateway-dp-test";
    suite.route_to(PRIMARY, "primary").await;
    suite.reaches(PRIMARY, path, &suite.primary).await;
    let [first, second, _] = &suite.primary[..] else {
        panic!("three pods");
    };
    let ports = async |pin: String| {
        let requests = (0..60).map(|_| suite.post(PRIMARY, path, &pin));
        let answers: Vec<Answer> = stream::iter(requests).buffer_unordered(10).collect().await;
        let at = answers
            .iter()
            .map(|answer| answer.at.expect("it was served"));
        at.collect::<BTreeSet<SocketAddr>>()
    };
    let all = |pod: &Pod| pod.addresses().collect::<BTreeSet<_>>();
    // An address alone is every rank of it; with a port it is that rank; of one pod several may be named.
    assert_eq!(ports(first.ip.to_string()).await, all(first));
    let of = |pod: &Pod, rank: usize| SocketAddr::new(pod.ip, pod.ports[rank]);
    for rank in 0..3 {
        let one = of(second, rank);
        assert_eq!(ports(one.to_string()).await, BTreeSet::from([one]));
    }
    let two = [of(first, 0), of(first, 2)];
    assert_eq!(
        ports(format!("{},{}", two[0], two[1])).await,
        BTreeSet::from(two)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gateway_destination_endpoint_served() {
    let suite = Suite::start(1, Upstream::OverrideHost).await;
    let path = "/destination-endpoint-served-test";
    suite.route_to(PRIMARY, "secondary").await;
    suite.reaches(PRIMARY, path, &suite.secondary).await;
    for pod in &suite.secondary {
        let answer = suite.post(PRIMARY, path, &pod.ip.to_string()).await;
        let served = SocketAddr::new(pod.ip, pod.ports[0]).to_string();
        assert!(answer.is_from(pod), "{answer:?}");
        assert_eq!(answer.served.as_deref(), Some(&*served));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gateway_weighted_across_two_inference_pools() {
    let suite = Suite::start(1, Upstream::OriginalDst).await;
    let weights = json!([{"backendRefs": [
        backend("primary", &json!({"weight": 70})),
        backend("secondary", &json!({"weight": 30})),
    ]}]);
    suite.route(PRIMARY, "conformance-primary", weights).await;
    suite
        .reaches(PRIMARY, "/weighted-two-pools-test", &suite.primary)
        .await;
    let pods = suite.primary.iter().chain(&suite.secondary);
    let union = pods
        .map(|pod| pod.ip.to_string())
        .collect::<Vec<_>>()
        .join(",");
    // The gateway throws the dice and calls with the pool that it has chosen; the picker stays in that pool, whatever the list.
    let requests = (0..200).map(|number| {
        let (name, pods) = if number % 10 < 7 {
            ("primary", &suite.primary)
        } else {
            ("secondary", &suite.secondary)
        };
        let (suite, union) = (&suite, &union);
        async move {
            let path = format!("/{name}-told/weighted-two-pools-test");
            (suite.post(PRIMARY, &path, union).await, pods)
        }
    });
    let answers: Vec<_> = stream::iter(requests).buffer_unordered(5).collect().await;
    for (answer, pods) in answers {
        assert!(pods.iter().any(|pod| answer.is_from(pod)), "{answer:?}");
    }
    // A pod of the other pool alone is an error that can be tried again, and no random pod.
    let foreign = suite.secondary[0]
        .addresses()
        .next()
        .expect("an address")
        .to_string();
    let answer = suite
        .post(PRIMARY, "/primary-told/weighted-two-pools-test", &foreign)
        .await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    // Without the gateway's word a pinned pod tells the pool, where the routes leave two.
    let answer = suite
        .post(PRIMARY, "/weighted-two-pools-test", &foreign)
        .await;
    assert!(answer.is_from(&suite.secondary[0]), "{answer:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn epp_unavailable_fail_open() {
    let mut suite = Suite::start(1, Upstream::OverrideHost).await;
    let path = "/failopen-pool-test";
    suite.route_to(SECONDARY, "secondary").await;
    suite.reaches(SECONDARY, path, &suite.secondary).await;
    let pod = &suite.secondary[1];
    let answer = suite.post(SECONDARY, path, &pod.ip.to_string()).await;
    assert!(answer.is_from(pod), "{answer:?}");
    drop(suite.picker.take());
    suite.sees_the_picker(0).await;
    let answer = suite.post(SECONDARY, path, &pod.ip.to_string()).await;
    assert!(
        suite.secondary.iter().any(|pod| answer.is_from(pod)),
        "{answer:?}"
    );
}

/// Every test of the suite, by the name that it has upstream (`conformance/tests`).
const SCENARIOS: [&str; 14] = [
    "InferencePoolAccepted",
    "InferencePoolResolvedRefsCondition",
    "InferencePoolInvalidEPPService",
    "InferencePoolMissingEPPRef",
    "InferencePoolAppProtocol",
    "InferencePoolHTTPRoutePortValidation",
    "HTTPRouteInvalidInferencePoolRef",
    "HTTPRouteMultipleGatewaysDifferentPools",
    "HTTPRouteMultipleRulesDifferentPools",
    "GatewayFollowingEPPRouting",
    "GatewayFollowingEPPRoutingWithDataParallelism",
    "GatewayDestinationEndpointServed",
    "GatewayWeightedAcrossTwoInferencePools",
    "EppUnAvailableFailOpen",
];

#[test]
fn the_page_has_a_row_for_every_scenario_with_a_test_that_is_here_or_the_reason_why_there_is_none()
{
    let page = fs::read_to_string(repository().join("docs/conformance.md")).expect("the page");
    let source = include_str!("conformance.rs");
    for scenario in SCENARIOS {
        let row = format!("| {scenario} | ");
        let row = page.lines().find_map(|line| line.strip_prefix(&row));
        let row = row.unwrap_or_else(|| panic!("docs/conformance.md has no row of {scenario}"));
        let cells: Vec<&str> = row.trim_end_matches(" |").split(" | ").collect();
        let [test, how] = cells[..] else {
            panic!("{scenario}: a test and how, not {cells:?}");
        };
        assert!(how.len() > 20, "{scenario}: {how}");
        if test != "none" {
            let function = format!("async fn {}()", test.trim_matches('`'));
            assert!(source.contains(&function), "{scenario}: there is no {test}");
        }
    }
}

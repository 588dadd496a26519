//! Two pools and the routes to them: a call that does not name its pool is decided by the head of its request.

use std::sync::Arc;

use envoy_types::pb::envoy::service::ext_proc::v3::processing_request::Request as Part;
use picker_core::endpoint::Endpoint;
use picker_core::engine::Engine;
use picker_core::route::head::Sight;
use picker_core::route::object::{Gateway, HttpRoute, Route};
use picker_core::route::table::RouteTable;
use picker_core::route::{PoolKey, Told};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::message::{destination, headers, line, message};
use super::scene::{SETTINGS, Scene};
use crate::driver::{PoolSpec, Stored};
use crate::extproc::exchange::Caller;

const CHAT: &str = "10.0.0.1:8000";
const CODE: &str = "10.0.0.2:8000";

/// The pools `ai/chat` and `ai/code`, and a Gateway whose route has these rules.
fn scene(rules: &Value) -> Scene {
    let scene = Scene::of(&[CHAT], SETTINGS);
    let code = PoolSpec {
        endpoints: vec![Endpoint {
            identity: CODE.into(),
            name: CODE.into(),
            address: CODE.parse().expect("an address"),
            engine: Engine::vllm(),
        }],
        ..PoolSpec::default()
    };
    let pools = &scene.edge.pools;
    pools.change(vec![(PoolKey::new("ai", "code"), Some(code.clone()))]);
    let mut table = RouteTable::default();
    table.set_gateway(read::<Gateway>(json!({
        "metadata": {"name": "gw", "namespace": "ai"},
        "spec": {"listeners": [{"name": "http", "port": 80, "protocol": "HTTP"}]},
    })));
    table.set_route(Route::Http(read::<HttpRoute>(json!({
        "metadata": {"name": "llm", "namespace": "ai"},
        "spec": {"parentRefs": [{"name": "gw"}], "hostnames": ["llm.example.com"], "rules": rules},
    }))));
    pools.set_table(table, Sight::BeforeFilters);
    // The table outlives a change of the pools.
    pools.change(vec![(PoolKey::new("ai", "code"), Some(code))]);
    scene
}

fn read<T: DeserializeOwned>(object: Value) -> T {
    serde_json::from_value(object).expect("an object")
}

fn to(pools: &[&str]) -> Value {
    let pool = |name: &&str| json!({"group": "inference.networking.k8s.io", "kind": "InferencePool", "name": name});
    pools.iter().map(pool).collect()
}

/// Sends a request without a body; where it goes, or the answer in its place.
fn send(scene: &Scene, fields: &[(&str, &str)]) -> String {
    let mut exchange = scene.exchange(Caller::default());
    let now = scene.edge.pools.clock().now();
    let message = message(Part::RequestHeaders(headers(fields.iter().copied(), true)));
    exchange.on_message(now, message);
    let answer = exchange.poll_answer().expect("an answer");
    destination(&answer).map_or_else(|| line(&answer), str::to_owned)
}

fn receipt(scene: &Scene, id: &str) -> Stored {
    let receipts = scene.edge.pools.receipts();
    receipts.get(id).expect("a receipt")
}

#[test]
fn a_call_that_names_no_pool_goes_by_authority_path_method_and_headers_of_its_request() {
    let rules = json!([
        {"matches": [{"path": {"value": "/code"}}], "backendRefs": to(&["code"])},
        {"matches": [{"headers": [{"name": "x-team", "value": "code"}]}], "backendRefs": to(&["code"])},
        {"matches": [{"method": "PUT"}], "backendRefs": to(&["code"])},
        {"backendRefs": to(&["chat"])},
    ]);
    let scene = scene(&rules);
    let host = (":authority", "llm.example.com:8080");
    for (fields, expected) in [
        (
            vec![host, (":method", "POST"), (":path", "/v1/completions")],
            CHAT,
        ),
        (vec![host, (":method", "POST"), (":path", "/code/v1")], CODE),
        (vec![host, (":method", "PUT"), (":path", "/v1")], CODE),
        (vec![host, (":path", "/v1"), ("x-team", "code")], CODE),
        (
            vec![host, (":path", "/v1"), ("x-team", "co"), ("x-team", "de")],
            CHAT,
        ),
        (vec![("host", "llm.example.com"), (":path", "/code")], CODE),
    ] {
        assert_eq!(send(&scene, &fields), expected, "{fields:?}");
    }
    let other = [(":authority", "other.example.com"), (":path", "/code")];
    assert!(send(&scene, &other).starts_with("immediate 503"));
}

#[test]
fn what_stays_ambiguous_is_counted_and_stands_in_the_receipt() {
    let scene = scene(&json!([
        {"matches": [{"path": {"value": "/code"}}], "backendRefs": to(&["code"])},
        {"backendRefs": to(&["code", "chat"])},
    ]));
    let request = |id, path| {
        [
            (":authority", "llm.example.com"),
            (":path", path),
            ("x-request-id", id),
        ]
    };
    assert_eq!(send(&scene, &request("certain", "/code")), CODE);
    assert_eq!(send(&scene, &request("either", "/")), CHAT);
    let certain = receipt(&scene, "certain");
    assert_eq!((certain.told, certain.or), (Told::Routes, Arc::default()));
    let either = receipt(&scene, "either");
    assert_eq!(&*either.or, [PoolKey::new("ai", "code")]);
    let page = scene.metrics();
    for line in [
        "pointsman_pools_told_total{by=\"routes\"} 2",
        "pointsman_pools_told_total{by=\"only_pool\"} 0",
        "pointsman_pools_ambiguous_total{pool=\"ai/chat\"} 1",
        "pointsman_routes 1",
    ] {
        assert!(page.contains(line), "{line}:\n{page}");
    }
}

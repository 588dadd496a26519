//! The budget for bodies with two pools: what one pool's bodies hold leaves room for those of the other.

use envoy_types::pb::envoy::service::ext_proc::v3::processing_request::Request as Part;
use picker_core::endpoint::Endpoint;
use picker_core::engine::Engine;
use picker_core::route::PoolKey;
use picker_core::time::Instant;

use super::message::{body, headers, message};
use super::scene::{SETTINGS, Scene};
use crate::driver::PoolSpec;
use crate::extproc::EdgeSettings;
use crate::extproc::exchange::{Caller, Exchange};

const MIB: usize = 1 << 20;

/// The pools `ai/chat` and `ai/code` before an edge that may hold 12 MiB of bodies.
fn scene() -> Scene {
    let settings = EdgeSettings {
        body_limit: 10 * MIB,
        bodies_limit: 12 * MIB,
        ..SETTINGS
    };
    let scene = Scene::of(&["10.0.0.1:8000"], settings);
    let code = PoolSpec {
        endpoints: vec![Endpoint {
            identity: "code".into(),
            name: "ai/code".into(),
            address: "10.0.0.2:8000".parse().expect("an address"),
            engine: Engine::vllm(),
        }],
        ..PoolSpec::default()
    };
    let pools = &scene.edge.pools;
    pools.change(vec![(PoolKey::new("ai", "code"), Some(code))]);
    scene
}

/// A request for a pool of whose body so many bytes have come, and more are to come; `None` if that was too much to hold.
fn held(scene: &Scene, pool: &str, bytes: usize) -> Option<Exchange> {
    let mut exchange = scene.exchange(Caller {
        pool: Some(pool.to_owned()),
        ..Caller::default()
    });
    let now = Instant::from_millis(1);
    let pairs = [(":path", "/v1/completions")];
    exchange.on_message(now, message(Part::RequestHeaders(headers(pairs, false))));
    let piece = body(vec![b'x'; bytes], false);
    exchange.on_message(now, message(Part::RequestBody(piece)));
    exchange.poll_answer().is_none().then_some(exchange)
}

#[test]
fn large_bodies_of_one_pool_do_not_cut_those_of_another() {
    let scene = scene();
    let of_chat: Vec<Exchange> = (0..100)
        .map_while(|_| held(&scene, "ai/chat", MIB))
        .collect();
    assert_eq!(of_chat.len(), 6, "as many as leave half of the budget");
    let of_code: Vec<Exchange> = (0..100)
        .map_while(|_| held(&scene, "ai/code", MIB))
        .collect();
    assert_eq!(of_code.len(), 3, "half of what the other leaves");
    assert!(held(&scene, "ai/chat", MIB).is_none());
    drop(of_chat);
    assert!(
        held(&scene, "ai/code", MIB).is_some(),
        "what is given back can be had"
    );
}

#[test]
fn the_only_pool_has_the_whole_budget() {
    let scene = scene();
    scene
        .edge
        .pools
        .change(vec![(PoolKey::new("ai", "code"), None)]);
    let all: Vec<Exchange> = (0..100)
        .map_while(|_| held(&scene, "ai/chat", MIB))
        .collect();
    assert_eq!(all.len(), 12);
}

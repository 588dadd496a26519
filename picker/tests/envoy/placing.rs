//! Requests land where the picker said, whichever way it says it.

use futures::future::join_all;
use reqwest::Method;
use serde_json::json;
use simulator::engine::Profile;
use simulator::load::ext_proc::Follow;

use crate::scene::{BOTH, FOLLOWS, Scene};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_concurrent_mixed_requests_over_two_pools_land_where_the_picker_said() {
    let scene = Scene::followed(Follow::Full, &[3, 2], Profile::llama_8b_h100()).await;
    for by in BOTH {
        let send = async |index: usize| {
            let pool = index % 2;
            let id = format!("{by:?}-{index}");
            let model = ["base", "a", "b", "c"][index % 4];
            let (path, mut body) = if index % 5 < 3 {
                let prompt = "x".repeat(10 * index + 1);
                ("v1/completions", json!({"prompt": prompt}))
            } else {
                let messages = json!([{"role": "user", "content": "hello"}]);
                ("v1/chat/completions", json!({"messages": messages}))
            };
            body["model"] = json!(model);
            body["max_tokens"] = json!(5);
            if index.is_multiple_of(3) {
                body["stream"] = json!(true);
                // Without usage, tokens are counted by events, of which a chat has one more.
                body["stream_options"] = json!({"include_usage": true});
            }
            let answer = scene
                .post((pool, by), path, &id, body.to_string().into_bytes())
                .await;
            assert_eq!(answer.status(), 200, "{id}");
            answer.bytes().await.expect("a whole answer");
            (pool, id, model)
        };
        for (pool, id, model) in join_all((0..20).map(send)).await {
            let (at, server, _) = scene.received_by(&id);
            assert_eq!(at, pool, "{id} went to another pool");
            assert_eq!(
                scene.picked(&id).await,
                server,
                "{id} went elsewhere than picked"
            );
            let receipt = scene.receipt(&id).await;
            assert_eq!(receipt["request"]["model"], model, "{receipt}");
            assert_eq!(receipt["outcome"]["end"], "completed", "{receipt}");
            assert_eq!(receipt["outcome"]["generated"], 5, "{receipt}");
        }
    }
    assert_eq!(scene.in_flight().await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_destination_that_the_client_sends_is_not_obeyed() {
    let scene = Scene::of(&[1, 1], Profile::llama_8b_h100()).await;
    let other = scene.pools[1][0].address();
    for by in BOTH {
        let request = scene.request(Method::GET, 0, by, "version");
        let request = request.header("x-gateway-destination-endpoint", other.to_string());
        let answer = request
            .header("x-request-id", format!("{by:?}"))
            .send()
            .await;
        assert_eq!(answer.expect("an answer").status(), 200);
        assert_eq!(scene.received_by(&format!("{by:?}")).0, 0);
    }
}

const DESTINATION: &str = "x-gateway-destination-endpoint";
const SUBSET: &str = "x-gateway-destination-endpoint-subset";
/// Further headers by which a client might want to choose its server.
const FORGED: [&str; 4] = [
    "test-epp-endpoint-selection",
    "x-gateway-destination-endpoint-served",
    "x-prefiller-host-port",
    "x-session-token",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_with_forged_control_headers_goes_as_if_they_were_not_there() {
    for follow in FOLLOWS {
        let scene = Scene::followed(follow, &[2], Profile::llama_8b_h100()).await;
        for by in BOTH {
            for (index, server) in scene.pools[0].iter().enumerate() {
                let (id, forged) = (format!("{by:?}-{index}"), server.address().to_string());
                let mut request = scene.request(Method::POST, 0, by, "v1/completions");
                for name in FORGED {
                    request = request.header(name, &forged);
                }
                request = request.header(DESTINATION, "6.6.6.6:6");
                // Nobody is left if it is obeyed.
                request = request.header(SUBSET, "6.6.6.6:6");
                let body = json!({"model": "base", "prompt": "x", "max_tokens": 1}).to_string();
                request = request.header("content-type", "application/json");
                let request = request.header("x-request-id", &id).body(body);
                let answer = request.send().await.expect("an answer");
                assert_eq!(answer.status(), 200, "{follow:?} {id}");
                answer.bytes().await.expect("a whole answer");
                let (_, server, received) = scene.received_by(&id);
                assert_eq!(scene.picked(&id).await, server, "{follow:?} {id}");
                let receipt = scene.receipt(&id).await;
                assert_eq!(receipt["candidate_count"], 2, "{receipt}");
                assert_eq!(received.headers[DESTINATION], server.to_string());
                let left = FORGED.map(|name| received.headers.contains_key(name));
                assert_eq!(left, [false; FORGED.len()], "{follow:?} {id}");
                assert!(!received.headers.contains_key(SUBSET), "{follow:?} {id}");
            }
        }
    }
}

//! Whatever a body is, it reaches a server as it was sent.

use reqwest::Method;
use serde_json::json;
use simulator::engine::Profile;
use simulator::serve::body_hash;

use crate::scene::{BOTH, Scene};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_of_any_size_arrive_byte_for_byte() {
    let scene = Scene::of(&[2], Profile::llama_8b_h100()).await;
    for by in BOTH {
        // The last is over the limit up to which a body is held.
        for size in [1, 62_000, 62_001, 1_000_000, 5_000_000, 12_000_000] {
            let body = body_of(size);
            let id = format!("{by:?}-{size}");
            scene
                .post((0, by), "v1/completions", &id, body.clone())
                .await;
            let (_, server, received) = scene.received_by(&id);
            assert_eq!(received.body_bytes, size, "{id}");
            assert_eq!(received.body_hash, body_hash(&body), "{id}");
            assert_eq!(scene.picked(&id).await, server, "{id}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_read_still_reaches_a_server() {
    let scene = Scene::of(&[2], Profile::llama_8b_h100()).await;
    for by in BOTH {
        for (name, method, path, body, status) in [
            (
                "malformed",
                Method::POST,
                "v1/completions",
                "{\"model\":",
                400,
            ),
            ("empty", Method::POST, "v1/completions", "", 400),
            ("unknown-path", Method::POST, "v2/unheard/of", "{}", 404),
            ("get", Method::GET, "version", "", 200),
        ] {
            let id = format!("{by:?}-{name}");
            let request = scene
                .request(method, 0, by, path)
                .header("x-request-id", &id);
            let request = request
                .header("content-type", "application/json")
                .body(body);
            let answer = request.send().await.expect("an answer");
            assert_eq!(answer.status().as_u16(), status, "{id}");
            let (_, server, _) = scene.received_by(&id);
            assert_eq!(scene.picked(&id).await, server, "{id}");
        }
    }
}

/// A request body of exactly `size` bytes; JSON if there is room for it.
fn body_of(size: usize) -> Vec<u8> {
    let frame = json!({"model": "base", "max_tokens": 1, "prompt": ""}).to_string();
    if size < frame.len() {
        return vec![b'x'; size];
    }
    // Not all the same, so that pieces in another order would show.
    let filler: String = (0..size - frame.len())
        .map(|index| char::from(b'a' + (index % 25) as u8))
        .collect();
    json!({"model": "base", "max_tokens": 1, "prompt": filler})
        .to_string()
        .into_bytes()
}

//! Streams pass token by token, and what a client leaves is given up.

use std::time::Duration;

use serde_json::json;
use simulator::engine::Profile;
use simulator::load::ext_proc::Follow;

use crate::scene::{BOTH, Scene, eventually};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_token_reaches_the_client_before_the_last_is_produced() {
    let scene = Scene::followed(Follow::Full, &[1], Profile::demo()).await;
    for by in BOTH {
        let id = format!("{by:?}");
        let body = json!({"model": "base", "prompt": "x", "max_tokens": 40, "stream": true});
        let body = body.to_string().into_bytes();
        let mut answer = scene.post((0, by), "v1/completions", &id, body).await;
        let first = answer
            .chunk()
            .await
            .expect("a stream")
            .expect("a first piece");
        assert!(first.starts_with(b"data: "), "{first:?}");
        assert_eq!(
            scene.pools[0][0].unfinished().await,
            1,
            "the server is still at work"
        );
        let mut whole = first.to_vec();
        while let Some(piece) = answer.chunk().await.expect("a stream") {
            whole.extend_from_slice(&piece);
        }
        let text = String::from_utf8(whole).expect("text");
        assert!(text.trim_end().ends_with("data: [DONE]"), "{text}");
        let receipt = scene.receipt(&id).await;
        assert!(receipt["outcome"]["ttft_ms"].is_number(), "{receipt}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_hangs_up_frees_what_was_booked() {
    let scene = Scene::followed(Follow::Full, &[1], Profile::demo()).await;
    for by in BOTH {
        let id = format!("{by:?}");
        // It would go on for far longer than this test waits.
        let body = json!({"model": "base", "prompt": "x", "max_tokens": 4000, "stream": true});
        let body = body.to_string().into_bytes();
        let mut answer = scene.post((0, by), "v1/completions", &id, body).await;
        answer
            .chunk()
            .await
            .expect("a stream")
            .expect("a first piece");
        assert_eq!(scene.in_flight().await, 1);
        drop(answer);
        eventually("nothing is in flight", async || {
            scene.in_flight().await == 0
        })
        .await;
        assert_eq!(scene.receipt(&id).await["outcome"]["end"], "abandoned");
        let server = &scene.pools[0][0];
        eventually("the server has given it up", async || {
            server.unfinished().await == 0
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_stream_tells_of_its_progress() {
    let scene = Scene::followed(Follow::Full, &[1], Profile::demo()).await;
    let body = json!({"model": "base", "prompt": "x", "max_tokens": 4000, "stream": true});
    let body = body.to_string().into_bytes();
    let answer = scene
        .post((0, BOTH[0]), "v1/completions", "long", body)
        .await;
    let server = scene.pools[0][0].address();
    let left = async || scene.endpoint(server).await["own"]["decode_tokens"].as_u64();
    let begun = left().await;
    assert!(begun.is_some(), "the endpoint is known");
    // Nobody reads the stream: what is sent fits the buffers between.
    eventually("fewer tokens are left", async || left().await < begun).await;
    drop(answer);
    tokio::time::timeout(Duration::from_secs(60), async {
        eventually("nothing is in flight", async || {
            scene.in_flight().await == 0
        })
        .await;
    })
    .await
    .expect("the end of the stream is noticed");
}

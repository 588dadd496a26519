//! How the end of a response is known, where it does not pass through the picker.

use serde_json::{Value, json};
use simulator::engine::Profile;
use simulator::envoy::Differences;
use simulator::load::ext_proc::Follow;

use crate::scene::{BOTH, FOLLOWS, Link, Scene, eventually};

/// A request for a stream of so many tokens.
fn stream_of(tokens: usize) -> Vec<u8> {
    let body = json!({"model": "a", "prompt": "x", "max_tokens": tokens, "stream": true});
    body.to_string().into_bytes()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_way_to_follow_picks_on_the_body_and_knows_the_end() {
    for follow in FOLLOWS {
        let scene = Scene::followed(follow, &[2], Profile::demo()).await;
        for by in BOTH {
            let id = format!("{follow:?}-{by:?}");
            let body = stream_of(4);
            let answer = scene.post((0, by), "v1/completions", &id, body).await;
            assert_eq!(answer.status(), 200, "{id}");
            let text = answer.text().await.expect("a whole answer");
            assert!(text.trim_end().ends_with("data: [DONE]"), "{id}: {text}");
            assert_eq!(scene.received_by(&id).1, scene.picked(&id).await, "{id}");
            let receipt = scene.receipt(&id).await;
            check(&id, follow, &receipt);
        }
        eventually("nothing is in flight", async || {
            scene.in_flight().await == 0
        })
        .await;
    }
}

/// What a receipt says of a request that was answered in full.
fn check(id: &str, follow: Follow, receipt: &Value) {
    let (following, end, status, seen) = match follow {
        Follow::Full => ("full", "completed", json!(200), true),
        Follow::Watched => ("watched", "completed", json!(200), false),
        Follow::Released => ("released", "presumed", Value::Null, false),
    };
    assert_eq!(receipt["request"]["model"], "a", "{id}: {receipt}");
    assert_eq!(receipt["following"], following, "{id}: {receipt}");
    assert_eq!(receipt["outcome"]["end"], end, "{id}: {receipt}");
    assert_eq!(receipt["outcome"]["status"], status, "{id}: {receipt}");
    assert_eq!(
        receipt["outcome"]["ttft_ms"].is_number(),
        seen,
        "{id}: {receipt}"
    );
}

/// One filter that asks and then stays open until the response ends.
fn one_filter() -> Link {
    let processing_mode = json!({
        "request_header_mode": "SEND", "response_header_mode": "SEND",
        "request_body_mode": "FULL_DUPLEX_STREAMED", "response_body_mode": "NONE",
        "request_trailer_mode": "SEND", "response_trailer_mode": "SEND",
    });
    Link {
        follow: Follow::Full,
        differences: Differences {
            processing_mode: Some(processing_mode),
            call_metadata: vec![("x-pointsman-follow", "watched")],
            ..Differences::default()
        },
        ..Link::default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_hangs_up_is_noticed_by_whoever_watches() {
    let watched = Link::default();
    for (name, link) in [("two filters", watched), ("one filter", one_filter())] {
        let scene = Scene::linked(&[1], Profile::demo(), link).await;
        for by in BOTH {
            let id = format!("{name}-{by:?}");
            let whole = format!("{id}-whole");
            let answer = scene
                .post((0, by), "v1/completions", &whole, stream_of(3))
                .await;
            answer.bytes().await.expect("a whole answer");
            let receipt = scene.receipt(&whole).await;
            assert_eq!(receipt["following"], "watched", "{receipt}");
            assert_eq!(receipt["outcome"]["end"], "completed", "{receipt}");

            // It would go on for far longer than this test waits.
            let mut answer = scene
                .post((0, by), "v1/completions", &id, stream_of(4000))
                .await;
            answer
                .chunk()
                .await
                .expect("a stream")
                .expect("a first piece");
            eventually("it is in flight", async || scene.in_flight().await == 1).await;
            drop(answer);
            eventually("nothing is in flight", async || {
                scene.in_flight().await == 0
            })
            .await;
            let outcome = scene.receipt(&id).await["outcome"].clone();
            assert_eq!(outcome["status"], 200, "{outcome}");
        }
    }
}

//! Requests that give way to others, through a real Envoy.

use serde_json::{Value, json};
use simulator::engine::Profile;

use crate::scene::{By, Link, Scene, eventually};

/// Requests for the adapter `b` may be refused.
const OBJECTIVES: &str = "
objectives:
- {name: batch, priority: -1, models: [b]}
";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_may_be_refused_is_when_the_servers_are_full_and_nothing_else_is() {
    let profile = Profile {
        max_num_seqs: 1,
        ..Profile::llama_8b_h100()
    };
    let link = Link {
        objects: OBJECTIVES,
        ..Link::default()
    };
    let scene = Scene::linked(&[1], profile, link).await;
    let server = scene.pools[0][0].address();
    let body = |model: &str, tokens: u32| {
        let body = json!({"model": model, "prompt": "x", "max_tokens": tokens, "ignore_eos": true});
        body.to_string().into_bytes()
    };
    let to = (0, By::Header);
    let early = scene
        .post(to, "v1/completions", "early", body("b", 1))
        .await;
    assert_eq!(early.status(), 200, "there is room");

    let full = async {
        let many = (0..8).map(|index| {
            let (scene, body) = (&scene, body("base", 100_000));
            async move {
                let id = format!("long-{index}");
                scene.post(to, "v1/completions", &id, body).await.status()
            }
        });
        futures::future::join_all(many).await
    };
    let refused = async {
        eventually("six wait", async || {
            let state = scene.endpoint(server).await;
            let waiting = state["reading"]["engines"][0]["waiting"].as_u64();
            waiting.is_some_and(|waiting| waiting >= 5)
        })
        .await;
        let answer = scene.post(to, "v1/messages", "late", body("b", 1)).await;
        assert_eq!(answer.status(), 429);
        assert_eq!(answer.headers()["x-pointsman-reason"], "overloaded");
        assert_eq!(
            answer.headers()["x-llm-d-request-dropped-reason"],
            "rejected-saturated"
        );
        let error: Value = answer.json().await.expect("JSON");
        assert_eq!(error["type"], "error", "{error}");
        assert_eq!(error["error"]["type"], "rate_limit_error", "{error}");
        assert!(
            !scene
                .received()
                .iter()
                .any(|(.., one)| one.request_id.as_deref() == Some("late"))
        );
    };
    // What matters is not refused, and ends with this test.
    tokio::select! {
        done = full => panic!("nothing ends so soon: {done:?}"),
        () = refused => {}
    }
    let refusals = "pointsman_refusals_total{pool=\"test/pool-0\",reason=\"overloaded\"}";
    assert_eq!(scene.metric(refusals).await, Some(1.0));
}

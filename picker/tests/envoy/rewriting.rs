//! Models that requests get in the place of those they ask for, through a real Envoy: what servers see, and what clients see.

use std::collections::BTreeMap;

use reqwest::Method;
use serde_json::{Value, json};
use simulator::engine::Profile;
use simulator::load::ext_proc::Follow;
use simulator::serve::body_hash;

use crate::modes;
use crate::scene::{BOTH, By, Link, Scene, eventually};

/// Requests for `llama` get the adapter `a`, those for `mixed` one of two.
const REWRITES: &str = "
rewrites:
- name: canary
  rules:
  - matches: [{model: {value: llama}}]
    targets: [{modelRewrite: a}]
  - matches: [{model: {value: mixed}}]
    targets: [{modelRewrite: a, weight: 3}, {modelRewrite: b, weight: 1}]
";

/// How Envoy sends bodies, and what its clients see of the model's name.
fn links() -> Vec<(&'static str, Link, &'static str)> {
    let sample = |follow| Link {
        follow,
        objects: REWRITES,
        ..Link::default()
    };
    let modes = |request: &str, response: &str| Link {
        objects: REWRITES,
        ..modes::link(request, response)
    };
    vec![
        ("full", sample(Follow::Full), "put_back"),
        ("watched", sample(Follow::Watched), "put_back"),
        ("released", sample(Follow::Released), "put_back"),
        ("kept", modes("BUFFERED", "BUFFERED"), "put_back"),
        (
            "pieces",
            modes("FULL_DUPLEX_STREAMED", "STREAMED"),
            "put_back",
        ),
        ("unseen", modes("FULL_DUPLEX_STREAMED", "NONE"), "stays"),
    ]
}

/// A body whose frames are many, and whose model stands near the end; keys, numbers and spaces are nobody's business.
fn body_of(model: &str, streamed: bool) -> String {
    let prompt = "x".repeat(150_000);
    format!(
        "{{ \"prompt\":\"{prompt}\",\n \"max_tokens\": 3,\"seed\":12345678901234567890,\"stream\":{streamed}, \"model\" : \"{model}\",\"temperature\":1.0}}"
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_server_is_asked_for_the_chosen_model_and_the_client_sees_its_own_where_responses_pass()
{
    for (name, link, naming) in links() {
        let scene = Scene::linked(&[2], Profile::llama_8b_h100(), link).await;
        for by in BOTH {
            for streamed in [false, true] {
                let id = format!("{name}-{by:?}-{streamed}");
                let sent = body_of("llama", streamed).into_bytes();
                let answer = scene.post((0, by), "v1/completions", &id, sent).await;
                assert_eq!(answer.status(), 200, "{id}");
                let answer = answer.text().await.expect("a whole answer");
                let (_, server, received) = scene.received_by(&id);
                let expected = body_of("a", streamed);
                assert_eq!(received.body_bytes, expected.len(), "{id}");
                assert_eq!(received.body_hash, body_hash(expected.as_bytes()), "{id}");
                assert_eq!(scene.picked(&id).await, server, "{id}");
                let seen = if naming == "stays" { "a" } else { "llama" };
                let models = models_of(&answer, streamed);
                assert!(
                    !models.is_empty() && models.iter().all(|one| one == seen),
                    "{id}: {answer}"
                );
                let receipt = scene.receipt(&id).await;
                assert_eq!(receipt["request"]["model"], "a", "{id}: {receipt}");
                assert_eq!(receipt["rewrite"]["naming"], naming, "{id}: {receipt}");
            }
        }
        // A response that is followed nowhere is in flight until it is expected to be over.
        eventually("nothing is in flight", async || {
            scene.in_flight().await == 0
        })
        .await;
    }
}

/// The models that an answer names: of its JSON, or of each event.
fn models_of(answer: &str, streamed: bool) -> Vec<String> {
    let model = |text: &str| {
        let json: Value = serde_json::from_str(text).unwrap_or_else(|_| panic!("JSON: {text}"));
        json["model"].as_str().expect("a model").to_owned()
    };
    if !streamed {
        return vec![model(answer)];
    }
    let events = answer
        .lines()
        .filter_map(|line| line.strip_prefix("data: "));
    events.filter(|data| *data != "[DONE]").map(model).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_split_is_counted_arm_by_arm() {
    let link = Link {
        objects: REWRITES,
        ..Link::default()
    };
    let scene = Scene::linked(&[1], Profile::llama_8b_h100(), link).await;
    let mut split: BTreeMap<String, u32> = BTreeMap::new();
    for index in 0..40 {
        let body = json!({"model": "mixed", "prompt": "x", "max_tokens": 1});
        let id = format!("r-{index}");
        let body = body.to_string().into_bytes();
        let answer = scene
            .post((0, By::Header), "v1/completions", &id, body)
            .await;
        assert_eq!(answer.status(), 200);
        answer.bytes().await.expect("a whole answer");
        let (_, _, received) = scene.received_by(&id);
        let got: Value =
            serde_json::from_slice(&received.body.expect("a small body")).expect("JSON");
        *split
            .entry(got["model"].as_str().expect("a model").to_owned())
            .or_default() += 1;
    }
    for (model, count) in &split {
        let series = format!(
            "pointsman_rewrites_total{{pool=\"test/pool-0\",rewrite=\"canary\",rule=\"1\",model=\"{model}\",put=\"put_back\"}}"
        );
        assert_eq!(
            scene.metric(&series).await,
            Some(f64::from(*count)),
            "{split:?}"
        );
    }
    assert_eq!(
        split.keys().map(String::as_str).collect::<Vec<_>>(),
        ["a", "b"]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_list_of_models_has_those_of_all_servers_and_the_names_that_rewrites_add() {
    let link = Link {
        objects: REWRITES,
        ..Link::default()
    };
    let scene = Scene::linked(&[2], Profile::llama_8b_h100(), link).await;
    let mut listed = Vec::new();
    eventually("all are listed", async || {
        let request = scene.request(Method::GET, 0, By::Header, "v1/models");
        let answer = request.send().await.expect("an answer");
        assert_eq!(answer.headers()["content-type"], "application/json");
        let answer: Value = answer.json().await.expect("JSON");
        let data = answer["data"].as_array().expect("a list").iter();
        listed = data
            .map(|one| one["id"].as_str().expect("a name").to_owned())
            .collect();
        listed.len() == 6
    })
    .await;
    assert_eq!(listed, ["a", "b", "base", "c", "llama", "mixed"]);
}

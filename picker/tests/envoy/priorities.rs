//! Requests that give way to others, and who says so, through a real Envoy.

use reqwest::Method;
use serde_json::{Value, json};
use simulator::engine::Profile;
use simulator::envoy::Differences;

use crate::scene::{By, FOLLOWS, Link, Scene, eventually};

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

/// Puts what the gateway knows of a request into the metadata that the picker believes; the header is the gateway's own way to
/// say who the client is.
fn told_by_the_gateway() -> Value {
    let rule = |header: &str, name: &str| {
        json!({
            "header": header,
            "on_header_present": {"metadata_namespace": "pointsman", "key": name},
            "remove": true,
        })
    };
    json!({
        "name": "told",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.header_to_metadata.v3.Config",
            "request_rules": [
                rule("x-plan", "x-llm-d-inference-objective"),
                rule("x-tenant", "x-llm-d-inference-fairness-id"),
                rule("x-trial", "x-llm-d-model-name-rewrite"),
            ],
        },
    })
}

/// What the picker took a request for, and the model that the server was asked for.
async fn taken_for(scene: &Scene, id: &str, headers: &[(&str, &str)]) -> (Value, Value) {
    let body = json!({"model": "base", "prompt": "x", "max_tokens": 1});
    let mut request = scene
        .request(Method::POST, 0, By::Header, "v1/completions")
        .header("x-request-id", id);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let answer = request.json(&body).send().await.expect("an answer");
    assert_eq!(answer.status(), 200, "{id}");
    let (_, _, received) = scene.received_by(id);
    for (name, _) in headers {
        assert!(
            !received.headers.contains_key(*name),
            "{id}: {name} went on"
        );
    }
    let body = received.body.expect("a short body");
    let body: Value = serde_json::from_slice(&body).expect("JSON");
    let receipt = scene.receipt(id).await;
    (receipt["standing"].clone(), body["model"].clone())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_gateway_says_of_a_request_counts_and_what_its_client_claims_does_not() {
    for follow in FOLLOWS {
        let link = Link {
            follow,
            objects: OBJECTIVES,
            differences: Differences {
                first_filters: vec![told_by_the_gateway()],
                ..Differences::default()
            },
            ..Link::default()
        };
        let scene = Scene::linked(&[1], Profile::llama_8b_h100(), link).await;
        let told = [("x-plan", "batch"), ("x-tenant", "t-1"), ("x-trial", "a")];
        let claimed = [
            ("x-llm-d-inference-objective", "batch"),
            ("x-llm-d-inference-fairness-id", "t-2"),
            ("x-llm-d-model-name-rewrite", "c"),
        ];
        let of_gateway = (
            json!({"objective": "batch", "priority": -1, "fairness": "t-1"}),
            json!("a"),
        );
        let of_nobody = (
            json!({"objective": null, "priority": 0, "fairness": "default-flow"}),
            json!("base"),
        );
        let both = [told, claimed.map(|(name, _)| (name, "other"))].concat();
        assert_eq!(
            taken_for(&scene, "told", &told).await,
            of_gateway,
            "{follow:?}"
        );
        assert_eq!(
            taken_for(&scene, "both", &both).await,
            of_gateway,
            "{follow:?}"
        );
        assert_eq!(
            taken_for(&scene, "claimed", &claimed).await,
            of_nobody,
            "{follow:?}"
        );
    }
}

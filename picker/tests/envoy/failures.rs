//! No endpoints, killed servers, and their return.

use std::net::SocketAddr;

use reqwest::Method;
use serde_json::{Value, json};
use simulator::engine::Profile;

use crate::scene::{BOTH, By, Scene, eventually};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_endpoints_the_answer_is_503_until_the_file_names_some() {
    let scene = Scene::of(&[1], Profile::llama_8b_h100()).await;
    let server = scene.pools[0][0].address();
    scene.set_endpoints(0, &[]);
    let gone = async || {
        scene
            .request(Method::GET, 0, BOTH[0], "version")
            .send()
            .await
    };
    let status = async || {
        gone()
            .await
            .map(|answer| answer.status().as_u16())
            .unwrap_or(0)
    };
    eventually("the endpoint is gone", async || status().await == 503).await;
    for by in BOTH {
        let body = json!({"model": "base", "prompt": "x"})
            .to_string()
            .into_bytes();
        let answer = scene.post((0, by), "v1/completions", "none", body).await;
        assert_eq!(answer.status(), 503);
        let kind = answer.headers()["content-type"].clone();
        assert_eq!(kind, "application/json");
        let error: Value = answer.json().await.expect("JSON");
        let message = error["error"]["message"].as_str().expect("a message");
        assert!(
            message.contains("InferencePool test/pool-0 has no endpoints"),
            "{message}"
        );
        assert_eq!(error["error"]["code"], "no_endpoints");
    }
    scene.set_endpoints(0, &[server]);
    eventually("the endpoint is back", async || status().await == 200).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_server_gets_no_new_pick_until_a_probe_succeeds() {
    for by in BOTH {
        let mut scene = Scene::of(&[3], Profile::llama_8b_h100()).await;
        let killed = scene.pools[0][0].address();
        scene.pools[0][0].kill().await;

        let lost = send_until_it_is_picked(&scene, by, killed).await;
        if let Some(status) = lost {
            // Where Envoy knows the other servers it has tried one of them; else it can only say so.
            assert_eq!(status, if by == By::Metadata { 200 } else { 503 });
        }
        for index in 0..30 {
            let (picked, status) = send(&scene, by, &format!("after-{index}")).await;
            assert_ne!(picked, killed, "{by:?}: after-{index}");
            assert_eq!(status, 200, "{by:?}: after-{index}");
        }
        assert!(!scene.endpoint(killed).await["suspicion"].is_null());

        scene.pools[0][0]
            .restart()
            .await
            .expect("the server is back");
        let trusted = async || scene.endpoint(killed).await["suspicion"].is_null();
        eventually("a probe has succeeded", trusted).await;
        let mut index = 0;
        eventually("it is picked again", async || {
            index += 1;
            send(&scene, by, &format!("back-{index}")).await == (killed, 200)
        })
        .await;
    }
}

/// Sends until a request was picked to `server`, and returns its status; `None` if a reading has noticed before.
async fn send_until_it_is_picked(scene: &Scene, by: By, server: SocketAddr) -> Option<u16> {
    for index in 0.. {
        let (picked, status) = send(scene, by, &format!("before-{index}")).await;
        if picked == server {
            return Some(status);
        }
        assert_eq!(status, 200);
        if !scene.endpoint(server).await["suspicion"].is_null() {
            return None;
        }
    }
    None
}

/// Sends a small request; where it was picked to, and the answer's status.
async fn send(scene: &Scene, by: By, id: &str) -> (SocketAddr, u16) {
    let body = json!({"model": "base", "prompt": "x", "max_tokens": 1});
    let answer = scene
        .post((0, by), "v1/completions", id, body.to_string().into_bytes())
        .await;
    let status = answer.status().as_u16();
    answer.bytes().await.expect("a whole answer");
    // The decision counts; and its outcome has to be known, so that the next one is made after it.
    scene.receipt(id).await;
    (scene.picked(id).await, status)
}

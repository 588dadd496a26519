//! Every way in which Envoy can send bodies and trailers: requests arrive as they were sent, where the picker said.

use serde_json::{Value, json};
use simulator::engine::Profile;
use simulator::envoy::Differences;
use simulator::load::ext_proc::Follow;
use simulator::serve::body_hash;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::scene::{BOTH, By, Link, Scene};

/// The sample that follows in full, with other body modes; full duplex demands trailers.
pub(super) fn link(request: &str, response: &str) -> Link {
    let trailers = |mode: &str| {
        if mode == "FULL_DUPLEX_STREAMED" {
            "SEND"
        } else {
            "SKIP"
        }
    };
    Link {
        follow: Follow::Full,
        differences: Differences {
            processing_mode: Some(json!({
                "request_header_mode": "SEND", "response_header_mode": "SEND",
                "request_body_mode": request, "response_body_mode": response,
                "request_trailer_mode": trailers(request), "response_trailer_mode": trailers(response),
            })),
            ..Differences::default()
        },
        ..Link::default()
    }
}

/// A completion's body of about so many bytes.
fn body_of(bytes: usize) -> Vec<u8> {
    let body = json!({"model": "a", "prompt": "x".repeat(bytes), "max_tokens": 2});
    body.to_string().into_bytes()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_body_mode_picks_on_what_it_shows_and_passes_all_of_it() {
    for (request, response, read, following) in [
        ("BUFFERED", "BUFFERED", "read", "full"),
        ("BUFFERED_PARTIAL", "BUFFERED_PARTIAL", "read", "full"),
        ("STREAMED", "STREAMED", "absent", "full"),
        ("NONE", "NONE", "absent", "released"),
        ("BUFFERED", "NONE", "read", "released"),
        ("NONE", "FULL_DUPLEX_STREAMED", "absent", "full"),
        ("FULL_DUPLEX_STREAMED", "BUFFERED", "read", "full"),
        (
            "FULL_DUPLEX_STREAMED",
            "FULL_DUPLEX_STREAMED",
            "read",
            "full",
        ),
    ] {
        let link = link(request, response);
        let scene = Scene::linked(&[2], Profile::llama_8b_h100(), link).await;
        for by in BOTH {
            for bytes in [10, 100_000, 900_000] {
                let id = format!("{request}-{response}-{by:?}-{bytes}");
                let body = body_of(bytes);
                let answer = scene
                    .post((0, by), "v1/completions", &id, body.clone())
                    .await;
                let kind = answer.headers().get("content-type").cloned();
                assert!(kind.is_some_and(|kind| kind == "application/json"), "{id}");
                let answer: Value = answer.json().await.expect("a whole answer");
                assert!(answer.is_object(), "{id}: {answer}");
                let receipt = check_arrival(&scene, &id, &body).await;
                assert_eq!(receipt["request"]["body"], read, "{id}: {receipt}");
                assert_eq!(receipt["following"], following, "{id}: {receipt}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_envoy_shows_in_part_is_picked_by_that_part_and_passes_whole() {
    let link = link("BUFFERED_PARTIAL", "NONE");
    let scene = Scene::linked(&[2], Profile::llama_8b_h100(), link).await;
    for by in BOTH {
        let (id, body) = (format!("{by:?}"), body_of(3_000_000));
        let answer = scene
            .post((0, by), "v1/completions", &id, body.clone())
            .await;
        answer.bytes().await.expect("a whole answer");
        let receipt = check_arrival(&scene, &id, &body).await;
        assert_eq!(receipt["request"]["body"], "beginning", "{receipt}");
        assert_eq!(receipt["request"]["model"], "a", "{receipt}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trailers_of_a_request_end_its_body_in_every_mode() {
    for mode in [
        "FULL_DUPLEX_STREAMED",
        "BUFFERED",
        "STREAMED",
        "NONE",
        "asked",
    ] {
        let mut link = Link::default();
        if mode != "asked" {
            link = self::link(mode, "NONE");
        }
        if let Some(mode) = &mut link.differences.processing_mode {
            mode["request_trailer_mode"] = json!("SEND");
        }
        link.differences.trailers = true;
        let scene = Scene::linked(&[2], Profile::llama_8b_h100(), link).await;
        for by in BOTH {
            if by == By::Metadata && ["FULL_DUPLEX_STREAMED", "asked"].contains(&mode) {
                // Where a route may retry, Envoy 1.40 sends such a body twice, whatever the picker does.
                continue;
            }
            let (id, body) = (format!("{mode}-{by:?}"), body_of(100));
            let answer = post_with_trailers(&scene, by, &id, &body).await;
            assert!(answer.starts_with("HTTP/1.1 200 "), "{id}: {answer}");
            check_arrival(&scene, &id, &body).await;
        }
    }
}

/// Checks that a request has arrived where it was picked to, as it was sent; returns its receipt.
async fn check_arrival(scene: &Scene, id: &str, body: &[u8]) -> Value {
    let (_, server, received) = scene.received_by(id);
    assert_eq!(received.body_bytes, body.len(), "{id}");
    assert_eq!(received.body_hash, body_hash(body), "{id}");
    assert_eq!(scene.picked(id).await, server, "{id}");
    scene.receipt(id).await
}

/// Sends a body in one chunk and a trailer after it, by hand: no HTTP client at hand does. Returns the answer's beginning.
async fn post_with_trailers(scene: &Scene, by: By, id: &str, body: &[u8]) -> String {
    let (address, path) = scene.place(0, by, "v1/completions");
    let mut stream = TcpStream::connect(address).await.expect("Envoy listens");
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: models\r\nx-request-id: {id}\r\ncontent-type: application/json\r\n\
         te: trailers\r\ntrailer: x-sum\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n",
        body.len()
    );
    let mut request = head.into_bytes();
    request.extend_from_slice(body);
    request.extend_from_slice(b"\r\n0\r\nx-sum: 1\r\n\r\n");
    stream.write_all(&request).await.expect("it is sent");
    let mut answer = vec![0; 4096];
    let read = stream.read(&mut answer).await.expect("an answer");
    String::from_utf8_lossy(&answer[..read]).into_owned()
}

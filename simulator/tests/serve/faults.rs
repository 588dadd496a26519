//! What may befall a server, as it was recorded of vLLM 0.32.0.

use std::time::Duration;

use reqwest::StatusCode;
use simulator::engine::Profile;
use simulator::serve::{Server, Termination};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::scene::{
    DEADLINE, frozen, get, one, one_with, post, quick, rest, streaming, text, until_refused,
    until_unfinished, url,
};

const DEAD: &str = r#"{"error":{"message":"EngineCore encountered an issue. See stack trace (above) for the root cause.","type":"InternalServerError","param":null,"code":500}}"#;
const DEAD_IN_STREAM: &str = "data: {\"error\": {\"message\": \"EngineCore encountered an issue. See stack trace (above) for the root cause.\", \"type\": \"InternalServerError\", \"param\": null, \"code\": 500}}\n\ndata: [DONE]\n\n";
const SHUT_DOWN: &str = r#"{"error":{"message":"cannot schedule new futures after shutdown","type":"InternalServerError","param":null,"code":500}}"#;

/// Steps that leave time to interfere.
fn slow() -> Profile {
    Profile {
        base_ms: 20.0,
        ..quick()
    }
}

/// A request that is not streamed and takes longer than any test.
async fn whole(server: &Server) -> JoinHandle<(u16, String)> {
    let before = server.unfinished().await;
    let address = url(server, "/v1/completions");
    let request = tokio::spawn(async move {
        let request = reqwest::Client::new()
            .post(address)
            .header("content-type", "application/json");
        let body = r#"{"prompt":"hello","max_tokens":2000}"#;
        text(request.body(body).send().await.expect("answers")).await
    });
    until_unfinished(server, "the request is in the engine", before + 1).await;
    request
}

async fn joined(request: JoinHandle<(u16, String)>) -> (u16, String) {
    let joined = timeout(DEADLINE, request).await.expect("it is answered");
    joined.expect("no panic")
}

#[tokio::test]
async fn a_crash_fails_what_is_there_closes_the_port_and_ends_the_process() {
    let server = one(slow()).await;
    let stream = streaming(&server, 2000).await;
    let request = whole(&server).await;
    server.crash().await;
    let end = rest(stream).await;
    assert!(end.ends_with(DEAD_IN_STREAM), "{end}");
    assert_eq!(joined(request).await, (500, DEAD.to_owned()));
    until_refused(&server).await;
    timeout(DEADLINE, server.exited())
        .await
        .expect("the process ends");
}

#[tokio::test]
async fn a_hung_engine_answers_probes_freezes_its_metrics_and_goes_on_later() {
    let server = one(quick()).await;
    let stream = streaming(&server, 2000).await;
    server.hang().await;
    let tokens = async || {
        let (_, page) = get(&server, "/metrics").await;
        let mut lines = page.lines();
        let line = lines.find(|line| line.starts_with("vllm:generation_tokens_total"));
        line.expect("a counter").to_owned()
    };
    let frozen = tokens().await;
    let request = whole(&server).await;
    for _ in 0..3 {
        assert_eq!(get(&server, "/health").await.0, 200);
        assert_eq!(get(&server, "/v1/models").await.0, 200);
        assert_eq!(tokens().await, frozen);
    }
    server.resume().await;
    assert!(rest(stream).await.contains(r#""finish_reason":"length""#));
    assert_eq!(joined(request).await.0, 200);
}

#[tokio::test]
async fn sigterm_cuts_answers_where_they_are() {
    let server = one(slow()).await;
    let stream = streaming(&server, 2000).await;
    let request = whole(&server).await;
    server.terminate(Termination::Cut).await;
    let end = rest(stream).await;
    assert!(end.ends_with("data: [DONE]\n\n"), "{end}");
    assert!(
        !end.contains("error") && !end.contains(r#""finish_reason":""#),
        "{end}"
    );
    let (status, answer) = joined(request).await;
    assert_eq!(status, 200);
    assert!(answer.contains(r#""finish_reason":"abort""#), "{answer}");
    timeout(DEADLINE, server.exited())
        .await
        .expect("the process ends");
    until_refused(&server).await;
}

#[tokio::test]
async fn sigterm_fails_answers_at_times() {
    let server = one(slow()).await;
    let request = whole(&server).await;
    server.terminate(Termination::Fail).await;
    assert_eq!(joined(request).await, (500, DEAD.to_owned()));
    until_refused(&server).await;
}

#[tokio::test]
async fn a_draining_server_finishes_what_it_has_and_refuses_what_is_new() {
    let server = one(quick()).await;
    // Hung for as long as the test looks, so that the drain is not over before.
    server.hang().await;
    let request = whole(&server).await;
    let drain = Termination::Drain { timeout: DEADLINE };
    let look = async {
        let refused = text(post(&server, "/v1/completions", r#"{"prompt":"hi"}"#).await).await;
        assert_eq!(refused, (500, SHUT_DOWN.to_owned()));
        assert_eq!(get(&server, "/health").await.0, 200);
        server.resume().await;
    };
    tokio::join!(server.terminate(drain), look);
    let (status, answer) = joined(request).await;
    assert_eq!(status, 200);
    assert!(answer.contains(r#""finish_reason":"length""#), "{answer}");
    until_refused(&server).await;
}

#[tokio::test]
async fn a_stream_that_fits_into_a_drain_ends_whole() {
    let server = one(slow()).await;
    let stream = streaming(&server, 20).await;
    let drain = Termination::Drain { timeout: DEADLINE };
    server.terminate(drain).await;
    let end = rest(stream).await;
    assert!(end.contains(r#""finish_reason":"length""#), "{end}");
    timeout(DEADLINE, server.exited())
        .await
        .expect("the process ends");
}

#[tokio::test]
async fn what_takes_longer_than_a_drain_hangs_and_the_server_stays() {
    let server = one(quick()).await;
    server.hang().await;
    let request = whole(&server).await;
    let timeout = Duration::from_millis(1);
    server.terminate(Termination::Drain { timeout }).await;
    let refused = text(post(&server, "/v1/completions", r#"{"prompt":"hi"}"#).await).await;
    assert_eq!(refused, (500, SHUT_DOWN.to_owned()));
    assert_eq!(get(&server, "/health").await.0, 200);
    assert!(!request.is_finished());
}

#[tokio::test]
async fn a_server_becomes_as_fast_as_it_is_told() {
    let server = one(frozen()).await;
    server.set_speed(3_600_000.0).await;
    let answer = post(
        &server,
        "/v1/completions",
        r#"{"prompt":"hi","max_tokens":3}"#,
    );
    let answer = timeout(DEADLINE, answer)
        .await
        .expect("steps of a millisecond");
    assert_eq!(answer.status(), StatusCode::OK);
}

#[tokio::test]
async fn the_share_of_requests_that_fail_is_exact_and_spread() {
    let server = one(quick()).await;
    server.fail_share(0.25);
    let mut statuses = Vec::new();
    for _ in 0..8 {
        let answer = post(
            &server,
            "/v1/completions",
            r#"{"prompt":"hi","max_tokens":1}"#,
        )
        .await;
        statuses.push(answer.status().as_u16());
    }
    assert_eq!(statuses, [200, 200, 200, 500, 200, 200, 200, 500]);
}

#[tokio::test]
async fn a_server_can_be_changed_over_http_only_when_that_was_asked_for() {
    let closed = one(quick()).await;
    let crash = r#"{"state":"crash"}"#;
    assert_eq!(post(&closed, "/sim/state", crash).await.status(), 404);

    let server = one_with(quick(), |options| options.control = true).await;
    for (body, problem) in [
        (
            r#"{"speed":0}"#,
            "speed is 0: give a number from 0.001 to 1000",
        ),
        (r#"{"state":"dead"}"#, "unknown variant `dead`"),
        (r#"{"pace":1}"#, "unknown field `pace`"),
    ] {
        let (status, answer) = text(post(&server, "/sim/state", body).await).await;
        assert_eq!(status, 400);
        assert!(answer.contains(problem), "{answer}");
    }
    let failing = post(&server, "/sim/state", r#"{"fail_share":1,"speed":2}"#).await;
    assert_eq!(failing.status(), 200);
    let answer = post(&server, "/v1/completions", r#"{"prompt":"hi"}"#).await;
    assert_eq!(answer.status(), 500);
    post(&server, "/sim/state", crash).await;
    until_refused(&server).await;
}

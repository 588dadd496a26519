//! One server: what reached it, when it sends, who hangs up, how it dies and comes back.

use reqwest::Client;
use simulator::engine::Profile;
use simulator::serve::{Options, body_hash, spawn};
use tokio::time::timeout;

use crate::scene::{DEADLINE, frozen, one, post, quick, text, until_unfinished, url};

#[tokio::test]
async fn what_reached_a_server_is_known_byte_for_byte() {
    let server = one(quick()).await;
    let large = vec![b'x'; 5 * 1024 * 1024];
    post(&server, "/v1/completions", "{").await;
    post(&server, "/no/such/path?q=1", large.clone()).await;
    reqwest::get(url(&server, "/health"))
        .await
        .expect("answers");
    let received = server.received();
    assert_eq!(received.len(), 2, "/health is not remembered");
    assert_eq!(received[0].body.as_deref(), Some(b"{".as_slice()));
    assert_eq!(
        (received[1].method.as_str(), received[1].path.as_str()),
        ("POST", "/no/such/path?q=1")
    );
    assert_eq!(
        (received[1].body_bytes, received[1].body_hash),
        (large.len(), body_hash(&large))
    );
    assert_eq!(received[1].body, None, "too long to keep");
}

#[tokio::test]
async fn the_first_token_arrives_while_the_second_is_hours_away() {
    // A first token of 10 ms, then decode steps of an hour.
    let server = one(Profile {
        base_ms: 10.0,
        per_seq_ms: 3_600_000.0,
        ..quick()
    })
    .await;
    let ask = r#"{"prompt":"hi","max_tokens":2,"stream":true}"#;
    let mut response = post(&server, "/v1/completions", ask).await;
    let chunk = timeout(DEADLINE, response.chunk())
        .await
        .expect("in time")
        .expect("no error");
    let chunk = chunk.expect("a token");
    assert!(chunk.starts_with(b"data: {") && chunk.ends_with(b"\n\n"));
    assert_eq!(server.unfinished().await, 1);
}

#[tokio::test]
async fn a_client_that_hangs_up_is_aborted_streamed_or_not() {
    let server = one(Profile {
        base_ms: 20.0,
        ..quick()
    })
    .await;
    for ask in [
        r#"{"prompt":"hi","max_tokens":2000,"stream":true}"#,
        r#"{"prompt":"hi","max_tokens":2000}"#,
    ] {
        let address = url(&server, "/v1/completions");
        let request = tokio::spawn(async move {
            let request = Client::new()
                .post(address)
                .header("content-type", "application/json");
            let mut response = request.body(ask).send().await.expect("answers");
            while response.chunk().await.expect("no error").is_some() {}
        });
        until_unfinished(&server, "the request is in the engine", 1).await;
        request.abort();
        until_unfinished(&server, "the request has left the engine", 0).await;
    }
    let (_, page) = text(
        reqwest::get(url(&server, "/metrics"))
            .await
            .expect("answers"),
    )
    .await;
    assert!(page.contains("vllm:num_requests_running{engine=\"0\",model_name=\"tiny\"} 0.0\n"));
    let aborts = "vllm:request_success_total{engine=\"0\",finished_reason=\"abort\",model_name=\"tiny\"} 0.0\n";
    assert!(page.contains(aborts), "vLLM does not count them");
}

#[tokio::test]
async fn a_killed_server_refuses_and_breaks_off_and_a_restarted_one_is_new() {
    let mut server = one(frozen()).await;
    let ask = r#"{"model":"a","prompt":"hi","stream":true}"#;
    let mut stream = post(&server, "/v1/completions", ask).await;
    assert_eq!(
        stream.status(),
        200,
        "the head comes before the first token"
    );

    server.kill().await;
    let broken = timeout(DEADLINE, stream.chunk())
        .await
        .expect("breaks off at once");
    assert!(broken.is_err(), "{broken:?}");
    let refused = reqwest::get(url(&server, "/health"))
        .await
        .expect_err("the port is closed");
    assert!(refused.is_connect(), "{refused:?}");

    server.restart().await.expect("the port is still free");
    let health = reqwest::get(url(&server, "/health"))
        .await
        .expect("answers");
    assert_eq!(health.status(), 200);
    assert_eq!((server.unfinished().await, server.received().len()), (0, 1));
}

#[tokio::test]
async fn a_taken_port_is_named() {
    let server = one(quick()).await;
    let mut options = Options::local(1, "tiny", &[], quick());
    options.addresses = vec![server.address()];
    let error = spawn(options)
        .await
        .expect_err("the port is taken")
        .to_string();
    assert!(
        error.starts_with(&format!("cannot listen on {}: ", server.address())),
        "{error}"
    );
}

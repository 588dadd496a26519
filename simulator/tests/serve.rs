//! Model servers over loopback HTTP: answers as vLLM 0.32.0 gave them, streams token by token, hang-ups, kills, restarts.

use std::time::Duration;

use reqwest::{Client, Response};
use simulator::engine::Profile;
use simulator::serve::{Options, Server, body_hash, spawn};
use tokio::time::timeout;

/// Long enough for any machine; a test that meets it has failed.
const DEADLINE: Duration = Duration::from_secs(60);

/// Steps so short that tests do not wait for them.
fn quick() -> Profile {
    Profile {
        base_ms: 1.0,
        per_prefill_token_ms: 0.0,
        per_seq_ms: 0.0,
        max_model_len: 2048,
        adapter_load_ms: 1.0,
        ..Profile::demo()
    }
}

/// Steps so long that none ends within a test.
fn frozen() -> Profile {
    Profile {
        base_ms: 3_600_000.0,
        ..quick()
    }
}

async fn one(profile: Profile) -> Server {
    let servers = spawn(Options::local(1, "tiny", &["a", "b"], profile))
        .await
        .expect("starts");
    servers.into_iter().next().expect("one was asked for")
}

fn url(server: &Server, path: &str) -> String {
    format!("http://{}{path}", server.address())
}

async fn post(server: &Server, path: &str, body: impl Into<reqwest::Body>) -> Response {
    let request = Client::new()
        .post(url(server, path))
        .header("content-type", "application/json");
    request.body(body).send().await.expect("answers")
}

async fn text(response: Response) -> (u16, String) {
    let status = response.status().as_u16();
    (status, response.text().await.expect("a body"))
}

/// `body` with what differs from one answer to the next replaced: ids, times, hashes, and what is said.
fn steady(body: &str) -> String {
    let mut text = body.to_owned();
    for field in [
        "\"id\":\"",
        "\"created\":",
        "\"system_fingerprint\":\"",
        "\"text\":\"",
        "\"content\":\"",
    ] {
        let mut done = String::new();
        while let Some(start) = text.find(field) {
            let value = start + field.len();
            let length = text[value..].find(['"', ',', '}']).unwrap_or(0);
            done.push_str(&text[..value]);
            done.push('?');
            text = text.split_off(value + length);
        }
        text = done + &text;
    }
    text
}

/// Requests on which vLLM 0.32.0 was recorded, most of them wrong: path, body, status, answer.
fn recorded_errors() -> Vec<(String, String, u16, String)> {
    let recording = include_str!("fixtures/vllm-0.32.0-errors.txt").replace("\r\n", "\n");
    let exchange = |text: &str| {
        let (request, response) = text.split_once('\n')?;
        let (address, body) = request.split_once(" -d ")?;
        let (_, path) = address.split_once("127.0.0.1:8000")?;
        let (head, answer) = response.split_once("\n\n")?;
        let status = head.split(' ').nth(1)?.parse().ok()?;
        let body = body.replace("<3000 alphas>", &("alpha ".repeat(3000) + "\"}"));
        Some((path.to_owned(), body, status, answer.trim_end().to_owned()))
    };
    recording.split("### ").filter_map(exchange).collect()
}

#[tokio::test]
async fn what_vllm_refuses_is_refused_in_its_words() {
    let server = one(quick()).await;
    let recorded = recorded_errors();
    assert_eq!(
        recorded.len(),
        13,
        "the recording has as many requests with a JSON body"
    );
    for (path, body, status, answer) in recorded {
        let ours = text(post(&server, &path, body.clone()).await).await;
        assert_eq!(
            (ours.0, steady(&ours.1)),
            (status, steady(&answer)),
            "{path} {body}"
        );
    }
}

#[tokio::test]
async fn a_wrong_content_type_and_a_wrong_method_are_refused_in_vllms_words() {
    let server = one(quick()).await;
    let completions = url(&server, "/v1/completions");
    let plain = Client::new()
        .post(&completions)
        .header("content-type", "text/plain");
    let answer = text(plain.body("hi").send().await.expect("answers")).await;
    let recorded = r#"{"error":{"message":"1 validation error:\n  Unsupported Media Type: Only 'application/json' is allowed","type":"Bad Request","param":null,"code":400}}"#;
    assert_eq!(answer, (400, recorded.into()));

    let get = reqwest::get(&completions).await.expect("answers");
    assert_eq!(get.headers()["allow"], "POST");
    assert_eq!(
        text(get).await,
        (405, r#"{"detail":"Method Not Allowed"}"#.into())
    );
}

#[tokio::test]
async fn whole_answers_have_vllms_fields_in_vllms_order() {
    let server = one(quick()).await;
    let response = post(
        &server,
        "/v1/completions",
        r#"{"prompt":"hi","max_tokens":2,"unknown_field_xyz":1}"#,
    )
    .await;
    let headers = response.headers().clone();
    assert_eq!(headers["server"], "uvicorn");
    assert_eq!(headers["vary"], "Origin");
    assert_eq!(headers["content-type"], "application/json");
    assert_eq!(headers["x-inference-pod"], "sim-0");
    assert_eq!(
        headers["x-inference-port"],
        server.address().port().to_string()
    );
    let recorded = r#"{"id":"cmpl-ad6e0cd4e6f1e661","object":"text_completion","created":1795197480,"model":"tiny","choices":[{"index":0,"text":"sicon","logprobs":null,"finish_reason":"length","stop_reason":null,"token_ids":null,"prompt_logprobs":null,"prompt_token_ids":null,"routed_experts":null}],"service_tier":null,"system_fingerprint":"vllm-0.32.0-2f3ca854","usage":{"prompt_tokens":1,"total_tokens":3,"completion_tokens":2,"prompt_tokens_details":null,"completion_tokens_details":null},"kv_transfer_params":null,"ec_transfer_params":null,"metrics":null}"#;
    assert_eq!(steady(&text(response).await.1), steady(recorded));

    let ask =
        r#"{"model":"b","messages":[{"role":"user","content":"four"}],"max_completion_tokens":8}"#;
    let (status, answer) = text(post(&server, "/v1/chat/completions", ask).await).await;
    let recorded = r#"{"id":"chatcmpl-953cc2da33070244","object":"chat.completion","created":1795197093,"model":"b","choices":[{"index":0,"message":{"role":"assistant","content":"namesnames","refusal":null,"annotations":null,"audio":null,"function_call":null,"reasoning":null},"logprobs":null,"finish_reason":"length","stop_reason":null,"token_ids":null,"routed_experts":null}],"service_tier":null,"system_fingerprint":"vllm-0.32.0-d5d2bfa4","usage":{"prompt_tokens":8,"total_tokens":16,"completion_tokens":8,"prompt_tokens_details":null,"completion_tokens_details":null},"prompt_logprobs":null,"prompt_token_ids":null,"prompt_text":null,"kv_transfer_params":null,"ec_transfer_params":null,"metrics":null}"#;
    assert_eq!(
        (status, steady(&answer)),
        (200, steady(recorded)),
        "recorded with 132 prompt tokens"
    );
}

#[tokio::test]
async fn streams_have_vllms_events() {
    let server = one(quick()).await;
    let ask = r#"{"model":"tiny","messages":[{"role":"user","content":"four"}],"max_tokens":2,"stream":true,"stream_options":{"include_usage":true}}"#;
    let response = post(&server, "/v1/chat/completions", ask).await;
    assert_eq!(
        response.headers()["content-type"],
        "text/event-stream; charset=utf-8"
    );
    assert_eq!(response.headers()["transfer-encoding"], "chunked");
    let recorded = r#"data: {"id":"chatcmpl-a99ac1892d6566f7","object":"chat.completion.chunk","created":1795197093,"model":"tiny","choices":[{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}],"prompt_token_ids":null,"prompt_text":null}

data: {"id":"chatcmpl-a99ac1892d6566f7","object":"chat.completion.chunk","created":1795197093,"model":"tiny","choices":[{"index":0,"delta":{"content":"deli"},"logprobs":null,"finish_reason":null,"token_ids":null}]}

data: {"id":"chatcmpl-a99ac1892d6566f7","object":"chat.completion.chunk","created":1795197093,"model":"tiny","choices":[{"index":0,"delta":{"content":"deli"},"logprobs":null,"finish_reason":"length","stop_reason":null,"token_ids":null}]}

data: {"id":"chatcmpl-a99ac1892d6566f7","object":"chat.completion.chunk","created":1795197093,"model":"tiny","choices":[],"usage":{"prompt_tokens":8,"total_tokens":10,"completion_tokens":2},"system_fingerprint":"vllm-0.32.0-d5d2bfa4"}

data: [DONE]

"#;
    assert_eq!(steady(&text(response).await.1), steady(recorded));

    let ask = r#"{"model":"a","prompt":"hi","max_tokens":2,"stream":true}"#;
    let request = Client::new()
        .post(url(&server, "/v1/completions"))
        .header("content-type", "application/json");
    let response = request
        .header("x-request-id", "my-req-1")
        .body(ask)
        .send()
        .await
        .expect("answers");
    let (_, answer) = text(response).await;
    assert!(
        answer.starts_with(r#"data: {"id":"cmpl-my-req-1","object":"text_completion","#),
        "{answer}"
    );
    let recorded = r#"data: {"id":"cmpl-b147d181ac18ded9","object":"text_completion","created":1795199356,"model":"a","choices":[{"index":0,"text":"ec","logprobs":null,"finish_reason":null,"stop_reason":null,"prompt_token_ids":null,"token_ids":null}]}

data: {"id":"cmpl-b147d181ac18ded9","object":"text_completion","created":1795199356,"model":"a","choices":[{"index":0,"text":" mach","logprobs":null,"finish_reason":"length","stop_reason":null,"prompt_token_ids":null,"token_ids":null}],"system_fingerprint":"vllm-0.32.0-2f3ca854"}

data: [DONE]

"#;
    assert_eq!(steady(&answer), steady(recorded));
}

#[tokio::test]
async fn usage_comes_with_every_chunk_when_asked_for() {
    let server = one(quick()).await;
    let ask = r#"{"messages":[{"role":"user","content":"four"}],"max_tokens":1,"stream":true,"stream_options":{"include_usage":true,"continuous_usage_stats":true}}"#;
    let (_, answer) = text(post(&server, "/v1/chat/completions", ask).await).await;
    for recorded in [
        r#""finish_reason":null}],"usage":{"prompt_tokens":8,"total_tokens":8,"completion_tokens":0,"completion_tokens_details":null},"prompt_token_ids":null,"prompt_text":null}"#,
        r#""token_ids":null}],"usage":{"prompt_tokens":8,"total_tokens":9,"completion_tokens":1,"completion_tokens_details":null}}"#,
        r#""choices":[],"usage":{"prompt_tokens":8,"total_tokens":9,"completion_tokens":1},"system_fingerprint":"#,
    ] {
        assert!(answer.contains(recorded), "{recorded}\nin\n{answer}");
    }
}

#[tokio::test]
async fn the_small_paths_answer_as_recorded() {
    let server = one(quick()).await;
    for (path, status, answer) in [
        ("/health", 200, ""),
        ("/ping", 200, ""),
        ("/version", 200, r#"{"version":"0.32.0"}"#),
        ("/load", 200, r#"{"server_load":0}"#),
        ("/server_info", 404, r#"{"detail":"Not Found"}"#),
    ] {
        let response = reqwest::get(url(&server, path)).await.expect("answers");
        assert_eq!(text(response).await, (status, answer.to_owned()), "{path}");
    }
    let (_, models) = text(
        reqwest::get(url(&server, "/v1/models"))
            .await
            .expect("answers"),
    )
    .await;
    let recorded = r#"{"object":"list","data":[{"id":"tiny","object":"model","created":1795197024,"owned_by":"vllm","root":"/models/tiny","parent":null,"max_model_len":2048,"permission":[{"id":"modelperm-b503735a2eeb1e40","object":"model_permission","created":1795197024,"allow_create_engine":false,"allow_sampling":true,"allow_logprobs":true,"allow_search_indices":false,"allow_view":true,"allow_fine_tuning":false,"organization":"*","group":null,"is_blocking":false}]},{"id":"a","object":"model","created":1795197024,"owned_by":"vllm","root":"/adapters/a","parent":"tiny","max_model_len":null,"permission":["#;
    assert!(steady(&models).starts_with(&steady(recorded)), "{models}");

    let metrics = reqwest::get(url(&server, "/metrics"))
        .await
        .expect("answers");
    assert_eq!(
        metrics.headers()["content-type"],
        "text/plain; version=1.0.0; charset=utf-8"
    );
    let (_, page) = text(metrics).await;
    assert!(page.contains(
        "http_requests_total{handler=\"/v1/models\",method=\"GET\",status=\"2xx\"} 1.0\n"
    ));
}

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
        until(&server, "the request is in the engine", 1).await;
        request.abort();
        until(&server, "the request has left the engine", 0).await;
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

/// Waits until `count` requests are unfinished.
async fn until(server: &Server, what: &str, count: usize) {
    let reached = async {
        while server.unfinished().await != count {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(DEADLINE, reached).await.expect(what);
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

//! Answers in vLLM's words, fields and order.

use reqwest::Client;

use crate::scene::{one, post, quick, steady, text, url};

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
    let recorded = r#"{"id":"chatcmpl-953cc2da33070244","object":"chat.completion","created":1795197093,"model":"b","choices":[{"index":0,"message":{"role":"assistant","content":"namesnames","refusal":null,"annotations":null,"audio":null,"function_call":null,"reasoning":null},"logprobs":null,"finish_reason":"length","stop_reason":null,"token_ids":null,"routed_experts":null}],"service_tier":null,"system_fingerprint":"vllm-0.32.0-d5d2bfa4","usage":{"prompt_tokens":9,"total_tokens":17,"completion_tokens":8,"prompt_tokens_details":null,"completion_tokens_details":null},"prompt_logprobs":null,"prompt_token_ids":null,"prompt_text":null,"kv_transfer_params":null,"ec_transfer_params":null,"metrics":null}"#;
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

data: {"id":"chatcmpl-a99ac1892d6566f7","object":"chat.completion.chunk","created":1795197093,"model":"tiny","choices":[],"usage":{"prompt_tokens":9,"total_tokens":11,"completion_tokens":2},"system_fingerprint":"vllm-0.32.0-d5d2bfa4"}

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
        r#""finish_reason":null}],"usage":{"prompt_tokens":9,"total_tokens":9,"completion_tokens":0,"completion_tokens_details":null},"prompt_token_ids":null,"prompt_text":null}"#,
        r#""token_ids":null}],"usage":{"prompt_tokens":9,"total_tokens":10,"completion_tokens":1,"completion_tokens_details":null}}"#,
        r#""choices":[],"usage":{"prompt_tokens":9,"total_tokens":10,"completion_tokens":1},"system_fingerprint":"#,
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
async fn a_load_report_comes_in_the_header_in_the_format_asked_for() {
    let server = one(quick()).await;
    let recordings = [
        (
            "TEXT",
            "/v1/chat/completions",
            r#"{"messages":[{"role":"user","content":"hi"}],"max_tokens":3}"#,
            include_str!("../fixtures/http/chat_orca_text.txt"),
        ),
        (
            "json",
            "/v1/completions",
            r#"{"prompt":"hi","max_tokens":3}"#,
            include_str!("../fixtures/http/completion_orca_json.txt"),
        ),
    ];
    for (format, path, body, recording) in recordings {
        let mut lines = recording.lines();
        let recorded = lines.find_map(|line| line.strip_prefix("endpoint-load-metrics: "));
        let request = Client::new()
            .post(url(&server, path))
            .header("content-type", "application/json")
            .header("endpoint-load-metrics-format", format);
        let response = request.body(body).send().await.expect("answers");
        let header = &response.headers()["endpoint-load-metrics"];
        assert_eq!(header.to_str().ok(), recorded);
    }
    let plain = post(&server, "/v1/completions", r#"{"prompt":"hi"}"#).await;
    assert!(!plain.headers().contains_key("endpoint-load-metrics"));
}

#[tokio::test]
async fn continuous_usage_of_completions_has_no_details() {
    let server = one(quick()).await;
    let ask = r#"{"prompt":"hi","max_tokens":1,"stream":true,"stream_options":{"include_usage":true,"continuous_usage_stats":true}}"#;
    let (_, answer) = text(post(&server, "/v1/completions", ask).await).await;
    let chunk =
        r#""token_ids":null}],"usage":{"prompt_tokens":1,"total_tokens":2,"completion_tokens":1}}"#;
    assert!(answer.contains(chunk), "{answer}");
}

//! How many answers, how long, and how many requests at once.

use serde_json::Value;

use crate::scene::{frozen, get, one, one_with, post, quick, text, until_unfinished};

const ADMISSION: &str = include_str!("../fixtures/http/admission_503.txt");
const ADMISSION_IN_STREAM: &str = include_str!("../fixtures/http/admission_in_stream.txt");

async fn json(server: &simulator::serve::Server, path: &str, body: &str) -> Value {
    let (status, answer) = text(post(server, path, body.to_owned()).await).await;
    assert_eq!(status, 200, "{answer}");
    serde_json::from_str(&answer).expect("JSON")
}

#[tokio::test]
async fn every_prompt_gets_n_answers_and_counts_once() {
    let server = one(quick()).await;
    let body = r#"{"prompt":["a b","c d"],"n":2,"max_tokens":3}"#;
    let answer = json(&server, "/v1/completions", body).await;
    let choices = answer["choices"].as_array().expect("a list");
    let indices: Vec<_> = choices.iter().map(|choice| &choice["index"]).collect();
    assert_eq!(indices, [0, 1, 2, 3]);
    assert_ne!(choices[0]["text"], choices[1]["text"], "each says its own");
    assert_eq!(answer["usage"]["prompt_tokens"], 2);
    assert_eq!(answer["usage"]["completion_tokens"], 12);

    let body = r#"{"messages":[{"role":"user","content":"hi"}],"n":2,"max_tokens":2,"stream":true,"stream_options":{"include_usage":true}}"#;
    let (_, stream) = text(post(&server, "/v1/chat/completions", body).await).await;
    for (index, chunks) in [(0, 3), (1, 3)] {
        let of_choice = format!(r#""choices":[{{"index":{index},"#);
        assert_eq!(stream.matches(&of_choice).count(), chunks, "{stream}");
    }
    let usage = r#""usage":{"prompt_tokens":9,"total_tokens":13,"completion_tokens":4}"#;
    assert!(stream.contains(usage), "{stream}");
    assert!(stream.ends_with("data: [DONE]\n\n") && stream.matches("[DONE]").count() == 1);
}

#[tokio::test]
async fn a_stop_text_ends_an_answer_and_is_not_shown() {
    let server = one(quick()).await;
    let free = json(
        &server,
        "/v1/completions",
        r#"{"prompt":"hi","max_tokens":12}"#,
    )
    .await;
    let said = free["choices"][0]["text"]
        .as_str()
        .expect("text")
        .to_owned();
    let words: Vec<_> = said.split_inclusive(' ').collect();
    // The end of one word and the beginning of the next: no token by itself.
    let stop = format!("{}{}", &words[2][words[2].len() - 2..], &words[3][..1]);
    let end = said.find(&stop).expect("it is said");
    let ask = |more: &str| {
        let stop = Value::from(stop.as_str());
        format!(r#"{{"prompt":"hi","max_tokens":12,"stop":["no such",{stop}]{more}}}"#)
    };
    let stopped = json(&server, "/v1/completions", &ask("")).await;
    let choice = &stopped["choices"][0];
    assert_eq!(choice["text"], said[..end]);
    assert_eq!(choice["finish_reason"], "stop");
    assert_eq!(choice["stop_reason"], stop.as_str());
    let kept = json(
        &server,
        "/v1/completions",
        &ask(r#","include_stop_str_in_output":true"#),
    )
    .await;
    assert_eq!(kept["choices"][0]["text"], said[..end + stop.len()]);

    let stream = post(&server, "/v1/completions", ask(r#","stream":true"#)).await;
    let (_, stream) = text(stream).await;
    let events = stream
        .lines()
        .filter_map(|line| line.strip_prefix("data: {"));
    let texts = events.map(|event| {
        let event: Value = serde_json::from_str(&format!("{{{event}")).expect("JSON");
        event["choices"][0]["text"]
            .as_str()
            .expect("text")
            .to_owned()
    });
    assert_eq!(
        texts.collect::<String>(),
        said[..end],
        "nothing is taken back"
    );
}

#[tokio::test]
async fn values_that_vllm_refuses_are_refused_as_its_source_says() {
    let server = one(quick()).await;
    for (body, message) in [
        (
            r#"{"prompt":"hi","stream_options":{"include_usage":true}}"#,
            "Stream options can only be defined when `stream=True`. (parameter=stream_options)",
        ),
        (r#"{"prompt":"hi","n":0}"#, "n must be at least 1, got 0."),
        (
            r#"{"prompt":"hi","stop":""}"#,
            "stop cannot contain an empty string.",
        ),
        (
            r#"{"prompt":"hi","stop":7}"#,
            "2 validation errors:\n  {'type': 'string_type', 'loc': 'body.stop', 'msg': 'Input should be a valid string', 'input': '7'}\n  {'type': 'list_type', 'loc': 'body.stop', 'msg': 'Input should be a valid list', 'input': '7'}",
        ),
        (
            r#"{"prompt":"hi","model":7}"#,
            "1 validation error:\n  {'type': 'string_type', 'loc': 'body.model', 'msg': 'Input should be a valid string', 'input': '7'}",
        ),
    ] {
        let (status, answer) = text(post(&server, "/v1/completions", body).await).await;
        let answer: Value = serde_json::from_str(&answer).expect("JSON");
        assert_eq!(
            (status, answer["error"]["message"].as_str()),
            (400, Some(message)),
            "{body}"
        );
    }
    let too_long = r#"{"messages":[],"max_completion_tokens":5000}"#;
    let (_, answer) = text(post(&server, "/v1/chat/completions", too_long).await).await;
    assert!(
        answer.contains("max_completion_tokens=5000 cannot be greater than max_model_len=2048."),
        "{answer}"
    );
}

#[tokio::test]
async fn a_full_server_refuses_as_recorded() {
    let server = one_with(frozen(), |options| options.max_num_queued_reqs = Some(1)).await;
    let waiting = post(
        &server,
        "/v1/completions",
        r#"{"prompt":"hi","stream":true}"#,
    )
    .await;
    until_unfinished(&server, "the request is in the engine", 1).await;
    let recorded = ADMISSION
        .lines()
        .find(|line| line.starts_with("{\"error\""));
    let recorded = recorded
        .expect("an answer")
        .split("###")
        .next()
        .unwrap_or_default();
    for (path, body) in [
        ("/v1/completions", r#"{"prompt":"hi"}"#),
        ("/v1/completions", r#"{"prompt":"hi","stream":true}"#),
        (
            "/v1/chat/completions",
            r#"{"messages":[{"role":"user","content":"hi"}]}"#,
        ),
        ("/v1/responses", r#"{"input":"hi"}"#),
    ] {
        let answer = text(post(&server, path, body).await).await;
        assert_eq!(answer, (503, recorded.to_owned()), "{path} {body}");
    }
    drop(waiting);
}

#[tokio::test]
async fn a_stream_that_had_begun_when_the_server_was_full_ends_with_the_recorded_error() {
    let server = one_with(frozen(), |options| options.max_num_queued_reqs = Some(1)).await;
    let both = r#"{"prompt":["first","second"],"stream":true}"#;
    let (status, answer) = text(post(&server, "/v1/completions", both).await).await;
    let recorded = ADMISSION_IN_STREAM
        .split("HTTP 200\n")
        .nth(1)
        .unwrap_or_default();
    let recorded = recorded.split("\n----").next().unwrap_or_default();
    assert_eq!((status, answer.trim_end()), (200, recorded.trim_end()));
}

#[tokio::test]
async fn the_load_is_tracked_when_asked_for() {
    let server = one_with(frozen(), |options| options.track_load = true).await;
    assert_eq!(get(&server, "/load").await.1, r#"{"server_load":0}"#);
    let stream = post(
        &server,
        "/v1/completions",
        r#"{"prompt":"hi","stream":true}"#,
    )
    .await;
    assert_eq!(get(&server, "/load").await.1, r#"{"server_load":1}"#);
    drop(stream);
}

#[tokio::test]
async fn a_prompt_that_was_served_before_is_found_in_the_prefix_cache_with_its_answer() {
    let server = one(quick()).await;
    let chat = |more: &str| {
        let long = "sixteen bytes...".repeat(20);
        format!(r#"{{"messages":[{{"role":"user","content":"{long}"}}{more}],"max_tokens":32}}"#)
    };
    let first = json(&server, "/v1/chat/completions", &chat("")).await;
    let said = first["choices"][0]["message"]["content"].to_string();
    let more =
        format!(r#",{{"role":"assistant","content":{said}}},{{"role":"user","content":"on"}}"#);
    json(&server, "/v1/chat/completions", &chat(&more)).await;
    let (_, page) = get(&server, "/metrics").await;
    let hits = page
        .lines()
        .find_map(|line| line.strip_prefix("vllm:prefix_cache_hits_total{"));
    let hits = hits
        .and_then(|line| line.split("} ").nth(1))
        .expect("a counter");
    // 3 + 80 + 2 + 3 tokens of prompt and 31 computed ones of the answer: 7 whole blocks of 16.
    assert_eq!(hits, "112.0", "{page}");
}

//! What bodies of each API tell.

use picker_core::request::{Api, Body, Request};
use serde_json::json;

use crate::frames::{CHAT, COMPLETIONS, MESSAGES, RESPONSES, scan, scan_of};

/// Model, stream, limit, sequences, bytes and ids of the prompt; the path; the body.
const CASES: &str = r#"
a true 7 1 7 0     /v1/completions  {"model":"a","prompt":"hello","max_tokens":7,"stream":true,"x":[{}]}
- false - 6 10 0   /v1/completions  {"prompt":["ab","c"],"n":3}
- false - 1 0 3    /v1/completions  {"prompt":[1,22 , 333]}
- false - 6 0 3    /v1/completions  {"prompt":[[1,2],[3],[]],"n":2}
- false - 1 2 0    /v1/completions  {"max_output_tokens":3,"prompt":""}
b false 9 1 32 0   /v1/chat/completions  {"messages":[{"role":"user","content":"hi"}],"max_tokens":1,"max_completion_tokens":9,"model":"b"}
- false 4 2 15 0   /v1/chat/completions  {"max_completion_tokens":null,"max_tokens":4,"n":2,"messages":[],"tools":[{"n":[1,2]}]}
a true 4 1 17 0    /v1/responses  {"model":"a","input":"Hello","instructions":"Be brief","max_output_tokens":4,"stream":true}
- false - 1 19 0   /v1/responses  {"input":[{"role":"user"}],"tools":[],"max_tokens":9}
e false 0 1 11 0   /v1/embeddings  {"model":"e","input":["ab","cd"]}
- false 0 1 0 3    /v1/embeddings  {"input":[[5,6],[7]],"max_tokens":9}
c false 64 1 9 0   /v1/messages  {"model":"c","max_tokens":64,"system":"Hi","messages":[1],"tools":[]}
t false 3 2 0 2    /inference/v1/generate  {"model":"t","token_ids":[797,1217],"sampling_params":{"n":2,"max_tokens":3}}
- false - 1 2 0    /inference/v1/generate  {"max_tokens":9,"sampling_params":{"x":{"max_tokens":8},"max_tokens":[]},"token_ids":[]}
- false - 1 36 0   /inference/v1/generate  {"sampling_params":5,"max_tokens":6}
r false - 1 26 0   /score  {"model":"r","text_1":"a"}
r false - 1 13 0   /v1/messages/count_tokens  {"model":"r"}
d false - 1 2 0    /openai/deployments/d/chat/completions?api-version=1  {"messages":[]}
a/b false - 1 13 0 /v2/models/a%2Fb/infer  {"inputs":[]}
body false - 1 16 0 /v1/models/m:predict  {"model":"body"}
"#;

#[test]
fn each_api_gives_model_stream_limit_sequences_and_prompt() {
    for case in CASES.trim().lines() {
        let (rest, body) = case.split_once("  {").expect("a case has a body");
        let (expected, path) = rest.rsplit_once(' ').expect("a case has a path");
        let request = scan(path, format!("{{{body}"));
        let limit = request.max_tokens.map(|limit| limit.to_string());
        let told = format!(
            "{} {} {} {} {} {}",
            request.model.as_deref().unwrap_or("-"),
            request.streamed,
            limit.as_deref().unwrap_or("-"),
            request.sequences,
            request.prompt_bytes,
            request.prompt_ids,
        );
        assert_eq!(told, expected.trim_end(), "{case}");
        assert_eq!(request.body, Body::Read, "{case}");
    }
}

#[test]
fn of_a_field_that_stands_twice_the_last_counts_and_escapes_are_read() {
    let body =
        r#"{"model":"a","mode\u006c" : "b\n\u00e9","prompt":"","stream":true,"stream":false}"#;
    let request = scan(COMPLETIONS, body);
    assert_eq!(request.model.as_deref(), Some("b\né"));
    assert!(!request.streamed);
    let request = scan(COMPLETIONS, r#"{"model":"a","model":null}"#);
    assert_eq!(request.model, None);
}

#[test]
fn fields_of_the_wrong_type_count_as_absent() {
    let cases = [
        r#"{"model":5,"stream":"true","max_tokens":-1}"#,
        r#"{"model":["a"],"stream":1,"max_tokens":1.5}"#,
        r#"{"model":{"model":"a"},"stream":null,"max_tokens":"7"}"#,
        r#"{"model":"","stream":[true],"max_tokens":99999999999}"#,
        r#"{"model":"\ud800","stream":false,"max_tokens":true}"#,
        r#"{"x":{"model":"a","stream":true,"max_tokens":7}}"#,
        r#"{"x":"\",\"model\":\"a\"\\","y":"\\\"model\":"}"#,
    ];
    for body in cases {
        let request = scan(COMPLETIONS, body);
        let told = (
            request.body,
            request.model,
            request.streamed,
            request.max_tokens,
        );
        assert_eq!(told, (Body::Read, None, false, None), "{body}");
    }
    let latin = scan(COMPLETIONS, b"{\"model\":\"\xe9\",\"max_tokens\":5}");
    assert_eq!((latin.model, latin.max_tokens), (None, Some(5)));
    let long = format!("{{\"model\":\"{}\",\"max_tokens\":5}}", "m".repeat(1025));
    let long = scan(COMPLETIONS, long);
    assert_eq!((long.model, long.max_tokens), (None, Some(5)));
    let fits = scan(
        COMPLETIONS,
        format!("{{\"model\":\"{}\"}}", "m".repeat(1024)),
    );
    assert_eq!(fits.model.map(|model| model.len()), Some(1024));
}

#[test]
fn what_is_no_object_is_unreadable_and_counts_by_its_length() {
    let cases = [
        "[]",
        "no",
        "\"{}\"",
        "{\"model\":",
        "{}x",
        "{} {}",
        "\u{0}",
        "{\"model\":\"a\"",
        "{\"model\" \"a\"}",
        "{,}",
        "{\"model\":\"a\",}",
        "{\"model\":\"a\" \"b\":1}",
        "{\"model\":@}",
        "{model:1}",
        "{\"model\":\"a\\\"}",
        "{\"a\":[{}}",
        " ",
        "{\"a\":}",
    ];
    for body in cases {
        let request = scan(COMPLETIONS, body);
        assert_eq!(
            (request.body, request.model),
            (Body::Unreadable, None),
            "{body}"
        );
        assert_eq!(request.prompt_bytes, body.len() as u64, "{body}");
    }
    assert_eq!(scan(COMPLETIONS, "").body, Body::Absent);
    assert_eq!(scan(COMPLETIONS, "\t{\r\n}\n ").body, Body::Read);
}

#[test]
fn a_deep_body_is_read_like_a_shallow_one() {
    let deep = 100_000;
    let body = format!(
        "{{\"x\":{}1{},\"model\":\"a\"}}",
        "[{\"y\":".repeat(deep),
        "}]".repeat(deep)
    );
    let request = Request::scan(CHAT, body.as_bytes());
    assert_eq!(
        (request.body, request.model.as_deref()),
        (Body::Read, Some("a"))
    );
}

#[test]
fn the_beginning_of_a_body_gives_what_stands_there_whole() {
    let body = br#"{"model":"a","stream":true,"max_tokens":25,"messages":[{"role":"user","content":"so lo"#;
    let request = scan_of(CHAT, [body.as_slice()]).request_so_far(Some(9000));
    assert_eq!(request.body, Body::Beginning);
    assert_eq!(
        (request.model.as_deref(), request.max_tokens),
        (Some("a"), Some(25))
    );
    assert!(request.streamed);
    assert_eq!(request.prompt_bytes, 9000);
    let late = scan_of(COMPLETIONS, [br#"{"prompt":"xx","mod"#.as_slice()]).request_so_far(None);
    assert_eq!((late.model, late.prompt_bytes), (None, 19));
    let number = scan_of(COMPLETIONS, [br#"{"max_tokens":25"#.as_slice()]).request_so_far(None);
    assert_eq!(number.max_tokens, None, "it may go on as 256");
}

#[test]
fn an_image_or_a_sound_counts_as_1_kb_however_long_it_is() {
    let base64 = "A".repeat(400_000);
    let url = format!("data:image/png;base64,{base64}");
    let text = "data:".to_owned() + &"a text ".repeat(50_000);
    let cases = [
        (
            CHAT,
            json!({"messages": [{"content": [{"type": "image_url", "image_url": {"url": url}}]}]}),
        ),
        (
            CHAT,
            json!({"messages": [{"content": [{"type": "input_audio", "input_audio": {"data": base64}}]}]}),
        ),
        (
            MESSAGES,
            json!({"messages": [{"content": [{"source": {"type": "base64", "data": base64}}]}]}),
        ),
        (
            RESPONSES,
            json!({"input": [{"content": [{"type": "input_image", "image_url": url}]}]}),
        ),
    ];
    for (path, body) in cases {
        let bytes = scan(path, body.to_string()).prompt_bytes;
        assert!((1_024..1_200).contains(&bytes), "{path}: {bytes}");
    }
    for text in [
        json!(text),
        json!({"data": [text]}),
        json!([{"data": "x", "text": text}]),
    ] {
        let body = json!({"messages": [{"content": text}]}).to_string();
        assert!(scan(CHAT, body).prompt_bytes > 350_000);
    }
}

#[test]
fn the_path_names_the_api_and_in_some_apis_the_model() {
    let cases = [
        ("/v1/chat/completions/", Api::Chat, None),
        ("/openai/v1/completions?a=b", Api::Completions, None),
        ("/v1/my-completions", Api::Other, None),
        ("/completions/x", Api::Other, None),
        ("/v1/responses/", Api::Responses, None),
        ("/v1/responses/resp_1", Api::Other, None),
        ("/v1/embeddings", Api::Embeddings, None),
        ("/anthropic/v1/messages?beta=true", Api::Messages, None),
        ("/v1/messages/count_tokens", Api::Other, None),
        ("/inference/v1/generate", Api::Generate, None),
        ("/generate", Api::Other, None),
        ("/v1/models", Api::Other, None),
        ("/v1/models/m", Api::Other, None),
        ("/v1/models//m/", Api::Other, None),
        ("/v1/models/m:predict?x=/y", Api::Other, Some("m")),
        ("/v2/models/m/versions/1/infer", Api::Other, Some("m")),
        (
            "/v2/models/org%2fm%zz%/generate",
            Api::Other,
            Some("org/m%zz%"),
        ),
        ("/v2/models/%ff/generate", Api::Other, None),
        (
            "/openai/deployments/d/embeddings",
            Api::Embeddings,
            Some("d"),
        ),
        ("", Api::Other, None),
    ];
    for (path, api, model) in cases {
        let request = Request::of_headers(path);
        assert_eq!(
            (request.api, request.model.as_deref()),
            (api, model),
            "{path}"
        );
    }
}

#[test]
fn a_header_names_the_model_where_nothing_else_does() {
    let unnamed = Request::of_headers(CHAT);
    assert_eq!(
        unnamed.clone().or_model(Some(" h ")).model.as_deref(),
        Some("h")
    );
    assert_eq!(unnamed.clone().or_model(Some(" ")).model, None);
    assert_eq!(unnamed.or_model(None).model, None);
    let named = Request::scan(CHAT, br#"{"model":"a"}"#);
    assert_eq!(named.or_model(Some("h")).model.as_deref(), Some("a"));
}

//! The model's name in a response that passes: put back where it stands, and nothing else changed.

use picker_core::response::Rename;
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use serde_json::{Value, json};

use crate::recorded::{cut, recorded};

/// The body as it goes on to the client, and which chunks changed.
fn passed<'a>(
    content_type: &str,
    model: &str,
    chunks: impl IntoIterator<Item = &'a [u8]>,
) -> (Vec<u8>, Vec<bool>) {
    let mut rename = Rename::new(model);
    rename.on_headers(content_type, None);
    let mut body = Vec::new();
    let mut changed = Vec::new();
    for chunk in chunks {
        let new = rename.pass(chunk);
        changed.push(new.is_some());
        body.extend(new.as_deref().unwrap_or(chunk));
    }
    (body, changed)
}

/// The body as it goes on, the same byte by byte and cut in two anywhere.
fn renamed(content_type: &str, model: &str, body: &str) -> String {
    let (whole, _) = passed(content_type, model, [body.as_bytes()]);
    let (bytes, _) = passed(content_type, model, body.as_bytes().chunks(1));
    assert_eq!(bytes, whole, "byte by byte");
    for at in 0..=body.len() {
        let (before, after) = body.as_bytes().split_at(at);
        let (cut, _) = passed(content_type, model, [before, after]);
        assert_eq!(cut, whole, "cut at {at}");
    }
    String::from_utf8(whole).expect("the body is text")
}

const JSON: &str = "application/json";
const EVENTS: &str = "text/event-stream; charset=utf-8";

#[test]
fn recorded_answers_change_in_the_name_alone() {
    for name in [
        "chat_lora_b.txt",
        "chat_stream_usage.txt",
        "completion_base.txt",
        "completion_stream_usage.txt",
        "messages.txt",
        "responses.txt",
        "responses_stream.txt",
    ] {
        let answer = recorded(name);
        let body = String::from_utf8(answer.body).expect("recorded bodies are text");
        let at = body.find("\"model\":\"").expect("the body names its model");
        let old = body[at..].split('"').nth(3).expect("a name");
        let expected = body.replace(
            &format!("\"model\":\"{old}\""),
            "\"model\":\"the client's \\\"name\\\"\"",
        );
        let result = renamed(&answer.content_type, "the client's \"name\"", &body);
        assert_eq!(result, expected, "{name}");
    }
}

#[test]
fn a_name_is_put_back_only_where_the_answer_says_its_model() {
    let same = [
        (
            JSON,
            r#"{"text":"\"model\":\"old\"","choices":[{"model":"old","message":{"model":"old"}}]}"#,
        ),
        (
            JSON,
            r#"{"model":null,"response":"model","message":["model","old"],"x":{"model":"old"}}"#,
        ),
        (
            JSON,
            r#"{"response":{"message":{"model":"old"},"tools":[{"model":"old"}]}}"#,
        ),
        (JSON, r#"[{"model":"old"}]"#),
        (
            EVENTS,
            "event: {\"model\":\"old\"}\nid:data:{\"model\":\"old\"}\n: data:{\"model\":\"old\"}\n",
        ),
        (
            EVENTS,
            "dat\na:{\"model\":\"old\"}\n\ndata: [DONE]\n\ndata\n",
        ),
        ("text/plain", r#"{"model":"old"}"#),
        ("", r#"{"model":"old"}"#),
    ];
    for (content_type, body) in same {
        assert_eq!(renamed(content_type, "new", body), body);
        let (_, changed) = passed(content_type, "new", body.as_bytes().chunks(3));
        assert!(!changed.contains(&true), "{body}");
    }
    let changes = [
        (
            JSON,
            "{ \"a\":1.0, \"model\" : \"old\" , \"b\":[]}",
            "{ \"a\":1.0, \"model\" : \"new\" , \"b\":[]}",
        ),
        (
            JSON,
            r#"{"message":{"model":"x","y":2},"model":""}"#,
            r#"{"message":{"model":"new","y":2},"model":"new"}"#,
        ),
        (
            JSON,
            r#"{"mod\u0065l":"a\"b\\"}"#,
            r#"{"mod\u0065l":"new"}"#,
        ),
        (
            EVENTS,
            "data:{\"model\":\"a\"}\r\n\r\ndata: {\"model\":\"b\"}\r",
            "data:{\"model\":\"new\"}\r\n\r\ndata: {\"model\":\"new\"}\r",
        ),
        (
            EVENTS,
            "data: {\"model\":\"bro\n\ndata: {\"model\":\"b\"}\n",
            "data: {\"model\":\"new\"\n\ndata: {\"model\":\"new\"}\n",
        ),
    ];
    for (content_type, body, expected) in changes {
        assert_eq!(renamed(content_type, "new", body), expected);
    }
}

#[test]
fn a_compressed_body_is_left_alone() {
    let body = br#"{"model":"old"}"#;
    for (coding, active) in [
        (Some("gzip"), false),
        (Some("br"), false),
        (Some("identity"), true),
        (None, true),
    ] {
        let mut rename = Rename::new("new");
        assert!(!rename.is_active(), "before the headers");
        rename.on_headers(JSON, coding);
        assert_eq!(rename.is_active(), active, "{coding:?}");
        assert_eq!(rename.pass(body).is_some(), active, "{coding:?}");
    }
}

#[test]
fn only_the_chunks_in_which_the_name_stands_are_copied() {
    let body = [r#"{"id":1,"#, r#""model":"o"#, "l", r#"d","x":2"#, "}"];
    let (_, changed) = passed(JSON, "new", body.map(str::as_bytes));
    assert_eq!(changed, [false, true, true, true, false]);
}

/// A part of an answer, with and without names.
fn part() -> impl Strategy<Value = Value> {
    let text = prop::sample::select(&["old", "\"model\":\"old\"", "\\", "{", "é\n", ""]);
    let leaf = prop_oneof![
        Just(json!(null)),
        any::<i32>().prop_map(Value::from),
        text.prop_map(Value::from)
    ];
    leaf.prop_recursive(4, 30, 5, |inner| {
        let key = prop::sample::select(&["model", "response", "message", "text", "\"", "usage"]);
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(key.prop_map(str::to_owned), inner, 0..5)
                .prop_map(|map| map.into_iter().collect()),
        ]
    })
}

/// Puts the name where it belongs, the slow and plain way.
fn put(value: &mut Value, model: &str) {
    let Value::Object(top) = value else { return };
    if let Some(old @ Value::String(_)) = top.get_mut("model") {
        *old = model.into();
    }
    for key in ["response", "message"] {
        if let Some(Value::Object(inner)) = top.get_mut(key)
            && let Some(old @ Value::String(_)) = inner.get_mut("model")
        {
            *old = model.into();
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        rng_seed: RngSeed::Fixed(0x706f_696e_7473),
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn any_answer_changes_in_the_name_alone_however_it_is_cut(
        mut answers in prop::collection::vec(part(), 1..5),
        events in any::<bool>(),
        model in any::<String>(),
        lengths in prop::collection::vec(0..30_usize, 0..30),
    ) {
        let text = |answers: &[Value]| -> String {
            if events {
                answers.iter().map(|data| format!("event: x\ndata: {data}\n\n")).collect()
            } else {
                answers[0].to_string()
            }
        };
        let content_type = if events { EVENTS } else { JSON };
        let body = text(&answers);
        let (result, _) = passed(content_type, &model, cut(body.as_bytes(), &lengths));
        answers.iter_mut().for_each(|answer| put(answer, &model));
        prop_assert_eq!(String::from_utf8(result), Ok(text(&answers)));
    }

    #[test]
    fn any_bytes_pass_the_same_however_they_are_cut(
        noise in prop::collection::vec(prop_oneof![
            any::<u8>(), prop::sample::select(b"{}[]\",:\\ \r\n\rdatamodel".as_slice()),
        ], 0..300),
        opening in prop::sample::select(&["", "{", "{\"model\":\"", "data:{\"message\":{", "data: {\"model\":\"a"]),
        content_type in prop::sample::select(&[JSON, EVENTS]),
        lengths in prop::collection::vec(0..30_usize, 0..30),
    ) {
        let body = [opening.as_bytes(), &noise].concat();
        let (whole, _) = passed(content_type, "new", [body.as_slice()]);
        let (pieces, _) = passed(content_type, "new", cut(&body, &lengths));
        prop_assert_eq!(pieces, whole);
    }
}

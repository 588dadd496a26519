//! Any JSON and any bytes, cut anywhere.

use picker_core::request::{Api, Body};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::frames::{CHAT, COMPLETIONS, EMBEDDINGS, GENERATE, MESSAGES, RESPONSES, cut, scan_of};
use crate::splices::spliced;

/// Any JSON value, with keys that mean something and text that looks like fields.
fn any_json() -> impl Strategy<Value = Value> {
    let text = prop::sample::select(&[
        "",
        "a",
        "model",
        "\"model\":\"x\"",
        "\\",
        "\\\"",
        "{[",
        "]}",
        "données 💡",
        "\u{0}\u{1f}",
        "data",
        "tab\tline\n",
    ]);
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (0..2_000_000_u32).prop_map(Value::from),
        any::<f32>().prop_map(Value::from),
        text.prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 60, 8, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..8).prop_map(Value::from),
            fields(inner),
        ]
    })
}

fn fields(value: impl Strategy<Value = Value>) -> impl Strategy<Value = Value> {
    let key = prop::sample::select(&[
        "model",
        "stream",
        "max_tokens",
        "n",
        "prompt",
        "messages",
        "input",
        "tools",
        "system",
        "token_ids",
        "other",
        "max_completion_tokens",
        "max_output_tokens",
        "sampling_params",
        "instructions",
        "data",
        "\"",
        "\\",
    ]);
    prop::collection::btree_map(key.prop_map(str::to_owned), value, 0..10)
        .prop_map(|map| map.into_iter().collect())
}

/// What a slow and plain reading finds in a valid body: model, stream, limit, sequences, bytes of the prompt.
fn expected(api: Api, body: &str) -> (Option<String>, bool, Option<u32>, u64) {
    let value: Value = serde_json::from_str(body).expect("the body is JSON");
    let whole = |value: &Value| value.as_u64().and_then(|number| u32::try_from(number).ok());
    let first = |keys: &[&str]| keys.iter().find_map(|key| whole(&value[key]));
    let (limit, parts): (_, &[&str]) = match api {
        Api::Completions => (first(&["max_tokens"]), &["prompt"]),
        Api::Chat => (
            first(&["max_completion_tokens", "max_tokens"]),
            &["messages", "tools"],
        ),
        Api::Responses => (
            first(&["max_output_tokens"]),
            &["input", "instructions", "tools"],
        ),
        Api::Embeddings => (Some(0), &["input", "messages"]),
        Api::Messages => (first(&["max_tokens"]), &["system", "messages", "tools"]),
        Api::Generate => (
            whole(&value["sampling_params"]["max_tokens"]),
            &["token_ids"],
        ),
        Api::Other => (first(&["max_completion_tokens", "max_tokens"]), &[]),
    };
    let raw: std::collections::BTreeMap<String, &RawValue> =
        serde_json::from_str(body).expect("the body is JSON");
    let found: Vec<_> = parts.iter().filter_map(|part| raw.get(*part)).collect();
    let bytes = found.iter().map(|raw| raw.get().len() as u64).sum();
    let model = value["model"].as_str().filter(|name| !name.is_empty());
    let streamed = value["stream"] == Value::Bool(true);
    let bytes = if found.is_empty() {
        body.len() as u64
    } else {
        bytes
    };
    (model.map(str::to_owned), streamed, limit, bytes)
}

const PATHS: [&str; 7] = [
    CHAT,
    COMPLETIONS,
    RESPONSES,
    EMBEDDINGS,
    MESSAGES,
    GENERATE,
    "/",
];

proptest! {
    #![proptest_config(ProptestConfig {
        rng_seed: RngSeed::Fixed(0x706f_696e_7473),
        failure_persistence: None,
        cases: 1_000,
        ..ProptestConfig::default()
    })]

    #[test]
    fn a_scan_finds_what_a_slow_reading_finds_however_the_body_is_cut(
        body in fields(any_json()),
        pretty in any::<bool>(),
        path in prop::sample::select(&PATHS),
        lengths in prop::collection::vec(0..40_usize, 0..20),
    ) {
        let body = if pretty { format!("{body:#}") } else { body.to_string() };
        let request = scan_of(path, cut(body.as_bytes(), &lengths)).request();
        prop_assert_eq!(request.body, Body::Read);
        let (model, streamed, limit, bytes) = expected(request.api, &body);
        prop_assert_eq!(request.model.as_deref(), model.as_deref());
        prop_assert_eq!(request.streamed, streamed);
        prop_assert_eq!(request.max_tokens, limit);
        if request.prompt_ids == 0 {
            prop_assert_eq!(request.prompt_bytes, bytes);
        }
        let broken_off = scan_of(path, [&body.as_bytes()[..body.len() - 1]]).request();
        prop_assert_eq!(broken_off.body, Body::Unreadable);
    }

    #[test]
    fn token_ids_are_counted_however_they_are_written(
        prompts in prop::collection::vec(prop::collection::vec(0..200_000_u32, 1..60), 1..6),
        pretty in any::<bool>(),
        lengths in prop::collection::vec(0..90_usize, 0..20),
    ) {
        let body = json!({"prompt": prompts, "input": prompts, "token_ids": prompts[0]});
        let body = if pretty { format!("{body:#}") } else { body.to_string() };
        let count = prompts.iter().map(Vec::len).sum::<usize>() as u64;
        for (path, ids, sequences) in [
            (COMPLETIONS, count, prompts.len() as u32),
            (EMBEDDINGS, count, 1),
            (GENERATE, prompts[0].len() as u64, 1),
        ] {
            let request = scan_of(path, cut(body.as_bytes(), &lengths)).request();
            prop_assert_eq!((request.prompt_ids, request.prompt_bytes), (ids, 0), "{}", path);
            prop_assert_eq!(request.sequences, sequences, "{}", path);
        }
    }

    #[test]
    fn a_splice_changes_the_model_and_nothing_else_however_the_body_is_cut(
        mut body in fields(any_json()),
        old in "[a-z\"\\\\é]{0,12}",
        new in any::<String>(),
        lengths in prop::collection::vec(0..40_usize, 0..20),
    ) {
        body["model"] = old.into();
        let text = body.to_string();
        let result = spliced(cut(text.as_bytes(), &lengths), &new);
        body["model"] = new.into();
        prop_assert_eq!(String::from_utf8(result), Ok(body.to_string()));
    }

    #[test]
    fn any_bytes_are_survived_and_read_the_same_however_they_are_cut(
        noise in prop::collection::vec(prop_oneof![
            any::<u8>(), prop::sample::select(br#"{}[]",:\ 0-tmodel"#.as_slice()),
        ], 0..300),
        opening in prop::sample::select(&["", "{", "{\"prompt\":", "{\"messages\":[", "{\"model\":\"a\","]),
        path in prop::sample::select(&PATHS),
        lengths in prop::collection::vec(0..40_usize, 0..20),
    ) {
        let body = [opening.as_bytes(), &noise].concat();
        let whole = scan_of(path, [body.as_slice()]);
        let pieces = scan_of(path, cut(&body, &lengths));
        prop_assert_eq!(pieces.request(), whole.request());
        prop_assert_eq!(pieces.request_so_far(Some(7)), whole.request_so_far(Some(7)));
        prop_assert_eq!(pieces.model_span(), whole.model_span());
        prop_assert_eq!(pieces.bytes(), body.len() as u64);
    }
}

//! Responses as they pass: recorded answers of vLLM, fed whole, byte by byte and cut anywhere.

use picker_core::response::{Response, Usage};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

use crate::recorded::{Recorded, recorded};

/// All that a response tells in the end.
#[derive(Clone, Debug, PartialEq)]
struct Outcome {
    streamed: bool,
    first_token: bool,
    tokens: u64,
    usage: Option<(u64, u64, Option<u64>)>,
    failure: Option<u16>,
}

fn outcome(response: &Response) -> Outcome {
    let usage = response.usage();
    Outcome {
        streamed: response.is_streamed(),
        first_token: response.first_token_seen(),
        tokens: response.tokens(),
        usage: usage.map(|u| (u.prompt_tokens, u.completion_tokens, u.cached_tokens)),
        failure: response.failure(),
    }
}

fn begun(answer: &Recorded) -> Response {
    let mut response = Response::new();
    response.on_headers(answer.status, &answer.content_type, None);
    response
}

fn fed<'a>(answer: &Recorded, chunks: impl IntoIterator<Item = &'a [u8]>) -> Outcome {
    let mut response = begun(answer);
    for chunk in chunks {
        response.on_body(chunk);
    }
    response.on_end();
    outcome(&response)
}

/// The outcome of a recorded answer, the same however it is cut in two, and byte by byte.
fn outcome_of(answer: &Recorded) -> Outcome {
    let whole = fed(answer, [answer.body.as_slice()]);
    assert_eq!(fed(answer, answer.body.chunks(1)), whole, "byte by byte");
    for cut in 0..=answer.body.len() {
        let (before, after) = answer.body.split_at(cut);
        assert_eq!(fed(answer, [before, after]), whole, "cut at {cut}");
    }
    whole
}

fn stream(tokens: u64, usage: Option<(u64, u64, Option<u64>)>) -> Outcome {
    Outcome {
        streamed: true,
        first_token: true,
        tokens,
        usage,
        failure: None,
    }
}

fn plain(usage: Option<(u64, u64, Option<u64>)>) -> Outcome {
    Outcome {
        streamed: false,
        first_token: false,
        tokens: usage.map_or(0, |(_, completion, _)| completion),
        usage,
        failure: None,
    }
}

#[test]
fn recorded_streams_tell_first_token_tokens_usage_and_end() {
    let cases = [
        ("chat_stream_usage.txt", stream(4, Some((132, 4, None)))),
        (
            "chat_stream_continuous_usage.txt",
            stream(3, Some((12, 3, None))),
        ),
        (
            "chat_stream_cached.txt",
            stream(2, Some((132, 2, Some(128)))),
        ),
        ("completion_stream_usage.txt", stream(3, Some((3, 3, None)))),
    ];
    for (name, expected) in cases {
        assert_eq!(outcome_of(&recorded(name)), expected, "{name}");
    }
}

#[test]
fn recorded_plain_answers_tell_usage_and_never_a_first_token() {
    let cases = [
        ("completion_base.txt", (121, 8, None)),
        ("completion_base_repeat.txt", (121, 8, None)),
        ("completion_lora_a.txt", (121, 8, None)),
        ("completion_orca_json.txt", (1, 3, None)),
        ("completion_salt.txt", (121, 8, None)),
        ("completion_cached.txt", (121, 2, Some(96))),
        ("chat_lora_b.txt", (132, 8, None)),
        ("chat_orca_text.txt", (12, 3, None)),
        ("responses.txt", (14, 4, Some(0))),
        ("messages.txt", (14, 4, None)),
    ];
    for (name, usage) in cases {
        assert_eq!(outcome_of(&recorded(name)), plain(Some(usage)), "{name}");
    }
}

#[test]
fn an_error_in_a_stream_is_a_failure_and_no_token() {
    let busy = Outcome {
        first_token: false,
        failure: Some(503),
        ..stream(0, None)
    };
    assert_eq!(outcome_of(&recorded("admission_in_stream.txt")), busy);
    let crashed = Outcome {
        failure: Some(500),
        ..stream(1, None)
    };
    assert_eq!(outcome_of(&recorded("engine_crash_in_stream.txt")), crashed);
}

#[test]
fn a_failed_response_tells_its_status_alone() {
    let answer = recorded("admission_503_stream.txt");
    assert_eq!(outcome_of(&answer), plain(None));
    assert_eq!(begun(&answer).status(), 503);

    let body = b"data: {\"choices\":[]}\n\n".to_vec();
    let content_type = "text/event-stream".to_owned();
    let failed_stream = Recorded {
        status: 500,
        content_type,
        body,
    };
    let told = outcome_of(&failed_stream);
    assert_eq!(
        (told.streamed, told.first_token, told.tokens),
        (true, false, 0)
    );
}

#[test]
fn the_responses_api_announces_itself_before_its_first_token() {
    let answer = recorded("responses_stream.txt");
    let told = outcome_of(&answer);
    assert_eq!((told.tokens, told.usage), (2, Some((14, 2, Some(0)))));
    assert!(told.first_token);

    let delta = memchr::memmem::find(&answer.body, b"event: response.output_text.delta");
    let (announced, rest) = answer.body.split_at(delta.expect("the stream has output"));
    let mut response = begun(&answer);
    response.on_body(announced);
    assert!(!response.first_token_seen());
    response.on_body(rest);
    assert!(response.first_token_seen());
}

/// A stream of Anthropic's messages as vLLM and others send it.
const MESSAGES: &str = r#"event: message_start
data: {"type":"message_start","message":{"id":"m","type":"message","role":"assistant","content":[],"model":"tiny","stop_reason":null,"usage":{"input_tokens":14,"cache_read_input_tokens":100,"output_tokens":1}}}

event: content_block_start
data: {"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}

event: ping
data: {"type":"ping"}

event: content_block_delta
data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"\"usage\":{}"}}

event: content_block_delta
data: {"type":"content_block_delta","index":0,"delta":{"type":"thinking_delta","thinking":"b"}}

event: content_block_stop
data: {"type":"content_block_stop","index":0}

event: message_delta
data: {"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":7}}

event: message_stop
data: {"type":"message_stop"}

"#;

#[test]
fn a_stream_of_messages_tells_first_token_tokens_and_usage_named_or_not() {
    let unnamed: Vec<_> = MESSAGES
        .lines()
        .filter(|line| !line.starts_with("event"))
        .collect();
    for body in [
        MESSAGES.to_owned(),
        unnamed.join("\n"),
        MESSAGES.replace('\n', "\r\n"),
    ] {
        let answer = Recorded {
            status: 200,
            content_type: "text/event-stream".to_owned(),
            body: body.into_bytes(),
        };
        assert_eq!(outcome_of(&answer), stream(7, Some((114, 7, Some(100)))));
        let told = |until: &[u8]| {
            let at = memchr::memmem::find(&answer.body, until).expect("the stream has it");
            let mut response = begun(&answer);
            response.on_body(&answer.body[..at]);
            (response.first_token_seen(), response.tokens())
        };
        assert_eq!(told(b"text_delta"), (false, 1));
        assert_eq!(told(b"thinking_delta"), (true, 2));
        assert_eq!(told(b"message_delta"), (true, 3));
    }
}

#[test]
fn failures_in_streams_of_each_api_tell_their_status() {
    let cases = [
        (
            r#"event: error
data: {"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}"#,
            529,
        ),
        (
            r#"data: {"type":"error","error":{"type":"internal_error","message":"x"}}"#,
            500,
        ),
        (
            r#"event: error
data: {"code":"rate_limit_exceeded","message":"x","param":null,"type":"error"}"#,
            429,
        ),
        (
            r#"event: response.failed
data: {"response":{"error":{"code":"server_error","message":"x"},"usage":null},"type":"response.failed"}"#,
            500,
        ),
        (
            r#"data: {"type":"response.failed","response":{"error":{"code":"invalid_prompt"}}}"#,
            400,
        ),
        ("event: error\ndata: broken", 500),
    ];
    for (event, status) in cases {
        let response = streamed(format!("{event}\n\n").as_bytes());
        assert_eq!(response.failure(), Some(status), "{event}");
        assert!(!response.first_token_seen(), "{event}");
    }
}

#[test]
fn events_that_only_begin_or_end_something_are_no_tokens() {
    for name in [
        "ping",
        "response.created",
        "response.in_progress",
        "response.queued",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.done",
        "response.content_part.done",
        "content_block_start",
        "content_block_stop",
        "message_stop",
        "response.completed",
        "message_start",
    ] {
        let named = streamed(format!("event: {name}\ndata: {{}}\n\n").as_bytes());
        let typed = streamed(format!("data: {{ \"type\" : \"{name}\"}}\n\n").as_bytes());
        for response in [named, typed] {
            assert_eq!(
                (response.first_token_seen(), response.tokens()),
                (false, 0),
                "{name}"
            );
        }
    }
    for name in [
        "response.output_text.delta",
        "response.reasoning_text.delta",
        "response.function_call_arguments.delta",
        "content_block_delta",
        "message",
        "chunk",
        "",
    ] {
        let response = streamed(format!("event:{name}\ndata: {{}}\n\n").as_bytes());
        assert_eq!(
            (response.first_token_seen(), response.tokens()),
            (true, 1),
            "{name}"
        );
    }
}

#[test]
fn an_answer_with_embeddings_tells_the_tokens_of_its_prompt() {
    let answer = Recorded {
        status: 200,
        content_type: "application/json".to_owned(),
        body: br#"{"object":"list","data":[{"embedding":[0.1,-2e-5]}],"usage":{"prompt_tokens":5,"total_tokens":5}}"#.to_vec(),
    };
    assert_eq!(outcome_of(&answer), plain(Some((5, 0, None))));
}

/// A successful stream of this body.
fn streamed(body: &[u8]) -> Response {
    let mut response = Response::new();
    response.on_headers(200, "text/event-stream", None);
    response.on_body(body);
    response
}

#[test]
fn the_first_token_comes_with_the_first_whole_event() {
    let mut response = streamed(b"");
    for quiet in [
        ": ping\n\n",
        "event: x\n",
        "data:\n",
        "data: [DONE]\n",
        "da",
        "ta:{\"id\"",
    ] {
        response.on_body(quiet.as_bytes());
        assert!(!response.first_token_seen(), "{quiet:?}");
    }
    response.on_body(b":1}\r");
    assert!(response.first_token_seen());
    assert_eq!(response.tokens(), 1);
    response.on_body(b"\n\r\ndata: {\"id\":2}\r\n\r\n");
    assert_eq!(response.tokens(), 2);
}

#[test]
fn an_event_without_its_line_end_counts_when_the_body_ends_and_once() {
    let mut response = streamed(b"data: {\"id\":1}");
    assert_eq!(response.tokens(), 0);
    response.on_end();
    response.on_end();
    assert_eq!(response.tokens(), 1);
}

#[test]
fn usage_corrects_the_count_of_events_and_later_events_add_to_it() {
    let mut response = streamed(b"data: {\"choices\":[1]}\n\ndata: {\"choices\":[1]}\n\n");
    assert_eq!((response.tokens(), response.usage()), (2, None));
    response.on_body(b"data: {\"usage\" : {\"prompt_tokens\":5,\"completion_tokens\":9}}\n\n");
    assert_eq!(response.tokens(), 9);
    response.on_body(b"data: {\"choices\":[1],\"usage\":null}\n\n");
    assert_eq!(response.tokens(), 10);
    let usage = Usage {
        prompt_tokens: 5,
        completion_tokens: 9,
        cached_tokens: None,
    };
    assert_eq!(response.usage(), Some(usage));
}

#[test]
fn usage_given_in_parts_is_put_together() {
    let mut response = streamed(b"data: {\"message\":{\"usage\":{\"input_tokens\":14}}}\n\n");
    response.on_body(b"data: {\"usage\":{\"output_tokens\":7}}\n\n");
    response.on_body(b"data: {\"usage\":{\"prompt_tokens_details\":null}}\n\n");
    let usage = Usage {
        prompt_tokens: 14,
        completion_tokens: 7,
        cached_tokens: None,
    };
    assert_eq!(response.usage(), Some(usage));
}

#[test]
fn text_that_looks_like_usage_or_an_error_is_neither() {
    for quoted in [
        r#"data: {"text":"\"usage\":{\"prompt_tokens\":1}"}"#,
        r#"data: {"usage":{"prompt_tokens":"many"}}"#,
        r#"data: {"usage":{"prompt_tokens":1"#,
        r#"data: {"usage":[1]}"#,
        r#"data: {"error":null,"choices":[]}"#,
        r#"data: {"text":"{\"error\":1}"}"#,
    ] {
        let mut response = streamed(quoted.as_bytes());
        response.on_end();
        assert_eq!(
            (response.usage(), response.failure()),
            (None, None),
            "{quoted}"
        );
        assert_eq!(response.tokens(), 1, "{quoted}");
    }
}

#[test]
fn an_error_that_names_no_status_is_a_500() {
    for line in [
        "data: { \"error\" : \"out of memory\"}\n",
        "data:{\"error\":{\"code\":\"rate_limit\"}}\n",
        "data: {\"error\":{\"code\":99999}}\n",
        "data: {\"error\":{\"mess\n",
    ] {
        let response = streamed(line.as_bytes());
        assert_eq!(response.failure(), Some(500), "{line}");
        assert!(!response.first_token_seen(), "{line}");
    }
    let mut response = streamed(b"data: {\"error\":{\"code\":503}}\n");
    response.on_body(b"data: {\"error\":{\"code\":500}}\n");
    assert_eq!(response.failure(), Some(503), "the first one");
}

#[test]
fn content_types_and_codings_are_read_without_regard_to_case() {
    let cases = [
        ("text/event-stream", None, true, true),
        ("Text/Event-Stream ; charset=utf-8", None, true, true),
        ("text/event-stream", Some("Identity"), true, true),
        ("text/event-stream", Some("gzip"), true, false),
        ("text/event-streams", None, false, false),
        ("text/plain", None, false, false),
        ("", None, false, false),
    ];
    for (content_type, coding, streamed, read) in cases {
        let mut response = Response::new();
        response.on_headers(200, content_type, coding);
        response.on_body(b"data: {\"id\":1}\n");
        response.on_end();
        assert_eq!(
            response.is_streamed(),
            streamed,
            "{content_type} {coding:?}"
        );
        assert_eq!(
            response.first_token_seen(),
            read,
            "{content_type} {coding:?}"
        );
    }
}

#[test]
fn lines_of_64_kb_are_read_and_longer_ones_skipped_however_they_are_cut() {
    let event = |bytes: usize| format!("data: {}\n", "x".repeat(bytes - "data: ".len()));
    let limit = 64 * 1024;
    let body = [event(limit), event(limit + 1), event(3 * limit), event(10)].concat();
    for chunk_bytes in [1, 1000, limit, limit + 1, 2 * limit, body.len()] {
        let mut response = streamed(b"");
        for chunk in body.as_bytes().chunks(chunk_bytes) {
            response.on_body(chunk);
        }
        assert_eq!(response.tokens(), 2, "chunks of {chunk_bytes}");
    }
    let mut unfinished = streamed(event(2 * limit).trim_end().as_bytes());
    unfinished.on_end();
    assert_eq!(unfinished.tokens(), 0);
}

#[test]
fn the_usage_of_a_plain_answer_is_found_in_its_last_8_kb() {
    let usage = "\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":2}";
    let cases = [
        (0, 0, true),
        (100_000, 0, true),
        (100_000, 8_000, true),
        (0, 9_000, false),
    ];
    for (before, after, found) in cases {
        let (before, after) = ("x".repeat(before), "y".repeat(after));
        let body = format!("{{\"text\":\"{before}\",{usage},\"ids\":\"{after}\"}}");
        for chunk_bytes in [1, 100, 5_000, 8_192, 20_000, body.len()] {
            let mut response = Response::new();
            response.on_headers(200, "application/json", None);
            for chunk in body.as_bytes().chunks(chunk_bytes) {
                response.on_body(chunk);
            }
            response.on_end();
            assert_eq!(response.usage().is_some(), found, "chunks of {chunk_bytes}");
        }
    }
}

const STREAMS: [&str; 5] = [
    "chat_stream_usage.txt",
    "chat_stream_continuous_usage.txt",
    "admission_in_stream.txt",
    "engine_crash_in_stream.txt",
    "responses_stream.txt",
];

proptest! {
    #![proptest_config(ProptestConfig {
        rng_seed: RngSeed::Fixed(0x706f_696e_7473),
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn cuts_anywhere_and_crlf_change_nothing(
        name in prop::sample::select(&STREAMS),
        crlf in any::<bool>(),
        lengths in prop::collection::vec(0..200_usize, 1..100),
    ) {
        let mut answer = recorded(name);
        let expected = fed(&answer, [answer.body.as_slice()]);
        if crlf {
            let text = String::from_utf8(answer.body).expect("recorded bodies are text");
            answer.body = text.replace('\n', "\r\n").into_bytes();
        }
        let mut rest = answer.body.as_slice();
        let mut chunks = Vec::new();
        for length in lengths.into_iter().cycle().take(5_000) {
            let (chunk, after) = rest.split_at(length.min(rest.len()));
            chunks.push(chunk);
            rest = after;
        }
        chunks.push(rest);
        prop_assert_eq!(fed(&answer, chunks), expected);
    }

    #[test]
    fn any_bytes_are_survived_and_do_not_hide_a_good_event(
        noise in prop::collection::vec(any::<u8>(), 0..300),
        cut in 0..300_usize,
        status in any::<u16>(),
    ) {
        let (before, after) = noise.split_at(cut.min(noise.len()));
        let mut response = streamed(before);
        response.on_body(after);
        response.on_body(b"\ndata: {\"usage\":{\"completion_tokens\":3}}\n");
        prop_assert_eq!(response.tokens(), 3);

        let mut any_kind = Response::new();
        any_kind.on_headers(status, &String::from_utf8_lossy(before), None);
        any_kind.on_body(&noise);
        any_kind.on_end();
        let success = (200..300).contains(&status);
        prop_assert!(success || (any_kind.tokens(), any_kind.usage()) == (0, None));
    }
}

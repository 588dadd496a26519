//! Exchanges as transcripts: messages in, messages out.

use std::collections::HashMap;
use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::{HeaderMap, HeaderValue};
use envoy_types::pb::envoy::service::ext_proc::v3::HttpTrailers;
use envoy_types::pb::envoy::service::ext_proc::v3::body_mutation::Mutation;
use envoy_types::pb::envoy::service::ext_proc::v3::processing_response::Response as Answer;
use envoy_types::pb::google::protobuf::value::Kind;
use envoy_types::pb::google::protobuf::{ListValue, Struct, Value};
use picker_core::Settings;
use picker_core::endpoint::Endpoint;
use picker_core::receipt::End;
use picker_core::route::PoolKey;
use prometheus_client::registry::Registry;

use super::*;
use crate::driver::{DriverMetrics, PoolSpec};

/// The most bytes of a body that are held.
const BODY_LIMIT: usize = 200_000;

/// One exchange with a picker of one pool, `ai/chat`, that has these endpoints.
struct Scene {
    pools: Arc<Pools>,
    exchange: Exchange,
    /// The answers so far, a line each.
    lines: Vec<String>,
}

impl Scene {
    fn with(addresses: &[&str]) -> Self {
        let settings = Settings {
            seed: 1,
            reading_interval_min: Duration::from_millis(50),
        };
        let metrics = DriverMetrics::register(&mut Registry::default());
        let (pools, _errands) = Pools::new(settings, 1 << 20, metrics);
        let endpoint = |address: &&str| Endpoint {
            identity: (*address).into(),
            name: (*address).into(),
            address: address.parse().expect("an address"),
        };
        let endpoints = addresses.iter().map(endpoint).collect();
        let spec = PoolSpec {
            endpoints,
            ..PoolSpec::default()
        };
        pools.replace(vec![(PoolKey::new("ai", "chat"), spec)]);
        let exchange = Exchange::new(pools.clone(), Caller::default(), BODY_LIMIT);
        Self {
            pools,
            exchange,
            lines: Vec::new(),
        }
    }

    fn send(&mut self, message: ProcessingRequest) -> &mut Self {
        self.send_at(1, message)
    }

    fn send_at(&mut self, ms: u64, message: ProcessingRequest) -> &mut Self {
        let mut answers = Answers::new();
        self.exchange
            .on_message(Instant::from_millis(ms), message, &mut answers);
        self.lines.extend(answers.iter().map(line));
        self
    }

    fn answers(&mut self, expected: &[&str]) -> &mut Self {
        assert_eq!(std::mem::take(&mut self.lines), expected);
        self
    }

    fn in_flight(&self) -> usize {
        self.pools.all()[0].in_flight()
    }
}

/// An answer in one line: what it answers, and what it says.
fn line(answer: &ProcessingResponse) -> String {
    let frame = |common: Option<&envoy_types::pb::envoy::service::ext_proc::v3::CommonResponse>| {
        match common.and_then(|common| common.body_mutation.as_ref()?.mutation.as_ref()) {
            Some(Mutation::StreamedResponse(frame)) => {
                format!(
                    "{} bytes{}",
                    frame.body.len(),
                    if frame.end_of_stream { ", end" } else { "" }
                )
            }
            _ => "untouched".to_owned(),
        }
    };
    match answer.response.as_ref().expect("an answer") {
        Answer::RequestHeaders(headers) => {
            let mutation = headers
                .response
                .as_ref()
                .and_then(|one| one.header_mutation.as_ref());
            let set = mutation
                .expect("a mutation")
                .set_headers
                .iter()
                .map(|option| {
                    let header = option.header.as_ref().expect("a header");
                    assert!(header.value.is_empty(), "proxies read raw_value");
                    format!(
                        "{}={}",
                        header.key,
                        String::from_utf8_lossy(&header.raw_value)
                    )
                });
            let lb = &answer.dynamic_metadata.as_ref().expect("metadata").fields["envoy.lb"];
            let Some(Kind::StructValue(lb)) = &lb.kind else {
                panic!("a struct")
            };
            let to = &lb.fields["x-gateway-destination-endpoint"];
            let Some(Kind::StringValue(to)) = &to.kind else {
                panic!("a string")
            };
            format!(
                "request headers: {} metadata {to}",
                set.collect::<Vec<_>>().join(" ")
            )
        }
        Answer::RequestBody(body) => format!("request body: {}", frame(body.response.as_ref())),
        Answer::RequestTrailers(_) => "request trailers".to_owned(),
        Answer::ResponseHeaders(_) => "response headers".to_owned(),
        Answer::ResponseBody(body) => format!("response body: {}", frame(body.response.as_ref())),
        Answer::ResponseTrailers(_) => "response trailers".to_owned(),
        Answer::ImmediateResponse(answer) => {
            let status = answer.status.as_ref().map_or(0, |status| status.code);
            format!(
                "immediate {status}: {}",
                String::from_utf8_lossy(&answer.body)
            )
        }
        other => panic!("an answer of another kind: {other:?}"),
    }
}

fn headers(pairs: &[(&str, &str)], end_of_stream: bool) -> HttpHeaders {
    let header = |(key, value): &(&str, &str)| HeaderValue {
        key: (*key).into(),
        raw_value: value.as_bytes().to_vec(),
        ..Default::default()
    };
    HttpHeaders {
        headers: Some(HeaderMap {
            headers: pairs.iter().map(header).collect(),
        }),
        end_of_stream,
        ..Default::default()
    }
}

fn message(part: Part) -> ProcessingRequest {
    ProcessingRequest {
        request: Some(part),
        ..Default::default()
    }
}

fn request_headers(end_of_stream: bool) -> ProcessingRequest {
    let pairs = [(":path", "/v1/completions"), ("x-request-id", "r1")];
    message(Part::RequestHeaders(headers(&pairs, end_of_stream)))
}

fn request_body(body: &[u8], end_of_stream: bool) -> ProcessingRequest {
    message(Part::RequestBody(HttpBody {
        body: body.into(),
        end_of_stream,
        ..Default::default()
    }))
}

fn response_headers(status: &str, kind: &str) -> ProcessingRequest {
    let pairs = [(":status", status), ("content-type", kind)];
    message(Part::ResponseHeaders(headers(&pairs, false)))
}

fn response_body(body: &[u8], end_of_stream: bool) -> ProcessingRequest {
    message(Part::ResponseBody(HttpBody {
        body: body.into(),
        end_of_stream,
        ..Default::default()
    }))
}

const PICKED: &str =
    "request headers: x-gateway-destination-endpoint=10.0.0.1:8000 metadata 10.0.0.1:8000";

#[test]
fn the_headers_are_answered_once_the_body_is_whole_and_frames_come_back_as_they_came() {
    let mut scene = Scene::with(&["10.0.0.1:8000"]);
    scene.send(request_headers(false)).answers(&[]);
    scene
        .send(request_body(b"{\"model\":\"a\",", false))
        .answers(&[]);
    scene
        .send(request_body(b"\"prompt\":\"x\"}", false))
        .answers(&[]);
    scene.send(request_body(b"", true)).answers(&[
        PICKED,
        "request body: 13 bytes",
        "request body: 13 bytes, end",
    ]);
    let receipt = scene.pools.receipts().get("r1").expect("a receipt").receipt;
    assert_eq!(receipt.request.model.as_deref(), Some("a"));
    assert_eq!(scene.in_flight(), 1);
}

#[test]
fn only_a_frame_over_62000_bytes_is_cut() {
    let mut scene = Scene::with(&["10.0.0.1:8000"]);
    scene
        .send(request_headers(false))
        .send(request_body(&[b'x'; 62_000], false));
    scene.send(request_body(&[b'x'; 124_001], true)).answers(&[
        PICKED,
        "request body: 62000 bytes",
        "request body: 62000 bytes",
        "request body: 62000 bytes",
        "request body: 1 bytes, end",
    ]);
}

#[test]
fn a_body_over_the_limit_is_picked_by_its_beginning_and_the_rest_passes() {
    let mut scene = Scene::with(&["10.0.0.1:8000"]);
    scene.send(request_headers(false));
    let mut beginning = b"{\"model\":\"a\",\"prompt\":\"".to_vec();
    beginning.resize(BODY_LIMIT / 4, b'x');
    for _ in 0..4 {
        scene.send(request_body(&beginning, false)).answers(&[]);
    }
    scene.send(request_body(b"x", false)).answers(&[
        PICKED,
        "request body: 50000 bytes",
        "request body: 50000 bytes",
        "request body: 50000 bytes",
        "request body: 50000 bytes",
        "request body: 1 bytes",
    ]);
    scene
        .send(request_body(b"more", false))
        .answers(&["request body: 4 bytes"]);
    scene
        .send(request_body(b"\"}", true))
        .answers(&["request body: 2 bytes, end"]);
    scene.send(request_body(b"", true)).answers(&[]);
    assert_eq!(scene.in_flight(), 1);
    let receipt = scene.pools.receipts().get("r1").expect("a receipt").receipt;
    assert_eq!(receipt.request.model.as_deref(), Some("a"));
    assert_eq!(receipt.request.prompt_bytes, BODY_LIMIT as u64 + 1);
}

#[test]
fn trailers_end_a_body_over_the_limit_too() {
    let mut scene = Scene::with(&["10.0.0.1:8000"]);
    scene
        .send(request_headers(false))
        .send(request_body(&[b'x'; BODY_LIMIT + 1], false));
    scene.lines.clear();
    scene
        .send(request_body(b"x", false))
        .answers(&["request body: 1 bytes"]);
    scene.send(message(Part::RequestTrailers(HttpTrailers::default())));
    scene.answers(&["request trailers"]);
}

#[test]
fn an_empty_body_comes_back_as_one_empty_last_frame() {
    let mut scene = Scene::with(&["10.0.0.1:8000"]);
    scene
        .send(request_headers(false))
        .send(request_body(b"", true));
    scene.answers(&[PICKED, "request body: 0 bytes, end"]);
}

#[test]
fn trailers_end_the_body_and_no_frame_before_them_is_the_last() {
    let mut scene = Scene::with(&["10.0.0.1:8000"]);
    scene
        .send(request_headers(false))
        .send(request_body(b"{}", false));
    scene.send(message(Part::RequestTrailers(HttpTrailers::default())));
    scene.answers(&[PICKED, "request body: 2 bytes", "request trailers"]);
}

#[test]
fn a_request_without_body_is_picked_on_its_headers() {
    let mut scene = Scene::with(&["10.0.0.1:8000"]);
    scene.send(request_headers(true)).answers(&[PICKED]);
}

#[test]
fn a_proxy_that_sends_no_body_is_answered_on_the_headers() {
    let mut scene = Scene::with(&["10.0.0.1:8000"]);
    let config = ProtocolConfiguration::default();
    scene.send(ProcessingRequest {
        protocol_config: Some(config),
        ..request_headers(false)
    });
    scene.answers(&[PICKED]);
    scene
        .send(request_body(b"{}", true))
        .answers(&["request body: untouched"]);
}

#[test]
fn a_request_without_an_id_gets_one() {
    let mut scene = Scene::with(&["10.0.0.1:8000"]);
    scene.send(message(Part::RequestHeaders(headers(
        &[(":path", "/")],
        true,
    ))));
    let id = scene.lines[0]
        .split("x-request-id=")
        .nth(1)
        .and_then(|rest| rest.split(' ').next());
    assert!(scene.pools.receipts().get(id.expect("an id")).is_some());
}

#[test]
fn a_second_end_of_the_request_changes_nothing() {
    let mut scene = Scene::with(&["10.0.0.1:8000"]);
    scene
        .send(request_headers(false))
        .send(request_body(b"{}", true))
        .lines
        .clear();
    scene.send(request_body(b"", true)).answers(&[]);
    assert_eq!(scene.in_flight(), 1);
}

#[test]
fn a_response_passes_as_it_comes_and_its_end_ends_the_flight() {
    let mut scene = Scene::with(&["10.0.0.1:8000"]);
    scene.send(request_headers(true)).lines.clear();
    scene
        .send(response_headers("200", "text/event-stream"))
        .answers(&["response headers"]);
    let event = b"data: {\"choices\":[{\"text\":\"x\"}]}\n\n";
    scene
        .send(response_body(event, false))
        .answers(&["response body: 34 bytes"]);
    let end = b"data: {\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":9}}\n\n";
    scene
        .send(response_body(end, true))
        .answers(&["response body: 59 bytes, end"]);
    assert_eq!(scene.in_flight(), 0);
    let outcome = scene
        .pools
        .receipts()
        .get("r1")
        .and_then(|stored| stored.receipt.outcome);
    let outcome = outcome.expect("an outcome");
    assert_eq!((outcome.end, outcome.status), (End::Completed, Some(200)));
    assert_eq!(
        (outcome.prompt_tokens, outcome.generated),
        (Some(3), Some(9))
    );
    assert!(outcome.ttft_ms.is_some());
}

#[test]
fn chunks_are_told_of_every_quarter_of_a_second_and_never_each() {
    let mut scene = Scene::with(&["10.0.0.1:8000"]);
    scene
        .send(request_headers(true))
        .send(response_headers("200", "text/event-stream"));
    let event = b"data: {\"choices\":[{\"text\":\"x\"}]}\n\n";
    let left = |scene: &Scene| scene.pools.all()[0].endpoints()[0].own.decode_tokens;
    let begun = left(&scene);
    for ms in 1..=250 {
        scene.send_at(ms, response_body(event, false));
        assert_eq!(left(&scene), begun, "at {ms} ms");
    }
    scene.send_at(251, response_body(event, false));
    assert_eq!(left(&scene), begun - 251);
}

#[test]
fn trailers_after_the_end_of_a_response_are_answered_and_count_once() {
    let mut scene = Scene::with(&["10.0.0.1:8000"]);
    scene
        .send(request_headers(true))
        .send(response_headers("200", "application/json"));
    scene.send(response_body(b"{}", true)).lines.clear();
    scene.send(message(Part::ResponseTrailers(HttpTrailers::default())));
    scene.answers(&["response trailers"]);
    assert_eq!(scene.in_flight(), 0);
}

#[test]
fn a_stream_that_is_dropped_frees_what_was_booked() {
    let mut scene = Scene::with(&["10.0.0.1:8000"]);
    scene
        .send(request_headers(true))
        .send(response_headers("200", "text/event-stream"));
    let Scene {
        pools, exchange, ..
    } = scene;
    drop(exchange);
    assert_eq!(pools.all()[0].in_flight(), 0);
    let outcome = pools
        .receipts()
        .get("r1")
        .and_then(|stored| stored.receipt.outcome);
    assert_eq!(outcome.map(|outcome| outcome.end), Some(End::Abandoned));
}

#[test]
fn a_stream_may_begin_with_the_response() {
    let mut scene = Scene::with(&["10.0.0.1:8000"]);
    scene
        .send(response_headers("200", "application/json"))
        .send(response_body(b"{}", true));
    scene.answers(&["response headers", "response body: 2 bytes, end"]);
}

#[test]
fn without_endpoints_the_answer_is_503_and_says_why() {
    let mut scene = Scene::with(&[]);
    scene
        .send(request_headers(false))
        .send(request_body(b"{}", true));
    let expected = "immediate 503: {\"error\":{\"code\":503,\"message\":\"InferencePool ai/chat has no endpoints: \
        no model server is known that could serve this request; check the pool's endpoints file or selector\",\
        \"param\":null,\"reason\":\"rejected-no-endpoints\",\"type\":\"ServiceUnavailableError\"}}";
    scene.answers(&[expected]);
    scene.send(request_body(b"late", true)).answers(&[]);
}

#[test]
fn the_subset_hint_is_kept_to_whichever_message_carries_it() {
    let hint = |tokens: &[&str]| {
        let value = |token: &&str| Value {
            kind: Some(Kind::StringValue((*token).into())),
        };
        let list = ListValue {
            values: tokens.iter().map(value).collect(),
        };
        let list = Value {
            kind: Some(Kind::ListValue(list)),
        };
        let key = "x-gateway-destination-endpoint-subset".to_owned();
        let fields = Struct {
            fields: HashMap::from([(key, list)]),
        };
        let filter_metadata = HashMap::from([("envoy.lb.subset_hint".to_owned(), fields)]);
        Some(Metadata {
            filter_metadata,
            ..Default::default()
        })
    };
    let two = ["10.0.0.1:8000", "10.0.0.2:8000"];
    let second = PICKED.replace("10.0.0.1", "10.0.0.2");

    let mut scene = Scene::with(&two);
    let metadata_context = hint(&["10.0.0.2:8000"]);
    scene.send(ProcessingRequest {
        metadata_context,
        ..request_headers(true)
    });
    scene.answers(&[&second]);

    let mut scene = Scene::with(&two);
    let metadata_context = hint(&["10.0.0.2"]);
    scene.send(request_headers(false));
    scene.send(ProcessingRequest {
        metadata_context,
        ..request_body(b"{}", true)
    });
    scene.answers(&[&second, "request body: 2 bytes, end"]);

    let mut scene = Scene::with(&two);
    scene.send(ProcessingRequest {
        metadata_context: hint(&[]),
        ..request_headers(true)
    });
    assert!(
        scene.lines[0].starts_with("immediate 503"),
        "{:?}",
        scene.lines
    );
}

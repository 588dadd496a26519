//! Any messages of a proxy on one gRPC stream, through the service as it is served: nothing panics, waits for ever or stays booked.

#![no_main]

use std::convert::Infallible;
use std::time::Duration;

use arbitrary::Arbitrary;
use bytes::{BufMut, Bytes, BytesMut};
use envoy_types::pb::envoy::config::core::v3::{HeaderMap, HeaderValue};
use envoy_types::pb::envoy::service::ext_proc::v3::processing_request::Request as Part;
use envoy_types::pb::envoy::service::ext_proc::v3::{
    HttpBody, HttpHeaders, HttpTrailers, ProcessingRequest, ProtocolConfiguration,
};
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use libfuzzer_sys::fuzz_target;
use picker::driver::{DriverMetrics, Filter, PoolSpec, Pools};
use picker::extproc::{Edge, EdgeMetrics, EdgeSettings, Trust};
use picker_core::Settings;
use picker_core::endpoint::Endpoint;
use picker_core::engine::Engine;
use picker_core::event::Following;
use picker_core::route::PoolKey;
use picker_core::route::object::Metadata;
use picker_core::view::PoolRef;
use picker_core::view::rewrite::{
    ModelMatch, Rewrite, RewriteMatch, RewriteRule, RewriteSpec, RewriteTarget,
};
use prometheus_client::registry::Registry;
use prost::Message as _;
use tokio_util::sync::CancellationToken;
use tonic::codegen::Service;

#[derive(Arbitrary, Debug)]
struct Call {
    follow: u8,
    may_ask: bool,
    trusted: bool,
    endpoints: u8,
    modes: Option<(u8, u8)>,
    steps: Vec<Step>,
}

#[derive(Arbitrary, Debug)]
enum Step {
    RequestHeaders(Vec<(u8, String)>, bool),
    RequestBody(Vec<u8>, bool),
    /// A piece of a body that names a model which is rewritten.
    RequestModel(bool),
    RequestTrailers,
    ResponseHeaders(u16, u8, bool),
    ResponseBody(Vec<u8>, bool),
    /// A piece of a body that names the model which was asked for.
    ResponseModel(bool),
    ResponseTrailers,
    /// Bytes that are no message, or one of any kind.
    Raw(Vec<u8>),
    Silence(u16),
}

const HEADERS: [&str; 10] = [
    ":path",
    ":method",
    ":authority",
    "x-request-id",
    "content-type",
    "content-length",
    "x-gateway-destination-endpoint-subset",
    "x-llm-d-inference-objective",
    "x-llm-d-model-name-rewrite",
    "x-gateway-model-name",
];
const TYPES: [&str; 3] = ["application/json", "text/event-stream", ""];

fuzz_target!(|call: Call| {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build();
    runtime.expect("a runtime").block_on(run(call));
});

async fn run(call: Call) {
    let mut registry = Registry::default();
    let settings = Settings {
        seed: 1,
        reading_interval_min: Duration::from_millis(50),
    };
    let metrics = DriverMetrics::register(&mut registry);
    let (pools, _errands) = Pools::new(settings, 1 << 16, metrics);
    let pool = PoolKey::new("ai", "chat");
    pools.replace(vec![(pool.clone(), spec(call.endpoints % 4))]);
    let settings = EdgeSettings {
        body_limit: 3_000,
        bodies_limit: 4_000,
        body_wait: Duration::from_secs(10),
        pick_budget: Duration::from_millis(50),
        trust: Trust {
            headers: call.trusted,
            test_selection: false,
        },
        fallbacks: 1,
        catalogue: true,
        ask_for_body: false,
    };
    let metrics = EdgeMetrics::register(&mut registry);
    let edge = Edge::new(pools.clone(), settings, metrics, CancellationToken::new());
    let answered = edge.service().call(request(call)).await;
    let mut body = answered.expect("no call fails").into_body();
    let all = async { while let Some(Ok(_)) = body.frame().await {} };
    let done = tokio::time::timeout(Duration::from_secs(86_400), all).await;
    done.expect("every stream ends once its messages have");
    drop(body);
    let now = pools.clock().now();
    let latest = pools.receipts().list(now, &Filter::default(), 1);
    let released = latest.iter().any(|it| it.receipt.following == Some(Following::Released));
    let in_flight = pools.get(&pool).expect("it is there").in_flight();
    assert!(in_flight <= usize::from(released), "{in_flight} are in flight");
    assert_eq!(edge.inflight().count(), 0);
}

fn spec(endpoints: u8) -> PoolSpec {
    let endpoint = |number: u8| Endpoint {
        identity: number.to_string().into(),
        name: number.to_string().into(),
        address: ([10, 0, 0, number], 8000).into(),
        engine: Engine::vllm(),
    };
    PoolSpec {
        endpoints: (0..endpoints).map(endpoint).collect(),
        rewrites: vec![rewrite()],
        ..PoolSpec::default()
    }
}

/// Requests for `m` get a model with a longer name.
fn rewrite() -> Rewrite {
    Rewrite {
        metadata: Metadata {
            name: "canary".into(),
            namespace: "ai".into(),
            ..Metadata::default()
        },
        spec: RewriteSpec {
            pool_ref: PoolRef {
                group: "inference.networking.k8s.io".into(),
                kind: "InferencePool".into(),
                name: "chat".into(),
            },
            rules: vec![RewriteRule {
                matches: vec![RewriteMatch {
                    model: ModelMatch { value: "m".into() },
                }],
                targets: vec![RewriteTarget {
                    model_rewrite: "longer".into(),
                    weight: None,
                }],
            }],
        },
    }
}

type Frames = BoxStream<'static, Result<Frame<Bytes>, Infallible>>;

/// The call as it comes in over HTTP/2.
fn request(call: Call) -> http::Request<StreamBody<Frames>> {
    let mut request = http::Request::builder()
        .method("POST")
        .uri("http://picker/envoy.service.ext_proc.v3.ExternalProcessor/Process")
        .header("content-type", "application/grpc");
    let follows = [None, Some("full"), Some("watched"), Some("released")];
    if let Some(follow) = follows[usize::from(call.follow) % follows.len()] {
        request = request.header("x-pointsman-follow", follow);
    }
    if call.may_ask {
        request = request.header("x-pointsman-body", "ask");
    }
    let mut modes = call.modes;
    let frames = stream::iter(call.steps).then(move |step| {
        let modes = modes.take();
        async move { Ok(Frame::data(framed(step, modes).await)) }
    });
    request
        .body(StreamBody::new(frames.boxed()))
        .expect("a request")
}

/// A step as a message of gRPC; silence is none.
async fn framed(step: Step, modes: Option<(u8, u8)>) -> Bytes {
    let bytes = match step {
        Step::Silence(ms) => {
            tokio::time::sleep(Duration::from_millis(ms.into())).await;
            return Bytes::new();
        }
        Step::Raw(bytes) => bytes,
        said => message(said, modes).encode_to_vec(),
    };
    let mut frame = BytesMut::with_capacity(5 + bytes.len());
    frame.put_u8(0);
    frame.put_u32(bytes.len() as u32);
    frame.put_slice(&bytes);
    frame.freeze()
}

fn message(step: Step, modes: Option<(u8, u8)>) -> ProcessingRequest {
    let body = |body: Vec<u8>, end_of_stream| HttpBody {
        body,
        end_of_stream,
        ..HttpBody::default()
    };
    let part = match step {
        Step::RequestHeaders(pairs, end) => {
            let pairs = pairs.into_iter();
            let named = pairs.map(|(name, value)| (HEADERS[usize::from(name) % HEADERS.len()], value));
            Some(Part::RequestHeaders(headers(named, end)))
        }
        Step::RequestBody(bytes, end) => Some(Part::RequestBody(body(bytes, end))),
        Step::RequestModel(end) => {
            Some(Part::RequestBody(body(b"{\"model\":\"m\"}".to_vec(), end)))
        }
        Step::RequestTrailers => Some(Part::RequestTrailers(HttpTrailers::default())),
        Step::ResponseHeaders(status, kind, end) => {
            let kind = TYPES[usize::from(kind) % TYPES.len()];
            let pairs = [(":status", status.to_string()), ("content-type", kind.to_owned())];
            Some(Part::ResponseHeaders(headers(pairs.into_iter(), end)))
        }
        Step::ResponseBody(bytes, end) => Some(Part::ResponseBody(body(bytes, end))),
        Step::ResponseModel(end) => {
            let event = b"data: {\"model\":\"longer\"}\n\n".to_vec();
            Some(Part::ResponseBody(body(event, end)))
        }
        Step::ResponseTrailers => Some(Part::ResponseTrailers(HttpTrailers::default())),
        Step::Raw(_) | Step::Silence(_) => None,
    };
    ProcessingRequest {
        request: part,
        protocol_config: modes.map(|(request, response)| ProtocolConfiguration {
            request_body_mode: i32::from(request % 8) - 1,
            response_body_mode: i32::from(response % 8) - 1,
            send_body_without_waiting_for_header_response: false,
        }),
        ..ProcessingRequest::default()
    }
}

fn headers(pairs: impl Iterator<Item = (&'static str, String)>, end_of_stream: bool) -> HttpHeaders {
    let header = |(key, value): (&str, String)| HeaderValue {
        key: key.to_owned(),
        raw_value: value.into_bytes(),
        ..HeaderValue::default()
    };
    HttpHeaders {
        headers: Some(HeaderMap {
            headers: pairs.map(header).collect(),
        }),
        end_of_stream,
        ..HttpHeaders::default()
    }
}

//! Runs the transcripts of `picker/tests/transcripts`: messages in, messages out, and what is known then.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use envoy_types::pb::envoy::service::ext_proc::v3::processing_request::Request as Part;
use envoy_types::pb::envoy::service::ext_proc::v3::{
    HttpTrailers, ProcessingRequest, ProcessingResponse,
};
use picker_core::Event;
use picker_core::catalogue;
use picker_core::endpoint::{EngineReading, Reading};
use picker_core::time::Instant;
use picker_core::view::rewrite::{Rewrite, RewriteRule};
use serde::Deserialize;
use serde_json::Value;

use super::message::{body, given, headers, line, message, metadata, modes};
use super::scene::{SETTINGS, Scene};
use crate::driver::PoolSpec;
use crate::extproc::attributes::Trust;
use crate::extproc::exchange::{Caller, Exchange};
use crate::extproc::modes::Follow;
use crate::extproc::watch::Watcher;

/// One exchange.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Transcript {
    name: String,
    #[serde(default = "one_endpoint")]
    endpoints: Vec<String>,
    #[serde(default)]
    settings: Options,
    /// What the proxy says by the call's metadata.
    #[serde(default)]
    follow: Option<String>,
    #[serde(default)]
    may_ask: bool,
    /// Names and priorities.
    #[serde(default)]
    objectives: Vec<(String, i32)>,
    /// Rules of one rewrite, `canary`, in the form of an InferenceModelRewrite.
    #[serde(default)]
    rewrites: Vec<RewriteRule>,
    /// What each server lists under `/v1/models`.
    #[serde(default)]
    listed: Vec<String>,
    /// How many requests wait at each server, by its metrics page.
    #[serde(default)]
    waiting: Vec<u64>,
    steps: Vec<Step>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Options {
    fallbacks: usize,
    trust_headers: bool,
    conformance: bool,
    bodies_limit: Option<usize>,
}

/// One message or other event, what is answered, and what is known then.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Step {
    /// At so many milliseconds; else at the time of the step before.
    at: Option<u64>,
    /// On the stream of the filter that watches.
    watching: bool,

    request_headers: Option<Vec<(String, String)>>,
    request_body: Option<String>,
    /// A body of so many bytes.
    request_bytes: Option<usize>,
    request_trailers: bool,
    response_headers: Option<Vec<(String, String)>>,
    response_body: Option<String>,
    response_trailers: bool,
    /// A message of a kind that is not known.
    unknown: bool,
    /// Nothing comes; time passes.
    silence: bool,
    /// The stream ends.
    ends: bool,

    /// Whether it is the last of its half.
    end: bool,
    /// The value stands in the field that older proxies use.
    old: bool,
    grpc_compressed: bool,
    modes: Option<(String, String)>,
    subset: Option<Value>,
    served: Option<Value>,
    /// What the proxy's metadata says in the place of a control header.
    told: Option<(String, Value)>,
    observed: bool,

    out: Vec<String>,
    /// What the answers give of bodies, put together.
    text: Option<String>,
    in_flight: Option<usize>,
    /// Places in the receipt of `r1`, and what stands there.
    receipt: Vec<(String, Value)>,
    /// Lines of the metrics page.
    counted: Vec<String>,
}

fn one_endpoint() -> Vec<String> {
    vec!["10.0.0.1:8000".to_owned()]
}

pub(super) fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/transcripts")
}

fn all() -> Vec<(String, Transcript)> {
    let mut all = Vec::new();
    let files = fs::read_dir(folder()).expect("a folder of transcripts");
    let mut files: Vec<PathBuf> = files.map(|file| file.expect("a file").path()).collect();
    files.sort();
    for file in files {
        let name = file.file_stem().and_then(|name| name.to_str());
        let name = name.expect("a name").to_owned();
        if name == "traps" {
            continue;
        }
        let text = fs::read_to_string(&file).expect("text");
        let read: Vec<Transcript> = serde_saphyr::from_str(&text)
            .unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        all.extend(read.into_iter().map(|one| (name.clone(), one)));
    }
    all
}

/// The names of all transcripts.
pub(super) fn names() -> Vec<String> {
    all().into_iter().map(|(_, one)| one.name).collect()
}

#[test]
fn every_exchange_goes_as_its_transcript_says() {
    for (file, transcript) in all() {
        play(&format!("{file}: {}", transcript.name), &transcript);
    }
}

fn play(name: &str, transcript: &Transcript) {
    let options = &transcript.settings;
    let endpoints: Vec<&str> = transcript.endpoints.iter().map(String::as_str).collect();
    let mut settings = SETTINGS;
    settings.fallbacks = options.fallbacks;
    settings.trust = Trust {
        headers: options.trust_headers,
        test_selection: options.conformance,
    };
    settings.bodies_limit = options.bodies_limit.unwrap_or(settings.bodies_limit);
    let scene = Scene::with(&endpoints, settings, spec_of(transcript));
    tell_waiting(&scene, &transcript.waiting);
    for (endpoint, page) in scene.pool().endpoints().iter().zip(&transcript.listed) {
        let cards = catalogue::read(page.as_bytes()).expect("a list of models");
        let pool = scene.pool();
        pool.tell_models(endpoint.endpoint, endpoint.address, cards);
    }
    let follow = |text: &String| Follow::parse(text).unwrap_or_else(|| panic!("{name}: {text}"));
    let caller = Caller {
        follow: transcript.follow.as_ref().map(follow),
        may_ask: transcript.may_ask,
        ..Caller::default()
    };
    let mut streams = Streams {
        exchange: Some(scene.exchange(caller)),
        watcher: Some(scene.watcher()),
    };
    let mut now = 1;
    for (index, step) in transcript.steps.iter().enumerate() {
        now = step.at.unwrap_or(now);
        let place = format!("{name}, step {}", index + 1);
        let answers = streams.take(&place, &scene, Instant::from_millis(now), step);
        let out: Vec<String> = answers.iter().map(line).collect();
        assert_eq!(out, step.out, "{place}");
        if let Some(text) = &step.text {
            let found: Vec<u8> = answers.iter().flat_map(given).copied().collect();
            assert_eq!(String::from_utf8_lossy(&found), *text, "{place}");
        }
        check(&place, &scene, step);
    }
    drop(streams);
    drop(
        scene
            .edge
            .watches
            .expire(Instant::from_millis(now + 3_600_000)),
    );
    assert!(
        scene.metrics().contains("pointsman_bodies_held_bytes 0\n"),
        "{name}"
    );
}

/// What the transcript's pool is but for its endpoints.
fn spec_of(transcript: &Transcript) -> PoolSpec {
    let object = |name: &str, spec: Value| {
        let metadata = serde_json::json!({"name": name, "namespace": "ai"});
        serde_json::json!({"metadata": metadata, "spec": spec})
    };
    let reference = serde_json::json!({"name": "chat"});
    let objectives = transcript.objectives.iter().map(|(name, priority)| {
        let spec = serde_json::json!({"poolRef": reference, "priority": priority});
        serde_json::from_value(object(name, spec)).expect("an objective")
    });
    let rewrite = object("canary", serde_json::json!({"poolRef": reference}));
    let mut rewrite: Rewrite = serde_json::from_value(rewrite).expect("a rewrite");
    rewrite.spec.rules = transcript.rewrites.clone();
    PoolSpec {
        objectives: objectives.collect(),
        rewrites: vec![rewrite],
        ..PoolSpec::default()
    }
}

/// Lets the servers be read twice: so many requests wait at each, and more left it meanwhile than any could hold.
fn tell_waiting(scene: &Scene, waiting: &[u64]) {
    let pool = scene.pool();
    for finished in [0, 1_000_000_000] {
        for (endpoint, waiting) in pool.endpoints().into_iter().zip(waiting) {
            let engine = EngineReading {
                running: Some(1),
                waiting: Some(*waiting),
                finished: Some(finished),
                generation_tokens: Some(finished),
                ..EngineReading::default()
            };
            let reading = Reading {
                engines: vec![engine],
                ..Reading::default()
            };
            pool.tell(Event::Read(endpoint.endpoint, reading));
        }
    }
}

/// What is compared beside the answers.
fn check(place: &str, scene: &Scene, step: &Step) {
    if let Some(in_flight) = step.in_flight {
        assert_eq!(scene.pool().in_flight(), in_flight, "{place}: in flight");
    }
    for (pointer, expected) in &step.receipt {
        let receipt = scene.edge.pools.receipts().get("r1");
        let receipt = receipt.unwrap_or_else(|| panic!("{place}: no receipt of r1"));
        let receipt = serde_json::to_value(receipt).expect("JSON");
        let found = receipt.pointer(pointer).unwrap_or(&Value::Null);
        assert_eq!(found, expected, "{place}: {pointer} in {receipt}");
    }
    let page = scene.metrics();
    for line in &step.counted {
        assert!(
            page.lines().any(|one| one == line),
            "{place}: {line} in {page}"
        );
    }
}

/// The streams of one request.
struct Streams {
    exchange: Option<Exchange>,
    watcher: Option<Watcher>,
}

impl Streams {
    /// Lets one thing happen; returns what is answered.
    fn take(
        &mut self,
        place: &str,
        scene: &Scene,
        now: Instant,
        step: &Step,
    ) -> Vec<ProcessingResponse> {
        if step.ends && step.watching {
            drop(self.watcher.take());
        } else if step.ends {
            drop(self.exchange.take());
        } else if step.silence {
            if let Some(exchange) = &mut self.exchange {
                exchange.on_timeout(now);
            }
            drop(scene.edge.watches.expire(now));
        } else if step.watching {
            let watcher = self.watcher.as_mut().expect("a stream");
            watcher.on_message(message_of(place, step));
        } else {
            let exchange = self.exchange.as_mut().expect("a stream");
            exchange.on_message(now, message_of(place, step));
        }
        let Some(exchange) = &mut self.exchange else {
            return Vec::new();
        };
        std::iter::from_fn(|| exchange.poll_answer()).collect()
    }
}

fn message_of(place: &str, step: &Step) -> ProcessingRequest {
    let headers_of = |pairs: &[(String, String)]| {
        let pairs = pairs
            .iter()
            .map(|(key, value)| (key.as_str(), value.as_str()));
        let mut all = headers(pairs, step.end);
        if step.old
            && let Some(map) = &mut all.headers
        {
            for header in &mut map.headers {
                let value = std::mem::take(&mut header.raw_value);
                header.value = String::from_utf8(value).expect("text");
            }
        }
        all
    };
    let body_of = |bytes: Vec<u8>| {
        let mut body = body(bytes, step.end);
        body.grpc_message_compressed = step.grpc_compressed;
        body
    };
    let part = if let Some(pairs) = &step.request_headers {
        Some(Part::RequestHeaders(headers_of(pairs)))
    } else if let Some(text) = &step.request_body {
        Some(Part::RequestBody(body_of(text.as_bytes().to_vec())))
    } else if let Some(bytes) = step.request_bytes {
        Some(Part::RequestBody(body_of(vec![b'x'; bytes])))
    } else if step.request_trailers {
        Some(Part::RequestTrailers(HttpTrailers::default()))
    } else if let Some(pairs) = &step.response_headers {
        Some(Part::ResponseHeaders(headers_of(pairs)))
    } else if let Some(text) = &step.response_body {
        Some(Part::ResponseBody(body_of(text.as_bytes().to_vec())))
    } else if step.response_trailers {
        Some(Part::ResponseTrailers(HttpTrailers::default()))
    } else {
        assert!(step.unknown, "{place}: nothing happens");
        None
    };
    let mut all = part.map(message).unwrap_or_default();
    if let Some((request, response)) = &step.modes {
        all.protocol_config = Some(modes(request, response));
    }
    let served = ("envoy.lb", "x-gateway-destination-endpoint-served");
    let subset = (
        "envoy.lb.subset_hint",
        "x-gateway-destination-endpoint-subset",
    );
    for (value, (namespace, key)) in [(&step.served, served), (&step.subset, subset)] {
        if let Some(value) = value {
            all.metadata_context = Some(metadata(namespace, key, value));
        }
    }
    if let Some((name, value)) = &step.told {
        all.metadata_context = Some(metadata("pointsman", name, value));
    }
    all.observability_mode = step.observed;
    all
}

#[test]
fn a_body_is_waited_for_no_longer_than_is_said() {
    let scene = Scene::of(&["10.0.0.1:8000"], SETTINGS);
    let mut exchange = scene.exchange(Caller::default());
    let start = Instant::from_millis(5);
    exchange.on_message(start, message(Part::RequestHeaders(headers([], false))));
    assert_eq!(exchange.poll_timeout(), Some(start + SETTINGS.body_wait));
    exchange.on_timeout(start + Duration::from_secs(1));
    assert!(exchange.poll_answer().is_none(), "too early");
    exchange.on_timeout(start + SETTINGS.body_wait);
    assert!(exchange.poll_answer().is_some());
    assert_eq!(exchange.poll_timeout(), None);
}

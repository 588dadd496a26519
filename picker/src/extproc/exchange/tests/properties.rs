//! Arbitrary sequences of messages: whatever a proxy sends, in whatever order, nothing panics, waits for ever or leaks.

use std::time::Duration;

use envoy_types::pb::envoy::service::ext_proc::v3::ProcessingRequest;
use envoy_types::pb::envoy::service::ext_proc::v3::body_mutation::Mutation;
use envoy_types::pb::envoy::service::ext_proc::v3::processing_request::Request as Part;
use envoy_types::pb::envoy::service::ext_proc::v3::processing_response::Response as Answer;
use envoy_types::pb::envoy::service::ext_proc::v3::{
    HttpTrailers, ProcessingResponse, ProtocolConfiguration,
};
use picker_core::event::Following;
use picker_core::time::Instant;
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

use super::message::{body, destination, headers, message, metadata};
use super::scene::{SETTINGS, Scene};
use crate::driver::{Filter, PoolSpec};
use crate::extproc::EdgeSettings;
use crate::extproc::exchange::{Caller, Exchange};
use crate::extproc::modes::Follow;
use crate::extproc::watch::WATCH_WAIT;

const ENDPOINTS: [&str; 3] = ["10.0.0.1:8000", "10.0.0.1:8001", "[fd00::1]:8000"];
/// Small, so that bodies run over both.
const BODY_LIMIT: usize = 3_000;
const BODIES_LIMIT: usize = 4_000;

/// Something that a proxy does on a stream.
#[derive(Clone, Debug)]
enum Event {
    RequestHeaders(usize, bool),
    RequestBody(usize, bool),
    /// A piece of JSON.
    RequestText(&'static str, bool),
    RequestTrailers,
    ResponseHeaders(&'static str, bool),
    ResponseBody(&'static str, bool),
    ResponseTrailers,
    Unknown,
    Silence(u64),
}

/// What is said beside a message.
#[derive(Clone, Debug)]
struct Beside {
    modes: Option<(i32, i32)>,
    subset: Option<serde_json::Value>,
    observed: bool,
}

#[derive(Clone, Debug)]
struct Stream {
    caller: Caller,
    endpoints: usize,
    events: Vec<(Event, Beside)>,
    /// Whether the end is read, or the stream dropped.
    told_of_end: bool,
}

fn event() -> impl Strategy<Value = Event> {
    let status = prop::sample::select(vec!["100", "200", "404", "503", "no number"]);
    let text = "data: {\"choices\":[{\"text\":\"x\"}]}\n\n";
    let renamed = "data: {\"model\":\"longer\"}\n\n";
    let chunk = prop::sample::select(vec![
        "",
        text,
        renamed,
        "data: {\"model\":\"lon",
        "data: [DONE]\n\n",
        "\u{fffd}{",
    ]);
    let json = prop::sample::select(vec![
        "{\"model\":\"m\"}",
        "{\"model\":",
        "\"m\"",
        ",\"model\":\"m\"}",
    ]);
    prop_oneof![
        3 => (0..HEADERS.len(), any::<bool>()).prop_map(|(which, end)| Event::RequestHeaders(which, end)),
        6 => (prop_oneof![Just(0), 1..500_usize, Just(2_500)], prop::bool::weighted(0.3))
            .prop_map(|(bytes, end)| Event::RequestBody(bytes, end)),
        4 => (json, prop::bool::weighted(0.3)).prop_map(|(text, end)| Event::RequestText(text, end)),
        1 => Just(Event::RequestTrailers),
        2 => (status, prop::bool::weighted(0.2)).prop_map(|(status, end)| Event::ResponseHeaders(status, end)),
        4 => (chunk, prop::bool::weighted(0.2)).prop_map(|(chunk, end)| Event::ResponseBody(chunk, end)),
        1 => Just(Event::ResponseTrailers),
        1 => Just(Event::Unknown),
        1 => (0..12_000_u64).prop_map(Event::Silence),
    ]
}

const HEADERS: [&[(&str, &str)]; 4] = [
    &[],
    &[
        (":path", "/v1/chat/completions"),
        ("x-request-id", "r1"),
        ("content-length", "7"),
    ],
    &[
        (":path", "/v1/models"),
        ("x-request-id", "r1"),
        ("content-length", "-1"),
    ],
    &[
        ("X-Prefiller-Host-Port", "6.6.6.6:1"),
        ("test-epp-endpoint-selection", "6.6.6.6:1"),
    ],
];

fn stream() -> impl Strategy<Value = Stream> {
    let modes = prop::option::weighted(0.8, (-1..7_i32, -1..7_i32));
    let hint = prop::sample::select(vec![
        serde_json::json!([]),
        serde_json::json!("10.0.0.1"),
        serde_json::json!(["[fd00::1]:8000", "6.6.6.6:1"]),
        serde_json::json!(5),
    ]);
    let beside = (
        modes.clone(),
        prop::option::weighted(0.1, hint),
        prop::bool::weighted(0.02),
    );
    let beside =
        (beside, prop::bool::weighted(0.05)).prop_map(|((modes, subset, observed), again)| {
            Beside {
                modes: modes.filter(|_| again),
                subset,
                observed,
            }
        });
    let follow = prop::option::of(prop::sample::select(vec![
        Follow::Full,
        Follow::Watched,
        Follow::WatchFilter,
        Follow::Released,
    ]));
    let events = prop::collection::vec((event(), beside), 1..25);
    (
        follow,
        any::<bool>(),
        0..=ENDPOINTS.len(),
        modes,
        events,
        any::<bool>(),
    )
        .prop_map(
            |(follow, may_ask, endpoints, modes, mut events, told_of_end)| {
                events[0].1.modes = modes;
                Stream {
                    caller: Caller {
                        follow,
                        may_ask,
                        ..Caller::default()
                    },
                    endpoints,
                    events,
                    told_of_end,
                }
            },
        )
}

proptest! {
    #![proptest_config(ProptestConfig {
        rng_seed: RngSeed::Fixed(0x706f_696e_7473),
        failure_persistence: None,
        cases: ProptestConfig::default().cases.max(4_000),
        ..ProptestConfig::default()
    })]

    #[test]
    fn any_messages_in_any_order_are_survived_answered_and_leave_nothing_behind(stream in stream()) {
        let settings = EdgeSettings { body_limit: BODY_LIMIT, bodies_limit: BODIES_LIMIT, ..SETTINGS };
        let scene = Scene::with(&ENDPOINTS[..stream.endpoints], settings, rewriting());
        let mut exchange = scene.exchange(stream.caller.clone());
        let mut seen = Seen::default();
        let mut now = Instant::from_millis(1);
        for (event, beside) in &stream.events {
            if let Event::Silence(ms) = event {
                now += Duration::from_millis(*ms);
                exchange.on_timeout(now);
            } else {
                seen.on_event(event);
                exchange.on_message(now, message_of(event, beside));
            }
            seen.on_answers(&mut exchange)?;
            let held = scene.edge.metrics.body_bytes.get();
            prop_assert!((0..=BODIES_LIMIT as i64).contains(&held), "{held} bytes are held");
        }
        now += settings.body_wait;
        exchange.on_timeout(now);
        seen.on_answers(&mut exchange)?;
        prop_assert!(exchange.poll_timeout().is_none(), "a request is held for ever: {exchange:?}");
        if stream.told_of_end {
            exchange.on_end();
        }
        drop(exchange);
        drop(scene.edge.watches.expire(now + WATCH_WAIT));
        let in_flight = scene.pool().in_flight();
        // What is released ends by itself.
        let receipts = scene.edge.pools.receipts();
        let latest = receipts.list(now, &Filter::default(), 1);
        let following = latest.first().and_then(|stored| stored.receipt.following);
        let may_remain = usize::from(following == Some(Following::Released));
        prop_assert!(in_flight <= may_remain, "{in_flight} are in flight");
        prop_assert_eq!(scene.edge.metrics.body_bytes.get(), 0);
    }
}

/// A pool whose requests for `m` get a model with a longer name.
fn rewriting() -> PoolSpec {
    let rewrite = serde_json::json!({
        "metadata": {"name": "canary", "namespace": "ai"},
        "spec": {"poolRef": {"name": "chat"}, "rules": [{
            "matches": [{"model": {"value": "m"}}],
            "targets": [{"modelRewrite": "longer"}],
        }]},
    });
    PoolSpec {
        rewrites: vec![serde_json::from_value(rewrite).expect("a rewrite")],
        ..PoolSpec::default()
    }
}

/// What has gone in and out of one stream.
#[derive(Debug, Default)]
struct Seen {
    sent: usize,
    headers: usize,
    refused: bool,
    returned: usize,
    ended: bool,
    trailers: usize,
}

impl Seen {
    fn on_event(&mut self, event: &Event) {
        match event {
            Event::RequestBody(bytes, _) => self.sent += bytes,
            Event::RequestText(text, _) => self.sent += text.len(),
            _ => {}
        }
    }

    fn on_answers(&mut self, exchange: &mut Exchange) -> Result<(), TestCaseError> {
        while let Some(answer) = exchange.poll_answer() {
            self.on_answer(&answer)?;
        }
        Ok(())
    }

    fn on_answer(&mut self, answer: &ProcessingResponse) -> Result<(), TestCaseError> {
        if let Some(list) = destination(answer) {
            prop_assert!(ENDPOINTS.contains(&list), "{list} is no member of the pool");
        }
        match &answer.response {
            Some(Answer::RequestHeaders(_)) => {
                self.headers += 1;
                prop_assert_eq!(self.headers, 1, "headers are answered once");
                prop_assert!(!self.refused);
            }
            Some(Answer::RequestBody(one)) => {
                prop_assert!(!self.refused, "a refusal is the last word");
                let common = one.response.as_ref();
                let mutation = common.and_then(|one| one.body_mutation.as_ref()?.mutation.as_ref());
                if let Some(Mutation::StreamedResponse(frame)) = mutation {
                    prop_assert!(!self.ended, "the body goes on after its end");
                    prop_assert!(frame.body.len() <= 62_000);
                    self.ended = frame.end_of_stream;
                    self.returned += frame.body.len();
                    // One name may have become longer.
                    let most = self.sent + "longer".len() - "m".len();
                    prop_assert!(self.returned <= most, "more comes back than was sent");
                }
            }
            Some(Answer::RequestTrailers(_)) => {
                self.trailers += 1;
                prop_assert!(!self.refused);
            }
            Some(Answer::ImmediateResponse(_)) => {
                prop_assert!(!self.refused, "one refusal is enough");
                self.refused = true;
            }
            _ => {}
        }
        Ok(())
    }
}

fn message_of(event: &Event, beside: &Beside) -> ProcessingRequest {
    let empty = HttpTrailers::default;
    let part = match event {
        Event::RequestHeaders(which, end) => Some(Part::RequestHeaders(headers(
            HEADERS[*which].iter().copied(),
            *end,
        ))),
        Event::RequestBody(bytes, end) => Some(Part::RequestBody(body(vec![b'{'; *bytes], *end))),
        Event::RequestText(text, end) => Some(Part::RequestBody(body(*text, *end))),
        Event::RequestTrailers => Some(Part::RequestTrailers(empty())),
        Event::ResponseHeaders(status, end) => {
            let pairs = [(":status", *status), ("content-type", "text/event-stream")];
            Some(Part::ResponseHeaders(headers(pairs, *end)))
        }
        Event::ResponseBody(text, end) => Some(Part::ResponseBody(body(*text, *end))),
        Event::ResponseTrailers => Some(Part::ResponseTrailers(empty())),
        Event::Unknown | Event::Silence(_) => None,
    };
    let hint = (
        "envoy.lb.subset_hint",
        "x-gateway-destination-endpoint-subset",
    );
    ProcessingRequest {
        protocol_config: beside
            .modes
            .map(|(request, response)| ProtocolConfiguration {
                request_body_mode: request,
                response_body_mode: response,
                send_body_without_waiting_for_header_response: false,
            }),
        metadata_context: beside
            .subset
            .as_ref()
            .map(|value| metadata(hint.0, hint.1, value)),
        observability_mode: beside.observed,
        ..part.map(message).unwrap_or_default()
    }
}

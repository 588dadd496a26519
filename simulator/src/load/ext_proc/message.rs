//! What a proxy says of one request, message by message, as Envoy 1.40 says it.

use envoy_types::pb::envoy::config::core::v3::{HeaderMap, HeaderValue, Metadata};
use envoy_types::pb::envoy::extensions::filters::http::ext_proc::v3::processing_mode::BodySendMode;
use envoy_types::pb::envoy::service::ext_proc::v3::processing_request::Request as Part;
use envoy_types::pb::envoy::service::ext_proc::v3::processing_response::Response as Answer;
use envoy_types::pb::envoy::service::ext_proc::v3::{
    HttpBody, HttpHeaders, ProcessingRequest, ProcessingResponse, ProtocolConfiguration,
};
use envoy_types::pb::google::protobuf::value::Kind;
use envoy_types::pb::google::protobuf::{Struct, Value};

use super::Follow;
use crate::load::Api;
use crate::load::content::{Ask, Content};
use crate::noop::echo::{DESTINATION, NAMESPACE};

/// The key of dynamic metadata that names the endpoint that served.
const SERVED: &str = "x-gateway-destination-endpoint-served";

/// The `server` of responses, which vLLM's HTTP server is.
const SERVER: &str = "uvicorn";

/// One request in a proxy's words.
pub(super) struct Words {
    headers: HeaderMap,
    body: Vec<u8>,
    /// What a token of the response is.
    event: Vec<u8>,
    /// What ends the response.
    last_event: Vec<u8>,
    response_headers: HeaderMap,
}

/// The modes of a filter for bodies, as the first message of a stream says them.
fn modes(follow: Follow) -> ProtocolConfiguration {
    let (request, response) = match follow {
        Follow::Full => (
            BodySendMode::FullDuplexStreamed,
            BodySendMode::FullDuplexStreamed,
        ),
        Follow::Watched => (BodySendMode::None, BodySendMode::None),
        Follow::Released => (BodySendMode::FullDuplexStreamed, BodySendMode::None),
    };
    ProtocolConfiguration {
        request_body_mode: request.into(),
        response_body_mode: response.into(),
        send_body_without_waiting_for_header_response: false,
    }
}

impl Words {
    /// Request `number` of run `run`; their ids are of both.
    pub(super) fn of(run: u64, number: u64, ask: &Ask<'_>, content: &Content, api: Api) -> Self {
        let id = request_id(run, number);
        let body = content.body(ask).into_bytes();
        let length = body.len().to_string();
        let mut headers = vec![
            header(":authority", "models.example"),
            header(":path", api.path()),
            header(":method", "POST"),
            header(":scheme", "http"),
            header("user-agent", "pointsman-sim"),
            header("content-length", &length),
        ];
        headers.extend(
            content
                .headers(ask)
                .map(|(name, value)| header(&name.to_ascii_lowercase(), value)),
        );
        headers.push(header("x-forwarded-proto", "http"));
        headers.push(header("x-request-id", &id));
        let response_headers = [
            (":status", "200"),
            ("date", "Sat, 21 Nov 2026 12:00:00 GMT"),
            ("server", SERVER),
            ("content-type", "text/event-stream; charset=utf-8"),
            ("x-envoy-upstream-service-time", "20"),
        ];
        let response_headers = response_headers.map(|(name, value)| header(name, value));
        let (event, last_event) = events(&id, content.model(ask), ask);
        Self {
            headers: HeaderMap { headers },
            body,
            event,
            last_event,
            response_headers: HeaderMap {
                headers: response_headers.into(),
            },
        }
    }

    /// The first message of a stream.
    pub(super) fn request_headers(&self, follow: Follow) -> ProcessingRequest {
        let headers = HttpHeaders {
            headers: Some(self.headers.clone()),
            end_of_stream: false,
            ..Default::default()
        };
        ProcessingRequest {
            protocol_config: Some(modes(follow)),
            ..message(Part::RequestHeaders(headers), None)
        }
    }

    /// The body in frames of at most `frame_bytes`. A body that is passed on as it comes is ended by an empty frame; one that
    /// has waited for the picker to ask for it ends with its last.
    pub(super) fn request_frames(
        &self,
        frame_bytes: usize,
        follow: Follow,
    ) -> impl Iterator<Item = ProcessingRequest> {
        let empty: &[u8] = &[];
        let waited = follow == Follow::Watched;
        let end = (!waited).then_some(empty);
        let mut pieces = self.body.chunks(frame_bytes.max(1)).chain(end).peekable();
        std::iter::from_fn(move || {
            let frame = HttpBody {
                body: pieces.next()?.to_vec(),
                end_of_stream: pieces.peek().is_none(),
                ..Default::default()
            };
            Some(message(Part::RequestBody(frame), None))
        })
    }

    pub(super) fn response_headers(&self, destination: &str, alone: bool) -> ProcessingRequest {
        let headers = HttpHeaders {
            headers: Some(self.response_headers.clone()),
            end_of_stream: alone,
            ..Default::default()
        };
        message(Part::ResponseHeaders(headers), Some(destination))
    }

    pub(super) fn response_chunk(&self, destination: &str, last: bool) -> ProcessingRequest {
        let event = if last { &self.last_event } else { &self.event };
        let body = HttpBody {
            body: event.clone(),
            ..Default::default()
        };
        message(Part::ResponseBody(body), Some(destination))
    }

    /// The empty frame that ends the response.
    pub(super) fn response_end(destination: &str) -> ProcessingRequest {
        let body = HttpBody {
            end_of_stream: true,
            ..Default::default()
        };
        message(Part::ResponseBody(body), Some(destination))
    }

    /// The request's headers as a filter after the pick sees them, in observability mode.
    pub(super) fn watched_request(&self, destination: &str) -> ProcessingRequest {
        let mut message = self.request_headers(Follow::Watched);
        if let Some(Part::RequestHeaders(HttpHeaders {
            headers: Some(map), ..
        })) = &mut message.request
        {
            map.headers.push(header(DESTINATION, destination));
        }
        ProcessingRequest {
            observability_mode: true,
            protocol_config: None,
            metadata_context: Some(Metadata::default()),
            ..message
        }
    }

    pub(super) fn watched_response(&self, destination: &str, alone: bool) -> ProcessingRequest {
        ProcessingRequest {
            observability_mode: true,
            ..self.response_headers(destination, alone)
        }
    }
}

/// The endpoint that a picker names, in the header or else in the metadata; the first of several.
pub(super) fn destination(answer: &ProcessingResponse) -> Option<String> {
    let Some(Answer::RequestHeaders(headers)) = &answer.response else {
        return None;
    };
    let common = headers.response.as_ref();
    let mutation = common.and_then(|common| common.header_mutation.as_ref());
    let set = mutation.and_then(|mutation| {
        let headers = mutation.set_headers.iter();
        let mut headers = headers.filter_map(|option| option.header.as_ref());
        headers.find(|header| header.key.eq_ignore_ascii_case(DESTINATION))
    });
    let in_header = set.map(|header| match header.raw_value.as_slice() {
        [] => header.value.clone(),
        raw => String::from_utf8_lossy(raw).into_owned(),
    });
    let value = in_header.or_else(|| in_metadata(answer))?;
    let first = value.split(',').next().unwrap_or_default().trim();
    (!first.is_empty()).then(|| first.to_owned())
}

fn in_metadata(answer: &ProcessingResponse) -> Option<String> {
    let namespace = answer.dynamic_metadata.as_ref()?.fields.get(NAMESPACE)?;
    let Some(Kind::StructValue(inner)) = &namespace.kind else {
        return None;
    };
    match &inner.fields.get(DESTINATION)?.kind {
        Some(Kind::StringValue(value)) => Some(value.clone()),
        _ => None,
    }
}

/// A message of either half. Once there is a destination, each carries it with the endpoint that served: the namespace is one
/// that the proxy forwards.
fn message(part: Part, destination: Option<&str>) -> ProcessingRequest {
    let filter_metadata = destination.map(|destination| {
        let value = || Value {
            kind: Some(Kind::StringValue(destination.to_owned())),
        };
        let fields = [DESTINATION, SERVED].map(|key| (key.to_owned(), value()));
        let fields = fields.into_iter().collect();
        (NAMESPACE.to_owned(), Struct { fields })
    });
    ProcessingRequest {
        metadata_context: Some(Metadata {
            filter_metadata: filter_metadata.into_iter().collect(),
            ..Default::default()
        }),
        request: Some(part),
        ..Default::default()
    }
}

fn header(name: &str, value: &str) -> HeaderValue {
    HeaderValue {
        key: name.to_owned(),
        raw_value: value.as_bytes().to_vec(),
        ..Default::default()
    }
}

/// An id in the form of a UUID, as Envoy makes them.
fn request_id(run: u64, number: u64) -> String {
    let (high, middle, low) = (run >> 32, (run >> 16) & 0xffff, run & 0xffff);
    format!("{high:08x}-{middle:04x}-{low:04x}-8000-{number:012x}")
}

/// Events of a streamed completion with vLLM's fields: that of a token, and the last token's with usage and end.
fn events(id: &str, model: &str, ask: &Ask<'_>) -> (Vec<u8>, Vec<u8>) {
    let model = serde_json::Value::from(model);
    let chunk = |choices: &str, rest: &str| {
        format!(
            r#"data: {{"id":"cmpl-{id}","object":"text_completion","created":1795262400,"model":{model},"choices":[{choices}]{rest}}}"#
        ) + "\n\n"
    };
    let choice = |finish: &str| {
        format!(
            r#"{{"index":0,"text":" track","logprobs":null,"finish_reason":{finish},"stop_reason":null,"prompt_token_ids":null,"token_ids":null}}"#
        )
    };
    let (prompt, output) = (ask.arrival.prompt_tokens, ask.output_tokens);
    let usage = format!(
        r#","usage":{{"prompt_tokens":{prompt},"total_tokens":{},"completion_tokens":{output}}}"#,
        prompt + output
    );
    let last = chunk(&choice("\"length\""), "") + &chunk("", &usage) + "data: [DONE]\n\n";
    (chunk(&choice("null"), "").into_bytes(), last.into_bytes())
}

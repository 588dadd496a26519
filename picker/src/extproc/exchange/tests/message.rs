//! ext_proc messages: from the words of a transcript, and answers back to words.

use std::collections::HashMap;

use envoy_types::pb::envoy::config::core::v3::{HeaderMap, HeaderValue, Metadata};
use envoy_types::pb::envoy::extensions::filters::http::ext_proc::v3::processing_mode::BodySendMode;
use envoy_types::pb::envoy::service::ext_proc::v3::body_mutation::Mutation;
use envoy_types::pb::envoy::service::ext_proc::v3::processing_request::Request as Part;
use envoy_types::pb::envoy::service::ext_proc::v3::processing_response::Response as Answer;
use envoy_types::pb::envoy::service::ext_proc::v3::{
    CommonResponse, HttpBody, HttpHeaders, ProcessingRequest, ProcessingResponse,
    ProtocolConfiguration,
};
use envoy_types::pb::google::protobuf::value::Kind;
use envoy_types::pb::google::protobuf::{ListValue, Struct, Value};

pub(super) fn message(part: Part) -> ProcessingRequest {
    ProcessingRequest {
        request: Some(part),
        ..ProcessingRequest::default()
    }
}

/// Headers with the values in `raw_value`, as today's proxies send them.
pub(super) fn headers<'a>(
    pairs: impl IntoIterator<Item = (&'a str, &'a str)>,
    end_of_stream: bool,
) -> HttpHeaders {
    let header = |(key, value): (&str, &str)| HeaderValue {
        key: key.to_owned(),
        raw_value: value.as_bytes().to_vec(),
        ..HeaderValue::default()
    };
    HttpHeaders {
        headers: Some(HeaderMap {
            headers: pairs.into_iter().map(header).collect(),
        }),
        end_of_stream,
        ..HttpHeaders::default()
    }
}

pub(super) fn body(body: impl Into<Vec<u8>>, end_of_stream: bool) -> HttpBody {
    HttpBody {
        body: body.into(),
        end_of_stream,
        ..HttpBody::default()
    }
}

/// The body modes by their names in Envoy's configuration; a number is a mode that is not known.
pub(super) fn modes(request: &str, response: &str) -> ProtocolConfiguration {
    let mode = |name: &str| match BodySendMode::from_str_name(name) {
        Some(mode) => i32::from(mode),
        None => name.parse().unwrap_or_else(|_| panic!("no mode: {name}")),
    };
    ProtocolConfiguration {
        request_body_mode: mode(request),
        response_body_mode: mode(response),
        send_body_without_waiting_for_header_response: false,
    }
}

/// Dynamic metadata with one value.
pub(super) fn metadata(namespace: &str, key: &str, value: &serde_json::Value) -> Metadata {
    let fields = HashMap::from([(key.to_owned(), value_of(value))]);
    Metadata {
        filter_metadata: HashMap::from([(namespace.to_owned(), Struct { fields })]),
        ..Metadata::default()
    }
}

fn value_of(value: &serde_json::Value) -> Value {
    let kind = match value {
        serde_json::Value::String(text) => Kind::StringValue(text.clone()),
        serde_json::Value::Array(list) => Kind::ListValue(ListValue {
            values: list.iter().map(value_of).collect(),
        }),
        other => Kind::NumberValue(other.as_f64().unwrap_or_default()),
    };
    Value { kind: Some(kind) }
}

/// An answer in one line: what it answers, and what it says.
pub(super) fn line(answer: &ProcessingResponse) -> String {
    let metadata = destination(answer).map(|to| format!(" metadata {to}"));
    let metadata = metadata.unwrap_or_default();
    let Some(response) = &answer.response else {
        let mode = answer
            .mode_override
            .as_ref()
            .expect("an answer says something");
        let body = |mode| BodySendMode::try_from(mode).expect("a mode").as_str_name();
        return format!(
            "mode override: request body {}, response headers {}, response body {}, response trailers {}",
            body(mode.request_body_mode),
            send(mode.response_header_mode),
            body(mode.response_body_mode),
            send(mode.response_trailer_mode)
        );
    };
    let (name, common) = match response {
        Answer::RequestHeaders(one) => ("request headers", one.response.as_ref()),
        Answer::RequestBody(one) => ("request body", one.response.as_ref()),
        Answer::RequestTrailers(_) => ("request trailers", None),
        Answer::ResponseHeaders(one) => ("response headers", one.response.as_ref()),
        Answer::ResponseBody(one) => ("response body", one.response.as_ref()),
        Answer::ResponseTrailers(_) => ("response trailers", None),
        Answer::ImmediateResponse(one) => {
            let status = one.status.as_ref().map_or(0, |status| status.code);
            let headers = one.headers.iter().flat_map(|all| &all.set_headers);
            let retry = headers.filter_map(|option| option.header.as_ref());
            let retry = retry.filter(|header| header.key == "retry-after");
            let retry: String = retry
                .map(|header| {
                    format!(
                        " retry-after {}",
                        String::from_utf8_lossy(&header.raw_value)
                    )
                })
                .collect();
            let grpc = one.grpc_status.map(|grpc| format!(" grpc {}", grpc.status));
            return format!(
                "immediate {status} {}{retry}{}",
                one.details,
                grpc.unwrap_or_default()
            );
        }
        other => panic!("an answer of another kind: {other:?}"),
    };
    let said = common.map(said).unwrap_or_default();
    let asks = match &answer.mode_override {
        Some(_) => " asks for the response",
        None => "",
    };
    format!("{name}{said}{metadata}{asks}")
}

fn send(mode: i32) -> &'static str {
    if mode == 1 { "SEND" } else { "SKIP" }
}

/// What an answer does to headers and body.
fn said(common: &CommonResponse) -> String {
    let mut said = String::new();
    if let Some(mutation) = &common.header_mutation {
        for option in &mutation.set_headers {
            let header = option.header.as_ref().expect("a header");
            assert!(header.value.is_empty(), "proxies read raw_value");
            assert_eq!(option.append_action, 2, "what stands there is overwritten");
            let value = String::from_utf8_lossy(&header.raw_value);
            said += &match header.key.as_str() {
                "x-request-id" => " set x-request-id".to_owned(),
                key => format!(" set {key}={value}"),
            };
        }
        for name in &mutation.remove_headers {
            said += &format!(" remove {name}");
        }
    }
    match common
        .body_mutation
        .as_ref()
        .and_then(|one| one.mutation.as_ref())
    {
        Some(Mutation::StreamedResponse(frame)) => {
            said += &format!(": {} bytes", frame.body.len());
            said += if frame.end_of_stream { ", end" } else { "" };
            said += if frame.grpc_message_compressed {
                ", compressed"
            } else {
                ""
            };
        }
        Some(Mutation::Body(body)) => said += &format!(": replaced by {} bytes", body.len()),
        Some(other) => panic!("no answer clears a body: {other:?}"),
        None => {}
    }
    said
}

/// The bytes of a body that an answer gives; none if it says nothing of the body.
pub(super) fn given(answer: &ProcessingResponse) -> &[u8] {
    let common = match &answer.response {
        Some(Answer::RequestBody(one) | Answer::ResponseBody(one)) => one.response.as_ref(),
        Some(Answer::ImmediateResponse(one)) => return &one.body,
        _ => None,
    };
    let mutation = common.and_then(|common| common.body_mutation.as_ref()?.mutation.as_ref());
    match mutation {
        Some(Mutation::StreamedResponse(frame)) => &frame.body,
        Some(Mutation::Body(body)) => body,
        _ => &[],
    }
}

/// The destination that an answer's metadata gives.
pub(super) fn destination(answer: &ProcessingResponse) -> Option<&str> {
    let Kind::StructValue(lb) = answer.dynamic_metadata.as_ref()?.fields["envoy.lb"]
        .kind
        .as_ref()?
    else {
        panic!("a struct");
    };
    match lb.fields["x-gateway-destination-endpoint"].kind.as_ref()? {
        Kind::StringValue(to) => Some(to),
        other => panic!("no string: {other:?}"),
    }
}

//! What goes back to the proxy: a pick, a refusal, bodies and trailers, as ext_proc messages.

use std::collections::HashMap;
use std::net::SocketAddr;

use envoy_types::pb::envoy::config::core::v3::header_value_option::HeaderAppendAction;
use envoy_types::pb::envoy::config::core::v3::{HeaderValue, HeaderValueOption};
use envoy_types::pb::envoy::service::ext_proc::v3::body_mutation::Mutation;
use envoy_types::pb::envoy::service::ext_proc::v3::processing_response::Response;
use envoy_types::pb::envoy::service::ext_proc::v3::{
    BodyMutation, BodyResponse, CommonResponse, HeaderMutation, HeadersResponse, ImmediateResponse,
    ProcessingResponse, StreamedBodyResponse, TrailersResponse,
};
use envoy_types::pb::envoy::r#type::v3::HttpStatus;
use envoy_types::pb::google::protobuf::value::Kind;
use envoy_types::pb::google::protobuf::{Struct, Value};

use super::attributes::{DESTINATION, NAMESPACE};

/// The most body bytes in one message: proxies ask for 64 KiB at most, header included.
pub(super) const FRAME_MAX_BYTES: usize = 62_000;

/// Sends the request to `address`; the header and the metadata say the same.
pub(super) fn picked(address: SocketAddr, new_request_id: Option<&str>) -> ProcessingResponse {
    let address = address.to_string();
    let mut set_headers = vec![set(DESTINATION, &address)];
    set_headers.extend(new_request_id.map(|id| set("x-request-id", id)));
    let mutation = HeaderMutation {
        set_headers,
        remove_headers: Vec::new(),
    };
    let common = CommonResponse {
        header_mutation: Some(mutation),
        ..Default::default()
    };
    let destination = Value {
        kind: Some(Kind::StringValue(address)),
    };
    let inner = object(DESTINATION, destination);
    let metadata = object(
        NAMESPACE,
        Value {
            kind: Some(Kind::StructValue(inner)),
        },
    );
    ProcessingResponse {
        dynamic_metadata: Some(metadata),
        ..message(Response::RequestHeaders(HeadersResponse {
            response: Some(common),
        }))
    }
}

/// Answers the request in the server's place.
pub(super) fn immediate(status: u16, reason: &str, text: &str) -> ProcessingResponse {
    let body = serde_json::json!({
        "error": {"message": text, "type": "ServiceUnavailableError", "param": null, "code": status, "reason": reason}
    });
    let set_headers = vec![
        set("content-type", "application/json"),
        set("x-llm-d-request-dropped-reason", reason),
    ];
    message(Response::ImmediateResponse(ImmediateResponse {
        status: Some(HttpStatus {
            code: i32::from(status),
        }),
        headers: Some(HeaderMutation {
            set_headers,
            remove_headers: Vec::new(),
        }),
        body: body.to_string().into_bytes(),
        grpc_status: None,
        details: reason.to_owned(),
    }))
}

/// Lets headers of a response pass.
pub(super) fn response_headers() -> ProcessingResponse {
    message(Response::ResponseHeaders(HeadersResponse {
        response: Some(CommonResponse::default()),
    }))
}

/// Which half of the exchange a message belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Half {
    /// From the client to the server.
    Request,
    /// From the server to the client.
    Response,
}

/// Gives a body back piece by piece; only a piece over [`FRAME_MAX_BYTES`] is cut.
pub(super) fn streamed_body(
    half: Half,
    mut piece: Vec<u8>,
    end_of_stream: bool,
    send: &mut impl FnMut(ProcessingResponse),
) {
    while piece.len() > FRAME_MAX_BYTES {
        let rest = piece.split_off(FRAME_MAX_BYTES);
        send(streamed_frame(half, piece, false));
        piece = rest;
    }
    send(streamed_frame(half, piece, end_of_stream));
}

fn streamed_frame(half: Half, piece: Vec<u8>, end_of_stream: bool) -> ProcessingResponse {
    let frame = StreamedBodyResponse {
        body: piece,
        end_of_stream,
        ..Default::default()
    };
    let mutation = BodyMutation {
        mutation: Some(Mutation::StreamedResponse(frame)),
    };
    body(
        half,
        CommonResponse {
            body_mutation: Some(mutation),
            ..Default::default()
        },
    )
}

/// Lets a body message pass unchanged, where the proxy keeps the body itself.
pub(super) fn untouched_body(half: Half) -> ProcessingResponse {
    body(half, CommonResponse::default())
}

fn body(half: Half, common: CommonResponse) -> ProcessingResponse {
    let response = BodyResponse {
        response: Some(common),
    };
    message(match half {
        Half::Request => Response::RequestBody(response),
        Half::Response => Response::ResponseBody(response),
    })
}

/// Lets trailers pass.
pub(super) fn trailers(half: Half) -> ProcessingResponse {
    let response = TrailersResponse::default();
    message(match half {
        Half::Request => Response::RequestTrailers(response),
        Half::Response => Response::ResponseTrailers(response),
    })
}

fn message(response: Response) -> ProcessingResponse {
    ProcessingResponse {
        response: Some(response),
        ..Default::default()
    }
}

fn object(key: &str, value: Value) -> Struct {
    Struct {
        fields: HashMap::from([(key.to_owned(), value)]),
    }
}

/// Sets a header, whatever the client sent under that name. The action is said outright, since what proxies do
/// without differs.
fn set(key: &str, value: &str) -> HeaderValueOption {
    HeaderValueOption {
        header: Some(HeaderValue {
            key: key.to_owned(),
            raw_value: value.as_bytes().to_vec(),
            ..Default::default()
        }),
        append_action: HeaderAppendAction::OverwriteIfExistsOrAdd.into(),
        ..Default::default()
    }
}

//! What goes back to the proxy: a pick, a refusal, bodies and trailers, as ext_proc messages.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;

use envoy_types::pb::envoy::config::core::v3::header_value_option::HeaderAppendAction;
use envoy_types::pb::envoy::config::core::v3::{HeaderValue, HeaderValueOption};
use envoy_types::pb::envoy::extensions::filters::http::ext_proc::v3::ProcessingMode;
use envoy_types::pb::envoy::extensions::filters::http::ext_proc::v3::processing_mode::{
    BodySendMode, HeaderSendMode,
};
use envoy_types::pb::envoy::service::ext_proc::v3::body_mutation::Mutation;
use envoy_types::pb::envoy::service::ext_proc::v3::processing_response::Response;
use envoy_types::pb::envoy::service::ext_proc::v3::{
    BodyMutation, BodyResponse, CommonResponse, GrpcStatus, HeaderMutation, HeadersResponse,
    HttpBody, ImmediateResponse, ProcessingResponse, StreamedBodyResponse, TrailersResponse,
};
use envoy_types::pb::envoy::r#type::v3::HttpStatus;
use envoy_types::pb::google::protobuf::value::Kind;
use envoy_types::pb::google::protobuf::{Struct, Value};

use picker_core::refusal::{self, Reason};
use picker_core::request::Splice;

use super::attributes::{DESTINATION, NAMESPACE};
use super::modes::Follow;

/// The most body bytes in one message: proxies ask for 64 KiB at most, header included.
pub(super) const FRAME_MAX_BYTES: usize = 62_000;

/// What goes back, in order. A frame too long for one message is cut when its turn comes, so that no body lies in memory
/// twice.
#[derive(Debug, Default)]
pub(super) struct Answers {
    queue: VecDeque<Answer>,
    /// Puts another model's name into the request's body, piece by piece as it goes.
    pub(super) splice: Option<Splice>,
}

#[derive(Debug)]
enum Answer {
    Message(Box<ProcessingResponse>),
    Frame(Frame),
}

/// A frame of a body, or what is left of it.
#[derive(Debug)]
struct Frame {
    half: Half,
    body: HttpBody,
    /// Bytes of it that have gone.
    gone: usize,
    /// The most bytes in one message.
    piece_max: usize,
}

impl Answers {
    pub(super) fn push(&mut self, answer: ProcessingResponse) {
        self.queue.push_back(Answer::Message(Box::new(answer)));
    }

    /// Gives a frame back as it came, in a full-duplex mode; only one over [`FRAME_MAX_BYTES`] is cut, and never a message
    /// of gRPC.
    pub(super) fn push_frame(&mut self, half: Half, body: HttpBody, messages: bool) {
        let piece_max = if messages {
            usize::MAX
        } else {
            FRAME_MAX_BYTES
        };
        self.queue.push_back(Answer::Frame(Frame {
            half,
            body,
            gone: 0,
            piece_max,
        }));
    }

    /// The next message; `None` once everything has gone.
    pub(super) fn pop(&mut self) -> Option<ProcessingResponse> {
        loop {
            let mut frame = match self.queue.pop_front()? {
                Answer::Message(message) => return Some(*message),
                Answer::Frame(frame) => frame,
            };
            let half = frame.half;
            let (mut piece, whole) = frame.next();
            if !whole {
                self.queue.push_front(Answer::Frame(frame));
            }
            let splice = self.splice.as_mut().filter(|_| half == Half::Request);
            if let Some(changed) = splice.and_then(|splice| splice.pass(&piece.body)) {
                let ends = piece.end_of_stream || piece.end_of_stream_without_message;
                if changed.is_empty() && !ends {
                    continue;
                }
                piece.body = changed;
            }
            return Some(streamed(half, piece));
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    pub(super) fn clear(&mut self) {
        self.queue.clear();
    }
}

impl Frame {
    /// The next piece of it, and whether that was the last.
    fn next(&mut self) -> (StreamedBodyResponse, bool) {
        let left = self.body.body.len() - self.gone;
        if left > self.piece_max {
            let piece = &self.body.body[self.gone..self.gone + self.piece_max];
            self.gone += self.piece_max;
            let piece = StreamedBodyResponse {
                body: piece.to_vec(),
                ..StreamedBodyResponse::default()
            };
            return (piece, false);
        }
        let body = if self.gone == 0 {
            std::mem::take(&mut self.body.body)
        } else {
            self.body.body[self.gone..].to_vec()
        };
        let last = StreamedBodyResponse {
            body,
            end_of_stream: self.body.end_of_stream,
            end_of_stream_without_message: self.body.end_of_stream_without_message,
            grpc_message_compressed: self.body.grpc_message_compressed,
            drain_complete: false,
        };
        (last, true)
    }
}

/// Which message of a request carries its pick.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// The answer to its headers.
    Headers,
    /// The answer to its body, where the proxy holds the headers until then.
    Body,
    /// The answer to its trailers, since no body came before them: metadata alone, as the headers cannot be reached.
    Trailers,
}

/// A pick, as it is told.
#[derive(Debug)]
pub(super) struct Picked<'a> {
    /// The endpoint, and after it those to try next.
    pub(super) endpoints: &'a [SocketAddr],
    /// The request's id, if it came without.
    pub(super) new_request_id: Option<&'a str>,
    /// Headers that are not to go on.
    pub(super) remove: &'a [&'static str],
    /// Whether the frames of the body do not have the length that the headers say.
    pub(super) resized: bool,
    /// The body that goes on in the place of the one that the proxy keeps.
    pub(super) body: Option<Vec<u8>>,
    /// Whether the proxy is asked to let the response pass here.
    pub(super) ask_for_response: bool,
}

impl Picked<'_> {
    /// Sends the request to its endpoint; the header and the metadata say the same.
    pub(super) fn answer(self, place: Place) -> ProcessingResponse {
        let list: Vec<String> = self.endpoints.iter().map(ToString::to_string).collect();
        let list = list.join(",");
        let mut set_headers = vec![set(DESTINATION, &list)];
        set_headers.extend(self.new_request_id.map(|id| set("x-request-id", id)));
        let mut remove_headers: Vec<String> = self.remove.iter().map(ToString::to_string).collect();
        if self.resized {
            remove_headers.push(LENGTH.to_owned());
        }
        set_headers.extend(
            self.body
                .as_ref()
                .map(|body| set(LENGTH, &body.len().to_string())),
        );
        let common = CommonResponse {
            header_mutation: Some(HeaderMutation {
                set_headers,
                remove_headers,
            }),
            body_mutation: self.body.map(|body| BodyMutation {
                mutation: Some(Mutation::Body(body)),
            }),
            ..CommonResponse::default()
        };
        let response = match place {
            Place::Headers => Response::RequestHeaders(HeadersResponse {
                response: Some(common),
            }),
            Place::Body => Response::RequestBody(BodyResponse {
                response: Some(common),
            }),
            Place::Trailers => Response::RequestTrailers(TrailersResponse::default()),
        };
        let destination = Value {
            kind: Some(Kind::StringValue(list)),
        };
        let inner = Value {
            kind: Some(Kind::StructValue(object(DESTINATION, destination))),
        };
        ProcessingResponse {
            dynamic_metadata: Some(object(NAMESPACE, inner)),
            mode_override: self.ask_for_response.then(|| asked_for(Follow::Full)),
            ..message(response)
        }
    }
}

/// The length of a body, which is no longer right once the body has changed.
const LENGTH: &str = "content-length";

/// Asks for the request's body, where the proxy was configured to send none by itself and allows that to be changed: in
/// full duplex, so that the pick may wait for it. `follow` says what is wanted of the response.
pub(super) fn ask_for_body(follow: Follow) -> ProcessingResponse {
    ProcessingResponse {
        mode_override: Some(asked_for(follow)),
        ..ProcessingResponse::default()
    }
}

fn asked_for(follow: Follow) -> ProcessingMode {
    let send = |wanted| {
        i32::from(if wanted {
            HeaderSendMode::Send
        } else {
            HeaderSendMode::Skip
        })
    };
    let full = follow == Follow::Full;
    let watched = full || follow == Follow::Watched;
    let response_body_mode = if full {
        BodySendMode::FullDuplexStreamed
    } else {
        BodySendMode::None
    };
    ProcessingMode {
        request_header_mode: send(true),
        request_body_mode: BodySendMode::FullDuplexStreamed.into(),
        request_trailer_mode: send(true),
        response_header_mode: send(watched),
        response_body_mode: response_body_mode.into(),
        response_trailer_mode: send(watched),
    }
}

/// Answers the request with a list of models, in the server's place.
pub(super) fn page(json: String) -> ProcessingResponse {
    message(Response::ImmediateResponse(ImmediateResponse {
        status: Some(HttpStatus { code: 200 }),
        headers: Some(HeaderMutation {
            set_headers: vec![set("content-type", "application/json")],
            remove_headers: Vec::new(),
        }),
        body: json.into_bytes(),
        grpc_status: None,
        details: "model_catalogue".to_owned(),
    }))
}

/// Lets the headers of a response pass whose body will have another length than they say.
pub(super) fn resized_response() -> ProcessingResponse {
    message(Response::ResponseHeaders(HeadersResponse {
        response: Some(CommonResponse {
            header_mutation: Some(HeaderMutation {
                set_headers: Vec::new(),
                remove_headers: vec![LENGTH.to_owned()],
            }),
            ..CommonResponse::default()
        }),
    }))
}

/// Puts another body in the place of a response's, or of a piece of it, where the proxy keeps the body itself; of a `whole` one
/// the length is said.
pub(super) fn changed_response(changed: Vec<u8>, whole: bool) -> ProcessingResponse {
    let length = whole.then(|| set(LENGTH, &changed.len().to_string()));
    let common = CommonResponse {
        header_mutation: length.map(|length| HeaderMutation {
            set_headers: vec![length],
            remove_headers: Vec::new(),
        }),
        body_mutation: Some(BodyMutation {
            mutation: Some(Mutation::Body(changed)),
        }),
        ..CommonResponse::default()
    };
    body(Half::Response, common)
}

/// Answers the request in the server's place. The reason stands in the proxy's access log too.
pub(super) fn immediate(reason: Reason, answer: refusal::Answer) -> ProcessingResponse {
    let set_headers = answer.headers.iter();
    let set_headers = set_headers.map(|(name, value)| set(name, value)).collect();
    message(Response::ImmediateResponse(ImmediateResponse {
        status: Some(HttpStatus {
            code: i32::from(answer.status),
        }),
        headers: Some(HeaderMutation {
            set_headers,
            remove_headers: Vec::new(),
        }),
        body: answer.body,
        grpc_status: answer.grpc_status.map(|status| GrpcStatus { status }),
        details: reason.as_str().to_owned(),
    }))
}

/// Lets headers pass unchanged.
pub(super) fn headers(half: Half) -> ProcessingResponse {
    let response = HeadersResponse {
        response: Some(CommonResponse::default()),
    };
    message(match half {
        Half::Request => Response::RequestHeaders(response),
        Half::Response => Response::ResponseHeaders(response),
    })
}

/// Which half of the exchange a message belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Half {
    /// From the client to the server.
    Request,
    /// From the server to the client.
    Response,
}

fn streamed(half: Half, frame: StreamedBodyResponse) -> ProcessingResponse {
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
pub(super) fn set(key: &str, value: &str) -> HeaderValueOption {
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

//! One stream of the no-op server: messages in, the same out, with no I/O.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;

use envoy_types::pb::envoy::config::core::v3::header_value_option::HeaderAppendAction;
use envoy_types::pb::envoy::config::core::v3::{HeaderValue, HeaderValueOption};
use envoy_types::pb::envoy::extensions::filters::http::ext_proc::v3::ProcessingMode;
use envoy_types::pb::envoy::extensions::filters::http::ext_proc::v3::processing_mode::{
    BodySendMode, HeaderSendMode,
};
use envoy_types::pb::envoy::service::ext_proc::v3::body_mutation::Mutation;
use envoy_types::pb::envoy::service::ext_proc::v3::processing_request::Request as Part;
use envoy_types::pb::envoy::service::ext_proc::v3::processing_response::Response as Answer;
use envoy_types::pb::envoy::service::ext_proc::v3::{
    BodyMutation, BodyResponse, CommonResponse, HeaderMutation, HeadersResponse, HttpBody,
    ProcessingRequest, ProcessingResponse, StreamedBodyResponse, TrailersResponse,
};
use envoy_types::pb::google::protobuf::value::Kind;
use envoy_types::pb::google::protobuf::{Struct, Value};

/// The header, and the key of dynamic metadata, that says where a request goes.
pub(crate) const DESTINATION: &str = "x-gateway-destination-endpoint";
/// The namespace of dynamic metadata that proxies read the destination from.
pub(crate) const NAMESPACE: &str = "envoy.lb";

/// The state of one stream.
#[derive(Debug)]
pub(super) struct Echo {
    endpoint: SocketAddr,
    /// What is to be sent, in order.
    pub(super) answers: VecDeque<ProcessingResponse>,
    /// The frames of a request whose headers wait for its end.
    held: Option<Vec<HttpBody>>,
    /// Whether the proxy only watches.
    watching: bool,
}

impl Echo {
    pub(super) const fn new(endpoint: SocketAddr) -> Self {
        Self {
            endpoint,
            answers: VecDeque::new(),
            held: None,
            watching: false,
        }
    }

    pub(super) fn on_message(&mut self, message: ProcessingRequest) {
        self.watching |= message.observability_mode;
        if self.watching {
            return;
        }
        let unasked = message.protocol_config.is_some_and(|config| {
            config.request_body_mode != i32::from(BodySendMode::FullDuplexStreamed)
        });
        match message.request {
            Some(Part::RequestHeaders(headers)) if headers.end_of_stream => self.pick(),
            Some(Part::RequestHeaders(_)) => {
                self.held = Some(Vec::new());
                if unasked {
                    self.answers.push_back(ask_for_the_body());
                }
            }
            Some(Part::RequestBody(body)) => self.on_request_body(body),
            Some(Part::RequestTrailers(_)) => {
                self.release();
                let trailers = TrailersResponse::default();
                self.say(Answer::RequestTrailers(trailers));
            }
            Some(Part::ResponseHeaders(_)) => {
                let headers = HeadersResponse {
                    response: Some(CommonResponse::default()),
                };
                self.say(Answer::ResponseHeaders(headers));
            }
            Some(Part::ResponseBody(body)) => self.say(Answer::ResponseBody(same(body))),
            Some(Part::ResponseTrailers(_)) => {
                self.say(Answer::ResponseTrailers(TrailersResponse::default()));
            }
            None => {}
        }
    }

    fn on_request_body(&mut self, body: HttpBody) {
        let ends = body.end_of_stream;
        match &mut self.held {
            Some(frames) => frames.push(body),
            None => self.say(Answer::RequestBody(same(body))),
        }
        if ends {
            self.release();
        }
    }

    /// Answers the headers that wait, and gives the frames back.
    fn release(&mut self) {
        let Some(frames) = self.held.take() else {
            return;
        };
        self.pick();
        for frame in frames {
            self.say(Answer::RequestBody(same(frame)));
        }
    }

    /// Answers the request's headers, in the header and in the metadata, as a picker does.
    fn pick(&mut self) {
        let endpoint = self.endpoint.to_string();
        let header = HeaderValueOption {
            header: Some(HeaderValue {
                key: DESTINATION.to_owned(),
                raw_value: endpoint.clone().into_bytes(),
                ..Default::default()
            }),
            append_action: HeaderAppendAction::OverwriteIfExistsOrAdd.into(),
            ..Default::default()
        };
        let mutation = HeaderMutation {
            set_headers: vec![header],
            remove_headers: Vec::new(),
        };
        let inner = object(DESTINATION, Kind::StringValue(endpoint));
        self.answers.push_back(ProcessingResponse {
            dynamic_metadata: Some(object(NAMESPACE, Kind::StructValue(inner))),
            response: Some(Answer::RequestHeaders(HeadersResponse {
                response: Some(CommonResponse {
                    header_mutation: Some(mutation),
                    ..Default::default()
                }),
            })),
            ..Default::default()
        });
    }

    fn say(&mut self, answer: Answer) {
        self.answers.push_back(ProcessingResponse {
            response: Some(answer),
            ..Default::default()
        });
    }
}

/// A mode override that stands alone: the request's body, and nothing of the response.
fn ask_for_the_body() -> ProcessingResponse {
    ProcessingResponse {
        mode_override: Some(ProcessingMode {
            request_body_mode: BodySendMode::FullDuplexStreamed.into(),
            request_trailer_mode: HeaderSendMode::Send.into(),
            response_header_mode: HeaderSendMode::Skip.into(),
            response_body_mode: BodySendMode::None.into(),
            response_trailer_mode: HeaderSendMode::Skip.into(),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// A frame as it came.
fn same(body: HttpBody) -> BodyResponse {
    let frame = StreamedBodyResponse {
        body: body.body,
        end_of_stream: body.end_of_stream,
        ..Default::default()
    };
    BodyResponse {
        response: Some(CommonResponse {
            body_mutation: Some(BodyMutation {
                mutation: Some(Mutation::StreamedResponse(frame)),
            }),
            ..Default::default()
        }),
    }
}

/// An object of one field.
fn object(key: &str, kind: Kind) -> Struct {
    let value = Value { kind: Some(kind) };
    Struct {
        fields: HashMap::from([(key.to_owned(), value)]),
    }
}

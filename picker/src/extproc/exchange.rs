//! The state of one exchange: HTTP request and response as ext_proc messages, in and out, with no I/O.
//!
//! In full-duplex mode the request is held until its body is whole, since the pick depends on it, and then given
//! back frame by frame; the response passes as it comes. A body over the limit is not held longer: the pick is made on its
//! beginning, and the rest passes as it comes. In the other modes the proxy waits for the answer to the
//! headers before it sends a body, so the pick is made on the headers alone.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::SystemTime;

use envoy_types::pb::envoy::config::core::v3::Metadata;
use envoy_types::pb::envoy::extensions::filters::http::ext_proc::v3::processing_mode::BodySendMode;
use envoy_types::pb::envoy::service::ext_proc::v3::processing_request::Request as Part;
use envoy_types::pb::envoy::service::ext_proc::v3::{
    HttpBody, HttpHeaders, ProcessingRequest, ProcessingResponse, ProtocolConfiguration,
};
use picker_core::endpoint::Subset;
use picker_core::request::{Request, Scan};
use picker_core::response::Response;
use picker_core::route::Call;
use picker_core::time::Instant;
use tracing::debug;

use super::attributes;
use super::reply::{self, Half};
use crate::driver::{Flight, PROGRESS_EVERY, Pools, Refused};

/// What the gRPC call says of the pool it is for.
#[derive(Clone, Debug, Default)]
pub(super) struct Caller {
    /// The port on which it came in.
    pub(super) port: Option<u16>,
    /// Its `:authority`.
    pub(super) authority: Option<String>,
    /// Its metadata `x-pointsman-pool`.
    pub(super) pool: Option<String>,
}

/// One HTTP exchange.
#[derive(Debug)]
pub(super) struct Exchange {
    pools: Arc<Pools>,
    caller: Caller,
    /// The most bytes of a request's body that are held.
    body_limit: usize,
    modes: Modes,
    subset: Option<Subset>,
    request: RequestHalf,
    response: Response,
    /// When progress was told last.
    told: Instant,
    told_first_token: bool,
    flight: Option<Flight>,
}

/// Whether bodies come and go as streams of their own (full duplex), for each half.
#[derive(Clone, Copy, Debug)]
struct Modes {
    request_streamed: bool,
    response_streamed: bool,
}

/// How far the request is.
#[derive(Debug)]
enum RequestHalf {
    /// Nothing has come.
    Start,
    /// Headers have come; the body is held.
    Held(Held),
    /// Answered; what still comes of the body passes.
    Passing,
    /// Answered, and its body is whole.
    Whole,
    /// Refused; what still comes is ignored.
    Refused,
}

/// A request that waits for the end of its body.
#[derive(Debug)]
struct Held {
    head: Head,
    frames: Vec<Vec<u8>>,
    bytes: usize,
}

/// What ends the holding of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// The last frame of its body.
    Whole,
    /// Trailers, after the last frame.
    Trailers,
    /// The limit: more is to come.
    Open,
}

/// What the request's headers say.
#[derive(Clone, Debug)]
struct Head {
    path: String,
    request_id: Arc<str>,
    /// Whether the id is ours, and to be set.
    new_id: bool,
    /// The length of the body, where the client says it.
    content_length: Option<u64>,
}

type Answers = VecDeque<ProcessingResponse>;

impl Exchange {
    pub(super) fn new(pools: Arc<Pools>, caller: Caller, body_limit: usize) -> Self {
        Self {
            pools,
            caller,
            body_limit,
            modes: Modes {
                request_streamed: true,
                response_streamed: true,
            },
            subset: None,
            request: RequestHalf::Start,
            response: Response::new(),
            told: Instant::ZERO,
            told_first_token: false,
            flight: None,
        }
    }

    /// Takes in one message and appends what is to be answered.
    pub(super) fn on_message(
        &mut self,
        now: Instant,
        message: ProcessingRequest,
        answers: &mut Answers,
    ) {
        if let Some(config) = &message.protocol_config {
            self.modes = Modes::of(config);
        }
        let metadata = message.metadata_context;
        match message.request {
            Some(Part::RequestHeaders(headers)) => {
                self.on_request_headers(&headers, metadata.as_ref(), answers);
            }
            Some(Part::RequestBody(body)) => {
                self.on_request_body(body, metadata.as_ref(), answers);
            }
            Some(Part::RequestTrailers(_)) => self.on_request_trailers(answers),
            Some(Part::ResponseHeaders(headers)) => {
                self.on_response_headers(now, &headers, metadata.as_ref(), answers);
            }
            Some(Part::ResponseBody(body)) => self.on_response_body(now, body, answers),
            Some(Part::ResponseTrailers(_)) => {
                self.on_response_end();
                answers.push_back(reply::trailers(Half::Response));
            }
            None => debug!("a message of a kind that is not known; ignored"),
        }
    }

    fn on_request_headers(
        &mut self,
        headers: &HttpHeaders,
        metadata: Option<&Metadata>,
        answers: &mut Answers,
    ) {
        self.subset = attributes::subset(metadata);
        let head = Head::of(headers);
        if headers.end_of_stream || !self.modes.request_streamed {
            let request = Request::of_headers(&head.path);
            self.decide(&head, request, answers);
        } else {
            self.request = RequestHalf::Held(Held {
                head,
                frames: Vec::new(),
                bytes: 0,
            });
        }
    }

    fn on_request_body(
        &mut self,
        body: HttpBody,
        metadata: Option<&Metadata>,
        answers: &mut Answers,
    ) {
        // Some proxies send the hint with the body only.
        self.subset = self.subset.take().or_else(|| attributes::subset(metadata));
        match &mut self.request {
            RequestHalf::Held(held) => {
                held.bytes += body.body.len();
                if !body.body.is_empty() {
                    held.frames.push(body.body);
                }
                if body.end_of_stream {
                    self.answer_held(End::Whole, answers);
                } else if held.bytes > self.body_limit {
                    self.answer_held(End::Open, answers);
                }
            }
            RequestHalf::Passing if self.modes.request_streamed => {
                let mut send = |one| answers.push_back(one);
                reply::streamed_body(Half::Request, body.body, body.end_of_stream, &mut send);
                if body.end_of_stream {
                    self.request = RequestHalf::Whole;
                }
            }
            RequestHalf::Passing => answers.push_back(reply::untouched_body(Half::Request)),
            // A second end of the stream, or a body after a refusal.
            RequestHalf::Whole | RequestHalf::Refused | RequestHalf::Start => {}
        }
    }

    /// Trailers end the body: no frame before them said that it was the last.
    fn on_request_trailers(&mut self, answers: &mut Answers) {
        self.answer_held(End::Trailers, answers);
        if !matches!(self.request, RequestHalf::Refused) {
            self.request = RequestHalf::Whole;
            answers.push_back(reply::trailers(Half::Request));
        }
    }

    /// Decides about a held request and gives its body back, if there is one held.
    fn answer_held(&mut self, end: End, answers: &mut Answers) {
        let RequestHalf::Held(held) = std::mem::replace(&mut self.request, RequestHalf::Passing)
        else {
            return;
        };
        let request = held.scan(end);
        self.decide(&held.head, request, answers);
        if matches!(self.request, RequestHalf::Refused) {
            return;
        }
        if end != End::Open {
            self.request = RequestHalf::Whole;
        }
        let ends = end == End::Whole;
        let mut send = |one| answers.push_back(one);
        let mut frames = held.frames.into_iter().peekable();
        if frames.peek().is_none() && ends {
            reply::streamed_body(Half::Request, Vec::new(), true, &mut send);
        }
        while let Some(frame) = frames.next() {
            let last = frames.peek().is_none() && ends;
            reply::streamed_body(Half::Request, frame, last, &mut send);
        }
    }

    /// Picks, and answers the request's headers with the pick or in the server's place.
    fn decide(&mut self, head: &Head, request: Request, answers: &mut Answers) {
        let call = Call {
            port: self.caller.port,
            authority: self.caller.authority.as_deref(),
            metadata: self.caller.pool.as_deref(),
            subset: self.subset.as_ref(),
        };
        let routes = self.pools.routes();
        let pool = match routes.resolve(&call) {
            Ok(pool) => pool,
            Err(none) => {
                self.request = RequestHalf::Refused;
                return answers.push_back(reply::immediate(503, "no-pool", &none.to_string()));
            }
        };
        let picked = match self.pools.get(pool) {
            Some(handle) => handle.pick(head.request_id.clone(), request, self.subset.take()),
            None => Err(Refused::without_endpoints()),
        };
        match picked {
            Ok(flight) => {
                let id = head.new_id.then_some(&*head.request_id);
                answers.push_back(reply::picked(flight.address(), id));
                self.flight = Some(flight);
                self.request = RequestHalf::Passing;
            }
            Err(refused) => {
                let text = refused.explain(pool);
                answers.push_back(reply::immediate(503, "rejected-no-endpoints", &text));
                self.request = RequestHalf::Refused;
            }
        }
    }

    fn on_response_headers(
        &mut self,
        now: Instant,
        headers: &HttpHeaders,
        metadata: Option<&Metadata>,
        answers: &mut Answers,
    ) {
        let header = |name| attributes::header(headers.headers.as_ref(), name);
        let status = header(":status")
            .and_then(|status| status.parse().ok())
            .unwrap_or(0);
        let content_type = header("content-type").unwrap_or_default();
        self.response
            .on_headers(status, content_type, header("content-encoding"));
        self.told = now;
        if let Some(flight) = &mut self.flight {
            flight.ending.status = Some(status);
            if let Some(address) = attributes::served(metadata) {
                flight.served_by(address);
            }
        }
        if headers.end_of_stream {
            self.on_response_end();
        }
        answers.push_back(reply::response_headers());
    }

    fn on_response_body(&mut self, now: Instant, body: HttpBody, answers: &mut Answers) {
        self.response.on_body(&body.body);
        if body.end_of_stream {
            self.on_response_end();
        } else {
            self.tell_progress(now);
        }
        if self.modes.response_streamed {
            let mut send = |one| answers.push_back(one);
            reply::streamed_body(Half::Response, body.body, body.end_of_stream, &mut send);
        } else {
            answers.push_back(reply::untouched_body(Half::Response));
        }
    }

    /// Tells of the first token at once, and of further ones from time to time.
    fn tell_progress(&mut self, now: Instant) {
        let Some(flight) = &self.flight else {
            return;
        };
        if !self.told_first_token && self.response.first_token_seen() {
            self.told_first_token = true;
            self.told = now;
            flight.first_token();
        } else if self.told_first_token && now.saturating_since(self.told) >= PROGRESS_EVERY {
            self.told = now;
            flight.progressed(self.response.tokens());
        }
    }

    /// The response is whole. A second end, or trailers after the end, find no flight.
    fn on_response_end(&mut self) {
        self.response.on_end();
        let Some(mut flight) = self.flight.take() else {
            return;
        };
        if !self.told_first_token && self.response.first_token_seen() {
            flight.first_token();
        }
        let usage = self.response.usage();
        let tokens = self.response.tokens();
        flight.ending.complete = true;
        flight.ending.error_inside = self.response.failure().is_some();
        flight.ending.prompt_tokens = usage.map(|usage| usage.prompt_tokens);
        flight.ending.generated = (tokens > 0).then_some(tokens);
    }
}

impl Modes {
    fn of(config: &ProtocolConfiguration) -> Self {
        let streamed = |mode| mode == i32::from(BodySendMode::FullDuplexStreamed);
        Self {
            request_streamed: streamed(config.request_body_mode),
            response_streamed: streamed(config.response_body_mode),
        }
    }
}

impl Head {
    fn of(headers: &HttpHeaders) -> Self {
        let header = |name| attributes::header(headers.headers.as_ref(), name);
        let id = header("x-request-id").filter(|id| !id.is_empty());
        Self {
            path: header(":path").unwrap_or_default().to_owned(),
            new_id: id.is_none(),
            content_length: header("content-length").and_then(|length| length.parse().ok()),
            request_id: id.map_or_else(new_request_id, Arc::from),
        }
    }
}

impl Held {
    /// Reads the body, frame by frame.
    fn scan(&self, end: End) -> Request {
        let mut scan = Scan::new(&self.head.path);
        for frame in &self.frames {
            scan.feed(frame);
        }
        match end {
            End::Whole | End::Trailers => scan.request(),
            End::Open => scan.request_so_far(self.head.content_length),
        }
    }
}

/// An id for a request that came without: unlike those of other replicas and of earlier lives of this one.
fn new_request_id() -> Arc<str> {
    static LIFE: LazyLock<u128> = LazyLock::new(|| {
        let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        since_1970.unwrap_or_default().as_nanos() ^ u128::from(std::process::id()).rotate_left(64)
    });
    static COUNT: AtomicU64 = AtomicU64::new(0);
    format!(
        "pointsman-{:x}-{}",
        *LIFE,
        COUNT.fetch_add(1, Ordering::Relaxed)
    )
    .into()
}

#[cfg(test)]
mod tests;

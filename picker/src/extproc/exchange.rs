//! The state of one exchange: HTTP request and response as ext_proc messages, in and out, with no I/O and no clock.
//!
//! The halves are independent: each follows its own messages, in any order, and a message too many changes nothing. When the pick
//! is made depends on how the proxy sends the request's body (see [`BodyMode`]): as late as that mode lets us wait, since the
//! pick depends on the body, and never so late that the proxy waits for us while we wait for it.

mod decision;
mod request_half;
mod response_half;

use std::sync::Arc;

use envoy_types::pb::envoy::service::ext_proc::v3::processing_request::Request as Part;
use envoy_types::pb::envoy::service::ext_proc::v3::{ProcessingRequest, ProcessingResponse};
use picker_core::endpoint::Subset;
use picker_core::request::RequestKey;
use picker_core::time::Instant;
use tracing::debug;

use self::request_half::RequestHalf;
use self::response_half::ResponseHalf;
use super::Surroundings;
use super::attributes;
use super::body::Lease;
use super::metrics::Ignored;
use super::modes::{BodyMode, Follow, Modes};
use super::reply::{self, Answers, Half};
use crate::driver::Flight;

/// What the gRPC call says of itself and of the pool it is for.
#[derive(Clone, Debug, Default)]
pub(super) struct Caller {
    /// The port on which it came in.
    pub(super) port: Option<u16>,
    /// Its `:authority`.
    pub(super) authority: Option<String>,
    /// Its metadata `x-pointsman-pool`.
    pub(super) pool: Option<String>,
    /// How the proxy calls the cluster and the route, where it is configured to say (`request_attributes`).
    pub(super) attributes: Vec<String>,
    /// Its metadata `x-pointsman-follow`: how the end of the response will be known, where no response body is sent.
    pub(super) follow: Option<Follow>,
    /// Its metadata `x-pointsman-body: ask`: the proxy sends no body by itself, and lets itself be asked for it.
    pub(super) may_ask: bool,
}

/// One HTTP exchange.
#[derive(Debug)]
pub(super) struct Exchange {
    edge: Arc<Surroundings>,
    caller: Caller,
    modes: Modes,
    /// The proxy only shows what passes: nothing that is answered has an effect.
    observed: bool,
    /// The proxy was asked for the request's body, and has let itself be asked.
    asked_for_body: bool,
    /// The proxy was asked for a response that it would not have shown, for the sake of the model's name in it.
    asked_for_response: bool,
    begun: bool,
    head_seen: bool,
    subset: Option<Subset>,
    request: RequestHalf,
    response: ResponseHalf,
    flight: Option<Flight>,
    /// The flight waits for the stream that watches it.
    parked: Option<(Arc<str>, RequestKey)>,
    answers: Answers,
    /// What the frames among the answers hold of the budget for bodies.
    lease: Option<Lease>,
}

impl Exchange {
    pub(super) fn new(edge: Arc<Surroundings>, caller: Caller) -> Self {
        Self {
            edge,
            caller,
            modes: Modes::UNSAID,
            observed: false,
            asked_for_body: false,
            asked_for_response: false,
            begun: false,
            head_seen: false,
            subset: None,
            request: RequestHalf::Start,
            response: ResponseHalf::default(),
            flight: None,
            parked: None,
            answers: Answers::default(),
            lease: None,
        }
    }

    /// Takes in one message. What is to be answered is then polled.
    pub(super) fn on_message(&mut self, now: Instant, message: ProcessingRequest) {
        let first = !std::mem::replace(&mut self.begun, true);
        if let Some(config) = &message.protocol_config
            && first
        {
            self.modes = Modes::of(config);
        }
        self.observed |= message.observability_mode;
        if self.caller.attributes.is_empty() {
            self.caller.attributes = attributes::names(&message.attributes);
        }
        let metadata = message.metadata_context;
        match message.request {
            Some(Part::RequestHeaders(headers)) => {
                self.on_request_headers(now, headers, metadata.as_ref());
            }
            Some(Part::RequestBody(body)) => self.on_request_body(now, body, metadata.as_ref()),
            Some(Part::RequestTrailers(_)) => self.on_request_trailers(now),
            Some(Part::ResponseHeaders(headers)) => {
                self.on_response_headers(now, &headers, metadata.as_ref());
            }
            Some(Part::ResponseBody(body)) => self.on_response_body(now, body),
            Some(Part::ResponseTrailers(_)) => {
                self.on_response_end();
                self.answers.push(reply::trailers(Half::Response));
            }
            None => self.edge.metrics.on_ignored(Ignored::Unknown),
        }
        if self.observed {
            self.answers.clear();
        }
    }

    /// The next message to send; `None` until another one comes.
    pub(super) fn poll_answer(&mut self) -> Option<ProcessingResponse> {
        let answer = self.answers.pop();
        if self.answers.is_empty() {
            self.lease = None;
        }
        answer
    }

    /// When [`Exchange::on_timeout`] is to be called.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        match &self.request {
            RequestHalf::Held(held) => Some(held.until),
            _ => None,
        }
    }

    /// Picks by what has come of a body whose rest is long in coming; calling it early does no harm.
    pub(super) fn on_timeout(&mut self, now: Instant) {
        if self.poll_timeout().is_some_and(|until| until <= now) {
            self.on_stalled(now);
            if self.observed {
                self.answers.clear();
            }
        }
    }

    /// Whether the request was picked or refused.
    pub(super) fn is_decided(&self) -> bool {
        match self.request {
            RequestHalf::Start | RequestHalf::Held(_) | RequestHalf::Awaited(_) => false,
            RequestHalf::Passing | RequestHalf::Whole | RequestHalf::Answered => true,
        }
    }

    /// Whether the proxy loses nothing if this stream is closed in good order now: the request has gone on whole, and of the
    /// response nothing but its end is shown here.
    pub(super) fn may_leave(&self) -> bool {
        let passed = matches!(self.request, RequestHalf::Whole) && self.answers.is_empty();
        let unseen = self.modes.response == BodyMode::Unsent && self.response.headers_seen;
        self.observed || (passed && unseen)
    }

    /// The stream has ended, by whomever. Nothing comes after this.
    ///
    /// Envoy resets the stream of a request that is over as it does that of one that was given up, so a response that is not
    /// shown to its end is taken to be whole once it had begun.
    pub(super) fn on_end(&mut self) {
        let answered = matches!(self.request, RequestHalf::Whole | RequestHalf::Passing)
            && self.answers.is_empty();
        if let Some((id, key)) = self.parked.take()
            && !answered
        {
            drop(self.edge.watches.cancel(&id, key));
        }
        let Some(mut flight) = self.flight.take() else {
            return;
        };
        match self.follow() {
            Follow::Released if answered => flight.release(),
            // Nothing but the end of the stream tells of the end of a response that is not shown to its end.
            Follow::Watched | Follow::Full if self.is_shown_in_part() => {
                flight.ending.complete = self.response.headers_seen;
            }
            _ => debug!(request = %flight.request_id(), "a stream ended before its response"),
        }
    }

    /// How the end of the response is known.
    fn follow(&self) -> Follow {
        let passes = self.modes.response != BodyMode::Unsent;
        match self.caller.follow {
            Some(Follow::WatchFilter) if !passes || self.asked_for_response => Follow::WatchFilter,
            _ if passes => Follow::Full,
            Some(Follow::Full) | None => Follow::Released,
            Some(said) => said,
        }
    }

    /// Whether the end of the response is in no message.
    fn is_shown_in_part(&self) -> bool {
        matches!(
            self.modes.response,
            BodyMode::Unsent | BodyMode::Buffered { partial: true }
        )
    }

    fn ignore(&self) {
        self.edge.metrics.on_ignored(Ignored::Unexpected);
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.on_end();
    }
}

#[cfg(test)]
mod tests;

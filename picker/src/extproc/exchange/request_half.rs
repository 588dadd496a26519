//! The request half: holds the request as long as its mode lets it, picks, and gives the body back.

use envoy_types::pb::envoy::config::core::v3::Metadata;
use envoy_types::pb::envoy::service::ext_proc::v3::{HttpBody, HttpHeaders};
use picker_core::request::{Request, Scan};
use picker_core::time::Instant;

use super::Exchange;
use super::decision::Shown;
use crate::extproc::attributes::{self, Head};
use crate::extproc::body::{Frames, Full};
use crate::extproc::metrics::Cut;
use crate::extproc::modes::{BodyMode, Follow};
use crate::extproc::reply::{self, Half, Place};

/// How far the request is.
#[derive(Debug)]
pub(super) enum RequestHalf {
    /// Nothing has come.
    Start,
    /// Headers have come and are not answered; the body is held.
    Held(Box<Held>),
    /// Headers have come and are answered without a pick; the proxy holds them until it has shown the body.
    Awaited(Box<Head>),
    /// Decided; what still comes of the body passes.
    Passing,
    /// Decided, and the body is whole.
    Whole,
    /// Answered in the server's place; what still comes is ignored.
    Answered,
}

/// A request that waits for the end of its body.
#[derive(Debug)]
pub(super) struct Held {
    head: Head,
    /// Reads the body as it comes, so that little is left to do at its end.
    scan: Scan,
    frames: Frames,
    /// When it is waited for no longer.
    pub(super) until: Instant,
}

/// What ends the holding of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// The last frame of its body.
    Whole,
    /// Trailers, after the last frame.
    Trailers,
    /// More is to come, and is not waited for.
    Open(Cut),
}

impl Exchange {
    pub(super) fn on_request_headers(
        &mut self,
        now: Instant,
        headers: HttpHeaders,
        metadata: Option<&Metadata>,
    ) {
        let answered = matches!(self.request, RequestHalf::Answered);
        if std::mem::replace(&mut self.head_seen, true) || answered {
            return self.ignore();
        }
        let mut head = Head::of(headers.headers, metadata, self.edge.settings.trust);
        self.edge.metrics.on_stripped(head.control.len());
        let hint = attributes::subset(metadata);
        self.subset = head.selected.take().or(hint).or(head.subset.take());
        let first = matches!(self.request, RequestHalf::Start);
        if !first || headers.end_of_stream {
            let request = Request::of_headers(&head.path);
            self.decide(now, Place::Headers, &head, request, Shown::default());
            if first && matches!(self.request, RequestHalf::Passing) {
                self.request = RequestHalf::Whole;
            }
            return;
        }
        match self.modes.request {
            // A proxy that only shows what passes waits for no answer.
            BodyMode::Streamed | BodyMode::Buffered { .. } if self.observed => self.hold(now, head),
            BodyMode::Duplex { .. } => self.hold(now, head),
            BodyMode::Buffered { .. } => {
                self.answers.push(reply::headers(Half::Request));
                self.request = RequestHalf::Awaited(Box::new(head));
            }
            BodyMode::Unsent if self.caller.may_ask && !self.observed => {
                self.ask_for_body();
                self.hold(now, head);
            }
            BodyMode::Streamed | BodyMode::Unsent => {
                let request = Request::of_headers(&head.path);
                self.decide(now, Place::Headers, &head, request, Shown::default());
            }
        }
    }

    pub(super) fn on_request_body(
        &mut self,
        now: Instant,
        body: HttpBody,
        metadata: Option<&Metadata>,
    ) {
        // Some proxies send the hint with the body only.
        self.subset = self.subset.take().or_else(|| attributes::subset(metadata));
        match &mut self.request {
            RequestHalf::Held(held) => {
                held.scan.feed(&body.body);
                let ends = body.end_of_stream || body.end_of_stream_without_message;
                let pushed = held.frames.push(body, self.edge.settings.body_limit);
                match (ends, pushed) {
                    (true, _) => self.answer_held(now, End::Whole),
                    (false, Err(Full::Limit)) => self.answer_held(now, End::Open(Cut::Limit)),
                    (false, Err(Full::Budget)) => self.answer_held(now, End::Open(Cut::Budget)),
                    (false, Ok(())) => {}
                }
            }
            RequestHalf::Awaited(_) => {
                let awaited = std::mem::replace(&mut self.request, RequestHalf::Passing);
                if let RequestHalf::Awaited(head) = awaited {
                    self.decide_on_shown_body(now, &head, &body);
                }
            }
            RequestHalf::Start => self.on_body_without_headers(now, body),
            RequestHalf::Passing | RequestHalf::Whole => self.pass(body),
            RequestHalf::Answered => {}
        }
    }

    /// Trailers end the body: no frame before them said that it was the last.
    pub(super) fn on_request_trailers(&mut self, now: Instant) {
        match std::mem::replace(&mut self.request, RequestHalf::Passing) {
            held @ RequestHalf::Held(_) => {
                self.request = held;
                self.answer_held(now, End::Trailers);
            }
            RequestHalf::Awaited(head) => {
                let request = Request::of_headers(&head.path);
                self.decide(now, Place::Trailers, &head, request, Shown::default());
                if !matches!(self.request, RequestHalf::Answered) {
                    self.request = RequestHalf::Whole;
                }
                return;
            }
            RequestHalf::Answered => self.request = RequestHalf::Answered,
            RequestHalf::Start | RequestHalf::Passing | RequestHalf::Whole => {}
        }
        if !matches!(self.request, RequestHalf::Answered) {
            self.request = RequestHalf::Whole;
            self.answers.push(reply::trailers(Half::Request));
        }
    }

    /// The rest of the body is waited for no longer.
    pub(super) fn on_stalled(&mut self, now: Instant) {
        self.answer_held(now, End::Open(Cut::Stalled));
    }

    fn hold(&mut self, now: Instant, head: Head) {
        let share = self.share(&head);
        self.request = RequestHalf::Held(Box::new(Held {
            scan: Scan::new(&head.path),
            head,
            frames: Frames::new(&self.edge.budget, share),
            until: now + self.edge.settings.body_wait,
        }));
    }

    /// Has the body sent after all, and of the response what is needed to follow it as the proxy's configuration says.
    fn ask_for_body(&mut self) {
        let follow = self.caller.follow.unwrap_or(Follow::Watched);
        self.caller.follow = Some(follow);
        self.asked_for_body = true;
        self.modes.request = BodyMode::Duplex { messages: false };
        if follow == Follow::Full {
            self.modes.response = BodyMode::Duplex { messages: false };
        }
        self.answers.push(reply::ask_for_body(follow));
    }

    /// Decides about a held request and gives its body back, if there is one held.
    fn answer_held(&mut self, now: Instant, end: End) {
        let RequestHalf::Held(held) = std::mem::replace(&mut self.request, RequestHalf::Passing)
        else {
            return;
        };
        let Held {
            head, scan, frames, ..
        } = *held;
        let request = match end {
            End::Whole | End::Trailers => scan.request(),
            End::Open(_) => scan.request_so_far(head.content_length),
        };
        if let End::Open(cut) = end {
            self.edge.metrics.on_cut(cut);
        }
        let messages = self.modes.request == BodyMode::Duplex { messages: true };
        let shown = Shown {
            name: scan.model_span().filter(|_| !messages),
            body: None,
        };
        let splice = self.decide(now, Place::Headers, &head, request, shown);
        if matches!(self.request, RequestHalf::Answered) {
            return;
        }
        if end == End::Whole {
            self.request = RequestHalf::Whole;
        }
        let (frames, lease) = frames.take();
        self.lease = Some(lease);
        self.answers.splice = splice;
        for frame in frames {
            if !frame.body.is_empty() || frame.end_of_stream || messages {
                self.answers.push_frame(Half::Request, frame, messages);
            }
        }
    }

    /// Decides on a body that the proxy has shown and keeps; without an end it is the beginning of one.
    fn decide_on_shown_body(&mut self, now: Instant, head: &Head, body: &HttpBody) {
        let partial = self.modes.request == BodyMode::Buffered { partial: true };
        let scanned = body.body.len().min(self.edge.settings.scanned_max());
        let mut scan = Scan::new(&head.path);
        scan.feed(&body.body[..scanned]);
        let request = if scanned < body.body.len() || (partial && !body.end_of_stream) {
            self.edge.metrics.on_cut(Cut::Limit);
            let length = head.content_length.unwrap_or(body.body.len() as u64);
            scan.request_so_far(Some(length))
        } else {
            scan.request()
        };
        let shown = Shown {
            name: scan.model_span(),
            body: Some(&body.body),
        };
        self.decide(now, Place::Body, head, request, shown);
        if body.end_of_stream && !matches!(self.request, RequestHalf::Answered) {
            self.request = RequestHalf::Whole;
        }
    }

    /// A proxy that shows no headers still holds them where it keeps the body; elsewhere they are gone, and so is the choice.
    fn on_body_without_headers(&mut self, now: Instant, body: HttpBody) {
        self.request = RequestHalf::Passing;
        if matches!(self.modes.request, BodyMode::Buffered { .. }) {
            self.head_seen = true;
            let head = Head::of(None, None, self.edge.settings.trust);
            self.decide_on_shown_body(now, &head, &body);
        } else {
            self.pass(body);
        }
    }

    /// Lets a piece of a body pass that comes after the decision.
    fn pass(&mut self, body: HttpBody) {
        let BodyMode::Duplex { messages } = self.modes.request else {
            if body.end_of_stream {
                self.request = RequestHalf::Whole;
            }
            return self.answers.push(reply::untouched_body(Half::Request));
        };
        if matches!(self.request, RequestHalf::Whole) {
            return self.ignore();
        }
        if body.end_of_stream || body.end_of_stream_without_message {
            self.request = RequestHalf::Whole;
        }
        self.answers.push_frame(Half::Request, body, messages);
    }
}

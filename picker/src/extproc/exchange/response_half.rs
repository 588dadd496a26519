//! The response half: lets the response pass as it comes, and tells the flight what is seen of it.

use envoy_types::pb::envoy::config::core::v3::Metadata;
use envoy_types::pb::envoy::service::ext_proc::v3::{HttpBody, HttpHeaders};
use picker_core::response::{Rename, Response};
use picker_core::time::Instant;

use super::Exchange;
use crate::driver::PROGRESS_EVERY;
use crate::extproc::attributes;
use crate::extproc::conformance;
use crate::extproc::modes::{BodyMode, Follow};
use crate::extproc::reply::{self, Half};

/// What was seen of the response, and told.
#[derive(Debug, Default)]
pub(super) struct ResponseHalf {
    seen: Response,
    /// Gives the model the name by which the client asked for it.
    pub(super) rename: Option<Rename>,
    pub(super) headers_seen: bool,
    /// When progress was told last.
    told: Instant,
    told_first_token: bool,
    ended: bool,
}

impl Exchange {
    pub(super) fn on_response_headers(
        &mut self,
        now: Instant,
        headers: &HttpHeaders,
        metadata: Option<&Metadata>,
    ) {
        let header = |name| attributes::header(headers.headers.as_ref(), name);
        let status = header(":status")
            .and_then(|status| status.parse().ok())
            .unwrap_or(0);
        if (100..200).contains(&status) && !headers.end_of_stream {
            // Not the response yet.
            return self.answers.push(reply::headers(Half::Response));
        }
        if std::mem::replace(&mut self.response.headers_seen, true) {
            self.answers.push(reply::headers(Half::Response));
            return self.ignore();
        }
        let content_type = header("content-type").unwrap_or_default();
        let encoding = header("content-encoding");
        let rename = self.response.rename.as_mut();
        let resized = rename.is_some_and(|rename| {
            rename.on_headers(content_type, encoding);
            rename.is_active() && !headers.end_of_stream
        });
        // Where the proxy holds the body whole, its length is said with it.
        let whole = self.modes.response == BodyMode::Buffered { partial: false };
        let mut answer = if resized && !whole {
            reply::resized_response()
        } else {
            reply::headers(Half::Response)
        };
        if self.edge.settings.trust.test_selection {
            conformance::tell_served(&mut answer, metadata);
        }
        self.answers.push(answer);
        self.response
            .seen
            .on_headers(status, content_type, encoding);
        self.response.told = now;
        if let Some(flight) = &mut self.flight {
            flight.ending.status = Some(status);
            if let Some(address) = attributes::served(metadata) {
                flight.served_by(address);
            }
        }
        // A failure has no tokens to wait for, though its end be unseen.
        let failed = self.follow() == Follow::Released && !(200..300).contains(&status);
        if headers.end_of_stream || failed {
            self.on_response_end();
        }
    }

    pub(super) fn on_response_body(&mut self, now: Instant, mut body: HttpBody) {
        let again = self.response.ended;
        let rename = self.response.rename.as_mut().filter(|_| !again);
        let renamed = rename.and_then(|rename| rename.pass(&body.body));
        if !again {
            self.response.seen.on_body(&body.body);
        }
        if body.end_of_stream || body.end_of_stream_without_message {
            self.on_response_end();
        } else {
            self.tell_progress(now);
        }
        match self.modes.response {
            BodyMode::Duplex { .. } if again => self.ignore(),
            BodyMode::Duplex { messages } => {
                body.body = renamed.unwrap_or(body.body);
                self.answers.push_frame(Half::Response, body, messages);
            }
            mode => self.answers.push(match renamed {
                Some(renamed) => {
                    let whole = mode == BodyMode::Buffered { partial: false };
                    reply::changed_response(renamed, whole)
                }
                None => reply::untouched_body(Half::Response),
            }),
        }
    }

    /// The response is whole. A second end, or trailers after the end, find no flight.
    pub(super) fn on_response_end(&mut self) {
        self.response.ended = true;
        self.response.seen.on_end();
        let Some(mut flight) = self.flight.take() else {
            return;
        };
        let seen = &self.response.seen;
        if !self.response.told_first_token && seen.first_token_seen() {
            flight.first_token();
        }
        let usage = seen.usage();
        let tokens = seen.tokens();
        flight.ending.complete = true;
        flight.ending.error_inside = seen.failure().is_some();
        flight.ending.prompt_tokens = usage.map(|usage| usage.prompt_tokens);
        flight.ending.generated = (tokens > 0).then_some(tokens);
    }

    /// Tells of the first token at once, and of further ones from time to time.
    fn tell_progress(&mut self, now: Instant) {
        let Some(flight) = &self.flight else {
            return;
        };
        let told = &mut self.response;
        if !told.told_first_token && told.seen.first_token_seen() {
            told.told_first_token = true;
            told.told = now;
            flight.first_token();
        } else if told.told_first_token && now.saturating_since(told.told) >= PROGRESS_EVERY {
            told.told = now;
            flight.progressed(told.seen.tokens());
        }
    }
}

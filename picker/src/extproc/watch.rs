//! Watching streams: those of a filter that shows a response's beginning and end and steers nothing, each joined to its pick by
//! the request's id.
//!
//! Such a stream survives us and we survive it: what it says is believed, and nothing is answered.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use envoy_types::pb::envoy::service::ext_proc::v3::processing_request::Request as Part;
use envoy_types::pb::envoy::service::ext_proc::v3::{HttpHeaders, ProcessingRequest};
use picker_core::request::RequestKey;
use picker_core::time::Instant;

use super::Surroundings;
use super::attributes;
use super::metrics::{Ignored, Missed};
use crate::driver::Flight;

/// How long a pick waits for the stream that watches it. The proxy opens that stream as soon as it has the pick; if it has not by
/// then, the request has gone no further.
pub(super) const WATCH_WAIT: Duration = Duration::from_secs(5);

/// Flights that wait for the streams that watch them.
#[derive(Debug, Default)]
pub(super) struct Watches {
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    /// Of several with one id, which clients may choose, the first is the first to be watched.
    by_id: HashMap<Arc<str>, VecDeque<Flight>>,
    /// Oldest first; what is no longer there has been taken.
    order: VecDeque<(Instant, Arc<str>, RequestKey)>,
}

impl Watches {
    /// Lets a flight wait for its stream.
    pub(super) fn park(&self, now: Instant, flight: Flight) {
        let mut waiting = self.lock();
        let id = flight.request_id().clone();
        waiting
            .order
            .push_back((now + WATCH_WAIT, id.clone(), flight.key()));
        waiting.by_id.entry(id).or_default().push_back(flight);
    }

    /// The flight that a watching stream is about: of its request's id, and picked to its destination, where it says one.
    fn join(&self, id: &str, destination: Option<SocketAddr>) -> Option<Flight> {
        self.lock()
            .take(id, |flight| destination.is_none_or(|to| flight.goes_to(to)))
    }

    /// Takes back a flight, if it still waits.
    pub(super) fn cancel(&self, id: &str, key: RequestKey) -> Option<Flight> {
        self.lock().take(id, |flight| flight.key() == key)
    }

    /// Gives up the flights that have waited in vain; returns them.
    pub(super) fn expire(&self, now: Instant) -> Vec<Flight> {
        let mut waiting = self.lock();
        let mut expired = Vec::new();
        while let Some((until, ..)) = waiting.order.front()
            && *until <= now
        {
            if let Some((_, id, key)) = waiting.order.pop_front() {
                expired.extend(waiting.take(&id, |flight| flight.key() == key));
            }
        }
        expired
    }

    /// A thread that panicked while it held the lock has left nothing half done.
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    fn take(&mut self, id: &str, wanted: impl Fn(&Flight) -> bool) -> Option<Flight> {
        let flights = self.by_id.get_mut(id)?;
        let index = flights.iter().position(wanted)?;
        let flight = flights.remove(index);
        if flights.is_empty() {
            self.by_id.remove(id);
        }
        flight
    }
}

/// One watching stream.
#[derive(Debug)]
pub(super) struct Watcher {
    edge: Arc<Surroundings>,
    flight: Option<Flight>,
    headers_seen: bool,
}

impl Watcher {
    pub(super) fn new(edge: Arc<Surroundings>) -> Self {
        Self {
            edge,
            flight: None,
            headers_seen: false,
        }
    }

    /// Takes in one message; there is nothing to answer.
    pub(super) fn on_message(&mut self, message: ProcessingRequest) {
        let metadata = message.metadata_context;
        match message.request {
            Some(Part::RequestHeaders(headers)) => self.on_request_headers(&headers),
            Some(Part::ResponseHeaders(headers)) => {
                let status = attributes::header(headers.headers.as_ref(), ":status");
                let status = status.and_then(|status| status.parse().ok());
                self.headers_seen |= status.is_some_and(|status: u16| status >= 200);
                if let Some(flight) = &mut self.flight {
                    flight.ending.status = status;
                    if let Some(address) = attributes::served(metadata.as_ref()) {
                        flight.served_by(address);
                    }
                }
                if headers.end_of_stream {
                    self.on_end();
                }
            }
            Some(Part::ResponseTrailers(_)) => self.on_end(),
            Some(Part::RequestBody(_) | Part::RequestTrailers(_) | Part::ResponseBody(_)) => {}
            None => self.edge.metrics.on_ignored(Ignored::Unknown),
        }
    }

    /// The response is over, as far as it is shown: Envoy ends the stream of one that was given up like that of one that is whole.
    pub(super) fn on_end(&mut self) {
        if let Some(mut flight) = self.flight.take() {
            flight.ending.complete = self.headers_seen;
        }
    }

    fn on_request_headers(&mut self, headers: &HttpHeaders) {
        let header = |name| attributes::header(headers.headers.as_ref(), name);
        let destination = header(attributes::DESTINATION).and_then(|list| {
            let first = list.split(',').next().unwrap_or_default();
            first.trim().parse().ok()
        });
        let id = header("x-request-id").unwrap_or_default();
        self.flight = self.edge.watches.join(id, destination);
        if self.flight.is_none() {
            self.edge.metrics.on_missed(Missed::NotPicked);
        }
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.on_end();
    }
}

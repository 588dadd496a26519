//! What a server remembers of the requests it received, so that tests can tell which server got which bytes.

use std::collections::VecDeque;
use std::collections::hash_map::DefaultHasher;
use std::hash::Hasher as _;
use std::sync::{Mutex, PoisonError};

use axum::http::{HeaderMap, Method, request};
use bytes::Bytes;

/// A body up to this size is remembered whole, a longer one by its length and hash.
const WHOLE_BODY_BYTES: usize = 64 * 1024;

/// One request, as it reached a server.
#[derive(Clone, Debug)]
pub struct Received {
    /// The method.
    pub method: Method,
    /// Path and query.
    pub path: String,
    /// All headers.
    pub headers: HeaderMap,
    /// The `x-request-id` header.
    pub request_id: Option<String>,
    /// Bytes in the body.
    pub body_bytes: usize,
    /// [`body_hash`] of the body.
    pub body_hash: u64,
    /// The body itself, if it is of at most 64 KiB.
    pub body: Option<Bytes>,
}

/// A hash to compare bodies by; the same for the same bytes within one build of this program.
#[must_use]
pub fn body_hash(body: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(body);
    hasher.finish()
}

/// The newest requests of one server.
#[derive(Debug)]
pub(super) struct Record {
    requests: Mutex<VecDeque<Received>>,
    capacity: usize,
}

impl Record {
    pub(super) const fn new(capacity: usize) -> Self {
        Self {
            requests: Mutex::new(VecDeque::new()),
            capacity,
        }
    }

    pub(super) fn add(&self, parts: &request::Parts, body: &Bytes) {
        if self.capacity == 0 || matches!(parts.uri.path(), "/metrics" | "/health" | "/sim/state") {
            return;
        }
        let received = Received {
            method: parts.method.clone(),
            path: parts.uri.to_string(),
            headers: parts.headers.clone(),
            request_id: parts
                .headers
                .get("x-request-id")
                .and_then(|id| id.to_str().ok())
                .map(str::to_owned),
            body_bytes: body.len(),
            body_hash: body_hash(body),
            body: (body.len() <= WHOLE_BODY_BYTES).then(|| body.clone()),
        };
        let mut requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        if requests.len() == self.capacity {
            requests.pop_front();
        }
        requests.push_back(received);
    }

    pub(super) fn all(&self) -> Vec<Received> {
        let requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        requests.iter().cloned().collect()
    }
}

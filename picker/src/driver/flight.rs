//! A flight: the guard of one request that was picked, which closes its entry however the stream ends.

use std::net::SocketAddr;
use std::sync::Arc;

use picker_core::Event;
use picker_core::event::Ending;
use picker_core::request::RequestKey;

use super::Handle;

/// A request in flight. Dropping it ends the request, as [`Flight::ending`] stands then, unless it was released.
#[derive(Debug)]
pub struct Flight {
    handle: Handle,
    key: RequestKey,
    request_id: Arc<str>,
    /// The picked one, and after it those to try next.
    endpoints: Vec<SocketAddr>,
    /// Whether the end is not ours to tell.
    released: bool,
    /// What is known of the end; not complete until somebody says so.
    pub ending: Ending,
}

impl Flight {
    /// A flight to the first of `endpoints`, of which there is at least one.
    pub(super) fn new(
        handle: Handle,
        key: RequestKey,
        request_id: Arc<str>,
        endpoints: Vec<SocketAddr>,
    ) -> Self {
        Self {
            handle,
            key,
            request_id,
            endpoints,
            released: false,
            ending: Ending::default(),
        }
    }

    /// Where the request goes, and after it where to try next.
    #[must_use]
    pub fn endpoints(&self) -> &[SocketAddr] {
        &self.endpoints
    }

    /// Whether the request was picked to go to `address`.
    #[must_use]
    pub fn goes_to(&self, address: SocketAddr) -> bool {
        self.endpoints.first() == Some(&address)
    }

    /// The request, by this process's count.
    #[must_use]
    pub fn key(&self) -> RequestKey {
        self.key
    }

    /// The request's `x-request-id`.
    #[must_use]
    pub fn request_id(&self) -> &Arc<str> {
        &self.request_id
    }

    /// Nothing will tell of the end: what was booked stays until it is expected to be over.
    pub fn release(mut self) {
        self.released = true;
    }

    /// The proxy says that `address` serves the request.
    pub fn served_by(&self, address: SocketAddr) {
        if !self.goes_to(address) {
            self.handle.tell(Event::ServedElsewhere(self.key, address));
        }
    }

    /// The first token of a streamed response came.
    pub fn first_token(&self) {
        self.handle.tell(Event::FirstToken(self.key));
    }

    /// So many tokens have come in all.
    pub fn progressed(&self, tokens: u64) {
        self.handle.tell(Event::Progressed(self.key, tokens));
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        if !self.released {
            self.handle.tell(Event::Ended(self.key, self.ending));
        }
    }
}

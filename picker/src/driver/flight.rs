//! A flight: the guard of one followed request, which closes its entry however the stream ends.

use std::net::SocketAddr;

use picker_core::Event;
use picker_core::event::Ending;
use picker_core::request::RequestKey;

use super::Handle;

/// A request in flight. Dropping it ends the request, as [`Flight::ending`] stands then.
#[derive(Debug)]
pub struct Flight {
    handle: Handle,
    key: RequestKey,
    picked: SocketAddr,
    /// What is known of the end; not complete until somebody says so.
    pub ending: Ending,
}

impl Flight {
    pub(super) fn new(handle: Handle, key: RequestKey, picked: SocketAddr) -> Self {
        Self {
            handle,
            key,
            picked,
            ending: Ending::default(),
        }
    }

    /// Where the request goes.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.picked
    }

    /// The proxy says that `address` serves the request.
    pub fn served_by(&self, address: SocketAddr) {
        if address != self.picked {
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
        self.handle.tell(Event::Ended(self.key, self.ending));
    }
}

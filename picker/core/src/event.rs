//! All that can happen to a picker.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::adapter::Model;
use crate::endpoint::{Endpoint, EndpointKey, Reading, Subset};
pub use crate::ledger::Following;
use crate::member::ReadFailure;
use crate::receipt::End;
use crate::request::{Request, RequestKey};
use crate::view::objective::Standing;
use crate::view::rewrite::Rewriting;

/// Something that happened.
#[derive(Clone, Debug)]
pub enum Event {
    /// The endpoints of the pool are these, and no others.
    Endpoints(Vec<Endpoint>),
    /// A request came and is to be placed. Answered by one
    /// [`Action::Picked`](crate::action::Action::Picked) or [`Action::Refused`](crate::action::Action::Refused).
    Arrived(Arrival),
    /// The response's headers say that another endpoint than the picked one serves the request.
    ServedElsewhere(RequestKey, SocketAddr),
    /// The first token of a streamed response came.
    FirstToken(RequestKey),
    /// So many tokens have come in all.
    Progressed(RequestKey, u64),
    /// The request is over, however it ended. A second end of the same request changes nothing.
    Ended(RequestKey, Ending),
    /// An endpoint was read.
    Read(EndpointKey, Reading),
    /// A reading failed.
    ReadFailed(EndpointKey, ReadFailure),
    /// An endpoint's models were listed.
    Models(EndpointKey, Vec<Model>),
    /// The listing of an endpoint's models failed.
    ModelsFailed(EndpointKey),
}

/// A request to be placed.
#[derive(Clone, Debug)]
pub struct Arrival {
    /// Its key; never used before.
    pub key: RequestKey,
    /// Its `x-request-id`.
    pub request_id: Arc<str>,
    /// What is known of it; of a request whose model was chosen for it, with that model.
    pub request: Request,
    /// How much it matters, where its pool says so; a request of which nothing is known has priority 0.
    pub standing: Option<Standing>,
    /// What became of its model, if one was chosen for it.
    pub rewrite: Option<Rewriting>,
    /// The endpoints to which the gateway limits the choice.
    pub subset: Option<Subset>,
    /// How the request will be followed to its end.
    pub following: Following,
    /// How many further endpoints are wanted, to be tried in order if the picked one cannot be reached.
    pub fallbacks: usize,
}

/// How a request ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ending {
    /// The response's status, where one came.
    pub status: Option<u16>,
    /// Whether the response came to its end; otherwise the client or the proxy went away.
    pub complete: bool,
    /// Whether an error stood inside the response's stream.
    pub error_inside: bool,
    /// Prompt tokens, as the engine counts them.
    pub prompt_tokens: Option<u64>,
    /// Tokens generated, as the engine counts them or as events were seen.
    pub generated: Option<u64>,
}

impl Ending {
    /// Whether it looks as if no server had been there: the statuses by which proxies say so.
    #[must_use]
    pub fn unreachable(&self) -> bool {
        matches!(self.status, Some(502..=504))
    }

    /// The kind of end that it is.
    #[must_use]
    pub fn end(&self) -> End {
        if self.error_inside || self.status.is_some_and(|status| status >= 500) {
            End::Failed
        } else if self.complete {
            End::Completed
        } else {
            End::Abandoned
        }
    }
}

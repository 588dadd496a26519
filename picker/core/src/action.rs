//! All that a picker can ask for.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::endpoint::EndpointKey;
use crate::engine::Engine;
use crate::receipt::{Outcome, Receipt};
use crate::request::RequestKey;

/// Something to be done.
#[derive(Clone, Debug)]
pub enum Action {
    /// Send the request there. Its load is booked until an [`Event::Ended`](crate::event::Event::Ended) comes, which
    /// must come.
    Picked(Pick),
    /// Answer the request: there is nowhere to send it. Nothing is booked.
    Refused(RequestKey, Refusal, Receipt),
    /// The request of that id is over; this completes its receipt.
    Settled(RequestKey, Arc<str>, Outcome),
    /// Read the endpoint's metrics page, which is one of that engine, and answer with [`Event::Read`](crate::event::Event::Read) or
    /// [`Event::ReadFailed`](crate::event::Event::ReadFailed).
    Read(EndpointKey, SocketAddr, Arc<Engine>),
    /// List the endpoint's models, and answer with [`Event::Models`](crate::event::Event::Models) or
    /// [`Event::ModelsFailed`](crate::event::Event::ModelsFailed).
    ListModels(EndpointKey, SocketAddr),
}

/// Where a request goes.
#[derive(Clone, Debug)]
pub struct Pick {
    /// The request.
    pub request: RequestKey,
    /// The endpoint.
    pub endpoint: EndpointKey,
    /// Its address.
    pub address: SocketAddr,
    /// Other endpoints to try, the best first: those at IP addresses of their own before others, so that a node that is
    /// gone does not take all of them. At most as many as were asked for.
    pub fallbacks: Vec<SocketAddr>,
    /// Why.
    pub receipt: Receipt,
}

/// Why a request goes nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Refusal {
    /// The pool has no endpoints.
    NoEndpoints,
    /// The gateway's subset hint leaves out every endpoint of the pool.
    EmptySubset,
    /// The request may be refused, and every endpoint that it could go to is saturated.
    Overloaded {
        /// In how many seconds one is expected to be saturated no longer, where that is known.
        retry_after_s: Option<u32>,
    },
}

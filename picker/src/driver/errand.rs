//! An errand: something that a pool wants to know of an endpoint.

use std::net::SocketAddr;
use std::sync::Arc;

use picker_core::endpoint::EndpointKey;
use picker_core::engine::Engine;

use super::Handle;

/// Something that a pool's picker wants from outside.
#[derive(Debug)]
pub struct Errand {
    /// Who wants to know.
    pub pool: Handle,
    /// The endpoint it is about.
    pub endpoint: EndpointKey,
    /// Where that is.
    pub address: SocketAddr,
    /// What is wanted.
    pub kind: ErrandKind,
}

/// The kinds of [`Errand`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ErrandKind {
    /// Its metrics page, which is one of that engine.
    Read(Arc<Engine>),
    /// Its models.
    ListModels,
}

//! A request as the driver is asked about it.

use std::sync::Arc;
use std::time::Duration;

use picker_core::endpoint::Subset;
use picker_core::event::Following;
use picker_core::request::Request;
use picker_core::route::{PoolKey, Told};
use picker_core::view::objective::Standing;
use picker_core::view::rewrite::Rewriting;

/// A request that asks where to go.
#[derive(Clone, Debug)]
pub struct Ask {
    /// Its `x-request-id`.
    pub request_id: Arc<str>,
    /// What is known of it.
    pub request: Request,
    /// How much it matters.
    pub standing: Standing,
    /// What became of its model, if one was chosen for it.
    pub rewrite: Option<Rewriting>,
    /// The endpoints to which the gateway limits the choice.
    pub subset: Option<Subset>,
    /// How it will be followed to its end.
    pub following: Following,
    /// How many further endpoints are wanted.
    pub fallbacks: usize,
    /// The longest wait for the pool's lock.
    pub within: Duration,
    /// What told the pool.
    pub told: Told,
    /// The pools that it could be for as well, as far as its call and the routes tell.
    pub or: Arc<[PoolKey]>,
}

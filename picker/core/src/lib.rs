//! Every decision of Pointsman, and nothing else.
//!
//! This crate is pure: no async, no clock, no socket, no lock, and no chance but one seeded generator. A
//! [`Picker`] owns what is known of one InferencePool. Whoever drives it, a server or a simulation, calls four
//! functions, in any order and with time that never goes back:
//!
//! ```text
//!   handle_event(now, Event)   something happened
//!   poll_action()              what is to be done about it; call until it returns None
//!   poll_timeout()             when to call handle_timeout next
//!   handle_timeout(now)        that time has come
//! ```
//!
//! The same seed and the same events at the same times give the same actions.
//!
//! The modules stand in the order of a request's path; each uses only those above it.

pub mod time;
pub mod seed;
pub mod engine;
pub mod endpoint;
pub mod exposition;
pub mod route;
mod json;
pub mod request;
pub mod refusal;
pub mod response;
pub mod adapter;
pub mod view;
pub mod catalogue;
pub mod diagnosis;
pub mod rates;
pub mod length;
pub mod share;
pub mod ledger;
pub mod member;
pub mod cost;
pub mod schedule;
pub mod flow;
pub mod receipt;
pub mod event;
pub mod action;
pub mod picker;

pub use action::Action;
pub use event::Event;
pub use picker::{Picker, Settings};

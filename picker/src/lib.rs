//! The world around the decisions: what happens outside becomes an event, what is decided becomes an action.
//!
//! `extproc`, `discovery`, `scrape` and `admin` never use one another; they meet at [`driver::Handle`], behind which
//! one [`picker_core::Picker`] owns what is known of one InferencePool.

pub mod settings;
pub mod telemetry;
pub mod shutdown;
pub mod driver;
pub mod tls;
pub mod discovery;
pub mod scrape;
pub mod extproc;
pub mod health;
pub mod admin;
pub mod server;
pub mod why;
pub mod manifest;
pub mod check;
pub mod migrate;

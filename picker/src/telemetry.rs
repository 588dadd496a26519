//! Telemetry: the log on standard error, and the registry of metrics.

use std::io::{self, IsTerminal};

use prometheus_client::registry::Registry;
use thiserror::Error;
use tracing_subscriber::EnvFilter;

use crate::settings::LogFormat;

/// The log could not be set up.
#[derive(Debug, Error)]
#[error(
    "--log: `{directives}` cannot be read: {reason}; write a level such as info, or target=level,..."
)]
pub struct LogError {
    directives: String,
    reason: String,
}

/// Sends the log to standard error.
///
/// # Errors
/// [`LogError`] when the directives cannot be read, or a log is set up already.
pub fn start_log(directives: &str, format: LogFormat) -> Result<(), LogError> {
    let error = |reason: String| LogError {
        directives: directives.to_owned(),
        reason,
    };
    let filter = EnvFilter::try_new(directives).map_err(|reason| error(reason.to_string()))?;
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal());
    let started = match format {
        LogFormat::Text => log.try_init(),
        LogFormat::Json => log.json().flatten_event(true).try_init(),
    };
    started.map_err(|reason| error(reason.to_string()))
}

/// A registry with nothing in it but what this is.
#[must_use]
pub fn registry() -> Registry {
    use prometheus_client::metrics::info::Info;

    let mut registry = Registry::default();
    let version = Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]);
    registry.register("pointsman_build", "The program", version);
    registry
}

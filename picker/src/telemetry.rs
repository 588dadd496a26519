//! Telemetry: the log on standard error, and the registry of metrics.

use std::io::{self, IsTerminal};

use prometheus_client::registry::Registry;
use thiserror::Error;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;

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

/// What `kube` says of each answer that is no success: of a kind that is not installed it is a warning every few seconds, for ever. A watch says
/// that once, with the remedy.
const SAID_BY_WATCHES: &str = "kube_client::client=off";

/// Sends the log to standard error.
///
/// # Errors
/// [`LogError`] when the directives cannot be read, or a log is set up already.
pub fn start_log(directives: &str, format: LogFormat) -> Result<(), LogError> {
    let error = |reason: String| LogError {
        directives: directives.to_owned(),
        reason,
    };
    let filter = filter(directives).map_err(|reason| error(reason.to_string()))?;
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

fn filter(directives: &str) -> Result<EnvFilter, ParseError> {
    EnvFilter::try_new(format!("{SAID_BY_WATCHES},{directives}"))
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

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("no panic before").write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn what_kube_says_of_an_answer_is_left_to_the_watch_unless_asked_for() {
        for (directives, expected) in [
            ("info", "ours"),
            ("debug,kube=info", "ours"),
            ("info,kube_client::client=warn", "kube ours"),
        ] {
            let lines = Lines::default();
            let written = lines.clone();
            let log = tracing_subscriber::fmt()
                .with_env_filter(filter(directives).expect("directives"))
                .with_writer(move || written.clone())
                .without_time()
                .with_level(false)
                .with_target(false)
                .finish();
            tracing::subscriber::with_default(log, || {
                tracing::warn!(target: "kube_client::client", "kube");
                tracing::info!("ours");
            });
            let text = String::from_utf8(lines.0.lock().expect("no panic before").clone());
            let words = text.expect("text");
            let words: Vec<&str> = words.split_whitespace().collect();
            assert_eq!(words.join(" "), expected, "{directives}");
        }
    }
}

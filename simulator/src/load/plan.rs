//! What a run of load is to do.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::ext_proc::ExtProc;
use super::report::Slo;
use crate::workload::Workload;

/// Which API the load asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Api {
    /// `/v1/completions`
    Completions,
    /// `/v1/chat/completions`
    Chat,
}

impl Api {
    /// The path that is asked.
    pub(super) const fn path(self) -> &'static str {
        match self {
            Self::Completions => "/v1/completions",
            Self::Chat => "/v1/chat/completions",
        }
    }
}

/// What the load is sent to.
#[derive(Clone, Debug)]
pub enum Target {
    /// A gateway or a server, such as `http://127.0.0.1:8080`; the API's path is added.
    Url(String),
    /// A picker, spoken to as a proxy does.
    ExtProc(ExtProc),
}

/// One run of load.
#[derive(Clone, Debug)]
pub struct LoadPlan {
    /// What is asked.
    pub target: Target,
    /// The API to ask.
    pub api: Api,
    /// The base model's name.
    pub model: String,
    /// Names of the workload's adapters, in its order.
    pub adapter_names: Vec<String>,
    /// Headers that every request carries.
    pub headers: Vec<(String, String)>,
    /// What to send.
    pub workload: Workload,
    /// Requests, or conversations where the workload has them, that begin in a second. Of no use in a closed loop.
    pub rate: f64,
    /// A closed loop: so many requests or conversations under way at any time, whatever the workload's times.
    pub concurrency: Option<usize>,
    /// How long to send; answers still under way then are waited for.
    pub duration: Duration,
    /// Seed of times, lengths and adapters.
    pub seed: u64,
    /// Whether answers are streamed. Others have no time to first token.
    pub stream: bool,
    /// After this long a request counts as failed.
    pub timeout: Duration,
    /// What goodput asks for.
    pub slo: Slo,
    /// The simulated servers behind the URL, to read their adapter loads from and to count those that got no request.
    pub servers: Vec<SocketAddr>,
    /// A process to measure meanwhile.
    pub pid: Option<u32>,
    /// Whether to draw a progress bar on standard error.
    pub progress: bool,
    /// Ends the run early; the report is of what ended until then.
    pub stop: CancellationToken,
}

impl LoadPlan {
    /// Streamed completions of `workload` to `url` in an open loop, with the adapter names of
    /// [`crate::workload::adapter_names`], seed 0, two minutes of patience, no servers to read and no progress bar.
    #[must_use]
    pub fn new(url: &str, model: &str, workload: Workload, rate: f64, duration: Duration) -> Self {
        Self {
            target: Target::Url(url.to_owned()),
            api: Api::Completions,
            model: model.to_owned(),
            adapter_names: crate::workload::adapter_names(workload.adapters),
            headers: Vec::new(),
            workload,
            rate,
            concurrency: None,
            duration,
            seed: 0,
            stream: true,
            timeout: Duration::from_secs(120),
            slo: Slo::default(),
            servers: Vec::new(),
            pid: None,
            progress: false,
            stop: CancellationToken::new(),
        }
    }

    /// Checks that it makes a load.
    pub(super) fn validate(&self) -> Result<(), LoadError> {
        let setting = |field, value: String, remedy| {
            Err(LoadError::Setting {
                field,
                value,
                remedy,
            })
        };
        let long = "give a time in which at least one request is sent";
        match self.concurrency {
            Some(0) => return setting("concurrency", "0".into(), "give at least 1"),
            Some(_) if self.duration.is_zero() => {
                return setting("duration", format!("{:?}", self.duration), long);
            }
            Some(_) => {}
            None if !(self.rate.is_finite() && self.rate > 0.0) => {
                let remedy = "give requests a second, above 0";
                return setting("rate", self.rate.to_string(), remedy);
            }
            None if (self.rate * self.duration.as_secs_f64()).round() < 1.0 => {
                return setting("duration", format!("{:?}", self.duration), long);
            }
            None => {}
        }
        let (names, adapters) = (self.adapter_names.len(), self.workload.adapters);
        if names < adapters as usize {
            let remedy = "name every adapter of the workload";
            return setting(
                "adapter_names",
                format!("{names} names for {adapters} adapters"),
                remedy,
            );
        }
        match &self.target {
            Target::Url(url) if !url.starts_with("http://") => {
                setting("url", url.clone(), "give http://HOST:PORT")
            }
            Target::ExtProc(_) if self.workload.sessions.is_some() => {
                let remedy =
                    "send lone requests: a picker gives no answer that could be gone on with";
                setting("turns", "given with ext_proc".into(), remedy)
            }
            Target::Url(_)
                if self
                    .workload
                    .kinds
                    .iter()
                    .any(|kind| kind.output_tokens.least == 0) =>
            {
                let remedy = "give at least 1: only a picker can be shown responses without a body";
                setting("output_chunks", "0".into(), remedy)
            }
            Target::Url(_) | Target::ExtProc(_) => Ok(()),
        }
    }
}

/// Why no load could be sent.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// A setting that makes no load.
    #[error("{field} is {value}: {remedy}")]
    Setting {
        /// The setting.
        field: &'static str,
        /// What it was.
        value: String,
        /// What would do.
        remedy: &'static str,
    },
    /// No HTTP client could be made.
    #[error("no HTTP client: {0}")]
    Client(#[from] reqwest::Error),
    /// A value that cannot stand in a gRPC call.
    #[error("{field} {value}: {error}; give {remedy}")]
    Call {
        /// The setting.
        field: &'static str,
        /// What it was.
        value: String,
        /// What the library said.
        error: String,
        /// What would do.
        remedy: &'static str,
    },
    /// The process to be measured cannot be seen.
    #[error("pid: /proc/{pid}: {error}; give the number of a running process, on Linux")]
    Process {
        /// The process.
        pid: u32,
        /// What the system said.
        error: io::Error,
    },
}

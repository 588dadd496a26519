//! The load generator: an open loop over HTTP, and what the answers took.
//!
//! Requests are sent when the schedule says so, whatever the servers do, and latency counts from that time: a generator or a
//! server that falls behind cannot make itself look good by sending less (coordinated omission).

pub mod arguments;
pub mod report;
pub mod table;

mod request;
mod tally;

use std::net::SocketAddr;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::workload::{Arrival, Workload};

pub use report::LoadReport;

use request::{Outcome, Sender};
use tally::Tally;

/// Which API the load asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Api {
    /// `/v1/completions`
    Completions,
    /// `/v1/chat/completions`
    Chat,
}

/// One run of load.
#[derive(Clone, Debug)]
pub struct LoadPlan {
    /// The gateway or server, such as `http://127.0.0.1:8080`; the API's path is added.
    pub url: String,
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
    /// Requests a second.
    pub rate: f64,
    /// How long to send; answers still under way then are waited for.
    pub duration: Duration,
    /// Seed of times, lengths and adapters.
    pub seed: u64,
    /// Whether answers are streamed. Others have no time to first token.
    pub stream: bool,
    /// After this long a request counts as failed.
    pub timeout: Duration,
    /// The simulated servers behind the URL, to read their adapter loads from and to count those that got no request.
    pub servers: Vec<SocketAddr>,
    /// Whether to draw a progress bar on standard error.
    pub progress: bool,
    /// Ends the run early; the report is of what ended until then.
    pub stop: CancellationToken,
}

impl LoadPlan {
    /// Streamed completions of `workload` to `url`, with the adapter names of [`crate::workload::adapter_names`], seed 0, two
    /// minutes of patience, no servers to read and no progress bar.
    #[must_use]
    pub fn new(url: &str, model: &str, workload: Workload, rate: f64, duration: Duration) -> Self {
        Self {
            url: url.to_owned(),
            api: Api::Completions,
            model: model.to_owned(),
            adapter_names: crate::workload::adapter_names(workload.adapters),
            headers: Vec::new(),
            workload,
            rate,
            duration,
            seed: 0,
            stream: true,
            timeout: Duration::from_secs(120),
            servers: Vec::new(),
            progress: false,
            stop: CancellationToken::new(),
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
}

/// Sends the load and waits for the answers.
///
/// # Errors
/// A setting that does not fit. Requests that fail are counted in the report.
pub async fn run(plan: LoadPlan) -> Result<LoadReport, LoadError> {
    validate(&plan)?;
    let sender = Sender::new(&plan)?;
    let schedule = plan.workload.schedule(plan.rate, plan.duration, plan.seed);
    let bar = progress_bar(&plan, schedule.len());
    let loads_before = sender.adapter_loads(&plan.servers).await;
    let start = Instant::now();
    let mut tally = Tally::new(start);
    let mut under_way = JoinSet::new();

    for (number, arrival) in (0..).zip(&schedule) {
        if !wait_for(
            start + arrival.at,
            &mut under_way,
            &mut tally,
            &bar,
            &plan.stop,
        )
        .await
        {
            break;
        }
        under_way.spawn(sender.clone().send(number, *arrival, start));
        tally.sent();
    }
    let sending = if plan.stop.is_cancelled() {
        start.elapsed()
    } else {
        start.elapsed().max(plan.duration)
    };
    while !plan.stop.is_cancelled() && !under_way.is_empty() {
        tokio::select! {
            () = plan.stop.cancelled() => {}
            Some(ended) = under_way.join_next() => add(&mut tally, &bar, ended),
        }
    }
    bar.finish_and_clear();
    under_way.shutdown().await;
    let loads_after = sender.adapter_loads(&plan.servers).await;
    let adapter_loads = loads_before
        .zip(loads_after)
        .map(|(before, after)| after - before);
    Ok(tally.report(&plan, sending, adapter_loads))
}

/// Waits for `due`, taking in answers meanwhile; false if the run is to end.
async fn wait_for(
    due: Instant,
    under_way: &mut JoinSet<Outcome>,
    tally: &mut Tally,
    bar: &ProgressBar,
    stop: &CancellationToken,
) -> bool {
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return false,
            () = sleep_until(due) => return true,
            Some(ended) = under_way.join_next(), if !under_way.is_empty() => add(tally, bar, ended),
        }
    }
}

fn add(tally: &mut Tally, bar: &ProgressBar, ended: Result<Outcome, tokio::task::JoinError>) {
    match ended {
        Ok(outcome) => tally.add(&outcome),
        // Nobody aborts a request, so its task has panicked: a defect of the generator, which must not hide.
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
    bar.inc(1);
    bar.set_message(tally.progress());
}

fn progress_bar(plan: &LoadPlan, requests: usize) -> ProgressBar {
    if !plan.progress {
        return ProgressBar::hidden();
    }
    let style =
        ProgressStyle::with_template("{elapsed_precise} {bar:40} {pos}/{len} answered{msg}");
    let bar = ProgressBar::new(requests as u64);
    bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

fn validate(plan: &LoadPlan) -> Result<(), LoadError> {
    let setting = |field, value: String, remedy| {
        Err(LoadError::Setting {
            field,
            value,
            remedy,
        })
    };
    if !(plan.rate.is_finite() && plan.rate > 0.0) {
        return setting(
            "rate",
            plan.rate.to_string(),
            "give requests a second, above 0",
        );
    }
    if (plan.rate * plan.duration.as_secs_f64()).round() < 1.0 {
        let value = format!("{:?}", plan.duration);
        return setting(
            "duration",
            value,
            "give a time in which at least one request is sent",
        );
    }
    let (names, adapters) = (plan.adapter_names.len(), plan.workload.adapters);
    if names < adapters as usize {
        let remedy = "name every adapter of the workload";
        return setting(
            "adapter_names",
            format!("{names} names for {adapters} adapters"),
            remedy,
        );
    }
    if !plan.url.starts_with("http://") {
        return setting("url", plan.url.clone(), "give http://HOST:PORT");
    }
    Ok(())
}

/// The prompt of request `number`: text of exactly as many bytes as it has, different from its first byte on.
fn prompt(number: u64, arrival: &Arrival) -> String {
    let mut text = format!("{number} asks");
    while text.len() < arrival.prompt_bytes() as usize {
        text.push_str(" which track the next train is to take");
    }
    text.truncate(arrival.prompt_bytes() as usize);
    text
}

//! The load generator: an open or a closed loop over HTTP or ext_proc, and what the answers took.
//!
//! In the open loop requests are sent when the schedule says so, whatever the servers do, and latency counts from that time: a
//! generator or a server that falls behind cannot make itself look good by sending less (coordinated omission). In the closed
//! loop a fixed number is under way at any time, and latency counts from the sending.

pub mod arguments;
pub mod ext_proc;
pub mod page;
pub mod process;
pub mod report;
pub mod table;

mod content;
mod conversation;
mod plan;
pub(crate) mod request;
mod stream;
mod tally;

use std::net::SocketAddr;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use crate::workload::Arrival;

pub use plan::{Api, LoadError, LoadPlan, Target};
pub use report::LoadReport;

use ext_proc::Proxy;
use process::Usage;
use request::{Outcome, Sender};
use tally::Tally;

/// Sends the load and waits for the answers.
///
/// # Errors
/// A setting that does not fit. Requests that fail are counted in the report.
pub async fn run(plan: LoadPlan) -> Result<LoadReport, LoadError> {
    plan.validate()?;
    let sender = match &plan.target {
        Target::Url(url) => Protocol::Http(Sender::new(url, &plan)?),
        Target::ExtProc(to) => Protocol::ExtProc(Proxy::new(to, &plan)?),
    };
    let loads_before = sender.adapter_loads(&plan.servers).await;
    let watched = plan.pid.map(Usage::of).transpose()?;
    let own = Usage::of(std::process::id()).ok();
    let start = Instant::now();
    let mut running = Running::start(&plan, &sender, start);
    match plan.concurrency {
        Some(concurrency) => running.closed_loop(concurrency).await,
        None => running.open_loop().await,
    }
    let sending = if plan.stop.is_cancelled() {
        start.elapsed()
    } else {
        start.elapsed().max(plan.duration)
    };
    let tally = running.finish().await;
    let loads_after = sender.adapter_loads(&plan.servers).await;
    let adapter_loads = loads_before
        .zip(loads_after)
        .map(|(before, after)| after - before);
    let requests = tally.requests();
    let mut report = tally.report(&plan, sending, adapter_loads);
    report.generator = own.and_then(|own| own.since(requests));
    report.process = watched.and_then(|watched| watched.since(requests));
    Ok(report)
}

/// Outcomes that wait to be counted; requests that end then wait for room.
const OUTCOMES: usize = 1024;

/// How requests are sent.
#[derive(Clone)]
enum Protocol {
    Http(Sender),
    ExtProc(Proxy),
}

impl Protocol {
    async fn converse(
        self,
        number: u64,
        arrival: Arrival,
        due: Option<Instant>,
        report_to: mpsc::Sender<Outcome>,
    ) {
        match self {
            Self::Http(sender) => sender.converse(number, arrival, due, report_to).await,
            Self::ExtProc(proxy) => {
                let outcome = proxy.send(number, &arrival, due).await;
                // The receiver is gone when the run has ended.
                drop(report_to.send(outcome).await);
            }
        }
    }

    async fn adapter_loads(&self, servers: &[SocketAddr]) -> Option<f64> {
        match self {
            Self::Http(sender) => sender.adapter_loads(servers).await,
            Self::ExtProc(_) => None,
        }
    }
}

/// A run of load under way.
struct Running<'a> {
    plan: &'a LoadPlan,
    sender: &'a Protocol,
    start: Instant,
    tally: Tally,
    bar: ProgressBar,
    under_way: JoinSet<()>,
    outcomes: mpsc::Receiver<Outcome>,
    /// Cloned for each task.
    report_to: mpsc::Sender<Outcome>,
}

impl<'a> Running<'a> {
    fn start(plan: &'a LoadPlan, sender: &'a Protocol, start: Instant) -> Self {
        let (report_to, outcomes) = mpsc::channel(OUTCOMES);
        Self {
            plan,
            sender,
            start,
            tally: Tally::new(start, plan),
            bar: progress_bar(plan),
            under_way: JoinSet::new(),
            outcomes,
            report_to,
        }
    }

    /// Sends each request at its time.
    async fn open_loop(&mut self) {
        let plan = self.plan;
        let schedule = plan.workload.schedule(plan.rate, plan.duration, plan.seed);
        for (number, arrival) in (0..).zip(&schedule) {
            let due = self.start + arrival.at;
            if !self.wait_for(due).await {
                break;
            }
            self.spawn(number, *arrival, Some(due));
        }
    }

    /// Keeps `concurrency` requests or conversations under way until the time is up.
    async fn closed_loop(&mut self, concurrency: usize) {
        let plan = self.plan;
        let end = self.start + plan.duration;
        for (number, arrival) in (0..).zip(plan.workload.arrivals(1.0, plan.seed)) {
            while self.under_way.len() >= concurrency {
                if !self.wait_for_an_end(end).await {
                    return;
                }
            }
            if Instant::now() >= end || plan.stop.is_cancelled() {
                return;
            }
            self.spawn(number, arrival, None);
        }
    }

    fn spawn(&mut self, number: u64, arrival: Arrival, due: Option<Instant>) {
        let sender = self.sender.clone();
        let report_to = self.report_to.clone();
        self.under_way
            .spawn(sender.converse(number, arrival, due, report_to));
        self.tally.started();
    }

    /// Waits for `due`, taking in answers meanwhile; false if the run is to end.
    async fn wait_for(&mut self, due: Instant) -> bool {
        loop {
            tokio::select! {
                biased;
                () = self.plan.stop.cancelled() => return false,
                () = sleep_until(due) => return true,
                Some(outcome) = self.outcomes.recv() => self.add(&outcome),
                Some(ended) = self.under_way.join_next() => expect_no_panic(ended),
            }
        }
    }

    /// Waits until one of those under way ends; false if the run is to end, or at `end`.
    async fn wait_for_an_end(&mut self, end: Instant) -> bool {
        loop {
            tokio::select! {
                biased;
                () = self.plan.stop.cancelled() => return false,
                () = sleep_until(end) => return false,
                Some(outcome) = self.outcomes.recv() => self.add(&outcome),
                Some(ended) = self.under_way.join_next() => {
                    expect_no_panic(ended);
                    return true;
                }
            }
        }
    }

    /// Waits for the answers under way, unless the run is stopped.
    async fn finish(mut self) -> Tally {
        while !self.plan.stop.is_cancelled() && !self.under_way.is_empty() {
            tokio::select! {
                () = self.plan.stop.cancelled() => {}
                Some(outcome) = self.outcomes.recv() => self.add(&outcome),
                Some(ended) = self.under_way.join_next() => expect_no_panic(ended),
            }
        }
        self.under_way.shutdown().await;
        while let Ok(outcome) = self.outcomes.try_recv() {
            self.add(&outcome);
        }
        self.bar.finish_and_clear();
        self.tally
    }

    fn add(&mut self, outcome: &Outcome) {
        self.tally.add(outcome);
        self.bar.inc(1);
        if !self.bar.is_hidden() {
            self.bar.set_message(self.tally.progress());
        }
    }
}

/// Nobody aborts a request, so a task that failed has panicked: a defect of the generator, which must not hide.
fn expect_no_panic(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended {
        std::panic::resume_unwind(error.into_panic());
    }
}

fn progress_bar(plan: &LoadPlan) -> ProgressBar {
    if !plan.progress {
        return ProgressBar::hidden();
    }
    if plan.concurrency.is_some() || plan.workload.sessions.is_some() {
        let style = ProgressStyle::with_template("{elapsed_precise} {spinner} {pos} answered{msg}");
        let bar = ProgressBar::new_spinner();
        bar.enable_steady_tick(Duration::from_millis(250));
        return bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
    }
    let requests = (plan.rate * plan.duration.as_secs_f64()).round() as u64;
    let style =
        ProgressStyle::with_template("{elapsed_precise} {bar:40} {pos}/{len} answered{msg}");
    let bar = ProgressBar::new(requests);
    bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

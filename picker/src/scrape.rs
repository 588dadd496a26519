//! Scraping: runs the errands of the pools, a metrics page or a list of models each, over kept connections.

use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use picker_core::Event;
use picker_core::catalogue;
use picker_core::exposition;
use picker_core::member::ReadFailure;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use reqwest::{Client, Response};
use tokio::sync::mpsc;
use tracing::debug;

use crate::driver::{Errand, ErrandKind};

/// The longest wait for an answer. A busy vLLM answers within tens of milliseconds.
const TIMEOUT: Duration = Duration::from_secs(2);
/// The longest wait for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// Connections are kept for longer than the longest time between two readings.
const KEEP_IDLE: Duration = Duration::from_secs(30);
/// Errands under way at once.
const UNDER_WAY_MAX: usize = 256;
/// The largest answer that is read; a vLLM page has about 50 KB an engine.
const ANSWER_MAX_BYTES: usize = 8 << 20;

/// Runs errands.
#[derive(Debug)]
pub struct Scraper {
    client: Client,
    metrics: ScrapeMetrics,
}

/// What scraping counts.
#[derive(Clone, Debug, Default)]
pub struct ScrapeMetrics {
    errands: Family<OfErrand, Counter>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfErrand {
    kind: &'static str,
    result: &'static str,
}

impl ScrapeMetrics {
    /// Registers the metrics.
    #[must_use]
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register(
            "pointsman_scrapes",
            "Requests to model servers for metrics or models",
            metrics.errands.clone(),
        );
        metrics
    }
}

impl Scraper {
    /// A scraper with no connections yet.
    ///
    /// # Errors
    /// When the HTTP client cannot be set up.
    pub fn new(metrics: ScrapeMetrics) -> Result<Self, reqwest::Error> {
        // A model server is never behind the proxy that the environment may name for the world outside.
        let client = Client::builder()
            .no_proxy()
            .timeout(TIMEOUT)
            .connect_timeout(CONNECT_TIMEOUT)
            .pool_idle_timeout(KEEP_IDLE)
            .pool_max_idle_per_host(2)
            .tcp_nodelay(true)
            .build()?;
        Ok(Self { client, metrics })
    }

    /// Runs errands until nobody can send one any more.
    pub async fn run(&self, mut errands: mpsc::Receiver<Errand>) {
        let mut under_way = FuturesUnordered::new();
        loop {
            tokio::select! {
                errand = errands.recv(), if under_way.len() < UNDER_WAY_MAX => match errand {
                    Some(errand) => under_way.push(self.run_errand(errand)),
                    None => return,
                },
                Some(()) = under_way.next(), if !under_way.is_empty() => {}
            }
        }
    }

    async fn run_errand(&self, errand: Errand) {
        let Errand {
            pool,
            endpoint,
            address,
            kind,
        } = errand;
        let (kind, result) = match kind {
            ErrandKind::Read(engine) => {
                let path = &engine.metrics_path;
                let page = self.get(&format!("http://{address}{path}")).await;
                let reading = page.and_then(|page| {
                    exposition::read(&page, &engine)
                        .map_err(|error| Failure::unreadable(&error.to_string()))
                });
                let result = label(reading.as_ref().err());
                pool.tell(match reading {
                    Ok(reading) => Event::Read(endpoint, reading),
                    Err(failure) => {
                        debug!(%address, ?failure, "no reading");
                        Event::ReadFailed(endpoint, failure.kind)
                    }
                });
                ("metrics", result)
            }
            ErrandKind::ListModels => {
                let page = self.get(&format!("http://{address}/v1/models")).await;
                let cards = page.and_then(|page| {
                    catalogue::read(&page).map_err(|error| Failure::unreadable(&error))
                });
                let result = label(cards.as_ref().err());
                match cards {
                    Ok(cards) => pool.tell_models(endpoint, address, cards),
                    Err(failure) => {
                        debug!(%address, ?failure, "no list of models");
                        pool.tell(Event::ModelsFailed(endpoint));
                    }
                }
                ("models", result)
            }
        };
        self.metrics
            .errands
            .get_or_create(&OfErrand { kind, result })
            .inc();
    }

    async fn get(&self, url: &str) -> Result<Vec<u8>, Failure> {
        let response = self
            .client
            .get(url)
            .send()
            .await
            .map_err(|error| Failure::of(&error))?;
        if !response.status().is_success() {
            return Err(Failure::unreadable(response.status().as_str()));
        }
        body(response).await
    }
}

/// The body of a response, within [`ANSWER_MAX_BYTES`].
async fn body(mut response: Response) -> Result<Vec<u8>, Failure> {
    let mut body = Vec::with_capacity(64 << 10);
    while let Some(chunk) = response
        .chunk()
        .await
        .map_err(|error| Failure::of(&error))?
    {
        if body.len() + chunk.len() > ANSWER_MAX_BYTES {
            return Err(Failure::unreadable("the answer is over 8 MiB"));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// Why an errand failed.
#[derive(Debug)]
struct Failure {
    kind: ReadFailure,
    #[expect(dead_code, reason = "read by Debug, for the log")]
    reason: String,
}

impl Failure {
    fn of(error: &reqwest::Error) -> Self {
        let kind = if error.is_timeout() {
            ReadFailure::TimedOut
        } else {
            ReadFailure::Refused
        };
        Self {
            kind,
            reason: error.to_string(),
        }
    }

    fn unreadable(reason: &str) -> Self {
        Self {
            kind: ReadFailure::Unreadable,
            reason: reason.to_owned(),
        }
    }
}

/// How an errand went, as a label.
fn label(failure: Option<&Failure>) -> &'static str {
    match failure.map(|failure| failure.kind) {
        None => "read",
        Some(ReadFailure::Refused) => "refused",
        Some(ReadFailure::TimedOut) => "timed_out",
        Some(ReadFailure::Unreadable) => "unreadable",
    }
}

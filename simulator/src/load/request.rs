//! One request of the load: sent, read to its end, timed.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use reqwest::header::HeaderMap;
use reqwest::{Client, RequestBuilder};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};

use super::LoadPlan;
use super::content::{Ask, Content};
use super::conversation::Conversation;
use super::stream::{self, Usage};
use crate::workload::Arrival;

/// Sends requests of one run.
#[derive(Clone)]
pub(crate) struct Sender(Arc<Target>);

struct Target {
    client: Client,
    url: String,
    content: Content,
    seed: u64,
    timeout: Duration,
}

/// How one request went. Times count from when it was scheduled to be sent.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Outcome {
    /// The server that answered, as its headers say.
    pub(super) server: Option<String>,
    /// Whether it is a later turn of a conversation, which is sent when its time comes and not by the schedule.
    pub(super) later_turn: bool,
    /// From schedule to sending.
    pub(super) lag: Duration,
    /// From schedule to the end.
    pub(super) e2e: Duration,
    /// From schedule to the first token, if the answer was streamed.
    pub(crate) first_token: Option<Duration>,
    /// From schedule to the last token, if the answer was streamed.
    pub(super) last_token: Option<Duration>,
    /// Between one token and the next.
    pub(super) gaps: Vec<Duration>,
    pub(super) prompt_tokens: u64,
    pub(super) output_tokens: u64,
    /// Prompt tokens in the prefix cache, where the server says so.
    pub(super) cached_tokens: Option<u64>,
    /// From the last frame of the request to the answer that names the endpoint, of ext_proc.
    pub(super) pick: Option<Duration>,
    /// From each chunk of the response to its answer, of ext_proc.
    pub(super) chunks: Vec<Duration>,
    /// What went wrong.
    pub(crate) failure: Option<String>,
}

impl Outcome {
    /// Takes over what the server has counted.
    pub(super) fn count(&mut self, usage: &Usage) {
        self.prompt_tokens = usage.prompt_tokens;
        self.output_tokens = usage.completion_tokens;
        self.cached_tokens = usage.cached_tokens();
    }
}

impl Sender {
    pub(crate) fn new(url: &str, plan: &LoadPlan) -> Result<Self, reqwest::Error> {
        Ok(Self(Arc::new(Target {
            client: Client::builder().no_proxy().build()?,
            url: format!("{}{}", url.trim_end_matches('/'), plan.api.path()),
            content: Content::of(plan),
            seed: plan.seed,
            timeout: plan.timeout,
        })))
    }

    /// Sends request `number` now, reads its answer, and goes on with the later turns of its conversation until one fails. Times
    /// count from `due`, or from now.
    pub(crate) async fn converse(
        self,
        number: u64,
        arrival: Arrival,
        due: Option<Instant>,
        report_to: mpsc::Sender<Outcome>,
    ) {
        let target = &self.0;
        let mut conversation = Conversation::open(number, &arrival, &target.content.workload);
        let mut later = target.content.workload.later_turns(target.seed, number);
        let mut due = due.unwrap_or_else(Instant::now);
        let mut output_tokens = arrival.output_tokens;
        for turn in 0..arrival.turns.max(1) {
            let ask = Ask {
                conversation: &conversation,
                arrival: &arrival,
                output_tokens,
            };
            let goes_on = turn + 1 < arrival.turns;
            let mut answer = goes_on.then(String::new);
            let mut outcome = self.send(&ask, due, answer.as_mut()).await;
            outcome.later_turn = turn > 0;
            let failed = outcome.failure.is_some();
            // The receiver is gone when the run has ended.
            let told = report_to.send(outcome).await.is_ok();
            let (Some(answer), Some(next)) = (answer, later.next()) else {
                return;
            };
            if failed || !told {
                return;
            }
            due = Instant::now() + next.think;
            sleep(next.think).await;
            conversation.go_on(number, next.prompt_tokens, answer);
            output_tokens = next.output_tokens;
        }
    }

    async fn send(&self, ask: &Ask<'_>, due: Instant, answer: Option<&mut String>) -> Outcome {
        let mut outcome = Outcome {
            lag: due.elapsed(),
            ..Outcome::default()
        };
        let exchange = self.exchange(ask, due, &mut outcome, answer);
        let ended = timeout(self.0.timeout, exchange).await;
        outcome.failure = match ended {
            Ok(Ok(())) => None,
            Ok(Err(failure)) => Some(failure),
            Err(_) => Some("timeout".into()),
        };
        outcome.e2e = due.elapsed();
        outcome
    }

    /// Adapter loads of all `servers` together; `None` without servers, or if one does not say.
    pub(crate) async fn adapter_loads(&self, servers: &[SocketAddr]) -> Option<f64> {
        let mut sum = None;
        for server in servers {
            let page = self
                .0
                .client
                .get(format!("http://{server}/metrics"))
                .send()
                .await
                .ok()?;
            let page = page.text().await.ok()?;
            let line = page
                .lines()
                .find_map(|line| line.strip_prefix("sim:adapter_loads_total "))?;
            *sum.get_or_insert(0.0) += line.trim().parse::<f64>().ok()?;
        }
        sum
    }

    async fn exchange(
        &self,
        ask: &Ask<'_>,
        due: Instant,
        outcome: &mut Outcome,
        answer: Option<&mut String>,
    ) -> Result<(), String> {
        let request = self.request(ask).body(self.0.content.body(ask));
        let response = request.send().await.map_err(|error| failure(&error))?;
        outcome.server = server(response.headers());
        if !response.status().is_success() {
            return Err(format!("http_{}", response.status().as_u16()));
        }
        if self.0.content.stream {
            return stream::read(response, due, outcome, answer).await;
        }
        let body = response.bytes().await.map_err(|error| failure(&error))?;
        let usage = Usage::of(&body).ok_or("unreadable_answer")?;
        outcome.count(&usage);
        Ok(())
    }

    fn request(&self, ask: &Ask<'_>) -> RequestBuilder {
        let target = &self.0;
        let request = target.client.post(&target.url);
        let headers = target.content.headers(ask);
        headers.fold(request, |request, (name, value)| {
            request.header(name, value)
        })
    }
}

/// The server that answered: `x-inference-pod` and `x-inference-port`, as simulated servers send them.
fn server(headers: &HeaderMap) -> Option<String> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    match (text("x-inference-pod"), text("x-inference-port")) {
        (Some(pod), Some(port)) => Some(format!("{pod}:{port}")),
        (pod, port) => pod.or(port).map(str::to_owned),
    }
}

pub(super) fn failure(error: &reqwest::Error) -> String {
    if error.is_connect() {
        "connect".into()
    } else if error.is_timeout() {
        "timeout".into()
    } else {
        "broken_off".into()
    }
}

//! One request of the load: sent, read to its end, timed.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use reqwest::header::{CONTENT_TYPE, HeaderMap};
use reqwest::{Client, RequestBuilder};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};

use super::conversation::Conversation;
use super::stream::{self, Usage};
use super::{Api, LoadPlan};
use crate::workload::{Arrival, Workload};

/// The header that names a request's InferenceObjective, of the Gateway API Inference Extension.
const OBJECTIVE: &str = "x-gateway-inference-objective";

/// Sends requests of one run.
#[derive(Clone)]
pub(crate) struct Sender(Arc<Target>);

struct Target {
    client: Client,
    url: String,
    api: Api,
    model: String,
    adapter_names: Vec<String>,
    headers: Vec<(String, String)>,
    workload: Workload,
    seed: u64,
    stream: bool,
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

/// What one request asks for.
struct Ask<'a> {
    conversation: &'a Conversation,
    arrival: &'a Arrival,
    output_tokens: u32,
}

impl Sender {
    pub(crate) fn new(plan: &LoadPlan) -> Result<Self, reqwest::Error> {
        let path = match plan.api {
            Api::Completions => "/v1/completions",
            Api::Chat => "/v1/chat/completions",
        };
        Ok(Self(Arc::new(Target {
            client: Client::builder().no_proxy().build()?,
            url: format!("{}{path}", plan.url.trim_end_matches('/')),
            api: plan.api,
            model: plan.model.clone(),
            adapter_names: plan.adapter_names.clone(),
            headers: plan.headers.clone(),
            workload: plan.workload.clone(),
            seed: plan.seed,
            stream: plan.stream,
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
        let mut conversation = Conversation::open(number, &arrival, &target.workload);
        let mut later = target.workload.later_turns(target.seed, number);
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
        let request = self.request(ask).body(self.body(ask).to_string());
        let response = request.send().await.map_err(|error| failure(&error))?;
        outcome.server = server(response.headers());
        if !response.status().is_success() {
            return Err(format!("http_{}", response.status().as_u16()));
        }
        if self.0.stream {
            return stream::read(response, due, outcome, answer).await;
        }
        let body = response.bytes().await.map_err(|error| failure(&error))?;
        let usage = Usage::of(&body).ok_or("unreadable_answer")?;
        outcome.count(&usage);
        Ok(())
    }

    fn request(&self, ask: &Ask<'_>) -> RequestBuilder {
        let target = &self.0;
        let mut request = target.client.post(&target.url);
        request = request.header(CONTENT_TYPE, "application/json");
        for (name, value) in &target.headers {
            request = request.header(name, value);
        }
        let priority = ask.arrival.priority;
        let priority = priority.and_then(|place| target.workload.priorities.get(place as usize));
        match priority {
            Some(priority) => request.header(OBJECTIVE, &priority.objective),
            None => request,
        }
    }

    fn body(&self, ask: &Ask<'_>) -> Value {
        let target = &self.0;
        let adapter = ask.arrival.adapter;
        let adapter = adapter.and_then(|place| target.adapter_names.get(place as usize));
        let mut body = json!({
            "model": adapter.unwrap_or(&target.model),
            "max_tokens": ask.output_tokens,
            "stream": target.stream,
            // A real model is to answer at the length of the workload too.
            "ignore_eos": true,
        });
        match target.api {
            Api::Completions => body["prompt"] = ask.conversation.prompt().into(),
            Api::Chat => body["messages"] = ask.conversation.messages(),
        }
        if target.stream {
            body["stream_options"] = json!({"include_usage": true});
        }
        body
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

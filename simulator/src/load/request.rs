//! One request of the load: sent, read to its end, timed.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use reqwest::header::{CONTENT_TYPE, HeaderMap};
use reqwest::{Client, Response};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::{Instant, timeout};

use super::{Api, LoadPlan, prompt};
use crate::workload::Arrival;

/// Sends requests of one run.
#[derive(Clone)]
pub(super) struct Sender(Arc<Target>);

struct Target {
    client: Client,
    url: String,
    api: Api,
    model: String,
    adapter_names: Vec<String>,
    headers: Vec<(String, String)>,
    stream: bool,
    timeout: Duration,
}

/// How one request went. Times count from when it was scheduled to be sent.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Outcome {
    /// The server that answered, as its headers say.
    pub(super) server: Option<String>,
    /// From schedule to sending.
    pub(super) lag: Duration,
    /// From schedule to the end.
    pub(super) e2e: Duration,
    /// From schedule to the first token, if the answer was streamed.
    pub(super) first_token: Option<Duration>,
    /// From schedule to the last token, if the answer was streamed.
    pub(super) last_token: Option<Duration>,
    pub(super) output_tokens: u64,
    /// What went wrong.
    pub(super) failure: Option<String>,
}

impl Sender {
    pub(super) fn new(plan: &LoadPlan) -> Result<Self, reqwest::Error> {
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
            stream: plan.stream,
            timeout: plan.timeout,
        })))
    }

    /// Sends request `number` now and reads its answer.
    pub(super) async fn send(self, number: u64, arrival: Arrival, start: Instant) -> Outcome {
        let scheduled = start + arrival.at;
        let mut outcome = Outcome {
            server: None,
            lag: scheduled.elapsed(),
            e2e: Duration::ZERO,
            first_token: None,
            last_token: None,
            output_tokens: 0,
            failure: None,
        };
        let exchange = self.exchange(number, &arrival, scheduled, &mut outcome);
        let ended = timeout(self.0.timeout, exchange).await;
        outcome.failure = match ended {
            Ok(Ok(())) => None,
            Ok(Err(failure)) => Some(failure),
            Err(_) => Some("timeout".into()),
        };
        outcome.e2e = scheduled.elapsed();
        outcome
    }

    /// Adapter loads of all `servers` together; `None` without servers, or if one does not say.
    pub(super) async fn adapter_loads(&self, servers: &[SocketAddr]) -> Option<f64> {
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
        number: u64,
        arrival: &Arrival,
        scheduled: Instant,
        outcome: &mut Outcome,
    ) -> Result<(), String> {
        let mut request = self
            .0
            .client
            .post(&self.0.url)
            .header(CONTENT_TYPE, "application/json");
        for (name, value) in &self.0.headers {
            request = request.header(name, value);
        }
        let body = self.body(number, arrival).to_string();
        let response = request
            .body(body)
            .send()
            .await
            .map_err(|error| failure(&error))?;
        outcome.server = server(response.headers());
        if !response.status().is_success() {
            return Err(format!("http_{}", response.status().as_u16()));
        }
        if self.0.stream {
            return read_stream(response, scheduled, outcome).await;
        }
        let body = response.bytes().await.map_err(|error| failure(&error))?;
        outcome.output_tokens = completion_tokens(&body).ok_or("unreadable_answer")?;
        Ok(())
    }

    fn body(&self, number: u64, arrival: &Arrival) -> Value {
        let adapter = arrival
            .adapter
            .and_then(|place| self.0.adapter_names.get(place as usize));
        let mut body = json!({
            "model": adapter.unwrap_or(&self.0.model),
            "max_tokens": arrival.output_tokens,
            "stream": self.0.stream,
            // A real model is to answer at the length of the workload too.
            "ignore_eos": true,
        });
        let prompt = prompt(number, arrival);
        match self.0.api {
            Api::Completions => body["prompt"] = prompt.into(),
            Api::Chat => body["messages"] = json!([{"role": "user", "content": prompt}]),
        }
        if self.0.stream {
            body["stream_options"] = json!({"include_usage": true});
        }
        body
    }
}

/// Reads events to the last, noting the times of the first token and the last.
async fn read_stream(
    mut response: Response,
    scheduled: Instant,
    outcome: &mut Outcome,
) -> Result<(), String> {
    let mut unread = Vec::new();
    let mut done = false;
    while let Some(chunk) = response.chunk().await.map_err(|error| failure(&error))? {
        let now = scheduled.elapsed();
        unread.extend_from_slice(&chunk);
        let mut read = 0;
        while let Some(length) = unread[read..].windows(2).position(|pair| pair == b"\n\n") {
            let event = &unread[read..read + length];
            read += length + 2;
            match Event::of(event) {
                Event::Token => {
                    outcome.first_token.get_or_insert(now);
                    outcome.last_token = Some(now);
                    outcome.output_tokens += 1;
                }
                Event::Usage(tokens) => outcome.output_tokens = tokens,
                Event::Error => return Err("error_in_stream".into()),
                Event::Done => done = true,
                Event::Other => {}
            }
        }
        unread.drain(..read);
    }
    if done { Ok(()) } else { Err("cut_off".into()) }
}

/// What an event of a stream says.
#[derive(Debug, PartialEq, Eq)]
enum Event {
    Token,
    /// Tokens of the whole answer.
    Usage(u64),
    Error,
    Done,
    Other,
}

impl Event {
    fn of(event: &[u8]) -> Self {
        let Some(data) = event.trim_ascii().strip_prefix(b"data: ") else {
            return Self::Other;
        };
        if data == b"[DONE]" {
            return Self::Done;
        }
        if data.starts_with(b"{\"error\"") {
            return Self::Error;
        }
        // The usage chunk is the only one without choices, and the role chunk the only one with a role; reading the JSON of
        // every token would cost more than all else.
        if contains(data, b"\"choices\":[]") {
            return completion_tokens(data).map_or(Self::Other, Self::Usage);
        }
        if contains(data, b"\"role\":") {
            Self::Other
        } else {
            Self::Token
        }
    }
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

fn completion_tokens(body: &[u8]) -> Option<u64> {
    #[derive(Deserialize)]
    struct Body {
        usage: Usage,
    }
    #[derive(Deserialize)]
    struct Usage {
        completion_tokens: u64,
    }
    serde_json::from_slice(body)
        .ok()
        .map(|body: Body| body.usage.completion_tokens)
}

/// The server that answered: `x-inference-pod` and `x-inference-port`, as simulated servers send them.
fn server(headers: &HeaderMap) -> Option<String> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    match (text("x-inference-pod"), text("x-inference-port")) {
        (Some(pod), Some(port)) => Some(format!("{pod}:{port}")),
        (pod, port) => pod.or(port).map(str::to_owned),
    }
}

fn failure(error: &reqwest::Error) -> String {
    if error.is_connect() {
        "connect".into()
    } else if error.is_timeout() {
        "timeout".into()
    } else {
        "broken_off".into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_told_apart_as_vllm_sends_them() {
        for (event, expected) in [
            (
                r#"data: {"id":"c","choices":[{"index":0,"delta":{"role":"assistant","content":""}}]}"#,
                Event::Other,
            ),
            (
                r#"data: {"id":"c","choices":[{"index":0,"delta":{"content":" a"},"finish_reason":null}]}"#,
                Event::Token,
            ),
            (
                r#"data: {"id":"c","choices":[{"index":0,"text":" a"}],"usage":{"completion_tokens":1}}"#,
                Event::Token,
            ),
            (
                r#"data: {"id":"c","choices":[],"usage":{"prompt_tokens":1,"completion_tokens":40}}"#,
                Event::Usage(40),
            ),
            (
                r#"data: {"error": {"message": "busy", "code": 503}}"#,
                Event::Error,
            ),
            (
                r#"data: {"error":{"message":"busy","code":503}}"#,
                Event::Error,
            ),
            ("data: [DONE]", Event::Done),
            (": a comment", Event::Other),
        ] {
            assert_eq!(Event::of(event.as_bytes()), expected, "{event}");
        }
    }
}

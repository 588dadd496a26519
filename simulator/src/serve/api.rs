//! The HTTP API of one server: which path answers what.

mod answer;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use axum::body::{Body, to_bytes};
use axum::http::header::{CONTENT_TYPE, HeaderName, HeaderValue, SERVER, VARY};
use axum::http::{Method, Request, Response, StatusCode, request::Parts};
use bytes::Bytes;
use hyper::body::Incoming;
use picker_core::seed::Random;

use super::Identity;
use super::drive::{EngineHandle, Generation};
use super::openai::{Ask, Flavour};
use super::received::Record;
use super::refusal::{Refusal, json_response, method_not_allowed, not_found};
use crate::engine::AdapterId;
use crate::engine::exposition::Answered;
use answer::Answer;

/// The largest body that is read; vLLM itself has no limit.
const MAX_BODY_BYTES: usize = 64 * 1024 * 1024;

/// What answers the requests to one server.
#[derive(Debug)]
pub(super) struct Api {
    identity: Arc<Identity>,
    engine: EngineHandle,
    record: Arc<Record>,
    pod: HeaderValue,
    port: HeaderValue,
    /// Draws the ids of requests; the start time is in it, so that ids do not repeat after a restart.
    ids_seed: u64,
    ids_drawn: AtomicU64,
}

impl Api {
    pub(super) fn new(identity: Arc<Identity>, engine: EngineHandle, record: Arc<Record>) -> Self {
        let pod = HeaderValue::from_str(&identity.name).unwrap_or(HeaderValue::from_static("sim"));
        let port = HeaderValue::from(identity.address.port());
        let ids_seed = unix_time().as_nanos() as u64 ^ u64::from(identity.address.port());
        Self {
            identity,
            engine,
            record,
            pod,
            port,
            ids_seed,
            ids_drawn: AtomicU64::new(0),
        }
    }

    /// Answers one request.
    pub(super) async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        let arrived = Instant::now();
        let (parts, body) = request.into_parts();
        let mut response = match to_bytes(Body::new(body), MAX_BODY_BYTES).await {
            Ok(body) => {
                self.record.add(&parts, &body);
                self.route(&parts, &body, arrived).await
            }
            Err(error) => {
                let refusal = Refusal::unreadable(&error.to_string());
                json_response(refusal.status(), refusal.text())
            }
        };
        let headers = response.headers_mut();
        headers.insert(SERVER, HeaderValue::from_static("uvicorn"));
        headers.insert(VARY, HeaderValue::from_static("Origin"));
        headers.insert(HeaderName::from_static("x-inference-pod"), self.pod.clone());
        headers.insert(
            HeaderName::from_static("x-inference-port"),
            self.port.clone(),
        );
        response
    }

    async fn route(&self, parts: &Parts, body: &Bytes, arrived: Instant) -> Response<Body> {
        match (parts.uri.path(), &parts.method) {
            ("/v1/completions", &Method::POST) => {
                self.generate(Flavour::Completion, parts, body, arrived)
                    .await
            }
            ("/v1/chat/completions", &Method::POST) => {
                self.generate(Flavour::Chat, parts, body, arrived).await
            }
            ("/v1/models", &Method::GET) => {
                let text = self.models();
                let counted = self.counted("/v1/models", "GET", body, arrived);
                counted.ended(StatusCode::OK, text.len()).await;
                json_response(StatusCode::OK, text)
            }
            ("/health", &Method::GET) | ("/ping", &Method::GET | &Method::POST) => {
                Response::new(Body::empty())
            }
            ("/version", &Method::GET) => {
                json_response(StatusCode::OK, r#"{"version":"0.32.0"}"#.into())
            }
            ("/load", &Method::GET) => json_response(StatusCode::OK, r#"{"server_load":0}"#.into()),
            ("/metrics", &Method::GET) => {
                let mut response = Response::new(Body::from(self.engine.metrics().await));
                let kind = HeaderValue::from_static("text/plain; version=1.0.0; charset=utf-8");
                response.headers_mut().insert(CONTENT_TYPE, kind);
                response
            }
            ("/v1/completions" | "/v1/chat/completions", _) => method_not_allowed("POST"),
            ("/v1/models" | "/health" | "/version" | "/load" | "/metrics", _) => {
                method_not_allowed("GET")
            }
            ("/ping", _) => method_not_allowed("GET, POST"),
            _ => not_found(),
        }
    }

    async fn generate(
        &self,
        flavour: Flavour,
        parts: &Parts,
        body: &Bytes,
        arrived: Instant,
    ) -> Response<Body> {
        let handler = match flavour {
            Flavour::Completion => "/v1/completions",
            Flavour::Chat => "/v1/chat/completions",
        };
        let counted = self.counted(handler, "POST", body, arrived);
        let whole = match self.start(flavour, parts, body).await {
            Ok(answer) if answer.is_streamed() => return answer.into_stream(counted),
            Ok(answer) => answer.into_whole().await,
            Err(refusal) => Err(refusal),
        };
        let (status, text) = match whole {
            Ok(text) => (StatusCode::OK, text),
            Err(refusal) => (refusal.status(), refusal.text()),
        };
        counted.ended(status, text.len()).await;
        json_response(status, text)
    }

    /// Hands the request to the engine.
    async fn start(
        &self,
        flavour: Flavour,
        parts: &Parts,
        body: &Bytes,
    ) -> Result<Answer, Refusal> {
        let ask = Ask::read(flavour, &parts.headers, body)?;
        let (model, adapter) = self.model(ask.model.as_deref())?;
        let lengths = ask.lengths(self.identity.profile.max_model_len)?;
        let generation = Generation {
            adapter,
            prompt_tokens: ask.prompt_tokens,
            output_tokens: lengths.output_tokens,
            max_tokens: lengths.max_tokens,
            finish: lengths.finish,
        };
        // The lengths and the adapter have just been checked, so no answer means that the server is being killed.
        let outputs = self.engine.submit(generation).await.ok().flatten();
        let outputs = outputs.ok_or_else(Refusal::engine_dead)?;
        let asked_id = parts
            .headers
            .get("x-request-id")
            .and_then(|id| id.to_str().ok());
        let id = asked_id.map_or_else(|| format!("{:016x}", self.draw()), str::to_owned);
        Ok(Answer::new(
            &ask,
            model,
            &id,
            unix_time().as_secs(),
            outputs,
        ))
    }

    /// The name that the answer gives and the adapter, of a base model, an adapter, or no model at all.
    fn model(&self, asked: Option<&str>) -> Result<(&str, Option<AdapterId>), Refusal> {
        let base = self.identity.model.as_str();
        let Some(asked) = asked.filter(|asked| !asked.is_empty() && *asked != base) else {
            return Ok((base, None));
        };
        let place = self.identity.adapters.iter().position(|name| name == asked);
        place
            .map(|place| {
                (
                    self.identity.adapters[place].as_str(),
                    Some(AdapterId(place as u32)),
                )
            })
            .ok_or_else(|| Refusal::unknown_model(asked, base))
    }

    fn models(&self) -> String {
        let base = &self.identity.model;
        let length = self.identity.profile.max_model_len.to_string();
        let created = unix_time().as_secs();
        let mut cards =
            vec![self.model_card(base, &format!("/models/{base}"), None, &length, created)];
        for name in &self.identity.adapters {
            let root = format!("/adapters/{name}");
            cards.push(self.model_card(name, &root, Some(base), "null", created));
        }
        format!(r#"{{"object":"list","data":[{}]}}"#, cards.join(","))
    }

    fn model_card(
        &self,
        name: &str,
        root: &str,
        parent: Option<&str>,
        max_model_len: &str,
        created: u64,
    ) -> String {
        let text = |text: &str| serde_json::Value::from(text).to_string();
        let parent = parent.map_or_else(|| "null".into(), text);
        let permission = format!(
            r#"{{"id":"modelperm-{:016x}","object":"model_permission","created":{created},"allow_create_engine":false,"allow_sampling":true,"allow_logprobs":true,"allow_search_indices":false,"allow_view":true,"allow_fine_tuning":false,"organization":"*","group":null,"is_blocking":false}}"#,
            self.draw()
        );
        format!(
            r#"{{"id":{},"object":"model","created":{created},"owned_by":"vllm","root":{},"parent":{parent},"max_model_len":{max_model_len},"permission":[{permission}]}}"#,
            text(name),
            text(root),
        )
    }

    fn draw(&self) -> u64 {
        let drawn = self.ids_drawn.fetch_add(1, Ordering::Relaxed);
        Random::new(self.ids_seed.wrapping_add(drawn)).next_u64()
    }

    fn counted(
        &self,
        handler: &'static str,
        method: &'static str,
        body: &Bytes,
        arrived: Instant,
    ) -> Counted {
        Counted {
            engine: self.engine.clone(),
            handler,
            method,
            bytes: body.len(),
            arrived,
        }
    }
}

/// What is needed to count a request when its answer has ended.
struct Counted {
    engine: EngineHandle,
    handler: &'static str,
    method: &'static str,
    bytes: usize,
    arrived: Instant,
}

impl Counted {
    /// Counts it. `response_bytes` is the content length of the answer: none for a stream.
    async fn ended(&self, status: StatusCode, response_bytes: usize) {
        let answered = Answered {
            handler: self.handler,
            method: self.method,
            status: status.as_u16(),
            request_bytes: self.bytes as u64,
            response_bytes: response_bytes as u64,
            seconds: self.arrived.elapsed().as_secs_f64(),
        };
        self.engine.answered(answered).await;
    }
}

fn unix_time() -> Duration {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or(Duration::ZERO)
}

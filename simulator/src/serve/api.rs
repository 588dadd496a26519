//! The HTTP API of one server: which path answers what.

mod answer;
mod generate;
mod models;
mod response;
mod spoken;
mod state;
mod tokens;

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
use super::adapters::Adapters;
use super::control::Control;
use super::drive::EngineHandle;
use super::openai::{Flavour, field};
use super::received::Record;
use super::refusal::{Refusal, json_response, method_not_allowed, not_found};
use crate::engine::AdapterId;
use crate::engine::exposition::Answered;

/// The largest body that is read; vLLM itself has no limit.
const MAX_BODY_BYTES: usize = 64 * 1024 * 1024;

/// What answers the requests to one server.
#[derive(Debug)]
pub(super) struct Api {
    identity: Arc<Identity>,
    adapters: Arc<Adapters>,
    engine: EngineHandle,
    control: Arc<Control>,
    record: Arc<Record>,
    pod: HeaderValue,
    port: HeaderValue,
    /// Draws the ids of requests; the start time is in it, so that ids do not repeat after a restart.
    ids_seed: u64,
    ids_drawn: AtomicU64,
}

impl Api {
    pub(super) fn new(
        identity: Arc<Identity>,
        adapters: Arc<Adapters>,
        engine: EngineHandle,
        control: Arc<Control>,
        record: Arc<Record>,
    ) -> Self {
        let pod = HeaderValue::from_str(&identity.name).unwrap_or(HeaderValue::from_static("sim"));
        let port = HeaderValue::from(identity.address.port());
        let ids_seed = unix_time().as_nanos() as u64 ^ u64::from(identity.address.port());
        Self {
            identity,
            adapters,
            engine,
            control,
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
            Err(error) => Refusal::unreadable(&error.to_string()).response(),
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
        let path = parts.uri.path();
        if path == "/sim/state" && self.identity.control {
            return self.state(&parts.method, body).await;
        }
        let Some(allowed) = methods(path) else {
            return not_found();
        };
        let method = parts.method.as_str();
        if !allowed.split(", ").any(|allowed| allowed == method) {
            return method_not_allowed(allowed);
        }
        match path {
            "/v1/completions" => {
                self.generate(Flavour::Completion, parts, body, arrived)
                    .await
            }
            "/v1/chat/completions" => self.generate(Flavour::Chat, parts, body, arrived).await,
            "/v1/responses" => self.generate(Flavour::Response, parts, body, arrived).await,
            "/health" | "/ping" => Response::new(Body::empty()),
            "/version" => json_response(StatusCode::OK, r#"{"version":"0.32.0"}"#.into()),
            "/load" => self.server_load(),
            "/metrics" => {
                let mut response = Response::new(Body::from(self.engine.metrics().await));
                let kind = HeaderValue::from_static("text/plain; version=1.0.0; charset=utf-8");
                response.headers_mut().insert(CONTENT_TYPE, kind);
                response
            }
            _ => {
                let (handler, answered) = self.brief(path, parts, body);
                let (status, text, kind) = match answered {
                    Ok(Brief::Json(text)) => (StatusCode::OK, text, Some("application/json")),
                    Ok(Brief::Text(text)) => (StatusCode::OK, text, None),
                    Err(refusal) => (refusal.status(), refusal.text(), Some("application/json")),
                };
                let counted = self.counted(handler, method_name(&parts.method), body, arrived);
                counted.ended(status, text.len()).await;
                let mut response = Response::new(Body::from(text));
                *response.status_mut() = status;
                if let Some(kind) = kind {
                    let kind = HeaderValue::from_static(kind);
                    response.headers_mut().insert(CONTENT_TYPE, kind);
                }
                response
            }
        }
    }

    /// What is answered without the engine, and what metrics call its handler.
    fn brief(
        &self,
        path: &str,
        parts: &Parts,
        body: &Bytes,
    ) -> (&'static str, Result<Brief, Refusal>) {
        let header = parts.headers.get(CONTENT_TYPE);
        let content_type = header.and_then(|value| value.to_str().ok());
        let body = || field::object(content_type, body);
        match path {
            "/v1/models" => ("/v1/models", Ok(Brief::Json(self.models()))),
            "/tokenize" => (
                "/tokenize",
                body()
                    .and_then(|body| self.tokenize(&body))
                    .map(Brief::Json),
            ),
            "/detokenize" => (
                "/detokenize",
                body()
                    .and_then(|body| self.detokenize(&body))
                    .map(Brief::Json),
            ),
            "/v1/load_lora_adapter" => (
                "/v1/load_lora_adapter",
                body()
                    .and_then(|body| self.load_adapter(&body))
                    .map(Brief::Text),
            ),
            "/v1/unload_lora_adapter" => (
                "/v1/unload_lora_adapter",
                body()
                    .and_then(|body| self.unload_adapter(&body))
                    .map(Brief::Text),
            ),
            "/adapters" => (
                "/adapters",
                body()
                    .and_then(|body| self.register_adapter(&body))
                    .map(Brief::Text),
            ),
            "/v1/completions/render" => {
                ("/v1/completions/render", Err(Refusal::scale_out_disabled()))
            }
            "/v1/chat/completions/render" => (
                "/v1/chat/completions/render",
                Err(Refusal::scale_out_disabled()),
            ),
            "/inference/v1/generate" => {
                ("/inference/v1/generate", Err(Refusal::scale_out_disabled()))
            }
            _ => {
                let name = path.trim_start_matches("/adapters/");
                let removed = self.adapters.unload(name);
                (
                    "/adapters/{adapter_name}",
                    removed.map(|_| Brief::Text(format!("Adapter {name} unregistered"))),
                )
            }
        }
    }

    fn server_load(&self) -> Response<Body> {
        let tracked = self.identity.track_load;
        let load = if tracked { self.control.in_flight() } else { 0 };
        json_response(StatusCode::OK, format!(r#"{{"server_load":{load}}}"#))
    }

    /// The name that the answer gives and the adapter, of a base model, an adapter, or no model at all.
    fn model(&self, asked: Option<&str>) -> Result<(String, Option<AdapterId>), Refusal> {
        let base = self.identity.model.as_str();
        let Some(asked) = asked.filter(|asked| !asked.is_empty() && *asked != base) else {
            return Ok((base.to_owned(), None));
        };
        match self.adapters.find(asked) {
            Some(_) if self.identity.profile.max_loras == 0 => {
                Err(Refusal::unknown_model(asked, base))
            }
            Some(id) => Ok((asked.to_owned(), Some(id))),
            None => Err(Refusal::unknown_model(asked, base)),
        }
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

/// An answer that is there at once.
enum Brief {
    Json(String),
    Text(String),
}

/// What a path takes; none if vLLM does not have it.
fn methods(path: &str) -> Option<&'static str> {
    match path {
        "/v1/completions"
        | "/v1/chat/completions"
        | "/v1/responses"
        | "/tokenize"
        | "/detokenize"
        | "/v1/load_lora_adapter"
        | "/v1/unload_lora_adapter"
        | "/adapters"
        | "/v1/completions/render"
        | "/v1/chat/completions/render"
        | "/inference/v1/generate" => Some("POST"),
        "/v1/models" | "/health" | "/version" | "/load" | "/metrics" => Some("GET"),
        "/ping" => Some("GET, POST"),
        _ => path
            .strip_prefix("/adapters/")
            .filter(|name| !name.is_empty() && !name.contains('/'))
            .map(|_| "DELETE"),
    }
}

const fn method_name(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::DELETE => "DELETE",
        _ => "POST",
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

/// A text as JSON.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

//! Requests to generate: checked, handed to the engine, answered whole or as a stream.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use axum::body::Body;
use axum::http::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use axum::http::{HeaderMap, Response, StatusCode, request::Parts};
use bytes::Bytes;
use tokio::sync::mpsc;

use super::answer::Answer;
use super::response::Item;
use super::spoken::Spoken;
use super::{Api, Counted, unix_time};
use crate::serve::control::Control;
use crate::serve::drive::{Ending, Event, Generation, Load, Rejected};
use crate::serve::openai::{Ask, Flavour};
use crate::serve::refusal::{Refusal, json_response};

/// The request header that asks for ORCA, and the response header that answers (vllm/entrypoints/serve/utils/orca_metrics.py).
const ORCA_FORMAT: &str = "endpoint-load-metrics-format";
const ORCA: HeaderName = HeaderName::from_static("endpoint-load-metrics");

impl Api {
    /// Answers a request to generate.
    pub(super) async fn generate(
        &self,
        flavour: Flavour,
        parts: &Parts,
        body: &Bytes,
        arrived: Instant,
    ) -> Response<Body> {
        let counted = self.counted(flavour.path(), "POST", body, arrived);
        let in_flight = InFlight::new(&self.control);
        let whole = match self.start(flavour, &parts.headers, body).await {
            Ok(mut told) if told.stream => match told.refused.take() {
                Some(refusal) => {
                    counted.ended(StatusCode::OK, 0).await;
                    return event_stream(Body::from(refusal.event()));
                }
                None => return event_stream(told.into_stream(counted, in_flight)),
            },
            Ok(told) => told.into_whole().await,
            Err(refusal) => Err(refusal),
        };
        let orca = match &whole {
            Ok(_) if flavour != Flavour::Response => self.orca(&parts.headers).await,
            _ => None,
        };
        let (status, text) = match whole {
            Ok(text) => (StatusCode::OK, text),
            Err(refusal) => (refusal.status(), refusal.text()),
        };
        counted.ended(status, text.len()).await;
        let mut response = json_response(status, text);
        if let Some(orca) = orca {
            response.headers_mut().insert(ORCA, orca);
        }
        response
    }

    /// Checks the request in vLLM's order, and hands it to the engine.
    async fn start(
        &self,
        flavour: Flavour,
        headers: &HeaderMap,
        body: &Bytes,
    ) -> Result<Told, Refusal> {
        let ask = Ask::read(flavour, headers, body)?;
        let (model, adapter) = self.model(ask.model.as_deref())?;
        if self.control.fails_next() {
            return Err(Refusal::engine_dead());
        }
        if self.control.is_draining() {
            return Err(Refusal::draining());
        }
        let n = ask.n as usize;
        // vLLM looks twice: here before it has begun an answer, and when it hands the request to the engine.
        if let Some(most) = self.identity.max_num_queued_reqs
            && self.engine.unfinished().await + n > most
        {
            return Err(Refusal::busy());
        }
        if let Some(previous) = ask.body["previous_response_id"].as_str() {
            return Err(Refusal::unknown_response(previous));
        }
        let choices = ask.choices(self.identity.profile.max_model_len)?;
        let generation = Generation {
            adapter,
            choices: choices.clone(),
            n,
            salt: ask.salt,
        };
        let (events, refused) = match self.engine.submit(generation).await {
            Ok(events) => (events, None),
            Err(Rejected::Busy) if ask.stream => (mpsc::channel(1).1, Some(Refusal::busy())),
            Err(Rejected::Busy) => return Err(Refusal::busy()),
            Err(Rejected::Ended) => return Err(Refusal::engine_dead()),
        };
        let id = ask.id.clone();
        let id = id.unwrap_or_else(|| format!("{:016x}", self.draw()));
        let held_back = ask.stop.held_back();
        let spoken = choices
            .into_iter()
            .map(|choice| Spoken::new(choice, held_back))
            .collect();
        let stream = ask.stream;
        let created = unix_time().as_secs();
        let form = match flavour {
            Flavour::Response => {
                let item = format!("msg_{:016x}", self.draw());
                Form::Response(Item::new(&ask, &model, &id, &item, created))
            }
            _ => Form::Answer(Answer::new(&ask, &model, &id, created)),
        };
        Ok(Told {
            stream,
            refused,
            form,
            spoken,
            events,
        })
    }

    /// The load report that the client asked for.
    async fn orca(&self, headers: &HeaderMap) -> Option<HeaderValue> {
        let format = headers.get(ORCA_FORMAT)?.to_str().ok()?;
        let Load { waiting, kv_usage } = self.engine.load().await?;
        let text = match format.to_ascii_lowercase().as_str() {
            "text" => format!(
                "TEXT named_metrics.num_requests_waiting={waiting}.0, named_metrics.kv_cache_usage_perc={kv_usage:?}"
            ),
            "json" => format!(
                r#"JSON {{"named_metrics": {{"num_requests_waiting": {waiting}.0, "kv_cache_usage_perc": {kv_usage:?}}}}}"#
            ),
            _ => return None,
        };
        HeaderValue::from_str(&text).ok()
    }
}

/// An answer that the engine is about to give.
struct Told {
    stream: bool,
    /// Why there will be none, though a stream has begun.
    refused: Option<Refusal>,
    form: Form,
    spoken: Vec<Spoken>,
    events: mpsc::Receiver<Event>,
}

/// What the answer looks like.
enum Form {
    Answer(Answer),
    Response(Item),
}

impl Told {
    /// Waits for the last token and gives the body.
    async fn into_whole(mut self) -> Result<String, Refusal> {
        while self.spoken.iter().any(|spoken| !spoken.has_ended()) {
            match self.events.recv().await {
                Some(Event::Token(choice, output)) => drop(self.spoken[choice].hear(output)),
                Some(Event::Ended(Ending::Cut)) => self.spoken.iter_mut().for_each(Spoken::cut),
                Some(Event::Ended(Ending::Failed)) | None => return Err(Refusal::engine_dead()),
            }
        }
        Ok(match &self.form {
            Form::Answer(answer) => answer.whole(&self.spoken),
            Form::Response(item) => item.whole(&self.spoken[0]),
        })
    }

    /// The events, each sent when its token is there.
    fn into_stream(mut self, counted: Counted, in_flight: InFlight) -> Body {
        let opening = match &mut self.form {
            Form::Answer(_) => None,
            Form::Response(item) => Some(item.opening(&self.spoken[0])),
        };
        let state = Some((self, counted, in_flight, opening));
        let events = futures::stream::unfold(state, |state| async {
            let (mut told, counted, in_flight, opening) = state?;
            if let Some(opening) = opening {
                let bytes = Ok(Bytes::from(opening));
                return Some((bytes, Some((told, counted, in_flight, None))));
            }
            // Without an event the server is being killed, and the connection breaks off with it.
            let event = told.events.recv().await?;
            let (bytes, is_last) = told.send(event);
            if is_last {
                counted.ended(StatusCode::OK, 0).await;
                return Some((bytes, None));
            }
            Some((bytes, Some((told, counted, in_flight, None))))
        });
        Body::from_stream(events)
    }

    /// What an event of the engine puts on the wire, and whether that ends the stream.
    fn send(&mut self, event: Event) -> (io::Result<Bytes>, bool) {
        let text = match (event, &mut self.form) {
            (Event::Token(choice, output), form) => {
                let delta = self.spoken[choice].hear(output);
                let is_last = self.spoken.iter().all(Spoken::has_ended);
                let text = match form {
                    Form::Answer(answer) => answer.events(&self.spoken, choice, &delta),
                    Form::Response(item) => item.events(&self.spoken[0], &delta),
                };
                return (Ok(Bytes::from(text)), is_last);
            }
            (Event::Ended(Ending::Cut), form) => {
                self.spoken.iter_mut().for_each(Spoken::cut);
                match form {
                    Form::Answer(answer) => answer.end(&self.spoken),
                    Form::Response(item) => item.events(&self.spoken[0], ""),
                }
            }
            (Event::Ended(Ending::Failed), Form::Answer(_)) => Refusal::engine_dead().event(),
            // vLLM writes no error into the stream of a response: the exception breaks the connection off.
            (Event::Ended(Ending::Failed), Form::Response(_)) => {
                return (Err(io::Error::other("the engine crashed")), true);
            }
        };
        (Ok(Bytes::from(text)), true)
    }
}

/// Counts a request as long as its answer has not ended, however that ends.
struct InFlight(Arc<Control>);

impl InFlight {
    fn new(control: &Arc<Control>) -> Self {
        control.began();
        Self(Arc::clone(control))
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.ended();
    }
}

fn event_stream(body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    let kind = HeaderValue::from_static("text/event-stream; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

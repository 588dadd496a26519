//! The answer to one generation, whole or as a stream of events: vLLM 0.32.0's fields in vLLM's order.

use axum::body::Body;
use axum::http::header::{CONTENT_TYPE, HeaderValue};
use axum::http::{Response, StatusCode};
use bytes::Bytes;
use serde_json::Value;
use tokio::sync::mpsc;

use super::Counted;
use crate::engine::{FinishReason, Output};
use crate::serve::openai::{Ask, Flavour};
use crate::serve::refusal::Refusal;

/// vLLM's version and a hash of its settings.
const FINGERPRINT: &str = "vllm-0.32.0-51a1ab1e";

/// What the model says; a token each, two bytes to nine.
const WORDS: [&str; 16] = [
    " the", " train", " takes", " a", " track", " to", " its", " place", " and", " waits", " for",
    " no", " signal", " but", " one", " points",
];

/// An answer that the engine is about to give.
pub(super) struct Answer {
    flavour: Flavour,
    stream: bool,
    include_usage: bool,
    continuous_usage: bool,
    prompt_tokens: u32,
    prompt_hash: u64,
    /// Model name as JSON.
    model: String,
    /// Response id as JSON.
    id: String,
    created: u64,
    outputs: mpsc::Receiver<Output>,
}

impl Answer {
    pub(super) fn new(
        ask: &Ask,
        model: &str,
        id: &str,
        created: u64,
        outputs: mpsc::Receiver<Output>,
    ) -> Self {
        let prefix = match ask.flavour {
            Flavour::Completion => "cmpl",
            Flavour::Chat => "chatcmpl",
        };
        Self {
            flavour: ask.flavour,
            stream: ask.stream,
            include_usage: ask.include_usage,
            continuous_usage: ask.continuous_usage,
            prompt_tokens: ask.prompt_tokens,
            prompt_hash: ask.prompt_hash,
            model: Value::from(model).to_string(),
            id: Value::from(format!("{prefix}-{id}")).to_string(),
            created,
            outputs,
        }
    }

    pub(super) const fn is_streamed(&self) -> bool {
        self.stream
    }

    /// Waits for the last token and gives the body.
    ///
    /// # Errors
    /// The server was killed meanwhile.
    pub(super) async fn into_whole(mut self) -> Result<String, Refusal> {
        let mut said = String::new();
        loop {
            let output = self.outputs.recv().await.ok_or_else(Refusal::engine_dead)?;
            said.push_str(self.word(output.token));
            if let Some(finish) = output.finished {
                return Ok(self.whole(&said, output.token, finish));
            }
        }
    }

    /// The events, each sent when its token is there.
    pub(super) fn into_stream(self, counted: Counted) -> Response<Body> {
        let events = futures::stream::unfold(Some((self, counted)), |state| async {
            let (mut answer, counted) = state?;
            // Without an output the server is being killed, and the connection breaks off with it.
            let output = answer.outputs.recv().await?;
            let events = Ok::<_, std::convert::Infallible>(Bytes::from(answer.events(output)));
            if output.finished.is_some() {
                counted.ended(StatusCode::OK, 0).await;
                return Some((events, None));
            }
            Some((events, Some((answer, counted))))
        });
        let mut response = Response::new(Body::from_stream(events));
        let kind = HeaderValue::from_static("text/event-stream; charset=utf-8");
        response.headers_mut().insert(CONTENT_TYPE, kind);
        response
    }

    /// The word of a token, from 1.
    fn word(&self, token: u32) -> &'static str {
        let place = self
            .prompt_hash
            .wrapping_add(u64::from(token).wrapping_mul(0x9e37_79b9));
        WORDS[((place >> 3) % WORDS.len() as u64) as usize]
    }

    fn whole(&self, said: &str, tokens: u32, finish: FinishReason) -> String {
        let said = Value::from(said);
        let (id, created, model, finish) = (&self.id, self.created, &self.model, reason(finish));
        let prompt_tokens = self.prompt_tokens;
        let total_tokens = prompt_tokens + tokens;
        let usage = format!(
            r#""service_tier":null,"system_fingerprint":"{FINGERPRINT}","usage":{{"prompt_tokens":{prompt_tokens},"total_tokens":{total_tokens},"completion_tokens":{tokens},"prompt_tokens_details":null,"completion_tokens_details":null}}"#
        );
        match self.flavour {
            Flavour::Completion => format!(
                r#"{{"id":{id},"object":"text_completion","created":{created},"model":{model},"choices":[{{"index":0,"text":{said},"logprobs":null,"finish_reason":"{finish}","stop_reason":null,"token_ids":null,"prompt_logprobs":null,"prompt_token_ids":null,"routed_experts":null}}],{usage},"kv_transfer_params":null,"ec_transfer_params":null,"metrics":null}}"#
            ),
            Flavour::Chat => format!(
                r#"{{"id":{id},"object":"chat.completion","created":{created},"model":{model},"choices":[{{"index":0,"message":{{"role":"assistant","content":{said},"refusal":null,"annotations":null,"audio":null,"function_call":null,"reasoning":null}},"logprobs":null,"finish_reason":"{finish}","stop_reason":null,"token_ids":null,"routed_experts":null}}],{usage},"prompt_logprobs":null,"prompt_token_ids":null,"prompt_text":null,"kv_transfer_params":null,"ec_transfer_params":null,"metrics":null}}"#
            ),
        }
    }

    /// The events that one token causes: with the first of a chat also the role, with the last also the end.
    fn events(&self, output: Output) -> String {
        let mut events = String::with_capacity(512);
        let mut send = |data: &str| {
            events.push_str("data: ");
            events.push_str(data);
            events.push_str("\n\n");
        };
        if output.is_first() && self.flavour == Flavour::Chat {
            let usage = self.continuous(0);
            send(&self.chunk(
                r#"{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}"#,
                &format!(r#"{usage},"prompt_token_ids":null,"prompt_text":null"#),
            ));
        }
        let usage = self.continuous(output.token);
        let fingerprint = match output.finished {
            Some(_) if !self.include_usage => format!(r#","system_fingerprint":"{FINGERPRINT}""#),
            _ => String::new(),
        };
        send(&self.chunk(&self.choice(output), &format!("{usage}{fingerprint}")));
        if output.finished.is_some() {
            if self.include_usage {
                let usage = self.usage(output.token);
                send(&self.chunk(
                    "",
                    &format!(r#",{usage}}},"system_fingerprint":"{FINGERPRINT}""#),
                ));
            }
            send("[DONE]");
        }
        events
    }

    fn choice(&self, output: Output) -> String {
        let said = Value::from(self.word(output.token));
        let finish = output
            .finished
            .map_or_else(|| "null".into(), |finish| format!("\"{}\"", reason(finish)));
        match self.flavour {
            Flavour::Completion => format!(
                r#"{{"index":0,"text":{said},"logprobs":null,"finish_reason":{finish},"stop_reason":null,"prompt_token_ids":null,"token_ids":null}}"#
            ),
            Flavour::Chat => {
                let stop = if output.finished.is_some() {
                    r#""stop_reason":null,"#
                } else {
                    ""
                };
                format!(
                    r#"{{"index":0,"delta":{{"content":{said}}},"logprobs":null,"finish_reason":{finish},{stop}"token_ids":null}}"#
                )
            }
        }
    }

    fn chunk(&self, choice: &str, rest: &str) -> String {
        let object = match self.flavour {
            Flavour::Completion => "text_completion",
            Flavour::Chat => "chat.completion.chunk",
        };
        let (id, created, model) = (&self.id, self.created, &self.model);
        format!(
            r#"{{"id":{id},"object":"{object}","created":{created},"model":{model},"choices":[{choice}]{rest}}}"#
        )
    }

    /// The usage that each chunk carries if the client asked for it.
    fn continuous(&self, tokens: u32) -> String {
        if self.continuous_usage && self.include_usage {
            format!(
                r#",{},"completion_tokens_details":null}}"#,
                self.usage(tokens)
            )
        } else {
            String::new()
        }
    }

    /// A usage object, left open.
    fn usage(&self, tokens: u32) -> String {
        let prompt_tokens = self.prompt_tokens;
        let total_tokens = prompt_tokens + tokens;
        format!(
            r#""usage":{{"prompt_tokens":{prompt_tokens},"total_tokens":{total_tokens},"completion_tokens":{tokens}"#
        )
    }
}

const fn reason(finish: FinishReason) -> &'static str {
    match finish {
        FinishReason::Stop => "stop",
        FinishReason::Length => "length",
    }
}

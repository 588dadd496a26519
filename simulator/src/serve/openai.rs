//! What a client asks for: bodies of completions, chat completions and responses, checked in vLLM's order.

pub(super) mod field;
pub(super) mod plan;
pub(super) mod prompt;

use axum::http::HeaderMap;
use axum::http::header::CONTENT_TYPE;
use serde_json::Value;

use super::received::body_hash;
use super::refusal::Refusal;
use plan::{Limits, Stop};
use prompt::Prompt;

/// What vLLM allows a completion that names no `max_tokens`.
const COMPLETION_DEFAULT_TOKENS: i64 = 16;
/// vLLM's `VLLM_MAX_STOP_STRINGS`.
const MAX_STOP_STRINGS: usize = 4;
/// vLLM's `VLLM_MAX_N_SEQUENCES`.
const MAX_CHOICES: i64 = 16_384;

/// Which of the APIs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flavour {
    /// `/v1/completions`
    Completion,
    /// `/v1/chat/completions`
    Chat,
    /// `/v1/responses`
    Response,
}

impl Flavour {
    /// The path, which is also what metrics call the handler.
    pub(super) const fn path(self) -> &'static str {
        match self {
            Self::Completion => "/v1/completions",
            Self::Chat => "/v1/chat/completions",
            Self::Response => "/v1/responses",
        }
    }
}

/// A valid request.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Ask {
    pub(super) flavour: Flavour,
    pub(super) model: Option<String>,
    pub(super) stream: bool,
    pub(super) include_usage: bool,
    /// Usage with every chunk.
    pub(super) continuous_usage: bool,
    pub(super) return_token_ids: bool,
    /// The id that the client chose.
    pub(super) id: Option<String>,
    pub(super) prompts: Vec<Prompt>,
    /// Answers to each prompt.
    pub(super) n: u32,
    pub(super) limits: Limits,
    pub(super) stop: Stop,
    /// Only requests with the same one share prefixes.
    pub(super) salt: Option<u64>,
    /// The body: what an answer repeats of it.
    pub(super) body: Value,
}

impl Ask {
    /// Reads a body.
    ///
    /// # Errors
    /// vLLM's answer to what is wrong with it first.
    pub(super) fn read(
        flavour: Flavour,
        headers: &HeaderMap,
        body: &[u8],
    ) -> Result<Self, Refusal> {
        let header = |name| headers.get(name).and_then(|value| value.to_str().ok());
        let body = field::object(header(CONTENT_TYPE.as_str()), body)?;
        let stream = field::flag(&body, "stream");
        let options = &body["stream_options"];
        if !options.is_null() && !stream && flavour != Flavour::Response {
            return Err(Refusal::stream_options_without_stream());
        }
        let prompts = Prompt::all(flavour, &body)?;
        let model = field::text(&body, "model")?.map(str::to_owned);
        field::number(&body, "temperature")?;
        field::number(&body, "top_p")?;
        let limits = limits(flavour, &body)?;
        let stop = Stop {
            texts: field::texts(&body, "stop")?,
            keep: field::flag(&body, "include_stop_str_in_output"),
        };
        let include_usage = field::flag(options, "include_usage");
        Ok(Self {
            flavour,
            model,
            stream,
            include_usage,
            continuous_usage: include_usage && field::flag(options, "continuous_usage_stats"),
            return_token_ids: field::flag(&body, "return_token_ids"),
            id: match header("x-request-id") {
                Some(id) if flavour != Flavour::Response => Some(id.to_owned()),
                _ => field::text(&body, "request_id")?.map(str::to_owned),
            },
            prompts,
            n: choices(flavour, &body, &stop)?,
            limits,
            stop,
            salt: field::text(&body, "cache_salt")?.map(|salt| body_hash(salt.as_bytes())),
            body,
        })
    }
}

fn limits(flavour: Flavour, body: &Value) -> Result<Limits, Refusal> {
    let parameters: &[&str] = match flavour {
        Flavour::Completion => &["max_tokens"],
        Flavour::Chat => &["max_completion_tokens", "max_tokens"],
        Flavour::Response => &["max_output_tokens"],
    };
    let mut limits = Limits {
        max_tokens: None,
        parameter: "max_tokens",
        min_tokens: 0,
        ignore_eos: field::flag(body, "ignore_eos"),
    };
    for &parameter in parameters {
        if let Some(tokens) = field::integer(body, parameter)?
            && limits.max_tokens.is_none()
        {
            limits.max_tokens = Some(tokens);
            limits.parameter = parameter;
        }
    }
    if flavour == Flavour::Completion {
        limits.max_tokens.get_or_insert(COMPLETION_DEFAULT_TOKENS);
    }
    let min_tokens = field::integer(body, "min_tokens")?.unwrap_or(0);
    limits.min_tokens = u32::try_from(min_tokens).unwrap_or(0);
    Ok(limits)
}

/// How many answers to each prompt; also what vLLM's sampling parameters say of `stop`.
fn choices(flavour: Flavour, body: &Value, stop: &Stop) -> Result<u32, Refusal> {
    if stop.texts.len() > MAX_STOP_STRINGS {
        return Err(Refusal::too_many_stops(&body["stop"], MAX_STOP_STRINGS));
    }
    let n = match flavour {
        Flavour::Response => 1,
        _ => field::integer(body, "n")?.unwrap_or(1),
    };
    if n < 1 {
        return Err(Refusal::bad_parameters(&format!(
            "n must be at least 1, got {n}."
        )));
    }
    if n > MAX_CHOICES {
        return Err(Refusal::bad_parameters(&format!(
            "n must be at most {MAX_CHOICES}, got {n}. To increase this limit, set the VLLM_MAX_N_SEQUENCES environment \
             variable."
        )));
    }
    if stop.texts.iter().any(String::is_empty) {
        return Err(Refusal::bad_parameters(
            "stop cannot contain an empty string.",
        ));
    }
    Ok(n as u32)
}

//! What a client asks for: bodies of OpenAI completions and chat completions, checked in vLLM's order.

use std::hash::{DefaultHasher, Hasher as _};

use axum::http::HeaderMap;
use axum::http::header::CONTENT_TYPE;
use serde_json::Value;

use super::refusal::Refusal;
use crate::engine::FinishReason;
use crate::workload::BYTES_PER_TOKEN;

/// What vLLM allows a completion that names no `max_tokens`.
const COMPLETION_DEFAULT_TOKENS: u32 = 16;

/// Which of the two APIs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flavour {
    /// `/v1/completions`
    Completion,
    /// `/v1/chat/completions`
    Chat,
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
    pub(super) prompt_tokens: u32,
    pub(super) max_tokens: Option<i64>,
    /// Decides what the answer says.
    pub(super) prompt_hash: u64,
}

/// The lengths of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Lengths {
    pub(super) output_tokens: u32,
    pub(super) max_tokens: u32,
    pub(super) finish: FinishReason,
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
        let content_type = headers
            .get(CONTENT_TYPE)
            .and_then(|value| value.to_str().ok());
        let media_type = content_type
            .and_then(|text| text.split(';').next())
            .unwrap_or_default();
        if !media_type.trim().eq_ignore_ascii_case("application/json") {
            return Err(Refusal::wrong_content_type());
        }
        if body.is_empty() {
            return Err(Refusal::no_body());
        }
        let body: Value =
            serde_json::from_slice(body).map_err(|error| Refusal::malformed(body, &error))?;
        if !body.is_object() {
            return Err(Refusal::not_an_object(&body));
        }
        let prompt = Prompt::of(flavour, &body)?;
        check_number(&body, "temperature")?;
        let max_tokens = match integer(&body, "max_completion_tokens")? {
            Some(tokens) if flavour == Flavour::Chat => Some(tokens),
            _ => integer(&body, "max_tokens")?,
        };
        if integer(&body, "n")?.is_some_and(|n| n != 1) {
            return Err(Refusal::not_modelled(
                "n",
                "more than one answer to a request",
            ));
        }
        let option = |name| {
            body.get("stream_options")
                .and_then(|options| options.get(name))
        };
        Ok(Self {
            flavour,
            model: body.get("model").and_then(Value::as_str).map(str::to_owned),
            stream: body.get("stream") == Some(&Value::Bool(true)),
            include_usage: option("include_usage") == Some(&Value::Bool(true)),
            continuous_usage: option("continuous_usage_stats") == Some(&Value::Bool(true)),
            prompt_tokens: prompt.tokens,
            max_tokens,
            prompt_hash: prompt.hash,
        })
    }

    /// How long the answer is to get within a context of `max_model_len`.
    ///
    /// It runs to `max_tokens`, as one with `ignore_eos` does. A chat that sets none ends by itself after 32 to 255 tokens,
    /// by the hash of its prompt.
    ///
    /// # Errors
    /// vLLM's answer to lengths that do not fit.
    pub(super) fn lengths(&self, max_model_len: u32) -> Result<Lengths, Refusal> {
        if self.prompt_tokens >= max_model_len {
            return Err(Refusal::prompt_too_long(max_model_len));
        }
        let room = max_model_len - self.prompt_tokens;
        let asked = match self.max_tokens {
            Some(tokens) if tokens < 1 => return Err(Refusal::max_tokens_too_small(tokens)),
            Some(tokens) if tokens > i64::from(max_model_len) => {
                return Err(Refusal::max_tokens_too_large(tokens, max_model_len));
            }
            Some(tokens) => Some(u32::try_from(tokens).unwrap_or(max_model_len)),
            None if self.flavour == Flavour::Completion => Some(COMPLETION_DEFAULT_TOKENS),
            None => None,
        };
        let max_tokens = asked.unwrap_or(room).min(room);
        let natural = 32 + (self.prompt_hash % 224) as u32;
        Ok(match asked {
            None if natural < room => Lengths {
                output_tokens: natural,
                max_tokens,
                finish: FinishReason::Stop,
            },
            _ => Lengths {
                output_tokens: max_tokens,
                max_tokens,
                finish: FinishReason::Length,
            },
        })
    }
}

struct Prompt {
    tokens: u32,
    hash: u64,
}

impl Prompt {
    fn of(flavour: Flavour, body: &Value) -> Result<Self, Refusal> {
        match flavour {
            Flavour::Completion => Self::of_completion(body.get("prompt")),
            Flavour::Chat => match body.get("messages") {
                Some(Value::Array(messages)) => Ok(Self::of_messages(messages)),
                Some(other) => Err(Refusal::wrong_type(
                    "messages",
                    "list_type",
                    "Input should be a valid list",
                    other,
                )),
                None => Err(Refusal::missing("messages", body)),
            },
        }
    }

    fn of_completion(prompt: Option<&Value>) -> Result<Self, Refusal> {
        match prompt {
            Some(Value::String(text)) if !text.is_empty() => {
                let mut counted = Counted::default();
                counted.text(text);
                Ok(counted.into_prompt(0))
            }
            Some(Value::Array(items)) if items.iter().all(Value::is_u64) && !items.is_empty() => {
                let mut counted = Counted::default();
                for token in items.iter().filter_map(Value::as_u64) {
                    counted.hasher.write_u64(token);
                }
                Ok(counted.into_prompt(items.len()))
            }
            Some(Value::Array(items)) if items.len() == 1 => Self::of_completion(items.first()),
            Some(Value::Array(items)) if !items.is_empty() => Err(Refusal::not_modelled(
                "prompt",
                "more than one prompt in a request",
            )),
            _ => Err(Refusal::no_prompt()),
        }
    }

    /// Text parts by their bytes, and four tokens a message and three in all for what a chat template adds.
    fn of_messages(messages: &[Value]) -> Self {
        let mut counted = Counted::default();
        for message in messages {
            match message.get("content") {
                Some(Value::String(text)) => counted.text(text),
                Some(Value::Array(parts)) => {
                    let texts = parts.iter().filter_map(|part| part.get("text")?.as_str());
                    texts.for_each(|text| counted.text(text));
                }
                _ => {}
            }
        }
        counted.into_prompt(3 + 4 * messages.len())
    }
}

#[derive(Default)]
struct Counted {
    bytes: usize,
    hasher: DefaultHasher,
}

impl Counted {
    fn text(&mut self, text: &str) {
        self.bytes += text.len();
        self.hasher.write(text.as_bytes());
    }

    fn into_prompt(self, more_tokens: usize) -> Prompt {
        let tokens = (self.bytes.div_ceil(BYTES_PER_TOKEN as usize) + more_tokens).max(1);
        Prompt {
            tokens: u32::try_from(tokens).unwrap_or(u32::MAX),
            hash: self.hasher.finish(),
        }
    }
}

fn integer(body: &Value, field: &str) -> Result<Option<i64>, Refusal> {
    let (kind, problem) = match body.get(field) {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::Number(number)) => match (number.as_i64(), number.as_f64()) {
            (Some(integer), _) => return Ok(Some(integer)),
            (None, Some(float)) if float.fract() == 0.0 => return Ok(Some(float as i64)),
            _ => (
                "int_from_float",
                "Input should be a valid integer, got a number with a fractional part",
            ),
        },
        Some(Value::String(text)) => match text.trim().parse() {
            Ok(integer) => return Ok(Some(integer)),
            Err(_) => (
                "int_parsing",
                "Input should be a valid integer, unable to parse string as an integer",
            ),
        },
        Some(_) => ("int_type", "Input should be a valid integer"),
    };
    Err(Refusal::wrong_type(field, kind, problem, &body[field]))
}

fn check_number(body: &Value, field: &str) -> Result<(), Refusal> {
    let (kind, problem) = match body.get(field) {
        None | Some(Value::Null | Value::Number(_) | Value::Bool(_)) => return Ok(()),
        Some(Value::String(text)) if text.trim().parse::<f64>().is_ok() => return Ok(()),
        Some(Value::String(_)) => (
            "float_parsing",
            "Input should be a valid number, unable to parse string as a number",
        ),
        Some(_) => ("float_type", "Input should be a valid number"),
    };
    Err(Refusal::wrong_type(field, kind, problem, &body[field]))
}

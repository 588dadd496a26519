//! What one event of a stream is: output, usage, failure, or nothing that matters here.

use serde::Deserialize;
use serde_json::Value;

/// The kinds of events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Something that was generated; without usage.
    Output,
    /// A report with usage, and no output.
    Usage,
    /// The stream has failed.
    Failure,
    /// Something begins or ends, or nothing happens.
    Quiet,
    /// A name that says nothing, such as none. Completions and chat have no names: all of their events are output, and may hold usage.
    Unknown,
}

impl Kind {
    /// The kind that a name says: of OpenAI's responses and Anthropic's messages. (vLLM, `entrypoints/openai/responses` and
    /// `entrypoints/anthropic`, gives each event a name.)
    pub(super) fn named(name: &[u8]) -> Self {
        match name {
            b"error" | b"response.failed" => Self::Failure,
            b"content_block_delta" => Self::Output,
            b"message_start"
            | b"message_delta"
            | b"response.completed"
            | b"response.incomplete" => Self::Usage,
            b"ping" => Self::Quiet,
            _ if name.starts_with(b"response.") => {
                if name.ends_with(b".delta") {
                    Self::Output
                } else {
                    Self::Quiet
                }
            }
            _ if name.starts_with(b"content_block_") || name.starts_with(b"message_") => {
                Self::Quiet
            }
            _ => Self::Unknown,
        }
    }

    /// The kind of an event without a name, by what its data begins with: its type, or an error.
    pub(super) fn of_data(data: &[u8]) -> Self {
        let Some((key, value)) = first_field(data) else {
            return Self::Unknown;
        };
        match key {
            b"error" if !value.starts_with(b"null") => Self::Failure,
            b"type" => string(value).map_or(Self::Unknown, |(name, _)| Self::named(name)),
            _ => Self::Unknown,
        }
    }
}

/// The first key of an object, and the text from its value on; keys with escapes are cut short.
fn first_field(data: &[u8]) -> Option<(&[u8], &[u8])> {
    let (key, rest) = string(data.strip_prefix(b"{")?.trim_ascii_start())?;
    let value = rest.trim_ascii_start().strip_prefix(b":")?;
    Some((key, value.trim_ascii_start()))
}

/// The string with which a text begins, and what follows.
fn string(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let text = text.strip_prefix(b"\"")?;
    let end = memchr::memchr(b'"', text)?;
    Some((&text[..end], &text[end + 1..]))
}

/// The HTTP status that the data of a failure names; 500 if it names none.
pub(super) fn failure_status(data: &[u8]) -> u16 {
    /// OpenAI's and Anthropic's `error`, that of a failed response, and an error event of the responses API.
    #[derive(Deserialize)]
    struct Event {
        error: Option<Value>,
        response: Option<Response>,
        code: Option<Value>,
    }
    #[derive(Deserialize)]
    struct Response {
        error: Option<Value>,
    }
    let Ok(event) = serde_json::from_slice::<Event>(data) else {
        return 500;
    };
    let error = event.error.or_else(|| event.response?.error);
    let error = error.unwrap_or_default();
    let words = [&error["code"], &error["type"]];
    let named = words.into_iter().chain(&event.code).find_map(status);
    named.unwrap_or(500)
}

/// The status that a code or a type stands for, in the words of OpenAI's and Anthropic's references.
fn status(word: &Value) -> Option<u16> {
    if let Some(number) = word.as_u64() {
        let status = u16::try_from(number).ok()?;
        return (100..600).contains(&status).then_some(status);
    }
    Some(match word.as_str()? {
        "invalid_request_error" | "invalid_prompt" => 400,
        "authentication_error" => 401,
        "permission_error" => 403,
        "not_found_error" => 404,
        "request_too_large" => 413,
        "rate_limit_error" | "rate_limit_exceeded" => 429,
        "timeout_error" => 504,
        "overloaded_error" => 529,
        _ => return None,
    })
}

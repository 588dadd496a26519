//! Streamed answers: events told apart, and their times.

use std::time::Duration;

use memchr::memmem;
use reqwest::Response;
use serde::Deserialize;
use tokio::time::Instant;

use super::request::{Outcome, failure};

/// Reads events to the last, noting the times of the tokens, and appends the text to `answer` if it is wanted.
pub(super) async fn read(
    mut response: Response,
    scheduled: Instant,
    outcome: &mut Outcome,
    mut answer: Option<&mut String>,
) -> Result<(), String> {
    let mut unread = Vec::new();
    let mut done = false;
    let mut events = 0;
    while let Some(chunk) = response.chunk().await.map_err(|error| failure(&error))? {
        let now = scheduled.elapsed();
        unread.extend_from_slice(&chunk);
        let mut read = 0;
        while let Some(length) = memmem::find(&unread[read..], b"\n\n") {
            let event = &unread[read..read + length];
            read += length + 2;
            match Event::of(event) {
                Event::Token => {
                    events += 1;
                    token(now, outcome);
                    if let Some(answer) = answer.as_deref_mut() {
                        answer.push_str(&text(event).unwrap_or_default());
                    }
                }
                Event::Usage(usage) => outcome.count(&usage),
                Event::Error => return Err("error_in_stream".into()),
                Event::Done => done = true,
                Event::Other => {}
            }
        }
        unread.drain(..read);
    }
    // Without usage, an event is a token.
    if outcome.output_tokens == 0 {
        outcome.output_tokens = events;
    }
    if done { Ok(()) } else { Err("cut_off".into()) }
}

fn token(now: Duration, outcome: &mut Outcome) {
    outcome.first_token.get_or_insert(now);
    if let Some(last) = outcome.last_token {
        outcome.gaps.push(now - last);
    }
    outcome.last_token = Some(now);
}

/// What an event of a stream says.
#[derive(Debug, PartialEq, Eq)]
enum Event {
    Token,
    /// Tokens of the whole exchange.
    Usage(Usage),
    Error,
    Done,
    Other,
}

/// What a server says it has counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub(super) struct Usage {
    #[serde(default)]
    pub(super) prompt_tokens: u64,
    pub(super) completion_tokens: u64,
    prompt_tokens_details: Option<Details>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
struct Details {
    cached_tokens: Option<u64>,
}

impl Usage {
    /// The usage within the JSON of an answer or of an event.
    pub(super) fn of(body: &[u8]) -> Option<Self> {
        #[derive(Deserialize)]
        struct Body {
            usage: Usage,
        }
        let body: Body = serde_json::from_slice(body).ok()?;
        Some(body.usage)
    }

    /// Prompt tokens that were in the prefix cache, where the server says so.
    pub(super) fn cached_tokens(&self) -> Option<u64> {
        self.prompt_tokens_details?.cached_tokens
    }
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
        if memmem::find(data, b"\"choices\":[]").is_some() {
            return Usage::of(data).map_or(Self::Other, Self::Usage);
        }
        if memmem::find(data, b"\"role\":").is_some() {
            Self::Other
        } else {
            Self::Token
        }
    }
}

/// The text of a token's event.
fn text(event: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Body {
        choices: Vec<Choice>,
    }
    #[derive(Deserialize)]
    struct Choice {
        text: Option<String>,
        delta: Option<Delta>,
    }
    #[derive(Deserialize)]
    struct Delta {
        content: Option<String>,
    }
    let data = event.trim_ascii().strip_prefix(b"data: ")?;
    let body: Body = serde_json::from_slice(data).ok()?;
    let choice = body.choices.into_iter().next()?;
    choice.text.or_else(|| choice.delta?.content)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usage(prompt_tokens: u64, completion_tokens: u64) -> Usage {
        Usage {
            prompt_tokens,
            completion_tokens,
            prompt_tokens_details: None,
        }
    }

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
                Event::Usage(usage(1, 40)),
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

    #[test]
    fn usage_has_cached_tokens_where_the_server_says_so() {
        let body = br#"{"usage":{"prompt_tokens":9,"completion_tokens":4,"prompt_tokens_details":{"cached_tokens":8}}}"#;
        let usage = Usage::of(body).expect("usage");
        assert_eq!((usage.prompt_tokens, usage.cached_tokens()), (9, Some(8)));
        let without =
            br#"{"usage":{"prompt_tokens":9,"completion_tokens":4,"prompt_tokens_details":null}}"#;
        assert_eq!(
            Usage::of(without).and_then(|usage| usage.cached_tokens()),
            None
        );
    }

    #[test]
    fn the_text_of_a_token_is_that_of_either_api() {
        let completion = br#"data: {"choices":[{"index":0,"text":" a"}]}"#;
        let chat = br#"data: {"choices":[{"index":0,"delta":{"content":" b"}}]}"#;
        assert_eq!(text(completion).as_deref(), Some(" a"));
        assert_eq!(text(chat).as_deref(), Some(" b"));
    }
}

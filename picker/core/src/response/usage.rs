//! The `usage` object of a response: what the server says it has counted.

use memchr::memmem;
use serde::{Deserialize, Serialize};

const KEY: &[u8] = b"\"usage\"";

/// Tokens of one request, as the server counted them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Usage {
    /// Tokens of the prompt, cached ones included (`prompt_tokens`, or `input_tokens`; Anthropic's `input_tokens` leaves
    /// those out that were read from a cache or written to one, which it tells apart).
    pub prompt_tokens: u64,
    /// Tokens generated (`completion_tokens`, or `output_tokens`).
    pub completion_tokens: u64,
    /// Prompt tokens that came from the prefix cache; `None` when the server does not say
    /// (vLLM: `--enable-prompt-tokens-details`).
    pub cached_tokens: Option<u64>,
}

/// One `usage` object as it stands in a response.
#[derive(Debug, Deserialize)]
pub(super) struct Report {
    prompt_tokens: Option<u64>,
    completion_tokens: Option<u64>,
    input_tokens: Option<u64>,
    output_tokens: Option<u64>,
    prompt_tokens_details: Option<Details>,
    input_tokens_details: Option<Details>,
    cache_read_input_tokens: Option<u64>,
    cache_creation_input_tokens: Option<u64>,
}

#[derive(Debug, Deserialize)]
struct Details {
    cached_tokens: Option<u64>,
}

impl Report {
    /// The first report in one event of a stream.
    pub(super) fn first_in(event: &[u8]) -> Option<Self> {
        memmem::find_iter(event, KEY).find_map(|at| Self::at(event, at))
    }

    /// The last report in the tail of a body.
    pub(super) fn last_in(tail: &[u8]) -> Option<Self> {
        memmem::rfind_iter(tail, KEY).find_map(|at| Self::at(tail, at))
    }

    /// Parses the object behind the key at `at`; `None` if there is none, or it counts no tokens.
    ///
    /// The key's text inside a JSON string cannot be mistaken for it: there, a backslash precedes each quote.
    fn at(text: &[u8], at: usize) -> Option<Self> {
        let rest = text[at + KEY.len()..].trim_ascii_start();
        let object = rest.strip_prefix(b":")?.trim_ascii_start();
        if !object.starts_with(b"{") {
            return None;
        }
        let mut json = serde_json::Deserializer::from_slice(object);
        let report = Self::deserialize(&mut json).ok()?;
        (report.prompt().is_some() || report.completion().is_some()).then_some(report)
    }

    fn prompt(&self) -> Option<u64> {
        let cached = [
            self.cache_read_input_tokens,
            self.cache_creation_input_tokens,
        ];
        let beside: u64 = cached.into_iter().flatten().fold(0, u64::saturating_add);
        let input = self
            .input_tokens
            .map(|tokens| tokens.saturating_add(beside));
        self.prompt_tokens.or(input)
    }

    /// Tokens generated so far, if this report tells.
    pub(super) fn completion(&self) -> Option<u64> {
        self.completion_tokens.or(self.output_tokens)
    }

    /// `earlier`, brought up to date: what this report leaves out stays.
    pub(super) fn update(&self, earlier: Option<Usage>) -> Usage {
        let earlier = earlier.unwrap_or_default();
        let details = self
            .prompt_tokens_details
            .as_ref()
            .or(self.input_tokens_details.as_ref());
        Usage {
            prompt_tokens: self.prompt().unwrap_or(earlier.prompt_tokens),
            completion_tokens: self.completion().unwrap_or(earlier.completion_tokens),
            cached_tokens: details
                .and_then(|details| details.cached_tokens)
                .or(self.cache_read_input_tokens)
                .or(earlier.cached_tokens),
        }
    }
}

//! What one choice has said so far, and how much of it may be shown.

use crate::engine::{FinishReason, Output};
use crate::serve::openai::plan::Choice;
use crate::serve::vocabulary::{self, Token};

/// One choice of an answer, token by token.
pub(super) struct Spoken {
    plan: Choice,
    /// Bytes that a stop text could begin in.
    held_back: usize,
    text: String,
    /// Bytes of the text that have been shown.
    shown: usize,
    tokens: u32,
    finish: Option<&'static str>,
}

impl Spoken {
    pub(super) const fn new(plan: Choice, held_back: usize) -> Self {
        Self {
            plan,
            held_back,
            text: String::new(),
            shown: 0,
            tokens: 0,
            finish: None,
        }
    }

    /// Takes a token and gives the text that may be shown now.
    pub(super) fn hear(&mut self, output: Output) -> String {
        self.tokens = output.token;
        self.text
            .push_str(vocabulary::word(self.plan.token(output.token)));
        let end = match (output.finished, &self.plan.stop) {
            (None, _) => self.text.len().saturating_sub(self.held_back),
            (Some(_), Some((_, end))) => *end,
            (Some(_), None) => self.text.len(),
        };
        if let Some(finish) = output.finished {
            self.text.truncate(end);
            self.finish = Some(match finish {
                FinishReason::Stop => "stop",
                FinishReason::Length => "length",
            });
        }
        let start = self.shown.min(end);
        self.shown = end.max(start);
        self.text[start..end].to_owned()
    }

    /// It ends here, since the engine does.
    pub(super) fn cut(&mut self) {
        self.finish.get_or_insert("abort");
    }

    pub(super) const fn has_ended(&self) -> bool {
        self.finish.is_some()
    }

    /// Why it ended, as JSON.
    pub(super) fn finish(&self) -> String {
        self.finish
            .map_or_else(|| "null".into(), |finish| format!("\"{finish}\""))
    }

    /// The stop text that it met, as JSON.
    pub(super) fn stop_reason(&self) -> String {
        match &self.plan.stop {
            Some((text, _)) if self.finish == Some("stop") => super::quoted(text),
            _ => "null".into(),
        }
    }

    pub(super) fn text(&self) -> &str {
        &self.text
    }

    pub(super) const fn tokens(&self) -> u32 {
        self.tokens
    }

    pub(super) const fn prompt_tokens(&self) -> u32 {
        self.plan.prompt_tokens
    }

    /// The most tokens it may have.
    pub(super) const fn max_tokens(&self) -> u32 {
        self.plan.max_tokens
    }

    /// The newest `count` tokens.
    pub(super) fn newest(&self, count: u32) -> Vec<Token> {
        let first = self.tokens.saturating_sub(count) + 1;
        (first..=self.tokens)
            .map(|place| self.plan.token(place))
            .collect()
    }
}

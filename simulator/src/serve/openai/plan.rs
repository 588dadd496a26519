//! How each answer will go: the model is no model, so it is known before the engine begins.

use std::sync::Arc;

use super::prompt::content_of;
use super::{Ask, Flavour};
use crate::engine::{FinishReason, Segment};
use crate::serve::refusal::Refusal;
use crate::serve::vocabulary::{self, Token};

/// What a client says of lengths.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::serve) struct Limits {
    pub(in crate::serve) max_tokens: Option<i64>,
    /// The field that `max_tokens` came from.
    pub(in crate::serve) parameter: &'static str,
    pub(in crate::serve) min_tokens: u32,
    pub(in crate::serve) ignore_eos: bool,
}

/// The texts at which an answer ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::serve) struct Stop {
    pub(in crate::serve) texts: Vec<String>,
    /// Whether the answer shows the one it met.
    pub(in crate::serve) keep: bool,
}

impl Stop {
    /// Bytes that a stream holds back until it is known that no stop begins in them.
    pub(in crate::serve) fn held_back(&self) -> usize {
        let longest = self.texts.iter().map(String::len).max();
        match longest {
            Some(longest) if !self.keep => longest - 1,
            _ => 0,
        }
    }
}

/// One answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::serve) struct Choice {
    /// What it says, by [`vocabulary::said`].
    pub(in crate::serve) seed: u64,
    pub(in crate::serve) prompt_tokens: u32,
    pub(in crate::serve) output_tokens: u32,
    pub(in crate::serve) max_tokens: u32,
    pub(in crate::serve) finish: FinishReason,
    /// The prompt, as a prefix cache knows it.
    pub(in crate::serve) content: Arc<[Segment]>,
    /// The stop text it meets and the bytes of text that are shown then.
    pub(in crate::serve) stop: Option<(String, usize)>,
}

impl Choice {
    /// The `place`th token, from 1.
    pub(in crate::serve) const fn token(&self, place: u32) -> Token {
        vocabulary::said(self.seed, place)
    }

    /// What a prefix cache calls the answer.
    pub(in crate::serve) fn answer(&self) -> u64 {
        let said: Vec<_> = (1..=self.output_tokens)
            .map(|place| self.token(place))
            .collect();
        content_of(&said)
    }

    /// Ends it at the first stop text that it would say; of several that one token completes, at the one that ends first.
    fn stop_at(&mut self, stop: &Stop, min_tokens: u32) {
        let mut said = String::new();
        for place in 1..=self.output_tokens {
            let word = vocabulary::word(self.token(place));
            said.push_str(word);
            if place <= min_tokens {
                continue;
            }
            let found = stop.texts.iter().filter_map(|text| {
                let from = (said.len() + 1).saturating_sub(word.len() + text.len());
                let start = from + said.get(from..)?.find(text.as_str())?;
                Some((start + text.len(), start, text))
            });
            if let Some((end, start, text)) = found.min_by_key(|(end, ..)| *end) {
                self.output_tokens = place;
                self.finish = FinishReason::Stop;
                self.stop = Some((text.clone(), if stop.keep { end } else { start }));
                return;
            }
        }
    }
}

impl Ask {
    /// The answers within a context of `max_model_len`, prompt by prompt.
    ///
    /// They run to `max_tokens`, as those with `ignore_eos` do, or to a stop text. One that sets no limit ends by itself
    /// after 32 to 255 tokens, by the hash of its prompt.
    ///
    /// # Errors
    /// vLLM's answer to lengths that do not fit.
    pub(in crate::serve) fn choices(&self, max_model_len: u32) -> Result<Vec<Choice>, Refusal> {
        let limits = &self.limits;
        if let Some(tokens) = limits.max_tokens
            && tokens > i64::from(max_model_len)
        {
            return Err(Refusal::max_tokens_too_large(
                limits.parameter,
                tokens,
                max_model_len,
            ));
        }
        let mut choices = Vec::with_capacity(self.prompts.len() * self.n as usize);
        for prompt in &self.prompts {
            let tokens = prompt.len();
            if tokens > max_model_len {
                let counted = if prompt.was_text {
                    max_model_len + 1
                } else {
                    tokens
                };
                return Err(Refusal::prompt_too_long(max_model_len, counted));
            }
            if self.flavour == Flavour::Response && tokens == max_model_len {
                return Err(Refusal::response_too_long(max_model_len, tokens));
            }
            let room = max_model_len - tokens;
            let max_tokens = limits.max_tokens.unwrap_or_else(|| i64::from(room));
            let max_tokens = max_tokens.min(i64::from(room));
            if max_tokens < 1 {
                return Err(Refusal::max_tokens_too_small(max_tokens));
            }
            let seed = prompt.seed();
            let content = prompt.segments();
            for index in 0..u64::from(self.n) {
                let seed = seed.wrapping_add(index.wrapping_mul(0x9e37_79b9_7f4a_7c15));
                let content = Arc::clone(&content);
                choices.push(self.choice(seed, content, tokens, max_tokens as u32));
            }
        }
        Ok(choices)
    }

    fn choice(
        &self,
        seed: u64,
        content: Arc<[Segment]>,
        prompt_tokens: u32,
        max_tokens: u32,
    ) -> Choice {
        let limits = &self.limits;
        let natural = (32 + (seed % 224) as u32).max(limits.min_tokens);
        let ends = limits.max_tokens.is_none() && !limits.ignore_eos && natural < max_tokens;
        let (output_tokens, finish) = match ends {
            true => (natural, FinishReason::Stop),
            false => (max_tokens, FinishReason::Length),
        };
        let mut choice = Choice {
            seed,
            prompt_tokens,
            output_tokens,
            max_tokens,
            finish,
            content,
            stop: None,
        };
        if !self.stop.texts.is_empty() {
            choice.stop_at(&self.stop, limits.min_tokens);
        }
        choice
    }
}

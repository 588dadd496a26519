//! What a model is asked, as tokens: prompts of completions, messages of chats, input of responses.

use std::hash::{DefaultHasher, Hash, Hasher as _};
use std::ops::Range;
use std::sync::Arc;

use serde_json::Value;

use super::Flavour;
use crate::engine::Segment;
use crate::serve::refusal::{Complaint, Refusal};
use crate::serve::vocabulary::{self, Token};

/// vLLM's `VLLM_MAX_COMPLETION_PROMPTS`.
const MAX_PROMPTS: usize = 1024;

/// One prompt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::serve) struct Prompt {
    pub(in crate::serve) tokens: Vec<Token>,
    /// Which of them a model said before.
    said: Vec<Range<usize>>,
    /// Whether a tokenizer made them, which stops counting one above the limit, or the client.
    pub(in crate::serve) was_text: bool,
}

impl Prompt {
    /// The prompts of a body: several in a completion alone.
    ///
    /// # Errors
    /// vLLM's answer to a prompt that is missing or of another type.
    pub(in crate::serve) fn all(flavour: Flavour, body: &Value) -> Result<Vec<Self>, Refusal> {
        match flavour {
            Flavour::Completion => Self::of_completion(&body["prompt"]),
            Flavour::Chat => Ok(vec![Self::of_chat(body)?]),
            Flavour::Response => Ok(vec![Self::of_response(body)?]),
        }
    }

    /// The prompt of a text.
    pub(in crate::serve) fn of_text(text: &str) -> Self {
        let mut tokens = Vec::new();
        vocabulary::encode(text, &mut tokens);
        // An empty text among others still is a token.
        if tokens.is_empty() {
            tokens.push(0);
        }
        Self::tokenized(tokens)
    }

    /// The prompt of a body's `messages`.
    ///
    /// # Errors
    /// They are missing or no list.
    pub(in crate::serve) fn of_chat(body: &Value) -> Result<Self, Refusal> {
        match body.get("messages") {
            Some(Value::Array(messages)) => Ok(Self::of_messages("", messages)),
            Some(other) => Err(Refusal::wrong(&[Complaint::list("messages", other)])),
            None => Err(Refusal::missing("messages", body)),
        }
    }

    /// Tokens of it, at least 1.
    pub(in crate::serve) fn len(&self) -> u32 {
        u32::try_from(self.tokens.len()).unwrap_or(u32::MAX)
    }

    /// Decides what the answer says and, if nothing else does, how long it gets.
    pub(in crate::serve) fn seed(&self) -> u64 {
        hash(&self.tokens)
    }

    /// What a prefix cache knows it by: a segment for each token, and one for each answer that it repeats.
    pub(in crate::serve) fn segments(&self) -> Arc<[Segment]> {
        let mut segments = Vec::with_capacity(self.tokens.len());
        let mut place = 0;
        let mut said = self.said.iter();
        while place < self.tokens.len() {
            let until = said
                .as_slice()
                .first()
                .map_or(self.tokens.len(), |one| one.start);
            segments.extend(self.tokens[place..until].iter().map(|&token| Segment {
                content: u64::from(token),
                tokens: 1,
            }));
            place = until;
            if let Some(answer) = said.next() {
                segments.push(Segment {
                    content: content_of(&self.tokens[answer.clone()]),
                    tokens: answer.len() as u32,
                });
                place = answer.end;
            }
        }
        segments.into()
    }

    fn of_completion(prompt: &Value) -> Result<Vec<Self>, Refusal> {
        match prompt {
            Value::String(text) if !text.is_empty() => Ok(vec![Self::of_text(text)]),
            Value::Array(items) if items.is_empty() => Err(Refusal::no_prompt()),
            Value::Array(items) if items.iter().all(Value::is_u64) => {
                Ok(vec![Self::of_tokens(items)])
            }
            Value::Array(items) if items.len() > MAX_PROMPTS => {
                Err(Refusal::too_many_prompts(items.len(), MAX_PROMPTS))
            }
            Value::Array(items) => {
                let one = |item: &Value| match item {
                    Value::String(text) => Some(Self::of_text(text)),
                    Value::Array(tokens) if tokens.iter().all(Value::is_u64) => {
                        Some(Self::of_tokens(tokens))
                    }
                    _ => None,
                };
                let prompts: Option<Vec<_>> = items.iter().map(one).collect();
                prompts.ok_or_else(|| Refusal::wrong(&Self::complaints(prompt)))
            }
            Value::Null | Value::String(_) => Err(Refusal::no_prompt()),
            other => Err(Refusal::wrong(&Self::complaints(other))),
        }
    }

    /// What pydantic says of a value that is none of the types a prompt may have: a complaint for each.
    fn complaints(prompt: &Value) -> Vec<Complaint> {
        let list = Complaint::list("prompt", prompt);
        let string = Complaint::string("prompt", prompt);
        vec![list.clone(), list.clone(), string, list]
    }

    fn of_response(body: &Value) -> Result<Self, Refusal> {
        let instructions = body["instructions"].as_str().unwrap_or_default();
        match body.get("input") {
            Some(Value::String(text)) => {
                let message = serde_json::json!({ "role": "user", "content": text });
                Ok(Self::of_messages(instructions, &[message]))
            }
            Some(Value::Array(items)) => Ok(Self::of_messages(instructions, items)),
            Some(other) => Err(Refusal::wrong(&[
                Complaint::string("input", other),
                Complaint::list("input", other),
            ])),
            None => Err(Refusal::missing("input", body)),
        }
    }

    fn of_messages(instructions: &str, messages: &[Value]) -> Self {
        let mut prompt = Self::tokenized(Vec::new());
        if !instructions.is_empty() {
            prompt.push_message("system", &Value::from(instructions));
        }
        for message in messages {
            let role = message["role"].as_str().unwrap_or("user");
            prompt.push_message(role, &message["content"]);
        }
        vocabulary::encode_role("assistant", &mut prompt.tokens);
        prompt
    }

    fn push_message(&mut self, role: &str, content: &Value) {
        vocabulary::encode_role(role, &mut self.tokens);
        let parts = content.as_array().map(Vec::as_slice).unwrap_or_default();
        let texts = parts.iter().filter_map(|part| part["text"].as_str());
        for text in content.as_str().into_iter().chain(texts) {
            let said = vocabulary::encode_said(text).filter(|_| role == "assistant");
            if let Some(said) = said {
                let start = self.tokens.len();
                self.tokens.extend(said);
                self.said.push(start..self.tokens.len());
            } else {
                vocabulary::encode(text, &mut self.tokens);
            }
        }
        vocabulary::encode_end(&mut self.tokens);
    }

    fn of_tokens(items: &[Value]) -> Self {
        let ids = items.iter().filter_map(Value::as_u64);
        let tokens = ids.map(|id| u32::try_from(id).unwrap_or(u32::MAX));
        Self {
            tokens: tokens.collect(),
            said: Vec::new(),
            was_text: false,
        }
    }

    const fn tokenized(tokens: Vec<Token>) -> Self {
        Self {
            tokens,
            said: Vec::new(),
            was_text: true,
        }
    }
}

/// What a prefix cache calls an answer: the same if a later prompt repeats it.
pub(in crate::serve) fn content_of(said: &[Token]) -> u64 {
    // Never that of a single token, which is its id.
    hash(said) | 1 << 63
}

fn hash(tokens: &[Token]) -> u64 {
    let mut hasher = DefaultHasher::new();
    tokens.hash(&mut hasher);
    hasher.finish()
}

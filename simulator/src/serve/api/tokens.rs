//! `/tokenize` and `/detokenize`.

use serde_json::Value;

use super::{Api, quoted};
use crate::serve::openai::field;
use crate::serve::openai::prompt::Prompt;
use crate::serve::refusal::{Complaint, Refusal};
use crate::serve::vocabulary;

impl Api {
    /// The tokens of a text or a chat: as many as a request with it has.
    pub(super) fn tokenize(&self, body: &Value) -> Result<String, Refusal> {
        let tokens = if body.get("messages").is_some() {
            Prompt::of_chat(body)?.tokens
        } else {
            let mut tokens = Vec::new();
            vocabulary::encode(field::required_text(body, "prompt")?, &mut tokens);
            tokens
        };
        self.model(field::text(body, "model")?)?;
        let strings = if field::flag(body, "return_token_strs") {
            let listed: Vec<_> = tokens
                .iter()
                .map(|&token| vocabulary::listed(token))
                .collect();
            Value::from(listed).to_string()
        } else {
            "null".into()
        };
        let (count, length) = (tokens.len(), self.identity.profile.max_model_len);
        let tokens = Value::from(tokens);
        Ok(format!(
            r#"{{"count":{count},"max_model_len":{length},"tokens":{tokens},"token_strs":{strings}}}"#
        ))
    }

    /// The text of tokens.
    pub(super) fn detokenize(&self, body: &Value) -> Result<String, Refusal> {
        let tokens = match body.get("tokens") {
            None => return Err(Refusal::missing("tokens", body)),
            Some(Value::Array(tokens)) => tokens,
            Some(other) => return Err(Refusal::wrong(&[Complaint::list("tokens", other)])),
        };
        self.model(field::text(body, "model")?)?;
        let text = vocabulary::decode(tokens.iter().filter_map(Value::as_u64));
        Ok(format!(r#"{{"prompt":{}}}"#, quoted(&text)))
    }
}

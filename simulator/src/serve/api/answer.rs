//! Completions and chat completions, whole or as events: vLLM 0.32.0's fields in vLLM's order.

use super::quoted;
use super::spoken::Spoken;
use crate::serve::openai::{Ask, Flavour};
use crate::serve::vocabulary::Token;

/// vLLM's version and a hash of its settings.
const FINGERPRINT: &str = "vllm-0.32.0-51a1ab1e";

/// What the answers of one request have in common.
pub(super) struct Answer {
    is_chat: bool,
    include_usage: bool,
    continuous_usage: bool,
    /// The tokens of each prompt, if the client asked for ids.
    prompt_ids: Option<Vec<Vec<Token>>>,
    /// Answers to each prompt.
    n: usize,
    /// Model name as JSON.
    model: String,
    /// Response id as JSON.
    id: String,
    created: u64,
    /// Whether any event has been sent, and whether each choice has sent one.
    opened: bool,
    begun: Vec<bool>,
}

impl Answer {
    pub(super) fn new(ask: &Ask, model: &str, id: &str, created: u64) -> Self {
        let is_chat = ask.flavour == Flavour::Chat;
        let prefix = if is_chat { "chatcmpl" } else { "cmpl" };
        let prompts = ask.prompts.iter().map(|prompt| prompt.tokens.clone());
        Self {
            is_chat,
            include_usage: ask.include_usage,
            continuous_usage: ask.continuous_usage,
            prompt_ids: ask.return_token_ids.then(|| prompts.collect()),
            n: ask.n as usize,
            model: quoted(model),
            id: quoted(&format!("{prefix}-{id}")),
            created,
            opened: false,
            begun: vec![false; ask.prompts.len() * ask.n as usize],
        }
    }

    /// The body of an answer that is not streamed.
    pub(super) fn whole(&self, spoken: &[Spoken]) -> String {
        let choices: Vec<_> = spoken
            .iter()
            .enumerate()
            .map(|(index, one)| self.whole_choice(index, one))
            .collect();
        let choices = choices.join(",");
        let (id, created, model) = (&self.id, self.created, &self.model);
        let usage = format!(
            r#""service_tier":null,"system_fingerprint":"{FINGERPRINT}",{},"prompt_tokens_details":null,"completion_tokens_details":null}}"#,
            self.usage(spoken)
        );
        if self.is_chat {
            let prompt_ids = self.prompt_ids(0);
            format!(
                r#"{{"id":{id},"object":"chat.completion","created":{created},"model":{model},"choices":[{choices}],{usage},"prompt_logprobs":null,"prompt_token_ids":{prompt_ids},"prompt_text":null,"kv_transfer_params":null,"ec_transfer_params":null,"metrics":null}}"#
            )
        } else {
            format!(
                r#"{{"id":{id},"object":"text_completion","created":{created},"model":{model},"choices":[{choices}],{usage},"kv_transfer_params":null,"ec_transfer_params":null,"metrics":null}}"#
            )
        }
    }

    fn whole_choice(&self, index: usize, one: &Spoken) -> String {
        let said = quoted(one.text());
        let (finish, stop) = (one.finish(), one.stop_reason());
        let ids = self.ids(one, one.tokens());
        if self.is_chat {
            format!(
                r#"{{"index":{index},"message":{{"role":"assistant","content":{said},"refusal":null,"annotations":null,"audio":null,"function_call":null,"reasoning":null}},"logprobs":null,"finish_reason":{finish},"stop_reason":{stop},"token_ids":{ids},"routed_experts":null}}"#
            )
        } else {
            let prompt_ids = self.prompt_ids(index);
            format!(
                r#"{{"index":{index},"text":{said},"logprobs":null,"finish_reason":{finish},"stop_reason":{stop},"token_ids":{ids},"prompt_logprobs":null,"prompt_token_ids":{prompt_ids},"routed_experts":null}}"#
            )
        }
    }

    /// The events that one token of a choice causes: with the first of a chat also the roles, with the last of all also the end.
    pub(super) fn events(&mut self, spoken: &[Spoken], choice: usize, delta: &str) -> String {
        let mut events = String::with_capacity(512);
        if self.is_chat && !self.opened {
            for (index, one) in spoken.iter().enumerate() {
                let usage = self.continuous(one, 0);
                let prompt_ids = self.prompt_ids(index);
                let role = format!(
                    r#"{{"index":{index},"delta":{{"role":"assistant","content":""}},"logprobs":null,"finish_reason":null}}"#
                );
                let rest = format!(r#"{usage},"prompt_token_ids":{prompt_ids},"prompt_text":null"#);
                send(&mut events, &self.chunk(&role, &rest));
            }
        }
        self.opened = true;
        let one = &spoken[choice];
        let usage = self.continuous(one, one.tokens());
        let fingerprint = if one.has_ended() && !self.include_usage {
            format!(r#","system_fingerprint":"{FINGERPRINT}""#)
        } else {
            String::new()
        };
        let data = self.choice(choice, one, delta);
        send(
            &mut events,
            &self.chunk(&data, &format!("{usage}{fingerprint}")),
        );
        self.begun[choice] = true;
        if spoken.iter().all(Spoken::has_ended) {
            events.push_str(&self.end(spoken));
        }
        events
    }

    /// The end of a stream: usage for those who asked, and `[DONE]`.
    pub(super) fn end(&self, spoken: &[Spoken]) -> String {
        let mut events = String::new();
        if self.include_usage {
            let rest = format!(
                r#",{}}},"system_fingerprint":"{FINGERPRINT}""#,
                self.usage(spoken)
            );
            send(&mut events, &self.chunk("", &rest));
        }
        send(&mut events, "[DONE]");
        events
    }

    fn choice(&self, index: usize, one: &Spoken, delta: &str) -> String {
        let said = quoted(delta);
        let finish = one.finish();
        let ids = self.ids(one, 1);
        if self.is_chat {
            let stop = if one.has_ended() {
                format!(r#""stop_reason":{},"#, one.stop_reason())
            } else {
                String::new()
            };
            format!(
                r#"{{"index":{index},"delta":{{"content":{said}}},"logprobs":null,"finish_reason":{finish},{stop}"token_ids":{ids}}}"#
            )
        } else {
            let stop = one.stop_reason();
            let prompt_ids = if self.begun[index] {
                "null".into()
            } else {
                self.prompt_ids(index)
            };
            format!(
                r#"{{"index":{index},"text":{said},"logprobs":null,"finish_reason":{finish},"stop_reason":{stop},"prompt_token_ids":{prompt_ids},"token_ids":{ids}}}"#
            )
        }
    }

    fn chunk(&self, choice: &str, rest: &str) -> String {
        let object = if self.is_chat {
            "chat.completion.chunk"
        } else {
            "text_completion"
        };
        let (id, created, model) = (&self.id, self.created, &self.model);
        format!(
            r#"{{"id":{id},"object":"{object}","created":{created},"model":{model},"choices":[{choice}]{rest}}}"#
        )
    }

    /// The newest `count` ids of a choice, if the client asked for them.
    fn ids(&self, one: &Spoken, count: u32) -> String {
        match self.prompt_ids {
            Some(_) => serde_json::Value::from(one.newest(count)).to_string(),
            None => "null".into(),
        }
    }

    /// The ids of the prompt of a choice, if the client asked for them.
    fn prompt_ids(&self, choice: usize) -> String {
        match &self.prompt_ids {
            Some(prompts) => serde_json::Value::from(prompts[choice / self.n].clone()).to_string(),
            None => "null".into(),
        }
    }

    /// The usage that each chunk carries if the client asked for it: that of its choice.
    fn continuous(&self, one: &Spoken, tokens: u32) -> String {
        if !self.continuous_usage {
            return String::new();
        }
        let usage = usage(one.prompt_tokens(), tokens);
        let details = if self.is_chat {
            r#","completion_tokens_details":null"#
        } else {
            ""
        };
        format!(",{usage}{details}}}")
    }

    /// The usage of all choices, left open. A prompt counts once, however many answers it has.
    fn usage(&self, spoken: &[Spoken]) -> String {
        let prompts = spoken.iter().step_by(self.n).map(Spoken::prompt_tokens);
        usage(prompts.sum(), spoken.iter().map(Spoken::tokens).sum())
    }
}

/// A usage object, left open.
fn usage(prompt_tokens: u32, tokens: u32) -> String {
    let total_tokens = prompt_tokens + tokens;
    format!(
        r#""usage":{{"prompt_tokens":{prompt_tokens},"total_tokens":{total_tokens},"completion_tokens":{tokens}"#
    )
}

fn send(events: &mut String, data: &str) {
    events.push_str("data: ");
    events.push_str(data);
    events.push_str("\n\n");
}

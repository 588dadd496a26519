//! Responses, whole or as events: vLLM 0.32.0's fields in vLLM's order.

use serde_json::Value;

use super::quoted;
use super::spoken::Spoken;
use crate::serve::openai::Ask;

/// A response of one message.
pub(super) struct Item {
    /// Response id as JSON.
    id: String,
    /// The message's id as JSON.
    item: String,
    created: u64,
    /// What every copy of the response repeats of the request, in five runs of fields.
    repeated: [String; 5],
    max_output_tokens: Option<i64>,
    sequence: u32,
    opened: bool,
}

impl Item {
    pub(super) fn new(ask: &Ask, model: &str, id: &str, item: &str, created: u64) -> Self {
        let id = match ask.id {
            Some(_) => id.to_owned(),
            None => format!("resp_{id}"),
        };
        Self {
            id: quoted(&id),
            item: quoted(item),
            created,
            repeated: repeated(&ask.body, model),
            max_output_tokens: ask.limits.max_tokens,
            sequence: 0,
            opened: false,
        }
    }

    /// The body of a response that is not streamed.
    pub(super) fn whole(&self, spoken: &Spoken) -> String {
        let message = self.message("completed", &part(spoken.text(), "null"));
        let status = match spoken.finish().as_str() {
            "\"stop\"" => "completed",
            _ => "incomplete",
        };
        let (input, output) = (spoken.prompt_tokens(), spoken.tokens());
        let total = input + output;
        let usage = format!(
            r#"{{"input_tokens":{input},"input_tokens_details":{{"cached_tokens":0,"cache_write_tokens":0,"input_tokens_per_turn":[],"cached_tokens_per_turn":[]}},"output_tokens":{output},"output_tokens_details":{{"reasoning_tokens":0,"tool_output_tokens":0,"output_tokens_per_turn":[],"tool_output_tokens_per_turn":[]}},"total_tokens":{total}}}"#
        );
        self.response(status, spoken.max_tokens(), &message, &usage)
    }

    /// What is sent before the first token.
    pub(super) fn opening(&mut self, spoken: &Spoken) -> String {
        let response = self.response("in_progress", spoken.max_tokens(), "", "null");
        let created = self.event("response.created", &format!(r#""response":{response},"#));
        let progress = self.event(
            "response.in_progress",
            &format!(r#""response":{response},"#),
        );
        created + &progress
    }

    /// The events that a piece of text causes: before the first its message, after the last the end of all.
    pub(super) fn events(&mut self, spoken: &Spoken, delta: &str) -> String {
        let mut events = String::new();
        if !delta.is_empty() {
            self.open(&mut events);
            let item = self.item.clone();
            let delta = quoted(delta);
            events += &self.placed_event(
                "response.output_text.delta",
                &format!(r#""content_index":0,"delta":{delta},"item_id":{item},"logprobs":[],"#),
                "",
            );
        }
        if spoken.has_ended() {
            self.open(&mut events);
            self.close(spoken, &mut events);
        }
        events
    }

    fn open(&mut self, events: &mut String) {
        if self.opened {
            return;
        }
        self.opened = true;
        let item = self.message("in_progress", "");
        *events += &self.placed_event(
            "response.output_item.added",
            &format!(r#""item":{item},"#),
            "",
        );
        let part = part("", "[]");
        let id = self.item.clone();
        *events += &self.event(
            "response.content_part.added",
            &format!(r#""content_index":0,"item_id":{id},"output_index":0,"part":{part},"#),
        );
    }

    fn close(&mut self, spoken: &Spoken, events: &mut String) {
        let id = self.item.clone();
        let text = quoted(spoken.text());
        *events += &self.placed_event(
            "response.output_text.done",
            &format!(r#""content_index":0,"item_id":{id},"logprobs":[],"#),
            &format!(r#""text":{text},"#),
        );
        let part = part(spoken.text(), "null");
        *events += &self.event(
            "response.content_part.done",
            &format!(r#""content_index":0,"item_id":{id},"output_index":0,"part":{part},"#),
        );
        let item = self.message("completed", &part);
        *events += &self.placed_event(
            "response.output_item.done",
            &format!(r#""item":{item},"#),
            "",
        );
        let response = self.whole(spoken);
        *events += &self.event("response.completed", &format!(r#""response":{response},"#));
    }

    /// An event with an output index before its number.
    fn placed_event(&mut self, kind: &str, before: &str, after: &str) -> String {
        let sequence = self.number();
        format!(
            "event: {kind}\ndata: {{{before}\"output_index\":0,\"sequence_number\":{sequence},{after}\"type\":\"{kind}\"}}\n\n"
        )
    }

    fn event(&mut self, kind: &str, fields: &str) -> String {
        let sequence = self.number();
        format!(
            "event: {kind}\ndata: {{{fields}\"sequence_number\":{sequence},\"type\":\"{kind}\"}}\n\n"
        )
    }

    const fn number(&mut self) -> u32 {
        self.sequence += 1;
        self.sequence - 1
    }

    fn message(&self, status: &str, parts: &str) -> String {
        let id = &self.item;
        format!(
            r#"{{"id":{id},"content":[{parts}],"role":"assistant","status":"{status}","type":"message","phase":null}}"#
        )
    }

    fn response(&self, status: &str, max_tokens: u32, output: &str, usage: &str) -> String {
        let (id, created) = (&self.id, self.created);
        let incomplete = match status {
            "incomplete" => r#"{"reason":"max_output_tokens"}"#,
            _ => "null",
        };
        let most = self
            .max_output_tokens
            .map_or(i64::from(max_tokens), |asked| {
                asked.min(i64::from(max_tokens))
            });
        let [first, second, third, fourth, last] = &self.repeated;
        format!(
            r#"{{"id":{id},"created_at":{created},"incomplete_details":{incomplete},{first},"object":"response","output":[{output}],{second},"max_output_tokens":{most},{third},"status":"{status}",{fourth},"usage":{usage},{last},"kv_transfer_params":null,"ec_transfer_params":null,"input_messages":null,"output_messages":null}}"#
        )
    }
}

fn part(text: &str, logprobs: &str) -> String {
    let text = quoted(text);
    format!(r#"{{"annotations":[],"text":{text},"type":"output_text","logprobs":{logprobs}}}"#)
}

/// What a response repeats of its request.
fn repeated(body: &Value, model: &str) -> [String; 5] {
    let field = |name: &str, absent: &str| match &body[name] {
        Value::Null => absent.to_owned(),
        given => given.to_string(),
    };
    let number = |name: &str, absent: f64| format!("{:?}", body[name].as_f64().unwrap_or(absent));
    let has_tools = body["tools"]
        .as_array()
        .is_some_and(|tools| !tools.is_empty());
    let choice = if has_tools {
        field("tool_choice", "\"auto\"")
    } else {
        "\"none\"".into()
    };
    [
        format!(
            r#""instructions":{},"metadata":{},"model":{}"#,
            field("instructions", "null"),
            field("metadata", "null"),
            quoted(model),
        ),
        format!(
            r#""parallel_tool_calls":{},"temperature":{},"tool_choice":{choice},"tools":{},"top_p":{},"background":false"#,
            field("parallel_tool_calls", "true"),
            number("temperature", 1.0),
            field("tools", "[]"),
            number("top_p", 1.0),
        ),
        format!(
            r#""max_tool_calls":{},"previous_response_id":null,"prompt":{},"reasoning":{},"service_tier":{}"#,
            field("max_tool_calls", "null"),
            field("prompt", "null"),
            field("reasoning", "null"),
            field("service_tier", "\"auto\""),
        ),
        format!(
            r#""text":{},"top_logprobs":null,"truncation":{}"#,
            field("text", "null"),
            field("truncation", "\"disabled\""),
        ),
        format!(
            r#""user":{},"presence_penalty":{},"frequency_penalty":{}"#,
            field("user", "null"),
            number("presence_penalty", 0.0),
            number("frequency_penalty", 0.0),
        ),
    ]
}

//! The text of prompts: what requests share, what is their own, and what was said before.

use serde_json::{Value, json};

use crate::workload::{Arrival, BYTES_PER_TOKEN, Content, Workload};

/// One conversation: a prompt and, if it goes on, what was answered.
#[derive(Clone, Debug, Default)]
pub(super) struct Conversation {
    /// What the client said and what was answered, in turns; the last has no answer yet.
    turns: Vec<(String, String)>,
}

impl Conversation {
    /// Opens with the prompt of `arrival`, request `number`.
    pub(super) fn open(number: u64, arrival: &Arrival, workload: &Workload) -> Self {
        let bytes = arrival.prompt_bytes() as usize;
        let shared = match (arrival.content, &workload.trace) {
            (Content::Prefix { group, tokens }, _) => {
                let prefix = (tokens * BYTES_PER_TOKEN) as usize;
                text(&format!("You are the dispatcher of line {group}"), prefix)
            }
            (Content::Row(row), Some(trace)) => trace.prompt(row, BYTES_PER_TOKEN),
            _ => String::new(),
        };
        let own = text(
            &format!("{number} asks"),
            bytes.saturating_sub(shared.len()),
        );
        let mut conversation = Self::default();
        conversation.turns.push((shared + &own, String::new()));
        conversation
    }

    /// Goes on with `prompt_tokens` new tokens, after `answer`.
    pub(super) fn go_on(&mut self, number: u64, prompt_tokens: u32, answer: String) {
        if let Some(last) = self.turns.last_mut() {
            last.1 = answer;
        }
        let turn = self.turns.len();
        let bytes = (prompt_tokens * BYTES_PER_TOKEN) as usize;
        let asked = text(&format!(" {number} asks again in turn {turn}"), bytes);
        self.turns.push((asked, String::new()));
    }

    /// The whole as one text.
    pub(super) fn prompt(&self) -> String {
        let parts = self
            .turns
            .iter()
            .flat_map(|(asked, answer)| [asked, answer]);
        parts.map(String::as_str).collect()
    }

    /// The whole as messages of a chat.
    pub(super) fn messages(&self) -> Value {
        let mut messages = Vec::new();
        for (asked, answer) in &self.turns {
            messages.push(json!({"role": "user", "content": asked}));
            if !answer.is_empty() {
                messages.push(json!({"role": "assistant", "content": answer}));
            }
        }
        messages.into()
    }
}

/// Text of exactly so many bytes that begins with `opening`.
fn text(opening: &str, bytes: usize) -> String {
    let mut text = opening.to_owned();
    while text.len() < bytes {
        text.push_str(" which track the next train is to take");
    }
    text.truncate(bytes);
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::Prefixes;

    #[test]
    fn prompts_of_a_group_begin_alike_and_all_have_their_lengths() {
        let mut workload = Workload::uniform(50, 4, 0);
        workload.prefixes = Some(Prefixes {
            groups: 2,
            tokens: 30,
        });
        let arrivals: Vec<Arrival> = workload.arrivals(1.0, 1).take(20).collect();
        let prompts: Vec<(Content, String)> = (0..)
            .zip(&arrivals)
            .map(|(number, arrival)| {
                let opened = Conversation::open(number, arrival, &workload);
                (arrival.content, opened.prompt())
            })
            .collect();
        for (content, prompt) in &prompts {
            assert_eq!(prompt.len(), 80 * 4);
            for (other_content, other) in &prompts {
                let alike = prompt[..120] == other[..120];
                assert_eq!(alike, content == other_content);
                assert!(prompt[120..] != other[120..] || std::ptr::eq(prompt, other));
            }
        }
    }

    #[test]
    fn a_later_turn_begins_with_all_that_was_said() {
        let workload = Workload::uniform(10, 4, 0);
        let arrival = workload.arrivals(1.0, 1).next().expect("one");
        let mut conversation = Conversation::open(3, &arrival, &workload);
        let first = conversation.prompt();
        conversation.go_on(3, 20, " track nine".to_owned());
        let second = conversation.prompt();
        assert!(second.starts_with(&(first + " track nine 3 asks again")));
        assert_eq!(second.len(), 40 + 11 + 80);
        let messages = conversation.messages();
        let roles: Vec<_> = messages
            .as_array()
            .expect("a list")
            .iter()
            .map(|one| one["role"].clone())
            .collect();
        assert_eq!(roles, ["user", "assistant", "user"]);
    }
}

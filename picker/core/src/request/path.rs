//! What the path of a request says: the API, and in some APIs the model.

use std::borrow::Cow;

use serde::Serialize;

/// The APIs whose bodies are understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Api {
    /// OpenAI completions.
    Completions,
    /// OpenAI chat completions.
    Chat,
    /// OpenAI responses.
    Responses,
    /// OpenAI embeddings.
    Embeddings,
    /// Anthropic messages.
    Messages,
    /// vLLM's `/inference/v1/generate`, whose prompt is token ids.
    Generate,
    /// Anything else: picked by load.
    Other,
}

/// The endings of paths by which APIs are known.
const ENDINGS: [(&str, Api); 6] = [
    ("/chat/completions", Api::Chat),
    ("/completions", Api::Completions),
    ("/responses", Api::Responses),
    ("/embeddings", Api::Embeddings),
    ("/messages", Api::Messages),
    ("/inference/v1/generate", Api::Generate),
];

impl Api {
    /// The API that a request's path names; the query and a trailing slash do not count.
    #[must_use]
    pub fn of(path: &str) -> Self {
        let path = plain(path);
        let found = ENDINGS.iter().find(|(ending, _)| path.ends_with(ending));
        found.map_or(Self::Other, |(_, api)| *api)
    }
}

/// The model that a path names: the deployment of Azure's API (`/openai/deployments/NAME/...`), or the model of KServe's
/// (`/v2/models/NAME/infer`, `/v1/models/NAME:predict`). `/v1/models/NAME` alone asks about a model, and wants nothing
/// of it.
pub(super) fn model(path: &str) -> Option<String> {
    let mut steps = plain(path).split('/');
    let kind = steps.find(|step| matches!(*step, "deployments" | "models"))?;
    let step = steps.next()?;
    let name = match step.split_once(':') {
        Some((name, _verb)) if kind == "models" && steps.next().is_none() => name,
        _ => {
            steps.next()?;
            step
        }
    };
    let name = decoded(name)?;
    (!name.is_empty()).then(|| name.into_owned())
}

/// The path without query, fragment and trailing slashes.
fn plain(path: &str) -> &str {
    let path = path.split(['?', '#']).next().unwrap_or_default();
    path.trim_end_matches('/')
}

/// A step of a path with its percent signs undone; `None` if they do not give text.
fn decoded(step: &str) -> Option<Cow<'_, str>> {
    if !step.contains('%') {
        return Some(step.into());
    }
    let mut bytes = Vec::with_capacity(step.len());
    let mut rest = step.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let code = after.get(..2).filter(|_| byte == b'%');
        let code = code.and_then(|digits| std::str::from_utf8(digits).ok());
        let code = code.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        bytes.push(code.unwrap_or(byte));
        rest = &after[if code.is_some() { 2 } else { 0 }..];
    }
    String::from_utf8(bytes).ok().map(Cow::Owned)
}

//! What one request says: its headers and its body.

use serde_json::json;

use super::conversation::Conversation;
use super::{Api, LoadPlan};
use crate::workload::{Arrival, Workload};

/// The header that names a request's InferenceObjective, of the Gateway API Inference Extension.
const OBJECTIVE: &str = "x-gateway-inference-objective";

/// What the requests of one run have in common.
pub(super) struct Content {
    api: Api,
    model: String,
    adapter_names: Vec<String>,
    headers: Vec<(String, String)>,
    pub(super) workload: Workload,
    /// Whether answers are streamed.
    pub(super) stream: bool,
}

/// What one request asks for.
pub(super) struct Ask<'a> {
    pub(super) conversation: &'a Conversation,
    pub(super) arrival: &'a Arrival,
    pub(super) output_tokens: u32,
}

impl Content {
    pub(super) fn of(plan: &LoadPlan) -> Self {
        Self {
            api: plan.api,
            model: plan.model.clone(),
            adapter_names: plan.adapter_names.clone(),
            headers: plan.headers.clone(),
            workload: plan.workload.clone(),
            stream: plan.stream,
        }
    }

    /// The headers of a request.
    pub(super) fn headers(&self, ask: &Ask<'_>) -> impl Iterator<Item = (&str, &str)> {
        let own = self.headers.iter();
        let own = own.map(|(name, value)| (name.as_str(), value.as_str()));
        let priority = ask.arrival.priority;
        let priority = priority.and_then(|place| self.workload.priorities.get(place as usize));
        let objective = priority.map(|priority| (OBJECTIVE, priority.objective.as_str()));
        [("content-type", "application/json")]
            .into_iter()
            .chain(own)
            .chain(objective)
    }

    /// The model or the adapter that a request names.
    pub(super) fn model(&self, ask: &Ask<'_>) -> &str {
        let adapter = ask.arrival.adapter;
        let adapter = adapter.and_then(|place| self.adapter_names.get(place as usize));
        adapter.unwrap_or(&self.model)
    }

    /// The body of a request.
    pub(super) fn body(&self, ask: &Ask<'_>) -> String {
        let mut body = json!({
            "model": self.model(ask),
            "max_tokens": ask.output_tokens,
            "stream": self.stream,
            // A real model is to answer at the length of the workload too.
            "ignore_eos": true,
        });
        match self.api {
            Api::Completions => body["prompt"] = ask.conversation.prompt().into(),
            Api::Chat => body["messages"] = ask.conversation.messages(),
        }
        if self.stream {
            body["stream_options"] = json!({"include_usage": true});
        }
        body.to_string()
    }
}

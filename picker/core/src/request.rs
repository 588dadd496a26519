//! From the bytes of a request to what the decision needs: model, stream, token limit, length of the prompt.
//!
//! Nothing here fails: what cannot be read is said in [`Body`], and such a request is picked by load alone.

use std::sync::Arc;

use serde::Serialize;

pub use self::path::Api;
pub use self::scan::Scan;
pub use self::splice::Splice;

mod path;
mod scan;
mod splice;

/// The header in which a filter before the picker names the model that a body asks for (the body-based router of the
/// Inference Extension, `pkg/bbr`): all that is known of the model where the proxy sends no body.
pub const MODEL_HEADER: &str = "x-gateway-model-name";

/// Names one request of this process; given by whoever drives the picker, never twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct RequestKey(pub u64);

/// What the decision knows of a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Request {
    /// The API that the path names.
    pub api: Api,
    /// What became of reading the body.
    pub body: Body,
    /// The model asked for, which may name an adapter; `None` where neither body nor path names one.
    pub model: Option<Arc<str>>,
    /// Whether the response is asked for as a stream of events.
    pub streamed: bool,
    /// The most tokens that may be generated for one sequence, where the request says so; 0 for embeddings.
    pub max_tokens: Option<u32>,
    /// Sequences that are to be generated: prompts, times the choices (`n`) for each. At least 1.
    pub sequences: u32,
    /// Bytes of the prompt as text: of prompt, messages, system prompt and tools, as they stand in the request. An
    /// image or a sound counts as at most 1 KB. Of a body that is not understood, its length.
    pub prompt_bytes: u64,
    /// Tokens of the prompt, where the request gives it as token ids; these have no bytes.
    pub prompt_ids: u64,
}

/// What became of reading a request's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Body {
    /// Read as JSON.
    Read,
    /// There is none, or it is not looked at.
    Absent,
    /// Not a JSON object; its length still counts.
    Unreadable,
    /// Too long to be held: what stood in its beginning was read.
    Beginning,
}

impl Request {
    /// A request of which only the headers are known.
    #[must_use]
    pub fn of_headers(path: &str) -> Self {
        let api = Api::of(path);
        Self {
            api,
            body: Body::Absent,
            model: path::model(path).map(Arc::from),
            streamed: false,
            max_tokens: (api == Api::Embeddings).then_some(0),
            sequences: 1,
            prompt_bytes: 0,
            prompt_ids: 0,
        }
    }

    /// Reads the body that was sent to `path`. Never fails; see [`Body`].
    ///
    /// A field of the wrong type counts as absent, and of a field that stands twice the last counts, as in vLLM.
    #[must_use]
    pub fn scan(path: &str, body: &[u8]) -> Self {
        let mut scan = Scan::new(path);
        scan.feed(body);
        scan.request()
    }

    /// This request; where nothing has named the model yet, `model` does, such as the value of [`MODEL_HEADER`].
    #[must_use]
    pub fn or_model(mut self, model: Option<&str>) -> Self {
        let named = model.map(str::trim).filter(|name| !name.is_empty());
        self.model = self.model.or_else(|| named.map(Arc::from));
        self
    }

    /// How many tokens the prompt is expected to be, at so many bytes a token.
    #[must_use]
    pub fn prompt_tokens(&self, bytes_per_token: f64) -> f64 {
        self.prompt_ids as f64 + (self.prompt_bytes as f64 / bytes_per_token).ceil()
    }
}

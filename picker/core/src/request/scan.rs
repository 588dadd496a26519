//! The scan of a request's body as it comes, frame by frame.

use std::ops::Range;
use std::sync::Arc;

use super::{Api, Body, Request};
use crate::json::{self, Key, Kind, Reader, Value, Walk, Want};

/// Reads one request's body, cut into frames anywhere; the outcome does not depend on the cuts.
///
/// Goes over each byte once and holds no frame: at most 1 KB of a key or a name. What stands inside strings is
/// not checked but for the model's name, so that a body which is no valid JSON may count as read; the model server refuses it.
#[derive(Debug)]
pub struct Scan {
    /// What the headers say.
    head: Request,
    walk: Walk,
    fields: Fields,
}

/// The fields of a body that are looked at.
#[derive(Debug)]
struct Fields {
    api: Api,
    /// The field whose value comes next.
    next: Field,
    model: Option<Model>,
    streamed: bool,
    /// The token limit under its two names; the first that is there counts.
    limits: [Option<u32>; 2],
    choices: Option<u32>,
    prompt: [Prompt; 3],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Field {
    Model,
    Stream,
    Limit(usize),
    Choices,
    /// A part of the prompt.
    Prompt(usize),
    /// An object that holds fields.
    Parameters,
    Unknown,
}

#[derive(Debug)]
struct Model {
    /// `None` if the string is empty, too long to be a name, or no text.
    name: Option<Arc<str>>,
    span: Range<u64>,
}

/// One part of the prompt.
#[derive(Clone, Copy, Debug, Default)]
struct Prompt {
    bytes: u64,
    ids: u64,
    /// Prompts in it: elements of an array of texts, or of arrays of ids.
    count: u64,
}

impl Scan {
    /// The scan of a body that is sent to `path`.
    #[must_use]
    pub fn new(path: &str) -> Self {
        let head = Request::of_headers(path);
        let fields = Fields {
            api: head.api,
            next: Field::Unknown,
            model: None,
            streamed: false,
            limits: [None; 2],
            choices: None,
            prompt: [Prompt::default(); 3],
        };
        Self {
            head,
            walk: Walk::new(),
            fields,
        }
    }

    /// The next frame of the body.
    pub fn feed(&mut self, frame: &[u8]) {
        self.walk.feed(frame, &mut self.fields);
    }

    /// Bytes of the body so far.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.walk.bytes()
    }

    /// The request, whose body has come whole.
    #[must_use]
    pub fn request(&self) -> Request {
        let mut request = self.head.clone();
        request.prompt_bytes = self.walk.bytes();
        if self.walk.bytes() == 0 {
            return request;
        }
        if !self.walk.is_whole() {
            request.body = Body::Unreadable;
            return request;
        }
        request.body = Body::Read;
        self.fields.fill(&mut request);
        let prompt = self.fields.prompt;
        if prompt.iter().any(|part| part.count > 0) {
            request.prompt_bytes = prompt.iter().map(|part| part.bytes).sum();
            request.prompt_ids = prompt.iter().map(|part| part.ids).sum();
        }
        request
    }

    /// The request, of whose body no more will be read than has come, and which has `length` bytes where the headers
    /// say so. What stood there whole is known.
    #[must_use]
    pub fn request_so_far(&self, length: Option<u64>) -> Request {
        let mut request = self.head.clone();
        request.body = Body::Beginning;
        request.prompt_bytes = length.unwrap_or(0).max(self.walk.bytes());
        self.fields.fill(&mut request);
        request
    }

    /// The bytes of the body that are the model's name, quotes included, as far as it has come; for [`Splice`].
    /// Of a name that stands twice, the last.
    ///
    /// [`Splice`]: super::Splice
    #[must_use]
    pub fn model_span(&self) -> Option<Range<u64>> {
        let model = self.fields.model.as_ref()?;
        (!self.walk.has_failed()).then(|| model.span.clone())
    }
}

impl Fields {
    /// Puts what was found into `request`, but for the length of its prompt.
    fn fill(&self, request: &mut Request) {
        let model = self.model.as_ref().and_then(|model| model.name.clone());
        request.model = model.or_else(|| request.model.take());
        request.streamed = self.streamed;
        let [first, second] = self.limits;
        request.max_tokens = first.or(second).or(request.max_tokens);
        let prompts = if self.api == Api::Completions {
            self.prompt[0].count.max(1)
        } else {
            1
        };
        let sequences = prompts.saturating_mul(u64::from(self.choices.unwrap_or(1).max(1)));
        request.sequences = u32::try_from(sequences).unwrap_or(u32::MAX);
    }

    /// Which field a key names in this API.
    fn field(&self, key: Key<'_>) -> Field {
        use Api::{Chat, Completions, Embeddings, Generate, Messages, Other, Responses};
        match (key.inside, key.text, self.api) {
            (false, b"model", _) => Field::Model,
            (false, b"stream", _) => Field::Stream,
            (false, b"sampling_params", Generate) => Field::Parameters,
            (true, b"max_tokens", Generate)
            | (false, b"max_tokens", Completions | Messages)
            | (false, b"max_completion_tokens", Chat | Other)
            | (false, b"max_output_tokens", Responses) => Field::Limit(0),
            (false, b"max_tokens", Chat | Other) => Field::Limit(1),
            (true, b"n", Generate) | (false, b"n", Chat | Completions) => Field::Choices,
            (false, b"prompt", Completions)
            | (false, b"messages", Chat | Messages)
            | (false, b"input", Responses | Embeddings)
            | (false, b"token_ids", Generate) => Field::Prompt(0),
            (false, b"messages", Embeddings) | (false, b"tools", Chat | Messages | Responses) => {
                Field::Prompt(1)
            }
            (false, b"system", Messages) | (false, b"instructions", Responses) => Field::Prompt(2),
            _ => Field::Unknown,
        }
    }
}

impl Reader for Fields {
    fn on_key(&mut self, key: Key<'_>) -> Want {
        self.next = self.field(key);
        match self.next {
            Field::Unknown => Want::Nothing,
            Field::Parameters => Want::Keys,
            _ => Want::Value,
        }
    }

    fn on_value(&mut self, value: Value<'_>) {
        match self.next {
            Field::Model => self.model = Model::of(&value),
            Field::Stream => self.streamed = value.text == b"true" && value.kind == Kind::Plain,
            Field::Limit(rank) => self.limits[rank] = whole(&value),
            Field::Choices => self.choices = whole(&value),
            Field::Prompt(part) => self.prompt[part] = Prompt::of(&value, self.api),
            Field::Parameters | Field::Unknown => {}
        }
    }
}

impl Model {
    fn of(value: &Value<'_>) -> Option<Self> {
        if value.kind != Kind::String {
            return None;
        }
        let name = json::unescape(value.text).filter(|name| !name.is_empty());
        Some(Self {
            name: name.map(Arc::from),
            span: value.span.clone(),
        })
    }
}

impl Prompt {
    fn of(value: &Value<'_>, api: Api) -> Self {
        let bytes = value.span.end - value.span.start;
        let measure = &value.measure;
        let by_id = matches!(api, Api::Completions | Api::Embeddings | Api::Generate);
        if by_id && measure.numbers > 0 {
            return Self {
                bytes: 0,
                ids: measure.numbers,
                count: measure.commas + 1,
            };
        }
        Self {
            bytes: bytes - measure.media_bytes,
            ids: 0,
            count: measure.commas + 1,
        }
    }
}

/// The whole number that a value is, if it is one.
fn whole(value: &Value<'_>) -> Option<u32> {
    let text = std::str::from_utf8(value.text).ok()?;
    text.parse().ok().filter(|_| value.kind == Kind::Plain)
}

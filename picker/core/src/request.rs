//! From the bytes of a request to what the decision needs: model, stream, token limit, length of the prompt.
//!
//! Nothing here fails: what cannot be read is said in [`Body`], and such a request is picked by load alone.

use std::borrow::Cow;
use std::sync::Arc;

use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

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
    /// The model asked for, which may name an adapter; `None` where the body names none.
    pub model: Option<Arc<str>>,
    /// Whether the response is asked for as a stream of events.
    pub streamed: bool,
    /// The most tokens that may be generated, where the request says so.
    pub max_tokens: Option<u32>,
    /// Bytes of the prompt, as it stands in the request (for chat, of the messages).
    pub prompt_bytes: u64,
}

/// The APIs whose prompt is understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Api {
    /// OpenAI completions.
    Completions,
    /// OpenAI chat completions.
    Chat,
    /// Anything else: picked by load.
    Other,
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
        Self {
            api: Api::of(path),
            body: Body::Absent,
            model: None,
            streamed: false,
            max_tokens: None,
            prompt_bytes: 0,
        }
    }

    /// Reads the body that was sent to `path`. Never fails; see [`Body`].
    ///
    /// A field of the wrong type counts as absent, and of a field that stands twice the last counts, as in vLLM.
    #[must_use]
    pub fn scan(path: &str, body: &[u8]) -> Self {
        let mut request = Self::of_headers(path);
        if body.is_empty() {
            return request;
        }
        request.prompt_bytes = body.len() as u64;
        let mut fields = Fields::default();
        if fields.read(body).is_err() {
            request.body = Body::Unreadable;
            return request;
        }
        request.body = Body::Read;
        request.take(&fields);
        let prompt = match request.api {
            Api::Chat => fields.messages,
            Api::Completions => fields.prompt,
            Api::Other => None,
        };
        if let Some(raw) = prompt {
            request.prompt_bytes = raw.get().len() as u64;
        }
        request
    }

    /// Reads the beginning of a body that is too long to be held, and of `length` bytes where the headers say so.
    #[must_use]
    pub fn scan_beginning(path: &str, beginning: &[u8], length: Option<u64>) -> Self {
        let mut fields = Fields::default();
        // It breaks off somewhere; what stood before that is read.
        let _breaks_off = fields.read(beginning);
        let mut request = Self::of_headers(path);
        request.body = Body::Beginning;
        request.prompt_bytes = length.unwrap_or(0).max(beginning.len() as u64);
        request.take(&fields);
        request
    }

    fn take(&mut self, fields: &Fields<'_>) {
        self.model = text(fields.model).map(Arc::from);
        self.streamed = fields.stream.is_some_and(|raw| raw.get() == "true");
        self.max_tokens = whole(fields.max_completion_tokens).or_else(|| whole(fields.max_tokens));
    }
}

impl Api {
    /// The API that a request's path names; the query and a trailing slash do not count.
    #[must_use]
    pub fn of(path: &str) -> Self {
        let path = path.split(['?', '#']).next().unwrap_or_default();
        let path = path.trim_end_matches('/');
        if path.ends_with("/chat/completions") {
            Self::Chat
        } else if path.ends_with("/completions") {
            Self::Completions
        } else {
            Self::Other
        }
    }
}

/// The fields of a body that are looked at, as they stand there.
#[derive(Default)]
struct Fields<'a> {
    model: Option<&'a RawValue>,
    stream: Option<&'a RawValue>,
    max_tokens: Option<&'a RawValue>,
    max_completion_tokens: Option<&'a RawValue>,
    prompt: Option<&'a RawValue>,
    messages: Option<&'a RawValue>,
}

impl<'a> Fields<'a> {
    /// Reads the fields of `body`; those before an error stay read.
    fn read(&mut self, body: &'a [u8]) -> serde_json::Result<()> {
        let mut deserializer = serde_json::Deserializer::from_slice(body);
        deserializer.deserialize_map(FieldsVisitor(self))?;
        deserializer.end()
    }
}

/// By hand, since a derived implementation refuses a field that stands twice.
struct FieldsVisitor<'f, 'a>(&'f mut Fields<'a>);

impl<'de> Visitor<'de> for FieldsVisitor<'_, 'de> {
    type Value = ();

    fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(Key(key)) = map.next_key()? {
            let place = match key.as_ref() {
                "model" => &mut self.0.model,
                "stream" => &mut self.0.stream,
                "max_tokens" => &mut self.0.max_tokens,
                "max_completion_tokens" => &mut self.0.max_completion_tokens,
                "prompt" => &mut self.0.prompt,
                "messages" => &mut self.0.messages,
                _ => {
                    map.next_value::<IgnoredAny>()?;
                    continue;
                }
            };
            *place = Some(map.next_value()?);
        }
        Ok(())
    }
}

/// A key, borrowed unless it holds an escape.
#[derive(Deserialize)]
struct Key<'a>(#[serde(borrow)] Cow<'a, str>);

/// The string that `raw` holds, if it holds one and it is not empty.
fn text(raw: Option<&RawValue>) -> Option<Cow<'_, str>> {
    let Key(text) = serde_json::from_str(raw?.get()).ok()?;
    (!text.is_empty()).then_some(text)
}

/// The whole number that `raw` holds, if it holds one.
fn whole(raw: Option<&RawValue>) -> Option<u32> {
    serde_json::from_str(raw?.get()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scan(path: &str, body: &str) -> (Body, Option<String>, bool, Option<u32>, u64) {
        let request = Request::scan(path, body.as_bytes());
        let model = request.model.map(|model| model.to_string());
        let Request { body, streamed, .. } = request;
        (
            body,
            model,
            streamed,
            request.max_tokens,
            request.prompt_bytes,
        )
    }

    #[test]
    fn a_completion_gives_model_stream_limit_and_prompt_length() {
        let body = r#"{"model":"a","prompt":"hello","max_tokens":7,"stream":true,"x":[{}]}"#;
        assert_eq!(
            scan("/v1/completions", body),
            (Body::Read, Some("a".into()), true, Some(7), 7)
        );
    }

    #[test]
    fn a_chat_counts_its_messages_and_prefers_max_completion_tokens() {
        let body = r#"{"messages":[{"role":"user","content":"hi"}],"max_tokens":1,"max_completion_tokens":9,"model":"b"}"#;
        assert_eq!(
            scan("/v1/chat/completions?x=1", body),
            (Body::Read, Some("b".into()), false, Some(9), 32)
        );
    }

    #[test]
    fn the_last_of_two_equal_fields_counts_and_escapes_are_read() {
        let body = r#"{"model":"a","mode\u006c":"b\n","prompt":""}"#;
        assert_eq!(scan("/v1/completions", body).1.as_deref(), Some("b\n"));
    }

    #[test]
    fn fields_of_the_wrong_type_count_as_absent() {
        let body = r#"{"model":5,"stream":"yes","max_tokens":-1,"prompt":null}"#;
        assert_eq!(
            scan("/v1/completions", body),
            (Body::Read, None, false, None, 4)
        );
    }

    #[test]
    fn what_is_no_object_is_unreadable_and_counts_by_its_length() {
        for body in ["[]", "no", "{\"model\":", "{}x", "\u{0}"] {
            let (result, model, ..) = scan("/v1/completions", body);
            assert_eq!((result, model), (Body::Unreadable, None), "{body}");
            assert_eq!(scan("/", body).4, body.len() as u64);
        }
        let latin = Request::scan("/v1/completions", b"{\"model\":\"\xe9\"}");
        assert_eq!(latin.body, Body::Unreadable);
    }

    #[test]
    fn the_beginning_of_a_body_gives_what_stands_there_whole() {
        let body = br#"{"model":"a","stream":true,"messages":[{"role":"user","content":"so lo"#;
        let request = Request::scan_beginning("/v1/chat/completions", body, Some(9000));
        assert_eq!(request.body, Body::Beginning);
        assert_eq!(request.model.as_deref(), Some("a"));
        assert!(request.streamed);
        assert_eq!(request.prompt_bytes, 9000);
        let late = Request::scan_beginning("/v1/completions", br#"{"prompt":"xx","mod"#, None);
        assert_eq!((late.model, late.prompt_bytes), (None, 19));
    }

    #[test]
    fn an_empty_body_is_absent() {
        assert_eq!(scan("/v1/completions", "").0, Body::Absent);
    }

    #[test]
    fn the_path_names_the_api() {
        assert_eq!(Api::of("/v1/chat/completions/"), Api::Chat);
        assert_eq!(Api::of("/openai/v1/completions?a=b"), Api::Completions);
        assert_eq!(Api::of("/v1/my-completions"), Api::Other);
        assert_eq!(Api::of("/v1/models"), Api::Other);
        assert_eq!(Api::of(""), Api::Other);
    }
}

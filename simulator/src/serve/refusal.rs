//! vLLM's error answers, word for word as recorded.

use axum::body::Body;
use axum::http::header::{ALLOW, CONTENT_TYPE};
use axum::http::{HeaderValue, Response, StatusCode};
use serde_json::Value;

/// An error answer.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Refusal {
    status: StatusCode,
    kind: &'static str,
    message: String,
    param: Option<String>,
}

impl Refusal {
    /// A model that is neither the base model nor an adapter.
    pub(super) fn unknown_model(asked: &str, base: &str) -> Self {
        Self {
            status: StatusCode::NOT_FOUND,
            kind: "NotFoundError",
            message: format!("The model `{asked}` does not exist. Valid aliases: {base}."),
            param: Some("model".into()),
        }
    }

    /// A prompt that fills the context by itself. vLLM stops counting one token above the limit.
    pub(super) fn prompt_too_long(max_model_len: u32) -> Self {
        let value = max_model_len + 1;
        Self::bad_value(
            "input_tokens",
            Some(value.to_string()),
            &format!(
                "This model's maximum context length is {max_model_len} tokens. However, your prompt contains at least \
                 {value} input tokens, which exceeds this limit even without any output tokens. Please reduce the \
                 length of the input prompt."
            ),
        )
    }

    /// More output than the context holds.
    pub(super) fn max_tokens_too_large(max_tokens: i64, max_model_len: u32) -> Self {
        Self::bad_value(
            "max_tokens",
            Some(max_tokens.to_string()),
            &format!(
                "max_tokens={max_tokens} cannot be greater than max_model_len={max_model_len}. Please request fewer \
                 output tokens."
            ),
        )
    }

    /// No output at all, or less.
    pub(super) fn max_tokens_too_small(max_tokens: i64) -> Self {
        let message = format!("max_tokens must be at least 1, got {max_tokens}.");
        Self::bad_value("max_tokens", Some(max_tokens.to_string()), &message)
    }

    /// A completion without a prompt.
    pub(super) fn no_prompt() -> Self {
        Self::bad_value(
            "prompt",
            None,
            "Either prompt or prompt_embeds must be provided and non-empty.",
        )
    }

    /// Something that vLLM would do and this model of it does not.
    pub(super) fn not_modelled(param: &str, what: &str) -> Self {
        Self::bad_value(
            param,
            None,
            &format!("{what} is not modelled by this simulator."),
        )
    }

    /// A body that is no JSON.
    pub(super) fn malformed(body: &[u8], error: &serde_json::Error) -> Self {
        let (place, problem) = python_error(body, error);
        let detail = format!(
            "{{'type': 'json_invalid', 'loc': 'body.{place}', 'msg': 'JSON decode error', 'input': '<dict of 0 \
             items>', 'ctx': {{'error': {}}}}}",
            python_text(problem)
        );
        Self::invalid(&format!("body.{place}"), &detail)
    }

    /// JSON, but no object.
    pub(super) fn not_an_object(value: &Value) -> Self {
        let detail = format!(
            "{{'type': 'model_attributes_type', 'loc': 'body', 'msg': 'Input should be a valid dictionary or object \
             to extract fields from', 'input': {}}}",
            python_input(value)
        );
        Self::invalid("body", &detail)
    }

    /// An object without a field that must be there.
    pub(super) fn missing(field: &str, body: &Value) -> Self {
        let detail = format!(
            "{{'type': 'missing', 'loc': 'body.{field}', 'msg': 'Field required', 'input': {}}}",
            python_input(body)
        );
        Self::invalid(&format!("body.{field}"), &detail)
    }

    /// No body.
    pub(super) fn no_body() -> Self {
        Self::invalid(
            "body",
            "{'type': 'missing', 'loc': 'body', 'msg': 'Field required', 'input': None}",
        )
    }

    /// A field of another type; `kind` and `problem` are pydantic's.
    pub(super) fn wrong_type(field: &str, kind: &str, problem: &str, input: &Value) -> Self {
        let detail = format!(
            "{{'type': '{kind}', 'loc': 'body.{field}', 'msg': '{problem}', 'input': {}}}",
            python_input(input)
        );
        Self::invalid(&format!("body.{field}"), &detail)
    }

    /// A body that says it is something else than JSON.
    pub(super) fn wrong_content_type() -> Self {
        Self {
            param: None,
            ..Self::invalid(
                "",
                "Unsupported Media Type: Only 'application/json' is allowed",
            )
        }
    }

    /// A body that could not be read to its end.
    pub(super) fn unreadable(problem: &str) -> Self {
        Self {
            param: None,
            ..Self::invalid(
                "",
                &format!("There was an error reading the body: {problem}"),
            )
        }
    }

    /// The engine is gone: the server is being killed.
    pub(super) fn engine_dead() -> Self {
        Self {
            status: StatusCode::INTERNAL_SERVER_ERROR,
            kind: "InternalServerError",
            message: "EngineCore encountered an issue. See stack trace (above) for the root cause."
                .into(),
            param: None,
        }
    }

    /// The status of the answer.
    pub(super) const fn status(&self) -> StatusCode {
        self.status
    }

    /// The body of the answer.
    pub(super) fn text(&self) -> String {
        let text = |text: &str| Value::from(text).to_string();
        format!(
            r#"{{"error":{{"message":{},"type":{},"param":{},"code":{}}}}}"#,
            text(&self.message),
            text(self.kind),
            self.param.as_deref().map_or_else(|| "null".into(), text),
            self.status.as_u16(),
        )
    }

    fn bad_value(param: &str, value: Option<String>, message: &str) -> Self {
        let value = value
            .map(|value| format!(", value={value}"))
            .unwrap_or_default();
        Self {
            status: StatusCode::BAD_REQUEST,
            kind: "BadRequestError",
            message: format!("{message} (parameter={param}{value})"),
            param: Some(param.into()),
        }
    }

    fn invalid(param: &str, detail: &str) -> Self {
        Self {
            status: StatusCode::BAD_REQUEST,
            kind: "Bad Request",
            message: format!("1 validation error:\n  {detail}"),
            param: Some(param.into()),
        }
    }
}

/// An answer of JSON text.
pub(super) fn json_response(status: StatusCode, text: String) -> Response<Body> {
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// A path that vLLM does not have.
pub(super) fn not_found() -> Response<Body> {
    json_response(StatusCode::NOT_FOUND, r#"{"detail":"Not Found"}"#.into())
}

/// A path that takes `allowed` alone.
pub(super) fn method_not_allowed(allowed: &'static str) -> Response<Body> {
    let mut response = json_response(
        StatusCode::METHOD_NOT_ALLOWED,
        r#"{"detail":"Method Not Allowed"}"#.into(),
    );
    response
        .headers_mut()
        .insert(ALLOW, HeaderValue::from_static(allowed));
    response
}

/// Where and why Python's json module would have given up on what serde_json gave up on.
fn python_error(body: &[u8], error: &serde_json::Error) -> (usize, &'static str) {
    let before_line: usize = body
        .split_inclusive(|&byte| byte == b'\n')
        .take(error.line() - 1)
        .map(<[u8]>::len)
        .sum();
    let place = before_line + error.column();
    let text = error.to_string();
    if error.is_eof() {
        return (body.len(), python_end(body));
    }
    let place = place.saturating_sub(1);
    let problem = if text.contains("key must be a string") {
        "Expecting property name enclosed in double quotes"
    } else if text.contains("expected `:`") {
        "Expecting ':' delimiter"
    } else if text.contains("expected `,`") {
        "Expecting ',' delimiter"
    } else if text.contains("trailing comma") {
        "Illegal trailing comma before end of object"
    } else if text.contains("trailing characters") {
        "Extra data"
    } else if text.contains("control character") {
        "Invalid control character at"
    } else {
        "Expecting value"
    };
    (place, problem)
}

/// What Python's json module misses at the end of a body that is cut off.
fn python_end(body: &[u8]) -> &'static str {
    let (mut open, mut in_string, mut escaped) = (Vec::new(), false, false);
    for &byte in body {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'{' | b'[' if !in_string => open.push(byte),
            b'}' | b']' if !in_string => drop(open.pop()),
            _ => {}
        }
    }
    match (body.trim_ascii_end().last(), open.last()) {
        _ if in_string => "Unterminated string starting at",
        (Some(b'{' | b','), Some(b'{')) => "Expecting property name enclosed in double quotes",
        (None | Some(b'[' | b',' | b':'), _) => "Expecting value",
        _ => "Expecting ',' delimiter",
    }
}

/// `value` as vLLM writes the offending input: scalars as Python writes them, containers by their size.
fn python_input(value: &Value) -> String {
    match value {
        Value::Null => "None".into(),
        Value::Bool(true) => "True".into(),
        Value::Bool(false) => "False".into(),
        Value::Number(number) => number.to_string(),
        Value::String(text) => python_text(text),
        Value::Array(items) => format!("'<list of {} items>'", items.len()),
        Value::Object(fields) => format!("'<dict of {} items>'", fields.len()),
    }
}

/// Python's `repr` of a string.
fn python_text(text: &str) -> String {
    let escaped = text
        .replace('\\', "\\\\")
        .replace('\n', "\\n")
        .replace('\t', "\\t");
    if escaped.contains('\'') && !escaped.contains('"') {
        format!("\"{escaped}\"")
    } else {
        format!("'{}'", escaped.replace('\'', "\\'"))
    }
}

//! vLLM's error answers, word for word: as recorded, and where no recording exists as its source says.

mod python;

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

    /// A prompt that does not fit by itself. Of text vLLM's tokenizer stops counting one token above the limit.
    pub(super) fn prompt_too_long(max_model_len: u32, tokens: u32) -> Self {
        let least = if tokens == max_model_len + 1 {
            "at least "
        } else {
            ""
        };
        Self::bad_value(
            "input_tokens",
            Some(tokens.to_string()),
            &format!(
                "This model's maximum context length is {max_model_len} tokens. However, your prompt contains \
                 {least}{tokens} input tokens, which exceeds this limit even without any output tokens. Please reduce \
                 the length of the input prompt."
            ),
        )
    }

    /// An input of a response that leaves no room for an output.
    pub(super) fn response_too_long(max_model_len: u32, tokens: u32) -> Self {
        Self {
            status: StatusCode::BAD_REQUEST,
            kind: "invalid_request_error",
            message: format!(
                "The engine prompt length {tokens} exceeds the max_model_len {max_model_len}. Please reduce prompt."
            ),
            param: Some("input".into()),
        }
    }

    /// More output than the context holds.
    pub(super) fn max_tokens_too_large(parameter: &str, tokens: i64, max_model_len: u32) -> Self {
        Self::bad_value(
            parameter,
            Some(tokens.to_string()),
            &format!(
                "{parameter}={tokens} cannot be greater than max_model_len={max_model_len}. Please request fewer output \
                 tokens."
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

    /// More prompts than vLLM takes in one request.
    pub(super) fn too_many_prompts(prompts: usize, most: usize) -> Self {
        Self::bad_value(
            "prompt",
            None,
            &format!(
                "prompt list length {prompts} exceeds the maximum allowed count of {most}. To increase this limit, set \
                 the VLLM_MAX_COMPLETION_PROMPTS environment variable."
            ),
        )
    }

    /// Options of a stream where there is none.
    pub(super) fn stream_options_without_stream() -> Self {
        Self::bad_value(
            "stream_options",
            None,
            "Stream options can only be defined when `stream=True`.",
        )
    }

    /// Sampling parameters that vLLM refuses without naming a parameter.
    pub(super) fn bad_parameters(message: &str) -> Self {
        Self {
            status: StatusCode::BAD_REQUEST,
            kind: "BadRequestError",
            message: message.to_owned(),
            param: None,
        }
    }

    /// A body that is no JSON.
    pub(super) fn malformed(body: &[u8], error: &serde_json::Error) -> Self {
        let (place, problem) = python::error(body, error);
        let detail = format!(
            "{{'type': 'json_invalid', 'loc': 'body.{place}', 'msg': 'JSON decode error', 'input': '<dict of 0 \
             items>', 'ctx': {{'error': {}}}}}",
            python::text(problem)
        );
        Self::invalid(&format!("body.{place}"), &detail)
    }

    /// JSON, but no object.
    pub(super) fn not_an_object(value: &Value) -> Self {
        let detail = format!(
            "{{'type': 'model_attributes_type', 'loc': 'body', 'msg': 'Input should be a valid dictionary or object \
             to extract fields from', 'input': {}}}",
            python::input(value)
        );
        Self::invalid("body", &detail)
    }

    /// An object without a field that must be there.
    pub(super) fn missing(field: &str, body: &Value) -> Self {
        let detail = format!(
            "{{'type': 'missing', 'loc': 'body.{field}', 'msg': 'Field required', 'input': {}}}",
            python::input(body)
        );
        Self::invalid(&format!("body.{field}"), &detail)
    }

    /// No body.
    pub(super) fn no_body() -> Self {
        Self::invalid(
            "body",
            "{'type': 'missing', 'loc': 'body', 'msg': 'Field required', 'input': 'None'}",
        )
    }

    /// Fields of another type than they should be.
    pub(super) fn wrong(complaints: &[Complaint]) -> Self {
        let errors = match complaints.len() {
            1 => "1 validation error".to_owned(),
            count => format!("{count} validation errors"),
        };
        let lines: String = complaints
            .iter()
            .map(|complaint| format!("\n  {}", complaint.detail))
            .collect();
        Self {
            status: StatusCode::BAD_REQUEST,
            kind: "Bad Request",
            message: format!("{errors}:{lines}"),
            param: complaints.first().map(|first| first.place.clone()),
        }
    }

    /// More stop texts than vLLM takes: it complains of both types that `stop` may have.
    pub(super) fn too_many_stops(stop: &Value, most: usize) -> Self {
        let given = stop.as_array().map_or(0, Vec::len);
        let problem =
            format!("List should have at most {most} items after validation, not {given}");
        let mut too_long = Complaint::new("too_long", "stop", &problem, stop);
        too_long.detail.pop();
        too_long.detail.push_str(&format!(
            ", 'ctx': {{'field_type': 'List', 'max_length': {most}, 'actual_length': {given}}}}}"
        ));
        Self::wrong(&[Complaint::string("stop", stop), too_long])
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

    /// The engine is gone.
    pub(super) fn engine_dead() -> Self {
        Self::internal(
            "EngineCore encountered an issue. See stack trace (above) for the root cause.",
        )
    }

    /// The server drains: it finishes what it has.
    pub(super) fn draining() -> Self {
        Self::internal("cannot schedule new futures after shutdown")
    }

    /// As many requests as `--max-num-queued-reqs` allows are there already.
    pub(super) fn busy() -> Self {
        Self {
            status: StatusCode::SERVICE_UNAVAILABLE,
            kind: "Service Unavailable",
            message: "The engine is currently busy and cannot accept new requests. Please try again later or on a \
                      different instance."
                .into(),
            param: None,
        }
    }

    /// A path that vLLM serves with `--enable-scale-out` alone.
    pub(super) fn scale_out_disabled() -> Self {
        Self {
            status: StatusCode::FORBIDDEN,
            kind: "PermissionDeniedError",
            message:
                "Scale-out endpoints are disabled. Restart vllm serve with --enable-scale-out to enable them."
                    .into(),
            param: None,
        }
    }

    /// A response that is not kept; none is, as vLLM keeps none by default.
    pub(super) fn unknown_response(id: &str) -> Self {
        Self {
            status: StatusCode::NOT_FOUND,
            kind: "invalid_request_error",
            message: format!("Response with id '{id}' not found."),
            param: Some("response_id".into()),
        }
    }

    /// Something about an adapter that vLLM calls the user's mistake.
    pub(super) fn adapter_input(message: String) -> Self {
        Self {
            status: StatusCode::BAD_REQUEST,
            kind: "InvalidUserInput",
            message,
            param: None,
        }
    }

    /// An adapter that is not there.
    pub(super) fn adapter_not_found(message: String) -> Self {
        Self {
            status: StatusCode::NOT_FOUND,
            kind: "NotFoundError",
            message,
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

    /// The same as an event of a stream whose head has been sent: written by Python's json module.
    pub(super) fn event(&self) -> String {
        let text = |text: &str| Value::from(text).to_string();
        format!(
            "data: {{\"error\": {{\"message\": {}, \"type\": {}, \"param\": {}, \"code\": {}}}}}\n\ndata: [DONE]\n\n",
            text(&self.message),
            text(self.kind),
            self.param.as_deref().map_or_else(|| "null".into(), text),
            self.status.as_u16(),
        )
    }

    /// The whole answer.
    pub(super) fn response(&self) -> Response<Body> {
        json_response(self.status, self.text())
    }

    fn internal(message: &str) -> Self {
        Self {
            status: StatusCode::INTERNAL_SERVER_ERROR,
            kind: "InternalServerError",
            message: message.into(),
            param: None,
        }
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

/// What pydantic says of one value.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Complaint {
    place: String,
    detail: String,
}

impl Complaint {
    /// `kind` and `problem` are pydantic's.
    pub(super) fn new(kind: &str, field: &str, problem: &str, input: &Value) -> Self {
        let place = format!("body.{field}");
        let input = python::input(input);
        Self {
            detail: format!(
                "{{'type': '{kind}', 'loc': '{place}', 'msg': '{problem}', 'input': {input}}}"
            ),
            place,
        }
    }

    /// It should be a string.
    pub(super) fn string(field: &str, input: &Value) -> Self {
        Self::new(
            "string_type",
            field,
            "Input should be a valid string",
            input,
        )
    }

    /// It should be a list.
    pub(super) fn list(field: &str, input: &Value) -> Self {
        Self::new("list_type", field, "Input should be a valid list", input)
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

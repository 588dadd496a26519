//! Single fields of a body, read as pydantic reads them, with its complaints.

use serde_json::Value;

use crate::serve::refusal::{Complaint, Refusal};

/// The JSON object that a request must hold.
///
/// # Errors
/// vLLM's answer to another content type, to no body, to what is no JSON and to what is no object.
pub(in crate::serve) fn object(content_type: Option<&str>, body: &[u8]) -> Result<Value, Refusal> {
    let media_type = content_type.and_then(|text| text.split(';').next());
    if !media_type.is_some_and(|text| text.trim().eq_ignore_ascii_case("application/json")) {
        return Err(Refusal::wrong_content_type());
    }
    if body.is_empty() {
        return Err(Refusal::no_body());
    }
    let value: Value =
        serde_json::from_slice(body).map_err(|error| Refusal::malformed(body, &error))?;
    if value.is_object() {
        Ok(value)
    } else {
        Err(Refusal::not_an_object(&value))
    }
}

/// A string that may be absent or null.
pub(in crate::serve) fn text<'a>(body: &'a Value, field: &str) -> Result<Option<&'a str>, Refusal> {
    match &body[field] {
        Value::Null => Ok(None),
        Value::String(text) => Ok(Some(text)),
        other => Err(Refusal::wrong(&[Complaint::string(field, other)])),
    }
}

/// A string that must be there.
pub(in crate::serve) fn required_text<'a>(
    body: &'a Value,
    field: &str,
) -> Result<&'a str, Refusal> {
    match body.get(field) {
        None => Err(Refusal::missing(field, body)),
        Some(Value::String(text)) => Ok(text),
        Some(other) => Err(Refusal::wrong(&[Complaint::string(field, other)])),
    }
}

/// A flag; absent and null are false.
pub(in crate::serve) fn flag(body: &Value, field: &str) -> bool {
    body[field] == Value::Bool(true)
}

/// An integer that may be absent or null; a string of digits and a float without a fraction will do.
pub(in crate::serve) fn integer(body: &Value, field: &str) -> Result<Option<i64>, Refusal> {
    let value = &body[field];
    let (kind, problem) = match value {
        Value::Null => return Ok(None),
        Value::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(integer), _) => return Ok(Some(integer)),
            (None, Some(float)) if float.fract() == 0.0 => return Ok(Some(float as i64)),
            _ => (
                "int_from_float",
                "Input should be a valid integer, got a number with a fractional part",
            ),
        },
        Value::String(text) => match text.trim().parse() {
            Ok(integer) => return Ok(Some(integer)),
            Err(_) => (
                "int_parsing",
                "Input should be a valid integer, unable to parse string as an integer",
            ),
        },
        _ => ("int_type", "Input should be a valid integer"),
    };
    Err(Refusal::wrong(&[Complaint::new(
        kind, field, problem, value,
    )]))
}

/// A number that may be absent or null.
pub(in crate::serve) fn number(body: &Value, field: &str) -> Result<Option<f64>, Refusal> {
    let value = &body[field];
    let (kind, problem) = match value {
        Value::Null => return Ok(None),
        Value::Number(number) => return Ok(number.as_f64()),
        Value::Bool(flag) => return Ok(Some(f64::from(u8::from(*flag)))),
        Value::String(text) => match text.trim().parse() {
            Ok(number) => return Ok(Some(number)),
            Err(_) => (
                "float_parsing",
                "Input should be a valid number, unable to parse string as a number",
            ),
        },
        _ => ("float_type", "Input should be a valid number"),
    };
    Err(Refusal::wrong(&[Complaint::new(
        kind, field, problem, value,
    )]))
}

/// A string or a list of strings, as `stop` is.
pub(in crate::serve) fn texts(body: &Value, field: &str) -> Result<Vec<String>, Refusal> {
    let value = &body[field];
    let complaint = Complaint::string(field, value);
    match value {
        Value::Null => Ok(Vec::new()),
        Value::String(text) => Ok(vec![text.clone()]),
        Value::Array(items) => {
            let mut complaints = vec![complaint];
            let places = items.iter().enumerate();
            let wrong = places.filter(|(_, item)| !item.is_string());
            complaints.extend(
                wrong.map(|(place, item)| Complaint::string(&format!("{field}.{place}"), item)),
            );
            if complaints.len() > 1 {
                return Err(Refusal::wrong(&complaints));
            }
            let texts = items.iter().filter_map(Value::as_str);
            Ok(texts.map(str::to_owned).collect())
        }
        other => Err(Refusal::wrong(&[complaint, Complaint::list(field, other)])),
    }
}

//! What Python and pydantic would have said: the places and words of vLLM's complaints.

use serde_json::Value;

/// Characters of an offending text that vLLM repeats.
const MAX_INPUT_CHARS: usize = 200;

/// Where and why Python's json module would have given up on what serde_json gave up on.
pub(super) fn error(body: &[u8], error: &serde_json::Error) -> (usize, &'static str) {
    let before_line: usize = body
        .split_inclusive(|&byte| byte == b'\n')
        .take(error.line() - 1)
        .map(<[u8]>::len)
        .sum();
    let place = before_line + error.column();
    let text = error.to_string();
    if error.is_eof() {
        return (body.len(), end(body));
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
fn end(body: &[u8]) -> &'static str {
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

/// `value` as vLLM writes the offending input: scalars as the text of what Python prints, containers by their size.
pub(super) fn input(value: &Value) -> String {
    match value {
        Value::Null => text("None"),
        Value::Bool(true) => text("True"),
        Value::Bool(false) => text("False"),
        Value::Number(number) => text(&number.to_string()),
        Value::String(long) if long.chars().count() > MAX_INPUT_CHARS => {
            let start: String = long.chars().take(MAX_INPUT_CHARS).collect();
            text(&format!("{start}...[truncated]"))
        }
        Value::String(short) => text(short),
        Value::Array(items) => format!("'<list of {} items>'", items.len()),
        Value::Object(fields) => format!("'<dict of {} items>'", fields.len()),
    }
}

/// Python's `repr` of a string.
pub(super) fn text(text: &str) -> String {
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

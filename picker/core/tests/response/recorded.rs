//! Recorded answers of vLLM, and bodies cut anywhere.

use std::fs;
use std::path::Path;

/// A recorded answer: status line and headers, an empty line, the body.
pub(crate) struct Recorded {
    pub(crate) status: u16,
    pub(crate) content_type: String,
    pub(crate) body: Vec<u8>,
}

pub(crate) fn recorded(name: &str) -> Recorded {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures/vllm/http")
        .join(name);
    let answer = fs::read(path).expect("fixture is readable");
    let split = memchr::memmem::find(&answer, b"\r\n\r\n").expect("headers end");
    let head = std::str::from_utf8(&answer[..split]).expect("headers are text");
    let status = head.split(' ').nth(1).expect("a status line");
    let content_type = head
        .lines()
        .find_map(|line| line.strip_prefix("content-type: "))
        .expect("a content type");
    Recorded {
        status: status.parse().expect("a status is a number"),
        content_type: content_type.to_owned(),
        body: answer[split + 4..].to_vec(),
    }
}

/// The chunks that a body is cut into at these places.
pub(crate) fn cut<'a>(mut body: &'a [u8], lengths: &[usize]) -> Vec<&'a [u8]> {
    let mut chunks = Vec::new();
    for length in lengths {
        let (chunk, rest) = body.split_at((*length).min(body.len()));
        chunks.push(chunk);
        body = rest;
    }
    chunks.push(body);
    chunks
}

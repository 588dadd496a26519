//! Bodies cut into frames, and what is read of them.

use picker_core::request::{Request, Scan};

pub(crate) const CHAT: &str = "/v1/chat/completions";
pub(crate) const COMPLETIONS: &str = "/v1/completions";
pub(crate) const RESPONSES: &str = "/v1/responses";
pub(crate) const EMBEDDINGS: &str = "/v1/embeddings";
pub(crate) const MESSAGES: &str = "/v1/messages";
pub(crate) const GENERATE: &str = "/inference/v1/generate";

/// What a body gives on its path, the same byte by byte and cut in two anywhere.
pub(crate) fn scan(path: &str, body: impl AsRef<[u8]>) -> Request {
    let body = body.as_ref();
    let whole = scan_of(path, [body]).request();
    assert_eq!(Request::scan(path, body), whole);
    let bytes = scan_of(path, body.chunks(1));
    assert_eq!(bytes.request(), whole, "byte by byte");
    for cut in 0..=body.len().min(1_000) {
        let (before, after) = body.split_at(cut);
        let cut_scan = scan_of(path, [before, after]);
        assert_eq!(cut_scan.request(), whole, "cut at {cut}");
        assert_eq!(cut_scan.model_span(), bytes.model_span(), "cut at {cut}");
    }
    whole
}

pub(crate) fn scan_of<'a>(path: &str, frames: impl IntoIterator<Item = &'a [u8]>) -> Scan {
    let mut scan = Scan::new(path);
    for frame in frames {
        scan.feed(frame);
    }
    scan
}

/// The frames that a body is cut into at these places.
pub(crate) fn cut<'a>(mut body: &'a [u8], lengths: &[usize]) -> Vec<&'a [u8]> {
    let mut frames = Vec::new();
    for length in lengths {
        let (frame, rest) = body.split_at((*length).min(body.len()));
        frames.push(frame);
        body = rest;
    }
    frames.push(body);
    frames
}

//! Another model's name put into a request's body, in place.

use std::ops::Range;

/// Puts a model's name into a body that passes in frames; only the frames in which the name stands are copied.
#[derive(Debug)]
pub struct Splice {
    /// The bytes of the body that give way.
    span: Range<u64>,
    /// What stands there instead.
    name: String,
    /// Bytes of the frames before.
    before: u64,
}

impl Splice {
    /// Puts `model` at `span`, which [`Scan::model_span`](super::Scan::model_span) found in the same body.
    #[must_use]
    pub fn new(span: Range<u64>, model: &str) -> Self {
        Self {
            span,
            name: serde_json::Value::from(model).to_string(),
            before: 0,
        }
    }

    /// The next frame of the body as it is to be sent; `None` if it stays as it is.
    #[must_use]
    pub fn pass(&mut self, frame: &[u8]) -> Option<Vec<u8>> {
        let start = self.before;
        let end = start + frame.len() as u64;
        self.before = end;
        if frame.is_empty() || end <= self.span.start || start >= self.span.end {
            return None;
        }
        let head = self.span.start.saturating_sub(start) as usize;
        let tail = (self.span.end.min(end) - start) as usize;
        // The name goes where the old one begins; what later frames have of the old one is left out.
        let name = if start <= self.span.start {
            self.name.as_bytes()
        } else {
            &[]
        };
        Some([&frame[..head], name, &frame[tail..]].concat())
    }
}

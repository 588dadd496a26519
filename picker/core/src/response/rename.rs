//! The model's name in a response that passes, put back to what the client asked for.

use super::{is_identity, is_json};
use crate::json::{Key, Kind, Reader, Value, Walk, Want};

/// Puts the client's name for the model where the server's stands: `model` of a JSON body or of an event's data, and of the
/// `response` (OpenAI responses) or `message` (Anthropic) in it. Nothing else changes, byte for byte.
///
/// However the body is cut into chunks, the bytes that come out are the same. No chunk is held back; at most 1 KB is kept of a
/// key. A body that is compressed, or neither JSON nor events, passes as it is. The length of the body
/// changes with the name's.
#[derive(Debug)]
pub struct Rename {
    /// The name in quotes.
    name: Vec<u8>,
    body: Body,
    /// Whether the server's name has begun, and goes on: it is left out.
    dropping: bool,
}

#[derive(Debug)]
enum Body {
    /// Nothing is to be done.
    Untouched,
    Json(Walk),
    Events(Line),
}

/// The present line of a stream of events.
#[derive(Debug)]
enum Line {
    /// It began with so many bytes of [`DATA`], and nothing else has come.
    Begun(usize),
    /// The data of an event.
    Data(Walk),
    /// Something else.
    Other,
}

/// How a line of data begins.
const DATA: &[u8] = b"data:";

impl Rename {
    /// Gives the model of a response the name `model`. Nothing is done before the headers are known.
    #[must_use]
    pub fn new(model: &str) -> Self {
        Self {
            name: serde_json::Value::from(model).to_string().into_bytes(),
            body: Body::Untouched,
            dropping: false,
        }
    }

    /// The response's headers: `content-type` ("" when absent) and `content-encoding`.
    pub fn on_headers(&mut self, content_type: &str, content_encoding: Option<&str>) {
        let media_type = content_type.split(';').next().unwrap_or_default().trim();
        self.body = if !content_encoding.is_none_or(is_identity) {
            Body::Untouched
        } else if media_type.eq_ignore_ascii_case("text/event-stream") {
            Body::Events(Line::Begun(0))
        } else if is_json(media_type) {
            Body::Json(Walk::new())
        } else {
            Body::Untouched
        };
    }

    /// Whether a body of these headers can change, so that its length is not to be announced.
    #[must_use]
    pub fn is_active(&self) -> bool {
        !matches!(self.body, Body::Untouched)
    }

    /// The next chunk of the body as it is to be sent; `None` if it stays as it is.
    #[must_use]
    pub fn pass(&mut self, chunk: &[u8]) -> Option<Vec<u8>> {
        let mut edit = Edit {
            name: &self.name,
            chunk,
            shift: 0,
            from: 0,
            dropping: self.dropping,
            changed: self.dropping.then(Vec::new),
        };
        match &mut self.body {
            Body::Untouched => {}
            Body::Json(walk) => edit.walk(walk, 0, chunk.len()),
            Body::Events(line) => edit.events(line),
        }
        self.dropping = edit.dropping;
        edit.end()
    }
}

/// What becomes of one chunk.
struct Edit<'a> {
    name: &'a [u8],
    chunk: &'a [u8],
    /// What is to be added to a place in the walked text, to get one in the chunk.
    shift: i64,
    /// What stands before this byte of the chunk has been dealt with.
    from: usize,
    dropping: bool,
    /// The new chunk so far, once it differs.
    changed: Option<Vec<u8>>,
}

impl Edit<'_> {
    /// Walks on over the bytes of the chunk from `start` to `end`.
    fn walk(&mut self, walk: &mut Walk, start: usize, end: usize) {
        self.shift = start as i64 - walk.bytes() as i64;
        walk.feed(&self.chunk[start..end], self);
    }

    /// Goes over the lines of the chunk, and walks over the data in them.
    fn events(&mut self, line: &mut Line) {
        let chunk = self.chunk;
        let mut at = 0;
        while let Some(&byte) = chunk.get(at) {
            match line {
                Line::Begun(matched) if byte == DATA[*matched] => {
                    at += 1;
                    *line = if *matched + 1 == DATA.len() {
                        Line::Data(Walk::new())
                    } else {
                        Line::Begun(*matched + 1)
                    };
                    continue;
                }
                Line::Begun(_) => *line = Line::Other,
                Line::Data(_) | Line::Other => {}
            }
            let found = memchr::memchr2(b'\n', b'\r', &chunk[at..]);
            let end = found.map_or(chunk.len(), |found| at + found);
            if let Line::Data(walk) = line {
                self.walk(walk, at, end);
            }
            at = end;
            if found.is_some() {
                self.resume(end);
                *line = Line::Begun(0);
                at += 1;
            }
        }
    }

    /// The server's name ends before this byte of the chunk, if it stood there.
    fn resume(&mut self, at: usize) {
        if std::mem::take(&mut self.dropping) {
            self.from = at;
        }
    }

    fn end(self) -> Option<Vec<u8>> {
        let mut changed = self.changed?;
        if !self.dropping {
            changed.extend_from_slice(&self.chunk[self.from..]);
        }
        Some(changed)
    }

    fn place(&self, at: u64) -> usize {
        usize::try_from(at as i64 + self.shift).expect("what is told of stands in this chunk")
    }
}

impl Reader for Edit<'_> {
    fn on_key(&mut self, key: Key<'_>) -> Want {
        match key.text {
            b"model" => Want::Value,
            b"response" | b"message" => Want::Keys,
            _ => Want::Nothing,
        }
    }

    fn on_begin(&mut self, kind: Kind, at: u64) {
        if kind == Kind::String {
            let place = self.place(at);
            let changed = self.changed.get_or_insert_default();
            changed.extend_from_slice(&self.chunk[self.from..place]);
            changed.extend_from_slice(self.name);
            self.dropping = true;
        }
    }

    fn on_value(&mut self, value: Value<'_>) {
        if value.kind == Kind::String {
            self.resume(self.place(value.span.end));
        }
    }
}

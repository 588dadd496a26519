//! JSON text that comes in pieces, cut anywhere: which keys stand in it, and where their values begin and end.
//!
//! A [`Walk`] goes over each byte once and holds no piece: of a text of any length it keeps at most one key or one
//! short value. It knows the keys of the outermost object, and of objects in it that its [`Reader`] enters; what stands
//! deeper is passed over, and only counted. Text that is no JSON object is noticed where it ends the walk; what
//! stands inside strings is not checked.

use std::ops::Range;

pub(crate) use self::measure::Measure;
use self::text::Text;
pub(crate) use self::text::unescape;

mod measure;
mod text;

/// A longer key or value is not kept: no name that means anything comes near it.
const TEXT_MAX_BYTES: usize = 1024;

/// What is told of a text while it is walked over.
pub(crate) trait Reader {
    /// A key, as it stands between its quotes, of the outermost object or of one that was entered. Its value comes next.
    fn on_key(&mut self, key: Key<'_>) -> Want;

    /// A value that was wanted begins at this byte of the text.
    fn on_begin(&mut self, _kind: Kind, _at: u64) {}

    /// A value that was wanted has ended.
    fn on_value(&mut self, value: Value<'_>);
}

/// A key, and where it stands.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Key<'a> {
    /// Whether it stands in an object that was entered.
    pub(crate) inside: bool,
    /// Its text, escapes undone.
    pub(crate) text: &'a [u8],
}

/// What is to be done with the value of a key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Want {
    /// Pass over it.
    #[default]
    Nothing,
    /// Tell it.
    Value,
    /// If it is an object, tell its keys. Goes one level deep.
    Keys,
}

/// A value that has ended.
#[derive(Clone, Debug)]
pub(crate) struct Value<'a> {
    /// The bytes of the text that it is, quotes included.
    pub(crate) span: Range<u64>,
    /// What it is.
    pub(crate) kind: Kind,
    /// A string between its quotes, or another value that is neither array nor object, as it stands; empty
    /// if that is over 1 KB.
    pub(crate) text: &'a [u8],
    /// What was counted in it.
    pub(crate) measure: Measure,
}

/// The kinds of values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    String,
    /// A number, a boolean, or null.
    Plain,
    /// An array or object.
    Nested,
}

/// Goes over one text.
#[derive(Debug)]
pub(crate) struct Walk {
    /// Bytes of the pieces before.
    before: u64,
    state: State,
    /// Whether the present object is one that was entered.
    inside: bool,
    /// What is wanted of the present value.
    want: Want,
    /// Where the present value began.
    begin: u64,
    text: Text,
    measure: Measure,
}

/// What comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Object,
    /// A key, or the end of an object that has none.
    FirstKey,
    Key,
    KeyText,
    Colon,
    Value,
    ValueText,
    Plain,
    /// What stands inside an array or object that was not entered.
    Nested,
    NestedText,
    /// A comma, or the end of the object.
    Comma,
    /// The object has ended; nothing but blanks may come.
    Ended,
    Failed,
}

impl Walk {
    pub(crate) fn new() -> Self {
        Self {
            before: 0,
            state: State::Object,
            inside: false,
            want: Want::Nothing,
            begin: 0,
            text: Text::default(),
            measure: Measure::default(),
        }
    }

    /// Whether the text so far is one object, whole.
    pub(crate) fn is_whole(&self) -> bool {
        self.state == State::Ended
    }

    /// Whether the text so far cannot be the beginning of an object.
    pub(crate) fn has_failed(&self) -> bool {
        self.state == State::Failed
    }

    /// Bytes so far.
    pub(crate) fn bytes(&self) -> u64 {
        self.before
    }

    /// Goes over the next piece.
    pub(crate) fn feed(&mut self, piece: &[u8], reader: &mut impl Reader) {
        let mut at = 0;
        while at < piece.len() && self.state != State::Failed {
            at = match self.state {
                State::KeyText | State::ValueText | State::NestedText => {
                    self.on_text(piece, at, reader)
                }
                State::Plain => self.on_plain(piece, at, reader),
                State::Nested => self.on_nested(piece, at, reader),
                _ => {
                    let byte = piece[at];
                    if !matches!(byte, b' ' | b'\n' | b'\t' | b'\r') {
                        self.on_mark(byte, at, reader);
                    }
                    // A plain value begins with the byte that announced it.
                    at + usize::from(self.state != State::Plain)
                }
            };
        }
        self.before += piece.len() as u64;
    }

    /// A byte between values.
    fn on_mark(&mut self, byte: u8, at: usize, reader: &mut impl Reader) {
        self.state = match (self.state, byte) {
            (State::Object, b'{') => State::FirstKey,
            (State::FirstKey | State::Key, b'"') => {
                self.text.begin(TEXT_MAX_BYTES);
                State::KeyText
            }
            (State::Colon, b':') => State::Value,
            (State::Value, _) => return self.on_value_mark(byte, at, reader),
            (State::Comma, b',') => State::Key,
            (State::FirstKey | State::Comma, b'}') => {
                if std::mem::take(&mut self.inside) {
                    State::Comma
                } else {
                    State::Ended
                }
            }
            _ => State::Failed,
        };
    }

    /// The first byte of a value.
    fn on_value_mark(&mut self, byte: u8, at: usize, reader: &mut impl Reader) {
        if self.want == Want::Keys {
            if byte == b'{' {
                self.inside = true;
                self.state = State::FirstKey;
                return;
            }
            self.want = Want::Nothing;
        }
        let kind = match byte {
            b'"' => Kind::String,
            b'{' | b'[' => Kind::Nested,
            _ if is_plain(byte) => Kind::Plain,
            _ => {
                self.state = State::Failed;
                return;
            }
        };
        self.begin = self.before + at as u64;
        let mut kept = 0;
        if self.want == Want::Value {
            kept = TEXT_MAX_BYTES;
            reader.on_begin(kind, self.begin);
        }
        self.text.begin(kept);
        self.state = match kind {
            Kind::String => State::ValueText,
            Kind::Plain => State::Plain,
            Kind::Nested => {
                self.measure = Measure::of_value(byte);
                State::Nested
            }
        };
    }

    /// Goes on in a string, from `at`.
    fn on_text(&mut self, piece: &[u8], at: usize, reader: &mut impl Reader) -> usize {
        let Some(end) = self.text.take_string(&piece[at..]) else {
            return piece.len();
        };
        let part = &piece[at..at + end];
        let after = at + end + 1;
        match self.state {
            State::KeyText => {
                let inside = self.inside;
                let text = self.text.end(part);
                self.want = if text.contains(&b'\\') {
                    let text = unescape(text).unwrap_or_default();
                    let text = text.as_bytes();
                    reader.on_key(Key { inside, text })
                } else {
                    reader.on_key(Key { inside, text })
                };
                if inside && self.want == Want::Keys {
                    self.want = Want::Nothing;
                }
                self.state = State::Colon;
            }
            State::NestedText => {
                let length = self.text.bytes() + part.len() as u64;
                self.measure.on_string(self.text.head(part), length);
                self.state = State::Nested;
            }
            _ => self.end_value(Kind::String, part, after, reader),
        }
        after
    }

    /// Goes on in a number, a boolean or null, from `at`.
    fn on_plain(&mut self, piece: &[u8], at: usize, reader: &mut impl Reader) -> usize {
        let rest = &piece[at..];
        let length = rest.iter().position(|byte| !is_plain(*byte));
        let Some(length) = length else {
            self.text.keep(rest);
            return piece.len();
        };
        self.end_value(Kind::Plain, &rest[..length], at + length, reader);
        at + length
    }

    /// Goes on inside an array or object, from `at`.
    fn on_nested(&mut self, piece: &[u8], mut at: usize, reader: &mut impl Reader) -> usize {
        while let Some(&byte) = piece.get(at) {
            at += 1;
            if byte == b'"' {
                self.text.begin(measure::HEAD_BYTES);
                self.state = State::NestedText;
                let rest = &piece[at..];
                let Some(end) = self.text.take_string(rest) else {
                    return piece.len();
                };
                self.measure.on_string(&rest[..end], end as u64);
                self.state = State::Nested;
                at += end + 1;
            } else if self.measure.on_byte(byte) {
                self.end_value(Kind::Nested, &[], at, reader);
                return at;
            } else if byte == b',' && self.measure.in_numbers() {
                at += self.measure.take_numbers(&piece[at..]);
            }
        }
        at
    }

    /// The present value has ended before byte `end` of the piece; `part` is what the piece has of its text.
    fn end_value(&mut self, kind: Kind, part: &[u8], end: usize, reader: &mut impl Reader) {
        self.state = State::Comma;
        if self.want != Want::Value {
            return;
        }
        let measure = if kind == Kind::Nested {
            std::mem::take(&mut self.measure)
        } else {
            Measure::default()
        };
        reader.on_value(Value {
            span: self.begin..self.before + end as u64,
            kind,
            text: self.text.end(part),
            measure,
        });
    }
}

/// Whether a byte can stand in a number, a boolean or null.
fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'+' | b'.')
}

//! A string or a short value of a text in pieces: where it ends, and what it says.

use std::borrow::Cow;

use memchr::memchr;

/// How many words of eight bytes are looked at before a quote counts as far.
const NEAR_WORDS: usize = 4;

/// The string or plain value that the walk is in.
#[derive(Debug, Default)]
pub(super) struct Text {
    /// What earlier pieces had of it, at most as much as is kept.
    carry: Vec<u8>,
    /// The most bytes of it that are kept.
    kept: usize,
    /// Its bytes in earlier pieces.
    bytes: u64,
    /// The piece before ended with a backslash that escapes the next byte.
    escaped: bool,
}

impl Text {
    /// A text begins, of which `kept` bytes matter.
    #[inline]
    pub(super) fn begin(&mut self, kept: usize) {
        self.carry.clear();
        self.kept = kept;
        self.bytes = 0;
        self.escaped = false;
    }

    /// Its bytes in earlier pieces.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Where in `rest` the quote stands that ends the string; without one, all of `rest` is part of it.
    ///
    /// Only quotes are looked for, by whole vectors of bytes: one is the end unless an odd number of backslashes
    /// stands before it. Each backslash is looked at once, since it stands before one quote at most.
    #[inline]
    pub(super) fn take_string(&mut self, rest: &[u8]) -> Option<usize> {
        let mut from = 0;
        while let Some(found) = find_quote(&rest[from..]) {
            let quote = from + found;
            if !self.is_escaped(&rest[..quote]) {
                return Some(quote);
            }
            from = quote + 1;
        }
        self.escaped = self.is_escaped(rest);
        self.keep(rest);
        None
    }

    /// Whether a byte that stands behind `rest` is escaped.
    #[inline]
    fn is_escaped(&self, rest: &[u8]) -> bool {
        let mut escaped = false;
        for byte in rest.iter().rev() {
            if *byte != b'\\' {
                return escaped;
            }
            escaped = !escaped;
        }
        escaped ^ self.escaped
    }

    /// The text goes on with all of `rest`.
    pub(super) fn keep(&mut self, rest: &[u8]) {
        self.bytes += rest.len() as u64;
        if self.carry.len() <= self.kept {
            // One byte more than is kept says that it was too long.
            let room = (self.kept + 1).saturating_sub(self.carry.len());
            self.carry.extend_from_slice(&rest[..rest.len().min(room)]);
        }
    }

    /// The whole text, which ends with `part`; empty if it is longer than what is kept.
    pub(super) fn end<'a>(&'a mut self, part: &'a [u8]) -> &'a [u8] {
        let kept = self.kept;
        let text = self.head(part);
        if text.len() > kept { &[] } else { text }
    }

    /// At least the first bytes of the text that are kept; `part` is its end.
    pub(super) fn head<'a>(&'a mut self, part: &'a [u8]) -> &'a [u8] {
        if self.carry.is_empty() {
            return part;
        }
        self.keep(part);
        &self.carry
    }
}

/// Where the first quote stands. One that is near is found by words, since most strings are short; one that is far by
/// vectors, which are faster but need a call.
#[inline]
fn find_quote(text: &[u8]) -> Option<usize> {
    const ONES: u64 = u64::from_ne_bytes([1; 8]);
    const QUOTES: u64 = u64::from_ne_bytes([b'"'; 8]);
    let mut at = 0;
    for word in text.as_chunks::<8>().0.iter().take(NEAR_WORDS) {
        // A byte that is a quote becomes 0; of bytes that are 0 the lowest borrows first.
        let word = u64::from_le_bytes(*word) ^ QUOTES;
        let zeros = word.wrapping_sub(ONES) & !word & (ONES << 7);
        if zeros != 0 {
            return Some(at + zeros.trailing_zeros() as usize / 8);
        }
        at += 8;
    }
    Some(at + memchr(b'"', &text[at..])?)
}

/// What the string between two quotes says; `None` if it is not one that JSON allows.
pub(crate) fn unescape(text: &[u8]) -> Option<Cow<'_, str>> {
    if text.contains(&b'\\') {
        let quoted = [b"\"", text, b"\""].concat();
        serde_json::from_slice(&quoted).ok().map(Cow::Owned)
    } else {
        std::str::from_utf8(text).ok().map(Cow::Borrowed)
    }
}

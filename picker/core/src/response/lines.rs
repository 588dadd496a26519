//! Lines of a body that comes in chunks cut anywhere.

/// A longer line is skipped: no event that decisions need comes near it.
const MAX_LINE_BYTES: usize = 64 * 1024;

/// Puts lines together; holds at most one unfinished line of [`MAX_LINE_BYTES`].
///
/// A line ends at CR, LF or both, as server-sent events have it; of CRLF the second makes an empty line, which
/// means nothing here.
#[derive(Debug, Default)]
pub(super) struct Lines {
    /// The beginning of a line whose end has not come yet.
    carry: Vec<u8>,
    /// The unfinished line is too long already; the rest of it is dropped.
    overlong: bool,
}

impl Lines {
    /// Takes the next chunk and calls `on_line` for every line that it completes. Allocates only to keep an
    /// unfinished line.
    pub(super) fn feed(&mut self, chunk: &[u8], mut on_line: impl FnMut(&[u8])) {
        let mut rest = chunk;
        if self.overlong || !self.carry.is_empty() {
            let Some(end) = line_end(rest) else {
                return self.keep(rest);
            };
            self.keep(&rest[..end]);
            self.end(&mut on_line);
            rest = &rest[end + 1..];
        }
        while let Some(end) = line_end(rest) {
            if end <= MAX_LINE_BYTES {
                on_line(&rest[..end]);
            }
            rest = &rest[end + 1..];
        }
        self.keep(rest);
    }

    /// The body has ended, and with it the line that was unfinished.
    pub(super) fn end(&mut self, mut on_line: impl FnMut(&[u8])) {
        if !std::mem::take(&mut self.overlong) && !self.carry.is_empty() {
            on_line(&self.carry);
            self.carry.clear();
        }
    }

    fn keep(&mut self, part: &[u8]) {
        if self.overlong || part.is_empty() {
            return;
        }
        if self.carry.len() + part.len() > MAX_LINE_BYTES {
            self.carry = Vec::new();
            self.overlong = true;
        } else {
            self.carry.extend_from_slice(part);
        }
    }
}

fn line_end(text: &[u8]) -> Option<usize> {
    memchr::memchr2(b'\n', b'\r', text)
}

//! One sample line of the Prometheus text format: what follows the series' name.

use std::borrow::Cow;

/// The labels and the value of one sample; borrowed from the page.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sample<'a> {
    /// What stands between the braces, already known to be well formed.
    labels: &'a str,
    value: f64,
}

/// The line does not follow the text format.
#[derive(Debug)]
pub(super) struct Malformed;

impl<'a> Sample<'a> {
    /// Reads labels, value and the optional timestamp or exemplar from `rest`, the line without its name.
    pub(super) fn parse(rest: &'a [u8]) -> Result<Self, Malformed> {
        let rest = std::str::from_utf8(rest)
            .map_err(|_| Malformed)?
            .trim_ascii();
        let (labels, numbers) = match rest.strip_prefix('{') {
            None => ("", rest),
            Some(inside) => {
                let mut walk = inside;
                while next_label(&mut walk)?.is_some() {}
                (&inside[..inside.len() - walk.len()], walk)
            }
        };
        let mut words = numbers
            .split_ascii_whitespace()
            .take_while(|word| !word.starts_with('#'));
        let value = words.next().ok_or(Malformed)?;
        let value = value.parse().map_err(|_| Malformed)?;
        if let Some(timestamp) = words.next() {
            timestamp.parse::<f64>().map_err(|_| Malformed)?;
        }
        match words.next() {
            None => Ok(Self { labels, value }),
            Some(_) => Err(Malformed),
        }
    }

    /// The value of label `name`, unescaped; `None` where the sample does not carry it.
    pub(super) fn label(&self, name: &str) -> Option<Cow<'a, str>> {
        let mut walk = self.labels;
        while let Ok(Some((found, value))) = next_label(&mut walk) {
            if found == name {
                return Some(unescape(value));
            }
        }
        None
    }

    /// The value, unless it is negative or not finite: no gauge or counter of ours can be either.
    pub(super) fn quantity(&self) -> Option<f64> {
        (self.value.is_finite() && self.value >= 0.0).then_some(self.value)
    }

    /// The value as a whole number, cut towards zero.
    pub(super) fn count(&self) -> Option<u64> {
        self.quantity().map(|value| value as u64)
    }
}

/// Takes the next `name="value"` off `walk`; `None` at the closing brace, which is taken too.
fn next_label<'a>(walk: &mut &'a str) -> Result<Option<(&'a str, &'a str)>, Malformed> {
    let rest = walk.trim_ascii_start();
    if let Some(after) = rest.strip_prefix('}') {
        *walk = after;
        return Ok(None);
    }
    let in_name = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let end = rest.bytes().position(|byte| !in_name(byte));
    let (name, rest) = rest.split_at(end.ok_or(Malformed)?);
    let rest = rest.trim_ascii_start().strip_prefix('=').ok_or(Malformed)?;
    let rest = rest.trim_ascii_start().strip_prefix('"').ok_or(Malformed)?;
    let end = closing_quote(rest.as_bytes()).ok_or(Malformed)?;
    let (value, rest) = (&rest[..end], rest[end + 1..].trim_ascii_start());
    *walk = match rest.strip_prefix(',') {
        Some(after) => after,
        None if rest.starts_with('}') => rest,
        None => return Err(Malformed),
    };
    Ok(Some((name, value)))
}

/// Where the quote stands that ends a label value.
fn closing_quote(text: &[u8]) -> Option<usize> {
    let mut from = 0;
    loop {
        let at = from + memchr::memchr2(b'"', b'\\', text.get(from..)?)?;
        if text[at] == b'"' {
            return Some(at);
        }
        from = at + 2;
    }
}

/// Resolves `\\`, `\"` and `\n`, the format's only escapes; another backslash stands for itself.
fn unescape(raw: &str) -> Cow<'_, str> {
    if !raw.contains('\\') {
        return Cow::Borrowed(raw);
    }
    let mut text = String::with_capacity(raw.len());
    let mut chars = raw.chars().peekable();
    while let Some(char) = chars.next() {
        let resolved = match (char, chars.peek()) {
            ('\\', Some('n')) => Some('\n'),
            ('\\', Some(&escaped @ ('\\' | '"'))) => Some(escaped),
            _ => None,
        };
        if resolved.is_some() {
            chars.next();
        }
        text.push(resolved.unwrap_or(char));
    }
    Cow::Owned(text)
}

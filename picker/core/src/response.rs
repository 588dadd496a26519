//! One response half, as it passes: first token, progress, usage, and failure inside a stream.

use self::event::Kind;
use self::lines::Lines;
pub use self::rename::Rename;
use self::usage::Report;
pub use self::usage::Usage;

mod event;
mod lines;
mod rename;
mod usage;

/// How much of the end of a plain JSON body is kept, for the `usage` object in it.
const TAIL_BYTES: usize = 8 * 1024;

/// Watches one response without holding it: give it the headers, each chunk of the body, then the end.
///
/// However the body is cut into chunks, the outcome is the same. Costs per chunk: two scans of its bytes; no
/// allocation unless an event is cut in two, and JSON parsing only where a `usage` object or an error stands.
/// Holds at most an unfinished line of 64 KB, or 16 KB of a JSON body's end.
#[derive(Debug, Default)]
pub struct Response {
    status: u16,
    streamed: bool,
    watch: Watch,
    lines: Lines,
    tail: Vec<u8>,
    seen: Seen,
}

/// What is looked for in the body.
#[derive(Clone, Copy, Debug, Default)]
enum Watch {
    /// Nothing: compressed, not a success, or of a type that tells nothing.
    #[default]
    Bytes,
    /// Server-sent events.
    Events,
    /// The `usage` object near the end of a JSON body.
    Tail,
}

impl Response {
    /// A response of which nothing has been seen.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The response's headers: the status, `content-type` ("" when absent) and `content-encoding`.
    pub fn on_headers(&mut self, status: u16, content_type: &str, content_encoding: Option<&str>) {
        let media_type = content_type.split(';').next().unwrap_or_default().trim();
        let plain = content_encoding.is_none_or(is_identity);
        let readable = plain && (200..300).contains(&status);
        self.status = status;
        self.streamed = media_type.eq_ignore_ascii_case("text/event-stream");
        self.watch = match (readable, self.streamed) {
            (false, _) => Watch::Bytes,
            (true, true) => Watch::Events,
            (true, false) if is_json(media_type) => Watch::Tail,
            (true, false) => Watch::Bytes,
        };
    }

    /// The next chunk of the body, however it was cut.
    pub fn on_body(&mut self, chunk: &[u8]) {
        match self.watch {
            Watch::Bytes => {}
            Watch::Events => self.lines.feed(chunk, |line| self.seen.on_line(line)),
            Watch::Tail => self.keep_tail(chunk),
        }
    }

    /// The body has ended, or was cut off. Must be called before [`usage`](Self::usage) of a response that is not
    /// streamed is asked for; calling it again changes nothing.
    pub fn on_end(&mut self) {
        self.lines.end(|line| self.seen.on_line(line));
        let tail = std::mem::take(&mut self.tail);
        let from = tail.len().saturating_sub(TAIL_BYTES);
        if let Some(report) = Report::last_in(&tail[from..]) {
            self.seen.on_report(&report);
        }
    }

    /// The HTTP status; 0 before the headers.
    #[must_use]
    pub fn status(&self) -> u16 {
        self.status
    }

    /// Whether the body is a stream of server-sent events, by its content type.
    #[must_use]
    pub fn is_streamed(&self) -> bool {
        self.streamed
    }

    /// Whether a successful stream has shown its first token: an event that is neither an error nor one that only says
    /// that something begins or ends. Never true of a response that is not streamed: its time to first token cannot be seen.
    #[must_use]
    pub fn first_token_seen(&self) -> bool {
        self.seen.first_token
    }

    /// Tokens generated so far: as the latest `usage` says, plus one for each event with output since. Without usage
    /// it is an estimate, since an event may hold several tokens, or only a role.
    #[must_use]
    pub fn tokens(&self) -> u64 {
        self.seen.reported.saturating_add(self.seen.events_since)
    }

    /// The latest usage that the server gave; final once the response has ended.
    #[must_use]
    pub fn usage(&self) -> Option<Usage> {
        self.seen.usage
    }

    /// The failure that a stream reported after its 200: the status that its first error names, 500 if it names none.
    #[must_use]
    pub fn failure(&self) -> Option<u16> {
        self.seen.failure
    }

    /// Keeps at least the last [`TAIL_BYTES`], and at most twice as many so that bytes move seldom.
    fn keep_tail(&mut self, chunk: &[u8]) {
        let chunk = &chunk[chunk.len().saturating_sub(TAIL_BYTES)..];
        if self.tail.len() + chunk.len() > 2 * TAIL_BYTES {
            let surplus = self.tail.len() + chunk.len() - TAIL_BYTES;
            self.tail.drain(..surplus);
        }
        self.tail.extend_from_slice(chunk);
    }
}

/// What the events so far have shown.
#[derive(Debug, Default)]
struct Seen {
    /// What the line before the data says that the event is.
    named: Option<Kind>,
    first_token: bool,
    failure: Option<u16>,
    usage: Option<Usage>,
    /// Tokens by the latest usage.
    reported: u64,
    /// Events with output after it.
    events_since: u64,
}

impl Seen {
    fn on_line(&mut self, line: &[u8]) {
        if let Some(name) = line.strip_prefix(b"event:") {
            self.named = Some(Kind::named(name.trim_ascii()));
        } else if let Some(data) = line.strip_prefix(b"data:") {
            // A name is for the data that follows it.
            let named = self.named.take();
            self.on_data(named, data.trim_ascii());
        }
    }

    fn on_data(&mut self, named: Option<Kind>, data: &[u8]) {
        if matches!(data, b"" | b"[DONE]") {
            return;
        }
        let kind = match named {
            Some(Kind::Unknown) | None => Kind::of_data(data),
            Some(kind) => kind,
        };
        match kind {
            Kind::Failure => {
                self.failure = self.failure.or_else(|| Some(event::failure_status(data)));
                return;
            }
            Kind::Quiet => return,
            Kind::Usage => {}
            Kind::Output | Kind::Unknown => {
                self.first_token = true;
                self.events_since += 1;
            }
        }
        if kind != Kind::Output
            && let Some(report) = Report::first_in(data)
        {
            self.on_report(&report);
        }
    }

    fn on_report(&mut self, report: &Report) {
        self.usage = Some(report.update(self.usage));
        if let Some(tokens) = report.completion() {
            self.reported = tokens;
            self.events_since = 0;
        }
    }
}

fn is_identity(coding: &str) -> bool {
    let coding = coding.trim();
    coding.is_empty() || coding.eq_ignore_ascii_case("identity")
}

/// `application/json` and its relatives (`application/problem+json`).
fn is_json(media_type: &str) -> bool {
    let bytes = media_type.as_bytes();
    let ending = &bytes[bytes.len().saturating_sub(4)..];
    ending.eq_ignore_ascii_case(b"json")
}

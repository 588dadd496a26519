//! The answer to a request that goes nowhere, in the dialect that its client reads.

use serde_json::json;

/// The header in which upstream's picker says why a request was dropped, with upstream's words.
pub const DROPPED_REASON_HEADER: &str = "x-llm-d-request-dropped-reason";

/// The header in which ours does, with the words of [`Reason::as_str`].
pub const REASON_HEADER: &str = "x-pointsman-reason";

/// The longest `retry-after`, in seconds. The clients of OpenAI and Anthropic give a request up that is told to wait
/// over two minutes (`openai` 3.54 and `anthropic` 2.12, `_base_client.py`), and a queue's drain is not
/// known so far ahead.
const RETRY_AFTER_MAX_S: u32 = 60;

/// Why a request goes nowhere. The words for it are an interface: scripts may match them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// No pool answers to the call.
    NoPool,
    /// The pool has no endpoints.
    NoEndpoints,
    /// The gateway's subset hint leaves out every endpoint of the pool.
    EmptySubset,
    /// The pool is full, and the request was let go for others.
    Overloaded,
}

/// Which errors a client understands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// OpenAI's, which all others than these get too.
    OpenAi,
    /// Anthropic's.
    Anthropic,
    /// A gRPC status.
    Grpc,
}

/// A request that goes nowhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Why, for programs.
    pub reason: Reason,
    /// Why, and what can be done about it, for people.
    pub message: String,
    /// After how many seconds it is worth to ask again, where that is known; told as 1 to 60.
    pub retry_after_s: Option<u32>,
}

/// What the client gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The headers to set, names in lower case.
    pub headers: Vec<(&'static str, String)>,
    /// The body; empty for gRPC, whose status stands in the headers alone ("trailers-only").
    pub body: Vec<u8>,
    /// The gRPC status, for gRPC.
    pub grpc_status: Option<u32>,
}

impl Reason {
    /// The word for it, in every dialect.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NoPool => "no_pool",
            Self::NoEndpoints => "no_endpoints",
            Self::EmptySubset => "empty_subset",
            Self::Overloaded => "overloaded",
        }
    }

    /// The HTTP status: 503 where nobody could serve, 429 where the request was shed, as the endpoint picker protocol
    /// has it.
    #[must_use]
    pub fn status(self) -> u16 {
        match self {
            Self::NoPool | Self::NoEndpoints | Self::EmptySubset => 503,
            Self::Overloaded => 429,
        }
    }

    /// Upstream's word for it.
    fn dropped_reason(self) -> &'static str {
        match self {
            Self::NoPool | Self::NoEndpoints | Self::EmptySubset => "rejected-no-endpoints",
            Self::Overloaded => "rejected-saturated",
        }
    }

    /// UNAVAILABLE, or RESOURCE_EXHAUSTED.
    fn grpc_status(self) -> u32 {
        match self {
            Self::NoPool | Self::NoEndpoints | Self::EmptySubset => 14,
            Self::Overloaded => 8,
        }
    }
}

impl Dialect {
    /// What the client of a request reads, by its path and its `content-type` ("" where there is none).
    #[must_use]
    pub fn of(path: &str, content_type: &str) -> Self {
        let path = path.split(['?', '#']).next().unwrap_or_default();
        if is_grpc(content_type) {
            Self::Grpc
        } else if path.split('/').any(|step| step == "messages") {
            Self::Anthropic
        } else {
            Self::OpenAi
        }
    }
}

impl Refusal {
    /// The answer in a dialect.
    #[must_use]
    pub fn answer(&self, dialect: Dialect) -> Answer {
        let reason = self.reason;
        let mut headers = vec![
            (DROPPED_REASON_HEADER, reason.dropped_reason().to_owned()),
            (REASON_HEADER, reason.as_str().to_owned()),
        ];
        if let Some(seconds) = self.retry_after_s {
            let seconds = seconds.clamp(1, RETRY_AFTER_MAX_S);
            headers.push(("retry-after", seconds.to_string()));
        }
        if dialect == Dialect::Grpc {
            let status = reason.grpc_status();
            headers.push(("content-type", "application/grpc".to_owned()));
            headers.push(("grpc-status", status.to_string()));
            headers.push(("grpc-message", grpc_message(&self.message)));
            return Answer {
                status: 200,
                headers,
                body: Vec::new(),
                grpc_status: Some(status),
            };
        }
        headers.push(("content-type", "application/json".to_owned()));
        let body = match dialect {
            Dialect::Anthropic => self.anthropic(),
            Dialect::OpenAi | Dialect::Grpc => self.open_ai(),
        };
        Answer {
            status: reason.status(),
            headers,
            body: body.to_string().into_bytes(),
            grpc_status: None,
        }
    }

    /// The client takes the class of its exception from the status, and `message`, `type`, `param` and `code` from `error`.
    fn open_ai(&self) -> serde_json::Value {
        let kind = match self.reason {
            Reason::Overloaded => "rate_limit_error",
            Reason::NoPool | Reason::NoEndpoints | Reason::EmptySubset => "server_error",
        };
        json!({"error": {
            "message": self.message, "type": kind, "param": null, "code": self.reason.as_str()
        }})
    }

    /// The client takes the class of its exception from the status, and the stable word from `error.details.error_code`.
    fn anthropic(&self) -> serde_json::Value {
        let kind = match self.reason {
            Reason::Overloaded => "rate_limit_error",
            Reason::NoPool | Reason::NoEndpoints | Reason::EmptySubset => "api_error",
        };
        json!({"type": "error", "error": {
            "type": kind, "message": self.message, "details": {"error_code": self.reason.as_str()}
        }})
    }
}

/// `application/grpc` and its relatives (`application/grpc+proto`), but not gRPC-Web, whose framing differs.
fn is_grpc(content_type: &str) -> bool {
    let media_type = content_type.split(';').next().unwrap_or_default().trim();
    let (kind, encoding) = media_type.split_at_checked(16).unwrap_or((media_type, ""));
    kind.eq_ignore_ascii_case("application/grpc")
        && (encoding.is_empty() || encoding.starts_with('+'))
}

/// A status message as gRPC's HTTP/2 protocol has it: all but printable ASCII, and the percent sign, as `%XX`.
fn grpc_message(text: &str) -> String {
    let mut message = String::with_capacity(text.len());
    for byte in text.bytes() {
        if matches!(byte, b' '..=b'~') && byte != b'%' {
            message.push(char::from(byte));
        } else {
            message.push_str(&format!("%{byte:02X}"));
        }
    }
    message
}

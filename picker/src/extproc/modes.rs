//! How a proxy sends bodies, and how the end of a response is known to this picker.

use envoy_types::pb::envoy::extensions::filters::http::ext_proc::v3::processing_mode::BodySendMode;
use envoy_types::pb::envoy::service::ext_proc::v3::ProtocolConfiguration;

/// How the body of one half comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BodyMode {
    /// Not at all.
    Unsent,
    /// Piece by piece, each answered by itself, and none before the headers are answered. A mode that is not known is
    /// taken for this one: an answer to each message is what every mode but full duplex wants.
    Streamed,
    /// In one message, after the headers are answered and before they go on.
    Buffered {
        /// Whether a message without an end is the beginning of a body whose rest is not shown.
        partial: bool,
    },
    /// Piece by piece, given back by us whenever we like.
    Duplex {
        /// Whether each piece is a message of gRPC, which must not be cut.
        messages: bool,
    },
}

/// How both bodies come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Modes {
    /// From the client.
    pub(super) request: BodyMode,
    /// From the server.
    pub(super) response: BodyMode,
}

/// How the end of a response is known, as the proxy's configuration says by the call's metadata.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Follow {
    /// The response passes through this stream.
    Full,
    /// This stream ends when the response does, without showing it.
    Watched,
    /// Another stream, of a filter that only watches, shows the headers of the response and ends with it.
    WatchFilter,
    /// Nothing shows it.
    Released,
}

impl Modes {
    /// What the Inference Extension asks of gateways, for those that do not say what they do.
    pub(super) const UNSAID: Self = Self {
        request: BodyMode::Duplex { messages: false },
        response: BodyMode::Duplex { messages: false },
    };

    pub(super) fn of(config: &ProtocolConfiguration) -> Self {
        Self {
            request: BodyMode::of(config.request_body_mode),
            response: BodyMode::of(config.response_body_mode),
        }
    }
}

impl BodyMode {
    fn of(mode: i32) -> Self {
        match BodySendMode::try_from(mode) {
            Ok(BodySendMode::None) => Self::Unsent,
            Ok(BodySendMode::Streamed) | Err(_) => Self::Streamed,
            Ok(BodySendMode::Buffered) => Self::Buffered { partial: false },
            Ok(BodySendMode::BufferedPartial) => Self::Buffered { partial: true },
            Ok(BodySendMode::FullDuplexStreamed) => Self::Duplex { messages: false },
            Ok(BodySendMode::Grpc) => Self::Duplex { messages: true },
        }
    }
}

impl Follow {
    /// The value of the metadata `x-pointsman-follow`.
    pub(super) fn parse(text: &str) -> Option<Self> {
        match text {
            "full" => Some(Self::Full),
            "watched" => Some(Self::Watched),
            "watch-filter" => Some(Self::WatchFilter),
            "released" => Some(Self::Released),
            _ => None,
        }
    }
}

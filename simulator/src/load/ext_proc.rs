//! Load for a picker itself: both halves of each request on ext_proc streams, as Envoy speaks it.

mod exchange;
mod message;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use envoy_types::pb::envoy::service::ext_proc::v3::external_processor_client::ExternalProcessorClient;
use tokio::time::{Instant, timeout};
use tonic::metadata::{AsciiMetadataKey, MetadataMap, MetadataValue};
use tonic::transport::{Channel, Endpoint, Uri};

use super::content::{Ask, Content};
use super::conversation::Conversation;
use super::request::Outcome;
use super::{Api, LoadError, LoadPlan};
use crate::workload::Arrival;

use exchange::{Asking, Call};
use message::Words;

/// How a response is followed, which the configuration of a proxy decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Follow {
    /// Both bodies pass through the picker (`FULL_DUPLEX_STREAMED`)
    Full,
    /// A pick filter that the picker asks for the request's body (standalone mode override), and a watch filter in observability
    /// mode, whose stream has the same request id and ends with the response
    Watched,
    /// The request's half alone; no stream is left when it is answered
    Released,
}

/// A picker to speak to, and how.
#[derive(Clone, Debug)]
pub struct ExtProc {
    /// Its `HOST:PORT`.
    pub server: String,
    /// The `:authority` of the gRPC calls: with Envoy the name of the picker's cluster, unless its configuration names another.
    pub authority: String,
    /// Metadata of the gRPC calls.
    pub metadata: Vec<(String, String)>,
    /// How responses are followed.
    pub follow: Follow,
    /// From one chunk of a response to the next; zero sends all at once.
    pub chunk_interval: Duration,
    /// The most bytes of a request's body in one message.
    pub frame_bytes: usize,
    /// Connections, each asked in turn.
    pub connections: usize,
}

/// By which a proxy tells Pointsman how the end of a response will be known; other pickers take no notice.
const FOLLOW: &str = "x-pointsman-follow";
/// The metadata of the filter that watches.
const WATCHING: &[(&str, &str)] = &[(FOLLOW, "watching")];

impl Follow {
    /// The metadata of the filter that asks for the pick.
    const fn picking(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Full => &[],
            Self::Watched => &[(FOLLOW, "watch-filter"), ("x-pointsman-body", "ask")],
            Self::Released => &[(FOLLOW, "released")],
        }
    }
}

impl ExtProc {
    /// The most bytes of a body in one message of Envoy's: `per_connection_buffer_limit_bytes`, by default.
    pub const FRAME_BYTES: usize = 1 << 20;

    /// As Envoy with its cluster called `picker`: full, one connection, frames of [`Self::FRAME_BYTES`], chunks at once.
    #[must_use]
    pub fn new(server: &str) -> Self {
        Self {
            server: server.to_owned(),
            authority: "picker".to_owned(),
            metadata: Vec::new(),
            follow: Follow::Full,
            chunk_interval: Duration::ZERO,
            frame_bytes: Self::FRAME_BYTES,
            connections: 1,
        }
    }
}

/// Windows of HTTP/2 towards the picker, in bytes, as in `deploy/envoy/pointsman.yaml`.
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;
/// The largest answer taken, in bytes: a picker may give a whole body back in one message.
const MESSAGE_MAX_BYTES: usize = 64 << 20;

/// The proxy that the picker sees.
#[derive(Clone)]
pub(super) struct Proxy(Arc<State>);

struct State {
    to: ExtProc,
    api: Api,
    content: Content,
    metadata: MetadataMap,
    timeout: Duration,
    clients: Vec<ExternalProcessorClient<Channel>>,
    next: AtomicUsize,
    /// Tells the request ids of this run from those of others.
    run: u64,
}

impl Proxy {
    /// Connects at the first request.
    pub(super) fn new(to: &ExtProc, plan: &LoadPlan) -> Result<Self, LoadError> {
        let origin: Uri = format!("http://{}", to.authority)
            .parse()
            .map_err(|error| wrong("authority", &to.authority, &error, "HOST or HOST:PORT"))?;
        let uri = format!("http://{}", to.server);
        let endpoint = Endpoint::from_shared(uri)
            .map_err(|error| wrong("ext_proc", &to.server, &error, "HOST:PORT"))?
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .tcp_nodelay(true);
        let client = || {
            ExternalProcessorClient::with_origin(endpoint.connect_lazy(), origin.clone())
                .max_decoding_message_size(MESSAGE_MAX_BYTES)
        };
        let mut metadata = MetadataMap::new();
        // What Envoy adds to each call of its own.
        metadata.insert("x-envoy-internal", MetadataValue::from_static("true"));
        metadata.insert("x-forwarded-for", MetadataValue::from_static("127.0.0.1"));
        for (name, value) in &to.metadata {
            let key: AsciiMetadataKey = name
                .parse()
                .map_err(|error| wrong("metadata", name, &error, "the name of a header"))?;
            let value = value
                .parse()
                .map_err(|error| wrong("metadata", value, &error, "the value of a header"))?;
            metadata.insert(key, value);
        }
        Ok(Self(Arc::new(State {
            to: to.clone(),
            api: plan.api,
            content: Content::of(plan),
            metadata,
            timeout: plan.timeout,
            clients: (0..to.connections.max(1)).map(|_| client()).collect(),
            next: AtomicUsize::new(0),
            run: run_id(),
        })))
    }

    /// Asks for request `number` and goes with it to the end of its response. Times count from `due`, or from now.
    pub(super) async fn send(
        &self,
        number: u64,
        arrival: &Arrival,
        due: Option<Instant>,
    ) -> Outcome {
        let state = &*self.0;
        let due = due.unwrap_or_else(Instant::now);
        let conversation = Conversation::open(number, arrival, &state.content.workload);
        let ask = Ask {
            conversation: &conversation,
            arrival,
            output_tokens: arrival.output_tokens,
        };
        let words = Words::of(state.run, number, &ask, &state.content, state.api);
        let mut outcome = Outcome {
            lag: due.elapsed(),
            ..Outcome::default()
        };
        let exchange = self.exchange(&words, arrival.output_tokens, &mut outcome);
        outcome.failure = match timeout(state.timeout, exchange).await {
            Ok(Ok(ended)) => {
                outcome.e2e = ended - due;
                outcome.output_tokens = u64::from(arrival.output_tokens);
                None
            }
            Ok(Err(failure)) => Some(failure),
            Err(_) => Some("timeout".into()),
        };
        outcome
    }

    /// Goes through request and response; returns when the response has ended.
    async fn exchange(
        &self,
        words: &Words,
        chunks: u32,
        outcome: &mut Outcome,
    ) -> Result<Instant, String> {
        let state = &*self.0;
        let asking = Asking {
            words,
            follow: state.to.follow,
            frame_bytes: state.to.frame_bytes,
            chunks,
            chunk_interval: state.to.chunk_interval,
        };
        let follow = state.to.follow;
        asking.pick(self.call(follow.picking()), outcome).await?;
        if follow == Follow::Watched {
            let destination = outcome.server.as_deref().unwrap_or_default();
            return asking.watch(self.call(WATCHING), destination).await;
        }
        Ok(Instant::now())
    }

    /// A gRPC call of a filter, with the metadata of its configuration, on the connection whose turn it is.
    fn call(&self, initial_metadata: &[(&'static str, &'static str)]) -> Call {
        let state = &*self.0;
        let turn = state.next.fetch_add(1, Ordering::Relaxed) % state.clients.len();
        let mut metadata = state.metadata.clone();
        for &(name, value) in initial_metadata {
            metadata.insert(name, MetadataValue::from_static(value));
        }
        Call {
            client: state.clients[turn].clone(),
            metadata,
        }
    }
}

/// The time in microseconds, mixed with the process: no other run has the same.
fn run_id() -> u64 {
    let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let micros = since_1970.map_or(0, |time| time.as_micros() as u64);
    micros.rotate_left(16) ^ u64::from(std::process::id())
}

fn wrong(
    field: &'static str,
    value: &str,
    error: &dyn std::fmt::Display,
    remedy: &'static str,
) -> LoadError {
    LoadError::Call {
        field,
        value: value.to_owned(),
        error: error.to_string(),
        remedy,
    }
}

//! The ext_proc service: one gRPC stream for each HTTP request that the proxy asks about.

mod attributes;
mod body;
mod conformance;
mod exchange;
mod metrics;
mod modes;
mod reply;
mod stream;
mod watch;

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use envoy_types::pb::envoy::service::ext_proc::v3::ProcessingRequest;
use envoy_types::pb::envoy::service::ext_proc::v3::external_processor_server::{
    ExternalProcessor, ExternalProcessorServer,
};
use tokio_util::sync::CancellationToken;
use tonic::codegen::{Body, Service, StdError, http};
use tonic::server::NamedService;
use tonic::transport::server::TcpConnectInfo;
use tonic::{Request, Response, Status, Streaming};
use tracing::warn;

use self::body::Budget;
use self::exchange::{Caller, Exchange};
use self::metrics::Missed;
use self::modes::Follow;
use self::stream::{ExchangeStream, Talk};
use self::watch::{WATCH_WAIT, Watcher, Watches};
use crate::driver::Pools;

pub use self::attributes::Trust;
pub use self::metrics::EdgeMetrics;
pub use self::stream::Inflight;

/// The largest message accepted: a proxy sends bodies in pieces as large as its connection buffer, 1 MiB by default,
/// and 64 MiB in the largest configuration that was tried.
const MESSAGE_MAX_BYTES: usize = 64 << 20;
/// The bytes of JSON that are read in a millisecond, on a core much slower than any of today.
const SCANNED_PER_MS: usize = 200 << 10;

/// How this edge behaves.
#[derive(Clone, Copy, Debug)]
pub struct EdgeSettings {
    /// The most bytes of a request's body that are held for its pick.
    pub body_limit: usize,
    /// The most bytes of bodies that all requests together hold.
    pub bodies_limit: usize,
    /// How long the rest of a body is waited for after its headers.
    pub body_wait: Duration,
    /// How long a pick may take, once its request is there.
    pub pick_budget: Duration,
    /// Which headers of clients are believed.
    pub trust: Trust,
    /// How many further endpoints a pick names, for a proxy that can try them.
    pub fallbacks: usize,
    /// Whether the list of models is answered here, from what the pool's servers list together.
    pub catalogue: bool,
    /// Whether a proxy that sends no body by itself lets itself be asked for it, though its call does not say so.
    pub ask_for_body: bool,
}

/// What all streams share.
#[derive(Debug)]
struct Surroundings {
    pools: Arc<Pools>,
    settings: EdgeSettings,
    metrics: EdgeMetrics,
    budget: Budget,
    watches: Watches,
}

/// Answers each stream by the pool it is for. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Edge {
    shared: Arc<Surroundings>,
    inflight: Inflight,
    draining: CancellationToken,
}

impl Surroundings {
    fn new(pools: Arc<Pools>, settings: EdgeSettings, metrics: EdgeMetrics) -> Self {
        Self {
            pools,
            settings,
            budget: Budget::new(settings.bodies_limit, metrics.body_bytes.clone()),
            metrics,
            watches: Watches::default(),
        }
    }
}

impl EdgeSettings {
    /// The most bytes of a body shown at once that are read: as many as fit the budget of a pick.
    fn scanned_max(&self) -> usize {
        let budget_ms = usize::try_from(self.pick_budget.as_millis()).unwrap_or(usize::MAX);
        self.body_limit
            .min(budget_ms.saturating_mul(SCANNED_PER_MS))
    }
}

impl Edge {
    /// An edge before `pools`; when `draining` is cancelled it closes each stream by whose end nothing is lost.
    #[must_use]
    pub fn new(
        pools: Arc<Pools>,
        settings: EdgeSettings,
        metrics: EdgeMetrics,
        draining: CancellationToken,
    ) -> Self {
        Self {
            shared: Arc::new(Surroundings::new(pools, settings, metrics)),
            inflight: Inflight::default(),
            draining,
        }
    }

    /// The gRPC service.
    #[must_use]
    pub fn service(&self) -> WithAuthority<ExternalProcessorServer<Self>> {
        WithAuthority(
            ExternalProcessorServer::new(self.clone())
                .max_decoding_message_size(MESSAGE_MAX_BYTES)
                .max_encoding_message_size(MESSAGE_MAX_BYTES),
        )
    }

    /// Open streams whose end would lose something.
    #[must_use]
    pub fn inflight(&self) -> &Inflight {
        &self.inflight
    }

    /// Gives up picks whose watching stream does not come, for ever.
    pub async fn run(&self) {
        let mut ticks = tokio::time::interval(WATCH_WAIT / 5);
        loop {
            ticks.tick().await;
            let expired = self.shared.watches.expire(self.shared.pools.clock().now());
            if let Some(flight) = expired.first() {
                warn!(
                    request = %flight.request_id(),
                    picks = expired.len(),
                    "no watching stream came for a pick. Either its client went away at once, or the proxy has no filter \
                     that calls with x-pointsman-follow: watching; see deploy/envoy/pointsman.yaml"
                );
            }
            for _ in &expired {
                self.shared.metrics.on_missed(Missed::NotWatched);
            }
        }
    }
}

#[tonic::async_trait]
impl ExternalProcessor for Edge {
    type ProcessStream = ExchangeStream;

    async fn process(
        &self,
        request: Request<Streaming<ProcessingRequest>>,
    ) -> Result<Response<ExchangeStream>, Status> {
        let edge = self.shared.clone();
        let (talk, entered) = if metadata(&request, FOLLOW) == Some(WATCHING) {
            (Talk::Watch(Watcher::new(edge)), None)
        } else {
            let mut caller = caller_of(&request);
            caller.may_ask |= self.shared.settings.ask_for_body;
            let exchange = Box::new(Exchange::new(edge, caller));
            (Talk::Pick(exchange), Some(self.inflight.enter()))
        };
        let (shared, draining) = (self.shared.clone(), self.draining.clone());
        let messages = request.into_inner();
        let stream = ExchangeStream::new(messages, talk, shared, entered, draining);
        Ok(Response::new(stream))
    }
}

/// The metadata by which a proxy says how the end of a response will be known.
const FOLLOW: &str = "x-pointsman-follow";
/// The value of a stream that does not ask, but watches a request that was picked.
const WATCHING: &str = "watching";

/// What the gRPC call says of itself, and of the pool it is for.
fn caller_of(request: &Request<Streaming<ProcessingRequest>>) -> Caller {
    let extensions = request.extensions();
    let local = extensions
        .get::<TcpConnectInfo>()
        .and_then(|info| info.local_addr);
    Caller {
        port: local.map(|address| address.port()),
        authority: extensions
            .get::<Authority>()
            .map(|authority| authority.0.clone()),
        pool: metadata(request, "x-pointsman-pool").map(str::to_owned),
        attributes: Vec::new(),
        follow: metadata(request, FOLLOW).and_then(Follow::parse),
        may_ask: metadata(request, "x-pointsman-body") == Some("ask"),
    }
}

fn metadata<'a, T>(request: &'a Request<T>, name: &str) -> Option<&'a str> {
    request.metadata().get(name)?.to_str().ok()
}

/// The `:authority` of a call, which tonic does not hand on by itself.
#[derive(Clone, Debug)]
struct Authority(String);

/// A service that sees the `:authority` of its calls.
#[derive(Clone, Debug)]
pub struct WithAuthority<S>(S);

impl<S: NamedService> NamedService for WithAuthority<S> {
    const NAME: &'static str = S::NAME;
}

impl<S, B> Service<http::Request<B>> for WithAuthority<S>
where
    S: Service<http::Request<B>, Error = Infallible>,
    B: Body + Send + 'static,
    B::Error: Into<StdError> + Send + 'static,
{
    type Response = S::Response;
    type Error = Infallible;
    type Future = S::Future;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, mut request: http::Request<B>) -> Self::Future {
        if let Some(authority) = request.uri().authority() {
            let authority = Authority(authority.to_string());
            request.extensions_mut().insert(authority);
        }
        self.0.call(request)
    }
}

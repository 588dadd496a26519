//! The ext_proc service: one gRPC stream for each HTTP request that the proxy asks about.

mod attributes;
mod exchange;
mod reply;
mod stream;

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};

use envoy_types::pb::envoy::service::ext_proc::v3::ProcessingRequest;
use envoy_types::pb::envoy::service::ext_proc::v3::external_processor_server::{
    ExternalProcessor, ExternalProcessorServer,
};
use tonic::codegen::{Body, Service, StdError, http};
use tonic::server::NamedService;
use tonic::transport::server::TcpConnectInfo;
use tonic::{Request, Response, Status, Streaming};

use self::exchange::{Caller, Exchange};
use self::stream::ExchangeStream;
use crate::driver::Pools;

pub use self::stream::Inflight;

/// The largest message accepted: a proxy sends bodies in pieces as large as its connection buffer, 1 MiB by default,
/// and 64 MiB in the largest configuration that was tried.
const MESSAGE_MAX_BYTES: usize = 64 << 20;

/// Answers each stream by the pool it is for.
#[derive(Debug)]
pub struct Edge {
    pools: Arc<Pools>,
    inflight: Inflight,
    body_limit: usize,
}

impl Edge {
    /// The gRPC service; `inflight` counts its open streams, and `body_limit` is the most bytes of a request's body that are
    /// held for its pick.
    #[must_use]
    pub fn service(
        pools: Arc<Pools>,
        inflight: Inflight,
        body_limit: usize,
    ) -> WithAuthority<ExternalProcessorServer<Self>> {
        let server = ExternalProcessorServer::new(Self {
            pools,
            inflight,
            body_limit,
        });
        WithAuthority(
            server
                .max_decoding_message_size(MESSAGE_MAX_BYTES)
                .max_encoding_message_size(MESSAGE_MAX_BYTES),
        )
    }
}

#[tonic::async_trait]
impl ExternalProcessor for Edge {
    type ProcessStream = ExchangeStream;

    async fn process(
        &self,
        request: Request<Streaming<ProcessingRequest>>,
    ) -> Result<Response<ExchangeStream>, Status> {
        let caller = caller_of(&request);
        let exchange = Exchange::new(self.pools.clone(), caller, self.body_limit);
        let stream = ExchangeStream::new(
            request.into_inner(),
            exchange,
            self.pools.clock(),
            self.inflight.enter(),
        );
        Ok(Response::new(stream))
    }
}

/// What the gRPC call says of the pool it is for.
fn caller_of(request: &Request<Streaming<ProcessingRequest>>) -> Caller {
    let extensions = request.extensions();
    let local = extensions
        .get::<TcpConnectInfo>()
        .and_then(|info| info.local_addr);
    let metadata = request.metadata().get("x-pointsman-pool");
    Caller {
        port: local.map(|address| address.port()),
        authority: extensions
            .get::<Authority>()
            .map(|authority| authority.0.clone()),
        pool: metadata
            .and_then(|value| value.to_str().ok())
            .map(str::to_owned),
    }
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

//! A no-op ext_proc server: what the protocol costs by itself, with the libraries and settings of the picker's server.
//!
//! It holds a request until its last frame, answers the headers with one fixed endpoint, and gives every frame back as it came.
//! A proxy that sends no bodies is asked for that of the request by a mode override; one that only watches gets no answer.

pub(crate) mod echo;

use std::error::Error;
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::pin::Pin;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use clap::Args;
use envoy_types::pb::envoy::service::ext_proc::v3::external_processor_server::{
    ExternalProcessor, ExternalProcessorServer,
};
use envoy_types::pb::envoy::service::ext_proc::v3::{ProcessingRequest, ProcessingResponse};
use futures::Stream;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinHandle;
use tonic::metadata::MetadataMap;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, Streaming};

use echo::Echo;

// HTTP/2 as the picker's server speaks it, whose tests compare these with its own; `picker/src/server/http2.rs` gives the reasons.
/// The window of a stream, in bytes.
pub const STREAM_WINDOW_BYTES: u32 = 1 << 20;
/// The window of a connection, in bytes.
pub const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;
/// What the metadata of a call may take, in bytes.
pub const HEADERS_MAX_BYTES: u32 = 256 << 10;
/// Calls that may come and be cancelled before they were looked at.
pub const CANCELLED_UNSEEN_MAX: usize = 8192;
/// How often a proxy is asked whether it is there.
pub const PING_EVERY: Duration = Duration::from_secs(10);
/// The largest message accepted and sent, in bytes: that of the picker's server.
const MESSAGE_MAX_BYTES: usize = 64 << 20;

/// Answer ext_proc without a thought: the server beside which a picker is measured.
#[derive(Args, Clone, Debug)]
pub struct Arguments {
    /// The port on 127.0.0.1; 0 takes a free one
    #[arg(long, value_name = "P", default_value_t = 9002)]
    port: u16,
    /// The endpoint that every request is sent to
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:8000")]
    endpoint: SocketAddr,
}

impl Arguments {
    /// Serves until SIGTERM or SIGINT.
    ///
    /// # Errors
    /// The port is taken.
    pub async fn run(self) -> Result<ExitCode, Box<dyn Error>> {
        let noop = Noop::start(self.port, self.endpoint, 0).await;
        let noop = noop.map_err(|error| format!("port {}: {error}; choose another", self.port))?;
        let mut out = io::stdout().lock();
        writeln!(out, "noop listens on {}", noop.address)?;
        out.flush()?;
        drop(out);
        let mut terminated = signal(SignalKind::terminate())?;
        let mut interrupted = signal(SignalKind::interrupt())?;
        tokio::select! {
            _ = terminated.recv() => {}
            _ = interrupted.recv() => {}
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// A running no-op server; dropping it ends it.
#[derive(Debug)]
pub struct Noop {
    /// Where it listens.
    pub address: SocketAddr,
    record: Arc<Record>,
    serving: JoinHandle<()>,
}

/// A gRPC stream as it reached the server.
#[derive(Clone, Debug)]
pub struct Call {
    /// The metadata of the call.
    pub metadata: MetadataMap,
    /// Its messages, in order.
    pub messages: Vec<ProcessingRequest>,
    /// Whether it has ended, by either side.
    pub ended: bool,
}

impl Noop {
    /// Starts a server on `port` of 127.0.0.1 (0: a free one) that sends all requests to `endpoint` and remembers its first
    /// `remember` streams.
    ///
    /// # Errors
    /// The port is taken.
    pub async fn start(port: u16, endpoint: SocketAddr, remember: usize) -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", port)).await?;
        let address = listener.local_addr()?;
        let record = Arc::new(Record {
            remember,
            calls: Mutex::default(),
        });
        let service = ExternalProcessorServer::new(Service {
            endpoint,
            record: record.clone(),
        });
        let service = service
            .max_decoding_message_size(MESSAGE_MAX_BYTES)
            .max_encoding_message_size(MESSAGE_MAX_BYTES);
        let (health, health_service) = tonic_health::server::health_reporter();
        health
            .set_serving::<ExternalProcessorServer<Service>>()
            .await;
        let serving = Server::builder()
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .max_concurrent_streams(None)
            .http2_max_header_list_size(HEADERS_MAX_BYTES)
            .http2_max_pending_accept_reset_streams(Some(CANCELLED_UNSEEN_MAX))
            .http2_max_local_error_reset_streams(None)
            .http2_keepalive_interval(Some(PING_EVERY))
            .add_service(service)
            .add_service(health_service)
            .serve_with_incoming(TcpIncoming::from(listener).with_nodelay(Some(true)));
        let serving = tokio::spawn(async move {
            if let Err(error) = serving.await {
                tracing::error!(%error, "the no-op server has ended");
            }
        });
        Ok(Self {
            address,
            record,
            serving,
        })
    }

    /// The remembered streams, in the order in which they began.
    #[must_use]
    pub fn calls(&self) -> Vec<Call> {
        self.record.lock().clone()
    }
}

impl Drop for Noop {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// What is remembered of streams.
#[derive(Debug)]
struct Record {
    remember: usize,
    calls: Mutex<Vec<Call>>,
}

impl Record {
    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Call>> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The place of a new stream; `None` if it is not to be remembered.
    fn open(&self, metadata: &MetadataMap) -> Option<usize> {
        if self.remember == 0 {
            return None;
        }
        let mut calls = self.lock();
        (calls.len() < self.remember).then(|| {
            calls.push(Call {
                metadata: metadata.clone(),
                messages: Vec::new(),
                ended: false,
            });
            calls.len() - 1
        })
    }
}

#[derive(Debug)]
struct Service {
    endpoint: SocketAddr,
    record: Arc<Record>,
}

#[tonic::async_trait]
impl ExternalProcessor for Service {
    type ProcessStream = EchoStream;

    async fn process(
        &self,
        request: Request<Streaming<ProcessingRequest>>,
    ) -> Result<Response<EchoStream>, Status> {
        let remembered = self.record.open(request.metadata());
        Ok(Response::new(EchoStream {
            messages: request.into_inner(),
            echo: Echo::new(self.endpoint),
            record: self.record.clone(),
            remembered,
        }))
    }
}

/// The answers to one stream of messages, with no task and no channel of its own.
#[derive(Debug)]
struct EchoStream {
    messages: Streaming<ProcessingRequest>,
    echo: Echo,
    record: Arc<Record>,
    remembered: Option<usize>,
}

impl EchoStream {
    fn remember(&self, change: impl FnOnce(&mut Call)) {
        if let Some(place) = self.remembered
            && let Some(call) = self.record.lock().get_mut(place)
        {
            change(call);
        }
    }
}

impl Drop for EchoStream {
    fn drop(&mut self) {
        self.remember(|call| call.ended = true);
    }
}

impl Stream for EchoStream {
    type Item = Result<ProcessingResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        loop {
            if let Some(answer) = this.echo.answers.pop_front() {
                return Poll::Ready(Some(Ok(answer)));
            }
            match Pin::new(&mut this.messages).poll_next(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Some(Ok(message))) => {
                    this.remember(|call| call.messages.push(message.clone()));
                    this.echo.on_message(message);
                }
                Poll::Ready(None | Some(Err(_))) => return Poll::Ready(None),
            }
        }
    }
}

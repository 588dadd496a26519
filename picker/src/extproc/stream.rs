//! One gRPC stream: messages in, through the exchange, messages out, with no task and no channel of its own.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use envoy_types::pb::envoy::service::ext_proc::v3::{ProcessingRequest, ProcessingResponse};
use futures::Stream;
use picker_core::time::Instant;
use tokio::time::{Sleep, sleep};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::{Code, Status, Streaming};

use super::Surroundings;
use super::exchange::Exchange;
use super::watch::Watcher;

/// Counts streams whose end would lose something. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Inflight(Arc<AtomicUsize>);

impl Inflight {
    /// Such streams that are open.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    /// One more stream, until the result is dropped.
    pub(super) fn enter(&self) -> Entered {
        self.0.fetch_add(1, Ordering::Relaxed);
        Entered(self.0.clone())
    }
}

/// One open stream.
#[derive(Debug)]
pub(super) struct Entered(Arc<AtomicUsize>);

impl Drop for Entered {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What a stream is about.
#[derive(Debug)]
pub(super) enum Talk {
    /// A request that asks where to go.
    Pick(Box<Exchange>),
    /// A request that was picked, and is watched.
    Watch(Watcher),
}

/// The answers to one stream of messages.
#[derive(Debug)]
pub struct ExchangeStream {
    messages: Streaming<ProcessingRequest>,
    talk: Talk,
    edge: Arc<Surroundings>,
    /// Until nothing is lost by closing the stream.
    entered: Option<Entered>,
    /// Resolves when the process is to end; asked only once nothing is lost by closing the stream.
    draining: CancellationToken,
    drain: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
    watchdog: Option<(Instant, Pin<Box<Sleep>>)>,
    /// Nothing comes any more: after a message that cannot be read, the library would go on to read the rest as others.
    over: bool,
}

impl ExchangeStream {
    pub(super) fn new(
        messages: Streaming<ProcessingRequest>,
        talk: Talk,
        edge: Arc<Surroundings>,
        entered: Option<Entered>,
        draining: CancellationToken,
    ) -> Self {
        Self {
            messages,
            talk,
            edge,
            entered,
            draining,
            drain: None,
            watchdog: None,
            over: false,
        }
    }

    fn on_message(&mut self, message: ProcessingRequest) {
        let now = self.edge.pools.clock().now();
        match &mut self.talk {
            Talk::Pick(exchange) => {
                let decided = exchange.is_decided();
                exchange.on_message(now, message);
                if !decided && exchange.is_decided() {
                    let took = self.edge.pools.clock().now().saturating_since(now);
                    if took > self.edge.settings.pick_budget {
                        self.edge.metrics.on_late_pick();
                    }
                }
            }
            Talk::Watch(watcher) => watcher.on_message(message),
        }
    }

    fn poll_answer(&mut self) -> Option<ProcessingResponse> {
        match &mut self.talk {
            Talk::Pick(exchange) => exchange.poll_answer(),
            Talk::Watch(_) => None,
        }
    }

    fn on_end(&mut self) {
        match &mut self.talk {
            Talk::Pick(exchange) => exchange.on_end(),
            Talk::Watch(watcher) => watcher.on_end(),
        }
        self.entered = None;
        self.over = true;
    }

    /// Whether the exchange's time has come; if not, this task is woken when it does.
    fn poll_watchdog(&mut self, context: &mut Context<'_>) -> bool {
        let Talk::Pick(exchange) = &mut self.talk else {
            return false;
        };
        let Some(due) = exchange.poll_timeout() else {
            self.watchdog = None;
            return false;
        };
        let now = self.edge.pools.clock().now();
        let (_, timer) = match &mut self.watchdog {
            Some(set) if set.0 == due => set,
            unset => unset.insert((due, Box::pin(sleep(due.saturating_since(now))))),
        };
        if timer.as_mut().poll(context).is_pending() {
            return false;
        }
        self.watchdog = None;
        exchange.on_timeout(now.max(due));
        true
    }

    /// Whether the process is to end and nothing is lost by closing the stream.
    fn poll_leave(&mut self, context: &mut Context<'_>) -> bool {
        let may_leave = match &self.talk {
            Talk::Pick(exchange) => exchange.may_leave(),
            Talk::Watch(_) => true,
        };
        if !may_leave {
            return false;
        }
        self.entered = None;
        let draining = &self.draining;
        let drain = self
            .drain
            .get_or_insert_with(|| Box::pin(draining.clone().cancelled_owned()));
        drain.as_mut().poll(context).is_ready()
    }
}

impl Stream for ExchangeStream {
    type Item = Result<ProcessingResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        if this.over {
            return Poll::Ready(None);
        }
        loop {
            if let Some(answer) = this.poll_answer() {
                return Poll::Ready(Some(Ok(answer)));
            }
            match Pin::new(&mut this.messages).poll_next(context) {
                Poll::Ready(Some(Ok(message))) => this.on_message(message),
                Poll::Ready(None) => {
                    this.on_end();
                    return Poll::Ready(None);
                }
                Poll::Ready(Some(Err(status))) => {
                    // The proxy resets a stream whose client or server went away; anything else is a message that cannot be
                    // read, and closing in good order would have the proxy go on with half a body.
                    this.on_end();
                    if status.code() != Code::Cancelled {
                        this.edge.metrics.on_broken();
                    }
                    return Poll::Ready(Some(Err(status)));
                }
                Poll::Pending if this.poll_watchdog(context) => {}
                Poll::Pending if this.poll_leave(context) => {
                    this.on_end();
                    return Poll::Ready(None);
                }
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}

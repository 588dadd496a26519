//! One gRPC stream: messages in, through the exchange, messages out, with no task and no channel of its own.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use envoy_types::pb::envoy::service::ext_proc::v3::{ProcessingRequest, ProcessingResponse};
use futures::Stream;
use tonic::{Status, Streaming};

use super::exchange::Exchange;
use crate::driver::Clock;

/// Counts open streams. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Inflight(Arc<AtomicUsize>);

impl Inflight {
    /// Open streams.
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

/// The answers to one stream of messages.
#[derive(Debug)]
pub struct ExchangeStream {
    messages: Streaming<ProcessingRequest>,
    exchange: Exchange,
    clock: Clock,
    answers: VecDeque<ProcessingResponse>,
    _entered: Entered,
}

impl ExchangeStream {
    pub(super) fn new(
        messages: Streaming<ProcessingRequest>,
        exchange: Exchange,
        clock: Clock,
        entered: Entered,
    ) -> Self {
        Self {
            messages,
            exchange,
            clock,
            answers: VecDeque::new(),
            _entered: entered,
        }
    }
}

impl Stream for ExchangeStream {
    type Item = Result<ProcessingResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        loop {
            if let Some(answer) = this.answers.pop_front() {
                return Poll::Ready(Some(Ok(answer)));
            }
            match Pin::new(&mut this.messages).poll_next(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Some(Ok(message))) => {
                    let now = this.clock.now();
                    this.exchange.on_message(now, message, &mut this.answers);
                }
                // The proxy has reset the stream, since its client or its server went away; the flight ends with us.
                Poll::Ready(None | Some(Err(_))) => return Poll::Ready(None),
            }
        }
    }
}

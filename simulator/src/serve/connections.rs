//! The port of one server and the connections on it.

use std::pin::pin;
use std::sync::Arc;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::api::Api;

/// When the connections of a server end.
#[derive(Clone, Debug, Default)]
pub(super) struct Ends {
    /// The port closes; answers that have begun are finished.
    pub(super) close: CancellationToken,
    /// The port closes, and every connection breaks off.
    pub(super) stop: CancellationToken,
}

/// Accepts connections until told to end, and returns when all have ended.
pub(super) async fn accept(listener: TcpListener, api: Arc<Api>, ends: Ends) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = ends.stop.cancelled() => break,
            () = ends.close.cancelled() => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(serve(stream, Arc::clone(&api), ends.close.clone()));
                }
                // Out of file descriptors, or a client that left before it was accepted: let others finish first.
                Err(error) => {
                    tracing::warn!(%error, "a connection was not accepted");
                    tokio::task::yield_now().await;
                }
            },
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
        }
    }
    drop(listener);
    let finished = async { while connections.join_next().await.is_some() {} };
    tokio::select! {
        () = ends.stop.cancelled() => {}
        () = finished => {}
    }
    connections.shutdown().await;
}

async fn serve(stream: TcpStream, api: Arc<Api>, close: CancellationToken) {
    // A token is a small write: it must not wait for the acknowledgement of the one before.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "no TCP_NODELAY");
    }
    let service = service_fn(move |request| {
        let api = Arc::clone(&api);
        async move { Ok::<_, std::convert::Infallible>(api.answer(request).await) }
    });
    let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = close.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection broke off");
    }
}

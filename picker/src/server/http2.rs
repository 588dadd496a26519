//! HTTP/2 as the ports of ext_proc speak it: each setting with its reason.

use std::time::Duration;

use tonic::transport::Server;

/// What a stream may send before it was read: a body message of a proxy, which is as large as its connection buffer, 1 MiB
/// by default. It comes without waiting for us.
const STREAM_WINDOW_BYTES: u32 = 1 << 20;

/// What a connection may: sixteen such messages, so that one stream that is not read for a moment does not stop the others. Half
/// of it is also the budget of h2 for what small frames (under 256 bytes) weigh beyond their bytes while they wait to be
/// read; a connection that is over it is ended. So 32,768 may wait: ten for each of 3,000 streams.
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;

/// What the metadata of a call may take. A proxy may copy any header of a request there (Envoy: `grpc_initial_metadata`), and
/// takes 60 KiB of headers by default; this is four times that. A call with more is refused by itself; with a quarter more
/// again, h2 takes it for a flood and ends the connection.
const HEADERS_MAX_BYTES: u32 = 256 << 10;

/// How many calls may come and be cancelled before we have looked at them; at one more, h2 ends the connection and with it
/// every stream there. Its default of 20 is soon reached when we were paused for a moment, or the proxy's clients
/// leave in a crowd. Each holds a kilobyte until we look.
const CANCELLED_UNSEEN_MAX: usize = 8192;

/// How often a proxy is asked whether it is there. One that has vanished without a word (its machine lost, a network cut)
/// would otherwise hold its streams, and what they have booked, for ever.
const PING_EVERY: Duration = Duration::from_secs(10);

/// How long it may take to answer: longer than a busy proxy is paused.
const PING_TIMEOUT: Duration = Duration::from_secs(20);

/// A server with these settings, which has no services yet.
pub(super) fn server() -> Server {
    with_pings(PING_EVERY, PING_TIMEOUT)
}

fn with_pings(every: Duration, timeout: Duration) -> Server {
    Server::builder()
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        // A stream is a request that the gateway has admitted; a client that keeps to one connection would wait at a limit
        // without a word. What streams hold is bounded in bytes.
        .max_concurrent_streams(None)
        .http2_max_header_list_size(HEADERS_MAX_BYTES)
        .http2_max_pending_accept_reset_streams(Some(CANCELLED_UNSEEN_MAX))
        // The count is over the life of a connection, which may be weeks: at any limit, the frames that still come for calls
        // which we have ended would add up, and end it with every stream there.
        .http2_max_local_error_reset_streams(None)
        .http2_keepalive_interval(Some(every))
        .http2_keepalive_timeout(Some(timeout))
}

#[cfg(test)]
mod tests {
    use futures::StreamExt;
    use picker_core::Settings;
    use prometheus_client::registry::Registry;
    use simulator::noop;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::driver::{DriverMetrics, Pools};
    use crate::health::HealthService;
    use crate::server::incoming::at_once;
    use crate::shutdown::Readiness;

    #[test]
    fn the_server_to_measure_beside_has_the_same_settings() {
        let ours = (
            STREAM_WINDOW_BYTES,
            CONNECTION_WINDOW_BYTES,
            HEADERS_MAX_BYTES,
            CANCELLED_UNSEEN_MAX,
            PING_EVERY,
        );
        let its = (
            noop::STREAM_WINDOW_BYTES,
            noop::CONNECTION_WINDOW_BYTES,
            noop::HEADERS_MAX_BYTES,
            noop::CANCELLED_UNSEEN_MAX,
            noop::PING_EVERY,
        );
        assert_eq!(ours, its);
    }

    #[tokio::test]
    async fn a_proxy_that_does_not_answer_pings_is_let_go() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let settings = Settings {
            seed: 0,
            reading_interval_min: Duration::ZERO,
        };
        let metrics = DriverMetrics::register(&mut Registry::default());
        let (pools, _errands) = Pools::new(settings, 0, metrics);
        let health = HealthService::server(Readiness::new(pools));
        let soon = Duration::from_millis(1);
        let serving = with_pings(soon, soon)
            .add_service(health)
            .serve_with_incoming(at_once(listener).take(1));
        let proxy = async {
            let mut proxy = TcpStream::connect(address).await.expect("a connection");
            let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
            proxy.write_all(preface).await.expect("sent");
            let mut said = Vec::new();
            // It ends, by whatever end.
            drop(proxy.read_to_end(&mut said).await);
            said
        };
        let (served, said) = tokio::join!(serving, proxy);
        served.expect("it serves to the end of its listener");
        let ping = |frame: &[u8]| frame.starts_with(&[0, 0, 8, 6]);
        assert!(said.windows(4).any(ping), "{said:?}");
    }
}

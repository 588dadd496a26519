//! TLS on the ports of ext_proc, told from plaintext by the first byte of a connection.
//!
//! Nothing here spawns or waits on its own: [`Acceptor::accept`] is one connection's beginning, and whoever accepts
//! connections runs as many of them side by side as it likes.

mod certificate;
mod connection;
mod refusal;
mod tally;

use std::time::Duration;

use tokio::io::{self, AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

pub use self::certificate::{CertificateError, LeastVersion, Mounted, Served};
pub use self::connection::Connection;
pub use self::refusal::Refusal;
pub use self::tally::Tally;

use self::connection::Stream;

/// The first byte of a TLS connection: the content type of a handshake record (RFC 8446, 5.1).
const TLS: u8 = 22;
/// The first byte of an HTTP/2 connection in plaintext, of its preface `PRI * HTTP/2.0` (RFC 9113, 3.4).
const HTTP2: u8 = b'P';

/// Begins connections.
#[derive(Clone, Debug)]
pub struct Acceptor {
    certificate: Option<Served>,
    plaintext: bool,
}

impl Acceptor {
    /// Accepts TLS with this certificate, and plaintext beside it.
    #[must_use]
    pub fn both(certificate: Served) -> Self {
        Self {
            certificate: Some(certificate),
            plaintext: true,
        }
    }

    /// Accepts TLS alone, with this certificate.
    #[must_use]
    pub fn tls_only(certificate: Served) -> Self {
        Self {
            certificate: Some(certificate),
            plaintext: false,
        }
    }

    /// Accepts plaintext alone.
    #[must_use]
    pub fn plaintext_only() -> Self {
        Self {
            certificate: None,
            plaintext: true,
        }
    }

    /// A connection over which requests can come; `None` if the peer went away before it said anything, as TCP probes
    /// do.
    ///
    /// # Errors
    /// The [`Refusal`]; [`Refusal::Slow`] for a peer that is not `within` this time for its first byte, or for what has to
    /// follow it.
    pub async fn accept(
        &self,
        tcp: TcpStream,
        within: Duration,
    ) -> Result<Option<Connection>, Refusal> {
        let mut first = [0];
        match timeout(within, tcp.peek(&mut first)).await {
            Err(_) => return Err(Refusal::Slow(within)),
            Ok(Ok(1)) => {}
            // A probe may end with a reset, which is as good an end as any.
            Ok(_) => return Ok(None),
        }
        match (first[0], &self.certificate) {
            (TLS, None) => {
                say(tcp, TLS_ALERT, within).await;
                Err(Refusal::TlsIsOff)
            }
            (HTTP2, _) if !self.plaintext => {
                say(tcp, HTTP2_GOAWAY, within).await;
                Err(Refusal::PlaintextIsOff)
            }
            (TLS, Some(certificate)) => {
                let begun = timeout(within, begin_tls(tcp, certificate)).await;
                begun.unwrap_or(Err(Refusal::Slow(within)))
            }
            (_, _) => {
                let begun = timeout(within, Connection::begin(Stream::Plaintext(tcp))).await;
                begun.unwrap_or(Err(Refusal::Slow(within)))
            }
        }
    }
}

async fn begin_tls(tcp: TcpStream, certificate: &Served) -> Result<Option<Connection>, Refusal> {
    let acceptor = TlsAcceptor::from(certificate.current());
    let stream = acceptor.accept(tcp).await;
    let stream = stream.map_err(|error| Refusal::of_handshake(&error, certificate))?;
    Connection::begin(Stream::Tls(Box::new(stream))).await
}

/// A fatal alert, `handshake_failure` (RFC 8446, 6).
const TLS_ALERT: &[u8] = &[21, 3, 1, 0, 2, 2, 40];

/// Empty SETTINGS, and a GOAWAY with the error `INADEQUATE_SECURITY` and a text that some clients log (RFC 9113, 6.8).
const HTTP2_GOAWAY: &[u8] =
    b"\0\0\0\x04\0\0\0\0\0\0\0\x17\x07\0\0\0\0\0\0\0\0\0\0\0\0\x0cTLS is required";

/// What is still read of a peer that is refused: an HTTP/2 preface and a request, or a ClientHello.
const REFUSED_MAX_BYTES: u64 = 64 << 10;

/// Says why before the connection is closed, if the peer listens `within` this time. What it sends is read until it has
/// hung up: closing with unread bytes resets a connection, and the peer would see that alone.
async fn say(mut tcp: TcpStream, why: &[u8], within: Duration) {
    let told = async {
        tcp.write_all(why).await?;
        tcp.shutdown().await?;
        io::copy(&mut tcp.take(REFUSED_MAX_BYTES), &mut io::sink()).await
    };
    // The peer may be gone already, which needs no answer.
    drop(timeout(within, told).await);
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn a_peer_that_stops_is_refused_for_what_it_said() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let served = Served::self_signed(LeastVersion::Tls12).expect("a certificate");
        for (acceptor, said, expected) in [
            (Acceptor::both(served.clone()), &[][..], "slow"),
            (Acceptor::both(served.clone()), &[TLS, 3, 1], "slow"),
            (Acceptor::tls_only(served), &[HTTP2], "plaintext_is_off"),
            (Acceptor::plaintext_only(), &[TLS], "tls_is_off"),
            (Acceptor::plaintext_only(), b"PRI * H", "slow"),
            (Acceptor::plaintext_only(), b"PRI * HTTP/1", "no_preface"),
            (Acceptor::plaintext_only(), &[0], "no_preface"),
        ] {
            let mut peer = TcpStream::connect(address).await.expect("a connection");
            let (tcp, _) = listener.accept().await.expect("a connection");
            peer.write_all(said).await.expect("sent");
            if !said.is_empty() {
                tcp.readable().await.expect("it has come");
            }
            let refused = acceptor.accept(tcp, Duration::from_millis(1)).await;
            let refused = refused.expect_err("nothing has begun");
            assert_eq!(refused.kind(), expected, "{acceptor:?} {said:?}");
        }
    }

    #[test]
    fn the_goaway_is_as_long_as_it_says() {
        let (settings, goaway) = HTTP2_GOAWAY.split_at(9);
        assert_eq!(settings, [0, 0, 0, 4, 0, 0, 0, 0, 0]);
        let length = usize::from(goaway[2]);
        assert_eq!(goaway.len(), 9 + length);
        assert_eq!(goaway[3], 7, "the type of a GOAWAY");
        assert!(goaway.ends_with(b"\x0cTLS is required"));
    }
}

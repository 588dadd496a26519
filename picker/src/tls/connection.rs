//! A connection that has begun, in plaintext or in TLS.

use std::io::{IoSlice, Result as IoResult};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio_rustls::server::TlsStream;
use tonic::transport::server::{Connected, TcpConnectInfo};

use super::Refusal;

/// What a client of HTTP/2 sends first (RFC 9113, 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A connection over which requests can come: its peer has sent the preface of HTTP/2.
#[derive(Debug)]
pub struct Connection {
    stream: Stream,
    /// What of the preface the reader is still to be given.
    preface: &'static [u8],
    /// What is given back with the connection.
    _place: Option<OwnedSemaphorePermit>,
}

/// The bytes of a connection.
#[derive(Debug)]
pub(super) enum Stream {
    /// As they come from the network.
    Plaintext(TcpStream),
    /// After a handshake.
    Tls(Box<TlsStream<TcpStream>>),
}

impl Connection {
    /// The connection, once its peer has sent the preface; `None` if the peer went away before.
    ///
    /// # Errors
    /// [`Refusal::NoPreface`], with what came in its place.
    pub(super) async fn begin(stream: Stream) -> Result<Option<Self>, Refusal> {
        let mut connection = Self {
            stream,
            preface: &[],
            _place: None,
        };
        let mut bytes = [0; PREFACE.len()];
        let mut length = 0;
        while length < bytes.len() {
            match connection.read(&mut bytes[length..]).await {
                Ok(0) | Err(_) => return Ok(None),
                Ok(more) => length += more,
            }
            let begun = &bytes[..length];
            if !PREFACE.starts_with(begun) {
                return Err(Refusal::NoPreface(begun.escape_ascii().to_string()));
            }
        }
        connection.preface = PREFACE;
        Ok(Some(connection))
    }

    /// The same; when it ends, it gives back this place.
    #[must_use]
    pub fn in_place(self, place: OwnedSemaphorePermit) -> Self {
        Self {
            _place: Some(place),
            ..self
        }
    }

    /// What protects it: `plaintext` or `tls`.
    #[must_use]
    pub fn security(&self) -> &'static str {
        match self.stream {
            Stream::Plaintext(_) => "plaintext",
            Stream::Tls(_) => "tls",
        }
    }

    fn duplex(self: Pin<&mut Self>) -> Pin<&mut dyn Duplex> {
        match &mut self.get_mut().stream {
            Stream::Plaintext(tcp) => Pin::new(tcp),
            Stream::Tls(tls) => Pin::new(tls),
        }
    }
}

trait Duplex: AsyncRead + AsyncWrite + Unpin {}

impl<T: AsyncRead + AsyncWrite + Unpin> Duplex for T {}

/// The two ends of the connection are known, whatever protects it.
impl Connected for Connection {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        match &self.stream {
            Stream::Plaintext(tcp) => tcp.connect_info(),
            Stream::Tls(tls) => tls.get_ref().0.connect_info(),
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<IoResult<()>> {
        if self.preface.is_empty() {
            return self.duplex().poll_read(context, buffer);
        }
        let (given, rest) = self
            .preface
            .split_at(self.preface.len().min(buffer.remaining()));
        buffer.put_slice(given);
        self.preface = rest;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<IoResult<usize>> {
        self.duplex().poll_write(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<IoResult<()>> {
        self.duplex().poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<IoResult<()>> {
        self.duplex().poll_shutdown(context)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<IoResult<usize>> {
        self.duplex().poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        match &self.stream {
            Stream::Plaintext(tcp) => tcp.is_write_vectored(),
            Stream::Tls(tls) => tls.is_write_vectored(),
        }
    }
}

//! Why a connection did not begin, with what to do about it.

use std::io;
use std::time::Duration;

use thiserror::Error;
use tokio_rustls::rustls::{self, AlertDescription};

use super::certificate::Served;

/// Why a connection did not begin.
#[derive(Debug, Error)]
pub enum Refusal {
    /// Plaintext where TLS is required.
    #[error(
        "plaintext was refused, because of --require-tls; let the proxy speak TLS to this port (Envoy: a transport_socket of \
         type envoy.transport_sockets.tls in the picker's cluster; Istio: a DestinationRule with tls mode SIMPLE), or take \
         the flag away"
    )]
    PlaintextIsOff,
    /// TLS where it is switched off.
    #[error(
        "TLS was refused, because of --secure-serving=false; let the proxy speak plaintext HTTP/2 to this port (Envoy: no \
         transport_socket in the picker's cluster), or take the flag away"
    )]
    TlsIsOff,
    /// Something else in the place of HTTP/2's preface.
    #[error(
        "a connection that begins with `{0}` does not speak HTTP/2, which gRPC needs; let the proxy speak HTTP/2 to this port \
         (Envoy: http2_protocol_options in the picker's cluster), and point HTTP probes and scrapers at --metrics-port"
    )]
    NoPreface(String),
    /// The client does not accept the certificate.
    #[error(
        "the client does not accept our {origin} certificate (alert {alert:?}); give --cert-path a folder with one that it \
         trusts, or let it skip the verification (Envoy: a validation_context without trusted_ca; Istio: \
         insecureSkipVerify: true)"
    )]
    Untrusted {
        /// What the client said.
        alert: AlertDescription,
        /// Where the certificate comes from.
        origin: &'static str,
    },
    /// The client offers other protocols by ALPN than HTTP/2.
    #[error(
        "the client offers by ALPN only protocols other than h2, which gRPC needs; let it speak HTTP/2 to this port (Envoy: \
         http2_protocol_options in the picker's cluster, and no other alpn_protocols than h2)"
    )]
    NoHttp2,
    /// No version or cipher suite in common.
    #[error(
        "client and picker have no TLS version or cipher suite in common ({0}); let the client speak TLS 1.3, or 1.2 unless \
         --tls-min-version is above that"
    )]
    Incompatible(String),
    /// The handshake failed otherwise.
    #[error(
        "the TLS handshake failed: {0}; if the client expects another certificate, see --cert-path"
    )]
    Handshake(String),
    /// It took too long.
    #[error(
        "a connection was closed that had not begun within {0:?}; look for a client that is frozen, or that waits for the \
         server to speak first"
    )]
    Slow(Duration),
    /// Too many connections were beginning.
    #[error(
        "more than {0} connections were beginning, and the oldest was closed; look for a client that opens connections and \
         says nothing"
    )]
    Crowded(usize),
    /// Too many connections are open.
    #[error(
        "a connection was closed, since {0} are open already; let proxies use fewer connections with more streams each, or run \
         more replicas"
    )]
    Full(usize),
    /// The operating system gave no connection.
    #[error(
        "a connection could not be accepted: {0}; if too many files are open, raise the limit (ulimit -n, LimitNOFILE)"
    )]
    NotAccepted(io::Error),
}

impl Refusal {
    /// What the failure of a handshake under this certificate means.
    pub(super) fn of_handshake(error: &io::Error, certificate: &Served) -> Self {
        use AlertDescription as Alert;
        let reason = error.get_ref().and_then(|inner| inner.downcast_ref());
        match reason {
            Some(rustls::Error::NoApplicationProtocol) => Self::NoHttp2,
            Some(rustls::Error::PeerIncompatible(what)) => Self::Incompatible(format!("{what:?}")),
            Some(&rustls::Error::AlertReceived(
                alert @ (Alert::BadCertificate
                | Alert::UnsupportedCertificate
                | Alert::CertificateRevoked
                | Alert::CertificateExpired
                | Alert::CertificateUnknown
                | Alert::UnknownCA
                | Alert::AccessDenied),
            )) => Self::Untrusted {
                alert,
                origin: certificate.origin(),
            },
            _ => Self::Handshake(error.to_string()),
        }
    }

    /// The kind, as a label of metrics.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::PlaintextIsOff => "plaintext_is_off",
            Self::TlsIsOff => "tls_is_off",
            Self::NoPreface(_) => "no_preface",
            Self::Untrusted { .. } => "untrusted",
            Self::NoHttp2 => "no_http2",
            Self::Incompatible(_) => "incompatible",
            Self::Handshake(_) => "handshake",
            Self::Slow(_) => "slow",
            Self::Crowded(_) => "crowded",
            Self::Full(_) => "full",
            Self::NotAccepted(_) => "not_accepted",
        }
    }
}

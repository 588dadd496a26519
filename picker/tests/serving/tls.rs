//! TLS and plaintext on one port: what is accepted, what is refused with which words, and certificates that change.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::{Arc, Mutex};

use hyper_util::rt::TokioIo;
use rcgen::{CertifiedKey, KeyPair, generate_simple_self_signed};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::client::danger::{
    HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier,
};
use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::{
    self, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme, SupportedCipherSuite,
};
use tonic::transport::{Channel, Endpoint};
use tonic_health::pb::health_check_response::ServingStatus;

use crate::process::{ANY, Pointsman, command, eventually, free_port, health_over};

const FILE: &str = "endpoints: [{name: a, address: 127.0.0.1, port: 7001}]";
const EXT_PROC: &str = "envoy.service.ext_proc.v3.ExternalProcessor";

/// A client of TLS, and the certificate that it was shown last.
#[derive(Debug)]
struct Client {
    config: ClientConfig,
    shown: Arc<Unseen>,
}

/// Accepts any certificate, as gateways do, and keeps it.
#[derive(Debug)]
struct Unseen {
    provider: CryptoProvider,
    last: Mutex<Option<Vec<u8>>>,
}

impl Client {
    /// One that offers these protocols by ALPN and verifies nothing.
    fn offering(protocols: &[&str]) -> Self {
        let shown = Arc::new(Unseen {
            provider: ring::default_provider(),
            last: Mutex::default(),
        });
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let mut config = builder
            .with_safe_default_protocol_versions()
            .expect("versions")
            .dangerous()
            .with_custom_certificate_verifier(shown.clone())
            .with_no_client_auth();
        config.alpn_protocols = protocols.iter().map(|one| (*one).into()).collect();
        Self { config, shown }
    }

    /// One that trusts nobody.
    fn distrustful() -> Self {
        let mut client = Self::offering(&["h2"]);
        let stranger = generate_simple_self_signed(["elsewhere".to_owned()]).expect("one");
        let mut roots = RootCertStore::empty();
        roots.add(stranger.cert.into()).expect("a certificate");
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
        client.config = builder
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        client
    }

    /// One that speaks TLS 1.2 alone, with this cipher suite.
    fn of_tls12(suite: SupportedCipherSuite) -> Self {
        let mut client = Self::offering(&["h2"]);
        let provider = CryptoProvider {
            cipher_suites: vec![suite],
            ..ring::default_provider()
        };
        let builder = ClientConfig::builder_with_provider(Arc::new(provider));
        client.config = builder
            .with_protocol_versions(&[&rustls::version::TLS12])
            .expect("versions")
            .dangerous()
            .with_custom_certificate_verifier(client.shown.clone())
            .with_no_client_auth();
        client
    }

    async fn connect(&self, picker: SocketAddr) -> Result<Channel, tonic::transport::Error> {
        let connector = TlsConnector::from(Arc::new(self.config.clone()));
        let connect = tower::service_fn(move |_| {
            let connector = connector.clone();
            async move {
                let tcp = TcpStream::connect(picker).await?;
                let name = ServerName::from(picker.ip());
                Ok::<_, io::Error>(TokioIo::new(connector.connect(name, tcp).await?))
            }
        });
        let endpoint = Endpoint::from_shared(format!("http://{picker}")).expect("an address");
        endpoint.connect_with_connector(connect).await
    }

    /// The certificate that the picker shows now.
    async fn shown(&self, picker: SocketAddr) -> Option<Vec<u8>> {
        self.connect(picker).await.ok()?;
        self.shown.last.lock().expect("no panic").clone()
    }
}

impl ServerCertVerifier for Unseen {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        *self.last.lock().expect("no panic") = Some(end_entity.to_vec());
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

/// A folder as the kubelet mounts a Secret: `tls.crt` leads to `..data/tls.crt`, and `..data` to a folder that is
/// replaced whole.
struct Secret {
    folder: TempDir,
    versions: u32,
}

impl Secret {
    fn of(certificate: &str, key: &str) -> Self {
        let mut secret = Self {
            folder: tempfile::tempdir().expect("a folder"),
            versions: 0,
        };
        for name in ["tls.crt", "tls.key"] {
            let path = secret.folder.path().join(name);
            symlink(Path::new("..data").join(name), path).expect("a link");
        }
        secret.swap(certificate, key);
        secret
    }

    fn swap(&mut self, certificate: &str, key: &str) {
        self.versions += 1;
        let version = format!("..version-{}", self.versions);
        let folder = self.folder.path().join(&version);
        fs::create_dir(&folder).expect("a folder");
        fs::write(folder.join("tls.crt"), certificate).expect("a file");
        fs::write(folder.join("tls.key"), key).expect("a file");
        let aside = self.folder.path().join("..data_tmp");
        symlink(version, &aside).expect("a link");
        fs::rename(aside, self.folder.path().join("..data")).expect("the link is swapped");
    }

    fn flag(&self) -> String {
        format!("--cert-path={}", self.folder.path().display())
    }
}

fn certificate() -> CertifiedKey<KeyPair> {
    generate_simple_self_signed(["picker.test".to_owned()]).expect("a certificate")
}

#[tokio::test]
async fn tls_and_plaintext_are_served_on_every_port_of_ext_proc_and_health_over_both() {
    let own = free_port();
    let file = format!("{FILE}\nendpointPickerRef: {{name: epp, port: {{number: {own}}}}}");
    let picker = Pointsman::start(&[("ai/chat", &file)]);
    assert_eq!(picker.ext_proc.len(), 2);
    for &port in &picker.ext_proc {
        assert_eq!(ANY.destination(port).await, "127.0.0.1:7001", "plaintext");
        for protocols in [&["h2"][..], &["h2", "http/1.1"], &[]] {
            let client = Client::offering(protocols);
            let channel = client.connect(port).await.expect("TLS is accepted");
            let destination = ANY.destination_over(channel.clone()).await;
            assert_eq!(destination, "127.0.0.1:7001", "TLS with ALPN {protocols:?}");
            let status = health_over(channel, EXT_PROC).await;
            assert_eq!(
                status,
                Ok(ServingStatus::Serving),
                "TLS with ALPN {protocols:?}"
            );
        }
    }
    let (_, metrics) = picker.get("/metrics").await.expect("metrics");
    for expected in [
        "pointsman_connections_total{security=\"plaintext\"} 2",
        "pointsman_connections_total{security=\"tls\"} 6",
    ] {
        assert!(metrics.contains(expected), "{expected}: {metrics}");
    }
}

#[tokio::test]
async fn plaintext_is_refused_where_tls_is_required_and_the_log_says_what_to_do() {
    let picker = Pointsman::start_with(&[("ai/chat", FILE)], &["--require-tls"]);
    let port = picker.ext_proc[0];
    for _ in 0..3 {
        let mut proxy = TcpStream::connect(port).await.expect("a connection");
        let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
        proxy.write_all(preface).await.expect("sent");
        let mut answer = Vec::new();
        proxy.read_to_end(&mut answer).await.expect("a clean end");
        assert!(answer.ends_with(b"TLS is required"), "{answer:?}");
    }
    eventually("the refusal is logged", async || {
        picker
            .log()
            .contains("plaintext was refused, because of --require-tls")
    })
    .await;
    assert_eq!(
        picker.log().matches("--require-tls").count(),
        1,
        "once in a while is enough"
    );

    let channel = Client::offering(&["h2"]).connect(port).await;
    let destination = ANY
        .destination_over(channel.expect("TLS is accepted"))
        .await;
    assert_eq!(destination, "127.0.0.1:7001");
    let (_, metrics) = picker.get("/metrics").await.expect("metrics");
    let counted = "pointsman_connections_refused_total{reason=\"plaintext_is_off\"} 3";
    assert!(metrics.contains(counted), "{metrics}");
}

#[tokio::test]
async fn tls_is_refused_where_it_is_off_and_the_log_says_what_to_do() {
    let picker = Pointsman::start_with(&[("ai/chat", FILE)], &["--secure-serving=false"]);
    let port = picker.ext_proc[0];
    let refused = Client::offering(&["h2"]).connect(port).await;
    assert!(refused.is_err());
    eventually("the refusal is logged", async || {
        picker
            .log()
            .contains("TLS was refused, because of --secure-serving=false")
    })
    .await;
    assert_eq!(ANY.destination(port).await, "127.0.0.1:7001");
}

#[tokio::test]
async fn what_a_client_and_the_picker_disagree_on_is_logged_with_the_remedy() {
    let picker = Pointsman::start(&[("ai/chat", FILE)]);
    let port = picker.ext_proc[0];
    for (client, logged) in [
        (
            Client::distrustful(),
            "the client does not accept our self-signed certificate (alert UnknownCA); give --cert-path",
        ),
        (
            Client::offering(&["http/1.1"]),
            "the client offers by ALPN only protocols other than h2",
        ),
        (
            // For another kind of key than that of the picker.
            Client::of_tls12(ring::cipher_suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256),
            "no TLS version or cipher suite in common (NoCipherSuitesInCommon)",
        ),
    ] {
        assert!(client.connect(port).await.is_err(), "{logged}");
        eventually(logged, async || picker.log().contains(logged)).await;
    }
    let mut probe = TcpStream::connect(port).await.expect("a connection");
    probe
        .write_all(b"GET / HTTP/1.1\r\n\r\n")
        .await
        .expect("sent");
    let logged = "begins with `GET / HTTP/1.1\\r\\n\\r\\n` does not speak HTTP/2";
    eventually(logged, async || picker.log().contains(logged)).await;
}

#[tokio::test]
async fn the_least_version_of_tls_is_kept() {
    let suite = ring::cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256;
    let older = Client::of_tls12(suite);
    let picker = Pointsman::start(&[("ai/chat", FILE)]);
    assert!(older.connect(picker.ext_proc[0]).await.is_ok());

    let flags = ["--tls-min-version=VersionTLS13"];
    let picker = Pointsman::start_with(&[("ai/chat", FILE)], &flags);
    let port = picker.ext_proc[0];
    assert!(older.connect(port).await.is_err());
    let logged = "no TLS version or cipher suite in common";
    eventually(logged, async || picker.log().contains(logged)).await;
    assert!(Client::offering(&["h2"]).connect(port).await.is_ok());
}

#[tokio::test]
async fn a_certificate_that_is_swapped_is_served_and_a_bad_one_is_not() {
    let (first, second) = (certificate(), certificate());
    let mut secret = Secret::of(&first.cert.pem(), &first.signing_key.serialize_pem());
    let picker = Pointsman::start_with(&[("ai/chat", FILE)], &[&secret.flag()]);
    let port = picker.ext_proc[0];
    // One client for all: what it remembers of a session must not bring the old certificate back.
    let client = Client::offering(&["h2"]);
    assert_eq!(
        client.shown(port).await.as_deref(),
        Some(&**first.cert.der())
    );
    let early = client.connect(port).await.expect("TLS is accepted");

    secret.swap(&second.cert.pem(), &second.signing_key.serialize_pem());
    eventually("the second certificate is served", async || {
        client.shown(port).await.as_deref() == Some(&**second.cert.der())
    })
    .await;
    assert_eq!(ANY.destination_over(early).await, "127.0.0.1:7001");
    assert!(picker.log().contains("the certificate has changed"));

    secret.swap(&first.cert.pem(), &second.signing_key.serialize_pem());
    let path = secret.folder.path().join("tls.key");
    let logged = format!("{} is not the key of the first", path.display());
    eventually(&logged, async || picker.log().contains(&logged)).await;
    assert!(picker.log().contains("the certificate stays as it was"));
    assert_eq!(
        client.shown(port).await.as_deref(),
        Some(&**second.cert.der())
    );

    secret.swap(&first.cert.pem(), &first.signing_key.serialize_pem());
    eventually("the first certificate is served again", async || {
        client.shown(port).await.as_deref() == Some(&**first.cert.der())
    })
    .await;
}

#[test]
fn a_certificate_that_cannot_be_served_ends_the_start_with_flag_file_and_remedy() {
    let (one, other) = (certificate(), certificate());
    let (pem, key) = (one.cert.pem(), one.signing_key.serialize_pem());
    let other_key = other.signing_key.serialize_pem();
    let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    for (certificate, key, file, said) in [
        (None, Some(&*key), "tls.crt", "No such file or directory"),
        (Some(&*pem), None, "tls.key", "No such file or directory"),
        (
            Some(""),
            Some(&key),
            "tls.crt",
            "no items found; it has to hold the certificate",
        ),
        (
            Some(broken),
            Some(&key),
            "tls.crt",
            "it has to hold the certificate",
        ),
        (
            Some(&pem),
            Some("secret"),
            "tls.key",
            "no items found; it has to hold the certificate's private key",
        ),
        (
            Some(&pem),
            Some(&other_key),
            "tls.key",
            "is not the key of the first certificate",
        ),
    ] {
        let mounted = tempfile::tempdir().expect("a folder");
        for (name, text) in [("tls.crt", certificate), ("tls.key", key)] {
            if let Some(text) = text {
                fs::write(mounted.path().join(name), text).expect("a file");
            }
        }
        let folder = tempfile::tempdir().expect("a folder");
        let ended = command(folder.path(), &[("ai/chat", FILE)])
            .arg(format!("--cert-path={}", mounted.path().display()))
            .output()
            .expect("it runs");
        let printed = String::from_utf8_lossy(&ended.stderr);
        assert_eq!(ended.status.code(), Some(1), "{printed}");
        let place = format!("--cert-path: {}", mounted.path().join(file).display());
        assert!(printed.contains(&place), "{place}: {printed}");
        assert!(printed.contains(said), "{said}: {printed}");
    }
}

#[tokio::test]
async fn clients_that_are_silent_or_slow_hold_up_nobody() {
    // More than may be beginning at once.
    const SILENT: usize = 600;
    let picker = Pointsman::start(&[("ai/chat", FILE)]);
    let port = picker.ext_proc[0];
    let mut silent = Vec::new();
    for index in 0..SILENT {
        let mut stream = TcpStream::connect(port).await.expect("a connection");
        if index % 2 == 0 {
            // The head of a handshake record, and nothing of what it promises.
            stream.write_all(&[22, 3, 1, 2, 0]).await.expect("sent");
        }
        silent.push(stream);
    }
    assert_eq!(ANY.destination(port).await, "127.0.0.1:7001");
    let channel = Client::offering(&["h2"]).connect(port).await;
    let destination = ANY
        .destination_over(channel.expect("TLS is accepted"))
        .await;
    assert_eq!(destination, "127.0.0.1:7001");
    let logged = "more than 512 connections were beginning";
    eventually(logged, async || picker.log().contains(logged)).await;
}

#[tokio::test]
async fn any_first_bytes_are_survived() {
    let picker = Pointsman::start(&[("ai/chat", FILE)]);
    let port = picker.ext_proc[0];
    let hello = [3, 1, 0, 6, 1, 0, 0, 2, 3, 3];
    let tails: [&[u8]; 5] = [
        &[],
        &[0; 64],
        &[255; 64],
        &hello,
        b"RI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
    ];
    for first in 0..=u8::MAX {
        for tail in tails {
            let mut stream = TcpStream::connect(port).await.expect("a connection");
            let bytes = [&[first], tail].concat();
            // The picker may hang up before all is sent, or by a reset.
            drop(stream.write_all(&bytes).await);
            drop(stream.shutdown().await);
            drop(stream.read_to_end(&mut Vec::new()).await);
        }
    }
    assert_eq!(ANY.destination(port).await, "127.0.0.1:7001");
    let channel = Client::offering(&["h2"]).connect(port).await;
    assert!(channel.is_ok(), "{channel:?}");
}

#[tokio::test]
async fn a_connection_that_says_nothing_is_no_refusal() {
    let picker = Pointsman::start(&[("ai/chat", FILE)]);
    for _ in 0..3 {
        drop(
            TcpStream::connect(picker.ext_proc[0])
                .await
                .expect("a probe"),
        );
    }
    assert_eq!(ANY.destination(picker.ext_proc[0]).await, "127.0.0.1:7001");
    let (_, metrics) = picker.get("/metrics").await.expect("metrics");
    assert!(
        !metrics.contains("pointsman_connections_refused_total{"),
        "{metrics}"
    );
}

#[test]
fn to_require_tls_and_to_switch_it_off_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let ended = command(folder.path(), &[("ai/chat", FILE)])
        .args(["--require-tls", "--secure-serving=false"])
        .output()
        .expect("it runs");
    let said = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(1), "{said}");
    assert!(
        said.contains("--require-tls: there is no TLS with --secure-serving=false"),
        "{said}"
    );
}

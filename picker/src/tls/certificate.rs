//! The certificate that is served: our own, or one from files that are read again when they change.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use rcgen::{CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, KeyPair};
use thiserror::Error;
use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::pki_types::pem::{self, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio_rustls::rustls::sign::{CertifiedKey, SingleCertAndKey};
use tokio_rustls::rustls::version::{TLS12, TLS13};
use tokio_rustls::rustls::{self, ServerConfig};
use tracing::{info, warn};

/// The names of the files, as upstream and Secrets of the type `kubernetes.io/tls` have them.
const CERTIFICATE: &str = "tls.crt";
const KEY: &str = "tls.key";

/// The largest file that is read: a chain has some kilobytes, a Secret at most 1 MiB.
const FILE_MAX_BYTES: u64 = 1 << 20;

/// How often the files are looked at. A look is two small reads, and sees what any way of writing them leaves behind: a
/// Secret's symlink that is swapped, a file that is replaced or rewritten, a network file system that tells nobody.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What is wrong with a certificate.
#[derive(Debug, Error)]
pub enum CertificateError {
    /// A file cannot be read.
    #[error(
        "--cert-path: {0}: {1}; the folder needs the files tls.crt and tls.key, readable by this process, as a mounted Secret of \
         type kubernetes.io/tls has them"
    )]
    Unreadable(PathBuf, io::Error),
    /// A file has no such thing in it.
    #[error("--cert-path: {file}: {reason}; it has to hold {expected} in PEM")]
    Malformed {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        reason: String,
        /// What should be in it.
        expected: &'static str,
    },
    /// The key is of another certificate.
    #[error(
        "--cert-path: {key} is not the key of the first certificate in {certificate}; take both from one Secret or one order"
    )]
    Mismatch {
        /// The file of the key.
        key: PathBuf,
        /// The file of the certificate.
        certificate: PathBuf,
    },
    /// Our own could not be made.
    #[error("a self-signed certificate could not be made: {0}; give one by --cert-path")]
    SelfSigned(String),
}

/// The least version of TLS that is spoken; none below 1.2 is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeastVersion {
    /// TLS 1.2 and 1.3.
    Tls12,
    /// TLS 1.3.
    Tls13,
}

/// The certificate as new connections get it. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Served {
    config: Arc<ArcSwap<ServerConfig>>,
    origin: &'static str,
}

impl Served {
    /// A certificate of our own making, which a client can only accept unseen, as those of upstream's picker do.
    ///
    /// # Errors
    /// [`CertificateError::SelfSigned`].
    pub fn self_signed(least: LeastVersion) -> Result<Self, CertificateError> {
        let failed = |error: rcgen::Error| CertificateError::SelfSigned(error.to_string());
        let key = KeyPair::generate().map_err(failed)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params
            .distinguished_name
            .push(DnType::OrganizationName, "Pointsman");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let certificate = params.self_signed(&key).map_err(failed)?;
        let key = PrivatePkcs8KeyDer::from(key.serialize_der()).into();
        let failed = |error: rustls::Error| CertificateError::SelfSigned(error.to_string());
        let config = configure(vec![certificate.into()], key, least).map_err(failed)?;
        Ok(Self::new(config, "self-signed"))
    }

    fn new(config: ServerConfig, origin: &'static str) -> Self {
        Self {
            config: Arc::new(ArcSwap::from_pointee(config)),
            origin,
        }
    }

    /// What the next connection gets.
    pub(super) fn current(&self) -> Arc<ServerConfig> {
        self.config.load_full()
    }

    /// Where the certificate comes from.
    pub(super) fn origin(&self) -> &'static str {
        self.origin
    }
}

/// A folder with a certificate and its key.
#[derive(Debug)]
pub struct Mounted {
    folder: PathBuf,
    least: LeastVersion,
    served: Served,
    /// The files that are served.
    pair: Pair,
    doubt: Option<Doubt>,
}

/// The contents of the two files.
#[derive(PartialEq, Eq)]
struct Pair {
    certificate: Vec<u8>,
    key: Vec<u8>,
}

/// Files that cannot be served.
#[derive(Debug)]
struct Doubt {
    error: String,
    looks: u32,
}

/// How many looks have to find the same fault before it is told. While a pair is being written, a look may find half of it.
const LOOKS_TO_TELL: u32 = 2;

impl Mounted {
    /// Reads the folder for the first time.
    ///
    /// # Errors
    /// [`CertificateError`], which names the file.
    pub fn read(folder: &Path, least: LeastVersion) -> Result<Self, CertificateError> {
        let pair = Pair::read(folder)?;
        let served = Served::new(pair.configure(folder, least)?, "mounted");
        Ok(Self {
            folder: folder.to_owned(),
            least,
            served,
            pair,
            doubt: None,
        })
    }

    /// The certificate, kept up to date by [`Mounted::follow`].
    #[must_use]
    pub fn served(&self) -> Served {
        self.served.clone()
    }

    /// Follows the files for ever. Files that cannot be served leave the certificate as it was.
    pub async fn follow(mut self) {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            match self.look() {
                Ok(false) => {}
                Ok(true) => info!(folder = %self.folder.display(), "the certificate has changed"),
                Err(error) => warn!(%error, "the certificate stays as it was"),
            }
        }
    }

    /// Looks at the files once; whether there is a new certificate.
    ///
    /// # Errors
    /// A fault that is to be told: one that has lasted, and was not told before.
    fn look(&mut self) -> Result<bool, CertificateError> {
        let found = Pair::read(&self.folder).and_then(|pair| {
            let known = pair == self.pair;
            let configure = || pair.configure(&self.folder, self.least);
            let config = (!known).then(configure).transpose()?;
            Ok((pair, config))
        });
        match found {
            Ok((pair, config)) => {
                self.doubt = None;
                self.pair = pair;
                let Some(config) = config else {
                    return Ok(false);
                };
                // With its sessions: none that began under another certificate goes on under this one.
                self.served.config.store(Arc::new(config));
                Ok(true)
            }
            Err(error) if self.is_to_be_told(&error) => Err(error),
            Err(_) => Ok(false),
        }
    }

    fn is_to_be_told(&mut self, error: &CertificateError) -> bool {
        let error = error.to_string();
        let known = self.doubt.take().filter(|doubt| doubt.error == error);
        let looks = known.map_or(0, |doubt| doubt.looks).saturating_add(1);
        self.doubt = Some(Doubt { error, looks });
        looks == LOOKS_TO_TELL
    }
}

impl Pair {
    fn read(folder: &Path) -> Result<Self, CertificateError> {
        let read = |name: &str| {
            let path = folder.join(name);
            let mut bytes = Vec::new();
            let file = File::open(&path);
            let read = file.and_then(|file| file.take(FILE_MAX_BYTES).read_to_end(&mut bytes));
            match read {
                Ok(_) => Ok(bytes),
                Err(error) => Err(CertificateError::Unreadable(path, error)),
            }
        };
        Ok(Self {
            certificate: read(CERTIFICATE)?,
            key: read(KEY)?,
        })
    }

    fn configure(
        &self,
        folder: &Path,
        least: LeastVersion,
    ) -> Result<ServerConfig, CertificateError> {
        let (certificate, key) = (folder.join(CERTIFICATE), folder.join(KEY));
        let bad_certificate = |reason: String| CertificateError::Malformed {
            file: certificate.clone(),
            reason,
            expected: "the certificate, and those that lead to its root",
        };
        let bad_key = |reason: String| CertificateError::Malformed {
            file: key.clone(),
            reason,
            expected: "the certificate's private key, not encrypted",
        };
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&self.certificate).collect();
        let chain = chain.map_err(|error| bad_certificate(error.to_string()))?;
        if chain.is_empty() {
            return Err(bad_certificate(pem::Error::NoItemsFound.to_string()));
        }
        let private = PrivateKeyDer::from_pem_slice(&self.key);
        let private = private.map_err(|error| bad_key(error.to_string()))?;
        configure(chain, private, least).map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => CertificateError::Mismatch {
                key: key.clone(),
                certificate: certificate.clone(),
            },
            rustls::Error::InvalidCertificate(reason) => bad_certificate(reason.to_string()),
            other => bad_key(other.to_string()),
        })
    }
}

/// Neither file has a place in a log.
impl std::fmt::Debug for Pair {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Pair").finish_non_exhaustive()
    }
}

/// TLS with this certificate, for HTTP/2. A client that offers no protocol by ALPN is taken to know that.
fn configure(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    least: LeastVersion,
) -> Result<ServerConfig, rustls::Error> {
    let versions: &[_] = match least {
        LeastVersion::Tls12 => &[&TLS12, &TLS13],
        LeastVersion::Tls13 => &[&TLS13],
    };
    let provider: CryptoProvider = ring::default_provider();
    let certified = CertifiedKey::from_der(chain, key, &provider)?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(versions)?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(certified)));
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn write(folder: &Path, name: &str, text: &str) {
        fs::write(folder.join(name), text).expect("a file");
    }

    #[test]
    fn a_fault_is_told_once_when_it_lasts_and_half_a_pair_is_none() {
        let make = || rcgen::generate_simple_self_signed(Vec::new()).expect("a certificate");
        let (one, other) = (make(), make());
        let folder = tempfile::tempdir().expect("a folder");
        let folder = folder.path();
        let put = |name, text: String| write(folder, name, &text);
        put(CERTIFICATE, one.cert.pem());
        put(KEY, one.signing_key.serialize_pem());
        let mut mounted = Mounted::read(folder, LeastVersion::Tls12).expect("a pair");
        let first = mounted.served.current();
        let mut look = || mounted.look().map_err(|error| error.to_string());
        assert_eq!(look(), Ok(false), "nothing has changed");

        put(CERTIFICATE, other.cert.pem());
        assert_eq!(look(), Ok(false), "half a pair may be on its way");
        put(KEY, other.signing_key.serialize_pem());
        assert_eq!(look(), Ok(true), "now it is whole");

        put(KEY, "nothing".to_owned());
        let looks = [look(), look(), look(), look()];
        assert!(
            looks[1].as_ref().is_err_and(|error| error.contains(KEY)),
            "{looks:?}"
        );
        assert!(
            [0, 2, 3].iter().all(|&at| looks[at] == Ok(false)),
            "{looks:?}"
        );
        put(KEY, other.signing_key.serialize_pem());
        assert_eq!(look(), Ok(false), "it is as it was");
        fs::remove_file(folder.join(CERTIFICATE)).expect("it was there");
        assert_eq!(look(), Ok(false));
        assert!(look().is_err_and(|error| error.contains(CERTIFICATE)));
        assert!(!Arc::ptr_eq(&first, &mounted.served.current()));
    }
}

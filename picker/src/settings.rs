//! Settings: the command line, checked into values that cannot be wrong.

mod check;
mod cluster;
mod migrate;
mod upstream;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};
use picker_core::route::PoolKey;
use thiserror::Error;

pub use self::check::{Check, Output};
pub use self::cluster::{Cluster, Selection};
pub use self::migrate::{GatewayArgument, Migrate};
pub use self::upstream::Upstream;

/// Pointsman: an endpoint picker for the Gateway API Inference Extension.
#[derive(Debug, Parser)]
#[command(name = "pointsman", version, about)]
pub struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve as endpoint picker.
    Serve(Box<Serve>),
    /// Tell why a request went where it went.
    Why(Why),
    /// Say whether routes, pools, pickers and pods fit together, in a cluster or in manifests. Exits with 1 if not, with 2 if it
    /// cannot tell.
    Check(Check),
    /// Make InferencePools and routes of an Ingress, of routes to Services, or of values of llm-d's charts. Writes YAML to standard
    /// output, and what became of each part to standard error.
    Migrate(Migrate),
}

/// Which decisions to tell of.
#[derive(Clone, Debug, Args)]
pub struct Why {
    /// The request's `x-request-id`.
    #[arg(required_unless_present = "last")]
    pub request_id: Option<String>,
    /// Instead, the last so many decisions, the latest first.
    #[arg(long, value_name = "N", conflicts_with = "request_id")]
    pub last: Option<usize>,
    /// The metrics port of the picker that decided, on this machine.
    #[arg(long, default_value = "127.0.0.1:9090")]
    pub admin: String,
}

/// How to serve.
#[derive(Clone, Debug, Args)]
pub struct Serve {
    /// A file of endpoints, re-read on change; with NS/POOL= in front, of that pool. Repeatable. Kubernetes is not asked then.
    #[arg(long = "endpoints", value_name = "[NS/POOL=]FILE")]
    pub endpoints: Vec<EndpointsArgument>,
    /// The only InferencePool that is served; with endpoints files, the pool whose file names none (`default` if absent).
    #[arg(long)]
    pub pool_name: Option<String>,
    /// The namespace of that pool.
    #[arg(long, env = "NAMESPACE", default_value = "default")]
    pub pool_namespace: String,
    /// Discovery by Kubernetes.
    #[command(flatten)]
    pub cluster: Cluster,
    /// The address to listen on.
    #[arg(long, default_value = "0.0.0.0")]
    pub bind_address: IpAddr,
    /// The port of ext_proc; 0 takes a free one.
    #[arg(long, default_value_t = 9002)]
    pub grpc_port: u16,
    /// The port of gRPC health checks; 0 takes a free one.
    #[arg(long, default_value_t = 9003)]
    pub grpc_health_port: u16,
    /// The port of metrics and debugging; 0 takes a free one.
    #[arg(long, default_value_t = 9090)]
    pub metrics_port: u16,
    /// Whether the ext_proc ports accept TLS; if not, they accept plaintext alone.
    #[arg(long, value_name = "BOOL", action = ArgAction::Set, num_args = 0..=1, require_equals = true,
          default_value_t = true, default_missing_value = "true")]
    pub secure_serving: bool,
    /// Whether the ext_proc ports refuse plaintext; if not, they accept it beside TLS.
    #[arg(long, value_name = "BOOL", action = ArgAction::Set, num_args = 0..=1, require_equals = true,
          default_value_t = false, default_missing_value = "true")]
    pub require_tls: bool,
    /// A folder with `tls.crt` and `tls.key`, re-read on change; without it, the certificate is self-signed.
    #[arg(long, value_name = "FOLDER")]
    pub cert_path: Option<PathBuf>,
    /// The least version of TLS that the ext_proc ports speak.
    #[arg(long, value_enum, value_name = "VERSION", default_value_t = TlsMinVersion::Tls12)]
    pub tls_min_version: TlsMinVersion,
    /// The least time between two readings of one endpoint.
    #[arg(long, default_value = "50ms", value_parser = duration)]
    pub refresh_metrics_interval: Duration,
    /// How long requests in flight may go on after SIGTERM.
    #[arg(long, default_value = "30s", value_parser = duration)]
    pub drain_timeout: Duration,
    /// How long to serve on after SIGTERM though nothing is in flight, until every proxy has noticed.
    #[arg(long, default_value = "3s", value_parser = duration)]
    pub drain_notice: Duration,
    /// The seed of all chance.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// The memory for receipts of late decisions, in MiB.
    #[arg(long, default_value_t = 16)]
    pub receipts_mib: usize,
    /// The most bytes of a request's body that are held for its pick; a longer one is picked by its beginning.
    #[arg(long, default_value = "10MiB", value_parser = bytes, value_name = "BYTES")]
    pub body_limit: usize,
    /// The memory for what has no limit of its own; bodies that wait for a pick take at most half of it, and of several pools each as
    /// much as is left free.
    #[arg(long, default_value = "256MiB", value_parser = bytes, value_name = "BYTES")]
    pub memory_limit: usize,
    /// How long the rest of a body is waited for after its headers; then the pick is made on what has come.
    #[arg(long, default_value = "10s", value_parser = duration)]
    pub body_wait: Duration,
    /// How long a pick may take, once its request is there; of a body that comes all at once no more is read than fits.
    #[arg(long, default_value = "50ms", value_parser = duration)]
    pub pick_budget: Duration,
    /// How many further endpoints a pick names, in the order to try them. Only for proxies that take a list: Envoy's ORIGINAL_DST
    /// cluster answers 503 to one.
    #[arg(long, default_value_t = 0)]
    pub fallbacks: usize,
    /// Whether every proxy that sends no bodies is asked for them; each has to allow that (`allow_mode_override`), or its requests
    /// fail. If not, those are asked whose calls have the metadata `x-pointsman-body: ask`.
    #[arg(long, value_name = "BOOL", action = ArgAction::Set, num_args = 0..=1, require_equals = true,
          default_value_t = false, default_missing_value = "true")]
    pub ask_for_body: bool,
    /// Whether `GET /v1/models` is answered with what all servers of the pool list together, and the names that rewrites add; if not,
    /// or as long as no server has listed any, it goes to one of them.
    #[arg(long, value_name = "BOOL", action = ArgAction::Set, num_args = 0..=1, require_equals = true,
          default_value_t = true, default_missing_value = "true")]
    pub model_catalogue: bool,
    /// Whether control headers of requests, such as the subset hint, count where the proxy's metadata says nothing; only behind a
    /// proxy that removes those of clients.
    #[arg(long, value_name = "BOOL", action = ArgAction::Set, num_args = 0..=1, require_equals = true,
          default_value_t = false, default_missing_value = "true")]
    pub trust_headers: bool,
    /// For the conformance tests of the Inference Extension alone: whether the request header `test-epp-endpoint-selection` names the
    /// endpoint, and responses say which one served. A client could choose its server.
    #[arg(long, value_name = "BOOL", action = ArgAction::Set, num_args = 0..=1, require_equals = true,
          default_value_t = false, default_missing_value = "true")]
    pub conformance: bool,
    /// The form of the log, on standard error.
    #[arg(long, alias = "zap-encoder", value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
    /// What is logged: a level, or directives such as `info,picker::scrape=debug`.
    #[arg(
        long,
        alias = "zap-log-level",
        env = "POINTSMAN_LOG",
        default_value = "info,kube_runtime=error"
    )]
    pub log: String,
    /// Flags of upstream's that mean nothing here.
    #[command(flatten)]
    pub upstream: Upstream,
}

/// The form of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    #[value(alias = "console")]
    Text,
    /// One JSON object a line.
    Json,
}

/// The least version of TLS, by the names that upstream's flag has. None below 1.2 is spoken, whatever is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum TlsMinVersion {
    /// 1.2.
    #[value(name = "VersionTLS12", aliases = ["VersionTLS11", "VersionTLS10", ""])]
    Tls12,
    /// 1.3.
    #[value(name = "VersionTLS13")]
    Tls13,
}

/// What the ext_proc ports accept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Security {
    /// TLS, and plaintext beside it.
    Both,
    /// TLS.
    TlsOnly,
    /// Plaintext.
    PlaintextOnly,
}

/// An endpoints file, and the pool it is of where the command line says so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointsArgument {
    /// The pool.
    pub pool: Option<PoolKey>,
    /// The file.
    pub file: PathBuf,
}

/// What is wrong with the settings.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum SettingsError {
    /// Two files for one pool.
    #[error(
        "--endpoints: two files are of pool {0}; name each pool before its file, as in --endpoints {0}=FILE"
    )]
    PoolTwice(PoolKey),
    /// A selector beside a pool.
    #[error(
        "--endpoint-selector: there is --pool-name={0}, too; the first serves pods without an InferencePool, so take one of them away"
    )]
    SelectorAndPool(String),
    /// Ports that cannot be those of selected pods.
    #[error(
        "--endpoint-target-ports: `{0}` are not one to eight ports from 1 to 65535, which --endpoint-selector needs; write for instance 8000,8001"
    )]
    SelectedPorts(String),
    /// TLS is required and switched off.
    #[error("--require-tls: there is no TLS with --secure-serving=false; take one of them away")]
    TlsRequiredAndOff,
}

impl Serve {
    /// The only pool that is served of a cluster, if the flags name one.
    #[must_use]
    pub fn only_pool(&self) -> Option<PoolKey> {
        let name = self.pool_name.as_deref()?;
        Some(PoolKey::new(&self.pool_namespace, name))
    }

    /// The endpoints files, each with its pool.
    ///
    /// # Errors
    /// [`SettingsError::PoolTwice`].
    pub fn pools(&self) -> Result<Vec<(PoolKey, PathBuf)>, SettingsError> {
        let name = self.pool_name.as_deref().unwrap_or("default");
        let unnamed = PoolKey::new(&self.pool_namespace, name);
        let mut seen = BTreeSet::new();
        let mut pools = Vec::new();
        for argument in &self.endpoints {
            let pool = argument.pool.clone().unwrap_or_else(|| unnamed.clone());
            if !seen.insert(pool.clone()) {
                return Err(SettingsError::PoolTwice(pool));
            }
            pools.push((pool, argument.file.clone()));
        }
        Ok(pools)
    }

    /// What the ext_proc ports accept.
    ///
    /// # Errors
    /// [`SettingsError::TlsRequiredAndOff`].
    pub fn security(&self) -> Result<Security, SettingsError> {
        match (self.secure_serving, self.require_tls) {
            (true, false) => Ok(Security::Both),
            (true, true) => Ok(Security::TlsOnly),
            (false, false) => Ok(Security::PlaintextOnly),
            (false, true) => Err(SettingsError::TlsRequiredAndOff),
        }
    }
}

impl FromStr for EndpointsArgument {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let Some((pool, file)) = text.split_once('=') else {
            return Ok(Self {
                pool: None,
                file: text.into(),
            });
        };
        match pool.split_once('/') {
            Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() => Ok(Self {
                pool: Some(PoolKey::new(namespace, name)),
                file: file.into(),
            }),
            _ => Err(format!(
                "`{pool}` is no pool; write NAMESPACE/NAME=FILE, or FILE alone"
            )),
        }
    }
}

/// A duration as upstream's flags write it: `50ms`, `1.5s`, `2m`, or a bare number of seconds.
fn duration(text: &str) -> Result<Duration, String> {
    let units = [
        ("ms", 1e-3),
        ("s", 1.0),
        ("m", 60.0),
        ("h", 3600.0),
        ("", 1.0),
    ];
    let parsed = units.iter().find_map(|(unit, seconds)| {
        let number: f64 = text.strip_suffix(unit)?.parse().ok()?;
        Duration::try_from_secs_f64(number * seconds).ok()
    });
    parsed.ok_or_else(|| format!("`{text}` is no duration; write for instance 50ms, 2s or 1m"))
}

/// A number of bytes: `10MiB`, `64KiB`, `1GiB`, or a bare number.
fn bytes(text: &str) -> Result<usize, String> {
    let units = [
        ("KiB", 1 << 10),
        ("MiB", 1 << 20),
        ("GiB", 1 << 30),
        ("", 1),
    ];
    let parsed = units.iter().find_map(|(unit, factor)| {
        text.strip_suffix(unit)?
            .parse::<usize>()
            .ok()?
            .checked_mul(*factor)
    });
    parsed.ok_or_else(|| {
        format!("`{text}` is no number of bytes; write for instance 10MiB, 512KiB or 65536")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_upstream_writes_them() {
        for (text, expected) in [
            ("50ms", Duration::from_millis(50)),
            ("1.5s", Duration::from_millis(1500)),
            ("2m", Duration::from_secs(120)),
            ("3", Duration::from_secs(3)),
        ] {
            assert_eq!(duration(text), Ok(expected), "{text}");
        }
        for text in ["", "-1s", "fast", "1e400s", "NaN"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn bytes_are_read_with_their_unit() {
        assert_eq!(bytes("10MiB"), Ok(10 << 20));
        assert_eq!(bytes("512KiB"), Ok(512 << 10));
        assert_eq!(bytes("65536"), Ok(65_536));
        for text in ["", "10MB", "-1", "1.5GiB", "99999999999GiB"] {
            assert!(
                bytes(text).is_err_and(|error| error.contains("10MiB")),
                "{text}"
            );
        }
    }

    #[test]
    fn an_endpoints_argument_may_name_its_pool() {
        let read = |text: &str| text.parse::<EndpointsArgument>();
        let named = read("ai/chat=/etc/a=b.yaml").expect("a pool and a file");
        assert_eq!(named.pool, Some(PoolKey::new("ai", "chat")));
        assert_eq!(named.file, PathBuf::from("/etc/a=b.yaml"));
        assert_eq!(read("a.yaml").expect("a file").pool, None);
        assert!(read("chat=a.yaml").is_err_and(|error| error.contains("`chat`")));
    }

    #[test]
    fn two_files_of_one_pool_are_refused_by_name() {
        let arguments =
            Arguments::try_parse_from(["pointsman", "serve", "--endpoints=a", "--endpoints=b"]);
        let Command::Serve(serve) = arguments.expect("parses").command else {
            panic!("another command");
        };
        let error = serve.pools().expect_err("one pool twice");
        assert_eq!(
            error,
            SettingsError::PoolTwice(PoolKey::new("default", "default"))
        );
    }
}

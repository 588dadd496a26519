//! The server: binds, spawns, and ends what it spawned. Tasks are spawned here and nowhere else.

mod http2;
mod incoming;
mod listeners;

use std::collections::BTreeSet;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::Stream;
use picker_core::Settings;
use picker_core::route::PoolKey;
use prometheus_client::registry::Registry;
use serde::Serialize;
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::runtime::Builder;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::transport::Server;
use tracing::{error, info, warn};

use self::listeners::Listeners;
use crate::admin::Admin;
use crate::discovery::file::{FileError, Files};
use crate::discovery::kubernetes::{Kubernetes, KubernetesError, Replicas, Scope, Selected};
use crate::driver::{DriverMetrics, Errand, PoolSpec, Pools};
use crate::extproc::{Edge, EdgeMetrics, EdgeSettings, Inflight, Trust};
use crate::health::HealthService;
use crate::scrape::{ScrapeMetrics, Scraper};
use crate::settings::{Security, Serve, SettingsError, TlsMinVersion};
use crate::shutdown::Readiness;
use crate::telemetry;
use crate::tls::{Acceptor, CertificateError, Connection, LeastVersion, Mounted, Served, Tally};

/// Why the server could not start, or ended.
#[derive(Debug, Error)]
pub enum ServerError {
    /// The settings contradict each other.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// An endpoints file is wrong.
    #[error(transparent)]
    File(#[from] FileError),
    /// The API server cannot be asked.
    #[error(transparent)]
    Kubernetes(#[from] KubernetesError),
    /// There is no certificate to serve.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// A port is taken.
    #[error("{flag} {address}: {error}; choose another port, or 0 for a free one")]
    Bind {
        /// The flag that sets the port.
        flag: &'static str,
        /// The address.
        address: SocketAddr,
        /// Why not.
        error: io::Error,
    },
    /// The HTTP client could not be set up.
    #[error("the HTTP client for readings: {0}")]
    Client(#[from] reqwest::Error),
    /// A part ended that should not have.
    #[error("{0} has ended, which it never should")]
    Ended(&'static str),
}

/// Where a server listens.
#[derive(Clone, Debug, Serialize)]
pub struct Listening {
    /// ext_proc; the first is the shared one, the others are of one pool each.
    pub ext_proc: Vec<SocketAddr>,
    /// gRPC health checks.
    pub health: SocketAddr,
    /// Metrics and debugging.
    pub admin: SocketAddr,
}

/// A server that is bound and not yet running.
pub struct Bound {
    serve: Serve,
    discovery: Discovery,
    acceptor: Acceptor,
    mounted: Option<Mounted>,
    ext_proc: Vec<TcpListener>,
    health: TcpListener,
    admin: TcpListener,
    /// Where it will listen.
    pub listening: Listening,
}

/// Where pools come from.
enum Discovery {
    Files(Files),
    Kubernetes(Box<Kubernetes>),
}

/// Reads the endpoints files and the certificate and binds every port, so that what is wrong is known before anything
/// runs.
///
/// # Errors
/// [`ServerError`], if a setting, a file or a port is wrong.
pub async fn bind(serve: Serve) -> Result<Bound, ServerError> {
    for warning in serve.upstream.warnings() {
        warn!("{warning}");
    }
    let (acceptor, mounted) = acceptor(&serve)?;
    let mut ext_proc = vec![listen(&serve, "--grpc-port", serve.grpc_port).await?];
    let shared = address(&ext_proc[0], "--grpc-port")?;
    let discovery = discovery(&serve, shared.port()).await?;
    if let Discovery::Files(files) = &discovery {
        for port in own_ports(&files.specs()) {
            ext_proc.push(listen(&serve, "endpointPickerRef.port", port).await?);
        }
    }
    let health = listen(&serve, "--grpc-health-port", serve.grpc_health_port).await?;
    let admin = listen(&serve, "--metrics-port", serve.metrics_port).await?;
    let listening = Listening {
        ext_proc: ext_proc
            .iter()
            .filter_map(|one| one.local_addr().ok())
            .collect(),
        health: address(&health, "--grpc-health-port")?,
        admin: address(&admin, "--metrics-port")?,
    };
    Ok(Bound {
        serve,
        discovery,
        acceptor,
        mounted,
        ext_proc,
        health,
        admin,
        listening,
    })
}

/// The endpoints files, or else the cluster.
async fn discovery(serve: &Serve, shared_port: u16) -> Result<Discovery, ServerError> {
    if !serve.endpoints.is_empty() {
        let files = Files::read(serve.pools()?, serve.grpc_port)?;
        return Ok(Discovery::Files(files));
    }
    let cluster = &serve.cluster;
    let selection = cluster.selection(&serve.pool_namespace, serve.pool_name.as_deref())?;
    let selected_pool = selection.as_ref().map(|selection| selection.pool.clone());
    let scope = Scope {
        namespaces: cluster.namespaces.iter().cloned().collect(),
        pool: selected_pool.or_else(|| serve.only_pool()),
        selected: selection.map(|selection| Selected {
            labels: selection.labels,
            ports: selection.ports,
        }),
        picker_services: cluster.picker_service.iter().cloned().collect(),
        pod_selector: cluster.pod_selector.clone(),
        shared_port,
        route_namespaces: cluster.route_namespaces.iter().cloned().collect(),
        sight: cluster.called.into(),
        publish: cluster.publish_services.clone().map(|selector| Replicas {
            namespace: serve.pool_namespace.clone(),
            selector,
        }),
    };
    let kubernetes = Kubernetes::new(cluster.kubeconfig.as_deref(), scope).await?;
    Ok(Discovery::Kubernetes(Box::new(kubernetes)))
}

/// What the ports of ext_proc accept, and the certificate that is to be followed.
fn acceptor(serve: &Serve) -> Result<(Acceptor, Option<Mounted>), ServerError> {
    let security = serve.security()?;
    if security == Security::PlaintextOnly {
        return Ok((Acceptor::plaintext_only(), None));
    }
    let least = match serve.tls_min_version {
        TlsMinVersion::Tls12 => LeastVersion::Tls12,
        TlsMinVersion::Tls13 => LeastVersion::Tls13,
    };
    let read = |folder| Mounted::read(folder, least);
    let mounted = serve.cert_path.as_deref().map(read).transpose()?;
    let certificate = match &mounted {
        Some(mounted) => mounted.served(),
        None => Served::self_signed(least)?,
    };
    let acceptor = match security {
        Security::TlsOnly => Acceptor::tls_only(certificate),
        Security::Both | Security::PlaintextOnly => Acceptor::both(certificate),
    };
    Ok((acceptor, mounted))
}

impl Bound {
    /// Serves until `end` resolves and the streams in flight have ended, or the drain's deadline has passed.
    ///
    /// # Errors
    /// [`ServerError`], if a part of the server ends by itself.
    pub async fn run(self, end: impl Future<Output = ()>) -> Result<(), ServerError> {
        let mut registry = telemetry::registry();
        let (pools, errands) = pools(&self.serve, &mut registry);
        let scraper = Scraper::new(ScrapeMetrics::register(&mut registry))?;
        let readiness = Readiness::new(pools.clone());
        let draining = CancellationToken::new();
        let edge = Edge::new(
            pools.clone(),
            edge_settings(&self.serve),
            EdgeMetrics::register(&mut registry),
            draining.clone(),
        );
        let stop = CancellationToken::new();
        let _ends_with_this = stop.clone().drop_guard();
        let mut tasks = Tasks {
            set: JoinSet::new(),
            ext_proc: 0,
            stop: stop.clone(),
        };

        let tally = Arc::new(Tally::register(&mut registry));
        let services =
            Routes::new(edge.service()).add_service(HealthService::server(readiness.clone()));
        let listeners = Listeners {
            address: self.serve.bind_address,
            acceptor: self.acceptor.clone(),
            tally: tally.clone(),
            services: services.clone(),
            stop: stop.clone(),
        };
        // Before anything is served, so that the first call finds the pools of files.
        tasks.discovery(self.discovery, &pools, listeners);
        for listener in self.ext_proc {
            let incoming = incoming::begun(listener, self.acceptor.clone(), tally.clone());
            tasks.ext_proc(incoming, services.clone());
        }
        if let Some(mounted) = self.mounted {
            tasks.forever("the certificate", mounted.follow());
        }
        tasks.health(self.health, &readiness);
        tasks.admin(self.admin, &pools, &readiness, registry);
        tasks.readings(pools.clone(), scraper, errands);
        let watches = edge.clone();
        tasks.forever("the watches", async move { watches.run().await });

        info!(listening = ?self.listening, "serving");
        let ended = tokio::select! {
            () = end => None,
            ended = tasks.first_to_end() => Some(ended),
        };
        if let Some(part) = ended {
            return Err(ServerError::Ended(part));
        }
        readiness.drain();
        info!("draining");
        let notice = async {
            tokio::time::sleep(self.serve.drain_notice).await;
            draining.cancel();
        };
        drain(edge.inflight(), notice, self.serve.drain_timeout).await;
        stop.cancel();
        tasks.end().await;
        info!("ended");
        Ok(())
    }
}

/// The tasks of a server, each with the name of what it does.
struct Tasks {
    set: JoinSet<&'static str>,
    /// Of them, those that serve ext_proc.
    ext_proc: usize,
    stop: CancellationToken,
}

impl Tasks {
    fn discovery(&mut self, discovery: Discovery, pools: &Arc<Pools>, listeners: Listeners) {
        match discovery {
            Discovery::Files(files) => {
                pools.replace(files.specs());
                let follow = files.follow(pools.clone());
                self.forever("discovery by file", async move {
                    if let Err(error) = follow.await {
                        warn!(%error, "endpoints stay as they are");
                        std::future::pending::<()>().await;
                    }
                });
            }
            Discovery::Kubernetes(kubernetes) => {
                self.forever("discovery by Kubernetes", kubernetes.follow(pools.clone()));
                self.forever("listeners of pools", listeners.follow(pools.ports()));
            }
        }
    }

    fn ext_proc(
        &mut self,
        incoming: impl Stream<Item = io::Result<Connection>> + Send + 'static,
        services: Routes,
    ) {
        self.ext_proc += 1;
        self.forever(EXT_PROC, serving(incoming, services, self.stop.clone()));
    }

    fn health(&mut self, listener: TcpListener, readiness: &Readiness) {
        let serving = Server::builder()
            .add_service(HealthService::server(readiness.clone()))
            .serve_with_incoming_shutdown(
                incoming::at_once(listener),
                self.stop.clone().cancelled_owned(),
            );
        self.forever("health", async move { log_end(serving.await) });
    }

    fn admin(
        &mut self,
        listener: TcpListener,
        pools: &Arc<Pools>,
        readiness: &Readiness,
        registry: Registry,
    ) {
        let admin = Admin {
            pools: pools.clone(),
            readiness: readiness.clone(),
            registry: Arc::new(Mutex::new(registry)),
        };
        let service = admin
            .router()
            .into_make_service_with_connect_info::<SocketAddr>();
        let stop = self.stop.clone().cancelled_owned();
        let serving = axum::serve(listener, service).with_graceful_shutdown(stop);
        self.forever("admin", async move { log_end(serving.await) });
    }

    /// Reads endpoints when they are due, on a thread of its own: on those that serve calls, each of the few steps of a reading
    /// would wake one thread more, which would find nothing to do.
    fn readings(&mut self, pools: Arc<Pools>, scraper: Scraper, errands: mpsc::Receiver<Errand>) {
        let stop = self.stop.clone();
        self.set.spawn_blocking(move || {
            let runtime = match Builder::new_current_thread().enable_all().build() {
                Ok(runtime) => runtime,
                Err(error) => {
                    error!(%error, "no thread can read endpoints");
                    return "the thread for readings";
                }
            };
            runtime.block_on(async {
                tokio::select! {
                    () = pools.run_timer() => "the timer",
                    () = scraper.run(errands) => "the scraper",
                    () = stop.cancelled() => "readings",
                }
            })
        });
    }

    /// Spawns what is to run as long as the server does.
    fn forever(&mut self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        self.set.spawn(async move {
            task.await;
            name
        });
    }

    /// Ends what was told to stop: what was answered on the connections of ext_proc goes out first, and they are closed.
    async fn end(mut self) {
        let closed = async {
            while self.ext_proc > 0
                && let Some(ended) = self.set.join_next().await
            {
                self.ext_proc -= usize::from(matches!(ended, Ok(EXT_PROC)));
            }
        };
        if tokio::time::timeout(GOODBYE, closed).await.is_err() {
            warn!("proxies keep their connections; they are cut");
        }
        self.set.shutdown().await;
    }

    async fn first_to_end(&mut self) -> &'static str {
        match self.set.join_next().await {
            Some(Ok(name)) => name,
            Some(Err(_)) | None => "a task that panicked",
        }
    }
}

/// No pools yet, and what they will send out.
fn pools(serve: &Serve, registry: &mut Registry) -> (Arc<Pools>, mpsc::Receiver<Errand>) {
    let settings = Settings {
        seed: serve.seed,
        reading_interval_min: serve.refresh_metrics_interval,
    };
    let metrics = DriverMetrics::register(registry);
    let (pools, errands) = Pools::new(settings, serve.receipts_mib << 20, metrics);
    if !serve.cluster.read_metrics {
        pools.stop_reading();
    }
    pools.sources().register(registry);
    (pools, errands)
}

fn edge_settings(serve: &Serve) -> EdgeSettings {
    EdgeSettings {
        body_limit: serve.body_limit,
        bodies_limit: serve.memory_limit / 2,
        body_wait: serve.body_wait,
        pick_budget: serve.pick_budget,
        trust: Trust {
            headers: serve.trust_headers,
            test_selection: serve.conformance,
        },
        fallbacks: serve.fallbacks,
        catalogue: serve.model_catalogue,
        ask_for_body: serve.ask_for_body,
    }
}

/// Serves ext_proc until `stop`.
fn serving(
    incoming: impl Stream<Item = io::Result<Connection>> + Send + 'static,
    services: Routes,
    stop: CancellationToken,
) -> impl Future<Output = ()> + Send {
    let serving = http2::server()
        .add_routes(services)
        .serve_with_incoming_shutdown(incoming, stop.cancelled_owned());
    async move { log_end(serving.await) }
}

fn log_end<E: std::fmt::Display>(result: Result<(), E>) {
    if let Err(error) = result {
        warn!(%error, "a listener failed");
    }
}

/// The ports that files ask for beside the shared one.
fn own_ports(specs: &[(PoolKey, PoolSpec)]) -> BTreeSet<u16> {
    specs.iter().filter_map(|(_, spec)| spec.port).collect()
}

async fn listen(serve: &Serve, flag: &'static str, port: u16) -> Result<TcpListener, ServerError> {
    let address = SocketAddr::new(serve.bind_address, port);
    let bound = TcpListener::bind(address).await;
    bound.map_err(|error| ServerError::Bind {
        flag,
        address,
        error,
    })
}

fn address(listener: &TcpListener, flag: &'static str) -> Result<SocketAddr, ServerError> {
    let unknown = SocketAddr::from(([0, 0, 0, 0], 0));
    listener.local_addr().map_err(|error| ServerError::Bind {
        flag,
        address: unknown,
        error,
    })
}

/// The name of what serves ext_proc.
const EXT_PROC: &str = "ext_proc";
/// How long connections may take to close, once nothing is in flight on them.
const GOODBYE: Duration = Duration::from_secs(2);
/// How often a drain looks whether streams are still open.
const DRAIN_LOOK: Duration = Duration::from_millis(50);

/// Serves on until `notice` resolves, by when every proxy has seen that this process is not ready, and then until no stream is
/// open whose end would lose something, or `timeout` has passed in all.
async fn drain(inflight: &Inflight, notice: impl Future<Output = ()>, timeout: Duration) {
    let idle = async {
        notice.await;
        while inflight.count() > 0 {
            tokio::time::sleep(DRAIN_LOOK).await;
        }
    };
    if tokio::time::timeout(timeout, idle).await.is_err() {
        warn!(
            streams = inflight.count(),
            "the drain's deadline has passed; open streams are cut"
        );
    }
}

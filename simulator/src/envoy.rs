//! A real Envoy as a child process, configured from the samples of `deploy/envoy`.

mod configuration;

use std::fs::{self, File};
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use serde_json::Value;
use thiserror::Error;
use tokio::time::{Instant, sleep};

pub use self::configuration::{Route, Upstream};
use crate::load::ext_proc::Follow;

/// How long Envoy may take to start; it takes about a second where nothing else runs.
const START_MAX: Duration = Duration::from_secs(60);
/// How often is looked whether it has.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// What to start.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The `envoy` executable.
    pub executable: PathBuf,
    /// A folder for its configuration and log, which exists.
    pub folder: PathBuf,
    /// The picker's ext_proc address.
    pub picker: SocketAddr,
    /// What protects the connections to it, as the cluster's `transport_socket`; `None`: plaintext.
    pub picker_security: Option<Value>,
    /// The model servers of all pools.
    pub servers: Vec<SocketAddr>,
    /// Where requests go, by the beginning of their path; the first that fits counts.
    pub routes: Vec<Route>,
    /// How the picker follows responses, and with that the sample to start from.
    pub follow: Follow,
    /// What is other than in the sample.
    pub differences: Differences,
    /// Worker threads.
    pub concurrency: usize,
}

/// What is other than in a sample.
#[derive(Clone, Debug, Default)]
pub struct Differences {
    /// Metadata of the calls that ask the picker, where it is not that of the sample.
    pub call_metadata: Vec<(&'static str, &'static str)>,
    /// Whether trailers of HTTP/1 messages count; Envoy leaves them out by default.
    pub trailers: bool,
    /// What is sent to the picker, if it is not what the sample says: a `ProcessingMode` of Envoy's ext_proc filter.
    pub processing_mode: Option<Value>,
    /// HTTP filters that come before all others.
    pub first_filters: Vec<Value>,
}

/// A running Envoy; dropping it ends the process.
#[derive(Debug)]
pub struct Envoy {
    /// Where clients connect.
    pub address: SocketAddr,
    /// Where its admin interface is.
    pub admin: SocketAddr,
    /// The process id.
    pub pid: u32,
    keeper: Option<Keeper>,
}

/// The thread that spawned Envoy. Envoy asks the kernel to be ended with it (`PR_SET_PDEATHSIG`), so it has to live as
/// long as Envoy is wanted.
#[derive(Debug)]
struct Keeper {
    stop: mpsc::SyncSender<()>,
    thread: thread::JoinHandle<()>,
    log: PathBuf,
}

/// Why Envoy did not start.
#[derive(Debug, Error)]
pub enum EnvoyError {
    /// A file could not be written or read.
    #[error("{0}: {1}")]
    File(PathBuf, io::Error),
    /// The executable could not be started.
    #[error("{0} cannot be started: {1}; fetch it with `python3 tools/fetch.py envoy`")]
    Spawn(PathBuf, io::Error),
    /// A sample is not as expected.
    #[error("the sample in deploy/envoy: {0}")]
    Configuration(String),
    /// It has not become ready.
    #[error(
        "Envoy is not ready after {START_MAX:?}, or has ended; its log is {0}, and ends with:\n{1}"
    )]
    NotReady(PathBuf, String),
}

impl Envoy {
    /// Starts Envoy on free ports and waits until it is ready.
    ///
    /// # Errors
    /// [`EnvoyError`], with the end of Envoy's log if it did not become ready.
    pub async fn start(plan: &Plan) -> Result<Self, EnvoyError> {
        let config = plan.folder.join("envoy.json");
        let admin_path = plan.folder.join("envoy-admin-address");
        let text = configuration::of(plan)?.to_string();
        fs::write(&config, text).map_err(|error| EnvoyError::File(config.clone(), error))?;
        drop(fs::remove_file(&admin_path));
        let (pid, keeper) = Keeper::spawn(plan, &config, &admin_path)?;
        let deadline = Instant::now() + START_MAX;
        while Instant::now() < deadline && !keeper.thread.is_finished() {
            if let Some((admin, address)) = ready(&admin_path).await {
                return Ok(Self {
                    address,
                    admin,
                    pid,
                    keeper: Some(keeper),
                });
            }
            sleep(LOOK_EVERY).await;
        }
        let log = fs::read_to_string(&keeper.log).unwrap_or_default();
        let end = log.lines().rev().take(20).collect::<Vec<_>>();
        let end = end.into_iter().rev().collect::<Vec<_>>().join("\n");
        let path = keeper.log.clone();
        keeper.end();
        Err(EnvoyError::NotReady(path, end))
    }

    /// A counter or gauge of Envoy's by its full name; `None` if it has no such.
    pub async fn stat(&self, name: &str) -> Option<u64> {
        let url = format!("http://{}/stats?format=json&filter=^{name}$", self.admin);
        let stats: Value = get(&url).await?;
        stats["stats"]
            .as_array()?
            .iter()
            .find_map(|stat| stat["value"].as_u64())
    }
}

impl Drop for Envoy {
    fn drop(&mut self) {
        if let Some(keeper) = self.keeper.take() {
            keeper.end();
        }
    }
}

impl Keeper {
    fn spawn(plan: &Plan, config: &Path, admin: &Path) -> Result<(u32, Self), EnvoyError> {
        let log = plan.folder.join("envoy.log");
        let output = File::create(&log).map_err(|error| EnvoyError::File(log.clone(), error))?;
        let mut command = Command::new(&plan.executable);
        command
            .arg("--config-path")
            .arg(config)
            .arg("--admin-address-path")
            .arg(admin)
            .args(["--concurrency", &plan.concurrency.to_string()])
            .args(["--use-dynamic-base-id", "--log-level", "warning"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(output);
        let (stop, stopped) = mpsc::sync_channel(1);
        let (spawned, first) = mpsc::sync_channel(1);
        let thread = thread::spawn(move || match command.spawn() {
            Ok(child) => {
                drop(spawned.send(Ok(child.id())));
                keep(child, &stopped);
            }
            Err(error) => drop(spawned.send(Err(error))),
        });
        let failed = |error| EnvoyError::Spawn(plan.executable.clone(), error);
        let pid = first
            .recv()
            .map_err(io::Error::other)
            .and_then(|pid| pid)
            .map_err(failed)?;
        Ok((pid, Self { stop, thread, log }))
    }

    /// Ends Envoy and waits until it is gone.
    fn end(self) {
        drop(self.stop);
        drop(self.thread.join());
    }
}

/// Keeps Envoy until it ends by itself or is no longer wanted.
fn keep(mut child: Child, stopped: &mpsc::Receiver<()>) {
    while stopped.recv_timeout(LOOK_EVERY) == Err(RecvTimeoutError::Timeout) {
        if matches!(child.try_wait(), Ok(Some(_))) {
            return;
        }
    }
    drop(child.kill());
    drop(child.wait());
}

/// The addresses of the admin interface and of the listener, once Envoy is live and the listener is bound.
async fn ready(admin_path: &Path) -> Option<(SocketAddr, SocketAddr)> {
    let admin: SocketAddr = fs::read_to_string(admin_path).ok()?.trim().parse().ok()?;
    let listeners: Value = get(&format!("http://{admin}/listeners?format=json")).await?;
    let local = &listeners["listener_statuses"][0]["local_address"]["socket_address"];
    let port = u16::try_from(local["port_value"].as_u64()?).ok()?;
    let live = reqwest::get(format!("http://{admin}/ready"))
        .await
        .ok()?
        .status();
    live.is_success()
        .then(|| (admin, SocketAddr::from(([127, 0, 0, 1], port))))
}

async fn get(url: &str) -> Option<Value> {
    reqwest::get(url).await.ok()?.json().await.ok()
}

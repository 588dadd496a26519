//! The demo's cast: model servers in this process, the picker and Envoy as processes of their own.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use tokio::time::{Instant, sleep};

use super::{DemoError, Options, SERVERS};
use crate::engine::Profile;
use crate::envoy::{Differences, Envoy, Plan, Route, Upstream};
use crate::load::ext_proc::Follow;
use crate::serve::{self, Server};
use crate::workload::{Workload, adapter_names};

/// The base model's name.
pub(super) const MODEL: &str = "base";
/// How long the picker may take to be ready.
const READY_MAX: Duration = Duration::from_secs(30);

/// Everything that runs; all of it ends when this is dropped.
pub(super) struct Scene {
    servers: Vec<Server>,
    picker: Picker,
    envoy: Envoy,
}

/// The picker's process; ended when dropped.
struct Picker {
    child: Child,
    ext_proc: SocketAddr,
    admin: SocketAddr,
    log: PathBuf,
}

/// The servers' profile: slow steps, so that two cores are not the limit.
pub(super) fn profile() -> Profile {
    Profile::demo()
}

impl Scene {
    /// Starts servers, picker and Envoy, and waits until the picker is ready.
    pub(super) async fn start(options: &Options, workload: &Workload) -> Result<Self, DemoError> {
        let adapters = adapter_names(workload.adapters);
        let names: Vec<&str> = adapters.iter().map(String::as_str).collect();
        let plan = serve::Options::local(SERVERS, MODEL, &names, profile());
        let servers = serve::spawn(serve::Options {
            remember: 0,
            ..plan
        })
        .await?;
        let addresses: Vec<SocketAddr> = servers.iter().map(Server::address).collect();
        let picker = Picker::start(options, &addresses)?;
        picker.wait_until_ready().await?;
        let route = |name: &str, to| Route {
            prefix: format!("/{name}/"),
            to,
            pool: None,
        };
        let plan = Plan {
            executable: options.envoy.clone(),
            folder: options.out.clone(),
            picker: picker.ext_proc,
            picker_security: None,
            servers: addresses,
            routes: vec![
                route("round_robin", Upstream::RoundRobin),
                route("least_request", Upstream::LeastRequest),
                route("picker", Upstream::OverrideHost),
            ],
            follow: Follow::Watched,
            differences: Differences::default(),
            concurrency: 1,
        };
        let envoy = Envoy::start(&plan).await?;
        Ok(Self {
            servers,
            picker,
            envoy,
        })
    }

    /// The URL of a route.
    pub(super) fn url(&self, route: &str) -> String {
        format!("http://{}/{route}", self.envoy.address)
    }

    /// The model servers.
    pub(super) fn addresses(&self) -> Vec<SocketAddr> {
        self.servers.iter().map(Server::address).collect()
    }

    /// Whether the picker thinks every adapter slot taken, or there is nothing to fill them with.
    pub(super) async fn slots_are_filled(&self, workload: &Workload) -> Result<bool, DemoError> {
        if workload.adapters == 0 {
            return Ok(true);
        }
        let state = self.picker.get("/debug/state").await?;
        let endpoints = state["pools"][0]["endpoints"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        let slots = profile().max_loras;
        let resident = |endpoint: &Value| endpoint["resident"].as_array().map_or(0, Vec::len);
        Ok(endpoints.iter().all(|endpoint| resident(endpoint) >= slots))
    }

    /// The receipts of late decisions.
    pub(super) async fn decisions(&self) -> Result<Vec<Value>, DemoError> {
        let decisions = self.picker.get("/debug/decisions?limit=1000").await?;
        Ok(decisions["decisions"]
            .as_array()
            .cloned()
            .unwrap_or_default())
    }
}

impl Picker {
    fn start(options: &Options, servers: &[SocketAddr]) -> Result<Self, DemoError> {
        let endpoints = options.out.join("endpoints.yaml");
        write(&endpoints, &endpoints_file(servers))?;
        let log = options.out.join("pointsman.log");
        let failed = |reason: String| DemoError::Picker(reason, log.clone());
        let output = File::create(&log).map_err(|error| DemoError::File(log.clone(), error))?;
        let mut child = Command::new(&options.pointsman)
            .arg("serve")
            .arg("--endpoints")
            .arg(&endpoints)
            .args([
                "--bind-address=127.0.0.1",
                "--grpc-port=0",
                "--grpc-health-port=0",
            ])
            .args(["--metrics-port=0", "--drain-notice=0s"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(output)
            .spawn()
            .map_err(|error| failed(format!("{}: {error}", options.pointsman.display())))?;
        let mut line = String::new();
        if let Some(output) = child.stdout.take() {
            drop(BufReader::new(output).read_line(&mut line));
        }
        let said: Value = serde_json::from_str(&line).unwrap_or_default();
        let address = |value: &Value| value.as_str().and_then(|text| text.parse().ok());
        let ext_proc = address(&said["listening"]["ext_proc"][0]);
        let admin = address(&said["listening"]["admin"]);
        let (Some(ext_proc), Some(admin)) = (ext_proc, admin) else {
            drop(child.kill());
            drop(child.wait());
            return Err(failed("it did not say where it listens".to_owned()));
        };
        Ok(Self {
            child,
            ext_proc,
            admin,
            log,
        })
    }

    async fn wait_until_ready(&self) -> Result<(), DemoError> {
        let deadline = Instant::now() + READY_MAX;
        let url = format!("http://{}/readyz", self.admin);
        while Instant::now() < deadline {
            if reqwest::get(&url)
                .await
                .is_ok_and(|answer| answer.status().is_success())
            {
                return Ok(());
            }
            sleep(Duration::from_millis(20)).await;
        }
        Err(DemoError::Picker(
            format!("not ready after {READY_MAX:?}"),
            self.log.clone(),
        ))
    }

    async fn get(&self, path: &str) -> Result<Value, DemoError> {
        let failed = |error: reqwest::Error| DemoError::Picker(error.to_string(), self.log.clone());
        let answer = reqwest::get(format!("http://{}{path}", self.admin))
            .await
            .map_err(failed)?;
        answer.json().await.map_err(failed)
    }
}

impl Drop for Picker {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn endpoints_file(servers: &[SocketAddr]) -> String {
    let line = |(index, server): (usize, &SocketAddr)| {
        format!(
            "- {{name: sim-{index}, address: {}, port: {}}}\n",
            server.ip(),
            server.port()
        )
    };
    let lines: String = servers.iter().enumerate().map(line).collect();
    format!("endpoints:\n{lines}")
}

fn write(file: &Path, text: &str) -> Result<(), DemoError> {
    fs::write(file, text).map_err(|error| DemoError::File(file.to_owned(), error))
}

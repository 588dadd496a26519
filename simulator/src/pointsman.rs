//! The `pointsman` binary as a child process.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use thiserror::Error;
use tokio::time::{Instant, sleep};

/// How long it may take to be ready.
const READY_MAX: Duration = Duration::from_secs(30);
/// How often is looked whether it is.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// A running `pointsman serve`; ended when dropped.
#[derive(Debug)]
pub struct Pointsman {
    /// Where it speaks ext_proc.
    pub ext_proc: SocketAddr,
    /// Where its metrics and its state are.
    pub admin: SocketAddr,
    /// The process id.
    pub pid: u32,
    child: Child,
    log: PathBuf,
}

/// Why it does not run, or does not answer.
#[derive(Debug, Error)]
pub enum PointsmanError {
    /// A file could not be written.
    #[error("{0}: {1}")]
    File(PathBuf, io::Error),
    /// It did not start, or did not answer.
    #[error("pointsman: {0}; its log is {1}")]
    Process(String, PathBuf),
}

impl Pointsman {
    /// Starts `executable` on free ports of 127.0.0.1 for these model servers. Its endpoints file and its log are put into
    /// `folder`, which exists.
    ///
    /// # Errors
    /// [`PointsmanError`], if a file cannot be written or it does not say where it listens.
    pub fn start(
        executable: &Path,
        folder: &Path,
        servers: &[SocketAddr],
    ) -> Result<Self, PointsmanError> {
        let file = |path: &Path, error| PointsmanError::File(path.to_owned(), error);
        let endpoints = folder.join("endpoints.yaml");
        fs::write(&endpoints, endpoints_file(servers)).map_err(|error| file(&endpoints, error))?;
        let log = folder.join("pointsman.log");
        let output = File::create(&log).map_err(|error| file(&log, error))?;
        let failed = |reason: String| PointsmanError::Process(reason, log.clone());
        let mut child = Command::new(executable)
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
            .map_err(|error| failed(format!("{}: {error}", executable.display())))?;
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
            ext_proc,
            admin,
            pid: child.id(),
            child,
            log,
        })
    }

    /// Waits until it is ready: every endpoint has been read.
    ///
    /// # Errors
    /// [`PointsmanError::Process`], if it is not in time.
    pub async fn wait_until_ready(&self) -> Result<(), PointsmanError> {
        let deadline = Instant::now() + READY_MAX;
        let url = format!("http://{}/readyz", self.admin);
        while Instant::now() < deadline {
            let answer = reqwest::get(&url).await;
            if answer.is_ok_and(|answer| answer.status().is_success()) {
                return Ok(());
            }
            sleep(LOOK_EVERY).await;
        }
        Err(self.failed(format!("not ready after {READY_MAX:?}")))
    }

    /// What its admin port answers to `path`, which is JSON.
    ///
    /// # Errors
    /// [`PointsmanError::Process`], if it does not answer.
    pub async fn get(&self, path: &str) -> Result<Value, PointsmanError> {
        let failed = |error: reqwest::Error| self.failed(error.to_string());
        let answer = reqwest::get(format!("http://{}{path}", self.admin)).await;
        answer.map_err(failed)?.json().await.map_err(failed)
    }

    fn failed(&self, reason: String) -> PointsmanError {
        PointsmanError::Process(reason, self.log.clone())
    }
}

impl Drop for Pointsman {
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
    if lines.is_empty() {
        return "endpoints: []\n".to_owned();
    }
    format!("endpoints:\n{lines}")
}

//! A `pointsman` process that can be ended and started again on the same port.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::Value;
use tokio::time::{Instant, sleep};

use super::{LOOK_EVERY, PATIENCE, RestartError, Signal};

/// The process; killed when dropped.
pub(super) struct Pointsman {
    executable: PathBuf,
    folder: PathBuf,
    port: u16,
    child: Child,
    admin: Option<SocketAddr>,
}

impl Pointsman {
    /// Starts it for these servers.
    pub(super) fn start(
        executable: &Path,
        folder: &Path,
        port: u16,
        servers: &[SocketAddr],
    ) -> Result<Self, RestartError> {
        let line = |(index, server): (usize, &SocketAddr)| {
            let (ip, port) = (server.ip(), server.port());
            format!("- {{name: sim-{index}, address: {ip}, port: {port}}}\n")
        };
        let lines: String = servers.iter().enumerate().map(line).collect();
        fs::write(
            folder.join("endpoints.yaml"),
            format!("endpoints:\n{lines}"),
        )?;
        let (child, admin) = spawn(executable, folder, port)?;
        Ok(Self {
            executable: executable.to_owned(),
            folder: folder.to_owned(),
            port,
            child,
            admin,
        })
    }

    /// Starts it again, after it has ended.
    pub(super) fn start_again(&mut self) -> Result<(), RestartError> {
        (self.child, self.admin) = spawn(&self.executable, &self.folder, self.port)?;
        Ok(())
    }

    pub(super) fn signal(&mut self, signal: Signal) -> Result<(), RestartError> {
        match signal {
            Signal::Kill => self.child.kill()?,
            Signal::Term => {
                let pid = self.child.id().to_string();
                Command::new("kill").args(["-TERM", &pid]).status()?;
            }
        }
        Ok(())
    }

    pub(super) async fn wait_until_ended(&mut self) -> Result<(), RestartError> {
        let deadline = Instant::now() + PATIENCE;
        while self.child.try_wait()?.is_none() {
            if Instant::now() > deadline {
                return Err(self.failed("it does not end".to_owned()));
            }
            sleep(LOOK_EVERY).await;
        }
        Ok(())
    }

    pub(super) async fn is_ready(&self) -> bool {
        let Some(admin) = self.admin else {
            return false;
        };
        let answer = reqwest::get(format!("http://{admin}/readyz")).await;
        answer.is_ok_and(|answer| answer.status().is_success())
    }

    pub(super) fn failed(&self, reason: String) -> RestartError {
        RestartError::Picker(reason, log(&self.folder))
    }
}

impl Drop for Pointsman {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn log(folder: &Path) -> PathBuf {
    folder.join("pointsman.log")
}

/// Starts the process, and reads where it listens.
fn spawn(
    executable: &Path,
    folder: &Path,
    port: u16,
) -> Result<(Child, Option<SocketAddr>), RestartError> {
    let output = File::options()
        .create(true)
        .append(true)
        .open(log(folder))?;
    let mut child = Command::new(executable)
        .arg("serve")
        .arg("--endpoints")
        .arg(folder.join("endpoints.yaml"))
        .arg(format!("--grpc-port={port}"))
        .args(["--bind-address=127.0.0.1", "--grpc-health-port=0"])
        .arg("--metrics-port=0")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(output)
        .spawn()?;
    let mut line = String::new();
    if let Some(output) = child.stdout.take() {
        BufReader::new(output).read_line(&mut line)?;
    }
    let said: Value = serde_json::from_str(&line).unwrap_or_default();
    let admin = said["listening"]["admin"].as_str();
    let admin = admin.and_then(|text| text.parse().ok());
    if admin.is_none() {
        drop(child.kill());
        drop(child.wait());
        let reason = "it did not say where it listens".to_owned();
        return Err(RestartError::Picker(reason, log(folder)));
    }
    Ok((child, admin))
}

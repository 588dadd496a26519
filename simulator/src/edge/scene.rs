//! What runs while the edge is measured: model servers, the picker and the echoing server, each a process of its own.

use std::error::Error;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::pointsman::Pointsman;

/// Everything that runs; all of it ends when this is dropped.
pub(super) struct Scene {
    pub(super) picker: Pointsman,
    pub(super) noop: Own,
    endpoints: Vec<SocketAddr>,
    _servers: Own,
}

/// This program as a child process; ended when dropped.
pub(super) struct Own {
    /// The last word of its first line: where it listens, of the first if it is several.
    pub(super) address: String,
    pub(super) pid: u32,
    child: Child,
}

impl Scene {
    /// Starts all, and waits until the picker has read its endpoints.
    pub(super) async fn start(
        pointsman: &Path,
        folder: &Path,
        endpoints: u16,
    ) -> Result<Self, Box<dyn Error>> {
        let count = endpoints.to_string();
        let (servers, lines) = Own::start(
            &["serve", "--port", "0", "--count", &count],
            usize::from(endpoints),
        )?;
        let endpoints = lines.iter().map(|line| {
            let address = line.trim_start_matches("http://");
            address.parse().map_err(|_| format!("{line} is no address"))
        });
        let endpoints: Vec<SocketAddr> = endpoints.collect::<Result<_, _>>()?;
        let (noop, _) = Own::start(&["noop", "--port", "0"], 1)?;
        let picker = Pointsman::start(pointsman, folder, &endpoints)?;
        picker.wait_until_ready().await?;
        Ok(Self {
            picker,
            noop,
            endpoints,
            _servers: servers,
        })
    }

    /// One more picker of the same endpoints.
    pub(super) async fn another_picker(
        &self,
        pointsman: &Path,
        folder: &Path,
    ) -> Result<Pointsman, Box<dyn Error>> {
        let picker = Pointsman::start(pointsman, folder, &self.endpoints)?;
        picker.wait_until_ready().await?;
        Ok(picker)
    }
}

impl Own {
    /// Starts this program and reads the last words of its first `lines` lines.
    fn start(arguments: &[&str], lines: usize) -> Result<(Self, Vec<String>), Box<dyn Error>> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()?;
        let output = child.stdout.take().ok_or("no standard output")?;
        let mut own = Self {
            address: String::new(),
            pid: child.id(),
            child,
        };
        let mut words = Vec::with_capacity(lines);
        for line in BufReader::new(output).lines().take(lines) {
            let line = line?;
            words.push(line.rsplit(' ').next().unwrap_or_default().to_owned());
        }
        if words.len() < lines {
            return Err(format!("{} has ended early", arguments.join(" ")).into());
        }
        own.address = words.first().cloned().unwrap_or_default();
        Ok((own, words))
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

//! Restarts: what clients lose while a picker is told to end, or is killed, under load through a real Envoy.
//!
//! For each way to follow responses there is one Envoy, as its sample has it, in front of simulated servers that it can reach
//! without a pick too. In each round load begins, the picker gets its signal a second later, and a new one is started on the same
//! port; the round is over when its last answer has come and Envoy sees the new picker.

mod process;

use std::fmt;
use std::io::{self, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;
use serde_json::json;
use thiserror::Error;
use tokio::time::{Instant, sleep};

use self::process::Pointsman;
use crate::engine::Profile;
use crate::envoy::{Differences, Envoy, EnvoyError, Plan, Route, Upstream};
use crate::load::ext_proc::Follow;
use crate::load::{self, LoadError, LoadPlan};
use crate::serve::{self, ServeError, Server};
use crate::workload::Workload;

/// How to restart.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// The `envoy` executable.
    #[arg(long)]
    pub envoy: PathBuf,
    /// The `pointsman` executable.
    #[arg(long)]
    pub pointsman: PathBuf,
    /// The folder for configurations and logs.
    #[arg(long, default_value = "target/restart")]
    pub out: PathBuf,
    /// Restarts by each signal.
    #[arg(long, default_value_t = 10)]
    pub restarts: usize,
    /// Requests a second.
    #[arg(long, default_value_t = 200.0)]
    pub rate: f64,
    /// Seconds of load in each round.
    #[arg(long, default_value_t = 8)]
    pub seconds: u64,
    /// The ways to follow responses.
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        default_value = "watched,one-filter,full,released"
    )]
    pub follow: Vec<Way>,
    /// The signals.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "term,kill")]
    pub signal: Vec<Signal>,
    /// Print JSON instead of a table.
    #[arg(long)]
    pub json: bool,
}

/// How responses are followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Way {
    /// By a filter of its own, which only watches.
    Watched,
    /// By the filter that asks where a request goes: its stream stays open, and ends when the response does.
    OneFilter,
    /// They pass through the picker.
    Full,
    /// Not at all.
    Released,
}

/// How a picker is made to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Signal {
    /// SIGTERM.
    Term,
    /// SIGKILL.
    Kill,
}

/// What was lost with one signal and one way to follow.
#[derive(Clone, Debug, Serialize)]
pub struct Losses {
    /// How responses were followed.
    pub follow: &'static str,
    /// The signal.
    pub signal: Signal,
    /// Requests sent.
    pub requests: u64,
    /// Requests lost in each round: not answered with 200, or not to the end.
    pub lost: Vec<u64>,
    /// How they were lost, in all rounds.
    pub kinds: std::collections::BTreeMap<String, u64>,
}

/// Why it ended early.
#[derive(Debug, Error)]
pub enum RestartError {
    /// A file could not be written, or a port found.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The model servers did not start.
    #[error(transparent)]
    Servers(#[from] ServeError),
    /// Envoy did not start.
    #[error(transparent)]
    Envoy(#[from] EnvoyError),
    /// The load could not be sent.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The picker did not start, did not end, or is not seen.
    #[error("pointsman: {0}; its log is {1}")]
    Picker(String, PathBuf),
}

/// How long anything may take that has to come to pass.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often is looked whether it has.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// How long after the beginning of the load the signal comes.
const LOAD_BEFORE: Duration = Duration::from_secs(1);
/// Model servers.
const SERVERS: usize = 4;

/// Restarts, and writes what was lost to standard output.
///
/// # Errors
/// [`RestartError`].
pub async fn run(options: &Options) -> Result<(), RestartError> {
    let losses = measure(options).await?;
    let mut out = io::stdout().lock();
    if options.json {
        let text = serde_json::to_string(&losses).map_err(io::Error::other)?;
        writeln!(out, "{text}")?;
        return Ok(());
    }
    writeln!(out, "{}", Table(&losses))?;
    Ok(())
}

/// Restarts, and returns what was lost, by way and signal.
///
/// # Errors
/// [`RestartError`].
pub async fn measure(options: &Options) -> Result<Vec<Losses>, RestartError> {
    let mut losses = Vec::new();
    for &follow in &options.follow {
        let mut scene = Scene::start(options, follow).await?;
        for &signal in &options.signal {
            let mut all = Losses {
                follow: follow.name(),
                signal,
                requests: 0,
                lost: Vec::new(),
                kinds: std::collections::BTreeMap::new(),
            };
            for round in 0..options.restarts {
                scene.restart(options, signal, round, &mut all).await?;
            }
            losses.push(all);
        }
    }
    Ok(losses)
}

impl Way {
    fn name(self) -> &'static str {
        match self {
            Self::Watched => "watched",
            Self::OneFilter => "watched by one filter",
            Self::Full => "full",
            Self::Released => "released",
        }
    }

    /// The sample to start from, and what is other than in it.
    fn configuration(self) -> (Follow, Differences) {
        let as_it_is = Differences::default();
        match self {
            Self::Watched => (Follow::Watched, as_it_is),
            Self::Full => (Follow::Full, as_it_is),
            Self::Released => (Follow::Released, as_it_is),
            Self::OneFilter => {
                let differences = Differences {
                    call_metadata: vec![("x-pointsman-follow", "watched")],
                    processing_mode: Some(json!({
                        "request_header_mode": "SEND", "response_header_mode": "SEND",
                        "request_body_mode": "FULL_DUPLEX_STREAMED", "response_body_mode": "NONE",
                        "request_trailer_mode": "SEND", "response_trailer_mode": "SEND",
                    })),
                    ..as_it_is
                };
                (Follow::Full, differences)
            }
        }
    }
}

/// Servers, picker and Envoy; all end when this is dropped.
struct Scene {
    _servers: Vec<Server>,
    picker: Pointsman,
    envoy: Envoy,
}

impl Scene {
    async fn start(options: &Options, way: Way) -> Result<Self, RestartError> {
        let (follow, differences) = way.configuration();
        let folder = options.out.join(way.name());
        std::fs::create_dir_all(&folder)?;
        let servers = serve::Options::local(SERVERS, "base", &[], Profile::demo());
        let servers = serve::spawn(serve::Options {
            remember: 0,
            ..servers
        })
        .await?;
        let addresses: Vec<SocketAddr> = servers.iter().map(Server::address).collect();
        let port = free_port()?;
        let picker = Pointsman::start(&options.pointsman, &folder, port, &addresses)?;
        let envoy = Envoy::start(&Plan {
            executable: options.envoy.clone(),
            folder,
            picker: SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
            picker_security: None,
            servers: addresses,
            routes: vec![Route {
                prefix: "/".into(),
                to: Upstream::OverrideHost,
                pool: None,
            }],
            follow,
            differences,
            concurrency: 1,
        })
        .await?;
        let scene = Self {
            _servers: servers,
            picker,
            envoy,
        };
        scene.wait_until_seen().await?;
        Ok(scene)
    }

    /// One round; adds what was lost.
    async fn restart(
        &mut self,
        options: &Options,
        signal: Signal,
        round: usize,
        all: &mut Losses,
    ) -> Result<(), RestartError> {
        let url = format!("http://{}", self.envoy.address);
        let duration = Duration::from_secs(options.seconds);
        let workload = Workload::uniform(256, 1, 0);
        let plan = LoadPlan {
            seed: round as u64,
            timeout: PATIENCE,
            ..LoadPlan::new(&url, "base", workload, options.rate, duration)
        };
        let restarted = async {
            sleep(LOAD_BEFORE).await;
            self.picker.signal(signal)?;
            self.picker.wait_until_ended().await?;
            self.picker.start_again()
        };
        let (report, restarted) = tokio::join!(load::run(plan), restarted);
        restarted?;
        let report = report?;
        all.requests += report.requests;
        all.lost.push(report.errors);
        for (kind, count) in report.errors_by_kind {
            *all.kinds.entry(kind).or_default() += count;
        }
        self.wait_until_seen().await
    }

    /// Waits until Envoy sees a picker that is ready.
    async fn wait_until_seen(&self) -> Result<(), RestartError> {
        let deadline = Instant::now() + PATIENCE;
        let healthy = "cluster.picker.membership_healthy";
        while !self.picker.is_ready().await || self.envoy.stat(healthy).await != Some(1) {
            if Instant::now() > deadline {
                let reason = "Envoy does not see a picker that is ready".to_owned();
                return Err(self.picker.failed(reason));
            }
            sleep(LOOK_EVERY).await;
        }
        Ok(())
    }
}

/// A port that nobody has, so that one picker after the other can have it.
fn free_port() -> Result<u16, io::Error> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    Ok(listener.local_addr()?.port())
}

/// Losses as a person wants to read them.
struct Table<'a>(&'a [Losses]);

impl fmt::Display for Table<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            formatter,
            "{:<10} {:<8} {:>9} {:>9} {:>6} {:>12}  how",
            "follow", "signal", "restarts", "requests", "lost", "most at once"
        )?;
        for losses in self.0 {
            let kinds = losses.kinds.iter();
            let kinds: Vec<String> = kinds
                .map(|(kind, count)| format!("{count} {kind}"))
                .collect();
            writeln!(
                formatter,
                "{:<10} {:<8} {:>9} {:>9} {:>6} {:>12}  {}",
                losses.follow,
                match losses.signal {
                    Signal::Term => "SIGTERM",
                    Signal::Kill => "SIGKILL",
                },
                losses.lost.len(),
                losses.requests,
                losses.lost.iter().sum::<u64>(),
                losses.lost.iter().max().unwrap_or(&0),
                kinds.join(", ")
            )?;
        }
        Ok(())
    }
}

//! Model servers in real time: one engine each behind an HTTP API that answers as vLLM 0.32.0 does.
//!
//! Tests start them with [`spawn`] and look into them with [`Server::received`]; `pointsman-sim serve` does the same
//! and waits.

pub mod arguments;

mod adapters;
mod api;
mod connections;
mod control;
mod drive;
mod openai;
mod received;
mod refusal;
mod vocabulary;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::engine::profile::ProfileError;
use crate::engine::{Engine, Profile};

pub use control::Termination;
pub use received::{Received, body_hash};

use adapters::Adapters;
use connections::Ends;
use control::Control;
use received::Record;

/// What to serve, and where.
#[derive(Clone, Debug)]
pub struct Options {
    /// The base model's name.
    pub model: String,
    /// The adapters that `/v1/models` lists; all of them servable, up to `max_loras` resident.
    pub adapters: Vec<String>,
    /// Hardware and settings of every server.
    pub profile: Profile,
    /// One server for each; port 0 takes a free one.
    pub addresses: Vec<SocketAddr>,
    /// Requests that each server remembers for [`Server::received`]; the oldest are forgotten first.
    pub remember: usize,
    /// vLLM's `--max-num-queued-reqs`: requests in a server beyond which it answers 503.
    pub max_num_queued_reqs: Option<usize>,
    /// vLLM's `--enable-server-load-tracking`: `/load` tells the requests in flight, and not 0.
    pub track_load: bool,
    /// Whether `/sim/state` is served, by which anybody who reaches a server can make it crash, hang, slow down or fail.
    pub control: bool,
}

impl Options {
    /// `count` servers of `profile` on free ports of 127.0.0.1, which remember 10,000 requests each: what tests want.
    #[must_use]
    pub fn local(count: usize, model: &str, adapters: &[&str], profile: Profile) -> Self {
        Self {
            model: model.to_owned(),
            adapters: adapters.iter().map(|&name| name.to_owned()).collect(),
            profile,
            addresses: vec![SocketAddr::from(([127, 0, 0, 1], 0)); count],
            remember: 10_000,
            max_num_queued_reqs: None,
            track_load: false,
            control: false,
        }
    }
}

/// Why servers did not start.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The profile cannot serve.
    #[error(transparent)]
    Profile(#[from] ProfileError),
    /// There are adapters and no slot for any.
    #[error("adapters are given and max_loras is 0: give --max-loras at least 1")]
    NoAdapterSlots,
    /// An address could not be listened on.
    #[error("cannot listen on {address}: {error}; choose another port")]
    Listen {
        /// The address asked for.
        address: SocketAddr,
        /// What the system said.
        error: io::Error,
    },
}

/// Starts every server of `options`; they stop when the last [`Server`] is dropped.
///
/// # Errors
/// Says what does not fit, or which address is taken. None is left running then.
pub async fn spawn(options: Options) -> Result<Vec<Server>, ServeError> {
    options.profile.validate()?;
    if !options.adapters.is_empty() && options.profile.max_loras == 0 {
        return Err(ServeError::NoAdapterSlots);
    }
    let mut servers = Vec::with_capacity(options.addresses.len());
    for (index, &address) in options.addresses.iter().enumerate() {
        let listener = listen(address).await?;
        let address = listener
            .local_addr()
            .map_err(|error| ServeError::Listen { address, error })?;
        let identity = Arc::new(Identity {
            name: format!("sim-{index}"),
            address,
            model: options.model.clone(),
            adapters: options.adapters.clone(),
            profile: options.profile.clone(),
            max_num_queued_reqs: options.max_num_queued_reqs,
            track_load: options.track_load,
            control: options.control,
        });
        let record = Arc::new(Record::new(options.remember));
        let running = Some(Running::start(listener, &identity, &record));
        servers.push(Server {
            identity,
            record,
            running,
        });
    }
    Ok(servers)
}

/// What does not change over a server's life, restarts included.
#[derive(Debug)]
struct Identity {
    name: String,
    address: SocketAddr,
    model: String,
    adapters: Vec<String>,
    profile: Profile,
    max_num_queued_reqs: Option<usize>,
    track_load: bool,
    control: bool,
}

/// One running server. Dropping it stops it at once.
#[derive(Debug)]
pub struct Server {
    identity: Arc<Identity>,
    record: Arc<Record>,
    running: Option<Running>,
}

impl Server {
    /// Where it listens, with the real port.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.identity.address
    }

    /// Its name: the `x-inference-pod` of its answers.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.identity.name
    }

    /// The requests it received, oldest first, before and after restarts; `/metrics` and `/health` are left out, which are
    /// asked for all the time.
    #[must_use]
    pub fn received(&self) -> Vec<Received> {
        self.record.all()
    }

    /// Requests that its engine has not finished; 0 while it is killed.
    pub async fn unfinished(&self) -> usize {
        match &self.running {
            Some(running) => running.engine.unfinished().await,
            None => 0,
        }
    }

    /// Dies as a killed process does: the port closes and every connection breaks off. Returns when that is done.
    pub async fn kill(&mut self) {
        if let Some(running) = self.running.take() {
            running.stop().await;
        }
    }

    /// Starts again on the same port, killed before or not: an empty queue, no resident adapters, counters at zero.
    ///
    /// # Errors
    /// The port may have been taken by somebody else.
    pub async fn restart(&mut self) -> Result<(), ServeError> {
        self.kill().await;
        let listener = listen(self.identity.address).await?;
        self.running = Some(Running::start(listener, &self.identity, &self.record));
        Ok(())
    }

    /// The engine crashes, as recorded: streams get an error event and `[DONE]`, other requests status 500, the port closes.
    /// [`Server::exited`] follows some 5 s later.
    pub async fn crash(&self) {
        if let Some(running) = &self.running {
            running.control.crash().await;
        }
    }

    /// The engine hangs: `/health` and `/v1/models` answer, `/metrics` stands still, requests get no token and no end.
    pub async fn hang(&self) {
        if let Some(running) = &self.running {
            running.control.hang(true).await;
        }
    }

    /// A hung engine goes on where it was.
    pub async fn resume(&self) {
        if let Some(running) = &self.running {
            running.control.hang(false).await;
        }
    }

    /// Steps take the time of the profile divided by `speed` from now on: 0.5 is half as fast. Until the next restart.
    pub async fn set_speed(&self, speed: f64) {
        if let Some(running) = &self.running {
            running.control.set_speed(speed).await;
        }
    }

    /// This share of the requests to generate, evenly spread, is answered with status 500. Until the next restart.
    pub fn fail_share(&self, share: f64) {
        if let Some(running) = &self.running {
            running.control.fail(share);
        }
    }

    /// Ends as SIGTERM ends vLLM. Returns when the port has closed, or when a drain has hung.
    pub async fn terminate(&self, termination: Termination) {
        if let Some(running) = &self.running {
            running.control.terminate(termination).await;
        }
    }

    /// Returns when its process would have ended: after a kill, a crash or a termination.
    pub async fn exited(&self) {
        if let Some(running) = &self.running {
            running.exited.cancelled().await;
        }
    }
}

/// The tasks of one life of a server.
#[derive(Debug)]
struct Running {
    engine: drive::EngineHandle,
    control: Arc<Control>,
    ends: Ends,
    exited: CancellationToken,
    connections: Option<JoinHandle<()>>,
}

impl Running {
    fn start(listener: TcpListener, identity: &Arc<Identity>, record: &Arc<Record>) -> Self {
        let adapters = Arc::new(Adapters::new(&identity.model, &identity.adapters));
        let engine = drive::start(
            Engine::new(identity.profile.clone()),
            Arc::clone(identity),
            Arc::clone(&adapters),
        );
        let ends = Ends::default();
        let exited = CancellationToken::new();
        let control = Arc::new(Control::new(engine.clone(), ends.close.clone()));
        let api = api::Api::new(
            Arc::clone(identity),
            adapters,
            engine.clone(),
            Arc::clone(&control),
            Arc::clone(record),
        );
        let accepting = connections::accept(listener, Arc::new(api), ends.clone());
        let (ended, lingering) = (exited.clone(), Arc::clone(&control));
        let stop = ends.stop.clone();
        let connections = tokio::spawn(async move {
            accepting.await;
            tokio::select! {
                () = stop.cancelled() => {}
                () = sleep(lingering.lingers()) => {}
            }
            ended.cancel();
        });
        Self {
            engine,
            control,
            ends,
            exited,
            connections: Some(connections),
        }
    }

    async fn stop(mut self) {
        self.ends.stop.cancel();
        if let Some(connections) = self.connections.take() {
            // A panic of a connection has been reported where it happened; the port is closed either way.
            drop(connections.await);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.ends.stop.cancel();
    }
}

async fn listen(address: SocketAddr) -> Result<TcpListener, ServeError> {
    TcpListener::bind(address)
        .await
        .map_err(|error| ServeError::Listen { address, error })
}

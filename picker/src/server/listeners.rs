//! Listeners that are one pool's alone: opened and closed as the pools of a cluster come and go.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tracing::{info, warn};

use super::{incoming, serving};
use crate::tls::{Acceptor, Tally};

/// The most listeners of single pools. Whoever may make pools and Services may ask for them.
const LISTENERS_MAX: usize = 256;
/// The lowest port that a pool can get: those below are the machine's.
const PORT_MIN: u16 = 1024;
/// The wait before a port that is taken is tried again.
const AGAIN: Duration = Duration::from_secs(5);

/// What it takes to open listeners.
pub(super) struct Listeners {
    pub(super) address: IpAddr,
    pub(super) acceptor: Acceptor,
    pub(super) tally: Arc<Tally>,
    pub(super) services: Routes,
    pub(super) stop: CancellationToken,
}

impl Listeners {
    /// Has open what `wanted` says, for ever.
    pub(super) async fn follow(self, mut wanted: watch::Receiver<BTreeSet<u16>>) {
        let mut open: BTreeMap<u16, CancellationToken> = BTreeMap::new();
        let mut tasks = JoinSet::new();
        loop {
            let ports = wanted.borrow_and_update().clone();
            open.retain(|port, stop| {
                let stays = ports.contains(port);
                if !stays {
                    info!(port, "the listener of a pool is closed");
                    stop.cancel();
                }
                stays
            });
            let mut refused = false;
            for &port in ports.iter().take(LISTENERS_MAX) {
                if open.contains_key(&port) {
                    continue;
                }
                match self.open(port).await {
                    Ok((serving, stop)) => {
                        info!(port, "the listener of a pool is open");
                        tasks.spawn(serving);
                        open.insert(port, stop);
                    }
                    Err(error) => {
                        warn!(port, %error, "the Service of a pool leads to a port that cannot be had; change its targetPort");
                        refused = true;
                    }
                }
            }
            if ports.len() > LISTENERS_MAX {
                warn!(
                    wanted = ports.len(),
                    most = LISTENERS_MAX,
                    "too many pools want a port of their own"
                );
            }
            tokio::select! {
                changed = wanted.changed() => if changed.is_err() { return },
                Some(_) = tasks.join_next(), if !tasks.is_empty() => {}
                () = tokio::time::sleep(AGAIN), if refused => {}
            }
        }
    }

    async fn open(
        &self,
        port: u16,
    ) -> io::Result<(impl Future<Output = ()> + use<>, CancellationToken)> {
        if port < PORT_MIN {
            return Err(io::Error::other(format!(
                "ports below {PORT_MIN} are not given"
            )));
        }
        let listener = TcpListener::bind(SocketAddr::new(self.address, port)).await?;
        let incoming = incoming::begun(listener, self.acceptor.clone(), self.tally.clone());
        let stop = self.stop.child_token();
        let serving = serving(incoming, self.services.clone(), stop.clone());
        Ok((serving, stop))
    }
}

//! The demo's cast: model servers in this process, the picker and Envoy as processes of their own.

use std::net::SocketAddr;

use serde_json::Value;

use super::{DemoError, Options, SERVERS};
use crate::engine::Profile;
use crate::envoy::{Differences, Envoy, Plan, Route, Upstream};
use crate::load::ext_proc::Follow;
use crate::pointsman::Pointsman;
use crate::serve::{self, Server};
use crate::workload::{Workload, adapter_names};

/// The base model's name.
pub(super) const MODEL: &str = "base";

/// Everything that runs; all of it ends when this is dropped.
pub(super) struct Scene {
    servers: Vec<Server>,
    picker: Pointsman,
    envoy: Envoy,
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
        let picker = Pointsman::start(&options.pointsman, &options.out, &addresses)?;
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

//! The scene of these tests: one pool, `ai/chat`, and an edge before it.

use std::sync::Arc;
use std::time::Duration;

use picker_core::Settings;
use picker_core::endpoint::Endpoint;
use picker_core::engine::Engine;
use picker_core::route::PoolKey;
use prometheus_client::registry::Registry;

use crate::driver::{DriverMetrics, Handle, PoolSpec, Pools};
use crate::extproc::attributes::Trust;
use crate::extproc::exchange::{Caller, Exchange};
use crate::extproc::watch::Watcher;
use crate::extproc::{EdgeMetrics, EdgeSettings, Surroundings};

pub(super) const SETTINGS: EdgeSettings = EdgeSettings {
    body_limit: 200_000,
    bodies_limit: 1 << 20,
    body_wait: Duration::from_secs(10),
    pick_budget: Duration::from_millis(50),
    trust: Trust {
        headers: false,
        test_selection: false,
    },
    fallbacks: 0,
    catalogue: true,
    ask_for_body: false,
};

pub(super) struct Scene {
    pub(super) edge: Arc<Surroundings>,
    registry: Registry,
}

impl Scene {
    pub(super) fn of(addresses: &[&str], settings: EdgeSettings) -> Self {
        Self::with(addresses, settings, PoolSpec::default())
    }

    /// A scene whose pool has these endpoints, and is else as `spec` says.
    pub(super) fn with(addresses: &[&str], settings: EdgeSettings, spec: PoolSpec) -> Self {
        let mut registry = Registry::default();
        let metrics = DriverMetrics::register(&mut registry);
        let core = Settings {
            seed: 1,
            reading_interval_min: Duration::from_millis(50),
        };
        let (pools, _errands) = Pools::new(core, 1 << 20, metrics);
        let endpoint = |address: &&str| Endpoint {
            identity: (*address).into(),
            name: (*address).into(),
            address: address.parse().expect("an address"),
            engine: Engine::vllm(),
        };
        let spec = PoolSpec {
            endpoints: addresses.iter().map(endpoint).collect(),
            ..spec
        };
        pools.replace(vec![(PoolKey::new("ai", "chat"), spec)]);
        let metrics = EdgeMetrics::register(&mut registry);
        let edge = Arc::new(Surroundings::new(pools, settings, metrics));
        Self { edge, registry }
    }

    pub(super) fn exchange(&self, caller: Caller) -> Exchange {
        Exchange::new(self.edge.clone(), caller)
    }

    pub(super) fn watcher(&self) -> Watcher {
        Watcher::new(self.edge.clone())
    }

    pub(super) fn pool(&self) -> Handle {
        self.edge.pools.all().remove(0)
    }

    /// The metrics page.
    pub(super) fn metrics(&self) -> String {
        let mut page = String::new();
        prometheus_client::encoding::text::encode(&mut page, &self.registry).expect("a page");
        page
    }
}

//! Publishing: in the namespace of each pool, the Service that the pool names as its picker, leading to this picker's
//! pods.
//!
//! A Service selects pods of its own namespace alone, so for other namespaces it has none and EndpointSlices beside it
//! name the pods. Every replica writes the same, so none has to be chosen for it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::timeout;
use tracing::{info, warn};

use super::object::ObjectKey;
use crate::driver::{Need, Pools, SourceState};

/// Who manages what is written, in labels and as field manager.
const MANAGER: &str = "pointsman";
const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// The source by which it is known how publishing fares.
const SOURCE: &str = "published services";
/// The wait before what failed is tried again, and before what others may have changed is written again.
const AGAIN: Duration = Duration::from_secs(15);

/// What is to be there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Desired {
    /// The Services that pools name as their picker, each with its ports.
    pub(super) services: BTreeMap<ObjectKey, BTreeSet<u16>>,
    /// The addresses of the picker's ready pods.
    pub(super) replicas: BTreeSet<IpAddr>,
}

pub(super) struct Publisher {
    pub(super) client: Client,
    /// The namespaces that are served; every one if there are none.
    pub(super) namespaces: BTreeSet<String>,
    /// The port of the listener for all pools.
    pub(super) port: u16,
    pub(super) pools: Arc<Pools>,
}

impl Publisher {
    /// Announces itself, so that readiness waits until it is known whether it may write.
    pub(super) fn begin(&self) {
        self.pools.sources().begin(SOURCE, Need::Answered);
    }

    /// Has there what is desired, for ever.
    pub(super) async fn follow(self, mut desired: watch::Receiver<Desired>) {
        loop {
            let wanted = desired.borrow_and_update().clone();
            let state = match self.publish(&wanted).await {
                Ok(()) => SourceState::Synced,
                Err(kube::Error::Api(status)) if status.code == 403 => {
                    let remedy = "grant create, patch, delete and list on services and endpointslices.discovery.k8s.io";
                    SourceState::Forbidden(remedy.to_owned())
                }
                Err(error) => SourceState::Failing(error.to_string()),
            };
            let words = state.to_string();
            if self.pools.sources().set(SOURCE, state) {
                info!(state = words, "published services");
            }
            // What somebody else deletes comes back with the next round.
            if let Ok(Err(_)) = timeout(AGAIN, desired.changed()).await {
                return;
            }
        }
    }

    async fn publish(&self, wanted: &Desired) -> kube::Result<()> {
        for (key, ports) in &wanted.services {
            self.write(key, ports, &wanted.replicas).await?;
        }
        // Before all pools are known, a Service that none of them names may still be named by another.
        if self.pools_are_known() {
            self.remove_others(wanted).await?;
        }
        Ok(())
    }

    fn pools_are_known(&self) -> bool {
        let guards = self.pools.sources().guards();
        let mut others = guards.iter().filter(|(name, _)| !name.starts_with(SOURCE));
        others.all(|(_, missing)| missing.is_none())
    }

    async fn write(
        &self,
        key: &ObjectKey,
        ports: &BTreeSet<u16>,
        replicas: &BTreeSet<IpAddr>,
    ) -> kube::Result<()> {
        let services: Api<v1::Service> = Api::namespaced(self.client.clone(), &key.namespace);
        let there = services.get_opt(&key.name).await?;
        if there.is_some_and(|service| {
            service
                .labels()
                .get(MANAGED_BY)
                .is_none_or(|it| it != MANAGER)
        }) {
            // Somebody's own Service: it leads where they want.
            return Ok(());
        }
        let parameters = PatchParams::apply(MANAGER).force();
        let service = service(&key.name, ports, self.port);
        services
            .patch(&key.name, &parameters, &Patch::Apply(&service))
            .await?;
        let slices: Api<EndpointSlice> = Api::namespaced(self.client.clone(), &key.namespace);
        for (family, suffix) in [("IPv4", "ipv4"), ("IPv6", "ipv6")] {
            let addresses = replicas
                .iter()
                .filter(|ip| ip.is_ipv4() == (family == "IPv4"));
            let name = format!("{}-{MANAGER}-{suffix}", key.name);
            let slice = slice(&name, &key.name, family, ports, self.port, addresses);
            slices
                .patch(&name, &parameters, &Patch::Apply(&slice))
                .await?;
        }
        Ok(())
    }

    /// Removes what was published for pools that are gone.
    async fn remove_others(&self, wanted: &Desired) -> kube::Result<()> {
        let ours = ListParams::default().labels(&format!("{MANAGED_BY}={MANAGER}"));
        let apis: Vec<Api<v1::Service>> = if self.namespaces.is_empty() {
            vec![Api::all(self.client.clone())]
        } else {
            let of = |namespace: &String| Api::namespaced(self.client.clone(), namespace);
            self.namespaces.iter().map(of).collect()
        };
        for api in apis {
            for service in api.list(&ours).await? {
                let key = ObjectKey::of(&service.metadata);
                if wanted.services.contains_key(&key)
                    || service.metadata.deletion_timestamp.is_some()
                {
                    continue;
                }
                warn!(namespace = %key.namespace, name = %key.name, "no pool names this Service any more; it is removed");
                let services: Api<v1::Service> =
                    Api::namespaced(self.client.clone(), &key.namespace);
                services.delete(&key.name, &DeleteParams::default()).await?;
                let slices: Api<EndpointSlice> =
                    Api::namespaced(self.client.clone(), &key.namespace);
                let of_service = ListParams::default()
                    .labels(&format!("kubernetes.io/service-name={}", key.name));
                slices
                    .delete_collection(&DeleteParams::default(), &of_service)
                    .await?;
            }
        }
        Ok(())
    }
}

fn service(name: &str, ports: &BTreeSet<u16>, target: u16) -> Value {
    let port = |&port: &u16| {
        json!({
            "name": format!("grpc-{port}"),
            "port": port,
            "targetPort": target,
            "appProtocol": "kubernetes.io/h2c",
        })
    };
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "labels": {MANAGED_BY: MANAGER}},
        "spec": {"ports": ports.iter().map(port).collect::<Vec<_>>()},
    })
}

fn slice<'a>(
    name: &str,
    service: &str,
    family: &str,
    ports: &BTreeSet<u16>,
    target: u16,
    addresses: impl Iterator<Item = &'a IpAddr>,
) -> Value {
    let port = |port: &u16| {
        json!({
            "name": format!("grpc-{port}"),
            "port": target,
            "protocol": "TCP",
            "appProtocol": "kubernetes.io/h2c",
        })
    };
    let endpoint = |address: &IpAddr| json!({"addresses": [address.to_string()], "conditions": {"ready": true}});
    json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": name,
            "labels": {
                MANAGED_BY: MANAGER,
                "kubernetes.io/service-name": service,
                "endpointslice.kubernetes.io/managed-by": MANAGER,
            },
        },
        "addressType": family,
        "ports": ports.iter().map(port).collect::<Vec<_>>(),
        "endpoints": addresses.map(endpoint).collect::<Vec<_>>(),
    })
}

//! The pool that a request is for: which InferencePool a call to this picker speaks of.
//!
//! The gateway has chosen a pool already; what differs is how that reaches the picker. The first of these that
//! answers wins: the listener's port, the Service in the call's authority, the metadata `x-pointsman-pool`, the
//! addresses of the subset hint, and the only pool there is.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use serde::Serialize;

use crate::endpoint::Subset;

/// The name of an InferencePool.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PoolKey {
    /// The namespace.
    pub namespace: Arc<str>,
    /// The name in the namespace.
    pub name: Arc<str>,
}

/// How calls that speak of one pool are known.
#[derive(Clone, Debug)]
pub struct PoolRoute {
    /// The pool.
    pub pool: PoolKey,
    /// The Service that the pool's `endpointPickerRef` names, in the pool's namespace.
    pub service: Option<Arc<str>>,
    /// The port of a listener that is this pool's alone.
    pub port: Option<u16>,
    /// The addresses of the pool's endpoints.
    pub addresses: BTreeSet<SocketAddr>,
}

/// What a call says of the pool it is for.
#[derive(Clone, Copy, Debug, Default)]
pub struct Call<'a> {
    /// The port on which the call came in.
    pub port: Option<u16>,
    /// The call's `:authority`.
    pub authority: Option<&'a str>,
    /// The gRPC metadata `x-pointsman-pool`: `namespace/name`.
    pub metadata: Option<&'a str>,
    /// The subset hint.
    pub subset: Option<&'a Subset>,
}

/// All pools of a process, published whole.
#[derive(Clone, Debug, Default)]
pub struct Routes {
    pools: Vec<PoolRoute>,
}

/// No pool answers to a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoPool {
    /// The pools there are.
    pub pools: Vec<PoolKey>,
    /// The pool that the call's metadata names, where it names one.
    pub asked: Option<String>,
}

impl Routes {
    /// The routes to `pools`.
    #[must_use]
    pub fn new(mut pools: Vec<PoolRoute>) -> Self {
        pools.sort_by(|one, other| one.pool.cmp(&other.pool));
        Self { pools }
    }

    /// The pool that `call` is for.
    ///
    /// # Errors
    /// [`NoPool`], with the pools that were considered, if nothing in the call tells.
    pub fn resolve(&self, call: &Call<'_>) -> Result<&PoolKey, NoPool> {
        let found = self
            .by_port(call)
            .or_else(|| self.by_authority(call))
            .or_else(|| self.by_metadata(call))
            .or_else(|| self.by_subset(call))
            .or_else(|| self.the_only_one(call));
        found.map(|route| &route.pool).ok_or_else(|| NoPool {
            pools: self.pools.iter().map(|route| route.pool.clone()).collect(),
            asked: call.metadata.map(str::to_owned),
        })
    }

    fn by_port(&self, call: &Call<'_>) -> Option<&PoolRoute> {
        let port = call.port?;
        self.exactly_one(|route| route.port == Some(port))
    }

    fn by_authority(&self, call: &Call<'_>) -> Option<&PoolRoute> {
        let (service, namespace) = service_of(call.authority?)?;
        self.exactly_one(|route| {
            route.service.as_deref() == Some(service) && &*route.pool.namespace == namespace
        })
    }

    fn by_metadata(&self, call: &Call<'_>) -> Option<&PoolRoute> {
        let (namespace, name) = call.metadata?.split_once('/')?;
        self.exactly_one(|route| &*route.pool.namespace == namespace && &*route.pool.name == name)
    }

    fn by_subset(&self, call: &Call<'_>) -> Option<&PoolRoute> {
        let subset = call.subset?;
        self.exactly_one(|route| route.addresses.iter().any(|&at| subset.contains(at)))
    }

    /// The only pool, unless the call's metadata names another.
    fn the_only_one(&self, call: &Call<'_>) -> Option<&PoolRoute> {
        if call.metadata.is_some() {
            return None;
        }
        self.exactly_one(|_| true)
    }

    fn exactly_one(&self, mut wanted: impl FnMut(&PoolRoute) -> bool) -> Option<&PoolRoute> {
        let mut found = self.pools.iter().filter(|route| wanted(route));
        let first = found.next()?;
        found.next().is_none().then_some(first)
    }
}

/// The Service and namespace in an authority such as `picker.inference.svc.cluster.local:9002`, or in the one that
/// Istio sends, `outbound|9002||picker.inference.svc.cluster.local`.
fn service_of(authority: &str) -> Option<(&str, &str)> {
    let host = authority.rsplit('|').next()?;
    let host = host.rsplit_once(':').map_or(host, |(host, _port)| host);
    if host.parse::<IpAddr>().is_ok() {
        return None;
    }
    let mut labels = host.split('.');
    Some((labels.next()?, labels.next()?))
}

// === impl PoolKey ===

impl PoolKey {
    /// The pool `namespace/name`.
    #[must_use]
    pub fn new(namespace: &str, name: &str) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
        }
    }
}

impl fmt::Display for PoolKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.namespace, self.name)
    }
}

impl Serialize for PoolKey {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl fmt::Display for NoPool {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(asked) = &self.asked {
            write!(formatter, "x-pointsman-pool asks for {asked}; ")?;
        }
        if self.pools.is_empty() {
            return formatter.write_str("this picker serves no pool yet");
        }
        formatter.write_str(
            "neither port, Service, x-pointsman-pool nor subset hint names one of the pools here: ",
        )?;
        for (index, pool) in self.pools.iter().enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            write!(formatter, "{comma}{pool}")?;
        }
        Ok(())
    }
}

impl std::error::Error for NoPool {}

#[cfg(test)]
mod tests {
    use super::*;

    fn two_pools() -> Routes {
        let route = |name, service: Option<&str>, port, address: &str| PoolRoute {
            pool: PoolKey::new("ai", name),
            service: service.map(Arc::from),
            port,
            addresses: BTreeSet::from([address.parse().expect("an address")]),
        };
        Routes::new(vec![
            route("chat", Some("chat-epp"), None, "10.0.0.1:8000"),
            route("code", None, Some(9012), "10.0.0.2:8000"),
        ])
    }

    fn check(call: Call<'_>, expected: Option<&str>) {
        let routes = two_pools();
        let found = routes.resolve(&call).ok().map(ToString::to_string);
        assert_eq!(found.as_deref(), expected, "{call:?}");
    }

    #[test]
    fn the_first_of_port_authority_metadata_and_subset_that_answers_wins() {
        let subset = Subset::parse(["10.0.0.2:8000"]);
        let everything = Call {
            port: Some(9012),
            authority: Some("chat-epp.ai.svc:9002"),
            metadata: Some("ai/chat"),
            subset: Some(&subset),
        };
        check(everything, Some("ai/code"));
        check(
            Call {
                port: Some(9002),
                ..everything
            },
            Some("ai/chat"),
        );
        check(
            Call {
                port: None,
                authority: Some("127.0.0.1:9002"),
                ..everything
            },
            Some("ai/chat"),
        );
        check(
            Call {
                subset: Some(&subset),
                ..Call::default()
            },
            Some("ai/code"),
        );
        check(Call::default(), None);
    }

    #[test]
    fn an_authority_names_a_service_in_every_form_that_gateways_send() {
        for authority in [
            "chat-epp.ai:9002",
            "chat-epp.ai.svc.cluster.local:9002",
            "chat-epp.ai.svc.cluster.local",
            "outbound|9002||chat-epp.ai.svc.cluster.local",
        ] {
            check(
                Call {
                    authority: Some(authority),
                    ..Call::default()
                },
                Some("ai/chat"),
            );
        }
        for authority in ["chat-epp", "chat-epp.other:9002", "[::1]:9002", "", "|"] {
            check(
                Call {
                    authority: Some(authority),
                    ..Call::default()
                },
                None,
            );
        }
    }

    #[test]
    fn the_only_pool_answers_unless_another_is_asked_for() {
        let only = Routes::new(two_pools().pools.split_off(1));
        assert!(only.resolve(&Call::default()).is_ok());
        let other = Call {
            metadata: Some("ai/chat"),
            ..Call::default()
        };
        let refusal = only.resolve(&other).expect_err("another pool is asked for");
        assert!(refusal.to_string().contains("ai/chat"), "{refusal}");
    }
}

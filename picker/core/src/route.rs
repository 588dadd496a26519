//! The pool that a request is for: which InferencePool a call to this picker speaks of.
//!
//! The gateway has chosen a pool already; what differs is how that reaches the picker. The first of these that
//! answers wins: the listener's port, the Service in the call's authority, the metadata `x-pointsman-pool`, the proxy's
//! own names for cluster and route, the route table, the addresses of the subset hint, and the only pool there is.

pub(crate) mod attachment;
mod cluster;
pub(crate) mod entry;
mod filter;
pub mod head;
pub(crate) mod hostname;
mod index;
pub mod object;
pub(crate) mod rule;
pub mod table;

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use serde::Serialize;

use self::head::{Head, Sight};
use self::object::{ObjectKey, RouteKey};
use self::table::RouteTable;
use crate::endpoint::Subset;

/// The most routes that a [`NoPool`] names.
const ROUTES_NAMED_MAX: usize = 8;

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
    pub addresses: Arc<BTreeSet<SocketAddr>>,
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
    /// How the proxy calls the cluster and the route of the request (`xds.cluster_name`, `xds.route_name`).
    pub attributes: &'a [String],
    /// The subset hint.
    pub subset: Option<&'a Subset>,
    /// The HTTP request that the call is about.
    pub head: Option<Head<'a>>,
}

/// All pools of a process, and the routes that lead to them, published whole.
///
/// A copy costs nothing: pools and routes are shared.
#[derive(Clone, Debug, Default)]
pub struct Routes {
    pools: Arc<Vec<PoolRoute>>,
    table: RouteTable,
    sight: Sight,
}

/// The pool that a call is for, and how that is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved<'a> {
    /// The pool.
    pub pool: &'a PoolKey,
    /// What told.
    pub by: Told,
    /// The pools that it could be for as well, by name: the one above is the first of all, and taken for that alone.
    pub or: Vec<PoolKey>,
}

/// What told the pool of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Told {
    /// The listener's port.
    Port,
    /// The Service in the call's authority.
    Authority,
    /// The call's metadata.
    Metadata,
    /// The proxy's name for the cluster or the route.
    Attributes,
    /// The route table.
    Routes,
    /// The addresses of the subset hint.
    Subset,
    /// There is no other pool.
    OnlyPool,
}

/// No pool answers to a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoPool {
    /// The pools there are.
    pub pools: Vec<PoolKey>,
    /// The pool that the call's metadata names, where it names one.
    pub asked: Option<String>,
    /// How many routes there are.
    pub routes: usize,
    /// The first of the routes that are for the request's host.
    pub of_host: Vec<RouteKey>,
}

impl Routes {
    /// The routes to `pools`.
    #[must_use]
    pub fn new(mut pools: Vec<PoolRoute>) -> Self {
        pools.sort_by(|one, other| one.pool.cmp(&other.pool));
        Self {
            pools: Arc::new(pools),
            ..Self::default()
        }
    }

    /// The same pools, told apart by `table` too, where the picker is called at `sight`.
    #[must_use]
    pub fn with_table(&self, table: RouteTable, sight: Sight) -> Self {
        Self {
            pools: self.pools.clone(),
            table,
            sight,
        }
    }

    /// Other pools, told apart by the same table.
    #[must_use]
    pub fn with_pools(&self, pools: Vec<PoolRoute>) -> Self {
        Self::new(pools).with_table(self.table.clone(), self.sight)
    }

    /// The route table.
    #[must_use]
    pub fn table(&self) -> &RouteTable {
        &self.table
    }

    /// The pool that `call` is for.
    ///
    /// # Errors
    /// [`NoPool`], with the pools and routes that were considered, if nothing in the call tells.
    pub fn resolve(&self, call: &Call<'_>) -> Result<Resolved<'_>, NoPool> {
        let certain = |by| move |route| Resolved::certain(route, by);
        self.by_port(call)
            .map(certain(Told::Port))
            .or_else(|| self.by_authority(call).map(certain(Told::Authority)))
            .or_else(|| self.by_metadata(call).map(certain(Told::Metadata)))
            .or_else(|| self.by_attributes(call).map(certain(Told::Attributes)))
            .or_else(|| self.by_routes(call))
            .or_else(|| self.by_subset(call).map(certain(Told::Subset)))
            .or_else(|| self.the_only_one(call).map(certain(Told::OnlyPool)))
            .ok_or_else(|| self.no_pool(call))
    }

    /// The pool that the routes lead to; where there are several, the one of them that the subset hint names, or else
    /// the first by name.
    fn by_routes(&self, call: &Call<'_>) -> Option<Resolved<'_>> {
        let head = call.head.as_ref()?;
        let leads = self
            .table
            .leads(head, self.sight, |pool| self.position(pool).is_some());
        let mut pools = leads.pools.into_iter();
        let first = pools.next()?;
        let or: Vec<_> = pools.collect();
        let hinted = (!or.is_empty()).then(|| self.by_subset(call)).flatten();
        if let Some(hinted) = hinted.filter(|it| it.pool == first || or.contains(&it.pool)) {
            return Some(Resolved::certain(hinted, Told::Subset));
        }
        Some(Resolved {
            pool: &self.pools[self.position(&first)?].pool,
            by: Told::Routes,
            or,
        })
    }

    fn position(&self, pool: &PoolKey) -> Option<usize> {
        self.pools
            .binary_search_by(|route| route.pool.cmp(pool))
            .ok()
    }

    fn no_pool(&self, call: &Call<'_>) -> NoPool {
        let head = call.head.as_ref();
        NoPool {
            pools: self.pools.iter().map(|route| route.pool.clone()).collect(),
            asked: call.metadata.map(str::to_owned),
            routes: self.table.len(),
            of_host: head.map_or(Vec::new(), |head| {
                self.table.routes_of_host(head, ROUTES_NAMED_MAX)
            }),
        }
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

    fn by_attributes(&self, call: &Call<'_>) -> Option<&PoolRoute> {
        let mut named = call.attributes.iter().filter_map(|one| {
            let (namespace, name) = cluster::pool_of(one)?;
            self.position(&PoolKey::new(namespace, name))
        });
        named.next().map(|place| &self.pools[place])
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

impl<'a> Resolved<'a> {
    fn certain(route: &'a PoolRoute, by: Told) -> Self {
        Self {
            pool: &route.pool,
            by,
            or: Vec::new(),
        }
    }
}

// === impl Told ===

impl Told {
    /// It in one word or two, as in receipts and metrics.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Port => "port",
            Self::Authority => "authority",
            Self::Metadata => "metadata",
            Self::Attributes => "attributes",
            Self::Routes => "routes",
            Self::Subset => "subset",
            Self::OnlyPool => "only_pool",
        }
    }
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

impl From<ObjectKey> for PoolKey {
    fn from(key: ObjectKey) -> Self {
        Self {
            namespace: key.namespace,
            name: key.name,
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
            "neither port, Service, x-pointsman-pool, the proxy's names, routes nor subset hint names one of the pools here: ",
        )?;
        list(formatter, &self.pools)?;
        match (self.routes, &*self.of_host) {
            (0, _) => Ok(()),
            (routes, []) => write!(formatter, "; none of {routes} routes is for this host"),
            (routes, of_host) => {
                write!(formatter, "; of {routes} routes these are for this host: ")?;
                list(formatter, of_host)
            }
        }
    }
}

fn list<T: fmt::Display>(formatter: &mut fmt::Formatter<'_>, items: &[T]) -> fmt::Result {
    for (index, item) in items.iter().enumerate() {
        let comma = if index == 0 { "" } else { ", " };
        write!(formatter, "{comma}{item}")?;
    }
    Ok(())
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
            addresses: Arc::new(BTreeSet::from([address.parse().expect("an address")])),
        };
        Routes::new(vec![
            route("chat", Some("chat-epp"), None, "10.0.0.1:8000"),
            route("code", None, Some(9012), "10.0.0.2:8000"),
        ])
    }

    fn check(call: Call<'_>, expected: Option<&str>) {
        let routes = two_pools();
        let found = routes
            .resolve(&call)
            .ok()
            .map(|found| found.pool.to_string());
        assert_eq!(found.as_deref(), expected, "{call:?}");
    }

    #[test]
    fn the_first_of_port_authority_metadata_names_and_subset_that_answers_wins() {
        let subset = Subset::parse(["10.0.0.2:8000"]);
        let cluster = ["endpointpicker_chat_ai_original_dst".to_owned()];
        let everything = Call {
            port: Some(9012),
            authority: Some("chat-epp.ai.svc:9002"),
            metadata: Some("ai/chat"),
            attributes: &cluster,
            subset: Some(&subset),
            head: None,
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
                attributes: &cluster,
                subset: Some(&subset),
                ..Call::default()
            },
            Some("ai/chat"),
        );
        let elsewhere = ["endpointpicker_mail_ai_original_dst".to_owned()];
        check(
            Call {
                attributes: &elsewhere,
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
        let only = Routes::new(two_pools().pools[1..].to_vec());
        assert!(only.resolve(&Call::default()).is_ok());
        let other = Call {
            metadata: Some("ai/chat"),
            ..Call::default()
        };
        let refusal = only.resolve(&other).expect_err("another pool is asked for");
        assert!(refusal.to_string().contains("ai/chat"), "{refusal}");
    }

    /// A Gateway whose one route leads to both pools, and nothing else by `/code`.
    fn both_and_code() -> Routes {
        let parsed = |text: &str| serde_json::from_str(text).expect("an object");
        let mut table = RouteTable::default();
        table.set_gateway(
            serde_json::from_str(
                r#"{"metadata": {"name": "gw", "namespace": "ai"},
                    "spec": {"listeners": [{"name": "http", "port": 80, "protocol": "HTTP"}]}}"#,
            )
            .expect("a Gateway"),
        );
        table.set_route(object::Route::Http(parsed(
            r#"{"metadata": {"name": "both", "namespace": "ai"}, "spec": {
                "parentRefs": [{"name": "gw"}], "hostnames": ["llm.example.com"], "rules": [
                {"backendRefs": [
                  {"group": "inference.networking.k8s.io", "kind": "InferencePool", "name": "code"},
                  {"group": "inference.networking.k8s.io", "kind": "InferencePool", "name": "chat"},
                  {"group": "inference.networking.k8s.io", "kind": "InferencePool", "name": "far"}]},
                {"matches": [{"path": {"value": "/code"}}], "backendRefs": [
                  {"group": "inference.networking.k8s.io", "kind": "InferencePool", "name": "code"}]}]}}"#,
        )));
        two_pools().with_table(table, Sight::BeforeFilters)
    }

    fn head(authority: &'static str, path: &'static str) -> Option<Head<'static>> {
        Some(Head {
            authority,
            path,
            method: "POST",
            headers: &[],
        })
    }

    #[test]
    fn the_routes_answer_after_the_call_and_before_the_subset_hint() {
        let routes = both_and_code();
        let chat = Subset::parse(["10.0.0.1:8000"]);
        let call = Call {
            head: head("llm.example.com", "/code"),
            subset: Some(&chat),
            ..Call::default()
        };
        let found = routes.resolve(&call).expect("a pool");
        assert_eq!(
            (found.pool.to_string().as_str(), found.by),
            ("ai/code", Told::Routes)
        );
        assert_eq!(found.or, []);
        let named = Call {
            metadata: Some("ai/chat"),
            ..call
        };
        let found = routes.resolve(&named).expect("a pool");
        assert_eq!(
            (found.pool.to_string().as_str(), found.by),
            ("ai/chat", Told::Metadata)
        );
    }

    #[test]
    fn of_several_pools_the_hint_chooses_and_else_the_first_by_name_which_says_what_else_it_could_be()
     {
        let routes = both_and_code();
        let call = Call {
            head: head("llm.example.com", "/"),
            ..Call::default()
        };
        let found = routes.resolve(&call).expect("a pool");
        assert_eq!(
            (found.pool.to_string().as_str(), found.by),
            ("ai/chat", Told::Routes)
        );
        assert_eq!(found.or, [PoolKey::new("ai", "code")]);
        let code = Subset::parse(["10.0.0.2:8000"]);
        let hinted = Call {
            subset: Some(&code),
            ..call
        };
        let found = routes.resolve(&hinted).expect("a pool");
        assert_eq!(
            (found.pool.to_string().as_str(), found.by),
            ("ai/code", Told::Subset)
        );
        assert_eq!(found.or, []);
    }

    #[test]
    fn who_is_led_nowhere_is_told_which_pools_and_routes_there_are() {
        let routes = both_and_code();
        let refusal = |host| {
            let call = Call {
                head: head(host, "/"),
                port: Some(1),
                metadata: Some("ai/none"),
                ..Call::default()
            };
            routes
                .resolve(&call)
                .expect_err("nothing tells")
                .to_string()
        };
        let elsewhere = refusal("other.example.com");
        assert!(
            elsewhere.contains("none of 1 routes is for this host"),
            "{elsewhere}"
        );
        assert!(elsewhere.contains("ai/chat, ai/code"), "{elsewhere}");
    }
}

//! Cases as data: each file beside this one is a list of them, each with the sentence that it tests.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use picker_core::route::PoolKey;
use picker_core::route::head::{Head, Sight};
use picker_core::route::object::{
    BackendRef, Filter, Gateway, GatewaySpec, Grant, GrpcMatch, GrpcRoute, GrpcRouteSpec, GrpcRule,
    HttpMatch, HttpRoute, HttpRouteSpec, HttpRule, Listener, Metadata, Namespace, ParentRef, Route,
};
use picker_core::route::table::RouteTable;
use serde::Deserialize;
use serde::de::DeserializeOwned;

/// One case: objects, and where requests go by them.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    name: String,
    /// The sentence of the Gateway API (its types' comments, v1.5.1, where nothing else is said) or of ours.
    spec: String,
    #[serde(default = "open_gateways")]
    gateways: Vec<CaseGateway>,
    #[serde(default)]
    namespaces: Vec<Namespace>,
    #[serde(default)]
    grants: Vec<Grant>,
    routes: Vec<CaseRoute>,
    requests: Vec<CaseRequest>,
}

/// A Gateway; its listeners take every namespace unless they say otherwise.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct CaseGateway {
    gateway: String,
    #[serde(default = "default_namespace")]
    namespace: String,
    listeners: Vec<serde_json::Value>,
}

/// A route; by default of `default/gw`, and with the rule's `pools` as backends.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct CaseRoute {
    route: String,
    #[serde(default = "http_kind")]
    kind: String,
    #[serde(default = "default_namespace")]
    namespace: String,
    created: Option<String>,
    #[serde(default = "default_parents")]
    parents: Vec<ParentRef>,
    #[serde(default)]
    hostnames: Vec<String>,
    rules: Vec<CaseRule>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct CaseRule {
    #[serde(default)]
    matches: Vec<serde_json::Value>,
    #[serde(default)]
    filters: Vec<Filter>,
    /// Pools of the route's namespace, each of weight 1.
    #[serde(default)]
    pools: Vec<String>,
    #[serde(default)]
    backends: Vec<BackendRef>,
}

/// A request as the picker sees it, and the pools it can be for.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct CaseRequest {
    #[serde(default = "get")]
    method: String,
    #[serde(default = "example_host")]
    host: String,
    #[serde(default = "root")]
    path: String,
    #[serde(default)]
    headers: Vec<(String, String)>,
    /// Whether the picker is called after the route's filters.
    #[serde(default)]
    after_filters: bool,
    /// Names of pools, with the namespace where it is not `default`; empty if no route leads to a pool.
    to: Vec<String>,
}

fn open_gateways() -> Vec<CaseGateway> {
    vec![CaseGateway {
        gateway: "gw".into(),
        namespace: default_namespace(),
        listeners: vec![serde_json::json!({"name": "http", "port": 80})],
    }]
}

fn default_parents() -> Vec<ParentRef> {
    vec![parse(
        serde_json::json!({"name": "gw", "namespace": "default"}),
    )]
}

fn default_namespace() -> String {
    "default".into()
}

fn http_kind() -> String {
    "HTTPRoute".into()
}

fn get() -> String {
    "GET".into()
}

fn example_host() -> String {
    "example.com".into()
}

fn root() -> String {
    "/".into()
}

#[test]
fn every_sentence_of_the_gateway_api_holds() {
    let cases = all_cases();
    let failures: Vec<_> = cases
        .iter()
        .flat_map(|(file, case)| case.failures(file))
        .collect();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn there_are_150_cases_and_no_two_of_one_name() {
    let cases = all_cases();
    let names: BTreeSet<_> = cases.iter().map(|(_, case)| &case.name).collect();
    assert_eq!(names.len(), cases.len(), "a name stands twice");
    assert!(cases.len() >= 150, "{} cases", cases.len());
    for (file, case) in &cases {
        assert!(case.spec.len() > 10, "{file}: {}: no sentence", case.name);
    }
}

fn all_cases() -> Vec<(String, Case)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/routes");
    let mut files: Vec<_> = fs::read_dir(folder)
        .expect("the folder of cases")
        .map(|file| file.expect("a file").path())
        .filter(|file| {
            file.extension()
                .is_some_and(|extension| extension == "yaml")
        })
        .collect();
    files.sort();
    let mut cases = Vec::new();
    for file in files {
        let name = file
            .file_name()
            .expect("a name")
            .to_string_lossy()
            .into_owned();
        let text = fs::read_to_string(&file).expect("readable");
        let read: Vec<Case> =
            serde_saphyr::from_str(&text).unwrap_or_else(|error| panic!("{name}: {error}"));
        cases.extend(read.into_iter().map(|case| (name.clone(), case)));
    }
    cases
}

impl Case {
    fn failures(&self, file: &str) -> Vec<String> {
        let table = self.table();
        let mut failures = Vec::new();
        for request in &self.requests {
            let wanted: BTreeSet<_> = request.to.iter().map(|name| pool(name)).collect();
            let found = request.leads(&table);
            if found != wanted {
                failures.push(format!(
                    "{file}: {}: {request:?}: found {found:?}",
                    self.name
                ));
            }
        }
        failures
    }

    fn table(&self) -> RouteTable {
        let mut table = RouteTable::default();
        for namespace in &self.namespaces {
            table.set_namespace(namespace.clone());
        }
        for gateway in &self.gateways {
            table.set_gateway(gateway.object());
        }
        for grant in &self.grants {
            table.set_grant(grant.clone());
        }
        for route in &self.routes {
            table.set_route(route.object());
        }
        table
    }
}

impl CaseGateway {
    fn object(&self) -> Gateway {
        let listener = |value: &serde_json::Value| -> Listener {
            let mut value = value.clone();
            let fields = value.as_object_mut().expect("a listener");
            fields.entry("protocol").or_insert("HTTP".into());
            let all = serde_json::json!({"namespaces": {"from": "All"}});
            fields.entry("allowedRoutes").or_insert(all);
            parse(value)
        };
        Gateway {
            metadata: metadata(&self.gateway, &self.namespace, None),
            spec: GatewaySpec {
                listeners: self.listeners.iter().map(listener).collect(),
            },
        }
    }
}

impl CaseRoute {
    fn object(&self) -> Route {
        let metadata = metadata(&self.route, &self.namespace, self.created.as_deref());
        let parent_refs = self.parents.clone();
        let hostnames = self
            .hostnames
            .iter()
            .map(|name| name.as_str().into())
            .collect();
        match &*self.kind {
            "HTTPRoute" => Route::Http(HttpRoute {
                metadata,
                spec: HttpRouteSpec {
                    parent_refs,
                    hostnames,
                    rules: self.rules.iter().map(CaseRule::http).collect(),
                },
            }),
            "GRPCRoute" => Route::Grpc(GrpcRoute {
                metadata,
                spec: GrpcRouteSpec {
                    parent_refs,
                    hostnames,
                    rules: self.rules.iter().map(CaseRule::grpc).collect(),
                },
            }),
            other => panic!("no kind of route: {other}"),
        }
    }
}

impl CaseRule {
    fn http(&self) -> HttpRule {
        HttpRule {
            matches: self
                .matches
                .iter()
                .cloned()
                .map(parse::<HttpMatch>)
                .collect(),
            filters: self.filters.clone(),
            backend_refs: self.backend_refs(),
        }
    }

    fn grpc(&self) -> GrpcRule {
        GrpcRule {
            matches: self
                .matches
                .iter()
                .cloned()
                .map(parse::<GrpcMatch>)
                .collect(),
            filters: self.filters.clone(),
            backend_refs: self.backend_refs(),
        }
    }

    fn backend_refs(&self) -> Vec<BackendRef> {
        let pool = |name: &String| {
            parse(serde_json::json!({
                "group": "inference.networking.k8s.io", "kind": "InferencePool", "name": name,
            }))
        };
        let backends = self.backends.iter().cloned();
        self.pools.iter().map(pool).chain(backends).collect()
    }
}

impl CaseRequest {
    fn leads(&self, table: &RouteTable) -> BTreeSet<PoolKey> {
        let headers: Vec<_> = self
            .headers
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        let head = Head {
            authority: &self.host,
            method: &self.method,
            path: &self.path,
            headers: &headers,
        };
        let sight = if self.after_filters {
            Sight::AfterFilters
        } else {
            Sight::BeforeFilters
        };
        // A pool named "other-..." exists and has another picker.
        table
            .leads(&head, sight, |pool| !pool.name.starts_with("other-"))
            .pools
    }
}

fn pool(name: &str) -> PoolKey {
    let (namespace, name) = name.split_once('/').unwrap_or(("default", name));
    PoolKey::new(namespace, name)
}

fn metadata(name: &str, namespace: &str, created: Option<&str>) -> Metadata {
    Metadata {
        name: name.into(),
        namespace: namespace.into(),
        creation_timestamp: Some(created.unwrap_or("2026-01-01T00:00:00Z").into()),
        ..Metadata::default()
    }
}

fn parse<T: DeserializeOwned>(value: serde_json::Value) -> T {
    let text = value.to_string();
    serde_json::from_value(value).unwrap_or_else(|error| panic!("{text}: {error}"))
}

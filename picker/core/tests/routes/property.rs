//! The route table against the plain reading, for random worlds and requests.

use std::collections::BTreeMap;
use std::sync::Arc;

use picker_core::route::head::{Head, Sight};
use picker_core::route::object::{
    AllowedRoutes, BackendRef, Filter, FromNamespaces, GATEWAY_GROUP, Gateway, GatewaySpec, Grant,
    GrantFrom, GrantSpec, GrantTo, GroupKind, GrpcMatch, GrpcMethodMatch, GrpcRoute, GrpcRouteSpec,
    GrpcRule, HeaderModifier, HeaderValue, HttpMatch, HttpRoute, HttpRouteSpec, HttpRule,
    LabelSelector, Listener, Metadata, NameMatch, Namespace, POOL_GROUP, ParentRef, PathMatch,
    PathMatchKind, PathModifier, Route, RouteNamespaces, UrlRewrite, ValueMatchKind,
};
use picker_core::route::table::RouteTable;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

use crate::naive::World;

/// A request, by its parts.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    authority: String,
    method: &'static str,
    path: String,
    headers: Vec<(String, String)>,
}

proptest! {
    #[test]
    fn the_table_says_what_a_plain_reading_says(world in worlds(), requests in vec(requests(), 1..12)) {
        let table = table_of(&world);
        for request in &requests {
            let (found, wanted) = request.with_head(|head| {
                let found = table.leads(head, Sight::BeforeFilters, |_| true);
                (found.pools, world.pools(head))
            });
            prop_assert_eq!(found, wanted, "{:?}", request);
        }
    }

    #[test]
    fn after_filters_the_pool_that_it_was_is_among_those_that_it_can_be(
        world in rewriting_worlds(),
        requests in vec(requests(), 1..12),
    ) {
        let table = table_of(&world);
        for request in &requests {
            let gone = request.with_head(|head| {
                let winners = world.winners(head);
                let gone = winners.iter().flat_map(|winner| {
                    let seen = request.after(winner.route, winner.rule);
                    world.pools_of(winner).into_iter().map(move |pool| (pool, seen.clone()))
                });
                gone.collect::<Vec<_>>()
            });
            for (pool, seen) in gone {
                let leads = seen.with_head(|head| table.leads(head, Sight::AfterFilters, |_| true));
                prop_assert!(leads.pools.contains(&pool), "{:?} as {:?}: {:?}", request, seen, leads);
            }
        }
    }
}

pub(crate) fn table_of(world: &World) -> RouteTable {
    let mut table = RouteTable::default();
    // Routes first: what they attach to may come later.
    for route in &world.routes {
        table.set_route(route.clone());
    }
    for gateway in &world.gateways {
        table.set_gateway(gateway.clone());
    }
    for namespace in &world.namespaces {
        table.set_namespace(namespace.clone());
    }
    for grant in &world.grants {
        table.set_grant(grant.clone());
    }
    table
}

impl Request {
    pub(crate) fn with_head<R>(&self, look: impl FnOnce(&Head<'_>) -> R) -> R {
        let headers: Vec<_> = self
            .headers
            .iter()
            .map(|(a, b)| (a.as_str(), b.as_str()))
            .collect();
        look(&Head {
            authority: &self.authority,
            method: self.method,
            path: &self.path,
            headers: &headers,
        })
    }

    /// The request after the filters of a rule, by the table in `HTTPPathModifier.replacePrefixMatch`.
    fn after(&self, route: &Route, rule: usize) -> Self {
        let Route::Http(route) = route else {
            return self.clone();
        };
        let rule = &route.spec.rules[rule];
        let prefix = rule.matches.first().and_then(|it| it.path.as_ref());
        let mut seen = self.clone();
        for filter in &rule.filters {
            if let Some(modifier) = &filter.request_header_modifier {
                for header in &modifier.set {
                    seen.headers.retain(|(name, _)| **name != *header.name);
                    seen.headers
                        .push((header.name.to_string(), header.value.to_string()));
                }
            }
            let path = filter.url_rewrite.as_ref().and_then(|it| it.path.as_ref());
            if let Some(new) = path.and_then(|it| it.replace_prefix_match.as_ref()) {
                let old = prefix.map_or("/", |it| &it.value).trim_end_matches('/');
                let rest = seen.path.strip_prefix(old).expect("the rule's prefix");
                let path = format!("{}{rest}", new.trim_end_matches('/'));
                seen.path = if path.starts_with('/') {
                    path
                } else {
                    format!("/{path}")
                };
            }
            if let Some(host) = filter
                .url_rewrite
                .as_ref()
                .and_then(|it| it.hostname.as_ref())
            {
                seen.authority = host.to_string();
            }
        }
        seen
    }
}

pub(crate) fn requests() -> impl Strategy<Value = Request> {
    let hosts = select(vec![
        "example.com",
        "a.example.com",
        "b.a.example.com",
        "c.b.a.example.com",
        "example.org",
        "A.example.com",
        "example.com:80",
        "svc",
        "svc.default",
        "svc.team.svc",
        "svc.default.svc:8000",
        "svc.default.svc.cluster.local:9000",
    ]);
    let paths = select(vec![
        "/",
        "/a",
        "/a/",
        "/a/b",
        "/a/b/c",
        "/ab",
        "/A",
        "/a?q=1",
        "/a/b?q=2&r=1",
        "/?r=1&q=1&q=2",
        "/s.S/M",
        "/s.S/N",
        "/s.T/M",
    ]);
    let headers = vec((select(vec!["x", "y"]), select(vec!["1", "2", "12"])), 0..3);
    (hosts, select(vec!["GET", "POST"]), paths, headers).prop_map(
        |(host, method, path, headers)| {
            let headers = headers
                .into_iter()
                .map(|(a, b)| (a.to_owned(), b.to_owned()));
            Request {
                authority: host.to_owned(),
                method,
                path: path.to_owned(),
                headers: headers.collect(),
            }
        },
    )
}

pub(crate) fn worlds() -> impl Strategy<Value = World> {
    let routes = vec(prop_oneof![4 => http_routes(), 1 => grpc_routes()], 0..10);
    (
        routes,
        vec(gateways(), 0..4),
        vec(namespaces(), 0..3),
        vec(grants(), 0..3),
    )
        .prop_map(|(routes, gateways, namespaces, grants)| World {
            routes: last_of(routes, Route::key),
            gateways: last_of(gateways, |it| it.metadata.key()),
            namespaces: last_of(namespaces, |it| it.metadata.name.clone()),
            grants: last_of(grants, |it| it.metadata.key()),
        })
}

/// HTTPRoutes with a hostname and one prefix a rule, whose filters can be undone from what is seen.
fn rewriting_worlds() -> impl Strategy<Value = World> {
    let filter = option::of((
        option::of(select(vec!["/", "/z", "/a", "/z/"])),
        option::of(select(vec!["model.example.com"])),
        any::<bool>(),
    ));
    let rule = (
        select(vec!["/", "/a", "/a/b", "/ab"]),
        filter,
        vec(backends(), 1..3),
    );
    let route = (0..8_u32, names(HOSTNAMES), vec(rule, 1..4)).prop_map(|(name, host, rules)| {
        let rules = rules
            .into_iter()
            .map(|(prefix, filter, backend_refs)| HttpRule {
                matches: vec![HttpMatch {
                    path: Some(PathMatch {
                        kind: PathMatchKind::PathPrefix,
                        value: prefix.into(),
                    }),
                    ..HttpMatch::default()
                }],
                filters: filter.map_or(Vec::new(), |(path, host, header)| {
                    filters(path, host, header)
                }),
                backend_refs,
            });
        Route::Http(HttpRoute {
            metadata: metadata(&format!("r{name}"), "default", 0),
            spec: HttpRouteSpec {
                parent_refs: vec![parent("Gateway", "g0", None, None, None)],
                hostnames: vec![host],
                rules: rules.collect(),
            },
        })
    });
    vec(route, 0..6).prop_map(|routes| {
        let mut routes = last_of(routes, Route::key);
        // A host that is rewritten is only known again if it was an exact one.
        for route in &mut routes {
            let Route::Http(route) = route else { continue };
            if route.spec.hostnames[0].starts_with('*') {
                route.spec.hostnames[0] = "example.org".into();
            }
        }
        let listener = listener(0, None, 80, FromNamespaces::All, false);
        let gateway = Gateway {
            metadata: metadata("g0", "default", 0),
            spec: GatewaySpec {
                listeners: vec![listener],
            },
        };
        World {
            routes,
            gateways: vec![gateway],
            ..World::default()
        }
    })
}

fn filters(path: Option<&str>, host: Option<&str>, header: bool) -> Vec<Filter> {
    let set = HeaderModifier {
        set: vec![HeaderValue {
            name: "via".into(),
            value: "gw".into(),
        }],
        ..HeaderModifier::default()
    };
    let rewrite = UrlRewrite {
        hostname: host.map(Into::into),
        path: path.map(|path| PathModifier {
            replace_prefix_match: Some(path.into()),
            ..PathModifier::default()
        }),
    };
    vec![Filter {
        request_header_modifier: header.then_some(set),
        url_rewrite: Some(rewrite),
        ..Filter::default()
    }]
}

const HOSTNAMES: &[&str] = &[
    "example.com",
    "a.example.com",
    "b.a.example.com",
    "*.example.com",
    "*.com",
    "*.a.example.com",
    "example.org",
];

fn names(of: &'static [&'static str]) -> impl Strategy<Value = Arc<str>> {
    select(of).prop_map(Arc::from)
}

fn metadata(name: &str, namespace: &str, age: u32) -> Metadata {
    Metadata {
        name: name.into(),
        namespace: namespace.into(),
        creation_timestamp: Some(format!("2026-01-0{}T00:00:00Z", age + 1).into()),
        ..Metadata::default()
    }
}

fn parent(
    kind: &str,
    name: &str,
    namespace: Option<&str>,
    section: Option<&str>,
    port: Option<u16>,
) -> ParentRef {
    ParentRef {
        group: if kind == "Gateway" {
            GATEWAY_GROUP.into()
        } else {
            "".into()
        },
        kind: kind.into(),
        namespace: namespace.map(Into::into),
        name: name.into(),
        section_name: section.map(Into::into),
        port,
    }
}

fn parents() -> impl Strategy<Value = ParentRef> {
    let namespace = option::of(select(vec!["default", "team"]));
    let gateway = (
        select(vec!["g0", "g1"]),
        namespace.clone(),
        option::of(select(vec!["l0", "l1"])),
        option::of(select(vec![80, 81])),
    );
    let gateway = gateway.prop_map(|(name, namespace, section, port)| {
        parent("Gateway", name, namespace, section, port)
    });
    let service = (namespace, option::of(select(vec![8000, 9000])));
    let service =
        service.prop_map(|(namespace, port)| parent("Service", "svc", namespace, None, port));
    prop_oneof![4 => gateway, 1 => service]
}

fn backends() -> impl Strategy<Value = BackendRef> {
    let kind = prop_oneof![8 => Just((POOL_GROUP, "InferencePool")), 1 => Just(("", "Service"))];
    let namespace = option::of(select(vec!["default", "team"]));
    (kind, namespace, select(vec!["a", "b", "c", "d"]), 0..3_u32).prop_map(
        |((group, kind), namespace, name, weight)| BackendRef {
            group: group.into(),
            kind: kind.into(),
            namespace: namespace.map(Into::into),
            name: name.into(),
            weight,
            filters: Vec::new(),
        },
    )
}

fn name_matches(of: &'static [&'static str]) -> impl Strategy<Value = Vec<NameMatch>> {
    let exact = select(vec!["1", "2"]).prop_map(|value| (ValueMatchKind::Exact, value));
    let regex = select(vec!["1.*", "[0-9]"]).prop_map(|it| (ValueMatchKind::RegularExpression, it));
    let value = prop_oneof![3 => exact, 1 => regex];
    let one = (names(of), value).prop_map(|(name, (kind, value))| NameMatch {
        kind,
        name,
        value: value.into(),
    });
    vec(one, 0..3)
}

fn http_routes() -> impl Strategy<Value = Route> {
    let path = prop_oneof![
        2 => select(vec!["/a", "/a/b", "/", "/a/", "/s.S/M"]).prop_map(|it| (PathMatchKind::Exact, it)),
        4 => select(vec!["/", "/a", "/a/", "/a/b", "/ab"]).prop_map(|it| (PathMatchKind::PathPrefix, it)),
        1 => select(vec!["/a/.*", "/[ab]+", "(?i)/a", "/a|/ab", "/a/[bc]/?.*"])
            .prop_map(|it| (PathMatchKind::RegularExpression, it)),
    ];
    let path = option::of(path.prop_map(|(kind, value)| PathMatch {
        kind,
        value: value.into(),
    }));
    let one = (
        path,
        name_matches(&["x", "X", "y"]),
        name_matches(&["q", "r"]),
        option::of(names(&["GET", "POST"])),
    );
    let one = one.prop_map(|(path, headers, query_params, method)| HttpMatch {
        path,
        headers,
        query_params,
        method,
    });
    let rule =
        (vec(one, 0..3), vec(backends(), 0..3)).prop_map(|(matches, backend_refs)| HttpRule {
            matches,
            backend_refs,
            filters: Vec::new(),
        });
    (
        route_metadata("h"),
        vec(parents(), 1..3),
        vec(names(HOSTNAMES), 0..3),
        vec(rule, 1..4),
    )
        .prop_map(|(metadata, parent_refs, hostnames, rules)| {
            let spec = HttpRouteSpec {
                parent_refs,
                hostnames,
                rules,
            };
            Route::Http(HttpRoute { metadata, spec })
        })
}

fn grpc_routes() -> impl Strategy<Value = Route> {
    let exact = (
        option::of(names(&["s.S", "s.T"])),
        option::of(names(&["M", "N", ""])),
    );
    let regex = (
        option::of(names(&["s\\..", ".*"])),
        option::of(names(&["M|N", "."])),
    );
    let call = prop_oneof![
        exact.prop_map(|it| (ValueMatchKind::Exact, it)),
        regex.prop_map(|it| (ValueMatchKind::RegularExpression, it)),
    ];
    let call = call.prop_map(|(kind, (service, method))| GrpcMethodMatch {
        kind,
        service,
        method,
    });
    let one = (option::of(call), name_matches(&["x", "y"]));
    let one = one.prop_map(|(method, headers)| GrpcMatch { method, headers });
    let rule =
        (vec(one, 0..3), vec(backends(), 0..3)).prop_map(|(matches, backend_refs)| GrpcRule {
            matches,
            backend_refs,
            filters: Vec::new(),
        });
    (
        route_metadata("g"),
        vec(parents(), 1..3),
        vec(names(HOSTNAMES), 0..3),
        vec(rule, 1..4),
    )
        .prop_map(|(metadata, parent_refs, hostnames, rules)| {
            let spec = GrpcRouteSpec {
                parent_refs,
                hostnames,
                rules,
            };
            Route::Grpc(GrpcRoute { metadata, spec })
        })
}

/// Kinds have names of their own: the API does not say which of two kinds with one name and age is accepted.
fn route_metadata(kind: &'static str) -> impl Strategy<Value = Metadata> {
    (0..5_u32, select(vec!["default", "team"]), 0..3_u32)
        .prop_map(move |(name, namespace, age)| metadata(&format!("{kind}{name}"), namespace, age))
}

fn listener(
    index: usize,
    hostname: Option<&str>,
    port: u16,
    from: FromNamespaces,
    http_only: bool,
) -> Listener {
    let selector = LabelSelector {
        match_labels: BTreeMap::from([("llm".into(), "yes".into())]),
        ..LabelSelector::default()
    };
    let http = GroupKind {
        group: GATEWAY_GROUP.into(),
        kind: "HTTPRoute".into(),
    };
    Listener {
        name: format!("l{index}").into(),
        hostname: hostname.map(Into::into),
        port,
        protocol: "HTTP".into(),
        allowed_routes: AllowedRoutes {
            namespaces: RouteNamespaces {
                from,
                selector: Some(selector),
            },
            kinds: if http_only { vec![http] } else { Vec::new() },
        },
    }
}

pub(crate) fn gateways() -> impl Strategy<Value = Gateway> {
    let from = prop_oneof![
        4 => Just(FromNamespaces::All),
        1 => Just(FromNamespaces::Same),
        2 => Just(FromNamespaces::Selector),
    ];
    let one = (
        option::of(select(HOSTNAMES)),
        select(vec![80, 81]),
        from,
        prop::bool::weighted(0.2),
    );
    (
        select(vec!["g0", "g1"]),
        select(vec!["default", "team"]),
        vec(one, 1..4),
    )
        .prop_map(|(name, namespace, listeners)| {
            // Two listeners of one port and hostname are conflicted: neither is accepted.
            let listeners = last_of(listeners, |(hostname, port, ..)| (*hostname, *port));
            let listeners = listeners.into_iter().enumerate();
            let listeners = listeners.map(|(index, (hostname, port, from, http_only))| {
                listener(index, hostname, port, from, http_only)
            });
            Gateway {
                metadata: metadata(name, namespace, 0),
                spec: GatewaySpec {
                    listeners: listeners.collect(),
                },
            }
        })
}

pub(crate) fn namespaces() -> impl Strategy<Value = Namespace> {
    (select(vec!["default", "team"]), any::<bool>()).prop_map(|(name, labelled)| {
        let mut metadata = metadata(name, "", 0);
        if labelled {
            metadata.labels.insert("llm".into(), "yes".into());
        }
        Namespace { metadata }
    })
}

pub(crate) fn grants() -> impl Strategy<Value = Grant> {
    let namespace = || select(vec!["default", "team"]);
    let kind = select(vec!["HTTPRoute", "GRPCRoute"]);
    (
        0..3_u32,
        namespace(),
        namespace(),
        kind,
        option::of(names(&["a", "b"])),
    )
        .prop_map(|(name, from, to, kind, pool)| Grant {
            metadata: metadata(&format!("grant{name}"), to, 0),
            spec: GrantSpec {
                from: vec![GrantFrom {
                    group: GATEWAY_GROUP.into(),
                    kind: kind.into(),
                    namespace: from.into(),
                }],
                to: vec![GrantTo {
                    group: POOL_GROUP.into(),
                    kind: "InferencePool".into(),
                    name: pool,
                }],
            },
        })
}

pub(crate) fn routes() -> impl Strategy<Value = Route> {
    prop_oneof![4 => http_routes(), 1 => grpc_routes()]
}

/// Of several with one key the last stays.
fn last_of<T, K: Ord>(items: Vec<T>, key: impl Fn(&T) -> K) -> Vec<T> {
    let by_key: BTreeMap<K, T> = items.into_iter().map(|item| (key(&item), item)).collect();
    by_key.into_values().collect()
}

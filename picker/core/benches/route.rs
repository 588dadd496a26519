//! What it costs to find the pool of a request among 5,000 routes, and to change one of them.

use std::hint::black_box;

use criterion::{BenchmarkGroup, Criterion, measurement::WallTime};
use picker_core::route::head::{Head, Sight};
use picker_core::route::object::{
    BackendRef, Gateway, GatewaySpec, HttpMatch, HttpRoute, HttpRouteSpec, HttpRule, Listener,
    Metadata, NameMatch, POOL_GROUP, ParentRef, PathMatch, PathMatchKind, Route, ValueMatchKind,
};
use picker_core::route::table::RouteTable;

const ROUTES: usize = 5_000;

/// How 5,000 routes differ from one another.
#[derive(Clone, Copy)]
struct Layout {
    name: &'static str,
    by: By,
}

#[derive(Clone, Copy)]
enum By {
    /// Each has a hostname of its own.
    Host,
    /// All have one hostname, and a prefix of their own.
    Prefix,
    /// All have one hostname and prefix, and ask for a model by header.
    Header,
    /// All have one hostname, and a regular expression of their own.
    Pattern,
}

const LAYOUTS: [Layout; 4] = [
    Layout {
        name: "by_host",
        by: By::Host,
    },
    Layout {
        name: "by_prefix",
        by: By::Prefix,
    },
    Layout {
        name: "by_header",
        by: By::Header,
    },
    Layout {
        name: "by_pattern",
        by: By::Pattern,
    },
];

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    for layout in LAYOUTS {
        let table = layout.table();
        let mut group = criterion.benchmark_group(format!("route/{}", layout.name));
        lookup(&mut group, layout, &table);
        change(&mut group, layout, &table);
        group.finish();
    }
    let mut group = criterion.benchmark_group("route");
    group.sample_size(10);
    group.bench_function("build_5000_by_header", |bench| {
        bench.iter(|| black_box(LAYOUTS[2].table()));
    });
    group.finish();
    criterion.final_summary();
}

fn lookup(group: &mut BenchmarkGroup<'_, WallTime>, layout: Layout, table: &RouteTable) {
    // Far apart in every order, so that the processor's caches do not hold all of the way to them.
    let requests: Vec<_> = (0..500)
        .map(|it| layout.request(it * 7_919 % ROUTES))
        .collect();
    let headers: Vec<_> = requests.iter().map(Request::headers).collect();
    let mut next = 0;
    group.bench_function("lookup", |bench| {
        bench.iter(|| {
            next = (next + 1) % requests.len();
            let head = Head {
                authority: &requests[next].authority,
                method: "POST",
                path: &requests[next].path,
                headers: &headers[next],
            };
            let leads = table.leads(&head, Sight::BeforeFilters, |_| true);
            assert_eq!(leads.pools.len(), 1);
            black_box(leads)
        });
    });
}

/// One route changes while a published copy of the table is held, as the picker does it.
fn change(group: &mut BenchmarkGroup<'_, WallTime>, layout: Layout, table: &RouteTable) {
    let mut table = table.clone();
    let mut number = 0;
    let mut published = table.clone();
    group.bench_function("change", |bench| {
        bench.iter(|| {
            number += 1;
            let pool = format!("moved-{number}");
            assert!(table.set_route(layout.route(number % ROUTES, &pool)));
            published = table.clone();
            black_box(&published);
        });
    });
}

impl Layout {
    fn table(self) -> RouteTable {
        let mut table = RouteTable::default();
        let listener = |name: &str, port, protocol: &str| Listener {
            name: name.into(),
            hostname: None,
            port,
            protocol: protocol.into(),
            allowed_routes: Default::default(),
        };
        table.set_gateway(Gateway {
            metadata: metadata("gateway"),
            spec: GatewaySpec {
                listeners: vec![
                    listener("http", 80, "HTTP"),
                    listener("https", 443, "HTTPS"),
                ],
            },
        });
        for number in 0..ROUTES {
            table.set_route(self.route(number, &format!("pool-{number}")));
        }
        table
    }

    fn route(self, number: usize, pool: &str) -> Route {
        let path = |kind, value: String| {
            Some(PathMatch {
                kind,
                value: value.into(),
            })
        };
        let model = NameMatch {
            kind: ValueMatchKind::Exact,
            name: "x-gateway-model-name".into(),
            value: format!("model-{number}").into(),
        };
        let prefix = PathMatchKind::PathPrefix;
        let regex = PathMatchKind::RegularExpression;
        let (path, headers) = match self.by {
            By::Host => (path(prefix, "/v1".into()), Vec::new()),
            By::Prefix => (path(prefix, format!("/tenants/{number}")), Vec::new()),
            By::Header => (path(prefix, "/v1".into()), vec![model]),
            By::Pattern => (
                path(regex, format!("/tenants/{number}/[a-z]+/chat/.*")),
                Vec::new(),
            ),
        };
        let rule = HttpRule {
            matches: vec![HttpMatch {
                path,
                headers,
                ..HttpMatch::default()
            }],
            filters: Vec::new(),
            backend_refs: vec![BackendRef {
                group: POOL_GROUP.into(),
                kind: "InferencePool".into(),
                namespace: None,
                name: pool.into(),
                weight: 1,
                filters: Vec::new(),
            }],
        };
        let parent = serde_json::json!({"name": "gateway"});
        let parent: ParentRef = serde_json::from_value(parent).expect("a parent");
        Route::Http(HttpRoute {
            metadata: metadata(&format!("route-{number}")),
            spec: HttpRouteSpec {
                parent_refs: vec![parent],
                hostnames: vec![self.host(number).into()],
                rules: vec![rule],
            },
        })
    }

    fn host(self, number: usize) -> String {
        match self.by {
            By::Host => format!("team-{number}.models.example.com"),
            By::Prefix | By::Header | By::Pattern => "models.example.com".into(),
        }
    }

    fn request(self, number: usize) -> Request {
        let path = match self.by {
            By::Host | By::Header => "/v1/chat/completions".to_owned(),
            By::Prefix => format!("/tenants/{number}/v1/chat/completions"),
            By::Pattern => format!("/tenants/{number}/llama/chat/completions"),
        };
        Request {
            authority: self.host(number),
            path,
            model: format!("model-{number}"),
        }
    }
}

/// A request for one route.
struct Request {
    authority: String,
    path: String,
    model: String,
}

impl Request {
    /// What clients and proxies send.
    fn headers(&self) -> Vec<(&str, &str)> {
        vec![
            (":method", "POST"),
            (":scheme", "https"),
            ("user-agent", "OpenAI/Python 2.8.1"),
            ("accept", "application/json"),
            ("accept-encoding", "gzip, deflate"),
            ("content-type", "application/json"),
            ("content-length", "1433"),
            ("authorization", "Bearer 0123456789abcdef"),
            ("x-stainless-lang", "python"),
            ("x-stainless-retry-count", "0"),
            ("x-gateway-model-name", &self.model),
            ("x-forwarded-for", "10.1.2.3"),
            ("x-forwarded-proto", "https"),
            ("x-request-id", "2f1f3a2e-6a7e-4f0e-9c59-3b6f0f8f1d6a"),
        ]
    }
}

fn metadata(name: &str) -> Metadata {
    Metadata {
        name: name.into(),
        namespace: "default".into(),
        creation_timestamp: Some("2026-01-01T00:00:00Z".into()),
        ..Metadata::default()
    }
}

//! The scene of these tests: model servers, a picker and an Envoy on free ports of this machine.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use clap::Parser;
use picker::server::{self, Listening};
use picker::settings::{Arguments, Command as Subcommand};
use reqwest::{Client, Method, RequestBuilder, Response};
use serde_json::Value;
use simulator::engine::Profile;
use simulator::envoy::{Differences, Envoy, Plan, Route, Upstream};
use simulator::load::ext_proc::Follow;
use simulator::serve::{self, Options, Received, Server};
use tempfile::TempDir;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep};

/// How long a condition may take to come true on a machine that is busy with other things.
const PATIENCE: Duration = Duration::from_secs(60);

/// How a destination gets from the picker to Envoy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum By {
    /// By dynamic metadata, to a cluster that knows the servers.
    Metadata,
    /// By the header, to a cluster that knows none.
    Header,
}

/// Every way to follow a response.
pub(crate) const FOLLOWS: [Follow; 3] = [Follow::Watched, Follow::Full, Follow::Released];

/// Both ways.
pub(crate) const BOTH: [By; 2] = [By::Metadata, By::Header];

/// Model servers, picker and Envoy; all end when this is dropped.
pub(crate) struct Scene {
    /// The servers of each pool.
    pub(crate) pools: Vec<Vec<Server>>,
    /// Where the picker listens.
    pub(crate) picker: Listening,
    envoy: Envoy,
    client: Client,
    folder: TempDir,
    _end: oneshot::Sender<()>,
}

/// What is other than usual between Envoy and the picker.
#[derive(Clone, Debug)]
pub(crate) struct Link {
    /// Further flags of the picker.
    pub(crate) flags: Vec<String>,
    /// The `transport_socket` towards it.
    pub(crate) security: Option<Value>,
    /// How responses are followed, and with that the sample to start from.
    pub(crate) follow: Follow,
    /// What is other than in the sample.
    pub(crate) differences: Differences,
    /// Objectives and rewrites of every pool, as endpoints files write them.
    pub(crate) objects: &'static str,
}

impl Default for Link {
    /// As in the first sample that people are given.
    fn default() -> Self {
        Self {
            flags: Vec::new(),
            security: None,
            follow: Follow::Watched,
            differences: Differences::default(),
            objects: "",
        }
    }
}

impl Scene {
    /// Pools of so many servers each, with adapters `a`, `b` and `c`.
    pub(crate) async fn of(sizes: &[usize], profile: Profile) -> Self {
        Self::linked(sizes, profile, Link::default()).await
    }

    /// As [`Scene::of`], where responses are followed in this way.
    pub(crate) async fn followed(follow: Follow, sizes: &[usize], profile: Profile) -> Self {
        let link = Link {
            follow,
            ..Link::default()
        };
        Self::linked(sizes, profile, link).await
    }

    /// As [`Scene::of`], over this link.
    pub(crate) async fn linked(sizes: &[usize], profile: Profile, link: Link) -> Self {
        let scene = Self::unchecked(sizes, profile, link).await;
        eventually("the picker is ready", async || {
            scene.picker_is_ready().await
        })
        .await;
        // Envoy has to see the picker healthy, too, or it answers 500.
        let healthy = "cluster.picker.membership_healthy";
        eventually("Envoy sees the picker", async || {
            scene.envoy.stat(healthy).await == Some(1)
        })
        .await;
        scene
    }

    /// As [`Scene::linked`], whether Envoy and the picker understand each other or not.
    pub(crate) async fn unchecked(sizes: &[usize], profile: Profile, link: Link) -> Self {
        let mut pools = Vec::new();
        for &size in sizes {
            let options = Options::local(size, "base", &["a", "b", "c"], profile.clone());
            pools.push(serve::spawn(options).await.expect("model servers start"));
        }
        let folder = tempfile::tempdir().expect("a folder");
        for (index, pool) in pools.iter().enumerate() {
            write_endpoints(
                &endpoints_file(folder.path(), index),
                pool.iter().map(Server::address),
                link.objects,
            );
        }
        let (picker, end) = start_picker(folder.path(), sizes.len(), link.flags).await;
        let plan = Plan {
            executable: envoy_executable(),
            folder: folder.path().to_owned(),
            picker: picker.ext_proc[0],
            picker_security: link.security,
            servers: pools.iter().flatten().map(Server::address).collect(),
            routes: (0..sizes.len()).flat_map(routes_of_pool).collect(),
            follow: link.follow,
            differences: link.differences,
            concurrency: 1,
        };
        let envoy = Envoy::start(&plan).await.expect("Envoy starts");
        let client = Client::builder()
            .no_proxy()
            .timeout(PATIENCE)
            .build()
            .expect("a client");
        Self {
            pools,
            picker,
            envoy,
            client,
            folder,
            _end: end,
        }
    }

    /// A request to a path of a pool.
    pub(crate) fn request(
        &self,
        method: Method,
        pool: usize,
        by: By,
        path: &str,
    ) -> RequestBuilder {
        let (address, path) = self.place(pool, by, path);
        let url = format!("http://{address}{path}");
        self.client.request(method, url)
    }

    /// Where Envoy listens, and the path there that stands for this one of a pool.
    pub(crate) fn place(&self, pool: usize, by: By, path: &str) -> (SocketAddr, String) {
        let prefix = prefix(pool, by);
        let path = path.trim_start_matches('/');
        (self.envoy.address, format!("{prefix}{path}"))
    }

    /// A POST with a body and a request id.
    pub(crate) async fn post(
        &self,
        to: (usize, By),
        path: &str,
        id: &str,
        body: Vec<u8>,
    ) -> Response {
        let request = self.request(Method::POST, to.0, to.1, path);
        let request = request
            .header("x-request-id", id)
            .header("content-type", "application/json");
        request.body(body).send().await.expect("an answer")
    }

    /// The receipt of a request, completed by its outcome.
    pub(crate) async fn receipt(&self, id: &str) -> Value {
        let path = format!("/debug/decisions/{id}");
        let mut receipt = Value::Null;
        eventually(&format!("the outcome of {id}"), async || {
            receipt = self.admin(&path).await;
            !receipt["outcome"].is_null()
        })
        .await;
        receipt
    }

    /// Where the picker sent a request.
    pub(crate) async fn picked(&self, id: &str) -> SocketAddr {
        let receipt = self.admin(&format!("/debug/decisions/{id}")).await;
        let address = receipt["candidates"][0]["address"].as_str();
        address
            .and_then(|text| text.parse().ok())
            .unwrap_or_else(|| panic!("{id}: {receipt}"))
    }

    /// What every server got, as (pool, server's address, request).
    pub(crate) fn received(&self) -> Vec<(usize, SocketAddr, Received)> {
        let pools = self.pools.iter().enumerate();
        let of_pool = |(index, pool): (usize, &Vec<Server>)| {
            let of_server = |server: &Server| {
                let address = server.address();
                server
                    .received()
                    .into_iter()
                    .map(move |one| (address, one))
                    .collect::<Vec<_>>()
            };
            let all: Vec<_> = pool.iter().flat_map(of_server).collect();
            all.into_iter()
                .map(move |(address, one)| (index, address, one))
                .collect::<Vec<_>>()
        };
        pools.flat_map(of_pool).collect()
    }

    /// Who got a request: the pool, the server and what came there.
    pub(crate) fn received_by(&self, id: &str) -> (usize, SocketAddr, Received) {
        let all = self.received();
        let mut found = all
            .into_iter()
            .filter(|(_, _, one)| one.request_id.as_deref() == Some(id));
        let first = found
            .next()
            .unwrap_or_else(|| panic!("no server received {id}"));
        assert!(found.next().is_none(), "{id} was received twice");
        first
    }

    /// What the picker says of the endpoint at `address`.
    pub(crate) async fn endpoint(&self, address: SocketAddr) -> Value {
        let state = self.admin("/debug/state").await;
        let pools = state["pools"].as_array().expect("pools").clone();
        let endpoints = pools
            .iter()
            .flat_map(|pool| pool["endpoints"].as_array().expect("a list"));
        let text = address.to_string();
        let found = endpoints
            .into_iter()
            .find(|one| one["address"] == text.as_str());
        found
            .unwrap_or_else(|| panic!("no endpoint {text} in {state}"))
            .clone()
    }

    /// Requests in flight, as the picker thinks.
    pub(crate) async fn in_flight(&self) -> u64 {
        let state = self.admin("/debug/state").await;
        let pools = state["pools"].as_array().expect("pools");
        pools
            .iter()
            .filter_map(|pool| pool["in_flight"].as_u64())
            .sum()
    }

    /// Changes the endpoints file of a pool.
    pub(crate) fn set_endpoints(&self, pool: usize, servers: &[SocketAddr]) {
        write_endpoints(
            &endpoints_file(self.folder.path(), pool),
            servers.iter().copied(),
            "",
        );
    }

    /// A counter or gauge of the picker's by its full name, labels included; `None` if it has no such.
    pub(crate) async fn metric(&self, name: &str) -> Option<f64> {
        let page = self.admin_text("/metrics").await;
        page.lines()
            .find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
    }

    async fn admin_text(&self, path: &str) -> String {
        let url = format!("http://{}{path}", self.picker.admin);
        let answer = self.client.get(url).send().await;
        let answer = answer.expect("the admin port answers");
        answer.text().await.expect("a body")
    }

    async fn admin(&self, path: &str) -> Value {
        let text = self.admin_text(path).await;
        serde_json::from_str(&text).unwrap_or_else(|_| panic!("{path}: {text}"))
    }

    async fn picker_is_ready(&self) -> bool {
        let url = format!("http://{}/readyz", self.picker.admin);
        let answer = self.client.get(url).send().await;
        answer.is_ok_and(|answer| answer.status().is_success())
    }
}

/// Waits until a condition holds.
pub(crate) async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds().await {
        assert!(
            Instant::now() < deadline,
            "in {PATIENCE:?} it has not come true that {what}"
        );
        sleep(Duration::from_millis(20)).await;
    }
}

async fn start_picker(
    folder: &Path,
    pools: usize,
    flags: Vec<String>,
) -> (Listening, oneshot::Sender<()>) {
    let mut line = vec!["pointsman".to_owned(), "serve".to_owned()];
    for index in 0..pools {
        let file = endpoints_file(folder, index);
        line.push(format!("--endpoints=test/pool-{index}={}", file.display()));
    }
    for flag in [
        "--bind-address=127.0.0.1",
        "--grpc-port=0",
        "--grpc-health-port=0",
        "--metrics-port=0",
    ] {
        line.push(flag.to_owned());
    }
    line.extend(flags);
    let Subcommand::Serve(serve) = Arguments::try_parse_from(line).expect("arguments").command
    else {
        panic!("another command");
    };
    let bound = server::bind(*serve).await.expect("the picker binds");
    let listening = bound.listening.clone();
    let (end, ended) = oneshot::channel::<()>();
    tokio::spawn(async move {
        let run = bound.run(async { drop(ended.await) });
        run.await.expect("the picker runs to its end");
    });
    (listening, end)
}

fn routes_of_pool(pool: usize) -> [Route; 2] {
    let route = |by, to| Route {
        prefix: prefix(pool, by),
        to,
        pool: Some(format!("test/pool-{pool}")),
    };
    [
        route(By::Metadata, Upstream::OverrideHost),
        route(By::Header, Upstream::OriginalDst),
    ]
}

fn prefix(pool: usize, by: By) -> String {
    let by = match by {
        By::Metadata => "metadata",
        By::Header => "header",
    };
    format!("/{pool}/{by}/")
}

fn endpoints_file(folder: &Path, pool: usize) -> PathBuf {
    folder.join(format!("pool-{pool}.yaml"))
}

fn write_endpoints(file: &Path, servers: impl Iterator<Item = SocketAddr>, objects: &str) {
    let mut text = "endpoints:\n".to_owned();
    let mut any = false;
    for (index, server) in servers.enumerate() {
        any = true;
        let (ip, port) = (server.ip(), server.port());
        text += &format!("- {{name: server-{index}, address: {ip}, port: \"{port}\"}}\n");
    }
    if !any {
        text = "endpoints: []\n".to_owned();
    }
    text += objects;
    // Written aside and renamed, so that nobody reads half of it.
    let aside = file.with_extension("new");
    fs::write(&aside, text).expect("the file is written");
    fs::rename(&aside, file).expect("the file is renamed");
}

/// The Envoy that `tools/fetch.py` has put into `target/tools`, fetched if it is not there yet.
pub(crate) fn envoy_executable() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the repository");
    let fetched = Command::new("python3")
        .args(["tools/fetch.py", "envoy"])
        .current_dir(root)
        .output()
        .expect("python3 is installed");
    let errors = String::from_utf8_lossy(&fetched.stderr);
    assert!(fetched.status.success(), "tools/fetch.py envoy: {errors}");
    String::from_utf8(fetched.stdout)
        .expect("a path")
        .trim()
        .into()
}

//! The scene of these tests: an API server, model servers at addresses of their own, the picker and an Envoy.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use clap::Parser;
use kube::Client;
use picker::server::{self, Listening};
use picker::settings::{Arguments, Command as Subcommand};
use reqwest::StatusCode;
use serde_json::{Value, json};
use simulator::engine::Profile;
use simulator::envoy::{Differences, Envoy, Plan, Route, Upstream};
use simulator::load::ext_proc::Follow;
use simulator::serve::{self, Options, Server};
use tempfile::TempDir;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep};

use super::api_server::ApiServer;

/// How long a condition may take to come true on a machine that is busy with other things.
const PATIENCE: Duration = Duration::from_secs(90);

/// An API server, a picker that serves its pools, and an Envoy that asks the picker; all end when this is dropped.
pub(crate) struct Scene {
    pub(crate) api_server: ApiServer,
    pub(crate) client: Client,
    pub(crate) picker: Listening,
    gateway: Gateway,
    http: reqwest::Client,
    _end: oneshot::Sender<()>,
}

/// An Envoy that asks a picker.
pub(crate) struct Gateway {
    envoy: Envoy,
    http: reqwest::Client,
    _folder: TempDir,
}

/// Where a request goes: which server got it, or with which status it was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Went {
    To(SocketAddr),
    Refused(StatusCode),
}

impl Scene {
    /// A picker with these flags beside those of every test; it asks as the administrator.
    pub(crate) async fn of(api_server: ApiServer, pools: &[&str], flags: &[&str]) -> Self {
        let kubeconfig = api_server.kubeconfig("picker", None);
        Self::asking_as(api_server, &kubeconfig, pools, flags).await
    }

    /// The same, asking by a kubeconfig. Envoy has a route to each of `pools`, by its name as `namespace/name`.
    pub(crate) async fn asking_as(
        api_server: ApiServer,
        kubeconfig: &Path,
        pools: &[&str],
        flags: &[&str],
    ) -> Self {
        let (picker, end) = start_picker(kubeconfig, flags).await;
        let gateway = Gateway::to(picker.ext_proc[0], pools).await;
        Self {
            client: api_server.client.clone(),
            api_server,
            picker,
            http: gateway.http.clone(),
            gateway,
            _end: end,
        }
    }

    /// An Envoy that asks the picker at another port, once somebody listens there.
    pub(crate) async fn another_envoy(&self, port: u16) -> Gateway {
        let picker = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let gateway = Gateway::to(picker, &[]).await;
        gateway.sees_the_picker().await;
        gateway
    }

    /// Waits until the picker is ready and Envoy has seen that.
    pub(crate) async fn ready(&self) {
        eventually("the picker is ready", async || {
            self.readyz().await.0.is_success()
        })
        .await;
        self.gateway.sees_the_picker().await;
    }

    /// What `/readyz` says.
    pub(crate) async fn readyz(&self) -> (StatusCode, String) {
        let url = format!("http://{}/readyz", self.picker.admin);
        let answer = self.http.get(url).send().await.expect("an answer");
        (answer.status(), answer.text().await.expect("a page"))
    }

    /// The page of metrics.
    pub(crate) async fn metrics(&self) -> String {
        let url = format!("http://{}/metrics", self.picker.admin);
        let answer = self.http.get(url).send().await.expect("an answer");
        answer.text().await.expect("a page")
    }

    /// What the picker knows of every pool.
    pub(crate) async fn state(&self) -> Value {
        let url = format!("http://{}/debug/state", self.picker.admin);
        let answer = self.http.get(url).send().await.expect("an answer");
        answer.json().await.expect("a state")
    }

    /// The receipt of a request.
    pub(crate) async fn receipt(&self, id: &str) -> Value {
        let url = format!("http://{}/debug/decisions/{id}", self.picker.admin);
        let answer = self.http.get(url).send().await.expect("an answer");
        answer.json().await.expect("a receipt")
    }

    /// The addresses of a pool's endpoints as the picker knows them; `None` if it serves no such pool.
    pub(crate) async fn endpoints(&self, pool: &str) -> Option<Vec<SocketAddr>> {
        let state = self.state().await;
        let pools = state["pools"].as_array().expect("pools");
        let pool = pools.iter().find(|one| one["pool"] == pool)?;
        let endpoints = pool["endpoints"].as_array().expect("endpoints").iter();
        let address = |one: &Value| one["address"].as_str().and_then(|it| it.parse().ok());
        let mut found: Vec<SocketAddr> = endpoints.filter_map(address).collect();
        found.sort();
        Some(found)
    }

    /// Waits until the picker knows exactly these endpoints of a pool.
    pub(crate) async fn serves(&self, pool: &str, mut expected: Vec<SocketAddr>) {
        expected.sort();
        eventually(&format!("{pool} has {expected:?}"), async || {
            self.endpoints(pool).await.as_ref() == Some(&expected)
        })
        .await;
    }

    /// Sends a request by the route of a pool, or by `any`, that names none.
    pub(crate) async fn send(&self, route: &str, id: &str) -> (StatusCode, String) {
        self.gateway.send(route, id).await
    }

    /// Sends a request to a host, of which the call to the picker says no more, and says which of `servers` got it.
    pub(crate) async fn went_by_host(&self, host: &str, id: &str, servers: &[Server]) -> Went {
        let answer = self.gateway.ask(Some(host), "/v1/completions", id).await;
        received(answer, id, servers)
    }

    /// Sends a request and says which of `servers` got it.
    pub(crate) async fn went(&self, route: &str, id: &str, servers: &[Server]) -> Went {
        self.gateway.went(route, id, servers).await
    }
}

impl Gateway {
    async fn to(picker: SocketAddr, pools: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let mut routes: Vec<Route> = pools.iter().map(|pool| route(pool, Some(pool))).collect();
        routes.push(route("any", None));
        routes.push(Route {
            prefix: "/".to_owned(),
            to: Upstream::OriginalDst,
            pool: None,
        });
        let plan = Plan {
            executable: envoy_executable(),
            folder: folder.path().to_owned(),
            picker,
            picker_security: None,
            servers: vec![SocketAddr::from((Ipv4Addr::LOCALHOST, 1))],
            routes,
            // As gateways that others configure mostly do.
            follow: Follow::Full,
            differences: Differences::default(),
            concurrency: 1,
        };
        let envoy = Envoy::start(&plan).await.expect("Envoy starts");
        let http = reqwest::Client::builder().no_proxy().timeout(PATIENCE);
        Self {
            envoy,
            http: http.build().expect("a client"),
            _folder: folder,
        }
    }

    async fn sees_the_picker(&self) {
        let healthy = "cluster.picker.membership_healthy";
        eventually("Envoy sees the picker", async || {
            self.envoy.stat(healthy).await == Some(1)
        })
        .await;
    }

    async fn send(&self, route: &str, id: &str) -> (StatusCode, String) {
        let path = format!("/{route}/v1/completions");
        self.ask(None, &path, id).await
    }

    async fn ask(&self, host: Option<&str>, path: &str, id: &str) -> (StatusCode, String) {
        let url = format!("http://{}{path}", self.envoy.address);
        let body = json!({"model": "base", "prompt": "hello", "max_tokens": 1});
        let mut request = self.http.post(url).header("x-request-id", id).json(&body);
        if let Some(host) = host {
            request = request.header("host", host);
        }
        let answer = request.send().await.expect("Envoy answers");
        (answer.status(), answer.text().await.expect("a body"))
    }

    pub(crate) async fn went(&self, route: &str, id: &str, servers: &[Server]) -> Went {
        received(self.send(route, id).await, id, servers)
    }
}

/// Where the request with this answer went.
fn received((status, body): (StatusCode, String), id: &str, servers: &[Server]) -> Went {
    if !status.is_success() {
        return Went::Refused(status);
    }
    let got = |server: &&Server| {
        let mut received = server.received().into_iter();
        received.any(|one| one.request_id.as_deref() == Some(id))
    };
    let server = servers.iter().find(got);
    Went::To(server.unwrap_or_else(|| panic!("{id}: {body}")).address())
}

/// Starts a picker in this process.
pub(crate) async fn start_picker(
    kubeconfig: &Path,
    flags: &[&str],
) -> (Listening, oneshot::Sender<()>) {
    let mut line = vec![
        "pointsman".to_owned(),
        "serve".to_owned(),
        format!("--kubeconfig={}", kubeconfig.display()),
    ];
    let loopback = [
        "--bind-address=127.0.0.1",
        "--grpc-port=0",
        "--grpc-health-port=0",
        "--metrics-port=0",
        "--drain-notice=0s",
    ];
    line.extend(loopback.iter().chain(flags).map(|&flag| flag.to_owned()));
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

/// Model servers that listen on one port of different addresses, as pods do.
pub(crate) async fn pods(count: u8) -> Vec<Server> {
    for _ in 0..100 {
        let mut options = Options::local(1, "base", &[], Profile::llama_8b_h100());
        options.addresses = vec![address(0)];
        let mut servers = serve::spawn(options.clone())
            .await
            .expect("a server starts");
        let port = servers[0].address().port();
        options.addresses = (1..count).map(|_| address(port)).collect();
        // Another process may have that port at one of the addresses.
        if let Ok(others) = serve::spawn(options).await {
            servers.extend(others);
            return servers;
        }
    }
    panic!("no port is free at {count} addresses");
}

/// An address of this machine that no other test of this process has.
pub(crate) fn address(port: u16) -> SocketAddr {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let host = NEXT.fetch_add(1, Ordering::Relaxed);
    let process = u8::try_from(std::process::id() % 250).unwrap_or(0) + 1;
    SocketAddr::from((Ipv4Addr::new(127, process, 0, host), port))
}

/// Waits until a condition holds.
pub(crate) async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds().await {
        assert!(Instant::now() < deadline, "{what}: not after {PATIENCE:?}");
        sleep(Duration::from_millis(20)).await;
    }
}

/// The repository's top folder.
pub(crate) fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the repository")
}

fn route(prefix: &str, pool: Option<&str>) -> Route {
    Route {
        prefix: format!("/{prefix}/"),
        to: Upstream::OriginalDst,
        pool: pool.map(str::to_owned),
    }
}

/// The Envoy that `tools/fetch.py` has put into `target/tools`, fetched if it is not there yet.
pub(crate) fn envoy_executable() -> PathBuf {
    let fetched = Command::new("python3")
        .args(["-B", "tools/fetch.py", "envoy"])
        .current_dir(repository())
        .output()
        .expect("python3 is installed");
    let errors = String::from_utf8_lossy(&fetched.stderr);
    assert!(fetched.status.success(), "tools/fetch.py envoy: {errors}");
    String::from_utf8(fetched.stdout)
        .expect("a path")
        .trim()
        .into()
}

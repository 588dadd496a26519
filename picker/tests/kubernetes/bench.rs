//! `make bench-kubernetes`: what thousands of pools and pods of a real API server cost the picker.
//!
//! The picker is the process that `--pointsman` names. Pods have no kubelet; those that are read are simulated servers in
//! this process.

#[expect(dead_code, reason = "the tests of the same folder use all of it")]
mod api_server;
mod call;
#[expect(dead_code, reason = "the tests of the same folder use all of it")]
mod object;
#[expect(dead_code, reason = "the tests of the same folder use all of it")]
mod scene;

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use clap::Parser;
use futures::stream::{self, StreamExt};
use kube::Client;
use serde_json::{Value, json};
use simulator::engine::Profile;
use simulator::load::process::{Cost, Usage};
use simulator::serve::{self, Options, Server};
use tokio::time::{Instant, sleep};

use self::api_server::ApiServer;
use self::call::Call;
use self::object::{POOLS, apply_pool, install_crds, make_namespace, make_pod, pool, set_ready};
use self::scene::repository;

/// Namespaces, of ten pools each, of ten pods each.
const NAMESPACES: usize = 100;
const POOLS_EACH: usize = 10;
const PODS_EACH: usize = 10;
/// The namespaces whose pods are simulated servers: a hundred pools.
const LIVING: usize = 10;
/// Objects that are made at once.
const AT_ONCE: usize = 16;
/// The time after the last change before an idle process is measured, and for how long it is.
const SETTLE: Duration = Duration::from_secs(10);
const IDLE: Duration = Duration::from_secs(60);
/// Pods that become Ready while somebody asks for them.
const LATE: usize = 20;
/// How long the picker may take to know everything.
const PATIENCE: Duration = Duration::from_secs(600);

/// Measures what a large cluster costs.
#[derive(Debug, Parser)]
struct Arguments {
    /// The picker.
    #[arg(long)]
    pointsman: PathBuf,
    /// Where the numbers go, as JSON.
    #[arg(long, default_value = "target/bench/kubernetes.json")]
    out: PathBuf,
    /// What cargo says to every bench.
    #[arg(long, hide = true)]
    bench: bool,
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let arguments = Arguments::parse();
    let picker = repository().join(&arguments.pointsman);
    let api_server = ApiServer::start().await;
    let client = api_server.client.clone();
    install_crds(&client, POOLS).await;
    let servers = servers(LIVING * POOLS_EACH * PODS_EACH).await;
    let began = Instant::now();
    make_cluster(&client, &servers).await;
    say(&format!(
        "the cluster is made in {:.0} s",
        began.elapsed().as_secs_f64()
    ));

    let kubeconfig = api_server.kubeconfig("bench", None);
    let all = NAMESPACES * POOLS_EACH * PODS_EACH;
    let watching = Picker::start(&picker, &kubeconfig, &["--read-metrics=false"]);
    let synced_s = watching.knows(all).await;
    let watched = watching.idle().await;
    let late_ms = late(&client, &watching).await;
    drop(watching);

    let names: Vec<String> = (0..LIVING).map(namespace).collect();
    let namespaces = format!("--namespaces={}", names.join(","));
    let reading = Picker::start(&picker, &kubeconfig, &[&namespaces]);
    reading.knows(servers.len()).await;
    reading.has_read(servers.len()).await;
    let read = reading.idle().await;
    drop(reading);

    let report = json!({
        "pools": NAMESPACES * POOLS_EACH,
        "pods": all,
        "until_all_is_known_s": synced_s,
        "watching": watched,
        "ready_to_first_pick_ms": late_ms,
        "living": {"pools": LIVING * POOLS_EACH, "endpoints": servers.len(), "cost": read},
    });
    let out = repository().join(&arguments.out);
    fs::create_dir_all(out.parent().expect("a folder")).expect("the folder can be made");
    let text = serde_json::to_string_pretty(&report).expect("JSON");
    say(&text);
    fs::write(&out, text).expect("the numbers are written");
}

#[expect(clippy::print_stdout, reason = "what it measures is its output")]
fn say(text: &str) {
    println!("{text}");
}

fn namespace(number: usize) -> String {
    format!("team-{number:02}")
}

/// A simulated server at each of so many loopback addresses, all on one port, as pods are.
async fn servers(count: usize) -> Vec<Server> {
    let address = |number: usize, port: u16| {
        let [high, low] = u16::try_from(number + 1)
            .expect("few servers")
            .to_be_bytes();
        SocketAddr::from((Ipv4Addr::new(127, 1, high, low), port))
    };
    let mut options = Options::local(1, "base", &[], Profile::llama_8b_h100());
    options.addresses = vec![address(0, 0)];
    let mut servers = serve::spawn(options.clone())
        .await
        .expect("a server starts");
    let port = servers[0].address().port();
    options.addresses = (1..count).map(|number| address(number, port)).collect();
    servers.extend(serve::spawn(options).await.expect("the servers start"));
    servers
}

/// The pools and pods; those of the first namespaces are `servers`, the others are nowhere.
async fn make_cluster(client: &Client, servers: &[Server]) {
    let port = servers[0].address().port();
    let each: Vec<(usize, usize)> = (0..NAMESPACES)
        .flat_map(|place| (0..POOLS_EACH).map(move |number| (place, number)))
        .collect();
    for place in 0..NAMESPACES {
        make_namespace(client, &namespace(place)).await;
    }
    let make = |(place, number): (usize, usize)| async move {
        let name = format!("model-{number}");
        let namespace = namespace(place);
        apply_pool(client, &namespace, &pool(&name, &[port])).await;
        for pod in 0..PODS_EACH {
            let index = (place * POOLS_EACH + number) * PODS_EACH + pod;
            let [_, _, high, low] = u32::try_from(index).expect("few pods").to_be_bytes();
            let nowhere = SocketAddr::from((Ipv4Addr::new(10, 0, high, low), port));
            let at = servers
                .get(index)
                .map_or(nowhere, |server| server.address());
            let labels = json!({
                "app": name,
                "app.kubernetes.io/managed-by": "Helm",
                "pod-template-hash": "7d4b9c6f5d",
            });
            let pod_name = format!("{name}-7d4b9c6f5d-{pod:05}");
            make_pod(client, &namespace, &pod_name, &labels, at).await;
        }
    };
    let making = stream::iter(each).map(make).buffer_unordered(AT_ONCE);
    making.collect::<()>().await;
}

/// The times from a pod's being Ready to the first pick for it, in milliseconds, least first. A pool has this pod alone, and is asked
/// for all the time.
async fn late(client: &Client, picker: &Picker) -> Vec<f64> {
    let at = picker.ext_proc.parse().expect("an address");
    let channel = Call::default().connect(at).await;
    let mut times = Vec::new();
    for number in 0..LATE {
        let (namespace, name) = (namespace(number), format!("late-{number}"));
        let at = SocketAddr::from((Ipv4Addr::new(10, 9, 0, number as u8), 8000));
        make_pod(client, &namespace, &name, &json!({"app": name}), at).await;
        set_ready(client, &namespace, &name, false).await;
        apply_pool(client, &namespace, &pool(&name, &[8000])).await;
        let of = format!("{namespace}/{name}");
        scene::eventually("the pool is served", async || {
            let known = format!("pointsman_endpoints{{pool=\"{of}\"");
            picker.page("/metrics").await.contains(&known)
        })
        .await;
        let call = Call {
            pool: Some(of),
            ..Call::default()
        };
        let early = call.ask(&channel).await;
        early.expect_err("no pod is ready yet");
        let began = Instant::now();
        let ready = set_ready(client, &namespace, &name, true);
        let picked = async {
            while call.ask(&channel).await.is_err() {
                sleep(Duration::from_millis(1)).await;
            }
            began.elapsed()
        };
        let ((), took) = tokio::join!(ready, picked);
        times.push(took.as_secs_f64() * 1e3);
    }
    times.sort_by(f64::total_cmp);
    times
}

/// The picker as a process of its own; killed when dropped.
struct Picker {
    child: Child,
    began: Instant,
    ext_proc: String,
    admin: String,
    http: reqwest::Client,
}

impl Picker {
    fn start(executable: &Path, kubeconfig: &Path, flags: &[&str]) -> Self {
        let began = Instant::now();
        let own = [
            "--bind-address=127.0.0.1",
            "--grpc-port=0",
            "--grpc-health-port=0",
            "--metrics-port=0",
            "--log=warn",
        ];
        let mut child = Command::new(executable)
            .arg("serve")
            .args(own)
            .args(flags)
            .env("KUBECONFIG", kubeconfig)
            .stdout(Stdio::piped())
            .spawn()
            .expect("the picker starts");
        let output = child.stdout.take().expect("it is piped");
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line).expect("a line");
        let said: Value = serde_json::from_str(&line).expect("where it listens");
        let address = |value: &Value| value.as_str().expect("an address").to_owned();
        let http = reqwest::Client::builder().no_proxy();
        Self {
            began,
            ext_proc: address(&said["listening"]["ext_proc"][0]),
            admin: address(&said["listening"]["admin"]),
            http: http.build().expect("a client"),
            child,
        }
    }

    async fn page(&self, path: &str) -> String {
        let url = format!("http://{}{path}", self.admin);
        let answer = self.http.get(url).send().await.expect("an answer");
        answer.text().await.expect("a page")
    }

    /// The seconds from its start until it knew so many endpoints.
    async fn knows(&self, endpoints: usize) -> f64 {
        self.until("pointsman_endpoints{", endpoints).await
    }

    /// The seconds from its start until it had read so many metrics pages and lists of models.
    async fn has_read(&self, pages: usize) -> f64 {
        self.until(
            "pointsman_scrapes_total{kind=\"metrics\",result=\"read\"",
            pages,
        )
        .await
    }

    async fn until(&self, series: &str, count: usize) -> f64 {
        loop {
            let page = self.page("/metrics").await;
            let values = page.lines().filter(|line| line.starts_with(series));
            let values = values.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
            if values.sum::<f64>() >= count as f64 {
                return self.began.elapsed().as_secs_f64();
            }
            let waited = self.began.elapsed();
            assert!(waited < PATIENCE, "{series} does not reach {count}: {page}");
            sleep(Duration::from_millis(500)).await;
        }
    }

    /// What it costs while nothing happens.
    async fn idle(&self) -> Cost {
        sleep(SETTLE).await;
        let before = Usage::of(self.child.id()).expect("it runs");
        sleep(IDLE).await;
        before.since(0).expect("it still runs")
    }
}

impl Drop for Picker {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

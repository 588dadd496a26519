//! The load generator against the `pointsman` process: each way of following a response, and what a picker refuses.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use simulator::engine::Profile;
use simulator::load::ext_proc::{ExtProc, Follow};
use simulator::load::{self, LoadPlan, LoadReport, Target};
use simulator::serve::{self, Options, Server};
use simulator::workload::Workload;
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

/// How long a condition may take to come true on a machine that is busy with other things.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running `pointsman`; killed when dropped.
struct Pointsman {
    child: Child,
    ext_proc: String,
    admin: String,
    _folder: TempDir,
}

impl Pointsman {
    fn start(endpoints: &[SocketAddr]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("endpoints.yaml");
        let mut text = "endpoints: [".to_owned();
        for (place, address) in endpoints.iter().enumerate() {
            let (ip, port) = (address.ip(), address.port());
            write!(text, "{{name: e{place}, address: {ip}, port: \"{port}\"}},")
                .expect("a string takes all");
        }
        std::fs::write(&file, text + "]").expect("the file is written");
        let mut child = Command::new(env!("CARGO_BIN_EXE_pointsman"))
            .args(["serve", "--bind-address=127.0.0.1", "--log=warn"])
            .args(["--grpc-port=0", "--grpc-health-port=0", "--metrics-port=0"])
            .arg(format!("--endpoints={}", file.display()))
            .stdout(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        let mut line = String::new();
        let output = child.stdout.take().expect("a pipe");
        BufReader::new(output).read_line(&mut line).expect("a line");
        let said: Value = serde_json::from_str(&line).unwrap_or_else(|_| panic!("said {line:?}"));
        let address = |value: &Value| value.as_str().expect("an address").to_owned();
        Self {
            ext_proc: address(&said["listening"]["ext_proc"][0]),
            admin: address(&said["listening"]["admin"]),
            child,
            _folder: folder,
        }
    }

    async fn load(&self, follow: Follow) -> LoadReport {
        let to = ExtProc {
            follow,
            ..ExtProc::new(&self.ext_proc)
        };
        let workload = Workload::uniform(500, 20, 0);
        let plan = LoadPlan {
            target: Target::ExtProc(to),
            pid: Some(self.child.id()),
            ..LoadPlan::new("", "base", workload, 40.0, Duration::from_secs(1))
        };
        let run = tokio::time::timeout(PATIENCE, load::run(plan)).await;
        run.expect("ends in time").expect("the plan is valid")
    }

    async fn open_streams(&self) -> Option<u64> {
        let url = format!("http://{}/debug/state", self.admin);
        let text = reqwest::get(url).await.ok()?.text().await.ok()?;
        let state: Value = serde_json::from_str(&text).ok()?;
        let pools = state["pools"].as_array()?.iter();
        Some(pools.filter_map(|pool| pool["in_flight"].as_u64()).sum())
    }
}

impl Drop for Pointsman {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

#[tokio::test]
async fn every_request_is_picked_and_let_go_however_it_is_followed() {
    let servers = Options::local(4, "base", &[], Profile::demo());
    let servers = serve::spawn(servers).await.expect("model servers start");
    let endpoints: Vec<SocketAddr> = servers.iter().map(Server::address).collect();
    let picker = Pointsman::start(&endpoints);
    for follow in [Follow::Full, Follow::Watched, Follow::Released] {
        let report = picker.load(follow).await;
        assert_eq!(
            (report.requests, report.errors),
            (40, 0),
            "{follow:?}: {:?}",
            report.errors_by_kind
        );
        assert!(report.pick_ms.is_some(), "{follow:?}");
        assert_eq!(report.chunk_ms.is_some(), follow == Follow::Full);
        assert_eq!(report.servers.len(), 4, "{follow:?}: all are idle and used");
        for share in &report.servers {
            assert!(
                endpoints.iter().any(|one| one.to_string() == share.server),
                "{} is no endpoint",
                share.server
            );
        }
        assert!(report.process.is_some(), "the picker still runs");
        let deadline = Instant::now() + PATIENCE;
        while picker.open_streams().await != Some(0) {
            assert!(Instant::now() < deadline, "{follow:?}: some stay in flight");
            sleep(Duration::from_millis(20)).await;
        }
    }
}

#[tokio::test]
async fn a_refusal_is_counted_by_its_status() {
    let picker = Pointsman::start(&[]);
    let report = picker.load(Follow::Full).await;
    assert_eq!((report.requests, report.errors), (40, 40));
    assert_eq!(report.errors_by_kind["immediate_503"], 40);
}

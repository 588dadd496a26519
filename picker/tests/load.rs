//! The load generator against the `pointsman` process: each way of following a response, and what a picker refuses.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use simulator::engine::Profile;
use simulator::load::ext_proc::{ExtProc, Follow};
use simulator::load::{self, LoadPlan, LoadReport, Target};
use simulator::pointsman::Pointsman;
use simulator::serve::{self, Options, Server};
use simulator::workload::Workload;
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

/// How long a condition may take to come true on a machine that is busy with other things.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running picker, and the folder of its files.
struct Scene {
    picker: Pointsman,
    _folder: TempDir,
}

impl Scene {
    fn of(endpoints: &[SocketAddr]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let executable = Path::new(env!("CARGO_BIN_EXE_pointsman"));
        let picker = Pointsman::start(executable, folder.path(), endpoints);
        Self {
            picker: picker.expect("the picker starts"),
            _folder: folder,
        }
    }

    async fn load(&self, follow: Follow) -> LoadReport {
        let to = ExtProc {
            follow,
            ..ExtProc::new(&self.picker.ext_proc.to_string())
        };
        let workload = Workload::uniform(500, 20, 0);
        let plan = LoadPlan {
            target: Target::ExtProc(to),
            pid: Some(self.picker.pid),
            ..LoadPlan::new("", "base", workload, 40.0, Duration::from_secs(1))
        };
        let run = tokio::time::timeout(PATIENCE, load::run(plan)).await;
        run.expect("ends in time").expect("the plan is valid")
    }

    async fn open_streams(&self) -> Option<u64> {
        let state = self.picker.get("/debug/state").await.ok()?;
        let pools = state["pools"].as_array()?.iter();
        Some(pools.filter_map(|pool| pool["in_flight"].as_u64()).sum())
    }
}

#[tokio::test]
async fn every_request_is_picked_and_let_go_however_it_is_followed() {
    let servers = Options::local(4, "base", &[], Profile::demo());
    let servers = serve::spawn(servers).await.expect("model servers start");
    let endpoints: Vec<SocketAddr> = servers.iter().map(Server::address).collect();
    let picker = Scene::of(&endpoints);
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
    let picker = Scene::of(&[]);
    let report = picker.load(Follow::Full).await;
    assert_eq!((report.requests, report.errors), (40, 40));
    assert_eq!(report.errors_by_kind["immediate_503"], 40);
}

//! The load generator as a proxy: what it says to a picker, what it makes of the answers, and that it speaks as a real Envoy does.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::HeaderMap;
use envoy_types::pb::envoy::service::ext_proc::v3::ProcessingRequest;
use envoy_types::pb::envoy::service::ext_proc::v3::processing_request::Request as Part;
use simulator::engine::Profile;
use simulator::envoy::{Differences, Envoy, Plan, Route, Upstream};
use simulator::load::ext_proc::{ExtProc, Follow};
use simulator::load::{self, LoadPlan, LoadReport, Target};
use simulator::noop::{Call, Noop};
use simulator::serve;
use simulator::workload::{Span, Workload};
use tokio::time::{Instant, sleep};

/// How long a condition may take to come true on a machine that is busy with other things.
const PATIENCE: Duration = Duration::from_secs(60);
const ENDPOINT: SocketAddr = SocketAddr::new(
    std::net::IpAddr::V4(std::net::Ipv4Addr::new(127, 0, 0, 7)),
    8000,
);

async fn noop() -> Noop {
    Noop::start(0, ENDPOINT, 1000).await.expect("a free port")
}

/// Ten requests of so many bytes and chunks.
fn ten(to: ExtProc, prompt_bytes: u32, chunks: u32) -> LoadPlan {
    let mut workload = Workload::uniform(prompt_bytes / 4, 1, 0);
    workload.kinds[0].output_tokens = Span::exactly(chunks);
    LoadPlan {
        target: Target::ExtProc(to),
        ..LoadPlan::new("", "base", workload, 40.0, Duration::from_millis(250))
    }
}

async fn run(plan: LoadPlan) -> LoadReport {
    tokio::time::timeout(PATIENCE, load::run(plan))
        .await
        .expect("ends in time")
        .expect("the plan is valid")
}

async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds().await {
        assert!(
            Instant::now() < deadline,
            "in {PATIENCE:?} it has not come true that {what}"
        );
        sleep(Duration::from_millis(10)).await;
    }
}

/// A message in short: its kind, `.` at the end of its half, `*` with the modes of bodies, `+` with the pick in its metadata,
/// `?` in observability mode.
fn short(message: &ProcessingRequest) -> String {
    let (kind, ends) = match message.request.as_ref().expect("a kind that is known") {
        Part::RequestHeaders(headers) => ("request", headers.end_of_stream),
        Part::RequestBody(body) if body.body.is_empty() => ("empty", body.end_of_stream),
        Part::RequestBody(body) => ("frame", body.end_of_stream),
        Part::ResponseHeaders(headers) => ("response", headers.end_of_stream),
        Part::ResponseBody(body) if body.body.is_empty() => ("empty", body.end_of_stream),
        Part::ResponseBody(body) => ("chunk", body.end_of_stream),
        Part::RequestTrailers(_) | Part::ResponseTrailers(_) => ("trailers", true),
    };
    let metadata = message.metadata_context.as_ref();
    let picked = metadata.and_then(|metadata| metadata.filter_metadata.get("envoy.lb"));
    let marks = [
        (ends, "."),
        (message.protocol_config.is_some(), "*"),
        (picked.is_some(), "+"),
        (message.observability_mode, "?"),
    ];
    let marks = marks.into_iter().filter(|(is, _)| *is);
    marks.fold(kind.to_owned(), |text, (_, mark)| text + mark)
}

fn words(call: &Call) -> String {
    let messages: Vec<_> = call.messages.iter().map(short).collect();
    messages.join(" ")
}

#[tokio::test]
async fn each_way_of_following_says_what_its_proxy_would() {
    let cases: [(Follow, u32, &[&str]); 4] = [
        (
            Follow::Full,
            3,
            &["request* frame frame empty. response+ chunk+ chunk+ chunk+ empty.+"],
        ),
        (Follow::Full, 0, &["request* frame frame empty. response.+"]),
        (Follow::Released, 3, &["request* frame frame empty."]),
        (
            Follow::Watched,
            3,
            &["request* frame frame.", "request? response+?"],
        ),
    ];
    for (follow, chunks, expected) in cases {
        let noop = noop().await;
        let to = ExtProc {
            follow,
            frame_bytes: 600,
            ..ExtProc::new(&noop.address.to_string())
        };
        let report = run(ten(to, 800, chunks)).await;
        assert_eq!(
            (report.requests, report.errors, report.unanswered),
            (10, 0, 0),
            "{follow:?}: {:?}",
            report.errors_by_kind
        );
        assert!(report.pick_ms.is_some_and(|pick| pick.mean > 0.0));
        assert_eq!(
            report.chunk_ms.is_some(),
            follow == Follow::Full && chunks > 0,
            "{follow:?}: chunks are measured where they pass"
        );
        assert_eq!(report.servers.len(), 1);
        assert_eq!(report.servers[0].server, ENDPOINT.to_string());
        let said: BTreeSet<String> = noop.calls().iter().map(words).collect();
        let expected: BTreeSet<String> = expected.iter().map(|&words| words.to_owned()).collect();
        assert_eq!(said, expected, "{follow:?}");
        eventually("every stream is closed", async || {
            noop.calls().iter().all(|call| call.ended)
        })
        .await;
    }
}

#[tokio::test]
async fn the_two_streams_of_a_watched_request_have_its_id_in_common() {
    let noop = noop().await;
    let to = ExtProc {
        follow: Follow::Watched,
        metadata: vec![("x-deployment".into(), "green".into())],
        ..ExtProc::new(&noop.address.to_string())
    };
    run(ten(to, 800, 3)).await;
    let calls = noop.calls();
    assert_eq!(calls.len(), 20);
    let (watching, picking): (Vec<_>, Vec<_>) = calls
        .iter()
        .partition(|call| call.messages[0].observability_mode);
    let ids = |calls: &[&Call]| -> BTreeSet<String> {
        calls
            .iter()
            .map(|call| request_header(call, "x-request-id").expect("an id"))
            .collect()
    };
    assert_eq!(ids(&watching), ids(&picking));
    assert_eq!(ids(&watching).len(), 10);
    for call in &calls {
        let metadata = call.metadata.get("x-deployment");
        assert!(metadata.is_some_and(|value| value == "green"));
    }
    for (calls, says) in [(&watching, "watching"), (&picking, "watch-filter")] {
        for call in calls {
            let follow = call.metadata.get("x-pointsman-follow");
            assert!(follow.is_some_and(|value| value == says), "{follow:?}");
        }
    }
    for call in watching {
        let destination = request_header(call, "x-gateway-destination-endpoint");
        assert_eq!(destination, Some(ENDPOINT.to_string()));
    }
}

#[tokio::test]
async fn chunks_keep_their_distance() {
    let noop = noop().await;
    let to = ExtProc {
        chunk_interval: Duration::from_millis(20),
        connections: 2,
        ..ExtProc::new(&noop.address.to_string())
    };
    let report = run(ten(to, 800, 11)).await;
    assert_eq!(report.errors, 0);
    let e2e = report.e2e_ms.expect("measured");
    assert!(
        e2e.p50 >= 200.0,
        "ten intervals of 20 ms have passed: {e2e:?}"
    );
    assert_eq!((report.output_tokens_per_s * report.seconds).round(), 110.0);
}

#[tokio::test]
async fn a_picker_that_is_not_there_is_counted_as_that() {
    let gone = noop().await.address.to_string();
    let report = run(ten(ExtProc::new(&gone), 400, 1)).await;
    assert_eq!((report.errors, report.errors_by_kind["connect"]), (10, 10));
    assert_eq!(report.pick_ms, None, "what failed has no latency");
}

#[tokio::test]
async fn what_no_call_can_carry_is_refused_by_name() {
    for (change, names) in [
        (("a b", "x", "1"), "authority a b"),
        (("picker", "x y", "1"), "metadata x y"),
        (("picker", "x", "\n"), "metadata \n"),
    ] {
        let (authority, name, value) = change;
        let to = ExtProc {
            authority: authority.into(),
            metadata: vec![(name.into(), value.into())],
            ..ExtProc::new("127.0.0.1:1")
        };
        let error = load::run(ten(to, 400, 1)).await.expect_err("refused");
        assert!(error.to_string().contains(names), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_real_envoy_says_the_same() {
    let servers = serve::Options::local(1, "base", &[], Profile::demo());
    let servers = serve::spawn(servers).await.expect("a server starts");
    let address = servers[0].address();
    let told_by_envoy = Noop::start(0, address, 10).await.expect("a free port");
    let folder = tempfile::tempdir().expect("a folder");
    let plan = Plan {
        executable: envoy_executable(),
        folder: folder.path().to_owned(),
        picker: told_by_envoy.address,
        picker_security: None,
        servers: vec![address],
        routes: vec![Route {
            prefix: "/".into(),
            to: Upstream::OverrideHost,
            pool: None,
        }],
        follow: Follow::Full,
        differences: Differences::default(),
        concurrency: 1,
    };
    let envoy = Envoy::start(&plan).await.expect("Envoy starts");
    let healthy = "cluster.picker.membership_healthy";
    eventually("Envoy sees the picker", async || {
        envoy.stat(healthy).await == Some(1)
    })
    .await;
    let told_by_us = Noop::start(0, address, 10).await.expect("a free port");
    let one = |target| LoadPlan {
        target,
        rate: 4.0,
        ..ten(ExtProc::new(""), 800, 3)
    };
    let url = format!("http://{}", envoy.address);
    assert_eq!(run(one(Target::Url(url))).await.errors, 0);
    let us = ExtProc::new(&told_by_us.address.to_string());
    assert_eq!(run(one(Target::ExtProc(us))).await.errors, 0);

    let (envoy, us) = (&told_by_envoy.calls()[0], &told_by_us.calls()[0]);
    assert_eq!(words(us), words(envoy));
    let [us_first, envoy_first] = [us, envoy].map(|call| &call.messages[0]);
    assert_eq!(us_first.protocol_config, envoy_first.protocol_config);
    assert_eq!(us_first.attributes, envoy_first.attributes);
    // Those that every client of ours sends, too; a client has headers of its own beside them.
    for name in [
        ":authority",
        ":path",
        ":method",
        ":scheme",
        "content-type",
        "content-length",
        "x-forwarded-proto",
        "x-request-id",
    ] {
        for call in [us, envoy] {
            assert!(request_header(call, name).is_some(), "{name}");
        }
    }
    let (us_last, envoy_last) = (us.messages.last(), envoy.messages.last());
    assert_eq!(
        us_last.map(|message| &message.metadata_context),
        envoy_last.map(|message| &message.metadata_context)
    );
    for name in ["te", "content-type", "x-envoy-internal"] {
        let [us, envoy] = [us, envoy].map(|call| call.metadata.get(name));
        assert_eq!(us, envoy, "{name}");
    }
}

/// A header of the request, as the first message has it.
fn request_header(call: &Call, name: &str) -> Option<String> {
    let Some(Part::RequestHeaders(headers)) = &call.messages.first()?.request else {
        return None;
    };
    let map: &HeaderMap = headers.headers.as_ref()?;
    let mut found = map.headers.iter();
    let found = found.find(|header| header.key == name)?;
    String::from_utf8(found.raw_value.clone()).ok()
}

fn envoy_executable() -> PathBuf {
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
    let path = String::from_utf8(fetched.stdout).expect("a path");
    path.trim().into()
}

/// `pointsman-sim noop` as a process; killed when dropped.
struct NoopProcess {
    child: Child,
    address: String,
}

impl NoopProcess {
    fn start() -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pointsman-sim"));
        command.args(["noop", "--port", "0"]).stdout(Stdio::piped());
        let mut child = command.spawn().expect("the binary runs");
        let out = child.stdout.take().expect("piped");
        let mut line = String::new();
        BufReader::new(out).read_line(&mut line).expect("a line");
        let address = line.trim().rsplit(' ').next().expect("a word").to_owned();
        Self { child, address }
    }
}

impl Drop for NoopProcess {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn load(options: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pointsman-sim"));
    command.arg("load").args(options);
    command.output().expect("the binary runs")
}

#[test]
fn the_report_of_a_process_has_the_keys_that_scripts_read() {
    let noop = NoopProcess::start();
    let pid = noop.child.id().to_string();
    let made = load(&[
        "--ext-proc",
        &noop.address,
        "--rate=40",
        "--duration=500ms",
        "--prompt-bytes=2000",
        "--output-chunks=20",
        "--adapters=2",
        "--pid",
        &pid,
        "--json",
    ]);
    let report: serde_json::Value = serde_json::from_slice(&made.stdout).expect("JSON");
    for key in [
        "/requests",
        "/errors",
        "/pick_ms/p50",
        "/pick_ms/p99",
        "/chunk_ms/p50",
        "/chunk_ms/p99",
        "/e2e_ms/p90",
        "/rate/asked",
        "/rate/achieved",
        "/process/cpu_cores",
        "/process/cpu_ms_per_request",
        "/process/peak_rss_mib",
        "/load_max_over_mean",
    ] {
        assert!(
            report
                .pointer(key)
                .is_some_and(serde_json::Value::is_number),
            "{key}: {report}"
        );
    }
    assert_eq!(
        (&report["requests"], &report["errors"]),
        (&20.into(), &0.into())
    );
    let reached = report["rate"]["achieved"].as_f64() >= Some(0.95 * 40.0);
    assert_eq!(made.status.success(), reached, "{:?}", made.status);
}

#[test]
fn a_rate_that_is_not_reached_ends_in_failure() {
    // Four thousand requests in a fifth of a millisecond; each fails at once, since nobody listens there.
    let made = load(&[
        "--ext-proc=127.0.0.1:1",
        "--rate=20000000",
        "--duration=0.2ms",
        "--json",
    ]);
    assert_eq!(made.status.code(), Some(1));
    let report: serde_json::Value = serde_json::from_slice(&made.stdout).expect("JSON");
    assert_eq!(report["rate"]["asked"], 20_000_000.0);
    assert!(report["rate"]["achieved"].as_f64() < Some(0.95 * 20_000_000.0));
}

#[test]
fn options_that_do_not_fit_together_are_named() {
    for (options, names) in [
        (&["--rate=1"][..], "--url"),
        (&["--ext-proc=a:1", "--url=http://a"], "--url"),
        (&["--url=http://a", "--follow=watched"], "--follow"),
        (&["--ext-proc=a:1", "--turns=3"], "--turns"),
        (&["--url=http://a", "--output-chunks=0"], "give at least 1"),
    ] {
        let made = load(options);
        let said = String::from_utf8_lossy(&made.stderr).into_owned();
        assert!(!made.status.success() && said.contains(names), "{said}");
    }
}

//! The load generator against model servers over loopback HTTP.

use std::time::Duration;

use simulator::engine::Profile;
use simulator::load::{self, Api, LoadPlan, LoadReport};
use simulator::serve::{Options, Server, spawn};
use simulator::workload::Workload;

/// Steps of 2 ms, adapter loads of 1 ms.
fn quick() -> Profile {
    Profile {
        base_ms: 2.0,
        per_prefill_token_ms: 0.0,
        per_seq_ms: 0.0,
        adapter_load_ms: 1.0,
        ..Profile::demo()
    }
}

async fn one(profile: Profile) -> Server {
    let options = Options::local(1, "base", &["adapter-1", "adapter-2"], profile);
    spawn(options)
        .await
        .expect("starts")
        .pop()
        .expect("one was asked for")
}

fn plan(server: &Server, workload: Workload) -> LoadPlan {
    let url = format!("http://{}", server.address());
    LoadPlan::new(&url, "base", workload, 40.0, Duration::from_secs(1))
}

async fn run(plan: LoadPlan) -> LoadReport {
    tokio::time::timeout(Duration::from_secs(60), load::run(plan))
        .await
        .expect("ends in time")
        .expect("the plan is valid")
}

#[tokio::test]
async fn every_request_is_sent_answered_and_attributed() {
    let server = one(quick()).await;
    let mut plan = plan(&server, Workload::uniform(200, 5, 2));
    plan.servers = vec![server.address()];
    let report = run(plan).await;
    assert_eq!(
        (report.requests, report.errors, report.unanswered),
        (40, 0, 0)
    );
    assert_eq!((report.output_tokens_per_s * report.seconds).round(), 200.0);
    // One server with slots for both adapters loads each once.
    assert_eq!(report.adapter_loads_per_1000, Some(2.0 * 1000.0 / 40.0));
    assert_eq!(report.load_max_over_mean, Some(1.0));
    let ttft = report.ttft_ms.expect("answers are streamed");
    assert!(
        ttft.p50 >= 2.0,
        "no token is there before a step of 2 ms has ended: {ttft:?}"
    );
    assert!(report.tpot_ms.is_some(), "answers have five tokens");
    assert_eq!(
        report.servers[0].server,
        format!("sim-0:{}", server.address().port())
    );

    let received = server.received();
    assert_eq!(received.len(), 40);
    let body = received[0].body.as_ref().expect("short enough to be kept");
    let body: serde_json::Value = serde_json::from_slice(body).expect("JSON");
    assert_eq!(body["prompt"].as_str().map(str::len), Some(800));
    assert_eq!(body["max_tokens"], 5);
}

#[tokio::test]
async fn chats_and_whole_answers_are_understood_too() {
    let server = one(quick()).await;
    for (api, stream) in [
        (Api::Chat, true),
        (Api::Chat, false),
        (Api::Completions, false),
    ] {
        let mut plan = plan(&server, Workload::uniform(50, 4, 0));
        (plan.api, plan.stream, plan.duration) = (api, stream, Duration::from_millis(250));
        let report = run(plan).await;
        assert_eq!(
            (report.requests, report.errors),
            (10, 0),
            "{api:?} {stream}"
        );
        assert_eq!((report.output_tokens_per_s * report.seconds).round(), 40.0);
        assert_eq!(
            report.ttft_ms.is_some(),
            stream,
            "a whole answer has no first token"
        );
    }
}

#[tokio::test]
async fn what_fails_is_counted_by_kind() {
    let mut server = one(quick()).await;
    let mut unknown = plan(&server, Workload::uniform(50, 4, 0));
    unknown.model = "nope".into();
    let report = run(unknown).await;
    assert_eq!((report.errors, report.errors_by_kind["http_404"]), (40, 40));
    assert_eq!(report.ttft_ms, None, "a refusal has no latency");

    let refused = plan(&server, Workload::uniform(50, 4, 0));
    server.kill().await;
    let report = run(refused).await;
    assert_eq!((report.errors, report.errors_by_kind["connect"]), (40, 40));
}

#[tokio::test]
async fn a_stopped_run_reports_what_it_has() {
    // No answer ends within the test.
    let server = one(Profile {
        base_ms: 3_600_000.0,
        ..quick()
    })
    .await;
    let mut plan = plan(&server, Workload::uniform(50, 4, 0));
    plan.duration = Duration::from_secs(3600);
    let stop = plan.stop.clone();
    let running = tokio::spawn(run(plan));
    let first_received = async {
        while server.received().is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), first_received)
        .await
        .expect("a request arrives");
    stop.cancel();
    let report = running.await.expect("no panic");
    assert_eq!((report.requests, report.errors), (0, 0));
    assert!(report.unanswered > 0);
}

#[tokio::test]
async fn a_plan_that_makes_no_load_is_refused_by_name() {
    let server = one(quick()).await;
    let good = plan(&server, Workload::uniform(50, 4, 0));
    for (change, names) in [
        (
            LoadPlan {
                rate: 0.0,
                ..good.clone()
            },
            "rate is 0",
        ),
        (
            LoadPlan {
                duration: Duration::ZERO,
                ..good.clone()
            },
            "duration is 0ns",
        ),
        (
            LoadPlan {
                url: "localhost:80".into(),
                ..good.clone()
            },
            "url is localhost:80",
        ),
        (
            LoadPlan {
                workload: Workload::demo_lora(),
                ..good
            },
            "adapter_names is 0 names for 12",
        ),
    ] {
        let error = load::run(change).await.expect_err("refused").to_string();
        assert!(error.starts_with(names), "{error}");
    }
}

#[tokio::test]
async fn the_report_has_the_keys_that_scripts_read() {
    let server = one(quick()).await;
    let report = run(plan(&server, Workload::uniform(50, 4, 0))).await;
    let json = serde_json::to_value(&report).expect("serialises");
    for key in [
        "/requests",
        "/errors",
        "/ttft_ms/p50",
        "/ttft_ms/p90",
        "/ttft_ms/p99",
        "/tpot_ms/p50",
        "/output_tokens_per_s",
        "/load_max_over_mean",
        "/rate/asked",
        "/rate/achieved",
    ] {
        assert!(
            json.pointer(key).is_some_and(serde_json::Value::is_number),
            "{key}"
        );
    }
    assert_eq!(
        json["adapter_loads_per_1000"],
        serde_json::Value::Null,
        "no server was named"
    );
    assert_eq!(json["errors_by_kind"], serde_json::json!({}));
}

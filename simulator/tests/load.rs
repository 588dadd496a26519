//! The load generator against model servers over loopback HTTP.

use std::time::Duration;

use simulator::engine::Profile;
use simulator::load::{self, Api, LoadPlan, LoadReport, Target, page};
use simulator::serve::{Options, Server, spawn};
use simulator::workload::{Prefixes, Priority, Sessions, Span, Workload};

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
                target: Target::Url("localhost:80".into()),
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
async fn a_closed_loop_keeps_as_many_under_way_as_asked() {
    let server = one(quick()).await;
    let mut plan = plan(&server, Workload::uniform(50, 20, 0));
    (plan.concurrency, plan.duration) = (Some(3), Duration::from_millis(600));
    let running = tokio::spawn(run(plan));
    let mut most = 0;
    let three_at_once = async {
        while most < 3 {
            most = most.max(server.unfinished().await);
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), three_at_once)
        .await
        .expect("three are under way at once");
    let report = running.await.expect("no panic");
    assert!(report.requests > 3, "others follow: {}", report.requests);
    assert_eq!((report.errors, report.rate.asked), (0, None));
    assert_eq!(report.concurrency, Some(3));
    assert!(report.rate.is_reached(), "no rate was asked for");
}

#[tokio::test]
async fn a_conversation_goes_on_with_all_that_was_said() {
    let server = one(quick()).await;
    for api in [Api::Completions, Api::Chat] {
        let before = server.received().len();
        let mut workload = Workload::uniform(30, 4, 0);
        let (turns, think_ms) = (Span::exactly(3), Span::exactly(1));
        workload.sessions = Some(Sessions { turns, think_ms });
        let mut plan = plan(&server, workload);
        (plan.api, plan.duration) = (api, Duration::from_millis(100));
        let report = run(plan).await;
        assert_eq!(
            (report.requests, report.errors),
            (12, 0),
            "4 of 3 turns each"
        );
        let received = server.received();
        let prompts = received[before..].iter().map(|request| {
            let body = request.body.as_ref().expect("short enough to be kept");
            let body: serde_json::Value = serde_json::from_slice(body).expect("JSON");
            match api {
                Api::Completions => body["prompt"].as_str().unwrap_or_default().to_owned(),
                Api::Chat => body["messages"]
                    .to_string()
                    .trim_end_matches(']')
                    .to_owned(),
            }
        });
        let prompts: Vec<String> = prompts.collect();
        let continued = |prompt: &&String| {
            let mut longer = prompts.iter().filter(|one| one.len() > prompt.len());
            longer.any(|one| one.starts_with(prompt.as_str()))
        };
        assert_eq!(prompts.iter().filter(continued).count(), 8, "{api:?}");
    }
}

#[tokio::test]
async fn shared_beginnings_and_objectives_are_sent() {
    let server = one(quick()).await;
    let mut workload = Workload::uniform(50, 4, 0);
    workload.prefixes = Some(Prefixes {
        groups: 1,
        tokens: 100,
    });
    workload.priorities = vec![Priority {
        objective: "critical".into(),
        share: 1.0,
    }];
    let mut plan = plan(&server, workload);
    plan.slo.ttft_ms = Some(60_000.0);
    let report = run(plan).await;
    assert_eq!(report.errors, 0);
    assert_eq!(report.goodput.map(|goodput| goodput.share), Some(1.0));
    let received = server.received();
    let beginning = |place: usize| {
        let body = received[place].body.as_ref().expect("kept");
        let body: serde_json::Value = serde_json::from_slice(body).expect("JSON");
        body["prompt"].as_str().expect("text")[..400].to_owned()
    };
    assert_eq!(beginning(0), beginning(39));
    let mut headers = received[7].headers.iter();
    let objective = headers.find(|(name, _)| name.as_str() == "x-gateway-inference-objective");
    assert!(
        objective.is_some_and(|(_, value)| value == "critical"),
        "{objective:?}"
    );
}

#[tokio::test]
async fn a_page_shows_the_latencies_and_doubts_what_is_doubtful() {
    let server = one(quick()).await;
    let mut report = run(plan(&server, Workload::uniform(50, 4, 0))).await;
    let shown = page::of(&report);
    for part in [
        "<svg",
        "time to first token",
        "polyline",
        "50 prompt tokens",
    ] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    report.rate.achieved = 1.0;
    assert!(page::of(&report).contains("under 95 % of the asked rate"));
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
        "/itl_ms/p95",
        "/requests_per_s",
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

//! The `pointsman` process as proxies, kubelets and operators meet it: pools, health, refusals, SIGTERM.

mod http2;
mod messages;
mod process;
mod tls;

use std::process::Command;

use envoy_types::pb::envoy::service::ext_proc::v3::processing_response::Response as Answer;
use serde_json::Value;
use tonic_health::pb::health_check_response::ServingStatus;

use self::process::{ANY, Call, Pointsman, command, eventually, free_port, health};

#[tokio::test]
async fn two_pools_in_one_process_are_told_apart_by_port_service_and_metadata() {
    let port = free_port();
    let chat = "
endpoints: [{name: a, address: 127.0.0.1, port: 7001}]
endpointPickerRef: {name: chat-epp}
";
    let code = format!(
        "
endpoints: [{{name: b, address: 127.0.0.1, port: 7002}}]
endpointPickerRef: {{name: code-epp, port: {{number: {port}}}}}
"
    );
    let picker = Pointsman::start(&[("ai/chat", chat), ("ai/code", &code)]);
    let [shared, own] = picker.ext_proc[..] else {
        panic!("{:?}", picker.ext_proc)
    };
    assert_eq!(own.port(), port);

    let to_chat = Call {
        authority: "127.0.0.1",
        pool: Some("ai/chat"),
    };
    let service = Call {
        authority: "code-epp.ai.svc.cluster.local:9002",
        pool: Some("ai/chat"),
    };
    assert_eq!(ANY.destination(own).await, "127.0.0.1:7002");
    assert_eq!(
        to_chat.destination(own).await,
        "127.0.0.1:7002",
        "the port comes first"
    );
    assert_eq!(
        service.destination(shared).await,
        "127.0.0.1:7002",
        "then the Service"
    );
    assert_eq!(
        to_chat.destination(shared).await,
        "127.0.0.1:7001",
        "then the metadata"
    );
    let neither = ANY.destination(shared).await;
    assert!(
        neither.starts_with("503 ") && neither.contains("ai/chat, ai/code"),
        "{neither}"
    );
}

#[tokio::test]
async fn health_is_answered_on_both_ports_and_mirrors_readiness() {
    let picker = Pointsman::start(&[("ai/chat", "endpoints: []")]);
    let ext_proc = "envoy.service.ext_proc.v3.ExternalProcessor";
    for service in ["", "liveness", "readiness", "inference-extension", ext_proc] {
        assert_eq!(
            health(picker.health, service).await,
            Ok(ServingStatus::Serving),
            "{service}"
        );
    }
    assert_eq!(
        health(picker.ext_proc[0], ext_proc).await,
        Ok(ServingStatus::Serving)
    );
    assert_eq!(
        health(picker.health, "unheard-of").await,
        Err(tonic::Code::NotFound)
    );
    assert_eq!(
        picker.get("/healthz").await.map(|(status, _)| status),
        Some(200)
    );
}

#[tokio::test]
async fn after_sigterm_it_is_not_ready_serves_what_is_open_and_ends() {
    let file = "endpoints: [{name: a, address: 127.0.0.1, port: 7001}]";
    let mut picker = Pointsman::start(&[("ai/chat", file)]);
    eventually("it is ready", async || {
        picker
            .get("/readyz")
            .await
            .is_some_and(|(status, _)| status == 200)
    })
    .await;
    let (answer, open) = ANY.ask(picker.ext_proc[0]).await;
    assert!(matches!(answer, Answer::RequestHeaders(_)), "{answer:?}");

    picker.terminate();
    eventually("it is not ready", async || {
        let said = picker.get("/readyz").await;
        said.is_some_and(|(status, text)| status == 503 && text.contains("[-] not draining"))
    })
    .await;
    let status = health(picker.health, "readiness").await;
    assert_eq!(status, Ok(ServingStatus::NotServing));
    assert_eq!(
        health(picker.health, "liveness").await,
        Ok(ServingStatus::Serving)
    );
    assert_eq!(
        ANY.destination(picker.ext_proc[0]).await,
        "127.0.0.1:7001",
        "late work is served"
    );
    assert!(
        picker.child.try_wait().expect("a child").is_none(),
        "a stream is open"
    );

    drop(open);
    let mut status = None;
    eventually("it has ended", async || {
        status = picker.child.try_wait().expect("a child");
        status.is_some()
    })
    .await;
    assert!(status.is_some_and(|status| status.success()), "{status:?}");
}

#[tokio::test]
async fn why_tells_the_receipt_of_a_request_and_what_to_do_about_an_unknown_one() {
    let file = "endpoints: [{name: a, address: 127.0.0.1, port: 7001}]";
    let picker = Pointsman::start(&[("ai/chat", file)]);
    let (_, open) = ANY.ask(picker.ext_proc[0]).await;
    let (_, listed) = picker.get("/debug/decisions").await.expect("an answer");
    let listed: Value = serde_json::from_str(&listed).expect("JSON");
    let id = listed["decisions"][0]["request_id"]
        .as_str()
        .expect("an id");
    let why = |id: &str| {
        let admin = format!("--admin={}", picker.admin);
        let mut command = Command::new(env!("CARGO_BIN_EXE_pointsman"));
        command.args(["why", id, &admin]).output().expect("it runs")
    };
    let told = why(id);
    let text = String::from_utf8_lossy(&told.stdout);
    assert!(told.status.success());
    assert!(
        text.starts_with(&format!("Request {id} to pool ai/chat: ")),
        "{text}"
    );
    assert!(
        text.contains("-> ai/a ") && text.contains("Chosen as the only candidate."),
        "{text}"
    );
    assert!(text.ends_with("Still in flight.\n"), "{text}");
    let last = why("--last=5");
    assert_eq!(last.stdout, told.stdout, "there is no other decision");
    drop(open);

    let path = "/debug/decisions?pool=ai/other";
    let (_, listed) = picker.get(path).await.expect("an answer");
    assert_eq!(listed, r#"{"decisions":[]}"#);
    let path = "/debug/decisions?modle=m";
    let (status, text) = picker.get(path).await.expect("an answer");
    assert_eq!(status, 400);
    assert!(
        text.contains("modle") && text.contains("`model`"),
        "what is known instead: {text}"
    );

    let unknown = why("no/such?id");
    let text = String::from_utf8_lossy(&unknown.stderr);
    assert_eq!(unknown.status.code(), Some(1));
    assert!(
        text.contains("no decision about request no/such?id is kept"),
        "{text}"
    );
}

#[test]
fn a_wrong_endpoints_file_ends_the_start_with_field_value_and_remedy() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = "endpoints: [{name: a, address: vllm-0, port: 8000}]";
    let ended = command(folder.path(), &[("ai/chat", file)])
        .output()
        .expect("it runs");
    assert_eq!(ended.status.code(), Some(1));
    let said = String::from_utf8_lossy(&ended.stderr);
    assert!(
        said.contains("endpoints[0].address: `vllm-0` is no IP address"),
        "{said}"
    );
}

//! The `pointsman` process as proxies, kubelets and operators meet it: pools, health, refusals, SIGTERM.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::{HeaderMap, HeaderValue};
use envoy_types::pb::envoy::service::ext_proc::v3::external_processor_client::ExternalProcessorClient;
use envoy_types::pb::envoy::service::ext_proc::v3::processing_request::Request as Part;
use envoy_types::pb::envoy::service::ext_proc::v3::processing_response::Response as Answer;
use envoy_types::pb::envoy::service::ext_proc::v3::{HttpHeaders, ProcessingRequest};
use serde_json::Value;
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Endpoint;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

/// How long a condition may take to come true on a machine that is busy with other things.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running `pointsman`; killed when dropped.
struct Pointsman {
    child: Child,
    ext_proc: Vec<SocketAddr>,
    health: SocketAddr,
    admin: SocketAddr,
    _folder: TempDir,
}

impl Pointsman {
    /// Starts it with these endpoints files, each `(pool, text)`, and waits until it listens.
    fn start(files: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let mut child = command(folder.path(), files);
        let mut child = child
            .stdout(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        let mut line = String::new();
        let output = child.stdout.take().expect("a pipe");
        BufReader::new(output).read_line(&mut line).expect("a line");
        let said: Value = serde_json::from_str(&line).unwrap_or_else(|_| panic!("said {line:?}"));
        let address = |value: &Value| value.as_str().and_then(|text| text.parse().ok());
        let listening = &said["listening"];
        let ext_proc = listening["ext_proc"]
            .as_array()
            .expect("a list")
            .iter()
            .filter_map(address);
        Self {
            ext_proc: ext_proc.collect(),
            health: address(&listening["health"]).expect("an address"),
            admin: address(&listening["admin"]).expect("an address"),
            child,
            _folder: folder,
        }
    }

    fn terminate(&self) {
        let pid = self.child.id().to_string();
        let sent = Command::new("kill")
            .args(["-TERM", &pid])
            .status()
            .expect("kill runs");
        assert!(sent.success());
    }

    async fn get(&self, path: &str) -> Option<(u16, String)> {
        let answer = reqwest::get(format!("http://{}{path}", self.admin))
            .await
            .ok()?;
        Some((answer.status().as_u16(), answer.text().await.ok()?))
    }
}

impl Drop for Pointsman {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// `pointsman serve` on free ports of this machine.
fn command(folder: &Path, files: &[(&str, &str)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pointsman"));
    command.args([
        "serve",
        "--bind-address=127.0.0.1",
        "--drain-notice=0s",
        "--log=warn",
    ]);
    command.args(["--grpc-port=0", "--grpc-health-port=0", "--metrics-port=0"]);
    for (index, (pool, text)) in files.iter().enumerate() {
        let file = folder.join(format!("{index}.yaml"));
        std::fs::write(&file, text).expect("the file is written");
        command.arg(format!("--endpoints={pool}={}", file.display()));
    }
    command
}

/// One stream that asks where a request without body goes.
struct Call {
    authority: &'static str,
    pool: Option<&'static str>,
}

impl Call {
    /// The answer, and the stream's other end, which keeps it open.
    async fn ask(&self, picker: SocketAddr) -> (Answer, mpsc::Sender<ProcessingRequest>) {
        let (sender, receiver) = mpsc::channel(4);
        let path = HeaderValue {
            key: ":path".into(),
            raw_value: b"/".into(),
            ..Default::default()
        };
        let headers = HttpHeaders {
            headers: Some(HeaderMap {
                headers: vec![path],
            }),
            end_of_stream: true,
            ..Default::default()
        };
        let request = Some(Part::RequestHeaders(headers));
        let first = ProcessingRequest {
            request,
            ..Default::default()
        };
        sender.send(first).await.expect("room for one");
        let endpoint = Endpoint::from_shared(format!("http://{picker}")).expect("an address");
        let origin = format!("http://{}", self.authority)
            .parse()
            .expect("an authority");
        let channel = endpoint
            .origin(origin)
            .connect()
            .await
            .expect("the picker listens");
        let mut call = tonic::Request::new(ReceiverStream::new(receiver));
        if let Some(pool) = self.pool {
            call.metadata_mut()
                .insert("x-pointsman-pool", pool.parse().expect("a value"));
        }
        let mut client = ExternalProcessorClient::new(channel);
        let mut answers = client.process(call).await.expect("a stream").into_inner();
        let answer = answers.message().await.expect("an answer").expect("one");
        (answer.response.expect("an answer"), sender)
    }

    /// The destination, or the status of an answer in the server's place.
    async fn destination(&self, picker: SocketAddr) -> String {
        match self.ask(picker).await.0 {
            Answer::RequestHeaders(headers) => {
                let mutation = headers.response.and_then(|one| one.header_mutation);
                let header = mutation.expect("a mutation").set_headers[0].header.clone();
                String::from_utf8(header.expect("a header").raw_value).expect("text")
            }
            Answer::ImmediateResponse(answer) => {
                let status = answer.status.expect("a status").code;
                format!("{status} {}", String::from_utf8_lossy(&answer.body))
            }
            other => panic!("{other:?}"),
        }
    }
}

const ANY: Call = Call {
    authority: "127.0.0.1",
    pool: None,
};

/// A port that nobody listens on now.
fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("an address").port()
}

async fn health(at: SocketAddr, service: &str) -> Result<ServingStatus, tonic::Code> {
    let endpoint = Endpoint::from_shared(format!("http://{at}")).expect("an address");
    let channel = endpoint
        .connect()
        .await
        .map_err(|_| tonic::Code::Unavailable)?;
    let request = HealthCheckRequest {
        service: service.to_owned(),
    };
    let answer = HealthClient::new(channel).check(request).await;
    answer
        .map(|answer| answer.get_ref().status())
        .map_err(|status| status.code())
}

async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds().await {
        assert!(
            Instant::now() < deadline,
            "in {PATIENCE:?} it has not come true that {what}"
        );
        sleep(Duration::from_millis(20)).await;
    }
}

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
    drop(open);

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

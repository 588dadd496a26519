//! The `pointsman` process, and one call to it.

use std::fs::{self, File};
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
use tonic::Code;
use tonic::transport::{Channel, Endpoint};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

/// How long a condition may take to come true on a machine that is busy with other things.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A running `pointsman`; killed when dropped.
pub(crate) struct Pointsman {
    pub(crate) child: Child,
    pub(crate) ext_proc: Vec<SocketAddr>,
    pub(crate) health: SocketAddr,
    pub(crate) admin: SocketAddr,
    folder: TempDir,
}

impl Pointsman {
    /// Starts it with these endpoints files, each `(pool, text)`, and waits until it listens.
    pub(crate) fn start(files: &[(&str, &str)]) -> Self {
        Self::start_with(files, &[])
    }

    /// As [`Pointsman::start`], with more flags.
    pub(crate) fn start_with(files: &[(&str, &str)], flags: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let log = File::create(folder.path().join(LOG)).expect("a file");
        let mut child = command(folder.path(), files)
            .args(flags)
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .expect("the binary starts");
        let mut line = String::new();
        let output = child.stdout.take().expect("a pipe");
        BufReader::new(output).read_line(&mut line).expect("a line");
        let said: Value = serde_json::from_str(&line).unwrap_or_else(|_| {
            let log = fs::read_to_string(folder.path().join(LOG));
            panic!("said {line:?} and logged {log:?}")
        });
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
            folder,
        }
    }

    /// What it has logged.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join(LOG)).expect("the log is there")
    }

    pub(crate) fn terminate(&self) {
        let pid = self.child.id().to_string();
        let sent = Command::new("kill")
            .args(["-TERM", &pid])
            .status()
            .expect("kill runs");
        assert!(sent.success());
    }

    pub(crate) async fn get(&self, path: &str) -> Option<(u16, String)> {
        let answer = reqwest::get(format!("http://{}{path}", self.admin))
            .await
            .ok()?;
        Some((answer.status().as_u16(), answer.text().await.ok()?))
    }
}

impl Drop for Pointsman {
    #[expect(
        clippy::print_stdout,
        reason = "the harness keeps it, and shows it where a test fails"
    )]
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
        print!("{}", self.log());
    }
}

/// The file of the log.
const LOG: &str = "log";

/// `pointsman serve` on free ports of this machine.
pub(crate) fn command(folder: &Path, files: &[(&str, &str)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pointsman"));
    command.args([
        "serve",
        "--bind-address=127.0.0.1",
        "--drain-notice=0s",
        "--log=info",
    ]);
    command.args(["--grpc-port=0", "--grpc-health-port=0", "--metrics-port=0"]);
    for (index, (pool, text)) in files.iter().enumerate() {
        let file = folder.join(format!("{index}.yaml"));
        fs::write(&file, text).expect("the file is written");
        command.arg(format!("--endpoints={pool}={}", file.display()));
    }
    command
}

/// One stream that asks where a request without body goes.
pub(crate) struct Call {
    pub(crate) authority: &'static str,
    pub(crate) pool: Option<&'static str>,
}

impl Call {
    /// The answer over a connection in plaintext, and the stream's other end, which keeps it open.
    pub(crate) async fn ask(
        &self,
        picker: SocketAddr,
    ) -> (Answer, mpsc::Sender<ProcessingRequest>) {
        let endpoint = Endpoint::from_shared(format!("http://{picker}")).expect("an address");
        let origin = format!("http://{}", self.authority)
            .parse()
            .expect("an authority");
        let channel = endpoint.origin(origin).connect().await;
        self.ask_over(channel.expect("the picker listens")).await
    }

    /// The answer, and the stream's other end.
    pub(crate) async fn ask_over(
        &self,
        channel: Channel,
    ) -> (Answer, mpsc::Sender<ProcessingRequest>) {
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
    pub(crate) async fn destination(&self, picker: SocketAddr) -> String {
        told(self.ask(picker).await.0)
    }

    /// As [`Call::destination`], over this connection.
    pub(crate) async fn destination_over(&self, channel: Channel) -> String {
        told(self.ask_over(channel).await.0)
    }
}

/// Where an answer sends the request, or the status and body that it has instead.
fn told(answer: Answer) -> String {
    match answer {
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

/// A call that does not say which pool it is for.
pub(crate) const ANY: Call = Call {
    authority: "127.0.0.1",
    pool: None,
};

/// A port that nobody listens on now.
pub(crate) fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("an address").port()
}

/// The status of a service, asked in plaintext.
pub(crate) async fn health(at: SocketAddr, service: &str) -> Result<ServingStatus, Code> {
    let endpoint = Endpoint::from_shared(format!("http://{at}")).expect("an address");
    let channel = endpoint.connect().await.map_err(|_| Code::Unavailable)?;
    health_over(channel, service).await
}

/// The status of a service.
pub(crate) async fn health_over(channel: Channel, service: &str) -> Result<ServingStatus, Code> {
    let request = HealthCheckRequest {
        service: service.to_owned(),
    };
    let answer = HealthClient::new(channel).check(request).await;
    answer
        .map(|answer| answer.get_ref().status())
        .map_err(|status| status.code())
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

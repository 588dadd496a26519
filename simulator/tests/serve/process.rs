//! `pointsman-sim serve` as a process: signals, and its end.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use reqwest::{Client, Response};
use tokio::time::{sleep, timeout};

use crate::scene::DEADLINE;

/// A running process with one server; killed when dropped.
struct Process {
    child: Child,
    url: String,
}

impl Process {
    fn start(more: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pointsman-sim"));
        command.args(["serve", "--port", "0", "--profile", "demo"]);
        let spawned = command.args(more).stdout(Stdio::piped()).spawn();
        let mut child = spawned.expect("the binary runs");
        let out = child.stdout.take().expect("piped");
        let mut line = String::new();
        BufReader::new(out).read_line(&mut line).expect("a line");
        let url = line.trim().rsplit(' ').next().expect("a word").to_owned();
        Self { child, url }
    }

    async fn post(&self, path: &str, body: &str) -> Response {
        let request = Client::new().post(format!("{}{path}", self.url));
        let request = request.header("content-type", "application/json");
        request.body(body.to_owned()).send().await.expect("answers")
    }

    fn terminate(&self) {
        let pid = self.child.id().to_string();
        let sent = Command::new("kill").args(["-TERM", &pid]).status();
        assert!(sent.expect("kill is installed").success());
    }

    async fn ended(&mut self) -> ExitStatus {
        let ended = async {
            loop {
                if let Some(status) = self.child.try_wait().expect("a child") {
                    return status;
                }
                sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(DEADLINE, ended).await.expect("the process ends")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

const STREAM: &str = r#"{"prompt":"hi","max_tokens":2000,"stream":true}"#;

#[tokio::test]
async fn sigterm_cuts_streams_and_ends_the_process() {
    let mut process = Process::start(&[]);
    let mut stream = process.post("/v1/completions", STREAM).await;
    stream.chunk().await.expect("no break").expect("a token");
    process.terminate();
    let end = stream.text().await.expect("a whole stream");
    assert!(end.ends_with("data: [DONE]\n\n"), "{end}");
    assert!(process.ended().await.success());
}

#[tokio::test]
async fn a_drain_finishes_streams_before_the_process_ends() {
    let mut process = Process::start(&["--shutdown-timeout", "60", "--speed", "20"]);
    let short = STREAM.replace("2000", "100");
    let mut stream = process.post("/v1/completions", &short).await;
    stream.chunk().await.expect("no break").expect("a token");
    process.terminate();
    let end = stream.text().await.expect("a whole stream");
    assert!(end.contains(r#""finish_reason":"length""#), "{end}");
    assert!(process.ended().await.success());
}

#[tokio::test]
async fn a_crash_ends_the_process_with_an_error() {
    let mut process = Process::start(&["--control"]);
    let changed = process.post("/sim/state", r#"{"state":"crash"}"#).await;
    assert_eq!(changed.status(), 200);
    assert_eq!(process.ended().await.code(), Some(1));
}

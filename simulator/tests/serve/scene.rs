//! Servers to test, and how to talk to them.

use std::time::Duration;

use reqwest::{Client, Response};
use simulator::engine::Profile;
use simulator::serve::{Options, Server, spawn};
use tokio::time::{sleep, timeout};

/// Long enough for any machine; a test that meets it has failed.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

/// Steps so short that tests do not wait for them.
pub(crate) fn quick() -> Profile {
    Profile {
        base_ms: 1.0,
        per_prefill_token_ms: 0.0,
        per_seq_ms: 0.0,
        max_model_len: 2048,
        adapter_load_ms: 1.0,
        ..Profile::demo()
    }
}

/// Steps so long that none ends within a test.
pub(crate) fn frozen() -> Profile {
    Profile {
        base_ms: 3_600_000.0,
        ..quick()
    }
}

pub(crate) async fn one(profile: Profile) -> Server {
    let servers = spawn(Options::local(1, "tiny", &["a", "b"], profile))
        .await
        .expect("starts");
    servers.into_iter().next().expect("one was asked for")
}

pub(crate) fn url(server: &Server, path: &str) -> String {
    format!("http://{}{path}", server.address())
}

pub(crate) async fn post(server: &Server, path: &str, body: impl Into<reqwest::Body>) -> Response {
    let request = Client::new()
        .post(url(server, path))
        .header("content-type", "application/json");
    request.body(body).send().await.expect("answers")
}

pub(crate) async fn text(response: Response) -> (u16, String) {
    let status = response.status().as_u16();
    (status, response.text().await.expect("a body"))
}

/// `body` with what differs from one answer to the next replaced: ids, times, hashes, and what is said.
pub(crate) fn steady(body: &str) -> String {
    let mut text = body.to_owned();
    for field in [
        "\"id\":\"",
        "\"created\":",
        "\"system_fingerprint\":\"",
        "\"text\":\"",
        "\"content\":\"",
    ] {
        let mut done = String::new();
        while let Some(start) = text.find(field) {
            let value = start + field.len();
            let length = text[value..].find(['"', ',', '}']).unwrap_or(0);
            done.push_str(&text[..value]);
            done.push('?');
            text = text.split_off(value + length);
        }
        text = done + &text;
    }
    text
}

/// Waits until `count` requests are unfinished.
pub(crate) async fn until_unfinished(server: &Server, what: &str, count: usize) {
    let reached = async {
        while server.unfinished().await != count {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(DEADLINE, reached).await.expect(what);
}

/// A server of options that are not the usual ones.
pub(crate) async fn one_with(profile: Profile, change: impl FnOnce(&mut Options)) -> Server {
    let mut options = Options::local(1, "tiny", &["a", "b"], profile);
    change(&mut options);
    let servers = spawn(options).await.expect("starts");
    servers.into_iter().next().expect("one was asked for")
}

/// A page or list.
pub(crate) async fn get(server: &Server, path: &str) -> (u16, String) {
    text(reqwest::get(url(server, path)).await.expect("answers")).await
}

/// Waits until the port is closed.
pub(crate) async fn until_refused(server: &Server) {
    let address = url(server, "/health");
    let refused = async {
        // A new client each time: an idle connection says nothing about the port.
        while Client::new().get(&address).send().await.is_ok() {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(DEADLINE, refused).await.expect("the port closes");
}

/// What is left of a stream.
pub(crate) async fn rest(mut response: Response) -> String {
    let read = async {
        let mut text = Vec::new();
        while let Some(chunk) = response.chunk().await.expect("no break") {
            text.extend_from_slice(&chunk);
        }
        String::from_utf8(text).expect("text")
    };
    timeout(DEADLINE, read).await.expect("the stream ends")
}

/// Starts a stream and waits for its first event.
pub(crate) async fn streaming(server: &Server, max_tokens: u32) -> Response {
    let body = format!(r#"{{"prompt":"hi","max_tokens":{max_tokens},"stream":true}}"#);
    let mut response = post(server, "/v1/completions", body).await;
    let chunk = timeout(DEADLINE, response.chunk()).await.expect("in time");
    assert!(chunk.expect("no break").is_some(), "a token comes");
    response
}

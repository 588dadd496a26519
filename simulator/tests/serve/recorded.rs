//! The recordings of vLLM 0.32.0, sent to a simulated server: what comes back is what was recorded, but for what is said.

use reqwest::{Client, Method};
use simulator::serve::{Options, Server, spawn};

use crate::scene::{get, quick, steady, text, url};

const ERRORS: &str = include_str!("../fixtures/http/errors.txt");
const ADAPTERS: &str = include_str!("../fixtures/http/lora_runtime.txt");
const OTHERS: &str = include_str!("../fixtures/http/misc_apis.txt");

/// Paths of the recordings that are not modelled.
const NOT_MODELLED: [&str; 4] = [
    "/v1/messages",
    "/v1/messages/count_tokens",
    "/v1/systemone",
    "/generative_scoring",
];

/// One request and what vLLM answered.
#[derive(Debug)]
struct Exchange {
    method: Method,
    path: String,
    header: Option<(String, String)>,
    body: String,
    status: u16,
    content_type: Option<String>,
    answer: String,
}

impl Exchange {
    /// Reads `### [-N] [-X METHOD] URL [-H HEADER] [-d BODY]` and what follows.
    fn read(text: &str) -> Option<Self> {
        let (line, response) = text.split_once('\n')?;
        let (before, rest) = line.split_once("http://127.0.0.1:8000")?;
        let (head, body) = rest.split_once(" -d ").unwrap_or((rest, ""));
        let (path, header) = head.split_once(" -H ").unwrap_or((head, ""));
        let (head, answer) = response.split_once("\n\n").unwrap_or((response, ""));
        let content_type = head
            .lines()
            .find_map(|line| line.strip_prefix("content-type: "));
        Some(Self {
            method: match before.trim().strip_prefix("-X ") {
                Some(method) => method.parse().ok()?,
                None => Method::POST,
            },
            path: path.to_owned(),
            header: header
                .split_once(": ")
                .map(|(name, value)| (name.to_owned(), value.to_owned())),
            body: body.replace("<3000 alphas>", &("alpha ".repeat(3000) + "\"}")),
            status: head.split(' ').nth(1)?.parse().ok()?,
            content_type: content_type.map(str::to_owned),
            answer: answer.trim_end().to_owned(),
        })
    }

    fn all(recording: &str) -> Vec<Self> {
        let text = recording.replace("\r\n", "\n");
        text.split("### ").filter_map(Self::read).collect()
    }

    /// Sends the request and compares the answer, both seen through `view`.
    async fn check(&self, server: &Server, view: impl Fn(&str) -> String) {
        let mut request = Client::new().request(self.method.clone(), url(server, &self.path));
        if let Some((name, value)) = &self.header {
            request = request.header(name, value);
        }
        request = request.header("content-type", "application/json");
        let response = request
            .body(self.body.clone())
            .send()
            .await
            .expect("answers");
        let kind = response.headers().get("content-type");
        let kind = kind.map(|kind| kind.to_str().expect("text").to_owned());
        let (status, answer) = text(response).await;
        assert_eq!(
            (status, kind, view(answer.trim_end())),
            (self.status, self.content_type.clone(), view(&self.answer)),
            "{} {}",
            self.path,
            self.body
        );
    }
}

async fn server() -> Server {
    let options = Options::local(1, "tiny", &["a", "b", "c", "d"], quick());
    let servers = spawn(options).await.expect("starts");
    servers.into_iter().next().expect("one was asked for")
}

#[tokio::test]
async fn what_vllm_refuses_is_refused_in_its_words() {
    let server = server().await;
    let recorded = Exchange::all(ERRORS);
    assert_eq!(recorded.len(), 13, "requests with a JSON body");
    for exchange in recorded {
        exchange.check(&server, steady).await;
    }
}

#[tokio::test]
async fn adapters_come_and_go_at_run_time_as_recorded() {
    let server = server().await;
    let text = ADAPTERS.replace("\r\n", "\n").replace("\n--- ", "\n### ");
    let (mut exchanges, mut lists) = (0, 0);
    for section in text.split("### ") {
        if let Some(list) = section.strip_prefix("models: ") {
            assert_eq!(models(&server).await, list.trim_end().replace('\'', ""));
            lists += 1;
        } else if let Some(exchange) = Exchange::read(section) {
            exchange.check(&server, steady).await;
            exchanges += 1;
        }
    }
    assert_eq!((exchanges, lists), (11, 6), "the recording has as many");
}

/// The models as the recording lists them: name and parent.
async fn models(server: &Server) -> String {
    let (_, list) = get(server, "/v1/models").await;
    let list: serde_json::Value = serde_json::from_str(&list).expect("JSON");
    let cards = list["data"].as_array().expect("a list").iter();
    let pairs: Vec<_> = cards
        .map(|card| {
            let name = card["id"].as_str().expect("a name");
            format!("({name}, {})", card["parent"].as_str().unwrap_or("None"))
        })
        .collect();
    format!("[{}]", pairs.join(", "))
}

#[tokio::test]
async fn responses_tokens_and_the_rest_have_the_recorded_shape() {
    let server = server().await;
    let recorded = Exchange::all(OTHERS);
    let modelled = recorded
        .iter()
        .filter(|one| !NOT_MODELLED.contains(&one.path.as_str()));
    let mut checked = 0;
    for exchange in modelled {
        exchange.check(&server, shape).await;
        checked += 1;
    }
    assert_eq!(checked, 13, "the recording has as many that are modelled");
}

/// A body without what another tokenizer and another model say: texts but those of a few fields, and the digits of numbers.
fn shape(body: &str) -> String {
    const KEPT: [&str; 9] = [
        "object",
        "type",
        "role",
        "status",
        "finish_reason",
        "reason",
        "model",
        "message",
        "tool_choice",
    ];
    let pieces: Vec<&str> = body.split('"').collect();
    let mut out = String::new();
    for (place, piece) in pieces.iter().enumerate() {
        let is_text = place % 2 == 1;
        let is_name = is_text
            && pieces
                .get(place + 1)
                .is_some_and(|next| next.starts_with(':'));
        let name = place.checked_sub(2).map(|before| pieces[before]);
        let is_kept = is_name || name.is_some_and(|name| KEPT.contains(&name));
        match (is_text, is_kept) {
            (true, true) => out += &format!("\"{piece}\""),
            (true, false) => out += "\"?\"",
            // Lists of tokens have the length that the tokenizer gives them.
            (false, _) => out += &numbers_masked(piece),
        }
    }
    while out.contains("\"?\",\"?\"") || out.contains("0,0") {
        out = out.replace("\"?\",\"?\"", "\"?\"").replace("0,0", "0");
    }
    out
}

fn numbers_masked(text: &str) -> String {
    let mut out = String::new();
    for character in text.chars() {
        match character {
            '0'..='9' if out.ends_with('0') => {}
            '0'..='9' => out.push('0'),
            other => out.push(other),
        }
    }
    out
}

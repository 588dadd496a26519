//! What it costs to read a request's body, by its length.

use std::hint::black_box;

use criterion::{Criterion, Throughput};
use picker_core::request::{Request, Scan};
use serde_json::json;

/// What a proxy sends of a body in one message, about.
const FRAME_BYTES: usize = 16 * 1024;

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    let mut group = criterion.benchmark_group("scan");
    let cases = [
        ("chat_1kb", "/v1/chat/completions", chat(1_000)),
        ("chat_430kb", "/v1/chat/completions", chat(430_000)),
        ("tools_430kb", "/v1/chat/completions", tools(430_000)),
        ("quotes_430kb", "/v1/chat/completions", quotes(430_000)),
        (
            "token_ids_430kb",
            "/inference/v1/generate",
            token_ids(430_000),
        ),
    ];
    for (name, path, body) in &cases {
        let body = body.as_bytes();
        group.throughput(Throughput::Bytes(body.len() as u64));
        group.bench_function(*name, |bench| {
            bench.iter(|| Request::scan(path, black_box(body)))
        });
        if body.len() > FRAME_BYTES {
            group.bench_function(format!("{name}_in_frames"), |bench| {
                bench.iter(|| {
                    let mut scan = Scan::new(path);
                    for frame in black_box(body).chunks(FRAME_BYTES) {
                        scan.feed(frame);
                    }
                    scan.request()
                });
            });
        }
    }
    group.finish();
    criterion.final_summary();
}

/// A conversation of about `bytes` bytes, with the escapes that text has.
fn chat(bytes: usize) -> String {
    let line = "She said: \"Les élèves ont compris\", and wrote it down.\n";
    let turn = line.repeat((bytes / 10).div_ceil(line.len() + 3));
    let messages: Vec<_> = (0..10)
        .map(|turns| json!({"role": if turns % 2 == 0 { "user" } else { "assistant" }, "content": turn}))
        .collect();
    let body =
        json!({"model": "adapter-1", "stream": true, "max_tokens": 256, "messages": messages});
    body.to_string()
}

/// Tools: many short strings.
fn tools(bytes: usize) -> String {
    let tool = json!({"type": "function", "function": {"name": "look_up", "description": "Looks a word up",
        "parameters": {"type": "object", "properties": {"word": {"type": "string"}}, "required": ["word"]}}});
    let tools = vec![tool.clone(); bytes / tool.to_string().len()];
    json!({"model": "adapter-1", "messages": [], "tools": tools}).to_string()
}

/// Text that is all quotes, the worst there is.
fn quotes(bytes: usize) -> String {
    json!({"model": "adapter-1", "messages": [{"content": "\"".repeat(bytes / 2)}]}).to_string()
}

/// A prompt of token ids.
fn token_ids(bytes: usize) -> String {
    let ids: Vec<u32> = (0..bytes as u32 / 7)
        .map(|id| 100_000 + id % 28_000)
        .collect();
    json!({"model": "adapter-1", "token_ids": ids, "sampling_params": {"max_tokens": 256}})
        .to_string()
}

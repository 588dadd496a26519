//! What it costs to read a request's body, by its length.

use std::hint::black_box;

use criterion::{Criterion, Throughput};
use picker_core::request::Request;
use serde_json::json;

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    let mut group = criterion.benchmark_group("scan");
    for (name, bytes) in [("chat_1kb", 1_000), ("chat_430kb", 430_000)] {
        let body = chat(bytes);
        group.throughput(Throughput::Bytes(body.len() as u64));
        group.bench_function(name, |bench| {
            bench.iter(|| Request::scan("/v1/chat/completions", black_box(body.as_bytes())));
        });
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

//! What it costs to follow a streamed response, by chunk: seen alone, and with the model's name put back.

use std::hint::black_box;

use criterion::{Criterion, Throughput};
use picker_core::response::{Rename, Response};

const CHUNKS: u64 = 1_000;

/// A chunk as vLLM streams it, with one token.
const CHUNK: &str = "data: {\"id\":\"chatcmpl-93f6b1f1a4a3b7b5\",\"object\":\"chat.completion.chunk\",\"created\":1795197480,\
    \"model\":\"adapter-1\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\" token\"},\"logprobs\":null,\
    \"finish_reason\":null,\"token_ids\":null}]}\n\n";

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    let mut group = criterion.benchmark_group("stream");
    group.throughput(Throughput::Elements(CHUNKS));
    group.bench_function("followed", |bench| {
        bench.iter(|| {
            let mut response = Response::new();
            response.on_headers(200, "text/event-stream", None);
            for _ in 0..CHUNKS {
                response.on_body(black_box(CHUNK.as_bytes()));
            }
            response.tokens()
        });
    });
    group.bench_function("renamed", |bench| {
        bench.iter(|| {
            let mut rename = Rename::new("the-name-of-the-client");
            rename.on_headers("text/event-stream", None);
            for _ in 0..CHUNKS {
                black_box(rename.pass(black_box(CHUNK.as_bytes())));
            }
        });
    });
    group.finish();
    criterion.final_summary();
}

//! What it costs to read a recorded metrics page of 50 KB.

use std::hint::black_box;

use criterion::{Criterion, Throughput};
use picker_core::engine::Engine;
use picker_core::exposition;

/// One engine after a few requests, two adapters among them.
const PAGE: &[u8] = include_bytes!("../tests/fixtures/vllm/metrics_idle_after_few.txt");

/// Two engines: the largest page of the recordings.
const TWO_ENGINES: &[u8] = include_bytes!("../tests/fixtures/vllm/load/dp2.raw_1.5.txt");

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    let mut group = criterion.benchmark_group("exposition");
    let engine = Engine::vllm();
    for (name, page) in [("one_engine_50kb", PAGE), ("two_engines_85kb", TWO_ENGINES)] {
        group.throughput(Throughput::Bytes(page.len() as u64));
        group.bench_function(name, |bench| {
            bench.iter(|| exposition::read(black_box(page), &engine))
        });
    }
    group.finish();
    criterion.final_summary();
}

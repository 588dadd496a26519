//! What one pick costs, its booking, receipt and end included, by the size of the pool.
//!
//! With the arguments `--only ENDPOINTS PICKS` it does that and times nothing, for a profiler: `make bench-core` counts the instructions.

mod pool;

use std::hint::black_box;

use criterion::Criterion;

use crate::pool::Pool;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [only, endpoints, picks, ..] = &arguments[..]
        && only == "--only"
    {
        let number = |text: &str| text.parse().expect("a number after --only");
        let mut pool = Pool::busy(number(endpoints));
        (0..number(picks)).for_each(|_| pick_and_end(&mut pool));
        return;
    }
    let mut criterion = Criterion::default().configure_from_args();
    let mut group = criterion.benchmark_group("pick");
    for count in [10, 100, 1_000] {
        let mut pool = Pool::busy(count);
        group.bench_function(format!("{count}_endpoints"), |bench| {
            bench.iter(|| pick_and_end(&mut pool));
        });
    }
    group.finish();
    criterion.final_summary();
}

fn pick_and_end(pool: &mut Pool) {
    let arrival = pool.arrival();
    let key = arrival.key;
    black_box(pool.pick(arrival));
    pool.end(key);
}

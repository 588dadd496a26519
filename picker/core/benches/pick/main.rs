//! What one pick costs, its booking, receipt and end included, by the size of the pool.

mod pool;

use std::hint::black_box;

use criterion::Criterion;

use crate::pool::Pool;

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    let mut group = criterion.benchmark_group("pick");
    for count in [10, 100, 1_000] {
        let mut pool = Pool::busy(count);
        group.bench_function(format!("{count}_endpoints"), |bench| {
            bench.iter(|| {
                let arrival = pool.arrival();
                let key = arrival.key;
                black_box(pool.pick(arrival));
                pool.end(key);
            });
        });
    }
    group.finish();
    criterion.final_summary();
}

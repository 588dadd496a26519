//! Picks on a pool, for a profiler, by two arguments: how many endpoints, and how many picks. `make bench-core` counts their instructions.

#[path = "../benches/pick/pool.rs"]
mod pool;

use std::hint::black_box;

use crate::pool::Pool;

fn main() {
    let numbers = std::env::args().skip(1).map(|number| number.parse());
    let numbers: Result<Vec<u32>, _> = numbers.collect();
    let Ok([endpoints, picks]) = numbers.as_deref() else {
        panic!("give the number of endpoints and that of picks, not {numbers:?}");
    };
    let mut pool = Pool::busy(*endpoints);
    for _ in 0..*picks {
        let arrival = pool.arrival();
        let key = arrival.key;
        black_box(pool.pick(arrival));
        pool.end(key);
    }
}

//! What one pick costs, its booking, receipt and end included, by the size of the pool.

use std::hint::black_box;
use std::time::Duration;

use criterion::Criterion;
use picker_core::adapter::Model;
use picker_core::endpoint::{AdapterReading, Endpoint, EndpointKey, EngineReading, Reading};
use picker_core::engine::Engine;
use picker_core::event::{Arrival, Ending, Event, Following};
use picker_core::request::{Request, RequestKey};
use picker_core::seed::Random;
use picker_core::time::Instant;
use picker_core::{Action, Picker, Settings};

/// Adapters that every endpoint lists, and the slots it has for them.
const ADAPTERS: u32 = 12;
const SLOTS: u32 = 4;
/// Requests in flight at each endpoint.
const IN_FLIGHT: u64 = 4;

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    let mut group = criterion.benchmark_group("pick");
    for count in [10, 100, 1_000_u32] {
        let (mut picker, now) = busy_pool(count);
        let mut next = u64::MAX / 2;
        group.bench_function(format!("{count}_endpoints"), |bench| {
            bench.iter(|| {
                next += 1;
                let picked = place(&mut picker, now, next);
                picker.handle_event(now, Event::Ended(RequestKey(next), Ending::default()));
                while picker.poll_action().is_some() {}
                black_box(picked)
            });
        });
    }
    group.finish();
    criterion.final_summary();
}

/// A pool that was read a moment ago, with adapters listed and requests in flight.
fn busy_pool(count: u32) -> (Picker, Instant) {
    let mut picker = Picker::new(Settings {
        seed: 1,
        reading_interval_min: Duration::from_millis(50),
    });
    picker.handle_event(
        Instant::ZERO,
        Event::Endpoints((0..count).map(endpoint).collect()),
    );
    let now = Instant::from_millis(2_000);
    for key in (0..count).map(EndpointKey) {
        let models = (0..ADAPTERS).map(|number| Model {
            name: format!("adapter-{number}").into(),
            adapter: true,
        });
        picker.handle_event(now, Event::Models(key, models.collect()));
        picker.handle_event(now, Event::Read(key, reading(key.0)));
    }
    for request in 0..u64::from(count) * IN_FLIGHT {
        place(&mut picker, now, request);
    }
    (picker, now)
}

fn place(picker: &mut Picker, now: Instant, key: u64) -> Option<Action> {
    let mut random = Random::new(key);
    let arrival = Arrival {
        key: RequestKey(key),
        request_id: "5f1d6f1e-6a8e-4d0c-a9f5-0d5f1b1b6f11".into(),
        request: Request {
            model: Some(format!("adapter-{}", random.below(ADAPTERS as usize)).into()),
            prompt_bytes: 2_048,
            ..Request::of_headers("/v1/chat/completions")
        },
        standing: None,
        rewrite: None,
        subset: None,
        following: Following::Full,
        fallbacks: 0,
    };
    picker.handle_event(now, Event::Arrived(arrival));
    let mut picked = None;
    while let Some(action) = picker.poll_action() {
        picked = Some(action);
    }
    picked
}

fn endpoint(number: u32) -> Endpoint {
    let [_, high, middle, low] = number.to_be_bytes();
    Endpoint {
        identity: format!("uid-{number}").into(),
        name: format!("ns/pod-{number}").into(),
        address: ([10, high, middle, low], 8000).into(),
        engine: Engine::vllm(),
    }
}

fn reading(number: u32) -> Reading {
    let running = (number..number + SLOTS - 1).map(|place| format!("adapter-{}", place % ADAPTERS));
    Reading {
        engines: vec![EngineReading {
            running: Some(IN_FLIGHT),
            waiting: Some(0),
            ..EngineReading::default()
        }],
        adapters: Some(AdapterReading {
            slots: Some(SLOTS),
            running: running.collect(),
        }),
        process_start_s: Some(1.0),
    }
}

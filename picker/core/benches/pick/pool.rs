//! A busy pool to measure picks on: read a moment ago, with adapters listed and requests in flight.

use std::sync::Arc;
use std::time::Duration;

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
const IN_FLIGHT: u32 = 4;

/// A picker, and what its requests are made of.
pub(crate) struct Pool {
    picker: Picker,
    now: Instant,
    random: Random,
    models: Vec<Arc<str>>,
    request_id: Arc<str>,
    next: u64,
}

impl Pool {
    /// `count` endpoints.
    pub(crate) fn busy(count: u32) -> Self {
        let names = (0..ADAPTERS).map(|number| Arc::from(format!("adapter-{number}")));
        let mut pool = Self {
            picker: Picker::new(Settings {
                seed: 1,
                reading_interval_min: Duration::from_millis(50),
            }),
            now: Instant::from_millis(2_000),
            random: Random::new(1),
            models: names.collect(),
            request_id: "5f1d6f1e-6a8e-4d0c-a9f5-0d5f1b1b6f11".into(),
            next: 0,
        };
        let endpoints = (0..count).map(endpoint).collect();
        pool.tell(Event::Endpoints(endpoints));
        for key in (0..count).map(EndpointKey) {
            let models = pool.models.iter().map(|name| Model {
                name: name.clone(),
                adapter: true,
            });
            let listed = Event::Models(key, models.collect());
            pool.tell(listed);
            pool.tell(Event::Read(key, reading(key.0)));
        }
        for _ in 0..count * IN_FLIGHT {
            let arrived = Event::Arrived(pool.arrival());
            pool.tell(arrived);
        }
        pool
    }

    /// The next request, for an adapter at random.
    pub(crate) fn arrival(&mut self) -> Arrival {
        self.next += 1;
        let model = &self.models[self.random.below(self.models.len())];
        Arrival {
            key: RequestKey(self.next),
            request_id: self.request_id.clone(),
            request: Request {
                model: Some(model.clone()),
                prompt_bytes: 2_048,
                ..Request::of_headers("")
            },
            subset: None,
            following: Following::Full,
            fallbacks: 0,
            standing: None,
            rewrite: None,
        }
    }

    /// Places a request, receipt included.
    #[inline(never)]
    pub(crate) fn pick(&mut self, arrival: Arrival) -> Option<Action> {
        self.tell(Event::Arrived(arrival))
    }

    /// Ends a request.
    #[inline(never)]
    pub(crate) fn end(&mut self, request: RequestKey) {
        self.tell(Event::Ended(request, Ending::default()));
    }

    /// Hands over an event, and takes every action; returns the last.
    fn tell(&mut self, event: Event) -> Option<Action> {
        self.picker.handle_event(self.now, event);
        let mut last = None;
        while let Some(action) = self.picker.poll_action() {
            last = Some(action);
        }
        last
    }
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
            running: Some(u64::from(IN_FLIGHT)),
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

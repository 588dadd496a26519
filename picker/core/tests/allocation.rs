//! A pick allocates nothing: neither the choice and its receipt, nor the booking, nor what follows up to its end.

use std::sync::Arc;
use std::time::Duration;

use allocation_counter::measure;
use picker_core::adapter::Model;
use picker_core::endpoint::{AdapterReading, Endpoint, EndpointKey, EngineReading, Reading};
use picker_core::engine::Engine;
use picker_core::event::{Arrival, Ending, Event, Following};
use picker_core::member::ReadFailure;
use picker_core::request::{Request, RequestKey};
use picker_core::seed::Random;
use picker_core::time::Instant;
use picker_core::{Action, Picker, Settings};

/// Adapters that every endpoint lists, and its slots for them.
const ADAPTERS: u32 = 12;
const SLOTS: u32 = 4;

/// A pool under a steady load, whose requests end in no order.
struct Load {
    picker: Picker,
    now: Instant,
    models: Vec<Arc<str>>,
    request_id: Arc<str>,
    following: Following,
    random: Random,
    next: u64,
    open: Vec<RequestKey>,
}

impl Load {
    /// `count` endpoints that were read, a tenth of which do not answer any more, with a request in flight at each, after a rush of three
    /// times as many.
    fn on(count: u32, adapters: bool, following: Following) -> Self {
        let mut picker = Picker::new(Settings {
            seed: 1,
            reading_interval_min: Duration::from_millis(50),
        });
        let endpoints = (0..count).map(endpoint).collect();
        picker.handle_event(Instant::ZERO, Event::Endpoints(endpoints));
        let now = Instant::from_millis(2_000);
        let names = (0..ADAPTERS).map(|number| Arc::from(format!("m-{number}")));
        let models: Vec<Arc<str>> = names.collect();
        for key in (0..count).map(EndpointKey) {
            let listed = models.iter().map(|name| Model {
                name: name.clone(),
                adapter: adapters,
            });
            picker.handle_event(now, Event::Models(key, listed.collect()));
            picker.handle_event(now, Event::Read(key, reading(key.0, adapters)));
            if key.0 % 10 == 0 {
                picker.handle_event(now, Event::ReadFailed(key, ReadFailure::Refused));
            }
        }
        let mut load = Self {
            picker,
            now,
            models,
            request_id: "5f1d6f1e-6a8e-4d0c-a9f5-0d5f1b1b6f11".into(),
            following,
            random: Random::new(2),
            next: 0,
            open: Vec::with_capacity(4 * count as usize),
        };
        for _ in 0..3 * count {
            load.arrive();
        }
        for _ in 0..2 * count {
            load.end_one();
        }
        load
    }

    /// A request comes, and another ends.
    fn turn(&mut self) {
        self.arrive();
        self.end_one();
    }

    /// One of those in flight has its first token, some more, and ends.
    fn end_one(&mut self) {
        let Some(place) = self.open.len().checked_sub(1) else {
            return;
        };
        let request = self.open.swap_remove(self.random.below(place + 1));
        let ending = Ending {
            status: Some(200),
            complete: true,
            prompt_tokens: Some(510),
            generated: Some(200),
            ..Ending::default()
        };
        for event in [
            Event::FirstToken(request),
            Event::Progressed(request, 50),
            Event::Ended(request, ending),
        ] {
            self.tell(event);
        }
    }

    fn arrive(&mut self) {
        let request = RequestKey(self.next);
        let model = &self.models[self.random.below(self.models.len())];
        // What the caller makes is the caller's: only the picker's own work is measured.
        let arrival = Arrival {
            key: request,
            request_id: self.request_id.clone(),
            request: Request {
                model: Some(model.clone()),
                prompt_bytes: 2_048,
                streamed: true,
                max_tokens: Some(256),
                ..Request::of_headers("")
            },
            subset: None,
            following: self.following,
            fallbacks: 0,
            standing: None,
            rewrite: None,
        };
        self.next += 1;
        self.now += Duration::from_millis(1);
        self.open.push(request);
        let picks = self.tell(Event::Arrived(arrival));
        assert_eq!(picks, 1, "each request is placed");
    }

    /// Hands over an event, and takes the actions; says how many were picks.
    fn tell(&mut self, event: Event) -> usize {
        self.picker.handle_event(self.now, event);
        let mut picks = 0;
        while let Some(action) = self.picker.poll_action() {
            picks += usize::from(matches!(action, Action::Picked(_)));
        }
        picks
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

fn reading(number: u32, adapters: bool) -> Reading {
    let running = (number..number + SLOTS - 1).map(|place| format!("m-{}", place % ADAPTERS));
    Reading {
        engines: vec![EngineReading {
            running: Some(4),
            waiting: Some(0),
            ..EngineReading::default()
        }],
        adapters: adapters.then(|| AdapterReading {
            slots: Some(SLOTS),
            running: running.collect(),
        }),
        process_start_s: Some(1.0),
    }
}

#[test]
fn requests_are_placed_followed_and_ended_without_an_allocation_once_as_many_were_in_flight() {
    for (count, adapters, following) in [
        (100, false, Following::Full),
        (100, false, Following::Watched),
        (100, false, Following::Released),
        (100, true, Following::Full),
        (100, true, Following::Watched),
        (100, true, Following::Released),
        (1_000, false, Following::Full),
        (1_000, true, Following::Full),
        (1_000, true, Following::Released),
    ] {
        let mut load = Load::on(count, adapters, following);
        (0..300).for_each(|_| load.turn());
        let made = measure(|| (0..300).for_each(|_| load.turn()));
        assert_eq!(
            made.count_total, 0,
            "{count} endpoints, adapters {adapters}, {following:?}: {made:?}"
        );
    }
}

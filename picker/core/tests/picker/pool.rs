//! A pool for tests: one picker, time as it is told, and servers that answer readings as they are told.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use picker_core::action::{Action, Pick, Refusal};
use picker_core::adapter::Model;
use picker_core::endpoint::{
    AdapterReading, Endpoint, EndpointKey, EngineReading, Reading, Subset,
};
use picker_core::engine::Engine;
use picker_core::event::{Arrival, Ending, Event, Following};
use picker_core::member::ReadFailure;
use picker_core::picker::EndpointState;
use picker_core::receipt::{Outcome, Receipt};
use picker_core::request::{Request, RequestKey};
use picker_core::time::Instant;
use picker_core::view::objective::Standing;
use picker_core::{Picker, Settings};

/// How a server answers readings.
#[derive(Clone, Debug)]
pub(crate) enum Answer {
    Page(Reading),
    Failure(ReadFailure),
    /// Not at all: the reading stays under way.
    Never,
}

/// A picker and its servers, of which number `n` has the name `ns/pod-n` and the address `10.0.0.n:8000`.
pub(crate) struct Pool {
    pub(crate) picker: Picker,
    now: Instant,
    next_request: u64,
    answers: BTreeMap<EndpointKey, Answer>,
    models: BTreeMap<EndpointKey, Vec<Model>>,
    /// When which endpoint was asked for a reading, in milliseconds.
    pub(crate) readings: Vec<(f64, u32)>,
    /// When which endpoint was asked for its models.
    pub(crate) listings: Vec<(f64, u32)>,
    pub(crate) settled: Vec<(RequestKey, Outcome)>,
}

impl Pool {
    /// `count` idle servers, none of them read yet.
    pub(crate) fn unread(count: u32, seed: u64, interval_min: Duration) -> Self {
        let mut pool = Self {
            picker: Picker::new(Settings {
                seed,
                reading_interval_min: interval_min,
            }),
            now: Instant::ZERO,
            next_request: 0,
            answers: BTreeMap::new(),
            models: BTreeMap::new(),
            readings: Vec::new(),
            listings: Vec::new(),
            settled: Vec::new(),
        };
        pool.tell(Event::Endpoints((0..count).map(endpoint).collect()));
        pool
    }

    /// `count` idle servers at 2 s, all of them read, the log of readings empty.
    pub(crate) fn of(count: u32) -> Self {
        let mut pool = Self::unread(count, 1, Duration::from_millis(50));
        pool.until(2_000.0);
        pool.readings.clear();
        pool
    }

    /// The same, with `models` listed everywhere: a name that starts with `lora` is an adapter.
    pub(crate) fn with_models(count: u32, models: &[&str]) -> Self {
        let mut pool = Self::of(count);
        for key in 0..count {
            pool.list(key, models);
        }
        pool
    }

    pub(crate) fn list(&mut self, key: u32, models: &[&str]) {
        let key = EndpointKey(key);
        self.models.insert(key, listing(models));
        self.tell(Event::Models(key, listing(models)));
    }

    pub(crate) fn now_ms(&self) -> f64 {
        self.now.ms_since(Instant::ZERO)
    }

    /// Answers of server `key` from now on.
    pub(crate) fn answer(&mut self, key: u32, answer: Answer) {
        self.answers.insert(EndpointKey(key), answer);
    }

    /// Lets time pass up to `ms`, reading what is due.
    pub(crate) fn until(&mut self, ms: f64) {
        let end = Instant::from_nanos((ms * 1e6) as u64);
        while let Some(due) = self.picker.poll_timeout().filter(|&due| due <= end) {
            self.now = self.now.max(due);
            self.picker.handle_timeout(self.now);
            self.act();
        }
        self.now = end;
    }

    pub(crate) fn after(&mut self, ms: f64) {
        self.until(self.now_ms() + ms);
    }

    /// Hands over an event now; returns picks and refusals.
    pub(crate) fn tell(&mut self, event: Event) -> Vec<Action> {
        self.picker.handle_event(self.now, event);
        self.act()
    }

    /// A request to be placed, whose response will pass.
    pub(crate) fn place(
        &mut self,
        request: Request,
        subset: Option<Subset>,
    ) -> Result<Pick, (Refusal, Box<Receipt>)> {
        self.place_as(Following::Full, 0, request, subset)
    }

    pub(crate) fn place_as(
        &mut self,
        following: Following,
        fallbacks: usize,
        request: Request,
        subset: Option<Subset>,
    ) -> Result<Pick, (Refusal, Box<Receipt>)> {
        let arrival = Arrival {
            subset,
            following,
            fallbacks,
            ..self.arrival(request)
        };
        self.arrive(arrival)
    }

    /// A request of `priority` to be placed.
    pub(crate) fn place_of(
        &mut self,
        priority: i32,
        request: Request,
    ) -> Result<Pick, (Refusal, Box<Receipt>)> {
        let standing = Standing {
            priority,
            fairness: "default-flow".into(),
            objective: None,
        };
        let arrival = Arrival {
            standing: Some(standing),
            ..self.arrival(request)
        };
        self.arrive(arrival)
    }

    fn arrival(&mut self, request: Request) -> Arrival {
        let key = RequestKey(self.next_request);
        self.next_request += 1;
        Arrival {
            key,
            request_id: format!("request-{}", key.0).into(),
            request,
            standing: None,
            rewrite: None,
            subset: None,
            following: Following::Full,
            fallbacks: 0,
        }
    }

    fn arrive(&mut self, arrival: Arrival) -> Result<Pick, (Refusal, Box<Receipt>)> {
        let key = arrival.key;
        let mut answers = self.tell(Event::Arrived(arrival));
        assert_eq!(answers.len(), 1, "one answer for one arrival: {answers:?}");
        match answers.remove(0) {
            Action::Picked(pick) => {
                assert_eq!(pick.request, key);
                Ok(pick)
            }
            Action::Refused(of, refusal, receipt) => {
                assert_eq!(of, key);
                Err((refusal, Box::new(receipt)))
            }
            other => panic!("neither pick nor refusal: {other:?}"),
        }
    }

    pub(crate) fn pick(&mut self, request: Request) -> Pick {
        self.place(request, None)
            .expect("a pool with endpoints picks")
    }

    /// Where `count` requests for `model` go, none of which ends; sorted.
    pub(crate) fn picks(&mut self, count: u32, model: &str) -> Vec<u32> {
        let mut picks: Vec<u32> = (0..count)
            .map(|_| self.pick(completion(model)).endpoint.0)
            .collect();
        picks.sort_unstable();
        picks
    }

    pub(crate) fn end(&mut self, request: RequestKey, status: u16) {
        self.tell(Event::Ended(
            request,
            Ending {
                status: Some(status),
                complete: true,
                ..Ending::default()
            },
        ));
    }

    pub(crate) fn state(&self, key: u32) -> EndpointState {
        let mut states = self.picker.endpoints(self.now).into_iter();
        states
            .find(|state| state.endpoint == EndpointKey(key))
            .expect("the endpoint is in the pool")
    }

    /// When server `key` was asked for readings since the log was emptied.
    pub(crate) fn readings_of(&self, key: u32) -> Vec<f64> {
        let of_key = self.readings.iter().filter(|(_, of)| *of == key);
        of_key.map(|(at, _)| *at).collect()
    }

    /// Does what the picker asks for, and returns the rest.
    fn act(&mut self) -> Vec<Action> {
        let mut rest = Vec::new();
        while let Some(action) = self.picker.poll_action() {
            match action {
                Action::Read(key, address, _) => {
                    assert!(address.port() == 8000, "{address}");
                    self.readings.push((self.now_ms(), key.0));
                    self.answer_reading(key);
                }
                Action::ListModels(key, _) => {
                    self.listings.push((self.now_ms(), key.0));
                    let models = self.models.get(&key).cloned().unwrap_or_default();
                    self.picker
                        .handle_event(self.now, Event::Models(key, models));
                }
                Action::Settled(request, _, outcome) => self.settled.push((request, outcome)),
                placed => rest.push(placed),
            }
        }
        rest
    }

    fn answer_reading(&mut self, key: EndpointKey) {
        let event = match self.answers.get(&key).cloned() {
            Some(Answer::Never) => return,
            Some(Answer::Failure(failure)) => Event::ReadFailed(key, failure),
            Some(Answer::Page(reading)) => Event::Read(key, reading),
            None => Event::Read(key, reading(0, 0)),
        };
        self.picker.handle_event(self.now, event);
    }
}

pub(crate) fn listing(models: &[&str]) -> Vec<Model> {
    let model = |name: &&str| Model {
        name: (*name).into(),
        adapter: name.starts_with("lora"),
    };
    models.iter().map(model).collect()
}

pub(crate) fn address(number: u32) -> SocketAddr {
    let host = u8::try_from(number).expect("a small pool");
    SocketAddr::from(([10, 0, 0, host], 8000))
}

pub(crate) fn endpoint(number: u32) -> Endpoint {
    Endpoint {
        identity: format!("uid-{number}").into(),
        name: format!("ns/pod-{number}").into(),
        address: address(number),
        engine: Engine::vllm(),
    }
}

pub(crate) fn reading(running: u64, waiting: u64) -> Reading {
    Reading {
        engines: vec![EngineReading {
            running: Some(running),
            waiting: Some(waiting),
            ..EngineReading::default()
        }],
        ..Reading::default()
    }
}

/// An idle server with `slots` adapter slots, of which `running` are in use.
pub(crate) fn adapters(slots: u32, running: &[&str]) -> Reading {
    Reading {
        adapters: Some(AdapterReading {
            slots: Some(slots),
            running: running.iter().map(ToString::to_string).collect(),
        }),
        ..reading(running.len() as u64, 0)
    }
}

/// A streamed completion of 2 KB.
pub(crate) fn completion(model: &str) -> Request {
    sized(model, 2_048, true)
}

pub(crate) fn sized(model: &str, prompt_bytes: usize, streamed: bool) -> Request {
    let prompt = "x".repeat(prompt_bytes);
    let body = format!(r#"{{"model":"{model}","stream":{streamed},"prompt":"{prompt}"}}"#);
    Request::scan("/v1/completions", body.as_bytes())
}

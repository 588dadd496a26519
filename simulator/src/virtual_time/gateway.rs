//! The gateway of a run: a [`Picker`] with the work of its driver, or a baseline that sees requests in flight alone.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use picker_core::endpoint::{Endpoint, EndpointKey, Reading};
use picker_core::event::{Arrival, Ending, Event};
use picker_core::request::{Api, Body, Request, RequestKey};
use picker_core::time::Instant;
use picker_core::{Action, Picker, Settings};

use super::snapshot::{self, BASE_MODEL};
use super::{Job, Plan};
use crate::policy::Baseline;

/// What production takes for `--refresh-metrics-interval`.
const READING_INTERVAL_MIN: Duration = Duration::from_millis(50);

pub(super) enum Gateway {
    Pointsman(Box<Driver>),
    Baseline {
        baseline: Baseline,
        /// Requests in flight, by server.
        active: Vec<u64>,
    },
}

/// What the gateway wants to happen.
pub(super) enum Wish {
    Wake(Instant),
    /// A server's metrics page.
    Read(EndpointKey, usize),
    /// What a page said, on its way back.
    Take(EndpointKey, Box<Reading>),
    List(EndpointKey),
}

/// What the gateway wanted, at its time.
#[derive(Debug)]
pub(super) enum Due {
    Wake(Instant),
    Page(EndpointKey, usize),
    Taken(EndpointKey, Box<Reading>),
    Models(EndpointKey),
}

impl Gateway {
    pub(super) fn new(plan: &Plan) -> Self {
        match Baseline::of(plan.policy, plan.seed) {
            None => Self::Pointsman(Box::new(Driver::new(plan))),
            Some(baseline) => Self::Baseline {
                baseline,
                active: vec![0; plan.servers],
            },
        }
    }

    /// The server that `job`, number `index`, is sent to.
    pub(super) fn place(&mut self, now: Instant, index: usize, job: &Job) -> Option<usize> {
        match self {
            Self::Pointsman(driver) => driver.place(now, index, job),
            Self::Baseline { baseline, active } => {
                let server = baseline.pick(active)?;
                active[server] += 1;
                Some(server)
            }
        }
    }

    pub(super) fn first_token(&mut self, now: Instant, index: usize) {
        self.tell(now, Event::FirstToken(key(index)));
    }

    pub(super) fn progressed(&mut self, now: Instant, index: usize, tokens: u64) {
        self.tell(now, Event::Progressed(key(index), tokens));
    }

    pub(super) fn ended(
        &mut self,
        now: Instant,
        index: usize,
        server: Option<usize>,
        ending: Ending,
    ) {
        if let (Self::Baseline { active, .. }, Some(server)) = (&mut *self, server) {
            active[server] -= 1;
        }
        self.tell(now, Event::Ended(key(index), ending));
    }

    /// Hands over what was wished for; `page` reads a server's page.
    pub(super) fn on_due(&mut self, now: Instant, due: Due, page: impl FnOnce(usize) -> Reading) {
        let Self::Pointsman(driver) = self else {
            return;
        };
        match due {
            Due::Wake(at) => driver.wake(now, at),
            Due::Page(key, server) => {
                let reading = Box::new(page(server));
                driver.wishes.push(Wish::Take(key, reading));
            }
            Due::Taken(key, reading) => driver.tell(now, Event::Read(key, *reading)),
            Due::Models(key) => {
                let models = snapshot::models(&driver.adapter_names);
                driver.tell(now, Event::Models(key, models));
            }
        }
    }

    /// Takes what the gateway has wished for since the last call.
    pub(super) fn wishes(&mut self) -> Vec<Wish> {
        match self {
            Self::Pointsman(driver) => std::mem::take(&mut driver.wishes),
            Self::Baseline { .. } => Vec::new(),
        }
    }

    fn tell(&mut self, now: Instant, event: Event) {
        if let Self::Pointsman(driver) = self {
            driver.tell(now, event);
        }
    }
}

/// What the production driver does for a picker.
pub(super) struct Driver {
    picker: Picker,
    /// The server of the last pick, until it is taken.
    placed: Option<usize>,
    /// The earliest wake-up that is on the agenda.
    woken_at: Option<Instant>,
    wishes: Vec<Wish>,
    adapter_names: Vec<String>,
}

impl Driver {
    fn new(plan: &Plan) -> Self {
        let picker = Picker::new(Settings {
            seed: plan.seed,
            reading_interval_min: READING_INTERVAL_MIN,
        });
        let mut driver = Self {
            picker,
            placed: None,
            woken_at: None,
            wishes: Vec::new(),
            adapter_names: plan.adapter_names.clone(),
        };
        let endpoints = (0..plan.servers).map(endpoint).collect();
        driver.tell(Instant::ZERO, Event::Endpoints(endpoints));
        driver
    }

    fn place(&mut self, now: Instant, index: usize, job: &Job) -> Option<usize> {
        let arrival = Arrival {
            key: key(index),
            request_id: "".into(),
            request: request(job, &self.adapter_names),
            subset: None,
        };
        self.tell(now, Event::Arrived(arrival));
        self.placed.take()
    }

    fn wake(&mut self, now: Instant, at: Instant) {
        if self.woken_at == Some(at) {
            self.woken_at = None;
        }
        self.picker.handle_timeout(now);
        self.act();
    }

    fn tell(&mut self, now: Instant, event: Event) {
        self.picker.handle_event(now, event);
        self.act();
    }

    fn act(&mut self) {
        while let Some(action) = self.picker.poll_action() {
            match action {
                Action::Picked(pick) => self.placed = Some(server_of(pick.address)),
                Action::Refused(..) | Action::Settled(..) => {}
                Action::Read(key, address) => self.wishes.push(Wish::Read(key, server_of(address))),
                Action::ListModels(key, _) => self.wishes.push(Wish::List(key)),
            }
        }
        let timeout = self.picker.poll_timeout();
        if let Some(at) = timeout.filter(|at| self.woken_at.is_none_or(|woken_at| *at < woken_at)) {
            self.woken_at = Some(at);
            self.wishes.push(Wish::Wake(at));
        }
    }
}

const fn key(index: usize) -> RequestKey {
    RequestKey(index as u64)
}

/// What the gateway sees of a job.
fn request(job: &Job, adapter_names: &[String]) -> Request {
    let adapter = job.adapter.and_then(|id| adapter_names.get(id.0 as usize));
    Request {
        api: Api::Completions,
        body: Body::Read,
        model: Some(adapter.map_or(BASE_MODEL, String::as_str).into()),
        streamed: job.streamed,
        max_tokens: job.max_tokens,
        prompt_bytes: job.prompt_bytes,
    }
}

/// Server `index` has the address 10.0.0.0 plus `index`.
fn endpoint(index: usize) -> Endpoint {
    let [.., high, middle, low] = index.to_be_bytes();
    let name: Arc<str> = format!("bench/server-{index}").into();
    Endpoint {
        identity: name.clone(),
        name,
        address: SocketAddr::from(([10, high, middle, low], 8000)),
    }
}

fn server_of(address: SocketAddr) -> usize {
    match address {
        SocketAddr::V4(address) => {
            let [_, high, middle, low] = address.ip().octets();
            usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low)
        }
        SocketAddr::V6(_) => unreachable!("servers have IPv4 addresses"),
    }
}

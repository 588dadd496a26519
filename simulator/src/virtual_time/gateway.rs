//! The gateway of a run: a [`Picker`] with the work of its driver, or a baseline that sees requests in flight alone.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use picker_core::endpoint::{Endpoint, EndpointKey, Reading};
use picker_core::engine::Engine;
use picker_core::event::{Arrival, Ending, Event, Following};
use picker_core::member::ReadFailure;
use picker_core::request::{Body, Request, RequestKey};
use picker_core::time::Instant;
use picker_core::{Action, Picker, Settings};

use super::prompt::{self, Believed};
use super::snapshot::{self, BASE_MODEL};
use super::{Follow, Job, Plan};
use crate::engine::{Profile, Segment};
use crate::policy::{Baseline, Load, Policy};

/// What production takes for `--refresh-metrics-interval`.
const READING_INTERVAL_MIN: Duration = Duration::from_millis(50);

pub(super) enum Gateway {
    Pointsman(Box<Driver>),
    Baseline(Sender),
    /// Places nothing: the simulation itself asks the oracle.
    Oracle,
}

/// What the gateway wants to happen.
pub(super) enum Wish {
    Wake(Instant),
    /// A server's metrics page.
    Read(EndpointKey, usize),
    /// What a page said, on its way back.
    Take(EndpointKey, Result<Box<Reading>, ReadFailure>),
    /// A server's models.
    List(EndpointKey, usize),
}

/// What the gateway wanted, at its time.
#[derive(Debug)]
pub(super) enum Due {
    Wake(Instant),
    Page(EndpointKey, usize),
    Taken(EndpointKey, Result<Box<Reading>, ReadFailure>),
    Models(EndpointKey, usize),
}

impl Gateway {
    pub(super) fn new(plan: &Plan) -> Self {
        match (Baseline::of(plan.policy, plan.seed), plan.policy) {
            (Some(baseline), _) => Self::balancing(baseline, plan.profiles.len()),
            (None, Policy::Oracle) => Self::Oracle,
            (None, _) => Self::Pointsman(Box::new(Driver::new(plan))),
        }
    }

    /// One that balances as `baseline` does, by what it has sent itself.
    pub(super) fn balancing(baseline: Baseline, servers: usize) -> Self {
        Self::Baseline(Sender::new(baseline, servers))
    }

    /// The server that `job`, number `index`, is sent to.
    pub(super) fn place(
        &mut self,
        now: Instant,
        index: usize,
        job: &Job,
        plan: &Plan,
    ) -> Option<usize> {
        match self {
            Self::Pointsman(driver) => driver.place(now, index, job),
            Self::Baseline(sender) => match prompt::segments(plan, index, job) {
                Some(runs) => sender.place_shared(index, &runs, &plan.profiles),
                None => sender.place(index, u64::from(job.prompt_tokens)),
            },
            Self::Oracle => None,
        }
    }

    pub(super) fn first_token(&mut self, now: Instant, index: usize) {
        if let Self::Baseline(sender) = self {
            sender.first_token(index);
        }
        self.tell_on_the_way(now, Event::FirstToken(key(index)));
    }

    pub(super) fn progressed(&mut self, now: Instant, index: usize, tokens: u64) {
        self.tell_on_the_way(now, Event::Progressed(key(index), tokens));
    }

    pub(super) fn ended(&mut self, now: Instant, index: usize, ending: Ending) {
        match self {
            Self::Baseline(sender) => sender.ended(index),
            Self::Pointsman(driver) => driver.ended(now, index, ending),
            Self::Oracle => {}
        }
    }

    /// Hands over what was wished for; `page` reads a server's page.
    pub(super) fn on_due(
        &mut self,
        now: Instant,
        due: Due,
        page: impl FnOnce(usize) -> Result<Reading, ReadFailure>,
    ) {
        let Self::Pointsman(driver) = self else {
            return;
        };
        match due {
            Due::Wake(at) => driver.wake(now, at),
            Due::Page(key, server) => {
                let reading = page(server).map(Box::new);
                driver.wishes.push(Wish::Take(key, reading));
            }
            Due::Taken(key, Ok(reading)) => driver.tell(now, Event::Read(key, *reading)),
            Due::Taken(key, Err(failure)) => driver.tell(now, Event::ReadFailed(key, failure)),
            // Whoever has no page to show lists no models either.
            Due::Models(key, server) => driver.tell(
                now,
                match page(server) {
                    Ok(_) => Event::Models(key, snapshot::models(&driver.adapter_names)),
                    Err(_) => Event::ModelsFailed(key),
                },
            ),
        }
    }

    /// Takes what the gateway has wished for since the last call.
    pub(super) fn wishes(&mut self) -> Vec<Wish> {
        match self {
            Self::Pointsman(driver) => std::mem::take(&mut driver.wishes),
            Self::Baseline(_) | Self::Oracle => Vec::new(),
        }
    }

    /// Tells the picker what passes before an answer's end, if it sees that.
    fn tell_on_the_way(&mut self, now: Instant, event: Event) {
        if let Self::Pointsman(driver) = self
            && driver.follow == Follow::Full
        {
            driver.tell(now, event);
        }
    }
}

/// A gateway that remembers what it has sent, and balances by that alone.
pub(crate) struct Sender {
    baseline: Baseline,
    /// By server.
    loads: Vec<Load>,
    /// The server of each request in flight, and the prompt tokens that have given no first token.
    in_flight: HashMap<usize, (usize, u64)>,
    /// By server.
    believed: Vec<Believed>,
}

impl Sender {
    pub(crate) fn new(baseline: Baseline, servers: usize) -> Self {
        Self {
            baseline,
            loads: vec![Load::default(); servers],
            in_flight: HashMap::new(),
            believed: vec![Believed::default(); servers],
        }
    }

    /// The server of request `index`, which is in flight from now on and shares nothing.
    pub(crate) fn place(&mut self, index: usize, prompt_tokens: u64) -> Option<usize> {
        for load in &mut self.loads {
            load.uncached_tokens = prompt_tokens;
        }
        self.pick(index)
    }

    /// The same for a prompt of these runs.
    fn place_shared(
        &mut self,
        index: usize,
        prompt: &[Segment],
        profiles: &[Profile],
    ) -> Option<usize> {
        let tokens: u64 = prompt.iter().map(|run| u64::from(run.tokens)).sum();
        for (load, believed) in self.loads.iter_mut().zip(&self.believed) {
            load.uncached_tokens = tokens - believed.cached(prompt);
        }
        let server = self.pick(index)?;
        self.believed[server].sent(prompt, profiles[server].kv_capacity_tokens());
        Some(server)
    }

    fn pick(&mut self, index: usize) -> Option<usize> {
        let server = self.baseline.pick(&self.loads)?;
        let load = &mut self.loads[server];
        load.requests += 1;
        load.prefill_tokens += load.uncached_tokens;
        self.in_flight.insert(index, (server, load.uncached_tokens));
        Some(server)
    }

    fn first_token(&mut self, index: usize) {
        if let Some((server, prompt_tokens)) = self.in_flight.get_mut(&index) {
            self.loads[*server].prefill_tokens -= std::mem::take(prompt_tokens);
        }
    }

    pub(crate) fn ended(&mut self, index: usize) {
        self.first_token(index);
        if let Some((server, _)) = self.in_flight.remove(&index) {
            self.loads[server].requests -= 1;
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
    follow: Follow,
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
            follow: plan.follow,
        };
        let endpoints = (0..plan.profiles.len()).map(endpoint).collect();
        driver.tell(Instant::ZERO, Event::Endpoints(endpoints));
        driver
    }

    fn place(&mut self, now: Instant, index: usize, job: &Job) -> Option<usize> {
        let arrival = Arrival {
            key: key(index),
            request_id: "".into(),
            request: request(job, &self.adapter_names),
            standing: None,
            rewrite: None,
            subset: None,
            following: match self.follow {
                Follow::Full => Following::Full,
                Follow::Watched => Following::Watched,
            },
            fallbacks: 0,
        };
        self.tell(now, Event::Arrived(arrival));
        self.placed.take()
    }

    fn ended(&mut self, now: Instant, index: usize, ending: Ending) {
        let seen = match self.follow {
            Follow::Full => ending,
            Follow::Watched => Ending {
                prompt_tokens: None,
                generated: None,
                ..ending
            },
        };
        self.tell(now, Event::Ended(key(index), seen));
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
                Action::Read(key, address, _) => {
                    self.wishes.push(Wish::Read(key, server_of(address)))
                }
                Action::ListModels(key, address) => {
                    self.wishes.push(Wish::List(key, server_of(address)));
                }
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
        body: Body::Read,
        model: Some(adapter.map_or(BASE_MODEL, String::as_str).into()),
        streamed: job.streamed,
        max_tokens: job.max_tokens,
        prompt_bytes: job.prompt_bytes,
        ..Request::of_headers("/v1/completions")
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
        engine: Engine::vllm(),
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

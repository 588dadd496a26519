//! Virtual time: many engines, one gateway and one policy on an agenda of events, with no clock but the agenda's.
//!
//! The gateway stands next to the clients; a link separates it from each server. The decisions of
//! [`Policy::Pointsman`] are those of [`picker_core::Picker`], told and asked as the production driver does it: readings take
//! time, tokens are reported at most every 250 ms, and nothing of an engine is known but what its metrics page shows.

pub mod agenda;
pub mod record;
pub mod snapshot;

pub(crate) mod gateway;
mod prompt;
mod truth;

use std::time::Duration;

use picker_core::event::Ending;
use picker_core::time::Instant;

use crate::engine::{AdapterId, Engine, Output, Profile, Request, RequestId};
use crate::policy::Policy;
use crate::workload::{self, Arrival, Trace};
use agenda::Agenda;
use gateway::{Gateway, Wish};
use record::Record;
use truth::Truth;

/// The least time between two reports of a response's progress to the picker.
pub const PROGRESS_INTERVAL: Duration = Duration::from_millis(250);

/// What is simulated.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The servers' hardware and settings.
    pub profile: Profile,
    /// How many servers there are.
    pub servers: usize,
    /// The names of the adapters that each server lists.
    pub adapter_names: Vec<String>,
    /// From the gateway to a server, and back.
    pub link_delay: Duration,
    /// From the request for a server's metrics page or models to the answer.
    pub scrape_delay: Duration,
    /// Who chooses the server.
    pub policy: Policy,
    /// The seed of the policy's chance.
    pub seed: u64,
    /// So many jobs at the beginning are not counted.
    pub warm_up: usize,
    /// The trace whose rows jobs name.
    pub trace: Option<Trace>,
}

impl Plan {
    /// `servers` servers of `profile` a millisecond away, read in two, with as many adapters as `adapters` says.
    #[must_use]
    pub fn new(profile: Profile, servers: usize, adapters: u32, policy: Policy) -> Self {
        Self {
            profile,
            servers,
            adapter_names: workload::adapter_names(adapters),
            link_delay: Duration::from_millis(1),
            scrape_delay: Duration::from_millis(2),
            policy,
            seed: 0,
            warm_up: 0,
            trace: None,
        }
    }
}

/// A request that a client sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Job {
    /// When it reaches the gateway.
    pub at: Instant,
    /// The adapter it is for; `None` is the base model.
    pub adapter: Option<AdapterId>,
    /// Bytes of the prompt, which is what the gateway sees.
    pub prompt_bytes: u64,
    /// Tokens of the prompt, which is what the server computes.
    pub prompt_tokens: u32,
    /// Tokens of the answer.
    pub output_tokens: u32,
    /// The limit that the client sets, where it sets one.
    pub max_tokens: Option<u32>,
    /// Whether the answer comes as a stream of events.
    pub streamed: bool,
    /// What the prompt shares with others.
    pub content: workload::Content,
}

impl Job {
    /// The job of an arrival as the load generator sends it: streamed, and limited to the tokens it is to be given.
    #[must_use]
    pub fn of(arrival: &Arrival) -> Self {
        Self {
            at: Instant::ZERO + arrival.at,
            adapter: arrival.adapter.map(AdapterId),
            prompt_bytes: u64::from(arrival.prompt_bytes()),
            prompt_tokens: arrival.prompt_tokens,
            output_tokens: arrival.output_tokens,
            max_tokens: Some(arrival.output_tokens),
            streamed: true,
            content: arrival.content,
        }
    }
}

/// Runs `jobs`, which are in order of time, to their ends.
#[must_use]
pub fn run(plan: &Plan, jobs: &[Job]) -> record::Trace {
    let mut simulation = Simulation::new(plan, jobs);
    while simulation.unfinished > 0
        && let Some((now, due)) = simulation.agenda.next()
    {
        simulation.handle(now, due);
    }
    simulation.into_trace()
}

/// Something that is due at some time.
#[derive(Debug)]
enum Due {
    /// A job reaches the gateway.
    Arrives(usize),
    /// A job reaches its server.
    Submitted(usize),
    /// A step of a server ends.
    StepEnds(usize),
    /// Part of an answer reaches the gateway.
    Answered(usize, Answer),
    /// Something that the gateway asked for.
    Gateway(gateway::Due),
}

/// What the gateway sees of an answer.
#[derive(Clone, Copy, Debug)]
enum Answer {
    FirstToken,
    Tokens(u64),
    Ended(Ending),
}

struct Server {
    engine: Engine,
    /// The step end that is on the agenda.
    awaited: Option<Instant>,
}

struct Simulation<'a> {
    plan: &'a Plan,
    jobs: &'a [Job],
    agenda: Agenda<Due>,
    servers: Vec<Server>,
    gateway: Gateway,
    /// What the oracle knows, if it is the one to choose.
    truth: Option<Truth>,
    records: Vec<Record>,
    unfinished: usize,
    /// Adapter loads of all servers before the first job that counts.
    loads_before: u64,
    outputs: Vec<Output>,
}

impl<'a> Simulation<'a> {
    fn new(plan: &'a Plan, jobs: &'a [Job]) -> Self {
        let server = || Server {
            engine: Engine::new(plan.profile.clone()),
            awaited: None,
        };
        let mut simulation = Self {
            plan,
            jobs,
            agenda: Agenda::default(),
            servers: std::iter::repeat_with(server).take(plan.servers).collect(),
            gateway: Gateway::new(plan),
            truth: (plan.policy == Policy::Oracle).then(|| Truth::new(plan)),
            records: jobs
                .iter()
                .map(|job| Record::new(job.at, job.prompt_tokens))
                .collect(),
            unfinished: jobs.len(),
            loads_before: 0,
            outputs: Vec::new(),
        };
        simulation.grant_wishes(Instant::ZERO);
        for (index, job) in jobs.iter().enumerate() {
            simulation.agenda.add(job.at, Due::Arrives(index));
        }
        simulation
    }

    fn handle(&mut self, now: Instant, due: Due) {
        match due {
            Due::Arrives(job) => self.arrive(now, job),
            Due::Submitted(job) => self.submit(now, job),
            Due::StepEnds(server) => self.advance(now, server),
            Due::Answered(job, answer) => self.answer(now, job, answer),
            Due::Gateway(due) => self.gateway.on_due(now, due, |server| {
                snapshot::reading(&self.servers[server].engine, &self.plan.adapter_names)
            }),
        }
        self.grant_wishes(now);
    }

    fn arrive(&mut self, now: Instant, job: usize) {
        if job == self.plan.warm_up {
            self.loads_before = self.adapter_loads();
        }
        let place = match &mut self.truth {
            Some(truth) => truth.place(now, job, &self.jobs[job], &self.plan.profile),
            None => self.gateway.place(now, job, &self.jobs[job], self.plan),
        };
        match place {
            Some(server) => {
                self.records[job].server = Some(server);
                self.agenda
                    .add(now + self.plan.link_delay, Due::Submitted(job));
            }
            None => self.end(now, job, 503),
        }
    }

    fn submit(&mut self, now: Instant, index: usize) {
        let Some(server) = self.records[index].server else {
            return;
        };
        self.advance(now, server);
        let job = &self.jobs[index];
        let request = Request::new(
            RequestId(index as u64),
            job.adapter,
            job.prompt_tokens,
            job.output_tokens,
        );
        let engine = &mut self.servers[server].engine;
        let accepted = match prompt::content(self.plan, index, job) {
            Some(content) => engine.submit_with(now, request, content),
            None => engine.submit(now, request),
        };
        let accepted = accepted.is_ok();
        if let Some(truth) = &mut self.truth {
            truth.submitted(server, index, accepted);
        }
        if !accepted {
            let refused = Ending {
                status: Some(400),
                complete: true,
                ..Ending::default()
            };
            let back = now + self.plan.link_delay;
            self.agenda
                .add(back, Due::Answered(index, Answer::Ended(refused)));
        }
        self.await_step(server);
    }

    /// Ends the steps that are due, and sends what they gave back to the gateway.
    fn advance(&mut self, now: Instant, server: usize) {
        let mut outputs = std::mem::take(&mut self.outputs);
        if let Some(truth) = &mut self.truth {
            truth.step_ended(server, now);
        }
        self.servers[server].engine.advance(now, &mut outputs);
        for output in outputs.drain(..) {
            self.send_back(&output);
        }
        self.outputs = outputs;
        self.await_step(server);
    }

    fn await_step(&mut self, index: usize) {
        let server = &mut self.servers[index];
        let end = server.engine.next_step_end();
        if let Some(end) = end.filter(|_| end != server.awaited) {
            self.agenda.add(end, Due::StepEnds(index));
            if let Some(truth) = &mut self.truth {
                truth.step_began(index, end, &self.plan.profile);
            }
        }
        server.awaited = end;
    }

    fn send_back(&mut self, output: &Output) {
        let index = output.request.0 as usize;
        let (job, record) = (&self.jobs[index], &mut self.records[index]);
        let at = output.at + self.plan.link_delay;
        record.tokens = output.token;
        if output.is_first() {
            record.first_token = Some(at);
            record.reported = at;
            if job.streamed {
                self.agenda
                    .add(at, Due::Answered(index, Answer::FirstToken));
            }
        }
        if output.finished.is_some() {
            let ending = Ending {
                status: Some(200),
                complete: true,
                prompt_tokens: Some(u64::from(job.prompt_tokens)),
                generated: Some(u64::from(output.token)),
                ..Ending::default()
            };
            self.agenda
                .add(at, Due::Answered(index, Answer::Ended(ending)));
        } else if job.streamed && at >= record.reported + PROGRESS_INTERVAL {
            record.reported = at;
            let tokens = Answer::Tokens(u64::from(output.token));
            self.agenda.add(at, Due::Answered(index, tokens));
        }
    }

    fn answer(&mut self, now: Instant, job: usize, answer: Answer) {
        match answer {
            Answer::FirstToken => self.gateway.first_token(now, job),
            Answer::Tokens(tokens) => self.gateway.progressed(now, job, tokens),
            Answer::Ended(ending) => {
                self.gateway.ended(now, job, ending);
                self.end(now, job, ending.status.unwrap_or_default());
            }
        }
    }

    fn end(&mut self, now: Instant, job: usize, status: u16) {
        let record = &mut self.records[job];
        record.ended = Some(now);
        record.status = status;
        self.unfinished -= 1;
    }

    /// Puts on the agenda what the gateway has asked for.
    fn grant_wishes(&mut self, now: Instant) {
        let half = self.plan.scrape_delay / 2;
        for wish in self.gateway.wishes() {
            let (at, due) = match wish {
                Wish::Wake(at) => (at, gateway::Due::Wake(at)),
                Wish::Read(key, server) => (now + half, gateway::Due::Page(key, server)),
                Wish::Take(key, reading) => (now + half, gateway::Due::Taken(key, reading)),
                Wish::List(key) => (now + self.plan.scrape_delay, gateway::Due::Models(key)),
            };
            self.agenda.add(at, Due::Gateway(due));
        }
    }

    fn adapter_loads(&self) -> u64 {
        let loads = |server: &Server| server.engine.statistics().adapter_loads;
        self.servers.iter().map(loads).sum()
    }

    fn into_trace(self) -> record::Trace {
        let adapter_loads = self.adapter_loads() - self.loads_before;
        let (mut queries, mut hits) = (0, 0);
        for server in &self.servers {
            let reading = snapshot::reading(&server.engine, &self.plan.adapter_names);
            for engine in &reading.engines {
                queries += engine.prefix_queries.unwrap_or_default();
                hits += engine.prefix_hits.unwrap_or_default();
            }
        }
        record::Trace {
            prefix_hit_rate: hits as f64 / queries.max(1) as f64,
            warm_up: self.plan.warm_up.min(self.records.len()),
            servers: self.plan.servers,
            records: self.records,
            adapter_loads,
        }
    }
}

//! Virtual time: many engines, one gateway and one policy on an agenda of events, with no clock but the agenda's.
//!
//! The gateway stands next to the clients; a link separates it from each server. The decisions of
//! [`Policy::Pointsman`] are those of [`picker_core::Picker`], told and asked as the production driver does it: readings take
//! time, tokens are reported at most every 250 ms, and nothing of an engine is known but what its metrics page shows.

pub mod agenda;
pub mod fault;
pub mod record;
pub mod snapshot;

pub(crate) mod gateway;
mod prompt;
mod server;
mod truth;

use std::time::Duration;

use picker_core::event::Ending;
use picker_core::time::Instant;

use crate::engine::{AdapterId, Output, Profile, Request, RequestId, SubmitError};
use crate::policy::{Baseline, Policy};
use crate::workload::{self, Arrival, Trace};
use agenda::Agenda;
use fault::{Fault, FaultKind};
use gateway::{Gateway, Wish};
use record::Record;
use server::Server;
use truth::Truth;

/// The least time between two reports of a response's progress to the picker.
pub const PROGRESS_INTERVAL: Duration = Duration::from_millis(250);

/// What is simulated.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Hardware and settings, one for each server.
    pub profiles: Vec<Profile>,
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
    /// What the picker sees of responses.
    pub follow: Follow,
    /// What befalls servers.
    pub faults: Vec<Fault>,
    /// Other gateways in front of the same servers, which send the first jobs, one gateway after the other. `policy` places the rest. Not with
    /// the oracle, who is not told what others send.
    pub others: Vec<Other>,
}

/// A gateway of which the picker is told nothing, as it is told nothing of what others send in production.
#[derive(Clone, Debug)]
pub struct Other {
    /// Who chooses the server.
    pub baseline: Baseline,
    /// How many jobs are sent by it.
    pub jobs: usize,
}

/// What the picker sees of responses. The other policies see first tokens and ends either way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Follow {
    /// Their bodies pass through it: first token, progress, and the usage at the end.
    Full,
    /// It sees that they end, and with which status.
    Watched,
}

impl Plan {
    /// `servers` servers of `profile` a millisecond away, read in two, with as many adapters as `adapters` says.
    #[must_use]
    pub fn new(profile: Profile, servers: usize, adapters: u32, policy: Policy) -> Self {
        Self {
            profiles: vec![profile; servers],
            adapter_names: workload::adapter_names(adapters),
            link_delay: Duration::from_millis(1),
            scrape_delay: Duration::from_millis(2),
            policy,
            seed: 0,
            warm_up: 0,
            trace: None,
            follow: Follow::Full,
            faults: Vec::new(),
            others: Vec::new(),
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

/// The other gateways of a plan, each with the number of the first job after its own.
fn others(plan: &Plan) -> Vec<(usize, Gateway)> {
    let mut end = 0;
    let others = plan.others.iter().map(|other| {
        end += other.jobs;
        let baseline = other.baseline.clone();
        (end, Gateway::balancing(baseline, plan.profiles.len()))
    });
    others.collect()
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
    /// A fault of the plan begins.
    FaultBegins(usize),
    /// A fault of the plan is over.
    FaultEnds(usize),
}

/// What the gateway sees of an answer.
#[derive(Clone, Copy, Debug)]
enum Answer {
    FirstToken,
    Tokens(u64),
    Ended(Ending),
}

struct Simulation<'a> {
    plan: &'a Plan,
    jobs: &'a [Job],
    agenda: Agenda<Due>,
    servers: Vec<Server>,
    gateway: Gateway,
    /// Each with the number of the first job after its own.
    others: Vec<(usize, Gateway)>,
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
        let mut simulation = Self {
            plan,
            jobs,
            agenda: Agenda::default(),
            servers: plan.profiles.iter().cloned().map(Server::new).collect(),
            gateway: Gateway::new(plan),
            others: others(plan),
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
        for (index, fault) in plan.faults.iter().enumerate() {
            simulation.agenda.add(fault.from, Due::FaultBegins(index));
            simulation.agenda.add(fault.to, Due::FaultEnds(index));
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
                self.servers[server].page(&self.plan.adapter_names)
            }),
            Due::FaultBegins(fault) => self.begin_fault(now, &self.plan.faults[fault]),
            Due::FaultEnds(fault) => self.end_fault(now, &self.plan.faults[fault]),
        }
        self.grant_wishes(now);
    }

    fn arrive(&mut self, now: Instant, job: usize) {
        if job == self.plan.warm_up {
            self.loads_before = self.adapter_loads();
        }
        let (plan, sent) = (self.plan, &self.jobs[job]);
        let place = match &mut self.truth {
            Some(truth) => truth.place(now, job, sent, &plan.profiles),
            None => self.gateway(job).place(now, job, sent, plan),
        };
        match place {
            Some(server) => {
                self.records[job].server = Some(server);
                self.agenda
                    .add(now + self.plan.link_delay, Due::Submitted(job));
            }
            None => self.end(now, job, Ending::default()),
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
        if let Some(truth) = &mut self.truth {
            truth.submitted(server, index, accepted.is_ok());
        }
        if let Err(error) = accepted {
            // A proxy that finds no server to connect to answers 503.
            let status = match error {
                SubmitError::Crashed => 503,
                _ => 400,
            };
            self.refuse(now, index, status, true);
        }
        self.await_step(server);
    }

    /// The job ends without an answer, or without the rest of it.
    fn refuse(&mut self, now: Instant, job: usize, status: u16, complete: bool) {
        let ending = Ending {
            status: Some(status),
            complete,
            ..Ending::default()
        };
        let back = now + self.plan.link_delay;
        self.agenda
            .add(back, Due::Answered(job, Answer::Ended(ending)));
    }

    fn begin_fault(&mut self, now: Instant, fault: &Fault) {
        let index = fault.server;
        self.advance(now, index);
        let server = &mut self.servers[index];
        match fault.kind {
            FaultKind::Freeze => server.freeze_page(&self.plan.adapter_names),
            FaultKind::Hang => {
                server.engine.hang(now);
                server.hung = true;
                if let Some(truth) = &mut self.truth {
                    truth.hung(index, now, fault.to);
                }
            }
            FaultKind::Crash => {
                let lost = server.crash();
                if let Some(truth) = &mut self.truth {
                    truth.crashed(index);
                }
                for request in lost {
                    let job = request.0 as usize;
                    // What has begun breaks off; what has not is answered by the proxy.
                    match self.records[job].first_token {
                        Some(_) => self.refuse(now, job, 200, false),
                        None => self.refuse(now, job, 503, true),
                    }
                }
            }
        }
    }

    fn end_fault(&mut self, now: Instant, fault: &Fault) {
        let index = fault.server;
        if let Some(truth) = &mut self.truth {
            truth.step_ended(index, now);
        }
        let server = &mut self.servers[index];
        match fault.kind {
            FaultKind::Freeze => server.thaw_page(),
            FaultKind::Hang => {
                server.engine.resume(now);
                server.hung = false;
                let end = server.engine.next_step_end();
                if let (Some(_), Some(end)) = (server.awaited, end) {
                    // The step that was under way goes on; the oracle knows of it.
                    server.awaited = Some(end);
                    self.agenda.add(end, Due::StepEnds(index));
                }
            }
            FaultKind::Crash => {
                server.restart(now);
                if let Some(truth) = &mut self.truth {
                    truth.restarted(index);
                }
            }
        }
        self.await_step(index);
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
        if server.hung {
            return;
        }
        let end = server.engine.next_step_end();
        if let Some(end) = end.filter(|_| end != server.awaited) {
            self.agenda.add(end, Due::StepEnds(index));
            if let Some(truth) = &mut self.truth {
                truth.step_began(index, end, &self.plan.profiles[index]);
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
        } else if job.streamed
            && self.plan.follow == Follow::Full
            && at >= record.reported + PROGRESS_INTERVAL
        {
            record.reported = at;
            let tokens = Answer::Tokens(u64::from(output.token));
            self.agenda.add(at, Due::Answered(index, tokens));
        }
    }

    /// The gateway that sends a job.
    fn gateway(&mut self, job: usize) -> &mut Gateway {
        let other = self.others.iter_mut().find(|(end, _)| job < *end);
        other.map_or(&mut self.gateway, |(_, gateway)| gateway)
    }

    fn answer(&mut self, now: Instant, job: usize, answer: Answer) {
        let gateway = self.gateway(job);
        match answer {
            Answer::FirstToken => gateway.first_token(now, job),
            Answer::Tokens(tokens) => gateway.progressed(now, job, tokens),
            Answer::Ended(ending) => {
                gateway.ended(now, job, ending);
                self.end(now, job, ending);
            }
        }
    }

    fn end(&mut self, now: Instant, job: usize, ending: Ending) {
        // A client that gets only a part of its answer has an error, whatever its first line said.
        let whole = ending.status.filter(|_| ending.complete);
        let record = &mut self.records[job];
        record.ended = Some(now);
        record.status = whole.unwrap_or(503);
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
                Wish::List(key, server) => (
                    now + self.plan.scrape_delay,
                    gateway::Due::Models(key, server),
                ),
            };
            self.agenda.add(at, Due::Gateway(due));
        }
    }

    fn adapter_loads(&self) -> u64 {
        self.servers.iter().map(Server::adapter_loads).sum()
    }

    fn into_trace(self) -> record::Trace {
        let adapter_loads = self.adapter_loads() - self.loads_before;
        let (mut queries, mut hits) = (0, 0);
        for server in &self.servers {
            for engine in &server.reading(&self.plan.adapter_names).engines {
                queries += engine.prefix_queries.unwrap_or_default();
                hits += engine.prefix_hits.unwrap_or_default();
            }
        }
        record::Trace {
            prefix_hit_rate: hits as f64 / queries.max(1) as f64,
            warm_up: self.plan.warm_up.min(self.records.len()),
            servers: self.servers.len(),
            records: self.records,
            adapter_loads,
        }
    }
}

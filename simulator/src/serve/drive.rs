//! The task that owns one engine and drives it by the clock.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use picker_core::time::Instant;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant as Clock, sleep_until};

use super::Identity;
use super::adapters::Adapters;
use super::openai::plan::Choice;
use crate::engine::exposition::{About, Answered, Traffic, text};
use crate::engine::{AdapterId, Content, Engine, Output, Request, RequestId};

/// Commands that may wait for the engine's task; senders wait for room.
const COMMANDS: usize = 256;

/// What a client asks the engine for.
#[derive(Clone, Debug)]
pub(super) struct Generation {
    pub(super) adapter: Option<AdapterId>,
    pub(super) choices: Vec<Choice>,
    /// Choices of each prompt; they are admitted together.
    pub(super) n: usize,
    /// Only requests with the same one share prefixes.
    pub(super) salt: Option<u64>,
}

/// What a client hears of its generation.
#[derive(Clone, Copy, Debug)]
pub(super) enum Event {
    /// A choice was given a token.
    Token(usize, Output),
    /// There will be no more.
    Ended(Ending),
}

/// How an engine ends what it has not finished.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// Answers stop where they are, as if they were whole.
    Cut,
    /// Answers are errors.
    Failed,
}

/// Why an engine took nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rejected {
    /// `--max-num-queued-reqs` is reached.
    Busy,
    /// It has ended.
    Ended,
}

/// What ORCA headers tell.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Load {
    pub(super) waiting: usize,
    pub(super) kv_usage: f64,
}

/// The way to the task of one engine. The task ends when the last handle is gone.
#[derive(Clone, Debug)]
pub(super) struct EngineHandle(mpsc::Sender<Command>);

#[derive(Debug)]
enum Command {
    Submit(
        Generation,
        oneshot::Sender<Result<mpsc::Receiver<Event>, Rejected>>,
    ),
    Answered(Answered),
    Metrics(oneshot::Sender<String>),
    Load(oneshot::Sender<Load>),
    Unfinished(oneshot::Sender<usize>),
    WhenIdle(oneshot::Sender<()>),
    Hang(bool),
    SlowDown(f64),
    End(Ending),
}

impl EngineHandle {
    /// Hands requests to the engine. The receiver gets one [`Event::Token`] a token; dropping it aborts them.
    ///
    /// # Errors
    /// As many requests as allowed are there already, or the engine has ended.
    pub(super) async fn submit(
        &self,
        generation: Generation,
    ) -> Result<mpsc::Receiver<Event>, Rejected> {
        self.ask(|answer| Command::Submit(generation, answer))
            .await
            .unwrap_or(Err(Rejected::Ended))
    }

    /// Counts an answered request on the metrics page.
    pub(super) async fn answered(&self, answered: Answered) {
        // A server that is being killed counts no more.
        drop(self.0.send(Command::Answered(answered)).await);
    }

    /// The metrics page; empty if the server is being killed.
    pub(super) async fn metrics(&self) -> String {
        self.ask(Command::Metrics).await.unwrap_or_default()
    }

    /// The gauges of the last step's end; none if the server is being killed.
    pub(super) async fn load(&self) -> Option<Load> {
        self.ask(Command::Load).await
    }

    /// Requests that the engine has not finished.
    pub(super) async fn unfinished(&self) -> usize {
        self.ask(Command::Unfinished).await.unwrap_or_default()
    }

    /// Returns when the engine has finished all it had.
    pub(super) async fn idle(&self) {
        self.ask(Command::WhenIdle).await;
    }

    /// Stops the engine, or lets it go on.
    pub(super) async fn hang(&self, hung: bool) {
        drop(self.0.send(Command::Hang(hung)).await);
    }

    /// Makes every later step take `factor` times as long as the profile says.
    pub(super) async fn slow_down(&self, factor: f64) {
        drop(self.0.send(Command::SlowDown(factor)).await);
    }

    /// Ends it: what it has ends as `ending` says, and it takes nothing more.
    pub(super) async fn end(&self, ending: Ending) {
        drop(self.0.send(Command::End(ending)).await);
    }

    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Option<T> {
        let (answer, answered) = oneshot::channel();
        self.0.send(command(answer)).await.ok()?;
        answered.await.ok()
    }
}

/// Starts the task of `engine`, whose time is zero now.
pub(super) fn start(
    engine: Engine,
    identity: Arc<Identity>,
    adapters: Arc<Adapters>,
) -> EngineHandle {
    let (commands, receiver) = mpsc::channel(COMMANDS);
    let started_unix = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or(Duration::ZERO);
    let driven = Driven {
        engine,
        identity,
        adapters,
        started: Clock::now(),
        started_unix_seconds: started_unix.as_secs_f64(),
        traffic: Traffic::default(),
        clients: HashMap::new(),
        next_id: 0,
        outputs: Vec::new(),
        waiting_for_idle: Vec::new(),
    };
    tokio::spawn(driven.run(receiver));
    EngineHandle(commands)
}

struct Driven {
    engine: Engine,
    identity: Arc<Identity>,
    adapters: Arc<Adapters>,
    started: Clock,
    started_unix_seconds: f64,
    traffic: Traffic,
    clients: HashMap<RequestId, Client>,
    next_id: u64,
    outputs: Vec<Output>,
    waiting_for_idle: Vec<oneshot::Sender<()>>,
}

/// Who hears of a request, and as which choice.
struct Client {
    choice: usize,
    events: mpsc::Sender<Event>,
}

impl Client {
    fn tell(&self, event: Event) {
        // The channel has room for every event, so this fails only when the client has just left.
        let _ = self.events.try_send(event);
    }
}

impl Driven {
    async fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        loop {
            let end = self.engine.next_step_end();
            let due = self.started + end.unwrap_or_default().saturating_since(Instant::ZERO);
            let command = tokio::select! {
                command = commands.recv() => match command {
                    Some(command) => Some(command),
                    None => return,
                },
                () = sleep_until(due), if end.is_some() => None,
            };
            let now = Instant::ZERO + self.started.elapsed();
            self.advance(now);
            if let Some(command) = command {
                self.handle(now, command);
            }
            if self.clients.is_empty() {
                for waiting in self.waiting_for_idle.drain(..) {
                    let _ = waiting.send(());
                }
            }
        }
    }

    /// Ends the steps that are due and passes their tokens on.
    fn advance(&mut self, now: Instant) {
        if self.engine.next_step_end().is_none_or(|end| end > now) {
            return;
        }
        // vLLM takes aborts between steps, so it is enough to look for clients that left when one ends.
        let engine = &mut self.engine;
        self.clients.retain(|&id, client| {
            let gone = client.events.is_closed();
            if gone {
                engine.abort(now, id);
            }
            !gone
        });
        self.engine.advance(now, &mut self.outputs);
        for output in self.outputs.drain(..) {
            if let Some(client) = self.clients.get(&output.request) {
                client.tell(Event::Token(client.choice, output));
            }
            if output.finished.is_some() {
                self.clients.remove(&output.request);
            }
        }
    }

    fn handle(&mut self, now: Instant, command: Command) {
        match command {
            // Whoever asked may have left; the closed channel then aborts the requests.
            Command::Submit(generation, answer) => drop(answer.send(self.submit(now, &generation))),
            Command::Answered(answered) => self.traffic.answered(&answered),
            Command::Metrics(page) => {
                let about = About {
                    model_name: &self.identity.model,
                    adapter_names: &self.adapters.names(),
                    started_unix_seconds: self.started_unix_seconds,
                };
                drop(page.send(text(&self.engine, &about, &self.traffic)));
            }
            Command::Load(load) => {
                let gauges = self.engine.statistics().gauges;
                let _ = load.send(Load {
                    waiting: gauges.waiting_capacity + gauges.waiting_deferred,
                    kv_usage: gauges.kv_usage,
                });
            }
            Command::Unfinished(count) => drop(count.send(self.engine.unfinished())),
            Command::WhenIdle(waiting) => self.waiting_for_idle.push(waiting),
            Command::Hang(true) => self.engine.hang(now),
            Command::Hang(false) => self.engine.resume(now),
            Command::SlowDown(factor) => self.engine.slow_down(factor),
            Command::End(ending) => {
                self.engine.crash();
                for (_, client) in self.clients.drain() {
                    client.tell(Event::Ended(ending));
                }
            }
        }
    }

    /// Takes the prompts one after another, each only while there is room, as vLLM does.
    fn submit(
        &mut self,
        now: Instant,
        generation: &Generation,
    ) -> Result<mpsc::Receiver<Event>, Rejected> {
        if self.engine.has_crashed() {
            return Err(Rejected::Ended);
        }
        // Room for every token and an end: a client that reads slowly never makes the engine wait.
        let tokens: usize = generation
            .choices
            .iter()
            .map(|choice| choice.output_tokens as usize + 1)
            .sum();
        let (events, receiver) = mpsc::channel(tokens.max(1));
        let most = self.identity.max_num_queued_reqs.unwrap_or(usize::MAX);
        for (choice, plan) in generation.choices.iter().enumerate() {
            let begins_prompt = choice % generation.n == 0;
            if begins_prompt && self.clients.len() + generation.n > most {
                return Err(Rejected::Busy);
            }
            let id = RequestId(self.next_id);
            self.next_id += 1;
            let request = Request {
                id,
                adapter: generation.adapter,
                prompt_tokens: plan.prompt_tokens,
                output_tokens: plan.output_tokens,
                max_tokens: plan.max_tokens,
                finish: plan.finish,
            };
            let content = Content {
                prompt: Arc::clone(&plan.content),
                answer: plan.answer(),
                salt: generation.salt,
            };
            if let Err(error) = self.engine.submit_with(now, request, content) {
                // The lengths and the adapter have been checked before.
                tracing::error!(%error, "the engine refused a request that the API had checked");
                return Err(Rejected::Ended);
            }
            let events = events.clone();
            self.clients.insert(id, Client { choice, events });
        }
        Ok(receiver)
    }
}

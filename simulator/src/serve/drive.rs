//! The task that owns one engine and drives it by the clock.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use picker_core::time::Instant;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant as Clock, sleep_until};

use super::Identity;
use crate::engine::exposition::{About, Answered, Traffic, text};
use crate::engine::{AdapterId, Engine, FinishReason, Output, Request, RequestId, SubmitError};

/// Commands that may wait for the engine's task; senders wait for room.
const COMMANDS: usize = 256;

/// What a client asks the engine for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Generation {
    pub(super) adapter: Option<AdapterId>,
    pub(super) prompt_tokens: u32,
    pub(super) output_tokens: u32,
    pub(super) max_tokens: u32,
    pub(super) finish: FinishReason,
}

/// The way to the task of one engine. The task ends when the last handle is gone.
#[derive(Clone, Debug)]
pub(super) struct EngineHandle(mpsc::Sender<Command>);

#[derive(Debug)]
enum Command {
    Submit(
        Generation,
        mpsc::Sender<Output>,
        oneshot::Sender<Result<(), SubmitError>>,
    ),
    Answered(Answered),
    Metrics(oneshot::Sender<String>),
    Unfinished(oneshot::Sender<usize>),
}

impl EngineHandle {
    /// Hands a request to the engine. The receiver gets one [`Output`] a token; dropping it aborts the request.
    ///
    /// # Errors
    /// As [`Engine::submit`]. `None` if the server is being killed.
    pub(super) async fn submit(
        &self,
        generation: Generation,
    ) -> Result<Option<mpsc::Receiver<Output>>, SubmitError> {
        // Room for every token: a client that reads slowly never makes the engine wait.
        let (outputs, receiver) = mpsc::channel(generation.output_tokens.max(1) as usize);
        let (accepted, answer) = oneshot::channel();
        let sent = self
            .0
            .send(Command::Submit(generation, outputs, accepted))
            .await;
        match (sent, answer.await) {
            (Ok(()), Ok(Ok(()))) => Ok(Some(receiver)),
            (Ok(()), Ok(Err(error))) => Err(error),
            _ => Ok(None),
        }
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

    /// Requests that the engine has not finished.
    pub(super) async fn unfinished(&self) -> usize {
        self.ask(Command::Unfinished).await.unwrap_or_default()
    }

    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Option<T> {
        let (answer, answered) = oneshot::channel();
        self.0.send(command(answer)).await.ok()?;
        answered.await.ok()
    }
}

/// Starts the task of `engine`, whose time is zero now.
pub(super) fn start(engine: Engine, identity: Arc<Identity>) -> EngineHandle {
    let (commands, receiver) = mpsc::channel(COMMANDS);
    let started_unix = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or(Duration::ZERO);
    let driven = Driven {
        engine,
        identity,
        started: Clock::now(),
        started_unix_seconds: started_unix.as_secs_f64(),
        traffic: Traffic::default(),
        clients: HashMap::new(),
        next_id: 0,
        outputs: Vec::new(),
    };
    tokio::spawn(driven.run(receiver));
    EngineHandle(commands)
}

struct Driven {
    engine: Engine,
    identity: Arc<Identity>,
    started: Clock,
    started_unix_seconds: f64,
    traffic: Traffic,
    clients: HashMap<RequestId, mpsc::Sender<Output>>,
    next_id: u64,
    outputs: Vec<Output>,
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
            let gone = client.is_closed();
            if gone {
                engine.abort(now, id);
            }
            !gone
        });
        self.engine.advance(now, &mut self.outputs);
        for output in self.outputs.drain(..) {
            if let Some(client) = self.clients.get(&output.request) {
                // The channel has room for every token, so this fails only when the client has just left.
                let _ = client.try_send(output);
            }
            if output.finished.is_some() {
                self.clients.remove(&output.request);
            }
        }
    }

    fn handle(&mut self, now: Instant, command: Command) {
        match command {
            Command::Submit(generation, client, accepted) => {
                let id = RequestId(self.next_id);
                self.next_id += 1;
                let request = Request {
                    id,
                    adapter: generation.adapter,
                    prompt_tokens: generation.prompt_tokens,
                    output_tokens: generation.output_tokens,
                    max_tokens: generation.max_tokens,
                    finish: generation.finish,
                };
                let result = self.engine.submit(now, request);
                if result.is_ok() {
                    self.clients.insert(id, client);
                }
                // Whoever asked may have left; the closed channel then aborts the request.
                let _ = accepted.send(result);
            }
            Command::Answered(answered) => self.traffic.answered(&answered),
            Command::Metrics(page) => {
                let about = About {
                    model_name: &self.identity.model,
                    adapter_names: &self.identity.adapters,
                    started_unix_seconds: self.started_unix_seconds,
                };
                drop(page.send(text(&self.engine, &about, &self.traffic)));
            }
            Command::Unfinished(count) => drop(count.send(self.engine.unfinished())),
        }
    }
}

//! What can be made to happen to a running server: it crashes, hangs, slows down, fails requests, ends as SIGTERM ends vLLM.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::drive::{Ending, EngineHandle};

/// How long a process outlives its engine's crash: vLLM looks every 5 s (`VLLM_WATCHDOG_TIME_S`).
const WATCHDOG: Duration = Duration::from_secs(5);

/// How a server ends when it is told to, as SIGTERM was recorded to end vLLM 0.32.0.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Termination {
    /// Answers stop where they are: streams with `[DONE]`, others with status 200 and the text so far. The port closes.
    Cut,
    /// Answers become errors: streams end with an error event and `[DONE]`, others have status 500. The port closes.
    Fail,
    /// What is in the engine is finished while `/health` stays 200 and new requests get 500; the port closes after that. What
    /// takes longer than `timeout` hangs, and the server stays.
    Drain {
        /// vLLM's `--shutdown-timeout`.
        timeout: Duration,
    },
}

impl Termination {
    /// What SIGTERM does with this `--shutdown-timeout`: without one, answers are cut.
    #[must_use]
    pub const fn with_timeout(timeout: Duration) -> Self {
        if timeout.is_zero() {
            Self::Cut
        } else {
            Self::Drain { timeout }
        }
    }
}

/// The state of one running server that requests and [`super::Server`] share.
#[derive(Debug)]
pub(super) struct Control {
    engine: EngineHandle,
    /// Closes the port.
    close: CancellationToken,
    draining: AtomicBool,
    /// Requests to generate whose answer has not ended.
    in_flight: AtomicUsize,
    settings: Mutex<Settings>,
}

/// What can be set while a server runs.
#[derive(Clone, Copy, Debug)]
struct Settings {
    /// The share of requests that fail, and what of it has come together since the last that did.
    failures: (f64, f64),
    /// How long the process is there after the last connection.
    lingers: Duration,
}

impl Control {
    pub(super) fn new(engine: EngineHandle, close: CancellationToken) -> Self {
        Self {
            engine,
            close,
            draining: AtomicBool::new(false),
            in_flight: AtomicUsize::new(0),
            settings: Mutex::new(Settings {
                failures: (0.0, 0.0),
                lingers: Duration::ZERO,
            }),
        }
    }

    /// The engine stands still, or goes on.
    pub(super) async fn hang(&self, hung: bool) {
        self.engine.hang(hung).await;
    }

    /// Steps take the time of the profile divided by `speed`.
    pub(super) async fn set_speed(&self, speed: f64) {
        self.engine.slow_down(1.0 / speed).await;
    }

    /// The share of requests to generate that are answered with status 500, evenly spread.
    pub(super) fn fail(&self, share: f64) {
        self.with(|settings| settings.failures = (share, 0.0));
    }

    /// Whether the next request is one of those that fail.
    pub(super) fn fails_next(&self) -> bool {
        self.with(|settings| {
            let (share, gathered) = settings.failures;
            let gathered = gathered + share;
            // A little less than 1, since ten tenths may sum up to less.
            let fails = gathered > 1.0 - 1e-9;
            settings.failures.1 = if fails { gathered - 1.0 } else { gathered };
            fails
        })
    }

    /// The engine dies: what it has fails, the port closes, and some seconds later the process ends.
    pub(super) async fn crash(&self) {
        self.with(|settings| settings.lingers = WATCHDOG);
        self.end(Ending::Failed).await;
    }

    /// Ends as told. Returns when nothing more is going to happen: at once, or when the draining is over.
    pub(super) async fn terminate(&self, termination: Termination) {
        match termination {
            Termination::Cut => self.end(Ending::Cut).await,
            Termination::Fail => self.end(Ending::Failed).await,
            Termination::Drain { timeout } => {
                self.draining.store(true, Ordering::Relaxed);
                let drained = tokio::time::timeout(timeout, self.engine.idle()).await;
                match drained {
                    Ok(()) => self.end(Ending::Cut).await,
                    Err(_) => self.hang(true).await,
                }
            }
        }
    }

    pub(super) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// How long the process is there after the last connection.
    pub(super) fn lingers(&self) -> Duration {
        self.with(|settings| settings.lingers)
    }

    /// Requests to generate whose answer has not ended.
    pub(super) fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    pub(super) fn began(&self) {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn ended(&self) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
    }

    async fn end(&self, ending: Ending) {
        self.engine.end(ending).await;
        self.close.cancel();
    }

    fn with<T>(&self, act: impl FnOnce(&mut Settings) -> T) -> T {
        act(&mut self.settings.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

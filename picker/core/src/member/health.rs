//! The health of one endpoint: why it is suspect, if it is, and how often it fails.

use std::time::Duration;

use serde::Serialize;

use crate::time::Instant;

/// Readings that time out in a row before the endpoint is suspect.
const TIMEOUTS_TO_SUSPECT: u32 = 3;
/// Requests that fail in a row before it is.
const FAILURES_TO_SUSPECT: u32 = 3;
/// With work there and no sign of it for this long, it is, unless its requests are expected to take longer.
const SILENCE_MIN: Duration = Duration::from_secs(3);
/// By how many times the expected time to first token the silence has to exceed it.
const SILENCE_TIMES: f64 = 5.0;
/// From a suspicion that no reading can end to the first request sent there to see; doubled by each that fails, up to [`PROBE_MAX`].
const PROBE_FIRST: Duration = Duration::from_secs(5);
/// The longest time between two such requests.
const PROBE_MAX: Duration = Duration::from_secs(60);
/// How much the newest request counts in the share of failures.
const FAILURE_WEIGHT: f64 = 0.1;
/// The share of failures halves in this time.
const FAILURE_HALF_LIFE_MS: f64 = 10_000.0;

/// What made an endpoint suspect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Suspect {
    /// It refused the connection of a reading.
    Refused,
    /// It did not answer several readings in a row.
    Silent,
    /// A request sent there failed as one does whose server is gone, or was served elsewhere.
    Unreachable,
    /// It has work and shows no sign of doing it: no step counted, no token, no answer.
    Hung,
    /// Requests fail there, one after another.
    Failing,
}

impl Suspect {
    /// Whether the answer to a reading ends the suspicion; otherwise only work that is done does.
    const fn ends_with_an_answer(self) -> bool {
        matches!(self, Self::Refused | Self::Silent | Self::Unreachable)
    }
}

/// Why an endpoint gets no new requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Suspicion {
    /// Since when.
    #[serde(skip)]
    pub since: Instant,
    /// For what.
    pub reason: Suspect,
}

/// Whether an endpoint works, as far as requests and readings have shown.
#[derive(Debug, Default)]
pub struct Health {
    suspicion: Option<Suspicion>,
    timeouts: u32,
    /// Requests that failed since one that did not.
    failures: u32,
    /// The share of requests that failed, smoothed, and when it was last changed.
    failing: (f64, Instant),
    /// When it last did any work, or had none to do.
    alive: Instant,
    /// The longest time to a first token, in milliseconds, that was expected of a request sent there since.
    patience_ms: f64,
    /// When a request may be sent to see whether it works, and how long after a failure the next.
    probe: Option<(Instant, Duration)>,
}

impl Health {
    /// Why the endpoint is suspect, if it is.
    #[must_use]
    pub fn suspicion(&self) -> Option<Suspicion> {
        self.suspicion
    }

    /// Whether it is suspect.
    #[must_use]
    pub fn is_suspect(&self) -> bool {
        self.suspicion.is_some()
    }

    /// Whether it is suspect for something that the answer to a reading disproves.
    #[must_use]
    pub fn awaits_answer(&self) -> bool {
        self.suspicion
            .is_some_and(|suspicion| suspicion.reason.ends_with_an_answer())
    }

    /// Whether a request is to be sent there to see whether it works, `own` being in flight there.
    #[must_use]
    pub fn wants_probe(&self, now: Instant, own: u64) -> bool {
        own == 0 && self.is_suspect() && self.probe.is_some_and(|(due, _)| due <= now)
    }

    /// How likely it fails the next request, from 0 to 1.
    #[must_use]
    pub fn failure(&self, now: Instant) -> f64 {
        match self.failing {
            (0.0, _) => 0.0,
            (share, at) => share * 0.5_f64.powf(now.ms_since(at) / FAILURE_HALF_LIFE_MS),
        }
    }

    /// Makes it suspect; a later suspicion does not replace an earlier one, but renews it. Says whether it is the first.
    pub fn suspect(&mut self, now: Instant, reason: Suspect) -> bool {
        if let Some(suspicion) = &mut self.suspicion {
            suspicion.since = now;
            return false;
        }
        self.suspicion = Some(Suspicion { since: now, reason });
        self.probe = (!reason.ends_with_an_answer()).then(|| (now + PROBE_FIRST, PROBE_FIRST));
        true
    }

    /// A request was sent there, whose first token is expected in `ttft_ms`; `own` were in flight before.
    pub fn on_pick(&mut self, now: Instant, own: u64, ttft_ms: f64) {
        if own == 0 {
            self.lives(now);
        }
        self.patience_ms = self.patience_ms.max(ttft_ms);
        if let Some((due, wait)) = &mut self.probe {
            *wait = (*wait * 2).min(PROBE_MAX);
            *due = now + *wait;
        }
    }

    /// A token came from there, or a whole answer.
    pub fn on_work(&mut self, now: Instant) {
        self.lives(now);
        self.failures = 0;
        let disproved = |suspicion: &Suspicion| !suspicion.reason.ends_with_an_answer();
        if self.suspicion.as_ref().is_some_and(disproved) {
            self.clear();
        }
    }

    /// A request ended there, with a server's error or without.
    pub fn on_end(&mut self, now: Instant, failed: bool) {
        let share = self.failure(now);
        let newest = f64::from(u8::from(failed));
        self.failing = (share + FAILURE_WEIGHT * (newest - share), now);
        if !failed {
            return;
        }
        self.failures += 1;
        if self.failures >= FAILURES_TO_SUSPECT {
            self.suspect(now, Suspect::Failing);
        }
    }

    /// Nothing is in flight there (any more), or nothing would show whether work is done.
    pub fn on_idle(&mut self, now: Instant) {
        self.lives(now);
    }

    /// It answered a reading that was begun at `begun`.
    pub fn on_answer(&mut self, begun: Instant) {
        self.timeouts = 0;
        let disproved = |suspicion: &Suspicion| {
            suspicion.reason.ends_with_an_answer() && begun >= suspicion.since
        };
        if self.suspicion.as_ref().is_some_and(disproved) {
            self.clear();
        }
    }

    /// It showed its metrics, asked for at `begun`, and by its counters whether it `worked` since the reading before.
    pub fn on_reading(&mut self, now: Instant, begun: Instant, worked: bool) {
        self.on_answer(begun);
        if worked {
            self.lives(now);
            if self
                .suspicion
                .is_some_and(|suspicion| suspicion.reason == Suspect::Hung)
            {
                self.clear();
            }
        }
    }

    /// Whether nothing came of the work there for so long that it must hang.
    #[must_use]
    pub fn hangs(&self, now: Instant) -> bool {
        let limit_ms = f64::max(
            SILENCE_MIN.as_secs_f64() * 1e3,
            SILENCE_TIMES * self.patience_ms,
        );
        !self.is_suspect() && now.ms_since(self.alive) > limit_ms
    }

    /// It did not answer a reading in time. Says whether that makes it suspect.
    pub fn on_silence(&mut self) -> bool {
        self.timeouts += 1;
        self.timeouts >= TIMEOUTS_TO_SUSPECT
    }

    /// Its process has started anew.
    pub fn on_restart(&mut self, now: Instant) {
        *self = Self {
            alive: now,
            ..Self::default()
        };
    }

    fn lives(&mut self, now: Instant) {
        self.alive = now;
        self.patience_ms = 0.0;
    }

    fn clear(&mut self) {
        self.suspicion = None;
        self.probe = None;
        self.failures = 0;
        self.timeouts = 0;
    }
}

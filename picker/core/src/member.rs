//! One endpoint as the picker knows it: its last reading, load of others, adapters, suspicion, and when to read next.

use std::time::Duration;

use serde::Serialize;

use crate::adapter::Adapters;
use crate::endpoint::{Endpoint, EndpointKey, Reading};
use crate::seed::Random;
use crate::time::Instant;

/// The time between two readings while requests wait at the endpoint, or while others send to it.
pub const BEAT_BUSY: Duration = Duration::from_millis(200);
/// The time between two readings while only our own requests are in flight.
pub const BEAT_OWN: Duration = Duration::from_secs(1);
/// The time between two readings of an idle endpoint.
pub const BEAT_IDLE: Duration = Duration::from_secs(5);
/// The time between two listings of the endpoint's models.
pub const BEAT_MODELS: Duration = Duration::from_secs(60);
/// The first readings of a pool are spread over this time an endpoint, up to [`SPREAD_MAX`].
pub const SPREAD_PER_ENDPOINT: Duration = Duration::from_millis(5);
/// The longest time over which first readings are spread.
pub const SPREAD_MAX: Duration = Duration::from_secs(1);
/// The wait after the first failed reading; doubled by each further one, up to [`BEAT_IDLE`].
pub const BACK_OFF: Duration = Duration::from_millis(100);

/// Readings that time out in a row before the endpoint is suspect.
const TIMEOUTS_TO_SUSPECT: u32 = 3;
/// The weight of the newest sample of foreign load; smooths over the 0.3 to 2 s by which vLLM's gauges lag.
const FOREIGN_WEIGHT: f64 = 0.3;
/// Foreign load below this is none: what is left of the smoothing.
const FOREIGN_FLOOR: f64 = 0.05;

/// One endpoint of the pool.
#[derive(Debug)]
pub struct Member {
    /// Its key.
    pub key: EndpointKey,
    /// What discovery says of it.
    pub endpoint: Endpoint,
    /// Its models and adapter slots.
    pub adapters: Adapters,
    reading: Option<(Instant, Reading)>,
    suspicion: Option<Suspicion>,
    /// Smoothed requests that others sent here.
    foreign: f64,
    /// The most requests of ours in flight since the last reading.
    own_peak: u64,
    /// The most requests seen running while others waited for capacity.
    slots: Option<u64>,
    beat: Beat,
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

/// How often endpoints are read.
#[derive(Clone, Debug)]
pub struct Pace {
    /// The least time between two readings of one endpoint.
    pub interval_min: Duration,
    /// Keeps readings from falling into step.
    pub random: Random,
}

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
}

/// Why a reading failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadFailure {
    /// The connection was refused or reset.
    Refused,
    /// No answer in time.
    TimedOut,
    /// An answer that is no metrics page.
    Unreadable,
}

/// When the endpoint is read, and how it went.
#[derive(Debug)]
struct Beat {
    next_reading: Instant,
    next_models: Instant,
    /// When the reading that is under way was asked for.
    under_way: Option<Instant>,
    failures: u32,
    timeouts: u32,
}

impl Member {
    /// An endpoint of which nothing is known; its first reading is due at `due`.
    #[must_use]
    pub fn new(key: EndpointKey, endpoint: Endpoint, due: Instant) -> Self {
        Self {
            key,
            endpoint,
            adapters: Adapters::default(),
            reading: None,
            suspicion: None,
            foreign: 0.0,
            own_peak: 0,
            slots: None,
            beat: Beat {
                next_reading: due,
                next_models: due,
                under_way: None,
                failures: 0,
                timeouts: 0,
            },
        }
    }

    /// The last reading and when it was taken.
    #[must_use]
    pub fn reading(&self) -> Option<&(Instant, Reading)> {
        self.reading.as_ref()
    }

    /// Whether a reading of it was ever answered, or failed.
    #[must_use]
    pub fn heard(&self) -> bool {
        self.reading.is_some() || self.beat.failures > 0
    }

    /// Why the endpoint is suspect, if it is.
    #[must_use]
    pub fn suspicion(&self) -> Option<Suspicion> {
        self.suspicion
    }

    /// Requests of others there, smoothed.
    #[must_use]
    pub fn foreign(&self) -> f64 {
        self.foreign
    }

    /// The most requests it was seen to run at once while others waited: its batch slots, as far as seen.
    #[must_use]
    pub fn slots(&self) -> Option<u64> {
        self.slots
    }

    /// Notes that `own` requests of ours are in flight there.
    pub fn on_own(&mut self, own: u64) {
        self.own_peak = self.own_peak.max(own);
    }

    /// Takes over a reading; `own` requests of ours are in flight there.
    pub fn on_reading(&mut self, now: Instant, reading: Reading, own: u64, pace: &mut Pace) {
        self.note_foreign(&reading, own);
        self.note_slots(&reading);
        if self.restarted(&reading) {
            self.adapters.on_restart();
            self.beat.next_models = now;
        }
        match &reading.adapters {
            Some(adapters) => self.adapters.on_reading(adapters),
            None => self.adapters.forget_running(),
        }
        let waits = reading.waiting().unwrap_or(0) > 0;
        self.reading = Some((now, reading));
        self.on_answer(now);
        let beat = match () {
            // The answer was to a reading begun before the suspicion arose: ask again.
            () if self.suspicion.is_some() => Duration::ZERO,
            () if waits || self.foreign > 0.0 => BEAT_BUSY,
            () if own > 0 => BEAT_OWN,
            () => BEAT_IDLE,
        };
        self.beat.next_reading = pace.next(now, beat);
    }

    /// Takes over that a reading failed.
    pub fn on_read_failed(&mut self, now: Instant, failure: ReadFailure, pace: &mut Pace) {
        match failure {
            ReadFailure::Refused => self.suspect(now, Suspect::Refused),
            ReadFailure::TimedOut => {
                self.beat.timeouts += 1;
                if self.beat.timeouts >= TIMEOUTS_TO_SUSPECT {
                    self.suspect(now, Suspect::Silent);
                }
            }
            // An endpoint that answers is alive, whatever it says: unparsable metrics alone never eject.
            ReadFailure::Unreadable => self.on_answer(now),
        }
        self.beat.under_way = None;
        let wait = BACK_OFF * 2_u32.saturating_pow(self.beat.failures.min(10));
        self.beat.failures += 1;
        self.beat.next_reading = pace.next(now, wait.min(BEAT_IDLE));
    }

    /// Makes the endpoint suspect, and due for a reading at once. A later suspicion does not replace an earlier one
    /// but asks for a reading that is begun after it.
    pub fn suspect(&mut self, now: Instant, reason: Suspect) {
        match &mut self.suspicion {
            Some(suspicion) => suspicion.since = now,
            none => {
                *none = Some(Suspicion { since: now, reason });
                self.beat.failures = 0;
            }
        }
        self.beat.next_reading = now;
    }

    /// Moves the next reading forward if a beat of `beat` from `now` would come sooner.
    pub fn hasten(&mut self, now: Instant, beat: Duration, pace: &mut Pace) {
        if self.beat.next_reading > now + beat {
            self.beat.next_reading = self.beat.next_reading.min(pace.next(now, beat));
        }
    }

    /// When the endpoint is due for a reading or a listing; `None` while a reading is under way.
    #[must_use]
    pub fn due(&self) -> Option<Instant> {
        match self.beat.under_way {
            Some(_) => None,
            None => Some(self.beat.next_reading),
        }
    }

    /// Starts a reading if one is due, and says what to ask for.
    pub fn begin_reading(&mut self, now: Instant) -> Option<Begin> {
        if self.due()? > now {
            return None;
        }
        self.beat.under_way = Some(now);
        let models = self.beat.next_models <= now;
        if models {
            self.beat.next_models = now + BEAT_MODELS;
        }
        Some(Begin { models })
    }

    /// Lists the models at the next reading, since the last listing failed.
    pub fn on_models_failed(&mut self, now: Instant) {
        self.beat.next_models = now;
    }

    /// An answer to a reading that was begun after the suspicion ends it.
    fn on_answer(&mut self, now: Instant) {
        let begun = self.beat.under_way.take().unwrap_or(now);
        self.beat.failures = 0;
        self.beat.timeouts = 0;
        if self
            .suspicion
            .is_some_and(|suspicion| begun >= suspicion.since)
        {
            self.suspicion = None;
        }
    }

    /// Others' load is what the engine shows beyond the most that we had there since the reading before: its gauges
    /// lag behind ours, so less than that is our own requests seen late.
    fn note_foreign(&mut self, reading: &Reading, own: u64) {
        if let Some(running) = reading.running() {
            let seen = running.saturating_add(reading.waiting().unwrap_or(0));
            let sample = seen.saturating_sub(self.own_peak.max(own)) as f64;
            self.foreign += FOREIGN_WEIGHT * (sample - self.foreign);
            if self.foreign < FOREIGN_FLOOR {
                self.foreign = 0.0;
            }
        }
        self.own_peak = own;
    }

    fn note_slots(&mut self, reading: &Reading) {
        for engine in &reading.engines {
            let full = engine.waiting_capacity.or(engine.waiting).unwrap_or(0) > 0;
            if let (true, Some(running)) = (full, engine.running.filter(|&running| running > 0)) {
                self.slots = Some(self.slots.unwrap_or(0).max(running));
            }
        }
    }

    /// Whether the engine's process is another than at the last reading.
    fn restarted(&self, reading: &Reading) -> bool {
        let before = self
            .reading
            .as_ref()
            .and_then(|(_, before)| before.process_start_s);
        matches!((before, reading.process_start_s), (Some(before), Some(after)) if before != after)
    }
}

impl Pace {
    /// The time of the next reading, `beat` after `now` and up to a tenth earlier, so that readings stay apart.
    fn next(&mut self, now: Instant, beat: Duration) -> Instant {
        let beat = beat.mul_f64(1.0 - 0.1 * self.random.unit());
        now + beat.max(self.interval_min)
    }
}

/// What to ask of an endpoint that is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Begin {
    /// Whether its models are to be listed, too.
    pub models: bool,
}

//! One endpoint as the picker knows it: its last reading, speed, load of others, adapters, health, and when to read next.

pub mod drain;
pub mod health;
mod prompts;

use std::time::Duration;

use self::drain::Drain;
use self::health::{Health, Suspect};
use self::prompts::Prompts;
use crate::adapter::Adapters;
use crate::adapter::names::Names;
use crate::endpoint::{Endpoint, EndpointKey, EngineReading, Reading};
use crate::ledger::Load;
use crate::rates::{Factors, Fit, Meter, Rates};
use crate::seed::{Random, name_hash};
use crate::share::Sent;
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

/// The weight of the newest sample of foreign load; smooths over the 0.3 to 2 s by which vLLM's gauges lag.
const FOREIGN_WEIGHT: f64 = 0.3;
/// Foreign load below this is none: what is left of the smoothing.
const FOREIGN_FLOOR: f64 = 0.05;

/// From this share of KV blocks in use, requests may wait for blocks: one long prompt takes a few hundredths of all.
const KV_SCARCE: f64 = 0.85;

/// One endpoint of the pool.
#[derive(Debug)]
pub struct Member {
    /// Its key.
    pub key: EndpointKey,
    /// What discovery says of it.
    pub endpoint: Endpoint,
    hash: u64,
    /// Its models and adapter slots.
    pub adapters: Adapters,
    /// Whether it works.
    pub health: Health,
    reading: Option<(Instant, Reading)>,
    /// What it was seen to do, and how fast it is by that.
    meter: Meter,
    fit: Fit,
    rates: Rates,
    prompts: Prompts,
    /// Requests for adapters that were sent here of late.
    pub sent: Sent,
    /// Smoothed requests that others sent here.
    foreign: f64,
    /// The most sequences of ours in flight since the last reading.
    own_peak: u64,
    /// Tokens of the prompts that were sent here since the last reading.
    sent_tokens: u64,
    /// The most requests seen running while others waited for capacity.
    slots: Option<u64>,
    drain: Drain,
    beat: Beat,
}

/// How often endpoints are read.
#[derive(Clone, Debug)]
pub struct Pace {
    /// The least time between two readings of one endpoint.
    pub interval_min: Duration,
    /// Keeps readings from falling into step.
    pub random: Random,
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
}

impl Member {
    /// An endpoint of which nothing is known; its first reading is due at `due`.
    #[must_use]
    pub fn new(key: EndpointKey, endpoint: Endpoint, due: Instant) -> Self {
        Self {
            key,
            hash: name_hash(&endpoint.identity),
            endpoint,
            adapters: Adapters::default(),
            health: Health::default(),
            reading: None,
            meter: Meter::default(),
            fit: Fit::default(),
            rates: Rates::PRIOR,
            prompts: Prompts::default(),
            sent: Sent::default(),
            foreign: 0.0,
            own_peak: 0,
            sent_tokens: 0,
            slots: None,
            drain: Drain::default(),
            beat: Beat {
                next_reading: due,
                next_models: due,
                under_way: None,
                failures: 0,
            },
        }
    }

    /// The hash of its identity, the same in every replica.
    #[must_use]
    pub const fn hash(&self) -> u64 {
        self.hash
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

    /// How fast it is, as far as known.
    #[must_use]
    pub fn rates(&self) -> &Rates {
        &self.rates
    }

    /// What its counters have shown.
    #[must_use]
    pub fn fit(&self) -> &Fit {
        &self.fit
    }

    /// Engines (data-parallel ranks) behind the address.
    #[must_use]
    pub fn engines(&self) -> usize {
        let engines = self
            .reading
            .as_ref()
            .map_or(1, |(_, reading)| reading.engines.len());
        engines.max(1)
    }

    /// The share of KV blocks that is asked for there, were `more` tokens to come; 0 where unknown. Above 1, requests wait for blocks.
    ///
    /// Blocks that are held show in readings, however many requests share them. Requests that wait for blocks do not, so where few are free `own` counts: the
    /// tokens of ours in flight, as if they shared none.
    #[must_use]
    pub fn kv_demand(&self, own: u64, more: f64) -> f64 {
        let Some((_, reading)) = &self.reading else {
            return 0.0;
        };
        match (reading.kv_usage(), reading.kv_tokens()) {
            (Some(usage), Some(tokens)) if tokens > 0 => {
                let share = |count: f64| count / tokens as f64;
                let held = usage + share(self.sent_tokens as f64);
                let asked = if usage > KV_SCARCE {
                    share(own as f64)
                } else {
                    0.0
                };
                held.max(asked) + share(more)
            }
            _ => 0.0,
        }
    }

    /// The share of its engines' time that prompts took of late, 0 to 1.
    #[must_use]
    pub fn prefill_share(&self, now: Instant) -> f64 {
        self.prompts.share(now, self.rates.prompt_token_ms)
    }

    /// Requests of others there, smoothed.
    #[must_use]
    pub fn foreign(&self) -> f64 {
        self.foreign
    }

    /// Whether requests waited there at the last reading.
    #[must_use]
    pub fn queues(&self) -> bool {
        let reading = self.reading.as_ref().map(|(_, reading)| reading);
        reading.is_some_and(|reading| reading.engines.iter().any(EngineReading::queues))
    }

    /// The most requests it was seen to run at once while others waited: its batch slots, as far as seen.
    #[must_use]
    pub fn slots(&self) -> Option<u64> {
        self.slots
    }

    /// How fast requests leave it.
    #[must_use]
    pub fn drain(&self) -> &Drain {
        &self.drain
    }

    /// Notes that a request of `prompt_tokens` was sent there, and that `own` sequences are in flight with it.
    pub fn on_pick(&mut self, own: u64, prompt_tokens: u64) {
        self.on_own(own);
        self.sent_tokens = self.sent_tokens.saturating_add(prompt_tokens);
    }

    /// Notes that `own` sequences of ours are in flight there.
    pub fn on_own(&mut self, own: u64) {
        self.own_peak = self.own_peak.max(own);
        if own == 0 && self.foreign == 0.0 {
            self.meter.on_idle();
        }
    }

    /// Takes over a reading; `own` is what of ours is in flight there. Returns what its engines generated since an earlier one: answers, and
    /// tokens in all.
    pub fn on_reading(
        &mut self,
        now: Instant,
        reading: Reading,
        own: &Load,
        names: &Names,
        pace: &mut Pace,
    ) -> (f64, f64) {
        self.note_foreign(&reading, own.sequences);
        self.note_slots(&reading);
        if self.restarted(&reading) {
            self.adapters.on_restart();
            self.health.on_restart(now);
            self.beat.next_models = now;
        }
        match &reading.adapters {
            Some(adapters) => self.adapters.on_reading(adapters, names),
            None => self.adapters.forget_shown(),
        }
        let idle = own.requests == 0 && self.foreign == 0.0;
        self.meter.on_loads(self.adapters.take_loads());
        let (fit, prompts) = (&mut self.fit, &mut self.prompts);
        self.meter.on_reading(now, &reading, idle, |interval| {
            fit.observe(now, &interval);
            prompts.observe(now, &interval);
        });
        let before = self.reading.as_ref().map(|(_, before)| before);
        let answers = before.map_or((0.0, 0.0), |before| reading.answers_since(before));
        if let Some((at, earlier)) = &self.reading
            && (answers.0 > 0.0 || earlier.running().unwrap_or(0) > 0)
        {
            self.drain.observe(now.ms_since(*at) / 1e3, answers.0);
        }
        let worked = before.is_some_and(|before| reading.worked_since(before));
        let waits = reading.waiting().unwrap_or(0) > 0;
        let begun = self.beat.under_way.take().unwrap_or(now);
        self.health.on_reading(now, begun, worked);
        if own.requests == 0 || (own.prefilling == 0 && !reading.counts_work()) {
            self.health.on_idle(now);
        }
        self.reading = Some((now, reading));
        self.sent_tokens = 0;
        self.beat.failures = 0;
        let beat = match () {
            // The answer was to a reading begun before the suspicion arose: ask again.
            () if self.health.awaits_answer() => Duration::ZERO,
            () if waits || self.foreign > 0.0 || self.health.is_suspect() => BEAT_BUSY,
            () if own.requests > 0 => BEAT_OWN,
            () => BEAT_IDLE,
        };
        self.beat.next_reading = pace.next(now, beat);
        answers
    }

    /// Takes over that a reading failed.
    pub fn on_read_failed(&mut self, now: Instant, failure: ReadFailure, pace: &mut Pace) {
        let begun = self.beat.under_way.take().unwrap_or(now);
        match failure {
            ReadFailure::Refused => self.suspect(now, Suspect::Refused),
            ReadFailure::TimedOut => {
                if self.health.on_silence() {
                    self.suspect(now, Suspect::Silent);
                }
            }
            // An endpoint that answers is alive, whatever it says: unparsable metrics alone never eject.
            ReadFailure::Unreadable => self.health.on_answer(begun),
        }
        let wait = BACK_OFF * 2_u32.saturating_pow(self.beat.failures.min(10));
        self.beat.failures += 1;
        self.beat.next_reading = pace.next(now, wait.min(BEAT_IDLE));
    }

    /// Makes the endpoint suspect, and due for a reading at once. A later suspicion does not replace an earlier one
    /// but asks for a reading that is begun after it.
    pub fn suspect(&mut self, now: Instant, reason: Suspect) {
        if self.health.suspect(now, reason) {
            self.beat.failures = 0;
        }
        self.beat.next_reading = now;
    }

    /// Goes by what its counters have shown, and by the `pool`'s rates where they have shown little; `fixed_ms` is the pool's, too.
    pub fn learn(&mut self, now: Instant, pool: &Factors, fixed_ms: f64) {
        self.rates = Rates {
            fixed_ms,
            ..Rates::of(&self.fit.factors(now, pool))
        };
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
        for engine in reading.engines.iter().filter(|engine| engine.queues()) {
            if let Some(running) = engine.running.filter(|&running| running > 0) {
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

//! How fast an endpoint is: what its engine's counters teach of it, and what is assumed until they do.
//!
//! Between two readings an engine that was never idle took
//!
//! ```text
//! dt = a x steps + c_p x uncached prompt tokens + c_d x generated tokens + load x adapters loaded
//! ```
//!
//! which is linear in what is looked for. vLLM counts steps (`vllm:iteration_tokens_total_count`), the tokens of all steps
//! (`..._sum`: uncached prompt and generated tokens) and generated tokens (`vllm:generation_tokens_total`), so no response has to be
//! seen for it (`vllm/v1/metrics/loggers.py`). Adapters loaded are those that our own picks made it load, and those that readings show running which no pick of
//! ours asked for.

use std::collections::VecDeque;

use serde::Serialize;

use crate::endpoint::{EngineReading, Reading};
use crate::time::Instant;

/// The speeds of an endpoint, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Rates {
    /// `a`: an engine step with nothing in it.
    pub step_ms: f64,
    /// `c_p`: a prompt token.
    pub prompt_token_ms: f64,
    /// `c_d`: what a sequence adds to a step.
    pub sequence_ms: f64,
    /// What a request takes beside the engine's work.
    pub fixed_ms: f64,
    /// Loading an adapter.
    pub adapter_load_ms: f64,
}

impl Rates {
    /// What is assumed of an endpoint of which nothing is known: about an 8B model on one A100 or H100. (Step and
    /// sequence: Llama-3.1-8B on H100 shows 7.1 ms + 0.036 ms a sequence, BLIS fits 16.4 ms + 0.018 ms on A100; prompt
    /// token: 0.021 to 0.048 ms there. Adapter load: reports range from 10 ms, from memory, to seconds, from disk.)
    pub const PRIOR: Self = Self {
        step_ms: 15.0,
        prompt_token_ms: 0.05,
        sequence_ms: 0.05,
        fixed_ms: 20.0,
        adapter_load_ms: 300.0,
    };

    /// A step that decodes `sequences`.
    #[must_use]
    pub fn step(&self, sequences: f64) -> f64 {
        self.step_ms + self.sequence_ms * sequences
    }

    /// The prior, times `factors`.
    #[must_use]
    pub fn of(factors: &Factors) -> Self {
        let [step, prompt_token, sequence, adapter_load] = factors.0;
        Self {
            step_ms: Self::PRIOR.step_ms * step,
            prompt_token_ms: Self::PRIOR.prompt_token_ms * prompt_token,
            sequence_ms: Self::PRIOR.sequence_ms * sequence,
            adapter_load_ms: Self::PRIOR.adapter_load_ms * adapter_load,
            ..Self::PRIOR
        }
    }
}

/// By how much the rates differ from the prior: step, prompt token, sequence, adapter load.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Factors(pub [f64; DIMENSIONS]);

const DIMENSIONS: usize = 4;
const STEP: usize = 0;
const SEQUENCE: usize = 2;
const LOAD: usize = 3;

/// What is learnt loses half its weight in this busy time.
const HALF_LIFE_BUSY_MS: f64 = 60_000.0;
/// What is learnt loses half its weight in this time without news.
const HALF_LIFE_IDLE_MS: f64 = 600_000.0;
/// One unit of evidence: the busy time between two readings of an endpoint where requests wait.
const SAMPLE_MS: f64 = 200.0;
/// With so many units an endpoint's own evidence weighs as much as the pool's.
const SHRINK_SAMPLES: f64 = 20.0;
/// With so many units an endpoint has a say in the pool's median.
pub const VOTE_SAMPLES: f64 = 10.0;
/// An endpoint's rates stay within this factor of the pool's, adapter loads excepted.
const CLAMP: f64 = 4.0;
/// No rate is less than this share of its prior: nothing takes no time.
const FACTOR_MIN: f64 = 0.02;
/// The square of what an interval is uncertain by, in square milliseconds: readings show whole steps only, some 20 ms each.
const NOISE_MS2: f64 = 400.0;
/// How far, as a share, a pool's factor may lie from what was thought before without surprise.
const POOL_SURPRISE: f64 = 1.0;
/// How far the proportions of an endpoint's factors may lie from the pool's.
const OWN_SURPRISE: f64 = 0.1;
/// Rounds of the descent; four numbers settle in fewer.
const ROUNDS: usize = 60;

impl Factors {
    /// The prior itself.
    pub const ONE: Self = Self([1.0; DIMENSIONS]);

    fn times(&self, speed: f64) -> Self {
        Self(self.0.map(|factor| factor * speed))
    }
}

/// What an engine did in a time in which it was never idle.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Interval {
    /// How long it was, in milliseconds.
    pub busy_ms: f64,
    /// The share of that which no interval before it covers: what it counts.
    pub share: f64,
    /// Steps.
    pub steps: f64,
    /// Prompt tokens computed; those that the prefix cache held are not among them.
    pub prompt_tokens: f64,
    /// Tokens generated.
    pub generated_tokens: f64,
    /// Adapters loaded.
    pub adapter_loads: f64,
}

/// What intervals of one endpoint have shown: the normal equations of a least-squares fit with forgetting.
///
/// Unknowns are the factors over the prior; each regressor is what the prior would have expected of it, in milliseconds.
#[derive(Clone, Debug, Default)]
pub struct Fit {
    gram: [[f64; DIMENSIONS]; DIMENSIONS],
    moment: [f64; DIMENSIONS],
    busy_ms: f64,
    latest: Option<Instant>,
}

impl Fit {
    /// Takes in an interval that ended at `now`.
    pub fn observe(&mut self, now: Instant, interval: &Interval) {
        let news_ms = interval.share * interval.busy_ms;
        self.fade(0.5_f64.powf(news_ms / HALF_LIFE_BUSY_MS) * self.idle_weight(now, news_ms));
        self.latest = Some(now);
        let prior = &Rates::PRIOR;
        let expected = [
            prior.step_ms * interval.steps,
            prior.prompt_token_ms * interval.prompt_tokens,
            prior.sequence_ms * interval.generated_tokens,
            prior.adapter_load_ms * interval.adapter_loads,
        ];
        for (row, (moment, one)) in self
            .gram
            .iter_mut()
            .zip(self.moment.iter_mut().zip(expected))
        {
            *moment += interval.share * one * interval.busy_ms;
            for (cell, other) in row.iter_mut().zip(expected) {
                *cell += interval.share * one * other;
            }
        }
        self.busy_ms += news_ms;
    }

    /// Evidence, in units of 200 ms of busy time.
    #[must_use]
    pub fn samples(&self) -> f64 {
        self.busy_ms / SAMPLE_MS
    }

    /// The factors to go by at `now`, of which `pool` says what is usual there.
    ///
    /// The endpoint's speed, one number by which all of the pool's factors are multiplied, is its own as soon as there is some evidence; the proportions between the
    /// factors stay the pool's unless there is much. A single endpoint shows too little of them: where its batch size hardly varies, steps and
    /// generated tokens grow together.
    #[must_use]
    pub fn factors(&self, now: Instant, pool: &Factors) -> Factors {
        let samples = self.samples() * self.idle_weight(now, 0.0);
        let weight = samples / (samples + SHRINK_SAMPLES);
        let center = pool.times(self.speed(pool).unwrap_or(1.0));
        let mut factors = self.solve(&center, OWN_SURPRISE);
        for (own, pool) in factors.0.iter_mut().zip(pool.0) {
            *own = pool + weight * (*own - pool);
        }
        factors.0[LOAD] = pool.0[LOAD];
        factors
    }

    /// By how much the endpoint takes longer than the pool's factors say, within a factor of four; `None` without enough evidence.
    #[must_use]
    pub fn speed(&self, pool: &Factors) -> Option<f64> {
        if self.samples() < VOTE_SAMPLES {
            return None;
        }
        let expected: f64 = (0..DIMENSIONS)
            .map(|place| self.moment[place] * pool.0[place])
            .sum();
        let squares: f64 = (0..DIMENSIONS)
            .flat_map(|row| (0..DIMENSIONS).map(move |column| (row, column)))
            .map(|(row, column)| pool.0[row] * self.gram[row][column] * pool.0[column])
            .sum();
        (squares > 0.0).then(|| (expected / squares).clamp(1.0 / CLAMP, CLAMP))
    }

    /// Adds what `other` has shown, as if it had been `speed` times as fast.
    fn add(&mut self, other: &Self, speed: f64) {
        for (row, others) in self.gram.iter_mut().zip(&other.gram) {
            for (cell, other) in row.iter_mut().zip(others) {
                *cell += other;
            }
        }
        for (moment, other) in self.moment.iter_mut().zip(other.moment) {
            *moment += other / speed;
        }
        self.busy_ms += other.busy_ms;
    }

    /// Least squares with bounds, by coordinate descent.
    ///
    /// Two penalties stand for what is believed before the evidence: that each factor is as in `center`, give or take `surprise`, and that step and
    /// sequence keep their proportion. Where batch sizes do not vary, only the second tells the two apart.
    fn solve(&self, center: &Factors, surprise: f64) -> Factors {
        let belief = NOISE_MS2 / (surprise * surprise);
        let (mut gram, mut moment) = (self.gram, self.moment);
        for place in 0..DIMENSIONS {
            let weight = belief / (center.0[place] * center.0[place]);
            gram[place][place] += weight;
            moment[place] += weight * center.0[place];
        }
        let (step, sequence) = (center.0[STEP], center.0[SEQUENCE]);
        gram[STEP][STEP] += belief / (step * step);
        gram[SEQUENCE][SEQUENCE] += belief / (sequence * sequence);
        gram[STEP][SEQUENCE] -= belief / (step * sequence);
        gram[SEQUENCE][STEP] -= belief / (step * sequence);
        let mut factors = *center;
        for _ in 0..ROUNDS {
            for place in 0..DIMENSIONS {
                let others: f64 = (0..DIMENSIONS)
                    .filter(|&other| other != place)
                    .map(|other| gram[place][other] * factors.0[other])
                    .sum();
                let best = (moment[place] - others) / gram[place][place];
                factors.0[place] = best.max(FACTOR_MIN);
            }
        }
        factors
    }

    fn fade(&mut self, weight: f64) {
        self.gram
            .iter_mut()
            .flatten()
            .for_each(|cell| *cell *= weight);
        self.moment.iter_mut().for_each(|moment| *moment *= weight);
        self.busy_ms *= weight;
    }

    /// What is left of the evidence after the time without news before the last `news_ms`.
    fn idle_weight(&self, now: Instant, news_ms: f64) -> f64 {
        let since_ms = self.latest.map_or(0.0, |latest| now.ms_since(latest));
        let idle_ms = (since_ms - news_ms).max(0.0);
        0.5_f64.powf(idle_ms / HALF_LIFE_IDLE_MS)
    }
}

/// What is usual in a pool: the factors that explain all endpoints best, each at its own speed, so that the endpoint in the middle has
/// speed 1. `before` is what was thought so far.
#[must_use]
pub fn pooled<'a>(fits: impl Iterator<Item = &'a Fit> + Clone, before: &Factors) -> Factors {
    let speed = |fit: &Fit| fit.speed(before);
    let mut speeds: Vec<f64> = fits.clone().filter_map(speed).collect();
    if speeds.is_empty() {
        return *before;
    }
    speeds.sort_unstable_by(f64::total_cmp);
    let middle = f64::midpoint(speeds[(speeds.len() - 1) / 2], speeds[speeds.len() / 2]);
    let mut all = Fit::default();
    for fit in fits {
        if let Some(speed) = speed(fit) {
            all.add(fit, speed / middle);
        }
    }
    all.solve(before, POOL_SURPRISE)
}

/// The counters of an endpoint over the last seconds, and what happened there since.
#[derive(Clone, Debug, Default)]
pub struct Meter {
    /// Readings of a time in which it was never idle, the earliest first.
    marks: VecDeque<Mark>,
    /// The counters of the latest reading.
    latest: Vec<Counters>,
    /// Adapters that it has loaded.
    loads: u64,
    /// Whether the endpoint may have been idle since the latest mark.
    idled: bool,
}

#[derive(Clone, Debug)]
struct Mark {
    at: Instant,
    loads: u64,
    engines: Vec<Counters>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Counters {
    steps: u64,
    step_tokens: u64,
    generated: u64,
}

/// Marks are at least this far apart, so that there are few.
const MARKS_APART_MS: f64 = 950.0;
/// Two marks that lie further apart hide too much.
const MARKS_APART_MAX_MS: f64 = 10_000.0;
/// Intervals reach back to the earliest mark within this time: a reading shows whole steps only, and the step that it does not show counts less the longer the
/// interval. A single second made `c_p` come out a fifth too low where steps take a third of one.
const INTERVAL_MS: f64 = 4_000.0;

impl Meter {
    /// The endpoint has begun to load so many adapters.
    pub fn on_loads(&mut self, adapters: u32) {
        self.loads += u64::from(adapters);
    }

    /// Nothing is in flight there, as far as known: the engine may be idle.
    pub fn on_idle(&mut self) {
        self.idled = true;
    }

    /// Takes in a reading. Gives an interval for each engine to `learn` where the time since an earlier reading was
    /// busy throughout; `idle` says whether nothing is in flight there now.
    pub fn on_reading(
        &mut self,
        now: Instant,
        reading: &Reading,
        idle: bool,
        learn: impl FnMut(Interval),
    ) {
        let Some(engines) = counters(reading) else {
            *self = Self::default();
            return;
        };
        // A page that shows what the last one showed is of no known time: of an engine in a long step, one that hangs, or frozen.
        let moved = self.latest.len() == engines.len()
            && self
                .latest
                .iter()
                .zip(&engines)
                .all(|(old, new)| new.follows(old));
        let fell = self
            .latest
            .iter()
            .zip(&engines)
            .any(|(old, new)| new.steps < old.steps);
        self.latest.clone_from(&engines);
        if fell || self.idled {
            self.marks.clear();
        }
        if !moved {
            return;
        }
        if let Some(mark) = self.marks.back() {
            let news_ms = now.ms_since(mark.at);
            if news_ms < MARKS_APART_MS {
                return;
            }
            if news_ms <= MARKS_APART_MAX_MS {
                self.teach(now, news_ms, &engines, learn);
            } else {
                self.marks.clear();
            }
        }
        self.marks.push_back(Mark {
            at: now,
            loads: self.loads,
            engines,
        });
        self.idled = idle;
    }

    /// Gives what happened since the earliest mark that is not too old, of which the last `news_ms` are news.
    fn teach(
        &mut self,
        now: Instant,
        news_ms: f64,
        engines: &[Counters],
        mut learn: impl FnMut(Interval),
    ) {
        while self.marks.len() > 1 && now.ms_since(self.marks[0].at) > INTERVAL_MS {
            self.marks.pop_front();
        }
        let mark = &self.marks[0];
        let busy_ms = now.ms_since(mark.at);
        for (old, new) in mark.engines.iter().zip(engines) {
            let generated = new.generated.saturating_sub(old.generated) as f64;
            let tokens = new.step_tokens.saturating_sub(old.step_tokens) as f64;
            learn(Interval {
                busy_ms,
                share: news_ms / busy_ms,
                steps: new.steps.saturating_sub(old.steps) as f64,
                prompt_tokens: (tokens - generated).max(0.0),
                generated_tokens: generated,
                adapter_loads: (self.loads - mark.loads) as f64 / engines.len() as f64,
            });
        }
    }
}

impl Counters {
    /// Whether an engine that showed `old` may show this next, having worked.
    fn follows(&self, old: &Self) -> bool {
        self.steps > old.steps
            && self.step_tokens >= old.step_tokens
            && self.generated >= old.generated
    }
}

/// The counters of every engine of a page; `None` unless each shows them, and runs something.
fn counters(reading: &Reading) -> Option<Vec<Counters>> {
    let of = |engine: &EngineReading| {
        let runs = engine.running.is_some_and(|running| running > 0);
        let steps = engine.steps.filter(|_| runs)?;
        Some(Counters {
            steps,
            step_tokens: engine.step_tokens?,
            generated: engine.generation_tokens?,
        })
    };
    let engines: Option<Vec<_>> = reading.engines.iter().map(of).collect();
    engines.filter(|engines| !engines.is_empty())
}

//! What a minute of an engine's counters teaches of its speed, on engines far from the prior.

use picker_core::endpoint::{EngineReading, Reading};
use picker_core::rates::{Factors, Fit, Meter, Rates, pooled};
use picker_core::seed::Random;
use picker_core::time::Instant;

/// An engine that is never idle: each step takes what its rates say, and computes what chance gives it.
struct Engine {
    rates: Rates,
    prompts: Prompts,
    random: Random,
    now_ms: f64,
    /// Prompt tokens that wait.
    queue: usize,
    /// The step under way, which its page does not show, and those before it.
    done: Work,
    shown: Work,
}

/// How often a step brings a prompt, one in so many, and of how many tokens.
#[derive(Clone, Copy)]
struct Prompts {
    one_in: usize,
    tokens: (usize, usize),
}

const SHORT: Prompts = Prompts {
    one_in: 5,
    tokens: (100, 900),
};
const LONG: Prompts = Prompts {
    one_in: 33,
    tokens: (2_000, 8_000),
};

/// The most prompt tokens that a step computes.
const CHUNK: usize = 2_048;
/// The mean batch of the engine.
const BATCH: f64 = 52.0;

#[derive(Clone, Copy, Default)]
struct Work {
    steps: u64,
    prompts: u64,
    generated: u64,
}

impl Engine {
    fn new(rates: Rates, prompts: Prompts, seed: u64) -> Self {
        Self {
            rates,
            prompts,
            random: Random::new(seed),
            now_ms: 0.0,
            queue: 0,
            done: Work::default(),
            shown: Work::default(),
        }
    }

    /// Steps up to `ms`, with batches that swell and shrink between 4 and 100 sequences over ten seconds.
    fn run(&mut self, ms: f64) {
        while self.now_ms < ms {
            self.shown = self.done;
            let swell = (self.now_ms / 10_000.0 * std::f64::consts::TAU).sin();
            let batch = (BATCH + 48.0 * swell).round();
            if self.random.below(self.prompts.one_in) == 0 {
                let (least, most) = self.prompts.tokens;
                self.queue += least + self.random.below(most - least);
            }
            let prompt = self.queue.min(CHUNK);
            self.queue -= prompt;
            self.now_ms += self.rates.step(batch) + self.rates.prompt_token_ms * prompt as f64;
            self.done.steps += 1;
            self.done.prompts += prompt as u64;
            self.done.generated += batch as u64;
        }
    }

    fn reading(&self) -> Reading {
        Reading {
            engines: vec![EngineReading {
                running: Some(10),
                steps: Some(self.shown.steps),
                step_tokens: Some(self.shown.prompts + self.shown.generated),
                generation_tokens: Some(self.shown.generated),
                ..EngineReading::default()
            }],
            ..Reading::default()
        }
    }
}

fn at(ms: f64) -> Instant {
    Instant::from_nanos((ms * 1e6) as u64)
}

/// What is thought of an engine after it was read each second for a minute; `idle` says whether nothing of ours was there.
fn learnt(mut engine: Engine, idle: bool) -> Fit {
    let (mut meter, mut fit) = (Meter::default(), Fit::default());
    for second in 1..=60 {
        let now_ms = f64::from(second) * 1_000.0;
        engine.run(now_ms);
        meter.on_reading(at(now_ms), &engine.reading(), idle, |interval| {
            fit.observe(at(now_ms), &interval)
        });
    }
    fit
}

fn times(step: f64, prompt: f64, sequence: f64) -> Rates {
    Rates::of(&Factors([step, prompt, sequence, 1.0]))
}

/// What is usual in a pool of which `fits` were learnt.
fn usual(fits: &[Fit]) -> Factors {
    (0..10).fold(Factors::ONE, |before, _| pooled(fits.iter(), &before))
}

/// The time of a step at the mean batch, and the mean time of the prompts in one.
fn parts(rates: &Rates, prompts: Prompts) -> (f64, f64) {
    let (least, most) = prompts.tokens;
    let tokens = usize::midpoint(least, most) as f64 / prompts.one_in as f64;
    (rates.step(BATCH), rates.prompt_token_ms * tokens)
}

/// Each rate a quarter of the prior, the prior, or four times of it, and what makes up less than a fifth of an engine's time left out: a minute does not show it.
#[test]
fn a_minute_of_load_teaches_the_rates_of_engines_up_to_four_times_off_the_prior() {
    let range = [0.25, 1.0, 4.0];
    for step in range {
        for prompt in range {
            for sequence in range {
                for prompts in [SHORT, LONG] {
                    let truth = times(step, prompt, sequence);
                    let engine = |seed| learnt(Engine::new(truth, prompts, seed), false);
                    let fits: Vec<Fit> = (0..4).map(engine).collect();
                    let pool = usual(&fits);
                    let (step_ms, prompt_ms) = parts(&truth, prompts);
                    let busy_ms = step_ms + prompt_ms;
                    for fit in &fits {
                        let got = Rates::of(&fit.factors(at(60_000.0), &pool));
                        let got = parts(&got, prompts);
                        let misses = [
                            ("step", got.0 / step_ms - 1.0, step_ms),
                            ("prompt token", got.1 / prompt_ms - 1.0, prompt_ms),
                        ];
                        for (name, miss, ms) in misses {
                            assert!(
                                miss.abs() < 0.15 || ms < 0.2 * busy_ms,
                                "{name} is {miss:+.3} off, {:?} of {truth:?}",
                                prompts.tokens
                            );
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn of_fast_and_slow_cards_in_one_pool_each_is_known_by_its_speed() {
    let fits: Vec<Fit> = [1.0, 1.0, 3.0, 3.0, 3.0]
        .map(|slow| {
            let rates = times(0.5 * slow, 0.5 * slow, 0.5 * slow);
            learnt(Engine::new(rates, SHORT, 1), false)
        })
        .into();
    let pool = usual(&fits);
    let steps: Vec<f64> = fits
        .iter()
        .map(|fit| Rates::of(&fit.factors(at(60_000.0), &pool)).step(40.0))
        .collect();
    let ratio = steps[4] / steps[0];
    assert!((ratio / 3.0 - 1.0).abs() < 0.15, "{steps:?}");
}

#[test]
fn an_engine_that_may_have_been_idle_teaches_nothing() {
    let engine = Engine::new(times(4.0, 4.0, 4.0), SHORT, 1);
    assert_eq!(learnt(engine, true).samples(), 0.0);
}

#[test]
fn what_was_learnt_fades_toward_the_pool_when_there_is_no_news() {
    let fit = learnt(Engine::new(times(3.0, 3.0, 3.0), SHORT, 1), false);
    let step = |minutes: f64| {
        let factors = fit.factors(at(60_000.0 * (1.0 + minutes)), &Factors::ONE);
        factors.0[0]
    };
    assert!(step(0.0) > 2.5, "{}", step(0.0));
    assert!(
        step(60.0) < step(0.0) && step(600.0) < 1.5,
        "{} {}",
        step(60.0),
        step(600.0)
    );
}

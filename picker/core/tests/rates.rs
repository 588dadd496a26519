//! What a minute of an engine's counters teaches of its speed, on engines far from the prior.

use picker_core::endpoint::{EngineReading, Reading};
use picker_core::rates::{Factors, Fit, Meter, Rates, pooled};
use picker_core::seed::Random;
use picker_core::time::Instant;

/// An engine that is never idle: each step takes what its rates say, and computes what chance gives it.
struct Engine {
    rates: Rates,
    random: Random,
    now_ms: f64,
    steps: u64,
    prompts: u64,
    generated: u64,
}

impl Engine {
    fn new(rates: Rates, seed: u64) -> Self {
        Self {
            rates,
            random: Random::new(seed),
            now_ms: 0.0,
            steps: 0,
            prompts: 0,
            generated: 0,
        }
    }

    /// Steps up to `ms`, with batches that swell and shrink between 4 and 100 sequences over ten seconds, and a prompt in every fifth step.
    fn run(&mut self, ms: f64) {
        while self.now_ms < ms {
            let swell = (self.now_ms / 10_000.0 * std::f64::consts::TAU).sin();
            let batch = (52.0 + 48.0 * swell).round();
            let prompt = if self.random.below(5) == 0 {
                100 + self.random.below(800)
            } else {
                0
            };
            self.now_ms += self.rates.step(batch) + self.rates.prompt_token_ms * prompt as f64;
            self.steps += 1;
            self.prompts += prompt as u64;
            self.generated += batch as u64;
        }
    }

    fn reading(&self) -> Reading {
        Reading {
            engines: vec![EngineReading {
                running: Some(10),
                steps: Some(self.steps),
                step_tokens: Some(self.prompts + self.generated),
                generation_tokens: Some(self.generated),
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
fn learnt(rates: Rates, idle: bool) -> Fit {
    let (mut engine, mut meter, mut fit) =
        (Engine::new(rates, 1), Meter::default(), Fit::default());
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

#[test]
fn a_minute_of_load_teaches_the_rates_of_an_engine_up_to_four_times_off_the_prior() {
    for [step, prompt, sequence] in [
        [0.25, 0.25, 0.25],
        [0.25, 0.25, 1.0],
        [1.0, 1.0, 4.0],
        [2.0, 2.0, 4.0],
    ] {
        let truth = times(step, prompt, sequence);
        let fit = learnt(truth, false);
        let mut pool = Factors::ONE;
        for _ in 0..10 {
            pool = pooled(std::iter::once(&fit), &pool);
        }
        let got = Rates::of(&fit.factors(at(60_000.0), &pool));
        for (name, got, truth) in [
            ("step", got.step_ms, truth.step_ms),
            ("prompt token", got.prompt_token_ms, truth.prompt_token_ms),
            ("sequence", got.sequence_ms, truth.sequence_ms),
        ] {
            let ratio = got / truth;
            assert!(
                (ratio - 1.0).abs() < 0.15,
                "{name} of {truth}: {ratio:.3} of it"
            );
        }
    }
}

#[test]
fn of_fast_and_slow_cards_in_one_pool_each_is_known_by_its_speed() {
    let fits: Vec<Fit> = [1.0, 1.0, 3.0, 3.0, 3.0]
        .map(|slow| learnt(times(0.5 * slow, 0.5 * slow, 0.5 * slow), false))
        .into();
    let mut pool = Factors::ONE;
    for _ in 0..10 {
        pool = pooled(fits.iter(), &pool);
    }
    let steps: Vec<f64> = fits
        .iter()
        .map(|fit| Rates::of(&fit.factors(at(60_000.0), &pool)).step(40.0))
        .collect();
    let ratio = steps[4] / steps[0];
    assert!((ratio / 3.0 - 1.0).abs() < 0.15, "{steps:?}");
}

#[test]
fn an_engine_that_may_have_been_idle_teaches_nothing() {
    assert_eq!(learnt(times(4.0, 4.0, 4.0), true).samples(), 0.0);
}

#[test]
fn what_was_learnt_fades_toward_the_pool_when_there_is_no_news() {
    let fit = learnt(times(3.0, 3.0, 3.0), false);
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

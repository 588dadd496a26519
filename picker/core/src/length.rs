//! How long answers are: tokens that a request is expected to generate, learnt from those that ended.
//!
//! Engines count answers and tokens, so the mean of all answers is known even where none is seen. How a kind of request differs from that mean is told by
//! answers whose tokens were seen, or by how long others took: a duration tells of tokens only as well as the time of a step is known, but an error
//! in that is the same for all kinds and drops out of their proportions.

use crate::adapter::names::ModelId;

/// Tokens that a request is expected to generate where nothing limits it and nothing was learnt.
pub const OUTPUT_TOKENS_PRIOR: f64 = 256.0;
/// With so many answers a model's own lengths weigh as much as the pool's.
const SHRINK_ANSWERS: f64 = 10.0;
/// An answer loses half its weight once so many others have come.
const HALF_LIFE_ANSWERS: f64 = 200.0;
/// Groups of limits: one for each power of two, and one without a limit.
const LIMITS: usize = 33;

/// What kind of request an answer is to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Asked {
    /// Its model, where an endpoint lists that.
    pub model: Option<ModelId>,
    /// The limit on its tokens.
    pub max_tokens: Option<u32>,
}

/// What was learnt of the answers of one pool.
#[derive(Clone, Debug)]
pub struct Lengths {
    /// By model and group of requests, in that order: how long they are by the mean of all.
    models: Vec<((Option<ModelId>, usize), Mean)>,
    /// By group of requests, all models, likewise.
    groups: [Mean; LIMITS],
    /// All answers, as counted by engines: also those of which nothing else is seen.
    counted: Mean,
    /// Those whose tokens were seen.
    seen: Mean,
    /// Those whose tokens were guessed by how long they took.
    timed: Mean,
}

/// A mean with forgetting.
#[derive(Clone, Copy, Debug, Default)]
struct Mean {
    sum: f64,
    weight: f64,
}

impl Default for Lengths {
    fn default() -> Self {
        Self {
            models: Vec::new(),
            groups: [Mean::default(); LIMITS],
            counted: Mean::default(),
            seen: Mean::default(),
            timed: Mean::default(),
        }
    }
}

impl Lengths {
    /// Tokens that an answer is expected to have.
    #[must_use]
    pub fn expected(&self, asked: &Asked) -> f64 {
        let limit = asked.max_tokens.map_or(f64::INFINITY, f64::from);
        let all = [self.counted, self.seen]
            .into_iter()
            .find(|mean| mean.weight > 0.0)
            .unwrap_or(self.timed);
        let group = asked.group();
        let of_group = self.groups[group].toward(1.0);
        let own = self.place(asked.model, group).ok();
        let own = own.map(|place| self.models[place].1);
        let relative = own.map_or(of_group, |own| own.toward(of_group));
        (all.toward(OUTPUT_TOKENS_PRIOR) * relative).clamp(1.0, limit.max(1.0))
    }

    /// An answer had so many tokens: as `seen`, or else as its duration lets guess.
    pub fn on_answer(&mut self, asked: &Asked, tokens: f64, seen: bool) {
        let alike = if seen {
            &mut self.seen
        } else {
            &mut self.timed
        };
        alike.add(tokens, 1.0);
        let relative = tokens / alike.toward(tokens).max(1.0);
        let group = asked.group();
        self.groups[group].add(relative, 1.0);
        match self.place(asked.model, group) {
            Ok(place) => self.models[place].1.add(relative, 1.0),
            Err(place) => {
                let mut mean = Mean::default();
                mean.add(relative, 1.0);
                self.models.insert(place, ((asked.model, group), mean));
            }
        }
    }

    /// An engine counted so many answers, of so many tokens in all.
    pub fn on_counters(&mut self, answers: f64, tokens: f64) {
        if answers > 0.0 {
            self.counted.add(tokens / answers, answers);
        }
    }

    /// Forgets models that are not `live`.
    pub fn retain(&mut self, live: impl Fn(ModelId) -> bool) {
        self.models
            .retain(|((model, _), _)| model.is_none_or(&live));
    }

    fn place(&self, model: Option<ModelId>, group: usize) -> Result<usize, usize> {
        self.models
            .binary_search_by_key(&(model, group), |(key, _)| *key)
    }
}

impl Mean {
    fn add(&mut self, value: f64, weight: f64) {
        let kept = 0.5_f64.powf(weight / HALF_LIFE_ANSWERS);
        self.sum = self.sum * kept + value * weight;
        self.weight = self.weight * kept + weight;
    }

    /// The mean, or nearer to `prior` the less there is of it.
    fn toward(&self, prior: f64) -> f64 {
        (self.sum + SHRINK_ANSWERS * prior) / (self.weight + SHRINK_ANSWERS)
    }
}

impl Asked {
    /// The group of requests that it is of: by the power of two of its limit.
    fn group(&self) -> usize {
        self.max_tokens
            .map_or(LIMITS - 1, |limit| limit.max(1).ilog2() as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapter::names::Names;

    fn asked(model: Option<ModelId>, max_tokens: Option<u32>) -> Asked {
        Asked { model, max_tokens }
    }

    fn check(lengths: &Lengths, model: Option<ModelId>, max_tokens: Option<u32>, expected: f64) {
        let got = lengths.expected(&asked(model, max_tokens));
        assert!((got - expected).abs() < 1e-9, "{got} is not {expected}");
    }

    #[test]
    fn nothing_learnt_is_the_prior_and_never_over_the_limit() {
        let lengths = Lengths::default();
        check(&lengths, None, None, 256.0);
        check(&lengths, None, Some(100), 100.0);
        check(&lengths, None, Some(0), 1.0);
    }

    #[test]
    fn a_models_answers_count_by_their_limit_and_weigh_more_the_more_there_are() {
        let mut names = Names::default();
        let [long, short] = ["long", "short"].map(|name| Some(names.intern(&name.into())));
        let mut lengths = Lengths::default();
        for _ in 0..2_000 {
            lengths.on_answer(&asked(long, None), 900.0, true);
            lengths.on_answer(&asked(short, Some(64)), 30.0, true);
        }
        // 200 answers to half the weight: about 289 weigh in; 10 of the prior beside them.
        let near = |got: f64, expected: f64| assert!((got / expected - 1.0).abs() < 0.08, "{got}");
        near(lengths.expected(&asked(long, None)), 900.0);
        near(lengths.expected(&asked(short, Some(64))), 30.0);
        near(lengths.expected(&asked(None, None)), 860.0);
        check(&lengths, long, Some(128), 128.0);
    }

    #[test]
    fn what_engines_count_stands_in_for_answers_that_nobody_sees() {
        let mut lengths = Lengths::default();
        for _ in 0..100 {
            lengths.on_counters(10.0, 500.0);
        }
        let got = lengths.expected(&asked(None, None));
        assert!((50.0..60.0).contains(&got), "{got}");
        check(&lengths, None, Some(20), 20.0);
    }

    #[test]
    fn durations_tell_proportions_and_engines_the_mean() {
        // By their durations answers seem four times as long as they are: 400 and 1,200 for 100 and 300.
        let mut names = Names::default();
        let [brief, wordy] = ["brief", "wordy"].map(|name| Some(names.intern(&name.into())));
        let mut lengths = Lengths::default();
        for _ in 0..1_000 {
            lengths.on_answer(&asked(brief, None), 400.0, false);
            lengths.on_answer(&asked(wordy, None), 1_200.0, false);
            lengths.on_counters(2.0, 400.0);
        }
        let near = |got: f64, expected: f64| assert!((got / expected - 1.0).abs() < 0.08, "{got}");
        near(lengths.expected(&asked(brief, None)), 100.0);
        near(lengths.expected(&asked(wordy, None)), 300.0);
        near(lengths.expected(&asked(None, None)), 200.0);
    }

    #[test]
    fn without_counters_durations_are_all_there_is() {
        let mut lengths = Lengths::default();
        for _ in 0..1_000 {
            lengths.on_answer(&asked(None, None), 50.0, false);
        }
        let got = lengths.expected(&asked(None, None));
        assert!((50.0..60.0).contains(&got), "{got}");
    }
}

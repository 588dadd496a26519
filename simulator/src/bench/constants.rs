//! Engine constants off the picker's priors, drawn by seed: is what the picker assumes of an engine needed, or learnt?

use picker_core::rates::Rates;
use picker_core::seed::Random;

use crate::engine::Profile;

/// Whether engines are what their profile says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Constants {
    /// They are.
    #[default]
    Profile,
    /// Their times are drawn by seed, one for the whole pool: [`drawn`].
    Drawn,
}

/// Step, prompt token and sequence are the picker's prior times or by this, at most.
const STEP_FACTOR_MAX: f64 = 4.0;
/// An adapter load is the picker's prior times or by this, at most.
const ADAPTER_LOAD_FACTOR_MAX: f64 = 10.0;

/// `profile` with times drawn around [`Rates::PRIOR`], each by a factor of its own whose logarithm is uniform.
#[must_use]
pub fn drawn(profile: &Profile, seed: u64) -> Profile {
    let mut random = Random::split(seed, "engine constants");
    let mut factor = |most: f64| most.powf(2.0 * random.unit() - 1.0);
    let prior = Rates::PRIOR;
    Profile {
        name: "drawn",
        calibrated: None,
        base_ms: prior.step_ms * factor(STEP_FACTOR_MAX),
        per_prefill_token_ms: prior.prompt_token_ms * factor(STEP_FACTOR_MAX),
        per_seq_ms: prior.sequence_ms * factor(STEP_FACTOR_MAX),
        adapter_load_ms: prior.adapter_load_ms * factor(ADAPTER_LOAD_FACTOR_MAX),
        ..profile.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_fill_their_ranges_and_are_the_same_for_the_same_seed() {
        let usual = Profile::llama_8b_h100();
        let all: Vec<Profile> = (0..500).map(|seed| drawn(&usual, seed)).collect();
        let times = |one: &Profile| {
            [
                one.base_ms,
                one.per_prefill_token_ms,
                one.per_seq_ms,
                one.adapter_load_ms,
            ]
        };
        let ranges = [(3.75, 60.0), (0.0125, 0.2), (0.0125, 0.2), (30.0, 3_000.0)];
        for (place, (least, most)) in ranges.into_iter().enumerate() {
            let values = || all.iter().map(|one| times(one)[place]);
            assert!(values().all(|value| (least..=most).contains(&value)));
            let middle = (least * most).sqrt();
            let below = values().filter(|value| *value < middle).count();
            assert!((200..300).contains(&below), "{below} of 500 below {middle}");
            assert!(values().any(|value| value < least * 1.1));
            assert!(values().any(|value| value > most / 1.1));
        }
        assert!(all.iter().all(|one| one.validate().is_ok()));
        assert_eq!(drawn(&usual, 7), all[7]);
    }
}

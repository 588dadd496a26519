//! The times between arrivals of an open loop.

use std::str::FromStr;

use rand_distr::{Distribution as _, Exp1, Gamma};
use rand_xoshiro::Xoshiro256PlusPlus;
use serde::Serialize;

/// How arrivals follow each other; the mean gap is what the rate says.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Gaps {
    /// Exponential gaps: arrivals that know nothing of each other.
    Poisson,
    /// Equal gaps.
    Constant,
    /// Gamma-distributed gaps with this coefficient of variation: above 1 arrivals come in bursts. Shape 1/CV^2 and
    /// scale CV^2, as `vllm bench serve --burstiness` draws them, whose argument is the shape.
    Gamma(f64),
    /// As the trace has them, stretched to the rate.
    Trace,
}

impl Gaps {
    /// The next gap in mean gaps.
    pub(super) fn draw(self, random: &mut Xoshiro256PlusPlus) -> f64 {
        match self {
            Self::Poisson => Exp1.sample(random),
            Self::Constant | Self::Trace => 1.0,
            Self::Gamma(cv) => {
                let square = cv * cv;
                Gamma::new(1.0 / square, square)
                    .map_or(1.0, |gamma: Gamma<f64>| gamma.sample(random))
            }
        }
    }
}

/// `poisson`, `constant` or `gamma:CV`.
impl FromStr for Gaps {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let gamma = text.strip_prefix("gamma:");
        match (text, gamma.map(str::parse::<f64>)) {
            ("poisson", _) => Ok(Self::Poisson),
            ("constant", _) => Ok(Self::Constant),
            (_, Some(Ok(cv))) if (0.01..=100.0).contains(&cv) => Ok(Self::Gamma(cv)),
            _ => Err(format!(
                "{text} is no arrival process: give poisson, constant, or gamma:CV with a CV from 0.01 to 100, such as gamma:4"
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use rand_xoshiro::rand_core::SeedableRng as _;

    use super::*;

    /// Mean and coefficient of variation of many gaps.
    fn moments(gaps: Gaps) -> (f64, f64) {
        const COUNT: usize = 200_000;
        let mut random = Xoshiro256PlusPlus::seed_from_u64(1);
        let gaps: Vec<f64> = (0..COUNT).map(|_| gaps.draw(&mut random)).collect();
        let mean = gaps.iter().sum::<f64>() / COUNT as f64;
        let variance = gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / COUNT as f64;
        (mean, variance.sqrt() / mean)
    }

    #[test]
    fn every_process_has_mean_one_and_its_coefficient_of_variation() {
        for (text, expected) in [
            ("poisson", 1.0),
            ("constant", 0.0),
            ("gamma:4", 4.0),
            ("gamma:0.5", 0.5),
        ] {
            let (mean, cv) = moments(text.parse().expect("a process"));
            assert!((mean - 1.0).abs() < 0.03, "{text}: mean {mean}");
            assert!((cv - expected).abs() <= 0.05 * expected, "{text}: CV {cv}");
        }
    }

    #[test]
    fn another_word_is_refused_with_those_that_would_do() {
        for text in ["", "gamma", "gamma:0", "gamma:nan", "burst"] {
            let error = text.parse::<Gaps>().expect_err(text);
            assert!(error.contains("such as gamma:4"), "{error}");
        }
    }
}

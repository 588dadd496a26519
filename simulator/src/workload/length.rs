//! Lengths of prompts and answers, drawn from a distribution.

use std::str::FromStr;

use picker_core::seed::Random;
use rand_distr::{Distribution as _, StandardNormal};
use rand_xoshiro::Xoshiro256PlusPlus;
use serde::Serialize;

/// Whole numbers from `least` to `most`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Span {
    /// The smallest.
    pub least: u32,
    /// The largest.
    pub most: u32,
    /// How they spread between.
    pub law: Law,
}

/// How lengths spread.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Law {
    /// All as likely.
    Uniform,
    /// The logarithm is normal; what falls outside the span is moved to its end.
    Lognormal {
        /// Half are at most this.
        median: f64,
        /// The standard deviation of the logarithm.
        sigma: f64,
    },
}

/// The longest that a lognormal length gets where nothing else is said: the context of Llama 3.1.
const LOGNORMAL_MOST: u32 = 131_072;

impl Span {
    /// Always `value`.
    #[must_use]
    pub const fn exactly(value: u32) -> Self {
        Self::uniform(value, value)
    }

    /// From `least` to `most`, all as likely.
    #[must_use]
    pub const fn uniform(least: u32, most: u32) -> Self {
        Self {
            least,
            most,
            law: Law::Uniform,
        }
    }

    /// The mean: exact for uniform spans, of the law without its ends for lognormal ones.
    #[must_use]
    pub fn mean(&self) -> f64 {
        match self.law {
            Law::Uniform => f64::midpoint(f64::from(self.least), f64::from(self.most)),
            Law::Lognormal { median, sigma } => median * (sigma * sigma / 2.0).exp(),
        }
    }

    pub(super) fn draw(self, random: &mut Random, normals: &mut Xoshiro256PlusPlus) -> u32 {
        match self.law {
            Law::Uniform => {
                let width = self.most.saturating_sub(self.least) as usize + 1;
                self.least + random.below(width) as u32
            }
            Law::Lognormal { median, sigma } => {
                let normal: f64 = StandardNormal.sample(normals);
                let value = median * (sigma * normal).exp();
                (value.round() as u32).clamp(self.least, self.most)
            }
        }
    }
}

/// `512`, `100..300` (both ends included) or `lognormal:MEDIAN,SIGMA`.
impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "{text} is no length: give a number from 1 such as 512, a range such as 100..300, or lognormal:MEDIAN,SIGMA such as lognormal:400,0.8"
            )
        };
        let number = |text: &str| text.trim().parse().ok().filter(|&number: &u32| number > 0);
        let span = if let Some(law) = text.strip_prefix("lognormal:") {
            law.split_once(',').and_then(|(median, sigma)| {
                let median: f64 = median.trim().parse().ok()?;
                let sigma: f64 = sigma.trim().parse().ok()?;
                let fits = median >= 1.0 && (0.0..=10.0).contains(&sigma) && median.is_finite();
                fits.then_some(Self {
                    least: 1,
                    most: LOGNORMAL_MOST,
                    law: Law::Lognormal { median, sigma },
                })
            })
        } else if let Some((least, most)) = text.split_once("..") {
            number(least)
                .zip(number(most))
                .filter(|(least, most)| least <= most)
                .map(|(least, most)| Self::uniform(least, most))
        } else {
            number(text).map(Self::exactly)
        };
        span.ok_or_else(wrong)
    }
}

#[cfg(test)]
mod tests {
    use rand_xoshiro::rand_core::SeedableRng as _;

    use super::*;

    fn draws(span: &str, count: usize) -> Vec<u32> {
        let span: Span = span.parse().expect("a length");
        let (mut random, mut normals) = (Random::new(1), Xoshiro256PlusPlus::seed_from_u64(1));
        (0..count)
            .map(|_| span.draw(&mut random, &mut normals))
            .collect()
    }

    #[test]
    fn a_lognormal_has_its_median_and_its_mean() {
        let mut lengths = draws("lognormal:400,0.8", 20_000);
        let mean = lengths.iter().map(|&length| f64::from(length)).sum::<f64>() / 20_000.0;
        lengths.sort_unstable();
        let median = f64::from(lengths[10_000]);
        assert!((median / 400.0 - 1.0).abs() < 0.03, "{median}");
        let span: Span = "lognormal:400,0.8".parse().expect("a length");
        assert!((mean / span.mean() - 1.0).abs() < 0.03, "{mean}");
    }

    #[test]
    fn a_range_has_both_its_ends_and_a_number_is_itself() {
        let lengths = draws("3..5", 1_000);
        assert_eq!(
            (lengths.iter().min(), lengths.iter().max()),
            (Some(&3), Some(&5))
        );
        assert_eq!(draws("512", 3), [512; 3]);
    }

    #[test]
    fn what_is_no_length_is_named_with_what_would_be() {
        for text in [
            "",
            "0",
            "-1",
            "5..3",
            "0..3",
            "a..b",
            "lognormal:400",
            "lognormal:0,1",
            "lognormal:9,inf",
        ] {
            let error = text.parse::<Span>().expect_err(text);
            assert!(error.contains("such as 512"), "{error}");
        }
    }
}

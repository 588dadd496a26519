//! Confidence intervals of paired runs: Student's t on the logarithms of ratios, seed by seed.

/// The ratio of one policy's values to another's.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ratio {
    /// The geometric mean of the ratios.
    pub mean: f64,
    /// Half the width of the 95 % interval of the mean logarithm; infinite for a single pair.
    pub half_width: f64,
}

impl Ratio {
    /// The ratio of `values` to `others`, pair by pair. Pairs in which one is not above 0 have no ratio and are left out; `None`
    /// if no pair is left.
    #[must_use]
    pub fn paired(values: &[f64], others: &[f64]) -> Option<Self> {
        let pairs = values.iter().zip(others);
        let logs: Vec<f64> = pairs
            .filter(|(value, other)| **value > 0.0 && **other > 0.0)
            .map(|(value, other)| (value / other).ln())
            .collect();
        let count = logs.len() as f64;
        if logs.is_empty() {
            return None;
        }
        let mean = logs.iter().sum::<f64>() / count;
        let squares: f64 = logs.iter().map(|log| (log - mean).powi(2)).sum();
        let half_width = if logs.len() < 2 {
            f64::INFINITY
        } else {
            student_95(logs.len() - 1) * (squares / (count - 1.0) / count).sqrt()
        };
        Some(Self {
            mean: mean.exp(),
            half_width,
        })
    }

    /// The half-width as a fraction: 0.05 says that the ratio may be 5 % higher. `None` for a single pair.
    #[must_use]
    pub fn fraction(&self) -> Option<f64> {
        let fraction = self.half_width.exp_m1();
        fraction.is_finite().then_some(fraction)
    }

    /// The lower end of the 95 % interval. `None` for a single pair.
    #[must_use]
    pub fn lower(&self) -> Option<f64> {
        let known = self.half_width.is_finite();
        known.then(|| self.mean * (-self.half_width).exp())
    }

    /// The upper end of the 95 % interval. `None` for a single pair.
    #[must_use]
    pub fn upper(&self) -> Option<f64> {
        let known = self.half_width.is_finite();
        known.then(|| self.mean * self.half_width.exp())
    }
}

/// The 97.5 % quantile of Student's t with so many degrees of freedom: tabulated up to 10, by the Cornish-Fisher expansion
/// (Abramowitz and Stegun, 26.7.5) beyond, whose error is below 0.0002 there.
fn student_95(degrees: usize) -> f64 {
    const TABLE: [f64; 10] = [
        12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281,
    ];
    if let Some(&quantile) = degrees.checked_sub(1).and_then(|place| TABLE.get(place)) {
        return quantile;
    }
    let (z, n) = (1.959_964_f64, degrees as f64);
    let g1 = (z.powi(3) + z) / 4.0;
    let g2 = (5.0 * z.powi(5) + 16.0 * z.powi(3) + 3.0 * z) / 96.0;
    let g3 = (3.0 * z.powi(7) + 19.0 * z.powi(5) + 17.0 * z.powi(3) - 15.0 * z) / 384.0;
    z + g1 / n + g2 / n.powi(2) + g3 / n.powi(3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_those_of_the_tables() {
        for (degrees, expected) in [
            (1, 12.706),
            (4, 2.776),
            (10, 2.228),
            (11, 2.201),
            (30, 2.042),
            (1_000, 1.962),
        ] {
            let quantile = student_95(degrees);
            assert!((quantile - expected).abs() < 6e-4, "{degrees}: {quantile}");
        }
    }

    #[test]
    fn the_interval_of_three_pairs_is_that_of_their_logarithms() {
        // Ratios e^0.1, e^0.2, e^0.3: mean 0.2, deviation 0.1, so 4.3027 x 0.1 / sqrt 3.
        let values = [0.1_f64, 0.2, 0.3].map(f64::exp);
        let ratio = Ratio::paired(&values, &[1.0; 3]).expect("three pairs");
        assert!((ratio.mean.ln() - 0.2).abs() < 1e-12);
        assert!((ratio.half_width - 0.248_42).abs() < 1e-4, "{ratio:?}");
        let ends = [ratio.lower(), ratio.upper()].map(|end| end.expect("three pairs").ln());
        assert!((ends[0] + 0.048_42).abs() < 1e-4 && (ends[1] - 0.448_42).abs() < 1e-4);
    }

    #[test]
    fn one_pair_has_no_interval_and_none_no_ratio() {
        let one = Ratio::paired(&[2.0], &[1.0]).expect("a pair");
        assert_eq!((one.mean.round(), one.fraction()), (2.0, None));
        assert_eq!((one.lower(), one.upper()), (None, None));
        assert_eq!(Ratio::paired(&[0.0], &[1.0]), None);
    }
}

//! Overheads from measurements, by least squares of the relative error.

use super::measurement::{Row, UNCACHED_TOKENS};
use super::{Card, Model, Overheads, StepTime};

/// What the fit is given and does not change.
#[derive(Clone, Copy, Debug)]
pub(super) struct Assumptions {
    pub(super) bandwidth_efficiency: f64,
    pub(super) uncached_tokens: f64,
    /// Where `mfu` is looked for.
    pub(super) mfu: (f64, f64),
}

impl Assumptions {
    /// Those behind [`Overheads::VLLM_0_11`].
    pub(super) const COMMITTED: Self = Self {
        bandwidth_efficiency: 0.87,
        uncached_tokens: UNCACHED_TOKENS,
        mfu: (0.3, 1.0),
    };
}

/// The overheads of the least mean square of the relative error over `rows`, 8B on one H100, and the root of that mean.
///
/// For a given `mfu` the other two are a linear problem; `mfu` itself is found by golden section.
pub(super) fn fit(rows: &[&Row], assumptions: Assumptions) -> (Overheads, f64) {
    let golden = (5_f64.sqrt() - 1.0) / 2.0;
    let (mut low, mut high) = assumptions.mfu;
    for _ in 0..50 {
        let left = high - golden * (high - low);
        let right = low + golden * (high - low);
        if with_mfu(rows, assumptions, left).1 < with_mfu(rows, assumptions, right).1 {
            high = right;
        } else {
            low = left;
        }
    }
    with_mfu(rows, assumptions, (low + high) / 2.0)
}

/// The best `fixed_ms` and `sequence_ms` beside `mfu`: minimises the sum of ((fixed + sequence x n + roofline) / measured - 1)^2.
fn with_mfu(rows: &[&Row], assumptions: Assumptions, mfu: f64) -> (Overheads, f64) {
    let bare = Overheads {
        bandwidth_efficiency: assumptions.bandwidth_efficiency,
        mfu,
        fixed_ms: 0.0,
        sequence_ms: 0.0,
    };
    let roofline = step_time(bare);
    let points: Vec<[f64; 3]> = rows
        .iter()
        .map(|row| {
            let rest = 1.0 - row.model_ms(&roofline, assumptions.uncached_tokens) / row.step_ms;
            let sequences = row.decodes() + row.prefills();
            [1.0 / row.step_ms, sequences / row.step_ms, rest]
        })
        .collect();
    let sum = |a: usize, b: usize| points.iter().map(|point| point[a] * point[b]).sum::<f64>();
    let determinant = sum(0, 0) * sum(1, 1) - sum(0, 1) * sum(0, 1);
    let fixed_ms = (sum(0, 2) * sum(1, 1) - sum(1, 2) * sum(0, 1)) / determinant;
    let sequence_ms = (sum(0, 0) * sum(1, 2) - sum(0, 1) * sum(0, 2)) / determinant;
    let square =
        |point: &[f64; 3]| (fixed_ms * point[0] + sequence_ms * point[1] - point[2]).powi(2);
    let mean_square = points.iter().map(square).sum::<f64>() / points.len() as f64;
    let overheads = Overheads {
        fixed_ms,
        sequence_ms,
        ..bare
    };
    (overheads, mean_square.sqrt())
}

/// 8B on one H100 with these overheads.
pub(super) fn step_time(overheads: Overheads) -> StepTime {
    StepTime::new(Card::H100_SXM, 1, Model::LLAMA_3_1_8B, overheads)
}

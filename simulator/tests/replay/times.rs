//! The times of a recording: a profile fitted to it, or the factor that brings another's to it.

use crate::recording::{Recording, Shown};

/// Milliseconds of a step, of a prompt token and of a decoding sequence for which the steps of `recording` take as long as they took: least squares
/// over the intervals between the steps that were seen.
///
/// Requests come all at once, so what is in which step does not depend on times, and each time is a sum of those three.
pub(crate) fn fit(recording: &Recording) -> [f64; 3] {
    // Counts of steps, prompt tokens and decoded tokens, in thousands, are the seconds of profiles with a millisecond for each.
    let counts = |terms: [f64; 3]| matched(recording, &run(recording, terms, 0));
    let all = counts([1.0, 1e-3, 0.0]);
    let decodes = counts([1.0, 0.0, 1e-3]);
    let steps = counts([1.0, 0.0, 0.0]);
    let mut normal = [[0.0; 4]; 3];
    for place in 1..all.len() {
        let between = |times: &[(f64, f64)]| times[place].1 - times[place - 1].1;
        let n = between(&steps);
        let row = [
            n,
            (between(&all) - n) * 1e3,
            (between(&decodes) - n) * 1e3,
            steps[place].0 - steps[place - 1].0,
        ];
        for (left, sums) in row.iter().zip(&mut normal) {
            for (right, sum) in row.iter().zip(sums) {
                *sum += left * right;
            }
        }
    }
    solve(normal)
}

/// The factor that, on all of `terms`, brings the intervals between steps closest to the recorded ones.
pub(crate) fn factor(recording: &Recording, terms: [f64; 3], shared_tokens: u32) -> f64 {
    let times = matched(recording, &run(recording, terms, shared_tokens));
    let (first, last) = (times[0], times[times.len() - 1]);
    (last.0 - first.0) / (last.1 - first.1)
}

/// Recorded and modelled seconds of every step that was seen.
pub(crate) fn matched(recording: &Recording, shown: &[Shown]) -> Vec<(f64, f64)> {
    let mut rest = shown.iter();
    let same = |recorded: &Shown| {
        let untimed = recorded.untimed();
        let found = rest.find(|shown| shown.untimed() == untimed);
        (recorded.seconds(), found.expect("tested before").seconds())
    };
    recording.timeline.iter().map(same).collect()
}

pub(crate) fn run(recording: &Recording, terms: [f64; 3], shared_tokens: u32) -> Vec<Shown> {
    recording.replay(recording.profile(terms), shared_tokens).0
}

/// Gauss on three equations.
fn solve(mut rows: [[f64; 4]; 3]) -> [f64; 3] {
    for pivot in 0..3 {
        let row = rows[pivot].map(|value| value / rows[pivot][pivot]);
        for (place, other) in rows.iter_mut().enumerate() {
            let share = other[pivot];
            if place != pivot {
                for (value, of_pivot) in other.iter_mut().zip(row) {
                    *value -= share * of_pivot;
                }
            }
        }
        rows[pivot] = row;
    }
    rows.map(|row| row[3])
}

//! What the oracle knows: the true state of every engine, what befalls it, and what is on its way there.

use picker_core::time::Instant;

use super::{Job, Plan};
use crate::engine::Profile;
use crate::policy::oracle::{Sequence, Twin};

/// Every engine's twin.
pub(super) struct Truth(Vec<Known>);

#[derive(Clone, Default)]
struct Known {
    twin: Twin,
    /// The end of the step under way, or of the hang of an engine without one.
    step_end: Option<Instant>,
    /// Placed there and not yet arrived.
    coming: Vec<Sequence>,
    /// Its process is gone.
    down: bool,
}

impl Truth {
    pub(super) fn new(plan: &Plan) -> Self {
        Self(vec![Known::default(); plan.profiles.len()])
    }

    /// The server at which `job`, number `index`, would end first.
    pub(super) fn place(
        &mut self,
        now: Instant,
        index: usize,
        job: &Job,
        profiles: &[Profile],
    ) -> Option<usize> {
        let sequence = Sequence::new(index, job.adapter, job.prompt_tokens, job.output_tokens);
        let mut best = None;
        let mut best_ms = f64::INFINITY;
        for (server, known) in self.0.iter().enumerate().filter(|(_, known)| !known.down) {
            let mut twin = known.twin.clone();
            known.coming.iter().for_each(|&one| twin.push(one));
            let left_ms = known.step_end.map(|end| end.ms_since(now));
            let ms = twin.completion_ms(&profiles[server], left_ms, sequence, best_ms);
            if ms < best_ms {
                (best, best_ms) = (Some(server), ms);
            }
        }
        self.0[best?].coming.push(sequence);
        best
    }

    /// A job has arrived at its server, which has accepted it or not.
    pub(super) fn submitted(&mut self, server: usize, index: usize, accepted: bool) {
        let known = &mut self.0[server];
        if let Some(place) = known.coming.iter().position(|one| one.job == index) {
            let sequence = known.coming.remove(place);
            if accepted {
                known.twin.push(sequence);
            }
        }
    }

    /// A step of a server has begun, which ends at `end`.
    pub(super) fn step_began(&mut self, server: usize, end: Instant, profile: &Profile) {
        let known = &mut self.0[server];
        known.step_end = Some(end);
        known.twin.begin_step(profile);
    }

    /// The time is `now`: a step of a server that was to end by then has ended.
    pub(super) fn step_ended(&mut self, server: usize, now: Instant) {
        let known = &mut self.0[server];
        if known.step_end.is_some_and(|end| end <= now) {
            known.step_end = None;
            known.twin.end_step();
        }
    }

    /// A server's engine stands still from `now` to `until`.
    pub(super) fn hung(&mut self, server: usize, now: Instant, until: Instant) {
        let end = self.0[server].step_end.unwrap_or(now);
        self.0[server].step_end = Some(end + until.saturating_since(now));
    }

    /// A server's process is gone, with all that it had.
    pub(super) fn crashed(&mut self, server: usize) {
        let coming = std::mem::take(&mut self.0[server].coming);
        self.0[server] = Known {
            coming,
            down: true,
            ..Known::default()
        };
    }

    /// A new process is in its place.
    pub(super) fn restarted(&mut self, server: usize) {
        self.0[server].down = false;
    }
}

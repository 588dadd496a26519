//! What the oracle knows: the true state of every engine, and what is on its way there.

use picker_core::time::Instant;

use super::{Job, Plan};
use crate::engine::Profile;
use crate::policy::oracle::{Sequence, Twin};

/// Every engine's twin.
pub(super) struct Truth(Vec<Known>);

#[derive(Clone, Default)]
struct Known {
    twin: Twin,
    /// The end of the step under way.
    step_end: Option<Instant>,
    /// Placed there and not yet arrived.
    coming: Vec<Sequence>,
}

impl Truth {
    pub(super) fn new(plan: &Plan) -> Self {
        Self(vec![Known::default(); plan.servers])
    }

    /// The server at which `job`, number `index`, would end first.
    pub(super) fn place(
        &mut self,
        now: Instant,
        index: usize,
        job: &Job,
        profile: &Profile,
    ) -> Option<usize> {
        let sequence = Sequence::new(index, job.adapter, job.prompt_tokens, job.output_tokens);
        let ends = self.0.iter().map(|known| {
            let mut twin = known.twin.clone();
            known.coming.iter().for_each(|&one| twin.push(one));
            let left_ms = known.step_end.map(|end| end.ms_since(now));
            twin.completion_ms(profile, left_ms, sequence)
        });
        let (server, _) = ends
            .enumerate()
            .min_by(|one, other| one.1.total_cmp(&other.1))?;
        self.0[server].coming.push(sequence);
        Some(server)
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
}

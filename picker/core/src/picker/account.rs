//! The account of a choice: the receipt, as it stands when the request is placed.

use super::Picker;
use crate::cost::Work;
use crate::event::Arrival;
use crate::receipt::{CANDIDATES_MAX, Candidate, EXCLUSIONS_MAX, Excluded, Receipt};
use crate::schedule::{Choice, Exclusion, Priced};
use crate::time::Instant;

impl Picker {
    pub(super) fn receipt(
        &self,
        now: Instant,
        arrival: &Arrival,
        work: &Work,
        choice: &Choice,
    ) -> Receipt {
        let candidate = |one: &Priced| Candidate {
            endpoint: self.members[one.index].key,
            name: self.members[one.index].endpoint.name.clone(),
            address: self.members[one.index].endpoint.address,
            cost_ms: one.cost_ms,
            cost: one.cost,
            own: one.own,
            foreign: one.foreign,
            adapter: one.need(),
            rates: *self.members[one.index].rates(),
        };
        let excluded = |&(index, reason): &(usize, Exclusion)| Excluded {
            name: self.members[index].endpoint.name.clone(),
            address: self.members[index].endpoint.address,
            reason,
        };
        let taken = choice.priced.first();
        let runner_up = choice.priced.get(1);
        let ttft_ms =
            taken.map(|taken| taken.cost.ttft_ms() + self.members[taken.index].rates().step_ms);
        let candidates = choice.priced.iter().take(CANDIDATES_MAX);
        let exclusions = choice.excluded.iter().take(EXCLUSIONS_MAX);
        Receipt {
            key: arrival.key,
            request_id: arrival.request_id.clone(),
            at_ns: now.as_nanos(),
            request: arrival.request.clone(),
            standing: arrival.standing.clone(),
            rewrite: arrival.rewrite.clone(),
            prompt_tokens: work.prompt_tokens as u64,
            output_tokens: (work.sequences * work.output_tokens) as u64,
            endpoints: self.members.len(),
            generation: self.generation,
            candidates: candidates.map(candidate).collect(),
            candidate_count: choice.priced.len(),
            ties: choice.ties,
            margin_ms: taken
                .zip(runner_up)
                .map(|(taken, other)| other.cost_ms - taken.cost_ms),
            exclusions: exclusions.map(excluded).collect(),
            exclusion_count: choice.excluded.len(),
            probe: choice.probe,
            unserved: choice.unserved,
            expected_ttft_ms: ttft_ms,
            expected_duration_ms: taken
                .zip(ttft_ms)
                .map(|(taken, ttft_ms)| ttft_ms + taken.cost.decode_ms),
            overloaded: false,
            following: taken.map(|_| arrival.following),
            outcome: None,
        }
    }
}

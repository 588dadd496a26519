//! What prompts share, as engines and gateways see it: runs of tokens with names.

use std::collections::{HashSet, VecDeque};

use super::{Job, Plan};
use crate::engine::{Content, Segment};
use crate::workload::trace::TOKENS_PER_BLOCK;
use crate::workload::{self, Trace};

/// Names of what only one job has, of prefix groups and of blocks of a trace never meet.
const OWN: u64 = 1 << 62;
const GROUP: u64 = 2 << 62;
const BLOCK: u64 = 3 << 62;

/// The prompt of `job`, number `index`, in runs that others may share; `None` if it shares nothing.
pub(super) fn segments(plan: &Plan, index: usize, job: &Job) -> Option<Vec<Segment>> {
    let mut segments = Vec::new();
    let mut left = job.prompt_tokens;
    let mut add = |content: u64, tokens: u32| {
        let tokens = tokens.min(left);
        left -= tokens;
        if tokens > 0 {
            segments.push(Segment { content, tokens });
        }
    };
    match job.content {
        workload::Content::Own => return None,
        workload::Content::Prefix { group, tokens } => add(GROUP | u64::from(group), tokens),
        workload::Content::Row(row) => {
            let rows = plan.trace.as_ref().map_or(&[][..], Trace::rows);
            for block in rows.get(row as usize).map_or(&[][..], |row| &row.blocks) {
                add(BLOCK | block, TOKENS_PER_BLOCK);
            }
        }
    }
    add(OWN | index as u64, u32::MAX);
    Some(segments)
}

/// The same for an engine.
pub(super) fn content(plan: &Plan, index: usize, job: &Job) -> Option<Content> {
    segments(plan, index, job).map(|segments| Content {
        prompt: segments.into(),
        answer: index as u64,
        salt: None,
    })
}

/// What a gateway believes cached on one server: the runs that it has sent there, less those that as many tokens as the cache
/// holds have pushed out since, the oldest first.
#[derive(Clone, Debug, Default)]
pub(super) struct Believed {
    runs: HashSet<u64>,
    order: VecDeque<Segment>,
    tokens: u64,
}

impl Believed {
    /// Tokens at the beginning of `prompt` that are believed cached.
    pub(super) fn cached(&self, prompt: &[Segment]) -> u64 {
        let held = prompt
            .iter()
            .take_while(|run| self.runs.contains(&run.content));
        held.map(|run| u64::from(run.tokens)).sum()
    }

    /// `prompt` is sent there; the cache holds so many tokens.
    pub(super) fn sent(&mut self, prompt: &[Segment], capacity_tokens: u64) {
        for run in prompt {
            if self.runs.insert(run.content) {
                self.order.push_back(*run);
                self.tokens += u64::from(run.tokens);
            }
        }
        while self.tokens > capacity_tokens
            && let Some(oldest) = self.order.pop_front()
        {
            self.runs.remove(&oldest.content);
            self.tokens -= u64::from(oldest.tokens);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runs(names: &[u64]) -> Vec<Segment> {
        let run = |&content| Segment {
            content,
            tokens: 100,
        };
        names.iter().map(run).collect()
    }

    #[test]
    fn what_was_sent_is_believed_cached_up_to_the_first_other_run() {
        let mut believed = Believed::default();
        believed.sent(&runs(&[1, 2, 3]), 1_000);
        assert_eq!(believed.cached(&runs(&[1, 2, 9, 3])), 200);
        assert_eq!(believed.cached(&runs(&[2, 1])), 200);
        assert_eq!(believed.cached(&runs(&[9])), 0);
    }

    #[test]
    fn the_oldest_runs_are_pushed_out_when_the_cache_is_full() {
        let mut believed = Believed::default();
        believed.sent(&runs(&[1, 2, 3]), 300);
        believed.sent(&runs(&[4]), 300);
        assert_eq!(believed.cached(&runs(&[1])), 0);
        assert_eq!(believed.cached(&runs(&[2, 3, 4])), 300);
    }
}

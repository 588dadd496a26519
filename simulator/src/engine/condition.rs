//! What may befall a server: it crashes, hangs, or becomes slow, as recorded of vLLM 0.32.0.

use picker_core::time::Instant;

use super::{Engine, RequestId};

/// The state of the engine's process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Condition {
    Healthy,
    /// Stopped at this time (as by SIGSTOP): takes requests in, shows what it showed last, and gives nothing.
    Hung(Instant),
    Crashed,
}

impl Engine {
    /// Stops the engine in the middle of its step. Its metrics stand still; requests that come hang with the others.
    ///
    /// Call [`Engine::advance`] with the same `now` before. A crashed engine stays crashed.
    pub const fn hang(&mut self, now: Instant) {
        if matches!(self.condition, Condition::Healthy) {
            self.condition = Condition::Hung(now);
        }
    }

    /// Lets a hung engine go on where it stopped.
    pub fn resume(&mut self, now: Instant) {
        if let Condition::Hung(since) = self.condition {
            self.condition = Condition::Healthy;
            match &mut self.step_end {
                Some(end) => *end += now.saturating_since(since),
                None => self.begin_step(now),
            }
        }
    }

    /// Loses everything. Returns the requests that are lost; later ones are refused until [`Engine::restart`].
    pub fn crash(&mut self) -> Vec<RequestId> {
        self.condition = Condition::Crashed;
        self.step_end = None;
        let lost = self.running.drain(..);
        let lost = lost.chain(self.deferred.drain(..));
        let lost = lost.chain(self.waiting.drain(..));
        let lost = lost.chain(self.inbox.drain(..));
        lost.map(|live| live.request.id).collect()
    }

    /// A new process in the place of this one: idle, with counters at zero and nothing cached or resident. KV events are kept if they
    /// were, and their sequence begins anew.
    pub fn restart(&mut self) {
        let keeps_events = self.cache.keeps_events();
        *self = Self::new(self.profile.clone());
        if keeps_events {
            self.keep_kv_events();
        }
    }

    /// Makes every later step take `factor` times as long; 1 is as before. `factor` is above 0.
    pub const fn slow_down(&mut self, factor: f64) {
        self.slowdown = factor;
    }

    /// Whether the engine has crashed. A hung one does not know.
    #[must_use]
    pub const fn has_crashed(&self) -> bool {
        matches!(self.condition, Condition::Crashed)
    }
}

//! One simulated server: its engine, its process, and what its metrics page shows.

use picker_core::endpoint::Reading;
use picker_core::member::ReadFailure;
use picker_core::time::Instant;

use super::snapshot::{self, STARTED_UNIX_SECONDS};
use crate::engine::{Engine, Profile, RequestId};

/// A server of a run.
pub(super) struct Server {
    pub(super) engine: Engine,
    /// The step end that is on the agenda.
    pub(super) awaited: Option<Instant>,
    /// Whether the engine stands still.
    pub(super) hung: bool,
    /// What the page shows while it stands still and the engine does not.
    frozen: Option<Reading>,
    /// When the process began, in seconds since 1970.
    started_unix_seconds: f64,
    /// Adapter loads of the processes before this one.
    loads_before: u64,
}

impl Server {
    pub(super) fn new(profile: Profile) -> Self {
        Self {
            engine: Engine::new(profile),
            awaited: None,
            hung: false,
            frozen: None,
            started_unix_seconds: STARTED_UNIX_SECONDS,
            loads_before: 0,
        }
    }

    /// What a reader of the metrics page gets.
    pub(super) fn page(&self, adapter_names: &[String]) -> Result<Reading, ReadFailure> {
        if self.engine.has_crashed() {
            return Err(ReadFailure::Refused);
        }
        let now = || self.reading(adapter_names);
        Ok(self.frozen.clone().unwrap_or_else(now))
    }

    /// What the page would show if it showed the present.
    pub(super) fn reading(&self, adapter_names: &[String]) -> Reading {
        Reading {
            process_start_s: Some(self.started_unix_seconds),
            ..snapshot::reading(&self.engine, adapter_names)
        }
    }

    pub(super) fn freeze_page(&mut self, adapter_names: &[String]) {
        self.frozen = Some(self.reading(adapter_names));
    }

    pub(super) fn thaw_page(&mut self) {
        self.frozen = None;
    }

    /// Loses everything; returns what is lost.
    pub(super) fn crash(&mut self) -> Vec<RequestId> {
        self.awaited = None;
        self.engine.crash()
    }

    pub(super) fn restart(&mut self, now: Instant) {
        self.loads_before += self.engine.statistics().adapter_loads;
        self.engine.restart();
        self.started_unix_seconds =
            STARTED_UNIX_SECONDS + now.saturating_since(Instant::ZERO).as_secs_f64();
    }

    /// Adapters brought into a slot since the run began.
    pub(super) fn adapter_loads(&self) -> u64 {
        self.loads_before + self.engine.statistics().adapter_loads
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Request;

    #[test]
    fn a_frozen_page_shows_the_past_and_a_new_process_shows_zeros_and_its_start() {
        let mut server = Server::new(Profile::demo());
        let tokens = |server: &Server| {
            let page = server.page(&[]).expect("it answers");
            (page.engines[0].generation_tokens, page.process_start_s)
        };
        let began = Some(STARTED_UNIX_SECONDS);
        assert_eq!(tokens(&server), (Some(0), began));
        server.freeze_page(&[]);
        let request = Request::new(RequestId(1), None, 100, 3);
        server
            .engine
            .submit(Instant::ZERO, request)
            .expect("it fits");
        let late = Instant::from_millis(10_000);
        server.engine.advance(late, &mut Vec::new());
        assert_eq!(tokens(&server), (Some(0), began));
        server.thaw_page();
        assert_eq!(tokens(&server), (Some(3), began));
        server.crash();
        assert_eq!(server.page(&[]), Err(ReadFailure::Refused));
        server.restart(late);
        let again = Some(STARTED_UNIX_SECONDS + 10.0);
        assert_eq!(tokens(&server), (Some(0), again));
    }
}

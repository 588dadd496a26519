//! What befalls servers during a run, at fixed times.

use picker_core::time::Instant;

/// Something that befalls one server for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// What.
    pub kind: FaultKind,
    /// The server, by its place.
    pub server: usize,
    /// When it begins.
    pub from: Instant,
    /// When it is over.
    pub to: Instant,
}

/// What befalls a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// Its engine stands still, takes requests in and goes on where it stopped. The process that answers for it lives, so its metrics page
    /// answers with what it showed last.
    Hang,
    /// Its process dies with all of its requests, refuses connections, and comes back as another one: counters at zero, nothing
    /// resident.
    Crash,
    /// It serves as before, and its metrics page shows what it showed last.
    Freeze,
}

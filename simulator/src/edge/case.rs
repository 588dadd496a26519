//! What is measured, at which rate, and how much it may cost.

use std::time::Duration;

use crate::load::ext_proc::{ExtProc, Follow};

/// One load, sent to both servers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Case {
    pub(super) name: &'static str,
    pub(super) prompt_bytes: u32,
    pub(super) chunks: u32,
    /// From chunk to chunk; zero sends them at once.
    pub(super) chunk_interval: Duration,
    pub(super) follow: Follow,
    /// The most bytes of a prompt in one message.
    pub(super) frame_bytes: usize,
    pub(super) connections: usize,
    /// Requests a second: what the generator and either server hold together on two processors.
    pub(super) rate: f64,
    pub(super) duration: Duration,
    pub(super) aim: Aim,
}

/// The most that the picker's processor time for a request may be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Aim {
    /// Over that of the server that echoes.
    Ratio(f64),
    /// In milliseconds.
    CpuMs(f64),
    /// Measured for what it explains.
    None,
}

/// The most of a processor that the picker may use with nothing to do.
pub(super) const IDLE_CORES: f64 = 0.05;

const PACE: Duration = Duration::from_millis(20);
const AT_ONCE: Duration = Duration::ZERO;
/// The largest frame of HTTP/2: a client that speaks it reaches Envoy, and so the picker, in pieces of this size.
const HTTP2_FRAME: usize = 16_384;

const SMALL: Case = Case {
    name: "",
    prompt_bytes: 2_000,
    chunks: 100,
    chunk_interval: AT_ONCE,
    follow: Follow::Full,
    frame_bytes: ExtProc::FRAME_BYTES,
    connections: 1,
    rate: 200.0,
    duration: Duration::from_secs(6),
    aim: Aim::Ratio(1.5),
};

const LARGE: Case = Case {
    prompt_bytes: 430_000,
    ..SMALL
};

/// The cases, in the order of the table.
pub(super) fn cases() -> Vec<Case> {
    let mut cases = with_chunks().to_vec();
    cases.extend(without_chunks());
    cases
}

/// Whose chunks pass through the picker.
fn with_chunks() -> [Case; 4] {
    [
        Case {
            name: "2 KB, 100 chunks at once",
            rate: 800.0,
            ..SMALL
        },
        Case {
            name: "2 KB, 100 chunks, 20 ms",
            chunk_interval: PACE,
            ..SMALL
        },
        Case {
            name: "430 KB, 1,000 chunks at once",
            chunks: 1_000,
            rate: 60.0,
            ..LARGE
        },
        Case {
            name: "430 KB, 1,000 chunks, 20 ms",
            chunks: 1_000,
            chunk_interval: PACE,
            rate: 12.0,
            duration: Duration::from_secs(10),
            ..LARGE
        },
    ]
}

/// Of whose responses the picker sees no body.
fn without_chunks() -> [Case; 5] {
    [
        Case {
            name: "430 KB, no chunks",
            chunks: 0,
            aim: Aim::Ratio(2.0),
            ..LARGE
        },
        Case {
            name: "430 KB in 16 KB frames, no chunks",
            chunks: 0,
            frame_bytes: HTTP2_FRAME,
            aim: Aim::None,
            ..LARGE
        },
        Case {
            name: "watched, 430 KB, 100 chunks, 20 ms",
            chunk_interval: PACE,
            follow: Follow::Watched,
            rate: 100.0,
            aim: Aim::CpuMs(2.0),
            ..LARGE
        },
        Case {
            name: "watched, 2 KB, 100 chunks, 20 ms",
            chunk_interval: PACE,
            follow: Follow::Watched,
            aim: Aim::None,
            ..SMALL
        },
        Case {
            name: "released, 2 KB",
            follow: Follow::Released,
            rate: 600.0,
            aim: Aim::None,
            ..SMALL
        },
    ]
}

/// 3,000 streams at once, of 60 chunks, one a second, on as many connections as Envoy would open; and the most memory, in MiB.
pub(super) const CROWD: (Case, u64, f64) = (
    Case {
        name: "crowd",
        chunks: 60,
        chunk_interval: Duration::from_secs(1),
        connections: 3,
        rate: 300.0,
        duration: Duration::from_secs(10),
        aim: Aim::None,
        ..SMALL
    },
    3_000,
    256.0,
);

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
const SMALL: u32 = 2_000;
const LARGE: u32 = 430_000;
/// The largest frame of HTTP/2: a client that speaks it reaches Envoy, and so the picker, in pieces of this size.
const HTTP2_FRAME: usize = 16_384;

const BASE: Case = Case {
    name: "",
    prompt_bytes: SMALL,
    chunks: 100,
    chunk_interval: AT_ONCE,
    follow: Follow::Full,
    frame_bytes: ExtProc::FRAME_BYTES,
    connections: 1,
    rate: 50.0,
    duration: Duration::from_secs(6),
    aim: Aim::Ratio(1.5),
};

/// The cases, in the order of the table.
pub(super) fn cases() -> [Case; 9] {
    [
        Case {
            name: "2 KB, 100 chunks at once",
            rate: 800.0,
            ..BASE
        },
        Case {
            name: "2 KB, 100 chunks, 20 ms",
            chunk_interval: PACE,
            rate: 200.0,
            ..BASE
        },
        Case {
            name: "430 KB, 1,000 chunks at once",
            prompt_bytes: LARGE,
            chunks: 1_000,
            rate: 60.0,
            ..BASE
        },
        Case {
            name: "430 KB, 1,000 chunks, 20 ms",
            prompt_bytes: LARGE,
            chunks: 1_000,
            chunk_interval: PACE,
            rate: 12.0,
            duration: Duration::from_secs(10),
            ..BASE
        },
        Case {
            name: "430 KB, no chunks",
            prompt_bytes: LARGE,
            chunks: 0,
            rate: 200.0,
            aim: Aim::Ratio(2.0),
            ..BASE
        },
        Case {
            name: "430 KB in 16 KB frames, no chunks",
            prompt_bytes: LARGE,
            chunks: 0,
            rate: 200.0,
            frame_bytes: HTTP2_FRAME,
            aim: Aim::None,
            ..BASE
        },
        Case {
            name: "watched, 430 KB, 100 chunks, 20 ms",
            rate: 100.0,
            prompt_bytes: LARGE,
            chunk_interval: PACE,
            follow: Follow::Watched,
            aim: Aim::CpuMs(2.0),
            ..BASE
        },
        Case {
            name: "watched, 2 KB, 100 chunks, 20 ms",
            rate: 200.0,
            chunk_interval: PACE,
            follow: Follow::Watched,
            aim: Aim::None,
            ..BASE
        },
        Case {
            name: "released, 2 KB",
            rate: 600.0,
            follow: Follow::Released,
            aim: Aim::None,
            ..BASE
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
        ..BASE
    },
    3_000,
    256.0,
);

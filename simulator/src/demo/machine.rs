//! How busy the machine is: a demo whose limit is the machine shows nothing of the routing.

use std::fs;

/// Processor time so far, of the whole machine.
#[derive(Clone, Copy, Debug)]
pub(super) struct BusyTime {
    busy: u64,
    all: u64,
}

impl BusyTime {
    /// As of now; zero where the system does not say.
    pub(super) fn now() -> Self {
        fs::read_to_string("/proc/stat")
            .ok()
            .and_then(|text| parse(&text))
            .unwrap_or(Self { busy: 0, all: 0 })
    }

    /// The share of processor time that was used since then, 0 to 1; `None` where the system does not say.
    pub(super) fn share_since(self) -> Option<f64> {
        let now = Self::now();
        let all = now.all.checked_sub(self.all).filter(|&all| all > 0)?;
        Some(now.busy.saturating_sub(self.busy) as f64 / all as f64)
    }
}

/// The first line of `/proc/stat`: user, nice, system, idle, iowait, irq, softirq and steal time.
fn parse(text: &str) -> Option<BusyTime> {
    let line = text.lines().next()?.strip_prefix("cpu ")?;
    let times: Vec<u64> = line
        .split_whitespace()
        .take(8)
        .filter_map(|time| time.parse().ok())
        .collect();
    let idle = times.get(3)? + times.get(4)?;
    let all = times.iter().sum();
    Some(BusyTime {
        busy: all - idle,
        all,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_and_waiting_time_is_not_busy() {
        let parsed = parse("cpu  10 1 5 70 10 1 2 1 0 0\ncpu0 1 1 1 1\n").expect("a line");
        assert_eq!((parsed.busy, parsed.all), (20, 100));
        assert!(parse("").is_none());
    }
}

//! What a process costs while load is sent: processor time and memory, from Linux's `/proc`.

use std::fs;
use std::io;

use serde::Serialize;
use tokio::time::Instant;

use super::LoadError;

/// Units of processor time in `/proc/PID/stat` to a second: `USER_HZ`, which is 100 on every architecture that Rust runs on
/// (man 5 proc, man 7 time).
const TICKS_PER_SECOND: f64 = 100.0;

/// What a process cost.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Cost {
    /// Processor time over time: 1 is one processor busy.
    pub cpu_cores: f64,
    /// Processor time over requests that ended; null without any.
    pub cpu_ms_per_request: Option<f64>,
    /// The most memory that it ever had.
    pub peak_rss_mib: f64,
}

/// The processor time of a process at some time.
#[derive(Clone, Copy, Debug)]
pub struct Usage {
    pid: u32,
    at: Instant,
    cpu_seconds: f64,
}

impl Usage {
    /// What process `pid` has used until now.
    ///
    /// # Errors
    /// There is no such process, or no `/proc`.
    pub fn of(pid: u32) -> Result<Self, LoadError> {
        let cpu_seconds = cpu_seconds(pid).map_err(|error| LoadError::Process { pid, error })?;
        Ok(Self {
            pid,
            at: Instant::now(),
            cpu_seconds,
        })
    }

    /// What the process has cost since, in which `requests` ended; `None` if it has ended.
    #[must_use]
    pub fn since(&self, requests: u64) -> Option<Cost> {
        let cpu_seconds = cpu_seconds(self.pid).ok()? - self.cpu_seconds;
        Some(Cost {
            cpu_cores: cpu_seconds / self.at.elapsed().as_secs_f64().max(f64::MIN_POSITIVE),
            cpu_ms_per_request: (requests > 0).then(|| cpu_seconds * 1e3 / requests as f64),
            peak_rss_mib: peak_rss_mib(self.pid)?,
        })
    }
}

fn cpu_seconds(pid: u32) -> io::Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let ticks = ticks(&stat).ok_or_else(|| io::Error::other("stat has no processor times"))?;
    Ok(ticks as f64 / TICKS_PER_SECOND)
}

/// `utime` and `stime` together: fields 14 and 15, counted behind the name, which may have spaces and brackets.
fn ticks(stat: &str) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

fn peak_rss_mib(pid: u32) -> Option<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: f64 = line.trim().trim_end_matches("kB").trim().parse().ok()?;
    Some(kib / 1024.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_is_read_behind_any_name() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194560 1 2 3 4 250 50 6 7 20 0 1 0 99";
        assert_eq!(ticks(stat), Some(300));
        assert_eq!(ticks("nothing"), None);
    }

    #[test]
    fn a_process_is_measured_and_one_that_is_not_there_is_named() {
        let usage = Usage::of(std::process::id()).expect("it runs");
        let cost = usage.since(4).expect("it still runs");
        assert!(cost.cpu_cores >= 0.0 && cost.peak_rss_mib > 1.0, "{cost:?}");
        let error = Usage::of(u32::MAX)
            .expect_err("no such process")
            .to_string();
        assert!(error.starts_with("pid: /proc/4294967295:"), "{error}");
    }
}

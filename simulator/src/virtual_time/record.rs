//! What a run leaves behind: one record a job, and sums over those that count.

use picker_core::time::Instant;

/// What a job that was not answered in full counts as at least, in milliseconds: a minute, far above the times of answers.
pub const LOST_MS: f64 = 60_000.0;

/// What became of one job, as its client saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// When it reached the gateway.
    pub arrived: Instant,
    /// The server it was sent to.
    pub server: Option<usize>,
    /// When its first token was back at the gateway, streamed or not.
    pub first_token: Option<Instant>,
    /// When it was over.
    pub ended: Option<Instant>,
    /// Tokens of its prompt.
    pub prompt_tokens: u32,
    /// Tokens that it was given.
    pub tokens: u32,
    /// The HTTP status.
    pub status: u16,
    /// When its progress was last reported.
    pub(super) reported: Instant,
}

/// All jobs of a run.
#[derive(Clone, Debug)]
pub struct Trace {
    /// In order of arrival.
    pub records: Vec<Record>,
    /// So many of them do not count.
    pub warm_up: usize,
    /// How many servers there were.
    pub servers: usize,
    /// Adapters brought into a slot, anywhere, since the first job that counts arrived.
    pub adapter_loads: u64,
    /// Of the prompt tokens that servers looked up in their prefix caches, the share that was there; 0 if none was looked up.
    pub prefix_hit_rate: f64,
}

impl Record {
    pub(crate) const fn new(arrived: Instant, prompt_tokens: u32) -> Self {
        Self {
            arrived,
            server: None,
            first_token: None,
            ended: None,
            prompt_tokens,
            tokens: 0,
            status: 0,
            reported: arrived,
        }
    }

    /// Whether it was answered in full.
    #[must_use]
    pub const fn succeeded(&self) -> bool {
        self.status == 200
    }

    /// From arrival to first token, in milliseconds.
    #[must_use]
    pub fn ttft_ms(&self) -> Option<f64> {
        self.first_token.map(|at| at.ms_since(self.arrived))
    }

    /// From arrival to end, in milliseconds.
    #[must_use]
    pub fn e2e_ms(&self) -> Option<f64> {
        self.ended.map(|at| at.ms_since(self.arrived))
    }

    /// [`Record::ttft_ms`] of a job that was answered in full; of any other the time until its end, and at least [`LOST_MS`]. So a
    /// policy gains nothing by losing requests, however soon they fail.
    #[must_use]
    pub fn judged_ttft_ms(&self) -> f64 {
        self.judged(self.ttft_ms())
    }

    /// [`Record::e2e_ms`], likewise.
    #[must_use]
    pub fn judged_e2e_ms(&self) -> f64 {
        self.judged(self.e2e_ms())
    }

    fn judged(&self, answered_ms: Option<f64>) -> f64 {
        match answered_ms.filter(|_| self.succeeded()) {
            Some(ms) => ms,
            None => self.e2e_ms().unwrap_or_default().max(LOST_MS),
        }
    }

    /// Time of a token after the first, in milliseconds; `None` of an answer of one token.
    #[must_use]
    pub fn tpot_ms(&self) -> Option<f64> {
        let later = self.tokens.checked_sub(1).filter(|&later| later > 0)?;
        let span_ms = self.ended?.ms_since(self.first_token?);
        Some(span_ms / f64::from(later))
    }
}

impl Trace {
    /// The jobs that count.
    #[must_use]
    pub fn counted(&self) -> &[Record] {
        &self.records[self.warm_up..]
    }

    /// Jobs that failed, among those that count.
    #[must_use]
    pub fn errors(&self) -> usize {
        let failed = |record: &&Record| !record.succeeded();
        self.counted().iter().filter(failed).count()
    }

    /// Adapter loads for each thousand of the jobs that count.
    #[must_use]
    pub fn adapter_loads_per_1000(&self) -> f64 {
        self.adapter_loads as f64 * 1_000.0 / self.counted().len().max(1) as f64
    }

    /// Jobs at the server that got most of those that count, by the mean of all servers.
    #[must_use]
    pub fn load_max_over_mean(&self) -> f64 {
        let mut jobs = vec![0_u64; self.servers];
        for server in self.counted().iter().filter_map(|record| record.server) {
            jobs[server] += 1;
        }
        let total: u64 = jobs.iter().sum();
        let most = jobs.iter().copied().max().unwrap_or(0);
        (most * self.servers as u64) as f64 / total.max(1) as f64
    }

    /// A number that two runs share when all of their jobs went the same way at the same times (FNV-1a).
    #[must_use]
    pub fn hash(&self) -> u64 {
        let nanos = |at: Option<Instant>| at.map_or(u64::MAX, Instant::as_nanos);
        let words = self.records.iter().flat_map(|record| {
            let server = record.server.map_or(u64::MAX, |server| server as u64);
            [server, nanos(record.first_token), nanos(record.ended)]
        });
        words
            .flat_map(u64::to_le_bytes)
            .fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
                (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_job_counts_as_a_minute_or_what_it_took() {
        let record = |first: Option<u64>, ended: Option<u64>, status| Record {
            first_token: first.map(Instant::from_millis),
            ended: ended.map(Instant::from_millis),
            status,
            ..Record::new(Instant::from_millis(1_000), 9)
        };
        for (record, ttft_ms, e2e_ms) in [
            (record(Some(1_300), Some(4_000), 200), 300.0, 3_000.0),
            // Refused at once, broken off, refused after long, never over.
            (record(None, Some(1_002), 503), LOST_MS, LOST_MS),
            (record(Some(1_300), Some(4_000), 503), LOST_MS, LOST_MS),
            (record(None, Some(91_000), 503), 90_000.0, 90_000.0),
            (record(Some(1_300), None, 0), LOST_MS, LOST_MS),
        ] {
            let judged = (record.judged_ttft_ms(), record.judged_e2e_ms());
            assert_eq!(judged, (ttft_ms, e2e_ms), "{record:?}");
        }
    }
}

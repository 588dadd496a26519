//! Bodies that wait for their pick: the frames of one, and the bytes that all of them may hold together.

use envoy_types::pb::envoy::service::ext_proc::v3::HttpBody;
use prometheus_client::metrics::gauge::Gauge;

/// The bytes of bodies that all streams together may hold. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Budget {
    held: Gauge,
    limit: i64,
}

/// Bytes of a [`Budget`], given back when dropped.
#[derive(Debug)]
pub(super) struct Lease {
    budget: Budget,
    bytes: i64,
}

/// The frames of a body, as they came.
#[derive(Debug)]
pub(super) struct Frames {
    frames: Vec<HttpBody>,
    bytes: usize,
    lease: Lease,
}

/// Why no more of a body is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Full {
    /// It is longer than a body may be.
    Limit,
    /// Bodies take more together than they may.
    Budget,
}

impl Budget {
    /// A budget of `limit` bytes; `held` shows how many of them are taken.
    pub(super) fn new(limit: usize, held: Gauge) -> Self {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        Self { held, limit }
    }

    fn lease(&self) -> Lease {
        Lease {
            budget: self.clone(),
            bytes: 0,
        }
    }
}

impl Lease {
    /// Takes so many bytes more, if they are there.
    fn grow(&mut self, bytes: usize) -> bool {
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        let fits = self.budget.held.inc_by(bytes) <= self.budget.limit.saturating_sub(bytes);
        if fits {
            self.bytes += bytes;
        } else {
            self.budget.held.dec_by(bytes);
        }
        fits
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.budget.held.dec_by(self.bytes);
    }
}

impl Frames {
    pub(super) fn new(budget: &Budget) -> Self {
        Self {
            frames: Vec::new(),
            bytes: 0,
            lease: budget.lease(),
        }
    }

    /// Adds a frame, whether it fits or not; says so if nothing more does.
    pub(super) fn push(&mut self, frame: HttpBody, limit: usize) -> Result<(), Full> {
        self.bytes += frame.body.len();
        let fits = self.bytes <= limit;
        let granted = self.lease.grow(frame.body.len());
        self.frames.push(frame);
        match (fits, granted) {
            (true, true) => Ok(()),
            (false, _) => Err(Full::Limit),
            (true, false) => Err(Full::Budget),
        }
    }

    /// The frames, and what they hold of the budget until they are gone.
    pub(super) fn take(self) -> (Vec<HttpBody>, Lease) {
        (self.frames, self.lease)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(bytes: usize) -> HttpBody {
        HttpBody {
            body: vec![b'x'; bytes],
            ..HttpBody::default()
        }
    }

    #[test]
    fn what_does_not_fit_the_budget_is_said_and_what_is_dropped_comes_back() {
        let budget = Budget::new(100, Gauge::default());
        let mut one = Frames::new(&budget);
        let mut other = Frames::new(&budget);
        assert_eq!(one.push(frame(60), 1000), Ok(()));
        assert_eq!(other.push(frame(60), 1000), Err(Full::Budget));
        assert_eq!(budget.held.get(), 60);
        drop(one);
        assert_eq!(other.push(frame(60), 1000), Ok(()));
        assert_eq!(budget.held.get(), 60);
        assert_eq!(other.push(frame(1000), 1000), Err(Full::Limit));
        assert_eq!(other.take().0.len(), 3);
        assert_eq!(budget.held.get(), 0);
    }
}

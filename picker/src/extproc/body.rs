//! Bodies that wait for their pick: the frames of one, and the bytes that all of them may hold together.
//!
//! Where there are several pools, a pool may hold as much as is left free: one alone half of the budget, two that want
//! all they can get a third each. What is left lets the next pool begin, whatever the others do.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

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
    /// What all bodies of the same pool hold; none where it need not be shared with other pools.
    share: Option<Arc<AtomicI64>>,
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

    fn lease(&self, share: Option<Arc<AtomicI64>>) -> Lease {
        Lease {
            budget: self.clone(),
            share,
            bytes: 0,
        }
    }
}

impl Lease {
    /// Takes so many bytes more, if they are there.
    fn grow(&mut self, bytes: usize) -> bool {
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        let free = self.budget.limit.saturating_sub(bytes) - self.budget.held.inc_by(bytes);
        let of_pool = self.share.as_deref();
        let of_pool = of_pool.map(|share| share.fetch_add(bytes, Ordering::Relaxed) + bytes);
        let fits = free >= 0 && of_pool.is_none_or(|of_pool| of_pool <= free);
        if fits {
            self.bytes += bytes;
        } else {
            self.give_back(bytes);
        }
        fits
    }

    fn give_back(&self, bytes: i64) {
        self.budget.held.dec_by(bytes);
        if let Some(share) = &self.share {
            share.fetch_sub(bytes, Ordering::Relaxed);
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.give_back(self.bytes);
    }
}

impl Frames {
    /// No frames yet, of a request for the pool that has this share.
    pub(super) fn new(budget: &Budget, share: Option<Arc<AtomicI64>>) -> Self {
        Self {
            frames: Vec::new(),
            bytes: 0,
            lease: budget.lease(share),
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
    use std::collections::BTreeMap;

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
        let mut one = Frames::new(&budget, None);
        let mut other = Frames::new(&budget, None);
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

    /// Of 120 bytes: which pool asks for how many more, whether it gets them, and what it then holds.
    const SHARES: [(&str, usize, bool, i64); 11] = [
        // Alone, a pool gets half.
        ("chat", 60, true, 60),
        ("chat", 1, false, 60),
        // The next gets half of the rest, and the third half of what that leaves.
        ("code", 31, false, 0),
        ("code", 30, true, 30),
        ("mail", 16, false, 0),
        ("mail", 15, true, 15),
        // Who holds more than is free gets nothing, however little it asks for.
        ("code", 1, false, 30),
        ("mail", 1, false, 15),
        // What one gives back, the others can get: `0` gives back all that the pool holds.
        ("chat", 0, true, 0),
        ("code", 22, true, 52),
        ("mail", 11, true, 26),
    ];

    #[test]
    fn a_pool_holds_as_much_as_is_left_free() {
        let budget = Budget::new(120, Gauge::default());
        let mut pools: BTreeMap<&str, (Arc<AtomicI64>, Vec<Frames>)> = BTreeMap::new();
        for (step, (pool, bytes, expected, held)) in SHARES.into_iter().enumerate() {
            let (share, bodies) = pools.entry(pool).or_default();
            if bytes == 0 {
                bodies.clear();
            } else {
                let mut body = Frames::new(&budget, Some(share.clone()));
                let got = body.push(frame(bytes), 1000).is_ok();
                assert_eq!(got, expected, "step {step}: {pool} asks for {bytes}");
                bodies.push(body);
            }
            assert_eq!(share.load(Ordering::Relaxed), held, "step {step}: {pool}");
        }
        pools.values_mut().for_each(|(_, bodies)| bodies.clear());
        assert_eq!(budget.held.get(), 0);
    }
}

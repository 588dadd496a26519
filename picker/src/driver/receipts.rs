//! The receipts of late decisions, found by request id, within a bound of bytes.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use dashmap::DashMap;
use picker_core::receipt::{Outcome, Receipt};
use picker_core::request::RequestKey;
use picker_core::route::{PoolKey, Told};
use serde::Serialize;

/// Receipts by request id. Of two requests with one id, which clients may choose, the later is kept.
#[derive(Debug)]
pub struct Receipts {
    by_id: DashMap<Arc<str>, Stored>,
    /// Oldest first, with the size of each.
    order: Mutex<Order>,
    max_bytes: usize,
}

#[derive(Debug, Default)]
struct Order {
    queue: VecDeque<(Arc<str>, RequestKey, usize)>,
    bytes: usize,
}

/// A receipt and the pool that it is of.
#[derive(Clone, Debug, Serialize)]
pub struct Stored {
    /// The pool.
    pub pool: PoolKey,
    /// What told the pool.
    pub told: Told,
    /// The pools that it could have been for as well; that one was taken for its name alone.
    #[serde(skip_serializing_if = "<[PoolKey]>::is_empty")]
    pub or: Arc<[PoolKey]>,
    /// The receipt.
    #[serde(flatten)]
    pub receipt: Receipt,
}

impl Receipts {
    /// None yet, and never more than `max_bytes` of them.
    #[must_use]
    pub fn new(max_bytes: usize) -> Self {
        Self {
            by_id: DashMap::new(),
            order: Mutex::default(),
            max_bytes,
        }
    }

    /// Keeps a receipt, and forgets the oldest ones that no longer fit.
    pub(super) fn keep(&self, stored: Stored) {
        let size = bytes_of(&stored);
        let (id, key) = (stored.receipt.request_id.clone(), stored.receipt.key);
        self.by_id.insert(id.clone(), stored);
        let mut order = self.order.lock().unwrap_or_else(PoisonError::into_inner);
        order.queue.push_back((id, key, size));
        order.bytes += size;
        while order.bytes > self.max_bytes {
            let Some((oldest, key, size)) = order.queue.pop_front() else {
                break;
            };
            order.bytes -= size;
            self.by_id
                .remove_if(&oldest, |_, stored| stored.receipt.key == key);
        }
    }

    /// Completes a receipt.
    pub(super) fn settle(&self, request_id: &str, key: RequestKey, outcome: Outcome) {
        if let Some(mut stored) = self.by_id.get_mut(request_id)
            && stored.receipt.key == key
        {
            stored.receipt.outcome = Some(outcome);
        }
    }

    /// The receipt of a request.
    #[must_use]
    pub fn get(&self, request_id: &str) -> Option<Stored> {
        self.by_id.get(request_id).map(|stored| stored.clone())
    }

    /// The ids of the last `count` decisions, the latest first.
    #[must_use]
    pub fn latest(&self, count: usize) -> Vec<Arc<str>> {
        let order = self.order.lock().unwrap_or_else(PoisonError::into_inner);
        order
            .queue
            .iter()
            .rev()
            .take(count)
            .map(|(id, ..)| id.clone())
            .collect()
    }
}

/// About how much memory a receipt takes.
fn bytes_of(stored: &Stored) -> usize {
    let receipt = &stored.receipt;
    size_of::<Stored>()
        + size_of_val(&*stored.or)
        + receipt.request_id.len()
        + receipt
            .request
            .model
            .as_ref()
            .map_or(0, |model| model.len())
}

#[cfg(test)]
mod tests {
    use arrayvec::ArrayVec;
    use picker_core::receipt::End;
    use picker_core::request::Request;

    use super::*;

    fn receipt(key: u64, id: &str) -> Receipt {
        Receipt {
            key: RequestKey(key),
            request_id: id.into(),
            at_ns: 0,
            request: Request::of_headers("/"),
            standing: None,
            rewrite: None,
            prompt_tokens: 0,
            output_tokens: 0,
            endpoints: 0,
            generation: 1,
            candidates: ArrayVec::new(),
            candidate_count: 0,
            ties: 0,
            margin_ms: None,
            exclusions: ArrayVec::new(),
            exclusion_count: 0,
            probe: false,
            unserved: false,
            expected_ttft_ms: None,
            expected_duration_ms: None,
            overloaded: false,
            following: None,
            outcome: None,
        }
    }

    fn stored(key: u64, id: &str) -> Stored {
        Stored {
            pool: PoolKey::new("default", "default"),
            told: Told::OnlyPool,
            or: Arc::default(),
            receipt: receipt(key, id),
        }
    }

    fn outcome() -> Outcome {
        Outcome {
            end: End::Completed,
            status: Some(200),
            served: None,
            ttft_ms: None,
            expected_ttft_ms: 1.0,
            expected_duration_ms: 1.0,
            duration_ms: 1.0,
            prompt_tokens: None,
            generated: None,
        }
    }

    #[test]
    fn the_oldest_receipts_give_way_to_the_latest() {
        let receipts = Receipts::new(3 * bytes_of(&stored(0, "r0")));
        for key in 0..10 {
            receipts.keep(stored(key, &format!("r{key}")));
        }
        assert!(receipts.get("r6").is_none());
        assert!(receipts.get("r7").is_some());
        assert_eq!(receipts.latest(2).len(), 2);
        assert_eq!(&*receipts.latest(1)[0], "r9");
        assert_eq!(receipts.by_id.len(), 3);
    }

    #[test]
    fn of_two_requests_with_one_id_the_later_is_kept_and_settled() {
        let receipts = Receipts::new(2 * bytes_of(&stored(0, "same")));
        receipts.keep(stored(1, "same"));
        receipts.keep(stored(2, "same"));
        receipts.settle("same", RequestKey(1), outcome());
        assert!(
            receipts
                .get("same")
                .is_some_and(|stored| stored.receipt.outcome.is_none())
        );
        receipts.settle("same", RequestKey(2), outcome());
        receipts.keep(stored(3, "next"));
        assert!(
            receipts
                .get("same")
                .is_some_and(|stored| stored.receipt.outcome.is_some())
        );
    }
}

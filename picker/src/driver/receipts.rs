//! The receipts of late decisions, found by request id, within a bound of bytes.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use dashmap::DashMap;
use picker_core::receipt::{End, Outcome, Receipt};
use picker_core::request::RequestKey;
use picker_core::route::{PoolKey, Told};
use picker_core::time::Instant;
use serde::{Deserialize, Serialize};

/// Receipts by request id. Of two requests with one id, which clients may choose, the later is kept.
#[derive(Debug)]
pub struct Receipts {
    /// Boxed, so that the free places of the table are small.
    by_id: DashMap<Arc<str>, Box<Stored>>,
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

/// Which decisions are looked for: those of which all holds that is given.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Filter {
    /// The pool, as `namespace/name`.
    pub pool: Option<String>,
    /// The endpoint that was picked, by name or address, or the one that served instead, by address.
    pub endpoint: Option<String>,
    /// The model asked for, which may be an adapter.
    pub model: Option<String>,
    /// How the request ended.
    pub end: Option<End>,
    /// By how many milliseconds the first token or the end missed what was expected, at least.
    pub missed_ms: Option<f64>,
    /// How many seconds ago it was decided, at most.
    pub within_s: Option<f64>,
    /// How many to list.
    pub limit: Option<usize>,
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
        let stored = Box::new(stored);
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
        self.by_id
            .get(request_id)
            .map(|stored| Stored::clone(&stored))
    }

    /// Decisions that `filter` holds for at `now`, the latest first, and at most `most` of them.
    #[must_use]
    pub fn list(&self, now: Instant, filter: &Filter, most: usize) -> Vec<Stored> {
        let kept: Vec<_> = {
            let order = self.order.lock().unwrap_or_else(PoisonError::into_inner);
            let ids = order.queue.iter().rev();
            ids.map(|(id, key, _)| (id.clone(), *key)).collect()
        };
        let found = kept.iter().filter_map(|(id, key)| {
            let stored = self.by_id.get(id)?;
            let asked = stored.receipt.key == *key && filter.holds(now, &stored);
            asked.then(|| Stored::clone(&stored))
        });
        found.take(most).collect()
    }
}

impl Filter {
    fn holds(&self, now: Instant, stored: &Stored) -> bool {
        let receipt = &stored.receipt;
        let outcome = receipt.outcome.as_ref();
        let is = |wanted: &Option<String>, found: Option<&str>| {
            wanted.is_none() || wanted.as_deref() == found
        };
        let picked = receipt.candidates.first();
        let served = outcome.and_then(|outcome| outcome.served);
        let decided = Instant::from_nanos(receipt.at_ns);
        let pool = self.pool.is_none() || is(&self.pool, Some(&stored.pool.to_string()));
        let endpoint = is(&self.endpoint, picked.map(|one| &*one.name))
            || picked.is_some_and(|one| is(&self.endpoint, Some(&one.address.to_string())))
            || served.is_some_and(|address| is(&self.endpoint, Some(&address.to_string())));
        let missed = |least: f64| outcome.is_some_and(|outcome| missed_ms(outcome) >= least);
        let young = |most: f64| now.ms_since(decided) <= most * 1e3;
        pool && endpoint
            && is(&self.model, receipt.request.model.as_deref())
            && (self.end.is_none() || self.end == outcome.map(|outcome| outcome.end))
            && self.missed_ms.is_none_or(missed)
            && self.within_s.is_none_or(young)
    }
}

/// By how much the first token or the end missed what was expected, whichever was worse.
fn missed_ms(outcome: &Outcome) -> f64 {
    let first = outcome.ttft_ms.unwrap_or(outcome.expected_ttft_ms) - outcome.expected_ttft_ms;
    let end = outcome.duration_ms - outcome.expected_duration_ms;
    first.abs().max(end.abs())
}

/// What a receipt takes beside itself and its texts: its places in the table and in the queue, either of which may be half empty, and the counts
/// of its texts.
const OVERHEAD: usize = 256;

/// How much memory a receipt takes, at the most: as if it shared no text with others.
fn bytes_of(stored: &Stored) -> usize {
    let receipt = &stored.receipt;
    let candidates = receipt.candidates.iter().map(|one| one.name.len());
    let exclusions = receipt.exclusions.iter().map(|one| one.name.len());
    let rewrite = receipt.rewrite.as_ref();
    let named = [
        receipt.request.model.as_ref(),
        rewrite.and_then(|rewrite| rewrite.asked.as_ref()),
        receipt.standing.as_ref().map(|standing| &standing.fairness),
    ];
    let named = named.into_iter().flatten().map(|text| text.len());
    let pools = std::iter::once(&stored.pool).chain(&*stored.or);
    let pools = pools.map(|pool| pool.namespace.len() + pool.name.len());
    let texts = candidates.chain(exclusions).chain(named).chain(pools);
    let texts = receipt.request_id.len() + texts.sum::<usize>();
    size_of::<Stored>() + size_of_val(&*stored.or) + texts + OVERHEAD
}

#[cfg(test)]
mod tests {
    use allocation_counter::measure;
    use arrayvec::ArrayVec;
    use axum::extract::Query;
    use picker_core::adapter::Need;
    use picker_core::cost::Cost;
    use picker_core::endpoint::EndpointKey;
    use picker_core::rates::Rates;
    use picker_core::receipt::Candidate;
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
        let listed = receipts.list(Instant::ZERO, &Filter::default(), 2);
        let ids = listed.iter().map(|stored| &*stored.receipt.request_id);
        assert_eq!(ids.collect::<Vec<_>>(), ["r9", "r8"]);
        assert_eq!(receipts.by_id.len(), 3);
    }

    /// What is really held, whatever clients put into ids and models: a number of long ones, and of short ones.
    #[test]
    fn receipts_hold_no_more_memory_than_they_are_given() {
        const GIVEN: usize = 1 << 20;
        for length in [0, 36, 5_000] {
            let receipts = Receipts::new(GIVEN);
            let held = measure(|| {
                for key in 0..2_000 {
                    let mut one = stored(key, &format!("{key:0length$}"));
                    one.receipt.request.model = Some("m".repeat(length).into());
                    receipts.keep(one);
                }
            });
            let held = usize::try_from(held.bytes_current).expect("a size");
            assert!(
                (GIVEN / 2..=GIVEN).contains(&held),
                "ids of {length}: {held} of {GIVEN}"
            );
        }
    }

    #[test]
    fn a_filter_lists_the_decisions_of_which_all_holds_that_it_says() {
        let receipts = Receipts::new(1 << 20);
        let candidate = |name: &str, host: u8| Candidate {
            endpoint: EndpointKey(u32::from(host)),
            name: name.into(),
            address: ([10, 0, 0, host], 8000).into(),
            cost_ms: 1.0,
            cost: Cost::default(),
            own: 0,
            foreign: 0.0,
            adapter: Need::NoAdapter,
            rates: Rates::PRIOR,
        };
        for key in 0..4 {
            let mut one = stored(key, &format!("r{key}"));
            one.pool = PoolKey::new("ai", "chat");
            one.receipt.at_ns = key * 1_000_000_000;
            one.receipt.request.model = Some(if key % 2 == 0 { "even" } else { "odd" }.into());
            let name = if key < 2 { "ai/a" } else { "ai/b" };
            let candidate = candidate(name, 1 + (key / 2) as u8);
            one.receipt.candidates.push(candidate);
            receipts.keep(one);
        }
        let other = PoolKey::new("ai", "other");
        receipts.keep(Stored {
            pool: other,
            ..stored(4, "r4")
        });
        let missed = Outcome {
            end: End::Failed,
            ttft_ms: Some(101.0),
            served: Some(([10, 0, 0, 9], 8000).into()),
            ..outcome()
        };
        receipts.settle("r1", RequestKey(1), missed);
        receipts.settle("r2", RequestKey(2), outcome());
        for (query, expected) in [
            ("", &["r4", "r3", "r2", "r1", "r0"][..]),
            ("pool=ai/chat&model=even", &["r2", "r0"]),
            ("pool=ai/other", &["r4"]),
            ("endpoint=ai/b", &["r3", "r2"]),
            ("endpoint=10.0.0.1:8000", &["r1", "r0"]),
            ("endpoint=10.0.0.9:8000", &["r1"]),
            ("end=failed", &["r1"]),
            ("end=completed", &["r2"]),
            ("missed_ms=100", &["r1"]),
            ("missed_ms=0", &["r2", "r1"]),
            ("within_s=1.5&pool=ai/chat", &["r3", "r2"]),
            ("model=even&end=failed", &[]),
        ] {
            let uri = format!("http://x/?{query}").parse().expect("a query");
            let Query(filter) = Query::<Filter>::try_from_uri(&uri).expect(query);
            let listed = receipts.list(Instant::from_millis(3_500), &filter, 10);
            let ids = listed.iter().map(|stored| &*stored.receipt.request_id);
            assert_eq!(ids.collect::<Vec<_>>(), expected, "{query}");
        }
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

//! When each pool is due: one heap for all, so that a wake costs what is due, not what there is.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use picker_core::time::Instant;
use tokio::sync::Notify;

use super::{Handle, Inner};

/// When the pools are due.
#[derive(Debug, Default)]
pub(super) struct Agenda {
    entries: Mutex<BinaryHeap<Reverse<Entry>>>,
    /// Wakes the timer, since some pool is due earlier than it knows.
    pub(super) alarm: Notify,
}

/// A pool was due at that time when this was written; it counts only if the pool's [`Booked`] still says so.
#[derive(Debug)]
struct Entry {
    due: u64,
    pool: Weak<Inner>,
}

/// The nanosecond at which the timer will call a pool; none if it is `u64::MAX`.
#[derive(Debug)]
pub(super) struct Booked(AtomicU64);

impl Agenda {
    /// Makes the timer call `pool` at `due`, unless it will do so earlier.
    pub(super) fn book(&self, pool: &Handle, due: Option<Instant>) {
        let Some(due) = due.map(Instant::as_nanos) else {
            return;
        };
        if pool.inner.booked.0.fetch_min(due, Ordering::SeqCst) <= due {
            return;
        }
        let mut entries = self.lock();
        let is_next = entries.peek().is_none_or(|next| due < next.0.due);
        let entry = Entry {
            due,
            pool: Arc::downgrade(&pool.inner),
        };
        entries.push(Reverse(entry));
        drop(entries);
        if is_next {
            self.alarm.notify_one();
        }
    }

    /// A pool that is due at `now`, which is booked no more.
    pub(super) fn take_due(&self, now: Instant) -> Option<Handle> {
        let mut entries = self.lock();
        while entries.peek()?.0.due <= now.as_nanos() {
            let Reverse(entry) = entries.pop()?;
            // A pool that is gone, or that was called since, leaves its entries behind.
            let Some(inner) = entry.pool.upgrade() else {
                continue;
            };
            let booked = &inner.booked.0;
            let (relaxed, none) = (Ordering::SeqCst, u64::MAX);
            if booked
                .compare_exchange(entry.due, none, relaxed, relaxed)
                .is_ok()
            {
                return Some(Handle { inner });
            }
        }
        None
    }

    /// When the next pool is due.
    pub(super) fn next(&self) -> Option<Instant> {
        self.lock()
            .peek()
            .map(|next| Instant::from_nanos(next.0.due))
    }

    fn lock(&self) -> MutexGuard<'_, BinaryHeap<Reverse<Entry>>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Booked {
    fn default() -> Self {
        Self(AtomicU64::new(u64::MAX))
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.due == other.due
    }
}

impl Eq for Entry {}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.due.cmp(&other.due)
    }
}

//! The LoRA slots of one server: which adapters sit in GPU memory, least recently used first.

use super::AdapterId;

/// At most `max_loras` resident adapters, replaced in the order of their last use as vLLM's LRU adapter manager does.
#[derive(Clone, Debug, Default)]
pub(super) struct AdapterSlots {
    /// Least recently used first.
    resident: Vec<AdapterId>,
    slots: usize,
}

impl AdapterSlots {
    pub(super) fn new(slots: usize) -> Self {
        Self {
            resident: Vec::with_capacity(slots),
            slots,
        }
    }

    /// Makes every adapter of `batch` resident and the most recently used, and returns how many had to be loaded.
    ///
    /// `batch` has at most as many adapters as there are slots: the scheduler sees to it. An adapter of the batch is never evicted.
    pub(super) fn activate(&mut self, batch: &[AdapterId]) -> u32 {
        debug_assert!(
            batch.len() <= self.slots,
            "the scheduler admits at most max_loras adapters to a step"
        );
        let before = self.resident.len();
        self.resident.retain(|adapter| !batch.contains(adapter));
        let hits = before - self.resident.len();
        let keep = self.slots - batch.len();
        let evicted = self.resident.len().saturating_sub(keep);
        self.resident.drain(..evicted);
        self.resident.extend_from_slice(batch);
        (batch.len() - hits) as u32
    }

    /// The adapters in GPU memory, least recently used first.
    pub(super) fn resident(&self) -> &[AdapterId] {
        &self.resident
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(ids: &[u32]) -> Vec<AdapterId> {
        ids.iter().copied().map(AdapterId).collect()
    }

    #[test]
    fn the_least_recently_used_adapter_leaves_first_and_never_one_of_the_batch() {
        let mut slots = AdapterSlots::new(2);
        assert_eq!(slots.activate(&ids(&[1, 2])), 2, "both are loaded");
        assert_eq!(slots.activate(&ids(&[1])), 0, "resident");
        assert_eq!(slots.activate(&ids(&[3])), 1, "evicts 2, not used since");
        assert_eq!(slots.resident(), ids(&[1, 3]));
        assert_eq!(
            slots.activate(&ids(&[1, 2])),
            1,
            "evicts 3, for 1 is of the batch"
        );
        assert_eq!(slots.resident(), ids(&[1, 2]));
        assert_eq!(slots.activate(&[]), 0);
    }
}

//! The LoRA adapters of one server: which are of the batch, which sit in GPU memory, which in host memory.

use std::time::Duration;

use picker_core::time::Instant;

use super::{AdapterId, Profile};

/// Adapters in two tiers, each replaced in the order of last use as vLLM's `LRUCacheLoRAModelManager` does (vllm/lora/model_manager.py).
#[derive(Clone, Debug)]
pub(super) struct AdapterSlots {
    /// In GPU memory, least recently used first.
    resident: Vec<AdapterId>,
    slots: usize,
    /// In host memory, least recently used first. Not kept where reading from disk takes no time.
    in_memory: Vec<AdapterId>,
    memory_slots: usize,
    disk: Duration,
    /// On their way from disk to host memory, and when they will be there.
    fetching: Vec<(AdapterId, Instant)>,
    /// Adapters of the running requests and how many each has, in order of entry.
    batch: Vec<(AdapterId, u32)>,
    /// Whether an adapter joined the batch since it was last activated.
    joined: bool,
}

impl AdapterSlots {
    pub(super) fn new(profile: &Profile) -> Self {
        Self {
            resident: Vec::with_capacity(profile.max_loras),
            slots: profile.max_loras,
            in_memory: Vec::new(),
            memory_slots: profile.max_cpu_loras.max(profile.max_loras),
            disk: Duration::from_nanos((profile.adapter_disk_ms * 1e6).round() as u64),
            fetching: Vec::new(),
            batch: Vec::with_capacity(profile.max_loras),
            joined: false,
        }
    }

    /// Whether a request on `adapter` could join the batch as far as slots go.
    pub(super) fn has_room(&self, adapter: AdapterId) -> bool {
        self.batch.len() < self.slots || self.batch.iter().any(|&(running, _)| running == adapter)
    }

    /// Whether `adapter` is in host memory; if not, its way there begins at `now` at the latest.
    pub(super) fn fetch(&mut self, adapter: AdapterId, now: Instant) -> bool {
        if self.disk.is_zero() || self.in_memory.contains(&adapter) {
            return true;
        }
        match self.fetching.iter().position(|&(id, _)| id == adapter) {
            None => {
                self.fetching.push((adapter, now + self.disk));
                false
            }
            Some(place) if self.fetching[place].1 <= now => {
                self.fetching.remove(place);
                if self.in_memory.len() == self.memory_slots {
                    // There is always one that is not running: memory holds at least as many as there are slots.
                    let idle = |id: &AdapterId| self.batch.iter().all(|(running, _)| running != id);
                    self.in_memory
                        .remove(self.in_memory.iter().position(idle).unwrap_or(0));
                }
                self.in_memory.push(adapter);
                true
            }
            Some(_) => false,
        }
    }

    /// When the next adapter comes from disk.
    pub(super) fn next_fetched(&self) -> Option<Instant> {
        self.fetching.iter().map(|&(_, at)| at).min()
    }

    /// A request on `adapter` joins the batch.
    pub(super) fn join(&mut self, adapter: AdapterId) {
        match self.batch.iter_mut().find(|(id, _)| *id == adapter) {
            Some((_, requests)) => *requests += 1,
            None => {
                self.batch.push((adapter, 1));
                self.joined = true;
            }
        }
    }

    /// A request on `adapter` leaves the batch.
    pub(super) fn leave(&mut self, adapter: AdapterId) {
        if let Some(place) = self.batch.iter().position(|&(id, _)| id == adapter) {
            self.batch[place].1 -= 1;
            if self.batch[place].1 == 0 {
                self.batch.remove(place);
                move_behind_idle(&mut self.resident, adapter, &self.batch);
                move_behind_idle(&mut self.in_memory, adapter, &self.batch);
            }
        }
    }

    /// Makes every adapter of the batch resident and the most recently used, and returns how many had to be loaded.
    ///
    /// An adapter of the batch is never evicted; the scheduler sees that there are no more than slots.
    pub(super) fn activate(&mut self) -> u32 {
        if !std::mem::take(&mut self.joined) {
            return 0;
        }
        debug_assert!(
            self.batch.len() <= self.slots,
            "the scheduler admits at most max_loras adapters to a step"
        );
        let before = self.resident.len();
        let batch = &self.batch;
        let runs = |adapter: &AdapterId| batch.iter().any(|(id, _)| id == adapter);
        self.resident.retain(|adapter| !runs(adapter));
        let hits = before - self.resident.len();
        let keep = self.slots.saturating_sub(batch.len());
        let evicted = self.resident.len().saturating_sub(keep);
        self.resident.drain(..evicted);
        self.resident.extend(batch.iter().map(|&(id, _)| id));
        (batch.len() - hits) as u32
    }

    /// The adapters in GPU memory, least recently used first.
    pub(super) fn resident(&self) -> &[AdapterId] {
        &self.resident
    }
}

/// An adapter that leaves the batch was used until now: later than those that are idle already, and not later than those still in it.
fn move_behind_idle(adapters: &mut [AdapterId], adapter: AdapterId, batch: &[(AdapterId, u32)]) {
    let runs = |id: &&AdapterId| batch.iter().any(|(running, _)| running == *id);
    let end = adapters.len() - adapters.iter().rev().take_while(runs).count();
    if let Some(place) = adapters[..end].iter().position(|&id| id == adapter) {
        adapters[place..end].rotate_left(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(ids: &[u32]) -> Vec<AdapterId> {
        ids.iter().copied().map(AdapterId).collect()
    }

    /// Makes `batch` the batch, and says how many adapters a step with it loads.
    fn run(slots: &mut AdapterSlots, batch: &[u32]) -> u32 {
        for (adapter, _) in slots.batch.clone() {
            slots.leave(adapter);
        }
        batch.iter().for_each(|&id| slots.join(AdapterId(id)));
        slots.activate()
    }

    fn two_slots() -> Profile {
        Profile {
            max_loras: 2,
            ..Profile::demo()
        }
    }

    #[test]
    fn the_least_recently_used_adapter_leaves_first_and_never_one_of_the_batch() {
        let mut slots = AdapterSlots::new(&two_slots());
        assert_eq!(run(&mut slots, &[1, 2]), 2, "both are loaded");
        assert_eq!(run(&mut slots, &[1]), 0, "resident");
        assert_eq!(run(&mut slots, &[3]), 1, "evicts 2, not used since");
        assert_eq!(slots.resident(), ids(&[1, 3]));
        assert_eq!(
            run(&mut slots, &[1, 2]),
            1,
            "evicts 3, for 1 is of the batch"
        );
        assert_eq!(slots.resident(), ids(&[1, 2]));
        assert_eq!(run(&mut slots, &[]), 0);
    }

    #[test]
    fn an_adapter_comes_from_disk_once_and_again_when_host_memory_forgot_it() {
        let mut slots = AdapterSlots::new(&Profile {
            max_cpu_loras: 2,
            adapter_disk_ms: 50.0,
            ..two_slots()
        });
        let mut fetched = |id, at_ms| slots.fetch(AdapterId(id), Instant::from_millis(at_ms));
        assert!(!fetched(1, 0) && !fetched(1, 49) && fetched(1, 50));
        assert!(!fetched(2, 50) && fetched(2, 100) && fetched(1, 100));
        assert!(!fetched(3, 100) && fetched(3, 150), "takes the place of 1");
        assert!(!fetched(1, 150));
        assert_eq!(slots.next_fetched(), Some(Instant::from_millis(200)));
    }
}

//! The KV blocks of one server: who holds which, what those that nobody holds still cache, and which of them is reused next.
//!
//! As vLLM V1's `BlockPool` and `KVCacheManager` (vllm/v1/core/block_pool.py, kv_cache_manager.py): a block that nobody holds waits in a free
//! queue and stays cached there; allocation takes from the queue's head and forgets what the block cached; a hit takes a
//! block out of the middle; a request that ends appends its blocks last one first, so tails go before heads, and puts one that
//! caches nothing (not full) at the queue's head. Equal blocks that two requests computed are kept twice.

pub(super) mod content;
pub(super) mod event;

use std::collections::HashMap;

use super::{AdapterId, Profile};
use content::Identity;
use event::KvEvent;

/// A block, by its number. 0 is vLLM's null block, which no request holds; here it is both ends of the free queue.
pub(super) type BlockId = u32;

const NULL: BlockId = 0;

#[derive(Clone, Debug, Default)]
struct Block {
    /// What it caches; 0 is nothing.
    hash: u64,
    /// Requests that hold it.
    holders: u32,
    /// Neighbours in the free queue while nobody holds it.
    previous: BlockId,
    next: BlockId,
    /// The next block with the same hash, in the order in which they were cached; [`NULL`] ends the chain.
    next_copy: BlockId,
    /// Whether its hash is in the index: one that only its own request can find is not.
    indexed: bool,
}

/// All KV blocks of a server.
#[derive(Clone, Debug)]
pub(super) struct KvCache {
    blocks: Vec<Block>,
    free: u32,
    block_size: u32,
    caching: bool,
    /// The first block of each hash.
    index: HashMap<u64, BlockId>,
    /// What has happened since it was last taken, if anyone wants to know.
    events: Option<Vec<KvEvent>>,
}

impl KvCache {
    pub(super) fn new(profile: &Profile) -> Self {
        let count = profile.usable_blocks() + 1;
        let block = |id: u32| Block {
            previous: id.checked_sub(1).unwrap_or(count - 1),
            next: (id + 1) % count,
            ..Block::default()
        };
        Self {
            blocks: (0..count).map(block).collect(),
            free: count - 1,
            block_size: profile.block_size,
            caching: profile.prefix_caching,
            index: HashMap::new(),
            events: None,
        }
    }

    /// Share of the blocks that requests hold, 0 to 1. Blocks that are only cached count as free, as vLLM has it.
    pub(super) fn usage(&self) -> f64 {
        let usable = self.blocks.len() as u32 - 1;
        1.0 - f64::from(self.free) / f64::from(usable.max(1))
    }

    /// Begins to keep events.
    pub(super) fn keep_events(&mut self) {
        self.events.get_or_insert_default();
    }

    pub(super) const fn keeps_events(&self) -> bool {
        self.events.is_some()
    }

    /// The events since the last call.
    pub(super) fn take_events(&mut self) -> Vec<KvEvent> {
        self.events.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Appends to `hits` the leading blocks of a request that are cached, of those that hold its first `tokens` tokens. `former` are the
    /// blocks that it held before it was preempted.
    pub(super) fn find(
        &self,
        identity: &mut Identity,
        former: &[BlockId],
        tokens: u32,
        hits: &mut Vec<BlockId>,
    ) {
        if !self.caching {
            return;
        }
        let count = (tokens / self.block_size) as usize;
        if identity.is_shared() {
            let found = (0..count).map_while(|place| {
                let hash = identity.hash(place, self.block_size);
                self.index.get(&hash).copied()
            });
            hits.extend(found);
        } else {
            let own = former.iter().take(count).enumerate();
            let found = own.map_while(|(place, &block)| {
                let hash = identity.hash(place, self.block_size);
                (self.blocks[block as usize].hash == hash).then_some(block)
            });
            hits.extend(found);
        }
    }

    /// Grows `table` by `hits` and by new blocks until it holds `tokens` tokens; false, and nothing changed, if there are too few.
    pub(super) fn grow(&mut self, table: &mut Vec<BlockId>, hits: &[BlockId], tokens: u32) -> bool {
        let held = (table.len() + hits.len()) as u32;
        let new = tokens.div_ceil(self.block_size).saturating_sub(held);
        let idle = |&&hit: &&BlockId| self.blocks[hit as usize].holders == 0;
        if new + hits.iter().filter(idle).count() as u32 > self.free {
            return false;
        }
        for &hit in hits {
            if self.blocks[hit as usize].holders == 0 {
                self.unlink(hit);
            }
            self.blocks[hit as usize].holders += 1;
            table.push(hit);
        }
        for _ in 0..new {
            let block = self.blocks[NULL as usize].next;
            self.unlink(block);
            self.evict(block);
            self.blocks[block as usize].holders = 1;
            table.push(block);
        }
        true
    }

    /// Caches the blocks of `table` from place `from` up to `to`, which are full or will be when the step ends.
    pub(super) fn store(
        &mut self,
        table: &[BlockId],
        identity: &mut Identity,
        adapter: Option<AdapterId>,
        (from, to): (usize, usize),
    ) {
        if !self.caching {
            return;
        }
        let shared = identity.is_shared();
        for (place, &block) in table.iter().enumerate().take(to).skip(from) {
            let hash = identity.hash(place, self.block_size);
            self.blocks[block as usize].hash = hash;
            if shared {
                self.enter(hash, block);
            }
        }
        if let Some(events) = &mut self.events {
            let parent = from.checked_sub(1);
            events.push(KvEvent::Stored {
                hashes: (from..to)
                    .map(|place| identity.hash(place, self.block_size))
                    .collect(),
                parent: parent.map(|place| identity.hash(place, self.block_size)),
                block_size: self.block_size,
                adapter,
            });
        }
    }

    /// Gives back what a request holds, its last block first. `table` itself stays as it is.
    pub(super) fn release(&mut self, table: &[BlockId]) {
        for &block in table.iter().rev() {
            let holders = &mut self.blocks[block as usize].holders;
            *holders -= 1;
            if *holders == 0 {
                let cached = self.blocks[block as usize].hash != 0;
                let next = if cached {
                    NULL
                } else {
                    self.blocks[NULL as usize].next
                };
                self.link_before(next, block);
            }
        }
    }

    /// Forgets everything cached, as `POST /reset_prefix_cache` does; false, and nothing forgotten, while requests hold blocks.
    pub(super) fn reset(&mut self) -> bool {
        if self.free as usize + 1 != self.blocks.len() {
            return false;
        }
        for block in &mut self.blocks {
            (block.hash, block.indexed, block.next_copy) = (0, false, NULL);
        }
        self.index.clear();
        if let Some(events) = &mut self.events {
            events.push(KvEvent::Cleared);
        }
        true
    }

    /// Enters a block into the index behind its copies.
    fn enter(&mut self, hash: u64, block: BlockId) {
        let entered = &mut self.blocks[block as usize];
        (entered.indexed, entered.next_copy) = (true, NULL);
        let mut last = *self.index.entry(hash).or_insert(block);
        if last == block {
            return;
        }
        while self.blocks[last as usize].next_copy != NULL {
            last = self.blocks[last as usize].next_copy;
        }
        self.blocks[last as usize].next_copy = block;
    }

    /// Forgets what a block caches. Of equal blocks only this one is forgotten.
    fn evict(&mut self, block: BlockId) {
        let evicted = &mut self.blocks[block as usize];
        let hash = std::mem::take(&mut evicted.hash);
        if hash == 0 {
            return;
        }
        let next_copy = std::mem::take(&mut evicted.next_copy);
        if std::mem::take(&mut evicted.indexed) {
            self.leave(hash, block, next_copy);
        }
        if let Some(events) = &mut self.events {
            events.push(KvEvent::Removed { hash });
        }
    }

    fn leave(&mut self, hash: u64, block: BlockId, next_copy: BlockId) {
        let first = self.index.get(&hash).copied().unwrap_or(NULL);
        if first != block {
            let mut copy = first;
            while self.blocks[copy as usize].next_copy != block {
                copy = self.blocks[copy as usize].next_copy;
            }
            self.blocks[copy as usize].next_copy = next_copy;
        } else if next_copy == NULL {
            self.index.remove(&hash);
        } else {
            self.index.insert(hash, next_copy);
        }
    }

    fn unlink(&mut self, block: BlockId) {
        let Block { previous, next, .. } = self.blocks[block as usize];
        self.blocks[previous as usize].next = next;
        self.blocks[next as usize].previous = previous;
        self.free -= 1;
    }

    fn link_before(&mut self, next: BlockId, block: BlockId) {
        let previous = std::mem::replace(&mut self.blocks[next as usize].previous, block);
        self.blocks[previous as usize].next = block;
        let linked = &mut self.blocks[block as usize];
        (linked.previous, linked.next) = (previous, next);
        self.free += 1;
    }
}

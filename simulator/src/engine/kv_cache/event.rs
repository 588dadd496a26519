//! KV events: what vLLM publishes of its prefix cache, in memory.

use picker_core::time::Instant;

use crate::engine::AdapterId;

/// A change of what is cached (vllm/distributed/kv_events.py).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KvEvent {
    /// Blocks were cached, one behind the other. Equal blocks that are cached already are announced again.
    Stored {
        /// The blocks' hashes.
        hashes: Vec<u64>,
        /// The hash of the block before them; `None` for a prompt's first.
        parent: Option<u64>,
        /// Tokens in each.
        block_size: u32,
        /// vLLM's `lora_name`.
        adapter: Option<AdapterId>,
    },
    /// One copy of a block was reused for something else. vLLM announces each by itself.
    Removed {
        /// The block's hash.
        hash: u64,
    },
    /// Nothing is cached any more.
    Cleared,
}

/// The events of one step, published when it ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KvBatch {
    /// From 0, without gaps.
    pub sequence: u64,
    /// The end of the step.
    pub at: Instant,
    /// In the order in which they happened.
    pub events: Vec<KvEvent>,
}

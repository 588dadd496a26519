//! What the tokens of a request are, as far as a prefix cache can tell: names for runs of tokens, no text.

use std::sync::Arc;

use crate::engine::AdapterId;

/// A run of tokens. Two segments with the same `content` begin with the same tokens; those with different ones share none.
///
/// A prompt that repeats an earlier answer has that answer's content as a segment; a trace of hashed blocks has one segment a
/// block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// The name of the run.
    pub content: u64,
    /// How many of its tokens are there.
    pub tokens: u32,
}

/// The tokens of a request that may share a prefix with others.
///
/// Blocks are equal when their segments are: the same tokens cut into segments in another way count as different ones.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Content {
    /// The prompt; its lengths add up to the request's `prompt_tokens`.
    pub prompt: Arc<[Segment]>,
    /// The content of the answer.
    pub answer: u64,
    /// vLLM's `cache_salt`: only requests with the same one share blocks.
    pub salt: Option<u64>,
}

/// What tells the blocks of one request from those of others.
#[derive(Clone, Debug)]
pub(in crate::engine) enum Identity {
    /// Nothing like it was or will be sent: its blocks are of use to itself alone, after a preemption.
    Unique(u64),
    Shared(Box<Chain>),
}

impl Identity {
    pub(in crate::engine) fn shared(content: Content, adapter: Option<AdapterId>) -> Self {
        Self::Shared(Box::new(Chain {
            content,
            adapter,
            hashes: Vec::new(),
            segment: 0,
            offset: 0,
        }))
    }

    pub(super) const fn is_shared(&self) -> bool {
        matches!(self, Self::Shared(_))
    }

    /// The hash of the block at `place`: never 0, and chained, so that equal hashes mean equal blocks all the way from the first.
    pub(super) fn hash(&mut self, place: usize, block_size: u32) -> u64 {
        match self {
            Self::Unique(number) => mixed(mixed(UNIQUE, *number), place as u64).max(1),
            Self::Shared(chain) => {
                while chain.hashes.len() <= place {
                    chain.push(block_size);
                }
                chain.hashes[place]
            }
        }
    }
}

/// The block hashes of a request, as far as anyone asked for them.
///
/// Like vLLM's `hash_block_tokens` (vllm/v1/core/kv_cache_utils.py) each hash covers its parent, the tokens, and as extra keys the adapter in every
/// block and the salt in the first; the function is another, for there are no tokens to feed to SHA-256.
#[derive(Clone, Debug)]
pub(in crate::engine) struct Chain {
    content: Content,
    adapter: Option<AdapterId>,
    hashes: Vec<u64>,
    /// Where the next block begins; the place behind the prompt's segments is the answer.
    segment: usize,
    offset: u32,
}

impl Chain {
    fn push(&mut self, block_size: u32) {
        let mut hash = self.hashes.last().copied().unwrap_or(ROOT);
        if let Some(adapter) = self.adapter {
            hash = mixed(hash ^ ADAPTER, u64::from(adapter.0));
        }
        if let Some(salt) = self.content.salt.filter(|_| self.hashes.is_empty()) {
            hash = mixed(hash ^ SALT, salt);
        }
        let mut wanted = block_size;
        while wanted > 0 {
            let segment = self.content.prompt.get(self.segment).copied();
            let Segment { content, tokens } = segment.unwrap_or(Segment {
                content: self.content.answer,
                tokens: u32::MAX,
            });
            let taken = wanted.min(tokens - self.offset);
            if taken > 0 {
                let place = u64::from(self.offset) << 32 | u64::from(taken);
                hash = mixed(mixed(hash, content), place);
            }
            self.offset += taken;
            wanted -= taken;
            if self.offset == tokens {
                (self.segment, self.offset) = (self.segment + 1, 0);
            }
        }
        self.hashes.push(hash.max(1));
    }
}

const ROOT: u64 = 0x243f_6a88_85a3_08d3;
const UNIQUE: u64 = 0x1319_8a2e_0370_7344;
const ADAPTER: u64 = 0xa409_3822_299f_31d0;
const SALT: u64 = 0x082e_fa98_ec4e_6c89;

/// Both numbers mixed into one (the finaliser of SplitMix64).
const fn mixed(hash: u64, value: u64) -> u64 {
    let sum = hash
        .rotate_left(23)
        .wrapping_add(value)
        .wrapping_add(0x9e37_79b9_7f4a_7c15);
    let once = (sum ^ (sum >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let twice = (once ^ (once >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    twice ^ (twice >> 31)
}

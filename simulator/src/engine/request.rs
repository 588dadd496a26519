//! A request as the engine sees it: lengths and an adapter, no text.

use picker_core::time::Instant;

use super::kv_cache::BlockId;
use super::kv_cache::content::Identity;

/// What a server calls one request; the caller sees that no two live ones share it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// An adapter, by its place in the server's list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AdapterId(pub u32);

/// Why a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FinishReason {
    /// The model ended its answer.
    Stop,
    /// `max_tokens` or the context length was reached.
    Length,
}

/// One request to a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// What outputs and aborts call it.
    pub id: RequestId,
    /// The adapter it is for; `None` is the base model.
    pub adapter: Option<AdapterId>,
    /// Tokens of the prompt, at least 1.
    pub prompt_tokens: u32,
    /// Tokens that the model will give, at least 1. The model is no model: whoever submits knows how long the answer gets.
    pub output_tokens: u32,
    /// What the client allowed; shown in `request_params_max_tokens` alone.
    pub max_tokens: u32,
    /// What the last token says.
    pub finish: FinishReason,
}

impl Request {
    /// A request that runs to exactly `output_tokens`.
    #[must_use]
    pub const fn new(
        id: RequestId,
        adapter: Option<AdapterId>,
        prompt_tokens: u32,
        output_tokens: u32,
    ) -> Self {
        Self {
            id,
            adapter,
            prompt_tokens,
            output_tokens,
            max_tokens: output_tokens,
            finish: FinishReason::Length,
        }
    }
}

/// A request within the engine, from submission to its last token.
#[derive(Clone, Debug)]
pub(super) struct Live {
    pub(super) request: Request,
    pub(super) arrived: Instant,
    /// The start of the step that first ran it.
    pub(super) admitted: Option<Instant>,
    pub(super) first_token: Option<Instant>,
    pub(super) last_token: Option<Instant>,
    /// Tokens of prompt and output whose KV entries exist.
    pub(super) computed: u32,
    /// Tokens that the step under way computes.
    pub(super) scheduled: u32,
    pub(super) generated: u32,
    /// KV blocks it holds, in the order of its tokens; after a preemption those that it held.
    pub(super) blocks: Vec<BlockId>,
    /// The first so many of them are cached under their hashes.
    pub(super) stored: usize,
    pub(super) identity: Identity,
    /// Prompt tokens found in the prefix cache at its first admission.
    pub(super) cached_tokens: u32,
    pub(super) preemptions: u32,
    /// Preemptions that the statistics know of.
    pub(super) preemptions_counted: u32,
}

impl Live {
    pub(super) const fn new(request: Request, identity: Identity, arrived: Instant) -> Self {
        Self {
            request,
            arrived,
            admitted: None,
            first_token: None,
            last_token: None,
            computed: 0,
            scheduled: 0,
            generated: 0,
            blocks: Vec::new(),
            stored: 0,
            identity,
            cached_tokens: 0,
            preemptions: 0,
            preemptions_counted: 0,
        }
    }

    /// Tokens of prompt and output so far.
    pub(super) const fn tokens(&self) -> u32 {
        self.request.prompt_tokens + self.generated
    }

    /// Tokens yet to be computed before the next one can be given.
    pub(super) const fn remaining(&self) -> u32 {
        self.tokens() - self.computed
    }

    /// The next token is given at `at`.
    pub(super) fn give_token(&mut self, at: Instant) {
        self.generated += 1;
        self.first_token.get_or_insert(at);
        self.last_token = Some(at);
        self.preemptions_counted = self.preemptions;
    }

    /// Forgets what was computed; vLLM recomputes a preempted request from its first token, or from where the prefix cache ends.
    pub(super) const fn preempted(&mut self) {
        self.computed = 0;
        self.scheduled = 0;
        self.stored = 0;
        self.preemptions += 1;
    }
}

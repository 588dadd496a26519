//! The ledger: what this picker has in flight where.
//!
//! A pick opens an entry and debits its endpoint in the same step; the entry is closed exactly once, however the
//! request ends. The debits of an endpoint are always the sum over its open entries.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::endpoint::EndpointKey;
use crate::request::RequestKey;
use crate::time::Instant;

/// One request in flight.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// Where it was sent.
    pub endpoint: EndpointKey,
    /// When it was picked.
    pub opened: Instant,
    /// Prompt tokens to be computed for it.
    pub prompt_tokens: u64,
    /// Tokens that it is expected to generate.
    pub output_tokens: u64,
    /// Tokens that it has generated so far.
    pub generated: u64,
    /// When its first token came.
    pub first_token: Option<Instant>,
    /// The time to its first token that was expected when it was picked, in milliseconds.
    pub expected_ttft_ms: f64,
}

/// What is in flight at one endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Load {
    /// Requests.
    pub requests: u64,
    /// Of those, requests whose first token has not come.
    pub prefilling: u64,
    /// Prompt tokens of those.
    pub prefill_tokens: u64,
    /// Tokens still to be generated, by expectation.
    pub decode_tokens: u64,
}

/// All requests in flight of one pool.
#[derive(Debug, Default)]
pub struct Ledger {
    entries: BTreeMap<RequestKey, Entry>,
    loads: BTreeMap<EndpointKey, Load>,
}

impl Ledger {
    /// Opens an entry; the debit counts from here on. An entry that is open under the same key is closed first.
    pub fn open(&mut self, request: RequestKey, entry: Entry) {
        self.close(request);
        self.load_mut(entry.endpoint).debit(&entry);
        self.entries.insert(request, entry);
    }

    /// Notes the first token; a second one changes nothing.
    pub fn first_token(&mut self, now: Instant, request: RequestKey) {
        self.update(request, |entry| {
            entry.first_token.get_or_insert(now);
        });
    }

    /// Notes that `generated` tokens have come in all.
    pub fn progress(&mut self, request: RequestKey, generated: u64) {
        self.update(request, |entry| {
            entry.generated = entry.generated.max(generated)
        });
    }

    /// Moves the debit to the endpoint that serves the request.
    pub fn serve_elsewhere(&mut self, request: RequestKey, endpoint: EndpointKey) {
        self.update(request, |entry| entry.endpoint = endpoint);
    }

    /// Closes an entry and ends its debit; `None` if it is not open (any more).
    pub fn close(&mut self, request: RequestKey) -> Option<Entry> {
        let entry = self.entries.remove(&request)?;
        let load = self.load_mut(entry.endpoint);
        load.credit(&entry);
        if load.requests == 0 {
            self.loads.remove(&entry.endpoint);
        }
        Some(entry)
    }

    /// The open entry of a request.
    #[must_use]
    pub fn entry(&self, request: RequestKey) -> Option<&Entry> {
        self.entries.get(&request)
    }

    /// What is in flight at `endpoint`.
    #[must_use]
    pub fn load(&self, endpoint: EndpointKey) -> Load {
        self.loads.get(&endpoint).copied().unwrap_or_default()
    }

    /// What is in flight where, in the order of the keys; endpoints without requests are left out.
    pub fn loads(&self) -> impl Iterator<Item = (EndpointKey, Load)> {
        self.loads.iter().map(|(&endpoint, &load)| (endpoint, load))
    }

    /// Requests in flight.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether nothing is in flight.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Changes an entry, and its debit with it.
    fn update(&mut self, request: RequestKey, change: impl FnOnce(&mut Entry)) {
        if let Some(mut entry) = self.close(request) {
            change(&mut entry);
            self.load_mut(entry.endpoint).debit(&entry);
            self.entries.insert(request, entry);
        }
    }

    fn load_mut(&mut self, endpoint: EndpointKey) -> &mut Load {
        self.loads.entry(endpoint).or_default()
    }
}

impl Load {
    fn debit(&mut self, entry: &Entry) {
        let (prefilling, prefill_tokens) = entry.prefill();
        self.requests += 1;
        self.prefilling += prefilling;
        self.prefill_tokens += prefill_tokens;
        self.decode_tokens += entry.decode_tokens();
    }

    /// Takes back what [`Load::debit`] booked for the same entry; an unequal pair would overflow and panic under test.
    fn credit(&mut self, entry: &Entry) {
        let (prefilling, prefill_tokens) = entry.prefill();
        self.requests -= 1;
        self.prefilling -= prefilling;
        self.prefill_tokens -= prefill_tokens;
        self.decode_tokens -= entry.decode_tokens();
    }
}

impl Entry {
    /// One request and its prompt tokens before the first token; nothing after it.
    fn prefill(&self) -> (u64, u64) {
        if self.first_token.is_some() {
            (0, 0)
        } else {
            (1, self.prompt_tokens)
        }
    }

    fn decode_tokens(&self) -> u64 {
        self.output_tokens.saturating_sub(self.generated)
    }
}

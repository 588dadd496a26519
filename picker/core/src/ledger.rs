//! The ledger: what this picker has in flight where.
//!
//! A pick opens an entry and debits its endpoint in the same step; the entry is closed exactly once, however the
//! request ends. The debits of an endpoint are always the sum over its open entries.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::Serialize;

use crate::endpoint::EndpointKey;
use crate::request::RequestKey;
use crate::time::Instant;

/// How a request is followed to its end, which is up to what the proxy sends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Following {
    /// The response passes through the picker: first token, tokens and end are seen.
    #[default]
    Full,
    /// Nothing of the response is seen but its end.
    Watched,
    /// Nothing is seen: the entry closes at the end that is expected.
    Released,
}

/// One request in flight.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// The request's id.
    pub request_id: Arc<str>,
    /// Where it was sent.
    pub endpoint: EndpointKey,
    /// When it was picked.
    pub opened: Instant,
    /// How it is followed.
    pub following: Following,
    /// When it is expected to end.
    pub expected_end: Instant,
    /// Prompt tokens to be computed for it.
    pub prompt_tokens: u64,
    /// Tokens that it is expected to generate.
    pub output_tokens: u64,
    /// Tokens that it has generated so far.
    pub generated: u64,
    /// How it is known whether its prompt is still being computed.
    pub prefill: Prefill,
    /// When its first token came.
    pub first_token: Option<Instant>,
}

/// How it is known whether a prompt is still being computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prefill {
    /// The first token will show that it is over.
    Watched,
    /// Nothing will show it, as the response is not streamed: it is taken to be over then.
    Until(Instant),
    /// It is over.
    Over,
}

/// What is in flight at one endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Load {
    /// Requests.
    pub requests: u64,
    /// Of those, requests whose prompt is still being computed, as far as known.
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
    /// Open entries with [`Prefill::Until`], by that time.
    unseen: BTreeSet<(Instant, RequestKey)>,
    /// Open entries that are [`Following::Released`], by the end that is expected.
    released: BTreeSet<(Instant, RequestKey)>,
}

impl Ledger {
    /// Opens an entry; the debit counts from here on. An entry that is open under the same key is closed first.
    pub fn open(&mut self, request: RequestKey, entry: Entry) {
        self.close(request);
        self.put(request, entry);
    }

    /// Notes the first token; a second one changes nothing.
    pub fn first_token(&mut self, now: Instant, request: RequestKey) {
        self.update(request, |entry| {
            entry.first_token.get_or_insert(now);
            entry.prefill = Prefill::Over;
        });
    }

    /// Notes that it is `now`: prompts that nothing shows to be computed are taken to be so at their time.
    pub fn pass(&mut self, now: Instant) {
        while let Some(&(until, request)) = self.unseen.first()
            && until <= now
        {
            self.update(request, |entry| entry.prefill = Prefill::Over);
        }
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
        if let Prefill::Until(until) = entry.prefill {
            self.unseen.remove(&(until, request));
        }
        if entry.following == Following::Released {
            self.released.remove(&(entry.expected_end, request));
        }
        let load = self.load_mut(entry.endpoint);
        load.credit(&entry);
        if load.requests == 0 {
            self.loads.remove(&entry.endpoint);
        }
        Some(entry)
    }

    /// The released entry whose end is expected first, and when that is.
    #[must_use]
    pub fn next_release(&self) -> Option<(Instant, RequestKey)> {
        self.released.first().copied()
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
            self.put(request, entry);
        }
    }

    fn put(&mut self, request: RequestKey, entry: Entry) {
        if let Prefill::Until(until) = entry.prefill {
            self.unseen.insert((until, request));
        }
        if entry.following == Following::Released {
            self.released.insert((entry.expected_end, request));
        }
        self.load_mut(entry.endpoint).debit(&entry);
        self.entries.insert(request, entry);
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
    /// One request and its prompt tokens while they are computed; nothing after that.
    fn prefill(&self) -> (u64, u64) {
        match self.prefill {
            Prefill::Over => (0, 0),
            Prefill::Watched | Prefill::Until(_) => (1, self.prompt_tokens),
        }
    }

    fn decode_tokens(&self) -> u64 {
        self.output_tokens.saturating_sub(self.generated)
    }
}

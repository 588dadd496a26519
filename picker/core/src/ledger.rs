//! The ledger: what this picker has in flight where.
//!
//! A pick opens an entry and debits its endpoint in the same step; the entry is closed exactly once, however the
//! request ends. The debits of an endpoint are always the sum over its open entries.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hashbrown::HashTable;
use serde::Serialize;

use crate::adapter::names::ModelId;
use crate::endpoint::EndpointKey;
use crate::request::RequestKey;
use crate::seed::mix;
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
    /// The endpoint that took it instead, where the proxy said so.
    pub served: Option<SocketAddr>,
    /// The model it is for, where an endpoint lists that.
    pub model: Option<ModelId>,
    /// The limit on its tokens.
    pub max_tokens: Option<u32>,
    /// When it was picked.
    pub opened: Instant,
    /// How it is followed.
    pub following: Following,
    /// When it is expected to end.
    pub expected_end: Instant,
    /// The time to its first token that was expected, in milliseconds.
    pub expected_ttft_ms: f64,
    /// Bytes of its prompt.
    pub prompt_bytes: u64,
    /// Prompt tokens to be computed for it.
    pub prompt_tokens: u64,
    /// Sequences that it generates.
    pub sequences: u64,
    /// Tokens that it is expected to generate, of all its sequences.
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
    Seen,
    /// Nothing will show it: it is expected to take this long.
    Unseen(Duration),
    /// It is over.
    Over,
}

/// What is in flight at one endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Load {
    /// Requests.
    pub requests: u64,
    /// Sequences that they generate, which engines count as requests.
    pub sequences: u64,
    /// Of those, requests whose first token will be seen and has not come.
    pub prefilling: u64,
    /// Prompt tokens of those.
    pub prefill_tokens: u64,
    /// Tokens still to be generated, by expectation.
    pub decode_tokens: u64,
    /// Tokens that they generate in all, by expectation.
    pub output_tokens: u64,
    /// Tokens of their prompts and of all that they generate: what they will hold of the KV cache if they share nothing.
    pub context_tokens: u64,
    /// When all prompts of which nothing will be seen are expected to be computed.
    #[serde(skip)]
    pub unseen_until: Instant,
}

/// All requests in flight of one pool.
///
/// Its memory follows the most that were ever in flight: once it is that large, opening and closing entries allocate nothing.
#[derive(Debug, Default)]
pub struct Ledger {
    entries: Entries,
    /// In the order of the endpoints' keys.
    accounts: Vec<Account>,
    /// The released entry whose end is expected first, of all endpoints.
    next_release: Option<Release>,
}

/// The open entries. They are looked up and never walked, so that the order of the table decides nothing.
#[derive(Debug, Default)]
struct Entries(HashTable<(RequestKey, Entry)>);

/// The end that is expected of a released entry.
type Release = (Instant, RequestKey);

/// What is booked on one endpoint.
#[derive(Debug)]
struct Account {
    endpoint: EndpointKey,
    load: Load,
    /// Entries that are [`Following::Released`], in order.
    releases: VecDeque<Release>,
}

impl Ledger {
    /// Opens an entry; the debit counts from here on. An entry that is open under the same key is closed first.
    pub fn open(&mut self, now: Instant, request: RequestKey, entry: Entry) {
        self.close(request);
        if let Prefill::Unseen(span) = entry.prefill {
            let load = &mut self.account(entry.endpoint).load;
            load.unseen_until = load.unseen_until.max(now) + span;
        }
        self.put(request, entry);
    }

    /// Notes the first token; a second one changes nothing.
    pub fn first_token(&mut self, now: Instant, request: RequestKey) {
        self.update(request, |entry| {
            entry.first_token.get_or_insert(now);
            entry.prefill = Prefill::Over;
        });
    }

    /// Notes that `generated` tokens have come in all.
    pub fn progress(&mut self, request: RequestKey, generated: u64) {
        self.update(request, |entry| {
            entry.generated = entry.generated.max(generated)
        });
    }

    /// Notes that `address` serves the request, and moves the debit there if that is an endpoint of the pool.
    pub fn serve_elsewhere(
        &mut self,
        request: RequestKey,
        address: SocketAddr,
        endpoint: Option<EndpointKey>,
    ) {
        self.update(request, |entry| {
            entry.served = Some(address);
            entry.endpoint = endpoint.unwrap_or(entry.endpoint);
        });
    }

    /// Closes an entry and ends its debit; `None` if it is not open (any more).
    pub fn close(&mut self, request: RequestKey) -> Option<Entry> {
        let entry = self.entries.remove(request)?;
        let account = self.account(entry.endpoint);
        account.load.credit(&entry);
        if entry.following == Following::Released {
            let release = (entry.expected_end, request);
            if let Ok(place) = account.releases.binary_search(&release) {
                account.releases.remove(place);
            }
            if self.next_release == Some(release) {
                let first = |account: &Account| account.releases.front().copied();
                self.next_release = self.accounts.iter().filter_map(first).min();
            }
        }
        Some(entry)
    }

    /// Forgets endpoints that are not `kept` and have nothing in flight.
    pub fn retain(&mut self, kept: impl Fn(EndpointKey) -> bool) {
        self.accounts
            .retain(|account| account.load.requests > 0 || kept(account.endpoint));
    }

    /// The released entry whose end is expected first, and when that is.
    #[must_use]
    pub fn next_release(&self) -> Option<(Instant, RequestKey)> {
        self.next_release
    }

    /// The released entry at `endpoint` that was opened before `opened` and whose end is expected first.
    #[must_use]
    pub fn next_release_at(&self, endpoint: EndpointKey, opened: Instant) -> Option<RequestKey> {
        let account = &self.accounts[self.place(endpoint).ok()?];
        let mut released = account.releases.iter().map(|&(_, request)| request);
        released.find(|&request| {
            let entry = self.entries.get(request);
            entry.is_some_and(|entry| entry.opened < opened)
        })
    }

    /// The open entry of a request.
    #[must_use]
    pub fn entry(&self, request: RequestKey) -> Option<&Entry> {
        self.entries.get(request)
    }

    /// What is in flight at `endpoint`.
    #[must_use]
    pub fn load(&self, endpoint: EndpointKey) -> Load {
        let place = self.place(endpoint);
        place.map_or_else(|_| Load::default(), |place| self.accounts[place].load)
    }

    /// What is in flight where, in the order of the keys; endpoints that never had a request may be left out.
    pub fn loads(&self) -> impl Iterator<Item = (EndpointKey, &Load)> {
        let accounts = self.accounts.iter();
        accounts.map(|account| (account.endpoint, &account.load))
    }

    /// Requests in flight.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.0.len()
    }

    /// Whether nothing is in flight.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.0.is_empty()
    }

    /// Changes an entry, and its debit with it.
    fn update(&mut self, request: RequestKey, change: impl FnOnce(&mut Entry)) {
        if let Some(mut entry) = self.close(request) {
            change(&mut entry);
            self.put(request, entry);
        }
    }

    fn put(&mut self, request: RequestKey, entry: Entry) {
        let account = self.account(entry.endpoint);
        account.load.debit(&entry);
        if entry.following == Following::Released {
            let release = (entry.expected_end, request);
            let place = account.releases.partition_point(|other| *other < release);
            account.releases.insert(place, release);
            let earlier = self.next_release.unwrap_or(release).min(release);
            self.next_release = Some(earlier);
        }
        self.entries.insert(request, entry);
    }

    fn place(&self, endpoint: EndpointKey) -> Result<usize, usize> {
        self.accounts
            .binary_search_by_key(&endpoint, |account| account.endpoint)
    }

    /// The account of an endpoint, which is opened if there is none.
    fn account(&mut self, endpoint: EndpointKey) -> &mut Account {
        let place = self.place(endpoint).unwrap_or_else(|place| {
            let account = Account {
                endpoint,
                load: Load::default(),
                releases: VecDeque::new(),
            };
            self.accounts.insert(place, account);
            place
        });
        &mut self.accounts[place]
    }
}

impl Entries {
    fn get(&self, request: RequestKey) -> Option<&Entry> {
        let found = self.0.find(mix(request.0), |(key, _)| *key == request)?;
        Some(&found.1)
    }

    /// Adds an entry; there must be none of that key.
    fn insert(&mut self, request: RequestKey, entry: Entry) {
        let hash = |(key, _): &(RequestKey, Entry)| mix(key.0);
        self.0.insert_unique(mix(request.0), (request, entry), hash);
    }

    fn remove(&mut self, request: RequestKey) -> Option<Entry> {
        let found = self
            .0
            .find_entry(mix(request.0), |(key, _)| *key == request);
        let ((_, entry), _) = found.ok()?.remove();
        Some(entry)
    }
}

impl Load {
    /// Tokens of the prompts of all requests.
    #[must_use]
    pub fn prompt_tokens(&self) -> u64 {
        self.context_tokens.saturating_sub(self.output_tokens)
    }

    /// How long the prompts there will still be computed at `now`, in milliseconds, at `token_ms` a token.
    #[must_use]
    pub fn prefill_ms(&self, now: Instant, token_ms: f64) -> f64 {
        self.prefill_tokens as f64 * token_ms + self.unseen_until.ms_since(now)
    }

    fn debit(&mut self, entry: &Entry) {
        let (prefilling, prefill_tokens) = entry.prefill();
        self.requests += 1;
        self.sequences += entry.sequences;
        self.prefilling += prefilling;
        self.prefill_tokens += prefill_tokens;
        self.decode_tokens += entry.decode_tokens();
        self.output_tokens += entry.output_tokens;
        self.context_tokens += entry.prompt_tokens + entry.output_tokens;
    }

    /// Takes back what [`Load::debit`] booked for the same entry; an unequal pair would overflow and panic under test.
    fn credit(&mut self, entry: &Entry) {
        let (prefilling, prefill_tokens) = entry.prefill();
        self.requests -= 1;
        self.sequences -= entry.sequences;
        self.prefilling -= prefilling;
        self.prefill_tokens -= prefill_tokens;
        self.decode_tokens -= entry.decode_tokens();
        self.output_tokens -= entry.output_tokens;
        self.context_tokens -= entry.prompt_tokens + entry.output_tokens;
        if self.requests == 0 {
            self.unseen_until = Instant::ZERO;
        }
    }
}

impl Entry {
    /// One request and its prompt tokens while its first token is awaited; nothing else.
    fn prefill(&self) -> (u64, u64) {
        match self.prefill {
            Prefill::Over | Prefill::Unseen(_) => (0, 0),
            Prefill::Seen => (1, self.prompt_tokens),
        }
    }

    fn decode_tokens(&self) -> u64 {
        self.output_tokens.saturating_sub(self.generated)
    }
}

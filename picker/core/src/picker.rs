//! The whole: one picker owns what is known of one InferencePool, and turns events into actions.

mod account;
mod booking;
mod state;

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use self::state::BytesPerToken;
pub use self::state::EndpointState;
use crate::action::{Action, Refusal};
use crate::adapter::Model;
use crate::adapter::names::{IdSet, ModelId, Names};
use crate::cost::{SEQUENCES_MAX, Work};
use crate::endpoint::{Endpoint, EndpointKey, Reading};
use crate::event::{Arrival, Ending, Event};
use crate::flow::{self, Admission};
use crate::ledger::{Entry, Ledger};
use crate::length::{Asked, Lengths};
use crate::member::health::Suspect;
use crate::member::{self, Member, Pace};
use crate::rates::{self, Factors};
use crate::receipt::{CANDIDATES_MAX, End, Outcome};
use crate::request::RequestKey;
use crate::schedule::{Ask, Choice};
use crate::seed::{Random, name_hash};
use crate::share::Sent;
use crate::time::Instant;

/// What a picker is made with.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// The seed of all chance.
    pub seed: u64,
    /// The least time between two readings of one endpoint.
    pub reading_interval_min: Duration,
}

/// How often what endpoints have in common is worked out anew, at most.
const POOLING_INTERVAL: Duration = Duration::from_secs(1);
/// Names of models are swept once there are so many more than at the last sweep.
const NAMES_SLACK: usize = 64;

/// What is known of one InferencePool, and what is to be done about it.
#[derive(Debug)]
pub struct Picker {
    /// In the order of their keys, which is the order in which they came.
    members: Vec<Member>,
    next_key: u32,
    /// How many times the endpoints were given.
    generation: u64,
    ledger: Ledger,
    names: Names,
    names_swept: usize,
    lengths: Lengths,
    bytes_per_token: BytesPerToken,
    /// What the endpoints' rates have in common, and when that is worked out next.
    factors: Factors,
    pooled_next: Instant,
    fixed: state::Fixed,
    actions: VecDeque<Action>,
    /// The last choice, kept for its memory.
    choice: Choice,
    ties: Random,
    pace: Pace,
    /// No reading is due before this; may be too early, never too late.
    next_due: Option<Instant>,
}

impl Picker {
    /// A picker for a pool without endpoints so far.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self {
            members: Vec::new(),
            next_key: 0,
            generation: 0,
            ledger: Ledger::default(),
            names: Names::default(),
            names_swept: 0,
            lengths: Lengths::default(),
            bytes_per_token: BytesPerToken::default(),
            factors: Factors::ONE,
            pooled_next: Instant::ZERO,
            fixed: state::Fixed::default(),
            actions: VecDeque::new(),
            choice: Choice::default(),
            ties: Random::split(settings.seed, "ties"),
            pace: Pace {
                interval_min: settings.reading_interval_min,
                random: Random::split(settings.seed, "pace"),
            },
            next_due: None,
        }
    }

    /// Takes in what happened at `now`, which is never before the `now` of an earlier call.
    pub fn handle_event(&mut self, now: Instant, event: Event) {
        match event {
            Event::Endpoints(endpoints) => self.on_endpoints(now, endpoints),
            Event::Arrived(arrival) => self.on_arrived(now, arrival),
            Event::ServedElsewhere(request, address) => self.on_served(now, request, address),
            Event::FirstToken(request) => self.on_first_token(now, request),
            Event::Progressed(request, generated) => self.on_progress(now, request, generated),
            Event::Ended(request, ending) => self.close(now, request, ending.end(), ending),
            Event::Read(endpoint, reading) => self.on_read(now, endpoint, reading),
            Event::ReadFailed(endpoint, failure) => {
                self.change(endpoint, |member, pace| {
                    member.on_read_failed(now, failure, pace)
                });
            }
            Event::Models(endpoint, models) => self.on_models(endpoint, &models),
            Event::ModelsFailed(endpoint) => {
                self.change(endpoint, |member, _| member.on_models_failed(now));
            }
        }
        self.handle_timeout(now);
    }

    /// The next thing to be done; call until it returns `None`.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// When [`Picker::handle_timeout`] is to be called next.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let release = self.ledger.next_release().map(|(due, _)| due);
        earlier(self.next_due, release)
    }

    /// Does what is due at `now`; calling it early or often does no harm.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some((due, request)) = self.ledger.next_release()
            && due <= now
        {
            self.close(now, request, End::Presumed, Ending::default());
        }
        if self.next_due.is_none_or(|due| due > now) {
            return;
        }
        for member in &mut self.members {
            let Some(begin) = member.begin_reading(now) else {
                continue;
            };
            let (key, address) = (member.key, member.endpoint.address);
            let engine = member.endpoint.engine.clone();
            self.actions.push_back(Action::Read(key, address, engine));
            if begin.models {
                self.actions.push_back(Action::ListModels(key, address));
            }
        }
        self.next_due = self.members.iter().filter_map(Member::due).min();
    }

    /// Requests in flight.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.ledger.len()
    }

    /// Endpoints of which nothing was heard so far, neither a reading nor a failure.
    #[must_use]
    pub fn unheard(&self) -> usize {
        self.members.iter().filter(|member| !member.heard()).count()
    }

    /// Every endpoint as discovery describes it.
    pub fn known(&self) -> impl Iterator<Item = &Endpoint> {
        self.members.iter().map(|member| &member.endpoint)
    }

    /// Every endpoint as it is known at `now`.
    #[must_use]
    pub fn endpoints(&self, now: Instant) -> Vec<EndpointState> {
        let state = |member| EndpointState::of(now, member, &self.ledger, &self.names);
        self.members.iter().map(state).collect()
    }

    /// Keeps the endpoints that are still there, with all that is known of them, and adds the new ones.
    fn on_endpoints(&mut self, now: Instant, endpoints: Vec<Endpoint>) {
        let mut wanted: BTreeMap<(Arc<str>, SocketAddr), Endpoint> = endpoints
            .into_iter()
            .map(|endpoint| ((endpoint.identity.clone(), endpoint.address), endpoint))
            .collect();
        self.members.retain_mut(|member| {
            let place = (member.endpoint.identity.clone(), member.endpoint.address);
            let kept = wanted.remove(&place);
            let stays = kept.is_some();
            member.endpoint = kept.unwrap_or_else(|| member.endpoint.clone());
            stays
        });
        let count = u32::try_from(wanted.len()).unwrap_or(u32::MAX);
        let spread = (member::SPREAD_PER_ENDPOINT * count).min(member::SPREAD_MAX);
        let sent = Sent::mean(self.members.iter().map(|member| member.sent));
        for endpoint in wanted.into_values() {
            let due = now + spread.mul_f64(self.pace.random.unit());
            self.next_due = earlier(self.next_due, Some(due));
            let mut member = Member::new(EndpointKey(self.next_key), endpoint, due);
            member.learn(now, &self.factors, self.fixed.ms());
            member.sent = sent;
            self.members.push(member);
            self.next_key += 1;
        }
        self.generation += 1;
        let members = &self.members;
        self.ledger.retain(|key| place(members, key).is_some());
    }

    fn on_arrived(&mut self, now: Instant, arrival: Arrival) {
        let name = arrival.request.model.as_deref();
        let ask = Ask {
            model: name.and_then(|name| self.names.get(name)),
            name_hash: name.map(name_hash),
            subset: arrival.subset.as_ref(),
            work: self.work(&arrival),
            ranked: CANDIDATES_MAX.max(if arrival.fallbacks > 0 { usize::MAX } else { 0 }),
        };
        let mut choice = std::mem::take(&mut self.choice);
        choice.make(now, &self.members, &self.ledger, &ask, &mut self.ties);
        let mut receipt = self.receipt(now, &arrival, &ask.work, &choice);
        let priority = arrival.standing.as_ref().map_or(0, |it| it.priority);
        let candidates = choice.priced.iter().map(|one| &self.members[one.index]);
        let admission = flow::admission(now, priority, candidates);
        let action = match (choice.priced.first(), admission) {
            (Some(_), Admission::Refused { retry_after_s }) => {
                receipt.overloaded = true;
                receipt.following = None;
                let refusal = Refusal::Overloaded { retry_after_s };
                Action::Refused(arrival.key, refusal, receipt)
            }
            (Some(taken), Admission::Admitted) => {
                Action::Picked(self.book(now, &arrival, &ask, taken, receipt, &choice))
            }
            (None, _) if self.members.is_empty() => {
                Action::Refused(arrival.key, Refusal::NoEndpoints, receipt)
            }
            (None, _) => Action::Refused(arrival.key, Refusal::EmptySubset, receipt),
        };
        self.choice = choice;
        self.actions.push_back(action);
    }

    /// The debit moves to the endpoint that serves; the picked one did not take the request, so it is suspect.
    fn on_served(&mut self, now: Instant, request: RequestKey, address: SocketAddr) {
        let Some(entry) = self.ledger.entry(request) else {
            return;
        };
        let (picked, model, ends) = (entry.endpoint, entry.model, entry.expected_end);
        let server = self
            .members
            .iter()
            .find(|member| member.endpoint.address == address);
        let server = server.map(|member| member.key);
        if server == Some(picked) {
            return;
        }
        self.ledger.serve_elsewhere(request, address, server);
        self.change(picked, |member, _| {
            member.suspect(now, Suspect::Unreachable)
        });
        let Some(server) = server else {
            return;
        };
        self.leave(now, picked, model);
        let own = self.ledger.load(server).sequences;
        self.change(server, |member, pace| {
            member.on_own(own);
            if let Some(model) = model {
                member.adapters.on_pick(model, ends);
            }
            member.hasten(now, member::BEAT_OWN, pace);
        });
    }

    fn on_first_token(&mut self, now: Instant, request: RequestKey) {
        self.ledger.first_token(now, request);
        let Some(entry) = self.ledger.entry(request) else {
            return;
        };
        let ttft_ms = now.ms_since(entry.opened);
        let (endpoint, expected_ms) = (entry.endpoint, entry.expected_ttft_ms);
        let alone = self.ledger.load(endpoint).requests == 1;
        if alone && entry.served.is_none() && entry.first_token == Some(now) {
            self.fixed.observe(ttft_ms - expected_ms);
        }
        self.change(endpoint, |member, _| member.health.on_work(now));
    }

    fn on_progress(&mut self, now: Instant, request: RequestKey, generated: u64) {
        self.ledger.progress(request, generated);
        if let Some(endpoint) = self.ledger.entry(request).map(|entry| entry.endpoint) {
            self.change(endpoint, |member, _| member.health.on_work(now));
        }
    }

    fn on_read(&mut self, now: Instant, key: EndpointKey, reading: Reading) {
        let Some(place) = place(&self.members, key) else {
            return;
        };
        self.release_finished(now, key, &reading);
        let own = self.ledger.load(key);
        let member = &mut self.members[place];
        let counted = member.on_reading(now, reading, &own, &self.names, &mut self.pace);
        self.lengths.on_counters(counted.0, counted.1);
        if member.health.hangs(now) {
            member.suspect(now, Suspect::Hung);
        }
        self.next_due = earlier(self.next_due, member.due());
        if now >= self.pooled_next {
            self.pooled_next = now + POOLING_INTERVAL;
            self.factors = rates::pooled(self.members.iter().map(Member::fit), &self.factors);
            for member in &mut self.members {
                member.learn(now, &self.factors, self.fixed.ms());
            }
        }
    }

    /// Closes released entries at `key` that `reading` shows to be gone: it shows fewer requests than are booked there. Those that were
    /// picked lately may not show yet.
    fn release_finished(&mut self, now: Instant, key: EndpointKey, reading: &Reading) {
        let Some(running) = reading.running() else {
            return;
        };
        let seen = running.saturating_add(reading.waiting().unwrap_or(0));
        let old = Instant::from_nanos(now.as_nanos().saturating_sub(GAUGE_LAG.as_nanos() as u64));
        while let Some(request) = self.ledger.next_release_at(key, old)
            && let Some(entry) = self.ledger.entry(request)
            && self.ledger.load(key).sequences >= seen.saturating_add(entry.sequences)
        {
            self.close(now, request, End::Presumed, Ending::default());
        }
    }

    fn on_models(&mut self, key: EndpointKey, models: &[Model]) {
        let Some(place) = place(&self.members, key) else {
            return;
        };
        self.members[place]
            .adapters
            .on_models(models, &mut self.names);
        if self.names.len() <= 2 * self.names_swept + NAMES_SLACK {
            return;
        }
        let mut live = IdSet::default();
        for member in &self.members {
            member.adapters.mark(&mut live);
        }
        self.names.sweep(&live);
        self.lengths.retain(|model| live.contains(model));
        self.names_swept = self.names.len();
    }

    /// Ends an entry, however that came.
    fn close(&mut self, now: Instant, request: RequestKey, end: End, ending: Ending) {
        let Some(entry) = self.ledger.close(request) else {
            return;
        };
        self.leave(now, entry.endpoint, entry.model);
        if entry.served.is_none() || place(&self.members, entry.endpoint).is_some() {
            self.judge(now, &entry, end, &ending);
        }
        if end == End::Completed {
            self.note_answer(now, &entry, &ending);
        }
        let expected_ms = entry.expected_end.ms_since(entry.opened);
        let outcome = Outcome {
            end,
            status: ending.status,
            served: entry.served,
            ttft_ms: entry.first_token.map(|at| at.ms_since(entry.opened)),
            expected_ttft_ms: entry.expected_ttft_ms,
            expected_duration_ms: expected_ms,
            duration_ms: now.ms_since(entry.opened),
            prompt_tokens: ending.prompt_tokens,
            generated: ending
                .generated
                .or((entry.generated > 0).then_some(entry.generated)),
        };
        self.actions
            .push_back(Action::Settled(request, entry.request_id, outcome));
    }

    /// A request is no longer at `key`.
    fn leave(&mut self, now: Instant, key: EndpointKey, model: Option<ModelId>) {
        let own = self.ledger.load(key).requests;
        self.change(key, |member, _| {
            if let Some(model) = model {
                member.adapters.on_end(now, model);
            }
            if own == 0 {
                member.on_own(0);
                member.health.on_idle(now);
            }
        });
    }

    /// What the end of a request says of the endpoint that served it.
    fn judge(&mut self, now: Instant, entry: &Entry, end: End, ending: &Ending) {
        let unreachable =
            ending.unreachable() && entry.first_token.is_none() && entry.served.is_none();
        self.change(entry.endpoint, |member, _| match end {
            End::Completed => {
                member.health.on_work(now);
                member.health.on_end(now, false);
            }
            End::Failed => {
                member.health.on_end(now, true);
                if unreachable {
                    member.suspect(now, Suspect::Unreachable);
                }
            }
            End::Abandoned | End::Presumed => {}
        });
    }

    /// What a whole answer teaches of lengths. Where its tokens were not counted, its duration tells how many there were.
    fn note_answer(&mut self, now: Instant, entry: &Entry, ending: &Ending) {
        if let Some(tokens) = ending.prompt_tokens.filter(|_| entry.prompt_bytes > 0) {
            self.bytes_per_token.on_usage(entry.prompt_bytes, tokens);
        }
        let sequences = entry.sequences.max(1) as f64;
        let counted = ending.generated.map(|tokens| tokens as f64 / sequences);
        // A duration tells of tokens only where nothing was waited for, and the step's time is known.
        let learnt = place(&self.members, entry.endpoint).filter(|&place| {
            let member = &self.members[place];
            member.fit().samples() >= rates::VOTE_SAMPLES && !member.queues()
        });
        let tokens = counted.or_else(|| {
            let expected_ms = entry.expected_end.ms_since(entry.opened) - entry.expected_ttft_ms;
            let step_ms = expected_ms * sequences / entry.output_tokens.max(1) as f64;
            let decode_ms = now.ms_since(entry.opened) - entry.expected_ttft_ms;
            learnt
                .filter(|_| step_ms > 0.0)
                .map(|_| (decode_ms / step_ms).max(1.0))
        });
        if let Some(tokens) = tokens {
            let limit = entry.max_tokens.map_or(f64::INFINITY, f64::from);
            let asked = Asked {
                model: entry.model,
                max_tokens: entry.max_tokens,
            };
            let seen = counted.is_some();
            self.lengths.on_answer(&asked, tokens.min(limit), seen);
        }
    }

    /// Changes what is known of an endpoint, if it is still there, and keeps track of when it is due.
    fn change(&mut self, key: EndpointKey, change: impl FnOnce(&mut Member, &mut Pace)) {
        if let Some(place) = place(&self.members, key) {
            let member = &mut self.members[place];
            change(member, &mut self.pace);
            self.next_due = earlier(self.next_due, member.due());
        }
    }

    /// The work that a request is expected to be.
    fn work(&self, arrival: &Arrival) -> Work {
        let request = &arrival.request;
        let model = request.model.as_deref();
        let asked = Asked {
            model: model.and_then(|name| self.names.get(name)),
            max_tokens: request.max_tokens,
        };
        Work {
            prompt_tokens: request.prompt_tokens(self.bytes_per_token.get()),
            output_tokens: self.lengths.expected(&asked).round(),
            sequences: f64::from(request.sequences.clamp(1, SEQUENCES_MAX)),
        }
    }
}

/// Requests picked within this time may not show in gauges yet: they lag by up to two seconds.
const GAUGE_LAG: Duration = Duration::from_secs(2);

/// The place of an endpoint among `members`, which stand in the order of their keys.
fn place(members: &[Member], key: EndpointKey) -> Option<usize> {
    members.binary_search_by_key(&key, |member| member.key).ok()
}

/// The earlier of two moments that may never come.
fn earlier(one: Option<Instant>, other: Option<Instant>) -> Option<Instant> {
    one.into_iter().chain(other).min()
}

/// A span of `ms` milliseconds.
fn ms(ms: f64) -> Duration {
    Duration::try_from_secs_f64(ms / 1e3).unwrap_or(Duration::MAX)
}

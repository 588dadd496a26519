//! The whole: one picker owns what is known of one InferencePool, and turns events into actions.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use crate::action::{Action, Pick, Refusal};
use crate::cost::{BYTES_PER_TOKEN_PRIOR, OUTPUT_TOKENS_PRIOR, Rates, Work};
use crate::endpoint::{Endpoint, EndpointKey, Reading};
use crate::event::{Arrival, Ending, Event, Following};
use crate::ledger::{Entry, Ledger, Load, Prefill};
use crate::member::{self, Member, Pace, Suspect, Suspicion};
use crate::receipt::{CANDIDATES_MAX, Candidate, EXCLUSIONS_MAX, End, Excluded, Outcome, Receipt};
use crate::request::{Request, RequestKey};
use crate::schedule::{self, Ask, Choice, Exclusion};
use crate::seed::Random;
use crate::time::Instant;

/// What a picker is made with.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// The seed of all chance.
    pub seed: u64,
    /// The least time between two readings of one endpoint.
    pub reading_interval_min: Duration,
}

/// What is known of one InferencePool, and what is to be done about it.
#[derive(Debug)]
pub struct Picker {
    /// In the order of their keys, which is the order in which they came.
    members: Vec<Member>,
    next_key: u32,
    ledger: Ledger,
    /// Requests in flight whose server answered elsewhere than picked.
    served: BTreeMap<RequestKey, SocketAddr>,
    actions: VecDeque<Action>,
    ties: Random,
    pace: Pace,
    /// No reading is due before this; may be too early, never too late.
    next_due: Option<Instant>,
}

/// One endpoint, as an operator wants to see it.
#[derive(Clone, Debug, Serialize)]
pub struct EndpointState {
    /// The endpoint's key.
    pub endpoint: EndpointKey,
    /// Its name.
    pub name: Arc<str>,
    /// Its address.
    pub address: SocketAddr,
    /// Ours in flight.
    pub own: Load,
    /// Requests of others, smoothed.
    pub foreign: f64,
    /// The most requests it was seen to run while others waited.
    pub slots: Option<u64>,
    /// The adapters thought to be in its slots, least recently used first.
    pub resident: Vec<Arc<str>>,
    /// Why it is suspect, if it is.
    pub suspicion: Option<Suspicion>,
    /// How old the last reading is, in milliseconds.
    pub reading_age_ms: Option<f64>,
    /// The last reading.
    pub reading: Option<Reading>,
}

impl Picker {
    /// A picker for a pool without endpoints so far.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self {
            members: Vec::new(),
            next_key: 0,
            ledger: Ledger::default(),
            served: BTreeMap::new(),
            actions: VecDeque::new(),
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
            Event::FirstToken(request) => self.ledger.first_token(now, request),
            Event::Progressed(request, generated) => self.ledger.progress(request, generated),
            Event::Ended(request, ending) => self.on_ended(now, request, ending),
            Event::Read(endpoint, reading) => {
                let own = self.ledger.load(endpoint).requests;
                self.change(endpoint, |member, pace| {
                    member.on_reading(now, reading, own, pace)
                });
            }
            Event::ReadFailed(endpoint, failure) => {
                self.change(endpoint, |member, pace| {
                    member.on_read_failed(now, failure, pace)
                });
            }
            Event::Models(endpoint, models) => {
                self.change(endpoint, |member, _| member.adapters.on_models(&models));
            }
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
        while let Some((_, request)) = self.ledger.next_release().filter(|(due, _)| *due <= now) {
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
            self.actions.push_back(Action::Read(key, address));
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
        let state = |member: &Member| EndpointState {
            endpoint: member.key,
            name: member.endpoint.name.clone(),
            address: member.endpoint.address,
            own: self.ledger.load(member.key),
            foreign: member.foreign(),
            slots: member.slots(),
            resident: member.adapters.resident().to_vec(),
            suspicion: member.suspicion(),
            reading_age_ms: member.reading().map(|(at, _)| now.ms_since(*at)),
            reading: member.reading().map(|(_, reading)| reading.clone()),
        };
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
        for endpoint in wanted.into_values() {
            let due = now + spread.mul_f64(self.pace.random.unit());
            self.next_due = earlier(self.next_due, Some(due));
            self.members
                .push(Member::new(EndpointKey(self.next_key), endpoint, due));
            self.next_key += 1;
        }
    }

    fn on_arrived(&mut self, now: Instant, arrival: Arrival) {
        self.ledger.pass(now);
        let work = work(&arrival);
        let ask = Ask {
            model: arrival.request.model.as_deref(),
            subset: arrival.subset.as_ref(),
            work,
        };
        let choice = schedule::choose(now, &self.members, &self.ledger, &ask, &mut self.ties);
        let receipt = Box::new(self.receipt(now, &arrival, work, &choice));
        let Some(taken) = choice.priced.first() else {
            let refusal = if self.members.is_empty() {
                Refusal::NoEndpoints
            } else {
                Refusal::EmptySubset
            };
            self.actions
                .push_back(Action::Refused(arrival.key, refusal, receipt));
            return;
        };
        let fallbacks = self.fallbacks(&choice, arrival.fallbacks);
        let member = &mut self.members[taken.index];
        if let Some(model) = arrival.request.model.as_deref() {
            member.adapters.on_pick(model);
        }
        self.ledger.open(
            arrival.key,
            Entry {
                request_id: arrival.request_id,
                endpoint: member.key,
                opened: now,
                following: arrival.following,
                expected_end: now + ms(expected_ms(&receipt, taken)),
                prompt_tokens: receipt.prompt_tokens,
                output_tokens: receipt.output_tokens,
                generated: 0,
                prefill: prefill(now, &arrival.request, arrival.following, &receipt),
                first_token: None,
            },
        );
        member.on_own(taken.load.requests + 1);
        member.hasten(now, member::BEAT_OWN, &mut self.pace);
        self.next_due = earlier(self.next_due, member.due());
        self.actions.push_back(Action::Picked(Pick {
            request: arrival.key,
            endpoint: member.key,
            address: member.endpoint.address,
            fallbacks,
            receipt,
        }));
    }

    /// At most `count` of the endpoints that were not taken, by cost; those whose IP address none before them has go first.
    fn fallbacks(&self, choice: &Choice, count: usize) -> Vec<SocketAddr> {
        if count == 0 {
            return Vec::new();
        }
        let address = |one: &schedule::Priced| self.members[one.index].endpoint.address;
        let mut hosts: Vec<IpAddr> = choice
            .priced
            .iter()
            .take(1)
            .map(|one| address(one).ip())
            .collect();
        let (mut apart, mut beside) = (Vec::new(), Vec::new());
        for address in choice.priced.iter().skip(1).map(address) {
            if hosts.contains(&address.ip()) {
                beside.push(address);
            } else {
                hosts.push(address.ip());
                apart.push(address);
            }
            if apart.len() == count {
                break;
            }
        }
        apart.extend(beside);
        apart.truncate(count);
        apart
    }

    /// The debit moves to the endpoint that serves; the picked one did not take the request, so it is suspect.
    fn on_served(&mut self, now: Instant, request: RequestKey, address: SocketAddr) {
        let Some(picked) = self.ledger.entry(request).map(|entry| entry.endpoint) else {
            return;
        };
        let server = self
            .members
            .iter()
            .find(|member| member.endpoint.address == address);
        let server = server.map(|member| member.key);
        if server == Some(picked) {
            return;
        }
        self.served.insert(request, address);
        self.change(picked, |member, _| {
            member.suspect(now, Suspect::Unreachable)
        });
        if let Some(server) = server {
            self.ledger.serve_elsewhere(request, server);
            let own = self.ledger.load(server).requests;
            self.change(server, |member, pace| {
                member.on_own(own);
                member.hasten(now, member::BEAT_OWN, pace);
            });
        }
    }

    fn on_ended(&mut self, now: Instant, request: RequestKey, ending: Ending) {
        self.close(now, request, ending.end(), ending);
    }

    fn close(&mut self, now: Instant, request: RequestKey, end: End, ending: Ending) {
        let Some(entry) = self.ledger.close(request) else {
            return;
        };
        let served = self.served.remove(&request);
        if ending.unreachable() && entry.first_token.is_none() && served.is_none() {
            self.change(entry.endpoint, |member, _| {
                member.suspect(now, Suspect::Unreachable)
            });
        }
        let outcome = Outcome {
            end,
            status: ending.status,
            served,
            ttft_ms: entry.first_token.map(|at| at.ms_since(entry.opened)),
            duration_ms: now.ms_since(entry.opened),
            prompt_tokens: ending.prompt_tokens,
            generated: ending
                .generated
                .or((entry.generated > 0).then_some(entry.generated)),
        };
        self.actions
            .push_back(Action::Settled(request, entry.request_id, outcome));
    }

    /// Changes what is known of an endpoint, if it is still there, and keeps track of when it is due.
    fn change(&mut self, key: EndpointKey, change: impl FnOnce(&mut Member, &mut Pace)) {
        // Members stand in the order of their keys.
        let place = self.members.binary_search_by_key(&key, |member| member.key);
        if let Ok(place) = place {
            let member = &mut self.members[place];
            change(member, &mut self.pace);
            self.next_due = earlier(self.next_due, member.due());
        }
    }

    fn receipt(&self, now: Instant, arrival: &Arrival, work: Work, choice: &Choice) -> Receipt {
        let candidate = |one: &schedule::Priced| Candidate {
            endpoint: self.members[one.index].key,
            name: self.members[one.index].endpoint.name.clone(),
            address: self.members[one.index].endpoint.address,
            cost_ms: one.cost_ms,
            cost: one.cost,
            own: one.load.requests,
            foreign: one.foreign,
            adapter: one.adapter,
        };
        let excluded = |&(index, reason): &(usize, Exclusion)| Excluded {
            name: self.members[index].endpoint.name.clone(),
            address: self.members[index].endpoint.address,
            reason,
        };
        let taken = choice.priced.first();
        let runner_up = choice.priced.get(1);
        Receipt {
            key: arrival.key,
            request_id: arrival.request_id.clone(),
            at_ns: now.as_nanos(),
            request: arrival.request.clone(),
            prompt_tokens: work.prompt_tokens as u64,
            output_tokens: work.output_tokens as u64,
            endpoints: self.members.len(),
            candidates: choice
                .priced
                .iter()
                .take(CANDIDATES_MAX)
                .map(candidate)
                .collect(),
            candidate_count: choice.priced.len(),
            ties: choice.ties,
            margin_ms: taken
                .zip(runner_up)
                .map(|(taken, other)| other.cost_ms - taken.cost_ms),
            exclusions: choice
                .excluded
                .iter()
                .take(EXCLUSIONS_MAX)
                .map(excluded)
                .collect(),
            exclusion_count: choice.excluded.len(),
            expected_ttft_ms: taken.map(|taken| taken.cost.ttft_ms(&Rates::PRIOR, taken.adapter)),
            following: taken.map(|_| arrival.following),
            outcome: None,
        }
    }
}

impl Ending {
    /// Whether it looks as if no server had been there: the statuses by which proxies say so.
    fn unreachable(&self) -> bool {
        matches!(self.status, Some(502..=504))
    }

    fn end(&self) -> End {
        if self.error_inside || self.status.is_some_and(|status| status >= 500) {
            End::Failed
        } else if self.complete {
            End::Completed
        } else {
            End::Abandoned
        }
    }
}

/// The earlier of two moments that may never come.
fn earlier(one: Option<Instant>, other: Option<Instant>) -> Option<Instant> {
    one.into_iter().chain(other).min()
}

/// How the end of a request's prefill will be known.
fn prefill(now: Instant, request: &Request, following: Following, receipt: &Receipt) -> Prefill {
    if request.streamed && following == Following::Full {
        return Prefill::Watched;
    }
    Prefill::Until(now + ms(receipt.expected_ttft_ms.unwrap_or_default()))
}

/// How long the request is expected to take in all, where it is taken.
fn expected_ms(receipt: &Receipt, taken: &schedule::Priced) -> f64 {
    let step_ms = Rates::PRIOR.step(taken.load.requests as f64 + taken.foreign + 1.0);
    receipt.expected_ttft_ms.unwrap_or_default() + receipt.output_tokens as f64 * step_ms
}

/// A span of `ms` milliseconds.
fn ms(ms: f64) -> Duration {
    Duration::try_from_secs_f64(ms / 1e3).unwrap_or(Duration::MAX)
}

/// The work that a request is expected to be.
fn work(arrival: &Arrival) -> Work {
    let limit = arrival
        .request
        .max_tokens
        .map_or(OUTPUT_TOKENS_PRIOR, u64::from);
    Work {
        prompt_tokens: arrival.request.prompt_tokens(BYTES_PER_TOKEN_PRIOR) as f64,
        output_tokens: limit.min(OUTPUT_TOKENS_PRIOR) as f64,
    }
}
